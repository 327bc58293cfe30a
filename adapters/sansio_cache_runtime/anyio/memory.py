"""The memory backend for asyncio and trio: see `sansio_cache_runtime.memory`."""

from __future__ import annotations

import anyio.lowlevel

from sansio_cache.commands import StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_runtime.memory import MemoryBackend


class AnyioMemoryBackend(MemoryBackend):
    """A memory store for the tasks of an event loop."""

    async def answer(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once; but a cancelled caller is told so here, as everywhere."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        return self.memory.perform(command)

    async def health(self) -> Health:
        """How the store is."""
        return self._health()

    async def aclose(self) -> None:
        """There is nothing to close."""
