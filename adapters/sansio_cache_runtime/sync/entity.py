"""Entities for threads: one kind of thing, whose name, type, strategy and functions are said once.

    users = cache.entity("user", User, id="id", loader=database.user, writer=database.save)
    user = users.get_or_load(7)
    users.write(user)

Mirrors `anyio/entity.py`.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar, TypeVarTuple, overload

from sansio_cache.errors import NotStoredError
from sansio_cache.keys import Key
from sansio_cache.loader import Absent, Fresh
from sansio_cache.lookup import Lookup
from sansio_cache.step import Outcome
from sansio_cache.strategies import WriteBehind
from sansio_cache_runtime.entity import (
    EntityBatch,
    EntityMutation,
    EntityPlan,
)
from sansio_cache_runtime.loaders import call_blocking
from sansio_cache_runtime.mutation import Writing
from sansio_cache_runtime.request_builder import AnyTtl, Id
from sansio_cache_runtime.results import InvalidateResult, WriteResult, invalidated, refuse_reasons
from sansio_cache_runtime.sync.queue import Queue
from sansio_cache_runtime.sync.typed import Given, GivenOrNothing, Typed
from sansio_cache_runtime.travelling import entity_again

T = TypeVar("T")
S = TypeVar("S")
D = TypeVar("D")
Q = TypeVar("Q", bound=str | Mapping[str, object])
IdT = TypeVar("IdT", bound=Id)
Ts = TypeVarTuple("Ts")

_MISSING: Final = object()

GivenById: TypeAlias = Mapping[Any, T | Fresh[T] | Absent | None]
"""What a loader of many things gives, by their ids."""


class Entity(Generic[T]):
    """A typed view of the entries of one entity, which go by their ids. Made by `Cache.entity`."""

    def __init__(
        self,
        plan: EntityPlan,
        cache: Any,
        run: Callable[..., Outcome],
        mutating: Callable[[Any], AbstractContextManager[Any]],
        *,
        raises: bool,
    ) -> None:
        """Use `Cache.entity`."""
        self._plan = plan
        self._cache = cache
        self._values: Typed[T] = cache.typed(plan.type)
        self._run = run
        self._mutating = mutating
        self._raises_not_told = raises
        self._loader = plan.loader or (self._load_one if plan.load_many else None)
        self._load_many = plan.load_many or (self._load_each if plan.loader else None)
        self._queue: Queue[T] | None = None
        if isinstance(plan.strategy, WriteBehind):
            queue = self._queue = Queue(plan.queue(), cache, run)
            self._look_first = partial(queue.look_first, plan.key)
            self._look_first_many = partial(queue.look_first_many, plan.key)
            self._loader = self._loader and partial(self._look_first, self._loader)
            self._load_many = self._load_many and partial(self._look_first_many, self._load_many)

    def __reduce__(self) -> tuple[Any, ...]:
        """An entity is made again from its cache, by pickle and by copy: see `Cache`."""
        return entity_again(self._plan, self._cache)

    def __repr__(self) -> str:
        return f"<entity {self._plan.name!r} of {self._cache!r}>"

    def key(self, id: Id) -> Key:
        """The key of one thing."""
        return self._plan.key(id)

    @property
    def queue(self) -> Queue[T]:
        """The queue of an entity that writes behind.

        Raises:
            ConfigurationError: It does not.
        """
        if self._queue is None:
            raise self._plan.no_queue()
        return self._queue

    def list_key(self, query: str | Mapping[str, object]) -> Key:
        """The key of the answer to a query."""
        return self._plan.list_key(query)

    # Reading.

    @overload
    def get(self, id: Id, default: None = None, *, renew: AnyTtl | None = None) -> T | None: ...
    @overload
    def get(self, id: Id, default: D, *, renew: AnyTtl | None = None) -> T | D: ...
    def get(self, id: Id, default: Any = None, *, renew: AnyTtl | None = None) -> Any:
        """The value of one thing, or the default: see `Cache.get`.

        Of one that writes behind, a queued value counts.

        Args:
            id: What tells it from others of its kind.
            default: What to give where there is no fresh value.
            renew: Let the value that is read live longer, as `touch` does: for so long from now.
        """
        if self._queue is None:
            return self._values.get(self._plan.key(id), default, renew=renew)
        key = self._plan.key(id)
        found = self._values.get(key, _MISSING, renew=renew)
        if found is not _MISSING:
            return found
        waiting = self._queue.peek((key,))
        return waiting.get(key, default)

    def lookup(self, id: Id) -> Lookup[T]:
        """What the entry of one thing is like: see `Cache.lookup`. What is queued is not looked at."""
        return self._values.lookup(self._plan.key(id))

    @overload
    def get_many(self: Entity[S | None], ids: Iterable[IdT]) -> dict[IdT, S]: ...
    @overload
    def get_many(self, ids: Iterable[IdT]) -> dict[IdT, T]: ...
    def get_many(self, ids: Iterable[Any]) -> Any:
        """The values of those things that have one, by their ids, in one round trip: see `Cache.get_many`."""
        keys = self._plan.keys_by_id(ids)
        found = self._values.get_many(keys.values())
        if self._queue is not None and (missing := [key for key in keys.values() if key not in found]):
            found |= self._queue.peek(missing)
        return {each: found[key] for each, key in keys.items() if key in found}

    @overload
    def get_or_load(self, id: Id, loader: None = None, *args: Any, tags: Iterable[str] = ()) -> T: ...
    @overload
    def get_or_load(
        self: Entity[S | None],
        id: Id,
        loader: Callable[[*Ts, Any], Given[S]],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> S: ...
    @overload
    def get_or_load(
        self, id: Id, loader: Callable[[*Ts, Any], Given[T]], *args: *Ts, tags: Iterable[str] = ()
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        id: Id,
        loader: Callable[[*Ts, Any], GivenOrNothing[T]],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> T | None: ...
    def get_or_load(
        self,
        id: Id,
        loader: Callable[[*Ts, Any], Any] | Callable[..., Any] | None = None,
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> Any:
        """The value of one thing, from the loader where there is none: see `Cache.get_or_load`.

        Args:
            id: What tells it from others of its kind.
            loader: Called with `args` and the id; in place of the entity's.
            args: What it is called with before the id.
            tags: What else it depends on.

        Raises:
            ConfigurationError: Neither this call nor the entity has a loader.
        """
        plan = self._plan
        load: Any = self._loader if loader is None else loader
        if load is None:
            raise plan.no_loader()
        if loader is not None and self._queue is not None:
            plan.refuse(loader, "loader")
            load = partial(self._look_first, loader)
        # Past the view, and without a call for what is always the same: that is a fifth of a hit.
        names = plan.static_tags if tags == () else None
        if names is None:
            names = plan.tags_of(id, tags)
        return self._cache.get_or_load(
            plan.key(id), load, *args, id, type=plan.type, policy=plan.policy, tags=names
        )

    @overload
    def get_or_load_many(
        self: Entity[S | None],
        ids: Iterable[IdT],
        loader: None = None,
        *args: Any,
        tags: Iterable[str] = (),
    ) -> dict[IdT, S]: ...
    @overload
    def get_or_load_many(
        self, ids: Iterable[IdT], loader: None = None, *args: Any, tags: Iterable[str] = ()
    ) -> dict[IdT, T]: ...
    @overload
    def get_or_load_many(
        self: Entity[S | None],
        ids: Iterable[IdT],
        loader: Callable[[*Ts, builtins.list[Any]], GivenById[S]],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> dict[IdT, S]: ...
    @overload
    def get_or_load_many(
        self,
        ids: Iterable[IdT],
        loader: Callable[[*Ts, builtins.list[Any]], GivenById[T]],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> dict[IdT, T]: ...
    def get_or_load_many(
        self,
        ids: Iterable[Any],
        loader: Callable[[*Ts, builtins.list[Any]], Any] | Callable[..., Any] | None = None,
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> Any:
        """The values of many things, by their ids: see `Cache.get_or_load_many`.

        Args:
            ids: What tells them from others of their kind. Those with other tags are loaded after the others.
            loader: Called with `args` and the list of ids that it is to load, in place of the entity's; it
                gives a mapping of these to values.
            args: What it is called with before the ids.
            tags: What else they all depend on.

        Raises:
            ConfigurationError: Neither this call nor the entity has a loader.
        """
        plan = self._plan
        load_many = plan.loader_or(loader, self._load_many)
        if loader is not None and self._queue is not None:
            load_many = partial(self._look_first_many, loader)
        found: dict[Any, T] = {}
        for batch in plan.batches(ids, tags):
            load = partial(self._load_batch, batch, partial(load_many, *args))
            keys = batch.keys.values()
            values = self._values.get_or_load_many(keys, load, policy=plan.policy, tags=batch.tags)
            found |= batch.found(values)
        return found

    def list(
        self,
        query: Q,
        loader: Callable[[*Ts, Q], Given[builtins.list[T]]],
        *args: *Ts,
        tags: Iterable[str] = (),
    ) -> builtins.list[T]:
        """The answer to a query, from the loader where there is none: see `Cache.get_or_load`.

        It is kept as things of this kind are, and never older than the last write through the entity: each
        invalidates all lists of it, as a new generation does.

        Args:
            query: What tells it from other lists: a str, or a mapping, whose order does not matter; see
                `KeyBuilder.list_key`.
            loader: Called with `args` and the query; it gives a list.
            args: What it is called with before the query.
            tags: What else it depends on.
        """
        plan = self._plan
        values: builtins.list[T] = self._cache.get_or_load(
            plan.list_key(query),
            loader,
            *args,
            query,
            type=plan.list_type,
            policy=plan.policy,
            tags=plan.tags_of_lists(tags),
        )
        return values

    def refresh(self, id: Id, *, tags: Iterable[str] = ()) -> T:
        """Load one thing anew, and store it. Who asks for it meanwhile waits for that.

        Raises:
            ConfigurationError: The entity has no loader.
        """
        if self._loader is None:
            raise self._plan.no_loader()
        self.invalidate(id)
        return self.get_or_load(id, tags=tags)

    # Writing.

    @overload
    def write(
        self, value: T, /, *, id: Id | None = None, ttl: AnyTtl | None = None, tags: Iterable[str] = ()
    ) -> WriteResult: ...
    @overload
    def write(
        self, id: Id, value: T, /, *, ttl: AnyTtl | None = None, tags: Iterable[str] = ()
    ) -> WriteResult: ...
    def write(
        self, *given: Any, id: Id | None = None, ttl: AnyTtl | None = None, tags: Iterable[str] = ()
    ) -> WriteResult:
        """Write one thing to the database, and then settle its key as the strategy says.

            users.write(user)
            users.write(7, user)

        The key is held while the writer runs: readers load, and do not store. When it has committed, the
        value is stored (`WriteThrough`), or the key invalidated. Where it raises, the key is invalidated, as
        it may have committed; what it raises goes on. Lists are invalidated in any case.

        With `WriteBehind` the value is queued, and the writer called later, by a consumer. When this returns,
        no reader through the entity gets an older value.

        Args:
            given: The value; or its id, and the value.
            id: The id, where the value is given by itself and the entity does not know where values have it.
            ttl: How long the value stays fresh, in place of what the entity says.
            tags: Names of tags to invalidate at the end.

        Raises:
            ConfigurationError: The entity has no writer, or does not know the id; the writer has not run.
            InvalidKeyError: The id or a tag cannot be one; the writer has not run.
            SerializationError: The value would not come back equal, and is to be stored; the writer has not
                run.
            CacheConnectionError: The store could not be told, and the policy says to raise. The database has
                the value, and what is to be told is remembered. With `WriteBehind`: the store does not serve,
                and nothing is queued.
            CacheTimeoutError: With `WriteBehind`: the queue is full. Nothing is queued.
            UnknownOutcomeError: With `WriteBehind`: an answer of the store was lost.
            Exception: What the writer raises, unchanged.
        """
        if self._queue is not None:
            which, value = self._plan.one_given("write", given, id)
            return self._queue.write({self._plan.key(which): value}, tags)
        return self._write(self._plan.writing(given, id, tags, ttl))

    def write_many(
        self,
        values: Iterable[T] | Mapping[Any, T],
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
    ) -> WriteResult:
        """Write many things to the database, and then settle their keys as the strategy says: see `write`.

        All of them are held while `write_many=` of the entity is called once; or else `writer=`, for each.

        Args:
            values: Values; or a mapping of ids to values.
            ttl: How long the values stay fresh, in place of what the entity says.
            tags: Names of tags to invalidate at the end.

        Raises:
            UnknownOutcomeError: With `WriteBehind`, beside what `write` says: some are queued and others are
                not. It names their keys.
            Exception: As `write`.
        """
        if self._queue is not None:
            return self._queue.write(self._plan.by_key(values), tags)
        writing = self._plan.writing_many(values, tags, ttl)
        return writing if isinstance(writing, WriteResult) else self._write(writing)

    @overload
    def set(
        self, value: T, /, *, ttl: AnyTtl | None = None, tags: Iterable[str] = (), strict: bool = False
    ) -> bool: ...
    @overload
    def set(
        self,
        id: Id,
        value: T,
        /,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        strict: bool = False,
    ) -> bool: ...
    def set(
        self, *given: Any, ttl: AnyTtl | None = None, tags: Iterable[str] = (), strict: bool = False
    ) -> bool:
        """Store the value of one thing, which the database has, and invalidate all lists: see `Cache.set`.

        With `WriteBehind` it waits until nothing is queued for it any more; False may also say that something
        was queued meanwhile.

        Args:
            given: The value; or its id, and the value.
            ttl: How long it stays fresh, in place of what the entity says.
            tags: What else it depends on.
            strict: Raise where nothing was stored, and say why, instead of giving False. The lists are
                invalidated all the same.

        Raises:
            NotStoredError: Nothing was stored, and `strict` asks to be told: its `reason` says why.
            Exception: As `Cache.set`.
        """
        plan = self._plan
        which, value = plan.one_given("set", given, None)
        if self._queue is not None:
            mutation = self._set_settled(self._queue, which, value, ttl, tags)
            if strict:
                refuse_reasons(mutation.unstored)
            return bool(mutation.stored)
        names, kept_for = plan.tags_of(which, tags), plan.kept(ttl)
        try:
            is_stored = self._values.set(plan.key(which), value, ttl=kept_for, tags=names, strict=strict)
        except NotStoredError:  # the database has the value all the same, and no list is to be older
            self._cache.invalidate(tags=(plan.lists,))
            raise
        self._cache.invalidate(tags=(plan.lists,))
        return is_stored

    def invalidate(self, *ids: Id, tags: Iterable[str] = ()) -> InvalidateResult:
        """Remove some things, and all lists, which the result does not count: see `Cache.invalidate`.

        Args:
            ids: What tells them from others of their kind.
            tags: Names of tags to invalidate with them.
        """
        outcome = self._run(self._plan.invalidate("invalidate", ids, tags))
        return invalidated(outcome, self._plan.unnamed, raises=self._raises_not_told)

    def invalidating(self, *ids: Id, tags: Iterable[str] = ()) -> AbstractContextManager[None]:
        """Remove some things, and all lists, when the block has ended: see `Cache.invalidating`.

        With `WriteBehind` it begins when nothing is queued for them any more: what was queued before would be
        written after what the block does.
        """
        keys = self._plan.keys_of("invalidating", ids)

        def make() -> AbstractContextManager[None]:
            block: AbstractContextManager[None] = self._cache.invalidating(
                *keys, tags=self._plan.with_lists(tags)
            )
            return block

        return make() if self._queue is None else self._queue.after(keys, make)

    def expire(self, *ids: Id) -> InvalidateResult:
        """Make some things stale: see `Cache.expire`."""
        return self._values.expire(*self._plan.keys_of("expire", ids))

    def invalidate_all(self) -> InvalidateResult:
        """Make everything of this entity a miss at once, at the price of one removal; with generations only.

        Loads in flight are fenced as well. The old entries stay in the store until they expire.

        Raises:
            ConfigurationError: The entity has no generations.
        """
        return invalidated(self._run(self._plan.invalidate_all()), raises=self._raises_not_told)

    def mutate(self, *ids: Id, tags: Iterable[str] = ()) -> AbstractContextManager[EntityMutation[T]]:
        """Hold some things while the block writes the database: see `Cache.mutate`.

            with users.mutate(7) as m:
                database.rename(7, "Ada")
                m.set(User(7, "Ada"))

        At the end, what was set is stored as the entity says, and what was not is invalidated, and all lists.
        With `WriteBehind` it begins when nothing is queued for them any more. What is queued while the block
        runs comes after it: its values are not stored, and the database gets what is queued.

        Args:
            ids: What tells them from others of their kind.
            tags: Names of tags to invalidate at the end.
        """
        mutation = self._plan.mutation("mutate", ids, tags)
        if self._queue is None:
            return self._mutating(mutation)
        return self._queue.holding(
            self._plan.keys_of("mutate", ids), lambda: self._mutating(mutation.again())
        )

    # Inside.

    def _set_settled(
        self, queue: Queue[T], which: Id, value: T, ttl: AnyTtl | None, tags: Iterable[str]
    ) -> EntityMutation[T]:
        """Store a value under a hold, where nothing is queued for its key."""
        plan, key = self._plan, self._plan.key(which)
        kept_for = plan.kept(ttl)
        plan.requests.item(key, value, kept_for, plan.type)  # what cannot be stored is said before all else
        mutation = plan.mutation("set", (which,), (), tags)
        with queue.holding([key], lambda: self._mutating(mutation.again())) as held:
            held._put(key, value, kept_for, plan.type)  # noqa: SLF001 - of this package
        settled: EntityMutation[T] = held
        return settled

    def _write(self, writing: Writing) -> WriteResult:
        with self._mutating(writing.mutation):
            returned = [call_blocking(partial(writer, *given), "writer") for writer, given in writing.calls]
            writing.committed()
        return writing.result(returned)

    def _load_one(self, id: Any) -> Any:
        """What the loader of many gives for one."""
        load_many = self._plan.load_many
        assert load_many is not None
        return self._plan.loaded_one(id, call_blocking(partial(load_many, [id])))

    def _load_each(self, ids: builtins.list[Any]) -> Any:
        """What the loader gives for each of many."""
        loader = self._plan.loader
        assert loader is not None
        return {each: call_blocking(partial(loader, each)) for each in ids}

    def _load_batch(self, batch: EntityBatch, load: Callable[..., Any], keys: builtins.list[str]) -> Any:
        return batch.by_keys(call_blocking(partial(load, batch.ids(keys))))
