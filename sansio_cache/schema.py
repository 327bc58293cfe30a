"""The structure of a type, and eight bytes that stand for it: the schema fingerprint.

An entry carries the fingerprint of the type that it was stored as. Another one is a miss, so a deployment
that changes a class never reads the old shape as the new.
"""

from __future__ import annotations

import hashlib
import types
import typing
from typing import Any, Final, get_args

import attrs
import msgspec
from msgspec import inspect

from sansio_cache.signals import let_through

FINGERPRINT_BYTES: Final = 8


def fingerprint(type: Any) -> bytes:
    """Eight bytes over the structure of a type, the same in every process.

    Raises:
        TypeError: The type has values that do not come back from JSON as they were.
    """
    outline = _outline(inspect.type_info(type), {})
    text = msgspec.json.encode(["sansio-cache 1", outline], order="sorted")
    return hashlib.sha256(text).digest()[:FINGERPRINT_BYTES]


_SAME: Final = (msgspec.NODEFAULT, list, dict, set, frozenset, tuple, bytearray)
"""Default factories, or none at all, that make the same each time."""


def fills_in(type: Any) -> bool:
    """Whether a field that a payload leaves out may be another one each time that the payload is read.

    That is a default factory, as of an id or of the time of day; not one of an empty list and the like.
    """
    pending, seen = [inspect.type_info(type)], set[int]()
    while pending:
        node: Any = pending.pop()
        if isinstance(node, tuple):
            pending += node
        elif isinstance(node, msgspec.Struct) and id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, inspect.Field) and not any(node.default_factory is each for each in _SAME):
                return True
            pending += (getattr(node, name) for name in node.__struct_fields__)
    return False


def without_none(type: Any) -> Any:
    """A declared type without None: `User | None` is `User`, as None is nothing and is stored as that.

    None that is inside of a value, as in `list[int | None]`, is left.
    """
    origin, members = typing.get_origin(type), typing.get_args(type)
    if origin is typing.Annotated:
        inner = without_none(members[0])
        return type if inner is members[0] else typing.Annotated[(inner, *type.__metadata__)]
    if origin in (typing.Union, types.UnionType):
        some = tuple(each for each in members if each is not types.NoneType)
        return type if len(some) == len(members) else typing.Union[some]  # noqa: UP007 - of a tuple
    return type


def name_of(type: Any) -> str:
    """What a type is called in messages."""
    return str(getattr(type, "__qualname__", type))


_ORM_BASES: Final = frozenset(
    {
        ("django.db.models.base", "Model"),
        ("peewee", "Model"),
        ("tortoise.models", "Model"),
        ("pony.orm.core", "Entity"),
        ("mongoengine.document", "Document"),
    }
)
"""The bases of classes whose objects are rows that know where they come from. SQLAlchemy's have a mapper."""


def mapped_class(type: Any) -> str | None:
    """The name of an ORM's class that a type is, or has among its arguments; None where there is none.

    Such an object belongs to a session, and loads more of itself when it is looked at.
    """
    mro = getattr(type, "__mro__", ())
    if hasattr(type, "__mapper__") or any((each.__module__, each.__name__) in _ORM_BASES for each in mro):
        return name_of(type)
    found = (mapped_class(each) for each in get_args(type))
    return next((name for name in found if name is not None), None)


def mapped_advice(name: str) -> str:
    """What to do about an object of an ORM."""
    return (
        f"{name} is a class of an ORM, whose objects belong to their session: in the loader, make a "
        "dataclass or a dict of the columns, or select the columns and not the object"
    )


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
            raise TypeError(f"{name_of(getattr(node, 'cls', node))} has no faithful JSON form")
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
    except Exception as error:  # noqa: BLE001 - any object may be a default; then its class must do
        let_through(error)
        text = ""
    return [type(field.default).__name__, text]
