"""Decoding: what an inspection says, in words and as plain data. No I/O here.

What is in a store may be anybody's: all of it is made printable where it is printed.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import msgspec

from sansio_cache.codec import JSON
from sansio_cache.entry import NOTHING, Contents
from sansio_cache.inspection import CellState, Grant, Inspection
from sansio_cache.signing import SIGNATURE_BYTES
from sansio_cache.tags import VARIANT_OF, Versions
from sansio_cache_cli.words import size, span

_MEANINGS: Final = {
    CellState.NONE: "there is no such key",
    CellState.FRESH: "a value, served to whoever reads it",
    CellState.STALE: "a value past its time to live, kept for those who may serve it",
    CellState.NOTHING: "the answer that there is nothing",
    CellState.REFUSED: "a value that no reader is given",
    CellState.UNCHECKED: "a value with tags that were not looked up",
    CellState.LEASED: "no value yet: somebody loads one",
    CellState.HELD: "no value: a writer holds the key, and readers load without storing",
    CellState.LOCKED: "a lock that is held",
    CellState.UNLOCKED: "a lock that nobody holds; it keeps the last token",
    CellState.TAG: "the version of a tag",
    CellState.QUEUED: "a record of a queue of writes: `sansio-cache letters` shows what was given up",
    CellState.FOREIGN: "no cell of this format: another program's key, or another version's",
}
_REASONS: Final = {
    "tag": "one of its tags was invalidated",
    "corrupt": "its bytes make no sense",
    "signature": "it is signed by no key that is known, or past the life that was signed",
    "key_check": "it was stored for another key, and copied or renamed",
}
_KINDS: Final = {JSON: "JSON", NOTHING: "nothing", 3: "of another codec than JSON"}
_SHOWN_BYTES: Final = 256


def meaning(state: CellState) -> str:
    """A state in words."""
    return _MEANINGS[state]


def sentences(found: Inspection, current: Versions = ()) -> list[tuple[str, str]]:
    """What an inspection says: names, and what is to be said under each."""
    reason = f" ({_REASONS.get(found.reason, found.reason)})" if found.reason else ""
    said = [("key", found.key), ("state", f"{found.state}: {_MEANINGS[found.state]}{reason}")]
    if found.state is CellState.NONE:
        return said
    if found.age_ms is not None:
        said.append(("age", _age(found.age_ms)))
    if found.fresh_for_ms is not None and found.has_value and found.state is not CellState.TAG:
        said.append(("fresh", _fresh(found.fresh_for_ms)))
    said.append(("expires", _expires(found.left_ms)))
    if found.lease is not None:
        said.append(("grant", _lease(found.lease, found.lease_left_ms)))
    if found.stored_by is not None:
        said.append(("version", found.stored_by.id.hex()))
    contents = found.contents
    if contents is not None:
        said.append(("load took", span(contents.load_ms / 1000)))
        said.append(("type", f"fingerprint {contents.fingerprint.hex()}{_untyped(contents.fingerprint)}"))
        said += [("tag", tag_text(tag, holds=holds)) for tag, holds in tags_of(found, current)]
        kind = _KINDS.get(contents.kind, f"kind {contents.kind}")
        payload, signed = _payload(contents)
        said.append(("payload", f"{kind}, {size(len(payload))}{signed}"))
    elif found.state in (CellState.FOREIGN, CellState.QUEUED):
        said.append(("size", size(found.size_bytes)))
    return said


def tags_of(found: Inspection, current: Versions) -> list[tuple[str, bool | None]]:
    """The tags of an entry, and whether each holds; None where its version was not looked up."""
    known = dict(current)
    versions = found.contents.versions if found.contents else ()
    return [(tag, known[tag] == version if tag in known else None) for tag, version in versions]


def tag_name(tag: str) -> str:
    """What a tag is called where it is given, or what stands in its place, in words."""
    if tag == VARIANT_OF:
        return "variant of what another program version stored"
    kind, _, escaped = tag.partition(":")
    name = unquote(escaped)
    return {"t": name, "g": f"generation of {name}"}.get(kind, tag)


def tag_text(tag: str, *, holds: bool | None) -> str:
    """A tag in words, and whether it holds."""
    return tag_name(tag) + {True: ": holds", False: ": was invalidated", None: ": not looked up"}[holds]


def payload_text(found: Inspection) -> str:
    """The payload for people: JSON with indents, else the first bytes as hex digits; empty where none is."""
    contents = found.contents
    if contents is None or contents.kind == NOTHING:
        return ""
    payload, _ = _payload(contents)
    if contents.kind == JSON:
        try:
            return msgspec.json.format(payload, indent=2).decode()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass  # cut short, or nonsense
    return payload[:_SHOWN_BYTES].hex(" ") + (" …" if len(payload) > _SHOWN_BYTES else "")


def _payload(contents: Contents) -> tuple[bytes, str]:
    """The payload, and what is known of its signature.

    An entry does not say whether it is signed. Where no key is known, JSON that begins after as many bytes as
    a signature has is taken for a signed one's.
    """
    if contents.signature:
        return contents.payload, ", signed"
    if contents.kind == JSON and not _is_json(contents.payload):
        rest = contents.payload[SIGNATURE_BYTES:]
        if _is_json(rest):
            return rest, ", signed as it seems; not verified, as $SANSIO_CACHE_SIGNING_KEYS has no key"
    return contents.payload, ""


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return bool(payload)


def plain(found: Inspection, current: Versions = ()) -> dict[str, Any]:
    """An inspection as plain data, which can be made JSON of. Times are in seconds."""
    contents = found.contents
    told: dict[str, Any] = {
        "key": found.key,
        "state": str(found.state),
        "reason": str(found.reason) if found.reason else None,
        "age_s": _s(found.age_ms),
        "fresh_for_s": _s(found.fresh_for_ms),
        "expires_in_s": _s(found.left_ms),
        "size_bytes": found.size_bytes,
        "grant": None
        if found.lease is None
        else {"id": found.lease.id.hex(), "left_s": found.lease_left_ms / 1000},
        "version": found.stored_by.id.hex() if found.stored_by else None,
    }
    if contents is not None:
        payload, _ = _payload(contents)
        told |= {
            "load_s": contents.load_ms / 1000,
            "fingerprint": contents.fingerprint.hex(),
            "kind": _KINDS.get(contents.kind, str(contents.kind)),
            "tags": [
                {"tag": tag, "name": tag_name(tag), "holds": holds} for tag, holds in tags_of(found, current)
            ],
            "payload_bytes": len(payload),
            "payload": _decoded(contents.kind, payload),
        }
    return told


def _decoded(kind: int, payload: bytes) -> Any:
    if kind == JSON:
        try:
            return msgspec.json.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return None


def _s(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _age(age_ms: int) -> str:
    if age_ms < 0:
        return (
            f"{span(-age_ms / 1000)} in the server's future: its clock was set back, or it is another server"
        )
    return span(age_ms / 1000)


def _fresh(fresh_for_ms: int) -> str:
    if fresh_for_ms <= 0:
        return f"no more, since {span(-fresh_for_ms / 1000)}"
    return f"for {span(fresh_for_ms / 1000)}"


def _expires(left_ms: int | None) -> str:
    return "never: it has no time to live" if left_ms is None else f"in {span(left_ms / 1000)}"


def _lease(lease: Grant, left_ms: int) -> str:
    lasts = f"protected for {span(left_ms / 1000)}" if left_ms > 0 else f"run out {span(-left_ms / 1000)} ago"
    return f"{lease.id.hex()}, {lasts}"


def _untyped(fingerprint: bytes) -> str:
    return "" if any(fingerprint) else " (untyped)"
