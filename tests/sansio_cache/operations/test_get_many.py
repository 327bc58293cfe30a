"""Get many: chunks in order, each key counted once, what was read is kept."""

from __future__ import annotations

import pytest

from sansio_cache.cell import FOREIGN
from sansio_cache.commands import ReadCells
from sansio_cache.entry import MissReason
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellsRead, FailureKind, Interrupted, StoreFailed
from sansio_cache.notices import Ended, Hit, Missed, OperationName, StoreErrored, StoreGaveUp
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.step import Abandoned, ManyRead, Missing, Value
from support.machines import INTS, PATIENCE, TEXTS, Script, value_cell

KEYS = ("shop:a", "shop:b", "shop:c")


def request(keys=KEYS, chunk=2):
    return ReadManyRequest(keys, INTS, chunk, PATIENCE, 5.0)


def test_keys_are_read_a_chunk_at_a_time_and_values_come_in_order():
    script = Script(get_many(request()))
    assert script.command == ReadCells(("shop:a", "shop:b"), 0.1)
    script.give(CellsRead(6.0, (value_cell(1, "shop:a"), None), None))
    assert script.command == ReadCells(("shop:c",), 0.1)
    script.give(CellsRead(7.0, (value_cell(3, "shop:c"),), None))
    assert script.outcome == ManyRead((Value(1), Missing(), Value(3)))
    assert script.notices == [
        Hit("shop:a"),
        Missed("shop:b", MissReason.ABSENT),
        Hit("shop:c"),
        Ended(OperationName.GET_MANY, 2.0),
    ]


def test_each_unservable_cell_is_a_miss_with_its_own_reason():
    cells = (value_cell(1, "shop:a", soft_ms=10), FOREIGN, value_cell("x", "shop:c", codec=TEXTS))
    script = Script(get_many(request(chunk=3))).give(CellsRead(5.0, cells, 11))
    assert script.outcome == ManyRead((Missing(), Missing(), Missing()))
    assert [each.reason for each in script.notices if isinstance(each, Missed)] == [
        MissReason.EXPIRED,
        MissReason.FOREIGN,
        MissReason.SCHEMA,
    ]


def test_a_chunk_that_fails_is_retried_and_then_the_rest_is_missing():
    script = Script(get_many(request())).give(
        CellsRead(5.0, (value_cell(1, "shop:a"), value_cell(2, "shop:b")), None),
        StoreFailed(5.0, FailureKind.TIMEOUT),
    )
    assert script.command == ReadCells(("shop:c",), 0.1)
    script.give(StoreFailed(5.5, FailureKind.TIMEOUT))
    assert script.outcome == ManyRead((Value(1), Value(2), Missing()))
    assert script.notices == [
        Hit("shop:a"),
        Hit("shop:b"),
        StoreErrored(FailureKind.TIMEOUT),
        StoreErrored(FailureKind.TIMEOUT),
        StoreGaveUp(FailureKind.TIMEOUT),
        Missed("shop:c", MissReason.STORE_ERROR),
        Ended(OperationName.GET_MANY, 0.5),
    ]


def test_every_chunk_has_a_budget_of_its_own():
    script = Script(get_many(request(chunk=1))).give(
        StoreFailed(5.0, FailureKind.CONNECTION),
        StoreFailed(5.0, FailureKind.CONNECTION),
        CellsRead(5.0, (None,), None),
        StoreFailed(5.0, FailureKind.CONNECTION),
        StoreFailed(5.0, FailureKind.CONNECTION),
    )
    assert script.command == ReadCells(("shop:b",), 0.1)


def test_no_keys_are_read_without_asking():
    script = Script(get_many(request(keys=())))
    assert script.command is None
    assert script.outcome == ManyRead(())
    assert script.notices == [Ended(OperationName.GET_MANY, 0.0)]


def test_a_skipped_get_many_counts_one_miss_a_key():
    script = Script(get_many(request(), skip=MissReason.STORE_ERROR))
    assert script.command is None
    assert script.outcome == ManyRead((Missing(),) * 3)
    assert script.notices == [
        *(Missed(key, MissReason.STORE_ERROR) for key in KEYS),
        Ended(OperationName.GET_MANY, 0.0),
    ]


def test_an_interrupted_get_many_ends_at_once():
    assert Script(get_many(request())).give(Interrupted(5.0)).outcome == Abandoned()


@pytest.mark.parametrize("cells", [(), (None,), (None, None, None)])
def test_an_answer_with_another_number_of_cells_breaks_the_contract(cells):
    with pytest.raises(ProtocolError):
        Script(get_many(request())).give(CellsRead(5.0, cells, None))
