"""What was seen from outside: reads and writes of many processes, judged as those of a regular register.

The explorer knows the store and every machine, and looks at them after each move. A run of real processes has
only what its callers saw: what they read, what they wrote, and when. This checker takes that, from any number
of processes whose clock is one, and says which reads break S1. Versions of a key are numbered in the order of
their commits, so that a value tells its age.

A write is *complete* from the moment when its call had returned and the store had been told. One that is only
remembered by its process becomes complete when that process has told the store; one whose process died never
does. A read may return nothing older than the newest version that was complete before the read began. In the
process that has written, what it remembers counts from the return of its call.

Writes may be told of after the reads that they concern, as long as these are judged last.
"""

from __future__ import annotations

from bisect import bisect_left

import attrs

from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.refusing import check_time


@attrs.frozen
class Write:
    """A commit of which the cache was told."""

    process: str
    key: str
    version: int
    returned_s: float
    """When the call that told the cache had returned."""
    completed_s: float | None
    """From when the store knew of it; None where that is not known."""


@attrs.frozen
class Read:
    """A value that somebody was given as fresh."""

    process: str
    key: str
    version: int
    began_s: float


@attrs.frozen
class Violation:
    """A read that was given what was too old."""

    read: Read
    floor: int
    """The oldest version that it could have been given."""
    invariant: Invariant

    def __str__(self) -> str:
        read = self.read
        return (
            f"{self.invariant.value}: {read.process} read {read.key} at {read.began_s:.6f} s, "
            f"version {read.version}, floor {self.floor}"
        )


class Floor:
    """The newest version that was complete, at any time."""

    def __init__(self) -> None:
        # A staircase: both rise. What a newer version was ahead of is left out.
        self._times_s: list[float] = []
        self._versions: list[int] = []

    def raise_to(self, version: int, at_s: float) -> None:
        """Note that a version is complete from then on. The order of the calls does not matter."""
        place = bisect_left(self._times_s, at_s)
        if place and self._versions[place - 1] >= version:
            return
        end = place
        while end < len(self._versions) and self._versions[end] <= version:
            end += 1
        if end < len(self._times_s) and end == place and self._times_s[place] == at_s:
            return
        self._times_s[place:end] = [at_s]
        self._versions[place:end] = [version]

    def before(self, now_s: float) -> int:
        """The newest version that was complete before then; 0 without one."""
        place = bisect_left(self._times_s, now_s)
        return self._versions[place - 1] if place else 0


class History:
    """What was written, against which reads are judged. Its size is that of the writes, not of the reads."""

    def __init__(self) -> None:
        self._floors: dict[str, Floor] = {}
        self._own: dict[tuple[str, str], Floor] = {}
        self.writes = 0
        self.reads = 0

    def note(self, write: Write) -> None:
        """Take a write.

        Raises:
            ConfigurationError: One of its times is no number.
        """
        check_time("returned_s", write.returned_s)
        if write.completed_s is not None:
            check_time("completed_s", write.completed_s)
        self.writes += 1
        own = self._own.setdefault((write.process, write.key), Floor())
        own.raise_to(write.version, write.returned_s)
        if write.completed_s is not None:
            floor = self._floors.setdefault(write.key, Floor())
            floor.raise_to(write.version, max(write.returned_s, write.completed_s))

    def judge(self, read: Read) -> Violation | None:
        """Say whether a read was given what was too old, by the writes that were taken.

        Raises:
            ConfigurationError: Its time is no number.
        """
        check_time("began_s", read.began_s)
        self.reads += 1
        floor = self._floors.get(read.key)
        if floor is not None and read.version < (version := floor.before(read.began_s)):
            return Violation(read, version, Invariant.S1_READ)
        own = self._own.get((read.process, read.key))
        if own is not None and read.version < (version := own.before(read.began_s)):
            return Violation(read, version, Invariant.S1_PENDING)
        return None
