"""The first steps of all operations, as a process makes them: with its clock, its nonces, what it knows.

What the adapters' request builder does for a user's call is done here for a simulated one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from sansio_cache.cell import NONCE_BYTES
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import MissReason
from sansio_cache.exploring.configuration import CODEC, TEXT, TIMEOUTS, Configuration
from sansio_cache.exploring.glancing import Kinds, glancing
from sansio_cache.exploring.simulating.rows import BUILDER, LEASE_S, LOCK_KEY, MAX_LEASE_S, PLAIN, WAIT_S, Row
from sansio_cache.exploring.simulating.timeline import Random
from sansio_cache.glance import NO_NAMED_TAGS, named_tags
from sansio_cache.notices import OperationName
from sansio_cache.operations.add import AddRequest
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.invalidate import InvalidateRequest
from sansio_cache.operations.loading import RANDOM_BYTES
from sansio_cache.operations.lock import LockRequest, take
from sansio_cache.operations.lookup import Longer, LookRequest, look
from sansio_cache.operations.mutate import EndRequest, MutateRequest
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.operations.renewal import unrenewed_hold_ms
from sansio_cache.operations.scan import scan
from sansio_cache.operations.set_many import Item, SetRequest
from sansio_cache.operations.swap import SwapRequest, swap
from sansio_cache.operations.update import UpdateRequest
from sansio_cache.step import ManyHeld, Step

CHUNK: Final = 3
"""How many keys go into one command: few, so that a batch takes several."""
LEASE_MS: Final = round(LEASE_S * 1000)
LOCK_LEASE_S: Final = 0.3


@attrs.define(eq=False)
class Calls:
    """Makes the first steps of operations for one process.

    Args:
        machines: Which operations those are, or wrong ones.
        coordinator: What the process knows of the store.
        random: For nonces and draws.
        clock: The process's.
    """

    machines: Configuration
    coordinator: Coordinator
    random: Random
    now_s: float = 0.0
    """To be set before each call."""

    def _nonce(self) -> bytes:
        return self.random.randbytes(NONCE_BYTES)

    def _skip(self, keys: Iterable[str], kinds: Kinds | None = None) -> MissReason | None:
        if kinds is not None or not self.coordinator.must_ask:
            return None
        return next((reason for key in keys if (reason := self.coordinator.skip(key)) is not None), None)

    def codec(self, row: Row, *, is_text: bool) -> Codec[Any]:
        """How a row is stored by one version of the program."""
        return TEXT if is_text and row.has_versions else CODEC

    # Reads.

    def get(self, row: Row, codec: Codec[Any]) -> Step:
        """Begin a get."""
        kinds = self._kinds((row.key,))
        request = ReadRequest(row.key, codec, TIMEOUTS, self.now_s, False, self.coordinator.bypassed)
        step = get(request, skip=self._skip((row.key,), kinds))
        return self._glancing(kinds, step, OperationName.GET, codec)

    def get_many(self, rows: tuple[Row, ...], codec: Codec[Any]) -> Step:
        """Begin to read many keys."""
        keys, bypassed = tuple(row.key for row in rows), self.coordinator.bypassed
        kinds = self._kinds(keys)
        request = ReadManyRequest(keys, codec, CHUNK, TIMEOUTS, self.now_s, False, bypassed)
        step = get_many(request, skip=self._skip(keys, kinds))
        return self._glancing(kinds, step, OperationName.GET_MANY, codec)

    def load(self, row: Row, codec: Codec[Any]) -> Step:
        """Begin a get-or-load."""
        keys = (row.key, *row.tag_keys)
        kinds = None if row.policy.refreshes_early else self._kinds(keys)
        step = self.machines.load(self._load_request(row, codec), skip=self._skip(keys, kinds))
        return self._glancing(kinds, step, OperationName.GET_OR_LOAD, codec, row)

    def load_many(self, rows: tuple[Row, ...], codec: Codec[Any], chunk: int = CHUNK) -> Step:
        """Begin a get-or-load of many keys that are kept alike."""
        keys = tuple(row.key for row in rows)
        kinds = self._kinds((*keys, *rows[0].tag_keys))
        request = LoadManyRequest(keys, keys, chunk, self._load_request(rows[0], codec))
        step = self.machines.load_batch(request, skip=self._skip((*keys, *rows[0].tag_keys), kinds))
        return self._glancing(kinds, step, OperationName.GET_OR_LOAD_MANY, codec, rows[0])

    def _load_request(self, row: Row, codec: Codec[Any]) -> Any:
        return self.machines.request(
            name=row.key,
            codec=codec,
            policy=row.policy,
            random_bytes=self.random.randbytes(RANDOM_BYTES),
            timeouts=TIMEOUTS,
            started_s=self.now_s,
            tags=row.tags,
            bypassed=self.coordinator.bypassed,
        )

    def _kinds(self, keys: tuple[str, ...]) -> Kinds | None:
        """How a read looks first; None where it may not."""
        return self.machines.glances if self.coordinator.may_glance(*keys) else None

    def _glancing(
        self,
        kinds: Kinds | None,
        step: Step,
        operation: OperationName,
        codec: Codec[Any],
        row: Row | None = None,
    ) -> Step:
        """Have a read look first, where it may. With a row, it names its tags."""
        if kinds is None or not isinstance(step.command, ReadCell | ReadCells):
            return step
        tags = named_tags(row.tags, row.tag_keys) if row is not None and row.is_tagged else NO_NAMED_TAGS
        policy = PLAIN if row is None else row.policy
        return glancing(kinds, operation, codec, tags, policy, step, self.now_s)

    def look(self, row: Row, codec: Codec[Any] | None, *, lengthens: bool) -> Step:
        """Begin to look an entry up, and to let it live longer."""
        longer = (
            Longer(round(row.policy.ttl * 1000), row.policy.max_life_ms, self._nonce()) if lengthens else None
        )
        request = LookRequest(
            row.key,
            codec,
            TIMEOUTS,
            self.now_s,
            bypassed=self.coordinator.bypassed,
            longer=longer,
        )
        return look(request, skip=self._skip((row.key,)))

    def scan(self, pattern: str) -> Step:
        """Begin to find what matches a glob."""
        request = PatternRequest(BUILDER, pattern, CHUNK, TIMEOUTS, self.now_s)
        return scan(request, 0, self.coordinator.bypassed)

    def wait_ready(self) -> Step:
        """Begin to wait until the store serves."""
        return wait_ready(1.0, self.now_s)

    # Writes.

    def remove(self, keys: tuple[str, ...], *, soft: bool = False, looks: bool = False) -> Step:
        """Begin to remove keys, or to make their values stale."""
        operation = OperationName.EXPIRE if soft else OperationName.INVALIDATE
        request = InvalidateRequest(operation, keys, CHUNK, TIMEOUTS, self.now_s, soft, looks)
        return self.machines.remove(request, skip=self.coordinator.skip_write(keys))

    def delete_pattern(self, pattern: str) -> Step:
        """Begin to remove keys by a glob."""
        return delete_pattern(PatternRequest(BUILDER, pattern, CHUNK, TIMEOUTS, self.now_s))

    def item(self, row: Row, codec: Codec[Any], version: int) -> Item:
        """A row as it is to be stored."""
        value = str(version) if codec is TEXT else version
        expiry_ms = row.policy.expiry_ms(self.random.random())
        return Item(row.key, codec, codec.encode(value).payload, *expiry_ms)

    def set_many(self, rows: tuple[Row, ...], items: tuple[Item, ...]) -> Step:
        """Begin to store values."""
        name = OperationName.SET if len(items) == 1 else OperationName.SET_MANY
        request = SetRequest(name, items, self._nonce(), LEASE_MS, CHUNK, TIMEOUTS, self.now_s, rows[0].tags)
        return self.machines.store_values(request, skip=self.coordinator.skip_write(row.key for row in rows))

    def begin(self, rows: tuple[Row, ...], *, carries: bool) -> Step:
        """Begin a mutation."""
        keys = tuple(row.key for row in rows)
        value_tags = rows[0].tags if carries else ()
        request = MutateRequest(
            keys,
            self._nonce(),
            LEASE_MS,
            MAX_LEASE_S,
            TIMEOUTS,
            self.now_s,
            value_tags,
            60_000,
        )
        return self.machines.begin_mutation(request, skip=self.coordinator.skip_write(keys))

    def end(
        self,
        keys: tuple[str, ...],
        tags: tuple[str, ...],
        held: ManyHeld,
        items: tuple[Item, ...],
    ) -> Step:
        """Begin the end of a mutation."""
        hold_ms = unrenewed_hold_ms(held.renewal, MAX_LEASE_S, self.now_s)
        request = EndRequest(keys, held.grants, items, TIMEOUTS, self.now_s, tags, held.versions, hold_ms)
        return self.machines.end_mutation(request, skip=self.coordinator.skip_write((*keys, *tags)))

    # Primitives.

    def add(self, row: Row, codec: Codec[Any], version: int) -> Step:
        """Begin to store a value where there is none."""
        item, seed = self.item(row, codec, version), self.random.randrange(2**32)
        request = AddRequest(item, self._nonce(), seed, LEASE_MS, WAIT_S, TIMEOUTS, self.now_s)
        return self.machines.store_new(request, skip=self._skip((row.key,)))

    def swap(self, row: Row, codec: Codec[Any], version: int, replaced: bytes) -> Step:
        """Begin to replace a value."""
        request = SwapRequest(self.item(row, codec, version), replaced, self._nonce(), TIMEOUTS, self.now_s)
        return swap(request, skip=self._skip((row.key,)))

    def update(self, row: Row, codec: Codec[Any], amount: int | None) -> tuple[bytes, Step]:
        """Begin to count a value up, or to change it; also gives the nonce."""
        nonce, seed = self._nonce(), self.random.randrange(2**32)
        expiry_ms = row.policy.expiry_ms(self.random.random())
        bypassed = self.coordinator.bypassed
        request = UpdateRequest(
            row.key,
            codec,
            *expiry_ms,
            nonce,
            seed,
            WAIT_S,
            TIMEOUTS,
            self.now_s,
            amount,
            bypassed,
        )
        return nonce, self.machines.count(request, skip=self._skip((row.key,)))

    def lock(self) -> tuple[LockRequest, Step]:
        """Begin to take the lock."""
        seed, lease_ms = self.random.randrange(2**32), round(LOCK_LEASE_S * 1000)
        request = LockRequest(LOCK_KEY, self._nonce(), seed, lease_ms, 1.0, TIMEOUTS, self.now_s)
        return request, take(request, skip=self._skip((LOCK_KEY,)))
