"""The end of a cache, of a thread that loads, and of the interpreter: nobody waits for what will not come."""

import gc
import subprocess
import sys
import threading
import time
import warnings

import anyio
import pytest

from sansio_cache import CacheClosedError, Policy
from sansio_cache.commands import DeleteKeys
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache_redis import anyio as anyio_package
from sansio_cache_redis.sync import Cache
from support.faulty import GIVE_UP_S
from support.servers import connect, wait_until
from support.stores import Wrapping

PATIENTLY = Policy(wait_s=60, lease_s=60)


def others_wait_for_nobody(url, namespace):
    """Whether another process gets on at once."""
    with Cache.from_url(url, namespace=namespace, policy=PATIENTLY) as other:
        began_s = time.monotonic()
        assert other.get_or_load("k", lambda: "other") == "other"
        assert time.monotonic() - began_s < PATIENTLY.wait_s / 2


def test_closing_while_a_thread_loads_gives_its_lease_back(redis_url, namespace):
    cache = Cache.from_url(redis_url, namespace=namespace, policy=PATIENTLY)
    begun, may_end = threading.Event(), threading.Event()

    def load():
        begun.set()
        assert may_end.wait(GIVE_UP_S)
        return "late"

    found = []
    thread = threading.Thread(target=lambda: found.append(cache.get_or_load("k", load)))
    thread.start()
    assert begun.wait(GIVE_UP_S)
    cache.close()
    others_wait_for_nobody(redis_url, namespace)
    may_end.set()
    thread.join(GIVE_UP_S)
    assert found == ["late"]
    with Cache.from_url(redis_url, namespace=namespace) as other:
        assert other.get("k") == "other"


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_closing_while_a_task_loads_gives_its_lease_back(library, redis_url, namespace):
    async def main():
        cache = anyio_package.Cache.from_url(redis_url, namespace=namespace, policy=PATIENTLY)
        begun, may_end = anyio.Event(), anyio.Event()
        found = []

        async def load():
            begun.set()
            await may_end.wait()
            return "late"

        async def call():
            found.append(await cache.get_or_load("k", load))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await begun.wait()
            await cache.aclose()
            await anyio.to_thread.run_sync(others_wait_for_nobody, redis_url, namespace)
            may_end.set()
        assert found == ["late"]

    anyio.run(main, backend=library)


class NotTold(Wrapping):
    """A store that takes no invalidation, and once it is told so keeps who asks waiting for ever."""

    def __init__(self, store):
        self._store = store
        self.is_asked = anyio.Event()
        self.keeps_waiting = False

    async def answer(self, command):
        if not isinstance(command, DeleteKeys):
            return await self._store.answer(command)
        if self.keeps_waiting:
            self.is_asked.set()
            await anyio.sleep_forever()
        return StoreFailed(time.monotonic(), FailureKind.TIMEOUT)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_closing_that_is_cancelled_while_the_store_is_told_of_what_is_pending_closes(library, namespace):
    async def main():
        cache = anyio_package.Cache.from_url("memory://", namespace=namespace)
        await cache.get("k")
        binding = cache._bindings.bind()
        store = binding.driver._backend = NotTold(binding.driver._backend)
        await cache.invalidate("k")
        assert (await cache.health()).pending_invalidations == 1
        store.keeps_waiting = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.aclose)
            await store.is_asked.wait()
            tasks.cancel_scope.cancel()
        assert binding.background.has_left.is_set()

    anyio.run(main, backend=library)


EXIT = """
import sys, threading, time
from sansio_cache import CacheClosedError, Policy
from sansio_cache_redis.sync import Cache
url, namespace, number = sys.argv[1:]
cache = Cache.from_url(url, namespace=namespace, policy=Policy(wait_s=60, lease_s=60))
if number == "connected":
    cache.wait_ready()
begun = threading.Barrier(9)
def load(key):
    def loader():
        begun.wait()
        time.sleep(0.02 * int(key))
        return key
    cache.get_or_load(key, loader)
for key in range(8):
    threading.Thread(target=load, args=(str(key),), daemon=True).start()
begun.wait()
"""


@pytest.mark.parametrize("state", ["connected", "not connected"])
def test_the_interpreter_ends_among_loads_without_noise_and_without_their_leases(state, redis_url, namespace):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXIT, redis_url, namespace, state],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    with connect(redis_url) as client, Cache.from_url(redis_url, namespace=namespace) as other:
        wait_until(lambda: len(client.client_list()) <= 2)
        began_s = time.monotonic()
        for key in range(8):
            assert other.get_or_load(str(key), lambda key=key: str(key)) == str(key)
        assert time.monotonic() - began_s < PATIENTLY.wait_s / 2


def test_a_cache_that_is_dropped_is_closed_and_named(redis_url, namespace):
    def use_and_drop():
        for number in range(20):
            Cache.from_url(redis_url, namespace=f"{namespace}-{number}").set("k", 1)
        gc.collect()

    with connect(redis_url) as client:
        before = len(client.client_list())
        with pytest.warns(ResourceWarning) as warned:
            use_and_drop()
        named = [str(each.message).partition(" was dropped without close()")[0] for each in warned]
        assert named == [f"the cache '{namespace}-{number}'" for number in range(20)]
        wait_until(lambda: len(client.client_list()) <= before + 1)


def test_one_that_has_nothing_open_is_dropped_without_a_word(redis_url, namespace):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cache.from_url("memory://", namespace=namespace).set("k", 1)
        Cache.from_url(redis_url, namespace=namespace)
        closed = Cache.from_url(redis_url, namespace=namespace)
        closed.set("k", 1)
        closed.close()
        del closed
        gc.collect()


@pytest.mark.parametrize("block", ["mutate", "invalidating"])
def test_a_cache_that_a_handler_closes_in_a_block_lets_what_the_handler_raises_go_on(block, namespace):
    with Cache.from_url("memory://", namespace=namespace) as cache:  # noqa: SIM117
        with pytest.raises(SystemExit), getattr(cache, block)("user:1"):  # noqa: PT012
            cache.close()
            raise SystemExit
    with Cache.from_url("memory://", namespace=namespace) as cache:  # noqa: SIM117
        with pytest.raises(CacheClosedError), getattr(cache, block)("user:1"):
            cache.close()


@pytest.mark.parametrize("block", ["mutate", "invalidating"])
@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_cache_that_is_closed_in_a_block_of_a_loop_lets_what_the_block_raises_go_on(
    library, block, namespace
):
    async def main():
        cache = anyio_package.Cache.from_url("memory://", namespace=namespace)
        with pytest.raises(LookupError):  # noqa: PT012
            async with getattr(cache, block)("user:1"):
                await cache.aclose()
                raise LookupError
        other = anyio_package.Cache.from_url("memory://", namespace=namespace)
        with pytest.raises(CacheClosedError):
            async with getattr(other, block)("user:1"):
                await other.aclose()

    anyio.run(main, backend=library)
