"""Get or load many, on both caches, three runtimes and both stores: see `support.runtimes`."""

from types import MappingProxyType

import anyio
import anyio.lowlevel
import attrs
import pytest

from sansio_cache import (
    Absent,
    CacheTimeoutError,
    ConfigurationError,
    Fresh,
    InvalidKeyError,
    Policy,
    RecursiveLoadError,
)
from sansio_cache.cell import FOREIGN, Cell, Kind
from sansio_cache.commands import AcquireLease, AcquireLeases, Fill, FillCells
from sansio_cache.entry import MissReason
from sansio_cache.events import FillResult
from sansio_cache.notices import Unasked
from sansio_cache.ttl import NO_JITTER, Jitter
from support.runtimes import ON_SERVER, in_parallel, is_free, loading, never, runs, until

STALE = Policy(ttl=0.05, jitter=NO_JITTER, stale_for_s=600)


class Loads:
    """A loader of many keys, that gives each key's name in capitals and keeps what it was asked for."""

    def __init__(self, make=str.upper):
        self.asked = []

        async def load(keys):
            self.asked.append(list(keys))
            await anyio.lowlevel.checkpoint()
            return {key: make(key) for key in keys}

        self.load = load


async def none_of(keys):
    raise AssertionError(f"the loader was called for {keys}")


# What is served, and what is loaded.


@runs()
async def test_hits_are_served_and_one_call_loads_the_rest(world):
    await world.cache.set_many({"a": "cached", "c": "cached"})
    before = len(world.trace.facts)
    loads = Loads()

    found = await world.cache.get_or_load_many(["a", "b", "c", "d"], loads.load)

    assert found == {"a": "cached", "b": "B", "c": "cached", "d": "D"}
    assert list(found) == ["a", "b", "c", "d"]
    assert loads.asked == [["b", "d"]]
    asked = world.trace.names_but_pings(before)
    assert asked == ["ReadCells", "AcquireLeases", "FillCells"], "three round trips"
    assert await world.cache.get_or_load_many(["d", "b"], none_of) == {"d": "D", "b": "B"}
    stats = world.cache.stats()
    assert (stats.redis_hits, stats.misses, stats.loads) == (4, {MissReason.ABSENT: 2}, 2)
    assert all(is_free(cell) for cell in world.raw.read().values())


@runs()
async def test_a_batch_of_hits_is_one_round_trip_and_calls_nobody(world):
    values = {f"k{n}": n for n in range(50)}
    await world.cache.set_many(values)
    before = len(world.trace.facts)

    assert await world.cache.get_or_load_many(values, none_of) == values
    assert world.trace.names_but_pings(before) == ["ReadCells"]


@runs(chunk_keys=7)
async def test_a_batch_larger_than_a_chunk_is_claimed_and_stored_chunk_by_chunk_with_one_load(world):
    loads = Loads()
    keys = [f"k{n}" for n in range(23)]

    assert await world.cache.get_or_load_many(keys, loads.load) == {key: key.upper() for key in keys}

    assert loads.asked == [keys]
    assert world.trace.names_but_pings() == ["ReadCells"] + ["AcquireLeases"] * 4 + ["FillCells"] * 4
    assert await world.cache.get_many(keys) == {key: key.upper() for key in keys}


@runs()
async def test_keys_are_given_to_the_loader_and_back_as_the_caller_wrote_them(world):
    built = world.cache.key.build("user", 1)
    loads = Loads(make=lambda key: str(key)[-1])

    found = await world.cache.get_or_load_many([built, "user:2", built], loads.load)

    assert found == {built: "1", "user:2": "2"}
    assert loads.asked == [[built, "user:2"]]
    assert await world.cache.get("user:1") == "1"


@runs(policy=Policy(jitter=Jitter(0.1, 0.5)))
async def test_what_a_batch_stores_does_not_expire_at_once(world):
    keys = [f"k{n}" for n in range(50)]
    await world.cache.get_or_load_many(keys, Loads().load)

    [stored] = [fact for fact in world.trace.facts if fact[0] == "FillCells"]
    lives_ms = [int(fill[2]) for fill in stored[1:51]]
    assert len(set(lives_ms)) == 50
    assert max(lives_ms) / min(lives_ms) > 1.1


@runs()
async def test_a_batch_of_nothing_asks_nobody(world):
    assert await world.cache.get_or_load_many([], none_of) == {}
    assert await world.cache.get_or_load_many(iter(()), none_of) == {}
    assert world.trace.facts == []


@attrs.frozen
class Person:
    name: str


@runs()
async def test_values_of_a_declared_type_come_back_as_that_type(world):
    loads = Loads(make=Person)

    first = await world.cache.get_or_load_many(["ada", "bob"], loads.load, type=Person, ttl=60)
    again = await world.cache.get_or_load_many(["ada", "bob"], none_of, type=Person)

    assert first == again == {"ada": Person("ada"), "bob": Person("bob")}
    assert await world.cache.get("ada", type=Person) == Person("ada")


@runs()
async def test_a_plain_function_is_a_loader_of_many_keys_everywhere(world):
    found = await world.cache.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))

    assert found == {"a": 1, "b": 1}


# What the loader gives.


@runs()
async def test_a_key_without_a_value_is_missing_and_nothing_is_stored_for_it(world):
    async def load(keys):
        return {"a": 1}

    assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": 1}
    assert set(world.raw.read()) == {"a"}, "the other lease was given back"
    assert await world.cache.get_or_load_many(["a", "b"], Loads().load) == {"a": 1, "b": "B"}


@runs()
async def test_absent_answers_are_remembered_and_fresh_ones_live_as_long_as_they_say(world):
    async def load(keys):
        return {"a": Absent(), "b": Fresh("B", ttl=30), "c": None, "d": Absent(ttl=5)}

    assert await world.cache.get_or_load_many(["a", "b", "c", "d"], load) == {"b": "B"}
    assert await world.cache.get_or_load_many(["a", "b", "c", "d"], none_of) == {"b": "B"}
    lives_ms = [int(fill[2]) for fill in next(f for f in world.trace.facts if f[0] == "FillCells")[1:5]]
    assert 66_000 <= lives_ms[0] <= 72_000
    assert lives_ms[1] == 30_000
    assert 66_000 <= lives_ms[2] <= 72_000
    assert lives_ms[3] == 5_000


@runs()
async def test_values_that_nobody_asked_for_are_dropped_and_said_once(world):
    heard = []
    world.cache.subscribe(heard.append)

    async def load(keys):
        return {"a": 1, "b": 2, "z": 26, 5: "not even a key"}

    for _ in range(2):
        assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": 1, "b": 2}
        await world.cache.invalidate("a", "b")

    assert world.raw.read() == {}
    assert heard.count(Unasked(2)) == 2
    [warning] = world.take_log()
    assert "2 keys that it was not asked for" in warning


@pytest.mark.parametrize("given", [None, ["a"], "ab", 5, {"a"}, (("a", 1),)], ids=repr)
@runs()
async def test_a_loader_that_gives_no_mapping_is_told_so_and_nothing_is_stored(world, given):
    async def load(keys):
        return given

    with pytest.raises(ConfigurationError, match="mapping"):
        await world.cache.get_or_load_many(["a", "b"], load)

    assert world.raw.read() == {}
    assert world.cache.stats().load_failures == 1
    assert await world.cache.get_or_load_many(["a"], Loads().load) == {"a": "A"}


@runs()
async def test_any_mapping_is_an_answer(world):
    async def load(keys):
        return MappingProxyType(dict.fromkeys(keys, 1))

    assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": 1, "b": 1}


@runs()
async def test_a_load_that_raises_stores_nothing_and_the_error_is_the_loaders_own(world):
    """S13."""
    error = LookupError("no database")

    async def fail(keys):
        raise error

    await world.cache.set("a", "cached")
    with pytest.raises(LookupError) as raised:
        await world.cache.get_or_load_many(["a", "b", "c"], fail)

    assert raised.value is error
    assert set(world.raw.read()) == {"a"}
    assert await world.cache.get_or_load_many(["a", "b"], Loads().load) == {"a": "cached", "b": "B"}


@runs()
async def test_a_value_that_cannot_be_stored_is_returned_and_its_lease_given_back(world):
    async def load(keys):
        return {"a": {1, 2}, "b": 2}

    assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": {1, 2}, "b": 2}
    assert set(world.raw.read()) == {"b"}
    assert world.cache.stats().unstorable == 1
    assert len(world.take_log()) == 1


@runs()
async def test_what_each_caller_gets_is_its_own(world):
    value = {"items": [1]}

    async def load(keys):
        return dict.fromkeys(keys, value)

    found = await world.cache.get_or_load_many(["a", "b"], load)
    found["a"]["items"].append(2)

    assert value == {"items": [1]}
    assert found["b"] == {"items": [1]}
    assert await world.cache.get_many(["a", "b"]) == {"a": {"items": [1]}, "b": {"items": [1]}}


# Bad input.


@runs(max_batch_keys=5)
async def test_what_cannot_be_a_batch_is_refused_before_anything_has_happened(world):
    for keys in ("abc", b"abc", 5, None, ["a", ""], ["a", 5], [f"k{n}" for n in range(6)]):
        with pytest.raises(InvalidKeyError):
            await world.cache.get_or_load_many(keys, none_of)
    for loader in (None, 5, "load", {"a": 1}):
        with pytest.raises(ConfigurationError, match="loader is a function"):
            await world.cache.get_or_load_many(["a"], loader)
    with pytest.raises(ConfigurationError):
        await world.cache.get_or_load_many(["a"], none_of, ttl=Policy(), policy=Policy())
    assert world.trace.facts == []
    assert world.cache.stats().total_requests == 0


@pytest.mark.parametrize("how", ["get_or_load", "get_or_load_many", "one of many"])
@runs()
async def test_a_loader_that_asks_for_one_of_its_own_keys_is_refused(world, how):
    async def load(keys):
        match how:
            case "get_or_load":
                await world.cache.get_or_load("b", never)
            case "get_or_load_many":
                await world.cache.get_or_load_many(["a", "b"], none_of)
            case _:
                await world.cache.get_or_load_many(["z", "b"], none_of)

    with pytest.raises(RecursiveLoadError, match="asks the cache for that very key"):
        await world.cache.get_or_load_many(["a", "b"], load)

    assert world.raw.read() == {}
    assert await world.cache.get_or_load_many(["a", "b"], Loads().load) == {"a": "A", "b": "B"}


@runs()
async def test_a_loader_of_one_key_that_asks_for_it_in_a_batch_is_refused(world):
    async def load():
        return await world.cache.get_or_load_many(["z", "k"], none_of)

    with pytest.raises(RecursiveLoadError):
        await world.cache.get_or_load("k", load)

    assert world.raw.read() == {}


@pytest.mark.parametrize("is_invalidated", [False, True], ids=["as it is", "invalidated"])
@pytest.mark.parametrize("inner", ["one", "many"])
@pytest.mark.parametrize("outer", ["one", "many", "one that is there late", "many that are there late"])
@runs(policy=Policy(wait_s=600))
async def test_so_is_one_whose_entry_is_kept_beside_that_of_another_version(
    world, outer, inner, is_invalidated
):
    """Wherever the entry lies when it asks: there, or, as the other is gone, in its own place."""
    refused = []

    async def ask(*_):
        if is_invalidated:
            world.raw.delete("k")
        cache = world.cache
        call = cache.get_or_load if inner == "one" else cache.get_or_load_many
        given = ("k", never) if inner == "one" else (["z", "k"], none_of)
        with pytest.raises(RecursiveLoadError, match="that very key") as error:
            await call(*given, type=Person)
        refused.append(error)
        return {"k": Person("ada")} if outer.startswith("many") else Person("ada")

    async def load():
        return await ask()

    async def load_all(keys):
        return await ask()

    def plant():
        body = world.raw.body("k", {"first": "Ada"})
        world.raw.put(world.raw.full("k"), Cell(Kind.VALUE, filled_by=b"grantgrantgrant!", body=body))

    is_one = outer.startswith("one")
    if not outer.endswith("late"):
        plant()
    with world.cache.before(AcquireLease if is_one else AcquireLeases, plant):
        if is_one:
            assert await world.cache.get_or_load("k", load, type=Person) == Person("ada")
        else:
            assert await world.cache.get_or_load_many(["k"], load_all, type=Person) == {"k": Person("ada")}
    assert len(refused) == 1
    assert all(is_free(cell) for cell in world.raw.read().values())


@runs()
async def test_a_loader_may_ask_for_other_keys(world):
    async def load(keys):
        inner = await world.cache.get_or_load_many(["x", "y"], Loads().load)
        return {key: [*inner.values(), key] for key in keys}

    assert await world.cache.get_or_load_many(["a", "b"], load) == {
        "a": ["X", "Y", "a"],
        "b": ["X", "Y", "b"],
    }
    assert await world.cache.get("x") == "X"


# What is in the way.


@runs()
async def test_a_batch_that_is_invalidated_meanwhile_is_returned_and_not_stored(world):
    """S1, key by key."""

    async def load(keys):
        await world.cache.invalidate("b")
        world.raw.delete("c")
        return dict.fromkeys(keys, "old")

    assert await world.cache.get_or_load_many(["a", "b", "c"], load) == dict.fromkeys("abc", "old")
    assert set(world.raw.read()) == {"a"}
    assert world.cache.stats().lost_leases == 2


@runs(compare="store")  # a server that stores by comparing is asked once more, where the cell has changed
async def test_a_set_during_a_batch_wins_over_it(world):
    """S2, S6."""

    async def load(keys):
        await world.cache.set("b", "new")
        return dict.fromkeys(keys, "old")

    assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": "old", "b": "old"}
    assert await world.cache.get_many(["a", "b"]) == {"a": "old", "b": "new"}


@runs()
async def test_keys_that_a_writer_holds_are_loaded_and_not_stored(world):
    loads = Loads()
    async with world.cache.mutate("b"):
        assert await world.cache.get_or_load_many(["a", "b"], loads.load) == {"a": "A", "b": "B"}
        assert Kind(world.raw.cell("b").kind) is Kind.HOLD

    assert await world.cache.get_many(["a", "b"]) == {"a": "A"}
    assert loads.asked == [["a", "b"]], "one call for both"
    assert world.cache.stats().loads_without_lease == 1


@runs(compare="store")  # MGET gives nothing, not an error, for a key that is no string
async def test_foreign_keys_are_loaded_and_left_alone(world):
    """Fault 33."""
    world.raw.put(world.raw.full("b"), FOREIGN)
    world.raw.put_bytes(world.raw.full("c"), b"another program's")
    loads = Loads()

    assert await world.cache.get_or_load_many(["a", "b", "c"], loads.load) == {"a": "A", "b": "B", "c": "C"}
    assert len(loads.asked) == 1
    left = world.raw.read()
    assert left["b"] == left["c"] == FOREIGN
    assert await world.cache.get("a") == "A"


@pytest.mark.parametrize("what", ["corrupt", "short", "other key"])
@runs()
async def test_values_that_must_not_be_served_are_replaced(world, what):
    """S9, S12."""
    body = {
        "corrupt": world.raw.body("b", 1)[:-1] + b"{not json",
        "short": b"short",
        "other key": world.raw.body("other", "theirs"),
    }[what]
    world.raw.put(world.raw.full("b"), Cell(Kind.VALUE, filled_by=b"grantgrantgrant!", body=body))

    assert await world.cache.get_or_load_many(["a", "b"], Loads().load) == {"a": "A", "b": "B"}
    assert await world.cache.get_many(["a", "b"]) == {"a": "A", "b": "B"}


@runs()
async def test_entries_of_another_version_are_kept_and_its_own_are_loaded_beside_them(world):
    """Fault 33."""
    await world.cache.set_many({"a": {"name": "a", "age": 1}, "b": {"name": "b", "age": 2}})
    loads = Loads(make=Person)

    for load in (loads.load, none_of):
        found = await world.cache.get_or_load_many(["a", "b", "c"], load, type=Person)
        assert found == {key: Person(key) for key in "abc"}

    assert [sorted(asked) for asked in loads.asked] == [["a", "b", "c"]]
    assert world.cache.stats().variants_stored == 2
    assert await world.cache.get("a") == {"name": "a", "age": 1}
    assert await world.cache.get("a", type=Person) == Person("a")
    await world.cache.invalidate("a")
    assert await world.cache.get_or_load_many(["a"], Loads(make=Person).load, type=Person) == {
        "a": Person("a")
    }
    assert await world.cache.get("a") is None


# The loads of others.


async def answer(world, key, grant, value):
    """Fill a lease of somebody else's."""
    body = world.raw.body(key, value)
    fill = Fill(world.raw.full(key), grant, 600_000, 0, body)
    assert world.raw.perform(FillCells((fill,), 10.0)).results == (FillResult.STORED,)


@runs(compare="store")
async def test_what_it_has_grants_for_is_stored_before_it_waits_for_others(world):
    """No deadlock: nobody waits with a grant in hand."""
    grant = world.raw.lease("b")
    loads = Loads()

    async def other():
        await until(lambda: world.raw.cell("a") is not None and Kind(world.raw.cell("a").kind) is Kind.VALUE)
        assert is_free(world.raw.cell("c"))
        await answer(world, "b", grant, "theirs")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        found = await world.cache.get_or_load_many(["a", "b", "c"], loads.load)

    assert found == {"a": "A", "b": "theirs", "c": "C"}
    assert loads.asked == [["a", "c"]]
    assert world.cache.stats().loads == 2


@pytest.mark.timing
@runs(compare="store", policy=Policy(wait_s=0.1))
async def test_past_its_deadline_it_loads_what_others_have_not_without_storing(world):
    grant = world.raw.lease("b")
    loads = Loads()

    assert await world.cache.get_or_load_many(["a", "b"], loads.load) == {"a": "A", "b": "B"}

    assert loads.asked == [["a"], ["b"]]
    assert world.raw.cell("b").grant == grant, "the holder's lease is left alone (S5)"
    assert world.cache.stats().loads_without_lease == 1


@pytest.mark.timing
@runs(compare="store", policy=Policy(wait_s=0.1, on_wait_timeout="raise"))
async def test_past_its_deadline_it_raises_where_the_policy_says_so(world):
    world.raw.lease("b")

    with pytest.raises(CacheTimeoutError):
        await world.cache.get_or_load_many(["a", "b"], Loads().load)
    assert await world.cache.get("a") == "A", "what it could load is stored"


@pytest.mark.timing
@runs(compare="store")
async def test_the_lease_of_a_holder_that_is_gone_is_taken_over(world):
    """L3."""
    world.raw.lease("b", lease_ms=200)
    loads = Loads()

    assert await world.cache.get_or_load_many(["a", "b"], loads.load) == {"a": "A", "b": "B"}
    assert await world.cache.get_many(["a", "b"]) == {"a": "A", "b": "B"}
    assert sorted(key for asked in loads.asked for key in asked) == ["a", "b"]


@runs(compare="store")
async def test_overlapping_batches_of_one_process_load_each_key_once(world):
    """L2."""
    asked = []

    async def load(keys):
        asked.extend(keys)
        await anyio.sleep(0.01)
        return {key: key.upper() for key in keys}

    def keys_of(place):
        return [f"k{n}" for n in range(place, place + 10)]

    results = await in_parallel(10, lambda place: world.cache.get_or_load_many(keys_of(place), load))

    assert results == [{key: key.upper() for key in keys_of(place)} for place in range(10)]
    assert sorted(asked) == sorted({key for place in range(10) for key in keys_of(place)})


@runs(compare="store")
async def test_a_batch_and_a_single_load_share_through_the_lease(world):
    """L2, whichever of them comes first."""
    calls = []

    async def load():
        calls.append("one")
        await until(lambda: world.trace.count("AcquireLeases") >= 1)
        return "B"

    async def load_many(keys):
        calls.extend(keys)
        return {key: key.upper() for key in keys}

    async def call(place):
        if place == 0:
            return await world.cache.get_or_load("b", load)
        await until(lambda: calls == ["one"])
        return await world.cache.get_or_load_many(["a", "b", "c"], load_many)

    assert await in_parallel(2, call) == ["B", {"a": "A", "b": "B", "c": "C"}]
    assert sorted(calls) == ["a", "c", "one"]


@pytest.mark.timing
@runs(policy=Policy(lease_s=1.5, max_lease_s=60))
async def test_the_leases_of_a_batch_are_renewed_while_the_loader_runs(world):
    """L2."""

    async def load(keys):
        await until(lambda: world.trace.count("RenewLeases") >= 1)
        return dict.fromkeys(keys, "slow")

    assert await world.cache.get_or_load_many(["a", "b"], load) == {"a": "slow", "b": "slow"}
    assert await world.cache.get_many(["a", "b"]) == {"a": "slow", "b": "slow"}
    assert world.cache.stats().lost_leases == 0
    renewed = next(fact for fact in world.trace.facts if fact[0] == "RenewLeases")
    assert len(renewed[1]) == 2, "all of them with one command"


# Stale values.


async def stale_entries(world, **values):
    await world.cache.set_many(values, ttl=STALE)
    for key in values:
        world.raw.outdate(key)


@runs(policy=STALE)
async def test_stale_values_are_loaded_and_served_where_the_loader_fails(world):
    """S13; nothing is refreshed in the background by a batch."""
    await stale_entries(world, a="old a", b="old b")

    async def fail(keys):
        raise OSError("database down")

    assert await world.cache.get_or_load_many(["a", "b"], fail) == {"a": "old a", "b": "old b"}
    assert all(is_free(cell) for cell in world.raw.read().values())
    with pytest.raises(OSError, match="database down"):
        await world.cache.get_or_load_many(["a", "z"], fail)
    long = attrs.evolve(STALE, ttl=600)
    assert await world.cache.get_or_load_many(["a", "b"], Loads().load, policy=long) == {"a": "A", "b": "B"}
    assert await world.cache.get_many(["a", "b"]) == {"a": "A", "b": "B"}
    assert world.cache.stats().refreshes == 0


@runs(policy=STALE)
async def test_a_stale_value_that_somebody_else_loads_is_served_at_once(world):
    await stale_entries(world, a="old a", b="old b")
    world.raw.lease("a")
    loads = Loads()

    found = await world.cache.get_or_load_many(["a", "b"], loads.load, policy=attrs.evolve(STALE, ttl=600))

    assert found == {"a": "old a", "b": "B"}
    assert loads.asked == [["b"]]
    assert world.cache.stats().stale_hits == 1


@pytest.mark.timing
@runs(compare="store", policy=attrs.evolve(STALE, on_wait_timeout="stale", wait_s=0.5))
async def test_where_stale_values_are_a_last_resort_a_batch_waits_first(world):
    await stale_entries(world, a="old a")
    world.raw.lease("a")

    assert await world.cache.get_or_load_many(["a"], none_of) == {"a": "old a"}
    assert world.trace.count("AcquireLeases") >= 2


@runs()
async def test_statistics_balance(world):
    """B3: every key asked for is a hit, a stale hit or a miss with one reason."""
    await world.cache.set("a", 1)
    await world.cache.get_or_load_many(["a", "b", "c"], Loads().load)
    await world.cache.get_or_load_many(["a", "b", "c"], none_of)

    stats = world.cache.stats()
    assert stats.total_requests == stats.redis_hits + stats.stale_hits + stats.redis_misses == 6
    assert (stats.redis_hits, stats.misses) == (4, {MissReason.ABSENT: 2})
    assert (stats.loads, stats.stored) == (2, 3)


@runs()
async def test_a_disabled_cache_loads_everything_and_stores_nothing(world):
    disabled = world.open(enabled=False)
    loads = Loads()

    for _ in range(2):
        assert await disabled.get_or_load_many(["a", "b"], loads.load, tags=["t"]) == {"a": "A", "b": "B"}

    assert loads.asked == [["a", "b"]] * 2
    assert world.raw.read() == {}
    assert set(disabled.stats().misses) == {MissReason.DISABLED}


@runs(ON_SERVER, compare=None)
async def test_a_batch_of_a_thousand_keys_of_which_ninety_in_a_hundred_are_cached(world):
    """Three commands, and a hundred keys for the loader."""
    keys = [f"user:{n}" for n in range(1000)]
    cached = {key: "cached" for n, key in enumerate(keys) if n % 10}
    await world.cache.set_many(cached)
    before = len(world.trace.facts)
    loads = Loads()

    found = await world.cache.get_or_load_many(keys, loads.load)

    assert found == {key: cached.get(key, key.upper()) for key in keys}
    assert [len(asked) for asked in loads.asked] == [100]
    assert world.trace.names_but_pings(before) == ["ReadCells", "AcquireLeases", "FillCells"]
    assert await world.cache.get_or_load("user:0", loading("no")) == "USER:0"
