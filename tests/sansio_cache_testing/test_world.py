"""A world on its own: caches as if in several processes, a database, and time that is told to pass."""

import pytest

from sansio_cache import Policy
from sansio_cache.errors import ConfigurationError
from sansio_cache_testing import World

pytest_plugins = ["sansio_cache_testing.plugin"]


def test_time_stands_still_until_it_is_told_to_pass(cache_world, fake_cache):
    assert fake_cache.set("a", 1, ttl=60)
    cache_world.pass_time(60)
    assert fake_cache.get("a") == 1
    cache_world.pass_time(12.1)
    assert fake_cache.get("a") is None


def test_caches_of_a_world_share_its_store_as_processes_do():
    world = World()
    here, there, rows = world.cache(), world.cache(), world.rows({1: "Ann"})
    assert here.get_or_load("user:1", rows.read, 1) == "Ann"
    rows.write(1, "Eve")
    assert there.get_or_load("user:1", rows.read, 1) == "Ann"
    assert there.invalidate("user:1").done
    assert here.get_or_load("user:1", rows.read, 1) == "Eve"
    assert here.stats().loads == 2
    assert there.stats().loads == 0
    world.end()


def test_caches_of_other_namespaces_have_other_keys():
    world = World()
    shop, blog = world.cache("shop"), world.cache("blog", default_ttl=5)
    shop.set("a", 1)
    assert blog.get("a") is None
    world.end()


def test_what_happened_can_be_looked_at():
    world = World()
    cache, rows = world.cache(), world.rows({1: "Ann"}, name="user")
    cache.get_or_load("user:1", rows.read, 1)
    assert [(step.whom, step.what) for step in world.steps] == [
        ("cache", "reads user:1: nothing"),
        ("cache", "asks to load user:1: yes"),
        ("database", "reads user 1: 'Ann'"),
        ("cache", 'stores user:1 = "Ann"'),
    ]
    assert all(step.place.file == __file__ for step in world.steps)
    world.end()


@pytest.mark.parametrize("duration_s", [-1, float("nan"), float("inf"), "60", True, None])
def test_what_is_no_time_is_refused(duration_s, cache_world):
    with pytest.raises(ConfigurationError, match="pass_time takes a number of seconds"):
        cache_world.pass_time(duration_s)


def test_a_cache_of_a_world_takes_no_url(cache_world):
    with pytest.raises(ConfigurationError, match="has the world's store: leave url out"):
        cache_world.cache(url="redis://localhost")


def test_rows_are_written_removed_and_found(cache_world):
    rows = cache_world.rows({1: 10, 2: 20})
    rows.write(3, 30)
    rows.delete(1)
    assert rows.read(1) is None
    assert rows.find() == {2: 20, 3: 30}
    assert rows.find(lambda key, value: value > 20) == {3: 30}
    assert rows.replica.read(3) == 30


def test_a_refresh_runs_on_when_the_world_comes_to_it():
    world = World()
    cache, rows = world.cache(policy=Policy(ttl=60, stale_for_s=600)), world.rows({1: 0})
    assert cache.get_or_load("row:1", rows.read, 1) == 0
    rows.write(1, 1)
    world.pass_time(100)
    assert cache.get_or_load("row:1", rows.read, 1) == 0
    world.pass_time(1)
    assert cache.get_or_load("row:1", rows.read, 1) == 1
    world.end()
