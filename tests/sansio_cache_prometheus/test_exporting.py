"""The page that Prometheus reads: what is on it, read by the client's own parsers."""

import gc
import importlib
import sys

import anyio
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from sansio_cache import ConfigurationError, Policy
from sansio_cache.events import FailureKind
from sansio_cache.notices import Loaded, Missed
from sansio_cache_prometheus import export
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.runtimes import PATIENT, in_parallel, loading, runs, until


def page(registry):
    """The samples of a page, by name and labels, as both formats have them."""
    text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, "a series twice: Prometheus would refuse the page"
            found[key] = sample.value
    opened = exposition.generate_latest(registry).decode()
    families = parser.text_string_to_metric_families(opened)
    again = {
        (each.name, tuple(sorted(each.labels.items()))) for family in families for each in family.samples
    }
    assert again == set(found)
    return found


def value(found, name, **labels):
    return found[f"sansio_cache_{name}", tuple(sorted(labels.items()))]


def memory(namespace):
    return cache_sync.Cache.from_url("memory://", namespace=namespace)


@runs(compare=None, **PATIENT)
async def test_the_page_says_what_the_statistics_say(world):
    cache, registry = world.cache, CollectorRegistry()
    export(cache.cache, registry=registry)
    namespace = cache.key.namespace

    await cache.get("user:1")
    await cache.get_or_load("user:1", loading("Ada"))
    await cache.get("user:1")
    await cache.invalidate("user:1", tags=["t"])
    with cache.refusing(FailureKind.TIMEOUT):
        await cache.get("user:1")
        await cache.invalidate("user:2")
        found = page(registry)
    stats = cache.stats()
    await until(lambda: not cache.stats().state.is_open)

    users = {"cache": namespace, "entity": "user"}
    assert value(found, "redis_hits_total", **users) == stats.redis_hits == 1
    assert value(found, "misses_total", reason="absent", **users) == 2
    assert value(found, "misses_total", reason="store_error", **users) == 1
    assert value(found, "load_time_seconds_count", **users) == value(found, "loads_total", **users) == 1
    assert value(found, "load_time_seconds_sum", **users) == stats.load_time.sum_s
    assert value(found, "stored_size_bytes_sum", **users) == stats.stored_size.sum_bytes > 0
    assert value(found, "invalidated_total", **users) == 1
    assert value(found, "invalidated_total", cache=namespace, entity="") == 1
    assert value(found, "errors_total", cache=namespace, kind="timeout") >= 1
    assert value(found, "breaker_open", cache=namespace, part="") == 1
    assert value(found, "pending_invalidations", cache=namespace, part="") == 1
    assert value(found, "connections", cache=namespace) >= 0
    get = {"cache": namespace, "operation": "get"}
    assert value(found, "operation_duration_seconds_count", **get) == 3
    buckets = [
        found[key]
        for key in found
        if key[0] == "sansio_cache_operation_duration_seconds_bucket" and ("operation", "get") in key[1]
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
    world.take_log()


@runs(compare=None, **PATIENT)
async def test_a_closed_cache_leaves_no_alert_behind_and_keeps_its_counters(world):
    cache, registry = world.cache, CollectorRegistry()
    export(cache.cache, registry=registry)
    with cache.refusing(FailureKind.CONNECTION):
        await cache.invalidate("user:1")
        name = cache.key.namespace
        before = page(registry)
        assert value(before, "breaker_open", cache=name, part="") == 1
        await cache.aclose()
    after = page(registry)
    assert value(after, "breaker_open", cache=name, part="") == 0
    assert value(after, "pending_invalidations", cache=name, part="") == 0
    errors = [value(each, "errors_total", cache=name, kind="connection") for each in (before, after)]
    assert errors[1] >= errors[0] > 0
    world.take_log()


def test_every_series_but_those_of_entities_exists_from_the_start():
    registry = CollectorRegistry()
    with memory("n") as cache:
        export(cache, registry=registry)
        before = page(registry)
        cache.get_or_load("user:1", lambda: 1, policy=Policy(stale_for_s=9))
        cache.get_many(["user:1", "user:2"])
        cache.invalidate("user:1")
        after = page(registry)
        assert set(before.values()) == {0.0}
        assert {("entity", "user") in labels for _, labels in set(after) - set(before)} == {True}
        assert set(before) <= set(after)
        cache.entity("order", dict)
        assert value(page(registry), "misses_total", cache="n", entity="order", reason="absent") == 0


def test_labels_never_hold_a_key():
    registry = CollectorRegistry()
    with memory("n") as cache:
        export(cache, registry=registry)
        for number in range(1000):
            cache.get(f"user:{number}")
            cache.get(f"alone-{number}")
        found = page(registry)
    assert len({dict(labels).get("entity") for _, labels in found}) <= 103
    assert len(found) < 8000
    assert sum(each for (name, _), each in found.items() if name == "sansio_cache_misses_total") == 2000


def test_caches_of_one_namespace_are_added_up_and_others_are_apart():
    registry = CollectorRegistry()
    with memory("one") as first, memory("one") as second, memory("two") as third:
        for cache in (first, second, third):
            export(cache, registry=registry)
            cache.get("user:1")
        first.set("user:1", "Ada")
        found = page(registry)
        assert value(found, "misses_total", cache="one", entity="user", reason="absent") == 2
        assert value(found, "misses_total", cache="two", entity="user", reason="absent") == 1
        assert value(found, "stored_size_bytes_count", cache="one", entity="user") == 1


def test_a_cache_is_exported_until_that_is_ended_or_it_is_gone():
    registry = CollectorRegistry()
    with memory("one") as cache:
        end = export(cache, registry=registry)
        assert page(registry)
        end()
        end()
        assert page(registry) == {}
    with memory("two") as other:
        export(other, registry=registry)
    del other
    gc.collect()
    assert page(registry) == {}


def test_one_cache_may_be_on_several_pages():
    with memory("n") as cache:
        registries = [CollectorRegistry(), CollectorRegistry()]
        for registry in registries:
            export(cache, registry=registry)
        cache.get("a")
        assert page(registries[0]) == page(registries[1]) != {}


def test_what_begins_with_another_name_is_left_to_others():
    registry = CollectorRegistry()
    Counter("requests", "Of the program.", registry=registry).inc()
    with memory("n") as cache:
        export(cache, registry=registry)
        assert ("requests_total", ()) in page(registry)
        with pytest.raises(ValueError, match="Duplicated"):
            Counter("sansio_cache_redis_hits", "Another's.", registry=registry)


def calls_in(function):
    """How many functions of Python are called in it."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls.count("call")


@pytest.mark.parametrize("look_on", ["export", "subscribe to what is no hit"])
def test_who_looks_on_adds_nothing_to_a_hit(look_on):
    with memory("n") as cache:
        cache.set("user:1", 1)
        cache.get("user:1")  # what a key comes to is remembered
        cache.stats()
        alone = calls_in(lambda: cache.get("user:1"))
        if look_on == "export":
            export(cache, registry=CollectorRegistry())
        else:
            cache.subscribe(print, kinds=[Loaded, Missed])
        cache.stats()
        assert calls_in(lambda: cache.get("user:1")) == alone > 5


class Failing:
    """A cache whose statistics cannot be had."""

    def __init__(self, cache):
        self.key = cache.key

    def stats(self):
        raise LookupError("no statistics")


def test_a_cache_that_cannot_be_asked_harms_neither_the_page_nor_the_others(caplog):
    registry = CollectorRegistry()
    Counter("requests", "Of the program.", registry=registry).inc()
    with memory("n") as cache, memory("other") as other:
        failing = Failing(other)
        export(failing, registry=registry)
        export(cache, registry=registry)
        for _ in range(3):
            found = page(registry)
            assert ("requests_total", ()) in found
            assert value(found, "redis_hits_total", cache="n", entity="") == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the statistics of a cache cannot be exported: LookupError; this is said once"
    ]


def used(namespace, hits):
    """A cache with so many hits."""
    cache = memory(namespace)
    cache.set("user:1", "Ada")
    for _ in range(hits):
        assert cache.get("user:1") == "Ada"
    return cache


def hits_of(registry, namespace):
    return page(registry).get(
        ("sansio_cache_redis_hits_total", (("cache", namespace), ("entity", "user"))), None
    )


@pytest.mark.parametrize("how", ["collected", "ended"])
def test_counters_do_not_fall_where_one_of_a_namespaces_caches_goes(how):
    """Prometheus would take what is left for counted anew, all of it."""
    registry = CollectorRegistry()
    with used("n", 4) as cache, used("other", 1) as other:
        for each in (cache, other):
            export(each, registry=registry)
        small = used("n", 2)
        end = export(small, registry=registry)
        assert hits_of(registry, "n") == 6
        small.close()
        if how == "ended":
            end()
        del small
        gc.collect()
        assert hits_of(registry, "n") == 6
        cache.get("user:1")
        assert hits_of(registry, "n") == 7
        assert hits_of(registry, "other") == 1


def test_what_is_ended_and_exported_again_counts_once():
    registry = CollectorRegistry()
    with used("n", 4) as cache, used("n", 2) as other:
        export(cache, registry=registry)
        end = export(other, registry=registry)
        end()
        end()
        other.get("user:1")
        assert hits_of(registry, "n") == 6
        end = export(other, registry=registry)
        assert hits_of(registry, "n") == 7
        end()
        assert hits_of(registry, "n") == 7


def test_what_is_ended_while_a_page_is_made_counts_once():
    registry = CollectorRegistry()
    with used("n", 4) as cache, used("n", 2) as other:
        export(cache, registry=registry)
        end = export(other, registry=registry)
        said = cache.stats

        def as_another_thread_ends():
            end()
            return said()

        assert hits_of(registry, "n") == 6
        cache.stats = as_another_thread_ends
        assert hits_of(registry, "n") == 6
        assert hits_of(registry, "n") == 6


def test_of_a_namespace_that_nobody_exports_any_more_nothing_is_left():
    registry = CollectorRegistry()
    cache = used("n", 4)
    export(cache, registry=registry)
    assert hits_of(registry, "n") == 4
    cache.close()
    del cache
    gc.collect()
    assert hits_of(registry, "n") is None
    with used("n", 1) as cache:
        end = export(cache, registry=registry)
        assert hits_of(registry, "n") == 1
        end()
        assert hits_of(registry, "n") is None


def test_one_that_is_exported_twice_is_exported_until_both_have_ended_it():
    registry = CollectorRegistry()
    with used("n", 4) as cache:
        first, second = export(cache, registry=registry), export(cache, registry=registry)
        assert hits_of(registry, "n") == 4
        first()
        assert hits_of(registry, "n") == 4
        second()
        assert hits_of(registry, "n") is None


@pytest.mark.parametrize("wrong", [None, "redis://localhost", 7, object()])
def test_what_is_no_cache_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="export takes a cache; got "):
        export(wrong, registry=CollectorRegistry())


@pytest.mark.parametrize("wrong", [0, -1, True, "1", float("nan"), float("inf"), 1e300])
def test_an_interval_is_a_number_of_seconds(wrong):
    with memory("n") as cache, pytest.raises(ConfigurationError, match="interval_s is a number of seconds"):
        export(cache, registry=CollectorRegistry(), interval_s=wrong)


def test_without_the_client_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sansio_cache_prometheus.exporting")
    package = importlib.import_module("sansio_cache_prometheus")
    with (
        memory("n") as cache,
        pytest.raises(ConfigurationError, match=r"pip install 'sansio-cache\[prometheus"),
    ):
        package.export(cache)
    assert package.dashboard()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_page_can_be_read_from_another_thread_while_a_loop_is_busy(backend):
    registry = CollectorRegistry()

    async def main():
        async with cache_anyio.Cache.from_url("memory://", namespace="n") as cache:
            export(cache, registry=registry)
            await in_parallel(20, lambda number: cache.get(f"user:{number}"))
            found = await anyio.to_thread.run_sync(page, registry)
            assert value(found, "misses_total", cache="n", entity="user", reason="absent") == 20

    anyio.run(main, backend=backend)
