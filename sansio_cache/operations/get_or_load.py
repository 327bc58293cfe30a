"""Get or load: the lease protocol against stampedes and stale fills.

    Reading  --fresh value--> done
       | nothing to serve
    Sharing  --a load of this process--> its result, or Reading again
       | nobody here loads it: lead
    Acquiring --fresh value--> done       (somebody filled meanwhile)
       |      --denied--> Waiting --> Acquiring ...
       | granted
    Computing --raised--> Releasing --> raise
       | computed
    Filling   --stored or refused--> done

Rules, with the invariants they keep:

- No load that is to be stored begins before its grant is known (S4), and its value is stored only into
  the cell that still holds the grant (S2). So whatever happens in between, an invalidation wins (S1).
- The grant is released where nothing was stored: the loader raised, the value cannot be stored, the
  driver was interrupted. An interrupted acquire counts as held; as its grant is unknown, it is released
  by its nonce.
- Where the store fails, a writer holds the key, or the key is not ours, the loader runs all the same and
  nothing is stored: the business never sees the cache fail.
- Waiting, for this process's load or another's, has a deadline. Past it, the loader runs without a grant.
- A load in this process is shared by callers whose request may have its result; `flights.py` decides.
  A caller shares a load only after a read of its own, and never the read of another.
"""

from __future__ import annotations

from typing import Any, assert_never

import attrs
from msgspec import Struct

from sansio_cache.backoff import pause_s, watched_pause_s
from sansio_cache.budget import Budget, Patience
from sansio_cache.cell import NO_GRANT, Cell
from sansio_cache.codec import Codec, Undecodable
from sansio_cache.commands import (
    AcquireLease,
    Compute,
    Fill,
    FillCells,
    Lease,
    Mode,
    ReadCell,
    ReleaseLeases,
    ShareLoad,
    Sleep,
    Watch,
)
from sansio_cache.entry import MissReason, Servable, Unservable, examine, seal
from sansio_cache.errors import SerializationError
from sansio_cache.events import (
    AcquireAnswer,
    CellRead,
    CellsFilled,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    Event,
    FillAnswer,
    ForeignFound,
    FreshFound,
    Interrupted,
    LeaseDenied,
    LeaseGranted,
    LeasesReleased,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    ReadAnswer,
    ReleaseAnswer,
    ShareAnswer,
    SharingTimedOut,
    SleepAnswer,
    StoreFailed,
    Woke,
    WriterFound,
)
from sansio_cache.notices import (
    Ended,
    FillRefused,
    Hit,
    LoadFailed,
    Missed,
    Notice,
    OperationName,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unstorable,
    Waited,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.notices import LoadShared as LoadSharedNotice
from sansio_cache.operations.renewal import RenewalTerms, renew
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Loaded,
    Outcome,
    Raised,
    Step,
    Value,
    ended,
    unexpected,
)

_MOST_REFUSALS = 2
"""How often a fresh value of others may be refused before the load goes on without the store: two
programs that cannot read each other's entries must not replace them in turn for ever (fault 33)."""


class LoadRequest(Struct, frozen=True):
    """What is asked for, and every number that the machine will need.

    Args:
        key: The full key.
        codec: How values of the wanted type are stored.
        hard_ttl_ms: When the store forgets the entry, jitter included.
        soft_ttl_ms: When it stops being fresh; 0 where it is fresh to the end.
        serve_stale: Whether a value past its soft expiry may be served.
        lease_ms: How long a lease lasts between renewals.
        max_lease_s: How long it may be renewed.
        wait_s: How long to wait for somebody else's load.
        nonce: 8 random bytes, this operation's own.
        seed: A random number for the back-off.
        patience: How long the store may take.
        started_s: When the request came, on the driver's clock.
    """

    key: str
    codec: Codec[Any]
    hard_ttl_ms: int
    soft_ttl_ms: int
    serve_stale: bool
    lease_ms: int
    max_lease_s: float
    wait_s: float
    nonce: bytes
    seed: int
    patience: Patience
    started_s: float

    def may_serve(self, stale: Servable, server_ms: int | None) -> bool:
        """Whether a stale value may be served. Not for ever: refreshes that fail stretch its key's life."""
        if not self.serve_stale or server_ms is None:
            return False
        return server_ms < stale.cell.soft_ms + self.hard_ttl_ms - self.soft_ttl_ms

    def done(self, now_s: float) -> Ended:
        """The notice that closes the operation."""
        return Ended(OperationName.GET_OR_LOAD, now_s - self.started_s)


@attrs.frozen
class Finding:
    """What the first read found, as far as the rest needs it."""

    seen: bytes = NO_GRANT
    mode: Mode = Mode.KEEP
    stale: Servable | None = attrs.field(default=None, hash=False)  # may hold a list or a dict
    storable: bool = True
    """Whether it makes sense to ask for a lease: not so without the store, or on a foreign key."""
    counted: bool = True
    """Whether the request has been counted: not yet where it may still be answered with a stale value."""

    def as_miss(self, key: str) -> tuple[Notice, ...]:
        """The notice of a request that was not answered from the store, unless it was counted (B3)."""
        return () if self.counted else (Missed(key, MissReason.EXPIRED),)

    def as_stale(self, key: str) -> tuple[Notice, ...]:
        """The notice of a request that was answered with a stale value, unless it was counted (B3)."""
        return () if self.counted else (StaleServed(key),)


_WITHOUT_STORE = Finding(storable=False)


def get_or_load(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.started_s
    if skip is None:
        return Reading(request, request.patience.from_now(now_s)).ask(now_s)
    missed = Missed(request.key, skip)
    if skip is MissReason.DISABLED:
        return _compute(request, None, None, _WITHOUT_STORE, now_s, missed)
    return _share(request, _WITHOUT_STORE, now_s, missed)


def _share(request: LoadRequest, finding: Finding, now_s: float, *notices: Notice, arrival: int = 0) -> Step:
    """Look for a load of this process before one of our own begins."""
    # Whoever has a stale value to give does not wait for another's load.
    patience_s = 0.0 if finding.stale else _wait_left_s(request, now_s)
    return Sharing(request, finding, None, now_s, arrival).ask(patience_s, *notices)


def _wait_left_s(request: LoadRequest, now_s: float) -> float:
    return max(request.started_s + request.wait_s - now_s, 0.0)


def _compute(
    request: LoadRequest,
    flight: int | None,
    grant: bytes | None,
    finding: Finding,
    now_s: float,
    *notices: Notice,
) -> Step:
    """Call the loader; with a grant, keep it alive meanwhile."""
    renewal = None
    if grant is not None:
        terms = RenewalTerms(request.lease_ms, now_s + request.max_lease_s, request.patience)
        renewal = renew((Lease(request.key, grant),), terms)
    state = Computing(request, flight, grant, finding, now_s)
    return Step(state, Compute(request.key, renewal), notices=notices, flight=flight)


def _serve_stale(
    request: LoadRequest, flight: int | None, finding: Finding, stale: Servable, now_s: float
) -> Step:
    notices = (*finding.as_stale(request.key), request.done(now_s))
    return ended(Value(stale.value), *notices, flight=flight)


@attrs.frozen
class Reading(AsksStore):
    """Waits for the cell."""

    request: LoadRequest
    budget: Budget
    counted: bool = False
    """Whether the request has been counted as a hit or a miss already: it reads again after sharing."""
    arrival: int = 0

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = ReadCell(self.request.key, self.budget.timeout_s(now_s))
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Serve a fresh value, or go on to load one."""
        if not isinstance(event, ReadAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellRead(now_s=now_s, cell=cell, server_ms=server_ms):
                verdict = examine(cell, request.key, request.codec, server_ms)
                match verdict:
                    case Servable(value=value, fresh=True):
                        hit = () if self.counted else (Hit(request.key),)
                        return ended(Value(value), *hit, request.done(now_s))
                    case Servable() as stale if request.may_serve(stale, server_ms):
                        return self._load(Finding(stale=stale, counted=self.counted), now_s)
                    case Servable():
                        return self._load(Finding(), now_s, *self._miss(MissReason.EXPIRED))
                    case Unservable(reason=MissReason.FOREIGN as reason):
                        return self._load(_WITHOUT_STORE, now_s, *self._miss(reason))
                    case Unservable(reason=reason, seen=seen):
                        mode = Mode.KEEP if seen == NO_GRANT else Mode.DROP
                        return self._load(Finding(seen=seen, mode=mode), now_s, *self._miss(reason))
                    case _:
                        assert_never(verdict)
            case StoreFailed(now_s=now_s, kind=kind):
                missed = self._miss(MissReason.STORE_ERROR)
                return self.retry(event) or self._load(
                    _WITHOUT_STORE, now_s, StoreErrored(kind), StoreGaveUp(kind), *missed
                )
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def _load(self, finding: Finding, now_s: float, *notices: Notice) -> Step:
        return _share(self.request, finding, now_s, *notices, arrival=self.arrival)

    def _miss(self, reason: MissReason) -> tuple[Notice, ...]:
        return () if self.counted else (Missed(self.request.key, reason),)


@attrs.frozen
class Sharing:
    """Waits for a load of this process, or to lead one."""

    request: LoadRequest
    finding: Finding
    displaced: int | None
    since_s: float
    arrival: int = 0

    def ask(self, timeout_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        schema = self.request.codec.fingerprint
        heeds_store = self.finding.storable
        command = ShareLoad(self.request.key, schema, self.displaced, timeout_s, self.arrival, heeds_store)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Take the result that is shared, or load."""
        if not isinstance(event, ShareAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case LoadLed(now_s=now_s, flight=flight):
                if not self.finding.storable or self.displaced is not None:
                    return _compute(request, flight, None, self.finding, now_s)
                budget = request.patience.from_now(now_s)
                return Acquiring(request, flight, self.finding, budget, now_s).ask(now_s)
            case LoadShared(now_s=now_s, payload=payload, value=value):
                if payload is not None:
                    try:
                        value = request.codec.decode(payload)
                    except Undecodable:
                        return self._anew(self.arrival, now_s)
                return ended(Value(value), *self._shared(now_s))
            case LoadErrorShared(now_s=now_s, error=error):
                if self.finding.stale is not None:
                    return _serve_stale(request, None, self.finding, self.finding.stale, now_s)
                return ended(Raised(error), *self._shared(now_s))
            case LoadNotShared(now_s=now_s, arrival=arrival):
                return self._anew(arrival, now_s, Waited(request.key, now_s - self.since_s))
            case SharingTimedOut(now_s=now_s, flight=flight, arrival=arrival):
                return self._give_up_on(flight, arrival, now_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def _shared(self, now_s: float) -> tuple[Notice, ...]:
        key = self.request.key
        waited = Waited(key, now_s - self.since_s)
        missed = self.finding.as_miss(key)
        return (*missed, waited, LoadSharedNotice(key), self.request.done(now_s))

    def _anew(self, arrival: int, now_s: float, *notices: Notice) -> Step:
        """The flight had nothing for us: ask the store again, if that was of any use before."""
        if not self.finding.storable:
            return _share(self.request, self.finding, now_s, *notices, arrival=arrival)
        budget = self.request.patience.from_now(now_s)
        return Reading(self.request, budget, self.finding.counted, arrival).ask(now_s, *notices)

    def _give_up_on(self, flight: int, arrival: int, now_s: float) -> Step:
        """The load of this process takes too long: serve stale, lead another, or load alone."""
        request = self.request
        if self.finding.stale is not None:
            return _serve_stale(request, None, self.finding, self.finding.stale, now_s)
        waited = Waited(request.key, now_s - self.since_s)
        if self.displaced is not None:
            return _compute(request, None, None, self.finding, now_s, waited)
        # All who gave up on the same flight share the next one.
        return Sharing(request, self.finding, flight, now_s, arrival).ask(request.wait_s, waited)


@attrs.frozen
class Acquiring(AsksStore):
    """Waits for the store to grant the lease."""

    request: LoadRequest
    flight: int
    finding: Finding
    budget: Budget
    since_s: float
    turns: int = 0
    refusals: int = 0

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        command = AcquireLease(
            key=request.key,
            nonce=request.nonce,
            lease_ms=request.lease_ms,
            seen=self.finding.seen,
            mode=self.finding.mode,
            timeout_s=self.budget.timeout_s(now_s),
        )
        return Step(self, command, notices=notices, flight=self.flight)

    def receive(self, event: Event) -> Step:
        """Load, wait, or take what somebody has stored meanwhile."""
        if not isinstance(event, AcquireAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case LeaseGranted(now_s=now_s, grant=grant, stale=stale, server_ms=server_ms):
                finding = self.finding
                if stale is not None and request.serve_stale:
                    finding = attrs.evolve(finding, stale=self._kept(stale, server_ms))
                return _compute(request, self.flight, grant, finding, now_s, *self._waited(now_s))
            case LeaseDenied(now_s=now_s, left_ms=left_ms, stale=stale, server_ms=server_ms):
                kept = None if stale is None else self._kept(stale, server_ms)
                if kept is not None:
                    return _serve_stale(request, self.flight, self.finding, kept, now_s)
                return self._wait(left_ms / 1000, now_s)
            case FreshFound(now_s=now_s, cell=cell, server_ms=server_ms):
                found = examine(cell, request.key, request.codec, server_ms)
                match found:
                    case Servable(value=value):
                        missed = self.finding.as_miss(request.key)
                        notices = (*missed, *self._waited(now_s), request.done(now_s))
                        return ended(Value(value), *notices, flight=self.flight)
                    case Unservable(seen=seen):
                        return self._refuse(seen, now_s)
                    case _:
                        assert_never(found)
            case WriterFound(now_s=now_s) | ForeignFound(now_s=now_s):
                return self._compute_without_lease(now_s)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or self._compute_without_lease(
                    now_s, StoreErrored(kind), StoreGaveUp(kind)
                )
            case Interrupted(now_s=now_s):
                return _release(request, self.flight, request.nonce, Abandoned(), now_s)
            case _:
                assert_never(event)

    def _kept(self, stale: Cell, server_ms: int) -> Servable | None:
        """The value that is in the way of the lease, if it may be served meanwhile."""
        request = self.request
        verdict = examine(stale, request.key, request.codec, server_ms)
        return verdict if isinstance(verdict, Servable) and request.may_serve(verdict, server_ms) else None

    def _waited(self, now_s: float) -> tuple[Notice, ...]:
        return (Waited(self.request.key, now_s - self.since_s),) if self.turns else ()

    def _compute_without_lease(self, now_s: float, *notices: Notice) -> Step:
        waited = self._waited(now_s)
        return _compute(self.request, self.flight, None, self.finding, now_s, *notices, *waited)

    def _wait(self, left_s: float, now_s: float) -> Step:
        patience_s = _wait_left_s(self.request, now_s)
        if patience_s == 0:
            return self._compute_without_lease(now_s)
        pause = min(pause_s(self.request.seed, self.turns, left_s), patience_s)
        longest = min(watched_pause_s(self.request.seed, self.turns, left_s), patience_s)
        watch = Watch(self.request.key, self.flight, longest)
        return Step(Waiting(self), Sleep(pause, watch), flight=self.flight)

    def _refuse(self, seen: bytes, now_s: float) -> Step:
        """The value that somebody stored meanwhile cannot be read by us: replace it, a few times."""
        if self.refusals == _MOST_REFUSALS:
            return self._compute_without_lease(now_s)
        finding = attrs.evolve(self.finding, seen=seen, mode=Mode.DROP)
        again = attrs.evolve(
            self,
            finding=finding,
            refusals=self.refusals + 1,
            budget=self.request.patience.from_now(now_s),
        )
        return again.ask(now_s)


@attrs.frozen
class Waiting:
    """Sleeps, as another process loads, until it is told or has slept long enough."""

    acquiring: Acquiring

    def receive(self, event: Event) -> Step:
        """Ask again."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke(now_s=now_s):
                again = attrs.evolve(
                    self.acquiring,
                    turns=self.acquiring.turns + 1,
                    budget=self.acquiring.request.patience.from_now(now_s),
                )
                return again.ask(now_s)
            case Interrupted():
                return ended(Abandoned(), flight=self.acquiring.flight)
            case _:
                assert_never(event)


@attrs.frozen
class Computing:
    """Waits for the user's loader."""

    request: LoadRequest
    flight: int | None
    grant: bytes | None
    finding: Finding
    began_s: float

    def receive(self, event: Event) -> Step:
        """Store the value under the grant, or give the grant back."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        match event:
            case Computed(now_s=now_s, value=value):
                return self._computed(value, now_s)
            case ComputeFailed(now_s=now_s, error=error):
                name = type(error).__name__
                failed = LoadFailed(self.request.key, self.grant is not None, name)
                finding = self.finding
                if finding.stale is not None:
                    served = finding.as_stale(self.request.key)
                    return self._without_fill(Value(finding.stale.value), now_s, failed, *served)
                missed = finding.as_miss(self.request.key)
                return self._without_fill(Raised(error), now_s, *missed, failed)
            case Interrupted(now_s=now_s):
                return self._without_fill(Abandoned(), now_s)
            case _:
                assert_never(event)

    def _computed(self, value: Any, now_s: float) -> Step:
        request = self.request
        took_s = now_s - self.began_s
        loaded = LoadedNotice(request.key, self.grant is not None, took_s)
        missed = self.finding.as_miss(request.key)
        try:
            encoded = request.codec.encode(value)
        except SerializationError:
            unstorable = Unstorable(request.key, type(value).__name__)
            outcome = Loaded(value, None, accepted=False)
            return self._without_fill(outcome, now_s, *missed, loaded, unstorable)
        outcome = Loaded(encoded.value, encoded.payload, accepted=False)
        if self.grant is None:
            return self._without_fill(outcome, now_s, *missed, loaded)
        body = seal(request.key, request.codec, encoded.payload, took_s)
        fill = Fill(request.key, self.grant, request.hard_ttl_ms, request.soft_ttl_ms, body)
        budget = request.patience.from_now(now_s)
        filling = Filling(request, self.flight, fill, outcome, budget)
        return filling.ask(now_s, *missed, loaded)

    def _without_fill(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        request = self.request
        if self.grant is None:
            notices = notices if isinstance(outcome, Abandoned) else (*notices, request.done(now_s))
            return ended(outcome, *notices, flight=self.flight)
        return _release(request, self.flight, self.grant, outcome, now_s, *notices)


@attrs.frozen
class Filling(AsksStore):
    """Waits for the store to take the value."""

    request: LoadRequest
    flight: int | None
    fill: Fill
    outcome: Loaded = attrs.field(hash=False)  # may hold a list or a dict
    budget: Budget

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = FillCells((self.fill,), self.budget.timeout_s(now_s))
        return Step(self, command, notices=notices, flight=self.flight)

    def receive(self, event: Event) -> Step:
        """Answer with the value, stored or not."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        key = self.request.key
        match event:
            case CellsFilled(now_s=now_s, results=(result,)):
                if result.is_accepted:
                    outcome = Loaded(self.outcome.value, self.outcome.payload, accepted=True)
                    return self._end(outcome, now_s, Stored(key))
                return self._end(self.outcome, now_s, FillRefused(key))
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s, kind=kind):
                gave_up = (StoreErrored(kind), StoreGaveUp(kind))
                if again := self.retry(event):
                    return again
                if kind.is_outage:  # it would only wait once more; the lease lapses
                    return self._end(self.outcome, now_s, *gave_up)
                return _release(self.request, self.flight, self.fill.grant, self.outcome, now_s, *gave_up)
            case Interrupted(now_s=now_s):
                # Whether it was stored is unknown; if it was, there is no lease left to release.
                return _release(self.request, self.flight, self.fill.grant, Abandoned(), now_s)
            case _:
                assert_never(event)

    def _end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        return ended(outcome, *notices, self.request.done(now_s), flight=self.flight)


def _release(
    request: LoadRequest,
    flight: int | None,
    claim: bytes,
    outcome: Outcome,
    now_s: float,
    *notices: Notice,
) -> Step:
    budget = request.patience.from_now(now_s)
    lease = Lease(request.key, claim)
    return Releasing(request, flight, lease, outcome, budget).ask(now_s, *notices)


@attrs.frozen
class Releasing(AsksStore):
    """Waits for the store to take the lease back; then the operation ends as `outcome` says.

    Best effort: a lease that cannot be given back lapses by itself (L3).
    """

    request: LoadRequest
    flight: int | None
    lease: Lease
    outcome: Outcome = attrs.field(hash=False)  # may hold a list or a dict
    budget: Budget

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = ReleaseLeases((self.lease,), self.budget.timeout_s(now_s))
        return Step(self, command, notices=notices, flight=self.flight)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesReleased(now_s=now_s):
                return self._end(now_s)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or self._end(now_s, StoreErrored(kind), StoreGaveUp(kind))
            case Interrupted(now_s=now_s):
                # Interrupted on the way out: the release may not have been sent. It is idempotent.
                abandoned = attrs.evolve(self, outcome=Abandoned())
                return abandoned.ask(now_s)
            case _:
                assert_never(event)

    def _end(self, now_s: float, *notices: Notice) -> Step:
        if not isinstance(self.outcome, Abandoned):
            notices = (*notices, self.request.done(now_s))
        return ended(self.outcome, *notices, flight=self.flight)
