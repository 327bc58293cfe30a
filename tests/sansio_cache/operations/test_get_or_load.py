"""Get or load: every path up to the load, as a script of commands and events; see also test_loading.py."""

from __future__ import annotations

import math
from unittest.mock import ANY

import pytest

from sansio_cache.backoff import pause_s, watched_pause_s
from sansio_cache.cell import FOREIGN, NO_GRANT, Kind, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    Capture,
    Compute,
    Fill,
    FillCells,
    Lease,
    Mode,
    ReadCell,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ShareLoad,
    Sleep,
    Watch,
)
from sansio_cache.entry import MissReason, seal, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellRead,
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
    TagsRead,
    Woke,
    WriterFound,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Ended,
    Hit,
    LoadFailed,
    Missed,
    OperationName,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
    VariantStored,
    Waited,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.notices import LoadShared as LoadSharedNotice
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.renewal import renew
from sansio_cache.step import Abandoned, Loaded, Raised, TookTooLong, Unavailable, Value
from sansio_cache.tags import NO_VERSION
from sansio_cache.ttl import Jitter
from support.machines import (
    GRANT,
    INTS,
    KEY,
    NONCE,
    TEXTS,
    THEIRS,
    TIMEOUTS,
    Clock,
    Fault,
    Process,
    Script,
    absent_cell,
    draw,
    load_request,
    value_cell,
)

NOW_MS = 1_000
STALE = value_cell(6, soft_ms=NOW_MS - 1)
FRESH = value_cell(7)
TEXT = value_cell("a", codec=TEXTS)  # another program version's
OTHERS = value_cell(7, "shop:user:2")  # another key's, which its readers refuse
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
TAGS, TAG_KEYS = ("t:a", "t:b"), ("shop:%t:a", "shop:%t:b")
TAGGED = value_cell(7, versions=(("t:a", V1), ("t:b", V2)))
STALE_TAGGED = value_cell(7, soft_ms=NOW_MS - 1, versions=(("t:a", V1), ("t:b", V2)))
OURS = make_grant(b"ours---1", 9)
AT_ONCE = {"stale_for_s": 60}
WAITING = {"stale_for_s": 60, "on_wait_timeout": "stale"}
ABSENT = CellRead(0.0, None, NOW_MS)
LED = LoadLed(0.0, 4)
GRANTED = LeaseGranted(0.0, GRANT, None, NOW_MS)
STORED = CellsFilled(0.0, (FillResult.STORED,))
LEASED = (Kind.EMPTY, 5_000)
RELEASED = LeasesReleased(0.0)
BROKEN = RuntimeError("database")
DONE = Ended(OperationName.GET_OR_LOAD, 0.0)
EXPIRED = Missed(KEY, MissReason.EXPIRED)


def begun(skip=None, **changes):
    return Script(get_or_load(load_request(**changes), skip=skip))


def acquire(*, key=KEY, seen=NO_GRANT, mode=Mode.KEEP, capture=NO_TAGS):
    return AcquireLease(key, NONCE, 5_000, seen, mode, 0.25, capture)


def share(displaced=None, timeout_s=30.0, *, key=KEY, now_s=0.0, arrival=0, heeds_store=True):
    return ShareLoad(key, INTS.fingerprint, displaced, timeout_s, arrival, heeds_store, now_s)


def release(lease_id=GRANT, *, key=KEY):
    return ReleaseLeases((Lease(key, lease_id),), 0.25)


def balance(script):
    """How many answers of each kind the notices count for this one request (B3)."""
    return [type(each) for each in script.notices if isinstance(each, Hit | StaleServed | Missed)]


class TestReading:
    def test_a_fresh_value_is_a_hit_in_one_round_trip(self):
        script = begun()
        assert script.command == ReadCell(KEY, 0.25)
        script.give(CellRead(0.5, FRESH, None))
        assert script.outcome == Value(7)
        assert script.notices == [Hit(KEY), Ended(OperationName.GET_OR_LOAD, 0.5)]

    def test_a_hit_has_taken_as_long_as_since_it_began(self):
        script = begun(started_s=2.0)
        script.give(CellRead(2.5, FRESH, None))
        assert script.notices == [Hit(KEY), Ended(OperationName.GET_OR_LOAD, 0.5)]

    def test_who_names_other_tags_looks_for_another_load(self):
        """25: what an entry is tied to is what the leader has named."""
        named = []
        for tags in ((), TAGS[:1], TAGS):
            script = begun(tags=tags)
            script.give(CellRead(0.0, None, NOW_MS, (V1, V2)[: len(tags)]))
            assert isinstance(script.command, ShareLoad)
            named.append(script.command.schema)
        assert len(set(named)) == 3
        assert named[0] == INTS.fingerprint

    @pytest.mark.parametrize(
        ("cell", "reason"),
        [
            (None, MissReason.ABSENT),
            (STALE, MissReason.EXPIRED),
            (FOREIGN, MissReason.FOREIGN),
            (OTHERS, MissReason.KEY_CHECK),
            (value_cell("a", codec=TEXTS, soft_ms=NOW_MS - 1), MissReason.SCHEMA),
        ],
    )
    def test_what_cannot_be_served_is_a_miss_and_a_load_of_this_process_is_looked_for(self, cell, reason):
        script = begun().give(CellRead(0.0, cell, NOW_MS))
        seen = cell.filled_by.hex() if reason is MissReason.KEY_CHECK else ""
        assert script.notices == [Missed(KEY, reason, seen)]
        assert script.command == share(heeds_store=cell is not FOREIGN)

    def test_a_failed_read_is_retried_and_then_the_loader_runs_without_the_store(self):
        failed = StoreFailed(0.0, FailureKind.TIMEOUT)
        script = begun().give(failed, failed)
        assert script.command == ReadCell(KEY, 0.25)
        script.give(failed)
        assert script.command == share(heeds_store=False)
        assert script.notices[2:] == [
            StoreErrored(FailureKind.TIMEOUT),
            StoreGaveUp(FailureKind.TIMEOUT),
            Missed(KEY, MissReason.STORE_ERROR),
        ]
        assert script.give(LED).command == Compute(KEY, None)

    def test_interrupted_it_ends(self):
        assert begun().give(Interrupted(0.0)).outcome == Abandoned()

    def test_a_value_with_a_soft_expiry_is_not_served_while_the_servers_clock_is_unknown(self):
        script = begun().give(CellRead(0.0, value_cell(7, soft_ms=10**15), None))
        assert script.command == share()

    def test_skipping_the_store_one_load_runs_in_the_process(self):
        script = begun(skip=MissReason.BYPASSED)
        assert script.command == share(heeds_store=False)
        assert script.notices == [Missed(KEY, MissReason.BYPASSED)]
        assert script.give(LED).command == Compute(KEY, None)

    def test_a_disabled_cache_calls_the_loader_and_shares_nothing(self):
        script = begun(skip=MissReason.DISABLED)
        assert script.command == Compute(KEY, None)
        assert script.step.load_id is None
        script.give(Computed(2.0, 7))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.notices == [
            Missed(KEY, MissReason.DISABLED),
            LoadedNotice(KEY, False, 2.0),
            Ended(OperationName.GET_OR_LOAD, 2.0),
        ]


class TestAMissThatLoads:
    def test_it_costs_three_round_trips_read_acquire_fill(self):
        script = begun(ttl=60, stale_for_s=30).give(ABSENT, LED)
        assert script.command == acquire()
        assert script.step.load_id == 4
        script.give(GRANTED)
        assert isinstance(script.command, Compute)
        assert script.command.previous is None
        script.give(Computed(2.0, 7))
        body = seal(KEY, INTS, b"7", 2.0)
        assert script.command == FillCells((Fill(KEY, GRANT, 90_000, 60_000, body),), 0.25)
        script.give(CellsFilled(3.0, (FillResult.STORED,)))
        assert script.outcome == Loaded(7, b"7", accepted=True)
        assert script.step.load_id == 4
        assert script.notices == [
            Missed(KEY, MissReason.ABSENT),
            LoadedNotice(KEY, True, 2.0),
            Stored(KEY, ANY, ANY),
            Ended(OperationName.GET_OR_LOAD, 3.0),
        ]

    def test_no_load_begins_before_its_grant_is_known(self):
        """S4."""
        script = begun().give(ABSENT, LED)
        assert [each.command for each in script.steps if isinstance(each.command, Compute)] == []
        script.give(LeaseGranted(1.0, GRANT, None, NOW_MS))
        renewal = Script(renew(script.command.renewal))
        assert renewal.command == Sleep(5 / 3)
        renewal.give(Woke(2.0))
        assert renewal.command == RenewLeases((Lease(KEY, GRANT),), 5_000, 0.25)

    def test_the_lease_is_renewed_for_the_longest_time_after_its_grant(self):
        script = begun(max_lease_s=20.0).give(ABSENT, LED, LeaseGranted(3.0, GRANT, None, NOW_MS))
        assert Script(renew(script.command.renewal)).give(Woke(22.9)).outcome is None
        assert Script(renew(script.command.renewal)).give(Woke(23.0)).outcome is not None


class TestAcquiring:
    def test_a_fresh_value_that_somebody_stored_meanwhile_is_taken(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, FRESH, NOW_MS))
        assert script.outcome == Value(7)
        assert script.notices == [Missed(KEY, MissReason.ABSENT), DONE]

    @pytest.mark.parametrize("event", [WriterFound(0.0, 500), ForeignFound(0.0)])
    def test_where_a_writer_holds_the_key_or_it_is_not_ours_nothing_is_stored(self, event):
        script = begun().give(ABSENT, LED, event)
        assert script.command == Compute(KEY, None)
        script.give(Computed(0.0, 7))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert LoadedNotice(KEY, False, 0.0) in script.notices

    def test_a_loader_without_a_lease_that_raises_has_nothing_to_give_back(self):
        script = begun().give(ABSENT, LED, WriterFound(0.0, 500), ComputeFailed(0.0, BROKEN))
        assert script.outcome == Raised(BROKEN)
        assert LoadFailed(KEY, False, "RuntimeError") in script.notices

    def test_an_unstorable_value_without_a_lease_has_nothing_to_give_back(self):
        script = begun().give(ABSENT, LED, ForeignFound(0.0), Computed(0.0, "text"))
        assert script.outcome == Loaded("text", None, accepted=False)

    def test_a_foreign_key_is_not_even_asked_for(self):
        assert begun().give(CellRead(0.0, FOREIGN, None), LED).command == Compute(KEY, None)

    def test_it_is_retried_with_the_same_nonce_and_then_the_loader_runs_without_a_lease(self):
        """Fault 1."""
        script = begun().give(ABSENT, LED, StoreFailed(0.0, FailureKind.CONNECTION))
        assert script.command == acquire()
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == Compute(KEY, None)
        assert script.notices[-2:] == [
            StoreErrored(FailureKind.PERMISSION),
            StoreGaveUp(FailureKind.PERMISSION),
        ]

    def test_a_value_that_this_reader_cannot_read_is_replaced(self):
        script = begun().give(CellRead(0.0, OTHERS, NOW_MS), LED)
        assert script.command == acquire(seen=THEIRS, mode=Mode.DROP)

    def test_two_programs_that_refuse_each_others_values_do_not_replace_them_for_ever(self):
        script = begun().give(ABSENT, LED)
        for turn in range(2):
            theirs = make_grant(b"theirs-%d" % turn, 9)
            cell = value_cell(7, "shop:user:2", filled_by=theirs)
            script.give(FreshFound(0.0, cell, NOW_MS))
            assert script.command == acquire(seen=theirs, mode=Mode.DROP)
        script.give(FreshFound(0.0, OTHERS, NOW_MS))
        assert script.command == Compute(KEY, None)


class TestWaiting:
    DENIED = LeaseDenied(0.0, 40, None, NOW_MS)

    def test_another_process_that_loads_is_waited_for_with_growing_pauses(self):
        script = begun().give(ABSENT, LED, LeaseDenied(0.0, 5_000, None, NOW_MS))
        pauses = []
        for turn in range(6):
            watch = Watch((KEY,), 4, watched_pause_s(1, turn, 5.0))
            assert script.command == Sleep(pause_s(1, turn, 5.0), watch)
            pauses.append(script.command.duration_s)
            script.give(Woke(0.0))
            assert script.command == acquire()
            script.give(LeaseDenied(0.0, 5_000, None, NOW_MS))
        assert pauses == sorted(pauses)

    def test_a_pause_does_not_go_past_the_holders_lease_or_the_callers_deadline(self):
        script = begun().give(ABSENT, LED, LeaseDenied(0.0, 1, None, NOW_MS))
        assert script.command.duration_s == pytest.approx(0.0015)
        script = begun(wait_s=0.001).give(ABSENT, LED, LeaseDenied(0.0, 5_000, None, NOW_MS))
        assert script.command == Sleep(0.001, Watch((KEY,), 4, 0.001))

    def test_when_the_other_has_stored_its_value_it_is_taken(self):
        script = begun().give(ABSENT, LED, self.DENIED, Woke(1.0), FreshFound(1.0, FRESH, NOW_MS))
        assert script.outcome == Value(7)
        assert script.notices[1:] == [
            Waited(KEY, 1.0, FRESH.filled_by),
            Ended(OperationName.GET_OR_LOAD, 1.0),
        ]

    def test_when_the_other_gave_up_the_lease_is_ours(self):
        script = begun().give(ABSENT, LED, self.DENIED, Woke(1.0), LeaseGranted(1.0, GRANT, None, NOW_MS))
        assert isinstance(script.command, Compute)
        assert script.command.renewal is not None
        assert script.notices[-1] == Waited(KEY, 1.0)

    def test_past_the_deadline_the_loader_runs_without_a_lease(self):
        script = begun(wait_s=1.0).give(
            ABSENT, LED, self.DENIED, Woke(1.0), LeaseDenied(1.0, 40, None, NOW_MS)
        )
        assert script.command == Compute(KEY, None)
        assert script.notices[-1] == Waited(KEY, 1.0)

    def test_every_question_has_a_budget_of_its_own(self):
        script = begun().give(ABSENT, LED, self.DENIED, Woke(9.0), StoreFailed(9.0, FailureKind.TIMEOUT))
        assert script.command == acquire()


class TestSharing:
    def test_the_payload_of_another_callers_load_is_decoded_for_this_one(self):
        script = begun().give(ABSENT, LoadShared(1.0, b"7", None))
        assert script.outcome == Value(7)
        assert script.notices == [
            Missed(KEY, MissReason.ABSENT),
            Waited(KEY, 1.0),
            LoadSharedNotice(KEY),
            Ended(OperationName.GET_OR_LOAD, 1.0),
        ]

    def test_a_value_without_a_payload_is_taken_as_it_is(self):
        assert begun().give(ABSENT, LoadShared(1.0, None, "copy")).outcome == Value("copy")

    def test_a_payload_that_cannot_be_decoded_is_no_result(self):
        assert begun().give(ABSENT, LoadShared(1.0, b"not json", None)).command == ReadCell(KEY, 0.25)

    def test_the_leaders_exception_is_shared(self):
        script = begun().give(ABSENT, LoadErrorShared(1.0, BROKEN))
        assert script.outcome == Raised(BROKEN)
        assert LoadSharedNotice(KEY) in script.notices

    def test_a_result_that_may_be_too_old_is_not_taken_and_the_store_is_read_again(self):
        script = begun().give(ABSENT, LoadNotShared(1.0))
        assert script.command == ReadCell(KEY, 0.25)
        script.give(CellRead(1.0, FRESH, NOW_MS))
        assert script.outcome == Value(7)
        assert balance(script) == [Missed]  # counted once, at its first read (B3)

    def test_read_again_in_vain_the_request_is_still_one_miss(self):
        script = begun().give(ABSENT, LoadNotShared(1.0), CellRead(1.0, None, NOW_MS), LED)
        assert script.command == acquire()
        assert balance(script) == [Missed]

    def test_without_the_store_the_next_load_of_this_process_is_looked_for(self):
        script = begun(skip=MissReason.STORE_ERROR).give(LoadNotShared(10.0))
        assert script.command == share(timeout_s=20.0, now_s=10.0, heeds_store=False)
        assert script.notices[-1] == Waited(KEY, 10.0)

    def test_a_load_that_takes_too_long_is_displaced_by_one_without_a_lease(self):
        script = begun().give(ABSENT, SharingTimedOut(30.0, 4))
        assert script.command == share(displaced=4, now_s=30.0)
        assert script.notices[-1] == Waited(KEY, 30.0)
        script.give(LoadLed(30.0, 5))
        assert script.command == Compute(KEY, None)
        assert script.step.load_id == 5

    def test_when_that_one_takes_too_long_as_well_the_caller_loads_alone(self):
        script = begun().give(ABSENT, SharingTimedOut(30.0, 4), SharingTimedOut(60.0, 5))
        assert script.command == Compute(KEY, None)
        assert script.step.load_id is None
        assert script.give(Computed(60.0, 7)).outcome == Loaded(7, b"7", accepted=False)


class TestACircle:
    """Who is waited for waits for a loader that this caller is in: it goes on by itself, at once."""

    @pytest.mark.parametrize("changes", [{}, {"on_wait_timeout": "raise"}])
    def test_of_loads_in_this_process_is_left_by_loading_alone(self, changes):
        script = begun(**changes).give(ABSENT, SharingTimedOut(0.0, 4, is_circle=True))
        assert script.command == Compute(KEY, None)
        assert script.step.load_id is None
        assert script.give(Computed(0.0, 7)).outcome == Loaded(7, b"7", accepted=False)

    @pytest.mark.parametrize("changes", [{}, {"on_wait_timeout": "raise"}])
    def test_of_leases_is_left_by_loading_without_one(self, changes):
        script = begun(**changes).give(ABSENT, LED, LeaseDenied(0.0, 5_000, None, NOW_MS))
        script.give(Woke(0.0, is_circle=True))
        assert script.command == Compute(KEY, None)
        assert script.step.load_id == 4
        assert script.give(Computed(0.0, 7)).outcome == Loaded(7, b"7", accepted=False)

    @pytest.mark.parametrize(
        "events",
        [
            [SharingTimedOut(0.0, 4, is_circle=True)],
            [LED, LeaseDenied(0.0, 5_000, STALE, NOW_MS), Woke(0.0, is_circle=True)],
        ],
    )
    def test_is_left_with_a_stale_value_where_there_is_one(self, events):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS), *events)
        assert script.outcome == Value(6)
        assert balance(script) == [StaleServed]


class TestServingStaleAtOnce:
    def test_the_caller_has_its_answer_in_one_round_trip_and_a_refresh_is_spawned(self):
        script = begun(**AT_ONCE).give(CellRead(0.5, STALE, NOW_MS))
        assert script.outcome == Value(6)
        assert script.notices == [StaleServed(KEY), Ended(OperationName.GET_OR_LOAD, 0.5)]
        [spawned] = script.step.spawn
        assert spawned.command == ShareLoad(KEY, INTS.fingerprint + b"refresh", None, 0.0, now_s=0.5)

    def test_a_policy_without_it_serves_nothing_stale_and_spawns_nothing(self):
        script = begun().give(CellRead(0.0, STALE, NOW_MS), LED)
        script.give(LeaseDenied(0.0, 500, STALE, NOW_MS))
        assert isinstance(script.command, Sleep)
        script.give(Woke(0.0), LeaseGranted(0.0, GRANT, STALE, NOW_MS), ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == [Missed]
        assert all(step.spawn == () for step in script.steps)

    def test_an_answer_that_there_is_nothing_is_never_served_stale(self):
        script = begun(**AT_ONCE).give(CellRead(0.0, absent_cell(soft_ms=1), NOW_MS))
        assert script.command == share()
        assert script.notices == [EXPIRED]

    @pytest.mark.parametrize(
        "events",
        [
            [CellRead(0.0, STALE, STALE.soft_ms + 60_000)],
            [CellRead(0.0, STALE, None)],
            [ABSENT, LED, LeaseDenied(0.0, 500, STALE, STALE.soft_ms + 60_000)],
            [ABSENT, LED, LeaseGranted(0.0, GRANT, STALE, STALE.soft_ms + 60_000)],
        ],
    )
    def test_a_stale_value_is_not_served_for_ever_though_failing_refreshes_keep_its_key_alive(self, events):
        """S1f: the life of the entry bounds it, not that of its key."""
        script = begun(**AT_ONCE).give(*events)
        if not isinstance(script.command, Compute):
            script.give(LED if isinstance(script.command, ShareLoad) else Woke(0.0))
            script.give(GRANTED)
        script.give(ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Raised(BROKEN)

    def test_a_stale_value_that_this_reader_cannot_read_is_not_served(self):
        stale_text = value_cell("a", codec=TEXTS, soft_ms=1)
        script = begun(**AT_ONCE).give(ABSENT, LED, LeaseDenied(0.0, 500, stale_text, NOW_MS))
        assert isinstance(script.command, Sleep)

    # B3: each request is counted once, whatever is found on its second look.

    def test_a_miss_that_finds_a_stale_value_when_it_acquires_is_counted_once(self):
        script = begun(**AT_ONCE).give(ABSENT, LED, LeaseDenied(0.0, 500, STALE, NOW_MS))
        assert script.outcome == Value(6)
        assert balance(script) == [Missed]

    def test_a_miss_that_is_granted_a_stale_value_is_counted_once(self):
        granted = LeaseGranted(0.0, GRANT, STALE, NOW_MS)
        script = begun(**AT_ONCE).give(ABSENT, LED, granted, Computed(0.0, 7), STORED)
        assert balance(script) == [Missed]
        script = begun(**AT_ONCE).give(ABSENT, LED, granted, ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Value(6)
        assert balance(script) == [Missed]

    def test_a_miss_that_reads_a_stale_value_after_sharing_is_counted_once(self):
        script = begun(**AT_ONCE).give(ABSENT, LoadNotShared(0.0), CellRead(0.0, STALE, NOW_MS))
        assert script.outcome == Value(6)
        assert balance(script) == [Missed]


class TestWaitingForAFreshValueFirst:
    """`on_wait_timeout="stale"`: a stale value is for when the wait is over, or the loader fails."""

    def test_who_leads_loads_while_the_stale_value_stays_readable(self):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS))
        assert script.command == share()
        assert script.notices == []  # hit or miss is not known yet
        script.give(LED)
        assert script.command == acquire()
        script.give(LeaseGranted(0.0, GRANT, STALE, NOW_MS), Computed(0.0, 7), STORED)
        assert script.outcome == Loaded(7, b"7", accepted=True)
        assert script.notices[0] == EXPIRED
        assert balance(script) == [Missed]
        assert all(step.spawn == () for step in script.steps)

    def test_another_process_is_waited_for_and_when_the_time_is_over_the_stale_value_is_served(self):
        script = begun(**WAITING, wait_s=1.0).give(CellRead(0.0, STALE, NOW_MS), LED)
        script.give(LeaseDenied(0.0, 500, STALE, NOW_MS))
        assert isinstance(script.command, Sleep)
        script.give(Woke(1.0), LeaseDenied(1.0, 500, STALE, NOW_MS))
        assert script.outcome == Value(6)
        assert script.notices == [StaleServed(KEY), Waited(KEY, 1.0), Ended(OperationName.GET_OR_LOAD, 1.0)]

    def test_another_caller_is_waited_for_and_when_the_time_is_over_the_stale_value_is_served(self):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS), SharingTimedOut(30.0, 4))
        assert script.outcome == Value(6)
        assert script.notices == [StaleServed(KEY), Waited(KEY, 30.0), Ended(OperationName.GET_OR_LOAD, 30.0)]

    @pytest.mark.parametrize(
        "event",
        [
            LoadErrorShared(3.0, BROKEN),
            LoadNotShared(3.0, 0),
            LoadShared(3.0, b"7", None),
            SharingTimedOut(3.0, 4),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_who_has_waited_has_waited_since_it_looked_for_a_load(self, event):
        script = begun(**WAITING, started_s=2.0).give(CellRead(2.5, STALE, NOW_MS), event)
        assert [each.waited_s for each in script.notices if isinstance(each, Waited)] == [0.5]

    def test_without_a_stale_value_the_loader_runs_when_the_time_is_over(self):
        script = begun(**WAITING, wait_s=0.0).give(ABSENT, LED, LeaseDenied(0.0, 500, None, NOW_MS))
        assert script.command == Compute(KEY, None)

    @pytest.mark.parametrize(
        "events",
        [
            (LED, LeaseGranted(0.0, GRANT, STALE, NOW_MS), ComputeFailed(0.0, BROKEN), RELEASED),
            (LED, WriterFound(0.0, 9), ComputeFailed(0.0, BROKEN)),
            (LoadErrorShared(0.0, BROKEN),),
        ],
        ids=["with a lease", "without a lease", "in another caller"],
    )
    def test_a_loader_that_raises_is_covered_by_the_stale_value(self, events):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS), *events)
        assert script.outcome == Value(6)
        assert balance(script) == [StaleServed]

    @pytest.mark.parametrize(
        "answer", [LeaseDenied(0.0, 50, None, NOW_MS), GRANTED], ids=["denied", "granted"]
    )
    def test_a_stale_value_is_served_no_more_once_it_is_gone(self, answer):
        """It was invalidated, or its life is over (S1f)."""
        script = begun(**WAITING, wait_s=0.0).give(CellRead(0.0, STALE, NOW_MS), LED, answer)
        script.give(ComputeFailed(0.0, BROKEN))
        if answer == GRANTED:
            script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == [Missed]

    def test_a_fresh_value_found_after_a_stale_one_is_one_miss(self):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS), LED, FreshFound(0.0, FRESH, NOW_MS))
        assert script.outcome == Value(7)
        assert balance(script) == [Missed]

    def test_a_shared_load_after_a_stale_read_is_one_miss(self):
        script = begun(**WAITING).give(CellRead(0.0, STALE, NOW_MS), LoadShared(0.0, b"7", None))
        assert script.outcome == Value(7)
        assert balance(script) == [Missed]

    def test_a_miss_that_reads_a_stale_value_after_sharing_is_counted_once(self):
        script = begun(**WAITING).give(ABSENT, LoadNotShared(0.0), CellRead(0.0, STALE, NOW_MS))
        script.give(SharingTimedOut(0.0, 4))
        assert script.outcome == Value(6)
        assert balance(script) == [Missed]

    @pytest.mark.parametrize("answer", [Computed(0.0, 7), ComputeFailed(0.0, BROKEN)])
    def test_a_stale_value_replaced_by_an_unreadable_one_is_counted_once(self, answer):
        stale_text = value_cell("a", codec=TEXTS, soft_ms=1)
        script = begun(**WAITING).give(
            CellRead(0.0, STALE, NOW_MS), LED, LeaseGranted(0.0, GRANT, stale_text, NOW_MS), answer
        )
        script.give(RELEASED if isinstance(answer, ComputeFailed) else STORED)
        assert script.outcome in (Raised(BROKEN), Loaded(7, b"7", accepted=True))
        assert balance(script) == [Missed]

    def test_a_stale_value_read_again_after_sharing_is_counted_once(self):
        stale_read = CellRead(0.0, STALE, NOW_MS)
        script = begun(**WAITING, wait_s=0.0).give(stale_read, LoadNotShared(0.0), stale_read, LED)
        script.give(LeaseDenied(0.0, 500, STALE, NOW_MS))
        assert script.outcome == Value(6)
        assert balance(script) == [StaleServed]


class TestRaisingWhenTheWaitIsOver:
    """`on_wait_timeout="raise"`."""

    def test_for_a_load_of_this_process(self):
        script = begun(on_wait_timeout="raise").give(ABSENT, SharingTimedOut(30.0, 4))
        assert script.outcome == TookTooLong(30.0)
        assert script.notices == [
            Missed(KEY, MissReason.ABSENT),
            Waited(KEY, 30.0),
            Ended(OperationName.GET_OR_LOAD, 30.0),
        ]

    def test_for_a_load_of_another_process(self):
        denied = LeaseDenied(0.0, 40, None, NOW_MS)
        script = begun(on_wait_timeout="raise", wait_s=1.0).give(ABSENT, LED, denied, Woke(1.0))
        script.give(LeaseDenied(1.0, 40, None, NOW_MS))
        assert script.outcome == TookTooLong(1.0)
        assert script.step.load_id == 4
        assert script.notices[1:] == [Waited(KEY, 1.0), Ended(OperationName.GET_OR_LOAD, 1.0)]
        assert balance(script) == [Missed]

    def test_a_stale_value_that_turns_up_is_better_than_an_error(self):
        script = begun(on_wait_timeout="raise", stale_for_s=60, wait_s=0.0)
        script.give(ABSENT, LED, LeaseDenied(0.0, 40, STALE, NOW_MS))
        assert script.outcome == Value(6)


class TestRaisingWhereTheStoreFails:
    """`on_read_error="raise"`: the caller is to know, and no loader runs."""

    DOWN = StoreFailed(0.0, FailureKind.UNAVAILABLE)
    GAVE_UP = (StoreErrored(FailureKind.UNAVAILABLE), StoreGaveUp(FailureKind.UNAVAILABLE))

    def test_at_the_read(self):
        script = begun(on_read_error="raise").give(self.DOWN)
        assert script.outcome == Unavailable(FailureKind.UNAVAILABLE)
        assert script.notices == [*self.GAVE_UP, Missed(KEY, MissReason.STORE_ERROR), DONE]

    def test_when_it_reads_again_after_sharing_the_request_stays_one_miss(self):
        script = begun(on_read_error="raise").give(ABSENT, LoadNotShared(0.0), self.DOWN)
        assert script.outcome == Unavailable(FailureKind.UNAVAILABLE)
        assert balance(script) == [Missed]

    def test_when_the_lease_is_asked_for(self):
        script = begun(on_read_error="raise").give(ABSENT, LED, self.DOWN)
        assert script.outcome == Unavailable(FailureKind.UNAVAILABLE)
        assert script.step.load_id == 4
        assert script.notices == [Missed(KEY, MissReason.ABSENT), *self.GAVE_UP, DONE]

    def test_when_the_lease_is_asked_for_after_a_stale_value_was_read(self):
        script = begun(on_read_error="raise", **WAITING).give(CellRead(0.0, STALE, NOW_MS), LED, self.DOWN)
        assert script.outcome == Unavailable(FailureKind.UNAVAILABLE)
        assert balance(script) == [Missed]

    @pytest.mark.parametrize("events", [(), (ABSENT, LED)], ids=["read", "found when acquiring"])
    def test_when_tags_are_asked_for(self, events):
        found = FreshFound(0.0, TAGGED, NOW_MS) if events else CellRead(0.0, TAGGED, NOW_MS)
        script = begun(on_read_error="raise").give(*events, found, self.DOWN)
        assert script.outcome == Unavailable(FailureKind.UNAVAILABLE)
        assert balance(script) == [Missed]

    def test_while_the_breaker_is_open(self):
        script = begun(skip=MissReason.STORE_ERROR, on_read_error="raise")
        assert script.outcome == Unavailable(None)
        assert script.notices == [Missed(KEY, MissReason.STORE_ERROR), DONE]

    @pytest.mark.parametrize("skip", [MissReason.DISABLED, MissReason.BYPASSED])
    def test_but_not_where_the_store_is_not_to_be_asked(self, skip):
        script = begun(skip=skip, on_read_error="raise")
        assert isinstance(script.command, Compute | ShareLoad)


class TestEarlyRefresh:
    CELL = value_cell(7, filled_by=make_grant(b"theirs-1", 0), soft_ms=2_000, load_s=0.1)

    @pytest.mark.parametrize(("server_ms", "is_due"), [(999, False), (1_000, True), (1_999, True)])
    def test_at_a_share_of_the_entrys_life_a_refresh_is_spawned(self, server_ms, is_due):
        script = begun(refresh_at=0.5).give(CellRead(0.0, self.CELL, server_ms))
        assert script.outcome == Value(7)
        assert script.notices == [Hit(KEY), DONE]
        assert len(script.step.spawn) == is_due

    @pytest.mark.parametrize(
        ("draw_", "server_ms", "is_due"),
        [(math.exp(-1), 1_898, False), (math.exp(-1), 1_902, True), (1.0, 1_999, False)],
    )
    def test_xfetch_spawns_one_the_more_likely_the_longer_the_load_took(self, draw_, server_ms, is_due):
        random_bytes = draw(draw_refresh=draw_)
        script = begun(xfetch_beta=1.0, random_bytes=random_bytes).give(CellRead(0.0, self.CELL, server_ms))
        assert script.outcome == Value(7)
        assert len(script.step.spawn) == is_due

    def test_without_the_policy_nothing_is_refreshed_before_it_is_stale(self):
        assert begun(**AT_ONCE).give(CellRead(0.0, self.CELL, 1_999)).step.spawn == ()

    @pytest.mark.parametrize("server_ms", [10**9, None])
    def test_an_entry_that_never_becomes_stale_is_not_refreshed(self, server_ms):
        script = begun(refresh_at=0.5).give(CellRead(0.0, FRESH, server_ms))
        assert script.outcome == Value(7)
        assert script.step.spawn == ()


class TestAbsence:
    def test_that_there_is_nothing_is_a_hit_and_the_answer_is_none(self):
        script = begun().give(CellRead(0.0, absent_cell(), NOW_MS))
        assert script.outcome == Value(None)
        assert script.notices == [Hit(KEY), DONE]

    def test_it_is_taken_from_whoever_has_found_it_out_meanwhile(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, absent_cell(), NOW_MS))
        assert script.outcome == Value(None)


class TestWhatIsReplaced:
    """The value that is being replaced goes to the loader, where it is known and can be read."""

    def test_a_value_that_has_expired(self):
        script = begun().give(CellRead(0.0, STALE, NOW_MS), LED, WriterFound(0.0, 9))
        assert script.command.previous == 6

    def test_nothing_where_it_is_gone_by_the_time_of_the_lease(self):
        script = begun().give(CellRead(0.0, STALE, NOW_MS), LED, GRANTED)
        assert script.command.previous is None

    def test_it_is_a_copy_of_the_loaders_own(self):
        codec = codec_for(list[int], 1_000)
        stale = value_cell([6], codec=codec, soft_ms=NOW_MS - 1)
        script = begun(codec=codec, **WAITING).give(CellRead(0.0, stale, NOW_MS), LED)
        script.give(LeaseGranted(0.0, GRANT, stale, NOW_MS))
        assert script.command.previous == [6]
        script.command.previous.append(7)
        script.give(ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Value([6])

    def test_a_value_that_is_found_with_the_lease(self):
        script = begun().give(ABSENT, LED, LeaseGranted(0.0, GRANT, STALE, NOW_MS))
        assert script.command.previous == 6

    def test_nothing_where_it_cannot_be_read(self):
        stale_text = value_cell("a", codec=TEXTS, soft_ms=1)
        script = begun().give(ABSENT, LED, LeaseGranted(0.0, GRANT, stale_text, NOW_MS))
        assert script.command.previous is None


class TestNamedTags:
    CAPTURE = Capture(TAG_KEYS, 120_000)
    """For twice the longest life of an entry."""

    def test_their_versions_are_read_with_the_cell(self):
        script = begun(tags=TAGS)
        assert script.command == ReadCell(KEY, 0.25, TAG_KEYS)
        script.give(CellRead(0.0, TAGGED, NOW_MS, (V1, V2)))
        assert script.outcome == Value(7)
        assert script.notices == [Hit(KEY), DONE]

    @pytest.mark.parametrize(
        ("cell", "versions"),
        [
            (TAGGED, (V1, V3)),
            (TAGGED, (V1, NO_VERSION)),
            (TAGGED, (V2, V1)),
            (FRESH, (V1, V2)),
            (value_cell(7, versions=(("t:a", V1),)), (V1, V2)),
            (value_cell(7, versions=(("t:a", V1), ("t:b", bytes(16)))), (V1, NO_VERSION)),
        ],
        ids=["changed", "gone", "swapped", "untagged", "another's tags", "zeros"],
    )
    def test_an_entry_that_lacks_one_or_has_another_version_of_it_is_replaced(self, cell, versions):
        """S7."""
        script = begun(tags=TAGS).give(CellRead(0.0, cell, NOW_MS, versions))
        assert script.notices == [Missed(KEY, MissReason.TAG)]
        script.give(LED)
        assert script.command == acquire(seen=THEIRS, mode=Mode.DROP, capture=self.CAPTURE)

    def test_they_are_captured_before_the_load_and_stored_with_the_value(self):
        """S7."""
        script = begun(tags=TAGS).give(CellRead(0.0, None, NOW_MS, (V1, NO_VERSION)), LED)
        assert script.command == acquire(capture=self.CAPTURE)
        script.give(LeaseGranted(0.0, GRANT, None, NOW_MS, (V1, V2)), Computed(0.0, 7))
        body = seal(KEY, INTS, b"7", 0.0, (("t:a", V1), ("t:b", V2)))
        assert script.command == FillCells((Fill(KEY, GRANT, 60_000, 0, body, *LEASED),), 0.25, TAG_KEYS)

    def test_the_capture_outlives_twice_the_longest_entry_that_jitter_and_staleness_may_make(self):
        script = begun(tags=TAGS, jitter=Jitter(0.1, 0.2), stale_for_s=10)
        script.give(CellRead(0.0, None, NOW_MS, (V1, V2)), LED)
        assert script.command.capture == Capture(TAG_KEYS, 2 * (72_000 + 10_000))

    @pytest.mark.parametrize(
        "answer",
        [
            LeaseDenied(0.0, 500, STALE_TAGGED, NOW_MS, (V1, V3)),
            LeaseGranted(0.0, GRANT, STALE_TAGGED, NOW_MS, (V1, V3)),
        ],
        ids=["denied", "granted"],
    )
    def test_a_stale_value_whose_tags_have_changed_is_not_served(self, answer):
        """S7 holds for what is served as stale, too."""
        script = begun(tags=TAGS, **AT_ONCE).give(CellRead(0.0, None, NOW_MS, (V1, V3)), LED, answer)
        if isinstance(script.command, Sleep):
            script.give(Woke(0.0), LeaseGranted(0.0, GRANT, None, NOW_MS, (V1, V3)))
        assert script.give(ComputeFailed(0.0, BROKEN), RELEASED).outcome == Raised(BROKEN)

    @pytest.mark.parametrize("answer", [LeaseDenied, LeaseGranted])
    def test_a_stale_value_is_served_no_more_once_a_tag_has_changed_while_the_caller_waited(self, answer):
        """S7."""
        script = begun(tags=TAGS, **WAITING, wait_s=0.0)
        script.give(CellRead(0.0, STALE_TAGGED, NOW_MS, (V1, V2)), LED)
        script.give(answer(0.0, 50 if answer is LeaseDenied else GRANT, STALE_TAGGED, NOW_MS, (V1, V3)))
        script.give(ComputeFailed(0.0, BROKEN))
        if answer is LeaseGranted:
            script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert balance(script) == [Missed]

    def test_a_stale_value_whose_tags_hold_is_served(self):
        read = CellRead(0.0, STALE_TAGGED, NOW_MS, (V1, V2))
        assert begun(tags=TAGS, **AT_ONCE).give(read).outcome == Value(7)
        denied = LeaseDenied(0.0, 500, STALE_TAGGED, NOW_MS, (V1, V2))
        script = begun(tags=TAGS, **AT_ONCE).give(CellRead(0.0, None, NOW_MS, (V1, V2)), LED, denied)
        assert script.outcome == Value(7)

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        with pytest.raises(ProtocolError):
            begun(tags=TAGS).give(CellRead(0.0, TAGGED, NOW_MS, versions))
        led = begun(tags=TAGS).give(CellRead(0.0, None, NOW_MS, (V1, V2)), LED)
        for answer in (
            LeaseGranted(0.0, GRANT, None, NOW_MS, versions),
            LeaseDenied(0.0, 5, None, NOW_MS, versions),
            FreshFound(0.0, TAGGED, NOW_MS, versions),
        ):
            with pytest.raises(ProtocolError):
                led.step.state.receive(answer)


class TestTagsThatTheCallerHasNotNamed:
    """They are found in the entry, and asked for in a second round trip."""

    def test_the_value_is_served_if_they_hold(self):
        script = begun().give(CellRead(0.0, TAGGED, NOW_MS))
        assert script.command == ReadTags(TAG_KEYS, 0.25)
        assert script.notices == []
        script.give(TagsRead(0.5, (V1, V2), NOW_MS))
        assert script.outcome == Value(7)
        assert script.notices == [Hit(KEY), Ended(OperationName.GET_OR_LOAD, 0.5)]

    @pytest.mark.parametrize("versions", [(V1, V3), (V1, NO_VERSION), (NO_VERSION, NO_VERSION)])
    def test_else_it_is_replaced(self, versions):
        """S7."""
        script = begun().give(CellRead(0.0, TAGGED, NOW_MS), TagsRead(0.0, versions, NOW_MS), LED)
        assert script.notices == [Missed(KEY, MissReason.TAG)]
        assert script.command == acquire(seen=THEIRS, mode=Mode.DROP)

    def test_only_those_are_asked_for_that_are_not_known(self):
        script = begun(tags=("t:b",)).give(CellRead(0.0, TAGGED, NOW_MS, (V2,)))
        assert script.command == ReadTags(TAG_KEYS[:1], 0.25)
        assert script.give(TagsRead(0.0, (V1,), NOW_MS)).outcome == Value(7)

    def test_a_stale_value_is_checked_as_well(self):
        script = begun(**AT_ONCE).give(CellRead(0.0, STALE_TAGGED, NOW_MS), TagsRead(0.0, (V1, V2), NOW_MS))
        assert script.outcome == Value(7)
        assert balance(script) == [StaleServed]
        script = begun(**AT_ONCE).give(CellRead(0.0, STALE_TAGGED, NOW_MS), TagsRead(0.0, (V1, V3), NOW_MS))
        assert script.command == share()
        assert balance(script) == [Missed]

    def test_a_stale_value_that_was_checked_covers_a_loader_that_raises(self):
        script = begun(**WAITING).give(CellRead(0.0, STALE_TAGGED, NOW_MS), TagsRead(0.0, (V1, V2), NOW_MS))
        script.give(LED, LeaseGranted(0.0, GRANT, STALE_TAGGED, NOW_MS), ComputeFailed(0.0, BROKEN), RELEASED)
        assert script.outcome == Value(7)
        assert balance(script) == [StaleServed]

    def test_one_whose_removal_the_store_has_not_been_told_of_has_no_version(self):
        script = begun(bypassed=frozenset(TAG_KEYS[1:]))
        script.give(CellRead(0.0, TAGGED, NOW_MS), TagsRead(0.0, (V1, V2), NOW_MS))
        assert script.notices == [Missed(KEY, MissReason.TAG)]

    def test_a_failure_is_retried_and_then_the_loader_runs_without_the_store(self):
        script = begun().give(CellRead(0.0, TAGGED, NOW_MS), StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == ReadTags(TAG_KEYS, 0.25)
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == share(heeds_store=False)
        assert script.notices[1:] == [
            StoreErrored(FailureKind.PERMISSION),
            StoreGaveUp(FailureKind.PERMISSION),
            Missed(KEY, MissReason.STORE_ERROR),
        ]

    def test_interrupted_it_ends(self):
        script = begun().give(CellRead(0.0, TAGGED, NOW_MS), Interrupted(0.0))
        assert script.outcome == Abandoned()

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        script = begun().give(CellRead(0.0, TAGGED, NOW_MS))
        with pytest.raises(ProtocolError):
            script.give(TagsRead(0.0, versions, NOW_MS))

    def test_what_somebody_stored_meanwhile_is_served_if_they_hold(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TAGGED, NOW_MS))
        assert script.command == ReadTags(TAG_KEYS, 0.25)
        assert script.step.load_id == 4
        script.give(TagsRead(0.0, (V1, V2), NOW_MS))
        assert script.outcome == Value(7)
        assert script.step.load_id == 4
        assert balance(script) == [Missed]

    def test_what_somebody_stored_meanwhile_is_replaced_if_they_do_not_hold(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TAGGED, NOW_MS), TagsRead(0.0, (V1, V3), NOW_MS))
        assert script.command == acquire(seen=THEIRS, mode=Mode.DROP)

    def test_where_they_cannot_be_had_of_it_the_loader_runs_without_a_lease(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TAGGED, NOW_MS))
        script.give(StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.command == Compute(KEY, None)
        assert script.step.load_id == 4

    def test_interrupted_meanwhile_the_load_ends(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TAGGED, NOW_MS), Interrupted(0.0))
        assert script.outcome == Abandoned()
        assert script.step.load_id == 4


class TestVariantOfAnotherVersionsEntry:
    """Fault 33: a fresh entry of another program version is never replaced by a reader."""

    VARIANT = variant_key(KEY, INTS.fingerprint)
    VARIANT_OF = (("", THEIRS),)

    def ours(self, filled_by=THEIRS, **options):
        return value_cell(7, self.VARIANT, versions=(("", filled_by),), filled_by=OURS, **options)

    def test_what_is_kept_beside_it_is_a_hit_and_the_entry_is_left_alone(self):
        script = begun().give(CellRead(0.0, TEXT, NOW_MS))
        assert script.command == ReadCell(self.VARIANT, 0.25)
        script.give(CellRead(0.0, self.ours(), NOW_MS))
        assert script.outcome == Value(7)
        assert script.notices == [Hit(KEY), DONE]

    @pytest.mark.parametrize("server_ms", [NOW_MS, None])
    def test_only_a_fresh_one_is_left_alone(self, server_ms):
        stale_text = value_cell("a", codec=TEXTS, soft_ms=1)
        script = begun().give(CellRead(0.0, stale_text, server_ms), LED)
        assert script.notices == [Missed(KEY, MissReason.SCHEMA)]
        assert script.command == acquire(seen=THEIRS, mode=Mode.DROP)

    def test_where_there_is_nothing_beside_it_one_is_loaded_and_kept_there(self):
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), ABSENT)
        assert script.notices == [Missed(KEY, MissReason.SCHEMA)]
        assert script.command == share(key=self.VARIANT)
        script.give(LED)
        assert script.command == acquire(key=self.VARIANT)
        script.give(GRANTED)
        assert (script.command.key, script.command.name) == (self.VARIANT, KEY)
        script.give(Computed(0.0, 7))
        body = seal(self.VARIANT, INTS, b"7", 0.0, self.VARIANT_OF)
        assert script.command == FillCells((Fill(self.VARIANT, GRANT, 60_000, 0, body, *LEASED),), 0.25)
        script.give(STORED)
        assert script.outcome.value == 7
        assert script.notices[1:] == [
            VariantStored(KEY),
            LoadedNotice(KEY, True, 0.0),
            Stored(KEY, ANY, ANY),
            DONE,
        ]

    def test_what_is_tied_to_an_older_value_is_replaced(self):
        """S1: that value is gone, and what was loaded while it was there may be old."""
        old = self.ours(filled_by=make_grant(b"theirs-0", 1))
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), CellRead(0.0, old, NOW_MS), LED)
        assert script.notices == [Missed(KEY, MissReason.SCHEMA)]
        assert script.command == acquire(key=self.VARIANT, seen=OURS, mode=Mode.DROP)

    def test_what_is_beside_it_and_tied_to_nothing_is_no_entry_of_this_kind(self):
        loose = value_cell(7, self.VARIANT)
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), CellRead(0.0, loose, NOW_MS))
        assert script.notices == [Missed(KEY, MissReason.SCHEMA)]

    def test_what_is_kept_beside_it_is_served_stale_as_any_other(self):
        script = begun(**AT_ONCE).give(CellRead(0.0, TEXT, NOW_MS))
        script.give(CellRead(0.0, self.ours(soft_ms=NOW_MS - 1), NOW_MS))
        assert script.outcome == Value(7)
        [spawned] = script.step.spawn
        assert spawned.command.key == self.VARIANT

    def test_the_tags_of_what_is_kept_beside_it_are_checked_too(self):
        """S7."""
        cell = value_cell(7, self.VARIANT, versions=(*self.VARIANT_OF, ("t:a", V1)))
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), CellRead(0.0, cell, NOW_MS))
        assert script.command == ReadTags(TAG_KEYS[:1], 0.25)
        assert script.give(TagsRead(0.0, (V1,), NOW_MS)).outcome == Value(7)

    def test_what_is_kept_beside_it_is_tied_to_its_tags_too(self):
        """S7: whoever invalidates one of them means both."""
        text = value_cell("a", codec=TEXTS, versions=(("t:b", V2),))
        script = begun(tags=("t:a",)).give(CellRead(0.0, text, NOW_MS, (V1,)))
        assert script.command == ReadCell(self.VARIANT, 0.25, TAG_KEYS)
        script.give(CellRead(0.0, None, NOW_MS, (V1, V2)), LED)
        assert script.command.capture.tags == TAG_KEYS
        granted = LeaseGranted(0.0, GRANT, None, NOW_MS, (V1, V2))
        script.give(granted, Computed(0.0, 7))
        [fill] = script.command.fills
        assert fill.body == seal(self.VARIANT, INTS, b"7", 0.0, (("t:a", V1), ("t:b", V2), *self.VARIANT_OF))

    def test_so_it_is_beside_one_that_is_stored_meanwhile(self):
        """S7."""
        text = value_cell("a", codec=TEXTS, versions=(("t:a", V1), ("t:b", V2)))
        script = begun(tags=("t:a",)).give(CellRead(0.0, None, NOW_MS, (V1,)), LED)
        script.give(FreshFound(0.0, text, NOW_MS, (V1,)))
        assert script.command.key == self.VARIANT
        assert script.command.capture.tags == TAG_KEYS

    def test_what_is_beside_it_without_its_tags_is_replaced(self):
        """S7: one that an older version of the library has kept there, say."""
        text = value_cell("a", codec=TEXTS, versions=(("t:a", V1),))
        script = begun().give(CellRead(0.0, text, NOW_MS), CellRead(0.0, self.ours(), NOW_MS, (V1,)), LED)
        assert script.command == acquire(
            key=self.VARIANT, seen=OURS, mode=Mode.DROP, capture=Capture(TAG_KEYS[:1], 2 * 60_000)
        )

    @pytest.mark.parametrize("is_there", [True, False])
    def test_while_the_store_was_not_told_of_one_of_its_tags_nothing_is_kept_beside_it(self, is_there):
        """S7: nobody would see that what is kept there is older than the invalidation."""
        text = value_cell("a", codec=TEXTS, versions=(("t:a", V1),))
        script = begun(bypassed=frozenset(TAG_KEYS[:1]))
        if is_there:
            script.give(CellRead(0.0, text, NOW_MS), LED)
        else:
            script.give(ABSENT, LED, FreshFound(0.0, text, NOW_MS))
        assert script.command == Compute(KEY, None)
        assert script.give(Computed(0.0, 7)).outcome == Loaded(7, b"7", accepted=False)
        assert balance(script) == [Missed]
        assert VariantStored(KEY) not in script.notices

    def test_a_load_that_turns_beside_while_it_claims_and_waits_is_told_of_what_is_there(self):
        """L4: the load is the same, and the key is another."""
        script = begun().give(ABSENT, LED, LeaseDenied(0.0, 500, None, NOW_MS))
        assert (script.command.watch.keys, script.command.watch.load_id) == ((KEY,), 4)
        script.give(Woke(0.1), FreshFound(0.1, TEXT, NOW_MS), LeaseDenied(0.1, 500, None, NOW_MS))
        assert (script.command.watch.keys, script.command.watch.load_id) == ((self.VARIANT,), 4)

    def test_the_loader_of_one_that_turned_beside_is_to_ask_for_neither(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TEXT, NOW_MS), GRANTED)
        assert (script.command.key, script.command.name) == (self.VARIANT, KEY)

    def test_a_foreign_key_beside_it_is_not_touched(self):
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), CellRead(0.0, FOREIGN, NOW_MS), LED)
        assert script.command == Compute(self.VARIANT, None, name=KEY)
        assert balance(script) == [Missed]

    def test_one_that_is_stored_meanwhile_is_left_alone_as_well(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TEXT, NOW_MS))
        assert script.command == acquire(key=self.VARIANT)
        assert script.step.load_id == 4
        script.give(FreshFound(0.0, self.ours(), NOW_MS))
        assert script.outcome == Value(7)
        assert balance(script) == [Missed]

    def test_an_older_one_beside_it_is_replaced_then(self):
        script = begun().give(ABSENT, LED, FreshFound(0.0, TEXT, NOW_MS))
        old = self.ours(filled_by=make_grant(b"theirs-0", 1))
        script.give(FreshFound(0.0, old, NOW_MS))
        assert script.command == acquire(key=self.VARIANT, seen=OURS, mode=Mode.DROP)

    def test_interrupted_it_is_the_lease_beside_that_is_given_back(self):
        script = begun().give(CellRead(0.0, TEXT, NOW_MS), ABSENT, LED, Interrupted(0.0))
        assert script.command == release(NONCE, key=self.VARIANT)


class TestInterruption:
    @pytest.mark.parametrize(
        "events",
        [
            (ABSENT,),
            (ABSENT, LED, LeaseDenied(0.0, 500, None, NOW_MS)),
            (ABSENT, LED, WriterFound(0.0, 500)),
        ],
        ids=["sharing", "waiting", "computing without a lease"],
    )
    def test_where_nothing_is_held_it_ends_at_once(self, events):
        script = begun().give(*events, Interrupted(0.0))
        assert script.outcome == Abandoned()
        assert DONE not in script.notices

    @pytest.mark.parametrize(
        ("events", "lease_id"),
        [
            ((ABSENT, LED), NONCE),
            ((ABSENT, LED, GRANTED), GRANT),
            ((ABSENT, LED, GRANTED, Computed(0.0, 7)), GRANT),
            ((ABSENT, LED, GRANTED, ComputeFailed(0.0, BROKEN)), GRANT),
        ],
        ids=["acquiring", "computing", "filling", "releasing"],
    )
    def test_a_lease_is_given_back_by_its_nonce_where_the_grant_is_unknown(self, events, lease_id):
        """L7."""
        script = begun().give(*events, Interrupted(0.0))
        assert script.command == release(lease_id)
        assert script.step.load_id == 4
        script.give(RELEASED)
        assert script.outcome == Abandoned()
        assert script.step.load_id == 4

    def test_it_ends_as_abandoned_even_if_the_release_fails(self):
        script = begun().give(ABSENT, LED, Interrupted(0.0), StoreFailed(0.0, FailureKind.PERMISSION))
        assert script.outcome == Abandoned()
        assert DONE not in script.notices


class TestAgainstAMemoryStore:
    def test_a_second_request_is_a_hit_and_the_loader_runs_once(self):
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        calls = iter([7])
        first = process.run(get_or_load(load_request(started_s=clock())), lambda: next(calls))
        second = process.run(get_or_load(load_request(started_s=clock(), nonce=b"second-1")))
        assert first.step.outcome == Loaded(7, b"7", accepted=True)
        assert second.step.outcome == Value(7)
        assert [type(each) for each in second.commands] == [ReadCell]

    def test_concurrent_callers_share_one_load(self):
        """L2, in one process."""
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        calls = iter([7])
        runs = [
            process.start(
                get_or_load(load_request(started_s=clock(), nonce=b"caller-%d" % number)), lambda: next(calls)
            )
            for number in range(5)
        ]
        for run in runs:
            process.advance(run)  # read
            process.advance(run)  # join
        outcomes = [process.finish(run) for run in runs]
        assert outcomes == [Loaded(7, b"7", accepted=True), *(Value(7),) * 4]
        assert process.holds_nothing

    def test_two_processes_load_once_and_the_other_waits(self):
        """L2, between processes."""
        clock = Clock()
        store = MemoryStore(clock)
        one, other = Process(store, clock), Process(store, clock)
        first = one.start(get_or_load(load_request(started_s=clock())), lambda: 7)
        for _ in range(3):
            one.advance(first)  # read, lead, acquire: the loader runs next
        second = other.start(get_or_load(load_request(started_s=clock(), nonce=b"second-1")))
        for _ in range(5):
            other.advance(second)
        assert isinstance(second.step.command, Sleep | AcquireLease)
        one.finish(first)
        assert other.finish(second) == Value(7)

    def test_an_invalidation_between_load_and_fill_wins(self):
        """S1: whatever removes the key voids the load in flight."""
        clock = Clock()
        store = MemoryStore(clock)
        process = Process(store, clock)
        run = process.start(get_or_load(load_request(started_s=clock())), lambda: 7)
        while not isinstance(run.step.command, FillCells):
            process.advance(run)
        store.plant(KEY, None, 0)
        assert process.finish(run) == Loaded(7, b"7", accepted=False)
        assert store.dump() == {}

    def test_a_grant_whose_reply_was_lost_is_granted_again(self):
        """Fault 2: the same nonce gets the same grant."""
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        lost = iter([Fault(FailureKind.TIMEOUT, is_done=True)])
        process.fault = lambda command: next(lost, None) if isinstance(command, AcquireLease) else None
        run = process.run(get_or_load(load_request(started_s=clock())), lambda: 7)
        assert run.step.outcome == Loaded(7, b"7", accepted=True)

    def test_a_fill_whose_reply_was_lost_was_accepted(self):
        """Fault 2: the repeated fill is answered 'already done'."""
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        lost = iter([Fault(FailureKind.CONNECTION, is_done=True)])
        process.fault = lambda command: next(lost, None) if isinstance(command, FillCells) else None
        run = process.run(get_or_load(load_request(started_s=clock())), lambda: 7)
        assert run.step.outcome == Loaded(7, b"7", accepted=True)

    def test_cancelled_while_the_acquire_was_under_way_no_lease_stays(self):
        """L7: an interrupted acquire counts as held."""
        clock = Clock()
        store = MemoryStore(clock)
        process = Process(store, clock)
        run = process.start(get_or_load(load_request(started_s=clock())), lambda: 7)
        process.advance(run)
        process.advance(run)
        store.perform(run.step.command)  # the store does it, and nobody hears
        assert len(store) == 1
        process.interrupt(run)
        assert process.finish(run) == Abandoned()
        assert len(store) == 0
        assert process.holds_nothing

    def test_the_deadline_of_its_budget_is_250_ms_whatever_the_store_does(self):
        """L5: with every attempt timing out, the loader begins within one operation's time."""
        clock = Clock()
        process = Process(MemoryStore(clock), clock)

        def frozen(command):
            clock.advance(command.timeout_s)
            return Fault(FailureKind.TIMEOUT, is_done=False)

        process.fault = frozen
        run = process.run(get_or_load(load_request(started_s=clock())), lambda: 7)
        assert run.step.outcome == Loaded(7, b"7", accepted=False)
        assert clock() - 1_000.0 <= TIMEOUTS.operation_s + 1e-9
