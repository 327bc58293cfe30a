"""`sansio_cache.codecs.python`: plain Python values come back as they were, or are refused."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import enum
import math
import struct
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_cache.codec import codec_for
from sansio_cache.codecs import PYTHON, PythonCodec, Undecodable
from sansio_cache.codecs.value_codec import Checked, ValueCodec
from sansio_cache.errors import ConfigurationError, SerializationError

MAX_BYTES = 1_000_000
CODEC = codec_for(None, MAX_BYTES, form=PYTHON)


class Point(NamedTuple):
    x: int
    y: Any = 0


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    BLUE = "blue"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Single(NamedTuple):
    n: int


class Shifty(Single):
    __slots__ = ()

    def __new__(cls, n):
        return super().__new__(cls, n + 1)


NAMED = PythonCodec(Point, Colour, Access)


def exactly(value):
    """A value and all that is in it, so that only the same representation is equal."""
    cls = type(value)
    if cls in (list, tuple, Point):
        return cls.__name__, [exactly(item) for item in value]
    if cls in (set, frozenset):
        return cls.__name__, sorted((exactly(item) for item in value), key=repr)
    if cls is dict:
        return "dict", [(exactly(key), exactly(item)) for key, item in value.items()]
    if cls is float:
        return "float", struct.pack(">d", value)
    if cls is complex:
        return "complex", struct.pack(">dd", value.real, value.imag)
    if cls in (dt.time, dt.datetime):
        zone = value.tzinfo
        return cls.__name__, value.replace(tzinfo=None, fold=0).isoformat(), value.fold, repr(zone)
    return cls.__name__, repr(value)


ZONES = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]).map(ZoneInfo),
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone),
    st.just(dt.timezone(dt.timedelta(hours=1), "CET")),
)
HASHABLE_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False) | st.sampled_from([Decimal("NaN"), Decimal("-NaN12"), Decimal("1.00")]),
    st.uuids(),
    st.dates(),
    st.times(timezones=ZONES),
    st.builds(lambda at, fold: at.replace(fold=fold), st.datetimes(timezones=ZONES), st.integers(0, 1)),
    st.timedeltas(),
)
HASHABLE = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, st.integers(), inner),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.dictionaries(st.text() | st.sampled_from(["%set", "%", "%dict"]), inner, max_size=3),
        st.sampled_from(Colour) | st.sampled_from([Access.READ, Access.WRITE]),
    ),
    max_leaves=12,
)


@given(VALUES)
@example({"%set": [1]})
@example({"%tuple": [1], "a": 2})
@example([{1: "whole"}, {True: "truth"}, {1.0: "float"}])
@example([0.0, -0.0, math.nan, -math.nan, math.inf])
@example({1.0, "1", b"1"})
@example(2**3000)
@example(dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")))
def test_every_plain_python_value_comes_back_by_its_representation(value):
    payload = NAMED.encode(value)
    back = NAMED.decode(payload, MAX_BYTES)
    assert exactly(back) == exactly(value)
    assert NAMED.encode(back) == payload


@given(VALUES)
def test_through_the_entrys_codec_it_comes_back_as_well(value):
    encoded = codec_for(None, MAX_BYTES, form=NAMED).encode(value)
    assert exactly(encoded.value) == exactly(value)


class Text(str):
    __slots__ = ()


class Zone(dt.tzinfo):
    def utcoffset(self, _):
        return dt.timedelta(0)


LOOP: list[Any] = []
LOOP.append(LOOP)
HUGE = 10 ** (sys.get_int_max_str_digits() + 1)


@pytest.mark.parametrize(
    ("value", "place", "why"),
    [
        (Text("a"), "", "is a Text"),
        ([1, {"a": (Text("a"),)}], "[1]['a'][0]", "is a Text"),
        (collections.Counter("a"), "", "is a Counter"),
        (collections.OrderedDict(), "", "is an OrderedDict"),
        (collections.defaultdict(list), "", "is a defaultdict"),
        (bytearray(b"a"), "", "is a bytearray"),
        (memoryview(b"a"), "", "is a memoryview"),
        (range(3), "", "is a range"),
        (object(), "", "is an object"),
        ({object(): 1}, " key", "is an object"),
        ({1, Text("a")}, " member", "is a Text"),
        (Point(1, 2), "", "is a Point"),
        (Colour.RED, "", "is a Colour"),
        (Decimal("sNaN"), "", "signalling NaN"),
        ("\ud800", "", "surrogate"),
        ({"\ud800": 1}, " key", "surrogate"),
        (dt.timezone(dt.timedelta(0), "\ud800"), "", "is a timezone"),
        (dt.time(1, tzinfo=dt.timezone(dt.timedelta(0), "\ud800")), "", "surrogate"),
        (dt.time(1, tzinfo=Zone()), "", "has a zone of type Zone"),
        pytest.param(HUGE, "", "more digits", id="huge"),
        pytest.param(LOOP, "", "contains itself", id="loop"),
    ],
)
def test_what_would_not_come_back_is_refused_with_its_place(value, place, why):
    with pytest.raises(SerializationError) as raised:
        PYTHON.encode(value)
    assert why in str(raised.value)
    assert str(raised.value).startswith(f"value{place} ")


def test_a_zone_that_was_read_from_a_file_has_no_key_and_is_refused():
    import zoneinfo

    for folder in zoneinfo.TZPATH:
        path = f"{folder}/Europe/Berlin"
        try:
            with Path(path).open("rb") as file:
                zone = ZoneInfo.from_file(file)
        except OSError:
            continue
        break
    else:  # the tzdata package has it then
        import importlib.resources

        with importlib.resources.files("tzdata.zoneinfo.Europe").joinpath("Berlin").open("rb") as file:
            zone = ZoneInfo.from_file(file)
    with pytest.raises(SerializationError, match="without a key"):
        PYTHON.encode(dt.datetime(2026, 1, 1, tzinfo=zone))


def test_a_combination_of_flags_has_no_name_and_is_refused():
    assert NAMED.decode(NAMED.encode(Access.READ), MAX_BYTES) is Access.READ
    with pytest.raises(SerializationError, match="combination of flags"):
        NAMED.encode(Access.READ | Access.WRITE)


def test_an_alias_of_a_member_is_that_member():
    assert NAMED.decode(NAMED.encode(Colour.CRIMSON), MAX_BYTES) is Colour.RED


def test_a_named_tuple_that_changes_what_it_is_given_is_refused():
    codec = codec_for(None, MAX_BYTES, form=PythonCodec(Shifty))
    with pytest.raises(SerializationError, match="come back changed"):
        codec.encode(Shifty(1))


def test_values_of_plain_json_are_readable_as_they_are():
    assert PYTHON.encode({"id": 1, "tags": ["x", None, True, 1.5]}) == b'{"id":1,"tags":["x",null,true,1.5]}'
    assert PYTHON.encode((1, {2})) == b'{"%tuple":[1,{"%set":[2]}]}'


@given(st.sets(HASHABLE, max_size=6))
def test_equal_sets_have_one_payload(value):
    other: set[Any] = set()
    for item in reversed(list(value)):
        other.add(item)  # in another order, and so with other collisions
    assert NAMED.encode(other) == NAMED.encode(value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        b"\xff",
        b'{"%what":1}',
        b'{"%set":1}',
        b'{"%set":"ab"}',
        b'{"%set":[[]]}',
        b'{"%tuple":{}}',
        b'{"%dict":[1]}',
        b'{"%dict":[[[],1]]}',
        b'{"%float":1}',
        b'{"%float":"00"}',
        b'{"%complex":["00"]}',
        b'{"%bytes":"*"}',
        b'{"%decimal":"sNaN"}',
        b'{"%decimal":[0,[1],1]}',
        b'{"%uuid":1}',
        b'{"%date":"yesterday"}',
        b'{"%time":["01:00",true,null]}',
        b'{"%time":["01:00",2,null]}',
        b'{"%datetime":["2026-01-01T00:00:00",0,"../../etc/passwd"]}',
        b'{"%datetime":["2026-01-01T00:00:00",0,"No/Where"]}',
        b'{"%datetime":["2026-01-01T00:00:00",0,[["x",0,0]]]}',
        b'{"%timedelta":[1.5,0,0]}',
        b'{"%timedelta":[999999999999,0,0]}',
        b'{"%named":["os.system",["true"]]}',
        b'{"%named":["Point",{}]}',
        b'{"%named":["Point",[1,2,3]]}',
        b'{"%enum":["Colour","GREEN"]}',
        b'{"%enum":["Point","x"]}',
        b"[" * 150 + b"]" * 150,
        b"[" * 100_000,
        b'{"%tuple":[' * 150 + b"]}" * 150,
    ],
)
def test_s12_bytes_that_are_not_its_own_are_undecodable(payload):
    for codec in (PYTHON, NAMED):
        with pytest.raises(Undecodable) as raised:
            codec.decode(payload, MAX_BYTES)
        assert raised.value.reason == "corrupt"


@given(st.binary() | st.text().map(str.encode) | VALUES.map(lambda value: NAMED.encode(value)[:-1]))
def test_s12_whatever_the_bytes_a_value_comes_or_they_are_undecodable(payload):
    with contextlib.suppress(Undecodable):
        NAMED.decode(payload, MAX_BYTES)


def test_s12_a_value_of_another_class_than_the_declared_one_is_undecodable():
    payload = CODEC.encode([1]).payload
    assert codec_for(list, MAX_BYTES, form=PYTHON).decode(payload) == [1]
    with pytest.raises(Undecodable) as raised:
        codec_for(dict, MAX_BYTES, form=PYTHON).decode(payload)
    assert raised.value.reason == "schema"


def test_running_out_of_memory_is_nobodys_miss(monkeypatch):
    def no_memory(_self, _tree, _depth):
        raise MemoryError

    monkeypatch.setattr(PythonCodec, "_value", no_memory)
    with pytest.raises(MemoryError):
        PYTHON.decode(b"1", MAX_BYTES)


def test_what_lies_as_deep_as_it_may_comes_back_and_one_deeper_is_refused():
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    assert PYTHON.decode(PYTHON.encode(value), MAX_BYTES) == value
    with pytest.raises(SerializationError, match="nested more than"):
        PYTHON.encode([value])


@pytest.mark.parametrize(
    ("types", "why"),
    [
        ((int,), "takes named tuples and enums"),
        ((tuple,), "takes named tuples and enums"),
        (("Point",), "takes named tuples and enums"),
        ((Point, NamedTuple("Point", [("x", int)])), "two types of the name Point"),
    ],
)
def test_types_that_it_cannot_know_by_name_are_refused(types, why):
    with pytest.raises(ConfigurationError, match=why):
        PythonCodec(*types)


def test_the_fingerprint_changes_with_the_fields_and_members_of_its_types_only():
    other = collections.namedtuple("Point", ["x", "z"])  # noqa: PYI024 - another of the same name
    assert PythonCodec(Point, Colour).fingerprint == PythonCodec(Colour, Point).fingerprint
    assert len({each.fingerprint for each in (PYTHON, PythonCodec(Point), PythonCodec(other), NAMED)}) == 4


def test_it_is_a_codec_that_tells_what_would_change_and_shows_what_it_knows():
    assert isinstance(PYTHON, ValueCodec)
    assert isinstance(PYTHON, Checked)
    assert repr(PYTHON) == "PYTHON"
    assert repr(NAMED) == "PythonCodec(Point, Colour, Access)"
