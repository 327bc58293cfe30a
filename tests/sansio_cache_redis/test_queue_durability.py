"""What a queue's server can lose: it says so, and a write can be acknowledged by replicas first."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import monotonic
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import anyio
import attrs
import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from sansio_cache import (
    AcknowledgedByReplicas,
    ConfigurationError,
    UnknownOutcomeError,
    WriteBehind,
)
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.commands import Append, AppendEntries, HoldCells
from sansio_cache.queues import hold_of
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.connections.confirming import ConfirmedCall, Confirming
from sansio_cache_redis.connections.confirming_anyio import LoopConfirming
from sansio_cache_redis.connections.settings import blocking_factory
from sansio_cache_redis.health import _durability
from sansio_cache_runtime.process import process_lock
from support.clusters import ClusterServers
from support.queues import FAST, GIVE_UP_S, Facade, User, World, run_world
from support.runtimes import until
from support.servers import Server, wait_until

pytestmark = pytest.mark.servers

ASKED = attrs.evolve(FAST, durability=AcknowledgedByReplicas(1, within_s=GIVE_UP_S))
HASTY = attrs.evolve(FAST, durability=AcknowledgedByReplicas(1, within_s=0.02))


def patient(url: str) -> cache_sync.Cache:
    """A cache in which nothing is a question of time."""
    return cache_sync.Cache.from_url(url, namespace=f"q{uuid4().hex[:8]}", operation_timeout_s=GIVE_UP_S)


@attrs.frozen
class Pair:
    """A server, and its one replica."""

    primary: Server
    replica: Server

    @property
    def waits(self) -> int:
        """How many clients wait for the replica."""
        return int(self.primary.client().info("clients")["blocked_clients"])  # type: ignore[index]


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    with Server.start() as primary:
        follow = "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"
        with Server.start(args=follow) as replica, closing(primary.client()) as client:
            primary.client().config_set("repl-diskless-sync-delay", 0)
            wait_until(lambda: client.wait(1, 100) == 1, timeout_s=GIVE_UP_S)
            yield Pair(primary, replica)


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    yield servers
    servers.replica.thaw()


@pytest.fixture(params=["sync", "asyncio", "trio"])
def running(request: pytest.FixtureRequest, pair: Pair) -> Callable[..., None]:
    """Runs a coroutine function of a world whose writes are to be acknowledged by a replica."""

    def run(test: Callable[[World], Awaitable[None]], strategy: WriteBehind = ASKED) -> None:
        run_world(request.param, pair.primary.url, test, strategy=strategy)

    return run


def test_a_write_that_a_replica_has_is_acknowledged(running, pair: Pair):
    async def test(world: World) -> None:
        await world.users.write_many([User(number, "new") for number in range(5)])
        with closing(pair.replica.client()) as client:
            streams = list(client.scan_iter(f"{world.namespace}:%w:*:stream"))
            assert sum(client.xlen(each) for each in streams) == 5

    running(test)


def test_a_write_that_no_replica_has_in_time_is_queued_and_says_that_a_failover_may_lose_it(
    running, pair: Pair
):
    async def test(world: World) -> None:
        await world.queue.open()
        pair.primary.client().script_flush()  # what sends a script once more asks the replicas once more
        pair.replica.freeze()
        with pytest.raises(UnknownOutcomeError, match=r"the write is queued.*fewer than 1 replica had it"):
            await world.users.write(User(7, "new"))
        assert (await world.queue.backlog()).queued == 1
        assert await world.users.get_or_load(7) == User(7, "new")

    running(test, HASTY)


def test_nobody_else_waits_for_the_replicas_and_writes_that_come_meanwhile_wait_together(running, pair: Pair):
    async def test(world: World) -> None:
        await world.users.write(User(0, "new"))
        pair.replica.freeze()
        with pair.primary.commands() as counted:
            async with anyio.create_task_group() as group:
                group.start_soon(world.users.write, User(1, "new"))
                await until(lambda: pair.waits == 1, timeout_s=GIVE_UP_S)
                for number in range(2, 10):
                    group.start_soon(world.users.write, User(number, "new"))
                assert await world.users.get_or_load(1) == User(1, "new")  # while they do
                confirming = confirming_of(world)
                await until(lambda: len(confirming._queue) == 8, timeout_s=GIVE_UP_S)
                pair.replica.thaw()
        assert counted["wait"] == 2
        assert (await world.queue.backlog()).queued == 10

    running(test)


def confirming_of(world: World) -> Confirming:
    driver = world.cache._driver if world.is_sync else world.cache._bound()
    found = driver._backend.connections.confirming
    return found if world.is_sync else found._confirming  # type: ignore[no-any-return]


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_a_server_that_dies_while_replicas_are_waited_for_leaves_it_unknown(colour: str):
    with Server.start() as primary:

        async def test(world: World) -> None:
            async def fail() -> None:
                with pytest.raises(UnknownOutcomeError):
                    await world.users.write(User(7, "new"))

            async with anyio.create_task_group() as group:
                group.start_soon(fail)
                await until(
                    lambda: primary.client().info("clients")["blocked_clients"] == 1, timeout_s=GIVE_UP_S
                )
                primary.kill()

        run_world(colour, primary.url, test, strategy=ASKED)


@pytest.mark.parametrize("colour", ["sync", "asyncio"])
def test_a_client_of_the_users_waits_on_a_connection_of_its_pool(colour: str, pair: Pair):
    async def test() -> None:
        is_sync = colour == "sync"
        client: Any = (redis if is_sync else redis.asyncio).Redis.from_url(pair.primary.url)
        kind: Any = cache_sync.Cache if is_sync else cache_anyio.Cache
        cache = kind.from_client(client, namespace=f"q{uuid4().hex[:8]}", operation_timeout_s=GIVE_UP_S)
        users = Facade(cache.entity("user", User, id="id", writer=print, strategy=ASKED), is_sync=is_sync)
        try:
            await users.write(User(7, "new"))
        finally:
            await getattr(Facade(cache, is_sync=is_sync), "close" if is_sync else "aclose")()
            await getattr(Facade(client, is_sync=is_sync), "close" if is_sync else "aclose")()

    anyio.run(test)


def test_where_wait_is_refused_nobody_knows_of_any_replica(pair: Pair):
    client = pair.primary.client()
    client.acl_setuser(
        "writer", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-wait"]
    )
    url = pair.primary.url.replace("redis://", "redis://writer:any@")
    with closing(patient(url)) as cache:
        users = cache.entity("user", User, id="id", writer=print, strategy=ASKED)
        with pytest.raises(UnknownOutcomeError, match="the write is queued"):
            users.write(User(7, "new"))
        assert users.queue.backlog().queued == 1


def test_a_write_that_was_queued_before_is_not_confirmed_by_an_empty_connection(pair: Pair):
    """WAIT is about what its own connection has written: one that has written nothing is told of all."""
    with closing(patient(pair.primary.url)) as cache:
        backend: Any = cache._driver._backend
        root, nonce = f"{cache.key.namespace}:%w:{{user:0}}", b"n" * NONCE_BYTES
        (grant,) = backend.perform(HoldCells((hold_of(root, "user:7"),), nonce, 60_000, GIVE_UP_S)).grants
        append = AppendEntries(root, (Append("user:7", grant, b"new"),), 10, 1, GIVE_UP_S, 1, 20)
        assert backend.perform(append).replicas == 1
        pair.replica.freeze()
        backend.connections.confirming.reset()
        again = backend.perform(append)
        assert again.tokens != (0,)
        assert again.replicas == 0


def test_the_memory_store_has_no_replicas_that_could_acknowledge():
    with closing(cache_sync.Cache.from_url("memory://", namespace="q")) as cache:
        users = cache.entity("user", User, id="id", writer=print, strategy=ASKED)
        with pytest.raises(ConfigurationError, match="the memory store has none"):
            users.write(User(7, "new"))
        assert "lost when that ends" in cache.health().durability


@pytest.mark.parametrize("said", ["acknowledged by 1 replica", 1, AcknowledgedByReplicas])
def test_what_is_no_durability_is_refused_with_what_to_write(said: Any):
    with pytest.raises(ConfigurationError, match=r"AcknowledgedByReplicas\(1\)"):
        WriteBehind(durability=said)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1.5}, {"count": 1, "within_s": 0}])
def test_replicas_are_counted_and_waited_for_in_seconds(options: Any):
    with pytest.raises(ConfigurationError):
        AcknowledgedByReplicas(**options)


class TestConfirming:
    """The connection by itself."""

    @pytest.fixture
    def confirming(self, pair: Pair) -> Iterator[Confirming]:
        with closing(cache_sync.Cache.from_url(pair.primary.url, namespace="q")) as cache:
            confirming = Confirming(blocking_factory(cache._config.redis))
            yield confirming
            confirming.close()

    WRITE = (b"SET", b"confirmed", b"1")
    WAIT = (b"WAIT", b"1", b"30000")

    def test_a_thread_that_gives_up_is_not_sent_for_any_more(self, confirming: Confirming, pair: Pair):
        pair.replica.freeze()
        replies: list[Any] = []
        first = threading.Thread(
            target=lambda: replies.extend(confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S))
        )
        first.start()
        wait_until(lambda: pair.waits == 1, timeout_s=GIVE_UP_S)
        with pytest.raises(RedisError, match="on behalf of others"):
            confirming.execute([(b"SET", b"late", b"1"), self.WAIT], 0.01)
        pair.replica.thaw()
        first.join()
        assert replies == [b"OK", 1]
        assert len(confirming._queue) == 0
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]
        assert pair.primary.client().get("late") is None

    def test_closing_ends_the_wait(self, confirming: Confirming, pair: Pair):
        pair.replica.freeze()
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
            except (RedisError, OSError) as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: pair.waits == 1, timeout_s=GIVE_UP_S)
        confirming.close()
        thread.join(GIVE_UP_S)
        assert [isinstance(each, (RedisConnectionError, OSError)) for each in errors] == [True]
        with pytest.raises(RedisConnectionError, match="closed"):
            confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        assert confirming.count == 0

    def test_a_handler_is_refused_while_its_own_thread_waits(self, confirming: Confirming):
        ask = confirming._ask

        def interrupted(*args: Any) -> Any:
            with pytest.raises(RedisError, match="a handler cannot wait"):
                confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
            return ask(*args)

        confirming._ask = interrupted  # type: ignore[method-assign]
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_so_is_one_whose_own_thread_waits_for_its_turn_or_holds_the_lock(self, confirming: Confirming):
        def interrupted(_: float) -> bool:
            with pytest.raises(RedisError, match="a handler cannot wait"):
                confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
            other.has_left = True
            return False

        other = ConfirmedCall([self.WRITE, self.WAIT], monotonic() + GIVE_UP_S, thread=1)
        confirming._driver = other
        waiting = ConfirmedCall([self.WRITE, self.WAIT], monotonic() + GIVE_UP_S)
        waiting.turn = Mock(wait=interrupted)
        assert confirming.perform(waiting) == [b"OK", 1]
        assert other.has_left
        with process_lock(), pytest.raises(RedisError, match="holds the lock"):
            confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_what_a_handler_raises_is_its_program_s_and_fails_those_who_were_sent_for(
        self, confirming: Confirming, monkeypatch: pytest.MonkeyPatch
    ):
        """Of whatever class: a time limit of a job is a TimeoutError."""

        def give_up(*_: Any) -> None:
            raise TimeoutError("the job takes too long")

        confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        monkeypatch.setattr(confirming, "_wire", Mock(read=lambda _: signal.raise_signal(signal.SIGUSR1)))
        before = signal.signal(signal.SIGUSR1, give_up)
        try:
            with pytest.raises(TimeoutError, match="the job takes too long"):
                confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_what_is_unwanted_is_not_sent_and_its_thread_does_not_wait(
        self, confirming: Confirming, pair: Pair
    ):
        call = ConfirmedCall([(b"SET", b"unwanted", b"1"), self.WAIT], monotonic() + GIVE_UP_S)
        call.is_unwanted = True
        with pytest.raises(RedisError, match="on behalf of others"):
            confirming.perform(call)
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]
        assert pair.primary.client().get("unwanted") is None

    def test_who_wants_something_else_of_replicas_does_not_part_those_who_want_the_same(
        self, confirming: Confirming, pair: Pair
    ):
        other = (b"WAIT", b"1", b"29999")
        pair.replica.freeze()
        with pair.primary.commands() as counted:
            with ThreadPoolExecutor(5) as threads:
                waiting = [threads.submit(confirming.execute, [self.WRITE, self.WAIT], GIVE_UP_S)]
                wait_until(lambda: pair.waits == 1, timeout_s=GIVE_UP_S)
                for number, wait in enumerate((self.WAIT, other, self.WAIT, other), 1):
                    waiting.append(threads.submit(confirming.execute, [self.WRITE, wait], GIVE_UP_S))
                    wait_until(lambda number=number: len(confirming._queue) == number, timeout_s=GIVE_UP_S)
                pair.replica.thaw()
            assert [each.result() for each in waiting] == [[b"OK", 1]] * 5
        assert counted["wait"] == 3

    def test_a_connection_on_which_replies_are_due_is_not_asked_again(self, confirming: Confirming):
        confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        before, confirming._owes = confirming._wire, True  # an interrupt struck as it was to be closed
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]
        assert confirming._wire is not before

    def test_a_reset_closes_a_connection_that_nobody_waits_on(self, confirming: Confirming):
        confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        with process_lock():  # a handler: what it finds may be half changed
            confirming.reset()
        assert confirming.count == 1
        confirming.reset()
        assert confirming.count == 0
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_the_most_patient_of_those_who_want_the_same_as_the_first_drives(self, confirming: Confirming):
        """All whom it sends for wait as long as it does."""
        other = (b"WAIT", b"1", b"29999")
        calls = [
            ConfirmedCall([self.WRITE, wait], until_s)
            for wait, until_s in ((self.WAIT, 1.0), (self.WAIT, 3.0), (self.WAIT, 2.0), (other, 9.0))
        ]
        confirming._queue.extend(calls)
        confirming._appoint()
        assert confirming._driver is calls[1]
        assert calls[1].turn.is_set()
        taken: list[ConfirmedCall] = []
        confirming._take(taken, calls[1])
        assert taken == calls[:3]
        calls[1].has_left = True
        confirming._appoint()
        assert confirming._driver is calls[3]

    def test_what_the_user_s_code_raises_as_a_connection_opens_is_a_failure_of_all_who_wait(self):
        """A credential provider, for one."""

        def make() -> Any:
            raise ValueError("no secret today")

        broken = Confirming(make)
        with ThreadPoolExecutor(3) as threads:
            failed = [
                threads.submit(broken.execute, [self.WRITE, self.WAIT], GIVE_UP_S).exception(GIVE_UP_S)
                for _ in range(3)
            ]
        assert [type(each) for each in failed] == [RedisConnectionError] * 3

        async def main() -> None:
            answer: Any = await LoopConfirming(make).ask(
                [self.WRITE, self.WAIT], GIVE_UP_S, lambda found: found
            )
            assert type(answer) is RedisConnectionError

        anyio.run(main)

    def test_who_was_sent_for_by_one_that_was_interrupted_as_it_told_them_hears_of_it_soon(
        self, confirming: Confirming, pair: Pair
    ):
        def interrupted() -> None:
            raise KeyboardInterrupt

        pair.replica.freeze()
        with ThreadPoolExecutor(3) as threads:
            first = threads.submit(confirming.execute, [self.WRITE, self.WAIT], GIVE_UP_S)
            wait_until(lambda: pair.waits == 1, timeout_s=GIVE_UP_S)
            driving = ConfirmedCall([self.WRITE, self.WAIT], monotonic() + 2 * GIVE_UP_S)
            driving.turn = Mock(wait=driving.turn.wait, set=driving.turn.set)
            second = threads.submit(confirming.perform, driving)
            wait_until(lambda: len(confirming._queue) == 1, timeout_s=GIVE_UP_S)
            third = threads.submit(confirming.execute, [self.WRITE, self.WAIT], GIVE_UP_S)
            wait_until(lambda: len(confirming._queue) == 2, timeout_s=GIVE_UP_S)
            take = confirming._take

            def taking(calls: list[ConfirmedCall], driver: ConfirmedCall) -> None:
                take(calls, driver)
                driving.turn = Mock(set=interrupted)

            confirming._take = taking  # type: ignore[method-assign]
            began_s = monotonic()
            pair.replica.thaw()
            assert first.result(GIVE_UP_S) == [b"OK", 1]
            assert isinstance(second.exception(GIVE_UP_S), KeyboardInterrupt)
            assert isinstance(third.exception(GIVE_UP_S), RedisConnectionError)
            assert monotonic() - began_s < GIVE_UP_S / 2
        confirming._take = take  # type: ignore[method-assign]
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_who_gives_up_while_the_connection_opens_is_not_sent_for(
        self, confirming: Confirming, pair: Pair
    ):
        opened = confirming._open
        late = ConfirmedCall([(b"SET", b"too late", b"1"), self.WAIT], monotonic() + GIVE_UP_S)

        def opening(until_s: float) -> Any:
            late.is_wanted = lambda: False
            return opened(until_s)

        confirming._open = opening  # type: ignore[method-assign]
        confirming._queue.append(late)
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]
        assert pair.primary.client().get("too late") is None
        assert len(confirming._queue) == 0

    def test_what_was_handed_to_it_in_the_parent_is_over_in_a_child(self, confirming: Confirming):
        call = ConfirmedCall([self.WRITE, self.WAIT], monotonic() + GIVE_UP_S)
        confirming._driver = ConfirmedCall([self.WRITE, self.WAIT], monotonic() + GIVE_UP_S, thread=1)
        confirming._lock = threading.RLock()  # as if the process had another by now
        with pytest.raises(RedisConnectionError, match="forked"):
            confirming.perform(call)

    def test_an_interrupt_fails_those_who_were_sent_for_and_nobody_else(self, confirming: Confirming):
        ask = confirming._ask

        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        confirming._ask = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        confirming._ask = ask  # type: ignore[method-assign]
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]

    def test_a_connection_that_was_closed_by_the_server_is_replaced(self, confirming: Confirming, pair: Pair):
        confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S)
        assert confirming.count == 1
        pair.primary.client().client_kill_filter(skipme=True, _type="normal")
        assert confirming.execute([self.WRITE, self.WAIT], GIVE_UP_S) == [b"OK", 1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers.start(3, replicas=True) as started:
        yield started


@pytest.mark.topology
@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_in_a_cluster_nobody_else_waits_for_the_replicas_of_a_node_either(
    colour: str, cluster: ClusterServers
):
    for each in cluster.primaries:
        with closing(each.client()) as client:
            wait_until(lambda client=client: client.wait(1, 100) == 1, timeout_s=GIVE_UP_S)

    def waits() -> int:
        found: list[Any] = [each.client().info("clients") for each in cluster.primaries]
        return sum(int(each["blocked_clients"]) for each in found)

    async def test(world: World) -> None:
        await world.users.write(User(1, "old"))
        for each in cluster.replicas:
            each.freeze()
        async with anyio.create_task_group() as group:
            group.start_soon(world.users.write, User(1, "new"))
            await until(lambda: waits() == 1, timeout_s=GIVE_UP_S)
            with anyio.fail_after(GIVE_UP_S / 2):  # of the same node
                assert await world.users.get_or_load(1) == User(1, "new")
            assert waits() == 1
            for each in cluster.replicas:
                each.thaw()
        assert (await world.queue.backlog()).queued == 2

    try:
        run_world(colour, cluster.url, test, strategy=ASKED)
    finally:
        for each in cluster.replicas:
            each.thaw()


DURABILITY = {
    "no log": ([], r"append-only file is off.*all that is queued is lost.*no replica"),
    "every second": (["--appendonly", "yes"], r"appendfsync everysec.*the last second"),
    "always": (
        ["--appendonly", "yes", "--appendfsync", "always"],
        r"appendfsync always.*nothing is lost where its process ends or its machine loses power",
    ),
    "the system's": (["--appendonly", "yes", "--appendfsync", "no"], r"appendfsync no.*half minute"),
}


@pytest.mark.parametrize("how", DURABILITY)
def test_health_says_in_plain_words_what_of_queued_writes_the_server_can_lose(how: str):
    args, said = DURABILITY[how]
    with Server.start(args=args) as server:

        async def test(world: World) -> None:
            health = await Facade(world.cache, is_sync=world.is_sync).health()
            assert health.ok, health.problems
            assert re.search(said, health.durability), health.durability

        for colour in ("sync", "asyncio", "trio"):
            run_world(colour, server.url, test)


def test_health_says_what_replicas_are_there_and_what_a_failover_loses(running, pair: Pair):
    async def test(world: World) -> None:
        health = Facade(world.cache, is_sync=world.is_sync).health
        client = pair.primary.client()
        assert "1 replica, which receives writes a moment later" in (await health()).durability
        assert "min-replicas-to-write is 0" in (await health()).durability
        client.config_set("min-replicas-to-write", 1)
        try:
            assert "no writes while too few of them follow" in (await health()).durability
        finally:
            client.config_set("min-replicas-to-write", 0)

    running(test)


def test_where_info_of_persistence_is_refused_nothing_else_passes_for_all_that_may_be_lost():
    first, second = _durability({"connected_slaves": "0"})
    assert "cannot be said: INFO persistence is refused" in first
    assert second.startswith("It has no replica")


def test_where_the_configuration_may_not_be_seen_health_says_so_and_nothing_is_wrong():
    with Server.start(args=["--appendonly", "yes"]) as server:
        user = {"enabled": True, "nopass": True, "keys": "*", "channels": "*"}
        server.client().acl_setuser("plain", commands=["+@all", "-config"], **user)
        url = server.url.replace("redis://", "redis://plain:any@")
        with closing(patient(url)) as cache:
            health = cache.health()
    assert health.ok
    assert "nothing is lost where its process ends; what is where its machine loses power cannot be said" in (
        health.durability
    )
