"""The budget: how long, and how often, one step of an operation may ask the store.

A step (a read, an acquire, a fill) gets 250 ms by default, connecting and waiting for its turn included; an
operation whose step has used that up does without the store. An attempt may take all that is left of it: a
server that is slow, and answers in time, is waited for. How soon one that says nothing at all is left, for
another connection, is for those who see it: the connections. Retries belong to the core and end with the
step's deadline: redis-py, which repeats a command without knowing whether it is idempotent, is told never to
retry.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from sansio_cache.events import FailureKind, StoreFailed

MOST_REDIRECTS: Final = 6
"""How often one step may ask again because a key was elsewhere."""


class StoreTimeouts(Struct, frozen=True):
    """How long the store may take."""

    operation_s: float = 0.25
    """Seconds for a step, with its retries."""
    attempts: int = 3
    """How often a step may ask."""

    def from_now(self, now_s: float) -> Budget:
        """The budget of a step that begins at `now_s`."""
        return Budget(now_s + self.operation_s, self.operation_s, self.attempts)


class Budget(Struct, frozen=True, gc=False):
    """What is left to a step that is about to ask the store."""

    deadline_s: float
    """When the step must be over, on the driver's clock."""
    timeout_s: float
    """The seconds that the attempt may take which begins now."""
    attempts: int
    """How many attempts are left, this one included."""
    redirects: int = MOST_REDIRECTS
    """How often it may be told that it has asked in the wrong place: nothing was done then."""

    def at(self, now_s: float) -> Budget:
        """The same for an attempt that begins at `now_s`, and not when the budget was made."""
        timeout_s = max(min(self.timeout_s, self.deadline_s - now_s), 0.0)
        return Budget(self.deadline_s, timeout_s, self.attempts, self.redirects)

    def after(self, failure: StoreFailed) -> Budget | None:
        """The budget for another attempt that begins at once, or None."""
        now_s, attempts, redirects = failure.now_s, self.attempts - 1, self.redirects
        if failure.kind is FailureKind.MOVED:
            attempts, redirects = self.attempts, self.redirects - 1
        if not failure.kind.is_retryable or attempts < 1 or redirects < 0 or now_s >= self.deadline_s:
            return None
        return Budget(self.deadline_s, min(self.timeout_s, self.deadline_s - now_s), attempts, redirects)
