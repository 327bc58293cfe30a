"""What type checkers see of mistakes, line by line: `both`, `mypy`, `pyright` or `neither`. It is never run.

`tests/test_typing.py` has both read it, and compares with what is said here and in docs/howto/check-types.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sansio_cache import Absent, Fresh
from sansio_cache_redis import anyio as async_cache
from sansio_cache_redis import sync as sync_cache


@dataclass
class User:
    name: str


@dataclass
class Order:
    number: int


def load_user(id: int) -> User:
    return User(str(id))


def find_user(id: int) -> User | None:
    return User(str(id)) if id else None


def find_or_absent(id: int) -> User | Absent:
    return User(str(id)) if id else Absent()


def load_with(id: int, *, where: str) -> User:
    return User(f"{where}{id}")


def load_order(id: int) -> Order:
    return Order(id)


def load_fresh_order(id: int) -> Fresh[Order]:
    return Fresh(Order(id), ttl=60)


def load_users(where: str, keys: list[str]) -> dict[str, User]:
    return {key: User(where) for key in keys}


def load_orders(keys: list[str]) -> dict[str, Order]:
    return {key: Order(1) for key in keys}


def load_users_by_number(keys: list[int]) -> dict[int, User]:
    return {key: User(str(key)) for key in keys}


async def load_later(id: int) -> User:
    return User(str(id))


async def load_order_later(id: int) -> Order:
    return Order(id)


def blocking(cache: sync_cache.Cache) -> None:
    users = cache.typed(User)

    # A loader of another type
    users.get_or_load("k", load_order, 1)  # both
    cache.get_or_load("k", load_order, 1, type=User)  # mypy
    # A loader of `Fresh` of another type
    users.get_or_load("k", load_fresh_order, 1)  # both
    cache.get_or_load("k", load_fresh_order, 1, type=User)  # mypy
    # A lambda of another type
    users.get_or_load("k", lambda: 5)  # both
    cache.get_or_load("k", lambda: 5, type=User)  # mypy
    # A lambda that gives a mapping for a class
    users.get_or_load("k", lambda: {"name": "Ada"})  # both
    cache.get_or_load("k", lambda: {"name": "Ada"}, type=User)  # mypy
    # A wrong argument
    users.get_or_load("k", load_user, "1")  # both
    cache.get_or_load("k", load_user, "1", type=User)  # both
    cache.get_or_load("k", load_user, "1")  # both
    # A missing argument
    users.get_or_load("k", load_user)  # both
    cache.get_or_load("k", load_user, type=User)  # both
    cache.get_or_load("k", load_user)  # both
    # An extra argument
    users.get_or_load("k", load_user, 1, 2)  # both
    cache.get_or_load("k", load_user, 1, 2, type=User)  # both
    cache.get_or_load("k", load_user, 1, 2)  # both
    # An argument by its name
    users.get_or_load("k", load_user, id=1)  # both
    cache.get_or_load("k", load_user, id=1, type=User)  # both
    cache.get_or_load("k", load_user, id=1)  # both
    # A loader that needs an argument by its name
    users.get_or_load("k", load_with, 1)  # both
    cache.get_or_load("k", load_with, 1, type=User)  # both
    cache.get_or_load("k", load_with, 1)  # both
    # A lambda with a parameter, and no argument
    users.get_or_load("k", lambda id: load_user(id))  # both
    cache.get_or_load("k", lambda id: load_user(id), type=User)  # both
    # The loader's result in place of the loader
    users.get_or_load("k", load_user(1))  # both
    cache.get_or_load("k", load_user(1), type=User)  # both
    cache.get_or_load("k", load_user(1))  # both
    # A coroutine function in the cache for threads
    users.get_or_load("k", load_later, 1)  # both
    cache.get_or_load("k", load_later, 1, type=User)  # mypy
    # A lambda that gives a coroutine in the cache for threads
    users.get_or_load("k", lambda: load_later(1))  # both
    cache.get_or_load("k", lambda: load_later(1), type=User)  # mypy
    # The use of a value that may be None, as the loader may give None
    users.get_or_load("k", find_user, 1).name  # both
    cache.get_or_load("k", find_user, 1, type=User).name  # both
    cache.get_or_load("k", find_user, 1).name  # both
    # The use of a value that may be None, as the loader may give `Absent`
    users.get_or_load("k", find_or_absent, 1).name  # both
    cache.get_or_load("k", find_or_absent, 1, type=User).name  # both
    cache.get_or_load("k", find_or_absent, 1).name  # both
    # The use of what `get` gives, which may be None
    users.get("k").name  # both
    cache.get("k", type=User).name  # both
    cache.get("k").name  # neither
    # A value of another type where it is used
    _a: Order = users.get_or_load("k", load_user, 1)  # both
    _b: Order = cache.get_or_load("k", load_user, 1, type=User)  # both
    _c: Order = cache.get_or_load("k", load_user, 1)  # both
    # `set` of another type
    users.set("k", 5)  # both
    cache.set("k", 5, type=User)  # neither
    # `set_many` of another type
    users.set_many({"k": 5})  # both
    cache.set_many({"k": 5}, type=User)  # neither
    # A loader of many keys that gives another type
    users.get_or_load_many(["k"], load_orders)  # both
    cache.get_or_load_many(["k"], load_orders, type=User)  # mypy
    cache.get_or_load_many(["k"], load_orders)  # neither
    # A loader of many keys of another type of keys
    users.get_or_load_many(["k"], load_users_by_number)  # both
    cache.get_or_load_many(["k"], load_users_by_number, type=User)  # both
    cache.get_or_load_many(["k"], load_users_by_number)  # both
    # A loader of many keys without its argument
    users.get_or_load_many(["k"], load_users)  # both
    cache.get_or_load_many(["k"], load_users, type=User)  # both
    cache.get_or_load_many(["k"], load_users)  # both
    # A number for a key
    users.get_or_load(7, load_user, 1)  # both
    cache.get_or_load(7, load_user, 1, type=User)  # both
    cache.get_or_load(7, load_user, 1)  # both
    # One tag in place of a list of tags
    users.set("k", User("Ada"), tags="users")  # neither
    cache.set("k", User("Ada"), tags="users", type=User)  # neither
    # A ttl that is a text
    users.set("k", User("Ada"), ttl="60")  # both
    cache.set("k", User("Ada"), ttl="60", type=User)  # both
    # An option that there is not
    sync_cache.Cache.from_url("memory://", namespace="shop", default_tll=60)  # both
    # An option of another type
    sync_cache.Cache.from_url("memory://", namespace="shop", max_connections="4")  # both
    # `type=` that is no type
    cache.get_or_load("k", load_user, 1, type="User")  # both


async def asynchronous(cache: async_cache.Cache, load: Callable[[], Order]) -> None:
    users = cache.typed(User)

    # A loader of another type
    await users.get_or_load("k", load_order, 1)  # both
    await users.get_or_load("k", load_order_later, 1)  # both
    # A lambda of another type
    await users.get_or_load("k", lambda: 5)  # both
    await users.get_or_load("k", lambda: load_order_later(1))  # both
    # A wrong argument
    await users.get_or_load("k", load_later, "1")  # both
    await cache.get_or_load("k", load_later, "1")  # both
    # A missing argument
    await users.get_or_load("k", load_later)  # both
    await cache.get_or_load("k", load_later)  # both
    # An extra argument
    await users.get_or_load("k", load_later, 1, 2)  # both
    # The loader's result in place of the loader
    await users.get_or_load("k", load_later(1))  # both
    # `set` of another type
    await users.set("k", 5)  # both
    await cache.set("k", 5, type=User)  # neither
