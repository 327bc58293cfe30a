"""Is added to aiocache's own `conftest.py`: its cache for Redis, on the server of the run; or the adapter."""

import asyncio
import os

import pytest
from aiocache import Cache
from tests.utils import KEY_LOCK, Keys

from frameworks.aiocache_cache import SansioCache
from frameworks.suites import place


@pytest.fixture
async def redis_cache():
    if os.environ["FRAMEWORKS_BACKEND"] == "native":
        _, _, port = place().rpartition(":")
        made = Cache(Cache.REDIS, namespace="test", port=int(port.partition("/")[0]))
    else:
        made = SansioCache(place(), namespace="test")
    async with made as cache:
        yield cache
        await asyncio.gather(*(cache.delete(each) for each in (*Keys, KEY_LOCK)))
