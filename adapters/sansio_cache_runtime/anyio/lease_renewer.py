"""The lease renewer of an event loop: renews the leases of loads that run in it.

One timer for all of them, set for the first that is due. Only then does a renewal's machine begin, as a task
that ends with the load.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any
from weakref import ref

from sansio_cache.coordinator import renewing
from sansio_cache.step import Step
from sansio_cache_runtime.anyio.background import Background
from sansio_cache_runtime.lease_renewer_base import LeaseRenewerBase
from sansio_cache_runtime.loaders import Running


class LeaseRenewer(LeaseRenewerBase):
    """Runs renewal machines beside the tasks that load.

    Args:
        clock: Monotonic, in seconds.
        background: Starts timers and tasks.
        run: Runs an operation to its end.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        background: Background,
        run: Callable[[Step], Awaitable[Any]],
    ) -> None:
        super().__init__(clock)
        self._background = background
        self._run = run
        self._cancel: Callable[[], object] = int

    def close(self) -> None:
        """End the timer. Leases that are still kept lapse."""
        self._cancel()

    def _wake_at(self, due_s: float) -> None:
        self._cancel()
        self._wakes_s = due_s
        delay_s = max(due_s - self._clock(), 0.0)
        # Not in the context of who loads, as it is for all; and a cache that is dropped need not wait for it.
        wake = partial(_wake, ref(self))
        self._cancel = Context().run(self._background.start_after, delay_s, wake)

    def begin_due(self) -> None:
        """Begin what is due, and look again when the next is."""
        with self._lock:
            self._wakes_s, self._cancel = math.inf, int
            due, first_s = self._take_due(), self._first_s()
            if first_s is not None:
                self._wake_at(first_s)
        for kept in due:
            kept.cancel = self._background.start(partial(self._renew, kept))

    async def _renew(self, kept: Running) -> None:
        assert kept.renewal is not None
        await self._run(renewing(kept.renewal, self._clock()))


def _wake(renewer: ref[LeaseRenewer]) -> None:
    found = renewer()
    if found is not None:
        found.begin_due()
