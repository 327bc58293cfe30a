"""Signing: an entry that was not made by one who knows a key of the cache is a miss.

Theory of operation. Whoever can write to the store can put bytes there. With `signing_keys=` an entry
carries, before its payload, a signature that only those can make who know a key::

    offset  size  field
         0     4  which key: an id that follows from the key
         4     4  the longest life of the entry, in seconds from the grant that filled it
         8    16  HMAC-SHA-256 of all that follows, its first half (RFC 2104 section 5, RFC 4868)

It covers, each part of known length: the format; the id of the cell's fill; the full name of the cell as it
is sent, which for a variant is the variant's own; the head of the entry, with the key check, the schema
fingerprint, whether it is a value or known to be nothing, and how long the load took; its tags with their
versions; the id of the key and the longest life; the payload. So none of it can be taken from another entry,
of another name, of another time. There is one algorithm: what is stored does not choose it.

It is made where a fill is built, under the grant that the fill will have, and looked at before anything of
the entry is used: before its tags are asked for, before a migration, before it is decoded.

*Several keys.* The first one signs, all of them verify. So a key is replaced in three steps: add the new one
at the end everywhere, then put it first everywhere, then remove the old one.

*Replay.* One who has kept an older entry of this very key can put it back. Its age follows from the id of its
fill, which the signature covers: past its longest life it is a miss, however long the store would keep it.

*What is not covered.* The soft expiry, which scripts move: an entry can be made to seem fresh up to its
longest life. The versions of tags, the leases and the locks, which the store issues: one who writes there can
void what is stored, bring a tag's older version back, or take a lock. And nothing is encrypted.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from typing import Final

import attrs

from sansio_cache.cell import MAGIC, grant_us
from sansio_cache.errors import ConfigurationError

_ID_BYTES: Final = 4
_MAC_BYTES: Final = 16
_CLAIM: Final = struct.Struct(f">{_ID_BYTES}sI")
SIGNATURE_BYTES: Final = _CLAIM.size + _MAC_BYTES
_SHORTEST_SECRET_BYTES: Final = 16
_LONGEST_LIFE_S: Final = 2**32 - 1
_FORMAT: Final = b"sansio-cache signed entry 1\0" + bytes((MAGIC,))
_LENGTH: Final = struct.Struct(">I")


@attrs.frozen
class Signer:
    """Signs the entries of a cache, and verifies them."""

    secrets: tuple[bytes, ...] = attrs.field(repr=False)
    """The first one signs, all verify."""
    max_life_ms: int
    """For how long any entry may be let live, from its load on."""
    late_ms: int
    """How long after its grant a fill may come at the latest."""
    _known: tuple[tuple[bytes, bytes], ...] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        known = tuple((_mac(secret, b"sansio-cache key id")[:_ID_BYTES], secret) for secret in self.secrets)
        object.__setattr__(self, "_known", known)

    def life_s(self, hard_ttl_ms: int) -> int:
        """The longest life of an entry that is stored for so long, in seconds."""
        longest_ms = max(hard_ttl_ms + self.late_ms, self.max_life_ms)
        return min(-(-longest_ms // 1000), _LONGEST_LIFE_S)

    def signature(self, name: str, filled_by: bytes, head: bytes, payload: bytes, life_s: int) -> bytes:
        """What stands before the payload of an entry.

        Args:
            name: The full name of the cell.
            filled_by: The grant under which it is stored.
            head: What stands before the signature: the head of the entry, and its tags.
            payload: The encoded value; empty where there is known to be nothing.
            life_s: The longest life, in seconds.
        """
        key_id, secret = self._known[0]
        claim = _CLAIM.pack(key_id, life_s)
        return claim + _mac(secret, _message(name, filled_by, head, claim, payload))[:_MAC_BYTES]

    def verified_life_ms(self, name: str, filled_by: bytes, body: bytes, at: int) -> int | None:
        """The longest life of an entry in milliseconds; None where nobody who knows a key has signed it so.

        Args:
            name: The full name of the cell.
            filled_by: The grant under which the cell says that it was stored.
            body: The entry.
            at: Where the signature stands in it.
        """
        payload_at = at + SIGNATURE_BYTES
        if len(body) < payload_at:
            return None
        claim, mac = body[at : at + _CLAIM.size], body[at + _CLAIM.size : payload_at]
        key_id, life_s = _CLAIM.unpack(claim)
        message = _message(name, filled_by, body[:at], claim, body[payload_at:])
        for known_id, secret in self._known:
            if known_id == key_id and hmac.compare_digest(_mac(secret, message)[:_MAC_BYTES], mac):
                return int(life_s) * 1000
        return None


def _message(name: str, filled_by: bytes, head: bytes, claim: bytes, payload: bytes) -> bytes:
    """All that a signature covers. Each part but the last has a fixed length, or says its length itself."""
    text = name.encode()
    return b"".join((_FORMAT, filled_by, _LENGTH.pack(len(text)), text, head, claim, payload))


def _mac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, "sha256")


def signed_life_s(body: bytes, at: int) -> int:
    """The longest life that the signature of an entry says, in seconds. It stands at `at`."""
    return int(_CLAIM.unpack_from(body, at)[1])


def is_outlived(filled_by: bytes, life_ms: int, server_ms: int | None) -> bool:
    """Whether an entry is past its longest life; not, where the server's clock is not known."""
    return server_ms is not None and server_ms > grant_us(filled_by) // 1000 + life_ms


def own_secrets(given: Iterable[str | bytes]) -> tuple[bytes, ...]:
    """Keys as they are used, checked. No message shows one.

    Raises:
        ConfigurationError: They are not several, or one is none, too short, or there twice.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(
            "signing_keys takes a list of keys, of which the first one signs and all verify, as in "
            f"signing_keys=[key]; got {given.__class__.__name__}"
        )
    secrets = []
    for number, each in enumerate(given, start=1):
        if not isinstance(each, str | bytes):
            raise ConfigurationError(
                f"a signing key is bytes or a text; number {number} is {type(each).__name__}"
            )
        secret = each.encode() if isinstance(each, str) else each
        if len(secret) < _SHORTEST_SECRET_BYTES:
            raise ConfigurationError(
                f"signing key number {number} has {len(secret)} bytes, too few: take 32 random "
                'ones, as python -c "import secrets; print(secrets.token_urlsafe(32))" prints them'
            )
        secrets.append(secret)
    if len(set(secrets)) < len(secrets):
        raise ConfigurationError("two of the signing keys are the same")
    return tuple(secrets)
