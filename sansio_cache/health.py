"""Health: what is known about a cache and its store. How to find it out is the backend's to know."""

from __future__ import annotations

from typing import Final

import attrs

MEMORY: Final = "memory"
"""The server's name where the store is in the process itself."""


@attrs.frozen(kw_only=True)
class Health:
    """What is known about a cache and its server.

    Attributes:
        ok: Whether everything that the cache needs is there.
        problems: What is missing, a sentence each.
        warnings: What works and will hurt, a sentence each with what to do. They leave `ok` as it is.
        server: Name and version of the server, empty where it cannot be asked.
        latency_s: How long the server took to answer, in seconds.
        maxmemory_bytes: How much memory the store may use, in bytes; 0 where there is no limit, None where
            it cannot be asked.
        eviction_policy: What the store does when it is full, by the name that Redis has for it; empty
            where it cannot be asked.
        durability: What of queued writes the settings of the server can lose, in sentences; empty where that
            cannot be asked. What is cached may be lost at any time.
        bypassing: Whether reads do without the server at the moment.
        pending_invalidations: Invalidations that the server has not been told of yet.
    """

    ok: bool
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    server: str = ""
    latency_s: float = 0.0
    maxmemory_bytes: int | None = None
    eviction_policy: str = ""
    durability: str = ""
    bypassing: bool = False
    pending_invalidations: int = 0
