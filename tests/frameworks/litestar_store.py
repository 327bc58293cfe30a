"""A store of Litestar: for sessions, caches of responses, rate limits."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType

from litestar.stores.base import NamespacedStore

from frameworks.bytes_store import is_forever, life
from sansio_cache import NO_JITTER, Policy, escape_glob
from sansio_cache.ttl import MAX_TTL_S
from sansio_cache_redis.anyio import Cache


class SansioStore(NamespacedStore):
    """A store in a namespace of its own, below the namespace of a cache that was made with `OPTIONS`."""

    __slots__ = ("cache", "owns_cache")

    def __init__(self, cache: Cache, namespace: str = "LITESTAR", *, owns_cache: bool = True) -> None:
        self.cache = cache
        self.namespace = namespace
        self.owns_cache = owns_cache

    def with_namespace(self, namespace: str) -> SansioStore:
        return SansioStore(self.cache, f"{self.namespace}_{namespace}", owns_cache=False)

    def name(self, key: str) -> str:
        """The key of an entry."""
        return self.cache.key.build(self.namespace, key)

    async def set(self, key: str, value: str | bytes, expires_in: int | timedelta | None = None) -> None:
        data = value.encode() if isinstance(value, str) else value
        await self.cache.set(self.name(key), data, ttl=life(expires_in), type=bytes)

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        if renew_for is None:
            return await self.cache.get(self.name(key), type=bytes)
        policy = Policy(ttl=life(renew_for).ttl_s, jitter=NO_JITTER, max_life_s=MAX_TTL_S)
        return await self.cache.get(self.name(key), type=bytes, renew=policy)

    async def delete(self, key: str) -> None:
        await self.cache.invalidate(self.name(key))

    async def delete_all(self) -> None:
        for end in (":*", "_*"):  # its own entries, and those of namespaces below
            await self.cache.delete_pattern(escape_glob(self.namespace) + end)

    async def exists(self, key: str) -> bool:
        return await self.cache.exists(self.name(key))

    async def expires_in(self, key: str) -> int | None:
        remaining_s = await self.cache.ttl(self.name(key))
        if remaining_s is None:
            return None
        return -1 if is_forever(remaining_s) else int(remaining_s)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self.owns_cache:
            await self.cache.aclose()
