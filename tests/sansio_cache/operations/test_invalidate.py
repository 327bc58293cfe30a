"""Invalidate: always tries, is not stopped by cancellation, and never fails silently."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sansio_cache.commands import DeleteKeys, ExpireCells
from sansio_cache.entry import MissReason
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellsExpired, FailureKind, Interrupted, KeysDeleted, StoreFailed
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import (
    Ended,
    Invalidated,
    InvalidationFailed,
    OperationName,
    SoftExpired,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate, void
from sansio_cache.step import Abandoned, ManyInvalidated
from support.machines import TIMEOUTS, Script

KEYS = ("shop:a", "shop:b", "shop:c")


def request(keys=KEYS, chunk=2):
    return InvalidateRequest(OperationName.INVALIDATE, keys, chunk, TIMEOUTS, 1.0)


def test_keys_are_removed_a_chunk_at_a_time():
    script = Script(invalidate(request()))
    assert script.command == DeleteKeys(("shop:a", "shop:b"), 0.25)
    script.give(KeysDeleted(1.0, 0))
    assert script.command == DeleteKeys(("shop:c",), 0.25)
    script.give(KeysDeleted(3.0, 1))
    assert script.outcome == ManyInvalidated(KEYS, ())
    assert script.notices == [
        Invalidated(("shop:a", "shop:b")),
        Invalidated(("shop:c",)),
        Ended(OperationName.INVALIDATE, 2.0),
    ]


def test_a_removal_is_retried_and_then_the_rest_is_to_be_pending():
    script = Script(invalidate(request())).give(KeysDeleted(1.0, 2), StoreFailed(1.0, FailureKind.CONNECTION))
    assert script.command == DeleteKeys(("shop:c",), 0.25)
    script.give(StoreFailed(1.5, FailureKind.CONNECTION))
    assert script.outcome == ManyInvalidated(("shop:a", "shop:b"), ("shop:c",))
    assert script.notices == [
        Invalidated(("shop:a", "shop:b")),
        StoreErrored(FailureKind.CONNECTION),
        StoreErrored(FailureKind.CONNECTION),
        StoreGaveUp(FailureKind.CONNECTION),
        InvalidationFailed(("shop:c",)),
        Ended(OperationName.INVALIDATE, 0.5),
    ]


def test_an_interruption_does_not_stop_it_and_it_ends_as_abandoned():
    script = Script(invalidate(request())).give(Interrupted(1.0))
    assert script.command == DeleteKeys(("shop:a", "shop:b"), 0.25)
    script.give(KeysDeleted(1.0, 2), KeysDeleted(1.0, 1))
    assert script.outcome == Abandoned()
    assert script.notices == [Invalidated(("shop:a", "shop:b")), Invalidated(("shop:c",))]


def test_interrupted_again_and_again_it_ends_with_its_budget():
    script = Script(invalidate(request())).give(Interrupted(1.0), Interrupted(1.125), Interrupted(1.25))
    assert script.command == DeleteKeys(("shop:a", "shop:b"), 0.0)
    script.give(StoreFailed(1.25, FailureKind.TIMEOUT))
    assert script.outcome == Abandoned()
    assert script.notices[-1] == InvalidationFailed(KEYS)


@pytest.mark.parametrize(
    ("keys", "skip"), [((), None), ((), MissReason.STORE_ERROR), (KEYS, MissReason.DISABLED)]
)
def test_nothing_to_do_asks_nothing(keys, skip):
    script = Script(invalidate(request(keys), skip=skip))
    assert script.command is None
    assert script.outcome == ManyInvalidated((), ())
    assert script.notices == [Ended(OperationName.INVALIDATE, 0.0)]


@pytest.mark.parametrize("soft", [False, True], ids=["removal", "soft expiry"])
def test_where_the_store_is_known_to_be_out_the_keys_are_pending_and_nobody_waits(soft):
    """S1."""
    script = Script(invalidate(replace(request(KEYS), soft=soft), skip=MissReason.STORE_ERROR))
    assert script.outcome == ManyInvalidated((), KEYS)
    assert script.notices == [
        InvalidationFailed(KEYS, was_tried=False),
        Ended(OperationName.INVALIDATE, 0.0),
    ]


def test_cleaning_up_after_another_operation_is_not_an_operation_of_the_users():
    script = Script(void(KEYS, TIMEOUTS, 1.0))
    assert script.command == DeleteKeys(KEYS, 0.25)
    script.give(KeysDeleted(1.0, 3))
    assert script.outcome == Abandoned()
    assert script.notices == [Invalidated(KEYS)]


class TestSoftly:
    """Values are made stale instead, which voids loads, too."""

    def begun(self, **options):
        request = InvalidateRequest(OperationName.EXPIRE, KEYS, 2, TIMEOUTS, 1.0, soft=True)
        return Script(invalidate(request, **options))

    def test_keys_are_expired_a_chunk_at_a_time(self):
        script = self.begun()
        assert script.command == ExpireCells(("shop:a", "shop:b"), 0.25)
        script.give(CellsExpired(1.0, 1))
        assert script.command == ExpireCells(("shop:c",), 0.25)
        script.give(CellsExpired(3.0, 0))
        assert script.outcome == ManyInvalidated(KEYS, ())
        assert script.notices == [
            SoftExpired(("shop:a", "shop:b")),
            SoftExpired(("shop:c",)),
            Ended(OperationName.EXPIRE, 2.0),
        ]

    def test_what_the_store_cannot_be_told_of_is_to_be_pending(self):
        script = self.begun().give(CellsExpired(1.0, 1), StoreFailed(1.0, FailureKind.WRITES_REFUSED))
        assert script.outcome == ManyInvalidated(("shop:a", "shop:b"), ("shop:c",))
        assert InvalidationFailed(("shop:c",)) in script.notices

    def test_an_interruption_does_not_stop_it(self):
        script = self.begun().give(Interrupted(1.0))
        assert script.command == ExpireCells(("shop:a", "shop:b"), 0.25)
        script.give(CellsExpired(1.0, 1), CellsExpired(1.0, 1))
        assert script.outcome == Abandoned()

    def test_a_disabled_cache_is_not_asked(self):
        assert self.begun(skip=MissReason.DISABLED).outcome == ManyInvalidated((), ())

    def test_neither_takes_the_others_answer(self):
        with pytest.raises(ProtocolError):
            self.begun().give(KeysDeleted(1.0, 2))
        with pytest.raises(ProtocolError):
            Script(invalidate(request())).give(CellsExpired(1.0, 2))


def test_what_could_not_be_removed_says_why():
    cause = OSError("refused")
    failed = StoreFailed(0.0, FailureKind.PERMISSION, ONE_PART, "h:1 does not permit it", cause)
    script = Script(invalidate(request())).give(KeysDeleted(0.0, 2), failed)
    assert script.outcome == ManyInvalidated(KEYS[:2], KEYS[2:], "h:1 does not permit it", cause)
