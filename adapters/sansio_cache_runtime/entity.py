"""Entities: one kind of thing, whose name, type and policy are said once. What both colours share of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import attrs

from sansio_cache.errors import ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key, TagName
from sansio_cache.notices import OperationName
from sansio_cache.policy import Policy
from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.mutation import Mutation, plan_mutation
from sansio_cache_runtime.request_builder import AnyTtl, Id, RequestBuilder, listed
from sansio_cache_runtime.results import found


@attrs.frozen
class EntityPlan:
    """What is said once about the entries of an entity.

    Args:
        requests: The cache's request builder.
        name: The first part of their keys.
        type: What their values are.
        policy: How they are kept and loaded.
        loader: Called with an id.
        tags: Their generation, if the entity has them.
        refuse: Refuses what is no loader for the cache.
    """

    requests: RequestBuilder
    name: str
    type: Any
    policy: Policy
    loader: Callable[[Any], Any] | None
    tags: tuple[TagName, ...]
    refuse: Callable[[Any], object]

    def required_loader(self, loader: Callable[..., Any] | None) -> Callable[..., Any]:
        """The loader of a call, or the entity's.

        Raises:
            ConfigurationError: There is none, or it cannot be called.
        """
        if loader is not None:
            self.refuse(loader)
            return loader
        if self.loader is None:
            raise ConfigurationError(
                f"the entity {self.name!r} has no loader: pass one, or make it with loader=..."
            )
        return self.loader

    def get(self, id: Id) -> Step:
        """Begin to read one thing."""
        return self.requests.get(self.key(id), self.type)

    def get_or_load(
        self, id: Id, loader: Callable[..., Any] | None, args: Iterable[Any], tags: Iterable[str]
    ) -> tuple[Step, Callable[[], Any]]:
        """Begin to read or load one thing; also gives the loader with its arguments and the id."""
        load = partial(self.required_loader(loader), *args, id)
        names = self.tags_with(tags)
        return self.requests.get_or_load(self.key(id), load, self.type, self.policy, names, None), load

    def get_or_load_many(self, batch: EntityBatch, loader: Any, tags: Iterable[str]) -> Step:
        """Begin to read or load many things."""
        names = self.tags_with(tags)
        keys = batch.keys.values()
        _, step = self.requests.get_or_load_many(keys, loader, self.type, self.policy, names, None)
        return step

    def set(self, id: Id, value: Any, tags: Iterable[str]) -> Step:
        """Begin to store one thing."""
        names = self.tags_with(tags)
        _, step = self.requests.set_many(
            {self.key(id): value}, self.policy, names, self.type, OperationName.SET
        )
        return step

    def invalidate(self, ids: Iterable[Id]) -> Step:
        """Begin to remove things."""
        return self.requests.invalidate(self._some_keys("invalidate", ids))

    def invalidate_all(self) -> Step:
        """Begin to remove everything of the entity.

        Raises:
            ConfigurationError: It has no generations.
        """
        if not self.tags:
            raise ConfigurationError(
                f"the entity {self.name!r} has no generations: make it with generations=True, or use "
                "delete_pattern(cache.key.pattern(...))"
            )
        return self.requests.invalidate((), self.tags)

    def expire(self, ids: Iterable[Id]) -> Step:
        """Begin to make things stale."""
        return self.requests.expire(self._some_keys("expire", ids))

    def mutation(self, ids: Iterable[Id], tags: Iterable[str]) -> Mutation:
        """Plan a mutation of some things."""
        keys = [self.key(each) for each in self.requests.some("id", ids)]
        return plan_mutation(self.requests, keys, tags, self.tags, type=self.type, ttl=self.policy)

    def batch(self, ids: Iterable[Id]) -> EntityBatch:
        """Many things by their ids.

        Raises:
            InvalidKeyError: They are none, or too many.
        """
        return EntityBatch(self, {each: self.key(each) for each in self.requests.some("id", ids)})

    def tags_with(self, tags: Iterable[str]) -> tuple[str, ...]:
        """The tags of a call, with the entity's generation."""
        return (*self.tags, *listed("tags= takes", "tag", tags))

    def _some_keys(self, method: str, ids: Iterable[Id]) -> list[Key]:
        keys = [self.key(each) for each in ids]
        if not keys:
            raise InvalidKeyError(
                f"{method}() of the entity {self.name!r} names nothing: pass ids, as in {method}(7); "
                "invalidate_all() is for everything of an entity with generations"
            )
        return keys

    def key(self, id: Id) -> Key:
        """The key of one thing."""
        return self.requests.keys.build(self.name, id)


@attrs.frozen
class EntityBatch:
    """Many things that one call is about.

    Args:
        plan: The entity's.
        keys: Their keys, by their ids; two ids may be one key.
    """

    plan: EntityPlan
    keys: Mapping[Id, Key]
    _by_key: Mapping[str, Id] = attrs.field(
        init=False,
        default=attrs.Factory(lambda batch: {key: each for each, key in batch.keys.items()}, takes_self=True),
    )

    def ids(self, keys: Iterable[str]) -> list[Id]:
        """The ids that a loader is called with."""
        return [self._by_key[key] for key in keys]

    def by_keys(self, loaded: Any) -> Any:
        """What a loader gave for ids, by their keys. What is no id is left as it is: nobody asked for it."""
        if not isinstance(loaded, Mapping):
            return loaded
        named: dict[Any, Any] = {}
        for each, value in loaded.items():
            try:
                named[self.plan.key(each)] = value
            except InvalidKeyError:
                named[each] = value
        return named

    def found(self, outcome: Outcome) -> dict[Any, Any]:
        """What there is, by ids."""
        values = found(self._by_key, outcome)
        return {each: values[key] for each, key in self.keys.items() if key in values}


def plan_entity(
    requests: RequestBuilder,
    name: str,
    type: Any,
    ttl: AnyTtl | None,
    policy: Policy | None,
    loader: Any,
    *,
    generations: bool,
    refuse: Callable[[Any], object],
) -> EntityPlan:
    """Plan the entries of an entity; `refuse` is what the cache refuses loaders with.

    Raises:
        InvalidKeyError: The name cannot be one.
        ConfigurationError: The type, the policy or the loader cannot be used.
    """
    requests.keys.pattern(name)  # refuses a name that cannot be one
    requests.codec(type)
    if loader is not None:
        refuse(loader)
    tags = (requests.keys.generation(name),) if generations else ()
    return EntityPlan(requests, name, type, requests.chosen_policy(ttl, policy), loader, tags, refuse)
