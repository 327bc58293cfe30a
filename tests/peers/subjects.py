"""The caches that go through the scenarios: each as its documentation says to use it.

All are used from threads; one that is asynchronous has a loop of its own in another thread. Peers are
imported when they are opened, as not all of them are installed everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, Final

import anyio
import attrs
from anyio.from_thread import BlockingPortal, start_blocking_portal

from sansio_cache_redis.anyio import Cache as AsyncCache
from sansio_cache_redis.sync import Cache
from support.servers import Server

TTL_S: Final = 3_600

Loader = Callable[[], Any]


@attrs.frozen(kw_only=True)
class Subject:
    """A cache, and what a program does with it.

    Args:
        read: Gives what is cached under a key, or what the loader gives, which is cached.
        forget: Is called when what a key was loaded from has changed.
        read_tagged: Reads as `read` does, under one tag.
        forget_tag: Is called when something has changed that all entries of a tag come from.
        read_part: Reads the part of a page, by the name of the page and of the part.
        forget_page: Is called when a page has changed: all parts of it are to be forgotten.
    """

    read: Callable[[str, Loader], Any]
    forget: Callable[[str], Any]
    read_tagged: Callable[[str, str, Loader], Any] | None = None
    forget_tag: Callable[[str], Any] | None = None
    read_part: Callable[[str, str, Loader], Any] | None = None
    forget_page: Callable[[str], Any] | None = None


@attrs.frozen(kw_only=True)
class Peer:
    """How to open a cache that is not ours.

    Args:
        open: As its documentation says.
        as_it_comes: With the codec that it has by itself, where `open` gives it another.
        unpickles: Whether it stores pickles by itself.
    """

    open: Callable[[Server], AbstractContextManager[Subject]]
    as_it_comes: Callable[[Server], AbstractContextManager[Subject]] = attrs.field(
        default=attrs.Factory(lambda self: self.open, takes_self=True)
    )
    unpickles: bool = False


@contextmanager
def open_ours(server: Server, **options: Any) -> Iterator[Subject]:
    """This library's cache for threads."""
    with Cache.from_url(server.url, namespace="ours", operation_timeout_s=30.0, **options) as cache:
        cache.wait_ready()

        def read_tagged(key: str, tag: str, loader: Loader) -> Any:
            return cache.get_or_load(key, loader, tags=[tag])

        def read_part(page: str, part: str, loader: Loader) -> Any:
            return cache.get_or_load(cache.key.build("page", page, part), loader)

        yield Subject(
            read=cache.get_or_load,
            forget=cache.invalidate,
            read_tagged=read_tagged,
            forget_tag=lambda tag: cache.invalidate(tags=[tag]),
            read_part=read_part,
            forget_page=lambda page: cache.delete_pattern(cache.key.pattern("page", page)),
        )


def _in_a_thread(loader: Loader) -> Callable[[], Any]:
    async def load() -> Any:
        return await anyio.to_thread.run_sync(loader)

    return load


@contextmanager
def _portal(backend: str = "asyncio") -> Iterator[BlockingPortal]:
    with start_blocking_portal(backend) as portal:
        yield portal


def _open_ours_async(backend: str) -> Callable[[Server], AbstractContextManager[Subject]]:
    @contextmanager
    def open_it(server: Server) -> Iterator[Subject]:
        with _portal(backend) as portal:
            cache = AsyncCache.from_url(server.url, namespace="ours", operation_timeout_s=30.0)
            with portal.wrap_async_context_manager(cache):
                portal.call(cache.wait_ready)

                def read(key: str, loader: Loader) -> Any:
                    return portal.call(cache.get_or_load, key, _in_a_thread(loader))

                yield Subject(read=read, forget=lambda key: portal.call(cache.invalidate, key))

    return open_it


OURS: Final = {
    "threads": open_ours,
    "asyncio": _open_ours_async("asyncio"),
    "trio": _open_ours_async("trio"),
}


@contextmanager
def _open_dogpile(server: Server, **options: Any) -> Iterator[Subject]:
    from dogpile.cache import make_region

    region = make_region(**options).configure(
        "dogpile.cache.redis",
        expiration_time=TTL_S,
        arguments={"url": server.url, "distributed_lock": True, "thread_local_lock": False},
    )
    try:
        yield Subject(read=region.get_or_create, forget=region.delete)
    finally:
        region.backend.reader_client.close()


@contextmanager
def _open_dogpile_json(server: Server) -> Iterator[Subject]:
    with _open_dogpile(
        server, serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
    ) as it:
        yield it


@contextmanager
def _open_django(server: Server) -> Iterator[Subject]:
    from django.core.cache.backends.redis import RedisCache

    cache = RedisCache(server.url, {"TIMEOUT": TTL_S})
    try:
        yield Subject(read=cache.get_or_set, forget=cache.delete)
    finally:
        cache._cache.get_client().connection_pool.disconnect()


@contextmanager
def _open_django_redis(server: Server) -> Iterator[Subject]:
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from django_redis.cache import RedisCache

    cache = RedisCache(server.url, {"TIMEOUT": TTL_S, "OPTIONS": {}})

    def read_part(page: str, part: str, loader: Loader) -> Any:
        return cache.get_or_set(f"page:{page}:{part}", loader)

    try:
        yield Subject(
            read=cache.get_or_set,
            forget=cache.delete,
            read_part=read_part,
            forget_page=lambda page: cache.delete_pattern(f"page:{page}:*"),
        )
    finally:
        cache.client.get_client().connection_pool.disconnect()


@contextmanager
def _open_cachelib(server: Server) -> Iterator[Subject]:
    from cachelib import RedisCache

    with closing(server.client()) as client:
        cache = RedisCache(host=client, default_timeout=TTL_S)

        def read(key: str, loader: Loader) -> Any:
            found = cache.get(key)
            if found is None:
                found = loader()
                cache.set(key, found)
            return found

        yield Subject(read=read, forget=cache.delete)


@contextmanager
def _open_flask_caching(server: Server) -> Iterator[Subject]:
    from flask import Flask
    from flask_caching import Cache as FlaskCache

    app = Flask(__name__)
    config = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": server.url, "CACHE_DEFAULT_TIMEOUT": TTL_S}
    cache = FlaskCache(app, config=config)
    loaders: dict[str, Loader] = {}

    @cache.memoize()
    def load(key: str) -> Any:
        return loaders[key]()

    def read(key: str, loader: Loader) -> Any:
        loaders[key] = loader
        with app.app_context():
            return load(key)

    def forget(key: str) -> None:
        with app.app_context():
            cache.delete_memoized(load, key)

    yield Subject(read=read, forget=forget)


@contextmanager
def _open_beaker(server: Server) -> Iterator[Subject]:
    from beaker.cache import Cache as BeakerCache

    with closing(server.client()) as client:
        cache = BeakerCache("peers", type="ext:redis", url=client, expire=TTL_S)
        yield Subject(
            read=lambda key, loader: cache.get(key, createfunc=loader),
            forget=cache.remove_value,
        )


@contextmanager
def _open_aiocache(server: Server) -> Iterator[Subject]:
    from aiocache import RedisCache, cached_stampede
    from aiocache.serializers import JsonSerializer

    with _portal() as portal:
        options: dict[str, Any] = {
            "endpoint": "127.0.0.1",
            "port": server.port,
            "timeout": 30,
            "serializer": JsonSerializer(),
        }

        async def load(key: str, loader: Callable[[], Any]) -> Any:
            return await loader()

        async def open_both() -> Any:
            guarded = cached_stampede(
                lease=30, ttl=TTL_S, cache=RedisCache, key_builder=lambda _, key, loader: key, **options
            )
            return RedisCache(**options), guarded(load)

        cache, read = portal.call(open_both)
        try:
            yield Subject(
                read=lambda key, loader: portal.call(read, key, _in_a_thread(loader)),
                forget=lambda key: portal.call(cache.delete, key),
            )
        finally:
            for each in (cache, read.cache):
                portal.call(each.close)


@contextmanager
def open_cashews(server: Server, *, lock: bool = True, **options: Any) -> Iterator[Subject]:
    """cashews, with its lock against stampedes, and JSON in place of pickle."""
    from cashews import Cache as Cashews

    with _portal() as portal:

        async def open_it() -> Any:
            opened = Cashews()
            opened.setup(server.url, **({"pickle_type": "json", "socket_timeout": 30} | options))
            await opened.init()
            return opened

        cache = portal.call(open_it)

        @cache(ttl=TTL_S, key="{key}", lock=lock)
        async def read(key: str, loader: Callable[[], Any]) -> Any:
            return await loader()

        @cache(ttl=TTL_S, key="{key}", tags=["{tag}"])
        async def read_tagged(key: str, tag: str, loader: Callable[[], Any]) -> Any:
            return await loader()

        @cache(ttl=TTL_S, key="page:{page}:{part}")
        async def read_part(page: str, part: str, loader: Callable[[], Any]) -> Any:
            return await loader()

        try:
            yield Subject(
                read=lambda key, loader: portal.call(read, key, _in_a_thread(loader)),
                forget=lambda key: portal.call(cache.delete, key),
                read_tagged=lambda key, tag, loader: portal.call(read_tagged, key, tag, _in_a_thread(loader)),
                forget_tag=lambda tag: portal.call(cache.delete_tags, tag),
                read_part=lambda page, part, loader: portal.call(read_part, page, part, _in_a_thread(loader)),
                forget_page=lambda page: portal.call(cache.delete_match, f"page:{page}:*"),
            )
        finally:
            portal.call(cache.close)


@contextmanager
def _open_fastapi_cache(server: Server) -> Iterator[Subject]:
    import redis.asyncio
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.redis import RedisBackend
    from fastapi_cache.decorator import cache
    from fastapi_cache.key_builder import default_key_builder

    with _portal() as portal:
        client = redis.asyncio.Redis.from_url(server.url)
        backend = RedisBackend(client)
        FastAPICache.init(backend, prefix="peers", expire=TTL_S)
        loaders: dict[str, Callable[[], Any]] = {}

        async def load(key: str) -> Any:
            return await loaders[key]()

        cached = cache(expire=TTL_S)(load)

        def read(key: str, loader: Loader) -> Any:
            loaders[key] = _in_a_thread(loader)
            return portal.call(cached, key)

        def forget(key: str) -> Any:
            built = default_key_builder(load, "peers:", args=(key,), kwargs={})

            async def clear() -> int:
                return await backend.clear(key=built)

            return portal.call(clear)

        try:
            yield Subject(read=read, forget=forget)
        finally:
            portal.call(client.aclose)
            FastAPICache.reset()


ALWAYS: Final = {
    "dogpile.cache": Peer(open=_open_dogpile_json, as_it_comes=_open_dogpile, unpickles=True),
    "Django": Peer(open=_open_django, unpickles=True),
    "cachelib": Peer(open=_open_cachelib, unpickles=True),
    "aiocache": Peer(open=_open_aiocache),
}
"""Those that the tests have anyway, for the adapters."""
OTHERS: Final = {
    "cashews": Peer(open=open_cashews),
    "fastapi-cache2": Peer(open=_open_fastapi_cache),
    "django-redis": Peer(open=_open_django_redis, unpickles=True),
    "Flask-Caching": Peer(open=_open_flask_caching, unpickles=True),
    "Beaker": Peer(open=_open_beaker, unpickles=True),
}
"""Those that have to be installed: see the package."""
