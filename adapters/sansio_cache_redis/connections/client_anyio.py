"""Connections of a redis-py client that the user owns, under asyncio and trio: see `client.py`.

A batch that is given up on goes on by itself, as redis-py may swallow a cancellation, or close a connection
on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.connections.client import ClientConnections, filled
from sansio_cache_redis.connections.multiplexed import R, Read
from sansio_cache_redis.wire import Again, Args

_TRIO_THREADS: Final = 40
"""How many calls of a client may run at once under trio. Its pool bounds them as well."""


async def _answer(
    ask: Callable[[Sequence[Args], float], Awaitable[list[Any] | BaseException]],
    commands: Sequence[Args],
    timeout_s: float,
    read: Read[R],
) -> R:
    """What is read of the replies, also where something has to be sent once more."""
    answer = read(await ask(commands, timeout_s))
    if isinstance(answer, Again):
        return answer.read(await ask(answer.commands, timeout_s))
    return answer


class TrioClientConnections:
    """The connections of a blocking client, for the tasks of one trio run: on worker threads."""

    def __init__(self, client: Any) -> None:
        self._blocking = ClientConnections(client)
        # Of its own: loaders may hold all of trio's usual ones.
        self._threads = anyio.CapacityLimiter(_TRIO_THREADS)

    async def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> R:
        """Send commands together, and give back what `read` makes of their replies, or of a failure."""
        return await _answer(self._replies, commands, timeout_s, read)

    async def _replies(self, commands: Sequence[Args], timeout_s: float) -> list[Any] | BaseException:
        replies: list[Any] | BaseException = RedisTimeoutError("no reply in time")
        try:
            with anyio.move_on_after(timeout_s):
                # Given up on, the thread still reads its replies, so the connection stays in step.
                replies = await anyio.to_thread.run_sync(
                    self._blocking.execute, commands, timeout_s, abandon_on_cancel=True, limiter=self._threads
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            replies = error
        return replies

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._blocking.reset()

    async def aclose(self) -> None:
        """Leave the client to its owner."""
        await anyio.lowlevel.checkpoint()


class AsyncioClientConnections:
    """The connections of an asyncio client: each batch is a task of its own, which is never cancelled."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._resetting: asyncio.Task[list[Any]] | None = None

    async def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> R:
        """Send commands together, and give back what `read` makes of their replies, or of a failure."""
        return await _answer(self._replies, commands, timeout_s, read)

    async def _replies(self, commands: Sequence[Args], timeout_s: float) -> list[Any] | BaseException:
        task = asyncio.get_running_loop().create_task(self._run(commands))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            return RedisTimeoutError("no reply in time")
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

    async def _run(self, commands: Sequence[Args]) -> list[Any]:
        if self._resetting is not None:  # the pool would hand out a connection that is being closed
            await asyncio.wait([self._resetting])
        async with self._client.pipeline(transaction=False) as pipeline:
            replies: list[Any] = await filled(pipeline, commands).execute(raise_on_error=False)
            return replies

    async def _disconnect(self) -> list[Any]:
        await self._client.connection_pool.disconnect(inuse_connections=False)
        return []

    def _forget(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio complains where everybody has given up
