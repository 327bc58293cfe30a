"""The entry: what a cell's body says, and whether this reader may have it.

The store never looks into a body. It holds::

    offset  size  field
         0     8  key check: a digest of the full key. A reply that belongs to another key is refused (S9)
         8     8  schema fingerprint of the type it was stored as
        16     4  how long the load took, ms (for early refresh)
        20     1  codec
        21     -  payload

With the 50 bytes of the header that makes 71 bytes in all. `examine` turns a cell into a verdict; bad
*stored* data is never an exception, it is a miss with a reason (S12).
"""

from __future__ import annotations

import struct
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from msgspec import Struct

from sansio_cache.cell import NO_GRANT, Cell, Foreign, Kind
from sansio_cache.codec import Codec, Undecodable

_BODY: Final = struct.Struct(">8s8sIB")
BODY_HEADER_BYTES: Final = _BODY.size
CODEC_JSON: Final = 1
_MAX_LOAD_MS: Final = 2**32 - 1


class MissReason(StrEnum):
    """Why a request was not answered from the store. Every miss has exactly one (B3)."""

    ABSENT = "absent"
    EXPIRED = "expired"
    CORRUPT = "corrupt"
    SCHEMA = "schema"
    KEY_CHECK = "key_check"
    FOREIGN = "foreign"
    STORE_ERROR = "store_error"
    BYPASSED = "bypassed"
    DISABLED = "disabled"


class Servable(Struct, frozen=True):
    """The cell holds a value that this reader can read: fresh, or past its soft expiry."""

    value: Any
    fresh: bool
    cell: Cell


class Unservable(Struct, frozen=True):
    """There is nothing for this reader. `seen` names the value that it refuses, for `AcquireLease`."""

    reason: MissReason
    seen: bytes = NO_GRANT


ABSENT: Final = Unservable(MissReason.ABSENT)
_FOREIGN: Final = Unservable(MissReason.FOREIGN)


def key_check(key: str) -> bytes:
    """Eight bytes that tell a full key from every other."""
    return blake2b(key.encode(), digest_size=8).digest()


@lru_cache(maxsize=1024)
def _stamp(key: str, fingerprint: bytes) -> bytes:
    """What a body begins with that this reader may have. Kept for the keys that were read last."""
    return key_check(key) + fingerprint


def seal(key: str, codec: Codec[Any], payload: bytes, load_s: float) -> bytes:
    """The body of an entry. `load_s` is how long the load took, in seconds."""
    load_ms = min(max(int(load_s * 1000), 0), _MAX_LOAD_MS)
    return _BODY.pack(key_check(key), codec.fingerprint, load_ms, CODEC_JSON) + payload


def examine(
    cell: Cell | Foreign | None, key: str, codec: Codec[Any], server_ms: int | None
) -> Servable | Unservable:
    """Decide what a cell is worth to a reader of `key` who decodes with `codec`.

    `server_ms` is the server's clock in milliseconds as the reader knows it. Where it is not known,
    a value that has a soft expiry counts as expired: the acquire script, which has the clock, decides.
    """
    if cell is None:
        return ABSENT
    if isinstance(cell, Foreign):
        return _FOREIGN
    if cell.kind != Kind.VALUE:
        return ABSENT
    body = cell.body
    if not body.startswith(_stamp(key, codec.fingerprint)) or len(body) < BODY_HEADER_BYTES:
        reason = _why_refused(body, key)
        if reason != MissReason.SCHEMA or body[BODY_HEADER_BYTES - 1] != CODEC_JSON:
            return Unservable(reason, cell.filled_by)
        try:
            value = codec.migrate(memoryview(body)[BODY_HEADER_BYTES:])
        except Undecodable:
            return Unservable(reason, cell.filled_by)
    elif body[BODY_HEADER_BYTES - 1] != CODEC_JSON:
        return Unservable(MissReason.SCHEMA, cell.filled_by)
    else:
        try:
            value = codec.decode(memoryview(body)[BODY_HEADER_BYTES:])
        except Undecodable:
            return Unservable(MissReason.CORRUPT, cell.filled_by)
    fresh = cell.soft_ms == 0 or (server_ms is not None and server_ms < cell.soft_ms)
    return Servable(value, fresh, cell)


def _why_refused(body: bytes, key: str) -> MissReason:
    if len(body) < BODY_HEADER_BYTES:
        return MissReason.CORRUPT
    return MissReason.SCHEMA if body.startswith(key_check(key)) else MissReason.KEY_CHECK
