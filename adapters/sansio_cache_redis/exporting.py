"""Telling others how a cache does: its recent figures, published every few seconds, for `sansio-cache top`.

    from sansio_cache_redis.exporting import export_stats

    export = export_stats(cache)

They go over Pub/Sub, on a channel of the namespace: nothing is stored, nothing has to be removed, and where
nobody listens nobody is told. A thread of its own does it, over a connection of its own; no call of the cache
waits for it, and what fails in it is logged once and harms nobody.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self
from weakref import ref

import msgspec

from sansio_cache.config import CacheConfig
from sansio_cache.distributions import Histogram
from sansio_cache.errors import ConfigurationError
from sansio_cache.signals import let_through
from sansio_cache.stats import CacheStats
from sansio_cache.url import MEMORY, read_url
from sansio_cache_redis.connections.redispy import exchange_publicly, pack
from sansio_cache_redis.errors import as_opening_failure
from sansio_cache_redis.reasons import reason_of
from sansio_cache_redis.topology.ways import connecting
from sansio_cache_runtime.cache_base import CacheBase

logger: Final = logging.getLogger("sansio_cache")
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 3600.0
_LONGEST_NAME: Final = 80


class ProgramStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a program tells of one of its caches: what happened since it told the last time.

    Attributes:
        name: What the program calls itself.
        host: The name of its machine.
        pid: The number of its process.
        every_s: How often it tells, in seconds.
        window_s: How much time what follows is of, in seconds.
        requests: Keys asked for.
        hits: Those of them answered from the store, stale answers included.
        loads: Calls of a loader that returned.
        load_failures: Calls of a loader that raised.
        stored: Values that the store has taken.
        errors: Attempts at the store that failed.
        gave_up: Operations that did without the store.
        p50_s: Half of the operations took no longer, in seconds.
        p99_s: All but one in a hundred took no longer.
        is_away: Whether reads do without the store at the moment.
        pending_invalidations: Invalidations that the store has not been told of.
    """

    name: str
    host: str
    pid: int
    every_s: float
    window_s: float
    requests: int = 0
    hits: int = 0
    loads: int = 0
    load_failures: int = 0
    stored: int = 0
    errors: int = 0
    gave_up: int = 0
    p50_s: float = 0.0
    p99_s: float = 0.0
    is_away: bool = False
    pending_invalidations: int = 0


def stats_channel(namespace: str) -> bytes:
    """The Pub/Sub channel on which programs tell of their caches of a namespace."""
    return f"{namespace}:%stats".encode()


def recent(
    later: CacheStats, earlier: CacheStats, *, name: str, every_s: float, window_s: float
) -> ProgramStats:
    """What happened between two snapshots."""
    between = later - earlier
    buckets: Counter[int] = Counter()
    for histogram in between.latency.values():
        buckets.update(histogram.buckets)
    took = Histogram(buckets)
    return ProgramStats(
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        every_s=every_s,
        window_s=window_s,
        requests=between.total_requests,
        hits=between.redis_hits + between.stale_hits,
        loads=between.loads,
        load_failures=between.load_failures,
        stored=between.stored,
        errors=sum(between.errors.values()),
        gave_up=sum(between.gave_up.values()),
        p50_s=took.percentile_s(50),
        p99_s=took.percentile_s(99),
        is_away=later.state.is_open,
        pending_invalidations=later.state.pending_invalidations,
    )


class StatsExport:
    """Tells until it is closed, or the cache is. Made by `export_stats`; a context manager."""

    def __init__(self, cache: CacheBase, config: CacheConfig, every_s: float, name: str) -> None:
        self._cache = ref(cache)
        self._config = config
        self._every_s = every_s
        self._name = name
        self._channel = stats_channel(config.namespace)
        self._make_connection, self._where = connecting(config.redis)
        self._is_over = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="sansio-cache-exporting", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell no more. Again, it does nothing."""
        self._is_over.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # On the thread.

    def _run(self) -> None:
        connection: Any = None
        earlier, began_s = CacheStats(), time.monotonic()
        try:
            while not self._is_over.wait(self._every_s):
                cache = self._cache()
                if cache is None or cache._is_closed:  # noqa: SLF001
                    return
                later, now_s = cache.stats(), time.monotonic()
                del cache
                told = recent(
                    later, earlier, name=self._name, every_s=self._every_s, window_s=now_s - began_s
                )
                earlier, began_s = later, now_s
                connection = self._tell(connection, told)
        finally:
            if connection is not None:
                connection.disconnect()

    def _tell(self, connection: Any, told: ProgramStats) -> Any:
        """Tell; returns the connection to use the next time, None where it failed."""
        try:
            if connection is None:
                connection = self._make_connection()
                connection.connect()
            command = (b"PUBLISH", self._channel, msgspec.json.encode(told))
            (reply,) = exchange_publicly(connection, [pack([command])], 1, self._every_s)
            if isinstance(reply, Exception):
                raise reply  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - it harms nobody
            let_through(error)
            if connection is not None:
                connection.disconnect()
            self._log(error)
            return None
        self._has_failed = False
        return connection

    def _log(self, error: Exception) -> None:
        if not self._has_failed:
            reason, _ = reason_of(as_opening_failure(error), self._where)
            logger.warning("cache %s: its figures cannot be published: %s", self._config.namespace, reason)
        self._has_failed = True


def export_stats(
    cache: CacheBase, *, every_s: float = 2.0, name: str = "", url: str | None = None
) -> StatsExport:
    """Publish what a cache does, every few seconds, so that `sansio-cache top` shows it.

    Call it once in each process, after a fork: the thread that tells is not in a child. It serves caches for
    threads, asyncio and trio alike. The server's user needs `+publish` on channels of the namespace.

    Args:
        cache: Its statistics are told until it is closed, or dropped.
        every_s: How often, in seconds.
        name: What the program is called there; the name of its main script where not given.
        url: Where to publish; the cache's own URL where not given. One on a client of yours has none.

    Returns:
        What ends it, by `close`.

    Raises:
        ConfigurationError: An argument cannot be used, or there is no server to publish at.
    """
    if not isinstance(cache, CacheBase):
        raise ConfigurationError(f"export_stats takes a cache; got {type(cache).__name__}")
    if (
        isinstance(every_s, bool)
        or not isinstance(every_s, int | float)
        or not (_SHORTEST_S <= every_s <= _LONGEST_S)
    ):
        raise ConfigurationError(f"every_s is a number of seconds from {_SHORTEST_S:g} to {_LONGEST_S:g}")
    config: CacheConfig = cache._config  # noqa: SLF001 - as below: nobody else asks a cache where it stands
    if url is not None:
        config = CacheConfig.from_options(namespace=config.namespace, url=url)
    if read_url(config.redis.url).scheme == MEMORY or (url is None and cache._stays_with):  # noqa: SLF001
        raise ConfigurationError(
            "a cache that was not made by the URL of a server does not say where to publish: "
            "export_stats(cache, url='redis://…')"
        )
    return StatsExport(cache, config, every_s, name[:_LONGEST_NAME] or _program())


def _program() -> str:
    """The name of the program that runs."""
    import __main__

    return os.path.basename(getattr(__main__, "__file__", None) or "python")[:_LONGEST_NAME]  # noqa: PTH119
