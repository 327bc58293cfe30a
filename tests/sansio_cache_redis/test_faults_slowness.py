"""Fault 40, slow and not dead: many callers, large values, slow links, connections that are not to be had.

L5: a call waits no longer than its budget, whatever the server does; and what is only slow is no outage.
"""

import time
from typing import Any

import anyio
import pytest
import redis

from sansio_cache.events import FailureKind
from support.faulty import PATIENT, Loader, on_every_runtime, opened, run_on
from support.proxy import Delay, FaultProxy, Refuse, command
from support.servers import Server
from support.stalls import Stalls


async def all_at_once(count: int, call: Any) -> list[tuple[Any, float]]:
    """What so many callers get at once, and how long each has waited, in seconds."""
    found: list[tuple[Any, float]] = []

    async def run(number: int) -> None:
        started_s = time.monotonic()
        answer = await call(number)
        found.append((answer, time.monotonic() - started_s))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(run, number)
    return found


@on_every_runtime
def test_a_healthy_server_serves_a_hundred_callers_without_an_error(
    runtime: str, redis_url: str, namespace: str
) -> None:
    async def main() -> None:
        async with opened(runtime, redis_url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "v")

            async def read(_: int) -> list[Any]:
                return [await cache.get("k") for _ in range(20)]

            found = await all_at_once(150, read)
            assert all(answers == ["v"] * 20 for answers, _ in found)
            assert cache.stats().errors == {}

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_slow_server_serves_what_fits_and_the_rest_is_shed_in_time(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    """The wait for one's turn counts, and no connection is closed for being slow."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            async with opened(runtime, proxy.url, namespace, operation_timeout_s=1.0) as cache:
                assert await cache.set("k", "v")
                slow = proxy.on(command("GET"), Delay(0.05), times=None)
                found = []
                with Stalls() as stalls:
                    for _ in range(2):
                        found += await all_at_once(150, lambda _: cache.get("k"))
                    assert max(waited_s for _, waited_s in found) < 1.0 + stalls.allowed_s
                assert slow.fired
                served = [answer for answer, _ in found].count("v")
                assert 10 <= served < 300
                assert not cache.is_out
                assert set(cache.stats().gave_up) == {FailureKind.OVERLOADED}

        run_on(runtime, main)
        assert proxy.connections_opened <= 8  # four at once, and some that a busy machine was late to read


@pytest.mark.timing
@on_every_runtime
def test_small_values_do_not_wait_behind_a_large_one_on_a_slow_link(
    runtime: str, redis_server: Server, namespace: str, redis_client: redis.Redis
) -> None:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            async with opened(runtime, proxy.url, namespace, operation_timeout_s=1.0) as cache:
                assert await cache.set("small", "v")
                redis_client.set(f"{namespace}:large", bytes(4_000_000))
                proxy.limit(to_client_bytes_per_s=1_000_000)
                found: list[tuple[Any, float]] = []

                async def read_small() -> None:
                    for _ in range(10):
                        found.extend(await all_at_once(3, lambda _: cache.get("small")))
                        await anyio.sleep(0.02)

                with Stalls() as stalls:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(cache.get, "large")
                        tasks.start_soon(read_small)
                    assert max(waited_s for _, waited_s in found) < 1.0 + stalls.allowed_s
                assert [answer for answer, _ in found].count("v") >= 20
                assert not cache.is_out

        run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_an_upload_that_takes_longer_than_an_operation_is_stored(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    """Bytes that the socket takes are signs of life. Once more where the machine was too busy for them."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            async with opened(runtime, proxy.url, namespace, operation_timeout_s=1.0) as cache:
                await cache.wait_ready()
                proxy.limit(to_server_bytes_per_s=4_000_000)
                large = "x" * 6_000_000
                is_stored = False
                while not is_stored:
                    started_s = time.monotonic()
                    is_stored = await cache.set("k", large)
                    took_s = time.monotonic() - started_s
                assert took_s > 1.0, "the link was not slow"
                proxy.limit()
                assert await cache.get("k") == large

        run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("fault", ["full", "slow handshake"])
def test_while_a_second_connection_is_not_to_be_had_the_first_serves_all(
    runtime: str, fault: str, redis_server: Server, namespace: str
) -> None:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
                await cache.wait_ready()
                refusal = Refuse("ERR max number of clients reached")
                refused = proxy.on_connect(refusal if fault == "full" else Delay(60.0), times=None)
                proxy.on(command("GET"), Delay(0.005), times=None)
                large = "x" * 500_000

                async def call(number: int) -> Any:
                    if number % 10 == 0:
                        return await cache.set(f"k{number}", large)
                    return await cache.get_or_load(f"k{number % 20}", Loader("v"))

                for _ in range(3):
                    found = await all_at_once(40, call)
                assert refused.fired, "a second connection was never asked for"
                assert all(found)
                stats = cache.stats()
                assert stats.errors == {}
                assert stats.loads <= 18
                assert not cache.is_out

        run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_server_further_away_than_a_connection_may_be_silent_is_waited_for(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    """It answers each time, later than one that is near: no other connection would be of use."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main() -> None:
            proxy.far_away(0.1)
            options = {"operation_timeout_s": 3.0, "attempt_timeout_s": 0.1}
            async with opened(runtime, proxy.url, namespace, **options) as cache:
                assert await cache.set("k", "v")
                for _ in range(8):
                    assert await cache.get("k") == "v"
                assert cache.stats().errors == {}

        run_on(runtime, main)
