"""Connections for trio, on each of which any number of callers' commands are multiplexed.

redis-py's asyncio client cannot run under trio. Its blocking connection opens, authenticates and shakes hands
on a worker thread; then its socket is made non-blocking and driven from the loop. A system task reads, parses
and wakes the callers; another writes what a caller could not write by itself at once. What calls, replies
and deadlines have to do with each other stands in `multiplexed.py`. A cancelled caller costs nothing but its
unread reply, and no thread has to get its turn beside a busy loop, once a connection is open.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from time import monotonic, sleep
from typing import Any, Final

import trio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sansio_cache_redis.calls import Args
from sansio_cache_redis.connections.multiplexed import (
    Caller,
    Gathering,
    MultiplexedConnection,
    R,
    Read,
    read_failure,
)
from sansio_cache_redis.connections.pace import SWEEP_S, Pace
from sansio_cache_redis.connections.pool import MultiplexedConnections, Timing
from sansio_cache_redis.connections.redispy import (
    Handshake,
    exchange_publicly,
    has_unread,
    reply_reader,
    socket_of,
    unread_bytes,
    unsent_bytes,
)
from sansio_cache_redis.errors import OwnResetError, as_failure, as_opening_failure, fresh

_READ_BYTES: Final = 262144
_WRITE_BYTES: Final = 65536
"""What is tried in one call. TLS must be given the same bytes again, so it has to be the same every time."""
_MOST_READS: Final = 16
"""TLS gives out 16 kB at a time; others have their turn after so many of them."""

_LAST_S: Final = 1.0
"""How long connections outlive the run that ends, for what has something to give back."""

_WAY_S: Final = 0.0002
_SHORTEST_PAUSE_S: Final = 0.001
"""How long the loop stands still for a thread that connects, and how often."""

# Looked up once, as each call needs them. What a task is woken with only has to look like an outcome.
_current_task: Final = trio.lowlevel.current_task
_wake_task: Final[Callable[[trio.lowlevel.Task, Any], None]] = trio.lowlevel.reschedule


class _Call:
    """A future: the task that waits for an answer, and what it is woken with."""

    __slots__ = ("_result", "_task")

    _result: Any

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = _current_task()

    def done(self) -> bool:
        """Whether it waits no more."""
        return self._task is None

    def set_result(self, result: Any, /) -> None:
        """Let the task go on with its answer."""
        task, self._task = self._task, None
        assert task is not None
        self._result = result
        _wake_task(task, self)

    def unwrap(self) -> Any:
        """What trio asks of what a task is woken with: it takes the call for an outcome."""
        return self._result

    def __await__(self) -> Generator[Any, Any, Any]:
        return trio.lowlevel.wait_task_rescheduled(self._give_up).__await__()  # noqa: ASYNC105

    def _give_up(self, _: Any) -> trio.lowlevel.Abort:
        """The caller is cancelled: its replies will be taken in, and dropped."""
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _TrioConnection(MultiplexedConnection):
    """One open connection of redis-py, and the task that writes."""

    def __init__(
        self, redispy: Any, write: Callable[[bytes], object], pace: Pace, longest_bytes: int
    ) -> None:
        super().__init__(reply_reader(redispy), write, _Call, pace, longest_bytes)
        self._redispy = redispy
        self._resting: trio.lowlevel.Task | None = None
        """The task that writes, while there is nothing to write."""

    @trio.lowlevel.enable_ki_protection  # a call that is pending must be waiting when its answer comes
    async def ask(
        self,
        commands: Sequence[Args],
        timeout_s: float,
        read: Read[R],
        packed: bytes | None = None,
        caller: Caller | None = None,
    ) -> R:
        """Send commands together, and wait for what `read` makes of the replies, or of why none was sent."""
        try:
            # By its name: `super()` takes longer than all the rest here.
            answer = MultiplexedConnection.ask(self, commands, timeout_s, read, packed, caller)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes in the place of the replies
            return read_failure(read, error)
        return await answer

    def _flush_soon(self) -> None:
        task, self._resting = self._resting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _sweep_soon(self) -> None:
        trio.lowlevel.spawn_system_task(self._sweep)

    async def _sweep(self) -> None:
        is_needed = True
        while is_needed:
            await trio.sleep(SWEEP_S)
            is_needed = self._look()

    async def _rest(self) -> None:
        """Wait until there is something to write."""

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._resting = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._resting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """A system task: what it raises would end the run.

        It outlives the others when the run ends, as these may have something to give back.
        """
        try:
            with trio.CancelScope(shield=True):
                await work()
        except Exception as error:  # noqa: BLE001 - also what the parser makes of nonsense
            self.close(as_failure(error))

    def _disconnect(self) -> None:
        self._redispy.disconnect()
        self._flush_soon()  # the task that writes finds out and ends


class _SocketConnection(_TrioConnection):
    """On its socket."""

    def __init__(self, redispy: Any, sock: socket.socket, pace: Pace, longest_bytes: int) -> None:
        super().__init__(redispy, self._try_to_write, pace, longest_bytes)
        sock.setblocking(False)
        self._sock = sock
        self._reads = _MOST_READS if isinstance(sock, ssl.SSLSocket) else 1
        self._left_bytes = 0
        """How much of what is being written the socket has not taken."""
        trio.lowlevel.spawn_system_task(self._guard, self._read_all)
        trio.lowlevel.spawn_system_task(self._guard, self._write_all)

    def _try_to_write(self, data: bytes) -> None:
        sent_bytes = 0
        if not (self._left_bytes or self._outbox) and len(data) <= _WRITE_BYTES:
            try:  # noqa: SIM105 - every call comes here, and `suppress` costs three
                sent_bytes = self._sock.send(data)
            except OSError:  # it has to wait, or is broken: who writes finds out
                pass
        if sent_bytes < len(data):
            self._outbox.append(data[sent_bytes:])
            self._flush_soon()

    async def _write_all(self) -> None:
        while self.failure is None:
            if not self._outbox:
                await self._rest()
                continue
            left = memoryview(self._outgoing())
            while left:
                self._left_bytes = len(left)
                try:
                    left = left[self._sock.send(left[:_WRITE_BYTES]) :]
                except ssl.SSLWantReadError:
                    await trio.sleep(SWEEP_S)  # the other task reads
                except (BlockingIOError, ssl.SSLWantWriteError):
                    self._get_stuck(True)
                    await trio.lowlevel.wait_writable(self._sock)
            self._left_bytes = 0
            self._get_stuck(False)

    async def _read_all(self) -> None:
        buffer = memoryview(bytearray(_READ_BYTES))
        while self.failure is None:
            await trio.lowlevel.wait_readable(self._sock)
            for _ in range(self._reads):
                try:
                    count = self._sock.recv_into(buffer)
                except (BlockingIOError, ssl.SSLWantReadError):
                    break
                except ssl.SSLWantWriteError:
                    await trio.sleep(SWEEP_S)  # the other task writes
                    continue
                if not count:
                    raise RedisConnectionError("the server closed the connection")
                self.data_received(buffer[:count])

    def _unread_bytes(self) -> int:
        return unread_bytes(self._sock)

    def _unsent_bytes(self) -> int:
        return self._left_bytes + unsent_bytes(self._sock)

    def _disconnect(self) -> None:
        trio.lowlevel.notify_closing(self._sock)
        super()._disconnect()


class _PublicConnection(_TrioConnection):
    """Where its socket is not to be had: redis-py's public methods, batch after batch on a thread."""

    def __init__(self, redispy: Any, pace: Pace, longest_bytes: int) -> None:
        super().__init__(redispy, self._write_later, pace, longest_bytes)
        self._longest_s = redispy.socket_timeout
        self._threads = trio.CapacityLimiter(1)
        trio.lowlevel.spawn_system_task(self._guard, self._exchange_all)

    def _write_later(self, data: bytes) -> None:
        self._outbox.append(data)
        self._flush_soon()

    async def _exchange_all(self) -> None:
        while self.failure is None:
            if not self._outbox:
                await self._rest()
                continue
            count = sum(wanted for _, wanted, *_ in self._pending)
            self._deliver(
                await trio.to_thread.run_sync(
                    self._exchange, self._outgoing(), count, abandon_on_cancel=True, limiter=self._threads
                )
            )

    def _exchange(self, data: bytes, count: int) -> list[Any]:
        replies = []
        for reply in exchange_publicly(self._redispy, [data], count, self._longest_s):
            self._last_read_s = monotonic() - self._behind_s
            self._answered += 1
            replies.append(reply)
        return replies


def _connection_on(redispy: Any, pace: Pace, longest_bytes: int) -> _TrioConnection:
    """Take a connection over that redis-py has opened."""
    if has_unread(redispy):
        raise RedisConnectionError("a reply came that nobody has asked for")
    sock = socket_of(redispy)
    return (
        _PublicConnection(redispy, pace, longest_bytes)
        if sock is None
        else _SocketConnection(redispy, sock, pace, longest_bytes)
    )


class _Connecting:
    """A connection that a thread opens for a task, which may not wait that long."""

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._make_connection = make_connection
        self._handshake: Handshake | None = None
        self._is_abandoned = False
        self._is_over = False

    async def run(self, limiter: trio.CapacityLimiter) -> Any:
        """The open connection."""
        trio.lowlevel.spawn_system_task(self._give_way)
        try:
            return await trio.to_thread.run_sync(self._connect, abandon_on_cancel=True, limiter=limiter)
        except trio.Cancelled:
            self._is_abandoned = True
            if self._handshake is not None:
                self._handshake.give_up()
            raise
        finally:
            self._is_over = True

    async def _give_way(self) -> None:
        """Let the thread have its turns: a busy loop takes the lock back before the thread has woken up."""
        pause_s = _SHORTEST_PAUSE_S
        while not self._is_over:
            sleep(_WAY_S)  # noqa: ASYNC251 - to block is what is wanted
            await trio.sleep(pause_s)
            pause_s = min(1.05 * pause_s, SWEEP_S)  # it may be the server that is slow, for long

    def _connect(self) -> Any:
        handshake = self._handshake = Handshake(self._make_connection())
        handshake.shake(lambda: self._is_abandoned)
        if self._is_abandoned:  # before it could be given up
            handshake.give_up()
        return handshake.connection


class _Opening:
    """A connection that is being opened, for all who wait for one."""

    def __init__(self, started_s: float, generation: int) -> None:
        self.started_s = started_s
        self.generation = generation
        """Of the server that it leads to: that of before is not used."""
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.connection: _TrioConnection | None = None
        self.failure: Exception = OwnResetError("the cache was closed")


class TrioConnections(MultiplexedConnections[_TrioConnection]):
    """The open connections to one server, for any number of tasks of one trio run.

    Args:
        make_connection: Makes a blocking connection of redis-py that is not open yet.
        max_connections: How many may be open at once.
        timing: How long they may take.
        on_greeted: Told the replies to the `GREETING` when a connection opens. It raises where that is not
            to be used.
        longest_value_bytes: A reply that announces a longer value is not read on.
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
        super().__init__(
            make_connection,
            max_connections=max_connections,
            timing=timing,
            on_greeted=on_greeted,
            longest_value_bytes=longest_value_bytes,
        )
        self._openings: list[_Opening] = []
        self._closed = trio.Event()
        trio.lowlevel.spawn_system_task(self._end_with_the_run)
        # Of its own: loaders may hold all of trio's usual ones. Who is abandoned keeps its place for a while.
        self._threads = trio.CapacityLimiter(max_connections)

    @property
    def count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._all()) + len(self._openings) + self._confirming_count

    async def aclose(self) -> None:
        """Close the connections, for good, and wait until they are."""
        self._is_closed = True
        for opening in list(self._openings):
            opening.scope.cancel()
            await opening.done.wait()
        self._closed.set()
        self._close()
        await trio.lowlevel.checkpoint()

    async def _end_with_the_run(self) -> None:
        """As the run ends all system tasks are cancelled at once: those that use connections end first."""
        try:
            await self._closed.wait()
        finally:
            with trio.move_on_after(_LAST_S, shield=True):
                await self._closed.wait()
            self._close()

    @trio.lowlevel.enable_ki_protection  # a call that is pending must be waiting when its answer comes
    async def wait_for(self, gathering: Gathering) -> list[Any]:
        """Wait for what was asked for; the answers, in their places."""
        if gathering.left:
            gathering.caller = _Call()
            await gathering.caller
        return gathering.answers

    def _start(self, job: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            await job

        trio.lowlevel.spawn_system_task(run)

    def _open_soon(self) -> None:
        if not self._is_closed:
            self._opening()

    def _opening(self) -> _Opening:
        """The connection that is being opened; another one beside it, where it takes too long."""
        openings = [each for each in self._openings if each.generation == self._generation]
        if openings and self._is_worth_waiting_for(openings[-1].started_s, len(openings)):
            return openings[-1]
        opening = _Opening(monotonic(), self._generation)
        # Not cancelled with the caller: it goes on being opened, for the next one.
        trio.lowlevel.spawn_system_task(self._open_one, opening)
        self._openings.append(opening)
        return opening

    @trio.lowlevel.enable_ki_protection  # who finds an opening waits for it, so it must have begun
    async def _opened(self, timeout_s: float) -> _TrioConnection:
        if self._is_closed:
            raise OwnResetError("the cache was closed")
        opening = self._opening()
        with trio.move_on_after(max(timeout_s, 0)):
            await opening.done.wait()
            while opening.generation != self._generation and not self._is_closed:
                opening = self._opening()
                await opening.done.wait()
        if not opening.done.is_set():
            raise RedisTimeoutError("no connection in time")
        if opening.connection is None:
            raise fresh(opening.failure)
        return opening.connection

    def _forsake_openings(self) -> None:
        for opening in self._openings:
            opening.scope.cancel()

    async def _open_one(self, opening: _Opening) -> None:
        connection: _TrioConnection | None = None
        try:
            with opening.scope:
                await trio.sleep(self._pause_s())
                with trio.move_on_after(self._timing.opening_s):
                    redispy = await _Connecting(self._make_connection).run(self._threads)
                    connection = _connection_on(redispy, self._timing.pace(), self._longest_value_bytes)
                    await self._admit(connection, opening.generation)
                    opening.connection = connection
                if opening.connection is None:
                    opening.failure = RedisTimeoutError("no connection in time")
        except Exception as error:  # noqa: BLE001 - handed to the callers who wait
            opening.failure = as_opening_failure(error)
        finally:
            if opening.connection is None:
                if opening.generation == self._generation:
                    self._lost()
                if connection is not None:
                    connection.close(opening.failure)
            self._openings = [each for each in self._openings if each is not opening]
            opening.done.set()
