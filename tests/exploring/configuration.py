"""Configurations: who takes part, what may go wrong, and which machines take part.

A variant (see `variants.py`) is a configuration with one part of the protocol replaced by a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from exploring.invariants import ALL, Invariant
from sansio_cache.budget import Patience
from sansio_cache.cell import Cell, Kind
from sansio_cache.codec import Codec, codec_for
from sansio_cache.entry import MissReason, seal
from sansio_cache.flights import Flights
from sansio_cache.memory_store import Kept, MemoryStore
from sansio_cache.notices import OperationName
from sansio_cache.operations.get_or_load import LoadRequest, get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest
from sansio_cache.operations.mutate import EndRequest, MutateRequest, end
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.step import Step

KEY: Final = "k"
CODEC: Final[Codec[Any]] = codec_for(int, 64)
PATIENCE: Final = Patience(attempts=2)
LEASE_MS: Final = 1_000
SOFT_TTL_MS: Final = LEASE_MS
"""A soft expiry as long as a lease: one jump of the clock passes both."""
HARD_TTL_MS: Final = 10**7
WAIT_S: Final = 30.0

NOW_S: Final = 1_000.0
"""The one clock, of drivers and of the store, which stands still: times in the cell move instead."""
NOW_MS: Final = 1_000_000
LAPSED_MS: Final = NOW_MS - 1
FAR_MS: Final = NOW_MS + HARD_TTL_MS

NAMELESS: Final = b"nameless" + bytes(8)
"""Stands for every grant that nobody can name any more."""


class Act(Enum):
    """One thing that a worker does, from beginning to end."""

    READ = "get_or_load"
    READ_WITHOUT_STORE = "get_or_load while the breaker is open"
    INVALIDATE = "commit, then invalidate"
    SET = "commit, then set"
    MUTATE = "mutate without a value"
    MUTATE_AND_SET = "mutate with a value"

    @property
    def is_read(self) -> bool:
        """Whether it returns a value to be judged."""
        return self in (Act.READ, Act.READ_WITHOUT_STORE)


class Fault(Enum):
    """What may go wrong, with its number in RELIABILITY.md section 2 where it has one."""

    REQUEST_LOST = "1 request lost"
    REPLY_LOST = "2 reply lost"
    DUPLICATE = "3 delayed duplicate"
    EXPIRY = "8 lease expires"
    LAPSE = "8 lease deadline passes, cell stays"
    CRASH = "10 crash"
    GONE = "6, 12 the key is gone: restart, eviction, DEL"
    INTERRUPTION = "28 interruption"
    RAISING = "loader raises"
    SHARING_TIMEOUT = "sharing times out"
    IMPATIENCE = "waiting runs out of patience"

    # That of `Enum` is computed in Python from the name, and this one is asked for in every move.
    __hash__ = object.__hash__


UNLIMITED: Final = 99
"""A budget that is never spent."""

Program = tuple[Act, ...]


@attrs.frozen(kw_only=True)
class Configuration:
    """Who takes part, and what may go wrong.

    Args:
        name: For the table of results.
        processes: For each process the programs of its workers; a program is a row of acts.
        faults: How often each fault may strike, `UNLIMITED` where it costs nothing.
        warm: Begin with a stored value, too.
        stale: Values have a soft expiry, and readers serve stale ones.
        renewals: Run the renewal machines.
        loads: How often the loader runs in all, where that is certain (L2).
        all_end: Whether it is certain that from every world all workers can come to an end (L1).
        invariants: What is checked.
        is_reduced: Whether worlds are renamed, pruned and taken modulo symmetry.
        is_eager: Whether what nobody can observe happens at once.
        store: The store, or a wrong one.
        flights: How loads are shared, or a wrong way.
        load, store_values, end_mutation: Begin an operation, or a wrong one.
    """

    name: str
    processes: tuple[tuple[Program, ...], ...]
    faults: Mapping[Fault, int] = attrs.field(factory=dict)
    warm: bool = False
    stale: bool = False
    renewals: bool = False
    loads: int | None = None
    all_end: bool = False
    invariants: frozenset[Invariant] = ALL
    is_reduced: bool = True
    is_eager: bool = True
    store: type[MemoryStore] = MemoryStore
    flights: type[Flights] = Flights
    load: Callable[..., Step] = get_or_load
    store_values: Callable[[SetRequest], Step] = set_many
    end_mutation: Callable[[EndRequest], Step] = end

    # The requests of operations.

    def read(self, nonce: bytes, skip: MissReason | None) -> Step:
        """The first step of a get-or-load."""
        request = LoadRequest(
            key=KEY,
            codec=CODEC,
            hard_ttl_ms=HARD_TTL_MS,
            soft_ttl_ms=SOFT_TTL_MS if self.stale else 0,
            serve_stale=self.stale,
            lease_ms=LEASE_MS,
            max_lease_s=60.0,
            wait_s=WAIT_S,
            nonce=nonce,
            seed=0,
            patience=PATIENCE,
            started_s=NOW_S,
        )
        return self.load(request, skip=skip)

    def item(self, version: int) -> Item:
        """A version of the database as a value to store."""
        body = seal(KEY, CODEC, CODEC.encode(version).payload, 0.0)
        return Item(KEY, body, HARD_TTL_MS, SOFT_TTL_MS if self.stale else 0)

    def set(self, nonce: bytes, version: int) -> Step:
        """The first step of a set."""
        request = SetRequest(OperationName.SET, (self.item(version),), nonce, LEASE_MS, 100, PATIENCE, NOW_S)
        return self.store_values(request)

    def stored(self, version: int) -> Kept:
        """A cell that somebody has filled long ago."""
        item = self.item(version)
        soft_ms = NOW_MS + item.soft_ttl_ms if item.soft_ttl_ms else 0
        return Kept(Cell(Kind.VALUE, soft_ms=soft_ms, filled_by=NAMELESS, body=item.body), FAR_MS)


def invalidation() -> InvalidateRequest:
    """What an invalidation asks for."""
    return InvalidateRequest(OperationName.INVALIDATE, (KEY,), 100, PATIENCE, NOW_S)


def mutation(nonce: bytes) -> MutateRequest:
    """What a mutation begins with."""
    return MutateRequest((KEY,), nonce, LEASE_MS, 60.0, PATIENCE, NOW_S)
