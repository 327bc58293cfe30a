"""Entities: one kind of thing, whose name, type, strategy and functions are said once.

What both colours share of them: keys for ids, ids for values, tags, and what becomes of a write. A method of
an entity is the cache's own with ids in place of keys.

*Lists.* A list of things is an entry of its own, under the hash of a query. Whatever is written through an
entity invalidates the tag that all its lists have (`KeyBuilder.lists`), which is one more key in the command
that removes the thing itself. So a list is never older than the last write.

*Tags* are named before a load, as they are captured before it. So they may depend on the id, and not on the
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Generic, TypeVar, get_type_hints, overload

import attrs

from sansio_cache.errors import ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key, TagName
from sansio_cache.loader import Absent
from sansio_cache.policy import Policy
from sansio_cache.schema import name_of
from sansio_cache.signals import let_through
from sansio_cache.step import Step
from sansio_cache.strategies import (
    CacheAside,
    Strategy,
    WriteBehind,
    check_strategy,
    policy_under,
    stores_writes,
)
from sansio_cache.tags import tag_keys
from sansio_cache_runtime.known import MOST_KEYS, Known
from sansio_cache_runtime.mutation import HeldKeys, Writing, gone_and_carried, plain_tags, takes_two
from sansio_cache_runtime.queue_plan import QueuePlan, check_queue, plan_queue
from sansio_cache_runtime.request_builder import AnyTtl, Id, RequestBuilder, listed
from sansio_cache_runtime.results import WriteResult
from sansio_cache_runtime.writer_calls import WriterCalls

T = TypeVar("T")

Tags = Iterable[str] | Callable[[Any], Iterable[str]]
"""What `tags=` of an entity takes: names, or a function that gives those of an id."""
IdOf = str | Callable[[Any], Id]
"""What `id=` of an entity takes: the name of an attribute, or a function of a value."""

_EXAMPLES: Final = {"write_many": "{7: value}"}
"""What a method is given, in an error, where it is not an id and a value."""


@attrs.frozen(kw_only=True)
class EntityPlan:
    """What is said once about the entries of an entity.

    Args:
        requests: The cache's request builder.
        name: The first part of their keys.
        type: What their values are.
        policy: How they are kept and loaded, under the strategy.
        strategy: How they are written.
        id: What tells the id of a value.
        loader: Called with an id.
        load_many: Called with a list of ids.
        writer: Called with a value that the database is to have; with the id before it, where it takes two.
        write_many: Called with a list of values; with a mapping of ids to values, where there is no `id`.
        writer_takes_id: Whether the writer takes two.
        tags: What else they depend on: names, or a function that gives those of an id.
        generation: The tag of their generation, if the entity has them.
        lists: The tag of their lists.
        refuse: Refuses what is no function for the cache.
    """

    requests: RequestBuilder
    name: str
    type: Any
    policy: Policy
    strategy: Strategy
    id: IdOf | None
    loader: Callable[..., Any] | None
    load_many: Callable[..., Any] | None
    writer: Callable[..., Any] | None
    write_many: Callable[..., Any] | None
    writer_takes_id: bool
    tags: tuple[str, ...] | Callable[[Any], Iterable[str]]
    generation: tuple[TagName, ...]
    lists: TagName
    refuse: Callable[[Any, str], object]
    static_tags: tuple[str, ...] | None = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda plan: plan.tags if isinstance(plan.tags, tuple) else None, takes_self=True
        ),
    )
    """The tags, where they do not depend on the id."""
    _known: Mapping[Any, Key] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(
            lambda plan: Known(partial(plan.requests.keys.build, plan.name), MOST_KEYS), takes_self=True
        ),
    )

    # What is said again, where an entity is made again.

    @property
    def said(self) -> dict[str, Any]:
        """What it is made of, as `Cache.entity` takes it."""
        said = {"name": self.name, "type": self.type, "policy": self.policy, "strategy": self.strategy}
        said |= {"id": self.id, "loader": self.loader, "load_many": self.load_many, "writer": self.writer}
        said |= {"write_many": self.write_many, "tags": self.tags, "generations": bool(self.generation)}
        return said

    def queue(self) -> QueuePlan:
        """Plan the queue of an entity that writes behind."""
        strategy = self.strategy
        assert isinstance(strategy, WriteBehind)
        id_of = partial(self.id_of, method="write")
        calls = WriterCalls(self.writer, self.write_many, self.writer_takes_id, id_of)
        return plan_queue(self.requests, self.name, self.type, strategy, self.unnamed, calls)

    # Keys and ids.

    def key(self, id: Id) -> Key:
        """The key of one thing. Those used last are kept, as making one is a good part of a hit."""
        if id.__class__ is int or id.__class__ is str:  # True and 1.0 are no ids, and equal to one
            return self._known[id]
        return self.requests.keys.build(self.name, id)

    def keys_of(self, method: str, ids: Iterable[Id]) -> list[Key]:
        """The keys of things, of which there has to be one at least.

        Raises:
            InvalidKeyError: There is none, or one cannot be, or there are too many.
        """
        keys = [self.key(each) for each in self.requests.some("id", ids)]
        if not keys:
            raise InvalidKeyError(
                f"{method}() of the entity {self.name!r} names nothing: pass ids, as in {method}(7); "
                "invalidate_all() is for everything of an entity with generations"
            )
        return keys

    def keys_by_id(self, ids: Iterable[Id]) -> dict[Id, Key]:
        """The keys of things by their ids; two ids may be one key."""
        return {each: self.key(each) for each in self.requests.some("id", ids)}

    def list_key(self, query: str | Mapping[str, object]) -> Key:
        """The key of the answer to a query."""
        return self.requests.keys.list_key(self.name, query)

    def id_of(self, value: Any, method: str) -> Id:
        """The id of a value that a method was given.

        Raises:
            ConfigurationError: The entity does not know where values have it.
            InvalidKeyError: This one has none.
        """
        if self.id is None:
            raise ConfigurationError(
                f"the entity {self.name!r} does not know where its values have their ids: pass them, as in "
                f"{method}({_EXAMPLES.get(method, '7, value')}), or make the entity with id='id'"
            )
        if not isinstance(self.id, str):
            return self.id(value)
        found: Any
        try:
            found = value[self.id] if isinstance(value, Mapping) else getattr(value, self.id)
        except (AttributeError, LookupError):
            raise InvalidKeyError(
                f"the entity {self.name!r} takes ids from {self.id!r}, which this "
                f"{value.__class__.__name__} does not have: pass it, as in "
                f"{method}({_EXAMPLES.get(method, '7, value')})"
            ) from None
        return found  # type: ignore[no-any-return]

    def _refuse_other_id(self, method: str, id: Id, value: Any) -> None:
        """Refuse an id that is not the one of its value: the wrong key would be written.

        A value whose id cannot be told is taken at the caller's word, and so is what is stored under a `Key`.

        Raises:
            InvalidKeyError: The value has another id.
        """
        if self.id is None or value is None or value is Absent or isinstance(value, Absent):
            return
        if isinstance(id, Key):
            return
        key = self.key(id)
        try:
            own = self.id_of(value, method)
            is_other = self.key(own) != key
        except Exception as error:  # noqa: BLE001 - a function of the user may raise anything
            let_through(error)
            return
        if is_other:
            raise InvalidKeyError(
                f"{method}({id!r:.80}, value) of the entity {self.name!r}: the value's id is {own!r:.80}; "
                "pass one of them"
            )

    def values_of(self, values: Any) -> dict[Id, Any]:
        """Values by their ids: they are given as a mapping, or one by one.

        Raises:
            ConfigurationError: The entity does not know where values have their ids.
            InvalidKeyError: These are no values, or too many, or one has no id, or another than it is given.
        """
        if isinstance(values, Mapping):
            named = dict(zip(self.requests.some("id", values), values.values(), strict=True))
            for each, value in named.items():
                self._refuse_other_id("write_many", each, value)
            return named
        return {self.id_of(each, "write_many"): each for each in self.requests.some("value", values)}

    # Tags.

    def tags_of(self, id: Id, more: Iterable[str] = ()) -> tuple[str, ...]:
        """The tags of one thing, and those that a call names."""
        tags = self.static_tags
        if tags is None:
            assert callable(self.tags)
            tags = (*self.generation, *listed("tags= gives", "tag", self.tags(id)))
        return tags if more == () else (*tags, *listed("tags= takes", "tag", more))

    def tags_of_any(self, ids: Iterable[Id], more: Iterable[str]) -> tuple[str, ...]:
        """The tags of all of some things. A value may be tied to more than its reader asks for."""
        if self.static_tags is not None:
            return self.tags_of("", more)
        names = [*self.generation, *listed("tags= takes", "tag", more)]
        for each in ids:
            names += self.tags_of(each)
        return tuple(dict.fromkeys(names))

    def tags_of_lists(self, more: Iterable[str]) -> tuple[str, ...]:
        """The tags of all lists. A list is of many things: none of its tags depends on an id."""
        tags = self.generation if self.static_tags is None else self.static_tags
        return (self.lists, *tags, *listed("tags= takes", "tag", more))

    def with_lists(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Tags that a write invalidates, and the lists."""
        return (self.lists, *listed("tags= takes", "tag", tags))

    # Loading.

    @property
    def list_type(self) -> Any:
        """What lists are."""
        of: Any = self.type
        return list[of]

    def no_queue(self) -> ConfigurationError:
        """The error for the queue of an entity that has none."""
        return ConfigurationError(
            f"the entity {self.name!r} has no queue: make it with strategy=WriteBehind()"
        )

    def by_key(self, values: Any) -> dict[Key, Any]:
        """Values by their keys: see `values_of`."""
        return {self.key(each): value for each, value in self.values_of(values).items()}

    def no_loader(self) -> ConfigurationError:
        """The error for a load without a loader."""
        return ConfigurationError(
            f"the entity {self.name!r} has no loader: pass one, or make it with loader=..."
        )

    def loader_or(
        self, loader: Callable[..., Any] | None, own: Callable[..., Any] | None
    ) -> Callable[..., Any]:
        """The loader of a call, or the entity's.

        Raises:
            ConfigurationError: There is none, or it cannot be called.
        """
        if loader is not None:
            self.refuse(loader, "loader")
            return loader
        if own is None:
            raise self.no_loader()
        return own

    def batches(self, ids: Iterable[Id], tags: Iterable[str]) -> list[EntityBatch]:
        """Many things by their ids: those that have the same tags together.

        Raises:
            InvalidKeyError: They are none, or too many.
        """
        groups: dict[tuple[str, ...], dict[Id, Key]] = {}
        static = None if self.static_tags is None else self.tags_of("", tags)
        for each in self.requests.some("id", ids):
            names = self.tags_of(each, tags) if static is None else static
            groups.setdefault(names, {})[each] = self.key(each)
        return [EntityBatch(self, keys, names) for names, keys in groups.items()]

    def loaded_one(self, id: Id, loaded: Any) -> Any:
        """What a loader of many gave for one.

        Raises:
            ConfigurationError: It gave no mapping.
        """
        if not isinstance(loaded, Mapping):
            raise ConfigurationError(
                f"load_many= of the entity {self.name!r} returns a mapping of ids to values; got "
                f"{loaded.__class__.__name__}"
            )
        values = EntityBatch(self, {id: self.key(id)}, ()).by_keys(loaded)
        return values.get(self.key(id), Absent())

    # Writing.

    def kept(self, ttl: AnyTtl | None) -> AnyTtl:
        """How a value is kept that is stored: as the entity says, or as a call does."""
        return self.policy if ttl is None else ttl

    def invalidate(self, method: str, ids: Iterable[Id], tags: Iterable[str]) -> Step:
        """Begin to remove things, tags, and all lists."""
        return self.requests.invalidate(self.keys_of(method, ids), self.with_lists(tags))

    def invalidate_all(self) -> Step:
        """Begin to remove everything of the entity, its lists too.

        Raises:
            ConfigurationError: It has no generations.
        """
        if not self.generation:
            raise ConfigurationError(
                f"the entity {self.name!r} has no generations: make it with generations=True, or use "
                "delete_pattern(cache.key.pattern(...))"
            )
        return self.requests.invalidate((), self.generation)

    @property
    def unnamed(self) -> tuple[str, ...]:
        """What writes remove that their caller has not named: the lists, by the key of their tag."""
        return tag_keys(self.requests.keys.root, (self.lists,))

    def mutation(
        self, method: str, ids: Iterable[Id], tags: Iterable[str], value_tags: Iterable[str] = ()
    ) -> EntityMutation[Any]:
        """Plan a mutation of some things; `value_tags` is what their values depend on besides.

        Raises:
            InvalidKeyError: Nothing is named, an id or tag cannot be one, there are too many, or the values
                have a tag as well.
        """
        ids = list(self.requests.some("id", ids))
        keys = self.keys_of(method, ids)
        gone, carried = gone_and_carried(self.requests, tags, self.tags_of_any(ids, value_tags))
        return EntityMutation(
            self.requests,
            {key: key for key in keys},
            tag_keys(self.requests.keys.root, gone),
            carried,
            self.type,
            self.policy,
            self.unnamed,
            plan=self,
        )

    def writing(
        self, given: tuple[Any, ...], id: Id | None, tags: Iterable[str], ttl: AnyTtl | None
    ) -> Writing:
        """Plan to write one value, given by itself or after its id.

        Raises:
            ConfigurationError: The entity has no writer, or does not know the id.
            InvalidKeyError: The id or a tag cannot be one.
            SerializationError: The value is to be stored, and would not come back equal.
        """
        which, value = self.one_given("write", given, id)
        writer = self.writer
        if writer is None:
            raise ConfigurationError(
                f"the entity {self.name!r} has no writer: make it with writer=..., or write the database "
                "inside mutate(...)"
            )
        return self._writing("write", {which: value}, tags, ttl, [(writer, self._arguments(which, value))])

    def writing_many(self, values: Any, tags: Iterable[str], ttl: AnyTtl | None) -> Writing | WriteResult:
        """Plan to write many values; the result, where there are none.

        Raises:
            ConfigurationError: The entity has no writer, or does not know the ids.
            InvalidKeyError: An id or a tag cannot be one, or there are too many.
            SerializationError: A value is to be stored, and would not come back equal.
        """
        named = self.values_of(values)
        if self.write_many is not None:
            calls = [(self.write_many, (named if self.id is None else list(named.values()),))]
        elif self.writer is not None:
            writer = self.writer
            calls = [(writer, self._arguments(*each)) for each in named.items()]
        else:
            raise ConfigurationError(
                f"the entity {self.name!r} has no writer: make it with write_many=..., or write the database "
                "inside mutate(...)"
            )
        is_each = self.write_many is None
        if not named:
            return WriteResult(0, 0, 0, [] if is_each else None)
        return self._writing("write_many", named, tags, ttl, calls, is_each=is_each)

    def one_given(self, method: str, given: tuple[Any, ...], id: Id | None) -> tuple[Id, Any]:
        """The id and the value of a call that gives one value.

        Raises:
            ConfigurationError: The entity does not know the id.
            InvalidKeyError: It is given twice, or is not the value's, or there is no value or more than one.
        """
        match given:
            case (value,) if id is None:
                return self.id_of(value, method), value
            case (value,):
                assert id is not None
                self._refuse_other_id(method, id, value)
                return id, value
            case (first, value) if id is None:
                self._refuse_other_id(method, first, value)
                return first, value
            case _:
                raise InvalidKeyError(
                    f"{method}() of the entity {self.name!r} takes a value, or an id and a value, as in "
                    f"{method}(value) or {method}(7, value); got {len(given)} of them"
                    + ("" if id is None else " and id=")
                )

    def _arguments(self, id: Id, value: Any) -> tuple[Any, ...]:
        return (id, value) if self.writer_takes_id else (value,)

    def _writing(
        self,
        method: str,
        values: Mapping[Id, Any],
        tags: Iterable[str],
        ttl: AnyTtl | None,
        calls: list[tuple[Callable[..., Any], tuple[Any, ...]]],
        *,
        is_each: bool = False,
    ) -> Writing:
        mutation = self.mutation(method, values, tags)
        is_stored = stores_writes(self.strategy)
        kept = {self.key(each): value for each, value in values.items()} if is_stored else {}
        kept_for = self.kept(ttl)
        for key, value in kept.items():  # what cannot be stored is said before the database has it
            self.requests.item(key, value, kept_for, self.type)
        return Writing(mutation, kept, kept_for, calls, is_each)


@attrs.frozen
class EntityBatch:
    """Many things that one call is about, all with the same tags.

    Args:
        plan: The entity's.
        keys: Their keys, by their ids; two ids may be one key.
        tags: What else they depend on.
    """

    plan: EntityPlan
    keys: Mapping[Id, Key]
    tags: tuple[str, ...]
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

    def found(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """What there is, by ids."""
        return {each: values[key] for each, key in self.keys.items() if key in values}


@attrs.define
class EntityMutation(HeldKeys, Generic[T]):
    """A mutation of things of one kind: see `Entity.mutate`."""

    _plan: EntityPlan = attrs.field(kw_only=True, alias="plan")

    @overload
    def set(self, value: T, /, *, ttl: AnyTtl | None = None) -> None: ...
    @overload
    def set(self, id: Id, value: T, /, *, ttl: AnyTtl | None = None) -> None: ...
    @overload
    def set(self, key: Key, value: Any, /, *, ttl: AnyTtl | None = None, type: Any) -> None: ...
    def set(self, *given: Any, ttl: AnyTtl | None = None, type: Any = None) -> None:
        """Store this value when the block has ended. What is not set is invalidated.

        Args:
            given: What the database holds once the block has committed; with its id, or its `Key`, before it
                where the mutation is of several things and the entity does not know where values have their
                ids.
            ttl: How long the entry is fresh, in seconds or as a timedelta, tier or policy. Where nothing is
                left of it, the key is invalidated.
            type: What the value is stored as, in place of the entity's type.

        Raises:
            InvalidKeyError: The mutation was not begun for this thing.
            ConfigurationError: The mutation is of several things, and it is not known of which this is.
            CacheClosedError: The block has ended.
            SerializationError: The value cannot be stored so that it comes back equal.
        """
        plan, keys = self._plan, self.keys
        if len(given) == 1 and len(keys) == 1 and plan.id is None:
            full, value = plan.requests.keys.resolve(keys[0]), given[0]
        else:
            which, value = plan.one_given("set", given, None)
            full = plan.requests.keys.resolve(which) if isinstance(which, Key) else plan.key(which)
        if full not in self._resolved:
            raise InvalidKeyError(
                f"{full!r} is not one of this mutation's keys, which are {', '.join(keys)}: name its id in "
                "mutate(...)"
            )
        self._put(full, value, plan.kept(ttl), self._type if type is None else type)


def plan_entity(
    requests: RequestBuilder,
    name: str,
    type: Any,
    *,
    id: IdOf | None,
    loader: Any,
    load_many: Any,
    writer: Any,
    write_many: Any,
    strategy: Strategy | None,
    ttl: AnyTtl | None,
    policy: Policy | None,
    tags: Tags,
    generations: bool,
    refuse: Callable[[Any, str], object],
) -> EntityPlan:
    """Plan the entries of an entity; `refuse` is what the cache refuses functions with.

    Raises:
        InvalidKeyError: The name cannot be one.
        ConfigurationError: The type, the id, the policy, the strategy or a function cannot be used.
    """
    requests.keys.pattern(name)  # refuses a name that cannot be one
    requests.codec(type)
    functions = {"loader": loader, "load_many": load_many, "writer": writer, "write_many": write_many}
    for argument, function in functions.items():
        if function is not None:
            refuse(function, argument)
    _check_id(name, type, id)
    chosen = CacheAside() if strategy is None else strategy
    check_strategy(chosen)
    if stores_writes(chosen) and writer is None and write_many is None:
        raise ConfigurationError(
            f"the entity {name!r} is to write through, and has nothing to write with: pass writer=..."
        )
    is_queued = isinstance(chosen, WriteBehind)
    if is_queued:
        check_queue(requests, name, id, writer or write_many)
    generation = (requests.keys.generation(name),) if generations else ()
    if not callable(tags):
        fields = {"id", id} if isinstance(id, str) else {"id"}
        instead = "id pass a function, as in tags=lambda id: [f{}]"
        named = plain_tags(tags, fields, f" of the entity {name!r}", instead)
        tags = requests.tag_names((*generation, *named))
    return EntityPlan(
        requests=requests,
        name=name,
        type=type,
        policy=policy_under(chosen, requests.chosen_policy(ttl, policy)),
        strategy=chosen,
        id=id,
        writer_takes_id=takes_two(name, writer, write_many, is_queued=is_queued),
        tags=tags,
        generation=generation,
        lists=requests.keys.lists(name),
        refuse=refuse,
        **functions,
    )


def _check_id(name: str, type: Any, id: Any) -> None:
    """Refuse what cannot tell the id of a value, as far as the type says.

    Raises:
        ConfigurationError: It is neither a name nor a function, or the type has no such attribute.
    """
    if id is None or callable(id):
        return
    if not isinstance(id, str) or not id:
        raise ConfigurationError(
            f"id= of the entity {name!r} is the name of an attribute, or a function of a value; got "
            f"{id!r:.80}"
        )
    known = _attributes(type)
    if known and id not in known and not hasattr(type, id):
        raise ConfigurationError(
            f"id={id!r:.80} of the entity {name!r}: {name_of(type)} has no such attribute, it has "
            f"{', '.join(sorted(known))}"
        )


def _attributes(type: Any) -> frozenset[str]:
    """The names that a class declares; none, where it does not say."""
    try:
        return frozenset(get_type_hints(type))
    except Exception as error:  # noqa: BLE001 - it is no class, or names in it cannot be found yet
        let_through(error)
        return frozenset()
