"""Values to bytes and back: JSON by msgspec, decoded into the declared type.

Theory of operation.
A cache must not change what a loader returned, and must not trust what a store returns.

*Round trip or refuse.* `Codec.encode` encodes a value, decodes the payload again and compares.
What comes back different is refused; what comes back is what the caller is handed, so that a
miss and a later hit give equal values and nobody shares mutable parts with the loader. The rules
are in `roundtrip.py`.

*Hostile bytes.* `Codec.decode` returns a value of the type or raises `Undecodable`: garbage,
truncation, bad UTF-8, nesting bombs, numbers out of range and failing ``__post_init__`` are all
the same to a cache: a miss. Nothing is executed but the declared class's own initialisers and
validators, and memory is bounded by a constant factor of ``max_value_bytes`` (measured: 27, for
plain JSON that is a list of many small dicts).

*Fingerprint.* Eight bytes over the structure of the type, stored with each entry. Another
fingerprint is a miss, so a deployment that changes a class never reads the old shape as the new. What
is in it says `schema.py`.

*Migration.* A type may have a hook that makes its values from payloads of other fingerprints. What the
hook returns is treated as what a loader returns: round trip or refuse. So a hook cannot bring in a value that
`Codec.encode` would not take, and one that fails is a miss.
"""

from __future__ import annotations

import functools
import marshal
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import attrs
import msgspec

from sansio_cache.errors import ConfigurationError, SerializationError
from sansio_cache.roundtrip import change
from sansio_cache.schema import FINGERPRINT_BYTES, fingerprint, name_of
from sansio_cache.signals import let_through

T = TypeVar("T")

UNTYPED_FINGERPRINT: Final = bytes(FINGERPRINT_BYTES)

Migration: TypeAlias = Callable[[Any], Any]
"""From a payload that was stored as another type, or as another shape of it, as plain JSON values; to a value
of the type, or a mapping with its fields. It raises, whatever it likes, where it can make none."""


class Undecodable(Exception):  # noqa: N818 - an outcome of decoding, not an error that users see
    """A payload that is not a value of the codec's type. The cache counts it as a miss.

    Attributes:
        reason: ``too large`` (not looked at), ``corrupt`` (not JSON, or nested too deeply) or
            ``schema`` (JSON, but not of this type, and no hook has made it so).
    """

    def __init__(self, reason: Literal["too large", "corrupt", "schema"]) -> None:
        super().__init__(reason)
        self.reason = reason


class Encoded(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """A value in both its forms. Of one codec, equal payloads mean equal values, which may be unhashable."""

    payload: bytes
    value: T
    """A copy, decoded from the payload."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and self.payload == other.payload

    def __hash__(self) -> int:
        return hash(self.payload)


@attrs.frozen
class Codec(Generic[T]):
    """The codec of the values of one type. Made by `codec_for`."""

    fingerprint: bytes = attrs.field(repr=bytes.hex)
    """8 bytes that change with the structure of the type; zeros if untyped."""
    max_value_bytes: int
    """Payloads above this are neither written nor read."""
    # Not hashed: some types cannot be, and the fingerprint stands for it.
    type: Any = attrs.field(hash=False)
    """The declared type, or None for plain JSON values."""
    decoder: msgspec.json.Decoder[T] = attrs.field(eq=False, repr=False)
    """What `decode` asks. It raises whatever it likes, and looks at payloads of any size."""
    # Compared by identity and not hashed: a callable object may have any equality, or one that raises. Not
    # shown: a partial shows its arguments.
    hook: Migration | None = attrs.field(default=None, eq=id, hash=False, repr=False)
    """Makes values of the type from payloads of other fingerprints."""

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
            let_through(error)
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
            return self.decoder.decode(payload)
        except MemoryError:
            raise
        except msgspec.ValidationError as error:
            let_through(error)
            reason = "schema"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            let_through(error)
            reason = "corrupt"
        except Exception as error:  # noqa: BLE001 - from a class's __post_init__, or a set's unhashable member
            let_through(error)
            reason = "schema"
        # Raised out here, so that no context keeps the payload alive.
        raise Undecodable(reason)

    def migrate(self, payload: bytes | memoryview) -> T:
        """The value that the hook makes from a payload that was stored under another fingerprint.

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
        payload = _ENCODER.encode(value)
        if len(payload) > self.max_value_bytes:
            raise SerializationError(
                f"a value of {len(payload)} bytes is larger than max_value_bytes="
                f"{self.max_value_bytes}: cache less of it, or raise max_value_bytes"
            )
        back = self.decoder.decode(payload)
        if self.type is None and _is_same(value, back):  # as nearly all are
            return Encoded(payload, back)
        changed = change(value, back, exact=self.type is None)
        if changed is not None:
            raise self._refusal(changed)
        return Encoded(payload, back)

    def _refusal(self, what: str) -> SerializationError:
        if self.type is None:
            advice = (
                "Without a type only None, bool, int, finite float, str, list and dict with str "
                "keys come back as they were: pass type= for anything else"
            )
        else:
            advice = (
                f"Give a value of the declared type {name_of(self.type)}, or a mapping with no keys "
                "but its fields; JSON has no NaN or infinity"
            )
        return SerializationError(f"value{what}. {advice}")


def _is_same(given: Any, back: Any) -> bool:
    """Whether two values are equal in every part, and of exactly the same classes.

    In a fifth of the time that it takes to look at the parts. Marshal writes each class of JSON in its own
    way, a float by its bits, and refuses what is of a class derived from one of them. In version 2 it writes
    what is there, however often, and nothing of how it is kept. It would take a bytearray for bytes, and NaN
    for itself: `back` comes from JSON, which has neither.
    """
    try:
        return marshal.dumps(given, 2) == marshal.dumps(back, 2)
    except Exception as error:  # noqa: BLE001 - not a plain value, or an audit hook does not like marshal
        let_through(error)
        return False


def codec_for(type: Any, max_value_bytes: int, migrate: Migration | None = None) -> Codec[Any]:
    """The codec of a type, built once and kept; if the type or the hook cannot be hashed, built each time.

    Args:
        type: a dataclass, attrs class, TypedDict, NamedTuple, msgspec.Struct, built-in type or
            generic of these. None and `typing.Any` mean untyped: plain JSON values.
        max_value_bytes: the largest payload to write or read.
        migrate: makes values of the type from payloads that were stored under another fingerprint.

    Raises:
        ConfigurationError: msgspec cannot keep every value of the type as it is.
    """
    try:
        return _kept_codec(type, max_value_bytes, migrate)
    except TypeError:  # unhashable, as Annotated with a list is
        return _build(type, max_value_bytes, migrate)


def _build(type: Any, max_value_bytes: int, migrate: Migration | None) -> Codec[Any]:
    if type is None or type is Any:
        return Codec(UNTYPED_FINGERPRINT, max_value_bytes, None, msgspec.json.Decoder(), migrate)
    try:
        decoder = msgspec.json.Decoder(type)
        stamp = fingerprint(type)
    except NameError as error:
        raise ConfigurationError(
            f"type={name_of(type)} cannot be cached: {error}. Names in annotations must be found in "
            "the module that defines the class: not in a function, nor under TYPE_CHECKING alone"
        ) from error
    except Exception as error:  # evaluating annotations runs user code
        let_through(error)
        raise ConfigurationError(
            f"type={name_of(type)} cannot be cached: {error}. Use dataclasses, attrs classes, "
            "TypedDict, NamedTuple, msgspec.Struct (with tag=True in unions) and built-in types"
        ) from error
    return Codec(stamp, max_value_bytes, type, decoder, migrate)


_kept_codec = functools.lru_cache(maxsize=1024)(_build)


def _mapping_to_dict(value: object) -> dict[Any, Any]:
    """Encode what msgspec does not know: database rows that are mappings but not dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_mapping_to_dict)
