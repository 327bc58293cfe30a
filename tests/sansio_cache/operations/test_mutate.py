"""Mutate: held while the database is written; at the end, stored or removed (S6)."""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sansio_cache.cell import make_grant
from sansio_cache.commands import Capture, DeleteKeys, FillCells, HoldCells, Lease, RenewLeases, Sleep
from sansio_cache.entry import MissReason, seal
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    FailureKind,
    FillResult,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    StoreFailed,
    Woke,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Ended,
    FillRefused,
    Invalidated,
    InvalidationFailed,
    OperationName,
    Stored,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.renewal import renew, unrenewed_hold_ms
from sansio_cache.operations.set_many import Item
from sansio_cache.step import Abandoned, ManyHeld, ManyInvalidated, Missing
from support.machines import NONCE, TEXTS, TIMEOUTS, Clock, Process, Script

KEYS = ("shop:a", "shop:b")
TAG_KEYS = ("shop:%t:a", "shop:%g:user")
G1, G2 = make_grant(NONCE, 1), make_grant(NONCE, 2)
A, B = (Item(f"shop:{name}", TEXTS, b'"%s"' % name.encode(), 60_000, 0) for name in "ab")


def begun(keys=KEYS, *, value_tags=(), **options):
    ttl_ms = 9_000 if value_tags else 0
    request = MutateRequest(keys, NONCE, 3_000, 60.0, TIMEOUTS, 1.0, value_tags, ttl_ms)
    return Script(begin(request, **options))


def ending(*items, keys=KEYS, grants=(G1, G2), tags=(), versions=(), hold_ms=0):
    return Script(end(EndRequest(keys, grants, items, TIMEOUTS, 1.0, tags, versions, hold_ms)))


def test_it_begins_with_a_hold_on_every_key_and_renews_them_until_the_longest_time():
    script = begun()
    assert script.command == HoldCells(KEYS, NONCE, 3_000, 0.25)
    script.give(HoldsTaken(2.0, (G1, G2)))
    held = script.outcome
    assert isinstance(held, ManyHeld)
    assert held.grants == (G1, G2)
    renewal = Script(renew(held.renewal))
    assert renewal.command == Sleep(1.0)
    renewal.give(Woke(61.9))
    assert renewal.command == RenewLeases((Lease("shop:a", G1), Lease("shop:b", G2)), 3_000, 0.25)
    assert Script(renew(held.renewal)).give(Woke(62.0)).command is None


def test_a_hold_is_retried_with_the_same_nonce():
    script = begun().give(StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.command == HoldCells(KEYS, NONCE, 3_000, 0.25)


def test_where_the_store_cannot_be_asked_the_block_runs_without_holds():
    script = begun().give(StoreFailed(1.0, FailureKind.UNAVAILABLE))
    assert script.outcome == ManyHeld(None, None)
    assert script.notices == [
        StoreErrored(FailureKind.UNAVAILABLE),
        StoreGaveUp(FailureKind.UNAVAILABLE),
    ]


def test_interrupted_before_the_block_it_removes_the_keys():
    script = begun().give(Interrupted(1.0))
    assert script.command == DeleteKeys(KEYS, 0.25)
    assert script.give(KeysDeleted(1.0, 2)).outcome == Abandoned()


@pytest.mark.parametrize(("keys", "skip"), [((), False), (KEYS, True)])
def test_nothing_to_hold_asks_nothing(keys, skip):
    script = begun(keys, skip=skip)
    assert script.command is None
    assert script.outcome == ManyHeld(None, None)
    assert script.notices == []


def test_what_a_store_that_compares_has_found_changed_is_asked_for_again_by_its_grant():
    """S6: what is refused then is removed, and what was stored at first stays."""
    script = ending(A, B, hold_ms=3_000)
    assert script.command == FillCells((A.under(G1, (), 3_000), B.under(G2, (), 3_000)), 0.25)
    script.give(CellsFilled(1.05, (FillResult.STORED, FillResult.CHANGED)))
    assert script.command == FillCells((B.under(G2),), pytest.approx(0.2))
    script.give(CellsFilled(1.1, (FillResult.REFUSED,)))
    assert script.command == DeleteKeys(("shop:b",), pytest.approx(0.15))
    assert [type(notice) for notice in script.notices] == [Stored, FillRefused]


def test_at_the_end_what_was_set_is_stored_and_the_rest_is_removed():
    script = ending(A)
    assert script.command == FillCells((A.under(G1),), 0.25)
    script.give(CellsFilled(1.0, (FillResult.STORED,)))
    assert script.command == DeleteKeys(("shop:b",), 0.25)
    script.give(KeysDeleted(1.0, 1))
    assert script.outcome == ManyInvalidated(("shop:b",), ())
    assert script.notices == [
        Stored("shop:a", ANY, ANY),
        Invalidated(("shop:b",)),
        Ended(OperationName.MUTATE, 0.0),
    ]


def test_a_refused_fill_voids_the_cell():
    """S6: another writer came between, and nobody can say which of them committed last."""
    script = ending(A, B).give(CellsFilled(1.0, (FillResult.REFUSED, FillResult.ALREADY_STORED)))
    assert script.notices == [FillRefused("shop:a"), Stored("shop:b", ANY, ANY)]
    assert script.command == DeleteKeys(("shop:a",), 0.25)


def test_where_everything_was_stored_nothing_is_removed():
    script = ending(A, B).give(CellsFilled(2.0, (FillResult.STORED, FillResult.STORED)))
    assert script.outcome == ManyInvalidated((), ())
    assert script.notices[:2] == [Stored("shop:a", ANY, ANY), Stored("shop:b", ANY, ANY)]


def test_the_time_that_its_end_took_is_that_of_fill_and_removal_together():
    script = ending(A, B).give(CellsFilled(1.5, (FillResult.STORED, FillResult.STORED)))
    assert script.notices[-1] == Ended(OperationName.MUTATE, 0.5)
    script = ending(A).give(CellsFilled(1.125, (FillResult.STORED,)), KeysDeleted(1.25, 1))
    assert script.notices[-1] == Ended(OperationName.MUTATE, 0.25)


def test_fill_and_removal_share_the_time_of_one_step():
    """L5: the end takes no longer than one step may, and so does the beginning."""
    script = ending(A).give(CellsFilled(1.0625, (FillResult.STORED,)))
    assert script.command == DeleteKeys(("shop:b",), 0.1875)
    script.give(StoreFailed(1.125, FailureKind.TIMEOUT))
    assert script.command == DeleteKeys(("shop:b",), 0.125)
    script = ending(A, B).give(StoreFailed(1.125, FailureKind.OUT_OF_MEMORY))
    assert script.command == DeleteKeys(KEYS, 0.125)


@pytest.mark.parametrize("answer", [CellsFilled(1.1875, (FillResult.STORED,)), None])
def test_where_the_fill_was_slow_the_removal_is_left_to_the_background(answer):
    """It would likely take as long once more: the keys are pending when the call returns."""
    script = ending(A, tags=TAG_KEYS).give(answer or StoreFailed(1.25, FailureKind.OVERLOADED))
    gone = ("shop:b", *TAG_KEYS) if answer else (*KEYS, *TAG_KEYS)
    assert script.outcome == ManyInvalidated((), gone)
    assert InvalidationFailed(gone, was_tried=False) in script.notices
    assert isinstance(script.notices[-1], Ended)


@pytest.mark.parametrize(("items", "grants"), [((), (G1, G2)), ((A,), None)], ids=["nothing set", "no holds"])
def test_without_a_value_or_a_hold_all_keys_are_removed(items, grants):
    script = ending(*items, grants=grants)
    assert script.command == DeleteKeys(KEYS, 0.25)


def test_no_keys_end_without_asking():
    script = ending(keys=(), grants=None)
    assert script.command is None
    assert script.outcome == ManyInvalidated((), ())


def test_a_fill_that_fails_for_good_removes_all_keys():
    script = ending(A, B).give(StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.command == FillCells((A.under(G1), B.under(G2)), 0.25)
    script.give(StoreFailed(1.0, FailureKind.OUT_OF_MEMORY))
    assert script.command == DeleteKeys(KEYS, 0.25)
    script.give(StoreFailed(3.0, FailureKind.TIMEOUT))
    assert script.outcome == ManyInvalidated((), KEYS, instead=True)
    assert InvalidationFailed(KEYS) in script.notices


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind.is_in_vain and not kind.is_retryable])
def test_where_a_fill_says_that_the_store_is_out_the_removal_does_not_wait_once_more(kind):
    script = ending(A, B, tags=TAG_KEYS).give(StoreFailed(1.0, kind))
    gone = (*KEYS, *TAG_KEYS)
    assert script.outcome == ManyInvalidated((), gone)
    assert InvalidationFailed(gone, was_tried=False) in script.notices
    assert StoreGaveUp(kind) in script.notices


def test_where_the_store_is_known_to_be_out_nothing_is_held_and_nothing_filled():
    """S1: no fill without the grant of a hold, and what was written is pending when the call returns."""
    out = MissReason.STORE_ERROR
    assert begun(skip=out).outcome == ManyHeld(None, None)
    for grants in (None, (G1, G2)):
        script = Script(end(EndRequest(KEYS, grants, (A, B), TIMEOUTS, 1.0, TAG_KEYS), skip=out))
        gone = (*KEYS, *TAG_KEYS)
        assert script.outcome == ManyInvalidated((), gone)
        assert script.notices == [
            InvalidationFailed(gone, was_tried=False),
            Ended(OperationName.MUTATE, 0.0),
        ]


def test_a_disabled_cache_holds_and_removes_nothing():
    disabled = MissReason.DISABLED
    assert begun(skip=disabled).outcome == ManyHeld(None, None)
    script = Script(end(EndRequest(KEYS, None, (A,), TIMEOUTS, 1.0, TAG_KEYS), skip=disabled))
    assert script.outcome == ManyInvalidated((), ())
    assert script.notices == [Ended(OperationName.MUTATE, 0.0)]


def test_interrupted_while_filling_it_removes_all_keys():
    script = ending(A).give(Interrupted(1.0))
    assert script.command == DeleteKeys(KEYS, 0.25)
    assert script.give(KeysDeleted(1.0, 1)).outcome == Abandoned()


def test_an_answer_of_another_length_breaks_the_contract():
    with pytest.raises(ProtocolError):
        begun().give(HoldsTaken(1.0, (G1,)))
    with pytest.raises(ProtocolError):
        ending(A, B).give(CellsFilled(1.0, (FillResult.STORED,)))


class TestTags:
    """S7: what depends on a tag of a mutation goes with the keys, whatever becomes of the values."""

    def test_they_are_removed_with_what_was_not_set(self):
        script = ending(A, tags=TAG_KEYS).give(CellsFilled(1.0, (FillResult.STORED,)))
        assert script.command == DeleteKeys(("shop:b", *TAG_KEYS), 0.25)
        script.give(KeysDeleted(1.0, 3))
        assert script.outcome == ManyInvalidated(("shop:b", *TAG_KEYS), ())

    def test_they_are_removed_even_if_everything_was_stored(self):
        script = ending(A, B, tags=TAG_KEYS).give(CellsFilled(1.0, (FillResult.STORED,) * 2))
        assert script.command == DeleteKeys(TAG_KEYS, 0.25)

    def test_without_keys_they_are_all_there_is(self):
        assert ending(keys=(), grants=None, tags=TAG_KEYS).command == DeleteKeys(TAG_KEYS, 0.25)

    def test_interrupted_while_filling_they_are_removed_as_well(self):
        script = ending(A, tags=TAG_KEYS).give(Interrupted(1.0))
        assert script.command == DeleteKeys((*KEYS, *TAG_KEYS), 0.25)

    def test_those_that_cannot_be_removed_are_reported_to_be_pending(self):
        script = ending(tags=TAG_KEYS).give(StoreFailed(1.0, FailureKind.WRITES_REFUSED))
        assert script.outcome == ManyInvalidated((), (*KEYS, *TAG_KEYS))
        assert InvalidationFailed((*KEYS, *TAG_KEYS)) in script.notices


class TestTagsThatTheValuesCarry:
    """S7: captured before the block runs."""

    NAMES = ("t:a", "g:user")
    V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))

    def test_their_versions_are_captured_with_the_holds(self):
        script = begun(value_tags=self.NAMES)
        assert script.command == HoldCells(KEYS, NONCE, 3_000, 0.25, Capture(TAG_KEYS, 9_000))
        script.give(HoldsTaken(1.0, (G1, G2), (self.V1, self.V2)))
        assert script.outcome.versions == (("t:a", self.V1), ("g:user", self.V2))

    def test_and_stored_with_the_values_at_the_end(self):
        versions = (("t:a", self.V1), ("g:user", self.V2))
        script = ending(A, versions=versions)
        assert script.command == FillCells((A.under(G1, versions),), 0.25)
        assert script.command.fills[0].body == seal("shop:a", TEXTS, b'"a"', 0.0, versions)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, count):
        with pytest.raises(ProtocolError):
            begun(value_tags=self.NAMES).give(HoldsTaken(1.0, (G1, G2), (self.V1,) * count))

    def test_one_that_is_invalidated_while_the_block_runs_takes_the_value_with_it(self):
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        begun_ = MutateRequest(KEYS[:1], NONCE, 3_000, 60.0, TIMEOUTS, clock(), self.NAMES[:1], 9_000)
        held = process.run(begin(begun_)).step.outcome
        process.store.perform(DeleteKeys(TAG_KEYS[:1], 1.0))
        request = EndRequest(KEYS[:1], held.grants, (A,), TIMEOUTS, clock(), (), held.versions)
        process.run(end(request))
        reading = get(ReadRequest("shop:a", TEXTS, TIMEOUTS, clock()))
        assert process.run(reading).step.outcome == Missing()


@pytest.mark.parametrize(("now_s", "hold_ms"), [(2.0, 3_000), (2.9, 3_000), (3.1, 0), (70.0, 0)])
def test_a_hold_is_as_it_was_granted_until_it_is_first_renewed(now_s, hold_ms):
    held = begun().give(HoldsTaken(2.0, (G1, G2))).outcome
    assert unrenewed_hold_ms(held.renewal, 60.0, now_s) == hold_ms
    assert unrenewed_hold_ms(None, 60.0, now_s) == 0
