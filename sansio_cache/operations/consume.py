"""Consume: apply what is queued, for as long as nobody says to end.

    ConsumeAttending --QueueAttended--> ConsumeRenewing --> the next of these:
      a share too small   ConsumeLeasing (a partition's lease)
      a share too large   ConsumeGivingBack
      a partition         ConsumeTaking --EntriesTaken--> ConsumeApplying (calls the user's writer)
                            --Computed--> ConsumeVoiding --KeysDeleted--> ConsumeSettling --> the next
      none                ConsumeResting, and all of it again
    at the end            ConsumeLeaving, see `leave.py`

One consumer has a partition at a time: by a lease that is renewed, of which the store makes sure whenever it
delivers or settles. A group of consumers alone would not do: one that was held up would apply its entry after
those that another has applied since. One that was held up in the writer itself is too late for that: so the
writer gets tokens, and the database refuses a lower one than it has.

The order is the promise: *apply, then remove the key, then settle*. Settled first, a write would be lost with
its consumer. Without the removal, what a writer had queued and not removed from the cache would stay there.
What was applied and not settled is applied again, by this consumer or another: at least once, and the
token tells.

Who fails to reach the store forgets what it has in hand and begins anew: all that is not settled will be
delivered again. Consumers share the partitions by how many they are.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.commands import (
    AttendQueue,
    Compute,
    DeleteKeys,
    ReleaseLeases,
    RenewLeases,
    SettleEntries,
    TakeEntries,
    TakeLock,
    Verdict,
)
from sansio_cache.events import (
    AttendAnswer,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    DeleteAnswer,
    EntriesSettled,
    EntriesTaken,
    Event,
    ForeignFound,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    LeasesReleased,
    LeasesRenewed,
    LockAnswer,
    QueueAttended,
    ReleaseAnswer,
    RenewAnswer,
    SettleAnswer,
    StoreFailed,
    TakeAnswer,
    WriterFound,
)
from sansio_cache.notices import (
    Invalidated,
    Notice,
    PartitionLost,
    PartitionMeasured,
    PartitionTaken,
    WriteDead,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.operations.batching import Holding, Piece, Unit, coalesced
from sansio_cache.operations.in_hand import ConsumeRequest, InHand
from sansio_cache.operations.leave import ConsumeLeaving, release
from sansio_cache.operations.renewal import renewed_after_s
from sansio_cache.queues import Turn, TurnEnd, waited_s
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Step,
    evolve,
    gave_up,
    unexpected,
)


def consume(request: ConsumeRequest) -> Step:
    """Begin to consume."""
    return Consumer(request).go_on(request.started_s)


class Consumer(InHand, frozen=True):
    """What a consumer has in hand, and what it does next."""

    def go_on(self, now_s: float, *notices: Notice) -> Step:
        """What is to be done next."""
        request = self.request
        budget = request.timeouts.from_now(now_s)
        if self.is_over:
            return ConsumeLeaving(self, budget).ask(*notices)
        if now_s >= self.attends_s:
            return ConsumeAttending(self, budget).ask(*notices)
        if len(self.holdings) > self.share:
            return ConsumeGivingBack(self, self.holdings[-1].place, budget).ask(*notices)
        if len(self.holdings) < self.share:
            for place in range(request.partitions):
                if place not in self.tried and self.holding(place) is None:
                    trying = evolve(self, tried=self.tried | {place})
                    return ConsumeLeasing(trying, place, budget).ask(*notices)
        for holding in self.holdings:
            unit, rest = holding.due(now_s)
            if unit is not None:
                return ConsumeApplying(self.with_holding(rest), rest.place, unit, now_s).ask(*notices)
            if holding.place not in self.visited and holding.has_room:
                return ConsumeTaking(self.visiting(holding.place), holding.place, budget).ask(*notices)
        if self.is_busy:
            return evolve(self, visited=frozenset(), is_busy=False).go_on(now_s, *notices)
        return self.rest(self.pause_s(now_s), now_s, *notices)

    def rest(self, rest_s: float, now_s: float, *notices: Notice) -> Step:
        """Rest, and begin another round."""
        resting = ConsumeResting(evolve(self, visited=frozenset(), is_busy=False))
        command = Compute(self.request.root(0), self.renewal(now_s), Turn(rest_s=rest_s))
        return Step(resting, command, notices=notices)

    def lost(self, place: int, now_s: float) -> Step:
        """Go on without a partition whose lease is another's."""
        lost = PartitionLost(self.request.root(place))
        return evolve(self.without(place), tried=self.tried - {place}).go_on(now_s, lost)

    def fail(self, failure: StoreFailed) -> Step:
        """The store has failed: forget what is in hand, and begin anew after a pause.

        The leases are still there, or lapse. What was delivered is delivered again.
        """
        request, failures = self.request, self.failures + 1
        rest_s = request.failing.pause_s(failures, request.seed)
        fresh = Consumer(request, failures=failures, is_over=self.is_over)
        lost = (PartitionLost(request.root(each.place)) for each in self.holdings)
        return fresh.rest(rest_s, failure.now_s, *gave_up(failure), *lost)

    def release(self, now_s: float, *places: int) -> Step:
        """Give the leases back, as it was interrupted."""
        held = (*(each.place for each in self.holdings), *places)
        return release(self.request, tuple(dict.fromkeys(held)), Abandoned(), now_s)


class AsksForConsumer(AsksStore):
    """What states have in common in which a consumer waits for the store.

    Not a state of its own: the classes that derive from it declare the field `consumer`.
    """

    __slots__ = ()
    consumer: Consumer

    def without_answer(self, event: StoreFailed | Interrupted) -> Step:
        """Ask again, begin anew, or give the leases back."""
        if isinstance(event, Interrupted):
            return self.consumer.release(event.now_s)
        return self.retry(event) or self.consumer.fail(event)


class ConsumeAttending(AsksForConsumer, Struct, frozen=True):
    """Waits to hear how many consumers there are.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeResting | ConsumeRenewing | ConsumeReleasing | done
    """

    consumer: Consumer
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.consumer.request
        command = AttendQueue(request.root(0), request.member, request.lease_ms, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Renew the leases, if there are any."""
        if not isinstance(event, AttendAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        request = consumer.request
        match event:
            case QueueAttended(now_s=now_s, members=members):
                attends_s = now_s + renewed_after_s(request.lease_ms)
                consumer = evolve(
                    consumer, members=members, attends_s=attends_s, tried=frozenset(), failures=0
                )
                if not consumer.holdings:
                    return consumer.go_on(now_s)
                return ConsumeRenewing(consumer, request.timeouts.from_now(now_s)).ask()
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)


class ConsumeRenewing(AsksForConsumer, Struct, frozen=True):
    """Waits for the leases to be renewed.

    Next: ConsumeRenewing | ConsumeLeasing | ConsumeResting | ConsumeReleasing | ConsumeTaking
        | ConsumeApplying
    """

    consumer: Consumer
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.consumer.request
        leases = tuple(request.lease(each.place) for each in self.consumer.holdings)
        return Step(self, RenewLeases(leases, request.lease_ms, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on with the partitions that are still its own."""
        if not isinstance(event, RenewAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case LeasesRenewed(now_s=now_s, renewed=renewed) if len(renewed) == len(consumer.holdings):
                pairs = tuple(zip(consumer.holdings, renewed, strict=True))
                lost = tuple(PartitionLost(consumer.request.root(each.place)) for each, ok in pairs if not ok)
                return evolve(consumer, holdings=tuple(each for each, ok in pairs if ok)).go_on(now_s, *lost)
            case LeasesRenewed():
                raise unexpected(self, event)
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)


class ConsumeLeasing(AsksStore, Struct, frozen=True):
    """Waits for the lease of a partition.

    Next: ConsumeLeasing | ConsumeTaking | ConsumeResting | ConsumeReleasing | ConsumeAttending
        | ConsumeApplying
    """

    consumer: Consumer
    place: int
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.consumer.request
        lease = request.lease(self.place)
        command = TakeLock(lease.key, lease.lease_id, request.lease_ms, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on, with the partition or without."""
        if not isinstance(event, LockAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case HoldsTaken(now_s=now_s, grants=(grant,)):
                taken = consumer.with_holding(Holding(self.place, grant))
                return taken.go_on(now_s, PartitionTaken(consumer.request.root(self.place)))
            case HoldsTaken():
                raise unexpected(self, event)
            case WriterFound(now_s=now_s) | ForeignFound(now_s=now_s):
                return consumer.go_on(now_s)
            case StoreFailed():
                return self.retry(event) or consumer.fail(event)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s, self.place)
            case _:
                assert_never(event)


class ConsumeGivingBack(AsksForConsumer, Struct, frozen=True):
    """Waits for the lease of a partition to be given back, of which another consumer has too few.

    Next: ConsumeGivingBack | ConsumeTaking | ConsumeResting | ConsumeReleasing | ConsumeAttending
    """

    consumer: Consumer
    place: int
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        lease = self.consumer.request.lease(self.place)
        return Step(self, ReleaseLeases((lease,), self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on without the partition."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case LeasesReleased(now_s=now_s):
                return consumer.lost(self.place, now_s)
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)


class ConsumeTaking(AsksForConsumer, Struct, frozen=True):
    """Waits for the entries of a partition.

    Next: ConsumeTaking | ConsumeVoiding | ConsumeResting | ConsumeLeasing | ConsumeReleasing
        | ConsumeApplying | ConsumeAttending
    """

    consumer: Consumer
    place: int
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request, holding = self.consumer.request, self.consumer.holding(self.place)
        assert holding is not None
        limits = holding.taken, request.batch, request.most_bytes, self.budget.timeout_s
        return Step(self, TakeEntries(request.root(self.place), holding.grant, *limits), notices=notices)

    def receive(self, event: Event) -> Step:
        """Apply them."""
        if not isinstance(event, TakeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case EntriesTaken(now_s=now_s, is_ours=False):
                return consumer.lost(self.place, now_s)
            case EntriesTaken(entries=()):
                return self._found_nothing(event)
            case EntriesTaken():
                return self._taken(event)
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)

    def _found_nothing(self, taken: EntriesTaken) -> Step:
        """Go on; from the beginning, where there are entries that were passed, and are in nobody's hands.

        A store that is older than it was, after a failover or a restart, has entries again that were settled,
        and may have the lease of this very consumer.
        """
        consumer, holding = self.consumer, self.consumer.holding(self.place)
        assert holding is not None
        if taken.oldest and holding.taken and not holding.parked:
            consumer = evolve(consumer.with_holding(evolve(holding, taken=0)), is_busy=True)
        return consumer.go_on(taken.now_s, self._measured(taken))

    def _taken(self, taken: EntriesTaken) -> Step:
        consumer, now_s = self.consumer, taken.now_s
        request, holding = consumer.request, consumer.holding(self.place)
        assert holding is not None
        pieces, given_up = coalesced(taken.entries, request.codec, request.failing.deliveries)
        fresh, holding = holding.merged(pieces)
        holding = evolve(holding, taken=taken.entries[-1].token)
        if fresh:
            holding = evolve(holding, parked=(*holding.parked, Unit(fresh, due_s=now_s)))
        is_busy = consumer.is_busy or taken.backlog > len(taken.entries)
        consumer, measured = evolve(consumer.with_holding(holding), is_busy=is_busy), self._measured(taken)
        if given_up:
            return bury(consumer, self.place, given_up, now_s, measured)
        return consumer.go_on(now_s, measured)

    def _measured(self, taken: EntriesTaken) -> PartitionMeasured:
        root, oldest_s = self.consumer.request.root(self.place), waited_s(taken.oldest, taken.server_ms)
        return PartitionMeasured(root, taken.backlog, oldest_s, taken.now_s)


class ConsumeApplying(Struct, frozen=True):
    """Waits for the user's writer, while the leases are renewed.

    Next: ConsumeApplying | ConsumeVoiding | ConsumeTaking | ConsumeReleasing | ConsumeAttending
    """

    consumer: Consumer
    place: int
    unit: Unit
    began_s: float

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        root = self.consumer.request.root(self.place)
        renewal = self.consumer.renewal(self.began_s)
        return Step(self, Compute(root, renewal, Turn(self.unit.writes)), notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the keys; or park the writes, or give one up."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case Computed(now_s=now_s, value=TurnEnd() as end):
                return self._applied(end, now_s)
            case Computed():
                raise unexpected(self, event)
            case ComputeFailed(now_s=now_s, error=error):
                return self._failed(type(error).__name__, now_s)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)

    def _applied(self, end: TurnEnd, now_s: float) -> Step:
        consumer, unit = self.consumer, self.unit
        holding = consumer.holding(self.place)
        assert holding is not None
        consumer = evolve(consumer.with_holding(holding.succeeded(now_s)), is_over=end.is_over)
        verdicts = tuple(
            verdict
            for piece in unit.pieces
            for verdict in piece.verdicts(_higher(end.found.get(piece.key, 0), piece.token))
        )
        keys = tuple(piece.key for piece in unit.pieces)
        coalesced = len(verdicts) - len(keys)
        applied = WritesApplied(keys, coalesced, now_s - self.began_s)
        budget = consumer.request.timeouts.from_now(now_s)
        return ConsumeVoiding(consumer, self.place, unit.keys, verdicts, budget).ask(applied)

    def _failed(self, error: str, now_s: float) -> Step:
        consumer = self.consumer
        request, holding = consumer.request, consumer.holding(self.place)
        assert holding is not None
        given_up, holding = holding.failed(self.unit, request.failing, now_s, request.seed)
        failed = WriterFailed(request.root(self.place), len(self.unit.pieces), error)
        consumer = consumer.with_holding(holding)
        if given_up is None:
            return consumer.go_on(now_s, failed)
        reason = f"the writer has failed {given_up.failed} times, at last with {error}"
        return bury(consumer, self.place, given_up.verdicts(reason=reason), now_s, failed, piece=given_up)


def _higher(found: int, token: int) -> int:
    """The token that the database has, where it is higher than that of a write; else 0."""
    return found if found > token else 0


def bury(
    consumer: Consumer,
    place: int,
    verdicts: tuple[Verdict, ...],
    now_s: float,
    *notices: Notice,
    piece: Piece | None = None,
) -> Step:
    """Make letters of writes that are given up, and remove their keys before and after that."""
    tags = () if piece is None else piece.tags
    keys = tuple(dict.fromkeys((*(each.key for each in verdicts), *tags)))
    budget = consumer.request.timeouts.from_now(now_s)
    return ConsumeVoiding(consumer, place, keys, verdicts, budget).ask(*notices)


class ConsumeVoiding(AsksForConsumer, Struct, frozen=True):
    """Waits for the keys to be gone.

    Next: ConsumeVoiding | ConsumeSettling | ConsumeResting | ConsumeReleasing | ConsumeApplying
        | ConsumeAttending | ConsumeTaking
    """

    consumer: Consumer
    place: int
    keys: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    """What is settled after that: nothing, where it is already."""
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, DeleteKeys(self.keys, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Settle, or go on."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case KeysDeleted(now_s=now_s) if self.verdicts:
                budget = consumer.request.timeouts.from_now(now_s)
                settling = ConsumeSettling(consumer, self.place, self.keys, self.verdicts, budget)
                return settling.ask(Invalidated(self.keys))
            case KeysDeleted(now_s=now_s):
                return consumer.go_on(now_s)
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)


class ConsumeSettling(AsksForConsumer, Struct, frozen=True):
    """Waits for entries to be out of their partition.

    Next: ConsumeSettling | ConsumeVoiding | ConsumeLeasing | ConsumeResting | ConsumeReleasing
        | ConsumeAttending | ConsumeTaking | ConsumeLeaving
    """

    consumer: Consumer
    place: int
    keys: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request, holding = self.consumer.request, self.consumer.holding(self.place)
        assert holding is not None
        root, timeout_s = request.root(self.place), self.budget.timeout_s
        return Step(self, SettleEntries(root, holding.grant, self.verdicts, timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on."""
        if not isinstance(event, SettleAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case EntriesSettled(now_s=now_s, is_ours=False):
                return consumer.lost(self.place, now_s)
            case EntriesSettled(now_s=now_s):
                dead = tuple(WriteDead(each.key, each.reason) for each in self.verdicts if each.reason)
                if not dead:
                    return consumer.go_on(now_s)
                # A reader may have had it from the queue, and stored it since the removal before.
                budget = consumer.request.timeouts.from_now(now_s)
                return ConsumeVoiding(consumer, self.place, self.keys, (), budget).ask(*dead)
            case StoreFailed() | Interrupted():
                return self.without_answer(event)
            case _:
                assert_never(event)


class ConsumeResting(Struct, frozen=True):
    """Waits for time to pass, or to be told to end, while the leases are renewed.

    Next: ConsumeResting | ConsumeAttending | ConsumeLeaving | ConsumeTaking | ConsumeReleasing
        | ConsumeApplying | done
    """

    consumer: Consumer

    def receive(self, event: Event) -> Step:
        """Go on."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case Computed(now_s=now_s, value=TurnEnd(is_over=is_over)):
                return evolve(consumer, is_over=is_over).go_on(now_s)
            case ComputeFailed(now_s=now_s):  # nobody is there who could say when to end
                return evolve(consumer, is_over=True).go_on(now_s)
            case Computed():
                raise unexpected(self, event)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)
