"""Memory stores of this process, for `memory://` and `memory://name`.

Unnamed, a cache has one of its own. Under a name, all caches of the process share one, for as long as one
of them lives; its limits are those of the first.
"""

from __future__ import annotations

import threading
import time
from typing import Final
from weakref import WeakValueDictionary

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.memory_store import MemoryStore


class SharedMemory:
    """A memory store that any number of threads may use."""

    def __init__(self, config: CacheConfig) -> None:
        self.store = MemoryStore(time.monotonic, config.memory_max_entries, config.memory_max_bytes)
        self._lock = threading.Lock()

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once."""
        with self._lock:
            return self.store.perform(command)

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released."""
        self._lock = threading.Lock()


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
