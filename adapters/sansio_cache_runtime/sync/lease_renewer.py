"""The lease renewer: renews the leases of loads that run in other threads.

One thread for all of them, started with a load, asleep until a lease is a third over, and ended when there
has been none for some time. It runs the same renewal machines as the asynchronous driver does; between two of
their steps lies a `Sleep`, and its heap is what sleeps. All that are due ask the store in one batch: one
after the other, many would be too late where the server is far away.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from sansio_cache.commands import RenewLeases, Sleep, StoreCommand
from sansio_cache.coordinator import renewing
from sansio_cache.events import LeasesRenewed, StoreEvent, StoreFailed, Woke
from sansio_cache.notices import Notice
from sansio_cache.step import Step
from sansio_cache_runtime.lease_renewer_base import LeaseRenewerBase
from sansio_cache_runtime.loaders import Running
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadCondition

_IDLE_S: Final = 5.0
_SHORTEST_S: Final = 0.05


class LeaseRenewer(LeaseRenewerBase):
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
        super().__init__(clock)
        self._background = background
        self._perform = perform
        self._note = note
        self._changed = ThreadCondition(self._lock)
        self._is_running = False
        self._is_closed = False

    def close(self) -> None:
        """End the thread. Leases that are still kept lapse."""
        with self._lock:
            self._is_closed = True
            self._changed.notify()

    def _wake_at(self, due_s: float) -> None:
        if self._is_running:
            self._changed.notify()
            self._wakes_s = due_s  # last: an interrupt must not leave it asleep
        elif self._background.start(self._run, "sansio-cache-lease-renewer"):
            self._is_running, self._wakes_s = True, -math.inf
        # Else the system has no more threads to give, and the lease will lapse.

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
                    self._stop()

    def _renew(self, due: Sequence[Running]) -> None:
        """Go on with renewals that are due; what they ask the store for, they ask together."""
        now_s = self._clock()
        asking: dict[int, list[Running]] = {}
        for kept in due:
            if kept.step is None:
                assert kept.renewal is not None
                self._take(kept, renewing(kept.renewal, now_s))
            else:
                self._take(kept, kept.step.state.receive(Woke(now_s)))
            if isinstance(kept.command, RenewLeases):
                asking.setdefault(kept.command.lease_ms, []).append(kept)
        for together in asking.values():
            self._ask(together)

    def _ask(self, together: Sequence[Running]) -> None:
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

    def _take(self, kept: Running, step: Step) -> None:
        """Take in how far a renewal is, and put it off until it is due again."""
        kept.step = step
        self._note(step.notices)
        if isinstance(step.command, Sleep):  # not where it asks for something, or has come to its end
            with self._lock:
                due_s = self._clock() + step.command.duration_s
                heapq.heappush(self._due, (due_s, next(self._numbers), kept))

    def _next(self) -> list[Running]:
        """Wait for the next renewals that are due; none when it is time to end."""
        with self._lock:
            idle_s = _IDLE_S
            while not self._is_closed:
                if self._due:
                    idle_s = _IDLE_S
                if due := self._take_due():
                    return due
                first_s = self._first_s()
                if first_s is not None:
                    self._wait(min(first_s - self._clock(), _IDLE_S))  # what is over may be gone sooner
                    continue
                # No longer than until a lease would be due that begins now: then it need not be told of it.
                longest_s = min(idle_s, max(self._pause_s, _SHORTEST_S))
                if not self._wait(longest_s):
                    idle_s -= longest_s
                    if idle_s <= 0 and not self._due:  # one may have come at the very end of it
                        break
            self._stop()  # the next load starts another
            return []

    def _wait(self, longest_s: float) -> bool:
        """Wait until something is due earlier, or so many seconds have passed. Whether something is."""
        self._wakes_s = self._clock() + longest_s
        try:
            return self._changed.wait(longest_s)
        finally:
            self._wakes_s = -math.inf  # it looks, before it waits again

    def _stop(self) -> None:
        """The thread ends. Under the lock."""
        self._is_running, self._wakes_s = False, math.inf
