"""Measuring: the statistics of caches as instruments, and how long commands and loads take.

What the statistics count is asked for when metrics are collected, and costs a hit nothing. Distributions
cannot be asked for so; those of loads, waits and sizes are recorded as they happen, which is no hit. Every
command goes into `db.client.operation.duration`, a hit's as well: durations are kept, and recorded some at a
time, or when metrics are collected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import attrs
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from sansio_cache.keys import entity_of
from sansio_cache.measures import Measure, MeasureKind, measures
from sansio_cache.notices import Loaded, Notice, StoreAsked, Stored, Waited
from sansio_cache.stats import OTHERS, CacheStats
from sansio_cache_opentelemetry import naming
from sansio_cache_opentelemetry.naming import Attributes
from sansio_cache_opentelemetry.together import knows, record_together
from sansio_cache_runtime.sources import Sources

HEARD: Final[tuple[type[Notice], ...]] = (Loaded, Waited, Stored)
"""What is recorded as it happens."""

DURATION: Final = "db.client.operation.duration"
_DURATION_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""As the conventions have them: https://opentelemetry.io/docs/specs/semconv/db/database-metrics"""
_UNITS: Final = {"seconds": "s", "bytes": "By", "": "1"}
_MOST_KNOWN: Final = 1_000
_MOST_ENTITIES: Final = 100
_MOST_KEPT: Final = 1_024


class Meters:
    """The instruments of one meter, for all caches that are measured by it.

    One snapshot of the statistics does for all instruments of a collection: the first that is asked takes it.
    """

    def __init__(self, meter: Meter) -> None:
        self._sources = Sources()
        self.add = self._sources.add
        """Measure this one, too; the function given back ends that."""
        self._found: dict[str, Measure] = {}
        self.measuring: WeakSet[Measuring] = WeakSet()
        """Who keeps what is to be recorded."""
        known = measures(CacheStats())
        self._first = next(each.name for each in known if each.kind is not MeasureKind.HISTOGRAM)
        self.histograms: dict[str, Histogram] = {}
        """Those that are recorded as it happens, by the names of their measures."""
        for measure in known:
            self._make(meter, measure)
        self.duration = meter.create_histogram(
            DURATION,
            "s",
            "Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_DURATION_BOUNDS_S,
        )

    def _make(self, meter: Meter, measure: Measure) -> None:
        name, unit = f"sansio_cache.{measure.name}", _UNITS[measure.unit]
        match measure.kind:
            case MeasureKind.COUNTER:
                ask = partial(self._observe, measure.name)
                meter.create_observable_counter(name, [ask], unit, measure.meaning)
            case MeasureKind.GAUGE:
                ask = partial(self._observe, measure.name)
                meter.create_observable_gauge(name, [ask], unit, measure.meaning)
            case MeasureKind.HISTOGRAM if measure.name == "operation_duration":
                # Recorded with every hit it would cost as much as the hit: its sum and count do for a mean.
                counted = [partial(self._observe_count, measure.name)]
                meter.create_observable_counter(f"{name}.count", counted, "1", measure.meaning)
                meter.create_observable_counter(
                    f"{name}.sum", [partial(self._observe, measure.name)], unit, measure.meaning
                )
            case MeasureKind.HISTOGRAM:
                self.histograms[measure.name] = meter.create_histogram(
                    name, unit, measure.meaning, explicit_bucket_boundaries_advisory=measure.bounds
                )

    def _observe(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, attributes) for value, _, attributes in self._points(name)]

    def _observe_count(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(sum(buckets), attributes) for _, buckets, attributes in self._points(name)]

    def _points(self, name: str) -> Iterator[tuple[float, tuple[int, ...], Attributes]]:
        if name == self._first:
            for measuring in list(self.measuring):
                measuring.record_all()
        found = self._found
        if name == self._first or not found:
            self._found = found = {measure.name: measure for measure in self._sources.together()}
        measure = found.get(name)
        for point in () if measure is None else measure.points:
            attributes: Attributes = {naming.OF_LABELS[label]: value for label, value in point.labels}
            yield point.value, point.buckets, attributes


_meters: Final[WeakKeyDictionary[MeterProvider, Meters]] = WeakKeyDictionary()
_lock: Final = Lock()


def meters_of(provider: MeterProvider, scope: str, version: str) -> Meters:
    """The instruments of a provider: the same for all caches, as an instrument may be made once only."""
    with _lock:
        meters = _meters.get(provider)
        if meters is None:
            meters = _meters[provider] = Meters(provider.get_meter(scope, version))
        return meters


@attrs.frozen(eq=False)
class _Durations:
    """How long commands of one kind took that are not recorded yet."""

    attributes: Attributes
    kept: deque[float] = attrs.field(factory=deque)


class Measuring:
    """Records what one cache tells.

    Args:
        meters: The instruments.
        namespace: The cache's.
    """

    def __init__(self, meters: Meters, namespace: str) -> None:
        self._meters = meters
        self._namespace = namespace
        self._of_commands: dict[Any, _Durations] = {}
        self._most_kept = _MOST_KEPT if knows(meters.duration) else 1
        self._of_entities: dict[str, Attributes] = {}

    def hear(self, notice: Loaded | Waited | Stored) -> None:
        """Record how long it took, or how large it was."""
        histograms = self._meters.histograms
        attributes = self._of_entity(entity_of(notice.key))
        match notice:
            case Loaded(took_s=took_s):
                histograms["load_time"].record(max(took_s, 0.0), attributes)
            case Waited(waited_s=waited_s):
                histograms["wait_time"].record(max(waited_s, 0.0), attributes)
            case Stored(size_bytes=size_bytes):
                histograms["stored_size"].record(size_bytes, attributes)

    def hear_command(self, asked: StoreAsked) -> None:
        """Record how long a command took, where a server was asked."""
        if not asked.system:
            return
        kind = asked.command, asked.words, asked.part, asked.failure
        durations = self._of_commands.get(kind)
        if durations is None:
            durations = self._kept_of(kind, asked)
        took_s = asked.took_s
        durations.kept.append(max(0.0, took_s))
        if len(durations.kept) >= self._most_kept:
            self._record(durations)

    def record_all(self) -> None:
        """Record what is kept: metrics are about to be collected."""
        for durations in list(self._of_commands.values()):
            self._record(durations)

    def _record(self, durations: _Durations) -> None:
        kept, taken = durations.kept, list[float]()
        with suppress(IndexError):  # another thread takes them as well
            for _ in range(len(kept)):
                taken.append(kept.popleft())
        if taken:
            record_together(self._meters.duration, taken, durations.attributes)

    def _kept_of(self, kind: Any, asked: StoreAsked) -> _Durations:
        attributes = naming.command_attributes(asked)
        attributes.pop("db.operation.batch.size", None)  # there may be many sizes
        if len(self._of_commands) >= _MOST_KNOWN:
            self.record_all()
            self._of_commands.clear()
        return self._of_commands.setdefault(kind, _Durations(attributes))

    def _of_entity(self, entity: str) -> Attributes:
        attributes = self._of_entities.get(entity)
        if attributes is None:
            if len(self._of_entities) >= _MOST_ENTITIES:
                entity = OTHERS
            attributes = self._of_entities.setdefault(
                entity, {naming.CACHE_NAME: self._namespace, naming.ENTITY: entity}
            )
        return attributes
