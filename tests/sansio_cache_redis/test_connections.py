"""Connections: batches of commands for any number of callers, and replies that never get out of step.

One set of behaviours for the three kinds of our own; they are driven as the backends drive them.
"""

import asyncio
import gc
import socket
import ssl
import threading
import time
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from unittest import mock

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import redis
import redis.asyncio
import trio
import trio.testing
from msgspec.structs import replace
from redis import exceptions as errors

from sansio_cache.config import RedisConfig
from sansio_cache_redis.anyio import Cache
from sansio_cache_redis.connections import trio as connections_trio
from sansio_cache_redis.connections.asyncio import AsyncioConnections
from sansio_cache_redis.connections.client import ClientConnections
from sansio_cache_redis.connections.client_anyio import AsyncioClientConnections, TrioClientConnections
from sansio_cache_redis.connections.multiplexed import as_they_are
from sansio_cache_redis.connections.pool import Timing
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.settings import asyncio_factory, blocking_factory
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.connections.trio import TrioConnections
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.errors import ERRORS
from sansio_cache_redis.facts import facts_from
from sansio_cache_runtime.sync.background import Background
from support.proxy import (
    DROP_REPLY,
    DROP_REQUEST,
    HOLD,
    Ending,
    FaultProxy,
    Proxy,
    Refuse,
    Relay,
    command,
)
from support.runtimes import ON_CLIENT, runs, until
from support.servers import wait_until
from support.tls import TlsProxy

RUNTIMES = ["sync", "asyncio", "trio"]
LONG_S = 20.0
TIMING = Timing(opening_s=5.0, call_s=0.25, silence_s=0.1)
SHORT_S = 0.05


class Connections:
    """Connections of any kind, driven by coroutines."""

    def __init__(self, runtime, beneath, learned):
        self.runtime = runtime
        self.beneath = beneath
        self.learned = learned
        self._threads = anyio.CapacityLimiter(300)

    async def execute(self, *commands, timeout_s=LONG_S):
        """The replies; a failure in their place is raised."""
        if self.runtime == "sync":
            return await anyio.to_thread.run_sync(
                self.beneath.execute, commands, timeout_s, limiter=self._threads
            )
        replies = await self.beneath.ask(commands, timeout_s, as_they_are)
        if isinstance(replies, BaseException):
            raise replies
        return replies

    async def aclose(self):
        if self.runtime == "sync":
            self.beneath.close()
        else:
            await self.beneath.aclose()


def leading_to(runtime, url):
    """What makes connections of redis-py to a server, as a runtime takes them."""
    factory = asyncio_factory if runtime == "asyncio" else blocking_factory
    return factory(RedisConfig(url=url))


def make(runtime, url, factory=None, **options):
    """The connections of a runtime to a server, or to wherever a factory makes them lead."""
    factory = factory or leading_to(runtime, url)
    learned = []
    options = {"max_connections": 4, "on_greeted": learned.append, **options}
    if runtime == "sync":
        options = {"silence_s": 0.1, "opening_timeout_s": 5, **options}
        beneath = ThreadsConnections(factory, Background().start, **options)
    elif runtime == "asyncio":
        beneath = AsyncioConnections(factory, **{"timing": TIMING, **options})
    else:
        beneath = TrioConnections(factory, **{"timing": TIMING, **options})
    return Connections(runtime, beneath, learned)


@asynccontextmanager
async def opened(runtime, url="", **options):
    """The same, closed at the end."""
    made = make(runtime, url, **options)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            await made.aclose()


async def in_time(connections, *commands):
    """The replies; over another connection, where one was given up while this machine stood still."""
    while True:
        with suppress(errors.TimeoutError):
            return await connections.execute(*commands)


def run(runtime, main):
    """Run a coroutine function in the event loop of a runtime; what it left open complains."""
    result = anyio.run(main, backend="trio" if runtime == "trio" else "asyncio")
    gc.collect()
    return result


each_runtime = pytest.mark.parametrize("runtime", RUNTIMES)


@each_runtime
def test_replies_come_in_the_order_of_the_commands_errors_among_them(runtime, redis_url):
    async def main():
        async with opened(runtime, redis_url) as connections:
            replies = await connections.execute((b"ECHO", b"1"), (b"NONSENSE",), (b"ECHO", b"2"))
            assert [replies[0], replies[2]] == [b"1", b"2"]
            assert isinstance(replies[1], errors.ResponseError)
            assert await connections.execute((b"ECHO", b"3")) == [b"3"]

    run(runtime, main)


@each_runtime
def test_the_servers_time_is_learned_when_a_connection_opens(runtime, redis_url, redis_client):
    async def main():
        async with opened(runtime, redis_url) as connections:
            await connections.execute((b"PING",))
            return connections.learned

    [replies] = run(runtime, main)
    learned = Dialect(clock=time.monotonic)
    learned.greet(replies)
    seconds, _ = redis_client.time()
    assert seconds - 60 <= learned.now_ms(time.monotonic()) // 1_000 <= seconds


@each_runtime
def test_nothing_is_connected_before_the_first_call(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                assert connections.beneath.count == 0
                await connections.execute((b"PING",))
                assert connections.beneath.count == 1

        run(runtime, main)
        assert proxy.connections_opened == 1


@each_runtime
@pytest.mark.parametrize("waits", [False, True], ids=["nobody waits", "a caller waits"])
def test_a_connection_that_began_to_be_opened_to_the_server_of_before_is_not_used(
    runtime, waits, redis_server
):
    """S1: a primary that was frozen, and thaws when there is another, says still that it is one."""
    port = redis_server.port
    with FaultProxy("127.0.0.1", port) as old, FaultProxy("127.0.0.1", port) as new:
        here = [leading_to(runtime, old.url)]
        held = old.on_connect(HOLD)
        old.on(lambda words: words[0] == b"ECHO", Refuse("ERR deposed"), times=None)

        async def main():
            async with opened(runtime, factory=lambda: here[0]()) as connections:
                with pytest.raises(errors.TimeoutError):
                    await connections.execute((b"PING",), timeout_s=SHORT_S)
                held.wait()
                answered = []

                async def call():
                    answered.append(await connections.execute((b"ECHO", b"waited")))

                async with anyio.create_task_group() as tasks:
                    if waits:
                        tasks.start_soon(call)
                        await anyio.wait_all_tasks_blocked()
                    here[:] = [leading_to(runtime, new.url)]
                    connections.beneath.move()
                    old.release()
                assert answered == [[b"waited"]] * waits
                await until(lambda: connections.beneath.count == 1)  # what was forsaken is gone
                for number in range(5):
                    assert await in_time(connections, (b"ECHO", b"%d" % number)) == [b"%d" % number]

        run(runtime, main)


@each_runtime
def test_two_hundred_callers_get_their_own_replies_over_few_connections(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                replies = {}

                async def call(number):
                    one, other = b"%d" % number, b"%d+" % number
                    replies[number] = await connections.execute((b"ECHO", one), (b"ECHO", other))

                async with anyio.create_task_group() as tasks:
                    for number in range(200):
                        tasks.start_soon(call, number)
                assert replies == {n: [b"%d" % n, b"%d+" % n] for n in range(200)}

        run(runtime, main)
        assert proxy.connections_opened <= 4


@each_runtime
def test_a_call_on_a_silent_server_fails_and_the_next_connection_is_in_step(runtime, redis_server):
    """Fault 4, S9: the late reply belongs to nobody."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                held = proxy.on(command("ECHO", "late"), HOLD)
                with pytest.raises(errors.TimeoutError):
                    await connections.execute((b"ECHO", b"late"), timeout_s=SHORT_S)
                held.wait()
                proxy.release()
                for number in range(20):
                    assert await in_time(connections, (b"ECHO", b"%d" % number)) == [b"%d" % number]

        run(runtime, main)


@each_runtime
@pytest.mark.parametrize("action", [DROP_REQUEST, DROP_REPLY], ids=["request lost", "reply lost"])
def test_a_connection_that_breaks_fails_its_calls_and_another_is_opened(runtime, action, redis_server):
    """Faults 1, 2, 5."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                broken = proxy.on(command("ECHO", "lost"), action)
                with pytest.raises(ERRORS):
                    await connections.execute((b"ECHO", b"lost"))
                broken.wait()
                assert await connections.execute((b"ECHO", b"next")) == [b"next"]

        run(runtime, main)
        assert proxy.connections_opened in (2, 3), "one more where the machine was late to read"


@each_runtime
def test_a_server_that_refuses_fails_all_who_wait(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        proxy.refuse_connections()

        async def main():
            async with opened(runtime, proxy.url) as connections:
                failures = []

                async def call():
                    try:
                        await connections.execute((b"PING",))
                    except ERRORS as error:
                        failures.append(error)

                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(call)
                assert len(failures) == 20
                assert len({id(error) for error in failures}) == 20, "each has a traceback of its own"
                proxy.accept_connections()
                assert await connections.execute((b"PING",)) == [b"PONG"]

        run(runtime, main)


@each_runtime
def test_credentials_that_the_server_refuses_fail_the_call(runtime, redis_url):
    url = redis_url.replace("redis://", "redis://nobody:wrong@")

    async def main():
        async with opened(runtime, url) as connections:
            with pytest.raises(errors.AuthenticationError):
                await connections.execute((b"PING",))

    run(runtime, main)


@each_runtime
def test_after_a_reset_another_connection_is_used(runtime, redis_server):
    """S9: what is not to be trusted is closed."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                [first] = await connections.execute((b"CLIENT", b"ID"))
                assert await connections.execute((b"CLIENT", b"ID")) == [first]
                connections.beneath.reset()
                [second] = await connections.execute((b"CLIENT", b"ID"))
                assert second != first

        run(runtime, main)
        assert proxy.connections_opened == 2


@each_runtime
def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(runtime, redis_url, redis_client):
    """Fault 5: found out at once, or after one failed call, which the core repeats."""

    async def main():
        async with opened(runtime, redis_url) as connections:
            [number] = await connections.execute((b"CLIENT", b"ID"))
            await anyio.to_thread.run_sync(lambda: redis_client.client_kill_filter(_id=number))
            try:
                replies = await connections.execute((b"ECHO", b"x"))
            except ERRORS:
                replies = await connections.execute((b"ECHO", b"x"))
            assert replies == [b"x"]

    run(runtime, main)


@each_runtime
def test_nothing_is_open_once_all_is_closed(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
            await until(lambda: connections.beneath.count == 0)
            with pytest.raises(ERRORS):
                await connections.execute((b"PING",), timeout_s=SHORT_S)

        run(runtime, main)


@each_runtime
def test_large_values_pass_whole_and_beside_small_ones(runtime, redis_url, namespace, redis_client):
    """A large value is not in the way of small ones, and none of its bytes gets into theirs."""
    large = bytes(range(256)) * 16384
    key = f"{namespace}:large".encode()
    redis_client.set(key, large, ex=60)
    patient = {"silence_s": LONG_S} if runtime == "sync" else {"timing": replace(TIMING, silence_s=LONG_S)}

    async def main():
        async with opened(runtime, redis_url, **patient) as connections:

            async def read_large():
                assert await connections.execute((b"GET", key)) == [large]

            async def read_small(number):
                assert await connections.execute((b"ECHO", b"%d" % number)) == [b"%d" % number]

            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(read_small, number)
                    if number % 10 == 0:
                        tasks.start_soon(read_large)
            await connections.execute((b"SET", key, large[::-1], b"EX", b"60"))
            assert await connections.execute((b"GET", key)) == [large[::-1]]

    run(runtime, main)


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_the_reply_of_a_cancelled_caller_is_dropped(runtime, redis_server):
    """S9, fault 28."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                held = proxy.on(command("ECHO", "cancelled"), HOLD)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connections.execute, (b"ECHO", b"cancelled"))
                    await until(lambda: held.fired)
                    tasks.cancel_scope.cancel()
                async with anyio.create_task_group() as tasks:

                    async def next_call():
                        assert await connections.execute((b"ECHO", b"next")) == [b"next"]

                    tasks.start_soon(next_call)
                    proxy.release()

        run(runtime, main)
        assert proxy.connections_opened == 1, "the connection is not given up for one cancelled caller"


class Recording:
    """A transport or a socket that notes what is written to it."""

    def __init__(self, written, beneath):
        self.written = written
        self.beneath = beneath

    def __getattr__(self, name):
        return getattr(self.beneath, name)

    def write(self, data):
        self.written.append(bytes(data))
        return self.beneath(data)

    def send(self, data):
        self.written.append(bytes(data))
        return self.beneath.send(data)


def record(connections):
    """What is written from now on to the one connection that is open."""
    [connection] = connections.beneath
    written = []
    if connections.runtime == "asyncio":
        connection._write = Recording(written, connection._write).write
    else:
        connection._sock = Recording(written, connection._sock)
    return written


on_both = pytest.mark.parametrize("runtime", ["asyncio", "trio"])


async def fifty_at_once(connections):
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(connections.execute, (b"ECHO", b"%d" % number))


@on_both
def test_the_calls_of_one_turn_go_out_in_two_writes(runtime, redis_url):
    """The first does not know yet that it is not alone; later the server gets the first of many at once."""

    async def main():
        async with opened(runtime, redis_url) as connections:
            await connections.execute((b"PING",))
            written = record(connections)
            await fifty_at_once(connections)
            assert len(written) == 2
            await fifty_at_once(connections)
            assert len(written) == 4

    run(runtime, main)


@on_both
def test_a_lone_call_is_written_at_once_and_not_in_another_turn(runtime, redis_url):
    """Beside a busy loop a turn is a long time."""

    async def main():
        async with opened(runtime, redis_url) as connections:
            await connections.execute((b"PING",))
            await anyio.wait_all_tasks_blocked()
            written = record(connections)
            with anyio.CancelScope() as scope:
                scope.cancel()  # it may begin, and is cancelled where it waits
                await connections.execute((b"ECHO", b"alone"))
            assert len(written) == 1
            assert await connections.execute((b"ECHO", b"next")) == [b"next"]

    run(runtime, main)


class MeddlingRelay(Relay):
    """Adds to the reply that says `more`; keeps half of the one that says `half` until something is asked."""

    def __init__(self, addition):
        super().__init__()
        self._addition = addition
        self._kept = b""

    def from_upstream(self, data):
        if b"half" in data:
            middle = data.index(b"half") + 2
            data, self._kept = data[:middle], data[middle:]
        self.to_client += data + (self._addition if b"more" in data else b"")

    def from_client(self, data):
        self.to_client += self._kept
        self._kept = b""
        super().from_client(data)


class MeddlingProxy(Proxy):
    def __init__(self, port, addition=b""):
        super().__init__("127.0.0.1", port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._addition = addition

    def _relay(self):
        return MeddlingRelay(self._addition)


@on_both
@pytest.mark.parametrize("addition", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
def test_a_reply_that_nobody_has_asked_for_ends_the_connection(runtime, addition, redis_server):
    """S9, fault 29: before it can be taken for the reply to the next call."""
    with MeddlingProxy(redis_server.port, addition) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                assert await connections.execute((b"ECHO", b"more")) == [b"more"]
                await until(lambda: connections.beneath.count == 0)
                assert await connections.execute((b"ECHO", b"next")) == [b"next"]

        run(runtime, main)
        assert proxy.connections_opened == 2


@on_both
def test_a_reply_that_comes_in_parts_is_put_together(runtime, redis_server):
    with MeddlingProxy(redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                [connection] = connections.beneath
                replies = {}

                async def call(name):
                    replies[name] = await connections.execute((b"ECHO", name), (b"ECHO", name + b"+"))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call, b"half")
                    await until(lambda: connection._has_data())
                    tasks.start_soon(call, b"other")
                assert replies == {b"half": [b"half", b"half+"], b"other": [b"other", b"other+"]}

        run(runtime, main)
        assert proxy.connections_opened == 1


@pytest.mark.timing
@on_both
def test_every_get_beside_a_busy_loop_is_answered(runtime, redis_url, namespace):
    """L5. A thread that has to get its turn there would be late for every single one.

    Where other programs take the processors as well, one is late now and then.
    """

    async def main():
        async with (
            Cache.from_url(redis_url, namespace=namespace) as cache,
            anyio.create_task_group() as tasks,
        ):

            async def burn():
                while True:
                    until_s = time.monotonic() + 0.001
                    while time.monotonic() < until_s:
                        pass
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(burn)
            await cache.wait_ready()
            while not await cache.set("k", "v"):
                pass
            for _ in range(30):
                answers = [await cache.get("k") for _ in range(100)]
                if answers.count("v") >= 80:
                    break
            else:
                raise AssertionError("most calls are late each time")
            tasks.cancel_scope.cancel()

    run(runtime, main)


@on_both
@pytest.mark.parametrize("kind", [TlsProxy, MeddlingProxy])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_an_idle_connection_that_the_server_ends_is_noticed(runtime, kind, how, redis_server, redis_client):
    """Fault 5."""
    with kind(redis_server.port) as proxy:
        url = f"{proxy.url}?ssl_ca_certs={proxy.ca_file}" if kind is TlsProxy else proxy.url

        async def main():
            async with opened(runtime, url) as connections:
                [number] = await connections.execute((b"CLIENT", b"ID"))
                if how == "reset":
                    await anyio.to_thread.run_sync(proxy.drop_all)
                else:
                    await anyio.to_thread.run_sync(lambda: redis_client.client_kill_filter(_id=number))
                await until(lambda: connections.beneath.count == 0)
                assert await connections.execute((b"ECHO", b"next")) == [b"next"]

        run(runtime, main)


@pytest.mark.timing
@on_both
def test_a_server_that_does_not_read_is_passed_over_and_given_up(runtime, redis_server, redis_url):
    """Back-pressure: what cannot be written does not pile up for ever, nor is it waited for."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                [connection] = connections.beneath
                await anyio.to_thread.run_sync(proxy.freeze)
                failures = []

                async def write():
                    try:
                        await connections.execute((b"SET", b"x", b"x" * 2**24), timeout_s=0.5)
                    except ERRORS as error:
                        failures.append(error)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(write)
                    await until(lambda: not connection.is_free)
                    assert connection.failure is None
                assert len(failures) == 1
                assert connection.failure is not None
                await anyio.to_thread.run_sync(proxy.thaw)
                assert await connections.execute((b"ECHO", b"next")) == [b"next"]

        run(runtime, main)


@on_both
@pytest.mark.parametrize("way", ["unix", "tls"])
def test_large_values_pass_whole_in_every_way(runtime, way, redis_server, namespace, redis_client):
    """A TLS record is 16 kB; what a socket takes at once is another number."""
    large = bytes(range(256)) * 32768
    key = f"{namespace}:large".encode()

    async def main(url):
        async with opened(runtime, url) as connections:
            for value in (large, large[::-1]):
                assert await connections.execute((b"SET", key, value, b"EX", b"60"), (b"PING",)) == [
                    b"OK",
                    b"PONG",
                ]
                assert await connections.execute((b"GET", key), (b"ECHO", b"x")) == [value, b"x"]

    if way == "unix":
        run(runtime, lambda: main(redis_server.unix_url))
        return
    with TlsProxy(redis_server.port) as proxy:
        run(runtime, lambda: main(f"{proxy.url}?ssl_ca_certs={proxy.ca_file}"))


@on_both
def test_closing_while_a_connection_opens_leaves_nothing(runtime):
    """The server accepts and says nothing: the connection is closed long before it gives up by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        accepted = []

        async def main():
            async with opened(runtime, url) as connections, anyio.create_task_group() as tasks:

                async def call():
                    with pytest.raises(ERRORS, match="closed"):
                        await connections.execute((b"PING",))

                tasks.start_soon(call)
                accepted.append((await anyio.to_thread.run_sync(server.accept))[0])
                assert await anyio.to_thread.run_sync(accepted[0].recv, 1)
                await connections.beneath.aclose()
            assert connections.beneath.count == 0

        run(runtime, main)
        with closing(accepted[0]) as peer:
            peer.settimeout(LONG_S)
            while peer.recv(1000):
                pass


class ResettingProxy(TlsProxy):
    """Shakes hands, and resets at the first command."""

    def _relay(self):
        relay = super()._relay()
        decrypt = relay.from_client

        def from_client(data):
            decrypt(data)
            if relay.to_upstream:
                relay.ending = Ending.RESET

        relay.from_client = from_client
        return relay


@on_both
def test_a_connection_that_breaks_while_it_opens_leaves_nothing(runtime, redis_server):
    with ResettingProxy(redis_server.port) as proxy:

        async def main():
            async with opened(runtime, f"{proxy.url}?ssl_ca_certs={proxy.ca_file}") as connections:
                for _ in range(10):
                    with pytest.raises(ERRORS):
                        await connections.execute((b"PING",))
                assert connections.beneath.count == 0

        run(runtime, main)
        assert proxy.connections_opened == 10


@on_both
def test_a_connection_that_takes_too_long_to_open_fails_the_call(runtime):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"

        async def main():
            async with opened(runtime, url, timing=replace(TIMING, opening_s=SHORT_S)) as connections:
                with pytest.raises(ERRORS) as failed:
                    await connections.execute((b"PING",))
                assert isinstance(failed.value, errors.TimeoutError | TimeoutError)

        run(runtime, main)


def test_a_trio_run_that_ends_closes_what_was_not_closed(redis_server):
    """Under asyncio that is the cache's work, which is told last of the loop's end."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            connections = make("trio", proxy.url)
            assert await connections.execute((b"PING",)) == [b"PONG"]
            return connections

        connections = run("trio", main)
        assert connections.beneath.count == 0
        wait_until(lambda: not proxy._links)


def test_a_trio_run_that_ends_while_it_connects_closes_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def main():
            connections = make("trio", f"redis://127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(errors.TimeoutError):
                await connections.execute((b"PING",), timeout_s=SHORT_S)

        run("trio", main)
        peer, _ = server.accept()
        with closing(peer):
            peer.settimeout(LONG_S)
            while peer.recv(1000):
                pass


def test_on_trio_nothing_overtakes_what_was_sent_in_part():
    """S9: also where the server answers before it has read all, so that nothing seems pending."""
    commands = [[(b"SET", b"k", b"x" * 60_000)], [(b"GET", b"other")]]
    wanted = b"".join(map(pack, commands))

    async def main():
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        redispy = blocking_factory(RedisConfig())()
        redispy._sock = ours
        answers = []

        async def ask(number):
            answers.append(await connection.ask(commands[number], LONG_S, as_they_are))

        with closing(ours), closing(theirs):
            theirs.setblocking(False)
            connection = connections_trio._SocketConnection(redispy, ours, TIMING.pace(), 1 << 30)
            async with trio.open_nursery() as tasks:
                tasks.start_soon(ask, 0)
                await trio.testing.wait_all_tasks_blocked()
                assert connection._outbox or connection._left_bytes, "all of it was sent at once"
                sent = theirs.recv(len(wanted))
                connection.data_received(b"-ERR early\r\n")
                await trio.testing.wait_all_tasks_blocked()
                [[early]] = answers
                assert isinstance(early, errors.ResponseError)
                tasks.start_soon(ask, 1)
                with trio.fail_after(LONG_S):
                    while len(sent) < len(wanted):
                        await trio.lowlevel.wait_readable(theirs)
                        sent += theirs.recv(len(wanted))
                connection.close(errors.ConnectionError("the test is over"))
            await trio.testing.wait_all_tasks_blocked()
        assert sent == wanted

    trio.run(main)


def test_trio_waits_while_tls_wants_the_other_direction(redis_url):
    """A new key, say: to write it must read, and to read it must write."""

    class Renegotiating(Recording):
        def __init__(self, beneath):
            super().__init__([], beneath)
            self.to_send = [ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLWantReadError]
            self.to_read = [ssl.SSLWantReadError, ssl.SSLWantWriteError]

        def send(self, data):
            if self.to_send:
                raise self.to_send.pop()
            return super().send(data)

        def recv_into(self, buffer):
            if self.to_read:
                raise self.to_read.pop()
            return self.beneath.recv_into(buffer)

    async def main():
        async with opened("trio", redis_url) as connections:
            await connections.execute((b"PING",))
            [connection] = connections.beneath
            connection._reads = 16
            connection._sock = sock = Renegotiating(connection._sock)
            assert await connections.execute((b"ECHO", b"x"), (b"ECHO", b"y")) == [b"x", b"y"]
            assert not sock.to_send
            assert not sock.to_read

    run("trio", main)


# Clients that users bring.


@asynccontextmanager
async def users_connections(runtime, url, **options):
    """The connections of a client of the user's."""
    facts = []
    if runtime == "asyncio":
        client = redis.asyncio.Redis.from_url(url, **options)
        beneath = AsyncioClientConnections(client, facts.append)
        try:
            yield Connections(runtime, beneath, facts)
        finally:
            with anyio.CancelScope(shield=True):
                await beneath.aclose()
                await client.aclose()
        return
    with closing(redis.Redis.from_url(url, **options)) as client:
        kind = ClientConnections if runtime == "sync" else TrioClientConnections
        beneath = kind(client, facts.append)
        made = Connections(runtime, beneath, facts)
        yield made
        await made.aclose()


@each_runtime
@pytest.mark.parametrize("protocol", [2, 3])
def test_the_server_of_a_users_client_is_asked_what_it_is_now_and_then_and_after_a_failure(
    runtime, protocol, fresh_server
):
    async def main():
        async with users_connections(runtime, fresh_server.url, protocol=protocol) as connections:
            for _ in range(2):
                await connections.execute((b"ECHO", b"1"))
            assert len(connections.learned) == 1
            while len(connections.learned) < 2:
                assert await connections.execute((b"ECHO", b"2")) == [b"2"]
                await anyio.sleep(0.02)
            fresh_server.kill()
            with pytest.raises(ERRORS):
                await connections.execute((b"ECHO", b"1"))
            fresh_server.restart()
            assert await connections.execute((b"ECHO", b"2")) == [b"2"]
            assert len(connections.learned) == 3
            return connections.learned

    first, second, third = (facts_from(None, told).run_id for told in run(runtime, main))
    assert first == second != third


@each_runtime
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_users_client_is_driven_through_its_pipelines(runtime, protocol, redis_url):
    async def main():
        async with users_connections(runtime, redis_url, protocol=protocol) as connections:
            replies = await connections.execute((b"ECHO", b"1"), (b"NONSENSE",), (b"TIME",), (b"ECHO", b"2"))
            assert [replies[0], replies[3]] == [b"1", b"2"]
            assert isinstance(replies[1], errors.ResponseError)
            connections.beneath.reset()
            assert await connections.execute((b"ECHO", b"3")) == [b"3"]

    run(runtime, main)


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_a_users_client_that_is_slow_is_not_waited_for(runtime, redis_server):
    """L5: its own time-outs may be long; its connection stays in step, as the batch goes on."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with users_connections(runtime, proxy.url) as connections:
                await connections.execute((b"PING",))
                held = proxy.on(command("ECHO", "slow"), HOLD)
                with pytest.raises(errors.TimeoutError):
                    await connections.execute((b"ECHO", b"slow"), timeout_s=SHORT_S)
                held.wait()
                proxy.release()
                for number in range(10):
                    assert await connections.execute((b"ECHO", b"%d" % number)) == [b"%d" % number]

        run(runtime, main)


@each_runtime
def test_a_users_server_that_is_gone_fails_the_call(runtime, redis_server):
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        proxy.refuse_connections()
        retry = (AsyncRetry if runtime == "asyncio" else Retry)(NoBackoff(), 0)

        async def main():
            async with users_connections(runtime, proxy.url, retry=retry) as connections:
                with pytest.raises(ERRORS):
                    await connections.execute((b"PING",))

        run(runtime, main)


def test_a_users_client_is_asked_while_loaders_hold_all_threads_of_trio(redis_url):
    """Else a hit would wait until one of them has ended."""

    async def main():
        limiter = trio.to_thread.current_default_thread_limiter()
        async with users_connections("trio", redis_url) as connections:
            assert await connections.execute((b"ECHO", b"x")) == [b"x"]
            for _ in range(int(limiter.total_tokens)):
                limiter.acquire_on_behalf_of_nowait(object())
            assert limiter.available_tokens == 0
            assert await connections.execute((b"ECHO", b"x")) == [b"x"]

    run("trio", main)


def test_a_cache_of_a_users_client_answers_while_loaders_hold_all_threads_of_trio(redis_url, namespace):
    may_end = threading.Event()
    loading = []

    def load():
        loading.append(1)
        assert may_end.wait(LONG_S)
        return "loaded"

    async def main():
        count = int(trio.to_thread.current_default_thread_limiter().total_tokens)
        with closing(redis.Redis.from_url(redis_url)) as client:
            async with Cache.from_client(
                client, namespace=namespace, operation_timeout_s=20.0, attempt_timeout_s=10.0
            ) as cache:
                assert await cache.set("k", "there")
                async with anyio.create_task_group() as tasks:
                    for number in range(count):
                        tasks.start_soon(cache.get_or_load, f"k{number}", load)
                    await until(lambda: len(loading) == count)
                    try:
                        assert await cache.get("k") == "there"
                    finally:
                        may_end.set()
                assert cache.stats().errors == {}

    run("trio", main)


def test_an_opening_that_is_cancelled_before_it_begins_does_not_stop_the_next(redis_url):
    """By whoever cancels all tasks of a loop, and goes on with it."""

    async def main():
        async with opened("asyncio", redis_url) as connections:
            for _ in range(3):
                task = asyncio.create_task(connections.execute((b"PING",)))
                await asyncio.sleep(0)  # it has begun, and what it waits for has not
                [opening] = asyncio.all_tasks() - {asyncio.current_task(), task}
                assert opening in [each.task for each in connections.beneath._openings]
                opening.cancel()
                with pytest.raises(ERRORS):
                    await task
            assert await connections.execute((b"PING",)) == [b"PONG"]
            assert connections.beneath.count == 1

    run("asyncio", main)


@runs(ON_CLIENT, compare=None)
async def test_commands_have_names_that_are_texts_in_a_client_of_the_users(world):
    """OpenTelemetry joins the names of a pipeline for its span, and so do others who look on."""
    names = []

    def traced(execute):
        def joined(pipeline, *args, **options):
            names.append(" ".join(given[0] for given, _ in pipeline.command_stack))
            return execute(pipeline, *args, **options)

        return joined

    with ExitStack() as patches:
        for kind in (redis.client.Pipeline, redis.asyncio.client.Pipeline):
            patches.enter_context(mock.patch.object(kind, "execute", traced(kind.execute)))
        assert await world.cache.set("k", 1)
        assert await world.cache.get("k") == 1
        assert await world.cache.get_or_load("l", lambda: 2) == 2
        assert (await world.cache.invalidate("k", "l")).done == 2
        assert (await world.cache.health()).ok
    assert {"GET", "UNLINK PUBLISH", "TIME"} <= set(names)
    assert not world.cache.stats().errors
