"""The contenders for asyncio, and ours on trio. Peers are imported when they are opened."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio

from benchmarks.contenders import OURS, POOL, TTL_S, Address, Contender, Peer
from benchmarks.values import decoded, dumps
from sansio_cache_redis.anyio import Cache

Loader = Callable[[], Awaitable[Any]]
ManyLoader = Callable[[list[str]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def open_ours(address: Address) -> AsyncIterator[Peer]:
    """The library, as it comes."""
    async with Cache.from_url(address.url, namespace="bench") as cache:
        await cache.wait_ready()
        yield Peer(
            get=cache.get,
            set=cache.set,
            get_or_load=cache.get_or_load,
            invalidate=cache.invalidate,
            guarded=cache.get_or_load,
            get_many=cache.get_many,
            get_or_load_many=cache.get_or_load_many,
            delete_pattern=cache.delete_pattern,
        )


def on_redis(client: Any) -> Peer:
    """A client of redis-py's with `json`."""

    async def get(key: str) -> Any:
        found = await client.get(key)
        return None if found is None else json.loads(found)

    async def put(key: str, value: Any) -> Any:
        return await client.set(key, dumps(value), ex=TTL_S)

    async def get_or_load(key: str, loader: Loader) -> Any:
        found = await client.get(key)
        if found is not None:
            return json.loads(found)
        value = await loader()
        await client.set(key, dumps(value), ex=TTL_S)
        return value

    async def get_many(keys: list[str]) -> dict[str, Any]:
        return decoded(keys, await client.mget(keys))

    async def get_or_load_many(keys: list[str], loader: ManyLoader) -> dict[str, Any]:
        found = await get_many(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            loaded = await loader(missing)
            pipeline = client.pipeline(transaction=False)
            for key, value in loaded.items():
                pipeline.set(key, dumps(value), ex=TTL_S)
            await pipeline.execute()
            found |= loaded
        return found

    async def delete_pattern(pattern: str) -> None:
        batch = []
        async for key in client.scan_iter(match=pattern, count=1_000):
            batch.append(key)
            if len(batch) == 1_000:
                await client.unlink(*batch)
                batch = []
        if batch:
            await client.unlink(*batch)

    return Peer(
        get=get,
        set=put,
        get_or_load=get_or_load,
        invalidate=client.delete,
        get_many=get_many,
        get_or_load_many=get_or_load_many,
        delete_pattern=delete_pattern,
    )


@asynccontextmanager
async def _open_redis(address: Address) -> AsyncIterator[Peer]:
    pool = redis.asyncio.BlockingConnectionPool.from_url(address.url, max_connections=POOL, timeout=None)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        yield on_redis(client)


@asynccontextmanager
async def _open_redis_default(address: Address) -> AsyncIterator[Peer]:
    async with redis.asyncio.Redis.from_url(address.url) as client:
        yield on_redis(client)


@asynccontextmanager
async def _open_cashews(address: Address) -> AsyncIterator[Peer]:
    from cashews import Cache as Cashews
    from cashews.backends.redis import Redis
    from cashews.wrapper.backend_settings import register_backend

    register_backend("unix", Redis, pass_uri=True)  # it can, and only lacks the name
    cache = Cashews()
    cache.setup(
        address.url,
        pickle_type="json",
        max_connections=POOL,
        wait_for_connection_timeout=None,
        socket_timeout=5,
    )
    await cache.init()

    @cache(ttl=TTL_S, key="{key}", lock=True)
    async def guarded(key: str, loader: Loader) -> Any:
        return await loader()

    async def put(key: str, value: Any) -> Any:
        return await cache.set(key, value, expire=TTL_S)

    async def get_or_load(key: str, loader: Loader) -> Any:
        return await cache.get_or_set(key, loader, expire=TTL_S)

    async def get_many(keys: list[str]) -> dict[str, Any]:
        return dict(zip(keys, await cache.get_many(*keys), strict=True))

    try:
        yield Peer(
            get=cache.get,
            set=put,
            get_or_load=get_or_load,
            invalidate=cache.delete,
            guarded=guarded,
            get_many=get_many,
            delete_pattern=cache.delete_match,
        )
    finally:
        await cache.close()


@asynccontextmanager
async def _open_aiocache(address: Address) -> AsyncIterator[Peer]:
    from aiocache import RedisCache, cached, cached_stampede
    from aiocache.serializers import JsonSerializer

    options: dict[str, Any] = {
        "endpoint": "127.0.0.1",
        "port": address.port,
        "db": address.db,
        "pool_max_size": POOL,
        "connection_pool_class": redis.asyncio.BlockingConnectionPool,
        "connection_pool_kwargs": {"timeout": None},
        "timeout": None,  # a timer a call: off, as the others have none of their own
        "serializer": JsonSerializer(),
    }
    cache = RedisCache(**options)
    decorating = {"cache": RedisCache, "ttl": TTL_S, "key_builder": lambda _, key, loader: key, **options}

    async def load(key: str, loader: Loader) -> Any:
        return await loader()

    get_or_load = cached(**decorating)(load)
    guarded = cached_stampede(lease=30, **decorating)(load)

    async def put(key: str, value: Any) -> Any:
        return await cache.set(key, value, ttl=TTL_S)

    async def get_many(keys: list[str]) -> dict[str, Any]:
        return dict(zip(keys, await cache.multi_get(keys), strict=True))

    async def delete_pattern(pattern: str) -> Any:
        return await cache.clear(namespace=pattern.removesuffix(":*"))

    try:
        yield Peer(
            get=cache.get,
            set=put,
            get_or_load=get_or_load,
            invalidate=cache.delete,
            guarded=guarded,
            get_many=get_many,
            delete_pattern=delete_pattern,
        )
    finally:
        for each in (cache, get_or_load.cache, guarded.cache):
            await each.close()


@asynccontextmanager
async def _open_glide(address: Address) -> AsyncIterator[Peer]:
    from glide import ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

    configuration = GlideClientConfiguration(
        [NodeAddress("127.0.0.1", address.port)], database_id=address.db, request_timeout=5_000
    )
    client = await GlideClient.create(configuration)
    expiry = ExpirySet(ExpiryType.SEC, TTL_S)

    async def get(key: str) -> Any:
        found = await client.get(key)
        return None if found is None else json.loads(found)

    async def put(key: str, value: Any) -> Any:
        return await client.set(key, dumps(value), expiry=expiry)

    async def get_or_load(key: str, loader: Loader) -> Any:
        found = await client.get(key)
        if found is not None:
            return json.loads(found)
        value = await loader()
        await client.set(key, dumps(value), expiry=expiry)
        return value

    async def get_many(keys: list[str]) -> dict[str, Any]:
        return decoded(keys, await client.mget(list(keys)))

    try:
        yield Peer(
            get=get,
            set=put,
            get_or_load=get_or_load,
            invalidate=lambda key: client.delete([key]),
            get_many=get_many,
        )
    finally:
        await client.close()


_UNGUARDED = "no guard: every caller that misses loads"

ASYNC = (
    Contender(
        name=f"{OURS}, asyncio",
        runtime="asyncio",
        db=5,
        open=open_ours,
        codec="msgspec JSON",
        prefix="bench:",
    ),
    Contender(
        name="redis.asyncio",
        runtime="asyncio",
        db=7,
        open=_open_redis,
        codec="json",
        unguarded=_UNGUARDED,
        note=f"blocking pool of {POOL}",
    ),
    Contender(
        name=f"{OURS}, trio", runtime="trio", db=6, open=open_ours, codec="msgspec JSON", prefix="bench:"
    ),
    Contender(
        name="cashews",
        runtime="asyncio",
        db=8,
        open=_open_cashews,
        codec="json",
        package="cashews",
        note=f"blocking pool of {POOL}",
    ),
    Contender(
        name="aiocache",
        runtime="asyncio",
        db=9,
        open=_open_aiocache,
        codec="json",
        package="aiocache",
        has_unix=False,
        note=f"blocking pool of {POOL}",
    ),
    Contender(
        name="valkey-glide",
        runtime="asyncio",
        db=11,
        open=_open_glide,
        codec="json",
        package="glide",
        has_unix=False,
        unguarded=_UNGUARDED,
        note="a client in Rust",
    ),
)
DEFAULT_POOL = Contender(
    name="redis.asyncio as it comes",
    runtime="asyncio",
    db=10,
    open=_open_redis_default,
    codec="json",
    note="its default pool",
)
