"""Functions whose calls are cached, for asyncio and trio.

    @cache.cached("user:{id}", ttl=HOT)
    async def user(id: int) -> User: ...

    await user(7)
    await user.invalidate(7)

Mirrors `sync/cached.py`. A decorated function is a coroutine function to all who ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from sansio_cache.keys import Key, KeyBuilder
from sansio_cache.loader import Absent, Fresh
from sansio_cache_runtime.anyio.loaders import call_loader, load_each
from sansio_cache_runtime.cached import DecoratedFunction
from sansio_cache_runtime.loaders import refuse_uncallable
from sansio_cache_runtime.results import InvalidateResult

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
S = TypeVar("S")


async def _coroutine_function() -> None:
    """What `inspect` is shown for a decorated function."""


class CallsOf(Protocol):
    """What a decorated function asks of its cache."""

    @property
    def key(self) -> KeyBuilder:
        """Builds its keys."""
        ...

    @property
    def get_or_load(self) -> Callable[..., Any]:
        """Gives a value, or calls the function for it."""
        ...

    @property
    def get_or_load_many(self) -> Callable[..., Any]:
        """The same for many."""
        ...

    @property
    def invalidate(self) -> Callable[..., Any]:
        """Removes values."""
        ...

    @property
    def invalidating(self) -> Callable[..., Any]:
        """Removes them after a block."""
        ...


class CachedFunction(DecoratedFunction[CallsOf], Generic[P, R]):
    """A function whose calls are cached. Made by `Cache.cached`; on an instance it is a method."""

    refuse = staticmethod(refuse_uncallable)

    # By these `inspect` knows a coroutine function, as it knows those that are compiled.
    __code__ = _coroutine_function.__code__
    __defaults__ = None
    __kwdefaults__ = None

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function gives, from the cache where it is there: see `Cache.get_or_load`.

        Where the function gives None or `Absent`, that is None.

        Raises:
            InvalidKeyError: An argument has no text, or no form, that tells it from every other.
            Exception: What the function raises, unchanged.
        """
        cache, policy, declared, key, load, given = self._call(args, kwargs)
        value: R = await cache.get_or_load(key, load, *given, type=declared, ttl=policy, tags=self._plan.tags)
        return value

    @overload
    def __get__(
        self: CachedFunction[Concatenate[type[S], Q], R], instance: S | None, owner: type[S]
    ) -> CachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: Any) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: Any
    ) -> CachedFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self._of(instance, owner)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of a call."""
        return self._call(args, kwargs)[3]

    async def uncached(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function itself gives. The cache is neither asked nor told."""
        value: R = await call_loader(partial(self._plan.function, *self._receiver, *args, **kwargs))
        return value

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> InvalidateResult:
        """Remove what was cached of a call: see `Cache.invalidate`."""
        cache, _, _, key, *_ = self._call(args, kwargs)
        result: InvalidateResult = await cache.invalidate(key)
        return result

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function anew, and cache what it gives. Who asks meanwhile waits for it."""
        await self.invalidate(*args, **kwargs)
        return await self(*args, **kwargs)

    def invalidating(self, *args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[None]:
        """Remove what was cached of a call when the block has ended: see `Cache.invalidating`."""
        cache, _, _, key, *_ = self._call(args, kwargs)
        block: AbstractAsyncContextManager[None] = cache.invalidating(key)
        return block

    async def many(self, calls: Iterable[Any]) -> dict[Any, R]:
        """What the function gives for many arguments, by these; one round trip for what is cached.

        The function is called for each that is missing. Where it gives None or `Absent`, the answer has
        nothing.

        Args:
            calls: Arguments, for a function of one; on an instance, for a method of one.
        """
        cache, policy, declared, given = self._keys(calls)

        async def load(keys: list[str]) -> dict[str, Any]:
            return await load_each(
                {key: partial(self._plan.function, *self._receiver, given[key]) for key in keys}
            )

        found = await cache.get_or_load_many(given, load, type=declared, ttl=policy, tags=self._plan.tags)
        return {given[key]: value for key, value in found.items()}


class Decorator(Protocol):
    """Decorates functions, class methods and static methods."""

    @overload
    def __call__(self, function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, Coroutine[Any, Any, R]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[Fresh[R]]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[P, Awaitable[Fresh[R] | Absent | None]], /
    ) -> CachedFunction[P, R | None]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Fresh[R]], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Fresh[R] | Absent | None], /) -> CachedFunction[P, R | None]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        """The function, cached."""
        ...
