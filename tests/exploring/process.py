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
from sansio_cache.single_flight import Following, Phase, SingleFlight, _Load
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
    load_id: int | None = None
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
class FrozenLoad:
    """One of the loads under way, as a value."""

    load: Load
    phase: Phase
    followers: int
    began: int | None
    landing: Loaded | Raised | None


# What is frozen here is all that there is: a new field would have to be frozen, and renumbered, too.
assert [field.name for field in attrs.fields(SingleFlight)] == [
    "_loads",
    "_current",
    "_resting",
    "_last",
    "_arrivals",
]
assert [field.name for field in attrs.fields(_Load)] == [field.name for field in attrs.fields(FrozenLoad)]


@attrs.frozen
class FrozenSingleFlight:
    """What `Flights` holds, as a value: the flights with their numbers, and which of them are current."""

    single_flight: tuple[tuple[int, FrozenLoad], ...] = ()
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
    single_flight: FrozenSingleFlight = FrozenSingleFlight()
    remembered: tuple[tuple[str, int], ...] = ()
    """Keys whose invalidation the store could not be told, with the newest version each."""


def pending(worker: Worker) -> Any:
    """The command that a worker waits for."""
    return None if worker.step is None else worker.step.command


def frozen(workers: list[Worker], single_flight: SingleFlight, remembered: Mapping[str, int]) -> Process:
    """A process as a value."""
    # Whether a load rests is asked by readers that are still to come.
    callers = (worker for worker in workers if worker.stage is not Stage.REFRESHING)
    are_readers_left = any(act.is_read for worker in callers for act in worker.acts)
    frozen_single_flight = FrozenSingleFlight(
        tuple(
            (number, FrozenLoad(**attrs.asdict(load_id, recurse=False)))
            for number, load_id in single_flight._loads.items()
        ),
        tuple(single_flight._current.items()),
        tuple(sorted(single_flight._resting)) if are_readers_left else (),
        single_flight._last,
        single_flight._arrivals,
    )
    return _tidied(Process(tuple(workers), frozen_single_flight, tuple(sorted(remembered.items()))))


def thaw(frozen_single_flight: FrozenSingleFlight, single_flight: SingleFlight) -> SingleFlight:
    """Give `flights`, which are new, what was frozen."""
    for number, load_id in frozen_single_flight.single_flight:
        single_flight._loads[number] = _Load(**attrs.asdict(load_id, recurse=False))
    single_flight._current.update(frozen_single_flight.current)
    single_flight._resting.update(dict.fromkeys(frozen_single_flight.resting, NEVER_S))
    single_flight._last = frozen_single_flight.last
    single_flight._arrivals = frozen_single_flight.arrivals
    return single_flight


def _tidied(process: Process) -> Process:
    """Renumber what anybody can name, from 1 and in order; cut off what decides only pauses and notices."""
    named: dict[str, set[int]] = {
        "load_id": {number for number, _ in process.single_flight.single_flight},
        "arrival": set(),
    }

    def collect(kind: str) -> Callable[[int | bytes | None], int | bytes | None]:
        def see(number: int | bytes | None) -> int | bytes | None:
            if number and isinstance(number, int):  # arrival 0 is none; a batch has its nonce for a flight
                named[kind].add(number)
            return number

        return see

    see_load_id, see_arrival = collect("load_id"), collect("arrival")
    rewrite(process.workers, None, {"load_id": see_load_id, "displaced": see_load_id, "arrival": see_arrival})
    single_flight = {number: place for place, number in enumerate(sorted(named["load_id"]), 1)}
    arrivals = {number: place for place, number in enumerate(sorted(named["arrival"]), 1)}
    tidy: dict[str, Callable[[Any], Any]] = {
        "load_id": lambda load_id: load_id if isinstance(load_id, bytes) else single_flight.get(load_id),
        "displaced": single_flight.get,
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

    frozen = process.single_flight
    return Process(
        rewrite(process.workers, None, tidy),
        FrozenSingleFlight(
            tuple(
                (single_flight[number], replace(each, began=as_of(each.began)))
                for number, each in frozen.single_flight
            ),
            tuple((load, single_flight[number]) for load, number in frozen.current),
            frozen.resting,
            len(single_flight),
            len(arrivals),
        ),
        process.remembered,
    )
