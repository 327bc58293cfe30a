"""Several connections of one event loop to one server, as asyncio and trio share them. No I/O.

One connection serves all callers. Another is opened where that one is in the middle of something large or
slow, or has more to do than it can in time. Until it is there, or where it is not to be had, the first goes
on serving all: what waits there behind something large is sent again over the other one once that is open.
What is large goes out over another connection than the first, where there may be another.

A caller never opens a connection, and waits for one no longer than for anything else; it goes on being opened
in the background. One that could not be opened, or that was lost soon after, is followed by a pause, which
doubles. A call that no connection can serve in time is refused at once, and no connection is closed for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct, structs

from sansio_cache.backoff import Connecting
from sansio_cache_redis.calls import Args, is_confirmed, nonces_given_back
from sansio_cache_redis.connections.confirming_anyio import LoopConfirming
from sansio_cache_redis.connections.large import REST_S, LargeValues
from sansio_cache_redis.connections.multiplexed import (
    Caller,
    Gathering,
    Homeless,
    MultiplexedConnection,
    R,
    Read,
    Replies,
    as_they_are,
    read_failure,
)
from sansio_cache_redis.connections.pace import UNLIMITED, Pace
from sansio_cache_redis.connections.redispy import pack, pack_one
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import OverloadedError, OwnResetError
from sansio_cache_redis.facts import GREETING
from sansio_cache_runtime.entropy import ENTROPY

_LANE_S: Final = 0.05
"""How long what is large waits for a connection of its own, where another is open."""
C = TypeVar("C", bound=MultiplexedConnection)


class Timing(Struct, frozen=True, kw_only=True):
    """How long connections may take, in seconds.

    Args:
        opening_s: To open, in the background.
        call_s: For a call, as long as nothing large has to be sent.
        silence_s: To say anything at all, where something was asked.
    """

    opening_s: float
    call_s: float
    silence_s: float

    def pace(self) -> Pace:
        """What a new connection is expected to keep."""
        return Pace(self.silence_s, self.call_s)


class MultiplexedConnections(ABC, Generic[C]):
    """The open connections to one server: a few of them, and mostly one.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        max_connections: How many may be open at once.
        timing: How long they may take.
        on_greeted: Told the replies to the `GREETING` when a connection opens. It raises where that is not
            to be used.
        longest_value_bytes: A reply that announces a longer value is not read on: `TooLargeError` stands in
            its place.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        timing: Timing,
        on_greeted: Callable[[Sequence[Any]], object],
        longest_value_bytes: int = 1 << 30,
    ) -> None:
        self._open: list[C] = []
        self._make_connection = make_connection
        self._max_connections = max_connections
        self._timing = timing
        self._on_greeted = on_greeted
        self._longest_value_bytes = longest_value_bytes
        self._large = LargeValues()
        """Those that were not read."""
        self._is_choosy = False
        """Whether it may matter which connection a call goes over."""
        self.confirming: LoopConfirming | None = None
        """Where commands go that end with WAIT."""
        self._is_closed = False
        self._generation = 0
        """How often the server was another one."""
        self._connecting = Connecting()
        self._opened_s: dict[C, float] = {}
        self._aside: list[C] = []
        """Those on which a reply may have belonged to another key, until that is known."""
        self._spare: list[C] = []
        """Those on which it did not. They are used the next time that others are set aside."""

    def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> Awaitable[R]:
        """Send commands together, and give back what `read` makes of their replies, or of a failure.

        What is given back is awaited once, and at once. A failure is one that `read` is given: whether the
        commands were run is unknown then.

        Raises:
            Exception: Nothing was sent: a command cannot be packed, or there is no time left to answer it.
        """
        if len(commands) == 1:
            data = pack_one(commands[0])
        elif self.confirming is not None and is_confirmed(commands):
            return self.confirming.ask(commands, timeout_s, read)
        else:
            data = pack(commands)
        if len(data) <= BULK_BYTES and not (self._is_choosy and self._has_its_place(commands)):
            for connection in self._open:
                if connection.is_free:
                    return connection.ask(commands, timeout_s, read, data)
        return self._ask_aside(commands, timeout_s, read, data)

    def ask_for(self, caller: Caller, commands: Sequence[Args], timeout_s: float, read: Read[Any]) -> None:
        """The same for who waits for other answers as well: it is handed what comes of it, maybe at once."""
        try:
            if self.confirming is not None and is_confirmed(commands):
                ask = partial(self.confirming.ask, commands, timeout_s, read, caller)
                self._start(self._hand(caller, ask, read))
                return
            data = pack(commands)
            if len(data) <= BULK_BYTES and not (self._is_choosy and self._has_its_place(commands)):
                for connection in self._open:
                    if connection.is_free:
                        # By its name: one that waits by itself is not what is wanted.
                        MultiplexedConnection.ask(connection, commands, timeout_s, read, data, caller)
                        return
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            caller.set_result(read_failure(read, error))
            return
        self._start(self._hand(caller, partial(self._ask_aside, commands, timeout_s, read, data), read))

    @property
    def _confirming_count(self) -> int:
        return 0 if self.confirming is None else self.confirming.count

    def _close(self) -> None:
        """Close what is open; those that are being opened end by themselves."""
        if self.confirming is not None:
            self.confirming.close()
        for connection in self._all():
            connection.close(OwnResetError("the cache was closed"))

    async def _hand(self, caller: Caller, ask: Callable[[], Awaitable[Any]], read: Read[Any]) -> None:
        """Ask, and hand a caller what comes of it."""
        try:
            answer = await ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            answer = read_failure(read, error)
        if not caller.done():
            caller.set_result(answer)

    @abstractmethod
    async def wait_for(self, gathering: Gathering) -> list[Any]:
        """Wait for what was asked for; the answers, in their places."""

    def _ask_aside(
        self, commands: Sequence[Args], timeout_s: float, read: Read[R], data: bytes
    ) -> Awaitable[R]:
        """Ask where the first connection that is free is not to be had, or is to be left to others."""
        self._open = connections = list(self)
        carriers = self._carriers(commands)
        if carriers:
            return self._ask_behind(carriers, commands, timeout_s, read, data)
        is_large = len(data) > BULK_BYTES or self._large.knows(commands)
        is_giant = is_large and commands[0][0] == b"GET"
        self._large.refuse_resting(commands, monotonic())
        if not connections or (is_large and len(connections) == 1 and self._has_room):
            return self._ask_on_another(commands, timeout_s, read, data, is_giant)
        others = connections[1:] if is_large and len(connections) > 1 else connections
        free = [each for each in others if each.is_free]
        if not free and self._has_room:
            self._open_soon()
        fit = free or [each for each in others if not each.is_overfull]
        if not fit:
            raise OverloadedError("more is asked than can be answered in time")
        return min(fit, key=lambda each: each.load).ask(commands, timeout_s, read, data)

    def _has_its_place(self, commands: Sequence[Args]) -> bool:
        """Whether a call does not simply go over the first connection that is free."""
        return self._large.knows(commands) or bool(self._carriers(commands))

    def _carriers(self, commands: Sequence[Args]) -> list[C]:
        """Where something is pending that a call takes back: it must not overtake it."""
        nonces = nonces_given_back(commands)
        return [each for each in self._all() if each.carries(nonces)] if nonces else []

    def _ask_behind(
        self, carriers: list[C], commands: Sequence[Args], timeout_s: float, read: Read[R], data: bytes
    ) -> Awaitable[R]:
        """Ask where something is pending that is taken back, wherever it was sent."""
        last = next((each for each in reversed(carriers) if each in self._open), None)
        for each in carriers:
            if each is not last:
                each.send(commands, timeout_s)
        if last is None:  # their replies are not to be trusted just now
            last = next(iter(self), None)
        if last is None:
            return self._ask_on_another(commands, timeout_s, read, data, is_giant=False)
        return last.ask(commands, timeout_s, read, data)

    async def _ask_on_another(
        self, commands: Sequence[Args], timeout_s: float, read: Read[R], data: bytes, is_giant: bool
    ) -> R:
        started_s = monotonic()
        try:
            try:
                may_share = list(self) and not is_giant
                connection = await self._opened(min(timeout_s, _LANE_S) if may_share else timeout_s)
            except Exception:
                connections = list(self)
                if is_giant or not connections:
                    raise
                connection = connections[0]  # it serves all where there is no other
            left_s = timeout_s - (monotonic() - started_s)
            answer = connection.ask(commands, left_s, read, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            return read_failure(read, error)
        return await answer

    async def _admit(self, connection: C, generation: int) -> None:
        """Ask on a new connection who is there; where that answers, it serves all from then on.

        Raises:
            OwnResetError: The server is another one by now than as it began to be opened.
        """
        started_s = monotonic()
        replies: Replies = await connection.ask(GREETING, self._timing.opening_s, as_they_are)
        if isinstance(replies, BaseException):
            raise replies
        if generation != self._generation:  # its cancellation comes too late, or was lost
            raise OwnResetError("the connection leads to where the server was")
        self._on_greeted(replies)
        now_s = monotonic()
        # It is the same server, which is not asked for more only because it is asked in another way.
        most_pending = min((each.most_pending for each in self), default=UNLIMITED)
        connection.expect(now_s - started_s, most_pending)
        self._use(connection, now_s)

    def _use(self, connection: C, opened_s: float) -> None:
        """Let a connection serve all from now on."""
        connection.owner = self
        self._opened_s[connection] = opened_s
        self._open.append(connection)
        self._look_at_choice()
        for other in list(self):
            self.relieve(other)

    def move(self) -> None:
        """The server is another one: give up all that leads to the one before, and open a connection."""
        self._generation += 1
        self._forsake_openings()
        self.reset()
        self._open_soon()

    def reset(self) -> None:
        """Close the connections that are open. What others have asked on them is asked again on another."""
        if self.confirming is not None:
            self.confirming.reset()
        self._close_for_others(self._all(), "the connection was closed")

    def set_aside(self) -> None:
        """Ask nothing on the connections that are open until `take_back`: their replies may be others'.

        What is asked on them is asked again on another, and their replies are dropped. Where there is no room
        for another, they are closed.
        """
        suspects = list(self)
        if len(suspects) + len(self._aside) >= self._max_connections:
            self.reset()
            return
        everybody = [homeless for each in suspects for homeless in each.hand_over(first=True)]
        self._aside += suspects
        # What has got all replies that it was to get, and no more, is in step.
        self._open = [each for each in self._spare if not each.load]
        self._spare = [each for each in self._spare if each.load]
        self._look_at_choice()
        self._ask_again(everybody)

    def take_back(self) -> None:
        """The replies on the connections that are set aside were those that were asked for."""
        self._spare += self._aside
        self._aside = []

    def _all(self) -> list[C]:
        """The connections that are open, used or not."""
        return [each for each in (*self._open, *self._aside, *self._spare) if each.failure is None]

    def __iter__(self) -> Iterator[C]:
        return iter([connection for connection in self._open if connection.failure is None])

    # What connections tell.

    def closed(self, connection: C) -> None:
        """A connection was closed, whoever did it."""
        for connections in (self._open, self._aside, self._spare):
            if connection in connections:
                connections.remove(connection)
        self._look_at_choice()
        opened_s = self._opened_s.pop(connection, 0.0)
        self._connecting.closed(opened_s, monotonic(), ENTROPY.random())

    def relieve(self, connection: C) -> None:
        """A connection has something in the way of others: they ask elsewhere, where they can."""
        if not connection.is_in_the_way:  # where there is only much to do, it would be twice as much
            return
        free = [each for each in self._open if each.is_free]
        if free:
            for homeless in connection.hand_over(first=False):
                free[0].take(homeless)
        elif self._has_room:
            self._open_soon()

    def has_read_since(self, then_s: float) -> bool:
        """Whether something was read on any connection since then, on the monotonic clock."""
        return any(each.read_s > then_s for each in self)

    def pass_over(self, connection: C, commands: Sequence[Args]) -> None:
        """A connection is in the middle of a value that is not read: it is of no more use."""
        self._remember(commands, 0.0)
        self._close_for_others([connection], "a value is larger than a value may be", begun=True)

    def give_up(self, connection: C, too_large: Sequence[Args] | None) -> None:
        """A connection takes too long; where that is for a large value, that is what was asked for."""
        if too_large is not None:
            self._remember(too_large, REST_S)
        self._close_for_others(
            [connection], "it takes too long, and the server answers over another connection"
        )

    def _remember(self, commands: Sequence[Args], rest_s: float) -> None:
        """Let a value that was not read go over a connection of its own from now on, after a rest."""
        self._large.remember(commands[0], monotonic() + rest_s)
        self._look_at_choice()

    def _look_at_choice(self) -> None:
        self._is_choosy = bool(self._large.keys) or len(self._all()) > 1

    def _close_for_others(self, connections: Sequence[C], why: str, *, begun: bool = False) -> None:
        """Close connections; what is asked on them is asked again on another."""
        everybody = [homeless for each in connections for homeless in each.hand_over(first=True, begun=begun)]
        for connection in connections:
            connection.close(OwnResetError(why))
        self._ask_again(everybody)

    def _ask_again(self, everybody: Sequence[Homeless]) -> None:
        for homeless in everybody:
            free = [each for each in self._open if each.is_free]
            if free:
                free[0].take(homeless)
            else:
                self._start(self._rehome(homeless))

    async def _rehome(self, homeless: Homeless) -> None:
        started_s = monotonic()
        try:
            connection = await self._opened(homeless.timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            homeless.fail(error)
        else:
            left_s = homeless.timeout_s - (monotonic() - started_s)
            connection.take(structs.replace(homeless, timeout_s=left_s))

    # Opening.

    def _is_worth_waiting_for(self, begun_s: float, under_way: int) -> bool:
        """Whether another connection is not begun beside the last of those that are being opened."""
        has_room = under_way + len(self._all()) < self._max_connections
        return not has_room or self._connecting.is_worth_waiting_for(begun_s, under_way, monotonic())

    @property
    def _has_room(self) -> bool:
        """Whether another connection may be opened."""
        return len(self._all()) < self._max_connections

    def _pause_s(self) -> float:
        """How long to wait before a connection is opened."""
        return self._connecting.pause_s(monotonic())

    def _lost(self) -> None:
        """A connection could not be opened: the next one may have to wait."""
        self._connecting.failed(monotonic(), ENTROPY.random())  # not all processes at once

    @abstractmethod
    def _start(self, job: Coroutine[Any, Any, object]) -> None:
        """Run something in the background."""

    @abstractmethod
    def _open_soon(self) -> None:
        """See to it that a connection is being opened."""

    @abstractmethod
    def _forsake_openings(self) -> None:
        """End what is being opened; who waits for it waits for another."""

    @abstractmethod
    async def _opened(self, timeout_s: float) -> C:
        """A connection that is opened, for this caller and all that come while it is."""
