"""Planning: from a call of the public API to the first step of a machine.

Both caches do this the same way, and none of it is I/O: check the arguments, resolve keys, types and times
to live, draw the random numbers that the machine will need. What is wrong with a call is said here, before
anything has happened.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from uuid import UUID

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec, codec_for
from sansio_cache.config import CacheConfig
from sansio_cache.entry import MAX_TAGS, MissReason
from sansio_cache.errors import CacheClosedError, ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key, TagName
from sansio_cache.notices import OperationName
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many, nothing_to_load
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.recovery import recover
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.step import ManyHeld, Step
from sansio_cache.tags import tag_keys
from sansio_cache.ttl import STATIC, Ttl
from sansio_cache_runtime.loaders import refuse_uncallable
from sansio_cache_runtime.recorder import Recorder

T = TypeVar("T")

AnyTtl = Ttl | Policy
"""What `ttl=` takes: seconds, a timedelta, a tier, or a policy."""

Id = str | int | UUID
"""What tells one thing of an entity from another."""

_MOST_KNOWN = 1024
_LONGEST_VALUE_MS = round(STATIC.ttl_s * 1000)
"""What a mutation's tags are kept for at least, twice over. A value that lives longer ends with them."""


class Entropy(Protocol):
    """Where random numbers come from. `random.SystemRandom`, but in tests."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randbytes(self, length: int, /) -> bytes:
        """So many bytes."""
        ...


# Seeded by the operating system, and anew in a forked process: two that draw the same nonce would take each
# other's leases for their own. Not the module's own functions, which a program may seed. Asking the operating
# system every time would cost a system call a read.
_entropy = random.Random()  # noqa: S311 - nonces are to be unique, not secret
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_entropy.seed)


class _Known(dict[str, T]):
    """What was made of the texts that were used last."""

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> T:
        made = self._make(text)
        if len(self) >= _MOST_KNOWN:
            self.clear()
        self[text] = made
        return made


class RequestBuilder:
    """Makes the first steps of operations for one cache."""

    def __init__(
        self,
        config: CacheConfig,
        recorder: Recorder,
        *,
        clock: Callable[[], float] = time.monotonic,
        entropy: Entropy | None = None,
    ) -> None:
        self._recorder = recorder
        self.clock = clock
        self._entropy: Entropy = entropy or _entropy
        self._draw = self._entropy.randbytes
        self._max_value_bytes = config.max_value_bytes
        self._migration_for = config.migration_for
        self._chunk = config.chunk_keys
        self._max_batch_keys = config.max_batch_keys
        self._policy = self.policy = config.effective_policy
        self._raises = self._policy.on_read_error == "raise"
        self._timeouts = StoreTimeouts(config.redis.attempt_timeout_s, config.redis.operation_timeout_s)
        self.keys = config.keys
        self._known_keys = _Known(self.keys.resolve)
        self._known_tags = _Known(self.keys.tag)
        self._codecs: dict[Any, Codec[Any]] = {}

    # Operations.

    def get(self, key: str, type: Any) -> Step:
        """Begin a get."""
        full = self._resolve(key)
        recorder = self._recorder
        request = ReadRequest(
            full,
            self._codec(type),
            self._timeouts,
            self.clock(),
            self._raises,
            recorder.bypassed,
        )
        return get(request, skip=recorder.skip(full) if recorder.must_ask else None)

    def get_many(self, keys: Iterable[str], type: Any) -> tuple[Sequence[str], Step]:
        """Begin to read many keys; also gives the keys as the caller wrote them, once each."""
        resolved = self._resolve_all(keys)
        fulls = tuple(resolved.values())
        request = ReadManyRequest(
            fulls,
            self._codec(type),
            self._chunk,
            self._timeouts,
            self.clock(),
            self._raises,
            self._recorder.bypassed,
        )
        return tuple(resolved), get_many(request, skip=self._skip_any(fulls))

    def get_or_load(
        self,
        key: str,
        loader: Any,
        type: Any,
        ttl: AnyTtl | None,
        tags: Iterable[str],
        policy: Policy | None,
    ) -> Step:
        """Begin a get-or-load."""
        full = self._resolve(key)
        if not callable(loader):
            refuse_uncallable(loader)
        names = () if tags == () else self._tags(tags)
        recorder = self._recorder
        request = LoadRequest(
            full,
            self._codec(type),
            self._policy if ttl is None and policy is None else self._chosen(ttl, policy),
            self._draw(RANDOM_BYTES),
            self._timeouts,
            self.clock(),
            names,
            recorder.bypassed,
        )
        skip = self._skip_any((full, *tag_keys(full, names))) if recorder.must_ask else None
        return get_or_load(request, skip=skip)

    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Any,
        type: Any,
        ttl: AnyTtl | None,
        tags: Iterable[str],
        policy: Policy | None,
    ) -> tuple[Sequence[str], Step]:
        """Begin a get-or-load of many keys; also gives the keys as the caller wrote them, once each."""
        resolved = self._resolve_all(keys)
        refuse_uncallable(loader)
        tag_names = self._tags(tags)
        fulls = tuple(resolved.values())
        codec, chosen = self._codec(type), self._chosen(ttl, policy)
        if not fulls:
            return (), nothing_to_load()
        each = LoadRequest(
            fulls[0],
            codec,
            chosen,
            self._draw(RANDOM_BYTES),
            self._timeouts,
            self.clock(),
            tag_names,
            self._recorder.bypassed,
        )
        request = LoadManyRequest(fulls, tuple(resolved), self._chunk, each)
        skip = self._skip_any((*fulls, *tag_keys(self.keys.root, tag_names)))
        return tuple(resolved), load_many(request, skip=skip)

    def set_many(
        self,
        values: Mapping[str, Any],
        ttl: AnyTtl | None,
        tags: Iterable[str],
        type: Any,
        operation: OperationName = OperationName.SET_MANY,
    ) -> tuple[Sequence[str], Step]:
        """Begin to store values; also gives the keys as the caller wrote them."""
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"set_many takes a mapping of keys to values; got {values.__class__.__name__}"
            )
        resolved = self._resolve_all(values)
        if len(set(resolved.values())) < len(resolved):
            raise InvalidKeyError("two of the keys name one entry, which can have one value only")
        chosen = self._chosen(ttl, None)
        codec = self._codec(type)
        items = tuple(self._item(full, values[key], codec, chosen) for key, full in resolved.items())
        request = SetRequest(
            operation=operation,
            items=items,
            nonce=self._nonce(),
            hold_ms=chosen.lease_ms,
            chunk=self._chunk,
            timeouts=self._timeouts,
            started_s=self.clock(),
            tags=self._tags(tags),
        )
        return tuple(resolved), set_many(request, skip=self._recorder.is_disabled)

    def invalidate(self, keys: Iterable[str], tags: Iterable[str] = ()) -> Step:
        """Begin to remove keys, and to invalidate tags."""
        return self.invalidation(keys, tags)()

    def invalidation(self, keys: Iterable[str], tags: Iterable[str]) -> Callable[[], Step]:
        """Check what is to be invalidated; it begins when the function that is given back is called."""
        gone = (*self._resolve_all(keys).values(), *tag_keys(self.keys.root, self._tags(tags)))
        return lambda: self._remove(OperationName.INVALIDATE, gone)

    def expire(self, keys: Iterable[str]) -> Step:
        """Begin to make values stale."""
        return self._remove(OperationName.EXPIRE, tuple(self._resolve_all(keys).values()), soft=True)

    def clear(self) -> Step:
        """Begin to remove everything in the namespace."""
        return self.delete_pattern(self.keys.everything())

    def delete_pattern(self, pattern: str, *, dry_run: bool = False) -> Step:
        """Begin to remove keys by pattern."""
        glob = self.keys.glob(pattern)
        if not glob.startswith(self.keys.root):
            raise InvalidKeyError(
                f"the pattern belongs to another namespace than {self.keys.namespace!r}: build it with this "
                "cache's key.pattern(...)"
            )
        request = PatternRequest(self.keys, glob, self._chunk, self._timeouts, self.clock(), dry_run)
        return delete_pattern(request, skip=self._recorder.is_disabled)

    def mutation(self, keys: Iterable[str], tags: Iterable[str], value_tags: Iterable[str]) -> Mutation:
        """Plan a mutation of some keys, which invalidates some tags, and whose values carry others."""
        gone, carried = self._tags(tags), self._tags(value_tags)
        if both := sorted(set(gone) & set(carried)):
            raise InvalidKeyError(
                f"the tag {both[0].partition(':')[2]!r} is in tags= and in value_tags=: the mutation "
                "would take away what it stores"
            )
        return Mutation(self, self._resolve_all(keys), tag_keys(self.keys.root, gone), carried)

    def recovery(self, keys: Iterable[str]) -> Step:
        """Begin to wait for the store."""
        return recover(tuple(keys), self._timeouts)

    def _remove(self, operation: OperationName, keys: tuple[str, ...], *, soft: bool = False) -> Step:
        request = InvalidateRequest(operation, keys, self._chunk, self._timeouts, self.clock(), soft)
        return invalidate(request, skip=self._recorder.is_disabled)

    def entity(
        self,
        name: str,
        type: Any,
        ttl: AnyTtl | None,
        policy: Policy | None,
        loader: Any,
        *,
        generations: bool,
    ) -> EntityPlan:
        """Plan the entries of an entity."""
        self.keys.pattern(name)  # refuses a name that cannot be one
        self._codec(type)
        if loader is not None:
            refuse_uncallable(loader)
        tags = (self.keys.generation(name),) if generations else ()
        return EntityPlan(self, name, type, self._chosen(ttl, policy), loader, tags)

    # Parts of a mutation.

    def begin(self, keys: tuple[str, ...], value_tags: tuple[str, ...]) -> Step:
        """Begin to hold keys."""
        policy = self._policy
        hard_ttl_ms, _ = policy.expiry_ms(1.0)
        request = MutateRequest(
            keys,
            self._nonce(),
            policy.lease_ms,
            policy.max_lease_s,
            self._timeouts,
            self.clock(),
            value_tags,
            # How long the values will live is not known yet.
            2 * max(hard_ttl_ms, _LONGEST_VALUE_MS),
        )
        return begin(request, skip=self._recorder.is_disabled)

    def end(
        self, keys: tuple[str, ...], tags: tuple[str, ...], held: ManyHeld, items: Iterable[Item]
    ) -> Step:
        """Begin the end of a mutation."""
        if self._recorder.is_disabled:  # it holds nothing, so there is nothing to remove
            keys, tags, items = (), (), ()
        now_s = self.clock()
        request = EndRequest(keys, held.grants, tuple(items), self._timeouts, now_s, tags, held.versions)
        return end(request)

    def item(self, key: str, value: Any, ttl: AnyTtl | None, type: Any) -> Item:
        """One value to store."""
        return self._item(key, value, self._codec(type), self._chosen(ttl, None))

    # Arguments.

    def _nonce(self) -> bytes:
        return self._draw(NONCE_BYTES)

    def _codec(self, type: Any) -> Codec[Any]:
        try:
            return self._codecs[type]
        except (KeyError, TypeError):  # the latter where it cannot be hashed
            codec = codec_for(type, self._max_value_bytes, self._migration_for(type))
            with suppress(TypeError):
                if len(self._codecs) < _MOST_KNOWN:
                    self._codecs[type] = codec
            return codec

    def _item(self, key: str, value: Any, codec: Codec[Any], policy: Policy) -> Item:
        payload = codec.encode(value).payload
        return Item(key, codec, payload, *policy.expiry_ms(self._entropy.random()))

    def _tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """The names of tags, as cells hold them, once each."""
        names = tuple(dict.fromkeys(map(self._tag, _listed("tags= takes", "tag", tags))))
        if len(names) > MAX_TAGS:
            raise InvalidKeyError(f"an entry has at most {MAX_TAGS} tags; got {len(names)}")
        return names

    def _tag(self, tag: str) -> str:
        """The name of a tag; as with keys, those used last are kept."""
        return self._known_tags[tag] if type(tag) is str else self.keys.tag(tag)

    def _skip_any(self, keys: Iterable[str]) -> MissReason | None:
        """Why a read of these keys and tags is not to ask the store; None where it is to.

        Where some are to be bypassed and others not, all are: it is rare, and short.
        """
        if not self._recorder.must_ask:
            return None
        return next((reason for key in keys if (reason := self._recorder.skip(key)) is not None), None)

    def _chosen(self, ttl: AnyTtl | None, policy: Policy | None) -> Policy:
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"policy is a Policy; got {policy.__class__.__name__}")
        if isinstance(ttl, Policy):
            if policy is not None:
                raise ConfigurationError("give ttl= or policy= a Policy, not both")
            return ttl
        chosen = policy or self._policy
        return chosen if ttl is None else chosen.with_ttl(ttl)

    def _resolve(self, key: str) -> Key:
        """The full key; those used last are kept, as making one costs as much as the rest of a plan."""
        return self._known_keys[key] if type(key) is str else self.keys.resolve(key)

    def some(self, what: str, given: Iterable[Any]) -> Iterator[Any]:
        """Keys, or ids, one by one, as many as one call may name."""
        for count, each in enumerate(_listed("pass", what, given), start=1):
            if count > self._max_batch_keys:
                raise InvalidKeyError(
                    f"one call may name {self._max_batch_keys} {what}s, and here are more: split it into "
                    "several calls, or raise max_batch_keys"
                )
            yield each

    def _resolve_all(self, keys: Iterable[str]) -> dict[str, Key]:
        """Full keys by the keys as the caller wrote them, once each."""
        resolved: dict[str, Key] = {}
        for key in self.some("key", keys):
            full = self._resolve(key)
            # A Key and a literal str may be equal as text, and yet name two entries.
            if resolved.setdefault(key, full) != full:
                raise InvalidKeyError(
                    "a built Key and a str of the same text name two different entries: "
                    "ask for them in two calls"
                )
        return resolved


def _listed(verb: str, what: str, given: Iterable[Any]) -> Iterable[Any]:
    """Several things that a caller passes, and not one text, whose letters would be them."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidKeyError(f"{verb} a list of {what}s, not one {what}; got {given.__class__.__name__}")
    return given


@attrs.frozen
class EntityPlan:
    """What is said once about the entries of an entity.

    Args:
        planner: The cache's.
        name: The first part of their keys.
        type: What their values are.
        policy: How they are kept and loaded.
        loader: Called with an id.
        tags: Their generation, if the entity has them.
    """

    request_builder: RequestBuilder
    name: str
    type: Any
    policy: Policy
    loader: Callable[[Any], Any] | None
    tags: tuple[TagName, ...]

    def required_loader(self, loader: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        """The loader of a call, or the entity's.

        Raises:
            ConfigurationError: There is none, or it cannot be called.
        """
        chosen = self.loader if loader is None else loader
        if chosen is None:
            raise ConfigurationError(
                f"the entity {self.name!r} has no loader: pass one, or make it with loader=..."
            )
        refuse_uncallable(chosen)
        return chosen

    def options(self, tags: Iterable[str]) -> dict[str, Any]:
        """What is passed on to a load, or to a write."""
        named = (*self.tags, *_listed("tags= takes", "tag", tags))
        return {"type": self.type, "ttl": self.policy, "tags": named}

    def keys(self, ids: Iterable[Id]) -> dict[Id, Key]:
        """The keys of things by their ids.

        Raises:
            InvalidKeyError: They are none, or too many.
        """
        return {each: self.key(each) for each in self.request_builder.some("id", ids)}

    def key(self, id: Id) -> Key:
        """The key of one thing."""
        return self.request_builder.keys.build(self.name, id)

    def named(self, loaded: Mapping[Any, Any]) -> dict[Any, Any]:
        """What a loader gave for ids, by their keys. What is no id is left as it is: nobody asked for it."""
        named: dict[Any, Any] = {}
        for each, value in loaded.items():
            try:
                named[self.key(each)] = value
            except InvalidKeyError:
                named[each] = value
        return named

    def mutation(self, ids: Iterable[Id], tags: Iterable[str]) -> Mutation:
        """Plan a mutation of some things."""
        mutation = self.request_builder.mutation(self.keys(ids).values(), tags, self.tags)
        return attrs.evolve(mutation, type=self.type, ttl=self.policy)

    def generation(self) -> tuple[TagName, ...]:
        """The tag of the generation.

        Raises:
            ConfigurationError: The entity has none.
        """
        if not self.tags:
            raise ConfigurationError(
                f"the entity {self.name!r} has no generations: make it with generations=True, or use "
                "delete_pattern(cache.key.pattern(...))"
            )
        return self.tags


@attrs.define
class Mutation:
    """The keys that a block writes, and what is to be stored for them when it has ended."""

    _request_builder: RequestBuilder
    _resolved: dict[str, Key]
    _tags: tuple[str, ...]
    _value_tags: tuple[str, ...]
    _type: Any = None
    _ttl: AnyTtl | None = None
    _items: dict[str, Item] = attrs.field(factory=dict, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)

    @property
    def keys(self) -> tuple[str, ...]:
        """The full keys, once each."""
        return tuple(dict.fromkeys(self._resolved.values()))

    def set(self, key: str, value: Any, *, ttl: AnyTtl | None = None, type: Any = None) -> None:
        """Store this value when the block has ended. What is not set is invalidated.

        Args:
            key: One of the keys of the mutation.
            value: What the database holds once the block has committed.
            ttl: How long the entry is fresh, in seconds or as a timedelta, tier or policy.
            type: What the value is stored as; see `Cache.set`.

        Raises:
            InvalidKeyError: The mutation was not begun for this key.
            CacheClosedError: The block has ended.
            SerializationError: The value cannot be stored so that it comes back equal.
        """
        if self._has_ended:
            raise CacheClosedError("the mutation has ended: set its values inside the block")
        full = self._request_builder.keys.resolve(key)
        if full not in self.keys:
            raise InvalidKeyError(f"{key!r} is not one of this mutation's keys: name it in mutate(...)")
        chosen_ttl = self._ttl if ttl is None else ttl
        chosen_type = self._type if type is None else type
        self._items[full] = self._request_builder.item(full, value, chosen_ttl, chosen_type)

    def begin(self) -> Step:
        """Begin to hold the keys."""
        return self._request_builder.begin(self.keys, self._value_tags)

    def end(self, held: ManyHeld, *, raised: bool) -> Step:
        """Begin the end; a block that raised may have committed, so nothing of it is stored."""
        self._has_ended = True
        items = () if raised else self._items.values()
        return self._request_builder.end(self.keys, self._tags, held, items)
