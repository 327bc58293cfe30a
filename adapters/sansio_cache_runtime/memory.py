"""The memory backend: stores of this process, for `memory://` and `memory://name`.

Unnamed, a cache has one of its own. Under a name, all caches of the process share one, for as long as one
of them lives; its limits are those of the first.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakSet, WeakValueDictionary

from sansio_cache.commands import (
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    FillCells,
    FreeLock,
    HoldCells,
    QueueCommand,
    ScanKeys,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.config import CacheConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.health import MEMORY, Health
from sansio_cache.memory_store import MemoryStore
from sansio_cache.url import read_url
from sansio_cache_runtime.backend import OnePart
from sansio_cache_runtime.process import at_begin_in_child, process_lock


class SharedMemory:
    """A memory store that any number of threads may use."""

    def __init__(self, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = _store(config, clock)
        self._config = config
        self.clock = clock
        self._lock = process_lock()
        self._is_changing = False
        self._aside: MemoryStore | None = None
        self._gone: dict[str, None] = {}
        self._is_inherited = False
        _memories.add(self)

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once."""
        if self._is_inherited:
            self._say_that_it_is_inherited()
        with self._lock:
            if self._is_changing:  # by this very thread, which a signal handler or a finaliser interrupts
                return self._perform_aside(command)
            try:
                self._is_changing = True
                if self._gone:
                    self._forget()
                return self.store.perform(command)
            finally:
                try:
                    if self._gone:
                        self._forget()
                finally:
                    self._is_changing = False

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released, nor its change ended."""
        self._lock = process_lock()
        self._is_changing = False
        self._is_inherited = len(self.store) > 0

    def _say_that_it_is_inherited(self) -> None:
        self._is_inherited = False
        logger.warning(
            "cache %s: memory:// is the store of one process, and this process was forked from the one that "
            "filled it: from here on neither sees what the other stores or invalidates. Use redis://, or "
            "make the cache after the fork",
            self._config.namespace,
        )

    def _perform_aside(self, command: StoreCommand) -> StoreEvent:
        """Answer as an empty store would. What is written or removed is removed here when the change is done.

        So for everybody else it happens right after the change, and what was stored is evicted at once.
        """
        match command:
            case DeleteKeys(keys=keys) | ExpireCells(keys=keys) | HoldCells(keys=keys):
                self._gone.update(dict.fromkeys(keys))
            case FillCells(fills=fills):
                self._gone.update(dict.fromkeys(fill.key for fill in fills))
            case ScanKeys() | ClaimCell() | SwapCell() | TouchCell() | TakeLock() | FreeLock():
                return StoreFailed(self.clock(), FailureKind.EXHAUSTED, reason=_INTERRUPTED)
            case _ if isinstance(command, QueueCommand):
                # It could not say which keys there are, nor whose they are, nor what is queued.
                return StoreFailed(self.clock(), FailureKind.EXHAUSTED, reason=_INTERRUPTED)
            case _:
                pass
        if self._aside is None:
            self._aside = _store(self._config, self.clock)
        return self._aside.perform(command)

    def _forget(self) -> None:
        self._aside = None
        while self._gone:
            key = next(iter(self._gone))
            self.store.plant(key, None, 0)
            self._gone.pop(key, None)  # last: an interrupt must not lose it


_INTERRUPTED: Final = "a signal handler or a finaliser looks through it in the middle of a change of it"


def _store(config: CacheConfig, clock: Callable[[], float]) -> MemoryStore:
    return MemoryStore(clock, config.memory_max_entries or math.inf, config.memory_max_bytes)


logger: Final = logging.getLogger("sansio_cache")

_memories: Final[WeakSet[SharedMemory]] = WeakSet()


def _after_fork_in_child() -> None:
    for memory in list(_memories):
        memory.after_fork()


at_begin_in_child(_after_fork_in_child)

_named: Final[WeakValueDictionary[str, SharedMemory]] = WeakValueDictionary()


def memory_for(config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> SharedMemory:
    """The memory store that a `memory://` URL means.

    Raises:
        ConfigurationError: There is one of that name, and it goes by another clock.
    """
    name = read_url(config.redis.url).name
    if not name:
        return SharedMemory(config, clock)
    with process_lock():
        memory = _named.get(name)
        if memory is None:
            memory = _named[name] = SharedMemory(config, clock)
    if memory.clock is not clock:
        raise ConfigurationError(
            f"memory://{name} is shared with a cache that goes by another clock: give both the same clock=, "
            "or the stores different names"
        )
    return memory


class MemoryBackend(OnePart):
    """What the backends of both colours have in common. Waiters poll: there is no listener."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory

    def _health(self) -> Health:
        """It is there, and within its limits."""
        return Health(
            ok=True,
            server=MEMORY,
            maxmemory_bytes=self.memory.store.max_bytes,
            eviction_policy="lru",
            durability="What is queued is in the memory of this process, and lost when that ends.",
        )


class SyncMemoryBackend(MemoryBackend):
    """A memory store for threads."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.perform = memory.perform

    def health(self) -> Health:
        """How the store is."""
        return self._health()

    def close(self) -> None:
        """There is nothing to close."""
