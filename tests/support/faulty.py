"""What the fault tests share: one cache on any of the three runtimes, loaders that wait, and recorders.

A fault test is written once, as a coroutine. `run_on` runs it; `opened` gives it the cache of the runtime,
whose methods it awaits: those of the blocking cache run on worker threads. Loaders are plain functions, as
all three take them, so that a test can hold one up with an event of `threading`.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
import redis

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from sansio_cache.cell import Cell, parse_cell
from sansio_cache.commands import Ping, StoreCommand
from sansio_cache.stats import CacheStats
from sansio_cache_redis.scripts import ALL, FILL, Script
from support.proxy import Predicate
from support.stores import Recording

T = TypeVar("T")

RUNTIMES = ("sync", "asyncio", "trio")
on_every_runtime = pytest.mark.parametrize("runtime", RUNTIMES)

GIVE_UP_S = 30.0  # bounds failures only
PATIENT: dict[str, float] = {"attempt_timeout_s": 10.0, "operation_timeout_s": 20.0}
"""Options for tests in which the server is never silent: a slow machine must not look like a fault."""


def run_on(runtime: str, main: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine; the blocking cache is awaited under asyncio, its threads are its own."""

    async def bounded() -> T:
        with anyio.fail_after(120):
            return await main()

    return anyio.run(bounded, backend="trio" if runtime == "trio" else "asyncio")


async def in_thread(call: Callable[..., T], *args: Any) -> T:
    """Call something that blocks without blocking the event loop."""
    return await anyio.to_thread.run_sync(partial(call, *args))


async def eventually(condition: Callable[[], Any], *, timeout_s: float = GIVE_UP_S) -> Any:
    """Ask again until the answer, which may be awaitable, is true; returns it."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"still waiting after {timeout_s} s: {condition}")
        await anyio.sleep(0.005)


class Subject:
    """The cache under test; every method of it but `stats` is awaited, whatever the runtime."""

    def __init__(self, runtime: str, url: str, namespace: str, options: dict[str, Any]) -> None:
        self.is_sync = runtime == "sync"
        module: Any = sansio_cache_redis.sync if self.is_sync else sansio_cache_redis.anyio
        self.cache: Any = module.Cache.from_url(url, namespace=namespace, **options)
        self.namespace = namespace
        self._threads = anyio.CapacityLimiter(1000)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.cache, name)
        if not self.is_sync:
            return method
        return lambda *args, **named: self._call(partial(method, *args, **named))

    def stats(self) -> CacheStats:
        return self.cache.stats()

    @asynccontextmanager
    async def mutate(self, *keys: str, tags: Iterable[str] = ()) -> AsyncIterator[Any]:
        block = self.cache.mutate(*keys, tags=tags)
        if not self.is_sync:
            async with block as mutation:
                yield mutation
            return
        mutation = await self._call(block.__enter__)
        try:
            yield mutation
        except BaseException as error:
            if not await self._call(partial(block.__exit__, type(error), error, None)):
                raise
        else:
            await self._call(partial(block.__exit__, None, None, None))

    async def close(self) -> None:
        await (self._call(self.cache.close) if self.is_sync else self.cache.aclose())

    @property
    def is_out(self) -> bool:
        """Whether its breaker is open."""
        return self.cache._coordinator.is_out

    @property
    def remembered(self) -> int:
        """How many invalidations the store has not been told of."""
        return self.cache._coordinator.pending_invalidations

    @property
    def followers(self) -> int:
        """How many callers wait for a load of this process that is under way."""
        return self._driver._coordinator.single_flight.waiting

    @property
    def is_idle(self) -> bool:
        """Whether no load, and no refresh, is under way in this process."""
        return not len(self._driver._coordinator.single_flight)

    def record(self) -> "Recorder":
        """Record what the store is asked from now on."""
        driver = self._driver
        driver._backend = Recorder(driver._backend)
        return driver._backend

    @property
    def _driver(self) -> Any:
        return self.cache._driver if self.is_sync else self.cache._bound()

    async def _call(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._threads)


@asynccontextmanager
async def opened(runtime: str, url: str, namespace: str, **options: Any) -> AsyncIterator[Subject]:
    """The runtime's cache on a URL, closed at the end; `options` are its keyword options."""
    subject = Subject(runtime, url, namespace, options)
    try:
        yield subject
    finally:
        with anyio.CancelScope(shield=True):
            await subject.close()


class Recorder(Recording):
    """What the store was asked, and what it answered."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.commands: list[StoreCommand] = []
        self.events: list[Any] = []

    @property
    def asked(self) -> list[StoreCommand]:
        """The commands of operations: without the probes of the recovery."""
        return [each for each in self.commands if not isinstance(each, Ping)]

    @property
    def probes(self) -> int:
        """How often the recovery has asked whether the store serves."""
        return len(self.commands) - len(self.asked)

    def of(self, kind: type) -> list[Any]:
        """The commands, or events, of one kind."""
        return [each for each in (*self.commands, *self.events) if isinstance(each, kind)]

    def asking(self, command: StoreCommand) -> None:
        self.commands.append(command)

    def answered(self, command: StoreCommand, event: Any) -> None:
        self.events.append(event)


class Loader:
    """Gives its values in turn, the last one for ever, and counts its calls.

    The first `gated` calls look at the database (their value is fixed) and then wait for an `open` each.
    """

    def __init__(self, *values: Any, gated: int = 0) -> None:
        self.calls = 0
        self._values = values
        self._gated = gated
        self._lock = threading.Lock()
        self._opened = threading.Semaphore(0)

    def __call__(self) -> Any:
        with self._lock:
            value = self._values[min(self.calls, len(self._values) - 1)]
            self.calls += 1
            turn = self.calls
        if turn <= self._gated and not self._opened.acquire(timeout=GIVE_UP_S):
            raise TimeoutError("nobody opened the gate of this loader")
        if isinstance(value, Exception):
            raise value
        return value

    def open(self) -> None:
        """Let one gated call end."""
        self._opened.release()

    async def wait(self, calls: int = 1) -> None:
        """Wait until it has been called so often."""
        await eventually(lambda: self.calls >= calls)


class LateCondition:
    """A condition of which a wait is over just before it is notified.

    `is_waiting` is set in the wait, which ends once `is_over` is set.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.is_waiting = threading.Event()
        self.is_over = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        self._lock.release()
        self.is_waiting.set()
        ended = self.is_over.wait(GIVE_UP_S)
        self._lock.acquire()
        if not ended:
            raise TimeoutError("nobody has ended this wait")
        return False

    def notify(self) -> None:
        pass

    notify_all = notify


def load_scripts(client: redis.Redis) -> None:
    """Teach the server the scripts, so that one EVALSHA is one execution."""
    for script in ALL:
        client.script_load(script.text)


def script(wanted: Script) -> Predicate:
    """A predicate for the calls of one script, by digest or by text."""
    names = {b"EVALSHA": wanted.sha, b"EVAL": wanted.text.encode()}
    return lambda words: names.get(words[0].upper(), b"") == words[1] if len(words) > 1 else False


def filling(words: list[bytes]) -> bool:
    """A predicate for fills, by comparing or by script; not for the question whether the server compares."""
    compares = words[0].upper() == b"SET" and b"IFEQ" in words and words[-1] != b"0"
    return compares or script(FILL)(words)


def cell_of(client: redis.Redis, key: str) -> Cell | None:
    """The cell that a key holds now; None where there is no such key."""
    raw: Any = client.get(key)
    if raw is None:
        return None
    cell = parse_cell(raw)
    assert isinstance(cell, Cell), raw
    return cell


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the cache has logged, in order."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("sansio_cache") and record.levelno >= logging.WARNING
    ]
