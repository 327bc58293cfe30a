"""Set, and set many: hold the keys, then fill them under the holds' grants.

    SetHolding --HoldsTaken--> SetFilling --CellsFilled--> SetHolding (next chunk) ... --> done
       | failed                   | failed
       +--------------------------+--> the keys are reported as not invalidated: pending invalidations

A lone SET would be wrong: it may arrive late, after an invalidation that was sent after it, and bring the
value back. So the value goes only into the cell that the hold left (S4), and taking the hold voids the
loads in flight. Between two racing `set`s the last one wins, which need not be the one that wrote the
database last; `mutate` is the answer to that.

Interrupted, or without an answer from the store, nobody knows what the cells hold: they are removed. Where
the breaker is open the store is not asked, and nobody waits: a value that arrives late would be an older one.
"""

from __future__ import annotations

from typing import Any, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import NO_TAGS, Capture, Fill, FillCells, HoldCells
from sansio_cache.entry import MissReason, seal
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
from sansio_cache.notices import (
    Ended,
    InvalidationFailed,
    Notice,
    OperationName,
)
from sansio_cache.operations.filling import to_be_judged, told
from sansio_cache.operations.invalidate import void
from sansio_cache.step import AsksStore, ManyStored, Step, ended, evolve, gave_up, unexpected, went_without
from sansio_cache.tags import Versions, tag_keys


class Item(Struct, frozen=True):
    """One value to store."""

    key: str
    codec: Codec[Any]
    """What encoded the payload."""
    payload: bytes | None
    """None where there is nothing, which is stored as well."""
    hard_ttl_ms: int
    soft_ttl_ms: int
    """0: the value is fresh for as long as it is there."""

    def under(self, grant: bytes, versions: Versions = (), hold_ms: int = 0) -> Fill:
        """The fill of this value under a hold's grant, tied to tags as they were before.

        `hold_ms` is how long the hold was to last, 0 where it may have been renewed.
        """
        body = seal(self.key, self.codec, self.payload, 0.0, versions, grant, self.hard_ttl_ms)
        return Fill(self.key, grant, self.hard_ttl_ms, self.soft_ttl_ms, body, Kind.HOLD, hold_ms)


class SetRequest(Struct, frozen=True):
    """What is to be stored."""

    operation: OperationName
    items: tuple[Item, ...]
    nonce: bytes
    """8 random bytes."""
    hold_ms: int
    """How long the holds last."""
    chunk: int
    """How many keys may go into one command of the store."""
    timeouts: StoreTimeouts
    started_s: float
    tags: tuple[str, ...] = ()
    """The names of the tags of all these values. Their versions are captured with the holds: a tag that is
    invalidated after that takes the values with it."""

    @property
    def capture(self) -> Capture:
        """What is to be known of the tags. They outlive the longest of the entries twice over."""
        if not self.tags:
            return NO_TAGS
        longest_ms = max(item.hard_ttl_ms for item in self.items)
        return Capture(tag_keys(self.items[0].key, self.tags), 2 * longest_ms)


def set_many(request: SetRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to store values.

    `skip` is the reason not to ask the store, if there is one: where it does not serve, nobody waits, and the
    keys are pending; where the cache is disabled nothing is done.
    """
    if request.items and skip is None:
        return _hold_next(request, (), (), request.started_s)
    nothing = ManyStored((None,) * len(request.items))
    over = Ended(request.operation, 0.0)
    if not request.items or skip is MissReason.DISABLED:
        return ended(nothing, over)
    keys = tuple(item.key for item in request.items)
    return ended(nothing, InvalidationFailed(keys, was_tried=False), over)


def _hold_next(
    request: SetRequest, done: tuple[FillResult, ...], tied: Versions, now_s: float, *notices: Notice
) -> Step:
    items = request.items[len(done) : len(done) + request.chunk]
    return SetHolding(request, done, items, request.timeouts.from_now(now_s), tied).ask(*notices)


def _give_up(
    request: SetRequest, done: tuple[FillResult, ...], failure: StoreFailed, *notices: Notice
) -> Step:
    rest = request.items[len(done) :]
    return ended(
        ManyStored((*done, *(None for _ in rest))),
        *notices,
        *gave_up(failure),
        InvalidationFailed(tuple(item.key for item in rest), was_tried=False),
        Ended(request.operation, failure.now_s - request.started_s),
    )


def untried(keys: tuple[str, ...]) -> tuple[InvalidationFailed, ...]:
    """The notice that keys are pending, as nobody knows what they hold."""
    return (InvalidationFailed(keys, was_tried=False),) if keys else ()


def _stored(done: tuple[FillResult, ...]) -> tuple[FillResult | None, ...]:
    """What became of each value; None where the store could not be asked."""
    if FillResult.UNKNOWN not in done:
        return done
    return tuple(None if each is FillResult.UNKNOWN else each for each in done)


def _void(request: SetRequest, done: tuple[FillResult, ...], now_s: float) -> Step:
    keys = tuple(item.key for item in request.items[len(done) :])
    return void(keys, request.timeouts, now_s)


class SetHolding(AsksStore, Struct, frozen=True):
    """Waits for the holds of one chunk.

    Next: SetHolding | SetFilling | InvalidateDeleting | done
    """

    request: SetRequest
    done: tuple[FillResult, ...]
    items: tuple[Item, ...]
    budget: Budget
    tied: Versions = ()
    """The tags as they were when the first chunk was held; that is before all of the values."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tuple(item.key for item in self.items)
        request = self.request
        timeout_s = self.budget.timeout_s
        command = HoldCells(keys, request.nonce, request.hold_ms, timeout_s, request.capture)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Fill under the grants."""
        if not isinstance(event, HoldAnswer):
            raise unexpected(self, event)
        match event:
            case HoldsTaken(now_s=now_s, grants=grants, versions=versions) if len(grants) == len(
                self.items
            ) and len(versions) == len(self.request.tags):
                notices: tuple[Notice, ...] = ()
                if event.failures:
                    if again := self.retry_parts(event.failures):
                        return again
                    # What could not be held may still have its old value.
                    missed = tuple(self.items[place].key for place in event.missed)
                    notices = (*went_without(event.failures), *untried(missed))
                tied = self.tied or tuple(zip(self.request.tags, versions, strict=True))
                pairs = zip(self.items, grants, strict=True)
                hold_ms = self.request.hold_ms
                fills = tuple(item.under(grant, tied, hold_ms) for item, grant in pairs)
                budget = self.request.timeouts.from_now(now_s)
                return SetFilling(self.request, self.done, fills, budget, tied).ask(*notices)
            case HoldsTaken():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or _give_up(self.request, self.done, event)
            case Interrupted(now_s=now_s):
                return _void(self.request, self.done, now_s)
            case _:
                assert_never(event)


class SetFilling(AsksStore, Struct, frozen=True):
    """Waits for the values of one chunk to be stored.

    Next: SetFilling | SetHolding | InvalidateDeleting | done
    """

    request: SetRequest
    done: tuple[FillResult, ...]
    fills: tuple[Fill, ...]
    budget: Budget
    tied: Versions = ()
    compared: tuple[FillResult, ...] = ()
    """What the store has found by comparing, where it has found some changed: those are asked for again."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = FillCells(self.fills, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on to the next chunk, or end."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellsFilled(now_s=now_s, results=results) if len(results) == len(self.fills):
                notices = told(self.fills, results)
                if event.failures:
                    if again := self.retry_parts(event.failures):
                        return again
                    pairs = zip(self.fills, results, strict=True)
                    unknown = tuple(fill.key for fill, result in pairs if result is FillResult.UNKNOWN)
                    notices = (*went_without(event.failures), *untried(unknown), *notices)
                if FillResult.CHANGED in results:
                    fills, budget = to_be_judged(self.fills, results), self.budget.at(now_s)
                    return evolve(self, fills=fills, budget=budget, compared=results).ask(*notices)
                done = (*self.done, *self._judged(results))
                if len(done) < len(request.items):
                    return _hold_next(request, done, self.tied, now_s, *notices)
                over = Ended(request.operation, now_s - request.started_s)
                return ended(ManyStored(_stored(done)), *notices, over)
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or _give_up(request, self.done, event)
            case Interrupted(now_s=now_s):
                return _void(request, self.done, now_s)
            case _:
                assert_never(event)

    def _judged(self, results: tuple[FillResult, ...]) -> tuple[FillResult, ...]:
        """What became of each fill: where the store was asked twice, what it has judged."""
        if not self.compared:
            return results
        judged = iter(results)
        return tuple(next(judged) if each is FillResult.CHANGED else each for each in self.compared)
