"""What a load test has measured. No I/O here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from sansio_cache_cli.database import Query
from sansio_cache_cli.figures import percentile, rounds_of

PERCENTS: Final = (50.0, 90.0, 99.0, 99.9, 100.0)


@attrs.frozen(kw_only=True)
class LoadFigures:
    """The figures of a load test.

    Attributes:
        requests: How many were made.
        took_s: How long all of it took, in seconds.
        latencies_s: How long the shares of `PERCENTS` took at most, in seconds.
        errors: What went wrong, and how often.
        loads: How often the loader ran; None where that is not known.
        loads_per_expiry: The same for each time that an entry was not there.
        gave_up: How often a call did without the server, as it did not answer in time.
    """

    requests: int
    took_s: float
    latencies_s: tuple[float, ...]
    errors: Counter[str]
    loads: int | None = None
    loads_per_expiry: float | None = None
    gave_up: int = 0

    @property
    def per_second(self) -> float:
        """How many requests were made in a second."""
        return self.requests / self.took_s if self.took_s else 0.0

    def plain(self) -> dict[str, Any]:
        """The figures as plain data. Times are in seconds."""
        latencies = {f"p{percent:g}_s": s for percent, s in zip(PERCENTS, self.latencies_s, strict=True)}
        return {
            "requests": self.requests,
            "took_s": self.took_s,
            "per_second": self.per_second,
            **latencies,
            "errors": dict(self.errors),
            "loads": self.loads,
            "loads_per_expiry": self.loads_per_expiry,
            "gave_up": self.gave_up,
        }


def percentiles(latencies_s: Sequence[float]) -> tuple[float, ...]:
    """How long the shares of `PERCENTS` took at most."""
    in_order = sorted(latencies_s)
    return tuple(percentile(in_order, percent) for percent in PERCENTS)


def loads_per_expiry(loads: Iterable[Query], ttl_s: float) -> float | None:
    """How often an entry was loaded each time that it was not there; None where nothing was loaded.

    Args:
        loads: When each began and ended.
        ttl_s: How long an entry lives at least, in seconds.
    """
    loads = list(loads)
    return len(loads) / rounds_of(loads, ttl_s).count if loads else None
