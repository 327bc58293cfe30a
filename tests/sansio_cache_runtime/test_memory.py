"""The memory backends: one store for all caches of a name, for threads and for event loops."""

import gc
import threading
import time
from functools import partial
from inspect import isawaitable

import anyio
import pytest

from sansio_cache import CacheConfig
from sansio_cache.commands import ONE_PART, Ping, ReadCell
from sansio_cache.config import RedisConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.events import CellRead, Ponged
from sansio_cache.health import Health
from sansio_cache_redis import anyio as anyio_colour
from sansio_cache_redis import sync
from sansio_cache_runtime import memory as module
from sansio_cache_runtime import process
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend, memory_for
from support.faulty import GIVE_UP_S

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


def config(url, **options):
    return CacheConfig(namespace="n", redis=RedisConfig(url=url), **options)


def test_caches_of_one_name_share_a_store_and_those_without_have_their_own():
    shared = memory_for(config("memory://one"))
    assert memory_for(config("memory://one")) is shared
    assert memory_for(config("memory://one/")) is shared
    assert memory_for(config("memory://two")) is not shared
    assert memory_for(config("memory://")) is not memory_for(config("memory://"))


def test_a_named_store_is_there_for_as_long_as_somebody_uses_it():
    first = memory_for(config("memory://passing", memory_max_entries=7))
    assert "passing" in module._named
    del first
    gc.collect()
    assert "passing" not in module._named


def test_the_limits_are_those_of_the_first():
    first = memory_for(config("memory://limited", memory_max_bytes=10_000))
    second = memory_for(config("memory://limited", memory_max_bytes=20_000))
    assert second.store.max_bytes == first.store.max_bytes == 10_000


def test_twenty_thousand_values_used_in_turn_are_all_there_the_next_time():
    keys = [f"user:{number}" for number in range(20_000)]
    with sync.Cache.from_url("memory://", namespace="n") as cache:
        for first in range(0, len(keys), 5_000):
            cache.set_many(dict.fromkeys(keys[first : first + 5_000], "a small value"))
        found = [len(cache.get_many(keys[first : first + 5_000])) for first in range(0, len(keys), 5_000)]
    assert sum(found) == len(keys)


def test_it_answers_threads():
    backend = SyncMemoryBackend(SharedMemory(config("memory://")))
    assert isinstance(backend.perform(Ping(1.0)), Ponged)
    event = backend.perform(ReadCell("n:k", 1.0))
    assert isinstance(event, CellRead)
    assert event.cell is None
    for said in (backend.suspect, backend.trust, backend.distrust):
        said(ONE_PART)
    backend.close()
    assert isinstance(backend.perform(Ping(1.0)), Ponged), "it is not one's own"


@on_both_loops
def test_it_answers_tasks(loop):
    async def main():
        backend = AnyioMemoryBackend(SharedMemory(config("memory://")))
        assert isinstance(await backend.answer(Ping(1.0)), Ponged)
        health = await backend.health()
        await backend.aclose()
        return health

    health = anyio.run(main, backend=loop)
    assert isinstance(health, Health)
    assert health == SyncMemoryBackend(SharedMemory(config("memory://"))).health()


@on_both_loops
def test_a_cancelled_caller_is_told_so_before_anything_is_done(loop):
    async def main():
        memory = SharedMemory(config("memory://"))
        asked = []
        memory.perform = asked.append
        with anyio.CancelScope() as scope:
            scope.cancel()
            await AnyioMemoryBackend(memory).answer(Ping(1.0))
        assert scope.cancelled_caught
        return asked

    assert anyio.run(main, backend=loop) == []


def test_a_store_is_one_part_with_limits_and_no_listener():
    backend = SyncMemoryBackend(SharedMemory(config("memory://", memory_max_bytes=10_000)))
    assert backend.listener is None
    assert backend.part_of("n:k") == ONE_PART
    assert backend.health() == Health(
        ok=True,
        server="memory",
        maxmemory_bytes=10_000,
        eviction_policy="lru",
        durability="What is queued is in the memory of this process, and lost when that ends.",
    )


def test_a_lock_that_another_thread_held_at_the_fork_is_not_waited_for():
    memory = SharedMemory(config("memory://"))
    with memory._lock:
        process.MARK[0] = 0  # as the system has it in a child
        process.begin_in_child()
        answers = []
        thread = threading.Thread(target=lambda: answers.append(memory.perform(Ping(1.0))), daemon=True)
        thread.start()
        thread.join(GIVE_UP_S)
    assert len(answers) == 1


@pytest.mark.parametrize("colour", [sync.Cache, anyio_colour.Cache])
def test_a_cache_in_memory_goes_by_the_clock_it_is_given(colour):
    now_s = 100.0

    def clock():
        return now_s

    with_clock = partial(colour.from_url, namespace="n", clock=clock)
    name = f"memory://{colour.__module__}"
    cache, other = with_clock(name), with_clock(name)

    def do(call):
        return anyio.run(lambda: call) if isawaitable(call) else call

    assert do(cache.set("k", 1, ttl=60))
    assert do(other.get("k")) == 1
    now_s += 120.0
    assert do(other.get("k")) is None


def test_a_clock_is_for_memory_only_and_one_for_all_who_share_a_store():
    for colour in (sync.Cache, anyio_colour.Cache):
        with pytest.raises(ConfigurationError, match="for memory:// only"):
            colour.from_url("redis://localhost", namespace="n", clock=time.monotonic)
        for none in (60.0, lambda: None):
            with pytest.raises(ConfigurationError, match="a function that gives seconds"):
                colour.from_url("memory://", namespace="n", clock=none)
        shared = colour.from_url("memory://shared", namespace="n")
        with pytest.raises(ConfigurationError, match="goes by another clock"):
            colour.from_url("memory://shared", namespace="n", clock=lambda: 1.0)
        del shared


def test_who_looks_through_it_in_the_middle_of_a_change_is_told_whose_doing_that_is(namespace, caplog):
    """A handler, or a finaliser, that deletes by pattern: nothing is wrong with the store."""
    with sync.Cache.from_url("memory://", namespace=namespace) as cache:
        cache.set("k", 1)
        memory = cache._driver._backend.memory
        memory._is_changing = True  # as where this very thread is in the middle of one
        result = cache.delete_pattern("*")
        memory._is_changing = False
        assert (result.deleted, result.complete) == (0, False)
        [said] = [record.getMessage() for record in caplog.records]
        assert "this process's own doing" in said
        assert "in the middle of a change" in said
        assert cache.get("k") == 1
        assert cache.delete_pattern("*").complete
