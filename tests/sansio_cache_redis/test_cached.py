"""Decorated functions, on threads, asyncio and trio."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pickle
import sys
import typing
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from sansio_cache import Absent, CacheClosedError, ConfigurationError, Fresh, InvalidKeyError, Policy
from sansio_cache_redis import anyio as async_cache
from sansio_cache_redis import sync as blocking

BACKENDS = ["asyncio", "trio"]


@attrs.frozen
class User:
    id: int
    name: str


def open_cache(**options):
    return blocking.Cache.from_url("memory://", namespace="shop", **options)


def open_async(**options):
    return async_cache.Cache.from_url("memory://", namespace="shop", **options)


@pytest.fixture
def calls():
    return []


@pytest.fixture
def cache():
    with open_cache() as cache:
        yield cache


@pytest.fixture
def user(cache, calls):
    @cache.cached("user:{id}", ttl=60, tags=["users"])
    def user(id: int) -> User:
        """A user."""
        calls.append(id)
        return User(id, "Ann")

    return user


def test_a_parameter_that_is_nowhere_in_the_key_is_refused(cache):
    with pytest.raises(ConfigurationError, match=r"parameter 'name' of .*user is not part of the key"):

        @cache.cached("user:{id}")
        def user(id: int, name: str = "Ann") -> User:
            return User(id, name)


class Opaque:
    """Msgspec does not know what is in it."""


def test_a_function_that_gives_what_cannot_be_stored_is_refused_when_it_is_decorated(cache):
    with pytest.raises(
        ConfigurationError, match=r"what .*opaque gives cannot be stored: type=list .*Opaque has no faithful"
    ):

        @cache.cached("opaque:{id}")
        def opaque(id: int) -> list[Opaque]:
            return [Opaque()]


def test_one_that_was_decorated_before_there_was_a_cache_is_refused_when_it_is_bound():
    cached = blocking.Cached()

    @cached("opaque:{id}")
    def opaque(id: int) -> Opaque:
        return Opaque()

    with open_cache() as cache, pytest.raises(ConfigurationError, match="Opaque has no faithful JSON form"):
        cached.bind(cache)


FURTHER_DOWN = """
from __future__ import annotations

import attrs
import pydantic

from sansio_cache_redis.sync import Cache

cache = Cache.from_url("memory://", namespace="shop")


@attrs.frozen
class Page:
    rows: list[Row]


class Model(pydantic.BaseModel):
    rows: list[Row]


@cache.cached()
def row() -> Row:
    return Row(1)


@cache.cached()
def page() -> Page:
    return Page([Row(2)])


@cache.cached()
def model() -> Model:
    return Model(rows=[Row(3)])


class Row(pydantic.RootModel[int]):
    pass
"""


def test_a_class_that_is_defined_further_down_is_read_at_the_first_call(tmp_path, monkeypatch):
    (tmp_path / "further_down.py").write_text(FURTHER_DOWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    program = importlib.import_module("further_down")
    with program.cache:
        assert [program.row().root for _ in range(2)] == [1, 1]
        assert [program.model().rows[0].root for _ in range(2)] == [3, 3]
        with pytest.raises(ConfigurationError, match=r"type=Page cannot be cached: Row has no faithful"):
            program.page()  # pydantic does not read attrs classes


def test_the_first_call_loads_and_the_others_read(user, calls):
    assert user(7) == user(id=7) == User(7, "Ann")
    assert calls == [7]


@pytest.mark.parametrize(
    "take_away",
    [
        lambda cache, user: user.invalidate(7),
        lambda cache, user: cache.invalidate(cache.key.build("user", 7)),
        lambda cache, user: cache.delete_pattern(cache.key.pattern("user")),
        lambda cache, user: cache.invalidate(tags=["users"]),
        lambda cache, user: user.refresh(7),
    ],
    ids=["invalidate", "build", "pattern", "tag", "refresh"],
)
def test_what_was_stored_goes_by_every_name_that_it_has(cache, user, calls, take_away):
    user(7)
    take_away(cache, user)
    user(7)
    assert calls == [7, 7]


def test_a_block_that_writes_takes_the_call_away_at_its_end(user, calls):
    user(7)
    with user.invalidating(7):
        assert user(7)
        assert calls == [7]
    user(7)
    assert calls == [7, 7]


def test_the_function_itself_is_there_and_the_key(cache, user, calls):
    assert user.uncached(7) == User(7, "Ann")
    assert user.key(7) == cache.key.build("user", 7)
    assert cache.stats().total_requests == 0
    assert (user.__name__, user.__doc__) == ("user", "A user.")
    assert list(inspect.signature(user).parameters) == ["id"]
    assert repr(user).endswith("user>")


def test_many_loads_what_is_missing_and_reads_the_rest(user, calls):
    user(1)
    assert user.many([1, 2, 3]) == {each: User(each, "Ann") for each in (1, 2, 3)}
    assert calls == [1, 2, 3]
    assert user.many([]) == {}
    with pytest.raises(InvalidKeyError, match="list of arguments"):
        user.many("abc")


def test_nothing_is_none_and_a_life_of_its_own_is_kept(cache, calls):
    @cache.cached("user:{id}", ttl=60)
    def user(id: int) -> Fresh[User] | Absent:
        calls.append(id)
        return Absent() if id == 0 else Fresh(User(id, "Ann"), ttl=5)

    assert user(0) is None
    assert user(0) is None
    assert user(1) == user(1) == User(1, "Ann")
    assert user.many([0, 1]) == {1: User(1, "Ann")}
    assert calls == [0, 1]


class Shop:
    def __init__(self, id: int) -> None:
        self.id = id


def test_methods_class_methods_and_static_methods(cache, calls):
    class Shelf(Shop):
        @cache.cached("shelf:{self.id}:{place}")
        def item(self, place: int) -> int:
            calls.append(("item", self.id, place))
            return place

        @cache.cached("kinds:{id}", ignore=["cls"])
        @classmethod
        def kind(cls, id: int) -> str:
            calls.append((cls.__name__, id))
            return cls.__name__

        @cache.cached("alone:{id}")
        @staticmethod
        def alone(id: int) -> int:
            calls.append(("alone", id))
            return id

    one, two = Shelf(1), Shelf(2)
    assert one.item(5) == one.item(place=5) == two.item(5) == 5
    assert calls == [("item", 1, 5), ("item", 2, 5)]
    one.item.invalidate(5)
    assert Shelf.item.key(one, 5) == one.item.key(5) == "shop:shelf:1:5"
    assert one.item.many([5, 6]) == {5: 5, 6: 6}
    assert list(inspect.signature(one.item).parameters) == ["place"]
    calls.clear()
    assert Shelf.kind(1) == one.kind(1) == "Shelf"
    assert Shelf.alone(1) == one.alone(1) == 1
    assert calls == [("Shelf", 1), ("alone", 1)]
    Shelf.kind.invalidate(1)
    assert one.kind.uncached(1) == "Shelf"


def test_below_classmethod_it_is_refused(cache):
    with pytest.raises(ConfigurationError, match="above @classmethod"):

        class Shelf:
            @classmethod
            @cache.cached("kinds:{id}", ignore=["cls"])
            def kind(cls, id: int) -> str:
                return cls.__name__


def test_a_changed_return_type_is_a_miss_and_never_a_wrong_value(cache):
    def old(id: int) -> int:
        return id

    def new(id: int) -> str:
        return str(id)

    assert cache.cached("thing:{id}")(old)(1) == 1
    assert cache.cached("thing:{id}")(new)(1) == "1"


def test_without_parentheses_and_with_a_coroutine_function_it_says_what_to_write(cache):
    async def later(id: int) -> int:
        return id

    with pytest.raises(ConfigurationError, match="takes a template"):
        cache.cached(later)
    with pytest.raises(ConfigurationError, match="coroutine function"):
        cache.cached("later:{id}")(later)


def test_a_request_is_not_kept_by_a_refresh(cache):
    stale = Policy(ttl=60, stale_for_s=60)

    def page(name: str, request: object) -> str:
        return name

    with pytest.raises(ConfigurationError, match="refresh_with_ignored"):
        cache.cached("page:{name}", ignore=["request"], policy=stale)(page)
    with pytest.raises(ConfigurationError, match="refresh_with_ignored"), open_cache(policy=stale) as other:
        other.cached("page:{name}", ignore=["request"])(page)
    asked_for = cache.cached("page:{name}", ignore=["request"], policy=stale, refresh_with_ignored=True)(page)
    assert asked_for("a", object()) == asked_for("a", object()) == "a"


later_bound = blocking.Cached()


@later_bound("square:{n}")
def square(n: int) -> int:
    return n * n


def test_functions_may_be_decorated_before_there_is_a_cache():
    with pytest.raises(ConfigurationError, match=r"square has no cache yet: call bind\(cache\)"):
        square(3)
    with open_cache() as cache:
        later_bound.bind(cache)
        assert square(3) == square(3) == 9
        assert cache.stats().loads == 1
    with open_cache() as another:
        later_bound.bind(another)
        assert square(3) == 9
        assert another.stats().loads == 1
    assert pickle.loads(pickle.dumps(square)) is square


def test_binding_to_a_cache_whose_policy_does_not_suit_is_refused():
    cached = blocking.Cached()

    @cached("page:{name}", ignore=["request"])
    def page(name: str, request: object) -> str:
        return name

    with open_cache(policy=Policy(ttl=60, stale_for_s=60)) as cache:
        with pytest.raises(ConfigurationError, match="refresh_with_ignored"):
            cached.bind(cache)
        with pytest.raises(ConfigurationError, match="no cache yet"):
            page("a", None)


# Under an event loop.


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_an_event_loop_it_does_the_same(backend, calls):
    cached = async_cache.Cached()

    @cached("user:{id}", tags=["users"])
    async def user(id: int) -> User:
        calls.append(id)
        return User(id, "Ann")

    @cached("plain:{id}")
    def plain(id: int) -> int:
        return id

    class Shelf(Shop):
        @cached("shelf:{self.id}:{place}")
        async def item(self, place: int) -> int:
            return place

        @cached("kinds:{id}", ignore=["cls"])
        @classmethod
        async def kind(cls, id: int) -> str:
            return cls.__name__

    async def main():
        with pytest.raises(ConfigurationError, match="no cache yet"):
            await user(7)
        async with open_async() as cache:
            cached.bind(cache)
            assert await user(7) == await user(id=7) == User(7, "Ann")
            assert calls == [7]
            assert (await user.invalidate(7)).done
            assert await user.refresh(7) == User(7, "Ann")
            assert calls == [7, 7]
            async with user.invalidating(7):
                assert await user.uncached(7) == User(7, "Ann")
            assert await user.many([7, 8]) == {7: User(7, "Ann"), 8: User(8, "Ann")}
            assert sorted(calls) == [7, 7, 7, 7, 8]
            assert user.key(7) == cache.key.build("user", 7)
            assert await plain(1) == await plain.uncached(1) == 1
            assert await Shelf(1).item(5) == 5
            assert await Shelf.kind(1) == "Shelf"
            assert (await cache.invalidate(tags=["users"])).done
            await cache.delete_pattern(cache.key.pattern("user"))
            await user(8)
            assert calls[-1] == 8

    anyio.run(main, backend=backend)


def of_x(x: int) -> int:
    return x


def test_under_an_event_loop_it_is_a_coroutine_function_to_everybody():
    cached = async_cache.Cached()

    @cached("user:{id}")
    async def user(id: int) -> int:
        return id

    @cached("plain:{id}")
    def plain(id: int) -> int:
        return id

    for each in (user, plain):
        assert inspect.iscoroutinefunction(each)
        assert asyncio.iscoroutinefunction(each)
        assert inspect.iscoroutinefunction(each.__call__)
        assert list(inspect.signature(each).parameters) == ["id"]
    assert not inspect.iscoroutinefunction(blocking.Cached()("x:{x}")(of_x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_a_batch_is_left_running_where_one_call_fails(backend):
    ended: list[Any] = []

    async def main():
        async with open_async() as cache:

            @cache.cached("n:{n}")
            async def odd(n: int) -> int:
                if n == 3:
                    raise ZeroDivisionError
                try:
                    await anyio.sleep_forever()
                finally:
                    ended.append(n)

            with pytest.raises(ZeroDivisionError):
                await odd.many([1, 2, 3])

    anyio.run(main, backend=backend)
    assert sorted(ended) in ([], [1, 2])  # or they had not begun


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="class methods do not ask what they are around there")
def test_below_a_class_method_it_is_refused_whatever_the_receiver_is_called(cache):
    class Shop:
        @classmethod
        @cache.cached("item:{id}", ignore=["kind"])
        def item(kind, id: int) -> int:  # noqa: N804 - the name would be known
            return id

    with pytest.raises(
        ConfigurationError, match=r"put cached\(\) above @classmethod, and not below it: .*item"
    ):
        _ = Shop.item


def test_without_a_template_the_pattern_of_the_name_takes_calls_away(cache, calls):
    @cache.cached()
    def item(id: int) -> int:
        calls.append(id)
        return id

    assert item(7) == item(7) == 7
    assert cache.delete_pattern(cache.key.pattern("item")).deleted == 1
    item(7)
    assert calls == [7, 7]


def test_frameworks_find_the_names_of_annotations_where_the_function_finds_them(user):
    assert user.__globals__ is globals()
    assert typing.get_type_hints(user.__wrapped__) == {"id": int, "return": User}


def test_none_is_nothing_to_a_decorated_function(cache, calls):
    @cache.cached("nobody:{id}")
    def nobody(id: int) -> User | None:
        calls.append(id)
        return None

    assert nobody(1) is nobody(1) is None
    assert calls == [1]
    assert cache.get("nobody:1", "default", type=User) == "default"
    assert nobody.many([1, 2]) == {}


@pytest.mark.parametrize("other", ["x", None])
@pytest.mark.parametrize(("module", "name"), [(blocking, "sync"), (async_cache, "anyio")])
def test_functions_are_bound_to_a_cache_of_their_colour_only(module, name, other):
    wrong = other or (async_cache if module is blocking else blocking).Cache.from_url(
        "memory://", namespace="a"
    )
    for each in (wrong, other):
        with pytest.raises(ConfigurationError, match=f"takes a Cache of sansio_cache_redis.{name}"):
            module.Cached().bind(each)


def test_a_cache_that_is_closed_is_not_entered(cache):
    cache.close()
    with pytest.raises(CacheClosedError), cache:
        pass

    async def enter_closed():
        later = open_async()
        await later.aclose()
        with pytest.raises(CacheClosedError):
            async with later:
                pass

    anyio.run(enter_closed)


def test_a_subclass_is_named_in_its_repr():
    class My(blocking.Cache):
        pass

    with My.from_url("memory://", namespace="shop") as cache:
        assert ".My namespace='shop'>" in repr(cache)
