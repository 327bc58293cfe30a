"""Traces: what a driver asks of its coordinator, call by call, and whoever is asked to play a script.

A script is written once, as a coroutine that tells a `Stage` what its callers do. There is a stage for the
drivers (threads, asyncio, trio), on the memory backend, and one for the driver of the explorer. What each of
them asked of its coordinator is compared.

What is compared. Calls are put in lanes: one for each ticket, in the order in which tickets appear, and one
for what is asked about the store. Within a lane they are compared call for call. In which order calls of
*different* tickets come is the schedule's: a leader gives its ticket up while its followers wake.

- Numbers of tickets and loads are given anew in the order in which they appear. A ticket that has come to its
  end is another when it is used again: in the explorer it is the place of a worker.
- Steps are the names of their state, command and outcome; notices, changes and answers are their names.
- A ticket that is given up once more, and that ends no load by it, is given up once. Drivers do so where they
  were interrupted, and for a refresh; the explorer always.
- A ticket is said to lead a load once more where somebody follows the load still. That depends on whether
  they are awake yet; so of `give_up` there is what it *ended*, and whether it said so.

A named exception, which does no harm. A trace says whether it was made for it:

- `UNUSED_TICKETS`, in the explorer: it gives up the tickets of operations that share nothing, as each worker
  has one. A driver makes a ticket where it is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
import attrs

from sansio_cache import Policy
from sansio_cache.budget import StoreTimeouts
from sansio_cache.changes import (
    Change,
)
from sansio_cache.commands import Compute, DeleteKeys, ShareLoad, Sleep, StoreCommand
from sansio_cache.coordinator import (
    Coordinator,
)
from sansio_cache.events import Event, FailureKind, StoreFailed, Woke
from sansio_cache.exploring.configuration import (
    FIRST_US,
    NOW_S,
    STALE_AT_ONCE,
    Act,
    Configuration,
    Deed,
)
from sansio_cache.exploring.process import Stage as WorkerStage
from sansio_cache.exploring.process import Worker, pending
from sansio_cache.exploring.running import Running
from sansio_cache.notices import Notice
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following, Phase, Ticket
from sansio_cache.step import Outcome, Step
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support import runtimes
from support.stores import Wrapping

UNUSED_TICKETS: Final = "unused tickets"
STORE: Final = "store"
"""The lane of what is asked about the store."""
KEYS: Final = ("a", "b")
PATIENCE_S: Final = 15.0  # bounds failures only

Lanes = dict[str, list[tuple[Any, ...]]]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, but not for ever."""
    await runtimes.until(condition, timeout_s=PATIENCE_S)


def _name(value: object) -> str | None:
    return None if value is None else type(value).__name__


def _names(values: Iterable[object]) -> tuple[str | None, ...]:
    return tuple(map(_name, values))


def _step(step: Step | None) -> tuple[str | None, ...] | None:
    return None if step is None else _names((step.state, step.command, step.outcome))


class Trace:
    """The calls of one coordinator, in lanes."""

    def __init__(self) -> None:
        self.lanes: Lanes = {}
        self.open: set[str] = set()
        """The tickets under which something was begun that has not come to its end."""
        self.excused: set[str] = set()
        """The named exceptions that were made."""
        self._labels: dict[Ticket, str] = {}
        self._loads: dict[int, int] = {}
        self._count = 0

    def ticket(self, ticket: Ticket) -> str:
        """The new name of a ticket that something is begun under."""
        label = self._labels.get(ticket)
        if label not in self.open:
            self._count += 1
            label = self._labels[ticket] = f"ticket {self._count}"
        assert label is not None
        return label

    def begun(self, ticket: Ticket, *, has_begun: bool) -> str:
        """The same, and whether it has begun something."""
        label = self.ticket(ticket)
        if has_begun:
            self.open.add(label)
        return label

    def load(self, load_id: int | None) -> int | None:
        """The new number of a load."""
        return None if load_id is None else self._loads.setdefault(load_id, len(self._loads) + 1)

    def note(self, lane: str, *call: Any) -> None:
        """Write a call down."""
        self.lanes.setdefault(lane, []).append(call)

    def ended(self, ticket: Ticket, loads: frozenset[int], *, is_said: bool) -> None:
        """A ticket was given up."""
        label = self._labels.get(ticket)
        if not loads and label is None:
            self.excused.add(UNUSED_TICKETS)
            return
        if not loads and label not in self.open:  # once more
            return
        numbers = tuple(sorted(self.load(each) or 0 for each in loads))
        self.note(label or "nobody", "give_up", numbers, is_said and bool(numbers))
        self.open.discard(label or "nobody")

    def forget(self) -> None:
        """What has happened so far is not compared."""
        assert not self.open
        self.lanes.clear()
        self._labels.clear()
        self._loads.clear()
        self._count = 0


class Tracing(Coordinator):
    """A coordinator that writes down what it is asked. To be put before a right one, or a wrong one."""

    trace: Trace
    is_inside: bool

    def share(self, ticket: Ticket, command: ShareLoad, inside: frozenset[str] = frozenset()) -> Any:
        answer = super().share(ticket, command, inside)
        if not self.is_inside:
            label = self.trace.begun(ticket, has_begun=True)
            load = self.trace.load(getattr(answer, "load_id", None))
            self.trace.note(label, "share", _name(answer), load, *sorted(inside))
        return answer

    def sleep(self, ticket: Ticket, keys: Iterable[str], inside: frozenset[str]) -> bool:
        may_wait = super().sleep(ticket, keys, inside)
        self.trace.note(self.trace.begun(ticket, has_begun=True), "sleep", may_wait)
        return may_wait

    def leave(self, ticket: Ticket, following: Following, now_s: float) -> Any:
        event = super().leave(ticket, following, now_s)
        self.trace.note(self.trace.ticket(ticket), "leave", self.trace.load(following.load_id), _name(event))
        return event

    def begin(self, ticket: Ticket, step: Step, now_s: float) -> Step | None:
        self.is_inside = True  # a wrong one shares
        begun = super().begin(ticket, step, now_s)
        self.is_inside = False
        label = self.trace.begun(ticket, has_begun=begun is not None)
        load = self.trace.load(None if begun is None else _number(begun))
        self.trace.note(label, "begin", _step(step), _step(begun), load)
        return begun

    def observe(self, step: Step) -> int | None:
        led = {load: ticket for ticket, load in self.single_flight.snapshot().led}
        number = _number(step)
        leader = None if number is None else led.get(number)
        ended = super().observe(step)
        label = "nobody" if leader is None else self.trace.ticket(leader)
        self.trace.note(label, "observe", self.trace.load(number), _step(step), self.trace.load(ended))
        return ended

    def give_up(self, ticket: Ticket) -> int | None:
        before = self._under_way()
        said = super().give_up(ticket)
        self.trace.ended(ticket, before - self._under_way(), is_said=said is not None)
        return said

    def heed(self, notices: Iterable[Notice], now_s: float) -> list[Change]:
        notices = tuple(notices)
        changes = super().heed(notices, now_s)
        self.trace.note(STORE, "heed", _names(notices), _names(changes))
        return changes

    def begin_recovery(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int = 0
    ) -> Recovery | None:
        recovery = super().begin_recovery(ticket, timeouts, now_s, seed)
        label = self.trace.begun(ticket, has_begun=recovery is not None)
        self.trace.note(STORE, "begin_recovery", label, _recovery(recovery))
        return recovery

    def begin_neglected(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int = 0
    ) -> Recovery | None:
        recovery = super().begin_neglected(ticket, timeouts, now_s, seed)
        if recovery is not None:  # a driver asks at every step, as long as something is pending
            self.trace.note(STORE, "begin_neglected", _recovery(recovery))
        return recovery

    def next_recovery(
        self, recovery: Recovery, outcome: Outcome, timeouts: StoreTimeouts, now_s: float
    ) -> Recovery | None:
        following = super().next_recovery(recovery, outcome, timeouts, now_s)
        label = self.trace.ticket(recovery.ticket)
        self.trace.note(STORE, "next_recovery", label, _name(outcome), _recovery(following))
        return following

    @property
    def is_empty(self) -> bool:
        """B2: nothing is left; that a part has refused something is known until it takes a value."""
        held = self.snapshot()
        flight = held.single_flight
        is_under_way = flight.loads or flight.current or flight.led or held.waits or self.needs_recovery
        return not is_under_way and not any(part.tickets for part in held.parts)

    def _under_way(self) -> frozenset[int]:
        loads = self.single_flight.snapshot().loads
        return frozenset(number for number, load in loads if load.phase is not Phase.ENDED)


def _number(step: Step) -> int | None:
    return step.load_id if isinstance(step.load_id, int) else None


def _recovery(recovery: Recovery | None) -> Any:
    return None if recovery is None else (_step(recovery.step), len(recovery.keys))


def tracing(make: Callable[[], Coordinator], trace: Trace) -> Tracing:
    """A coordinator like that which is made, with a trace."""
    plain = make()
    kind: Any = type("Traced", (Tracing, type(plain)), {})
    coordinator: Tracing = kind(single_flight=plain.single_flight)
    coordinator.trace = trace
    coordinator.is_inside = False
    return coordinator


class Stage(Protocol):
    """Plays a script. Callers and their loaders go by names; a loader waits to be told what it does."""

    coordinator: Tracing

    async def reads(self, name: str, key: int = 0) -> None:
        """A caller reads a key: as far as its loader, or to a place among followers, or to its end."""
        ...

    async def loads(self, name: str) -> None:
        """The loader of this caller runs, in its name or for a refresh."""
        ...

    async def returns(self, name: str) -> None:
        """The loader returns."""
        ...

    async def raises(self, name: str) -> None:
        """The loader raises."""
        ...

    async def interrupts(self, name: str) -> None:
        """The caller is interrupted in its loader."""
        ...

    async def ends(self, *names: str) -> None:
        """These callers come to their ends."""
        ...

    async def expires(self) -> None:
        """What is stored becomes stale."""
        ...

    async def invalidates_in_vain(self) -> None:
        """A caller invalidates a key, which the store refuses this once."""
        ...

    async def rests(self) -> None:
        """What runs in the background comes to its end."""
        ...


Script = Callable[[Stage], Any]


# The drivers.


class LoaderError(Exception):
    """What a loader raises."""


class _Refusing(Wrapping):
    """A backend that refuses the next removal."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.is_refusing = False

    def perform(self, command: StoreCommand) -> Any:
        return self._refused(command) or self._store.perform(command)

    async def answer(self, command: StoreCommand) -> Any:
        return self._refused(command) or await self._store.answer(command)

    def _refused(self, command: StoreCommand) -> StoreFailed | None:
        if not (self.is_refusing and isinstance(command, DeleteKeys)):
            return None
        self.is_refusing = False
        return StoreFailed(time.monotonic(), FailureKind.WRITES_REFUSED)


@attrs.define
class _Caller:
    """One caller and its loader."""

    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    has_begun_to_load: bool = False
    has_ended: bool = False
    told: threading.Event = attrs.field(factory=threading.Event)
    error: BaseException | None = None

    def load(self) -> int:
        self.has_begun_to_load = True
        if not self.told.wait(PATIENCE_S):
            raise TimeoutError
        return self._answer()

    async def load_awaited(self) -> int:
        self.has_begun_to_load = True
        await until(self.told.is_set)
        return self._answer()

    def _answer(self) -> int:
        if self.error is not None:
            raise self.error
        return 7


class DriverStage:
    """The cache of one runtime on the memory backend."""

    def __init__(self, cache: Any, coordinator: Tracing, tasks: Any, *, is_sync: bool) -> None:
        self.coordinator = coordinator
        self._cache = cache
        self._is_sync = is_sync
        self._tasks = tasks
        self._callers: dict[str, _Caller] = {}
        driver = cache._driver if is_sync else cache._bound()
        self._store = driver._backend = _Refusing(driver._backend)

    async def reads(self, name: str, key: int = 0) -> None:
        caller = self._callers[name] = _Caller()
        following = self.coordinator.single_flight.waiting
        self._tasks.start_soon(self._read, caller, KEYS[key])
        await until(
            lambda: (
                caller.has_ended
                or caller.has_begun_to_load
                or self.coordinator.single_flight.waiting > following
            )
        )

    async def _read(self, caller: _Caller, key: str) -> None:
        wait_s = PATIENCE_S + 1.0
        policy = Policy(ttl=60.0, stale_for_s=600.0, jitter=NO_JITTER, wait_s=wait_s)
        if self._is_sync:

            def call() -> None:
                with suppress(LoaderError, KeyboardInterrupt):  # or the event loop of the test is interrupted
                    self._cache.get_or_load(key, caller.load, type=int, policy=policy)

            await anyio.to_thread.run_sync(call)
        else:
            with caller.scope, suppress(LoaderError):
                await self._cache.get_or_load(key, caller.load_awaited, type=int, policy=policy)
        caller.has_ended = True

    async def loads(self, name: str) -> None:
        await until(lambda: self._callers[name].has_begun_to_load)

    async def returns(self, name: str) -> None:
        self._callers[name].told.set()

    async def raises(self, name: str) -> None:
        self._callers[name].error = LoaderError()
        self._callers[name].told.set()

    async def interrupts(self, name: str) -> None:
        caller = self._callers[name]
        if self._is_sync:
            caller.error = KeyboardInterrupt()
            caller.told.set()
        else:
            caller.scope.cancel()

    async def ends(self, *names: str) -> None:
        await until(lambda: all(self._callers[name].has_ended for name in names))

    async def expires(self) -> None:
        await self._call(self._cache.expire, KEYS[0])

    async def invalidates_in_vain(self) -> None:
        self._store.is_refusing = True
        await self._call(self._cache.invalidate, KEYS[0])

    async def rests(self) -> None:
        await until(lambda: not self.coordinator.trace.open)

    async def _call(self, method: Any, *args: Any) -> None:
        if self._is_sync:
            await anyio.to_thread.run_sync(method, *args)
        else:
            await method(*args)

    def leave(self) -> None:
        """Let whoever still loads go on."""
        for caller in self._callers.values():
            caller.told.set()


def on_driver(runtime: str, script: Script, make: Callable[[], Coordinator], monkeypatch: Any) -> Tracing:
    """Play a script on the cache of a runtime: its coordinator afterwards."""
    coordinator = tracing(make, Trace())
    monkeypatch.setattr("sansio_cache_runtime.cache_base.Coordinator", lambda **_: coordinator)
    is_sync = runtime == "sync"
    kind: Any = cache_sync.Cache if is_sync else cache_anyio.Cache

    async def main() -> None:
        cache = kind.from_url("memory://", namespace="n", attempt_timeout_s=10.0, operation_timeout_s=20.0)
        try:
            async with anyio.create_task_group() as tasks:
                stage = DriverStage(cache, coordinator, tasks, is_sync=is_sync)
                try:
                    await script(stage)
                finally:
                    stage.leave()
        finally:
            with anyio.CancelScope(shield=True):
                await (anyio.to_thread.run_sync(cache.close) if is_sync else cache.aclose())

    anyio.run(main, backend="trio" if runtime == "trio" else "asyncio")
    return coordinator


# The explorer.


class ExplorerStage:
    """One process of the explorer, in which all moves are made without freezing it in between."""

    def __init__(self, make: Callable[[], Coordinator]) -> None:
        trace = Trace()
        reads = tuple(Act(Deed.LOAD, (place,)) for place in (0, 1))
        programs = (
            *((reads[0],) for _ in range(4)),
            (reads[1],),
            (Act(Deed.EXPIRE),),
            (Act(Deed.INVALIDATE),),
        )
        configuration = Configuration(
            name="a script",
            processes=(programs,),
            policy=STALE_AT_ONCE,
            invariants=frozenset(),
            coordinator=lambda: tracing(make, trace),
        )
        coordinator: Any = configuration.coordinator()
        self.coordinator: Tracing = coordinator
        self._expirer, self._invalidator = len(programs) - 2, len(programs) - 1
        workers = [Worker(program) for program in programs]
        self._process = Running(configuration, tuple(range(len(programs))), True, workers, self.coordinator)
        self._store = configuration.store(clock=lambda: NOW_S, issued_us=FIRST_US)
        self._is_refusing = False
        self._free = [iter(range(4)), iter((4,))]
        self._loaders: dict[str, int] = {}
        self._callers: dict[str, int] = {}

    async def reads(self, name: str, key: int = 0) -> None:
        i = self._callers[name] = next(self._free[key])
        background = len(self._process.workers)
        self._process.begin_read(i, (0, 0, 0, 0))
        self._go_on()
        spawned = range(background, len(self._process.workers))
        for worker in (i, *spawned):
            if isinstance(pending(self._process.workers[worker]), Compute):
                self._loaders[name] = worker

    async def loads(self, name: str) -> None:
        worker = self._loaders.setdefault(name, self._callers[name])  # a follower may lead in the end
        self._expect(isinstance(pending(self._process.workers[worker]), Compute))

    async def returns(self, name: str) -> None:
        self._process.look(self._loaders[name], (7, 7))
        self._process.load_returns(self._loaders[name])
        self._go_on()

    async def raises(self, name: str) -> None:
        self._process.load_fails(self._loaders[name])
        self._go_on()

    async def interrupts(self, name: str) -> None:
        self._process.interrupt(self._loaders[name])
        self._go_on()

    async def ends(self, *names: str) -> None:
        for name in names:
            self._expect(self._process.workers[self._callers[name]].stage is WorkerStage.DONE)

    async def expires(self) -> None:
        self._process.commit(self._expirer, 1)
        self._go_on()

    async def invalidates_in_vain(self) -> None:
        self._is_refusing = True
        self._process.commit(self._invalidator, 1)
        self._go_on()

    async def rests(self) -> None:
        self._expect(not self.coordinator.trace.open)

    def _expect(self, has_happened: bool) -> None:
        """Nothing happens any more by itself: what has not happened would be waited for in vain."""
        if not has_happened:
            raise TimeoutError

    def _go_on(self) -> None:
        """Let every worker go on as far as its loader, or its place among followers."""
        while any(self._goes_on(i) for i in range(len(self._process.workers))):
            pass

    def _goes_on(self, i: int) -> bool:
        process = self._process
        worker = process.workers[i]
        if worker.reply is not None:
            process.receive(i, worker.reply)
            return True
        match pending(worker):
            case ShareLoad() if worker.following is None:
                process.join(i)
            case Sleep():
                process.receive(i, Woke(NOW_S))
            case command if isinstance(command, StoreCommand):
                process.receive(i, self._performed(command))
            case _:
                return False
        return True

    def _performed(self, command: StoreCommand) -> Event:
        if self._is_refusing and isinstance(command, DeleteKeys):
            self._is_refusing = False
            return StoreFailed(NOW_S, FailureKind.WRITES_REFUSED)
        return self._store.perform(command)


def on_explorer(script: Script, make: Callable[[], Coordinator] = Coordinator) -> Tracing:
    """Play a script in the explorer: its coordinator afterwards."""
    stage = ExplorerStage(make)
    anyio.run(script, stage)
    return stage.coordinator


RUNTIMES: Final[Sequence[str]] = ("sync", "asyncio", "trio")
EVERYONE: Final[Sequence[str]] = (*RUNTIMES, "explorer")


def played(place: str, script: Script, make: Callable[[], Coordinator], monkeypatch: Any) -> Tracing:
    """Play a script anywhere."""
    if place == "explorer":
        return on_explorer(script, make)
    return on_driver(place, script, make, monkeypatch)
