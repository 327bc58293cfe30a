"""Connections for asyncio, on each of which any number of callers' commands are multiplexed.

redis-py opens a connection, authenticates and shakes hands; then its transport gets a protocol of ours,
which parses replies as they come in and resolves the callers' futures: between the socket and the caller
there is no task and no stream. What calls, replies and deadlines have to do with each other stands in
`multiplexed.py`. A cancelled caller costs nothing but its unread reply, and no cancellation is swallowed (on
Python 3.11, redis-py loses one in ten inside its time-outs).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.connections.multiplexed import Gathering, MultiplexedConnection
from sansio_cache_redis.connections.pace import SWEEP_S, Pace
from sansio_cache_redis.connections.pool import MultiplexedConnections, Timing
from sansio_cache_redis.connections.redispy import (
    close_now,
    has_unread,
    reply_reader,
    transport_of,
    unread_bytes,
    unsent_bytes,
)
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import ERRORS, OwnResetError, as_failure, as_opening_failure, fresh


class _AsyncioConnection(MultiplexedConnection):
    """One open connection of redis-py."""

    def __init__(
        self,
        redispy: Any,
        loop: asyncio.AbstractEventLoop,
        write: Callable[[bytes], object],
        pace: Pace,
        longest_bytes: int,
    ) -> None:
        super().__init__(
            reply_reader(redispy), write, partial(asyncio.Future, loop=loop), pace, longest_bytes
        )
        self._redispy = redispy
        self._loop = loop
        self._sweeper: asyncio.TimerHandle | None = None

    def _sweep_soon(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        if self._look():
            self._sweep_soon()

    def _disconnect(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._loop.is_closed():  # nobody can be told any more
            self._pending.clear()
        close_now(self._redispy)


class _TransportConnection(_AsyncioConnection, asyncio.Protocol):
    """On its transport."""

    def __init__(
        self,
        redispy: Any,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        pace: Pace,
        longest_bytes: int,
    ) -> None:
        super().__init__(redispy, loop, transport.write, pace, longest_bytes)
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        transport.set_write_buffer_limits(high=BULK_BYTES)
        transport.set_protocol(self)

    def _flush_soon(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._outbox and self.failure is None:
            self._write(self._outgoing())

    def _unread_bytes(self) -> int:
        return unread_bytes(self._socket)

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() + unsent_bytes(self._socket)

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

    def __init__(self, redispy: Any, loop: asyncio.AbstractEventLoop, pace: Pace, longest_bytes: int) -> None:
        super().__init__(redispy, loop, self._write_later, pace, longest_bytes)
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
                self._last_read_s = monotonic() - self._behind_s
                self._answered += 1
                self._deliver([reply])
                if not self.is_free:
                    self._weigh()
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        except asyncio.CancelledError:
            self.close(RedisConnectionError("the connection was closed"))
            raise


def _connection_on(
    redispy: Any, loop: asyncio.AbstractEventLoop, pace: Pace, longest_bytes: int
) -> _AsyncioConnection:
    """Take a connection over that redis-py has opened."""
    if has_unread(redispy):
        raise RedisConnectionError("a reply came that nobody has asked for")
    transport = transport_of(redispy)
    return (
        _PublicConnection(redispy, loop, pace, longest_bytes)
        if transport is None
        else _TransportConnection(redispy, loop, transport, pace, longest_bytes)
    )


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception, so that asyncio does not complain where everybody has given up."""
    if not task.cancelled():
        task.exception()


class _Opening:
    """A connection that is being opened, for all who wait for one."""

    def __init__(self, started_s: float, generation: int) -> None:
        self.started_s = started_s
        self.generation = generation
        """Of the server that it leads to: that of before is not used."""
        self.task: asyncio.Task[_AsyncioConnection]
        self.redispy: Any = None


class AsyncioConnections(MultiplexedConnections[_AsyncioConnection]):
    """The open connections to one server, for any number of tasks of one event loop.

    Args:
        make_connection: Makes an asyncio connection of redis-py that is not open yet.
        max_connections: How many may be open at once.
        timing: How long they may take.
        on_greeted: Told the replies to the `GREETING` when a connection opens. It raises where that is not
            to be used.
        longest_value_bytes: A reply that announces a longer value is not read on.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        timing: Timing,
        on_greeted: Callable[[Sequence[Any]], object],
        longest_value_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            make_connection,
            max_connections=max_connections,
            timing=timing,
            on_greeted=on_greeted,
            longest_value_bytes=longest_value_bytes,
        )
        self._loop = asyncio.get_running_loop()
        self._openings: list[_Opening] = []
        self._jobs: set[asyncio.Task[object]] = set()

    @property
    def count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._all()) + len(self._openings) + self._confirming_count

    async def aclose(self) -> None:
        """Close the connections, for good, and wait until they are."""
        self._is_closed = True
        self._close()  # what is being opened may take longer than the loop is there
        openings = list(self._openings)
        for opening in openings:
            opening.task.cancel()
            if opening.redispy is not None:
                close_now(opening.redispy)  # on Python 3.11 redis-py may lose the cancellation
        if openings:
            await asyncio.wait([each.task for each in openings])
        self._openings.clear()  # one may have been cancelled before it began
        self._close()
        for _ in range(3):  # the transport closes its socket in the next turn, TLS in the one after
            await asyncio.sleep(0)

    async def wait_for(self, gathering: Gathering) -> list[Any]:
        """Wait for what was asked for; the answers, in their places."""
        if gathering.left:
            gathering.caller = self._loop.create_future()
            await gathering.caller
        return gathering.answers

    def _start(self, job: Coroutine[Any, Any, object]) -> None:
        if self._loop.is_closed():  # nobody can be told any more
            job.close()
            return
        task = self._loop.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _open_soon(self) -> None:
        if not self._is_closed:
            self._opening()

    def _opening(self) -> _Opening:
        """The connection that is being opened; another one beside it, where it takes too long."""
        # One that was cancelled before it began is done, and nobody has taken it away.
        self._openings = [each for each in self._openings if not each.task.done()]
        openings = [each for each in self._openings if each.generation == self._generation]
        if openings and self._is_worth_waiting_for(openings[-1].started_s, len(openings)):
            return openings[-1]
        opening = _Opening(monotonic(), self._generation)
        # Not in the context of who asks first: its reader would keep that for as long as it is open.
        opening.task = Context().run(self._loop.create_task, self._open_one(opening))
        opening.task.add_done_callback(_look_at)
        self._openings.append(opening)
        return opening

    async def _opened(self, timeout_s: float) -> _AsyncioConnection:
        if self._is_closed:
            raise OwnResetError("the cache was closed")
        # Not cancelled with the caller: it goes on being opened, for the next one.
        until_s = monotonic() + timeout_s
        while True:
            opening = self._opening()
            done, _ = await asyncio.wait([opening.task], timeout=max(until_s - monotonic(), 0))
            if not done:
                raise RedisTimeoutError("no connection in time")
            if self._is_closed:
                raise OwnResetError("the cache was closed")
            if opening.generation == self._generation:
                break
        if opening.task.cancelled():
            raise OwnResetError("the cache was closed")
        failure = opening.task.exception()
        if failure is not None:
            raise fresh(as_opening_failure(failure))
        return opening.task.result()

    def _forsake_openings(self) -> None:
        for opening in self._openings:
            opening.task.cancel()

    async def _open_one(self, opening: _Opening) -> _AsyncioConnection:
        connection: _AsyncioConnection | None = None
        try:
            await asyncio.sleep(self._pause_s())
            redispy = opening.redispy = self._make_connection()
            async with asyncio.timeout(self._timing.opening_s):
                await redispy.connect()
                connection = _connection_on(
                    redispy, self._loop, self._timing.pace(), self._longest_value_bytes
                )
                await self._admit(connection, opening.generation)
        except BaseException:
            if opening.generation == self._generation:
                self._lost()
            if connection is not None:
                connection.close(RedisConnectionError("the connection was closed"))
            elif opening.redispy is not None:
                close_now(opening.redispy)
            raise
        else:
            return connection
        finally:
            self._openings = [each for each in self._openings if each is not opening]
