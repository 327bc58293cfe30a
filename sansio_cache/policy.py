"""The policy: how long entries live, and how a load and its waiters behave.

One immutable value, per cache, per entity or per call. What contradicts itself is refused when it is made.

Early refresh has two forms. At a fixed share of an entry's life the next reader starts a refresh; or each
reader starts one with a probability that rises as the expiry comes near, in proportion to how long the value
took to load: XFetch (Vattani, Chierichetti, Lowenstein 2015,
https://www.vldb.org/pvldb/vol8/p886-vattani.pdf).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final, Literal

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.ttl import DEFAULT_TTL_S, MAX_TTL_S, Jitter, Ttl, ttl_seconds

_LONGEST_WAIT_S: Final = 86_400.0
_LONGEST_MS: Final = round(MAX_TTL_S * 1000)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def seconds(low: float, high: float) -> Any:
    """A validator: a number of seconds in a range."""

    def check(_: Any, attribute: attrs.Attribute[float], value: float) -> None:
        if not _is_number(value) or not low <= value <= high:
            raise ConfigurationError(f"{attribute.name} is seconds from {low:g} to {high:g}; got {value!r}")

    return check


def between(low: float, high: float) -> Any:
    """A validator: None, or a number inside a range, its ends excluded."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not (_is_number(value) and low < value < high):
            raise ConfigurationError(
                f"{attribute.name} is None or a number above {low:g} and below {high:g}; got {value!r}"
            )

    return check


def one_of(*choices: str) -> Any:
    """A validator: one of some words."""

    def check(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in choices:
            raise ConfigurationError(f"{attribute.name} is one of {', '.join(choices)}; got {value!r}")

    return check


def instance(kind: type) -> Any:
    """A validator: an instance of a class. Its message shows no value, which may be a URL by mistake."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, kind):
            raise ConfigurationError(f"{attribute.name} is a {kind.__name__}; got {type(value).__name__}")

    return check


@attrs.frozen(kw_only=True, slots=False)
class Policy:
    """How entries are kept and loaded. All times are seconds.

    Args:
        ttl: How long an entry is fresh: seconds, a timedelta, or a tier.
        jitter: How much is added to the ttl at random, so that entries do not expire together.
        stale_for_s: How long after that an entry may still be served: at once while one process refreshes it
            in the background, and where the loader fails. 0 serves nothing stale.
        refresh_at: The share of an entry's life after which the next reader has it refreshed in the
            background, as 0.8. None does not.
        xfetch_beta: Refresh early at random instead, the more likely the nearer the expiry and the longer the
            load took; 1 is the usual value, more is earlier. None does not.
        max_life_s: How long an entry may live in all, from its load on, where it is let live longer by
            `touch` or by `get(…, renew=…)`. None is the longest that this policy gives an entry anyway.
        negative_ttl: How long it is kept that there is nothing, where neither a loader nor a shorter `ttl`
            says so.
        lease_s: How long a load may go on without a sign of life before another may begin. It is renewed
            while the loader runs, every third of it.
        max_lease_s: How long it is renewed: a loader that hangs holds others up no longer.
        wait_s: How long a caller waits for the load of another. Twice that where the load that it shares next
            hangs as well.
        on_wait_timeout: What it does then. `"load"` calls its own loader and does not store the value;
            `"raise"` raises CacheTimeoutError. With `"stale"` an entry past its ttl is not served at once:
            callers wait for the fresh value, and are given the stale one only when the wait is over, or when
            the loader fails; without one they load.
        retry_after_s: After a refresh in the background has failed, this process does not start another of
            that key for so long; the stale value is served meanwhile.
        on_read_error: What a read does where the store fails: `"load"` calls the loader (`get` gives the
            default); `"raise"` raises CacheConnectionError.
        on_invalidate_error: What an invalidation does that the store cannot be told of: `"remember"` says so
            in its result; `"raise"` raises CacheConnectionError. It is pending, and replayed, in any case.

    Raises:
        InvalidTtlError: `ttl` or `negative_ttl` is no time to live.
        ConfigurationError: Another time is out of range, or two contradict each other.
    """

    ttl: float = attrs.field(default=DEFAULT_TTL_S, converter=ttl_seconds)
    jitter: Jitter = attrs.field(default=Jitter(), validator=instance(Jitter))
    stale_for_s: float = attrs.field(default=0.0, validator=seconds(0, MAX_TTL_S))
    refresh_at: float | None = attrs.field(default=None, validator=between(0, 1))
    xfetch_beta: float | None = attrs.field(default=None, validator=between(0, 1000))
    max_life_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(seconds(0.001, MAX_TTL_S))
    )
    negative_ttl: float = attrs.field(default=60.0, converter=ttl_seconds)
    lease_s: float = attrs.field(default=5.0, validator=seconds(0.02, 3600))
    max_lease_s: float = attrs.field(default=60.0, validator=seconds(0.02, _LONGEST_WAIT_S))
    wait_s: float = attrs.field(default=30.0, validator=seconds(0, _LONGEST_WAIT_S))
    on_wait_timeout: Literal["load", "stale", "raise"] = attrs.field(
        default="load", validator=one_of("load", "stale", "raise")
    )
    retry_after_s: float = attrs.field(default=1.0, validator=seconds(0, _LONGEST_WAIT_S))
    on_read_error: Literal["load", "raise"] = attrs.field(default="load", validator=one_of("load", "raise"))
    on_invalidate_error: Literal["remember", "raise"] = attrs.field(
        default="remember", validator=one_of("remember", "raise")
    )

    def __attrs_post_init__(self) -> None:
        if self.max_lease_s < self.lease_s:
            raise ConfigurationError(
                f"max_lease_s ({self.max_lease_s:g}) is shorter than lease_s ({self.lease_s:g}): a lease "
                "cannot be renewed for less than it lasts; raise max_lease_s or lower lease_s"
            )
        if self.refresh_at is not None and self.xfetch_beta is not None:
            raise ConfigurationError("refresh_at and xfetch_beta both say when to refresh early: give one")
        if self.on_wait_timeout == "stale" and self.stale_for_s == 0:
            raise ConfigurationError(
                'on_wait_timeout="stale" with stale_for_s=0: nothing stale is kept that could be served; '
                "raise stale_for_s"
            )

    @cached_property
    def lease_ms(self) -> int:
        """The lease in milliseconds, as the store wants it."""
        return math.ceil(self.lease_s * 1000)

    @property
    def max_life_ms(self) -> int:
        """How long an entry may live in all, in milliseconds."""
        return self.expiry_ms(1.0)[0] if self.max_life_s is None else math.ceil(self.max_life_s * 1000)

    @property
    def is_stale_served_at_once(self) -> bool:
        """Whether a stale value is served while it is being refreshed."""
        return self.stale_for_s > 0 and self.on_wait_timeout != "stale"

    @cached_property
    def refreshes_early(self) -> bool:
        """Whether readers refresh entries that are still fresh."""
        return self.refresh_at is not None or self.xfetch_beta is not None

    def with_ttl(self, ttl: Ttl) -> Policy:
        """The same policy with another time to live."""
        return attrs.evolve(self, ttl=ttl)

    def expiry_ms(self, draw: float) -> tuple[int, int]:
        """Hard and soft time to live in milliseconds, for a random draw in [0, 1). Soft 0 means none."""
        fresh_ms = _drawn_ms(*self._range_ms, draw)
        return (fresh_ms, 0) if self._has_no_soft_expiry else self._expiry_ms(fresh_ms)

    @cached_property
    def _range_ms(self) -> tuple[float, float]:
        return _range_ms(self.ttl, self.jitter)

    @cached_property
    def _has_no_soft_expiry(self) -> bool:
        return self.stale_for_s == 0 and not self.refreshes_early

    def given_expiry_ms(self, ttl_s: float) -> tuple[int, int]:
        """The same for a time to live that the loader gave, in seconds: not jittered."""
        return self._expiry_ms(max(1, math.floor(ttl_s * 1000)))

    def negative_expiry_ms(self, ttl_s: float | None, draw: float) -> tuple[int, int]:
        """The same for an answer of a loader that found nothing: never served stale, nor refreshed early."""
        if ttl_s is not None:
            return max(1, math.floor(ttl_s * 1000)), 0
        return ttl_ms(min(self.ttl, self.negative_ttl), self.jitter, draw), 0

    def _expiry_ms(self, fresh_ms: int) -> tuple[int, int]:
        if self._has_no_soft_expiry:
            return fresh_ms, 0
        return fresh_ms + math.ceil(self.stale_for_s * 1000), fresh_ms

    def is_refresh_due(self, now_ms: int, filled_ms: int, soft_ms: int, load_ms: int, draw: float) -> bool:
        """Whether a reader is to start a refresh of an entry that is still fresh.

        Args:
            now_ms: The server's clock, like the next two.
            filled_ms: When the entry's load was granted.
            soft_ms: When it stops being fresh.
            load_ms: How long the load took.
            draw: A random number in (0, 1].
        """
        if self.refresh_at is not None:
            return now_ms >= filled_ms + self.refresh_at * (soft_ms - filled_ms)
        if self.xfetch_beta is not None:
            return now_ms - load_ms * self.xfetch_beta * math.log(draw) >= soft_ms
        return False


def ttl_ms(ttl_s: float, jitter: Jitter, draw: float) -> int:
    """Return what goes on the wire: the time to live with jitter, in whole milliseconds.

    It never falls as the draw rises, and lies between ``floor(ttl * (1 + low))`` and
    ``ceil(ttl * (1 + high))`` ms, except that `MAX_TTL_S` is never passed.

    Args:
        ttl_s: A time to live in seconds, as `ttl_seconds` returned it.
        jitter: The range of what is added.
        draw: A random number from 0 to 1, which says where in the range.

    Raises:
        ValueError: The draw is not between 0 and 1.
    """
    return _drawn_ms(*_range_ms(ttl_s, jitter), draw)


def _range_ms(ttl_s: float, jitter: Jitter) -> tuple[float, float]:
    """The shortest and the longest that a time to live becomes, in milliseconds."""
    return ttl_s * 1000 * (1 + jitter.low), ttl_s * 1000 * (1 + jitter.high)


def _drawn_ms(low_ms: float, high_ms: float, draw: float) -> int:
    if not 0 <= draw <= 1:
        raise ValueError(f"a draw is a number from 0 to 1; got {draw!r}")
    # 1.1 is no binary fraction: all this may be wrong in the last bit, of which floor or ceil could
    # make a whole millisecond. Rounding to the nearest cannot.
    return max(1, min(round(low_ms + (high_ms - low_ms) * draw), _LONGEST_MS))
