"""Entities for threads: one kind of thing, whose name, type and policy are said once.

    users = cache.entity("user", User, ttl=HOT, loader=database.user, generations=True)
    user = users.get_or_load(7)

Mirrors `anyio/entity.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, TypeVarTuple, overload

from sansio_cache.keys import Key
from sansio_cache.step import Outcome
from sansio_cache_runtime.entity import EntityPlan
from sansio_cache_runtime.mutation import Mutation
from sansio_cache_runtime.request_builder import Id
from sansio_cache_runtime.results import InvalidateResult, invalidated, loaded, read, stored
from sansio_cache_runtime.travelling import entity_again

T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")


class Entity(Generic[T]):
    """A typed view of the entries of one entity. Made by `Cache.entity`."""

    def __init__(
        self,
        plan: EntityPlan,
        run: Callable[..., Outcome],
        mutating: Callable[[Mutation], AbstractContextManager[Mutation]],
        *,
        raises: bool,
    ) -> None:
        """Use `Cache.entity`."""
        self._plan = plan
        self._run = run
        self._mutating = mutating
        self._raises_not_told = raises

    def __reduce__(self) -> tuple[Any, ...]:
        """An entity is made again from its cache, by pickle and by copy: see `Cache`."""
        return entity_again(self._plan, self._run)

    def key(self, id: Id) -> Key:
        """The key of one thing."""
        return self._plan.key(id)

    @overload
    def get(self, id: Id, default: None = None) -> T | None: ...
    @overload
    def get(self, id: Id, default: D) -> T | D: ...
    def get(self, id: Id, default: Any = None) -> Any:
        """The value of one thing, or the default: see `Cache.get`."""
        return read(self._run(self._plan.get(id)), default)

    def get_or_load(
        self,
        id: Id,
        loader: Callable[[*Ts, Any], Any] | None = None,
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> T:
        """The value of one thing, from the loader where there is none: see `Cache.get_or_load`.

        Args:
            id: What tells it from others of its kind.
            loader: Called with `args` and the id; in place of the entity's.
            args: What it is called with before the id.
            tags: What else it depends on.

        Raises:
            ConfigurationError: Neither this call nor the entity has a loader.
        """
        step, load = self._plan.get_or_load(id, loader, args, tags)
        value: T = loaded(self._run(step, load))
        return value

    def get_or_load_many(
        self,
        ids: Iterable[Id],
        loader: Callable[[*Ts, list[Any]], Any],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> dict[Any, T]:
        """The values of many things, by their ids: see `Cache.get_or_load_many`.

        Args:
            ids: What tells them from others of their kind.
            loader: Called with `args` and the list of ids that it is to load; it gives a mapping of these to
                values.
            args: What it is called with before the ids.
            tags: What else they all depend on.
        """
        self._plan.refuse(loader)  # the entity's own is one of single things
        batch = self._plan.batch(ids)

        def load(names: list[str]) -> Any:
            return batch.by_keys(loader(*args, batch.ids(names)))

        return batch.found(self._run(self._plan.get_or_load_many(batch, load, tags), load))

    def set(self, id: Id, value: T, *, tags: Iterable[str] = ()) -> bool:
        """Store the value of one thing: see `Cache.set`."""
        return stored((id,), self._run(self._plan.set(id, value, tags)))[id]

    def invalidate(self, *ids: Id) -> InvalidateResult:
        """Remove some things: see `Cache.invalidate`."""
        return invalidated(self._run(self._plan.invalidate(ids)), raises=self._raises_not_told)

    def expire(self, *ids: Id) -> InvalidateResult:
        """Make some things stale: see `Cache.expire`."""
        return invalidated(self._run(self._plan.expire(ids)), raises=self._raises_not_told)

    def invalidate_all(self) -> InvalidateResult:
        """Make everything of this entity a miss at once, at the price of one removal; with generations only.

        Loads in flight are fenced as well. The old entries stay in the store until they expire.

        Raises:
            ConfigurationError: The entity has no generations.
        """
        return invalidated(self._run(self._plan.invalidate_all()), raises=self._raises_not_told)

    def mutate(self, *ids: Id, tags: Iterable[str] = ()) -> AbstractContextManager[Mutation]:
        """Hold some things while the block writes the database: see `Cache.mutate`.

        `mutation.set(entity.key(id), value)` stores a value as the entity does.

        Args:
            ids: What tells them from others of their kind.
            tags: Names of tags to invalidate at the end.
        """
        return self._mutating(self._plan.mutation(ids, tags))
