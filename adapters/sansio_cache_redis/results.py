"""Results: what the calls of both caches give back."""

from __future__ import annotations

import attrs

from sansio_cache.errors import CacheConnectionError, CacheTimeoutError
from sansio_cache.events import FailureKind


@attrs.frozen
class InvalidateResult:
    """What became of an invalidation.

    Attributes:
        done: How many keys the store was told of; they are gone, if they were there.
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
    """

    deleted: int
    complete: bool


def not_ready(kind: FailureKind, limit_s: float) -> CacheConnectionError:
    """The error for a store that does not serve in time."""
    if kind is FailureKind.TIMEOUT:
        return CacheTimeoutError(f"the store did not answer within {limit_s:g} s")
    return CacheConnectionError(
        f"the store did not serve within {limit_s:g} s ({kind.value}): check the URL and the server"
    )
