"""Get or load: the lease protocol against stampedes and stale fills.

    LoadReading   --fresh value--> done       (and a refresh is spawned, if it is soon to expire)
       |          --stale value--> done       (and a refresh is spawned)
       |          --an entry with tags that were not named--> LoadChecking --> as above
       |          --an entry of another program version--> LoadReading its variant
       | nothing to serve
    LoadSharing   --a load of this process--> its result, or LoadReading again
       | nobody here loads it: lead
    LoadAcquiring --fresh value--> done       (somebody filled meanwhile)
       |          --denied--> LoadWaiting --> LoadAcquiring ...
       | granted a lease; its grant is a fencing token
    LoadComputing, LoadFilling, LoadReleasing: see `loading.py`

Rules, with the invariants they keep:

- An interrupted acquire counts as held; as its grant is unknown, it is released by its nonce.
- Where the store fails, a writer holds the key, or the key is not ours, the loader runs all the same and
  nothing is stored: the business never sees the cache fail, unless its policy asks for that.
- Waiting, for this process's load or another's, has a deadline. Past it, the loader runs without a grant; at
  once, where who is waited for waits for a loader that this caller is in (`waits.py`).
- A load in this process is shared by callers whose request may have its result (single flight, also called
  request coalescing); `single_flight.py` decides. A caller shares a load only after a read of its own, and
  never the read of another.
- A value that must not be served although it is fresh (a tag has changed, another key's, corrupt) is
  replaced. One that another version of the program stored is not: two versions would replace each other's for
  ever (fault 33). What this one loads is kept as a *variant* of that, tied to the grant that filled it. No
  grant is filled twice, so while that is there nothing was written since, and what was loaded meanwhile is as
  good (S1).
"""

from __future__ import annotations

from typing import Final, assert_never

from msgspec import Struct

from sansio_cache.backoff import watching
from sansio_cache.budget import Budget
from sansio_cache.cell import NO_GRANT, Cell, Foreign
from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.commands import Mode, ReadCell, ShareLoad
from sansio_cache.entry import ABSENT, MissReason, Servable, Unchecked, Unservable, Verdict, examine, is_fresh
from sansio_cache.events import (
    AcquireAnswer,
    CellRead,
    Event,
    ForeignFound,
    FreshFound,
    Interrupted,
    LeaseDenied,
    LeaseGranted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    ReadAnswer,
    ShareAnswer,
    SharingTimedOut,
    SleepAnswer,
    StoreFailed,
    Woke,
    WriterFound,
)
from sansio_cache.notices import Ended, Hit, Missed, Notice, OperationName, StaleServed, VariantStored, Waited
from sansio_cache.notices import LoadShared as LoadSharedNotice
from sansio_cache.operations.checking import LoadChecking
from sansio_cache.operations.loading import MOST_REFUSALS, Finding, LoadRequest, compute, release
from sansio_cache.operations.refresh import refresh
from sansio_cache.step import (
    OVER,
    Abandoned,
    AsksStore,
    Raised,
    Step,
    TookTooLong,
    Unavailable,
    Value,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)
from sansio_cache.tags import Versions

_NAME: Final = OperationName.GET_OR_LOAD
_NOTHING_FOUND: Final = Finding()
_WITHOUT_STORE: Final = Finding(storable=False)


def get_or_load(request: LoadRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.started_s
    if skip is None:
        timeouts = request.timeouts
        budget = Budget(now_s + timeouts.operation_s, timeouts.operation_s, timeouts.attempts)
        tags = request.tag_keys if request.tags else ()
        return Step(LoadReading(request, budget), ReadCell(request.name, timeouts.operation_s, tags))
    missed = Missed(request.name, skip)
    if skip is MissReason.DISABLED:
        return compute(request, None, None, (), _WITHOUT_STORE, now_s, missed)
    if skip is MissReason.STORE_ERROR and request.policy.on_read_error == "raise":
        return ended(Unavailable(None), missed, *request.done(now_s))
    return share(request, _WITHOUT_STORE, now_s, missed)


def share(
    request: LoadRequest,
    finding: Finding,
    now_s: float,
    *notices: Notice,
    arrival: int = 0,
    displaced: int | None = None,
) -> Step:
    """Look for a load of this process before one of our own begins; not for one that was given up on."""
    wait_s = request.policy.wait_s
    command = ShareLoad(
        key=request.variant or request.name,
        schema=request.load_schema if request.tags else request.codec.fingerprint,
        displaced=displaced,
        timeout_s=max(request.started_s + wait_s - now_s, 0.0) if displaced is None else wait_s,
        arrival=arrival,
        heeds_store=finding.storable,
        now_s=now_s,
    )
    return Step(LoadSharing(request, finding, displaced, now_s, arrival), command, notices=notices)


def _serve_stale(
    request: LoadRequest,
    load_id: int | None,
    finding: Finding,
    stale: Servable,
    now_s: float,
    *waited: Waited,
) -> Step:
    notices = (*finding.as_stale(request.name), *waited, *request.done(now_s))
    return ended(Value(stale.value), *notices, load_id=load_id)


def _fail(request: LoadRequest, load_id: int | None, finding: Finding, failure: StoreFailed) -> Step:
    """End without a value: the store failed, and the caller wants to know."""
    missed = () if finding.counted else (Missed(request.name, MissReason.STORE_ERROR),)
    notices = (*gave_up(failure), *missed, *request.done(failure.now_s))
    return ended(unavailable(failure), *notices, load_id=load_id)


class LoadReading(AsksStore, Struct, frozen=True):
    """Waits for the cell, and for the versions of the tags that the caller names.

    Next: LoadReading | LoadChecking | LoadSharing | done
    """

    request: LoadRequest
    budget: Budget
    counted: bool = False
    """Whether the request has been counted as a hit or a miss already: it reads again after sharing."""
    arrival: int = 0

    @property
    def load_id(self) -> None:
        """It leads no load yet."""
        return None

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        tags = request.tag_keys if request.tags else ()
        return Step(self, ReadCell(request.key, self.budget.timeout_s, tags), None, notices)

    def receive(self, event: Event) -> Step:
        """Serve a value, or go on to load one."""
        if not isinstance(event, ReadAnswer):
            raise unexpected(self, event)
        request = self.request
        if isinstance(event, CellRead):  # nearly always
            cell, server_ms = event.cell, event.server_ms
            current = request.versions(event.versions) if request.tags or request.variant_of else ()
            verdict = examine(cell, request.variant or request.name, request.codec, server_ms, current)
            if (
                type(verdict) is Servable
                and verdict.fresh
                and not self.counted
                and not request.policy.refreshes_early
            ):  # a hit ends here
                over = Ended(_NAME, event.now_s - request.started_s)
                return Step(OVER, None, Value(verdict.value), (Hit(request.name), over))
            if verdict is ABSENT and not (self.counted or request.variant_of):  # a plain miss
                missed = Missed(request.name, MissReason.ABSENT)
                return share(request, _NOTHING_FOUND, event.now_s, missed, arrival=self.arrival)
            return self.decide(verdict, cell, current, server_ms, event.now_s)
        match event:
            case StoreFailed():
                return self.retry(event) or self.give_up(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def decide(
        self,
        verdict: Verdict,
        cell: Cell | Foreign | None,
        current: Versions,
        server_ms: int | None,
        now_s: float,
    ) -> Step:
        """Act on what the cell is worth."""
        request = self.request
        match verdict:
            case Servable(fresh=True):
                hit = () if self.counted else (Hit(request.name),)
                step = ended(Value(verdict.value), *hit, *request.done(now_s))
                if request.policy.refreshes_early and request.is_refresh_due(verdict, server_ms):
                    return evolve(step, spawn=(refresh(request, verdict, now_s),))
                return step
            case Servable() as stale if request.may_serve(stale, server_ms):
                if request.policy.is_stale_served_at_once:
                    served = () if self.counted else (StaleServed(request.name),)
                    step = ended(Value(stale.value), *served, *request.done(now_s))
                    return evolve(step, spawn=(refresh(request, stale, now_s),))
                finding = Finding(stale=stale, previous=stale.cell, counted=self.counted)
                return self._load(finding, now_s, None)
            case Servable(cell=previous):
                return self._load(Finding(previous=previous), now_s, MissReason.EXPIRED)
            case Unservable(reason=MissReason.FOREIGN as reason):
                return self._load(_WITHOUT_STORE, now_s, reason)
            case Unservable(reason=MissReason.SCHEMA as reason) if (
                not request.variant_of and isinstance(cell, Cell) and is_fresh(cell, server_ms)
            ):
                variant = request.variant_for(cell)
                if variant is None:
                    return self._load(_WITHOUT_STORE, now_s, reason)
                return evolve(self, request=variant, budget=request.budget(now_s)).ask()
            case Unservable(reason=reason, seen=seen):
                finding = _NOTHING_FOUND if seen == NO_GRANT else Finding(seen=seen, mode=Mode.DROP)
                return self._load(finding, now_s, MissReason.SCHEMA if request.variant_of else reason)
            case Unchecked(tags=tags):
                return LoadChecking(self, cell, current, tags, request.budget(now_s)).ask()
            case _:
                assert_never(verdict)

    def give_up(self, failure: StoreFailed) -> Step:
        """Go on without the store, or end."""
        if self.request.policy.on_read_error == "raise":
            return _fail(self.request, None, Finding(counted=self.counted), failure)
        return self._load(_WITHOUT_STORE, failure.now_s, MissReason.STORE_ERROR, *gave_up(failure))

    def _load(self, finding: Finding, now_s: float, reason: MissReason | None, *notices: Notice) -> Step:
        """Go on to load; the reason is None where the request may still be answered with a stale value."""
        if reason is not None and not self.counted:
            seen = finding.seen.hex() if reason is MissReason.KEY_CHECK else ""
            notices = (*notices, Missed(self.request.name, reason, seen))
        return share(self.request, finding, now_s, *notices, arrival=self.arrival)


class LoadSharing(Struct, frozen=True):
    """Waits for a load of this process, or to lead one.

    Next: LoadSharing | LoadReading | LoadAcquiring | LoadComputing | done
    """

    request: LoadRequest
    finding: Finding
    displaced: int | None
    """The load that was given up on."""
    since_s: float
    arrival: int = 0

    def receive(self, event: Event) -> Step:
        """Take the result that is shared, or load."""
        if not isinstance(event, ShareAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case LoadLed(now_s=now_s, load_id=load_id):
                if not self.finding.storable or self.displaced is not None:
                    return compute(request, load_id, None, (), self.finding, now_s)
                timeouts = request.timeouts
                budget = Budget(now_s + timeouts.operation_s, timeouts.operation_s, timeouts.attempts)
                return LoadAcquiring(request, load_id, self.finding, budget, now_s).ask()
            case LoadShared(now_s=now_s, payload=payload, value=value):
                if payload is not None:
                    try:
                        value = request.codec.decode(payload)
                    except Undecodable:
                        return self._anew(self.arrival, now_s)
                return ended(Value(value), *self._shared(now_s))
            case LoadErrorShared(now_s=now_s, error=error):
                if self.finding.stale is not None:
                    waited = Waited(request.name, now_s - self.since_s)
                    return _serve_stale(request, None, self.finding, self.finding.stale, now_s, waited)
                return ended(Raised(error), *self._shared(now_s))
            case LoadNotShared(now_s=now_s, arrival=arrival):
                return self._anew(arrival, now_s, Waited(request.name, now_s - self.since_s))
            case SharingTimedOut():
                return self._give_up_on(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def _shared(self, now_s: float) -> tuple[Notice, ...]:
        name = self.request.name
        waited = Waited(name, now_s - self.since_s)
        missed = self.finding.as_miss(name)
        return (*missed, waited, LoadSharedNotice(name), *self.request.done(now_s))

    def _anew(self, arrival: int, now_s: float, *notices: Notice) -> Step:
        """The load had nothing for this caller: ask the store again, if that was of any use before."""
        if not self.finding.storable:
            return share(self.request, self.finding, now_s, *notices, arrival=arrival)
        budget = self.request.budget(now_s)
        return LoadReading(self.request, budget, self.finding.counted, arrival).ask(*notices)

    def _give_up_on(self, event: SharingTimedOut) -> Step:
        """The load of this process takes too long: serve stale, lead another, or load alone."""
        request, finding, now_s = self.request, self.finding, event.now_s
        waited = Waited(request.name, now_s - self.since_s)
        if finding.stale is not None:
            return _serve_stale(request, None, finding, finding.stale, now_s, waited)
        if request.policy.on_wait_timeout == "raise" and not event.is_circle:
            return _too_long(request, None, finding, now_s, waited)
        if self.displaced is not None or event.is_circle:
            return compute(request, None, None, (), finding, now_s, waited)
        # All who gave up on the same load share the next one.
        return share(request, finding, now_s, waited, arrival=event.arrival, displaced=event.load_id)


def _too_long(
    request: LoadRequest, load_id: int | None, finding: Finding, now_s: float, *notices: Notice
) -> Step:
    """End without a value: another's load takes too long, and the caller wants to know."""
    missed = finding.as_miss(request.name)
    outcome = TookTooLong(now_s - request.started_s)
    return ended(outcome, *notices, *missed, *request.done(now_s), load_id=load_id)


class LoadAcquiring(AsksStore, Struct, frozen=True):
    """Waits for the store to grant the lease.

    Next: LoadAcquiring | LoadChecking | LoadWaiting | LoadComputing | LoadReleasing | done
    """

    request: LoadRequest
    load_id: int
    finding: Finding
    budget: Budget
    since_s: float
    turns: int = 0
    refusals: int = 0

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        finding = self.finding
        command = self.request.acquire(finding.seen, finding.mode, self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.load_id)

    def receive(self, event: Event) -> Step:
        """Load, wait, or take what somebody has stored meanwhile."""
        if not isinstance(event, AcquireAnswer):
            raise unexpected(self, event)
        request, load_id = self.request, self.load_id
        match event:
            case LeaseGranted(now_s=now_s, grant=grant, stale=stale, server_ms=server_ms, versions=versions):
                is_tied = versions or request.tags or request.variant_of
                current = request.versions(versions) if is_tied else ()
                finding = self.finding
                if stale is not None or finding.previous is not None or finding.stale is not None:
                    finding = self._with_stale(stale, current, server_ms)
                variant = (VariantStored(request.name),) if request.variant_of else ()
                waited = self._waited(now_s) if self.turns else ()
                notices = (*variant, *waited)
                is_empty = stale is None
                return compute(request, load_id, grant, current, finding, now_s, *notices, is_empty=is_empty)
            case LeaseDenied(now_s=now_s, left_ms=left_ms, stale=stale, server_ms=server_ms):
                finding = self._with_stale(stale, request.versions(event.versions), server_ms)
                if finding.stale is not None and request.policy.is_stale_served_at_once:
                    return _serve_stale(request, load_id, finding, finding.stale, now_s, *self._waited(now_s))
                return evolve(self, finding=finding).wait(left_ms / 1000, now_s)
            case FreshFound(now_s=now_s, cell=cell, server_ms=server_ms, versions=versions):
                current = request.versions(versions)
                found = examine(cell, request.key, request.codec, server_ms, current)
                return self.decide(found, cell, current, server_ms, now_s)
            case WriterFound(now_s=now_s) | ForeignFound(now_s=now_s):
                return self._compute_without_lease(now_s)
            case StoreFailed():
                return self.retry(event) or self.give_up(event)
            case Interrupted(now_s=now_s):
                return release(request, load_id, request.nonce, Abandoned(), now_s)
            case _:
                assert_never(event)

    def wait(self, left_s: float, now_s: float, *, is_circle: bool = False) -> Step:
        """Sleep until the holder's lease may be over, or until told of a change. Not in a circle."""
        request, finding = self.request, self.finding
        left_to_wait_s = 0.0 if is_circle else max(request.started_s + request.policy.wait_s - now_s, 0.0)
        if left_to_wait_s == 0:
            if finding.stale is not None:
                return _serve_stale(
                    request, self.load_id, finding, finding.stale, now_s, *self._waited(now_s)
                )
            if request.policy.on_wait_timeout == "raise" and not is_circle:
                return _too_long(request, self.load_id, finding, now_s, *self._waited(now_s))
            return self._compute_without_lease(now_s)
        sleep = watching((request.key,), self.load_id, request.seed, self.turns, left_s, left_to_wait_s)
        return Step(LoadWaiting(self), sleep, load_id=self.load_id)

    def _with_stale(self, stale: Cell | None, current: Versions, server_ms: int) -> Finding:
        """What is known with the value that is in the way of the lease."""
        request, finding = self.request, self.finding
        if stale is None:  # it has been invalidated, or its life is over
            return evolve(finding, stale=None, previous=None)
        verdict = examine(stale, request.key, request.codec, server_ms, current)
        match verdict:
            case Servable():
                servable = verdict if request.may_serve(verdict, server_ms) else None
                return evolve(finding, stale=servable, previous=stale)
            case Unservable():  # as its tags have changed meanwhile, what was read of it before is as old
                return evolve(finding, stale=None, previous=None)
            case Unchecked():  # what was read before has been checked
                return finding
            case _:
                assert_never(verdict)

    def decide(
        self,
        verdict: Verdict,
        cell: Cell | Foreign | None,
        current: Versions,
        server_ms: int | None,  # noqa: ARG002 - the store has said that it is fresh
        now_s: float,
    ) -> Step:
        """Act on the value that somebody has stored meanwhile."""
        request = self.request
        match verdict:
            case Servable(value=value, cell=cell):
                missed = self.finding.as_miss(request.name)
                notices = (*missed, *self._waited(now_s, cell.filled_by), *request.done(now_s))
                return ended(Value(value), *notices, load_id=self.load_id)
            case Unservable(reason=MissReason.SCHEMA) if not request.variant_of and isinstance(cell, Cell):
                variant = request.variant_for(cell)
                if variant is None:
                    return self._compute_without_lease(now_s)
                finding = evolve(self.finding, seen=NO_GRANT, mode=Mode.KEEP)
                budget = request.budget(now_s)
                return evolve(self, request=variant, finding=finding, budget=budget).ask()
            case Unservable(seen=seen):
                return self._refuse(seen, now_s)
            case Unchecked(tags=tags):
                return LoadChecking(self, cell, current, tags, request.budget(now_s)).ask()
            case _:
                assert_never(verdict)

    def give_up(self, failure: StoreFailed) -> Step:
        """Load without the store, or end."""
        if self.request.policy.on_read_error == "raise":
            return _fail(self.request, self.load_id, self.finding, failure)
        return self._compute_without_lease(failure.now_s, *gave_up(failure))

    def _waited(self, now_s: float, version: bytes = b"") -> tuple[Waited, ...]:
        return (Waited(self.request.name, now_s - self.since_s, version),) if self.turns else ()

    def _compute_without_lease(self, now_s: float, *notices: Notice) -> Step:
        waited = self._waited(now_s)
        return compute(self.request, self.load_id, None, (), self.finding, now_s, *notices, *waited)

    def _refuse(self, seen: bytes, now_s: float) -> Step:
        """The value that somebody stored meanwhile cannot be served: replace it, a few times."""
        if self.refusals == MOST_REFUSALS:
            return self._compute_without_lease(now_s)
        finding = evolve(self.finding, seen=seen, mode=Mode.DROP)
        again = evolve(
            self,
            finding=finding,
            refusals=self.refusals + 1,
            budget=self.request.budget(now_s),
        )
        return again.ask()


class LoadWaiting(Struct, frozen=True):
    """Sleeps, as another process loads, until it is told or has slept long enough.

    Next: LoadAcquiring | LoadComputing | done
    """

    acquiring: LoadAcquiring

    def receive(self, event: Event) -> Step:
        """Ask again."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke(now_s=now_s, is_circle=True):
                return self.acquiring.wait(0.0, now_s, is_circle=True)
            case Woke(now_s=now_s):
                again = evolve(
                    self.acquiring,
                    turns=self.acquiring.turns + 1,
                    budget=self.acquiring.request.budget(now_s),
                )
                return again.ask()
            case Interrupted():
                return ended(Abandoned(), load_id=self.acquiring.load_id)
            case _:
                assert_never(event)
