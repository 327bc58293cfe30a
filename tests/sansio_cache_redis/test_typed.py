"""Typed views, on both caches, three runtimes and both stores: what their values are is said once."""

import copy
import inspect
import pickle
from dataclasses import dataclass
from decimal import Decimal

import pytest

from sansio_cache import Absent, ConfigurationError, Fresh, NotStoredError, Policy, SerializationError
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis import sync as blocking
from support.runtimes import never, runs


@dataclass
class User:
    name: str


@dataclass
class Order:
    number: int


async def load_user(id):
    return User(f"user {id}")


async def load_users(where, keys):
    return {key: User(f"{key} {where}") for key in keys}


@runs()
async def test_what_a_view_loads_is_what_the_cache_reads_with_the_type(world):
    users = world.cache.typed(User)

    assert await users.get("user:7") is None
    assert await users.get("user:7", "nobody") == "nobody"
    assert await users.get_or_load("user:7", load_user, 7, ttl=60) == User("user 7")
    assert await users.get("user:7") == User("user 7")
    assert await world.cache.get("user:7", type=User) == User("user 7")
    assert await world.cache.typed(Order).get("user:7") is None


@runs()
async def test_what_a_view_stores_is_read_by_it(world):
    users = world.cache.typed(User)

    assert await users.set(users.key.build("user", 1), User("Ada"), ttl=60)
    assert await users.set_many({"user:2": User("Grace")}) == {"user:2": True}
    assert await users.get_many(["user:1", "user:2", "user:3"]) == {
        "user:1": User("Ada"),
        "user:2": User("Grace"),
    }
    loaded = await users.get_or_load_many(["user:2", "user:3"], load_users, "of here")
    assert loaded == {"user:2": User("Grace"), "user:3": User("user:3 of here")}
    with pytest.raises(SerializationError, match=r"User"):
        await users.set("user:1", Order(1))


@runs()
async def test_what_a_view_changes_is_of_its_type(world):
    users, counts = world.cache.typed(User), world.cache.typed(Decimal)

    assert await users.add("user:1", User("Ada"), ttl=60)
    assert not await users.add("user:1", User("Grace"))
    found = await users.lookup("user:1")
    assert (found.value, found.is_fresh) == (User("Ada"), True)
    later = await users.swap("user:1", User("Grace"), version=found.version)
    assert await users.swap("user:1", User("nobody"), version=found.version) is None
    assert (await users.lookup("user:1")).version == later
    assert await users.update("user:1", lambda user: User(user.name.upper())) == User("GRACE")
    with pytest.raises(SerializationError, match=r"User"):
        await users.update("user:1", lambda _: Order(1))
    await counts.set("paid", Decimal("1.10"))
    assert await counts.incr("paid", Decimal("0.20")) == Decimal("1.30")
    assert await counts.incr("paid") == Decimal("2.30")


@runs()
async def test_what_a_view_invalidates_is_gone(world):
    users = world.cache.typed(User)
    await users.set_many({"user:1": User("a"), "user:2": User("b"), "user:3": User("c")}, tags=["users"])

    assert (await users.invalidate("user:1")).done == 1
    async with users.invalidating("user:2"):
        assert await users.get("user:2") == User("b")
    assert await users.get_many(["user:1", "user:2", "user:3"]) == {"user:3": User("c")}
    await users.invalidate(tags=["users"])
    assert await users.get("user:3") is None


@runs(policy=Policy(ttl=60, jitter=NO_JITTER, stale_for_s=600))
async def test_what_a_view_makes_stale_is_no_value_of_get(world):
    users = world.cache.typed(User)
    await users.set("user:1", User("a"))

    assert (await users.expire("user:1")).done == 1
    assert await users.get("user:1") is None


def test_a_type_that_cannot_be_stored_is_refused_where_the_view_is_made():
    with (
        blocking.Cache.from_url("memory://", namespace="shop") as cache,
        pytest.raises(ConfigurationError, match="cannot be cached"),
    ):
        cache.typed(object)


def test_a_view_travels_as_its_cache_does():
    with blocking.Cache.from_url("redis://localhost:1", namespace="shop") as cache:
        users = cache.typed(User)
        for again in (pickle.loads(pickle.dumps(users)), copy.deepcopy(users)):
            with again._cache as other:
                assert other is not cache
                assert repr(again) == repr(users) == f"<User in {cache!r}>"
                assert isinstance(again, blocking.Typed)

    with (
        blocking.Cache.from_url("memory://", namespace="shop") as cache,
        pytest.raises(ConfigurationError, match="memory://"),
    ):
        pickle.dumps(cache.typed(User))


@runs()
async def test_a_loader_of_a_view_is_not_called_for_what_is_there(world):
    users = world.cache.typed(User)
    await users.set("user:1", User("Ada"))

    assert await users.get_or_load("user:1", never) == User("Ada")


@pytest.mark.parametrize("name", [name for name in vars(blocking.Typed) if not name.startswith("_")])
def test_a_view_takes_whatever_its_cache_takes(name):
    """But the type, which it knows."""
    wanted, given = (inspect.signature(getattr(cls, name)) for cls in (blocking.Cache, blocking.Typed))
    assert list(given.parameters) == [each for each in wanted.parameters if each != "type"]


@runs()
async def test_a_view_renews_and_is_strict_as_its_cache(world):
    users = world.cache.typed(User)

    assert await users.set("user:1", User("Ada"), ttl=60, strict=True)
    assert await users.get("user:1", renew=600) == User("Ada")
    assert (await users.lookup("user:1")).remaining_s > 300
    with pytest.raises(NotStoredError):
        await users.set("user:2", User("Grace"), ttl=0, strict=True)
    with pytest.raises(NotStoredError):
        await users.set_many({"user:2": User("Grace")}, ttl=0, strict=True)
    assert await users.invalidate("user:1")  # its life is another than its fill said


@runs()
async def test_what_is_given_in_the_wrong_place_is_told_from_what_is_meant(world):
    """What a loader gives, to a write; the name of a class, for the class; a value, to change another."""
    cache = world.cache
    for given in (Fresh(1, ttl=5), Absent(), Absent(ttl=5), Fresh(User("Ada"), ttl=5)):
        for type_ in (None, int, User):
            with pytest.raises(SerializationError, match="is what a loader gives: in a write"):
                await cache.set("k", given, type=type_)
    with pytest.raises(
        ConfigurationError, match="type='User' cannot be cached: it is a text; give the class itself"
    ):
        await cache.get("k", type="User")
    with pytest.raises(
        ConfigurationError, match="type='User' cannot be cached: it is a text; give the class itself"
    ):
        cache.typed("User")
    with pytest.raises(ConfigurationError, match="what changes a value is a function; got int"):
        await cache.update("k", 5)
