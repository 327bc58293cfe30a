"""Rows of databases: what names its columns without being a dict, a dataclass or the like.

A row is accepted where the type that is declared says what it is: a mapping of its columns, or a class with
fields of their names; or the tuple of its values. Rows are known by what they have, so that no database's
package is needed:

- named tuples, and SQLAlchemy's `Row`, have `_asdict`;
- `sqlite3.Row` and asyncpg's `Record` have `keys` and can be indexed by them, and are no mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """A mapping as it is; a row's values by the names of its columns; None where it is neither.

    None as well for a row two columns of which have one name: one of them would be lost.
    """
    if isinstance(value, Mapping):
        return value
    if callable(getattr(type(value), "_asdict", None)):
        columns, named = len(value), value._asdict()
    elif is_row(value):
        columns, named = len(value.keys()), {name: value[name] for name in value.keys()}  # noqa: SIM118
    else:
        return None
    return named if len(named) == columns else None


def is_row(value: Any) -> bool:
    """Whether a value is a row."""
    cls = type(value)
    if isinstance(value, Mapping | type) or attrs.has(cls):
        return False
    if callable(getattr(cls, "_asdict", None)):
        return hasattr(cls, "__len__")
    return all(hasattr(cls, name) for name in ("keys", "__getitem__", "__len__"))


def tuple_of(value: Any) -> tuple[Any, ...] | None:
    """The values of a row, in order; None where it is none."""
    return tuple(value) if is_row(value) else None


def with_rows(value: Any, turned: Callable[[Any], Any]) -> Any:
    """The same with each row in lists, tuples, sets and dicts turned into something else.

    Args:
        value: Any value.
        turned: `mapping_of` or `tuple_of`.
    """
    if is_row(value):
        made = turned(value)
        return value if made is None else made
    if type(value) in (list, tuple):
        return type(value)(with_rows(each, turned) for each in value)
    if type(value) is dict:
        return {key: with_rows(each, turned) for key, each in value.items()}
    return value
