"""Sources: the caches whose statistics are exported, and what these come to together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol
from weakref import WeakSet

from msgspec.structs import replace

from sansio_cache.errors import ConfigurationError
from sansio_cache.keys import KeyBuilder
from sansio_cache.measures import Labels, Measure, Point, measures
from sansio_cache.signals import let_through
from sansio_cache.stats import CacheStats
from sansio_cache_runtime.process import process_lock

logger: Final = logging.getLogger("sansio_cache")


class Source(Protocol):
    """A cache of either colour, as far as it matters here."""

    @property
    def key(self) -> KeyBuilder:
        """Knows the namespace."""
        ...

    def stats(self) -> CacheStats:
        """The counters as they are now."""
        ...


def check_source(cache: Any, name: str) -> None:
    """Refuse what is no cache.

    Args:
        cache: What was given.
        name: Of the function that it was given to.

    Raises:
        ConfigurationError: It is something else.
    """
    if not (callable(getattr(cache, "stats", None)) and isinstance(getattr(cache, "key", None), KeyBuilder)):
        raise ConfigurationError(f"{name} takes a cache; got {type(cache).__name__}")


class Sources:
    """Some caches. Safe for threads. None of them is kept alive.

    What asking one of them raises is logged once, and the others are asked: whoever exports harms nobody.
    """

    def __init__(self) -> None:
        self._caches: WeakSet[Source] = WeakSet()
        self._failed: WeakSet[Source] = WeakSet()

    def add(self, cache: Source) -> None:
        """Ask this one, too."""
        with process_lock():
            self._caches.add(cache)

    def discard(self, cache: Source) -> None:
        """Ask it no more."""
        with process_lock():
            self._caches.discard(cache)

    def read(self) -> list[tuple[Source, tuple[Measure, ...]]]:
        """What each of them says, its points labelled with its namespace."""
        found = []
        with process_lock():  # it is another one after a fork
            caches = list(self._caches)
        for cache in caches:
            try:
                named = ("cache", cache.key.namespace)
                found.append((cache, tuple(_labelled(each, named) for each in measures(cache.stats()))))
            except Exception as error:
                let_through(error)
                if cache not in self._failed:
                    self._failed.add(cache)
                    logger.warning(
                        "the statistics of a cache cannot be exported: %s; this is said once",
                        type(error).__name__,
                        exc_info=error,
                    )
        return found


def _labelled(measure: Measure, named: tuple[str, str]) -> Measure:
    points = tuple(replace(point, labels=(named, *point.labels)) for point in measure.points)
    return replace(measure, points=points)


def added_up(found: Iterable[tuple[Measure, ...]]) -> list[Measure]:
    """Measures of several caches as one each; points with the same labels are added up."""
    together: dict[str, Measure] = {}
    points: dict[str, dict[Labels, Point]] = {}
    for each in found:
        for measure in each:
            together.setdefault(measure.name, measure)
            of_name = points.setdefault(measure.name, {})
            for point in measure.points:
                before = of_name.get(point.labels)
                of_name[point.labels] = point if before is None else _sum(before, point)
    return [replace(measure, points=tuple(points[name].values())) for name, measure in together.items()]


def _sum(one: Point, other: Point) -> Point:
    buckets = tuple(map(sum, zip(one.buckets, other.buckets, strict=True)))
    return Point(one.labels, one.value + other.value, buckets)
