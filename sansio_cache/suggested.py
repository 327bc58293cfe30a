"""What to write instead, for a value that does not come back as it was."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Iterable
from decimal import Decimal
from functools import reduce
from itertools import islice
from operator import or_
from types import GenericAlias
from typing import Any, Final, get_args

import attrs
import msgspec

from sansio_cache.rows import is_row, mapping_of
from sansio_cache.schema import mapped_class

_MOST_LOOKED_AT: Final = 100
_DEEPEST: Final = 8
_LONGEST_TUPLE: Final = 8
_PLAIN: Final = frozenset(
    {
        *(type(None), bool, int, float, str, bytes),
        *(dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, uuid.UUID),
    }
)


def type_of(value: Any, depth: int = 0) -> Any:
    """The type that says what a value is; None where none is known.

    Of what holds many, only the first hundred are looked at.
    """
    cls: Any = type(value)
    if cls in _PLAIN:
        return cls
    if depth > _DEEPEST:
        return None
    if cls is tuple and 0 < len(value) <= _LONGEST_TUPLE:
        parts = tuple(type_of(each, depth + 1) for each in value)
        return None if None in parts else GenericAlias(cls, parts)
    if cls in (list, tuple, set, frozenset):
        part = _one_type(value, depth)
        return None if part is None else GenericAlias(cls, (part, ...) if cls is tuple else part)
    named = mapping_of(value) if cls is dict or (is_row(value) and not _is_declared(cls)) else None
    if named is not None:
        key, part = _one_type(named, depth), _one_type(named.values(), depth)
        return None if key is None or part is None else GenericAlias(dict, (key, part))
    return cls if _is_declared(cls) else None


def is_model(declared: Any) -> bool:
    """Whether a type is a class of pydantic's, or has one among its arguments."""
    return hasattr(declared, "__pydantic_core_schema__") or any(map(is_model, get_args(declared)))


def _is_declared(cls: Any) -> bool:
    """Whether a class says by itself what its values are made of."""
    is_typed_tuple = issubclass(cls, tuple) and getattr(cls, "__annotations__", None)
    return bool(
        is_typed_tuple
        or is_model(cls)
        or issubclass(cls, msgspec.Struct | enum.Enum)
        or attrs.has(cls)
        or hasattr(cls, "__dataclass_fields__")
    )


def _one_type(values: Iterable[Any], depth: int) -> Any:
    """One type for several values; of none, any will do."""
    found = dict.fromkeys(type_of(each, depth + 1) for each in islice(values, _MOST_LOOKED_AT))
    if None in found:
        return None
    return reduce(or_, found) if found else int


def shown(declared: Any) -> str:
    """A type as it is written."""
    if isinstance(declared, type) and not get_args(declared):
        return declared.__name__
    return repr(declared).replace("NoneType", "None").replace("typing.", "")


def mapped_in(value: Any, depth: int = 0) -> str | None:
    """The name of an ORM's class, an object of which is in a value; None where there is none."""
    mapped = mapped_class(type(value))
    if mapped is not None or depth > _DEEPEST:
        return mapped
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return None
    found = (mapped_in(each, depth + 1) for each in islice(value, _MOST_LOOKED_AT))
    return next((name for name in found if name is not None), None)
