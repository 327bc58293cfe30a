"""The statistics of caches for Prometheus, with a dashboard for Grafana and rules for alerts.

    from sansio_cache_prometheus import export

    export(cache)

That is all: the numbers are on the page that `prometheus_client` serves, under names that begin with
`sansio_cache_`. Nothing is added to a hit, as they are read when the page is asked for. In multiprocess mode
(`PROMETHEUS_MULTIPROC_DIR`) each process writes its numbers down where `prometheus_client` adds them up.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Final

from sansio_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

    from sansio_cache_runtime.sources import Source

__all__ = ["alert_rules", "dashboard", "export"]

_RESOURCES: Final = "resources"


def export(
    cache: Source, *, registry: CollectorRegistry | None = None, interval_s: float = 1.0
) -> Callable[[], None]:
    """Have the statistics of a cache exported, from now on.

    Several caches may be exported; those of one namespace are added up, and what one has counted that is gone
    counts as long as another of its namespace is exported. A cache is not kept alive by it.

    Args:
        cache: A cache, of threads or of event loops.
        registry: Of `prometheus_client`; its `REGISTRY` where not given. In multiprocess mode there is none.
        interval_s: In multiprocess mode: how often a process writes its numbers down, in seconds.

    Returns:
        A function that ends it; calling it again does nothing. A cache that is exported twice is exported
        until both have ended it.

    Raises:
        ConfigurationError: It is no cache; the interval is none; or `prometheus_client` is not installed.
    """
    try:
        from sansio_cache_prometheus.exporting import export_to
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise ConfigurationError(
            "prometheus_client is not installed: pip install 'sansio-cache[prometheus]'"
        ) from None
    return export_to(cache, registry, interval_s)


def dashboard() -> str:
    """A dashboard for Grafana, as JSON to be imported."""
    return _text("dashboard.json")


def alert_rules() -> str:
    """Rules for alerts, as YAML for the `rule_files` of Prometheus."""
    return _text("alerts.yml")


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(_RESOURCES, name).read_text(encoding="utf-8")
