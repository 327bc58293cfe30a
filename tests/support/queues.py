"""Worlds of one cache with a queue, of either colour, and the database that the queue writes to."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import attrs

from sansio_cache import WriteBehind
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync

GIVE_UP_S = 30.0
FAST = WriteBehind(partitions=2, delay_s=0.005, backoff_s=0.002, longest_backoff_s=0.01, deliveries=3)


@attrs.frozen
class User:
    id: int
    name: str


class Database:
    """A table that refuses a lower token than it has, as the page on write-behind has it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self._db.close)  # or Python 3.13 complains
        self._lock = threading.Lock()
        self._db.execute("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT, token INTEGER NOT NULL)")
        self.poison: set[int] = set()
        self.failures = 0
        self.writes: list[list[int]] = []
        self.waiting = 0
        self.gate = threading.Event()
        self.gate.set()

    def save(self, users: list[User], *, tokens: dict[int, int]) -> None:
        self.waiting += 1
        self.gate.wait(GIVE_UP_S)
        self.waiting -= 1
        self.writes.append([user.id for user in users])
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        if self.poison & {user.id for user in users}:
            raise ValueError("poison")
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO user (id, name, token) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET name = excluded.name, token = excluded.token WHERE excluded.token > user.token",
                [(user.id, user.name, tokens[user.id]) for user in users],
            )

    def delete(self, id: int) -> None:
        with self._lock:
            self._db.execute("DELETE FROM user WHERE id = ?", (id,))

    def load(self, id: int) -> User | None:
        with self._lock:
            row = self._db.execute("SELECT id, name FROM user WHERE id = ?", (id,)).fetchone()
        return None if row is None else User(*row)

    def load_many(self, ids: list[int]) -> dict[int, User]:
        return {each: user for each in ids if (user := self.load(each)) is not None}


class Facade:
    """A thing of either colour, all of whose methods are awaited."""

    def __init__(self, thing: Any, *, is_sync: bool) -> None:
        self.thing, self.is_sync = thing, is_sync

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.thing, name)

        async def call(*args: Any, **named: Any) -> Any:
            if self.is_sync:
                return await anyio.to_thread.run_sync(partial(method, *args, **named))
            answer = method(*args, **named)
            return await answer if isawaitable(answer) else answer

        return call

    @asynccontextmanager
    async def within(self, name: str, *args: Any, **named: Any) -> AsyncIterator[Any]:
        manager = getattr(self.thing, name)(*args, **named)
        if not self.is_sync:
            async with manager as value:
                yield value
            return
        value = await anyio.to_thread.run_sync(manager.__enter__)
        yield value
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(manager.__exit__, None, None, None)


class World:
    def __init__(self, colour: str, url: str, strategy: Any = FAST) -> None:
        self.is_sync = colour == "sync"
        self.url = url
        self.namespace = f"q{uuid4().hex[:12]}"
        self.database = Database()
        kind: Any = cache_sync.Cache if self.is_sync else cache_anyio.Cache
        # Patient: what is tested here is no time-out.
        self.cache = kind.from_url(url, namespace=self.namespace, operation_timeout_s=GIVE_UP_S)
        self.users, self.queue = self.entity(strategy)

    def entity(self, strategy: Any = FAST, type: Any = User, **options: Any) -> tuple[Facade, Facade]:
        database = self.database
        said = {"id": "id", "loader": database.load, "load_many": database.load_many}
        said |= {"write_many": database.save}
        users = self.cache.entity("user", type, strategy=strategy, **{**said, **options})
        return tuple(Facade(each, is_sync=self.is_sync) for each in (users, users.queue))  # type: ignore[return-value]

    @asynccontextmanager
    async def wrapped(self, wrapper: Callable[[Any], Any]) -> AsyncIterator[Any]:
        """Put something before the backend."""
        await self.queue.open()
        driver = self.cache._driver if self.is_sync else self.cache._bound()
        before = driver._backend
        driver._backend = wrapper(before)
        try:
            yield driver._backend
        finally:
            driver._backend = before

    async def aclose(self) -> None:
        """Close the cache."""
        self.database.gate.set()
        close = "close" if self.is_sync else "aclose"
        await getattr(Facade(self.cache, is_sync=self.is_sync), close)()


def run_world(colour: str, url: str, test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Run a coroutine function of a world: `colour` is sync, asyncio or trio."""

    async def main() -> None:
        world = World(colour, url, **options)
        try:
            with anyio.fail_after(2 * GIVE_UP_S):
                await test(world)
        finally:
            await world.aclose()

    anyio.run(main, backend="trio" if colour == "trio" else "asyncio")
