"""What the demo is asked to do, and the phases that this makes."""

from __future__ import annotations

from typing import Final

import attrs

from sansio_cache import NO_JITTER, Jitter, Policy
from sansio_cache_cli.options import MEMORY_SCHEME

_LONG_TTL_S: Final = 600.0
_PAUSE_S: Final = 0.02
_LIMIT_S: Final = 10.0
_UNCACHED_SHARE: Final = 30
"""A request without the cache costs so much that this many times fewer are enough."""


@attrs.frozen(kw_only=True)
class Settings:
    """The options of `sansio-cache demo`. `requests` is how many each reader makes in a phase."""

    url: str
    runtime: str
    readers: int
    processes: int
    rows: int
    requests: int
    ttl_s: float

    @property
    def is_embedded(self) -> bool:
        """Whether the cache is this process's memory, and not a server."""
        return self.url.lower().startswith(MEMORY_SCHEME)


@attrs.frozen(kw_only=True)
class Phase:
    """One phase: what every reader does.

    Attributes:
        name: What the tables call it.
        title: What happens in it.
        requests: How many requests each reader makes.
        policy: The cache's policy, None without the cache.
        pause_s: How long a reader thinks between two requests.
        limit_s: When readers stop, however many requests are left.
        expires: Whether entries expire in it.
        writes: Whether a writer updates the database meanwhile.
    """

    name: str
    title: str
    requests: int
    policy: Policy | None
    pause_s: float = 0.0
    limit_s: float = _LIMIT_S
    expires: bool = False
    writes: bool = False


def plan(settings: Settings) -> tuple[Phase, ...]:
    """The phases, in order."""
    fixed = Policy(ttl=settings.ttl_s, jitter=NO_JITTER)
    spread = Policy(ttl=settings.ttl_s, jitter=Jitter())
    long = Policy(ttl=_LONG_TTL_S)
    few, many = max(settings.requests // _UNCACHED_SHARE, 1), settings.requests
    return (
        Phase(name="no cache", title="without a cache", requests=few, policy=None),
        Phase(name="stampede", title="cold cache, all ask at once", requests=many, policy=long),
        Phase(
            name="expiry",
            title="entries expire, no jitter",
            requests=many,
            policy=fixed,
            pause_s=_PAUSE_S,
            expires=True,
        ),
        Phase(
            name="expiry, jitter",
            title="entries expire, jitter",
            requests=many,
            policy=spread,
            pause_s=_PAUSE_S,
            expires=True,
        ),
        Phase(
            name="writes",
            title="a writer updates and invalidates",
            requests=many,
            policy=long,
            pause_s=_PAUSE_S,
            writes=True,
        ),
    )
