"""Typed views for asyncio and trio: a cache with the type bound first.

    users = cache.typed(User)
    user = await users.get_or_load("user:7", database.user, 7)

Mirrors `sync/typed.py`. With the type known before the call, type checkers see what they cannot see of
`type=`: a loader or a value of another type, and a loader that may give nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeAlias, TypeVar, TypeVarTuple, overload

from sansio_cache.loader import Absent, Fresh, LoadContext
from sansio_cache.lookup import Lookup
from sansio_cache.operations.update import Amount
from sansio_cache.policy import Policy
from sansio_cache_runtime.request_builder import AnyTtl
from sansio_cache_runtime.results import InvalidateResult
from sansio_cache_runtime.typed import TypedView

T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

Given: TypeAlias = Awaitable[T | Fresh[T]] | T | Fresh[T]
"""What a loader of values gives."""
GivenOrNothing: TypeAlias = Awaitable[T | Fresh[T] | Absent | None] | T | Fresh[T] | Absent | None
"""The same of one that may give nothing."""
GivenMany: TypeAlias = (
    Mapping[str, T | Fresh[T] | Absent | None] | Awaitable[Mapping[str, T | Fresh[T] | Absent | None]]
)
"""What a loader of many keys gives."""
Changing: TypeAlias = Callable[[T], T] | Callable[[T], Awaitable[T]]
"""What changes a value."""


class Typed(TypedView, Generic[T]):
    """A cache whose values are all of one type. Made by `Cache.typed`."""

    @overload
    async def get(self, key: str, default: None = None, *, renew: AnyTtl | None = None) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, renew: AnyTtl | None = None) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, renew: AnyTtl | None = None) -> Any:
        """The value of a key, or the default: see `Cache.get`."""
        return await self._cache.get(key, default, type=self._type, renew=renew)

    async def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """The values of those keys that have one: see `Cache.get_many`."""
        values: dict[str, T] = await self._cache.get_many(keys, type=self._type)
        return values

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Given[T]],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], Given[T]],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], GivenOrNothing[T]],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T | None: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], GivenOrNothing[T]],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T | None: ...
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Any] | Callable[..., Any],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T | None:
        """The value of a key, from the loader where there is none: see `Cache.get_or_load`."""
        value: T | None = await self._cache.get_or_load(
            key, loader, *args, type=self._type, ttl=ttl, tags=tags, policy=policy
        )
        return value

    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[*Ts, list[str]], GivenMany[T]],
        *args: *Ts,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, T]:
        """The values of many keys, by one call of the loader: see `Cache.get_or_load_many`."""
        values: dict[str, T] = await self._cache.get_or_load_many(
            keys, loader, *args, type=self._type, ttl=ttl, tags=tags, policy=policy
        )
        return values

    async def set(
        self,
        key: str,
        value: T | None,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        strict: bool = False,
    ) -> bool:
        """Store a value. True if it was stored: see `Cache.set`."""
        is_stored: bool = await self._cache.set(
            key, value, ttl=ttl, tags=tags, type=self._type, strict=strict
        )
        return is_stored

    async def set_many(
        self,
        values: Mapping[str, T | None],
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        strict: bool = False,
    ) -> dict[str, bool]:
        """Store values; says of each key whether it was stored: see `Cache.set_many`."""
        are_stored: dict[str, bool] = await self._cache.set_many(
            values, ttl=ttl, tags=tags, type=self._type, strict=strict
        )
        return are_stored

    async def lookup(self, key: str) -> Lookup[T]:
        """What an entry is like: see `Cache.lookup`."""
        found: Lookup[T] = await self._cache.lookup(key, type=self._type)
        return found

    async def add(self, key: str, value: T, *, ttl: AnyTtl | None = None, tags: Iterable[str] = ()) -> bool:
        """Store a value where there is none. True if this call has stored it: see `Cache.add`."""
        is_ours: bool = await self._cache.add(key, value, ttl=ttl, tags=tags, type=self._type)
        return is_ours

    async def swap(self, key: str, value: T, *, version: bytes, ttl: AnyTtl | None = None) -> bytes | None:
        """Replace a value, if it is still the one of this version: see `Cache.swap`."""
        later: bytes | None = await self._cache.swap(key, value, version=version, ttl=ttl, type=self._type)
        return later

    async def update(self, key: str, function: Changing[T], *, ttl: AnyTtl | None = None) -> T:
        """Change a value by a function of it; the new value: see `Cache.update`."""
        value: T = await self._cache.update(key, function, type=self._type, ttl=ttl)
        return value

    async def incr(self, key: str, amount: Amount = 1, *, ttl: AnyTtl | None = None) -> T:
        """Add to a number; the new one: see `Cache.incr`."""
        value: T = await self._cache.incr(key, amount, type=self._type, ttl=ttl)
        return value

    async def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> InvalidateResult:
        """Remove keys, and everything that has one of the tags: see `Cache.invalidate`."""
        result: InvalidateResult = await self._cache.invalidate(*keys, tags=tags)
        return result

    async def expire(self, *keys: str) -> InvalidateResult:
        """Make values stale at once: see `Cache.expire`."""
        result: InvalidateResult = await self._cache.expire(*keys)
        return result

    def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[None]:
        """Invalidate when the block has ended: see `Cache.invalidating`."""
        block: AbstractAsyncContextManager[None] = self._cache.invalidating(*keys, tags=tags)
        return block
