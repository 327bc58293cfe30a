"""Leave: a consumer tells the others that it goes, and gives its leases back.

    ConsumeLeaving --QueueAttended--> ConsumeReleasing --LeasesReleased--> done

Where that cannot be told, the others take it for gone when its time is over, and its leases lapse.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.commands import AttendQueue, ReleaseLeases
from sansio_cache.events import (
    AttendAnswer,
    Event,
    Interrupted,
    LeasesReleased,
    QueueAttended,
    ReleaseAnswer,
    StoreFailed,
)
from sansio_cache.notices import Notice, PartitionLost
from sansio_cache.operations.in_hand import ConsumeRequest, InHand
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Completed,
    Outcome,
    Step,
    ended,
    evolve,
    gave_up,
    unexpected,
)


class ConsumeLeaving(AsksStore, Struct, frozen=True):
    """Waits for the others to know that this consumer goes.

    Next: ConsumeLeaving | ConsumeReleasing | done
    """

    consumer: InHand
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.consumer.request
        return Step(
            self, AttendQueue(request.root(0), request.member, 0, self.budget.timeout_s), None, notices
        )

    def receive(self, event: Event) -> Step:
        """Give the leases back, whatever the answer."""
        if not isinstance(event, AttendAnswer):
            raise unexpected(self, event)
        match event:
            case QueueAttended(now_s=now_s):
                return self._release(now_s)
            case StoreFailed(now_s=now_s):
                return self.retry(event) or self._release(now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return self._release(now_s, outcome=Abandoned())
            case _:
                assert_never(event)

    def _release(self, now_s: float, *notices: Notice, outcome: Outcome | None = None) -> Step:
        places = tuple(each.place for each in self.consumer.holdings)
        return release(self.consumer.request, places, outcome or Completed(), now_s, *notices)


def release(
    request: ConsumeRequest, places: tuple[int, ...], outcome: Outcome, now_s: float, *notices: Notice
) -> Step:
    """Give the leases of partitions back, if there are any, and end with the outcome."""
    if not places:
        return ended(outcome, *notices)
    return ConsumeReleasing(request, places, outcome, request.timeouts.from_now(now_s)).ask(*notices)


class ConsumeReleasing(AsksStore, Struct, frozen=True):
    """Waits for the leases to be given back. Where that fails they lapse.

    Next: ConsumeReleasing | done
    """

    request: ConsumeRequest
    places: tuple[int, ...]
    outcome: Outcome
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        leases = tuple(map(self.request.lease, self.places))
        return Step(self, ReleaseLeases(leases, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End, whatever the answer."""
        if not isinstance(event, ReleaseAnswer):
            raise unexpected(self, event)
        lost = tuple(PartitionLost(self.request.root(place)) for place in self.places)
        match event:
            case LeasesReleased():
                return ended(self.outcome, *lost)
            case StoreFailed():
                return self.retry(event) or ended(self.outcome, *lost, *gave_up(event))
            case Interrupted(now_s=now_s):
                return evolve(self, outcome=Abandoned(), budget=self.budget.at(now_s)).ask()
            case _:
                assert_never(event)
