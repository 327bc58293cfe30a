"""Metrics, by a reader in memory: what the statistics say, and how long commands take."""

import gc
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sansio_cache.events import FailureKind
from sansio_cache.measures import MeasureKind, measures
from sansio_cache.notices import Loaded, StoreAsked, Stored
from sansio_cache.stats import OTHERS, CacheStats
from sansio_cache_opentelemetry import instrument
from sansio_cache_opentelemetry.measuring import DURATION, Measuring, meters_of
from sansio_cache_redis import sync as cache_sync
from support.runtimes import EVERYWHERE, ON_SERVER, PATIENT, loading, runs, until


class Metered:
    """What a reader finds."""

    def __init__(self, *caches, readers=1):
        self.readers = [InMemoryMetricReader() for _ in range(readers)]
        self.provider = MeterProvider(self.readers, shutdown_on_exit=False)
        self.ends = [instrument(each, traces=False, meter_provider=self.provider) for each in caches]

    def read(self, reader=0):
        """Points by the names of instruments and their attributes."""
        data = self.readers[reader].get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "sansio_cache"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        key = metric.name, tuple(sorted(point.attributes.items()))
                        assert key not in found
                        found[key] = point
        return found

    def value(self, instrument, /, **attributes):
        wanted = {f"cache.{key.replace('_', '.')}": each for key, each in attributes.items()}
        return self.read()[f"sansio_cache.{instrument}", tuple(sorted(wanted.items()))].value


def durations_of(found):
    points = [point for (name, _), point in found.items() if name == DURATION]
    return {point.attributes["db.query.summary"]: point for point in points}


def memory(namespace):
    return cache_sync.Cache.from_url("memory://", namespace=namespace)


@runs(on=EVERYWHERE, compare=None, **PATIENT)
async def test_the_metrics_say_what_the_statistics_say(world):
    cache, name = world.cache, world.cache.key.namespace
    metered = Metered(cache.cache)
    await cache.get_or_load("user:1", loading(1))
    await cache.get("user:1")
    with cache.refusing(FailureKind.TIMEOUT):
        await cache.get("user:2")
        assert metered.value("breaker_open", name=name, part="") == 1
    await until(lambda: not cache.stats().state.is_open)

    stats, found = cache.stats(), metered.read()
    assert metered.value("redis_hits", name=name, entity="user") == stats.redis_hits == 1
    assert metered.value("misses", name=name, entity="user", miss_reason="absent") == 1
    assert metered.value("operation_duration.count", name=name, operation="get") == 2
    assert metered.value("breaker_open", name=name, part="") == 0
    users = (("cache.entity", "user"), ("cache.name", name))
    assert found["sansio_cache.load_time", users].count == 1
    assert found["sansio_cache.load_time", users].sum == pytest.approx(stats.load_time.sum_s, abs=1e-5)
    assert found["sansio_cache.stored_size", users].sum == stats.stored_size.sum_bytes
    failures = found["sansio_cache.errors", (("cache.name", name), ("error.type", "timeout"))]
    assert failures.value >= 1
    world.take_log()


@runs(on=ON_SERVER, compare=None, **PATIENT)
async def test_each_command_is_counted_with_how_long_it_took_by_the_conventions(world):
    cache = world.cache
    metered = Metered(cache.cache, readers=2)
    await cache.get_or_load("user:1", loading(1))
    for _ in range(2000):  # more than are kept
        await cache.get("user:1")
    await cache.invalidate("user:1")

    for reader in (0, 1):
        found = durations_of(metered.read(reader))
        read = found["GET read"]
        assert (read.count, sum(read.bucket_counts)) == (2001, 2001)
        assert read.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
        assert 0 < read.min <= read.sum / read.count <= read.max
        attributes = dict(read.attributes)
        host, _, port = world.url.removeprefix("redis://").partition("/")[0].rpartition(":")
        assert attributes == {
            "db.system.name": "redis",
            "db.operation.name": "GET",
            "db.namespace": "0",
            "db.query.summary": "GET read",
            "server.address": host,
            "server.port": int(port),
        }
        acquire = found["EVALSHA acquire"]
        assert acquire.attributes["db.stored_procedure.name"] == "acquire"
        assert all("db.operation.batch.size" not in point.attributes for point in found.values())
        assert {summary.split()[-1] for summary in found} == {"read", "acquire", "fill", "delete"}
    await cache.get("user:1")
    assert durations_of(metered.read())["GET read"].count == 2002


def test_a_command_that_failed_is_told_by_its_kind():
    with cache_sync.Cache.from_url("redis://127.0.0.1:1/3", namespace="n", connect_timeout_s=0.2) as cache:
        metered = Metered(cache)
        cache.get("user:1")
        read = durations_of(metered.read())["GET read"]
    assert read.attributes["error.type"] == "connection"
    assert read.attributes["db.namespace"] == "3"


def test_without_a_server_there_is_no_database_to_be_timed():
    with memory("n") as cache:
        metered = Metered(cache)
        cache.get_or_load("user:1", lambda: 1)
        assert durations_of(metered.read()) == {}
        assert metered.value("loads", name="n", entity="user") == 1


def test_everything_that_is_measured_is_there_from_the_start():
    with memory("n") as cache:
        names = {name for name, _ in Metered(cache).read()}
    counted = {each.name for each in measures(CacheStats()) if each.kind is not MeasureKind.HISTOGRAM}
    assert names == {f"sansio_cache.{name}" for name in counted} | {
        "sansio_cache.operation_duration.count",
        "sansio_cache.operation_duration.sum",
    }


def test_attributes_never_hold_a_key_and_are_bounded():
    with memory("n") as cache:
        metered = Metered(cache)
        for number in range(300):
            cache.set(f"alone-{number}", 1)
            cache.get_or_load(f"user:secret{number}", lambda: 1)
        found = metered.read()
    entities = {dict(attributes).get("cache.entity") for _, attributes in found}
    assert len(entities) <= 103
    assert OTHERS in entities
    assert "secret" not in str(list(found))
    assert sum(point.count for (name, _), point in found.items() if name == "sansio_cache.stored_size") == 600


def test_several_caches_have_one_set_of_instruments(caplog):
    with memory("one") as first, memory("one") as second, memory("two") as third:
        metered = Metered(first, second, third)
        for cache in (first, second, third):
            cache.get("user:1")
        assert metered.value("misses", name="one", entity="user", miss_reason="absent") == 2
        assert metered.value("misses", name="two", entity="user", miss_reason="absent") == 1
    assert caplog.records == []


def test_a_cache_is_measured_until_that_is_ended_or_it_is_gone():
    with memory("one") as cache:
        metered = Metered(cache)
        [end] = metered.ends
        cache.get("user:1")
        assert metered.read()
        end()
        end()
        assert metered.read() == {}
        assert not cache._recorder.subscribers.is_there
    with memory("two") as cache:
        again = Metered(cache)
    del cache
    gc.collect()
    assert again.read() == {}


def test_durations_that_threads_record_at_the_same_time_are_counted_once_each():
    """One of them may find that another has taken what it was about to take."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    measuring = Measuring(meters_of(provider, "m", "1"), "n")
    asked = StoreAsked("ReadCell", ("GET",), 0.001, "", None, "redis", "h", 1, "0")
    each = 20_000

    def work():
        for _ in range(each):
            measuring.hear_command(asked)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measuring.record_all()
    [scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
    [metric] = [metric for metric in scope.metrics if metric.name == DURATION]
    assert metric.data.data_points[0].count == 4 * each


class Broken:
    """A histogram that fails."""

    def record(self, *_):
        raise LookupError("no numbers today")


def test_an_instrument_that_fails_harms_nobody_and_is_said_once(caplog):
    with memory("n") as cache:
        metered = Metered(cache)
        meters = meters_of(metered.provider, "", "")
        for name in list(meters.histograms):
            meters.histograms[name] = Broken()
        for number in range(3):
            assert cache.get_or_load(f"user:{number}", lambda: 1) == 1
        assert metered.value("loads", name="n", entity="user") == 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "raised LookupError" in said[0]


def test_a_clock_that_went_back_is_recorded_as_no_time():
    with memory("n") as cache:
        metered = Metered(cache)
        cache._recorder.subscribers.tell((Loaded("n:user:1", True, -1.0), Stored("n:user:1", 5)))
        found = metered.read()
    assert found["sansio_cache.load_time", (("cache.entity", "user"), ("cache.name", "n"))].sum == 0


def test_a_cache_that_is_measured_again_keeps_all_its_instruments():
    with memory("n") as cache:
        metered = Metered(cache)
        cache.get_or_load("user:1", lambda: 1)
        before = metered.read()
        metered.ends.append(instrument(cache, traces=False, meter_provider=metered.provider))
        assert set(metered.read()) == set(before)
        metered.ends[0]()
        cache.get_or_load("user:2", lambda: 1)
        assert metered.value("loads", name="n", entity="user") == 2
        metered.ends[1]()
        assert not [name for name, _ in metered.read() if name == "sansio_cache.loads"]
