"""The rules of a store: what every command does to the cells, wherever they are kept.

The protocol's safety rests on these rules: a value is stored only into the very cell that issued its grant
(S1, S2), a lease is released only by its holder (S5), a writer's hold overrides any load (S6). They are the
executable specification of the Lua texts of the Redis adapter; one conformance suite holds both to them.

A store of one's own derives from `StoreRules` and says how a key is looked up, kept and dropped; see
`docs/howto/write-a-backend`. The methods that it has to define are at the end of the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from msgspec.structs import replace

from sansio_cache.cell import (
    FOREIGN,
    HEADER_BYTES,
    NO_GRANT,
    Cell,
    Foreign,
    Kind,
    Tag,
    above_floor,
    grant_us,
    is_granted_to,
    issued_cell,
    make_grant,
)
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Capture,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    LeaseRequest,
    Mode,
    Ping,
    QueueCommand,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.entry import BODY_HEADER_BYTES, is_nothing, retagged
from sansio_cache.events import (
    AcquireReply,
    CellInspected,
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    CellSwapped,
    CellTouched,
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
    StoreEvent,
    StoreFailed,
    TagsRead,
    ValueFound,
    WriterFound,
)
from sansio_cache.queue_rules import Partition
from sansio_cache.tags import NO_VERSION

LONGEST_LEASE_MS: Final = 86_400_000
"""A lease deadline further away than a day is no lease's: a clock has jumped, or the bytes are hostile."""
LOOKED_AT_BYTES: Final = HEADER_BYTES + BODY_HEADER_BYTES
"""As much of a cell as says whether it holds a value."""
LOCK_KEPT_MS: Final = 7 * 86_400_000
"""How long the token of a lock is known that nobody holds."""


class StoreRules(ABC):
    """Answers the store commands, on whatever keeps the cells."""

    __slots__ = ()

    floor_us = 0
    """Ids of before this are not to be trusted, in microseconds of the store's clock: see `above_floor`."""
    compares = False
    """Whether it stores a value without a look at its grant where the cell is exactly as that has left it.
    For a server that is one plain command, and no script."""

    def answer(self, command: StoreCommand, now_s: float, now_ms: int) -> StoreEvent:  # noqa: C901
        """Do what a command asks. One case a command.

        Args:
            command: It is one step for everybody else: a transaction, or under a lock.
            now_s: The driver's clock.
            now_ms: The store's clock, in milliseconds. It decides what is fresh and what has expired.
        """
        match command:
            case ReadCell(key=key, tags=tags):
                versions = self._versions(tags, now_ms) if tags else ()
                return CellRead(now_s, self._read(key, now_ms), now_ms, versions)
            case ReadCells(keys=keys, tags=tags):
                cells = tuple(self._read(key, now_ms) for key in keys)
                return CellsRead(now_s, cells, now_ms, self._versions(tags, now_ms))
            case InspectCell(key=key):
                cell = self._read(key, now_ms)
                left_ms = self._expires_ms(key) - now_ms if isinstance(cell, Cell) else 0
                return CellInspected(now_s, cell, left_ms, now_ms)
            case ReadTags(tags=tags):
                return TagsRead(now_s, self._versions(tags, now_ms), now_ms)
            case AcquireLease():
                versions = self._capture(command.capture, command.nonce, now_ms)
                request = LeaseRequest(command.key, command.seen, command.mode)
                answer = self._acquire(request, command.nonce, command.lease_ms, now_s, now_ms)
                if versions and not isinstance(answer, WriterFound | ForeignFound):
                    return replace(answer, versions=versions)
                return answer
            case AcquireLeases(lease_requests=lease_requests, nonce=nonce, lease_ms=lease_ms):
                versions = self._capture(command.capture, nonce, now_ms)
                answers = tuple(
                    self._acquire(each, nonce, lease_ms, now_s, now_ms) for each in lease_requests
                )
                return LeasesAnswered(now_s, answers, versions)
            case FillCells(fills=fills, tags=tags):
                if not self._has_room(fills):
                    return StoreFailed(now_s, FailureKind.OUT_OF_MEMORY)
                results = tuple(self._fill(fill, now_ms) for fill in fills)
                return CellsFilled(now_s, results, self._versions(tags, now_ms))
            case RenewLeases(leases=leases, lease_ms=lease_ms):
                renewed = tuple(self._renew(lease, lease_ms, now_ms) for lease in leases)
                return LeasesRenewed(now_s, renewed)
            case ReleaseLeases(leases=leases):
                for lease in leases:
                    self._release(lease, now_ms)
                return LeasesReleased(now_s)
            case HoldCells(keys=keys, nonce=nonce, hold_ms=hold_ms):
                versions = self._capture(command.capture, nonce, now_ms)
                # A run takes all keys or none: so the first tells whether there was one before.
                is_again = bool(keys) and self._own_hold(keys[0], nonce, now_ms) is not None
                hold = self._hold_again if is_again else self._hold
                return HoldsTaken(now_s, tuple(hold(key, nonce, hold_ms, now_ms) for key in keys), versions)
            case ClaimCell():
                versions = self._capture(command.capture, command.nonce, now_ms)
                claimed = self._claim(command, now_ms)
                if isinstance(claimed, bytes):
                    return HoldsTaken(now_s, (claimed,), versions)
                return ValueFound(now_s) if claimed is None else WriterFound(now_s, claimed)
            case SwapCell(key=key, body=body):
                if not self._has_room((Fill(key, NO_GRANT, 0, 0, body),)):
                    return StoreFailed(now_s, FailureKind.OUT_OF_MEMORY)
                return CellSwapped(now_s, self._swap(command, now_ms))
            case TouchCell():
                self._capture(command.capture, command.nonce, now_ms)
                return CellTouched(now_s, self._touch(command, now_ms))
            case TakeLock():
                taken = self._take(command, now_ms)
                if isinstance(taken, bytes):
                    return HoldsTaken(now_s, (taken,))
                return ForeignFound(now_s) if taken is None else WriterFound(now_s, taken)
            case FreeLock(lock=lock):
                self._free(lock, now_ms)
                return LeasesReleased(now_s)
            case ExpireCells(keys=keys):
                return CellsExpired(now_s, sum(self._expire(key, now_ms) for key in keys))
            case DeleteKeys(keys=keys, looks=looks):
                existed = had_value(self._look(keys[0], now_ms)) if looks else None
                return KeysDeleted(now_s, sum(self._delete(key, now_ms) for key in keys), existed)
            case ScanKeys():
                cursor, found = self._scan(command, now_ms)
                return KeysFound(now_s, cursor, found)
            case Ping():
                return Ponged(now_s)
            case _:
                return self._queued(command, now_s, now_ms)

    def _queued(self, command: QueueCommand, now_s: float, now_ms: int) -> StoreEvent:
        partition = self._partition(command.root)
        if partition is None:
            return StoreFailed(now_s, FailureKind.OTHER, reason="this store keeps no queues")
        return partition.answer(command, self, now_s, now_ms)

    def cell(self, key: str, now_ms: int) -> Cell | Foreign | None:
        """What a key holds, for the rules of queues."""
        return self._read(key, now_ms)

    def drop(self, key: str) -> None:
        """Remove a key, if it is there, for the rules of queues."""
        self._drop(key)

    # What the scripts do, one method each.

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        cell = self._read(request.key, now_ms)
        if isinstance(cell, Foreign):
            return ForeignFound(now_s)
        if cell is not None:
            if cell.kind == Kind.HOLD:
                return WriterFound(now_s, max(cell.lease_deadline_ms - now_ms, 0))
            value = cell if cell.kind == Kind.VALUE else None
            if value is not None and _is_fresh(value, now_ms) and value.filled_by != request.seen:
                return FreshFound(now_s, value, now_ms)
            kept = value if request.mode is Mode.KEEP else None
            if is_granted_to(cell.grant, nonce):
                return LeaseGranted(now_s, cell.grant, value, now_ms)
            left_ms = cell.lease_deadline_ms - now_ms
            if cell.grant != NO_GRANT and 0 < left_ms <= LONGEST_LEASE_MS:
                return LeaseDenied(now_s, left_ms, kept, now_ms)
            if kept is not None:
                grant = self._grant(nonce, now_ms)
                self._refresh(request.key, kept, grant, now_ms + lease_ms)
                return LeaseGranted(now_s, grant, kept, now_ms)
        grant = self._grant(nonce, now_ms)
        self._keep(request.key, Cell(Kind.EMPTY, grant, now_ms + lease_ms), now_ms + lease_ms)
        return LeaseGranted(now_s, grant, None, now_ms)

    def _refresh(self, key: str, kept: Cell, grant: bytes, deadline_ms: int) -> None:
        cell = replace(kept, grant=grant, lease_deadline_ms=deadline_ms)
        self._keep(key, cell, max(self._expires_ms(key), deadline_ms))

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        cell = self._read(fill.key, now_ms)
        if grant_us(fill.grant) < self.floor_us:
            return FillResult.REFUSED
        if self.compares and fill.lease_ms:
            if cell != issued_cell(fill.kind, fill.grant, fill.lease_ms):
                return FillResult.CHANGED
            return self._store(fill, now_ms)
        if not isinstance(cell, Cell):
            return FillResult.REFUSED
        if cell.kind == Kind.VALUE and cell.filled_by == fill.grant:
            return FillResult.ALREADY_STORED
        if cell.grant != fill.grant:
            return FillResult.REFUSED
        return self._store(fill, now_ms)

    def _store(self, fill: Fill, now_ms: int) -> FillResult:
        soft_ms = now_ms + fill.soft_ttl_ms if fill.soft_ttl_ms else 0
        value = Cell(Kind.VALUE, NO_GRANT, 0, soft_ms, fill.grant, fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED

    def _renew(self, lease: Lease, lease_ms: int, now_ms: int) -> bool:
        cell = self._leased(lease, now_ms)
        if cell is None:
            return False
        deadline_ms = now_ms + lease_ms
        expires_ms = max(self._expires_ms(lease.key), deadline_ms)
        self._keep(lease.key, replace(cell, lease_deadline_ms=deadline_ms), expires_ms)
        return True

    def _release(self, lease: Lease, now_ms: int) -> None:
        cell = self._read_any(lease.key, now_ms)
        if not isinstance(cell, Cell) or not is_granted_to(cell.grant, lease.lease_id):
            return
        if cell.kind == Kind.VALUE:
            freed = replace(cell, grant=NO_GRANT, lease_deadline_ms=0)
            self._keep(lease.key, freed, self._expires_ms(lease.key))
        else:
            self._drop(lease.key)

    def _hold(self, key: str, nonce: bytes, hold_ms: int, now_ms: int) -> bytes:
        grant = self._grant(nonce, now_ms)
        self._keep(key, Cell(Kind.HOLD, grant, now_ms + hold_ms), now_ms + hold_ms)
        return grant

    def _hold_again(self, key: str, nonce: bytes, hold_ms: int, now_ms: int) -> bytes:
        """The grant of the hold that an earlier run has taken, or of a new one."""
        return self._own_hold(key, nonce, now_ms) or self._hold(key, nonce, hold_ms, now_ms)

    def _own_hold(self, key: str, nonce: bytes, now_ms: int) -> bytes | None:
        cell = self._read(key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.HOLD and is_granted_to(cell.grant, nonce):
            return cell.grant
        return None

    def _claim(self, claim: ClaimCell, now_ms: int) -> bytes | int | None:
        """The grant of a hold; how long another writer's lasts; None where there is a value."""
        cell = self._read(claim.key, now_ms)
        if isinstance(cell, Foreign):
            return None
        if cell is not None and _is_value(cell) and cell.filled_by != claim.refused:
            return None
        if cell is not None and cell.kind == Kind.HOLD:
            left_ms = cell.lease_deadline_ms - now_ms
            if not is_granted_to(cell.grant, claim.nonce) and 0 < left_ms <= LONGEST_LEASE_MS:
                return left_ms
        return self._hold_again(claim.key, claim.nonce, claim.hold_ms, now_ms)

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        cell = self._read(swap.key, now_ms)
        if not isinstance(cell, Cell) or not _is_value(cell):
            return None
        if cell.filled_by.startswith(swap.nonce):  # our own retry
            return cell.filled_by
        body = retagged(swap.body, cell.body)
        if cell.filled_by != swap.version or not _is_fresh(cell, now_ms) or body is None:
            return None
        version = swap.fill_id or self._grant(swap.nonce, now_ms)
        if swap.hard_ttl_ms < 0:
            self._drop(swap.key)
            return version
        soft_ms, expires_ms = cell.soft_ms, self._expires_ms(swap.key)
        if swap.hard_ttl_ms:
            soft_ms = now_ms + swap.soft_ttl_ms if swap.soft_ttl_ms else 0
            expires_ms = now_ms + swap.hard_ttl_ms
        self._keep(swap.key, Cell(Kind.VALUE, NO_GRANT, 0, soft_ms, version, body), expires_ms)
        return version

    def _touch(self, touch: TouchCell, now_ms: int) -> bool:
        cell = self._read(touch.key, now_ms)
        if not isinstance(cell, Cell) or not _is_value(cell) or cell.filled_by != touch.version:
            return False
        if not _is_fresh(cell, now_ms):
            return False
        expires_ms = self._expires_ms(touch.key)
        longer_ms = min(
            now_ms + touch.ttl_ms - (cell.soft_ms or expires_ms),
            grant_us(cell.filled_by) // 1000 + touch.max_life_ms - expires_ms,
        )
        if longer_ms > 0:
            soft_ms = cell.soft_ms + longer_ms if cell.soft_ms else 0
            self._keep(touch.key, replace(cell, soft_ms=soft_ms), expires_ms + longer_ms)
        return True

    def _take(self, take: TakeLock, now_ms: int) -> bytes | int | None:
        """The grant of a lock; how long another holds it; None where the key is not a lock's."""
        cell = self._read_any(take.key, now_ms)
        if isinstance(cell, Foreign):
            return None
        deadline_ms, last_us = now_ms + take.lease_ms, 0
        grant = NO_GRANT
        if cell is not None:
            left_ms = cell.lease_deadline_ms - now_ms
            if is_granted_to(cell.grant, take.nonce):
                grant = cell.grant
            elif cell.grant != NO_GRANT and 0 < left_ms <= LONGEST_LEASE_MS:
                return left_ms
            last_us = max(grant_us(cell.grant), grant_us(cell.filled_by))
        if grant == NO_GRANT:
            grant = self._grant(take.nonce, now_ms)
            if grant_us(grant) <= last_us:
                grant = make_grant(take.nonce, last_us + 1)
        kept_ms = now_ms + max(LOCK_KEPT_MS, take.lease_ms)
        self._keep(take.key, Cell(Kind.HOLD, grant, deadline_ms), kept_ms)
        return grant

    def _free(self, lock: Lease, now_ms: int) -> None:
        cell = self._read_any(lock.key, now_ms)
        if isinstance(cell, Cell) and is_granted_to(cell.grant, lock.lease_id):
            self._keep(lock.key, Cell(Kind.EMPTY, filled_by=cell.grant), now_ms + LOCK_KEPT_MS)

    def _expire(self, key: str, now_ms: int) -> bool:
        cell = self._read_any(key, now_ms)
        if not isinstance(cell, Cell):
            return False
        if cell.kind != Kind.VALUE:  # who loads, or writes, may have an older value
            self._drop(key)
            return False
        soft_ms = min(cell.soft_ms or now_ms, now_ms)
        stale = replace(cell, grant=NO_GRANT, lease_deadline_ms=0, soft_ms=soft_ms)
        self._keep(key, stale, self._expires_ms(key))
        return True

    def _versions(self, tags: tuple[str, ...], now_ms: int) -> tuple[bytes, ...]:
        return tuple(self._version(tag, now_ms) for tag in tags)

    def _version(self, tag: str, now_ms: int) -> bytes:
        kept = self._look(tag, now_ms)
        is_good = isinstance(kept, Tag) and grant_us(kept.version) >= self.floor_us
        return kept.version if isinstance(kept, Tag) and is_good else NO_VERSION

    def _capture(self, capture: Capture, nonce: bytes, now_ms: int) -> tuple[bytes, ...]:
        return tuple(self._capture_one(tag, nonce, now_ms, now_ms + capture.ttl_ms) for tag in capture.tags)

    def _capture_one(self, tag: str, nonce: bytes, now_ms: int, until_ms: int) -> bytes:
        version = self._version(tag, now_ms)
        if version == NO_VERSION:
            version = self._grant(nonce, now_ms)
        elif self._expires_ms(tag) >= until_ms:
            return version
        # For half as long again: most captures then change nothing.
        self._keep(tag, Tag(version), until_ms + (until_ms - now_ms) // 2)
        return version

    def _delete(self, key: str, now_ms: int) -> bool:
        existed = self._look(key, now_ms) is not None
        if existed:
            self._drop(key)
        return existed

    def _leased(self, lease: Lease, now_ms: int) -> Cell | None:
        """The cell of a lease that is still its claimant's (S5)."""
        cell = self._read(lease.key, now_ms)
        if isinstance(cell, Cell) and is_granted_to(cell.grant, lease.lease_id):
            return cell
        return None

    def _read(self, key: str, now_ms: int) -> Cell | Foreign | None:
        cell = self._look(key, now_ms)
        if self.floor_us and isinstance(cell, Cell):
            return above_floor(cell, self.floor_us)
        return FOREIGN if isinstance(cell, Tag) else cell

    def _read_any(self, key: str, now_ms: int) -> Cell | Foreign | None:
        """A cell, be it too old to be trusted: of a lock, whose token goes up, or that is to be given up."""
        cell = self._look(key, now_ms)
        return FOREIGN if isinstance(cell, Tag) else cell

    # What a store defines.

    @abstractmethod
    def _look(self, key: str, now_ms: int) -> Cell | Foreign | Tag | None:
        """What a key holds; None where it does not exist, or has expired."""

    @abstractmethod
    def _expires_ms(self, key: str) -> int:
        """When a key is forgotten that has just been looked up, in milliseconds of the store's clock."""

    @abstractmethod
    def _keep(self, key: str, cell: Cell | Foreign | Tag, expires_ms: int) -> None:
        """Have a key hold this, in place of what it held, until then. It may go earlier: that is safe."""

    @abstractmethod
    def _drop(self, key: str) -> None:
        """Remove a key, if it is there."""

    @abstractmethod
    def _scan(self, command: ScanKeys, now_ms: int) -> tuple[int, tuple[str, ...]]:
        """One page of the keys that match: the cursor of the next, 0 where there is none, and the keys."""

    @abstractmethod
    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        """A new grant, as `make_grant` makes it: its microseconds never repeat and never go back (S3)."""

    def _partition(self, root: str) -> Partition | None:  # noqa: ARG002
        """A partition of a queue, made where it is new; None where the store has no queues."""
        return None

    def _has_room(self, fills: tuple[Fill, ...]) -> bool:  # noqa: ARG002
        """Whether values of this size can be kept at all."""
        return True


def had_value(before: Cell | Foreign | Tag | None) -> bool | None:
    """Whether what a key held before its removal was a value; None where that is not to be told.

    The answer that there is nothing is none, and neither is a lease. Of that, as of what is foreign, a server
    could not say it: it looks before it removes, and a value may come between.
    """
    if before is None:
        return False
    if isinstance(before, Cell) and before.kind == Kind.VALUE:
        return _is_value(before)
    return None


def _is_value(cell: Cell) -> bool:
    """Whether a cell holds a value, and not only the answer that there is nothing."""
    if cell.kind != Kind.VALUE:
        return False
    return len(cell.body) < BODY_HEADER_BYTES or not is_nothing(cell.body)


def _is_fresh(value: Cell, now_ms: int) -> bool:
    return value.soft_ms == 0 or now_ms < value.soft_ms
