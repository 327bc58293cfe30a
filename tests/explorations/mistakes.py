"""Known mistakes: stores, coordinators and machines that are the shipped ones but for one thing.

`variants.py` says what each of them breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, Foreign, Kind, Tag, make_grant
from sansio_cache.changes import (
    Change,
)
from sansio_cache.commands import (
    AcquireLease,
    ClaimCell,
    Compute,
    Fill,
    FillCells,
    Lease,
    LeaseRequest,
    ShareLoad,
    Sleep,
    SwapCell,
    TouchCell,
)
from sansio_cache.coordinator import (
    Coordinator,
)
from sansio_cache.entry import BODY_HEADER_BYTES, TAGS_AT, MissReason, seal
from sansio_cache.events import (
    AcquireReply,
    CellInspected,
    CellRead,
    CellsFilled,
    CellsRead,
    CellSwapped,
    Computed,
    ComputeFailed,
    Event,
    FillResult,
    FreshFound,
    HoldsTaken,
    Interrupted,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LoadLed,
    StoreFailed,
    Woke,
)
from sansio_cache.exploring.configuration import (
    CODEC,
    FAR_MS,
    FIRST_US,
    HARD_TTL_MS,
    KEY,
    LAPSED_MS,
    SIGNED,
    TEXT,
    TIMEOUTS,
    trusted,
)
from sansio_cache.exploring.naming import payload_of, replace, tags_of
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.loader import Absent
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import InvalidationFailed, Notice, OperationName
from sansio_cache.operations.add import AddFilling, AddRequest, add
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get_or_load import LoadAcquiring, LoadReading, LoadSharing, get_or_load, share
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import LoadManyAcquiring, load_many
from sansio_cache.operations.loading import Finding, LoadFilling, LoadRequest
from sansio_cache.operations.mutate import EndRequest, MutateFilling, MutateRequest, end
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.operations.update import (
    UpdateLooking,
    UpdatePausing,
    UpdateRequest,
    UpdateSwapping,
    update,
)
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following, Load, LoadName, Phase, SingleFlight, Ticket
from sansio_cache.step import (
    Abandoned,
    Added,
    Loaded,
    ManyFound,
    ManyHeld,
    ManyInvalidated,
    ManyStored,
    Outcome,
    Raised,
    Recovered,
    Refused,
    State,
    Step,
    Unavailable,
    Unknown,
    Value,
    ended,
    evolve,
)
from sansio_cache.tags import NO_VERSION, VERSION_BYTES, Versions, is_tag_key, tag_key
from sansio_cache.waits import Waiter, Waits

# Glances.


class BlindToExpiry(Glance):
    """A glance that does not look at the soft expiry."""

    def at(self, event: Event) -> Value | None:
        return super().at(_without_expiry(event))


class ManyBlindToExpiry(GlanceMany):
    """The same at many keys."""

    def at(self, event: Event) -> ManyFound | None:
        return super().at(_without_expiry(event))


class BlindToTags(Glance):
    """A glance that takes the versions in the entry for those of now."""

    def at(self, event: Event) -> Value | None:
        return super().at(_with_versions_of_entries(event))


class ManyBlindToTags(GlanceMany):
    """The same at many keys."""

    def at(self, event: Event) -> ManyFound | None:
        return super().at(_with_versions_of_entries(event))


class BlindToUnnamedTags(Glance):
    """A glance that skips the tags that an entry has besides those that are named."""

    def at(self, event: Event) -> Value | None:
        if not isinstance(event, CellRead) or not isinstance(event.cell, Cell) or not event.cell.body:
            return super().at(event)
        body = event.cell.body
        untagged = body[:TAGS_AT] + b"\0" + body[TAGS_AT + 1 : BODY_HEADER_BYTES] + payload_of(body)
        return super().at(replace(event, stored=replace(event.cell, body=untagged)))


def _without_expiry(event: Event) -> Event:
    if isinstance(event, CellRead) and isinstance(event.cell, Cell):
        return replace(event, stored=replace(event.cell, soft_ms=0))
    if isinstance(event, CellsRead):
        cells = (replace(cell, soft_ms=0) if isinstance(cell, Cell) else cell for cell in event.cells)
        return replace(event, stored=tuple(cells))
    return event


def _with_versions_of_entries(event: Event) -> Event:
    if not isinstance(event, CellRead | CellsRead) or not event.versions:
        return event
    cells = (event.cell,) if isinstance(event, CellRead) else event.cells
    for cell in cells:
        if isinstance(cell, Cell) and cell.body:
            return replace(event, versions=tuple(version for _, _, version in tags_of(cell.body)))
    return event


@attrs.define
class GlancingCoordinator(Coordinator):
    """A process whose reads look first, also where it knows more than the store."""

    def may_glance(self, *keys: str) -> bool:
        return True


# Stores.


class PlainFill(MemoryStore):
    """A fill is a plain SET: it asks for no grant."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        value = Cell(Kind.VALUE, filled_by=fill.grant, body=fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class SeparateLock(MemoryStore):
    """The lock is a key of its own, which an invalidation does not touch."""

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        value = self._read(request.key, now_ms)
        if isinstance(value, Cell) and value.kind == Kind.VALUE:
            return FreshFound(now_s, value, now_ms)
        lock = self._read(_lock_of(request.key), now_ms)
        if isinstance(lock, Cell):
            if lock.grant.startswith(nonce):
                return LeaseGranted(now_s, lock.grant, None, now_ms)
            return LeaseDenied(now_s, lock.lease_deadline_ms - now_ms, None, now_ms)
        grant = self._grant(nonce, now_ms)
        locked = Cell(Kind.EMPTY, grant, now_ms + lease_ms)
        self._keep(_lock_of(request.key), locked, now_ms + lease_ms)
        return LeaseGranted(now_s, grant, None, now_ms)

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        lock = self._read(_lock_of(fill.key), now_ms)
        if not isinstance(lock, Cell) or lock.grant != fill.grant:
            return FillResult.REFUSED
        return self._store(fill, now_ms)

    def _store(self, fill: Fill, now_ms: int) -> FillResult:
        self._drop(_lock_of(fill.key))
        value = Cell(Kind.VALUE, filled_by=fill.grant, body=fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class SeparateLockAndPlainFill(SeparateLock):
    """A SET NX lock, and a fill that is a plain SET."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        return self._store(fill, now_ms)


def _lock_of(key: str) -> str:
    return f"{key}:lock"


class GrantOfProcess(MemoryStore):
    """A grant is the id of the process: all of its loads have the same."""

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        return make_grant(b"process0", 0)

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        return super()._acquire(request, b"process0", lease_ms, now_s, now_ms)


class GrantOfClient(MemoryStore):
    """A grant is the client's nonce alone, so a retry, or a late duplicate, brings the same one back."""

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        return make_grant(nonce, 0)


class CellsOfClients(GrantOfClient):
    """No script: SET NX stores an empty cell with the client's grant, which SET IFEQ fills."""

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        return make_grant(nonce, FIRST_US)


class CellsWithoutGrant(MemoryStore):
    """No script: SET NX stores an empty cell, which is the same for everybody, and SET IFEQ fills it."""

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        return make_grant(b"anybody!", FIRST_US)


class HoldsOfFixedBytes(MemoryStore):
    """No script: a hold is a plain SET of the same bytes for everybody, and SET IFEQ fills it."""

    def _hold(self, key: str, nonce: bytes, hold_ms: int, now_ms: int) -> bytes:
        return super()._hold(key, b"anybody!", hold_ms, now_ms)

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        return make_grant(nonce, FIRST_US) if nonce == b"anybody!" else super()._grant(nonce, now_ms)


class HoldsAndFills(CellsOfClients):
    """A set is one trip: a hold of the client's and its fill, one behind the other."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        if fill.kind == Kind.HOLD:
            self._hold(fill.key, fill.grant[:NONCE_BYTES], fill.lease_ms, now_ms)
        return super()._fill(fill, now_ms)


class CarelessRelease(MemoryStore):
    """A release does not look whose lease it is."""

    def _release(self, lease: Lease, now_ms: int) -> None:
        cell = self._read(lease.key, now_ms)
        if isinstance(cell, Cell) and cell.grant != NO_GRANT:
            super()._release(replace(lease, lease_id=cell.grant), now_ms)


class CarelessFill(MemoryStore):
    """A fill goes into any leased cell, whoever holds the lease."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        cell = self._read(fill.key, now_ms)
        if isinstance(cell, Cell) and cell.grant != NO_GRANT:
            return super()._fill(replace(fill, grant=cell.grant), now_ms)
        return super()._fill(fill, now_ms)


class CarelessRenewal(MemoryStore):
    """A renewal does not look whose lease it is."""

    def _renew(self, lease: Lease, lease_ms: int, now_ms: int) -> bool:
        cell = self._read(lease.key, now_ms)
        if isinstance(cell, Cell) and cell.grant != NO_GRANT:
            return super()._renew(replace(lease, lease_id=cell.grant), lease_ms, now_ms)
        return False


class ForgetfulFill(MemoryStore):
    """A fill leaves the grant in the cell, and does not know what it has filled already."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        cell = self._read(fill.key, now_ms)
        if not isinstance(cell, Cell) or cell.grant != fill.grant:
            return FillResult.REFUSED
        value = Cell(Kind.VALUE, fill.grant, cell.lease_deadline_ms, filled_by=fill.grant, body=fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class GenerousAcquire(MemoryStore):
    """An acquire takes the lease from whoever holds it."""

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        cell = self._read(request.key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.EMPTY:
            self._drop(request.key)
        return super()._acquire(request, nonce, lease_ms, now_s, now_ms)


class EternalLease(MemoryStore):
    """A lease has no expiry."""

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        return super()._acquire(request, nonce, HARD_TTL_MS, now_s, now_ms)


class WipingRelease(MemoryStore):
    """A release removes the key, and with it the old value that was to stay readable."""

    def _release(self, lease: Lease, now_ms: int) -> None:
        if self._leased(lease, now_ms) is not None:
            self._drop(lease.key)


UNCONDITIONAL: Final = b"anybody!" + bytes(8)
"""The grant of a fill that is to be stored whatever the cell holds."""


class SetsAnything(MemoryStore):
    """Knows a lone SET."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        if fill.grant != UNCONDITIONAL:
            return super()._fill(fill, now_ms)
        value = Cell(Kind.VALUE, filled_by=fill.grant, body=fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class TagsOfClients(MemoryStore):
    """The version of a tag is the client's random number, under SET NX."""

    def _capture_one(self, tag: str, nonce: bytes, now_ms: int, until_ms: int) -> bytes:
        if self._version(tag, now_ms) == NO_VERSION:
            self._keep(tag, Tag(make_grant(nonce, 0)), until_ms)
        return super()._capture_one(tag, nonce, now_ms, until_ms)


class CountedTags(MemoryStore):
    """The version of a tag is a counter, which an invalidation raises."""

    def _capture_one(self, tag: str, nonce: bytes, now_ms: int, until_ms: int) -> bytes:
        if self._version(tag, now_ms) == NO_VERSION:
            self._count(tag, now_ms)
        return super()._capture_one(tag, nonce, now_ms, until_ms)

    def _delete(self, key: str, now_ms: int) -> bool:
        if not is_tag_key(key):
            return super()._delete(key, now_ms)
        self._count(key, now_ms)
        return True

    def _count(self, tag: str, now_ms: int) -> None:
        last = int.from_bytes(self._version(tag, now_ms)[NONCE_BYTES:], "big")
        self._keep(tag, Tag(make_grant(b"counted!", last + 1)), FAR_MS)


class CapturesAtFill(MemoryStore):
    """An entry is tied to its tags as they are when it is stored."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        body = fill.body
        for at, name, _ in tuple(tags_of(body)):
            key, nonce = tag_key(fill.key, name), fill.grant[:NONCE_BYTES]
            version = self._capture_one(key, nonce, now_ms, now_ms + 2 * HARD_TTL_MS)
            body = body[:at] + version + body[at + VERSION_BYTES :]
        return super()._fill(replace(fill, body=body), now_ms)


class KnowsNothingSeen(MemoryStore):
    """An acquire gives a fresh value to whoever asks, also to one who has it and wants it refreshed."""

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        return super()._acquire(replace(request, seen=NO_GRANT), nonce, lease_ms, now_s, now_ms)


class ShortRefresh(MemoryStore):
    """A lease on a key that has a value does not lengthen the value's life."""

    def _refresh(self, key: str, kept: Cell, grant: bytes, deadline_ms: int) -> None:
        expires_ms = self._kept[key].expires_ms
        super()._refresh(key, kept, grant, deadline_ms)
        self._keep(key, self._kept[key].cell, expires_ms)


class ShortRenewal(MemoryStore):
    """A renewal does not lengthen the cell's life."""

    def _renew(self, lease: Lease, lease_ms: int, now_ms: int) -> bool:
        before = self._kept.get(lease.key)
        is_ours = super()._renew(lease, lease_ms, now_ms)
        if is_ours and before is not None:
            self._keep(lease.key, self._kept[lease.key].cell, before.expires_ms)
        return is_ours


class GenerousRefresh(MemoryStore):
    """An acquire begins a refresh although somebody else is at it."""

    def _acquire(
        self, request: LeaseRequest, nonce: bytes, lease_ms: int, now_s: float, now_ms: int
    ) -> AcquireReply:
        kept = self._kept.get(request.key)
        if kept is not None and isinstance(kept.cell, Cell) and kept.cell.kind == Kind.VALUE:
            self._keep(request.key, replace(kept.cell, lease_deadline_ms=LAPSED_MS), kept.expires_ms)
        return super()._acquire(request, nonce, lease_ms, now_s, now_ms)


class SparingExpiry(MemoryStore):
    """A soft expiry leaves the lease in place, and so the load that is older."""

    def _expire(self, key: str, now_ms: int) -> bool:
        before = self._kept.get(key)
        is_there = super()._expire(key, now_ms)
        after = self._kept.get(key)
        if before is not None and after is not None and isinstance(before.cell, Cell):
            grant, deadline_ms = before.cell.grant, before.cell.lease_deadline_ms
            leased = replace(after.cell, grant=grant, lease_deadline_ms=deadline_ms)
            self._keep(key, leased, after.expires_ms)
        return is_there


class ExpiryBesideWriters(MemoryStore):
    """A soft expiry leaves a writer's hold in place, and so the value that is older."""

    def _expire(self, key: str, now_ms: int) -> bool:
        cell = self._read(key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.HOLD:
            return False
        return super()._expire(key, now_ms)


class AddsAtOnce(MemoryStore):
    """Knows an add in one step, a SET NX."""

    def _fill(self, fill: Fill, now_ms: int) -> FillResult:
        if fill.grant != UNCONDITIONAL:
            return super()._fill(fill, now_ms)
        if self._read(fill.key, now_ms) is not None:
            return FillResult.REFUSED
        value = Cell(Kind.VALUE, filled_by=fill.grant, body=fill.body)
        self._keep(fill.key, value, now_ms + fill.hard_ttl_ms)
        return FillResult.STORED


class GenerousClaim(MemoryStore):
    """Whoever adds is given a hold, also where there is a value by now."""

    def _claim(self, claim: ClaimCell, now_ms: int) -> bytes | int | None:
        return self._hold(claim.key, claim.nonce, claim.hold_ms, now_ms)


class ClaimsStale(MemoryStore):
    """Who adds is given a hold where the value is stale."""

    def _claim(self, claim: ClaimCell, now_ms: int) -> bytes | int | None:
        cell = self._read(claim.key, now_ms)
        if isinstance(cell, Cell) and 0 < cell.soft_ms <= now_ms:
            return self._hold(claim.key, claim.nonce, claim.hold_ms, now_ms)
        return super()._claim(claim, now_ms)


class SwapsAnything(MemoryStore):
    """A swap does not look which value it replaces."""

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        cell = self._read(swap.key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.VALUE:
            return super()._swap(replace(swap, version=cell.filled_by), now_ms)
        return None


class SwapsStale(MemoryStore):
    """A swap replaces a value past its soft expiry: the new one is fresh."""

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        kept = self._kept.get(swap.key)
        if kept is not None and isinstance(kept.cell, Cell) and kept.cell.kind == Kind.VALUE:
            self._keep(swap.key, replace(kept.cell, soft_ms=0), kept.expires_ms)
        return super()._swap(swap, now_ms)


class SwapsSparing(MemoryStore):
    """A swap leaves the lease of whoever loads in place."""

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        before = self._kept.get(swap.key)
        version = super()._swap(swap, now_ms)
        if version is not None and before is not None and isinstance(before.cell, Cell):
            kept, old = self._kept[swap.key], before.cell
            lease = {"grant": old.grant, "lease_deadline_ms": old.lease_deadline_ms}
            self._keep(swap.key, replace(kept.cell, **lease), kept.expires_ms)
        return version


class SwapsRegardless(MemoryStore):
    """A swap stores its value also where there is none any more."""

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        if self._read(swap.key, now_ms) is not None:
            return super()._swap(swap, now_ms)
        version = self._grant(swap.nonce, now_ms)
        value = Cell(Kind.VALUE, filled_by=version, body=swap.body)
        self._keep(swap.key, value, now_ms + swap.hard_ttl_ms)
        return version


class SwapsCapturing(MemoryStore):
    """A swap ties the new value to the tags as they are by now."""

    def _swap(self, swap: SwapCell, now_ms: int) -> bytes | None:
        version = super()._swap(swap, now_ms)
        if version is not None:
            kept = self._kept[swap.key]
            assert isinstance(kept.cell, Cell)
            body = kept.cell.body
            for at, name, _ in tuple(tags_of(body)):
                key = tag_key(swap.key, name)
                issued = self._capture_one(key, swap.nonce, now_ms, now_ms + 2 * HARD_TTL_MS)
                body = body[:at] + issued + body[at + VERSION_BYTES :]
            self._keep(swap.key, replace(kept.cell, body=body), kept.expires_ms)
        return version


class TouchesAnything(MemoryStore):
    """A touch is a PEXPIRE: of whatever is there."""

    def _touch(self, touch: TouchCell, now_ms: int) -> bool:
        kept = self._kept.get(touch.key)
        if kept is None:
            return False
        self._keep(touch.key, kept.cell, now_ms + touch.ttl_ms)
        return True


class TouchesStale(MemoryStore):
    """A touch makes fresh again what was expired meanwhile."""

    def _touch(self, touch: TouchCell, now_ms: int) -> bool:
        kept = self._kept.get(touch.key)
        if kept is not None and isinstance(kept.cell, Cell) and kept.cell.kind == Kind.VALUE:
            self._keep(touch.key, replace(kept.cell, soft_ms=0), kept.expires_ms)
        return super()._touch(touch, now_ms)


class TouchesForEver(MemoryStore):
    """A touch that does not look how long the entry has lived."""

    def _touch(self, touch: TouchCell, now_ms: int) -> bool:
        return super()._touch(replace(touch, max_life_ms=10 * touch.max_life_ms), now_ms)


@attrs.frozen
class Hopeful:
    """An addition that takes some outcomes for the best."""

    state: State
    hopes: tuple[type[Outcome], ...]

    def receive(self, event: Event) -> Step:
        """Hope for the best."""
        return _hopeful(self.state.receive(event), *self.hopes)


def _hopeful(step: Step, *hopes: type[Outcome]) -> Step:
    if step.command is not None:
        return replace(step, state=Hopeful(step.state, hopes))
    return replace(step, outcome=Added(True)) if isinstance(step.outcome, hopes) else step


def add_hopefully(request: AddRequest, *, skip: MissReason | None = None) -> Step:
    """An addition that is the caller's where the answer to its fill is lost."""
    return _hopeful(add(request, skip=skip), Unknown)


def add_failing_open(request: AddRequest, *, skip: MissReason | None = None) -> Step:
    """An addition that is the caller's where the store does not serve."""
    return _hopeful(add(request, skip=skip), Unavailable, Refused)


def add_at_once(request: AddRequest, *, skip: MissReason | None = None) -> Step:
    """An add in one step: it asks for no hold."""
    fill = request.item.under(UNCONDITIONAL)
    return AddFilling(request, fill, request.timeouts.from_now(request.started_s)).ask()


class _Sure(UpdateSwapping, frozen=True):
    """A swap that meets another version is a conflict, whatever came of the attempts before."""

    def receive(self, event: Event) -> Step:
        if isinstance(event, CellSwapped) and event.version is None:
            return _surely(UpdateSwapping.receive(evolve(self, is_unsure=False), event))
        return _surely(super().receive(event))


def _surely(step: Step) -> Step:
    state = step.state
    if type(state) is UpdateSwapping:
        kept = {name: getattr(state, name) for name in UpdateSwapping.__struct_fields__}
        return replace(step, state=_Sure(**kept))
    if type(state) in (UpdateLooking, UpdatePausing):
        return replace(step, state=_Surely(state))
    return step


@attrs.frozen
class _Surely:
    """On its way to such a swap."""

    state: State

    def receive(self, event: Event) -> Step:
        return _surely(self.state.receive(event))


def count_repeating(request: UpdateRequest, *, skip: MissReason | None = None) -> Step:
    """Counting up, and once more where the answer was lost and another has counted since."""
    return _surely(update(request, skip=skip))


def _as_signed(state: State, event: Event) -> Event:
    if isinstance(event, CellInspected) and isinstance(event.cell, Cell) and event.cell.kind == Kind.VALUE:
        cell = event.cell
        body = seal(KEY, SIGNED, payload_of(cell.body), 0.0, (), cell.filled_by, HARD_TTL_MS)
        return replace(event, cell=replace(cell, body=body))
    return event


def count_believing(request: UpdateRequest, *, skip: MissReason | None = None) -> Step:
    """Counting up what nobody has signed who knows a key: the new value is signed."""
    return _believing(update(request, skip=skip), _as_signed)


# Requests.


class Untied(LoadRequest, frozen=True):
    """A variant of an entry is not tied to that entry."""

    def versions(self, versions: tuple[bytes, ...]) -> Versions:
        """Only those of the tags."""
        return LoadRequest.versions(replace(self, variant_of=b""), versions)


class SharedByType(LoadRequest, frozen=True):
    """Callers share a load whatever tags they name."""

    @property
    def load_schema(self) -> bytes:
        """The type alone."""
        return self.codec.fingerprint


# Coordinators, and what they share loads by.


class CredulousSingleFlight(SingleFlight):
    """A follower that joined while the loader ran takes its value, whether the store accepted it or not."""

    def leave(self, ticket: Ticket) -> tuple[bool, Loaded | Raised | None]:
        load = self._loads[self._followed[ticket]]
        joined = load.followers[ticket].joined
        has_ended, outcome = super().leave(ticket)
        if joined is Phase.LOADING and isinstance(load.outcome, Loaded):
            return has_ended, load.outcome
        return has_ended, outcome


class SingleFlightThatSharesHits(SingleFlight):
    """What a leader read is shared as if it had been loaded."""

    def observe(self, step: Step) -> bool:
        if step.load_id is not None and isinstance(step.outcome, Value):
            value = step.outcome.value
            codec = TEXT if isinstance(value, str) else CODEC
            payload = None if value is None else codec.encode(value).payload
            step = replace(step, outcome=Loaded(value, payload, accepted=True))
        return super().observe(step)


class SingleFlightThatReusesNumbers(SingleFlight):
    """A load has the lowest number that is free, which a ticket knows until it is given up.

    By then the number may be that of another's load.
    """

    def _begin(self, ticket: Ticket, name: LoadName) -> int:
        self._last = max(self._loads, default=0)
        return super()._begin(ticket, name)

    def _strike_out(self, number: int, load: Load) -> None:
        pass


class SingleFlightThatEndsTheNewest(SingleFlight):
    """A ticket that has led no load, or whose load was ended already, ends the one that began last."""

    def give_up(self, ticket: Ticket) -> int | None:
        if ticket not in self._led and self._last in self._loads:
            self._led[ticket] = self._last
        return super().give_up(ticket)


class SingleFlightThatKeepsItsLoad(SingleFlight):
    """A ticket that is given up is forgotten, but the load that it led goes on."""

    def give_up(self, ticket: Ticket) -> int | None:
        followed = self._followed.get(ticket)
        if followed is not None:
            self._unfollow(ticket, followed)
        self._led.pop(ticket, None)
        return None


class SingleFlightThatHeedsNothing(SingleFlight):
    """A follower that does without the store takes what the store has accepted."""

    def join(self, ticket: Ticket, command: ShareLoad) -> int | Following | None:
        return super().join(ticket, replace(command, heeds_store=True))


def coordinator_with(single_flight: type[SingleFlight]) -> Callable[[], Coordinator]:
    """Makes a coordinator that shares loads in this way."""
    return lambda: Coordinator(single_flight=single_flight())


class JoiningCoordinator(Coordinator):
    """What is spawned joins a load that is under way, and does not run then."""

    def begin(self, ticket: Ticket, step: Step, now_s: float) -> Step | None:
        assert isinstance(step.command, ShareLoad)
        answer = self.share(ticket, step.command)
        return step.state.receive(answer) if isinstance(answer, LoadLed) else None


class LateCoordinator(Coordinator):
    """Followers are told that their load has ended only when its leader gives up its ticket."""

    def observe(self, step: Step) -> int | None:
        super().observe(step)
        return None


class SilentCoordinator(LateCoordinator):
    """Followers are never told."""

    def give_up(self, ticket: Ticket) -> int | None:
        super().give_up(ticket)
        return None


class ForgetfulCoordinator(Coordinator):
    """It does not take in that an invalidation has failed."""

    def heed(self, notices: Iterable[Notice], now_s: float) -> list[Change]:
        return super().heed([each for each in notices if not isinstance(each, InvalidationFailed)], now_s)


class TrustingCoordinator(Coordinator):
    """Readers ask the store also for keys whose invalidation is pending."""

    def skip(self, key: str) -> MissReason | None:
        reason = super().skip(key)
        return None if reason is MissReason.BYPASSED else reason


class DeafCoordinator(Coordinator):
    """What was told at once in an outage is no longer pending, whatever came of it."""

    def next_recovery(
        self, recovery: Recovery, outcome: Outcome, timeouts: StoreTimeouts, now_s: float
    ) -> Recovery | None:
        if any(part.telling == recovery.ticket for part in self.snapshot().parts):
            outcome = Recovered(tuple(recovery.keys))
        return super().next_recovery(recovery, outcome, timeouts, now_s)


class BlindWaits(Waits):
    """No circle is seen."""

    def begin(self, waiter: Waiter, keys: Iterable[str], inside: frozenset[str]) -> bool:
        self.waiting[waiter] = frozenset(keys), inside
        return True


def blind_coordinator() -> Coordinator:
    """Loaders that need each other wait for each other."""
    return Coordinator(waits=BlindWaits())


class StampedOnceCoordinator(Coordinator):
    """What a recovery was begun for is no longer pending after it, though it has failed once more since."""

    def next_recovery(
        self, recovery: Recovery, outcome: Outcome, timeouts: StoreTimeouts, now_s: float
    ) -> Recovery | None:
        newest = {key: stamp for part in self.snapshot().parts for key, stamp in part.pending}
        keys = {key: newest.get(key, stamp) for key, stamp in recovery.keys.items()}
        return super().next_recovery(replace(recovery, keys=keys), outcome, timeouts, now_s)


# Machines. Most are the shipped ones, but for one transition.


@attrs.frozen
class LoneSetting:
    """Waits for a lone SET."""

    command: FillCells

    def receive(self, event: Event) -> Step:
        """End, or try again: a SET is idempotent, is it not?"""
        if isinstance(event, CellsFilled):
            return ended(ManyStored(event.results))
        if isinstance(event, Interrupted):
            return ended(Abandoned())
        return Step(self, self.command)


def _in_one_trip(*fills: Fill) -> Step:
    command = FillCells(fills, TIMEOUTS.operation_s)
    return Step(LoneSetting(command), command)


def lone_set(request: SetRequest, *, skip: MissReason | None = None) -> Step:
    """Store without a hold."""
    return _in_one_trip(*(item.under(UNCONDITIONAL) for item in request.items))


def set_in_one_trip(request: SetRequest, *, skip: MissReason | None = None) -> Step:
    """Store under a hold whose answer is not waited for, as its grant is the client's."""
    grant = make_grant(request.nonce, FIRST_US)
    return _in_one_trip(*(item.under(grant, (), request.hold_ms) for item in request.items))


@attrs.frozen
class TrustingFilling:
    """The end of a mutation that takes a refused fill as done, and removes nothing."""

    filling: MutateFilling

    def receive(self, event: Event) -> Step:
        """Take any answer for success."""
        if isinstance(event, CellsFilled):
            return ended(ManyInvalidated((KEY,), ()))
        step = self.filling.receive(event)
        return _still(TrustingFilling, step, MutateFilling)


def end_without_removal(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a mutation, not minding a refused fill."""
    return _still(TrustingFilling, end(request), MutateFilling)


def removal_forgotten(request: InvalidateRequest, *, skip: MissReason | None = None) -> Step:
    """Begin an invalidation that takes an outage for a reason to do nothing."""
    return invalidate(request, skip=None if skip is None else MissReason.DISABLED)


def set_forgotten(request: SetRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a set that takes an outage for a reason to do nothing."""
    return set_many(request, skip=None if skip is None else MissReason.DISABLED)


def end_forgotten(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a mutation, and take an outage for a reason to do nothing."""
    return end(request, skip=None if skip is None else MissReason.DISABLED)


@attrs.frozen
class LoneFilling:
    """The end of a mutation that has no hold, and fills all the same."""

    request: EndRequest

    def receive(self, event: Event) -> Step:
        """Take any answer for success, and the lack of one for a reason to try again."""
        if isinstance(event, CellsFilled):
            return ended(ManyInvalidated(self.request.keys, ()))
        return end_with_a_late_fill(self.request)


def end_with_a_late_fill(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a mutation, and store its value also where the hold could not be taken: once the store is back."""
    if request.grants is not None or not request.items:
        return end(request, skip=skip)
    fills = tuple(item.under(UNCONDITIONAL) for item in request.items)
    return Step(LoneFilling(request), FillCells(fills, TIMEOUTS.operation_s))


FIRST_WRITTEN: Final = Item(KEY, CODEC, CODEC.encode(1).payload, HARD_TTL_MS, 0)
"""What the only writer of a configuration is about to write."""


@attrs.frozen
class TellingTooSoon:
    """The beginning of a write that settles its key before its block, in which the database commits."""

    state: State

    def receive(self, event: Event) -> Step:
        """Go on, and hold nothing at the end."""
        return _too_soon(self.state.receive(event))


def _too_soon(step: Step) -> Step:
    if step.outcome is not None:
        return replace(step, outcome=ManyHeld(None, None))
    return replace(step, state=TellingTooSoon(step.state))


def store_before_the_commit(request: MutateRequest, *, skip: MissReason | None = None) -> Step:
    """Store what is to be written, and then let the database commit it."""
    setting = SetRequest(
        OperationName.SET,
        (FIRST_WRITTEN,),
        request.nonce,
        request.hold_ms,
        1,
        request.timeouts,
        request.started_s,
    )
    return _too_soon(set_many(setting, skip=skip))


def invalidate_before_the_commit(request: MutateRequest, *, skip: MissReason | None = None) -> Step:
    """Invalidate what is to be written, and then let the database commit it."""
    removal = InvalidateRequest(OperationName.MUTATE, request.keys, 100, request.timeouts, request.started_s)
    return _too_soon(invalidate(removal, skip=skip))


def end_settled(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a write whose key has been settled before."""
    return ended(ManyInvalidated(request.keys, ()))


@attrs.frozen
class FillingAnyway:
    """The end of a write that stores its value also where the hold refuses it."""

    request: EndRequest
    filling: MutateFilling

    def receive(self, event: Event) -> Step:
        """Fill once more, without a grant, where the fill was refused."""
        if isinstance(event, CellsFilled) and not all(each.is_accepted for each in event.results):
            return end_with_a_late_fill(replace(self.request, grants=None))
        return self.filling.receive(event)


def end_filling_anyway(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a write, and store its value although the hold was taken by another writer."""
    step = end(request, skip=skip)
    if isinstance(step.state, MutateFilling):
        return replace(step, state=FillingAnyway(request, step.state))
    return step


@attrs.frozen
class ReadingAsLeader:
    """Leads a load from its very first read."""

    reading: State
    load_id: int

    def receive(self, event: Event) -> Step:
        """A hit ends the load; one read may lead to another."""
        if isinstance(event, Interrupted):
            return ended(Abandoned(), load_id=self.load_id)
        step = self.reading.receive(event)
        if step.outcome is not None:
            return replace(step, load_id=self.load_id)
        if isinstance(step.command, ShareLoad):
            return step.state.receive(LoadLed(event.now_s, self.load_id))
        return replace(step, state=ReadingAsLeader(step.state, self.load_id), load_id=self.load_id)


@attrs.frozen
class JoiningFirst:
    """Joins whoever reads or loads, without a read of its own."""

    request: LoadRequest
    sharing: LoadSharing

    def receive(self, event: Event) -> Step:
        """Lead with a read, or take what the leader has."""
        if isinstance(event, LoadLed):
            reading = get_or_load(self.request)
            leading = ReadingAsLeader(reading.state, event.load_id)
            return Step(leading, reading.command, load_id=event.load_id)
        return self.sharing.receive(event)


def join_first(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load by joining."""
    step = share(request, Finding(), request.started_s)
    assert isinstance(step.state, LoadSharing)
    return replace(step, state=JoiningFirst(request, step.state))


@attrs.frozen
class Forgetful:
    """A get-or-load that does not give back what an interrupted acquire may have got."""

    state: State

    def receive(self, event: Event) -> Step:
        """End at once where an acquire is interrupted."""
        if isinstance(self.state, LoadAcquiring) and isinstance(event, Interrupted):
            return ended(Abandoned(), load_id=self.state.load_id)
        return _forgetful(self.state.receive(event))


def load_forgetfully(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that forgets its acquire."""
    return _forgetful(get_or_load(request, skip=skip))


def _forgetful(step: Step) -> Step:
    return step if step.command is None else replace(step, state=Forgetful(step.state))


@attrs.frozen
class Redrawing:
    """A get-or-load that draws another nonce for each attempt to get the lease."""

    state: State

    def receive(self, event: Event) -> Step:
        """Forget the nonce of an attempt that has failed."""
        state = self.state
        if isinstance(event, StoreFailed) and isinstance(state, LoadAcquiring):
            drawn = state.request.random_bytes
            another = drawn[: NONCE_BYTES - 1] + b"r" + drawn[NONCE_BYTES:]
            state = replace(state, request=replace(state.request, random_bytes=another))
        step = state.receive(event)
        return step if step.command is None else replace(step, state=Redrawing(step.state))


def load_redrawing(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load whose grants are random per attempt."""
    step = get_or_load(request, skip=skip)
    return replace(step, state=Redrawing(step.state))


@attrs.frozen
class CachingFailure:
    """A get-or-load that stores something where the loader raised."""

    state: State

    def receive(self, event: Event) -> Step:
        """Take a failure for version 0."""
        if isinstance(event, ComputeFailed):
            return self.state.receive(Computed(event.now_s, 0))
        step = self.state.receive(event)
        return step if step.command is None else replace(step, state=CachingFailure(step.state))


def load_caching_failures(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that stores something in any case."""
    step = get_or_load(request, skip=skip)
    return replace(step, state=CachingFailure(step.state))


@attrs.frozen
class ForgettingNothing:
    """A get-or-load that gives its caller None, and does not keep it."""

    state: State

    def receive(self, event: Event) -> Step:
        """Take None for what has nothing left to live."""
        if isinstance(event, Computed) and event.value is None:
            return self.state.receive(Computed(event.now_s, Absent(ttl=0)))
        step = self.state.receive(event)
        return step if step.command is None else replace(step, state=ForgettingNothing(step.state))


def load_forgetting_nothing(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that does not keep that there is nothing."""
    step = get_or_load(request, skip=skip)
    return replace(step, state=ForgettingNothing(step.state))


def load_trusting(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that always asks the store."""
    return get_or_load(request)


@attrs.frozen
class LoadingAhead:
    """Runs the loader before it asks for the lease, to save a round trip."""

    acquiring: Step

    def receive(self, event: Event) -> Step:
        """Now ask for the lease."""
        if isinstance(event, Computed):
            return _with_value(self.acquiring, event)
        return self.acquiring.state.receive(event)


@attrs.frozen
class HavingLoaded:
    """Has a value already when the lease is granted."""

    state: State
    computed: Computed

    def receive(self, event: Event) -> Step:
        """Go on as the shipped machine does, but answer its `Compute` with the value that is there."""
        step = self.state.receive(event)
        if isinstance(step.command, Compute):
            return step.state.receive(self.computed)
        return _with_value(step, self.computed)


@attrs.frozen
class Hasty:
    """A get-or-load that loads ahead of its grant."""

    state: State

    def receive(self, event: Event) -> Step:
        """Load first, where the shipped machine asks for the lease."""
        step = self.state.receive(event)
        if isinstance(step.command, AcquireLease):
            return Step(LoadingAhead(step), Compute(KEY, None), load_id=step.load_id)
        return step if step.command is None else replace(step, state=Hasty(step.state))


def _with_value(step: Step, computed: Computed) -> Step:
    return step if step.command is None else replace(step, state=HavingLoaded(step.state, computed))


def load_hastily(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that loads ahead."""
    step = get_or_load(request, skip=skip)
    return replace(step, state=Hasty(step.state))


@attrs.frozen
class Believing:
    """A get-or-load that is told what it wishes to hear."""

    state: State
    wish: Callable[[State, Event], Event]

    def receive(self, event: Event) -> Step:
        """Go on as the shipped machine does."""
        return _believing(self.state.receive(self.wish(self.state, event)), self.wish)


def _believing(step: Step, wish: Callable[[State, Event], Event]) -> Step:
    return step if step.command is None else replace(step, state=Believing(step.state, wish))


def _as_captured(state: State, event: Event) -> Event:
    if isinstance(state, LoadFilling) and isinstance(event, CellsFilled):
        return replace(event, versions=tuple(version for _, version in state.versions))
    return event


def _as_presumed(state: State, event: Event) -> Event:
    if isinstance(event, CellsFilled):
        changed, stored = FillResult.CHANGED, FillResult.ALREADY_STORED
        return replace(event, results=tuple(stored if each is changed else each for each in event.results))
    return event


def load_presuming(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that takes a cell which has changed for one that holds its value already."""
    return _believing(get_or_load(request, skip=skip), _as_presumed)


def load_sharing_tagged(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load whose value others may have if its fill was accepted, though a tag has changed."""
    return _believing(get_or_load(request, skip=skip), _as_captured)


def _as_stored(state: State, event: Event) -> Event:
    if isinstance(state, LoadReading) and isinstance(event, CellRead) and NO_VERSION in event.versions:
        body = event.cell.body if isinstance(event.cell, Cell) else b""
        if body:
            return replace(event, versions=tuple(version for _, _, version in tags_of(body)))
    return event


def load_forgiving(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load to which a tag without a version is one that has not changed."""
    return _believing(get_or_load(request, skip=skip), _as_stored)


def _as_expired(state: State, event: Event) -> Event:
    if isinstance(state, LoadReading) and isinstance(event, CellRead) and isinstance(event.cell, Cell):
        is_readable = event.cell.body[8:16] == state.request.codec.fingerprint
        if not is_readable:
            return replace(event, stored=replace(event.cell, soft_ms=LAPSED_MS))
    return event


def load_replacing(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load that replaces the fresh entries of other versions of the program."""
    return _believing(get_or_load(request, skip=skip), _as_expired)


@attrs.frozen
class CapturingLate:
    """Has asked to hold the key, and will ask again with the tags."""

    state: State
    again: Step

    def receive(self, event: Event) -> Step:
        """The key is held: now ask for the tags."""
        if isinstance(event, HoldsTaken):
            return self.again
        step = self.state.receive(event)
        return step if step.command is None else replace(step, state=CapturingLate(step.state, self.again))


def set_capturing_late(request: SetRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a set that asks for the versions of its tags when it holds the key already."""
    step = set_many(replace(request, tags=()))
    return replace(step, state=CapturingLate(step.state, set_many(request)))


def end_without_tags(request: EndRequest, *, skip: MissReason | None = None) -> Step:
    """End a mutation, and forget its tags."""
    return end(replace(request, tags=()))


@attrs.frozen
class Hoarding:
    """A batch that waits for what others load before it loads what it has been granted."""

    state: State

    def receive(self, event: Event) -> Step:
        """Keep the grants, and ask again later for the rest."""
        answers = event.answers if isinstance(event, LeasesAnswered) else ()
        is_denied = any(isinstance(each, LeaseDenied) for each in answers)
        if isinstance(self.state, LoadManyAcquiring) and is_denied:
            return Step(Hoarded(self.state), Sleep(0.0))
        return _hoarding(self.state.receive(event))


@attrs.frozen
class Hoarded:
    """Sleeps with grants in hand."""

    acquiring: LoadManyAcquiring

    def receive(self, event: Event) -> Step:
        """Ask again."""
        assert isinstance(event, Woke)
        return _hoarding(self.acquiring.ask())


def _hoarding(step: Step) -> Step:
    return step if step.command is None else replace(step, state=Hoarding(step.state))


def load_hoarding(request: LoadManyRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a batch that waits with grants in hand."""
    return _hoarding(load_many(request, skip=skip))


def _still(wrapper: Any, step: Step, kind: type) -> Step:
    """The step with its state wrapped, as long as it is of that kind."""
    return replace(step, state=wrapper(step.state)) if isinstance(step.state, kind) else step


# What is to be trusted after a restart with a snapshot.


def trust_leases(cell: Cell | Foreign | Tag, floor_us: int) -> Cell | Foreign | Tag | None:
    """Values of before are gone, and leases go on."""
    left = trusted(cell, floor_us)
    if isinstance(cell, Cell) and left is None and cell.grant != NO_GRANT:
        return Cell(Kind.EMPTY, cell.grant, cell.lease_deadline_ms)
    return left


def trust_tags(cell: Cell | Foreign | Tag, floor_us: int) -> Cell | Foreign | Tag | None:
    """The versions of tags go on, and so do the values that are tied to them."""
    is_tied = isinstance(cell, Cell) and cell.kind == Kind.VALUE and bool(tags_of(cell.body))
    return cell if isinstance(cell, Tag) or is_tied else trusted(cell, floor_us)
