"""The moves of a process: thawed for one of them, and frozen again.

What follows from a move by itself is what a driver does (`driving.py`). An interrupted machine is fed
`Interrupted` and performs what it asks for then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from sansio_cache.commands import (
    Compute,
    ComputeMany,
    FillCells,
    ShareLoad,
    StoreCommand,
)
from sansio_cache.coordinator import CoordinatorSnapshot, interrupted
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    Event,
)
from sansio_cache.exploring.configuration import (
    KEYS,
    NOW_S,
    TAG_KEY,
    Configuration,
    Deed,
    removal,
)
from sansio_cache.exploring.driving import Driving
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.judging import Broken
from sansio_cache.exploring.naming import replace
from sansio_cache.exploring.process import (
    Floor,
    Process,
    Stage,
    Worker,
    ended_early,
    frozen,
    left_behind,
    pending,
)
from sansio_cache.operations.set_many import Item
from sansio_cache.single_flight import LoadName


class LoaderError(Exception):
    """What a loader raises. There is one of it, so that worlds can be compared."""


_TOLD: Final = (Stage.OWING, Stage.DONE)
"""Where a writer is that has told the store what it can."""

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
    broken: Broken | None = None
    may_leave_lease: bool = False
    """It may have left a lease behind, until that lapses."""
    writer_died: bool = False
    """A writer died between its commit and its invalidation (S1f)."""
    won: int = 0
    """How many were told that they have added an entry, or counted one up."""
    late: tuple[StoreCommand, ...] = ()
    """Requests that may still be on their way."""


@attrs.define
class Running(Driving):
    """One process, in which a move is made."""

    # Beginnings, which are no moves of their own.

    def begin_read(self, i: int, floor: Floor) -> None:
        """Begin a read. This is the moment from which its result must not be older than the floor."""
        worker = self.workers[i]
        act = worker.acts[0]
        skip = self._skip((*act.keys, *act.tag_keys))
        if skip is None and act.is_without_store:
            skip = MissReason.STORE_ERROR
        bypassed = self.coordinator.bypassed
        may_glance = not act.is_without_store and self.coordinator.may_glance(*act.keys, *act.tag_keys)
        self.workers[i] = replace(worker, floor=floor, own_floor=self._own_floor(floor))
        step = self.configuration.read(act, self._nonce(i), skip, bypassed, may_glance=may_glance)
        self._take(i, step, Stage.RUNNING)

    # Moves.

    def commit(self, i: int, version: int) -> None:
        """The database takes a writer's version; what is to be told the store comes after that."""
        worker = self.workers[i]
        act = worker.acts[0]
        if worker.stage is Stage.BLOCK:
            self.workers[i] = replace(worker, stage=Stage.COMMITTED, version=version)
            return
        self.workers[i] = replace(worker, version=version)
        if act.deed is Deed.ADD:
            skip = self._skip((*act.keys, *act.tag_keys))
            self._take(i, self.configuration.add(act, self._nonce(i), version, skip), Stage.RUNNING)
        elif act.deed is Deed.COUNT:
            skip = self._skip(act.keys)
            self.workers[i] = replace(worker, version=None)  # it is in the database of nobody
            self._take(i, self.configuration.incr(act, self._nonce(i), skip), Stage.RUNNING)
        elif act.deed is Deed.SET:
            skip = self.coordinator.skip_write(act.keys)
            self._take(i, self.configuration.set(act, self._nonce(i), version, skip), Stage.RUNNING)
        else:
            skip = self.coordinator.skip_write((*act.keys, *act.tag_keys))
            self._take(i, self.configuration.remove(removal(act), skip=skip), Stage.RUNNING)

    def leave_block(self, i: int, *, raised: bool) -> None:
        """The block of a mutation ends."""
        worker = self.workers[i]
        act = worker.acts[0]
        has_value = act.has_value and not raised
        items: tuple[Item, ...] = ()
        if has_value:
            assert worker.version is not None
            items = (self.configuration.item(act, worker.version),)
        self._end_renewal(i)
        self.workers[i] = replace(self.workers[i], holds=None)
        skip = self.coordinator.skip_write((*act.keys, *act.tag_keys))
        self._take(i, self.configuration.end(act, worker.holds, items, skip), Stage.RUNNING)

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

    def interrupt_joining(self, i: int) -> None:
        """Interrupt a caller that leads or follows already, as only its ticket knows: it was not told yet."""
        command = pending(self.workers[i])
        assert isinstance(command, ShareLoad)
        self.coordinator.share(i, command)
        self.interrupt(i)

    def interrupt(self, i: int) -> None:
        """Interrupt a caller: its machine gives back what it may hold, and ends as abandoned."""
        worker = self.workers[i]
        if worker.stage in (Stage.BLOCK, Stage.COMMITTED):
            self.leave_block(i, raised=True)
            return
        assert worker.step is not None
        self.workers[i] = replace(worker, is_interrupted=True, following=None, looked=None)
        self._go_on(i, interrupted(worker.step, NOW_S))

    def renewed(self, i: int, event: Event) -> None:
        """A renewal was answered. It pauses then, for as long as it likes, and asks again."""
        renewal = self.workers[i].renewal
        assert renewal is not None
        step = renewal.state.receive(event)
        self._renew(i, step)

    def end_rest(self, load: LoadName) -> None:
        """A load has rested for long enough."""
        self.coordinator.single_flight.end_rest(load)

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
        self.coordinator = self.configuration.coordinator()

    # What they are made of.

    def _is_observable(self, i: int, event: Event) -> bool:
        """Whether other callers can tell when the answer is taken in.

        It may move a load on, which decides who may have its result; or end a recovery, while others may yet
        have something to tell the store.
        """
        if self.workers[i].stage is Stage.RECOVERING:
            return any(worker.stage not in _TOLD and not _reads_only(worker) for worker in self.workers)
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
        value: Any = act.loaded(versions[act.places[0]])
        command = pending(worker)
        if isinstance(command, ComputeMany):
            value = Rows(tuple((key, act.loaded(versions[KEYS.index(key)])) for key in command.names))
        return Computed(NOW_S + self.configuration.load_s, value)

    def _skip(self, keys: Iterable[str]) -> MissReason | None:
        """Why a read of these keys and tags does without the store: the first reason that there is."""
        coordinator = self.coordinator
        if not coordinator.must_ask:
            return None
        return next((reason for key in keys if (reason := coordinator.skip(key)) is not None), None)

    def _own_floor(self, floor: Floor) -> Floor:
        """The floor of a read that begins now: what this process has yet to tell the store, it knows."""
        owed: dict[str, int] = {}
        for worker in self.workers:
            for key in worker.owes if worker.version is not None else ():
                owed[key] = max(owed.get(key, 0), worker.version or 0)
        if not owed:
            return floor
        keys = (*(KEYS[place] for place in self.configuration.places), TAG_KEY, "")
        return tuple(max(version, owed.get(key, 0)) for version, key in zip(floor, keys, strict=True))

    # Freezing.

    def turn(self) -> Turn:
        """What came of it."""
        snapshot = self.coordinator.snapshot()
        self._break(self._strays(snapshot))
        return Turn(
            frozen(self.workers, len(self.numbers), snapshot),
            self.completed,
            self.broken,
            self.may_leave_lease,
            self.writer_died,
            self.won,
            tuple(self.late),
        )

    def _strays(self, snapshot: CoordinatorSnapshot) -> Iterator[Broken]:
        """B2 and L2: what is under way in a process belongs to operations that are."""
        left = left_behind(self.workers, snapshot)
        if left is not None:
            yield Invariant.LEFT_BEHIND, left
        early = ended_early(self.workers, snapshot.single_flight)
        if early is not None:
            yield Invariant.ENDED_EARLY, early


def _reads_only(worker: Worker) -> bool:
    return all(act.is_read for act in worker.acts)


def thawed(
    process: Process, configuration: Configuration, numbers: tuple[int, ...], *, may_interrupt: bool
) -> Running:
    """A process to make one move in."""
    coordinator = configuration.coordinator()
    coordinator.restore(process.coordinator)
    return Running(configuration, numbers, may_interrupt, list(process.workers), coordinator)
