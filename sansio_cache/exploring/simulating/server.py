"""The server of a simulation: the shipped memory store, with all that may become of a server.

Requests come in by `arrive`, in whatever order the network has them. What a request does to the cells is
judged as the explorer judges it (S2, S3, S5, S13): by what was there before and after.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Foreign, Kind, Tag
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    ClaimCell,
    DeleteKeys,
    FillCells,
    HoldCells,
    InspectCell,
    Ping,
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
    keys_and_tags,
)
from sansio_cache.events import CellSwapped, FailureKind, HoldsTaken, StoreEvent, StoreFailed
from sansio_cache.exploring.configuration import Configuration
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.naming import payload_of
from sansio_cache.exploring.simulating.faults import SimulatedFault
from sansio_cache.exploring.simulating.oracle import Oracle, Violated
from sansio_cache.exploring.simulating.rows import COUNTER, LEASE_S, LIFE_S, LOCK_KEY, MAX_LEASE_S
from sansio_cache.exploring.simulating.timeline import Random, Timeline
from sansio_cache.exploring.storing import filled_ids, issued_ids, judged_request
from sansio_cache.memory_store import Kept, MemoryStore
from sansio_cache.queue_rules import Partition
from sansio_cache.store_rules import had_value

READS: Final = (ReadCell, ReadCells, InspectCell, ReadTags, ScanKeys, Ping)
_NO_MEMORY_NEEDED: Final = (*READS, DeleteKeys, ReleaseLeases)
_PLAIN: Final = (*READS, DeleteKeys)
"""All else are scripts."""
_ISSUING: Final = (AcquireLease, AcquireLeases, HoldCells, ClaimCell, SwapCell, TouchCell)
_JUDGED: Final = (FillCells, ReleaseLeases, RenewLeases, TouchCell)
COPY_EVERY_S: Final = 0.5
"""How often what the server holds is copied, to come back later."""
LOST_S: Final = LIFE_S + MAX_LEASE_S + LEASE_S
"""How long what a failover has lost may show (S1f)."""


def _nothing() -> None:
    """Nobody wants to know."""


@attrs.define(eq=False)
class Server:
    """One primary.

    Args:
        timeline: The time of the world; the server's clock may differ from it.
        machines: Which store it is, or a wrong one.
        oracle: Is told of what a failover loses.
        fired: Counts faults.
        random: For what the server does by chance.
        publish: Tells who listens that some keys have changed.
    """

    timeline: Timeline
    machines: Configuration
    oracle: Oracle
    fired: Counter[SimulatedFault]
    random: Random
    publish: Callable[[tuple[str, ...]], None]
    compares: bool = False
    make_queues: Callable[[], dict[str, Partition]] = dict
    """Makes the partitions of queues, as they are where nothing was queued yet."""
    on_lost: Callable[[], object] = _nothing
    """Is called when it has lost what it had, or a part of that."""
    store: MemoryStore = attrs.field(init=False)
    ahead_s: float = 0.0
    """Of the timeline, by the server's clock."""
    failure: FailureKind | None = None
    """What everything is answered with, if it is."""
    refusal: FailureKind | None = None
    """What writes are answered with."""
    denied: frozenset[str] = frozenset()
    """Keys that nobody may write."""
    is_frozen: bool = False
    delay_s: float = 0.0
    """How long a command takes, where the server is slow."""
    known: set[type] = attrs.field(factory=set)
    """The scripts that it has."""
    trace: Callable[[str, tuple[str, ...]], None] | None = None
    performed: int = 0
    lost_until_s: float = 0.0
    """Until when something may show that was lost."""
    jumped_s: float = 0.0
    """When its clock last jumped."""
    behind_s: float = 0.0
    """How much longer entries may live, as the server's clock went back."""
    lock_lost_s: float = 0.0
    """When the lock was last lost by what became of the server."""
    swaps: Counter[bytes] = attrs.field(factory=Counter)
    """How often a value was counted up under a nonce."""
    _issued: set[bytes] = attrs.field(factory=set)
    _filled: set[bytes] = attrs.field(factory=set)
    _waiting: list[Callable[[], None]] = attrs.field(factory=list)
    _copies: deque[tuple[float, dict[str, Kept], dict[str, Partition]]] = attrs.field(
        factory=partial(deque, maxlen=6)
    )
    _copied_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._begin({}, self.make_queues())
        self._copy()

    def clock(self) -> float:
        """The server's clock, in seconds."""
        return self.timeline.now_s + self.ahead_s

    # Requests.

    def arrive(self, command: StoreCommand, answer: Callable[[StoreEvent], None]) -> None:
        """A request has come in. `answer` gets what becomes of it, with the server's time for `now_s`."""
        if self.failure is not None:
            answer(StoreFailed(0.0, self.failure))
        elif self.is_frozen:
            self._waiting.append(partial(self.arrive, command, answer))
        elif self.delay_s:
            self.timeline.after(self.delay_s * self.random.random(), partial(self._serve, command, answer))
        else:
            self._serve(command, answer)

    def has_script(self, command: StoreCommand) -> bool:
        """Whether the script of a command is known; it is from now on, as it is sent with its text then."""
        kind = type(command)
        if kind in self.known or kind in _PLAIN:
            return True
        self.known.add(kind)
        return False

    def _serve(self, command: StoreCommand, answer: Callable[[StoreEvent], None]) -> None:
        refused = self._refused(command)
        answer(self.perform(command) if refused is None else StoreFailed(0.0, refused))

    def _refused(self, command: StoreCommand) -> FailureKind | None:
        if self.denied and not isinstance(command, READS):
            keys, tags = keys_and_tags(command)
            if not self.denied.isdisjoint((*keys, *tags)):
                return FailureKind.PERMISSION
        if self.refusal is None:
            return None
        harmless = _NO_MEMORY_NEEDED if self.refusal is FailureKind.OUT_OF_MEMORY else READS
        return None if isinstance(command, harmless) else self.refusal

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, and look at what it did.

        Raises:
            Violated: It did what must not happen.
        """
        self.performed += 1
        kind = type(command)
        if kind in READS:
            return self.store.perform(command)
        cells, tags = keys_and_tags(command)
        keys = (*cells, *tags)
        before = self._held(keys)
        event = self.store.perform(command)
        if kind in _ISSUING:
            self._judge_ids(tuple(before.items()), command, event, keys)
        if kind in _JUDGED:
            self._judge_fill(before, command, event, keys)
        if isinstance(command, SwapCell):
            self._judge_swap(before, command, event)
        elif (
            isinstance(command, ClaimCell)
            and isinstance(event, HoldsTaken)
            and had_value(_cell(before.get(command.key)))
        ):
            raise Violated(Invariant.OWNERS, "a key was given to who adds, and has a value", command.key)
        if self.trace is not None:
            self.trace(f"{_name(command)} -> {_said(event)}", keys)
        if kind not in (RenewLeases, TakeLock, AcquireLease, AcquireLeases, TouchCell):
            self.publish(keys)
        return event

    def _held(self, keys: tuple[str, ...]) -> dict[str, Kept]:
        now_ms = int(self.clock() * 1000)
        kept = self.store.dump()
        return {key: kept[key] for key in keys if key in kept and kept[key].expires_ms > now_ms}

    def _judge_ids(
        self,
        before: tuple[tuple[str, Kept], ...],
        command: StoreCommand,
        event: StoreEvent,
        keys: tuple[str, ...],
    ) -> None:
        issued = issued_ids(before, command, event)
        if not self._issued.isdisjoint(issued):
            raise Violated(Invariant.S3, f"{_name(command)} was given an id of before", keys[0])
        self._issued.update(issued)

    def _judge_fill(
        self,
        before: dict[str, Kept],
        command: StoreCommand,
        event: StoreEvent,
        keys: tuple[str, ...],
    ) -> None:
        broken = judged_request(before, self._held(keys), command)
        if broken is not None:
            raise Violated(*broken, keys[0])
        filled = filled_ids(tuple(before.items()), command, event)
        if not self._filled.isdisjoint(filled):
            raise Violated(Invariant.S2, "a second fill under one grant", keys[0])
        self._filled.update(filled)
        if isinstance(command, FillCells) and any(
            not _is_leased(before.get(each.key)) for each in command.fills
        ):
            self.fired[SimulatedFault.LEASE_LAPSED] += 1

    def _judge_swap(self, before: dict[str, Kept], command: SwapCell, event: StoreEvent) -> None:
        """A counter goes up by one each time, and once for each who counts."""
        if command.key != COUNTER.key or not isinstance(event, CellSwapped) or event.version is None:
            return
        old = before[command.key].cell
        assert isinstance(old, Cell)
        is_retry = old.filled_by == event.version
        was, now = int(payload_of(old.body)), int(payload_of(command.body))
        if not is_retry and now != was + 1:
            raise Violated(Invariant.EXACT, f"it was at {was}, and is at {now}", command.key)
        self.swaps[command.nonce] += not is_retry

    # What becomes of it.

    def _begin(self, kept: dict[str, Kept], queues: dict[str, Partition]) -> None:
        self.store = self.machines.store(clock=self.clock, compares=self.compares or self.machines.compares)
        self.store.queues.update(queues)
        for key, each in kept.items():
            self.store.plant(key, each.cell, each.expires_ms)
        self.known.clear()
        self.lock_lost_s = self.timeline.now_s

    def _copy(self) -> None:
        self._copies.append((self.timeline.now_s, self.store.dump(), _copied(self.store.queues)))
        self.timeline.after(COPY_EVERY_S, self._copy)

    def restart(self, *, keeps: bool) -> None:
        """Begin anew, with all data or with none."""
        if keeps:
            self._begin(self.store.dump(), self.store.queues)
        else:
            self._begin({}, self.make_queues())
            self.on_lost()

    def fall_back(self) -> None:
        """Be as it was a while ago: a replica that lagged, or a snapshot."""
        copied_s, kept, queues = self._copies[self.random.randrange(len(self._copies))]
        self._begin(kept, _copied(queues))
        self.on_lost()
        self._filled.clear()  # a lease that was filled may be back
        self.swaps.clear()
        self._copied_s = copied_s
        self.lost_until_s = self.timeline.now_s + LOST_S + self.behind_s
        self.oracle.roll_back(copied_s, self.lost_until_s)

    def jump(self, by_s: float) -> None:
        """The server's clock goes elsewhere. An entry lives the longer for it, where it goes back."""
        now_ms = int(self.clock() * 1000)
        for key, kept in self.store.dump().items():
            if kept.expires_ms <= now_ms:  # what is over does not come back
                self.store.plant(key, None, 0)
        self.ahead_s += by_s
        self.lock_lost_s = self.jumped_s = self.timeline.now_s
        self.behind_s = max(self.behind_s - by_s, 0.0)
        if by_s < 0:
            self.oracle.forget_staleness()
        if by_s < 0 and self.timeline.now_s < self.lost_until_s:
            self.lost_until_s -= by_s
            self.oracle.roll_back(self._copied_s, self.lost_until_s)

    def thaw(self) -> None:
        """Go on, with what has come in meanwhile."""
        self.is_frozen = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()

    def evict(self) -> int:
        """Lose some keys, leases and tags included; how many."""
        gone = [key for key in self.store.dump() if self.random.random() < 0.4]
        for key in gone:
            self.store.plant(key, None, 0)
            if key == LOCK_KEY:
                self.lock_lost_s = self.timeline.now_s
        return len(gone)

    def plant_foreign(self, key: str) -> None:
        """Another program writes what it likes under a key."""
        until_ms = int(self.clock() * 1000) + 500
        if self.random.random() < 0.5:
            self.store.plant(key, FOREIGN, until_ms)
            return
        body = self.random.randbytes(self.random.randrange(60))
        self.store.plant(key, Cell(Kind.VALUE, filled_by=self.random.randbytes(16), body=body), until_ms)

    def heal(self) -> None:
        """Serve again, whatever it was."""
        self.failure = self.refusal = None
        self.denied = frozenset()
        self.delay_s = 0.0
        self.thaw()

    def leases(self) -> list[str]:
        """The keys that somebody holds, or loads."""
        now_ms = int(self.clock() * 1000)
        return [
            key
            for key, kept in self.store.dump().items()
            if isinstance(kept.cell, Cell)
            and kept.cell.lease_deadline_ms > now_ms
            and kept.expires_ms > now_ms
        ]


def _copied(queues: dict[str, Partition]) -> dict[str, Partition]:
    """Partitions as they are now, whatever becomes of them."""
    return {root: each.copy() for root, each in queues.items()}


def _is_leased(kept: Kept | None) -> bool:
    return kept is not None and isinstance(kept.cell, Cell) and kept.cell.grant != NO_GRANT


def _cell(kept: Kept | None) -> Cell | Foreign | Tag | None:
    return None if kept is None else kept.cell


def _name(command: StoreCommand) -> str:
    return type(command).__name__


def _said(event: StoreEvent) -> str:
    said: Any = event
    short = {
        name: getattr(said, name) for name in said.__struct_fields__ if name not in ("now_s", "server_ms")
    }
    return f"{_name(said)}({', '.join(f'{name}={value!r:.60}' for name, value in short.items())})"
