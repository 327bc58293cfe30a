"""Caches of a world for event loops: the shipped cache and driver, on the world's store and clock."""

from __future__ import annotations

from typing import Any

from sansio_cache.commands import StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache.part import Recovery
from sansio_cache.step import Step
from sansio_cache_redis.anyio import Cache
from sansio_cache_runtime.anyio.driver import Driver
from sansio_cache_runtime.driver_base import Call
from sansio_cache_testing.caches import CacheInWorld, WorldStore
from sansio_cache_testing.loops import LoopScheduler, strand


class AsyncWorldBackend(WorldStore[LoopScheduler]):
    """The store of a world, as a backend for event loops."""

    async def answer(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, when it is the caller's turn."""
        await self.scheduler.point(f"is about to ask the cache ({type(command).__name__})")
        return self._answer(command)

    async def health(self) -> Health:
        """It is there."""
        return Health(ok=True, server="a world")

    async def aclose(self) -> None:
        """There is nothing to close."""


class AsyncWorldDriver(Driver):
    """The driver that ships; what it does in the background goes by other names in diagrams."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._random = 0

    async def _refresh(self, step: Step, call: Call) -> None:
        strand.set("refresh")
        await super()._refresh(step, call)

    async def recover(self, recovery: Recovery) -> None:
        """Run a recovery, and what is to be run after it."""
        token = strand.set("recovery")
        try:
            await super().recover(recovery)
        finally:
            strand.reset(token)


class AsyncWorldCache(CacheInWorld, Cache):
    """A cache for the tasks of an event loop in a world."""

    _driver_class = AsyncWorldDriver
