"""Background tasks under asyncio and trio: they belong to the cache, not to a caller.

anyio has no such thing on purpose, so each backend's own is used. A background task never takes the
program down: what it raises is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Final, Protocol

from sansio_cache.errors import CacheClosedError
from sansio_cache_runtime.subscribers import leave_explanations

logger: Final = logging.getLogger("sansio_cache")

Job = Callable[[], Awaitable[Any]]


class Background(Protocol):
    """Starts tasks in one event loop, and ends them."""

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it.

        Args:
            job: What the task does.
            at_end: Called when it has ended, also where it was cancelled before it began.
        """
        ...

    def start_after(self, delay_s: float, job: Job) -> Callable[[], object]:
        """Start a task when so many seconds have passed; the function given back cancels both."""
        ...

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, from any thread; not at all where the loop has ended."""
        ...

    def is_over(self) -> bool:
        """Whether the event loop has ended."""
        ...

    async def end(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        ...


async def _guard(job: Job) -> None:
    leave_explanations()
    try:
        await job()
    except CacheClosedError:
        pass  # it was started as the cache was being closed
    except (Exception, SystemExit):  # a loader may have called `sys.exit`
        logger.exception("a background task of the cache failed")


class _Delayed:
    """A job that a timer is to start, or has started."""

    __slots__ = ("_background", "_cancel", "_job", "cancel_timer")

    cancel_timer: Callable[[], object]

    def __init__(self, background: Background, job: Job) -> None:
        self._background = background
        self._job = job
        self._cancel: Callable[[], object] | None = None

    def start(self) -> None:
        """The time has come."""
        self._cancel = self._background.start(self._job)

    def cancel(self) -> None:
        """It is not to run, or to run no more."""
        self.cancel_timer()
        if self._cancel is not None:
            self._cancel()


class AsyncioBackground:
    """Tasks of the running asyncio loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it."""
        task = self._loop.create_task(_guard(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if at_end is not None:
            task.add_done_callback(lambda _: at_end())
        return task.cancel

    def start_after(self, delay_s: float, job: Job) -> Callable[[], object]:
        """Start a task when so many seconds have passed; the function given back cancels both."""
        delayed = _Delayed(self, job)
        delayed.cancel_timer = self._loop.call_later(delay_s, delayed.start).cancel
        return delayed.cancel

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, from any thread; not at all where the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def is_over(self) -> bool:
        """Whether the event loop has ended."""
        return not self._loop.is_running()

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
        self._token = trio.lowlevel.current_trio_token()
        self._running: dict[trio.CancelScope, trio.Event] = {}
        self._is_over = False
        trio.lowlevel.spawn_system_task(self._watch)

    async def _watch(self) -> None:
        try:
            await self._trio.sleep_forever()
        finally:
            self._is_over = True

    def start(self, job: Job, at_end: Callable[[], object] | None = None) -> Callable[[], object]:
        """Start a task; the function given back cancels it."""
        scope = self._trio.CancelScope()
        has_ended = self._running[scope] = self._trio.Event()

        async def run() -> None:
            try:
                with scope:
                    await _guard(job)
            finally:
                del self._running[scope]
                has_ended.set()
                if at_end is not None:
                    at_end()

        self._trio.lowlevel.spawn_system_task(run, context=copy_context())
        return scope.cancel

    def start_after(self, delay_s: float, job: Job) -> Callable[[], object]:
        """Start a task when so many seconds have passed; the function given back cancels both."""

        async def run() -> None:  # there are no timers but tasks
            await self._trio.sleep(delay_s)
            await job()

        return self.start(run)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, from any thread; not at all where the loop has ended."""
        with contextlib.suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def is_over(self) -> bool:
        """Whether the event loop has ended."""
        return self._is_over

    async def end(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        running = dict(self._running)
        for scope in running:
            scope.cancel()
        for has_ended in running.values():
            await has_ended.wait()
