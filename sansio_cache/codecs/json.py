"""JSON by msgspec, decoded into the declared type: the codec of a type for which no other was chosen."""

from __future__ import annotations

import marshal
from typing import Any, Final, Generic, TypeVar

import msgspec

from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.errors import ConfigurationError
from sansio_cache.roundtrip import change, kind_of
from sansio_cache.rows import mapping_of
from sansio_cache.schema import FINGERPRINT_BYTES, fills_in, fingerprint, mapped_advice, mapped_class, name_of
from sansio_cache.signals import let_through

T = TypeVar("T")

UNTYPED_FINGERPRINT: Final = bytes(FINGERPRINT_BYTES)


class JsonCodec(Generic[T]):
    """Values of a type, as JSON.

    Args:
        type: a dataclass, attrs class, TypedDict, NamedTuple, msgspec.Struct, built-in type or
            generic of these. None and `typing.Any` mean untyped: plain JSON values.

    Raises:
        ConfigurationError: msgspec cannot keep every value of the type as it is.
    """

    def __init__(self, type: Any = None) -> None:
        self.type = None if type is Any else type
        if isinstance(type, str):
            raise ConfigurationError(
                f"type={type!r} cannot be cached: it is a text; give the class itself, as in type=User"
            )
        mapped = mapped_class(type)
        if mapped is not None:
            raise ConfigurationError(f"type={name_of(type)} cannot be cached: {mapped_advice(mapped)}")
        try:
            self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any if self.type is None else type)
            """What reads payloads. It raises whatever it likes, and looks at payloads of any size."""
            self.stamp = UNTYPED_FINGERPRINT if self.type is None else fingerprint(type)
            self.fills_in = self.type is not None and fills_in(type)
            """Whether what a value leaves out is to be written with it: it would be another at each read."""
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

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonCodec, (self.type,)

    def __repr__(self) -> str:
        return f"JsonCodec({'' if self.type is None else name_of(self.type)})"

    @property
    def fingerprint(self) -> str:
        """The structure of the type, as `schema.py` says it."""
        return f"json 1 {self.stamp.hex()}"

    def encode(self, value: Any) -> bytes:
        """The JSON of a value of the type, or of a mapping with its fields."""
        return _ENCODER.encode(value)

    def decode(self, payload: bytes | memoryview, max_bytes: int) -> T:
        """The value in a payload. `max_bytes` is the caller's to check: JSON does not inflate.

        Raises:
            Undecodable: It is not JSON, or not of the type.
        """
        del max_bytes
        try:
            value: T = self.decoder.decode(payload)
        except MemoryError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            let_through(error)
            is_json = isinstance(error, msgspec.ValidationError)
        except Exception as error:  # noqa: BLE001 - from a class's __post_init__, or a set's unhashable member
            let_through(error)
            is_json = True
        else:
            return value
        # Raised out here, so that no context keeps the payload alive.
        raise Undecodable("schema" if is_json else "corrupt")

    def change(self, given: Any, back: Any) -> str | None:
        """Where and how a decoded value differs from the given one, by the rules of `roundtrip.py`."""
        if self.type is None and _is_same(given, back):  # as nearly all are
            return None
        return change(given, back, exact=self.type is None)

    @property
    def advice(self) -> str:
        """What to give instead of what is refused."""
        if self.type is None:
            return (
                "Without a type only None, bool, int, finite float, str, list and dict with str "
                "keys come back as they were: pass type= for anything else"
            )
        return (
            f"Give a value of the declared type {name_of(self.type)}, or a mapping with no keys "
            "but its fields; JSON has no NaN or infinity"
        )


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


def _columns(value: object) -> dict[Any, Any]:
    """Encode what msgspec does not know: database rows, and other mappings that are not dicts."""
    named = mapping_of(value)
    if named is None:
        raise TypeError(f"{kind_of(value)} has no JSON form")
    return dict(named)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_columns)
