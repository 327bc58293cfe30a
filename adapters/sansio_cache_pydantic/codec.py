"""The codec of types that pydantic validates.

Theory of operation.
Pydantic writes a value by its fields' serialisers and reads it by their validators, and the two need not
agree: a field may be left out, a secret masked, a subclass cut down to its base, a validator may change
what it reads. So each value that is to be stored is written, read again, and compared: part by part, exact
classes, private attributes too. What would come back different is refused, with its place.

*Fingerprint.* It is of the JSON schema that pydantic gives, for what it writes and for what it reads,
without titles, descriptions and examples. Another release of pydantic may describe the same model in other
words: that is a miss.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

import msgspec
import pydantic

from sansio_cache.codecs.value_codec import Undecodable
from sansio_cache.errors import ConfigurationError
from sansio_cache.roundtrip import kind_of
from sansio_cache.schema import mapped_advice, mapped_class, name_of
from sansio_cache.signals import let_through
from sansio_cache.suggested import shown

T = TypeVar("T")

_WORDS: Final = frozenset({"title", "description", "examples", "deprecated"})
"""What a schema says to its readers, and not about its values."""
_NAMES: Final = frozenset({"properties", "$defs", "patternProperties"})
"""Where the keys of a schema are names of the model's, and not words of the schema's."""


class PydanticCodec(Generic[T]):
    """Values of a type that pydantic validates: models, also in containers, generics and unions.

    Args:
        type: The type, as `pydantic.TypeAdapter` takes it.
        version: Part of the fingerprint: another version makes a miss of every entry from before.

    Raises:
        ConfigurationError: Pydantic has no schema for the type, or there are secrets in it, which it masks.
    """

    def __init__(self, type: Any, *, version: str = "") -> None:
        self.type = type
        self._version = version
        mapped = mapped_class(type)  # as those of SQLModel are
        if mapped is not None:
            raise ConfigurationError(f"type={shown(type)} cannot be cached: {mapped_advice(mapped)}")
        try:
            self._adapter: pydantic.TypeAdapter[T] = pydantic.TypeAdapter(type)
            schemas = [
                self._adapter.json_schema(mode="serialization", by_alias=True),
                self._adapter.json_schema(mode="validation", by_alias=True),
            ]
        except (pydantic.PydanticUserError, pydantic.PydanticSchemaGenerationError, NameError) as error:
            let_through(error)
            why = str(error).partition("\n")[0]  # what follows is where to read of it
            raise ConfigurationError(f"type={shown(type)} cannot be cached: {why}") from error
        if _has_secret(schemas) or _names_secret(type, set()):
            raise ConfigurationError(
                f"type={shown(type)} cannot be cached: it holds secrets (SecretStr and its kin), which "
                "pydantic masks when it writes them. Cache a model without them"
            )
        outline = msgspec.json.encode([name_of(type), version, *map(_outline, schemas)], order="sorted")
        self._fingerprint = f"pydantic 1 {hashlib.sha256(outline).hexdigest()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(PydanticCodec, version=self._version), (self.type,)

    def __repr__(self) -> str:
        return f"PydanticCodec({shown(self.type)})"

    @property
    def fingerprint(self) -> str:
        """A digest of the version and of the schema."""
        return self._fingerprint

    @property
    def advice(self) -> str:
        """What to give instead of what is refused."""
        return (
            f"Give a value of exactly the declared type {shown(self.type)}, all of whose fields pydantic "
            "writes and reads back as they are"
        )

    def encode(self, value: T) -> bytes:
        """The value as pydantic's JSON, by alias, for a round trip.

        Raises:
            pydantic_core.PydanticSerializationError: Pydantic cannot write it.
        """
        # What pydantic would warn of comes back changed, or as it was.
        return self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings="none")

    def decode(self, payload: bytes, max_bytes: int) -> T:
        """The value in a payload. `max_bytes` is the caller's to check: JSON does not inflate.

        Raises:
            Undecodable: Pydantic does not find a value of the type in it.
        """
        del max_bytes
        try:
            return self._adapter.validate_json(payload)
        except pydantic.ValidationError as error:
            let_through(error)
            is_json = all(each["type"] != "json_invalid" for each in error.errors(include_url=False))
        # Raised out here, so that no context keeps the payload alive.
        raise Undecodable("schema" if is_json else "corrupt")

    def change(self, given: Any, back: Any) -> str | None:
        """Where and how a decoded value differs from the given one."""
        return _change(given, back)


def _change(given: Any, back: Any) -> str | None:
    if type(given) is not type(back):
        return f" is {kind_of(given)} and would come back as {kind_of(back)}"
    parts = _parts(given)
    if parts is None:
        return None if _is_same(given, back) else " would come back changed"
    parts_back = _parts(back) or []
    if len(parts) != len(parts_back):
        return " would come back with more parts, or fewer"
    for (place, part), (_, part_back) in zip(parts, parts_back, strict=True):
        changed = _change(part, part_back)
        if changed is not None:
            return place + changed
    return None


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a value, each with how its place is written; None where it has none."""
    if isinstance(value, pydantic.BaseModel):
        fields = [(f".{name:.80}", getattr(value, name)) for name in type(value).model_fields]
        return [*fields, ("", value.__pydantic_extra__), ("", value.__pydantic_private__)]
    if dataclasses.is_dataclass(value):
        return [(f".{field.name:.80}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):  # in their order, and with their keys, which need not be texts
        keys = [(" key", key) for key in value]
        return [*keys, *((f"[{key!r:.80}]", part) for key, part in value.items())]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    return None


def _is_same(given: Any, back: Any) -> bool:
    """Whether two values of one class that have no parts are the same."""
    if isinstance(given, dt.datetime | dt.time):
        # Not by ==: an aware one inside the repeated hour equals nothing of another zone.
        return (
            given.replace(tzinfo=None, fold=0) == back.replace(tzinfo=None, fold=0)
            and given.utcoffset() == back.utcoffset()
            and (given.tzinfo is None) == (back.tzinfo is None)
            and (given.tzinfo is not None or given.fold == back.fold)
        )
    if isinstance(given, set | frozenset):
        return given == back and sorted(map(_class_of, given)) == sorted(map(_class_of, back))
    return bool(given == back) and repr(given) == repr(back)


def _class_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _has_secret(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("writeOnly") is True or any(_has_secret(part) for part in schema.values())
    return isinstance(schema, list) and any(_has_secret(part) for part in schema)


def _names_secret(declared: Any, seen: set[int]) -> bool:
    """Whether there is a `pydantic.Secret[...]` in a type: the schema does not say of these what they are."""
    cls = get_origin(declared) or declared
    if isinstance(cls, type) and issubclass(cls, pydantic.Secret | pydantic.SecretStr | pydantic.SecretBytes):
        return True
    if id(declared) in seen:
        return False
    seen.add(id(declared))
    fields: Any = getattr(declared, "__pydantic_fields__", None)
    parts = () if not isinstance(fields, Mapping) else (field.annotation for field in fields.values())
    return any(_names_secret(each, seen) for each in (*get_args(declared), *parts))


def _outline(schema: Any, *, names: bool = False) -> Any:
    """A schema without what it says to its readers."""
    if isinstance(schema, Mapping):
        return {
            key: _outline(part, names=not names and key in _NAMES)
            for key, part in schema.items()
            if names or key not in _WORDS
        }
    return [_outline(part) for part in schema] if isinstance(schema, list) else schema
