"""Connections for threads: callers combine into batches on a few blocking connections.

A connection has a lane. A caller that finds a lane free drives it: sends its commands, reads its replies,
goes. One that finds it busy queues, and sleeps; when the driver is done it hands the lane to the first in
the queue, who drives for all that queue behind it, in one write. So one caller alone pays for nothing, and
many share the price of a system call. A lane that has been busy for some milliseconds (large values) is
passed over for the next one, as long as there are connections to be had.

A caller never opens a connection: a thread of its own does, so that the caller waits for it no longer
than for anything else, and a slow handshake is not begun anew for every call.

After any failure in the middle of a batch, whatever its kind, the connection is closed: replies never get
out of step (S9).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.connections.redispy import LONGEST_CALL_S, Wire, blocking_wire
from sansio_cache_redis.errors import ERRORS, ExhaustedError, as_opening_failure, fresh
from sansio_cache_redis.wire import TIME, Args, tell_time
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.event import ThreadEvent

StartThread = Callable[[Callable[[], object], str], bool]
"""Starts a thread for a job, with a name; False where the system has none to give."""

_SLOW_S: Final = 0.003
"""A lane that has been busy for longer is passed over."""
_IDLE_S: Final = 1.0
"""A connection that has not been used for longer is looked at before it is used again."""
_SHORTEST_S: Final = 0.02
"""A caller in a greater hurry would close a sound connection on everybody else."""
_MOST_COMMANDS: Final = 1000
"""How many commands go into one batch, so that its first caller does not wait for everybody's replies."""


class _Call(Struct, eq=False):
    """A batch of one caller. Whoever queues sleeps on `turn`, until it is served or is to drive."""

    commands: Sequence[Args]
    timeout_s: float
    came_s: float
    thread: int
    turn: threading.Lock | None = None
    is_gone: bool = False
    batch: Sequence[_Call] = ()
    """The others that this one drives for."""
    replies: list[Any] | None = None
    failure: BaseException | None = None

    def wake(self) -> None:
        """Let the caller go on."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()

    def result(self) -> list[Any]:
        """The replies, if they have come."""
        if self.replies is not None:
            return self.replies
        if self.failure is not None:
            raise fresh(self.failure)
        raise RedisTimeoutError("no reply in time")


@attrs.define(eq=False)
class _Lane:
    """One connection, who drives it, and who queues. Guarded by the lock of all lanes but for `wire`."""

    driver: _Call | None = None
    since_s: float = 0.0
    queue: deque[_Call] = attrs.field(factory=deque)
    wire: Wire | None = None
    generation: int = 0
    used_s: float = 0.0
    is_passing: bool = False
    """Whether it was made for a handler's call, which found its own thread in all lanes."""

    def holds_up(self, thread: int) -> bool:
        """Whether a thread is inside here: its handler's or finaliser's call would wait for itself."""
        driver = self.driver
        return (driver is not None and driver.thread == thread and not driver.is_gone) or any(
            call.thread == thread for call in self.queue
        )

    def is_free(self) -> bool:
        """Whether nobody drives: also where a driver was interrupted before it could hand the lane over."""
        return self.driver is None or self.driver.is_gone


class _Opening:
    """A connection that a background thread opens."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.openers = deque([self])
        """Empty once somebody opens it."""
        self.done = ThreadEvent()
        self.wire: Wire | None = None
        self.failure: Exception | None = None


class ThreadsConnections:
    """The open connections to one server, for any number of threads.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        start_thread: Starts the thread that opens one.
        max_connections: How many lanes there may be.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        start_thread: StartThread,
        *,
        max_connections: int,
        on_time: Callable[[int], object],
    ) -> None:
        self._make_connection = make_connection
        self._start_thread = start_thread
        self._on_time = on_time
        self._lock = process_lock()
        self._lanes = [_Lane() for _ in range(max_connections)]
        self._openings: dict[int, _Opening] = {}
        self._generation = 0
        self._failed_s = 0.0
        self._is_closed = False

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        now_s = time.monotonic()
        call = _Call(commands, max(timeout_s, _SHORTEST_S), now_s, threading.get_ident())
        lane: _Lane | None = None
        try:
            with self._lock:
                lane = self._choose(now_s, call.thread)
                if lane.driver is None or lane.driver.is_gone:
                    lane.driver = call
                    lane.since_s = now_s
                else:
                    call.turn = threading.Lock()
                    call.turn.acquire()
                    lane.queue.append(call)
            if lane.driver is not call:
                self._sleep(lane, call, now_s)
            return self._drive(lane, call) if lane.driver is call else call.result()
        finally:  # however it ends: a KeyboardInterrupt may come at any point
            call.is_gone = True  # from here on others may take the lane
            if lane is not None:
                self._leave(lane, call)

    def reset(self) -> None:
        """Close every connection: those at rest now, others when their batch is over."""
        with self._lock:
            self._generation += 1
            resting = [lane for lane in self._lanes if lane.is_free()]
            wires = [lane.wire for lane in resting if lane.wire is not None]
            for lane in resting:
                lane.wire = None
        for wire in wires:
            wire.close()

    def close(self) -> None:
        """Close every connection, for good."""
        with self._lock:
            self._is_closed = True
            opened = [opening.wire for opening in self._openings.values() if opening.wire is not None]
            self._openings.clear()
        for wire in opened:
            wire.close()
        self.reset()

    @property
    def count(self) -> int:
        """How many connections are open or being opened."""
        with self._lock:
            return sum(lane.wire is not None for lane in self._lanes) + len(self._openings)

    # Lanes.

    def _choose(self, now_s: float, thread: int) -> _Lane:
        """The first lane that is not slow at the moment; where all are, the one with the shortest queue."""
        for lane in self._lanes:
            driver = lane.driver
            if lane.wire is not None and (
                driver is None
                or driver.is_gone
                or (now_s - lane.since_s < _SLOW_S and not lane.holds_up(thread))
            ):
                return lane
        lanes = [lane for lane in self._lanes if not lane.holds_up(thread)]
        for lane in lanes:  # one without a connection: more of them would not come any sooner
            if lane.wire is None:
                return lane
        return min(lanes, key=lambda lane: len(lane.queue), default=_Lane(is_passing=True))

    def _sleep(self, lane: _Lane, call: _Call, now_s: float) -> None:
        """Sleep until served, or told to drive, or until nothing has come in for too long."""
        turn = call.turn
        longest_s = now_s + LONGEST_CALL_S
        left_s = call.timeout_s
        while turn is not None and left_s > 0 and not turn.acquire(timeout=left_s):
            # As long as others are served, it is merely its turn that has not come.
            left_s = min(lane.used_s + call.timeout_s, longest_s) - time.monotonic()

    def _drive(self, lane: _Lane, call: _Call) -> list[Any]:
        """Serve the caller, and all that queue behind it, in one batch; returns the caller's replies."""
        commands, timeout_s = call.commands, call.timeout_s
        if lane.queue:
            commands, timeout_s = self._gather(lane, call)
        try:
            wire = lane.wire
            now_s = time.monotonic()
            if wire is None or now_s - lane.used_s > _IDLE_S or lane.used_s < self._failed_s:
                wire = self._sound_wire(lane, max(call.came_s + call.timeout_s - now_s, 0.0))
                timeout_s = max(now_s + timeout_s - time.monotonic(), _SHORTEST_S)
            try:
                replies = wire.exchange(commands, timeout_s, may_spin=not (call.batch or lane.queue))
            except BaseException:
                lane.wire = None
                self._failed_s = time.monotonic()
                wire.close()
                raise
        except ERRORS as error:
            let_through(error)
            call.failure = error
            raise
        lane.used_s = time.monotonic()
        if not call.batch:
            return replies
        begin = len(call.commands)
        for other in call.batch:
            end = begin + len(other.commands)
            other.replies = replies[begin:end]
            begin = end
        return replies[: len(call.commands)]

    def _gather(self, lane: _Lane, call: _Call) -> tuple[list[Args], float]:
        """Make a batch of all that queue; returns all commands, and how long they may take."""
        commands, timeout_s = list(call.commands), call.timeout_s
        with self._lock:
            lane.since_s = time.monotonic()
            call.batch = batch = []
            while lane.queue and len(commands) < _MOST_COMMANDS:
                other = lane.queue[0]  # it leaves the queue only once it is elsewhere
                if not (other.is_gone or other is call):
                    batch.append(other)
                    commands += other.commands
                    timeout_s = max(timeout_s, other.timeout_s)
                lane.queue.popleft()
        return commands, timeout_s

    def _leave(self, lane: _Lane, call: _Call) -> None:
        """Wake those that were driven for, and let the first in the queue drive.

        Where there is no connection to be had, all of the queue fails at once. Does nothing for one who does
        not drive, so that it may come twice.
        """
        for other in call.batch:
            if other.replies is None:
                other.failure = call.failure or RedisConnectionError(
                    "the driver of the connection was interrupted"
                )
            other.wake()
        stale_wire: Wire | None = None
        if lane.driver is not call:
            return
        with self._lock:
            if lane.driver is not call:
                return
            if lane.wire is not None and (lane.generation != self._generation or lane.is_passing):
                stale_wire, lane.wire = lane.wire, None
            # Not those who are only more patient than this one was.
            is_down = call.failure is not None and not isinstance(call.failure, RedisTimeoutError)
            if is_down and lane.wire is None:
                for other in lane.queue:
                    other.failure = call.failure
                    other.wake()
                lane.queue.clear()
            lane.driver = None
            while lane.queue and lane.driver is None:
                other = lane.queue[0]
                if not other.is_gone:
                    lane.driver = other
                    other.wake()
                if lane.queue and lane.queue[0] is other:  # or a handler's call was here
                    lane.queue.popleft()
            if lane.is_passing:
                self._openings.pop(id(lane), None)
        if stale_wire is not None:
            stale_wire.close()

    # Wires. Only the driver of a lane comes here.

    def _sound_wire(self, lane: _Lane, timeout_s: float) -> Wire:
        """The lane's wire, if it is as it was left; otherwise another, for which to wait so long."""
        wire = lane.wire
        if wire is not None:
            if wire.is_sound():
                return wire
            lane.wire = None
            wire.close()
        return self._opened(lane, timeout_s)

    def _opened(self, lane: _Lane, timeout_s: float) -> Wire:
        """Wait for a connection, which goes on being opened when the wait is over."""
        number = id(lane)
        with self._lock:
            if self._is_closed:
                raise RedisConnectionError("the cache was closed")
            opening = self._openings.get(number)
            if opening is None:
                opening = self._openings[number] = _Opening(self._generation)
        # Also where who made it was interrupted before it could begin.
        has_begun = not opening.openers or self._start_thread(
            partial(self._open, opening), "sansio-cache-connecting"
        )
        if not has_begun:
            opening.failure = ExhaustedError("no thread to open a connection")
            opening.done.set()
        if not opening.done.wait(timeout_s):
            raise RedisTimeoutError("no connection in time")
        with self._lock:
            if self._openings.get(number) is not opening:
                raise RedisConnectionError("the cache was closed")
            lane.generation = opening.generation
            lane.wire = opening.wire
            del self._openings[number]  # no call between these three: Ctrl-C does not part them
        if opening.failure is not None:
            raise fresh(opening.failure)
        assert opening.wire is not None
        return opening.wire

    def _open(self, opening: _Opening) -> None:
        try:  # without the lock: a thread that holds it may wait for the connection
            opening.openers.pop()
        except IndexError:
            return
        redispy: Any = None
        try:
            redispy = self._make_connection()
            redispy.connect()
            wire = blocking_wire(redispy)
            [reply] = wire.exchange([TIME], redispy.socket_timeout)
            tell_time(reply, self._on_time)
            opening.wire = wire
            if opening not in self._openings.values():  # who takes it out closes its wire
                raise RedisConnectionError("nobody waits for the connection any more")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - handed to the callers who wait
            opening.failure = as_opening_failure(error)
            if redispy is not None:
                redispy.disconnect()
        finally:
            opening.done.set()
