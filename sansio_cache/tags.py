"""Tags: what an entry depends on besides its own key, and the versions that say whether it still holds.

A tag is a key of its own in the store, with a version that the server issued: 16 bytes, a client's nonce and
the server's clock, like a grant. An entry is stored with the versions of its tags as they were *before its
load*, and served only while they are the current ones (S7). Removing the tag's key makes all its entries
misses at once, those that are being loaded included; a version that is missing is issued anew, and never
equals an old one. (A counter would: evicted, it starts again. So would a client's random number under SET NX,
brought back by a late duplicate.)

Inside cells and requests a tag goes by the end of its key: `t:users` for the tag `users`, `g:user` for the
generation of the entity `user`. The empty name ties a variant to the very value, of another program version,
that it is a variant of (see `operations/get_or_load.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

VERSION_BYTES: Final = 16
NO_VERSION: Final = b""
"""The version of a tag whose key does not exist. It equals no version that an entry can have."""
VARIANT_OF: Final = ""
"""The name that ties a variant: its version is the grant that filled the other entry."""
TAG_MARKER: Final = "t:"
GENERATION_MARKER: Final = "g:"

Versions = tuple[tuple[str, bytes], ...]
"""Tags by name, with the version of each; `NO_VERSION` where it has none."""


def tag_key(key: str, tag: str) -> str:
    """The full key of a tag, in the namespace of `key`, which may be any of its keys."""
    return f"{key.partition(':')[0]}:%{tag}"


def tag_keys(key: str, tags: Iterable[str]) -> tuple[str, ...]:
    """The full keys of tags."""
    prefix = tag_key(key, "")
    return tuple(prefix + tag for tag in tags)


def known(
    key: str, tags: Iterable[str], versions: Iterable[bytes], bypassed: frozenset[str] = frozenset()
) -> Versions:
    """Tags with the versions that the store gave for them.

    `bypassed` are keys of tags whose removal the store has not been told of yet: they have no version.
    """
    pairs = zip(tags, versions, strict=True)
    if not bypassed:
        return tuple(pairs)
    return tuple((tag, NO_VERSION if tag_key(key, tag) in bypassed else version) for tag, version in pairs)


def is_tag_key(key: str) -> bool:
    """Whether a full key is that of a tag."""
    return key.partition(":")[2].startswith((f"%{TAG_MARKER}", f"%{GENERATION_MARKER}"))
