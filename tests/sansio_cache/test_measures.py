"""Measures: what statistics come to for those who export them."""

import attrs
import pytest

from sansio_cache import CacheStats, EntityStats, Histogram, Sizes
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.measures import NO_ENTITY, MeasureKind, Point, measures
from sansio_cache.notices import (
    Ended,
    Hit,
    Invalidated,
    Loaded,
    Missed,
    OperationName,
    PartitionLost,
    PartitionMeasured,
    PatternDeleted,
    Stored,
    StoreErrored,
)
from sansio_cache.queues import root_of
from sansio_cache.stats import CacheState, PartitionStats, PartStats, StatsFold


def by_name(stats):
    found = measures(stats)
    assert len({measure.name for measure in found}) == len(found)
    return {measure.name: measure for measure in found}


def points(measure):
    return {tuple(value for _, value in point.labels): point for point in measure.points}


def folded(*notices):
    fold = StatsFold()
    fold.record(notices)
    return fold.snapshot()


def test_everything_in_the_statistics_is_measured_under_its_own_name():
    names = set(by_name(CacheStats()))
    counted = {*attrs.fields_dict(EntityStats), "errors", "gave_up", "store_changes", "replayed"}
    now = {"breaker_open", *attrs.fields_dict(PartStats), *attrs.fields_dict(CacheState)} - {
        "is_open",
        "parts",
        "queues",
    }
    now |= {"queue_backlog", "queue_oldest"}
    assert names == counted | now | {"operation_duration"}
    fields = set(attrs.fields_dict(CacheStats))
    assert fields == counted | {"latency", "entities", "state"}


def test_every_measure_says_what_it_means_and_exists_from_the_start():
    for measure in measures(CacheStats()):
        assert measure.meaning.endswith("."), measure.name
        assert "\n" not in measure.meaning
        assert measure.points
        assert all(point.value == 0 and not any(point.buckets) for point in measure.points)


def test_labels_are_entities_reasons_kinds_operations_parts_and_partitions_and_nothing_else():
    stats = folded(*(Hit(f"n:user:{number}") for number in range(500)))
    found = {name for measure in measures(stats) for point in measure.points for name, _ in point.labels}
    assert found == {"entity", "reason", "kind", "operation", "part", "partition"}
    assert set(points(by_name(stats)["redis_hits"])) == {("user",), (NO_ENTITY,)}


def test_each_reason_kind_and_operation_has_a_point_before_it_is_met():
    found = by_name(CacheStats())
    assert set(points(found["misses"])) == {(NO_ENTITY, reason.value) for reason in MissReason}
    assert set(points(found["errors"])) == {(kind.value,) for kind in FailureKind}
    waited_for = set(OperationName) - {OperationName.REFRESH}
    assert set(points(found["operation_duration"])) == {(each.value,) for each in waited_for}


def test_the_points_of_a_counter_add_up_to_the_total():
    stats = folded(
        Hit("n:a:1"),
        Missed("n:b:1", MissReason.TAG),
        Missed("n:b:1", MissReason.ABSENT),
        Invalidated(("n:a:1", "n:%t:tag")),
        PatternDeleted("n:*", 3),
    )
    found = by_name(stats)
    assert points(found["invalidated"]) == {
        ("a",): Point((("entity", "a"),), 1),
        ("b",): Point((("entity", "b"),), 0),
        (NO_ENTITY,): Point((("entity", NO_ENTITY),), 4),
    }
    for name in ("redis_hits", "invalidated"):
        assert sum(point.value for point in found[name].points) == getattr(stats, name)
    assert points(found["misses"])["b", "tag"].value == 1
    assert sum(point.value for point in found["misses"].points) == stats.redis_misses
    assert all(point.value >= 0 for measure in found.values() for point in measure.points)


def test_a_distribution_has_fixed_buckets_in_which_the_counts_are_exact():
    times_s = [0.0, 0.001, 0.001023, 0.001024, 0.5, 20.0, 1000.0]
    stats = folded(*(Loaded("n:a:1", True, took_s) for took_s in times_s))
    measure = by_name(stats)["load_time"]
    point = points(measure)["a",]
    assert (measure.kind, measure.unit) == (MeasureKind.HISTOGRAM, "seconds")
    assert point.value == pytest.approx(sum(times_s))
    edges = [*measure.bounds, float("inf")]
    wanted = [0] * len(edges)
    for took_s in times_s:
        wanted[next(place for place, bound in enumerate(edges) if took_s < bound)] += 1
    assert list(point.buckets) == wanted
    assert points(measure)[NO_ENTITY,].buckets == (0,) * len(edges)


def test_sizes_are_in_bytes_and_latencies_in_seconds():
    stats = folded(Stored("n:a:1", 100), Ended(OperationName.GET, 0.0001), StoreErrored(FailureKind.TIMEOUT))
    found = by_name(stats)
    assert found["stored_size"].unit == "bytes"
    assert points(found["stored_size"])["a",] == Point((("entity", "a"),), 100, (0, 1, *[0] * 8))
    assert points(found["operation_duration"])["get",].buckets[:2] == (0, 1)
    assert points(found["errors"])["timeout",].value == 1


def test_how_the_cache_is_now_goes_up_and_down():
    parts = {"a": PartStats(is_open=True, pending_invalidations=2), "b": PartStats()}
    found = by_name(CacheStats(state=CacheState(parts=parts, connections=3)))
    assert {label: point.value for label, point in points(found["breaker_open"]).items()} == {
        ("a",): 1,
        ("b",): 0,
    }
    assert points(found["pending_invalidations"])["a",].value == 2
    assert found["connections"].points == (Point((), 3.0),)
    assert {found[name].kind for name in ("breaker_open", "connections")} == {MeasureKind.GAUGE}


def test_what_consumers_saw_last_of_their_partitions_is_measured_until_they_lose_them():
    root = root_of("n:", "user", 3)
    stats = folded(
        PartitionMeasured(root_of("n:", "user", 0), 2, 7.0, 5.0),
        PartitionMeasured(root, 9, 1.0, 5.0),
        PartitionMeasured(root, 5, 1.5, 5.0),
    )
    assert stats.state.queues == {
        "user": {0: PartitionStats(backlog=2, oldest_s=7.0), 3: PartitionStats(backlog=5, oldest_s=1.5)}
    }
    assert stats.state.as_dict()["queues"]["user"]["3"] == {"backlog": 5, "oldest_s": 1.5}
    found = by_name(stats)
    assert {labels: point.value for labels, point in points(found["queue_backlog"]).items()} == {
        (NO_ENTITY, ""): 0,
        ("user", "0"): 2,
        ("user", "3"): 5,
    }
    assert points(found["queue_oldest"])["user", "0"].value == 7.0
    assert (found["queue_oldest"].kind, found["queue_oldest"].unit) == (MeasureKind.GAUGE, "seconds")
    fold = StatsFold()
    fold.record(
        [PartitionMeasured(root, 5, 1.5, 5.0), PartitionMeasured(root_of("n:", "user", 0), 0, 0.0, 5.0)]
    )
    later = fold.snapshot(65.0).state.queues["user"]
    assert (later[3].oldest_s, later[0].oldest_s) == (61.5, 0.0), "it goes on waiting while nobody looks"
    lost = by_name(folded(PartitionMeasured(root, 5, 1.5, 5.0), PartitionLost(root)))
    assert set(points(lost["queue_backlog"])) == {(NO_ENTITY, "")}


def test_without_docstrings_there_are_no_meanings_and_all_else_is_as_it_was(monkeypatch):
    with_meanings = measures(CacheStats())
    for cls in (EntityStats, CacheStats, CacheState, PartStats, PartitionStats):
        monkeypatch.setattr(cls, "__doc__", None)
    without = measures(CacheStats())
    assert [each.name for each in without] == [each.name for each in with_meanings]
    assert {each.meaning for each in without if each.name != "operation_duration"} == {""}


def test_the_buckets_are_those_of_the_statistics():
    """Else a count would be shared out by a guess."""
    for measure in measures(CacheStats()):
        for bound in measure.bounds:
            if measure.unit == "seconds":
                one = folded(Ended(OperationName.GET, bound - 1e-6)).latency[OperationName.GET]
            else:
                one = folded(Stored("n:a", int(bound) - 1)).stored_size
            assert isinstance(one, Histogram | Sizes)
            assert one.bounds() == [(bound, 1)]
