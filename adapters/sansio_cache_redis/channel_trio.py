"""The channel for trio: a blocking connection on a thread of its own, driven in batches.

redis-py's asyncio client cannot run under trio. The thread takes everything that callers have queued since
its last batch, sends it in one go, reads the replies and hands them all back in one call into the loop. The
thread owns the connection, so a cancelled caller costs nothing but its unread reply. There are more threads
where one is long busy, as with large values.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.channel_threads import ClientChannel
from sansio_cache_redis.lowlevel import Wire, blocking_wire
from sansio_cache_redis.replies import LONGEST_CALL_S, as_failure, fresh, tell_time
from sansio_cache_redis.wire import TIME, Args

_SWEEP_S: Final = 0.02
_MOST_LATE_LOOKS: Final = 3
_SLOW_S: Final = 0.01
"""A worker that has been busy with one batch for longer is passed over, as for large values."""
_MOST_COMMANDS: Final = 1000
"""How many commands go into one batch, so that one caller's replies do not wait for everybody's."""


class _Call:
    """A batch on its way. The thread writes to it before it is delivered; the loop reads it after that."""

    __slots__ = ("commands", "failure", "replies", "sent_s", "task", "timeout_s")

    def __init__(self, commands: Sequence[Args], timeout_s: float, sent_s: float) -> None:
        self.commands = commands
        self.timeout_s = timeout_s
        self.sent_s = sent_s
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.replies: list[Any] | None = None
        self.failure: Exception | None = None

    def wake(self) -> None:
        """Let the caller go on; once, and not at all if it has given up."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def give_up(self, _: Any) -> trio.lowlevel.Abort:
        """The caller is cancelled: its replies will be read, and dropped."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _Worker:
    """A thread with one connection, and the calls that queue for it."""

    def __init__(
        self,
        make_connection: Callable[[], Any],
        on_time: Callable[[int], object],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._make_connection = make_connection
        self._on_time = on_time
        self._token = token
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Call] = deque()
        self._is_closed = False
        self._is_to_reset = False
        self.ended = trio.Event()
        self.wire: Wire | None = None
        self.busy_since_s: float | None = None
        threading.Thread(target=self._run, name="sansio-cache-trio", daemon=True).start()

    @property
    def last_read_s(self) -> float:
        """When something last came in; 0 without a connection."""
        wire = self.wire
        return 0.0 if wire is None else wire.last_read_s

    def put(self, call: _Call) -> None:
        """Queue a call for the next batch."""
        with self._changed:
            self._queue.append(call)
            if len(self._queue) == 1:
                self._changed.notify()

    def reset(self) -> None:
        """Close the connection before the next batch; another is opened for it."""
        with self._changed:
            self._is_to_reset = True

    def stop(self) -> None:
        """End the thread when its batch is over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    # On the thread.

    def _run(self) -> None:
        try:
            while calls := self._next():
                self._do(calls)
                self._token.run_sync_soon(_deliver, calls)
            self._token.run_sync_soon(self.ended.set)
        except trio.RunFinishedError:
            pass  # nobody is left to be told
        finally:
            self._disconnect()

    def _next(self) -> list[_Call]:
        """The calls of the next batch; none when it is time to end."""
        with self._changed:
            if not self._queue:
                self.busy_since_s = None
            while not self._queue and not self._is_closed:
                self._changed.wait()
            self.busy_since_s = time.monotonic()
            calls: list[_Call] = []
            size = 0
            while self._queue and not self._is_closed and size < _MOST_COMMANDS:
                calls.append(self._queue.popleft())
                size += len(calls[-1].commands)
            is_to_reset, self._is_to_reset = self._is_to_reset, False
        if is_to_reset:
            self._disconnect()
        return calls

    def _do(self, calls: list[_Call]) -> None:
        # A call whose caller has given up is not sent.
        live = [call for call in calls if call.task is not None]
        if not live:
            return
        try:
            wire = self.wire or self._connect()
            commands = [command for call in live for command in call.commands]
            replies = iter(wire.exchange(commands, max(call.timeout_s for call in live)))
            for call in live:
                call.replies = [next(replies) for _ in call.commands]
        except Exception as error:  # noqa: BLE001 - handed to the callers, who wait for an answer
            self._disconnect()
            for call in live:
                call.failure = fresh(as_failure(error))

    def _connect(self) -> Wire:
        connection = self._make_connection()
        try:
            connection.connect()
            wire = blocking_wire(connection)
            [reply] = wire.exchange([TIME], connection.socket_timeout)
            tell_time(reply, self._on_time)
        except BaseException:
            connection.disconnect()
            raise
        self.wire = wire
        return wire

    def _disconnect(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()


def _deliver(calls: list[_Call]) -> None:
    for call in calls:
        call.wake()


class TrioChannel:
    """Runs batches of Redis commands for any number of tasks of one trio run.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        max_connections: How many threads, with a connection each, there may be.
        on_time: Told the server's time, in microseconds, when a connection opens.
    """

    def __init__(
        self,
        make_connection: Callable[[], Any],
        *,
        max_connections: int,
        on_time: Callable[[int], object],
    ) -> None:
        self._hire = partial(_Worker, make_connection, on_time, trio.lowlevel.current_trio_token())
        self._max_connections = max_connections
        self._workers: list[_Worker] = []
        self._is_closed = False
        self._waiting: dict[_Call, _Worker] = {}
        self._is_sweeping = False
        # The threads must not outlive the run, whether or not the cache is closed.
        trio.lowlevel.spawn_system_task(self._stop_with_the_run)

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values.

        Raises:
            RedisError, OSError: The fate of the commands is unknown.
        """
        if self._is_closed:
            raise RedisConnectionError("the cache was closed")
        now_s = time.monotonic()
        call = _Call(commands, timeout_s, now_s)
        worker = self._waiting[call] = self._choose(now_s)
        worker.put(call)
        if not self._is_sweeping:
            self._is_sweeping = True
            trio.lowlevel.spawn_system_task(self._sweep)
        try:
            await trio.lowlevel.wait_task_rescheduled(call.give_up)
        finally:
            del self._waiting[call]
        if call.replies is not None:
            return call.replies
        raise call.failure or RedisTimeoutError("no reply in time")

    def reset(self) -> None:
        """Close the connections before their next batches; others are opened for them."""
        for worker in self._workers:
            worker.reset()

    async def aclose(self) -> None:
        """Close the connections and end the threads."""
        self._stop()
        for worker in self._workers:
            await worker.ended.wait()
        for call in list(self._waiting):  # what was queued is not sent any more
            call.wake()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(worker.wire is not None for worker in self._workers)

    def _choose(self, now_s: float) -> _Worker:
        """The first worker that is not long in the middle of a batch; where all are, the last."""
        for worker in self._workers:
            since_s = worker.busy_since_s
            if worker.wire is not None and (since_s is None or now_s - since_s < _SLOW_S):
                return worker
        for worker in self._workers:  # one without a connection: another would not get one any sooner
            if worker.wire is None:
                return worker
        if len(self._workers) < self._max_connections:
            self._workers.append(self._hire())
        return self._workers[-1]

    async def _sweep(self) -> None:
        """Wake the callers whose time is over: one look at all of them, in place of a timer for each."""
        due_s = time.monotonic()
        late_looks = 0
        while self._waiting:
            due_s += _SWEEP_S
            await trio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            is_late, due_s = now_s - due_s > _SWEEP_S, now_s
            # Where the loop was blocked the threads may have been, too: look again, but not for ever.
            late_looks = late_looks + 1 if is_late and late_looks < _MOST_LATE_LOOKS else 0
            if late_looks:
                continue
            for call, worker in list(self._waiting.items()):
                waited_s = now_s - max(call.sent_s, worker.last_read_s)
                if waited_s >= call.timeout_s or now_s - call.sent_s >= LONGEST_CALL_S:
                    call.wake()
        self._is_sweeping = False

    async def _stop_with_the_run(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop()

    def _stop(self) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.stop()


class TrioClientChannel:
    """Runs batches through the pipelines of a blocking client that the user owns, on worker threads."""

    def __init__(self, client: Any) -> None:
        self._channel = ClientChannel(client)

    async def execute(self, commands: Sequence[Args], timeout_s: float) -> list[Any]:
        """Send commands together; returns their replies, error replies as values."""
        with trio.move_on_after(timeout_s):
            run = self._channel.execute
            # Given up on, the thread still reads its replies, so the connection stays in step.
            return await trio.to_thread.run_sync(run, commands, timeout_s, abandon_on_cancel=True)
        raise RedisTimeoutError("no reply in time")

    def reset(self) -> None:
        """Close the client's connections; it opens new ones by itself."""
        self._channel.reset()

    async def aclose(self) -> None:
        """Leave the client to its owner."""
        await trio.lowlevel.checkpoint()
