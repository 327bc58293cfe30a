"""A wire, driven as a thread drives it that is alone."""

import time
from collections.abc import Sequence
from typing import Any

from redis import exceptions as errors

from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.wires import Wire


def exchange(
    wire: Wire, commands: Sequence[Sequence[Any]], timeout_s: float = 10.0, **options: bool
) -> list[Any]:
    """Send commands together; returns their replies, error replies as values."""
    until_s = time.monotonic() + timeout_s
    wire.write(pack(commands))
    replies: list[Any] = []
    while len(replies) < len(commands):
        replies += wire.read(until_s, **options)
        if len(replies) < len(commands) and time.monotonic() >= until_s:
            raise errors.TimeoutError("no reply in time")
    return replies
