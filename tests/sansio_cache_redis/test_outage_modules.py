"""What an outage needs is loaded before there is one: to look for modules takes longer than a call may.

On a busy machine that took an event loop half a second, at the first call that met a server which was gone.
"""

import subprocess
import sys

import pytest

CALLS = """
import sys

async def use(cache, key):
    async def load():
        return 1

    await cache.get(key)
    await cache.get_many([key])
    await cache.get_or_load(key, load)
    await cache.set(key, 1)
    await cache.invalidate(key)
    async with cache.mutate(key) as mutation:
        mutation.set(key, 1)

def use_blocking(cache, key):
    cache.get(key)
    cache.get_many([key])
    cache.get_or_load(key, lambda: 1)
    cache.set(key, 1)
    cache.invalidate(key)
    with cache.mutate(key) as mutation:
        mutation.set(key, 1)

def told(before):
    print("ready", flush=True)
    assert sys.stdin.readline()
    return before
"""
PROGRAMS = {
    "sync": """
from sansio_cache_redis.sync import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=0.2)
assert cache.get_or_load("k", lambda: 1) == 1
before = told(set(sys.modules))
use_blocking(cache, "k")
assert cache.stats().errors
""",
    "asyncio": """
import asyncio
from sansio_cache_redis.anyio import Cache

async def main():
    cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=0.2)
    while not await cache.set("k", 1):  # on a machine that has more to do
        pass
    before = told(set(sys.modules))
    await use(cache, "k")
    assert cache.stats().errors
    return before

before = asyncio.run(main())
""",
    "trio": """
import trio
from sansio_cache_redis.anyio import Cache

async def main():
    cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=0.2)
    while not await cache.set("k", 1):  # on a machine that has more to do
        pass
    before = told(set(sys.modules))
    await use(cache, "k")
    assert cache.stats().errors
    return before

before = trio.run(main)
""",
}


@pytest.mark.timing
@pytest.mark.parametrize("runtime", PROGRAMS)
def test_an_outage_loads_no_module(runtime, fresh_server, namespace):
    program = f"{CALLS}{PROGRAMS[runtime]}\nprint(*sorted(set(sys.modules) - before))"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, fresh_server.url, namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        fresh_server.freeze()
        loaded, said = process.communicate("\n", timeout=60)
        fresh_server.thaw()
    assert process.returncode == 0, said
    assert loaded == "\n"
