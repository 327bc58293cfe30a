"""Connections for asyncio, on each of which any number of callers' commands are multiplexed.

redis-py opens a connection, authenticates and shakes hands; then its transport gets a protocol of ours,
which parses replies as they come in and resolves the callers' futures: between the socket and the caller
there is no task and no stream. What calls, replies and deadlines have to do with each other stands in
`multiplexed.py`. A cancelled caller costs nothing but its unread reply, and no cancellation is swallowed (on
Python 3.11, redis-py loses one in ten inside its time-outs).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.connections.multiplexed import (
    BULK_BYTES,
    SWEEP_S,
    MultiplexedConnection,
    MultiplexedConnections,
)
from sansio_cache_redis.connections.redispy import close_now, has_unread, reply_reader, transport_of
from sansio_cache_redis.errors import ERRORS, OwnResetError, as_failure, as_opening_failure, fresh


class _AsyncioConnection(MultiplexedConnection):
    """One open connection of redis-py."""

    def __init__(
        self, redispy: Any, loop: asyncio.AbstractEventLoop, write: Callable[[bytes], object]
    ) -> None:
        super().__init__(reply_reader(redispy), write, partial(asyncio.Future, loop=loop))
        self._redispy = redispy
        self._loop = loop
        self._sweeper: asyncio.TimerHandle | None = None

    def _sweep_soon(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep, monotonic() + SWEEP_S)

    def _sweep(self, due_s: float) -> None:
        if self._look(due_s):
            self._sweep_soon()

    def _disconnect(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._loop.is_closed():  # nobody can be told any more
            self._pending.clear()
        close_now(self._redispy)


class _TransportConnection(_AsyncioConnection, asyncio.Protocol):
    """On its transport."""

    def __init__(self, redispy: Any, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        super().__init__(redispy, loop, transport.write)
        transport.set_write_buffer_limits(high=BULK_BYTES)
        transport.set_protocol(self)

    def _flush_soon(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._outbox and self.failure is None:
            self._write(self._outgoing())

    # What the transport calls, beside `data_received`.

    def eof_received(self) -> None:
        """The peer has closed."""
        self.close(RedisConnectionError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport has closed."""
        self.close(RedisConnectionError("the connection was lost") if exc is None else as_failure(exc))

    def pause_writing(self) -> None:
        """The peer does not read as fast as is written."""
        self._get_stuck(True)

    def resume_writing(self) -> None:
        """It does again."""
        self._get_stuck(False)


class _PublicConnection(_AsyncioConnection):
    """Where its transport is not to be had: redis-py's public methods, at several times the price."""

    def __init__(self, redispy: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(redispy, loop, self._write_later)
        self._has_outgoing = asyncio.Event()
        self._tasks = [loop.create_task(self._read_all()), loop.create_task(self._write_all())]

    def _write_later(self, data: bytes) -> None:
        self._outbox.append(data)
        self._flush_soon()

    def _flush_soon(self) -> None:
        self._has_outgoing.set()

    def _disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        super()._disconnect()

    async def _write_all(self) -> None:
        try:
            while True:
                await self._has_outgoing.wait()
                self._has_outgoing.clear()
                await self._redispy.send_packed_command([self._outgoing()], check_health=False)
        except ERRORS as error:
            self.close(error)

    async def _read_all(self) -> None:
        try:
            while True:
                try:
                    reply = await self._redispy.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                self._last_read_s = monotonic()
                self._deliver([reply])
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        except asyncio.CancelledError:
            self.close(RedisConnectionError("the connection was closed"))
            raise


def _connection_on(redispy: Any, loop: asyncio.AbstractEventLoop) -> _AsyncioConnection:
    """Take a connection over that redis-py has opened."""
    if has_unread(redispy):
        raise RedisConnectionError("a reply came that nobody has asked for")
    transport = transport_of(redispy)
    return (
        _PublicConnection(redispy, loop)
        if transport is None
        else _TransportConnection(redispy, loop, transport)
    )


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception, so that asyncio does not complain where everybody has given up."""
    if not task.cancelled():
        task.exception()


class AsyncioConnections(MultiplexedConnections[_AsyncioConnection]):
    """The open connections to one server, for any number of tasks of one event loop.

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
        super().__init__(
            make_connection,
            max_connections=max_connections,
            opening_timeout_s=opening_timeout_s,
            on_time=on_time,
        )
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[_AsyncioConnection] | None = None
        self._connecting: Any = None

    @property
    def count(self) -> int:
        """How many connections are open or being opened."""
        return len(list(self)) + (self._opening is not None)

    async def aclose(self) -> None:
        """Close the connections, for good, and wait until they are."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            if self._connecting is not None:
                close_now(self._connecting)  # on Python 3.11 redis-py may lose the cancellation
            await asyncio.wait([self._opening])
            self._opening = None  # it may have been cancelled before it began
        self.reset()
        for _ in range(3):  # the transport closes its socket in the next turn, TLS in the one after
            await asyncio.sleep(0)

    async def _opened(self, timeout_s: float) -> _AsyncioConnection:
        if self._is_closed:
            raise OwnResetError("the cache was closed")
        if self._opening is None or self._opening.done():  # done where it was cancelled before it began
            self._opening = self._loop.create_task(self._open_one())
            self._opening.add_done_callback(_look_at)
        # Not cancelled with the caller: it goes on being opened, for the next one.
        done, _ = await asyncio.wait([self._opening], timeout=max(timeout_s, 0))
        if not done:
            raise RedisTimeoutError("no connection in time")
        [opening] = done
        if opening.cancelled() or self._is_closed:
            raise OwnResetError("the cache was closed")
        failure = opening.exception()
        if failure is not None:
            raise fresh(as_opening_failure(failure))
        return opening.result()

    async def _open_one(self) -> _AsyncioConnection:
        connection: _AsyncioConnection | None = None
        try:
            redispy = self._connecting = self._make_connection()
            async with asyncio.timeout(self._opening_timeout_s):
                await redispy.connect()
                connection = _connection_on(redispy, self._loop)
                await self._admit(connection)
        except BaseException:
            if connection is not None:
                connection.close(RedisConnectionError("the connection was closed"))
            elif self._connecting is not None:
                close_now(self._connecting)
            raise
        else:
            return connection
        finally:
            self._opening = self._connecting = None
