"""Pace: how fast a connection answers, and whose fault it is where it does not. Pure.

A connection of an event loop is looked at now and then while something is pending on it. What a look has
seen decides three things.

*The clock.* The loop being busy is not the server being slow. The clock that calls are charged with stands
still while much lies there unread. Where a look came late, and a little lay there, it is looked at once more
before anything is given up, but not for ever. Where something was asked, nothing has come, and nothing lies
there, that is the server's, however busy the loop is.

*Silence.* A connection that has said nothing for some time, although it was asked, is given up: for longer,
where it has always taken its time, or has something large to take in first. Bytes that the peer takes are
signs of life.

*Room.* Where calls had to be given up that were sent in time, more was asked than could be answered. From
then on no more may be pending than were answered lately within the time of one call, and a little less; and
then a little more again, for as long as nothing has to be given up.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs
from msgspec import Struct

SWEEP_S: Final = 0.02
"""How often a connection is looked at while something is pending on it, in seconds."""
UNLIMITED: Final = 1 << 62
_MUCH_BYTES: Final = 16384
"""Who has not read so much yet is behind."""
_MOST_LATE_LOOKS: Final = 3
_SLOWER: Final = 3.0
"""A connection may be silent for so many times as long as it was lately, before an answer came."""
_FORGETTING: Final = 0.98
_STALL_S: Final = 0.4
"""A peer that is taking in something large may stand still for so long besides."""
_ROOM: Final = 0.8
_GROWTH: Final = 1.1
_REST: Final = 4.0
"""After so many times as long as a call may take, without anything pending, all is as in the beginning."""


class Seen(Struct, frozen=True):
    """What a look has found.

    Args:
        now_s: When, on the monotonic clock.
        read_s: When something was last read, on the connection's clock.
        unread_bytes: What lies there to be read.
        unsent_bytes: What the peer has not taken yet.
        answered: How many calls were answered so far.
        pending: How many are not.
        is_waiting: Whether one of these has been sent.
    """

    now_s: float
    read_s: float
    unread_bytes: int
    unsent_bytes: int
    answered: int
    pending: int
    is_waiting: bool


@attrs.define
class Pace:
    """What is known of one connection.

    Args:
        silence_s: How long a connection that was asked may say nothing, in seconds.
        call_s: How long a call may take.
    """

    silence_s: float
    call_s: float
    behind_s: float = attrs.field(default=0.0, init=False)
    """How much the connection's clock is behind the monotonic one: the loop's time, not the server's."""
    most_pending: int = attrs.field(default=UNLIMITED, init=False)
    """How many calls may be pending."""
    alive_s: float = attrs.field(default=0.0, init=False)
    """When there was the last sign of life, on the connection's clock."""
    slowest_s: float = attrs.field(default=0.0, init=False)
    """How long it was silent lately, before an answer came."""
    _looked_s: float = attrs.field(default=0.0, init=False)
    _was_waiting: bool = attrs.field(default=False, init=False)
    _had_much: bool = attrs.field(default=False, init=False)
    _late_looks: int = attrs.field(default=0, init=False)
    _quiet_s: float = attrs.field(default=0.0, init=False)
    _unsent_bytes: int = attrs.field(default=0, init=False)
    _answered: deque[tuple[float, int]] = attrs.field(factory=deque, init=False)
    """How many calls were answered by when, as far back as a call may take."""
    _grown_at: int = attrs.field(default=0, init=False)

    def begin(self, now_s: float) -> None:
        """Something is pending from now on: look at it `SWEEP_S` later."""
        if now_s - self._looked_s > _REST * self.call_s:
            self.most_pending = UNLIMITED
        self._looked_s = now_s
        self._was_waiting = self._had_much = False
        self._late_looks = 0
        self._quiet_s = 0.0
        self._answered.clear()

    def look(self, seen: Seen, asked_s: float) -> float:
        """Take in what a look has found.

        Args:
            seen: What it has found.
            asked_s: When the first of what is pending was asked, on the connection's clock.

        Returns:
            The time, on the connection's clock.
        """
        interval_s = seen.now_s - self._looked_s
        has_read = seen.read_s > self._looked_s - self.behind_s
        is_late = interval_s >= 2 * SWEEP_S
        has_much = seen.unread_bytes >= _MUCH_BYTES
        self._late_looks = self._late_looks + 1 if is_late and seen.unread_bytes else 0
        is_silent = self._was_waiting and not (has_read or seen.unread_bytes)
        if not is_silent:
            is_behind = has_much and (self._had_much or is_late)
            if is_behind or (is_late and not self._was_waiting):
                self.behind_s += interval_s
        now_s = seen.now_s - self.behind_s
        if has_read:
            self.slowest_s = max(self.slowest_s * _FORGETTING, self._quiet_s)
        self.alive_s = max(self.alive_s, seen.read_s)
        if seen.unsent_bytes < self._unsent_bytes:
            self.alive_s = now_s
        self._quiet_s = now_s - max(self.alive_s, asked_s)
        self._looked_s = seen.now_s
        self._had_much = has_much
        self._unsent_bytes = seen.unsent_bytes
        self._was_waiting = seen.is_waiting
        self._count(now_s, seen.answered, seen.pending)
        return now_s

    @property
    def is_to_look_again(self) -> bool:
        """Whether the last look came late and replies lay there: they may be those that are overdue."""
        return 0 < self._late_looks <= _MOST_LATE_LOOKS

    def is_dead(self, timeout_s: float, owed_s: float) -> bool:
        """Whether it was silent for too long.

        Args:
            timeout_s: How long the call may take that is to be answered next: who has more time than others
                waits longer.
            owed_s: What large commands may take besides.
        """
        if self._unsent_bytes:  # what the peer does not take, it need not work on
            owed_s = min(owed_s, _STALL_S)
        silence_s = self.silence_s * max(timeout_s / self.call_s, 1.0)
        return self._quiet_s >= max(silence_s, _SLOWER * self.slowest_s) + owed_s

    def gave_up(self) -> None:
        """A call was given up, though others were answered: more is asked than can be."""
        (_, before), (_, answered) = self._answered[0], self._answered[-1]
        self.most_pending = max(int(_ROOM * (answered - before)), 1)
        self._grown_at = answered

    def _count(self, now_s: float, answered: int, pending: int) -> None:
        marks = self._answered
        marks.append((now_s, answered))
        while len(marks) > 2 and marks[1][0] <= now_s - self.call_s:
            marks.popleft()
        if pending > self.most_pending:
            self._grown_at = answered
        elif self.most_pending < UNLIMITED and answered - self._grown_at >= self.most_pending:
            self._grown_at = answered
            self.most_pending = int(self.most_pending * _GROWTH) + 1
