"""What is written through an entity: strategies, ids, lists; on both caches, three runtimes, both stores."""

import sys
from dataclasses import dataclass
from typing import TypedDict

import anyio
import anyio.lowlevel
import pytest

from sansio_cache import (
    Absent,
    CacheAside,
    CacheClosedError,
    CacheConnectionError,
    ConfigurationError,
    Fresh,
    InvalidKeyError,
    Policy,
    RefreshAhead,
    SerializationError,
    WriteBehind,
    WriteThrough,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis import sync as cache_sync
from sansio_cache_runtime.results import WriteResult
from support.runtimes import never, runs, until


@dataclass
class User:
    id: int
    name: str


class Row(TypedDict):
    id: int
    name: str


class Database:
    """What loaders read and writers write."""

    def __init__(self, *users):
        self.rows = {each.id: each for each in users}
        self.loads = []
        self.writes = []

    async def load(self, id):
        self.loads.append(id)
        return self.rows.get(int(id), Absent())

    async def load_many(self, ids):
        self.loads.append(list(ids))
        return {each: self.rows[int(each)] for each in ids if int(each) in self.rows}

    async def save(self, user):
        self.writes.append(user.name)
        self.rows[user.id] = user
        return len(self.writes)

    async def save_many(self, users):
        self.writes.append([each.name for each in users])
        self.rows |= {each.id: each for each in users}

    async def page(self, query):
        self.loads.append(query)
        return [each for each in self.rows.values() if each.name.startswith(query["starts"])]


class RefusedError(Exception):
    """What a database raises."""


ADA, GRACE, NEW = User(7, "Ada"), User(8, "Grace"), User(7, "Ada L.")
STRATEGIES = [CacheAside(), WriteThrough(), RefreshAhead()]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: type(each).__name__)


def users(world, database, **options):
    said = {"id": "id", "ttl": 60, "loader": database.load, "writer": database.save}
    return world.cache.entity("user", User, **{**said, **options})


# Strategies.


@every_strategy
@runs()
async def test_a_read_after_a_write_sees_it_under_every_strategy(world, strategy):
    """S1. Only one loads for it."""
    database = Database(ADA)
    entity = users(world, database, strategy=strategy)
    assert await entity.get_or_load(7) == ADA

    result = await entity.write(NEW)

    is_stored = strategy == WriteThrough()
    assert result == WriteResult(done=1, remembered=0, stored=int(is_stored), returned=1)
    assert await entity.get(7) == (NEW if is_stored else None)
    assert await entity.get_or_load(7) == NEW
    assert database.loads == ([7] if is_stored else [7, 7])
    assert database.writes == ["Ada L."]


@every_strategy
@runs()
async def test_while_the_writer_runs_readers_load_and_nothing_of_it_is_stored(world, strategy):
    """The database commits between the hold and the end: what was read in between is older, or newer."""
    database = Database(ADA)
    seen = []

    async def save(user):
        seen.append(await entity.get_or_load(7))
        await database.save(user)
        seen.append(await entity.get_or_load(7))
        seen.append(await entity.get(7))

    entity = users(world, database, strategy=strategy, writer=save)
    await entity.get_or_load(7)
    await entity.write(NEW)

    assert seen == [ADA, NEW, None]
    assert await entity.get_or_load(7) == NEW


@every_strategy
@runs()
async def test_where_the_writer_raises_nothing_is_stored_and_its_error_comes_out_as_it_went_in(
    world, strategy
):
    """It may have committed: so here it has."""
    database = Database(ADA)
    error = RefusedError("the connection broke")

    async def save(user):
        await database.save(user)
        raise error

    entity = users(world, database, strategy=strategy, writer=save)
    await entity.get_or_load(7)

    with pytest.raises(RefusedError) as caught:
        await entity.write(NEW)

    assert caught.value is error
    assert await entity.get(7) is None
    assert await entity.get_or_load(7) == NEW


@runs()
async def test_of_two_writers_that_meet_the_refused_one_removes_what_is_there(world):
    """S6: nobody can say here which of them has committed last."""
    database = Database(ADA)

    async def save(user):
        if user.name == "first":
            await entity.write(User(7, "second"))
        await database.save(user)

    entity = users(world, database, strategy=WriteThrough(), writer=save)
    result = await entity.write(User(7, "first"))

    assert (result.done, result.stored) == (1, 0)
    assert await entity.get(7) is None
    assert await entity.get_or_load(7) == User(7, "first")


@runs(compare=None)
async def test_refreshing_ahead_loads_in_the_background_what_is_read_near_its_end(world):
    database = Database(ADA)
    entity = users(world, database, strategy=RefreshAhead(at=1e-9))
    await entity.get_or_load(7)
    database.rows[7] = NEW

    while not world.cache.stats().refreshes:  # in the millisecond of the load nothing is old yet
        found = await entity.get_or_load(7)
        assert found == ADA or world.cache.stats().refreshes, "a thread may have refreshed it meanwhile"
        await anyio.lowlevel.checkpoint()
    await until(lambda: world.cache.stats().stored >= 2)
    assert await entity.get(7) == NEW


@runs()
async def test_what_cannot_be_stored_is_refused_before_the_database_has_it(world):
    database = Database()
    through = users(world, database, strategy=WriteThrough())
    with pytest.raises(SerializationError):
        await through.write(User(7, {1, 2}))
    with pytest.raises(SerializationError):
        await through.write_many([User(7, object())])
    assert database.writes == []
    assert world.trace.facts == []


@runs()
async def test_a_value_that_is_written_lives_as_long_as_the_call_says(world):
    database = Database()
    entity = users(world, database, strategy=WriteThrough(), policy=Policy(jitter=NO_JITTER))
    assert (await entity.write(ADA, ttl=5)).stored == 1
    assert (await entity.write(GRACE, ttl=0)).stored == 0
    [fill] = [fill for fact in world.trace.facts if fact[0] == "FillCells" for fill in fact[1:-1]]
    assert 5_000 <= int(fill[2]) <= 6_000
    assert await entity.get(8) is None


@every_strategy
@runs(compare=None)
async def test_a_write_that_the_store_cannot_be_told_of_is_remembered(world, strategy):
    database = Database(ADA)
    entity = users(world, database, strategy=strategy)
    await entity.get_or_load(7)

    with world.cache.refusing(FailureKind.UNAVAILABLE):
        result = await entity.write(NEW)
        assert (result.done, result.remembered, result.stored) == (0, 1, 0)
        assert await entity.get_or_load(7) == NEW

    await until(lambda: world.cache.driver._coordinator.pending_invalidations == 0)
    assert await entity.get_or_load(7) == NEW
    world.take_log()


@runs(compare=None, policy=Policy(on_invalidate_error="raise"))
async def test_a_write_that_the_store_cannot_be_told_of_raises_where_the_policy_says_so(world):
    database = Database(ADA)
    entity = users(world, database)
    with world.cache.refusing(FailureKind.UNAVAILABLE), pytest.raises(CacheConnectionError, match="1 of 1"):
        await entity.write(NEW)
    assert database.rows[7] == NEW
    await until(lambda: world.cache.driver._coordinator.pending_invalidations == 0)
    assert await entity.get_or_load(7) == NEW
    world.take_log()


@runs(compare=None)
async def test_an_interrupted_writer_leaves_nothing_stored(world):
    """L7, S1: the caller is cancelled after its commit."""
    if world.cache.is_sync:
        return  # a thread cannot be cancelled: see test_keyboard_interrupt.py
    database = Database(ADA)

    async def save(user):
        await database.save(user)
        scope.cancel()
        await anyio.sleep_forever()

    entity = users(world, database, strategy=WriteThrough(), writer=save)
    await entity.get_or_load(7)
    with anyio.CancelScope() as scope:
        await entity.write(NEW)
    assert scope.cancelled_caught
    assert await entity.get_or_load(7) == NEW


@runs(enabled=False)
async def test_a_cache_that_is_switched_off_writes_the_database_all_the_same(world):
    database = Database(ADA)
    entity = users(world, database, strategy=WriteThrough())
    assert await entity.write(NEW) == WriteResult(done=0, remembered=0, stored=0, returned=1)
    assert await entity.get_or_load(7) == NEW
    assert world.trace.facts == []


# Many at once.


@pytest.mark.parametrize("many", [True, False], ids=["write_many", "writer"])
@every_strategy
@runs()
async def test_many_things_are_written_and_settled_together(world, strategy, many):
    database = Database(ADA, GRACE)
    entity = users(world, database, strategy=strategy, write_many=database.save_many if many else None)
    await entity.get_or_load_many([7, 8])

    result = await entity.write_many([NEW, User(8, "Hopper")])

    stored = 2 if strategy == WriteThrough() else 0
    assert (result.done, result.remembered, result.stored) == (2, 0, stored)
    assert database.writes == ([["Ada L.", "Hopper"]] if many else ["Ada L.", "Hopper"])
    assert result.returned == (None if many else [1, 2])
    assert len(await entity.get_many([7, 8])) == stored
    assert await entity.get_or_load_many([7, 8]) == {7: NEW, 8: User(8, "Hopper")}


@runs()
async def test_of_many_writes_that_fail_in_the_middle_nothing_is_stored(world):
    database = Database()

    async def save(user):
        if user.id == 8:
            raise RefusedError
        await database.save(user)

    entity = users(world, database, strategy=WriteThrough(), writer=save)
    with pytest.raises(RefusedError):
        await entity.write_many([ADA, GRACE])
    assert await entity.get_many([7, 8]) == {}


@runs()
async def test_writers_that_take_ids_are_given_them(world):
    rows = {}

    async def save(id, name):
        rows[id] = name

    async def save_all(names):
        rows.update(names)

    names = world.cache.entity("name", str, writer=save, write_many=save_all, strategy=WriteThrough())
    await names.write(7, "Ada")
    await names.write("Grace", id=8)
    await names.write_many({9: "Hopper"})
    assert rows == {7: "Ada", 8: "Grace", 9: "Hopper"}
    assert await names.get_many([7, 8, 9]) == rows

    last = {}  # whose `update` is built in, and does not say what it takes
    things = world.cache.entity("thing", dict[str, int], id="id", writer=last.update)
    await things.write({"id": 7})
    assert last == {"id": 7}


# Ids.


@pytest.mark.parametrize(
    ("type", "id", "value"),
    [
        (User, "id", ADA),
        (User, lambda user: user.id, ADA),
        (Row, "id", {"id": 7, "name": "Ada"}),
        (dict[str, int], "id", {"id": 7}),
    ],
    ids=["attribute", "function", "typed dict", "dict"],
)
@runs()
async def test_the_id_of_a_value_is_where_the_entity_says(world, type, id, value):
    entity = world.cache.entity("thing", type, id=id, writer=lambda _: None, strategy=WriteThrough())
    await entity.write(value)
    assert await entity.get(7) == value
    await entity.invalidate(7)
    assert await entity.set(value)
    assert await entity.get(7) == value
    for call in (lambda: entity.write(value, id=8), lambda: entity.set(9, value)):
        with pytest.raises(InvalidKeyError, match="the value's id is 7; pass one of them"):
            await call()
    assert await entity.get_many([8, 9]) == {}


@runs()
async def test_a_value_whose_id_is_not_known_is_refused_with_what_to_write(world):
    entity = world.cache.entity("user", User, writer=lambda _: None)
    known = world.cache.entity("row", dict[str, int], id="id", writer=lambda _: None)
    for call, error, says in (
        (lambda: entity.write(ADA), ConfigurationError, r"pass them, as in write\(7, value\), or .*id='id'"),
        (lambda: entity.write_many([ADA]), ConfigurationError, r"as in write_many\({7: value}\)"),
        (lambda: entity.set(ADA), ConfigurationError, r"as in set\(7, value\)"),
        (lambda: entity.write(7, ADA, id=8), InvalidKeyError, r"got 2 of them and id="),
        (lambda: entity.write(), InvalidKeyError, r"takes a value, or an id and a value, .*; got 0"),
        (lambda: known.write({"uid": 7}), InvalidKeyError, r"takes ids from 'id', which this dict does not"),
        (lambda: known.write({"id": None}), InvalidKeyError, "handle what is missing"),
    ):
        with pytest.raises(error, match=says):
            await call()
    assert world.trace.facts == []


@runs()
async def test_an_entity_without_a_writer_says_what_to_do(world):
    entity = world.cache.entity("user", User, id="id")
    for call in (lambda: entity.write(ADA), lambda: entity.write_many([ADA])):
        with pytest.raises(ConfigurationError, match=r"has no writer: make it with .* inside mutate\(...\)"):
            await call()
    with pytest.raises(ConfigurationError, match="has no loader"):
        await entity.get_or_load_many([7])
    with pytest.raises(ConfigurationError, match="has no loader"):
        await entity.refresh(7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"id": "uid"}, "id='uid' of the entity 'user': User has no such attribute, it has id, name"),
        ({"id": 7}, "id= of the entity 'user' is the name of an attribute, or a function of a value; got 7"),
        ({"id": ""}, "id= of the entity"),
        ({"writer": 5}, "writer is a function; got int"),
        ({"load_many": 5}, "load_many is a function; got int"),
        ({"write_many": 5}, "write_many is a function; got int"),
        ({"strategy": WriteThrough}, r"write WriteThrough\(\), with parentheses"),
        ({"strategy": WriteThrough()}, r"is to write through, and has nothing to write with: pass writer="),
        (
            {"writer": lambda: None},
            r"writer= .* called with a value, or with an id and a value; it takes \(\)",
        ),
        ({"writer": lambda a, b, c: None}, r"it takes \(a, b, c\)"),
    ],
    ids=range(10),
)
@runs()
async def test_what_cannot_be_said_of_an_entity_is_refused_when_it_is_made(world, options, says):
    with pytest.raises(ConfigurationError, match=says):
        world.cache.entity("user", User, **options)


@runs()
async def test_a_tag_that_cannot_be_one_is_refused_when_the_entity_is_made(world):
    with pytest.raises(InvalidKeyError, match="tags= takes a list of tags"):
        world.cache.entity("user", User, tags="users")


# Mutations.


@runs()
async def test_a_mutation_of_one_thing_knows_its_id_and_type(world):
    database = Database(ADA, GRACE)
    for entity in (users(world, database, id=None), users(world, database)):
        async with entity.mutate(8) as mutation:
            mutation.set(User(8, "Hopper"))
        assert await entity.get(8) == User(8, "Hopper")
        assert (mutation.result.done, mutation.result.remembered, mutation.stored) == (1, 0, 1)
        assert mutation.keys == (entity.key(8),)
        async with entity.mutate(8):
            pass
        assert await entity.get(8) is None


@runs()
async def test_a_mutation_of_several_things_is_told_which_or_finds_out(world):
    database = Database()
    entity, unknowing = users(world, database), users(world, database, id=None)
    async with entity.mutate(7, 8) as mutation:
        mutation.set(ADA)
        mutation.set(8, GRACE)
        with pytest.raises(InvalidKeyError, match=r"user:9.* is not one of this mutation's keys, which are"):
            mutation.set(User(9, "Eve"))
        with pytest.raises(InvalidKeyError, match="not one of this mutation's keys"):
            mutation.set(entity.key(9), ADA)
    assert await entity.get_many([7, 8]) == {7: ADA, 8: GRACE}
    async with unknowing.mutate(7, 8) as mutation:
        with pytest.raises(ConfigurationError, match=r"as in set\(7, value\)"):
            mutation.set(ADA)
        mutation.set(7, NEW)
    assert await entity.get_many([7, 8]) == {7: NEW}
    with pytest.raises(CacheClosedError, match="the mutation has ended"):
        mutation.set(7, ADA)
    with pytest.raises(InvalidKeyError, match=r"mutate\(\) of the entity 'user' names nothing"):
        await entity.mutate().__aenter__()


@runs()
async def test_a_block_that_invalidates_takes_a_thing_away_however_it_ends(world):
    database = Database(ADA, GRACE)
    entity = users(world, database)
    await entity.get_or_load_many([7, 8])
    async with entity.invalidating(7):
        assert await entity.get(7) == ADA
    with pytest.raises(RefusedError):
        async with entity.invalidating(8, tags=["others"]):
            raise RefusedError
    assert await entity.get_many([7, 8]) == {}
    with pytest.raises(InvalidKeyError, match=r"invalidating\(\) of the entity 'user' names nothing"):
        await entity.invalidating().__aenter__()


# Reading many, and again.


@runs()
async def test_many_things_are_read_by_their_ids(world):
    database = Database(ADA, GRACE)
    entity = users(world, database)
    await entity.get_or_load_many([7, 8])
    assert await entity.get_many([7, "7", 8, 9]) == {7: ADA, "7": ADA, 8: GRACE}
    assert await entity.get_many([]) == {}


@runs()
async def test_one_loader_does_for_one_thing_and_for_many(world):
    database = Database(ADA, GRACE)
    single = users(world, database)
    assert await single.get_or_load_many([7, 8, 9]) == {7: ADA, 8: GRACE}
    assert sorted(database.loads) == [7, 8, 9]
    database.loads.clear()

    of_many = world.cache.entity("person", User, load_many=database.load_many)
    assert await of_many.get_or_load(7) == ADA
    assert await of_many.get_or_load(9) is None
    assert await of_many.get_or_load_many([7, 8]) == {7: ADA, 8: GRACE}
    assert database.loads == [[7], [9], [8]]


@runs()
async def test_a_loader_of_many_that_gives_no_mapping_for_one_is_refused(world):
    async def load_many(ids):
        return [ADA]

    entity = world.cache.entity("user", User, load_many=load_many)
    with pytest.raises(ConfigurationError, match="load_many= of the entity 'user' returns a mapping"):
        await entity.get_or_load(7)


@runs()
async def test_a_loader_that_fails_for_one_of_many_fails_for_all(world):
    error = RefusedError()

    async def load(id):
        raise error

    with pytest.raises(RefusedError) as caught:
        await users(world, Database(), loader=load).get_or_load_many([7])
    assert caught.value is error


@runs()
async def test_a_thing_is_loaded_anew_when_asked_for(world):
    database = Database(ADA)
    entity = users(world, database)
    await entity.get_or_load(7)
    database.rows[7] = NEW
    assert await entity.get_or_load(7) == ADA
    assert await entity.refresh(7) == NEW
    assert await entity.get(7) == NEW


# Tags.


@runs()
async def test_the_tags_of_an_entity_take_all_of_it_away(world):
    database = Database(ADA, GRACE)
    entity = users(world, database, tags=["people"], strategy=WriteThrough())
    query = {"starts": ""}

    async def fill():
        await entity.get_or_load(7)
        await entity.get_or_load_many([8])
        await entity.list(query, database.page)
        await entity.set(User(9, "Eve"))
        await entity.write(User(10, "Mallory"))
        async with entity.mutate(11) as mutation:
            mutation.set(User(11, "Trudy"))
        await entity.list(query, database.page)

    await fill()
    assert len(await entity.get_many(range(7, 12))) == 5
    await world.cache.invalidate(tags=["people"])
    assert await entity.get_many(range(7, 12)) == {}
    assert await world.cache.get(entity.list_key(query), type=list[User]) is None


@runs()
async def test_tags_may_depend_on_the_id(world):
    """Readers and writers of one thing name the same; of many things, each its own."""
    database = Database(ADA, GRACE)
    entity = users(world, database, tags=lambda each: [f"team:{int(each) % 2}"], generations=True)

    assert await entity.get_or_load_many([7, 8]) == {7: ADA, 8: GRACE}
    assert await entity.get_or_load_many([7, 8], never) == {7: ADA, 8: GRACE}
    assert await entity.get_or_load(7, never) == ADA
    await world.cache.invalidate(tags=["team:1"])
    assert await entity.get_many([7, 8]) == {8: GRACE}

    async with entity.mutate(7, 8) as mutation:
        mutation.set(7, ADA)
        mutation.set(8, GRACE)
    assert await entity.get_or_load(7, never) == ADA
    await entity.set(7, ADA)
    await entity.invalidate_all()
    assert await entity.get_many([7, 8]) == {}


@runs()
async def test_tags_of_an_id_that_are_none_are_refused(world):
    entity = users(world, Database(), tags=lambda each: "people")
    with pytest.raises(InvalidKeyError, match="tags= gives a list of tags, not one tag"):
        await entity.get_or_load(7)


# Lists.


@runs()
async def test_a_list_is_loaded_once_for_a_query_in_whatever_order(world):
    database = Database(ADA, GRACE)
    entity = users(world, database)
    assert await entity.list({"starts": "A", "page": 1}, database.page) == [ADA]
    assert await entity.list({"page": 1, "starts": "A"}, never) == [ADA]
    assert await entity.list({"starts": "G", "page": 1}, database.page) == [GRACE]
    assert await entity.list("all", lambda query: [ADA, GRACE]) == [ADA, GRACE]
    assert entity.list_key("all") == world.cache.key.list_key("user", "all")


@pytest.mark.parametrize(
    "write",
    [
        lambda entity: entity.write(NEW),
        lambda entity: entity.write_many([NEW]),
        lambda entity: entity.set(NEW),
        lambda entity: entity.invalidate(7),
        lambda entity: entity.refresh(7),
        lambda entity: entity.invalidate_all(),
    ],
    ids=["write", "write_many", "set", "invalidate", "refresh", "invalidate_all"],
)
@every_strategy
@runs()
async def test_no_list_is_older_than_the_last_write(world, strategy, write):
    """S1, S7: whoever writes through the entity need not know its lists."""
    database = Database(ADA)
    entity = users(world, database, strategy=strategy, generations=True)
    query = {"starts": ""}
    assert await entity.list(query, database.page) == [ADA]

    database.rows[7] = NEW
    await write(entity)

    assert await entity.list(query, database.page) == [NEW]


@runs()
async def test_blocks_take_lists_away_too_and_a_list_that_is_loaded_meanwhile(world):
    database = Database(ADA)
    entity = users(world, database)
    query = {"starts": ""}
    for block in (entity.mutate, entity.invalidating):
        await entity.list(query, database.page)
        async with block(7):
            await entity.list(query, database.page)
            database.rows[7] = User(7, f"{database.rows[7].name}!")
        assert await entity.list(query, database.page) == [database.rows[7]]
    assert database.rows[7].name == "Ada!!"


@runs()
async def test_a_write_past_the_entity_names_its_lists(world):
    database = Database(ADA)
    entity = users(world, database)
    await entity.list({"starts": ""}, database.page)
    database.rows[7] = NEW
    cache = world.cache
    await cache.invalidate(cache.key.build("user", 7), tags=[cache.key.lists("user")])
    assert await entity.list({"starts": ""}, database.page) == [NEW]


@runs()
async def test_lists_are_kept_as_things_are_and_as_their_loader_says(world):
    database = Database()
    entity = users(world, database, policy=Policy(ttl=60, jitter=NO_JITTER))
    await entity.list("a", lambda query: [])
    await entity.list("b", lambda query: Fresh([], ttl=5))
    await entity.list("c", lambda prefix, query: [User(7, prefix + query)], "x", tags=["more"])
    fills = [fact[1] for fact in world.trace.facts if fact[0] == "FillCells"]
    assert [int(fill[2]) for fill in fills] == [60_000, 5_000, 60_000]
    await world.cache.invalidate(tags=["more"])
    assert await world.cache.get(entity.list_key("c"), type=list[User]) is None
    assert world.cache.stats().misses[MissReason.TAG] == 1


# What a hit costs.


def calls_in(function):
    """How many Python functions a call of one calls, and C functions."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def test_a_hit_through_an_entity_is_that_of_the_cache_and_two_calls(namespace):
    """Its policy is made, and its key is known. What is left is the entity's call, and one for the key."""
    policy = Policy(ttl=60)
    with cache_sync.Cache.from_url("memory://", namespace=namespace) as cache:
        entity = cache.entity("user", User, loader=lambda _: ADA, policy=policy)
        key = entity.key(7)

        def load(_):
            return ADA

        def direct():
            assert cache.get_or_load(key, load, 7, policy=policy, type=User) == ADA

        def through():
            assert entity.get_or_load(7) == ADA

        through()
        direct()  # what is made once is made
        assert calls_in(direct) > 5
        assert calls_in(through) <= calls_in(direct) + 2


# An id and a value that contradict each other.


def open_users(writes, **options):
    cache = cache_sync.Cache.from_url("memory://", namespace="shop")
    return cache, cache.entity("user", User, id="id", writer=writes.append, **options)


@pytest.mark.parametrize("strategy", [CacheAside(), WriteThrough(), WriteBehind()])
def test_an_id_that_is_not_the_one_of_its_value_is_refused(strategy):
    writes = []
    cache, users = open_users(writes, strategy=strategy)
    calls = [
        lambda: users.write(4, User(3, "new")),
        lambda: users.write(User(3, "new"), id=4),
        lambda: users.write_many({4: User(3, "new")}),
        lambda: users.set(4, User(3, "new")),
    ]
    with cache:
        for call in calls:
            with pytest.raises(InvalidKeyError, match=r"\(4, value\).*the value's id is 3; pass one of them"):
                call()
    assert writes == []


def test_ids_are_compared_as_keys_and_a_value_without_one_is_taken_with_that_it_is_given():
    writes = []
    cache, users = open_users(writes)
    with cache:
        users.write("3", User(3, "a"))
        users.write(User(3, "b"), id=3)
        users.write(3, User(None, "c"))
        users.set(3, None)
        with users.mutate(3) as m:
            m.set(3, None)
        with users.mutate(3, 4) as m, pytest.raises(InvalidKeyError, match="the value's id is 4"):
            m.set(3, User(4, "x"))
    assert [each.name for each in writes] == ["a", "b", "c"]


def test_what_write_many_returns_is_decided_by_the_writer_and_not_by_how_many_there_are():
    cache = cache_sync.Cache.from_url("memory://", namespace="shop")
    with cache:
        each = cache.entity("user", User, id="id", writer=lambda user: user.name)
        together = cache.entity("group", User, id="id", write_many=len)
        assert each.write(User(1, "a")).returned == "a"
        assert each.write_many([User(1, "a")]).returned == ["a"]
        assert each.write_many([User(1, "a"), User(2, "b")]).returned == ["a", "b"]
        assert together.write_many([User(1, "a")]).returned == 1
        assert each.write_many([]) == WriteResult(0, 0, 0, [])
        assert together.write_many([]) == WriteResult(0, 0, 0, None)


def test_a_tag_of_an_entity_that_is_written_as_a_template_is_refused():
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        with pytest.raises(ConfigurationError, match=r"are not filled in: 'c:\{id\}'"):
            cache.entity("user", User, tags=["c:{id}"])
        cache.entity("user", User, tags=["c{x}"])
