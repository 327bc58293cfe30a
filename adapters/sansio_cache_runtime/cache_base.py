"""What the caches of both colours share: all but the driving.

A method of a cache is its signature, its docstring and a line or two: the request builder makes the first
step, the driver runs it, and a function of `results.py` makes an answer of the outcome.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar, overload
from weakref import WeakMethod

import attrs

from sansio_cache.config import CacheConfig
from sansio_cache.coordinator import Coordinator
from sansio_cache.errors import CacheClosedError, ConfigurationError
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART, KeyBuilder
from sansio_cache.notices import Notice
from sansio_cache.recent_writes import MOST_REMEMBERED, REMEMBERED_S
from sansio_cache.stats import CacheState, CacheStats, PartitionStats, PartStats
from sansio_cache.waits import Waits
from sansio_cache_runtime.primitive_requests import PrimitiveRequests
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.request_builder import Entropy
from sansio_cache_runtime.subscribers import Explanation, check_kinds, check_subscriber
from sansio_cache_runtime.travelling import check_travels

N = TypeVar("N", bound=Notice)

Kinds = Iterable[type[Notice]] | type[Notice]
"""Classes of notices, or one."""


class PartedBackend(Protocol):
    """A backend of either colour, as far as it matters here."""

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in."""
        ...


_waits: Final = Waits()
"""Which loads of this process wait for which, whichever cache they are of."""
_numbers: Final = itertools.count(1)


def check_config(config: object) -> None:
    """Refuse what is no configuration.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(config, CacheConfig):
        raise ConfigurationError(f"from_config takes a CacheConfig; got {type(config).__name__}")


def made_config(config: object, make_backend: object) -> CacheConfig:
    """The configuration of a cache that a class method makes.

    Raises:
        ConfigurationError: The class was called by hand.
    """
    if isinstance(config, CacheConfig) and callable(make_backend):
        return config
    if isinstance(config, CacheConfig):
        way = "from_config(config)"
    elif config is None or isinstance(config, str):
        way = "from_url('redis://localhost:6379/0', namespace='shop')"
    else:
        way = "from_client(client, namespace='shop')"
    raise ConfigurationError(f"a cache is not made by calling its class: write Cache.{way}")


def warn_of_dropped(namespace: str, count: int, close: str, block: str) -> None:
    """Name a cache that was dropped and never closed, where it has left connections open.

    Args:
        namespace: The cache's.
        count: How many connections.
        close: What closes it.
        block: What does so by itself.
    """
    if count:
        warnings.warn(
            f"the cache {namespace!r} was dropped without {close}(): {count} connections of it are closed "
            f"now. Use it in {block} block, or close it",
            ResourceWarning,
            stacklevel=1,
        )


class RunningDriver(Protocol):
    """A driver of either colour, as far as it matters here."""

    def observe(self) -> None:
        """Have commands told of, or not any more."""
        ...

    @property
    def open_connections(self) -> int:
        """How many connections to the store are open."""
        ...

    @property
    def parts(self) -> Iterable[str]:
        """The parts of the store that it knows of."""
        ...

    @property
    def refresh_counts(self) -> tuple[int, int]:
        """How many refreshes are under way, and how many wait for a thread."""
        ...


class CacheBase(ABC):
    """The state of a cache, and what needs no driving."""

    _stays_with: str = "a backend of yours"
    """What keeps it from being pickled and copied; empty where nothing does."""

    def __init__(
        self,
        config: CacheConfig,
        clock: Callable[[], float] = time.monotonic,
        entropy: Entropy | None = None,
    ) -> None:
        self._config = config
        is_disabled = not (config.enabled and config.redis.enabled)
        self._coordinator = Coordinator(
            is_disabled=is_disabled,
            after_failover_s=config.redis.after_failover_s,
            waits=_waits,
            number=next(_numbers),
        )
        self._recorder = Recorder(config.namespace)
        self._requests = PrimitiveRequests(
            config, self._coordinator, hearing=self._recorder.subscribers, clock=clock, entropy=entropy
        )
        self._is_closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A cache of a URL is made again from its configuration, by pickle and by copy.

        Raises:
            ConfigurationError: It stands on something that stays here, or an option cannot be pickled.
        """
        if self._stays_with:
            raise ConfigurationError(
                f"a cache on {self._stays_with} cannot be pickled or copied: make one where it is needed. A "
                "cache of a redis:// URL can"
            )
        check_travels(f"the cache {self._config.namespace!r}", self._config)
        cls: Any = type(self)
        return cls.from_config, (self._config,)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} namespace={self._config.namespace!r}>"

    @property
    def key(self) -> KeyBuilder:
        """Builds keys and patterns in this cache's namespace."""
        return self._requests.keys

    def stats(self) -> CacheStats:
        """The counters as they are now; the difference of two is what happened in between."""
        counted = self._recorder.snapshot(self._requests.clock())
        return attrs.evolve(counted, state=self._state(counted.state.queues))

    def _state(self, queues: Mapping[str, Mapping[int, PartitionStats]]) -> CacheState:
        """How the cache is now. One that is closed does without no store, and tells none of anything."""
        drivers = tuple(self._drivers())
        parts = [part for driver in drivers for part in driver.parts] or [ONE_PART]
        known = self._coordinator.part_stats()
        running, waiting = zip((0, 0), *(driver.refresh_counts for driver in drivers), strict=True)
        return CacheState(
            parts=dict.fromkeys((*parts, *known), PartStats()) | ({} if self._is_closed else known),
            connections=sum(driver.open_connections for driver in drivers),
            loads_running=len(self._coordinator.single_flight),
            refreshes_running=sum(running),
            refreshes_waiting=sum(waiting),
            queues={} if self._is_closed else queues,
        )

    def _observe(self) -> None:
        """Have commands told of in all drivers, where somebody wants to be told."""
        for driver in self._drivers():
            driver.observe()

    @abstractmethod
    def _drivers(self) -> Iterable[RunningDriver]:
        """The drivers that this process has of the cache: one, or one for each event loop."""

    @overload
    def subscribe(
        self, subscriber: Callable[[Notice], object], *, kinds: Kinds | None = None
    ) -> Callable[[], None]: ...
    @overload
    def subscribe(
        self, subscriber: Callable[[N], object], *, kinds: Iterable[type[N]] | type[N]
    ) -> Callable[[], None]: ...
    def subscribe(self, subscriber: Callable[[Any], object], *, kinds: Any = None) -> Callable[[], None]:
        """Have a function called with each notice that the cache states: a hit, a miss, a load, a failure.

        It is called where the notice was stated, after the statistics have counted it: in the thread or task
        of the call, or of the cache's own background work. So it should be quick, and from threads it may
        run several times at once. What it raises is logged once, and goes no further. It may use the cache,
        and hears of that as well.

        Args:
            subscriber: A plain function of one notice; see `sansio_cache.notices`. No notice holds a value.
            kinds: The classes of notices that it is told of; None for all but `StoreAsked`. Where nobody
                asks for `Hit`, `Began`, `Ended` or `StoreAsked`, hits cost what they cost without a
                subscriber.

        Returns:
            A function that ends the subscription; calling it again does nothing.

        Raises:
            ConfigurationError: The subscriber cannot be called, or is a coroutine function; or `kinds`
                holds something else than classes of notices.
        """
        check_subscriber(subscriber)
        unsubscribe = self._recorder.subscribers.subscribe(subscriber, check_kinds(kinds))
        self._observe()

        observe = WeakMethod(self._observe)  # who may end it does not keep the cache alive

        def end() -> None:
            unsubscribe()
            if (observe_again := observe()) is not None:
                observe_again()

        return end

    def explain(self) -> AbstractContextManager[Explanation]:
        """Collect what this cache's calls in the block do, as an explanation that can be read.

            with cache.explain() as explanation:
                cache.get("user:1")
            print(explanation)

        The calls are those of this context: of this thread or task, and of threads and tasks that were given
        its context; not of others that run at the same time.
        """
        return self._recorder.subscribers.explain()

    def _know(self, backend: PartedBackend) -> None:
        """Get to know a backend, and let it know which of its parts do not serve."""
        self._coordinator.part_of = backend.part_of
        self._recorder.know_place(getattr(backend, "place", ""))
        if hasattr(backend, "is_out"):
            of_several_parts: Any = backend
            of_several_parts.is_out = self._coordinator.is_part_out

    def _check_open(self) -> None:
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")

    def _health(self, health: Health) -> Health:
        """What a backend found, with what only this cache knows."""
        warnings = health.warnings
        if self._coordinator.recent.has_overflowed(self._requests.clock()):
            warning = (
                f"more than {MOST_REMEMBERED:,} keys were written within {REMEMBERED_S:.0f} s: a failover "
                "now may bring old values of some of them back, until they expire"
            )
            warnings += (warning,)
        return attrs.evolve(
            health,
            warnings=warnings,
            bypassing=self._coordinator.is_out,
            pending_invalidations=self._coordinator.pending_invalidations,
        )

    @property
    def _raises_not_told(self) -> bool:
        return self._requests.policy.on_invalidate_error == "raise"

    def _ready_limit_s(self, timeout_s: float | None) -> float:
        if timeout_s is None:
            return self._config.redis.connect_timeout_s
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or math.isnan(timeout_s):
            raise ConfigurationError(
                f"timeout_s is a number of seconds, as in wait_ready(30); got {type(timeout_s).__name__}"
            )
        return timeout_s
