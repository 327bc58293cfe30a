"""Refresh: exactly one of all readers of all processes loads anew, and nobody waits."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
from msgspec.structs import replace

from sansio_cache.cell import NO_GRANT, Cell, Kind, make_grant
from sansio_cache.commands import (
    AcquireLease,
    Capture,
    Compute,
    FillCells,
    Lease,
    Mode,
    ReleaseLeases,
    ShareLoad,
)
from sansio_cache.entry import Servable, tags_of
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    Computed,
    ComputeFailed,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    Interrupted,
    LeaseDenied,
    LeaseGranted,
    LeasesReleased,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
    StoreFailed,
    WriterFound,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Ended,
    Hit,
    LoadFailed,
    RefreshFailed,
    RefreshStarted,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.refresh import refresh
from sansio_cache.step import Abandoned, Completed, Loaded, Raised, Value
from support.machines import (
    GRANT,
    INTS,
    KEY,
    NONCE,
    THEIRS,
    TIMEOUTS,
    Clock,
    Process,
    Script,
    load_request,
    value_cell,
)

SOFT_MS = 2_000
FOUND = Servable(6, False, value_cell(6, soft_ms=SOFT_MS))
LED = LoadLed(0.0, 4)
BROKEN = RuntimeError("database")
STALE = {"stale_for_s": 60}


def begun(found=FOUND, now_s=0.0, **changes):
    return Script(refresh(load_request(**{**STALE, **changes}), found, now_s))


def granted(server_ms=SOFT_MS, now_s=0.0, versions=()):
    return LeaseGranted(now_s, GRANT, FOUND.cell, server_ms, versions)


class TestSharing:
    def test_it_asks_whether_this_process_is_at_it_already_and_does_not_wait(self):
        script = begun(now_s=7.0)
        schema = INTS.fingerprint + b"refresh"
        assert script.command == ShareLoad(KEY, schema, None, 0.0, now_s=7.0)

    def test_its_load_is_another_than_that_of_callers_who_wait(self):
        assert begun().command.schema != INTS.fingerprint

    @pytest.mark.parametrize(
        "event",
        [
            SharingTimedOut(0.0, 4),
            LoadShared(0.0, b"7", None),
            LoadErrorShared(0.0, BROKEN),
            LoadNotShared(0.0),
        ],
    )
    def test_whoever_does_not_lead_ends_at_once(self, event):
        script = begun().give(event)
        assert script.outcome == Completed()
        assert script.notices == []

    def test_interrupted_it_ends(self):
        assert begun().give(Interrupted(0.0)).outcome == Abandoned()


class TestAcquiring:
    def test_it_claims_the_lease_of_the_very_value_that_was_found_which_stays_readable(self):
        script = begun().give(LED)
        assert script.command == AcquireLease(KEY, NONCE, 5_000, THEIRS, Mode.KEEP, 0.25)
        assert script.step.load_id == 4

    def test_the_tags_that_the_reader_named_are_captured(self):
        """S7."""
        script = begun(tags=("t:a",)).give(LED)
        assert script.command.capture == Capture(("shop:%t:a",), 2 * 120_000)
        version = make_grant(b"tag-----", 1)
        script.give(granted(versions=(version,)), Computed(0.0, 7))
        assert script.command.tags == ("shop:%t:a",)

    @pytest.mark.parametrize(("server_ms", "early"), [(SOFT_MS - 1, True), (SOFT_MS, False)])
    def test_granted_it_loads_and_says_so(self, server_ms, early):
        script = begun().give(LED, granted(server_ms))
        assert isinstance(script.command, Compute)
        assert script.command.renewal is not None
        assert script.command.previous == 6
        assert script.notices == [RefreshStarted(KEY, early)]

    @pytest.mark.parametrize(
        "stale",
        [None, value_cell(6, soft_ms=SOFT_MS, filled_by=make_grant(b"another-", 9))],
        ids=["invalidated", "another"],
    )
    def test_the_loader_is_not_told_a_value_that_is_there_no_more(self, stale):
        """S1: it was invalidated between the read and the lease request."""
        script = begun().give(LED, LeaseGranted(0.0, GRANT, stale, SOFT_MS))
        assert isinstance(script.command, Compute)
        assert script.command.previous is None

    @pytest.mark.parametrize(("now", "previous"), [(b"tag-----", 6), (b"changed-", None)])
    def test_nor_one_of_which_a_tag_was_invalidated(self, now, previous):
        """S7."""
        version = make_grant(b"tag-----", 1)
        cell = value_cell(6, soft_ms=SOFT_MS, versions=(("t:a", version),))
        script = begun(Servable(6, False, cell), tags=("t:a",))
        script.give(LED, LeaseGranted(0.0, GRANT, cell, SOFT_MS, (make_grant(now, 1),)))
        assert isinstance(script.command, Compute)
        assert script.command.previous == previous

    @pytest.mark.parametrize(("version", "previous"), [(1, 6), (2, None)])
    def test_tags_that_its_reader_does_not_name_count_as_well(self, version, previous):
        cell = value_cell(6, soft_ms=SOFT_MS, versions=(("t:a", make_grant(b"tag-----", 1)),))
        current = (make_grant(b"tag-----", version),)
        granted_now = LeaseGranted(0.0, GRANT, cell, SOFT_MS, current)
        script = begun(Servable(6, False, cell)).give(LED, granted_now)
        assert script.command.previous == previous

    def test_the_value_is_stored_and_no_operation_of_a_users_has_ended(self):
        script = begun().give(LED, granted(), Computed(0.5, 7))
        assert isinstance(script.command, FillCells)
        script.give(CellsFilled(1.0, (FillResult.STORED,)))
        assert script.outcome == Loaded(7, b"7", accepted=True)
        assert script.step.load_id == 4
        assert script.notices == [
            RefreshStarted(KEY, False),
            LoadedNotice(KEY, True, 0.5),
            Stored(KEY, ANY, ANY),
        ]

    @pytest.mark.parametrize(
        ("left_ms", "retry_after_s", "rests_until_s"), [(400, 1.0, 7.4), (5_000, 1.0, 8.0), (400, 0.0, 7.0)]
    )
    def test_while_another_process_is_at_it_the_load_rests(self, left_ms, retry_after_s, rests_until_s):
        script = begun(retry_after_s=retry_after_s).give(LED, LeaseDenied(7.0, left_ms, None, SOFT_MS))
        assert script.outcome == Completed()
        assert script.step.rests_until_s == pytest.approx(rests_until_s)
        assert script.step.load_id == 4

    @pytest.mark.parametrize(
        "event", [FreshFound(0.0, value_cell(7), SOFT_MS), WriterFound(0.0, 500), ForeignFound(0.0)]
    )
    def test_where_there_is_nothing_to_refresh_it_ends(self, event):
        script = begun().give(LED, event)
        assert script.outcome == Completed()
        assert script.step.load_id == 4
        assert script.notices == []

    def test_where_the_store_fails_it_retries_and_then_leaves_it(self):
        script = begun().give(LED, StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == AcquireLease(KEY, NONCE, 5_000, THEIRS, Mode.KEEP, 0.25)
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.outcome == Completed()
        assert script.step.load_id == 4
        assert script.notices[1:] == [
            StoreErrored(FailureKind.PERMISSION),
            StoreGaveUp(FailureKind.PERMISSION),
        ]

    def test_interrupted_the_lease_is_given_back_by_its_nonce(self):
        """L7: an interrupted acquire counts as held."""
        script = begun().give(LED, Interrupted(0.0))
        assert script.command == ReleaseLeases((Lease(KEY, NONCE),), 0.25)
        assert script.give(LeasesReleased(0.0)).outcome == Abandoned()
        assert script.step.load_id == 4

    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self):
        with pytest.raises(ProtocolError):
            begun(tags=("t:a",)).give(LED, granted())


def test_a_refresh_whose_loader_raises_keeps_the_stale_value_and_rests():
    """S13."""
    script = begun(retry_after_s=3.0).give(LED, granted(), ComputeFailed(0.0, BROKEN))
    assert script.command == ReleaseLeases((Lease(KEY, GRANT),), 0.25)
    script.give(LeasesReleased(1.0))
    assert script.outcome == Raised(BROKEN)
    assert script.step.rests_until_s == 4.0
    assert script.notices[1:] == [
        LoadFailed(KEY, True, "RuntimeError"),
        RefreshFailed(KEY, "RuntimeError"),
    ]


def test_its_states_can_be_hashed_whatever_is_refreshed():
    found = Servable([6], False, value_cell(6, soft_ms=SOFT_MS))
    sharing = begun(found).step.state
    acquiring = begun(found).give(LED).step.state
    assert len({sharing, acquiring}) == 2


class Stage:
    """Two processes and a value that is stale, or about to be."""

    def __init__(self, **policy):
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.processes = [Process(self.store, self.clock) for _ in range(2)]
        self.policy = {"ttl": 2, "stale_for_s": 60, **policy}
        self.calls = 0
        self.number = 0
        self.loaded = 6
        self.read()
        self.calls = 0

    def load(self):
        self.calls += 1
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    def read(self, process=0):
        """One reader: its run, over; what it spawned is only begun."""
        self.number += 1
        request = load_request(nonce=b"read%04d" % self.number, started_s=self.clock(), **self.policy)
        return self.processes[process].run(get_or_load(request), self.load)

    def settle(self):
        for process in self.processes:
            for run in process.spawned:
                process.finish(run)

    @property
    def spawned(self):
        return [run for process in self.processes for run in process.spawned]

    def notices(self, kind):
        return [each for run in self.spawned for each in run.notices if isinstance(each, kind)]


def test_of_all_readers_of_all_processes_one_refreshes_and_none_waits():
    """L2."""
    stage = Stage()
    stage.clock.advance(3.0)
    stage.loaded = 7
    before_s = stage.clock()
    reads = [stage.read(number % 2) for number in range(6)]
    assert [run.step.outcome for run in reads] == [Value(6)] * 6
    assert all(StaleServed(KEY) in run.notices for run in reads)
    assert stage.clock() == before_s
    stage.settle()
    assert stage.calls == 1
    assert stage.notices(RefreshStarted) == [RefreshStarted(KEY, False)]
    assert stage.read().step.outcome == Value(7)
    assert all(process.holds_nothing for process in stage.processes)  # B2


def test_an_early_refresh_replaces_a_value_that_is_still_fresh():
    stage = Stage(stale_for_s=0, refresh_at=0.5)
    stage.clock.advance(1.5)
    stage.loaded = 7
    run = stage.read()
    assert run.step.outcome == Value(6)
    assert Hit(KEY) in run.notices
    stage.settle()
    assert stage.notices(RefreshStarted) == [RefreshStarted(KEY, True)]
    assert stage.read().step.outcome == Value(7)


def test_the_refreshes_of_a_failing_loader_are_throttled():
    stage = Stage(retry_after_s=5.0)
    stage.clock.advance(3.0)
    stage.loaded = BROKEN
    for _ in range(4):
        assert stage.read().step.outcome == Value(6)
        stage.settle()
    assert stage.calls == 1
    stage.clock.advance(5.0)
    assert stage.read().step.outcome == Value(6)
    stage.settle()
    assert stage.calls == 2
    assert len(stage.notices(RefreshFailed)) == 2


def test_a_policy_without_a_pause_tries_again_with_every_reader():
    stage = Stage(retry_after_s=0.0)
    stage.clock.advance(3.0)
    stage.loaded = BROKEN
    for _ in range(3):
        stage.read()
        stage.settle()
    assert stage.calls == 3


def test_an_invalidation_during_a_refresh_wins():
    """S1."""
    stage = Stage()
    stage.clock.advance(3.0)
    stage.read()
    [run] = stage.spawned
    process = stage.processes[0]
    while not isinstance(run.step.command, FillCells):
        process.advance(run)
    removal = InvalidateRequest(None, (KEY,), 10, TIMEOUTS, stage.clock())
    process.run(invalidate(removal))
    assert process.finish(run) == Loaded(6, b"6", accepted=False)
    assert stage.store.dump() == {}


def test_a_refresh_of_a_value_that_was_invalidated_meanwhile_loads_after_the_invalidation():
    """S1: its load begins under a grant that is newer."""
    stage = Stage()
    stage.clock.advance(3.0)
    stage.read()
    stage.store.plant(KEY, None, 0)
    stage.loaded = 7
    stage.settle()
    assert stage.read().step.outcome == Value(7)
    assert stage.store.dump()[KEY].cell.grant == NO_GRANT


def test_cancelled_it_leaves_no_lease_behind_and_the_stale_value_in_place():
    """L7, S13."""
    stage = Stage()
    before = stage.store.dump()
    stage.clock.advance(3.0)
    stage.read()
    [run] = stage.spawned
    process = stage.processes[0]
    while not isinstance(run.step.command, Compute):
        process.advance(run)
    process.interrupt(run)
    assert process.finish(run) == Abandoned()
    assert {key: kept.cell for key, kept in stage.store.dump().items()} == {
        key: kept.cell for key, kept in before.items()
    }
    assert process.holds_nothing


def test_a_refresh_whose_process_died_holds_the_next_one_up_no_longer_than_the_lease():
    """L3."""
    stage = Stage(lease_s=5.0, retry_after_s=1.0)
    stage.clock.advance(3.0)
    stage.loaded = 7
    stage.read(0)
    [dead] = stage.spawned
    while not isinstance(dead.step.command, Compute):
        stage.processes[0].advance(dead)
    stage.processes[0].spawned.clear()
    for _ in range(5):
        assert stage.read(1).step.outcome == Value(6)
        stage.settle()
        stage.clock.advance(1.0)
    assert stage.calls == 0
    stage.read(1)
    stage.settle()
    assert stage.calls == 1
    assert stage.read(1).step.outcome == Value(7)


def test_a_request_in_the_background_ends_no_operation():
    assert replace(load_request(), in_background=True).done(1.0) == ()
    assert load_request().done(1.0) == (Ended("get_or_load", 1.0),)


def test_a_tagged_value_keeps_its_tags_though_its_reader_names_none():
    """S7: whoever invalidates one of them means the value, by whomever it was loaded last."""
    tagged = Servable(6, False, value_cell(6, soft_ms=SOFT_MS, versions=(("t:a", THEIRS),)))
    script = Script(refresh(load_request(), tagged, 0.0)).give(LED)
    assert script.command.capture.tags == ("shop:%t:a",)
    script.give(LeaseGranted(0.0, GRANT, tagged.cell, SOFT_MS, (make_grant(b"tag-----", 2),)))
    script.give(Computed(0.0, 7))
    [fill] = script.command.fills
    assert tags_of(Cell(Kind.VALUE, filled_by=GRANT, body=fill.body)) == ("t:a",)
    assert script.command.tags == ("shop:%t:a",)
