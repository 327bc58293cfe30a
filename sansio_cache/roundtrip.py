"""Round trip or refuse: whether a value that was encoded and decoded again is still the same.

- Without a type, a value is kept only if every part of it comes back equal and of exactly the same
  class. JSON can do that for None, bool, int, finite float, str, list and dict with str keys.
- With a type, the value that comes back is of that type by construction, and is compared part by
  part: objects field by field (fields that a class's own ``==`` skips are compared too), anything
  else by ``==``. So an `enum.IntEnum` may stand where an int is declared, an int where a float is
  (if the float is exact), a `collections.defaultdict` where a dict is; the declared class is
  what comes back. A part of another class is accepted where the type asks for the conversion and
  nothing is lost by it: a mapping or a database row for a class, if every key has a field; a row
  for a dict of its columns, or for a tuple; a list for a tuple; a text, or value, for the date,
  UUID, Decimal, enum that it spells. Text is not accepted for bytes: it would be read as base64.
  Never accepted: a subclass of a declared class, a tuple for a list (at an `typing.Any` that would
  be a silent change), a set for a list.
- Dates and times must keep wall clock, UTC offset and, where there is no offset to tell them apart,
  fold. A named zone comes back as its fixed offset: PostgreSQL drivers return such values always,
  and JSON holds no more. ``1.10`` stays ``1.10`` in a Decimal, ``-0.0`` stays ``-0.0``.
- NaN and infinity have no JSON form (msgspec writes ``null``) and are refused. So is a Decimal NaN,
  which equals nothing, and an int of more than 4300 digits, which Python would not read back.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable
from typing import Any, Final

import attrs
import msgspec

from sansio_cache.rows import mapping_of, tuple_of

_DROPPED: Final = object()
_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_Parts = Iterable[tuple[str, Any, Any, Any]]  # how to write the place, its key, given, back


def change(given: Any, back: Any, *, exact: bool) -> str | None:
    """Where and how `back` differs from `given`, as the end of a sentence, or None.

    Values are not quoted, only their classes and places: messages end up in logs.
    """
    parts: _Parts | None
    if back is _DROPPED or (exact and type(given) is not type(back)):
        parts = None
    elif type(back) in _SCALARS:
        return None if given == back else _turned(given, back)
    elif isinstance(back, (list, tuple)):
        parts = _items(given, back)
    elif isinstance(back, dict):
        parts = _entries(given, back)
    elif (fields := _fields(back)) is not None:
        parts = _attributes(given, back, fields)
    else:
        return None if _spells(given, back) else _turned(given, back)
    if parts is None:
        return _turned(given, back)
    for place, key, part, part_back in parts:
        cls = type(part)
        if cls is type(part_back) and cls in _SCALARS and part == part_back:
            continue  # most parts are this: spare them the call
        inner = change(part, part_back, exact=exact)
        if inner is not None:
            return place.format(key) + inner
    return None


def kind_of(value: object) -> str:
    """What a value is, in a sentence: "a tuple"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def _turned(given: object, back: object) -> str:
    if back is _DROPPED:
        return " would be dropped"
    if type(given) is type(back):
        return " would come back changed"
    return f" is {kind_of(given)} and would come back as {kind_of(back)}"


def _items(given: Any, back: list[Any] | tuple[Any, ...]) -> _Parts | None:
    # A list in `back` may stand at an Any, where a tuple for it would be a silent change.
    sources = list if isinstance(back, list) else (list, tuple)
    if not isinstance(given, sources):
        given = None if isinstance(back, list) else tuple_of(given)
    if given is None or len(given) != len(back):
        return None
    pairs = enumerate(zip(given, back, strict=True))
    return (("[{}]", index, part, part_back) for index, (part, part_back) in pairs)


def _entries(given: Any, back: dict[Any, Any]) -> _Parts | None:
    given = mapping_of(given)
    if given is None:
        return None
    if len(given) != len(back):  # a key that a TypedDict lacks, or 1 beside "1"
        return [("[{!r:.80}]", k, k, _DROPPED) for k in given if k not in back] or None
    pairs = zip(given.items(), back.items(), strict=True)  # JSON keeps the order
    return (
        part
        for (key, value), (key_back, value_back) in pairs
        for part in ((" key {!r:.80}", key, key, key_back), ("[{!r:.80}]", key, value, value_back))
    )


def _attributes(given: Any, back: object, fields: dict[str, Any]) -> _Parts | None:
    source = _fields(given) if type(given) is type(back) else mapping_of(given)
    if source is None:
        return None
    # A row may leave out fields that have defaults, but not bring keys that have no field.
    return ((".{!s:.80}", key, part, fields.get(key, _DROPPED)) for key, part in source.items())


def _fields(value: object) -> dict[str, Any] | None:
    """The fields of an object by the names that they have in JSON; None if it is not one."""
    cls = type(value)
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        fields = {encoded: getattr(value, name) for encoded, name in names}
        if value.__struct_config__.tag_field is not None:
            fields[value.__struct_config__.tag_field] = value.__struct_config__.tag
        return fields
    if attrs.has(cls):
        return {field.name: getattr(value, field.name) for field in attrs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
    return None


def _spells(given: Any, back: Any) -> bool:
    """Whether an indivisible `back` says all that `given` said."""
    if isinstance(given, str) and not isinstance(back, str):
        return not isinstance(back, (bytes, bytearray, memoryview))
    if isinstance(back, dt.datetime | dt.time) and isinstance(given, dt.datetime | dt.time):
        # Not by ==: an aware one inside the repeated hour equals nothing of another zone, and
        # one with a zone but no offset of its own (a time in a named zone) loses the zone.
        return (
            type(given) is type(back)
            and (given.tzinfo is None) == (back.tzinfo is None)
            and given.replace(tzinfo=None, fold=0) == back.replace(tzinfo=None)
            and given.utcoffset() == back.utcoffset()
            and (given.fold == 0 or given.tzinfo is not None)
        )
    return bool(given == back or (isinstance(back, enum.Enum) and given == back.value))
