"""What is wrong with a call is said at once, by the right error, with what to do; and no secret in it."""

import gc
import json
import logging
import math
import traceback
from datetime import timedelta
from functools import partial

import anyio
import pytest
import redis
import redis.asyncio

from sansio_cache import (
    CacheConfig,
    CacheConnectionError,
    CacheError,
    ConfigurationError,
    InvalidKeyError,
    InvalidTtlError,
    Policy,
    SerializationError,
)
from sansio_cache.keys import Key
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.runtimes import ON_MEMORY, runs

KINDS = [cache_sync.Cache, cache_anyio.Cache]
SECRET = "s3cret"


class Something:
    """An object of no kind that a cache knows."""

    def __repr__(self):
        return "something"


SOMETHING = Something()

both = pytest.mark.parametrize("kind", KINDS, ids=["sync", "anyio"])


def load():
    return 1


async def load_later():
    return 1


# Calls.

BAD_KEYS = [
    (None, "str"),
    (5, "str"),
    (b"user:1", "str"),
    (["user:1"], "str"),
    ("", "empty"),
    ("k" * 2000, "over the limit of 1024"),
    ("ü" * 600, "over the limit of 1024"),
    ("%t:tag", "the cache keeps its own records there"),
    ("%g:entity", "the cache keeps its own records there"),
    ("%w:queue", "the cache keeps its own records there"),
    ("\ud800", "surrogate"),
]


@pytest.mark.parametrize(("key", "why"), BAD_KEYS, ids=lambda value: repr(value)[:12])
@runs(ON_MEMORY)
async def test_a_key_that_cannot_be_one_is_refused_by_every_method(world, key, why):
    cache = world.cache
    calls = [
        lambda: cache.get(key),
        lambda: cache.get_many(["fine", key]),
        lambda: cache.get_or_load(key, load),
        lambda: cache.set(key, 1),
        lambda: cache.invalidate("fine", key),
        lambda: cache.mutate(key).__aenter__(),
    ]
    if key.__hash__ is not None:
        calls.append(lambda: cache.set_many({"fine": 1, key: 2}))
    for call in calls:
        with pytest.raises(InvalidKeyError, match=why):
            await call()
    assert world.trace.facts == [], "nothing has happened"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (None, "str"),
        (5, "str"),
        (b"*", "str"),
        ("", "empty"),
        ("*" * 2000, "over the limit"),
    ],
    ids=lambda value: repr(value)[:12],
)
@runs(ON_MEMORY)
async def test_a_pattern_that_cannot_be_one_is_refused(world, pattern, why):
    await world.cache.set("k", 1)

    # None means the whole namespace inside the library, and must not do so by accident.
    with pytest.raises(InvalidKeyError, match=why):
        await world.cache.delete_pattern(pattern)

    assert await world.cache.get("k") == 1


@runs(ON_MEMORY)
async def test_a_key_is_no_pattern(world):
    with pytest.raises(InvalidKeyError, match="Key"):
        await world.cache.delete_pattern(world.cache.key.build("user", 1))


@pytest.mark.parametrize("keys", ["user:1", b"user:1"], ids=repr)
@runs(ON_MEMORY)
async def test_one_key_is_not_a_list_of_keys(world, keys):
    with pytest.raises(InvalidKeyError, match="list of keys"):
        await world.cache.get_many(keys)


@pytest.mark.parametrize("keys", [None, 5, load], ids=["None", "number", "function"])
@runs(ON_MEMORY)
async def test_what_is_not_iterable_is_not_a_list_of_keys(world, keys):
    with pytest.raises(InvalidKeyError, match="keys"):
        await world.cache.get_many(keys)


@pytest.mark.parametrize("values", [None, 5, [("a", 1)], "ab", {"a"}], ids=repr)
@runs(ON_MEMORY)
async def test_set_many_takes_a_mapping(world, values):
    with pytest.raises(ConfigurationError, match="mapping of keys to values"):
        await world.cache.set_many(values)


@pytest.mark.parametrize(
    "ttl",
    [0, -1, math.nan, math.inf, 1e12, True, "60", b"60", [60], timedelta(0), timedelta(days=-1), 10**400],
    ids=lambda value: repr(value)[:12],
)
@runs(ON_MEMORY)
async def test_a_time_to_live_that_is_none_is_refused(world, ttl):
    cache = world.cache
    for call in (
        lambda: cache.get_or_load("k", load, ttl=ttl),
        lambda: cache.get_or_load_many(["k"], load, ttl=ttl),
        lambda: cache.get_or_load("k", load, policy=Policy(ttl=ttl)),
    ):
        with pytest.raises(InvalidTtlError, match="time to live is"):
            await call()
    assert world.raw.read() == {}


@pytest.mark.parametrize("ttl", [math.nan, True, "60", b"60", [60]], ids=repr)
@runs(ON_MEMORY)
async def test_a_time_to_live_of_a_value_that_is_no_number_is_refused(world, ttl):
    """One that is a number depends on data, so that nothing may be left of it."""
    cache = world.cache
    for call in (lambda: cache.set("k", 1, ttl=ttl), lambda: cache.set_many({"k": 1}, ttl=ttl)):
        with pytest.raises(InvalidTtlError, match="time to live is"):
            await call()
    async with cache.mutate("k") as mutation:
        with pytest.raises(InvalidTtlError, match="time to live is"):
            mutation.set("k", 1, ttl=ttl)
    assert world.raw.read() == {}


@runs(ON_MEMORY)
async def test_a_policy_that_is_none_is_refused(world):
    cache = world.cache
    with pytest.raises(ConfigurationError, match="policy is a Policy"):
        await cache.get_or_load("k", load, policy=60)
    with pytest.raises(ConfigurationError, match="not both"):
        await cache.get_or_load("k", load, ttl=Policy(), policy=Policy())
    assert world.trace.facts == []


@pytest.mark.parametrize("type", [5, "text", object, complex, dict[bytes | int, set[object]]], ids=repr)
@runs(ON_MEMORY)
async def test_a_type_that_cannot_be_stored_is_refused(world, type):
    cache = world.cache
    for call in (
        lambda: cache.get("k", type=type),
        lambda: cache.get_many(["k"], type=type),
        lambda: cache.get_or_load("k", load, type=type),
        lambda: cache.set("k", 1, type=type),
    ):
        with pytest.raises(ConfigurationError, match="cannot be cached"):
            await call()


@pytest.mark.parametrize("value", [SOMETHING, {1}, (1,), b"x", math.nan, {1: 2}, 2 + 1j], ids=repr)
@runs(ON_MEMORY)
async def test_a_value_that_would_come_back_different_is_refused(world, value):
    with pytest.raises(SerializationError, match=r"pass type=|; give (type|codecs)="):
        await world.cache.set("k", value)
    with pytest.raises(SerializationError, match=r"pass type=|; give (type|codecs)="):
        await world.cache.set_many({"fine": 1, "k": value})
    assert world.raw.read() == {}, "nothing is stored, not even what is fine"


@runs(ON_MEMORY, max_value_bytes=100)
async def test_a_value_that_is_too_large_is_refused(world):
    with pytest.raises(SerializationError, match="max_value_bytes=100"):
        await world.cache.set("k", "x" * 200)


@runs(ON_MEMORY)
async def test_to_invalidate_or_expire_nothing_is_refused_with_what_to_write(world):
    cache = world.cache
    entity = cache.entity("user", int)
    for call, why in (
        (lambda: cache.invalidate(), r"invalidate\('user:7'\), or tags.*; clear\(\) removes everything"),
        (lambda: cache.invalidate(*[], tags=[]), r"nothing is named"),
        (lambda: cache.invalidating().__aenter__(), r"nothing is named"),
        (
            lambda: cache.mutate().__aenter__(),
            r"mutated: pass keys, as in mutate\('user:7'\), or tags, as in mutate\(tags=",
        ),
        (lambda: cache.mutate(tags=[], value_tags=["t"]).__aenter__(), r"nothing is named"),
        (lambda: cache.expire(), r"expire\('user:7'\)"),
        (lambda: entity.invalidate(), r"entity 'user' names nothing: pass ids, as in invalidate\(7\)"),
        (lambda: entity.expire(), r"entity 'user' names nothing: pass ids, as in expire\(7\)"),
    ):
        with pytest.raises(InvalidKeyError, match=why):
            await call()
    assert world.trace.facts == [], "nothing has happened"


@runs(ON_MEMORY)
async def test_several_keys_in_the_place_of_one_are_refused_with_how_to_pass_them(world):
    cache = world.cache
    for call, why in (
        (lambda: cache.get(1), r"not int: .*cache\.key\.build\('user', 7\)"),
        (lambda: cache.get(("user", 1)), r"not tuple: .*cache\.key\.build\(\*parts\)"),
        (lambda: cache.invalidate(["a", "b"]), r"not list: .*invalidate\(\*keys\)"),
        (lambda: cache.mutate({"a", "b"}).__aenter__(), r"not set: .*invalidate\(\*keys\)"),
        (lambda: cache.get_many("abc"), r"a list of keys, not one key, as in \[key\]; got str"),
        (lambda: cache.get_or_load("k", load, tags="abc"), r"a list of tags, not one tag, as in \[tag\]"),
    ):
        with pytest.raises(InvalidKeyError, match=why):
            await call()
    assert world.trace.facts == [], "nothing has happened"


@runs(ON_MEMORY)
async def test_a_built_key_that_passed_through_text_is_refused_by_every_method(world):
    """Prefixed twice it would name nothing, and its invalidation would seem done."""
    cache = world.cache
    built = cache.key.build("user", 7)
    await cache.set(built, "old")
    world.trace.facts.clear()
    for text in (json.loads(json.dumps(built)), f"{built}", str(built)):
        for call in (
            lambda text=text: cache.get(text),
            lambda text=text: cache.get_many([text]),
            lambda text=text: cache.get_or_load(text, load),
            lambda text=text: cache.get_or_load_many([text], load),
            lambda text=text: cache.set(text, 1),
            lambda text=text: cache.set_many({text: 1}),
            lambda text=text: cache.invalidate(text),
            lambda text=text: cache.expire(text),
            lambda text=text: cache.invalidating(text).__aenter__(),
            lambda text=text: cache.mutate(text).__aenter__(),
        ):
            for _ in range(2):  # what is refused is not remembered as a key
                with pytest.raises(InvalidKeyError, match=r"Key\.parse.*key\.literal"):
                    await call()
    with pytest.raises(InvalidKeyError, match=r"Leave the namespace out.*Pattern\.parse"):
        await cache.delete_pattern(f"{world.namespace}:user:7*")
    assert world.trace.facts == [], "nothing has happened"

    assert (await cache.delete_pattern("user:7*", dry_run=True)).matched == 1
    assert await cache.get(Key.parse(str(built))) == "old"
    assert (await cache.invalidate(Key.parse(json.loads(json.dumps(built))))).done == 1
    assert await cache.get(built) is None


@runs(ON_MEMORY)
async def test_an_entity_that_is_called_as_the_namespace_is_not_refused(world):
    cache, name = world.cache, world.namespace
    entity = cache.entity(name, str)
    assert await entity.set(7, "Ada")
    assert await entity.get(7) == "Ada"
    assert await cache.get(entity.key(7), type=str) == "Ada"
    assert await cache.get(cache.key.literal(f"{name}:7"), type=str) == "Ada"
    found = await entity.get_or_load_many([7, 8], lambda ids: dict.fromkeys(ids, "new"))
    assert found == {7: "Ada", 8: "new"}
    assert (await cache.delete_pattern(cache.key.pattern(name))).deleted == 2


@runs(ON_MEMORY)
async def test_a_key_or_pattern_of_another_cache_is_refused(world):
    other = world.open(namespace=f"{world.namespace}2").key
    for call in (
        lambda: world.cache.get(other.build("user", 1)),
        lambda: world.cache.invalidate("fine", other.build("user", 1)),
        lambda: world.cache.set_many({other.build("user", 1): 1}),
        lambda: world.cache.delete_pattern(other.pattern("user")),
    ):
        with pytest.raises(InvalidKeyError, match="belongs to another namespace than"):
            await call()
    assert world.trace.facts == []


@pytest.mark.parametrize("timeout_s", ["5", math.nan, True, timedelta(seconds=5)], ids=repr)
@runs(ON_MEMORY)
async def test_a_time_to_wait_is_a_number_of_seconds(world, timeout_s):
    with pytest.raises(ConfigurationError, match=r"timeout_s is a number of seconds, as in wait_ready\(30\)"):
        await world.cache.wait_ready(timeout_s)


# Loaders.


@pytest.mark.parametrize("loader", [None, 5, "load", {"a": 1}], ids=repr)
@runs(ON_MEMORY)
async def test_a_loader_that_cannot_be_called_is_refused(world, loader):
    with pytest.raises(ConfigurationError, match=r"a function; got .* itself, .* stored by set\(\)"):
        await world.cache.get_or_load("k", loader)
    assert world.trace.facts == []


@runs(ON_MEMORY)
async def test_a_coroutine_in_place_of_a_function_is_refused_and_not_left_behind(world):
    """Never awaited, it would complain when it is collected: warnings are errors here."""
    with pytest.raises(ConfigurationError, match="pass the function, not its result"):
        await world.cache.get_or_load("k", load_later())
    gc.collect()


class CallableLater:
    async def __call__(self):
        return 1


@pytest.mark.parametrize("loader", [load_later, CallableLater()], ids=["function", "object"])
def test_a_coroutine_function_is_no_loader_for_the_synchronous_cache(namespace, loader):
    with (
        cache_sync.Cache.from_url("memory://", namespace=namespace) as cache,
        pytest.raises(ConfigurationError, match=r"use sansio_cache_redis\.anyio\.Cache"),
    ):
        cache.get_or_load("k", loader)


@pytest.mark.parametrize("loader", [load_later, CallableLater(), partial(load_later)], ids=type)
def test_a_coroutine_function_is_no_loader_for_a_synchronous_entity(namespace, loader):
    """It is refused before it is called, and where it is named."""
    with cache_sync.Cache.from_url("memory://", namespace=namespace) as cache:
        entity = cache.entity("user", int)
        for call in (
            lambda: cache.entity("user", int, loader=loader),
            lambda: entity.get_or_load(7, loader),
            lambda: entity.get_or_load_many([7], loader),
        ):
            with pytest.raises(ConfigurationError, match=r"use sansio_cache_redis\.anyio\.Cache"):
                call()


def test_a_loader_that_returns_a_coroutine_is_refused_by_the_synchronous_cache(namespace):
    with cache_sync.Cache.from_url("memory://", namespace=namespace) as cache:
        with pytest.raises(ConfigurationError, match=r"use sansio_cache_redis\.anyio\.Cache"):
            cache.get_or_load("k", lambda: load_later())
        gc.collect()
        assert cache._backend.memory.store.dump() == {}


@runs(ON_MEMORY)
async def test_what_a_loader_raises_about_its_arguments_is_its_own(world):
    with pytest.raises(TypeError, match="argument"):
        await world.cache.get_or_load("k", lambda one, two: one)


# Making a cache.


@both
@pytest.mark.parametrize(
    ("arguments", "options", "way"),
    [
        ((f"redis://:{SECRET}@localhost",), {}, r"Cache\.from_url\('redis://localhost:6379/0', names"),
        ((f"redis://:{SECRET}@localhost",), {"namespace": "n"}, r"Cache\.from_url\("),
        ((), {"url": f"redis://:{SECRET}@localhost", "namespace": "n"}, r"Cache\.from_url\("),
        ((), {}, r"Cache\.from_url\("),
        ((CacheConfig(namespace="n"),), {}, r"Cache\.from_config\(config\)"),
        ((redis.Redis(),), {"namespace": "n"}, r"Cache\.from_client\(client, namespace='shop'\)"),
    ],
)
def test_a_class_that_is_called_says_how_a_cache_is_made(kind, arguments, options, way):
    with pytest.raises(ConfigurationError, match=f"write {way}") as raised:
        kind(*arguments, **options)
    assert SECRET not in str(raised.value)


@both
@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "ü", "a" * 200, None, 5, b"a", "a*"], ids=repr)
def test_a_namespace_that_cannot_be_one_is_refused(kind, namespace):
    with pytest.raises(InvalidKeyError, match="namespace is"):
        kind.from_url("memory://", namespace=namespace)


@both
@pytest.mark.parametrize(
    "url", ["", "localhost", "localhost:6379", "http://localhost", "redis:/x", "://"], ids=repr
)
def test_a_url_of_another_scheme_is_refused(kind, url):
    with pytest.raises(ConfigurationError, match="must begin with redis://, rediss://, unix:// or memory://"):
        kind.from_url(url, namespace="n")


@both
@pytest.mark.parametrize("url", [None, 5, b"redis://localhost"], ids=repr)
def test_a_url_is_a_text(kind, url):
    with pytest.raises(ConfigurationError, match="URL is a text"):
        kind.from_url(url, namespace="n")


@both
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("bogus=1", "unknown option 'bogus'"),
        ("decode_responses=true", "cells are bytes"),
        ("socket_timeout=5", "set operation_timeout_s"),
        ("socket_connect_timeout=5", "connect_timeout_s"),
        ("retry_on_timeout=true", "retries belong to the cache"),
        ("max_connections=5", "the option max_connections"),
        ("protocol=3", "RESP2"),
        ("timeout=5", "operation_timeout_s"),
        ("health_check_interval=often", "check the options behind"),
        ("db=first", "the option 'db' is the number of a database"),
    ],
)
def test_an_option_in_the_url_that_cannot_be_used_is_refused(kind, query, why):
    with pytest.raises(ConfigurationError, match=why):
        kind.from_url(f"redis://localhost?{query}", namespace="n")


@both
def test_an_option_of_tls_that_cannot_be_used_is_refused(kind):
    with pytest.raises(ConfigurationError, match=r"ssl_cert_reqs|options"):
        kind.from_url("rediss://localhost?ssl_cert_reqs=bogus", namespace="n")


@both
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bogus", 1),
        ("enabled", "yes"),
        ("connect_timeout_s", 0),
        ("operation_timeout_s", "1"),
        ("attempt_timeout_s", math.nan),
        ("attempt_timeout_s", 5.0),
        ("max_connections", 0),
        ("max_connections", 1.5),
        ("chunk_keys", 0),
        ("max_batch_keys", 0),
        ("max_key_bytes", -1),
        ("max_value_bytes", True),
        ("memory_max_entries", 0),
        ("policy", "fast"),
        ("policy", 60),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(kind, option, value):
    with pytest.raises(ConfigurationError, match=option):
        kind.from_url("redis://localhost", namespace="n", **{option: value})


@both
@pytest.mark.parametrize("ttl", [0, "1h", True], ids=repr)
def test_a_default_ttl_that_makes_no_sense_is_refused(kind, ttl):
    with pytest.raises(InvalidTtlError, match="time to live is"):
        kind.from_url("redis://localhost", namespace="n", default_ttl=ttl)


@both
@pytest.mark.parametrize("config", [None, "redis://localhost", {"namespace": "n"}, CacheConfig], ids=repr)
def test_a_configuration_is_a_cache_config(kind, config):
    with pytest.raises(ConfigurationError, match="takes a CacheConfig"):
        kind.from_config(config)


@both
@pytest.mark.parametrize("client", [None, "redis://localhost", SOMETHING, redis.Redis], ids=repr)
def test_a_client_is_one_of_redis_py(kind, client):
    with pytest.raises(ConfigurationError, match="from_client takes a"):
        kind.from_client(client, namespace="n")


@both
@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["redis", "redis.asyncio"])
def test_a_client_that_decodes_responses_is_refused(kind, module):
    client = module.Redis(decode_responses=True)
    with pytest.raises(ConfigurationError, match=r"cells are bytes|asyncio client"):
        kind.from_client(client, namespace="n")


def test_an_asynchronous_client_is_refused_by_the_synchronous_cache():
    with pytest.raises(ConfigurationError, match=r"pass a redis\.Redis"):
        cache_sync.Cache.from_client(redis.asyncio.Redis(), namespace="n")


@pytest.mark.parametrize(
    ("backend", "client", "why"),
    [
        ("asyncio", redis.Redis(), r"under asyncio pass a redis\.asyncio\.Redis"),
        ("trio", redis.asyncio.Redis(), r"pass a redis\.Redis"),
    ],
    ids=["asyncio", "trio"],
)
def test_a_client_of_the_other_kind_is_refused_in_the_first_call(backend, client, why):
    cache = cache_anyio.Cache.from_client(client, namespace="n")

    async def main():
        with pytest.raises(ConfigurationError, match=why):
            await cache.get("k")
        await cache.aclose()

    anyio.run(main, backend=backend)


@both
def test_a_cluster_client_that_decodes_is_refused(kind):
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=7000, decode_responses=True)
    cache = None
    with pytest.raises(ConfigurationError, match="decode_responses"):
        cache = kind.from_client(client, namespace="n")
    assert cache is None


# Secrets.

SECRET_URLS = [
    f"redis://user:{SECRET}@localhost:6379/0",
    f"redis://:{SECRET}@localhost:notaport/0",
    f"redis://:{SECRET}@localhost:99999/0",
    f"redis://:{SECRET}#tail@localhost:6379/0",
    f"redis://:head#{SECRET}@localhost:6379/0",
    f"redis://:{SECRET}/tail@localhost:6379/0",
    f"redis://:head/{SECRET}@localhost:6379/0",
    f"redis://:{SECRET}?tail@localhost:6379/0",
    f"redis://:head?{SECRET}@localhost:6379/0",
    f"redis://:{SECRET}@tail@localhost:6379/0",
    f"redis://:[{SECRET}@localhost:6379/0",
    f"redis://localhost:6379/0?password={SECRET}&bogus=1",
    f"redis://localhost:6379/0?password={SECRET}&decode_responses=true",
    f"redis://user:{SECRET}@localhost:6379/0?bogus=1",
    f"redis://user:{SECRET}@localhost:6379/0?{SECRET}=1",
    f"rediss://user:{SECRET}@localhost:6379/0?ssl_cert_reqs=bogus",
    f"unix://user:{SECRET}@/tmp/socket?db=x",
    f"http://user:{SECRET}@localhost",
    f"//user:{SECRET}@localhost",
    f"user:{SECRET}@localhost",
]


@both
@pytest.mark.parametrize("url", SECRET_URLS, ids=lambda url: url.replace(SECRET, "***"))
def test_no_message_and_no_repr_shows_a_password(kind, url, caplog):
    caplog.set_level(logging.DEBUG)
    shown = []
    try:
        cache = kind.from_url(url, namespace="n")
        shown += [repr(cache), str(cache), repr(cache._config), str(cache._config)]
    except CacheError as error:
        shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
        own_lines = [
            line for line in shown.pop().splitlines() if SECRET not in __file__ and "from_url(url" not in line
        ]
        shown += own_lines
    shown += [record.getMessage() for record in caplog.records]

    assert shown
    for text in shown:
        # The name of an option is shown, so that it can be found; it is no place for a secret.
        if f"?{SECRET}=" not in url:
            assert SECRET not in text
        assert f":{SECRET}" not in text


def test_no_message_of_an_outage_shows_a_password(caplog, redis_url, namespace):
    """Wrong credentials: what the server and redis-py say is not passed on."""
    caplog.set_level(logging.DEBUG)
    url = redis_url.replace("redis://", f"redis://nobody:{SECRET}@")
    with cache_sync.Cache.from_url(
        url, namespace=namespace, operation_timeout_s=20, attempt_timeout_s=10
    ) as cache:
        assert cache.get_or_load("k", load) == 1
        with pytest.raises(CacheConnectionError) as raised:
            cache.wait_ready(5.0)
        health = cache.health()
    assert not health.ok
    for text in (str(raised.value), repr(health), repr(cache.stats()), caplog.text):
        assert SECRET not in text
    assert "authentication" in str(raised.value)


@pytest.mark.parametrize("value", ["top secret value", {"card": "top secret value"}], ids=["text", "mapping"])
@runs(ON_MEMORY)
async def test_no_refusal_shows_a_value(world, value):
    async def unstorable():
        return {"inner": {1, 2}, "value": value}

    await world.cache.get_or_load("k", unstorable)
    with pytest.raises(SerializationError) as raised:
        await world.cache.set("k", await unstorable())

    assert "top secret" not in str(raised.value)
    [logged] = world.take_log()
    assert "top secret" not in logged
