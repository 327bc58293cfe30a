"""The policy: how long entries live, and how a load and its waiters behave.

One immutable value, per cache or per call. What contradicts itself is refused when it is made.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.ttl import DEFAULT_TTL_S, MAX_TTL_S, Jitter, Ttl, ttl_ms, ttl_seconds

_LONGEST_WAIT_S: Final = 86_400.0


def _seconds(low: float, high: float) -> Any:
    """A validator: a number of seconds in a range."""

    def check(_: Any, attribute: attrs.Attribute[float], value: float) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ConfigurationError(f"{attribute.name} is seconds from {low:g} to {high:g}; got {value!r}")

    return check


def instance(kind: type) -> Any:
    """A validator: an instance of a class. Its message shows no value, which may be a URL by mistake."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, kind):
            raise ConfigurationError(f"{attribute.name} is a {kind.__name__}; got {type(value).__name__}")

    return check


@attrs.frozen(kw_only=True)
class Policy:
    """How entries are kept and loaded. All times are seconds.

    Args:
        ttl: How long an entry is fresh: seconds, a timedelta, or a tier.
        jitter: How much is added to the ttl at random, so that entries do not expire together.
        stale_for_s: How long after that an entry may still be served: while somebody else reloads it,
            or when the loader fails. 0 serves nothing stale.
        lease_s: How long a load may go on without a sign of life before another may begin. It is renewed
            while the loader runs, every third of it.
        max_lease_s: How long it is renewed: a loader that hangs holds others up no longer.
        wait_s: How long a caller waits for the load of another before it calls its own loader, and does
            not store the value. Twice that where the load that it shares next hangs as well.

    Raises:
        InvalidTtlError: `ttl` is no time to live.
        ConfigurationError: Another time is out of range, or two contradict each other.
    """

    ttl: float = attrs.field(default=DEFAULT_TTL_S, converter=ttl_seconds)
    jitter: Jitter = attrs.field(default=Jitter(), validator=instance(Jitter))
    stale_for_s: float = attrs.field(default=0.0, validator=_seconds(0, MAX_TTL_S))
    lease_s: float = attrs.field(default=5.0, validator=_seconds(0.02, 3600))
    max_lease_s: float = attrs.field(default=60.0, validator=_seconds(0.02, _LONGEST_WAIT_S))
    wait_s: float = attrs.field(default=30.0, validator=_seconds(0, _LONGEST_WAIT_S))

    def __attrs_post_init__(self) -> None:
        if self.max_lease_s < self.lease_s:
            raise ConfigurationError(
                f"max_lease_s ({self.max_lease_s:g}) is shorter than lease_s ({self.lease_s:g}): a lease "
                "cannot be renewed for less than it lasts; raise max_lease_s or lower lease_s"
            )

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds, as the store wants it."""
        return math.ceil(self.lease_s * 1000)

    def with_ttl(self, ttl: Ttl) -> Policy:
        """The same policy with another time to live."""
        return attrs.evolve(self, ttl=ttl)

    def expiry_ms(self, draw: float) -> tuple[int, int]:
        """Hard and soft time to live in milliseconds, for a random draw in [0, 1). Soft 0 means none."""
        fresh_ms = ttl_ms(self.ttl, self.jitter, draw)
        if self.stale_for_s == 0:
            return fresh_ms, 0
        return fresh_ms + math.ceil(self.stale_for_s * 1000), fresh_ms
