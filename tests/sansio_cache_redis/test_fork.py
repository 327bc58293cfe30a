"""Children of a fork: who we are is looked at when it matters, and not only when Python forks (S15).

`os.fork` calls Python's hooks; a server that forks in C does not, and its workers have all that their parent
had: connections, locks, and the state of every generator of random numbers.

Python's own lock is among them. Where a thread waits for that as its process forks in C, the child waits for
this thread, which it does not have, as soon as it starts a thread of its own. So the children here are made
while the threads of the cache are at rest.
"""

import json
import subprocess
import sys

import pytest

from sansio_cache_redis.sync import Cache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

BEGIN = """
import asyncio, ctypes, json, logging, os, sys, threading, time
url, how = sys.argv[1:]
logging.basicConfig(format="%(message)s")
fork = {"python": os.fork, "c": ctypes.PyDLL(None).fork}[how]
from sansio_cache_redis.sync import Cache

def places():
    own = threading.get_ident()
    tops = sys._current_frames().items()
    return {thread: (top.f_code, top.f_lasti) for thread, top in tops if thread != own}

def rest():
    seen, looks = None, 0
    while looks < 3:
        found = places()
        looks = looks + 1 if found == seen else 0
        seen = found
        time.sleep(0.005)

def in_child(work, *args):
    if how == "c":
        rest()
    reading, writing = os.pipe()
    if fork() == 0:
        code = 1
        try:
            with os.fdopen(writing, "w") as answer:
                json.dump(work(*args), answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return os.fdopen(reading)

def answers(children):
    found = []
    for child in children:
        with child:
            found.append(json.load(child))
    for _ in children:
        assert os.wait()[1] == 0
    return found
"""

in_both_ways = pytest.mark.parametrize("how", ["python", "c"])


def run(script, url, how):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + script, url, how],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_no_two_children_draw_the_same_nonces(redis_url):
    found, _ = run(
        """
cache = Cache.from_url(url, namespace="n", attempt_timeout_s=10, operation_timeout_s=20)
def draw():
    return [cache._requests._nonce().hex() for _ in range(10)]
print(json.dumps([draw(), *answers([in_child(draw) for _ in range(3)])]))
""",
        redis_url,
        "c",
    )
    assert len({nonce for each in found for nonce in each}) == 40


@in_both_ways
def test_each_child_has_connections_of_its_own_and_reads_its_own_replies(how, redis_url, namespace):
    found, _ = run(
        f"""
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
def work(number):
    for count in range(100):
        key = f"{{number}}-{{count}}"
        cache.set(key, key)
        if cache.get(key) != key:
            return cache.get(key)
    # On a machine that has more to do, one that was silent is left for another.
    return [cache._backend.connections.count in (1, 2), dict(cache.stats().errors)]
assert work("before")[0]
children = [in_child(work, number) for number in range(3)]
print(json.dumps([work("parent"), *answers(children)]))
""",
        redis_url,
        how,
    )
    assert found == [[True, {}]] * 4


SOCKETS = """
def sockets():
    places = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sum(os.readlink(each).startswith("socket:") for each in places if os.path.exists(each))
"""

counting = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux lists them")


@counting
@in_both_ways
def test_a_child_lets_go_of_its_parent_s_subscription_which_goes_on_in_the_parent(how, redis_url, namespace):
    found, _ = run(
        SOCKETS
        + f"""
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
heard = []
listener = cache._backend.listener
listener.watch({f"{namespace}:k"!r}, lambda: heard.append(listener.is_live))
while not listener.is_live:
    time.sleep(0.001)
def work():
    cache.get("k")
    cache.close()
    return sockets()
children = [in_child(work) for _ in range(2)]
found = answers(children)
heard.clear()
cache.set("k", 1)
while not heard:
    time.sleep(0.001)
print(json.dumps([*found, heard]))
""",
        redis_url,
        how,
    )
    assert found == [0, 0, [True]]


@counting
@in_both_ways
def test_a_child_lets_go_of_what_its_parent_s_threads_wait_for_which_are_answered(how, redis_url, namespace):
    """Their stacks stay in the child for ever, with the connections that they drive."""
    found, _ = run(
        SOCKETS
        + f"""
import threading
from redis import Redis
cache = Cache.from_url(url, namespace={namespace!r}, operation_timeout_s=20, attempt_timeout_s=20)
cache.get("k")
asked = (b"BLPOP", {f"{namespace}:list".encode()!r}, b"0")
found = []
thread = threading.Thread(target=lambda: found.append(cache._backend.connections.execute([asked], 20)))
thread.start()
with Redis.from_url(url) as client:
    while not any(each["cmd"] == "blpop" for each in client.client_list()):
        time.sleep(0.001)
def work():
    cache.get("k")
    cache.close()
    return sockets()
children = [in_child(work) for _ in range(2)]
found += answers(children)
with Redis.from_url(url) as client:
    client.rpush(asked[1], "answered")
thread.join()
print(json.dumps([*found[:2], found[2][0][1].decode()]))
""",
        redis_url,
        how,
    )
    assert found == [0, 0, "answered"]


def test_of_two_children_that_write_the_later_one_is_not_undone(redis_url, namespace):
    run(
        f"""
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
def write(hold_s, value):
    time.sleep(0.1 * value)
    with cache.mutate("price") as mutation:
        time.sleep(hold_s)
        mutation.set("price", value)
print(json.dumps(answers([in_child(write, 0.3, 1), in_child(write, 0.5, 2)])))
""",
        redis_url,
        "c",
    )
    with Cache.from_url(redis_url, namespace=namespace) as cache:
        assert cache.get("price") in (2, None)


@pytest.mark.parametrize(("library", "how"), [("asyncio", "c"), ("asyncio", "python"), ("trio", "python")])
def test_an_event_loop_in_a_child_has_connections_of_its_own(library, how, redis_url, namespace):
    found, _ = run(
        f"""
import anyio
from sansio_cache_redis.anyio import Cache
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
async def work(number):
    for count in range(20):
        key = f"{{number}}-{{count}}"
        assert await cache.set(key, key)
        assert await cache.get(key) == key
    return dict(cache.stats().errors)
def alone(number):
    return anyio.run(work, number, backend={library!r})
first = alone("before")
children = [in_child(alone, number) for number in range(2)]
print(json.dumps([first, alone("parent"), *answers(children)]))
""",
        redis_url,
        how,
    )
    assert found == [{}] * 4


def test_a_child_is_told_once_that_the_store_in_memory_is_a_copy():
    found, said = run(
        """
cache = Cache.from_url("memory://", namespace="shop")
untouched = Cache.from_url("memory://", namespace="empty")
cache.set("k", 1)
def look():
    return [untouched.get("k"), cache.get("k"), cache.set("k", 2), cache.get("k")]
found = answers([in_child(look)])
print(json.dumps([*found, cache.get("k")]))
""",
        "memory://",
        "c",
    )
    assert found == [[None, 1, True, 2], 1]
    [line] = said.splitlines()
    assert line.startswith("cache shop: memory:// is the store of one process")
    assert "redis://" in line


@pytest.mark.parametrize("how", ["c", "python"])
def test_a_child_that_looks_first_talks_on_no_connection_of_its_parents(how, redis_url, namespace):
    """A worker whose first call is a readiness probe; and one that closes, or drops, a cache before any."""
    found, said = run(
        f"""
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
dropped = [Cache.from_url(url, namespace="dropped")]
for each in (cache, *dropped):
    each.set("k", 1)
theirs = cache._backend
def look():
    health = cache.health()
    return [health.ok, cache._backend is theirs]
def close():
    cache.close()
    return cache._backend is theirs
def drop():
    dropped.clear()
    return "dropped"
children = [in_child(work) for work in (look, look, look, close, drop)]
children = answers(children)
print(json.dumps([children, cache.get("k"), dropped[0].get("k"), cache._backend is theirs]))
for each in (cache, *dropped):
    each.close()
""",
        redis_url,
        how,
    )
    assert found == [[[True, False]] * 3 + [False, "dropped"], 1, 1, True]
    assert said == ""


def test_a_grandchild_has_its_own_as_well(redis_url, namespace):
    found, _ = run(
        f"""
cache = Cache.from_url(url, namespace={namespace!r}, attempt_timeout_s=10, operation_timeout_s=20)
def work():
    cache.set("k", 1)
    return [cache._requests._nonce().hex(), cache._backend.connections.count]
def child():
    return [work(), *answers([in_child(work)])]
print(json.dumps([work(), *answers([in_child(child)])[0]]))
""",
        redis_url,
        "c",
    )
    assert len({nonce for nonce, _ in found}) == 3
    assert [count for _, count in found] == [1, 1, 1]
