"""Happenings: what can happen to a key, as `sansio-cache monitor` tells it. No I/O here."""

from __future__ import annotations

from enum import StrEnum

import attrs


class What(StrEnum):
    """What has happened."""

    HIT = "hit"
    STALE = "stale"
    NOTHING = "hit: nothing"
    MISS = "miss"
    READ = "read"
    GRANT = "grant"
    WAIT = "wait"
    FOUND = "found"
    ACQUIRE = "acquire"
    FILL = "fill"
    FILL_REFUSED = "refused fill"
    HOLD = "hold"
    RENEWAL = "renewal"
    LEASE_LOST = "lease lost"
    RELEASE = "release"
    INVALIDATION = "invalidation"
    SOFT_EXPIRY = "soft expiry"
    SWAP = "swap"
    SWAP_REFUSED = "refused swap"
    TOUCH = "touch"
    LOCK = "lock"
    UNLOCK = "unlock"
    TAG = "tag version"
    QUEUED = "queued"
    QUEUE_REFUSED = "not queued"
    APPLIED = "applied"
    GIVEN_UP = "given up"
    OTHER = "other"


@attrs.define
class Happening:
    """Something that has happened to a key.

    Attributes:
        at_ms: When, in milliseconds of the server's clock.
        client: Who has done it, by address.
        key: The full name.
        what: What it was; None while that is not known.
        detail: More of it, in a few words.
        nonce: Of an acquire, by which its grant is known.
    """

    at_ms: int
    client: str
    key: str
    what: What | None
    detail: str = ""
    nonce: bytes = b""
