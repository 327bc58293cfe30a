"""Stores of two parts, one for each key, of which the second may be down: to be explored.

It is down while a key of its own is there, whose eviction is that it serves again; or, turned round, while
that is gone. What nodes of a cluster are asked and answer is parted and put together as for a cluster.
"""

from functools import partial
from typing import Any, Final

from sansio_cache.cell import Tag
from sansio_cache.commands import DeleteKeys, Ping, StoreCommand
from sansio_cache.coordinator import Coordinator
from sansio_cache.events import FailureKind, KeysDeleted, StoreEvent, StoreFailed
from sansio_cache.exploring.configuration import FAR_MS, KEYS, LONG_AGO, NOW_S, Configuration, Start
from sansio_cache.memory_store import Kept, MemoryStore
from sansio_cache.step import evolve
from sansio_cache_redis.topology.scatter import gather, scatter

SIGN: Final = "n:sign"
"""The key by which the second part is down, or up."""
FIRST: Final = "first"
SECOND: Final = "second"


def part_of(key: str) -> str:
    """The part that a key is in. Tags are in the first."""
    return SECOND if key == KEYS[1] else FIRST


class Parted(MemoryStore):
    """A store whose second part is down while the sign is there."""

    failure = FailureKind.UNAVAILABLE

    def is_down(self, part: str) -> bool:
        """Whether a part does not serve."""
        return part == SECOND and SIGN in self.dump()

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked where it can be."""
        if isinstance(command, Ping):
            return self._answer(command, command.part)
        pieces = scatter(command, part_of)
        events = [self._answer(piece.command, piece.address) for piece in pieces]
        return events[0] if len(events) == 1 else gather(command, pieces, events)

    def _answer(self, command: StoreCommand, part: str) -> StoreEvent:
        if self.is_down(part):
            return StoreFailed(NOW_S, self.failure, part)
        return super().perform(command)


class PartedLater(Parted):
    """A store whose second part goes down when the sign goes, and stays there."""

    def is_down(self, part: str) -> bool:
        """Whether a part does not serve."""
        return part == SECOND and SIGN not in self.dump()


class Moving(Parted):
    """A store whose second part moves to another owner: who asks the old one, is told so, and asks again.

    It has arrived when the sign goes: with what it had, or without, as after a failover.
    """

    failure = FailureKind.MOVED


class SaysAllAreGone(Parted):
    """A wrong one: it says that keys are gone of which one part has not heard."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, and hide what was not done."""
        event: Any = super().perform(command)
        if isinstance(command, DeleteKeys) and isinstance(event, KeysDeleted):
            return evolve(event, left=(), failures=())
        return event


class WithSign(Configuration):
    """A configuration whose store has the sign in the beginning."""

    def stored(self, start: Start) -> tuple[tuple[str, Kept], ...]:
        """What the store holds in the beginning."""
        return tuple(sorted((*super().stored(start), (SIGN, Kept(Tag(LONG_AGO), FAR_MS)))))


PARTED_COORDINATOR: Final = partial(Coordinator, part_of=part_of)


class _TrustsItsPart(Coordinator):
    """A wrong one: it looks for pending invalidations where it thinks that the key is by now."""

    def _is_bypassed(self, key: str) -> bool:
        part = self._parts.get(FIRST)
        return part is not None and key in part.pending


TRUSTING_COORDINATOR: Final = partial(_TrustsItsPart, part_of=part_of)
