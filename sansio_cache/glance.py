"""Glance: what a read may be answered with at the first look, without its machine.

Nearly every read is a hit, and of nearly every hit all that has to be known is that the bytes are a value of
this format, for this key and this codec, before its soft expiry, with the tags that the caller names as they
are now. That is one look, which `at` takes: then the payload is decoded, and the read is over. Whatever else
it meets, it says nothing of: the driver makes the machine (`first_step`) and gives it the same event, as if
there had been no glance. So a glance adds no rule of its own: it answers only what the machine would answer
in the same way, which is proved by comparison over all kinds of cells, and in the explorer.

Whether to glance is asked when the read begins, by who makes it, and not where

- the process knows something about the store or the key that the machine has to be told: an outage, a pending
  invalidation of the key or of a named tag, an entry in doubt or known to be foreign;
- a hit has something to do besides: somebody listens for it, or it may have to begin a refresh.

The bytes are compared where they lie, undecoded::

    offset  size  field                          compared with
         0     2  magic, kind                    a value of this format
        26     8  soft expiry                    none, or later than the server's clock
        50    18  key check, stamp of the codec  the reader's
        72     -  each tag: version, length of   the versions that were read with the cell, and the names
                  its name, name                 that the caller gives, in this order

An entry whose tags stand in another order, or that has others, is left to the machine. A store that keeps
cells and not their bytes gives these: the body is looked at in the same way.

Of entries that are signed the signature is verified and taken out, and the rest is looked at. `glances` says
which kind of glance a cache needs.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Layout
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from sansio_cache.cell import FILLED_BY_AT, HEADER_BYTES, MAGIC, Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadCells
from sansio_cache.entry import BODY_HEADER_BYTES, COPIED_BYTES, packed_name
from sansio_cache.events import CellRead, CellsRead, Event, Stored
from sansio_cache.notices import OperationName
from sansio_cache.policy import Policy
from sansio_cache.signals import let_through
from sansio_cache.signing import SIGNATURE_BYTES, is_outlived
from sansio_cache.step import ManyFound, Step, Value
from sansio_cache.tags import VERSION_BYTES

_VALUE: Final = int(Kind.VALUE)
_MAGIC_AND_VALUE: Final = MAGIC << 8 | _VALUE
_LOOK: Final = Layout(">H24xQ16x18s").unpack_from
"""Magic and kind, the soft expiry, the key check with the stamp: one call is cheaper than to compare each."""
_LOOK_OF_MANY: Final = Layout(">H24xQ16x8s10s").unpack_from
"""The same with the key check by itself."""
_PAYLOAD_AT: Final = HEADER_BYTES + BODY_HEADER_BYTES


class NamedTags(Struct, frozen=True, gc=False):
    """The tags that a caller names, as a read needs them. Made by `named_tags`."""

    names: tuple[str, ...] = ()
    """As cells hold them."""
    keys: tuple[str, ...] = ()
    """The full keys."""
    packed: tuple[bytes, ...] = ()
    """What stands in an entry behind the version of each."""
    count: bytes = b"\0"
    """What an entry says that it has."""

    def tied(self, versions: tuple[bytes, ...]) -> bytes | None:
        """What stands before the payload of an entry with these versions of the tags.

        None where no entry can have them, as a tag has none; or where there is not one for each tag, which is
        the machine's to complain of.
        """
        packed = self.packed
        if len(versions) != len(packed):
            return None
        if len(packed) == 1 and len(versions[0]) == VERSION_BYTES:  # as nearly always
            return versions[0] + packed[0]
        tied = b""
        for version, name in zip(versions, packed, strict=True):
            if len(version) != VERSION_BYTES:
                return None
            tied += version + name
        return tied


NO_NAMED_TAGS: Final = NamedTags()


def named_tags(names: tuple[str, ...], keys: tuple[str, ...]) -> NamedTags:
    """Tags by their names, as cells hold them, and their full keys."""
    return NamedTags(names, keys, tuple(map(packed_name, names)), bytes((len(names),)))


def stamp_of(codec: Codec[Any], tags: NamedTags) -> bytes:
    """What follows the key's check in an entry of a codec that has these tags."""
    return codec.stamp[:-1] + tags.count


class Glance(Struct, frozen=True, gc=False):
    """The read of one key, that may be answered at the first look."""

    command: ReadCell
    """What the driver asks the store for."""
    codec: Codec[Any]
    """How values of the wanted type are stored."""
    stamp: bytes
    """What the body of an entry begins with that the reader may have: the key's check, then `stamp_of`."""
    operation: OperationName
    started_s: float
    """When the request came, on the driver's clock."""
    begin: Callable[[Glance], Step]
    """Makes the machine's first step, which asks for the same."""
    policy: Policy | None = None
    """How the entry is kept and loaded, where it may be loaded."""
    tags: NamedTags = NO_NAMED_TAGS

    def at(self, event: Event) -> Value | None:
        """The outcome, where the event is a plain hit; None where the machine has to see it."""
        if not isinstance(event, CellRead):
            return None
        stored = event.stored
        if isinstance(stored, bytes):
            raw, at, size_bytes = stored, _PAYLOAD_AT, len(stored)
            if size_bytes < at:
                return None
            kind, soft_ms, stamp = _LOOK(raw)
            if kind != _MAGIC_AND_VALUE or stamp != self.stamp:
                return None
        elif isinstance(stored, Cell) and stored.kind == _VALUE:
            raw, at, soft_ms = stored.body, BODY_HEADER_BYTES, stored.soft_ms
            size_bytes = len(raw)
            if not raw.startswith(self.stamp):
                return None
        else:
            return None
        if soft_ms and (event.server_ms is None or soft_ms <= event.server_ms):
            return None
        if self.tags.packed:
            tied = self.tags.tied(event.versions)
            if tied is None or not raw.startswith(tied, at):
                return None
            at += len(tied)
        codec = self.codec
        if not at <= size_bytes <= at + codec.max_value_bytes:
            return None
        payload = raw[at:] if size_bytes < COPIED_BYTES else memoryview(raw)[at:]
        try:
            return Value(codec.decoder.decode(payload))
        except Exception as error:  # noqa: BLE001 - the machine says what to make of it
            let_through(error)
        return None

    def first_step(self) -> Step:
        """Where the machine begins."""
        return self.begin(self)


class GlanceMany(Struct, frozen=True, gc=False):
    """The read of many keys, that may be answered at the first look: where all are hits, and named alike."""

    command: ReadCells
    """What the driver asks the store for."""
    codec: Codec[Any]
    """How values of the wanted type are stored."""
    checks: tuple[bytes, ...]
    """The check of each key."""
    operation: OperationName
    started_s: float
    """When the request came, on the driver's clock."""
    begin: Callable[[GlanceMany], Step]
    """Makes the machine's first step, which asks for the same."""
    names: tuple[str, ...] = ()
    """The keys as the caller wrote them, where they may be loaded."""
    policy: Policy | None = None
    """How the entries are kept and loaded, where they may be loaded."""
    tags: NamedTags = NO_NAMED_TAGS

    def at(self, event: Event) -> ManyFound | None:
        """The outcome, where the event is a plain hit of each key; None where the machine has to see it."""
        if not isinstance(event, CellsRead) or len(event.stored) != len(self.checks):
            return None
        tied = self.tags.tied(event.versions)
        if tied is None:
            return None
        codec = self.codec
        payloads = self._payloads(event.stored, tied, event.server_ms)
        if payloads is None:
            return None
        decode = codec.decoder.decode
        try:
            return ManyFound(tuple([decode(payload) for payload in payloads]))
        except Exception as error:  # noqa: BLE001 - the machine says what to make of it
            let_through(error)
        return None

    def _payloads(
        self, stored: tuple[Stored, ...], tied: bytes, server_ms: int | None
    ) -> list[bytes | memoryview] | None:
        """The payload of each entry: nothing is decoded before all are known to be hits."""
        stamp, most_bytes = stamp_of(self.codec, self.tags), self.codec.max_value_bytes
        tied_bytes = len(tied)
        payloads: list[bytes | memoryview] = []
        for check, each in zip(self.checks, stored, strict=True):
            if isinstance(each, bytes):
                raw, at, size_bytes = each, _PAYLOAD_AT, len(each)
                if size_bytes < at:
                    return None
                kind, soft_ms, its_check, its_stamp = _LOOK_OF_MANY(raw)
                if kind != _MAGIC_AND_VALUE or its_check != check or its_stamp != stamp:
                    return None
            elif isinstance(each, Cell) and each.kind == _VALUE:
                raw, at, soft_ms = each.body, BODY_HEADER_BYTES, each.soft_ms
                size_bytes = len(raw)
                if not raw.startswith(check + stamp):
                    return None
            else:
                return None
            if soft_ms and (server_ms is None or soft_ms <= server_ms):
                return None
            if tied:
                if not raw.startswith(tied, at):
                    return None
                at += tied_bytes
            if not at <= size_bytes <= at + most_bytes:
                return None
            payloads.append(raw[at:] if size_bytes < COPIED_BYTES else memoryview(raw)[at:])
        return payloads

    def first_step(self) -> Step:
        """Where the machine begins."""
        return self.begin(self)


class SignedGlance(Glance, frozen=True, gc=False):
    """The same where entries are signed."""

    def at(self, event: Event) -> Value | None:
        """The outcome, where the event is a plain hit that is signed."""
        if not isinstance(event, CellRead):
            return None
        verified = _verified(event.stored, self.command.key, self, event)
        if verified is None:
            return None
        return Glance.at(self, CellRead(event.now_s, verified, event.server_ms, event.versions))


class SignedGlanceMany(GlanceMany, frozen=True, gc=False):
    """The same where entries are signed."""

    def at(self, event: Event) -> ManyFound | None:
        """The outcome, where the event is a plain hit of each key that is signed."""
        if not isinstance(event, CellsRead) or len(event.stored) != len(self.checks):
            return None
        verified: list[Stored] = []
        for stored, key in zip(event.stored, self.command.keys, strict=True):
            each = _verified(stored, key, self, event)
            if each is None:
                return None
            verified.append(each)
        return GlanceMany.at(self, CellsRead(event.now_s, tuple(verified), event.server_ms, event.versions))


def _verified(
    stored: Stored, key: str, glance: Glance | GlanceMany, read: CellRead | CellsRead
) -> bytes | Cell | None:
    """A value without its signature, where that is good; None where the machine has to see it.

    The signature is looked for behind the tags that the caller names, where an entry with others has none.
    """
    if isinstance(stored, bytes):
        filled_by, body = stored[FILLED_BY_AT:HEADER_BYTES], stored[HEADER_BYTES:]
    elif isinstance(stored, Cell):
        filled_by, body = stored.filled_by, stored.body
    else:
        return None
    signer, server_ms = glance.codec.signer, read.server_ms
    assert signer is not None, "others have no signatures to be verified"
    packed = glance.tags.packed
    at = BODY_HEADER_BYTES + (sum(VERSION_BYTES + len(name) for name in packed) if packed else 0)
    life_ms = signer.verified_life_ms(key, filled_by, body, at)
    if life_ms is None or server_ms is None or is_outlived(filled_by, life_ms, server_ms):
        return None
    rest = body[:at] + body[at + SIGNATURE_BYTES :]
    return stored[:HEADER_BYTES] + rest if isinstance(stored, bytes) else replace(stored, body=rest)


def glances(*, are_signed: bool) -> tuple[type[Glance], type[GlanceMany]]:
    """What one key, and many, are looked at with."""
    return (SignedGlance, SignedGlanceMany) if are_signed else (Glance, GlanceMany)


Beginning = Step | Glance | GlanceMany
"""What an operation begins with: a machine's first step, or a glance before there is a machine."""
