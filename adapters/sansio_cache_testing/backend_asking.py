"""How the rules for backends ask a backend, wait for what has to lapse, and name a rule that is broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sansio_cache.cell import NO_GRANT, Cell, Kind
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    Capture,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    Lease,
    Mode,
    ReadCell,
    RenewLeases,
    StoreCommand,
)
from sansio_cache.events import (
    CellRead,
    CellsExpired,
    CellsFilled,
    FillResult,
    KeysDeleted,
    LeaseGranted,
    LeasesRenewed,
    StoreEvent,
)

E = TypeVar("E", bound=StoreEvent)

TIMEOUT_S: Final = 5.0
SHORT_MS: Final = 50
"""The life of what a test sees the end of."""
LEASE_MS: Final = 60_000
LIFE_MS: Final = 3_600_000
KEY: Final = "conformance:user:1"
OTHER: Final = "conformance:user:2"
BODY: Final = b"a body, which no store looks into"
NEWER: Final = b"another"
_LOOK_AGAIN_S: Final = 0.005


@contextmanager
def raising_nothing(command: StoreCommand) -> Iterator[None]:
    """What a backend raises breaks a rule."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"the backend raised {error!r} for {type(command).__name__}: every command gets an event, and a "
            "failure is one, StoreFailed; what is raised instead ends the operation of the caller"
        ) from error


class Asking:
    """What the rules are written with, whatever the colour."""

    patience_s: float = 20.0
    """How long a test waits for what has to lapse, in seconds. It bounds only a failure."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Have the backend do what is asked."""
        raise NotImplementedError

    def _ask(self, command: StoreCommand, kind: type[E], broken: str = "") -> E:
        """The answer, which has to be of this kind; `broken` says which rule another one breaks."""
        event = self.perform(command)
        assert isinstance(event, kind), (
            f"{broken or 'the core cannot go on with an answer of another kind, or with a failure'}: "
            f"{type(command).__name__} is answered by {kind.__name__} here, and not by {event}"
        )
        return event

    def _until(self, has_lapsed: Callable[[], bool], broken: str) -> None:
        """Look again and again until something has lapsed."""
        deadline_s = time.monotonic() + self.patience_s
        while not has_lapsed():
            assert time.monotonic() < deadline_s, f"{broken} (after {self.patience_s:g} s)"
            time.sleep(_LOOK_AGAIN_S)

    def _acquire(
        self,
        nonce: bytes,
        *,
        mode: Mode = Mode.KEEP,
        seen: bytes = NO_GRANT,
        capture: Capture = NO_TAGS,
        lease_ms: int = LEASE_MS,
    ) -> StoreEvent:
        return self.perform(AcquireLease(KEY, nonce, lease_ms, seen, mode, TIMEOUT_S, capture))

    def _granted(self, nonce: bytes, lease_ms: int = LEASE_MS) -> bytes:
        event = self._acquire(nonce, lease_ms=lease_ms)
        assert isinstance(event, LeaseGranted), f"nobody has the lease, and it is not given: {event}"
        return event.grant

    def _granted_in_the_end(self, nonce: bytes, broken: str) -> LeaseGranted:
        """What is answered when what is in the way has lapsed."""
        granted: list[LeaseGranted] = []

        def is_granted() -> bool:
            event = self._acquire(nonce)
            if isinstance(event, LeaseGranted):
                granted.append(event)
            return bool(granted)

        self._until(is_granted, broken)
        return granted[0]

    def _fill(
        self, grant: bytes, body: bytes = BODY, soft_ms: int = 0, *, hard_ms: int = LIFE_MS
    ) -> FillResult:
        fill = Fill(KEY, grant, hard_ms, soft_ms, body)
        return self._ask(FillCells((fill,), TIMEOUT_S), CellsFilled).results[0]

    def _stored(self, body: bytes = BODY, soft_ms: int = 0, *, hard_ms: int = LIFE_MS) -> bytes:
        """The version of a value that is stored."""
        grant = self._granted(b"nonce..1")
        result = self._fill(grant, body, soft_ms, hard_ms=hard_ms)
        assert result is FillResult.STORED, f"who holds the lease cannot store what was loaded: {result!r}"
        return grant

    def _read(self, key: str = KEY) -> Cell | None:
        cell = self._ask(ReadCell(key, TIMEOUT_S), CellRead).cell
        assert cell is None or isinstance(cell, Cell), (
            f"the store gives another cell than it was given, which is a miss to every reader: {cell}"
        )
        return cell

    def _still_there(self, version: bytes, body: bytes, broken: str) -> None:
        cell = self._read()
        assert cell is not None, f"{broken}: the value is gone"
        assert (cell.kind, cell.filled_by, cell.body) == (Kind.VALUE, version, body), f"{broken}: {cell}"

    def _delete(self, key: str = KEY) -> int:
        return self._ask(DeleteKeys((key,), TIMEOUT_S), KeysDeleted).count

    def _expire(self) -> int:
        return self._ask(ExpireCells((KEY,), TIMEOUT_S), CellsExpired).count

    def _renew(self, *leases: Lease, lease_ms: int = LEASE_MS) -> tuple[bool, ...]:
        return self._ask(RenewLeases(leases, lease_ms, TIMEOUT_S), LeasesRenewed).renewed
