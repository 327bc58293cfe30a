"""Confirming: writes that replicas are to have, which WAIT is asked about on a connection of its own.

WAIT keeps its connection until so many replicas have what was written on that very connection. So nobody else
may be behind it, and what it is about goes over the same connection, right before it: sent over another after
a failover, it would tell of a server that has never seen the write. Nothing here is ever sent twice.

What comes while one WAIT is on its way goes out together after that, and one more WAIT answers for all of it.
So a caller waits for two at most, however many they are.

The connection is a blocking one, and who drives it waits in its own thread. Under asyncio and trio that is a
thread for the purpose: see `confirming_anyio.py`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import attrs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.calls import WAIT, Args
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.wires import Wire, blocking_wire
from sansio_cache_redis.errors import ERRORS, ExhaustedError, OwnResetError, as_failure, fresh
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

_MOST_TOGETHER: Final = 64
"""How many calls go out together at most."""
_LONGEST_BYTES: Final = 1 << 20
"""No reply is nearly as long."""


Replies = list[Any] | BaseException


def is_confirmed(commands: Sequence[Args]) -> bool:
    """Whether commands end with WAIT."""
    return commands[-1][0] == WAIT


@attrs.define(eq=False)
class _Call:
    """Commands of one caller, of which the last is WAIT, and what came of them."""

    commands: Sequence[Args]
    thread: int
    """The number of the caller's thread."""
    answer: Replies | None = None
    is_gone: bool = False
    """Whether its caller waits no more: what was not sent by then is not."""
    turn: ThreadEvent = attrs.field(factory=ThreadEvent)
    """Set once it has its answer, or is to drive."""


class Confirming:
    """The connection for writes that are to be confirmed, for any number of threads.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
    """

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._make_connection = make_connection
        self._lock = process_lock()
        self._queue: deque[_Call] = deque()
        self._driver: _Call | None = None
        self._redispy: Any = None
        self._wire: Wire | None = None
        self._is_stale = False
        """Whether the connection is not to be used again."""
        self._is_closed = False

    @property
    def count(self) -> int:
        """How many connections are open."""
        return int(self._wire is not None)

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together, the last of which is WAIT; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        until_s = monotonic() + timeout_s
        call = _Call(commands, threading.get_ident())
        try:
            with self._lock:
                driver = self._driver
                if driver is None or driver.is_gone:
                    self._driver = call
                elif driver.thread == call.thread:
                    raise ExhaustedError("a handler cannot wait for replicas while its own thread does")
                self._queue.append(call)
            if self._driver is not call:
                call.turn.wait(timeout_s)
            while call.answer is None and self._driver is call:
                self._send(until_s)
        finally:  # however it ends: a KeyboardInterrupt may come at any point
            call.is_gone = True  # from here on another may drive
            self._leave(call)
        if call.answer is None:
            raise RedisTimeoutError("replicas were waited for on behalf of others for too long")
        if isinstance(call.answer, BaseException):
            raise fresh(call.answer)
        return call.answer

    def _leave(self, call: _Call) -> None:
        """Let the next one drive."""
        with self._lock:
            if self._driver is not call:
                return
            self._driver = next((each for each in self._queue if not each.is_gone), None)
            if self._driver is not None:
                self._driver.turn.set()

    def reset(self) -> None:
        """Use another connection from now on. What is on its way is waited for."""
        self._is_stale = True

    def close(self) -> None:
        """Close the connection, for good. What is on its way fails."""
        self._is_closed = True
        redispy = self._redispy
        if redispy is not None:
            redispy.disconnect()

    # Driving. Only who has the turn comes here.

    def _take(self, calls: list[_Call]) -> None:
        """Take those that have come first, and want the same."""
        while self._queue and len(calls) < _MOST_TOGETHER:
            call = self._queue[0]
            if not call.is_gone and call.answer is None:
                if calls and call.commands[-1] != calls[0].commands[-1]:
                    return
                calls.append(call)
            self._queue.popleft()

    def _send(self, until_s: float) -> None:
        """Send what the next of them ask, wait for the replies, and give each its own."""
        calls: list[_Call] = []
        answer: Replies = RedisConnectionError("the thread that asked for others as well was interrupted")
        try:
            self._take(calls)
            asked = [args for call in calls for args in call.commands[:-1]]
            answer = self._ask([*asked, calls[0].commands[-1]], until_s)
        except ERRORS as error:
            answer = as_failure(error)
        finally:
            if isinstance(answer, BaseException):
                self._drop()
            for call in calls:
                if isinstance(answer, BaseException):
                    call.answer = answer
                else:
                    count = len(call.commands) - 1
                    call.answer, answer = [*answer[:count], answer[-1]], answer[count:]
                call.turn.set()

    def _ask(self, commands: list[Args], until_s: float) -> list[Any]:
        wire = self._wire
        if wire is not None and (self._is_stale or not wire.is_sound()):
            self._drop()
            wire = None
        if wire is None:
            wire = self._open(until_s)
        wire.write(pack(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            replies += wire.read(until_s)
            if len(replies) < len(commands) and monotonic() >= until_s:
                raise RedisTimeoutError("the server did not say in time whether replicas have it")
        return replies

    def _open(self, until_s: float) -> Wire:
        self._is_stale = False
        self._redispy = redispy = self._make_connection()
        if self._is_closed:
            raise OwnResetError("the cache was closed")
        redispy.socket_timeout = max(until_s - monotonic(), 0.001)
        redispy.connect()
        self._wire = blocking_wire(redispy, _LONGEST_BYTES)
        return self._wire

    def _drop(self) -> None:
        redispy, self._redispy, self._wire = self._redispy, None, None
        if redispy is not None:
            redispy.disconnect()
