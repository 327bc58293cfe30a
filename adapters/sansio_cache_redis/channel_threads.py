"""The channel for threads: batches of commands over a few blocking connections.

A caller takes an idle connection, sends its batch, reads the replies and gives the connection back. It
never opens one: a thread in the background does, so that a caller waits for it no longer than for anything
else, and a slow handshake is not begun anew for every call. More callers than connections queue inside
their own deadline.

After any failure in the middle of a batch, whatever its kind, the connection is closed: replies never get
out of step (S9).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.replies import fresh, server_us
from sansio_cache_redis.wire import TIME, Args


class ThreadsChannel:
    """Runs batches of Redis commands for any number of threads.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        max_connections: How many may be open, or being opened, at once.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        on_time: Callable[[int], object],
    ) -> None:
        self._make_connection = make_connection
        self._max_connections = max_connections
        self._on_time = on_time
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[Any] = []
        self._in_use: set[Any] = set()
        self._opening = 0
        self._waiting = 0
        self._failures = 0
        self._failure: Exception | None = None
        self._generation = 0

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        deadline_s = time.monotonic() + timeout_s
        connection, generation = self._take(deadline_s)
        is_sound = False
        try:
            replies = exchange(connection, commands, deadline_s)
            is_sound = True
            return replies
        finally:
            self._give_back(connection, generation, is_sound=is_sound)

    def reset(self) -> None:
        """Close every connection: idle ones now, others when they are given back."""
        with self._changed:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    close = reset

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        with self._changed:
            return len(self._idle) + len(self._in_use) + self._opening

    def _take(self, deadline_s: float) -> tuple[Any, int]:
        with self._changed:
            seen_failures = self._failures
            self._waiting += 1
            try:
                while not self._idle:
                    if self._failures > seen_failures and self._failure is not None:
                        raise fresh(self._failure)
                    # Not before the failure of the one that is being opened is known to all.
                    room = len(self._in_use) + self._opening < self._max_connections
                    if room and self._opening < self._waiting:
                        self._opening += 1
                        self._start_opening(self._generation)
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        if self._idle:
                            break
                        raise RedisTimeoutError("no connection in time")
            finally:
                self._waiting -= 1
            connection = self._idle.pop()
            self._in_use.add(connection)
            return connection, self._generation

    def _give_back(self, connection: Any, generation: int, *, is_sound: bool) -> None:
        with self._changed:
            self._in_use.discard(connection)
            if is_sound and generation == self._generation:
                self._idle.append(connection)
                connection = None
            self._changed.notify()
        if connection is not None:
            connection.disconnect()

    def _start_opening(self, generation: int) -> None:
        name = "sansio-cache-connecting"
        threading.Thread(target=self._open, args=(generation,), name=name, daemon=True).start()

    def _open(self, generation: int) -> None:
        failure: Exception | None = None
        connection = self._make_connection()
        try:
            connection.connect()
            [reply] = exchange(connection, [TIME], time.monotonic() + connection.socket_timeout)
            self._on_time(server_us(reply))
        except Exception as error:  # noqa: BLE001 - handed to the callers who wait
            failure = error
            connection.disconnect()
        with self._changed:
            self._opening -= 1
            if failure is not None:
                self._failures += 1
                self._failure = failure
            elif generation == self._generation:
                self._idle.append(connection)
                connection = None
            self._changed.notify_all()
        if connection is not None:
            connection.disconnect()


def exchange(connection: Any, commands: Sequence[Args], deadline_s: float) -> list[Any]:
    """Send a batch and read its replies. Leaves the connection closed where it raises."""
    if not connection.is_connected:
        raise RedisConnectionError("the connection was closed")
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        left_s = max(deadline_s - time.monotonic(), 0.001)
        try:
            reply = connection.read_response(disable_decoding=True, timeout=left_s)
        except ResponseError as error:
            reply = error
        replies.append(reply)
    return replies


class ClientChannel:
    """Runs batches through the pipelines of a blocking client that the user owns.

    Its own time-outs and retries apply, as nobody else can end its calls: it is best made with
    `socket_timeout` and without retries.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:  # noqa: ARG002
        """Send commands together; returns their replies, error replies as values."""
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
            return replies

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._client.connection_pool.disconnect()

    def close(self) -> None:
        """Leave the client to its owner."""
