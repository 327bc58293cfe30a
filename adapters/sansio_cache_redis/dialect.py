"""What is known of the server that answers: its clock, and what it understands."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from sansio_cache.cell import grant_us
from sansio_cache.commands import Fill
from sansio_cache_redis.replies import ServerClock


@attrs.define
class Dialect(ServerClock):
    """What the server understands, as far as it is known; and its clock.

    `clock` is the local monotonic one, in seconds.
    """

    clock: Callable[[], float] = attrs.field(kw_only=True)
    compares: bool | None = None
    """Whether SET takes IFEQ; None where that is to be asked."""

    def greet(self, server_us: int) -> None:
        """A connection has opened, and its server has said what time it is. It may be another server."""
        self.forget()
        self.learn(server_us, self.clock())

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
