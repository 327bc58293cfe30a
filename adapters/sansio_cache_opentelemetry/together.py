"""Together: many durations recorded in a histogram at once.

The SDK looks at the attributes with each number that it is given, which takes as long as a hit. It has no way
to be given many numbers of the same attributes, so this module, and no other, reaches below its interface:
two of them are recorded as anybody would; with the rest it does what the SDK does, where the two went.
Where the SDK is made otherwise than it is known here, every number is recorded by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from opentelemetry.metrics import Histogram

from sansio_cache_opentelemetry.naming import Attributes


def record_together(histogram: Histogram, numbers: Sequence[float], attributes: Attributes) -> None:
    """Record numbers, as if each had been recorded by itself.

    Args:
        histogram: Of whichever provider.
        numbers: What to record; none is negative.
        attributes: Of all of them.
    """
    by_size = sorted(numbers)
    alone, rest = (by_size, []) if len(by_size) < 3 else ([by_size[0], by_size[-1]], by_size[1:-1])
    for number in alone:
        histogram.record(number, attributes)
    if rest:
        found = _aggregations(histogram, attributes)
        if found is None:
            for number in rest:
                histogram.record(number, attributes)
        else:
            for each in found:
                _add(each, rest)


def knows(histogram: Histogram) -> bool:
    """Whether numbers can be recorded together here; where not, there is no use in keeping them."""
    real = getattr(histogram, "_real_instrument", histogram)
    return real is None or hasattr(getattr(real, "_measurement_consumer", None), "_reader_storages")


def _aggregations(histogram: Histogram, attributes: Attributes) -> list[Any] | None:
    """Where numbers with these attributes go, of all who read; None where that is not known."""
    real: Any = getattr(histogram, "_real_instrument", histogram)
    if real is None or type(real).__name__ == "NoOpHistogram":
        return []
    found = []
    try:
        for storage in real._measurement_consumer._reader_storages.values():  # noqa: SLF001
            for match in storage._instrument_view_instrument_matches[real]:  # noqa: SLF001
                only = match._view._attribute_keys  # noqa: SLF001
                wanted = {name: each for name, each in attributes.items() if only is None or name in only}
                [one] = [each for each in _values(match) if each._attributes == wanted]  # noqa: SLF001
                if type(one).__name__ == "_DropAggregation":
                    continue
                if type(one).__name__ != "_ExplicitBucketHistogramAggregation":
                    return None
                if not all(hasattr(one, name) for name in _USED):
                    return None
                found.append(one)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found


_USED = ("_value", "_sum", "_min", "_max", "_boundaries", "_lock", "_get_empty_bucket_counts")


def _values(match: Any) -> list[Any]:
    with match._lock:  # noqa: SLF001
        return list(match._attributes_aggregation.values())  # noqa: SLF001


def _add(aggregation: Any, numbers: Sequence[float]) -> None:
    """What `aggregate` does, with several. They are in order, and between the two that were recorded."""
    with aggregation._lock:  # noqa: SLF001
        if aggregation._value is None:  # noqa: SLF001 - it was collected since
            aggregation._value = aggregation._get_empty_bucket_counts()  # noqa: SLF001
        counts, bounds = aggregation._value, aggregation._boundaries  # noqa: SLF001
        before = 0
        for place, bound in enumerate(bounds):
            upto = bisect_right(numbers, bound)  # a bucket holds its upper bound
            counts[place] += upto - before
            before = upto
        counts[len(bounds)] += len(numbers) - before
        aggregation._sum += sum(numbers)  # noqa: SLF001
        aggregation._min = min(aggregation._min, numbers[0])  # noqa: SLF001
        aggregation._max = max(aggregation._max, numbers[-1])  # noqa: SLF001
