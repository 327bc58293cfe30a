"""Listening: a waiter learns at once that a key was filled, given up or invalidated.

One Pub/Sub connection for a cache, on a thread of its own, opened by the first waiter and closed when
nobody has waited for some time. All keys of a namespace share one Pub/Sub channel, and a message carries the
key, or several. In a cluster each key has a channel: see `listening_cluster.py`. The order is subscribe,
re-check, wait: who begins to watch is woken when the subscription stands, so that nothing that came before it
is missed (fault 25). A message that is lost all the same (fault 24) costs one fall-back interval of the
waiter, and while there is no subscription waiters poll.

Whether it can be relied on is tested, as a waiter that is told nothing would sleep for ten times as long as
one that polls. Before it subscribes, the connection publishes to its own channel, and nobody is woken by
that: who stores a value publishes in a script with the same user's permission, and a script says nothing of a
refusal. While somebody waits, a connection on which nothing is heard is asked for a sign of life: it may be
half open. Where none comes soon, waiters poll; where none comes for long, another connection is opened.

Blocking commands would be no better: each waiter would pin a connection, and a lost reply loses an element.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from redis.exceptions import ResponseError

from sansio_cache_redis.calls import EVERY_KEY, TEST, keys_of, wake_channel
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.redispy import connect_unless, shut_down
from sansio_cache_redis.watchers import LOOK_S, Pulse, Sign, Watchers
from sansio_cache_runtime.sync.event import ThreadCondition

IDLE_S: Final = 10.0
"""For how long nobody has watched when the connection is closed, in seconds."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""How long after a connection was lost another is opened, in seconds: twice as long each time."""


class Listener(Watchers):
    """Watches keys for any number of waiters, of threads or of an event loop.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        namespace: Whose keys are watched.
        start_thread: Starts the thread that listens.
    """

    def __init__(self, make_connection: Callable[[], Any], namespace: str, start_thread: StartThread) -> None:
        super().__init__(start_thread)
        self._make_connection = make_connection
        self._channel = wake_channel(namespace)
        self._changed = ThreadCondition(self._lock)
        self._redispy: Any = None
        self.is_live = False
        """Whether the subscription stands. Where not, waiters had better look for themselves."""

    def hears(self, key: str) -> bool:  # noqa: ARG002
        """Whether changes are heard at the moment: of all keys, or of none."""
        return self.is_live

    def _leave(self) -> None:
        self._changed.notify()
        if self._redispy is not None:
            shut_down(self._redispy)

    # On the thread.

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            redispy: Any = None
            try:
                redispy = self._make_connection()
                with self._lock:
                    self._redispy = redispy
                connect_unless(redispy, lambda: self._is_closed)
                began_s = monotonic()
                redispy.send_command("PUBLISH", self._channel, TEST)
                redispy.read_response(disable_decoding=True)
                redispy.send_command("SUBSCRIBE", self._channel)
                redispy.read_response(disable_decoding=True)
                pause_s = FIRST_PAUSE_S
                self._set_live(is_live=True)
                self._listen(redispy, Pulse(monotonic() - began_s))
            except Exception:  # noqa: BLE001, S110 - whatever it was: polling until it works again
                pass
            finally:
                self._set_live(is_live=False)
                with self._lock:
                    self._redispy = None
                if redispy is not None:
                    redispy.disconnect()
            if self._is_to_end(pause_s):
                return
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _listen(self, redispy: Any, pulse: Pulse) -> None:
        """Pass messages on until nobody has watched for some time."""
        idle = 0
        while idle * LOOK_S < IDLE_S and not self._is_closed:
            if redispy.can_read(timeout=LOOK_S):
                pulse.heard()
                self._set_live(is_live=True)
                self._take(redispy)
                continue
            idle = 0 if self._watches else idle + 1
            match pulse.looked(is_awaited=bool(self._watches)):
                case Sign.TO_ASK:
                    redispy.send_command("PING")
                case Sign.SILENT:
                    self._set_live(is_live=False)
                case Sign.DEAD:
                    return
                case Sign.WELL:
                    pass

    def _take(self, redispy: Any) -> None:
        """Read what has come in; tell those whom it concerns."""
        with suppress(ResponseError):  # a user who may not ask for a sign of life gets one all the same
            message = redispy.read_response(disable_decoding=True)
            if isinstance(message, list) and message[0] == b"message":
                self._wake(None if message[2] == EVERY_KEY else keys_of(message[2]))

    def _is_to_end(self, pause_s: float) -> bool:
        """Wait a little before the next try; True where nobody is there to try for."""
        with self._lock:
            if self._watches and not self._is_closed:
                self._changed.wait(pause_s)
            return self._is_over()

    def _set_live(self, *, is_live: bool) -> None:
        with self._lock:
            if is_live == self.is_live:
                return
            self.is_live = is_live
        self._wake()
