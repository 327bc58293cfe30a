"""The lease renewer: renews the leases of loads that run in other threads.

One thread for all of them, started with a load, asleep until a lease is a third over, and ended when there
has been none for some time. It runs the same renewal machines as the asynchronous driver does; between two of
their steps lies a `Sleep`, and its heap is what sleeps. All that are due ask the store in one batch: one
after the other, many would be too late where the server is far away.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

import attrs

from sansio_cache.commands import Renewal, RenewLeases, Sleep, StoreCommand
from sansio_cache.coordinator import renewing
from sansio_cache.events import LeasesRenewed, StoreEvent, StoreFailed, Woke
from sansio_cache.notices import Notice
from sansio_cache.step import Step
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadCondition

_IDLE_S: Final = 5.0
_MOST_AT_ONCE: Final = 500
_FEW: Final = 64
"""So many renewals that are over may be kept for nothing."""


@attrs.define(eq=False)
class _Kept:
    renewal: Renewal
    step: Step | None = None
    """Where its machine is; None before it has begun."""
    is_over: bool = False

    @property
    def command(self) -> object:
        """What it waits for."""
        return None if self.step is None else self.step.command


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
        self._changed = ThreadCondition(self._lock)
        self._due: list[tuple[float, int, _Kept]] = []
        self._numbers = itertools.count()
        self._over = 0
        """How many of them may be over: an hour would pass before they are due."""
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
            self._over += 1

    def close(self) -> None:
        """End the thread. Leases that are still kept lapse."""
        with self._lock:
            self._is_closed = True
            self._changed.notify()

    def _schedule(self, kept: _Kept, pause_s: float) -> None:
        with self._lock:
            self._forget()
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
            while due := self._next():
                self._renew(due)
            has_ended = True
        finally:
            # Where a subscriber has ended it (SystemExit, say), the next load starts another.
            if not has_ended:
                with self._lock:
                    self._is_running = False

    def _renew(self, due: Sequence[_Kept]) -> None:
        """Go on with renewals that are due; what they ask the store for, they ask together."""
        now_s = self._clock()
        asking: dict[int, list[_Kept]] = {}
        for kept in due:
            if kept.step is None:
                self._take(kept, renewing(kept.renewal, now_s))
            else:
                self._take(kept, kept.step.state.receive(Woke(now_s)))
            if isinstance(kept.command, RenewLeases):
                asking.setdefault(kept.command.lease_ms, []).append(kept)
        for together in asking.values():
            self._ask(together)

    def _ask(self, together: Sequence[_Kept]) -> None:
        """Renew leases of the same length in one batch. Where one of them is refused, each by itself."""
        commands = [kept.command for kept in together if isinstance(kept.command, RenewLeases)]
        leases = tuple(lease for command in commands for lease in command.leases)
        timeout_s = max(command.timeout_s for command in commands)
        event = self._perform(RenewLeases(leases, commands[0].lease_ms, timeout_s))
        if isinstance(event, StoreFailed) and len(together) > 1 and not event.kind.is_in_vain:
            for kept in together:
                self._ask([kept])
            return
        renewed = iter(event.renewed if isinstance(event, LeasesRenewed) else ())
        for kept, command in zip(together, commands, strict=True):
            own = event
            if isinstance(event, LeasesRenewed):
                own = LeasesRenewed(event.now_s, tuple(islice(renewed, len(command.leases))))
            assert kept.step is not None
            self._take(kept, kept.step.state.receive(own))

    def _take(self, kept: _Kept, step: Step) -> None:
        """Take in how far a renewal is, and put it off until it is due again."""
        kept.step = step
        self._note(step.notices)
        if isinstance(step.command, Sleep):  # not where it asks for something, or has come to its end
            self._schedule(kept, step.command.duration_s)

    def _next(self) -> list[_Kept]:
        """Wait for the next renewals that are due; none when it is time to end."""
        with self._lock:
            while not self._is_closed:
                self._forget()
                if not self._due:
                    # A renewal may have come at the very end of the wait.
                    if not self._changed.wait(_IDLE_S) and not self._due:
                        break
                    continue
                now_s = self._clock()
                due: list[_Kept] = []
                while self._due and self._due[0][0] <= now_s and len(due) < _MOST_AT_ONCE:
                    kept = heapq.heappop(self._due)[2]
                    if not kept.is_over:
                        due.append(kept)
                if due:
                    return due
                if self._due:
                    self._changed.wait(self._due[0][0] - now_s)
            self._is_running = False  # the next load starts another
            return []

    def _forget(self) -> None:
        """Drop what is over, under the lock: at once where it would be next, the rest once it is the most."""
        while self._due and self._due[0][2].is_over:
            heapq.heappop(self._due)
        if self._over > _FEW and 2 * self._over > len(self._due):
            self._over = 0
            self._due = [entry for entry in self._due if not entry[2].is_over]
            heapq.heapify(self._due)
