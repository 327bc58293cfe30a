"""Background tasks under asyncio and trio: they belong to the cache, not to a caller.

anyio has no such thing on purpose, so each backend's own is used. A background task never takes the
program down: what it raises is logged.

A loop that ends takes along what the cache has in it. `asyncio.run` cancels all tasks, waits for them, and
finishes the asynchronous generators of the loop then. So what is to be closed when no task needs it any more
hangs on such a generator. Trio cancels its system tasks when all others have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Protocol

from sansio_cache.errors import CacheClosedError
from sansio_cache_runtime.anyio.event import LoopEvent
from sansio_cache_runtime.anyio.loops import Reach, reach_running_loop
from sansio_cache_runtime.spans import leave_spans
from sansio_cache_runtime.subscribers import leave_explanations
from sansio_cache_runtime.tracebacks import textless

logger: Final = logging.getLogger("sansio_cache")

Job = Callable[[], Awaitable[Any]]


class Background(Protocol):
    """Starts tasks in one event loop, and ends them."""

    call: Reach
    """Calls a function in the loop, from any thread."""
    has_left: LoopEvent
    """Set when the loop has nothing of the cache in it any more."""

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it.

        Args:
            job: What the task does.
            at_end: Called when it has ended, also where it was cancelled before it began, or never started
                as the loop ends.
        """
        ...

    def start_after(self, delay_s: float, wake: Callable[[], object]) -> Callable[[], object]:
        """Call a function when so many seconds have passed; the function given back cancels that."""
        ...

    def guard(self, close: Job) -> None:
        """Have a function called when the loop ends, after its tasks, or with `leave`."""
        ...

    def leave(self) -> None:
        """Have that function called now. To be called in the loop."""
        ...

    def is_over(self) -> bool:
        """Whether the event loop has ended, or has nothing of the cache in it any more."""
        ...

    async def end(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        ...


async def _guarded(job: Job) -> None:
    leave_explanations()
    leave_spans()
    try:
        await job()
    except CacheClosedError:
        pass  # it was started as the cache was being closed
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a loader may have called `sys.exit`
        _log(error)
    except BaseExceptionGroup as group:  # or a task of its own has
        failed, rest = group.split((Exception, SystemExit))
        if failed is not None:
            _log(failed)
        if rest is not None:
            raise rest from None


def _log(error: BaseException) -> None:
    logger.error("a background task of the cache failed", exc_info=textless(error))


class AsyncioBackground:
    """Tasks of the running asyncio loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard: tuple[AsyncGenerator[None], Job] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self.call = reach_running_loop()
        self.has_left = LoopEvent()

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it."""
        if self.has_left.is_set() or self._loop.is_closed():  # nobody would wait for it
            if at_end is not None:
                at_end()
            return int
        task = self._loop.create_task(_guarded(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if at_end is not None:
            task.add_done_callback(lambda _: at_end())
        return partial(self._cancel, task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if not self._loop.is_closed():
            task.cancel()

    def start_after(self, delay_s: float, wake: Callable[[], object]) -> Callable[[], object]:
        """Call a function when so many seconds have passed; the function given back cancels that."""
        return self._loop.call_later(delay_s, wake).cancel

    def guard(self, close: Job) -> None:
        """Have a function called when the loop ends, after its tasks, or with `leave`."""
        guard = self._closing(close)
        self._guard = guard, close
        with suppress(StopIteration):
            guard.__anext__().send(None)  # as far as it goes without waiting: then the loop knows it

    async def _closing(self, close: Job) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            try:
                await self._close_once(close)
            finally:
                self.has_left.set()

    async def _close_once(self, close: Job) -> None:
        """Close in a task of its own, and wait for that: the loop may finish the generator meanwhile."""
        if self._ending is None:
            self._ending = self._loop.create_task(_guarded(close))
        await asyncio.wait([self._ending])

    def leave(self) -> None:
        """Have that function called now. To be called in the loop."""
        if self._guard is not None and self._leaving is None:
            self._leaving = self._loop.create_task(self._finish(*self._guard))

    async def _finish(self, guard: AsyncGenerator[None], close: Job) -> None:
        await self._close_once(close)
        with suppress(RuntimeError):  # the loop is finishing it just now
            await guard.aclose()

    def is_over(self) -> bool:
        """Whether the event loop has ended, or has nothing of the cache in it any more."""
        return self._loop.is_closed()

    async def end(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)


class TrioBackground:
    """System tasks of the running trio loop."""

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._running: dict[trio.CancelScope, trio.Event] = {}
        self._staying = trio.CancelScope()
        self.call = reach_running_loop()
        self.has_left = LoopEvent()

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it."""
        if self.has_left.is_set():  # nobody would wait for it
            if at_end is not None:
                at_end()
            return int
        scope = self._trio.CancelScope()
        has_ended = self._running[scope] = self._trio.Event()

        async def run() -> None:
            try:
                with scope:
                    await _guarded(job)
            finally:
                del self._running[scope]
                has_ended.set()
                if at_end is not None:
                    at_end()

        self._trio.lowlevel.spawn_system_task(run, context=copy_context())
        return scope.cancel

    def start_after(self, delay_s: float, wake: Callable[[], object]) -> Callable[[], object]:
        """Call a function when so many seconds have passed; the function given back cancels that."""

        async def run() -> None:  # there are no timers but tasks
            await self._trio.sleep(delay_s)
            wake()

        return self.start(run)

    def guard(self, close: Job) -> None:
        """Have a function called when the loop ends, after its tasks, or with `leave`."""
        self._trio.lowlevel.spawn_system_task(self._stay, close)

    async def _stay(self, close: Job) -> None:
        try:
            with self._staying:
                await self._trio.sleep_forever()
        finally:
            try:
                await close()
            finally:
                # Not before: others may let go of what is in a loop that is over, in any thread.
                self.has_left.set()

    def leave(self) -> None:
        """Have that function called now. To be called in the loop."""
        self._staying.cancel()

    def is_over(self) -> bool:
        """Whether the event loop has ended, or has nothing of the cache in it any more."""
        return self.has_left.is_set()

    async def end(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        running = dict(self._running)
        for scope in running:
            scope.cancel()
        for has_ended in running.values():
            await has_ended.wait()
