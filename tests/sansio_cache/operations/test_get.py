"""Get: one read, retried within the budget, and never an exception for what is stored."""

from __future__ import annotations

import pytest

from sansio_cache.cell import FOREIGN, Cell, Kind
from sansio_cache.commands import ReadCell
from sansio_cache.entry import MissReason
from sansio_cache.events import CellRead, FailureKind, Interrupted, StoreFailed
from sansio_cache.notices import Ended, Hit, Missed, OperationName, StoreErrored, StoreGaveUp
from sansio_cache.operations.get import get
from sansio_cache.step import Abandoned, Missing, Value
from support.machines import INTS, KEY, PATIENCE, TEXTS, Script, value_cell


def begun():
    return Script(get(KEY, INTS, patience=PATIENCE, now_s=10.0))


def test_a_fresh_value_is_a_hit_in_one_round_trip():
    script = begun()
    assert script.command == ReadCell(KEY, 0.1)
    script.give(CellRead(10.5, value_cell(7), None))
    assert script.command is None
    assert script.outcome == Value(7)
    assert script.notices == [Hit(KEY), Ended(OperationName.GET, 0.5)]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, MissReason.ABSENT),
        (Cell(Kind.EMPTY), MissReason.ABSENT),
        (Cell(Kind.HOLD), MissReason.ABSENT),
        (FOREIGN, MissReason.FOREIGN),
        (value_cell(7, soft_ms=999), MissReason.EXPIRED),
        (value_cell(7, key="shop:user:2"), MissReason.KEY_CHECK),
        (value_cell("a", codec=TEXTS), MissReason.SCHEMA),
        (Cell(Kind.VALUE, body=b"short"), MissReason.CORRUPT),
    ],
)
def test_a_cell_that_gives_no_fresh_value_is_a_miss_with_its_one_reason(cell, reason):
    script = begun().give(CellRead(10.0, cell, 1_000))
    assert script.outcome == Missing()
    assert script.notices == [Missed(KEY, reason), Ended(OperationName.GET, 0.0)]


def test_a_failed_read_is_tried_again_within_the_budget_and_then_given_up():
    script = begun()
    script.give(StoreFailed(10.125, FailureKind.TIMEOUT))
    assert script.command == ReadCell(KEY, 0.1)
    script.give(StoreFailed(10.1875, FailureKind.CONNECTION))
    assert script.command == ReadCell(KEY, 0.0625)  # what is left of 250 ms
    script.give(StoreFailed(10.25, FailureKind.CONNECTION))
    assert script.outcome == Missing()
    assert script.notices == [
        StoreErrored(FailureKind.TIMEOUT),
        StoreErrored(FailureKind.CONNECTION),
        StoreErrored(FailureKind.CONNECTION),
        StoreGaveUp(FailureKind.CONNECTION),
        Missed(KEY, MissReason.STORE_ERROR),
        Ended(OperationName.GET, 0.25),
    ]


def test_a_read_that_succeeds_at_the_second_try_is_a_hit():
    script = begun().give(StoreFailed(10.0, FailureKind.CONNECTION), CellRead(10.0, value_cell(7), None))
    assert script.outcome == Value(7)
    assert script.notices == [
        StoreErrored(FailureKind.CONNECTION),
        Hit(KEY),
        Ended(OperationName.GET, 0.0),
    ]


def test_a_read_that_the_server_refuses_is_not_repeated():
    script = begun().give(StoreFailed(10.0, FailureKind.PERMISSION))
    assert script.outcome == Missing()


def test_an_interrupted_read_ends_at_once():
    script = begun().give(Interrupted(10.0))
    assert script.outcome == Abandoned()
    assert script.notices == []


def test_a_skipped_get_asks_nothing_and_counts_one_miss():
    script = Script(get(KEY, INTS, patience=PATIENCE, now_s=10.0, skip=MissReason.DISABLED))
    assert script.command is None
    assert script.outcome == Missing()
    assert script.notices == [Missed(KEY, MissReason.DISABLED), Ended(OperationName.GET, 0.0)]
