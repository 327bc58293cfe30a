"""The runtime's caches by themselves: on a backend of one's own, after a fork, and as they are closed."""

import os
import threading

import anyio
import pytest

from sansio_cache import CacheConfig, Policy
from sansio_cache.commands import Sleep, Watch
from sansio_cache.errors import CacheClosedError, ConfigurationError
from sansio_cache.events import FailureKind, LoadNotShared, LoadShared, StoreFailed
from sansio_cache.notices import InvalidationFailed
from sansio_cache.stats import PartStats
from sansio_cache_runtime.anyio import cache as cache_anyio
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.driver_base import Call
from sansio_cache_runtime.loaders import own_copy, takes_context
from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend
from sansio_cache_runtime.sync import cache as cache_sync
from support.faulty import GIVE_UP_S, eventually
from support.runtimes import EVERYWHERE, ON_MEMORY, PATIENT, loading, runs, until
from support.servers import wait_until

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


class Silent:
    """A listener that hears nothing."""

    def __init__(self):
        self.watched = set()
        self.is_closed = False

    def hears(self, key):
        return True

    def watch(self, key, wake):
        self.watched.add(key)
        return 1

    def unwatch(self, key, number):
        self.watched.discard(key)

    def close(self, *, wait):
        self.is_closed = True


def memory():
    return SharedMemory(CacheConfig(namespace="n"))


def blocking(listener=None):
    backend = SyncMemoryBackend(memory())
    backend.listener = listener
    return cache_sync.Cache.from_backend(lambda _: backend, namespace="n")


def asynchronous(listener=None):
    backend = AnyioMemoryBackend(memory())
    backend.listener = listener
    return cache_anyio.Cache.from_backend(lambda: backend, namespace="n")


def test_a_cache_for_threads_stands_on_any_backend():
    with blocking() as cache:
        assert cache.get_or_load("k", lambda: 1) == 1
        assert cache.get("k") == 1
    with pytest.raises(ConfigurationError):
        cache_sync.Cache.from_backend(pytest.fail, namespace="n", unknown=1)


@on_both_loops
def test_a_cache_for_event_loops_stands_on_any_backend(loop):
    async def main():
        async with asynchronous() as cache:
            assert await cache.get_or_load("k", lambda: 1) == 1
            assert await cache.get("k") == 1

    anyio.run(main, backend=loop)


def test_after_a_fork_a_cache_has_another_backend_and_waits_for_no_load_of_the_parent():
    made = []

    def make(background):
        made.append(background)
        return SyncMemoryBackend(memory())

    with cache_sync.Cache.from_backend(make, namespace="n") as cache:

        def load():  # the parent is loading as it forks
            cache_sync._after_fork_in_child()
            return cache.get_or_load("other", lambda: 2)

        assert cache.get_or_load("k", load) == 2
        assert len(set(made)) == 2
        assert not len(cache._coordinator.single_flight)
        assert cache.get_or_load("k", lambda: 3) == 3
    cache_sync._after_fork_in_child()
    assert len(made) == 2, "it is closed"


def test_the_system_tells_caches_of_a_fork():
    with blocking() as cache:
        workers = cache._driver._workers
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(
                writing, b"1" if cache._driver._workers is not workers and cache.get("k") is None else b"0"
            )
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 1) == b"1"
        os.close(reading)
        os.close(writing)
        assert cache._driver._workers is workers


SLEEP = Sleep(60.0, Watch(("n:k",), 1, 60.0))


def test_a_thread_that_waits_is_woken_as_the_cache_is_closed():
    listener = Silent()
    cache = blocking(listener)
    raised = []

    def wait():
        call = Call(None, None)
        try:
            cache._driver._sleep(SLEEP, call)
            cache._driver._sleep(SLEEP, call)
        except CacheClosedError as error:
            raised.append(error)
        finally:
            cache._driver._end(call)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: listener.watched)
    cache.close()
    thread.join(GIVE_UP_S)
    assert len(raised) == 1
    assert listener.is_closed
    assert not listener.watched


@on_both_loops
def test_a_task_that_waits_is_woken_as_the_cache_is_closed(loop):
    async def main():
        listener = Silent()
        cache = asynchronous(listener)
        driver = cache._bound()
        raised = []

        async def wait():
            call = Call(None, None)
            try:
                await driver._sleep(SLEEP, call)
                await driver._sleep(SLEEP, call)
            except CacheClosedError as error:
                raised.append(error)
            finally:
                driver._end(call)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await eventually(lambda: listener.watched)
            await cache.aclose()
        assert len(raised) == 1
        assert listener.is_closed
        assert not listener.watched

    anyio.run(main, backend=loop)


class Uncopyable:
    def __deepcopy__(self, memo):
        raise ValueError("mine")


def test_who_cannot_have_a_copy_loads_for_himself():
    assert own_copy(LoadShared(1.0, None, Uncopyable()), 7) == LoadNotShared(1.0, 7)
    shared = LoadShared(1.0, b"1", None)
    assert own_copy(shared, 7) is shared


def test_a_loader_that_does_not_say_what_it_takes_is_told_nothing():
    assert not takes_context(dict.fromkeys)
    assert not takes_context(type("Odd", (), {"__signature__": "none", "__call__": lambda self: 1})())


def down(backend):
    """A store that does not serve."""

    async def answer(command):
        return backend.perform(command)

    backend.perform = lambda command: StoreFailed(0.0, FailureKind.CONNECTION)
    backend.answer = answer
    return backend


def exit_at_the_failure(notice):
    """A subscriber that ends the program."""
    if isinstance(notice, InvalidationFailed):
        raise SystemExit(3)


def test_an_invalidation_is_pending_though_a_subscriber_ends_its_thread():
    with cache_sync.Cache.from_backend(lambda _: down(SyncMemoryBackend(memory())), namespace="n") as cache:
        cache.subscribe(exit_at_the_failure)
        with pytest.raises(SystemExit):
            cache.invalidate("k")
        assert cache.health().pending_invalidations == 1


@on_both_loops
def test_an_invalidation_is_pending_though_a_subscriber_ends_its_task(loop):
    async def main():
        async with cache_anyio.Cache.from_backend(
            lambda: down(AnyioMemoryBackend(memory())), namespace="n"
        ) as cache:
            cache.subscribe(exit_at_the_failure)
            with pytest.raises(SystemExit):
                await cache.invalidate("k")
            assert (await cache.health()).pending_invalidations == 1

    anyio.run(main, backend=loop)


# How it is now, in the statistics.


@runs(on=EVERYWHERE, compare=None, **PATIENT)
async def test_the_statistics_say_how_the_cache_is(world):
    cache = world.cache
    before = cache.stats().state
    assert (before.parts, before.connections, before.loads_running) == ({"": PartStats()}, 0, 0)
    during = []

    async def load():
        during.append(cache.stats().state)
        return 1

    await cache.get_or_load("a", load)
    assert [state.loads_running for state in during] == [1]
    assert (during[0].connections > 0) == world.place.has_server
    assert cache.stats().state.loads_running == 0

    with cache.refusing(FailureKind.CONNECTION):
        await cache.get("a")
        await cache.invalidate("a", "b")
        out = cache.stats()
        assert out.state.parts == {"": PartStats(is_open=True, pending_invalidations=2)}
        assert out.state.is_open
        assert out.state.pending_invalidations == 2
    await until(lambda: not cache.stats().state.is_open)
    await until(lambda: cache.stats().state.pending_invalidations == 0)
    assert out.as_dict()["state"]["parts"] == {"": {"is_open": True, "pending_invalidations": 2}}
    world.take_log()


@runs(on=EVERYWHERE, compare=None, **PATIENT)
async def test_a_cache_that_is_closed_has_no_store_that_is_out_and_nothing_pending(world):
    cache = world.cache
    with cache.refusing(FailureKind.CONNECTION):
        await cache.invalidate("a", "b")
        before = cache.stats()
        assert (before.state.is_open, before.state.pending_invalidations) == (True, 2)
        await cache.aclose()
    after = cache.stats()

    assert after.state.parts == {"": PartStats()}
    assert (after.state.connections, after.state.queues) == (0, {})
    assert after.gave_up[FailureKind.CONNECTION] >= before.gave_up[FailureKind.CONNECTION] > 0
    world.take_log()


@runs(on=ON_MEMORY, compare=None)
async def test_the_statistics_say_how_many_refreshes_run(world):
    cache, policy = world.cache, Policy(ttl=60, stale_for_s=60)
    await cache.get_or_load("a", loading(1), policy=policy)
    await cache.expire("a")
    may_end = anyio.Event()

    async def load():
        await may_end.wait()
        return 2

    assert await cache.get_or_load("a", load, policy=policy) == 1
    await until(lambda: cache.stats().state.refreshes_running == 1)
    await until(lambda: cache.stats().state.refreshes_waiting == 0)
    may_end.set()
    await until(lambda: cache.stats().state.refreshes_running == 0)
