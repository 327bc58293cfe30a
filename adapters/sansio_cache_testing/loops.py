"""Participants that are tasks of an event loop, asyncio's or trio's, in virtual time.

A task runs until it comes to a point, as a thread does (`threads.py`), or waits for something of its loop.
When no task can go on, the scheduler lets one go on of those that are at a point; and where there is none,
the time passes to the next timer. So `asyncio.sleep(3600)` takes no time, and who goes on is the schedule's.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import anyio

from sansio_cache.exploring.schedules import Chooser
from sansio_cache_runtime.anyio.threads import in_place
from sansio_cache_testing.scheduling import DeadlockError, Recording, VirtualClock, WorldError, told

SET_UP: Final = "set-up"
strand: Final[ContextVar[str]] = ContextVar("sansio_cache_testing_strand", default=SET_UP)
"""Whose task this is."""

_FOR_EVER_S: Final = 10.0**7


class _Gate:
    """A task at a point."""

    def __init__(self, who: str, awaits: str) -> None:
        self.who = who
        self.awaits = awaits
        self.opens = anyio.Event()


class Participant:
    """One function of a program, run as a task."""

    def __init__(self, name: str, job: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self.job = job
        self.error: Exception | None = None
        self.has_ended = anyio.Event()

    async def run(self) -> None:
        """Do what it does; what it raises is kept."""
        strand.set(self.name)
        try:
            await self.job()
        except Exception as error:  # noqa: BLE001 - raised where the run ends
            self.error = error
        finally:
            self.has_ended.set()


class LoopScheduler(Recording):
    """Lets the tasks of one event loop go on, one at a time."""

    def __init__(self, chooser: Chooser, seed: int) -> None:
        super().__init__(chooser, seed)
        self.participants: list[Participant] = []
        self.gates: list[_Gate] = []
        self.settled: anyio.Event | None = None
        """Set when no task can go on, where somebody waits for that."""
        self.came: Callable[[], object] = int
        """Called when a task has come to a gate."""
        self._is_stopped = False
        self._asleep: list[float] = []
        self._current = ""

    @property
    def who(self) -> str:
        """Who runs."""
        return strand.get()

    @property
    def is_participant(self) -> bool:
        """Whether a function of the program is what runs."""
        return not self.is_resting and strand.get() != SET_UP

    def start(self, name: str, job: Callable[[], Awaitable[Any]]) -> None:
        """Add a participant; it begins with the run."""
        self.participants.append(Participant(name, job))

    async def point(self, awaits: str) -> None:
        """Come to a point: go on when it is one's turn."""
        if self.is_resting:
            return
        gate = _Gate(self.who, awaits)
        self.gates.append(gate)
        self.came()
        try:
            await gate.opens.wait()
        finally:
            if gate in self.gates:
                self.gates.remove(gate)

    async def sleep(self, duration_s: float) -> None:
        """Sleep for so many seconds of the world."""
        until_s = self.clock() + duration_s
        self._asleep.append(until_s)
        try:
            await anyio.sleep(duration_s)
        finally:
            self._asleep.remove(until_s)
        await self.point("goes on after a sleep")

    def go_on(self, pass_time: Callable[[float], object]) -> bool:
        """Let a task go on that is at a point. False where there is none.

        Args:
            pass_time: Lets so many seconds pass.
        """
        self._stop()
        if not self.gates:
            if self.settled is not None and not self.settled.is_set():
                self.settled.set()
                return True
            return False
        self.count_step()
        order = {participant.name: place for place, participant in enumerate(self.participants)}
        gates = sorted(self.gates, key=lambda gate: order.get(gate.who, len(order)))
        goes_on = next((gate for gate in gates if gate.who == self._current), None)
        if goes_on is not None:
            gates.remove(goes_on)
            gates.insert(0, goes_on)
        taken = self.pick(len(gates) + bool(self._asleep), is_free=goes_on is None)
        if taken == len(gates):
            pass_time(max(min(self._asleep) - self.clock(), 0.0))
            return True
        gate = gates[taken]
        self._current = gate.who
        self.gates.remove(gate)
        gate.opens.set()
        return True

    def _stop(self) -> None:
        """End the run where the chooser has: what it raised may have gone to a task of the background."""
        if self.stopped_by is not None and not self._is_stopped:
            self._is_stopped = True
            raise self.stopped_by

    async def settle(self) -> None:
        """Wait until no task can go on."""
        self.settled = anyio.Event()
        self.came()
        await self.settled.wait()
        self.settled = None

    def deadlock(self) -> DeadlockError:
        """The error where all wait for nothing that will come. It ends the run, tasks and all."""
        self._is_stopped = True
        self.stopped_by = error = DeadlockError(self.nobody_goes_on())
        return error

    def nobody_goes_on(self) -> str:
        """What is wrong where all wait for nothing that will come."""
        waiting = [each.name for each in self.participants if not each.has_ended.is_set()]
        return (
            f"nobody can go on: {told([(name, 'waits for something of its loop') for name in waiting])}. "
            "What comes from outside (a socket, a thread, a process) does not come in a world: use doubles"
        )


class Runner(Protocol):
    """Runs an asynchronous function in virtual time."""

    def __call__(self, scheduler: LoopScheduler, main: Callable[[], Awaitable[Any]]) -> Any:
        """Run it, and give what it gives."""
        ...


class _Selector(selectors.DefaultSelector):
    """Never waits for the world outside: where the loop would, it asks what is to happen."""

    def __init__(self, scheduler: LoopScheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; where nothing is, somebody goes on, or time passes."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        scheduler = self._scheduler
        clock = scheduler.clock
        if scheduler.go_on(lambda duration_s: clock.advance_to(clock() + duration_s)):
            return ready
        if timeout is None:
            raise scheduler.deadlock()
        scheduler.count_step()
        clock.advance_to(clock() + timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """An event loop of asyncio in virtual time."""

    def __init__(self, scheduler: LoopScheduler) -> None:
        self._scheduler = scheduler
        super().__init__(_Selector(scheduler))

    def time(self) -> float:
        """The world's."""
        return self._scheduler.clock()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Say nothing of tasks that end because the run does."""
        if self._scheduler.stopped_by is None:
            super().call_exception_handler(context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # noqa: ARG002
        """Refuse threads, which a world cannot schedule."""
        name = getattr(func, "__qualname__", repr(func))
        raise WorldError(
            f"{name} is to run on a thread of its own (run_in_executor, asyncio.to_thread): a world of an "
            "event loop has no threads. Call it in place, or test it in a world of threads"
        )


def run_in_asyncio(scheduler: LoopScheduler, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an asynchronous function in an event loop of asyncio."""

    async def run() -> Any:
        return await main()

    token = in_place.set(True)
    try:
        with asyncio.Runner(loop_factory=lambda: _Loop(scheduler)) as runner:
            return runner.run(run())
    finally:
        in_place.reset(token)


def run_in_trio(scheduler: LoopScheduler, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an asynchronous function in trio."""
    import trio
    import trio.testing

    mock = trio.testing.MockClock(autojump_threshold=0)
    began_s = scheduler.clock()

    class Clock(VirtualClock):
        def __call__(self) -> float:
            return began_s + mock.current_time()

    scheduler.clock = Clock()

    async def schedule() -> None:
        while True:
            more = trio.Event()
            scheduler.came = more.set
            await trio.testing.wait_all_tasks_blocked()
            if scheduler.go_on(mock.jump):
                continue
            with trio.move_on_after(_FOR_EVER_S) as scope:
                await more.wait()
            if scope.cancelled_caught:
                raise DeadlockError(scheduler.nobody_goes_on())

    async def run() -> Any:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(schedule)
                result = await main()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _innermost(group) from None
        return result

    token = in_place.set(True)
    try:
        return trio.run(run, clock=mock)
    finally:
        in_place.reset(token)


def _innermost(error: BaseException) -> BaseException:
    """The only one in groups of one, which a nursery wraps round what is raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


RUNNERS: Final[dict[str, Runner]] = {"asyncio": run_in_asyncio, "trio": run_in_trio}
