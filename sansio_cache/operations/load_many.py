"""Get or load many: hits are served, and one call of the loader gets the keys that this caller may load.

    LoadManyReading   --CellsRead--> LoadManyAcquiring
       |              --entries with tags that were not named--> LoadManyChecking --> as above
       |              --entries of another program version--> LoadManyReading their variants
    LoadManyAcquiring --LeasesAnswered--> LoadManyComputing     (keys that others load are put off)
    LoadManyComputing --> LoadManyFilling --> LoadManyReleasing (grants for which there is no value)
       | keys that others load
    LoadManyWaiting   --> LoadManyReading ...

Each step is one round trip for any number of keys, a chunk at a time where leases are asked for or values
stored. The grant of a lease is a fencing token.

- What this caller has grants for is loaded and stored *before* it waits for others. So two batches that
  overlap never wait for each other with grants in hand.
- Batches share loads through the store's leases alone, also within a process: each key is loaded once, by
  whoever has its grant. Where the store fails, or a writer holds a key, a batch loads it by itself and stores
  nothing.
- A key for which the loader gives no value is missing from the answer, and nothing is stored for it; None
  and `Absent` say that there is none, which is stored. Values that nobody asked for are dropped.
- Nothing is refreshed in the background here. A stale value counts as missing; it is served where somebody
  else is loading it, or where the loader fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from sansio_cache.backoff import watching
from sansio_cache.budget import Budget
from sansio_cache.cell import Cell, Foreign
from sansio_cache.commands import (
    AcquireLeases,
    DeleteKeys,
    Fill,
    FillCells,
    Lease,
    LeaseRequest,
    ReadCells,
    ReleaseLeases,
)
from sansio_cache.entry import MissReason, Verdict, examine
from sansio_cache.events import (
    AcquireManyAnswer,
    CellsFilled,
    CellsRead,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    DeleteAnswer,
    Event,
    FillAnswer,
    FillResult,
    Interrupted,
    KeysDeleted,
    LeasesAnswered,
    LeasesReleased,
    ReadManyAnswer,
    ReleaseAnswer,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import LoadFailed, Missed, Notice
from sansio_cache.operations.batch import (
    Acquisition,
    Batch,
    Fills,
    LoadManyRequest,
    Want,
    Wants,
    all_wanted,
    held,
    untold,
)
from sansio_cache.operations.checking import LoadManyChecking
from sansio_cache.operations.filling import to_be_judged, told
from sansio_cache.operations.get_many import unchecked_tags
from sansio_cache.operations.triage import triage_answers, triage_cells, triage_values
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    ManyLoaded,
    Missing,
    NotAMapping,
    Outcome,
    Raised,
    Step,
    TookTooLong,
    Unavailable,
    Value,
    ended,
    evolve,
    gave_up,
    saying,
    unavailable,
    unexpected,
    went_without,
)
from sansio_cache.tags import Versions


def finish(batch: Batch, now_s: float, *notices: Notice) -> Step:
    """The last step, if nothing is open; else wait for what others load."""
    if batch.waiting:
        return _wait(batch, now_s, *notices)
    return batch.end(ManyLoaded(tuple(value or Missing() for value in batch.values)), now_s, *notices)


def _wait(batch: Batch, now_s: float, *notices: Notice, is_circle: bool = False) -> Step:
    """Sleep until others' leases may be over; past the deadline, or in a circle, do without them."""
    request, policy = batch.request, batch.request.each.policy
    left_s = 0.0 if is_circle else max(request.each.started_s + policy.wait_s - now_s, 0.0)
    if left_s > 0:
        keys = tuple(batch.key(want) for want in batch.waiting)
        load_id, seed = request.each.random_bytes, request.each.seed
        sleep = watching(keys, load_id, seed, batch.turns, batch.left_ms / 1000, left_s)
        since_s = batch.since_s if batch.turns else now_s
        state = LoadManyWaiting(evolve(batch, turns=batch.turns + 1, since_s=since_s))
        return Step(state, sleep, notices=notices, load_id=load_id)
    wants, batch = batch.waiting, evolve(batch, waiting=())
    values: dict[int, Value | Missing] = {}
    served: list[Notice] = []
    for want in wants:
        if want.stale is not None:
            values[want.place] = Value(want.stale.value)
            served += (*batch.as_stale(want), *batch.as_waited(want, now_s))
    batch = batch.with_values(values)
    wants = tuple(want for want in wants if want.stale is None)
    if wants and policy.on_wait_timeout == "raise" and not is_circle:
        missed = (n for want in wants for n in (*batch.as_miss(want), *batch.as_waited(want, now_s)))
        outcome = TookTooLong(now_s - request.each.started_s)
        return batch.end(outcome, now_s, *notices, *served, *missed)
    return load(batch, wants, (), now_s, *notices, *served)


def load_many(request: LoadManyRequest, *, skip: MissReason | None = None) -> Step:
    """Begin a get-or-load of many keys. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.each.started_s
    batch = Batch(request, (None,) * len(request.keys))
    wants = all_wanted(len(request.keys))
    if skip is None:
        return LoadManyReading(batch, wants, (), request.each.budget(now_s)).ask()
    missed = tuple(Missed(key, skip) for key in request.keys)
    if skip is MissReason.STORE_ERROR and request.each.policy.on_read_error == "raise":
        return batch.end(Unavailable(None), now_s, *missed)
    counted = tuple(replace(want, counted=True) for want in wants)
    return load(batch, counted, (), now_s, *missed)


class LoadManyReading(AsksStore, Struct, frozen=True):
    """Waits for the cells of some keys.

    Next: LoadManyReading | LoadManyChecking | LoadManyAcquiring | LoadManyComputing | done
    """

    batch: Batch
    wants: Wants
    ready: Wants
    """Other keys, whose leases are to be asked for."""
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.batch.request
        keys = tuple(self.batch.key(want) for want in self.wants)
        command = ReadCells(keys, request.chunk, self.budget.timeout_s, request.each.tag_keys)
        return Step(self, command, notices=notices, load_id=request.each.random_bytes)

    def receive(self, event: Event) -> Step:
        """Serve what is there."""
        if not isinstance(event, ReadManyAnswer):
            raise unexpected(self, event)
        batch = self.batch
        match event:
            case CellsRead(now_s=now_s, cells=cells, server_ms=server_ms) if len(cells) == len(self.wants):
                each, failures = batch.request.each, event.failures
                if again := self.retry_parts(failures):
                    return again
                if failures and each.policy.on_read_error == "raise":
                    return self.give_up(failures[0])
                named = each.versions(event.versions)
                verdicts = tuple(
                    examine(cell, batch.key(want), each.codec, server_ms, want.tied(named))
                    for want, cell in zip(self.wants, cells, strict=True)
                )
                tags = unchecked_tags(verdicts)
                if not tags:
                    return saying(failures, self.decide(cells, verdicts, server_ms, now_s))
                budget = batch.request.each.budget(now_s)
                return saying(failures, LoadManyChecking(self, cells, verdicts, named, tags, budget).ask())
            case CellsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or self.give_up(event)
            case Interrupted():
                return ended(Abandoned(), load_id=batch.request.each.random_bytes)
            case _:
                assert_never(event)

    def decide(
        self,
        cells: tuple[Cell | Foreign | None, ...],
        verdicts: tuple[Verdict, ...],
        server_ms: int | None,
        now_s: float,
    ) -> Step:
        """Act on what the cells are worth."""
        found = triage_cells(self.batch, self.wants, cells, verdicts, server_ms, now_s)
        batch, ready = found.batch, (*self.ready, *found.ready)
        if found.others:
            ready += found.alone  # whether a key is foreign is seen once more when its lease is asked for
            budget = batch.request.each.budget(now_s)
            return LoadManyReading(batch, found.others, ready, budget).ask(*found.notices)
        return acquire(Acquisition(batch, ready, alone=found.alone), now_s, *found.notices)

    def give_up(self, failure: StoreFailed) -> Step:
        """Go on without the store, or end."""
        batch = self.batch
        wants = (*self.wants, *self.ready)
        missed = (n for want in wants for n in batch.as_miss(want, MissReason.STORE_ERROR))
        notices = (*gave_up(failure), *missed)
        if batch.request.each.policy.on_read_error == "raise":
            return batch.end(unavailable(failure), failure.now_s, *notices)
        counted = tuple(replace(want, counted=True) for want in wants)
        return load(batch, counted, (), failure.now_s, *notices)


def acquire(acquisition: Acquisition, now_s: float, *notices: Notice) -> Step:
    """Ask for the next leases, or load what has one."""
    if not acquisition.todo:
        wants = (*acquisition.granted, *acquisition.alone)
        return load(acquisition.batch, wants, acquisition.versions, now_s, *notices)
    chunk = acquisition.todo[: acquisition.batch.request.chunk]
    rest = evolve(acquisition, todo=acquisition.todo[len(chunk) :])
    budget = acquisition.batch.request.each.budget(now_s)
    return LoadManyAcquiring(rest, chunk, budget).ask(*notices)


class LoadManyAcquiring(AsksStore, Struct, frozen=True):
    """Waits for the leases of one chunk.

    Next: LoadManyAcquiring | LoadManyComputing | LoadManyWaiting | LoadManyReleasing | done
    """

    acquisition: Acquisition
    chunk: Wants
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        batch = self.acquisition.batch
        request = batch.request.each
        command = AcquireLeases(
            tuple(LeaseRequest(batch.key(want), want.seen, want.mode) for want in self.chunk),
            request.nonce,
            request.policy.lease_ms,
            self.budget.timeout_s,
            request.capture,
        )
        return Step(self, command, notices=notices, load_id=batch.request.each.random_bytes)

    def receive(self, event: Event) -> Step:
        """Part the keys into those that are ours, those of others, and those to be loaded without a grant."""
        if not isinstance(event, AcquireManyAnswer):
            raise unexpected(self, event)
        acquisition, batch = self.acquisition, self.acquisition.batch
        match event:
            case LeasesAnswered(now_s=now_s, answers=answers) if len(answers) == len(self.chunk):
                if again := self.retry_parts(event.failures):
                    return again
                if event.failures and batch.request.each.policy.on_read_error == "raise":
                    return self._give_up(event.failures[0])
                versions = batch.request.each.versions(event.versions)
                found = triage_answers(batch, self.chunk, answers, versions, now_s)
                further = Acquisition(
                    found.batch,
                    (*acquisition.todo, *found.again),
                    (*acquisition.granted, *found.granted),
                    (*acquisition.alone, *found.alone),
                    acquisition.versions or versions,  # the oldest capture was before everything
                )
                return saying(event.failures, acquire(further, now_s, *found.notices))
            case LeasesAnswered():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or self._give_up(event)
            case Interrupted(now_s=now_s):
                nonce = batch.request.each.nonce
                unknown = tuple(Lease(batch.key(want), nonce) for want in self.chunk)
                leases = (*acquisition.leases, *unknown)
                return release(batch, leases, Abandoned(), now_s)
            case _:
                assert_never(event)

    def _give_up(self, failure: StoreFailed) -> Step:
        """Load the rest without grants, or end."""
        acquisition, batch = self.acquisition, self.acquisition.batch
        notices = gave_up(failure)
        rest = (*self.chunk, *acquisition.todo)
        if batch.request.each.policy.on_read_error == "raise":
            wants = (*acquisition.granted, *acquisition.alone, *rest, *batch.waiting)
            missed = tuple(n for want in wants for n in batch.as_miss(want, MissReason.STORE_ERROR))
            outcome = unavailable(failure)
            return release(batch, acquisition.leases, outcome, failure.now_s, *notices, *missed)
        alone = (*acquisition.alone, *rest)
        return acquire(evolve(acquisition, todo=(), alone=alone), failure.now_s, *notices)


def load(batch: Batch, wants: Wants, versions: Versions, now_s: float, *notices: Notice) -> Step:
    """Call the loader, once, for all that are to be loaded; keep the leases alive meanwhile."""
    if not wants:
        return finish(batch, now_s, *notices)
    request = batch.request
    state = LoadManyComputing(batch, wants, versions, now_s)
    waited = [n for want in wants for n in batch.as_waited(want, now_s)] if batch.turns else ()
    command = batch.compute(wants, now_s)
    return Step(state, command, notices=(*notices, *waited), load_id=request.each.random_bytes)


class LoadManyComputing(Struct, frozen=True):
    """Waits for the user's loader.

    Next: LoadManyFilling | LoadManyReleasing | LoadManyWaiting | LoadManyComputing | done
    """

    batch: Batch
    wants: Wants
    versions: Versions
    began_s: float

    def receive(self, event: Event) -> Step:
        """Store the values under their grants, and give back the grants without."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        batch = self.batch
        match event:
            case Computed(now_s=now_s, value=given):
                if isinstance(given, Mapping):
                    found = triage_values(batch, self.wants, self.versions, given, now_s - self.began_s)
                    return fill(found.fills, now_s, *found.notices)
                return self._failed(NotAMapping(type(given).__name__), "ConfigurationError", now_s)
            case ComputeFailed(now_s=now_s, error=error):
                return self._failed(Raised(error), type(error).__name__, now_s)
            case Interrupted(now_s=now_s):
                return release(batch, held(batch, self.wants), Abandoned(), now_s)
            case _:
                assert_never(event)

    def _failed(self, outcome: Raised | NotAMapping, error: str, now_s: float) -> Step:
        """Serve stale values, if there is one for each; else the loader's error is the caller's."""
        batch, wants = self.batch, self.wants
        leases = held(batch, wants)
        failed = LoadFailed(batch.name(wants[0]), bool(leases), error)
        stale = {want.place: Value(want.stale.value) for want in wants if want.stale is not None}
        if len(stale) == len(wants):
            served = tuple(n for want in wants for n in batch.as_stale(want))
            return release(batch.with_values(stale), leases, None, now_s, failed, *served)
        missed = tuple(n for want in (*wants, *batch.waiting) for n in batch.as_miss(want))
        return release(batch, leases, outcome, now_s, *missed, failed)


def fill(fills: Fills, now_s: float, *notices: Notice) -> Step:
    """Store the next values, or go on to remove what is to go, and to release what is left."""
    if not fills.todo:
        return release(fills.batch, fills.unfilled, fills.raised, now_s, *notices, gone=fills.gone)
    request = fills.batch.request
    chunk = fills.todo[: request.chunk]
    rest = evolve(fills, todo=fills.todo[len(chunk) :])
    return LoadManyFilling(rest, chunk, request.each.budget(now_s)).ask(*notices)


class LoadManyFilling(AsksStore, Struct, frozen=True):
    """Waits for the store to take the values of one chunk.

    Next: LoadManyFilling | LoadManyReleasing | LoadManyWaiting | LoadManyComputing | done
    """

    fills: Fills
    chunk: tuple[Fill, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = FillCells(self.chunk, self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.fills.batch.request.each.random_bytes)

    def receive(self, event: Event) -> Step:
        """Go on to the next chunk."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        fills = self.fills
        match event:
            case CellsFilled(now_s=now_s, results=results) if len(results) == len(self.chunk):
                if again := self.retry_parts(event.failures):
                    return again
                notices = (*went_without(event.failures), *told(self.chunk, results))
                if FillResult.CHANGED in results:
                    chunk, budget = to_be_judged(self.chunk, results), self.budget.at(now_s)
                    return evolve(self, chunk=chunk, budget=budget).ask(*notices)
                return fill(fills, now_s, *notices)
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s, kind=kind):
                if again := self.retry(event):
                    return again
                if kind.is_in_vain:  # it would only wait once more; the leases lapse
                    return finish(fills.batch, now_s, *gave_up(event), *untold(fills.gone))
                return self._release(None, now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return self._release(Abandoned(), now_s)
            case _:
                assert_never(event)

    def _release(self, outcome: Abandoned | None, now_s: float, *notices: Notice) -> Step:
        """Give back what may still be held: of what was stored, nothing is."""
        fills = self.fills
        held = (Lease(each.key, each.grant) for each in (*self.chunk, *fills.todo))
        leases = (*held, *fills.unfilled)
        return release(fills.batch, leases, outcome, now_s, *notices, gone=fills.gone)


def release(
    batch: Batch,
    leases: Iterable[Lease],
    outcome: Outcome | None,
    now_s: float,
    *notices: Notice,
    gone: tuple[str, ...] = (),
) -> Step:
    """Remove what is to go, give leases back; then end as `outcome` says, or go on where that is None."""
    leases = tuple(leases)
    if not leases and not gone:
        return _over(batch, outcome, now_s, *notices)
    return LoadManyReleasing(batch, leases, outcome, batch.request.each.budget(now_s), gone).ask(*notices)


def _over(batch: Batch, outcome: Outcome | None, now_s: float, *notices: Notice) -> Step:
    if outcome is None:
        return finish(batch, now_s, *notices)
    if isinstance(outcome, Abandoned):
        return ended(outcome, *notices, load_id=batch.request.each.random_bytes)
    return batch.end(outcome, now_s, *notices)


class LoadManyReleasing(AsksStore, Struct, frozen=True):
    """Waits for the store to take leases back. Best effort: what cannot be given back lapses (L3).

    Before that, for values to be gone that were to be replaced by such with nothing left to live.

    Next: LoadManyReleasing | LoadManyWaiting | LoadManyComputing | done
    """

    batch: Batch
    leases: tuple[Lease, ...]
    outcome: Outcome | None
    budget: Budget
    gone: tuple[str, ...] = ()

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        gone, timeout_s = self.gone, self.budget.timeout_s
        command = DeleteKeys(gone, timeout_s) if gone else ReleaseLeases(self.leases, timeout_s)
        return Step(self, command, notices=notices, load_id=self.batch.request.each.random_bytes)

    def receive(self, event: Event) -> Step:
        """Go on, whatever the answer."""
        if isinstance(event, LeasesReleased if self.gone else KeysDeleted):
            raise unexpected(self, event)
        if not isinstance(event, ReleaseAnswer | DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesReleased(now_s=now_s):
                return _over(self.batch, self.outcome, now_s)
            case KeysDeleted(now_s=now_s, left=left, failures=failures):
                notices = (*went_without(failures), *untold(left))
                again = self.retry_parts(failures)
                return again or release(self.batch, self.leases, self.outcome, now_s, *notices)
            case StoreFailed(now_s=now_s):
                said: tuple[Notice, ...] = (*gave_up(event), *untold(self.gone))
                leases = self.leases if self.gone else ()
                return self.retry(event) or release(self.batch, leases, self.outcome, now_s, *said)
            case Interrupted(now_s=now_s):
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)


class LoadManyWaiting(Struct, frozen=True):
    """Sleeps, as others load, until it is told or has slept long enough; then reads again.

    Next: LoadManyReading | LoadManyComputing | done
    """

    batch: Batch

    def receive(self, event: Event) -> Step:
        """Look again."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        batch, request = self.batch, self.batch.request
        match event:
            case Woke(now_s=now_s, is_circle=True):
                return _wait(batch, now_s, is_circle=True)
            case Woke(now_s=now_s):
                # What was found before the wait is of no account after it.
                wants = tuple(
                    Want(each.place, counted=each.counted, refusals=each.refusals) for each in batch.waiting
                )
                rest = evolve(batch, waiting=())
                return LoadManyReading(rest, wants, (), request.each.budget(now_s)).ask()
            case Interrupted():
                return ended(Abandoned(), load_id=request.each.random_bytes)
            case _:
                assert_never(event)
