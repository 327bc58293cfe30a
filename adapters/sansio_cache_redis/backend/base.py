"""What both backends share: how replies become events, what follows from them, and how health is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic

import attrs

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART
from sansio_cache_redis.errors import classify
from sansio_cache_redis.health import judge
from sansio_cache_redis.topology.single import C, SingleServer
from sansio_cache_redis.wire import Args, ServerClock, decode
from sansio_cache_runtime.backend import Listener

_DISTRUSTED: Final = (FailureKind.MISPAIRED, FailureKind.READ_ONLY)
"""Another's reply, or a primary that is none any more: another connection may do better."""


class BaseBackend(Generic[C]):
    """The part of a backend that neither waits nor does I/O.

    Args:
        config: Of the cache.
        server: Where the keys go.
        clock: The local monotonic clock, in seconds.
        server_clock: The server's, as far as it is known.
        listener: Tells waiters of changes; None where they have to look for themselves.
    """

    def __init__(
        self,
        config: CacheConfig,
        server: SingleServer[C],
        clock: Callable[[], float],
        server_clock: ServerClock,
        listener: Listener | None,
    ) -> None:
        self.listener: Listener | None = listener
        self._config = config
        self._server = server
        self.connections = server.connections
        """Where commands go."""
        self._clock = clock
        self._server_clock = server_clock

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in: what can fail alone."""
        return self._server.part_of(key)

    def distrust(self, part: str) -> None:
        """A reply belonged to another key: close the connections to the part."""
        self._server.reset(part)

    def _event(self, command: StoreCommand, replies: list[Any] | BaseException) -> StoreEvent:
        """The event that replies amount to, or a failure in their place. Never raises.

        It may close the connections, also those that the replies have come in on.
        """
        now_s = self._clock()
        if isinstance(replies, BaseException):
            return StoreFailed(now_s, classify(replies))
        try:
            event = decode(command, replies, self._server_clock, now_s)
        except Exception:  # noqa: BLE001 - a fault of ours must not leave the caller waiting for ever
            return StoreFailed(now_s, FailureKind.OTHER)
        if isinstance(event, StoreFailed) and event.kind in _DISTRUSTED:
            self._server.reset(ONE_PART)
        return event

    def _judged(
        self, asked: Sequence[tuple[str, Args]], replies: list[Any] | BaseException, latency_s: float
    ) -> Health:
        """What the replies to the probes, or the failure in their place, say about the server."""
        if isinstance(replies, BaseException):
            problem = f"the server cannot be asked: {type(replies).__name__}"
            return Health(ok=False, problems=(problem,))
        health = judge(asked, replies, self._config.max_value_bytes)
        return attrs.evolve(health, latency_s=latency_s)
