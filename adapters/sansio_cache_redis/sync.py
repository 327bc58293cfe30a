"""The cache for scripts and threads, on Redis or in memory.

    from sansio_cache_redis.sync import Cache

    with Cache.from_url("redis://localhost", namespace="shop") as cache:
        user = cache.get_or_load("user:1", lambda: database.user(1), type=User)

Mirrors `anyio.py`. One cache serves any number of threads; it may be used without `with`, and after a fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self, Unpack

from sansio_cache.config import CacheConfig, CacheOptions
from sansio_cache_redis.backend.cluster_sync import make_cluster_backend, make_plain_backend
from sansio_cache_redis.backend.sync import make_backend
from sansio_cache_redis.connections.cluster_settings import cluster_settings
from sansio_cache_redis.connections.settings import check_clock, refuse_no_client, uses_memory
from sansio_cache_runtime.backend import SyncBackend
from sansio_cache_runtime.cache_base import check_config
from sansio_cache_runtime.memory import SyncMemoryBackend, memory_for
from sansio_cache_runtime.sync import cache as runtime
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.typed import Typed as Typed

Cached = runtime.Cached


class Cache(runtime.Cache):
    """A read-through cache for threads. Make one with `from_url`, `from_client` or `from_config`."""

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        clock: Callable[[], float] | None = None,
        **options: Unpack[CacheOptions],
    ) -> Self:
        """A cache on a server, or in this process's memory.

        Args:
            url: `redis://…`, `rediss://…` (TLS), `unix://…`, `redis+sentinel://host,host/service/0` or
                `rediss+sentinel://…`, `memory://` (a store of its own) or `memory://name` (one that all
                caches of this process with that name share).
            namespace: The first part of every key.
            clock: For tests, with `memory://` only: gives the time in seconds, and never goes back. Entries
                expire by it; the system's monotonic clock where not given.
            options: The fields of `CacheConfig` and `RedisConfig`.

        Raises:
            ConfigurationError: The URL, the clock or an option cannot be used.
            InvalidKeyError: The namespace cannot be used.
        """
        uses_memory(url)  # refuses what is no URL
        config = CacheConfig.from_options(namespace=namespace, url=url, **options)
        return cls.from_config(config) if clock is None else cls._in_memory(config, check_clock(clock, url))

    @classmethod
    def from_client(cls, client: Any, *, namespace: str, **options: Unpack[CacheOptions]) -> Self:
        """A cache on a redis-py client that you own: the cache never closes it.

        On threads a `redis.Redis`; under asyncio a `redis.asyncio.Redis`; under trio, where that cannot run,
        a blocking `redis.Redis`, which is driven on worker threads. Its own time-outs and retries apply;
        make it with a short `socket_timeout` and without retries.

        Of a `Sentinel` of redis-py's, or a client of its `master_for`, only the settings are used, wherever
        it is given: connections are the cache's own.

        Raises:
            ConfigurationError: The client, or an option, cannot be used.
        """
        refuse_no_client(client, options)
        config = CacheConfig.from_options(namespace=namespace, **options)
        cache = cls(config, partial(_on_redis, config, client))
        cache._stays_with = "a client of yours"
        return cache

    @classmethod
    def from_config(cls, config: CacheConfig) -> Self:
        """A cache from a configuration.

        Raises:
            ConfigurationError: It cannot be used.
        """
        check_config(config)
        if uses_memory(config.redis.url):
            return cls._in_memory(config, time.monotonic)
        cache = cls(config, partial(_on_redis, config, None))
        cache._stays_with = ""
        return cache

    @classmethod
    def _in_memory(cls, config: CacheConfig, clock: Callable[[], float]) -> Self:
        memory = memory_for(config, clock)
        cache = cls(config, lambda _: SyncMemoryBackend(memory), clock=clock)
        cache._stays_with = "memory://, which is this process's,"
        return cache


def _on_redis(config: CacheConfig, client: Any, background: Background) -> SyncBackend:
    settings = cluster_settings(config.redis, client)
    if settings is not None:
        return make_cluster_backend(config, settings, time.monotonic, background.start)
    if client is None:
        return make_plain_backend(config, time.monotonic, background.start)
    return make_backend(config, client, time.monotonic, background.start)
