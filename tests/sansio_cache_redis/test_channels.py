"""The channels: batches of commands for any number of callers, and replies that never get out of step.

One set of behaviours for the three channels of our own; they are driven as the drivers drive them.
"""

import asyncio
import gc
import threading
from contextlib import asynccontextmanager, closing

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import redis
import redis.asyncio
from redis import exceptions as errors

from sansio_cache.config import RedisConfig
from sansio_cache_redis.channel_asyncio import AsyncioChannel, AsyncioClientChannel
from sansio_cache_redis.channel_threads import ClientChannel, ThreadsChannel
from sansio_cache_redis.channel_trio import TrioChannel, TrioClientChannel
from sansio_cache_redis.connecting import asyncio_factory, blocking_factory
from sansio_cache_redis.replies import ERRORS
from support.proxy import DROP_REPLY, DROP_REQUEST, HOLD, FaultProxy, command
from support.runtimes import until

RUNTIMES = ["sync", "asyncio", "trio"]
LONG_S = 20.0
SHORT_S = 0.05


class Channel:
    """A channel of any kind, driven by coroutines."""

    def __init__(self, runtime, channel, learned):
        self.runtime = runtime
        self.channel = channel
        self.learned = learned
        self._threads = anyio.CapacityLimiter(300)

    async def execute(self, *commands, timeout_s=LONG_S):
        if self.runtime != "sync":
            return await self.channel.execute(commands, timeout_s)
        return await anyio.to_thread.run_sync(
            self.channel.execute, commands, timeout_s, limiter=self._threads
        )

    async def aclose(self):
        if self.runtime == "sync":
            self.channel.close()
        else:
            await self.channel.aclose()


@asynccontextmanager
async def opened(runtime, url, **options):
    """A channel of a runtime to a server."""
    config = RedisConfig(url=url)
    learned = []
    options = {"max_connections": 4, "on_time": learned.append, **options}
    if runtime == "asyncio":
        channel = AsyncioChannel(asyncio_factory(config), opening_timeout_s=5, **options)
    else:
        kind = ThreadsChannel if runtime == "sync" else TrioChannel
        channel = kind(blocking_factory(config), **options)
    made = Channel(runtime, channel, learned)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            await made.aclose()


def run(runtime, main):
    """Run a coroutine function in the event loop of a runtime; what it left open complains."""
    result = anyio.run(main, backend="trio" if runtime == "trio" else "asyncio")
    gc.collect()
    return result


each_runtime = pytest.mark.parametrize("runtime", RUNTIMES)


@each_runtime
def test_replies_come_in_the_order_of_the_commands_errors_among_them(runtime, redis_url):
    async def main():
        async with opened(runtime, redis_url) as channel:
            replies = await channel.execute((b"ECHO", b"1"), (b"NONSENSE",), (b"ECHO", b"2"))
            assert [replies[0], replies[2]] == [b"1", b"2"]
            assert isinstance(replies[1], errors.ResponseError)
            assert await channel.execute((b"ECHO", b"3")) == [b"3"]

    run(runtime, main)


@each_runtime
def test_the_servers_time_is_learned_when_a_connection_opens(runtime, redis_url, redis_client):
    async def main():
        async with opened(runtime, redis_url) as channel:
            await channel.execute((b"PING",))
            return channel.learned

    [learned_us] = run(runtime, main)
    seconds, _ = redis_client.time()
    assert seconds - 60 <= learned_us // 1_000_000 <= seconds


@each_runtime
def test_nothing_is_connected_before_the_first_call(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                assert channel.channel.connections == 0
                await channel.execute((b"PING",))
                assert channel.channel.connections == 1

        run(runtime, main)
        assert proxy.connections_opened == 1


@each_runtime
def test_two_hundred_callers_get_their_own_replies_over_few_connections(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                replies = {}

                async def call(number):
                    one, other = b"%d" % number, b"%d+" % number
                    replies[number] = await channel.execute((b"ECHO", one), (b"ECHO", other))

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
            async with opened(runtime, proxy.url) as channel:
                await channel.execute((b"PING",))
                held = proxy.on(command("ECHO", "late"), HOLD)
                with pytest.raises(errors.TimeoutError):
                    await channel.execute((b"ECHO", b"late"), timeout_s=SHORT_S)
                held.wait()
                proxy.release()
                for number in range(20):
                    assert await channel.execute((b"ECHO", b"%d" % number)) == [b"%d" % number]

        run(runtime, main)


@each_runtime
@pytest.mark.parametrize("action", [DROP_REQUEST, DROP_REPLY], ids=["request lost", "reply lost"])
def test_a_connection_that_breaks_fails_its_calls_and_another_is_opened(runtime, action, redis_server):
    """Faults 1, 2, 5."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                await channel.execute((b"PING",))
                broken = proxy.on(command("ECHO", "lost"), action)
                with pytest.raises(ERRORS):
                    await channel.execute((b"ECHO", b"lost"))
                broken.wait()
                assert await channel.execute((b"ECHO", b"next")) == [b"next"]

        run(runtime, main)
        assert proxy.connections_opened == 2


@each_runtime
def test_a_server_that_refuses_fails_all_who_wait(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        proxy.refuse_connections()

        async def main():
            async with opened(runtime, proxy.url) as channel:
                failures = []

                async def call():
                    try:
                        await channel.execute((b"PING",))
                    except ERRORS as error:
                        failures.append(error)

                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(call)
                assert len(failures) == 20
                assert len({id(error) for error in failures}) == 20, "each has a traceback of its own"
                proxy.accept_connections()
                assert await channel.execute((b"PING",)) == [b"PONG"]

        run(runtime, main)


@each_runtime
def test_credentials_that_the_server_refuses_fail_the_call(runtime, redis_url):
    url = redis_url.replace("redis://", "redis://nobody:wrong@")

    async def main():
        async with opened(runtime, url) as channel:
            with pytest.raises(errors.AuthenticationError):
                await channel.execute((b"PING",))

    run(runtime, main)


@each_runtime
def test_after_a_reset_another_connection_is_used(runtime, redis_server):
    """S9: what is not to be trusted is closed."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                [first] = await channel.execute((b"CLIENT", b"ID"))
                assert await channel.execute((b"CLIENT", b"ID")) == [first]
                channel.channel.reset()
                [second] = await channel.execute((b"CLIENT", b"ID"))
                assert second != first

        run(runtime, main)
        assert proxy.connections_opened == 2


@each_runtime
def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(runtime, redis_url, redis_client):
    """Fault 5: found out at once, or after one failed call, which the core repeats."""

    async def main():
        async with opened(runtime, redis_url) as channel:
            [number] = await channel.execute((b"CLIENT", b"ID"))
            await anyio.to_thread.run_sync(lambda: redis_client.client_kill_filter(_id=number))
            try:
                replies = await channel.execute((b"ECHO", b"x"))
            except ERRORS:
                replies = await channel.execute((b"ECHO", b"x"))
            assert replies == [b"x"]

    run(runtime, main)


@each_runtime
def test_a_closed_channel_has_no_connection(runtime, redis_server):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                await channel.execute((b"PING",))
            await until(lambda: channel.channel.connections == 0)
            with pytest.raises(ERRORS):
                await channel.execute((b"PING",), timeout_s=SHORT_S)

        run(runtime, main)


@each_runtime
def test_large_values_pass_whole_and_beside_small_ones(runtime, redis_url, namespace, redis_client):
    """A large value is not in the way of small ones, and none of its bytes gets into theirs."""
    large = bytes(range(256)) * 16384
    key = f"{namespace}:large".encode()
    redis_client.set(key, large, ex=60)

    async def main():
        async with opened(runtime, redis_url) as channel:

            async def read_large():
                assert await channel.execute((b"GET", key)) == [large]

            async def read_small(number):
                assert await channel.execute((b"ECHO", b"%d" % number)) == [b"%d" % number]

            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(read_small, number)
                    if number % 10 == 0:
                        tasks.start_soon(read_large)
            await channel.execute((b"SET", key, large[::-1], b"EX", 60))
            assert await channel.execute((b"GET", key)) == [large[::-1]]

    run(runtime, main)


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_the_reply_of_a_cancelled_caller_is_dropped(runtime, redis_server):
    """S9, fault 28."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with opened(runtime, proxy.url) as channel:
                await channel.execute((b"PING",))
                held = proxy.on(command("ECHO", "cancelled"), HOLD)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(channel.execute, (b"ECHO", b"cancelled"))
                    await until(lambda: held.fired)
                    tasks.cancel_scope.cancel()
                async with anyio.create_task_group() as tasks:

                    async def next_call():
                        assert await channel.execute((b"ECHO", b"next")) == [b"next"]

                    tasks.start_soon(next_call)
                    proxy.release()

        run(runtime, main)
        assert proxy.connections_opened == 1, "the connection is not given up for one cancelled caller"


def test_asyncio_sends_all_calls_of_one_turn_in_one_write(redis_url):
    async def main():
        async with opened("asyncio", redis_url) as channel:
            await channel.execute((b"PING",))
            [link] = channel.channel._links
            written = []
            write = link._writer.write
            link._writer.write = lambda data: written.append(data) or write(data)
            await asyncio.gather(*(channel.execute((b"ECHO", b"%d" % n)) for n in range(50)))
            assert len(written) == 1

    run("asyncio", main)


def test_a_trio_run_ends_the_threads_of_a_channel_that_was_not_closed(redis_url):
    async def main():
        channel = TrioChannel(
            blocking_factory(RedisConfig(url=redis_url)), max_connections=4, on_time=lambda _: None
        )
        assert await channel.execute([(b"PING",)], LONG_S) == [b"PONG"]

    run("trio", main)

    async def gone():
        await until(lambda: not [t for t in threading.enumerate() if t.name == "sansio-cache-trio"])

    anyio.run(gone)


# Clients that users bring.


@asynccontextmanager
async def users_channel(runtime, url, **options):
    """A channel over a client of the user's."""
    if runtime == "asyncio":
        client = redis.asyncio.Redis.from_url(url, **options)
        channel = AsyncioClientChannel(client)
        try:
            yield Channel(runtime, channel, [])
        finally:
            with anyio.CancelScope(shield=True):
                await channel.aclose()
                await client.aclose()
        return
    with closing(redis.Redis.from_url(url, **options)) as client:
        channel = ClientChannel(client) if runtime == "sync" else TrioClientChannel(client)
        made = Channel(runtime, channel, [])
        yield made
        await made.aclose()


@each_runtime
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_users_client_is_driven_through_its_pipelines(runtime, protocol, redis_url):
    async def main():
        async with users_channel(runtime, redis_url, protocol=protocol) as channel:
            replies = await channel.execute((b"ECHO", b"1"), (b"NONSENSE",), (b"TIME",), (b"ECHO", b"2"))
            assert [replies[0], replies[3]] == [b"1", b"2"]
            assert isinstance(replies[1], errors.ResponseError)
            channel.channel.reset()
            assert await channel.execute((b"ECHO", b"3")) == [b"3"]

    run(runtime, main)


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_a_users_client_that_is_slow_is_not_waited_for(runtime, redis_server):
    """L5: its own time-outs may be long; its connection stays in step, as the batch goes on."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            async with users_channel(runtime, proxy.url) as channel:
                await channel.execute((b"PING",))
                held = proxy.on(command("ECHO", "slow"), HOLD)
                with pytest.raises(errors.TimeoutError):
                    await channel.execute((b"ECHO", b"slow"), timeout_s=SHORT_S)
                held.wait()
                proxy.release()
                for number in range(10):
                    assert await channel.execute((b"ECHO", b"%d" % number)) == [b"%d" % number]

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
            async with users_channel(runtime, proxy.url, retry=retry) as channel:
                with pytest.raises(ERRORS):
                    await channel.execute((b"PING",))

        run(runtime, main)
