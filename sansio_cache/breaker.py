"""The circuit breaker: while the store is out, reads do not ask it.

    closed --an operation gave up--> open --a probe was answered--> closed

One operation that gave up on an outage opens it: that operation has waited for the whole of its time, and
nobody else should. Readers never probe; `operations/recovery.py` does, in the background. Only reads are
gated: an invalidation always tries.
"""

from __future__ import annotations

from msgspec import Struct

from sansio_cache.events import FailureKind


class Breaker(Struct, frozen=True):
    """Closed (`open_since_s` None) or open. `kind` is the failure that opened it."""

    open_since_s: float | None = None
    kind: FailureKind | None = None

    @property
    def is_open(self) -> bool:
        """Whether reads are to do without the store."""
        return self.open_since_s is not None

    def after_failure(self, kind: FailureKind, now_s: float) -> Breaker:
        """The breaker after an operation gave up, at `now_s` on the driver's clock."""
        if self.is_open or not kind.is_outage:
            return self
        return Breaker(now_s, kind)

    def after_answer(self) -> Breaker:
        """The breaker after a probe was answered."""
        return Breaker()
