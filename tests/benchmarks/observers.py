"""What it costs to look on: CPU time of a hit with exporters and subscribers, against one without any.

    PYTHONPATH=tests python -P -m benchmarks.observers [--rounds 15]

All variants take turns in one process, against one server, so that a machine whose speed drifts does not
matter. "nobody" runs twice in each round: its ratio against itself shows how far noise alone goes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry

from sansio_cache.notices import Loaded
from sansio_cache_opentelemetry import instrument
from sansio_cache_prometheus import export
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.servers import Server

VALUE: Final = {"id": 1, "name": "a name", "tags": ["a", "b", "c"], "text": "x" * 120}
PATIENT: Final = {"operation_timeout_s": 20.0, "attempt_timeout_s": 10.0}
"""So that a busy machine is not taken for an outage, in which nothing is a hit."""
TASKS: Final = 50
CALLS: Final = 60
ALONE: Final = 2000


class Dropping(SpanExporter):
    """Takes spans, as fast as can be."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def nobody(cache: Any) -> Callable[[], object]:
    return lambda: None


def subscribed_to_loads(cache: Any) -> Callable[[], object]:
    unsubscribe: Callable[[], object] = cache.subscribe(lambda notice: None, kinds=Loaded)
    return unsubscribe


def prometheus(cache: Any) -> Callable[[], object]:
    return export(cache, registry=CollectorRegistry())


def opentelemetry_metrics(cache: Any) -> Callable[[], object]:
    provider = MeterProvider([InMemoryMetricReader()])
    return instrument(cache, traces=False, meter_provider=provider)


def opentelemetry_traces(cache: Any, share: float = 1.0) -> Callable[[], object]:
    sampler = ParentBased(TraceIdRatioBased(share))
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=100_000))
    end = instrument(cache, metrics=False, tracer_provider=provider)

    def stop() -> None:
        end()
        provider.shutdown()

    return stop


def operations_logged(cache: Any) -> Callable[[], object]:
    operations = logging.getLogger("sansio_cache.operations")
    operations.propagate = False
    operations.addHandler(handler := logging.NullHandler())
    operations.setLevel(logging.DEBUG)
    cache._recorder.is_followed()

    def stop() -> None:
        operations.setLevel(logging.NOTSET)
        operations.removeHandler(handler)
        operations.propagate = True
        cache._recorder.is_followed()

    return stop


VARIANTS: Final = {
    "nobody": nobody,
    "a subscriber to loads": subscribed_to_loads,
    "Prometheus": prometheus,
    "OpenTelemetry, metrics": opentelemetry_metrics,
    "OpenTelemetry, traces, 1 % recorded": partial(opentelemetry_traces, share=0.01),
    "OpenTelemetry, traces, all recorded": opentelemetry_traces,
    "the log of operations": operations_logged,
}


async def on_a_loop(cache: Any) -> float:
    """Microseconds of CPU for a hit, of fifty tasks."""

    async def work() -> None:
        for _ in range(CALLS):
            await cache.get("k")

    began_s = time.process_time()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return (time.process_time() - began_s) / (TASKS * CALLS) * 1e6


def on_a_thread(cache: Any) -> float:
    """The same of one thread."""
    began_s = time.process_time()
    for _ in range(ALONE):
        cache.get("k")
    return (time.process_time() - began_s) / ALONE * 1e6


def rounds_of(count: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """Ratios against "nobody" in the same round."""
    names = [*VARIANTS, "nobody, again"]
    for name in names:
        measure(name.removesuffix(", again"))
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        order = names if number % 2 else names[::-1]
        took = {name: measure(name.removesuffix(", again")) for name in order}
        base = (took["nobody"] + took["nobody, again"]) / 2
        for name in names:
            ratios[name].append(took[name] / base)
        print(f"  {number + 1} of {count} rounds", file=sys.stderr)
    return ratios


def blocking(url: str, count: int) -> dict[str, list[float]]:
    """One thread."""
    with cache_sync.Cache.from_url(url, namespace="sync", **PATIENT) as cache:
        cache.set("k", VALUE)

        def measure(name: str) -> float:
            stop = VARIANTS[name](cache)
            try:
                return on_a_thread(cache)
            finally:
                stop()

        return rounds_of(count, measure)


def asynchronous(url: str, count: int) -> dict[str, list[float]]:
    """asyncio."""

    async def prepare(cache: Any) -> None:
        await cache.set("k", VALUE)

    with asyncio.Runner() as runner:
        cache = cache_anyio.Cache.from_url(url, namespace="asyncio", **PATIENT)
        runner.run(prepare(cache))

        def measure(name: str) -> float:
            stop = VARIANTS[name](cache)
            try:
                return runner.run(on_a_loop(cache))
            finally:
                stop()

        ratios = rounds_of(count, measure)
        runner.run(cache.aclose())
        return ratios


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.observers")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    with Server.start() as server:
        loop = asynchronous(server.url, options.rounds)
        thread = blocking(server.url, options.rounds)
    print("| who looks on | asyncio, 50 tasks | one thread |")
    print("| --- | --- | --- |")
    for name in loop:
        print(f"| {name} | {statistics.median(loop[name]):.2f} | {statistics.median(thread[name]):.2f} |")


if __name__ == "__main__":
    main()
