"""The backend of a cluster for threads. Mirrors `cluster_anyio.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace
from redis.crc import key_slot

from sansio_cache.commands import ReadCell, StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache.signals import let_through
from sansio_cache_redis.backend.cluster_base import BEHIND_ASKING, ClusterBase, MayBecomeCluster, NodeSettings
from sansio_cache_redis.backend.sync import RedisBackend, make_backend, open_connections
from sansio_cache_redis.connections.client import ClientConnections
from sansio_cache_redis.connections.cluster_settings import ClusterSettings, settings_of_seed
from sansio_cache_redis.connections.lanes import Call
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.scattering import SLICE_S, Begun, ScatteringConnections
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.reading import Again
from sansio_cache_redis.topology.scatter import Piece
from sansio_cache_redis.topology.single import SingleServer
from sansio_cache_redis.wire import encode
from sansio_cache_runtime.sync.event import ThreadEvent


class NodeBackend(RedisBackend):
    """A node of a cluster, for callers who ask others at the same time."""

    connections: ScatteringConnections

    def begin(self, command: StoreCommand, begun: list[Begun]) -> _Asked | StoreEvent:
        """Ask, and wait later. What is added to the list is to be ended, whatever happens."""
        floor_us = self._dialect.floor_us  # before it is encoded
        try:
            call = self.connections.begin(encode(command, self._dialect), command.timeout_s, begun)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            let_through(error)
            return self._events.failure(error)
        return self.perform(command) if call is None else _Asked(self, command, call, floor_us)

    def end(self, command: StoreCommand, call: Call, floor_us: int) -> StoreEvent:
        """The event of what was asked, whose wait is over."""
        try:
            answer = self._read(command, self.connections.replies(call), floor_us)
            if isinstance(answer, Again):
                return self._once_more(answer, call.deadline_s)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            let_through(error)
            return self._events.failure(error)
        return answer


class _Asked(Struct, frozen=True, eq=False):
    """What one node was asked, and is waited for."""

    node: NodeBackend
    command: StoreCommand
    call: Call
    floor_us: int

    def go_on(self, until_s: float) -> bool:
        """Wait, until a moment on the monotonic clock at most; whether that is over."""
        return self.node.connections.go_on(self.call, until_s)

    def event(self) -> StoreEvent:
        """What came of it."""
        return self.node.end(self.command, self.call, self.floor_us)


class ClusterBackend(ClusterBase[NodeBackend]):
    """A cluster of Redis, or Valkey, for any number of threads."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        if type(command) is ReadCell and not command.tags:  # nearly always: each call here would cost 1 %
            cluster = self.cluster
            if not cluster.asking:
                owner = cluster.only or cluster.owners[key_slot(command.key.encode())]
                node = self._nodes.get(owner)
                if node is not None:
                    return node.perform(command)
        return self._perform(command)

    def _perform(self, command: StoreCommand) -> StoreEvent:
        until_s = monotonic() + command.timeout_s
        if not (self.cluster.is_known or self._is_known_in(command.timeout_s)):
            return self._unknown()
        pieces = self._pieces(command)
        if not isinstance(pieces, list):
            return pieces
        return self._gathered(command, pieces, self._perform_all(pieces, until_s))

    def _perform_all(self, pieces: Sequence[Piece], until_s: float) -> list[StoreEvent]:
        begun: list[Begun] = []
        try:
            asked = [self._begin(piece, until_s, begun) for piece in pieces]
            waiting = [each for each in asked if isinstance(each, _Asked)]
            while waiting:
                waiting = [each for each in waiting if not each.go_on(monotonic() + SLICE_S)]
        finally:
            for connections, call in begun:
                connections.end(call)
        return [each.event() if isinstance(each, _Asked) else each for each in asked]

    def _begin(self, piece: Piece, until_s: float, begun: list[Begun]) -> _Asked | StoreEvent:
        unasked = self._unasked(piece)
        if unasked is not None:
            return unasked
        command = replace(piece.command, timeout_s=max(until_s - monotonic(), 0.0))
        if piece.address.startswith(BEHIND_ASKING):
            return self.node(piece.address[len(BEHIND_ASKING) :]).perform_behind_asking(command)
        return self.node(piece.address).begin(command, begun)

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

    def make_node(node: NodeSettings) -> NodeBackend:
        make_connection = settings.blocking(node.address)
        connections = open_connections(
            config, make_connection, start_thread, node.dialect, ScatteringConnections
        )
        server = SingleServer[ThreadsConnections | ClientConnections](connections)
        return NodeBackend(
            config, server, clock, node.dialect, None, node.where, node.address, node.on_failure
        )

    return ClusterBackend(config, settings, make_node, start_thread, clock, lambda close: close())
