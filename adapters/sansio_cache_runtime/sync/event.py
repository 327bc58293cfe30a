"""An event and a condition for threads that a signal handler cannot break.

`threading.Event` has a lock inside, which a thread takes as it begins and ends to wait, and as it sets the
event. An exception of a signal handler in between leaves it taken: then whoever sets the event waits for
ever. So would a handler that sets the event which its own thread is about to wait for. This one has no lock:
who waits brings a lock of his own, and is woken by its release.

`threading.Condition.notify` passes over every `RuntimeError` and `ValueError`, also over one that a handler
raises in it.
"""

from __future__ import annotations

import threading
from collections import deque

from sansio_cache.signals import let_through


class ThreadEvent:
    """Like `threading.Event`, for any number of threads, handlers and finalisers."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: deque[threading.Lock] = deque()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait. Who was interrupted in it calls it again."""
        self._is_set = True  # first: who begins to wait from here on looks at it once more
        for waiter in self._waiters.copy():
            try:
                waiter.release()
            except RuntimeError as error:  # another has set it as well
                let_through(error)

    def clear(self) -> None:
        """Let who comes now wait."""
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, or no longer than so many seconds. Whether it was set."""
        if self._is_set:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        try:
            self._waiters.append(waiter)
            if self.is_set():  # it may have been set before it could know of this one
                return True
            return waiter.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0)) or self._is_set
        finally:
            if waiter in self._waiters:  # not where it was interrupted before it waited
                self._waiters.remove(waiter)


class ThreadCondition:
    """Like `threading.Condition`, and what a handler raises as it notifies goes on to the program.

    Args:
        lock: What its users hold, once, as they wait and notify.
    """

    __slots__ = ("_lock", "_waiters")

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._waiters: list[threading.Lock] = []

    def wait(self, timeout_s: float) -> bool:
        """Let go of the lock until somebody notifies, or for so many seconds. Whether somebody has."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        self._lock.release()
        try:
            return waiter.acquire(timeout=max(timeout_s, 0.0))
        finally:
            self._lock.acquire()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def notify(self) -> None:
        """Wake one who waits."""
        for waiter in self._waiters[:]:
            if self._wakes(waiter):
                return

    def notify_all(self) -> None:
        """Wake all who wait."""
        for waiter in self._waiters[:]:
            self._wakes(waiter)

    def _wakes(self, waiter: threading.Lock) -> bool:
        """Wake one. False where it is awake: an interrupt kept it from being taken off the list, say."""
        is_woken = True
        try:
            waiter.release()
        except RuntimeError as error:
            let_through(error)
            is_woken = False
        try:
            self._waiters.remove(waiter)
        except ValueError as error:  # a finaliser has woken it meanwhile
            let_through(error)
        return is_woken
