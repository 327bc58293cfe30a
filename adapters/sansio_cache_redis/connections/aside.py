"""Calls of signal handlers and finalisers, which find their own thread inside the connections.

That thread may drive any lane, queue at it, or hold the lock that others need to go on: whoever waits for one
of them waits for himself. So such a call has a lane of its own, and a connection that is kept for the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import attrs

from sansio_cache_redis.connections.lanes import Call, Lane
from sansio_cache_redis.connections.opener import Opener
from sansio_cache_redis.connections.wires import Wire


@attrs.define(eq=False)
class Aside:
    """The connection for those who find their own thread inside.

    Args:
        opener: Opens it.
    """

    _opener: Opener
    _spare: deque[tuple[int, Wire]] = attrs.field(factory=deque, init=False)
    """It, where there is one, with its generation."""

    @property
    def count(self) -> int:
        """How many connections are kept."""
        return len(self._spare)

    def execute(
        self, call: Call, silence_s: float, generation: int, drive: Callable[[Lane, Call, float], object]
    ) -> list[Any]:
        """Drive a lane of the call's own, on the connection that is kept, if there is one."""
        lane = call.lane = Lane(silence_s, driver=call, is_passing=True, generation=generation)
        if self._spare:
            lane.generation, lane.wire = self._spare.popleft()
        opening = call.opening = self._opener.open_aside()
        try:
            drive(lane, call, call.came_s)
        finally:
            self._opener.leave(opening)
        return call.result(monotonic())

    def keep(self, lane: Lane, call: Call, generation: int) -> None:
        """Keep the connection of such a lane for the next call, where it is as it was."""
        wire, is_sound = lane.wire, call.failure is None and not lane.due
        if wire is not None and is_sound and lane.generation == generation and not self._spare:
            self._spare.append((generation, wire))
            lane.wire = None

    def drop(self) -> list[Wire | None]:
        """Forget what is kept: to be closed by the caller."""
        wires: list[Wire | None] = []
        while self._spare:
            wires.append(self._spare.popleft()[1])
        return wires
