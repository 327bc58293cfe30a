"""Calls of signal handlers and finalisers, which find their own thread inside the connections.

That thread may drive any lane, queue at it, or hold the lock that others need to go on: whoever waits for one
of them waits for himself. So such a call has a lane of its own, and a connection that is kept for the next.

Where the thread was struck in the middle of a change, it holds the lock of the process, and all others wait
for the end of that change. Then the call is answered at once or not at all: it has a small share of its time,
and when one has waited in vain, those that come behind it do not ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import attrs
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.connections.lanes import Call, Lane
from sansio_cache_redis.connections.opener import Opener
from sansio_cache_redis.connections.wires import Wire
from sansio_cache_redis.errors import held

HELD_SHARE: Final = 0.1
"""The part of a call's time that it may take while all others wait for the lock that its thread holds."""
HELD_REST_S: Final = 1.0
"""For how long none of them asks when one has waited in vain: one run of the collector may call many."""


@attrs.define(eq=False)
class Aside:
    """The connection for those who find their own thread inside.

    Args:
        opener: Opens it.
    """

    _opener: Opener
    _spare: deque[tuple[int, Wire]] = attrs.field(factory=deque, init=False)
    """It, where there is one, with its generation."""
    _held_again_s: float = attrs.field(default=0.0, init=False)
    """From when on a call may ask whose thread holds the lock, on the monotonic clock."""

    @property
    def count(self) -> int:
        """How many connections are kept."""
        return len(self._spare)

    def execute(
        self,
        call: Call,
        silence_s: float,
        generation: int,
        drive: Callable[[Lane, Call, float], object],
        *,
        is_holding: bool,
    ) -> list[Any]:
        """Drive a lane of the call's own, on the connection that is kept, if there is one.

        Args:
            call: What is asked.
            silence_s: How long its connection may say nothing.
            generation: That of the connections that are in use.
            drive: Drives it.
            is_holding: Whether its thread holds the lock of the process.

        Raises:
            ExhaustedError: All others would have had to wait.
            RedisError, OSError: The fate of the commands is unknown.
        """
        if not is_holding:
            return self._drive(call, silence_s, generation, drive)
        if call.came_s < self._held_again_s:
            raise held()
        call.deadline_s = call.limit_s = call.came_s + (call.deadline_s - call.came_s) * HELD_SHARE
        try:
            return self._drive(call, silence_s, generation, drive)
        except RedisTimeoutError as error:
            let_through(error)
            self._held_again_s = monotonic() + HELD_REST_S
            raise held() from None

    def _drive(
        self, call: Call, silence_s: float, generation: int, drive: Callable[[Lane, Call, float], object]
    ) -> list[Any]:
        lane = call.lane = Lane(silence_s, driver=call, is_passing=True, generation=generation)
        if self._spare:
            lane.generation, lane.wire = self._spare.popleft()
        opening = call.opening = self._opener.open_aside()
        try:
            drive(lane, call, call.came_s)
        finally:
            opening.is_reserved = False  # one that comes too late goes to the others
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
