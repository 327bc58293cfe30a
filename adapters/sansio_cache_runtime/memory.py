"""The memory backend: stores of this process, for `memory://` and `memory://name`.

Unnamed, a cache has one of its own. Under a name, all caches of the process share one, for as long as one
of them lives; its limits are those of the first.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final
from weakref import WeakSet, WeakValueDictionary

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART
from sansio_cache.memory_store import MemoryStore
from sansio_cache_runtime.backend import Listener


class SharedMemory:
    """A memory store that any number of threads may use."""

    def __init__(self, config: CacheConfig) -> None:
        self.store = MemoryStore(time.monotonic, config.memory_max_entries, config.memory_max_bytes)
        self._lock = threading.Lock()
        _memories.add(self)

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once."""
        with self._lock:
            return self.store.perform(command)

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released."""
        self._lock = threading.Lock()


_memories: Final[WeakSet[SharedMemory]] = WeakSet()


def _after_fork_in_child() -> None:
    for memory in list(_memories):
        memory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

_named: Final[WeakValueDictionary[str, SharedMemory]] = WeakValueDictionary()
_naming = threading.Lock()


def memory_for(config: CacheConfig) -> SharedMemory:
    """The memory store that a `memory://` URL means."""
    name = config.redis.url.partition("://")[2].strip("/")
    if not name:
        return SharedMemory(config)
    with _naming:
        memory = _named.get(name)
        if memory is None:
            memory = _named[name] = SharedMemory(config)
        return memory


class MemoryBackend:
    """What the backends of both colours have in common. Waiters poll: there is no listener."""

    listener: Listener | None = None

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory

    def part_of(self, key: str) -> str:  # noqa: ARG002
        """The memory is one part."""
        return ONE_PART

    def distrust(self, part: str) -> None:
        """There is no connection that could be at fault."""

    def _health(self) -> Health:
        """It is there, and within its limits."""
        return Health(
            ok=True, server="memory", maxmemory_bytes=self.memory.store.max_bytes, eviction_policy="lru"
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
