"""Statistics: a fold over notices, and nothing else.

Nobody counts by the way: a number here is the number of notices of a kind (B3). `CacheStats` is an
immutable snapshot; the difference of two is what happened between them.

What is about a key is counted by entity: by the key's part after the namespace. The totals are the sums of
these. Entities are bounded in number; what comes later is counted together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self

import attrs

from sansio_cache.distributions import (
    BUCKET_OF,
    BUCKETS,
    NOTHING,
    Histogram,
    Measured,
    Sizes,
    bucket_of,
    filled,
    frozen_mapping,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.keys import ONE_PART, entity_of
from sansio_cache.notices import (
    Ended,
    FillRefused,
    Hit,
    Invalidated,
    InvalidationFailed,
    InvalidationRefused,
    LeaseOutgrown,
    Loaded,
    LoadFailed,
    LoadShared,
    Missed,
    Notice,
    OperationName,
    Outlived,
    PartitionLost,
    PartitionMeasured,
    PatternDeleted,
    RefreshFailed,
    RefreshSkipped,
    RefreshStarted,
    Result,
    SoftExpired,
    StaleServed,
    StoreChanged,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unstorable,
    VariantStored,
    Waited,
    WriteDead,
    WriteQueued,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.queues import MARKER, partition_of

OTHERS: Final = "%others"
"""Under what name those entities are counted together for which there is no room. No entity has this name."""
_MOST_ENTITIES: Final = 100
_MOST_KNOWN: Final = 24_576

_REFRESH: Final = OperationName.REFRESH
_ABANDONED: Final = Result.ABANDONED
"""Looking a member of an enumeration up takes as long as counting."""

_GLOB: Final = frozenset("*?[\\")


@attrs.frozen(kw_only=True)
class EntityStats:
    """A snapshot of what is counted by key: of one entity, or of all together.

    Attributes:
        redis_hits: Requests answered with a fresh value from the store.
        stale_hits: Requests answered with a value past its soft expiry.
        misses: Other requests, by reason.
        loads: Calls of a loader that returned, with a lease or without.
        loads_without_lease: Loads whose value was not to be stored.
        load_failures: Calls of a loader that raised.
        refreshes: Refreshes in the background that were begun under a lease.
        refresh_failures: Refreshes whose loader raised.
        refreshes_skipped: Refreshes that were not begun, as too many were under way; or not begun, or not
            stored, as a name outside their loader was bound to something else by then.
        variants_stored: Loads for a variant of an entry of another program version.
        shared: Requests answered with the load of another caller in this process.
        waits: How often a request waited for the load of another.
        stored: Values that the store has taken.
        lost_leases: Values not stored because their lease had been voided or lost.
        outgrown_leases: Leases given up on after their longest time.
        unstorable: Loaded values that could not be stored so that they come back equal.
        outlived: Loaded values that were not stored, as they had nothing left to live.
        invalidated: Keys and tags removed on request, deletions by pattern included.
        soft_expired: Keys whose values were made stale on request.
        failed_invalidations: Keys that the store could not be told of in time.
        refused_invalidations: How often the store refused to be told of one of them later.
        writes_queued: Writes that were left to a queue.
        writes_applied: Queued writes that this process has written to the database: the newest of each key.
        writes_coalesced: Older ones of these keys, which were left out.
        writes_dead: Queued writes that were given up, and are dead letters.
        writer_failures: How often the writer of a queue has raised, or could not be given what is queued.
        load_time: How long loaders took that returned; of a batch, once for each of its keys.
        wait_time: How long requests waited for the loads of others.
        stored_size: How large the stored entries were.
    """

    redis_hits: int = 0
    stale_hits: int = 0
    misses: Mapping[MissReason, int] = attrs.field(default=NOTHING, converter=frozen_mapping, hash=False)
    loads: int = 0
    loads_without_lease: int = 0
    load_failures: int = 0
    refreshes: int = 0
    refresh_failures: int = 0
    refreshes_skipped: int = 0
    variants_stored: int = 0
    shared: int = 0
    waits: int = 0
    stored: int = 0
    lost_leases: int = 0
    outgrown_leases: int = 0
    unstorable: int = 0
    outlived: int = 0
    invalidated: int = 0
    soft_expired: int = 0
    failed_invalidations: int = 0
    refused_invalidations: int = 0
    writes_queued: int = 0
    writes_applied: int = 0
    writes_coalesced: int = 0
    writes_dead: int = 0
    writer_failures: int = 0
    load_time: Histogram = attrs.field(factory=Histogram)
    wait_time: Histogram = attrs.field(factory=Histogram)
    stored_size: Sizes = attrs.field(factory=Sizes)

    @property
    def redis_misses(self) -> int:
        """Requests not answered from the store."""
        return sum(self.misses.values())

    @property
    def total_requests(self) -> int:
        """Keys asked for: hits, stale hits and misses."""
        return self.redis_hits + self.stale_hits + self.redis_misses

    @property
    def hit_rate(self) -> float:
        """The share of requests answered from the store, stale answers included, in percent."""
        total = self.total_requests
        return 100.0 * (self.redis_hits + self.stale_hits) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The counters as plain data, which can be made JSON of: for a web page, a log line, a file.

        Returns:
            Each counter by its name; what is counted by reason, kind, operation or entity as a dict by its
            text, and only what there is; `total_requests`, `redis_misses` and `hit_rate` in percent; what is
            measured as `count`, a sum and two percentiles, in seconds or bytes as their names say.
        """
        plain: dict[str, Any] = {
            "total_requests": self.total_requests,
            "redis_misses": self.redis_misses,
            "hit_rate": self.hit_rate,
        }
        return plain | {name: _plain(getattr(self, name)) for name in attrs.fields_dict(type(self))}

    def __sub__(self, earlier: Self) -> Self:
        names = attrs.fields_dict(type(self))
        return type(self)(**{name: _change(getattr(self, name), getattr(earlier, name)) for name in names})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(each): _plain(part) for each, part in value.items()}
    return value.as_dict() if isinstance(value, _WITH_PARTS) else value


_EMPTY: Final = (Histogram(), EntityStats())


def _change(later: Any, earlier: Any) -> Any:
    """What happened between two figures; of mappings, only that of which something did."""
    if isinstance(later, CacheState):
        return later
    if not isinstance(later, Mapping):
        return later - earlier
    changes = {
        name: figure - earlier.get(name, 0 if isinstance(figure, int) else type(figure)())
        for name, figure in later.items()
    }
    return {name: change for name, change in changes.items() if change and change not in _EMPTY}


@attrs.frozen(kw_only=True)
class PartStats:
    """What is the matter with one part of the store, as this process knows it.

    Attributes:
        is_open: Whether the circuit breaker is open: the part does not serve, and reads do without it.
        pending_invalidations: How many invalidations the store has not been told of yet.
    """

    is_open: bool = False
    pending_invalidations: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return attrs.asdict(self)


def _frozen_mappings(found: Mapping[str, Mapping[int, PartitionStats]]) -> Mapping[str, Any]:
    return frozen_mapping({name: frozen_mapping(each) for name, each in found.items()})


@attrs.frozen(kw_only=True)
class PartitionStats:
    """What a partition of a queue held when a consumer of this process looked last.

    Attributes:
        backlog: How many writes were queued, and not in the database yet.
        oldest_s: How long the oldest of them has waited, in seconds, if it has not been written since.
    """

    backlog: int = 0
    oldest_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class CacheState:
    """How a cache is at one moment: nothing of it was counted, and none of it adds up.

    Attributes:
        parts: The parts of the store, by name; that of a single server is empty.
        connections: Connections to the store that are open, but for those of a client of yours.
        loads_running: Loads under way in this process.
        refreshes_running: Refreshes in the background that are under way.
        refreshes_waiting: Refreshes in the background that wait for a thread.
        queues: By entity, the partitions of its queue that consumers of this process have, by number.
    """

    parts: Mapping[str, PartStats] = attrs.field(
        default=frozen_mapping({ONE_PART: PartStats()}), converter=frozen_mapping, hash=False
    )
    connections: int = 0
    loads_running: int = 0
    refreshes_running: int = 0
    refreshes_waiting: int = 0
    queues: Mapping[str, Mapping[int, PartitionStats]] = attrs.field(
        default=NOTHING, converter=_frozen_mappings, hash=False
    )

    @property
    def is_open(self) -> bool:
        """Whether some part of the store does not serve."""
        return any(part.is_open for part in self.parts.values())

    @property
    def pending_invalidations(self) -> int:
        """How many invalidations the store has not been told of yet."""
        return sum(part.pending_invalidations for part in self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data: each field by its name, and the parts by theirs."""
        return {name: _plain(getattr(self, name)) for name in attrs.fields_dict(type(self))}


@attrs.frozen(kw_only=True)
class CacheStats(EntityStats):
    """A snapshot of the counters. `later - earlier` is what happened in between, and how it was in the end.

    Attributes:
        errors: Attempts that failed, by kind.
        gave_up: Operations that did without the store, by kind of their last failure.
        store_changes: How often another store was met than before: a failover, or a restart.
        replayed: Writes of which such a store was told again.
        latency: How long operations took, by name.
        entities: What is counted by key, by entity: the part of the key after the namespace. At most a
            hundred of them; the others are counted together under `OTHERS`.
        state: How the cache was when the snapshot was made. It was not counted, so two snapshots that differ
            in nothing else are equal.
    """

    errors: Mapping[FailureKind, int] = attrs.field(default=NOTHING, converter=frozen_mapping, hash=False)
    gave_up: Mapping[FailureKind, int] = attrs.field(default=NOTHING, converter=frozen_mapping, hash=False)
    store_changes: int = 0
    replayed: int = 0
    latency: Mapping[OperationName, Histogram] = attrs.field(
        default=NOTHING, converter=frozen_mapping, hash=False
    )
    entities: Mapping[str, EntityStats] = attrs.field(default=NOTHING, converter=frozen_mapping, hash=False)
    state: CacheState = attrs.field(default=CacheState(), eq=False)


_WITH_PARTS: Final = (Histogram, Sizes, EntityStats, PartStats, PartitionStats, CacheState)
"""What is made plain data of by itself."""

_COUNTED: Final[Mapping[type[Notice], str]] = {
    StaleServed: "stale_hits",
    LoadFailed: "load_failures",
    RefreshStarted: "refreshes",
    RefreshFailed: "refresh_failures",
    RefreshSkipped: "refreshes_skipped",
    VariantStored: "variants_stored",
    LoadShared: "shared",
    FillRefused: "lost_leases",
    LeaseOutgrown: "outgrown_leases",
    Unstorable: "unstorable",
    Outlived: "outlived",
    WriteQueued: "writes_queued",
    WriteDead: "writes_dead",
}
"""Notices of one key that are counted one by one."""

_COUNTED_BY_KEYS: Final[Mapping[type[Notice], str]] = {
    Invalidated: "invalidated",
    SoftExpired: "soft_expired",
    InvalidationFailed: "failed_invalidations",
    InvalidationRefused: "refused_invalidations",
}
"""Notices of several keys, each of which is counted."""


class _Counts:
    """What is counted of one entity."""

    __slots__ = ("counts", "hits", "load_time", "misses", "stored_size", "wait_time")

    def __init__(self) -> None:
        self.hits = 0
        """By far the most: the others are looked up by name."""
        self.counts: Counter[str] = Counter()
        self.misses: Counter[MissReason] = Counter()
        self.load_time = Measured()
        self.wait_time = Measured()
        self.stored_size = Measured()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not (self.hits or self.counts or self.misses)

    def merge(self, other: _Counts) -> None:
        self.hits += other.hits
        self.counts.update(other.counts)
        self.misses.update(other.misses)
        self.load_time.merge(other.load_time)
        self.wait_time.merge(other.wait_time)
        self.stored_size.merge(other.stored_size)

    def figures(self) -> dict[str, Any]:
        """The fields of an `EntityStats`."""
        return {
            "redis_hits": self.hits,
            "misses": self.misses,
            "load_time": Histogram(self.load_time.buckets, self.load_time.sum),
            "wait_time": Histogram(self.wait_time.buckets, self.wait_time.sum),
            "stored_size": Sizes(self.stored_size.buckets, self.stored_size.sum),
            **self.counts,
        }


@attrs.define
class StatsFold:
    """Takes notices in, and gives snapshots. Not thread-safe: a driver for threads holds a lock."""

    _entities: dict[str, _Counts] = attrs.field(factory=dict, init=False)
    _known: set[str] = attrs.field(factory=set, init=False)
    """Those for which a place is kept."""
    _others: _Counts = attrs.field(factory=_Counts, init=False)
    _internal: _Counts = attrs.field(factory=_Counts, init=False)
    """What is about no entity: tags, and patterns of several."""
    _by_key: dict[str, _Counts] = attrs.field(factory=dict, init=False)
    """The counts of the keys that were used: to look a key's entity up takes as long as counting.

    When it is full it stays as it is, until eight times as many keys as it holds were not in it.
    """
    _in_vain: int = attrs.field(default=0, init=False)
    _errors: Counter[FailureKind] = attrs.field(factory=Counter, init=False)
    _gave_up: Counter[FailureKind] = attrs.field(factory=Counter, init=False)
    _store_changes: int = attrs.field(default=0, init=False)
    _replayed: int = attrs.field(default=0, init=False)
    _latency: dict[OperationName, list[int]] = attrs.field(factory=dict, init=False)
    """How many durations each bucket holds, by operation; and then their sum in microseconds."""
    _partitions: dict[str, PartitionMeasured] = attrs.field(factory=dict, init=False)
    """By the root of a partition that a consumer of this process has: what it held."""

    def know(self, entity: str) -> None:
        """Keep a place for an entity, which is counted from now on even where there are too many of others.

        Args:
            entity: The part of its keys after the namespace, as it is written there.
        """
        self._by_key.clear()
        self._known.add(entity)
        self._entities.setdefault(entity, _Counts())

    def successor(self) -> StatsFold:
        """One that has counted nothing yet, and knows the same entities: in a forked process, say."""
        fold = StatsFold()
        for entity in self._known:
            fold.know(entity)
        return fold

    def record(self, notices: Iterable[Notice]) -> None:
        """Count."""
        by_key = self._by_key
        for notice in notices:
            kind = type(notice)
            if kind is Hit:
                key = notice.key  # type: ignore[union-attr]  # as its class says, and a check costs as much
                (by_key.get(key) or self._of(key)).hits += 1
            elif kind is Ended:
                self._ended(notice)  # type: ignore[arg-type]
            elif kind is Missed:  # these three by themselves as well: of each key that a batch loads
                self._missed(notice)  # type: ignore[arg-type]
            elif kind is Loaded:
                self._loaded(notice)  # type: ignore[arg-type]
            elif kind is Stored:
                self._stored(notice)  # type: ignore[arg-type]
            else:
                self._record(notice)

    def record_hits(self, glances: deque[tuple[Glance | GlanceMany, float]]) -> None:
        """Count operations that were hits at the first look, as their notices would be counted.

        Args:
            glances: Each with when it was over, on the driver's clock. They are taken out one by one.
        """
        by_key, latency = self._by_key, self._latency
        while glances:
            glance, now_s = glances.popleft()
            keys = (glance.command.key,) if isinstance(glance, Glance) else glance.command.keys
            for key in keys:
                (by_key.get(key) or self._of(key)).hits += 1
            buckets = latency.get(glance.operation) or self._buckets_of(glance.operation)
            took_us = int((now_s - glance.started_s) * 1e6)
            if took_us < 0:
                took_us = 0
            buckets[BUCKET_OF[took_us] if took_us < len(BUCKET_OF) else bucket_of(took_us)] += 1
            buckets[BUCKETS] += took_us

    def _ended(self, notice: Ended) -> None:
        operation = notice.operation
        if operation is _REFRESH or notice.result is _ABANDONED:
            return  # nobody has waited for it, or it came to nothing
        buckets = self._latency.get(operation) or self._buckets_of(operation)
        took_us = int(notice.took_s * 1e6)
        if took_us < 0:  # a clock may go back
            took_us = 0
        bucket = BUCKET_OF[took_us] if took_us < len(BUCKET_OF) else bucket_of(took_us)
        buckets[bucket] += 1
        buckets[BUCKETS] += took_us

    def _missed(self, notice: Missed) -> None:
        (self._by_key.get(notice.key) or self._of(notice.key)).misses[notice.reason] += 1

    def _loaded(self, notice: Loaded) -> None:
        of_entity = self._by_key.get(notice.key) or self._of(notice.key)
        of_entity.counts["loads"] += 1
        if not notice.leased:
            of_entity.counts["loads_without_lease"] += 1
        of_entity.load_time.add(int(notice.took_s * 1e6))

    def _stored(self, notice: Stored) -> None:
        of_entity = self._by_key.get(notice.key) or self._of(notice.key)
        of_entity.counts["stored"] += 1
        of_entity.stored_size.add(notice.size_bytes)

    def _buckets_of(self, operation: OperationName) -> list[int]:
        return self._latency.setdefault(operation, [0] * (BUCKETS + 1))

    def _of(self, key: str) -> _Counts:
        """The counts of a key's entity."""
        if (known := self._by_key.get(key)) is not None:
            return known
        entity = entity_of(key)
        counts = self._entities.get(entity)
        if counts is None:
            if not entity:
                counts = self._internal
            elif len(self._entities) < _MOST_ENTITIES:
                counts = self._entities[entity] = _Counts()
            else:
                counts = self._others
        if len(self._by_key) >= _MOST_KNOWN:
            self._in_vain += 1
            if self._in_vain < 8 * _MOST_KNOWN:
                return counts
            self._by_key.clear()
        self._in_vain = 0
        self._by_key[key] = counts
        return counts

    def _record(self, notice: Notice) -> None:
        counter = _COUNTED.get(type(notice))
        if counter is not None:
            self._of(notice.key).counts[counter] += 1  # type: ignore[union-attr]  # all of these have one
            return
        counter = _COUNTED_BY_KEYS.get(type(notice))
        if counter is not None:
            for key in notice.keys:  # type: ignore[union-attr]
                self._of(key).counts[counter] += 1
            return
        match notice:
            case Waited(key=key, waited_s=waited_s):
                of_entity = self._of(key)
                of_entity.counts["waits"] += 1
                of_entity.wait_time.add(int(waited_s * 1e6))
            case PatternDeleted(pattern=pattern, count=count):
                self._of_pattern(pattern).counts["invalidated"] += count
            case WritesApplied(keys=keys, coalesced=coalesced):
                for key in keys:
                    self._of(key).counts["writes_applied"] += 1
                self._of(keys[0]).counts["writes_coalesced"] += coalesced
            case WriterFailed(queue=root):
                entity, _ = partition_of(root)
                self._of(root.partition(MARKER)[0] + entity).counts["writer_failures"] += 1
            case PartitionMeasured(root=root):
                self._partitions[root] = notice
            case PartitionLost(root=root):
                self._partitions.pop(root, None)
            case StoreErrored(kind=kind):
                self._errors[kind] += 1
            case StoreGaveUp(kind=kind):
                self._gave_up[kind] += 1
            case StoreChanged(told=told):
                self._store_changes += 1
                self._replayed += told
            case _:
                # What was in doubt shows as a miss by its key check, and LeaseLost again as FillRefused;
                # PatternProgressed adds up to PatternDeleted; StoreAnswered is for the breaker, RemovalBegan
                # for what is remembered.
                pass

    def _of_pattern(self, pattern: str) -> _Counts:
        """The counts of the one entity that a pattern is about, if it is about one."""
        entity = entity_of(pattern)
        return self._internal if set(entity) & _GLOB else self._of(pattern)

    def _all(self) -> Iterator[_Counts]:
        yield from self._entities.values()
        yield self._others
        yield self._internal

    def _queues(self, now_s: float) -> dict[str, dict[int, PartitionStats]]:
        queues: dict[str, dict[int, PartitionStats]] = {}
        for root, seen in self._partitions.items():
            entity, place = partition_of(root)
            since_s = max(now_s - seen.now_s, 0.0) if seen.backlog else 0.0
            held = PartitionStats(backlog=seen.backlog, oldest_s=seen.oldest_s + since_s)
            queues.setdefault(entity, {})[place] = held
        return queues

    def snapshot(self, now_s: float = 0.0) -> CacheStats:
        """The counters as they are now, on the driver's clock. Of its `state` it has the queues only."""
        total = _Counts()
        for counts in self._all():
            total.merge(counts)
        others = {} if self._others.is_empty else {OTHERS: self._others}
        return CacheStats(
            errors=self._errors,
            gave_up=self._gave_up,
            store_changes=self._store_changes,
            replayed=self._replayed,
            latency={
                name: Histogram(filled(buckets[:BUCKETS]), buckets[BUCKETS])
                for name, buckets in self._latency.items()
            },
            entities={
                name: EntityStats(**counts.figures()) for name, counts in {**self._entities, **others}.items()
            },
            state=CacheState(queues=self._queues(now_s)),
            **total.figures(),
        )
