"""The cache for threads, whatever its backend.

Mirrors `anyio/cache.py` method by method. One cache serves any number of threads; it may be used without
`with`, and after a fork.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, TypeVarTuple, Unpack, overload
from weakref import WeakSet, finalize

from sansio_cache.config import CacheConfig, CacheOptions
from sansio_cache.errors import CacheClosedError
from sansio_cache.glance import Beginning
from sansio_cache.health import Health
from sansio_cache.loader import Absent, Form, Fresh, LoadContext, Storable
from sansio_cache.policy import Policy
from sansio_cache.step import Loaded, ManyHeld, Outcome, Value
from sansio_cache_runtime.backend import SyncBackend
from sansio_cache_runtime.blocks import async_block, block
from sansio_cache_runtime.cache_base import made_config, warn_of_dropped
from sansio_cache_runtime.cached import Bond, decorating, refuse_other_caches
from sansio_cache_runtime.crowd import Crowds
from sansio_cache_runtime.driver_base import Call
from sansio_cache_runtime.loaders import bind, refuse_coroutine_function, refuse_for_threads
from sansio_cache_runtime.mutation import HeldKeys, Mutation, plan_mutation
from sansio_cache_runtime.process import MARK, at_begin_in_child, begin_in_child, process_lock
from sansio_cache_runtime.progress import check_progress, reporting
from sansio_cache_runtime.request_builder import AnyTtl, Entropy, Id, RequestBuilder
from sansio_cache_runtime.results import (
    InvalidateResult,
    PatternResult,
    found,
    invalidated,
    loaded,
    read,
    ready,
    refuse_unstored,
    removed,
    renewed,
    stored,
)
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.cached import CachedFunction, Decorator
from sansio_cache_runtime.sync.driver import Driver
from sansio_cache_runtime.sync.event import ThreadEvent
from sansio_cache_runtime.sync.primitives import Primitives
from sansio_cache_runtime.sync.typed import Given, GivenMany, GivenOrNothing, Typed

if TYPE_CHECKING:  # what only entities need is imported with the first of them
    from sansio_cache.strategies import Strategy
    from sansio_cache_runtime.entity import IdOf, Tags
    from sansio_cache_runtime.sync.entity import Entity, GivenById

T = TypeVar("T")
V = TypeVar("V", bound=Storable)
D = TypeVar("D")
HeldT = TypeVar("HeldT", bound=HeldKeys)
Ts = TypeVarTuple("Ts")


class Cache(Primitives):
    """A read-through cache for threads, on any backend.

    Args:
        config: How it behaves.
        make_backend: Makes the store's backend, at once and again after a fork. It is given the background
            that starts threads.
        clock: Monotonic, in seconds: what the cache takes for the time.
        entropy: Where nonces and jitter come from; the operating system where not given.
    """

    _driver_class: type[Driver] = Driver

    def __init__(
        self,
        config: CacheConfig | None = None,
        make_backend: Callable[[Background], SyncBackend] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        entropy: Entropy | None = None,
        **options: Never,  # noqa: ARG002 - to say what to write instead
    ) -> None:
        super().__init__(made_config(config, make_backend), clock, entropy)
        assert make_backend is not None
        self._make_backend = make_backend
        self._driver = self._driver_class.__new__(self._driver_class)
        self._assemble()
        _caches.add(self)
        self._dropped = finalize(self, _drop, self._driver, self._config.namespace)
        self._dropped.atexit = False

    @classmethod
    def from_backend(
        cls,
        make_backend: Callable[[Background], SyncBackend],
        *,
        namespace: str,
        **options: Unpack[CacheOptions],
    ) -> Self:
        """A cache on a store of your own.

        Args:
            make_backend: Makes its backend: see `sansio_cache_runtime.backend`.
            namespace: The first part of every key.
            options: The fields of `CacheConfig`.

        Raises:
            ConfigurationError: An option cannot be used.
            InvalidKeyError: The namespace cannot be used.
        """
        return cls(CacheConfig.from_options(namespace=namespace, **options), make_backend)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @async_block
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:  # noqa: ARG002 - it is passed
        """What FastAPI and Starlette call a lifespan: `FastAPI(lifespan=cache.lifespan)`.

        When the application ends, pending invalidations are told to the store and connections are closed. The
        cache is not: an application that is started again, as tests do, goes on with it.

        It is an asynchronous context manager, which a lifespan of your own may enter.

        Args:
            app: The application. It is not looked at.
        """
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Close connections and end background threads. The cache cannot be used after that.

        Invalidations that are pending are told to the store before that, within the time of one operation; of
        what could not be told, an error is logged.
        """
        if self._is_closed:
            return
        if not MARK[0]:
            begin_in_child()
        self._is_closed = True
        try:
            for recovery in self._driver.last_recoveries():
                self._driver.recover(recovery)
        finally:
            self._recorder.close(self._coordinator.pending_invalidations)
            try:
                self._driver.close()
            finally:
                self._backend.close()
        self._dropped.detach()  # where it was interrupted, what is left is closed when it is dropped

    # Reading.

    @overload
    def get(
        self, key: str, default: None = None, *, type: type[T], renew: AnyTtl | None = None
    ) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T], renew: AnyTtl | None = None) -> T | D: ...
    @overload
    def get(self, key: str, default: Any = None, *, type: Any = None, renew: AnyTtl | None = None) -> Any: ...
    def get(self, key: str, default: Any = None, *, type: Any = None, renew: AnyTtl | None = None) -> Any:
        """The value of a key, or the default. Never raises for what is stored, or for the store.

        Args:
            key: A str inside the namespace, or a built `Key`.
            default: What to give where there is no fresh value of this type.
            type: What the value is: any type that msgspec can decode. Without one, plain JSON values.
            renew: Let the value that is read live longer, as `touch` does: for so long from now.

        Raises:
            InvalidKeyError: The key cannot be one.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        if renew is not None:
            return renewed(self._run(self._requests.renew(key, type, renew)), default)
        driver = self._driver
        outcome = driver.run(self._requests.get(key, type))
        return outcome.value if isinstance(outcome, Value) else read(outcome, default)

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
        return found(names, self._driver.run(step))

    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Given[V]],
        *args: *Ts,
        type: type[V],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> V: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], Given[V]],
        *args: *Ts,
        type: type[V],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> V: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], GivenOrNothing[V]],
        *args: *Ts,
        type: type[V],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> V | None: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], GivenOrNothing[V]],
        *args: *Ts,
        type: type[V],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> V | None: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Fresh[T]],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], Fresh[T]],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Fresh[T] | Absent | None],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T | None: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], Fresh[T] | Absent | None],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T | None: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], T],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], T],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> T: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Any],
        *args: *Ts,
        type: Form,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> Any: ...
    @overload
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts, LoadContext], Any],
        *args: *Ts,
        type: Form,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> Any: ...
    def get_or_load(
        self,
        key: str,
        loader: Callable[[*Ts], Any] | Callable[..., Any],
        *args: *Ts,
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
            loader: Called where the value must be loaded, with `args`, and after them with a `context` if it
                takes one. It gives the value, `Fresh(value, ttl=…)`, or where there is nothing None or
                `Absent(ttl=…)`, which make the result None. Under an event loop it may be a coroutine
                function; a plain one runs on a worker thread there.
            args: What the loader is called with. Give what it needs here: a refresh in the background calls
                it when this call is over, and what it names by itself may be something else by then.
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
        driver = self._driver
        load = bind(loader, args) if args else loader
        step = self._requests.get_or_load(key, load, type, ttl, tags, policy)
        outcome = driver.run(step, load)
        return outcome.value if isinstance(outcome, Value | Loaded) else loaded(outcome)

    @overload
    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[*Ts, list[str]], GivenMany[V]],
        *args: *Ts,
        type: type[V],
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, V]: ...
    @overload
    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[*Ts, list[str]], Any],
        *args: *Ts,
        type: None = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]: ...
    @overload
    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[*Ts, list[str]], Any],
        *args: *Ts,
        type: Form,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]: ...
    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[[*Ts, list[str]], Any],
        *args: *Ts,
        type: Any = None,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
    ) -> dict[str, Any]:
        """The values of many keys, by the keys as you wrote them; one call of the loader for what is missing.

        The loader is called with `args`, and after them with a list of the keys that this caller may load. It
        gives a mapping of these keys to values. Keys that others are loading are waited for, after that. A
        key for which there is no value is missing from the answer.

        Args:
            keys: Strs inside the namespace, or built keys.
            loader: It may give `Fresh`, None and `Absent` in place of values.
            args: What it is called with before the keys.
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
        load = bind(loader, args)
        names, step = self._requests.get_or_load_many(keys, load, type, ttl, tags, policy)
        return found(names, self._driver.run(step, load))

    # Writing.

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
        strict: bool = False,
    ) -> bool:
        """Store a value. True if it was stored.

        False if the store failed, another write came between, or the value has nothing left to live.

        Between two racing calls the last one wins, which need not be the one that wrote the database last:
        `mutate` is for that.

        Args:
            key: A str inside the namespace, or a built `Key`.
            value: What to store. Without a type, a plain JSON value. None is nothing, which is kept for no
                longer than the policy's `negative_ttl`.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy. Where nothing is left of
                it, the key is invalidated; it is never more than ten years.
            tags: What else it depends on, by name. Invalidated after this call began, they take it away.
            type: What the value is stored as; readers give the same type.
            strict: Raise where nothing was stored, and say why, instead of giving False.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no number, or NaN.
            SerializationError: The value would not come back equal, or is too large.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
            NotStoredError: Nothing was stored, and `strict` asks to be told: its `reason` says why.
        """
        step = self._requests.set(key, value, ttl, tags, type)
        outcome = self._driver.run(step)
        if strict:
            refuse_unstored((key,), outcome, is_disabled=self._requests.is_disabled)
        return stored((key,), outcome)[key]

    def set_many(
        self,
        values: Mapping[str, Any],
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
        strict: bool = False,
    ) -> dict[str, bool]:
        """Store values, in two round trips; says of each key whether it was stored: see `set`.

        Raises:
            NotStoredError: With `strict`: a value was not stored; `reasons` says why, for each key.
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            InvalidTtlError: The ttl is no number, or NaN.
            SerializationError: A value would not come back equal, or is too large; nothing is stored.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        names, step = self._requests.set_many(values, ttl, tags, type)
        outcome = self._driver.run(step)
        if strict:
            refuse_unstored(names, outcome, is_disabled=self._requests.is_disabled)
        return stored(names, outcome)

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
        step = self._requests.invalidate(keys, tags)
        return invalidated(self._driver.run(step), raises=self._raises_not_told)

    delete = invalidate

    def expire(self, *keys: str) -> InvalidateResult:
        """Make values stale at once: those who may serve stale values still do while one refreshes it.

        Loads of them that are in flight are voided. What the store cannot be told of now is remembered, and
        removed when it is back.

        Raises:
            InvalidKeyError: A key cannot be one, or there are more than `max_batch_keys`.
            CacheConnectionError: As `invalidate`.
        """
        return invalidated(self._driver.run(self._requests.expire(keys)), raises=self._raises_not_told)

    @block
    def invalidating(self, *keys: str, tags: Iterable[str] = ()) -> Generator[None]:
        """Invalidate when the block has ended, however it ends: it may have committed.

            with cache.invalidating("user:1", tags=["users"]):
                database.rename(1, "Ada")

        For a hook that runs after a commit, `functools.partial(cache.invalidate, "user:1")` is all it takes.

        Raises:
            InvalidKeyError: A key or tag cannot be one; nothing of the block has run.
            CacheConnectionError: As `invalidate`.
        """
        begin = self._requests.invalidation(keys, tags)
        has_ended = False
        try:
            yield
            has_ended = True
        finally:
            try:
                invalidated(self._driver.run(begin()), raises=self._raises_not_told)
            except CacheClosedError:
                if has_ended:
                    raise  # otherwise what the block has raised goes on: a handler may have closed the cache

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
            progress: Called after each page with the number of keys removed so far; in a dry run, counted.
                What it raises ends the deletion.

        Raises:
            InvalidKeyError: The pattern cannot be one.
            ConfigurationError: The progress cannot be called, or is a coroutine function.
        """
        step = self._requests.delete_pattern(pattern, dry_run=dry_run)
        if progress is not None:
            check_progress(progress)
            step = reporting(step, progress, dry_run=dry_run)
        return removed(self._driver.run(step))

    def clear(self) -> PatternResult:
        """Remove everything in the namespace."""
        return removed(self._driver.run(self._requests.clear()))

    def mutate(
        self, *keys: str, tags: Iterable[str] = (), value_tags: Iterable[str] = ()
    ) -> AbstractContextManager[Mutation]:
        """Hold keys while the block writes the database.

            with cache.mutate("user:1") as m:
                database.rename(1, "Ada")
                m.set("user:1", {"name": "Ada"})

        While they are held, readers load and do not store. At the end, what was set is stored, and what
        was not is invalidated, and so are the tags; everything is invalidated where the block raises, or
        where another writer came between. `m.result` says then of how many the store was told, as
        `invalidate` does.

        Args:
            keys: Strs inside the namespace, or built keys.
            tags: Names of tags to invalidate at the end.
            value_tags: Names of tags that the stored values carry. Invalidated by anybody after the block has
                begun, they take the values away.

        Raises:
            InvalidKeyError: Nothing is named, a key or tag cannot be one, or there are more than
                `max_batch_keys`.
            CacheConnectionError: At the end: the store could not be told of a key or tag, the block has not
                raised, and the policy says to raise; it is remembered all the same.
        """
        return self._mutating(plan_mutation(self._requests, keys, tags, value_tags))

    @block
    def _mutating(self, mutation: HeldT) -> Generator[HeldT]:
        held = ManyHeld(None, None)
        has_ended = False
        call = Call()  # the two ends of one operation
        try:
            outcome = self._driver.run(mutation.begin(), call=call)
            assert isinstance(outcome, ManyHeld)
            held = outcome
            with self._driver.renewing(held.renewal):
                yield mutation
            has_ended = True
        finally:
            try:
                outcome = self._driver.run(mutation.end(held, raised=not has_ended), call=call)
            except CacheClosedError:
                if has_ended:
                    raise  # otherwise what the block has raised goes on: a handler may have closed the cache
            else:
                mutation.conclude(outcome, raises=has_ended and self._raises_not_told)

    # A loader that always finds something is one that may find nothing, too; what it makes is not.
    @overload
    def entity(  # pyright: ignore[reportOverlappingOverload]
        self,
        name: str,
        type: type[V],
        *,
        id: str | Callable[[V], Id] | None = None,
        loader: Callable[[Any], Given[V]],
        load_many: Callable[[list[Any]], GivenById[V]] | None = None,
        writer: Callable[[V], Any] | Callable[[Any, V], Any] | None = None,
        write_many: Callable[[list[V]], Any] | Callable[[dict[Any, V]], Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[V]: ...
    @overload
    def entity(
        self,
        name: str,
        type: type[V],
        *,
        id: str | Callable[[V], Id] | None = None,
        loader: Callable[[Any], GivenOrNothing[V]],
        load_many: Callable[[list[Any]], GivenById[V]] | None = None,
        writer: Callable[[V], Any] | Callable[[Any, V], Any] | None = None,
        write_many: Callable[[list[V]], Any] | Callable[[dict[Any, V]], Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[V | None]: ...
    @overload
    def entity(
        self,
        name: str,
        type: type[V],
        *,
        id: str | Callable[[V], Id] | None = None,
        loader: None = None,
        load_many: Callable[[list[Any]], GivenById[V]],
        writer: Callable[[V], Any] | Callable[[Any, V], Any] | None = None,
        write_many: Callable[[list[V]], Any] | Callable[[dict[Any, V]], Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[V | None]: ...
    @overload
    def entity(
        self,
        name: str,
        type: type[V],
        *,
        id: str | Callable[[V], Id] | None = None,
        loader: None = None,
        load_many: None = None,
        writer: Callable[[V], Any] | Callable[[Any, V], Any] | None = None,
        write_many: Callable[[list[V]], Any] | Callable[[dict[Any, V]], Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[V]: ...
    @overload
    def entity(
        self,
        name: str,
        type: Form,
        *,
        id: str | Callable[[Any], Id] | None = None,
        loader: Callable[[Any], Any] | None = None,
        load_many: Callable[[list[Any]], Any] | None = None,
        writer: Callable[[Any], Any] | Callable[[Any, Any], Any] | None = None,
        write_many: Callable[[list[Any]], Any] | Callable[[dict[Any, Any]], Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[Any]: ...
    def entity(
        self,
        name: str,
        type: Any,
        *,
        id: IdOf | None = None,
        loader: Callable[..., Any] | None = None,
        load_many: Callable[..., Any] | None = None,
        writer: Callable[..., Any] | None = None,
        write_many: Callable[..., Any] | None = None,
        strategy: Strategy | None = None,
        ttl: AnyTtl | None = None,
        policy: Policy | None = None,
        tags: Tags = (),
        generations: bool = False,
    ) -> Entity[Any]:
        """A typed view of one kind of thing: its name, type, strategy and functions are said once.

        Args:
            name: The first part of the keys: `user` makes `namespace:user:7`.
            type: What the values are: any type that msgspec can decode.
            id: Where values have their ids: the name of an attribute, or a function of a value.
            loader: Called with an id where a value must be loaded.
            load_many: Called with a list of ids where several must be; it gives a mapping of these to values.
                One of the two does for both.
            writer: Called with a value that the database is to have; with its id and the value, if it takes
                two. It returns when the database has committed.
            write_many: Called with a list of values; with a mapping of ids to values where there is no `id`.
            strategy: What becomes of a key that is written, and whether readers refresh ahead:
                `CacheAside()`, which is the default, `WriteThrough()`, `RefreshAhead(at=…)` or
                `WriteBehind()`, with which the entity has a `queue`.
            ttl: How long values stay fresh: seconds, a timedelta, a tier or a policy.
            policy: In place of the cache's policy.
            tags: What else they depend on, by name; or a function that gives the names for an id.
            generations: Tie every entry to a version of the whole entity, so that `invalidate_all` is one
                removal. A read of one that does not come through the view costs a second round trip.

        Raises:
            InvalidKeyError: The name or a tag cannot be one.
            ConfigurationError: The type, the id, the policy, the strategy or a function cannot be used.
        """
        from sansio_cache_runtime.entity import plan_entity
        from sansio_cache_runtime.sync.entity import Entity

        plan = plan_entity(
            self._requests,
            name,
            type,
            id=id,
            loader=loader,
            load_many=load_many,
            writer=writer,
            write_many=write_many,
            strategy=strategy,
            ttl=ttl,
            policy=policy,
            tags=tags,
            generations=generations,
            refuse=refuse_for_threads,
        )
        self._recorder.know(self.key.pattern(name))
        return Entity(plan, self, self._run, self._mutating, raises=self._raises_not_told)

    @overload
    def typed(self, type: type[T]) -> Typed[T]: ...
    @overload
    def typed(self, type: Any) -> Typed[Any]: ...
    def typed(self, type: Any) -> Typed[Any]:
        """A view of this cache whose values are all of one type, which is said once.

            users = cache.typed(User)
            users.set("user:7", User("Ada"))

        With the type known before the call, type checkers see what they cannot see of `type=`: see "Type
        checking". To them a union is `Any`, but where the view is declared: `pets: Typed[Dog | Cat]`.

        Args:
            type: What the values are: any type that msgspec can decode, or that has a codec.

        Raises:
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        self._requests.codec(type)
        return Typed(self, type)

    def cached(
        self,
        template: str | None = None,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
        ignore: Iterable[str] = (),
        refresh_with_ignored: bool = False,
    ) -> Decorator:
        """Decorate a function, so that its calls are cached: the first loads, the others read.

            @cache.cached("user:{id}", ttl=600)
            def user(id: int) -> User: ...

        What is stored is of the type that the function is declared to give. `user.invalidate(7)` takes a call
        away, and so does `invalidate(cache.key.build("user", 7))`. On methods, and above `@classmethod` and
        `@staticmethod`, the receiver is part of the key (`{self.id}`) or in `ignore`.

        Args:
            template: The key of a call, part by part, with its parameters as fields. Without fields it is a
                name: `user` makes `user:call:...`, of all arguments by their types and values. Where not
                given it is the function's name.
            ttl: How long values stay fresh: seconds, a timedelta, a tier or a policy.
            tags: What else they depend on, by name.
            policy: In place of the cache's policy.
            ignore: Parameters that are not part of the key, such as a database session.
            refresh_with_ignored: Whether a refresh in the background may be given what was ignored.

        Raises:
            ConfigurationError: When decorating: a parameter is not part of the key, or has no stable text;
                the template names what there is not; what is decorated cannot be cached; the policy would
                keep what is ignored.
        """
        cached = Cached()
        cached.bind(self)
        return cached(
            template,
            ttl=ttl,
            tags=tags,
            policy=policy,
            ignore=ignore,
            refresh_with_ignored=refresh_with_ignored,
        )

    # Looking.

    def health(self) -> Health:
        """Ask the server whether everything is there that the cache needs. Never raises for the server.

        A server that does not answer is given up after four seconds at most. So this is for people and
        alerts, and not for a probe that decides whether a process is killed.
        """
        self._check_open()
        if not MARK[0]:
            begin_in_child()
        return self._health(self._backend.health())

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the store serves.

        Args:
            timeout_s: How long, in seconds; the configuration's `connect_timeout_s` where not given.

        Raises:
            CacheTimeoutError: It does not answer in time.
            CacheConnectionError: It cannot be reached in time, or refuses.
        """
        limit_s = self._ready_limit_s(timeout_s)
        ready(self._driver.run(self._requests.wait_ready(limit_s)), limit_s)

    # Inside.

    def _run(self, step: Beginning, loader: Callable[..., Any] | None = None) -> Outcome:
        return self._driver.run(step, loader)

    def _crowds(self) -> Crowds[ThreadEvent]:
        return self._driver.crowds

    def _in_background(self) -> Background:
        return self._background

    def _leave(self) -> None:
        """Close connections and end background threads, and begin anew."""
        if self._is_closed:
            return
        try:
            for recovery in self._driver.last_recoveries():
                self._driver.recover(recovery)
        finally:
            try:
                self._driver.close()
            finally:
                self._backend.close()
                self._assemble()

    def _drivers(self) -> Iterable[Driver]:
        return (self._driver,)

    def _assemble(self) -> None:
        """Make the parts that hold locks, threads and connections."""
        background = self._background = Background()
        self._backend = self._make_backend(background)
        self._know(self._backend)
        self._driver_class.__init__(  # in place: a call that has taken it goes on with what this process has
            self._driver,
            self._backend,
            self._coordinator,
            self._recorder,
            background,
            self._requests.timeouts,
            self._requests.clock,
        )
        self._driver.observe()

    def _after_fork(self) -> None:
        """In the child: no thread of the parent is here, and its connections are the parent's."""
        if self._is_closed:
            return
        self._recorder.after_fork()
        self._coordinator.forget_loads()
        self._assemble()


class Cached:
    """Decorates functions before there is a cache: `cached = Cached()`, and `cached.bind(cache)` at start-up.

    Calling a function that is not bound yet says so.
    """

    def __init__(self) -> None:
        self._bond: Bond[Cache] = Bond(_requests_of)

    def bind(self, cache: Cache) -> None:
        """Bind all that has been decorated, and will be, to a cache.

        Raises:
            ConfigurationError: It is no cache of this module, or a function cannot be cached with its policy.
        """
        refuse_other_caches(cache, Cache)
        self._bond.bind(cache)

    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        policy: Policy | None = None,
        ignore: Iterable[str] = (),
        refresh_with_ignored: bool = False,
    ) -> Decorator:
        """Decorate a function: see `Cache.cached`."""
        decorator: Decorator = decorating(
            self._bond,
            CachedFunction,
            template,
            ttl,
            tags,
            policy,
            ignore,
            refresh_with_ignored=refresh_with_ignored,
        )
        return decorator


def _requests_of(cache: Cache) -> RequestBuilder:
    return cache._requests  # noqa: SLF001 - of this very module


_caches: WeakSet[Cache] = WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_caches):
        cache._after_fork()  # noqa: SLF001


def _drop(driver: Driver, namespace: str) -> None:
    """Close what a cache has left open that was never closed, and is not there any more."""
    if not MARK[0]:  # what it has left open is the parent's
        begin_in_child()
        return
    count = driver.open_connections
    with process_lock():  # who closes inside of it waits for no thread
        driver.close()
        driver._backend.close()  # noqa: SLF001
    warn_of_dropped(namespace, count, "close", "a with")


def _at_exit() -> None:
    """As the interpreter ends, threads that still load are stopped wherever they are: nobody is to wait."""
    if not MARK[0]:
        begin_in_child()
    for cache in list(_caches):
        cache._recorder.close()  # noqa: SLF001 - what fails from now on is no news
        cache._driver._release_held()  # noqa: SLF001


at_begin_in_child(_after_fork_in_child)
atexit.register(_at_exit)
