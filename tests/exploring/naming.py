"""Names: intern immutable objects, find the grants and nonces that they mention, and put others in place.

Everything that a world is made of is interned, so that a world is a small tuple of integers and every
function of its parts is computed once. A nonce is `worker<number><act>`, 8 bytes; a grant begins with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
import msgspec
from msgspec import Struct

from exploring.configuration import NAMELESS
from sansio_cache.cell import GRANT_BYTES, NO_GRANT, NONCE_BYTES, make_grant
from sansio_cache.codec import Codec

FIRST_US: Final = 10**9
"""The store's microsecond before the first that it issues: its clock stands at `NOW_MS`."""

T = TypeVar("T")
NameOf = Callable[[bytes], bytes]
Fields = Mapping[str, Callable[[Any], Any]]
_NOTHING: Final[Fields] = {}


def nonce_of(worker: int, acts_left: int) -> bytes:
    """The nonce of one operation of one worker."""
    return b"worker%1d%1d" % (worker, acts_left)


def grant_of(nonce: bytes, label: int) -> bytes:
    """The grant that the store issues as its `label`th, from 1."""
    return make_grant(nonce, FIRST_US + label)


def label_of(grant: bytes) -> int:
    """The inverse of `grant_of`."""
    return int.from_bytes(grant[NONCE_BYTES:], "big") - FIRST_US


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
        if issubclass(cls, Struct):
            names = cls.__struct_fields__
        elif attrs.has(cls) and not issubclass(cls, Codec):
            names = tuple(field.name for field in attrs.fields(cls))
        _fields[cls] = names
    return names


def rewrite(value: Any, name: NameOf | None, fields: Fields = _NOTHING) -> Any:
    """The same value with other names, and with some fields put through functions."""
    if isinstance(value, bytes):
        return name(value) if name is not None and len(value) in (NONCE_BYTES, GRANT_BYTES) else value
    if isinstance(value, tuple):
        return tuple(rewrite(each, name, fields) for each in value)
    if isinstance(value, frozenset):
        return frozenset(rewrite(each, name, fields) for each in value)
    changed = {}
    for field in _field_names(type(value)):
        old = getattr(value, field)
        new = rewrite(old, name, fields)
        if field in fields:
            new = fields[field](new)
        if new is not old and new != old:
            changed[field] = new
    return replace(value, **changed) if changed else value


def mentions(value: Any) -> tuple[bytes, ...]:
    """The nonces and grants that a value mentions, once each, in the order in which they are met."""
    found: dict[bytes, None] = {}

    def visit(part: Any) -> None:
        if isinstance(part, bytes):
            if len(part) in (NONCE_BYTES, GRANT_BYTES) and part not in (NO_GRANT, NAMELESS):
                found[part] = None
        elif isinstance(part, tuple):
            for each in part:
                visit(each)
        elif isinstance(part, frozenset):
            for each in sorted(part, key=repr):
                visit(each)
        else:
            for field in _field_names(type(part)):
                visit(getattr(part, field))

    visit(value)
    return tuple(found)


class Interner:
    """Objects by number, and numbers by object; with each the names it mentions."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.objects: list[Any] = []
        self.mentioned: list[tuple[bytes, ...]] = []
        self.grants: list[frozenset[bytes]] = []
        self.nonces: list[frozenset[bytes]] = []
        self.is_odd: list[bool] = []
        """Whether it mentions a grant with another label than the first."""
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
            self.is_odd.append(any(label_of(each) != 1 for each in grants))
            self.nonces.append(frozenset(each[:NONCE_BYTES] for each in names))
        return number

    def renamed(self, number: int, key: Any, name: NameOf) -> int:
        """The object with other names; `key` stands for the function, to remember the answer."""
        renamed = self._rewritten.get((number, key))
        if renamed is None:
            renamed = self.number(rewrite(self.objects[number], name))
            self._rewritten[number, key] = renamed
        return renamed
