"""Confirming: writes that replicas are to have, which WAIT is asked about on a connection of its own.

WAIT keeps its connection until so many replicas have what was written on that very connection. So nobody else
may be behind it, and what it is about goes over the same connection, right before it: sent over another after
a failover, it would tell of a server that has never seen the write. Nothing here is ever sent twice.

What comes while one WAIT is on its way goes out together after that, and one more WAIT answers for all of it.
So a caller waits for two at most, as long as no more than 64 ask at once, and for the same.

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

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.redispy import Handshake, pack, shut_down
from sansio_cache_redis.connections.wires import Wire, blocking_wire
from sansio_cache_redis.errors import ExhaustedError, OwnResetError, as_failure, as_opening_failure, fresh
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

_MOST_TOGETHER: Final = 64
"""How many calls go out together at most."""
_FORGOTTEN_S: Final = 0.05
"""How often who waits for its turn looks whether anybody drives."""
_LONGEST_BYTES: Final = 1 << 20
"""No reply is nearly as long."""


Replies = list[Any] | BaseException


@attrs.define(eq=False)
class ConfirmedCall:
    """Commands of one caller, of which the last is WAIT, and what came of them."""

    commands: Sequence[Args]
    until_s: float
    """On the monotonic clock."""
    thread: int = 0
    """The number of the thread that performs it."""
    answer: Replies | None = None
    is_unwanted: bool = False
    """Whether its caller waits no more: what was not sent by then is not."""
    is_wanted: Callable[[], bool] | None = None
    """Says the same, where somebody else knows."""
    has_left: bool = False
    """Whether its thread is gone: it drives no more."""
    driver: ConfirmedCall | None = None
    """Who sends it, and hands it its answer."""
    turn: ThreadEvent = attrs.field(factory=ThreadEvent)
    """Set once it has its answer, or is to drive."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be sent."""
        if self.answer is not None or self.is_unwanted or self.has_left:
            return False
        return self.is_wanted is None or self.is_wanted()


class Confirming:
    """The connection for writes that are to be confirmed, for any number of threads.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        start_thread: Starts the thread that opens one, as a handshake may take longer than a call; None where
            who calls has a thread to spare.
    """

    def __init__(self, make_connection: Callable[[], Any], start_thread: StartThread | None = None) -> None:
        self._make_connection = make_connection
        self._start_thread = start_thread
        self._lock = process_lock()
        self._queue: deque[ConfirmedCall] = deque()
        self._driver: ConfirmedCall | None = None
        self._handshake: Handshake | None = None
        """Of the connection, also while it is being opened."""
        self._wire: Wire | None = None
        self._owes = False
        """Whether replies are due on it: nothing else can be asked there."""
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
        return self.perform(ConfirmedCall(commands, monotonic() + timeout_s))

    def perform(self, call: ConfirmedCall) -> list[Any]:
        """The same with a call that may become unwanted meanwhile."""
        call.thread = threading.get_ident()
        if is_inside(self._lock):
            raise ExhaustedError("a handler cannot wait for replicas where it holds the lock of the process")
        try:
            with self._lock:
                inside = (self._driver, *self._queue)
                if any(each and each.thread == call.thread and not each.has_left for each in inside):
                    raise ExhaustedError("a handler cannot wait for replicas while its own thread does")
                self._queue.append(call)
                self._appoint()
            while call.is_waiting and (left_s := call.until_s - monotonic()) > 0:
                if self._driver is call:
                    self._send(call)
                elif not call.turn.wait(min(left_s, _FORGOTTEN_S)):
                    self._look(call)
        finally:  # however it ends: a KeyboardInterrupt may come at any point
            call.has_left = True  # from here on another may drive
            if self._is_ours:
                with self._lock:
                    if call in self._queue:
                        self._queue.remove(call)
                    self._appoint()
                    is_left_over = self._is_closed and not self._is_driven
                if is_left_over:
                    self._drop()
        if call.answer is None:
            raise RedisTimeoutError("replicas were waited for on behalf of others for too long")
        if isinstance(call.answer, BaseException):
            raise fresh(call.answer)
        return call.answer

    @property
    def _is_ours(self) -> bool:
        """Whether this is the process whose threads are here: a handler may have forked meanwhile."""
        return self._lock is process_lock()

    @property
    def _is_driven(self) -> bool:
        """Whether somebody has the turn."""
        return self._driver is not None and not self._driver.has_left

    def _look(self, call: ConfirmedCall) -> None:
        """Look whether somebody still sees to a call: who did may have been interrupted at any point."""
        if not self._is_ours:
            raise OwnResetError("the process has forked meanwhile")
        with self._lock:
            if call.driver is None:
                self._appoint()
            elif call.driver.has_left and call.answer is None:
                call.answer = _interrupted()

    def _appoint(self) -> None:
        """Let another one drive, if nobody does. Under the lock.

        It is of those who want the same as the one who has come first; and the most patient, as all whom it
        sends for wait as long as it does.
        """
        if self._is_driven:
            return
        waiting = [each for each in self._queue if each.is_waiting]
        alike = [each for each in waiting if each.commands[-1] == waiting[0].commands[-1]]
        self._driver = max(alike, key=lambda each: each.until_s, default=None)
        if self._driver is not None:
            self._driver.turn.set()

    def reset(self) -> None:
        """Use another connection from now on. What is on its way is waited for."""
        self._is_stale = True
        handshake = None
        if not is_inside(self._lock):
            with self._lock:
                if not self._is_driven:
                    handshake = self._take_away()
        if handshake is not None:
            handshake.give_up()

    def close(self) -> None:
        """Close the connection, for good. What is on its way fails."""
        self._is_closed = True
        with self._lock:
            is_driven, handshake = self._is_driven, self._handshake
        if not is_driven:
            self._drop()
        elif handshake is not None:
            shut_down(handshake.connection)  # it is closed as the driver leaves

    # Driving. Only who has the turn comes here.

    def _take(self, calls: list[ConfirmedCall], driver: ConfirmedCall) -> None:
        """Take those that have come first, and want the same as the driver; others come after them."""
        with self._lock:
            for call in tuple(self._queue):
                if not call.is_waiting:
                    self._queue.remove(call)
                elif call.commands[-1] == driver.commands[-1]:
                    call.driver = driver
                    calls.append(call)
                    self._queue.remove(call)
                if len(calls) == _MOST_TOGETHER:
                    return

    def _send(self, driver: ConfirmedCall) -> None:
        """Send what the next of them ask, wait for the replies, and give each its own."""
        calls: list[ConfirmedCall] = []
        answer: Replies = _interrupted()
        try:
            wire = self._ready(driver.until_s)
            self._take(calls, driver)  # now: others may have given up since
            if calls:
                asked = [args for call in calls for args in call.commands[:-1]]
                answer = self._ask(wire, [*asked, driver.commands[-1]], driver.until_s)
        except Exception as error:  # noqa: BLE001 - to open a connection runs code of the user's as well
            let_through(error)
            answer = as_failure(error)
            if not calls:
                self._take(calls, driver)
        finally:
            failed = isinstance(answer, BaseException)
            for call in calls:
                if isinstance(answer, BaseException):
                    call.answer = answer
                else:
                    count = len(call.commands) - 1
                    call.answer, answer = [*answer[:count], answer[-1]], answer[count:]
                call.turn.set()
            if calls and failed:
                self._drop()

    def _ready(self, until_s: float) -> Wire:
        """A connection on which nothing is due."""
        wire = self._wire
        if wire is not None and not self._owes and not self._is_stale and wire.is_sound():
            return wire
        return self._open(until_s)

    def _ask(self, wire: Wire, commands: list[Args], until_s: float) -> list[Any]:
        data = pack(commands)
        self._owes = True
        wire.write(data)
        replies: list[Any] = []
        while len(replies) < len(commands):
            replies += wire.read(until_s)
            if len(replies) < len(commands) and monotonic() >= until_s:
                raise RedisTimeoutError("the server did not say in time whether replicas have it")
        if len(replies) > len(commands):
            raise RedisConnectionError("the server has sent more replies than it was asked for")
        self._owes = False
        return replies

    def _open(self, until_s: float) -> Wire:
        self._drop()
        self._is_stale = self._owes = False
        redispy = self._make_connection()
        redispy.socket_timeout = redispy.socket_connect_timeout = max(until_s - monotonic(), 0.001)
        handshake = self._handshake = Handshake(redispy)
        if not self._is_closed:
            self._connect(handshake, until_s)
        if self._is_closed:  # maybe meanwhile
            raise OwnResetError("the cache was closed")
        self._wire = blocking_wire(redispy, _LONGEST_BYTES)
        return self._wire

    def _connect(self, handshake: Handshake, until_s: float) -> None:
        """Open a connection, for as long as that: its time-outs are those of each step of its handshake."""
        failures: list[Exception] = []
        is_over = ThreadEvent()

        def connect() -> None:
            try:
                handshake.shake(lambda: self._is_closed or monotonic() >= until_s)
            except Exception as error:  # noqa: BLE001 - handed to who waits
                let_through(error)
                failure = as_opening_failure(error)
                if failure is not error and failure.__cause__ is None:
                    failure.__cause__ = error
                failures.append(failure)
            finally:
                is_over.set()

        if self._start_thread is None or not self._start_thread(connect, "sansio-cache-connecting"):
            connect()
        if not is_over.wait(max(until_s - monotonic(), 0.0)):
            raise RedisTimeoutError("no connection in time")  # who drops it ends its handshake
        if failures:
            raise failures[0]

    def _drop(self) -> None:
        handshake = self._take_away()
        if handshake is not None:
            handshake.give_up()

    def _take_away(self) -> Handshake | None:
        """The connection, which is to be given up: nobody finds it here any more."""
        handshake, self._handshake, self._wire = self._handshake, None, None
        return handshake


def _interrupted() -> RedisConnectionError:
    return RedisConnectionError("the thread that asked for others as well was interrupted")
