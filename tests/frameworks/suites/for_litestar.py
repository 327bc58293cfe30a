"""Stands in for Litestar's `conftest.py`, beside its tests of stores: its own stores, or the adapter."""

import os
import time

import pytest
import redis.asyncio
from litestar.stores.file import FileStore
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore
from time_machine import travel

from frameworks.bytes_store import OPTIONS
from frameworks.litestar_store import SansioStore
from frameworks.suites import place
from sansio_cache_redis.anyio import Cache

IS_NATIVE = os.environ["FRAMEWORKS_BACKEND"] == "native"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def redis_client():
    client = redis.asyncio.Redis.from_url(place())
    yield client
    await client.flushdb()
    await client.aclose()


@pytest.fixture
async def redis_store(redis_client):
    if IS_NATIVE:
        yield RedisStore(redis=redis_client)
    else:
        cache = Cache.from_url(place(), namespace="litestar", **OPTIONS)
        yield SansioStore(cache)
        await cache.clear()
        await cache.aclose()


@pytest.fixture
async def memory_store():
    if IS_NATIVE:
        yield MemoryStore()
        return
    # The clock that the tests move on.
    cache = Cache.from_url("memory://", namespace="litestar", clock=time.time, **OPTIONS)
    yield SansioStore(cache)
    await cache.aclose()


@pytest.fixture
def file_store(tmp_path):
    return FileStore(path=tmp_path)


@pytest.fixture(params=["memory_store"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def frozen_datetime():
    with travel(time.time, tick=False) as frozen:
        yield frozen
