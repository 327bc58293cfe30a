"""Single flight: concurrent callers of one key, type and tags in one process share one load.

The name is that of Go's `singleflight`; it is also called request coalescing. A caller that finds a load
under way follows it. It may have the leader's result only if that is at least as new as the caller's own
request:

- it joined before the loader began: the loader has looked at the database after that, so its value, or
  its exception, is the caller's too;
- it joined before the fill was first sent, and the fill was accepted: the cell still held the grant when
  the fill arrived, so no invalidation had come between, and the value was current at that moment. (Not for
  a caller that does without the store: an invalidation may be pending which the store has not been told.)

Otherwise it goes on by itself, and keeps its time of arrival: a load whose loader begins after that may
serve it. So when a load could not be stored, all who had come too late for it share the next one. What a
leader *read* is never shared: the reply may be older than the follower's request.

A load that has ended may rest for some time, if its last step says so: nobody leads it again before that.

This is plain data without waiting or locking. Every caller comes with a *ticket*. What is done for a ticket
is written down under it before anything else is changed, and struck out after everything else; `give_up`
undoes it from any point. So it may be called when an interrupt has struck between two assignments here, in
`give_up` itself too, and calling it twice does no harm. That a load was led stays written down for as long
as somebody follows it: who was not woken because of an interrupt is woken by the next `give_up`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs
from msgspec import Struct, field

from sansio_cache.commands import Compute, ComputeMany, FillCells, ShareLoad
from sansio_cache.step import Loaded, Raised, Step

Ticket = int
"""What a driver makes before it calls, one for each operation that shares or leads a load."""
_SHARED: Final = (Loaded, Raised)
"""What a load may come to that others can have."""
MOST_RESTING: Final = 10_000
"""How many loads may rest at once."""
_LOOKED_AT: Final = 2
"""How many of those that rest are looked at with each question: more than one can have been added by it."""
LoadName = tuple[str, bytes]
"""What makes two loads the same one: the key, and the fingerprint of the type with the tags."""


class Phase(IntEnum):
    """How far a load has come."""

    PREPARING = 0
    LOADING = 1
    FILLING = 2
    ENDED = 3


class Following(Struct, frozen=True):
    """A caller's place in a load of another.

    Args:
        load_id: The number of the load.
        joined: The phase that it was in when the caller came.
        arrival: When the caller came, for a later `ShareLoad` of the same request.
    """

    load_id: int
    joined: Phase
    arrival: int = 0


class Load(Struct):
    """One load: how far it is, who leads and follows it, and what came of it. Every miss makes one."""

    name: LoadName
    leader: Ticket | None
    phase: Phase = Phase.PREPARING
    followers: dict[Ticket, Following] = field(default_factory=dict)
    began: int | None = None
    """How many callers had come when the loader began."""
    outcome: Loaded | Raised | None = None


class LoadSnapshot(Struct, frozen=True):
    """A `Load` as a value."""

    name: LoadName
    phase: Phase
    followers: tuple[tuple[Ticket, Following], ...]
    began: int | None
    outcome: Loaded | Raised | None


class SingleFlightSnapshot(Struct, frozen=True):
    """All that a `SingleFlight` holds, as a value that can be compared and hashed."""

    loads: tuple[tuple[int, LoadSnapshot], ...] = ()
    current: tuple[tuple[LoadName, int], ...] = ()
    led: tuple[tuple[Ticket, int], ...] = ()
    resting: tuple[tuple[LoadName, float], ...] = ()
    last: int = 0
    arrivals: int = 0


@attrs.define
class SingleFlight:
    """The loads under way in one process. Empty when nothing is (B2)."""

    _loads: dict[int, Load] = attrs.field(factory=dict, init=False)
    _current: dict[LoadName, int] = attrs.field(factory=dict, init=False)
    _led: dict[Ticket, int] = attrs.field(factory=dict, init=False)
    _followed: dict[Ticket, int] = attrs.field(factory=dict, init=False)
    _resting: dict[LoadName, float] = attrs.field(factory=dict, init=False)
    _last: int = attrs.field(default=0, kw_only=True, alias="last")
    _arrivals: int = attrs.field(default=0, kw_only=True, alias="arrivals")

    def __len__(self) -> int:
        return len(self._loads)

    def successor(self) -> SingleFlight:
        """An empty one that goes on counting: whoever led a load of this one may still come and end it."""
        return type(self)(last=self._last, arrivals=self._arrivals)

    @property
    def waiting(self) -> int:
        """How many callers wait for a load that has not ended."""
        return sum(len(load.followers) for load in self._loads.values() if load.phase is not Phase.ENDED)

    def leader(self, load_id: int) -> Ticket | None:
        """The ticket of who leads a load; None where it is over."""
        load = self._loads.get(load_id)
        return None if load is None else load.leader

    def join(self, ticket: Ticket, command: ShareLoad) -> int | Following | None:
        """Follow the load of this key and type that is under way, or lead a new one: its number is returned.

        None where the load is not to be led for some time yet. A displaced load is not joined: the caller
        has given up on it.
        """
        name = (command.key, command.schema)
        if self._resting and self._is_resting(name, command.now_s):
            return None
        current = self._current.get(name)
        if current is None or current == command.displaced:
            return self._begin(ticket, name)
        load = self._loads[current]
        self._arrivals += 1
        arrival = command.arrival or self._arrivals
        came_first = load.began is not None and arrival <= load.began
        joined = Phase.PREPARING if came_first else load.phase
        if joined is Phase.LOADING and not command.heeds_store:
            joined = Phase.FILLING
        following = Following(current, joined, arrival)
        self._followed[ticket] = current
        load.followers[ticket] = following
        return following

    def lead(self, ticket: Ticket, command: ShareLoad) -> int | None:
        """Lead a new load; None where one is under way, or none is to be led for some time yet.

        For who would not wait: nothing is left behind by a caller who is told None.
        """
        name = (command.key, command.schema)
        if name in self._current or self._is_resting(name, command.now_s):
            return None
        return self._begin(ticket, name)

    def _begin(self, ticket: Ticket, name: LoadName) -> int:
        self._last += 1
        number = self._last
        self._led[ticket] = number
        self._loads[number] = Load(name, ticket)
        self._current[name] = number
        return number

    def observe(self, step: Step) -> bool:
        """Follow a leader's progress. True where the load has ended with this step: wake the followers.

        To be called *before* the step's command is performed: who joins later, joined later.
        """
        number = step.load_id
        if not isinstance(number, int):
            return False
        load = self._loads.get(number)
        if load is None:  # over, or forgotten: then who followed it waits all the same
            return step.outcome is not None and number <= self._last
        if step.outcome is not None:
            outcome = step.outcome if isinstance(step.outcome, _SHARED) else None
            self._end(number, load, outcome, step.rests_until_s)
            return True
        if load.phase is Phase.ENDED:  # its ticket was given up while it still had something to give back
            return False
        kind = type(step.command)  # each step of a miss comes here, and `isinstance` takes a while
        if kind is Compute or kind is ComputeMany:
            load.phase = Phase.LOADING
            load.began = self._arrivals
        elif kind is FillCells:
            load.phase = Phase.FILLING
        return False

    def _end(self, number: int, load: Load, outcome: Loaded | Raised | None, rests_until_s: float) -> None:
        """End a load. Once it has ended, what came of it stands."""
        if load.phase is not Phase.ENDED:
            load.outcome = outcome
            load.phase = Phase.ENDED
        if rests_until_s:
            self._resting.pop(load.name, None)
            self._resting[load.name] = rests_until_s
            if len(self._resting) > MOST_RESTING:  # one that is forgotten is merely tried again sooner
                del self._resting[next(iter(self._resting))]
        if self._current.get(load.name) == number:
            del self._current[load.name]
        if not load.followers:
            self._loads.pop(number, None)
            self._strike_out(number, load)  # last: it is what the leader's ticket finds the load by

    def _strike_out(self, number: int, load: Load) -> None:
        """The load's leader has led it, and nobody follows it any more."""
        if load.leader is not None and self._led.get(load.leader) == number:
            del self._led[load.leader]

    def _is_resting(self, name: LoadName, now_s: float) -> bool:
        """Whether a load rests. Those that have rested since are forgotten, also behind longer rests."""
        looked_at = 0
        while self._resting and looked_at < _LOOKED_AT:
            first = next(iter(self._resting))
            until_s = self._resting.pop(first)
            if until_s > now_s:
                self._resting[first] = until_s  # behind the others, each of which has its turn so
                looked_at += 1
        return self._resting.get(name, 0.0) > now_s

    def end_rest(self, name: LoadName) -> None:
        """A load has rested for long enough."""
        self._resting.pop(name, None)

    def leave(self, ticket: Ticket) -> tuple[bool, Loaded | Raised | None]:
        """End following: whether the load has ended, and what the caller may have of its result.

        None for nothing. A follower calls it when the load has ended, or when it gives up waiting.
        """
        number = self._followed.get(ticket)
        if number is None:  # the load was forgotten
            return True, None
        load = self._loads[number]
        following = load.followers[ticket]
        self._unfollow(ticket, number)
        if load.phase is not Phase.ENDED:
            return False, None
        return True, _may_have(following.joined, load.outcome)

    def _unfollow(self, ticket: Ticket, number: int) -> None:
        load = self._loads.get(number)
        if load is not None:
            load.followers.pop(ticket, None)
            if load.phase is Phase.ENDED and not load.followers:
                self._strike_out(number, load)  # before the load goes, for which this ticket looks again
                self._loads.pop(number, None)
        self._followed.pop(ticket, None)

    def give_up(self, ticket: Ticket) -> int | None:
        """Undo what the ticket began: it follows nothing, and the load that it led has ended.

        Returns:
            The number of the load that it led, whose followers are to be woken; None where it led none, or
            nobody follows it any more.
        """
        followed = self._followed.get(ticket)
        if followed is not None:
            self._unfollow(ticket, followed)
        number = self._led.get(ticket)
        if number is None:
            return None
        load = self._loads.get(number)
        if load is None:
            del self._led[ticket]
        else:
            self._end(number, load, None, 0.0)
        return number

    def snapshot(self) -> SingleFlightSnapshot:
        """All that it holds, as a value."""
        loads = tuple(
            (
                number,
                LoadSnapshot(each.name, each.phase, tuple(each.followers.items()), each.began, each.outcome),
            )
            for number, each in self._loads.items()
        )
        return SingleFlightSnapshot(
            loads,
            tuple(self._current.items()),
            tuple(self._led.items()),
            tuple(self._resting.items()),
            self._last,
            self._arrivals,
        )

    def restore(self, snapshot: SingleFlightSnapshot) -> None:
        """Become what a snapshot was made of."""
        leaders = {number: ticket for ticket, number in snapshot.led}
        self._loads = {
            number: Load(
                each.name,
                leaders.get(number),
                each.phase,
                dict(each.followers),
                each.began,
                each.outcome,
            )
            for number, each in snapshot.loads
        }
        self._followed = {ticket: number for number, each in snapshot.loads for ticket, _ in each.followers}
        self._current = dict(snapshot.current)
        self._led = dict(snapshot.led)
        self._resting = dict(snapshot.resting)
        self._last = snapshot.last
        self._arrivals = snapshot.arrivals


def _may_have(joined: Phase, outcome: Loaded | Raised | None) -> Loaded | Raised | None:
    if outcome is None or joined is Phase.PREPARING:
        return outcome
    if joined is Phase.LOADING and isinstance(outcome, Loaded) and outcome.accepted:
        return outcome
    return None
