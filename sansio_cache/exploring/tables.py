"""Tables: each part of a move worked out once, for interned processes, requests, stores and events.

Whatever follows from parts alone does so every time: the same process, given the same event, becomes the
same process. So machines, the coordinator and the store run only when a combination is met for the first
time, and most moves are a few look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from sansio_cache.commands import (
    ClaimCell,
    Compute,
    ComputeMany,
    HoldCells,
    InspectCell,
    Ping,
    ReadCell,
    ReadCells,
    ReadTags,
    ShareLoad,
    Sleep,
)
from sansio_cache.events import FailureKind, LeaseDenied, LeasesAnswered, StoreEvent, StoreFailed
from sansio_cache.exploring.configuration import NOW_S, WAIT_S, Act, Configuration, Deed, Fault
from sansio_cache.exploring.judging import Broken
from sansio_cache.exploring.naming import Interner, label_of, replace
from sansio_cache.exploring.process import Floor, Process, Stage, Worker, pending
from sansio_cache.exploring.running import Running, thawed
from sansio_cache.exploring.storing import (
    Issuing,
    Served,
    Stored,
    after_half,
    after_jump,
    after_lapse,
    after_promotion,
    after_restart,
    after_save,
    forged,
    is_leased,
    outlived,
    own,
    perform,
    served,
    without,
)
from sansio_cache.exploring.world import MAY_LEAVE_LEASE, WRITER_DIED, Names, Past, World

TIMED_OUT: Final = StoreFailed(NOW_S, FailureKind.TIMEOUT)


_SETTING: Final = (Deed.SET, Deed.ADD)
"""What stores a value that was there before the call."""
BACKGROUND: Final = (Stage.REFRESHING, Stage.RECOVERING)
"""Where workers are that nobody has called."""


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
    TIME_OUT = "does not wait for the load any longer"
    WAKE = "wakes"
    RENEW = "renews"
    GIVE_UP = "gives up its ticket"
    END_REST = "has let a load rest for long enough"
    WORLD = "the world"


class Turned(NamedTuple):
    """What a move came to for its process: the process's number after it, and what the world must know."""

    process: int
    completed: Floor = ()
    broken: Broken | None = None
    flags: int = 0
    won: int = 0
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

    served: tuple[Served, ...]
    is_leased: bool
    is_outlived: bool
    is_emptied: bool
    """Whether a promotion would leave less of it."""
    gone: tuple[tuple[str, int], ...]
    """For each key what the store is without it."""
    jumped: int | None
    lapsed: int | None
    aged: int | None
    forged: int | None
    saved: int | None
    restarted: int | None
    promoted: int | None


class Ending(NamedTuple):
    """How far a process is."""

    writers_are_done: bool
    has_ended: bool
    is_setting: bool
    """Whether a set has been called that does not hold its key yet."""


Menu = tuple[tuple[int, Action, Any], ...]
"""What the workers of a process may do: for each its place, the action, and a detail of it."""


def _look_and_return(running: Running, i: int, versions: Any) -> None:
    running.look(i, versions)
    running.load_returns(i)


def _deliver(running: Running, i: int, _: Any) -> None:
    reply = running.workers[i].reply
    assert reply is not None
    running.receive(i, reply)


DEEDS: Final[Mapping[str, Callable[[Running, int, Any], None]]] = {
    "begin": lambda running, i, floor: running.begin_read(i, floor),
    "answer": lambda running, i, event: running.answer(i, event),
    "renewed": lambda running, i, event: running.renewed(i, event),
    "look": lambda running, i, versions: running.look(i, versions),
    "look and return": _look_and_return,
    "raise": lambda running, i, _: running.load_fails(i),
    "commit": lambda running, i, version: running.commit(i, version),
    "time out": lambda running, i, _: running.leave(i),
    "interrupt": lambda running, i, _: running.interrupt(i),
    "interrupt joining": lambda running, i, _: running.interrupt_joining(i),
    "crash": lambda running, *_: running.crash(),
    "end rest": lambda running, _, load: running.end_rest(load),
    Action.RETURN.name: lambda running, i, _: running.load_answers(i),
    Action.DELIVER.name: _deliver,
    Action.WAKE.name: lambda running, i, _: running.wake(i),
    Action.JOIN.name: lambda running, i, _: running.join(i),
    Action.GIVE_UP.name: lambda running, i, _: running.give_up(i),
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
        acts, places = configuration.acts, configuration.places
        kinds = {False, *(act.is_text for act in acts)}
        is_signed = any(act.is_signed for act in acts)
        self._readings = [
            Act(Deed.LOAD, (place,), is_text=kind, is_signed=is_signed) for place in places for kind in kinds
        ]
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
                turn.won,
                tuple(self.commands.number(each) for each in turn.late),
            )
        return turned

    def run(self, world: World, processes: tuple[int, ...], request: int) -> Ran:
        """What a request does in a world's store."""
        command = self.commands.objects[request]
        label = 1
        if isinstance(command, Issuing):
            for interner, number in self.parts(world, processes):
                for grant in interner.grants[number]:
                    if grant.startswith(command.nonce):
                        label = max(label, label_of(grant) + 1)
        key = (world.store, request, label)
        ran = self._rans.get(key)
        if ran is None:
            done = perform(self.configuration, self.names.stores.objects[world.store], command, label)
            denied = None
            if _is_denied(done.event):
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
        return not isinstance(
            self.commands.objects[request], ReadCell | ReadCells | InspectCell | ReadTags | Ping
        )

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
            found = (served(stored, act) for act in self._readings)
            gone = ((key, self.names.stores.number(without(stored, key))) for key, _ in own(stored))
            others = (
                after_jump(stored),
                after_lapse(stored),
                after_half(stored),
                self._forged(stored),
                *self._lives(stored),
            )
            changed = (None if each == stored else self.names.stores.number(each) for each in others)
            facts = self._facts[store] = Facts(
                tuple(each for each in found if each is not None),
                is_leased(stored),
                outlived(stored),
                own(others[-1]) != own(stored),
                tuple(gone),
                *changed,
            )
        return facts

    def _lives(self, stored: Stored) -> Iterator[Stored]:
        """The store after a snapshot, a restart, a promotion, where these are among what may happen."""
        faults = self.configuration.faults
        yield after_save(stored) if Fault.SAVED in faults else stored
        yield after_restart(self.configuration, stored) if Fault.RESTART in faults else stored
        yield after_promotion(self.configuration, stored) if Fault.PROMOTION in faults else stored

    def _forged(self, stored: Stored) -> Stored:
        return forged(stored) if Fault.FORGERY in self.configuration.faults else stored

    def ending(self, process: int) -> Ending:
        """How far a process is."""
        ending = self._endings.get(process)
        if ending is None:
            workers = self.names.processes.objects[process].workers
            ending = self._endings[process] = Ending(
                all(all(act.is_read for act in worker.acts) for worker in workers),
                all(worker.stage is Stage.DONE for worker in workers),
                any(
                    worker.acts and worker.acts[0].deed in _SETTING and not worker.told
                    for worker in workers
                    if isinstance(pending(worker), HoldCells | ClaimCell)
                ),
            )
        return ending

    def may_be_interrupted(self, process: int, i: int) -> bool:
        """Whether a worker is in an operation, or its block, that was not interrupted yet."""
        worker: Worker = self.names.processes.objects[process].workers[i]
        if worker.stage in (Stage.BLOCK, Stage.COMMITTED):
            return True
        return worker.stage in (Stage.RUNNING, Stage.REFRESHING) and not worker.is_interrupted

    def menu(self, process: int) -> Menu:
        """What the workers of a process may do next."""
        menu = self._menus.get(process)
        if menu is None:
            frozen: Process = self.names.processes.objects[process]
            menu = self._menus[process] = tuple(self._options(frozen))
        return menu

    def _options(self, process: Process) -> Iterator[tuple[int, Action, Any]]:
        for load, _ in process.coordinator.single_flight.resting:
            yield 0, Action.END_REST, load
        callers = sum(worker.stage not in BACKGROUND for worker in process.workers)
        is_alone = self.configuration.is_eager and callers == 1
        waiting = {worker.parent for worker in process.workers}  # for what their loaders have asked
        for i, worker in enumerate(process.workers):
            if worker.renewal is not None:
                yield i, Action.RENEW, self.commands.number(worker.renewal.command)
            option = self._option(worker, is_alone=is_alone)
            if option is not None and not (i in waiting and option[0] is Action.LOOK):
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
            case Stage.GIVING_UP:
                return Action.GIVE_UP, None
        if worker.reply is not None:
            return Action.DELIVER, None
        match command:
            case None:
                return None
            case Compute() | ComputeMany() if worker.looked is not None:
                return Action.RETURN, None
            case Compute() | ComputeMany():
                # Where nobody can tell the loader's return from its look, they are one move. What is spawned
                # does not share loads with callers.
                return Action.LOOK, "look and return" if is_alone and worker.renewal is None else "look"
            case ShareLoad() if worker.following is None:
                return Action.JOIN, None
            case ShareLoad():
                return Action.TIME_OUT, None
            case Sleep():
                return Action.WAKE, None
            case _:
                return Action.REQUEST, self.commands.number(command)


def _is_denied(event: StoreEvent) -> bool:
    if isinstance(event, LeasesAnswered):
        return any(isinstance(answer, LeaseDenied) for answer in event.answers)
    return isinstance(event, LeaseDenied)
