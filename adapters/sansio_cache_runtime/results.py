"""Results: what the calls of both caches give back."""

from __future__ import annotations

import attrs

from sansio_cache.errors import CacheConnectionError, CacheTimeoutError, ConfigurationError
from sansio_cache.events import FailureKind
from sansio_cache.step import NotAMapping, Outcome, TookTooLong, Unavailable


@attrs.frozen
class InvalidateResult:
    """What became of an invalidation.

    Attributes:
        done: How many keys and tags the store was told of; they are gone, if they were there.
        remembered: How many it could not be told of. They are told when it is back; until then this
            cache does not read them from it, but others may.
    """

    done: int
    remembered: int


@attrs.frozen
class PatternResult:
    """What became of a deletion by pattern.

    Attributes:
        deleted: How many keys were removed.
        complete: False where it broke off, as the store failed: some keys may be left.
        matched: How many keys were found; in a dry run they are all still there. The store may find a key
            twice.
    """

    deleted: int
    complete: bool
    matched: int = 0


def not_ready(kind: FailureKind, limit_s: float) -> CacheConnectionError:
    """The error for a store that does not serve in time."""
    if kind is FailureKind.TIMEOUT:
        return CacheTimeoutError(f"the store did not answer within {limit_s:g} s")
    return CacheConnectionError(
        f"the store did not serve within {limit_s:g} s ({kind.value}): check the URL and the server"
    )


def not_told(result: InvalidateResult) -> CacheConnectionError:
    """The error for an invalidation that the store could not be told of."""
    return CacheConnectionError(
        f"the store could not be told of {result.remembered} of {result.done + result.remembered} "
        "invalidations; they are remembered, and it is told when it is back"
    )


def raise_failure(outcome: Outcome) -> None:
    """Raise what the caller's policy asks to be told of, or what the loader did wrong.

    Raises:
        CacheTimeoutError: Another's load, or the store, took too long.
        CacheConnectionError: The store failed.
        ConfigurationError: A loader of many keys gave no mapping.
    """
    match outcome:
        case NotAMapping(kind=kind):
            raise ConfigurationError(f"a loader of many keys returns a mapping of keys to values; got {kind}")
        case TookTooLong(waited_s=waited_s):
            raise CacheTimeoutError(f"another caller's load had not ended after {waited_s:.3g} s")
        case Unavailable(kind=None):
            raise CacheConnectionError("the store does not serve, and is not asked until it does")
        case Unavailable(kind=FailureKind.TIMEOUT):
            raise CacheTimeoutError("the store did not answer in time")
        case Unavailable(kind=kind):
            raise CacheConnectionError(f"the store failed ({kind})")
        case _:
            pass
