"""In hand: what a consumer knows of its queue, of the others, and of the partitions that it has."""

from __future__ import annotations

import math
from typing import Any, Final, Self

from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec
from sansio_cache.commands import Lease, Renewal
from sansio_cache.operations.batching import Failing, Holding
from sansio_cache.operations.renewal import renewed_after_s
from sansio_cache.queues import lease_of, root_of
from sansio_cache.step import evolve

_FOR_EVER_S: Final = 1e12
_SHORTEST_REST_S: Final = 0.001


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
    """How often the store has failed in a row."""
    is_over: bool = False

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
        """The same without a partition."""
        return evolve(self, holdings=tuple(each for each in self.holdings if each.place != place))

    def visiting(self, place: int) -> Self:
        """The same when a partition was looked at."""
        return evolve(self, visited=self.visited | {place})

    def pause_s(self, now_s: float) -> float:
        """How long there is nothing to do."""
        due = (unit.due_s for holding in self.holdings for unit in holding.parked)
        until_s = min(self.attends_s, now_s + self.request.delay_s, *due)
        return max(until_s - now_s, _SHORTEST_REST_S)

    def renewal(self, now_s: float) -> Renewal | None:
        """What keeps its leases while something outside of the store is done."""
        if not self.holdings:
            return None
        request = self.request
        leases = tuple(request.lease(each.place) for each in self.holdings)
        pause_s = renewed_after_s(request.lease_ms)
        until_s = now_s + _FOR_EVER_S
        return Renewal(leases, request.lease_ms, until_s, request.timeouts.operation_s, pause_s)


def _place(holding: Holding) -> int:
    return holding.place
