"""What is known of the server that answers: its clock, what it understands, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from redis.exceptions import RedisError

from sansio_cache.cell import grant_us
from sansio_cache.commands import Fill
from sansio_cache_redis.errors import as_opening_failure
from sansio_cache_redis.facts import Facts, facts_from, greeted, refuse_unfit
from sansio_cache_redis.replies import ServerClock, tell_time


@attrs.define
class Dialect(ServerClock):
    """What the server understands, as far as it is known; and its clock.

    `clock` is the local monotonic one, in seconds.
    """

    clock: Callable[[], float] = attrs.field(kw_only=True)
    compares: bool | None = None
    """Whether SET takes IFEQ; None where that is to be asked."""
    is_cluster: bool = False
    """Whether a command may name keys of one slot only: then each names one key."""
    owns: Callable[[str], bool] | None = None
    """Whether a key is in one of the node's slots, where that is a question."""
    probe: bytes = b""
    """A key to find out with whether a node of a cluster serves: in one of its slots. Empty where that is not
    a matter of keys."""

    on_facts: Callable[[Facts], object] = bool
    """Told what the server says of itself, each time that it does."""
    facts: Facts = attrs.field(factory=Facts, init=False)
    """What the server has said of itself as the latest connection opened."""

    def greet(self, replies: Sequence[Any]) -> None:
        """A connection has opened, and this is what its server has said. It may be another server.

        Raises:
            RedisError: Nothing is to be asked there.
        """
        facts = greeted(replies)
        tell_time(replies[0], lambda server_us: self.learn(server_us, self.clock()))
        self._meet(facts)

    def introduce(self, info: Any) -> None:
        """This is what the server says of itself that a client of the user's is connected to.

        Raises:
            RedisError: Nothing is to be asked there.
        """
        facts = facts_from(None, info)
        try:
            refuse_unfit(facts)
        except RedisError as error:
            raise as_opening_failure(error) from error
        self._meet(facts)

    def _meet(self, facts: Facts) -> None:
        self.forget()
        self.facts = facts
        self.on_facts(facts)

    def forget(self) -> None:
        """Ask anew what the server understands, with the next fill."""
        self.compares = None

    def soft_ms(self, fill: Fill) -> int:
        """When a value is stale that is stored now, by the server's clock; 0 where it never is.

        Where that clock is not known yet, the grant says what it was.
        """
        if not fill.soft_ttl_ms:
            return 0
        server_ms = self.now_ms(self.clock())
        return (grant_us(fill.grant) // 1000 if server_ms is None else server_ms) + fill.soft_ttl_ms
