"""Mutate: write the database while the keys are held.

    begin:  MutateHolding --HoldsTaken--> the caller's block runs, the holds are renewed beside it
    end:    MutateFilling --CellsFilled--> InvalidateDeleting --> done

While a key is held, readers load and do not store; so no value that was read before the commit can be
stored after it. At the end, what the block has set is filled under the grant of its hold (a fencing token),
and everything else is removed: also a key whose fill was refused (another writer came between, and nobody can
say which of them committed last), and all keys where the block raised, as it may have committed (S6).

Where the store cannot be asked the block runs all the same, and the end tries to remove the keys. While the
breaker is open nobody waits: nothing is held or filled, and the keys are pending when the call returns.

The budget is two steps' (L5): one for the holds, and one for all of the end. A removal for which the fill has
left too little of that is pending as well, and the store is told of it in the background at once.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import Capture, Fill, FillCells, HoldCells, Lease, Renewal
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    CellsFilled,
    Event,
    FillAnswer,
    FillResult,
    HoldAnswer,
    HoldsTaken,
    Interrupted,
    StoreFailed,
)
from sansio_cache.notices import Notice, OperationName
from sansio_cache.operations.filling import to_be_judged, told
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate, void
from sansio_cache.operations.renewal import renewed_after_s
from sansio_cache.operations.set_many import Item
from sansio_cache.step import AsksStore, ManyHeld, Step, ended, evolve, gave_up, unexpected, went_without
from sansio_cache.tags import Versions, tag_keys


class MutateRequest(Struct, frozen=True):
    """How a mutation begins."""

    keys: tuple[str, ...]
    """The keys to hold."""
    nonce: bytes
    """8 random bytes."""
    hold_ms: int
    """How long the holds last each time that they are renewed."""
    max_hold_s: float
    """For how long they are renewed at most."""
    timeouts: StoreTimeouts
    started_s: float
    value_tags: tuple[str, ...] = ()
    """The names of the tags that the values to be stored will carry. Their versions are captured before the
    block runs: whoever invalidates one of them meanwhile takes the values away."""
    tag_ttl_ms: int = 0
    """How long these versions are kept at least."""


class EndRequest(Struct, frozen=True):
    """How a mutation ends."""

    keys: tuple[str, ...]
    grants: tuple[bytes, ...] | None
    """The holds' grants; None where there are none."""
    items: tuple[Item, ...]
    """The values to store."""
    timeouts: StoreTimeouts
    started_s: float
    tags: tuple[str, ...] = ()
    """The keys of tags to invalidate."""
    versions: Versions = ()
    """The tags that the values carry, as they were when the block began."""
    hold_ms: int = 0
    """How long the holds were to last; 0 where they may have been renewed."""


def begin(request: MutateRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a mutation. `skip` is the reason not to ask the store, if there is one: nothing is held then."""
    if skip is not None or not request.keys:
        return ended(ManyHeld(None, None))
    now_s = request.started_s
    return MutateHolding(request, request.timeouts.from_now(now_s)).ask()


def end(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """Begin the end of a mutation.

    `skip` is the reason not to ask the store, if there is one: what the block has set is not stored then, and
    all keys are removed when the store can be told.
    """
    if skip is not None:
        return _remove(request, request.keys, request.started_s, skip=skip)
    now_s = request.started_s
    grants = dict(zip(request.keys, request.grants or (), strict=False))
    fills = tuple(
        item.under(grants[item.key], request.versions, request.hold_ms)
        for item in request.items
        if item.key in grants
    )
    if not fills:
        return _remove(request, request.keys, now_s)
    return MutateFilling(request, fills, request.timeouts.from_now(now_s)).ask()


def _remove(
    request: EndRequest,
    keys: tuple[str, ...],
    now_s: float,
    *notices: Notice,
    skip: MissReason | None = None,
    instead: bool = False,
) -> Step:
    gone = (*keys, *request.tags)
    chunk = max(len(gone), 1)
    when = (request.timeouts, request.started_s)
    deletion = InvalidateRequest(OperationName.MUTATE, gone, chunk, *when, instead=instead)
    step = invalidate(deletion, skip=skip, now_s=now_s)
    return evolve(step, notices=(*notices, *step.notices))


class MutateHolding(AsksStore, Struct, frozen=True):
    """Waits for the holds.

    Next: MutateHolding | InvalidateDeleting | done
    """

    request: MutateRequest
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        timeout_s = self.budget.timeout_s
        capture = Capture(tag_keys(request.keys[0], request.value_tags), request.tag_ttl_ms)
        command = HoldCells(request.keys, request.nonce, request.hold_ms, timeout_s, capture)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Let the caller's block run."""
        if not isinstance(event, HoldAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case HoldsTaken(now_s=now_s, grants=grants, versions=versions) if len(grants) == len(
                request.keys
            ) and len(versions) == len(request.value_tags):
                if again := self.retry_parts(event.failures):
                    return again
                pairs = zip(request.keys, grants, strict=True)
                leases = tuple(Lease(key, grant) for key, grant in pairs)
                until_s = now_s + request.max_hold_s
                pause_s = renewed_after_s(request.hold_ms)
                renewal = Renewal(leases, request.hold_ms, until_s, request.timeouts.operation_s, pause_s)
                tied = tuple(zip(request.value_tags, versions, strict=True))
                # What could not be held is removed at the end, as its fill will be refused.
                return ended(ManyHeld(grants, renewal, tied), *went_without(event.failures))
            case HoldsTaken():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or ended(ManyHeld(None, None), *gave_up(event))
            case Interrupted(now_s=now_s):
                return void(request.keys, request.timeouts, now_s)
            case _:
                assert_never(event)


class MutateFilling(AsksStore, Struct, frozen=True):
    """Waits for the values of a mutation to be stored.

    Next: MutateFilling | InvalidateDeleting | done
    """

    request: EndRequest
    fills: tuple[Fill, ...]
    budget: Budget
    stored: tuple[str, ...] = ()
    """The keys of those that are stored already."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = FillCells(self.fills, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove what was not stored."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellsFilled(now_s=now_s, results=results) if len(results) == len(self.fills):
                if again := self.retry_parts(event.failures):
                    return again
                pairs = zip(self.fills, results, strict=True)
                stored = (*self.stored, *(fill.key for fill, result in pairs if result.is_accepted))
                notices = (*went_without(event.failures), *told(self.fills, results))
                if FillResult.CHANGED in results:
                    fills, budget = to_be_judged(self.fills, results), self.budget.at(now_s)
                    return evolve(self, fills=fills, budget=budget, stored=stored).ask(*notices)
                rest = tuple(key for key in request.keys if key not in stored)
                return _remove(request, rest, now_s, *notices)
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s, kind=kind):
                # A removal would only wait once more: it is left to the background.
                skip = MissReason.STORE_ERROR if kind.is_in_vain else None
                again = self.retry(event)
                said = gave_up(event)
                return again or _remove(request, request.keys, now_s, *said, skip=skip, instead=True)
            case Interrupted(now_s=now_s):
                return void((*request.keys, *request.tags), request.timeouts, now_s)
            case _:
                assert_never(event)
