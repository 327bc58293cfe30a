"""A state machine of Hypothesis for a cache of yours: subclass it, and say how the cache is made.

    class OurMachine(CacheMachine):
        def make_cache(self):
            return self.world.cache(default_ttl=600)

    TestOurCache = OurMachine.TestCase

It reads, writes, loads, invalidates and lets time pass in any order, and compares each answer with a model:
the last value that was written, for as long as it lives. Needs the extra `testing`.
"""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import event, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sansio_cache_redis.sync import Cache
from sansio_cache_testing.world import World

_KEYS = st.sampled_from(["user:1", "user:2", "order:1"])
_VALUES = st.one_of(st.integers(), st.text(max_size=8), st.lists(st.integers(), max_size=3), st.booleans())
_LIVES_S = st.sampled_from([1, 60, 3600])
_LONGEST_JITTER = 1.2


@attrs.frozen
class _Entry:
    value: Any
    lives_until_s: float
    """Until then it is there."""
    is_gone_by_s: float
    """From then on it is not."""


class CacheMachine(RuleBasedStateMachine):
    """Drives a cache and a model of it. Override `make_cache`, and add rules for what your program does.

    Attributes:
        world: Time and the store.
        cache: What is tested.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.cache = self.make_cache()
        self._model: dict[str, _Entry] = {}
        self._loads = self._reads = 0

    def make_cache(self) -> Cache:
        """The cache that is tested: one of `self.world`, so that time is the machine's."""
        return self.world.cache()

    def _put(self, key: str, value: Any, ttl_s: float) -> None:
        now_s = self.world.clock()
        # The store counts in whole milliseconds.
        self._model[key] = _Entry(value, now_s + ttl_s - 0.002, now_s + ttl_s * _LONGEST_JITTER + 0.002)

    def _agrees(self, key: str, given: Any, missing: Any) -> bool:
        """Whether what was given is what the model has; what may be gone may be missing."""
        entry, now_s = self._model.get(key), self.world.clock()
        is_missing = given is missing
        if entry is None or now_s >= entry.is_gone_by_s:
            return is_missing
        is_value = type(given) is type(entry.value) and given == entry.value
        return is_value or (is_missing and now_s >= entry.lives_until_s)

    @rule(key=_KEYS, value=_VALUES, ttl_s=_LIVES_S)
    def set(self, key: str, value: Any, ttl_s: float) -> None:
        """A write is there at once."""
        assert self.cache.set(key, value, ttl=ttl_s)
        self._put(key, value, ttl_s)

    @rule(key=_KEYS)
    def get(self, key: str) -> None:
        """A read gives what was written last, or nothing once it has expired."""
        missing = object()
        self._reads += 1
        given = self.cache.get(key, missing)
        assert self._agrees(key, given, missing), (
            f"get({key!r}) gave {given!r}; the model has {self._model.get(key)}"
        )

    @rule()
    def get_many(self) -> None:
        """A batch gives what single reads would."""
        missing = object()
        keys = ["user:1", "user:2", "order:1"]
        self._reads += len(keys)
        given = self.cache.get_many(keys)
        for key in keys:
            assert self._agrees(key, given.get(key, missing), missing)

    @rule(key=_KEYS, value=_VALUES, ttl_s=_LIVES_S)
    def get_or_load(self, key: str, value: Any, ttl_s: float) -> None:
        """A load runs only where there is nothing, and what it gives is stored."""
        calls: list[str] = []

        def load(name: str) -> Any:
            calls.append(name)
            return value

        self._reads += 1
        given = self.cache.get_or_load(key, load, key, ttl=ttl_s)
        if calls:
            assert self._agrees(key, missing := object(), missing)
            assert type(given) is type(value) and given == value  # noqa: PT018
            self._put(key, value, ttl_s)
        else:
            assert self._agrees(key, given, object())
        self._loads += len(calls)
        event(f"loaded: {bool(calls)}")

    @rule(key=_KEYS)
    def invalidate(self, key: str) -> None:
        """An invalidated entry is gone when the call has returned."""
        assert self.cache.invalidate(key).done
        self._model.pop(key, None)

    @rule()
    def delete_users(self) -> None:
        """A pattern takes all that it covers, and no more."""
        assert self.cache.delete_pattern(self.cache.key.pattern("user")).complete
        for key in [key for key in self._model if key.startswith("user:")]:
            del self._model[key]

    @rule(duration_s=st.sampled_from([0.5, 30, 3000, 5000]))
    def pass_time(self, duration_s: float) -> None:
        """Entries expire by themselves."""
        self.world.pass_time(duration_s)

    @invariant()
    def statistics_balance(self) -> None:
        """Every read was a hit or a miss (B3)."""
        stats = self.cache.stats()
        assert stats.total_requests == stats.redis_hits + stats.stale_hits + stats.redis_misses, (
            f"the statistics do not balance: {stats}"
        )
        assert stats.total_requests >= self._reads, (
            f"{self._reads} reads were made by the rules of the machine, and {stats.total_requests} counted"
        )

    def teardown(self) -> None:
        """Close the cache; runs that load much are looked for."""
        target(float(self._loads), label="loads")
        self.cache.close()
        self.world.end()
