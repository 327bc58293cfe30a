"""Naming: what a measure is called in Prometheus."""

from __future__ import annotations

from prometheus_client.utils import floatToGoString

from sansio_cache.measures import Measure


def full_name(measure: Measure) -> str:
    """The name of the family: that of a counter without its `_total`."""
    parts = ["sansio_cache", measure.name]
    if measure.unit:
        parts.append(measure.unit)
    return "_".join(parts)


def uppers(measure: Measure) -> list[str]:
    """The upper bounds of its buckets, as the label `le` has them."""
    bounds = (*measure.bounds, float("inf"))
    return [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]


def help_of(measure: Measure) -> str:
    """What is said of it, on one line."""
    return measure.meaning or measure.name


def label_names(measure: Measure) -> list[str]:
    """The names of its labels."""
    return [name for name, _ in measure.points[0].labels]
