"""The cache for asyncio and trio, on Redis or in memory.

    from sansio_cache_redis.anyio import Cache

    async with Cache.from_url("redis://localhost", namespace="shop") as cache:
        user = await cache.get_or_load("user:1", lambda: database.user(1), type=User)

Mirrors `sync.py`. One cache serves the tasks of any number of event loops, whichever of the two they are, one
after the other or at once in several threads. It may be made before a loop runs, and used without
`async with`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self, Unpack

from sansio_cache.config import CacheConfig, CacheOptions
from sansio_cache_redis.backend.anyio import check, make_backend_in_running_loop
from sansio_cache_redis.backend.cluster_anyio import (
    make_cluster_backend_in_running_loop,
    make_plain_backend_in_running_loop,
)
from sansio_cache_redis.connections.cluster_settings import cluster_settings
from sansio_cache_redis.connections.settings import check_clock, refuse_no_client, uses_memory
from sansio_cache_runtime.anyio import cache as runtime
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.anyio.typed import Typed as Typed
from sansio_cache_runtime.backend import AnyioBackend
from sansio_cache_runtime.cache_base import check_config
from sansio_cache_runtime.memory import memory_for
from sansio_cache_runtime.sync.background import Background

Cached = runtime.Cached


class Cache(runtime.Cache):
    """A read-through cache for asyncio and trio. Make one with `from_url`, `from_client` or `from_config`."""

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
        if cluster_settings(config.redis, client) is None:
            check(config, client)  # refuses what it cannot use here, and not in the first call
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
        if cluster_settings(config.redis, None) is None:
            check(config, None)
        cache = cls(config, partial(_on_redis, config, None))
        cache._stays_with = ""
        return cache

    @classmethod
    def _in_memory(cls, config: CacheConfig, clock: Callable[[], float]) -> Self:
        memory = memory_for(config, clock)
        cache = cls(config, lambda: AnyioMemoryBackend(memory), clock=clock)
        cache._stays_with = "memory://, which is this process's,"
        return cache


def _on_redis(config: CacheConfig, client: Any) -> AnyioBackend:
    settings, start_thread = cluster_settings(config.redis, client), Background().start
    if settings is not None:
        return make_cluster_backend_in_running_loop(config, settings, time.monotonic, start_thread)
    if client is None:
        return make_plain_backend_in_running_loop(config, time.monotonic, start_thread)
    return make_backend_in_running_loop(config, client, time.monotonic, start_thread)
