"""Workers that do something wrong: the run must find it."""

from __future__ import annotations

from typing import Any

from sansio_cache.cell import NO_GRANT, Cell, Kind, format_cell
from sansio_cache.codec import codec_for
from sansio_cache.entry import seal
from sansio_cache.pending_invalidations import PendingInvalidations

MISTAKES = ("invalidates before it commits", "fills without a grant", "forgets pending invalidations")


def prepare(mistake: str) -> None:
    """Make this process one that makes the mistake."""
    if mistake == "forgets pending invalidations":
        PendingInvalidations.add = lambda self, keys: None  # type: ignore[method-assign]


async def load_and_fill(process: Any, key: str) -> Any:
    """What most caches do at a miss: load, and SET."""
    found = await process.facade.get(key)
    if found is not None:
        return found
    value = process.value(key, process.version(key))
    process.pause()
    full = f"{process.order['namespace']}:{key}"
    codec = codec_for(None, 2**20)
    body = seal(full, codec, codec.encode(value).payload, 0.0)
    process.server.set(
        full, format_cell(Cell(Kind.VALUE, NO_GRANT, 0, 0, b"plain-fill-00000", body)), px=30_000
    )
    return value
