"""The contenders for threads. Peers are imported when they are opened: they may not be installed."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import redis

from benchmarks.contenders import OURS, TTL_S, Address, Contender, Peer
from benchmarks.values import decoded, dumps
from sansio_cache_redis.sync import Cache


@contextmanager
def open_ours(address: Address) -> Iterator[Peer]:
    """The library, as it comes."""
    with Cache.from_url(address.url, namespace="bench") as cache:
        cache.wait_ready()
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

    def get(key: str) -> Any:
        found = client.get(key)
        return None if found is None else json.loads(found)

    def put(key: str, value: Any) -> Any:
        return client.set(key, dumps(value), ex=TTL_S)

    def get_or_load(key: str, loader: Callable[[], Any]) -> Any:
        found = client.get(key)
        if found is not None:
            return json.loads(found)
        value = loader()
        client.set(key, dumps(value), ex=TTL_S)
        return value

    def get_many(keys: list[str]) -> dict[str, Any]:
        return decoded(keys, client.mget(keys))

    def get_or_load_many(keys: list[str], loader: Callable[[list[str]], Any]) -> dict[str, Any]:
        found = get_many(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            loaded = loader(missing)
            pipeline = client.pipeline(transaction=False)
            for key, value in loaded.items():
                pipeline.set(key, dumps(value), ex=TTL_S)
            pipeline.execute()
            found |= loaded
        return found

    def delete_pattern(pattern: str) -> None:
        batch = []
        for key in client.scan_iter(match=pattern, count=1_000):
            batch.append(key)
            if len(batch) == 1_000:
                client.unlink(*batch)
                batch = []
        if batch:
            client.unlink(*batch)

    return Peer(
        get=get,
        set=put,
        get_or_load=get_or_load,
        invalidate=client.delete,
        get_many=get_many,
        get_or_load_many=get_or_load_many,
        delete_pattern=delete_pattern,
    )


@contextmanager
def _open_redis(address: Address) -> Iterator[Peer]:
    with closing(redis.Redis.from_url(address.url)) as client:
        yield on_redis(client)


@contextmanager
def _open_dogpile(address: Address) -> Iterator[Peer]:
    from dogpile.cache import make_region

    region = make_region(serializer=dumps, deserializer=json.loads).configure(
        "dogpile.cache.redis",
        expiration_time=TTL_S,
        arguments={
            "url": address.url,
            "redis_expiration_time": TTL_S,
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": 30,
            "lock_sleep": 0.01,  # ten times as often as its default: waiters see the value sooner
        },
    )

    def get_many(keys: list[str]) -> dict[str, Any]:
        return dict(zip(keys, region.get_multi(keys), strict=True))

    try:
        yield Peer(
            get=region.get,
            set=region.set,
            get_or_load=region.get_or_create,
            invalidate=region.delete,
            guarded=region.get_or_create,
            get_many=get_many,
        )
    finally:
        region.backend.reader_client.close()


class JsonSerializer:
    """In place of Django's pickle."""

    def dumps(self, value: Any) -> bytes:
        """Encode."""
        return dumps(value)

    def loads(self, data: bytes) -> Any:
        """Decode."""
        return json.loads(data)


@contextmanager
def _open_django(address: Address) -> Iterator[Peer]:
    from django.core.cache.backends.redis import RedisCache

    cache = RedisCache(address.url, {"TIMEOUT": TTL_S, "OPTIONS": {"serializer": JsonSerializer}})
    try:
        yield Peer(
            get=cache.get,
            set=cache.set,
            get_or_load=cache.get_or_set,
            invalidate=cache.delete,
            get_many=cache.get_many,
        )
    finally:
        cache._cache.get_client().connection_pool.disconnect()


@contextmanager
def _open_glide(address: Address) -> Iterator[Peer]:
    from glide_sync import ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

    configuration = GlideClientConfiguration(
        [NodeAddress("127.0.0.1", address.port)], database_id=address.db, request_timeout=5_000
    )
    expiry = ExpirySet(ExpiryType.SEC, TTL_S)
    with closing(GlideClient.create(configuration)) as client:

        def get(key: str) -> Any:
            found = client.get(key)
            return None if found is None else json.loads(found)

        def put(key: str, value: Any) -> Any:
            return client.set(key, dumps(value), expiry=expiry)

        def get_or_load(key: str, loader: Callable[[], Any]) -> Any:
            found = client.get(key)
            if found is not None:
                return json.loads(found)
            value = loader()
            client.set(key, dumps(value), expiry=expiry)
            return value

        def get_many(keys: list[str]) -> dict[str, Any]:
            return decoded(keys, client.mget(list(keys)))

        yield Peer(
            get=get,
            set=put,
            get_or_load=get_or_load,
            invalidate=lambda key: client.delete([key]),
            get_many=get_many,
        )


_UNGUARDED = "no guard: every caller that misses loads"

THREADS = (
    Contender(name=OURS, runtime="threads", db=1, open=open_ours, codec="msgspec JSON", prefix="bench:"),
    Contender(
        name="redis-py",
        runtime="threads",
        db=2,
        open=_open_redis,
        codec="json",
        unguarded=_UNGUARDED,
    ),
    Contender(
        name="dogpile.cache",
        runtime="threads",
        db=3,
        open=_open_dogpile,
        codec="json",
        package="dogpile.cache",
        note="distributed lock, looked at every 10 ms",
    ),
    Contender(
        name="Django",
        runtime="threads",
        db=4,
        open=_open_django,
        codec="json, in place of pickle",
        package="django.core.cache.backends.redis",
        prefix=":1:",
        unguarded=_UNGUARDED,
    ),
    Contender(
        name="valkey-glide-sync",
        runtime="threads",
        db=12,
        open=_open_glide,
        codec="json",
        package="glide_sync",
        has_unix=False,
        unguarded=_UNGUARDED,
        note="a client in Rust",
    ),
)
