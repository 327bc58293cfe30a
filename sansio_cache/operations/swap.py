"""Swap: replace a value, if it is still the one that the caller has seen.

    SwapSwapping --CellSwapped--> done

One step at the store: it compares the id of the value with the one that the caller names, and stores the new
one under an id of its own. An id is never issued again (S3), so a swap that arrives late, or twice, changes
nothing. What is stale is not replaced: `expire` leaves the id alone, and the value would be fresh again. The
new value keeps the tags of the old one, as they were before *its* load: captured now, they would bring a
value back that was made of something invalidated.

*Unknown outcomes.* The cell says who has written it last, and no more. So a swap that is repeated after its
answer was lost, and meets another version, may have been done and been overtaken since: that is said as
unknown, and never as a conflict (counted otherwise, three increments come out of two).
"""

from __future__ import annotations

from typing import assert_never

import attrs

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import SwapCell
from sansio_cache.entry import MissReason
from sansio_cache.events import CellSwapped, Event, Interrupted, StoreFailed, SwapAnswer
from sansio_cache.notices import (
    Ended,
    InvalidationFailed,
    Notice,
    OperationName,
    Stored,
    SwapRefused,
)
from sansio_cache.operations.invalidate import void
from sansio_cache.operations.set_many import Item
from sansio_cache.step import (
    AsksStore,
    Outcome,
    Refused,
    Step,
    Swapped,
    Unknown,
    ended,
    evolve,
    gave_up,
    unexpected,
    unknown,
)


@attrs.frozen
class SwapRequest:
    """What is to be replaced, and by what."""

    item: Item
    """The new value; its times to live are 0 where it is to keep what the old one has left."""
    version: bytes
    """The id of the value that is to be replaced."""
    nonce: bytes
    """8 random bytes."""
    timeouts: StoreTimeouts
    started_s: float

    @property
    def key(self) -> str:
        """The full key."""
        return self.item.key

    def command(self, timeout_s: float) -> SwapCell:
        """What the store is asked for."""
        item, fill = self.item, self.item.under(self.version)
        ttls = (item.hard_ttl_ms, item.soft_ttl_ms)
        return SwapCell(item.key, self.version, self.nonce, *ttls, fill.body, timeout_s)


def swap(request: SwapRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a swap.

    `skip` is the reason not to ask the store, if there is one: the caller is told, and where the store does
    not serve the key is pending, as what the caller writes elsewhere may be done.
    """
    if skip is None:
        return SwapSwapping(request, request.timeouts.from_now(request.started_s)).ask()
    over = Ended(OperationName.SWAP, 0.0)
    if skip is MissReason.STORE_ERROR:
        return ended(Refused(skip), InvalidationFailed((request.key,), was_tried=False), over)
    return ended(Refused(skip), over)


@attrs.frozen
class SwapSwapping(AsksStore):
    """Waits for the value to be replaced.

    Next: SwapSwapping | InvalidateDeleting | done
    """

    request: SwapRequest
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, self.request.command(self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End."""
        if not isinstance(event, SwapAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellSwapped(now_s=now_s, version=None) if self.is_unsure:
                return self._end(Unknown(None), now_s, InvalidationFailed((request.key,), was_tried=False))
            case CellSwapped(now_s=now_s, version=None):
                return self._end(Swapped(None), now_s, SwapRefused(request.key))
            case CellSwapped(now_s=now_s, version=version):
                return self._end(Swapped(version), now_s, Stored(request.key))
            case StoreFailed(now_s=now_s):
                unsure = evolve(self, is_unsure=self.is_unsure or not event.kind.is_refusal)
                failed = InvalidationFailed((request.key,), was_tried=False)
                outcome = unknown(event, was_unsure=self.is_unsure)
                return unsure.retry(event) or self._end(outcome, now_s, *gave_up(event), failed)
            case Interrupted(now_s=now_s):
                return void((request.key,), request.timeouts, now_s)
            case _:
                assert_never(event)

    def _end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        return ended(outcome, *notices, Ended(OperationName.SWAP, now_s - self.request.started_s))
