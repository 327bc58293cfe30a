"""What a driver does to a process: thawed for one move, and frozen again.

`Running` does to the machines and to `Flights` what `sansio_cache_redis.driver_sync.Driver` does to them,
method by method: `_take` is a turn of the loop in `run`, `interrupt` is `_abandon`, `join` and `_leave` are
`_share`, and `_observe` is `_observe`. A recovery, which the drivers run in the background, is run by the
writer whose invalidation failed, after its operation has ended.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from exploring.configuration import KEY, NOW_S, PATIENCE, Act, Configuration, invalidation, mutation
from exploring.invariants import Invariant
from exploring.naming import nonce_of, replace
from exploring.process import Process, Stage, Worker, frozen, pending, thaw
from sansio_cache.commands import (
    AcquireLease,
    Command,
    Compute,
    FillCells,
    ReleaseLeases,
    RenewLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    Event,
    Interrupted,
    LeaseGranted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
    Woke,
)
from sansio_cache.flights import Flights, Following
from sansio_cache.notices import InvalidationFailed, StoreGaveUp
from sansio_cache.operations.invalidate import invalidate
from sansio_cache.operations.mutate import EndRequest, begin
from sansio_cache.operations.recovery import recover
from sansio_cache.operations.set_many import Item
from sansio_cache.step import Abandoned, Completed, Loaded, ManyHeld, Outcome, Raised, Step, Value, ended


class LoaderError(Exception):
    """What a loader raises. There is one of it, so that worlds can be compared."""


_OF_LEASES: Final = (AcquireLease, FillCells, ReleaseLeases)
"""Where an operation gives up on one of these, it may leave a lease behind until that lapses."""

LOADER_ERROR: Final = LoaderError("the loader failed")


@attrs.frozen
class Turn:
    """What a move came to for one process: its new state, and what the world must know."""

    process: Process
    completed: int = 0
    """The version whose write is now complete."""
    broken: tuple[Invariant, str] | None = None
    may_leave_lease: bool = False
    """It may have left a lease behind, until that lapses."""
    writer_died: bool = False
    """A writer died between its commit and its invalidation (S1f)."""
    late: tuple[StoreCommand, ...] = ()
    """Requests that may still be on their way."""


@attrs.define
class Running:
    """One process, thawed. `numbers` are its workers' numbers in the world.

    `may_interrupt`: interruptions may still strike, so that sleeps must be seen.
    """

    configuration: Configuration
    numbers: tuple[int, ...]
    may_interrupt: bool
    workers: list[Worker]
    flights: Flights
    remembered: int | None
    completed: int = 0
    broken: tuple[Invariant, str] | None = None
    may_leave_lease: bool = False
    writer_died: bool = False
    late: list[StoreCommand] = attrs.field(factory=list)

    # Beginnings, which are no moves of their own.

    def ready(self, i: int) -> None:
        """Make the first step of an act that begins with a request, which may come as late as it likes."""
        worker = self.workers[i]
        if worker.stage is Stage.READY and worker.acts[0] in (Act.MUTATE, Act.MUTATE_AND_SET):
            self._take(i, begin(mutation(self._nonce(i))), Stage.RUNNING)

    def begin_read(self, i: int, floor: int) -> None:
        """Begin a read. This is the moment from which its result must not be older than the floor."""
        worker = self.workers[i]
        skip = MissReason.STORE_ERROR if worker.acts[0] is Act.READ_WITHOUT_STORE else None
        own_floor = floor
        if self.remembered is not None:
            skip = MissReason.BYPASSED
            own_floor = max(floor, self.remembered)
        self.workers[i] = replace(worker, floor=floor, own_floor=own_floor)
        self._take(i, self.configuration.read(self._nonce(i), skip), Stage.RUNNING)

    # Moves.

    def commit(self, i: int, version: int) -> None:
        """The database takes a writer's version; what is to be told the store comes after that."""
        worker = self.workers[i]
        act = worker.acts[0]
        if worker.stage is Stage.BLOCK:
            self.workers[i] = replace(worker, stage=Stage.COMMITTED, version=version)
            return
        self.workers[i] = replace(worker, version=version)
        if act is Act.SET:
            self._take(i, self.configuration.set(self._nonce(i), version), Stage.RUNNING)
        else:
            self._take(i, invalidate(invalidation()), Stage.RUNNING)

    def leave_block(self, i: int, *, raised: bool) -> None:
        """The block of a mutation ends."""
        worker = self.workers[i]
        has_value = worker.acts[0] is Act.MUTATE_AND_SET and not raised
        items: tuple[Item, ...] = ()
        if has_value:
            assert worker.version is not None
            items = (self.configuration.item(worker.version),)
        self._end_renewal(i)
        self.workers[i] = replace(self.workers[i], holds=None)
        step = self.configuration.end_mutation(EndRequest((KEY,), worker.holds, items, PATIENCE, NOW_S))
        self._take(i, step, Stage.RUNNING)

    def look(self, i: int, version: int) -> None:
        """The loader looks at the database."""
        worker = self.workers[i]
        self.workers[i] = replace(worker, looked=version, looked_under=worker.granted)

    def answer(self, i: int, event: Event) -> None:
        """A request was performed, or failed: deliver the answer, at once unless that can be observed."""
        is_eager = self.configuration.is_eager
        if not is_eager or (len(self.workers) > 1 and self._is_observable(i, event)):
            self.workers[i] = replace(self.workers[i], reply=event)
        else:
            self.receive(i, event)

    def receive(self, i: int, event: Event) -> None:
        """Give an event to a machine."""
        worker = self.workers[i]
        assert worker.step is not None
        if isinstance(event, LeaseGranted):
            worker = replace(worker, granted=event.grant)
        if isinstance(event, ComputeFailed):
            worker = replace(worker, has_failed=True)
        self.workers[i] = replace(worker, reply=None)
        step = worker.step
        assert step is not None
        if isinstance(step.command, Compute):
            self._end_renewal(i)
        self._take(i, step.state.receive(event), worker.stage)

    def join(self, i: int) -> None:
        """Join the load that is under way, or lead one."""
        worker = self.workers[i]
        assert worker.step is not None
        assert isinstance(worker.step.command, ShareLoad)
        place = self.flights.join(worker.step.command)
        if isinstance(place, int):
            self.receive(i, LoadLed(NOW_S, place))
        else:
            self.workers[i] = replace(worker, following=place)

    def time_out(self, i: int) -> None:
        """A follower's patience ends before the flight has landed."""
        following = self.workers[i].following
        assert following is not None
        self.flights.leave(following)
        self.workers[i] = replace(self.workers[i], following=None)
        self.receive(i, SharingTimedOut(NOW_S, following.flight, following.arrival))

    def interrupt(self, i: int) -> None:
        """Interrupt a caller: its machine gives back what it may hold, and ends as abandoned."""
        worker = self.workers[i]
        if worker.stage in (Stage.BLOCK, Stage.COMMITTED):
            self.leave_block(i, raised=True)
            return
        assert worker.step is not None
        if worker.following is not None:
            self.flights.leave(worker.following)
        self.workers[i] = replace(
            worker, is_interrupted=True, flight=worker.step.flight, following=None, looked=None
        )
        self.receive(i, Interrupted(NOW_S))

    def renewed(self, i: int, event: Event) -> None:
        """A renewal was answered. It pauses then, for as long as it likes, and asks again."""
        renewal = self.workers[i].renewal
        assert renewal is not None
        step = renewal.state.receive(event)
        self._renew(i, step)

    def crash(self) -> None:
        """The process is gone, and its workers with it; what they were asking may still arrive."""
        for worker in self.workers:
            command = pending(worker)
            if worker.reply is None and isinstance(command, StoreCommand):
                self.late.append(command)
            if worker.version is not None:
                self.writer_died = True
        self.may_leave_lease = True
        self.workers = [Worker((), Stage.DONE) for _ in self.workers]
        self.flights = self.configuration.flights()
        self.remembered = None

    # What a driver does.

    def _take(self, i: int, step: Step, stage: Stage) -> None:
        before = self.workers[i].step
        worker = replace(self.workers[i], step=replace(step, notices=()), stage=stage)
        self.workers[i] = worker
        answered = None if before is None else before.command
        self._check(i, answered, step)
        self._observe(step)
        self._note(i, answered, step)
        if step.outcome is not None:
            if worker.is_interrupted:
                self._observe(ended(Abandoned(), flight=worker.flight))
            self._end(i, step.outcome)
            return
        if isinstance(step.command, Compute):
            self.workers[i] = replace(self.workers[i], looked=None)
            if step.command.renewal is not None and self.configuration.renewals:
                self._renew(i, step.command.renewal)
        elif not self.configuration.is_eager:
            return
        elif isinstance(step.command, Sleep) and not self.may_interrupt:
            self.receive(i, Woke(NOW_S))
        elif isinstance(step.command, ShareLoad) and len(self.workers) == 1:
            self.join(i)

    def _observe(self, step: Step) -> None:
        if step.flight is None or not self.flights.observe(step):
            return
        for j, worker in enumerate(self.workers):
            if worker.following is not None and worker.following.flight == step.flight:
                self._leave(j, worker.following)

    def _leave(self, i: int, following: Following) -> None:
        assert self.flights.has_landed(following)
        result = self.flights.leave(following)
        self.workers[i] = replace(self.workers[i], following=None)
        if result is None:
            self.receive(i, LoadNotShared(NOW_S, following.arrival))
        elif isinstance(result, Loaded):
            assert result.payload is not None
            self.receive(i, LoadShared(NOW_S, result.payload, None))
        else:
            self.receive(i, LoadErrorShared(NOW_S, result.error))

    def _note(self, i: int, answered: Command | None, step: Step) -> None:
        for notice in step.notices:
            if isinstance(notice, InvalidationFailed):
                self.workers[i] = replace(self.workers[i], owes=True)
            elif isinstance(notice, StoreGaveUp) and isinstance(answered, _OF_LEASES):
                self.may_leave_lease = True

    def _end(self, i: int, outcome: Outcome) -> None:
        worker = self.workers[i]
        if worker.stage is Stage.RECOVERING:
            assert isinstance(outcome, Completed)
            self._complete(worker.version)
            self.remembered = None
            self._finish(i)
        elif worker.acts[0].is_read:
            self._judge(worker, outcome)
            self._finish(i)
        elif isinstance(outcome, ManyHeld):
            held = replace(worker, stage=Stage.BLOCK, step=None, holds=outcome.grants)
            self.workers[i] = held
            if outcome.renewal is not None and self.configuration.renewals:
                self._renew(i, outcome.renewal)
        elif worker.owes:
            if worker.version is not None:
                self.remembered = max(self.remembered or 0, worker.version)
            self.workers[i] = replace(worker, owes=False, is_interrupted=False)
            self._take(i, recover((KEY,), PATIENCE), Stage.RECOVERING)
        else:
            self._complete(worker.version)
            self._finish(i)

    def _finish(self, i: int) -> None:
        acts = self.workers[i].acts[1:]
        self.workers[i] = Worker(acts) if acts else Worker((), Stage.DONE)
        if acts:
            self.ready(i)

    def _complete(self, version: int | None) -> None:
        self.completed = max(self.completed, version or 0)

    def _renew(self, i: int, step: Step) -> None:
        """Keep a renewal, as far as its next request; a pause ends whenever it likes."""
        while isinstance(step.command, Sleep):
            step = step.state.receive(Woke(NOW_S))
        kept = replace(step, notices=()) if step.command is not None else None
        self.workers[i] = replace(self.workers[i], renewal=kept)

    def _end_renewal(self, i: int) -> None:
        renewal = self.workers[i].renewal
        if renewal is not None:
            assert isinstance(renewal.command, RenewLeases)
            self.late.append(renewal.command)
            self.workers[i] = replace(self.workers[i], renewal=None)

    def _is_observable(self, i: int, event: Event) -> bool:
        """Whether the answer moves a flight on, which decides who may have its result."""
        current = self.workers[i].step
        assert current is not None
        step = current.state.receive(event)
        if step.flight is None:
            return False
        return step.outcome is not None or isinstance(step.command, Compute | FillCells)

    def _nonce(self, i: int) -> bytes:
        return nonce_of(self.numbers[i], len(self.workers[i].acts))

    # What is judged here.

    def _judge(self, worker: Worker, outcome: Outcome) -> None:
        """S1: what a read returns is at least as new as what was complete when it began."""
        if not isinstance(outcome, Value | Loaded):
            assert isinstance(outcome, Raised | Abandoned)
            return
        got: Any = outcome.value
        if got < worker.floor:
            self._break(Invariant.S1_READ, f"version {got}, floor {worker.floor}")
        elif got < worker.own_floor:
            self._break(Invariant.S1_REMEMBERED, f"version {got}, remembered {worker.own_floor}")

    def _check(self, i: int, answered: Command | None, step: Step) -> None:
        """S4 and S13, when a reader first asks to store a value."""
        worker = self.workers[i]
        if not isinstance(step.command, FillCells) or isinstance(answered, FillCells):
            return
        if not (worker.acts and worker.acts[0].is_read):
            return
        if worker.has_failed:
            self._break(Invariant.S13, "it asks to store a value")
        elif worker.looked_under != step.command.fills[0].grant:
            self._break(Invariant.S4, "it asks to store a value")
        self.workers[i] = replace(worker, granted=None, looked=None, looked_under=None)

    def _break(self, invariant: Invariant, what: str) -> None:
        if self.broken is None and invariant in self.configuration.invariants:
            self.broken = (invariant, what)

    # Freezing.

    def turn(self) -> Turn:
        """What came of it."""
        return Turn(
            frozen(self.workers, self.flights, self.remembered),
            self.completed,
            self.broken,
            self.may_leave_lease,
            self.writer_died,
            tuple(self.late),
        )


def thawed(
    process: Process, configuration: Configuration, numbers: tuple[int, ...], *, may_interrupt: bool
) -> Running:
    """A process to make one move in."""
    flights = thaw(process.flights, configuration.flights())
    return Running(configuration, numbers, may_interrupt, list(process.workers), flights, process.remembered)


def returned(version: int) -> Computed:
    """The event of a loader that returns what it saw."""
    return Computed(NOW_S, version)


def raised() -> ComputeFailed:
    """The event of a loader that raises."""
    return ComputeFailed(NOW_S, LOADER_ERROR)
