"""The memory store: what the scripts do, branch by branch, and that it keeps within its bounds."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Foreign, Kind, Tag, make_grant
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    AcquireLeases,
    Capture,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    HoldCells,
    Lease,
    LeaseRequest,
    Mode,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    SwapCell,
)
from sansio_cache.events import (
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    LeasesRenewed,
    Ponged,
    StoreFailed,
    TagsRead,
    WriterFound,
)
from sansio_cache.memory_store import ENTRY_OVERHEAD_BYTES, Kept, MemoryStore
from support.machines import KEY, Clock

NOW_S = 1_000.0
NOW_MS = 1_000_000
MINE, OTHER = b"nonce--1", b"nonce--2"
EARLIER = make_grant(b"earlier1", 5)
LATER_MS = NOW_MS + 60_000


class Stage:
    """A store, its clock, and short names for what a test asks of it."""

    def __init__(self, **limits):
        self.clock = Clock(NOW_S)
        self.store = MemoryStore(self.clock, **limits)

    @property
    def cell(self):
        kept = self.store.dump().get(KEY)
        return kept and kept.cell

    @property
    def expires_ms(self):
        return self.store.dump()[KEY].expires_ms

    def plant(self, cell, expires_ms=LATER_MS, key=KEY):
        self.store.plant(key, cell, expires_ms)
        return self

    def read(self, key=KEY):
        return self.store.perform(ReadCell(key, 1.0)).cell

    def acquire(self, nonce=MINE, *, seen=NO_GRANT, mode=Mode.KEEP, lease_ms=5_000, key=KEY):
        return self.store.perform(AcquireLease(key, nonce, lease_ms, seen, mode, 1.0))

    def fill(self, grant, body=b"body", *, hard_ms=60_000, soft_ms=0, key=KEY, lease=()):
        event = self.store.perform(FillCells((Fill(key, grant, hard_ms, soft_ms, body, *lease),), 1.0))
        return event.results[0]

    def renew(self, lease_id, lease_ms=5_000):
        return self.store.perform(RenewLeases((Lease(KEY, lease_id),), lease_ms, 1.0)).renewed[0]

    def release(self, lease_id):
        return self.store.perform(ReleaseLeases((Lease(KEY, lease_id),), 1.0))

    def versions(self, *tags):
        """The versions of tags as a reader gets them."""
        return self.store.perform(ReadTags(tags, 1.0)).versions

    def capture(self, *tags, nonce=MINE, ttl_ms=60_000):
        return self.store.perform(AcquireLeases((), nonce, 1, 1.0, Capture(tags, ttl_ms))).versions

    def expire(self, *keys):
        return self.store.perform(ExpireCells(keys, 1.0))

    def hold(self, nonce=MINE, hold_ms=5_000):
        return self.store.perform(HoldCells((KEY,), nonce, hold_ms, 1.0)).grants[0]


@pytest.fixture
def stage():
    return Stage()


def value(*, soft_ms=0, grant=NO_GRANT, deadline_ms=0):
    return Cell(Kind.VALUE, grant, deadline_ms, soft_ms, EARLIER, b"old")


STALE_MS = NOW_MS - 1


class TestReading:
    def test_a_missing_key_is_none_and_a_cell_is_as_it_was_put(self, stage):
        assert stage.store.perform(ReadCell(KEY, 1.0)) == CellRead(NOW_S, None, NOW_MS)
        assert stage.plant(value()).read() == value()
        assert stage.plant(FOREIGN).read() == FOREIGN

    def test_many_are_read_in_order(self, stage):
        stage.plant(value())
        event = stage.store.perform(ReadCells(("shop:none", KEY), 500, 1.0))
        assert event == CellsRead(NOW_S, (None, value()), NOW_MS)

    def test_an_entry_is_gone_at_its_expiry_and_not_before(self, stage):
        stage.plant(value(), NOW_MS + 1)
        assert stage.read() == value()
        stage.clock.advance(0.001)
        assert stage.read() is None
        assert len(stage.store) == 0

    def test_it_answers_a_ping(self, stage):
        assert stage.store.perform(Ping(1.0)) == Ponged(NOW_S)


class TestAcquiring:
    def test_of_a_missing_key_the_lease_is_granted(self, stage):
        event = stage.acquire()
        assert event == LeaseGranted(NOW_S, make_grant(MINE, NOW_MS * 1000), None, NOW_MS)
        assert stage.cell == Cell(Kind.EMPTY, event.grant, NOW_MS + 5_000)
        assert stage.expires_ms == NOW_MS + 5_000

    def test_of_a_foreign_key_it_is_not_and_the_key_is_left_alone(self, stage):
        assert stage.plant(FOREIGN).acquire() == ForeignFound(NOW_S)
        assert stage.cell == FOREIGN

    def test_of_a_key_that_a_writer_holds_it_is_not(self, stage):
        stage.hold(hold_ms=300)
        assert stage.acquire(OTHER) == WriterFound(NOW_S, 300)

    def test_a_fresh_value_is_handed_out_instead(self, stage):
        assert stage.plant(value()).acquire() == FreshFound(NOW_S, value(), NOW_MS)
        fresh = value(soft_ms=NOW_MS + 1)
        assert stage.plant(fresh).acquire() == FreshFound(NOW_S, fresh, NOW_MS)

    def test_a_fresh_value_that_the_reader_refuses_is_dropped_for_the_lease(self, stage):
        event = stage.plant(value()).acquire(seen=EARLIER, mode=Mode.DROP)
        assert isinstance(event, LeaseGranted)
        assert event.stale is None
        assert stage.cell == Cell(Kind.EMPTY, event.grant, NOW_MS + 5_000)

    def test_a_fresh_value_other_than_the_refused_one_is_not_dropped(self, stage):
        event = stage.plant(value()).acquire(seen=make_grant(OTHER, 9), mode=Mode.DROP)
        assert event == FreshFound(NOW_S, value(), NOW_MS)

    def test_a_fresh_value_may_be_refreshed_early_and_stays_readable(self, stage):
        event = stage.plant(value()).acquire(seen=EARLIER, mode=Mode.KEEP)
        assert isinstance(event, LeaseGranted)
        assert event.stale == value()
        assert stage.cell == value(grant=event.grant, deadline_ms=NOW_MS + 5_000)

    def test_a_value_past_its_soft_expiry_stays_readable_under_the_lease(self, stage):
        stage.plant(value(soft_ms=NOW_MS))
        event = stage.acquire()
        assert event.stale == value(soft_ms=NOW_MS)
        assert stage.cell == value(soft_ms=NOW_MS, grant=event.grant, deadline_ms=NOW_MS + 5_000)
        assert stage.expires_ms == LATER_MS

    def test_a_value_lives_at_least_as_long_as_the_lease_upon_it(self, stage):
        stage.plant(value(soft_ms=STALE_MS), NOW_MS + 10).acquire()
        assert stage.expires_ms == NOW_MS + 5_000

    @pytest.mark.parametrize("cell", [None, value(soft_ms=STALE_MS)], ids=["empty", "stale"])
    def test_ones_own_retry_gets_the_same_grant(self, cell, stage):
        """S3, fault 2."""
        first = stage.plant(cell).acquire()
        stage.clock.advance(0.01)
        again = stage.acquire()
        assert again.grant == first.grant
        assert (again.stale is None) == (cell is None)

    def test_while_another_loads_it_is_denied_for_the_time_left(self, stage):
        stage.acquire(lease_ms=5_000)
        stage.clock.advance(2.0)
        assert stage.acquire(OTHER) == LeaseDenied(NOW_S + 2, 3_000, None, NOW_MS + 2_000)

    def test_while_another_refreshes_the_stale_value_comes_with_the_denial(self, stage):
        granted = stage.plant(value(soft_ms=STALE_MS)).acquire()
        event = stage.acquire(OTHER)
        kept = value(soft_ms=STALE_MS, grant=granted.grant, deadline_ms=NOW_MS + 5_000)
        assert event == LeaseDenied(NOW_S, 5_000, kept, NOW_MS)
        dropped = stage.acquire(OTHER, seen=EARLIER, mode=Mode.DROP)
        assert dropped == LeaseDenied(NOW_S, 5_000, None, NOW_MS)

    def test_a_lease_that_has_lapsed_is_granted_to_the_next(self, stage):
        """L3."""
        first = stage.plant(value(soft_ms=STALE_MS)).acquire(lease_ms=100)
        stage.clock.advance(0.1)
        second = stage.acquire(OTHER)
        assert isinstance(second, LeaseGranted)
        assert second.grant != first.grant
        assert stage.fill(first.grant) is FillResult.REFUSED

    def test_no_two_grants_share_an_id_while_the_clock_stands_still(self, stage):
        """S3: a late duplicate, once its grant is gone, gets a new one (fault 3)."""
        grants = []
        for _ in range(100):
            grants.append(stage.acquire().grant)
            stage.plant(None)
        assert len(set(grants)) == 100

    def test_microseconds_never_go_back(self, stage):
        first = stage.acquire().grant
        stage.plant(None)
        stage.clock.now_s = 1.0
        second = stage.acquire().grant
        assert second[8:] > first[8:]


class TestFilling:
    def test_under_the_grant_the_value_is_stored_and_the_lease_is_over(self, stage):
        grant = stage.acquire().grant
        assert stage.fill(grant, b"new", hard_ms=90_000, soft_ms=60_000) is FillResult.STORED
        assert stage.cell == Cell(Kind.VALUE, NO_GRANT, 0, NOW_MS + 60_000, grant, b"new")
        assert stage.expires_ms == NOW_MS + 90_000

    def test_without_a_soft_expiry_there_is_none(self, stage):
        stage.fill(stage.acquire().grant, soft_ms=0)
        assert stage.cell.soft_ms == 0

    def test_repeated_it_is_already_done_and_changes_nothing(self, stage):
        """S2, fault 2."""
        grant = stage.acquire().grant
        stage.fill(grant, b"new")
        before = stage.store.dump()
        stage.clock.advance(1.0)
        assert stage.fill(grant, b"other") is FillResult.ALREADY_STORED
        assert stage.store.dump() == before

    @pytest.mark.parametrize("cell", [None, FOREIGN, value(), Cell(Kind.EMPTY, EARLIER, LATER_MS)])
    def test_without_ones_grant_in_the_cell_it_is_refused(self, cell, stage):
        stage.plant(cell)
        before = stage.store.dump()
        assert stage.fill(make_grant(MINE, 1)) is FillResult.REFUSED
        assert stage.store.dump() == before

    def test_a_lapsed_lease_that_nobody_took_is_still_good(self, stage):
        """Fault 8: if the cell still holds this grant, accepting is safe."""
        grant = stage.plant(value(soft_ms=STALE_MS)).acquire(lease_ms=10).grant
        stage.clock.advance(1.0)
        assert stage.fill(grant) is FillResult.STORED

    def test_under_a_hold_it_works_the_same(self, stage):
        grant = stage.hold()
        assert stage.fill(grant, b"new") is FillResult.STORED
        assert stage.cell.body == b"new"

    def test_a_value_larger_than_the_whole_store_is_refused_as_out_of_memory(self):
        stage = Stage(max_bytes=1_000)
        grant = stage.acquire().grant
        command = FillCells((Fill(KEY, grant, 1_000, 0, bytes(1_000)),), 1.0)
        assert stage.store.perform(command) == StoreFailed(NOW_S, FailureKind.OUT_OF_MEMORY)
        assert stage.cell.kind == Kind.EMPTY

    def test_many_are_answered_in_order(self, stage):
        grant = stage.acquire().grant
        fills = (Fill("shop:none", grant, 1, 0, b""), Fill(KEY, grant, 1, 0, b""))
        event = stage.store.perform(FillCells(fills, 1.0))
        assert event == CellsFilled(NOW_S, (FillResult.REFUSED, FillResult.STORED))


class TestRenewing:
    def test_ones_own_lease_lasts_from_now_and_the_key_with_it(self, stage):
        grant = stage.acquire(lease_ms=5_000).grant
        stage.clock.advance(4.0)
        assert stage.renew(grant)
        assert stage.cell == Cell(Kind.EMPTY, grant, NOW_MS + 9_000)
        assert stage.expires_ms == NOW_MS + 9_000

    def test_the_life_of_a_value_is_never_shortened(self, stage):
        grant = stage.plant(value(soft_ms=STALE_MS)).acquire().grant
        assert stage.renew(grant)
        assert stage.expires_ms == LATER_MS

    def test_a_hold_is_renewed_the_same(self, stage):
        grant = stage.hold(hold_ms=100)
        assert stage.renew(grant, 700)
        assert stage.cell == Cell(Kind.HOLD, grant, NOW_MS + 700)

    @pytest.mark.parametrize("cell", [None, FOREIGN, value(), Cell(Kind.EMPTY, EARLIER, LATER_MS)])
    def test_what_is_not_ones_own_is_left_alone(self, cell, stage):
        """S5."""
        stage.plant(cell)
        before = stage.store.dump()
        command = RenewLeases((Lease(KEY, make_grant(MINE, 1)),), 9_000, 1.0)
        assert stage.store.perform(command) == LeasesRenewed(NOW_S, (False,))
        assert stage.store.dump() == before


class TestReleasing:
    @pytest.mark.parametrize("length", [16, 8], ids=["by its grant", "by its nonce"])
    def test_an_empty_cell_or_a_hold_goes(self, length, stage):
        assert stage.release(stage.acquire().grant[:length]) == LeasesReleased(NOW_S)
        assert stage.cell is None
        stage.release(stage.hold()[:length])
        assert stage.cell is None

    @pytest.mark.parametrize("length", [16, 8], ids=["by its grant", "by its nonce"])
    def test_a_value_stays_without_the_lease(self, length, stage):
        """S13: an existing stale payload stays."""
        grant = stage.plant(value(soft_ms=STALE_MS)).acquire().grant
        stage.release(grant[:length])
        assert stage.cell == value(soft_ms=STALE_MS)
        assert stage.expires_ms == LATER_MS

    @pytest.mark.parametrize("cell", [None, FOREIGN, value(), Cell(Kind.EMPTY, EARLIER, LATER_MS)])
    @pytest.mark.parametrize("lease_id", [make_grant(MINE, 1), MINE, bytes(8)])
    def test_what_is_not_ones_own_is_left_alone(self, cell, lease_id, stage):
        """S5."""
        stage.plant(cell)
        before = stage.store.dump()
        stage.release(lease_id)
        assert stage.store.dump() == before


class TestHolding:
    @pytest.mark.parametrize(
        "cell",
        [None, FOREIGN, value(), Cell(Kind.EMPTY, EARLIER, LATER_MS), Cell(Kind.HOLD, EARLIER, LATER_MS)],
    )
    def test_a_writer_overrides_whatever_is_there(self, cell, stage):
        stage.plant(cell)
        event = stage.store.perform(HoldCells((KEY,), MINE, 300, 1.0))
        assert event == HoldsTaken(NOW_S, (make_grant(MINE, NOW_MS * 1000),))
        assert stage.cell == Cell(Kind.HOLD, event.grants[0], NOW_MS + 300)
        assert stage.expires_ms == NOW_MS + 300

    def test_ones_own_retry_gets_the_same_grant(self, stage):
        assert stage.hold() == stage.hold()

    def test_a_hold_voids_the_load_in_flight(self, stage):
        """S1."""
        grant = stage.acquire().grant
        stage.hold(OTHER)
        assert stage.fill(grant) is FillResult.REFUSED

    def test_every_key_has_a_grant_of_its_own(self, stage):
        grants = stage.store.perform(HoldCells(("shop:a", "shop:b"), MINE, 300, 1.0)).grants
        assert grants[0] != grants[1]


class TestDeletingAndScanning:
    def test_deleted_keys_are_gone_and_those_that_existed_are_counted(self, stage):
        stage.plant(value()).plant(value(), NOW_MS, key="shop:expired")
        event = stage.store.perform(DeleteKeys((KEY, "shop:none", "shop:expired"), 1.0))
        assert event == KeysDeleted(NOW_S, 1)
        assert stage.store.dump() == {}

    def test_a_removal_voids_the_load_in_flight(self, stage):
        """S1."""
        grant = stage.acquire().grant
        stage.store.perform(DeleteKeys((KEY,), 1.0))
        assert stage.fill(grant) is FillResult.REFUSED

    def test_a_scan_finds_the_keys_of_a_glob_in_one_page_but_for_expired_ones(self, stage):
        for name in ("shop:user:1", "shop:user:22", "shop:order:1"):
            stage.plant(value(), key=name)
        stage.plant(value(), NOW_MS, key="shop:user:3")
        event = stage.store.perform(ScanKeys("shop:user:*", 0, 1, 1.0))
        assert event == KeysFound(NOW_S, 0, ("shop:user:1", "shop:user:22"))

    @pytest.mark.parametrize("pattern", ["*", "s*", "a?c", "[ab]*", "nothing"])
    def test_globs_mean_what_they_mean_to_others(self, pattern, stage):
        names = ("abc", "axc", "bcd", "sx")
        for name in names:
            stage.plant(value(), key=name)
        found = stage.store.perform(ScanKeys(pattern, 0, 1, 1.0)).keys
        assert found == tuple(name for name in names if fnmatchcase(name, pattern))


class TestAcquiringMany:
    def test_each_claim_is_answered_as_if_it_were_alone_and_in_order(self, stage):
        stage.plant(value()).plant(FOREIGN, key="shop:foreign")
        held = stage.store.perform(HoldCells(("shop:held",), OTHER, 300, 1.0)).grants
        stage.acquire(OTHER, key="shop:theirs")
        lease_requests = tuple(
            LeaseRequest(key, NO_GRANT, Mode.KEEP)
            for key in ("shop:none", KEY, "shop:foreign", "shop:held", "shop:theirs")
        )
        event = stage.store.perform(AcquireLeases(lease_requests, MINE, 5_000, 1.0))
        assert isinstance(event, LeasesAnswered)
        granted = event.answers[0]
        assert isinstance(granted, LeaseGranted)
        assert event.answers == (
            granted,
            FreshFound(NOW_S, value(), NOW_MS),
            ForeignFound(NOW_S),
            WriterFound(NOW_S, 300),
            LeaseDenied(NOW_S, 5_000, None, NOW_MS),
        )
        assert stage.fill(granted.grant, key="shop:none") is FillResult.STORED
        assert held

    def test_a_value_that_is_refused_is_dropped_for_its_own_claim_alone(self, stage):
        stage.plant(value()).plant(value(), key="shop:b")
        lease_requests = (LeaseRequest(KEY, EARLIER, Mode.DROP), LeaseRequest("shop:b", NO_GRANT, Mode.KEEP))
        event = stage.store.perform(AcquireLeases(lease_requests, MINE, 5_000, 1.0))
        assert [type(each) for each in event.answers] == [LeaseGranted, FreshFound]
        assert stage.cell.kind == Kind.EMPTY
        assert stage.read("shop:b") == value()

    def test_every_key_has_a_grant_of_its_own_and_a_retry_gets_the_same_ones(self, stage):
        """S3, fault 2."""
        lease_requests = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in ("shop:a", "shop:b"))
        command = AcquireLeases(lease_requests, MINE, 5_000, 1.0)
        first = [each.grant for each in stage.store.perform(command).answers]
        again = [each.grant for each in stage.store.perform(command).answers]
        assert first == again
        assert len(set(first)) == 2


class TestTags:
    A, B = "shop:%t:a", "shop:%t:b"

    def test_a_tag_that_is_missing_has_no_version(self, stage):
        assert stage.store.perform(ReadTags((self.A, self.B), 1.0)) == TagsRead(NOW_S, (b"", b""), NOW_MS)

    def test_reading_does_not_issue_one(self, stage):
        stage.versions(self.A)
        stage.store.perform(ReadCell(KEY, 1.0, (self.A,)))
        stage.store.perform(ReadCells((KEY,), 500, 1.0, (self.A,)))
        assert stage.store.dump() == {}

    def test_a_capture_issues_the_missing_ones_and_leaves_the_others(self, stage):
        [first] = stage.capture(self.A)
        again, other = stage.capture(self.A, self.B, nonce=OTHER)
        assert again == first == make_grant(MINE, NOW_MS * 1000)
        assert other.startswith(OTHER)
        assert stage.versions(self.B, self.A) == (other, first)

    @pytest.mark.parametrize("kind", ["lease", "leases", "holds"])
    def test_it_is_captured_before_a_load_or_a_write_begins(self, kind, stage):
        """S7."""
        capture = Capture((self.A,), 60_000)
        command = {
            "lease": AcquireLease(KEY, MINE, 5_000, NO_GRANT, Mode.KEEP, 1.0, capture),
            "leases": AcquireLeases((LeaseRequest(KEY, NO_GRANT, Mode.KEEP),), MINE, 5_000, 1.0, capture),
            "holds": HoldCells((KEY,), MINE, 5_000, 1.0, capture),
        }[kind]
        event = stage.store.perform(command)
        [version] = event.versions
        assert stage.versions(self.A) == (version,)
        assert version < stage.cell.grant  # issued before it

    def test_whoever_is_denied_or_finds_a_value_learns_the_versions_too(self, stage):
        capture = Capture((self.A,), 60_000)
        command = AcquireLease(KEY, MINE, 5_000, NO_GRANT, Mode.KEEP, 1.0, capture)
        stage.acquire(OTHER)
        assert stage.store.perform(command).versions == stage.versions(self.A)
        stage.plant(value())
        assert stage.store.perform(command).versions == stage.versions(self.A)

    @pytest.mark.parametrize("cell", [FOREIGN, Cell(Kind.HOLD, EARLIER, LATER_MS)])
    def test_who_is_to_load_without_storing_needs_none(self, cell, stage):
        capture = Capture((self.A,), 60_000)
        event = stage.plant(cell).store.perform(
            AcquireLease(KEY, MINE, 5_000, NO_GRANT, Mode.KEEP, 1.0, capture)
        )
        assert isinstance(event, ForeignFound | WriterFound)

    def test_their_versions_are_read_in_the_same_trip_as_cells(self, stage):
        [version] = stage.capture(self.A)
        stage.plant(value())
        tags = (self.B, self.A)
        one = stage.store.perform(ReadCell(KEY, 1.0, tags))
        assert one == CellRead(NOW_S, value(), NOW_MS, (b"", version))
        many = stage.store.perform(ReadCells((KEY,), 500, 1.0, tags))
        assert many == CellsRead(NOW_S, (value(),), NOW_MS, (b"", version))

    def test_they_are_read_again_after_a_fill(self, stage):
        [version] = stage.capture(self.A)
        fill = Fill(KEY, stage.acquire().grant, 60_000, 0, b"new")
        event = stage.store.perform(FillCells((fill,), 1.0, (self.A, self.B)))
        assert event == CellsFilled(NOW_S, (FillResult.STORED,), (version, b""))

    @pytest.mark.parametrize("how", ["deleted", "expired", "evicted", "overwritten"])
    def test_a_version_that_went_missing_never_comes_back(self, how):
        """S7, S3: nor to a late duplicate of the very command that captured it (fault 3)."""
        stage = Stage(max_entries=3)
        [first] = stage.capture(self.A, ttl_ms=50)
        match how:
            case "deleted":
                assert stage.store.perform(DeleteKeys((self.A,), 1.0)) == KeysDeleted(NOW_S, 1)
            case "expired":
                stage.clock.advance(0.075)
            case "evicted":
                for number in range(3):
                    stage.plant(value(), key=f"shop:{number}")
            case "overwritten":
                stage.plant(FOREIGN, key=self.A)
        assert stage.versions(self.A) == (b"",)
        assert stage.capture(self.A) != (first,)

    def test_a_capture_keeps_the_key_for_its_time_and_never_shortens_it(self, stage):
        for ttl_ms, kept_ms in ((51, 76), (76, 76), (9_000, 13_500), (50, 13_500), (13_500, 13_500)):
            stage.capture(self.A, ttl_ms=ttl_ms)
            assert stage.store.dump()[self.A].expires_ms == NOW_MS + kept_ms, "longer than asked for, seldom"

    def test_a_key_that_holds_something_else_has_no_version_until_one_is_issued(self, stage):
        stage.plant(value(), key=self.A).plant(FOREIGN, key=self.B)
        assert stage.versions(self.A, self.B) == (b"", b"")
        assert all(len(version) == 16 for version in stage.capture(self.A, self.B))

    def test_to_a_reader_of_cells_a_tag_is_foreign(self, stage):
        stage.capture(KEY)
        assert stage.read() == FOREIGN
        assert stage.acquire() == ForeignFound(NOW_S)
        assert stage.expire(KEY) == CellsExpired(NOW_S, 0)
        assert stage.versions(KEY) != (b"",)

    def test_without_tags_nothing_is_captured(self, stage):
        command = AcquireLease(KEY, MINE, 5_000, NO_GRANT, Mode.KEEP, 1.0, NO_TAGS)
        assert stage.store.perform(command).versions == ()
        assert list(stage.store.dump()) == [KEY]


class TestExpiring:
    @pytest.mark.parametrize("soft_ms", [0, NOW_MS + 5_000])
    def test_a_fresh_value_is_stale_from_now_on_and_lives_as_long_as_before(self, soft_ms, stage):
        assert stage.plant(value(soft_ms=soft_ms)).expire(KEY) == CellsExpired(NOW_S, 1)
        assert stage.cell == value(soft_ms=NOW_MS)
        assert stage.expires_ms == LATER_MS

    def test_a_stale_value_does_not_become_fresher(self, stage):
        assert stage.plant(value(soft_ms=STALE_MS)).expire(KEY) == CellsExpired(NOW_S, 1)
        assert stage.cell == value(soft_ms=STALE_MS)

    def test_the_load_in_flight_is_voided(self, stage):
        """S1."""
        grant = stage.plant(value(soft_ms=STALE_MS)).acquire().grant
        stage.expire(KEY)
        assert stage.cell == value(soft_ms=STALE_MS)
        assert stage.fill(grant) is FillResult.REFUSED

    def test_a_lease_without_a_value_goes(self, stage):
        """S1."""
        grant = stage.acquire().grant
        assert stage.expire(KEY) == CellsExpired(NOW_S, 0)
        assert stage.cell is None
        assert stage.fill(grant) is FillResult.REFUSED

    def test_a_writers_hold_goes_whose_value_may_be_older(self, stage):
        """S1."""
        grant = stage.hold()
        assert stage.expire(KEY) == CellsExpired(NOW_S, 0)
        assert stage.cell is None
        assert stage.fill(grant) is FillResult.REFUSED

    @pytest.mark.parametrize("cell", [None, FOREIGN])
    def test_what_is_not_ours_is_left_alone(self, cell, stage):
        stage.plant(cell)
        before = stage.store.dump()
        assert stage.expire(KEY) == CellsExpired(NOW_S, 0)
        assert stage.store.dump() == before

    def test_many_are_counted(self, stage):
        stage.plant(value()).plant(value(), key="shop:b")
        assert stage.expire("shop:none", KEY, "shop:b") == CellsExpired(NOW_S, 2)

    def test_what_has_expired_is_refreshed_by_the_next_reader(self, stage):
        stage.plant(value()).expire(KEY)
        assert isinstance(stage.acquire(), LeaseGranted)


class TestBounds:
    def test_the_least_recently_used_entry_goes_first(self):
        stage = Stage(max_entries=3)
        for name in ("a", "b", "c"):
            stage.plant(value(), key=name)
        stage.read("a")
        stage.plant(value(), key="d")
        assert list(stage.store.dump()) == ["c", "a", "d"]

    def test_leases_are_evicted_like_anything_else_and_their_fill_is_refused(self):
        """Fault 12: an eviction is always safe."""
        stage = Stage(max_entries=1)
        grant = stage.acquire().grant
        stage.plant(value(), key="shop:other")
        assert stage.fill(grant) is FillResult.REFUSED

    def test_entries_go_until_the_bytes_fit(self):
        stage = Stage(max_bytes=3 * (ENTRY_OVERHEAD_BYTES + 1 + 3))
        for name in ("a", "b", "c"):
            stage.plant(value(), key=name)
        assert len(stage.store) == 3
        stage.plant(Cell(Kind.VALUE, body=b"four"), key="d")
        assert list(stage.store.dump()) == ["c", "d"]

    def test_where_nobody_says_how_many_entries_the_bytes_alone_are_the_bound(self):
        """Else a few thousand small values would push each other out in turn, and none would ever be hit."""
        stage = Stage()
        for number in range(20_000):
            stage.plant(value(), key=f"shop:{number}")
        assert len(stage.store) == 20_000
        most = stage.store.max_bytes
        large = Cell(Kind.VALUE, body=bytes(most // 8))
        for number in range(8):
            stage.plant(large, key=f"large:{number}")
        assert stage.store.size_bytes <= most
        assert len(stage.store) == 7, "what was used least went first: all of the small ones, and a large one"

    def test_a_key_too_long_for_the_store_leaves_nothing_behind(self):
        stage = Stage(max_bytes=100)
        assert isinstance(stage.acquire(), LeaseGranted)
        assert len(stage.store) == 0
        assert stage.store.size_bytes == 0

    def test_what_replaces_an_entry_counts_once(self, stage):
        stage.plant(value())
        before = stage.store.size_bytes
        stage.plant(value())
        assert stage.store.size_bytes == before


class TestForSimulations:
    def test_planting_and_dumping_show_the_store_as_it_is(self, stage):
        stage.plant(value(), NOW_MS)
        assert stage.store.dump() == {KEY: Kept(value(), NOW_MS)}  # expired, and shown
        stage.plant(None)
        assert stage.store.dump() == {}

    def test_a_dump_does_not_change_any_more(self, stage):
        dump = stage.store.dump()
        stage.plant(value())
        assert dump == {}


KEYS = ("k1", "k2", "k3")
TAGS = ("t1", "t2")
NONCES = (b"nonce--1", b"nonce--2", b"nonce--3")
MAX_ENTRIES, MAX_BYTES = 2, 2 * ENTRY_OVERHEAD_BYTES + 60
keys = st.sampled_from(KEYS)
nonces = st.sampled_from(NONCES)
pick = st.integers(0, 3)  # of the grants issued last
lasting_ms = st.sampled_from([1, 50, 5_000])


class StoreMachine(RuleBasedStateMachine):
    """Random commands on a few keys, checked against what the cells were just before.

    S2 a grant fills at most once. S3 no two grants share an id, and a retry while its grant is live gets
    the same. S4 only a fill makes or changes a value. S5 release and renew leave what is another's alone.
    S7 a tag's version that has once been another, or missing, does not come back. B2 the store keeps within
    its bounds, and knows its size.
    """

    store_class = MemoryStore

    def __init__(self):
        super().__init__()
        self.clock = Clock(NOW_S)
        self.store = self.store_class(self.clock, MAX_ENTRIES, MAX_BYTES)
        self.issued: list[tuple[str, bytes]] = []
        self.filled: set[tuple[str, bytes]] = set()
        self.current = dict.fromkeys(TAGS, b"")
        self.gone: set[tuple[str, bytes]] = set()

    @initialize(stands_still=st.booleans())
    def choose_a_clock(self, stands_still):
        self.pace = 0.0 if stands_still else 1.0

    def now_ms(self):
        return int(self.clock() * 1000)

    def live(self, key):
        """The cell of a key as a reader would find it."""
        kept = self.store.dump().get(key)
        return kept.cell if kept is not None and kept.expires_ms > self.now_ms() else None

    def cells(self):
        return {key: self.live(key) for key in KEYS}

    def took(self, key, nonce, grant, before):
        """S3, of a grant that has just been answered."""
        assert grant.startswith(nonce)
        if isinstance(before, Cell) and before.grant == grant:
            return
        assert (
            (not isinstance(before, Cell)) or not before.grant.startswith(nonce) or before.kind != Kind.HOLD
        )
        assert grant not in [other for _, other in self.issued]
        self.issued.append((key, grant))

    def values_kept(self, before, but=()):
        """S4: no value has come into being, or changed, but where a fill was made."""
        for key, cell in self.cells().items():
            if key not in but and isinstance(cell, Cell) and cell.kind == Kind.VALUE:
                old = before[key]
                assert isinstance(old, Cell)
                assert (old.kind, old.body, old.filled_by, old.soft_ms) == (
                    cell.kind,
                    cell.body,
                    cell.filled_by,
                    cell.soft_ms,
                )

    @rule(key=keys, nonce=nonces, mode=st.sampled_from(Mode), refuses=st.booleans(), lease_ms=lasting_ms)
    def acquire(self, key, nonce, mode, refuses, lease_ms):
        before = self.cells()
        cell = before[key]
        seen = cell.filled_by if refuses and isinstance(cell, Cell) else NO_GRANT
        event = self.store.perform(AcquireLease(key, nonce, lease_ms, seen, mode, 1.0))
        self.values_kept(before)
        match event:
            case LeaseGranted():
                self.took(key, nonce, event.grant, cell)
                if (
                    isinstance(cell, Cell)
                    and cell.kind != Kind.HOLD
                    and cell.lease_deadline_ms > self.now_ms()
                ):
                    assert cell.grant.startswith(nonce)  # a live lease is nobody else's
            case LeaseDenied():
                assert event.left_ms == cell.lease_deadline_ms - self.now_ms() > 0
                assert not cell.grant.startswith(nonce)
            case FreshFound():
                assert event.cell == cell
                assert cell.kind == Kind.VALUE
                assert cell.filled_by != seen
            case WriterFound():
                assert cell.kind == Kind.HOLD
            case _:
                assert event == ForeignFound(self.clock())
                assert isinstance(cell, Foreign)

    @rule(key=keys, nonce=nonces, hold_ms=lasting_ms)
    def hold(self, key, nonce, hold_ms):
        before = self.cells()
        event = self.store.perform(HoldCells((key,), nonce, hold_ms, 1.0))
        self.took(key, nonce, event.grants[0], before[key])
        self.values_kept(before)

    @precondition(lambda self: self.issued)
    @rule(
        number=pick,
        elsewhere=st.none() | keys,
        hard_ms=lasting_ms,
        soft_ms=st.sampled_from([0, 1, 50]),
        body=st.binary(max_size=50),
    )
    def fill(self, number, elsewhere, hard_ms, soft_ms, body):
        key, grant = self.issued[-1 - number % len(self.issued)]
        key = elsewhere or key
        before = self.cells()
        dumped = {name: kept.cell for name, kept in self.store.dump().items()}
        event = self.store.perform(FillCells((Fill(key, grant, hard_ms, soft_ms, body),), 1.0))
        [result] = event.results
        self.values_kept(before, but=(key,))
        cell = before[key]
        if result is FillResult.STORED:
            assert isinstance(cell, Cell)
            assert cell.grant == grant
            assert (key, grant) not in self.filled
            self.filled.add((key, grant))
        else:
            assert self.live(key) == cell
            assert all(dumped[name] == kept.cell for name, kept in self.store.dump().items())
            is_done = isinstance(cell, Cell) and cell.kind == Kind.VALUE and cell.filled_by == grant
            assert (result is FillResult.ALREADY_STORED) == is_done

    @precondition(lambda self: self.issued)
    @rule(number=pick, elsewhere=st.none() | keys, by_nonce=st.booleans(), lease_ms=lasting_ms | st.none())
    def renew_or_release(self, number, elsewhere, by_nonce, lease_ms):
        key, grant = self.issued[-1 - number % len(self.issued)]
        key = elsewhere or key
        lease_id = grant[:8] if by_nonce else grant
        before = self.cells()
        lease = Lease(key, lease_id)
        if lease_ms is None:
            self.store.perform(ReleaseLeases((lease,), 1.0))
        else:
            self.store.perform(RenewLeases((lease,), lease_ms, 1.0))
        self.values_kept(before)
        cell = before[key]
        for other in KEYS:
            if other != key or not (isinstance(cell, Cell) and cell.grant.startswith(lease_id)):
                assert self.live(other) == before[other]  # S5
        if lease_ms is not None and isinstance(cell, Cell) and cell.grant.startswith(lease_id):
            assert self.live(key).lease_deadline_ms == self.now_ms() + lease_ms

    @rule(tags=st.lists(st.sampled_from(TAGS), max_size=2, unique=True), nonce=nonces, ttl_ms=lasting_ms)
    def capture(self, tags, nonce, ttl_ms):
        before = self.cells()
        known = {tag: self.live(tag) for tag in TAGS}
        command = AcquireLeases((), nonce, 1, 1.0, Capture(tuple(tags), ttl_ms))
        versions = self.store.perform(command).versions
        self.values_kept(before)
        assert len(versions) == len(tags)
        for tag, version in zip(tags, versions, strict=True):
            kept = known[tag]
            if isinstance(kept, Tag) and tag == tags[0]:  # the first of two may have evicted the second
                assert version == kept.version
            assert len(version) == 16

    @rule(tag=st.sampled_from(TAGS), is_deleted=st.booleans())
    def a_tag_is_invalidated_or_overwritten(self, tag, is_deleted):
        if is_deleted:
            self.store.perform(DeleteKeys((tag,), 1.0))
        else:
            self.store.plant(tag, FOREIGN, self.now_ms() + 100)

    @rule(stale=st.lists(keys, max_size=2, unique=True).map(tuple))
    def expire(self, stale):
        before = self.cells()
        expiries = {key: kept.expires_ms for key, kept in self.store.dump().items()}
        event = self.store.perform(ExpireCells(stale, 1.0))
        values = 0
        for key, cell in before.items():
            after = self.live(key)
            if key not in stale or not isinstance(cell, Cell):
                assert after == cell
            elif cell.kind != Kind.VALUE:
                assert after is None
            else:
                values += 1
                assert (after.grant, after.lease_deadline_ms) == (NO_GRANT, 0)
                assert 0 < after.soft_ms <= self.now_ms()
                assert after.soft_ms == cell.soft_ms or cell.soft_ms == 0 or cell.soft_ms > self.now_ms()
                assert (after.body, after.filled_by) == (cell.body, cell.filled_by)
                assert self.store.dump()[key].expires_ms == expiries[key]
        assert event.count == values

    @rule(gone=st.lists(keys, max_size=2, unique=True).map(tuple))
    def delete(self, gone):
        before = self.cells()
        event = self.store.perform(DeleteKeys(gone, 1.0))
        assert event.count == sum(before[key] is not None for key in gone)
        assert self.cells() == {key: None if key in gone else cell for key, cell in before.items()}

    @rule()
    def read(self):
        before = self.cells()
        assert self.store.perform(ReadCells(KEYS, 500, 1.0)).cells == tuple(before.values())
        found = self.store.perform(ScanKeys("k*", 0, 10, 1.0)).keys
        assert sorted(found) == [key for key in KEYS if before[key] is not None]

    @rule(key=keys)
    def another_program_writes(self, key):
        self.store.plant(key, FOREIGN, self.now_ms() + 100)

    @rule(seconds=st.sampled_from([0.001, 0.05, 5.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds * self.pace)

    @invariant()
    def no_version_comes_back(self):
        for tag, version in zip(TAGS, self.store.perform(ReadTags(TAGS, 1.0)).versions, strict=True):
            if version != self.current[tag]:
                self.gone.add((tag, self.current[tag]))
            assert version == b"" or (tag, version) not in self.gone
            assert version not in {grant for _, grant in self.issued}
            self.current[tag] = version

    @invariant()
    def keeps_within_its_bounds(self):
        dump = self.store.dump()
        sizes = [
            ENTRY_OVERHEAD_BYTES + len(key) + (len(kept.cell.body) if isinstance(kept.cell, Cell) else 0)
            for key, kept in dump.items()
        ]
        assert self.store.size_bytes == sum(sizes) <= MAX_BYTES
        assert len(self.store) == len(dump) <= MAX_ENTRIES


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


# Known-wrong stores, each of which the machine must catch.


class FillsWithoutAGrant(MemoryStore):
    """S4: a plain SET at the end of a load."""

    def _fill(self, fill, now_ms):
        self._keep(
            fill.key, Cell(Kind.VALUE, NO_GRANT, 0, 0, fill.grant, fill.body), now_ms + fill.hard_ttl_ms
        )
        return FillResult.STORED


class FillsAgain(MemoryStore):
    """S2: a fill that does not clear the grant."""

    def _fill(self, fill, now_ms):
        result = super()._fill(fill, now_ms)
        if result is FillResult.STORED:
            kept = self._kept[fill.key]
            value = Cell(Kind.VALUE, fill.grant, now_ms + 9_000, 0, NO_GRANT, kept.cell.body)
            self.plant(fill.key, value, kept.expires_ms)
        return result


class GrantsByTheClockAlone(MemoryStore):
    """S3: microseconds that repeat while the clock stands still."""

    def _grant(self, nonce, now_ms):
        return make_grant(nonce, now_ms * 1000)


class ReleasesAnybodys(MemoryStore):
    """S5: no check of the owner."""

    def _release(self, lease, now_ms):
        self._drop(lease.key)


class RenewsAnybodys(MemoryStore):
    """S5: no check of the owner."""

    def _leased(self, lease, now_ms):
        cell = self._read(lease.key, now_ms)
        return cell if isinstance(cell, Cell) else None


class AcquiresOverALiveLease(MemoryStore):
    """A lease that keeps nobody out."""

    def _acquire(self, lease_id, nonce, lease_ms, now_s, now_ms):
        event = super()._acquire(lease_id, nonce, lease_ms, now_s, now_ms)
        if isinstance(event, LeaseDenied):
            self._drop(lease_id.key)
            return super()._acquire(lease_id, nonce, lease_ms, now_s, now_ms)
        return event


class VersionsByTheNonceAlone(MemoryStore):
    """S7: a version that the client chose comes back with a late duplicate of its command."""

    def _capture_one(self, tag, nonce, now_ms, until_ms):
        version = self._version(tag, now_ms) or nonce + bytes(8)
        self._keep(tag, Tag(version), until_ms)
        return version


class CountsVersions(MemoryStore):
    """S7: a counter that starts again once its key is gone."""

    def _capture_one(self, tag, nonce, now_ms, until_ms):
        version = self._version(tag, now_ms) or (1).to_bytes(16)
        self._keep(tag, Tag(version), until_ms)
        return version


class ExpiresWithoutVoiding(MemoryStore):
    """S1: a load in flight survives the soft expiry."""

    def _expire(self, key, now_ms):
        cell = self._read(key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.VALUE:
            self._keep(key, replace(cell, soft_ms=now_ms), self._kept[key].expires_ms)
            return True
        return False


class ExpiresAndProlongs(MemoryStore):
    """S1f: a soft expiry that gives the key a new life."""

    def _expire(self, key, now_ms):
        expired = super()._expire(key, now_ms)
        if expired:
            kept = self._kept[key]
            self._keep(key, kept.cell, kept.expires_ms + 1)
        return expired


class ForgetsToCount(MemoryStore):
    """B2: a size that only grows."""

    def _drop(self, key):
        self._kept.pop(key, None)


@pytest.mark.parametrize(
    "wrong",
    [
        FillsWithoutAGrant,
        FillsAgain,
        GrantsByTheClockAlone,
        ReleasesAnybodys,
        RenewsAnybodys,
        AcquiresOverALiveLease,
        VersionsByTheNonceAlone,
        CountsVersions,
        ExpiresWithoutVoiding,
        ExpiresAndProlongs,
        ForgetsToCount,
    ],
)
def test_a_wrong_store_is_caught(wrong):
    class Wrong(StoreMachine):
        store_class = wrong

    once = settings(
        max_examples=1_000,  # it ends with the first that catches it
        stateful_step_count=50,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, StopIteration)):
        run_state_machine_as_test(Wrong, settings=once)


LEASE, HOLD = (Kind.EMPTY, 5_000), (Kind.HOLD, 5_000)


class TestAStoreThatCompares:
    """It stores into the very cell that a grant has left; of any other it says so, and does nothing (S2)."""

    def stage(self):
        return Stage(compares=True)

    def test_stores_into_a_lease_as_it_was_granted(self):
        stage = self.stage()
        grant = stage.acquire().grant
        assert stage.fill(grant, soft_ms=1_000, lease=LEASE) is FillResult.STORED
        stored = Cell(Kind.VALUE, soft_ms=NOW_MS + 1_000, filled_by=grant, body=b"body")
        assert (stage.cell, stage.expires_ms) == (stored, NOW_MS + 60_000)

    def test_says_of_its_own_repetition_that_the_cell_has_changed_and_then_that_it_is_stored(self):
        stage = self.stage()
        grant = stage.acquire().grant
        stage.fill(grant, lease=LEASE)
        assert stage.fill(grant, b"another", lease=LEASE) is FillResult.CHANGED
        assert stage.fill(grant, b"another") is FillResult.ALREADY_STORED
        assert stage.cell.body == b"body"

    @pytest.mark.parametrize("lease", [HOLD, (Kind.EMPTY, 4_999)], ids=str)
    def test_tells_a_lease_from_a_hold_and_from_one_for_another_time(self, lease):
        stage = self.stage()
        grant = stage.acquire().grant
        assert stage.fill(grant, lease=lease) is FillResult.CHANGED
        assert stage.fill(grant, lease=LEASE) is FillResult.STORED

    def test_judges_a_lease_that_was_renewed_by_its_grant(self):
        stage = self.stage()
        grant = stage.acquire().grant
        stage.clock.now_s += 1.0
        assert stage.renew(grant)
        assert stage.fill(grant, lease=LEASE) is FillResult.CHANGED
        assert stage.fill(grant) is FillResult.STORED

    @pytest.mark.parametrize("there", [None, FOREIGN, Cell(Kind.HOLD, EARLIER, LATER_MS)], ids=repr)
    def test_does_nothing_to_a_cell_that_was_voided(self, there):
        stage = self.stage()
        grant = stage.acquire().grant
        stage.plant(there)
        assert stage.fill(grant, lease=LEASE) is FillResult.CHANGED
        assert stage.fill(grant) is FillResult.REFUSED
        assert stage.cell == there

    def test_does_not_compare_where_a_value_lies_beneath_the_lease(self):
        stage = self.stage().plant(Cell(Kind.VALUE, soft_ms=1, filled_by=EARLIER, body=b"old"))
        grant = stage.acquire().grant
        assert stage.fill(grant, lease=LEASE) is FillResult.CHANGED
        assert stage.fill(grant) is FillResult.STORED


def test_a_store_that_does_not_compare_judges_by_the_grant_alone():
    stage = Stage()
    grant = stage.acquire().grant
    stage.renew(grant, 9_000)
    assert stage.fill(grant, lease=LEASE) is FillResult.STORED


def test_a_swap_of_a_value_larger_than_the_store_is_refused_and_the_old_one_stays():
    store = MemoryStore(lambda: 1.0, max_bytes=2_000)
    granted = store.perform(AcquireLease("n:k", b"nonce--1", 1_000, NO_GRANT, Mode.KEEP, 1.0))
    store.perform(FillCells((Fill("n:k", granted.grant, 60_000, 0, b"old" * 30),), 1.0))
    before = store.dump()
    swapped = store.perform(SwapCell("n:k", granted.grant, b"nonce--2", 0, 0, b"x" * 4_000, 1.0))
    assert swapped == StoreFailed(1.0, FailureKind.OUT_OF_MEMORY)
    assert store.dump() == before
