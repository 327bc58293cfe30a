"""Entities for `anyio.Cache`: one kind of thing, whose name, type and policy are said once.

    users = cache.entity("user", User, ttl=HOT, loader=database.user, generations=True)
    user = await users.get_or_load(7)

Mirrors `entity_sync.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sansio_cache.keys import Key
from sansio_cache_runtime.anyio.driver import call
from sansio_cache_runtime.loaders import refuse_uncallable
from sansio_cache_runtime.request_builder import EntityPlan, Id, Mutation
from sansio_cache_runtime.results import InvalidateResult

if TYPE_CHECKING:
    from sansio_cache_redis.anyio import Cache

T = TypeVar("T")
D = TypeVar("D")


class AsyncEntity(Generic[T]):
    """A typed view of the entries of one entity. Made by `Cache.entity`."""

    def __init__(self, cache: Cache, plan: EntityPlan) -> None:
        """Use `Cache.entity`."""
        self._cache = cache
        self._requests = plan

    def key(self, id: Id) -> Key:
        """The key of one thing."""
        return self._cache.key.build(self._requests.name, id)

    @overload
    async def get(self, id: Id, default: None = None) -> T | None: ...
    @overload
    async def get(self, id: Id, default: D) -> T | D: ...
    async def get(self, id: Id, default: Any = None) -> Any:
        """The value of one thing, or the default: see `Cache.get`."""
        return await self._cache.get(self.key(id), default, type=self._requests.type)

    async def get_or_load(
        self, id: Id, loader: Callable[[Any], Any] | None = None, *, tags: Iterable[str] = ()
    ) -> T:
        """The value of one thing, from the loader where there is none: see `Cache.get_or_load`.

        Args:
            id: What tells it from others of its kind.
            loader: Called with the id; in place of the entity's.
            tags: What else it depends on.

        Raises:
            ConfigurationError: Neither this call nor the entity has a loader.
        """
        load = partial(self._requests.required_loader(loader), id)
        value: T = await self._cache.get_or_load(self.key(id), load, **self._requests.options(tags))
        return value

    async def get_or_load_many(
        self, ids: Iterable[Id], loader: Callable[[list[Any]], Any], *, tags: Iterable[str] = ()
    ) -> dict[Any, T]:
        """The values of many things, by their ids: see `Cache.get_or_load_many`.

        Args:
            ids: What tells them from others of their kind.
            loader: Called with the list of ids that it is to load; gives a mapping of ids to values.
            tags: What else they all depend on.
        """
        refuse_uncallable(loader)  # the entity's own is one of single things
        keys = self._requests.keys(ids)
        by_key: dict[str, Any] = {key: each for each, key in keys.items()}

        async def load_named(names: list[str]) -> Any:
            wanted = [by_key[name] for name in names]
            given = await call(partial(loader, wanted))
            return self._requests.named(given) if isinstance(given, Mapping) else given

        found = await self._cache.get_or_load_many(by_key, load_named, **self._requests.options(tags))
        return {each: found[key] for each, key in keys.items() if key in found}

    async def set(self, id: Id, value: T, *, tags: Iterable[str] = ()) -> bool:
        """Store the value of one thing: see `Cache.set`."""
        return await self._cache.set(self.key(id), value, **self._requests.options(tags))

    async def invalidate(self, *ids: Id) -> InvalidateResult:
        """Remove some things: see `Cache.invalidate`."""
        return await self._cache.invalidate(*(self.key(each) for each in ids))

    async def expire(self, *ids: Id) -> InvalidateResult:
        """Make some things stale: see `Cache.expire`."""
        return await self._cache.expire(*(self.key(each) for each in ids))

    async def invalidate_all(self) -> InvalidateResult:
        """Make everything of this entity a miss at once, at the price of one removal; with generations only.

        Loads in flight are fenced as well. The old entries stay in the store until they expire.

        Raises:
            ConfigurationError: The entity has no generations.
        """
        return await self._cache.invalidate(tags=self._requests.generation())

    def mutate(self, *ids: Id, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[Mutation]:
        """Hold some things while the block writes the database: see `Cache.mutate`.

        `mutation.set(entity.key(id), value)` stores a value as the entity does.

        Args:
            ids: What tells them from others of their kind.
            tags: Names of tags to invalidate at the end.
        """
        return self._cache._mutating(self._requests.mutation(ids, tags))  # noqa: SLF001 - of one package
