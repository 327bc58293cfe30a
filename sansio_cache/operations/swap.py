"""Swap: replace a value, if it is still the one that the caller has seen.

    SwapSwapping --CellSwapped--> done
       ^ CellInspected
    SwapLooking, where entries are signed

One step at the store: it compares the id of the value with the one that the caller names, and stores the new
one under an id of its own. An id is never issued again (S3), so a swap that arrives late, or twice, changes
nothing. What is stale is not replaced: `expire` leaves the id alone, and the value would be fresh again. The
new value keeps the tags of the old one, as they were before *its* load: captured now, they would bring a
value back that was made of something invalidated.

*Signed entries.* A signature covers the tags with their versions, and the id of the fill. So the value that
is to be replaced is looked at first, and verified; the new one's id is made of the nonce, which nobody else
has, and of the time at which the store has shown the old one.

*Unknown outcomes.* The cell says who has written it last, and no more. So a swap that is repeated after its
answer was lost, and meets another version, may have been done and been overtaken since: that is said as
unknown, and never as a conflict (counted otherwise, three increments come out of two).
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Cell, Kind, make_grant
from sansio_cache.commands import InspectCell, SwapCell
from sansio_cache.entry import MissReason, Unservable, seal, seal_instead, weigh
from sansio_cache.events import (
    CellInspected,
    CellSwapped,
    Event,
    InspectAnswer,
    Interrupted,
    StoreFailed,
    SwapAnswer,
)
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
    Abandoned,
    AsksOnce,
    AsksStore,
    Outcome,
    Refused,
    Step,
    Swapped,
    Unknown,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)


class SwapRequest(Struct, frozen=True):
    """What is to be replaced, and by what."""

    item: Item
    """The new value; its times to live are 0 where it is to keep what the old one has left."""
    version: bytes
    """The id of the value that is to be replaced."""
    nonce: bytes
    """8 random bytes."""
    timeouts: StoreTimeouts
    started_s: float
    of: Cell | None = None
    """The entry that is to be replaced, verified, where entries are signed."""
    seen_ms: int = 0
    """When the store has shown it, on the server's clock."""

    @property
    def key(self) -> str:
        """The full key."""
        return self.item.key

    def command(self, timeout_s: float) -> SwapCell:
        """What the store is asked for."""
        item, payload = self.item, self.item.payload
        assert payload is not None, "None takes no value's place"
        ttls = (item.hard_ttl_ms, item.soft_ttl_ms)
        if self.of is None:
            body = seal(item.key, item.codec, payload, 0.0)
            return SwapCell(item.key, self.version, self.nonce, *ttls, body, timeout_s)
        fill_id = make_grant(self.nonce, self.seen_ms * 1000)
        body = seal_instead(self.of, item.key, item.codec, payload, fill_id, item.hard_ttl_ms)
        return SwapCell(item.key, self.version, self.nonce, *ttls, body, timeout_s, fill_id)

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.SWAP, now_s - self.started_s))


def swap(request: SwapRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a swap.

    `skip` is the reason not to ask the store, if there is one: the caller is told, and where the store does
    not serve the key is pending, as what the caller writes elsewhere may be done.
    """
    if skip is None:
        budget = request.timeouts.from_now(request.started_s)
        is_signed = request.item.codec.signer is not None
        return (SwapLooking if is_signed else SwapSwapping)(request, budget).ask()
    over = Ended(OperationName.SWAP, 0.0)
    if skip is MissReason.STORE_ERROR:
        return ended(Refused(skip), InvalidationFailed((request.key,), was_tried=False), over)
    return ended(Refused(skip), over)


class SwapLooking(AsksStore, Struct, frozen=True):
    """Waits for the entry that is to be replaced, as the signature of the new one covers its tags.

    Next: SwapLooking | SwapSwapping | done
    """

    request: SwapRequest
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, InspectCell(self.request.key, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Replace it, if it is the very one, and somebody has signed it who knows a key."""
        if not isinstance(event, InspectAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellInspected(now_s=now_s, cell=cell, server_ms=server_ms):
                if not isinstance(cell, Cell) or cell.kind != Kind.VALUE or cell.filled_by != request.version:
                    return request.end(Swapped(None), now_s, SwapRefused(request.key))
                verdict = weigh(cell, request.key, server_ms, (), request.item.codec.signer)
                if isinstance(verdict, Unservable):
                    return request.end(Swapped(None), now_s, SwapRefused(request.key))
                seen = evolve(request, of=cell, seen_ms=server_ms)
                return SwapSwapping(seen, request.timeouts.from_now(now_s)).ask()
            case StoreFailed(now_s=now_s):
                # Nothing was done. What the caller has written elsewhere may be, so the key is pending.
                failed = InvalidationFailed((request.key,), was_tried=False)
                over = request.end(unavailable(event), now_s, *gave_up(event), failed)
                return self.retry(event) or over
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class SwapSwapping(AsksOnce, Struct, frozen=True):
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
                failed = InvalidationFailed((request.key,), was_tried=False)
                return request.end(Unknown(None), now_s, failed)
            case CellSwapped(now_s=now_s, version=None):
                return request.end(Swapped(None), now_s, SwapRefused(request.key))
            case CellSwapped(now_s=now_s, version=version):
                return request.end(Swapped(version), now_s, Stored(request.key, version=version or b""))
            case StoreFailed(now_s=now_s):
                failed = InvalidationFailed((request.key,), was_tried=False)
                outcome = self.unknown(event)
                return self.retry(event) or request.end(outcome, now_s, *gave_up(event), failed)
            case Interrupted(now_s=now_s):
                return void((request.key,), request.timeouts, now_s)
            case _:
                assert_never(event)
