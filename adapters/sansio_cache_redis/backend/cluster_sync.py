"""The backend of a cluster for threads. Mirrors `cluster_anyio.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from msgspec.structs import replace

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_redis.backend.cluster_base import BEHIND_ASKING, ClusterBase, MayBecomeCluster, NodeSettings
from sansio_cache_redis.backend.sync import RedisBackend, make_backend, open_connections
from sansio_cache_redis.connections.client import ClientConnections
from sansio_cache_redis.connections.cluster_settings import ClusterSettings, settings_of_seed
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.topology.cluster import Cluster
from sansio_cache_redis.topology.scatter import Piece
from sansio_cache_redis.topology.single import SingleServer
from sansio_cache_runtime.sync.event import ThreadEvent


class ClusterBackend(ClusterBase[RedisBackend]):
    """A cluster of Redis, or Valkey, for any number of threads."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        node = self._plain(command)
        return self._perform(command) if node is None else node.perform(command)

    def _perform(self, command: StoreCommand) -> StoreEvent:
        until_s = monotonic() + command.timeout_s
        if not (self.cluster.is_known or self._is_known_in(command.timeout_s)):
            return self._unknown()
        pieces = self._pieces(command)
        if not isinstance(pieces, list):
            return pieces
        return self._gathered(command, pieces, self._perform_all(pieces, until_s))

    def _perform_all(self, pieces: Sequence[Piece], until_s: float) -> list[StoreEvent]:
        return [self._perform_one(piece, until_s) for piece in pieces]

    def _perform_one(self, piece: Piece, until_s: float) -> StoreEvent:
        unasked = self._unasked(piece)
        if unasked is not None:
            return unasked
        command = replace(piece.command, timeout_s=max(until_s - monotonic(), 0.0))
        if piece.address.startswith(BEHIND_ASKING):
            return self.node(piece.address[len(BEHIND_ASKING) :]).perform_behind_asking(command)
        return self.node(piece.address).perform(command)

    def _is_known_in(self, timeout_s: float) -> bool:
        """Whether it is known who owns which slot, after a while at most."""
        is_over = ThreadEvent()
        self.keeper.tell(is_over)
        is_over.wait(timeout_s)
        return self.cluster.is_known

    def health(self) -> Health:
        """How the nodes are. Never raises for them."""
        if not (self.cluster.is_known or self._is_known_in(self._config.redis.connect_timeout_s)):
            return self._health_unknown()
        return self._healths({address: self.node(address).health() for address in self._owners()})

    def close(self) -> None:
        """Close what is open, for good."""
        if self.listener is not None:
            self.listener.close(wait=True)
        self.keeper.close()
        for node in tuple(self._nodes.values()):
            node.close()


class PlainBackend(MayBecomeCluster[ClusterBackend], RedisBackend):
    """A server by a plain URL, for threads."""

    def health(self) -> Health:
        """How the server is, or the cluster that it turns out to be in. Never raises for it."""
        health = super().health()
        return health if self.beyond is None else self.beyond.health()

    def close(self) -> None:
        """Close what is open, for good."""
        if self.beyond is not None:
            self.beyond.close()
        super().close()


def make_plain_backend(
    config: CacheConfig, clock: Callable[[], float], start_thread: StartThread
) -> PlainBackend:
    """A backend for the threads of this process, of a server that may be in a cluster.

    Args:
        config: Of the cache. It says where the server is.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.

    Raises:
        ConfigurationError: The URL, or an option in it, cannot be used.
    """
    backend = make_backend(config, None, clock, start_thread, PlainBackend)
    assert isinstance(backend, PlainBackend)
    settings = settings_of_seed(config.redis)
    if settings is not None:
        backend.make_cluster = partial(make_cluster_backend, config, settings, clock, start_thread)
    return backend


def make_cluster_backend(
    config: CacheConfig, settings: ClusterSettings, clock: Callable[[], float], start_thread: StartThread
) -> ClusterBackend:
    """A backend for the threads of this process. Nothing is connected yet.

    Args:
        config: Of the cache.
        settings: How the cluster is reached.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
    """

    def make_node(node: NodeSettings) -> RedisBackend:
        make_connection = settings.blocking(node.address)
        connections = open_connections(config, make_connection, start_thread, node.dialect)
        server = SingleServer[ThreadsConnections | ClientConnections](connections)
        return RedisBackend(
            config, server, clock, node.dialect, None, node.where, node.address, node.on_failure
        )

    cluster = Cluster(settings.seeds, settings.address_map)
    return ClusterBackend(config, settings, cluster, make_node, start_thread, clock)
