"""The request builder: from a call of the public API to the first step of a machine.

Both caches do this the same way, and none of it is I/O: check the arguments, resolve keys, types and times
to live, draw the random numbers that the machine will need. What is wrong with a call is said here, before
anything has happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import attrs
from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.config import CacheConfig
from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import MAX_TAGS, MissReason, key_check
from sansio_cache.errors import ConfigurationError, InvalidKeyError, SerializationError
from sansio_cache.glance import (
    NO_NAMED_TAGS,
    Beginning,
    Glance,
    GlanceMany,
    NamedTags,
    glances,
    named_tags,
    stamp_of,
)
from sansio_cache.keys import Key
from sansio_cache.notices import OperationName
from sansio_cache.operations.batch import LoadManyRequest, nothing_to_load
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.operations.renewal import unrenewed_hold_ms
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.step import Completed, ManyHeld, Step, ended
from sansio_cache.tags import tag_keys
from sansio_cache.ttl import NO_JITTER, STATIC, Exact, Ttl, life_s
from sansio_cache_runtime.entropy import ENTROPY
from sansio_cache_runtime.known import MOST_KEYS, Known
from sansio_cache_runtime.loaders import refuse_uncallable
from sansio_cache_runtime.models import codec_of

T = TypeVar("T")

AnyTtl = Ttl | Exact | Policy
"""What `ttl=` takes: seconds, a timedelta, a tier, an exact one, or a policy."""

Id = str | int | UUID
"""What tells one thing of an entity from another."""

_GET: Final = OperationName.GET
_GET_MANY: Final = OperationName.GET_MANY
_GET_OR_LOAD: Final = OperationName.GET_OR_LOAD
_GET_OR_LOAD_MANY: Final = OperationName.GET_OR_LOAD_MANY
"""Looking a member of an enumeration up takes as long as making what it goes into."""
_LONGEST_VALUE_MS = round(STATIC.ttl_s * 1000)
"""What a mutation's tags are kept for at least, twice over. A value that lives longer ends with them."""


class Entropy(Protocol):
    """Where random numbers come from. `SystemEntropy`, but in tests."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randbytes(self, length: int, /) -> bytes:
        """So many bytes."""
        ...


class Hearing(Protocol):
    """Who may want to be told of what reads do."""

    @property
    def wants_hits(self) -> bool:
        """Whether somebody is to be told of hits, or of operations from begin to end."""
        ...


class _Nobody(Struct, frozen=True):
    wants_hits: bool = False


_NOBODY: Final = _Nobody()


class RequestBuilder:
    """Makes the first steps of operations for one cache."""

    def __init__(
        self,
        config: CacheConfig,
        coordinator: Coordinator,
        *,
        hearing: Hearing = _NOBODY,
        clock: Callable[[], float] = time.monotonic,
        entropy: Entropy | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._hearing = hearing
        self.clock = clock
        self._entropy: Entropy = entropy or ENTROPY
        self._draw = self._entropy.randbytes
        self._chunk = config.chunk_keys
        self._max_batch_keys = config.max_batch_keys
        self.policy = config.effective_policy
        self._raises = self.policy.on_read_error == "raise"
        self.timeouts = StoreTimeouts(config.redis.operation_timeout_s)
        self._operation_s = self.timeouts.operation_s
        self.keys = config.keys
        # The keys that were used are kept: making one costs as much as the rest of a read.
        self._texts = Known(self._resolved, MOST_KEYS)
        self._built = Known(self._resolved, MOST_KEYS)
        self._known_tags = Known(self.keys.tag)
        self._named = Known(self._named_of)
        self._policies = Known(self._policy_of)
        self.signer = config.signer
        self._codec_of = partial(codec_of, config, self.signer)
        self._codecs = Known(self._codec_of)
        self._glance, self._glance_many = glances(are_signed=self.signer is not None)
        self._exact_policies = Known(self._exact)

    @property
    def is_disabled(self) -> bool:
        """Whether the cache is switched off, and nothing is told to anybody."""
        return self._coordinator.is_disabled

    # Operations. A read that may be answered at the first look begins with a glance.

    def get(self, key: str, type: Any) -> Beginning:
        """Begin a get."""
        full, check = self._texts[key] if key.__class__ is str else self._known(key)
        codec, now_s, coordinator = self.codec(type), self.clock(), self._coordinator
        if self._hearing.wants_hits or not (coordinator.may_glance_at_all or coordinator.may_glance(full)):
            skip = coordinator.skip(full) if coordinator.must_ask else None
            return get(self._read_request(full, codec, now_s), skip=skip)
        command = ReadCell(full, self._operation_s)
        return self._glance(command, codec, check + codec.stamp, _GET, now_s, self._begin_get)

    def _begin_get(self, glance: Glance) -> Step:
        return get(self._read_request(glance.command.key, glance.codec, glance.started_s))

    def _read_request(self, full: str, codec: Codec[Any], now_s: float) -> ReadRequest:
        return ReadRequest(full, codec, self.timeouts, now_s, self._raises, self._coordinator.bypassed)

    def get_many(self, keys: Iterable[str], type: Any) -> tuple[Sequence[str], Beginning]:
        """Begin to read many keys; also gives the keys as the caller wrote them, once each."""
        known = self._known_all(keys)
        fulls, checks = zip(*known.values(), strict=True) if known else ((), ())
        codec, now_s = self.codec(type), self.clock()
        if not known or not self._may_glance(fulls):
            request = self._read_many_request(fulls, codec, now_s)
            return tuple(known), get_many(request, skip=self._skip_many(fulls, ()))
        command = ReadCells(fulls, self._chunk, self._operation_s)
        begin = self._begin_get_many
        return tuple(known), self._glance_many(command, codec, checks, _GET_MANY, now_s, begin)

    def _begin_get_many(self, glance: GlanceMany) -> Step:
        return get_many(self._read_many_request(glance.command.keys, glance.codec, glance.started_s))

    def _read_many_request(self, fulls: tuple[str, ...], codec: Codec[Any], now_s: float) -> ReadManyRequest:
        bypassed = self._coordinator.bypassed
        return ReadManyRequest(fulls, codec, self._chunk, self.timeouts, now_s, self._raises, bypassed)

    def get_or_load(
        self,
        key: str,
        loader: Any,
        type: Any,
        ttl: AnyTtl | None,
        tags: Iterable[str],
        policy: Policy | None,
    ) -> Beginning:
        """Begin a get-or-load."""
        full, check = self._texts[key] if key.__class__ is str else self._known(key)
        if not callable(loader):
            refuse_uncallable(loader)
        named = NO_NAMED_TAGS if tags == () else self._tags_named(tags)
        codec = self.codec(type)
        chosen = self.policy if ttl is None and policy is None else self.chosen_policy(ttl, policy)
        now_s, coordinator = self.clock(), self._coordinator
        if (
            self._hearing.wants_hits
            or chosen.refreshes_early
            or not (coordinator.may_glance_at_all or coordinator.may_glance(full, *named.keys))
        ):
            skip = self._skip_any((full, *named.keys)) if coordinator.must_ask else None
            return get_or_load(self._load_request(full, codec, chosen, now_s, named), skip=skip)
        stamp = check + (stamp_of(codec, named) if named.names else codec.stamp)
        command = ReadCell(full, self._operation_s, named.keys)
        return self._glance(command, codec, stamp, _GET_OR_LOAD, now_s, self._begin_load, chosen, named)

    def _begin_load(self, glance: Glance) -> Step:
        policy = glance.policy
        assert policy is not None
        return get_or_load(
            self._load_request(glance.command.key, glance.codec, policy, glance.started_s, glance.tags)
        )

    def _load_request(
        self, full: str, codec: Codec[Any], policy: Policy, now_s: float, named: NamedTags
    ) -> LoadRequest:
        drawn, bypassed = self._draw(RANDOM_BYTES), self._coordinator.bypassed
        return LoadRequest(full, codec, policy, drawn, self.timeouts, now_s, named.names, bypassed)

    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Any,
        type: Any,
        ttl: AnyTtl | None,
        tags: Iterable[str],
        policy: Policy | None,
    ) -> tuple[Sequence[str], Beginning]:
        """Begin a get-or-load of many keys; also gives the keys as the caller wrote them, once each."""
        known = self._known_all(keys)
        refuse_uncallable(loader)
        named = self._tags_named(tags)
        codec, chosen, now_s = self.codec(type), self.chosen_policy(ttl, policy), self.clock()
        if not known:
            return (), nothing_to_load()
        names = tuple(known)
        fulls, checks = zip(*known.values(), strict=True)
        if not self._may_glance((*fulls, *named.keys)):
            request = self._load_many_request(fulls, names, codec, chosen, now_s, named)
            return names, load_many(request, skip=self._skip_many(fulls, named.keys))
        command = ReadCells(fulls, self._chunk, self._operation_s, named.keys)
        begin = self._begin_load_many
        return names, self._glance_many(
            command, codec, checks, _GET_OR_LOAD_MANY, now_s, begin, names, chosen, named
        )

    def _begin_load_many(self, glance: GlanceMany) -> Step:
        policy = glance.policy
        assert policy is not None
        fulls, names = glance.command.keys, glance.names
        return load_many(
            self._load_many_request(fulls, names, glance.codec, policy, glance.started_s, glance.tags)
        )

    def _load_many_request(
        self,
        fulls: tuple[str, ...],
        names: tuple[str, ...],
        codec: Codec[Any],
        policy: Policy,
        now_s: float,
        named: NamedTags,
    ) -> LoadManyRequest:
        each = self._load_request(fulls[0], codec, policy, now_s, named)
        return LoadManyRequest(fulls, names, self._chunk, each)

    def _may_glance(self, keys: Iterable[str]) -> bool:
        """Whether a read of these keys and tags may be answered at the first look."""
        return not self._hearing.wants_hits and self._coordinator.may_glance(*keys)

    def set(self, key: str, value: Any, ttl: AnyTtl | None, tags: Iterable[str], type: Any) -> Step:
        """Begin to store a value."""
        full, _ = self._texts[key] if key.__class__ is str else self._known(key)
        return self._store(OperationName.SET, {full: value}, ttl, tags, type)

    def set_many(
        self, values: Mapping[str, Any], ttl: AnyTtl | None, tags: Iterable[str], type: Any
    ) -> tuple[Sequence[str], Step]:
        """Begin to store values; also gives the keys as the caller wrote them."""
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"set_many takes a mapping of keys to values; got {values.__class__.__name__}"
            )
        resolved = self.resolve_all(values)
        by_key = {full: values[key] for key, full in resolved.items()}
        if len(by_key) < len(resolved):
            raise InvalidKeyError("two of the keys name one entry, which can have one value only")
        return tuple(resolved), self._store(OperationName.SET_MANY, by_key, ttl, tags, type)

    def _store(
        self, name: OperationName, values: dict[Key, Any], ttl: AnyTtl | None, tags: Iterable[str], type: Any
    ) -> Step:
        chosen, codec, keys = self.kept_for(ttl), self.codec(type), tuple(values)
        policy = chosen or self.policy  # what cannot be stored is refused, however long it is to live
        items = tuple(self._item(key, value, codec, policy) for key, value in values.items())
        if chosen is None:
            return self._remove(name, keys)
        request = SetRequest(
            operation=name,
            items=items,
            nonce=self._nonce(),
            hold_ms=chosen.lease_ms,
            chunk=self._chunk,
            timeouts=self.timeouts,
            started_s=self.clock(),
            tags=() if tags == () else self.tag_names(tags),
        )
        return set_many(request, skip=self._coordinator.begin_write(keys, request.started_s))

    def invalidate(self, keys: Iterable[str], tags: Iterable[str] = ()) -> Step:
        """Begin to remove keys, and to invalidate tags."""
        return self.invalidation(keys, tags)()

    def invalidation(self, keys: Iterable[str], tags: Iterable[str]) -> Callable[[], Step]:
        """Check what is to be invalidated; it begins when the function that is given back is called."""
        gone = (*self.resolve_all(keys).values(), *tag_keys(self.keys.root, self.tag_names(tags)))
        if not gone:
            raise InvalidKeyError(
                "nothing is named that is to be invalidated: pass keys, as in invalidate('user:7'), or tags, "
                "as in invalidate(tags=['users']); clear() removes everything"
            )
        return lambda: self._remove(OperationName.INVALIDATE, gone, looks=len(gone) == 1 and not tags)

    def expire(self, keys: Iterable[str]) -> Step:
        """Begin to make values stale."""
        stale = tuple(self.resolve_all(keys).values())
        if not stale:
            raise InvalidKeyError("nothing is named that is to expire: pass keys, as in expire('user:7')")
        return self._remove(OperationName.EXPIRE, stale, soft=True)

    def clear(self) -> Step:
        """Begin to remove everything in the namespace."""
        return self.delete_pattern(self.keys.everything())

    def delete_pattern(self, pattern: str, *, dry_run: bool = False) -> Step:
        """Begin to remove keys by pattern."""
        request = PatternRequest(
            self.keys, self.keys.glob(pattern), self._chunk, self.timeouts, self.clock(), dry_run
        )
        self._coordinator.begin_pattern(request)
        return delete_pattern(request, skip=self._coordinator.is_disabled)

    def wait_ready(self, limit_s: float) -> Step:
        """Begin to wait until the store serves."""
        if self._coordinator.is_disabled:
            return ended(Completed())
        return wait_ready(limit_s, self.clock())

    def _remove(
        self, operation: OperationName, keys: tuple[str, ...], *, soft: bool = False, looks: bool = False
    ) -> Step:
        now_s = self.clock()
        request = InvalidateRequest(operation, keys, self._chunk, self.timeouts, now_s, soft, looks)
        coordinator = self._coordinator
        skip = coordinator.skip_write(keys) if soft else coordinator.begin_write(keys, now_s)
        return invalidate(request, skip=skip)

    # Parts of a mutation.

    def begin(self, keys: tuple[str, ...], value_tags: tuple[str, ...]) -> Step:
        """Begin to hold keys."""
        policy = self.policy
        hard_ttl_ms, _ = policy.expiry_ms(1.0)
        request = MutateRequest(
            keys,
            self._nonce(),
            policy.lease_ms,
            policy.max_lease_s,
            self.timeouts,
            self.clock(),
            value_tags,
            # How long the values will live is not known yet.
            2 * max(hard_ttl_ms, _LONGEST_VALUE_MS),
        )
        return begin(request, skip=self._coordinator.begin_write(keys, request.started_s))

    def end(
        self, keys: tuple[str, ...], tags: tuple[str, ...], held: ManyHeld, items: Iterable[Item]
    ) -> Step:
        """Begin the end of a mutation."""
        now_s, timeouts = self.clock(), self.timeouts
        hold_ms = unrenewed_hold_ms(held.renewal, self.policy.max_lease_s, now_s)
        request = EndRequest(keys, held.grants, tuple(items), timeouts, now_s, tags, held.versions, hold_ms)
        return end(request, skip=self._coordinator.begin_write((*keys, *tags), now_s))

    def item(self, key: str, value: Any, ttl: AnyTtl | None, type: Any) -> Item | None:
        """One value to store; None where it has nothing left to live."""
        codec, chosen = self.codec(type), self.kept_for(ttl)
        item = self._item(key, value, codec, chosen or self.policy)
        return None if chosen is None else item

    def kept_for(self, ttl: AnyTtl | None) -> Policy | None:
        """How a value is kept that is written; None where it has nothing left to live.

        Raises:
            InvalidTtlError: The ttl is no number, or NaN.
        """
        if ttl is None or isinstance(ttl, Policy):
            return self.chosen_policy(ttl, None)
        if isinstance(ttl, Exact):
            return self._exact_policies[ttl.ttl_s] if ttl.ttl_s else None
        left_s = life_s(ttl)
        return self.policy.with_ttl(left_s) if left_s else None

    # Arguments.

    def _nonce(self) -> bytes:
        return self._draw(NONCE_BYTES)

    def codec(self, type: Any) -> Codec[Any]:
        """How values of a type are stored.

        Raises:
            ConfigurationError: They cannot be stored so that they come back equal.
        """
        try:
            return self._codecs[type]
        except TypeError:  # it cannot be hashed
            return self._codec_of(type)

    def _item(self, key: str, value: Any, codec: Codec[Any], policy: Policy) -> Item:
        draw = self._entropy.random()
        if value is None:
            return Item(key, codec, None, *policy.negative_expiry_ms(None, draw))
        try:
            payload = codec.encode(value).payload
        except SerializationError as error:
            raise error.of(key) from error.__cause__
        return Item(key, codec, payload, *policy.expiry_ms(draw))

    def _tags_named(self, tags: Iterable[str]) -> NamedTags:
        """The tags of a call. Those used are kept, as calls name the same ones again and again."""
        if isinstance(tags, list | tuple) and len(tags) == 1 and type(tags[0]) is str:
            return self._named[tags[0]]
        given = tuple(listed("tags= takes", "tag", tags))
        # With their classes: a text may equal a name as the cache uses it inside, and mean another tag.
        kinds = (*map(type, given), None)
        try:
            return self._named[kinds + given]
        except TypeError:  # one cannot be hashed, and is no tag
            return self._named_of(kinds + given)

    def _named_of(self, given: str | tuple[Any, ...]) -> NamedTags:
        """The tag of a text; or the tags of a call, after their classes and None."""
        names = self.tag_names((given,) if isinstance(given, str) else given[len(given) // 2 + 1 :])
        return named_tags(names, tag_keys(self.keys.root, names)) if names else NO_NAMED_TAGS

    def tag_names(self, tags: Iterable[str]) -> tuple[str, ...]:
        """The names of tags, as cells hold them, once each."""
        names = tuple(dict.fromkeys(map(self._tag, listed("tags= takes", "tag", tags))))
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
        if not self._coordinator.must_ask:
            return None
        return next((reason for key in keys if (reason := self._coordinator.skip(key)) is not None), None)

    def _skip_many(self, keys: Sequence[str], tags: Sequence[str]) -> MissReason | None:
        """The same of a batch, of which some keys may be served where others are not."""
        return self._coordinator.skip_many(keys, tags) if self._coordinator.must_ask else None

    def chosen_policy(self, ttl: AnyTtl | None, policy: Policy | None) -> Policy:
        """How an entry is kept: as the call says, or as the cache does.

        Raises:
            ConfigurationError: The policy is none, or two are given.
            InvalidTtlError: The ttl is no time to live.
        """
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"policy is a Policy; got {policy.__class__.__name__}")
        if isinstance(ttl, Policy):
            if policy is not None:
                raise ConfigurationError("give ttl= or policy= a Policy, not both")
            return ttl
        if isinstance(ttl, Exact):
            given = self._exact_policies[ttl.ttl_s]
            return given if policy is None else attrs.evolve(policy, ttl=given.ttl, jitter=NO_JITTER)
        if ttl is None:
            return policy or self.policy
        if policy is not None:
            return policy.with_ttl(ttl)
        try:
            return self._policies[ttl.__class__, ttl]
        except TypeError:  # it cannot be hashed, and is no time to live
            return self.policy.with_ttl(ttl)

    def _policy_of(self, kind_and_ttl: tuple[Any, Ttl]) -> Policy:
        """The cache's policy with another time to live: made once for each, as it takes as long as a hit."""
        return self.policy.with_ttl(kind_and_ttl[1])

    def _exact(self, ttl_s: float) -> Policy:
        """How an entry is kept that lives for exactly so long. Those used last are kept: one costs a read."""
        return attrs.evolve(self.policy, ttl=ttl_s, jitter=NO_JITTER)

    def some(self, what: str, given: Iterable[Any]) -> Iterator[Any]:
        """Keys, or ids, one by one, as many as one call may name."""
        for count, each in enumerate(listed("pass", what, given), start=1):
            if count > self._max_batch_keys:
                raise InvalidKeyError(
                    f"one call may name {self._max_batch_keys} {what}s, and here are more: split it into "
                    "several calls, or raise max_batch_keys"
                )
            yield each

    def resolve_all(self, keys: Iterable[str]) -> dict[str, Key]:
        """Full keys by the keys as the caller wrote them, once each."""
        return {name: full for name, (full, _) in self._known_all(keys).items()}

    def _known_all(self, keys: Iterable[str]) -> dict[str, tuple[Key, bytes]]:
        """The same, each with what it is known by in entries."""
        texts, known = self._texts, self._known
        return {key: texts[key] if key.__class__ is str else known(key) for key in self.some("key", keys)}

    def _known(self, key: str) -> tuple[Key, bytes]:
        """The full key of what is no plain text, with what it is known by in entries."""
        return self._built[key] if key.__class__ is Key else self._resolved(key)

    def _resolved(self, key: str) -> tuple[Key, bytes]:
        full = self.keys.resolve(key)
        return full, key_check(full)


def listed(verb: str, what: str, given: Iterable[Any]) -> Iterable[Any]:
    """Several things that a caller passes, and not one text, whose letters would be them."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidKeyError(
            f"{verb} a list of {what}s, not one {what}, as in [{what}]; got {given.__class__.__name__}"
        )
    return given
