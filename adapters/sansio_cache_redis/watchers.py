"""Watchers: who waits for which keys, and the thread that listens for all of them.

What both listeners have in common: that of one channel for all keys (`listening.py`), and that of a cluster,
with a channel for each (`listening_cluster.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import ClassVar, Final

from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

LOOK_S: Final = 0.05
"""How long a thread that listens waits for messages before it looks after other things, in seconds."""
_LOOKS_OF_QUIET: Final = 2
"""After so many looks without a message the server is asked for a sign of life, where somebody waits."""
_LEAST_LOOKS_OF_SILENCE: Final = 2
"""After at least so many looks without an answer waiters had better poll."""
_MOST_LOOKS_OF_SILENCE: Final = 20
"""After so many more the connection is given up."""
_CLOSE_S: Final = 1.0


class Watchers:
    """Keys that any number of waiters watch, of threads or of an event loop.

    Args:
        start_thread: Starts the thread that listens.
    """

    _numbers: ClassVar = itertools.count(1)
    """Of all watches: no two have the same, whoever listens."""

    def __init__(self, start_thread: StartThread) -> None:
        self._start_thread = start_thread
        self._lock = process_lock()
        self._watches: dict[bytes, dict[int, Callable[[], object]]] = {}
        self._is_running = False
        self._has_ended = ThreadEvent()
        self._is_closed = False

    def watch(self, key: str, wake: Callable[[], object]) -> int:
        """Call `wake`, from another thread, for every message about a key, and when `hears` of it changes."""
        number = next(self._numbers)
        try:
            with self._lock:
                name = key.encode()
                watches = self._watches.setdefault(name, {})
                watches[number] = wake
                if not (self._is_running or self._is_closed):
                    # Where there is no thread to be had, waiters poll.
                    self._has_ended.clear()
                    self._is_running = self._start_thread(self._run, "sansio-cache-listener")
                if len(watches) == 1:
                    self._changed_for(name)
        except BaseException:  # an interrupt: its caller will not know the number
            self.unwatch(key, number)
            raise
        return number

    def unwatch(self, key: str, number: int) -> None:
        """Stop watching."""
        name = key.encode()
        with self._lock:
            watches = self._watches.get(name)
            if watches is not None:
                watches.pop(number, None)
                if not watches:
                    del self._watches[name]
                    self._changed_for(name)

    def hears(self, key: str) -> bool:
        """Whether changes of a key are heard at the moment. Where not, waiters had better look themselves."""
        raise NotImplementedError

    def close(self, *, wait: bool) -> None:
        """End the thread, and wait for it, where nobody else would have to wait as well."""
        with self._lock:
            self._is_closed = True
            is_running = self._is_running
            self._leave()
        if wait and is_running and not is_inside(self._lock):
            self._has_ended.wait(_CLOSE_S)

    def _changed_for(self, name: bytes) -> None:
        """Somebody watches a key that nobody has watched, or nobody does any more. Under the lock."""

    def _leave(self) -> None:
        """Have the thread notice that it is to end. Under the lock."""
        raise NotImplementedError

    # On the thread.

    def _run(self) -> None:
        """Listen, until nobody watches for some time."""
        raise NotImplementedError

    def _is_over(self) -> bool:
        """Whether nobody is there to listen for: then the thread ends, and the next one begins it anew."""
        with self._lock:
            if self._watches and not self._is_closed:
                return False
            self._is_running = False
            self._has_ended.set()
            return True

    def _wake(self, names: Iterable[bytes] | None = None) -> None:
        """Wake those who watch some keys, or any."""
        with self._lock:
            concerned = self._watches if names is None else names
            wakes = [wake for name in concerned for wake in self._watches.get(name, {}).values()]
        for wake in wakes:
            wake()


class Sign(Enum):
    """What a connection on which nothing was heard is worth."""

    WELL = auto()
    TO_ASK = auto()
    """It is to be asked for a sign of life."""
    SILENT = auto()
    """Waiters had better poll."""
    DEAD = auto()
    """It is to be given up."""


class Pulse:
    """Whether a connection that is listened on is alive.

    Time is counted in looks: each finds what has come in while the thread, or the whole machine, was busy.

    Args:
        trips_s: How long the two round trips have taken with which it began, in seconds.
    """

    def __init__(self, trips_s: float) -> None:
        self._silence = max(_LEAST_LOOKS_OF_SILENCE, math.ceil(2 * trips_s / LOOK_S))
        self._quiet = self._unanswered = 0

    def heard(self) -> None:
        """Something has come in."""
        self._quiet = self._unanswered = 0

    def looked(self, *, is_awaited: bool) -> Sign:
        """Nothing has come in for a look; `is_awaited` is whether somebody waits for something."""
        self._quiet += 1
        if self._unanswered:
            self._unanswered += 1
            if self._unanswered > self._silence + _MOST_LOOKS_OF_SILENCE:
                return Sign.DEAD
            return Sign.SILENT if self._unanswered > self._silence else Sign.WELL
        if is_awaited and self._quiet >= _LOOKS_OF_QUIET:
            self._unanswered = 1
            return Sign.TO_ASK
        return Sign.WELL
