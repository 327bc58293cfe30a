"""What a driver does to a process: thawed for one move, and frozen again.

`Running` does to the machines and to `Flights` what `sansio_cache_runtime.sync.driver.Driver` does to them,
method by method: `_take` is a turn of the loop in `run`, `interrupt` is `_abandon`, `join` and `_leave` are
`_share`, `_spawn` is `_spawn`, and `_observe` is `_observe`. A refresh that is spawned becomes one more
worker of the process, until it ends. A recovery, which the drivers run in the background, is run by the
writer whose invalidation failed, after its operation has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from exploring.configuration import (
    KEYS,
    NOW_S,
    TAG_KEY,
    TIMEOUTS,
    Act,
    Configuration,
    Deed,
    mutation,
    removal,
)
from exploring.invariants import Invariant
from exploring.naming import nonce_of, replace, tags_of
from exploring.process import Floor, Load, Process, Stage, Worker, frozen, pending, thaw
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Command,
    Compute,
    ComputeMany,
    FillCells,
    HoldCells,
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
    HoldsTaken,
    Interrupted,
    LeaseGranted,
    LeasesAnswered,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
    Woke,
)
from sansio_cache.notices import InvalidationFailed, StaleServed, StoreGaveUp
from sansio_cache.operations.invalidate import invalidate
from sansio_cache.operations.mutate import begin
from sansio_cache.operations.recovery import recover
from sansio_cache.operations.renewal import renew
from sansio_cache.operations.set_many import Item
from sansio_cache.single_flight import Following, SingleFlight
from sansio_cache.step import (
    Abandoned,
    Completed,
    Loaded,
    ManyHeld,
    ManyLoaded,
    Missing,
    Outcome,
    Raised,
    Step,
    Value,
    ended,
)


class LoaderError(Exception):
    """What a loader raises. There is one of it, so that worlds can be compared."""


_OF_LEASES: Final = (AcquireLease, AcquireLeases, FillCells, ReleaseLeases)
"""Where an operation gives up on one of these, it may leave a lease behind until that lapses."""
_UNDER_GRANT: Final = (AcquireLease, AcquireLeases, Compute, ComputeMany, FillCells, HoldCells)
"""What an operation asks for on its way from a grant to a fill."""

LOADER_ERROR: Final = LoaderError("the loader failed")


@attrs.frozen
class Rows(Mapping[str, Any]):
    """What a loader of many keys returns: a mapping that can be hashed, as worlds are compared."""

    rows: tuple[tuple[str, Any], ...]

    def __getitem__(self, key: str) -> Any:
        return dict(self.rows)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.rows))

    def __len__(self) -> int:
        return len(self.rows)


@attrs.frozen
class Turn:
    """What a move came to for one process: its new state, and what the world must know."""

    process: Process
    completed: Floor = ()
    """The versions whose writes are now complete, as in a floor; empty where there are none."""
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
    single_flight: SingleFlight
    remembered: dict[str, int]
    completed: Floor = ()
    broken: tuple[Invariant, str] | None = None
    may_leave_lease: bool = False
    writer_died: bool = False
    late: list[StoreCommand] = attrs.field(factory=list)

    # Beginnings, which are no moves of their own.

    def ready(self, i: int) -> None:
        """Make the first step of an act that begins with a request, which may come as late as it likes."""
        worker = self.workers[i]
        if worker.stage is Stage.READY and worker.acts[0].deed in (Deed.MUTATE, Deed.MUTATE_AND_SET):
            self._take(i, begin(mutation(worker.acts[0], self._nonce(i))), Stage.RUNNING)

    def begin_read(self, i: int, floor: Floor) -> None:
        """Begin a read. This is the moment from which its result must not be older than the floor."""
        worker = self.workers[i]
        act = worker.acts[0]
        skip = MissReason.STORE_ERROR if act.is_without_store else None
        if any(key in self.remembered for key in (*act.keys, *act.tag_keys)):
            skip = MissReason.BYPASSED
        bypassed = frozenset(self.remembered) & {TAG_KEY}
        own_floor = floor
        if self.remembered:
            own_floor = tuple(
                max(version, self.remembered.get(key, 0))
                for version, key in zip(floor, (*self._keys, TAG_KEY, ""), strict=True)
            )
        self.workers[i] = replace(worker, floor=floor, own_floor=own_floor)
        self._take(i, self.configuration.read(act, self._nonce(i), skip, bypassed), Stage.RUNNING)

    # Moves.

    def commit(self, i: int, version: int) -> None:
        """The database takes a writer's version; what is to be told the store comes after that."""
        worker = self.workers[i]
        act = worker.acts[0]
        if worker.stage is Stage.BLOCK:
            self.workers[i] = replace(worker, stage=Stage.COMMITTED, version=version)
            return
        self.workers[i] = replace(worker, version=version)
        if act.deed is Deed.SET:
            self._take(i, self.configuration.set(act, self._nonce(i), version), Stage.RUNNING)
        else:
            self._take(i, invalidate(removal(act)), Stage.RUNNING)

    def leave_block(self, i: int, *, raised: bool) -> None:
        """The block of a mutation ends."""
        worker = self.workers[i]
        act = worker.acts[0]
        has_value = act.deed is Deed.MUTATE_AND_SET and not raised
        items: tuple[Item, ...] = ()
        if has_value:
            assert worker.version is not None
            items = (self.configuration.item(act, worker.version),)
        self._end_renewal(i)
        self.workers[i] = replace(self.workers[i], holds=None)
        self._take(i, self.configuration.end(act, worker.holds, items), Stage.RUNNING)

    def look(self, i: int, versions: tuple[int, ...]) -> None:
        """The loader looks at the database."""
        worker = self.workers[i]
        self.workers[i] = replace(worker, looked=versions, looked_under=worker.told)

    def load_returns(self, i: int) -> None:
        """The loader returns what it saw. Nobody but the worker itself can tell."""
        self.receive(i, self._returned(i))

    def load_answers(self, i: int) -> None:
        """The loader returns what it saw."""
        self.answer(i, self._returned(i))

    def load_fails(self, i: int) -> None:
        """The loader raises."""
        self.answer(i, ComputeFailed(NOW_S, LOADER_ERROR))

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
        if (told := _told(event)) and worker.acts[0].deed not in (Deed.MUTATE, Deed.MUTATE_AND_SET):
            worker = replace(worker, told=tuple(dict.fromkeys((*worker.told, *told))))
        if isinstance(event, ComputeFailed):
            worker = replace(worker, has_failed=True)
        self.workers[i] = replace(worker, reply=None)
        step = worker.step
        assert step is not None
        if isinstance(step.command, Compute | ComputeMany):
            self._end_renewal(i)
        self._take(i, step.state.receive(event), worker.stage)

    def join(self, i: int) -> None:
        """Join the load that is under way, or lead one."""
        worker = self.workers[i]
        assert worker.step is not None
        assert isinstance(worker.step.command, ShareLoad)
        place = self.single_flight.join(worker.step.command)
        if isinstance(place, int):
            self.receive(i, LoadLed(NOW_S, place))
        elif place is None:
            self.receive(i, LoadNotShared(NOW_S))
        else:
            self.workers[i] = replace(worker, following=place)

    def time_out(self, i: int) -> None:
        """A follower's patience ends before the flight has landed."""
        following = self.workers[i].following
        assert following is not None
        self.single_flight.leave(following)
        self.workers[i] = replace(self.workers[i], following=None)
        self.receive(i, SharingTimedOut(NOW_S, following.load_id, following.arrival))

    def interrupt(self, i: int) -> None:
        """Interrupt a caller: its machine gives back what it may hold, and ends as abandoned."""
        worker = self.workers[i]
        if worker.stage in (Stage.BLOCK, Stage.COMMITTED):
            self.leave_block(i, raised=True)
            return
        assert worker.step is not None
        if worker.following is not None:
            self.single_flight.leave(worker.following)
        load_id = worker.step.load_id if isinstance(worker.step.load_id, int) else None
        self.workers[i] = replace(worker, is_interrupted=True, load_id=load_id, following=None, looked=None)
        self.receive(i, Interrupted(NOW_S))

    def renewed(self, i: int, event: Event) -> None:
        """A renewal was answered. It pauses then, for as long as it likes, and asks again."""
        renewal = self.workers[i].renewal
        assert renewal is not None
        step = renewal.state.receive(event)
        self._renew(i, step)

    def end_rest(self, load: Load) -> None:
        """A load has rested for long enough."""
        del self.single_flight._resting[load]

    def crash(self) -> None:
        """The process is gone, and its workers with it; what they were asking may still arrive."""
        for worker in self.workers:
            command = pending(worker)
            if worker.reply is None and isinstance(command, StoreCommand):
                self.late.append(command)
            if worker.version is not None:
                self.writer_died = True
        self.may_leave_lease = True
        self.workers = [Worker((), Stage.DONE) for _ in self.numbers]
        self.single_flight = self.configuration.single_flight()
        self.remembered = {}

    # What a driver does.

    def _take(self, i: int, step: Step, stage: Stage) -> None:
        before = self.workers[i].step
        self.workers[i] = replace(
            self.workers[i], step=replace(step, notices=(), spawn=(), rests_until_s=0.0), stage=stage
        )
        worker = self.workers[i]
        answered = None if before is None else before.command
        self._check(i, step)
        if worker.told and not isinstance(step.command, _UNDER_GRANT):
            self.workers[i] = replace(worker, told=(), looked_under=())
        self._observe(step)
        self._note(i, answered, step)
        if step.outcome is not None:
            if worker.is_interrupted:
                self._observe(ended(Abandoned(), load_id=worker.load_id))
            self._end(i, step.outcome)
            self._spawn(worker, step.spawn)
            return
        if isinstance(step.command, Compute | ComputeMany):
            self.workers[i] = replace(self.workers[i], looked=None)
            if step.command.renewal is not None and self.configuration.renewals:
                self._renew(i, renew(step.command.renewal))
        elif not self.configuration.is_eager:
            return
        elif isinstance(step.command, Sleep) and not self.may_interrupt:
            self.receive(i, Woke(NOW_S))
        elif isinstance(step.command, ShareLoad) and len(self.numbers) == 1:
            self.join(i)

    def _observe(self, step: Step) -> None:
        if step.load_id is None or not self.single_flight.observe(step):
            return
        for j, worker in enumerate(self.workers):
            if worker.following is not None and worker.following.load_id == step.load_id:
                self._leave(j, worker.following)

    def _leave(self, i: int, following: Following) -> None:
        assert self.single_flight.has_ended(following)
        result = self.single_flight.leave(following)
        self.workers[i] = replace(self.workers[i], following=None)
        if result is None:
            self.receive(i, LoadNotShared(NOW_S, following.arrival))
        elif isinstance(result, Loaded):
            assert result.payload is not None
            self.receive(i, LoadShared(NOW_S, result.payload, None))
        else:
            self.receive(i, LoadErrorShared(NOW_S, result.error))

    def _spawn(self, worker: Worker, steps: Iterable[Step]) -> None:
        """Begin what runs in the background, but for what somebody here runs already."""
        for step in steps:
            assert isinstance(step.command, ShareLoad)
            place = self.single_flight.join(step.command)
            if isinstance(place, int):
                self.workers.append(Worker(worker.acts[:1], Stage.REFRESHING))
                begun = step.state.receive(LoadLed(NOW_S, place))
                self._take(len(self.workers) - 1, begun, Stage.REFRESHING)
            elif place is not None:
                self.single_flight.leave(place)

    def _note(self, i: int, answered: Command | None, step: Step) -> None:
        for notice in step.notices:
            if isinstance(notice, InvalidationFailed):
                self.workers[i] = replace(self.workers[i], owes=notice.keys)
            elif isinstance(notice, StoreGaveUp) and isinstance(answered, _OF_LEASES):
                self.may_leave_lease = True
            elif isinstance(notice, StaleServed) and self.configuration.expires:
                stale = self.workers[i].stale
                self.workers[i] = replace(self.workers[i], stale=(*stale, notice.key))

    def _end(self, i: int, outcome: Outcome) -> None:
        worker = self.workers[i]
        if worker.stage is Stage.REFRESHING:
            self.workers[i] = Worker((), Stage.DONE)
        elif worker.stage is Stage.RECOVERING:
            assert isinstance(outcome, Completed)
            self._complete(worker)
            for key in worker.owes:
                if self.remembered.get(key, 0) == worker.version:
                    del self.remembered[key]
            self._finish(i)
        elif worker.acts[0].is_read:
            self._judge(worker, outcome)
            self._finish(i)
        elif isinstance(outcome, ManyHeld):
            held = replace(worker, stage=Stage.BLOCK, step=None, holds=outcome.grants)
            self.workers[i] = held
            if outcome.renewal is not None and self.configuration.renewals:
                self._renew(i, renew(outcome.renewal))
        elif worker.owes:
            if worker.version is not None:
                for key in worker.owes:
                    self.remembered[key] = max(self.remembered.get(key, 0), worker.version)
            self.workers[i] = replace(worker, is_interrupted=False)
            self._take(i, recover(worker.owes, TIMEOUTS), Stage.RECOVERING)
        else:
            self._complete(worker)
            self._finish(i)

    def _finish(self, i: int) -> None:
        acts = self.workers[i].acts[1:]
        self.workers[i] = Worker(acts) if acts else Worker((), Stage.DONE)
        if acts:
            self.ready(i)

    def _complete(self, worker: Worker) -> None:
        """A write is complete: what is older than its version must not be read any more."""
        if worker.version is None:
            return
        act = worker.acts[0]
        is_soft = act.deed is Deed.EXPIRE
        floors = (
            *(not is_soft and place in act.places for place in self.configuration.places),
            act.invalidates_tag,
            is_soft,
        )
        before = self.completed or (0,) * len(floors)
        self.completed = tuple(
            max(version, worker.version) if rises else version
            for version, rises in zip(before, floors, strict=True)
        )

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
        if not isinstance(step.load_id, int):
            return False
        return step.outcome is not None or isinstance(step.command, Compute | FillCells)

    def _returned(self, i: int) -> Computed:
        """The event of a loader that returns what it saw."""
        worker = self.workers[i]
        act, versions = worker.acts[0], worker.looked
        assert versions is not None
        value: Any = act.value(versions[act.places[0]])
        command = pending(worker)
        if isinstance(command, ComputeMany):
            value = Rows(tuple((key, act.value(versions[KEYS.index(key)])) for key in command.names))
        return Computed(NOW_S + self.configuration.load_s, value)

    def _nonce(self, i: int) -> bytes:
        return nonce_of(self.numbers[i], len(self.workers[i].acts))

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(KEYS[place] for place in self.configuration.places)

    # What is judged here.

    def _judge(self, worker: Worker, outcome: Outcome) -> None:
        """S1 and S7: what a read returns is at least as new as what was complete when it began."""
        act = worker.acts[0]
        # A batch that has counted a key as missing does not say, later, that it serves it stale.
        is_vague = act.deed is Deed.LOAD_MANY and self.configuration.policy.stale_for_s > 0
        for place, version in _versions(act, outcome):
            if version < worker.floor[place]:
                self._break(Invariant.S1_READ, f"version {version}, floor {worker.floor[place]}")
            elif version < worker.floor[-1] and KEYS[place] not in worker.stale and not is_vague:
                self._break(Invariant.S1_READ, f"version {version}, expired before {worker.floor[-1]}")
            elif act.heeds_tag and version < worker.floor[-2]:
                self._break(Invariant.S7_READ, f"version {version}, floor of the tag {worker.floor[-2]}")
            elif version < max(worker.own_floor[place], worker.own_floor[-2] if act.heeds_tag else 0):
                self._break(Invariant.S1_REMEMBERED, f"version {version}")

    def _check(self, i: int, step: Step) -> None:
        """S4, S7 and S13, when a reader asks to store a value."""
        worker = self.workers[i]
        command = step.command
        if not isinstance(command, FillCells) or not worker.acts[0].is_read:
            return
        tied = (version for fill in command.fills for _, name, version in tags_of(fill.body) if name)
        if worker.has_failed:
            self._break(Invariant.S13, "it asks to store a value")
        if not {fill.grant for fill in command.fills} <= set(worker.looked_under):
            self._break(Invariant.S4, "it asks to store a value")
        if not set(tied) <= set(worker.looked_under):
            self._break(Invariant.S7_LOAD, "it asks to store a value")

    def _break(self, invariant: Invariant, what: str) -> None:
        if self.broken is None and invariant in self.configuration.invariants:
            self.broken = (invariant, what)

    # Freezing.

    def turn(self) -> Turn:
        """What came of it."""
        callers = len(self.numbers)
        refreshes = [each for each in self.workers[callers:] if each.stage is not Stage.DONE]
        return Turn(
            frozen([*self.workers[:callers], *refreshes], self.single_flight, self.remembered),
            self.completed,
            self.broken,
            self.may_leave_lease,
            self.writer_died,
            tuple(self.late),
        )


def _told(event: Event) -> tuple[bytes, ...]:
    """The grants that an answer tells, and the versions of tags."""
    match event:
        case LeaseGranted(grant=grant, versions=versions):
            return (grant, *versions)
        case LeasesAnswered(answers=answers, versions=versions):
            return (*(each.grant for each in answers if isinstance(each, LeaseGranted)), *versions)
        case HoldsTaken(grants=grants, versions=versions):
            return (*grants, *versions)
        case _:
            return ()


def _versions(act: Act, outcome: Outcome) -> list[tuple[int, int]]:
    """What a read returned: for each key that has a value, its place and the version."""
    if isinstance(outcome, ManyLoaded):
        pairs = zip(act.places, outcome.values, strict=True)
        return [(place, int(each.value)) for place, each in pairs if isinstance(each, Value)]
    if isinstance(outcome, Value | Loaded):
        return [(act.places[0], int(outcome.value))]
    assert isinstance(outcome, Missing | Raised | Abandoned)
    return []


def thawed(
    process: Process, configuration: Configuration, numbers: tuple[int, ...], *, may_interrupt: bool
) -> Running:
    """A process to make one move in."""
    single_flight = thaw(process.single_flight, configuration.single_flight())
    workers, remembered = list(process.workers), dict(process.remembered)
    return Running(configuration, numbers, may_interrupt, workers, single_flight, remembered)
