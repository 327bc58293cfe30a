"""What the lease renewers of both colours share: the renewals that are due later, and when to look.

Most loaders have returned before a third of their lease is over, so a renewal is only an entry in a heap
until then: no machine, no task, no timer of its own. Whoever renews is woken once for all of them, when the
first is due. What is over by then is passed over.
"""

from __future__ import annotations

import heapq
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from sansio_cache_runtime.loaders import Running
from sansio_cache_runtime.process import process_lock

MOST_AT_ONCE: Final = 500
"""How many renewals are gone on with at once."""
_FEW: Final = 64
"""So many renewals that are over may be kept for nothing."""


class LeaseRenewerBase(ABC):
    """The part of a lease renewer that neither waits nor does I/O.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Entered by itself: the `__exit__` of a Condition is a Python function, in which Ctrl-C may strike
        # before it has released the lock.
        self._lock = process_lock()
        self._due: list[tuple[float, int, Running]] = []
        self._numbers = itertools.count()
        self._over = 0
        """How many of them may be over: an hour would pass before they are due."""
        self._wakes_s = math.inf
        """When somebody looks what is due, on the clock."""
        self._pause_s = 0.0
        """How long the latest may pause; most are alike."""

    def keep(self, running: Running) -> None:
        """Renew leases, if any, when a third of them is over. To be ended, also where it fails."""
        renewal = running.renewal
        if renewal is None:
            return
        with self._lock:
            self._pause_s = renewal.pause_s
            due_s = self._clock() + self._pause_s
            heapq.heappush(self._due, (due_s, next(self._numbers), running))
            if due_s < self._wakes_s:  # as is rare: most leases last as long as those before them
                self._wake_at(due_s)

    def end(self, running: Running) -> None:
        """Renew these leases no more.

        It is interrupted maybe before it begins: who calls it says before that they are over.
        """
        running.is_over = True
        if running.renewal is None:
            return
        running.cancel()
        self._over += 1
        if self._over > _FEW and 2 * self._over > len(self._due):
            with self._lock:
                self._forget()

    @abstractmethod
    def close(self) -> None:
        """Look no more what is due. Leases that are still kept lapse."""

    @abstractmethod
    def _wake_at(self, due_s: float) -> None:
        """Have somebody look what is due then, and set when. Under the lock."""

    def _take_due(self) -> list[Running]:
        """What is due by now. Under the lock."""
        now_s = self._clock()
        due: list[Running] = []
        while self._due and self._due[0][0] <= now_s and len(due) < MOST_AT_ONCE:
            running = heapq.heappop(self._due)[2]
            if not running.is_over:
                due.append(running)
        return due

    def _first_s(self) -> float | None:
        """When the first that is not over is due; None where there is none. Under the lock."""
        while self._due and self._due[0][2].is_over:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _forget(self) -> None:
        """Drop what is over. Under the lock."""
        self._over = 0
        self._due = [entry for entry in self._due if not entry[2].is_over]
        heapq.heapify(self._due)
