"""Instrumenting: who is subscribed to a cache for its traces and for its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from sansio_cache import __version__
from sansio_cache.errors import ConfigurationError
from sansio_cache.keys import KeyBuilder
from sansio_cache.notices import Notice, StoreAsked
from sansio_cache.stats import CacheStats
from sansio_cache_opentelemetry.measuring import HEARD as MEASURED
from sansio_cache_opentelemetry.measuring import Measuring, meters_of
from sansio_cache_opentelemetry.tracing import HEARD as TRACED
from sansio_cache_opentelemetry.tracing import Tracing
from sansio_cache_runtime.sources import check_source

_SCOPE: Final = "sansio_cache"


class Instrumented(Protocol):
    """A cache of either colour, as far as it matters here."""

    @property
    def key(self) -> KeyBuilder:
        """Knows the namespace."""
        ...

    def stats(self) -> CacheStats:
        """The counters as they are now."""
        ...

    def subscribe(
        self, subscriber: Callable[[Any], object], *, kinds: Iterable[type[Notice]] | type[Notice]
    ) -> Callable[[], None]:
        """Have a function called with notices."""
        ...


def instrument_cache(
    cache: Instrumented,
    *,
    traces: bool,
    metrics: bool,
    keys: bool,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
) -> Callable[[], None]:
    """See `instrument`."""
    check_source(cache, "instrument")
    if not (traces or metrics):
        raise ConfigurationError("instrument is asked for nothing: traces and metrics are both off")
    ends: list[Callable[[], None]] = []
    if traces:
        provider = tracer_provider or trace_api.get_tracer_provider()
        tracing = Tracing(provider.get_tracer(_SCOPE, __version__), cache.key.namespace, names_keys=keys)
        heard = cache.subscribe(tracing.hear, kinds=TRACED)
        commands = cache.subscribe(tracing.hear_command, kinds=StoreAsked)
        ends.append(_instead(_traced, cache, (heard, commands)))
    if metrics:
        meters = meters_of(meter_provider or metrics_api.get_meter_provider(), _SCOPE, __version__)
        measuring = Measuring(meters, cache.key.namespace)
        meters.measuring.add(measuring)
        heard = cache.subscribe(measuring.hear, kinds=MEASURED)
        commands = cache.subscribe(measuring.hear_command, kinds=StoreAsked)
        ends.append(_instead(_measured, cache, (heard, commands, meters.add(cache))))

    def end() -> None:
        for each in ends:
            each()

    return end


_Ends = tuple[Callable[[], None], ...]
_traced: Final[WeakKeyDictionary[Instrumented, _Ends]] = WeakKeyDictionary()
_measured: Final[WeakKeyDictionary[Instrumented, _Ends]] = WeakKeyDictionary()


def _instead(
    known: WeakKeyDictionary[Instrumented, _Ends], cache: Instrumented, ends: _Ends
) -> Callable[[], None]:
    """Remember what ends it, and end what was there before: nothing is to be told of twice."""
    for each in known.get(cache, ()):
        each()
    known[cache] = ends

    def end() -> None:
        for each in ends:
            each()

    return end
