"""One facade over three runtimes, so that each behaviour is written once.

`@runs()` makes a test of a coroutine function that takes a `World`: it runs on threads, asyncio and trio,
on memory and on a real server. The synchronous cache is driven from worker threads, and a loader that is
a coroutine function is run in the test's event loop, so concurrent scenarios work the same everywhere.

Every world records the semantic commands that its caches ask for. What a test did in one place is compared
with what it did on threads and memory (B5): the commands, the counters, and what is left in the store.
"""

import asyncio
import gc
import logging
import random
import sqlite3
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
)
from functools import partial
from inspect import Parameter, iscoroutinefunction, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import pytest
import redis
import redis.asyncio
from msgspec.structs import replace

from sansio_cache import CacheConfig
from sansio_cache.cell import FOREIGN, NO_GRANT, Cell, Foreign, Kind, Tag, format_cell, parse_cell
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Capture,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    Mode,
    ReadCell,
    ReadCells,
    ReadTags,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.entry import BODY_HEADER_BYTES, TAGS_AT, seal
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.stats import CacheStats
from sansio_cache.tags import VERSION_BYTES, is_tag_key
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.backend.cluster_sync import make_cluster_backend
from sansio_cache_redis.backend.sync import make_backend
from sansio_cache_redis.connections.cluster_settings import cluster_settings
from sansio_cache_runtime.memory import SharedMemory
from sansio_cache_runtime.subscribers import Explanation
from sansio_cache_runtime.sync.background import Background
from support.nightly import IS_ON_ALL_TOPOLOGIES
from support.servers import connect
from support.stores import Recording, Wrapping
from support.tls import TlsProxy
from thirdparty.sqlite_backend import AnyioSqliteBackend, SqliteBackend

RUNTIMES: Final = ("sync", "asyncio", "trio")

# Long, so that a busy machine makes no test fail: what is tested here is not how fast the store gives up.
PATIENT: Final = {"operation_timeout_s": 20.0, "attempt_timeout_s": 10.0}

MAX_VALUE_BYTES: Final = 8 * 2**20

# All but the latencies, and `waits`: how often a waiter looks again is a matter of time.
_COUNTERS: Final = (
    "redis_hits",
    "stale_hits",
    "misses",
    "loads",
    "loads_without_lease",
    "load_failures",
    "refreshes",
    "refresh_failures",
    "refreshes_skipped",
    "variants_stored",
    "shared",
    "stored",
    "lost_leases",
    "outgrown_leases",
    "unstorable",
    "outlived",
    "invalidated",
    "soft_expired",
    "failed_invalidations",
    "errors",
    "gave_up",
)


@attrs.frozen
class Place:
    """Where a test runs: on which runtime, against which store, reached in which way."""

    runtime: str
    store: str

    @property
    def backend(self) -> str:
        """The event loop of the test, which for the synchronous cache only starts the threads."""
        return "trio" if self.runtime == "trio" else "asyncio"

    @property
    def has_server(self) -> bool:
        """Whether a server has a part in it."""
        return self.store not in ("memory", "sqlite")

    @property
    def marks(self) -> tuple[pytest.MarkDecorator, ...]:
        """What tells its tests from those of other places."""
        if self.store in ("sentinel", "cluster"):
            return (pytest.mark.topology,)
        return () if self.has_server else (pytest.mark.without_server,)

    def __str__(self) -> str:
        return f"{self.runtime}-{self.store}"


def _places(*stores: str) -> tuple[Place, ...]:
    return tuple(Place(runtime, store) for store in stores for runtime in RUNTIMES)


_TOPOLOGIES: Final = ("sentinel", "cluster") if IS_ON_ALL_TOPOLOGIES else ()
EVERYWHERE: Final = _places("memory", "server", *_TOPOLOGIES)
THIRD_PARTY: Final = _places("sqlite")
"""A store that somebody else has written: see `thirdparty`."""
ON_MEMORY: Final = _places("memory")
ON_SERVER: Final = _places("server")
ON_CLIENT: Final = _places("client")
ON_SENTINEL: Final = _places("sentinel")
ON_CLUSTER: Final = _places("cluster")
WAYS_IN: Final = _places("unix", "tls", "client")
"""A unix socket, TLS, and a client that the user brings."""
REFERENCE: Final = Place("sync", "memory")


async def until(condition: Callable[[], object], *, timeout_s: float = 20.0) -> None:
    """Wait for a condition, letting other tasks run; `TimeoutError` if it does not hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"still waiting after {timeout_s} s")
        await anyio.sleep(0.001)


# --- What tests hand to a cache, and callers of it


def loading(value: Any, calls: list[Any] | None = None) -> Callable[[], Awaitable[Any]]:
    """A loader that gives a value, and counts its calls in a list."""

    async def load() -> Any:
        if calls is not None:
            calls.append(value)
        await anyio.lowlevel.checkpoint()
        return value

    return load


async def never() -> Any:
    """A loader that is not to be called."""
    raise AssertionError("the loader was called")


async def in_parallel(count: int, call: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """The results of calls that run at the same time."""
    results: list[Any] = [None] * count

    async def run(place: int) -> None:
        results[place] = await call(place)

    async with anyio.create_task_group() as tasks:
        for place in range(count):
            tasks.start_soon(run, place)
    return results


async def together(world: "World", key: str, count: int, call: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """The results of calls that share one load: none of them begins it before all of them have joined."""
    grant = world.raw.lease(key)

    async def release() -> None:
        await until(lambda: world.cache.followers == count - 1)
        world.raw.release(key, grant)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        return await in_parallel(count, call)


# --- The store, behind the cache's back


class Raw:
    """The store as another program sees it. Keys are given without the namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def full(self, key: str) -> str:
        """The complete key."""
        return f"{self._namespace}:{key}"

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do as another process's cache would."""
        raise NotImplementedError

    def read(self) -> dict[str, Cell | Foreign | Tag]:
        """Everything in the namespace."""
        raise NotImplementedError

    def put(self, full: str, cell: Cell | Foreign, ttl_ms: int = 600_000) -> None:
        """Write a complete key, as another program or version might; foreign is no string at all."""
        raise NotImplementedError

    def put_bytes(self, full: str, data: bytes) -> None:
        """Write a complete key with any bytes."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """A plain removal, by a program that knows nothing of the cache."""
        raise NotImplementedError

    def now_ms(self) -> int:
        """The store's clock."""
        raise NotImplementedError

    def ttl_ms(self, key: str) -> int:
        """How long a key has to live."""
        raise NotImplementedError

    def cell(self, key: str) -> Cell | Foreign | None:
        """One cell."""
        found = self.read().get(key)
        assert not isinstance(found, Tag), f"{key} is that of a tag"
        return found

    def version(self, tag: str) -> bytes | None:
        """The version of a tag, None where it has none."""
        found = self.read().get(f"%t:{tag}")
        assert found is None or isinstance(found, Tag)
        return None if found is None else found.version

    def entries(self) -> dict[str, Cell | Foreign]:
        """Everything in the namespace but for tags."""
        return {key: cell for key, cell in self.read().items() if not isinstance(cell, Tag)}

    def lease(self, key: str, nonce: bytes = b"somebody", lease_ms: int = 600_000) -> bytes:
        """Take the lease of a key for somebody else; returns the grant."""
        event: Any = self.perform(AcquireLease(self.full(key), nonce, lease_ms, NO_GRANT, Mode.KEEP, 10.0))
        grant: bytes = event.grant
        return grant

    def release(self, key: str, grant: bytes) -> None:
        """Give such a lease back, as its holder would: whoever waits for it is told."""
        self.perform(ReleaseLeases((Lease(self.full(key), grant),), 10.0))

    def outdate(self, key: str) -> None:
        """Put the soft expiry of a value so far back that every estimate of the store's clock is past it."""
        cell = self.cell(key)
        assert isinstance(cell, Cell)
        assert cell.soft_ms
        old = replace(cell, soft_ms=max(self.now_ms() - 5_000, 1))
        self.put(self.full(key), old, self.ttl_ms(key))

    def body(self, key: str, value: Any, type: Any = None) -> bytes:
        """The body of an entry that holds the value."""
        codec = codec_for(type, MAX_VALUE_BYTES)
        return seal(self.full(key), codec, codec.encode(value).payload, 0.0)


class MemoryRaw(Raw):
    """The memory store of a cache."""

    def __init__(self, namespace: str, memory: SharedMemory) -> None:
        super().__init__(namespace)
        self._memory = memory

    @property
    def _store(self) -> MemoryStore:
        return self._memory.store

    def perform(self, command: StoreCommand) -> StoreEvent:
        return self._memory.perform(command)

    def read(self) -> dict[str, Cell | Foreign | Tag]:
        prefix = f"{self._namespace}:"
        return {
            full.removeprefix(prefix): kept.cell
            for full, kept in self._store.dump().items()
            if full.startswith(prefix) and kept.expires_ms > self.now_ms()
        }

    def put(self, full: str, cell: Cell | Foreign, ttl_ms: int = 600_000) -> None:
        self._store.plant(full, cell, self.now_ms() + ttl_ms)

    def put_bytes(self, full: str, data: bytes) -> None:
        self.put(full, parse_cell(data))

    def delete(self, key: str) -> None:
        self._store.plant(self.full(key), None, 0)

    def now_ms(self) -> int:
        return int(self._store.clock() * 1000)

    def ttl_ms(self, key: str) -> int:
        return self._store.dump()[self.full(key)].expires_ms - self.now_ms()


class ServerRaw(Raw):
    """A server, through a plain client."""

    def __init__(self, namespace: str, client: redis.Redis) -> None:
        super().__init__(namespace)
        self._client: Any = client
        config = CacheConfig.from_options(namespace=namespace)
        self._store = make_backend(config, client, time.monotonic, start_thread=lambda *_: False)

    def perform(self, command: StoreCommand) -> StoreEvent:
        return self._store.perform(command)

    def read(self) -> dict[str, Cell | Foreign | Tag]:
        prefix = f"{self._namespace}:"
        found: dict[str, Cell | Foreign | Tag] = {}
        for name in self._client.scan_iter(f"{prefix}*", count=10_000):
            try:
                raw = self._client.get(name)
            except redis.ResponseError:
                found[name.decode().removeprefix(prefix)] = FOREIGN
            else:
                if raw is not None:
                    full = name.decode()
                    is_tag = is_tag_key(full) and len(raw) == VERSION_BYTES
                    found[full.removeprefix(prefix)] = Tag(raw) if is_tag else parse_cell(raw)
        return found

    def cell(self, key: str) -> Cell | Foreign | None:
        try:
            raw = self._client.get(self.full(key))
        except redis.ResponseError:
            return FOREIGN
        return None if raw is None else parse_cell(raw)

    def put(self, full: str, cell: Cell | Foreign, ttl_ms: int = 600_000) -> None:
        self._client.delete(full)
        if isinstance(cell, Foreign):
            self._client.rpush(full, "a list")
            self._client.pexpire(full, ttl_ms)
        else:
            self._client.set(full, format_cell(cell), px=ttl_ms)

    def put_bytes(self, full: str, data: bytes) -> None:
        self._client.set(full, data, px=600_000)

    def delete(self, key: str) -> None:
        self._client.delete(self.full(key))

    def now_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def ttl_ms(self, key: str) -> int:
        return int(self._client.pttl(self.full(key)))


class ClusterRaw(ServerRaw):
    """A cluster, through a client of redis-py's."""

    def __init__(self, namespace: str, client: redis.RedisCluster, url: str) -> None:
        Raw.__init__(self, namespace)
        self._client = client
        config = CacheConfig.from_options(namespace=namespace, url=url, **PATIENT)
        settings = cluster_settings(config.redis, None)
        assert settings is not None
        self._store: Any = make_cluster_backend(config, settings, time.monotonic, Background().start)

    def read(self) -> dict[str, Cell | Foreign | Tag]:
        names = self._client.scan_iter(f"{self._namespace}:*", count=10_000)
        fulls = (name.decode() for name in names)
        found = {full.removeprefix(f"{self._namespace}:"): self._read(full) for full in fulls}
        return {key: kept for key, kept in found.items() if kept is not None}

    def _read(self, full: str) -> Cell | Foreign | Tag | None:
        try:
            raw = self._client.get(full)
        except redis.ResponseError:
            return FOREIGN
        is_tag = raw is not None and is_tag_key(full) and len(raw) == VERSION_BYTES
        return Tag(raw) if is_tag else None if raw is None else parse_cell(raw)

    def now_ms(self) -> int:
        times = self._client.time(target_nodes=redis.RedisCluster.PRIMARIES).values()
        return max(int(seconds) * 1000 + int(microseconds) // 1000 for seconds, microseconds in times)

    def close(self) -> None:
        self._store.close()
        self._client.close()


class SqliteRaw(Raw):
    """The database of a backend that a third party has written."""

    def __init__(self, namespace: str, path: str, store: SqliteBackend) -> None:
        super().__init__(namespace)
        self._path = path
        self._store = store

    def _execute(self, sql: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self._path, timeout=10.0)) as database, database:
            return database.execute(sql, values).fetchall()

    def perform(self, command: StoreCommand) -> StoreEvent:
        return self._store.perform(command)

    def read(self) -> dict[str, Cell | Foreign | Tag]:
        prefix = f"{self._namespace}:"
        found: dict[str, Cell | Foreign | Tag] = {}
        for full, raw in self._execute("SELECT key, raw FROM kept WHERE expires_ms > ?", self.now_ms()):
            if full.startswith(prefix):
                is_tag = is_tag_key(full) and len(raw) == VERSION_BYTES
                found[full.removeprefix(prefix)] = Tag(raw) if is_tag else parse_cell(raw)
        return found

    def put(self, full: str, cell: Cell | Foreign, ttl_ms: int = 600_000) -> None:
        raw = b"a list" if isinstance(cell, Foreign) else format_cell(cell)
        put = "INSERT OR REPLACE INTO kept (key, raw, expires_ms) VALUES (?, ?, ?)"
        self._execute(put, full, raw, self.now_ms() + ttl_ms)

    def put_bytes(self, full: str, data: bytes) -> None:
        put = "INSERT OR REPLACE INTO kept (key, raw, expires_ms) VALUES (?, ?, ?)"
        self._execute(put, full, data, self.now_ms() + 600_000)

    def delete(self, key: str) -> None:
        self._execute("DELETE FROM kept WHERE key = ?", self.full(key))

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def ttl_ms(self, key: str) -> int:
        [[expires_ms]] = self._execute("SELECT expires_ms FROM kept WHERE key = ?", self.full(key))
        return int(expires_ms) - self.now_ms()


def is_free(cell: Cell | Foreign | Tag | None) -> bool:
    """Whether nobody has a lease or a hold on a key."""
    return cell is None or (isinstance(cell, Cell) and cell.kind == Kind.VALUE and cell.grant == NO_GRANT)


# --- What a cache asked of its store


Fact = tuple[Any, ...]


@attrs.define(eq=False)
class Trace:
    """The commands of a world's caches, in order."""

    facts: list[Fact] = attrs.field(factory=list)
    fills: dict[bytes, tuple[int, float]] = attrs.field(factory=dict)
    """The hard time to live of each grant's value in milliseconds, and when it was sent."""
    fills_of: dict[tuple[str, bytes], tuple[int, float]] = attrs.field(factory=dict)
    """The same by key and grant."""

    def names(self, first: int = 0) -> list[str]:
        """The commands that were asked, by their names, from a fact on."""
        return [fact[0] for fact in self.facts[first:]]

    def names_but_pings(self, first: int = 0) -> list[str]:
        """The same without what asks whether a server is there, which a busy machine was late to hear."""
        return [name for name in self.names(first) if name != "Ping"]

    def count(self, name: str) -> int:
        """How many commands of a kind were answered."""
        return sum(fact[0] == name for fact in self.facts)

    def note(self, command: StoreCommand, event: StoreEvent, namespace: str) -> None:
        """Take down a command with what it was answered."""
        prefix = f"{namespace}:"
        what = _masked(command)
        said = tuple(_strip(part, prefix) for part in what)
        self.facts.append((type(command).__name__, *said, type(event).__name__))

    def sending(self, command: StoreCommand) -> None:
        """Take down what is about to be stored."""
        if isinstance(command, FillCells):
            for fill in command.fills:
                self.fills[fill.grant] = (fill.hard_ttl_ms, time.monotonic())
                self.fills_of[fill.key, fill.grant] = self.fills[fill.grant]

    def folded(self) -> list[Fact]:
        """The trace, in which a command that was repeated stands once: nobody knows how often one waits.

        Nor how often it is looked in the background whether the store is still there.
        """
        facts = [fact for fact in self.facts if fact[0] != "Ping"]
        return [fact for place, fact in enumerate(facts) if place == 0 or facts[place - 1] != fact]


def _strip(part: Any, prefix: str) -> Any:
    if isinstance(part, tuple):
        return tuple(_strip(each, prefix) for each in part)
    return str(part).replace(prefix, "") if isinstance(part, str) else part


def _masked(command: StoreCommand) -> Fact:  # noqa: C901 - one case for each
    """A command without what differs from run to run: time-outs, clocks, the check of the full key."""
    match command:
        case ReadCell(key=key, tags=tags):
            return (key, *tags)
        case ReadCells(keys=keys, tags=tags):
            return (*keys, *tags)
        case ReadTags(tags=tags):
            return tags
        case InspectCell(key=key):
            return (key,)
        case ClaimCell(key=key, nonce=nonce, hold_ms=hold_ms, capture=capture):
            return (key, nonce, hold_ms, *_captured(capture))
        case SwapCell(key=key, version=version, nonce=nonce, hard_ttl_ms=hard_ttl_ms, body=body):
            return (key, version[:8], nonce, hard_ttl_ms, command.soft_ttl_ms, _content(body))
        case TouchCell(key=key, version=version, ttl_ms=ttl_ms, max_life_ms=max_life_ms, capture=capture):
            return (key, version[:8], ttl_ms, max_life_ms, *_captured(capture))
        case TakeLock(key=key, nonce=nonce, lease_ms=lease_ms):
            return (key, nonce, lease_ms)
        case FreeLock(lock=lock):
            return (lock.key, lock.lease_id[:8])
        case AcquireLease(key=key, nonce=nonce, lease_ms=lease_ms, seen=seen, mode=mode, capture=capture):
            return (key, nonce, lease_ms, seen[:8], mode.value, *_captured(capture))
        case AcquireLeases(lease_requests=lease_requests, nonce=nonce, lease_ms=lease_ms, capture=capture):
            requested = tuple((each.key, each.seen[:8], each.mode.value) for each in lease_requests)
            return (requested, nonce, lease_ms, *_captured(capture))
        case FillCells(fills=fills, tags=tags):
            filled = tuple(
                (each.key, each.grant[:8], each.hard_ttl_ms, each.soft_ttl_ms, _content(each.body))
                for each in fills
            )
            return (*filled, *tags)
        case RenewLeases(leases=leases, lease_ms=lease_ms):
            return (tuple((each.key, each.lease_id[:8]) for each in leases), lease_ms)
        case ReleaseLeases(leases=leases):
            return tuple((each.key, each.lease_id[:8]) for each in leases)
        case HoldCells(keys=keys, nonce=nonce, hold_ms=hold_ms, capture=capture):
            return (keys, nonce, hold_ms, *_captured(capture))
        case DeleteKeys(keys=keys) | ExpireCells(keys=keys):
            return tuple(sorted(keys))
        case ScanKeys(pattern=pattern):
            return (pattern,)
        case _:
            return ()


def _captured(capture: Capture) -> Fact:
    return (*capture.tags, capture.ttl_ms) if capture.tags else ()


def _content(body: bytes, *, names: bool = True) -> bytes:
    """A body without its key check, the time that its load took, and the clocks in its tags' versions.

    `names`: with the nonces in them, which differ where calls come in another order.
    """
    if len(body) < BODY_HEADER_BYTES:
        return body
    kept = [body[8 : TAGS_AT + 1]]
    at = BODY_HEADER_BYTES
    for _ in range(body[TAGS_AT]):
        name_at = at + VERSION_BYTES
        end = name_at + 2 + int.from_bytes(body[name_at : name_at + 2], "big")
        kept += [body[at : at + 8] if names else b"", body[name_at:end]]
        at = end
    return b"".join(kept) + body[at:]


class _Refuser(Wrapping):
    def __init__(
        self, store: Any, kind: FailureKind, only: tuple[type, ...], clock: Callable[[], float]
    ) -> None:
        self._store, self._kind, self._only, self._clock = store, kind, only, clock

    def perform(self, command: StoreCommand) -> Any:
        if isinstance(command, self._only):
            return StoreFailed(self._clock(), self._kind)
        return self._store.perform(command)

    async def answer(self, command: StoreCommand) -> Any:
        if isinstance(command, self._only):
            return StoreFailed(self._clock(), self._kind)
        return await self._store.answer(command)


class _Before(Wrapping):
    def __init__(self, store: Any, kind: type, action: Callable[[], object]) -> None:
        self._store, self._kind, self._action = store, kind, action
        self._is_done = False

    def _see(self, command: StoreCommand) -> None:
        if isinstance(command, self._kind) and not self._is_done:
            self._is_done = True
            self._action()

    def perform(self, command: StoreCommand) -> Any:
        self._see(command)
        return self._store.perform(command)

    def answer(self, command: StoreCommand) -> Any:
        self._see(command)
        return self._store.answer(command)


class _Loser(Wrapping):
    """Does what is asked, and loses the answer; then something else may happen."""

    def __init__(
        self, store: Any, kind: type, times: int, then: Callable[[], object], clock: Callable[[], float]
    ) -> None:
        self._store, self._kind, self._times, self._then, self._clock = store, kind, times, then, clock

    def _after(self, command: StoreCommand, event: Any) -> Any:
        if not isinstance(command, self._kind) or self._times == 0:
            return event
        self._times -= 1
        self._then()
        return StoreFailed(self._clock(), FailureKind.RESET)

    def perform(self, command: StoreCommand) -> Any:
        return self._after(command, self._store.perform(command))

    async def answer(self, command: StoreCommand) -> Any:
        return self._after(command, await self._store.answer(command))


class _Recorder(Recording):
    def __init__(self, store: Any, trace: Trace, namespace: str) -> None:
        self._store, self._trace, self._namespace = store, trace, namespace

    def asking(self, command: StoreCommand) -> None:
        self._trace.sending(command)

    def answered(self, command: StoreCommand, event: StoreEvent) -> None:
        self._trace.note(command, event, self._namespace)


# --- The cache


class CacheUnderTest:
    """The public surface of a cache as coroutine functions, whichever of the two caches it is."""

    def __init__(self, cache: Any, *, is_sync: bool) -> None:
        self.cache = cache
        self.is_sync = is_sync
        # Where the loaders of the synchronous cache run, whose threads may be its own.
        self._loop = asyncio.get_running_loop() if is_sync else None
        # More than the usual 40 threads: every caller has one, and none may wait for another's.
        self._threads = anyio.CapacityLimiter(200)

    @property
    def driver(self) -> Any:
        """The driver in use."""
        return self.cache._driver if self.is_sync else self.cache._bound()

    @property
    def key(self) -> Any:
        return self.cache.key

    def stats(self) -> CacheStats:
        stats: CacheStats = self.cache.stats()
        return stats

    def subscribe(self, subscriber: Callable[[Any], object], *, kinds: Any = None) -> Callable[[], None]:
        unsubscribe: Callable[[], None] = self.cache.subscribe(subscriber, kinds=kinds)
        return unsubscribe

    def explain(self) -> AbstractContextManager[Explanation]:
        explaining: AbstractContextManager[Explanation] = self.cache.explain()
        return explaining

    @contextmanager
    def refusing(self, kind: FailureKind, *only: type) -> Iterator[None]:
        """The store fails in the block: those commands, or all of them."""
        driver = self.driver
        store = driver._backend
        driver._backend = _Refuser(store, kind, only or (object,), time.monotonic)
        try:
            yield
        finally:
            driver._backend = store

    @contextmanager
    def before(self, kind: type, action: Callable[[], object]) -> Iterator[None]:
        """Something is done before the first command of a kind reaches the store in the block."""
        driver = self.driver
        store, driver._backend = driver._backend, _Before(driver._backend, kind, action)
        try:
            yield
        finally:
            driver._backend = store

    @contextmanager
    def losing(
        self, kind: type, *, times: int = 1, then: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """The first answers to commands of a kind are lost in the block, and something happens after each."""
        driver = self.driver
        store, driver._backend = driver._backend, _Loser(driver._backend, kind, times, then, time.monotonic)
        try:
            yield
        finally:
            driver._backend = store

    @property
    def followers(self) -> int:
        """How many callers wait for the load of another."""
        waiting: int = self.driver._coordinator.single_flight.waiting
        return waiting

    async def aclose(self) -> None:
        if self.is_sync:
            await self._in_thread(self.cache.close)
        else:
            await self.cache.aclose()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.calling(getattr(self.cache, name))

    def calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the cache, or of what it has made, as a coroutine function."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            if not self.is_sync:
                return await method(*args, **kwargs)
            return await self._in_thread(lambda: method(*map(self._bridged, args), **kwargs))

        return call

    def entity(self, name: str, type: Any, **options: Any) -> "EntityUnderTest":
        if self.is_sync:
            options = {option: self._bridged(value) for option, value in options.items()}
        return EntityUnderTest(self, self.cache.entity(name, type, **options))

    def typed(self, type: Any) -> "TypedUnderTest":
        return TypedUnderTest(self, self.cache.typed(type))

    def mutate(
        self, *keys: str, tags: Iterable[str] = (), value_tags: Iterable[str] = ()
    ) -> AbstractAsyncContextManager[Any]:
        return self.entered(lambda: self.cache.mutate(*keys, tags=tags, value_tags=value_tags))

    def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[Any]:
        return self.entered(lambda: self.cache.invalidating(*keys, tags=tags))

    def lock(self, name: str, lease_s: float = 10.0, **options: Any) -> AbstractAsyncContextManager[Any]:
        return self.entered(lambda: self.cache.lock(name, lease_s, **options))

    async def scan(self, pattern: str = "*") -> list[Any]:
        """The entries that a scan finds, once it is through."""
        if self.is_sync:
            found: list[Any] = await self._in_thread(lambda: list(self.cache.scan(pattern)))
            return found
        return [entry async for entry in self.cache.scan(pattern)]

    @asynccontextmanager
    async def entered(self, make: Callable[[], Any]) -> AsyncIterator[Any]:
        """The block of a context manager of the cache, which on threads is entered and left on one."""
        manager = make()
        if not self.is_sync:
            async with manager as given:
                yield given
            return
        given = await self._in_thread(manager.__enter__)
        try:
            yield given
        except BaseException as error:
            leave = partial(manager.__exit__, type(error), error, error.__traceback__)
            with anyio.CancelScope(shield=True):
                await self._in_thread(leave)
            raise
        else:
            await self._in_thread(lambda: manager.__exit__(None, None, None))

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(call, limiter=self._threads)

    def _bridged(self, argument: Any) -> Any:
        """A loader that is a coroutine function, as a plain one that runs it in the test's event loop."""
        if not iscoroutinefunction(argument):
            return argument
        loop = self._loop
        assert loop is not None

        def run(*given: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(argument(*given), loop).result()

        # With the parameters that it has: whether it gets a context is told by their names.
        run.__signature__ = signature(argument)  # type: ignore[attr-defined]
        return run


class TypedUnderTest:
    """The same for a typed view."""

    def __init__(self, cache: CacheUnderTest, view: Any) -> None:
        self._cache = cache
        self._view = view

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._cache.calling(getattr(self._view, name))

    @property
    def key(self) -> Any:
        return self._view.key

    def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[Any]:
        return self._cache.entered(lambda: self._view.invalidating(*keys, tags=tags))


class EntityUnderTest:
    """The same for an entity."""

    def __init__(self, cache: CacheUnderTest, entity: Any) -> None:
        self._cache = cache
        self._entity = entity

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._cache.calling(getattr(self._entity, name))

    def key(self, id: Any) -> Any:
        return self._entity.key(id)

    def list_key(self, query: Any) -> Any:
        return self._entity.list_key(query)

    def invalidating(self, *ids: Any, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[Any]:
        return self._cache.entered(lambda: self._entity.invalidating(*ids, tags=tags))

    def mutate(self, *ids: Any, tags: Iterable[str] = ()) -> AbstractAsyncContextManager[Any]:
        return self._cache.entered(lambda: self._entity.mutate(*ids, tags=tags))


class World:
    """A store, a cache on it, and what happened. Made by `@runs`, once for each run of a test."""

    def __init__(
        self, place: Place, url: str, raw: Raw, namespace: str, client: Any, path: str | None
    ) -> None:
        self.place = place
        self.url = url
        self.raw = raw
        self.namespace = namespace
        self.trace = Trace()
        self.log: list[logging.LogRecord] = []
        self.caches: list[CacheUnderTest] = []
        self._client = client
        self._path = path

    def open(self, **options: Any) -> CacheUnderTest:
        """Another cache on the same store, as another process would have it."""
        options = {"namespace": self.namespace, **PATIENT, **options}
        is_sync = self.place.runtime == "sync"
        kind: Any = cache_sync.Cache if is_sync else cache_anyio.Cache
        if self.place.store == "client":
            cache = kind.from_client(self._client, **options)
        elif self._path is not None:
            cache = kind.from_backend(self._third_partys, **options)
        else:
            cache = kind.from_url(self.url, **options)
        # One sequence of random numbers for each cache, the same in all places.
        cache._requests._entropy = entropy = random.Random(len(self.caches))
        cache._requests._draw = entropy.randbytes
        opened = CacheUnderTest(cache, is_sync=is_sync)
        driver = opened.driver
        driver._backend = _Recorder(driver._backend, self.trace, options["namespace"])
        self.caches.append(opened)
        return opened

    def _third_partys(self, *_: Any) -> SqliteBackend | AnyioSqliteBackend:
        assert self._path is not None
        kind = SqliteBackend if self.place.runtime == "sync" else AnyioSqliteBackend
        return kind(self._path)

    @property
    def cache(self) -> CacheUnderTest:
        """The cache that the test is about."""
        return self.caches[0]

    def take_log(self) -> list[str]:
        """What was logged since the last call. A test that expects nothing need not ask."""
        messages = [record.getMessage() for record in self.log]
        self.log.clear()
        return messages

    async def close(self) -> None:
        """Close the caches."""
        with anyio.CancelScope(shield=True):
            for cache in self.caches:
                await cache.aclose()

    def check(self) -> None:
        """What holds at the end of every test, whatever it did."""
        for cache in self.caches:
            if not cache.is_sync:
                assert cache.cache._endings == {}, "an ending that nobody waits for is left (B2)"
            driver = cache.cache._driver if cache.is_sync else None
            if driver is not None:
                assert len(driver._coordinator.single_flight) == 0, "a load is left (B2)"
                assert driver._endings == {}, "an ending that nobody waits for is left (B2)"
                assert driver._watches == set(), "a watch is left (B2)"
        assert [record.getMessage() for record in self.log] == []
        self._check_ttls()

    def _check_ttls(self) -> None:
        """Every value expires when its fill said (B1)."""
        for key, cell in self.raw.read().items():
            if isinstance(cell, Cell) and cell.filled_by in self.trace.fills:
                # By its key as well: two nodes may issue one id in one microsecond, for a key each.
                fills, named = self.trace.fills_of, (self.raw.full(key), cell.filled_by)
                hard_ttl_ms, sent_s = fills.get(named) or self.trace.fills[cell.filled_by]
                left_ms = self.raw.ttl_ms(key)
                age_ms = (time.monotonic() - sent_s) * 1000  # looked at last: a stall makes it no younger
                assert hard_ttl_ms - age_ms - 100 <= left_ms <= hard_ttl_ms

    def summary(self, compare: str) -> dict[str, Any]:
        """What is compared between places: see `runs`."""
        names = compare == "trace"
        left = {key: _left(cell, names=names) for key, cell in self.raw.read().items()}
        if not names:
            return {"store": left}
        stats = [{name: getattr(cache.stats(), name) for name in _COUNTERS} for cache in self.caches]
        return {"commands": self.trace.folded(), "stats": stats, "store": left}


def _left(cell: Cell | Foreign | Tag, *, names: bool) -> Any:
    """What is compared of a key."""
    match cell:
        case Foreign():
            return FOREIGN
        case Tag(version=version):
            return ("tag", version[:8] if names else None)
        case _:
            return (
                Kind(cell.kind).name,
                cell.grant != NO_GRANT,
                cell.soft_ms != 0,
                cell.filled_by[:8] if names else None,
                _content(cell.body, names=names),
            )


# --- Running tests


@contextmanager
def _logged_to(records: list[logging.LogRecord]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    logger = logging.getLogger("sansio_cache")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _client_for(place: Place, url: str, stack: ExitStack) -> Any:
    if place.store != "client":
        return None
    if place.runtime == "asyncio":
        return redis.asyncio.Redis.from_url(url)
    return stack.enter_context(closing(redis.Redis.from_url(url)))


def run_in(
    place: Place,
    test: Callable[..., Any],
    ask: Callable[[str], Any],
    compare: str | None,
    options: dict[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any] | None:
    """Run a test in one place; returns what is to be compared. `ask` gets a fixture by its name."""
    namespace = f"t{uuid4().hex[:12]}"
    with ExitStack() as stack:
        raw: Raw
        path: str | None = None
        if place.store == "memory":
            # Under a name, so that all caches of the test share one store, which ends with them.
            url = f"memory://{namespace}"
            holder = cache_sync.Cache.from_url(url, namespace=namespace)
            stack.callback(holder.close)
            memory = holder._backend.memory  # type: ignore[attr-defined]
            assert isinstance(memory, SharedMemory)
            raw = MemoryRaw(namespace, memory)
        elif place.store == "sqlite":
            url = "memory://"  # of a cache that is switched off: it asks no store
            path = str(Path(stack.enter_context(TemporaryDirectory())) / "cache.sqlite")
            raw = SqliteRaw(namespace, path, stack.enter_context(closing(SqliteBackend(path))))
        elif place.store == "cluster":
            url = ask("cluster_servers").url
            client_of_all = ask("cluster_servers").client()
            raw = stack.enter_context(closing(ClusterRaw(namespace, client_of_all, url)))
        elif place.store == "sentinel":
            watched = ask("watched_servers")
            url = watched.url
            raw = ServerRaw(namespace, stack.enter_context(closing(connect(watched.first.url))))
        else:
            url = ask("redis_url")
            raw = ServerRaw(namespace, stack.enter_context(closing(connect(url))))
            if place.store == "unix":
                url = ask("redis_server").unix_url
            elif place.store == "tls":
                proxy = stack.enter_context(TlsProxy(ask("redis_server").port))
                url = f"{proxy.url}?ssl_ca_certs={proxy.ca_file}"
        client = _client_for(place, url, stack)
        world = World(place, url, raw, namespace, client, path)

        async def main() -> None:
            try:
                world.open(**options)
                await test(world, **extra)
                for cache in world.caches:
                    if not cache.cache._is_closed:
                        assert len(cache.driver._coordinator.single_flight) == 0, "a load is left (B2)"
            finally:
                await world.close()
                if place.store == "client" and place.runtime == "asyncio":
                    await client.aclose()

        with _logged_to(world.log):
            anyio.run(main, backend=place.backend)
        world.check()
        if place in WAYS_IN:
            gc.collect()  # what was not closed complains here, and not in the next test
        return None if compare is None else world.summary(compare)


_references: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def _reference(
    test: Callable[..., Any], compare: str, options: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """What the test does on threads and memory."""
    kept = _references.setdefault(test, {})
    case = repr(sorted(extra.items()))
    if case not in kept:

        def ask(name: str) -> Any:
            raise LookupError(f"the memory store needs no {name}")

        kept[case] = run_in(REFERENCE, test, ask, compare, options, extra)
    found: dict[str, Any] = kept[case]
    return found


def runs(
    on: tuple[Place, ...] = EVERYWHERE, *, compare: str | None = "trace", **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a test of `async def test_…(world, …)`, run in several places.

    Args:
        on: The places.
        compare: What must be the same in all places: "trace" for commands, counters and what is left in
            the store; "store" where commands may come in any order; None where places differ on purpose.
        options: Of the cache that the test is about.
    """

    def decorate(test: Callable[..., Any]) -> Callable[..., None]:
        others = [parameter for name, parameter in signature(test).parameters.items() if name != "world"]

        def run(request: pytest.FixtureRequest, place: Place, **extra: Any) -> None:
            left = run_in(place, test, request.getfixturevalue, compare, options, extra)
            if compare is not None and left is not None:
                wanted = _reference(test, compare, options, extra)
                other = [
                    f"{each}: {left[each]}\nnot {wanted[each]}"
                    for each in wanted
                    if left[each] != wanted[each]
                ]
                assert not other, "\n".join(other)

        run.__name__ = test.__name__
        run.__qualname__ = test.__qualname__
        run.__doc__ = test.__doc__
        run.__module__ = test.__module__
        own = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("request", "place")]
        run.__signature__ = signature(run).replace(  # type: ignore[attr-defined]
            parameters=[*own, *others], return_annotation=Parameter.empty
        )
        places = [pytest.param(each, marks=each.marks, id=str(each)) for each in on]
        marked: Callable[..., None] = pytest.mark.parametrize("place", places)(run)
        for mark in getattr(test, "pytestmark", ()):
            marked = pytest.mark.__getattr__(mark.name)(*mark.args, **mark.kwargs)(marked)
        return marked

    return decorate
