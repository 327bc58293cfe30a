"""The memory backends: one store for all caches of a name, for threads and for event loops."""

import gc
import threading

import anyio
import pytest

from sansio_cache import CacheConfig
from sansio_cache.commands import ONE_PART, Ping, ReadCell
from sansio_cache.config import RedisConfig
from sansio_cache.events import CellRead, Ponged
from sansio_cache.health import Health
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
    assert backend.health() == Health(ok=True, server="memory", maxmemory_bytes=10_000, eviction_policy="lru")


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
