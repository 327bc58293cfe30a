"""What becomes of a queue where its server is restarted, is full, or takes no writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest
import redis

from sansio_cache import CacheConnectionError, WriteBehind
from support.queues import FAST, GIVE_UP_S, Facade, User, World, run_world
from support.runtimes import until
from support.servers import Server

pytestmark = pytest.mark.servers

Running = Callable[..., None]


@pytest.fixture(scope="module")
def servers() -> Iterator[Server]:
    with Server.start() as server:
        yield server


@pytest.fixture
def server(servers: Server) -> Iterator[Server]:
    yield servers
    with closing(servers.client()) as client:
        client.config_set("maxmemory", 0)
        client.config_set("min-replicas-to-write", 0)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.flushall()


@pytest.fixture(params=["sync", "asyncio", "trio"])
def running(request: pytest.FixtureRequest, server: Server) -> Running:
    def run(test: Callable[[World], Awaitable[None]], strategy: WriteBehind = FAST) -> None:
        run_world(request.param, server.url, test, strategy=strategy)

    return run


def fill(server: Server) -> None:
    """Leave no memory: whatever needs some is refused from now on."""
    with closing(server.client()) as client:
        client.config_set("maxmemory", 1)


def test_on_a_full_server_writes_are_refused_and_consumers_go_on_so_that_it_empties(
    running: Running, server: Server
):
    async def test(world: World) -> None:
        await world.users.write_many([User(number, "new") for number in range(100)])
        fill(server)
        with pytest.raises(CacheConnectionError, match="memory"):
            await world.users.write(User(500, "new"))
        assert await world.users.get_or_load(5) == User(5, "new")
        world.database.poison = {7}
        async with world.queue.within("consumer", drain_s=0.0):
            left = await world.queue.drain(GIVE_UP_S)
        assert (left.queued, left.dead) == (0, 1)
        assert len(world.database.load_many(list(range(100)))) == 99
        assert world.database.load(500) is None

    running(test)


def test_a_server_that_is_restarted_without_a_log_has_lost_what_was_queued_and_nothing_else(
    running: Running, server: Server
):
    async def test(world: World) -> None:
        world.database.save([User(7, "old"), User(8, "old")], tokens={7: 1, 8: 1})
        await world.users.write(User(7, "lost"))
        assert await world.users.get_or_load(7) == User(7, "lost")
        server.restart()
        await serves(world)
        assert await world.users.get_or_load(7) == User(7, "old")
        assert (await world.queue.backlog()).queued == 0
        await world.users.write(User(8, "new"))
        async with world.queue.within("consumer"):
            await world.queue.drain(GIVE_UP_S)
        assert (world.database.load(7), world.database.load(8)) == (User(7, "old"), User(8, "new"))

    running(test)


def test_a_consumer_goes_on_when_its_server_was_restarted_and_applies_what_it_had(
    running: Running, server: Server
):
    async def test(world: World) -> None:
        async with world.queue.within("consumer", drain_s=0.0):
            world.database.gate.clear()
            await world.users.write(User(7, "in hand"))
            await until(lambda: world.database.waiting, timeout_s=GIVE_UP_S)
            server.restart()
            world.database.gate.set()
            await until(lambda: world.database.load(7) == User(7, "in hand"), timeout_s=GIVE_UP_S)
            await serves(world)
            await world.users.write(User(7, "later"))
            await until(lambda: world.database.load(7) == User(7, "later"), timeout_s=GIVE_UP_S)
            assert (await world.queue.drain(GIVE_UP_S)).queued == 0
        assert await world.users.get_or_load(7) == User(7, "later")

    running(test)


async def serves(world: World) -> None:
    """Wait until the store is asked again."""
    await Facade(world.cache, is_sync=world.is_sync).wait_ready(GIVE_UP_S)


def make_replica(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")  # of a server that is not there


def demand_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 1)


def end_both(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize(
    ("refuse", "said"), [(make_replica, "replica"), (demand_replicas, "too few replicas")]
)
def test_a_server_that_takes_no_writes_refuses_them_and_consumers_wait_until_it_does(
    running: Running, server: Server, refuse: Callable[[redis.Redis], None], said: str
):
    async def test(world: World) -> None:
        await world.users.write(User(7, "new"))
        with closing(server.client()) as client:
            refuse(client)
            with pytest.raises(CacheConnectionError, match=said):
                await world.users.write(User(8, "refused"))
            before = world.cache.stats().gave_up
            async with world.queue.within("consumer", drain_s=0.0):
                await until(lambda: world.cache.stats().gave_up != before, timeout_s=GIVE_UP_S)
                assert world.database.writes == []
                end_both(client)
                await world.queue.drain(GIVE_UP_S)
        assert world.database.load_many([7, 8]) == {7: User(7, "new")}

    running(test)
