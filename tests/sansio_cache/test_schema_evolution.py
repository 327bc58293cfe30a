"""Schema evolution: two versions of a type, each written and read as the kinds of classes that users declare.

`CHANGES` says what may happen to a class between two versions of a program, and each row runs for every kind
of class: the fingerprint changes; without a hook the older entry is a miss; with one it is served as what the
hook makes of it; a hook that fails, or gives back the older shape, is a miss and never an exception (S12).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import types
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.cell import Cell, Kind
from sansio_cache.codec import Codec, codec_for
from sansio_cache.codecs.value_codec import Migration
from sansio_cache.entry import BODY_HEADER_BYTES, MissReason, Servable, Unchecked, Unservable, examine, seal
from support.machines import KEY, THEIRS

MAX_BYTES: Final = 10_000
MISS: Final = Unservable(MissReason.SCHEMA, THEIRS)

Fields = dict[str, Any]
"""Types by the names of fields; a type and a default in a tuple."""


# --- Kinds of classes ---------------------------------------------------------------------------


def split(fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types of fields, and the defaults of those that have one."""
    annotations = {name: what[0] if isinstance(what, tuple) else what for name, what in fields.items()}
    return annotations, {name: what[1] for name, what in fields.items() if isinstance(what, tuple)}


def with_body(name: str, bases: tuple[Any, ...], fields: Fields) -> Any:
    """A class as a class statement would make it."""
    annotations, defaults = split(fields)
    body = {"__module__": __name__, "__annotations__": annotations, **defaults}
    return types.new_class(name, bases, exec_body=lambda namespace: namespace.update(body))


def make_typed_dict(name: str, fields: Fields) -> Any:
    # A TypedDict has no defaults: what has one in other classes may be left out here.
    annotations, defaults = split(fields)
    own = {field: NotRequired[type_] if field in defaults else type_ for field, type_ in annotations.items()}
    return TypedDict(name, own)


KINDS: Final[dict[str, Callable[[str, Fields], Any]]] = {
    "attrs": lambda name, fields: attrs.define(with_body(name, (), fields)),
    "dataclass": lambda name, fields: dataclasses.dataclass(with_body(name, (), fields)),
    "NamedTuple": lambda name, fields: with_body(name, (NamedTuple,), fields),
    "Struct": lambda name, fields: with_body(name, (msgspec.Struct,), fields),
    "TypedDict": make_typed_dict,
}
kinds = pytest.mark.parametrize("kind", KINDS)


class Colour(enum.Enum):
    RED = "red"


# --- Changes ------------------------------------------------------------------------------------


@attrs.frozen
class Change:
    """What happens to a class, what an older program stored, and what a newer one is to make of it."""

    older: Fields
    newer: Fields
    stored: dict[str, Any]
    hook: Callable[[dict[str, Any]], dict[str, Any]]
    served: dict[str, Any]
    is_readable_as_it_is: bool = False
    """Whether the older shape is a value of the newer type, to a hook that says so by giving it back."""
    newer_name: str = "Thing"


def same(older: dict[str, Any]) -> dict[str, Any]:
    return older


CHANGES: Final[dict[str, Change]] = {
    "a field with a default was added": Change(
        {"id": int},
        {"id": int, "email": (str | None, None)},
        {"id": 1},
        lambda older: {**older, "email": "none"},
        {"id": 1, "email": "none"},
        is_readable_as_it_is=True,
    ),
    "a field without a default was added": Change(
        {"id": int},
        {"id": int, "email": str | None},
        {"id": 1},
        lambda older: {**older, "email": None},
        {"id": 1, "email": None},
    ),
    "a field was removed": Change(
        {"id": int, "email": str},
        {"id": int},
        {"id": 1, "email": "a@example.org"},
        lambda older: {"id": older["id"]},
        {"id": 1},
    ),
    "a field was renamed": Change(
        {"id": int, "full_name": str},
        {"id": int, "name": str},
        {"id": 1, "full_name": "Ada"},
        lambda older: {"id": older["id"], "name": older["full_name"]},
        {"id": 1, "name": "Ada"},
    ),
    "a field with a default was renamed": Change(
        {"id": int, "full_name": (str, "")},
        {"id": int, "name": (str, "")},
        {"id": 1, "full_name": "Ada"},
        lambda older: {"id": older["id"], "name": older["full_name"]},
        {"id": 1, "name": "Ada"},
    ),
    "a field was split into two": Change(
        {"name": str},
        {"first": str, "last": str},
        {"name": "Ada Lovelace"},
        lambda older: dict(zip(("first", "last"), older["name"].split(" "), strict=True)),
        {"first": "Ada", "last": "Lovelace"},
    ),
    "a type was widened": Change(
        {"size": int},
        {"size": float | str},
        {"size": 1},
        lambda older: {"size": str(older["size"])},
        {"size": "1"},
        is_readable_as_it_is=True,
    ),
    "a type was narrowed": Change(
        {"size": int | None},
        {"size": int},
        {"size": None},
        lambda older: {"size": older["size"] or 0},
        {"size": 0},
    ),
    "a type was constrained": Change(
        {"size": int},
        {"size": Annotated[int, msgspec.Meta(ge=0)]},
        {"size": -1},
        lambda older: {"size": max(older["size"], 0)},
        {"size": 0},
    ),
    "a type was changed": Change(
        {"id": str},
        {"id": int},
        {"id": "17"},
        lambda older: {"id": int(older["id"])},
        {"id": 17},
    ),
    "a text became a date": Change(
        {"day": str},
        {"day": dt.date},
        {"day": "10.07.2026"},
        lambda older: {"day": dt.date(*map(int, reversed(older["day"].split("."))))},
        {"day": dt.date(2026, 7, 10)},
    ),
    "a unit was changed, and with it the name": Change(
        {"timeout_ms": int},
        {"timeout_s": float},
        {"timeout_ms": 1500},
        lambda older: {"timeout_s": older["timeout_ms"] / 1000},
        {"timeout_s": 1.5},
    ),
    "a field that could be left out is required": Change(
        {"id": int, "note": (str, "")},
        {"id": int, "note": str},
        {"id": 1, "note": "x"},
        lambda older: {**older, "note": older["note"].upper()},
        {"id": 1, "note": "X"},
        is_readable_as_it_is=True,
    ),
    "a required field may be left out": Change(
        {"id": int, "note": str},
        {"id": int, "note": (str, "")},
        {"id": 1, "note": "x"},
        same,
        {"id": 1, "note": "x"},
        is_readable_as_it_is=True,
    ),
    "the items of a list have another type": Change(
        {"tags": list[int]},
        {"tags": list[str]},
        {"tags": [1, 2]},
        lambda older: {"tags": [str(tag) for tag in older["tags"]]},
        {"tags": ["1", "2"]},
    ),
    "a list became a dict": Change(
        {"tags": list[str]},
        {"tags": dict[str, int]},
        {"tags": ["a", "b"]},
        lambda older: {"tags": {tag: place for place, tag in enumerate(older["tags"])}},
        {"tags": {"a": 0, "b": 1}},
    ),
    "a member was added to an enum": Change(
        {"colour": Colour},
        {"colour": enum.Enum("Colour", {"RED": "red", "BLUE": "blue"})},
        {"colour": "red"},
        same,
        {"colour": "red"},
        is_readable_as_it_is=True,
    ),
    "a member of an enum has another value": Change(
        {"colour": Colour},
        {"colour": enum.Enum("Colour", {"RED": "rouge"})},
        {"colour": "red"},
        lambda older: {"colour": {"red": "rouge"}[older["colour"]]},
        {"colour": "rouge"},
    ),
    "the class was renamed": Change(
        {"id": int},
        {"id": int},
        {"id": 1},
        same,
        {"id": 1},
        is_readable_as_it_is=True,
        newer_name="Renamed",
    ),
}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def older_entry(codec: Codec[Any], value: Any) -> Cell:
    """What an older program has left under a key."""
    return entry_of(codec, codec.encode(value).payload)


def entry_of(codec: Codec[Any], payload: bytes) -> Cell:
    return Cell(Kind.VALUE, filled_by=THEIRS, body=seal(KEY, codec, payload, 0))


def build(type_: Any, values: dict[str, Any]) -> Any:
    """A value of a class; what its fields hold is spelled as in JSON, or as it is."""
    hints = type_.__annotations__
    enums = {name: hints[name] for name in values if isinstance(hints.get(name), enum.EnumMeta)}
    return type_(**{**values, **{name: hint(values[name]) for name, hint in enums.items()}})


@attrs.frozen
class Versions:
    """The two versions of a class, in one kind of classes."""

    change: Change
    kind: str

    @property
    def older(self) -> Any:
        return KINDS[self.kind]("Thing", self.change.older)

    @property
    def newer(self) -> Any:
        return KINDS[self.kind](self.change.newer_name, self.change.newer)

    def entry(self, older: Any) -> Cell:
        return older_entry(codec_for(older, MAX_BYTES), build(older, self.change.stored))

    def hook(self, newer: Any, on_fields: Callable[[Any], Any]) -> Migration:
        """A hook on fields, for what this kind of classes looks like in JSON."""
        if self.kind != "NamedTuple":
            return on_fields
        names = tuple(self.change.older)
        return lambda older: build(newer, on_fields(dict(zip(names, older, strict=True))))


@kinds
@changes
def test_a_change_is_a_miss_without_a_hook_and_with_one_what_the_hook_makes(change, kind):
    versions = Versions(change, kind)
    older, newer = versions.older, versions.newer
    cell = versions.entry(older)
    plain = codec_for(newer, MAX_BYTES)
    hooked = codec_for(newer, MAX_BYTES, versions.hook(newer, change.hook))

    assert plain.fingerprint != codec_for(older, MAX_BYTES).fingerprint
    assert examine(cell, KEY, plain, 0) == MISS
    assert examine(cell, KEY, hooked, 0) == Servable(build(newer, change.served), True, cell)
    # The older program goes on with its own, and has no use for what the newer one stores.
    assert isinstance(examine(cell, KEY, codec_for(older, MAX_BYTES), 0), Servable)
    newer_cell = older_entry(plain, build(newer, change.served))
    assert examine(newer_cell, KEY, codec_for(older, MAX_BYTES), 0) == MISS


@kinds
@changes
def test_a_hook_that_gives_back_the_older_shape_is_a_miss_where_that_says_something_else(change, kind):
    """S12."""
    versions = Versions(change, kind)
    newer = versions.newer
    cell = versions.entry(versions.older)
    verdict = examine(cell, KEY, codec_for(newer, MAX_BYTES, versions.hook(newer, same)), 0)
    if not change.is_readable_as_it_is:
        assert verdict == MISS
    else:
        assert verdict == Servable(build(newer, msgspec.to_builtins(change.stored)), True, cell)


def raising(error: BaseException) -> Migration:
    def hook(older: Any) -> Any:
        raise error

    return hook


NO_HOOKS: Final[dict[str, Migration]] = {
    "it raises": raising(ValueError("no")),
    "it looks for what is not there": lambda older: older["nowhere"],
    "it calls itself without end": lambda older: NO_HOOKS["it calls itself without end"](older),
    "it returns nothing": lambda older: None,
    "it returns an empty mapping": lambda older: {},
    "it returns a text": lambda older: "Thing",
    "it returns a class": lambda older: Change,
    "it returns a field too many": lambda older: {**dict.fromkeys("ab"), "id": 1},
    "it returns a set": lambda older: {1},
    "it returns an object": lambda older: object(),
    "it returns what is too large": lambda older: {"id": "x" * MAX_BYTES},
}


@kinds
@changes
@pytest.mark.parametrize("hook", NO_HOOKS.values(), ids=NO_HOOKS)
def test_a_hook_that_fails_or_returns_nonsense_is_a_miss_and_never_an_exception(change, kind, hook):
    """S12."""
    versions = Versions(change, kind)
    cell = versions.entry(versions.older)
    assert examine(cell, KEY, codec_for(versions.newer, MAX_BYTES, hook), 0) == MISS


# --- Classes in classes -------------------------------------------------------------------------


def of(inner: Any, within: str) -> Any:
    return {
        "list": lambda: list[inner],
        "dict": lambda: dict[str, inner],
        "optional": lambda: inner | None,
        "class": lambda: KINDS["dataclass"]("Outer", {"inner": inner}),
    }[within]()


@pytest.mark.parametrize("within", ["list", "dict", "optional", "class"])
@pytest.mark.parametrize("kind", ["attrs", "dataclass", "Struct", "TypedDict"])
def test_a_change_of_a_class_changes_every_type_that_it_is_part_of(kind, within):
    older, newer = KINDS[kind]("Thing", {"x": int}), KINDS[kind]("Thing", {"y": int})
    older_outer, newer_outer = of(older, within), of(newer, within)
    plain, wrap = {
        "list": ([{"x": 1}], lambda thing: [thing]),
        "dict": ({"k": {"x": 1}}, lambda thing: {"k": thing}),
        "optional": ({"x": 1}, lambda thing: thing),
        "class": ({"inner": {"x": 1}}, lambda thing: {"inner": thing}),
    }[within]
    cell = older_entry(codec_for(older_outer, MAX_BYTES), plain)
    hooked = codec_for(newer_outer, MAX_BYTES, lambda older: wrap({"y": 2}))

    assert examine(cell, KEY, codec_for(newer_outer, MAX_BYTES), 0) == MISS
    assert examine(cell, KEY, codec_for(newer_outer, MAX_BYTES, same), 0) == MISS
    verdict = examine(cell, KEY, hooked, 0)
    assert isinstance(verdict, Servable)
    assert verdict.value == codec_for(newer_outer, MAX_BYTES).encode(wrap({"y": 2})).value


def test_the_same_class_in_another_module_is_the_same_schema_and_needs_no_hook():
    here, there = (KINDS["attrs"]("Thing", {"x": int}) for _ in range(2))
    there.__module__ = "elsewhere"
    cell = older_entry(codec_for(here, MAX_BYTES), here(1))
    never = codec_for(there, MAX_BYTES, raising(AssertionError("asked")))
    assert examine(cell, KEY, never, 0) == Servable(there(1), True, cell)


# --- With and without types ---------------------------------------------------------------------

UNTYPED: Final = codec_for(None, MAX_BYTES)
TYPED: Final = codec_for(dict[str, int], MAX_BYTES)


def test_readers_with_and_without_a_type_do_not_read_each_other_unless_a_hook_says_so():
    typed, untyped = (older_entry(codec, {"x": 1}) for codec in (TYPED, UNTYPED))
    assert examine(typed, KEY, UNTYPED, 0) == MISS
    assert examine(untyped, KEY, TYPED, 0) == MISS
    assert examine(typed, KEY, codec_for(None, MAX_BYTES, same), 0) == Servable({"x": 1}, True, typed)
    assert examine(untyped, KEY, codec_for(dict[str, int], MAX_BYTES, same), 0) == Servable(
        {"x": 1}, True, untyped
    )
    unlike = older_entry(UNTYPED, {"x": "1"})
    assert examine(unlike, KEY, codec_for(dict[str, int], MAX_BYTES, same), 0) == MISS


# --- What a hook does not reach -----------------------------------------------------------------


ASKED: Final[list[Any]] = []
HOOKED: Final = codec_for(dict[str, int], MAX_BYTES, lambda older: ASKED.append(older) or older)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (seal("shop:user:2", UNTYPED, b"{}", 0), MissReason.KEY_CHECK),
        (seal(KEY, TYPED, b"[]", 0), MissReason.CORRUPT),
        (seal(KEY, TYPED, b"{", 0), MissReason.CORRUPT),
        (seal(KEY, UNTYPED, b"{}", 0)[: BODY_HEADER_BYTES - 1], MissReason.CORRUPT),
        (
            seal(KEY, UNTYPED, b"{}", 0).replace(b"\x01" + bytes(5) + b"{}", b"\x03" + bytes(5) + b"{}"),
            MissReason.SCHEMA,
        ),
        (seal(KEY, UNTYPED, b"", 0), MissReason.SCHEMA),
        (seal(KEY, UNTYPED, b"{", 0), MissReason.SCHEMA),
        (seal(KEY, UNTYPED, b"[" * 5_000, 0), MissReason.SCHEMA),
        (seal(KEY, UNTYPED, b" " * (MAX_BYTES - 1) + b"{}", 0), MissReason.SCHEMA),
    ],
)
def test_a_hook_is_asked_for_nothing_but_json_of_another_schema_under_the_right_key(body, reason):
    """S9, S12."""
    ASKED.clear()
    assert examine(Cell(Kind.VALUE, filled_by=THEIRS, body=body), KEY, HOOKED, 0) == Unservable(
        reason, THEIRS
    )
    assert ASKED == []


@pytest.mark.parametrize(
    ("soft_ms", "server_ms", "fresh"),
    [(0, None, True), (500, 499, True), (500, 500, False), (500, None, False)],
)
def test_what_a_hook_made_is_as_fresh_as_the_entry_that_it_was_made_from(soft_ms, server_ms, fresh):
    cell = Cell(Kind.VALUE, soft_ms=soft_ms, filled_by=THEIRS, body=seal(KEY, UNTYPED, b'{"x":1}', 0))
    assert examine(cell, KEY, HOOKED, server_ms) == Servable({"x": 1}, fresh, cell)


def test_that_there_is_nothing_needs_no_hook_to_be_known_to_a_newer_version():
    ASKED.clear()
    cell = Cell(Kind.VALUE, filled_by=THEIRS, body=seal(KEY, UNTYPED, None, 0))
    assert examine(cell, KEY, HOOKED, 0) == Servable(None, True, cell, is_absent=True)
    assert ASKED == []


def test_a_hook_is_asked_only_where_the_tags_hold():
    """S7."""
    ASKED.clear()
    old, new = bytes(range(16)), bytes(16)
    body = seal(KEY, UNTYPED, b'{"x":1}', 0, (("t:a", old),))
    cell = Cell(Kind.VALUE, filled_by=THEIRS, body=body)
    assert examine(cell, KEY, HOOKED, 0) == Unchecked(("t:a",))
    assert examine(cell, KEY, HOOKED, 0, (("t:a", new),)) == Unservable(MissReason.TAG, THEIRS)
    assert ASKED == []
    assert examine(cell, KEY, HOOKED, 0, (("t:a", old),)) == Servable({"x": 1}, True, cell)


# --- Properties ---------------------------------------------------------------------------------

names = st.sampled_from("abcd")
leaves = {
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=5),
    bool: st.booleans(),
    int | None: st.none() | st.integers(),
    list[int]: st.lists(st.integers(), max_size=3),
    list[str]: st.lists(st.text(max_size=3), max_size=3),
    dict[str, int]: st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    dt.date: st.dates(),
}
shapes = st.dictionaries(names, st.sampled_from(list(leaves)), min_size=1, max_size=4)
changeable = st.sampled_from(["attrs", "dataclass", "Struct", "TypedDict"])


@given(st.data(), changeable, changeable, shapes, shapes, st.booleans())
@settings(deadline=None, max_examples=200)
def test_two_shapes_never_read_each_other_and_a_hook_that_only_agrees_loses_and_changes_nothing(
    data, kind, newer_kind, older_fields, newer_fields, keeps_names
):
    if keeps_names:
        newer_fields = {name: newer_fields.get(name, type_) for name, type_ in older_fields.items()}
    older, newer = KINDS[kind]("Thing", older_fields), KINDS[newer_kind]("Thing", newer_fields)
    values = {name: data.draw(leaves[type_]) for name, type_ in older_fields.items()}
    writer, reader = codec_for(older, MAX_BYTES), codec_for(newer, MAX_BYTES)
    cell = older_entry(writer, older(**values))
    if reader.fingerprint == writer.fingerprint:
        assert older_fields == newer_fields
        return

    assert examine(cell, KEY, reader, 0) == MISS
    verdict = examine(cell, KEY, codec_for(newer, MAX_BYTES, same), 0)
    if verdict != MISS:
        # Whatever the types are, the fields are the same, and say the same in JSON.
        assert set(older_fields) == set(newer_fields)
        assert msgspec.to_builtins(verdict.value) == msgspec.to_builtins(values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(), inner, max_size=3),
    max_leaves=10,
)
hooks = st.sampled_from(
    [
        same,
        *NO_HOOKS.values(),
        *(change.hook for change in CHANGES.values()),
        lambda older: dict.fromkeys("abcd", older),
        lambda older: {"a": older["a"], "b": older["b"]},
    ]
)


@given(changeable, shapes, hooks, st.binary(max_size=40) | json_values.map(msgspec.json.encode))
@settings(deadline=None, max_examples=300)
def test_any_bytes_under_any_hook_are_a_value_of_the_type_or_a_miss(kind, fields, hook, payload):
    """S12."""
    type_ = KINDS[kind]("Thing", fields)
    codec = codec_for(type_, MAX_BYTES, hook)
    verdict = examine(entry_of(UNTYPED, payload), KEY, codec, 0)
    if verdict != MISS:
        assert isinstance(verdict.value, dict if kind == "TypedDict" else type_)
        assert codec.decode(codec.encode(verdict.value).payload) == verdict.value
