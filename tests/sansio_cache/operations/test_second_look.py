"""Second look: an entry of another key is foreign where a fresh connection finds it, too."""

from __future__ import annotations

import pytest

from sansio_cache.cell import FOREIGN
from sansio_cache.commands import ReadCell
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellRead, FailureKind, Interrupted, Ponged, StoreFailed
from sansio_cache.notices import EntryForeign, RepliesCrossed, StoreErrored
from sansio_cache.operations.second_look import Doubt, look_again
from sansio_cache.step import Abandoned, Completed
from support.machines import KEY, Script, value_cell

OTHERS = value_cell(7, key="shop:user:2")
DOUBT = Doubt(KEY, OTHERS.filled_by.hex())


def looking():
    return Script(look_again(DOUBT, 0.25))


def test_it_reads_the_key_once_more():
    assert looking().command == ReadCell(KEY, 0.25)


def test_an_entry_that_is_found_again_is_foreign():
    script = looking().give(CellRead(1.0, OTHERS, 0))
    assert script.outcome == Completed()
    assert script.notices == [EntryForeign(KEY, DOUBT.seen)]


@pytest.mark.parametrize(
    "cell",
    [None, FOREIGN, value_cell(7), value_cell(7, key="shop:user:2", filled_by=b"a later fill....")],
    ids=["nothing", "no entry", "its own entry", "another of another key"],
)
def test_anything_else_says_that_the_reply_was_another_s(cell):
    script = looking().give(CellRead(1.0, cell, 0))
    assert script.notices == [RepliesCrossed(KEY)]


def test_without_an_answer_the_worse_is_assumed():
    script = looking().give(StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.outcome == Completed()
    assert script.notices == [StoreErrored(FailureKind.TIMEOUT), RepliesCrossed(KEY)]
    script = looking().give(Interrupted(1.0))
    assert script.outcome == Abandoned()
    assert script.notices == [RepliesCrossed(KEY)]


def test_what_answers_another_command_is_refused():
    with pytest.raises(ProtocolError):
        looking().give(Ponged(1.0))
