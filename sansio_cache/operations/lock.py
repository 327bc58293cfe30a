"""Lock: take one, keep it, give it back.

    take:   LockTaking --HoldsTaken--> done: held
               | WriterFound --> LockWaiting --Woke--> LockTaking
    keep:   LockRenewing --LeasesRenewed--> done, again after a third of the lease
    free:   LockFreeing --LeasesReleased--> done

A lock is a cell of its own, which no invalidation, pattern or `clear` touches. Its grant is made of the
caller's nonce and of the token: the store's clock in microseconds, or one more than the last token. A lock
that was given back stays in the store for seven days without a holder, so that the next token is higher.

Where the store does not serve, nobody is given a lock: one that fails open is none.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.backoff import watching
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import FreeLock, Lease, RenewLeases, TakeLock
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    Event,
    ForeignFound,
    HoldsTaken,
    Interrupted,
    LeasesReleased,
    LeasesRenewed,
    LockAnswer,
    ReleaseAnswer,
    RenewAnswer,
    SleepAnswer,
    StoreFailed,
    Woke,
    WriterFound,
)
from sansio_cache.notices import Ended, LeaseLost, Notice, OperationName, StoreErrored, Waited
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Completed,
    Locked,
    LockRenewed,
    Missing,
    Outcome,
    Refused,
    Step,
    TookTooLong,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)


class LockRequest(Struct, frozen=True):
    """Which lock is to be taken."""

    key: str
    """The full key of its cell."""
    nonce: bytes
    """8 random bytes."""
    seed: int
    """A random number, by which waiters do not look together."""
    lease_ms: int
    """How long it is held without a sign of life."""
    wait_s: float
    """How long another holder is waited for."""
    timeouts: StoreTimeouts
    started_s: float

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.LOCK, now_s - self.started_s))


def take(request: LockRequest, *, now_s: float | None = None, skip: MissReason | None = None) -> Step:
    """Begin to take a lock, at the time of the request if not later.

    `skip` is the reason not to ask the store, if there is one.
    """
    now_s = request.started_s if now_s is None else now_s
    if skip is not None:
        return request.end(Refused(skip), now_s)
    return LockTaking(request, 0, now_s, request.timeouts.from_now(now_s)).ask()


def keep(lock: Lease, lease_ms: int, timeouts: StoreTimeouts, now_s: float) -> Step:
    """Begin to make a lock last for another lease."""
    return Step(LockRenewing(lock, now_s), RenewLeases((lock,), lease_ms, timeouts.operation_s))


def free(lock: Lease, timeouts: StoreTimeouts, now_s: float) -> Step:
    """Begin to give a lock back."""
    return LockFreeing(lock, Completed(), timeouts.from_now(now_s)).ask()


class LockTaking(AsksStore, Struct, frozen=True):
    """Waits for the lock. Its holder may yet be interrupted before it has heard of that.

    Next: LockTaking | LockWaiting | LockFreeing | done
    """

    request: LockRequest
    turn: int
    """How often it was waited before."""
    asked_s: float
    """When it was first asked for in this turn: its lease began later."""
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        command = TakeLock(request.key, request.nonce, request.lease_ms, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """End, or wait for the holder."""
        if not isinstance(event, LockAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case HoldsTaken(now_s=now_s, grants=(grant,)):
                return evolve(request.end(Locked(grant, self.asked_s), now_s), state=self)
            case HoldsTaken():
                raise unexpected(self, event)
            case ForeignFound(now_s=now_s):
                return request.end(Missing(), now_s)
            case WriterFound(now_s=now_s, left_ms=left_ms):
                left_to_wait_s = request.started_s + request.wait_s - now_s
                if left_to_wait_s <= 0:
                    return request.end(TookTooLong(now_s - request.started_s), now_s)
                who, left_s = (request.nonce, request.seed, self.turn), left_ms / 1000
                sleep = watching((request.key,), *who, left_s, left_to_wait_s)
                return Step(LockWaiting(self, now_s), sleep)
            case StoreFailed(now_s=now_s):
                return self.retry(event) or request.end(unavailable(event), now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                lock = Lease(request.key, request.nonce)
                return LockFreeing(lock, Abandoned(), request.timeouts.from_now(now_s)).ask()
            case _:
                assert_never(event)


class LockWaiting(Struct, frozen=True):
    """Sleeps, as another holds the lock, until it is told or has slept long enough.

    Next: LockTaking | done
    """

    taking: LockTaking
    since_s: float

    def receive(self, event: Event) -> Step:
        """Ask again. Not in a circle: who holds it waits for a loader that this caller is in."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        taking = self.taking
        request = taking.request
        match event:
            case Woke(now_s=now_s, is_circle=True):
                return request.end(TookTooLong(now_s - request.started_s), now_s)
            case Woke(now_s=now_s):
                budget = request.timeouts.from_now(now_s)
                waited = Waited(request.key, now_s - self.since_s)
                return evolve(taking, turn=taking.turn + 1, asked_s=now_s, budget=budget).ask(waited)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class LockRenewing(Struct, frozen=True):
    """Waits for the store to extend the lease. Where it fails, it is asked again after the next pause.

    Next: done
    """

    lock: Lease
    asked_s: float

    def receive(self, event: Event) -> Step:
        """End."""
        if not isinstance(event, RenewAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesRenewed(renewed=(True,)):
                return ended(LockRenewed(True, self.asked_s))
            case LeasesRenewed(renewed=(_,)):
                return ended(LockRenewed(False, self.asked_s), LeaseLost(self.lock.key))
            case LeasesRenewed():
                raise unexpected(self, event)
            case StoreFailed(kind=kind, part=part):
                return ended(LockRenewed(None, self.asked_s), StoreErrored(kind, part))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class LockFreeing(AsksStore, Struct, frozen=True):
    """Waits for the lock to be given back. Where that fails its lease lapses.

    Next: LockFreeing | done
    """

    lock: Lease
    outcome: Outcome
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, FreeLock(self.lock, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesReleased():
                return ended(self.outcome)
            case StoreFailed():
                return self.retry(event) or ended(self.outcome, *gave_up(event))
            case Interrupted(now_s=now_s):
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)
