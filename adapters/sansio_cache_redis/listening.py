"""Listening: a waiter learns at once that a key was filled, given up or invalidated.

One Pub/Sub connection for a cache, on a thread of its own, opened by the first waiter and closed when
nobody has waited for some time. All keys of a namespace share one Pub/Sub channel, and a message carries the
key, or several. The order is subscribe, re-check, wait: who begins to watch is woken when the subscription
stands, so that nothing that came before it is missed (fault 25). A message that is lost all the same
(fault 24) costs one fall-back interval of the waiter, and while there is no subscription waiters poll.

Whether it can be relied on is tested, as a waiter that is told nothing would sleep for ten times as long as
one that polls. Before it subscribes, the connection publishes to its own channel, and nobody is woken by
that: who stores a value publishes in a script with the same user's permission, and a script says nothing of a
refusal. While somebody waits, a connection on which nothing is heard is asked for a sign of life: it may be
half open. Where none comes soon, waiters poll; where none comes for long, another connection is opened.

Blocking commands would be no better: each waiter would pin a connection, and a lost reply loses an element.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError

from sansio_cache_redis.calls import EVERY_KEY, keys_of, wake_channel
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.sync.event import ThreadCondition, ThreadEvent

_IDLE_S: Final = 10.0
_LOOK_S: Final = 0.05
_LOOKS_OF_QUIET: Final = 2
"""After so many looks without a message the server is asked for a sign of life, where somebody waits."""
_LEAST_LOOKS_OF_SILENCE: Final = 2
"""After at least so many looks without an answer waiters had better poll."""
_MOST_LOOKS_OF_SILENCE: Final = 20
"""After so many the connection is given up."""
_TEST: Final = b"%"
"""A message about no key: none can be called so."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_CLOSE_S: Final = 1.0


class Listener:
    """Watches keys for any number of waiters, of threads or of an event loop.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        namespace: Whose keys are watched.
        start_thread: Starts the thread that listens.
    """

    def __init__(self, make_connection: Callable[[], Any], namespace: str, start_thread: StartThread) -> None:
        self._make_connection = make_connection
        self._start_thread = start_thread
        self._channel = wake_channel(namespace)
        self._lock = process_lock()
        self._changed = ThreadCondition(self._lock)
        self._watches: dict[bytes, dict[int, Callable[[], object]]] = {}
        self._numbers = itertools.count(1)
        self._is_running = False
        self._has_ended = ThreadEvent()
        self._redispy: Any = None
        self._is_closed = False
        self.is_live = False
        """Whether the subscription stands. Where not, waiters had better look for themselves."""

    def watch(self, key: str, wake: Callable[[], object]) -> int:
        """Call `wake`, from another thread, for every message about the key, and when `is_live` changes."""
        number = next(self._numbers)
        try:
            with self._lock:
                self._watches.setdefault(key.encode(), {})[number] = wake
                if not (self._is_running or self._is_closed):
                    # Where there is no thread to be had, waiters poll.
                    self._has_ended.clear()
                    self._is_running = self._start_thread(self._run, "sansio-cache-listener")
        except BaseException:  # an interrupt: its caller will not know the number
            self.unwatch(key, number)
            raise
        return number

    def unwatch(self, key: str, number: int) -> None:
        """Stop watching."""
        with self._lock:
            watches = self._watches.get(key.encode())
            if watches is not None:
                watches.pop(number, None)
                if not watches:
                    del self._watches[key.encode()]

    def close(self, *, wait: bool) -> None:
        """End the thread, and wait for it, where nobody else would have to wait as well."""
        with self._lock:
            self._is_closed = True
            self._changed.notify()
            redispy, is_running = self._redispy, self._is_running
        if redispy is not None:
            redispy.disconnect()
        if wait and is_running and not is_inside(self._lock):
            self._has_ended.wait(_CLOSE_S)

    # On the thread.

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            redispy = self._make_connection()
            with self._lock:
                self._redispy = redispy
            try:
                redispy.connect()
                began_s = monotonic()
                redispy.send_command("PUBLISH", self._channel, _TEST)
                redispy.read_response(disable_decoding=True)
                redispy.send_command("SUBSCRIBE", self._channel)
                redispy.read_response(disable_decoding=True)
                pause_s = _FIRST_PAUSE_S
                self._set_live(is_live=True)
                self._listen(redispy, monotonic() - began_s)
            except Exception:  # noqa: BLE001, S110 - whatever it was: polling until it works again
                pass
            finally:
                self._set_live(is_live=False)
                redispy.disconnect()
            if self._is_to_end(pause_s):
                return
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _listen(self, redispy: Any, trips_s: float) -> None:
        """Pass messages on until nobody has watched for some time.

        `trips_s` is how long the two round trips of the subscription have taken. Time is counted in looks:
        each finds what has come in while this thread, or the whole machine, was busy.
        """
        silence = max(_LEAST_LOOKS_OF_SILENCE, math.ceil(2 * trips_s / _LOOK_S))
        idle = quiet = unanswered = 0
        while idle * _LOOK_S < _IDLE_S and not self._is_closed:
            if redispy.can_read(timeout=_LOOK_S):
                quiet = unanswered = 0
                self._set_live(is_live=True)
                self._take(redispy)
                continue
            idle = 0 if self._watches else idle + 1
            quiet += 1
            if unanswered:
                unanswered += 1
                if unanswered > silence:
                    self._set_live(is_live=False)
                if unanswered > silence + _MOST_LOOKS_OF_SILENCE:
                    return
            elif self._watches and quiet >= _LOOKS_OF_QUIET:
                redispy.send_command("PING")
                unanswered = 1

    def _take(self, redispy: Any) -> None:
        """Read what has come in; tell those whom it concerns."""
        with suppress(ResponseError):  # a user who may not ask for a sign of life gets one all the same
            message = redispy.read_response(disable_decoding=True)
            if isinstance(message, list) and message[0] == b"message":
                self._tell(message[2])

    def _is_to_end(self, pause_s: float) -> bool:
        """Wait a little before the next try; True where nobody is there to try for."""
        with self._lock:
            if self._watches and not self._is_closed:
                self._changed.wait(pause_s)
            if self._is_closed or not self._watches:
                self._is_running = False
                self._redispy = None
                self._has_ended.set()
                return True
            return False

    def _set_live(self, *, is_live: bool) -> None:
        with self._lock:
            if is_live == self.is_live:
                return
            self.is_live = is_live
            wakes = [wake for watches in self._watches.values() for wake in watches.values()]
        for wake in wakes:
            wake()

    def _tell(self, message: bytes) -> None:
        with self._lock:
            is_about_all = message == EVERY_KEY
            some = (self._watches.get(key, {}) for key in keys_of(message))
            concerned = self._watches.values() if is_about_all else some
            wakes = [wake for watches in concerned for wake in watches.values()]
        for wake in wakes:
            wake()
