"""Errors: what redis-py, servers and sockets raise, and what kind of failure each is."""

from __future__ import annotations

import errno
from typing import Final, TypeVar, cast

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.events import FailureKind

ERRORS: Final = (RedisError, OSError, EOFError)
"""What a connection fails with, of redis-py or of the socket. The fate of its commands is unknown then."""

_E = TypeVar("_E", bound=BaseException)


class OverloadedError(RedisTimeoutError):
    """A call was given up as it could not be answered in time, though the server is not silent."""


class ExhaustedError(RedisConnectionError):
    """This process lacks what a connection takes: a descriptor, a thread, or one of a pool's connections."""


class OwnResetError(RedisConnectionError):
    """The cache has closed the connection itself, for the sake of another reply on it."""


class ClosedWhileOpeningError(RedisConnectionError):
    """The server has closed a connection before it could be used."""


class TooLargeError(ResponseError):
    """In the place of a reply: the value is larger than a value may be, and was not read."""


class NotADataServerError(RedisConnectionError):
    """What answers keeps no data: it is a sentinel."""


class NoPrimaryError(RedisConnectionError):
    """No sentinel says where the primary is; the text says why, and holds no secret."""


class HandshakeError(RedisConnectionError):
    """The server has refused a connection that could be opened; the cause says how."""


def fresh(failure: _E) -> _E:
    """A copy of an error for one more caller: tracebacks would pile up in a shared one.

    One of a class that cannot be made of its arguments is wrapped: what a user's credentials are fetched with
    may raise it.
    """
    try:
        copy = type(failure)(*failure.args)
    except Exception:  # noqa: BLE001 - whatever its class makes of them
        return cast("_E", RedisConnectionError(f"the connection failed with {type(failure).__name__}"))
    copy.__cause__ = failure.__cause__
    return copy


def as_failure(error: BaseException) -> Exception:
    """An error as a connection may fail with it: what is none of redis-py's or of the socket is wrapped."""
    if isinstance(error, ERRORS):
        return error
    return RedisConnectionError(f"the connection failed with {type(error).__name__}")


def as_opening_failure(error: BaseException) -> Exception:
    """An error as the opening of a connection may fail with it.

    What the server answers to the handshake is a refusal of all that would be asked on the connection, also
    where the same answer to a command would concern that command only.
    """
    _keep_causes(error)
    kind = classify(error)
    if _was_closed(error):
        return _caused_by(error, ClosedWhileOpeningError("the connection was closed as it was opened"))
    if kind is FailureKind.EXHAUSTED:
        return _caused_by(error, ExhaustedError("this process has no means left to open a connection"))
    if kind.is_outage or not isinstance(error, RedisError):
        return as_failure(error)
    return _caused_by(error, HandshakeError(f"the server refuses the connection ({type(error).__name__})"))


def _keep_causes(error: BaseException) -> None:
    """Make causes of what redis-py was handling when it raised something else: copies keep those only.

    Nobody else was handling anything where a connection is opened.
    """
    while isinstance(error.__context__, ERRORS) and error.__cause__ is None:
        error.__cause__ = error.__context__
        error = error.__context__


def _was_closed(error: BaseException) -> bool:
    closings = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
    texts = ("closed by server", "server closed the connection", "connection was lost")
    return isinstance(error.__cause__ or error, closings) or any(text in str(error) for text in texts)


def _caused_by(cause: BaseException, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


# What redis-py has a class for; the rest arrives as a bare ResponseError and is told by its first word.
_BY_CLASS: Final[tuple[tuple[type[Exception], FailureKind], ...]] = (
    (OverloadedError, FailureKind.OVERLOADED),
    (ExhaustedError, FailureKind.EXHAUSTED),
    (MaxConnectionsError, FailureKind.EXHAUSTED),
    (OwnResetError, FailureKind.RESET),
    (HandshakeError, FailureKind.HANDSHAKE),
    (RedisTimeoutError, FailureKind.TIMEOUT),
    (TimeoutError, FailureKind.TIMEOUT),
    (AskError, FailureKind.MOVED),  # and so is MovedError, which derives from it
    (TryAgainError, FailureKind.MOVED),
    (ClusterCrossSlotError, FailureKind.MOVED),
    (BusyLoadingError, FailureKind.UNAVAILABLE),
    (MasterDownError, FailureKind.UNAVAILABLE),
    (ClusterDownError, FailureKind.UNAVAILABLE),
    (AuthenticationError, FailureKind.AUTHENTICATION),
    (NoPermissionError, FailureKind.PERMISSION),
    (ReadOnlyError, FailureKind.READ_ONLY),
    (OutOfMemoryError, FailureKind.OUT_OF_MEMORY),
    (RedisConnectionError, FailureKind.CONNECTION),
    (OSError, FailureKind.CONNECTION),
    (EOFError, FailureKind.CONNECTION),
)
_NOT_SERVED: Final = "slot not served"
"""What a node says with CLUSTERDOWN where nobody owns a slot, and all else goes on."""
_BY_WORD: Final = {
    "MOVED": FailureKind.MOVED,
    "ASK": FailureKind.MOVED,
    "TRYAGAIN": FailureKind.MOVED,
    "CROSSSLOT": FailureKind.MOVED,
    "LOADING": FailureKind.UNAVAILABLE,
    "BUSY": FailureKind.UNAVAILABLE,
    "MASTERDOWN": FailureKind.UNAVAILABLE,
    "CLUSTERDOWN": FailureKind.UNAVAILABLE,
    "UNBLOCKED": FailureKind.CONNECTION,
    "NOAUTH": FailureKind.AUTHENTICATION,
    "WRONGPASS": FailureKind.AUTHENTICATION,
    "NOPERM": FailureKind.PERMISSION,
    "ACL": FailureKind.PERMISSION,  # Valkey, of a command inside a script
    "READONLY": FailureKind.READ_ONLY,
    "OOM": FailureKind.OUT_OF_MEMORY,
    "MISCONF": FailureKind.WRITES_REFUSED,
    "NOREPLICAS": FailureKind.WRITES_REFUSED,
}
_OF_THIS_PROCESS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""What the system answers where it has no descriptor, memory or port left to give."""


def classify(error: BaseException) -> FailureKind:
    """What kind of failure an error of redis-py, of the server or of the socket is."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error)):
        return FailureKind.EXHAUSTED
    # redis-py raises errors of its own while it handles those of the socket.
    for each in (error, error.__cause__, error.__context__):
        if isinstance(each, OSError) and each.errno in _OF_THIS_PROCESS:
            return FailureKind.EXHAUSTED
    if isinstance(error, ClusterDownError) and _NOT_SERVED in str(error):
        return FailureKind.MOVED  # to nobody, as the next attempt will find
    for kind, failure in _BY_CLASS:
        if isinstance(error, kind):
            return failure
    if isinstance(error, RedisError):
        # A script reports an error of a command inside it with that error's own first word.
        return _BY_WORD.get(str(error).partition(" ")[0].lstrip("-"), FailureKind.OTHER)
    return FailureKind.OTHER
