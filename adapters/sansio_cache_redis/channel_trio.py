"""The channel for trio: one blocking connection on a thread of its own, driven in batches.

redis-py's asyncio client cannot run under trio. The thread takes everything that callers have queued since
its last batch, sends it in one go, reads the replies and hands them all back in one call into the loop. The
thread owns the connection, so a cancelled caller costs nothing but its unread reply.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.channel_threads import ClientChannel, exchange
from sansio_cache_redis.replies import ERRORS, fresh, server_us
from sansio_cache_redis.wire import TIME, Args

_MOST_COMMANDS = 1000
"""How many commands go into one batch, so that one caller's replies do not wait for everybody's."""


@attrs.define(eq=False)
class _Call:
    """A batch on its way. Written by the thread before it is delivered, read in the loop after that."""

    commands: Sequence[Args]
    deadline_s: float
    done: trio.Event = attrs.field(factory=trio.Event)
    replies: list[Any] | None = None
    failure: Exception | None = None


class TrioChannel:
    """Runs batches of Redis commands for any number of tasks of one trio run.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        on_time: Callable[[int], object],
    ) -> None:
        self._make_connection = make_connection
        self._on_time = on_time
        self._token = trio.lowlevel.current_trio_token()
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Call] = deque()
        self._is_closed = False
        self._is_to_reset = False
        self._ended = trio.Event()
        self._connection: Any | None = None
        self._thread = threading.Thread(target=self._run, name="sansio-cache-trio", daemon=True)
        self._thread.start()
        # The thread must not outlive the run, whether or not the cache is closed.
        self._watch = trio.lowlevel.spawn_system_task(self._stop_with_the_run)

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        call = _Call(commands, time.monotonic() + timeout_s)
        with self._changed:
            self._queue.append(call)
            self._changed.notify()
        with trio.move_on_after(timeout_s):
            await call.done.wait()
        if call.failure is not None:
            raise call.failure
        if call.replies is None:
            raise RedisTimeoutError("no reply in time")
        return call.replies

    def reset(self) -> None:
        """Close the connection before the next batch; another is opened for it."""
        with self._changed:
            self._is_to_reset = True

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        self._stop()
        await self._ended.wait()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return int(self._connection is not None)

    async def _stop_with_the_run(self) -> None:
        try:
            await self._ended.wait()
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    # On the thread.

    def _run(self) -> None:
        try:
            while calls := self._next():
                self._do(calls)
                self._token.run_sync_soon(_deliver, calls)
            self._token.run_sync_soon(self._ended.set)
        except trio.RunFinishedError:
            pass  # nobody is left to be told
        finally:
            self._disconnect()

    def _next(self) -> list[_Call]:
        """The calls of the next batch; none when it is time to end."""
        with self._changed:
            while not self._queue and not self._is_closed:
                self._changed.wait()
            calls: list[_Call] = []
            size = 0
            while self._queue and not self._is_closed and size < _MOST_COMMANDS:
                calls.append(self._queue.popleft())
                size += len(calls[-1].commands)
            is_to_reset, self._is_to_reset = self._is_to_reset, False
        if is_to_reset:
            self._disconnect()
        return calls

    def _do(self, calls: list[_Call]) -> None:
        now_s = time.monotonic()
        # A call whose caller has given up is not sent.
        live = [call for call in calls if call.deadline_s > now_s]
        try:
            connection = self._connection or self._connect()
            commands = [command for call in live for command in call.commands]
            deadline_s = max((call.deadline_s for call in live), default=0.0)
            replies = iter(exchange(connection, commands, deadline_s))
            for call in live:
                call.replies = [next(replies) for _ in call.commands]
        except Exception as error:  # noqa: BLE001 - handed to the callers, who wait for an answer
            self._disconnect()
            for call in live:
                call.failure = fresh(error) if isinstance(error, ERRORS) else error

    def _connect(self) -> Any:
        connection = self._make_connection()
        try:
            connection.connect()
            [reply] = exchange(connection, [TIME], time.monotonic() + connection.socket_timeout)
            self._on_time(server_us(reply))
        except BaseException:
            connection.disconnect()
            raise
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def _deliver(calls: list[_Call]) -> None:
    for call in calls:
        call.done.set()


class TrioClientChannel:
    """Runs batches through the pipelines of a blocking client that the user owns, on worker threads."""

    def __init__(self, client: Any) -> None:
        self._channel = ClientChannel(client)

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values."""
        with trio.move_on_after(timeout_s):
            run = self._channel.execute
            # Given up on, the thread still reads its replies, so the connection stays in step.
            return await trio.to_thread.run_sync(run, commands, timeout_s, abandon_on_cancel=True)
        raise RedisTimeoutError("no reply in time")

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._channel.reset()

    async def aclose(self) -> None:
        """Leave the client to its owner."""
        await trio.lowlevel.checkpoint()
