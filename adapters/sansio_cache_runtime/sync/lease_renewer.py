"""The lease renewer: renews the leases of loads that run in other threads.

One thread for all of them, started with a load, asleep until a lease is a third over, and ended when there
has been none for some time. It runs the same renewal machine as the asynchronous driver does; between two of
its steps lies a `Sleep`, and its heap is what sleeps.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs

from sansio_cache.commands import Renewal, Sleep, StoreCommand
from sansio_cache.coordinator import renewing
from sansio_cache.events import StoreEvent, Woke
from sansio_cache.notices import Notice
from sansio_cache.step import Step
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.background import Background

_IDLE_S: Final = 5.0


@attrs.define(eq=False)
class _Kept:
    renewal: Renewal
    step: Step | None = None
    """Where its machine is; None before it has begun."""
    is_over: bool = False


class LeaseRenewer:
    """Runs renewal machines beside the threads that load.

    Args:
        clock: Monotonic, in seconds.
        background: Starts the thread.
        perform: Answers a store command.
        note: Takes notices in.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        background: Background,
        perform: Callable[[StoreCommand], StoreEvent],
        note: Callable[[Sequence[Notice]], None],
    ) -> None:
        self._clock = clock
        self._background = background
        self._perform = perform
        self._note = note
        # Entered by itself: the `__exit__` of a Condition is a Python function, in which Ctrl-C may strike
        # before it has released the lock.
        self._lock = process_lock()
        self._changed = threading.Condition(self._lock)
        self._due: list[tuple[float, int, _Kept]] = []
        self._numbers = itertools.count()
        self._is_running = False
        self._is_closed = False

    @contextmanager
    def keeping(self, renewal: Renewal | None) -> Iterator[None]:
        """Renew while the block runs."""
        if renewal is None:
            yield
            return
        kept = _Kept(renewal)
        try:  # around the beginning as well, where Ctrl-C may strike
            self._schedule(kept, renewal.pause_s)
            yield
        finally:
            kept.is_over = True

    def close(self) -> None:
        """End the thread. Leases that are still kept lapse."""
        with self._lock:
            self._is_closed = True
            self._changed.notify()

    def _schedule(self, kept: _Kept, pause_s: float) -> None:
        with self._lock:
            due_s = self._clock() + pause_s
            heapq.heappush(self._due, (due_s, next(self._numbers), kept))
            if not self._is_running:
                # Where the system has no more threads to give the lease will lapse.
                self._is_running = self._background.start(self._run, "sansio-cache-lease-renewer")
            elif self._due[0][2] is kept:
                self._changed.notify()

    def _run(self) -> None:
        has_ended = False
        try:
            while (kept := self._next()) is not None:
                now_s = self._clock()
                if kept.step is None:
                    step = renewing(kept.renewal, now_s)
                else:
                    step = kept.step.state.receive(Woke(now_s))
                self._note(step.notices)
                while isinstance(step.command, StoreCommand):
                    step = step.state.receive(self._perform(step.command))
                    self._note(step.notices)
                kept.step = step
                if isinstance(step.command, Sleep):  # not where it has come to its end
                    self._schedule(kept, step.command.duration_s)
            has_ended = True
        finally:
            # Where a subscriber has ended it (SystemExit, say), the next load starts another.
            if not has_ended:
                with self._lock:
                    self._is_running = False

    def _next(self) -> _Kept | None:
        """Wait for the next renewal that is due; None when it is time to end."""
        with self._lock:
            while not self._is_closed:
                while self._due and self._due[0][2].is_over:
                    heapq.heappop(self._due)
                if not self._due:
                    # A renewal may have come at the very end of the wait.
                    if not self._changed.wait(_IDLE_S) and not self._due:
                        break
                    continue
                left_s = self._due[0][0] - self._clock()
                if left_s <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left_s)
            self._is_running = False  # the next load starts another
            return None
