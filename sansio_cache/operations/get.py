"""Get: one read.

    GetReading --CellRead--> value or nothing
       | an entry with tags           --> GetChecking --TagsRead--> value or nothing
       | an entry of another version  --> GetReading its variant

A value past its soft expiry is not a `get`'s to serve: it gives the default, as a missing one does.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Cell, Foreign
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadTags
from sansio_cache.entry import (
    MissReason,
    Servable,
    Unchecked,
    Unservable,
    Verdict,
    examine,
    is_fresh,
    variant_key,
)
from sansio_cache.events import (
    CellRead,
    Event,
    Interrupted,
    ReadAnswer,
    ReadTagsAnswer,
    StoreFailed,
    TagsRead,
)
from sansio_cache.notices import (
    Ended,
    Hit,
    Missed,
    Notice,
    OperationName,
)
from sansio_cache.step import (
    OVER,
    Abandoned,
    AsksStore,
    Missing,
    Outcome,
    Step,
    Unavailable,
    Value,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)
from sansio_cache.tags import VARIANT_OF, Versions, known, tag_keys

_NAME: Final = OperationName.GET
"""Looking a member of an enumeration up takes as long as making the notice."""


class ReadRequest(Struct, frozen=True):
    """What is asked for."""

    key: str
    """The full key."""
    codec: Codec[Any]
    """How values of the wanted type are stored."""
    timeouts: StoreTimeouts
    started_s: float
    """When the request came, on the driver's clock."""
    raises: bool = False
    """Whether the caller is to know that the store failed."""
    bypassed: frozenset[str] = frozenset()
    """Keys of tags whose removal the store has not been told of yet."""

    def end(self, outcome: Outcome, now_s: float, notice: Notice, *notices: Notice) -> Step:
        """The last step."""
        over = Ended(_NAME, now_s - self.started_s)
        return Step(OVER, None, outcome, (notice, *notices, over) if notices else (notice, over))

    def fail(self, failure: StoreFailed) -> Step:
        """The last step where the store gave no answer."""
        missed = Missed(self.key, MissReason.STORE_ERROR)
        outcome = unavailable(failure) if self.raises else Missing()
        return self.end(outcome, failure.now_s, *gave_up(failure), missed)


class GetReading(AsksStore, Struct, frozen=True):
    """Waits for the cell, or for the variant of another program version's entry.

    Next: GetReading | GetChecking | done
    """

    request: ReadRequest
    budget: Budget
    variant_of: bytes = b""
    """The grant that filled the other's entry; empty where the entry itself is read."""

    @property
    def key(self) -> str:
        """Which cell it is about."""
        key = self.request.key
        return variant_key(key, self.request.codec.fingerprint) if self.variant_of else key

    @property
    def versions(self) -> Versions:
        """What the entry must be tied to."""
        return ((VARIANT_OF, self.variant_of),) if self.variant_of else ()

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, ReadCell(self.key, self.budget.timeout_s), None, notices)

    def receive(self, event: Event) -> Step:
        """Hand out a fresh value, or nothing."""
        if not isinstance(event, ReadAnswer):
            raise unexpected(self, event)
        request = self.request
        if isinstance(event, CellRead):  # nearly always: a pattern takes three times as long to match
            cell, server_ms = event.cell, event.server_ms
            if self.variant_of:
                verdict = examine(cell, self.key, request.codec, server_ms, self.versions)
            else:
                verdict = examine(cell, request.key, request.codec, server_ms)
            if type(verdict) is Servable and verdict.fresh:  # a hit ends here
                value = Missing() if verdict.is_absent else Value(verdict.value)
                over = Ended(_NAME, event.now_s - request.started_s)
                return Step(OVER, None, value, (Hit(request.key), over))
            return self.decide(verdict, cell, server_ms, event.now_s)
        match event:
            case StoreFailed():
                return self.retry(event) or request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def decide(
        self, verdict: Verdict, cell: Cell | Foreign | None, server_ms: int | None, now_s: float
    ) -> Step:
        """Act on what the cell is worth."""
        request = self.request
        match verdict:
            case Servable(fresh=True):
                value = Missing() if verdict.is_absent else Value(verdict.value)
                return request.end(value, now_s, Hit(request.key))
            case Servable():
                return request.end(Missing(), now_s, Missed(request.key, MissReason.EXPIRED))
            case Unservable(reason=MissReason.SCHEMA) if (
                not self.variant_of and isinstance(cell, Cell) and is_fresh(cell, server_ms)
            ):
                budget = self.budget.at(now_s)
                return evolve(self, variant_of=cell.filled_by, budget=budget).ask()
            case Unservable(reason=MissReason.KEY_CHECK as reason, seen=seen) if not self.variant_of:
                return request.end(Missing(), now_s, Missed(request.key, reason, seen.hex()))
            case Unservable(reason=reason):
                # The variant is missing, or tied to an older entry: the schema is why there is nothing.
                reason = MissReason.SCHEMA if self.variant_of else reason
                return request.end(Missing(), now_s, Missed(request.key, reason))
            case Unchecked(tags=tags):
                budget = request.timeouts.from_now(now_s)
                return GetChecking(self, cell, tags, budget).ask()
            case _:
                assert_never(verdict)


class GetChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of the tags that the entry turned out to have.

    Next: GetChecking | GetReading | done
    """

    reading: GetReading
    cell: Cell | Foreign | None
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tag_keys(self.reading.request.key, self.tags)
        return Step(self, ReadTags(keys, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Hand the value out if its tags hold."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        reading = self.reading
        request = reading.request
        match event:
            case TagsRead(now_s=now_s, versions=versions, server_ms=server_ms) if len(versions) == len(
                self.tags
            ):
                current = known(request.key, self.tags, versions, request.bypassed)
                verdict = examine(
                    self.cell, reading.key, request.codec, server_ms, (*reading.versions, *current)
                )
                return reading.decide(verdict, self.cell, server_ms, now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def get(request: ReadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.started_s
    if skip is not None:
        is_failure = request.raises and skip is MissReason.STORE_ERROR
        outcome = Unavailable(None) if is_failure else Missing()
        return request.end(outcome, now_s, Missed(request.key, skip))
    timeouts = request.timeouts
    budget = Budget(now_s + timeouts.operation_s, timeouts.operation_s, timeouts.attempts)
    return Step(GetReading(request, budget), ReadCell(request.key, timeouts.operation_s))
