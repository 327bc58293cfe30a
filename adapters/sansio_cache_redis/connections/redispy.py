"""What is needed of redis-py below its public methods; here and nowhere else.

A connection that redis-py has opened, authenticated and shaken hands on is driven through its transport or
socket, with a reply parser of its own, at a fraction of the price. A test holds this module to the installed
version. Where an attribute is gone, redis-py's public methods are used, at theirs.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import sys
import time
from asyncio import StreamReader, StreamWriter, Transport
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.errors import ERRORS

LONGEST_CALL_S: Final = 5.0
"""How long a call may wait in all, in seconds, as long as replies to others keep coming in."""

NOT_ENOUGH_DATA: Final = object()
_READ_BYTES: Final = 32768
"""As much as the parser is given at a time: for every reply it moves the whole rest of its buffer."""
_TIMEVAL: Final = struct.Struct("@ll")
_HAS_TIMEVAL: Final = sys.platform != "win32"
_PROCESSORS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_SPIN_S: Final = 0.00005
"""About what it takes to sleep and to wake up."""
_FIRST_SPIN_S: Final = 0.0002
"""After a sleep: the server may have slept as well, and has to wake up."""
_MOST_SLEEPS: Final = 1024


def transport_of(connection: Any) -> Transport | None:
    """The transport of an open asyncio connection."""
    has_reader = isinstance(getattr(connection, "_reader", None), StreamReader)
    writer = getattr(connection, "_writer", None)
    if not (has_reader and isinstance(writer, StreamWriter)):
        return None
    return cast("Transport", writer.transport)  # it reads as well


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of an open blocking connection."""
    sock = getattr(connection, "_sock", None)
    return sock if isinstance(sock, socket.socket) else None


def reply_reader(connection: Any) -> hiredis.Reader:
    """A parser of replies that makes the errors that redis-py makes, as values."""
    parse_error = getattr(getattr(connection, "_parser", None), "parse_error", ResponseError)
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=parse_error, notEnoughData=NOT_ENOUGH_DATA
    )


def has_unread(connection: Any) -> bool:
    """Whether redis-py has read more than it has asked for, which nobody else would see."""
    stream = getattr(connection, "_reader", None)
    parser = getattr(getattr(connection, "_parser", None), "_reader", None)
    return bool(getattr(stream, "_buffer", b"")) or (isinstance(parser, hiredis.Reader) and parser.has_data())


def close_now(connection: Any) -> None:
    """Close an asyncio connection without waiting for the peer, as its public `disconnect` would."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        try:
            writer.transport.abort()
        except RuntimeError:  # its loop was closed before it
            _close_without_loop(writer.transport)
    # redis-py complains of connections that it still thinks are open when they are collected.
    connection._reader = None  # noqa: SLF001
    connection._writer = None  # noqa: SLF001


def _close_without_loop(transport: Any) -> None:
    beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    sock = getattr(beneath, "_sock", None)
    if isinstance(sock, socket.socket):
        sock.close()
        beneath._sock = None  # noqa: SLF001 - or it complains that it is open when it is collected


pack_one: Any = hiredis.pack_command  # its types know one argument only
"""A command as it goes over the wire. Called by itself where there is one only, as mostly there is."""


def pack(commands: Sequence[Sequence[Any]]) -> bytes:
    """Commands as they go over the wire, in one piece."""
    return b"".join([pack_one(command) for command in commands])


class Wire(Protocol):
    """An open blocking connection. One thread at a time."""

    def exchange(
        self, commands: Sequence[Sequence[Any]], timeout_s: float, *, may_spin: bool = False
    ) -> list[Any]:
        """Send commands together and read their replies, error replies as values.

        `timeout_s` is how long nothing may come in; as long as replies do, the time begins anew. `may_spin`
        says that nobody else waits for this connection.

        Raises:
            RedisError, OSError: The fate of the commands is unknown; the wire must be closed.
        """
        ...

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def blocking_wire(connection: Any) -> Wire:
    """The wire of an open blocking connection of redis-py."""
    sock = socket_of(connection)
    return _PublicWire(connection) if sock is None else _SocketWire(connection, sock)


def exchange_publicly(
    connection: Any, packed: Sequence[bytes], count: int, timeout_s: float
) -> Iterator[Any]:
    """Send what is packed and read that many replies, through redis-py's public methods."""
    connection.send_packed_command(packed, check_health=False)
    for _ in range(count):
        try:
            yield connection.read_response(disable_decoding=True, timeout=timeout_s)
        except ResponseError as error:
            yield error


class _PublicWire:
    """Through redis-py's public methods."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def exchange(
        self,
        commands: Sequence[Sequence[Any]],
        timeout_s: float,
        *,
        may_spin: bool = False,  # noqa: ARG002
    ) -> list[Any]:
        """Send commands together and read their replies, error replies as values."""
        return list(exchange_publicly(self._connection, [pack(commands)], len(commands), timeout_s))

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

    Where the kernel can keep the time (`SO_RCVTIMEO`), it does: Python would ask it before every call whether
    the call would have to wait, which doubles the number of system calls. Not with TLS, whose calls Python
    repeats for as long as they would. And not while a timer of the process ticks: a signal interrupts the
    call, Python begins it anew (PEP 475), and the kernel its time with it.

    Where nobody else waits for it, a call spins first, for about as long as it takes to sleep and to wake up
    again: a server on this machine answers sooner (Karlin et al., 1991, "Empirical studies of competitive
    spinning for a shared-memory multiprocessor"). Each time that was in vain, twice as many calls sleep at
    once, so that it costs next to nothing where the server is further away, or other threads keep the
    interpreter.
    """

    def __init__(self, connection: Any, sock: socket.socket) -> None:
        super().__init__(connection)
        self._sock = sock
        self._parser: Any = reply_reader(connection)  # its types know no bytearray
        self._buffer = bytearray(_READ_BYTES)
        self._may_use_kernel = _HAS_TIMEVAL and not isinstance(sock, ssl.SSLSocket)
        self._timing = (0.0, False)
        """How long a call may take, in seconds, and whether the kernel keeps the time."""
        self._sleeps = 0
        """How many calls are not to spin, as the last that did has done so in vain."""
        self._sleeps_next = 1
        self._has_slept = True

    def exchange(
        self, commands: Sequence[Sequence[Any]], timeout_s: float, *, may_spin: bool = False
    ) -> list[Any]:
        """Send commands together and read their replies, error replies as values."""
        sock, parser = self._sock, self._parser
        replies: list[Any] = []
        try:
            is_by_kernel = self._may_use_kernel and not signal.getitimer(signal.ITIMER_REAL)[0]
            if (timeout_s, is_by_kernel) != self._timing:
                self._set_timing(timeout_s, is_by_kernel)
            sock.sendall(pack_one(commands[0]) if len(commands) == 1 else pack(commands))
            last_s = 0.0
            count = self._spin() if may_spin and is_by_kernel and _PROCESSORS > 1 else None
            while True:
                if count is None:
                    count = sock.recv_into(self._buffer)
                    self._has_slept = True
                if not count:
                    raise RedisConnectionError("the server closed the connection")
                now_s = time.monotonic()
                parser.feed(self._buffer, 0, count)
                while (reply := parser.gets()) is not NOT_ENOUGH_DATA:
                    replies.append(reply)
                if len(replies) >= len(commands):
                    break
                last_s = last_s or now_s + LONGEST_CALL_S
                if now_s > last_s:
                    raise RedisTimeoutError("the replies take too long")
                count = None
        except (TimeoutError, BlockingIOError) as error:
            let_through(error)
            raise RedisTimeoutError("no reply in time") from None
        if len(replies) > len(commands) or parser.has_data():
            raise RedisConnectionError("a reply came that nobody has asked for")
        return replies

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        if not self._may_use_kernel:  # there is no looking into TLS without reading
            self._timing = (0.0, False)  # redis-py sets it
            return super().is_sound()
        try:
            self._sock.setblocking(False)
            self._timing = (0.0, False)
            self._sock.recv(1, socket.MSG_PEEK)
        except OSError as error:
            let_through(error)
            return isinstance(error, BlockingIOError)
        return False

    def _spin(self) -> int | None:
        """Read without sleeping; None where that was in vain."""
        if self._sleeps:
            self._sleeps -= 1
            return None
        until_s = time.monotonic() + (_FIRST_SPIN_S if self._has_slept else _SPIN_S)
        while True:
            try:
                count = self._sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
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

    def _set_timing(self, timeout_s: float, is_by_kernel: bool) -> None:
        longest_s = max(timeout_s, 0.001)
        if is_by_kernel:
            seconds = int(longest_s)
            timeval = _TIMEVAL.pack(seconds, int((longest_s - seconds) * 1e6))
            self._sock.setblocking(True)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            self._sock.settimeout(longest_s)
        self._timing = (timeout_s, is_by_kernel)
