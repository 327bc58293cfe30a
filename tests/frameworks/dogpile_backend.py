"""A backend of dogpile.cache, with a lock for all processes: `frameworks.dogpile` once this is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend

from frameworks.bytes_store import OPTIONS, life
from sansio_cache import CacheTimeoutError
from sansio_cache_redis.sync import Cache


class SansioBackend(BytesBackend):
    """Its arguments are those of dogpile's own for Redis, but for where the server is."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.cache = Cache.from_url(
            arguments.get("url", "redis://localhost:6379"),
            namespace=arguments.get("namespace", "dogpile"),
            **OPTIONS,
        )
        self.lifetime = life(arguments.get("redis_expiration_time"))
        self.has_lock = arguments.get("distributed_lock", False)
        self.lock_timeout = arguments.get("lock_timeout")
        self.lock_prefix = arguments.get("lock_prefix", "_lock")

    def name(self, key: str) -> str:
        """The key of an entry."""
        return self.cache.key.build("e", key)

    def has_lock_timeout(self) -> bool:
        return self.lock_timeout is not None

    def get_mutex(self, key: str) -> Mutex | None:
        return Mutex(self.cache, f"{self.lock_prefix}{key}", self.lock_timeout) if self.has_lock else None

    def get_serialized(self, key: str) -> Any:
        found = self.cache.get(self.name(key), type=bytes)
        return NO_VALUE if found is None else found

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        names = [self.name(key) for key in keys]
        found = self.cache.get_many(names, type=bytes)
        return [found.get(name, NO_VALUE) for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        self.cache.set(self.name(key), value, ttl=self.lifetime, type=bytes)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        named = {self.name(key): value for key, value in mapping.items()}
        self.cache.set_many(named, ttl=self.lifetime, type=bytes)

    def delete(self, key: str) -> None:
        self.cache.invalidate(self.name(key))

    def delete_multi(self, keys: Iterable[str]) -> None:
        if names := [self.name(key) for key in keys]:
            self.cache.invalidate(*names)


class Mutex:
    """A lock as dogpile takes and gives it back: not always in one thread."""

    def __init__(self, cache: Cache, name: str, lease_s: float | None) -> None:
        self.cache = cache
        self.lock_name = name
        self.lease_s = lease_s or 10.0
        self.held: AbstractContextManager[Any] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take it; True if it is ours now."""
        held = self.cache.lock(self.lock_name, self.lease_s, wait_s=None if wait else 0.0)
        try:
            held.__enter__()
        except CacheTimeoutError:
            if wait:
                raise
            return False
        self.held = held
        return True

    def release(self) -> None:
        """Give it back."""
        held, self.held = self.held, None
        if held is not None:
            held.__exit__(None, None, None)

    def locked(self) -> bool:
        """Whether somebody has it."""
        if not self.acquire(wait=False):
            return True
        self.release()
        return False


register_backend("frameworks.dogpile", "frameworks.dogpile_backend", "SansioBackend")
