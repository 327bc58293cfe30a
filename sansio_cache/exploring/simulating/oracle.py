"""What is right: the reads of all clients, judged as those of a regular register, whatever the server lost.

The history is `History`'s but for one thing. A failover, or a restart from an old snapshot, may lose what the
server had acknowledged: that is documented to be bounded by the longest life of an entry (S1f). So from the
moment of the copy on, writes count as complete only when that is over.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from sansio_cache.exploring.history import Floor, Read, Violation
from sansio_cache.exploring.invariants import Invariant

SOFT: Final = "~"
"""What follows the key of a row for those who must not be given as fresh what was made stale."""
_MOST_RECENT: Final = 400
"""So many writes of a key are kept at least, should the server lose them."""


class Liveness(Enum):
    """What must come about once nothing goes wrong any more, with its number in the list of invariants."""

    ENDS = "L1 a call has not ended in time"
    ONE_LOAD = "L2 the loader ran another number of times"
    NOT_BLOCKED = "L3 a process that died has kept others waiting for longer than its lease"
    WOKEN = "L4 a waiter was not woken, or slept through its longest interval"
    BUDGET = "L5 a call has waited for the store longer than its budget"
    RENEWED = "L6 leases were renewed after the loader had ended, or for too long"
    LEFT = "L7 a cancelled call has left something behind"
    TOLD = "the store was not told of what it had missed"
    EMPTY = "B2 a process that does nothing holds something"
    BALANCED = "B3 the counters do not add up"
    QUEUED = "S8 a queued write that was acknowledged is nowhere, or an older one was applied over it"
    LAST = "S6 a key does not give the last commit when all is over"
    FIRED = "a fault has never struck"

    __hash__ = object.__hash__


class Violated(Exception):  # noqa: N818 - what it is, and not a fault of the simulation's
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant | Liveness, seen: str, key: str = "") -> None:
        super().__init__(f"{invariant.value}: {seen}")
        self.invariant = invariant
        self.key = key


@attrs.define(eq=False)
class Told:
    """A write of one key: when its call returned, and since when the store knows of it."""

    process: str
    version: int
    returned_s: float
    completed_s: float | None


@attrs.define
class Oracle:
    """All writes that may still matter."""

    reads: int = 0
    _floors: dict[str, Floor] = attrs.field(factory=dict, init=False)
    _own: dict[tuple[str, str], Floor] = attrs.field(factory=dict, init=False)
    _recent: dict[str, list[Told]] = attrs.field(factory=dict, init=False)

    def note(self, key: str, told: Told) -> None:
        """Take in a write whose call has returned."""
        recent = self._recent.setdefault(key, [])
        recent.append(told)
        if len(recent) > 2 * _MOST_RECENT:
            del recent[:-_MOST_RECENT]
        self._raise(key, told)

    def complete(self, key: str, told: Told, now_s: float) -> None:
        """The store knows of it now."""
        told.completed_s = now_s
        self._raise(key, told)

    def _raise(self, key: str, told: Told) -> None:
        own = self._own.setdefault((told.process, key), Floor())
        own.raise_to(told.version, told.returned_s)
        if told.completed_s is not None:
            self._floors.setdefault(key, Floor()).raise_to(told.version, told.completed_s)

    def roll_back(self, copied_s: float, until_s: float) -> None:
        """The server is as it was then; what it has lost may show until `until_s`."""
        for key, recent in self._recent.items():
            old = self._floors.get(key, Floor()).before(copied_s)
            self._floors[key] = floor = Floor()
            floor.raise_to(old, copied_s)
            for told in recent:
                if told.completed_s is None:  # its process does not trust the server with the key
                    continue
                if told.completed_s > copied_s:
                    told.returned_s = told.completed_s = max(told.completed_s, until_s)
                floor.raise_to(told.version, told.completed_s)
        # By its own process a write was known when its call returned, which may be long before the copy.
        self._own = {place: Floor() for place in self._own}
        for key, recent in self._recent.items():
            for told in recent:
                own = self._own.get((told.process, key))
                if own is not None:
                    own.raise_to(told.version, told.returned_s)

    def forget_staleness(self) -> None:
        """The server's clock went back: what was made stale is fresh again there."""
        self._recent = {key: told for key, told in self._recent.items() if not key.endswith(SOFT)}
        self._floors = {key: floor for key, floor in self._floors.items() if not key.endswith(SOFT)}
        self._own = {place: floor for place, floor in self._own.items() if not place[1].endswith(SOFT)}

    def forget_key(self, key: str) -> None:
        """The writes of a key are lost for good: they count for nothing, also those that are told later."""
        for told in self._recent.pop(key, ()):
            told.version = 0
        self._floors.pop(key, None)
        self._own = {place: floor for place, floor in self._own.items() if place[1] != key}

    def forget(self, process: str) -> None:
        """A process has died: nobody reads there any more."""
        self._own = {place: floor for place, floor in self._own.items() if place[0] != process}

    def judge(self, read: Read) -> None:
        """Look at what a read gave.

        Raises:
            Violated: It is too old.
        """
        self.reads += 1
        floor = self._floors.get(read.key)
        if floor is not None and read.version < (version := floor.before(read.began_s)):
            raise Violated(
                Invariant.S1_READ,
                str(Violation(read, version, Invariant.S1_READ)),
                read.key.removesuffix(SOFT),
            )
        own = self._own.get((read.process, read.key))
        if own is not None and read.version < (version := own.before(read.began_s)):
            raise Violated(
                Invariant.S1_PENDING,
                str(Violation(read, version, Invariant.S1_PENDING)),
                read.key.removesuffix(SOFT),
            )
