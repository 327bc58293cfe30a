"""Sharing: how consumers divide the partitions of a queue among them, by leases; and how they rest.

    ConsumeAttending --QueueAttended--> ConsumeRenewing --> the consumer goes on, see `consume.py`
      a share too small   ConsumeLeasing (a partition's lease)
      a share too large   ConsumeGivingBack
      nothing to do       ConsumeResting

Who cannot say that it is there goes on with those partitions that it reaches: its share is what it was.
"""

from __future__ import annotations

from typing import Any, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.commands import AttendQueue, Compute, ReleaseLeases, RenewLeases, TakeLock
from sansio_cache.events import (
    AttendAnswer,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    Event,
    ForeignFound,
    HoldsTaken,
    Interrupted,
    LeasesReleased,
    LeasesRenewed,
    LockAnswer,
    QueueAttended,
    ReleaseAnswer,
    RenewAnswer,
    StoreFailed,
    WriterFound,
)
from sansio_cache.notices import Notice, PartitionLost, PartitionTaken
from sansio_cache.operations.in_hand import SHORTEST_REST_S, InHand
from sansio_cache.operations.leave import release
from sansio_cache.operations.renewal import renewed_after_s
from sansio_cache.queues import Turn, TurnEnd
from sansio_cache.step import Abandoned, AsksStore, Step, evolve, gave_up, unexpected


class Sharing(InHand, frozen=True):
    """A consumer, as these states know it: what it does next is in `consume.py`."""

    def go_on(self, now_s: float, *notices: Notice) -> Step:
        """What is to be done next."""
        raise NotImplementedError

    def rest(self, rest_s: float, now_s: float, *notices: Notice) -> Step:
        """Rest, and begin another round."""
        command = Compute(self.request.root(0), self.renewal(now_s), Turn(rest_s=rest_s))
        return Step(ConsumeResting(self.next_round()), command, notices=notices)

    def renew(self, now_s: float, *notices: Notice) -> Step:
        """Renew the leases, if there are any, and go on."""
        if not self.holdings:
            return self.go_on(now_s, *notices)
        return ConsumeRenewing(self, self.request.timeouts.from_now(now_s)).ask(*notices)

    def lost(self, place: int, now_s: float) -> Step:
        """Go on without a partition whose lease is another's."""
        lost = PartitionLost(self.request.root(place))
        return evolve(self.without(place), tried=self.tried - {place}).go_on(now_s, lost)

    def miss(self, failure: StoreFailed, *places: int) -> Step:
        """Go on without partitions that cannot be reached. Their leases are still there, or lapse."""
        request, now_s = self.request, failure.now_s
        after, said = self.missed(now_s, *places), gave_up(failure)
        lost = (PartitionLost(request.root(place)) for place in places if self.holding(place) is not None)
        return after.go_on(now_s, *said, *lost)

    def release(self, now_s: float, *places: int) -> Step:
        """Give the leases back, as it was interrupted."""
        held = (*(each.place for each in self.holdings), *places)
        return release(self.request, tuple(dict.fromkeys(held)), Abandoned(), now_s)


class AsksForConsumer(AsksStore):
    """What states have in common in which a consumer waits for the store.

    Not a state of its own: the classes that derive from it declare the fields `consumer` and `place`.
    """

    __slots__ = ()
    consumer: Any
    """A `Sharing`, of the class that the state goes on with."""
    place: int

    def without_answer(self, event: StoreFailed | Interrupted) -> Step:
        """Ask again, go on without the partition, or give the leases back."""
        consumer: Sharing = self.consumer
        if isinstance(event, Interrupted):
            return consumer.release(event.now_s)
        return self.retry(event) or consumer.miss(event, self.place)


class ConsumeAttending(AsksStore, Struct, frozen=True):
    """Waits to hear how many consumers there are.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeResting | ConsumeRenewing | ConsumeReleasing | done
    """

    consumer: Sharing
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
        consumer = evolve(self.consumer, tried=frozenset())
        request = consumer.request
        renewed_s = renewed_after_s(request.lease_ms)
        match event:
            case QueueAttended(now_s=now_s, members=members):
                attends_s = now_s + renewed_s
                return evolve(consumer, members=members, attends_s=attends_s, failures=0).renew(now_s)
            case StoreFailed(now_s=now_s):
                if (again := self.retry(event)) is not None:
                    return again
                # The others may be reached: they are shared as before, among those who were there.
                failures = consumer.failures + 1
                attends_s = now_s + min(request.failing.pause_s(failures, request.seed), renewed_s)
                unheard = evolve(consumer, attends_s=attends_s, failures=failures)
                return unheard.renew(now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)


class ConsumeRenewing(AsksStore, Struct, frozen=True):
    """Waits for the leases to be renewed.

    Next: ConsumeRenewing | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeResting | ConsumeReleasing
    """

    consumer: Sharing
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
                pairs = zip(consumer.holdings, renewed, strict=True)
                gone = tuple(each.place for each, is_ours in pairs if not is_ours)
                for place in gone:
                    consumer = consumer.without(place)
                return consumer.go_on(now_s, *(PartitionLost(consumer.request.root(place)) for place in gone))
            case LeasesRenewed():
                raise unexpected(self, event)
            case StoreFailed():
                places = tuple(each.place for each in consumer.holdings)
                return self.retry(event) or consumer.miss(event, *places)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)


class ConsumeLeasing(AsksStore, Struct, frozen=True):
    """Waits for the lease of a partition.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeResting | ConsumeReleasing
    """

    consumer: Sharing
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
                taken = consumer.regained(self.place, grant)
                return taken.go_on(now_s, PartitionTaken(consumer.request.root(self.place)))
            case HoldsTaken():
                raise unexpected(self, event)
            case WriterFound(now_s=now_s) | ForeignFound(now_s=now_s):
                return consumer.without(self.place).go_on(now_s)
            case StoreFailed():
                return self.retry(event) or self._missed(event)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s, self.place)
            case _:
                assert_never(event)

    def _missed(self, failure: StoreFailed) -> Step:
        """Begin another round: those that it has come before the next that it may not reach either."""
        now_s = failure.now_s
        consumer = self.consumer.missed(now_s, self.place)
        is_in_haste = consumer.is_busy or consumer.wanted is not None
        rest_s = SHORTEST_REST_S if is_in_haste else consumer.pause_s(now_s)
        return consumer.rest(rest_s, now_s, *gave_up(failure))


class ConsumeGivingBack(AsksForConsumer, Struct, frozen=True):
    """Waits for the lease of a partition to be given back, of which another consumer has too few.

    Next: ConsumeAttending | ConsumeGivingBack | ConsumeTaking | ConsumeReleasing
    """

    consumer: Sharing
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


class ConsumeResting(Struct, frozen=True):
    """Waits for time to pass, or to be told to end, while the leases are renewed.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeResting | ConsumeLeaving | ConsumeReleasing | done
    """

    consumer: Sharing

    def receive(self, event: Event) -> Step:
        """Go on."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case Computed(now_s=now_s, value=TurnEnd(is_over=is_over)):
                return evolve(consumer.awake(now_s), is_over=is_over).go_on(now_s)
            case ComputeFailed(now_s=now_s):  # nobody is there who could say when to end
                return evolve(consumer, is_over=True).go_on(now_s)
            case Computed():
                raise unexpected(self, event)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)
