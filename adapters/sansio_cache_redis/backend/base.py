"""What both backends share: the reader of events, what follows from a failure, and how health is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic

import attrs

from sansio_cache.commands import StoreCommand
from sansio_cache.config import CacheConfig
from sansio_cache.health import Health
from sansio_cache.keys import ONE_PART
from sansio_cache.signals import let_through
from sansio_cache_redis.calls import Args
from sansio_cache_redis.dialect import Dialect
from sansio_cache_redis.health import judge, too_far
from sansio_cache_redis.reading import EventReader, OnFailure
from sansio_cache_redis.reasons import Where, reason_of
from sansio_cache_redis.topology.single import C, SingleServer
from sansio_cache_redis.wire import words_of
from sansio_cache_runtime.backend import Listener


class BaseBackend(Generic[C]):
    """The part of a backend that neither waits nor does I/O.

    Args:
        config: Of the cache.
        server: Where the keys go.
        clock: The local monotonic clock, in seconds.
        dialect: What the server understands, and its clock, as far as they are known.
        listener: Tells waiters of changes; None where they have to look for themselves.
        where: Where the server is, for messages.
        part: Which part of the store it is, where it is a node of several.
        on_failure: Told of each failure: see `EventReader`.
    """

    def __init__(
        self,
        config: CacheConfig,
        server: SingleServer[C],
        clock: Callable[[], float],
        dialect: Dialect,
        listener: Listener | None,
        where: Where,
        part: str = ONE_PART,
        on_failure: OnFailure | None = None,
    ) -> None:
        on_failure = on_failure or getattr(self, "on_failure", None)
        dialect.on_facts = getattr(self, "on_facts", dialect.on_facts)
        self._where = where
        self.place = where.place
        """Where the server is, for messages: `host:port`, or the path of a socket."""
        self.address = where.address
        """The same for those who are told of commands."""
        self.listener: Listener | None = listener
        self._config = config
        self._server = server
        self.connections = server.connections
        """Where commands go."""
        self._dialect = dialect
        self.told: Callable[[str, bool], object] | None = None
        """Who is told of connections that have opened."""
        self._events = EventReader(clock, dialect, partial(server.reset, ONE_PART), where, part, on_failure)
        self._read = self._events.read
        """Makes an event of a command and of what came back. Never raises; it may close the connections, also
        those that the replies have come in on."""

    @property
    def open_connections(self) -> int:
        """How many connections are open, but for those of a client of the user's."""
        return int(getattr(self.connections, "count", 0))

    def words_of(self, command: StoreCommand) -> tuple[str, ...]:
        """What the server is asked for a command: one word for each."""
        return words_of(command, self._dialect)

    def part_of(self, key: str) -> str:
        """The part of the store that a key is in: what can fail alone."""
        return self._server.part_of(key)

    def tell_openings(self, told: Callable[[str, bool], object]) -> None:
        """Have a function called whenever a connection has opened.

        Args:
            told: It is given the part, and whether another store answers for that than before. In the event
                loop, or in the thread that opens connections.
        """
        self.told = told
        self._dialect.on_met = partial(told, ONE_PART)

    def suspect(self, part: str) -> None:
        """A reply may have belonged to another key: ask on fresh connections next."""
        self._server.set_aside(part)

    def trust(self, part: str) -> None:
        """It did not: what was set aside may be used again. What was asked on it is asked again by now."""
        self._server.take_back(part)

    def distrust(self, part: str) -> None:
        """A reply belonged to another key: close the connections to the part."""
        self._server.reset(part)

    def end_threads(self) -> None:
        """End what runs on threads of its own, where the event loop that would close all is over."""
        self._server.close(wait=False)

    def _judged(
        self, asked: Sequence[tuple[str, Args]], replies: list[Any] | BaseException, latency_s: float
    ) -> Health:
        """What the replies to the probes, or the failure in their place, say about the server."""
        if isinstance(replies, BaseException):
            reason, _ = reason_of(replies, self._where)
            return Health(ok=False, problems=(f"the server cannot be asked: {reason}",))
        try:
            health = judge(asked, replies, self._config.max_value_bytes, self._dialect.floor_us)
        except Exception as error:  # noqa: BLE001 - no answer is so odd that nothing is said
            let_through(error)
            problem = f"what answers at {self.place} is no Redis: its answers make no sense"
            return Health(ok=False, problems=(problem,), latency_s=latency_s)
        warnings = (*health.warnings, *self._server.warnings(), *too_far(latency_s, self._config.redis))
        return attrs.evolve(health, latency_s=latency_s, warnings=warnings)
