"""Connections as asyncio and trio share them: the calls on one, their replies and their deadlines.

Nothing here waits, and nothing does I/O: that is what `asyncio.py` and `trio.py` add.

One connection serves all callers. Another is opened where that one is in the middle of something large, so
that small values do not wait for it.

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

Deadlines. There is no timer for each call: one sweeper looks at them all. A call fails when nothing at all
was read for as long as it may take. While replies come in it is merely its turn that has not come, and ten
thousand callers at once are no reason to fail one of them. A connection that was silent since a call that
has failed is given up, and what is pending on it fails as well: its fate is unknown, and the core decides
what to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.connections.redispy import LONGEST_CALL_S, NOT_ENOUGH_DATA, pack, pack_one
from sansio_cache_redis.errors import OwnResetError, as_failure, fresh
from sansio_cache_redis.wire import TIME, Again, Args, tell_time

SWEEP_S: Final = 0.02
BULK_BYTES: Final = 131072
"""A connection with more than this of one reply, or unsent, is passed over for another."""
_FEED_BYTES: Final = 16384
"""What the parser gets at a time: for every reply it moves the whole rest to the front of its buffer."""
_MOST_LATE_LOOKS: Final = 3
_FIRST_CALLS: Final = 24
"""So many calls are worth a write of their own to a server that waits for some."""
_SILENCE_S: Final = 0.1
"""A call may be in a greater hurry than that; for a connection to be given up it must have been as silent."""

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


class MultiplexedConnection(ABC):
    """One open connection and what is pending on it.

    Args:
        parser: Makes replies of what is read.
        write: Writes at once. It is called where nothing else is waiting to be written, or being
            written.
        make_caller: Makes a future.
    """

    def __init__(
        self, parser: Any, write: Callable[[bytes], object], make_caller: Callable[[], Caller]
    ) -> None:
        self.failure: BaseException | None = None
        self._write = write
        self._make_caller = make_caller
        self._feed = parser.feed
        self._gets = parser.gets
        self._has_data = parser.has_data
        # A plain tuple, as there is one for each call: who, how many replies, how to read them, timeout_s,
        # sent_s.
        self._pending: deque[tuple[Caller, int, Read[Any], float, float]] = deque()
        self._replies: list[Any] = []
        """What the first of them has got so far."""
        self._outbox: list[bytes] = []
        self._is_crowded = False
        self.is_free = True
        """Whether it is open, and nothing large is on its way that others would have to wait for."""
        self._is_stuck = False
        self._unfinished_bytes = 0
        self._last_read_s = monotonic()
        self._is_swept = False
        self._late_looks = 0

    def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> Awaitable[R]:
        """Send commands together; the future that is given back gets what `read` makes of the replies.

        Raises:
            Exception: Nothing was sent: the connection is closed, or a command cannot be packed.
        """
        if self.failure is not None:
            raise fresh(self.failure)
        wanted = len(commands)
        data = pack_one(commands[0]) if wanted == 1 else pack(commands)
        caller = self._make_caller()
        pending = self._pending
        is_alone = not (pending or self._is_crowded)
        pending.append((caller, wanted, read, timeout_s, monotonic()))
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
            self._is_swept = True
            self._sweep_soon()
        return caller

    def close(self, failure: BaseException) -> None:
        """Give the connection up. What is pending fails."""
        if self.failure is not None:
            return
        self.failure = failure
        self.is_free = False
        self._disconnect()
        pending = self._pending
        while pending:
            caller, _, read, _, _ = pending.popleft()
            if not caller.done():
                caller.set_result(read(failure))

    # For those who do the I/O.

    def data_received(self, data: bytes | memoryview) -> None:
        """Take in what was read; asyncio's transports call this themselves.

        Replies find their callers. The connection is closed where they do not, as a reply that nobody has
        asked for would be the next caller's.
        """
        self._last_read_s = monotonic()
        count = len(data)
        try:
            for begin in range(0, count, _FEED_BYTES):
                portion_bytes = min(_FEED_BYTES, count - begin)
                self._unfinished_bytes += portion_bytes
                self._feed(data, begin, portion_bytes)
                self._deliver(iter(self._gets, NOT_ENOUGH_DATA))
            if not self._pending and self._has_data():
                raise RedisConnectionError("a reply came that nobody has asked for")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))
        if self._unfinished_bytes > BULK_BYTES or not self.is_free:
            self._weigh()

    def _deliver(self, replies: Iterable[Any]) -> None:
        pending = self._pending
        for reply in replies:
            if self.failure is not None:  # whoever has read the one before has closed the connection
                return
            self._unfinished_bytes = 0
            if not pending:
                raise RedisConnectionError("a reply came that nobody has asked for")
            caller, wanted, read, _, _ = pending[0]
            if wanted == 1:
                mine = [reply]
            else:
                mine = self._replies
                mine.append(reply)
                if len(mine) < wanted:
                    continue
                self._replies = []
            _, _, _, timeout_s, _ = pending.popleft()
            if not caller.done():
                answer = read(mine)
                if isinstance(answer, Again):
                    self._send_again(caller, answer, timeout_s)
                else:
                    caller.set_result(answer)

    def _send_again(self, caller: Caller, again: Again[Any], timeout_s: float) -> None:
        """Send what has to be sent once more; the caller goes on waiting, and its time begins anew."""
        self._pending.append((caller, len(again.commands), again.read, timeout_s, monotonic()))
        self._outbox.append(pack(again.commands))
        self._flush_soon()

    def _get_stuck(self, is_stuck: bool) -> None:
        """Whether there is more to be sent than the peer takes."""
        self._is_stuck = is_stuck
        self._weigh()

    def _weigh(self) -> None:
        is_large = self._is_stuck or self._unfinished_bytes > BULK_BYTES
        self.is_free = self.failure is None and not is_large

    def _outgoing(self) -> bytes:
        """What is to be sent now."""
        outbox, self._outbox = self._outbox, []
        # One alone may be what is left of many.
        self._is_crowded = len(outbox) > 1 or len(self._pending) > _FIRST_CALLS
        return b"".join(outbox)

    def _look(self, due_s: float) -> bool:
        """Fail the calls whose time is over; whether there are any to look at again in `SWEEP_S`."""
        self._is_swept = bool(self._pending)
        if not self._pending:
            return False
        now_s = monotonic()
        # Where the loop was blocked replies may lie there unread: look again, but not for ever.
        is_late = now_s - due_s >= SWEEP_S
        self._late_looks = self._late_looks + 1 if is_late and self._late_looks < _MOST_LATE_LOOKS else 0
        if self._late_looks:
            return True
        overdue = []
        is_silent = False
        for caller, _, read, timeout_s, sent_s in self._pending:
            waited_s = now_s - max(sent_s, self._last_read_s)
            if waited_s < timeout_s and now_s - sent_s < LONGEST_CALL_S:
                continue
            overdue.append((caller, read))
            is_silent = is_silent or (self._last_read_s < sent_s and waited_s >= _SILENCE_S)
        for caller, read in overdue:
            if not caller.done():
                answer = read(RedisTimeoutError("no reply in time"))
                if not caller.done():  # it is still pending, and to read may have closed the connection
                    caller.set_result(answer)
        if is_silent:
            self.close(RedisTimeoutError("the server does not answer"))
        return self.failure is None

    @abstractmethod
    def _flush_soon(self) -> object:
        """Write what is outgoing, at the end of this turn."""

    @abstractmethod
    def _sweep_soon(self) -> object:
        """Look at the calls every `SWEEP_S`, as long as there is something to look at."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, without waiting for the peer."""


C = TypeVar("C", bound=MultiplexedConnection)


class MultiplexedConnections(ABC, Generic[C]):
    """The open connections to one server: a few of them, and mostly one.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        max_connections: How many may be open at once.
        opening_timeout_s: How long a connection may take to open in the background.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        opening_timeout_s: float,
        on_time: Callable[[int], object],
    ) -> None:
        self._open: list[C] = []
        self._make_connection = make_connection
        self._max_connections = max_connections
        self._opening_timeout_s = opening_timeout_s
        self._on_time = on_time
        self._is_closed = False

    def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> Awaitable[R]:
        """Send commands together, and give back what `read` makes of their replies, or of a failure.

        What is given back is awaited once, and at once. A failure is one that `read` is given: whether the
        commands were run is unknown then.

        Raises:
            Exception: Nothing was sent: a command cannot be packed.
        """
        for connection in self._open:
            if connection.is_free:
                return connection.ask(commands, timeout_s, read)
        self._open = list(self)
        if len(self._open) >= self._max_connections:
            return self._open[-1].ask(commands, timeout_s, read)
        return self._ask_on_another(commands, timeout_s, read)

    async def _ask_on_another(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> R:
        started_s = monotonic()
        try:
            connection = await self._opened(timeout_s)
            answer = connection.ask(commands, timeout_s - (monotonic() - started_s), read)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            return read_failure(read, error)
        return await answer

    async def _admit(self, connection: C) -> None:
        """Ask a new connection for the server's time; where it answers, it serves all from then on."""
        replies: Replies = await connection.ask([TIME], self._opening_timeout_s, as_they_are)
        if isinstance(replies, BaseException):
            raise replies
        tell_time(replies[0], self._on_time)
        self._open.append(connection)

    def reset(self) -> None:
        """Close the connections that are open. The next call opens another."""
        connections, self._open = self._open, []
        for connection in connections:
            connection.close(OwnResetError("the connection was closed"))

    def __iter__(self) -> Iterator[C]:
        return iter([connection for connection in self._open if connection.failure is None])

    @abstractmethod
    async def _opened(self, timeout_s: float) -> C:
        """A connection that is opened, for this caller and all that come while it is."""
