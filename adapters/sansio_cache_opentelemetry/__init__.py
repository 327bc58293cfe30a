"""Traces and metrics of caches, by OpenTelemetry.

    from sansio_cache_opentelemetry import instrument

    instrument(cache)

Every operation is a span, in the trace of whoever calls: what its loader does is inside, and so are the
commands that it sends to the server. A refresh in the background is a trace of its own, linked to the
operation that has begun it. Metrics are the statistics of the cache, and how long commands take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sansio_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from sansio_cache_opentelemetry.instrumenting import Instrumented

__all__ = ["instrument"]


def instrument(
    cache: Instrumented,
    *,
    traces: bool = True,
    metrics: bool = True,
    keys: bool = True,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Callable[[], None]:
    """Have a cache traced and measured, from now on.

    Args:
        cache: A cache, of threads or of event loops.
        traces: Whether its operations and commands are spans.
        metrics: Whether its statistics and the durations of its commands are metrics.
        keys: Whether spans name keys. Metrics never do.
        tracer_provider: The global one where not given.
        meter_provider: The global one where not given.

    Returns:
        A function that ends it; calling it again does nothing.

    Raises:
        ConfigurationError: It is no cache; nothing is asked for; or OpenTelemetry is not installed.
    """
    try:
        from sansio_cache_opentelemetry.instrumenting import instrument_cache
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("opentelemetry"):
            raise
        raise ConfigurationError(
            "OpenTelemetry is not installed: pip install 'sansio-cache[opentelemetry]'"
        ) from None
    return instrument_cache(
        cache,
        traces=traces,
        metrics=metrics,
        keys=keys,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
