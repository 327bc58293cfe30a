"""The channel for asyncio: one connection, on which any number of callers' commands are multiplexed.

Another is opened where that one is in the middle of something large, so that small values do not wait for it.

All commands issued in one turn of the loop go out in one write; one task reads the replies, in order, and
hands them out. That task owns the connection. So a cancelled caller costs nothing but its unread reply,
which is read and dropped when it comes: replies never get out of step, and no cancellation is swallowed
(on Python 3.11, redis-py loses one in ten inside its time-outs).

There is no timer for each call: one sweeper looks at them all. A call fails when nothing at all was read for
as long as it may take. While replies come in it is merely its turn that has not come, and ten thousand
callers at once are no reason to fail one of them. A connection that was silent since a call that has failed
is given up, and what is pending on it fails as well: its fate is unknown, and the core decides what to do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.lowlevel import (
    NOT_ENOUGH_DATA,
    close_now,
    pack,
    reply_reader,
    streams_of,
    unsent_bytes,
)
from sansio_cache_redis.replies import ERRORS, LONGEST_CALL_S, as_failure, fresh, tell_time
from sansio_cache_redis.wire import TIME, Args

_SWEEP_S = 0.02
_MOST_LATE_LOOKS = 3
_SILENCE_S = 0.1
"""A call may be in a greater hurry than that; for a connection to be given up it must have been as silent."""
_READ_BYTES = 65536
_BULK_BYTES = 131072
"""A connection with more than this of one reply, or unsent, is passed over for another."""


@attrs.define(eq=False)
class _Call:
    """A batch on its way: how many replies it wants, and those that have come."""

    wanted: int
    timeout_s: float
    sent_s: float
    future: asyncio.Future[list[Any]]
    replies: list[Any] = attrs.field(factory=list)


class _Link:
    """One open connection and what is pending on it."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._pending: deque[_Call] = deque()
        self._outbox: list[bytes] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._last_read_s = loop.time()
        self._wakes = asyncio.Event()
        self._unfinished_bytes = 0
        self._late_looks = 0
        self.failure: BaseException | None = None
        streams = streams_of(connection)
        if streams is None:
            self._tasks = [loop.create_task(self._read_slowly())]
            self._write: Callable[[], Any] = lambda: self._wakes.set()
            self._tasks.append(loop.create_task(self._write_slowly()))
        else:
            self._reader, self._writer = streams
            self._tasks = [loop.create_task(self._read())]
            self._write = self._flush

    def is_bulky(self) -> bool:
        """Whether something large is on its way, that others would have to wait for."""
        return max(self._unfinished_bytes, unsent_bytes(self._connection)) > _BULK_BYTES

    def call(self, commands: Sequence[Args], timeout_s: float) -> asyncio.Future[list[Any]]:
        """Send commands with everything else of this turn; the future gets their replies."""
        if self.failure is not None:
            raise fresh(self.failure)
        now_s = self._loop.time()
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not self._outbox:
            self._loop.call_soon(self._write)
        self._outbox.append(pack(commands))
        self._pending.append(_Call(len(commands), timeout_s, now_s, future))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep, now_s + _SWEEP_S)
        return future

    def close(self, failure: BaseException) -> None:
        """Give the connection up. What is pending fails."""
        if self.failure is not None:
            return
        self.failure = failure
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        close_now(self._connection)
        for call in self._pending:
            if not call.future.done():
                call.future.set_exception(fresh(failure))
        self._pending.clear()

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self.failure is None:
            self._writer.write(b"".join(outbox) if len(outbox) > 1 else outbox[0])

    async def _read(self) -> None:
        parser = reply_reader(self._connection)
        try:
            while data := await self._reader.read(_READ_BYTES):
                self._last_read_s = self._loop.time()
                self._unfinished_bytes += len(data)
                parser.feed(data)
                while (reply := parser.gets()) is not NOT_ENOUGH_DATA:
                    self._unfinished_bytes = 0
                    self._deliver(reply)
            self.close(RedisConnectionError("the server closed the connection"))
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        except asyncio.CancelledError:
            self.close(RedisConnectionError("the connection was closed"))
            raise

    def _deliver(self, reply: Any) -> None:
        if not self._pending:
            raise RedisConnectionError("a reply came that nobody has asked for")
        call = self._pending[0]
        call.replies.append(reply)
        if len(call.replies) == call.wanted:
            self._pending.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    def _sweep(self, due_s: float) -> None:
        """Fail the calls whose time is over."""
        now_s = self._loop.time()
        self._sweeper = None
        if not self._pending:
            return
        # Where the loop was blocked replies may lie there unread: look again, but not for ever.
        is_late = now_s - due_s >= _SWEEP_S
        self._late_looks = self._late_looks + 1 if is_late and self._late_looks < _MOST_LATE_LOOKS else 0
        if not self._late_looks:
            for call in self._pending:
                waited_s = now_s - max(call.sent_s, self._last_read_s)
                if waited_s < call.timeout_s and now_s - call.sent_s < LONGEST_CALL_S:
                    continue
                if not call.future.done():
                    call.future.set_exception(RedisTimeoutError("no reply in time"))
                if self._last_read_s < call.sent_s and waited_s >= _SILENCE_S:
                    self.close(RedisTimeoutError("the server does not answer"))
                    return
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep, now_s + _SWEEP_S)

    # Where redis-py's streams are not to be had: its public methods, at several times the price.

    async def _write_slowly(self) -> None:
        try:
            while True:
                await self._wakes.wait()
                self._wakes.clear()
                outbox, self._outbox = self._outbox, []
                await self._connection.send_packed_command(outbox, check_health=False)
        except ERRORS as error:
            self.close(error)

    async def _read_slowly(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                self._last_read_s = self._loop.time()
                self._deliver(reply)
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        except asyncio.CancelledError:
            self.close(RedisConnectionError("the connection was closed"))
            raise


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception, so that asyncio does not complain where everybody has given up."""
    if not task.cancelled():
        task.exception()


class AsyncioChannel:
    """Runs batches of Redis commands for any number of tasks of one event loop.

    Args:
        make_connection: Makes an asyncio connection of redis-py that is not open yet.
        max_connections: How many may be open at once.
        opening_timeout_s: How long a connection may take to open in the background.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        opening_timeout_s: float,
        on_time: Callable[[int], object],
    ) -> None:
        self._make_connection = make_connection
        self._max_connections = max_connections
        self._opening_timeout_s = opening_timeout_s
        self._on_time = on_time
        self._loop = asyncio.get_running_loop()
        self._links: list[_Link] = []
        self._is_closed = False
        self._opening: asyncio.Task[_Link] | None = None

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        if self._is_closed:
            raise RedisConnectionError("the cache was closed")
        link = self._choose()
        if link is None:
            started_s = self._loop.time()
            link = await self._opened(timeout_s)
            timeout_s -= self._loop.time() - started_s
        return await link.call(commands, timeout_s)

    def reset(self) -> None:
        """Close the connection; the next call opens another."""
        links, self._links = self._links, []
        for link in links:
            link.close(RedisConnectionError("the connection was closed"))

    async def aclose(self) -> None:
        """Close the connection, for good, and wait until it is."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            self._opening = None
        self.reset()
        for _ in range(3):  # the transport closes its socket in the next turn, TLS in the one after
            await asyncio.sleep(0)

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return sum(link.failure is None for link in self._links) + (self._opening is not None)

    def _choose(self) -> _Link | None:
        """The first connection that is not in the middle of something large; None to open another."""
        for link in self._links:
            if link.failure is None and not link.is_bulky():
                return link
        self._links = [link for link in self._links if link.failure is None]
        if len(self._links) < self._max_connections:
            return None
        return self._links[-1]

    async def _opened(self, timeout_s: float) -> _Link:
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())
            self._opening.add_done_callback(_look_at)
        # Not cancelled with the caller: it goes on being opened, for the next one.
        done, _ = await asyncio.wait([self._opening], timeout=max(timeout_s, 0))
        if not done:
            raise RedisTimeoutError("no connection in time")
        [opening] = done
        if opening.cancelled():
            raise RedisConnectionError("the cache was closed")
        failure = opening.exception()
        if failure is not None:
            raise fresh(failure)
        return opening.result()

    async def _open(self) -> _Link:
        try:
            connection = self._make_connection()
            async with asyncio.timeout(self._opening_timeout_s):
                try:
                    await connection.connect()
                    await connection.send_command(*TIME, check_health=False)
                    try:
                        reply = await connection.read_response(disable_decoding=True)
                    except NoPermissionError as error:
                        reply = error
                except BaseException:
                    close_now(connection)
                    raise
            tell_time(reply, self._on_time)
            link = _Link(connection, self._loop)
            self._links.append(link)
            return link
        finally:
            self._opening = None


class AsyncioClientChannel:
    """Runs batches through the pipelines of a `redis.asyncio` client that the user owns.

    Each batch is a task of its own that is never cancelled: redis-py may swallow a cancellation, or close
    a connection on it. A caller that gives up leaves it to end by itself.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._resetting: asyncio.Task[list[Any]] | None = None

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values."""
        task = asyncio.get_running_loop().create_task(self._run(commands))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            raise RedisTimeoutError("no reply in time")
        return task.result()

    def _forget(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        _look_at(task)

    async def _run(self, commands: Sequence[Args]) -> list[Any]:
        if self._resetting is not None:  # the pool would hand out a connection that is being closed
            await asyncio.wait([self._resetting])
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

    def reset(self) -> None:
        """Close the client's idle connections; it opens new ones by itself."""
        self._resetting = asyncio.get_running_loop().create_task(self._disconnect())
        self._tasks.add(self._resetting)
        self._resetting.add_done_callback(self._forget)

    async def _disconnect(self) -> list[Any]:
        await self._client.connection_pool.disconnect(inuse_connections=False)
        return []

    async def aclose(self) -> None:
        """Wait for the batches that were given up on; leave the client to its owner."""
        if self._tasks:
            await asyncio.wait(self._tasks)
