"""Sources: the caches whose statistics are exported, and what these come to together."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet, finalize, ref

from msgspec.structs import replace

from sansio_cache.errors import ConfigurationError
from sansio_cache.keys import KeyBuilder
from sansio_cache.measures import Labels, Measure, MeasureKind, Point, measures
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


class _Exported:
    """One cache, as it is exported."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.ends: set[object] = set()
        """Those who have not ended it."""
        self.counted: tuple[Measure, ...] = ()
        """What was read last, without what goes up and down."""


class Sources:
    """Some caches. Safe for threads. None of them is kept alive.

    What asking one of them raises is logged once, and the others are asked: whoever exports harms nobody.

    The counters of a namespace do not fall where one of its caches goes: whoever adds up takes that for a
    beginning at zero, and counts all of the others' once more. So what was read last of a cache that is gone
    counts until no cache of its namespace is exported.
    """

    def __init__(self) -> None:
        self._caches: WeakKeyDictionary[Source, _Exported] = WeakKeyDictionary()
        self._collected: deque[_Exported] = deque()
        """Filled wherever the collector runs, which is under no lock of ours."""
        self._lost: dict[str, list[Measure]] = {}
        """What those that are gone have counted, by their namespaces."""
        self._process = os.getpid()
        self._failed: WeakSet[Source] = WeakSet()

    def add(self, cache: Source) -> Callable[[], None]:
        """Ask this one, too; the function given back ends that, where nobody else has it asked."""
        token, kept = object(), ref(cache)
        with process_lock():
            exported = self._caches.get(cache)
            if exported is None:
                exported = self._caches[cache] = _Exported(cache.key.namespace)
                finalize(cache, self._collected.append, exported).atexit = False
            exported.ends.add(token)

        def end() -> None:
            there = kept()
            if there is not None:
                self.read([there])
            with process_lock():
                exported.ends.discard(token)

        return end

    def together(self) -> list[Measure]:
        """What they come to: points with the same labels are added up."""
        found = self.read()
        with process_lock():
            if self._process != os.getpid():  # the parent's are the parent's to tell
                self._process = os.getpid()
                self._collected.clear()
                self._lost.clear()
            while self._collected:
                gone = self._collected.popleft()
                lost = self._lost.get(gone.namespace, [])
                self._lost[gone.namespace] = added_up([tuple(lost), gone.counted])
            # What ends while it is asked has said already what it counted.
            asked = {id(cache) for cache, _ in found}
            exported = list(self._caches.values())
            there = {each.namespace for each in exported if each.ends}
            self._lost = {name: lost for name, lost in self._lost.items() if name in there}
            for each in exported:
                if each.namespace not in there:
                    each.counted = ()
            unasked = (each for cache, each in self._caches.items() if id(cache) not in asked)
            ended = [each.counted for each in unasked if not each.ends]
            return added_up([*(those for _, those in found), *ended, *map(tuple, self._lost.values())])

    def read(self, wanted: Iterable[Source] | None = None) -> list[tuple[Source, tuple[Measure, ...]]]:
        """What each of them, or of some, says, its points labelled with its namespace."""
        found = []
        with process_lock():  # it is another one after a fork
            caches = [(cache, exported) for cache, exported in self._caches.items() if exported.ends]
        for cache, exported in caches:
            if wanted is not None and cache not in wanted:
                continue
            try:
                named = ("cache", exported.namespace)
                said = tuple(_labelled(each, named) for each in measures(cache.stats()))
                exported.counted = tuple(each for each in said if each.kind is not MeasureKind.GAUGE)
                found.append((cache, said))
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
