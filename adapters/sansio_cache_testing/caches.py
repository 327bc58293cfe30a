"""Caches of a world for threads: the shipped cache and driver, whose waiting and threads are the world's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from sansio_cache.commands import Renewal, StoreCommand
from sansio_cache.coordinator import renewing
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.backend import OnePart
from sansio_cache_runtime.cache_base import CacheBase
from sansio_cache_runtime.loaders import Running
from sansio_cache_runtime.sync.driver import Driver
from sansio_cache_testing.faults import FaultyStore
from sansio_cache_testing.scheduling import Recording
from sansio_cache_testing.threads import ThreadScheduler, WorldEvent

S = TypeVar("S", bound=Recording)


class WorldStore(OnePart, Generic[S]):
    """The store of a world, as the backends of both colours have it. Each command is a point."""

    def __init__(self, scheduler: S, store: FaultyStore, prefix: str) -> None:
        self.scheduler = scheduler
        self._store = store
        self._prefix = prefix

    def _answer(self, command: StoreCommand) -> StoreEvent:
        return self._store.perform(command, self.scheduler.who, self._prefix)


class WorldBackend(WorldStore[ThreadScheduler]):
    """The store of a world, as a backend for threads."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, when it is the caller's turn."""
        self.scheduler.point(f"is about to ask the cache ({type(command).__name__})")
        return self._answer(command)

    def health(self) -> Health:
        """It is there."""
        return Health(ok=True, server="a world")

    def close(self) -> None:
        """There is nothing to close."""


class _WorldBackground:
    """Starts participants where a cache would start threads, and runs refreshes on them."""

    def __init__(self, scheduler: ThreadScheduler) -> None:
        self._scheduler = scheduler

    def start(self, job: Callable[[], object], name: str, *, is_waited_for: bool = False) -> bool:
        """Start one."""
        self._scheduler.start(name.removeprefix("sansio-cache-"), job, is_waited_for=is_waited_for)
        return True

    def submit(self, job: Callable[[], object]) -> bool:
        """Have a refresh run."""
        return self.start(job, "refresh", is_waited_for=True)

    def stop(self) -> None:
        """What runs ends with the world."""

    close = drain = stop


class _WorldRenewer:
    """Renews leases in the world's time."""

    def __init__(self, driver: WorldDriver, scheduler: ThreadScheduler) -> None:
        self._driver = driver
        self._scheduler = scheduler

    def keep(self, running: Running) -> None:
        """Renew leases, if any, until they are over."""
        renewal = running.renewal
        if renewal is None:
            return
        renewer = self._scheduler.start("renewal", lambda: self._renew(renewal), is_waited_for=False)
        running.cancel = lambda: self._scheduler.end(renewer)

    def end(self, running: Running) -> None:
        """Renew them no more."""
        running.cancel()

    def _renew(self, renewal: Renewal) -> None:
        self._scheduler.wait(lambda: False, renewal.pause_s, "waits to renew a lease")
        self._driver.run(renewing(renewal, self._scheduler.clock()))

    def close(self) -> None:
        """What runs ends with the world."""


class WorldDriver(Driver):
    """The driver that ships, but for what it waits with and what starts threads."""

    def __init__(self, backend: WorldBackend, *args: Any) -> None:
        super().__init__(backend, *args)
        scheduler = backend.scheduler
        background: Any = _WorldBackground(scheduler)
        renewer: Any = _WorldRenewer(self, scheduler)
        make_event: Any = lambda: WorldEvent(scheduler)  # noqa: E731
        self._background = self._workers = background
        self._lease_renewer = renewer
        self._make_event = make_event
        self._closing = make_event()
        self._random = 0


class CacheInWorld(CacheBase):
    """What the caches of both colours have of their world."""

    _stays_with = "a world"

    def log_to(self, recording: Recording) -> None:
        """Have the world record what the cache would log."""

        def write(level: int, text: str, *words: object, **_: object) -> None:  # noqa: ARG001
            recording.note(text % words, who="log")

        self._recorder.write = write

    @contextmanager
    def without_store(self) -> Iterator[None]:
        """Have the cache do nothing while the block runs: its loaders alone answer."""
        coordinator = self._coordinator
        before = coordinator.is_disabled, coordinator.must_ask, coordinator.may_glance_at_all
        coordinator.is_disabled = coordinator.must_ask = True
        coordinator.may_glance_at_all = False
        try:
            yield
        finally:
            coordinator.is_disabled, coordinator.must_ask, coordinator.may_glance_at_all = before

    @property
    def is_told(self) -> bool:
        """Whether the store has been told of all that this cache has invalidated."""
        return not self._coordinator.pending_invalidations


class WorldCache(CacheInWorld, Cache):
    """A cache for threads in a world."""

    _driver_class = WorldDriver
