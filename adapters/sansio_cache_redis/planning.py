"""Planning: from a call of the public API to the first step of a machine.

Both caches do this the same way, and none of it is I/O: check the arguments, resolve keys, types and times
to live, draw the random numbers that the machine will need. What is wrong with a call is said here, before
anything has happened.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import CO_COROUTINE, iscoroutinefunction
from types import FunctionType
from typing import Any, Protocol

import attrs

from sansio_cache.budget import Patience
from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec, codec_for
from sansio_cache.config import CacheConfig
from sansio_cache.entry import seal
from sansio_cache.errors import CacheClosedError, ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key
from sansio_cache.notices import OperationName
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import LoadRequest, get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.recovery import recover
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.policy import Policy
from sansio_cache.step import Step
from sansio_cache.ttl import Ttl
from sansio_cache_redis.ledger import Ledger

AnyTtl = Ttl | Policy
"""What `ttl=` takes: seconds, a timedelta, a tier, or a policy."""

_MOST_KNOWN = 1024


class Entropy(Protocol):
    """Where random numbers come from. `random.SystemRandom`, but in tests."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randbytes(self, length: int, /) -> bytes:
        """So many bytes."""
        ...


class Planner:
    """Makes the first steps of operations for one cache."""

    def __init__(
        self,
        config: CacheConfig,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.monotonic,
        entropy: Entropy | None = None,
    ) -> None:
        self._ledger = ledger
        self.clock = clock
        # The operating system's, so that a forked process draws numbers of its own.
        self._entropy: Entropy = entropy or random.SystemRandom()
        self._max_value_bytes = config.max_value_bytes
        self._chunk = config.chunk_keys
        self._max_batch_keys = config.max_batch_keys
        self._policy = config.effective_policy
        self._patience = Patience(config.redis.attempt_timeout_s, config.redis.operation_timeout_s)
        self.keys = config.keys
        self._known: dict[str, Key] = {}

    # Operations.

    def get(self, key: str, type: Any) -> Step:
        """Begin a get."""
        full = self._resolve(key)
        codec = self._codec(type)
        skip = self._ledger.skip(full)
        return get(full, codec, patience=self._patience, now_s=self.clock(), skip=skip)

    def get_many(self, keys: Iterable[str], type: Any) -> tuple[Sequence[str], Step]:
        """Begin to read many keys; also gives the keys as the caller wrote them, once each."""
        resolved = self._resolve_all(keys)
        codec = self._codec(type)
        skips = {self._ledger.skip(full) for full in resolved.values()}
        # Where some keys are to be bypassed and others not, all are: it is rare, and short.
        skip = next((reason for reason in skips if reason is not None), None)
        request = ReadManyRequest(tuple(resolved.values()), codec, self._chunk, self._patience, self.clock())
        return tuple(resolved), get_many(request, skip=skip)

    def get_or_load(
        self, key: str, loader: Any, type: Any, ttl: AnyTtl | None, policy: Policy | None
    ) -> Step:
        """Begin a get-or-load."""
        full = self._resolve(key)
        if not callable(loader):
            kind = loader.__class__.__name__
            hint = ": pass the function, not its result" if hasattr(loader, "__await__") else ""
            if hasattr(loader, "close") and hasattr(loader, "__await__"):
                loader.close()  # a coroutine that will never be awaited
            raise ConfigurationError(f"loader is a function without arguments; got {kind}{hint}")
        codec = self._codec(type)
        chosen = self._chosen(ttl, policy)
        # One visit to the operating system for all that may be needed.
        drawn = self._entropy.randbytes(NONCE_BYTES + 16)
        hard_ttl_ms, soft_ttl_ms = chosen.expiry_ms(int.from_bytes(drawn[16:]) / 2**64)
        request = LoadRequest(
            key=full,
            codec=codec,
            hard_ttl_ms=hard_ttl_ms,
            soft_ttl_ms=soft_ttl_ms,
            serve_stale=chosen.stale_for_s > 0,
            lease_ms=chosen.lease_ms,
            max_lease_s=chosen.max_lease_s,
            wait_s=chosen.wait_s,
            nonce=drawn[:NONCE_BYTES],
            seed=int.from_bytes(drawn[NONCE_BYTES:16]),
            patience=self._patience,
            started_s=self.clock(),
        )
        return get_or_load(request, skip=self._ledger.skip(full))

    def set_many(
        self,
        values: Mapping[str, Any],
        ttl: AnyTtl | None,
        type: Any,
        operation: OperationName = OperationName.SET_MANY,
    ) -> tuple[Sequence[str], Step]:
        """Begin to store values; also gives the keys as the caller wrote them."""
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"set_many takes a mapping of keys to values; got {values.__class__.__name__}"
            )
        resolved = self._resolve_all(values)
        chosen = self._chosen(ttl, None)
        codec = self._codec(type)
        items = tuple(self._item(full, values[key], codec, chosen) for key, full in resolved.items())
        request = SetRequest(
            operation=operation,
            items=items,
            nonce=self._nonce(),
            hold_ms=chosen.lease_ms,
            chunk=self._chunk,
            patience=self._patience,
            started_s=self.clock(),
        )
        return tuple(resolved), set_many(request, skip=self._ledger.is_disabled)

    def invalidate(self, keys: Iterable[str]) -> Step:
        """Begin to remove keys."""
        resolved = self._resolve_all(keys)
        request = InvalidateRequest(
            OperationName.INVALIDATE,
            tuple(resolved.values()),
            self._chunk,
            self._patience,
            self.clock(),
        )
        return invalidate(request, skip=self._ledger.is_disabled)

    def clear(self) -> Step:
        """Begin to remove everything in the namespace."""
        return self.delete_pattern(self.keys.everything())

    def delete_pattern(self, pattern: str) -> Step:
        """Begin to remove keys by pattern."""
        glob = self.keys.glob(pattern)
        if not glob.startswith(f"{self.keys.namespace}:"):
            raise InvalidKeyError(
                f"the pattern belongs to another namespace than {self.keys.namespace!r}: build it with this "
                "cache's key.pattern(...)"
            )
        request = PatternRequest(self.keys, glob, self._chunk, self._patience, self.clock())
        return delete_pattern(request, skip=self._ledger.is_disabled)

    def mutation(self, keys: Iterable[str]) -> Mutation:
        """Plan a mutation of some keys."""
        return Mutation(self, self._resolve_all(keys))

    def recovery(self, keys: Iterable[str]) -> Step:
        """Begin to wait for the store."""
        return recover(tuple(keys), self._patience)

    # Parts of a mutation.

    def begin(self, keys: tuple[str, ...]) -> Step:
        """Begin to hold keys."""
        request = MutateRequest(
            keys,
            self._nonce(),
            self._policy.lease_ms,
            self._policy.max_lease_s,
            self._patience,
            self.clock(),
        )
        return begin(request, skip=self._ledger.is_disabled)

    def end(self, keys: tuple[str, ...], grants: tuple[bytes, ...] | None, items: Iterable[Item]) -> Step:
        """Begin the end of a mutation."""
        # A disabled cache holds nothing, so there is nothing to remove.
        ended_keys = () if self._ledger.is_disabled else keys
        return end(EndRequest(ended_keys, grants, tuple(items), self._patience, self.clock()))

    def item(self, key: str, value: Any, ttl: AnyTtl | None, type: Any) -> Item:
        """One value to store."""
        return self._item(key, value, self._codec(type), self._chosen(ttl, None))

    # Arguments.

    def _nonce(self) -> bytes:
        return self._entropy.randbytes(NONCE_BYTES)

    def _codec(self, type: Any) -> Codec[Any]:
        return codec_for(type, self._max_value_bytes)

    def _item(self, key: str, value: Any, codec: Codec[Any], policy: Policy) -> Item:
        body = seal(key, codec, codec.encode(value).payload, 0.0)
        return Item(key, body, *policy.expiry_ms(self._entropy.random()))

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
        full = self._known.get(key) if type(key) is str else None
        if full is None:
            full = self.keys.resolve(key)
            if type(key) is str:
                if len(self._known) == _MOST_KNOWN:
                    self._known.clear()
                self._known[key] = full
        return full

    def _resolve_all(self, keys: Iterable[str]) -> dict[str, Key]:
        """Full keys by the keys as the caller wrote them, once each."""
        if isinstance(keys, str | bytes):
            raise InvalidKeyError("pass a list of keys, not one key: its letters would be the keys")
        if not isinstance(keys, Iterable):
            raise InvalidKeyError(f"pass a list of keys; got {keys.__class__.__name__}")
        resolved: dict[str, Key] = {}
        for count, key in enumerate(keys, start=1):
            if count > self._max_batch_keys:
                raise InvalidKeyError(
                    f"one call may name {self._max_batch_keys} keys, and here are more: split it into "
                    "several calls, or raise max_batch_keys"
                )
            full = self.keys.resolve(key)
            # A Key and a literal str may be equal as text, and yet name two entries.
            if resolved.setdefault(key, full) != full:
                raise InvalidKeyError(
                    "a built Key and a str of the same text name two different entries: "
                    "ask for them in two calls"
                )
        return resolved


@attrs.define
class Mutation:
    """The keys that a block writes, and what is to be stored for them when it has ended."""

    _planner: Planner
    _resolved: dict[str, Key]
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
        full = self._planner.keys.resolve(key)
        if full not in self.keys:
            raise InvalidKeyError(f"{key!r} is not one of this mutation's keys: name it in mutate(...)")
        self._items[full] = self._planner.item(full, value, ttl, type)

    def begin(self) -> Step:
        """Begin to hold the keys."""
        return self._planner.begin(self.keys)

    def end(self, grants: tuple[bytes, ...] | None, *, raised: bool) -> Step:
        """Begin the end; a block that raised may have committed, so nothing of it is stored."""
        self._has_ended = True
        items = () if raised else self._items.values()
        return self._planner.end(self.keys, grants, items)


def is_coroutine_function(loader: Any) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object whose call is one."""
    return iscoroutinefunction(loader) or iscoroutinefunction(getattr(loader, "__call__", None))  # noqa: B004


def refuse_coroutine_function(loader: Any) -> None:
    """Refuse a loader that the blocking cache cannot call.

    Raises:
        ConfigurationError: It is a coroutine function.
    """
    # Looked up by hand where it can be, as this is a good part of a hit.
    code = loader.__code__ if type(loader) is FunctionType else None
    if code.co_flags & CO_COROUTINE if code is not None else is_coroutine_function(loader):
        raise ConfigurationError(
            "the loader is a coroutine function: use sansio_cache_redis.anyio.Cache, or pass a plain function"
        )


def check_subscriber(subscriber: Any) -> None:
    """Refuse what cannot be told of notices.

    Raises:
        ConfigurationError: It cannot be called, or is a coroutine function.
    """
    if not callable(subscriber):
        raise ConfigurationError(
            f"subscribe takes a function of one notice; got {subscriber.__class__.__name__}"
        )
    if is_coroutine_function(subscriber):
        raise ConfigurationError(
            "the subscriber is a coroutine function, and nobody would await it: pass a plain function, which "
            "may start a task or put the notice into a queue"
        )
