"""Look up: what an entry is like; and let it live longer, where that is wanted.

    LookInspecting --CellInspected--> done, or LookTouching
       | an entry with tags           --> LookChecking --TagsRead--> the same
       | an entry of another version  --> LookInspecting its variant
    LookTouching --CellTouched--> LookTouching (the entry that a variant is tied to) ... --> done
       ^ LookInspecting, for `touch`, where another has changed the value in between

One who wants no value is told of an entry of any type. What is looked up counts as a request: a fresh value,
and the answer that there is nothing, are hits. A stale value is shown, and counts as a miss.

An entry is touched only where it was found to be fresh, and only the very value that was found: a touch never
makes a stale value fresh again, nor lengthens a lease or a hold. The store lengthens the lives of its tags
before that; without them it would be a miss.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Cell
from sansio_cache.codec import Codec
from sansio_cache.commands import Capture, InspectCell, ReadTags, TouchCell
from sansio_cache.entry import (
    MissReason,
    Servable,
    Unchecked,
    Unservable,
    Verdict,
    examine,
    is_fresh,
    longest_life_ms,
    tags_of,
    variant_key,
    weigh,
)
from sansio_cache.events import (
    CellInspected,
    CellTouched,
    Event,
    InspectAnswer,
    Interrupted,
    ReadTagsAnswer,
    StoreFailed,
    TagsRead,
    TouchAnswer,
)
from sansio_cache.keys import TagName
from sansio_cache.lookup import NO_ENTRY, EntryState, Lookup
from sansio_cache.notices import Ended, Hit, Missed, Notice, OperationName, Touched
from sansio_cache.signing import Signer
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Looked,
    Outcome,
    Step,
    Unavailable,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)
from sansio_cache.tags import TAG_MARKER, VARIANT_OF, Versions, known, tag_keys

MOST_LOOKS: Final = 10


class Longer(Struct, frozen=True):
    """How much longer an entry is to live."""

    ttl_ms: int
    """For how long it is to be fresh from now on."""
    max_life_ms: int
    """How long it may live at most, from its load on."""
    nonce: bytes
    """8 random bytes."""


class LookRequest(Struct, frozen=True):
    """What is to be looked at."""

    key: str
    """The full key."""
    codec: Codec[Any] | None
    """How values of the wanted type are stored; None where no value is wanted."""
    timeouts: StoreTimeouts
    started_s: float
    operation: OperationName = OperationName.LOOKUP
    raises: bool = False
    """Whether the caller is to know that the store failed."""
    bypassed: frozenset[str] = frozenset()
    """Keys of tags whose removal the store has not been told of yet."""
    longer: Longer | None = None
    """How much longer it is to live where it is fresh."""
    signer: Signer | None = None
    """What verifies entries, where they are signed and no value is wanted."""
    looks: int = MOST_LOOKS
    """How often a touch may look: between its look and its touch others may have changed the value."""

    @property
    def is_signed(self) -> bool:
        """Whether entries are signed."""
        return self.signer is not None or (self.codec is not None and self.codec.signer is not None)

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(self.operation, now_s - self.started_s))

    def fail(self, failure: StoreFailed) -> Step:
        """The last step where the store gave no answer."""
        missed = Missed(self.key, MissReason.STORE_ERROR)
        outcome = unavailable(failure) if self.raises else Looked(NO_ENTRY)
        return self.end(outcome, failure.now_s, *gave_up(failure), missed)


def look(request: LookRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to look an entry up. `skip` is the reason not to ask the store, if there is one."""
    if skip is not None:
        is_failure = request.raises and skip is MissReason.STORE_ERROR
        outcome = Unavailable(None) if is_failure else Looked(NO_ENTRY)
        return request.end(outcome, request.started_s, Missed(request.key, skip))
    return LookInspecting(request, request.timeouts.from_now(request.started_s)).ask()


class LookInspecting(AsksStore, Struct, frozen=True):
    """Waits for the cell, or for the variant of another program version's entry.

    Next: LookInspecting | LookChecking | LookTouching | done
    """

    request: LookRequest
    budget: Budget
    main: Cell | None = None
    """The other's entry, where it is its variant that is looked at."""

    @property
    def key(self) -> str:
        """Which cell it is about."""
        request = self.request
        if self.main is None or request.codec is None:
            return request.key
        return variant_key(request.key, request.codec.fingerprint)

    @property
    def versions(self) -> Versions:
        """What the entry must be tied to."""
        return () if self.main is None else ((VARIANT_OF, self.main.filled_by),)

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, InspectCell(self.key, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Say what the cell is worth."""
        if not isinstance(event, InspectAnswer):
            raise unexpected(self, event)
        match event:
            case CellInspected():
                return self.decide(event, self.verdict(event, event.server_ms, self.versions), event.now_s)
            case StoreFailed():
                return self.retry(event) or self.request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def verdict(self, found: CellInspected, server_ms: int, versions: Versions) -> Verdict:
        """What the cell is worth, for these versions of its tags."""
        codec = self.request.codec
        if codec is None:
            return weigh(found.cell, self.key, server_ms, versions, self.request.signer)
        return examine(found.cell, self.key, codec, server_ms, versions)

    def decide(self, found: CellInspected, verdict: Verdict, now_s: float) -> Step:
        """Act on what the cell is worth."""
        request = self.request
        match verdict:
            case Servable():
                return self.show(found, verdict, now_s)
            case Unservable(reason=MissReason.SCHEMA) if (
                self.main is None and isinstance(found.cell, Cell) and is_fresh(found.cell, found.server_ms)
            ):
                return evolve(self, main=found.cell, budget=self.budget.at(now_s)).ask()
            case Unservable(reason=reason, seen=seen):
                reason = reason if self.main is None else MissReason.SCHEMA
                of = seen.hex() if reason is MissReason.KEY_CHECK else ""
                return request.end(Looked(NO_ENTRY), now_s, Missed(request.key, reason, of))
            case Unchecked(tags=tags):
                return LookChecking(self, found, tags, request.timeouts.from_now(now_s)).ask()
            case _:
                assert_never(verdict)

    def show(self, found: CellInspected, servable: Servable, now_s: float) -> Step:
        """Say what the entry is like, once it lives longer where that is wanted."""
        request, cell = self.request, servable.cell
        if servable.is_absent and not servable.fresh:
            return request.end(Looked(NO_ENTRY), now_s, Missed(request.key, MissReason.EXPIRED))
        left_ms = found.left_ms
        if cell.soft_ms:
            left_ms = min(left_ms, cell.soft_ms - found.server_ms)
        names = tags_of(cell)
        lookup = Lookup(
            servable.value,
            _state_of(servable),
            max(found.server_ms - servable.filled_ms, 0) / 1000,
            max(left_ms, 0) / 1000,
            (self.main or cell).filled_by,
            tuple(map(_as_written, names)),
        )
        if not servable.fresh:
            return request.end(Looked(lookup), now_s, Missed(request.key, MissReason.EXPIRED))
        if servable.is_absent or request.longer is None:
            looked = Looked(lookup, cell=self.main or cell, server_ms=found.server_ms)
            return request.end(looked, now_s, Hit(request.key))
        cells = [(self.key, cell.filled_by)]
        if self.main is not None:
            cells.append((request.key, self.main.filled_by))
        longer, budget = request.longer, request.timeouts.from_now(now_s)
        if request.is_signed:  # past that, nobody would believe it
            longest_ms = min(longest_life_ms(each) for each in (cell, self.main or cell))
            longer = evolve(longer, max_life_ms=min(longer.max_life_ms, longest_ms))
        return LookTouching(request, longer, lookup, tuple(cells), names, budget).ask()


def state_of(verdict: Verdict) -> EntryState:
    """What an entry is for a reader to whom a cell is worth this."""
    if not isinstance(verdict, Servable) or (verdict.is_absent and not verdict.fresh):
        return EntryState.MISS
    return _state_of(verdict)


def _state_of(servable: Servable) -> EntryState:
    if servable.is_absent:
        return EntryState.ABSENT
    return EntryState.FRESH if servable.fresh else EntryState.STALE


def _as_written(name: str) -> str:
    """A tag as a caller names it: the generation of an entity is no text of theirs."""
    return name[len(TAG_MARKER) :] if name.startswith(TAG_MARKER) else TagName(name)


class LookChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of the tags that the entry turned out to have.

    Next: LookChecking | LookTouching | done
    """

    inspecting: LookInspecting
    found: CellInspected
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tag_keys(self.inspecting.request.key, self.tags)
        return Step(self, ReadTags(keys, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Say what the cell is worth, if its tags hold."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        inspecting = self.inspecting
        request = inspecting.request
        match event:
            case TagsRead(now_s=now_s, versions=versions) if len(versions) == len(self.tags):
                current = known(request.key, self.tags, versions, request.bypassed)
                found = self.found
                verdict = inspecting.verdict(found, found.server_ms, (*inspecting.versions, *current))
                return inspecting.decide(found, verdict, now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class LookTouching(AsksStore, Struct, frozen=True):
    """Waits for the entry to live longer; for a variant, also for the entry that it is tied to.

    Next: LookTouching | LookInspecting | done
    """

    request: LookRequest
    longer: Longer
    lookup: Lookup[Any]
    cells: tuple[tuple[str, bytes], ...]
    """Which keys are to live longer, and the very values in them."""
    tags: tuple[str, ...]
    """Their tags, by the names that cells have for them."""
    budget: Budget

    @property
    def is_about_touching(self) -> bool:
        """Whether the caller asks for that alone. Who reads has a value, whatever others make of it."""
        return self.request.operation is OperationName.TOUCH

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        (key, version), longer = self.cells[0], self.longer
        capture = Capture(tag_keys(key, self.tags), 2 * longer.max_life_ms)
        command = TouchCell(
            key, version, longer.ttl_ms, longer.max_life_ms, longer.nonce, self.budget.timeout_s, capture
        )
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """End, or go on with the next."""
        if not isinstance(event, TouchAnswer):
            raise unexpected(self, event)
        request, hit = self.request, Hit(self.request.key)
        match event:
            case CellTouched(now_s=now_s, touched=True) if len(self.cells) > 1:
                return evolve(self, cells=self.cells[1:], budget=request.timeouts.from_now(now_s)).ask()
            case CellTouched(now_s=now_s, touched=True):
                return request.end(Looked(self.lookup, True), now_s, hit, Touched(request.key))
            case CellTouched(now_s=now_s) if self.is_about_touching and request.looks > 1:
                again = evolve(request, looks=request.looks - 1)
                return LookInspecting(again, request.timeouts.from_now(now_s)).ask()
            case CellTouched(now_s=now_s):
                return request.end(Looked(self.lookup), now_s, hit)
            case StoreFailed(now_s=now_s):
                # What was found is the caller's all the same.
                over = request.end(Looked(self.lookup), now_s, hit, *gave_up(event))
                return self.retry(event) or over
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)
