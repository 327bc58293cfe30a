"""Inspection: what the bytes of a key are, for people who look at a store from outside.

Nobody reads a value this way: it says what is there, in the words of the protocol, and what a reader would
make of it. The formats are those of `cell.py` and `entry.py`, and their code reads them. Bytes may come from
anybody, so nothing here raises for them.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from sansio_cache.cell import GRANT_BYTES, NO_GRANT, Cell, Foreign, Kind, grant_us, parse_cell
from sansio_cache.entry import Contents, MissReason, Servable, Unchecked, contents_of, load_ms_of, weigh
from sansio_cache.keys import LOCK_MARKER, QUEUE_MARKER
from sansio_cache.signing import Signer
from sansio_cache.tags import VERSION_BYTES, Versions, is_tag_key

_NO_EXPIRY_MS = -1


class CellState(StrEnum):
    """What a key holds."""

    NONE = "none"
    """Nothing: there is no such key."""
    FRESH = "fresh"
    """A value that is served."""
    STALE = "stale"
    """A value past its soft expiry."""
    NOTHING = "nothing"
    """The answer that there is known to be nothing."""
    REFUSED = "refused"
    """A value that no reader is given; the reason is with it."""
    UNCHECKED = "unchecked"
    """A value with tags whose versions were not looked up."""
    LEASED = "leased"
    """No value; somebody loads one, or has begun to."""
    HELD = "held"
    """No value; a writer holds the key."""
    LOCKED = "locked"
    """A lock that somebody holds."""
    UNLOCKED = "unlocked"
    """A lock that nobody holds: it keeps the last token."""
    TAG = "tag"
    """The version of a tag, or of a generation."""
    QUEUED = "queued"
    """A record of a queue of writes, which stays until it is written."""
    FOREIGN = "foreign"
    """What no cache of this format has written."""


@attrs.frozen
class Grant:
    """A grant: who may store into a cell, or whose value is in it.

    Attributes:
        id: Its 16 bytes.
        issued_ms: When the server issued it, in milliseconds of its clock.
    """

    id: bytes
    issued_ms: int

    @classmethod
    def of(cls, id: bytes) -> Grant | None:
        """The grant of an id; None where that is none."""
        return None if id == NO_GRANT else cls(id, grant_us(id) // 1000)


@attrs.frozen(kw_only=True)
class Inspection:
    """What a key is.

    Attributes:
        key: Its full name.
        state: What it holds.
        reason: Why no reader is given the value; None where that is not so.
        lease: The grant under which somebody loads or writes, or holds a lock.
        lease_left_ms: How long that is protected, in milliseconds; negative where it has run out.
        stored_by: The grant under which the value was stored.
        age_ms: How long ago that was issued: when its load, or its write, began. Negative where that is in
            the server's future.
        fresh_for_ms: How long a value stays fresh, in milliseconds; negative where it is stale.
        left_ms: How long the key lives, in milliseconds; None where it has no time to live.
        life_ms: How long the key was to live, from when its value was stored; None where that is not known.
        contents: What the entry says; None where there is none.
        size_bytes: How long the string is.
    """

    key: str
    state: CellState
    reason: MissReason | None = None
    lease: Grant | None = None
    lease_left_ms: int = 0
    stored_by: Grant | None = None
    age_ms: int | None = None
    fresh_for_ms: int | None = None
    left_ms: int | None = None
    life_ms: int | None = None
    contents: Contents | None = attrs.field(default=None, repr=False)
    size_bytes: int = 0

    @property
    def has_value(self) -> bool:
        """Whether it holds a value, or the answer that there is none, for whomever."""
        return self.stored_by is not None


def inspect(
    key: str,
    raw: bytes | None,
    *,
    left_ms: int,
    server_ms: int,
    versions: Versions | None = None,
    size_bytes: int | None = None,
    signer: Signer | None = None,
) -> Inspection:
    """Say what a key is.

    Args:
        key: Its full name.
        raw: The bytes that it holds, all of them, or as many from the beginning as are of interest: the
            first 72, and the tags where there are some. None where there is no such key.
        left_ms: How long it lives, as PTTL says it: -1 where it has no time to live.
        server_ms: The server's clock, in milliseconds.
        versions: The tags of the entry with their current versions, `NO_VERSION` where there is none; None
            where they were not looked up.
        size_bytes: How long the whole string is, or may be, where `raw` is not all of it.
        signer: Verifies entries that are signed, of which `raw` has to be all; None takes them as they are.
    """
    if raw is None:
        return Inspection(key=key, state=CellState.NONE)
    left = None if left_ms == _NO_EXPIRY_MS else left_ms
    size = len(raw) if size_bytes is None else size_bytes
    if is_tag_key(key) and len(raw) == VERSION_BYTES == GRANT_BYTES:
        issued = Grant(raw, grant_us(raw) // 1000)
        age_ms = server_ms - issued.issued_ms
        return Inspection(
            key=key, state=CellState.TAG, stored_by=issued, age_ms=age_ms, left_ms=left, size_bytes=size
        )
    cell = parse_cell(raw)
    if isinstance(cell, Foreign):
        is_queued = key.partition(":")[2].startswith(QUEUE_MARKER)
        state = CellState.QUEUED if is_queued else CellState.FOREIGN
        return Inspection(key=key, state=state, left_ms=left, size_bytes=size)
    lease = Grant.of(cell.grant)
    common = Inspection(
        key=key,
        state=_unvalued(key, cell),
        lease=lease,
        lease_left_ms=cell.lease_deadline_ms - server_ms if lease else 0,
        left_ms=left,
        size_bytes=size,
    )
    is_cut = len(raw) < size
    return (
        common
        if cell.kind != Kind.VALUE
        else _valued(common, cell, server_ms, versions, is_cut=is_cut, signer=signer)
    )


def _unvalued(key: str, cell: Cell) -> CellState:
    if key.partition(":")[2].startswith(LOCK_MARKER):
        return CellState.LOCKED if cell.kind == Kind.HOLD else CellState.UNLOCKED
    return CellState.HELD if cell.kind == Kind.HOLD else CellState.LEASED


def _valued(
    common: Inspection,
    cell: Cell,
    server_ms: int,
    versions: Versions | None,
    *,
    is_cut: bool,
    signer: Signer | None,
) -> Inspection:
    contents = contents_of(cell.body, is_signed=signer is not None)
    verdict = weigh(cell, common.key, server_ms, versions or (), signer)
    reason: MissReason | None = None
    if isinstance(verdict, Servable):
        fresh = CellState.NOTHING if verdict.is_absent else CellState.FRESH
        state = fresh if verdict.fresh else CellState.STALE
    elif versions is None and (isinstance(verdict, Unchecked) or (contents is None and is_cut)):
        state = CellState.UNCHECKED
    else:
        state, reason = CellState.REFUSED, verdict.reason
    stored_by = Grant.of(cell.filled_by)
    stored_ms = (stored_by.issued_ms if stored_by else 0) + load_ms_of(cell)
    left_ms = common.left_ms
    return attrs.evolve(
        common,
        state=state,
        reason=reason,
        stored_by=stored_by,
        age_ms=server_ms - stored_by.issued_ms if stored_by else None,
        fresh_for_ms=cell.soft_ms - server_ms if cell.soft_ms else left_ms,
        life_ms=server_ms + left_ms - stored_ms if left_ms is not None and stored_by else None,
        contents=contents,
    )
