"""The codec of an entry's values: round trip or refuse, over what a codec of values encodes and decodes.

Theory of operation.
A cache must not change what a loader returned, and must not trust what a store returns.

*Round trip or refuse.* `Codec.encode` encodes a value, decodes the payload again and compares.
What comes back different is refused; what comes back is what the caller is handed, so that a
miss and a later hit give equal values and nobody shares mutable parts with the loader. The rules
of JSON are in `roundtrip.py`; another codec of values has its own.

*Hostile bytes.* `Codec.decode` returns a value of the type or raises `Undecodable`: garbage,
truncation, bad UTF-8, nesting bombs, numbers out of range and failing ``__post_init__`` are all
the same to a cache: a miss. Nothing is executed but the declared class's own initialisers and
validators, and memory is bounded by a constant factor of ``max_value_bytes`` (measured: 27, for
plain JSON that is a list of many small dicts).

*Fingerprint.* Eight bytes over the structure of the type, and over the codec of its values where that is not
JSON, stored with each entry. Another fingerprint is a miss, so a deployment that changes a class, or chooses
another codec, never reads the old shape as the new. What is in it for JSON says `schema.py`. That entries are
signed is in it as well: who does not know of it takes no signature for a part of a payload.

*Migration.* A type may have a hook that makes its values from JSON payloads of other fingerprints. What the
hook returns is treated as what a loader returns: round trip or refuse. So a hook cannot bring in a value that
`Codec.encode` would not take, and one that fails is a miss.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import re
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

import attrs
import msgspec

from sansio_cache.codecs.json import UNTYPED_FINGERPRINT, JsonCodec
from sansio_cache.codecs.python import PYTHON
from sansio_cache.codecs.value_codec import Checked, Migration, Undecodable, ValueCodec
from sansio_cache.errors import ConfigurationError, SerializationError
from sansio_cache.loader import FROM_LOADERS
from sansio_cache.roundtrip import kind_of
from sansio_cache.rows import mapping_of, tuple_of, with_rows
from sansio_cache.schema import FINGERPRINT_BYTES, mapped_advice, name_of
from sansio_cache.signals import let_through
from sansio_cache.signing import Signer
from sansio_cache.suggested import is_model, mapped_in, shown, type_of

T = TypeVar("T")
D = TypeVar("D", covariant=True)

JSON: Final = 1
CODED: Final = 3
"""What an entry is: a value in JSON; a value that a codec of another kind has encoded. 2 is in `entry.py`."""
_UNREADABLE: Final = {
    "too large": "it would be too large",
    "corrupt": "its codec cannot read what it has written",
    "schema": "what is written of it is no value of the type",
}
"""Why a payload that was just made cannot be read, by the reason that its codec gives."""


class Decoder(Protocol[D]):
    """What `examine` asks of a payload's size that it has looked at. It raises whatever it likes."""

    def decode(self, payload: bytes | memoryview, /) -> D:
        """The value in a payload."""
        ...


class Encoded(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """A value in both its forms. Of one codec, equal payloads mean equal values, which may be unhashable."""

    payload: bytes
    value: T
    """A copy, decoded from the payload."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and self.payload == other.payload

    def __hash__(self) -> int:
        return hash(self.payload)


class _Bounded(msgspec.Struct, Generic[T], frozen=True):
    """Decodes what is not JSON: the codec of the values, told the limit; and checks the class."""

    form: ValueCodec[T]
    max_bytes: int
    cls: builtins.type | None

    def decode(self, payload: bytes | memoryview) -> T:
        value = self.form.decode(bytes(payload), self.max_bytes)
        if self.cls is not None and not isinstance(value, self.cls):
            raise Undecodable("schema")
        return value


@attrs.frozen
class Codec(Generic[T]):
    """The codec of the values of one type, in entries. Made by `codec_for`."""

    fingerprint: bytes = attrs.field(repr=bytes.hex)
    """8 bytes that change with the structure of the type, and with the codec; zeros if untyped JSON."""
    max_value_bytes: int
    """Payloads above this are neither written nor read."""
    # Not hashed: some types cannot be, and the fingerprint stands for it.
    type: Any = attrs.field(hash=False)
    """The declared type, or None for plain values."""
    form: ValueCodec[T] = attrs.field(eq=False, repr=False)
    """What encodes the values: JSON, or what was chosen for the type. The fingerprint stands for it."""
    decoder: Decoder[T] = attrs.field(eq=False, repr=False)
    """What `decode` asks. It raises whatever it likes, and looks at payloads of any size."""
    # Compared by identity and not hashed: a callable object may have any equality, or one that raises. Not
    # shown: a partial shows its arguments.
    hook: Migration | None = attrs.field(default=None, eq=id, hash=False, repr=False)
    """Makes values of the type from payloads of other fingerprints."""
    kind: int = attrs.field(default=JSON, repr=False)
    """What an entry says that it is."""
    raises: bool = attrs.field(default=False, repr=False)
    """Whether a caller is to know that what its loader gave cannot be stored."""
    signer: Signer | None = attrs.field(default=None, repr=False)
    """What signs and verifies entries; None where they are not signed."""
    stamp: bytes = attrs.field(init=False, eq=False, repr=False)
    """What follows the key's check in an entry without tags that this codec can read."""

    _change: Callable[[Any, Any], str | None] | None = attrs.field(init=False, eq=False, repr=False)
    _fills_in: bool = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "stamp", self.fingerprint + bytes((self.kind, 0)))
        form = self.form
        object.__setattr__(self, "_change", form.change if isinstance(form, Checked) else None)
        object.__setattr__(self, "_fills_in", getattr(form, "fills_in", False))

    def encode(self, value: Any) -> Encoded[T]:
        """The payload of `value`, and an independent copy of the value decoded from it.

        Args:
            value: a value of the type, or, in JSON, a mapping with the fields of it.

        Raises:
            SerializationError: the value would come back different, or is too large.
        """
        try:
            return self._round_trip(value)
        except (MemoryError, SerializationError):
            raise
        except Undecodable as error:
            raise self._refusal(value, f" would not come back: {_UNREADABLE[error.reason]}") from error
        except Exception as error:  # a value's own properties, __eq__ and validators are user code
            let_through(error)
            raise self._refusal(value, f" cannot be stored: {_own_words(error)}") from error

    def decode(self, payload: bytes | memoryview) -> T:
        """The value in `payload`, which may be anything at all.

        Args:
            payload: bytes from the store. A memoryview must be of single bytes.

        Raises:
            Undecodable: it holds no value of the type.
        """
        if len(payload) > self.max_value_bytes:
            raise Undecodable("too large")
        try:
            return self.decoder.decode(payload) if self.kind != JSON else self._decode_json(payload)
        except (MemoryError, Undecodable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a codec makes of bytes that are not its own
            let_through(error)
        # Raised out here, so that no context keeps the payload alive.
        raise Undecodable("corrupt")

    def _decode_json(self, payload: bytes | memoryview) -> T:
        return typing.cast("JsonCodec[T]", self.form).decode(payload, self.max_value_bytes)

    def migrate(self, payload: bytes | memoryview) -> T:
        """The value that the hook makes from a JSON payload that was stored under another fingerprint.

        Args:
            payload: bytes from the store, as for `decode`.

        Returns:
            A value of the type that shares nothing with what the hook keeps.

        Raises:
            Undecodable: there is no hook, the payload is not JSON or too large, the hook raised, or it
                returned what `encode` would refuse.
        """
        if self.hook is None:
            raise Undecodable("schema")
        older = codec_for(None, self.max_value_bytes).decode(payload)
        made: Encoded[T] | None
        try:
            made = self._round_trip(self.hook(older))
        except Exception as error:  # noqa: BLE001 - the hook is user code, and a number that it was given any size
            let_through(error)
            made = None
        if made is None:  # Raised out here, so that no context keeps the payload alive.
            raise Undecodable("schema")
        return made.value

    def _round_trip(self, value: Any) -> Encoded[T]:
        cls = None if self.kind == JSON else _class_of(self.type)
        if cls is not None and not isinstance(value, cls):
            raise self._refusal(value, f" is {kind_of(value)}, and not of the declared type")
        payload = self._written(value)
        try:
            back = self.decoder.decode(payload)
        except msgspec.ValidationError:
            if self.kind != JSON:
                raise
            payload, back = self._rows(value)
        if self._fills_in:
            # A mapping or a row may leave out fields: what they are now is stored, and is what all get.
            payload = self._written(back)
            back = self.decoder.decode(payload)
        changed = None if self._change is None else self._change(value, back)
        if changed is not None:
            raise self._refusal(value, changed)
        return Encoded(payload, back)

    def _written(self, value: Any) -> bytes:
        payload = self.form.encode(value)
        if len(payload) > self.max_value_bytes:
            raise SerializationError(
                f"a value of {len(payload)} bytes is larger than max_value_bytes="
                f"{self.max_value_bytes}: cache less of it, or raise max_value_bytes"
            )
        return payload

    def _rows(self, value: Any) -> tuple[bytes, T]:
        """The same for a value with rows, which are to be something else than what they look like.

        Raises:
            msgspec.ValidationError: They cannot be.
        """
        for turned in (mapping_of, tuple_of):
            payload = self.form.encode(with_rows(value, turned))
            with suppress(msgspec.ValidationError):
                return payload, self.decoder.decode(payload)
        return payload, self.decoder.decode(payload)

    def _refusal(self, value: Any, what: str) -> SerializationError:
        if isinstance(value, FROM_LOADERS):
            return SerializationError(
                f"{kind_of(value)} is what a loader gives: in a write give the value itself, with ttl= "
                "beside it, or None where there is nothing"
            )
        advice = getattr(self.form, "advice", f"Its type is stored by {self.form!r}, as codecs= says")
        mapped = mapped_in(value)
        if mapped is not None:
            return SerializationError(f"value{what}. {mapped_advice(mapped)}")
        remedy = self._remedy(value) if self.type is None and self.kind == JSON else None
        return SerializationError(
            f"value{what}. {advice}" if remedy is None else f"value{what}; give {remedy}"
        )

    def _remedy(self, value: Any) -> str | None:
        """An option with which a value without a type would be stored; None where none is known."""
        try:
            declared = type_of(value)
            if declared is not None:
                if not is_model(declared):  # which is not for this codec to try
                    codec_for(declared, self.max_value_bytes).encode(value)
                return f"type={shown(declared)}"
        except (ConfigurationError, SerializationError, TypeError):
            pass
        try:
            PYTHON.encode(value)
        except SerializationError:
            return None
        return "codecs={None: PYTHON}"


def codec_for(
    type: Any,
    max_value_bytes: int,
    migrate: Migration | None = None,
    form: ValueCodec[Any] | None = None,
    *,
    raises: bool = False,
    signer: Signer | None = None,
) -> Codec[Any]:
    """The codec of a type.

    Args:
        type: a dataclass, attrs class, TypedDict, NamedTuple, msgspec.Struct, built-in type or
            generic of these. None and `typing.Any` mean untyped: plain JSON values.
        max_value_bytes: the largest payload to write or read.
        migrate: makes values of the type from payloads that were stored under another fingerprint.
        form: encodes the values; None for JSON.
        raises: whether a caller is to know that what its loader gave cannot be stored.
        signer: signs and verifies entries; None where they are not signed.

    Raises:
        ConfigurationError: msgspec cannot keep every value of the type as it is.
    """
    try:
        return _kept_codec(type, max_value_bytes, migrate, form, raises, signer)  # type: ignore[arg-type]
    except TypeError:  # unhashable, as Annotated with a list is
        return _build(type, max_value_bytes, migrate, form, raises, signer)


def _build(
    type: Any,
    max_value_bytes: int,
    migrate: Migration | None,
    form: ValueCodec[Any] | None,
    raises: bool,
    signer: Signer | None,
) -> Codec[Any]:
    codec = _unsigned(type, max_value_bytes, migrate, form, raises)
    if signer is None:
        return codec
    fingerprint = hashlib.sha256(b"sansio-cache signed 1\0" + codec.fingerprint).digest()[:FINGERPRINT_BYTES]
    return attrs.evolve(codec, fingerprint=fingerprint, signer=signer)


def _unsigned(
    type: Any, max_value_bytes: int, migrate: Migration | None, form: ValueCodec[Any] | None, raises: bool
) -> Codec[Any]:
    if form is None:
        json: JsonCodec[Any] = JsonCodec(type)
        return Codec(json.stamp, max_value_bytes, json.type, json, json.decoder, migrate, raises=raises)
    declared = None if type is Any else type
    bounded: _Bounded[Any] = _Bounded(form, max_value_bytes, _class_of(declared))
    text = f"sansio-cache codec 1\0{name_of(declared)}\0{form.fingerprint}"
    fingerprint = hashlib.sha256(text.encode()).digest()[:FINGERPRINT_BYTES]
    return Codec(fingerprint, max_value_bytes, declared, form, bounded, migrate, CODED, raises)


_QUOTED: Final = re.compile(r"value (?:'.*'|-?\d+)", re.DOTALL)
"""Where msgspec quotes what is no member of an enum: messages end up in logs."""

_NO_CLASSES: Final[tuple[Any, ...]] = (types.UnionType, typing.Annotated)
"""What `typing.get_origin` gives for a form that has no class of its own."""

_kept_codec = functools.lru_cache(maxsize=1024)(_build)


def _class_of(type: Any) -> builtins.type | None:
    """The class that every value of a declared type is of; None where there is none to be told."""
    is_typed_dict = hasattr(type, "__required_keys__")  # of typing, or of typing_extensions
    cls = dict if is_typed_dict else typing.get_origin(type) or type
    is_one = isinstance(cls, builtins.type) and cls not in _NO_CLASSES
    return cls if is_one and not getattr(cls, "_is_protocol", False) else None


__all__ = [
    "CODED",
    "JSON",
    "UNTYPED_FINGERPRINT",
    "Codec",
    "Decoder",
    "Encoded",
    "Migration",
    "codec_for",
]


def _own_words(error: Exception) -> str:
    """What an encoder of this library says; of the code of a value, or of a codec, no more than the class."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else at.tb_frame.f_globals.get("__name__", "")
    is_own = where.partition(".")[0] == "sansio_cache"
    return _QUOTED.sub("value", str(error)) if is_own else type(error).__name__
