"""Which types are made of pydantic models: those are encoded by pydantic, without being asked for.

Pydantic is never imported here: where nobody else has imported it, no type can have a model in it.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

from sansio_cache.codecs.value_codec import ValueCodec


def codec_of_models(type: Any) -> ValueCodec[Any] | None:
    """The codec of a type that is a pydantic model, or has one among its arguments; None for every other.

    Raises:
        ConfigurationError: It has models, and they cannot be cached.
    """
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _has_model(type, pydantic.BaseModel):
        return None
    from sansio_cache_pydantic import PydanticCodec

    return PydanticCodec(type)


def _has_model(declared: Any, base: type) -> bool:
    is_model = isinstance(declared, type) and issubclass(declared, base)
    return is_model or any(_has_model(each, base) for each in get_args(declared))
