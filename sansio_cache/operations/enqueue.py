"""Enqueue: leave a write to the queue, so that it is not lost and no reader sees an older value after it.

    EnqueueHolding --HoldsTaken--> EnqueueAppending --EntriesAppended--> EnqueueRemoving --KeysDeleted--> done
                                      | the hold was another's, or the partition is full
                                      +--> EnqueueWaiting --Woke--> EnqueueHolding
    replay:  EnqueueReplaying --EntriesAppended--> EnqueueRemoving --> done

Four steps, and the order is the promise. A *hold* on the key, whose grant (a fencing token) is issued by the
store; an *append* that is refused where that hold is gone, so that a request which is sent again is one
entry, and one that arrives late is none (S8); the *removal* of the key, which voids the loads that have
looked for the newest entry before there was this one (S1); and only then is the write acknowledged.

Who cannot say that the write is queued does not say so. Where an answer was lost the outcome is unknown, and
the key is removed all the same. Where the partition is full it is waited, up to a deadline: nothing is ever
dropped.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.backoff import pause_s
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import (
    Append,
    AppendEntries,
    DeleteKeys,
    HoldCells,
    Lease,
    ReleaseLeases,
    ReplayLetter,
    Sleep,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    AppendAnswer,
    Appended,
    DeleteAnswer,
    EntriesAppended,
    Event,
    HoldAnswer,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    LeasesReleased,
    ReleaseAnswer,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import (
    Ended,
    Invalidated,
    InvalidationFailed,
    Notice,
    OperationName,
    RemovalBegan,
    Waited,
    WriteQueued,
)
from sansio_cache.operations.invalidate import void
from sansio_cache.queues import hold_of, partition_of, place_of
from sansio_cache.step import (
    Abandoned,
    AsksOnce,
    AsksStore,
    Outcome,
    Parted,
    Queued,
    Refused,
    Step,
    TookTooLong,
    Unavailable,
    Unknown,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
    went_without,
)


class QueuedItem(Struct, frozen=True):
    """One write."""

    key: str
    body: bytes
    """The value, sealed as in a cell."""


class EnqueueRequest(Struct, frozen=True):
    """What is to be written, all of it in one partition."""

    root: str
    """What the keys of the partition begin with."""
    items: tuple[QueuedItem, ...]
    tags: tuple[str, ...]
    """The keys of tags that go now, and once more when the writes are applied."""
    nonce: bytes
    """8 random bytes."""
    seed: int
    """A random number, by which those who wait do not look together."""
    hold_ms: int
    """How long the holds last."""
    most: int
    """How many entries the partition may hold."""
    partitions: int
    wait_s: float
    """How long is waited for others: for room, and for their holds."""
    timeouts: StoreTimeouts
    started_s: float
    replicas: int = 0
    """How many replicas are to have the writes before they are acknowledged."""
    replicas_ms: int = 0
    """How long is waited for these."""
    waited_s: float = 0.0
    """How much of `wait_s` is over as this begins, as its call has queued others before."""

    @property
    def gone(self) -> tuple[str, ...]:
        """The keys that are removed when all is queued."""
        return (*(item.key for item in self.items), *self.tags)

    def holds(self, items: tuple[QueuedItem, ...]) -> tuple[str, ...]:
        """The keys of the holds of some of the writes."""
        return tuple(hold_of(self.root, item.key) for item in items)

    def has_waited_s(self, now_s: float) -> float:
        """How much of `wait_s` is over."""
        return self.waited_s + now_s - self.started_s

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.ENQUEUE, now_s - self.started_s))


def enqueue(request: EnqueueRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to queue writes. `skip` is the reason why the store is not asked, if there is one."""
    now_s = request.started_s
    if skip is not None:
        return request.end(Refused(skip), now_s)
    return EnqueueHolding(request, Left(request.items), request.timeouts.from_now(now_s)).ask()


class Left(Struct, frozen=True):
    """How far the writes are."""

    items: tuple[QueuedItem, ...]
    """Those that are not queued yet."""
    done: tuple[tuple[str, int], ...] = ()
    """The keys of the others, with their tokens."""
    turn: int = 0
    """How often it was waited before."""
    is_confirmed: bool = True
    """Whether as many replicas have the others as were asked for."""

    def after(self, tokens: tuple[int, ...], *, is_confirmed: bool) -> Left:
        """The same when these were queued, but for those with 0."""
        pairs = tuple(zip(self.items, tokens, strict=True))
        done = tuple((item.key, token) for item, token in pairs if token)
        items = tuple(item for item, token in pairs if not token)
        is_confirmed = self.is_confirmed and (is_confirmed or not done)
        return Left(items, (*self.done, *done), self.turn, is_confirmed)


class EnqueueHolding(AsksStore, Struct, frozen=True):
    """Waits for holds.

    Next: EnqueueHolding | EnqueueAppending | EnqueueReleasing | EnqueueRemoving | InvalidateDeleting | done
    """

    request: EnqueueRequest
    left: Left
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        holds = request.holds(self.left.items)
        command = HoldCells(holds, request.nonce, request.hold_ms, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Append, or end."""
        if not isinstance(event, HoldAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case HoldsTaken(now_s=now_s, grants=grants) if len(grants) == len(self.left.items):
                appends = tuple(
                    Append(item.key, grant, item.body, request.tags)
                    for item, grant in zip(self.left.items, grants, strict=True)
                )
                budget = request.timeouts.from_now(now_s)
                return EnqueueAppending(request, self.left, appends, budget).ask()
            case HoldsTaken():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s):
                again = self.retry(event)
                return again or _end(request, self.left, unavailable(event), now_s, *gave_up(event))
            case Interrupted(now_s=now_s) if self.left.done:
                return void(request.gone, request.timeouts, now_s)
            case Interrupted(now_s=now_s):
                return EnqueueReleasing(request, request.timeouts.from_now(now_s)).ask()
            case _:
                assert_never(event)


def _remove(
    request: EnqueueRequest | ReplayRequest,
    gone: tuple[str, ...],
    outcome: Outcome,
    now_s: float,
    *notices: Notice,
) -> Step:
    """Remove the keys, and end with the outcome then."""
    return EnqueueRemoving(request, gone, outcome, request.timeouts.from_now(now_s)).ask(*notices)


def _end(request: EnqueueRequest, left: Left, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
    """End without all of the writes: where some are queued, nobody can say so of all."""
    if not left.done:
        return request.end(outcome, now_s, *notices)
    failed = outcome if isinstance(outcome, Unavailable) else Unavailable(None)
    partly = Unknown(failed.kind, failed.reason, failed.cause)
    return _remove(request, request.gone, partly, now_s, *notices)


class EnqueueAppending(AsksOnce, Struct, frozen=True):
    """Waits for the writes to be queued.

    Next: EnqueueAppending | EnqueueRemoving | EnqueueWaiting | InvalidateDeleting | done
    """

    request: EnqueueRequest
    left: Left
    appends: tuple[Append, ...]
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        # Those who come while others are waited for wait for these first, and then for their own.
        timeout_s = self.budget.timeout_s + 2 * request.replicas_ms / 1000
        limits = request.most, request.partitions, timeout_s, request.replicas, request.replicas_ms
        return Step(self, AppendEntries(request.root, self.appends, *limits), notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the keys, or wait for others."""
        if not isinstance(event, AppendAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case EntriesAppended(now_s=now_s, how=Appended.PARTED, backlog=partitions):
                return _end(request, self.left, Parted(partitions), now_s)
            case EntriesAppended(now_s=now_s, how=Appended.FULL):
                return self._wait(self.left, now_s, is_full=True)
            case EntriesAppended(tokens=tokens) if len(tokens) == len(self.appends):
                return self._queued(event)
            case EntriesAppended():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s):
                if (again := self.retry(event)) is not None:
                    return again
                outcome = self.unknown(event)
                if isinstance(outcome, Unknown):
                    return _remove(request, request.gone, outcome, now_s, *gave_up(event))
                return _end(request, self.left, outcome, now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                # Whether it is queued is unknown: no reader is to be given what is in the cell.
                return void(request.gone, request.timeouts, now_s)
            case _:
                assert_never(event)

    def _queued(self, event: EntriesAppended) -> Step:
        request, now_s = self.request, event.now_s
        left = self.left.after(event.tokens, is_confirmed=event.replicas >= request.replicas)
        if not left.items:
            tokens = dict(left.done)
            in_order = tuple(tokens[item.key] for item in request.items)
            outcome = Queued(in_order, is_confirmed=left.is_confirmed)
            notices = tuple(WriteQueued(item.key) for item in request.items)
            return _remove(request, request.gone, outcome, now_s, *notices)
        return self._wait(left, now_s)

    def _wait(self, left: Left, now_s: float, *, is_full: bool = False) -> Step:
        """Sleep a little, unless that would take too long."""
        request = self.request
        if self.is_unsure:
            # What is not there may have been queued by the attempt before, and overtaken by another's.
            return _remove(request, request.gone, Unknown(None), now_s)
        waited_s = request.has_waited_s(now_s)
        left_s = request.wait_s - waited_s
        if left_s <= 0:
            return _end(request, left, TookTooLong(waited_s, is_full), now_s)
        waiting = EnqueueWaiting(request, left, now_s)
        return Step(waiting, Sleep(pause_s(request.seed, left.turn, left_s)))


class EnqueueWaiting(Struct, frozen=True):
    """Sleeps, as the partition is full or another writes the same key.

    Next: EnqueueHolding | InvalidateDeleting | done
    """

    request: EnqueueRequest
    left: Left
    since_s: float

    def receive(self, event: Event) -> Step:
        """Take the holds anew."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case Woke(now_s=now_s):
                waited = Waited(request.items[0].key, now_s - self.since_s)
                budget = request.timeouts.from_now(now_s)
                left = evolve(self.left, turn=self.left.turn + 1)
                return EnqueueHolding(request, left, budget).ask(waited)
            case Interrupted(now_s=now_s) if self.left.done:
                return void(request.gone, request.timeouts, now_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class EnqueueRemoving(AsksStore, Struct, frozen=True):
    """Waits for the keys to be gone: then the writes are acknowledged. What cannot be removed is pending.

    Next: EnqueueRemoving | done
    """

    request: EnqueueRequest | ReplayRequest
    keys: tuple[str, ...]
    outcome: Outcome
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        began = RemovalBegan(self.keys)
        return Step(self, DeleteKeys(self.keys, self.budget.timeout_s), notices=(*notices, began))

    def receive(self, event: Event) -> Step:
        """End."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted(now_s=now_s, left=()):
                return self._end(self.outcome, now_s, Invalidated(self.keys))
            case KeysDeleted(now_s=now_s, left=left, failures=failures):
                gone = Invalidated(tuple(key for key in self.keys if key not in left))
                rest = evolve(self, keys=left)
                again = rest.retry_parts(failures)
                if again is not None:
                    return evolve(again, notices=(gone, *again.notices))
                return rest.untold(now_s, gone, *went_without(failures))
            case StoreFailed(now_s=now_s):
                return self.retry(event) or self.untold(now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)

    def untold(self, now_s: float, *notices: Notice) -> Step:
        """End without the store knowing that the keys are gone: they are pending."""
        outcome = self.outcome
        if isinstance(outcome, Queued):
            outcome = evolve(outcome, is_told=False)
        return self._end(outcome, now_s, *notices, InvalidationFailed(self.keys))

    def _end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        if isinstance(outcome, Abandoned):
            return ended(outcome, *notices)
        return self.request.end(outcome, now_s, *notices)


class EnqueueReleasing(AsksStore, Struct, frozen=True):
    """Waits for the holds to be given back, of a write that was interrupted before it was queued.

    Next: EnqueueReleasing | done
    """

    request: EnqueueRequest
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        leases = tuple(Lease(hold, self.request.nonce) for hold in self.request.holds(self.request.items))
        return Step(self, ReleaseLeases(leases, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesReleased():
                return ended(Abandoned())
            case StoreFailed():
                return self.retry(event) or ended(Abandoned(), *gave_up(event))
            case Interrupted(now_s=now_s):
                return evolve(self, budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)


class ReplayRequest(Struct, frozen=True):
    """Which letter is to be queued anew."""

    root: str
    letter: int
    key: str
    tags: tuple[str, ...]
    """The keys of tags that go with it."""
    nonce: bytes
    timeouts: StoreTimeouts
    started_s: float
    partitions: int = 0
    """How many the queue has; 0 where that is not looked at."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the writes of its key are queued in another partition by now: there nobody knows of it."""
        return bool(self.partitions) and place_of(self.key, self.partitions) != partition_of(self.root)[1]

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.ENQUEUE, now_s - self.started_s))


def replay(request: ReplayRequest) -> Step:
    """Begin to queue a dead letter anew. One whose key was written since is superseded, and stays.

    So does one of before a change of the number of partitions: what was queued since is in another one.
    """
    if request.is_elsewhere:
        return request.end(Parted(request.partitions), request.started_s)
    return EnqueueReplaying(request, request.timeouts.from_now(request.started_s)).ask()


class EnqueueReplaying(AsksOnce, Struct, frozen=True):
    """Waits for a letter to be queued anew.

    Next: EnqueueReplaying | EnqueueRemoving | InvalidateDeleting | done
    """

    request: ReplayRequest
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        letter = request.root, request.letter, request.key, request.nonce
        command = ReplayLetter(*letter, self.budget.timeout_s, request.partitions)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the key, as for any other write."""
        if not isinstance(event, AppendAnswer):
            raise unexpected(self, event)
        request, gone = self.request, (self.request.key, *self.request.tags)
        match event:
            case EntriesAppended(now_s=now_s, how=Appended.PARTED, backlog=partitions):
                return request.end(Parted(partitions), now_s)
            case EntriesAppended(now_s=now_s, tokens=(token,)) if token > 0:
                return _remove(request, gone, Queued((token,)), now_s, WriteQueued(request.key))
            case EntriesAppended(now_s=now_s, tokens=(0,)) if self.is_unsure:
                # It may have been queued by an attempt before, and be applied already.
                return _remove(request, gone, Unknown(None), now_s)
            case EntriesAppended(now_s=now_s, tokens=(token,)):
                return request.end(Queued((token,)), now_s)
            case EntriesAppended():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s):
                if (again := self.retry(event)) is not None:
                    return again
                outcome = self.unknown(event)
                if isinstance(outcome, Unknown):
                    return _remove(request, gone, outcome, now_s, *gave_up(event))
                return request.end(outcome, now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return void(gone, request.timeouts, now_s)
            case _:
                assert_never(event)
