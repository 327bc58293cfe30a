"""Get or load many: one trip a step, one call of the loader, and nobody waits with grants in hand."""

from __future__ import annotations

from random import Random
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.backoff import pause_s, watched_pause_s
from sansio_cache.cell import FOREIGN, NO_GRANT, Kind, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLeases,
    Capture,
    ComputeMany,
    DeleteKeys,
    Fill,
    FillCells,
    Lease,
    LeaseRequest,
    Mode,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    Sleep,
    StoreCommand,
    Watch,
)
from sansio_cache.entry import MissReason, seal, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    CellsRead,
    Computed,
    ComputeFailed,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    Interrupted,
    KeysDeleted,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    StoreFailed,
    TagsRead,
    Woke,
    WriterFound,
)
from sansio_cache.loader import Absent, Fresh
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Ended,
    FillRefused,
    Hit,
    InvalidationFailed,
    LoadFailed,
    Missed,
    OperationName,
    Outlived,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unasked,
    Unstorable,
    VariantStored,
    Waited,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.operations.batch import LoadManyRequest, nothing_to_load
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.renewal import renew
from sansio_cache.step import (
    Abandoned,
    ManyLoaded,
    Missing,
    NotAMapping,
    Raised,
    TookTooLong,
    Unavailable,
    Value,
    evolve,
)
from sansio_cache.ttl import Jitter
from support.machines import (
    INTS,
    NONCE,
    TEXTS,
    THEIRS,
    Clock,
    Process,
    Script,
    absent_cell,
    draw,
    load_request,
    value_cell,
)

A, B, C = KEYS = ("shop:a", "shop:b", "shop:c")
GRANTS = dict(zip(KEYS, (make_grant(NONCE, us) for us in (1, 2, 3)), strict=True))
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
NOW_MS = 1_000
BROKEN = RuntimeError("database")
RELEASED = LeasesReleased(0.0)
DONE = Ended(OperationName.GET_OR_LOAD_MANY, 0.0)
AT_ONCE = {"stale_for_s": 60}
WAITING = {"stale_for_s": 60, "on_wait_timeout": "stale"}


def begun(keys=KEYS, *, chunk=500, skip=None, **changes):
    each = load_request(name=keys[0], **changes)
    names = tuple(key.removeprefix("shop:") for key in keys)
    return Script(load_many(LoadManyRequest(keys, names, chunk, each), skip=skip))


def cells(*found, now_s=0.0, versions=()):
    return CellsRead(now_s, found, NOW_MS, versions)


def granted(key, stale=None):
    return LeaseGranted(0.0, GRANTS[key], stale, NOW_MS)


def denied(left_ms=500, stale=None):
    return LeaseDenied(0.0, left_ms, stale, NOW_MS)


def fresh(cell):
    return FreshFound(0.0, cell, NOW_MS)


def answers(*replies, now_s=0.0, versions=()):
    return LeasesAnswered(now_s, replies, versions)


def lease_requests(*keys, seen=NO_GRANT, mode=Mode.KEEP, capture=NO_TAGS):
    return AcquireLeases(tuple(LeaseRequest(key, seen, mode) for key in keys), NONCE, 5_000, 0.25, capture)


def filled(*results):
    return CellsFilled(0.0, tuple(results))


def leases(*keys, lease_id=None):
    return tuple(Lease(key, lease_id or GRANTS[key]) for key in keys)


def stale(value, key):
    return value_cell(value, key, soft_ms=NOW_MS - 1)


def values(*found):
    return ManyLoaded(tuple(Missing() if value is None else Value(value) for value in found))


def balance(script):
    """How each key was counted (B3)."""
    counted = [each for each in script.notices if isinstance(each, Hit | StaleServed | Missed)]
    assert len({each.key for each in counted}) == len(counted)
    return {each.key: each.reason if isinstance(each, Missed) else type(each) for each in counted}


STORED = FillResult.STORED
LEASED = (Kind.EMPTY, 5_000)
NOTHING = cells(None, None, None)
ALL_GRANTED = answers(granted(A), granted(B), granted(C))


class TestReading:
    def test_hits_cost_one_trip_and_no_loader(self):
        script = begun()
        assert script.command == ReadCells(KEYS, 500, 0.25)
        script.give(cells(value_cell(1, A), value_cell(2, B), absent_cell(C), now_s=0.5))
        assert script.outcome == values(1, 2, None)
        assert script.notices == [
            Hit(A),
            Hit(B),
            Hit(C),
            Ended(OperationName.GET_OR_LOAD_MANY, 0.5),
        ]

    def test_every_step_is_that_of_the_batch(self):
        # By which the driver tells whom to wake.
        script = begun().give(NOTHING, ALL_GRANTED, Computed(0.0, {"a": 1}), filled(STORED), RELEASED)
        assert {step.load_id for step in script.steps} == {load_request().random_bytes}

    def test_a_failure_is_retried_and_then_the_loader_gets_all_keys_and_nothing_is_stored(self):
        script = begun().give(StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == ReadCells(KEYS, 500, 0.25)
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == ComputeMany(KEYS, ("a", "b", "c"), None)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.STORE_ERROR)
        script.give(Computed(0.5, {"a": 1, "b": 2, "c": Absent()}))
        assert script.outcome == values(1, 2, None)
        assert script.notices[-4:] == [
            *(LoadedNotice(key, False, 0.5) for key in KEYS),
            Ended(OperationName.GET_OR_LOAD_MANY, 0.5),
        ]

    def test_where_the_policy_asks_for_it_a_failure_is_an_error(self):
        script = begun(on_read_error="raise").give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)
        assert script.notices == [
            StoreErrored(FailureKind.PERMISSION),
            StoreGaveUp(FailureKind.PERMISSION),
            *(Missed(key, MissReason.STORE_ERROR) for key in KEYS),
            DONE,
        ]

    @pytest.mark.parametrize("skip", [MissReason.STORE_ERROR, MissReason.BYPASSED, MissReason.DISABLED])
    def test_a_store_that_is_not_to_be_asked_leaves_everything_to_the_loader(self, skip):
        script = begun(skip=skip)
        assert script.command == ComputeMany(KEYS, ("a", "b", "c"), None)
        script.give(Computed(0.0, {"a": 1, "b": 2, "c": 3}))
        assert script.outcome == values(1, 2, 3)
        assert balance(script) == dict.fromkeys(KEYS, skip)

    @pytest.mark.parametrize("skip", [MissReason.BYPASSED, MissReason.DISABLED])
    def test_and_is_no_error_where_the_policy_asks_for_one_unless_the_breaker_is_open(self, skip):
        assert isinstance(begun(skip=skip, on_read_error="raise").command, ComputeMany)
        script = begun(skip=MissReason.STORE_ERROR, on_read_error="raise")
        assert script.outcome == Unavailable(None)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.STORE_ERROR)

    def test_interrupted_it_ends(self):
        script = begun().give(Interrupted(0.0))
        assert script.outcome == Abandoned()
        assert script.notices == []

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_an_answer_with_another_number_of_cells_breaks_the_contract(self, count):
        with pytest.raises(ProtocolError):
            begun().give(cells(*(None,) * count))

    def test_no_keys_are_nothing_to_do(self):
        step = nothing_to_load()
        assert step.command is None
        assert step.outcome == ManyLoaded(())
        assert step.notices == (DONE,)


class TestTags:
    """S7."""

    TAGGED = (
        value_cell(1, A, versions=(("t:a", V1), ("t:b", V2))),
        value_cell(2, B, versions=(("t:b", V2),)),
        value_cell(3, C),
    )
    TAG_KEYS = ("shop:%t:a", "shop:%t:b")

    def test_those_that_are_named_are_read_with_the_cells(self):
        script = begun(KEYS[:2], tags=("t:b",))
        assert script.command == ReadCells(KEYS[:2], 500, 0.25, ("shop:%t:b",))
        script.give(cells(self.TAGGED[1], self.TAGGED[1], versions=(V2,)))
        assert balance(script) == {A: MissReason.KEY_CHECK, B: Hit}
        assert script.command == lease_requests(
            A, seen=THEIRS, mode=Mode.DROP, capture=Capture(self.TAG_KEYS[1:], 120_000)
        )

    def test_an_entry_without_a_named_one_is_replaced(self):
        script = begun((C,), tags=("t:b",)).give(cells(self.TAGGED[2], versions=(V2,)))
        assert balance(script) == {C: MissReason.TAG}
        assert script.command.lease_requests == (LeaseRequest(C, THEIRS, Mode.DROP),)

    def test_those_that_are_not_named_are_asked_for_once_each(self):
        script = begun().give(cells(*self.TAGGED))
        assert script.command == ReadTags(self.TAG_KEYS, 0.25)
        assert script.notices == []
        script.give(TagsRead(0.0, (V1, V2), NOW_MS))
        assert script.outcome == values(1, 2, 3)

    def test_each_entry_depends_on_its_own(self):
        script = begun().give(cells(*self.TAGGED), TagsRead(0.0, (V3, V2), NOW_MS))
        assert balance(script) == {A: MissReason.TAG, B: Hit, C: Hit}
        assert script.command == lease_requests(A, seen=THEIRS, mode=Mode.DROP)

    def test_named_and_unnamed_ones_go_together(self):
        script = begun(KEYS[:1], tags=("t:b",)).give(cells(self.TAGGED[0], versions=(V2,)))
        assert script.command == ReadTags(self.TAG_KEYS[:1], 0.25)
        assert script.give(TagsRead(0.0, (V1,), NOW_MS)).outcome == values(1)

    def test_one_whose_removal_the_store_has_not_been_told_of_has_no_version(self):
        script = begun(bypassed=frozenset({"shop:%t:a"})).give(cells(*self.TAGGED))
        script.give(TagsRead(0.0, (V1, V2), NOW_MS))
        assert balance(script) == {A: MissReason.TAG, B: Hit, C: Hit}

    def test_a_failure_is_retried_and_then_everything_is_loaded(self):
        script = begun().give(cells(*self.TAGGED), StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == ReadTags(self.TAG_KEYS, 0.25)
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == ComputeMany(KEYS, ("a", "b", "c"), None)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.STORE_ERROR)

    def test_or_is_an_error_where_the_policy_asks_for_it(self):
        script = begun(on_read_error="raise").give(cells(*self.TAGGED))
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.STORE_ERROR)

    def test_interrupted_it_ends(self):
        assert begun().give(cells(*self.TAGGED), Interrupted(0.0)).outcome == Abandoned()

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        with pytest.raises(ProtocolError):
            begun().give(cells(*self.TAGGED), TagsRead(0.0, versions, NOW_MS))
        with pytest.raises(ProtocolError):
            begun(tags=("t:a", "t:b")).give(cells(None, None, None, versions=versions))

    def test_the_oldest_capture_is_stored_with_all_values(self):
        """Between two chunks a tag may have been invalidated: what is loaded later is no newer for that."""
        script = begun(KEYS[:2], chunk=1, tags=("t:a",)).give(cells(None, None, versions=(V1,)))
        script.give(answers(granted(A), versions=(V1,)), answers(granted(B), versions=(V3,)))
        script.give(Computed(0.0, {"a": 1, "b": 2}))
        tied = (("t:a", V1),)
        fill = Fill(A, GRANTS[A], 60_000, 0, seal(A, INTS, b"1", 0.0, tied), *LEASED)
        assert script.command == FillCells((fill,), 0.25)
        script.give(filled(STORED))
        assert script.command.fills[0].body == seal(B, INTS, b"2", 0.0, tied)

    def test_after_a_wait_they_are_captured_anew(self):
        script = begun((A,), tags=("t:a",)).give(
            cells(None, versions=(V1,)), answers(denied(), versions=(V1,))
        )
        script.give(Woke(1.0), cells(None, versions=(V3,)), answers(granted(A), versions=(V3,)))
        script.give(Computed(0.0, {"a": 1}))
        assert script.command.fills[0].body == seal(A, INTS, b"1", 0.0, (("t:a", V3),))

    def test_what_somebody_stored_meanwhile_is_read_again_with_its_own(self):
        script = begun((A,)).give(cells(None), answers(fresh(self.TAGGED[0])))
        assert isinstance(script.command, Sleep)
        script.give(Woke(0.0), cells(self.TAGGED[0]))
        assert script.command == ReadTags(self.TAG_KEYS, 0.25)
        assert script.give(TagsRead(0.0, (V1, V2), NOW_MS)).outcome == values(1)


class TestAcquiring:
    def test_leases_of_what_is_missing_are_asked_for_with_one_command_and_loaded_with_one_call(self):
        script = begun().give(cells(value_cell(1, A), None, stale(3, C)))
        assert script.command == lease_requests(B, C)
        script.give(answers(granted(B), granted(C)))
        assert isinstance(script.command, ComputeMany)
        assert script.command.keys == (B, C)
        assert script.command.names == ("b", "c")
        script.give(Computed(2.0, {"b": 2, "c": 3}))
        assert script.command == FillCells(
            (
                Fill(B, GRANTS[B], 60_000, 0, seal(B, INTS, b"2", 2.0)),
                Fill(C, GRANTS[C], 60_000, 0, seal(C, INTS, b"3", 2.0)),
            ),
            0.25,
        )
        script.give(CellsFilled(3.0, (STORED, STORED)))
        assert script.outcome == values(1, 2, 3)
        assert script.notices == [
            Hit(A),
            Missed(B, MissReason.ABSENT),
            Missed(C, MissReason.EXPIRED),
            LoadedNotice(B, True, 2.0),
            LoadedNotice(C, True, 2.0),
            Stored(B, ANY, ANY),
            Stored(C, ANY, ANY),
            Ended(OperationName.GET_OR_LOAD_MANY, 3.0),
        ]

    def test_the_leases_are_renewed_together_while_the_loader_runs(self):
        script = begun(max_lease_s=20.0).give(NOTHING, answers(granted(A), WriterFound(0.0, 9), granted(C)))
        renewal = Script(renew(script.command.renewal))
        assert renewal.command == Sleep(5 / 3)
        assert Script(renew(script.command.renewal)).give(Woke(20.0)).outcome is not None
        assert renewal.give(Woke(2.0)).command == RenewLeases(leases(A, C), 5_000, 0.25)

    def test_leases_are_asked_for_a_chunk_at_a_time_and_the_loader_is_called_once(self):
        script = begun(chunk=2).give(NOTHING)
        assert script.command == lease_requests(A, B)
        script.give(answers(granted(A), granted(B)))
        assert script.command == lease_requests(C)
        script.give(answers(granted(C)))
        assert script.command.keys == KEYS

    def test_what_somebody_stored_meanwhile_is_taken(self):
        script = begun().give(NOTHING, answers(fresh(value_cell(1, A)), fresh(absent_cell(B)), granted(C)))
        script.give(Computed(0.0, {"c": 3}), filled(STORED))
        assert script.outcome == values(1, None, 3)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.ABSENT)

    def test_where_a_writer_holds_a_key_or_it_is_not_ours_it_is_loaded_with_the_others_and_not_stored(self):
        found = answers(WriterFound(0.0, 500), ForeignFound(0.0), granted(C))
        script = begun().give(NOTHING, found)
        assert set(script.command.keys) == set(KEYS)
        script.give(Computed(0.0, {"a": 1, "b": 2, "c": 3}))
        assert [fill.key for fill in script.command.fills] == [C]
        assert script.give(filled(STORED)).outcome == values(1, 2, 3)

    def test_a_foreign_key_is_not_even_asked_for_a_lease(self):
        script = begun((A, B)).give(cells(FOREIGN, None))
        assert script.command == lease_requests(B)
        script.give(answers(granted(B)))
        assert set(script.command.keys) == {A, B}
        script = begun((A,)).give(cells(FOREIGN))
        assert script.command == ComputeMany((A,), ("a",), None)

    def test_a_value_that_cannot_be_served_though_it_is_fresh_is_replaced(self):
        script = begun((A,)).give(cells(value_cell(1, "shop:other")))
        assert script.command == lease_requests(A, seen=THEIRS, mode=Mode.DROP)

    def test_two_programs_that_refuse_each_others_values_do_not_replace_them_for_ever(self):
        script = begun((A,)).give(cells(None))
        for turn in range(2):
            theirs = make_grant(b"theirs-%d" % turn, 9)
            script.give(answers(fresh(value_cell(1, "shop:other", filled_by=theirs))))
            assert script.command == lease_requests(A, seen=theirs, mode=Mode.DROP)
        script.give(answers(fresh(value_cell(1, "shop:other"))))
        assert script.command == ComputeMany((A,), ("a",), None)

    def test_nor_if_they_wait_in_between(self):
        script = begun((A,)).give(cells(None))
        others = value_cell(1, "shop:other")
        for _ in range(2):
            script.give(answers(fresh(others)), answers(denied()), Woke(0.0), cells(None))
        script.give(answers(fresh(others)))
        assert script.command == ComputeMany((A,), ("a",), None)

    def test_it_is_retried_with_the_same_nonce_and_then_the_rest_is_loaded_without_a_lease(self):
        script = begun(chunk=1).give(NOTHING, answers(granted(A)), StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == lease_requests(B)
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert isinstance(script.command, ComputeMany)
        assert set(script.command.keys) == set(KEYS)
        script.give(Computed(0.0, {"a": 1, "b": 2, "c": 3}))
        assert [fill.key for fill in script.command.fills] == [A]
        assert script.give(filled(STORED)).outcome == values(1, 2, 3)

    def test_or_what_is_held_is_given_back_and_it_is_an_error_where_the_policy_asks_for_it(self):
        script = begun(chunk=2, on_read_error="raise").give(NOTHING, answers(granted(A), denied()))
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == ReleaseLeases(leases(A), 0.25)
        script.give(RELEASED)
        assert script.outcome == Unavailable(FailureKind.PERMISSION)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.ABSENT)

    def test_interrupted_what_may_be_held_is_given_back(self):
        """L7: an interrupted acquire counts as held."""
        script = begun(chunk=2).give(NOTHING, answers(granted(A), denied()), Interrupted(0.0))
        assert script.command == ReleaseLeases((*leases(A), *leases(C, lease_id=NONCE)), 0.25)
        script.give(RELEASED)
        assert script.outcome == Abandoned()
        assert DONE not in script.notices

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_an_answer_to_another_number_of_claims_breaks_the_contract(self, count):
        with pytest.raises(ProtocolError):
            begun().give(NOTHING, answers(*(denied(),) * count))

    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self):
        script = begun((A,), tags=("t:a",)).give(cells(None, versions=(V1,)))
        with pytest.raises(ProtocolError):
            script.give(answers(granted(A)))


class TestComputing:
    def script(self, keys=KEYS, **changes):
        grants = answers(*(granted(key) for key in keys))
        return begun(keys, **changes).give(cells(*(None,) * len(keys)), grants)

    def test_a_key_without_a_value_is_missing_and_its_lease_is_given_back(self):
        script = self.script().give(Computed(0.0, {"a": 1}), filled(STORED))
        assert script.command == ReleaseLeases(leases(B, C), 0.25)
        script.give(RELEASED)
        assert script.outcome == values(1, None, None)
        assert [each for each in script.notices if isinstance(each, LoadedNotice)] == [
            LoadedNotice(A, True, 0.0)
        ]

    def test_of_an_empty_mapping_nothing_is_stored(self):
        script = self.script().give(Computed(0.0, {}))
        assert script.command == ReleaseLeases(leases(*KEYS), 0.25)
        assert script.give(RELEASED).outcome == values(None, None, None)

    def test_what_a_store_that_compares_has_found_changed_is_asked_for_again_by_its_grant(self):
        script = self.script().give(Computed(0.0, {"a": 1, "b": 2, "c": 3}))
        fills = script.command.fills
        assert {(fill.kind, fill.lease_ms) for fill in fills} == {LEASED}
        script.give(filled(FillResult.CHANGED, STORED, FillResult.CHANGED))
        again = tuple(evolve(fill, lease_ms=0) for fill in (fills[0], fills[2]))
        assert script.command == FillCells(again, 0.25)
        script.give(filled(FillResult.REFUSED, FillResult.ALREADY_STORED))
        assert script.outcome == values(1, 2, 3)
        told = [(type(each), each.key) for each in script.notices if isinstance(each, Stored | FillRefused)]
        assert told == [(Stored, B), (FillRefused, A), (Stored, C)]

    def test_the_value_beneath_a_lease_and_a_renewal_are_changes_that_are_known(self):
        stale = value_cell(1, A, soft_ms=1)
        script = begun(KEYS[:2]).give(cells(None, None), answers(granted(A, stale), granted(B)))
        left_ms = [fill.lease_ms for fill in script.give(Computed(0.0, {"a": 1, "b": 2})).command.fills]
        assert left_ms == [0, 5_000]
        script = self.script().give(Computed(2.0, {"a": 1, "b": 2, "c": 3}))
        assert [fill.lease_ms for fill in script.command.fills] == [0, 0, 0]

    def test_an_absence_is_stored_as_one(self):
        script = self.script((A,), negative_ttl=10).give(Computed(0.5, {"a": Absent()}))
        fill = Fill(A, GRANTS[A], 10_000, 0, seal(A, INTS, None, 0.5), *LEASED)
        assert script.command == FillCells((fill,), 0.25)
        assert script.give(filled(STORED)).outcome == values(None)

    @pytest.mark.parametrize("given", [None, Absent(), Fresh(None, ttl=5)], ids=["none", "absent", "fresh"])
    def test_nothing_is_missing_from_the_answer_and_stored(self, given):
        script = self.script((A,)).give(Computed(0.5, {"a": given}))
        assert [fill.body for fill in script.command.fills] == [seal(A, INTS, None, 0.5)]
        assert script.give(filled(STORED)).outcome == ManyLoaded((Missing(),))

    def test_each_may_have_a_time_to_live_of_its_own(self):
        script = self.script(stale_for_s=5).give(
            Computed(0.0, {"a": Fresh(1, ttl=2), "b": Absent(ttl=3), "c": 3})
        )
        expiries = [(fill.hard_ttl_ms, fill.soft_ttl_ms) for fill in script.command.fills]
        assert expiries == [(7_000, 2_000), (3_000, 0), (65_000, 60_000)]
        assert script.give(filled(STORED, STORED, STORED)).outcome == values(1, None, 3)

    def test_a_value_with_nothing_left_to_live_reaches_the_caller_and_its_lease_is_given_back(self):
        script = self.script((A, B)).give(Computed(0.0, {"a": Fresh(1, ttl=0), "b": 2}))
        assert [each.key for each in script.command.fills] == [B]
        script.give(filled(STORED))
        assert script.command == ReleaseLeases(leases(A), 0.25)
        assert script.give(RELEASED).outcome == values(1, 2)
        assert Outlived(A) in script.notices

    def replacing(self, given=None):
        """A batch that is to replace two values, one of them by something with nothing left to live."""
        script = begun().give(cells(stale(6, A), stale(6, B), None))
        script.give(answers(granted(A, stale(6, A)), granted(B, stale(6, B)), granted(C)))
        return script.give(Computed(0.0, given or {"a": Fresh(1, ttl=-30), "b": 2, "c": Absent(ttl=0)}))

    def test_what_a_value_with_nothing_left_to_live_would_have_replaced_goes_with_it(self):
        script = self.replacing()
        assert [each.key for each in script.command.fills] == [B]
        script.give(filled(STORED))
        assert script.command == DeleteKeys((A,), 0.25)
        script.give(KeysDeleted(0.0, 1))
        assert script.command == ReleaseLeases(leases(C), 0.25)
        assert script.give(RELEASED).outcome == values(1, 2, None)
        assert {Outlived(A), Outlived(C)} <= set(script.notices)

    def test_what_could_not_be_removed_is_pending(self):
        script = self.replacing().give(filled(STORED), StoreFailed(9.0, FailureKind.PERMISSION))
        assert InvalidationFailed((A,)) in script.notices
        assert script.command == ReleaseLeases(leases(C), 0.25)
        assert script.give(RELEASED).outcome == values(1, 2, None)

    @pytest.mark.parametrize("kind", [FailureKind.PERMISSION, FailureKind.CONNECTION])
    def test_what_is_to_go_goes_or_is_pending_where_nothing_could_be_stored(self, kind):
        script = self.replacing()
        while isinstance(script.command, FillCells):
            script.give(StoreFailed(99.0, kind))
        assert (InvalidationFailed((A,)) in script.notices) == (kind is FailureKind.CONNECTION)
        if script.command is not None:
            assert script.command == DeleteKeys((A,), 0.25)
            script.give(KeysDeleted(0.0, 1))
            assert script.command == ReleaseLeases(leases(B, C), 0.25)
            script.give(RELEASED)
        assert script.outcome == values(1, 2, None)

    @pytest.mark.parametrize("has_filled", [True, False])
    def test_interrupted_it_removes_and_gives_back_all_the_same(self, has_filled):
        script = self.replacing().give(*[filled(STORED)] * has_filled, Interrupted(0.0))
        assert script.command == DeleteKeys((A,), 0.25)
        script.give(KeysDeleted(0.0, 1))
        assert script.command == ReleaseLeases(leases(*(() if has_filled else (B,)), C), 0.25)
        assert script.give(RELEASED).outcome == Abandoned()

    def test_what_is_being_removed_is_not_answered_by_something_else(self):
        script = self.replacing().give(filled(STORED))
        with pytest.raises(ProtocolError, match="LoadManyReleasing"):
            script.give(RELEASED)
        script.give(KeysDeleted(0.0, 1))
        with pytest.raises(ProtocolError, match="LoadManyReleasing"):
            script.give(KeysDeleted(0.0, 1))

    def test_a_value_that_cannot_be_stored_reaches_the_caller_and_its_lease_is_given_back(self):
        script = self.script((A, B)).give(Computed(0.0, {"a": "text", "b": 2}), filled(STORED))
        assert script.command == ReleaseLeases(leases(A), 0.25)
        script.give(RELEASED)
        assert script.outcome == values("text", 2)
        assert Unstorable(A, "str", ANY) in script.notices

    def test_the_caller_gets_what_a_later_hit_would_give(self):
        mine = [1]
        script = self.script((A,), codec=codec_for(list[int], 1_000))
        script.give(Computed(0.0, {"a": mine}), filled(STORED))
        [found] = script.outcome.values
        assert found.value == [1]
        assert found.value is not mine

    def test_values_that_nobody_asked_for_are_dropped_and_told_of(self):
        script = self.script((A,)).give(Computed(0.0, {"a": 1, "b": 2, "z": 3}))
        assert Unasked(2) in script.notices
        assert [fill.key for fill in script.command.fills] == [A]
        assert script.give(filled(STORED)).outcome == values(1)

    def test_a_loader_that_raises_gives_everything_back_and_stores_nothing(self):
        """S13."""
        script = self.script().give(ComputeFailed(0.0, BROKEN))
        assert script.command == ReleaseLeases(leases(*KEYS), 0.25)
        script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert script.notices[3:] == [LoadFailed(A, True, "RuntimeError"), DONE]

    def test_and_so_does_one_that_gives_no_mapping(self):
        script = self.script().give(Computed(0.0, [1, 2, 3]))
        assert script.command == ReleaseLeases(leases(*KEYS), 0.25)
        script.give(RELEASED)
        assert script.outcome == NotAMapping("list")
        assert LoadFailed(A, True, "ConfigurationError") in script.notices

    def test_one_that_raises_without_leases_has_nothing_to_give_back(self):
        script = begun(skip=MissReason.BYPASSED).give(ComputeFailed(0.0, BROKEN))
        assert script.outcome == Raised(BROKEN)
        assert LoadFailed(A, False, "RuntimeError") in script.notices

    def test_one_that_raises_ends_the_batch_though_others_load_some_of_it(self):
        script = begun().give(NOTHING, answers(granted(A), denied(), denied()), ComputeFailed(0.0, BROKEN))
        script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.ABSENT)

    def test_interrupted_the_leases_are_given_back(self):
        """L7."""
        script = self.script().give(Interrupted(0.0))
        assert script.command == ReleaseLeases(leases(*KEYS), 0.25)
        assert script.give(RELEASED).outcome == Abandoned()
        script = begun(skip=MissReason.BYPASSED).give(Interrupted(0.0))
        assert script.outcome == Abandoned()


class TestStaleValues:
    def test_where_somebody_else_loads_it_one_is_served_at_once(self):
        script = begun((A, B), **AT_ONCE).give(cells(stale(6, A), stale(7, B)))
        assert script.command == lease_requests(A, B)
        assert script.notices == []  # hit or miss is not known yet
        script.give(answers(denied(stale=stale(6, A)), granted(B, stale(7, B))))
        script.give(Computed(0.0, {"b": 8}), filled(STORED))
        assert script.outcome == values(6, 8)
        assert balance(script) == {A: StaleServed, B: MissReason.EXPIRED}

    def test_nothing_is_refreshed_in_the_background(self):
        script = begun((A,), **AT_ONCE, refresh_at=0.001).give(cells(stale(6, A)), answers(denied()))
        assert all(step.spawn == () for step in script.steps)

    def test_one_found_when_its_lease_is_asked_for_is_served_too_and_the_key_stays_one_miss(
        self,
    ):
        script = begun((A,), **AT_ONCE).give(cells(None), answers(denied(stale=stale(6, A))))
        assert script.outcome == values(6)
        assert balance(script) == {A: MissReason.ABSENT}

    def test_a_policy_without_it_serves_none(self):
        script = begun((A,)).give(cells(stale(6, A)))
        assert balance(script) == {A: MissReason.EXPIRED}
        script.give(answers(denied(stale=stale(6, A))))
        assert isinstance(script.command, Sleep)

    @pytest.mark.parametrize("server_ms", [NOW_MS - 1 + 60_000, None])
    def test_one_is_not_served_for_ever_nor_without_a_clock(self, server_ms):
        """S1f."""
        read = CellsRead(0.0, (stale(6, A),), server_ms)
        script = begun((A,), **AT_ONCE).give(read)
        assert balance(script) == {A: MissReason.EXPIRED}

    def test_they_cover_a_loader_that_raises_if_there_is_one_for_each(self):
        script = begun((A, B), **AT_ONCE).give(cells(stale(6, A), None))
        script.give(answers(granted(A, stale(6, A)), granted(B, stale(7, B))), ComputeFailed(0.0, BROKEN))
        assert script.command == ReleaseLeases(leases(A, B), 0.25)
        script.give(RELEASED)
        assert script.outcome == values(6, 7)
        assert balance(script) == {A: StaleServed, B: MissReason.ABSENT}

    def test_else_its_error_is_the_callers(self):
        script = begun((A, B), **AT_ONCE).give(cells(stale(6, A), None))
        script.give(answers(granted(A, stale(6, A)), granted(B)), ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == {A: MissReason.EXPIRED, B: MissReason.ABSENT}

    @pytest.mark.parametrize("answer", ["denied", "granted"])
    def test_one_is_served_no_more_once_it_is_gone(self, answer):
        script = begun((A,), **WAITING, wait_s=0.0).give(cells(stale(6, A)))
        script.give(answers(denied() if answer == "denied" else granted(A)), ComputeFailed(0.0, BROKEN))
        if answer == "granted":
            script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == {A: MissReason.EXPIRED}

    @pytest.mark.parametrize("answer", ["denied", "granted"])
    def test_one_is_served_no_more_once_a_tag_has_changed_while_the_caller_waited(self, answer):
        """S7."""
        old = value_cell(6, A, soft_ms=NOW_MS - 1, versions=(("t:a", V1),))
        script = begun((A,), tags=("t:a",), **WAITING, wait_s=0.0).give(cells(old, versions=(V1,)))
        reply = denied(stale=old) if answer == "denied" else granted(A, old)
        script.give(answers(reply, versions=(V3,)), ComputeFailed(0.0, BROKEN))
        if answer == "granted":
            script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)

    def test_what_was_found_before_a_wait_counts_no_more_after_it(self):
        """S7."""
        old = value_cell(6, A, soft_ms=NOW_MS - 1, versions=(("t:a", V1),))
        script = begun((A,), tags=("t:a",), **WAITING).give(cells(old, versions=(V1,)))
        script.give(answers(denied(stale=old), versions=(V1,)), Woke(1.0), cells(old, versions=(V3,)))
        assert script.command.lease_requests == (LeaseRequest(A, THEIRS, Mode.DROP),)
        script.give(answers(WriterFound(1.0, 9), versions=(V3,)), ComputeFailed(1.0, BROKEN))
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == {A: MissReason.TAG}

    def test_after_a_wait_a_value_that_was_to_be_dropped_before_is_not_dropped_for_another(self):
        script = begun((A,), **AT_ONCE).give(cells(value_cell(1, "shop:other")))
        assert script.command == lease_requests(A, seen=THEIRS, mode=Mode.DROP)
        script.give(answers(denied()), Woke(1.0), cells(stale(6, A)))
        assert script.command == lease_requests(A)

    def test_one_whose_unnamed_tags_were_checked_stays_good(self):
        old = value_cell(6, A, soft_ms=NOW_MS - 1, versions=(("t:a", V1),))
        script = begun((A,), **AT_ONCE).give(cells(old), TagsRead(0.0, (V1,), NOW_MS))
        script.give(answers(granted(A, old)), ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == values(6)


class TestVariantOfAnotherVersionsEntry:
    """Fault 33."""

    PLACE = variant_key(A, INTS.fingerprint)
    TEXT = value_cell("a", A, codec=TEXTS)

    def ours(self, variant_of=THEIRS):
        return value_cell(1, self.PLACE, versions=(("", variant_of),), filled_by=make_grant(b"ours---1", 9))

    def test_what_is_kept_beside_it_is_read_for_all_such_keys_in_one_more_trip(self):
        text_b = value_cell("b", B, codec=TEXTS)
        script = begun().give(cells(self.TEXT, text_b, None))
        place_b = variant_key(B, INTS.fingerprint)
        assert script.command == ReadCells((self.PLACE, place_b), 500, 0.25)
        script.give(cells(self.ours(), value_cell(2, place_b, versions=(("", THEIRS),))))
        assert script.command == lease_requests(C)
        assert balance(script) == {A: Hit, B: Hit, C: MissReason.ABSENT}

    def test_what_is_not_there_is_loaded_and_kept_there(self):
        script = begun((A,)).give(cells(self.TEXT), cells(None))
        assert balance(script) == {A: MissReason.SCHEMA}
        assert script.command == lease_requests(self.PLACE)
        script.give(answers(granted(A)))
        assert set(script.command.keys) == {A, self.PLACE}, "the loader is to ask for neither"
        script.give(Computed(0.0, {"a": 1}))
        body = seal(self.PLACE, INTS, b"1", 0.0, (("", THEIRS),))
        assert script.command == FillCells((Fill(self.PLACE, GRANTS[A], 60_000, 0, body, *LEASED),), 0.25)
        assert script.give(filled(STORED)).outcome == values(1)
        assert VariantStored(A) in script.notices

    @pytest.mark.parametrize(
        ("tags", "is_kept"), [(("t:a",), True), (("t:a", "t:b"), True), (("t:b",), False)]
    )
    def test_it_is_kept_there_if_the_batch_names_all_tags_of_the_other_and_else_only_loaded(
        self, tags, is_kept
    ):
        """S7: whoever invalidates a tag of the other entry means its variant as well."""
        text = value_cell("a", A, codec=TEXTS, versions=(("t:a", V1),))
        script = begun((A,), tags=tags).give(cells(text, versions=(V1, V2)[: len(tags)]))
        if is_kept:
            assert script.command == ReadCells(
                (self.PLACE,), 500, 0.25, tuple(f"shop:%{tag}" for tag in tags)
            )
        else:
            assert script.command == ComputeMany((A,), ("a",), None)
            script.give(Computed(0.0, {"a": 1}))
            assert script.outcome == values(1)
            assert balance(script) == {A: MissReason.SCHEMA}

    @pytest.mark.parametrize(("tags", "is_kept"), [(("t:a",), True), ((), False)])
    def test_so_it_is_with_one_that_is_stored_meanwhile(self, tags, is_kept):
        """S7."""
        text = value_cell("a", A, codec=TEXTS, versions=(("t:a", V1),))
        versions = (V1,) * len(tags)
        script = begun((A,), tags=tags).give(cells(None, versions=versions))
        script.give(answers(fresh(text), versions=versions))
        if is_kept:
            assert [lease_id.key for lease_id in script.command.lease_requests] == [self.PLACE]
        else:
            assert script.command == ComputeMany((A,), ("a",), None)
            assert script.give(Computed(0.0, {"a": 1})).outcome == values(1)

    def test_what_is_tied_to_an_older_value_is_replaced(self):
        """S1."""
        old = self.ours(make_grant(b"theirs-0", 1))
        script = begun((A,)).give(cells(self.TEXT), cells(old))
        assert script.command == lease_requests(self.PLACE, seen=old.filled_by, mode=Mode.DROP)
        assert balance(script) == {A: MissReason.SCHEMA}

    def test_one_that_is_stored_meanwhile_is_left_alone_as_well(self):
        script = begun((A,)).give(cells(None), answers(fresh(self.TEXT)))
        assert script.command == lease_requests(self.PLACE)
        script.give(answers(fresh(self.ours())))
        assert script.outcome == values(1)
        assert balance(script) == {A: MissReason.ABSENT}

    def test_a_foreign_key_that_was_met_before_is_still_loaded_alone(self):
        script = begun((A, B)).give(cells(self.TEXT, FOREIGN), cells(self.ours()))
        assert script.command == lease_requests(B)
        script.give(answers(ForeignFound(0.0)))
        assert script.command == ComputeMany((B,), ("b",), None)
        assert balance(script) == {A: Hit, B: MissReason.FOREIGN}

    def test_a_read_beside_it_that_fails_leaves_everything_to_the_loader(self):
        script = begun((A, B)).give(cells(self.TEXT, None), StoreFailed(0.0, FailureKind.PERMISSION))
        assert set(script.command.keys) == {A, self.PLACE, B}
        assert set(script.command.names) == {"a", "b"}
        assert balance(script) == {A: MissReason.STORE_ERROR, B: MissReason.ABSENT}

    def test_its_stale_values_are_replaced_there(self):
        text = value_cell("a", A, codec=TEXTS, soft_ms=1)
        script = begun((A,)).give(cells(text))
        assert script.command == lease_requests(A, seen=THEIRS, mode=Mode.DROP)

    def test_interrupted_it_is_the_lease_beside_that_is_given_back(self):
        script = begun((A,)).give(cells(self.TEXT), cells(None), Interrupted(0.0))
        assert script.command == ReleaseLeases(leases(self.PLACE, lease_id=NONCE), 0.25)


class TestFilling:
    def script(self, chunk=500, given=None):
        given = {"a": 1, "b": 2, "c": 3} if given is None else given
        script = begun(chunk=chunk).give(NOTHING)
        for start in range(0, 3, chunk):
            script.give(answers(*(granted(key) for key in KEYS[start : start + chunk])))
        return script.give(Computed(0.0, given))

    def test_a_chunk_is_stored_at_a_time(self):
        script = self.script(chunk=2)
        assert [fill.key for fill in script.command.fills] == [A, B]
        script.give(filled(STORED, FillResult.ALREADY_STORED))
        assert [fill.key for fill in script.command.fills] == [C]
        assert script.give(filled(STORED)).outcome == values(1, 2, 3)
        assert script.notices[-4:] == [Stored(A, ANY, ANY), Stored(B, ANY, ANY), Stored(C, ANY, ANY), DONE]

    def test_a_value_is_the_callers_whether_it_was_stored_or_refused(self):
        script = self.script().give(filled(STORED, FillResult.REFUSED, STORED))
        assert script.outcome == values(1, 2, 3)
        assert script.notices[-4:] == [Stored(A, ANY, ANY), FillRefused(B), Stored(C, ANY, ANY), DONE]

    def test_the_entries_of_a_batch_do_not_expire_together(self):
        """Each has jitter of its own, and that of a request is always the same."""
        keys = tuple(f"shop:{number}" for number in range(50))

        def lives_ms(seed):
            script = begun(keys, jitter=Jitter(0.1, 0.5), random_bytes=draw(seed=seed, draw_ttl=0.25))
            script.give(cells(*(None,) * 50))
            script.give(answers(*(LeaseGranted(0.0, GRANTS[A], None, NOW_MS) for _ in keys)))
            script.give(Computed(0.0, {f"{number}": Absent() if number % 2 else 1 for number in range(50)}))
            fills = script.command.fills
            assert [fill.key for fill in fills] == list(keys)
            return [fill.hard_ttl_ms for fill in fills]

        found = lives_ms(seed=7)
        assert len(set(found[::2])) == len(set(found[1::2])) == 25
        assert all(60_000 * 1.1 <= life <= 60_000 * 1.5 for life in found[::2])
        assert lives_ms(seed=7) == found
        assert lives_ms(seed=8) != found

    def test_it_is_retried_under_the_same_grants(self):
        script = self.script()
        fill = script.command
        script.give(StoreFailed(0.0, FailureKind.CONNECTION))
        assert script.command == fill

    def test_an_outage_leaves_the_values_with_their_caller_and_the_leases_to_lapse(self):
        script = self.script(chunk=2).give(StoreFailed(0.0, FailureKind.UNAVAILABLE))
        assert script.outcome == values(1, 2, 3)
        assert script.notices[-3:] == [
            StoreErrored(FailureKind.UNAVAILABLE),
            StoreGaveUp(FailureKind.UNAVAILABLE),
            DONE,
        ]

    def test_where_the_store_refuses_them_the_leases_that_are_left_are_given_back(self):
        """Fault 13."""
        script = self.script(chunk=1, given={"a": 1, "b": 2}).give(filled(STORED))
        script.give(StoreFailed(0.0, FailureKind.OUT_OF_MEMORY))
        assert script.command == ReleaseLeases(leases(B, C), 0.25)
        assert script.give(RELEASED).outcome == values(1, 2, None)

    def test_interrupted_what_may_still_be_held_is_given_back(self):
        """L7."""
        script = self.script(chunk=1, given={"a": 1, "b": 2}).give(Interrupted(0.0))
        assert script.command == ReleaseLeases(leases(A, B, C), 0.25)
        assert script.give(RELEASED).outcome == Abandoned()

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_an_answer_to_another_number_of_fills_breaks_the_contract(self, count):
        with pytest.raises(ProtocolError):
            self.script().give(filled(*(STORED,) * count))


class TestReleasing:
    def script(self):
        return begun((A,)).give(cells(None), answers(granted(A)), Computed(0.0, {}))

    def test_it_is_retried_and_then_left_to_lapse(self):
        """L3."""
        script = self.script().give(StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == ReleaseLeases(leases(A), 0.25)
        script.give(StoreFailed(1.0, FailureKind.TIMEOUT))
        assert script.outcome == values(None)
        assert StoreGaveUp(FailureKind.TIMEOUT) in script.notices

    def test_interrupted_it_is_sent_again_and_the_batch_ends(self):
        script = self.script().give(Interrupted(0.0))
        assert script.command == ReleaseLeases(leases(A), 0.25)
        assert script.give(RELEASED).outcome == Abandoned()

    def test_an_interrupted_batch_whose_leases_cannot_be_given_back_ends_as_abandoned(self):
        script = self.script().give(Interrupted(0.0), StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.outcome == Abandoned()
        assert DONE not in script.notices


class TestWaiting:
    def test_every_key_that_is_waited_for_is_watched(self):
        """L4: else its waiter learns of it by its fall-back interval."""
        keys = tuple(f"shop:{number}" for number in range(500))
        script = begun(keys).give(cells(*(None,) * 500), answers(*(denied(),) * 500))
        assert script.command.watch.keys == keys
        # Those that are there are read no more, and what is left is watched.
        found = [value_cell(1, key) for key in keys[:-1]]
        script.give(Woke(0.1), cells(*found, None), answers(denied()))
        assert script.command.watch.keys == keys[-1:]

    def test_a_key_that_moves_beside_another_versions_entry_is_watched_there(self):
        place = variant_key(A, INTS.fingerprint)
        script = begun((A,)).give(cells(None), answers(denied()))
        assert script.command.watch.keys == (A,)
        script.give(Woke(0.1), cells(value_cell("a", A, codec=TEXTS)), cells(None), answers(denied()))
        assert script.command.watch.keys == (place,)
        assert script.command.watch.load_id == load_request().random_bytes

    def test_what_others_load_is_waited_for_only_after_ones_own_is_stored(self):
        script = begun().give(NOTHING, answers(denied(400), granted(B), denied(300)))
        assert script.command.keys == (B,)
        script.give(Computed(0.0, {"b": 2}))
        assert isinstance(script.command, FillCells)
        script.give(filled(STORED))
        watch = Watch((A, C), load_request().random_bytes, watched_pause_s(1, 0, 0.3))
        assert script.command == Sleep(pause_s(1, 0, 0.3), watch)
        script.give(Woke(1.0))
        assert script.command == ReadCells((A, C), 500, 0.25)
        script.give(cells(value_cell(1, A), value_cell(3, C), now_s=1.0))
        assert script.outcome == values(1, 2, 3)
        assert balance(script) == dict.fromkeys(KEYS, MissReason.ABSENT)
        assert script.notices[-3:] == [
            Waited(A, 1.0),
            Waited(C, 1.0),
            Ended(OperationName.GET_OR_LOAD_MANY, 1.0),
        ]

    def test_pauses_grow_and_do_not_go_past_the_first_lease_nor_the_deadline(self):
        script = begun((A,)).give(cells(None))
        pauses = []
        for turn in range(6):
            script.give(answers(denied(5_000)))
            assert script.command.duration_s == pause_s(1, turn, 5.0)
            pauses.append(script.command.duration_s)
            script.give(Woke(0.0), cells(None))
        assert pauses == sorted(pauses)
        script = begun((A, B)).give(cells(None, None), answers(denied(5_000), denied(1)))
        assert script.command.duration_s == pytest.approx(0.0015)
        script = begun((A,), wait_s=0.001).give(cells(None), answers(denied(5_000)))
        assert script.command.duration_s == script.command.watch.longest_s == 0.001

    def test_what_the_others_gave_up_is_ours(self):
        script = begun((A, B)).give(cells(None, None), answers(denied(), denied()))
        script.give(Woke(1.0), cells(None, value_cell(2, B), now_s=1.0), answers(granted(A), now_s=1.0))
        assert script.command.keys == (A,)
        script.give(Computed(1.0, {"a": 1}), filled(STORED))
        assert script.outcome == values(1, 2)
        waits = [each for each in script.notices if isinstance(each, Waited)]
        assert waits == [Waited(B, 1.0), Waited(A, 1.0)]

    def test_what_is_still_being_loaded_is_waited_for_again_and_has_waited_once(self):
        script = begun((A,)).give(cells(None), answers(denied()), Woke(1.0), cells(None), answers(denied()))
        script.give(Woke(2.0), cells(None), answers(fresh(value_cell(1, A)), now_s=2.0))
        assert script.outcome == values(1)
        assert [each for each in script.notices if isinstance(each, Waited)] == [Waited(A, 2.0)]

    @pytest.mark.parametrize("changes", [{}, {"on_wait_timeout": "raise"}])
    def test_in_a_circle_the_loader_runs_without_a_lease_at_once(self, changes):
        script = begun((A, B), **changes).give(cells(None, None), answers(denied(), denied()))
        script.give(Woke(0.0, is_circle=True))
        assert script.command == ComputeMany((A, B), ("a", "b"), None)
        assert script.give(Computed(0.0, {"a": 1, "b": 2})).outcome == values(1, 2)

    def test_past_the_deadline_the_loader_runs_without_a_lease(self):
        script = begun((A, B), wait_s=1.0).give(cells(None, None), answers(denied(), denied()), Woke(1.0))
        script.give(cells(None, None, now_s=1.0), answers(denied(), denied(), now_s=1.0))
        assert script.command == ComputeMany((A, B), ("a", "b"), None)
        script.give(Computed(1.0, {"a": 1, "b": 2}))
        assert script.outcome == values(1, 2)
        waits = [each for each in script.notices if isinstance(each, Waited)]
        assert waits == [Waited(A, 1.0), Waited(B, 1.0)]

    def test_a_policy_that_does_not_wait_has_not_waited(self):
        script = begun((A,), wait_s=0.0, started_s=500.0)
        script.give(CellsRead(500.0, (None,), NOW_MS), answers(denied(), now_s=500.0))
        assert script.command == ComputeMany((A,), ("a",), None)
        assert not any(isinstance(each, Waited) for each in script.notices)

    def test_or_it_is_an_error_where_the_policy_asks_for_it(self):
        script = begun((A, B), wait_s=1.0, on_wait_timeout="raise").give(cells(value_cell(1, A), None))
        script.give(answers(denied()), Woke(1.0), cells(None, now_s=1.0), answers(denied(), now_s=1.0))
        assert script.outcome == TookTooLong(1.0)
        assert balance(script) == {A: Hit, B: MissReason.ABSENT}
        assert script.notices[-2:] == [Waited(B, 1.0), Ended(OperationName.GET_OR_LOAD_MANY, 1.0)]

    def test_or_stale_values_are_served_and_the_others_are_loaded(self):
        script = begun((A, B), **WAITING, wait_s=1.0).give(cells(stale(6, A), None))
        held = (denied(stale=stale(6, A)), denied())
        script.give(answers(*held))
        assert isinstance(script.command, Sleep)
        script.give(Woke(1.0), cells(stale(6, A), None, now_s=1.0), answers(*held, now_s=1.0))
        assert script.command == ComputeMany((B,), ("b",), None)
        script.give(Computed(1.0, {"b": 2}))
        assert script.outcome == values(6, 2)
        assert balance(script) == {A: StaleServed, B: MissReason.ABSENT}
        waits = [each for each in script.notices if isinstance(each, Waited)]
        assert waits == [Waited(A, 1.0), Waited(B, 1.0)]

    def test_a_stale_value_that_all_wait_for_is_enough_to_end(self):
        script = begun((A,), **WAITING, wait_s=0.0).give(cells(stale(6, A)))
        script.give(answers(denied(stale=stale(6, A))))
        assert script.outcome == values(6)
        assert balance(script) == {A: StaleServed}

    def test_a_fresh_value_that_comes_in_time_is_better_than_a_stale_one(self):
        script = begun((A,), **WAITING).give(cells(stale(6, A)), answers(denied()))
        script.give(Woke(1.0), cells(value_cell(7, A), now_s=1.0))
        assert script.outcome == values(7)
        assert balance(script) == {A: Hit}

    def test_where_the_store_fails_meanwhile_the_keys_are_loaded_alone(self):
        script = begun((A,)).give(cells(None), answers(denied()), Woke(1.0))
        script.give(StoreFailed(1.0, FailureKind.PERMISSION))
        assert script.command == ComputeMany((A,), ("a",), None)
        assert Waited(A, 1.0) in script.notices

    def test_interrupted_it_ends(self):
        script = begun((A,)).give(cells(None), answers(denied()), Interrupted(0.0))
        assert script.outcome == Abandoned()


# Against a memory store.


def batch(clock, names, number, *, chunk=500, **changes):
    keys = tuple(f"shop:{name}" for name in names)
    each = load_request(name=keys[0], started_s=clock(), nonce=b"batch%03d" % number, **changes)
    return load_many(LoadManyRequest(keys, tuple(names), chunk, each))


def test_1_000_keys_of_which_900_are_cached_cost_three_trips_and_one_call():
    clock = Clock()
    process = Process(MemoryStore(clock), clock)
    names = [str(number) for number in range(1_000)]
    process.run(batch(clock, names[:900], 0, chunk=1_000), lambda wanted: dict.fromkeys(wanted, 1))
    calls = []

    def load(wanted):
        calls.append(wanted)
        return dict.fromkeys(wanted, 2)

    run = process.run(batch(clock, names, 1, chunk=1_000), load)
    assert run.step.outcome == values(*([1] * 900), *([2] * 100))
    assert calls == [tuple(names[900:])]
    asked = [type(each) for each in run.commands if isinstance(each, StoreCommand)]
    assert asked == [ReadCells, AcquireLeases, FillCells]


def test_an_invalidation_during_the_load_wins():
    """S1."""
    clock = Clock()
    store = MemoryStore(clock)
    process = Process(store, clock)
    run = process.start(batch(clock, "ab", 0), lambda wanted: dict.fromkeys(wanted, 1))
    while not isinstance(run.step.command, FillCells):
        process.advance(run)
    store.perform(DeleteKeys((A,), 1.0))
    assert process.finish(run) == values(1, 1)
    assert list(store.dump()) == [B]


def test_cancelled_anywhere_no_lease_stays():
    """L7."""
    clock = Clock()
    turns = 0
    while True:
        store = MemoryStore(clock)
        process = Process(store, clock)
        run = process.start(batch(clock, "abc", 0, chunk=2), lambda wanted: {"a": 1, "b": Absent()})
        for _ in range(turns):
            process.advance(run)
        if run.is_over:
            break
        if isinstance(run.step.command, StoreCommand):
            store.perform(run.step.command)  # the store does it, and nobody hears
        process.interrupt(run)
        assert process.finish(run) == Abandoned()
        assert all(kept.cell.grant == NO_GRANT for kept in store.dump().values())
        turns += 1
    assert turns == 6


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32), chunk=st.integers(1, 4))
def test_overlapping_batches_load_each_key_once_and_none_waits_for_ever(seed, chunk):
    """L2, in one process and between two."""
    random = Random(seed)
    clock = Clock()
    store = MemoryStore(clock)
    processes = [Process(store, clock) for _ in range(2)]
    loaded = []

    def load(wanted):
        loaded.extend(wanted)
        return {name: ord(name) for name in wanted}

    under_way = []
    for number in range(4):
        names = random.sample("abcdef", random.randint(1, 6))
        process = random.choice(processes)
        under_way.append((process, names, process.start(batch(clock, names, number, chunk=chunk), load)))
    started_s = clock()
    for _ in range(2_000):
        pending = [(process, run) for process, _, run in under_way if not run.is_over]
        if not pending:
            break
        process, run = random.choice(pending)
        process.advance(run)
    for _, names, run in under_way:
        assert run.step.outcome == values(*(ord(name) for name in names))
    assert sorted(loaded) == sorted({name for _, names, _ in under_way for name in names})
    assert clock() - started_s < 5.0  # nobody waited for a lease to lapse
    assert all(kept.cell.grant == NO_GRANT for kept in store.dump().values())


def test_every_chunk_has_a_budget_of_its_own():
    script = begun(chunk=1).give(NOTHING)
    for key in KEYS:
        script.give(StoreFailed(0.0, FailureKind.TIMEOUT), StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == lease_requests(key)
        script.give(answers(granted(key)))
    assert isinstance(script.command, ComputeMany)
