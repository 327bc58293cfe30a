"""Connections for threads whose callers ask several servers at the same time.

One caller has a call at each of them. It sends all, as far as it drives a lane there, and then reads: it
gives each a few milliseconds in turn until all are over, and leaves the lane of each as soon as that is. So a
server that says nothing keeps no lane of another, and two callers who queue for each other's lanes go on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args, is_confirmed, nonces_given_back
from sansio_cache_redis.connections.lanes import Call, Lane
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.errors import ERRORS

SLICE_S: Final = 0.003
"""How long each server is waited for in its turn: a lane that is busy for longer is passed over."""
_SHORTEST_S: Final = 0.002

Begun = tuple["ScatteringConnections", Call]
"""A call, and where it is to be ended."""


class ScatteringConnections(ThreadsConnections):
    """Connections to one of several servers."""

    def begin(self, commands: Sequence[Args], timeout_s: float, begun: list[Begun]) -> Call | None:
        """Send commands, or stand in line.

        None where the caller finds its own thread inside, or replicas are to have what is written: then
        `execute` is to be called.

        Whoever begins calls ends what has begun, whatever happens: an interrupt too may come at any point.

        Raises:
            RedisError, OSError: Nothing was sent.
        """
        if is_confirmed(commands):
            return None
        now_s = monotonic()
        thread = threading.get_ident()
        outer = self._inside.get(thread)
        if self._is_held_here() or not (outer is None or outer.is_gone):
            return None
        deadline_s = now_s + max(timeout_s, _SHORTEST_S)
        call = Call(commands, now_s, deadline_s, deadline_s, thread, self._lanes[0], [])
        self._large.refuse_resting(commands, now_s)
        call.is_large = self._large.are_large(commands)
        call.gives_back = nonces_given_back(commands)
        begun.append((self, call))
        self._inside[thread] = call
        try:
            with self._lock:
                lane, opening = self._choose(call, now_s)
                call.lane, call.opening = lane, opening
                if lane.is_free():
                    lane.driver, lane.since_s = call, now_s
                else:
                    call.turn = threading.Lock()
                    call.turn.acquire()
                    lane.queue.append(call)
            if opening is not None:
                self._opener.begin(opening)
            if lane.driver is call and lane.wire is not None:
                self._send_first(lane, call, now_s)
        except ERRORS as error:
            let_through(error)
            call.failure = call.failure or error
        return call

    def go_on(self, call: Call, until_s: float) -> bool:
        """Wait for the replies, until a moment on the monotonic clock at most; whether it is over."""
        until_s = min(until_s, call.deadline_s)
        turn = call.turn
        if turn is not None and call.lane.driver is not call:
            turn.acquire(timeout=max(until_s - monotonic(), 0.0))
            if call.lane.is_free():  # whoever drove was interrupted, and could appoint nobody
                with self._lock:
                    call.lane.appoint()
        lane = call.lane
        if lane.driver is call and not call.is_over:
            try:
                self._drive_until(lane, call, until_s)
            except ERRORS as error:
                let_through(error)
                call.failure = call.failure or error
        if call.is_over or monotonic() >= call.deadline_s:
            self.end(call)
            return True
        return False

    def end(self, call: Call) -> None:
        """Leave, however it went."""
        call.is_gone = True
        if self._inside.get(call.thread) is call:
            self._inside.pop(call.thread, None)
        if call.lane.driver is call:
            self._leave(call)

    def replies(self, call: Call) -> list[Any]:
        """The replies of a call that was ended.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        return call.result(monotonic())

    def _send_first(self, lane: Lane, call: Call, now_s: float) -> None:
        """Send what the caller asks, where nothing is in the way; else it is sent in its turn."""
        try:
            wire = self._wire_of(lane, call, now_s, now_s)  # others are still to be asked
            if wire is not None and not (lane.due or wire.is_writing):
                self._send(lane, wire, call, now_s)
        except BaseException as error:
            self._fail(lane, call, error)
            raise

    def _drive_until(self, lane: Lane, call: Call, until_s: float) -> None:
        """Serve the caller, and all that queue behind it, for some time."""
        try:
            while not call.is_over:
                now_s = monotonic()
                self._advance(lane, call, now_s, until_s)
                if now_s >= until_s and not call.is_over:
                    return
            if lane.due and lane.is_stuck(monotonic()):
                self._give_up(lane, call)
            if lane.wire is not None and lane.wire.is_writing:  # half a command is of no use to anybody
                self._drop(lane, call)
        except BaseException as error:
            self._fail(lane, call, error)
            raise
