"""A client of the user's, whose pool has few connections, or shares them with the rest of the program."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import redis
import redis.asyncio

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from sansio_cache.events import FailureKind
from sansio_cache_redis.connections.client import ClientConnections, Line
from support.faulty import PATIENT, in_thread, on_every_runtime, run_on
from support.proxy import Delay, FaultProxy, command
from support.servers import Server
from support.stalls import Stalls


class Owned:
    """A cache on a client that the test owns, and the connections that the test takes from its pool."""

    def __init__(self, runtime: str, client: Any, namespace: str, options: dict[str, Any]) -> None:
        self.client = client
        self._is_sync = runtime == "sync"
        module: Any = sansio_cache_redis.sync if self._is_sync else sansio_cache_redis.anyio
        self.cache = module.Cache.from_client(client, namespace=namespace, **options)
        self._threads = anyio.CapacityLimiter(300)
        self._is_blocking = runtime != "asyncio"

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        method = partial(getattr(self.cache, name), *args, **options)
        if self._is_sync:
            return await anyio.to_thread.run_sync(method, limiter=self._threads)
        return await method()

    async def take(self, count: int) -> list[Any]:
        """What another part of the program takes from the pool."""
        pool = self.client.connection_pool
        if self._is_blocking:
            return [await in_thread(pool.get_connection) for _ in range(count)]
        return [await pool.get_connection() for _ in range(count)]

    async def give_back(self, connections: list[Any]) -> None:
        for connection in connections:
            if self._is_blocking:
                self.client.connection_pool.release(connection)
            else:
                await self.client.connection_pool.release(connection)


@asynccontextmanager
async def owned(
    runtime: str, url: str, namespace: str, *, pool: str = "plain", connections: int = 4, **options: Any
) -> AsyncIterator[Owned]:
    module: Any = redis.asyncio if runtime == "asyncio" else redis
    kind = module.ConnectionPool if pool == "plain" else module.BlockingConnectionPool
    made = kind.from_url(url, max_connections=connections)
    client = module.Redis(connection_pool=made)
    subject = Owned(runtime, client, namespace, options)
    try:
        yield subject
    finally:
        with anyio.CancelScope(shield=True):
            if runtime == "sync":
                await in_thread(subject.cache.close)
            else:
                await subject.cache.aclose()
            if runtime == "asyncio":
                await client.aclose()
                await made.aclose()
            else:
                client.close()
                made.disconnect()


async def many(count: int, call: Any) -> list[Any]:
    answers: list[Any] = []

    async def run(number: int) -> None:
        answers.append(await call(number))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(run, number)
    return answers


each_pool = pytest.mark.parametrize("pool", ["plain", "blocking"])


@each_pool
@on_every_runtime
def test_more_callers_than_connections_stand_in_line(
    runtime: str, pool: str, redis_url: str, namespace: str
) -> None:
    """None is refused, and there is no outage."""

    async def main() -> None:
        async with owned(runtime, redis_url, namespace, pool=pool, **PATIENT) as subject:
            assert await subject.call("set", "k", "v")

            async def read(_: int) -> list[Any]:
                return [await subject.call("get", "k") for _ in range(5)]

            assert await many(60, read) == [["v"] * 5] * 60
            assert subject.cache.stats().errors == {}

    run_on(runtime, main)


@on_every_runtime
def test_who_stands_in_line_goes_on_when_another_part_of_the_program_gives_a_connection_back(
    runtime: str, redis_url: str, namespace: str
) -> None:
    async def main() -> None:
        async with owned(runtime, redis_url, namespace, **PATIENT) as subject:
            assert await subject.call("set", "k", "v")
            taken = await subject.take(4)

            async def give_back() -> None:
                await anyio.sleep(0.1)  # it may as well be given back before anybody waits
                await subject.give_back(taken)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_back)
                assert await many(10, lambda _: subject.call("get", "k")) == ["v"] * 10
            assert subject.cache.stats().errors == {}

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_pool_that_stays_empty_is_this_programs_affair_and_no_outage(
    runtime: str, redis_url: str, namespace: str
) -> None:
    """L5: who stands in line is refused when the time is over; whoever comes after that is served again."""

    async def main() -> None:
        async with owned(runtime, redis_url, namespace, operation_timeout_s=0.2) as subject:
            while not await subject.call("set", "k", "v"):
                pass
            taken = await subject.take(4)
            started_s = time.monotonic()
            with Stalls() as stalls:
                assert await many(50, lambda _: subject.call("get", "k")) == [None] * 50
                assert time.monotonic() - started_s < 0.2 + stalls.allowed_s
            gave_up = set(subject.cache.stats().gave_up)
            assert FailureKind.EXHAUSTED in gave_up
            assert gave_up <= {FailureKind.EXHAUSTED, FailureKind.OVERLOADED}
            assert not subject.cache._coordinator.is_out
            await subject.give_back(taken)
            while await subject.call("get", "k") != "v":
                pass

    run_on(runtime, main)


@pytest.mark.timing
@each_pool
@on_every_runtime
def test_callers_whose_turn_does_not_come_in_time_have_met_no_outage(
    runtime: str, pool: str, redis_server: Server, namespace: str
) -> None:
    """The connections that there are do answer, if slowly."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            options = {"pool": pool, "connections": 2, "operation_timeout_s": 4.0}
            async with owned(runtime, proxy.url, namespace, **options) as subject:
                assert await subject.call("set", "k", "v")
                proxy.on(command("GET"), Delay(0.4), times=None)
                answers = await many(50, lambda _: subject.call("get", "k"))
                assert 2 <= answers.count("v") < 50
                assert not subject.cache._coordinator.is_out
                assert set(subject.cache.stats().gave_up) <= {FailureKind.EXHAUSTED, FailureKind.OVERLOADED}

        run_on(runtime, main)


def test_an_interrupt_as_a_call_leaves_takes_no_place_of_the_pool_away(redis_url, monkeypatch):
    with closing(redis.Redis.from_url(redis_url, max_connections=1)) as client:
        connections = ClientConnections(client, lambda _: None)
        assert connections.execute([(b"PING",)], 20.0) == [True]

        def interrupted(line, caller):
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(Line, "leave", interrupted)
        with pytest.raises(KeyboardInterrupt):
            connections.execute([(b"PING",)], 20.0)
        for _ in range(3):
            assert connections.execute([(b"PING",)], 20.0) == [True]


def test_what_others_use_of_a_client_is_closed_as_they_give_it_back(redis_url, namespace):
    """Its owner's calls as well: their socket's number would be another's in the middle of them."""
    with closing(redis.Redis.from_url(redis_url)) as client:
        connections = ClientConnections(client, lambda _: None)
        assert connections.execute([(b"PING",)], 20.0) == [True]
        used = client.connection_pool.get_connection()
        idle = client.connection_pool.get_connection()
        client.connection_pool.release(idle)
        connections.reset()
        assert idle._sock is None
        assert used._sock is not None
        used.send_command("PING")
        assert used.read_response() == b"PONG"
        client.connection_pool.release(used)
        assert used._sock is None
        assert connections.execute([(b"PING",)], 20.0) == [True]
