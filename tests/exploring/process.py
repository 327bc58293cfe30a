"""A process as a value: its workers, the loads that they share, and what it remembers.

What `Flights` holds is frozen here too, and made to live again for a move. Numbers that only count up, of
flights and of arrivals, are given anew from 1, so that processes which differ only in their history are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from exploring.configuration import NOW_S, Act
from exploring.naming import replace, rewrite
from sansio_cache.events import Event
from sansio_cache.flights import Flights, Following, Phase, _Flight
from sansio_cache.step import Loaded, Raised, Step

NEVER_S: Final = NOW_S + 1.0
"""Later than now, which is all that matters."""
Floor = tuple[int, ...]
"""The newest versions whose writes are complete: of each key, of the tag, and of soft expiries."""


class Stage(Enum):
    """Where a worker is in its program."""

    READY = "ready"
    """The next act has not begun."""
    RUNNING = "running"
    BLOCK = "in the block of mutate"
    COMMITTED = "in the block of mutate, committed"
    RECOVERING = "telling the store what it missed"
    REFRESHING = "refreshing in the background"
    DONE = "done"
    """Or crashed: in what follows there is no difference."""


@attrs.frozen
class Worker:
    """One caller: the acts still to do, the current one first, and how far that is."""

    acts: tuple[Act, ...]
    stage: Stage = Stage.READY
    step: Step | None = None
    reply: Event | None = None
    """The answer to a request that has been performed, on its way."""
    following: Following | None = None
    is_interrupted: bool = False
    flight: int | None = None
    """The flight that an interrupted operation led."""
    floor: Floor = ()
    own_floor: Floor = ()
    """The floor that its process owes it: what it remembers is newer than what is complete."""
    told: tuple[bytes, ...] = ()
    """The grants, and the versions of tags, that it was told."""
    looked: tuple[int, ...] | None = None
    """What its loader saw in the database, for each key."""
    looked_under: tuple[bytes, ...] = ()
    """What it had been told by then."""
    stale: tuple[str, ...] = ()
    """What it was served as stale; kept only where there are soft expiries."""
    has_failed: bool = False
    """Its loader raised."""
    renewal: Step | None = None
    holds: tuple[bytes, ...] | None = None
    version: int | None = None
    """What a writer has committed."""
    owes: tuple[str, ...] = ()
    """What a writer could not tell the store."""


Load = tuple[str, bytes]
"""What `Flights` knows a load by."""


@attrs.frozen
class FrozenFlight:
    """One of the loads under way, as a value."""

    load: Load
    phase: Phase
    followers: int
    began: int | None
    landing: Loaded | Raised | None


# What is frozen here is all that there is: a new field would have to be frozen, and renumbered, too.
assert [field.name for field in attrs.fields(Flights)] == [
    "_flights",
    "_current",
    "_resting",
    "_last",
    "_arrivals",
]
assert [field.name for field in attrs.fields(_Flight)] == [field.name for field in attrs.fields(FrozenFlight)]


@attrs.frozen
class FrozenFlights:
    """What `Flights` holds, as a value: the flights with their numbers, and which of them are current."""

    flights: tuple[tuple[int, FrozenFlight], ...] = ()
    current: tuple[tuple[Load, int], ...] = ()
    resting: tuple[Load, ...] = ()
    """Loads that are not to be led again yet. When that is over is a move of its own."""
    last: int = 0
    arrivals: int = 0


@attrs.frozen
class Process:
    """The workers of one process, and what they share.

    After those that have programs come the refreshes that they have spawned.
    """

    workers: tuple[Worker, ...]
    flights: FrozenFlights = FrozenFlights()
    remembered: tuple[tuple[str, int], ...] = ()
    """Keys whose invalidation the store could not be told, with the newest version each."""


def pending(worker: Worker) -> Any:
    """The command that a worker waits for."""
    return None if worker.step is None else worker.step.command


def frozen(workers: list[Worker], flights: Flights, remembered: Mapping[str, int]) -> Process:
    """A process as a value."""
    # Whether a load rests is asked by readers that are still to come.
    callers = (worker for worker in workers if worker.stage is not Stage.REFRESHING)
    are_readers_left = any(act.is_read for worker in callers for act in worker.acts)
    frozen_flights = FrozenFlights(
        tuple(
            (number, FrozenFlight(**attrs.asdict(flight, recurse=False)))
            for number, flight in flights._flights.items()
        ),
        tuple(flights._current.items()),
        tuple(sorted(flights._resting)) if are_readers_left else (),
        flights._last,
        flights._arrivals,
    )
    return _tidied(Process(tuple(workers), frozen_flights, tuple(sorted(remembered.items()))))


def thaw(frozen_flights: FrozenFlights, flights: Flights) -> Flights:
    """Give `flights`, which are new, what was frozen."""
    for number, flight in frozen_flights.flights:
        flights._flights[number] = _Flight(**attrs.asdict(flight, recurse=False))
    flights._current.update(frozen_flights.current)
    flights._resting.update(dict.fromkeys(frozen_flights.resting, NEVER_S))
    flights._last = frozen_flights.last
    flights._arrivals = frozen_flights.arrivals
    return flights


def _tidied(process: Process) -> Process:
    """Renumber what anybody can name, from 1 and in order; cut off what decides only pauses and notices."""
    named: dict[str, set[int]] = {
        "flight": {number for number, _ in process.flights.flights},
        "arrival": set(),
    }

    def collect(kind: str) -> Callable[[int | bytes | None], int | bytes | None]:
        def see(number: int | bytes | None) -> int | bytes | None:
            if number and isinstance(number, int):  # arrival 0 is none; a batch has its nonce for a flight
                named[kind].add(number)
            return number

        return see

    see_flight, see_arrival = collect("flight"), collect("arrival")
    rewrite(process.workers, None, {"flight": see_flight, "displaced": see_flight, "arrival": see_arrival})
    flights = {number: place for place, number in enumerate(sorted(named["flight"]), 1)}
    arrivals = {number: place for place, number in enumerate(sorted(named["arrival"]), 1)}
    tidy: dict[str, Callable[[Any], Any]] = {
        "flight": lambda flight: flight if isinstance(flight, bytes) else flights.get(flight),
        "displaced": flights.get,
        "arrival": lambda arrival: arrivals.get(arrival, 0),
        "turns": lambda turns: min(turns, 1),
        "turn": lambda turn: 0,
        "duration_s": lambda duration_s: 0.0,
        "longest_s": lambda longest_s: 0.0,
        "began_s": lambda began_s: NOW_S,
        "since_s": lambda since_s: NOW_S,
    }

    def as_of(began: int | None) -> int | None:
        """Who had come when a loader began, by the new numbers: those who can still be named."""
        return None if began is None else sum(arrival <= began for arrival in arrivals)

    frozen = process.flights
    return Process(
        rewrite(process.workers, None, tidy),
        FrozenFlights(
            tuple(
                (flights[number], replace(each, began=as_of(each.began))) for number, each in frozen.flights
            ),
            tuple((load, flights[number]) for load, number in frozen.current),
            frozen.resting,
            len(flights),
            len(arrivals),
        ),
        process.remembered,
    )
