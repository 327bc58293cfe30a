"""Tags, on both caches, three runtimes and both stores: what is invalidated is not served any more (S7).

Each test runs in every place, and what it left there is compared: see `support.runtimes`.
"""

import uuid

import anyio
import attrs
import pytest

from sansio_cache import InvalidKeyError, Policy
from sansio_cache.cell import FOREIGN, Kind
from sansio_cache.entry import MAX_TAGS, MissReason
from sansio_cache.ttl import NO_JITTER
from support.runtimes import in_parallel, is_free, loading, never, runs, until

pytestmark = pytest.mark.servers

STALE = Policy(ttl=0.05, jitter=NO_JITTER, stale_for_s=600)
BOTH = ["users", "teams"]


async def by_load(cache, value, tags):
    assert await cache.get_or_load("k", loading(value), tags=tags) == value


async def by_set(cache, value, tags):
    assert await cache.set("k", value, tags=tags)


async def by_set_many(cache, value, tags):
    assert await cache.set_many({"k": value, "k2": value}, tags=tags) == {"k": True, "k2": True}


async def by_load_many(cache, value, tags):
    async def load(keys):
        return dict.fromkeys(keys, value)

    assert await cache.get_or_load_many(["k", "k2"], load, tags=tags) == {"k": value, "k2": value}


WRITERS = [by_load, by_set, by_set_many, by_load_many]
written = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


async def read_by_get(cache, tags):
    return await cache.get("k", "nothing")


async def read_by_get_many(cache, tags):
    return (await cache.get_many(["k", "other"])).get("k", "nothing")


async def read_by_load(cache, tags):
    return await cache.get_or_load("k", loading("nothing"), tags=tags)


async def read_by_load_many(cache, tags):
    async def load(keys):
        return dict.fromkeys(keys, "nothing")

    return (await cache.get_or_load_many(["k", "other"], load, tags=tags))["k"]


READERS = [read_by_get, read_by_get_many, read_by_load, read_by_load_many]
read = pytest.mark.parametrize("look", READERS, ids=lambda look: look.__name__)
named = pytest.mark.parametrize("names", [BOTH, ["teams"], []], ids=["all", "one", "none"])


@written
@read
@named
@runs()
async def test_an_entry_is_served_until_one_of_its_tags_is_invalidated(world, write, look, names):
    """Whether the reader names its tags, one of them, or none (S7)."""
    await write(world.cache, "mine", BOTH)

    assert await look(world.cache, names) == "mine"
    assert await look(world.cache, names) == "mine"
    result = await world.cache.invalidate(tags=["users"])

    assert (result.done, result.remembered) == (1, 0)
    assert await look(world.cache, names) == "nothing"
    # A batch that names them all has stored the other key with the same tag.
    gone = 2 if look is read_by_load_many and names == BOTH else 1
    assert world.cache.stats().misses[MissReason.TAG] == gone
    assert is_free(world.raw.cell("k"))


@read
@runs()
async def test_other_tags_and_other_entries_are_left_alone(world, look):
    await world.cache.set("k", "mine", tags=["users"])
    await world.cache.set("plain", "no tag")

    await world.cache.invalidate(tags=["teams", "user", "users:1", "k"])

    assert await look(world.cache, []) == "mine"
    assert await world.cache.get("plain") == "no tag"


@runs()
async def test_a_reader_that_names_its_tags_takes_one_round_trip_and_one_that_does_not_takes_two(world):
    await world.cache.get_or_load("k", loading(1), tags=BOTH)
    before = len(world.trace.facts)

    async def asked_by(call):
        first = len(world.trace.facts)
        await call
        return world.trace.names(first)

    async def load(keys):
        raise AssertionError(keys)

    assert await asked_by(world.cache.get_or_load("k", never, tags=BOTH)) == ["ReadCell"]
    assert await asked_by(world.cache.get_or_load_many(["k"], load, tags=BOTH)) == ["ReadCells"]
    assert await asked_by(world.cache.get_or_load("k", never)) == ["ReadCell", "ReadTags"]
    assert await asked_by(world.cache.get("k")) == ["ReadCell", "ReadTags"]
    assert await asked_by(world.cache.get_many(["k", "k"])) == ["ReadCells", "ReadTags"]
    assert await asked_by(world.cache.get_or_load_many(["k"], load)) == ["ReadCells", "ReadTags"]
    # A miss takes three, as without tags: they are captured with the lease.
    assert await asked_by(world.cache.get_or_load("k2", loading(1), tags=BOTH)) == [
        "ReadCell",
        "AcquireLease",
        "FillCells",
    ]
    assert world.cache.stats().redis_hits == 6
    assert before == 3


@runs()
async def test_a_reader_that_names_a_tag_that_the_entry_has_not_replaces_it(world):
    """It was stored by somebody who would not have it invalidated."""
    await world.cache.get_or_load("k", loading("theirs"), tags=["users"])

    assert await world.cache.get_or_load("k", loading("mine"), tags=BOTH) == "mine"
    assert world.cache.stats().misses[MissReason.TAG] == 1

    assert await world.cache.get_or_load("k", never, tags=["users"]) == "mine", "it has what they name"
    await world.cache.invalidate(tags=["teams"])
    assert await world.cache.get("k") is None


@runs()
async def test_tags_may_be_given_in_any_order_twice_and_as_numbers(world):
    team = uuid.UUID(int=7)
    await world.cache.get_or_load("k", loading(1), tags=["a:b", 5, team, "a:b"])

    assert await world.cache.get_or_load("k", never, tags=[team, "5", "a:b"]) == 1
    await world.cache.invalidate(tags=["a"])
    assert await world.cache.get("k") == 1
    await world.cache.invalidate(tags=[5])
    assert await world.cache.get("k") is None


@runs()
async def test_an_entry_may_have_as_many_tags_as_fit_and_no_more(world):
    most = [f"tag{n}" for n in range(MAX_TAGS)]
    await world.cache.get_or_load("k", loading(1), tags=most)
    assert await world.cache.get("k") == 1
    await world.cache.invalidate(tags=[most[-1]])
    assert await world.cache.get("k") is None

    before = len(world.trace.facts)
    for refused in (
        world.cache.get_or_load("k", never, tags=[*most, "one more"]),
        world.cache.set("k", 1, tags=[*most, "one more"]),
        world.cache.invalidate(tags="users"),
        world.cache.invalidate(tags=[""]),
        world.cache.set("k", 1, tags=[None]),
        world.cache.set_many({"k": 1}, tags=5),
        world.cache.get_or_load("k", never, tags=[b"users"]),
        world.cache.get_or_load_many(["k"], never, tags="users"),
    ):
        with pytest.raises(InvalidKeyError):
            await refused
    assert len(world.trace.facts) == before


@runs()
async def test_the_key_of_a_tag_outlives_the_longest_entry_twice_over(world):
    await world.cache.get_or_load("k", loading(1), tags=["users"], ttl=100)
    assert 300_000 <= world.raw.ttl_ms("%t:users") <= 360_000
    await world.cache.set("k2", 1, tags=["users"], ttl=1000)
    assert 3_000_000 <= world.raw.ttl_ms("%t:users") <= 3_600_000
    await world.cache.set("k3", 1, tags=["users"], ttl=1)
    assert world.raw.ttl_ms("%t:users") >= 2_000_000, "never shortened"


@runs()
async def test_a_tag_key_that_was_evicted_costs_a_load_and_nothing_else(world):
    """Fault 12: the version that is issued anew never equals the old one."""
    await world.cache.get_or_load("k", loading("old"), tags=["users"])
    version = world.raw.version("users")
    world.raw.delete("%t:users")

    assert await world.cache.get("k") is None
    assert await world.cache.get_or_load("k", loading("new"), tags=["users"]) == "new"
    assert world.raw.version("users") not in (None, version)
    assert await world.cache.get("k") == "new"


@runs()
async def test_a_tag_key_that_another_program_has_overwritten_is_a_miss_and_issued_anew(world):
    await world.cache.get_or_load("k", loading("old"), tags=["users"])
    world.raw.put(world.raw.full("%t:users"), FOREIGN)

    assert await world.cache.get("k") is None
    assert await world.cache.get_or_load("k", loading("new"), tags=["users"]) == "new"
    assert await world.cache.get("k") == "new"


# While a load is in flight.


@written
@runs()
async def test_a_tag_invalidated_before_its_entry_is_stored_wins(world, write):
    """S7: versions are captured before the load, or when a write begins."""
    other = world.open()
    calls = []

    async def invalidate():
        await other.invalidate(tags=["users"])

    if write in (by_set, by_set_many):
        await write(world.cache, "old", BOTH)
        await invalidate()
    else:

        async def load():
            calls.append(1)
            await invalidate()
            return "old"

        async def load_many(keys):
            await invalidate()
            return dict.fromkeys(keys, "old")

        if write is by_load:
            assert await world.cache.get_or_load("k", load, tags=BOTH) == "old"
        else:
            assert await world.cache.get_or_load_many(["k"], load_many, tags=BOTH) == {"k": "old"}

    for cache in (world.cache, other):
        assert await cache.get("k") is None
        assert await cache.get_many(["k"]) == {}
    assert await other.get_or_load("k", loading("new"), tags=BOTH) == "new"
    assert await world.cache.get("k") == "new"


@runs(compare="store")
async def test_a_namespace_that_is_cleared_while_a_load_is_in_flight_wins(world):
    """S1: whatever was in flight when `clear` was called is not served after it."""
    other = world.open()

    async def load():
        await other.set("kept", 1)
        result = await other.clear()
        assert (result.deleted, result.complete) == (2, True), "the lease is a key like any other"
        return "old"

    assert await world.cache.get_or_load("k", load, tags=["users"]) == "old"
    assert await other.get("k") is None
    assert world.raw.entries() == {}
    assert world.raw.version("users") is not None, "tags are skipped"
    assert await world.cache.get_or_load("k", loading("new"), tags=["users"]) == "new"


@runs()
async def test_a_generation_bumped_while_a_load_is_in_flight_wins(world):
    """S7: a generation is a tag of another name."""
    cache = world.cache
    generation = [cache.key.generation("user")]

    async def load():
        await cache.invalidate(tags=generation)
        return "old"

    assert await cache.get_or_load("user:1", load, tags=generation) == "old"
    assert await cache.get("user:1") is None
    assert await cache.get_or_load("user:1", loading("new"), tags=generation) == "new"
    assert await cache.get_or_load("user:1", never, tags=generation) == "new"
    assert await cache.get("user:1") == "new"
    await cache.invalidate(tags=generation)
    assert await cache.get("user:1") is None
    assert cache.stats().misses[MissReason.TAG] == 3


@runs(compare="store")
async def test_a_caller_that_came_after_a_tag_was_invalidated_does_not_get_the_old_load(world):
    """S7 in one process: the follower joined while the loader ran, and the fill was accepted."""
    calls = []
    is_invalidated = anyio.Event()

    async def load():
        calls.append(1)
        if len(calls) > 1:
            return "new"
        await world.cache.invalidate(tags=["users"])
        is_invalidated.set()
        await until(lambda: world.cache.followers == 1)
        return "old"

    async def call(place):
        if place:
            await is_invalidated.wait()
        return await world.cache.get_or_load("k", load, tags=["users"])

    assert await in_parallel(2, call) == ["old", "new"]
    assert len(calls) == 2
    assert await world.cache.get("k") == "new"


@runs(compare="store", policy=Policy(wait_s=600))
async def test_a_caller_that_names_more_tags_does_not_share_the_load_of_one_that_names_fewer(world):
    """S7: nobody has captured the tag that it depends on."""
    calls = []
    is_invalidated = anyio.Event()

    async def load():
        calls.append(1)
        if len(calls) > 1:
            return "new"
        await world.cache.invalidate(tags=["teams"])
        is_invalidated.set()
        await until(lambda: world.trace.count("ReadCell") >= 2)
        return "old"

    async def call(place):
        if place:
            await is_invalidated.wait()
        return await world.cache.get_or_load("k", load, tags=BOTH if place else ["users"])

    assert await in_parallel(2, call) == ["old", "new"]
    assert await world.cache.get("k") == "new"


@runs(policy=STALE)
async def test_a_stale_value_whose_tag_was_invalidated_is_never_served(world):
    """S7 for stale values: not at once, not where the loader fails, not to who names no tag."""
    await world.cache.get_or_load("k", loading("old"), tags=["users"])
    world.raw.outdate("k")
    await world.cache.invalidate(tags=["users"])

    async def fail():
        raise LookupError("no database")

    for tags in (["users"], []):
        with pytest.raises(LookupError):
            await world.cache.get_or_load("k", fail, tags=tags)
    assert await world.cache.get_or_load("k", loading("new"), tags=["users"], ttl=600) == "new"
    assert world.cache.stats().stale_hits == 0


@runs(policy=STALE)
async def test_a_refresh_in_the_background_keeps_the_tags(world):
    """S7: captured anew before the refresh's load; invalidated meanwhile, its value is not served."""
    await world.cache.get_or_load("k", loading("old"), tags=["users"])
    world.raw.outdate("k")

    async def load():
        await world.cache.invalidate(tags=["users"])
        return "older than the invalidation"

    long = attrs.evolve(STALE, ttl=600)
    assert await world.cache.get_or_load("k", load, tags=["users"], policy=long) == "old"
    await until(lambda: world.cache.stats().stored == 2)
    assert await world.cache.get("k") is None
    assert await world.cache.get_or_load("k", loading("new"), tags=["users"], policy=long) == "new"
    await world.cache.invalidate(tags=["users"])
    assert await world.cache.get("k") is None


# Writers.


@pytest.mark.parametrize("raises", [False, True], ids=["ends", "raises"])
@runs()
async def test_a_mutation_invalidates_its_tags_however_it_ends(world, raises):
    """S6, S7."""
    await world.cache.set("listed", 1, tags=["users"])
    await world.cache.set("other", 1, tags=["teams"])

    async def write():
        async with world.cache.mutate("k", tags=["users"]) as mutation:
            assert await world.cache.get("listed") == 1, "not before the block has ended"
            mutation.set("k", "new")
            if raises:
                raise ZeroDivisionError

    if raises:
        with pytest.raises(ZeroDivisionError):
            await write()
    else:
        await write()

    assert await world.cache.get_many(["k", "listed", "other"]) == (
        {"other": 1} if raises else {"k": "new", "other": 1}
    )


@runs()
async def test_a_mutation_of_tags_alone_invalidates_them(world):
    await world.cache.set("listed", 1, tags=["users"])

    async with world.cache.mutate(tags=["users"]):
        pass

    assert await world.cache.get("listed") is None


@runs()
async def test_an_entry_that_is_loaded_while_a_mutation_of_its_tag_runs_is_gone_after_it(world):
    """S7: the list was read before the commit."""
    async with world.cache.mutate("user:1", tags=["users"]):
        assert await world.cache.get_or_load("list", loading("before"), tags=["users"]) == "before"

    assert await world.cache.get("list") is None


@pytest.mark.parametrize("raises", [False, True], ids=["ends", "raises"])
@runs()
async def test_invalidating_removes_keys_and_tags_when_the_block_has_ended(world, raises):
    await world.cache.set_many({"a": 1, "b": 1, "c": 1})
    await world.cache.set("listed", 1, tags=["users"])

    async def write():
        async with world.cache.invalidating("a", "b", tags=["users"]):
            assert await world.cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 1, "c": 1}
            if raises:
                raise ZeroDivisionError

    if raises:
        with pytest.raises(ZeroDivisionError):
            await write()
    else:
        await write()

    assert await world.cache.get_many(["a", "b", "c", "listed"]) == {"c": 1}
    assert world.cache.stats().invalidated == 3


@runs()
async def test_what_cannot_be_invalidated_is_refused_before_the_block_has_run(world):
    has_run = False
    for keys, tags in (([""], []), (["k"], [""]), (["k"], "users")):
        with pytest.raises(InvalidKeyError):
            async with world.cache.invalidating(*keys, tags=tags):
                has_run = True
        with pytest.raises(InvalidKeyError):
            async with world.cache.mutate(*keys, tags=tags):
                has_run = True

    assert not has_run
    assert world.trace.facts == []


@runs()
async def test_of_many_entries_with_tags_of_their_own_each_is_judged_by_its_own(world):
    """A batch reads all the tags once, and asks of no entry what only another one depends on."""
    for n in range(6):
        await world.cache.set(f"k{n}", n, tags=[f"t{n % 3}"])
    await world.cache.set("plain", 1)
    names = [*(f"k{n}" for n in range(6)), "plain", "absent"]

    await world.cache.invalidate(tags=["t1"])

    assert await world.cache.get_many(names) == {"k0": 0, "k2": 2, "k3": 3, "k5": 5, "plain": 1}
    assert world.trace.facts[-1][0] == "ReadTags"
    loaded = []

    async def load(keys):
        loaded.extend(keys)
        return dict.fromkeys(keys, "loaded")

    found = await world.cache.get_or_load_many(names, load)
    assert sorted(loaded) == ["absent", "k1", "k4"]
    assert [found[name] for name in names] == [0, "loaded", 2, 3, "loaded", 5, 1, "loaded"]
    assert Kind(world.raw.cell("k1").kind) is Kind.VALUE
