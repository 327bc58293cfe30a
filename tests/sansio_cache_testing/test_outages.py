"""Making any cache fail: what a program does then, on every runtime and store."""

import anyio
import pytest

from sansio_cache.errors import ConfigurationError
from sansio_cache_redis import anyio as anyio_colour
from sansio_cache_redis import sync
from sansio_cache_testing import StoreFault, async_null_cache, failing, null_cache
from support.runtimes import until
from support.servers import wait_until

FAULTS = [StoreFault.REFUSED, StoreFault.REQUEST_LOST, StoreFault.REPLY_LOST]
on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cache_whose_store_fails_loads_and_is_itself_again_after_that(fault, redis_url, namespace):
    with sync.Cache.from_url(redis_url, namespace=namespace) as cache:
        assert cache.get_or_load("a", lambda: 1) == 1
        with failing(cache, fault) as state:
            assert cache.get("a") is None
            assert cache.get_or_load("a", lambda: 2) == 2
            assert not cache.invalidate("b").done
        assert state.fired
        cache.wait_ready(30)
        assert cache.get_or_load("a", lambda: 3) == 1


@on_both_loops
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_under_an_event_loop(fault, loop, redis_url, namespace):
    async def main():
        async with anyio_colour.Cache.from_url(redis_url, namespace=namespace) as cache:
            with failing(cache, fault) as state:  # before its first call as well
                assert await cache.get_or_load("a", lambda: 2) == 2
            assert state.fired
            await cache.wait_ready(30)
            assert await cache.get_or_load("a", lambda: 3) == 3
            with failing(cache, fault):
                assert await cache.get("a") is None
            await cache.wait_ready(30)
            assert await cache.get("a") == 3

    anyio.run(main, backend=loop)


def open_parts(cache):
    return [part for part, each in cache.stats().state.parts.items() if each.is_open]


def test_on_a_cluster_the_node_that_has_the_key_is_what_fails(cluster_servers, namespace):
    """So it is known to be out, and the others are not."""

    def part_of(cache, key):
        return f"127.0.0.1:{cluster_servers.owner_of(cache.key.build(key)).port}"

    async def on_a_loop():
        async with anyio_colour.Cache.from_url(cluster_servers.url, namespace=namespace) as cache:
            await cache.wait_ready(30)
            with failing(cache, StoreFault.REFUSED):
                assert await cache.get_or_load("b", lambda: 2) == 2
                assert open_parts(cache) == [part_of(cache, "b")]
            await cache.wait_ready(30)

    with sync.Cache.from_url(cluster_servers.url, namespace=namespace) as cache:
        cache.wait_ready(30)
        with failing(cache, StoreFault.REFUSED):
            assert cache.get_or_load("a", lambda: 2) == 2
            assert open_parts(cache) == [part_of(cache, "a")]
        cache.wait_ready(30)
        assert cache.get_or_load("a", lambda: 3) == 3
    anyio.run(on_a_loop)


def test_what_turns_out_to_be_a_cluster_while_it_fails_goes_on_failing_and_serves_after_that(
    cluster_servers, namespace
):
    """By a plain URL of one of its nodes, that is known once a connection has opened."""
    url = f"redis://127.0.0.1:{cluster_servers.primaries[0].port}"

    async def on_a_loop():
        async with anyio_colour.Cache.from_url(url, namespace=namespace) as cache:
            with failing(cache, StoreFault.REPLY_LOST):
                number = 0
                while number < 9 or len(open_parts(cache)) < 2:  # on all nodes, once they are known
                    assert await cache.get_or_load(f"{number}", lambda: 2) == 2
                    number += 1
            await until(lambda: not open_parts(cache))
            assert await cache.get_or_load("new", lambda: 3) == 3
            assert await cache.get("new") == 3

    with sync.Cache.from_url(url, namespace=namespace) as cache:
        with failing(cache, StoreFault.REPLY_LOST):
            number = 0
            while number < 9 or len(open_parts(cache)) < 2:
                assert cache.get_or_load(f"{number}", lambda: 2) == 2
                number += 1
        wait_until(lambda: not open_parts(cache))
        assert cache.get_or_load("fresh", lambda: 3) == 3
        assert cache.get("fresh") == 3
    anyio.run(on_a_loop)


def test_a_store_that_evicts_keeps_nothing_and_nobody_minds():
    with sync.Cache.from_url("memory://", namespace="n") as cache:
        with failing(cache, StoreFault.EVICTED) as state:
            for value in range(3):
                assert cache.get_or_load("a", int, value) == value
        assert state.fired == 3
        assert cache.get_or_load("a", lambda: 9) == 9
        assert cache.get("a") == 9


def test_what_is_no_cache_and_what_needs_a_world_is_refused():
    with pytest.raises(ConfigurationError, match="failing\\(\\) takes a cache; got dict"):
        failing({}, StoreFault.REFUSED).__enter__()
    with null_cache() as cache, pytest.raises(ConfigurationError, match="LATE needs a World"):
        failing(cache, StoreFault.LATE).__enter__()


def test_a_null_cache_stores_nothing():
    with null_cache() as cache:
        assert not cache.set("a", 1)
        assert cache.get("a", 7) == 7
        assert cache.get_or_load("a", lambda: 2) == 2
        assert cache.get("a") is None


@on_both_loops
def test_a_null_cache_of_event_loops_stores_nothing(loop):
    async def main():
        async with async_null_cache() as cache:
            assert await cache.get_or_load("a", lambda: 2) == 2
            assert await cache.get("a") is None

    anyio.run(main, backend=loop)
