"""Turns: a loop of calls that never wait ends when it is told to, and lets others run (fault 39)."""

import anyio
import anyio.lowlevel
import pytest

from sansio_cache import Policy
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache_redis.anyio import Cache
from sansio_cache_runtime.anyio import cache as runtime
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend

MANY = 3_000
LIBRARIES = ["asyncio", "trio"]


class Silent(AnyioMemoryBackend):
    """A store that is out, and says so at once."""

    def __init__(self):
        pass

    async def answer(self, command):
        return StoreFailed(0.0, FailureKind.CONNECTION)


def in_memory():
    return Cache.from_url("memory://", namespace="n")


def out():
    return runtime.Cache.from_backend(Silent, namespace="n", policy=Policy(stale_for_s=60))


def disabled():
    return Cache.from_url("redis://nowhere.invalid", namespace="n", enabled=False)


async def at_once():
    return 1


async def mutate(cache):
    async with cache.mutate("k") as mutation:
        mutation.set("k", 1)


async def load_many(cache):
    async def load(keys):
        return dict.fromkeys(keys, 1)

    await cache.get_or_load_many(["a", "b"], load)


CALLS = {
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache.get_many(["a", "b"]),
    "get_or_load": lambda cache: cache.get_or_load("k", at_once),
    "get_or_load_many": load_many,
    "set": lambda cache: cache.set("k", 1),
    "invalidate": lambda cache: cache.invalidate("k"),
    "expire": lambda cache: cache.expire("k"),
    "mutate": mutate,
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("make", [in_memory, out, disabled])
@pytest.mark.parametrize("call", CALLS)
def test_a_loop_of_calls_lets_others_run_and_is_ended_by_them(library, make, call):
    async def main():
        async with make() as cache:
            await cache.get("k")  # from here on it is known that the store is out
            done = 0
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def end():
                        await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    tasks.start_soon(end)
                    while done < MANY:
                        await CALLS[call](cache)
                        done += 1
            assert scope.cancelled_caught
            assert done < MANY

    anyio.run(main, backend=library)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("make", [in_memory, out, disabled])
def test_a_loop_of_calls_ends_when_its_time_is_over(library, make):
    async def main():
        async with make() as cache:
            with anyio.move_on_after(0.01) as scope:
                while True:
                    await cache.get("k")
            assert scope.cancelled_caught

    anyio.run(main, backend=library)
