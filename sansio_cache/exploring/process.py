"""A process as a value: its workers, and what its coordinator holds.

The coordinator is frozen as its own `snapshot`, and restored for a move. A worker's place in its process is
its ticket. Numbers that only count up, of loads, of arrivals and of failures, are given anew from 1, so that
processes which differ only in their history are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import attrs

from sansio_cache.coordinator import CoordinatorSnapshot
from sansio_cache.events import Event
from sansio_cache.exploring.configuration import NOW_S, Act
from sansio_cache.exploring.naming import rewrite
from sansio_cache.part import PartSnapshot
from sansio_cache.single_flight import Following, LoadName, Phase, SingleFlightSnapshot
from sansio_cache.step import Step, evolve

NEVER_S: Final = NOW_S + 1.0
"""Later than now, which is all that matters."""
Floor = tuple[int, ...]
"""The newest versions whose writes are complete: of each key, of the tag, and of soft expiries."""


class Stage(Enum):
    """Where a worker is in its program."""

    READY = "ready"
    """The next act has not begun."""
    RUNNING = "running"
    GIVING_UP = "giving up its ticket"
    """Its operation has ended, and what it shared has not been cleared away yet."""
    BLOCK = "in the block of mutate"
    COMMITTED = "in the block of mutate, committed"
    OWING = "waiting until the store is told what it missed"
    RECOVERING = "telling the store what it missed"
    """In the background."""
    REFRESHING = "refreshing in the background"
    DONE = "done"
    """Or crashed: in what follows there is no difference."""

    @property
    def has_ticket(self) -> bool:
        """Whether something may have begun in the worker's name that has not ended."""
        return self in (Stage.RUNNING, Stage.REFRESHING, Stage.RECOVERING, Stage.GIVING_UP)


@attrs.frozen
class Worker:
    """One caller, or what runs in the background: the acts still to do, the current one first."""

    acts: tuple[Act, ...]
    stage: Stage = Stage.READY
    step: Step | None = None
    reply: Event | None = None
    """The answer to a request that has been performed, on its way."""
    following: Following | None = None
    is_interrupted: bool = False
    floor: Floor = ()
    own_floor: Floor = ()
    """The floor that its process owes it: what is pending there is newer than what is complete."""
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
    part: str = ""
    """The part of the store that a recovery is for."""
    telling: tuple[tuple[str, int], ...] = ()
    """What a recovery tells the store, each key with the number of its failure."""
    parent: int | None = None
    """The caller whose loader asks for this, and waits for it."""


@attrs.frozen
class Process:
    """The workers of one process, and what they share.

    After those that have programs come what runs in the background: recoveries, then refreshes.
    """

    workers: tuple[Worker, ...]
    coordinator: CoordinatorSnapshot


def pending(worker: Worker) -> Any:
    """The command that a worker waits for."""
    return None if worker.step is None else worker.step.command


def frozen(workers: Sequence[Worker], callers: int, coordinator: CoordinatorSnapshot) -> Process:
    """A process as a value; of what runs in the background, only what has not ended."""
    background = [i for i in range(callers, len(workers)) if workers[i].stage is not Stage.DONE]
    background.sort(key=lambda i: workers[i].stage is Stage.REFRESHING)
    places = (*range(callers), *background)
    # Whether a load rests is asked by readers that are still to come.
    are_readers_left = any(act.is_read for worker in workers[:callers] for act in worker.acts)
    tickets = {ticket: place for place, ticket in enumerate(places)}
    shared = coordinator.single_flight
    if shared.led:
        # Of an operation that is over nobody asks which load it has led.
        led = tuple(pair for pair in shared.led if _is_at_it(workers, pair[0]))
        coordinator = evolve(coordinator, single_flight=evolve(shared, led=led))
    kept = tuple(workers[place] for place in places)
    return _tidied(kept, renamed_tickets(coordinator, tickets), are_readers_left=are_readers_left)


def renamed_tickets(snapshot: CoordinatorSnapshot, tickets: Mapping[int, int]) -> CoordinatorSnapshot:
    """The same with other tickets; those without a new one stay as they are."""
    shared = snapshot.single_flight
    if shared.loads or shared.led:
        loads = tuple(
            (number, evolve(load, followers=_renamed(load.followers, tickets)))
            for number, load in shared.loads
        )
        shared = evolve(shared, loads=loads, led=_renamed(shared.led, tickets))
    parts = tuple(
        evolve(each, recovering=_of(each.recovering, tickets), telling=_of(each.telling, tickets))
        for each in snapshot.parts
    )
    waits = tuple(
        sorted(
            ((number, tickets.get(ticket, ticket)), keys, inside)
            for (number, ticket), keys, inside in snapshot.waits
        )
    )
    return CoordinatorSnapshot(shared, parts, waits)


def _of(ticket: int | None, tickets: Mapping[int, int]) -> int | None:
    return None if ticket is None else tickets.get(ticket, ticket)


def _renamed(pairs: Iterable[tuple[int, Any]], tickets: Mapping[int, int]) -> tuple[tuple[int, Any], ...]:
    return tuple(sorted(((tickets.get(ticket, ticket), each) for ticket, each in pairs), key=_first))


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def left_behind(workers: Sequence[Worker], snapshot: CoordinatorSnapshot) -> str | None:
    """What is left: a load that nobody leads, a place of nobody's in one, a follower who was not told."""
    shared = snapshot.single_flight
    led = {number for ticket, number in shared.led if _is_at_it(workers, ticket)}
    for number, load in shared.loads:
        if load.phase is not Phase.ENDED and number not in led:
            return "nobody leads a load that is under way"
        if not all(_is_at_it(workers, ticket) for ticket, _ in load.followers):
            return "a load is followed by nobody's operation"
    # That a load was led stays written down for as long as somebody has a place in it.
    loads = {number for number, _ in shared.loads}
    if not all(number in loads or _is_at_it(workers, ticket) for ticket, number in shared.led):
        return "a load is led by an operation that is over"
    if not all(_is_at_it(workers, ticket) for part in snapshot.parts for ticket in part.tickets):
        return "nobody runs a recovery that has begun"
    ended = {number for number, load in shared.loads if load.phase is Phase.ENDED}
    if any(worker.following is not None and worker.following.load_id in ended for worker in workers):
        return "a load has ended, and a follower was not told"
    return None


def _is_at_it(workers: Sequence[Worker], ticket: int) -> bool:
    """Whether the operation that has this ticket is under way."""
    return ticket < len(workers) and workers[ticket].stage.has_ticket


def ended_early(workers: Sequence[Worker], shared: SingleFlightSnapshot) -> str | None:
    """What is over although its leader is still at it."""
    under_way = {number for number, load in shared.loads if load.phase is not Phase.ENDED}
    for worker in workers:
        load_id = None if worker.step is None or worker.step.command is None else worker.step.load_id
        if isinstance(load_id, int) and load_id not in under_way:
            return "a load has ended, and its leader has not"
    return None


def _tidied(
    workers: tuple[Worker, ...], coordinator: CoordinatorSnapshot, *, are_readers_left: bool
) -> Process:
    """Renumber what anybody can name, from 1 and in order; cut off what decides only pauses and notices."""
    shared = coordinator.single_flight
    named: dict[str, set[int]] = {
        "load_id": {number for number, _ in shared.loads} | {number for _, number in shared.led},
        "arrival": set(),
    }

    def collect(kind: str) -> Callable[[int | bytes | None], int | bytes | None]:
        def see(number: int | bytes | None) -> int | bytes | None:
            if number and isinstance(number, int):  # arrival 0 is none; a batch has its nonce for a load
                named[kind].add(number)
            return number

        return see

    see_load_id, see_arrival = collect("load_id"), collect("arrival")
    rewrite(workers, None, {"load_id": see_load_id, "displaced": see_load_id, "arrival": see_arrival})
    load_ids = {number: place for place, number in enumerate(sorted(named["load_id"]), 1)}
    arrivals = {number: place for place, number in enumerate(sorted(named["arrival"]), 1)}
    tidy: dict[str, Callable[[Any], Any]] = {
        "load_id": lambda load_id: load_id if isinstance(load_id, bytes) else load_ids.get(load_id),
        "displaced": load_ids.get,
        "arrival": lambda arrival: arrivals.get(arrival, 0),
        "turns": lambda turns: min(turns, 1),
        "turn": lambda _: 0,
        "duration_s": lambda _: 0.0,
        "longest_s": lambda _: 0.0,
        "began_s": lambda _: NOW_S,
        "since_s": lambda _: NOW_S,
    }

    def as_of(began: int | None) -> int | None:
        """Who had come when a loader began, by the new numbers: those who can still be named."""
        return None if began is None else sum(arrival <= began for arrival in arrivals)

    loads = tuple(
        (load_ids[number], evolve(rewrite(load, None, tidy), began=as_of(load.began)))
        for number, load in shared.loads
    )
    resting: tuple[tuple[LoadName, float], ...] = ()
    if are_readers_left:
        resting = tuple(sorted((name, NEVER_S) for name, _ in shared.resting))
    single_flight = SingleFlightSnapshot(
        loads,
        tuple((name, load_ids[number]) for name, number in shared.current),
        tuple((ticket, load_ids[number]) for ticket, number in shared.led),
        resting,
        len(load_ids),
        len(arrivals),
    )
    workers, parts = _restamped(rewrite(workers, None, tidy), coordinator.parts)
    return Process(workers, CoordinatorSnapshot(single_flight, parts, coordinator.waits))


def _restamped(
    workers: tuple[Worker, ...], parts: tuple[PartSnapshot, ...]
) -> tuple[tuple[Worker, ...], tuple[PartSnapshot, ...]]:
    """Number failures anew, from 1 and in order; leave out when the store is to be asked, and how often."""
    parts = tuple(evolve(part, due_s=None, tell_due_s=0.0, turns=(0, 0), was_dropped=False) for part in parts)
    pairs = [pair for worker in workers for pair in worker.telling]
    pairs += [pair for part in parts for pair in part.pending]
    if not pairs:
        return workers, parts
    stamps = {stamp: place for place, stamp in enumerate(sorted({stamp for _, stamp in pairs}), 1)}

    def anew(old: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        return tuple((key, stamps[stamp]) for key, stamp in old)

    return (
        tuple(
            evolve(worker, telling=anew(worker.telling)) if worker.telling else worker for worker in workers
        ),
        tuple(evolve(part, pending=anew(part.pending)) for part in parts),
    )
