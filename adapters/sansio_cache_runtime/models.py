"""Which codec a type has: the one that was chosen, pydantic's for types made of its models, or else JSON.

Pydantic is never imported here: where nobody else has imported it, no type can have a model in it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from sansio_cache.codec import Codec, codec_for
from sansio_cache.codecs.value_codec import ValueCodec
from sansio_cache.config import CacheConfig
from sansio_cache.schema import without_none
from sansio_cache.signing import Signer


def codec_of(config: CacheConfig, signer: Signer | None, type: Any) -> Codec[Any]:
    """The codec of a type, or of it and None, in a cache.

    Raises:
        ConfigurationError: Its values cannot be stored so that they come back equal.
    """
    declared = without_none(type)
    form = config.codec_of(declared) or codec_of_models(declared)
    migration, raises = config.migration_for(declared), config.on_unstorable == "raise"
    return codec_for(declared, config.max_value_bytes, migration, form, raises=raises, signer=signer)


def codec_of_models(type: Any) -> ValueCodec[Any] | None:
    """The codec of a type that is a pydantic model, or has one in it; None for every other.

    It may be among its arguments, or among the fields of a dataclass, a TypedDict or a named tuple. Attrs
    classes are not pydantic's to read.

    Raises:
        ConfigurationError: It has models, and they cannot be cached.
    """
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _has_model(type, pydantic.BaseModel, {}):
        return None
    from sansio_cache_pydantic import PydanticCodec

    return PydanticCodec(type)


def _has_model(declared: Any, base: type, seen: dict[int, Any]) -> bool:
    if isinstance(declared, type) and issubclass(declared, base):
        return True
    if id(declared) in seen:
        return False
    seen[id(declared)] = (
        declared  # kept: annotations that are texts are made anew, and one's id is soon another's
    )
    parts = (*get_args(declared), *_fields_of(get_origin(declared) or declared))
    return any(_has_model(each, base, seen) for each in parts)


def _fields_of(cls: Any) -> Iterable[Any]:
    """The types of the fields of a class that pydantic can read as well."""
    if not isinstance(cls, type):
        return ()
    is_typed_dict = hasattr(cls, "__required_keys__")  # of typing, or of typing_extensions
    if not (is_typed_dict or is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))):
        return ()
    try:
        return get_type_hints(cls).values()
    except (NameError, TypeError):  # an annotation that cannot be read, which is said where it is
        return ()
