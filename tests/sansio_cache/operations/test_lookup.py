"""Looking up with a touch: what others change between the look and the touch."""

from __future__ import annotations

import pytest

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import Cell, Kind, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import InspectCell, TouchCell
from sansio_cache.entry import seal
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import OperationName
from sansio_cache.operations.lookup import MOST_LOOKS, Longer, LookRequest, look
from sansio_cache.step import Looked

KEY, NOW_S = "n:a", 1_000.0
CODEC = codec_for(int, 64)


def changed(store, number):
    """Another has replaced the value."""
    body = seal(KEY, CODEC, CODEC.encode(number).payload, 0.0)
    cell = Cell(Kind.VALUE, filled_by=make_grant(b"another1", number), body=body)
    store.plant(KEY, cell, int(NOW_S * 1000) + 60_000)


def touched(changes, operation):
    """Let an entry live longer that is changed so often before the touch: the outcome, and what was asked."""
    store, asked = MemoryStore(lambda: NOW_S), []
    changed(store, 1)
    longer = Longer(120_000, 10**10, b"toucher1")
    step = look(LookRequest(KEY, CODEC, StoreTimeouts(), NOW_S, operation, longer=longer))
    while step.command is not None:
        asked.append(type(step.command))
        if isinstance(step.command, TouchCell) and len(asked) // 2 <= changes:
            changed(store, 1 + len(asked))
        step = step.state.receive(store.perform(step.command))
    assert isinstance(step.outcome, Looked)
    return step.outcome, asked


@pytest.mark.parametrize("changes", [0, 1, MOST_LOOKS - 1])
def test_a_touch_looks_again_where_another_has_changed_the_value(changes):
    outcome, asked = touched(changes, OperationName.TOUCH)
    assert outcome.touched
    assert asked == [InspectCell, TouchCell] * (changes + 1)


def test_a_touch_that_is_overtaken_each_time_ends_and_says_so():
    outcome, asked = touched(10**6, OperationName.TOUCH)
    assert not outcome.touched
    assert asked == [InspectCell, TouchCell] * MOST_LOOKS


def test_who_reads_has_a_value_and_does_not_look_again():
    outcome, asked = touched(1, OperationName.GET)
    assert not outcome.touched
    assert outcome.lookup.value == 1
    assert asked == [InspectCell, TouchCell]
