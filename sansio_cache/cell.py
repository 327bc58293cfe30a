"""The cell: the one string that an entry is, in the store.

A cell holds the value *and* the lease. So whatever removes the key (an invalidation, a plain `DEL` by
any program, an expiry, an eviction, a FLUSHDB) voids the loads in flight as well: a load may only be
stored into the very cell that issued its grant (invariants S1, S2, S4).

Layout, big-endian, times on the server's clock::

    offset  size  field
         0     1  magic 0xC5: the format; another layout would use another byte
         1     1  kind: 0 empty (leased, no value), 1 value, 2 held by a writer
         2    16  grant (a fencing token): client nonce (8) + place in its batch (1) + server
                  microseconds (7); zero = no lease
        18     8  lease deadline, ms
        26     8  soft expiry, ms; zero = fresh for as long as the key lives
        34    16  filled_by: the grant under which the value was stored
        50     -  body, opaque to the store (see `entry.py`); only where the kind is value

Anything else is *foreign*: another program's key, or a format of another version of this library. A
foreign cell is a miss, and a reader never overwrites it (fault 33).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from msgspec import Struct

MAGIC: Final = 0xC5
NONCE_BYTES: Final = 8
GRANT_BYTES: Final = 16
NO_GRANT: Final = bytes(GRANT_BYTES)

HEADER: Final = struct.Struct(">BB16sQQ16s")
"""All but the body: magic, kind, grant, lease deadline, soft expiry, filled_by."""
HEADER_BYTES: Final = HEADER.size
FILLED_BY_AT: Final = HEADER_BYTES - GRANT_BYTES
_unpack = HEADER.unpack_from


class Kind(IntEnum):
    """What a cell is, by its second byte."""

    EMPTY = 0
    VALUE = 1
    HOLD = 2


class Cell(Struct, frozen=True, gc=False):
    """A cell as the store keeps it. Grants are 16 bytes, times milliseconds of the server's clock."""

    kind: int
    grant: bytes = NO_GRANT
    lease_deadline_ms: int = 0
    soft_ms: int = 0
    filled_by: bytes = NO_GRANT
    body: bytes = b""


class Foreign(Struct, frozen=True):
    """A key that holds something which is not a cell of this format."""

    is_unreached: bool = False
    """Whether nobody knows what it holds, as the part of the store has failed that it is in."""


class Tag(Struct, frozen=True):
    """The key of a tag, which holds its version. To a reader of cells it is foreign (see `tags.py`)."""

    version: bytes


FOREIGN: Final = Foreign()
UNREACHED: Final = Foreign(is_unreached=True)
LAST_KIND: Final = int(max(Kind))


def parse_cell(raw: bytes) -> Cell | Foreign:
    """Read a cell from the bytes of its key. Never raises: what is not a cell is foreign (S12)."""
    if len(raw) < HEADER_BYTES:
        return FOREIGN
    magic, kind, grant, lease_deadline_ms, soft_ms, filled_by = _unpack(raw)
    if magic != MAGIC or kind > LAST_KIND:
        return FOREIGN
    return Cell(kind, grant, lease_deadline_ms, soft_ms, filled_by, raw[HEADER_BYTES:])


def format_cell(cell: Cell) -> bytes:
    """The bytes of a cell: the inverse of `parse_cell`."""
    header = HEADER.pack(MAGIC, cell.kind, cell.grant, cell.lease_deadline_ms, cell.soft_ms, cell.filled_by)
    return header + cell.body


def make_grant(nonce: bytes, server_us: int) -> bytes:
    """A grant's id: the client's nonce, and the server's clock in microseconds (S3)."""
    return nonce + server_us.to_bytes(GRANT_BYTES - NONCE_BYTES, "big")


def grant_us(grant: bytes) -> int:
    """When a grant was issued, in microseconds of the server's clock; 0 for none.

    Keys whose grants one step of the server issues share that moment and the nonce: the place of each among
    them, in the byte before, makes their ids differ.
    """
    return int.from_bytes(grant[NONCE_BYTES + 1 :])


def above_floor(cell: Cell, floor_us: int) -> Cell | None:
    """A cell as far as it can be trusted on a server that has gone back to what it was some time ago.

    What was issued before the floor counts as gone: it may have been invalidated, or given up, since the
    server was as it is now. That is the value, the lease, or both; None where nothing is left.
    """
    is_leased = grant_us(cell.grant) >= floor_us
    if cell.kind == Kind.VALUE and grant_us(cell.filled_by) >= floor_us:
        return cell if is_leased else Cell(cell.kind, NO_GRANT, 0, cell.soft_ms, cell.filled_by, cell.body)
    if not is_leased:
        return None
    return cell if cell.kind != Kind.VALUE else Cell(Kind.EMPTY, cell.grant, cell.lease_deadline_ms)


def issued_cell(kind: int, grant: bytes, lease_ms: int) -> Cell:
    """The cell as the grant of a lease or a hold leaves it, where there is no value beneath.

    All of it follows from the grant and from what was asked for, so that a store that can compare need not be
    asked what it holds.
    """
    return Cell(kind, grant, grant_us(grant) // 1000 + lease_ms)


def is_granted_to(grant: bytes, lease_id: bytes) -> bool:
    """Whether a lease is that of a cell's grant: by its id, or by its nonce where no id is known (S5)."""
    return grant != NO_GRANT and grant.startswith(lease_id)
