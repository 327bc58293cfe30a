"""Measures: what the statistics come to for those who export them: names, labels and numbers.

Exporters give each measure the name that it has here, and so that of the field of `stats()` that it comes
from. Which measures there are, and the buckets of each, depends on nothing: they exist from the start, at
zero, so that a rate has something to begin from. Labels are bounded: entities, reasons, kinds, operations,
parts, partitions of queues; never a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs
from msgspec import Struct

from sansio_cache.distributions import Histogram, Sizes
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.notices import OperationName
from sansio_cache.stats import CacheState, CacheStats, EntityStats, PartitionStats, PartStats

NO_ENTITY: Final = ""
"""The label of what is about no entity: tags, and patterns that several match. It always exists."""

_TIME_BOUNDS_S: Final = tuple(2.0**power / 1e6 for power in range(10, 26, 2))
_LATENCY_BOUNDS_S: Final = tuple(2.0**power / 1e6 for power in range(6, 24))
_SIZE_BOUNDS_BYTES: Final = tuple(2.0**power for power in range(6, 24, 2))
"""Powers of two of what is counted, in microseconds or bytes: the statistics have these bounds as well, so
what is in a bucket is exact."""
_ATTRIBUTE: Final = re.compile(r"^( *)(\w+): (.*(?:\n\1 {4} *\S.*)*)$", re.MULTILINE)


class MeasureKind(StrEnum):
    """What becomes of a measure with time."""

    COUNTER = "counter"
    """It goes up."""
    GAUGE = "gauge"
    """It goes up and down."""
    HISTOGRAM = "histogram"
    """Its buckets go up."""


Labels = tuple[tuple[str, str], ...]


class Point(Struct, frozen=True):
    """One number of a measure, or one distribution."""

    labels: Labels
    value: float
    """Of a distribution: the sum."""
    buckets: tuple[int, ...] = ()
    """How many are in each bucket of the measure, not added up; the last one is for all above its bounds."""


class Measure(Struct, frozen=True):
    """What is measured, and all numbers of it."""

    name: str
    kind: MeasureKind
    meaning: str
    """In a sentence, for people."""
    points: tuple[Point, ...]
    unit: str = ""
    """`seconds`, `bytes`, or empty for a count."""
    bounds: tuple[float, ...] = ()
    """The upper bounds of the buckets of a distribution, in its unit."""


def measures(stats: CacheStats) -> tuple[Measure, ...]:
    """Everything that statistics say, in an order that does not change."""
    return (*_by_entity(stats), *_by_operation(stats), *_of_queues(stats), *_of_the_store(stats))


def _by_entity(stats: CacheStats) -> Iterator[Measure]:
    meanings = _meanings(EntityStats)
    for name in attrs.fields_dict(EntityStats):
        total = getattr(stats, name)
        by_entity = {each: getattr(figures, name) for each, figures in stats.entities.items()}
        match total:
            case int():
                by_entity[NO_ENTITY] = total - sum(by_entity.values())
                points = (Point((("entity", each),), count) for each, count in by_entity.items())
                yield Measure(name, MeasureKind.COUNTER, meanings[name], tuple(points))
            case Mapping():
                by_entity[NO_ENTITY] = {
                    reason: total.get(reason, 0) - sum(each.get(reason, 0) for each in by_entity.values())
                    for reason in total
                }
                reasons = tuple(
                    Point((("entity", each), ("reason", reason.value)), counts.get(reason, 0))
                    for each, counts in by_entity.items()
                    for reason in MissReason
                )
                yield Measure(name, MeasureKind.COUNTER, meanings[name], reasons)
            case _:  # a distribution
                by_entity.setdefault(NO_ENTITY, type(total)())  # nothing of that is about none
                labelled: dict[Labels, Any] = {(("entity", each),): one for each, one in by_entity.items()}
                bounds = _SIZE_BOUNDS_BYTES if isinstance(total, Sizes) else _TIME_BOUNDS_S
                yield _distributed(name, meanings[name], labelled, bounds)


def _by_operation(stats: CacheStats) -> Iterator[Measure]:
    labelled: dict[Labels, Histogram | Sizes] = {
        (("operation", operation.value),): stats.latency.get(operation, Histogram())
        for operation in OperationName
        if operation is not OperationName.REFRESH  # nobody waits for it
    }
    meaning = "How long operations took that somebody waited for."
    yield _distributed("operation_duration", meaning, labelled, _LATENCY_BOUNDS_S)


def _of_queues(stats: CacheStats) -> Iterator[Measure]:
    """What the consumers of this process saw last: of each partition that they have."""
    meanings = _meanings(PartitionStats)
    nothing: Labels = (("entity", NO_ENTITY), ("partition", ""))
    for name, field, unit in _QUEUES:
        found = {
            (("entity", entity), ("partition", str(place))): float(getattr(held, field))
            for entity, partitions in stats.state.queues.items()
            for place, held in partitions.items()
        }
        points = tuple(Point(labels, value) for labels, value in ({nothing: 0.0} | found).items())
        yield Measure(name, MeasureKind.GAUGE, meanings[field], points, unit)


_QUEUES: Final = (("queue_backlog", "backlog", ""), ("queue_oldest", "oldest_s", "seconds"))


def _of_the_store(stats: CacheStats) -> Iterator[Measure]:
    meanings = _meanings(CacheStats) | _meanings(CacheState) | _meanings(PartStats)
    for name in ("errors", "gave_up"):
        counts = getattr(stats, name)
        points = tuple(Point((("kind", kind.value),), counts.get(kind, 0)) for kind in FailureKind)
        yield Measure(name, MeasureKind.COUNTER, meanings[name], points)
    for name in ("store_changes", "replayed"):
        yield Measure(name, MeasureKind.COUNTER, meanings[name], (Point((), float(getattr(stats, name))),))
    for name in attrs.fields_dict(PartStats):
        points = tuple(
            Point((("part", part),), float(getattr(each, name))) for part, each in stats.state.parts.items()
        )
        yield Measure(_RENAMED.get(name, name), MeasureKind.GAUGE, meanings[name], points)
    for name in attrs.fields_dict(CacheState):
        value = getattr(stats.state, name)
        if isinstance(value, int):
            yield Measure(name, MeasureKind.GAUGE, meanings[name], (Point((), float(value)),))


_RENAMED: Final = {"is_open": "breaker_open"}


def _distributed(
    name: str, meaning: str, labelled: Mapping[Labels, Histogram | Sizes], bounds: tuple[float, ...]
) -> Measure:
    points = []
    for labels, one in labelled.items():
        buckets = [0] * (len(bounds) + 1)
        place = 0
        for upper, count in one.bounds():  # in order, as the bounds are
            while place < len(bounds) and upper > bounds[place]:
                place += 1
            buckets[place] += count
        total = one.sum_bytes if isinstance(one, Sizes) else one.sum_s
        points.append(Point(labels, float(total), tuple(buckets)))
    unit = "bytes" if bounds is _SIZE_BOUNDS_BYTES else "seconds"
    return Measure(name, MeasureKind.HISTOGRAM, meaning, tuple(points), unit, bounds)


def _meanings(cls: type) -> dict[str, str]:
    """What the docstring of a class says of its fields; nothing where Python was told to leave it out."""
    names: dict[str, Any] = attrs.fields_dict(cls)
    said = _ATTRIBUTE.findall((cls.__doc__ or "").partition("Attributes:")[2])
    found = {name: " ".join(text.split()) for _, name, text in said}
    return {name: found.get(name, "") for name in names}
