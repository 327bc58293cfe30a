"""Entities, on both caches, three runtimes and both stores: a name, a type and a policy said once."""

import itertools
from dataclasses import dataclass

import pytest

from sansio_cache import Absent, ConfigurationError, Exact, InvalidKeyError, NotStoredError, Policy
from sansio_cache.commands import FillCells
from sansio_cache.entry import MissReason
from sansio_cache.notices import Unasked
from sansio_cache.ttl import NO_JITTER
from support.runtimes import never, runs, until


@dataclass
class User:
    name: str


LONG = Policy(ttl=60, jitter=NO_JITTER, stale_for_s=600)


async def load_user(id):
    return User(f"user {id}")


async def load_users(ids):
    return {each: User(f"user {each}") for each in ids}


def users(world, **options):
    return world.cache.entity("user", User, **{"ttl": 60, "loader": load_user, **options})


@runs()
async def test_an_entity_keeps_its_things_under_built_keys_of_its_type(world):
    entity = users(world)

    assert await entity.get(7) is None
    assert await entity.get_or_load(7) == User("user 7")
    assert await entity.get(7) == User("user 7")
    assert await entity.get("7") == User("user 7"), "1 and '1' are the same component"
    assert await world.cache.get(world.cache.key.build("user", 7), type=User) == User("user 7")
    assert entity.key(7) == world.cache.key.build("user", 7)
    assert await entity.get(8, "nobody") == "nobody"


@runs()
async def test_a_call_may_bring_its_own_loader_and_one_of_them_is_needed(world):
    async def own(id):
        return User(f"own {id}")

    assert await users(world).get_or_load(1, own) == User("own 1")
    bare = users(world, loader=None)
    assert await bare.get_or_load(2, own) == User("own 2")
    with pytest.raises(ConfigurationError, match="has no loader"):
        await bare.get_or_load(3)


@runs()
async def test_what_is_written_is_read(world):
    entity = users(world)

    assert await entity.set(1, User("Ada"))
    assert await entity.get_or_load(1, never) == User("Ada")
    result = await entity.invalidate(1, 2)
    assert result.done == 2
    assert await entity.get(1) is None


@runs(compare="store")
async def test_a_set_that_is_strict_says_why_it_stored_nothing_and_no_list_is_older(world):
    async def names(query):
        return [User(query)]

    async def later(query):
        return [User("later")]

    entity = users(world)
    assert await entity.set(1, User("Ada"), strict=True) is True
    assert await entity.list("q", names) == [User("q")]
    key = entity.key(1).partition(":")[2]
    with (
        world.cache.before(FillCells, lambda: world.raw.delete(key)),
        pytest.raises(NotStoredError) as raised,
    ):
        await entity.set(1, User("Bob"), strict=True)
    assert (raised.value.reason, raised.value.reasons) == ("overtaken", {entity.key(1): "overtaken"})
    assert await entity.list("q", later) == [User("later")]
    with pytest.raises(NotStoredError, match="nothing is left of its time to live"):
        await entity.set(1, User("Bob"), ttl=0, strict=True)
    assert await entity.set(1, User("Bob"), ttl=0) is False


@runs()
async def test_a_thing_that_is_read_may_be_let_live_longer_and_looked_at(world):
    entity = users(world, ttl=Exact(60))
    assert (await entity.lookup(1)).state == "miss"
    assert await entity.get(1, "nobody", renew=600) == "nobody"
    await entity.set(1, User("Ada"))
    assert 50 < (await entity.lookup(1)).remaining_s <= 60
    assert await entity.get(1, renew=Exact(600)) == User("Ada")
    found = await entity.lookup(1)
    assert (found.value, found.is_fresh) == (User("Ada"), True)
    assert 590 < found.remaining_s <= 600
    world.trace.fills.clear()  # it lives longer than its fill said


@runs()
async def test_things_and_tags_are_invalidated_together(world):
    entity = users(world)
    await entity.set(1, User("Ada"))
    await world.cache.set("report", 1, tags=["reports"])
    assert (await entity.invalidate(1, tags=["reports"])).done == 2
    assert await entity.get(1) is None
    assert await world.cache.get("report") is None
    with pytest.raises(InvalidKeyError, match="names nothing"):
        await entity.invalidate(tags=["reports"])


@runs(policy=LONG)
async def test_what_has_been_made_stale_is_loaded_anew(world):
    entity = users(world, ttl=None)
    await entity.set(1, User("old"))
    await entity.expire(1)

    assert await entity.get_or_load(1) == User("old")
    await until(lambda: world.cache.stats().refreshes == 1 and world.cache.stats().stored == 2)
    assert await entity.get(1) == User("user 1")


@runs()
async def test_many_things_are_asked_for_and_loaded_by_their_ids(world):
    entity = users(world)
    await entity.set(1, User("Ada"))
    asked = []

    async def load(ids):
        asked.append(sorted(ids))
        return {2: User("two"), 3: Absent(), 99: User("nobody asked")}

    found = await entity.get_or_load_many([1, 2, 3, 4], load)

    assert found == {1: User("Ada"), 2: User("two")}
    assert asked == [[2, 3, 4]]
    assert await entity.get(2) == User("two")
    assert await entity.get_or_load_many([], load) == {}
    assert "not asked for" in world.log.pop().getMessage()


@runs()
async def test_a_loader_of_many_things_that_gives_no_mapping_is_refused(world):
    async def load(ids):
        return [User("one")]

    with pytest.raises(ConfigurationError, match="mapping"):
        await users(world).get_or_load_many([1], load)


@runs()
async def test_a_new_generation_makes_everything_of_an_entity_a_miss_and_nothing_else(world):
    """S7, at the price of one removal, however many entries there are."""
    entity = users(world, generations=True)
    others = world.cache.entity("team", User, loader=load_user, generations=True)
    await entity.get_or_load_many(range(20), load_users)
    await entity.set(20, User("set"))
    await others.get_or_load(1)

    assert (await entity.invalidate_all()).done == 1

    assert [await entity.get(each) for each in range(21)] == [None] * 21
    assert world.cache.stats().misses[MissReason.TAG] == 21
    assert await others.get(1) == User("user 1")
    assert await entity.get_or_load(20) == User("user 20")
    assert await entity.get(20) == User("user 20")


@runs()
async def test_a_new_generation_fences_a_load_in_flight(world):
    """S1, S7: what was loaded before is not served after."""
    entity = users(world, generations=True)

    async def load(id):
        await entity.invalidate_all()
        return User("old")

    assert await entity.get_or_load(1, load) == User("old")
    assert await entity.get(1) is None


@runs()
async def test_without_generations_there_is_no_invalidating_all(world):
    with pytest.raises(ConfigurationError, match="generations=True"):
        await users(world).invalidate_all()


@runs()
async def test_a_mutation_stores_values_of_the_present_generation(world):
    entity = users(world, generations=True)
    await entity.get_or_load(1)

    async with entity.mutate(1) as mutation:
        mutation.set(entity.key(1), User("Grace"), type=User)

    assert await entity.get_or_load(1, never) == User("Grace")
    await entity.invalidate_all()
    assert await entity.get(1) is None


@runs()
async def test_a_generation_that_changes_inside_a_mutation_takes_its_values_away(world):
    """S6, S7: the versions are those from before the block, so nothing older than the change is served."""
    entity = users(world, generations=True)

    async with entity.mutate(1) as mutation:
        await entity.invalidate_all()
        mutation.set(entity.key(1), User("Grace"), type=User)

    assert await entity.get(1) is None
    assert await entity.get_or_load(1) == User("user 1")


@runs()
async def test_a_mutation_may_tie_its_values_to_tags_but_not_to_those_that_it_invalidates(world):
    cache = world.cache
    async with cache.mutate("k", tags=["lists"], value_tags=["users"]) as mutation:
        mutation.set("k", 1)
    assert await cache.get_or_load("k", never, tags=["users"]) == 1
    await cache.invalidate(tags=["lists"])
    assert await cache.get("k") == 1
    await cache.invalidate(tags=["users"])
    assert await cache.get("k") is None

    with pytest.raises(InvalidKeyError, match="would take away what it stores"):
        await cache.mutate("k", tags=["users"], value_tags=["users"]).__aenter__()


@runs()
async def test_what_cannot_be_an_entity_is_refused_when_it_is_made(world):
    with pytest.raises(InvalidKeyError):
        world.cache.entity("", User)
    with pytest.raises(ConfigurationError, match="loader is a function"):
        world.cache.entity("user", User, loader=5)
    with pytest.raises(ConfigurationError):
        world.cache.entity("user", object)
    with pytest.raises(ConfigurationError, match="not both"):
        world.cache.entity("user", User, ttl=LONG, policy=LONG)


@pytest.mark.parametrize("ids", ["12", b"12", 7, None], ids=repr)
@runs()
async def test_one_id_is_no_list_of_ids(world, ids):
    """The letters of a text would be ids."""
    with pytest.raises(InvalidKeyError, match="pass a list of ids, not one id"):
        await users(world).get_or_load_many(ids, load_users)
    assert world.trace.facts == []


@pytest.mark.parametrize("tags", ["users", b"users", 7, None], ids=repr)
@runs()
async def test_one_tag_is_no_list_of_tags(world, tags):
    """The letters of a text would be tags, and invalidating the tag would do nothing."""
    entity = users(world, generations=True)
    calls = [
        lambda: entity.get_or_load(1, tags=tags),
        lambda: entity.get_or_load_many([1], load_users, tags=tags),
        lambda: entity.set(1, User("Ada"), tags=tags),
        lambda: entity.mutate(1, tags=tags).__aenter__(),
        lambda: world.cache.get_or_load("k", never, tags=tags),
    ]
    for call in calls:
        with pytest.raises(InvalidKeyError, match="tags= takes a list of tags, not one tag"):
            await call()
    assert world.trace.facts == []


@pytest.mark.parametrize("loader", ["nope", 5, {}], ids=repr)
@runs()
async def test_what_cannot_be_called_is_no_loader(world, loader):
    """Also where the entity has a loader, which is one of single things."""
    called = []

    async def load(id):
        called.append(id)

    for entity in (users(world, loader=None), users(world, loader=load)):
        with pytest.raises(ConfigurationError, match="loader is a function"):
            await entity.get_or_load_many([1], loader)
        with pytest.raises(ConfigurationError, match="loader is a function"):
            await entity.get_or_load(1, loader)
    assert called == []
    assert world.trace.facts == []


@runs(max_batch_keys=5)
async def test_ids_without_end_are_too_many(world):
    drawn = itertools.count()
    with pytest.raises(InvalidKeyError, match="one call may name 5 ids"):
        await users(world).get_or_load_many(drawn, load_users)
    assert next(drawn) <= 7
    assert len(await users(world).get_or_load_many(range(5), load_users)) == 5


@runs()
async def test_answers_for_ids_that_nobody_asked_for_or_that_are_none_are_dropped(world):
    entity = users(world)
    heard = []
    world.cache.subscribe(heard.append)

    async def load(ids):
        return {
            1: User("one"),
            99: User("99"),
            None: User("None"),
            1.5: User("1.5"),
            (): User("()"),
            "": None,
        }

    assert await entity.get_or_load_many([1, 2], load) == {1: User("one")}
    assert heard.count(Unasked(5)) == 1
    assert set(world.raw.read()) == {"user:1"}
    [warning] = world.take_log()
    assert "5 keys that it was not asked for" in warning


@runs()
async def test_ids_that_are_one_component_are_loaded_once_and_both_answered(world):
    asked = []

    async def load(ids):
        asked.append(list(ids))
        return {each: User("one") for each in ids}

    for _ in range(2):
        assert await users(world).get_or_load_many([1, "1"], load) == {1: User("one"), "1": User("one")}
    assert [len(ids) for ids in asked] == [1]


def lives(world):
    """The hard and the soft time to live of everything that was stored, in milliseconds."""
    fills = [fill for fact in world.trace.facts if fact[0] == "FillCells" for fill in fact[1:-1]]
    return [(int(fill[2]), int(fill[3])) for fill in fills]


@pytest.mark.parametrize(
    ("options", "life_ms"),
    [
        ({"ttl": LONG}, (660_000, 60_000)),
        ({"ttl": None, "policy": LONG}, (660_000, 60_000)),
        ({"ttl": 30, "policy": LONG}, (630_000, 30_000)),
    ],
    ids=["ttl", "policy", "both"],
)
@runs()
async def test_however_a_value_comes_in_it_is_kept_as_the_entity_says(world, options, life_ms):
    entity = users(world, **options)
    await entity.get_or_load(1)
    await entity.get_or_load_many([2], load_users)
    assert await entity.set(3, User("Ada"))
    async with entity.mutate(4, 5) as mutation:
        mutation.set(entity.key(4), User("Grace"))
        mutation.set(entity.key(5), {"name": "Eve"}, type=dict[str, str], ttl=7)

    assert lives(world)[:4] == [life_ms] * 4
    assert 7_000 <= lives(world)[4][0] <= 8_400
    assert await entity.get(4) == User("Grace")
    assert await entity.get_or_load(4, never) == User("Grace"), "it is of the entity's type"
    assert await world.cache.get(entity.key(5), type=dict[str, str]) == {"name": "Eve"}
