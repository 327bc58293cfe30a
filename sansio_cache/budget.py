"""The budget: how long, and how often, one step of an operation may ask the store.

An attempt gets 100 ms and a step (a read, an acquire, a fill) 250 ms by default, connecting included; an
operation whose step has used that up does without the store. Retries belong to the core and end with the
step's deadline: redis-py, which repeats a command without knowing whether
it is idempotent, is told never to retry.
"""

from __future__ import annotations

from msgspec import Struct

from sansio_cache.events import StoreFailed


class StoreTimeouts(Struct, frozen=True):
    """How long the store may take: seconds for one attempt, and for a step with its retries."""

    attempt_s: float = 0.1
    operation_s: float = 0.25
    attempts: int = 3

    def from_now(self, now_s: float) -> Budget:
        """The budget of a step that begins at `now_s`."""
        return Budget(now_s + self.operation_s, self.attempt_s, self.attempts)


class Budget(Struct, frozen=True, gc=False):
    """What is left to a step: a deadline on the driver's clock, and attempts."""

    deadline_s: float
    attempt_s: float
    attempts: int

    def timeout_s(self, now_s: float) -> float:
        """The seconds that an attempt beginning at `now_s` may take."""
        left_s = self.deadline_s - now_s
        if left_s >= self.attempt_s:
            return self.attempt_s
        return max(left_s, 0.0)

    def after(self, failure: StoreFailed) -> Budget | None:
        """The budget for another attempt, or None."""
        if not failure.kind.is_retryable or self.attempts <= 1:
            return None
        if failure.now_s >= self.deadline_s:
            return None
        return Budget(self.deadline_s, self.attempt_s, self.attempts - 1)
