"""Connections of a blocking redis-py client that the user owns: batches go through its pipelines.

The client is never closed. Its own time-outs and retries apply on its connections, as nobody else can end its
calls: it is best made with a short `socket_timeout` and without retries.

Its pool has so many connections and no more, and other parts of the program may use them as well. A caller
for whom there is none stands in line, inside its time: whoever has been served lets the next one try, and as
nobody tells when another part gives one back, who waits looks now and then. A pool that is empty all the time
is this program's own affair, and no outage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args
from sansio_cache_redis.errors import ERRORS, ExhaustedError
from sansio_cache_redis.facts import INFO
from sansio_cache_runtime.sync.event import ThreadEvent

LOOK_S: Final = 0.01
"""How often who stands in line looks whether another part of the program has given a connection back."""
_INTRODUCED_S: Final = 1.0
"""For how long it is believed that the server is the same."""
_NONE_LEFT: Final = "No connection available."
"""What redis-py's pools that wait say where they have waited in vain."""


class _Waiter(Protocol):
    def set(self) -> object: ...


class Asking:
    """One call that asks. It is gone with the call, however that ends."""


class Line:
    """Who asks on a pool's connections, and who waits for one.

    An interrupt may strike anywhere: whoever was to be let on looks by itself a moment later.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._asking: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        """Since when, on the monotonic clock. Of a call that was interrupted as it left nothing stays."""
        self._waiting: deque[_Waiter] = deque()

    def has_room(self) -> bool:
        """Whether the pool has connections left, as far as those in line are concerned."""
        most: int = getattr(self._pool, "max_connections", 1 << 31)
        return len(self._asking) < most

    def asks_since_s(self, caller: object) -> float | None:
        """Since when a caller has asked, on the monotonic clock; None where it has never had its turn."""
        return self._asking.get(caller)

    def enter(self, caller: object) -> None:
        """A caller asks the pool for a connection."""
        self._asking[caller] = monotonic()

    def leave(self, caller: object) -> None:
        """It has given it back: the first in line may try."""
        self._asking.pop(caller, None)
        with suppress(IndexError):  # nobody waits, or another thread was quicker
            self._waiting.popleft().set()

    def join(self, waiter: _Waiter, *, is_first: bool) -> None:
        """Stand in line. Who has stood there before is the first again."""
        if is_first:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)

    def quit(self, waiter: _Waiter) -> None:
        """Stand in line no more."""
        with suppress(ValueError):  # it was let on
            self._waiting.remove(waiter)


def is_exhausted(error: BaseException) -> bool:
    """Whether a pool had no connection to give."""
    return isinstance(error, MaxConnectionsError) or (
        isinstance(error, RedisConnectionError) and str(error) == _NONE_LEFT
    )


def exhausted() -> ExhaustedError:
    """What a call fails with that has stood in line for the whole of its time."""
    return ExhaustedError("all connections of the client's pool are in use: it has too few of them")


def filled(pipeline: Any, commands: Sequence[Args]) -> Any:
    """A pipeline of redis-py with commands in it, their names as texts: instrumentation joins them."""
    for name, *args in commands:
        pipeline.execute_command(name.decode(), *args)
    return pipeline


class Introduction:
    """What the server of a pool says of itself, which nobody is told as a connection opens there.

    It is asked for with the first call, with the first after one that has failed, and with one in a second: a
    pool opens a connection anew without a word, where it finds one closed.

    Args:
        on_told: Told it. It raises where nothing is to be asked there.
    """

    def __init__(self, on_told: Callable[[Any], object]) -> None:
        self._on_told = on_told
        self._due_s = 0.0

    def begin(self, commands: Sequence[Args]) -> Sequence[Args]:
        """What to send in the place of these commands."""
        return [INFO, *commands] if monotonic() >= self._due_s else commands

    def end(self, replies: list[Any], commands: Sequence[Args]) -> list[Any]:
        """The replies to the commands alone.

        Raises:
            RedisError: Nothing is to be asked there.
        """
        if len(replies) > len(commands):
            told, *replies = replies
            self._on_told(told)
            self._due_s = monotonic() + _INTRODUCED_S
        return replies

    def forget(self) -> None:
        """A call has failed: it may be another server by now."""
        self._due_s = 0.0


class ClientConnections:
    """The connections of a blocking client, for threads.

    Args:
        client: The user's.
        on_told: As `Introduction` has it.
    """

    def __init__(self, client: Any, on_told: Callable[[Any], object]) -> None:
        self._client = client
        self._introduction = Introduction(on_told)
        self.line = Line(client)

    def execute(self, commands: Sequence[Args], timeout_s: float, caller: object = None) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Args:
            commands: What to send.
            timeout_s: How long to stand in line at most.
            caller: Who asks, for those who look at the line.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        until_s = monotonic() + timeout_s
        has_waited = False
        while True:
            if self.line.has_room():
                try:
                    return self._ask(commands, Asking() if caller is None else caller)
                except RedisConnectionError as error:
                    let_through(error)
                    if not is_exhausted(error):
                        raise
            left_s = until_s - monotonic()
            if left_s <= 0:
                raise exhausted()
            self._wait(min(left_s, LOOK_S), is_first=has_waited)
            has_waited = True

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself.

        Those that other threads use, its owner's too, are closed as they are given back.
        """
        pool = self._client.connection_pool
        pool.update_active_connections_for_reconnect()
        pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Leave the client to its owner."""

    def _ask(self, commands: Sequence[Args], caller: object) -> list[Any]:
        introduction = self._introduction
        try:
            self.line.enter(caller)
            asked = introduction.begin(commands)
            with self._client.pipeline(transaction=False) as pipeline:
                replies = filled(pipeline, asked).execute(raise_on_error=False)
            return introduction.end(replies, commands)
        except ERRORS:
            introduction.forget()
            raise
        finally:
            self.line.leave(caller)

    def _wait(self, timeout_s: float, *, is_first: bool) -> None:
        waiter = ThreadEvent()
        try:
            self.line.join(waiter, is_first=is_first)
            waiter.wait(timeout_s)
        finally:
            self.line.quit(waiter)
