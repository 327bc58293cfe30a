"""Names: intern immutable objects, find the ids that they mention, and put others in place.

Everything that a world is made of is interned, so that a world is a small tuple of integers and every
function of its parts is computed once. A nonce is `worker<number><act>`, 8 bytes. What the store issues
begins with one: the grants of leases and holds, and the versions of tags. They stand alone, in the random
bytes that an operation was given, and inside the bodies of entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any, Final, TypeVar

import attrs
import msgspec
from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import GRANT_BYTES, NO_GRANT, NONCE_BYTES, make_grant
from sansio_cache.codec import Codec
from sansio_cache.entry import BODY_HEADER_BYTES, TAGS_AT
from sansio_cache.exploring.configuration import FIRST_US, LONG_AGO, SIGNED, Act
from sansio_cache.operations.loading import RANDOM_BYTES
from sansio_cache.policy import Policy
from sansio_cache.signing import SIGNATURE_BYTES

NAMELESS: Final = b"nameless"
"""The nonce of all ids that nobody outside the store can say."""
_CONSTANTS: Final = frozenset({NO_GRANT, LONG_AGO})
_WHOLE: Final = (Act, Budget, Codec, StoreTimeouts, Policy)
"""Values that mention no id."""
_NO_IDS: Final = frozenset({"checks"})
"""Fields that look as if they did."""
_LENGTH_BYTES: Final = 2
FINGERPRINT: Final = slice(8, 16)
"""Where in a body the fingerprint is of the type it was stored as."""

T = TypeVar("T")
NameOf = Callable[[bytes], bytes]
Fields = Mapping[str, Callable[[Any], Any]]
_NOTHING: Final[Fields] = {}


def nonce_of(worker: int, acts_left: int) -> bytes:
    """The nonce of one operation of one worker."""
    return b"worker%1d%1d" % (worker, acts_left)


def grant_of(nonce: bytes, label: int) -> bytes:
    """The id that the store issues as its `label`th to this nonce, from 1."""
    return make_grant(nonce, FIRST_US + label)


def label_of(grant: bytes) -> int:
    """The inverse of `grant_of`."""
    return int.from_bytes(grant[NONCE_BYTES:], "big") - FIRST_US


def tags_of(body: bytes) -> Iterator[tuple[int, str, bytes]]:
    """The tags in the body of an entry: for each the place of its version, its name, its version."""
    at = BODY_HEADER_BYTES
    for _ in range(body[TAGS_AT]):
        name_at = at + GRANT_BYTES + _LENGTH_BYTES
        end = name_at + int.from_bytes(body[name_at - _LENGTH_BYTES : name_at], "big")
        yield at, body[name_at:end].decode(), body[at : at + GRANT_BYTES]
        at = end


def payload_of(body: bytes) -> bytes:
    """What follows the tags, and the signature where there is one."""
    at = BODY_HEADER_BYTES
    for start, name, _ in tags_of(body):
        at = start + GRANT_BYTES + _LENGTH_BYTES + len(name)
    return body[at + SIGNATURE_BYTES :] if body[FINGERPRINT] == SIGNED.fingerprint else body[at:]


def replace(value: T, **changes: Any) -> T:
    """The same value with some fields changed; the library's values are attrs classes or msgspec structs."""
    either: Any = value
    change: Any = msgspec.structs.replace if isinstance(either, Struct) else attrs.evolve
    changed: T = change(either, **changes)
    return changed


_fields: Final[dict[type[Any], tuple[str, ...]]] = {}


def _field_names(cls: type[Any]) -> tuple[str, ...]:
    """The fields of a class whose instances have parts; none for a value without any."""
    names = _fields.get(cls)
    if names is None:
        names = ()
        if issubclass(cls, _WHOLE):
            pass
        elif issubclass(cls, Struct):
            names = tuple(field for field in cls.__struct_fields__ if field not in _NO_IDS)
        elif attrs.has(cls):
            names = tuple(field.name for field in attrs.fields(cls))
        _fields[cls] = names
    return names


def rewrite(value: Any, name: NameOf | None, fields: Fields = _NOTHING) -> Any:
    """The same value with other names, and with some fields put through functions."""
    cls = type(value)
    if cls is bytes:
        return value if name is None else _renamed(value, name)
    if cls is tuple:
        parts = [rewrite(each, name, fields) for each in value]
        is_same = all(map(is_, parts, value))
        return value if is_same else tuple(parts)
    if cls is frozenset:
        return frozenset(rewrite(each, name, fields) for each in value)
    changed = {}
    for field in _field_names(cls):
        old = getattr(value, field)
        if field == "body":
            new = old if name is None else renamed_body(old, name)
        else:
            new = rewrite(old, name, fields)
        if field in fields:
            new = fields[field](new)
        if new is not old and new != old:
            changed[field] = new
    return replace(value, **changed) if changed else value


def _renamed(value: bytes, name: NameOf) -> bytes:
    if len(value) in (NONCE_BYTES, GRANT_BYTES):
        return name(value)
    if len(value) == RANDOM_BYTES:
        return name(value[:NONCE_BYTES]) + value[NONCE_BYTES:]
    return value


def renamed_body(body: bytes, name: NameOf) -> bytes:
    """The body of an entry with other versions of its tags."""
    for at, _, version in tuple(tags_of(body)) if body else ():
        body = body[:at] + name(version) + body[at + GRANT_BYTES :]
    return body


def mentions(value: Any) -> tuple[bytes, ...]:
    """The nonces and ids that a value mentions, once each, in the order in which they are met."""
    found: dict[bytes, None] = {}

    def visit(part: Any) -> None:
        if isinstance(part, bytes):
            if len(part) == RANDOM_BYTES:
                found[part[:NONCE_BYTES]] = None
            elif len(part) in (NONCE_BYTES, GRANT_BYTES) and part not in _CONSTANTS:
                found[part] = None
        elif isinstance(part, tuple):
            for each in part:
                visit(each)
        elif isinstance(part, frozenset):
            for each in sorted(part, key=repr):
                visit(each)
        else:
            for field in _field_names(type(part)):
                inner = getattr(part, field)
                if field != "body":
                    visit(inner)
                elif inner:
                    for _, _, version in tags_of(inner):
                        visit(version)

    visit(value)
    return tuple(found)


class Interner:
    """Objects by number, and numbers by object; with each the names it mentions."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.objects: list[Any] = []
        self.mentioned: list[tuple[bytes, ...]] = []
        self.grants: list[frozenset[bytes]] = []
        """All ids that the store has issued, the versions of tags included."""
        self.nonces: list[frozenset[bytes]] = []
        self._rewritten: dict[tuple[int, Any], int] = {}

    def number(self, value: Any) -> int:
        """The number of an object, equal ones having the same."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.objects)
            self.objects.append(value)
            names = mentions(value)
            self.mentioned.append(names)
            grants = frozenset(each for each in names if len(each) == GRANT_BYTES)
            self.grants.append(grants)
            self.nonces.append(frozenset(each for each in names if len(each) == NONCE_BYTES))
        return number

    def renamed(self, number: int, key: Any, name: NameOf) -> int:
        """The object with other names; `key` stands for the function, to remember the answer."""
        renamed = self._rewritten.get((number, key))
        if renamed is None:
            renamed = self.number(rewrite(self.objects[number], name))
            self._rewritten[number, key] = renamed
        return renamed

    def relabelled(self, number: int, changed: Mapping[bytes, bytes]) -> int:
        """The object with other ids."""
        own = tuple((name, changed[name]) for name in self.mentioned[number] if name in changed)
        return self.renamed(number, own, lambda name: changed.get(name, name)) if own else number
