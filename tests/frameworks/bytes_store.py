"""What the adapters have in common: caches of bytes, and how long an entry lives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from sansio_cache import Exact
from sansio_cache.codecs import RAW
from sansio_cache.ttl import MAX_TTL_S

FOREVER: Final = Exact(MAX_TTL_S)
"""Every entry has a time to live. Ten years is the longest."""
OPTIONS: Final[Any] = {"codecs": {bytes: RAW}, "operation_timeout_s": 20.0}
"""Of a cache whose values are bytes, with `type=bytes`.

Patient: on a machine that is busy for longer than the usual 250 ms a write is not stored, and says so. That
is right for a cache, and no business of these suites.
"""


def life(timeout: float | timedelta | None) -> Exact:
    """A time to live as frameworks give it: None for ever, 0 for none, and to the millisecond."""
    if timeout is None:
        return FOREVER
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    return Exact(seconds)


def is_forever(remaining_s: float) -> bool:
    """Whether an entry has been stored without a time to live, as far as its framework knows."""
    return remaining_s > MAX_TTL_S / 2
