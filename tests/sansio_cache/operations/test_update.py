"""Updates and scans, event by event; what callers see is in `test_primitives.py`."""

import pytest

from sansio_cache.commands import Compute, Sleep, SwapCell
from sansio_cache.errors import SerializationError
from sansio_cache.events import (
    CellInspected,
    CellsRead,
    CellSwapped,
    Computed,
    FailureKind,
    KeysFound,
    StoreFailed,
    TagsRead,
)
from sansio_cache.keys import KeyBuilder
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.scan import scan
from sansio_cache.operations.set_many import Item
from sansio_cache.operations.swap import SwapRequest, swap
from sansio_cache.operations.update import UpdateRequest, refuse_nothing, update
from sansio_cache.step import PageFound, Raised, TookTooLong, Unknown
from support.machines import INTS, KEY, NONCE, THEIRS, TIMEOUTS, Script, value_cell

FOUND = CellInspected(0.0, value_cell(7), 60_000, 1_000)
V1, V2 = b"v" * 16, b"w" * 16


def updating(amount=1):
    return Script(update(UpdateRequest(KEY, INTS, 0, 0, NONCE, 1, 30.0, TIMEOUTS, 0.0, amount)))


def test_what_is_computed_replaces_the_very_value_that_it_was_computed_from():
    script = updating().give(FOUND)
    assert isinstance(script.command, SwapCell)
    assert script.command.version == THEIRS
    assert script.command.body.endswith(b"8")


def test_who_is_overtaken_for_too_long_gives_up():
    script = updating().give(FOUND, CellSwapped(0.0, None))
    assert isinstance(script.command, Sleep)
    late = updating().give(FOUND, CellSwapped(31.0, None))
    assert late.outcome == TookTooLong(31.0)


def test_nothing_takes_the_place_of_a_value():
    script = updating(amount=None).give(FOUND)
    assert isinstance(script.command, Compute)
    assert script.command.previous == 7
    script.give(Computed(0.0, None))
    assert isinstance(script.outcome, Raised)
    assert isinstance(script.outcome.error, SerializationError)
    with pytest.raises(SerializationError, match="None is nothing"):
        refuse_nothing(None)


def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_done():
    lost, refused = StoreFailed(0.0, FailureKind.TIMEOUT), StoreFailed(0.0, FailureKind.OUT_OF_MEMORY)
    assert updating().give(FOUND, lost, refused).outcome == Unknown(FailureKind.OUT_OF_MEMORY)
    request = SwapRequest(Item(KEY, INTS, b"8", 0, 0), THEIRS, NONCE, TIMEOUTS, 0.0)
    assert Script(swap(request)).give(lost, refused).outcome == Unknown(FailureKind.OUT_OF_MEMORY)


def test_a_page_tells_entries_whose_tags_hold_from_those_whose_do_not():
    keys = ("shop:a", "shop:b", "shop:c")
    cells = (
        value_cell(1, keys[0]),
        value_cell(1, keys[1], versions=(("t:x", V1),)),
        value_cell(1, keys[2], versions=(("t:y", V1),)),
    )
    script = Script(scan(PatternRequest(KeyBuilder("shop"), "shop:*", 500, TIMEOUTS, 0.0), 0))
    script.give(KeysFound(0.0, 7, keys), CellsRead(0.0, cells, 1_000), TagsRead(0.0, (V1, V2), 1_000))
    assert script.outcome == PageFound(7, (("shop:a", "fresh"), ("shop:b", "fresh")))
