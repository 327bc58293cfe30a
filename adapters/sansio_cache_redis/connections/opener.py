"""The opener: opens the connections of threads, one at a time, and pauses where they do not last.

A caller never opens a connection: a thread of its own does, so that the caller waits for it no longer than
for anything else, and a slow handshake is not begun anew for every call. There is one such thread at a time,
whoever asks and however many; where it takes too long, another begins beside it. A connection that could not
be opened, or that was lost soon after, is followed by a pause, which doubles: a server that refuses, or takes
connections and drops them, is not asked hundreds of times a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.backoff import Connecting
from sansio_cache_redis.connections.redispy import connect_unless, pack, shut_down
from sansio_cache_redis.connections.wires import Wire, blocking_wire
from sansio_cache_redis.errors import ExhaustedError, as_opening_failure
from sansio_cache_redis.facts import GREETING
from sansio_cache_runtime.entropy import ENTROPY
from sansio_cache_runtime.sync.event import ThreadEvent

StartThread = Callable[[Callable[[], object], str], bool]
"""Starts a thread for a job, with a name; False where the system has none to give."""

_FIRST_HANDSHAKE_S: Final = 5.0
"""How long the first may take to shake hands; each that follows one that took too long, twice as long."""


class Opening:
    """One connection that is being opened, for all who wait for it."""

    def __init__(self, begun_s: float, pause_s: float, generation: int) -> None:
        self.begun_s = begun_s
        self.pause_s = pause_s
        self.generation = generation
        """Of the server that it leads to: see `Opener.leads_here`."""
        self.openers = deque([self])
        """Empty once somebody opens it: where its starter was interrupted there may be two."""
        self.is_begun = False
        self.is_reserved = False
        """Whether it is for one caller alone."""
        self.done = ThreadEvent()
        self.wires: deque[Wire] = deque()
        """The connection; empty once somebody has taken it."""
        self.failure: Exception | None = None
        self.answered_after_s = 0.0
        """How long the first command has taken on it."""


@attrs.define(eq=False)
class Opener:
    """Opens connections. The owner's lock guards it.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        start_thread: Starts the thread that opens one.
        on_greeted: Told the replies to the `GREETING` when a connection opens. It raises where that is not
            to be used.
        on_open: Told at the end of each opening, to see to a connection that nobody has waited for.
        longest_value_bytes: A reply that announces a longer value is not read on.
        longest_s: How long shaking hands may take in the end. The first is given less: one that hangs for
            ever is not worth it.
    """

    _make_connection: Callable[[], Any]
    _start_thread: StartThread
    _on_greeted: Callable[[Sequence[Any]], object]
    _on_open: Callable[[Opening], object]
    _longest_value_bytes: int
    _longest_s: float
    _under_way: list[Opening] = attrs.field(factory=list, init=False)
    """Those that are not done: mostly one, the latest last."""
    _generation: int = attrs.field(default=0, init=False)
    """How often the server was another one."""
    last_failure: Exception | None = attrs.field(default=None, init=False)
    """Why there is no connection; None where the last one could be opened."""
    _timeouts: int = attrs.field(default=0, init=False)
    """How many in a row took too long: each is given twice the time of the one before."""
    _pauses: Connecting = attrs.field(factory=Connecting, init=False)
    _opened_s: float = attrs.field(default=0.0, init=False)
    _is_over: ThreadEvent = attrs.field(factory=ThreadEvent, init=False)
    _connecting: list[Any] = attrs.field(factory=list, init=False)

    def open(self, most: int = 1) -> Opening:
        """The connection that is being opened: begun where none is, or where that takes too long.

        Args:
            most: How many may be opened at once.
        """
        now_s = time.monotonic()
        self._under_way = [each for each in self._under_way if not each.done.is_set()]
        under_way = [each for each in self._under_way if self.leads_here(each)]
        count = len(under_way)
        if count and (
            count >= most or self._pauses.is_worth_waiting_for(under_way[-1].begun_s, count, now_s)
        ):
            return under_way[-1]
        opening = Opening(now_s, self._pauses.pause_s(now_s), self._generation)
        self._under_way.append(opening)
        return opening

    def forsake(self) -> None:
        """The server is another one: what is being opened leads to the one before, and is not to be used."""
        self._generation += 1
        for redispy in tuple(self._connecting):
            shut_down(redispy)

    def leads_here(self, opening: Opening) -> bool:
        """Whether the server is the same as when an opening was begun."""
        return opening.generation == self._generation

    def take(self, opening: Opening) -> Wire | None:
        """The connection that was opened, if it is there; one that leads to the server before is closed."""
        wire = opening.wires.popleft() if opening.wires else None
        if wire is None or self.leads_here(opening):
            return wire
        wire.close()
        return None

    @property
    def count(self) -> int:
        """How many are being opened."""
        return sum(not each.done.is_set() for each in tuple(self._under_way))

    def open_aside(self) -> Opening:
        """A connection for one caller alone."""
        now_s = time.monotonic()
        opening = Opening(now_s, self._pauses.pause_s(now_s), self._generation)
        opening.is_reserved = True
        return opening

    def begin(self, opening: Opening) -> None:
        """See to it that an opening is under way, also where who made it was interrupted before."""
        if opening.is_begun:
            return
        if self._start_thread(lambda: self._run(opening), "sansio-cache-connecting"):
            opening.is_begun = True
            return
        opening.failure = ExhaustedError("no thread to open a connection")
        opening.done.set()

    def lost(self) -> None:
        """A connection was lost, or closed: the next may have to wait."""
        self._pauses.closed(self._opened_s, time.monotonic(), ENTROPY.random())

    def close(self) -> None:
        """Open no more; what is being opened ends."""
        self._is_over.set()
        for redispy in tuple(self._connecting):
            shut_down(redispy)

    def _run(self, opening: Opening) -> None:
        """Open a connection. On a thread of its own."""
        try:  # without a lock: a thread that holds it may wait for the connection
            opening.openers.pop()
        except IndexError:
            return
        redispy: Any = None
        try:
            if opening.pause_s > 0:
                self._is_over.wait(opening.pause_s)
            if self._is_over.is_set():
                raise RedisConnectionError("the cache was closed")  # noqa: TRY301
            redispy = self._make_connection()
            self._connecting.append(redispy)
            timeout_s = min(_FIRST_HANDSHAKE_S * 2**self._timeouts, self._longest_s)
            redispy.socket_timeout = timeout_s
            connect_unless(redispy, lambda: self._is_over.is_set() or not self.leads_here(opening))
            wire = blocking_wire(redispy, self._longest_value_bytes)
            asked_s = time.monotonic()
            self._greet(wire, timeout_s)
            self._opened_s = time.monotonic()
            opening.answered_after_s = self._opened_s - asked_s
            self.last_failure = None
            self._timeouts = 0
            opening.wires.append(wire)
        except Exception as error:  # noqa: BLE001 - handed to the callers who wait
            opening.failure = as_opening_failure(error)
            self._blame(opening, opening.failure)
            if redispy is not None:
                redispy.disconnect()
        finally:
            if redispy in self._connecting:
                self._connecting.remove(redispy)
            opening.done.set()
        if not opening.is_reserved:
            self._on_open(opening)

    def leave(self, opening: Opening) -> None:
        """Whoever it was reserved for has left: what has come too late for him goes to the others."""
        opening.is_reserved = False
        if opening.done.is_set():
            self._on_open(opening)

    def _blame(self, opening: Opening, failure: Exception) -> None:
        """Let those who ask know of a failure, and the next opening wait."""
        if not self.leads_here(opening):
            return
        self._timeouts += isinstance(failure, RedisTimeoutError)
        if self._opened_s < opening.begun_s:  # else one that was begun later is open
            self.last_failure = failure
            self._pauses.failed(time.monotonic(), ENTROPY.random())  # not all at once

    def _greet(self, wire: Wire, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        wire.write(pack(GREETING))
        replies: list[Any] = []
        while len(replies) < len(GREETING) and time.monotonic() < until_s:
            replies += wire.read(until_s)
        if len(replies) < len(GREETING):
            raise RedisTimeoutError("no reply in time")
        self._on_greeted(replies)
