"""Add: store a value where there is none, and know whether that was oneself.

    AddClaiming --HoldsTaken--> AddFilling --CellsFilled--> done: it is ours
       | ValueFound --> done: it is not; or, where entries are signed, AddVerifying --CellInspected-->
       |                done, or, as nobody who knows a key has made it, AddClaiming: it is none
       | WriterFound --> AddWaiting --Woke--> AddClaiming

As `set`, but for its beginning: the store gives a hold only where there is no value. The answer that there is
nothing is none; a stale value is one. Of two who add, one has the hold; the other waits for what comes of it.

A lone SET NX would be wrong twice: arriving late it would bring a value back after its invalidation, and
repeated after a lost answer it would say of its own value that it is another's.

Whose hold is taken away by another write before the value is in it is told that it is not theirs, and not
given another: what they had to store may be older than that write.

Nothing is ever said to be ours that may not be: where the store does not serve, or an invalidation of the key
is pending, the caller is told so, and where the answer to a fill is lost that is said. The key is not
invalidated then: another may have added it since.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.backoff import watching
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Foreign, Kind
from sansio_cache.commands import (
    NO_TAGS,
    Capture,
    ClaimCell,
    Fill,
    FillCells,
    InspectCell,
    Lease,
    ReleaseLeases,
)
from sansio_cache.entry import MissReason, Unservable, weigh
from sansio_cache.events import (
    CellInspected,
    CellsFilled,
    ClaimAnswer,
    Event,
    FillAnswer,
    HoldsTaken,
    InspectAnswer,
    Interrupted,
    LeasesReleased,
    ReleaseAnswer,
    SleepAnswer,
    StoreFailed,
    ValueFound,
    Woke,
    WriterFound,
)
from sansio_cache.notices import Ended, FillRefused, Missed, Notice, OperationName, Stored, Waited
from sansio_cache.operations.set_many import Item
from sansio_cache.step import (
    Abandoned,
    Added,
    AsksOnce,
    AsksStore,
    Outcome,
    Refused,
    Step,
    TookTooLong,
    Unknown,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)
from sansio_cache.tags import tag_keys


class AddRequest(Struct, frozen=True):
    """What is to be stored where there is nothing."""

    item: Item
    nonce: bytes
    """8 random bytes."""
    seed: int
    """A random number, by which waiters do not look together."""
    hold_ms: int
    """How long the hold lasts."""
    wait_s: float
    """How long another writer is waited for."""
    timeouts: StoreTimeouts
    started_s: float
    tags: tuple[str, ...] = ()
    """The names of its tags. Their versions are captured with the hold."""

    @property
    def key(self) -> str:
        """The full key."""
        return self.item.key

    @property
    def capture(self) -> Capture:
        """What is to be known of the tags. They outlive the entry twice over."""
        if not self.tags:
            return NO_TAGS
        return Capture(tag_keys(self.key, self.tags), 2 * self.item.hard_ttl_ms)

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.ADD, now_s - self.started_s))


def add(request: AddRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to add. `skip` is the reason why nothing could be said for certain, if there is one."""
    now_s = request.started_s
    if skip is not None:
        return request.end(Refused(skip), now_s)
    return AddClaiming(request, 0, request.timeouts.from_now(now_s)).ask()


class AddClaiming(AsksStore, Struct, frozen=True):
    """Waits for a hold, or to hear that there is a value.

    Next: AddClaiming | AddFilling | AddWaiting | AddVerifying | AddReleasing | done
    """

    request: AddRequest
    turn: int
    """How often it was waited before."""
    budget: Budget
    refused: bytes = b""
    """The `filled_by` of a value that nobody has signed who knows a key; empty for none."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        timeout_s = self.budget.timeout_s
        who = (request.key, request.nonce, request.hold_ms)
        command = ClaimCell(*who, timeout_s, request.capture, self.refused)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Fill, wait, or end."""
        if not isinstance(event, ClaimAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case HoldsTaken(now_s=now_s, grants=(grant,), versions=versions) if len(versions) == len(
                request.tags
            ):
                fill = request.item.under(grant, tuple(zip(request.tags, versions, strict=True)))
                return AddFilling(request, fill, request.timeouts.from_now(now_s)).ask()
            case HoldsTaken():
                raise unexpected(self, event)
            case ValueFound(now_s=now_s) if request.item.codec.signer is not None:
                return AddVerifying(self, request.timeouts.from_now(now_s)).ask()
            case ValueFound(now_s=now_s):
                return request.end(Added(False), now_s)
            case WriterFound(now_s=now_s, left_ms=left_ms):
                return self.wait(left_ms / 1000, now_s)
            case StoreFailed(now_s=now_s):
                return self.retry(event) or request.end(unavailable(event), now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                lease = Lease(request.key, request.nonce)
                return AddReleasing(request, lease, Abandoned(), request.timeouts.from_now(now_s)).ask()
            case _:
                assert_never(event)

    def wait(self, left_s: float, now_s: float) -> Step:
        """Sleep until the other writer may be done, unless that would take too long."""
        request = self.request
        left_to_wait_s = request.started_s + request.wait_s - now_s
        if left_to_wait_s <= 0:
            return request.end(TookTooLong(now_s - request.started_s), now_s)
        sleep = watching((request.key,), request.nonce, request.seed, self.turn, left_s, left_to_wait_s)
        return Step(AddWaiting(self, now_s), sleep)


class AddVerifying(AsksStore, Struct, frozen=True):
    """Waits for the value that was found, as it counts only where it is signed.

    Next: AddVerifying | AddClaiming | done
    """

    claiming: AddClaiming
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = InspectCell(self.claiming.request.key, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """End, or take its place."""
        if not isinstance(event, InspectAnswer):
            raise unexpected(self, event)
        claiming = self.claiming
        request = claiming.request
        match event:
            case CellInspected(now_s=now_s, cell=cell, server_ms=server_ms):
                if isinstance(cell, Foreign):
                    return request.end(Added(False), now_s)
                is_value = cell is not None and cell.kind == Kind.VALUE
                verdict = weigh(cell, request.key, server_ms, (), request.item.codec.signer)
                is_forged = is_value and isinstance(verdict, Unservable)
                if is_value and not is_forged:
                    return request.end(Added(False), now_s)
                if now_s >= request.started_s + request.wait_s:
                    return request.end(TookTooLong(now_s - request.started_s), now_s)
                # It is gone by now, or is to go.
                refused = b"" if cell is None else cell.filled_by
                again = evolve(claiming, refused=refused, budget=request.timeouts.from_now(now_s))
                return again.ask(*((Missed(request.key, MissReason.SIGNATURE),) if is_forged else ()))
            case StoreFailed(now_s=now_s):
                return self.retry(event) or request.end(unavailable(event), now_s, *gave_up(event))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class AddWaiting(Struct, frozen=True):
    """Sleeps, as another writer holds the key.

    Next: AddClaiming | done
    """

    claiming: AddClaiming
    since_s: float

    def receive(self, event: Event) -> Step:
        """Ask again."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        claiming = self.claiming
        request = claiming.request
        match event:
            case Woke(now_s=now_s, is_circle=True):
                return request.end(TookTooLong(now_s - request.started_s), now_s)
            case Woke(now_s=now_s):
                budget = request.timeouts.from_now(now_s)
                waited = Waited(request.key, now_s - self.since_s)
                return evolve(claiming, turn=claiming.turn + 1, budget=budget).ask(waited)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class AddFilling(AsksOnce, Struct, frozen=True):
    """Waits for the value to be stored.

    Next: AddFilling | AddReleasing | done
    """

    request: AddRequest
    fill: Fill
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, FillCells((self.fill,), self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End."""
        if not isinstance(event, FillAnswer):
            raise unexpected(self, event)
        request = self.request
        lease = Lease(request.key, self.fill.grant)
        match event:
            case CellsFilled(now_s=now_s, results=(result,)) if result.is_accepted:
                return request.end(Added(True), now_s, Stored(request.key, version=lease.lease_id))
            case CellsFilled(now_s=now_s, results=(_,)) if self.is_unsure:
                return request.end(Unknown(None), now_s, FillRefused(request.key))
            case CellsFilled(now_s=now_s, results=(_,)):
                # Another write has come since. Stored now, the value might be older than that.
                return request.end(Added(False), now_s, FillRefused(request.key))
            case CellsFilled():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s):
                if (again := self.retry(event)) is not None:
                    return again
                outcome = self.unknown(event)
                if isinstance(outcome, Unknown):
                    return request.end(outcome, now_s, *gave_up(event))
                budget = request.timeouts.from_now(now_s)
                return AddReleasing(request, lease, outcome, budget).ask(*gave_up(event))
            case Interrupted(now_s=now_s):
                # Where it is stored already, it stays: the hold alone is given back.
                return AddReleasing(request, lease, Abandoned(), request.timeouts.from_now(now_s)).ask()
            case _:
                assert_never(event)


class AddReleasing(AsksStore, Struct, frozen=True):
    """Waits for the hold to be given back, of an operation that is interrupted, or refused.

    Next: AddReleasing | done
    """

    request: AddRequest
    lease: Lease
    outcome: Outcome
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, ReleaseLeases((self.lease,), self.budget.timeout_s), notices=notices)

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
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)

    def _end(self, now_s: float, *notices: Notice) -> Step:
        if isinstance(self.outcome, Abandoned):
            return ended(self.outcome, *notices)
        return self.request.end(self.outcome, now_s, *notices)
