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
from functools import partial
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
    """Open a blocking connection that another thread may end, by `shut_down`, at whatever point.

    redis-py has no socket to shut down before the connection is open, nor while TLS shakes hands, and a
    handshake may take as long as its time-outs. So the socket is put where `shut_down` finds it as soon as
    there is one, and then it is asked once more whether it is wanted.

    Args:
        connection: A connection of redis-py that is not open yet.
        is_over: Says that nobody wants it any more. Who ends it sees to it first that it says so.

    Raises:
        RedisError, OSError: It cannot be opened, or nobody wants it.
    """
    make_socket: Any = getattr(connection, "_connect", None)
    shake_hands: Any = getattr(connection, "_wrap_socket_with_ssl", None)

    def put(sock: socket.socket) -> socket.socket:
        connection._sock = sock  # noqa: SLF001
        if is_over():
            connection._sock = None  # noqa: SLF001
            sock.close()
            raise RedisConnectionError(_UNWANTED)
        return sock

    def shake_hands_until_shut_down(sock: socket.socket) -> Any:
        with sock.dup() as beneath:
            try:
                put(beneath)
                return shake_hands(sock)
            finally:
                connection._sock = None  # noqa: SLF001

    def make_wanted_socket() -> Any:
        if is_over():
            raise RedisConnectionError(_UNWANTED)
        return put(make_socket())

    if make_socket is not None:
        connection._connect = make_wanted_socket  # noqa: SLF001
    if shake_hands is not None:
        connection._wrap_socket_with_ssl = shake_hands_until_shut_down  # noqa: SLF001
    connection.connect()


_UNWANTED: Final = "the connection is not wanted any more"


def shut_down(connection: Any) -> None:
    """End a blocking connection that another thread uses or opens: that thread fails, and closes it.

    It is not closed from here. The thread may be about to wait for its socket, or to write to it, by a number
    that would be another connection's as soon as somebody opened one.
    """
    if not hasattr(connection, "_sock"):
        connection.disconnect()
        return
    sock = connection._sock  # noqa: SLF001
    if sock is None:
        return
    # That beneath TLS, whose own would have the thread go on without it.
    kind: Any = next(kind for kind in type(sock).__mro__ if not hasattr(kind, "do_handshake"))
    shut = sock.shutdown if kind is type(sock) else partial(kind.shutdown, sock)
    with suppress(OSError):  # its peer has ended it, or the thread has closed it
        shut(socket.SHUT_RDWR)


class Handshake:
    """A blocking connection that one thread opens, and another may give up meanwhile.

    Whoever comes second closes it: the thread, when it is done, or who gives it up.

    Args:
        connection: A connection of redis-py that is not open yet.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._is_given_up = False
        self._is_over = False

    def shake(self, is_over: Callable[[], bool] = bool) -> None:
        """Open it, on this thread.

        Args:
            is_over: Says that nobody wants it any more.

        Raises:
            RedisError, OSError: It cannot be opened, or nobody wants it.
        """
        is_open = False
        try:
            connect_unless(self.connection, lambda: self._is_given_up or is_over())
            is_open = True
        finally:
            self._is_over = True
            if self._is_given_up or not is_open:
                self.connection.disconnect()

    def give_up(self) -> None:
        """End it, from any thread. It may be open already, if nobody uses it."""
        self._is_given_up = True
        shut_down(self.connection)
        if self._is_over:
            self.connection.disconnect()


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
    return b"".join(map(pack_one, commands))


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
