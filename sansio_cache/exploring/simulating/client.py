"""One process of a simulation: a driver in virtual time, on the coordinator that the drivers run.

It does to machines what `docs/howto/write-a-driver` says. Where a driver waits, here something is put on the
timeline, and an answer that comes when nobody waits for it any more is dropped. A process has a clock of its
own, which begins where it likes and runs a little too fast or too slow; it may stand still, and it may die.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import attrs
from msgspec.structs import replace

from sansio_cache.commands import (
    AcquireLeases,
    Compute,
    ComputeMany,
    FillCells,
    Renewal,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.coordinator import Coordinator, interrupted, renewing, without_store
from sansio_cache.events import (
    CellRead,
    CellsRead,
    Event,
    HoldsTaken,
    LeaseGranted,
    LeasesAnswered,
    StoreEvent,
    TagsRead,
    Woke,
)
from sansio_cache.exploring.configuration import TIMEOUTS
from sansio_cache.exploring.judging import judged_store
from sansio_cache.exploring.simulating.network import Network
from sansio_cache.exploring.simulating.oracle import Oracle, Told, Violated
from sansio_cache.exploring.simulating.timeline import Random, Timeline
from sansio_cache.notices import InvalidationFailed, Missed, Notice, StaleServed, VariantStored
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following
from sansio_cache.stats import StatsFold
from sansio_cache.step import Outcome, Step

CLEAN_UP_S: Final = 1.0
"""How long an interrupted operation may take to give back what it holds."""


class Loader(Protocol):
    """What a program gives with a read."""

    def begin(self, running: Running, command: Compute | ComputeMany) -> None:
        """Begin to load; later `Client.answer` is called with what came of it."""
        ...


Then = Callable[["Running", Outcome], None]


def _nobody(_: Running, __: Outcome) -> None:
    """Nobody waits for it."""


@attrs.define(eq=False)
class Running:
    """An operation under way.

    Args:
        client: Where.
        step: How far it is.
        loader: Its caller's.
        then: Gets its outcome.
        ticket: Its own, if it may share or begin a load.
        inside: The keys whose loaders it is called from.
        began_s: On the timeline.
    """

    client: Client
    step: Step
    loader: Loader | None
    then: Then
    ticket: int
    inside: frozenset[str]
    began_s: float
    turn: int = 0
    """Counts what it has been told: an answer to an earlier command is nobody's."""
    following: Following | None = None
    renewal: Running | None = None
    watched: tuple[str, ...] = ()
    is_interrupted: bool = False
    is_over: bool = False
    told: set[bytes] = attrs.field(factory=set)
    """The grants, and the versions of tags, that it was told."""
    looked_under: frozenset[bytes] = frozenset()
    """What it had been told when its loader looked at the database."""
    has_failed: bool = False
    """Its loader raised."""
    owes: set[str] = attrs.field(factory=set)
    """What it could not tell the store."""
    stale: set[str] = attrs.field(factory=set)
    """What it was served as stale."""
    missed: set[str] = attrs.field(factory=set)
    """What it was counted as a miss of: that it is served stale after all is not stated then."""
    judges: bool = False
    """Whether it is a read, whose fills are judged."""

    @property
    def is_inside(self) -> frozenset[str]:
        """The keys whose loaders what its own loader asks for is called from."""
        command = self.step.command
        if isinstance(command, ComputeMany):
            return self.inside | frozenset(command.keys)
        return self.inside | {command.key} if isinstance(command, Compute) else self.inside


@attrs.define(eq=False)
class Client:
    """A process.

    Args:
        name: Its own: a process that is begun anew has another.
        timeline: The time of the world.
        network: Its way to the server.
        oracle: Is told of writes that become complete in the background.
        coordinator: What its operations share.
        random: For its clock.
        variants: Is called where it stores an entry beside another version's.
    """

    name: str
    timeline: Timeline
    network: Network
    oracle: Oracle
    coordinator: Coordinator
    random: Random
    variants: Callable[[], None]
    stats: StatsFold = attrs.field(factory=StatsFold)
    is_alive: bool = True
    paused_until_s: float = 0.0
    pauses: int = 0
    last_arrival_s: float = 0.0
    running: dict[int, Running] = attrs.field(factory=dict)
    """What is under way, by a number of its own."""
    _offset_s: float = attrs.field(init=False)
    _rate: float = attrs.field(init=False)
    learned_s: float = 0.0
    """When the server last said what time it is there."""
    _server_offset_ms: float | None = None
    _followers: dict[int, list[Running]] = attrs.field(factory=dict)
    _watchers: dict[str, list[Running]] = attrs.field(factory=dict)
    _owed: list[tuple[str, str, Told]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._offset_s = self.random.random() * 1e6
        self._rate = 1.0 + (self.random.random() - 0.5) / 10_000

    @property
    def now_s(self) -> float:
        """Its own clock."""
        return self._offset_s + self.timeline.now_s * self._rate

    @property
    def is_listening(self) -> bool:
        """Whether it watches a key."""
        return bool(self._watchers)

    # What happens here, if the process is there to see it.

    def later(self, pause_s: float, what: Callable[[], object]) -> None:
        """Have something happen here after a pause on its own clock."""
        self.timeline.after(pause_s / self._rate, partial(self._happen, what))

    def _happen(self, what: Callable[[], object]) -> None:
        if not self.is_alive:
            return
        if self.paused_until_s > self.timeline.now_s:
            self.timeline.at(self.paused_until_s, partial(self._happen, what))
        else:
            what()

    def die(self) -> None:
        """End at once. What was sent may still arrive."""
        self.is_alive = False
        self.running.clear()
        self._watchers.clear()

    # Operations.

    def start(
        self,
        step: Step,
        then: Then = _nobody,
        loader: Loader | None = None,
        *,
        inside: frozenset[str] = frozenset(),
        ticket: int | None = None,
        judges: bool = False,
    ) -> Running:
        """Begin an operation."""
        if ticket is None:
            ticket = self.coordinator.ticket()
        running = Running(self, step, loader, then, ticket, inside, self.timeline.now_s, judges=judges)
        self.running[id(running)] = running
        self._take(running, step)
        return running

    def answer(self, running: Running, turn: int, event: Event) -> None:
        """Something has come for an operation: it goes on, if it still waits for that."""
        if running.turn != turn or running.is_over:
            return
        running.turn += 1
        self._end_renewal(running)
        if isinstance(event, LeaseGranted | LeasesAnswered | HoldsTaken):
            running.told |= _told(event)
        step = running.step.state.receive(event)
        if step.load_id is not None and not running.is_interrupted and isinstance(step.load_id, int):
            ended = self.coordinator.observe(step)
            if ended is not None:
                self._wake(ended)
        self._take(running, step)

    def interrupt(self, running: Running) -> None:
        """Cancel an operation: it gives back what it holds, if it comes to that in time."""
        if running.is_over or running.is_interrupted:
            return
        running.is_interrupted = True
        running.turn += 1
        self._end_renewal(running)
        self._unfollow(running)
        self.later(CLEAN_UP_S, partial(self.cut_short, running))
        self._take(running, interrupted(running.step, self.now_s))

    def cut_short(self, running: Running) -> None:
        """The time for that is up: what could not be told to the store is pending."""
        step = running.step
        while not running.is_over and step.command is not None:
            running.turn += 1
            step = running.step = without_store(step, self.now_s)
            self._note(running, step.notices)
            if step.command is None:
                self._end(running, step)

    def _take(self, running: Running, step: Step) -> None:
        running.step = step
        if step.notices:
            self._note(running, step.notices)
            recovery = self._neglected(step)
            if recovery is not None:
                then = partial(self.go_on, running, running.turn)
                self._recover(recovery, then)
                return
        self.go_on(running, running.turn)

    def go_on(self, running: Running, turn: int) -> None:
        """Do what an operation asks for, if it is still at that."""
        if running.turn != turn or running.is_over:
            return
        step = running.step
        command = step.command
        if command is None:
            self._end(running, step)
        elif isinstance(command, ShareLoad):
            self._share(running, command)
        elif isinstance(command, Sleep):
            self._sleep(running, command)
        elif isinstance(command, Compute | ComputeMany):
            self._compute(running, command)
        else:
            self._ask(running, command)

    def _ask(self, running: Running, command: StoreCommand) -> None:
        if isinstance(command, FillCells) and running.judges:
            for broken in judged_store(command, running.looked_under, has_failed=running.has_failed):
                raise Violated(*broken, command.fills[0].key)
        answer = partial(self._answered, running, running.turn)
        self.network.send(self, command, command.timeout_s / self._rate, answer)

    def _answered(self, running: Running, turn: int, event: StoreEvent) -> None:
        if self.is_alive and running.turn == turn:
            self._happen(partial(self._receive, running, turn, event, self.timeline.now_s))

    def _receive(self, running: Running, turn: int, event: StoreEvent, came_s: float) -> None:
        now_s = self.now_s
        if isinstance(event, CellRead | CellsRead | TagsRead):
            estimate = self._server_offset_ms
            server_ms = None if estimate is None else int(now_s * 1000 + estimate)
            event = replace(event, now_s=now_s, server_ms=server_ms)
        else:
            server_ms = getattr(event, "server_ms", None)
            if server_ms:  # the answers of a queue have 0 where they do not say
                self._server_offset_ms = server_ms - now_s * 1000
                # Who stood still while the reply lay there takes the server's clock for earlier than it is.
                self.learned_s = came_s if came_s == self.timeline.now_s else 0.0
            event = replace(event, now_s=now_s)
        self.answer(running, turn, event)

    def _end(self, running: Running, step: Step) -> None:
        running.is_over = True
        running.turn += 1
        self.running.pop(id(running), None)
        self._unwatch(running)
        self._unfollow(running)
        self._give_up(running.ticket)
        for spawned in step.spawn:
            ticket = self.coordinator.ticket()
            begun = self.coordinator.begin(ticket, spawned, self.now_s)
            if begun is not None:
                self.start(begun, loader=running.loader, ticket=ticket, judges=True)
        assert step.outcome is not None
        running.then(running, step.outcome)

    def _give_up(self, ticket: int) -> None:
        for _ in range(2):  # once more does no harm
            ended = self.coordinator.give_up(ticket)
            if ended is not None:
                self._wake(ended)

    # Loads.

    def _share(self, running: Running, command: ShareLoad) -> None:
        answer = self.coordinator.share(running.ticket, command, running.inside)
        if isinstance(answer, Following):
            running.following = answer
            self._followers.setdefault(answer.load_id, []).append(running)
            self.later(command.timeout_s, partial(self._leave, running, running.turn))
        else:
            self.answer(running, running.turn, answer)

    def _leave(self, running: Running, turn: int) -> None:
        if running.turn != turn or running.following is None:
            return
        following = running.following
        self._unfollow(running)
        self.answer(running, turn, self.coordinator.leave(running.ticket, following, self.now_s))

    def _unfollow(self, running: Running) -> None:
        if running.following is not None:
            followers = self._followers.get(running.following.load_id, [])
            if running in followers:
                followers.remove(running)
            if not followers:
                self._followers.pop(running.following.load_id, None)
            running.following = None

    def _wake(self, load_id: int) -> None:
        for follower in self._followers.pop(load_id, ()):
            self.later(0.0, partial(self._leave, follower, follower.turn))

    def _compute(self, running: Running, command: Compute | ComputeMany) -> None:
        assert running.loader is not None, "an operation that loads has a loader"
        if command.renewal is not None:
            self.keep(running, command.renewal)
        running.loader.begin(running, command)

    def keep(self, running: Running, renewal: Renewal) -> None:
        """Renew leases for as long as an operation's loader, or its block, runs."""
        self.later(renewal.pause_s, partial(self._begin_renewal, running, running.turn, renewal))

    def _begin_renewal(self, running: Running, turn: int, renewal: Renewal) -> None:
        if running.turn == turn and running.renewal is None:
            running.renewal = self.start(renewing(renewal, self.now_s))

    def end_renewal(self, running: Running) -> None:
        """What was kept is kept no longer."""
        running.turn += 1
        self._end_renewal(running)

    def _end_renewal(self, running: Running) -> None:
        renewal, running.renewal = running.renewal, None
        if renewal is not None:
            renewal.is_over = True
            self.running.pop(id(renewal), None)

    # Waiting.

    def _sleep(self, running: Running, command: Sleep) -> None:
        pause_s, watch, is_circle = command.duration_s, command.watch, False
        if watch is not None:
            new = tuple(key for key in watch.keys if key not in running.watched)
            for key in new:
                self._watchers.setdefault(key, []).append(running)
            running.watched += new
            pause_s = 0.0 if new else watch.longest_s
            is_inside = pause_s > 0 and bool(running.inside)
            is_circle = is_inside and not self.coordinator.sleep(running.ticket, watch.keys, running.inside)
            pause_s = 0.0 if is_circle else pause_s
        self.later(pause_s, partial(self._woke, running, running.turn, is_circle=is_circle))

    def _woke(self, running: Running, turn: int, *, is_circle: bool = False) -> None:
        if running.turn == turn and not running.is_over:
            self.coordinator.wake(running.ticket)
            self.answer(running, turn, Woke(self.now_s, is_circle))

    def hear(self, keys: tuple[str, ...]) -> None:
        """Something has changed under these keys."""
        for key in keys:
            for running in self._watchers.get(key, ()):
                if isinstance(running.step.command, Sleep):
                    self.later(0.0, partial(self._woke, running, running.turn))

    def _unwatch(self, running: Running) -> None:
        for key in running.watched:
            watchers = self._watchers[key]
            watchers.remove(running)
            if not watchers:
                del self._watchers[key]
        running.watched = ()

    # The store.

    def _note(self, running: Running, notices: Iterable[Notice]) -> None:
        notices = tuple(notices)
        self.stats.record(notices)
        for notice in notices:
            if isinstance(notice, InvalidationFailed):
                running.owes.update(notice.keys)
            elif isinstance(notice, StaleServed):
                running.stale.add(notice.key)
            elif isinstance(notice, Missed):
                running.missed.add(notice.key)
            elif isinstance(notice, VariantStored):
                self.variants()
        coordinator = self.coordinator
        if coordinator.concerns(notices):
            coordinator.heed(notices, self.now_s)
        if coordinator.needs_recovery:
            ticket = coordinator.ticket()
            recovery = coordinator.begin_recovery(ticket, TIMEOUTS, self.now_s, self.random.randrange(2**32))
            if recovery is not None:
                self._recover(recovery)

    def _neglected(self, step: Step) -> Recovery | None:
        """What a caller is to do for the store by itself, before anything else or after it."""
        command = step.command
        has_begun = isinstance(command, StoreCommand | Sleep) and not isinstance(command, AcquireLeases)
        has_begun = has_begun or getattr(command, "renewal", None) is not None
        if has_begun or not self.coordinator.needs_recovery:
            return None
        ticket = self.coordinator.ticket()
        return self.coordinator.begin_neglected(ticket, TIMEOUTS, self.now_s, self.random.randrange(2**32))

    def _recover(self, recovery: Recovery, then: Callable[[], None] | None = None) -> None:
        self.start(recovery.step, partial(self._recovered, recovery, then), ticket=-1)

    def _recovered(
        self,
        recovery: Recovery,
        then: Callable[[], None] | None,
        _: Running,
        outcome: Outcome,
    ) -> None:
        following = self.coordinator.next_recovery(recovery, outcome, TIMEOUTS, self.now_s)
        self._settle()
        if following is not None:
            self._recover(following, then)
            return
        self._give_up(recovery.ticket)
        if then is not None:
            then()

    def pending(self) -> set[str]:
        """What the store has not been told of yet."""
        return {key for part in self.coordinator.snapshot().parts for key, _ in part.pending}

    def owe(self, key: str, told_as: str, told: Told) -> None:
        """A write of a key is complete when the store has been told of `told_as`: the key, or a tag."""
        self._owed.append((key, told_as, told))

    def _settle(self) -> None:
        if self._owed:
            pending = self.pending()
            for key, told_as, told in self._owed:
                if told_as not in pending:
                    self.oracle.complete(key, told, self.timeline.now_s)
            self._owed = [each for each in self._owed if each[1] in pending]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way here, and nothing left of what was (B2)."""
        snapshot = self.coordinator.single_flight.snapshot()
        is_empty = not (snapshot.loads or snapshot.led or self.coordinator.waits.waiting)
        return is_empty and not (self.running or self._watchers or self._followers)


def _told(event: LeaseGranted | LeasesAnswered | HoldsTaken) -> set[bytes]:
    """The grants that an answer tells, and the versions of tags."""
    told = set(event.versions)
    if isinstance(event, LeaseGranted):
        told.add(event.grant)
    elif isinstance(event, HoldsTaken):
        told.update(event.grants)
    else:
        told.update(each.grant for each in event.answers if isinstance(each, LeaseGranted))
    return told
