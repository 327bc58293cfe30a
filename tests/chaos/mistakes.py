"""Workers that do something wrong: the run must find it."""

from __future__ import annotations

from typing import Any

from sansio_cache.cell import NO_GRANT, Cell, Kind, format_cell
from sansio_cache.codec import codec_for
from sansio_cache.entry import seal
from sansio_cache.pending_invalidations import PendingInvalidations

EARLY = "invalidates before it commits"
PLAIN_FILL = "fills without a grant"
FORGETS = "forgets pending invalidations"
OF_ANOTHER = "gives the value of another key"
SWALLOWS = "swallows what a handler raised"
SLOW = "takes its time"
KEEPS_A_LEASE = "keeps a lease"
WITHOUT_STORE = "never comes back to the store"

MISTAKES = {
    EARLY: "stale",
    PLAIN_FILL: "stale",
    FORGETS: "stale",
    OF_ANOTHER: "wrong",
    SWALLOWS: "wrong",
    SLOW: "hung",
    KEEPS_A_LEASE: "left",
    WITHOUT_STORE: "lifeless",
}
"""The mistakes, and what sort of finding each is to be."""

NOBODY = b"nobody, in truth"


def prepare(mistake: str, order: dict[str, Any]) -> None:
    """Make this process one that makes the mistake."""
    if mistake == FORGETS:
        PendingInvalidations.add = lambda self, *_: None  # type: ignore[method-assign]
    elif mistake == WITHOUT_STORE:
        order["url"] = "redis://127.0.0.1:1/0"


def keep_a_lease(process: Any) -> None:
    """A lease that nobody gives back."""
    seconds, _ = process.server.time()
    cell = Cell(Kind.EMPTY, NOBODY, (seconds + 600) * 1000)
    process.server.set(f"{process.order['namespace']}:{process.own[0]}", format_cell(cell), px=600_000)


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
