"""The memory backend for asyncio and trio: see `sansio_cache_runtime.memory`."""

from __future__ import annotations

from sansio_cache.commands import StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_runtime.anyio.turns import take_turn
from sansio_cache_runtime.memory import MemoryBackend


class AnyioMemoryBackend(MemoryBackend):
    """A memory store for the tasks of an event loop."""

    async def answer(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once; but a cancelled caller is told so here, as everywhere."""
        await take_turn()
        return self.memory.perform(command)

    async def health(self) -> Health:
        """How the store is."""
        await take_turn()
        return self._health()

    async def aclose(self) -> None:
        """There is nothing to close."""
