"""The backend for asyncio and trio: answers store commands in one event loop. Mirrors `sync.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig, RedisConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.events import StoreEvent
from sansio_cache.health import Health
from sansio_cache_redis.backend.base import BaseBackend
from sansio_cache_redis.calls import TIME, Args
from sansio_cache_redis.connections.multiplexed import Caller, R, Read, Replies, as_they_are
from sansio_cache_redis.connections.opener import StartThread
from sansio_cache_redis.connections.pool import Timing
from sansio_cache_redis.connections.settings import (
    check_any_client,
    check_client,
    where_of,
)
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.health import OPENING_S, PROBES_S, Trips, probes
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.reading import behind_asking, reading_behind_asking
from sansio_cache_redis.topology.single import SingleServer
from sansio_cache_redis.topology.ways import Way, way_to
from sansio_cache_redis.wire import encode, longest_cell_bytes
from sansio_cache_runtime.anyio.loops import is_under_trio, reach_running_loop
from sansio_cache_runtime.process import process_lock


class Connections(Protocol):
    """The connections to one server, in one event loop."""

    def ask(self, commands: Sequence[Args], timeout_s: float, read: Read[R]) -> Awaitable[R]:
        """Send commands together, and give back what `read` makes of their replies, or of a failure."""
        ...

    def reset(self) -> None:
        """Close the connections; others are opened when they are needed."""
        ...

    async def aclose(self) -> None:
        """Close the connections, for good."""
        ...


class RedisBackend(BaseBackend[Connections]):
    """Redis, or Valkey, for the tasks of one event loop. Make one with `make_backend_in_running_loop`."""

    def answer(self, command: StoreCommand) -> Awaitable[StoreEvent]:
        """Do what is asked; a failure is an event. To be awaited once, and at once."""
        try:
            # The replies are read where they come in: under asyncio no coroutine stands between them and the
            # caller.
            read = partial(self._read, command, floor_us=self._dialect.floor_us)
            return self.connections.ask(encode(command, self._dialect), command.timeout_s, read)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            return self._failed(error)

    def answer_for(self, caller: Caller, command: StoreCommand, *, is_asking: bool) -> None:
        """The same for who asks other nodes of a cluster at the same time; it is handed the event.

        Args:
            caller: Who is handed the event.
            command: What is asked.
            is_asking: Whether this node only takes the slot of the command's keys over.
        """
        try:
            commands = encode(command, self._dialect)
        except Exception as error:  # noqa: BLE001 - whatever it is: the business never sees the cache fail
            caller.set_result(self._events.failure(error))
            return
        read: Read[StoreEvent] = partial(self._read, command, floor_us=self._dialect.floor_us)
        if is_asking:
            commands, read = behind_asking(commands), reading_behind_asking(read)
        connections: Any = self.connections
        connections.ask_for(caller, commands, command.timeout_s, read)

    async def _failed(self, error: Exception) -> StoreEvent:
        return self._events.failure(error)

    async def health(self) -> Health:
        """How the server is. Never raises for it."""
        asked = probes(self._config.namespace, self._dialect.owns, self._dialect.channel_of)
        trips = Trips(time.monotonic())
        # The first opens a connection, where there is none.
        replies: Replies = await self.connections.ask([TIME], OPENING_S, as_they_are)
        trips.ended(time.monotonic())
        if not isinstance(replies, BaseException):
            replies = await self.connections.ask([args for _, args in asked], PROBES_S, as_they_are)
        trips.ended(time.monotonic())
        return self._judged(asked, replies, trips.shortest_s)

    async def aclose(self) -> None:
        """Close what is open, for good."""
        if self.listener is not None:
            self.listener.close(wait=False)
        self._server.close(wait=False)
        await self.connections.aclose()


def check(config: CacheConfig, client: Any | None) -> None:
    """Refuse what cannot be used in any event loop, before there is one.

    Raises:
        ConfigurationError: The client, the URL, or an option in it, cannot be used.
    """
    way = way_to(config.redis, client, lambda *_: False)
    if way is None:
        check_any_client(client)
    else:
        way.asyncio()


def make_backend_in_running_loop(
    config: CacheConfig,
    client: Any | None,
    clock: Callable[[], float],
    start_thread: StartThread,
    kind: type[RedisBackend] = RedisBackend,
) -> RedisBackend:
    """A backend for the tasks of the event loop that runs, of asyncio or trio. Nothing is connected yet.

    Args:
        config: Of the cache. It says where the server is, where there is no client.
        client: A client of redis-py that the user owns: under asyncio a `redis.asyncio.Redis`, under trio
            a `redis.Redis`.
        clock: The local monotonic clock, in seconds.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
        kind: Its class.

    Raises:
        ConfigurationError: The client, the URL, or an option in it, cannot be used here.
    """
    dialect = Dialect(clock=clock, clock_skew_s=config.redis.clock_skew_s)
    connect = _trio_connections if is_under_trio() else _asyncio_connections
    way = way_to(config.redis, client, start_thread)
    connections = connect(config, client, way, dialect)
    if way is None:
        server, where = SingleServer(connections), where_of(config.redis, client)
        return RedisBackend(config, server, clock, dialect, None, where)
    listener = Listener(way.blocking(), config.namespace, start_thread)
    server = SingleServer(connections, way)
    way.on_switch = partial(reach_running_loop(), server.move)
    return kind(config, server, clock, dialect, listener, way.where)


def _timing(config: RedisConfig) -> Timing:
    return Timing(
        opening_s=config.connect_timeout_s, call_s=config.operation_timeout_s, silence_s=config.silence_s
    )


# Imported where they are used: who runs one of the two event loops need not have the other.


def _asyncio_connections(
    config: CacheConfig, client: Any | None, way: Way | None, dialect: Dialect
) -> Connections:
    from sansio_cache_redis.connections.client_anyio import AsyncioClientConnections

    if way is None:
        check_client(client, blocking=False)
        _refuse_another_loop(client)
        return AsyncioClientConnections(client, dialect.introduce)
    return asyncio_connections(config, way.asyncio(), dialect)


def asyncio_connections(
    config: CacheConfig, make_connection: Callable[[], Any], dialect: Dialect
) -> Connections:
    """The connections of the tasks of one event loop of asyncio to one server. None is open yet."""
    from sansio_cache_redis.connections.asyncio import AsyncioConnections

    return AsyncioConnections(
        make_connection,
        max_connections=config.redis.max_connections,
        timing=_timing(config.redis),
        longest_value_bytes=longest_cell_bytes(config.max_value_bytes),
        on_greeted=dialect.greet,
    )


def _refuse_another_loop(client: Any) -> None:
    """Refuse a client in a second loop: its connections belong to the loop that has opened them.

    Raises:
        ConfigurationError: Another loop that runs uses it.
    """
    loop = asyncio.get_running_loop()
    with process_lock():
        other = _loops_of_clients.setdefault(client, WeakSet())
        if any(each is not loop and each.is_running() for each in other):
            raise ConfigurationError(
                "a redis.asyncio client belongs to one event loop, and another one uses it: use from_url, or "
                "make a client and a cache for each loop"
            )
        other.add(loop)


_loops_of_clients: Final[WeakKeyDictionary[Any, WeakSet[asyncio.AbstractEventLoop]]] = WeakKeyDictionary()


def _trio_connections(
    config: CacheConfig, client: Any | None, way: Way | None, dialect: Dialect
) -> Connections:
    from sansio_cache_redis.connections.client_anyio import TrioClientConnections

    if way is None:
        check_client(client, blocking=True)
        return TrioClientConnections(client, dialect.introduce)
    return trio_connections(config, way.blocking(), dialect)


def trio_connections(
    config: CacheConfig, make_connection: Callable[[], Any], dialect: Dialect
) -> Connections:
    """The connections of the tasks of one trio run to one server. None is open yet."""
    from sansio_cache_redis.connections.trio import TrioConnections

    return TrioConnections(
        make_connection,
        max_connections=config.redis.max_connections,
        timing=_timing(config.redis),
        longest_value_bytes=longest_cell_bytes(config.max_value_bytes),
        on_greeted=dialect.greet,
    )
