"""Exporting: the measures of caches as families of `prometheus_client`.

With one process a collector reads the statistics whenever the page is asked for. With several, whoever is
asked knows its own only, and collectors are left out by `prometheus_client`: see `sharing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from threading import TIMEOUT_MAX, Lock
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, values
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from sansio_cache.errors import ConfigurationError
from sansio_cache.measures import Measure, MeasureKind, Point, measures
from sansio_cache.stats import CacheStats
from sansio_cache_prometheus.naming import full_name, help_of, label_names, uppers
from sansio_cache_prometheus.sharing import Publisher
from sansio_cache_runtime.sources import Source, Sources, check_source

_lock: Final = Lock()
_collectors: Final[WeakKeyDictionary[CollectorRegistry, CacheCollector]] = WeakKeyDictionary()
_publishers: Final[list[Publisher]] = []
"""The one of this process, from when it is needed."""


def export_to(cache: Source, registry: CollectorRegistry | None, interval_s: float) -> Callable[[], None]:
    """See `export`."""
    check_source(cache, "export")
    is_number = isinstance(interval_s, int | float) and not isinstance(interval_s, bool)
    if not (is_number and 0 < interval_s <= TIMEOUT_MAX):
        raise ConfigurationError(
            f"interval_s is a number of seconds, as in interval_s=1.0; got {interval_s!r:.40}"
        )
    with _lock:
        if getattr(values.ValueClass, "_multiprocess", False):
            if not _publishers:
                _publishers.append(Publisher())
            return _publishers[0].add(cache, interval_s)
        return _collector_of(REGISTRY if registry is None else registry).add(cache)


def _collector_of(registry: CollectorRegistry) -> CacheCollector:
    collector = _collectors.get(registry)
    if collector is None:
        collector = CacheCollector()
        registry.register(collector)
        _collectors[registry] = collector
    return collector


class CacheCollector(Collector):
    """Reads the statistics of caches, whenever they are asked for."""

    def __init__(self) -> None:
        self._sources = Sources()
        self.add = self._sources.add

    def collect(self) -> Iterator[Metric]:
        """What they are now."""
        return map(_family, self._sources.together())

    def describe(self) -> Iterator[Metric]:
        """Under which names there may be something."""
        return map(_family, measures(CacheStats()))


def _family(measure: Measure) -> Metric:
    name, about, labels = full_name(measure), help_of(measure), label_names(measure)
    match measure.kind:
        case MeasureKind.COUNTER:
            counter = CounterMetricFamily(name, about, labels=labels)
            for point in measure.points:
                counter.add_metric([value for _, value in point.labels], point.value)
            return counter
        case MeasureKind.GAUGE:
            gauge = GaugeMetricFamily(name, about, labels=labels)
            for point in measure.points:
                gauge.add_metric([value for _, value in point.labels], point.value)
            return gauge
        case MeasureKind.HISTOGRAM:
            histogram = HistogramMetricFamily(name, about, labels=labels)
            for point in measure.points:
                histogram.add_metric(
                    [value for _, value in point.labels],
                    buckets=_cumulative(measure, point),
                    sum_value=point.value,
                )
            return histogram


def _cumulative(measure: Measure, point: Point) -> list[tuple[str, float]]:
    counts = accumulate(point.buckets)
    return [(upper, float(count)) for upper, count in zip(uppers(measure), counts, strict=True)]
