"""A cache of cachelib, which Flask-Caching and Flask-Session stand on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cachelib.base import BaseCache

from frameworks.bytes_store import OPTIONS, life
from sansio_cache import NoEntryError
from sansio_cache_redis.sync import Cache


class PickleSerializer:
    """As cachelib's own."""

    def dumps(self, value: Any) -> bytes:
        """The bytes of a value."""
        return pickle.dumps(value)

    def loads(self, data: bytes | None) -> Any:
        """The value, None where there is none."""
        return None if data is None else pickle.loads(data)


class SansioCache(BaseCache):
    """Its methods as cachelib documents them: a timeout of 0 is none."""

    serializer: Any = PickleSerializer()

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        ignore_delete_many_errors: bool = True,
        namespace: str = "cachelib",
    ) -> None:
        super().__init__(default_timeout, ignore_delete_many_errors)
        self.key_prefix = key_prefix or ""
        self.cache = Cache.from_url(url, namespace=namespace, **OPTIONS)

    def name(self, key: Any) -> str:
        """The key of an entry."""
        prefix = self.key_prefix() if callable(self.key_prefix) else self.key_prefix
        return self.cache.key.build("c", f"{prefix}{key() if callable(key) else key}")

    def lifetime(self, timeout: int | timedelta | None) -> Any:
        """How long an entry lives."""
        seconds = self._normalize_timeout(timeout)
        return life(None if seconds == 0 else seconds)

    def get(self, key: Any) -> Any:
        return self.serializer.loads(self.cache.get(self.name(key), type=bytes))

    def get_many(self, *keys: Any) -> list[Any]:
        names = [self.name(key) for key in keys]
        found = self.cache.get_many(names, type=bytes)
        return [self.serializer.loads(found.get(name)) for name in names]

    def set(self, key: Any, value: Any, timeout: int | timedelta | None = None) -> bool:
        data = self.serializer.dumps(value)
        return self.cache.set(self.name(key), data, ttl=self.lifetime(timeout), type=bytes)

    def add(self, key: Any, value: Any, timeout: int | timedelta | None = None) -> bool:
        data = self.serializer.dumps(value)
        return self.cache.add(self.name(key), data, ttl=self.lifetime(timeout), type=bytes)

    def set_many(self, mapping: dict[Any, Any], timeout: int | timedelta | None = None) -> list[Any]:
        names = {self.name(key): key for key in mapping}
        values = {name: self.serializer.dumps(mapping[key]) for name, key in names.items()}
        stored = self.cache.set_many(values, ttl=self.lifetime(timeout), type=bytes)
        return [key for name, key in names.items() if stored[name]]

    def delete(self, key: Any) -> bool:
        return bool(self.cache.invalidate(self.name(key)).existed)

    def delete_many(self, *keys: Any) -> list[Any]:
        if keys:
            self.cache.invalidate(*map(self.name, keys))
        return list(keys)

    def has(self, key: Any) -> bool:
        return self.cache.exists(self.name(key))

    def clear(self) -> bool:
        return self.cache.clear().complete

    def inc(self, key: Any, delta: int = 1) -> int:
        name = self.name(key)
        while True:
            try:
                return self._changed(name, delta)
            except NoEntryError:
                data = self.serializer.dumps(delta)
                if self.cache.add(name, data, ttl=self.lifetime(None), type=bytes):
                    return delta

    def _changed(self, name: str, delta: int) -> int:
        def more(data: bytes) -> bytes:
            return bytes(self.serializer.dumps(self.serializer.loads(data) + delta))

        return int(self.serializer.loads(self.cache.update(name, more, type=bytes)))

    def dec(self, key: Any, delta: int = 1) -> int:
        return self.inc(key, -delta)
