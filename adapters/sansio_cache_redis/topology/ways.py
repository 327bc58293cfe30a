"""Ways to a server: how connections to it are made, for whoever drives them, and where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sansio_cache.config import RedisConfig
from sansio_cache.url import read_url
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.sentinel import (
    Sentinels,
    blocking_to_primary,
    find_primary,
    sentinel_settings,
)
from sansio_cache_redis.connections.settings import asyncio_factory, blocking_factory, where_of
from sansio_cache_redis.reasons import Where
from sansio_cache_redis.topology.sentinel import SentinelWatch


class Way(Protocol):
    """How to reach a server."""

    on_switch: Callable[[], object]
    """Called, from another thread, when connections had better lead elsewhere than they do."""

    @property
    def where(self) -> Where:
        """Where the server is, for messages."""
        ...

    def blocking(self) -> Callable[[], Any]:
        """A function that makes blocking connections of redis-py, not yet open."""
        ...

    def asyncio(self) -> Callable[[], Any]:
        """A function that makes asyncio connections of redis-py, not yet open."""
        ...

    def warnings(self) -> tuple[str, ...]:
        """What works there and will hurt, a sentence each."""
        ...

    def close(self, *, wait: bool) -> None:
        """End what runs for it."""
        ...


class WayOfUrl:
    """The server that a URL names."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self.where = where_of(config, None)
        self.on_switch: Callable[[], object] = bool

    def blocking(self) -> Callable[[], Any]:
        """A function that makes blocking connections of redis-py, not yet open."""
        return blocking_factory(self._config)

    def asyncio(self) -> Callable[[], Any]:
        """A function that makes asyncio connections of redis-py, not yet open."""
        return asyncio_factory(self._config)

    def warnings(self) -> tuple[str, ...]:
        """There is nothing to be said of the way."""
        return ()

    def close(self, *, wait: bool) -> None:
        """Nothing runs for it."""


def connecting(config: RedisConfig) -> tuple[Callable[[], Any], Where]:
    """A function that makes blocking connections for whoever needs one beside a cache, and where they lead.

    Of sentinels that is the primary, found as each is opened; of a cluster the node that its URL names first.

    Raises:
        ConfigurationError: The URL, or an option in it, cannot be used.
    """
    sentinels = sentinel_settings(config, None)
    if sentinels is not None:
        known = Sentinels(sentinels)
        return blocking_to_primary(sentinels, lambda: find_primary(sentinels, known)), sentinels.where
    url = read_url(config.url)
    return blocking_factory(config, url.seeds[0] if url.is_cluster else ""), where_of(config, None)


def way_to(config: RedisConfig, client: Any | None, start_thread: StartThread) -> Way | None:
    """The way to a server, for connections of the cache's own; None where those of a client are used.

    Args:
        config: It says where the server is, where there is no client.
        client: What a user has given: a client; or sentinels of redis-py's, of which only the settings are
            used.
        start_thread: Starts a thread for a job, with a name.

    Raises:
        ConfigurationError: The URL, the sentinels, or an option, cannot be used.
    """
    sentinels = sentinel_settings(config, client)
    if sentinels is not None:
        return SentinelWatch(sentinels, start_thread)
    return WayOfUrl(config) if client is None else None
