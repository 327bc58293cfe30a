"""The adapters for Redis and Valkey: `sync.Cache` for threads, `anyio.Cache` for asyncio and trio."""

from sansio_cache.health import Health
from sansio_cache_runtime.results import InvalidateResult, PatternResult
from sansio_cache_runtime.subscribers import Explanation

__all__ = ["Explanation", "Health", "InvalidateResult", "PatternResult"]
