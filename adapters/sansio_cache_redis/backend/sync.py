"""The backend for threads: answers store commands in the caller's thread. Mirrors `anyio.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache.signals import let_through
from sansio_cache_redis.backend.base import BaseBackend
from sansio_cache_redis.calls import TIME, Args
from sansio_cache_redis.connections.client import ClientConnections
from sansio_cache_redis.connections.confirming import Confirming
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.settings import check_client, where_of
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.health import OPENING_S, PROBES_S, Trips, further_probes, probes
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.reading import Again, behind_asking, reading_behind_asking
from sansio_cache_redis.topology.single import SingleServer
from sansio_cache_redis.topology.ways import way_to
from sansio_cache_redis.wire import encode, longest_cell_bytes

T = TypeVar("T", bound=ThreadsConnections)


class RedisBackend(BaseBackend[ThreadsConnections | ClientConnections]):
    """Redis, or Valkey, for any number of threads. Make one with `make_backend`."""

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked; a failure is an event."""
        until_s = time.monotonic() + command.timeout_s
        try:
            floor_us = self._dialect.floor_us  # before it is encoded
            replies = self.connections.execute(encode(command, self._dialect), command.timeout_s)
            answer = self._read(command, replies, floor_us)
            if isinstance(answer, Again):
                return self._once_more(answer, until_s)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            let_through(error)
            return self._events.failure(error)
        return answer

    def perform_behind_asking(self, command: StoreCommand) -> StoreEvent:
        """The same at the node of a cluster that takes the slot of the command's keys over."""
        read = reading_behind_asking(partial(self._read, command, floor_us=self._dialect.floor_us))
        until_s = time.monotonic() + command.timeout_s
        try:
            commands: Sequence[Args] = behind_asking(encode(command, self._dialect))
            answer = read(self.connections.execute(commands, command.timeout_s))
            if isinstance(answer, Again):
                return self._once_more(answer, until_s)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            let_through(error)
            return self._events.failure(error)
        return answer

    def _once_more(self, again: Again[StoreEvent], until_s: float) -> StoreEvent:
        """What is read where something has to be sent once more, in what is left of the time."""
        left_s = max(until_s - time.monotonic(), 0.0)
        return again.read(self.connections.execute(again.commands, left_s))

    def health(self) -> Health:
        """How the server is. Never raises for it."""
        asked = probes(self._config.namespace, self._dialect.owns, self._dialect.channel_of)
        replies: list[Any] | BaseException
        trips = Trips(time.monotonic())
        try:
            self.connections.execute([TIME], OPENING_S)  # opens a connection, where there is none
            trips.ended(time.monotonic())
            replies = self.connections.execute([args for _, args in asked], PROBES_S)
            if further := further_probes(replies):
                trips.ended(time.monotonic())
                asked += further
                replies += self.connections.execute([args for _, args in further], PROBES_S)
        except Exception as error:  # noqa: BLE001 - it is what is told
            let_through(error)
            replies = error
        trips.ended(time.monotonic())
        return self._judged(asked, replies, trips.shortest_s)

    def close(self) -> None:
        """Close what is open, for good."""
        if self.listener is not None:
            self.listener.close(wait=True)
        self._server.close(wait=True)
        self.connections.close()


def make_backend(
    config: CacheConfig,
    client: Any | None,
    clock: Callable[[], float],
    start_thread: StartThread,
    kind: type[RedisBackend] = RedisBackend,
) -> RedisBackend:
    """A backend for the threads of this process. Nothing is connected yet.

    Args:
        config: Of the cache. It says where the server is, where there is no client.
        client: A `redis.Redis` that the user owns.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
        kind: Its class, where there is no client.

    Raises:
        ConfigurationError: The client, the URL, or an option in it, cannot be used.
    """
    dialect = Dialect(clock=clock, clock_skew_s=config.redis.clock_skew_s)
    way = way_to(config.redis, client, start_thread)
    if way is None:
        check_client(client, blocking=True)
        where = where_of(config.redis, client)
        return RedisBackend(
            config, SingleServer(ClientConnections(client, dialect.introduce)), clock, dialect, None, where
        )
    make_connection = way.blocking()
    connections = open_connections(config, make_connection, start_thread, dialect, ThreadsConnections)
    listener = Listener(make_connection, config.namespace, start_thread)
    server: SingleServer[ThreadsConnections | ClientConnections] = SingleServer(connections, way)
    way.on_switch = server.move
    return kind(config, server, clock, dialect, listener, way.where)


def open_connections(
    config: CacheConfig,
    make_connection: Callable[[], Any],
    start_thread: StartThread,
    dialect: Dialect,
    kind: type[T],
) -> T:
    """The connections of the threads of this process to one server. None is open yet."""
    connections = kind(
        make_connection,
        start_thread,
        max_connections=config.redis.max_connections,
        silence_s=config.redis.silence_s,
        opening_timeout_s=config.redis.connect_timeout_s,
        on_greeted=dialect.greet,
        longest_value_bytes=longest_cell_bytes(config.max_value_bytes),
    )
    connections.confirming = Confirming(make_connection, start_thread)
    return connections
