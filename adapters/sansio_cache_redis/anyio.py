"""The cache for asyncio and trio.

    from sansio_cache_redis.anyio import Cache

    async with Cache.from_url("redis://localhost", namespace="shop") as cache:
        user = await cache.get_or_load("user:1", lambda: database.user(1), type=User)

Mirrors `sync.py` method by method. One cache serves the tasks of one event loop at a time, whichever of the
two it is; it may be made before the loop runs, used without `async with`, and used again in another loop
after the first has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import anyio
import attrs

from sansio_cache.commands import Ping
from sansio_cache.config import CacheConfig
from sansio_cache.errors import CacheClosedError, ConfigurationError
from sansio_cache.events import StoreFailed
from sansio_cache.keys import KeyBuilder
from sansio_cache.loader import Fresh, LoadContext
from sansio_cache.notices import Notice, OperationName, StoreAnswered
from sansio_cache.policy import Policy
from sansio_cache.stats import CacheStats
from sansio_cache.step import (
    Loaded,
    ManyHeld,
    ManyInvalidated,
    ManyLoaded,
    ManyRead,
    ManyStored,
    Outcome,
    PatternRemoved,
    Raised,
    Step,
    Value,
)
from sansio_cache_redis.connections.settings import (
    MEMORY,
    asyncio_factory,
    blocking_factory,
    check_any_client,
    check_client,
    opening_timeout_s,
    scheme_of,
)
from sansio_cache_redis.errors import ERRORS
from sansio_cache_redis.health import Health, health_of_memory, judge, probes
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.wire import ServerClock
from sansio_cache_runtime.anyio.background import AsyncioBackground, Background
from sansio_cache_runtime.anyio.driver import Channel, Driver, MemoryStore, RedisStore, Store
from sansio_cache_runtime.anyio.entity import AsyncEntity
from sansio_cache_runtime.memory import memory_for
from sansio_cache_runtime.progress import check_progress, reporting
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.request_builder import AnyTtl, Mutation, RequestBuilder
from sansio_cache_runtime.results import InvalidateResult, PatternResult, not_ready, not_told, raise_failure
from sansio_cache_runtime.subscribers import Explanation, check_subscriber

T = TypeVar("T")
D = TypeVar("D")

_PROBE_S = 1.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_CLOSE_S = 1.0


@attrs.frozen(eq=False)
class _Binding:
    """What belongs to one event loop."""

    running_loop: Callable[[], object]
    loop: object
    background: Background
    channel: Channel | None
    store: Store
    driver: Driver


class Cache:
    """A read-through cache for asyncio and trio. Make one with `from_url`, `from_client` or `from_config`."""

    def __init__(self, config: CacheConfig, client: Any = None) -> None:
        """Use a classmethod; this is what they share. Nothing is connected yet."""
        self._config = config
        self._client = client
        self._recorder = Recorder(config)
        self._requests = RequestBuilder(config, self._recorder)
        self._is_closed = False
        if client is not None:
            check_any_client(client)
        is_memory = client is None and scheme_of(config.redis.url) == MEMORY
        self._memory = memory_for(config) if is_memory else None
        if client is None and not is_memory:
            asyncio_factory(config.redis)  # refuses what it cannot use here, and not in the first call
        self._binding: _Binding | None = None

    @classmethod
    def from_url(cls, url: str, *, namespace: str, **options: Any) -> Self:
        """A cache on a server, or in this process's memory.

        Args:
            url: `redis://…`, `rediss://…` (TLS), `unix://…`, `memory://` (a store of its own) or
                `memory://name` (one that all caches of this process with that name share).
            namespace: The first part of every key.
            options: The fields of `CacheConfig` and `RedisConfig`.

        Raises:
            ConfigurationError: The URL or an option cannot be used.
            InvalidKeyError: The namespace cannot be used.
        """
        scheme_of(url)
        return cls(CacheConfig.from_options(namespace=namespace, url=url, **options))

    @classmethod
    def from_client(cls, client: Any, *, namespace: str, **options: Any) -> Self:
        """A cache on a redis-py client that you own: the cache never closes it.

        Under asyncio a `redis.asyncio.Redis`; under trio, where that cannot run, a blocking `redis.Redis`,
        which is driven on worker threads. Its own time-outs and retries apply; make it with a short
        `socket_timeout` and without retries.

        Raises:
            ConfigurationError: The client, or an option, cannot be used.
        """
        if client is None:
            raise ConfigurationError("from_client takes a client of redis-py; got None")
        if "url" in options:
            raise ConfigurationError("from_client takes no url: the client knows where its server is")
        return cls(CacheConfig.from_options(namespace=namespace, **options), client)

    @classmethod
    def from_config(cls, config: CacheConfig) -> Self:
        """A cache from a configuration.

        Raises:
            ConfigurationError: It cannot be used.
        """
        if not isinstance(config, CacheConfig):
            raise ConfigurationError(f"from_config takes a CacheConfig; got {type(config).__name__}")
        return cls(config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.Cache namespace={self._config.namespace!r}>"

    async def aclose(self) -> None:
        """Close connections and end background threads. The cache cannot be used after that."""
        if self._is_closed:
            return
        self._is_closed = True
        binding, self._binding = self._binding, None
        if binding is not None and not binding.background.is_over():
            self._recorder.close()
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await binding.driver.close()
            if binding.channel is not None:
                with anyio.move_on_after(_CLOSE_S, shield=True):
                    await binding.channel.aclose()

    @property
    def key(self) -> KeyBuilder:
        """Builds keys and patterns in this cache's namespace."""
        return self._requests.keys

    # Reading.

    @overload
    async def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any: ...
    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """The value of a key, or the default. Never raises for what is stored, or for the store.

        Args:
            key: A str inside the namespace, or a built `Key`.
            default: What to give where there is no fresh value of this type.
            type: What the value is: any type that msgspec can decode. Without one, plain JSON values.

        Raises:
            InvalidKeyError: The key cannot be one.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        outcome = await self._bound().driver.run(self._requests.get(key, type))
        if isinstance(outcome, Value):
            return outcome.value
        raise_failure(outcome)
        return default

    @overload
    async def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]: ...
    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        """The values of those keys that have one, by the keys as you wrote them. One round trip.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        names, step = self._requests.get_many(keys, type)
        outcome = await self._run(step)
        raise_failure(outcome)
        assert isinstance(outcome, ManyRead)
        found = zip(names, outcome.values, strict=True)
        return {name: each.value for name, each in found if isinstance(each, Value)}

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        type: type[T],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], Awaitable[T | Fresh[T]]] | Callable[[LoadContext], Awaitable[T | Fresh[T]]],
        *,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], T | Fresh[T]] | Callable[[LoadContext], T | Fresh[T]],
        *,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        type: Any,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> Any: ...
    async def get_or_load(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        type: Any = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> Any:
        """The value of a key, from the loader where there is none. One caller loads, the others wait.

        Whatever happens to the store, the loader's answer is given. Its snapshot of the database must be
        opened inside it: an older transaction, or a lagging replica, can store an old value.

        Args:
            key: A str inside the namespace, or a built `Key`.
            loader: Called where the value must be loaded: a coroutine function, or a plain one, which runs on
                a worker thread. It takes nothing, or a `context`; it gives the value, `Fresh(value,
                ttl=…)`, or `Absent()` where there is nothing, which makes the result None.
            type: What the value is: any type that msgspec can decode. Without one, plain JSON values.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy.
            tags: What else it depends on, by name: `invalidate(tags=…)` takes it away. Readers name the same
                tags as writers do.
            policy: In place of the cache's policy.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
            ConfigurationError: The loader, the type or the policy cannot be used.
            RecursiveLoadError: The loader asked for its own key.
            CacheConnectionError: The store failed, or another's load took too long, and the policy says to
                raise.
            Exception: What the loader raises, unchanged.
        """
        step = self._requests.get_or_load(key, loader, type, ttl, tags, policy)
        outcome = await self._bound().driver.run(step, loader)
        if isinstance(outcome, Value):
            return outcome.value
        if isinstance(outcome, Raised):
            raise outcome.error
        raise_failure(outcome)
        assert isinstance(outcome, Loaded)
        return outcome.value

    @overload
    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        *,
        type: type[T],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, T]: ...
    @overload
    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        *,
        type: Any = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]: ...
    async def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        *,
        type: Any = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]:
        """The values of many keys, by the keys as you wrote them; one call of the loader for what is missing.

        The loader is called with a list of the keys that this caller may load, and gives a mapping of these
        keys to values. Keys that others are loading are waited for, after that. A key for which there is no
        value is missing from the answer.

        Args:
            keys: Strs inside the namespace, or built keys.
            loader: A coroutine function, or a plain one, which runs on a worker thread. It may give `Fresh`
                and `Absent` in place of values.
            type: What the values are: any type that msgspec can decode. Without one, plain JSON values.
            ttl: How long they stay fresh: seconds, a timedelta, a tier or a policy.
            tags: What else they all depend on, by name.
            policy: In place of the cache's policy.

        Raises:
            InvalidKeyError: A key or tag cannot be one.
            InvalidTtlError: The ttl is no time to live.
            ConfigurationError: The loader, the type or the policy cannot be used, or the loader gave no
                mapping.
            RecursiveLoadError: The loader asked for one of its own keys.
            CacheConnectionError: The store failed, or others' loads took too long, and the policy says to
                raise.
            Exception: What the loader raises, unchanged.
        """
        names, step = self._requests.get_or_load_many(keys, loader, type, ttl, tags, policy)
        outcome = await self._bound().driver.run(step, loader)
        if isinstance(outcome, Raised):
            raise outcome.error
        raise_failure(outcome)
        assert isinstance(outcome, ManyLoaded)
        found = zip(names, outcome.values, strict=True)
        return {name: each.value for name, each in found if isinstance(each, Value)}

    # Writing.

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
    ) -> bool:
        """Store a value. True if it was stored; False if the store failed, or another write came between.

        Between two racing calls the last one wins, which need not be the one that wrote the database last:
        `mutate` is for that.

        Args:
            key: A str inside the namespace, or a built `Key`.
            value: What to store. Without a type, a plain JSON value.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy.
            tags: What else it depends on, by name. Invalidated after this call began, they take it away.
            type: What the value is stored as; readers give the same type.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
            SerializationError: The value would not come back equal, or is too large.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        _, step = self._requests.set_many({self.key.resolve(key): value}, ttl, tags, type, OperationName.SET)
        [is_stored] = self._stored(await self._run(step))
        return is_stored

    async def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
    ) -> dict[str, bool]:
        """Store values, in two round trips; says of each key whether it was stored.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            InvalidTtlError: The ttl is no time to live.
            SerializationError: A value would not come back equal, or is too large; nothing is stored.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        names, step = self._requests.set_many(values, ttl, tags, type)
        return dict(zip(names, self._stored(await self._run(step)), strict=True))

    async def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> InvalidateResult:
        """Remove keys, and everything that has one of the tags; void every load of them that is in flight.

        What the store cannot be told of now is remembered: this process does not read it from the store until
        it has been told.

        Args:
            keys: Strs inside the namespace, or built keys.
            tags: Names of tags. Each costs one removal, however many entries have it.

        Raises:
            InvalidKeyError: A key or tag cannot be one.
            CacheConnectionError: The store could not be told, and the policy says to raise; it is remembered
                all the same.
        """
        return self._invalidated(await self._run(self._requests.invalidate(keys, tags)))

    async def expire(self, *keys: str) -> InvalidateResult:
        """Make values stale at once: those who may serve stale values still do while one refreshes it.

        Loads of them that are in flight are voided. What the store cannot be told of now is remembered, and
        removed when it is back.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            CacheConnectionError: As `invalidate`.
        """
        return self._invalidated(await self._run(self._requests.expire(keys)))

    @asynccontextmanager
    async def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> AsyncIterator[None]:
        """Invalidate when the block has ended, however it ends: it may have committed.

            async with cache.invalidating("user:1", tags=["users"]):
                await database.rename(1, "Ada")

        For a hook that runs after a commit, `functools.partial(cache.invalidate, "user:1")` is all it takes.

        Raises:
            InvalidKeyError: A key or tag cannot be one; nothing of the block has run.
            CacheConnectionError: As `invalidate`.
        """
        plan = self._requests.invalidation(keys, tags)
        try:
            yield
        finally:
            self._invalidated(await self._run(plan()))

    async def delete_pattern(
        self,
        pattern: str,
        *,
        dry_run: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> PatternResult:
        """Remove the keys that match a Redis glob inside the namespace, a page at a time.

        Keys that are there all the time are found; one that is added meanwhile may be left.

        Args:
            pattern: `user:*`, or what `key.pattern()` builds.
            dry_run: Count the keys, and remove nothing.
            progress: Called after each page with the number of keys removed so far, or counted. What it
                raises ends the deletion.

        Raises:
            InvalidKeyError: The pattern cannot be one.
            ConfigurationError: The progress cannot be called, or is a coroutine function.
        """
        step = self._requests.delete_pattern(pattern, dry_run=dry_run)
        if progress is not None:
            check_progress(progress)
            step = reporting(step, progress)
        return self._removed(await self._run(step))

    async def clear(self) -> PatternResult:
        """Remove everything in the namespace."""
        return self._removed(await self._run(self._requests.clear()))

    def mutate(
        self, *keys: str, tags: Iterable[str] = (), value_tags: Iterable[str] = ()
    ) -> AbstractAsyncContextManager[Mutation]:
        """Hold keys while the block writes the database.

            async with cache.mutate("user:1") as m:
                await database.rename(1, "Ada")
                m.set("user:1", {"name": "Ada"})

        While they are held, readers load and do not store. At the end, what was set is stored, and what
        was not is invalidated, and so are the tags; everything is invalidated where the block raises, or
        where another writer came between.

        Args:
            keys: Strs inside the namespace, or built keys.
            tags: Names of tags to invalidate at the end.
            value_tags: Names of tags that the stored values carry. Invalidated by anybody after the block has
                begun, they take the values away.

        Raises:
            InvalidKeyError: A key or tag cannot be one, or there are more than `max_batch_keys`.
        """
        return self._mutating(self._requests.mutation(keys, tags, value_tags))

    @asynccontextmanager
    async def _mutating(self, mutation: Mutation) -> AsyncIterator[Mutation]:
        held = ManyHeld(None, None)
        has_ended = False
        try:
            outcome = await self._run(mutation.begin())
            assert isinstance(outcome, ManyHeld)
            held = outcome
            async with self._bound().driver.renewing(held.renewal):
                yield mutation
            has_ended = True
        finally:
            await self._run(mutation.end(held, raised=not has_ended))

    def entity(
        self,
        name: str,
        type: type[T],
        *,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        loader: Callable[[Any], Any] | None = None,
        generations: bool = False,
    ) -> AsyncEntity[T]:
        """A typed view of one kind of thing: its name, type and policy are said once.

        Args:
            name: The first part of the keys: `user` makes `namespace:user:7`.
            type: What the values are: any type that msgspec can decode.
            ttl: How long they stay fresh: seconds, a timedelta, a tier or a policy.
            policy: In place of the cache's policy.
            loader: Called with an id where a value must be loaded.
            generations: Tie every entry to a version of the whole entity, so that `invalidate_all` is one
                removal. A read of one that does not come through the view costs a second round trip.

        Raises:
            InvalidKeyError: The name cannot be one.
            ConfigurationError: The type, the policy or the loader cannot be used.
        """
        plan = self._requests.entity(name, type, ttl, policy, loader, generations=generations)
        return AsyncEntity(self, plan)

    # Looking.

    def stats(self) -> CacheStats:
        """The counters as they are now; the difference of two is what happened in between."""
        return self._recorder.snapshot()

    def subscribe(self, subscriber: Callable[[Notice], object]) -> Callable[[], None]:
        """Have a function called with each notice that the cache states: a hit, a miss, a load, a failure.

        It is called where the notice was stated, after the statistics have counted it: in the thread or task
        of the call, or of the cache's own background work. So it should be quick, and a slow one
        holds up the event loop. What it raises is logged once, and goes no further. It may use the cache,
        and hears of that as well.

        Args:
            subscriber: A plain function of one notice; see `sansio_cache.notices`. No notice holds a value.

        Returns:
            A function that ends the subscription; calling it again does nothing.

        Raises:
            ConfigurationError: The subscriber cannot be called, or is a coroutine function.
        """
        check_subscriber(subscriber)
        return self._recorder.subscribers.subscribe(subscriber)

    def explain(self) -> AbstractContextManager[Explanation]:
        """Collect what this cache's calls in the block do, as a story that can be read.

            with cache.explain() as story:
                await cache.get_or_load("user:1", load)
            print(story)

        The calls are those of this context: of this task, and of tasks and worker threads that are started in
        the block; not of others that run at the same time.
        """
        return self._recorder.subscribers.explain()

    async def health(self) -> Health:
        """Ask the server whether everything is there that the cache needs. Never raises for the server."""
        channel = self._bound().channel
        bypassing, remembered = self._recorder.is_out, self._recorder.remembered
        if self._memory is not None:
            health = health_of_memory(self._memory.store)
            return attrs.evolve(health, bypassing=bypassing, remembered=remembered)
        assert channel is not None
        asked = probes(self._config.namespace)
        started_s = time.monotonic()
        try:
            replies = await channel.execute([args for _, args in asked], _PROBE_S)
        except ERRORS as error:
            problem = f"the server cannot be asked: {type(error).__name__}"
            return Health(ok=False, problems=(problem,), bypassing=bypassing, remembered=remembered)
        latency_s = time.monotonic() - started_s
        health = judge(asked, replies, self._config.max_value_bytes)
        return attrs.evolve(health, latency_s=latency_s, bypassing=bypassing, remembered=remembered)

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the store serves.

        Args:
            timeout_s: How long, in seconds; the configuration's `connect_timeout_s` where not given.

        Raises:
            CacheTimeoutError: It does not answer in time.
            CacheConnectionError: It cannot be reached in time, or refuses.
        """
        store = self._bound().store
        if self._recorder.is_disabled:
            return
        limit_s = self._config.redis.connect_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit_s
        pause_s = _PAUSE_S
        while True:
            left_s = deadline_s - time.monotonic()
            event = await store.perform(Ping(min(max(left_s, 0.001), _PROBE_S)))
            if not isinstance(event, StoreFailed):
                self._recorder.note((StoreAnswered(),))
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= _PAUSE_S:
                raise not_ready(event.kind, limit_s)
            await anyio.sleep(min(pause_s, left_s - _PAUSE_S))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # Inside.

    async def _run(self, step: Step) -> Outcome:
        return await self._bound().driver.run(step)

    def _bound(self) -> _Binding:
        """What belongs to the running event loop; made with the first call in it."""
        binding = self._binding
        if binding is not None:
            try:
                if binding.running_loop() is binding.loop:
                    return binding
            except RuntimeError:  # not in a loop of that kind
                pass
        return self._bind()

    def _bind(self) -> _Binding:
        running_loop: Callable[[], object]
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            import trio

            running_loop = trio.lowlevel.current_trio_token
            make = self._on_trio
        else:
            running_loop = asyncio.get_running_loop
            make = self._on_asyncio
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")
        if self._binding is not None and not self._binding.background.is_over():
            raise CacheClosedError(
                "the cache is in use by another event loop that is still running: make a cache for each loop"
            )
        server_clock = ServerClock()
        clock = self._requests.clock
        background, channel = make(lambda server_us: server_clock.learn(server_us, clock()))
        store: Store
        if self._memory is not None:
            store = MemoryStore(self._memory)
        else:
            assert channel is not None
            store = RedisStore(channel, server_clock, clock)

        def distrust() -> None:
            if channel is not None:
                channel.reset()

        listener = None
        if self._client is None and self._memory is None:
            listener = Listener(blocking_factory(self._config.redis), self._config.namespace)
        driver = Driver(store, self._recorder, self._requests, background, distrust, listener)
        self._binding = _Binding(running_loop, running_loop(), background, channel, store, driver)
        return self._binding

    def _on_asyncio(self, on_time: Callable[[int], object]) -> tuple[Background, Channel | None]:
        from sansio_cache_redis.connections.asyncio import AsyncioClientConnections, AsyncioConnections

        background = AsyncioBackground()
        if self._memory is not None:
            return background, None
        if self._client is not None:
            check_client(self._client, blocking=False)
            return background, AsyncioClientConnections(self._client)
        channel = AsyncioConnections(
            asyncio_factory(self._config.redis),
            max_connections=self._config.redis.max_connections,
            opening_timeout_s=opening_timeout_s(self._config.redis),
            on_time=on_time,
        )
        return background, channel

    def _on_trio(self, on_time: Callable[[int], object]) -> tuple[Background, Channel | None]:
        from sansio_cache_redis.connections.trio import TrioClientConnections, TrioConnections
        from sansio_cache_runtime.anyio.background import TrioBackground

        background = TrioBackground()
        if self._memory is not None:
            return background, None
        if self._client is not None:
            check_client(self._client, blocking=True)
            return background, TrioClientConnections(self._client)
        channel = TrioConnections(
            blocking_factory(self._config.redis),
            max_connections=self._config.redis.max_connections,
            opening_timeout_s=opening_timeout_s(self._config.redis),
            on_time=on_time,
        )
        return background, channel

    @staticmethod
    def _stored(outcome: Outcome) -> list[bool]:
        assert isinstance(outcome, ManyStored)
        return [result is not None and result.is_accepted for result in outcome.results]

    def _invalidated(self, outcome: Outcome) -> InvalidateResult:
        assert isinstance(outcome, ManyInvalidated)
        result = InvalidateResult(len(outcome.done), len(outcome.failed))
        if result.remembered and self._requests.policy.on_invalidate_error == "raise":
            raise not_told(result)
        return result

    @staticmethod
    def _removed(outcome: Outcome) -> PatternResult:
        assert isinstance(outcome, PatternRemoved)
        return PatternResult(outcome.deleted, outcome.complete, outcome.matched)
