"""What type checkers say in a project that has installed the wheel: `nox -s types`. It is never run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NewType, Optional, TypeVar, Union, assert_type

from sansio_cache import (
    Absent,
    CacheConfig,
    CacheStats,
    Fresh,
    Key,
    KeyBuilder,
    LoadContext,
    Pattern,
    RefreshAhead,
    WriteThrough,
)
from sansio_cache.notices import Hit, Loaded, Missed, Notice
from sansio_cache_opentelemetry import instrument
from sansio_cache_prometheus import alert_rules, dashboard, export
from sansio_cache_redis import Explanation
from sansio_cache_redis import anyio as async_cache
from sansio_cache_redis import sync as sync_cache
from sansio_cache_runtime.anyio.cache import Cache as AnyioCache
from sansio_cache_runtime.anyio.entity import Entity as AsyncEntity
from sansio_cache_runtime.backend import AnyioBackend, SyncBackend
from sansio_cache_runtime.entity import EntityMutation
from sansio_cache_runtime.results import InvalidateResult, PatternResult, WriteResult
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.cache import Cache as SyncCache
from sansio_cache_runtime.sync.entity import Entity

T = TypeVar("T")
UserId = NewType("UserId", int)


@dataclass
class User:
    name: str


@dataclass
class Team:
    id: int


def hear(notice: Notice) -> None:
    assert isinstance(notice, Hit)


def hear_missed(notice: Missed | Loaded) -> str:
    return notice.key


def load_user() -> User:
    return User("Ada")


async def load_user_later() -> User:
    return User("Ada")


def load_user_of(id: int, where: str = "") -> User:
    return User(f"{where}{id}")


async def load_later_of(id: int) -> User:
    return User(str(id))


def load_fresh(id: int) -> Fresh[User]:
    return Fresh(User(str(id)), ttl=60)


def load_in_context(id: int, context: LoadContext) -> User:
    return User(f"{context.key}{id}")


def find_user(id: int) -> User | None:
    return User(str(id)) if id else None


def load_or_absent(id: int) -> User | Absent:
    return User(str(id)) if id else Absent()


def load_fresh_or_absent(id: int) -> Fresh[User] | Absent:
    return Fresh(User(str(id)), ttl=60) if id else Absent()


def load_for(kind: type[T], load: Callable[[], T], cache: sync_cache.Cache) -> T:
    return cache.get_or_load("of any type", load, type=kind)


def load_users(database: str, keys: list[str]) -> dict[str, User]:
    return {key: User(database) for key in keys}


def load_thing(database: str, id: int) -> User:
    return User(f"{database}{id}")


def load_things(database: str, ids: list[int]) -> dict[int, User]:
    return {each: User(database) for each in ids}


def from_older(older: dict[str, Any]) -> User:
    return User(older["full_name"])


def decorating(cache: sync_cache.Cache) -> None:
    @cache.cached("user:{id}:{where}", ttl=60)
    def user(id: int, where: str = "") -> User:
        return User(f"{where}{id}")

    @cache.cached("fresh:{id}")
    def fresh(id: int) -> Fresh[User] | Absent:
        return Fresh(User(str(id)), ttl=60)

    @cache.cached("one:{id}")
    def one(id: int) -> User:
        return User(str(id))

    class Shop:
        id = 1

        @cache.cached("shop:{self.id}:{id}")
        def item(self, id: int) -> User:
            return User(str(id))

        @cache.cached("kinds:{id}", ignore=["cls"])
        @classmethod
        def kind(cls, id: int) -> User:
            return User(str(id))

    assert_type(user(7), User)
    assert_type(user(7, where="x"), User)
    assert_type(user.key(7), Key)
    assert_type(user.invalidate(7), InvalidateResult)
    assert_type(user.refresh(7), User)
    assert_type(user.uncached(7), User)
    assert_type(fresh(7), User | None)
    assert_type(one.many([1, 2]), dict[Any, User])
    assert_type(Shop().item(7), User)
    assert_type(Shop().item.invalidate(7), InvalidateResult)
    assert_type(Shop.kind(7), User)
    with user.invalidating(7):
        pass
    user("7")  # type: ignore[arg-type]
    user.invalidate("7")  # type: ignore[arg-type]
    user(7, 8, 9)  # type: ignore[call-arg, arg-type]
    Shop().item("7")  # type: ignore[arg-type]


async def decorating_coroutines(cache: async_cache.Cache, cached: async_cache.Cached) -> None:
    cached.bind(cache)

    @cached("user:{id}", ttl=60)
    async def user(id: int) -> User:
        return User(str(id))

    @cached("plain:{id}")
    def plain(id: int) -> User:
        return User(str(id))

    assert_type(await user(7), User)
    assert_type(await plain(7), User)
    assert_type(await user.invalidate(7), InvalidateResult)
    assert_type(await user.many([1]), dict[Any, User])
    async with user.invalidating(7):
        pass
    await user("7")  # type: ignore[arg-type]


def configuring() -> None:
    CacheConfig(namespace="shop", migrations={User: from_older, list[User]: lambda older: [older]})
    CacheConfig(namespace="shop", migrations={User: "from_older"})  # type: ignore[dict-item]
    sync_cache.Cache.from_url("memory://", namespace="shop", migrations={User: from_older})


def with_stores_of_ones_own(
    make_sync: Callable[[Background], SyncBackend], make_anyio: Callable[[], AnyioBackend]
) -> None:
    assert_type(SyncCache.from_backend(make_sync, namespace="shop"), SyncCache)
    assert_type(AnyioCache.from_backend(make_anyio, namespace="shop"), AnyioCache)
    assert_type(sync_cache.Cache.from_url("memory://", namespace="shop"), sync_cache.Cache)
    SyncCache.from_backend(make_anyio, namespace="shop")  # type: ignore[arg-type]


def blocking(cache: sync_cache.Cache) -> None:
    assert_type(cache.get_or_load("user:1", load_user, type=User), User)
    assert_type(cache.get_or_load("users", list, type=list[User]), list[User])
    assert_type(cache.get_or_load("count", lambda: 1), int)
    assert_type(cache.get_or_load("user:1", load_user_of, 1), User)
    assert_type(cache.get_or_load("user:1", load_user_of, 1, "shop", type=User), User)
    assert_type(cache.get_or_load("user:1", load_fresh, 1), User)
    assert_type(cache.get_or_load("user:1", load_in_context, 1), User)
    assert_type(cache.get_or_load("user:1", load_in_context, 1, type=User), User)
    assert_type(cache.get_or_load("user:1", lambda count: count + 1, 1), int)
    assert_type(cache.get_or_load("user:1", find_user, 1), User | None)
    assert_type(cache.get_or_load("user:1", find_user, 1, type=User), User | None)
    assert_type(cache.get_or_load("user:1", load_or_absent, 1, type=User), User | None)
    assert_type(cache.get_or_load("user:1", load_fresh_or_absent, 1), User | None)
    assert_type(cache.get_or_load("user:1", load_fresh_or_absent, 1, type=User), User | None)
    assert_type(cache.get_or_load("user:1", lambda: load_user_of(1), type=User), User)
    assert_type(cache.get_or_load("user:1", lambda each: find_user(each), 1, type=User), User | None)
    assert_type(cache.get_or_load("user:1", find_user, 1, type=Optional[User]), Any)  # noqa: UP045
    assert_type(cache.get_or_load("id:1", lambda: "a", type=Union[str, int]), Any)  # noqa: UP007
    cache.get_or_load("user:1", load_user_of, 1, type=User | None)
    cache.get_or_load("id:1", lambda: UserId(1), type=UserId)
    cache.get_or_load("user:1", load_user_of)  # type: ignore[call-arg, arg-type]
    cache.get_or_load("user:1", load_user_of, "1")  # type: ignore[arg-type]
    cache.get_or_load("user:1", load_user_of, "1", type=User)  # type: ignore[arg-type]
    cache.get_or_load("user:1", load_user_of, 1, "shop", 2)  # type: ignore[call-arg, arg-type]
    assert_type(cache.get_or_load_many(["user:1"], load_users, "db", type=User), dict[str, User])
    assert_type(cache.get_or_load_many(["user:1"], load_users, "db"), dict[str, Any])
    cache.get_or_load_many(["user:1"], load_users)  # type: ignore[call-arg, arg-type]
    cache.get_or_load_many(["user:1"], load_users, 7)  # type: ignore[arg-type]
    assert_type(cache.get("user:1", type=User), User | None)
    assert_type(cache.get("user:1", 0, type=User), User | int)
    assert_type(cache.get("user:1"), Any)
    assert_type(cache.get_many(["user:1"], type=User), dict[str, User])
    assert_type(cache.set("user:1", User("Ada"), type=User), bool)
    assert_type(cache.invalidate("user:1"), InvalidateResult)
    assert_type(cache.delete_pattern("user:*"), PatternResult)
    assert_type(cache.stats(), CacheStats)
    assert_type(cache.health().maxmemory_bytes, int | None)
    assert_type(cache.subscribe(hear), Callable[[], None])
    assert_type(cache.subscribe(hear_missed, kinds=[Missed, Loaded]), Callable[[], None])
    with cache.explain() as explanation:
        assert_type(explanation, Explanation)
        assert_type(explanation.lines, list[str])
    assert_type(cache.key, KeyBuilder)
    assert_type(cache.key.build("user", 1), Key)
    assert_type(cache.key.pattern("user"), Pattern)
    with cache.mutate("user:1") as mutation:
        mutation.set("user:1", User("Ada"), type=User)
    people = cache.typed(User)
    assert_type(people, sync_cache.Typed[User])
    assert_type(people.get("user:1"), User | None)
    assert_type(people.get("user:1", 0), User | int)
    assert_type(people.get_or_load("user:1", load_user_of, 1), User)
    assert_type(people.get_or_load("user:1", find_user, 1), User | None)
    assert_type(people.get_or_load("user:1", load_fresh, 1), User)
    assert_type(people.get_or_load("user:1", load_in_context, 1), User)
    assert_type(people.get_or_load_many(["user:1"], load_users, "db"), dict[str, User])
    users = cache.entity("user", User)
    assert_type(users, Entity[User])
    assert_type(users.get(1), User | None)
    assert_type(users.get_or_load(1), User)
    assert_type(users.get_or_load(1, load_thing, "db"), User)
    assert_type(users.get_or_load_many([1], load_things, "db"), dict[int, User])
    users.get_or_load(1, load_thing, 7)  # type: ignore[arg-type]
    entities(cache)


def save_user(user: User) -> None:
    pass


def save_user_as(id: int, user: User) -> None:
    pass


async def save_later(user: User) -> None:
    pass


def save_users(users: list[User]) -> None:
    pass


def load_page(query: dict[str, int]) -> list[User]:
    return [User(str(query))]


def load_one(id: int) -> User:
    return User(str(id))


def load_team(id: int) -> Team:
    return Team(id)


def find_users(ids: list[int]) -> dict[int, User | None]:
    return {each: User(str(each)) for each in ids}


def entities(cache: sync_cache.Cache) -> None:
    users = cache.entity(
        "user",
        User,
        id="name",
        loader=load_user_of,
        load_many=find_users,
        writer=save_user,
        write_many=save_users,
        strategy=WriteThrough(),
        ttl=60,
        tags=["people"],
    )
    assert_type(users, Entity[User])
    assert_type(users.get(1), User | None)
    assert_type(users.get(1, 0), User | int)
    assert_type(users.get_many([1, 2]), dict[int, User])
    assert_type(users.get_many(["1"]), dict[str, User])
    assert_type(users.get_or_load(1), User)
    assert_type(users.get_or_load(1, find_user), User | None)
    assert_type(users.get_or_load(1, load_thing, "db"), User)
    assert_type(users.get_or_load_many([1]), dict[int, User])
    assert_type(users.list({"page": 1}, load_page), list[User])
    assert_type(users.refresh(1), User)
    assert_type(users.write(User("Ada")), WriteResult)
    assert_type(users.write(1, User("Ada")), WriteResult)
    assert_type(users.write(User("Ada"), id=1, ttl=60), WriteResult)
    assert_type(users.write_many([User("Ada")]), WriteResult)
    assert_type(users.write_many({1: User("Ada")}), WriteResult)
    assert_type(users.set(User("Ada")), bool)
    assert_type(users.set(1, User("Ada"), ttl=60), bool)
    assert_type(users.invalidate(1, 2), InvalidateResult)
    assert_type(users.invalidate_all(), InvalidateResult)
    assert_type(users.key(1), Key)
    assert_type(users.list_key("all"), Key)
    with users.mutate(1) as mutation:
        assert_type(mutation, EntityMutation[User])
        mutation.set(User("Ada"))
        mutation.set(1, User("Ada"), ttl=60)
        mutation.set(users.key(1), {"name": "Ada"}, type=dict[str, str])
        mutation.set(5)  # type: ignore[call-overload]
        mutation.set(1, 5)  # type: ignore[call-overload]
    with users.invalidating(1, tags=["lists"]):
        pass

    # A loader that may find nothing makes a view whose values may be None, where they may be.
    found = cache.entity("user", User, loader=find_user)
    assert_type(found, Entity[User | None])
    assert_type(found.get_or_load(1), User | None)
    assert_type(found.get_or_load(1, load_one), User)
    assert_type(found.get_many([1]), dict[int, User])
    assert_type(found.get_or_load_many([1]), dict[int, User])
    assert_type(cache.entity("user", User, load_many=find_users).get_or_load(1), User | None)
    print(found.get_or_load(1).name)  # type: ignore[union-attr]

    # Mistakes.
    users.write(5)  # type: ignore[call-overload]
    users.write(1, "Ada")  # type: ignore[call-overload]
    users.write_many([5])  # type: ignore[list-item]
    users.set(1, 5)  # type: ignore[call-overload]
    users.get([1])  # type: ignore[call-overload]
    users.get_or_load(1, load_team)  # type: ignore[call-arg, arg-type]
    users.get_or_load(1, load_thing)  # type: ignore[call-arg, arg-type]
    users.get_or_load(1, load_later_of)  # type: ignore[call-arg, arg-type]
    users.list({"page": 1}, load_team)  # type: ignore[arg-type]
    users.invalidate([1])  # type: ignore[arg-type]
    cache.entity("user", User, loader=load_team)  # type: ignore[arg-type]
    cache.entity("user", User, loader=load_later_of)  # type: ignore[arg-type]
    cache.entity("user", User, loader=load_user_of, writer=load_page)  # type: ignore[arg-type]
    cache.entity("user", User, id=7)  # type: ignore[call-overload]
    cache.entity("user", User, strategy=WriteThrough)  # type: ignore[call-overload]
    cache.entity("user", User, strategy="write-through")  # type: ignore[call-overload]
    RefreshAhead(0.8)  # type: ignore[call-arg]


async def asynchronous_entities(cache: async_cache.Cache) -> None:
    for users in (
        cache.entity("user", User, id="name", loader=load_later_of, writer=save_later),
        cache.entity("user", User, id=lambda user: user.name, loader=load_user_of, writer=save_user_as),
    ):
        assert_type(users, AsyncEntity[User])
        assert_type(await users.get_or_load(1), User)
        assert_type(await users.get_or_load(1, load_later_of), User)
        assert_type(await users.get_or_load(1, find_user), User | None)
        assert_type(await users.get_many([1]), dict[int, User])
        assert_type(await users.get_or_load_many([1], load_things, "db"), dict[int, User])
        assert_type(await users.list({"page": 1}, load_page), list[User])
        assert_type(await users.write(User("Ada")), WriteResult)
        assert_type(await users.write_many({1: User("Ada")}), WriteResult)
        async with users.mutate(1) as mutation:
            mutation.set(User("Ada"))
            mutation.set(5)  # type: ignore[call-overload]
        await users.write(5)  # type: ignore[call-overload]
        await users.get_or_load(1, load_team)  # type: ignore[call-arg, arg-type]
    assert_type(cache.entity("user", User, loader=find_user), AsyncEntity[User | None])
    cache.entity("user", User, loader=load_team)  # type: ignore[arg-type]


async def asynchronous(cache: async_cache.Cache) -> None:
    with cache.explain() as explanation:
        assert_type(explanation.notices, list[Notice])
    assert_type(await cache.get_or_load("user:1", load_user_later, type=User), User)
    assert_type(await cache.get_or_load("user:1", load_user, type=User), User)
    assert_type(await cache.get_or_load("user:1", load_user_later), User)
    assert_type(await cache.get_or_load("user:1", load_later_of, 1), User)
    assert_type(await cache.get_or_load("user:1", load_user_of, 1), User)
    assert_type(await cache.get_or_load("user:1", load_later_of, 1, type=User), User)
    assert_type(await cache.get_or_load("user:1", load_in_context, 1), User)
    assert_type(await cache.get_or_load("user:1", find_user, 1, type=User), User | None)
    assert_type(await cache.get_or_load("user:1", lambda: load_later_of(1), type=User), User)
    await cache.get_or_load("user:1", load_later_of, "1")  # type: ignore[arg-type]
    assert_type(await cache.get_or_load_many(["user:1"], load_users, "db", type=User), dict[str, User])
    assert_type(await cache.get("user:1", type=User), User | None)
    assert_type(await cache.get_many(["user:1"], type=User), dict[str, User])
    people = cache.typed(User)
    assert_type(people, async_cache.Typed[User])
    assert_type(await people.get("user:1"), User | None)
    assert_type(await people.get_or_load("user:1", load_later_of, 1), User)
    assert_type(await people.get_or_load("user:1", find_user, 1), User | None)
    assert_type(await people.get_or_load("user:1", load_in_context, 1), User)
    async with cache.mutate("user:1") as mutation:
        mutation.set("user:1", User("Ada"), type=User)
    await asynchronous_entities(cache)
    users = cache.entity("user", User)
    assert_type(users, AsyncEntity[User])
    assert_type(await users.get(1), User | None)
    assert_type(await users.get_or_load(1), User)


def look_on(blocking: sync_cache.Cache, asynchronous: async_cache.Cache) -> None:
    """What exports statistics takes caches of both colours."""
    assert_type(export(blocking), Callable[[], None])
    assert_type(export(asynchronous, interval_s=5), Callable[[], None])
    assert_type(instrument(blocking, traces=False), Callable[[], None])
    assert_type(instrument(asynchronous, keys=False), Callable[[], None])
    assert_type(dashboard() + alert_rules(), str)
