"""A batch: what `load_many` knows about its keys while it goes on. Its machine is in `load_many.py`.

What is made for each key, or for each step of a batch, are structs: a batch of a hundred missing keys makes
hundreds of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from sansio_cache.cell import NO_GRANT
from sansio_cache.commands import ComputeMany, Fill, Lease, Mode
from sansio_cache.entry import MissReason, Servable, variant_key
from sansio_cache.notices import Ended, InvalidationFailed, Missed, Notice, OperationName, StaleServed, Waited
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.step import ManyLoaded, Missing, Outcome, Raised, Step, Value, ended
from sansio_cache.tags import VARIANT_OF, Versions


class LoadManyRequest(Struct, frozen=True):
    """What is asked for."""

    keys: tuple[str, ...]
    """The full keys."""
    names: tuple[str, ...]
    """The keys as the caller wrote them, in the same order."""
    chunk: int
    """How many keys may go into one command of the store."""
    each: LoadRequest
    """What is the same for each of them; its name is the first key."""


class Want(Struct, frozen=True):
    """One key that has no value yet, and what is known about it."""

    place: int
    variant_of: bytes = b""
    seen: bytes = NO_GRANT
    mode: Mode = Mode.KEEP
    stale: Servable | None = None
    counted: bool = False
    refusals: int = 0
    replaces: bool = False
    """Whether there is a value in the place of which it is loaded."""
    grant: bytes | None = None

    def tied(self, named: Versions) -> Versions:
        """What the entry must be tied to, with the tags that the caller has named."""
        return (*named, (VARIANT_OF, self.variant_of)) if self.variant_of else named


Wants = tuple[Want, ...]


@lru_cache(maxsize=32)
def all_wanted(count: int) -> Wants:
    """So many keys of which nothing is known yet. Kept: to make them costs as much as to read their cells."""
    return tuple(Want(place) for place in range(count))


class Batch(Struct, frozen=True):
    """How far a batch has come."""

    request: LoadManyRequest
    values: tuple[Value | Missing | None, ...]
    """What there is for each key, None where that is open."""
    waiting: Wants = ()
    """The keys that others load."""
    turns: int = 0
    """How often it has waited."""
    left_ms: int = 0
    """How long the first of the others' leases has left."""
    since_s: float = 0.0
    """When it began to wait, if it has."""

    def name(self, want: Want) -> str:
        """The full key that was asked for."""
        return self.request.keys[want.place]

    def key(self, want: Want) -> str:
        """The key of the cell."""
        name = self.request.keys[want.place]
        return variant_key(name, self.request.each.codec.fingerprint) if want.variant_of else name

    def compute(self, wants: Wants, now_s: float) -> ComputeMany:
        """What calls the loader for some of the keys, and keeps their leases alive from now on."""
        request = self.request
        leases = held(self, wants)
        renewal = request.each.renewal(leases, now_s) if leases else None
        # Both are marked as being loaded: what was asked for, and where it lies.
        keys = [request.keys[want.place] for want in wants]
        keys += [self.key(want) for want in wants if want.variant_of]
        names = tuple([request.names[want.place] for want in wants])
        return ComputeMany(tuple(keys), names, renewal)

    def with_values(self, found: Mapping[int, Value | Missing]) -> Batch:
        """The same with some of the values."""
        if not found:
            return self
        values = list(self.values)
        for place, value in found.items():
            values[place] = value
        return replace(self, values=tuple(values))

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        request = self.request
        over = Ended(OperationName.GET_OR_LOAD_MANY, now_s - request.each.started_s)
        return ended(outcome, *notices, over, load_id=request.each.random_bytes)

    def as_miss(
        self, want: Want, reason: MissReason = MissReason.EXPIRED, seen: str = ""
    ) -> tuple[Notice, ...]:
        """The notice of a key that was not answered from the store, unless it was counted (B3)."""
        return () if want.counted else (Missed(self.name(want), reason, seen),)

    def as_stale(self, want: Want) -> tuple[Notice, ...]:
        """The notice of a key that was answered with a stale value, unless it was counted (B3)."""
        return () if want.counted else (StaleServed(self.name(want)),)

    def as_waited(self, want: Want, now_s: float) -> tuple[Notice, ...]:
        """The notice of a key whose wait is over. Once a batch has waited, it is only about such keys."""
        return (Waited(self.name(want), now_s - self.since_s),) if self.turns else ()


def held(batch: Batch, wants: Wants) -> tuple[Lease, ...]:
    """The leases of those that have one."""
    return tuple(Lease(batch.key(want), want.grant) for want in wants if want.grant is not None)


class Acquisition(Struct, frozen=True):
    """How far the asking for leases has come."""

    batch: Batch
    todo: Wants
    """The keys whose leases are still to be asked for."""
    granted: Wants = ()
    """Those that have one."""
    alone: Wants = ()
    """Those to be loaded without the store."""
    versions: Versions = ()
    """The tags that are named, as they were before the first of the grants."""

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that are held."""
        return held(self.batch, self.granted)


class Fills(Struct, frozen=True):
    """What is still to be stored, and the leases for which there is nothing to store."""

    batch: Batch
    todo: tuple[Fill, ...]
    unfilled: tuple[Lease, ...]
    gone: tuple[str, ...]
    """Keys whose values are to go, as what was loaded for them has nothing left to live."""
    raised: Raised | None = None
    """Where the caller is to know that a value cannot be stored; then nothing is."""


def untold(gone: tuple[str, ...]) -> tuple[InvalidationFailed, ...]:
    """The notice that values could not be removed."""
    return (InvalidationFailed(gone),) if gone else ()


def nothing_to_load() -> Step:
    """The only step of a batch without keys."""
    return ended(ManyLoaded(()), Ended(OperationName.GET_OR_LOAD_MANY, 0.0))
