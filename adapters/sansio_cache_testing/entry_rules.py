"""The rules for backends about entries, leases, holds and tags."""

# ruff: noqa: D102 - the name of a test is its rule

from __future__ import annotations

from typing import Final

from sansio_cache.cell import NO_GRANT, Kind
from sansio_cache.commands import (
    AcquireLeases,
    Capture,
    DeleteKeys,
    Fill,
    FillCells,
    HoldCells,
    Lease,
    LeaseRequest,
    MeasureQueue,
    Mode,
    PeekEntries,
    Ping,
    QueueCommand,
    ReadCell,
    ReadCells,
    ReadLetters,
    ReadTags,
    ReleaseLeases,
    ScanKeys,
)
from sansio_cache.events import (
    CellRead,
    CellsFilled,
    CellsRead,
    EntriesFound,
    FillResult,
    FreshFound,
    HoldsTaken,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    Ponged,
    QueueMeasured,
    StoreFailed,
    TagsRead,
    WriterFound,
)
from sansio_cache.queues import root_of
from sansio_cache_testing.backend_asking import (
    BODY,
    KEY,
    LEASE_MS,
    LIFE_MS,
    NEWER,
    OTHER,
    SHORT_MS,
    TIMEOUT_S,
    Asking,
)

_THIRD: Final = "conformance:user:3"
_TAG: Final = "conformance:%t:staff"
_ROOT: Final = root_of("conformance:", "writes", 0)


class EntryRules(Asking):
    """The rules about entries, whatever the colour."""

    def test_it_answers(self) -> None:
        self._ask(Ping(TIMEOUT_S), Ponged, "a store that does not answer a probe is never asked for anything")

    def test_a_key_that_is_not_there_is_read_as_none(self) -> None:
        cell = self._read()
        assert cell is None, f"a key that nobody has stored is read as something: {cell}"

    def test_a_value_stored_under_a_grant_is_read_as_it_was_stored(self) -> None:
        grant = self._stored()
        self._still_there(grant, BODY, "a value is read as another than was stored")

    def test_a_grant_begins_with_the_nonce_of_who_asked_s3(self) -> None:
        grant = self._granted(b"nonce..1")
        assert len(grant) == len(NO_GRANT), f"a grant is 16 bytes, which a cell has room for: {grant!r}"
        assert grant.startswith(b"nonce..1"), (
            f"a grant does not begin with the nonce of who asked: a retry is not known again: {grant!r}"
        )

    def test_who_asks_again_is_given_the_same_grant_s3(self) -> None:
        grant = self._granted(b"nonce..1")
        again = self._granted(b"nonce..1")
        assert again == grant, "a retry whose first reply was lost must be given the same grant (S3)"

    def test_a_late_duplicate_is_given_a_new_grant_s3(self) -> None:
        grant = self._granted(b"nonce..1")
        self._delete()
        again = self._granted(b"nonce..1")
        assert again != grant, "a grant that an invalidation has voided must never be issued again (S3)"

    def test_another_is_told_to_wait_l2(self) -> None:
        self._granted(b"nonce..1")
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseDenied), f"two have the lease of one key at once (L2): {event}"
        assert 0 < event.left_ms <= LEASE_MS, f"who waits is told a wrong time to wait: {event}"

    def test_a_fill_after_an_invalidation_is_refused_s1(self) -> None:
        grant = self._granted(b"nonce..1")
        self._delete()
        result = self._fill(grant)
        assert result is FillResult.REFUSED, (
            "a value that was loaded before an invalidation was stored after it (S1, S2)"
        )
        assert self._read() is None, "a fill that was refused has stored its value all the same (S1, S2)"

    def test_a_fill_under_anothers_grant_is_refused_s5(self) -> None:
        old = self._granted(b"nonce..1")
        self._delete()
        new = self._granted(b"nonce..2")
        result = self._fill(old)
        assert result is FillResult.REFUSED, (
            "FILL must look whose grant the cell holds: this one was another's (S2, S5)"
        )
        assert self._fill(new, NEWER) is FillResult.STORED, "a fill that is refused voids the load of another"

    def test_a_fill_that_may_compare_is_judged_like_any_other_s1(self) -> None:
        old = self._granted(b"nonce..1")
        self._delete()
        new = self._granted(b"nonce..2")
        result = self._compared(old)
        assert result in (FillResult.REFUSED, FillResult.CHANGED), (
            "a store that compares has stored what was loaded before an invalidation, in a cell that holds "
            f"another's grant (S1, S5): {result!r}"
        )
        result = self._compared(new)
        if result is FillResult.CHANGED:
            result = self._fill(new)
        assert result is FillResult.STORED, f"who holds the lease cannot store what was loaded: {result!r}"

    def _compared(self, grant: bytes) -> FillResult:
        fill = Fill(KEY, grant, LIFE_MS, 0, BODY, Kind.EMPTY, LEASE_MS)
        return self._ask(FillCells((fill,), TIMEOUT_S), CellsFilled).results[0]

    def test_a_fill_that_is_repeated_says_so_s2(self) -> None:
        grant = self._stored()
        again = self._fill(grant)
        assert again is FillResult.ALREADY_STORED, (
            f"a fill whose first reply was lost is not told that its value is stored (S2): {again!r}"
        )

    def test_a_value_that_is_fresh_is_given_instead_of_a_lease(self) -> None:
        self._stored()
        event = self._acquire(b"nonce..2")
        assert isinstance(event, FreshFound), f"two loads for one value: {event}"
        assert event.cell.body == BODY, f"another value is given than was stored: {event}"

    def test_a_value_that_its_reader_refuses_is_replaced(self) -> None:
        grant = self._stored()
        event = self._acquire(b"nonce..2", mode=Mode.DROP, seen=grant)
        assert isinstance(event, LeaseGranted), f"a value that nobody can read is never loaded anew: {event}"
        cell = self._read()
        assert cell is None or cell.kind == Kind.EMPTY, (
            "what must not be served is served until it is replaced"
        )

    def test_a_lease_given_back_is_free_l3(self) -> None:
        grant = self._granted(b"nonce..1")
        self._give_back(Lease(KEY, grant))
        assert self._granted(b"nonce..2") != grant, "two have been issued the same grant (S3)"

    def test_a_lease_whose_grant_is_unknown_is_given_back_by_its_nonce_l3(self) -> None:
        self._granted(b"nonce..1")
        self._give_back(Lease(KEY, b"nonce..1"))
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseGranted), (
            f"a caller who was cancelled before the answer keeps the others waiting (L3): {event}"
        )

    def test_the_lease_of_a_refresh_that_is_given_back_leaves_the_value(self) -> None:
        version = self._stored()
        self._expire()
        self._give_back(Lease(KEY, self._granted(b"nonce..2")))
        self._still_there(version, BODY, "who gives up a refresh takes the stale value from all others")
        self._granted(b"nonce..3")

    def _give_back(self, *leases: Lease) -> None:
        self._ask(ReleaseLeases(leases, TIMEOUT_S), LeasesReleased)

    def test_only_its_owner_gives_a_lease_back_or_renews_it_s5(self) -> None:
        grant = self._granted(b"nonce..1")
        stranger = Lease(KEY, b"stranger" + grant[8:])
        self._give_back(stranger)
        assert self._renew(stranger, Lease(KEY, grant)) == (False, True), (
            "a lease was renewed or released by somebody who does not hold it (S5)"
        )
        assert self._fill(grant) is FillResult.STORED, "a lease that was renewed lets its owner store nothing"

    def test_a_renewed_lease_lasts_longer_l2(self) -> None:
        grant = self._granted(b"nonce..1")
        self._renew(Lease(KEY, grant), lease_ms=LIFE_MS)
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseDenied), f"two have the lease of one key at once (L2): {event}"
        assert LEASE_MS < event.left_ms <= LIFE_MS, (
            f"a renewal makes no lease last, and a second load begins while the first one runs (L2): {event}"
        )

    def test_a_hold_voids_the_loads_in_flight_and_lets_nobody_store_s6(self) -> None:
        reader = self._granted(b"nonce..1")
        held = self._ask(HoldCells((KEY,), b"writer.1", LEASE_MS, TIMEOUT_S), HoldsTaken)
        assert self._fill(reader) is FillResult.REFUSED, (
            "a reader stored what it loaded before a writer's hold (S6)"
        )
        event = self._acquire(b"nonce..2")
        assert isinstance(event, WriterFound), f"readers may store while a writer holds the key (S6): {event}"
        assert self._fill(held.grants[0], NEWER) is FillResult.STORED, (
            "a writer cannot store what it has committed, though nobody has taken its hold (S6)"
        )

    def test_an_expired_value_is_no_longer_fresh(self) -> None:
        self._stored(soft_ms=LIFE_MS)
        assert self._expire() == 1, "who makes values stale is told another number than there were"
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseGranted), f"a value that was made stale is served as fresh: {event}"
        assert event.stale is not None, "a value past its soft expiry is kept for who may serve it stale"

    def test_an_expiry_voids_the_loads_in_flight_s1(self) -> None:
        grant = self._granted(b"nonce..1")
        assert self._expire() == 0, "who makes values stale is told another number than there were"
        assert self._fill(grant) is FillResult.REFUSED, (
            "a value that was loaded before an expiry was stored as fresh after it (S1)"
        )

    def test_a_refresh_keeps_the_stale_value_readable(self) -> None:
        version = self._stored(soft_ms=LIFE_MS)
        self._expire()
        refresh = self._granted(b"nonce..2")
        self._still_there(version, BODY, "who may serve what is stale has nothing while a refresh runs")
        assert self._fill(refresh, NEWER) is FillResult.STORED, "a refresh cannot store what it has loaded"

    # What ends by itself.

    def test_a_value_is_gone_at_the_end_of_its_life(self) -> None:
        self._stored(hard_ms=SHORT_MS)
        self._until(
            lambda: self._read() is None,
            "a value outlives its hard time to live: without an invalidation it is served for ever",
        )
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseGranted), f"a value that has expired is not loaded anew: {event}"
        assert event.stale is None, f"a value past its hard time to live is served as a stale one: {event}"

    def test_a_value_past_its_soft_life_is_stale_and_kept(self) -> None:
        self._stored(soft_ms=SHORT_MS)
        event = self._granted_in_the_end(
            b"nonce..2", "a value stays fresh past its soft time to live, and is never refreshed"
        )
        assert event.stale is not None, "a value past its soft expiry is kept for who may serve it stale"
        assert event.stale.body == BODY, f"another value is given than was stored: {event}"

    def test_a_lease_lapses_l3(self) -> None:
        old = self._granted(b"nonce..1", SHORT_MS)
        new = self._granted_in_the_end(
            b"nonce..2", "a lease does not lapse: the key of a process that died is never loaded again (L3)"
        )
        assert self._fill(old) is FillResult.REFUSED, (
            "a value was stored under a lease that has lapsed, and is another's by now (S2, S5)"
        )
        assert self._fill(new.grant) is FillResult.STORED, "who has the lease after another cannot store"

    def test_the_lease_of_a_refresh_lapses_l3(self) -> None:
        version = self._stored()
        self._expire()
        old = self._granted(b"nonce..2", SHORT_MS)
        self._granted_in_the_end(
            b"nonce..3", "the lease of a refresh does not lapse: the value is never refreshed again (L3)"
        )
        self._still_there(version, BODY, "the stale value goes with the lease of its refresh")
        assert self._fill(old) is FillResult.REFUSED, (
            "a value was stored under a lease that has lapsed, and is another's by now (S2, S5)"
        )

    def test_a_hold_lapses_l3(self) -> None:
        held = self._ask(HoldCells((KEY,), b"writer.1", SHORT_MS, TIMEOUT_S), HoldsTaken)
        self._granted_in_the_end(
            b"nonce..2", "a hold does not lapse: after a writer that died nothing is stored any more (L3)"
        )
        assert self._fill(held.grants[0]) is FillResult.REFUSED, (
            "a writer stored under a hold that has lapsed, when a reader had the lease (S6)"
        )

    # Many keys at once.

    def test_a_batch_answers_in_the_order_of_its_keys(self) -> None:
        self._stored()
        event = self._ask(ReadCells((OTHER, KEY), 100, TIMEOUT_S), CellsRead)
        assert [cell is None for cell in event.cells] == [True, False], (
            f"a batch is not answered in the order of its keys: callers get the values of others: {event}"
        )

    def test_a_batch_of_leases_is_answered_in_the_order_of_its_keys_l2(self) -> None:
        self._stored()
        asked = tuple(LeaseRequest(key, NO_GRANT, Mode.KEEP) for key in (OTHER, KEY, _THIRD))
        first = self._ask(AcquireLeases(asked, b"nonce..2", LEASE_MS, TIMEOUT_S), LeasesAnswered).answers
        kinds = [type(each) for each in first]
        assert kinds == [LeaseGranted, FreshFound, LeaseGranted], (
            f"a batch of leases is not answered in the order of its keys, each as alone: {first}"
        )
        grants = [each.grant for each in first if isinstance(each, LeaseGranted)]
        assert grants[0] != grants[1], "two keys of one batch have been issued the same grant (S3)"
        again = self._ask(AcquireLeases(asked, b"nonce..2", LEASE_MS, TIMEOUT_S), LeasesAnswered).answers
        assert [each.grant for each in again if isinstance(each, LeaseGranted)] == grants, (
            f"a retry whose first reply was lost must be given the same grants (S3): {again}"
        )

    # Removals and scans.

    def test_removals_are_counted(self) -> None:
        self._stored()
        assert self._delete() == 1, "who removes a key that is there is told that it was not"
        assert self._delete() == 0, "who removes a key that is not there is told that it was"

    def test_a_removal_says_whether_a_value_was_there(self) -> None:
        self._stored()
        said = [self._ask(DeleteKeys((KEY,), TIMEOUT_S, looks=True), KeysDeleted).existed for _ in range(2)]
        assert said[0] is not False, "who removes a value is told that there was none"
        assert said[1] is not True, "who removes a key without a value is told that there was one"

    def test_a_scan_finds_what_its_pattern_covers_and_no_more_s11(self) -> None:
        self._stored()
        assert self._scan("conformance:user:*") == {KEY}, "a pattern misses what it covers (S11)"
        assert self._scan("conformance:order:*") == set(), "a pattern finds what it does not cover (S11)"

    def _scan(self, pattern: str) -> set[str]:
        keys: set[str] = set()
        cursor = 0
        for _ in range(1_000):
            event = self._ask(ScanKeys(pattern, cursor, 100, TIMEOUT_S), KeysFound)
            keys.update(event.keys)
            cursor = event.cursor
            if not cursor:
                return keys
        raise AssertionError("the scan does not end: its last page has cursor 0")

    # Tags.

    def test_a_tag_has_no_version_before_somebody_captures_it_s7(self) -> None:
        event = self._ask(ReadTags((_TAG,), TIMEOUT_S), TagsRead)
        assert event.versions == (b"",), f"a tag that nobody has captured has a version (S7): {event}"

    def test_a_tag_that_was_removed_gets_a_version_that_it_never_had_s7(self) -> None:
        first = self._captured(b"nonce..1")
        self._delete(_TAG)
        self._delete()
        second = self._captured(b"nonce..2")
        assert first != second, "an entry that its tag has invalidated would be served again (S7)"
        read = self._ask(ReadCell(KEY, TIMEOUT_S, (_TAG,)), CellRead)
        assert read.versions == second, (
            f"a reader is told another version of a tag than was issued (S7): {read}"
        )

    def test_a_tag_has_one_version_whoever_asks_s7(self) -> None:
        version = self._captured(b"nonce..1")
        hold = HoldCells((OTHER,), b"writer.1", LEASE_MS, TIMEOUT_S, Capture((_TAG,), LIFE_MS))
        fill = FillCells((Fill(KEY, NO_GRANT, LIFE_MS, 0, BODY),), TIMEOUT_S, (_TAG,))
        said = {
            "HoldCells": self._ask(hold, HoldsTaken).versions,
            "FillCells": self._ask(fill, CellsFilled).versions,
            "ReadCells": self._ask(ReadCells((KEY,), 100, TIMEOUT_S, (_TAG,)), CellsRead).versions,
            "ReadTags": self._ask(ReadTags((_TAG,), TIMEOUT_S), TagsRead).versions,
        }
        for name, versions in said.items():
            assert versions == version, (
                f"{name} tells another version of a tag than was issued, so that its entries are refused, or "
                f"served when it is invalidated (S7): {versions}"
            )

    def _captured(self, nonce: bytes) -> tuple[bytes, ...]:
        event = self._acquire(nonce, capture=Capture((_TAG,), LIFE_MS))
        assert isinstance(event, LeaseGranted), f"nobody has the lease, and it is not given: {event}"
        assert len(event.versions) == 1, (
            f"a tag has one version, which is issued before the load (S7): {event}"
        )
        return event.versions

    # Queues.

    def test_a_store_without_queues_says_so(self) -> None:
        asked: tuple[QueueCommand, ...] = (
            MeasureQueue(_ROOT, TIMEOUT_S),
            PeekEntries(_ROOT, (KEY,), TIMEOUT_S),
            ReadLetters(_ROOT, 0, 10, TIMEOUT_S),
        )
        for command in asked:
            event = self.perform(command)
            assert isinstance(event, QueueMeasured | EntriesFound | StoreFailed), (
                f"a store without queues says so by StoreFailed, and {type(command).__name__} got {event}"
            )
            assert not isinstance(event, StoreFailed) or not event.kind.is_outage, (
                f"a store without queues says that it does not serve, so that no read asks it: {event}"
            )
