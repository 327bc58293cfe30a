"""The coordinator: all that one process decides, whoever drives it.

Machines decide what one operation does. What operations of a process have to do with each other is decided
here, once: who joins a load, who is told, what is begun in the background, what an interrupted operation
gives back; and about the store: which reads do without it (the circuit breaker, pending invalidations), and
what has to be told to it when it is back. Drivers, the explorer, tests and other people's drivers all run
this one.

It decides and keeps account; it has no locks, events or waiting. A driver for threads calls it under a lock
of its own; one for an event loop just calls it.

*Tickets.* A driver makes a ticket before it calls `share` or `begin`. What the call begins is written down
under the ticket before anything else is changed, and `give_up` undoes it from any point: also where an
interrupt has struck between two assignments of the call. `give_up` is called at the end of every operation
that has a ticket, and once more does no harm. A driver wakes those who follow a load that has ended
before it forgets what they wait for: where an interrupt strikes in between, `give_up` tells it again.

*Parts.* A store may consist of parts that fail alone, such as the nodes of a cluster. Breaker, pending
invalidations and recovery are kept for each. Which part a key is in is the backend's to say; a failure names
the part that it comes from. A single server is one part.

    ticket = coordinator.ticket()
    answer = coordinator.share(ticket, command)    # an event, or what the caller follows: it waits
    event = coordinator.leave(ticket, answer, now_s)
    coordinator.give_up(ticket)                    # always, at the end
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, assert_never

import attrs
from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.changes import (
    Change,
    Distrusted,
    InvalidationsForgotten,
    InvalidationsGivenUp,
    InvalidationsRefused,
    OutageBegan,
    OutageEnded,
    RefusalBegan,
    StoreReplaced,
    Suspected,
    Trusted,
)
from sansio_cache.commands import Renewal, ShareLoad
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    FailureKind,
    Interrupted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
    StoreFailed,
    Woke,
)
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import (
    EntryForeign,
    InvalidationFailed,
    InvalidationRefused,
    Missed,
    Notice,
    PatternDeleted,
    RemovalBegan,
    RepliesCrossed,
    StoreAnswered,
    Stored,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.renewal import renew
from sansio_cache.operations.second_look import Doubt
from sansio_cache.part import Part, PartSnapshot, Recovery
from sansio_cache.pending_invalidations import PendingInvalidations
from sansio_cache.single_flight import Following, SingleFlight, SingleFlightSnapshot, Ticket
from sansio_cache.stats import PartStats
from sansio_cache.step import Loaded, Outcome, Step, evolve, may_hold
from sansio_cache.tags import is_tag_key
from sansio_cache.ttl import MAX_TTL_S
from sansio_cache.untold import TakesWords
from sansio_cache.waits import Waiting, Waits
from sansio_cache.watched_writes import WatchesStore

LONGEST_LIFE_S: Final = 2 * MAX_TTL_S + 86_400.0
"""How long an entry lives at most, in seconds, with the load that stores it.

As long fresh as anybody may ask for, as long stale, and a day for the load. With less, a refused invalidation
would be given up while an old value may still be served (S1).
"""
_ENDED_BY_A_WRITE: Final = frozenset(
    {FailureKind.OUT_OF_MEMORY, FailureKind.WRITES_REFUSED, FailureKind.READ_ONLY}
)


_ALWAYS_HEEDED: Final = frozenset(
    {
        StoreGaveUp,
        StoreAnswered,
        InvalidationFailed,
        InvalidationRefused,
        PatternDeleted,
        RemovalBegan,
        EntryForeign,
        RepliesCrossed,
    }
)


class CoordinatorSnapshot(Struct, frozen=True):
    """All that a coordinator holds, as a value that can be compared and hashed."""

    single_flight: SingleFlightSnapshot
    parts: tuple[PartSnapshot, ...]
    waits: tuple[Waiting, ...] = ()


def one_part(_: str) -> str:
    """The part of every key, where there is only one."""
    return ONE_PART


@attrs.define
class Coordinator(WatchesStore, TakesWords):
    """What the operations of one process share.

    Args:
        is_disabled: Whether the cache is switched off by its configuration.
        part_of: Gives the part of the store that a key is in.
        most_pending: How many invalidations are kept for a part that cannot be told of them.
        longest_life_s: How long an entry and a lease of it live at most, in seconds. What the store refuses
            to be told of is given up after that.
        after_failover_s: How long reads do without a part that another store answers for, in seconds: in that
            time, other processes tell that store what they have written lately.
        single_flight: The loads under way.
        waits: Which loads wait for which; those of several coordinators may be in one.
        number: By which it is known there.
    """

    is_disabled: bool = False
    part_of: Callable[[str], str] = one_part
    most_pending: int = 10_000
    longest_life_s: float = LONGEST_LIFE_S
    after_failover_s: float = 0.5
    single_flight: SingleFlight = attrs.field(factory=SingleFlight)
    waits: Waits = attrs.field(factory=Waits)
    number: int = 0
    must_ask: bool = attrs.field(init=False)
    """Whether `skip` may have a reason to give: seldom, and the question is asked for every read."""
    needs_recovery: bool = attrs.field(default=False, init=False)
    """Whether some part is to be probed, or told of invalidations."""
    bypassed: frozenset[str] = attrs.field(default=frozenset(), init=False)
    """Tags, by their keys, whose removal the store has not been told of yet."""
    foreign: frozenset[str] = attrs.field(default=frozenset(), init=False)
    """Keys under which entries of others are known to be stored."""
    may_glance_at_all: bool = attrs.field(init=False)
    """Whether `may_glance` is true of every key: mostly, and the question is asked for every read."""
    _parts: dict[str, Part] = attrs.field(factory=dict, init=False)
    _tickets: Iterator[Ticket] = attrs.field(factory=itertools.count, init=False)

    def __attrs_post_init__(self) -> None:
        self._settle()

    # Loads.

    def ticket(self) -> Ticket:
        """A new ticket, for one operation. Threads may ask for one at once."""
        return next(self._tickets)

    def share(
        self, ticket: Ticket, command: ShareLoad, inside: frozenset[str] = frozenset()
    ) -> LoadLed | LoadNotShared | SharingTimedOut | Following:
        """Join the load that a command asks for, or lead it.

        Args:
            ticket: Whose it is.
            command: What is asked for.
            inside: The keys whose loaders this is called from.

        Returns:
            The event for the machine; or what the caller follows now: it waits until the load has ended, and
            calls `leave`.
        """
        place = self.single_flight.join(ticket, command)
        if isinstance(place, int):
            return LoadLed(command.now_s, place)
        if place is None:
            return LoadNotShared(command.now_s)
        if not self.waits.begin((self.number, ticket), (command.key,), inside):
            self.single_flight.leave(ticket)
            return SharingTimedOut(command.now_s, place.load_id, place.arrival, is_circle=True)
        return place

    def sleep(self, ticket: Ticket, keys: Iterable[str], inside: frozenset[str]) -> bool:
        """Begin to wait for the leases of keys, from inside the loaders of others.

        Returns:
            Whether to wait: not where that would never end, as who holds them waits for one of those loaders.
        """
        return self.waits.begin((self.number, ticket), keys, inside)

    def wake(self, ticket: Ticket) -> None:
        """End such a wait."""
        self.waits.end((self.number, ticket))

    def leave(
        self, ticket: Ticket, following: Following, now_s: float
    ) -> LoadShared | LoadErrorShared | LoadNotShared | SharingTimedOut:
        """End following: the event that says what came of it.

        Where it is `LoadShared` without a payload, `value` is the leader's own: the caller gets a copy. So is
        the `error` of a `LoadErrorShared`.
        """
        self.waits.end((self.number, ticket))
        has_ended, outcome = self.single_flight.leave(ticket)
        if not has_ended:
            return SharingTimedOut(now_s, following.load_id, following.arrival)
        if outcome is None:
            return LoadNotShared(now_s, following.arrival)
        if isinstance(outcome, Loaded):
            if outcome.payload is None:
                return LoadShared(now_s, None, outcome.value)
            return LoadShared(now_s, outcome.payload, None)
        return LoadErrorShared(now_s, outcome.error, outcome.shared)

    def begin(self, ticket: Ticket, step: Step, now_s: float) -> Step | None:
        """Begin an operation that another has spawned.

        Returns:
            The step to run, under this ticket; None where somebody here runs it already, or it rests. Such an
            operation waits for nobody, so it never joins.
        """
        command = step.command
        assert isinstance(command, ShareLoad), "what is spawned begins by looking for a load of its own"
        load_id = self.single_flight.lead(ticket, command)
        return None if load_id is None else step.state.receive(LoadLed(now_s, load_id))

    def observe(self, step: Step) -> int | None:
        """Take in how far an operation is. To be called *before* the step's command is performed.

        Returns:
            The number of the load that has ended with it: who follows that is to be woken.
        """
        load_id = step.load_id
        return load_id if isinstance(load_id, int) and self.single_flight.observe(step) else None

    def give_up(self, ticket: Ticket) -> int | None:
        """Undo what a ticket began, from any point; nothing where it has come to its end.

        Returns:
            The number of the load that it led: who follows that is to be woken. Once more where somebody
            still follows it, as the one who was to wake them may have been interrupted.
        """
        for part in tuple(self._parts.values()):
            if part.has(ticket):
                part.drop(ticket)
                self._settle()
        if ticket == self._watching:
            self._watching = None
        if self.waits.waiting:
            self.waits.end((self.number, ticket))
        return self.single_flight.give_up(ticket)

    def forget_loads(self) -> None:
        """Nobody of those is there any more who led loads or ran recoveries: in a forked process, say."""
        self.single_flight = self.single_flight.successor()
        self.waits.forget(self.number)
        self._watching = None
        for part in self._parts.values():
            part.drop(None)
        self._settle()

    # The store.

    def skip(self, key: str) -> MissReason | None:
        """Why a read of this key is not to ask the store; None where it is to."""
        if self.is_disabled:
            return MissReason.DISABLED
        if not self.needs_recovery:
            return None
        if self.is_part_out(self.part_of(key)):
            return MissReason.STORE_ERROR
        return MissReason.BYPASSED if self._is_bypassed(key) else None

    def skip_many(self, keys: Sequence[str], tags: Sequence[str] = ()) -> MissReason | None:
        """Why a read of these keys, which depend on these tags, is not to ask the store; None where it is to.

        Where some are to be bypassed, all are: it is rare, and short. Where some are in a part that does not
        serve, the others are asked for: a store of several parts answers for that one at once.
        """
        if self.is_disabled:
            return MissReason.DISABLED
        if not self.needs_recovery:
            return None
        if any(map(self._is_bypassed, keys)) or any(map(self._is_bypassed, tags)):
            return MissReason.BYPASSED
        is_out = any(self.is_part_out(self.part_of(tag)) for tag in tags)
        is_out = is_out or all(self.is_part_out(self.part_of(key)) for key in keys)
        return MissReason.STORE_ERROR if is_out and keys else None

    def is_part_out(self, part: str) -> bool:
        """Whether a part does not serve, as far as is known. Any thread may ask."""
        known = self._parts.get(part)
        return known is not None and known.breaker.is_open

    def _is_bypassed(self, key: str) -> bool:
        """Whether an invalidation of a key is pending, of whichever part, as a key may move to another.

        Or another store answers for its part, and may not have been told of everything.
        """
        if key in self.untold or any(key in part.pending for part in tuple(self._parts.values())):
            return True
        part = self._parts.get(self.part_of(key))
        return part is not None and part.is_unsettled

    def may_glance(self, *keys: str) -> bool:
        """Whether reads of these keys and tags may be answered at the first look: see `glance.py`."""
        return not self.must_ask and self.foreign.isdisjoint(keys)

    def begin_write(self, keys: Iterable[str], now_s: float) -> MissReason | None:
        """Remember a write that begins now; and why it is not to wait for the store, as `skip_write` says.

        It is remembered before the store is asked: what that acknowledges may be lost with it at once.
        """
        self.remember(keys, now_s)
        return self.skip_write(keys)

    def skip_write(self, keys: Iterable[str]) -> MissReason | None:
        """Why a write of these keys is not to wait for the store; None where it is to ask it.

        What is pending is no reason: to be told of a write is always safe. Where some are in a part that does
        not serve, the others are written.
        """
        if self.is_disabled:
            return MissReason.DISABLED
        if self.needs_recovery:
            parts = {self.part_of(key) for key in keys}
            if parts and all(map(self.is_part_out, parts)):
                return MissReason.STORE_ERROR
        return None

    @property
    def is_out(self) -> bool:
        """Whether the store, or a part of it, does not serve, and calls do without it."""
        return any(part.breaker.is_open for part in tuple(self._parts.values()))

    def part_stats(self) -> dict[str, PartStats]:
        """How the parts of the store are, by name; those of which there is nothing to say may be missing."""
        return {
            name: PartStats(is_open=part.breaker.is_open, pending_invalidations=len(part.pending))
            for name, part in tuple(self._parts.items())
        }

    @property
    def pending_invalidations(self) -> int:
        """How many invalidations the store has not been told of yet."""
        return sum(len(part.pending) for part in tuple(self._parts.values())) + len(self.untold)

    def concerns(self, notices: Sequence[Notice]) -> bool:
        """Whether there is something among notices for `heed`."""
        if self.must_watch:
            return True
        kinds = set(map(type, notices))  # of a batch there are many
        if not kinds.isdisjoint(_ALWAYS_HEEDED) or (Stored in kinds and self._parts):
            return True
        if Missed in kinds:
            for notice in notices:
                if isinstance(notice, Missed) and notice.reason is MissReason.KEY_CHECK:
                    return True
        return False

    def expect_notices(self) -> None:
        """Notices are to be heeded, and cannot be just now: until then every read asks, and heeds."""
        self.must_ask = True
        self.may_glance_at_all = False
        self.needs_recovery = not self.is_disabled

    def heed(self, notices: Iterable[Notice], now_s: float) -> list[Change]:
        """Take in what operations have met at the store, at `now_s` on the driver's clock.

        An interrupt may strike anywhere here: what has been taken in by then holds. Once more does no harm.
        """
        # Where an interrupt keeps `_settle` from knowing better, `skip` looks, and so does `begin_recovery`.
        self.expect_notices()
        changes: list[Change] = []
        words = self._take_words()
        for notice in (*words, *notices):
            match notice:
                case StoreGaveUp(kind=kind, part=name, reason=reason):
                    changes += self._gave_up(name, kind, reason, now_s)
                case StoreAnswered(part=name):
                    changes += self._answered(name, now_s)
                case Stored(key=key):
                    part = self._parts.get(self.part_of(key))
                    if part is not None:
                        part.refusals -= _ENDED_BY_A_WRITE
                case InvalidationFailed(keys=keys, was_tried=was_tried):
                    changes += self._keep_pending(keys, was_tried, now_s)
                case RemovalBegan() | PatternDeleted():
                    self.remember_removal(notice, now_s)
                case InvalidationRefused(keys=keys, kind=kind):
                    changes += self._refused(keys, kind)
                case Missed(reason=MissReason.KEY_CHECK) | EntryForeign() | RepliesCrossed():
                    changes += self._doubted(notice)
                case _:
                    pass
        for name, part in self._parts.items():
            if part.pending.refused and (count := part.pending.give_up(now_s - self.longest_life_s)):
                changes.append(InvalidationsGivenUp(name, count))
            part.settle(now_s)
        self._drop_words(words)
        self._settle()
        return changes

    def opened(self, name: str, now_s: float, *, is_another: bool) -> list[Change]:
        """A connection to a part has opened: what is pending is to be told at once.

        Args:
            name: The part.
            now_s: The driver's clock.
            is_another: Whether another store answers there than before: a replica that has taken over, or the
                same server after another start. It may not have heard of what was acknowledged before.
        """
        changes: list[Change] = []
        if is_another and not self.is_disabled:
            part = self._part(name)
            keys = [key for key in self.recent.keys(now_s) if self.part_of(key) == name]
            patterns = self.recent.patterns(now_s)
            until_s = now_s + self.after_failover_s if self.after_failover_s else 0.0
            part.replay(keys, patterns, until_s, now_s)
            told, is_incomplete = len(keys) + len(patterns), self.recent.has_overflowed(now_s)
            changes.append(StoreReplaced(name, told, self.after_failover_s, is_incomplete))
        found = self._parts.get(name)
        if found is not None:
            found.is_urgent = True
        self._settle()
        return changes

    def begin_recovery(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int = 0
    ) -> Recovery | None:
        """What is to be run in the background under this ticket; None where nothing is, or it is being run.

        Whoever runs it calls `next_recovery` with its outcome, until that gives None; or `give_up`. What is
        due, and was given up before, is not begun here: the background did not last for so long. A caller is
        to do it (`begin_neglected`).

        Args:
            ticket: Whose it is.
            timeouts: How long the store may take.
            now_s: The driver's clock.
            seed: A random number, so that processes which have met the same outage do not ask together.
        """
        return self._begin(Part.begin, ticket, timeouts, now_s, seed)

    def begin_neglected(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int = 0
    ) -> Recovery | None:
        """What a caller is to do by itself, as nothing runs in the background any more; mostly None.

        It is one attempt, which takes at most what one step of an operation may; others go on meanwhile.
        `next_recovery` is called with its outcome, or `give_up`.
        """
        return self._begin(Part.begin_neglected, ticket, timeouts, now_s, seed)

    def begin_last(self, timeouts: StoreTimeouts, now_s: float) -> list[Recovery]:
        """What the parts are to be told before the end, whoever was about to tell them.

        It takes at most what a step of an operation may. `next_recovery` is called with each outcome.
        """
        found = [part.begin_last(self.ticket(), timeouts, now_s) for part in self._parts.values()]
        return [recovery for recovery in found if recovery is not None]

    def _begin(
        self,
        begin: Callable[[Part, Ticket, StoreTimeouts, float, int], Recovery | None],
        ticket: Ticket,
        timeouts: StoreTimeouts,
        now_s: float,
        seed: int,
    ) -> Recovery | None:
        for part in () if self.is_disabled else self._parts.values():
            recovery = begin(part, ticket, timeouts, now_s, seed)
            if recovery is not None:
                return recovery
        self._settle()
        return None

    def next_recovery(
        self, recovery: Recovery, outcome: Outcome, timeouts: StoreTimeouts, now_s: float
    ) -> Recovery | None:
        """Take in what came of a recovery; what is to be run after it, None where there is nothing.

        Where the store was told of invalidations, those that have failed again meanwhile stay pending. None
        as well for whoever was given up: the part is another's.
        """
        if recovery.ticket == self._watching:
            return self._next_watch(recovery.ticket, timeouts, now_s)
        part = self._parts.get(recovery.part)
        following = None if part is None else part.after(recovery, outcome, timeouts, now_s)
        self._settle()
        return following

    def _gave_up(self, name: str, kind: FailureKind, reason: str, now_s: float) -> list[Change]:
        part = self._part(name)
        if kind.is_outage:
            was_open = part.breaker.is_open
            part.open(kind, now_s)
            return [] if was_open else [OutageBegan(name, kind, reason)]
        if kind in part.refusals:
            return []
        part.refusals.add(kind)
        return [RefusalBegan(name, kind, reason)]

    def _answered(self, name: str, now_s: float) -> list[Change]:
        part = self._part(name)
        since_s = part.breaker.open_since_s
        part.close()
        if since_s is None:
            return []
        part.refusals.clear()
        return [OutageEnded(name, now_s - since_s)]

    def _keep_pending(self, keys: Iterable[str], was_tried: bool, now_s: float) -> list[Change]:
        by_part: dict[str, list[str]] = {}
        for key in keys:
            by_part.setdefault(self.part_of(key), []).append(key)
        changes: list[Change] = []
        self.bypassed |= {key for key in keys if is_tag_key(key)}
        for name, those in by_part.items():
            part = self._part(name)
            pending = part.pending
            has_forgotten = pending.forgotten > 0
            pending.add(those, now_s)
            part.has_untold = part.breaker.is_open and (part.has_untold or not was_tried)
            if pending.forgotten and not has_forgotten:
                changes.append(InvalidationsForgotten(name, pending.limit))
        return changes

    def _refused(self, keys: Iterable[str], kind: FailureKind) -> list[Change]:
        """What is new of what the store refuses. That it does is taken in by `next_recovery`."""
        by_part: dict[str, int] = {}
        for key in keys:
            name = self.part_of(key)
            part = self._parts.get(name)
            if part is not None and key in part.pending and key not in part.pending.refused:
                by_part[name] = by_part.get(name, 0) + 1
        return [InvalidationsRefused(name, kind, count) for name, count in by_part.items()]

    def _doubted(self, notice: Missed | EntryForeign | RepliesCrossed) -> list[Change]:
        """Take in that an entry has another key's check, or which of the two reasons that had."""
        name = self.part_of(notice.key)
        part = self._part(name)
        match notice:
            case Missed(key=key, seen=seen):
                return [Suspected(name)] if part.doubt(Doubt(key, seen)) else []
            case EntryForeign(key=key, seen=seen):
                return [Trusted(name)] if part.know_foreign(Doubt(key, seen)) else []
            case RepliesCrossed():
                part.doubts.clear()  # of what was read on the same connections
                return [Distrusted(name)]
            case _:
                assert_never(notice)

    def _part(self, name: str) -> Part:
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = Part(name, PendingInvalidations(self.most_pending))
        return part

    def _settle(self) -> None:
        """Say again what follows from the parts, and forget those of which there is nothing to say (B2)."""
        for name in [name for name, part in self._parts.items() if not part.is_worth_keeping]:
            del self._parts[name]
        parts = self._parts.values()
        self.needs_recovery = not self.is_disabled and any(part.needs_recovery for part in parts)
        self.must_ask = self.is_disabled or self.needs_recovery
        tags = [part.pending.tags for part in parts if part.pending.tags]
        # Mostly no copy: there may be thousands, and this is done at every call in an outage.
        self.bypassed = tags[0] if len(tags) == 1 else frozenset().union(*tags)
        foreign = [part.foreign_keys for part in parts if part.foreign]
        self.foreign = foreign[0] if len(foreign) == 1 else frozenset().union(*foreign)
        self.may_glance_at_all = not (self.must_ask or self.foreign)
        if self.untold:  # last: a finaliser may have put them down in the middle of this
            self.leave_word(self._untold_keys())

    # The explorer's.

    def snapshot(self) -> CoordinatorSnapshot:
        """All that it holds, as a value: what it decides depends on nothing else."""
        parts = tuple(part.snapshot() for _, part in sorted(self._parts.items()))
        return CoordinatorSnapshot(self.single_flight.snapshot(), parts, self.waits.snapshot())

    def restore(self, snapshot: CoordinatorSnapshot) -> None:
        """Become what a snapshot was made of. Tickets that it does not name count for nothing any more."""
        self.single_flight.restore(snapshot.single_flight)
        self.waits.restore(snapshot.waits)
        flight, parts = snapshot.single_flight, snapshot.parts
        tickets = {ticket for ticket, _ in flight.led}
        tickets |= {ticket for _, load in flight.loads for ticket, _ in load.followers}
        tickets |= {ticket for part in parts for ticket in part.tickets}
        self._tickets = itertools.count(max(tickets, default=-1) + 1)
        self._parts = {}
        for each in snapshot.parts:
            self._part(each.part).restore(each)
        self._settle()


def renewing(renewal: Renewal, now_s: float) -> Step:
    """What keeps leases alive: to be begun when `renewal.pause_s` have passed, and to end with the loader.

    Most loaders have returned by then, and nothing is begun for them.
    """
    return renew(renewal).state.receive(Woke(now_s))


def interrupted(step: Step, now_s: float) -> Step:
    """What an interrupted operation does next: it gives back what it may hold, command by command."""
    return step.state.receive(Interrupted(now_s)) if may_hold(step) else step


def without_store(step: Step, now_s: float) -> Step:
    """What it does where there is no time left to ask the store: what could not be removed is pending.

    That is no failure of the store, which was not asked: no notice says so, and the breaker stays as it is.
    """
    if step.command is None:
        return step
    following = step.state.receive(StoreFailed(now_s, FailureKind.TIMEOUT))
    said = [each for each in following.notices if not isinstance(each, StoreErrored | StoreGaveUp)]
    return evolve(following, notices=tuple(said))
