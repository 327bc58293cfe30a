"""The cache for scripts and threads.

    from sansio_cache_redis.sync import Cache

    with Cache.from_url("redis://localhost", namespace="shop") as cache:
        user = cache.get_or_load("user:1", lambda: database.user(1), type=User)

Mirrors `anyio.py` method by method. One cache serves any number of threads; it may be used without `with`,
and after a fork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from weakref import WeakSet

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
from sansio_cache_redis.connections.settings import MEMORY, blocking_factory, check_client, scheme_of
from sansio_cache_redis.connections.threads import ClientConnections, ThreadsConnections
from sansio_cache_redis.errors import ERRORS
from sansio_cache_redis.health import Health, health_of_memory, judge, probes
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.wire import ServerClock
from sansio_cache_runtime.loaders import refuse_coroutine_function
from sansio_cache_runtime.memory import SharedMemory, memory_for
from sansio_cache_runtime.progress import check_progress, reporting
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.request_builder import AnyTtl, Mutation, RequestBuilder
from sansio_cache_runtime.results import InvalidateResult, PatternResult, not_ready, not_told, raise_failure
from sansio_cache_runtime.subscribers import Explanation, check_subscriber
from sansio_cache_runtime.sync.driver import Driver, RedisStore, Store
from sansio_cache_runtime.sync.entity import Entity

T = TypeVar("T")
D = TypeVar("D")

_PROBE_S = 1.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Cache:
    """A read-through cache for threads. Make one with `from_url`, `from_client` or `from_config`."""

    def __init__(self, config: CacheConfig, client: Any = None) -> None:
        """Use a classmethod; this is what they share. Nothing is connected yet."""
        self._config = config
        self._client = client
        self._recorder = Recorder(config)
        self._requests = RequestBuilder(config, self._recorder)
        self._is_closed = False
        if client is not None:
            check_client(client, blocking=True)
        is_memory = client is None and scheme_of(config.redis.url) == MEMORY
        self._memory = memory_for(config) if is_memory else None
        self._connect = None if is_memory or client is not None else blocking_factory(config.redis)
        self._assemble()
        _caches.add(self)

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
        """A cache on a `redis.Redis` that you own: the cache never closes it.

        Its own time-outs and retries apply; make it with a short `socket_timeout` and without retries.

        Raises:
            ConfigurationError: The client, or an option, cannot be used.
        """
        if client is None:
            raise ConfigurationError("from_client takes a redis.Redis; got None")
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.Cache namespace={self._config.namespace!r}>"

    def close(self) -> None:
        """Close connections and end background threads. The cache cannot be used after that."""
        if self._is_closed:
            return
        self._is_closed = True
        self._recorder.close()
        self._driver.close()
        if self._channel is not None:
            self._channel.close()

    @property
    def key(self) -> KeyBuilder:
        """Builds keys and patterns in this cache's namespace."""
        return self._requests.keys

    # Reading.

    @overload
    def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any: ...
    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """The value of a key, or the default. Never raises for what is stored, or for the store.

        Args:
            key: A str inside the namespace, or a built `Key`.
            default: What to give where there is no fresh value of this type.
            type: What the value is: any type that msgspec can decode. Without one, plain JSON values.

        Raises:
            InvalidKeyError: The key cannot be one.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        outcome = self._driver.run(self._requests.get(key, type))
        if isinstance(outcome, Value):
            return outcome.value
        raise_failure(outcome)
        return default

    @overload
    def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]: ...
    def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        """The values of those keys that have one, by the keys as you wrote them. One round trip.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        names, step = self._requests.get_many(keys, type)
        outcome = self._run(step)
        raise_failure(outcome)
        assert isinstance(outcome, ManyRead)
        found = zip(names, outcome.values, strict=True)
        return {name: each.value for name, each in found if isinstance(each, Value)}

    @overload
    def get_or_load(
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
    def get_or_load(
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
    def get_or_load(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        type: Any,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> Any: ...
    def get_or_load(
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
            loader: Called where the value must be loaded. It takes nothing, or a `context`; it gives the
                value, `Fresh(value, ttl=…)`, or `Absent()` where there is nothing, which makes the result
                None.
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
        refuse_coroutine_function(loader)
        step = self._requests.get_or_load(key, loader, type, ttl, tags, policy)
        outcome = self._driver.run(step, loader)
        if isinstance(outcome, Value):
            return outcome.value
        if isinstance(outcome, Raised):
            raise outcome.error
        raise_failure(outcome)
        assert isinstance(outcome, Loaded)
        return outcome.value

    @overload
    def get_or_load_many(
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
    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        *,
        type: Any = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]: ...
    def get_or_load_many(
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
            loader: It may give `Fresh` and `Absent` in place of values.
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
        refuse_coroutine_function(loader)
        names, step = self._requests.get_or_load_many(keys, loader, type, ttl, tags, policy)
        outcome = self._driver.run(step, loader)
        if isinstance(outcome, Raised):
            raise outcome.error
        raise_failure(outcome)
        assert isinstance(outcome, ManyLoaded)
        found = zip(names, outcome.values, strict=True)
        return {name: each.value for name, each in found if isinstance(each, Value)}

    # Writing.

    def set(
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
        [is_stored] = self._stored(self._run(step))
        return is_stored

    def set_many(
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
        return dict(zip(names, self._stored(self._run(step)), strict=True))

    def invalidate(self, *keys: str, tags: Iterable[str] = ()) -> InvalidateResult:
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
        return self._invalidated(self._run(self._requests.invalidate(keys, tags)))

    def expire(self, *keys: str) -> InvalidateResult:
        """Make values stale at once: those who may serve stale values still do while one refreshes it.

        Loads of them that are in flight are voided. What the store cannot be told of now is remembered, and
        removed when it is back.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            CacheConnectionError: As `invalidate`.
        """
        return self._invalidated(self._run(self._requests.expire(keys)))

    @contextmanager
    def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> Iterator[None]:
        """Invalidate when the block has ended, however it ends: it may have committed.

            with cache.invalidating("user:1", tags=["users"]):
                database.rename(1, "Ada")

        For a hook that runs after a commit, `functools.partial(cache.invalidate, "user:1")` is all it takes.

        Raises:
            InvalidKeyError: A key or tag cannot be one; nothing of the block has run.
            CacheConnectionError: As `invalidate`.
        """
        plan = self._requests.invalidation(keys, tags)
        try:
            yield
        finally:
            self._invalidated(self._run(plan()))

    def delete_pattern(
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
        return self._removed(self._run(step))

    def clear(self) -> PatternResult:
        """Remove everything in the namespace."""
        return self._removed(self._run(self._requests.clear()))

    def mutate(
        self, *keys: str, tags: Iterable[str] = (), value_tags: Iterable[str] = ()
    ) -> AbstractContextManager[Mutation]:
        """Hold keys while the block writes the database.

            with cache.mutate("user:1") as m:
                database.rename(1, "Ada")
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

    @contextmanager
    def _mutating(self, mutation: Mutation) -> Iterator[Mutation]:
        held = ManyHeld(None, None)
        has_ended = False
        try:
            outcome = self._run(mutation.begin())
            assert isinstance(outcome, ManyHeld)
            held = outcome
            with self._driver.renewing(held.renewal):
                yield mutation
            has_ended = True
        finally:
            self._run(mutation.end(held, raised=not has_ended))

    def entity(
        self,
        name: str,
        type: type[T],
        *,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        loader: Callable[[Any], Any] | None = None,
        generations: bool = False,
    ) -> Entity[T]:
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
        return Entity(self, plan)

    # Looking.

    def stats(self) -> CacheStats:
        """The counters as they are now; the difference of two is what happened in between."""
        return self._recorder.snapshot()

    def subscribe(self, subscriber: Callable[[Notice], object]) -> Callable[[], None]:
        """Have a function called with each notice that the cache states: a hit, a miss, a load, a failure.

        It is called where the notice was stated, after the statistics have counted it: in the thread or task
        of the call, or of the cache's own background work. So it should be quick, and from threads it may
        run several times at once. What it raises is logged once, and goes no further. It may use the cache,
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
                cache.get_or_load("user:1", load)
            print(story)

        The calls are those of this context: of this thread, and of threads that were given its context; not
        of others that run at the same time.
        """
        return self._recorder.subscribers.explain()

    def health(self) -> Health:
        """Ask the server whether everything is there that the cache needs. Never raises for the server."""
        self._check_open()
        bypassing, remembered = self._recorder.is_out, self._recorder.remembered
        if self._memory is not None:
            health = health_of_memory(self._memory.store)
            return attrs.evolve(health, bypassing=bypassing, remembered=remembered)
        assert self._channel is not None
        asked = probes(self._config.namespace)
        started_s = time.monotonic()
        try:
            replies = self._channel.execute([args for _, args in asked], _PROBE_S)
        except ERRORS as error:
            problem = f"the server cannot be asked: {type(error).__name__}"
            return Health(ok=False, problems=(problem,), bypassing=bypassing, remembered=remembered)
        latency_s = time.monotonic() - started_s
        health = judge(asked, replies, self._config.max_value_bytes)
        return attrs.evolve(health, latency_s=latency_s, bypassing=bypassing, remembered=remembered)

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the store serves.

        Args:
            timeout_s: How long, in seconds; the configuration's `connect_timeout_s` where not given.

        Raises:
            CacheTimeoutError: It does not answer in time.
            CacheConnectionError: It cannot be reached in time, or refuses.
        """
        self._check_open()
        if self._recorder.is_disabled:
            return
        limit_s = self._config.redis.connect_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit_s
        pause_s = _PAUSE_S
        while True:
            left_s = deadline_s - time.monotonic()
            event = self._store.perform(Ping(min(max(left_s, 0.001), _PROBE_S)))
            if not isinstance(event, StoreFailed):
                self._recorder.note((StoreAnswered(),))
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= _PAUSE_S:
                raise not_ready(event.kind, limit_s)
            time.sleep(min(pause_s, left_s - _PAUSE_S))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # Inside.

    def _assemble(self) -> None:
        """Make the parts that hold locks, threads and connections."""
        self._channel: ThreadsConnections | ClientConnections | None
        self._store: Store
        if self._memory is not None:
            self._channel, self._store = None, self._memory
        else:
            server_clock = ServerClock()
            clock = self._requests.clock
            if self._connect is None:
                self._channel = ClientConnections(self._client)
            else:
                self._channel = ThreadsConnections(
                    self._connect,
                    max_connections=self._config.redis.max_connections,
                    on_time=lambda server_us: server_clock.learn(server_us, clock()),
                )
            self._store = RedisStore(self._channel, server_clock, clock)
        listener = Listener(self._connect, self._config.namespace) if self._connect is not None else None
        self._driver = Driver(self._store, self._recorder, self._requests, self._distrust, listener)

    def _distrust(self) -> None:
        if self._channel is not None:
            self._channel.reset()

    def _check_open(self) -> None:
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")

    def _run(self, step: Step) -> Outcome:
        return self._driver.run(step)

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

    def _after_fork(self) -> None:
        """In the child: no thread of the parent is here, and its connections are the parent's."""
        if self._is_closed:
            return
        self._recorder.after_fork()
        if isinstance(self._memory, SharedMemory):
            self._memory.after_fork()
        self._assemble()


_caches: WeakSet[Cache] = WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_caches):
        cache._after_fork()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
