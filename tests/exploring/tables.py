"""Tables: each part of a move worked out once, for interned processes, requests, stores and events.

Whatever follows from parts alone does so every time: the same process, given the same event, becomes the
same process. So machines, `Flights` and the store run only when a combination is met for the first time,
and most moves are a few look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from exploring.configuration import NOW_S, WAIT_S, Configuration
from exploring.invariants import Invariant
from exploring.naming import Interner, label_of, replace
from exploring.process import Process, Stage, Worker, pending
from exploring.running import Running, raised, returned, thawed
from exploring.storing import after_jump, after_lapse, is_leased, perform, version_of, without_key
from exploring.world import MAY_LEAVE_LEASE, WRITER_DIED, Names, Past, World
from sansio_cache.commands import AcquireLease, Compute, HoldCells, Ping, ReadCell, ShareLoad, Sleep
from sansio_cache.events import FailureKind, LeaseDenied, StoreFailed, Woke

TIMED_OUT: Final = StoreFailed(NOW_S, FailureKind.TIMEOUT)
Broken = tuple[Invariant, str]


class Action(Enum):
    """What a worker may do next."""

    BEGIN = "begins"
    REQUEST = "asks the store"
    DELIVER = "gets its answer"
    LOOK = "its loader looks at the database"
    RETURN = "its loader returns"
    COMMIT = "commits"
    LEAVE_BLOCK = "leaves its block"
    JOIN = "joins"
    TIME_OUT = "does not wait for the flight any longer"
    WAKE = "wakes"
    RENEW = "renews"
    WORLD = "the world"


class Turned(NamedTuple):
    """What a move came to for its process: the process's number after it, and what the world must know."""

    process: int
    completed: int = 0
    broken: Broken | None = None
    flags: int = 0
    late: tuple[int, ...] = ()


class Ran(NamedTuple):
    """What a request came to in the store, by numbers. `denied`: the answer to one who is out of patience."""

    store: int
    event: int = 0
    denied: int | None = None
    issued: tuple[bytes, ...] = ()
    filled: tuple[bytes, ...] = ()
    broken: Broken | None = None


class Facts(NamedTuple):
    """What matters of a store, and which it becomes by what may happen to it; None where nothing changes."""

    version: int | None
    is_leased: bool
    gone: int | None
    jumped: int | None
    lapsed: int | None


class Ending(NamedTuple):
    """How far a process is."""

    writers_are_done: bool
    has_ended: bool


Menu = tuple[tuple[int, Action, Any], ...]
"""What the workers of a process may do: for each its place, the action, and a detail of it."""


def _look_and_return(running: Running, i: int, version: Any) -> None:
    running.look(i, version)
    running.receive(i, returned(version))


def _return(running: Running, i: int, _: Any) -> None:
    version = running.workers[i].looked
    assert version is not None
    running.answer(i, returned(version))


def _deliver(running: Running, i: int, _: Any) -> None:
    reply = running.workers[i].reply
    assert reply is not None
    running.receive(i, reply)


DEEDS: Final[Mapping[str, Callable[[Running, int, Any], None]]] = {
    "begin": lambda running, i, floor: running.begin_read(i, floor),
    "answer": lambda running, i, event: running.answer(i, event),
    "renewed": lambda running, i, event: running.renewed(i, event),
    "look": lambda running, i, version: running.look(i, version),
    "look and return": _look_and_return,
    "raise": lambda running, i, _: running.answer(i, raised()),
    "commit": lambda running, i, version: running.commit(i, version),
    "time out": lambda running, i, _: running.time_out(i),
    "interrupt": lambda running, i, _: running.interrupt(i),
    "crash": lambda running, i, _: running.crash(),
    Action.RETURN.name: _return,
    Action.DELIVER.name: _deliver,
    Action.WAKE.name: lambda running, i, _: running.receive(i, Woke(NOW_S)),
    Action.JOIN.name: lambda running, i, _: running.join(i),
    Action.LEAVE_BLOCK.name: lambda running, i, _: running.leave_block(i, raised=False),
}
"""What `Tables.turn` can be asked for. Events are given as objects."""


class Tables:
    """What follows from what, in one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        counter = iter(range(10))
        self.numbers = tuple(tuple(next(counter) for _ in programs) for programs in configuration.processes)
        self.names = Names(configuration, self.numbers)
        self.events = Interner()
        self.commands = Interner()
        self.timed_out = self.events.number(TIMED_OUT)
        self._turns: dict[Any, Turned] = {}
        self._rans: dict[tuple[int, int, int], Ran] = {}
        self._menus: dict[int, Menu] = {}
        self._facts: dict[int, Facts] = {}
        self._endings: dict[int, Ending] = {}
        self._pasts: dict[Any, int] = {}

    def turn(self, p: int, process: int, i: int, what: str, detail: Any, may_interrupt: bool) -> Turned:
        """What one deed of worker `i` makes of process number `process`, which is the `p`th."""
        key = (p, process, i, what, detail, may_interrupt)
        turned = self._turns.get(key)
        if turned is None:
            before: Process = self.names.processes.objects[process]
            running = thawed(before, self.configuration, self.numbers[p], may_interrupt=may_interrupt)
            if what in ("answer", "renewed"):
                detail = self.events.objects[detail]
            DEEDS[what](running, i, detail)
            turn = running.turn()
            flags = MAY_LEAVE_LEASE if turn.may_leave_lease else 0
            flags |= WRITER_DIED if turn.writer_died else 0
            turned = self._turns[key] = Turned(
                self.names.processes.number(turn.process),
                turn.completed,
                turn.broken,
                flags,
                tuple(self.commands.number(each) for each in turn.late),
            )
        return turned

    def run(self, world: World, processes: tuple[int, ...], request: int) -> Ran:
        """What a request does in a world's store."""
        command = self.commands.objects[request]
        label = 1
        if isinstance(command, AcquireLease | HoldCells):
            for interner, number in self.parts(world, processes):
                for grant in interner.grants[number]:
                    if grant.startswith(command.nonce):
                        label = max(label, label_of(grant) + 1)
        key = (world.store, request, label)
        ran = self._rans.get(key)
        if ran is None:
            done = perform(self.configuration, self.names.stores.objects[world.store], command, label)
            denied = None
            if isinstance(done.event, LeaseDenied):
                denied = self.events.number(replace(done.event, now_s=NOW_S + WAIT_S))
            ran = self._rans[key] = Ran(
                self.names.stores.number(done.stored),
                self.events.number(done.event),
                denied,
                done.issued,
                done.filled,
                done.broken,
            )
        return ran

    def parts(self, world: World, processes: tuple[int, ...]) -> Iterator[tuple[Interner, int]]:
        """All that can name a grant, with these processes in place of the world's."""
        names = self.names
        for process in processes:
            yield names.processes, process
        yield names.stores, world.store
        yield names.pasts, world.past

    def has_effect(self, request: int) -> bool:
        """Whether a request changes anything in the store."""
        return not isinstance(self.commands.objects[request], ReadCell | Ping)

    def later(self, past: int, requests: tuple[int, ...], filled: tuple[bytes, ...]) -> int:
        """The past after these requests and fills."""
        key = (past, requests, filled)
        later = self._pasts.get(key)
        if later is None:
            old: Past = self.names.pasts.objects[past]
            effective = {self.commands.objects[each] for each in requests if self.has_effect(each)}
            new = Past(old.requests | effective, old.filled | set(filled))
            later = self._pasts[key] = self.names.pasts.number(new)
        return later

    def facts(self, store: int) -> Facts:
        """What matters of a store."""
        facts = self._facts.get(store)
        if facts is None:
            stored = self.names.stores.objects[store]
            others = (without_key(stored), after_jump(stored), after_lapse(stored))
            changed = (None if each == stored else self.names.stores.number(each) for each in others)
            facts = self._facts[store] = Facts(version_of(stored), is_leased(stored), *changed)
        return facts

    def ending(self, process: int) -> Ending:
        """How far a process is."""
        ending = self._endings.get(process)
        if ending is None:
            workers = self.names.processes.objects[process].workers
            ending = self._endings[process] = Ending(
                all(all(act.is_read for act in worker.acts) for worker in workers),
                all(worker.stage is Stage.DONE for worker in workers),
            )
        return ending

    def may_be_interrupted(self, process: int, i: int) -> bool:
        """Whether a worker is in an operation, or its block, that was not interrupted yet."""
        worker: Worker = self.names.processes.objects[process].workers[i]
        if worker.stage in (Stage.BLOCK, Stage.COMMITTED):
            return True
        return worker.stage is Stage.RUNNING and not worker.is_interrupted

    def menu(self, process: int) -> Menu:
        """What the workers of a process may do next."""
        menu = self._menus.get(process)
        if menu is None:
            frozen: Process = self.names.processes.objects[process]
            menu = self._menus[process] = tuple(self._options(frozen))
        return menu

    def _options(self, process: Process) -> Iterator[tuple[int, Action, Any]]:
        for i, worker in enumerate(process.workers):
            if worker.renewal is not None:
                yield i, Action.RENEW, self.commands.number(worker.renewal.command)
            is_alone = self.configuration.is_eager and len(process.workers) == 1
            option = self._option(worker, is_alone=is_alone)
            if option is not None:
                yield i, *option

    def _option(self, worker: Worker, *, is_alone: bool) -> tuple[Action, Any] | None:
        command = pending(worker)
        match worker.stage:
            case Stage.READY:
                return (Action.BEGIN if worker.acts[0].is_read else Action.COMMIT), None
            case Stage.BLOCK:
                return Action.COMMIT, None
            case Stage.COMMITTED:
                return Action.LEAVE_BLOCK, None
        if worker.reply is not None:
            return Action.DELIVER, None
        match command:
            case None:
                return None
            case Compute() if worker.looked is not None:
                return Action.RETURN, None
            case Compute():
                # Where nobody can tell the loader's return from its look, they are one move.
                return Action.LOOK, "look and return" if is_alone and worker.renewal is None else "look"
            case ShareLoad() if worker.following is None:
                return Action.JOIN, None
            case ShareLoad():
                # Who has a stale value to give does not wait: that is no fault.
                return Action.TIME_OUT, command.timeout_s == 0
            case Sleep():
                return Action.WAKE, None
            case _:
                return Action.REQUEST, self.commands.number(command)
