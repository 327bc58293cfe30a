"""Virtual time: what happens next, and when. Nothing waits: an hour takes as long as what happens in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from sansio_cache.exploring.configuration import NOW_S


class Random(Protocol):
    """Where all choices of a run come from: a `random.Random`, whose seed names the run."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """A whole number from 0, below `stop`."""
        ...

    def randbytes(self, length: int, /) -> bytes:
        """So many bytes."""
        ...

    def shuffle(self, rows: list[Any], /) -> None:
        """Put a list in another order."""
        ...


@attrs.define
class Timeline:
    """What is to happen, in the order of its time; of what is due at once, the first that was asked for."""

    now_s: float = NOW_S
    _due: list[tuple[float, int, Callable[[], object]]] = attrs.field(factory=list, init=False)
    _count: int = attrs.field(default=0, init=False)

    def at(self, when_s: float, what: Callable[[], object]) -> None:
        """Have something happen at a time."""
        self._count += 1
        heapq.heappush(self._due, (when_s, self._count, what))

    def after(self, pause_s: float, what: Callable[[], object]) -> None:
        """Have something happen after a pause."""
        self.at(self.now_s + pause_s, what)

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Let things happen until something holds.

        Returns:
            Whether it came to hold before the time was up.
        """
        deadline_s = self.now_s + limit_s
        due = self._due
        while not until():
            if not due or due[0][0] > deadline_s:
                self.now_s = deadline_s
                return until()
            when_s, _, what = heapq.heappop(due)
            self.now_s = max(self.now_s, when_s)
            what()
        return True
