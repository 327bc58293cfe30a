"""Pickle, copy and spawn: a cache travels as its configuration, and a copy is a cache of its own."""

import copy
import multiprocessing
import pickle
from functools import partial
from typing import NamedTuple

import anyio
import attrs
import pydantic
import pytest
import redis

from sansio_cache import CacheConfig, ConfigurationError, KeyBuilder, Policy
from sansio_cache.codecs import PYTHON, RAW, Compressed, JsonCodec, PythonCodec, RawCodec
from sansio_cache_pydantic import PydanticCodec
from sansio_cache_redis import anyio as anyio_package
from sansio_cache_redis import sync as sync_package
from sansio_cache_runtime.memory import SharedMemory, SyncMemoryBackend

URL = "redis://:secret@localhost:1/3"
CACHES = {"sync": sync_package.Cache, "anyio": anyio_package.Cache}
on_both = pytest.mark.parametrize("cls", CACHES.values(), ids=CACHES)
COPIES = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "deepcopy": copy.deepcopy}
in_both_ways = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
in_all_ways = pytest.mark.parametrize("copied", [*COPIES.values(), copy.copy], ids=[*COPIES, "copy"])


@attrs.frozen
class User:
    name: str


class Point(NamedTuple):
    x: int


class Model(pydantic.BaseModel):
    name: str


def load_user(number):
    return User(f"user {number}")


def older(value):
    return User(value)


@on_both
@in_all_ways
def test_a_cache_of_a_url_travels_as_its_configuration(cls, copied):
    cache = cls.from_url(
        URL, namespace="shop", policy=Policy(ttl=7), migrations={User: older}, max_connections=2
    )
    other = copied(cache)
    assert type(other) is cls
    assert other is not cache
    assert other._config == cache._config
    assert other._config.redis.url == URL
    assert other._coordinator is not cache._coordinator


CODECS = {
    bytes: RAW,
    tuple: PYTHON,
    Point: PythonCodec(Point),
    list[int]: JsonCodec(list[int]),
    list[str]: Compressed(JsonCodec(list[str]), threshold_bytes=5, level=9),
    Model: PydanticCodec(Model, version="2"),
}


@on_both
@in_all_ways
def test_the_codecs_of_a_cache_travel_with_it(cls, copied):
    """A copy reads and writes what the original does."""
    cache = copied(cls.from_url(URL, namespace="shop", codecs=CODECS))
    for declared, codec in CODECS.items():
        again = cache._config.codec_of(declared)
        assert repr(again) == repr(codec)
        assert again.fingerprint == codec.fingerprint
    assert cache._config.codec_of(bytes) is RAW
    assert cache._config.codec_of(tuple) is PYTHON
    words = ["word"] * 9
    assert cache._config.codec_of(list[str]).encode(words) == CODECS[list[str]].encode(words)
    assert type(pickle.loads(pickle.dumps(RawCodec()))) is RawCodec


@on_both
@in_all_ways
def test_what_stays_in_its_process_is_refused_with_a_sentence(cls, copied):
    memory = SharedMemory(CacheConfig.from_options(namespace="n"))
    client = redis.Redis() if cls is sync_package.Cache else redis.asyncio.Redis()
    for cache, what in (
        (cls.from_url("memory://", namespace="n"), "memory://"),
        (cls.from_url("memory://name", namespace="n"), "memory://"),
        (cls.from_client(client, namespace="n"), "a client of yours"),
        (cls.from_backend(lambda *_: SyncMemoryBackend(memory), namespace="n"), "a backend of yours"),
    ):
        with pytest.raises(
            ConfigurationError, match=f"a cache on {what}.* cannot be pickled or copied: make"
        ):
            copied(cache)


@on_both
def test_an_option_that_cannot_be_pickled_is_named(cls):
    cache = cls.from_url(URL, namespace="shop", migrations={User: lambda value: User(value)})
    with pytest.raises(ConfigurationError, match=r"cache 'shop' cannot be pickled .* top level") as caught:
        pickle.dumps(cache)
    assert "secret" not in str(caught.value)
    entity = cls.from_url(URL, namespace="shop").entity("user", User, loader=lambda number: User(number))
    with pytest.raises(ConfigurationError, match=r"entity 'user' cannot be pickled .* top level"):
        pickle.dumps(entity)


@on_both
@in_both_ways
def test_an_entity_travels_with_its_cache(cls, copied):
    cache = cls.from_url(URL, namespace="shop")
    users = cache.entity("user", User, ttl=60, loader=load_user, generations=True)
    other, same = copied((users, cache))
    assert type(other) is type(users)
    assert other.key(7) == users.key(7)
    assert other._plan.type is User
    assert other._plan.loader is load_user
    assert other._plan.policy == users._plan.policy
    assert other._plan.tags == users._plan.tags
    assert other._run.__self__ is same
    assert copy.copy(users)._run.__self__ is cache


def test_closing_a_copy_leaves_the_original_open(redis_url, namespace):
    with sync_package.Cache.from_url(redis_url, namespace=namespace) as cache:
        cache.set("k", 1)
        other = copy.copy(cache)
        assert other.get("k") == 1
        other.close()
        assert cache.get("k") == 1


@in_both_ways
def test_statistics_keys_and_configurations_travel(copied, redis_url, namespace):
    with sync_package.Cache.from_url(redis_url, namespace=namespace) as cache:
        cache.set("k", 1)
        cache.get("k")
        cache.get("other")
        stats = cache.stats()
    assert copied(stats) == stats
    assert copied(stats).misses == stats.misses != {}
    key = KeyBuilder("shop").build("user", 7)
    assert copied(key) == key
    assert type(copied(key)) is type(key)
    pattern = KeyBuilder("shop").pattern("user")
    assert type(copied(pattern)) is type(pattern)
    assert copied(KeyBuilder("shop")).build("user", 7) == key
    config = CacheConfig.from_options(namespace="shop", url=URL, migrations={User: older})
    assert copied(config) == config


def work(cache, users, answers):
    with cache:
        answers.put((cache.get("k"), users.get_or_load(7)))


async def work_in_a_loop(cache, answers):
    async with cache:
        answers.put(await cache.get("k"))


def test_a_cache_is_given_to_a_process_that_is_spawned(redis_url, namespace):
    spawning = multiprocessing.get_context("spawn")
    answers = spawning.Queue()
    with sync_package.Cache.from_url(redis_url, namespace=namespace) as cache:
        cache.set("k", 1)
        users = cache.entity("user", User, loader=load_user)
        child = spawning.Process(target=work, args=(cache, users, answers))
        child.start()
        assert answers.get(timeout=60) == (1, User("user 7"))
        child.join()
        assert child.exitcode == 0
        assert users.get(7) == User("user 7")
        other = pickle.loads(pickle.dumps(anyio_package.Cache.from_url(redis_url, namespace=namespace)))
        found = []
        anyio.run(partial(work_in_a_loop, other, type("Found", (), {"put": found.append})))
        assert found == [1]
