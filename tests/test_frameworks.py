"""Adapters do what frameworks ask of a cache, on public names. Their suites: `python -m frameworks`."""

from __future__ import annotations

import ast
import time
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
from aiocache.serializers import StringSerializer
from django.conf import settings
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

import frameworks
from frameworks.__main__ import SUITES, compare
from frameworks.aiocache_cache import SansioCache as AioCache
from frameworks.bytes_store import OPTIONS
from frameworks.cachelib_cache import SansioCache as CacheLib
from frameworks.dogpile_backend import Mutex
from frameworks.litestar_store import SansioStore
from sansio_cache_redis.anyio import Cache as AsyncCache
from sansio_cache_redis.sync import Cache
from support.servers import Server

ADAPTERS = sorted(Path(frameworks.__file__).parent.glob("[a-z]*_*.py"))
OWN = {"self", "cls"}


def private_names(source):
    """The names with an underscore that are taken from anything but the adapter itself, with their lines."""
    return [
        (node.lineno, node.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in OWN)
    ]


def private_modules(source):
    """What is imported from inside of this library."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    ours = (str(node.module) for node in nodes if str(node.module).startswith("sansio_cache"))
    return {module for module in ours if module not in PUBLIC}


PUBLIC = {
    "sansio_cache",
    "sansio_cache.codecs",
    "sansio_cache.ttl",
    "sansio_cache_redis.sync",
    "sansio_cache_redis.anyio",
}


def test_all_adapters_are_looked_at():
    assert len(ADAPTERS) == len(SUITES) + 1  # and what they have in common


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_an_adapter_stands_on_public_names(path):
    source = path.read_text()
    assert private_names(source) == []
    assert private_modules(source) == set()


def test_a_private_name_is_found():
    source = "from sansio_cache.cell import Cell\nself.cache._driver.run()\nself._own()\n"
    assert private_names(source) == [(2, "_driver")]
    assert private_modules(source) == {"sansio_cache.cell"}


def test_what_an_adapter_fails_is_named_or_counts():
    suite = next(each for each in SUITES if each.name == "django")
    native = {
        f"cache.tests.RedisCacheTests.{name}": True for name in ("test_add", "test_get_client", "test_cull")
    }
    native["cache.tests.RedisCacheTests.test_broken_there"] = False
    own = {"cache.sansio_tests.SansioCacheTests.test_add": True}
    passed, expected, beyond, failed = compare(suite, native, own)
    assert (passed, expected, len(beyond), len(failed)) == (1, 3, 1, 1)
    assert "looks into the client" in beyond[0]
    assert "test_cull" in failed[0]


@pytest.fixture(scope="module")
def server():
    with Server.start() as started:
        yield started


@pytest.fixture(params=["memory", "server"])
def url(request):
    if request.param == "memory":
        return "memory://frameworks"
    return request.getfixturevalue("server").url


def eventually(condition):
    """Wait for what time brings."""
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.servers
def test_django_can_cache_on_it(url):
    if not settings.configured:
        settings.configure()
    from frameworks.django_cache import SansioCache

    cache = SansioCache(url, {"OPTIONS": {"namespace": f"django-{time.monotonic_ns()}"}})
    cache.set("a:key*of%Django", {"any": (object, None)})
    assert cache.get("a:key*of%Django") == {"any": (object, None)}
    assert cache.get("none", "default") == "default"
    cache.set("nothing", None)
    assert cache.get("nothing", "default") is None
    assert cache.has_key("nothing")
    assert cache.add("n", 1) is True
    assert cache.add("n", 5) is False
    assert cache.add("zero", 5, timeout=0) is True
    assert (cache.incr("n"), cache.decr("n", 3)) == (2, -1)
    with pytest.raises(ValueError, match="zero"):
        cache.incr("zero")
    assert cache.set_many({"x": 1, "y": 2, "z": 3}, timeout=None) == []
    assert cache.get_many(["x", "y", "no"]) == {"x": 1, "y": 2}
    cache.delete_many(["x"])
    assert (cache.delete("y"), cache.delete("y")) == (True, False)
    assert cache.touch("z", timeout=0.01) is True
    eventually(lambda: not cache.has_key("z"))
    assert (cache.touch("z"), cache.touch("n", timeout=0)) == (False, True)
    assert cache.get("n") is None
    assert cache.get_or_set("once", lambda: 7) == cache.get_or_set("once", 8) == 7
    assert cache.incr_version("once") == 2
    assert cache.clear() is True
    assert cache.get("nothing", "default") == "default"
    cache.cache.close()


@pytest.mark.servers
def test_cachelib_can_cache_on_it(url):
    cache = CacheLib(url, key_prefix=lambda: "p:", namespace=f"cachelib-{time.monotonic_ns()}")
    assert cache.set("forever", [1], timeout=0)
    assert cache.set("soon", 1, timeout=timedelta(seconds=60))
    assert cache.set_many({"a": 1, "b": {}}) == ["a", "b"]
    assert cache.get_many("a", "b", "c") == [1, {}, None]
    assert cache.get_dict("forever") == {"forever": [1]}
    assert (cache.inc("n", 5), cache.dec("n", 2), cache.get("n")) == (5, 3, 3)
    assert (cache.add("a", 2), cache.add("c", 2)) == (False, True)
    assert (cache.has("a"), cache.has("d")) == (True, False)
    assert (cache.delete("a"), cache.delete("a")) == (True, False)
    assert cache.delete_many("b", "none") == ["b", "none"]
    assert cache.clear()
    assert cache.get("forever") is None
    cache.cache.close()


@pytest.mark.servers
def test_dogpile_can_cache_on_it(url):
    arguments = {"url": url, "namespace": f"dogpile-{time.monotonic_ns()}", "distributed_lock": True}
    region = make_region().configure("frameworks.dogpile", arguments=arguments)
    made = []

    @region.cache_on_arguments()
    def square(number):
        made.append(number)
        return number * number

    assert (square(3), square(3), made) == (9, 9, [3])
    square.invalidate(3)
    assert (square(3), made) == (9, [3, 3])
    region.set_multi({"a": 1, "b": None})
    assert region.get_multi(["a", "b", "c"]) == [1, None, NO_VALUE]
    region.delete_multi(["a"])
    region.delete("b")
    assert region.get_multi(["a", "b"]) == [NO_VALUE, NO_VALUE]
    region.backend.cache.close()


@pytest.mark.servers
def test_a_lock_of_dogpile_has_one_holder(url):
    with Cache.from_url(url, namespace=f"mutex-{time.monotonic_ns()}", **OPTIONS) as cache:
        one, other = Mutex(cache, "k", None), Mutex(cache, "k", 5.0)
        assert one.acquire()
        assert (one.locked(), other.acquire(wait=False)) == (True, False)
        other.release()  # which it does not have
        assert one.locked()
        one.release()
        assert (one.locked(), other.acquire(wait=False)) == (False, True)
        other.release()


@pytest.mark.servers
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_litestar_can_store_in_it(url, backend):
    async def use():
        cache = AsyncCache.from_url(url, namespace=f"litestar-{time.monotonic_ns()}", **OPTIONS)
        async with SansioStore(cache) as _:
            store = SansioStore(cache)
            below = store.with_namespace("sessions")
            await store.set("a/../key", "text")
            await store.set("short", b"bytes", expires_in=timedelta(seconds=50))
            await below.set("short", b"below")
            assert await store.get("a/../key") == b"text"
            assert (await store.expires_in("a/../key"), await store.expires_in("no")) == (-1, None)
            assert await store.get("short", renew_for=500) == b"bytes"
            assert 400 < await store.expires_in("short") <= 500
            assert (await store.exists("short"), await store.exists("no")) == (True, False)
            await store.delete("short")
            assert (await store.get("short"), await below.get("short")) == (None, b"below")
            await store.delete_all()
            assert (await store.get("a/../key"), await below.get("short")) == (None, None)

    anyio.run(use, backend=backend)


@pytest.mark.servers
def test_aiocache_can_cache_on_it(url):
    async def use():
        namespace = f"aiocache-{time.monotonic_ns()}"
        async with AioCache(url, namespace, namespace="ns", serializer=StringSerializer()) as cache:
            assert await cache.set("k", "v", ttl=60)
            assert await cache.multi_set([("a", 1), ("b", 2)], ttl=60)
            assert await cache.multi_get(["a", "b", "c"]) == ["1", "2", None]
            assert (await cache.increment("a", 4), await cache.increment("new", 3)) == (5, 3)
            with pytest.raises(TypeError):
                await cache.increment("k")
            with pytest.raises(ValueError, match="already exists"):
                await cache.add("k", "other")
            assert (await cache.expire("k", 0), await cache.expire("no", 5)) == (True, False)
            assert (await cache.delete("b"), await cache.delete("b")) == (1, 0)
            async with RedLock(cache, "k", 10):
                assert await cache.exists("k-lock")
            assert not await cache.exists("k-lock")
            async with OptimisticLock(cache, "k") as lock:
                assert await lock.cas("w")
            async with OptimisticLock(cache, "k") as lock:
                await cache.set("k", "conflict")
                with pytest.raises(OptimisticLockError):
                    await lock.cas("x")
            await cache.set("k", "other", namespace="elsewhere")
            await cache.clear(namespace="ns")
            assert (await cache.get("k"), await cache.get("k", namespace="elsewhere")) == (None, "other")
            await cache.clear()
            assert await cache.get("k", namespace="elsewhere") is None
            await cache.close()
            assert await cache.get("k") is None  # it can be used again

    anyio.run(use)
