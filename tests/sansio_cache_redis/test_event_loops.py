"""Event loops: several at once, guests of each other, and such as end with work under way (fault 39)."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import redis.asyncio
import trio

from sansio_cache import CacheClosedError, CacheConfig
from sansio_cache.commands import DeleteKeys
from sansio_cache.errors import ConfigurationError, RecursiveLoadError
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_runtime.anyio import cache as runtime
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.memory import SharedMemory
from support.faulty import GIVE_UP_S
from support.runtimes import PATIENT, until
from support.servers import wait_until

LIBRARIES = ["asyncio", "trio"]
on_both = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(params=["memory", "server"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


class Loop:
    """An event loop in a thread of its own, in which one coroutine function runs."""

    def __init__(self, library, main, *args):
        self.failure = None
        self._thread = threading.Thread(target=self._run, args=(library, main, args))
        self._thread.start()

    def _run(self, library, main, args):
        try:
            self.result = anyio.run(main, *args, backend=library)
        except BaseException as error:
            self.failure = error

    def join(self):
        self._thread.join(GIVE_UP_S)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure
        return self.result


async def event(happened):
    """Wait for a thread's event."""
    assert await anyio.to_thread.run_sync(happened.wait, GIVE_UP_S)


class Gate:
    """A loader of any loop that says that it runs, and waits until it may end."""

    def __init__(self, value):
        self.began, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        self._value = value

    async def __call__(self):
        self.calls += 1
        self.began.set()
        await event(self.may_end)
        return self._value


# Several at once.


@pytest.mark.parametrize("first", LIBRARIES)
@pytest.mark.parametrize("second", LIBRARIES)
def test_two_loops_use_one_cache_at_once(url, namespace, first, second):
    """Fault 31."""
    cache = cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT)

    async def use(key):
        async def load():
            await anyio.lowlevel.checkpoint()
            return key

        for _ in range(3):
            assert await cache.get_or_load(key, load) == key
            assert await cache.get(key) == key
            assert await cache.set(key, key)

    async def main():
        await use("a")
        await anyio.to_thread.run_sync(lambda: anyio.run(use, "b", backend=second))
        await use("a")
        assert await cache.get("b") == "b"
        await cache.aclose()

    anyio.run(main, backend=first)
    assert cache.stats().errors == {}
    assert cache.stats().loads == 2


class Making:
    """What a loop needs of a cache is made in steps: another function comes in the middle of it, once."""

    def __init__(self, cache, meanwhile):
        self._bindings, self._meanwhile = cache._bindings, meanwhile
        self._make, self._bindings._make_backend = self._bindings._make_backend, self

    def __call__(self):
        self._bindings._make_backend = self._make
        self._meanwhile()
        return self._make()


@pytest.mark.parametrize("slow", LIBRARIES)
@on_both
def test_what_one_loop_needs_of_files_and_modules_keeps_no_other_waiting(namespace, slow, library):
    """The lock that all caches of a process share is held for microseconds."""
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)
    makes, may_go_on = threading.Event(), threading.Event()

    def take_long():
        makes.set()
        assert may_go_on.wait(GIVE_UP_S)

    async def main():
        await cache.set("k", 1)
        Making(cache, take_long)
        other = Loop(slow, cache.get, "k")
        await event(makes)
        try:
            assert await cache.get("k") == 1
            assert (await cache.invalidate("other")).done
        finally:
            may_go_on.set()
        await anyio.to_thread.run_sync(other.join)
        assert other.result == 1

    Loop(library, main).join()


@on_both
def test_a_handler_that_calls_the_cache_while_a_loop_s_part_is_made_makes_it(namespace, library):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)
    made = []

    async def main():
        Making(cache, lambda: made.append(cache._bindings.bind()))
        await cache.set("k", 1)
        assert [cache._bindings.bind()] == made
        assert await cache.get("k") == 1
        await cache.aclose()

    Loop(library, main).join()


@on_both
def test_a_cache_that_is_closed_while_a_loop_s_part_is_made_says_so_and_keeps_nothing(namespace, library):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)

    async def main():
        Making(cache, Loop(library, cache.aclose).join)
        with pytest.raises(CacheClosedError):
            await cache.get("k")
        assert cache._bindings.drivers == []

    Loop(library, main).join()


def test_a_loop_for_each_call_in_many_threads_is_served_and_leaves_no_connection(
    redis_url, redis_client, namespace
):
    """As synchronous views that call an asynchronous cache do."""
    cache = cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT)
    before = len(redis_client.client_list())

    async def load():
        await anyio.lowlevel.checkpoint()
        return 1

    def view(number):
        key = f"k{number % 20}"
        return anyio.run(cache.get_or_load, key, load, backend=LIBRARIES[number % 2])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(view, range(100))) == [1] * 100
    assert cache.stats().loads == 20
    assert cache.stats().errors == {}
    wait_until(lambda: len(redis_client.client_list()) <= before)


@pytest.mark.parametrize("leader", LIBRARIES)
@pytest.mark.parametrize("follower", LIBRARIES)
def test_callers_in_different_loops_share_one_load(leader, follower, namespace):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)
    load = Gate(7)

    async def get():
        return await cache.get_or_load("k", load)

    leads = Loop(leader, get)
    assert load.began.wait(GIVE_UP_S)
    follows = [Loop(follower, get) for _ in range(2)]
    wait_until(lambda: cache._coordinator.single_flight.waiting == 2)
    load.may_end.set()
    assert [loop.join() for loop in (leads, *follows)] == [7, 7, 7]
    assert load.calls == 1
    assert cache._endings == {}
    assert len(cache._coordinator.single_flight) == 0


@on_both
def test_followers_go_on_when_the_loop_that_leads_their_load_ends(library, namespace):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)
    load, may_end = Gate(1), threading.Event()

    async def lead_until_the_loop_ends():
        task = asyncio.create_task(cache.get_or_load("k", load))
        await event(may_end)
        return task

    async def get():
        return await cache.get_or_load("k", lambda: 2)

    leads = Loop("asyncio", lead_until_the_loop_ends)
    assert load.began.wait(GIVE_UP_S)
    follows = Loop(library, get)
    wait_until(lambda: cache._coordinator.single_flight.waiting == 1)
    may_end.set()
    assert leads.join().cancelled()
    load.may_end.set()
    assert follows.join() == 2


class Refusing(AnyioMemoryBackend):
    """Does everything but remove."""

    async def answer(self, command):
        if isinstance(command, DeleteKeys):
            return StoreFailed(0.0, FailureKind.PERMISSION)
        return await super().answer(command)


@pytest.mark.parametrize("writer", LIBRARIES)
@pytest.mark.parametrize("reader", LIBRARIES)
def test_what_one_loop_could_not_invalidate_no_loop_reads(writer, reader):
    """S1: the store was not told of it, so what is there may be old."""
    backend = Refusing(SharedMemory(CacheConfig(namespace="n")))
    cache = runtime.Cache.from_backend(lambda: backend, namespace="n")

    async def get():
        return await cache.get("k")

    async def write():
        assert await cache.set("k", "old")
        assert await anyio.to_thread.run_sync(lambda: anyio.run(get, backend=reader)) == "old"
        assert (await cache.invalidate("k")).remembered == 1
        assert await anyio.to_thread.run_sync(lambda: anyio.run(get, backend=reader)) is None

    anyio.run(write, backend=writer)


@on_both
def test_a_loader_that_asks_for_its_own_key_in_another_loop_is_refused(library, namespace):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)

    async def get():
        return await cache.get_or_load("k", lambda: anyio.run(get, backend=library))

    with pytest.raises(RecursiveLoadError):
        anyio.run(get)


@pytest.mark.parametrize("closing", LIBRARIES)
@pytest.mark.parametrize("other", LIBRARIES)
def test_closed_in_one_loop_it_is_closed_in_all(closing, other, redis_url, redis_client, namespace):
    cache = cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT)
    before = len(redis_client.client_list())
    in_use, is_closed = threading.Event(), threading.Event()

    async def elsewhere():
        await cache.set("k", 1)
        in_use.set()
        await event(is_closed)
        with pytest.raises(CacheClosedError):
            await cache.get("k")
        await anyio.to_thread.run_sync(wait_until, lambda: len(redis_client.client_list()) <= before)

    async def main():
        await cache.set("k", 2)
        await event(in_use)
        await cache.aclose()
        is_closed.set()

    loop = Loop(other, elsewhere)
    anyio.run(main, backend=closing)
    loop.join()


def test_a_client_of_asyncio_serves_one_loop_after_the_other_but_not_two_at_once(redis_url, namespace):
    """Its connections belong to the loop that has opened them."""
    client = redis.asyncio.Redis.from_url(redis_url)
    cache = cache_anyio.Cache.from_client(client, namespace=namespace)

    async def use():
        assert await cache.set("k", 1)

    async def elsewhere():
        with pytest.raises(ConfigurationError, match="belongs to one event loop"):
            await cache.get("k")

    async def main():
        await use()
        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere))
        await use()
        await client.aclose()

    anyio.run(main)
    anyio.run(main)


@on_both
def test_caches_that_are_dropped_and_never_closed_are_named_and_leave_no_connection(
    library, redis_url, redis_client, namespace
):
    before = len(redis_client.client_list())

    async def main():
        for number in range(5):
            cache = cache_anyio.Cache.from_url(redis_url, namespace=f"{namespace}-{number}", **PATIENT)
            assert await cache.set("k", 1)
        del cache
        gc.collect()
        await until(lambda: len(redis_client.client_list()) <= before)

    with pytest.warns(ResourceWarning) as warned:
        anyio.run(main, backend=library)
    named = [
        str(each.message).partition(" was dropped without aclose(): 1 connections")[0] for each in warned
    ]
    assert named == [f"the cache '{namespace}-{number}'" for number in range(5)]


@on_both
def test_a_cache_whose_loops_have_ended_is_dropped_without_a_word(library, redis_url, namespace):
    """Each has closed what it had. So has `aclose`; and one that was never used has nothing."""

    def use_and_drop():
        cache, closed, _ = [
            cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT) for _ in range(3)
        ]

        async def main():
            assert await cache.set("k", 1)
            async with closed:
                assert await closed.get("k") == 1

        anyio.run(main, backend=library)

    use_and_drop()
    gc.collect()  # warnings are errors


def test_what_a_loop_has_left_that_was_closed_without_a_word_is_closed_with_the_cache(
    redis_url, redis_client, namespace
):
    before = len(redis_client.client_list())
    cache = cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(cache.set("k", 1))
    loop.close()
    del loop
    gc.collect()
    with pytest.warns(ResourceWarning, match=f"the cache '{namespace}' was dropped without aclose"):
        del cache
    wait_until(lambda: len(redis_client.client_list()) <= before)


# A guest.


def as_guest(main):
    """Run a coroutine function of trio as a guest of the running asyncio loop; a future of its result."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    trio.lowlevel.start_guest_run(
        main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
    )
    return done


@pytest.mark.parametrize("first", ["host", "guest"])
def test_trio_as_a_guest_of_asyncio_is_trio(url, namespace, first):
    cache = cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT)

    async def use(who, sleep):
        async def load():
            await sleep(0)
            return who

        for number in range(10):
            assert await cache.get_or_load(f"{who}{number}", load) == who
            assert await cache.get(f"{who}{number}") == who
            await sleep(0)
            with anyio.move_on_after(0.001) as scope:
                await cache.get_or_load("endless", anyio.sleep_forever)
            assert scope.cancelled_caught

    async def main():
        if first == "host":
            await use("host", asyncio.sleep)
        done = as_guest(lambda: use("guest", trio.sleep))
        await use("host", asyncio.sleep)
        (await done).unwrap()
        await use("host", asyncio.sleep)
        await cache.aclose()

    asyncio.run(main())
    assert cache.stats().errors == {}


def test_a_guest_and_its_host_share_one_load(namespace):
    cache = cache_anyio.Cache.from_url("memory://", namespace=namespace)
    calls = []

    async def main():
        may_end = asyncio.Event()

        async def load():
            calls.append(1)
            await may_end.wait()
            return 1

        leads = asyncio.create_task(cache.get_or_load("k", load))
        done = as_guest(lambda: cache.get_or_load("k", load))
        await until(lambda: cache._coordinator.single_flight.waiting)
        may_end.set()
        assert await leads == (await done).unwrap() == 1

    asyncio.run(main())
    assert len(calls) == 1


# Ends.


BEGINNING = """
import asyncio, gc, sys, trio, anyio
from sansio_cache import NO_JITTER, Policy
from sansio_cache_redis.anyio import Cache
url, namespace = sys.argv[1:]
REFRESHED = Policy(ttl=0.01, stale_for_s=600, jitter=NO_JITTER)
cache = Cache.from_url(url, namespace=namespace, operation_timeout_s=20, attempt_timeout_s=10)
async def hang():
    began.append(1)
    await anyio.sleep_forever()
began = []
async def until_it_hangs():
    while not began:
        await anyio.sleep(0)
    began.clear()
async def load_in_flight():
    asyncio.create_task(cache.get_or_load("k", hang))
    await until_it_hangs()
async def refresh_in_flight():
    await cache.get_or_load("k", lambda: 1, policy=REFRESHED)
    await anyio.sleep(0.02)
    assert await cache.get_or_load("k", hang, policy=REFRESHED) == 1
    await until_it_hangs()
async def fresh():
    print(await cache.get_or_load("k", lambda: 2, policy=Policy(wait_s=0.05)))
async def refreshed():
    while True:
        value = await cache.get_or_load("k", lambda: 2, policy=REFRESHED)
        if value != 1:
            break
        await anyio.sleep(0.005)
    print(value)
"""
ENDS = {
    "asyncio.run with a load": "asyncio.run(load_in_flight()); asyncio.run(fresh())",
    "asyncio.run with a refresh": "asyncio.run(refresh_in_flight()); asyncio.run(refreshed())",
    "trio.run with a refresh": "trio.run(refresh_in_flight); trio.run(refreshed)",
    "a loop that is closed with a load": """
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)  # that a task of the program's own is pending
loop.run_until_complete(load_in_flight())
loop.close()
gc.collect()
asyncio.run(fresh())
""",
    "a loop that is closed with calls that wait for the store": """
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)
async def ask():
    await cache.set("other", 1)
    for _ in range(50):
        asyncio.create_task(cache.get("other"))
    await asyncio.sleep(0)  # they have asked, and most of it is not even sent
loop.run_until_complete(ask())
loop.close()
asyncio.run(fresh())
""",
    "a loop that is closed and nothing else": """
loop = asyncio.new_event_loop()
loop.run_until_complete(fresh())
loop.close()
asyncio.run(fresh())
""",
    "a task that opens the connection as the loop ends": """
async def late():
    try:
        await anyio.sleep_forever()
    finally:
        await cache.set("other", 1)
async def main():
    asyncio.create_task(late())
    await asyncio.sleep(0)
asyncio.run(main()); asyncio.run(fresh())
""",
    "a generator that uses the cache as the loop ends": """
import logging; logging.disable()  # that calls had to do without the store
async def generating():
    try:
        yield 1
    finally:
        await cache.get_or_load("other", lambda: 1)
async def main():
    global kept
    kept = generating()
    await anext(kept)
    await cache.get("k")
    await refresh_in_flight()
asyncio.run(main()); asyncio.run(refreshed())
""",
    "asyncio.run with many loads": """
async def main():
    for number in range(50):
        asyncio.create_task(cache.get_or_load(f"k{number}", hang))
        asyncio.create_task(cache.get_or_load(f"k{number}", hang))
    while len(began) < 50:
        await anyio.sleep(0)
asyncio.run(main()); asyncio.run(fresh())
""",
    "a connection that is being opened": """
async def main():
    asyncio.create_task(cache.get("k"))
    for _ in range(3):
        await asyncio.sleep(0)
asyncio.run(main()); asyncio.run(fresh())
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_loop_that_ends_ends_in_silence(end, redis_url, redis_client, namespace):
    """No task is destroyed, no closed loop is used, no resource complains; a lease is given back."""
    program = f"{BEGINNING}\n{ENDS[end]}\nprint('no outage', not cache._coordinator.is_out)\ngc.collect()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, redis_url, namespace],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-2:] == ["2", "no outage True"]


DROPPED = """
import asyncio, gc, sys, warnings
from sansio_cache_redis.anyio import Cache

async def main():
    cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20.0)
    hanging = asyncio.Semaphore(0)

    async def hang():
        hanging.release()
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(cache.get_or_load(f"k{number}", hang)) for number in range(3)]
    for _ in tasks:
        await hanging.acquire()

warnings.simplefilter("ignore", ResourceWarning)  # it is dropped, and says so
asyncio.run(main())
gc.collect()
"""


def test_a_cache_that_is_dropped_with_its_loads_as_the_loop_ends_leaves_in_silence(redis_url, namespace):
    """What it has in the loop is closed because of that, and finished by the loop at the same time."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", DROPPED, redis_url, namespace],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]  # it was slow
    assert (done.returncode, said) == (0, []), done.stderr


def test_a_loop_that_ends_with_a_load_gives_its_lease_back_on_the_connection_that_is_there(
    redis_url, redis_client, namespace
):
    cache = cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT)

    async def main():
        began = asyncio.Event()

        async def hang():
            began.set()
            await asyncio.sleep(GIVE_UP_S)

        task = asyncio.create_task(cache.get_or_load("k", hang))
        await began.wait()
        before = redis_client.info("stats")["total_connections_received"]
        return before, task

    before, task = asyncio.run(main())
    assert task.cancelled()
    assert redis_client.info("stats")["total_connections_received"] == before
    assert redis_client.get(f"{namespace}:k") is None
    gc.collect()
