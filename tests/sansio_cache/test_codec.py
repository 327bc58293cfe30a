"""`sansio_cache.codec`: round trip or refuse, S12 decode safety, fingerprints."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import datetime as dt
import enum
import functools
import math
import os
import subprocess
import sys
import types
import uuid
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sansio_cache import roundtrip
from sansio_cache.codec import UNTYPED_FINGERPRINT, Codec, codec_for
from sansio_cache.codecs import Undecodable
from sansio_cache.codecs import json as module
from sansio_cache.errors import ConfigurationError, SerializationError

T = TypeVar("T")
MAX_BYTES = 100_000
MOMENT = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
UNTYPED = codec_for(None, MAX_BYTES)


class Status(enum.Enum):
    ACTIVE = "active"
    GONE = "gone"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Number(enum.Enum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


@attrs.define
class User:
    id: int
    name: str
    email: str | None = None
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Admin(User):
    pass


@attrs.define(eq=False)
class NeverEqual:
    x: int


@attrs.define
class Skips:
    x: int
    seen: Any = attrs.field(default=None, eq=False)


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    price: Decimal
    at: dt.datetime
    status: Status
    _secret: bytes = b""
    pair: tuple[int, str] = (0, "")
    colours: frozenset[str] = frozenset()
    level: Level | None = None


class Row(TypedDict):
    a: int
    b: NotRequired[str]


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Circle(msgspec.Struct, tag=True, rename="camel"):
    outer_radius: float
    note: str | msgspec.UnsetType = msgspec.UNSET


class Square(msgspec.Struct, tag=True):
    side: float


class Plain(msgspec.Struct, frozen=True):
    x: int


@attrs.frozen(kw_only=True)
class Frozen:
    x: int
    y: str = ""


@attrs.define
class Counts:
    x: int

    def __attrs_post_init__(self) -> None:
        self.x += 1


@attrs.define
class Tree:
    label: str
    children: list[Tree] = attrs.field(factory=list)


@attrs.define
class Box(Generic[T]):
    item: T


@attrs.define
class Private:
    x: int
    _hidden: int = 0


@attrs.define
class PrivateBox(Generic[T]):
    _item: T


@dataclasses.dataclass
class NestsPrivate:
    inner: dict[str, list[Private | None]]


class FromNowhere(TypedDict):
    x: Nowhere  # noqa: F821


@dataclasses.dataclass
class Explodes:
    with_: str

    def __post_init__(self) -> None:
        if self.with_ == "memory":
            raise MemoryError
        if self.with_ != "":
            raise ZeroDivisionError


class LoudList(list):
    def __repr__(self) -> str:
        return f"LoudList({super().__repr__()})"


class LoudDict(dict):
    def __repr__(self) -> str:
        return f"LoudDict({super().__repr__()})"


class SubStr(str):
    pass


def codec(type: Any, max_value_bytes: int = MAX_BYTES) -> Codec[Any]:
    return codec_for(type, max_value_bytes)


def round_trip(type: Any, value: Any) -> Any:
    encoded = codec(type).encode(value)
    assert codec(type).decode(encoded.payload) == encoded.value
    return encoded.value


def refusal(type: Any, value: Any) -> str:
    with pytest.raises(SerializationError) as info:
        codec(type).encode(value)
    return str(info.value)


def configuration_error(type: Any) -> str:
    with pytest.raises(ConfigurationError) as info:
        codec(type)
    return str(info.value)


def reason(codec: Codec[Any], payload: bytes | memoryview) -> str:
    with pytest.raises(Undecodable) as info:
        codec.decode(payload)
    assert info.value.__context__ is None
    return info.value.reason


# --- Without a type ---------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
@settings(deadline=None)
def test_every_plain_json_value_comes_back_equal_and_of_the_same_classes(value):
    encoded = UNTYPED.encode(value)
    assert repr(encoded.value) == repr(value)  # tells 1 from 1.0 from True, and -0.0 from 0.0
    assert repr(UNTYPED.decode(encoded.payload)) == repr(value)
    assert repr(UNTYPED.decode(memoryview(encoded.payload))) == repr(value)


nasty_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=3)  # with lone surrogates
    | st.binary(max_size=3)
    | st.decimals()
    | st.datetimes()
    | st.sampled_from([*Status, *Level, *Word, *Number, object(), 1j, SubStr("a")])
    | st.just(5000).map(lambda digits: 10**digits)
)
hashable_scalars = nasty_scalars.filter(lambda s: not (isinstance(s, Decimal) and s.is_snan()))
nasty_values = st.recursive(
    nasty_scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(LoudList)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(st.integers() | st.text(max_size=2), max_size=2)
        | st.dictionaries(hashable_scalars, inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3).map(LoudDict)
        | st.builds(NeverEqual, inner)
        | st.builds(Square, inner)
    ),
    max_leaves=6,
)


@given(nasty_values)
@settings(deadline=None)
def test_untyped_any_python_value_comes_back_as_it_was_or_is_refused(value):
    try:
        encoded = UNTYPED.encode(value)
    except SerializationError:
        return
    assert repr(encoded.value) == repr(value)


def leaves_of(value):
    """What is in a value that is no container, keys included."""
    if isinstance(value, dict):
        yield from leaves_of([*value, *value.values()])
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from leaves_of(each)
    else:
        yield value


@given(st.data())
@settings(deadline=None)
def test_what_is_the_same_at_a_glance_is_the_same_part_by_part(data):
    one = data.draw(nasty_values | json_values)
    back = data.draw(st.just(copy.deepcopy(one)) | nasty_values | json_values)
    # What comes back from JSON is none.
    assume(not any(isinstance(each, float) and math.isnan(each) for each in leaves_of(back)))
    if module._is_same(one, back):
        assert roundtrip.change(one, back, exact=True) is None


def test_plain_values_are_compared_at_a_glance(monkeypatch):
    monkeypatch.delattr(module, "change")
    for value in (None, True, 1, -0.0, "x", [1, 1.0, [True, None]], {"a": {"b": ["x"] * 3}}):
        assert repr(UNTYPED.encode(value).value) == repr(value)


@given(nasty_values)
@settings(deadline=None)
def test_at_an_any_inside_a_type_a_value_comes_back_equal_or_is_refused(value):
    try:
        encoded = codec(dict[str, Any]).encode({"key": value})
    except SerializationError:
        return
    assert encoded.value == {"key": value}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, (2,)]}, "value['a'][1] is a tuple and would come back as a list; give type="),
        ({1: "x"}, "value key 1 is an int and would come back as a str"),
        ({1: "x", "1": "y"}, "value[1] would be dropped"),
        ({Word.A: 1}, "value key <Word.A: 'a'> is a Word"),
        ([math.nan], "value[0] is a float and would come back as None"),
        ([-math.inf], "value[0] is a float"),
        ({1, 2}, "value is a set"),
        (MOMENT, "value is a datetime"),
        (Level.LOW, "value is a Level"),
        (Word.A, "value is a Word"),
        (User(1, "x"), "value is a User and would come back as a dict"),
        (collections.OrderedDict(a=1), "value is an OrderedDict"),
        (types.MappingProxyType({"a": 1}), "value is a mappingproxy"),
        (SubStr("a"), "value cannot be stored: a SubStr has no JSON form"),
        (1j, "value cannot be stored: a complex has no JSON form"),
        ("\ud800", "surrogates not allowed"),
        pytest.param(10**5000, "Exceeds the limit", id="huge int"),
    ],
)
def test_an_untyped_refusal_says_where_what_and_to_pass_a_type(value, place):
    message = refusal(None, value)
    assert place in message
    assert "pass type=" in message or "; give type=" in message or "; give codecs={None: PYTHON}" in message


def test_a_value_that_contains_itself_or_is_nested_without_measure_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    assert "recursion" in refusal(None, loop)
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    assert "recursion" in refusal(None, deep)


def test_messages_quote_no_values_and_only_the_beginning_of_keys():
    message = refusal(None, {"k" * 10_000: ("hunter2",)})
    assert "hunter2" not in message
    assert len(message) < 500


def test_what_comes_back_shares_nothing_with_what_was_given():
    value = {"list": [1]}
    encoded = UNTYPED.encode(value)
    value["list"].append(2)
    assert encoded.value == {"list": [1]}


def test_any_is_untyped():
    assert codec(Any) == UNTYPED


# --- With a type ------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.none() | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
moments = st.datetimes(timezones=offsets).map(lambda moment: moment.replace(fold=0))
users = st.builds(User, st.integers(), st.text(), st.none() | st.text(), st.lists(st.text()))
orders = st.builds(
    Order,
    st.uuids(),
    st.decimals(allow_nan=False),
    moments,
    st.sampled_from(Status),
    st.binary(),
    st.tuples(st.integers(), st.text()),
    st.frozensets(st.text()),
    st.none() | st.sampled_from(Level),
)
trees = st.recursive(st.builds(Tree, st.text()), lambda inner: st.builds(Tree, st.text(), st.lists(inner)))
typed_values: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: finite,
    bool: st.booleans(),
    type(None): st.none(),
    bytes: st.binary(),
    bytearray: st.binary().map(bytearray),
    memoryview: st.binary().map(memoryview),
    dt.datetime: moments,
    dt.date: st.dates(),
    dt.time: st.times().map(lambda time: time.replace(fold=0)),
    dt.timedelta: st.timedeltas(),
    Decimal: st.decimals(allow_nan=False),
    User: users,
    Order: orders,
    Tree: trees,
    Row: st.fixed_dictionaries({"a": st.integers()}, optional={"b": st.text()}),
    Point: st.builds(Point, finite, finite),
    Circle | Square: st.builds(Circle, finite, st.just(msgspec.UNSET) | st.text())
    | st.builds(Square, finite),
    Plain: st.builds(Plain, st.integers()),
    Frozen: st.builds(Frozen, x=st.integers(), y=st.text()),
    Box[int]: st.builds(Box, st.integers()),
    list[User]: st.lists(users),
    User | None: st.none() | users,
    dict[int, User]: st.dictionaries(st.integers(), users),
    dict[uuid.UUID, float]: st.dictionaries(st.uuids(), finite),
    set[int]: st.sets(st.integers()),
    tuple[int, ...]: st.lists(st.integers()).map(tuple),
    Literal["a", 1] | None: st.sampled_from(["a", 1, None]),
    dict[str, Any]: st.dictionaries(st.text(), json_values),
}


@given(st.data())
@settings(deadline=None)
def test_every_value_of_a_declared_type_comes_back_equal(data):
    type_, values = data.draw(st.sampled_from(list(typed_values.items())))
    value = data.draw(values)
    back = round_trip(type_, value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("type_", "value", "back"),
    [
        (User, {"id": 1, "name": "x"}, User(1, "x")),
        (User, types.MappingProxyType({"id": 1, "name": "x"}), User(1, "x")),
        (list[User], [{"id": 1, "name": "x"}, User(2, "y")], [User(1, "x"), User(2, "y")]),
        (Circle | Square, {"type": "Circle", "outerRadius": 1}, Circle(1.0)),
        (Plain, {"x": 1}, Plain(1)),
        (Frozen, {"x": 1}, Frozen(x=1)),
        (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Point, (1, 2), Point(1.0, 2.0)),
        (float, 2**53, float(2**53)),
        (int, Level.HIGH, 2),
        (str, Word.A, "a"),
        (Status, "active", Status.ACTIVE),
        (Number, 1, Number.ONE),
        (Decimal, 5, Decimal(5)),
        (dt.datetime, "2020-01-01T00:00:00+00:00", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        (dict[uuid.UUID, int], {str(uuid.UUID(int=1)): 1}, {uuid.UUID(int=1): 1}),
        (set[int], frozenset({1}), {1}),
        (bytes, bytearray(b"a"), b"a"),
    ],
)
def test_a_part_of_another_class_is_converted_when_the_type_asks_for_it(type_, value, back):
    converted = round_trip(type_, value)
    assert converted == back
    assert type(converted) is type(back)


@pytest.mark.parametrize(
    ("type_", "value", "place"),
    [
        (User, {"id": 1, "name": "x", "nmae": "y"}, "value.nmae would be dropped"),
        (User, {"id": 1}, "missing required field `name`"),
        (User, User("1", "x"), "Expected `int`, got `str`"),
        (User, Admin(1, "x"), "value is an Admin and would come back as a User"),
        (list[User], [User(1, "x"), Admin(1, "x")], "value[1] is an Admin"),
        (Row, {"a": 1, "c": "2"}, "value['c'] would be dropped"),
        (Point, [1.0], "value is a list and would come back as a Point"),
        (float, math.nan, "JSON has no NaN"),
        (float | None, math.inf, "value is a float and would come back as None"),
        (dict[float, int], {math.nan: 1}, "value key nan would come back changed"),
        (float, 2**53 + 1, "value is an int and would come back as a float"),
        (Decimal, 0.5 + 2**-53, "value is a float"),
        (Decimal, Decimal("NaN"), "value would come back changed"),
        (Decimal, Decimal("sNaN"), "cannot be stored"),
        (bytes, "abcd", "value is a str and would come back as a bytes"),
        (str, Status.ACTIVE, "value is a Status"),
        (str, uuid.UUID(int=1), "value is a UUID"),
        (Status, Word.A, "Invalid enum value. "),
        (list[int], (1,), "value is a tuple and would come back as a list"),
        (set[int], [1], "value is a list and would come back as a set"),
        (dict[int, str], {"1": "a"}, "value key '1' is a str"),
        (dict[int | str, str], {1: "a"}, "value key 1 is an int"),
        (dict[str, Any], {"a": User(1, "x")}, "value['a'] is a User"),
        (dict[str, Any], {"a": Skips(1)}, "value['a'] is a Skips"),
        (Skips, Skips(1, (2,)), "value.seen is a tuple"),
        (Counts, Counts(1), "value.x would come back changed"),
        (int, "1", "Expected `int`, got `str`"),
    ],
)
def test_a_typed_value_that_would_come_back_different_is_refused_by_its_place(type_, value, place):
    message = refusal(type_, value)
    assert place in message
    assert "declared type" in message


@dataclasses.dataclass
class Numbered:
    number: int
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    notes: list[str] = dataclasses.field(default_factory=list)


@attrs.define
class Numbering:
    first: Numbered
    rest: dict[str, list[Numbered]] = attrs.field(factory=dict)


class NumberedStruct(msgspec.Struct):
    number: int
    token: uuid.UUID = msgspec.field(default_factory=uuid.uuid4)


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        (Numbered, {"number": 7}),
        (NumberedStruct, {"number": 7}),
        (list[Numbered], [{"number": 7}, Numbered(8)]),
        (Numbered | None, {"number": 7}),
        (Numbering, {"first": {"number": 7}}),
        (Numbering, Numbering(Numbered(7), {"a": [{"number": 8}]})),
        (Numbered, collections.namedtuple("Row", "number")(7)),  # noqa: PYI024
    ],
)
def test_what_a_mapping_leaves_out_is_filled_in_once_and_not_at_each_read(type_, given):
    """A default factory makes another value each time: an id, or the time of day."""
    found = codec(type_)
    encoded = found.encode(given)
    for _ in range(3):
        assert found.decode(encoded.payload) == encoded.value


def test_what_is_filled_in_counts_to_the_size_of_a_value():
    with pytest.raises(SerializationError, match="is larger than max_value_bytes=40"):
        codec(Numbered, 40).encode({"number": 7})
    assert codec(Numbered, 80).encode({"number": 7}).value.number == 7


@pytest.mark.parametrize(
    ("type_", "fills_in"),
    [
        (Numbering, True),
        (list[Numbered], True),
        (tuple[int, NumberedStruct], True),
        (int | dict[str, Numbered], True),
        (Tree, False),
        (list[int], False),
    ],
)
def test_only_types_with_factories_of_their_own_are_written_twice(type_, fills_in):
    assert module.JsonCodec(type_).fills_in is fills_in
    assert not module.JsonCodec().fills_in


def test_objects_are_compared_by_their_fields_not_by_their_own_equality():
    assert round_trip_fields(NeverEqual, NeverEqual(1)) == {"x": 1}
    assert round_trip_fields(Skips, Skips(1, [2])) == {"x": 1, "seen": [2]}


def round_trip_fields(type_: Any, value: Any) -> dict[str, Any]:
    return attrs.asdict(codec(type_).encode(value).value)


def test_underscore_fields_of_a_dataclass_are_kept():
    order = Order(uuid.UUID(int=1), Decimal("1.10"), MOMENT, Status.GONE, b"\xff")
    back = round_trip(Order, order)
    assert back == order
    assert str(back.price) == "1.10"


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("fold", [0, 1])
def test_a_named_zone_comes_back_as_its_offset_even_in_the_repeated_hour(fold):
    given_ = dt.datetime(2020, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold)
    back = codec(dt.datetime).encode(given_).value
    assert back.replace(tzinfo=None) == given_.replace(tzinfo=None, fold=0)
    assert back.utcoffset() == given_.utcoffset()


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (dt.datetime, dt.datetime(2020, 10, 25, 2, 30, fold=1)),  # noqa: DTZ001
        (dt.datetime, dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=3661)))),
        (dt.time, dt.time(1, 2, tzinfo=BERLIN)),
        (dt.time, dt.time(1, 2, fold=1)),
    ],
)
def test_a_time_that_would_lose_fold_zone_or_seconds_of_offset_is_refused(type_, value):
    assert "value would come back changed" in refusal(type_, value)


def test_a_larger_value_is_refused_with_both_sizes():
    small = codec(str, 5)
    assert small.encode("abc").payload == b'"abc"'
    with pytest.raises(SerializationError, match=r"6 bytes is larger than max_value_bytes=5"):
        small.encode("abcd")


def test_running_out_of_memory_is_nobodys_refusal_and_nobodys_miss():
    with pytest.raises(MemoryError):
        codec(Explodes).encode({"with_": "memory"})
    with pytest.raises(MemoryError):
        codec(Explodes).decode(b'{"with_":"memory"}')


# --- Decode safety (S12) ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "payload", "why"),
    [
        (None, b"", "corrupt"),
        (None, b"[1,", "corrupt"),
        (None, b"[1]x", "corrupt"),
        (None, b"NaN", "corrupt"),
        (None, b'"\xff"', "corrupt"),
        (None, b'"\xed\xa0\x80"', "corrupt"),
        (None, b'"\\ud800"', "corrupt"),
        (None, b"[" * 50_000, "corrupt"),
        (None, b'{"a":' * 10_000, "corrupt"),
        (Row, b'{"ignored":' + b"[" * 50_000, "corrupt"),
        (None, b" " * (MAX_BYTES + 1), "too large"),
        (None, b"1e400", "schema"),
        (None, b"1" * 5000, "schema"),
        (int, b"1.5", "schema"),
        (int, b"true", "schema"),
        (User, b"null", "schema"),
        (User, b'{"id":1}', "schema"),
        (Decimal, b'"1e99999999999999999999"', "schema"),
        (set[Any], b"[[1]]", "schema"),
        (Explodes, b'{"with_":"zero"}', "schema"),
    ],
)
def test_a_payload_that_is_no_value_of_the_type_is_undecodable(type_, payload, why):
    assert reason(codec(type_), payload) == why
    assert reason(codec(type_), memoryview(payload)) == why


IS_OF_TYPE: dict[Any, Any] = {
    None: lambda v: v is None or type(v) in (bool, int, float, str, list, dict),
    User: lambda v: type(v) is User and type(v.id) is int and type(v.name) is str,
    Order: lambda v: type(v) is Order and type(v.id) is uuid.UUID and type(v.pair[0]) is int,
    Tree: lambda v: type(v) is Tree and all(type(child) is Tree for child in v.children),
    Row: lambda v: type(v) is dict and type(v["a"]) is int and set(v) <= {"a", "b"},
    Circle | Square: lambda v: type(v) in (Circle, Square),
    list[int]: lambda v: type(v) is list and all(type(i) is int for i in v),
    dict[int, bytes]: lambda v: all(type(k) is int and type(b) is bytes for k, b in v.items()),
}
S12_EXAMPLES = [
    codec(type_).encode(value).payload
    for type_, value in (
        (User, User(1, "x", None, ["t"])),
        (Order, Order(uuid.UUID(int=1), Decimal(1), MOMENT, Status.GONE)),
        (Tree, Tree("a", [Tree("b")])),
        (Row, {"a": 1, "b": "x"}),
        (Circle, Circle(1.0)),
        (list[int], [1, 2, 3]),
        (dict[int, bytes], {1: b"abc"}),
    )
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    payload = bytearray(draw(st.sampled_from(S12_EXAMPLES)))
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(payload))] * 2)))
        payload[start:end] = draw(st.binary(max_size=3) | st.sampled_from([b"null", b"1e9", b"[]"]))
    return bytes(payload)


@given(
    st.sampled_from(list(IS_OF_TYPE)),
    st.binary() | damaged() | json_values.map(msgspec.json.encode),
)
@settings(deadline=None, max_examples=300)
def test_s12_decode_returns_a_value_of_the_type_or_raises_undecodable(type_, payload):
    try:
        value = codec(type_).decode(payload)
    except Undecodable:
        return
    assert IS_OF_TYPE[type_](value)


# --- Migration: the hook that reads payloads of other fingerprints ------------------------------
# What it is for, and every kind of change to a class: test_schema_evolution.py.


def from_older(older: Any) -> Any:
    """The hook of a `User` that was once ``{"id": ..., "full_name": ...}``."""
    return {"id": older["id"], "name": older["full_name"]}


OLDER_USER = b'{"id":1,"full_name":"Ada"}'
MIGRATING = codec_for(User, MAX_BYTES, from_older)


def migrating(type: Any, hook: Any, max_value_bytes: int = MAX_BYTES) -> Codec[Any]:
    return codec_for(type, max_value_bytes, hook)


def migration_refusal(codec: Codec[Any], payload: bytes | memoryview) -> str:
    with pytest.raises(Undecodable) as info:
        codec.migrate(payload)
    assert info.value.__context__ is None
    return info.value.reason


def test_a_hook_gets_plain_json_values_and_returns_a_mapping_or_a_value_of_the_type():
    assert MIGRATING.migrate(OLDER_USER) == User(1, "Ada")
    assert MIGRATING.migrate(memoryview(OLDER_USER)) == User(1, "Ada")
    by_value = migrating(User, lambda older: User(older["id"], older["full_name"], tags=["old"]))
    assert by_value.migrate(OLDER_USER) == User(1, "Ada", None, ["old"])
    seen: list[Any] = []
    payload = b'[null,true,1,1.5,"a",{"k":[]}]'
    assert migrating(list[Any], lambda older: seen.append(older) or older).migrate(payload) == seen[0]
    assert repr(seen) == "[[None, True, 1, 1.5, 'a', {'k': []}]]"


def test_without_a_hook_nothing_is_migrated_and_nothing_is_decoded():
    assert migration_refusal(codec(User), OLDER_USER) == "schema"
    assert migration_refusal(codec(User), b"garbage") == "schema"


def test_a_hook_changes_neither_what_is_stored_nor_what_is_read_as_the_type_itself():
    encoded = MIGRATING.encode(User(1, "x"))
    assert encoded.payload == codec(User).encode(User(1, "x")).payload
    assert MIGRATING.decode(encoded.payload) == User(1, "x")
    assert reason(MIGRATING, OLDER_USER) == "schema"
    assert MIGRATING.fingerprint == codec(User).fingerprint


def failing(error: BaseException) -> Any:
    def hook(older: Any) -> Any:
        raise error

    return hook


def recurse(older: Any) -> Any:
    return recurse([older])


class Hostile:
    """A result whose every look is an error."""

    @property
    def __dict__(self) -> Any:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None


def loop() -> list[Any]:
    looped: list[Any] = []
    looped.append(looped)
    return looped


@pytest.mark.parametrize(
    ("type_", "hook"),
    [
        (User, failing(KeyError("full_name"))),
        (User, failing(Undecodable("too large"))),
        (User, failing(SerializationError("no"))),
        (User, failing(StopIteration())),
        (User, failing(AssertionError())),
        (User, recurse),
        (User, lambda: None),
        (User, lambda older: older),
        (User, lambda older: None),
        (User, lambda older: {}),
        (User, lambda older: [1, "Ada"]),
        (User, lambda older: "Ada"),
        (User, lambda older: User),
        (User, lambda older: object()),
        (User, lambda older: Hostile()),
        (User, lambda older: loop()),
        (User, lambda older: {"id": "1", "name": "Ada"}),
        (User, lambda older: User("1", "Ada")),
        (User, lambda older: {"id": 1, "name": None}),
        (User, lambda older: from_older(older) | {"age": 3}),
        (User, lambda older: Admin(1, "Ada")),
        (User, lambda older: {"id": 1, "name": "A" * MAX_BYTES}),
        (User, lambda older: (part for part in older)),
        (Counts, lambda older: {"x": 1}),
        (Explodes, lambda older: {"with_": "zero"}),
        (float, lambda older: math.nan),
        (float, lambda older: 2**53 + 1),
        (list[int], lambda older: (1,)),
        (set[int], lambda older: [1]),
        (bytes, lambda older: "YWJj"),
        (dict[int, str], lambda older: {"1": "a"}),
        (None, lambda older: (1,)),
        (None, lambda older: User(1, "x")),
        (None, lambda older: {1: "a"}),
    ],
)
def test_a_hook_that_fails_or_returns_what_set_would_refuse_makes_an_undecodable_payload(type_, hook):
    """S12."""
    assert migration_refusal(migrating(type_, hook), OLDER_USER) == "schema"


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "corrupt"),
        (b"[1,", "corrupt"),
        (b"NaN", "corrupt"),
        (b'"\xff"', "corrupt"),
        (b"[" * 50_000, "corrupt"),
        (b'{"a":' * 10_000, "corrupt"),
        (b"\x80\x04\x95pickle.", "corrupt"),
        (b" " * (MAX_BYTES + 1), "too large"),
        (b"1e400", "schema"),
        (b"1" * 5000, "schema"),
    ],
)
def test_a_payload_that_is_no_json_never_reaches_the_hook(payload, why):
    """S12."""
    seen: list[Any] = []
    watched = migrating(None, seen.append)
    assert migration_refusal(watched, payload) == why
    assert migration_refusal(watched, memoryview(payload)) == why
    assert seen == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_what_is_nobodys_miss_passes_through_a_migration(error):
    with pytest.raises(type(error)) as info:
        migrating(User, failing(error)).migrate(OLDER_USER)
    assert info.value is error


def test_s12_a_hook_that_makes_more_of_a_hostile_number_than_fits_into_memory_is_a_miss():
    assert migration_refusal(migrating(str, lambda older: "x" * older), b"1" + b"0" * 18) == "schema"


def test_a_result_that_is_larger_than_the_limit_is_not_served_though_the_payload_was_not():
    assert migrating(str, str.upper, 5).migrate(b'"abc"') == "ABC"
    assert migration_refusal(migrating(str, lambda older: older * 2, 5), b'"abc"') == "schema"


def test_what_a_migration_gives_shares_nothing_with_what_the_hook_keeps_or_was_given():
    kept = User(1, "Ada", tags=["kept"])
    given: list[Any] = []

    def hook(older: Any) -> Any:
        given.append(older)
        return kept if older is None else older

    first, second = (migrating(User, hook).migrate(b"null") for _ in range(2))
    first.tags.append("mine")
    assert (second.tags, kept.tags) == (["kept"], ["kept"])
    nested = migrating(dict[str, list[int]], hook).migrate(b'{"a":[1]}')
    nested["a"].append(2)
    assert given[-1] == {"a": [1]}


HOOKS: list[Any] = [
    lambda older: older,
    lambda older: older["a"],
    lambda older: dict(older),
    lambda older: {**older, "id": 1, "name": "x"},
    lambda older: [older],
    lambda older: User(**older),
    lambda older: Order(**older),
    lambda older: Tree(str(older), [Tree("inner")]),
    lambda older: {"label": "x", "children": older},
    lambda older: {key: bytes(value) for key, value in older.items()},
    lambda older: 1 / older,
]


@given(
    st.sampled_from(list(IS_OF_TYPE)),
    st.sampled_from(HOOKS),
    st.binary() | damaged() | json_values.map(msgspec.json.encode),
)
@settings(deadline=None, max_examples=300)
def test_s12_a_migration_returns_a_value_of_the_type_or_raises_undecodable(type_, hook, payload):
    try:
        value = migrating(type_, hook).migrate(payload)
    except Undecodable:
        return
    assert IS_OF_TYPE[type_](value)
    assert codec(type_).encode(value).value == value


def looks(value: Any) -> str:
    """What a value looks like; two views of equal bytes look the same, wherever they are kept."""
    return f"view of {bytes(value)!r}" if isinstance(value, memoryview) else repr(value)


@given(st.sampled_from([None, *typed_values]), nasty_values)
@example(memoryview, b"seen")
@settings(deadline=None, max_examples=300)
def test_whatever_a_hook_returns_is_served_as_a_caller_of_set_would_get_it_back(type_, result):
    hooked = migrating(type_, lambda older: result)
    encoded = None
    with contextlib.suppress(SerializationError):
        encoded = codec(type_).encode(result)
    if encoded is None:
        assert migration_refusal(hooked, b"null") == "schema"
    else:
        assert looks(hooked.migrate(b"null")) == looks(encoded.value)


@given(st.data())
@settings(deadline=None)
def test_a_hook_that_gives_back_what_it_got_changes_no_value_that_it_is_trusted_with(data):
    """The plain form of a value is served as that value, or not at all (bytes, sets, int keys)."""
    type_, values = data.draw(st.sampled_from(list(typed_values.items())))
    value = data.draw(values)
    try:
        back = migrating(type_, lambda older: older).migrate(codec(type_).encode(value).payload)
    except Undecodable:
        return
    assert back == value
    assert type(back) is type(value)


# --- Types that cannot be kept ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        (Private, "private fields of attrs classes, here Private._hidden"),
        (NestsPrivate, "Private._hidden"),
        (PrivateBox[int], "PrivateBox._item"),
        (User | Tree, "more than one dataclass or attrs type"),
        (list[User | Tree], "more than one dataclass or attrs type"),
        (list[int] | set[int], "more than one array-like"),
        (complex, "complex has no faithful JSON form"),
        (object, "object has no faithful JSON form"),
        (dict[str, list[range | None]], "range has no faithful JSON form"),
        (msgspec.Raw, "no faithful JSON form"),
        (msgspec.msgpack.Ext, "no faithful JSON form"),
        (dict[tuple[int, int], str], "TupleType cannot be a key"),
        (dict[User, str], "DataclassType cannot be a key"),
        (FromNowhere, "name 'Nowhere' is not defined"),
        ("User", "'User'"),
        (1, "1"),
    ],
)
def test_a_type_that_cannot_be_kept_is_refused_by_name(type_, why):
    message = configuration_error(type_)
    assert why in message
    assert message.startswith("type=")


# --- Identity and fingerprint -----------------------------------------------------------------


def test_codecs_of_one_type_and_limit_are_one_value():
    assert codec(list[User]) is codec(list[User])
    assert codec(list[User], 10) != codec(list[User])
    assert {codec(list[User]): 1}[codec(list[User])] == 1
    unhashable = Annotated[int, []]
    assert codec(unhashable) is not codec(unhashable)
    assert codec(unhashable) == codec(unhashable)
    assert hash(codec(unhashable)) == hash(codec(unhashable))


def test_a_hook_is_part_of_what_a_codec_is():
    assert migrating(User, from_older) is MIGRATING
    assert codec(User) != MIGRATING
    assert migrating(User, lambda older: older) != MIGRATING
    assert len({MIGRATING, codec(User), migrating(User, from_older)}) == 2
    assert codec(Any) == UNTYPED != migrating(Any, from_older) == migrating(None, from_older)


@attrs.define
class Adding:
    """A hook that can neither be hashed nor compared."""

    amount: int

    def __call__(self, older: Any) -> Any:
        return older + self.amount

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None


def test_a_hook_may_be_any_callable_and_is_known_by_identity():
    hook = Adding(2)
    assert migrating(int, hook).migrate(b"1") == 3
    assert migrating(int, hook) == migrating(int, hook)
    assert hash(migrating(int, hook)) == hash(migrating(int, hook))
    assert migrating(int, hook) != migrating(int, Adding(2))
    assert migrating(Annotated[int, []], hook).migrate(b"1") == 3


def test_the_repr_of_a_codec_does_not_show_its_hook():
    assert "hunter2" not in repr(migrating(str, functools.partial(str.join, "hunter2")))


def test_encoded_values_are_told_apart_by_their_payload():
    assert UNTYPED.encode([1]) == UNTYPED.encode([1])
    assert hash(UNTYPED.encode([1])) == hash(UNTYPED.encode([1]))
    assert UNTYPED.encode([1]) != UNTYPED.encode([True])


def test_the_repr_of_a_codec_shows_the_fingerprint_in_hex():
    assert f"fingerprint={UNTYPED_FINGERPRINT.hex()}" in repr(UNTYPED)


def test_the_untyped_fingerprint_is_all_zeros():
    assert UNTYPED.fingerprint == bytes(8) == UNTYPED_FINGERPRINT


def make(name: str = "Thing", doc: str = "", **fields: Any) -> Any:
    """An attrs class from `name=type` or `name=(type, default)`."""
    made = {}
    annotations = {}
    for field, what in fields.items():
        annotations[field] = what[0] if isinstance(what, tuple) else what
        made[field] = attrs.field(default=what[1]) if isinstance(what, tuple) else attrs.field()
    return attrs.define(type(name, (), {"__doc__": doc, "__annotations__": annotations, **made}))


DIFFERENT = [
    int,
    float,
    str,
    bytes,
    bool,
    list[int],
    list[bool],
    set[int],
    frozenset[int],
    tuple[int, ...],
    tuple[int],
    tuple[int, int],
    dict[str, int],
    dict[int, int],
    list[Any],
    int | None,
    int | str,
    Literal[1],
    Literal["1"],
    Literal[1, 2],
    Status,
    enum.Enum("Status", {"ACTIVE": "active"}),
    enum.Enum("Status", {"AKTIV": "active", "GONE": "gone"}),
    dt.datetime,
    Annotated[dt.datetime, msgspec.Meta(tz=True)],
    Annotated[int, msgspec.Meta(gt=1)],
    Annotated[int, msgspec.Meta(ge=1)],
    make(x=int),
    make("Other", x=int),
    make(y=int),
    make(x=str),
    make(x=int, description=str),
    make(x=int, title=str),
    make(x=(int, 1)),
    make(x=(int, 2)),
    make(x=(int, True)),
    make(x=(int, attrs.Factory(int))),
    make(x=(Any, object())),
    make(x=int, y=int),
    make(y=int, x=int),
    make(x=int, y=(int | None, None)),
    Row,
    Point,
    Circle,
    Square,
    Circle | Square,
    msgspec.defstruct("Thing", [("x", int)]),
    msgspec.defstruct("Thing", [("x", int)], rename="upper"),
    msgspec.defstruct("Thing", [("x", int)], array_like=True),
    msgspec.defstruct("Thing", [("x", int)], forbid_unknown_fields=True),
    Tree,
    Box[int],
    Box[str],
]


def test_types_of_different_structure_have_different_fingerprints():
    fingerprints = collections.Counter(codec(type_).fingerprint for type_ in DIFFERENT)
    assert max(fingerprints.values()) == 1
    assert all(len(fingerprint) == 8 for fingerprint in fingerprints)
    assert UNTYPED_FINGERPRINT not in fingerprints


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (make(x=int), make(x=int)),
        (make(x=int), make(doc="Says more.", x=int)),
        (make(x=int), make(x=Annotated[int, msgspec.Meta(description="Says more.", title="X")])),
        (make(x=int), make(x=NewType("Id", int))),
        (
            make(x=(list[int], attrs.Factory(list))),
            make(x=(list[int], attrs.Factory(lambda: [1]))),
        ),
        (make(x=(Any, object())), make(x=(Any, object()))),
        (Union[int, str, None], Union[None, str, int]),  # noqa: UP007
        (Circle | Square, Square | Circle),
        (Literal["a", 1], Literal[1, "a"]),
        (make(x=(frozenset[str], frozenset("abc"))), make(x=(frozenset[str], frozenset("cba")))),
    ],
)
def test_documentation_factories_and_the_order_of_unions_do_not_change_the_fingerprint(one, other):
    assert codec(one).fingerprint == codec(other).fingerprint


def test_a_recursive_type_has_a_fingerprint_of_its_own():
    assert codec(Tree).fingerprint != codec(list[Tree]).fingerprint
    assert codec(tuple[Tree, Tree]).fingerprint != codec(tuple[Tree]).fingerprint


SCRIPT = """
import enum, attrs, msgspec
from typing import Any, Literal, Union
from sansio_cache.codec import codec_for
class Kind(enum.Enum):
    B = "b"
    A = "a"
class Left(msgspec.Struct, tag=True):
    x: int
class Right(msgspec.Struct, tag=True):
    y: float = 0.5
@attrs.define
class Thing:
    names: frozenset[str] = frozenset({"anna", "bert", "carl", "dora"})
    made: list[int] = attrs.field(factory=lambda: [1])
    side: Left | Right | None = None
    kind: Union[int, Kind] = Kind.A
    mode: Literal["x", 1, None] = None
    other: Any = attrs.field(default=object())
    parent: "Thing | None" = None
print(codec_for(Thing, 1).fingerprint.hex())
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_fingerprint_is_the_same_in_every_process_and_release(seed):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    # Changing this turns every typed entry in every user's store into a miss: say so in the notes.
    assert done.stdout.strip() == "249273124fd5541d"
