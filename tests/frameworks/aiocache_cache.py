"""A backend of aiocache. Its methods with an underscore are those that aiocache has backends define."""

from __future__ import annotations

from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import JsonSerializer

from frameworks.bytes_store import OPTIONS, life
from sansio_cache import NoEntryError, escape_glob
from sansio_cache_redis.anyio import Cache


class SansioCache(BaseCache):
    """As aiocache's own for Redis, but for `raw`."""

    NAME = "sansio"

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        store_namespace: str = "aiocache",
        serializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(serializer=serializer or JsonSerializer(), **kwargs)
        self.url, self.store_namespace = url, store_namespace
        self.cache = self.opened()

    def opened(self) -> Cache:
        """A cache, which connects when it is first used."""
        return Cache.from_url(self.url, namespace=self.store_namespace, **OPTIONS)

    def build_full_key(self, key: Any, namespace: str | None = None) -> str:
        """A key as aiocache's own backend for Redis writes it."""
        namespace = self.namespace if namespace is None else namespace
        text = getattr(key, "value", key)
        return f"{namespace}:{text}" if namespace else str(text)

    def _build_key(self, key: Any, namespace: str | None = None) -> str:
        return self.build_full_key(key, namespace)

    def name(self, key: str) -> str:
        """The key of an entry."""
        return self.cache.key.build("a", str(key))

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return _decoded(await self.cache.get(self.name(key), type=bytes), encoding)

    async def _gets(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return await self._get(key, encoding)

    async def _multi_get(
        self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        names = [self.name(key) for key in keys]
        found = await self.cache.get_many(names, type=bytes)
        return [_decoded(found.get(name), encoding) for name in names]

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> Any:
        name, data = self.name(key), _encoded(value)
        if _cas_token is None:
            return await self.cache.set(name, data, ttl=life(ttl), type=bytes)
        found = await self.cache.lookup(name, type=bytes)
        if found.version is None or found.value != _encoded(_cas_token):
            return 0
        swapped = await self.cache.swap(name, data, version=found.version, ttl=life(ttl), type=bytes)
        return int(swapped is not None)

    async def _multi_set(self, pairs: list[Any], ttl: float | None = None, _conn: Any = None) -> bool:
        values = {self.name(key): _encoded(value) for key, value in pairs}
        stored = await self.cache.set_many(values, ttl=life(ttl or None), type=bytes)
        return all(stored.values())

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not await self.cache.add(self.name(key), _encoded(value), ttl=life(ttl), type=bytes):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return await self.cache.exists(self.name(key))

    async def _increment(self, key: str, delta: int, _conn: Any = None) -> int:
        def more(data: bytes) -> bytes:
            return str(int(data) + delta).encode()

        name = self.name(key)
        while True:
            try:
                return int(await self.cache.update(name, more, type=bytes))
            except NoEntryError:
                if await self.cache.add(name, str(delta).encode(), ttl=life(None), type=bytes):
                    return delta
            except ValueError:
                raise TypeError("Value is not an integer") from None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        try:
            await self.cache.update(self.name(key), lambda data: data, type=bytes, ttl=life(ttl or None))
        except NoEntryError:
            return False
        return True

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(bool((await self.cache.invalidate(self.name(key))).existed))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        if not namespace:
            return (await self.cache.clear()).complete
        begin = escape_glob(self.cache.key.build("a", f"{namespace}:").partition(":")[2])
        return (await self.cache.delete_pattern(f"{begin}*")).complete

    async def _redlock_release(self, key: str, value: Any) -> int:
        found = await self.cache.lookup(self.name(key), type=bytes)
        if found.version is None or found.value != _encoded(value):
            return 0
        swapped = await self.cache.swap(self.name(key), b"", version=found.version, ttl=0, type=bytes)
        return int(swapped is not None)

    async def _close(self, *args: Any, _conn: Any = None, **kwargs: Any) -> None:
        closed, self.cache = self.cache, self.opened()  # it can be used again, aiocache says
        await closed.aclose()


def _encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _decoded(data: bytes | None, encoding: str | None) -> Any:
    return data if encoding is None or data is None else data.decode(encoding)
