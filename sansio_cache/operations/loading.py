"""Loading: call the loader, and store what it gives under the grant it was called with.

    LoadComputing --raised--> LoadReleasing --> raise, or serve the stale value
       | computed
       |          --nothing left to live--> LoadRemoving --> done
    LoadFilling   --stored or refused--> done

What `get_or_load` and `refresh` have in common. Rules, with the invariants they keep:

- No load that is to be stored begins before its grant is known, and the versions of its tags (S4, S7), and
  its value is stored only into the cell that still holds the grant (S2). So whatever happens in between, an
  invalidation wins (S1).
- The grant is released where nothing was stored: the loader raised, the value cannot be stored, the driver
  was interrupted.
- Where the value has nothing left to live, its caller has it and it is not stored. The value that it would
  have replaced goes, as by an invalidation.
- Callers who came while the loader ran may have its value only where the store took it and no tag has changed
  since.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from msgspec import Struct

from sansio_cache.backoff import draw_at
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import (
    NO_TAGS,
    AcquireLease,
    Capture,
    Compute,
    DeleteKeys,
    Fill,
    FillCells,
    Lease,
    Mode,
    ReleaseLeases,
    Renewal,
)
from sansio_cache.entry import MissReason, Servable, copy_of, seal, tags_of, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    DeleteAnswer,
    Event,
    FillAnswer,
    FillResult,
    Interrupted,
    KeysDeleted,
    LeasesReleased,
    ReleaseAnswer,
    StoreFailed,
)
from sansio_cache.loader import Absent, Fresh, has_life
from sansio_cache.notices import (
    Ended,
    FillRefused,
    InvalidationFailed,
    LoadFailed,
    Missed,
    Notice,
    OperationName,
    Outlived,
    RefreshFailed,
    StaleServed,
    Stored,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.operations.filling import encoded, to_be_judged, unstorable
from sansio_cache.operations.renewal import renewed_after_s, unrenewed_ms
from sansio_cache.policy import Policy
from sansio_cache.step import (
    OVER,
    Abandoned,
    AsksStore,
    Loaded,
    Outcome,
    Raised,
    Step,
    Value,
    ended,
    evolve,
    gave_up,
    unexpected,
)
from sansio_cache.tags import VARIANT_OF, Versions, tag_keys

_NAME: Final = OperationName.GET_OR_LOAD
RANDOM_BYTES: Final = 24
"""How many random bytes a request is given, for everything that it may have to draw."""

MOST_REFUSALS: Final = 2
"""How often a fresh value of others may be refused before the load goes on without the store: two programs
that cannot use each other's entries must not replace them in turn for ever."""


class LoadRequest(Struct, frozen=True):
    """What is asked for, and every number that the machine will need."""

    name: str
    """The full key that was asked for."""
    codec: Codec[Any]
    """How values of the wanted type are stored."""
    policy: Policy
    """How the entry is kept and loaded."""
    random_bytes: bytes
    """24 random bytes, this operation's own."""
    timeouts: StoreTimeouts
    started_s: float
    """When the request came, on the driver's clock."""
    tags: tuple[str, ...] = ()
    """What the entry depends on besides its key, by name."""
    bypassed: frozenset[str] = frozenset()
    """Keys of tags whose removal the store has not been told of yet."""
    variant_of: bytes = b""
    """The grant that filled another version's entry; empty where the entry itself is meant."""
    variant: str = ""
    """The key of the variant of that entry."""
    in_background: bool = False

    def budget(self, now_s: float) -> Budget:
        """The budget of a step that begins at `now_s`."""
        timeouts = self.timeouts
        return Budget(now_s + timeouts.operation_s, timeouts.operation_s, timeouts.attempts)

    @property
    def key(self) -> str:
        """The key of the cell."""
        return self.variant or self.name

    @property
    def nonce(self) -> bytes:
        """8 random bytes, the same on every retry."""
        return self.random_bytes[:NONCE_BYTES]

    @property
    def seed(self) -> int:
        """A random number for the back-off."""
        return int.from_bytes(self.random_bytes[NONCE_BYTES:16])

    @property
    def draw_ttl(self) -> float:
        """A random number in [0, 1), for jitter."""
        return int.from_bytes(self.random_bytes[16:20]) / 2**32

    @property
    def draw_refresh(self) -> float:
        """A random number in (0, 1], for early refresh."""
        return (int.from_bytes(self.random_bytes[20:24]) + 1) / 2**32

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """The full keys of the tags."""
        return tag_keys(self.name, self.tags)

    @property
    def load_schema(self) -> bytes:
        """What makes loads of the key the same one: its type, and its tags, whose versions it is tied to."""
        return b"\0".join((self.codec.fingerprint, *(tag.encode() for tag in sorted(self.tags))))

    @property
    def capture(self) -> Capture:
        """What is to be known of the tags before the load. They outlive the longest entry twice over."""
        if not self.tags:
            return NO_TAGS
        hard_ttl_ms, _ = self.policy.expiry_ms(1.0)
        return Capture(self.tag_keys, 2 * hard_ttl_ms)

    def acquire(self, seen: bytes, mode: Mode, timeout_s: float) -> AcquireLease:
        """The command that asks for the lease; `seen` is the grant that filled what is to be replaced."""
        return AcquireLease(
            key=self.key if self.variant_of else self.name,
            nonce=self.random_bytes[:NONCE_BYTES],
            lease_ms=self.policy.lease_ms,
            seen=seen,
            mode=mode,
            timeout_s=timeout_s,
            capture=self.capture if self.tags else NO_TAGS,
        )

    def renewal(self, leases: tuple[Lease, ...], now_s: float) -> Renewal:
        """What keeps leases alive while the loader runs, from now on."""
        policy = self.policy
        until_s, pause_s = now_s + policy.max_lease_s, renewed_after_s(policy.lease_ms)
        return Renewal(leases, policy.lease_ms, until_s, self.timeouts.operation_s, pause_s)

    def variant_for(self, other: Cell) -> LoadRequest | None:
        """The same for the variant of another version's entry; None where nothing can be kept there.

        It is tied to the other's tags as well: whoever invalidates one of them means both.
        """
        tags = self.tags_with_those_of(other)
        if not self.bypassed.isdisjoint(tag_keys(self.name, tags)):
            return None
        variant = variant_key(self.name, self.codec.fingerprint)
        return evolve(self, variant_of=other.filled_by, variant=variant, tags=tags)

    def tags_with_those_of(self, other: Cell) -> tuple[str, ...]:
        """The tags that are named, and those of an entry that is there."""
        return (*self.tags, *(tag for tag in tags_of(other) if tag not in self.tags))

    def versions(self, versions: tuple[bytes, ...]) -> Versions:
        """All that the entry must be tied to, with the current versions of the tags.

        Raises:
            ProtocolError: The driver has not given one for each tag.
        """
        if len(versions) != len(self.tags):
            raise ProtocolError("a driver must give back one version for every tag that it was asked for")
        pairs = tuple(zip(self.tags, versions, strict=True))
        return (*pairs, (VARIANT_OF, self.variant_of)) if self.variant_of else pairs

    def may_serve(self, stale: Servable, server_ms: int | None) -> bool:
        """Whether a stale value may be served. Not for ever: refreshes that fail stretch its key's life."""
        if self.policy.stale_for_s == 0 or server_ms is None or stale.is_absent:
            return False
        return server_ms < stale.cell.soft_ms + self.policy.stale_for_s * 1000

    def is_refresh_due(self, found: Servable, server_ms: int | None) -> bool:
        """Whether this reader of a fresh value is to have it refreshed."""
        if server_ms is None or found.cell.soft_ms == 0:
            return False
        draw = self.draw_refresh
        return self.policy.is_refresh_due(server_ms, found.filled_ms, found.cell.soft_ms, found.load_ms, draw)

    def expiry_ms(self, loaded: Any, place: int = 0) -> tuple[int, int]:
        """Hard and soft time to live of what the loader gave; jitter differs for each place of a batch."""
        draw = draw_at(self.seed, place) if place else self.draw_ttl
        match loaded:
            case None:
                return self.policy.negative_expiry_ms(None, draw)
            case Fresh(value=None, ttl=ttl_s):
                return self.policy.negative_expiry_ms(min(ttl_s, self.policy.negative_ttl), draw)
            case Fresh(ttl=ttl_s):
                return self.policy.given_expiry_ms(ttl_s)
            case Absent(ttl=ttl_s):
                return self.policy.negative_expiry_ms(ttl_s, draw)
        return self.policy.expiry_ms(draw)

    @property
    def rest_s(self) -> float:
        """How long the load rests that has come to nothing: where others wait for it, not at all."""
        return self.policy.retry_after_s if self.in_background else 0.0

    def done(self, now_s: float) -> tuple[Notice, ...]:
        """The notice that closes the operation; none where no user began it."""
        if self.in_background:
            return ()
        return (Ended(_NAME, now_s - self.started_s),)


class Finding(Struct, frozen=True):
    """What the reads have found, as far as the rest needs it."""

    seen: bytes = NO_GRANT
    mode: Mode = Mode.KEEP
    stale: Servable | None = None
    """May be served where there is nothing better."""
    previous: Cell | None = None
    """What is being replaced, for a loader that wants to know; it may be too old to be served."""
    storable: bool = True
    """Whether it makes sense to ask for a lease: not so without the store, or on a foreign key."""
    counted: bool = True
    """Whether the request has been counted: not yet where it may still be answered with a stale value."""

    @property
    def is_there(self) -> bool:
        """Whether a value is there that is being replaced."""
        return self.stale is not None or self.previous is not None

    def as_miss(self, key: str) -> tuple[Notice, ...]:
        """The notice of a request that was not answered from the store, unless it was counted (B3)."""
        return () if self.counted else (Missed(key, MissReason.EXPIRED),)

    def as_stale(self, key: str) -> tuple[Notice, ...]:
        """The notice of a request that was answered with a stale value, unless it was counted (B3)."""
        return () if self.counted else (StaleServed(key),)


def compute(
    request: LoadRequest,
    load_id: int | None,
    grant: bytes | None,
    versions: Versions,
    finding: Finding,
    now_s: float,
    *notices: Notice,
    is_empty: bool = False,
) -> Step:
    """Call the loader; with a grant, keep it alive meanwhile.

    `is_empty` is whether there is nothing in the cell but the grant.
    """
    key = request.variant or request.name
    renewal = None if grant is None else request.renewal((Lease(key, grant),), now_s)
    state = LoadComputing(request, load_id, grant, versions, finding, now_s, is_empty)
    name = request.name if request.variant else ""
    # Decoded anew: the reader who was served it may have changed his copy.
    previous = None if finding.previous is None else copy_of(finding.previous, request.codec)
    command = Compute(key, renewal, previous, name)
    return Step(state, command, notices=notices, load_id=load_id)


class LoadComputing(Struct, frozen=True):
    """Waits for the user's loader.

    Next: LoadFilling | LoadRemoving | LoadReleasing | done
    """

    request: LoadRequest
    load_id: int | None
    grant: bytes | None
    versions: Versions
    finding: Finding
    began_s: float
    is_empty: bool = False

    def receive(self, event: Event) -> Step:
        """Store the value under the grant, or give the grant back."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        match event:
            case Computed(now_s=now_s, value=value):
                return self._computed(value, now_s)
            case ComputeFailed(now_s=now_s, error=error, shared=shared):
                return self._failed(Raised(error, shared), now_s)
            case Interrupted(now_s=now_s):
                return self._without_fill(Abandoned(), now_s)
            case _:
                assert_never(event)

    def _failed(self, raised: Raised, now_s: float) -> Step:
        request, finding = self.request, self.finding
        name = type(raised.error).__name__
        failed = LoadFailed(request.name, self.grant is not None, name)
        if request.in_background:
            notices = (failed, RefreshFailed(request.name, name))
            return self._without_fill(raised, now_s, *notices, rest_s=request.rest_s)
        if finding.stale is not None:
            served = finding.as_stale(request.name)
            return self._without_fill(Value(finding.stale.value), now_s, failed, *served)
        missed = finding.as_miss(request.name)
        return self._without_fill(raised, now_s, *missed, failed)

    def _computed(self, given: Any, now_s: float) -> Step:
        request = self.request
        took_s = now_s - self.began_s
        loaded = LoadedNotice(request.name, self.grant is not None, took_s)
        missed = () if self.finding.counted else self.finding.as_miss(request.name)
        value, payload, refusal = encoded(request.codec, given)
        outcome = Loaded(value, payload, accepted=False)
        if refusal is not None:
            notices = (*missed, loaded, unstorable(request.name, value, refusal))
            told = Raised(refusal.of(request.name)) if request.codec.raises else outcome
            return self._without_fill(told, now_s, *notices, rest_s=request.rest_s)
        if self.grant is None:
            return self._without_fill(outcome, now_s, *missed, loaded)
        if not has_life(given):
            outlived = Outlived(request.name)
            if not (request.in_background or self.finding.is_there):
                return self._without_fill(outcome, now_s, *missed, loaded, outlived)
            return remove(request, self.load_id, outcome, now_s, *missed, loaded, outlived)
        key = request.variant or request.name
        ttls = request.expiry_ms(given)
        body = seal(key, request.codec, payload, took_s, self.versions, self.grant, ttls[0])
        lease_ms = unrenewed_ms(request.policy.lease_ms, took_s) if self.is_empty else 0
        fill = Fill(key, self.grant, *ttls, body, Kind.EMPTY, lease_ms)
        budget = request.budget(now_s)
        filling = LoadFilling(request, self.load_id, fill, self.versions, outcome, budget)
        return filling.ask(*missed, loaded)

    def _without_fill(self, outcome: Outcome, now_s: float, *notices: Notice, rest_s: float = 0.0) -> Step:
        request = self.request
        if self.grant is None:
            notices = notices if isinstance(outcome, Abandoned) else (*notices, *request.done(now_s))
            return ended(outcome, *notices, load_id=self.load_id)
        return release(request, self.load_id, self.grant, outcome, now_s, *notices, rest_s=rest_s)


class LoadFilling(AsksStore, Struct, frozen=True):
    """Waits for the store to take the value.

    Next: LoadFilling | LoadReleasing | done
    """

    request: LoadRequest
    load_id: int | None
    fill: Fill
    versions: Versions
    outcome: Loaded
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        tags = self.request.tag_keys if self.request.tags else ()
        command = FillCells((self.fill,), self.budget.timeout_s, tags)
        return Step(self, command, notices=notices, load_id=self.load_id)

    def receive(self, event: Event) -> Step:
        """Answer with the value, stored or not."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        request = self.request
        name = request.name
        match event:
            case CellsFilled(now_s=now_s, results=(FillResult.CHANGED,) as results):
                fills, budget = to_be_judged((self.fill,), results), self.budget.at(now_s)
                return evolve(self, fill=fills[0], budget=budget).ask()
            case CellsFilled(now_s=now_s, results=(result,), versions=versions):
                if result is FillResult.REFUSED:
                    return self._end(self.outcome, now_s, FillRefused(name))
                # Of a variant, nobody has looked whether the other's entry is still there.
                holds = not request.variant_of
                if versions or request.tags:
                    holds = holds and request.versions(versions) == self.versions
                outcome = Loaded(self.outcome.value, self.outcome.payload, accepted=holds)
                return self._end(outcome, now_s, Stored(name, len(self.fill.body), self.fill.grant))
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s, kind=kind):
                if again := self.retry(event):
                    return again
                if kind.is_in_vain:  # it would only wait once more; the lease lapses
                    return self._end(self.outcome, now_s, *gave_up(event))
                rest_s = request.rest_s
                return release(
                    request,
                    self.load_id,
                    self.fill.grant,
                    self.outcome,
                    now_s,
                    *gave_up(event),
                    rest_s=rest_s,
                )
            case Interrupted(now_s=now_s):
                # Whether it was stored is unknown; if it was, there is no lease left to release.
                return release(request, self.load_id, self.fill.grant, Abandoned(), now_s)
            case _:
                assert_never(event)

    def _end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        return Step(OVER, None, outcome, (*notices, *self.request.done(now_s)), self.load_id)


def remove(
    request: LoadRequest, load_id: int | None, outcome: Outcome, now_s: float, *notices: Notice
) -> Step:
    """Remove the value that is there, and the lease with it, as nothing came in its place; then end."""
    return LoadRemoving(request, load_id, outcome, request.budget(now_s)).ask(*notices)


class LoadRemoving(AsksStore, Struct, frozen=True):
    """Waits for a value to be gone that was to be replaced by one with nothing left to live.

    Next: LoadRemoving | done
    """

    request: LoadRequest
    load_id: int | None
    outcome: Outcome
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = DeleteKeys((self.request.key,), self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.load_id)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer. What could not be removed is pending."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted(now_s=now_s):
                return self._end(now_s)
            case StoreFailed(now_s=now_s):
                pending = InvalidationFailed((self.request.key,))
                return self.retry(event) or self._end(now_s, *gave_up(event), pending)
            case Interrupted(now_s=now_s):
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)

    def _end(self, now_s: float, *notices: Notice) -> Step:
        if not isinstance(self.outcome, Abandoned):
            notices = (*notices, *self.request.done(now_s))
        return ended(self.outcome, *notices, load_id=self.load_id)


def release(
    request: LoadRequest,
    load_id: int | None,
    lease_id: bytes,
    outcome: Outcome,
    now_s: float,
    *notices: Notice,
    rest_s: float = 0.0,
) -> Step:
    """Give a lease back, and end as `outcome` says; the load then rests for so long."""
    budget = request.budget(now_s)
    lease = Lease(request.key, lease_id)
    return LoadReleasing(request, load_id, lease, outcome, budget, rest_s).ask(*notices)


class LoadReleasing(AsksStore, Struct, frozen=True):
    """Waits for the store to take the lease back; then the operation ends as `outcome` says.

    Best effort: a lease that cannot be given back lapses by itself (L3).

    Next: LoadReleasing | done
    """

    request: LoadRequest
    load_id: int | None
    lease: Lease
    outcome: Outcome
    budget: Budget
    rest_s: float = 0.0

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = ReleaseLeases((self.lease,), self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.load_id)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesReleased(now_s=now_s):
                return self._end(now_s)
            case StoreFailed(now_s=now_s):
                return self.retry(event) or self._end(now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                # Interrupted on the way out: the release may not have been sent. It is idempotent.
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)

    def _end(self, now_s: float, *notices: Notice) -> Step:
        if not isinstance(self.outcome, Abandoned):
            notices = (*notices, *self.request.done(now_s))
        step = ended(self.outcome, *notices, load_id=self.load_id)
        return evolve(step, rests_until_s=now_s + self.rest_s) if self.rest_s else step
