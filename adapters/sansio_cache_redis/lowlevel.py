"""What is needed of redis-py below its public methods; here and nowhere else.

A connection that redis-py has opened, authenticated and shaken hands on is driven through its stream or
socket, with a reply parser of its own: that halves the price of a reply. A test holds this module to the
installed version. Where an attribute is gone, redis-py's public methods are used, at their price.
"""

from __future__ import annotations

import socket
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from typing import Any, Final, Protocol

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.replies import ERRORS, LONGEST_CALL_S

NOT_ENOUGH_DATA: Final = object()
_READ_BYTES: Final = 65536


def streams_of(connection: Any) -> tuple[StreamReader, StreamWriter] | None:
    """The streams of an open asyncio connection."""
    reader = getattr(connection, "_reader", None)
    writer = getattr(connection, "_writer", None)
    if isinstance(reader, StreamReader) and isinstance(writer, StreamWriter):
        return reader, writer
    return None


def reply_reader(connection: Any) -> hiredis.Reader:
    """A parser of replies that makes the errors that redis-py makes, as values."""
    parse_error = getattr(getattr(connection, "_parser", None), "parse_error", ResponseError)
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=parse_error, notEnoughData=NOT_ENOUGH_DATA
    )


def unsent_bytes(connection: Any) -> int:
    """How much an asyncio connection has not been able to send yet."""
    streams = streams_of(connection)
    return 0 if streams is None else streams[1].transport.get_write_buffer_size()


def close_now(connection: Any) -> None:
    """Close an asyncio connection without waiting for the peer, as its public `disconnect` would."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
    # redis-py complains of connections that it still thinks are open when they are collected.
    connection._reader = None  # noqa: SLF001
    connection._writer = None  # noqa: SLF001


_pack: Any = hiredis.pack_command  # its types know one argument only


def pack(commands: Sequence[Sequence[Any]]) -> bytes:
    """Commands as they go over the wire, in one piece."""
    if len(commands) == 1:
        packed: bytes = _pack(commands[0])
        return packed
    return b"".join([_pack(command) for command in commands])


class Wire(Protocol):
    """An open blocking connection. One thread at a time."""

    last_read_s: float
    """When something last came in, on the monotonic clock; other threads may look at it."""

    def exchange(self, commands: Sequence[Sequence[Any]], timeout_s: float) -> list[Any]:
        """Send commands together and read their replies, error replies as values.

        `timeout_s` is how long nothing may come in; as long as replies do, the time begins anew.

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
    sock = getattr(connection, "_sock", None)
    if isinstance(sock, socket.socket):
        return _SocketWire(connection, sock)
    return _PublicWire(connection)


class _PublicWire:
    """Through redis-py's public methods."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.last_read_s = time.monotonic()

    def exchange(self, commands: Sequence[Sequence[Any]], timeout_s: float) -> list[Any]:
        """Send commands together and read their replies, error replies as values."""
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                reply = connection.read_response(disable_decoding=True, timeout=timeout_s)
            except ResponseError as error:
                reply = error
            self.last_read_s = time.monotonic()
            replies.append(reply)
        return replies

    def is_sound(self) -> bool:
        """Whether it is still open, and no reply lies there that nobody has asked for."""
        try:
            return not self._connection.can_read(timeout=0)
        except ERRORS:
            return False

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


class _SocketWire(_PublicWire):
    """On the socket itself."""

    def __init__(self, connection: Any, sock: socket.socket) -> None:
        super().__init__(connection)
        self._sock = sock
        self._parser: Any = reply_reader(connection)  # its types know no bytearray
        self._buffer = bytearray(_READ_BYTES)

    def exchange(self, commands: Sequence[Sequence[Any]], timeout_s: float) -> list[Any]:
        """Send commands together and read their replies, error replies as values."""
        sock, parser = self._sock, self._parser
        replies: list[Any] = []
        try:
            sock.settimeout(max(timeout_s, 0.001))
            sock.sendall(pack(commands))
            last_s = 0.0
            while True:
                count = sock.recv_into(self._buffer)
                if not count:
                    raise RedisConnectionError("the server closed the connection")
                self.last_read_s = time.monotonic()
                parser.feed(self._buffer, 0, count)
                while (reply := parser.gets()) is not NOT_ENOUGH_DATA:
                    replies.append(reply)
                if len(replies) >= len(commands):
                    break
                last_s = last_s or self.last_read_s + LONGEST_CALL_S
                if self.last_read_s > last_s:
                    raise RedisTimeoutError("the replies take too long")
        except TimeoutError:
            raise RedisTimeoutError("no reply in time") from None
        if len(replies) > len(commands) or parser.has_data():
            raise RedisConnectionError("a reply came that nobody has asked for")
        return replies
