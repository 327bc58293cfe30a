"""The backend of a cluster for asyncio and trio: answers in one event loop. Mirrors `cluster_sync.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from msgspec.structs import replace
from redis.crc import key_slot

from sansio_cache.commands import ReadCell, StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_redis.backend.anyio import (
    RedisBackend,
    asyncio_connections,
    make_backend_in_running_loop,
    trio_connections,
)
from sansio_cache_redis.backend.cluster_base import BEHIND_ASKING, ClusterBase, MayBecomeCluster, NodeSettings
from sansio_cache_redis.connections.cluster_settings import ClusterSettings, settings_of_seed
from sansio_cache_redis.connections.multiplexed import Gathering
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.topology.scatter import Piece
from sansio_cache_redis.topology.single import SingleServer
from sansio_cache_runtime.anyio.event import LoopEvent
from sansio_cache_runtime.anyio.loops import is_under_trio, reach_running_loop


class ClusterBackend(ClusterBase[RedisBackend]):
    """A cluster of Redis, or Valkey, for the tasks of one event loop."""

    async def _wait_for(self, gathering: Gathering) -> list[StoreEvent]:
        for node in self._nodes.values():  # any of them knows how tasks wait here
            connections: Any = node.connections
            answers: list[StoreEvent] = await connections.wait_for(gathering)
            return answers
        return gathering.answers  # nobody was asked

    def answer(self, command: StoreCommand) -> Awaitable[StoreEvent]:
        """Do what is asked; a failure is an event. To be awaited once, and at once."""
        if type(command) is ReadCell and not command.tags:  # nearly always: each call here would cost 1 %
            cluster = self.cluster
            if not cluster.asking:
                owner = cluster.only or cluster.owners[key_slot(command.key.encode())]
                node = self._nodes.get(owner)
                if node is not None:
                    return node.answer(command)
        return self._answer(command)

    async def _answer(self, command: StoreCommand) -> StoreEvent:
        until_s = monotonic() + command.timeout_s
        if not (self.cluster.is_known or await self._is_known_in(command.timeout_s)):
            return self._unknown()
        pieces = self._pieces(command)
        if not isinstance(pieces, list):
            return pieces
        return self._gathered(command, pieces, await self._answer_all(pieces, until_s))

    async def _answer_all(self, pieces: Sequence[Piece], until_s: float) -> list[StoreEvent]:
        gathering = Gathering(len(pieces))
        for place, piece in enumerate(pieces):
            caller, unasked = gathering.part(place), self._unasked(piece)
            if unasked is not None:
                caller.set_result(unasked)
                continue
            command = replace(piece.command, timeout_s=max(until_s - monotonic(), 0.0))
            node = self.node(piece.address.removeprefix(BEHIND_ASKING))
            node.answer_for(caller, command, is_asking=piece.address.startswith(BEHIND_ASKING))
        return await self._wait_for(gathering)

    async def _is_known_in(self, timeout_s: float) -> bool:
        """Whether it is known who owns which slot, after a while at most."""
        is_over = LoopEvent()
        self.keeper.tell(is_over)
        await is_over.wait(timeout_s)
        return self.cluster.is_known

    async def health(self) -> Health:
        """How the nodes are. Never raises for them."""
        if not (self.cluster.is_known or await self._is_known_in(self._config.redis.connect_timeout_s)):
            return self._health_unknown()
        return self._healths({address: await self.node(address).health() for address in self._owners()})

    async def aclose(self) -> None:
        """Close what is open, for good."""
        if self.listener is not None:
            self.listener.close(wait=False)
        self.keeper.close()
        for node in tuple(self._nodes.values()):
            await node.aclose()


class PlainBackend(MayBecomeCluster[ClusterBackend], RedisBackend):
    """A server by a plain URL, for the tasks of one event loop."""

    async def health(self) -> Health:
        """How the server is, or the cluster that it turns out to be in. Never raises for it."""
        health = await super().health()
        return health if self.beyond is None else await self.beyond.health()

    async def aclose(self) -> None:
        """Close what is open, for good."""
        if self.beyond is not None:
            await self.beyond.aclose()
        await super().aclose()


def make_plain_backend_in_running_loop(
    config: CacheConfig, clock: Callable[[], float], start_thread: StartThread
) -> PlainBackend:
    """A backend for the tasks of the event loop that runs, of a server that may be in a cluster.

    Args:
        config: Of the cache. It says where the server is.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.

    Raises:
        ConfigurationError: The URL, or an option in it, cannot be used here.
    """
    backend = make_backend_in_running_loop(config, None, clock, start_thread, PlainBackend)
    assert isinstance(backend, PlainBackend)
    settings = settings_of_seed(config.redis)
    if settings is not None:
        make = partial(make_cluster_backend_in_running_loop, config, settings, clock, start_thread)
        backend.make_cluster = make
    return backend


def make_cluster_backend_in_running_loop(
    config: CacheConfig, settings: ClusterSettings, clock: Callable[[], float], start_thread: StartThread
) -> ClusterBackend:
    """A backend for the tasks of the event loop that runs, of asyncio or trio. Nothing is connected yet.

    Args:
        config: Of the cache.
        settings: How the cluster is reached.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
    """
    is_trio = is_under_trio()

    def make_node(node: NodeSettings) -> RedisBackend:
        if is_trio:
            connections = trio_connections(config, settings.blocking(node.address), node.dialect)
        else:
            connections = asyncio_connections(
                config, settings.asyncio(node.address), settings.blocking(node.address), node.dialect
            )
        server = SingleServer(connections)
        return RedisBackend(
            config, server, clock, node.dialect, None, node.where, node.address, node.on_failure
        )

    return ClusterBackend(config, settings, make_node, start_thread, clock, reach_running_loop())
