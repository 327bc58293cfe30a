"""Connections of a redis-py client that the user owns, under asyncio and trio: see `client.py`.

A batch that is given up on goes on by itself, as redis-py may swallow a cancellation, or close a connection
on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.client import (
    LOOK_S,
    Asking,
    ClientConnections,
    Introduction,
    Line,
    exhausted,
    filled,
    is_exhausted,
)
from sansio_cache_redis.connections.multiplexed import R, Read
from sansio_cache_redis.errors import ERRORS, OverloadedError
from sansio_cache_redis.reading import answered

_TRIO_THREADS: Final = 40
"""How many calls of a client may run at once under trio. Its pool bounds them as well."""


def _too_late(line: Line, caller: object, timeout_s: float) -> Exception:
    """What a call fails with whose time is over: has the server been silent, or was there no turn for it?"""
    since_s = line.asks_since_s(caller)
    if since_s is None:
        return exhausted()
    if monotonic() - since_s < timeout_s / 2:
        return OverloadedError("others are served: there was no time left for this call")
    return RedisTimeoutError("no reply in time")


class TrioClientConnections:
    """The connections of a blocking client, for the tasks of one trio run: on worker threads."""

    def __init__(self, client: Any, on_told: Callable[[Any], object]) -> None:
        self._blocking = ClientConnections(client, on_told)
        # Of its own: loaders may hold all of trio's usual ones.
        self._threads = anyio.CapacityLimiter(_TRIO_THREADS)

    async def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> R:
        """Send commands together, and give back what `read` makes of their replies, or of a failure."""
        return await answered(self._replies, commands, timeout_s, read)

    async def _replies(self, commands: Sequence[Args], timeout_s: float) -> list[Any] | BaseException:
        caller = Asking()
        execute = partial(self._blocking.execute, commands, timeout_s, caller)
        try:
            with anyio.move_on_after(timeout_s):
                # Given up on, the thread still reads its replies, so the connection stays in step.
                return await anyio.to_thread.run_sync(execute, abandon_on_cancel=True, limiter=self._threads)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            return error
        return _too_late(self._blocking.line, caller, timeout_s)

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._blocking.reset()

    async def aclose(self) -> None:
        """Leave the client to its owner."""
        await anyio.lowlevel.checkpoint()


class AsyncioClientConnections:
    """The connections of an asyncio client: each batch is a task of its own, which is never cancelled."""

    def __init__(self, client: Any, on_told: Callable[[Any], object]) -> None:
        self._client = client
        self._introduction = Introduction(on_told)
        self._line = Line(client)
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._resetting: asyncio.Task[list[Any]] | None = None

    async def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> R:
        """Send commands together, and give back what `read` makes of their replies, or of a failure."""
        return await answered(self._replies, commands, timeout_s, read)

    async def _replies(self, commands: Sequence[Args], timeout_s: float) -> list[Any] | BaseException:
        caller = Asking()
        task = asyncio.get_running_loop().create_task(self._run(commands, timeout_s, caller))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            return _too_late(self._line, caller, timeout_s)
        failure = task.exception()
        return task.result() if failure is None else failure

    def reset(self) -> None:
        """Close the client's idle connections; it opens new ones by itself."""
        self._resetting = asyncio.get_running_loop().create_task(self._disconnect())
        self._tasks.add(self._resetting)
        self._resetting.add_done_callback(self._forget)

    async def aclose(self) -> None:
        """Wait for the batches that were given up on; leave the client to its owner."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, commands: Sequence[Args], timeout_s: float, caller: object) -> list[Any]:
        until_s = monotonic() + timeout_s
        if self._resetting is not None:  # the pool would hand out a connection that is being closed
            await asyncio.wait([self._resetting])
        has_waited = False
        while True:
            if self._line.has_room():
                try:
                    return await self._ask(commands, caller)
                except RedisConnectionError as error:
                    if not is_exhausted(error):
                        raise
            left_s = until_s - monotonic()
            if left_s <= 0:
                raise exhausted()
            await self._wait(min(left_s, LOOK_S), is_first=has_waited)
            has_waited = True

    async def _ask(self, commands: Sequence[Args], caller: object) -> list[Any]:
        introduction = self._introduction
        try:
            self._line.enter(caller)
            asked = introduction.begin(commands)
            async with self._client.pipeline(transaction=False) as pipeline:
                replies = await filled(pipeline, asked).execute(raise_on_error=False)
            return introduction.end(replies, commands)
        except ERRORS:
            introduction.forget()
            raise
        finally:
            self._line.leave(caller)

    async def _wait(self, timeout_s: float, *, is_first: bool) -> None:
        waiter = asyncio.Event()
        try:
            self._line.join(waiter, is_first=is_first)
            with anyio.move_on_after(timeout_s):
                await waiter.wait()
        finally:
            self._line.quit(waiter)

    async def _disconnect(self) -> list[Any]:
        await self._client.connection_pool.disconnect(inuse_connections=False)
        return []

    def _forget(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio complains where everybody has given up
