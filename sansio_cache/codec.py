"""Values to bytes and back: JSON by msgspec, decoded into the declared type.

Theory of operation.
A cache must not change what a loader returned, and must not trust what a store returns.

*Round trip or refuse.* `Codec.encode` encodes a value, decodes the payload again and compares.
What comes back different is refused; what comes back is what the caller is handed, so that a
miss and a later hit give equal values and nobody shares mutable parts with the loader.

- Without a type, a value is kept only if every part of it comes back equal and of exactly the same
  class. JSON can do that for None, bool, int, finite float, str, list and dict with str keys.
- With a type, the value that comes back is of that type by construction, and is compared part by
  part: objects field by field (fields that a class's own ``==`` skips are compared too), anything
  else by ``==``. So an `enum.IntEnum` may stand where an int is declared, an int where a float is
  (if the float is exact), a `collections.defaultdict` where a dict is; the declared class is
  what comes back. A part of another class is accepted where the type asks for the conversion and
  nothing is lost by it: a mapping (a database row) for a class, if every key has a field; a list
  for a tuple; a text, or value, for the date, UUID, Decimal, enum that it spells. Text is not
  accepted for bytes: it would be read as base64. Never accepted: a subclass of a declared class,
  a tuple for a list (at an `typing.Any` that would be a silent change), a set for a list.
- Dates and times must keep wall clock, UTC offset and, where there is no offset to tell them apart,
  fold. A named zone comes back as its fixed offset: PostgreSQL drivers return such values always,
  and JSON holds no more. ``1.10`` stays ``1.10`` in a Decimal, ``-0.0`` stays ``-0.0``.
- NaN and infinity have no JSON form (msgspec writes ``null``) and are refused. So is a Decimal NaN,
  which equals nothing, and an int of more than 4300 digits, which Python would not read back.

*Hostile bytes.* `Codec.decode` returns a value of the type or raises `Undecodable`: garbage,
truncation, bad UTF-8, nesting bombs, numbers out of range and failing ``__post_init__`` are all
the same to a cache: a miss. Nothing is executed but the declared class's own initialisers and
validators, and memory is bounded by a constant factor of ``max_value_bytes`` (measured: 27, for
plain JSON that is a list of many small dicts).

*Fingerprint.* Eight bytes over the structure of the type, stored with each entry. Another
fingerprint is a miss, so a deployment that changes a class never reads the old shape as the new.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import attrs
import msgspec
from msgspec import inspect

from sansio_cache.errors import ConfigurationError, SerializationError

T = TypeVar("T")

UNTYPED_FINGERPRINT: Final = bytes(8)


class Undecodable(Exception):  # noqa: N818 - an outcome of decoding, not an error that users see
    """A payload that is not a value of the codec's type. The cache counts it as a miss.

    Attributes:
        reason: ``too large`` (not looked at), ``corrupt`` (not JSON, or nested too deeply) or
            ``schema`` (JSON, but not of this type).
    """

    def __init__(self, reason: Literal["too large", "corrupt", "schema"]) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Encoded(Generic[T]):
    """A value in both its forms. Of one codec, equal payloads mean equal values."""

    payload: bytes
    value: T = attrs.field(eq=False)  # may be unhashable; the payload decides


@attrs.frozen
class Codec(Generic[T]):
    """Encodes and decodes the values of one type. Made by `codec_for`.

    Attributes:
        fingerprint: 8 bytes that change with the structure of the type; zeros if untyped.
        max_value_bytes: payloads above this are neither written nor read.
        type: the declared type, or None for plain JSON values.
    """

    fingerprint: bytes = attrs.field(repr=bytes.hex)
    max_value_bytes: int
    # Not hashed: some types cannot be, and the fingerprint stands for it.
    type: Any = attrs.field(hash=False)
    _decoder: msgspec.json.Decoder[T] = attrs.field(eq=False, repr=False)

    def encode(self, value: Any) -> Encoded[T]:
        """The payload of `value`, and an independent copy of the value decoded from it.

        Args:
            value: a value of the type, or a mapping with the fields of it.

        Raises:
            SerializationError: the value would come back different, or is too large.
        """
        try:
            return self._round_trip(value)
        except (MemoryError, SerializationError):
            raise
        except Exception as error:  # a value's own properties, __eq__ and validators are user code
            raise self._refusal(f" cannot be stored: {error}") from error

    def decode(self, payload: bytes | memoryview) -> T:
        """The value in `payload`, which may be anything at all.

        Args:
            payload: bytes from the store. A memoryview must be of single bytes.

        Raises:
            Undecodable: it holds no value of the type.
        """
        if len(payload) > self.max_value_bytes:
            raise Undecodable("too large")
        reason: Literal["corrupt", "schema"]
        try:
            return self._decoder.decode(payload)
        except MemoryError:
            raise
        except msgspec.ValidationError:
            reason = "schema"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            reason = "corrupt"
        except Exception:  # noqa: BLE001 - from a class's __post_init__, or a set's unhashable member
            reason = "schema"
        # Raised out here, so that no context keeps the payload alive.
        raise Undecodable(reason)

    def _round_trip(self, value: Any) -> Encoded[T]:
        payload = _ENCODER.encode(value)
        if len(payload) > self.max_value_bytes:
            raise SerializationError(
                f"a value of {len(payload)} bytes is larger than max_value_bytes="
                f"{self.max_value_bytes}: cache less of it, or raise max_value_bytes"
            )
        back = self._decoder.decode(payload)
        change = _change(value, back, exact=self.type is None)
        if change is not None:
            raise self._refusal(change)
        return Encoded(payload, back)

    def _refusal(self, what: str) -> SerializationError:
        if self.type is None:
            advice = (
                "Without a type only None, bool, int, finite float, str, list and dict with str "
                "keys come back as they were: pass type= for anything else"
            )
        else:
            advice = (
                f"Give a value of the declared type {_name(self.type)}, or a mapping with no keys "
                "but its fields; JSON has no NaN or infinity"
            )
        return SerializationError(f"value{what}. {advice}")


def codec_for(type: Any, max_value_bytes: int) -> Codec[Any]:
    """The codec of a type, built once and kept.

    Args:
        type: a dataclass, attrs class, TypedDict, NamedTuple, msgspec.Struct, built-in type or
            generic of these. None and `typing.Any` mean untyped: plain JSON values.
        max_value_bytes: the largest payload to write or read.

    Raises:
        ConfigurationError: msgspec cannot keep every value of the type as it is.
    """
    try:
        return _kept_codec(type, max_value_bytes)
    except TypeError:  # unhashable, as Annotated with a list is
        return _build(type, max_value_bytes)


def _build(type: Any, max_value_bytes: int) -> Codec[Any]:
    if type is None or type is Any:
        return Codec(UNTYPED_FINGERPRINT, max_value_bytes, None, msgspec.json.Decoder())
    try:
        decoder = msgspec.json.Decoder(type)
        outline = _outline(inspect.type_info(type), {})
    except NameError as error:
        raise ConfigurationError(
            f"type={_name(type)} cannot be cached: {error}. Names in annotations must be found in "
            "the module that defines the class: not in a function, nor under TYPE_CHECKING alone"
        ) from error
    except Exception as error:  # evaluating annotations runs user code
        raise ConfigurationError(
            f"type={_name(type)} cannot be cached: {error}. Use dataclasses, attrs classes, "
            "TypedDict, NamedTuple, msgspec.Struct (with tag=True in unions) and built-in types"
        ) from error
    text = msgspec.json.encode(["sansio-cache 1", outline], order="sorted")
    return Codec(hashlib.sha256(text).digest()[:8], max_value_bytes, type, decoder)


_kept_codec = functools.lru_cache(maxsize=1024)(_build)


def _name(type: Any) -> str:
    return str(getattr(type, "__qualname__", type))


def _mapping_to_dict(value: object) -> dict[Any, Any]:
    """Encode what msgspec does not know: database rows that are mappings but not dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_mapping_to_dict)


# --- Round trip or refuse ---------------------------------------------------------------------

_DROPPED: Final = object()
_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_Parts = Iterable[tuple[str, Any, Any, Any]]  # how to write the place, its key, given, back


def _change(given: Any, back: Any, *, exact: bool) -> str | None:
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
        inner = _change(part, part_back, exact=exact)
        if inner is not None:
            return place.format(key) + inner
    return None


def _turned(given: object, back: object) -> str:
    if back is _DROPPED:
        return " would be dropped"
    if type(given) is type(back):
        return " would come back changed"
    return f" is of type {type(given).__name__} and would come back as {type(back).__name__}"


def _items(given: Any, back: list[Any] | tuple[Any, ...]) -> _Parts | None:
    # A list in `back` may stand at an Any, where a tuple for it would be a silent change.
    sources = list if isinstance(back, list) else (list, tuple)
    if not isinstance(given, sources) or len(given) != len(back):
        return None
    pairs = enumerate(zip(given, back, strict=True))
    return (("[{}]", index, part, part_back) for index, (part, part_back) in pairs)


def _entries(given: Any, back: dict[Any, Any]) -> _Parts | None:
    if not isinstance(given, Mapping):
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
    source = given if isinstance(given, Mapping) else None
    if type(given) is type(back):
        source = _fields(given)
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
    if isinstance(back, (dt.datetime, dt.time)):
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


# --- The structure of a type ------------------------------------------------------------------

_CLASSES: Final = (
    inspect.DataclassType,  # attrs classes as well
    inspect.NamedTupleType,
    inspect.StructType,
    inspect.TypedDictType,
)
_NO_KEYS: Final = (
    *_CLASSES,
    inspect.BoolType,
    inspect.CollectionType,
    inspect.DictType,
    inspect.NoneType,
    inspect.TupleType,
)


def _outline(node: Any, seen: dict[int, int]) -> Any:
    """The structure of a type as plain JSON values, for the fingerprint.

    In it: kinds, class names, field names, requiredness, defaults, constraints, enum members.
    Not in it: modules (two classes of the same name and shape have one outline), documentation,
    default factories. It must not depend on the process: typing interns ``int | str`` and
    ``str | int`` as one object, so which order a union has depends on what was imported first.

    Args:
        node: a node of `msgspec.inspect`, or what is in one.
        seen: the classes met so far, by the id of their node, with their number.

    Raises:
        TypeError: the type has values that do not come back from JSON as they were.
    """
    match node:
        case inspect.Metadata():  # titles, descriptions, examples
            return _outline(node.type, seen)
        case inspect.CustomType() | inspect.RawType() | inspect.ExtType():
            raise TypeError(f"{_name(getattr(node, 'cls', node))} has no faithful JSON form")
        case inspect.DictType() if isinstance(node.key_type, _NO_KEYS):
            raise TypeError(f"{type(node.key_type).__name__} cannot be a key in JSON")
        case inspect.UnionType():
            return ["union", [_outline(member, seen) for member in sorted(node.types, key=_order)]]
        case inspect.EnumType():
            members = sorted((name, m.value) for name, m in node.cls.__members__.items())
            return ["enum", node.cls.__name__, members]
        case inspect.DataclassType() if private := _private_attrs_field(node):
            raise TypeError(
                f"msgspec leaves out private fields of attrs classes, here {private}: "
                "rename it, or make the class a dataclass"
            )
        case inspect.Field():
            name, default = node.encode_name, _default(node)
            return [name, node.name, node.required, default, _outline(node.type, seen)]
        case msgspec.Struct():
            if isinstance(node, _CLASSES):
                if id(node) in seen:
                    return ["seen", seen[id(node)]]
                seen[id(node)] = len(seen)
            parts = {name: getattr(node, name) for name in node.__struct_fields__}
            # None means no constraint: those that msgspec may add later change nothing.
            given = {name: _outline(part, seen) for name, part in parts.items() if part is not None}
            return [type(node).__name__, given]
        case tuple():
            return [_outline(part, seen) for part in node]
    return getattr(node, "__name__", node)


def _order(member: inspect.Type) -> tuple[str, str, str]:
    # msgspec allows one member of each kind in a union; but any number of Structs, and an enum
    # of str beside one of int.
    cls = getattr(member, "cls", None)
    return (
        type(member).__name__,
        getattr(cls, "__module__", ""),
        getattr(cls, "__qualname__", ""),
    )


def _private_attrs_field(node: inspect.DataclassType) -> str | None:
    cls: Any = getattr(node.cls, "__origin__", node.cls)
    if not attrs.has(cls):
        return None
    private = (field.name for field in node.fields if field.name.startswith("_"))
    return next((f"{cls.__qualname__}.{name}" for name in private), None)


def _default(field: inspect.Field) -> list[str] | None:
    if field.default is msgspec.NODEFAULT:
        return None
    try:
        text = msgspec.json.encode(field.default, order="sorted").decode()
    except Exception:  # noqa: BLE001 - any object may be a default; then its class must do
        text = ""
    return [type(field.default).__name__, text]
