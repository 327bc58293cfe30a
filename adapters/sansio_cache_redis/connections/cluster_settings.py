"""Connecting to a cluster: its seeds, and how a connection to any of its nodes is made.

From a client of redis-py's, `RedisCluster` of either colour, only the settings are taken: who it is, how it
speaks TLS, which nodes it knows. The connections are the cache's own, with the time-outs of its options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import redis
import redis.asyncio
from msgspec import Struct, structs

from sansio_cache.config import RedisConfig
from sansio_cache.url import AddressMap, address_of, read_url
from sansio_cache_redis.connections.settings import (
    arguments_at,
    asyncio_factory,
    asyncio_made_by,
    blocking_factory,
    blocking_made_by,
    own_arguments,
    refuse_decoding,
)
from sansio_cache_redis.reasons import Where

_KEPT: Final = (
    "username",
    "password",
    "credential_provider",
    "client_name",
    "socket_keepalive",
    "socket_keepalive_options",
)
"""What is taken over from a client, beside all that is about TLS."""


class ClusterSettings(Struct, frozen=True):
    """How to reach a cluster.

    Attributes:
        seeds: The addresses of nodes that are known, each `host:port`.
        blocking: Gives a function that makes blocking connections of redis-py to an address.
        asyncio: The same of asyncio connections.
        where: Where the cluster is, for messages.
        address_map: Of the user.
    """

    seeds: tuple[str, ...]
    blocking: Callable[[str], Callable[[], Any]]
    asyncio: Callable[[str], Callable[[], Any]]
    where: Where
    address_map: AddressMap | None = None


def is_cluster_client(client: Any) -> bool:
    """Whether a client is one of a cluster."""
    return isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)


def cluster_settings(config: RedisConfig, client: Any | None) -> ClusterSettings | None:
    """How to reach the cluster that a URL or a client means; None where neither means one.

    Raises:
        ConfigurationError: The URL, an option in it, or the client cannot be used.
    """
    if client is not None:
        return _of_client(config, client) if is_cluster_client(client) else None
    url = read_url(config.url)
    if not url.is_cluster:
        return None
    for make_factory in (blocking_factory, asyncio_factory):
        make_factory(config)  # refuses what cannot be used
    found = settings_of_seed(config)
    return None if found is None else structs.replace(found, seeds=url.seeds)


def settings_of_seed(config: RedisConfig) -> ClusterSettings | None:
    """How to reach the cluster that the server of a plain URL is in.

    None where it is met by the path of a socket: the nodes have addresses of another kind for each other.
    """
    url = read_url(config.url)
    if url.scheme == "unix" or url.service:
        return None
    return ClusterSettings(
        (url.place,),
        lambda address: blocking_factory(config, address),
        lambda address: asyncio_factory(config, address),
        Where(url.place, url.scheme == "rediss"),
        config.address_map,
    )


def _of_client(config: RedisConfig, client: Any) -> ClusterSettings:
    is_asyncio = isinstance(client, redis.asyncio.RedisCluster)
    given = client.connection_kwargs if is_asyncio else client.get_connection_kwargs()
    refuse_decoding(given, "client")
    nodes = client.nodes_manager
    known = (*nodes.nodes_cache.values(), *nodes.startup_nodes.values())
    seeds = tuple(dict.fromkeys(address_of(str(node.host), int(node.port)) for node in known))
    is_tls = bool(given.get("ssl")) or "SSL" in getattr(given.get("connection_class"), "__name__", "")
    arguments = {name: given[name] for name in _KEPT if given.get(name) is not None}
    if is_tls:
        arguments |= {name: value for name, value in given.items() if name.startswith("ssl_")}
    arguments |= own_arguments(config.connect_timeout_s) | {"db": 0}
    blocking = redis.SSLConnection if is_tls else redis.Connection
    native = redis.asyncio.SSLConnection if is_tls else redis.asyncio.Connection
    remap = nodes.address_remap
    return ClusterSettings(
        seeds,
        lambda address: blocking_made_by(blocking, arguments | arguments_at(address), config.url),
        lambda address: asyncio_made_by(native, arguments | arguments_at(address), config.url),
        Where(",".join(seeds), is_tls),
        config.address_map or (None if remap is None else lambda host, port: remap((host, port))),
    )
