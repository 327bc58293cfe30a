"""Statistics: a fold over notices, and nothing else.

Nobody counts by the way: a number here is the number of notices of a kind (B3). `CacheStats` is an
immutable snapshot; the difference of two is what happened between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.frozen import FrozenMapping
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
    PatternDeleted,
    RefreshFailed,
    RefreshSkipped,
    RefreshStarted,
    SoftExpired,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unstorable,
    VariantStored,
    Waited,
)

_NOTHING: Final[Mapping[Any, Any]] = FrozenMapping({})


def _frozen_mapping(given: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return FrozenMapping(given)


_BUCKETS: Final = 4 * 62
"""More than there is to be counted: the last ones are for tens of thousands of years."""


def _bucket(took_us: int) -> int:
    """The bucket of a duration: four to each power of two of microseconds."""
    if took_us < 4:
        return max(took_us, 0)
    shift = took_us.bit_length() - 3
    return 4 * shift + (took_us >> shift)


_BUCKET_OF: Final = tuple(map(_bucket, range(4096)))
"""The buckets of what hits take, in microseconds, as finding one takes as long as counting."""


def _upper_s(bucket: int) -> float:
    """The upper bound of a bucket, in seconds."""
    if bucket < 4:
        return (bucket + 1) / 1e6
    shift, quarter = divmod(bucket, 4)
    return ((4 + quarter + 1) << (shift - 1)) / 1e6


@attrs.frozen
class Histogram:
    """Durations in buckets whose bounds grow by at most a quarter.

    `buckets` maps a bucket's number to its count; `bounds()` gives them with their upper bounds.
    """

    buckets: Mapping[int, int] = attrs.field(default=_NOTHING, converter=_frozen_mapping, hash=False)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self.buckets.values())

    def bounds(self) -> list[tuple[float, int]]:
        """The upper bound in seconds and the count of each bucket that is not empty, in order."""
        return [(_upper_s(bucket), self.buckets[bucket]) for bucket in sorted(self.buckets)]

    def percentile_s(self, percent: float) -> float:
        """The duration in seconds that `percent` of the recorded ones do not exceed; 0 without any."""
        wanted = self.count * percent / 100
        seen = 0
        for upper_s, count in self.bounds():
            seen += count
            if seen >= wanted:
                return upper_s
        return 0.0

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram(_difference(self.buckets, earlier.buckets))


def _filled(buckets: list[int]) -> dict[int, int]:
    """The counts of those buckets that are not empty."""
    return {bucket: count for bucket, count in enumerate(buckets) if count}


def _difference(later: Mapping[Any, int], earlier: Mapping[Any, int]) -> dict[Any, int]:
    changes = {key: count - earlier.get(key, 0) for key, count in later.items()}
    return {key: count for key, count in changes.items() if count}


@attrs.frozen(kw_only=True)
class CacheStats:
    """A snapshot of the counters. `later - earlier` is what happened in between.

    Attributes:
        redis_hits: Requests answered with a fresh value from the store.
        stale_hits: Requests answered with a value past its soft expiry.
        misses: Other requests, by reason.
        loads: Calls of a loader that returned, with a lease or without.
        loads_without_lease: Those of them whose value was not to be stored.
        load_failures: Calls of a loader that raised.
        refreshes: Refreshes in the background that were begun under a lease.
        refresh_failures: Those of them whose loader raised.
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
        errors: Attempts that failed, by kind.
        gave_up: Operations that did without the store, by kind of their last failure.
        latency: How long operations took, by name.
    """

    redis_hits: int = 0
    stale_hits: int = 0
    misses: Mapping[MissReason, int] = attrs.field(default=_NOTHING, converter=_frozen_mapping, hash=False)
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
    errors: Mapping[FailureKind, int] = attrs.field(default=_NOTHING, converter=_frozen_mapping, hash=False)
    gave_up: Mapping[FailureKind, int] = attrs.field(default=_NOTHING, converter=_frozen_mapping, hash=False)
    latency: Mapping[OperationName, Histogram] = attrs.field(
        default=_NOTHING, converter=_frozen_mapping, hash=False
    )

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
            Each counter by its name; what is counted by reason, kind or operation as a dict by its text, and
            only what there is; `total_requests`, `redis_misses` and `hit_rate` in percent; and `latency` by
            operation: `count`, and `p50_s`, `p99_s` in seconds.
        """
        plain: dict[str, Any] = {
            "total_requests": self.total_requests,
            "redis_misses": self.redis_misses,
            "hit_rate": self.hit_rate,
        }
        for name in attrs.fields_dict(CacheStats):
            value = getattr(self, name)
            if name == "latency":
                plain[name] = {
                    operation.value: {
                        "count": histogram.count,
                        "p50_s": histogram.percentile_s(50),
                        "p99_s": histogram.percentile_s(99),
                    }
                    for operation, histogram in value.items()
                }
            elif isinstance(value, Mapping):
                plain[name] = {each.value: count for each, count in value.items()}
            else:
                plain[name] = value
        return plain

    def __sub__(self, earlier: CacheStats) -> CacheStats:
        changes: dict[str, Any] = {}
        for name in attrs.fields_dict(CacheStats):
            later_value, earlier_value = getattr(self, name), getattr(earlier, name)
            if name == "latency":
                changed = {
                    operation: histogram - earlier_value.get(operation, Histogram())
                    for operation, histogram in later_value.items()
                }
                changes[name] = {each: histogram for each, histogram in changed.items() if histogram.count}
            elif isinstance(later_value, Mapping):
                changes[name] = _difference(later_value, earlier_value)
            else:
                changes[name] = later_value - earlier_value
        return CacheStats(**changes)


_COUNTED: Final[Mapping[type[Notice], str]] = {
    Hit: "redis_hits",
    StaleServed: "stale_hits",
    LoadFailed: "load_failures",
    RefreshStarted: "refreshes",
    RefreshFailed: "refresh_failures",
    RefreshSkipped: "refreshes_skipped",
    VariantStored: "variants_stored",
    LoadShared: "shared",
    Waited: "waits",
    Stored: "stored",
    FillRefused: "lost_leases",
    LeaseOutgrown: "outgrown_leases",
    Unstorable: "unstorable",
    Outlived: "outlived",
}
"""Notices that are counted one by one."""


@attrs.define
class StatsFold:
    """Takes notices in, and gives snapshots. Not thread-safe: a driver for threads holds a lock."""

    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _misses: Counter[MissReason] = attrs.field(factory=Counter, init=False)
    _errors: Counter[FailureKind] = attrs.field(factory=Counter, init=False)
    _gave_up: Counter[FailureKind] = attrs.field(factory=Counter, init=False)
    _latency: dict[OperationName, list[int]] = attrs.field(factory=dict, init=False)
    """How many durations each bucket holds, by operation."""

    def record(self, notices: Iterable[Notice]) -> None:
        """Count."""
        for notice in notices:
            counter = _COUNTED.get(type(notice))
            if counter is not None:
                self._counts[counter] += 1
            elif isinstance(notice, Ended):
                self._ended(notice)
            else:
                self._record(notice)

    def _ended(self, notice: Ended) -> None:
        buckets = self._latency.get(notice.operation)
        if buckets is None:
            buckets = self._latency[notice.operation] = [0] * _BUCKETS
        took_us = int(notice.took_s * 1e6)
        bucket = _BUCKET_OF[took_us] if 0 <= took_us < len(_BUCKET_OF) else _bucket(took_us)
        buckets[bucket] += 1

    def _record(self, notice: Notice) -> None:
        counts = self._counts
        match notice:
            case Missed(reason=reason):
                self._misses[reason] += 1
            case Loaded(leased=leased):
                counts["loads"] += 1
                counts["loads_without_lease"] += not leased
            case Invalidated(keys=keys):
                counts["invalidated"] += len(keys)
            case PatternDeleted(count=count):
                counts["invalidated"] += count
            case SoftExpired(keys=keys):
                counts["soft_expired"] += len(keys)
            case InvalidationFailed(keys=keys):
                counts["failed_invalidations"] += len(keys)
            case InvalidationRefused(keys=keys):
                counts["refused_invalidations"] += len(keys)
            case StoreErrored(kind=kind):
                self._errors[kind] += 1
            case StoreGaveUp(kind=kind):
                self._gave_up[kind] += 1
            case _:
                # What was in doubt shows as a miss by its key check, and LeaseLost again as FillRefused;
                # PatternProgressed adds up to PatternDeleted; StoreAnswered is for the breaker.
                pass

    def snapshot(self) -> CacheStats:
        """The counters as they are now."""
        latency = {name: Histogram(_filled(buckets)) for name, buckets in self._latency.items()}
        return CacheStats(
            misses=self._misses,
            errors=self._errors,
            gave_up=self._gave_up,
            latency=latency,
            **self._counts,
        )
