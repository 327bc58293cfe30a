"""One suite for both caches, three runtimes and all stores, a third party's included (B5).

Each test runs in every place, and what it left there (commands, counters, store) is compared with what it
left on threads and memory: see `support.runtimes`.
"""

import re
import threading
import traceback
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import anyio
import anyio.lowlevel
import attrs
import pytest

from sansio_cache import (
    COLD,
    Absent,
    CacheConfig,
    Fresh,
    InvalidKeyError,
    Policy,
    RecursiveLoadError,
    SerializationError,
)
from sansio_cache.cell import FOREIGN, Cell, Kind
from sansio_cache.commands import Fill, FillCells
from sansio_cache.config import RedisConfig
from sansio_cache.entry import MissReason
from sansio_cache.events import FillResult
from sansio_cache.ttl import NO_JITTER
from support.runtimes import (
    EVERYWHERE,
    ON_CLUSTER,
    ON_SENTINEL,
    ON_SERVER,
    THIRD_PARTY,
    WAYS_IN,
    in_parallel,
    is_free,
    loading,
    never,
    together,
    until,
)
from support.runtimes import (
    runs as runs_in,
)
from support.servers import can_compare

pytestmark = pytest.mark.servers

# Behind Sentinel and on a cluster all of it in the night and on every server of the matrix, and a part of it
# in every run.
runs = partial(runs_in, EVERYWHERE + THIRD_PARTY)
ON_ALL_TOPOLOGIES = tuple(dict.fromkeys(EVERYWHERE + THIRD_PARTY + WAYS_IN + ON_SENTINEL + ON_CLUSTER))

# A stale value is not served at once: callers wait for the fresh one, and have it where that fails.
STALE = Policy(ttl=0.05, jitter=NO_JITTER, stale_for_s=600, on_wait_timeout="stale", wait_s=0.05)
PATIENT_STALE = attrs.evolve(STALE, wait_s=30)
# By its unix socket, so that it is a server of ours, which can be asked what was sent.
OWN_SERVER = tuple(place for place in WAYS_IN if place.store == "unix")
GRANT = b"grantgrantgrant!"


def plant(world, key, value, *, type=None, body=None, full=None):
    """Put a value there as another process would have stored it."""
    body = world.raw.body(key, value, type) if body is None else body
    cell = Cell(kind=Kind.VALUE, filled_by=GRANT, body=body)
    world.raw.put(full or world.raw.full(key), cell)


# Reading and writing, one method after the other.


@runs_in(ON_ALL_TOPOLOGIES)
async def test_a_value_that_was_set_is_read_back(world):
    assert await world.cache.get("user:1") is None
    assert await world.cache.set("user:1", {"name": "Ada", "tags": [1, 2.5, None, True]}) is True

    assert await world.cache.get("user:1") == {"name": "Ada", "tags": [1, 2.5, None, True]}
    assert is_free(world.raw.cell("user:1"))


@runs_in(ON_ALL_TOPOLOGIES)
async def test_a_miss_loads_and_stores_and_the_next_call_is_a_hit(world):
    calls = []

    assert await world.cache.get_or_load("user:1", loading("Ada", calls)) == "Ada"
    assert await world.cache.get_or_load("user:1", never) == "Ada"

    assert calls == ["Ada"]
    assert is_free(world.raw.cell("user:1"))


@runs_in(ON_ALL_TOPOLOGIES)
async def test_batches_are_written_read_and_invalidated(world):
    values = {f"user:{n}": n for n in range(30)}

    assert await world.cache.set_many(values) == dict.fromkeys(values, True)
    assert await world.cache.get_many([*values, "user:none"]) == values
    result = await world.cache.invalidate(*values)

    assert (result.done, result.remembered) == (30, 0)
    assert await world.cache.get_many(values) == {}
    assert world.raw.read() == {}


@runs_in(ON_ALL_TOPOLOGIES)
async def test_the_store_is_ready_and_healthy(world):
    await world.cache.wait_ready()
    health = await world.cache.health()

    assert health.ok, health.problems
    assert health.server == "memory" or health.server.startswith(("Valkey ", "Redis ", "SQLite "))
    assert (health.bypassing, health.pending_invalidations) == (False, 0)
    assert world.raw.read() == {}, "the look at its health leaves nothing behind"


@runs()
async def test_a_default_is_given_only_where_there_is_no_value(world):
    marker = object()
    await world.cache.set("false", False)

    assert await world.cache.get("absent", marker) is marker
    assert await world.cache.get("false", marker) is False


NOTHING = pytest.mark.parametrize("type", [None, int, int | None], ids=["plain", "typed", "optional"])


@NOTHING
@pytest.mark.parametrize("given", [None, Absent(), Fresh(None, ttl=50)], ids=["none", "absent", "fresh"])
@runs()
async def test_none_of_a_loader_is_nothing_and_that_is_remembered(world, given, type):
    calls, marker = [], object()

    assert await world.cache.get_or_load("nobody", loading(given, calls), type=type) is None
    assert await world.cache.get_or_load("nobody", never, type=type) is None
    assert await world.cache.get("nobody", marker, type=type) is marker
    assert await world.cache.get_many(["nobody", "absent"], type=type) == {}
    assert await world.cache.get_or_load_many(["nobody"], never, type=type) == {}
    assert len(calls) == 1
    assert world.cache.stats().unstorable == 0


@NOTHING
@runs()
async def test_none_in_a_write_is_nothing_and_that_is_remembered(world, type):
    marker = object()

    assert await world.cache.set("set", None, type=type)
    assert await world.cache.set_many({"many": None, "one": 1}, type=type) == {"many": True, "one": True}
    await world.cache.set("mutated", 1, type=type)
    async with world.cache.mutate("mutated") as mutation:
        mutation.set("mutated", None, type=type)
    names = ["set", "many", "one", "mutated"]
    for name in ("set", "many", "mutated"):
        assert await world.cache.get(name, marker, type=type) is marker
        assert await world.cache.get_or_load(name, never, type=type) is None
    assert await world.cache.get_many(names, type=type) == {"one": 1}


@pytest.mark.parametrize("ttl", [30, 3600])
@runs(policy=Policy(negative_ttl=50, jitter=NO_JITTER))
async def test_nothing_lives_for_the_shorter_of_two_times(world, ttl):
    async def many(keys):
        return dict.fromkeys(keys)

    await world.cache.get_or_load("loaded", loading(None), ttl=ttl)
    await world.cache.get_or_load_many(["batch"], many, ttl=ttl)
    await world.cache.set("set", None, ttl=ttl)
    async with world.cache.mutate("mutated") as mutation:
        mutation.set("mutated", None, ttl=ttl)
    for name in ("loaded", "batch", "set", "mutated"):
        sent_ms, _ = world.trace.fills[world.raw.cell(name).filled_by]
        assert (sent_ms, world.raw.cell(name).soft_ms) == (1000 * min(ttl, 50), 0)


@pytest.mark.parametrize("ttl", [0, -1])
@runs()
async def test_a_write_of_nothing_with_nothing_left_to_live_is_an_invalidation(world, ttl):
    await world.cache.set_many({"a": 1, "b": 2})

    assert not await world.cache.set("a", None, ttl=ttl)
    async with world.cache.mutate("b") as mutation:
        mutation.set("b", None, ttl=ttl)
    assert await world.cache.get_or_load_many(["a", "b"], dict.fromkeys) == {}
    assert await world.cache.get_or_load("a", never) is None


@runs()
async def test_a_type_with_none_is_the_type(world):
    together = []

    async def load():
        together.append(await world.cache.get("k", type=int | None))
        return 7

    assert await world.cache.get_or_load("k", load, type=int | None) == 7
    assert await world.cache.get_or_load("k", never, type=int) == 7
    assert await world.cache.get("k", type=Annotated[int | None, "said"]) == 7
    await world.cache.set("k", 8, type=int)
    assert await world.cache.get_many(["k"], type=int | None) == {"k": 8}
    assert world.cache.stats().variants_stored == 0
    assert together == [None]


@runs()
async def test_built_keys_and_texts_name_the_same_entry(world):
    await world.cache.set(world.cache.key.build("user", 1), "Ada")

    assert await world.cache.get("user:1") == "Ada"
    assert await world.cache.get_many([world.cache.key.build("user", 1)]) == {
        world.cache.key.build("user", 1): "Ada"
    }


@attrs.frozen
class Person:
    name: str
    age: int


@dataclass
class Place:
    city: str
    people: list[str]


@pytest.mark.parametrize(
    ("value", "type"),
    [
        pytest.param(Person("Ada", 36), Person, id="attrs"),
        pytest.param(Place("London", ["Ada"]), Place, id="dataclass"),
        pytest.param([Person("Ada", 36), Person("Bob", 1)], list[Person], id="list"),
        pytest.param({"a": (1, "x")}, dict[str, tuple[int, str]], id="nested"),
        pytest.param(7, int, id="int"),
    ],
)
@runs()
async def test_values_of_a_declared_type_come_back_as_that_type(world, value, type):
    loaded = await world.cache.get_or_load("k", loading(value), type=type)
    hit = await world.cache.get_or_load("k", never, type=type)

    assert loaded == hit == value
    assert loaded.__class__ is hit.__class__ is value.__class__
    assert await world.cache.set("k2", value, type=type)
    assert await world.cache.get("k2", type=type) == value
    assert await world.cache.get_many(["k", "k2"], type=type) == {"k": value, "k2": value}


@runs()
async def test_a_time_to_live_is_what_the_caller_said(world):
    await world.cache.set("a", 1, ttl=100)
    await world.cache.set("b", 1, ttl=COLD)
    await world.cache.set("c", 1, ttl=Policy(ttl=100, jitter=NO_JITTER))
    await world.cache.get_or_load("d", loading(1), policy=Policy(ttl=100, jitter=NO_JITTER, stale_for_s=50))
    await world.cache.get_or_load("e", loading(1), ttl=100)

    # The rest, that each expires when its fill said, is checked for every test: see World.
    bounds = {"a": (110, 120), "b": (95_040, 103_680), "c": (100, 100), "d": (150, 150), "e": (110, 120)}
    for key, (low_s, high_s) in bounds.items():
        sent_ms, _ = world.trace.fills[world.raw.cell(key).filled_by]
        assert low_s * 1000 <= sent_ms <= high_s * 1000, key


# What is in the way.


@runs()
async def test_a_load_that_raises_stores_nothing_and_the_error_is_the_loaders_own(world):
    error = LookupError("no such user")

    async def fail():
        raise error

    with pytest.raises(LookupError) as raised:
        await world.cache.get_or_load("user:1", fail)

    assert raised.value is error
    assert world.raw.read() == {}
    assert await world.cache.get_or_load("user:1", loading("Ada")) == "Ada"


@runs()
async def test_a_load_that_is_invalidated_meanwhile_is_returned_and_not_stored(world):
    """S1: the cell that issued the grant is gone."""

    async def load():
        await world.cache.invalidate("user:1")
        return "old"

    assert await world.cache.get_or_load("user:1", load) == "old"
    assert world.raw.read() == {}
    assert await world.cache.get_or_load("user:1", loading("new")) == "new"


@runs()
async def test_a_plain_removal_by_another_program_voids_a_load(world):
    """S1: a DEL by anybody is a complete invalidation."""

    async def load():
        world.raw.delete("user:1")
        return "old"

    assert await world.cache.get_or_load("user:1", load) == "old"
    assert world.raw.read() == {}
    assert world.cache.stats().lost_leases == 1


@runs()
async def test_a_set_during_a_load_wins_over_it(world):
    """S2, S6."""

    async def load():
        await world.cache.set("user:1", "new")
        return "old"

    assert await world.cache.get_or_load("user:1", load) == "old"
    assert await world.cache.get("user:1") == "new"


def planted(what):
    """What may stand in a key's place that is not this reader's value."""

    def put(world):
        full = world.raw.full("k")
        match what:
            case "corrupt payload":
                plant(world, "k", None, body=world.raw.body("k", 1)[:21] + b"{not json")
            case "no body":
                plant(world, "k", None, body=b"short")
            case "other key":
                plant(world, "other", "the value of another key", full=full)
            case "foreign text":
                world.raw.put_bytes(full, b"another program's")
            case "future format":
                world.raw.put_bytes(full, b"\xc6" + bytes(80))
            case "wrong type":
                world.raw.put(full, FOREIGN)

    return put


REPLACEABLE = ["corrupt payload", "no body", "other key"]
FOREIGN_THINGS = ["foreign text", "future format", "wrong type"]


@pytest.mark.parametrize("what", REPLACEABLE)
@runs()
async def test_a_value_that_must_not_be_served_is_a_miss_and_replaced(world, what):
    """S9, S12: never an exception, never another key's value."""
    planted(what)(world)

    assert await world.cache.get("k", "default") == "default"
    assert await world.cache.get_many(["k"]) == {}
    assert await world.cache.get_or_load("k", loading("mine")) == "mine"
    assert await world.cache.get("k") == "mine"
    reason = MissReason.KEY_CHECK if what == "other key" else MissReason.CORRUPT
    assert world.cache.stats().misses == {reason: 3}
    assert set(world.raw.read()) == {"k"}


@pytest.mark.parametrize("what", FOREIGN_THINGS)
@runs()
async def test_a_foreign_key_is_a_miss_and_left_alone_by_readers(world, what):
    """Fault 33."""
    planted(what)(world)

    assert await world.cache.get("k", "default") == "default"
    assert await world.cache.get_or_load("k", loading("mine")) == "mine"
    assert world.raw.read() == {"k": FOREIGN}
    assert world.cache.stats().misses == {MissReason.FOREIGN: 2}


@pytest.mark.parametrize("what", FOREIGN_THINGS)
@runs(compare="store")  # MGET gives nothing, not an error, for a key that is no string
async def test_a_foreign_key_among_many_is_a_miss(world, what):
    await world.cache.set("mine", 1)
    planted(what)(world)

    assert await world.cache.get_many(["k", "mine"]) == {"mine": 1}
    assert world.cache.stats().redis_misses == 1


@pytest.mark.parametrize("what", FOREIGN_THINGS)
@runs()
async def test_a_foreign_key_may_be_replaced_by_writers(world, what):
    planted(what)(world)
    assert await world.cache.set("k", "mine")
    assert await world.cache.get("k") == "mine"

    planted(what)(world)
    assert (await world.cache.invalidate("k")).done == 1
    assert world.raw.read() == {}


@runs()
async def test_a_reader_of_another_type_does_not_serve_and_keeps_its_own_beside(world):
    """Fault 33: two programs whose types differ never replace each other's entries in turn."""
    plain = {"name": "Ada", "age": 36}
    await world.cache.get_or_load("k", loading(plain))

    assert await world.cache.get("k", type=Person) is None
    assert await world.cache.get_or_load("k", loading(Person("Ada", 36)), type=Person) == Person("Ada", 36)

    assert world.cache.stats().variants_stored == 1
    assert len(world.raw.read()) == 2
    for _ in range(2):
        assert await world.cache.get("k", "none") == plain
        assert await world.cache.get("k", type=Person) == Person("Ada", 36)
        assert await world.cache.get_or_load("k", never) == plain
        assert await world.cache.get_or_load("k", never, type=Person) == Person("Ada", 36)
    assert world.cache.stats().misses == {MissReason.ABSENT: 1, MissReason.SCHEMA: 2}


@attrs.frozen
class FormerPerson:
    """What a `Person` was before it had an age."""

    full_name: str


def from_former(older):
    return {"name": older["full_name"], "age": 0}


@runs()
async def test_a_hook_serves_what_an_older_version_has_stored_and_replaces_nothing(world):
    older, newer = world.cache, world.open(migrations={Person: from_former})
    await older.get_or_load("k", loading(FormerPerson("Ada")), type=FormerPerson)

    assert await newer.get("k", type=Person) == Person("Ada", 0)
    assert await newer.get_many(["k"], type=Person) == {"k": Person("Ada", 0)}
    assert await newer.get_or_load("k", never, type=Person) == Person("Ada", 0)
    assert await older.get("k", type=FormerPerson) == FormerPerson("Ada")
    assert (newer.stats().redis_hits, newer.stats().redis_misses) == (3, 0)
    # The hook is that of one type: neither of those that contain it, nor of one that cannot be hashed.
    assert await newer.get("k", type=list[Person]) is None
    assert await newer.get("k", type=Annotated[Person, []]) is None


@runs()
async def test_a_hook_that_cannot_read_the_older_version_is_a_miss_and_the_loader_runs(world):
    newer = world.open(migrations={Person: from_former})
    await world.cache.set("k", {"name": "Ada"})

    assert await newer.get("k", type=Person) is None
    assert await newer.get_or_load("k", loading(Person("Ada", 36)), type=Person) == Person("Ada", 36)
    assert newer.stats().misses[MissReason.SCHEMA] == 2


@runs()
async def test_what_cannot_be_stored_is_logged_with_its_key_its_place_and_what_would_be(world):
    assert await world.cache.get_or_load("top", loading([("a", 1)])) == [("a", 1)]
    [warning] = world.take_log()
    why = "value[0] is a tuple and would come back as a list; give type=list[tuple[str, int]]"
    assert warning.endswith(f"{world.namespace}:top: {why}")
    with pytest.raises(SerializationError, match=f"^{world.namespace}:top: value.0. is a tuple"):
        await world.cache.set("top", [("a", 1)])
    assert world.cache.stats().entities["top"].unstorable == 1


@runs(on_unstorable="raise")
async def test_what_cannot_be_stored_may_be_raised_and_leaves_no_lease(world):
    cache = world.cache

    async def many(keys):
        return {"a": 1, "b": {1}}

    with pytest.raises(SerializationError, match=f"^{world.namespace}:top: value.0. is a tuple"):
        await cache.get_or_load("top", loading([("a", 1)]))
    with pytest.raises(SerializationError, match=f"^{world.namespace}:b: value is a set"):
        await cache.get_or_load_many(["a", "b"], many)

    assert world.raw.read() == {}
    assert cache.stats().unstorable == 2
    assert await cache.get_or_load("top", loading([("a", 1)]), type=list[tuple[str, int]]) == [("a", 1)]
    assert await cache.get("top", type=list[tuple[str, int]]) == [("a", 1)]
    world.take_log()


@runs()
async def test_a_value_that_cannot_be_stored_is_returned_uncached_with_one_warning(world):
    value = {1, 2, 3}

    for _ in range(3):
        loaded = await world.cache.get_or_load("k", loading(value))
        assert loaded == value

    assert world.raw.read() == {}
    [warning] = world.take_log()
    assert "is not cached" in warning
    assert "type=" in warning
    assert world.cache.stats().unstorable == 3
    with pytest.raises(SerializationError, match="type="):
        await world.cache.set("k", value)


# Stale values, and the loads of others.


async def stale_entry(world, value):
    """Store a value that is past its soft expiry."""
    await world.cache.get_or_load("k", loading(value))
    world.raw.outdate("k")


@runs(policy=PATIENT_STALE)
async def test_a_stale_value_is_a_miss_for_get_and_reloaded_by_get_or_load(world):
    await stale_entry(world, "old")

    assert await world.cache.get("k") is None
    assert await world.cache.get_many(["k"]) == {}
    policy = attrs.evolve(PATIENT_STALE, ttl=600)
    assert await world.cache.get_or_load("k", loading("new"), policy=policy) == "new"
    assert await world.cache.get("k") == "new"


@runs(policy=STALE)
async def test_a_stale_value_is_served_once_another_process_has_reloaded_for_too_long(world):
    await stale_entry(world, "old")
    world.raw.lease("k")

    assert await world.cache.get_or_load("k", never) == "old"
    assert world.cache.stats().stale_hits == 1
    assert world.trace.count("AcquireLease") >= 2, "it has waited, and has looked again"


@runs(policy=PATIENT_STALE)
async def test_a_stale_value_is_served_where_the_loader_fails(world):
    """S13: the stale payload stays."""
    await stale_entry(world, "old")

    async def fail():
        raise OSError("database down")

    assert await world.cache.get_or_load("k", fail) == "old"
    assert is_free(world.raw.cell("k"))
    assert world.cache.stats().load_failures == 1


@runs(policy=Policy(ttl=0.05, jitter=NO_JITTER))
async def test_nothing_stale_is_served_without_a_policy_that_allows_it(world):
    await world.cache.get_or_load("k", loading("old"))
    await until(lambda: world.raw.cell("k") is None)

    assert await world.cache.get_or_load("k", loading("new"), ttl=600) == "new"


@runs()
async def test_a_caller_waits_for_the_load_of_another_process(world):
    """L2: the loader does not run where somebody else's value comes in time."""
    grant = world.raw.lease("k")

    async def answer():
        await until(lambda: world.trace.count("AcquireLease") >= 3)
        fill = Fill(
            key=world.raw.full("k"),
            grant=grant,
            hard_ttl_ms=600_000,
            soft_ttl_ms=0,
            body=world.raw.body("k", "theirs"),
        )
        assert world.raw.perform(FillCells((fill,), 10.0)).results == (FillResult.STORED,)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        assert await world.cache.get_or_load("k", never) == "theirs"
    assert world.cache.stats().waits == 1


@pytest.mark.timing
@runs(policy=Policy(wait_s=0.05))
async def test_a_caller_that_has_waited_long_enough_loads_without_storing(world):
    grant = world.raw.lease("k")

    assert await world.cache.get_or_load("k", loading("mine")) == "mine"

    assert world.raw.cell("k").grant == grant, "the holder's lease is left alone (S5)"
    assert world.cache.stats().loads_without_lease == 1


@pytest.mark.timing
@runs(compare="store")  # on a busy machine the lease may be over before anybody has waited for it
async def test_the_lease_of_a_holder_that_is_gone_is_taken_over(world):
    """L3."""
    world.raw.lease("k", lease_ms=200)

    assert await world.cache.get_or_load("k", loading("mine")) == "mine"
    assert await world.cache.get("k") == "mine"


@pytest.mark.timing
@runs(policy=Policy(lease_s=1.5, max_lease_s=60))
async def test_a_lease_is_renewed_while_the_loader_runs(world):
    """L2: a slow loader keeps its lease, and its value is stored."""

    async def load():
        await until(lambda: world.trace.count("RenewLeases") >= 1)
        return "slow"

    assert await world.cache.get_or_load("k", load) == "slow"
    renewals = world.trace.count("RenewLeases")
    assert await world.cache.get("k") == "slow"
    assert renewals >= 1
    assert world.cache.stats().lost_leases == 0


# Mutations and racing writers.


@runs()
async def test_what_a_mutation_sets_is_stored_and_the_rest_is_invalidated(world):
    await world.cache.set_many({"a": "old", "b": "old", "c": "old"})

    async with world.cache.mutate("a", "b") as mutation:
        assert {key: Kind(cell.kind) for key, cell in world.raw.read().items()} == {
            "a": Kind.HOLD,
            "b": Kind.HOLD,
            "c": Kind.VALUE,
        }
        mutation.set("a", "new", ttl=60)

    assert await world.cache.get_many(["a", "b", "c"]) == {"a": "new", "c": "old"}


@runs()
async def test_a_mutation_that_raises_invalidates_everything(world):
    """S6: it may have committed."""
    await world.cache.set_many({"a": "old", "b": "old"})

    async def write():
        async with world.cache.mutate("a", "b") as mutation:
            mutation.set("a", "new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write()

    assert world.raw.read() == {}


@runs()
async def test_a_mutation_that_another_writer_came_between_invalidates(world):
    """S6: nobody can say which of the two committed last."""
    other = world.open()

    async with world.cache.mutate("a") as mutation:
        mutation.set("a", "mine")
        async with other.mutate("a") as theirs:
            theirs.set("a", "theirs")

    assert world.raw.read() == {}
    assert world.cache.stats().lost_leases == 1


@runs()
async def test_readers_load_and_do_not_store_while_a_key_is_held(world):
    async with world.cache.mutate("a") as mutation:
        assert await world.cache.get("a") is None
        assert await world.cache.get_or_load("a", loading("before the commit")) == "before the commit"
        assert Kind(world.raw.cell("a").kind) is Kind.HOLD
        mutation.set("a", "after")

    assert await world.cache.get("a") == "after"
    assert world.cache.stats().loads_without_lease == 1


@pytest.mark.timing
@runs(policy=Policy(lease_s=1.5, max_lease_s=60))
async def test_a_hold_is_renewed_while_the_block_runs(world):
    async with world.cache.mutate("a") as mutation:
        await until(lambda: world.trace.count("RenewLeases") >= 1)
        mutation.set("a", "slow")

    assert await world.cache.get("a") == "slow"


@runs()
async def test_a_mutation_takes_only_its_own_keys(world):
    async with world.cache.mutate("a") as mutation:
        with pytest.raises(InvalidKeyError, match=r"name it in mutate"):
            mutation.set("b", 1)
        with pytest.raises(SerializationError):
            mutation.set("a", {1, 2})

    assert world.raw.read() == {}


@runs()
async def test_of_two_sets_the_later_one_wins_and_the_other_says_so(world):
    """S2: a fill under a hold that was overridden is refused."""
    other = world.open()
    between = world.trace

    backend = world.cache.driver._backend
    perform, answer = backend.perform, backend.answer

    def is_between(command):
        return isinstance(command, FillCells) and between.count("HoldCells") == 1

    def interleaved(command):
        if is_between(command):
            assert other.cache.set("k", "theirs")
        return perform(command)

    async def interleaved_on_a_loop(command):
        if is_between(command):
            assert await other.cache.set("k", "theirs")
        return await answer(command)

    backend.perform, backend.answer = interleaved, interleaved_on_a_loop

    assert await world.cache.set("k", "mine") is False
    assert await world.cache.get("k") == "theirs"


# Many keys.


@runs(chunk_keys=7)
async def test_batches_larger_than_a_chunk_are_split_and_lose_nothing(world):
    values = {f"k{n}": n for n in range(23)}

    assert await world.cache.set_many(values) == dict.fromkeys(values, True)
    assert await world.cache.get_many(values) == values
    assert (await world.cache.invalidate(*values)).done == 23
    names = world.trace.names()
    assert names == ["HoldCells", "FillCells"] * 4 + ["ReadCells"] + ["DeleteKeys"] * 4
    assert world.raw.read() == {}


@runs(max_batch_keys=5)
async def test_a_call_that_names_too_many_keys_is_refused_before_anything_has_happened(world):
    def endless():
        while True:
            yield "k0"

    most = {f"k{n}": n for n in range(5)}
    too_many = {**most, "k5": 5}

    for refused in (
        world.cache.get_many(too_many),
        world.cache.get_many(endless()),
        world.cache.set_many(too_many),
        world.cache.invalidate(*too_many),
        world.cache.mutate(*too_many).__aenter__(),
    ):
        with pytest.raises(InvalidKeyError, match=r"may name 5 keys.*split it.*or raise max_batch_keys"):
            await refused
    assert world.trace.facts == []
    assert world.cache.stats().total_requests == 0

    assert all((await world.cache.set_many(most)).values())
    assert await world.cache.get_many(most) == most
    async with world.cache.mutate(*most):
        pass
    assert (await world.cache.invalidate(*most)).done == 5


@runs()
async def test_empty_batches_ask_nothing(world):
    assert await world.cache.get_many([]) == {}
    assert await world.cache.set_many({}) == {}
    assert world.trace.facts == []


@runs(compare="store", chunk_keys=10)
async def test_a_pattern_removes_its_keys_and_nothing_else(world):
    """S11: never another namespace, never an internal key."""
    neighbour = world.open(namespace=f"{world.namespace}2")
    await neighbour.set("user:1", "theirs")
    await world.cache.set_many({f"user:{n}": n for n in range(35)} | {"users": 1, "order:1": 1, "user": 1})
    for marker in ("%t:user", "%g:user", "%w:user:1"):
        plant(world, marker, "internal")

    result = await world.cache.delete_pattern("user:*")

    assert (result.deleted, result.complete) == (35, True)
    assert set(world.raw.read()) == {"users", "order:1", "user", "%t:user", "%g:user", "%w:user:1"}
    assert (await world.cache.delete_pattern("*:1")).deleted == 1
    assert (await world.cache.delete_pattern("%*")).deleted == 0
    assert await neighbour.get("user:1") == "theirs"
    await neighbour.clear()


@runs(compare="store", chunk_keys=10)
async def test_clear_removes_the_namespace_but_for_internal_keys(world):
    """S11."""
    neighbour = world.open(namespace=f"{world.namespace}2")
    await neighbour.set("a", 1)
    await world.cache.set_many({f"k{n}": n for n in range(25)})
    plant(world, "%t:tag", "internal")

    result = await world.cache.clear()

    assert (result.deleted, result.complete) == (25, True)
    assert set(world.raw.read()) == {"%t:tag"}
    assert await neighbour.get("a") == 1
    await neighbour.clear()


@runs(compare="store")
async def test_a_built_pattern_matches_its_own_entity_alone(world):
    """S10, S11: what an id holds cannot widen a pattern."""
    key = world.cache.key
    kept = [key.build("user", "*"), key.build("us", 1), key.build("user2", 1)]
    gone = [key.versioned("user", "a*", version) for version in (1, 2)]
    for each in (*kept, *gone):
        await world.cache.set(each, 1)

    assert (await world.cache.delete_pattern(key.pattern("user", "a*"))).deleted == len(gone)
    assert set(await world.cache.get_many(kept)) == set(kept)


# Switched off.


@pytest.mark.parametrize("switch", ["enabled", "redis.enabled"])
@runs()
async def test_a_disabled_cache_loads_and_stores_nothing(world, switch):
    config = CacheConfig(
        namespace=world.namespace,
        enabled=switch != "enabled",
        redis=RedisConfig(enabled=switch != "redis.enabled", url=world.url),
    )
    cache = type(world.cache.cache).from_config(config)
    world.cache.cache, enabled = cache, world.cache.cache
    calls = []
    try:
        assert await world.cache.get("k", "default") == "default"
        assert await world.cache.get_many(["k"]) == {}
        assert await world.cache.set("k", 1) is False
        assert await world.cache.set_many({"k": 1}) == {"k": False}
        for _ in range(2):
            assert await world.cache.get_or_load("k", loading("mine", calls)) == "mine"
        assert (await world.cache.invalidate("k")).remembered == 0
        assert (await world.cache.delete_pattern("*")).complete
        assert (await world.cache.clear()).complete
        async with world.cache.mutate("k") as mutation:
            mutation.set("k", 1)
        await world.cache.wait_ready(0.001)
        assert set(world.cache.stats().misses) == {MissReason.DISABLED}
        await world.cache.aclose()
    finally:
        world.cache.cache = enabled
    assert calls == ["mine", "mine"]
    assert world.raw.read() == {}


# Concurrent callers of one process.


@runs(compare="store")
async def test_fifty_callers_share_one_load_and_each_has_a_copy_of_its_own(world):
    """L2; what one caller does to its value no other sees."""
    calls = []

    async def load():
        calls.append(1)
        await until(lambda: world.cache.followers == 49)
        return {"items": [1]}

    async def call(place):
        value = await world.cache.get_or_load("k", load)
        value["items"].append(place)
        return value

    results = await in_parallel(50, call)

    assert results == [{"items": [1, place]} for place in range(50)]
    assert calls == [1]
    assert await world.cache.get("k") == {"items": [1]}
    assert world.cache.stats().shared == 49
    assert world.trace.count("FillCells") == 1


@pytest.mark.timing
@runs(compare="store")
async def test_followers_get_the_leaders_exception(world):
    calls = []

    async def fail():
        calls.append(1)
        raise LookupError("nobody")

    async def call(_):
        try:
            await world.cache.get_or_load("k", fail)
        except LookupError as error:
            return str(error)

    # Who joined before the loader began has its exception; who came later loads for itself.
    assert await together(world, "k", 10, call) == ["nobody"] * 10
    assert calls == [1]
    assert world.raw.read() == {}


@pytest.mark.timing
@runs(compare="store")
async def test_each_follower_of_a_load_that_failed_has_an_exception_of_its_own(world):
    """S16: what one caller does, holds or handles is in nobody else's traceback, however many there are."""

    async def fail():
        raise LookupError("nobody")

    async def call(place):
        cookie = f"cookie of {place}"
        try:
            raise PermissionError(cookie)
        except PermissionError:
            try:
                await world.cache.get_or_load("k", fail)
            except LookupError as error:
                error.add_note(cookie)
                return error, traceback.format_exc(), _cookies(error)

    answers = await together(world, "k", 10, call)

    assert len({id(error) for error, _, _ in answers}) == 10
    sizes = set()
    for place, (error, text, cookies) in enumerate(answers):
        assert set(re.findall(r"cookie of \d", text)) == {f"cookie of {place}"}
        assert cookies == {f"cookie of {place}"}
        assert error.__notes__ == [f"cookie of {place}"]
        sizes.add(len(text))
    assert len(sizes) <= 2, "the leader's, and the followers'"
    causes = [type(error.__cause__) for error, _, _ in answers]
    assert (causes.count(LookupError), causes.count(type(None))) == (9, 1)


def _cookies(error):
    """What the frames of a traceback know of cookies, in all that it comes from."""
    found, todo, seen = set(), [error], set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        tb = each.__traceback__
        while tb is not None:
            cookie = tb.tb_frame.f_locals.get("cookie")
            found |= {cookie} if isinstance(cookie, str) else set()
            tb = tb.tb_next
    return found


@pytest.mark.timing
@runs(compare="store")
async def test_followers_of_a_value_that_cannot_be_stored_get_copies(world):
    calls = []

    async def load():
        calls.append(1)
        return {1, 2}

    results = await together(world, "k", 10, lambda _: world.cache.get_or_load("k", load))

    assert results == [{1, 2}] * 10
    assert len({id(value) for value in results}) == 10
    assert calls == [1]
    assert len(world.take_log()) == 1


@runs(compare="store")
async def test_a_caller_that_came_after_an_invalidation_does_not_get_the_old_load(world):
    """S1: the follower joined while the loader ran, and the fill was refused."""
    calls = []
    is_invalidated = anyio.Event()

    async def load():
        calls.append("load")
        if len(calls) > 1:
            return "new"
        await world.cache.invalidate("k")
        is_invalidated.set()
        await until(lambda: world.cache.followers == 1)
        return "old"

    async def call(place):
        if place:
            await is_invalidated.wait()
        return await world.cache.get_or_load("k", load)

    assert await in_parallel(2, call) == ["old", "new"]
    assert len(calls) == 2
    assert await world.cache.get("k") == "new"


@pytest.mark.timing
@runs(compare=None)  # which of the two is stored is left open
async def test_callers_of_other_types_do_not_share_a_load(world):
    async def load():
        await until(lambda: len(started) == 2)
        return 1

    started = []

    def noting(type):
        async def noted():
            started.append(type)
            return await load()

        return noted

    types = [int, float]
    policy = Policy(wait_s=0.05)
    results = await in_parallel(
        2, lambda place: world.cache.get_or_load("k", noting(types[place]), type=types[place], policy=policy)
    )

    assert results == [1, 1.0]
    assert [type(value) for value in results] == types


@runs()
async def test_a_loader_that_asks_for_its_own_key_is_refused(world):
    async def load():
        return await world.cache.get_or_load("k", never)

    with pytest.raises(RecursiveLoadError, match="asks the cache for that very key"):
        await world.cache.get_or_load("k", load)

    assert world.raw.read() == {}
    assert await world.cache.get_or_load("k", loading("again")) == "again"


def needing_each_other(world, names):
    """A loader for each name, which asks for the next one when all of them run."""
    running = []

    def loader(name, needed):
        async def load():
            running.append(name)
            await until(lambda: len(running) == len(names))
            return [name, await world.cache.get_or_load(needed, loading(f"{needed} alone"))]

        return load

    return [loader(name, names[(place + 1) % len(names)]) for place, name in enumerate(names)]


@pytest.mark.parametrize("names", [("page", "menu"), ("a", "b", "c"), tuple("abcdefg")], ids=len)
@runs(compare=None)
async def test_loaders_that_need_each_other_do_not_wait_for_each_other(world, names):
    """Whoever would close the circle loads by itself, and stores nothing; the others have their values."""
    loaders = needing_each_other(world, names)
    with anyio.fail_after(20):  # without the mend they wait for `wait_s`
        found = await in_parallel(len(names), lambda n: world.cache.get_or_load(names[n], loaders[n]))
    [last] = [each for each in found if each[1] == f"{names[(names.index(each[0]) + 1) % len(names)]} alone"]
    for name, value in zip(names, found, strict=True):
        needed = (names.index(name) + 1) % len(names)
        assert value == [name, f"{names[needed]} alone" if value is last else found[needed]]
    assert await world.cache.get_many(names) == dict(zip(names, found, strict=True))


@runs(compare=None)
async def test_loaders_of_two_caches_that_need_each_other_do_not_wait_for_each_other(world):
    caches = [world.cache, world.open()]
    running = []

    def load(place):
        async def load():
            running.append(place)
            await until(lambda: len(running) == 2)
            needed = 1 - place
            return [place, await caches[needed].get_or_load(f"k{needed}", loading("alone"))]

        return load

    with anyio.fail_after(20):
        found = await in_parallel(2, lambda n: caches[n].get_or_load(f"k{n}", load(n)))
    assert found in ([[0, [1, "alone"]], [1, "alone"]], [[0, "alone"], [1, [0, "alone"]]])


@runs(compare=None)
async def test_a_batch_and_a_load_that_need_each_other_do_not_wait_for_each_other(world):
    """A batch is waited for by its leases."""
    running = []

    async def run(name):
        running.append(name)
        await until(lambda: len(running) == 2)

    async def load_many(keys):
        await run("batch")
        part = await world.cache.get_or_load("part", loading("part alone"))
        return {key: [key, part] for key in keys}

    async def load_part():
        await run("part")
        [whole] = (await world.cache.get_or_load_many(["b"], alone)).values()
        return ["part", whole]

    async def alone(keys):
        return {key: f"{key} alone" for key in keys}

    calls = [
        lambda: world.cache.get_or_load_many(["a", "b"], load_many),
        lambda: world.cache.get_or_load("part", load_part),
    ]
    with anyio.fail_after(20):
        batch, part = await in_parallel(2, lambda n: calls[n]())
    if part == ["part", "b alone"]:
        assert batch == {"a": ["a", part], "b": ["b", part]}
    else:
        assert batch == {"a": ["a", "part alone"], "b": ["b", "part alone"]}
        assert part == ["part", batch["b"]]


@runs()
async def test_a_loader_may_ask_for_another_key(world):
    async def outer():
        return [await world.cache.get_or_load("inner", loading(1)), await world.cache.get("outer")]

    assert await world.cache.get_or_load("outer", outer) == [1, None]
    assert await world.cache.get_many(["inner", "outer"]) == {"inner": 1, "outer": [1, None]}


@runs()
async def test_plain_functions_are_loaders_everywhere(world):
    threads = []

    def load():
        threads.append(threading.get_ident())
        return "plain"

    assert await world.cache.get_or_load("k", load) == "plain"
    assert threads[0] != threading.get_ident(), "it may block, so it does not run in the event loop"


@runs()
async def test_statistics_balance(world):
    """B3: every request is a hit, a stale hit or a miss with one reason."""
    await world.cache.get_or_load("a", loading(1))
    await world.cache.get_or_load("a", never)
    await world.cache.get("b")
    await world.cache.get_many(["a", "b", "c"])
    before = world.cache.stats()
    await world.cache.get("a")
    stats = world.cache.stats()

    assert (stats - before).total_requests == (stats - before).redis_hits == 1
    assert stats.total_requests == stats.redis_hits + stats.stale_hits + stats.redis_misses == 7
    assert stats.misses == {MissReason.ABSENT: 4}
    assert (stats.loads, stats.stored) == (1, 1)
    assert round(stats.hit_rate, 1) == 42.9


# Round trips, counted at the server.


async def sent_by(world, server, call):
    """The names of the commands that clients send while a call runs; wake-ups go along with others."""
    with server.monitor() as monitor:
        await call()
        monitor.sync()
        own = [words for words in monitor.commands if any(world.namespace in each for each in words)]
        return [words[0].lower() for words in own if words[0].lower() != "publish"]


@runs_in(OWN_SERVER, compare=None)
async def test_round_trips_are_as_few_as_promised(world, redis_server):
    """A hit takes one, a miss three; a batch as many as one key, whatever its size up to a chunk."""
    cache = world.cache
    many = {f"user:{n}": n for n in range(100)}
    await cache.get_or_load("warm", loading(1))
    await cache.set_many({"scripts": 1})

    assert await sent_by(world, redis_server, lambda: cache.get("warm")) == ["get"]
    assert await sent_by(world, redis_server, lambda: cache.get_or_load("warm", never)) == ["get"]
    missed = await sent_by(world, redis_server, lambda: cache.get_or_load("cold", loading(1)))
    fill = "set" if can_compare(redis_server.client()) else "evalsha"
    assert missed == ["get", "evalsha", fill]
    assert await sent_by(world, redis_server, lambda: cache.set("warm", 2)) == ["evalsha", fill]
    assert await sent_by(world, redis_server, lambda: cache.get_many(many)) == ["mget"]
    assert await sent_by(world, redis_server, lambda: cache.invalidate(*many)) == ["unlink"]


@runs_in(OWN_SERVER, compare=None)
async def test_a_large_value_is_sent_once_also_to_a_server_that_knows_no_script(world, redis_server):
    """Faults 6 and 7."""
    value, client = "x" * 400_000, redis_server.client()
    for key in ("first", "second"):
        client.script_flush()
        before = client.info("stats")["total_net_input_bytes"]
        assert await world.cache.set(key, value)
        assert client.info("stats")["total_net_input_bytes"] - before < 1.5 * len(value)


@runs_in(ON_SERVER, compare=None)
async def test_a_batch_is_one_round_trip_whatever_its_size(world):
    cache = world.cache
    for size in (1, 100, 500):
        before = len(world.trace.facts)
        many = {f"user:{n}": n for n in range(size)}
        assert await cache.set_many(many) == dict.fromkeys(many, True)
        assert await cache.get_many(many) == many
        assert (await cache.invalidate(*many)).done == size
        assert world.trace.names_but_pings(before) == [
            "HoldCells",
            "FillCells",
            "ReadCells",
            "DeleteKeys",
        ]


# Plain loaders that give something to await.

ON_LOOPS = tuple(place for place in EVERYWHERE if place.runtime != "sync")


async def find(what, *given):
    await anyio.lowlevel.checkpoint()
    if what == "error":
        raise LookupError(what)
    return dict.fromkeys(given[0], what) if given else what


class Finder:
    async def __call__(self, *given):
        return await find("found", *given)


class Later:
    """Can be awaited, and is no coroutine."""

    def __init__(self, *given):
        self._given = given

    def __await__(self):
        return find("found", *self._given).__await__()


FINDERS = {
    "lambda": lambda *given: find("found", *given),
    "partial": partial(find, "found"),
    "partial of a plain one": partial(lambda what, *given: find(what, *given), "found"),
    "object": Finder(),
    "awaitable": Later,
}


@pytest.mark.parametrize("way", FINDERS)
@runs_in(ON_LOOPS, compare=None)
async def test_what_a_plain_loader_gives_to_await_is_awaited(world, way):
    """`lambda: database.user(1)`."""
    loader = FINDERS[way]
    assert await world.cache.get_or_load("k", lambda: loader()) == "found"
    assert await world.cache.get_or_load("l", loader) == "found"
    assert await world.cache.get_or_load_many(["a", "b"], loader) == {"a": "found", "b": "found"}
    assert await world.cache.get_many(["k", "l", "a", "b"]) == dict.fromkeys("klab", "found")


@runs_in(ON_LOOPS, compare=None)
async def test_what_it_raises_when_it_is_awaited_is_the_loaders_own(world):
    with pytest.raises(LookupError):
        await world.cache.get_or_load("k", lambda: find("error"))
    with pytest.raises(LookupError):
        await world.cache.get_or_load_many(["k"], lambda keys: find("error", keys))
    assert world.raw.read() == {}
    assert world.cache.stats().load_failures == 2


# Two names of one key.


@runs()
async def test_two_names_of_one_key_cannot_have_two_values(world):
    built = world.cache.key.build("user", 1)
    with pytest.raises(InvalidKeyError, match="name one entry"):
        await world.cache.set_many({"user:1": "one", built: "another"})
    assert world.raw.read() == {}
    assert await world.cache.set_many({built: "one", "user:2": "two"}) == {built: True, "user:2": True}
