"""The entry: what a cell's body says, and whether this reader may have it.

The store never looks into a body. It holds::

    offset  size  field
         0     8  key check: a digest of the full key. A reply that belongs to another key is refused (S9)
         8     8  schema fingerprint of the type it was stored as
        16     1  what it is: 1 a value in JSON, 2 the answer that there is none, 3 a value of another codec
        17     1  how many tags it has
        18     4  how long the load took, ms (for early refresh)
        22     -  for each tag: its version (16), the length of its name (2), its name
         -    24  where entries are signed: the signature (see `signing.py`)
         -     -  payload

With the 50 bytes of the header that makes 72 bytes without tags, 96 with a signature. `examine` turns a cell
into a verdict; bad *stored* data is never an exception, it is a miss with a reason (S12).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct

from sansio_cache.cell import NO_GRANT, Cell, Foreign, Kind, grant_us
from sansio_cache.codec import JSON, Codec
from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.signals import let_through
from sansio_cache.signing import SIGNATURE_BYTES, Signer, is_outlived, signed_life_s
from sansio_cache.tags import VARIANT_OF, VERSION_BYTES, Versions

_BODY: Final = struct.Struct(">8s8sBBI")
BODY_HEADER_BYTES: Final = _BODY.size
_KIND_AT: Final = 16
TAGS_AT: Final = 17
_CHECK_BYTES: Final = 8
_LENGTH: Final = struct.Struct(">H")
_VALUE: Final = int(Kind.VALUE)
NOTHING: Final = 2
"""What an entry is, beside the two that are in `codec.py`: the answer that there is nothing."""
_NO_TAGS: Final[Mapping[str, bytes]] = MappingProxyType({})
_MAX_LOAD_MS: Final = 2**32 - 1
COPIED_BYTES: Final = 16_384
"""A payload up to this is sliced out: that is quicker than a view of it."""
MAX_TAGS: Final = 127
"""How many tags a caller may name. A variant may have as many of the other's entry, and the tie to that: a
byte counts them."""


class MissReason(StrEnum):
    """Why a request was not answered from the store. Every miss has exactly one (B3)."""

    __hash__ = str.__hash__  # as `OperationName` has it

    ABSENT = "absent"
    EXPIRED = "expired"
    CORRUPT = "corrupt"
    SCHEMA = "schema"
    TAG = "tag"
    KEY_CHECK = "key_check"
    SIGNATURE = "signature"
    FOREIGN = "foreign"
    STORE_ERROR = "store_error"
    BYPASSED = "bypassed"
    DISABLED = "disabled"


class Servable(Struct, frozen=True, gc=False):
    """The cell holds a value that this reader can read: fresh, or past its soft expiry.

    `is_absent`: it is the answer that there is nothing, and `value` is None.
    """

    value: Any
    fresh: bool
    cell: Cell
    is_absent: bool = False

    def __hash__(self) -> int:
        return hash((self.fresh, self.cell, self.is_absent))  # the value may be a list or a dict

    @property
    def filled_ms(self) -> int:
        """When its load was granted, on the server's clock."""
        return grant_us(self.cell.filled_by) // 1000

    @property
    def load_ms(self) -> int:
        """How long its load took."""
        return load_ms_of(self.cell)


class Unservable(Struct, frozen=True, gc=False):
    """There is nothing for this reader. `seen` names the value that it refuses, for `AcquireLease`."""

    reason: MissReason
    seen: bytes = NO_GRANT


class Unchecked(Struct, frozen=True):
    """Whether this reader may have the value depends on tags whose versions it does not know yet.

    To a reader who asks for them no more it is as one whose tags have changed.
    """

    tags: tuple[str, ...]
    reason: ClassVar[Literal[MissReason.TAG]] = MissReason.TAG
    seen: ClassVar[bytes] = NO_GRANT


Verdict = Servable | Unservable | Unchecked


def variant_key(key: str, fingerprint: bytes) -> str:
    """Where the variant is kept for readers who cannot read what another version stored at `key`."""
    namespace, _, rest = key.partition(":")
    return f"{namespace}:%s:{fingerprint.hex()}:{rest}"


def is_fresh(cell: Cell, server_ms: int | None) -> bool:
    """Whether a value is before its soft expiry. Without the server's clock, one that has any is not."""
    return cell.soft_ms == 0 or (server_ms is not None and server_ms < cell.soft_ms)


ABSENT: Final = Unservable(MissReason.ABSENT)
_FOREIGN: Final = Unservable(MissReason.FOREIGN)
_UNREACHED: Final = Unservable(MissReason.STORE_ERROR)


def key_check(key: str) -> bytes:
    """Eight bytes that tell a full key from every other."""
    return blake2b(key.encode(), digest_size=_CHECK_BYTES).digest()


@lru_cache(maxsize=4096)
def _stamp(key: str, stamp: bytes) -> bytes:
    """What a body without tags begins with that this reader may have: the key's check, the codec's stamp.

    Kept for the keys that were read last.
    """
    return key_check(key) + stamp


def seal(
    key: str,
    codec: Codec[Any],
    payload: bytes | None,
    load_s: float,
    versions: Versions = (),
    grant: bytes = NO_GRANT,
    hard_ttl_ms: int = 0,
) -> bytes:
    """The body of an entry.

    Args:
        key: The full key.
        codec: What the payload was encoded with.
        payload: The encoded value; None for the answer that there is none.
        load_s: How long the load took, in seconds.
        versions: The entry's tags, as they were before the load.
        grant: What it is stored under, and
        hard_ttl_ms: how long it is kept. Both are for its signature, where it has one.
    """
    load_ms = min(max(int(load_s * 1000), 0), _MAX_LOAD_MS)
    kind = NOTHING if payload is None else codec.kind
    header = _BODY.pack(key_check(key), codec.fingerprint, kind, len(versions), load_ms)
    if versions:
        header += b"".join(version + packed_name(tag) for tag, version in versions)
    if codec.signer is not None:
        life_s = codec.signer.life_s(hard_ttl_ms + load_ms)
        header += codec.signer.signature(key, grant, header, payload or b"", life_s)
    return header + (payload or b"")


def seal_instead(
    of: Cell, key: str, codec: Codec[Any], payload: bytes, grant: bytes, hard_ttl_ms: int
) -> bytes:
    """The body of a signed entry that takes the place of another, without the tags, which the store gives it.

    Args:
        of: The cell of the other, which was verified.
        key: The full key.
        codec: What the payload was encoded with.
        payload: The encoded value.
        grant: What it is stored under.
        hard_ttl_ms: How long it is kept; 0 for as long as the other would have been.
    """
    unpacked = _unpacked(of.body)
    assert codec.signer is not None, "others take a place without a look at it"
    assert unpacked is not None, "it was verified"
    tags, at = of.body[BODY_HEADER_BYTES : unpacked[1]], unpacked[1]
    count = of.body[TAGS_AT]
    head = _BODY.pack(key_check(key), codec.fingerprint, codec.kind, count, 0)
    life_s = codec.signer.life_s(hard_ttl_ms) if hard_ttl_ms else signed_life_s(of.body, at)
    signature = codec.signer.signature(key, grant, head + tags, payload, life_s)
    return head[:TAGS_AT] + b"\0" + head[TAGS_AT + 1 :] + signature + payload


def retagged(body: bytes, other: bytes) -> bytes | None:
    """A body without tags, with those of another body and their versions; None where that is nonsense."""
    unpacked = _unpacked(other) if len(other) >= BODY_HEADER_BYTES else None
    if unpacked is None:
        return None
    head = body[:TAGS_AT] + other[TAGS_AT : TAGS_AT + 1] + body[TAGS_AT + 1 : BODY_HEADER_BYTES]
    return head + other[BODY_HEADER_BYTES : unpacked[1]] + body[BODY_HEADER_BYTES:]


def packed_name(tag: str) -> bytes:
    """What follows the version of a tag in an entry."""
    name = tag.encode()
    return _LENGTH.pack(len(name)) + name


def _unpacked(body: bytes) -> tuple[Mapping[str, bytes], int] | None:
    """The tags of a body with their versions, and where its payload begins; None where that is nonsense."""
    if not body[TAGS_AT]:  # a dict less that has to be collected, which costs more than all the rest
        return _NO_TAGS, BODY_HEADER_BYTES
    tags: dict[str, bytes] = {}
    at = BODY_HEADER_BYTES
    for _ in range(body[TAGS_AT]):
        name_at = at + VERSION_BYTES + _LENGTH.size
        if len(body) < name_at:
            return None
        end = name_at + _LENGTH.unpack_from(body, name_at - _LENGTH.size)[0]
        if len(body) < end:
            return None
        try:
            tags[body[name_at:end].decode()] = body[at : at + VERSION_BYTES]
        except UnicodeDecodeError:
            return None
        at = end
    return tags, at


def is_nothing(body: bytes) -> bool:
    """Whether a body says that there is known to be nothing. It has a header."""
    return body[_KIND_AT] == NOTHING


def weigh(
    cell: Cell | Foreign | None,
    key: str,
    server_ms: int | None,
    versions: Versions = (),
    signer: Signer | None = None,
) -> Verdict:
    """Decide what a cell is worth to one who does not want its value: as `examine`, of whatever type it is.

    Args:
        cell: What the store holds.
        key: The full key.
        server_ms: The server's clock in milliseconds, as in `examine`.
        versions: The tags that are known, with their current versions.
        signer: Verifies entries, where they are signed.

    Returns:
        A verdict whose value is None.
    """
    if isinstance(cell, Foreign):
        return _UNREACHED if cell.is_unreached else _FOREIGN
    if cell is None or cell.kind != _VALUE:
        return ABSENT
    body = cell.body
    if len(body) < BODY_HEADER_BYTES:
        return Unservable(MissReason.CORRUPT, cell.filled_by)
    if not body.startswith(_stamp(key, b"")[:_CHECK_BYTES]):
        return Unservable(MissReason.KEY_CHECK, cell.filled_by)
    if signer is not None and not _is_signed(signer, key, cell, server_ms):
        return Unservable(MissReason.SIGNATURE, cell.filled_by)
    checked = _check(body, versions, cell.filled_by)
    if not isinstance(checked, int):
        return checked
    return Servable(None, _is_fresh_to(signer, cell, server_ms), cell, is_nothing(body))


def _is_fresh_to(signer: Signer | None, cell: Cell, server_ms: int | None) -> bool:
    """As `is_fresh`. A signature limits the age, which nobody knows without the server's clock."""
    return is_fresh(cell, server_ms) and (signer is None or server_ms is not None)


def _is_signed(signer: Signer, key: str, cell: Cell, server_ms: int | None) -> bool:
    """Whether somebody has signed this entry who knows a key, for this name and fill, not too long ago."""
    unpacked = _unpacked(cell.body)
    if unpacked is None:
        return False
    life_ms = signer.verified_life_ms(key, cell.filled_by, cell.body, unpacked[1])
    return life_ms is not None and not is_outlived(cell.filled_by, life_ms, server_ms)


def longest_life_ms(cell: Cell) -> int:
    """How long an entry may live in all, by its signature, which was verified."""
    unpacked = _unpacked(cell.body)
    assert unpacked is not None, "it was verified"
    return signed_life_s(cell.body, unpacked[1]) * 1000


def stored_for_another(cell: Cell | Foreign | None, key: str) -> bytes | None:
    """The grant that filled a value which was stored for another key than this one; None where it was not."""
    if not isinstance(cell, Cell) or cell.kind != _VALUE or len(cell.body) < BODY_HEADER_BYTES:
        return None
    return None if cell.body.startswith(_stamp(key, b"")[:_CHECK_BYTES]) else cell.filled_by


def examine(
    cell: Cell | Foreign | None,
    key: str,
    codec: Codec[Any],
    server_ms: int | None,
    versions: Versions = (),
) -> Verdict:
    """Decide what a cell is worth to a reader of `key` who decodes with `codec`.

    Args:
        cell: What the store holds.
        key: The full key.
        codec: How this reader decodes.
        server_ms: The server's clock in milliseconds as the reader knows it. Where it is not known, a value
            that has a soft expiry counts as expired: the acquire script, which has the clock, decides.
        versions: The tags that the reader names, and others that it knows, with their current versions. An
            entry without one of them was stored by somebody who did not name it, and is refused.
    """
    if isinstance(cell, Foreign):
        return _UNREACHED if cell.is_unreached else _FOREIGN
    if cell is None or cell.kind != _VALUE:
        return ABSENT
    body = cell.body
    if not versions and codec.signer is None and body.startswith(_stamp(key, codec.stamp)):  # nearly always
        payload = (body if len(body) < COPIED_BYTES else memoryview(body))[BODY_HEADER_BYTES:]
        if BODY_HEADER_BYTES <= len(body) <= BODY_HEADER_BYTES + codec.max_value_bytes:
            try:
                value = codec.decoder.decode(payload)
            except Exception as error:  # noqa: BLE001 - `Codec.decode` says below what to make of it
                let_through(error)
            else:
                soft_ms = cell.soft_ms  # as in `is_fresh`
                return Servable(value, soft_ms == 0 or (server_ms is not None and server_ms < soft_ms), cell)
    return _examine_closely(cell, key, codec, server_ms, versions)


def _examine_closely(
    cell: Cell, key: str, codec: Codec[Any], server_ms: int | None, versions: Versions
) -> Verdict:
    """The same for an entry with tags, of another schema, without a value, or that has to be signed."""
    body = cell.body
    if len(body) < BODY_HEADER_BYTES:
        return Unservable(MissReason.CORRUPT, cell.filled_by)
    if not body.startswith(_stamp(key, codec.stamp)[:_CHECK_BYTES]):
        return Unservable(MissReason.KEY_CHECK, cell.filled_by)
    if codec.signer is not None and not _is_signed(codec.signer, key, cell, server_ms):
        return Unservable(MissReason.SIGNATURE, cell.filled_by)
    is_own = body[8:16] == codec.fingerprint
    if not is_own and codec.hook is None:
        return Unservable(MissReason.SCHEMA, cell.filled_by)
    at = _check(body, versions, cell.filled_by)
    if not isinstance(at, int):
        return at
    fresh = _is_fresh_to(codec.signer, cell, server_ms)
    if body[_KIND_AT] == NOTHING:
        return Servable(None, fresh, cell, is_absent=True)
    if body[_KIND_AT] != (codec.kind if is_own else JSON):  # hooks are given JSON, and nothing else
        return Unservable(MissReason.SCHEMA, cell.filled_by)
    payload = memoryview(body)[at if codec.signer is None else at + SIGNATURE_BYTES :]
    try:
        value = codec.decode(payload) if is_own else codec.migrate(payload)
    except Undecodable:
        reason = MissReason.CORRUPT if is_own else MissReason.SCHEMA
        return Unservable(reason, cell.filled_by)
    return Servable(value, fresh, cell)


def tags_of(cell: Cell) -> tuple[str, ...]:
    """The names of an entry's tags, whatever its schema."""
    unpacked = _unpacked(cell.body)
    return () if unpacked is None else tuple(tag for tag in unpacked[0] if tag != VARIANT_OF)[:MAX_TAGS]


def load_ms_of(cell: Cell) -> int:
    """How long the load of a value took, in milliseconds. Its body has a header."""
    return int.from_bytes(cell.body[18:22])


class Contents(Struct, frozen=True):
    """What a body says, as it stands there: for those who look at an entry and do not want its value.

    Attributes:
        key_check: The digest of the key that it was stored for; see `key_check`.
        fingerprint: Of the type that it was stored as.
        kind: 1 a value in JSON, 2 the answer that there is nothing, 3 a value of another codec.
        load_ms: How long its load took.
        versions: Its tags, with their versions before the load.
        signature: What proves who has made it; empty where it is not asked for.
        payload: The encoded value.
    """

    key_check: bytes
    fingerprint: bytes
    kind: int
    load_ms: int
    versions: Versions
    signature: bytes
    payload: bytes


def contents_of(body: bytes, *, is_signed: bool = False) -> Contents | None:
    """What a body says; None where that is nonsense. Whether a reader may have it says `weigh`.

    Args:
        body: Of a cell.
        is_signed: Whether a signature stands before the payload: a body does not say so itself.
    """
    unpacked = _unpacked(body) if len(body) >= BODY_HEADER_BYTES else None
    if unpacked is None:
        return None
    check, fingerprint, kind, _, load_ms = _BODY.unpack_from(body)
    tags, at = unpacked
    begin = at + SIGNATURE_BYTES * is_signed
    return Contents(check, fingerprint, kind, load_ms, tuple(tags.items()), body[at:begin], body[begin:])


def copy_of(cell: Cell, codec: Codec[Any]) -> Any:
    """Another copy of a value that was found to be servable; None where there is none."""
    unpacked = _unpacked(cell.body)
    assert unpacked is not None, "examine() has seen it"
    payload = cell.body[unpacked[1] if codec.signer is None else unpacked[1] + SIGNATURE_BYTES :]
    if cell.body[_KIND_AT] == NOTHING:
        return None
    try:
        is_own = cell.body[8:16] == codec.fingerprint
        return codec.decode(payload) if is_own else codec.migrate(payload)
    except Undecodable:  # a hook of the user's may change its mind
        return None


def _check(body: bytes, versions: Versions, filled_by: bytes) -> int | Unservable | Unchecked:
    """Where the payload begins, if all tags hold; else the verdict."""
    unpacked = _unpacked(body)
    if unpacked is None:
        return Unservable(MissReason.CORRUPT, filled_by)
    tags, at = unpacked
    known = dict(versions)
    for tag, version in known.items():
        # A name that the reader gives must be among the entry's; what else it knows may be.
        if tags.get(tag) != version:
            return Unservable(MissReason.TAG, filled_by)
    unknown = tuple(tag for tag in tags if tag not in known)
    return Unchecked(unknown) if unknown else at
