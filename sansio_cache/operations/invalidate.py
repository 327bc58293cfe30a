"""Invalidate: remove keys, and with them every load in flight. Or make values stale, which voids loads, too.

    InvalidateDeleting --KeysDeleted, or CellsExpired--> InvalidateDeleting (next chunk) ... --> done
       | failed: the remaining keys are reported, and are pending invalidations from then on

A tag is invalidated by removing its key (see `tags.py`), an entity's generation likewise.

A plain removal is a complete invalidation: the lease lives in the same key (see `cell.py`). It asks for no
memory and no script, so it works when the store is full (fault 13). An invalidation does not fail
silently, and being cancelled does not stop it: by then the caller's database may have changed. Where the
breaker is open nobody waits for it: the keys are pending before the call returns, and the store is told of
them in the background at once.

A soft expiry that the store cannot be told of is pending as a removal: that is more than was asked for, and
never less.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import DeleteKeys, ExpireCells
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    CellsExpired,
    DeleteAnswer,
    Event,
    ExpireAnswer,
    Interrupted,
    KeysDeleted,
    StoreFailed,
)
from sansio_cache.notices import (
    Ended,
    Invalidated,
    InvalidationFailed,
    Notice,
    OperationName,
    SoftExpired,
)
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    ManyInvalidated,
    Step,
    ended,
    evolve,
    gave_up,
    unexpected,
    went_without,
)


class InvalidateRequest(Struct, frozen=True):
    """What is to be removed, or to be made stale."""

    operation: OperationName | None
    """What the user asked for; None for the clean-up of an interrupted operation, which is not counted."""
    keys: tuple[str, ...]
    chunk: int
    """How many keys may go into one command of the store."""
    timeouts: StoreTimeouts
    started_s: float
    soft: bool = False
    """Whether values are to become stale, and not to go."""
    looks: bool = False
    """Whether the caller wants to know if a value was there. For one key."""
    instead: bool = False
    """Whether they go as values could not be stored, for a failure."""

    def over(self, now_s: float) -> tuple[Notice, ...]:
        """The notice that closes the operation, if it is one of the user's."""
        return (Ended(self.operation, now_s - self.started_s),) if self.operation else ()


def invalidate(
    request: InvalidateRequest, *, skip: MissReason | None = None, now_s: float | None = None
) -> Step:
    """Begin to remove keys.

    `skip` is the reason not to ask the store, if there is one: where it does not serve, nobody waits, and the
    keys are pending; where the cache is disabled nothing is done. `now_s` is the time where it is not the
    request's: the removal ends a step of an operation, has what is left of its time, and is not begun where
    it would not end in time if it took as long as what came before it.
    """
    now_s = request.started_s if now_s is None else now_s
    budget = request.timeouts.from_now(request.started_s).at(now_s)
    if not request.keys or skip is MissReason.DISABLED:
        return ended(ManyInvalidated((), ()), *request.over(now_s))
    if skip is not None or budget.timeout_s < now_s - request.started_s:
        untried = InvalidationFailed(request.keys, was_tried=False)
        return ended(ManyInvalidated((), request.keys), untried, *request.over(now_s))
    return _delete_next(request, 0, False, budget)


def void(keys: tuple[str, ...], timeouts: StoreTimeouts, now_s: float) -> Step:
    """Begin to remove keys for an operation that was interrupted; it ends as abandoned."""
    request = InvalidateRequest(None, keys, len(keys), timeouts, now_s)
    return _delete_next(request, 0, True, timeouts.from_now(now_s))


def _delete_next(
    request: InvalidateRequest,
    done: int,
    abandoned: bool,
    budget: Budget,
    *notices: Notice,
    left: tuple[str, ...] = (),
) -> Step:
    keys = request.keys[done : done + request.chunk]
    return InvalidateDeleting(request, done, keys, abandoned, budget, left=left).ask(*notices)


def _without(keys: tuple[str, ...], left: tuple[str, ...]) -> tuple[str, ...]:
    if not left:
        return keys
    those = frozenset(left)
    return tuple(key for key in keys if key not in those)


class InvalidateDeleting(AsksStore, Struct, frozen=True):
    """Waits for the keys of one chunk to be removed.

    Next: InvalidateDeleting | done
    """

    request: InvalidateRequest
    done: int
    keys: tuple[str, ...]
    abandoned: bool
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""
    left: tuple[str, ...] = ()
    """Keys whose part of the store has failed."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        timeout_s = self.budget.timeout_s
        if self.request.soft:
            return Step(self, ExpireCells(self.keys, timeout_s), notices=notices)
        return Step(self, DeleteKeys(self.keys, timeout_s, self.request.looks), notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on to the next chunk, or end."""
        request = self.request
        if not isinstance(event, ExpireAnswer if request.soft else DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted(now_s=now_s) | CellsExpired(now_s=now_s):
                if again := evolve(self, is_unsure=True).retry_parts(event.failures):
                    return again
                gone = _without(self.keys, event.left)
                done, left = self.done + len(self.keys), (*self.left, *event.left)
                said: tuple[Notice, ...] = went_without(event.failures)
                if event.left:
                    said = (*said, InvalidationFailed(event.left))
                said = (*said, SoftExpired(gone) if request.soft else Invalidated(gone))
                if done < len(request.keys):
                    budget = request.timeouts.from_now(now_s)
                    return _delete_next(request, done, self.abandoned, budget, *said, left=left)
                why = event.failures[0] if event.failures else None
                outcome = ManyInvalidated(
                    _without(request.keys, left),
                    left,
                    why.reason if why else "",
                    why.cause if why else None,
                    existed=self._existed(event),
                )
                return self._end(outcome, now_s, *said)
            case StoreFailed(now_s=now_s):
                failed = request.keys[self.done :]
                all_left = (*self.left, *failed)
                told = ManyInvalidated(_without(request.keys, all_left), all_left, event.reason, event.cause)
                notices = (*gave_up(event), InvalidationFailed(failed))
                unsure = evolve(self, is_unsure=True)
                return unsure.retry(event) or self._end(told, now_s, *notices)
            case Interrupted(now_s=now_s):
                return evolve(self, abandoned=True, budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)

    def _existed(self, event: KeysDeleted | CellsExpired) -> bool | None:
        """Whether a value went; the attempt before this one may have taken it."""
        if isinstance(event, CellsExpired):
            return None
        if event.count == 0 and not self.is_unsure and len(self.keys) == len(self.request.keys):
            return False
        return None if self.is_unsure and not event.existed else event.existed

    def _end(self, outcome: ManyInvalidated, now_s: float, *notices: Notice) -> Step:
        if self.abandoned:
            return ended(Abandoned(), *notices)
        told = evolve(outcome, instead=True) if self.request.instead else outcome
        return ended(told, *notices, *self.request.over(now_s))
