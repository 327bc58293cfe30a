"""Flights: concurrent callers of one key, type and tags in one process share one load.

A caller that finds a load under way follows it. It may have the leader's result only if that is at least
as new as the caller's own request:

- it joined before the loader began: the loader has looked at the database after that, so its value, or
  its exception, is the caller's too;
- it joined before the fill was first sent, and the fill was accepted: the cell still held the grant when
  the fill arrived, so no invalidation had come between, and the value was current at that moment. (Not for
  a caller that does without the store: an invalidation may be remembered which the store has not been told.)

Otherwise it goes on by itself, and keeps its time of arrival: a flight whose loader begins after that may
serve it. So when a load could not be stored, all who had come too late for it share the next one. What a
leader *read* is never shared: the reply may be older than the follower's request.

A load that has ended may rest for some time, if its last step says so: nobody leads it again before that.

This is plain data without waiting or locking. A driver calls `join` for a `ShareLoad` command, `observe`
for every step of an operation that leads, and wakes the followers when `observe` says that it landed.
"""

from __future__ import annotations

from enum import IntEnum

import attrs

from sansio_cache.commands import Compute, FillCells, ShareLoad
from sansio_cache.step import Loaded, Raised, Step


class Phase(IntEnum):
    """How far a load has come."""

    PREPARING = 0
    LOADING = 1
    FILLING = 2
    ENDED = 3


@attrs.frozen
class Following:
    """A caller's place in a flight.

    Args:
        flight: The number of the flight.
        joined: The phase that it was in when the caller came.
        arrival: When the caller came, for a later `ShareLoad` of the same request.
    """

    load_id: int
    joined: Phase
    arrival: int = 0


@attrs.define
class _Load:
    load: tuple[str, bytes]
    phase: Phase = Phase.PREPARING
    followers: int = 0
    began: int | None = None
    """How many callers had come when the loader began."""
    landing: Loaded | Raised | None = None


@attrs.define
class SingleFlight:
    """The loads under way in one process. Empty when nothing is (B2)."""

    _loads: dict[int, _Load] = attrs.field(factory=dict, init=False)
    _current: dict[tuple[str, bytes], int] = attrs.field(factory=dict, init=False)
    _resting: dict[tuple[str, bytes], float] = attrs.field(factory=dict, init=False)
    _last: int = attrs.field(default=0, init=False)
    _arrivals: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._loads)

    def join(self, command: ShareLoad) -> int | Following | None:
        """Follow the load of this key and type that is under way, or lead a new one: its number is returned.

        None where the load is not to be led for some time yet. A displaced flight is not joined: the caller
        has given up on it.
        """
        load = (command.key, command.schema)
        if self._resting and self._is_resting(load, command.now_s):
            return None
        current = self._current.get(load)
        if current is not None and current != command.displaced:
            load_id = self._loads[current]
            load_id.followers += 1
            self._arrivals += 1
            arrival = command.arrival or self._arrivals
            came_first = load_id.began is not None and arrival <= load_id.began
            joined = Phase.PREPARING if came_first else load_id.phase
            if joined is Phase.LOADING and not command.heeds_store:
                joined = Phase.FILLING
            return Following(current, joined, arrival)
        return self._begin(load)

    def lead(self, command: ShareLoad) -> int | None:
        """Lead a new load; None where one is under way, or none is to be led for some time yet.

        For who would not wait: nothing is left behind by a caller who is told None.
        """
        load = (command.key, command.schema)
        if load in self._current or self._is_resting(load, command.now_s):
            return None
        return self._begin(load)

    def _begin(self, load: tuple[str, bytes]) -> int:
        self._last += 1
        self._loads[self._last] = _Load(load)
        self._current[load] = self._last
        return self._last

    def observe(self, step: Step) -> bool:
        """Follow a leader's progress. True where this step has landed its flight: wake the followers.

        To be called *before* the step's command is performed: who joins later, joined later.
        """
        number = step.load_id
        if not isinstance(number, int) or (load_id := self._loads.get(number)) is None:
            return False
        if step.outcome is not None:
            self._land(number, load_id, step)
            return True
        if isinstance(step.command, Compute):
            load_id.phase = Phase.LOADING
            load_id.began = self._arrivals
        elif isinstance(step.command, FillCells):
            load_id.phase = Phase.FILLING
        return False

    def _land(self, number: int, load_id: _Load, step: Step) -> None:
        if isinstance(step.outcome, Loaded | Raised):
            load_id.landing = step.outcome
        load_id.phase = Phase.ENDED
        if self._current.get(load_id.load) == number:
            del self._current[load_id.load]
        if not load_id.followers:
            del self._loads[number]
        if step.rests_until_s:
            self._resting.pop(load_id.load, None)
            self._resting[load_id.load] = step.rests_until_s

    def _is_resting(self, load: tuple[str, bytes], now_s: float) -> bool:
        """Whether a load rests. Those that have rested since are forgotten, the first ones first."""
        while self._resting:
            first = next(iter(self._resting))
            if self._resting[first] > now_s:
                break
            del self._resting[first]
        return self._resting.get(load, 0.0) > now_s

    def has_ended(self, following: Following) -> bool:
        """Whether the flight is over."""
        return self._loads[following.load_id].phase is Phase.ENDED

    def leave(self, following: Following) -> Loaded | Raised | None:
        """End following: what the caller may have of the flight's result, None for nothing.

        A follower calls it exactly once, when the flight has landed or when it gives up.
        """
        load_id = self._loads[following.load_id]
        load_id.followers -= 1
        if load_id.phase is not Phase.ENDED:
            return None
        if not load_id.followers:
            del self._loads[following.load_id]
        return _may_have(following.joined, load_id.landing)


def _may_have(joined: Phase, landing: Loaded | Raised | None) -> Loaded | Raised | None:
    if landing is None or joined is Phase.PREPARING:
        return landing
    if joined is Phase.LOADING and isinstance(landing, Loaded) and landing.accepted:
        return landing
    return None
