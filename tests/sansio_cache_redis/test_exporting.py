"""`export_stats`: what a cache does is told on a channel, and what fails in it harms nobody."""

from __future__ import annotations

import gc
import logging
import threading
import time

import anyio
import msgspec
import pytest

import sansio_cache_redis.anyio
from sansio_cache import CacheStats, ConfigurationError
from sansio_cache_redis.exporting import ProgramStats, export_stats, recent, stats_channel
from sansio_cache_redis.sync import Cache
from support.servers import connect, wait_until

GIVE_UP_S = 30.0


class Ear:
    """Hears what is told of a namespace."""

    def __init__(self, client, namespace):
        self.pubsub = client.pubsub()
        self.pubsub.subscribe(stats_channel(namespace).decode())
        assert self.pubsub.get_message(timeout=GIVE_UP_S)["type"] == "subscribe"

    def next(self, wanted):
        """The next message that is as wanted."""
        until_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until_s:
            message = self.pubsub.get_message(timeout=0.2)
            if message is not None:
                told = msgspec.json.decode(message["data"], type=ProgramStats)
                if wanted(told):
                    return told
        raise AssertionError("nothing was told")


@pytest.fixture
def ear(redis_url, namespace):
    with connect(redis_url) as client:
        ear = Ear(client, namespace)
        yield ear
        ear.pubsub.close()


def exporting_threads():
    return [each for each in threading.enumerate() if each.name == "sansio-cache-exporting"]


def test_what_a_cache_has_done_is_told_and_the_next_time_only_what_came_after(redis_url, namespace, ear):
    with Cache.from_url(redis_url, namespace=namespace, operation_timeout_s=5) as cache:
        cache.get_or_load("a", lambda: 1)
        cache.get("a")
        with export_stats(cache, every_s=0.1, name="web"):
            told = ear.next(lambda told: told.requests)
            assert (told.name, told.requests, told.hits, told.loads, told.stored) == ("web", 2, 1, 1, 1)
            assert told.window_s >= 0.1
            assert 0 < told.p50_s <= told.p99_s
            assert not told.is_away
            assert ear.next(lambda told: not told.requests).loads == 0
            cache.get("a")
            assert ear.next(lambda told: told.requests).hits == 1
    wait_until(lambda: not exporting_threads())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cache_of_an_event_loop_is_told_of_as_well(redis_url, namespace, ear, backend):
    async def main():
        async with sansio_cache_redis.anyio.Cache.from_url(
            redis_url, namespace=namespace, operation_timeout_s=5
        ) as cache:
            await cache.get_or_load("a", lambda: 1)
            with export_stats(cache, every_s=0.1):
                told = await anyio.to_thread.run_sync(lambda: ear.next(lambda told: told.requests))
                assert told.loads == 1

    anyio.run(main, backend=backend)


def test_it_ends_with_the_cache_and_with_one_that_is_dropped(redis_url, namespace):
    cache = Cache.from_url(redis_url, namespace=namespace)
    export_stats(cache, every_s=0.1)
    cache.close()
    wait_until(lambda: not exporting_threads())
    cache = Cache.from_url(redis_url, namespace=namespace)
    export_stats(cache, every_s=0.1)
    del cache
    gc.collect()
    wait_until(lambda: not exporting_threads())


def test_a_server_that_is_not_there_is_one_line_in_the_log_and_harms_no_call(namespace, caplog):
    with (
        caplog.at_level(logging.WARNING, logger="sansio_cache"),
        Cache.from_url("memory://", namespace=namespace) as cache,
    ):
        export = export_stats(cache, every_s=0.1, url="redis://user:secret-pw@127.0.0.1:1")
        wait_until(lambda: caplog.records)
        for _ in range(3):  # it has tried again by then
            assert cache.get_or_load("a", lambda: 1) == 1
            wait_until(exporting_threads)
        export.close()
        wait_until(lambda: not exporting_threads())
    [record] = caplog.records
    assert "cannot be published: 127.0.0.1:1 refuses connections" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_it_goes_on_when_the_server_is_back(fresh_server, namespace):
    with (
        Cache.from_url(fresh_server.url, namespace=namespace, operation_timeout_s=5) as cache,
        export_stats(cache, every_s=0.1),
    ):
        Ear(fresh_server.client(), namespace).next(lambda _: True)
        fresh_server.restart()
        cache.get("a")
        Ear(fresh_server.client(), namespace).next(lambda _: True)


@pytest.mark.parametrize("every_s", [0, 0.01, -1, True, "2", float("nan"), 1e9])
def test_an_interval_that_makes_no_sense_is_refused(redis_url, namespace, every_s):
    with Cache.from_url(redis_url, namespace=namespace) as cache, pytest.raises(ConfigurationError):
        export_stats(cache, every_s=every_s)


def test_a_cache_that_does_not_know_its_server_is_refused_with_what_to_say(redis_client, namespace):
    for cache in (
        Cache.from_url("memory://", namespace=namespace),
        Cache.from_client(redis_client, namespace=namespace),
    ):
        with cache, pytest.raises(ConfigurationError, match="does not say where to publish"):
            export_stats(cache)
    with pytest.raises(ConfigurationError, match="takes a cache"):
        export_stats(redis_client)


def test_nothing_between_two_snapshots_is_nothing():
    told = recent(CacheStats(), CacheStats(), name="a", every_s=1, window_s=1)
    assert (told.requests, told.p50_s, told.errors, told.pending_invalidations) == (0, 0.0, 0, 0)
