"""Connections for threads: callers combine into batches on a few blocking connections.

A connection has a lane. A caller that finds a lane free drives it: sends its commands, reads its replies,
goes. One that finds it busy queues, and sleeps; when the driver is done it hands the lane to the next, who
drives for all that queue behind it, in one write. So one caller alone pays for nothing, and many share the
price of a system call. A lane that has been busy for some milliseconds, or has something large on its way, is
passed over for another. Where none is to be had, the one that works serves all.

*Deadlines.* A call ends when its time is over, wherever it stands: the wait for its turn counts. A driver
whose time is over hands the lane to one of those who wait; what is still due on the connection is read, and
dropped, by whoever comes next. A connection that answers is not closed for being slow. Only large uploads
take longer: as long as the socket takes them, at a mebibyte a second at least.

*Failures.* Where a connection breaks, the calls that were sent on it fail: their fate is unknown, and the
core repeats them. A driver that is interrupted, and a value that is too long to be read, cost the connection
as well, but no other caller anything: their commands are sent again within their time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import READS, Args, is_confirmed, nonces_given_back
from sansio_cache_redis.connections.aside import Aside
from sansio_cache_redis.connections.confirming import Confirming
from sansio_cache_redis.connections.lanes import FOREVER_S, UPLOAD_BYTES_PER_S, Call, Lane, Lanes
from sansio_cache_redis.connections.large import REST_S, LargeValues
from sansio_cache_redis.connections.opener import Opener, Opening, StartThread
from sansio_cache_redis.connections.redispy import pack, pack_one
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.connections.wires import OverlongReplyError, Wire, close_all
from sansio_cache_redis.errors import ERRORS, OwnResetError, TooLargeError, fresh
from sansio_cache_runtime.process import asking_inside, process_lock

_SLOW_S: Final = 0.003
"""A lane that has been busy for longer is passed over."""
_IDLE_S: Final = 1.0
"""A connection that has not been used for longer is looked at before it is used again."""
_SHORTEST_S: Final = 0.002
"""A call gets so much time at least: with less it would be given up in vain."""
_LOOK_S: Final = 0.01
"""How often who waits on a silent connection looks whether there is another."""


class ThreadsConnections:
    """The open connections to one server, for any number of threads.

    Args:
        make_connection: Makes a connection of redis-py that is not open yet.
        start_thread: Starts the thread that opens one.
        max_connections: How many lanes there may be.
        silence_s: How long a connection may say nothing, while something is asked on it, before another is
            tried.
        on_greeted: Told the replies to the `GREETING` when a connection opens. It raises where that is not
            to be used.
        opening_timeout_s: How long a connection may take to open in the background.
        longest_value_bytes: A reply that announces a longer value is not read on: `TooLargeError` stands in
            its place.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        start_thread: StartThread,
        *,
        max_connections: int,
        silence_s: float,
        on_greeted: Callable[[Sequence[Any]], object],
        opening_timeout_s: float,
        longest_value_bytes: int = 1 << 30,
    ) -> None:
        self._lock = process_lock()
        self._is_held_here = asking_inside(self._lock)
        self._silence_s = silence_s
        self._lanes = Lanes(max_connections, silence_s)
        self._opener = Opener(
            make_connection, start_thread, on_greeted, self._put, longest_value_bytes, opening_timeout_s
        )
        self._large = LargeValues()
        self._inside: dict[int, Call] = {}
        """By thread, the call that it is in."""
        self._aside = Aside(self._opener)
        self.confirming: Confirming | None = None
        """Where commands go that end with WAIT."""
        self._failed_s = 0.0
        self._is_closed = False

    def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        if len(commands) > 1 and self.confirming is not None and is_confirmed(commands):
            return self.confirming.execute(commands, timeout_s)
        now_s = monotonic()
        deadline_s = now_s + max(timeout_s, _SHORTEST_S)
        call = Call(commands, now_s, deadline_s, deadline_s, threading.get_ident(), self._lanes[0], [])
        args = commands[0]  # of most reads, and of one short command, there is nothing else to be asked
        is_read = args[0] in READS
        if not is_read:
            call.gives_back = nonces_given_back(commands)
        if self._large.keys or not (is_read or (len(commands) == 1 and sum(map(len, args)) <= BULK_BYTES)):
            self._large.refuse_resting(commands, now_s)
            call.is_large = self._large.are_large(commands)
        outer = self._inside.get(call.thread)
        try:
            if self._is_held_here() or not (outer is None or outer.is_gone):
                return self._aside.execute(call, self._silence_s, self._lanes.generation, self._drive)
            self._inside[call.thread] = call
            with self._lock:
                lane, opening = self._choose(call, now_s)
                call.lane, call.opening = lane, opening
                driver = lane.driver
                if driver is None or driver.is_gone:  # as `is_free`, which costs a call
                    lane.driver = call
                    lane.since_s = now_s
                else:
                    call.turn = threading.Lock()
                    call.turn.acquire()
                    lane.queue.append(call)
            if opening is not None:
                self._opener.begin(opening)
            if lane.driver is not call:
                while not call.sleep(monotonic()):
                    with self._lock:
                        call.lane.appoint()
                lane, now_s = call.lane, monotonic()
            if lane.driver is call:
                self._drive(lane, call, now_s)
            return call.replies if len(call.replies) == len(commands) else call.result(monotonic())
        finally:  # however it ends: a KeyboardInterrupt may come at any point
            call.is_gone = True  # from here on others may take the lane
            if self._inside.get(call.thread) is call:
                self._inside.pop(call.thread, None)
            if call.lane.driver is call:
                self._leave(call)

    def move(self) -> None:
        """The server is another one: give up all that leads to the one before, and open a connection."""
        self._opener.forsake()
        self.reset()
        with self._lock:
            opening = self._opener.open()
        self._opener.begin(opening)

    def reset(self) -> None:
        """Close every connection: those at rest now, others when their driver is done."""
        with self._lock:
            self._opener.last_failure = OwnResetError("the connection was closed")
            wires = [*self._lanes.reset(), *self._aside.drop()]
        close_all(wires)
        self._opener.lost()
        if self.confirming is not None:
            self.confirming.reset()

    def set_aside(self) -> None:
        """Ask nothing on the connections that are open until `take_back`: their replies may be others'.

        Those at rest are kept. What a driver has sent is read, and looked at, and its connection is kept as
        well if it owes nothing then. Where there is no room for another connection, they are closed.
        """
        with self._lock:
            if self._lanes.may_set_aside:
                for lane in self._lanes.set_aside():
                    self._part_with(lane)
            else:
                self.reset()

    def take_back(self) -> None:
        """The replies on the connections that are set aside were those that were asked for."""
        with self._lock:
            self._lanes.take_back()

    def close(self) -> None:
        """Close every connection, for good."""
        self._is_closed = True  # what is given to a lane until `reset` has the lock is closed by it
        self._opener.close()
        self.reset()
        if self.confirming is not None:
            self.confirming.close()

    @property
    def count(self) -> int:
        """How many connections are open or being opened."""
        confirming = 0 if self.confirming is None else self.confirming.count
        with self._lock:
            return confirming + self._lanes.open_count + self._aside.count + self._opener.count

    # Who goes where. Under the lock.

    def _choose(self, call: Call, now_s: float) -> tuple[Lane, Opening | None]:
        """The lane for a call, and the connection to be opened where one more would be of use."""
        lanes = self._lanes
        # What gives something back must not overtake what has asked for it.
        if call.gives_back and (carrier := lanes.carrier(call.gives_back)) is not None:
            return carrier, None
        if call.is_large:
            return self._choose_for_large(now_s)
        working: Lane | None = None
        for lane in lanes:
            if lane.wire is None:
                continue
            driver = lane.driver
            if driver is None or driver.is_gone:  # as `is_free`, which costs a call
                if lane.generation != lanes.generation:  # its driver has not come to part with it
                    self._part_with(lane)
                    continue
                if not lane.due:
                    return lane, None
                if lane.is_silent(now_s) and not lane.revive(now_s):
                    continue
            elif now_s - lane.since_s < _SLOW_S and not lane.is_bulky():
                return lane, None
            if not lane.is_silent(now_s) and (working is None or lane.load < working.load):
                working = lane
        return self._slow(working)

    def _choose_for_large(self, now_s: float) -> tuple[Lane, Opening | None]:
        """The last lane that works, whether it is busy or not: small ones avoid it then."""
        working = self._lanes.working(now_s)
        if working and (working[-1] is not self._lanes[0] or len(self._lanes) == 1):
            return working[-1], None
        return self._slow(working[-1] if working else None)

    def _slow(self, working: Lane | None) -> tuple[Lane, Opening | None]:
        """The same where one more connection would be of use."""
        if working is None and (lane := self._lanes.give_spare()) is not None:
            return lane, None
        empty, room = self._lanes.empty(), self._lanes.room
        opening = self._opener.open(room) if room > 0 and not self._is_closed else None
        if working is not None:
            return working, opening
        if empty:  # one for all who wait: more of them would not come any sooner
            return empty[0], opening
        return min(self._lanes, key=lambda lane: lane.load), opening

    def _part_with(self, lane: Lane) -> None:
        """Take the connection of a lane away, which may be used again."""
        wire, calls = self._lanes.part_with(lane)
        close_all([wire])
        lane.take_over(calls)

    # Callers.

    def _leave(self, call: Call) -> None:
        """Hand the lane over. Does nothing for one who does not drive, so that it may come twice.

        Where there is no connection to be had, all who queue for one fail at once.
        """
        lane = call.lane
        wire: Wire | None = None
        with self._lock:
            if lane.driver is not call:
                return
            lane.driver = None
            if lane.generation != self._lanes.generation or lane.is_passing:
                if lane.is_passing and not self._is_closed:
                    self._aside.keep(lane, call, self._lanes.generation)
                if lane.is_passing or call.failure is not None or self._is_closed:
                    wire, calls = lane.drop()
                    lane.take_over(calls)
                else:
                    self._part_with(lane)
            if lane.wire is None and lane.queue:
                queue, lane.queue = lane.queue, deque()
                others = self._lanes.working(monotonic())
                failure = call.failure
                if failure is None or isinstance(failure, RedisTimeoutError) or others:
                    # Who queues may only be more patient than this one was.
                    (others[0] if others else lane).take_over(queue)
                else:
                    for other in queue:
                        other.fail(failure)
            if lane.queue or lane.due:
                lane.appoint()
        if wire is not None:
            wire.close()

    # Driving. Only the driver of a lane comes here.

    def _drive(self, lane: Lane, call: Call, now_s: float) -> None:
        """Serve the caller, and all that queue behind it."""
        try:
            wire = lane.wire
            if (
                not (wire is None or lane.due or lane.queue or call.is_large)
                and now_s - wire.read_s <= _IDLE_S
                and wire.read_s >= self._failed_s
            ):
                # Nearly always: what follows, for one who is alone, and is answered at once.
                commands = call.commands
                wire.write(pack_one(commands[0]) if len(commands) == 1 else pack(commands))
                replies = wire.read(min(call.deadline_s, now_s + self._silence_s), may_spin=True)
                if len(replies) == len(commands) and not wire.unfinished_bytes:
                    call.replies = replies
                    lane.latency_s = wire.read_s - now_s
                    return
                lane.sent((call,), now_s)
                self._take(lane, wire, call, replies)
            while not call.is_over:
                self._advance(lane, call, monotonic())
            if lane.due and lane.is_stuck(monotonic()):
                self._give_up(lane, call)
            if lane.due and call.failure is None:
                self._serve_others(lane, call)
            if lane.wire is not None and lane.wire.is_writing:  # half a command is of no use to anybody
                self._drop(lane, call)
        except BaseException as error:
            self._fail(lane, call, error)
            raise

    def _advance(self, lane: Lane, call: Call, now_s: float, until_s: float = FOREVER_S) -> None:
        """Send what is to be sent, and take in what comes next: until then, if nothing comes."""
        if lane.due and lane.is_stuck(now_s):
            self._give_up(lane, call)
        wire = self._wire_of(lane, call, now_s, min(until_s, call.deadline_s))
        if wire is None:
            return
        if not (call.is_sent or wire.is_writing) and (
            not lane.due or lane.has_room(call, lane.due_count, now_s)
        ):
            self._send(lane, wire, call, now_s)
        until_s = min(until_s, call.deadline_s)
        if lane.due:
            silent_s = lane.silent_at_s()
            if now_s >= silent_s:
                if self._take_in(lane, wire, call, now_s):
                    return  # it was this process that was busy
                self._look_elsewhere(lane, call, now_s)
                if call.failure is not None:
                    return
                silent_s = now_s + _LOOK_S
            until_s = min(until_s, silent_s)
        before_bytes = wire.written_bytes
        self._take_in(lane, wire, call, until_s)
        now_s = monotonic()
        if wire.written_bytes > before_bytes and call.is_large:
            lane.alive_s = now_s
            call.extend(wire)
        if now_s < call.deadline_s or len(call.replies) == len(call.commands):
            return
        call.failure = lane.too_late(call, now_s)
        if lane.is_dead(now_s):
            raise call.failure

    def _look_elsewhere(self, lane: Lane, call: Call, now_s: float) -> None:
        """Leave a connection that has been silent for too long for another, once there is one."""
        with self._lock:
            others = [each for each in self._lanes.working(now_s) if each is not lane]
            opening = None if others else self._slow(None)[1]
            if others:
                queue, lane.queue = lane.queue, deque()
                others[0].take_over([*lane.leave(call), *queue])
                call.failure = RedisTimeoutError("the connection says nothing: another is tried")
        if opening is not None:
            self._opener.begin(opening)

    def _serve_others(self, lane: Lane, call: Call) -> None:
        """Take in what is due to others, as long as it comes at once."""
        until_s = monotonic() + _SLOW_S
        while (wire := lane.wire) is not None and lane.due and not wire.is_writing:
            if not self._take_in(lane, wire, call, until_s) and monotonic() >= until_s:
                return

    def _take_in(self, lane: Lane, wire: Wire, call: Call, until_s: float) -> bool:
        """Wait for something to come, and hand it out; whether whole replies did."""
        try:
            replies = wire.read(until_s, may_spin=lane.due_count == 1 and not lane.queue)
        except OverlongReplyError:
            self._pass_over(lane, call)
            return True
        self._take(lane, wire, call, replies)
        return bool(replies)

    def _take(self, lane: Lane, wire: Wire, call: Call, replies: list[Any]) -> None:
        """Hand out what has come in."""
        if wire.unfinished_bytes and len(replies) >= lane.due_count:
            raise RedisConnectionError("a reply came that nobody has asked for")
        if replies:
            lane.received(replies, wire.read_s)
            lane.part_s = 0.0
        elif wire.unfinished_bytes:
            lane.alive_s = wire.read_s
        if wire.unfinished_bytes and not lane.part_s:
            lane.part_s = wire.read_s
        if wire.unfinished_bytes > BULK_BYTES:
            first = lane.due[0].call
            if first is not None:
                self._large.remember(first.left[0])
            self._make_way(lane, call)

    def _send(self, lane: Lane, wire: Wire, call: Call, now_s: float) -> None:
        """Send the caller's commands, and those of all who queue and can be answered in time."""
        batch = [call]
        if call.is_large:
            self._make_way(lane, call)
        if lane.queue:
            with self._lock:
                lane.since_s = now_s
                if lane.generation == self._lanes.generation:  # else those who came since are to go elsewhere
                    batch = lane.take(call, now_s)
        commands = call.left if len(batch) == 1 else [args for each in batch for args in each.left]
        data = pack_one(commands[0]) if len(commands) == 1 else pack(commands)
        call.written_from = wire.written_bytes
        lane.sent(batch, now_s)
        wire.write(data)
        if call.is_large:
            lane.upload_s = len(data) / UPLOAD_BYTES_PER_S
            call.extend(wire)

    def _pass_over(self, lane: Lane, call: Call) -> None:
        """Do without a value that is too large to be read, at the cost of the connection."""
        first = lane.due[0].call
        if first is not None:
            self._large.remember(first.left[0])
            first.replies.append(TooLargeError("the value is larger than a value may be"))
        self._drop(lane, call)
        if first is not None and first.is_over:
            first.wake()

    def _give_up(self, lane: Lane, call: Call) -> None:
        """Do without a reply that does not come in time, at the cost of the connection."""
        first, wire = lane.due[0].call, lane.wire
        if first is not None and wire is not None and wire.unfinished_bytes > BULK_BYTES:
            self._large.remember(first.left[0], monotonic() + REST_S)
        self._drop(lane, call)

    def _make_way(self, lane: Lane, call: Call) -> None:
        """Have others ask elsewhere, where something large would come, or go, before their replies."""
        if not lane.queue and len(lane.due) < 2:
            return
        with self._lock:
            idle = [each for each in self._lanes if each.wire is not None and not each.load]
            if not idle or lane in idle:
                return
            queue, lane.queue = lane.queue, deque()
            idle[0].take_over([*lane.leave(call, 1), *queue])

    def _drop(self, lane: Lane, call: Call) -> None:
        """Close the connection of a lane; what others have sent on it is sent again."""
        with self._lock:
            wire, calls = lane.drop()
            lane.take_over([each for each in calls if each is not call])
        close_all([wire])

    def _fail(self, lane: Lane, call: Call, error: BaseException) -> None:
        """The same where it has failed, and all that was sent on it. An interrupt is no failure of others."""
        if not isinstance(error, ERRORS):
            self._drop(lane, call)
            return
        try:
            let_through(error)
        except BaseException:
            self._drop(lane, call)
            raise
        call.failure = call.failure or error
        self._failed_s = monotonic()
        wire, calls = lane.drop()
        for each in calls:
            each.fail(error)
        close_all([wire])
        if wire is not None:
            self._opener.lost()

    # Connections.

    def _wire_of(self, lane: Lane, call: Call, now_s: float, until_s: float) -> Wire | None:
        """The lane's wire, if it is as it was left; or that of another connection.

        A connection goes on being opened when the wait for it is over. None where it has not come by then,
        and the caller may still wait for it; or where another has got it.
        """
        wire = lane.wire
        if wire is not None:
            is_fresh = now_s - wire.read_s <= _IDLE_S and wire.read_s >= self._failed_s
            if lane.due or is_fresh or wire.is_sound():
                return wire
            close_all([lane.drop()[0]])
            self._opener.lost()
        with self._lock:
            if self._is_closed:
                raise RedisConnectionError("the cache was closed")
            if lane.wire is not None:
                return lane.wire
            opening = call.opening or self._opener.open(max(self._lanes.room, 1))
            call.opening = None
        self._opener.begin(opening)
        if not opening.done.wait(max(until_s - now_s, 0.0)):
            if until_s < call.deadline_s:
                call.opening = opening
                return None
            # Where there was a failure, the opener pauses.
            raise fresh(self._opener.last_failure or RedisTimeoutError("no connection in time"))
        with self._lock:
            if lane.wire is None and not self._is_closed and (wire := self._opener.take(opening)) is not None:
                self._lanes.give(lane, wire, opening.answered_after_s)
        if opening.failure is not None and self._opener.leads_here(opening):
            raise fresh(opening.failure)
        return lane.wire  # or another has got it; or none, and one is opened to where the server is now

    def _put(self, opening: Opening) -> None:
        """See to a connection that is open, and that nobody has waited for. On the opener's thread."""
        with self._lock:
            wire = self._opener.take(opening)
            if wire is None:
                return
            empty = self._lanes.empty()
            lane = next((each for each in empty if not each.is_free()), empty[0] if empty else None)
            if lane is not None and not self._is_closed:
                self._lanes.give(lane, wire, opening.answered_after_s)
                if lane.is_free():
                    self._lanes.relieve(lane)
                return
        wire.close()
