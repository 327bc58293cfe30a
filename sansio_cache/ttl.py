"""Times to live: how long an entry may live, and by how much jitter spreads it.

Theory of operation
-------------------
A time to live comes in as seconds, a ``timedelta`` or a `Tier`, and is checked once, by
`ttl_seconds`: every entry gets one and none may be endless, so zero, "for ever" and figures that
can only be a mistake of unit are refused. What comes from data, with a value, is taken as it is, by
`life_s`: nothing may be left of it. From there on it is a float in seconds. On the wire it is a whole
number of milliseconds, made by `ttl_ms`.

Entries written together would expire together and be loaded together. `Jitter` spreads them, and it
only ever *adds*: an entry lives at least as long as was asked for. The random draw is an argument;
nothing here draws.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final, TypeAlias

from attrs import field, frozen

from sansio_cache.errors import InvalidTtlError

MIN_TTL_S: Final = 0.001
"""The shortest time to live, in seconds: one unit of the wire."""

MAX_TTL_S: Final = 10 * 365 * 86_400.0
"""The longest time to live, in seconds: ten years. More was most likely meant as milliseconds."""


def _number(ttl: float | timedelta) -> float:
    """Return seconds, of any length, or raise InvalidTtlError."""
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidTtlError(
            f"a time to live is seconds (int or float), a timedelta or a Tier; got {type(ttl).__qualname__}"
        )
    try:
        return float(ttl)
    except OverflowError:  # an int beyond 1e308
        return math.inf if ttl > 0 else -math.inf


def _checked(ttl: float | timedelta) -> float:
    """Return seconds, or raise InvalidTtlError."""
    ttl_s = _number(ttl)
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:  # so written, the comparison refuses NaN too
        raise InvalidTtlError(
            f"a time to live is {MIN_TTL_S} s to {MAX_TTL_S:.0f} s (10 years); got {ttl_s!r} s"
        )
    return ttl_s


@frozen
class Tier:
    """A named time to live, for data that changes about as often.

    Attributes:
        name: What the tier is called in statistics and messages.
        ttl_s: Its time to live in seconds; a timedelta is converted.

    Raises:
        InvalidTtlError: `ttl_s` is not a number of seconds that `ttl_seconds` accepts.
    """

    name: str
    ttl_s: float = field(converter=_checked)


HOT: Final = Tier("hot", 600.0)
"""10 minutes: changes all the time, read all the time."""
MEDIUM: Final = Tier("medium", 3_600.0)
"""1 hour."""
COLD: Final = Tier("cold", 86_400.0)
"""24 hours."""
STATIC: Final = Tier("static", 604_800.0)
"""7 days: reference data."""

DEFAULT_TTL_S: Final = 3_600.0
"""What a write gets that does not say, in seconds."""

Ttl: TypeAlias = int | float | timedelta | Tier
"""What the API takes as a time to live: seconds, a timedelta or a tier."""


def ttl_seconds(ttl: Ttl) -> float:
    """Return a time to live in seconds.

    Args:
        ttl: Seconds, a timedelta or a tier.

    Raises:
        InvalidTtlError: It is of another type (bool and str included), not finite, under 1 ms or
            over 10 years.
    """
    return ttl.ttl_s if isinstance(ttl, Tier) else _checked(ttl)


def life_s(ttl: Ttl) -> float:
    """Return in seconds how long a value has to live, as its source says: a token, a response, a row.

    Such a figure depends on data, so none is a mistake. It is 0 where there is nothing left of it, which
    means less than can be stored. What is longer than ten years is ten years.

    Args:
        ttl: Seconds, a timedelta or a tier.

    Raises:
        InvalidTtlError: It is of another type (bool and str included), or NaN.
    """
    if isinstance(ttl, Tier):
        return ttl.ttl_s
    ttl_s = _number(ttl)
    if math.isnan(ttl_s):
        raise InvalidTtlError("a time to live is a number of seconds; got nan")
    return 0.0 if ttl_s < MIN_TTL_S else min(ttl_s, MAX_TTL_S)


@frozen
class Jitter:
    """The range of what is added to a time to live, in shares of it.

    By default 10 to 20 %, which makes 3960 to 4320 s of 3600 s.

    Attributes:
        low: The least share added.
        high: The greatest share added.

    Raises:
        InvalidTtlError: Not ``0 <= low <= high <= 1``.
    """

    low: float = 0.10
    high: float = 0.20

    def __attrs_post_init__(self) -> None:
        for share in (self.low, self.high):
            if isinstance(share, bool) or not isinstance(share, int | float):
                raise InvalidTtlError(
                    f"jitter is two shares of the time to live; got {type(share).__qualname__}"
                )
        if not 0 <= self.low <= self.high <= 1:  # so written, it refuses NaN too
            raise InvalidTtlError(
                f"jitter needs 0 <= low <= high <= 1; got low={self.low!r}, high={self.high!r}"
            )


@frozen
class Exact:
    """A time to live to the millisecond, without jitter: of what ends at its own time, such as a token.

    Attributes:
        ttl_s: The time to live in seconds; a timedelta or a tier is converted.

    Raises:
        InvalidTtlError: `ttl_s` is no number, or NaN.
    """

    ttl_s: float = field(converter=life_s)


NO_JITTER: Final = Jitter(0.0, 0.0)
"""Adds nothing: for times to live that the loader gave, and for policies that switch jitter off."""
