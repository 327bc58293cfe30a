"""What is explored of locks: configurations that close, known mistakes, and where the promise ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from explorations.locking import Broken, Fault, LockConfiguration, bare
from sansio_cache.cell import NO_GRANT, Cell, Kind, make_grant
from sansio_cache.commands import Lease, TakeLock
from sansio_cache.events import Event, Interrupted, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.lock import LockRequest, LockTaking, take
from sansio_cache.step import (
    Abandoned,
    Locked,
    LockRenewed,
    Outcome,
    State,
    Step,
    TookTooLong,
    Unavailable,
    ended,
    evolve,
)
from sansio_cache_runtime.held_lock import HeldLock


@attrs.frozen
class Case:
    """A configuration, and how many worlds it has at least."""

    configuration: LockConfiguration
    at_least: int


def _case(name: str, at_least: int, faults: dict[Fault, int], **rest: Any) -> Case:
    return Case(LockConfiguration(name=name, faults=faults, **rest), at_least)


LOSSES: Final = {Fault.REQUEST_LOST: 1, Fault.REPLY_LOST: 1}

QUICK: Final = (
    _case("2 take it; time", 5_000, {Fault.SECOND: 3}),
    _case("2 work; time", 5_000, {Fault.SECOND: 2}, works=True),
    _case("2 take it; time, losses", 5_000, {Fault.SECOND: 1} | LOSSES),
    _case("2 take it; time, a late duplicate", 5_000, {Fault.SECOND: 2, Fault.DUPLICATE: 1}),
    _case("2 take it; time, an interruption", 2_000, {Fault.SECOND: 2, Fault.INTERRUPTION: 1}),
    _case("2 take it; time, a crash", 2_000, {Fault.SECOND: 2, Fault.CRASH: 1}),
    _case("2 take it; time, a clock that goes back", 5_000, {Fault.SECOND: 2, Fault.BACK: 1}),
)

NIGHTLY: Final = (
    _case("3 take it; time", 50_000, {Fault.SECOND: 2}, workers=3),
    _case("2 take it; more time, losses", 100_000, {Fault.SECOND: 3} | LOSSES),
    _case("2 take it; more time, 2 late duplicates", 40_000, {Fault.SECOND: 3, Fault.DUPLICATE: 2}),
    _case(
        "2 take it; more time, losses, a late duplicate, an interruption",
        50_000,
        {Fault.SECOND: 2, Fault.DUPLICATE: 1, Fault.INTERRUPTION: 1, Fault.REPLY_LOST: 1},
    ),
    _case(
        "2 take it and work; more time, a clock that goes back",
        40_000,
        {Fault.SECOND: 3, Fault.BACK: 1},
        works=True,
    ),
)


# Mistakes of the store.


class GivesToAnyone(MemoryStore):
    """Gives the lock to whoever asks."""

    def _take(self, take: TakeLock, now_ms: int) -> bytes | int | None:
        self._drop(take.key)
        return super()._take(take, now_ms)


class FreesAnything(MemoryStore):
    """Does not look whose lock is given back."""

    def _free(self, lock: Lease, now_ms: int) -> None:
        cell = self._read_any(lock.key, now_ms)
        if isinstance(cell, Cell):
            super()._free(Lease(lock.key, cell.grant), now_ms)


class RenewsAnything(MemoryStore):
    """Does not look whose lease is renewed."""

    def _renew(self, lease: Lease, lease_ms: int, now_ms: int) -> bool:
        cell = self._read_any(lease.key, now_ms)
        if not isinstance(cell, Cell) or cell.grant == NO_GRANT:
            return False
        return super()._renew(Lease(lease.key, cell.grant), lease_ms, now_ms)


class ForgetsTokens(MemoryStore):
    """Removes a lock that is given back, and its token with it."""

    def _free(self, lock: Lease, now_ms: int) -> None:
        super()._free(lock, now_ms)
        cell = self._read_any(lock.key, now_ms)
        if isinstance(cell, Cell) and cell.kind == Kind.EMPTY:
            self._drop(lock.key)


class CountsByItsClock(MemoryStore):
    """Takes its clock for the token, whatever the last one was."""

    def _take(self, take: TakeLock, now_ms: int) -> bytes | int | None:
        taken = super()._take(take, now_ms)
        if isinstance(taken, bytes) and taken.startswith(take.nonce):
            kept = self._kept[take.key]
            assert isinstance(kept.cell, Cell)
            taken = make_grant(take.nonce, now_ms * 1000)
            self._keep(take.key, evolve(kept.cell, grant=taken), kept.expires_ms)
        return taken


class LeasesForLong(MemoryStore):
    """A lock without a lease of its own: until somebody gives it back, or it is forgotten."""

    def _take(self, take: TakeLock, now_ms: int) -> bytes | int | None:
        return super()._take(evolve(take, lease_ms=10 * take.lease_ms), now_ms)


# Mistakes of machines.


@attrs.frozen
class Wrong:
    """A machine whose steps are changed by a mistake."""

    state: State
    change: Callable[[State, Event, Step], Step]

    def receive(self, event: Event) -> Step:
        """The next step, with the mistake."""
        return _wrong(self.change(self.state, event, self.state.receive(event)), self.change)


def _wrong(step: Step, change: Callable[[State, Event, Step], Step]) -> Step:
    step = bare(step)
    return step if step.command is None else evolve(step, state=Wrong(step.state, change))


def _with(change: Callable[[State, Event, Step], Step]) -> Callable[[LockRequest], Step]:
    return lambda request: _wrong(take(request), change)


def failing_open(state: State, event: Event, step: Step) -> Step:
    """Take the lock for given where the store does not serve."""
    if isinstance(step.outcome, Unavailable) and isinstance(state, LockTaking):
        return ended(Locked(make_grant(state.request.nonce, 1), state.asked_s))
    return step


def counting_from_the_answer(state: State, event: Event, step: Step) -> Step:
    """Count the lease from when it was heard of."""
    return ended(Locked(step.outcome.grant, event.now_s)) if isinstance(step.outcome, Locked) else step


def forgetting(state: State, event: Event, step: Step) -> Step:
    """Give nothing back where the caller was interrupted."""
    return ended(Abandoned()) if isinstance(event, Interrupted) else step


def taking_silence_for_a_no(state: State, event: Event, step: Step) -> Step:
    """Take a lost answer for the lock's being another's, as after a SET NX."""
    return ended(TookTooLong(0.0)) if isinstance(event, StoreFailed) else step


# Mistakes of holders.


class Trusting(HeldLock):
    """Thinks that the lock is his until he is told otherwise."""

    @property
    def is_lost(self) -> bool:
        return self._was_lost


class CountingFromTheAnswer(HeldLock):
    """Counts a renewed lease from when it heard of it."""

    def take_in(self, outcome: Outcome) -> bool:
        if isinstance(outcome, LockRenewed):
            outcome = LockRenewed(outcome.is_ours, self._clock())
        return super().take_in(outcome)


class Hopeful(HeldLock):
    """Takes a renewal that nobody has answered for done."""

    def take_in(self, outcome: Outcome) -> bool:
        if isinstance(outcome, LockRenewed) and outcome.is_ours is None:
            outcome = LockRenewed(True, outcome.asked_s)
        return super().take_in(outcome)


@attrs.frozen
class Variant:
    """A configuration with a mistake, and what it breaks."""

    configuration: LockConfiguration
    breaks: Broken


def _variant(name: str, breaks: Broken, faults: dict[Fault, int], **rest: Any) -> Variant:
    return Variant(LockConfiguration(name=name, faults=faults, **rest), breaks)


VARIANTS: Final = (
    _variant("given to anyone", Broken.HOLDERS, {}, store=GivesToAnyone),
    _variant(
        "given where the store does not serve",
        Broken.HOLDERS,
        {Fault.REQUEST_LOST: 2},
        begin=_with(failing_open),
    ),
    _variant("given back without owner check", Broken.ANOTHERS, {Fault.DUPLICATE: 1}, store=FreesAnything),
    _variant("renewed without owner check", Broken.ANOTHERS, {Fault.SECOND: 3}, store=RenewsAnything),
    _variant("a token that is forgotten with the lock", Broken.TOKENS, {Fault.BACK: 1}, store=ForgetsTokens),
    _variant("a token that is the clock", Broken.TOKENS, {Fault.BACK: 1}, store=CountsByItsClock),
    _variant("a lock that outlasts its lease", Broken.OVERSTAYED, {}, store=LeasesForLong),
    _variant(
        "a lease that counts from the answer",
        Broken.HOLDERS,
        {Fault.SECOND: 2},
        begin=_with(counting_from_the_answer),
    ),
    _variant(
        "a renewal that counts from the answer",
        Broken.HOLDERS,
        {Fault.SECOND: 4},
        lease_s=3,
        held=CountingFromTheAnswer,
    ),
    _variant(
        "a renewal that was not answered, taken for done",
        Broken.HOLDERS,
        {Fault.SECOND: 2, Fault.REQUEST_LOST: 1},
        held=Hopeful,
    ),
    _variant("a holder who does not look at his clock", Broken.HOLDERS, {Fault.SECOND: 2}, held=Trusting),
    _variant(
        "an interrupted caller who gives nothing back",
        Broken.LEFT,
        {Fault.INTERRUPTION: 1},
        begin=_with(forgetting),
    ),
    _variant(
        "a lost answer that is taken for a no",
        Broken.LEFT,
        {Fault.REPLY_LOST: 1},
        begin=_with(taking_silence_for_a_no),
    ),
)

LIMITS: Final = (
    _variant("the lock is forgotten", Broken.HOLDERS, {Fault.GONE: 1}),
    _variant("the server's clock jumps ahead", Broken.HOLDERS, {Fault.AHEAD: 1}),
    _variant("the lock is forgotten, and the clock goes back", Broken.TOKENS, {Fault.GONE: 1, Fault.BACK: 1}),
    _variant("a resource that heeds no token", Broken.LATE, {Fault.SECOND: 2}, works=True, is_fenced=False),
)
"""Where the promise ends, as documented: the explorer finds these too."""
