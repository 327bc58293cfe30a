"""The requests of the primitives: look, touch, add, swap, update, lock, scan. As `request_builder.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from sansio_cache.cell import NONCE_BYTES
from sansio_cache.entry import MissReason
from sansio_cache.errors import ConfigurationError, InvalidTtlError
from sansio_cache.loader import LoadContext
from sansio_cache.notices import OperationName
from sansio_cache.operations.add import AddRequest, add
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.lock import LockRequest, take
from sansio_cache.operations.lookup import Longer, LookRequest, look
from sansio_cache.operations.scan import nothing_found, scan
from sansio_cache.operations.set_many import Item
from sansio_cache.operations.swap import SwapRequest, swap
from sansio_cache.operations.update import Amount, UpdateRequest, refuse_nothing, update
from sansio_cache.step import Step
from sansio_cache.tags import VERSION_BYTES, tag_keys
from sansio_cache_runtime.loaders import is_coroutine_function, refuse_uncallable
from sansio_cache_runtime.request_builder import AnyTtl, RequestBuilder

_LONGEST_LEASE_S = 3600.0
_LONGEST_WAIT_S = 86_400.0


class PrimitiveRequests(RequestBuilder):
    """Makes the first steps of all operations for one cache."""

    def lookup(self, key: str, type: Any) -> Step:
        """Begin to look an entry up."""
        return self._look(key, OperationName.LOOKUP, type=type, wants_value=True)

    def inspect(self, key: str) -> Step:
        """Begin to look an entry up, of whatever type, without its value."""
        return self._look(key, OperationName.LOOKUP)

    def touch(self, key: str, ttl: AnyTtl) -> Step:
        """Begin to let an entry live longer."""
        return self._look(key, OperationName.TOUCH, longer=self._longer(ttl))

    def renew(self, key: str, type: Any, ttl: AnyTtl) -> Step:
        """Begin to read a value, and to let it live longer."""
        longer = self._longer(ttl)
        return self._look(key, OperationName.GET, type=type, wants_value=True, longer=longer)

    def _look(
        self,
        key: str,
        operation: OperationName,
        *,
        type: Any = None,
        wants_value: bool = False,
        longer: Longer | None = None,
    ) -> Step:
        full = self.keys.resolve(key)
        codec = self.codec(type) if wants_value else None
        request = LookRequest(
            full,
            codec,
            self.timeouts,
            self.clock(),
            operation,
            self._raises,
            self._coordinator.bypassed,
            longer,
            self.signer,
        )
        return look(request, skip=self._skip_any((full,)))

    def _longer(self, ttl: AnyTtl) -> Longer:
        if ttl is None:  # elsewhere it is the cache's own, and here it would be a surprise
            raise InvalidTtlError(
                "touch needs a time to live: seconds, a timedelta, a Tier or a Policy; got None"
            )
        policy = self.chosen_policy(ttl, None)
        return Longer(math.ceil(policy.ttl * 1000), policy.max_life_ms, self._nonce())

    def add(self, key: str, value: Any, ttl: AnyTtl | None, tags: Iterable[str], type: Any) -> Step:
        """Begin to store a value where there is none."""
        full, policy, names = self.keys.resolve(key), self.chosen_policy(ttl, None), self.tag_names(tags)
        refuse_nothing(value)
        request = AddRequest(
            self._item(full, value, self.codec(type), policy),
            *self.drawn(),
            policy.lease_ms,
            policy.wait_s,
            self.timeouts,
            self.clock(),
            names,
        )
        self._coordinator.begin_write((full,), request.started_s)
        return add(request, skip=self._skip_any((full, *tag_keys(full, names))))

    def swap(self, key: str, value: Any, version: bytes, ttl: AnyTtl | None, type: Any) -> Step:
        """Begin to replace a value."""
        full = self.keys.resolve(key)
        if not isinstance(version, bytes) or len(version) != VERSION_BYTES:
            hint = ": there is no entry to be replaced, and add(…) makes one" if version is None else ""
            raise ConfigurationError(
                f"version= takes the version that lookup(…) gave, {VERSION_BYTES} bytes; got "
                f"{version.__class__.__name__}{hint}"
            )
        refuse_nothing(value)
        item = Item(full, codec := self.codec(type), codec.encode(value).payload, *self._kept_ms(ttl))
        request = SwapRequest(item, version, self._nonce(), self.timeouts, self.clock())
        self._coordinator.begin_write((full,), request.started_s)
        return swap(request, skip=self._skip_any((full,)))

    def update(
        self, key: str, ttl: AnyTtl | None, type: Any, wait_s: float, amount: Amount | None = None
    ) -> Step:
        """Begin to change a value: by a function, or by an amount. `wait_s` is what is left of the time."""
        full = self.keys.resolve(key)
        nonce, seed = self.drawn()
        request = UpdateRequest(
            full,
            self.codec(type),
            *self._kept_ms(ttl),
            nonce,
            seed,
            wait_s,
            self.timeouts,
            self.clock(),
            amount,
            self._coordinator.bypassed,
        )
        self._coordinator.begin_write((full,), request.started_s)
        return update(request, skip=self._skip_any((full,)))

    def lock(self, name: str, lease_s: float, wait_s: float | None) -> LockRequest:
        """Which lock is to be taken. Its time to wait has begun."""
        _check_seconds("lease_s", lease_s, 0.02, _LONGEST_LEASE_S)
        wait_s = self.policy.wait_s if wait_s is None else wait_s
        _check_seconds("wait_s", wait_s, 0.0, _LONGEST_WAIT_S)
        full = self.keys.lock(name)
        nonce, seed = self.drawn()
        lease_ms = math.ceil(lease_s * 1000)
        return LockRequest(full, nonce, seed, lease_ms, wait_s, self.timeouts, self.clock())

    def take(self, request: LockRequest) -> Step:
        """Begin to take a lock."""
        return take(request, now_s=self.clock(), skip=self._skip_any((request.key,)))

    def scan(self, pattern: str, cursor: int) -> Step:
        """Begin to find a page of entries."""
        coordinator = self._coordinator
        glob = self.keys.glob(pattern)
        if coordinator.is_disabled:
            return nothing_found()
        request = PatternRequest(self.keys, glob, self._chunk, self.timeouts, self.clock())
        return scan(request, cursor, coordinator.bypassed, self.signer)

    def drawn(self) -> tuple[bytes, int]:
        """A nonce, and a seed."""
        drawn = self._draw(2 * NONCE_BYTES)
        return drawn[:NONCE_BYTES], int.from_bytes(drawn[NONCE_BYTES:])

    def is_skipped(self, key: str) -> bool:
        """Whether the store is not to be asked about a full key, as it is."""
        return self._skip_any((key,)) is not None

    def is_out(self, key: str) -> bool:
        """Whether the part of the store that has a full key does not serve, as far as is known."""
        coordinator = self._coordinator
        return coordinator.needs_recovery and coordinator.is_part_out(coordinator.part_of(key))

    def begin_write(self, keys: Iterable[str], now_s: float) -> None:
        """Remember a write that begins now, by all that it removes."""
        self._coordinator.begin_write(keys, now_s)

    def skip_write(self, keys: Iterable[str]) -> MissReason | None:
        """Why a write of these keys is not to wait for the store; None where it is to ask it."""
        return self._coordinator.skip_write(keys)

    def _kept_ms(self, ttl: AnyTtl | None) -> tuple[int, int]:
        """Hard and soft time to live of what replaces a value.

        0 where it keeps what that had left, below where nothing is left of its own.
        """
        if ttl is None:
            return 0, 0
        policy = self.kept_for(ttl)
        return (-1, 0) if policy is None else policy.expiry_ms(self._entropy.random())


def _check_seconds(name: str, given: Any, low: float, high: float) -> None:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not low <= given <= high:  # so written, it refuses NaN too
        raise ConfigurationError(f"{name} is seconds from {low:g} to {high:g}; got {given!r:.80}")


def check_amount(amount: Any) -> None:
    """Refuse what cannot be added to a number.

    Raises:
        ConfigurationError: It is none.
    """
    is_number = isinstance(amount, Amount) and not isinstance(amount, bool)
    is_infinite = (isinstance(amount, float) and not math.isfinite(amount)) or (
        isinstance(amount, Decimal) and not amount.is_finite()
    )
    if not is_number or is_infinite:
        raise ConfigurationError(f"incr adds a number, as in incr('hits', 1); got {amount!r:.80}")


def applying(function: Callable[[Any], Any]) -> Callable[[LoadContext], Any]:
    """What is called in a loader's place: a function of a value, which is to give another.

    Raises:
        ConfigurationError: It cannot be called.
    """
    refuse_uncallable(function, "what changes a value")
    if is_coroutine_function(function):

        async def apply_async(context: LoadContext) -> Any:
            return await function(context.previous)

        return apply_async

    def apply(context: LoadContext) -> Any:
        return function(context.previous)

    return apply
