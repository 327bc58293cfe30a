"""Mutations: the keys that a block writes, held while the database commits."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import signature
from typing import Any, Self

import attrs
from msgspec import Struct

from sansio_cache.errors import CacheClosedError, ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key
from sansio_cache.operations.set_many import Item
from sansio_cache.signals import let_through
from sansio_cache.step import ManyHeld, ManyInvalidated, Outcome, Step
from sansio_cache.tags import tag_keys
from sansio_cache_runtime.request_builder import AnyTtl, RequestBuilder, listed
from sansio_cache_runtime.results import InvalidateResult, WriteResult, told


@attrs.define
class HeldKeys:
    """The keys that a block writes, and what is to be stored for them when it has ended."""

    _requests: RequestBuilder
    _resolved: dict[str, Key]
    _tags: tuple[str, ...]
    _value_tags: tuple[str, ...]
    _type: Any = None
    _ttl: AnyTtl | None = None
    _unnamed: tuple[str, ...] = ()
    """Keys of tags that end with the block, and that its caller has not named: the result counts no such."""
    _items: dict[str, Item] = attrs.field(factory=dict, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    result: InvalidateResult | None = attrs.field(default=None, init=False)
    """What became of the keys and tags, once the block has ended: of how many the store was told, be it that
    they are gone or that their values are stored, and of how many it could not be told."""
    stored: int = attrs.field(default=0, init=False)
    """How many of the values that were set the store holds, once the block has ended."""
    unstored: dict[Any, str] = attrs.field(factory=dict, init=False)
    """Why the others were not stored, by the keys as the caller wrote them, once the block has ended.

    `"overtaken"`: another writer came between. `"store_error"`: the store is away, or was as the block
    began. `"outlived"`: nothing of its time to live was left. `"raised"`: the block raised. `"disabled"`: the
    cache is switched off.
    """
    _given: dict[str, bool] = attrs.field(factory=dict, init=False)
    """The keys whose values were set, and whether anything was left of their lives."""
    _why: str = attrs.field(default="overtaken", init=False)
    """Why a value is not stored that has a life."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The full keys, once each."""
        return tuple(dict.fromkeys(self._resolved.values()))

    def again(self) -> Self:
        """The same mutation, as it was before it began."""
        return attrs.evolve(self)

    def begin(self) -> Step:
        """Begin to hold the keys."""
        return self._requests.begin(self.keys, self._value_tags)

    def end(self, held: ManyHeld, *, raised: bool) -> Step:
        """Begin the end; a block that raised may have committed, so nothing of it is stored."""
        self._has_ended = True
        if raised:
            self._items.clear()
            self._why = "raised"
        elif held.grants is None:
            self._why = "store_error"
        gone = (*self._tags, *self._unnamed)
        return self._requests.end(self.keys, gone, held, self._items.values())

    def conclude(self, outcome: Outcome, *, raises: bool) -> None:
        """Take in what came of it.

        Raises:
            CacheConnectionError: The store could not be told of something, and the policy says to raise.
        """
        assert isinstance(outcome, ManyInvalidated)
        count = 0 if self._requests.is_disabled else len(self.keys) + len(self._tags)
        failed = sum(key not in self._unnamed for key in outcome.failed)
        self.result = InvalidateResult(count - failed, failed or int(bool(outcome.failed)))
        if count:
            self.stored = len(self._items.keys() - {*outcome.done, *outcome.failed})
        self.unstored = {
            name: self._reason(full, outcome)
            for name, full in self._resolved.items()
            if full in self._given and (not count or full in outcome.done or full in outcome.failed)
        }
        told(self.result, outcome, raises=raises)

    def _reason(self, full: Key, outcome: ManyInvalidated) -> str:
        """Why a value is not stored."""
        if self._requests.is_disabled:
            return "disabled"
        if not self._given[full]:
            return "outlived"
        if self._why != "raised" and (outcome.instead or full in outcome.failed):
            return "store_error"
        return self._why

    def _put(self, full: Key, value: Any, ttl: AnyTtl | None, type: Any) -> None:
        """Take in what is to be stored for a key.

        Raises:
            CacheClosedError: The block has ended.
            SerializationError: The value cannot be stored so that it comes back equal.
        """
        if self._has_ended:
            raise CacheClosedError("the mutation has ended: set its values inside the block")
        self._items.pop(full, None)
        item = self._requests.item(full, value, ttl, type)
        self._given[full] = item is not None
        if item is not None:
            self._items[full] = item


@attrs.define
class Mutation(HeldKeys):
    """A mutation of keys of any kind: see `Cache.mutate`."""

    def set(self, key: str, value: Any, *, ttl: AnyTtl | None = None, type: Any = None) -> None:
        """Store this value when the block has ended. What is not set is invalidated.

        Args:
            key: One of the keys of the mutation.
            value: What the database holds once the block has committed; None where that is nothing.
            ttl: How long the entry is fresh, in seconds or as a timedelta, tier or policy. Where nothing is
                left of it, the key is invalidated.
            type: What the value is stored as; see `Cache.set`.

        Raises:
            InvalidKeyError: The mutation was not begun for this key.
            CacheClosedError: The block has ended.
            SerializationError: The value cannot be stored so that it comes back equal.
        """
        full = self._requests.keys.resolve(key)
        if full not in self.keys:
            raise InvalidKeyError(f"{key!r} is not one of this mutation's keys: name it in mutate(...)")
        self._put(full, value, self._ttl if ttl is None else ttl, self._type if type is None else type)


class Writing(Struct, frozen=True):
    """One write: its keys are held, the writer is called, and then they are settled.

    Args:
        mutation: Holds the keys.
        values: What is stored when the writer has committed.
        ttl: How it is kept.
        calls: The writers, with what they are called with.
        is_each: Whether a writer is called for each of many values, so that the answer is a list.
    """

    mutation: HeldKeys
    values: Mapping[Key, Any]
    ttl: AnyTtl
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]
    is_each: bool = False

    def committed(self) -> None:
        """The database has what was written: it is stored when the block ends, where the strategy says so."""
        for key, value in self.values.items():
            self.mutation._put(key, value, self.ttl, self.mutation._type)  # noqa: SLF001 - of this module

    def result(self, returned: list[Any]) -> WriteResult:
        """What the call gives, when the block has ended."""
        settled = self.mutation.result
        assert settled is not None
        answer = returned if self.is_each else returned[0]
        return WriteResult(settled.done, settled.remembered, self.mutation.stored, answer)


def plan_mutation(
    requests: RequestBuilder, keys: Iterable[str], tags: Iterable[str], value_tags: Iterable[str]
) -> Mutation:
    """Plan a mutation of some keys, which invalidates some tags, and whose values carry others.

    Raises:
        InvalidKeyError: Nothing is named, a key or tag cannot be one, there are too many, or a tag is both.
    """
    gone, carried = gone_and_carried(requests, tags, value_tags)
    resolved = requests.resolve_all(keys)
    if not resolved and not gone:
        raise InvalidKeyError(
            "nothing is named that is to be mutated: pass keys, as in mutate('user:7'), or tags, as in "
            "mutate(tags=['users'])"
        )
    return Mutation(requests, resolved, tag_keys(requests.keys.root, gone), carried)


def gone_and_carried(
    requests: RequestBuilder, tags: Iterable[str], value_tags: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the tags that a mutation invalidates, and of those that its values carry.

    Raises:
        InvalidKeyError: A tag cannot be one, there are too many, or one is both.
    """
    gone, carried = requests.tag_names(tags), requests.tag_names(value_tags)
    if both := sorted(set(gone) & set(carried)):
        raise InvalidKeyError(
            f"the tag {both[0].partition(':')[2]!r} is in tags= and in value_tags=: the mutation "
            "would take away what it stores"
        )
    return gone, carried


def takes_two(name: str, writer: Any, write_many: Any, *, is_queued: bool) -> bool:
    """Whether a writer is called with the id and the value, as it cannot be called with the value alone.

    Raises:
        ConfigurationError: It can be called in neither way; or what writes many cannot be called with values.
    """
    token, tokens = ("token", "tokens") if is_queued else ("", "")
    if write_many is not None:
        _arguments_of(f"write_many= of the entity {name!r} is called with the values", write_many, tokens, 1)
    if writer is None:
        return False
    said = f"writer= of the entity {name!r} is called with a value, or with an id and a value"
    return _arguments_of(said, writer, token, 2) > 1


def _arguments_of(said: str, function: Any, keyword: str, most: int) -> int:
    """With how many arguments a function can be called, and with a keyword where it takes that.

    Raises:
        ConfigurationError: With none of 1 to `most`.
    """
    try:
        parameters = signature(function)
    except (TypeError, ValueError) as error:  # built in, and does not say
        let_through(error)
        return 1
    named = {keyword: None} if keyword and keyword in parameters.parameters else {}
    for count in range(1, most + 1):
        try:
            parameters.bind(*[None] * count, **named)
        except TypeError as error:
            let_through(error)
        else:
            return count
    also = f", and with {keyword}= where it takes that" if keyword else ""
    raise ConfigurationError(f"{said}{also}; it takes {parameters}")


def plain_tags(tags: Iterable[Any], fields: Collection[str], whose: str, instead: str) -> tuple[Any, ...]:
    """Tags as they are given to a decorator or an entity: names, and nothing that is written as a template.

    Args:
        tags: What was given.
        fields: What a template could name there.
        whose: To what they were given, for the message; empty where that goes without saying.
        instead: What to write, with a place for the tag.

    Raises:
        ConfigurationError: One has a field in braces, which nobody would fill in.
        InvalidKeyError: They are one text.
    """
    named = tuple(listed("tags= takes", "tag", tags))
    for each in named:
        if isinstance(each, str) and not set(fields).isdisjoint(re.findall(r"\{(\w+)", each)):
            raise ConfigurationError(
                f"tags={whose} are names, and are not filled in: {each!r:.80}; for tags by "
                f"{instead.format(f'{each!r:.80}')}"
            )
    return named
