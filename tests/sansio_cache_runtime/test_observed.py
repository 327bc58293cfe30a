"""Commands of the store, as those are told of them who want to be."""

import anyio
import pytest

from sansio_cache.commands import AcquireLease
from sansio_cache.events import FailureKind
from sansio_cache.notices import Began, Ended, Hit, StoreAsked
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_runtime.observed import Observed
from support.runtimes import EVERYWHERE, ON_SERVER, PATIENT, loading, runs


def commands_of(heard):
    return [notice.command for notice in heard]


@runs(on=EVERYWHERE, compare="store", **PATIENT)
async def test_each_command_is_told_of_with_what_the_server_was_asked(world):
    cache, heard = world.cache, []
    cache.subscribe(heard.append, kinds=StoreAsked)

    await cache.get_or_load("user:1", loading(1))
    await cache.get("user:1")
    await cache.get_many(["user:1", "user:2"])
    await cache.invalidate("user:1", "user:2")

    assert commands_of(heard) == [
        "ReadCell",
        "AcquireLease",
        "FillCells",
        "ReadCell",
        "ReadCells",
        "DeleteKeys",
    ]
    assert all(notice.took_s > 0 and notice.failure is None for notice in heard)
    systems = {(notice.system, notice.database) for notice in heard}
    if world.place.has_server:
        assert systems == {("redis", "0")}
        assert {f"redis://{notice.host}:{notice.port}" in world.url for notice in heard} == {True}
        assert [notice.words[0] for notice in heard][::3] == ["GET", "GET"]
        assert heard[4].words == ("MGET",)
        assert heard[5].words[:1] == ("UNLINK",)
        assert all(notice.words for notice in heard)
    else:
        assert systems == {("", "")}
        assert {notice.words for notice in heard} == {()}


@runs(on=EVERYWHERE, compare="store", **PATIENT)
async def test_who_does_not_name_commands_is_not_told_of_them_and_nobody_looks_at_the_clock(world):
    cache, heard = world.cache, []
    cache.subscribe(heard.append)
    await cache.get("user:1")
    assert [type(notice) for notice in heard if isinstance(notice, Began | Ended | StoreAsked)] == [
        Began,
        Ended,
    ]
    assert not isinstance(cache.driver._backend, Observed)

    first, second = (cache.subscribe(heard.append, kinds=StoreAsked) for _ in range(2))
    assert isinstance(cache.driver._backend, Observed)
    first()
    assert isinstance(cache.driver._backend, Observed)
    second()
    second()
    assert not isinstance(cache.driver._backend, Observed)
    assert cache.driver.open_connections == cache.stats().state.connections


@runs(on=ON_SERVER, compare=None, **PATIENT)
async def test_a_command_that_failed_says_how(world):
    cache, heard = world.cache, []
    with cache.refusing(FailureKind.PERMISSION, AcquireLease):
        cache.subscribe(heard.append, kinds=StoreAsked)
        assert await cache.get_or_load("user:1", loading(1)) == 1
    failures = [(notice.command, notice.failure) for notice in heard if notice.failure is not None]
    assert failures[0] == ("AcquireLease", FailureKind.PERMISSION)
    world.take_log()


@runs(compare="store", **PATIENT)
async def test_commands_are_no_part_of_explanations(world):
    heard = []
    world.cache.subscribe(heard.append, kinds=StoreAsked)
    with world.cache.explain() as explanation:
        await world.cache.get("user:1")
    assert commands_of(heard) == ["ReadCell"]
    assert not any(isinstance(notice, StoreAsked) for notice in explanation.notices)


def test_who_subscribes_before_the_first_call_hears_of_the_commands_of_every_loop():

    heard = []
    cache = cache_anyio.Cache.from_url("memory://shared", namespace="n")
    cache.subscribe(heard.append, kinds=[StoreAsked, Hit])
    for backend in ("asyncio", "trio"):
        anyio.run(cache.get, "user:1", backend=backend)
    assert commands_of(heard) == ["ReadCell"] * 2
    anyio.run(cache.aclose)


@pytest.mark.parametrize(
    ("url", "host", "port", "database"),
    [
        ("redis://example.com/3", "example.com", 6379, "3"),
        ("redis://[::1]:7000", "::1", 7000, "0"),
        ("unix:///run/redis.sock?db=2", "/run/redis.sock", 0, "2"),
    ],
)
def test_a_command_names_the_place_that_was_configured(url, host, port, database):
    with cache_sync.Cache.from_url(url, namespace="n") as cache:
        assert cache._backend.address == ("redis", host, port, database)
