"""What is needed of redis-py below its public methods; here and nowhere else.

A connection that redis-py has opened, authenticated and shaken hands on is driven through its transport or
socket, with a reply parser of its own, at a fraction of the price. A test holds this module to the installed
version. Where an attribute is gone, redis-py's public methods are used, at theirs.
"""

from __future__ import annotations

import socket
import sys
from asyncio import StreamReader, StreamWriter, Transport
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

_fcntl: Any = None
with suppress(ImportError):  # Windows has neither
    _fcntl = import_module("fcntl")
    _termios: Any = import_module("termios")

NOT_ENOUGH_DATA: Final = object()


def connect_unless(connection: Any, is_over: Callable[[], bool]) -> None:
    """Open a blocking connection that another thread may end by disconnecting it.

    To disconnect it does nothing before it has its socket, and its handshake may take as long as its
    time-outs. So it is asked once more then whether it is wanted; and while TLS shakes hands it has a copy of
    the socket beneath.

    Args:
        connection: A connection of redis-py that is not open yet.
        is_over: Says that nobody wants it any more. Who disconnects it sees to it first that it says so.

    Raises:
        RedisError, OSError: It cannot be opened, or nobody wants it.
    """
    make_socket: Any = getattr(connection, "_connect", None)
    shake_hands: Any = getattr(connection, "_wrap_socket_with_ssl", None)

    def shake_hands_until_disconnected(sock: socket.socket) -> Any:
        with sock.dup() as beneath:
            connection._sock = beneath  # noqa: SLF001
            try:
                return shake_hands(sock)
            finally:
                connection._sock = None  # noqa: SLF001

    def make_wanted_socket() -> Any:
        if not is_over():
            sock = make_socket()
            if not is_over():
                return sock
            sock.close()
        raise RedisConnectionError("the connection is not wanted any more")

    if make_socket is not None:
        connection._connect = make_wanted_socket  # noqa: SLF001
    if shake_hands is not None:
        connection._wrap_socket_with_ssl = shake_hands_until_disconnected  # noqa: SLF001
    connection.connect()


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


def unread_bytes(sock: Any) -> int:
    """How much lies there to be read from a socket; 0 where the system does not say."""
    return _queued(sock, "FIONREAD")


def unsent_bytes(sock: Any) -> int:
    """How much the peer of a socket has not taken yet of what the system has; 0 where it does not say."""
    return _queued(sock, "TIOCOUTQ")


def _queued(sock: Any, request: str) -> int:
    if _fcntl is None:
        return 0
    try:
        answer = _fcntl.ioctl(sock.fileno(), getattr(_termios, request), bytes(4))
    except (OSError, ValueError):  # it is closed, or is none that knows
        return 0
    return int.from_bytes(answer, sys.byteorder, signed=True)


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
