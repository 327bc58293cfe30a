"""Hits at the first look, on all runtimes and stores: they are given, counted and left as by the machine.

Each test runs in every place, and what it left there is compared: see `support.runtimes`.
"""

import anyio
import attrs
import pytest

from sansio_cache import Policy
from sansio_cache.notices import Hit, Missed
from support.runtimes import EVERYWHERE, THIRD_PARTY, loading, never, runs, until

TAGS = ["users", "orders"]
LONG = Policy(ttl=600, stale_for_s=600)


class Looks:
    """Counts the reads of a world that were answered at the first look."""

    def __init__(self, world):
        self.count = 0
        recorder = world.cache.driver._recorder
        glanced = recorder.glanced

        def counting(*arguments):
            self.count += 1
            glanced(*arguments)

        recorder.glanced = counting


async def filled(world):
    """Store what the reads below find."""
    await world.cache.set_many({f"user:{number}": {"n": number} for number in range(5)})
    assert await world.cache.get_or_load("tagged", loading("Ada"), tags=TAGS, policy=LONG) == "Ada"
    assert await world.cache.get_or_load("stale", loading("Bob"), policy=LONG) == "Bob"


async def read_everything(world):
    """Six reads that are all hits, of thirteen keys."""
    cache = world.cache
    keys = [f"user:{number}" for number in range(5)]
    values = {f"user:{number}": {"n": number} for number in range(5)}
    assert await cache.get("user:1") == {"n": 1}
    assert await cache.get_or_load("user:2", never, ttl=60) == {"n": 2}
    assert await cache.get_or_load("tagged", never, tags=TAGS) == "Ada"
    assert await cache.get_or_load("stale", never, policy=LONG) == "Bob"
    assert await cache.get_many(keys) == values
    assert await cache.get_or_load_many(keys[:4], never) == {key: values[key] for key in keys[:4]}


def without_times(stats):
    """Counters without how long things took."""
    counts = {name: histogram.count for name, histogram in stats.latency.items()}
    return attrs.evolve(stats, latency={}), counts


@runs(EVERYWHERE + THIRD_PARTY)
async def test_hits_are_answered_at_the_first_look_and_counted_as_by_the_machine(world):
    await filled(world)
    looks, before = Looks(world), world.cache.stats()
    await read_everything(world)
    first = world.cache.stats() - before
    assert looks.count == 6

    told = []
    unsubscribe = world.cache.subscribe(told.append)
    before = world.cache.stats()
    await read_everything(world)
    assert without_times(world.cache.stats() - before) == without_times(first)
    assert looks.count == 6, "who listens to hits is told of each"
    assert sum(isinstance(notice, Hit) for notice in told) == first.redis_hits == 13

    unsubscribe()
    await read_everything(world)
    assert looks.count == 12


@runs()
async def test_who_listens_to_misses_is_told_of_them_and_hits_are_still_answered_at_the_first_look(world):
    await filled(world)
    looks, told = Looks(world), []
    world.cache.subscribe(told.append, kinds=[Missed])
    await read_everything(world)
    assert await world.cache.get("none") is None
    assert looks.count == 6
    assert [notice.key.partition(":")[2] for notice in told] == ["none"]


@runs()
async def test_a_tag_that_was_invalidated_is_seen_at_the_first_look(world):
    await filled(world)
    looks = Looks(world)
    await world.cache.invalidate(tags=["orders"])
    assert await world.cache.get_or_load("tagged", loading("new"), tags=TAGS) == "new"
    assert looks.count == 0
    assert await world.cache.get_or_load("tagged", never, tags=TAGS) == "new"
    assert looks.count == 1
    assert await world.cache.get_or_load("tagged", never, tags=["users"]) == "new"
    assert await world.cache.get("tagged") == "new"
    assert looks.count == 1, "the other tags are in the entry alone"


@runs()
async def test_a_value_that_was_made_stale_is_refreshed_and_not_taken_for_fresh(world):
    await filled(world)
    looks = Looks(world)
    await world.cache.expire("stale")
    assert await world.cache.get("stale") is None
    assert await world.cache.get_or_load("stale", loading("new"), policy=LONG) == "Bob"
    assert looks.count == 0
    await until(lambda: world.cache.stats().stored == 8)
    assert await world.cache.get_or_load("stale", never, policy=LONG) == "new"


@runs()
async def test_a_batch_of_which_one_key_is_missing_is_the_machines(world):
    await filled(world)
    looks = Looks(world)
    assert await world.cache.get_many(["user:1", "none"]) == {"user:1": {"n": 1}}
    both = {"user:1": {"n": 1}, "new": 9}

    async def load(keys):
        return {key: both[key] for key in keys}

    assert await world.cache.get_or_load_many(list(both), load) == both
    assert looks.count == 0


@pytest.mark.parametrize("key", ["user:1", "none"])
@runs(tuple(place for place in EVERYWHERE if place.runtime != "sync"), compare=None)
async def test_a_read_that_is_cancelled_while_it_looks_leaves_nothing(world, key):
    await filled(world)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await world.cache.get_or_load(key, never)
    assert scope.cancelled_caught
    assert len(world.cache.driver._coordinator.single_flight) == 0
    assert await world.cache.get("user:1") == {"n": 1}
