"""The driver for asyncio and trio: performs the commands of one operation, one at a time, in its task.

Mirrors `sync/driver.py`, from which it differs by `async` and `await`, and by asking for a read without a
coroutine of its own. The rules that decide whether a lease can leak: an interrupted acquire counts as held; a
release is always shielded, on the success path too; and the clean-up is bounded in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from sansio_cache.commands import (
    AcquireLeases,
    Command,
    Compute,
    ComputeMany,
    ReadCell,
    ReleaseLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
    Watch,
)
from sansio_cache.errors import CacheClosedError
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    Event,
    FailureKind,
    Interrupted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
    StoreEvent,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import RefreshSkipped
from sansio_cache.single_flight import SingleFlight
from sansio_cache.step import Abandoned, Completed, Loaded, Outcome, Step, ended
from sansio_cache_redis.errors import own_copy
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.wire import (
    EVALSHA,
    Args,
    ServerClock,
    as_eval,
    classify,
    decode,
    encode,
    unknown_scripts,
)
from sansio_cache_runtime.anyio.background import Background
from sansio_cache_runtime.loaders import bound, is_coroutine_function
from sansio_cache_runtime.memory import SharedMemory
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.recursion import forget_loads, loading, refuse_recursion
from sansio_cache_runtime.request_builder import RequestBuilder

_CLEAN_UP_S: Final = 1.0
_MOST_REFRESHES: Final = 1_000
"""How many may run at once in the background. Past that one is skipped; a later read asks for it again."""


class Channel(Protocol):
    """Runs batches of Redis commands."""

    def execute(self, commands: list[Args], timeout_s: float) -> Awaitable[list[Any]]:
        """Send commands together; returns their replies, error replies as values."""
        ...

    def reset(self) -> None:
        """Close the connections; others are opened when they are needed."""
        ...

    async def aclose(self) -> None:
        """Close the connections, for good."""
        ...


class Store(Protocol):
    """Answers store commands."""

    async def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        ...

    # The same in two parts for the command that a hit is: without a coroutine of its own.

    def ask(self, command: ReadCell) -> Awaitable[Any]:
        """Ask; what is given back is awaited, and handed to `answer`. It may raise where the store fails."""
        ...

    def answer(self, command: ReadCell, replies: Any) -> StoreEvent:
        """Make an event of it."""
        ...


class RedisStore:
    """Answers store commands through a channel to a server."""

    def __init__(self, channel: Channel, server_clock: ServerClock, clock: Callable[[], float]) -> None:
        self.channel = channel
        self._server_clock = server_clock
        self._clock = clock

    async def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        try:
            commands = encode(command)
            replies = await self.channel.execute(commands, command.timeout_s)
            if commands[0][0] is EVALSHA and (unknown := unknown_scripts(replies)):
                again = [as_eval(commands[place]) for place in unknown]
                for place, reply in zip(
                    unknown, await self.channel.execute(again, command.timeout_s), strict=True
                ):
                    replies[place] = reply
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            return StoreFailed(self._clock(), classify(error))
        return self.answer(command, replies)

    def ask(self, command: ReadCell) -> Awaitable[list[Any]]:
        """Ask; no script is needed for a read."""
        return self.channel.execute(encode(command), command.timeout_s)

    def answer(self, command: StoreCommand, replies: list[Any]) -> StoreEvent:
        """Make an event of the replies."""
        event = decode(command, replies, self._server_clock, self._clock())
        if isinstance(event, StoreFailed) and event.kind in (FailureKind.MISPAIRED, FailureKind.READ_ONLY):
            self.channel.reset()
        return event


class MemoryStore:
    """Answers store commands from this process's memory, without waiting."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    async def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once; but a cancelled caller is told so here, as everywhere."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        return self._memory.perform(command)

    def ask(self, command: ReadCell) -> Awaitable[None]:  # noqa: ARG002
        """Nothing is sent."""
        return anyio.lowlevel.checkpoint_if_cancelled()

    def answer(self, command: ReadCell, replies: None) -> StoreEvent:  # noqa: ARG002
        """Read."""
        return self._memory.perform(command)


class _Watching:
    """What a waiting load watches: keys, with the numbers under which the waker knows it."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.change = anyio.Event()

    def wake(self) -> None:
        """Something has happened to one of the keys."""
        self.change.set()


class Driver:
    """Runs operations for any number of tasks of one event loop.

    Args:
        store: Answers store commands.
        ledger: Takes the notices in.
        planner: Makes the recovery's first step.
        background: Starts tasks that belong to no caller.
        distrust: Called when a reply belonged to another key.
        waker: Tells waiters when a key has changed; without one, they poll.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        request_builder: RequestBuilder,
        background: Background,
        distrust: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._request_builder = request_builder
        self._background = background
        self._distrust = distrust
        self._clock = request_builder.clock
        self._single_flight = SingleFlight()
        self._landings: dict[int | bytes, anyio.Event] = {}
        self._listener = listener
        self._watching: dict[int | bytes, _Watching] = {}
        self._is_closing = False
        self._is_recovering = False
        self._refreshes = 0

    async def run(self, step: Step, loader: Callable[..., Any] | None = None) -> Outcome:
        """Run an operation to its end.

        Raises:
            CacheClosedError: The cache is closed.
            RecursiveLoadError: A loader asks for its own key.
        """
        if self._is_closing:
            raise CacheClosedError("the cache is closed: make another")
        store = self._store
        try:
            if step.notices:
                self._observe(step)
            while (command := step.command) is not None:
                event: Event
                if isinstance(command, ReadCell):  # a hit is nothing but this
                    try:
                        replies = await store.ask(command)
                    except Exception as error:  # noqa: BLE001 - as in `perform`
                        event = StoreFailed(self._clock(), classify(error))
                    else:
                        event = store.answer(command, replies)
                else:
                    event = await self._perform(command, loader)
                step = step.state.receive(event)
                if step.notices or step.load_id is not None:
                    self._observe(step)
        except BaseException:
            await self._abandon(step)
            raise
        if step.spawn:
            self._spawn(step.spawn, loader)
        assert step.outcome is not None
        return step.outcome

    @asynccontextmanager
    async def renewing(self, renewal: Step | None) -> AsyncIterator[None]:
        """Renew leases while the block runs."""
        if renewal is None:
            yield
            return
        cancel = self._background.start(lambda: self.run(renewal))
        try:
            yield
        finally:
            cancel()

    async def close(self) -> None:
        """End the background tasks; what they hold is given back while there is a store to take it."""
        self._is_closing = True
        for watching in self._watching.values():
            watching.wake()
        if self._listener is not None:
            self._listener.close(wait=False)
        await self._background.end()

    async def _abandon(self, step: Step) -> None:
        """Give back what an interrupted operation may hold, shielded and bounded in time."""
        load_id = step.load_id
        try:
            if step.command is None:
                return
            with anyio.move_on_after(_CLEAN_UP_S, shield=True):
                step = step.state.receive(Interrupted(self._clock()))
                self._observe(step)
                while step.command is not None:
                    event = await self._perform(step.command, None)
                    step = step.state.receive(event)
                    self._observe(step)
        finally:
            # Out of time, or cancelled once more, which asyncio does not shield from.
            self._give_up(step)
            self._observe(ended(Abandoned(), load_id=load_id))

    def _give_up(self, step: Step) -> None:
        """End an interrupted operation without the store: what could not be removed is remembered."""
        while step.command is not None:
            step = step.state.receive(StoreFailed(self._clock(), FailureKind.TIMEOUT))
            self._observe(step)

    async def _perform(self, command: Command, loader: Callable[..., Any] | None) -> Event:
        match command:
            case ReleaseLeases():
                with anyio.move_on_after(_CLEAN_UP_S, shield=True):
                    return await self._store.perform(command)
                return StoreFailed(self._clock(), FailureKind.TIMEOUT)
            case Compute(key=key, name=name):
                assert loader is not None
                return await self._compute(loading(self, key, name), command.renewal, bound(loader, command))
            case ComputeMany(keys=keys):
                assert loader is not None
                refuse_recursion(self, *keys)  # a batch without the store has not asked for leases
                return await self._compute(loading(self, *keys), command.renewal, bound(loader, command))
            case ShareLoad():
                return await self._share(command)
            case Sleep(duration_s=duration_s, watch=watch):
                if watch is not None:
                    await self._sleep_watching(duration_s, watch)
                else:
                    await anyio.sleep(duration_s)
                if self._is_closing:
                    raise CacheClosedError("the cache was closed while an operation was waiting")
                return Woke(self._clock())
            case AcquireLeases(lease_requests=lease_requests):
                refuse_recursion(self, *(lease_id.key for lease_id in lease_requests))
                return await self._store.perform(command)
            case _:  # all the others are the store's: a new command that is not fails the type check here
                return await self._store.perform(command)

    async def _compute(
        self, mark: AbstractContextManager[None], renewal: Step | None, loader: Callable[[], Any]
    ) -> Event:
        async with self.renewing(renewal):
            with mark:
                try:
                    value = await call(loader)
                except Exception as error:  # noqa: BLE001 - the loader's own, handed to its callers
                    return ComputeFailed(self._clock(), error)
                return Computed(self._clock(), value)

    async def _share(self, command: ShareLoad) -> Event:
        refuse_recursion(self, command.key)
        place = self._single_flight.join(command)
        if isinstance(place, int):
            return LoadLed(self._clock(), place)
        if place is None:
            return LoadNotShared(self._clock())
        landing = self._landings.setdefault(place.load_id, anyio.Event())
        try:
            with anyio.move_on_after(command.timeout_s):
                await landing.wait()
        finally:
            has_ended = self._single_flight.has_ended(place)
            result = self._single_flight.leave(place)
        now_s = self._clock()
        if not has_ended:
            return SharingTimedOut(now_s, place.load_id, place.arrival)
        if result is None:
            return LoadNotShared(now_s, place.arrival)
        if isinstance(result, Loaded):
            if result.payload is not None:
                return LoadShared(now_s, result.payload, None)
            return own_copy(result.value, place.arrival, now_s)
        return LoadErrorShared(now_s, result.error)

    async def _sleep_watching(self, duration_s: float, watch: Watch) -> None:
        """Subscribe, let the caller look again, wait: see `listening.py`."""
        watching = self._watching.get(watch.load_id)
        if watching is None:
            watching = self._watching[watch.load_id] = _Watching()
        if self._listener is not None:
            wake = partial(self._background.call_soon, watching.wake)
            new = [key for key in watch.keys if key not in watching.numbers]
            watching.numbers |= {key: self._listener.watch(key, wake) for key in new}
            if new and self._listener.is_live:
                return
        is_told = self._listener is not None and self._listener.is_live
        with anyio.move_on_after(watch.longest_s if is_told else duration_s):
            await watching.change.wait()
        watching.change = anyio.Event()

    def _stop_watching(self, load_id: int | bytes) -> None:
        watching = self._watching.pop(load_id, None)
        if watching is not None and self._listener is not None:
            for key, number in watching.numbers.items():
                self._listener.unwatch(key, number)

    def _spawn(self, steps: Sequence[Step], loader: Callable[..., Any] | None) -> None:
        """Run operations in the background, but for those that somebody here runs already."""
        for step in steps:
            command = step.command
            assert isinstance(command, ShareLoad)
            if self._refreshes >= _MOST_REFRESHES:
                self._recorder.note((RefreshSkipped(command.key),))
                continue
            place = self._single_flight.lead(command)
            if place is not None:
                begun = step.state.receive(LoadLed(self._clock(), place))
                self._refreshes += 1
                self._background.start(partial(self._run_spawned, begun, loader))

    async def _run_spawned(self, step: Step, loader: Callable[..., Any] | None) -> None:
        forget_loads()
        try:
            await self.run(step, loader)
        except CacheClosedError:
            self._observe(ended(Abandoned(), load_id=step.load_id))
        finally:
            self._refreshes -= 1

    def _observe(self, step: Step) -> None:
        if step.load_id is not None and (self._single_flight.observe(step) or step.outcome is not None):
            self._stop_watching(step.load_id)
            landing = self._landings.pop(step.load_id, None)
            if landing is not None:
                landing.set()
        if step.notices:
            if self._recorder.note(step.notices):
                self._distrust()
            if self._recorder.needs_recovery and not (self._is_recovering or self._is_closing):
                self._is_recovering = True
                self._background.start(self._recover)

    async def _recover(self) -> None:
        try:
            while self._recorder.needs_recovery:
                pending = self._recorder.pending_invalidations()
                outcome = await self.run(self._request_builder.recovery(pending))
                if isinstance(outcome, Completed):
                    self._recorder.told(pending)
        except CacheClosedError:
            pass
        finally:
            self._is_recovering = False


async def call(loader: Callable[[], Any]) -> Any:
    """Call a loader: a coroutine function here, a plain one on a worker thread, as it may block."""
    if is_coroutine_function(loader):
        return await loader()
    # In a list: trio takes a function that returns a coroutine for a mistake.
    [value] = await anyio.to_thread.run_sync(lambda: [loader()])
    return await value if isawaitable(value) else value
