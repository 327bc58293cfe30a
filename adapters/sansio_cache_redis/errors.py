"""Errors: what redis-py, servers and sockets raise, and what kind of failure each is."""

from __future__ import annotations

from typing import Final, TypeVar

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.events import FailureKind

ERRORS: Final = (RedisError, OSError, EOFError)
"""What a connection fails with, of redis-py or of the socket. The fate of its commands is unknown then."""

_E = TypeVar("_E", bound=BaseException)


def fresh(failure: _E) -> _E:
    """A copy of an error for one more caller: tracebacks would pile up in a shared one."""
    return type(failure)(*failure.args)


def as_failure(error: Exception) -> Exception:
    """An error as a connection may fail with it: what is none of redis-py's or of the socket is wrapped."""
    if isinstance(error, ERRORS):
        return error
    return RedisConnectionError(f"the connection failed with {type(error).__name__}")


# What redis-py has a class for; the rest arrives as a bare ResponseError and is told by its first word.
_BY_CLASS: Final[tuple[tuple[type[Exception], FailureKind], ...]] = (
    (RedisTimeoutError, FailureKind.TIMEOUT),
    (TimeoutError, FailureKind.TIMEOUT),
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
_BY_WORD: Final = {
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


def classify(error: BaseException) -> FailureKind:
    """What kind of failure an error of redis-py, of the server or of the socket is."""
    for kind, failure in _BY_CLASS:
        if isinstance(error, kind):
            return failure
    if isinstance(error, RedisError):
        # A script reports an error of a command inside it with that error's own first word.
        return _BY_WORD.get(str(error).partition(" ")[0].lstrip("-"), FailureKind.OTHER)
    return FailureKind.OTHER
