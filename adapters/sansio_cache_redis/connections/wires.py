"""Wires: open blocking connections, as threads drive them.

A wire is written to and read from by one thread at a time, its driver; the next call may be another's. It
never blocks but in one place, where it waits for the socket, and there until a moment on the monotonic clock:
signals that interrupt the wait do not stretch it, and where sockets were patched for greenlets (gevent,
eventlet) it is their wait, which lets other greenlets run. What could not be written at once goes out while
it waits for replies.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.connections.redispy import NOT_ENOUGH_DATA, reply_reader, socket_of
from sansio_cache_redis.connections.unfinished import UnfinishedReply
from sansio_cache_redis.errors import ERRORS

_READ_BYTES: Final = 32768
"""As much as the parser is given at a time: for every reply it moves the whole rest of its buffer."""
_WRITE_BYTES: Final = 65536
"""What is tried in one call. TLS must be given the same bytes again, so it has to be the same every time."""
_SEND_BUFFER_BYTES: Final = 131072
"""What the system takes before the peer has taken it is no sign that the peer lives: not much of it."""
_PROCESSORS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_SPIN_S: Final = 0.00005
"""About what it takes to sleep and to wake up."""
_FIRST_SPIN_S: Final = 0.0002
"""After a sleep: the server may have slept as well, and has to wake up."""
_MOST_SLEEPS: Final = 1024
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class OverlongReplyError(RedisConnectionError):
    """A reply announces a value that is longer than a value may be: the rest of it is not read."""


class Wire(Protocol):
    """An open blocking connection. One thread at a time."""

    read_s: float
    """When something was last read, on the monotonic clock."""
    written_bytes: int
    """How much the socket has taken so far."""
    unfinished_bytes: int
    """How much has been read of replies that are not whole."""

    @property
    def is_writing(self) -> bool:
        """Whether there is something that the socket has not taken yet."""
        ...

    def write(self, data: bytes) -> None:
        """Send, as much as the socket takes; the rest goes out in `read`. Not while it `is_writing`.

        Raises:
            RedisError, OSError: The fate of the commands is unknown; the wire must be closed.
        """
        ...

    def read(self, until_s: float, *, may_spin: bool = False) -> list[Any]:
        """Wait for replies, error replies as values, until a moment on the monotonic clock.

        It gives back what has come: nothing where the time is up, or where a part of a reply has come, or
        the socket has taken something. `may_spin` says that nobody else waits for this connection.

        Raises:
            OverlongReplyError: The next reply announces too long a value.
            RedisError, OSError: The connection is broken, and must be closed.
        """
        ...

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def blocking_wire(connection: Any, longest_value_bytes: int) -> Wire:
    """The wire of an open blocking connection of redis-py.

    Args:
        connection: It is open, and nothing is due on it.
        longest_value_bytes: A reply that announces a longer value is not read on.
    """
    sock = socket_of(connection)
    return _PublicWire(connection) if sock is None else _SocketWire(connection, sock, longest_value_bytes)


def close_all(wires: Iterable[Wire | None]) -> None:
    """Close wires, where there are any."""
    for wire in wires:
        if wire is not None:
            wire.close()


class _PublicWire:
    """Through redis-py's public methods. It bounds no values."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.read_s = 0.0
        self.written_bytes = 0
        self.unfinished_bytes = 0

    @property
    def is_writing(self) -> bool:
        """Whether there is something that the socket has not taken yet: it waits for that."""
        return False

    def write(self, data: bytes) -> None:
        """Send all of it."""
        self._connection.send_packed_command([data], check_health=False)
        self.written_bytes += len(data)

    def read(self, until_s: float, *, may_spin: bool = False) -> list[Any]:  # noqa: ARG002
        """Wait for a reply, an error reply as a value."""
        try:
            reply = self._connection.read_response(
                disable_decoding=True,
                timeout=max(until_s - time.monotonic(), 0.001),
                disconnect_on_error=False,
            )
        except RedisTimeoutError as error:
            let_through(error)
            return []
        except ResponseError as error:
            reply = error
        self.read_s = time.monotonic()
        return [reply]

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        try:
            return not self._connection.can_read(timeout=0)
        except ERRORS as error:
            let_through(error)
            return False

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


class _SocketWire(_PublicWire):
    """On the socket itself.

    Where nobody else waits for it, a call spins first, for about as long as it takes to sleep and to wake up
    again: a server on this machine answers sooner (Karlin et al., 1991, "Empirical studies of competitive
    spinning for a shared-memory multiprocessor"). Each time that was in vain, twice as many calls sleep at
    once, so that it costs next to nothing where the server is further away, or other threads keep the
    interpreter. Among greenlets nothing spins: the others would stand still.
    """

    def __init__(self, connection: Any, sock: socket.socket, longest_value_bytes: int) -> None:
        super().__init__(connection)
        sock.setblocking(False)
        with suppress(OSError):  # a unix socket may have none
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._sock = sock
        self._wait = _waiter(sock)
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._parser: Any = reply_reader(connection)  # its types know no bytearray
        self._buffer = bytearray(_READ_BYTES)
        self._unfinished = UnfinishedReply(self._parser.len, longest_value_bytes)
        self._is_overlong = False
        self._unsent: memoryview | None = None
        self._may_have_more = False
        """Whether there is something to be read that waiting would not tell."""
        self._can_spin = _PROCESSORS > 1 and not (self._is_tls or is_patched())
        self._sleeps = 0
        """How many calls are not to spin, as the last that did has done so in vain."""
        self._sleeps_next = 1
        self._has_slept = True

    @property
    def is_writing(self) -> bool:
        """Whether there is something that the socket has not taken yet."""
        return self._unsent is not None

    def write(self, data: bytes) -> None:
        """Send, as much as the socket takes; the rest goes out in `read`."""
        if len(data) > _WRITE_BYTES:
            self._unsent = memoryview(data)
            self._write_on()
            return
        try:
            count = self._sock.send(data)
        except _NOT_NOW as error:
            let_through(error)
            count = 0
        self.written_bytes += count
        if count < len(data):
            self._unsent = memoryview(data)[count:]

    def _write_on(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                count = self._sock.send(unsent[:_WRITE_BYTES])
            except _NOT_NOW as error:
                let_through(error)
                break
            self.written_bytes += count
            unsent = unsent[count:]
        self._unsent = unsent or None

    def read(self, until_s: float, *, may_spin: bool = False) -> list[Any]:
        """Wait for replies, error replies as values, until a moment on the monotonic clock."""
        if self._is_overlong:
            raise OverlongReplyError("a reply announces a value that is too long")
        count = self._spin() if may_spin and self._can_spin else None
        if count is None:
            count = self._read_in_sleep(until_s)
            if count is None:
                return []
        if not count:
            raise RedisConnectionError("the server closed the connection")
        self.read_s = time.monotonic()
        self._may_have_more = self._is_tls or count == _READ_BYTES
        parser = self._parser
        parser.feed(self._buffer, 0, count)
        replies: list[Any] = []
        while (reply := parser.gets()) is not NOT_ENOUGH_DATA:
            replies.append(reply)
        if parser.has_data():
            self.unfinished_bytes = count if replies else self.unfinished_bytes + count
            self._is_overlong = self._unfinished.is_too_long(memoryview(self._buffer)[:count])
        elif self.unfinished_bytes:
            self.unfinished_bytes = 0
            self._unfinished.begin()
        return replies

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        try:
            self._sock.recv(1)
        except OSError as error:
            let_through(error)
            return isinstance(error, _NOT_NOW)
        return False

    def _read_in_sleep(self, until_s: float) -> int | None:
        """Read once there is something to be read; None where the time is up, or something was written."""
        is_writing = False
        while True:
            if self._may_have_more:
                self._may_have_more = False
            else:
                self._has_slept = True
                is_writing = self._unsent is not None
                left_s = until_s - time.monotonic()
                if not self._wait(is_writing, left_s if left_s > 0 else 0.0):
                    return None
                if is_writing:
                    self._write_on()
            try:
                return self._sock.recv_into(self._buffer)
            except _NOT_NOW as error:
                let_through(error)
                if self._unsent is not None or is_writing:
                    return None

    def _spin(self) -> int | None:
        """Read without sleeping; None where that was in vain."""
        if self._sleeps:
            self._sleeps -= 1
            return None
        until_s = time.monotonic() + (_FIRST_SPIN_S if self._has_slept else _SPIN_S)
        while True:
            try:
                count = self._sock.recv_into(self._buffer)
            except BlockingIOError as error:
                let_through(error)
                if time.monotonic() < until_s:
                    continue
                self._sleeps = self._sleeps_next
                self._sleeps_next = min(2 * self._sleeps_next, _MOST_SLEEPS)
                return None
            if not self._has_slept:  # it is worth it, and not only at the price of the first
                self._sleeps_next = 1
            self._has_slept = False
            return count


def is_patched() -> bool:
    """Whether waiting for sockets is a matter of greenlets in this process, and not of the kernel's."""
    return getattr(select.select, "__module__", "select") != "select"


def _waiter(sock: socket.socket) -> Callable[[bool, float], object]:
    """A function that waits for a socket, so many seconds: to be readable, or writable as well.

    It is looked up when a connection opens: that is after whatever patches sockets.
    """
    make_poll = getattr(select, "poll", None)  # Windows has none, and eventlet takes it away
    if make_poll is None:
        return lambda is_writing, timeout_s: any(
            select.select([sock], [sock] if is_writing else [], [], timeout_s)
        )
    readable, both = make_poll(), make_poll()
    number = sock.fileno()
    readable.register(number, select.POLLIN)
    both.register(number, select.POLLIN | select.POLLOUT)
    for_reading, for_both = readable.poll, both.poll
    return lambda is_writing, timeout_s: (for_both if is_writing else for_reading)(timeout_s * 1000.0)
