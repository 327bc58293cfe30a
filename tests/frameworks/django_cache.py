"""Django's cache backend.

CACHES = {"default": {"BACKEND": "frameworks.django_cache.SansioCache", "LOCATION": "redis://localhost:6379",
                      "OPTIONS": {"namespace": "shop"}}}
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from frameworks.bytes_store import OPTIONS, life
from sansio_cache import NoEntryError
from sansio_cache_redis.sync import Cache

_NONE: Final = object()


@cache
def opened(location: str, namespace: str) -> Cache:
    """One cache for each place: Django makes a backend for each thread."""
    return Cache.from_url(location, namespace=namespace, **OPTIONS)


class SansioCache(BaseCache):
    """A backend whose entries are pickled, as those of Django's own."""

    def __init__(self, location: str, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.cache = opened(location, params.get("OPTIONS", {}).get("namespace", "django"))

    def name(self, key: Any, version: int | None = None) -> str:
        """The key of an entry. What Django allows in one is escaped."""
        made: str = self.make_and_validate_key(key, version=version)
        return self.cache.key.build("d", made)

    def lifetime_s(self, timeout: Any) -> float | None:
        """A timeout in seconds, at least 0; None for ever."""
        timeout = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return None if timeout is None else max(float(timeout), 0.0)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        found = self.cache.get(self.name(key, version), type=bytes)
        return default if found is None else pickle.loads(found)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        name, lifetime_s = self.name(key, version), self.lifetime_s(timeout)
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self.cache.set(name, data, ttl=life(lifetime_s), type=bytes)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, lifetime_s = self.name(key, version), self.lifetime_s(timeout)
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if lifetime_s == 0:
            return not self.cache.exists(name)
        return self.cache.add(name, data, ttl=life(lifetime_s), type=bytes)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, lifetime_s = self.name(key, version), self.lifetime_s(timeout)
        try:  # it may be to live for less, and a touch lets nothing live for less
            self.cache.update(name, lambda data: data, type=bytes, ttl=life(lifetime_s))
        except NoEntryError:
            return False
        return True

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(self.cache.invalidate(self.name(key, version)).existed)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self.cache.exists(self.name(key, version))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        def more(data: bytes) -> bytes:
            return pickle.dumps(pickle.loads(data) + delta, pickle.HIGHEST_PROTOCOL)

        try:
            return pickle.loads(self.cache.update(self.name(key, version), more, type=bytes))
        except NoEntryError:
            raise ValueError(f"Key {key!r} not found") from None

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        names = {self.name(key, version): key for key in keys}
        found = self.cache.get_many(names, type=bytes)
        return {names[name]: pickle.loads(data) for name, data in found.items()}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        names, lifetime_s = {self.name(key, version): key for key in data}, self.lifetime_s(timeout)
        if not names:
            return []
        values = {name: pickle.dumps(data[key], pickle.HIGHEST_PROTOCOL) for name, key in names.items()}
        stored = self.cache.set_many(values, ttl=life(lifetime_s), type=bytes)
        return [key for name, key in names.items() if not stored[name] and lifetime_s != 0]

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        names = [self.name(key, version) for key in keys]
        if names:
            self.cache.invalidate(*names)

    def clear(self) -> bool:
        return self.cache.clear().complete
