"""What a backend has to do, as tests: subclass one of these classes, and say how a store is made.

    class TestMyBackend(SyncBackendConformance):
        def make_backend(self):
            return MyBackend(path)

Each test is about one rule of the protocol, and says which, as a backend that breaks it serves what is stale
or keeps others waiting. The numbers are those of the invariants in `docs/promises`. Every test has a new
backend.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sansio_cache.cell import NO_GRANT, Cell, Kind
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    Capture,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    HoldCells,
    Lease,
    Mode,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    StoreCommand,
)
from sansio_cache.events import (
    CellRead,
    CellsFilled,
    CellsRead,
    FillResult,
    FreshFound,
    HoldsTaken,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesRenewed,
    Ponged,
    StoreEvent,
    TagsRead,
    WriterFound,
)
from sansio_cache_runtime.backend import AnyioBackend, SyncBackend

_TIMEOUT_S: Final = 5.0
_LEASE_MS: Final = 60_000
_LIFE_MS: Final = 3_600_000
_KEY: Final = "conformance:user:1"
_OTHER: Final = "conformance:user:2"
_TAG: Final = "conformance:%t:staff"
_BODY: Final = b"a body, which no store looks into"
_NEWER: Final = b"another"


class _Rules:
    """The rules, whatever the colour."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        raise NotImplementedError

    # What the tests are written with.

    def _acquire(
        self, nonce: bytes, *, mode: Mode = Mode.KEEP, seen: bytes = NO_GRANT, capture: Capture = NO_TAGS
    ) -> Any:
        return self.perform(AcquireLease(_KEY, nonce, _LEASE_MS, seen, mode, _TIMEOUT_S, capture))

    def _granted(self, nonce: bytes) -> bytes:
        event = self._acquire(nonce)
        assert isinstance(event, LeaseGranted), f"nobody has the lease, and it is not given: {event}"
        return event.grant

    def _fill(self, grant: bytes, body: bytes = _BODY, soft_ms: int = 0) -> FillResult:
        event = self.perform(FillCells((Fill(_KEY, grant, _LIFE_MS, soft_ms, body),), _TIMEOUT_S))
        assert isinstance(event, CellsFilled)
        return event.results[0]

    def _read(self, key: str = _KEY) -> Cell | None:
        event = self.perform(ReadCell(key, _TIMEOUT_S))
        assert isinstance(event, CellRead), f"a read is answered by CellRead; got {event}"
        cell = event.cell
        assert cell is None or isinstance(cell, Cell)
        return cell

    def _delete(self, key: str = _KEY) -> int:
        event = self.perform(DeleteKeys((key,), _TIMEOUT_S))
        assert isinstance(event, KeysDeleted)
        return event.count

    # The rules.

    def test_it_answers(self) -> None:
        assert isinstance(self.perform(Ping(_TIMEOUT_S)), Ponged)

    def test_a_key_that_is_not_there_is_read_as_none(self) -> None:
        assert self._read() is None

    def test_a_value_stored_under_a_grant_is_read_as_it_was_stored(self) -> None:
        grant = self._granted(b"nonce..1")
        assert self._fill(grant) is FillResult.STORED
        cell = self._read()
        assert cell is not None
        assert (cell.kind, cell.body, cell.filled_by) == (Kind.VALUE, _BODY, grant)

    def test_a_grant_begins_with_the_nonce_of_who_asked_s3(self) -> None:
        grant = self._granted(b"nonce..1")
        assert len(grant) == len(NO_GRANT)
        assert grant.startswith(b"nonce..1")

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
        assert 0 < event.left_ms <= _LEASE_MS

    def test_a_fill_after_an_invalidation_is_refused_s1(self) -> None:
        grant = self._granted(b"nonce..1")
        self._delete()
        result = self._fill(grant)
        assert result is FillResult.REFUSED, (
            "a value that was loaded before an invalidation was stored after it (S1, S2)"
        )
        assert self._read() is None

    def test_a_fill_under_anothers_grant_is_refused_s5(self) -> None:
        old = self._granted(b"nonce..1")
        self._delete()
        new = self._granted(b"nonce..2")
        result = self._fill(old)
        assert result is FillResult.REFUSED, (
            "FILL must look whose grant the cell holds: this one was another's (S2, S5)"
        )
        assert self._fill(new, _NEWER) is FillResult.STORED

    def test_a_fill_that_is_repeated_says_so_s2(self) -> None:
        grant = self._granted(b"nonce..1")
        assert self._fill(grant) is FillResult.STORED
        assert self._fill(grant) is FillResult.ALREADY_STORED

    def test_a_value_that_is_fresh_is_given_instead_of_a_lease(self) -> None:
        self._fill(self._granted(b"nonce..1"))
        event = self._acquire(b"nonce..2")
        assert isinstance(event, FreshFound), f"two loads for one value: {event}"
        assert event.cell.body == _BODY

    def test_a_value_that_its_reader_refuses_is_replaced(self) -> None:
        grant = self._granted(b"nonce..1")
        self._fill(grant)
        event = self._acquire(b"nonce..2", mode=Mode.DROP, seen=grant)
        assert isinstance(event, LeaseGranted)
        cell = self._read()
        assert cell is None or cell.kind == Kind.EMPTY, (
            "what must not be served is served until it is replaced"
        )

    def test_a_lease_given_back_is_free_l3(self) -> None:
        grant = self._granted(b"nonce..1")
        self.perform(ReleaseLeases((Lease(_KEY, grant),), _TIMEOUT_S))
        assert self._granted(b"nonce..2") != grant

    def test_only_its_owner_gives_a_lease_back_or_renews_it_s5(self) -> None:
        grant = self._granted(b"nonce..1")
        stranger = Lease(_KEY, b"stranger" + grant[8:])
        self.perform(ReleaseLeases((stranger,), _TIMEOUT_S))
        renewed = self.perform(RenewLeases((stranger, Lease(_KEY, grant)), _LEASE_MS, _TIMEOUT_S))
        assert isinstance(renewed, LeasesRenewed)
        assert renewed.renewed == (False, True), (
            "a lease was renewed or released by somebody who does not hold it (S5)"
        )
        assert self._fill(grant) is FillResult.STORED

    def test_a_hold_voids_the_loads_in_flight_and_lets_nobody_store_s6(self) -> None:
        reader = self._granted(b"nonce..1")
        event = self.perform(HoldCells((_KEY,), b"writer.1", _LEASE_MS, _TIMEOUT_S))
        assert isinstance(event, HoldsTaken)
        assert self._fill(reader) is FillResult.REFUSED, (
            "a reader stored what it loaded before a writer's hold (S6)"
        )
        assert isinstance(self._acquire(b"nonce..2"), WriterFound)
        assert self._fill(event.grants[0], _NEWER) is FillResult.STORED

    def test_an_expired_value_is_no_longer_fresh_and_its_loads_are_void(self) -> None:
        grant = self._granted(b"nonce..1")
        self._fill(grant, soft_ms=_LIFE_MS)
        self.perform(ExpireCells((_KEY,), _TIMEOUT_S))
        event = self._acquire(b"nonce..2")
        assert isinstance(event, LeaseGranted)
        assert event.stale is not None, "a value past its soft expiry is kept for who may serve it stale"

    def test_a_refresh_keeps_the_stale_value_readable(self) -> None:
        self._fill(self._granted(b"nonce..1"), soft_ms=_LIFE_MS)
        self.perform(ExpireCells((_KEY,), _TIMEOUT_S))
        refresh = self._granted(b"nonce..2")
        cell = self._read()
        assert cell is not None
        assert cell.body == _BODY
        assert self._fill(refresh, _NEWER) is FillResult.STORED

    def test_a_batch_answers_in_the_order_of_its_keys(self) -> None:
        self._fill(self._granted(b"nonce..1"))
        event = self.perform(ReadCells((_OTHER, _KEY), 100, _TIMEOUT_S))
        assert isinstance(event, CellsRead)
        assert [cell is None for cell in event.cells] == [True, False]

    def test_removals_are_counted(self) -> None:
        self._fill(self._granted(b"nonce..1"))
        assert self._delete() == 1
        assert self._delete() == 0

    def test_a_scan_finds_what_its_pattern_covers_and_no_more_s11(self) -> None:
        self._fill(self._granted(b"nonce..1"))
        assert self._scan("conformance:user:*") == {_KEY}
        assert self._scan("conformance:order:*") == set()

    def _scan(self, pattern: str) -> set[str]:
        keys: set[str] = set()
        cursor = 0
        for _ in range(1_000):
            event = self.perform(ScanKeys(pattern, cursor, 100, _TIMEOUT_S))
            assert isinstance(event, KeysFound)
            keys.update(event.keys)
            cursor = event.cursor
            if not cursor:
                return keys
        raise AssertionError("the scan does not end: its last page has cursor 0")

    def test_a_tag_has_no_version_before_somebody_captures_it_s7(self) -> None:
        event = self.perform(ReadTags((_TAG,), _TIMEOUT_S))
        assert isinstance(event, TagsRead)
        assert event.versions == (b"",)

    def test_a_tag_that_was_removed_gets_a_version_that_it_never_had_s7(self) -> None:
        capture = Capture((_TAG,), _LIFE_MS)
        first = self._acquire(b"nonce..1", capture=capture)
        assert isinstance(first, LeaseGranted)
        self._delete(_TAG)
        self._delete()
        second = self._acquire(b"nonce..2", capture=capture)
        assert isinstance(second, LeaseGranted)
        assert first.versions != second.versions, (
            "an entry that its tag has invalidated would be served again (S7)"
        )
        read = self.perform(ReadCell(_KEY, _TIMEOUT_S, (_TAG,)))
        assert isinstance(read, CellRead)
        assert read.versions == second.versions


class SyncBackendConformance(_Rules):
    """The rules for a backend for threads. Override `make_backend`."""

    _backend: SyncBackend | None = None

    def make_backend(self) -> SyncBackend:
        """A backend on an empty store."""
        raise NotImplementedError("say in make_backend how the backend is made, on a store that is empty")

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        if self._backend is None:
            self._backend = self.make_backend()
        return self._backend.perform(command)

    def teardown_method(self) -> None:
        """Close it."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None


class AnyioBackendConformance(_Rules):
    """The rules for a backend for event loops. Override `make_backend`, and `runtime` for trio."""

    runtime: str = "asyncio"

    def make_backend(self) -> AnyioBackend:
        """A backend on an empty store; it is called in the event loop."""
        raise NotImplementedError("say in make_backend how the backend is made, on a store that is empty")

    _loop: ExitStack | None = None
    """An event loop in which the backend lives for as long as the test does."""
    _portal: BlockingPortal
    _backend: AnyioBackend

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        if self._loop is None:
            self._loop = ExitStack()
            self._portal = self._loop.enter_context(start_blocking_portal(self.runtime))
            self._backend = self._portal.call(self._make)
        return self._portal.call(self._answer, command)

    async def _make(self) -> AnyioBackend:
        return self.make_backend()

    async def _answer(self, command: StoreCommand) -> StoreEvent:
        return await self._backend.answer(command)

    def teardown_method(self) -> None:
        """Close it, and the loop."""
        if self._loop is not None:
            self._portal.call(self._backend.aclose)
            self._loop.close()
            self._loop = None
