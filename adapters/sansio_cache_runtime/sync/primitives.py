"""The primitives of the cache for threads: look, touch, add, swap, update, lock, scan.

Mirrors `anyio/primitives.py` method by method.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, overload

from sansio_cache.errors import CacheClosedError
from sansio_cache.lookup import EntryState, Lookup
from sansio_cache.operations.update import Amount
from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.cache_base import CacheBase
from sansio_cache_runtime.crowd import PATIENCE_S, Crowds, Turn, busy_until
from sansio_cache_runtime.held_lock import HeldLock, check_on_lost, held_lock
from sansio_cache_runtime.loaders import is_inside_callback, refuse_coroutine_function
from sansio_cache_runtime.primitive_requests import applying, check_amount
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.request_builder import AnyTtl
from sansio_cache_runtime.results import (
    ScannedEntry,
    added,
    locked,
    looked,
    page,
    scanned,
    swapped,
    touched,
    updated,
)
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadEvent
from sansio_cache_runtime.sync.locks import keeping

T = TypeVar("T")


class Primitives(CacheBase):
    """What a cache can do to one entry at a time, and locks."""

    # Looking.

    @overload
    def lookup(self, key: str, *, type: type[T]) -> Lookup[T]: ...
    @overload
    def lookup(self, key: str, *, type: Any = None) -> Lookup[Any]: ...
    def lookup(self, key: str, *, type: Any = None) -> Lookup[Any]:
        """What an entry is like: its value, state, age, time left, version and tags.

        A stale value is shown as well. Where the store does not serve, the state is `"miss"`, unless the
        policy's `on_read_error` says to raise.

        Args:
            key: A str inside the namespace, or a built `Key`.
            type: What the value is, as for `get`.

        Raises:
            InvalidKeyError: The key cannot be one.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
        """
        return looked(self._run(self._requests.lookup(key, type)))

    def exists(self, key: str) -> bool:
        """Whether there is a fresh value, of whatever type.

        Raises:
            InvalidKeyError: The key cannot be one.
        """
        return looked(self._run(self._requests.inspect(key))).state is EntryState.FRESH

    def ttl(self, key: str) -> float | None:
        """How long an entry stays fresh, in seconds, whatever its type; None where there is no fresh value.

        Raises:
            InvalidKeyError: The key cannot be one.
        """
        lookup = looked(self._run(self._requests.inspect(key)))
        return lookup.remaining_s if lookup.is_fresh else None

    def scan(self, pattern: str = "*") -> Iterator[ScannedEntry]:
        """The entries that match a Redis glob inside the namespace, with their states, a page at a time.

        One that is there all the time is found; one that comes or goes meanwhile may be; one may be found
        twice. What could not be served (a lease, an entry whose tag was invalidated) is left out. Between two
        pages nothing is held: break off whenever you like.

        Args:
            pattern: `user:*`, or what `key.pattern()` builds. `escape_glob` makes a text stand for itself.

        Raises:
            InvalidKeyError: The pattern cannot be one.
            CacheConnectionError: The store failed before the last page.
        """
        cursor, is_over = 0, False
        while not is_over:
            found = page(self._run(self._requests.scan(pattern, cursor)))
            cursor, is_over = found.cursor, not found.cursor
            yield from scanned(found)

    # Changing.

    def touch(self, key: str, ttl: AnyTtl) -> bool:
        """Let a fresh entry live longer. True if there was one.

        It is fresh for `ttl` from now then, if it was not to be for longer; but no entry lives longer than
        the policy's `max_life_s`, from its load on. What is stale stays so, and no lease or hold lives
        longer. Where others change the value each of the ten times that it is tried, False.

        Args:
            key: A str inside the namespace, or a built `Key`.
            ttl: How long it is to stay fresh: seconds, a timedelta, a tier, or a policy, which may have a
                `max_life_s`. It is not jittered.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
        """
        return touched(self._run(self._requests.touch(key, ttl)))

    def add(
        self,
        key: str,
        value: Any,
        *,
        ttl: AnyTtl | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
    ) -> bool:
        """Store a value where there is none. True if this call has stored it.

        False if there was one, or another write of the key came between. A stale value is a value. That there
        is known to be nothing is none. Of any number of callers who add at once, one is told True. An entry
        may be evicted, invalidated or expire; the next caller is told True then.

        Args:
            key: A str inside the namespace, or a built `Key`.
            value: What to store. Without a type, a plain JSON value.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy.
            tags: What else it depends on, by name.
            type: What the value is stored as.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
            SerializationError: The value would not come back equal, or is too large.
            ConfigurationError: Values of the type cannot be stored so that they come back equal.
            CacheConnectionError: The store does not serve, or an invalidation of the key is pending: nobody
                can say whose the key is.
            CacheTimeoutError: Another writer has held the key for the policy's `wait_s`.
            UnknownOutcomeError: The answer of the store was lost: the value may be stored, or not.
        """
        return added(self._run(self._requests.add(key, value, ttl, tags, type)))

    def swap(
        self, key: str, value: Any, *, version: bytes, ttl: AnyTtl | None = None, type: Any = None
    ) -> bytes | None:
        """Replace a value, if it is still the one of this version. Its new version, None where it was not.

            found = cache.lookup("stock:7")
            if found.version and not cache.swap("stock:7", found.value - 1, version=found.version):
                ...  # another was quicker: look again

        None as well where the entry is stale, was invalidated, or is being written. The entry keeps its tags
        as they were, so it goes when one of them is invalidated.

        Args:
            key: A str inside the namespace, or a built `Key`.
            value: What to store. Without a type, a plain JSON value.
            version: What `lookup` gave, or the last swap.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy; what the old value had
                left where not given. Nothing, or less: the old value goes, and none takes its place.
            type: What the value is stored as.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
            SerializationError: The value would not come back equal, or is too large.
            ConfigurationError: The version is none, or the type cannot be used.
            CacheConnectionError: The store does not serve, or an invalidation of the key is pending. What the
                store holds is invalidated, or will be.
            UnknownOutcomeError: The answer of the store was lost. What it holds will be invalidated.
        """
        return swapped(self._run(self._requests.swap(key, value, version, ttl, type)))

    @overload
    def update(
        self, key: str, function: Callable[[T], T], *, type: type[T], ttl: AnyTtl | None = None
    ) -> T: ...
    @overload
    def update(
        self, key: str, function: Callable[[Any], Any], *, type: Any = None, ttl: AnyTtl | None = None
    ) -> Any: ...
    def update(
        self, key: str, function: Callable[[Any], Any], *, type: Any = None, ttl: AnyTtl | None = None
    ) -> Any:
        """Change a value by a function of it; the new value. No change is lost, and none is made twice.

            cache.update("cart:7", lambda cart: [*cart, "tea"])

        The function is called again where another has changed the value meanwhile, so it had better do
        nothing but compute.

        Args:
            key: A str inside the namespace, or a built `Key`.
            function: Called with a copy of the value; it gives the new one.
            type: What the value is stored as.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy; what the old value had
                left where not given. Nothing, or less: the old value goes, and none takes its place.

        Raises:
            InvalidKeyError: The key cannot be one.
            InvalidTtlError: The ttl is no time to live.
            NoEntryError: There is no fresh value. `add` makes one.
            SerializationError: The new value would not come back equal, or is too large.
            ConfigurationError: The function or the type cannot be used.
            CacheConnectionError: The store does not serve, or an invalidation of the key is pending.
            CacheTimeoutError: Others have changed it each time, for the policy's `wait_s`.
            UnknownOutcomeError: The answer of the store was lost: the change may be made, or not. It is not
                tried again, as it might be made twice.
            Exception: What the function raises, unchanged.
        """
        refuse_coroutine_function(function)
        change = applying(function)
        begin = partial(self._requests.update, key, ttl, type)
        return updated(self._in_turn(key, begin, change), key)

    def incr(self, key: str, amount: Amount = 1, *, type: Any = None, ttl: AnyTtl | None = None) -> Any:
        """Add to a number; the new one. As `update`, and as exact.

            cache.add("hits", 0)
            cache.incr("hits")

        Args:
            key: A str inside the namespace, or a built `Key`.
            amount: What to add: an int, a float, or to a Decimal a Decimal. It may be negative.
            type: What the number is stored as.
            ttl: How long it stays fresh: seconds, a timedelta, a tier or a policy; what it had left where not
                given.

        Raises:
            ConfigurationError: The amount, or what is stored, is no number.
            CacheError: As `update`.
        """
        check_amount(amount)
        begin = partial(self._requests.update, key, ttl, type, amount=amount)
        return updated(self._in_turn(key, begin), key)

    # Locks.

    @block
    def lock(
        self,
        name: str,
        lease_s: float = 10.0,
        *,
        wait_s: float | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> Generator[HeldLock]:
        """Hold a lock while the block runs. Others wait, and are woken when it is given back.

            with cache.lock("nightly", lease_s=30) as lock:
                for row in rows:
                    lock.check()
                    work(row, fence=lock.token)

        The lease is renewed while the block runs. It is lost where that fails for as long as it lasts: the
        process was stopped, the store was away, or has forgotten the lock (evicted, flushed, an old snapshot,
        a failover). Two may be at it then: `lock.check()` says so, `on_lost` is called, and the block's end
        raises. The token tells what the lock protects who is late.

        Args:
            name: What is locked. It is no key: invalidations, patterns and `clear` do not touch it.
            lease_s: How long it is held without a sign of life, in seconds.
            wait_s: How long to wait for it, in seconds; the policy's `wait_s` where not given. 0 does not.
            on_lost: Called once when it is lost, in the background: a plain function without arguments.

        Raises:
            InvalidKeyError: The name cannot be one.
            ConfigurationError: An argument cannot be used.
            CacheTimeoutError: Another still holds it.
            CacheConnectionError: The store does not serve: nobody is given a lock then.
            LockLostError: At the end: it was lost, and the block has not raised.
        """
        check_on_lost(on_lost)
        request = self._requests.lock(name, lease_s, wait_s)
        turn = self._crowds().join(request.key, request.started_s)
        try:
            if not is_inside_callback():
                self._await(turn, request.key, request.started_s + request.wait_s)
            turn.is_busy = busy_until(request.started_s + request.wait_s + PATIENCE_S, self._requests.clock)
            taken = locked(self._run(self._requests.take(request)), name)
            held = held_lock(name, request, taken, self._requests.clock, on_lost)
            turn.is_busy = lambda: not held.is_lost
            has_ended = False
            try:
                with keeping(held, self._in_background(), self._run):
                    yield held
                has_ended = True
            finally:
                was_lost = held.is_lost
                try:
                    self._run(held.free())
                except CacheClosedError:
                    if has_ended:
                        raise  # otherwise what the block has raised goes on, or that it is cancelled
        finally:
            turn.leave()
        if has_ended and was_lost:
            held.check()

    # Inside.

    def _in_turn(
        self, key: str, begin: Callable[[float], Step], loader: Callable[..., Any] | None = None
    ) -> Outcome:
        """Run what changes a value when those have had their turn who came before, from this process.

        Not from inside of a function that does: that has its turn. What is left of the time is for the rest.
        """
        full = self._requests.keys.resolve(key)
        wait_s, clock = self._requests.policy.wait_s, self._requests.clock
        if is_inside_callback():
            return self._run(begin(wait_s), loader)
        until_s = clock() + wait_s
        turn = self._crowds().join(full, until_s - wait_s)
        try:
            self._await(turn, full, until_s)
            return self._run(begin(max(until_s - clock(), 0.0)), loader)
        finally:
            turn.leave()

    def _await(self, turn: Turn[ThreadEvent], full: str, until_s: float) -> None:
        """Wait for one's turn. Not for ever: until then, not for one who does not leave, nor in an outage."""
        if is_inside(process_lock()):  # those who came before wait for this very thread
            return
        clock, is_skipped = self._requests.clock, self._requests.is_skipped
        while not is_skipped(full) and (left_s := until_s - clock()) > 0:
            if turn.event.wait(min(left_s, PATIENCE_S)) or not turn.must_wait(clock()):
                return

    def _run(self, step: Step, loader: Callable[..., Any] | None = None) -> Outcome:
        raise NotImplementedError

    def _in_background(self) -> Background:
        raise NotImplementedError

    def _crowds(self) -> Crowds[ThreadEvent]:
        raise NotImplementedError
