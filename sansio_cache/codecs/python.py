"""PYTHON: plain Python values, each exactly as it is, in JSON with tags.

Theory of operation.
What JSON can say stands for itself: None, bool, int, finite float, str, list, and dict whose keys are str.
Anything else is an object with one key that begins with ``%`` and names the class: ``{"%set": [1, 2]}``. A
dict that has such a key, or keys that are no str, is a list of pairs: ``{"%dict": [[1, "a"]]}``. So a
payload can be read with redis-cli, and no value can imitate another's tag.

*Exact.* Only these very classes are taken, and no class derived from one: a `collections.Counter` is no
dict. What comes back is the same by its representation, and not merely equal: 1, True and 1.0 are three
values, 0.0 and -0.0 are two, so are Decimal("1.0") and Decimal("1.00"); a NaN keeps its bits, a time its
fold and its zone, a dict its order. What a payload does not hold is identity: a list that is in two places
comes back as two lists.

*Safe.* Decoding makes values of the classes in this module, and of those that the codec was given, and calls
nothing else.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any, Final, TypeVar

import msgspec

from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.errors import ConfigurationError, SerializationError
from sansio_cache.roundtrip import kind_of
from sansio_cache.signals import let_through

T = TypeVar("T")

_DEEPEST: Final = 100
"""How deeply values may be nested. One that contains itself is nested without measure."""
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder()
_DOUBLE: Final = struct.Struct(">d")


class PythonCodec:
    """Plain Python values: what JSON has, tuple, set, frozenset, bytes, complex, Decimal, UUID, dates, times.

    Args:
        types: Named tuples and enums that may be among the values. Each goes by its name; the names of its
            fields or members are part of the fingerprint.

    Raises:
        ConfigurationError: One of the types is neither a named tuple nor an enum, or two have one name.
    """

    def __init__(self, *types: type) -> None:
        self._named: dict[str, Any] = {}
        self._holders: dict[type, Callable[[Any, str, int], Any]] = {
            list: self._list,
            dict: self._dict,
            tuple: self._tuple,
            set: self._set,
            frozenset: self._set,
        }
        self._holders_back: dict[str, Callable[[Any, int], Any]] = {
            "%dict": self._dict_back,
            "%tuple": lambda content, depth: tuple(self._items_back(content, depth)),
            "%set": lambda content, depth: set(self._items_back(content, depth)),
            "%frozenset": lambda content, depth: frozenset(self._items_back(content, depth)),
            "%named": self._named_back,
            "%enum": self._member_back,
        }
        outlines = []
        for cls in types:
            members = _members_of(cls)
            parts = _fields_of(cls) if members is None else tuple(sorted(members))
            if parts is None:
                raise ConfigurationError(f"PythonCodec takes named tuples and enums; got {cls!r:.80}")
            if self._named.setdefault(cls.__name__, cls) is not cls:
                raise ConfigurationError(
                    f"PythonCodec was given two types of the name {cls.__name__}: rename one"
                )
            self._holders[cls] = self._named_tuple if members is None else self._member
            outlines.append(f"{cls.__name__}({','.join(parts)})")
        self._fingerprint = " ".join(("python 1", *sorted(outlines)))

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "PYTHON" if self is PYTHON else (PythonCodec, tuple(self._named.values()))

    def __repr__(self) -> str:
        return f"PythonCodec({', '.join(self._named)})" if self._named else "PYTHON"

    @property
    def fingerprint(self) -> str:
        """The codec's name, and the types that it was given with their fields or members."""
        return self._fingerprint

    def encode(self, value: Any) -> bytes:
        """The payload of a value. Values of one representation have one payload.

        Raises:
            SerializationError: Something in it is of another class, or cannot come back as it is.
        """
        return _ENCODER.encode(self._tree(value, "", 0))

    def decode(self, payload: bytes, max_bytes: int) -> Any:
        """The value in a payload. `max_bytes` is the caller's to check: nothing inflates.

        Raises:
            Undecodable: It is not of this codec.
        """
        del max_bytes
        try:
            return self._value(_DECODER.decode(payload), 0)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the classes make of hostile contents
            let_through(error)
        raise Undecodable("corrupt")

    def change(self, given: Any, back: Any) -> str | None:
        """Whether the value that came back is another, by its representation.

        It never is for the classes of this module. A named tuple may have a constructor of its own.
        """
        is_same = not self._named or self.encode(given) == self.encode(back)
        return None if is_same else " would come back changed"

    # To JSON.

    def _tree(self, value: Any, place: str, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        cls = type(value)
        leaf = _LEAVES.get(cls)
        if leaf is not None:
            return leaf(value, place)
        holder = self._holders.get(cls)
        if holder is None:
            raise _refusal(place, f" is {kind_of(value)}")
        if depth > _DEEPEST:
            raise SerializationError(f"value is nested more than {_DEEPEST} deep, or contains itself")
        return holder(value, place, depth + 1)

    def _list(self, value: Iterable[Any], place: str, depth: int) -> Any:
        return [self._tree(item, f"{place}[{index}]", depth) for index, item in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], place: str, depth: int) -> Any:
        return {"%tuple": self._list(value, place, depth)}

    def _set(self, value: set[Any] | frozenset[Any], place: str, depth: int) -> Any:
        # A set has no order: sorted, so that one set has one payload.
        items = sorted((self._tree(item, f"{place} member", depth) for item in value), key=_ENCODER.encode)
        return {f"%{type(value).__name__}": items}

    def _dict(self, value: dict[Any, Any], place: str, depth: int) -> Any:
        if all(type(key) is str and not key.startswith("%") for key in value):
            return {
                _text(key, f"{place} key"): self._tree(item, f"{place}[{key!r:.80}]", depth)
                for key, item in value.items()
            }
        pairs = [
            [self._tree(key, f"{place} key", depth), self._tree(item, f"{place}[{key!r:.80}]", depth)]
            for key, item in value.items()
        ]
        return {"%dict": pairs}

    def _named_tuple(self, value: Any, place: str, depth: int) -> Any:
        named = zip(type(value)._fields, value, strict=True)
        items = [self._tree(item, f"{place}.{name}", depth) for name, item in named]
        return {"%named": [type(value).__name__, items]}

    def _member(self, value: enum.Enum, place: str, _depth: int) -> Any:
        if type(value).__members__.get(value.name) is not value:
            raise _refusal(place, " is a combination of flags, which has no name")
        return {"%enum": [type(value).__name__, value.name]}

    # From JSON.

    def _value(self, tree: Any, depth: int) -> Any:
        if depth > _DEEPEST + 1:
            raise Undecodable("corrupt")
        if type(tree) is list:
            return self._items_back(tree, depth + 1)
        if type(tree) is not dict:
            return tree
        if len(tree) == 1:
            [(tag, content)] = tree.items()
            if tag.startswith("%"):
                leaf = _LEAVES_BACK.get(tag)
                return self._holders_back[tag](content, depth + 1) if leaf is None else leaf(content)
        return {key: self._value(item, depth + 1) for key, item in tree.items()}

    def _items_back(self, content: Any, depth: int) -> list[Any]:
        return [self._value(item, depth) for item in _a(list, content)]

    def _dict_back(self, content: Any, depth: int) -> Any:
        return {self._value(key, depth): self._value(item, depth) for key, item in content}

    def _named_back(self, content: Any, depth: int) -> Any:
        name, items = content
        return self._named[name](*self._items_back(items, depth))

    def _member_back(self, content: Any, _depth: int) -> Any:
        name, member = content
        return self._named[name].__members__[member]


def _fields_of(cls: Any) -> tuple[str, ...] | None:
    """The fields of a named tuple; None where it is none."""
    fields = getattr(cls, "_fields", None)
    is_one = isinstance(cls, type) and issubclass(cls, tuple) and isinstance(fields, tuple)
    return fields if is_one else None


def _members_of(cls: Any) -> Mapping[str, Any] | None:
    """The members of an enum; None where it is none."""
    return cls.__members__ if isinstance(cls, enum.EnumType) else None


def _refusal(place: str, what: str) -> SerializationError:
    return SerializationError(
        f"value{place}{what}. PYTHON stores exactly None, bool, int, float, complex, str, bytes, list, "
        "tuple, set, frozenset, dict, Decimal, UUID, date, time, datetime and timedelta; and the named "
        "tuples and enums that a PythonCodec(...) was given"
    )


# What each class is in JSON, but for those that hold others. A place is where a value is, for messages.


def _whole(value: int, place: str) -> int:
    try:
        str(value)
    except ValueError:
        raise _refusal(place, " has more digits than this interpreter reads back") from None
    return value


def _number(value: float, _place: str) -> Any:
    return value if isfinite(value) else {"%float": _DOUBLE.pack(value).hex()}


def _complex(value: complex, _place: str) -> Any:
    return {"%complex": [_DOUBLE.pack(value.real).hex(), _DOUBLE.pack(value.imag).hex()]}


def _text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal(place, " holds half of a surrogate pair, which is no character") from None
    return value


def _bytes(value: bytes, _place: str) -> Any:
    return {"%bytes": base64.b64encode(value).decode()}


def _decimal(value: Decimal, place: str) -> Any:
    if value.is_snan():
        raise _refusal(place, " is a signalling NaN")
    return {"%decimal": str(value)}


def _uuid(value: uuid.UUID, _place: str) -> Any:
    return {"%uuid": value.hex}


def _date(value: dt.date, _place: str) -> Any:
    return {"%date": value.isoformat()}


def _timedelta(value: dt.timedelta, _place: str) -> Any:
    return {"%timedelta": [value.days, value.seconds, value.microseconds]}


def _time(value: dt.time | dt.datetime, place: str) -> Any:
    wall_clock = value.replace(tzinfo=None, fold=0).isoformat()
    return {f"%{type(value).__name__}": [wall_clock, value.fold, _zone(value.tzinfo, place)]}


def _zone(zone: dt.tzinfo | None, place: str) -> Any:
    """None; the key of a zone; or an offset, with the name that it was given, if it was."""
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [[offset.days, offset.seconds, offset.microseconds], *(_text(each, place) for each in name)]
    key = getattr(zone, "key", None)
    if type(zone) is not _zone_info() or not isinstance(key, str):
        raise _refusal(place, f" has a zone of type {type(zone).__name__} without a key by which to find it")
    return key


def _zone_info() -> Callable[[str], dt.tzinfo]:
    from zoneinfo import ZoneInfo  # not before it is needed: it finds its files through the environment

    return ZoneInfo


_LEAVES: Final[Mapping[type, Callable[[Any, str], Any]]] = {
    int: _whole,
    float: _number,
    complex: _complex,
    str: _text,
    bytes: _bytes,
    Decimal: _decimal,
    uuid.UUID: _uuid,
    dt.date: _date,
    dt.time: _time,
    dt.datetime: _time,
    dt.timedelta: _timedelta,
}


# And back. What raises has met bytes that are not this codec's.


def _double_back(content: Any) -> float:
    [value] = _DOUBLE.unpack(bytes.fromhex(content))
    return float(value)


def _complex_back(content: Any) -> complex:
    real, imag = content
    return complex(_double_back(real), _double_back(imag))


def _bytes_back(content: Any) -> bytes:
    return base64.b64decode(content, validate=True)


def _decimal_back(content: Any) -> Decimal:
    value = Decimal(_a(str, content))
    if value.is_snan():
        raise Undecodable("corrupt")
    return value


def _uuid_back(content: Any) -> uuid.UUID:
    return uuid.UUID(hex=content)


def _date_back(content: Any) -> dt.date:
    return dt.date.fromisoformat(content)


def _timedelta_back(content: Any) -> dt.timedelta:
    days, seconds, microseconds = (_a(int, each) for each in content)
    return dt.timedelta(days, seconds, microseconds)


def _time_back(content: Any) -> dt.time:
    text, fold, zone = content
    return dt.time.fromisoformat(text).replace(fold=_a(int, fold), tzinfo=_zone_back(zone))


def _datetime_back(content: Any) -> dt.datetime:
    text, fold, zone = content
    return dt.datetime.fromisoformat(text).replace(fold=_a(int, fold), tzinfo=_zone_back(zone))


def _zone_back(content: Any) -> dt.tzinfo | None:
    if content is None:
        return None
    if type(content) is str:
        return _zone_info()(content)
    offset, *name = content
    return dt.timezone(_timedelta_back(offset), *name)


def _a(cls: type[T], content: Any) -> T:
    """What is in a payload, where it is of the very class that it must be."""
    if type(content) is not cls:
        raise Undecodable("corrupt")
    return content


_LEAVES_BACK: Final[Mapping[str, Callable[[Any], Any]]] = {
    "%float": _double_back,
    "%complex": _complex_back,
    "%bytes": _bytes_back,
    "%decimal": _decimal_back,
    "%uuid": _uuid_back,
    "%date": _date_back,
    "%time": _time_back,
    "%datetime": _datetime_back,
    "%timedelta": _timedelta_back,
}

PYTHON: Final = PythonCodec()
