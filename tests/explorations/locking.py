"""The explorer of locks: every interleaving of a few who take one lock, while time passes.

As in `sansio_cache.exploring`, what runs is the product: the shipped machines on the memory store, and the
`HeldLock` by which a holder knows whether the lock is still his. It has worlds of its own, as here the clock
moves, a second at a time, as often as it likes between any two moves.

A worker takes the lock, renews it once a second of its lease is over, works, and gives it back. To work is to
call `check()`, and later to hand what was done to a resource, with the token; the resource refuses a lower
one than it has seen. A request is performed in one moment, and its answer comes in another.

*The oracle.* Two never hold the lock in the same moment, as far as each of them can tell. A token is higher
than all that were issued before. The resource takes nothing of one after it has taken something of a later
holder. Nobody changes what another holds, and nobody can keep others out for longer than his lease. And when
all have ended, and nothing has gone wrong, nobody holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from math import inf
from typing import Any, Final

import attrs
from msgspec.structs import replace

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NO_GRANT, Cell, grant_us, is_granted_to
from sansio_cache.commands import FreeLock, RenewLeases, Sleep, StoreCommand, TakeLock
from sansio_cache.events import Event, FailureKind, HoldsTaken, Interrupted, StoreEvent, StoreFailed, Woke
from sansio_cache.exploring.exhausting import Exhausted, exhaust
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import StoreGaveUp
from sansio_cache.operations.lock import LockFreeing, LockRequest, LockTaking, LockWaiting, take
from sansio_cache.step import Locked, Step, evolve
from sansio_cache_runtime.held_lock import HeldLock, held_lock

KEY: Final = "n:%l:nightly"
TIMEOUTS: Final = StoreTimeouts(operation_s=1e9, attempts=2)
BEGAN_S: Final = 1_000_000.0
"""When it begins, on all clocks."""


class Fault(Enum):
    """What may go wrong, with its number in RELIABILITY.md section 2 where it has one."""

    REQUEST_LOST = "1 request lost"
    REPLY_LOST = "2 reply lost"
    DUPLICATE = "3 delayed duplicate"
    SECOND = "8, 11 a second passes: half a lease, if not told otherwise"
    CRASH = "10 crash"
    GONE = "12 the lock is gone: eviction, FLUSHDB"
    AHEAD = "22 the server's clock jumps a lease ahead"
    BACK = "22 the server's clock goes a lease back"
    INTERRUPTION = "28 interruption"

    __hash__ = object.__hash__


class Broken(Enum):
    """What must hold."""

    HOLDERS = "two hold the lock, and neither can tell"
    TOKENS = "a token is no higher than one that was issued before"
    LATE = "the resource has taken what one did after what a later holder did"
    ANOTHERS = "S5 a renewal or a release has changed what another holds"
    OVERSTAYED = "L3 the lock is kept from others for longer than a lease"
    LEFT = "B2 all have ended, nothing went wrong, and the lock is held"

    __hash__ = object.__hash__


class Stage(Enum):
    """Where a worker is."""

    READY = "ready"
    TAKING = "taking it"
    HOLDING = "holding it"
    WORKING = "working, as it has checked"
    FREEING = "giving it back"
    DONE = "done"

    __hash__ = object.__hash__


@attrs.frozen(kw_only=True)
class LockConfiguration:
    """Who takes part, what may go wrong, and which parts are wrong on purpose.

    Args:
        name: For the table of results.
        workers: How many there are.
        faults: How often each fault may strike.
        lease_s: How long a lease lasts, in seconds.
        works: Whether holders work.
        is_fenced: Whether the resource refuses a lower token than it has seen.
        store: The store, or a wrong one.
        begin: Begins to take the lock, or a wrong one.
        held: What a holder knows, or a wrong one.
    """

    name: str
    workers: int = 2
    faults: Mapping[Fault, int] = attrs.field(factory=dict)
    lease_s: int = 2
    works: bool = False
    is_fenced: bool = True
    store: type[MemoryStore] = MemoryStore
    begin: Callable[..., Step] = take
    held: type[HeldLock] = HeldLock


@attrs.frozen
class Worker:
    """One worker."""

    stage: Stage = Stage.READY
    step: Step | None = None
    reply: Event | None = None
    """The answer to what it has asked for, on its way."""
    request: LockRequest | None = None
    grant: bytes = b""
    good_until_s: float = 0.0
    was_lost: bool = False
    renewal: Step | None = None
    renewed: Event | None = None
    """The answer to a renewal, on its way."""


@attrs.frozen
class World:
    """All there is at one moment."""

    workers: tuple[Worker, ...]
    kept: tuple[Any, ...] = ()
    issued_us: int = 0
    now_s: float = BEGAN_S
    """On the clocks of the workers, which go alike."""
    ahead_s: float = 0.0
    """How much later it is on the server's."""
    highest: int = 0
    """The highest token that was issued."""
    fence: int = 0
    """The highest token that the resource has seen."""
    late: frozenset[StoreCommand] = frozenset()
    """Requests that may arrive once more."""
    spent: tuple[tuple[Fault, int], ...] = ()
    is_excused: bool = False
    """Something has happened that may leave the lock held."""
    broken: Broken | None = None

    def with_worker(self, i: int, worker: Worker) -> World:
        """The same with one worker changed."""
        return attrs.evolve(self, workers=(*self.workers[:i], worker, *self.workers[i + 1 :]))


Moves = Iterator[tuple[str, World, Fault | None]]


class Search:
    """The moves of a configuration."""

    def __init__(self, configuration: LockConfiguration) -> None:
        self.configuration = configuration

    def beginning(self) -> World:
        """The world in which nobody has done anything."""
        spent = tuple((fault, 0) for fault in self.configuration.faults)
        return World((Worker(),) * self.configuration.workers, spent=spent)

    def moves(self, world: World) -> Moves:
        """What may happen next: in words, the world after it, and the fault that it is."""
        for i, worker in enumerate(world.workers):
            for text, after, fault in self._of_worker(world, i, worker):
                yield f"{i} {text}", self._judged(after), fault
        if not self._have_ended(world):
            yield from self._accidents(world)

    # One worker.

    def _of_worker(self, world: World, i: int, worker: Worker) -> Moves:
        match worker.stage:
            case Stage.READY:
                lease_ms = 1000 * self.configuration.lease_s
                request = LockRequest(KEY, b"worker-%1d" % i, 0, lease_ms, 1e9, TIMEOUTS, world.now_s)
                begun = attrs.evolve(worker, request=evolve(request, started_s=0.0))
                step = self.configuration.begin(request)
                yield "begins", self._take_in(world, i, begun, Stage.TAKING, step), None
                return
            case Stage.TAKING | Stage.FREEING:
                yield from self._asking(world, i, worker)
                yield from self._interrupted(world, i, worker)
            case Stage.HOLDING | Stage.WORKING:
                yield from self._holding(world, i, worker)
            case Stage.DONE:
                return
        crashed = self._strike(world, Fault.CRASH)
        if crashed is not None:
            after = self._late(crashed.with_worker(i, Worker(Stage.DONE)), worker.step, worker.renewal)
            yield "is gone", attrs.evolve(after, is_excused=True), Fault.CRASH

    def _asking(self, world: World, i: int, worker: Worker) -> Moves:
        step = worker.step
        assert step is not None
        if worker.reply is not None:
            event = _at(worker.reply, world.now_s)
            told = attrs.evolve(worker, reply=None)
            after = step.state.receive(event)
            text = f"is told {type(event).__name__}"
            yield text, self._take_in(world, i, told, worker.stage, after), None
        elif isinstance(step.command, Sleep):
            after = step.state.receive(Woke(world.now_s))
            yield "wakes", self._take_in(world, i, worker, worker.stage, after), None
        else:
            for text, after_world, reply, fault in self._sent(world, step):
                yield text, after_world.with_worker(i, attrs.evolve(worker, reply=reply)), fault

    def _interrupted(self, world: World, i: int, worker: Worker) -> Moves:
        struck = self._strike(world, Fault.INTERRUPTION)
        if struck is not None:
            assert worker.step is not None
            if worker.reply is None:
                struck = self._late(struck, worker.step)
            step = worker.step.state.receive(Interrupted(world.now_s))
            yield (
                "is interrupted",
                self._take_in(struck, i, Worker(), Stage.FREEING, step),
                Fault.INTERRUPTION,
            )

    def _holding(self, world: World, i: int, worker: Worker) -> Moves:
        held = self._thawed(worker, world.now_s)
        if worker.renewal is None:
            if not held.is_lost and worker.good_until_s - world.now_s < self.configuration.lease_s:
                renewing = attrs.evolve(worker, renewal=bare(held.keep()))
                yield "is to renew it", world.with_worker(i, renewing), None
        elif worker.renewed is None:
            for text, after, reply, fault in self._sent(world, worker.renewal):
                yield text, after.with_worker(i, attrs.evolve(worker, renewed=reply)), fault
        else:
            outcome = worker.renewal.state.receive(_at(worker.renewed, world.now_s)).outcome
            assert outcome is not None
            held.take_in(outcome)
            known = attrs.evolve(
                worker,
                renewal=None,
                renewed=None,
                good_until_s=held._good_until_s,
                was_lost=held._was_lost,
            )
            yield f"is told of its renewal: {outcome}", world.with_worker(i, known), None
        if worker.stage is Stage.HOLDING:
            if self.configuration.works and not held.is_lost:
                working = attrs.evolve(worker, stage=Stage.WORKING)
                yield "checks, and works", world.with_worker(i, working), None
            late = self._late(world, worker.renewal) if worker.renewed is None else world
            yield "leaves", self._take_in(late, i, Worker(), Stage.FREEING, held.free()), None
            return
        resting = world.with_worker(i, attrs.evolve(worker, stage=Stage.HOLDING))
        if self.configuration.is_fenced and held.token < world.fence:
            yield "is refused", resting, None
        else:
            broken = Broken.LATE if held.token < world.fence else world.broken
            fence = max(world.fence, held.token)
            yield "has worked", attrs.evolve(resting, fence=fence, broken=broken), None

    def _take_in(self, world: World, i: int, worker: Worker, stage: Stage, step: Step) -> World:
        """Where a step leads a worker to."""
        if any(isinstance(notice, StoreGaveUp) for notice in step.notices):
            world = attrs.evolve(world, is_excused=True)
        if step.command is not None:
            return world.with_worker(i, attrs.evolve(worker, stage=stage, step=bare(step)))
        outcome = step.outcome
        if not isinstance(outcome, Locked):
            return world.with_worker(i, Worker(Stage.DONE))
        request = worker.request
        assert request is not None
        held = held_lock("nightly", request, outcome, lambda: world.now_s, None)
        return world.with_worker(
            i,
            attrs.evolve(
                worker,
                stage=Stage.HOLDING,
                step=None,
                grant=outcome.grant,
                good_until_s=held._good_until_s,
            ),
        )

    def _thawed(self, worker: Worker, now_s: float) -> HeldLock:
        request, kind = worker.request, self.configuration.held
        assert request is not None
        token, until_s = grant_us(worker.grant), worker.good_until_s
        held = kind("nightly", token, request, worker.grant, until_s, lambda: now_s, None)
        held._was_lost = worker.was_lost
        return held

    # The store.

    def _sent(self, world: World, step: Step) -> Iterator[tuple[str, World, StoreEvent, Fault | None]]:
        """A request, and what may become of it: after each the world, and the answer on its way."""
        command: Any = step.command
        name = type(command).__name__
        performed, event = self._performed(world, command)
        yield f"asks {name}: {type(event).__name__}", performed, event, None
        failed = StoreFailed(world.now_s, FailureKind.TIMEOUT)
        lost = self._strike(world, Fault.REQUEST_LOST)
        if lost is not None:
            yield f"asks {name}, which is lost", self._late(lost, step), failed, Fault.REQUEST_LOST
        unheard = self._strike(performed, Fault.REPLY_LOST)
        if unheard is not None:
            yield f"asks {name}, whose answer is lost", unheard, failed, Fault.REPLY_LOST

    def _performed(self, world: World, command: Any) -> tuple[World, StoreEvent]:
        server_s = world.now_s + world.ahead_s
        store = self.configuration.store(lambda: server_s, issued_us=world.issued_us)
        for key, each in world.kept:
            store.plant(key, each.cell, each.expires_ms)
        before = {each.cell.grant for _, each in world.kept}
        event = store.perform(command)
        kept = tuple(sorted(store.dump().items()))
        after = attrs.evolve(world, kept=kept, issued_us=store.issued_us)
        if isinstance(command, TakeLock) and isinstance(event, HoldsTaken) and event.grants[0] not in before:
            token = grant_us(event.grants[0])
            broken = Broken.TOKENS if token <= world.highest else world.broken
            after = attrs.evolve(after, highest=max(world.highest, token), broken=broken)
        if kept != world.kept and _has_changed_anothers(world, command):
            after = attrs.evolve(after, broken=Broken.ANOTHERS)
        if Fault.DUPLICATE in self.configuration.faults:
            after = attrs.evolve(after, late=after.late | {command})
        return after, event

    def _late(self, world: World, *steps: Step | None) -> World:
        """These may not have arrived yet, where requests may be late."""
        if Fault.DUPLICATE not in self.configuration.faults:
            return world
        commands = {step.command for step in steps if step is not None}
        late = {each for each in commands if isinstance(each, StoreCommand)}
        return attrs.evolve(world, late=world.late | late)

    # Accidents.

    def _accidents(self, world: World) -> Moves:
        later = self._strike(world, Fault.SECOND)
        if later is not None:
            after = attrs.evolve(later, now_s=world.now_s + 1.0)
            yield f"* {Fault.SECOND.value}", self._judged(after), Fault.SECOND
        again = self._strike(world, Fault.DUPLICATE)
        for command in sorted(world.late, key=repr) if again is not None else ():
            assert again is not None
            excused = attrs.evolve(again, late=again.late - {command}, is_excused=True)
            after, _ = self._performed(excused, command)
            yield f"* {type(command).__name__} arrives late", self._judged(after), Fault.DUPLICATE
        gone = self._strike(world, Fault.GONE)
        if gone is not None and world.kept:
            yield f"* {Fault.GONE.value}", attrs.evolve(gone, kept=()), Fault.GONE
        lease_s = self.configuration.lease_s
        for fault, jump_s in ((Fault.AHEAD, lease_s), (Fault.BACK, -lease_s)):
            jumped = self._strike(world, fault)
            if jumped is not None:
                # A server has no memory of the ids that it has issued, but for what is in its cells.
                after = attrs.evolve(jumped, ahead_s=world.ahead_s + jump_s, issued_us=0)
                yield f"* {fault.value}", self._judged(after), fault

    def _strike(self, world: World, fault: Fault) -> World | None:
        """The world with one more of a fault; None where there may be no more."""
        spent = dict(world.spent)
        if spent.get(fault, 0) >= self.configuration.faults.get(fault, 0):
            return None
        return attrs.evolve(world, spent=tuple((each, n + (each is fault)) for each, n in world.spent))

    # The oracle.

    def _judged(self, world: World) -> World:
        return world if world.broken is not None else attrs.evolve(world, broken=self._broken(world))

    def _broken(self, world: World) -> Broken | None:
        holders = [each for each in world.workers if each.stage in (Stage.HOLDING, Stage.WORKING)]
        if sum(not self._thawed(each, world.now_s).is_lost for each in holders) > 1:
            return Broken.HOLDERS
        # A clock that goes back lets a lease seem longer, until it is renewed or given back.
        server_ms = (world.now_s + max(world.ahead_s, 0.0)) * 1000
        cells = [each.cell for _, each in world.kept if isinstance(each.cell, Cell)]
        if any(cell.lease_deadline_ms > server_ms + 1000 * self.configuration.lease_s for cell in cells):
            return Broken.OVERSTAYED
        is_held = any(cell.grant != NO_GRANT for cell in cells)
        return Broken.LEFT if is_held and self._have_ended(world) and not world.is_excused else None

    def _have_ended(self, world: World) -> bool:
        return all(worker.stage is Stage.DONE for worker in world.workers)


def explore_lock(configuration: LockConfiguration, most: int = 1_000_000) -> Exhausted:
    """Take all moves from all worlds, breadth first, until there is none left that was not seen."""
    return exhaust(configuration.name, Search(configuration), most)


def _has_changed_anothers(world: World, command: Any) -> bool:
    """Whether a renewal or release has changed the cell of a grant that is not its own."""
    match command:
        case FreeLock(lock=lock) | RenewLeases(leases=(lock,)):
            return not any(is_granted_to(each.cell.grant, lock.lease_id) for _, each in world.kept)
    return False


def _at(event: Any, now_s: float) -> Event:
    """An answer, as it comes in now."""
    at: Event = replace(event, now_s=now_s)
    return at


def _timeless(taking: LockTaking) -> LockTaking:
    budget = evolve(taking.budget, deadline_s=inf)
    request = evolve(taking.request, started_s=0.0)
    return evolve(taking, turn=0, budget=budget, request=request)


def bare(step: Step) -> Step:
    """A step without what is only told, or decides how long a pause is."""
    state = step.state
    if isinstance(state, LockWaiting):
        state = evolve(state, taking=_timeless(state.taking), since_s=0.0)
    elif isinstance(state, LockTaking):
        state = _timeless(state)
    elif isinstance(state, LockFreeing):
        state = evolve(state, budget=evolve(state.budget, deadline_s=inf))
    command = Sleep(0.0) if isinstance(step.command, Sleep) else step.command
    return Step(state, command, step.outcome)
