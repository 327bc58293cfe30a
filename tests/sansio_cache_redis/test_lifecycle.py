"""A cache's life: opened by its first use, closed once or never, in other threads, loops and processes.

Programs of their own are run with every warning an error, and must end with nothing on stderr.
"""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextlib import closing
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import redis
import redis.asyncio

from sansio_cache import CacheClosedError
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.runtimes import PATIENT, RUNTIMES, until
from support.servers import wait_until
from support.tls import TlsProxy

BACKENDS = ["asyncio", "trio"]
STORES = ["memory", "server"]


@pytest.fixture(params=STORES)
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


@pytest.fixture
def tidy():
    """Nothing is left when the test is over: threads are gone, and what was not closed complains."""
    before = set(ours())
    yield
    gc.collect()
    wait_until(lambda: set(ours()) <= before)


def ours():
    """The threads of the library that are running; trio keeps idle ones of its own for a while."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("sansio-cache")]


pytestmark = pytest.mark.usefixtures("tidy")


async def use(cache, key="k"):
    """A load and a hit."""

    async def load():
        return "loaded"

    assert await cache.get_or_load(key, load) == "loaded"
    assert await cache.get(key) == "loaded"


def use_sync(cache, key="k"):
    assert cache.get_or_load(key, lambda: "loaded") == "loaded"
    assert cache.get(key) == "loaded"


# Opened by use, closed by close.


def test_a_synchronous_cache_works_without_with(url, namespace):
    cache = cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT)
    use_sync(cache)
    cache.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_asynchronous_cache_works_without_with_and_may_be_made_before_the_loop(url, namespace, backend):
    cache = cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT)

    async def main():
        await use(cache)
        await cache.aclose()

    anyio.run(main, backend=backend)


def test_a_closed_synchronous_cache_says_so(url, namespace):
    with cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
        use_sync(cache)
    cache.close()

    for call in (
        lambda: cache.get("k"),
        lambda: cache.get_many(["k"]),
        lambda: cache.get_or_load("k", lambda: 1),
        lambda: cache.set("k", 1),
        lambda: cache.set_many({"k": 1}),
        lambda: cache.invalidate("k"),
        lambda: cache.delete_pattern("*"),
        cache.clear,
        cache.health,
        cache.wait_ready,
        cache.mutate("k").__enter__,
    ):
        with pytest.raises(CacheClosedError, match="make another"):
            call()
    assert cache.stats().loads == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_asynchronous_cache_says_so(url, namespace, backend):
    async def main():
        async with cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
            await use(cache)
        await cache.aclose()

        for call in (
            lambda: cache.get("k"),
            lambda: cache.get_many(["k"]),
            lambda: cache.get_or_load("k", lambda: 1),
            lambda: cache.set("k", 1),
            lambda: cache.set_many({"k": 1}),
            lambda: cache.invalidate("k"),
            lambda: cache.delete_pattern("*"),
            cache.clear,
            cache.health,
            cache.wait_ready,
            lambda: cache.mutate("k").__aenter__(),
        ):
            with pytest.raises(CacheClosedError, match="make another"):
                await call()
        assert cache.stats().loads == 1

    anyio.run(main, backend=backend)


def test_a_cache_that_was_never_used_is_closed(namespace):
    cache_sync.Cache.from_url("redis://nowhere.invalid", namespace=namespace).close()
    anyio.run(cache_anyio.Cache.from_url("redis://nowhere.invalid", namespace=namespace).aclose)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_ends_what_waits(namespace, backend, redis_url):
    """A caller that waits for another process's load is not left waiting when the cache is closed."""

    async def main():
        async with cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT) as other:
            async with other.mutate("unused"):
                pass
            cache = cache_anyio.Cache.from_url(redis_url, namespace=namespace, **PATIENT)
            is_loading = anyio.Event()
            gate = anyio.Event()

            async def load():
                is_loading.set()
                await gate.wait()
                return 1

            ends = []

            async def wait():
                # It may be told, or, if it was asking the store just then, do without it.
                try:
                    ends.append(await cache.get_or_load("k", lambda: "loaded alone"))
                except CacheClosedError:
                    ends.append("told")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(other.get_or_load, "k", load)
                await is_loading.wait()
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(wait)
                    while not cache._bound()._coordinator.single_flight:
                        await anyio.lowlevel.checkpoint()
                    await cache.aclose()
                assert ends in (["told"], ["loaded alone"])
                assert not gate.is_set(), "the other load is not what ended the wait"
                gate.set()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_right_after_a_load_logs_nothing(namespace, backend, caplog):
    """The renewal of a load that was over at once may not even have begun."""

    async def main():
        async with cache_anyio.Cache.from_url("memory://", namespace=namespace) as cache:
            await cache.get_or_load("k", anyio.lowlevel.checkpoint)

    for _ in range(50):
        anyio.run(main, backend=backend)
    assert caplog.messages == []


def test_closing_leaves_a_users_client_open(namespace, redis_url):
    with closing(redis.Redis.from_url(redis_url)) as client:
        with cache_sync.Cache.from_client(client, namespace=namespace) as cache:
            use_sync(cache)
        assert client.ping()


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_leaves_a_users_client_open_under(namespace, redis_url, backend):
    async def main():
        kind = redis.asyncio.Redis if backend == "asyncio" else redis.Redis
        client = kind.from_url(redis_url)
        async with cache_anyio.Cache.from_client(client, namespace=namespace) as cache:
            await use(cache)
        if backend == "asyncio":
            assert await client.ping()
            await client.aclose()
        else:
            assert client.ping()
            client.close()

    anyio.run(main, backend=backend)


# Several loops, threads, processes.


@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("second", BACKENDS)
def test_one_cache_serves_one_loop_after_the_other(url, namespace, first, second):
    """Fault 31."""
    cache = cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT)

    async def main():
        await use(cache)

    async def last():
        await use(cache)
        await cache.aclose()

    anyio.run(main, backend=first)
    anyio.run(main, backend=second)
    anyio.run(last, backend=first)
    assert cache.stats().loads == 1


def test_one_synchronous_cache_serves_many_threads(url, namespace):
    calls = []
    errors = []
    with cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:

        def work(number):
            try:
                for turn in range(50):
                    key = f"k{(number + turn) % 10}"
                    assert cache.get_or_load(key, lambda key=key: calls.append(key) or key) == key
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.stats().errors == {}
    assert errors == []
    assert sorted(calls) == sorted({f"k{n}" for n in range(10)})


# Programs of their own.


def run(program, *args, says=""):
    """Run a program with every warning an error, which logs nothing but that; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, says), done.stderr
    return done.stdout.split()


LEFT_OPEN = {
    "sync": """
import sys
from sansio_cache_redis.sync import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20, attempt_timeout_s=10)
print(cache.get_or_load("k", lambda: "loaded"), cache.get("k"), cache.set("k", 1))
""",
    "asyncio": """
import sys, asyncio
from sansio_cache_redis.anyio import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20, attempt_timeout_s=10)
async def main():
    print(await cache.get_or_load("k", lambda: "loaded"), await cache.get("k"), await cache.set("k", 1))
asyncio.run(main())
""",
    "trio": """
import sys, trio
from sansio_cache_redis.anyio import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20, attempt_timeout_s=10)
async def main():
    print(await cache.get_or_load("k", lambda: "loaded"), await cache.get("k"), await cache.set("k", 1))
trio.run(main)
""",
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_that_never_closes_its_cache_ends_in_silence(runtime, url, namespace):
    assert run(LEFT_OPEN[runtime], url, namespace) == ["loaded", "loaded", "True"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_that_never_closes_its_cache_ends_in_silence_over_tls(runtime, redis_server, namespace):
    with TlsProxy(redis_server.port) as proxy:
        url = f"{proxy.url}?ssl_ca_certs={proxy.ca_file}"
        assert run(LEFT_OPEN[runtime], url, namespace) == ["loaded", "loaded", "True"]


def test_a_program_that_ends_in_an_outage_ends_in_silence(namespace):
    """Recovery runs in the background then, and ends with the program."""
    program = LEFT_OPEN["sync"].replace("operation_timeout_s=20, attempt_timeout_s=10", "")
    program = "import logging; logging.disable()\n" + program

    assert run(program, "redis://127.0.0.1:1", namespace) == ["loaded", "None", "False"]


FORKING = """
import os, sys, warnings
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
from sansio_cache_redis.sync import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20, attempt_timeout_s=10)

def use(who):
    for n in range(50):
        key = f"{who}{n}"
        assert cache.get_or_load(key, lambda: key) == key
        assert cache.get(key) == key
        assert cache.get("shared") == "before"

cache.set("shared", "before")
use("early")
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        use("child")
        cache.close()
        os.write(writing, b"child ")
    finally:
        os._exit(0)
use("parent")
_, status = os.waitpid(pid, 0)
os.close(writing)
print(os.read(reading, 100).decode(), "parent", os.waitstatus_to_exitcode(status))
os.close(reading)
use("late")
cache.close()
"""


def said_of_memory(url, namespace):
    """What a child logs once, where it has its parent's store in memory."""
    if url != "memory://":
        return ""
    return (
        f"cache {namespace}: memory:// is the store of one process, and this process was forked from the one "
        "that filled it: from here on neither sees what the other stores or invalidates. Use redis://, or "
        "make the cache after the fork\n"
    )


def test_parent_and_child_both_go_on_after_a_fork(url, namespace):
    """Fault 31: neither uses a connection, a thread or a lock of the other."""
    says = said_of_memory(url, namespace)
    assert run(FORKING, url, namespace, says=says) == ["child", "parent", "0"]


FORKING_WHILE_LOADING = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
from sansio_cache_redis.sync import Cache
cache = Cache.from_url(sys.argv[1], namespace=sys.argv[2], operation_timeout_s=20, attempt_timeout_s=10)
loading, gate = threading.Event(), threading.Event()

def load():
    loading.set()
    gate.wait()
    return "parent"

thread = threading.Thread(target=cache.get_or_load, args=("k", load))
thread.start()
loading.wait()
pid = os.fork()
if pid == 0:
    status = 1
    try:
        # Nobody here leads that load: it is not waited for, but as another process's load is.
        assert cache.get_or_load("other", lambda: "child") == "child"
        status = 0
    finally:
        os._exit(status)
_, status = os.waitpid(pid, 0)
gate.set()
thread.join()
print(cache.get("k"), os.waitstatus_to_exitcode(status))
cache.close()
"""


def test_a_fork_during_a_load_leaves_no_lock_behind(url, namespace):
    says = said_of_memory(url, namespace)
    assert run(FORKING_WHILE_LOADING, url, namespace, says=says) == ["parent", "0"]


# Nothing is left.


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_caches_leave_no_socket_and_no_thread(url, namespace, backend, redis_client):
    """Resource warnings are errors here, and the fixture counts threads."""

    async def main():
        for _ in range(100):
            async with cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
                await use(cache)

    before = len(redis_client.client_list())
    anyio.run(main, backend=backend)
    gc.collect()
    wait_until(lambda: len(redis_client.client_list()) <= before)


def test_a_hundred_synchronous_caches_leave_no_socket_and_no_thread(url, namespace, redis_client):
    before = len(redis_client.client_list())
    for _ in range(100):
        with cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
            use_sync(cache)
    gc.collect()
    wait_until(lambda: len(redis_client.client_list()) <= before)


def test_no_task_is_left_in_the_loop_when_the_cache_is_closed(url, namespace):
    async def main():
        cache = cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT)
        await use(cache)
        await cache.aclose()
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set()


# Whose context it is.


class Session:
    """What a program keeps in a context variable for as long as a request lasts."""


SESSION = ContextVar("SESSION")


def begin_request():
    """The session of a request that begins in this context, weakly."""
    session = Session()
    SESSION.set(session)
    return weakref.ref(session)


def test_what_a_request_had_in_its_context_goes_with_it(url, namespace):
    """Also where it opened the connection that those after it use."""
    found = []

    def request(cache):
        found.append(begin_request())
        use_sync(cache)

    with cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
        caller = threading.Thread(target=request, args=(cache,))
        caller.start()
        caller.join()
        wait_until(lambda: is_gone(found[0]))
        assert cache.get("k") == "loaded"


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_task_had_in_its_context_goes_with_it(url, namespace, backend):
    found = []

    async def request(cache):
        found.append(begin_request())
        await use(cache)

    async def main():
        async with cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(request, cache)
            await until(lambda: is_gone(found[0]))
            assert await cache.get("k") == "loaded"

    anyio.run(main, backend=backend)


def is_gone(session):
    gc.collect()
    return session() is None
