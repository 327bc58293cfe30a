"""The driver for threads: performs the commands of one operation, one at a time, in the caller's thread.

Mirrors `anyio/driver.py`, from which it differs by `async` and `await`. The rules that decide whether a
lease can leak are the same: an interrupted acquire counts as held, a release is not cut short, and the
clean-up is bounded in time, as every store command is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, Final, Protocol

from sansio_cache.commands import (
    AcquireLeases,
    Command,
    Compute,
    ComputeMany,
    ReadCell,
    RenewLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
    Watch,
)
from sansio_cache.errors import CacheClosedError, ConfigurationError
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
from sansio_cache_redis.connections.threads import ClientConnections, ThreadsConnections
from sansio_cache_redis.errors import own_copy
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.wire import (
    EVALSHA,
    ServerClock,
    as_eval,
    classify,
    decode,
    encode,
    unknown_scripts,
)
from sansio_cache_runtime.loaders import bound
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.recursion import forget_loads, loading, refuse_recursion
from sansio_cache_runtime.request_builder import RequestBuilder
from sansio_cache_runtime.subscribers import leave_explanations
from sansio_cache_runtime.sync.lease_renewer import LeaseRenewer
from sansio_cache_runtime.sync.workers import Workers

logger: Final = logging.getLogger("sansio_cache")


class Store(Protocol):
    """Answers store commands."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        ...


class RedisStore:
    """Answers store commands through a channel to a server."""

    def __init__(
        self,
        channel: ThreadsConnections | ClientConnections,
        server_clock: ServerClock,
        clock: Callable[[], float],
    ) -> None:
        self.channel = channel
        self._server_clock = server_clock
        self._clock = clock

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        try:
            commands = encode(command)
            replies = self.channel.execute(commands, command.timeout_s)
            if commands[0][0] is EVALSHA and (unknown := unknown_scripts(replies)):
                again = [as_eval(commands[place]) for place in unknown]
                for place, reply in zip(unknown, self.channel.execute(again, command.timeout_s), strict=True):
                    replies[place] = reply
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            return StoreFailed(self._clock(), classify(error))
        event = decode(command, replies, self._server_clock, self._clock())
        if isinstance(event, StoreFailed) and event.kind in (FailureKind.MISPAIRED, FailureKind.READ_ONLY):
            self.channel.reset()
        return event


class Driver:
    """Runs operations for any number of threads.

    Args:
        store: Answers store commands.
        ledger: Takes the notices in.
        planner: Makes the recovery's first step.
        distrust: Called when a reply belonged to another key.
        waker: Tells waiters when a key has changed; without one, they poll.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        request_builder: RequestBuilder,
        distrust: Callable[[], None],
        listener: Listener | None = None,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._request_builder = request_builder
        self._distrust = distrust
        self._clock = request_builder.clock
        self._single_flight = SingleFlight()
        self._landings: dict[int | bytes, threading.Event] = {}
        self._single_flight_lock = threading.Lock()
        self._mine = threading.local()
        self._listener = listener
        self._watching: dict[int | bytes, tuple[dict[str, int], threading.Event]] = {}
        self._workers = Workers()
        self._lease_renewer = LeaseRenewer(self._clock, self._renew, self._observe)
        self._closing = threading.Event()
        self._is_closed = False
        self._recovery: threading.Thread | None = None
        self._recovery_lock = threading.Lock()

    def run(self, step: Step, loader: Callable[..., Any] | None = None) -> Outcome:
        """Run an operation to its end.

        Raises:
            CacheClosedError: The cache is closed.
            RecursiveLoadError: A loader asks for its own key.
        """
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")
        try:
            if step.notices:
                self._observe(step)
            while (command := step.command) is not None:
                if isinstance(command, ReadCell):  # a hit is nothing but this
                    event: Event = self._store.perform(command)
                else:
                    event = self._perform(command, loader)
                step = step.state.receive(event)
                if step.notices or step.load_id is not None:
                    self._observe(step)
        except BaseException:
            self._abandon(step)
            raise
        if step.spawn:
            self._spawn(step.spawn, loader)
        assert step.outcome is not None
        return step.outcome

    def renewing(self, renewal: Step | None) -> AbstractContextManager[None]:
        """Renew leases while the block runs."""
        return self._lease_renewer.keeping(renewal)

    def close(self) -> None:
        """End the background threads."""
        self._is_closed = True
        self._closing.set()
        for _, change in list(self._watching.values()):
            change.set()
        if self._listener is not None:
            self._listener.close(wait=True)
        self._workers.close()
        self._lease_renewer.close()
        recovery = self._recovery
        if recovery is not None and recovery is not threading.current_thread():
            recovery.join(timeout=1.0)

    def _abandon(self, step: Step) -> None:
        """Give back what an interrupted operation may hold. Bounded, as every store command is."""
        load_id = step.load_id
        command, place = getattr(self._mine, "joined", (None, None))
        if load_id is None and command is step.command and isinstance(place, int):
            load_id = place  # it had begun to lead, and did not know yet
        try:
            if step.command is not None:
                step = step.state.receive(Interrupted(self._clock()))
                self._observe(step)
            while step.command is not None:
                event = self._perform(step.command, None)
                step = step.state.receive(event)
                self._observe(step)
        finally:
            if step.command is not None:  # interrupted once more
                self._give_up(step)
            self._observe(ended(Abandoned(), load_id=load_id))

    def _give_up(self, step: Step) -> None:
        """End an interrupted operation without the store: what could not be removed is remembered."""
        while step.command is not None:
            step = step.state.receive(StoreFailed(self._clock(), FailureKind.TIMEOUT))
            self._observe(step)

    def _perform(self, command: Command, loader: Callable[..., Any] | None) -> Event:
        match command:
            case Compute(key=key, name=name):
                assert loader is not None
                return self._compute(loading(self, key, name), command.renewal, bound(loader, command))
            case ComputeMany(keys=keys):
                assert loader is not None
                refuse_recursion(self, *keys)  # a batch without the store has not asked for leases
                return self._compute(loading(self, *keys), command.renewal, bound(loader, command))
            case ShareLoad():
                return self._share(command)
            case Sleep(duration_s=duration_s, watch=watch):
                if watch is not None:
                    self._sleep_watching(duration_s, watch)
                else:
                    self._closing.wait(duration_s)
                if self._is_closed:
                    raise CacheClosedError("the cache was closed while an operation was waiting")
                return Woke(self._clock())
            case AcquireLeases(lease_requests=lease_requests):
                refuse_recursion(self, *(lease_id.key for lease_id in lease_requests))
                return self._store.perform(command)
            case _:  # all the others are the store's: a new command that is not fails the type check here
                return self._store.perform(command)

    def _compute(
        self, mark: AbstractContextManager[None], renewal: Step | None, loader: Callable[[], Any]
    ) -> Event:
        with self._lease_renewer.keeping(renewal), mark:
            try:
                value = loader()
            except Exception as error:  # noqa: BLE001 - the loader's own, handed to its callers
                return ComputeFailed(self._clock(), error)
            if isawaitable(value):
                if iscoroutine(value):
                    value.close()
                refusal = ConfigurationError(
                    "the loader returned an awaitable: use sansio_cache_redis.anyio.Cache, or pass a "
                    "function that returns the value"
                )
                return ComputeFailed(self._clock(), refusal)
            return Computed(self._clock(), value)

    def _share(self, command: ShareLoad) -> Event:
        refuse_recursion(self, command.key)
        with self._single_flight_lock:
            # Known to `_abandon` at once: Ctrl-C cannot strike between the two assignments.
            _, place = self._mine.joined = (command, self._single_flight.join(command))
            if isinstance(place, int):
                return LoadLed(self._clock(), place)
            if place is None:
                return LoadNotShared(self._clock())
            landing = self._landings.setdefault(place.load_id, threading.Event())
        try:
            landing.wait(command.timeout_s)
        finally:
            with self._single_flight_lock:
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

    def _sleep_watching(self, duration_s: float, watch: Watch) -> None:
        """Subscribe, let the caller look again, wait: see `listening.py`."""
        watching = self._watching.get(watch.load_id)
        if watching is None:
            watching = self._watching[watch.load_id] = ({}, threading.Event())
        numbers, change = watching
        if self._listener is not None:
            new = [key for key in watch.keys if key not in numbers]
            numbers |= {key: self._listener.watch(key, change.set) for key in new}
            if new and self._listener.is_live:
                return
        is_told = self._listener is not None and self._listener.is_live
        change.wait(watch.longest_s if is_told else duration_s)
        change.clear()

    def _stop_watching(self, load_id: int | bytes) -> None:
        watching = self._watching.pop(load_id, None)
        if watching is not None and self._listener is not None:
            for key, number in watching[0].items():
                self._listener.unwatch(key, number)

    def _spawn(self, steps: Sequence[Step], loader: Callable[..., Any] | None) -> None:
        """Run operations in the background, but for those that somebody here runs already."""
        for step in steps:
            command = step.command
            assert isinstance(command, ShareLoad)
            if not self._workers.has_room():
                self._recorder.note((RefreshSkipped(command.key),))
                continue
            self._mine.joined = (command, None)
            try:
                with self._single_flight_lock:
                    # As in `_share`: Ctrl-C cannot strike between the two assignments.
                    _, place = self._mine.joined = (command, self._single_flight.lead(command))
                if place is not None:
                    begun = step.state.receive(LoadLed(self._clock(), place))
                    if not self._workers.submit(partial(self._run_spawned, begun, loader)):
                        self._observe(ended(Abandoned(), RefreshSkipped(command.key), load_id=place))
            except BaseException:
                _, place = self._mine.joined
                if place is not None:  # or nobody here would ever refresh the key again
                    self._observe(ended(Abandoned(), load_id=place))
                raise

    def _run_spawned(self, step: Step, loader: Callable[..., Any] | None) -> None:
        leave_explanations()
        forget_loads()
        try:
            self.run(step, loader)
        except CacheClosedError:
            self._observe(ended(Abandoned(), load_id=step.load_id))
        except Exception:
            logger.exception("a background refresh of the cache failed")

    def _renew(self, step: Step) -> Event:
        assert isinstance(step.command, RenewLeases)
        return self._store.perform(step.command)

    def _observe(self, step: Step) -> None:
        if step.load_id is not None:
            with self._single_flight_lock:
                landing = None
                if self._single_flight.observe(step):
                    landing = self._landings.pop(step.load_id, None)
                if step.outcome is not None:
                    self._stop_watching(step.load_id)
            if landing is not None:
                landing.set()
        if step.notices:
            if self._recorder.note(step.notices):
                self._distrust()
            if self._recorder.needs_recovery:
                self._start_recovery()

    def _start_recovery(self) -> None:
        with self._recovery_lock:
            if self._recovery is None and not self._closing.is_set():
                name = "sansio-cache-recovery"
                thread = threading.Thread(target=self._recover, name=name, daemon=True)
                with suppress(
                    RuntimeError
                ):  # the system has no more threads to give: the next operation tries
                    thread.start()
                    self._recovery = thread

    def _recover(self) -> None:
        leave_explanations()
        try:
            while True:
                with self._recovery_lock:
                    if self._closing.is_set() or not self._recorder.needs_recovery:
                        self._recovery = None
                        return
                pending = self._recorder.pending_invalidations()
                try:
                    outcome = self.run(self._request_builder.recovery(pending))
                except CacheClosedError:
                    continue
                if isinstance(outcome, Completed):
                    self._recorder.told(pending)
        except BaseException:
            # Where a subscriber has ended it (SystemExit, say), the next notice starts another.
            with self._recovery_lock:
                self._recovery = None
            raise
