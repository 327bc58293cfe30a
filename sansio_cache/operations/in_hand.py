"""In hand: what a consumer knows of its queue, of the others, and of the partitions that it has."""

from __future__ import annotations

import math
from typing import Any, Final, Self

from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec
from sansio_cache.commands import Lease, Renewal
from sansio_cache.operations.aside import Aside, Group, halves
from sansio_cache.operations.batching import MOST_PARKED, Failing, Holding
from sansio_cache.operations.renewal import renewed_after_s
from sansio_cache.queues import lease_of, root_of
from sansio_cache.step import evolve

_FOR_EVER_S: Final = 1e12
SHORTEST_REST_S: Final = 0.001


class ConsumeRequest(Struct, frozen=True):
    """What is to be consumed, and how."""

    namespace_root: str
    name: str
    """The queue's, as it stands in keys."""
    partitions: int
    codec: Codec[Any]
    """How the values are stored."""
    member: bytes
    """8 random bytes: the nonce of the leases, and who the consumer is among others."""
    seed: int
    """A random number, by which consumers do not pause together."""
    lease_ms: int
    """How long a partition is held without a sign of life."""
    batch: int
    """How many entries are delivered at once, at most."""
    most_bytes: int
    """No more are when their values are as long as this together."""
    delay_s: float
    """How long a partition is left alone that has nothing, or little."""
    failing: Failing
    timeouts: StoreTimeouts
    started_s: float

    def root(self, place: int) -> str:
        """What the keys of a partition begin with."""
        return root_of(self.namespace_root, self.name, place)

    def lease(self, place: int) -> Lease:
        """The lease of a partition, by its nonce."""
        return Lease(lease_of(self.root(place)), self.member[:NONCE_BYTES])


class InHand(Struct, frozen=True):
    """What a consumer has in hand."""

    request: ConsumeRequest
    holdings: tuple[Holding, ...] = ()
    """The partitions that it has, by their places."""
    members: int = 1
    """How many consumers there are."""
    attends_s: float = 0.0
    """When it is to say again that it is there, on the driver's clock."""
    tried: frozenset[int] = frozenset()
    """The partitions whose leases were asked for since it last did."""
    visited: frozenset[int] = frozenset()
    """The partitions that were looked at in this round."""
    is_busy: bool = False
    """Whether there was more in one of them than goes into a batch."""
    failures: int = 0
    """How often in a row it could not say that it is there."""
    is_over: bool = False
    first: int = 0
    """The partition that comes first in this round: each does in its turn."""
    asides: tuple[Aside, ...] = ()
    """What is wrong with partitions, by their places."""
    stranded: tuple[Holding, ...] = ()
    """Partitions that could not be reached: its own again where their leases have the same grants."""

    @property
    def share(self) -> int:
        """How many partitions it should have."""
        return math.ceil(self.request.partitions / max(self.members, 1))

    def holding(self, place: int) -> Holding | None:
        """A partition, if it has that."""
        return next((each for each in self.holdings if each.place == place), None)

    def with_holding(self, holding: Holding) -> Self:
        """The same with a partition as it is now."""
        others = (each for each in self.holdings if each.place != holding.place)
        return evolve(self, holdings=tuple(sorted((*others, holding), key=_place)))

    def without(self, place: int) -> Self:
        """The same without a partition, and without what it had in hand of it."""
        holdings, stranded, asides = (
            tuple(each for each in some if each.place != place)
            for some in (self.holdings, self.stranded, self.asides)
        )
        return evolve(self, holdings=holdings, stranded=stranded, asides=asides)

    @property
    def in_turn(self) -> tuple[int, ...]:
        """The places of all partitions, in the order of this round."""
        places = range(self.request.partitions)
        return (*places[self.first :], *places[: self.first])

    @property
    def wanted(self) -> int | None:
        """The partition whose lease is to be asked for next."""
        if len(self.holdings) >= self.share:
            return None
        taken = self.tried | {each.place for each in self.holdings}
        taken |= {each.place for each in self.asides if each.due_s}
        return next((place for place in self.in_turn if place not in taken), None)

    def next_round(self) -> Self:
        """The same when it begins with the next partition, and looks at each once more."""
        first = (self.first + 1) % self.request.partitions
        return evolve(self, first=first, visited=frozenset(), is_busy=False)

    # What is wrong.

    def aside(self, place: int) -> Aside:
        """What is wrong with a partition."""
        return next((each for each in self.asides if each.place == place), Aside(place))

    def with_aside(self, aside: Aside) -> Self:
        """The same with what is wrong with a partition now."""
        others = (each for each in self.asides if each.place != aside.place)
        asides = (*others, aside) if aside != Aside(aside.place) else tuple(others)
        return evolve(self, asides=tuple(sorted(asides, key=_place)))

    def awake(self, now_s: float) -> Self:
        """The same when it is later: what is due may be tried."""
        return evolve(self, asides=tuple(each.awake(now_s) for each in self.asides))

    def missed(self, now_s: float, *places: int) -> Self:
        """The same when partitions could not be reached: they are left alone for a while.

        Nothing is forgotten of them, so that what was applied is not delivered again.
        """
        request, after = self.request, self
        for place in places:
            after = after.with_aside(after.aside(place).missed(request.failing, now_s, request.seed))
        lost = tuple(each for each in self.holdings if each.place in places)
        holdings = tuple(each for each in self.holdings if each.place not in places)
        stranded = (*self.stranded, *lost)
        return evolve(after, holdings=holdings, stranded=stranded, tried=self.tried.difference(places))

    def regained(self, place: int, grant: bytes) -> Self:
        """The same with a partition whose lease it has: with what was in hand, if nobody had it meanwhile."""
        before = next((each for each in self.stranded if each.place == place), None)
        if before is None or before.grant != grant:
            # How much comes through the link in time is the same as it was.
            anew = self.without(place).with_aside(Aside(place, less=self.aside(place).less))
            return anew.with_holding(Holding(place, grant))
        rest = tuple(each for each in self.stranded if each is not before)
        return evolve(self, stranded=rest).with_holding(before)

    def reached(self, place: int) -> Self:
        """The same when a partition has given or taken entries."""
        return self.with_aside(self.aside(place).reached())

    def keeping(self, place: int, group: Group, now_s: float, *, in_halves: bool = False) -> Self:
        """The same with what could not be removed, which is tried again later."""
        request = self.request
        groups = halves(group) if in_halves else (group,)
        return self.with_aside(self.aside(place).keeping(groups, request.failing, now_s, request.seed))

    def has_room(self, holding: Holding) -> bool:
        """Whether more entries of a partition may be taken."""
        return holding.has_room and self.aside(holding.place).count < MOST_PARKED

    def visiting(self, place: int) -> Self:
        """The same when a partition was looked at."""
        return evolve(self, visited=self.visited | {place})

    def pause_s(self, now_s: float) -> float:
        """How long there is nothing to do."""
        due = (unit.due_s for holding in self.holdings for unit in holding.parked)
        later = (at_s for each in self.asides for at_s in (each.due_s, each.removes_s) if at_s)
        until_s = min(self.attends_s, now_s + self.request.delay_s, *due, *later)
        return max(until_s - now_s, SHORTEST_REST_S)

    def renewal(self, now_s: float) -> Renewal | None:
        """What keeps its leases while something outside of the store is done."""
        if not self.holdings:
            return None
        request = self.request
        leases = tuple(request.lease(each.place) for each in self.holdings)
        pause_s = renewed_after_s(request.lease_ms)
        until_s = now_s + _FOR_EVER_S
        return Renewal(leases, request.lease_ms, until_s, request.timeouts.operation_s, pause_s)


def _place(each: Holding | Aside) -> int:
    return each.place
