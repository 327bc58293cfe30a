"""`lifespan`: an ASGI application opens and closes the cache with itself, as often as it is started."""

from functools import partial

import anyio
import pytest
import redis

from sansio_cache import CacheClosedError
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.faulty import PATIENT, run_on
from support.runtimes import until

COLOURS = {"sync": cache_sync.Cache, "asyncio": cache_anyio.Cache, "trio": cache_anyio.Cache}


async def called(cache, method, *args):
    if isinstance(cache, cache_sync.Cache):
        return await anyio.to_thread.run_sync(getattr(cache, method), *args)
    return await getattr(cache, method)(*args)


@pytest.mark.parametrize("colour", COLOURS)
def test_an_application_that_ends_leaves_no_connection_and_may_be_started_again(
    colour, redis_url, redis_client: redis.Redis, namespace
):
    cache = COLOURS[colour].from_url(redis_url, namespace=namespace, **PATIENT)
    before = redis_client.info("clients")["connected_clients"]

    async def application(number):
        async with cache.lifespan(object()):
            await called(cache, "get_or_load", f"k{number}", lambda: number)
            assert redis_client.info("clients")["connected_clients"] > before
            assert await called(cache, "get", "k0") == 0
        await until(lambda: redis_client.info("clients")["connected_clients"] <= before)

    backend = "trio" if colour == "trio" else "asyncio"
    for number in range(3):
        run_on(backend, partial(application, number))

    async def closed():
        if colour == "sync":
            cache.close()
        else:
            await cache.aclose()
        with pytest.raises(CacheClosedError):
            await called(cache, "get", "k0")
        async with cache.lifespan():
            pass  # it stays closed
        with pytest.raises(CacheClosedError):
            await called(cache, "get", "k0")

    run_on(backend, closed)
    assert cache.stats().redis_hits == 3


@pytest.mark.parametrize("colour", COLOURS)
def test_what_the_application_raises_goes_on(colour):
    cache = COLOURS[colour].from_url("memory://", namespace="lifespan")

    async def application():
        async with cache.lifespan():
            raise LookupError

    with pytest.raises(LookupError):
        run_on("trio" if colour == "trio" else "asyncio", application)
