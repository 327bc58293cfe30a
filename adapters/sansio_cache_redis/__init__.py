"""The adapters for Redis and Valkey: `sync.Cache` for threads, `anyio.Cache` for asyncio and trio."""

from sansio_cache_redis.audience import Story
from sansio_cache_redis.health import Health
from sansio_cache_redis.results import InvalidateResult, PatternResult

__all__ = ["Health", "InvalidateResult", "PatternResult", "Story"]
