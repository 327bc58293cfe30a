"""The channel for threads: callers combine into batches on a few blocking connections.

A connection has a lane. A caller that finds a lane free drives it: sends its commands, reads its replies,
goes. One that finds it busy queues, and sleeps; when the driver is done it hands the lane to the first in
the queue, who drives for all that queue behind it, in one write. So one caller alone pays for nothing, and
many share the price of a system call. A lane that has been busy for some milliseconds (large values) is
passed over for the next one, as long as there are connections to be had.

A caller never opens a connection: a thread in the background does, so that the caller waits for it no longer
than for anything else, and a slow handshake is not begun anew for every call.

After any failure in the middle of a batch, whatever its kind, the connection is closed: replies never get
out of step (S9).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.lowlevel import Wire, blocking_wire
from sansio_cache_redis.replies import ERRORS, LONGEST_CALL_S, fresh, tell_time
from sansio_cache_redis.wire import TIME, Args

_SLOW_S: Final = 0.003
"""A lane that has been busy for longer is passed over."""
_IDLE_S: Final = 1.0
"""A connection that has not been used for longer is looked at before it is used again."""
_MOST_COMMANDS: Final = 1000
"""How many commands go into one batch, so that its first caller does not wait for everybody's replies."""


class _Call:
    """A batch that queues. `turn` is locked until the caller is to wake: served, or to drive."""

    __slots__ = ("commands", "deadline_s", "failure", "is_gone", "is_to_drive", "replies", "turn")

    def __init__(self, commands: Sequence[Args], deadline_s: float) -> None:
        self.commands = commands
        self.deadline_s = deadline_s
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_to_drive = False
        self.is_gone = False
        self.replies: list[Any] | None = None
        self.failure: BaseException | None = None


@attrs.define(eq=False)
class _Lane:
    """One connection, who drives it, and who queues. Guarded by the channel's lock but for `wire`."""

    is_busy: bool = False
    since_s: float = 0.0
    queue: deque[_Call] = attrs.field(factory=deque)
    wire: Wire | None = None
    generation: int = 0
    used_s: float = 0.0


class _Opening:
    """A connection that a background thread opens."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.done = threading.Event()
        self.wire: Wire | None = None
        self.failure: Exception | None = None


class ThreadsChannel:
    """Runs batches of Redis commands for any number of threads.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        max_connections: How many lanes there may be.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        on_time: Callable[[int], object],
    ) -> None:
        self._make_connection = make_connection
        self._on_time = on_time
        self._lock = threading.Lock()
        self._lanes = [_Lane() for _ in range(max_connections)]
        self._openings: dict[int, _Opening] = {}
        self._generation = 0
        self._is_closed = False

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        now_s = time.monotonic()
        deadline_s = now_s + timeout_s
        with self._lock:
            lane = self._choose(now_s)
            if lane.is_busy:
                call = _Call(commands, deadline_s)
                lane.queue.append(call)
            else:
                lane.is_busy = True
                lane.since_s = now_s
                call = None
        if call is None:
            return self._drive_alone(lane, commands, deadline_s)
        return self._wait(lane, call)

    def reset(self) -> None:
        """Close every connection: those at rest now, others when their batch is over."""
        with self._lock:
            self._generation += 1
            resting = [lane for lane in self._lanes if not lane.is_busy]
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
    def connections(self) -> int:
        """How many connections are open or being opened."""
        with self._lock:
            return sum(lane.wire is not None for lane in self._lanes) + len(self._openings)

    # Lanes.

    def _choose(self, now_s: float) -> _Lane:
        """The first lane that is not slow at the moment; where all are, the one with the shortest queue."""
        for lane in self._lanes:
            # A lane without a connection waits for one; more of them would not come any sooner.
            if not lane.is_busy or lane.wire is None or now_s - lane.since_s < _SLOW_S:
                return lane
        return min(self._lanes, key=lambda lane: len(lane.queue))

    def _drive_alone(self, lane: _Lane, commands: Sequence[Args], deadline_s: float) -> list[Any]:
        """Serve the caller itself; nobody queued when it came."""
        failure: BaseException | None = RedisConnectionError("the driver of the connection was interrupted")
        try:
            replies = self._exchange(lane, commands, deadline_s)
            failure = None
        except ERRORS as error:
            failure = error
            raise
        finally:
            self._hand_over(lane, failure)
        return replies

    def _wait(self, lane: _Lane, call: _Call) -> list[Any]:
        """Sleep until served, or until it is this caller's turn to drive."""
        is_woken = False
        now_s = time.monotonic()
        timeout_s = left_s = call.deadline_s - now_s
        longest_s = now_s + LONGEST_CALL_S
        try:
            while left_s > 0 and not is_woken:
                is_woken = call.turn.acquire(timeout=left_s)
                # As long as others are served, it is merely its turn that has not come.
                now_s = time.monotonic()
                left_s = min(lane.used_s + timeout_s, longest_s) - now_s
            if is_woken and call.is_to_drive:
                call.deadline_s = now_s + timeout_s
        finally:
            if not is_woken:
                self._leave(lane, call)
        if is_woken and call.is_to_drive:
            return self._drive_for_all(lane, call)
        if call.replies is not None:
            return call.replies
        if call.failure is not None:
            raise fresh(call.failure)
        raise RedisTimeoutError("no reply in time")

    def _leave(self, lane: _Lane, call: _Call) -> None:
        """Give up. Who was just told to drive must pass that on."""
        with self._lock:
            call.is_gone = True
            was_to_drive = call.is_to_drive
        if was_to_drive:
            self._hand_over(lane, None)

    def _drive_for_all(self, lane: _Lane, own: _Call) -> list[Any]:
        """Serve the caller and all that queue behind it, in one batch."""
        calls = [own]
        commands = list(own.commands)
        failure: BaseException | None = RedisConnectionError("the driver of the connection was interrupted")
        try:
            deadline_s = own.deadline_s
            with self._lock:
                lane.since_s = time.monotonic()
                while lane.queue and len(commands) < _MOST_COMMANDS:
                    call = lane.queue.popleft()
                    if not call.is_gone:
                        calls.append(call)
                        commands += call.commands
                        deadline_s = max(deadline_s, call.deadline_s)
            replies = self._exchange(lane, commands, deadline_s)
            failure = None
            begin = len(own.commands)
            for call in calls[1:]:
                end = begin + len(call.commands)
                call.replies = replies[begin:end]
                begin = end
            return replies[: len(own.commands)]
        except ERRORS as error:
            failure = error
            raise
        finally:
            for call in calls[1:]:
                if call.replies is None:
                    call.failure = failure
                call.turn.release()
            self._hand_over(lane, failure)

    def _hand_over(self, lane: _Lane, failure: BaseException | None) -> None:
        """Let the first in the queue drive; without a connection to be had, all of it fails at once."""
        stale_wire: Wire | None = None
        with self._lock:
            if lane.wire is not None and lane.generation != self._generation:
                stale_wire, lane.wire = lane.wire, None
            if failure is not None and lane.wire is None:
                for call in lane.queue:
                    call.failure = failure
                    call.turn.release()
                lane.queue.clear()
            while lane.queue:
                call = lane.queue.popleft()
                if not call.is_gone:
                    call.is_to_drive = True
                    call.turn.release()
                    break
            else:
                lane.is_busy = False
        if stale_wire is not None:
            stale_wire.close()

    # Connections. Only the driver of a lane comes here.

    def _exchange(self, lane: _Lane, commands: Sequence[Args], deadline_s: float) -> list[Any]:
        wire = lane.wire
        now_s = time.monotonic()
        if wire is not None and now_s - lane.used_s > _IDLE_S and not wire.is_sound():
            wire.close()
            wire = lane.wire = None
        if wire is None:
            wire = self._opened(lane, deadline_s)
        try:
            replies = wire.exchange(commands, max(deadline_s - time.monotonic(), 0.0))
        except BaseException:
            lane.wire = None
            wire.close()
            raise
        lane.used_s = time.monotonic()
        return replies

    def _opened(self, lane: _Lane, deadline_s: float) -> Wire:
        """Wait for a connection, which goes on being opened when the wait is over."""
        with self._lock:
            opening = self._openings.get(id(lane))
            if opening is None:
                if self._is_closed:
                    raise RedisConnectionError("the cache was closed")
                opening = self._openings[id(lane)] = _Opening(self._generation)
                name = "sansio-cache-connecting"
                threading.Thread(target=self._open, args=(opening,), name=name, daemon=True).start()
        if not opening.done.wait(max(deadline_s - time.monotonic(), 0.0)):
            raise RedisTimeoutError("no connection in time")
        with self._lock:
            is_taken = self._openings.pop(id(lane), None) is None
            if is_taken:
                raise RedisConnectionError("the cache was closed")
            lane.generation = opening.generation
            lane.wire = opening.wire
        if opening.failure is not None:
            raise fresh(opening.failure)
        assert opening.wire is not None
        return opening.wire

    def _open(self, opening: _Opening) -> None:
        connection = self._make_connection()
        try:
            connection.connect()
            wire = blocking_wire(connection)
            [reply] = wire.exchange([TIME], connection.socket_timeout)
            tell_time(reply, self._on_time)
            with self._lock:
                if self._is_closed:
                    raise RedisConnectionError("the cache was closed")  # noqa: TRY301
                opening.wire = wire
        except Exception as error:  # noqa: BLE001 - handed to the callers who wait
            connection.disconnect()
            opening.failure = error
        opening.done.set()


class ClientChannel:
    """Runs batches through the pipelines of a blocking client that the user owns.

    Its own time-outs and retries apply, as nobody else can end its calls: it is best made with
    `socket_timeout` and without retries.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:  # noqa: ARG002
        """Send commands together; returns their replies, error replies as values."""
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute(raise_on_error=False)
            return replies

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._client.connection_pool.disconnect()

    def close(self) -> None:
        """Leave the client to its owner."""
