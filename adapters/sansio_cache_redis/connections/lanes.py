"""Lanes: one connection of threads each, who drives it, who queues for it, and what is due on it.

Nothing here does I/O or takes a lock: that is what `threads.py` adds.

A call is served when all its replies are there, wherever they came from: a call that had some of them when
its connection was lost asks for the rest on another. All commands are idempotent in effect.

What is due on a connection stands in a queue of its own, in the order in which it was sent; a call that was
given up leaves its place there, so that its replies are dropped when they come, and no others (S9).

*Pace.* A lane measures how long a first reply takes, and how far apart those of a batch are, and sends no
more at once than can be answered in time. So where a server is slow, what fits is served, and what does not
is refused and not served late. Whether a server is slow or only far away is not known from one reply: the
batch that follows is small, and finds out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

import attrs
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.opener import Opening
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.connections.wires import Wire, close_all
from sansio_cache_redis.errors import ERRORS, OverloadedError, fresh

_MOST_COMMANDS: Final = 1000
"""How many commands go into one batch, so that its first caller does not wait for everybody's replies."""
_FEW_COMMANDS: Final = 8
"""The same where the first reply took long, and it is not known why."""
_QUICK_S: Final = 0.003
"""A server that answers within this time is neither slow nor far away."""
_PART_OF_TIME: Final = 0.8
"""A batch may take so much of the time that its calls have, as far as can be told."""
_LATE_S: Final = 0.02
"""Who wakes up so much too late waits so long once more: those who serve were held up as well."""
_FORGOTTEN_S: Final = 0.05
"""How often one who sleeps looks whether it was to be woken: an interrupt may have come in between."""
UPLOAD_BYTES_PER_S: Final = 1_048_576
"""An upload may go on for as long as it is no slower."""
FOREVER_S: Final = float("inf")
_FAR: Final = 2.0
"""A connection may be silent for so many times as long as a first reply usually takes: it may be far away."""
_DEAD: Final = 2.5
"""A connection that has been silent for so many times as long as it may is closed."""


class Call(Struct, eq=False):
    """A batch of one caller. Whoever queues sleeps on `turn`, until it is served or is to drive."""

    commands: Sequence[Args]
    came_s: float
    deadline_s: float
    """When its time is over, on the monotonic clock."""
    limit_s: float
    """When it is over where nothing large is being sent."""
    thread: int
    """The number of the caller's thread."""
    lane: Lane
    replies: list[Any]
    turn: threading.Lock | None = None
    is_sent: bool = False
    """Whether its replies are due on the connection of its lane."""
    is_large: bool = False
    """Whether it is sent by itself, as it carries, or asks for, something large."""
    opening: Opening | None = None
    """The connection that was asked for because of it."""
    gives_back: frozenset[bytes] = frozenset()
    """The nonces of the leases and locks that it gives back."""
    written_from: int = 0
    """How much its wire had taken before it."""
    is_gone: bool = False
    failure: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to be done for it."""
        return len(self.replies) == len(self.commands) or self.failure is not None or self.is_gone

    @property
    def left(self) -> Sequence[Args]:
        """The commands whose replies have not come."""
        return self.commands[len(self.replies) :] if self.replies else self.commands

    def extend(self, wire: Wire) -> None:
        """What the socket takes of something large is a sign of life, and takes its time."""
        self.deadline_s = self.limit_s + (wire.written_bytes - self.written_from) / UPLOAD_BYTES_PER_S

    def sleep(self, now_s: float) -> bool:
        """Sleep until served, or told to drive, or until the time is up. In the caller's thread.

        It looks by itself now and then: whoever was to wake it, or to appoint a driver, may have been
        interrupted before that.

        Returns:
            False where nobody drives: a driver has to be appointed.
        """
        turn = self.turn
        if turn is None:
            return True
        while not turn.acquire(timeout=max(min(self.deadline_s - now_s, _FORGOTTEN_S), 0.0)):
            now_s = monotonic()
            if self.lane.driver is self or self.is_over:
                break
            if now_s >= self.deadline_s:
                if now_s - self.deadline_s > _LATE_S:
                    turn.acquire(timeout=_LATE_S)
                break
            if self.lane.is_free():
                return False
        return True

    def wake(self) -> None:
        """Let the caller go on."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()

    def fail(self, failure: BaseException) -> None:
        """Let the caller go on with a failure."""
        self.failure = failure
        self.wake()

    def result(self, now_s: float) -> list[Any]:
        """The replies, if they have come."""
        if len(self.replies) == len(self.commands):
            return self.replies
        if self.failure is None:
            raise self.lane.too_late(self, now_s)
        raise fresh(self.failure)


class Due(Struct, eq=False):
    """Replies that are due on a connection, and whose they are; nobody's where the call is elsewhere."""

    call: Call | None
    count: int


@attrs.define(eq=False)
class Lane:
    """One connection. Guarded by the lock of all lanes but for what only its driver touches."""

    may_be_silent_s: float
    """How long it may say nothing, while something is due on it, before another is tried."""
    driver: Call | None = None
    since_s: float = 0.0
    """When its driver has begun, on the monotonic clock."""
    queue: deque[Call] = attrs.field(factory=deque)
    wire: Wire | None = None
    generation: int = 0
    is_passing: bool = False
    """Whether it was made for a handler's call, which has found its own thread inside."""
    due: deque[Due] = attrs.field(factory=deque)
    """What was sent and is not answered. The driver's."""
    due_count: int = 0
    alive_s: float = 0.0
    """When it has last shown a sign of life, or was first asked for one."""
    latency_s: float = 0.0
    """How long a first reply has taken the last time."""
    usual_s: float = 0.0
    """How long it takes: that falls at once, and rises by degrees, as it may be this process that is busy."""
    pace_s: float = 0.0
    """How far apart the replies to a batch were of late."""
    part_s: float = 0.0
    """Since when a part of a reply is there, and not the rest; 0 where none is."""
    _paced_s: float = 0.0
    """How long a first reply took when the pace was measured."""
    upload_s: float = 0.0
    """How long what is due may take for being large."""
    _sent_s: float = 0.0
    _sent_count: int = 0
    _first_s: float = 0.0
    _first_count: int = 0

    def is_free(self) -> bool:
        """Whether nobody drives: also where a driver was interrupted before it could hand the lane over."""
        return self.driver is None or self.driver.is_gone

    def learn_from(self, others: Iterable[Lane]) -> None:
        """Begin with what other lanes to the same server know of it."""
        slowest = max(others, key=lambda lane: lane.pace_s)
        self.latency_s, self.usual_s = slowest.latency_s, slowest.usual_s
        self.pace_s = slowest.pace_s
        self._paced_s = slowest._paced_s  # noqa: SLF001 - its own class

    def is_bulky(self) -> bool:
        """Whether something large is on its way, which others would have to wait for."""
        wire = self.wire
        return wire is not None and (wire.unfinished_bytes > BULK_BYTES or wire.is_writing)

    @property
    def load(self) -> int:
        """How much there is to be done; something large is more than anything else."""
        return len(self.queue) + self.due_count + self.is_bulky() * 1_000_000

    @property
    def _silence_s(self) -> float:
        return max(self.may_be_silent_s, _FAR * self.usual_s)

    def silent_at_s(self) -> float:
        """When it will have been silent for so long that another had better be used, if one can be had."""
        return self.alive_s + self._silence_s + self._owed_s()

    def is_silent(self, now_s: float) -> bool:
        """Whether it owes replies, and has said nothing for too long."""
        return bool(self.due) and now_s >= self.silent_at_s()

    def is_dead(self, now_s: float) -> bool:
        """Whether it has been silent for too long to be still there."""
        return bool(self.due) and now_s - self.alive_s >= _DEAD * self._silence_s + self._owed_s()

    def revive(self, now_s: float) -> bool:
        """Take in what is due on a connection that nobody reads from; whether it has shown a sign of life."""
        wire = self.wire
        try:
            while wire is not None and self.due and (replies := wire.read(now_s)):
                self.received(replies, wire.read_s)
        except ERRORS as error:
            close_all([self.drop()[0]])
            let_through(error)
        if self.is_dead(now_s):
            close_all([self.drop()[0]])
        return self.wire is not None and not self.is_silent(now_s)

    def is_stuck(self, now_s: float) -> bool:
        """Whether a reply that nobody waits for any more comes slowly, before those of others."""
        if not (self.due and self.part_s and now_s - self.part_s >= self.may_be_silent_s):
            return False
        call = self.due[0].call
        return call is None or call.is_over

    def carries(self, nonces: frozenset[bytes]) -> bool:
        """Whether something was sent, and is not answered, that holds one of these."""
        calls = [due.call for due in tuple(self.due) if due.call is not None]
        return any(not nonces.isdisjoint(args) for call in calls for args in call.commands)

    def _owed_s(self) -> float:
        """How long a large upload may be on its way to the server once the socket has taken it."""
        return 0.0 if self.wire is None or self.wire.is_writing else self.upload_s

    def has_room(self, call: Call, count: int, now_s: float) -> bool:
        """Whether a call that is sent behind so many commands can be answered in time."""
        left_s = (call.deadline_s - now_s) * (_PART_OF_TIME if count else 1.0)
        return self.usual_s + (count + len(call.commands) - 1) * self.pace_s <= left_s

    def too_late(self, call: Call, now_s: float) -> Exception:
        """What a call fails with whose time is over: whether the server was silent, or only slow.

        Who has waited for others, which were served meanwhile, has met no silence. It is not told by less
        than what ends a connection: this process may be too busy to read what is there.
        """
        wire = self.wire
        has_answered = wire is not None and (
            wire.read_s > call.came_s  # or has taken some of something large
            or (call.is_large and call.is_sent and wire.written_bytes > call.written_from)
        )
        if has_answered and now_s - self.alive_s < _DEAD * self._silence_s:
            return OverloadedError("others are served: there was no time left for this call")
        return RedisTimeoutError("no reply in time")

    def take(self, call: Call, now_s: float) -> list[Call]:
        """Make a batch: the driver's call, and of those that queue the ones that can be answered in time.

        Those who could not be answered in time at all are refused.
        """
        batch = [call]
        count = self.due_count + len(call.commands)
        is_known = self.latency_s <= 2 * self._paced_s + _QUICK_S
        most = _MOST_COMMANDS if is_known else _FEW_COMMANDS
        queue = self.queue
        while queue and not call.is_large:
            other = queue[0]  # it leaves the queue only once it is elsewhere
            if not (other.is_over or other is call):
                if other.is_large or count >= most:
                    break
                if self.has_room(other, count, now_s):
                    batch.append(other)
                    count += len(other.commands)
                elif self.has_room(other, 0, now_s):
                    break
                else:
                    other.fail(OverloadedError("the queue is longer than can be served in time"))
            queue.popleft()
        return batch

    def sent(self, batch: Iterable[Call], now_s: float) -> None:
        """Note that the replies of calls are due."""
        if not self.due:
            self.alive_s = self._sent_s = now_s
            self._sent_count = 0
            self._first_s = 0.0
            self.upload_s = 0.0
        for call in batch:
            count = len(call.commands) - len(call.replies)
            self.due.append(Due(call, count))
            self.due_count += count
            self._sent_count += count
            call.is_sent = True

    def received(self, replies: list[Any], read_s: float) -> None:
        """Hand out what has come in, in the order in which it is due; whoever is served is woken.

        Raises:
            RedisConnectionError: Something came that nobody has asked for.
        """
        due = self.due
        if len(replies) > self.due_count:
            raise RedisConnectionError("a reply came that nobody has asked for")
        self.alive_s = read_s
        if not self._first_s:
            self._first_s = read_s
            self._first_count = len(replies)
            self.latency_s = read_s - self._sent_s
            self.usual_s = min(self.latency_s, 2 * self.usual_s + _QUICK_S)
        first = due[0]
        call = first.call
        if len(due) == 1 and call is not None and len(replies) == len(call.commands):  # nearly always
            call.replies = replies
            call.wake()
            due.clear()
            self.due_count = 0
            replies = []
        for reply in replies:
            first = due[0]
            call = first.call
            self.due_count -= 1
            first.count -= 1
            if call is not None and not call.is_gone:
                call.replies.append(reply)
            if not first.count:
                if call is not None:  # it leaves the queue only once it is woken
                    call.wake()
                due.popleft()
        answered = self._sent_count - self.due_count
        if answered > self._first_count or (answered > 1 and not due):
            self.pace_s = (read_s - self._first_s) / max(answered - self._first_count, 1)
            self._paced_s = self.latency_s

    def leave(self, call: Call, first: int = 0) -> list[Call]:
        """Have others than the caller ask elsewhere: their replies will be dropped. They are given back.

        Args:
            call: The driver's.
            first: How many of those to whom replies are due stay.
        """
        calls = []
        for due in list(self.due)[first:]:
            other = due.call
            if not (other is None or other is call or other.is_over):
                calls.append(other)
                other.is_sent = False
                due.call = None
        return calls

    def appoint(self) -> None:
        """Let the next caller drive, if nobody does: those first whose replies are due."""
        if not self.is_free():
            return
        self.driver = None
        for due in self.due:
            call = due.call
            if call is not None and not call.is_over:
                self._hand_over(call)
                return
        while self.queue and self.driver is None:
            call = self.queue[0]
            if not call.is_over:
                self._hand_over(call)
            self.queue.popleft()

    def _hand_over(self, call: Call) -> None:
        self.driver = call
        self.since_s = monotonic()
        call.wake()

    def take_over(self, calls: Iterable[Call]) -> None:
        """Have calls that are not sent queue here, before all others."""
        for call in reversed(list(calls)):
            call.lane = self
            self.queue.appendleft(call)
        self.appoint()

    def drop(self) -> tuple[Wire | None, list[Call]]:
        """Forget the connection: to be closed by the caller. Also whose replies were still due on it."""
        wire, self.wire = self.wire, None
        calls = [due.call for due in self.due if due.call is not None]
        self.due.clear()
        self.due_count = 0
        self.part_s = 0.0
        for call in calls:
            call.is_sent = False
        return wire, [call for call in calls if not call.is_over]


class Lanes(list[Lane]):
    """The lanes to one server, and the connections that none of them has just now. Guarded by their lock.

    Args:
        count: How many lanes there are, and how many connections there may be.
        may_be_silent_s: As `Lane` has it.
    """

    def __init__(self, count: int, may_be_silent_s: float) -> None:
        super().__init__(Lane(may_be_silent_s) for _ in range(count))
        self.generation = 0
        """Of the connections that are used: a lane gives up one of an older generation when it is free."""
        self._trusted_from = 0
        """Those of an older generation are closed, whatever is found out of them."""
        self._is_doubtful = False
        self._suspects: list[Wire] = []
        """Those on which a reply may have belonged to another key, until that is known."""
        self._spare: list[Wire] = []
        """Those on which it did not. They are used the next time that others are set aside."""

    @property
    def open_count(self) -> int:
        """How many connections are open."""
        return sum(lane.wire is not None for lane in self) + len(self._suspects) + len(self._spare)

    @property
    def room(self) -> int:
        """How many more may be opened."""
        return min(sum(lane.wire is None for lane in self), len(self) - self.open_count)

    def relieve(self, lane: Lane) -> None:
        """Have half of those who queue elsewhere go over to a lane that is new."""
        for other in self:
            if other.queue and not other.is_free():
                calls = list(other.queue)
                half = len(calls) // 2
                other.queue = deque(calls[:half])
                lane.take_over(calls[half:])

    def working(self, now_s: float) -> list[Lane]:
        """Those that have a connection which is not silent."""
        return [lane for lane in self if lane.wire is not None and not lane.is_silent(now_s)]

    def empty(self) -> list[Lane]:
        """Those without a connection."""
        return [lane for lane in self if lane.wire is None]

    def carrier(self, nonces: frozenset[bytes]) -> Lane | None:
        """Where something is pending that holds one of these."""
        return next((lane for lane in self if lane.due and lane.carries(nonces)), None)

    def give(self, lane: Lane, wire: Wire, answered_after_s: float = 0.0) -> None:
        """Let a lane have a connection, which has answered the first command after so many seconds."""
        lane.learn_from(self)
        lane.usual_s = max(lane.usual_s, answered_after_s)
        lane.generation = self.generation
        lane.wire = wire

    def give_spare(self) -> Lane | None:
        """Let a lane that has none have a connection that was found to be in step; which lane."""
        lane = next(iter(self.empty()), None)
        if lane is None or not self._spare:
            return None
        self.give(lane, self._spare.pop())
        return lane

    def reset(self) -> list[Wire | None]:
        """Have all connections given up, now or when their driver is done: those to be closed now."""
        self.generation += 1
        self._trusted_from = self.generation
        wires = [*(lane.drop()[0] for lane in self if lane.is_free()), *self._suspects, *self._spare]
        self._suspects, self._spare = [], []
        return wires

    def set_aside(self) -> list[Lane]:
        """Have no connection used any more, until `take_back`; the lanes that are to part with theirs now."""
        self.generation += 1
        self._is_doubtful = True
        return [lane for lane in self if lane.is_free() and lane.wire is not None]

    def take_back(self) -> None:
        """Those that were set aside are in step."""
        self._is_doubtful = False
        self._spare += self._suspects
        self._suspects = []

    @property
    def may_set_aside(self) -> bool:
        """Whether there is room for another connection then."""
        return self.open_count - len(self._spare) < len(self)

    def part_with(self, lane: Lane) -> tuple[Wire | None, list[Call]]:
        """Take the connection of a lane away, and keep it where it owes nothing.

        Returns:
            It, where it is to be closed, and those who are to ask elsewhere.
        """
        is_in_step = not lane.due and lane.generation >= self._trusted_from
        wire, calls = lane.drop()
        if wire is None or not is_in_step or wire.unfinished_bytes:
            return wire, calls
        (self._suspects if self._is_doubtful else self._spare).append(wire)
        return None, calls
