"""One part of the store: what this process knows of it, and who sees to it.

A *recovery* asks whether the part serves, and tells it what it has missed. One is run at a time, in the
background, with pauses that double and differ between processes. What is written while the breaker is open is
told at once beside that, as far as the store takes it.

*What is due is kept here*, and not by whoever runs it: the background may end with an event loop
(`asyncio.run` for each task of a queue). A recovery that was given up, or that has come to no end long after
it was due, is neglected: the next caller makes one attempt.

*Another store.* Where a part has another owner, or its server was started anew, what this process has written
lately is told again, at once; and as other processes do the same, reads do without the part for a moment. A
pattern that is to be told again stands for keys that nobody knows: until it is, no key of the part is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
from msgspec import Struct

from sansio_cache.backoff import draw_at
from sansio_cache.breaker import Breaker
from sansio_cache.budget import StoreTimeouts
from sansio_cache.events import FailureKind
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.recovery import RecoveryRequest, recover, recover_now, rest, tell
from sansio_cache.operations.second_look import Doubt, look_again
from sansio_cache.pending_invalidations import PendingInvalidations, Refusal
from sansio_cache.single_flight import Ticket
from sansio_cache.step import Outcome, PatternRemoved, Recovered, Step, evolve

MOST_TOLD: Final = 500
"""How many pending invalidations one recovery tells the store."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
"""How long a recovery pauses before it asks the store, in seconds: twice as long after each that failed."""
LONGEST_TELL_PAUSE_S: Final = 0.5
"""The same of what is told at once in an outage, without being asked whether it serves."""
NEGLECTED_S: Final = 1.0
"""How much later than its commands take a recovery has ended that is run by somebody, in seconds."""


class Recovery(Struct, frozen=True):
    """One attempt to find out whether a part serves, and to tell it what it missed: to be run.

    Args:
        ticket: Whose it is.
        part: The part.
        step: The first step.
        keys: The keys that the store is told, each with the number of its latest failure.
        seed: A random number, for the pauses.
        is_by_caller: Whether a caller does it, who makes one attempt and goes on.
    """

    ticket: Ticket
    part: str
    step: Step
    keys: Mapping[str, int]
    seed: int = 0
    is_by_caller: bool = False
    pattern: PatternRequest | None = None
    """The pattern that the store is told, if it is one."""


MOST_FOREIGN: Final = 1_000
"""Of how many entries it is remembered that they are foreign."""
MOST_DOUBTS: Final = 100
"""How many entries wait for a second look at most."""


class PartSnapshot(Struct, frozen=True):
    """What is known of one part, as a value.

    Times, and numbers of attempts, decide only who asks the store next, and when.
    """

    part: str
    open_since_s: float | None
    pending: tuple[tuple[str, int], ...]
    refusals: tuple[FailureKind, ...]
    recovering: Ticket | None
    telling: Ticket | None = None
    has_untold: bool = False
    refused: tuple[tuple[str, Refusal], ...] = ()
    due_s: float | None = None
    tell_due_s: float = 0.0
    turns: tuple[int, int] = (0, 0)
    was_dropped: bool = False
    is_patient: bool = False
    doubts: tuple[tuple[Doubt, Ticket | None], ...] = ()
    foreign: tuple[Doubt, ...] = ()
    patterns: tuple[PatternRequest, ...] = ()
    settled_s: float = 0.0
    is_urgent: bool = False

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """The tickets under which something is being done for the part."""
        at_it = (self.recovering, self.telling, *(looking for _, looking in self.doubts))
        return tuple(ticket for ticket in at_it if ticket is not None)


@attrs.define
class Part:
    """What is known of one part of the store."""

    name: str
    pending: PendingInvalidations
    breaker: Breaker = attrs.field(factory=Breaker)
    refusals: set[FailureKind] = attrs.field(factory=set)
    recovering: Ticket | None = None
    """The ticket of whoever runs its recovery."""
    telling: Ticket | None = None
    """The ticket of whoever tells it what was written in an outage, while the recovery pauses."""
    has_untold: bool = False
    """Whether something was written in this outage that nobody has tried to tell."""
    due_s: float | None = None
    """When the recovery is to ask the store, on the driver's clock; None where there is none."""
    tell_due_s: float = 0.0
    turn: int = 0
    """How many recoveries in a row have failed."""
    tell_turn: int = 0
    was_dropped: bool = False
    """Whether a recovery was given up before it came to anything."""
    doubts: dict[Doubt, Ticket | None] = attrs.field(factory=dict)
    """Entries with another key's check, with the ticket of whoever has a second look."""
    foreign: dict[Doubt, None] = attrs.field(factory=dict)
    """Entries of other keys that are known to be stored there, the newest last."""
    foreign_keys: frozenset[str] = frozenset()
    """The keys under which they are."""
    is_patient: bool = False
    """Whether the recovery only lets time pass: whoever has something to do takes over."""
    patterns: tuple[PatternRequest, ...] = ()
    """What is to be removed by pattern before anything is read."""
    settled_s: float = 0.0
    """Until when reads do without it, as another store answers for it, on the driver's clock; else 0."""
    is_urgent: bool = False
    """Whether a connection has opened since somebody has tried: it is to be told at once."""

    @property
    def needs_recovery(self) -> bool:
        """Whether it is not known to serve, or has not been told of everything."""
        return self.breaker.is_open or len(self.pending) > 0 or bool(self.doubts) or self.is_unsettled

    @property
    def is_unsettled(self) -> bool:
        """Whether another store answers for it than before, and may not have been told of everything."""
        return self.settled_s > 0 or bool(self.patterns)

    def replay(
        self, keys: Sequence[str], patterns: Sequence[PatternRequest], until_s: float, now_s: float
    ) -> None:
        """Another store answers for it: tell it all this, and read nothing before a moment in time."""
        self.settled_s = until_s
        known = {each.pattern for each in self.patterns}
        self.patterns += tuple(each for each in patterns if each.pattern not in known)
        self.pending.add(keys, now_s)

    def settle(self, now_s: float) -> None:
        """Let it be read again, where its moment is over."""
        if 0 < self.settled_s <= now_s:
            self.settled_s = 0.0

    @property
    def is_worth_keeping(self) -> bool:
        """Whether it is not as if nothing had ever happened to it."""
        return (
            self.needs_recovery
            or self.recovering is not None
            or self.telling is not None
            or bool(self.refusals)
            or bool(self.foreign)
            or self.pending.forgotten > 0  # which is said once
        )

    def open(self, kind: FailureKind, now_s: float) -> None:
        """An outage was met."""
        if not self.breaker.is_open:
            self.tell_turn, self.tell_due_s = 0, now_s
        self.breaker = self.breaker.after_failure(kind, now_s)

    def close(self) -> None:
        """It serves again."""
        self.breaker = self.breaker.after_answer()
        self.has_untold = False

    def has(self, ticket: Ticket) -> bool:
        """Whether something is being done for the part under a ticket."""
        return ticket in (self.recovering, self.telling) or ticket in self.doubts.values()

    def drop(self, ticket: Ticket | None) -> None:
        """Whoever has this ticket does nothing for the part any more; of None, nobody does."""
        if self.recovering is not None and ticket in (None, self.recovering):
            self.was_dropped, self.is_patient = True, False
            self.recovering = None
        for doubt, looking in list(self.doubts.items()):
            if looking is not None and ticket in (None, looking):
                self.doubts[doubt] = None
        if self.telling is not None and ticket in (None, self.telling):
            self.has_untold = self.breaker.is_open  # else the recovery tells it
            self.telling = None

    def doubt(self, doubt: Doubt) -> bool:
        """An entry has another key's check: whether that is to be looked at again, and is not yet."""
        if doubt in self.foreign or doubt in self.doubts or len(self.doubts) >= MOST_DOUBTS:
            return False
        self.doubts[doubt] = None
        return True

    def know_foreign(self, doubt: Doubt) -> bool:
        """An entry is foreign; whether nothing else is in doubt."""
        self.foreign[doubt] = None
        if len(self.foreign) > MOST_FOREIGN:
            del self.foreign[next(iter(self.foreign))]
        self.foreign_keys = frozenset(each.key for each in self.foreign)
        self.doubts.pop(doubt, None)
        return not self.doubts

    def begin(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int) -> Recovery | None:
        """What is to be run in the background; None where nothing is, or it is being run."""
        self.settle(now_s)
        if self.is_urgent and self.telling is None:
            self.is_urgent = False
            if self._is_due(now_s):
                self.telling = ticket
                return self._at_once(ticket, timeouts, now_s, seed)
        if (self.recovering is None or self.is_patient) and self._is_due(now_s):
            if self.recovering is None and self._is_neglected(timeouts, now_s):
                return None
            self.recovering, self.is_patient = ticket, False
            return self._recovery(ticket, timeouts, now_s, seed)
        is_to_tell = self.has_untold and self.breaker.is_open and self.telling is None
        if is_to_tell and now_s >= self.tell_due_s:
            self.telling = ticket
            self.has_untold = False
            keys = self.pending.newest(MOST_TOLD)
            step = tell(RecoveryRequest(self.name, tuple(keys), timeouts), now_s)
            return Recovery(ticket, self.name, step, keys, seed)
        if self.settled_s and self.recovering is None:
            return self._let_settle(ticket, now_s, seed)
        return None

    def _at_once(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int) -> Recovery:
        """Tell it something, or ask whether it serves, without a pause."""
        keys = self.pending.newest(MOST_TOLD)
        if not keys and self.patterns and not self.breaker.is_open:
            return self._of_pattern(ticket, timeouts, now_s, seed)
        request = RecoveryRequest(self.name, tuple(keys), timeouts)
        step = tell(request, now_s) if keys else recover_now(request, now_s)
        return Recovery(ticket, self.name, step, keys, seed)

    def _of_pattern(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int) -> Recovery:
        """Remove what matches the first of the patterns."""
        pattern = self.patterns[0]
        request = evolve(pattern, timeouts=timeouts, started_s=now_s)
        return Recovery(ticket, self.name, delete_pattern(request), {}, seed, pattern=pattern)

    def _let_settle(self, ticket: Ticket, now_s: float, seed: int) -> Recovery:
        """Let the moment pass in which nothing is read."""
        self.recovering, self.is_patient = ticket, True
        self.due_s = self.settled_s
        return Recovery(ticket, self.name, rest(max(self.settled_s - now_s, 0.0)), {}, seed)

    def begin_neglected(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int
    ) -> Recovery | None:
        """What a caller is to do by itself: one attempt, which takes no longer than a step of its own."""
        for doubt, looking in self.doubts.items():
            if looking is None:
                self.doubts[doubt] = ticket
                look = look_again(doubt, timeouts.operation_s)
                return Recovery(ticket, self.name, look, {}, seed, is_by_caller=True)
        self.settle(now_s)
        if not (self._is_neglected(timeouts, now_s) and self._is_due(now_s)):
            return None
        self.recovering = ticket
        self.due_s, self.was_dropped = now_s, False
        keys = self.pending.oldest(MOST_TOLD, now_s)
        request = RecoveryRequest(self.name, tuple(keys), timeouts, now_s + timeouts.operation_s)
        return Recovery(ticket, self.name, recover_now(request, now_s), keys, seed, is_by_caller=True)

    def begin_last(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float) -> Recovery | None:
        """What the part is to be told before the end: all that is pending, as far as a step's time goes."""
        keys = self.pending.newest(len(self.pending))
        if not keys:
            return None
        self.recovering = ticket
        request = RecoveryRequest(self.name, tuple(keys), timeouts, now_s + timeouts.operation_s)
        step = tell(request, now_s, MOST_TOLD)
        return Recovery(ticket, self.name, step, keys, is_by_caller=True)

    def after(
        self, recovery: Recovery, outcome: Outcome, timeouts: StoreTimeouts, now_s: float
    ) -> Recovery | None:
        """Take in what came of an attempt: what whoever has made it is to do next."""
        ticket, has_failed, has_told = recovery.ticket, True, False
        if ticket not in (self.recovering, self.telling):
            return None
        self.settle(now_s)
        if isinstance(outcome, PatternRemoved):
            has_failed, has_told = not outcome.complete, True
            if outcome.complete:
                self.patterns = tuple(each for each in self.patterns if each is not recovery.pattern)
        if isinstance(outcome, Recovered):
            has_failed = outcome.failure is not None
            has_told = bool(outcome.told) or not recovery.keys
            self.pending.refuse({key: recovery.keys[key] for key in outcome.refused}, now_s)
            self.pending.forget({key: recovery.keys[key] for key in outcome.told})
        if ticket == self.telling:
            is_anothers = self.breaker.is_open or self.recovering is not None
            if (has_failed and is_anothers) or not self.needs_recovery:
                self._end_telling(now_s)
                return None
            self.recovering, self.telling = ticket, None  # it serves: the rest is told at once
        if self.is_patient:
            self.is_patient = False
        else:
            self.turn = self.turn + 1 if has_failed else 0
        if not self._is_due(now_s):
            return self._rest(recovery, now_s)
        if recovery.is_by_caller:  # the next attempt is another's
            self.recovering = None
            self.was_dropped = True
            self.due_s = now_s + (self._pause_s(recovery.seed) if has_failed else 0.0)
            return None
        return self._recovery(ticket, timeouts, now_s, recovery.seed, goes_on=has_told and not has_failed)

    def _rest(self, recovery: Recovery, now_s: float) -> Recovery | None:
        """Nothing is left to be done at once; what the store refuses is tried again later."""
        if not len(self.pending) or recovery.is_by_caller:
            self.recovering = self.due_s = None
            self.was_dropped = False
            if not self.settled_s or recovery.is_by_caller:
                return None
            return self._let_settle(recovery.ticket, now_s, recovery.seed)
        pause_s = min(max(self.pending.next_due_s - now_s, 0.0), LONGEST_PAUSE_S)
        self.due_s, self.is_patient = now_s + pause_s, True
        return Recovery(recovery.ticket, self.name, rest(pause_s), {}, recovery.seed)

    def _end_telling(self, now_s: float) -> None:
        self.telling = None
        self.tell_due_s = now_s + min(FIRST_PAUSE_S * 2.0 ** min(self.tell_turn, 10), LONGEST_TELL_PAUSE_S)
        self.tell_turn += 1

    def _is_due(self, now_s: float) -> bool:
        """Whether there is something to be asked, or told, that is not to be left alone for some time."""
        return self.breaker.is_open or self.pending.is_due(now_s) or bool(self.patterns)

    def _is_neglected(self, timeouts: StoreTimeouts, now_s: float) -> bool:
        """Whether the recovery is due, and nobody runs it in the background."""
        if self.due_s is None:
            return False
        if self.recovering is None:
            return self.was_dropped and now_s >= self.due_s
        return now_s >= self.due_s + 2 * timeouts.operation_s + NEGLECTED_S

    def _recovery(
        self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float, seed: int, *, goes_on: bool = False
    ) -> Recovery:
        keys = self.pending.oldest(MOST_TOLD, now_s)
        request = RecoveryRequest(self.name, tuple(keys), timeouts)
        if goes_on and not self.breaker.is_open:
            self.due_s = now_s
            if not keys and self.patterns:
                return self._of_pattern(ticket, timeouts, now_s, seed)
            return Recovery(ticket, self.name, tell(request, now_s), keys, seed)
        pause_s = self._pause_s(seed)
        if self.was_dropped and self.due_s is not None:  # what is left of the pause that was given up
            pause_s = max(min(pause_s, self.due_s - now_s), 0.0)
        self.was_dropped = False
        self.due_s = now_s + pause_s
        return Recovery(ticket, self.name, recover(request, pause_s), keys, seed)

    def _pause_s(self, seed: int) -> float:
        pause_s: float = min(FIRST_PAUSE_S * 2.0 ** min(self.turn, 10), LONGEST_PAUSE_S)
        return pause_s * (1 + draw_at(seed, self.turn) / 4)

    # As a value.

    def snapshot(self) -> PartSnapshot:
        """All of it, as a value."""
        return PartSnapshot(
            self.name,
            self.breaker.open_since_s,
            self.pending.snapshot(),
            tuple(sorted(self.refusals)),
            self.recovering,
            self.telling,
            self.has_untold,
            tuple(self.pending.refused.items()),
            self.due_s,
            self.tell_due_s,
            (self.turn, self.tell_turn),
            self.was_dropped,
            self.is_patient,
            tuple(self.doubts.items()),
            tuple(self.foreign),
            self.patterns,
            self.settled_s,
            self.is_urgent,
        )

    def restore(self, snapshot: PartSnapshot) -> None:
        """Become what a snapshot was made of."""
        self.breaker = Breaker(snapshot.open_since_s)
        self.pending.restore(snapshot.pending, dict(snapshot.refused))
        self.refusals = set(snapshot.refusals)
        self.recovering, self.telling = snapshot.recovering, snapshot.telling
        self.has_untold, self.was_dropped = snapshot.has_untold, snapshot.was_dropped
        self.due_s, self.tell_due_s = snapshot.due_s, snapshot.tell_due_s
        self.turn, self.tell_turn = snapshot.turns
        self.is_patient = snapshot.is_patient
        self.patterns, self.settled_s = snapshot.patterns, snapshot.settled_s
        self.is_urgent = snapshot.is_urgent
        self.doubts = dict(snapshot.doubts)
        self.foreign = dict.fromkeys(snapshot.foreign)
        self.foreign_keys = frozenset(each.key for each in self.foreign)
