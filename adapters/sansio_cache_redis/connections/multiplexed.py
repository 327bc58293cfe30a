"""A connection as asyncio and trio share it: the calls on it, their replies and their deadlines.

Nothing here waits, and nothing does I/O: that is what `asyncio.py` and `trio.py` add. `pool.py` has several.

Answers. A caller says how its replies are to be read (`Read`). They are read where they come in, so that no
task and no coroutine stands between the socket and the caller, and not at all where the caller has gone. A
failure is read in the same way: it comes in the place of the replies, and nothing is raised. What reads may
close the connection, in the middle of all this.

Commands. A lone call is written at once. What is called while replies are on their way is collected, and
goes out in one write at the end of the turn; and where the last write was of many, the next one is waited for
as well. So one caller waits for no turn of the loop, which beside other work costs milliseconds, and many
share the price of a system call. Where the server has nothing else to do, it gets the first of many at once.

Replies come in the order of the commands, so the calls that wait are a queue, and only its head can have got
some of its replies and not all. A caller that was cancelled stays in the queue until its replies are read and
dropped: replies never get out of step (S9). A reply that nobody has asked for ends the connection, and so
does a part of one.

Deadlines. There is no timer for each call: one sweeper looks at them all. A call fails when its time is over,
whatever the connection does meanwhile; the wait for its turn counts (L5). Only time that was the loop's and
not the server's does not: `pace.py` keeps the clock. What is large may take longer to go out: a second for
each mebibyte. A connection that is silent is given up, and what is pending on it fails as well: its fate is
unknown, and the core decides what to do. One that answers others is slow, and not silent: who fails there has
asked for more than can be answered, and nobody else fails for it.

In the way. What is large, or comes slowly, is no reason to wait for others: they are sent again over another
connection as soon as there is one, as all commands may be repeated. So are the commands of all where the
connection is closed for the sake of one of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.pace import UNLIMITED, Pace, Seen
from sansio_cache_redis.connections.redispy import NOT_ENOUGH_DATA, pack
from sansio_cache_redis.connections.unfinished import BULK_BYTES, UnfinishedReply
from sansio_cache_redis.errors import OverloadedError, OwnResetError, TooLargeError, as_failure, fresh
from sansio_cache_redis.reading import Again

UPLOAD_BYTES_PER_S: Final = 1048576
"""What is large may take as long as this takes to send it, besides the time of every call."""
_FEED_BYTES: Final = 16384
"""What the parser gets at a time: for every reply it moves the whole rest to the front of its buffer."""
_FIRST_CALLS: Final = 24
"""So many calls are worth a write of their own to a server that waits for some."""

R = TypeVar("R")

Read = Callable[[list[Any] | BaseException], R | Again[R]]
"""Makes what the caller gets of its replies, or of the failure that came in their place. It never raises.

Of replies, and not of a failure, it may make what has to be sent once more.
"""


def read_failure(read: Read[R], failure: BaseException) -> R:
    """What the caller gets of a failure: that is an answer, and never asks for more."""
    answer = read(failure)
    assert not isinstance(answer, Again)
    return answer


Replies = list[Any] | BaseException


def _read_on(read: Read[R], got: list[Any], rest: Replies) -> R | Again[R]:
    """Read replies of which the first ones had come before."""
    return read(rest if isinstance(rest, BaseException) else [*got, *rest])


def as_they_are(replies: Replies) -> Replies | Again[Replies]:
    """The replies themselves, or the failure."""
    return replies


class Caller(Protocol):
    """Who waits for an answer: a future, or what stands for one."""

    def done(self) -> bool:
        """Whether it waits no more."""
        ...

    def set_result(self, result: Any, /) -> object:
        """Hand it its answer."""
        ...

    def __await__(self) -> Generator[Any, Any, Any]: ...


class _Gone:
    """In the place of a caller that waits elsewhere, or not any more."""

    def done(self) -> bool:
        """Whether it waits no more."""
        return True

    def set_result(self, _: Any, /) -> object:
        """Nobody is there to be handed anything."""
        raise AssertionError

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError


_GONE: Final = _Gone()


class Gathering:
    """Who waits for answers on several connections, maybe to several servers: until all of them are there.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.left = count
        """How many have not come."""
        self.caller: Caller | None = None
        """Who waits, once there is somebody, and something to wait for."""

    def part(self, place: int) -> Caller:
        """Who is handed the answer of a place."""
        return _Part(self, place)

    def take(self, place: int, answer: Any) -> None:
        """An answer has come."""
        self.answers[place] = answer
        self.left -= 1
        if not (self.left or self.caller is None or self.caller.done()):
            self.caller.set_result(self.answers)


class _Part:
    """In the place of a caller that waits for other answers as well."""

    def __init__(self, gathering: Gathering, place: int) -> None:
        self._gathering = gathering
        self._place = place

    def done(self) -> bool:
        """Whether it waits no more."""
        caller = self._gathering.caller
        return caller is not None and caller.done()

    def set_result(self, result: Any, /) -> None:
        """Hand it one of its answers."""
        self._gathering.take(self._place, result)

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError


Pending = tuple[Caller, int, Read[Any], float, float, Sequence[Args], int]
"""Who, how many replies, how to read them, timeout_s, when it was asked on the connection's clock, what, and
how many bytes that is.

A plain tuple, as there is one for each call.
"""


class Homeless(Struct, frozen=True):
    """A call that is to be sent over another connection, with what is left of its time."""

    caller: Caller
    commands: Sequence[Args]
    read: Read[Any]
    timeout_s: float

    def fail(self, failure: BaseException) -> None:
        """It is not to be sent any more."""
        if not self.caller.done():
            self.caller.set_result(read_failure(self.read, failure))


class Owner(Protocol):
    """Who has several connections."""

    def closed(self, connection: Any) -> None:
        """A connection was closed, whoever did it."""
        ...

    def relieve(self, connection: Any) -> None:
        """A connection has something in the way of others: they had better ask elsewhere."""
        ...

    def has_read_since(self, then_s: float) -> bool:
        """Whether something was read on any connection since then, on the monotonic clock."""
        ...

    def pass_over(self, connection: Any, commands: Sequence[Args]) -> None:
        """A connection is in the middle of a value that is not read: it is of no more use."""
        ...

    def give_up(self, connection: Any, too_large: Sequence[Args] | None) -> None:
        """A connection takes too long; where that is for a large value, that is what was asked for."""
        ...


def seconds_to_send(size_bytes: int) -> float:
    """How long a command may take besides the time of every call, as it is large."""
    return size_bytes / UPLOAD_BYTES_PER_S if size_bytes > BULK_BYTES else 0.0


class MultiplexedConnection(ABC):
    """One open connection and what is pending on it.

    Args:
        parser: Makes replies of what is read.
        write: Writes at once. It is called where nothing else is waiting to be written, or being
            written.
        make_caller: Makes a future.
        pace: How fast it may be expected to answer.
        longest_value_bytes: A reply that announces a longer value is not read on: `TooLargeError` stands in
            its place.
    """

    def __init__(
        self,
        parser: Any,
        write: Callable[[bytes], object],
        make_caller: Callable[[], Caller],
        pace: Pace,
        longest_value_bytes: int,
    ) -> None:
        self.failure: BaseException | None = None
        self.owner: Owner | None = None
        self._write = write
        self._make_caller = make_caller
        self._feed = parser.feed
        self._gets = parser.gets
        self._has_data = parser.has_data
        self._unfinished = UnfinishedReply(parser.len, longest_value_bytes)
        self._is_unfinished = False
        self._pending: deque[Pending] = deque()
        self._replies: list[Any] = []
        """What the first of them has got so far."""
        self._outbox: list[bytes] = []
        self._is_crowded = False
        self.is_free = True
        """Whether it is open, and nothing is pending on it that others would have to wait for too long."""
        self._is_stuck = False
        self._is_slow = False
        self._is_uploading = False
        self._unfinished_bytes = 0
        self._pace = pace
        self._behind_s = 0.0
        self.most_pending = UNLIMITED
        """How many calls may be pending."""
        self._answered = 0
        self._last_read_s = monotonic()
        """On the connection's clock."""
        self._is_swept = False

    def ask(
        self,
        commands: Sequence[Args],
        timeout_s: float,
        read: Read[R],
        packed: bytes | None = None,
        caller: Caller | None = None,
    ) -> Awaitable[R]:
        """Send commands together; the future that is given back gets what `read` makes of the replies.

        Args:
            commands: What to send.
            timeout_s: How long that may take, the wait for its turn included.
            read: Makes what the caller gets of the replies.
            packed: The commands as they go over the wire, where they are packed already.
            caller: Who gets it, where there is somebody.

        Raises:
            Exception: Nothing was sent: the connection is closed, or a command cannot be packed.
        """
        if self.failure is not None:
            raise fresh(self.failure)
        wanted = len(commands)
        data = pack(commands) if packed is None else packed
        caller = caller or self._make_caller()
        pending = self._pending
        is_alone = not (pending or self._is_crowded)
        size_bytes = len(data)
        pending.append((caller, wanted, read, timeout_s, monotonic() - self._behind_s, commands, size_bytes))
        if is_alone:
            self._write(data)
        elif self._outbox:
            self._outbox.append(data)
            if len(pending) == _FIRST_CALLS == len(self._outbox):  # none of them has been sent
                self._write(self._outgoing())
        else:
            self._outbox.append(data)
            self._flush_soon()
        if not self._is_swept:
            self._begin_sweeping()
        if size_bytes > BULK_BYTES or len(pending) >= self.most_pending:
            self._is_uploading = self._is_uploading or size_bytes > BULK_BYTES
            self.is_free = False
        return caller

    def take(self, homeless: Homeless) -> None:
        """Send what was asked elsewhere."""
        if self.failure is None:
            self._append(homeless.caller, homeless.commands, homeless.read, homeless.timeout_s)
        else:
            homeless.fail(self.failure)

    def send(self, commands: Sequence[Args], timeout_s: float) -> None:
        """Send commands behind all others. Nobody waits for the replies."""
        if self.failure is None:
            self._append(_GONE, commands, as_they_are, timeout_s)

    def carries(self, nonces: frozenset[bytes]) -> bool:
        """Whether something is pending that holds one of these."""
        return any(not nonces.isdisjoint(args) for pending in self._pending for args in pending[5])

    def close(self, failure: BaseException) -> None:
        """Give the connection up. What is pending fails."""
        if self.failure is not None:
            return
        self.failure = failure
        self.is_free = False
        self._disconnect()
        if self.owner is not None:
            self.owner.closed(self)
        pending = self._pending
        while pending:
            caller, _, read, *_ = pending.popleft()
            if not caller.done():
                caller.set_result(read(failure))

    def expect(self, answered_after_s: float, most_pending: int) -> None:
        """It has answered the first command after so many seconds, and others can have so many pending."""
        self._pace.slowest_s = answered_after_s
        self._pace.most_pending = self.most_pending = most_pending

    @property
    def is_overfull(self) -> bool:
        """Whether more is pending than can be answered in time."""
        return len(self._pending) >= self.most_pending

    @property
    def read_s(self) -> float:
        """When something was last read, on the monotonic clock."""
        return self._last_read_s + self._behind_s

    @property
    def load(self) -> int:
        """How many calls are pending."""
        return len(self._pending)

    def hand_over(self, *, first: bool, begun: bool = False) -> list[Homeless]:
        """What is to be sent elsewhere: all that is waited for.

        Args:
            first: Whether the first of it as well.
            begun: Whether the replies are to be kept that the first has got already.
        """
        handed = []
        got = self._replies if begun else []
        self._replies = [] if first else self._replies
        now_s = monotonic() - self._behind_s
        for place, (caller, wanted, read, timeout_s, asked_s, commands, size) in enumerate(self._pending):
            if caller.done() or not (place or first):
                continue
            self._pending[place] = (_GONE, wanted, read, timeout_s, asked_s, commands, size)
            if got and not place:
                commands, read = commands[len(got) :], partial(_read_on, read, got)
            handed.append(Homeless(caller, commands, read, timeout_s - (now_s - asked_s)))
        return handed

    # For those who do the I/O.

    def data_received(self, data: bytes | memoryview) -> None:
        """Take in what was read; asyncio's transports call this themselves.

        Replies find their callers. The connection is closed where they do not, as a reply that nobody has
        asked for would be the next caller's.
        """
        self._last_read_s = monotonic() - self._behind_s
        count = len(data)
        try:
            for begin in range(0, count, _FEED_BYTES):
                portion_bytes = min(_FEED_BYTES, count - begin)
                self._unfinished_bytes += portion_bytes
                self._feed(data, begin, portion_bytes)
                self._answered += self._deliver(iter(self._gets, NOT_ENOUGH_DATA))
            if self._has_data():
                if not self._pending:
                    raise RedisConnectionError("a reply came that nobody has asked for")  # noqa: TRY301
                self._is_unfinished = True
                if self._unfinished.is_too_long(data):
                    self._pass_over()
            elif self._is_unfinished:
                self._is_unfinished = False
                self._unfinished.begin()
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        if self._unfinished_bytes > BULK_BYTES or not self.is_free:
            self._weigh()

    def _deliver(self, replies: Iterable[Any]) -> int:
        """Hand replies to their callers; how many calls that has answered."""
        pending = self._pending
        answered = 0
        for reply in replies:
            if self.failure is not None:  # whoever has read the one before has closed the connection
                break
            self._unfinished_bytes = 0
            if not pending:
                raise RedisConnectionError("a reply came that nobody has asked for")
            caller, wanted, read, timeout_s, asked_s, _, size_bytes = pending[0]
            if wanted == 1:
                mine = [reply]
            else:
                mine = self._replies
                mine.append(reply)
                if len(mine) < wanted:
                    continue
                self._replies = []
            pending.popleft()
            answered += 1
            if not caller.done():
                answer = read(mine)
                if isinstance(answer, Again):  # it goes on waiting, in what is left of its time
                    waited_s = monotonic() - self._behind_s - asked_s - seconds_to_send(size_bytes)
                    left_s = timeout_s - max(waited_s, 0.0)
                    self._append(caller, answer.commands, answer.read, left_s)
                else:
                    caller.set_result(answer)
        return answered

    def _pass_over(self) -> None:
        """Do without a value that is too large to be read, at the cost of the connection."""
        commands = self._pending[0][5]
        self._deliver([TooLargeError("the value is larger than a value may be")])
        if self.owner is None:
            self.close(OwnResetError("a value is larger than a value may be"))
        else:
            self.owner.pass_over(self, commands)

    def _append(self, caller: Caller, commands: Sequence[Args], read: Read[Any], timeout_s: float) -> None:
        now_s, data = monotonic() - self._behind_s, pack(commands)
        self._pending.append((caller, len(commands), read, timeout_s, now_s, commands, len(data)))
        self._outbox.append(data)
        self._flush_soon()
        if not self._is_swept:
            self._begin_sweeping()
        if len(data) > BULK_BYTES:
            self._is_uploading = True
            self.is_free = False

    def _get_stuck(self, is_stuck: bool) -> None:
        """Whether there is more to be sent than the peer takes."""
        self._is_stuck = is_stuck
        self._weigh()

    def _weigh(self) -> None:
        if self._is_uploading:
            self._is_uploading = any(size_bytes > BULK_BYTES for *_, size_bytes in self._pending)
        self.is_free = self.failure is None and not (self.is_in_the_way or self.is_overfull)

    @property
    def is_in_the_way(self) -> bool:
        """Whether something is large, or slow, before the replies of others."""
        is_large = self._is_stuck or self._is_uploading or self._unfinished_bytes > BULK_BYTES
        return is_large or self._is_slow

    def _outgoing(self) -> bytes:
        """What is to be sent now."""
        outbox, self._outbox = self._outbox, []
        # One alone may be what is left of many.
        self._is_crowded = len(outbox) > 1 or len(self._pending) > _FIRST_CALLS
        return b"".join(outbox)

    def _begin_sweeping(self) -> None:
        self._is_swept = True
        self._pace.begin(monotonic())
        self._sweep_soon()

    def _look(self) -> bool:
        """Fail the calls whose time is over; whether there are any to look at again in `SWEEP_S`."""
        pending, pace = self._pending, self._pace
        self._is_swept = bool(pending)
        if not pending:
            return False
        seen = Seen(
            now_s=monotonic(),
            read_s=self._last_read_s,
            unread_bytes=self._unread_bytes(),
            unsent_bytes=self._unsent_bytes() if self._is_uploading or self._is_stuck else 0,
            answered=self._answered,
            pending=len(pending),
            is_waiting=len(pending) > len(self._outbox),
        )
        now_s = pace.look(seen, pending[0][4])
        self._behind_s = pace.behind_s
        if pace.is_to_look_again:
            return True
        self._fail_overdue(now_s)
        owed_s = sum(seconds_to_send(each[6]) for each in pending) if self._is_uploading else 0.0
        if self.failure is None and pace.is_dead(pending[0][3], owed_s):
            if self._is_server_answering(seen.now_s - pace.silence_s):
                assert self.owner is not None
                self.owner.give_up(self, None)
            else:
                self.close(RedisTimeoutError("the server does not answer"))
        if self.failure is None:
            self._make_way(now_s)
        return self.failure is None

    def _is_server_answering(self, then_s: float) -> bool:
        """Whether the server has answered since then, over another connection."""
        return self.owner is not None and self.owner.has_read_since(then_s)

    def _fail_overdue(self, now_s: float) -> None:
        overdue = []
        silence_s = self._pace.silence_s
        for place, (caller, wanted, read, timeout_s, asked_s, commands, size) in enumerate(self._pending):
            if now_s - asked_s < timeout_s or caller.done():
                continue
            if size > BULK_BYTES and now_s - asked_s < timeout_s + seconds_to_send(size):
                continue
            # Who had less time than that, as it was asked elsewhere before, is no witness of silence.
            since_s = asked_s if timeout_s >= silence_s else min(asked_s, now_s - silence_s)
            overdue.append((caller, read, asked_s, since_s))
            self._pending[place] = (_GONE, wanted, read, timeout_s, asked_s, commands, size)
        is_slow = False
        for caller, read, asked_s, since_s in overdue:
            failure: BaseException = RedisTimeoutError("no reply in time")
            if self._pace.alive_s >= since_s or self._is_server_answering(since_s + self._behind_s):
                is_slow = is_slow or self._pace.alive_s >= asked_s
                failure = OverloadedError("others were answered, and not all can be in time")
            if not caller.done():
                caller.set_result(read(failure))
        if is_slow and not self.is_in_the_way:
            self._pace.gave_up()
        self.most_pending = self._pace.most_pending

    def _make_way(self, now_s: float) -> None:
        """Let others ask elsewhere where something large, or slow, is before them; in the end, all."""
        caller, _, _, timeout_s, asked_s, commands, _ = self._pending[0]
        is_part, waited_s = self._has_data(), now_s - asked_s
        self._is_slow = is_part and waited_s >= min(timeout_s / 2, self._pace.silence_s)
        self._weigh()
        if not self.is_in_the_way or self.owner is None:
            return
        if is_part and caller.done() and waited_s >= timeout_s:
            self.owner.give_up(self, commands if self._unfinished_bytes > BULK_BYTES else None)
        elif len(self._pending) > 1:
            self.owner.relieve(self)

    def _unread_bytes(self) -> int:
        """How much lies there to be read; 0 where that cannot be known."""
        return 0

    def _unsent_bytes(self) -> int:
        """How much the peer has not taken yet; 0 where that cannot be known."""
        return 0

    @abstractmethod
    def _flush_soon(self) -> object:
        """Write what is outgoing, at the end of this turn."""

    @abstractmethod
    def _sweep_soon(self) -> object:
        """Look at the calls every `SWEEP_S`, as long as there is something to look at."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, without waiting for the peer."""
