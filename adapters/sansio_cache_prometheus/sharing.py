"""Sharing: the numbers of several processes, where `prometheus_client` adds them up.

In multiprocess mode each process has files in `PROMETHEUS_MULTIPROC_DIR`, and whoever answers a scrape adds
up those of all. A collector that is asked would know its own process only, and is left out. So each process
writes its numbers down itself: a thread does, once in an interval, and as the process ends.

What has changed since is *added*: a process may get the number of one that has ended, and with it the file,
and counters must never go down. A child of a fork begins at zero, as its statistics do, and writes nothing
before there is something: it may be there for something else, and gone soon.

The thread is stopped before a fork and started after it in both: a process that forks should have one thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import values

from sansio_cache.measures import Labels, Measure, MeasureKind
from sansio_cache.signals import let_through
from sansio_cache_prometheus.naming import full_name, help_of, uppers
from sansio_cache_runtime.sources import Source, Sources, added_up

logger: Final = logging.getLogger("sansio_cache")
_STOP_S: Final = 10.0
_MODE: Final = "livesum"
"""What becomes of gauges: those of processes that live are added up."""
_FILE_BYTES: Final = 1 << 16
"""How large the client makes a file in the beginning."""

Sample = tuple[str, Labels]
"""The name and the labels of one number in a file."""


class Publisher:
    """Writes the numbers of this process down."""

    def __init__(self) -> None:
        self._sources = Sources()
        self._written: WeakKeyDictionary[Source, dict[Sample, float]] = WeakKeyDictionary()
        self._values: dict[Sample, Any] = {}
        self._gauges: dict[Sample, Any] = {}
        """Those that were set last."""
        self._lock = threading.Lock()
        self._interval_s = float("inf")
        self._process = os.getpid()
        self._is_child = False
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._has_failed = False
        _publishers.add(self)
        atexit.register(self.publish)

    def add(self, cache: Source, interval_s: float) -> Callable[[], None]:
        """Write those of this cache down, too; the function given back ends that."""
        end = self._sources.add(cache)
        self._interval_s = min(self._interval_s, interval_s)
        self.publish()  # so that they are there from the start
        self.start()

        def end_after_the_last() -> None:
            self.publish()
            end()

        return end_after_the_last

    def publish(self) -> None:
        """Write down what has changed. What goes wrong is logged once, until it goes well again."""
        try:
            with self._lock:
                self._publish()
            self._has_failed = False
        except Exception as error:
            let_through(error)
            if not self._has_failed:
                self._has_failed = True
                logger.warning(
                    "the statistics of caches cannot be written for Prometheus: %s; it is tried again",
                    type(error).__name__,
                    exc_info=error,
                )

    def _publish(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._is_child = True
            self._written.clear()
            self._gauges.clear()
        found = self._sources.read()
        for cache, those in found:
            written = self._written.setdefault(cache, {})
            for measure in those:
                if measure.kind is not MeasureKind.GAUGE:
                    self._add(measure, written)
        gone = self._gauges
        self._gauges = {}
        for measure in added_up(those for _, those in found):
            if measure.kind is MeasureKind.GAUGE:
                for point in measure.points:
                    sample = full_name(measure), point.labels
                    value = gone.pop(sample, None)
                    if value is None:
                        if self._is_child and not point.value:
                            continue
                        value = self._value(measure, *sample)
                    self._gauges[sample] = value
                    value.set(point.value)
        for value in gone.values():
            value.set(0.0)  # of a cache that is not there any more

    def _add(self, measure: Measure, written: dict[Sample, float]) -> None:
        for name, labels, number in _samples(measure):
            before = written.get((name, labels), 0.0 if self._is_child else None)
            if before != number:
                self._value(measure, name, labels).inc(number - (before or 0.0))
                written[name, labels] = number

    def _value(self, measure: Measure, name: str, labels: Labels) -> Any:
        value = self._values.get((name, labels))
        if value is None:
            _make_whole(measure.kind)
            value = self._values[name, labels] = values.ValueClass(
                measure.kind.value,
                full_name(measure),
                name,
                [each for each, _ in labels],
                [each for _, each in labels],
                help_of(measure),
                multiprocess_mode=_MODE if measure.kind is MeasureKind.GAUGE else "",
            )
        return value

    # The thread.

    def start(self) -> None:
        """Go on by itself."""
        if self._thread is None:
            self._end = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._end,), name="sansio-cache-prometheus", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread. It is not waited for any longer than it should take."""
        thread, self._thread = self._thread, None
        self._end.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    def begin_in_child(self) -> None:
        """No thread of the parent is here, and one may have held the lock."""
        self._lock = threading.Lock()
        self._thread = None
        self.start()

    def _run(self, end: threading.Event) -> None:
        while not end.wait(self._interval_s):
            self.publish()


def _make_whole(kind: MeasureKind) -> None:
    """Make the file of this process before the client does, all at once.

    Else there is a moment in which it is empty. A process that is killed then would leave what no scrape can
    read, of any process.
    """
    name = f"gauge_{_MODE}" if kind is MeasureKind.GAUGE else kind.value
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    path = Path(directory or "") / f"{name}_{os.getpid()}.db"
    if not directory or path.exists():
        return
    made = path.with_suffix(f".{threading.get_ident()}")
    with made.open("wb") as file:
        file.truncate(_FILE_BYTES)
    with suppress(OSError):  # it is there by now; or the file system has no links, and the client makes it
        path.hardlink_to(made)
    made.unlink()


def _samples(measure: Measure) -> Iterator[tuple[str, Labels, float]]:
    """The numbers in a file: those of buckets are not added up there."""
    name = full_name(measure)
    for point in measure.points:
        if measure.kind is MeasureKind.COUNTER:
            yield f"{name}_total", point.labels, point.value
        else:
            yield f"{name}_sum", point.labels, point.value
            for upper, count in zip(uppers(measure), point.buckets, strict=True):
                yield f"{name}_bucket", (*point.labels, ("le", upper)), float(count)


_publishers: Final[WeakSet[Publisher]] = WeakSet()


def _before_fork() -> None:
    for each in list(_publishers):
        each.stop()


def _after_fork_in_parent() -> None:
    for each in list(_publishers):
        each.start()


def _after_fork_in_child() -> None:
    for each in list(_publishers):
        each.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
