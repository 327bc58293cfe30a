"""Replies: what the channels, and the drivers, have in common when one comes, or does not."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from sansio_cache.events import LoadNotShared, LoadShared

ERRORS: Final = (RedisError, OSError, EOFError)
"""What a channel raises where the fate of commands is unknown: of redis-py, or of the socket."""

LONGEST_CALL_S: Final = 5.0
"""How long a call may wait in all, in seconds, as long as replies to others keep coming in."""

_E = TypeVar("_E", bound=BaseException)


def fresh(failure: _E) -> _E:
    """A copy of an error for one more caller: tracebacks would pile up in a shared one."""
    return type(failure)(*failure.args)


def as_failure(error: Exception) -> Exception:
    """An error as a channel may raise it: what is none of redis-py's or of the socket is wrapped."""
    if isinstance(error, ERRORS):
        return error
    return RedisConnectionError(f"the connection failed with {type(error).__name__}")


def tell_time(reply: Any, on_time: Callable[[int], object]) -> None:
    """Tell the server's time in microseconds, from the reply to TIME; an error reply is raised.

    Where TIME is forbidden the connection is good all the same; what has a soft expiry counts as expired.
    """
    if isinstance(reply, NoPermissionError):
        return
    if isinstance(reply, Exception):
        raise reply
    on_time(int(reply[0]) * 1_000_000 + int(reply[1]))


def own_copy(value: Any, arrival: int, now_s: float) -> LoadShared | LoadNotShared:
    """A follower's own copy of a value that cannot be stored; without one, it loads for itself."""
    try:
        return LoadShared(now_s, None, deepcopy(value))
    except Exception:  # noqa: BLE001 - whatever a class of the user's does when it is copied
        return LoadNotShared(now_s, arrival)
