"""Numbers that are recorded together come to what they come to one by one, with the installed SDK."""

import random

import pytest
from opentelemetry import metrics as metrics_api
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from sansio_cache_opentelemetry import together
from sansio_cache_opentelemetry.together import knows, record_together

ATTRIBUTES = {"a": "x", "b": 1}
NAME = "duration"
VIEWS = {
    "default": (),
    "other bounds": (View(instrument_name=NAME, aggregation=ExplicitBucketHistogramAggregation((0.5, 1.0))),),
    "fewer attributes": (View(instrument_name=NAME, attribute_keys={"a"}),),
    "two": (
        View(instrument_name=NAME, name="one"),
        View(instrument_name=NAME, name="two", aggregation=ExplicitBucketHistogramAggregation((1.0,))),
    ),
    "exponential": (View(instrument_name=NAME, aggregation=ExponentialBucketHistogramAggregation()),),
    "none": (View(instrument_name=NAME, aggregation=DropAggregation()),),
}
TEMPORALITIES = {"cumulative": AggregationTemporality.CUMULATIVE, "delta": AggregationTemporality.DELTA}


def metered(views, temporality, readers=2):
    them = [InMemoryMetricReader({Histogram: temporality}) for _ in range(readers)]
    provider = MeterProvider(them, views=views, shutdown_on_exit=False)
    bounds = (0.001, 0.01, 0.1, 1.0)
    histogram = provider.get_meter("m").create_histogram(
        NAME, "s", explicit_bucket_boundaries_advisory=bounds
    )
    return them, histogram


def points(reader):
    data = reader.get_metrics_data()
    found = []
    for scope in data.resource_metrics[0].scope_metrics if data and data.resource_metrics else ():
        for metric in scope.metrics:
            for point in metric.data.data_points:
                kept = {
                    name: getattr(point, name)
                    for name in ("attributes", "count", "min", "max", "bucket_counts", "scale", "positive")
                    if hasattr(point, name)
                }
                found.append((metric.name, str(kept), pytest.approx(point.sum)))
    return found


@pytest.mark.parametrize("temporality", TEMPORALITIES.values(), ids=list(TEMPORALITIES))
@pytest.mark.parametrize("views", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 500])
def test_together_is_as_one_by_one(views, temporality, count):
    draw = random.Random(count)
    numbers = [draw.choice([0.0, 0.001, draw.random(), draw.random() * 3]) for _ in range(count)]
    ours, theirs = metered(views, temporality), metered(views, temporality)
    for _ in range(2):  # the second time after a collection
        record_together(ours[1], numbers, ATTRIBUTES)
        for number in numbers:
            theirs[1].record(number, ATTRIBUTES)
        for mine, other in zip(ours[0], theirs[0], strict=True):
            found = points(mine)
            assert found == points(other)
            assert bool(found) == (count > 0 and views is not VIEWS["none"])


def test_the_installed_sdk_is_known():
    """Else durations would be recorded one by one, which takes as long as a hit."""
    readers, histogram = metered((), AggregationTemporality.CUMULATIVE)
    assert knows(histogram)
    histogram.record(1.0, ATTRIBUTES)
    assert len(together._aggregations(histogram, ATTRIBUTES)) == len(readers)


@pytest.mark.parametrize("missing", ["_measurement_consumer", "nothing is as it was"])
def test_where_the_sdk_is_made_otherwise_each_number_is_recorded_by_itself(missing, monkeypatch):
    readers, histogram = metered((), AggregationTemporality.CUMULATIVE)
    if missing == "_measurement_consumer":
        consumer = histogram._measurement_consumer
        storages = consumer._reader_storages
        monkeypatch.setattr(together, "_USED", ("what there is not",))
        assert consumer._reader_storages is storages
    else:
        monkeypatch.setattr(together, "_values", lambda match: [])
    record_together(histogram, [0.1, 0.2, 0.3, 0.4], ATTRIBUTES)
    [(_, kept, _)] = points(readers[0])
    assert "'count': 4" in kept
    assert not knows(object())


def test_what_is_recorded_before_there_is_a_provider_goes_nowhere():
    histogram = metrics_api.NoOpMeterProvider().get_meter("m").create_histogram("h")
    record_together(histogram, [0.1] * 10, ATTRIBUTES)
    proxy = metrics_api._internal._ProxyMeterProvider().get_meter("m").create_histogram("h")
    record_together(proxy, [0.1] * 10, ATTRIBUTES)
    assert knows(proxy)
