"""Distributions: durations and sizes in buckets whose bounds grow by at most a quarter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from sansio_cache.frozen import FrozenMapping

NOTHING: Final[Mapping[Any, Any]] = FrozenMapping({})


def frozen_mapping(given: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping that does not change any more."""
    return FrozenMapping(given)


BUCKETS: Final = 4 * 62
"""More than there is to be counted: the last ones are for tens of thousands of years."""


def bucket_of(measured: int) -> int:
    """The bucket of a duration in microseconds, or of a size in bytes: four to each power of two."""
    if measured < 4:
        return measured
    shift = measured.bit_length() - 3
    return 4 * shift + (measured >> shift)


BUCKET_OF: Final = tuple(map(bucket_of, range(4096)))
"""The buckets of what hits take, in microseconds, as finding one takes as long as counting."""


class Measured:
    """A distribution that grows. Not thread-safe."""

    __slots__ = ("buckets", "sum")

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.sum = 0

    def add(self, measured: int) -> None:
        """Count one more."""
        measured = max(measured, 0)  # a clock may go back
        self.buckets[bucket_of(measured)] += 1
        self.sum += measured

    def merge(self, other: Measured) -> None:
        """Count what another has counted."""
        self.buckets.update(other.buckets)
        self.sum += other.sum


def _upper(bucket: int) -> int:
    """The upper bound of a bucket."""
    if bucket < 4:
        return bucket + 1
    shift, quarter = divmod(bucket, 4)
    return (4 + quarter + 1) << (shift - 1)


@attrs.frozen
class _Distribution:
    """Whole numbers in buckets whose bounds grow by at most a quarter, and their sum."""

    buckets: Mapping[int, int] = attrs.field(default=NOTHING, converter=frozen_mapping, hash=False)
    """The count of each bucket, by its number."""
    sum: int = 0

    @property
    def count(self) -> int:
        """How many were recorded."""
        return sum(self.buckets.values())

    def _bounds(self) -> list[tuple[int, int]]:
        return [(_upper(bucket), self.buckets[bucket]) for bucket in sorted(self.buckets)]

    def _percentile(self, percent: float) -> int:
        wanted = self.count * percent / 100
        seen = 0
        for upper, count in self._bounds():
            seen += count
            if seen >= wanted:
                return upper
        return 0

    def __sub__(self, earlier: Self) -> Self:
        return type(self)(difference(self.buckets, earlier.buckets), self.sum - earlier.sum)


@attrs.frozen
class Histogram(_Distribution):
    """Durations in buckets whose bounds grow by at most a quarter.

    `buckets` maps a bucket's number to its count; `bounds()` gives them with their upper bounds. `sum` is in
    microseconds.
    """

    @property
    def sum_s(self) -> float:
        """All of them together, in seconds."""
        return self.sum / 1e6

    def bounds(self) -> list[tuple[float, int]]:
        """The upper bound in seconds and the count of each bucket that is not empty, in order."""
        return [(upper / 1e6, count) for upper, count in self._bounds()]

    def percentile_s(self, percent: float) -> float:
        """The duration in seconds that `percent` of the recorded ones do not exceed; 0 without any."""
        return self._percentile(percent) / 1e6

    def as_dict(self) -> dict[str, float]:
        """Plain data: `count`, and in seconds `sum_s`, `p50_s`, `p99_s`."""
        return {
            "count": self.count,
            "sum_s": self.sum_s,
            "p50_s": self.percentile_s(50),
            "p99_s": self.percentile_s(99),
        }


@attrs.frozen
class Sizes(_Distribution):
    """Sizes in bytes, in buckets as those of a `Histogram`. `sum` is in bytes."""

    @property
    def sum_bytes(self) -> int:
        """All of them together."""
        return self.sum

    def bounds(self) -> list[tuple[int, int]]:
        """The upper bound in bytes and the count of each bucket that is not empty, in order."""
        return self._bounds()

    def percentile_bytes(self, percent: float) -> int:
        """The size that `percent` of the recorded ones do not exceed; 0 without any."""
        return self._percentile(percent)

    def as_dict(self) -> dict[str, int]:
        """Plain data: `count`, and in bytes `sum_bytes`, `p50_bytes`, `p99_bytes`."""
        return {
            "count": self.count,
            "sum_bytes": self.sum_bytes,
            "p50_bytes": self.percentile_bytes(50),
            "p99_bytes": self.percentile_bytes(99),
        }


def filled(buckets: list[int]) -> dict[int, int]:
    """The counts of those buckets that are not empty."""
    return {bucket: count for bucket, count in enumerate(buckets) if count}


def difference(later: Mapping[Any, int], earlier: Mapping[Any, int]) -> dict[Any, int]:
    """What came between two counts of the same, but for what did not change."""
    changes = {key: count - earlier.get(key, 0) for key, count in later.items()}
    return {key: count for key, count in changes.items() if count}
