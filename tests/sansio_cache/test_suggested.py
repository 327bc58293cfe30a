"""What would have been stored: the type, or the codec, that the refusal of a value names."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import SerializationError
from sansio_cache.codec import codec_for
from sansio_cache.codecs import PYTHON
from sansio_cache.suggested import shown, type_of

MAX = 1 << 20


@dataclasses.dataclass
class User:
    name: str


class Point(NamedTuple):
    x: int


class Colour(enum.Enum):
    RED = "red"


def remedy(value):
    with pytest.raises(SerializationError) as refused:
        codec_for(None, MAX).encode(value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([("a", 1)], "value[0] is a tuple and would come back as a list; give type=list[tuple[str, int]]"),
        ((1, "a"), "value is a tuple and would come back as a list; give type=tuple[int, str]"),
        (tuple(range(20)), "value is a tuple and would come back as a list; give type=tuple[int, ...]"),
        ({1: "x"}, "value key 1 is an int and would come back as a str; give type=dict[int, str]"),
        ({1, 2}, "value is a set and would come back as a list; give type=set[int]"),
        (frozenset({"a"}), "value is a frozenset and would come back as a list; give type=frozenset[str]"),
        (set(), "value is a set and would come back as a list; give type=set[int]"),
        ([(1, None)], "value[0] is a tuple and would come back as a list; give type=list[tuple[int, None]]"),
        ([{"at": dt.date(2026, 1, 2)}], "type=list[dict[str, datetime.date]]"),
        (
            dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            "value is a datetime and would come back as a str; give type=datetime",
        ),
        (Decimal("1.10"), "type=Decimal"),
        (UUID(int=1), "type=UUID"),
        (b"a", "type=bytes"),
        (User("a"), "value is a User and would come back as a dict; give type=User"),
        ([User("a")], f"type=list[{__name__}.User]"),
        (Point(1), "type=Point"),
        (Colour.RED, "type=Colour"),
        # No type keeps these in JSON.
        ({(1, 2): 3}, "; give codecs={None: PYTHON}"),
        ([{1, "a", dt.date(2026, 1, 2)}], "; give codecs={None: PYTHON}"),
        (1j, "; give codecs={None: PYTHON}"),
        (float("nan"), "; give codecs={None: PYTHON}"),
        # Nor anything else these.
        (object(), "pass type= for anything else"),
        ([object(), (1, 2)], "pass type= for anything else"),
        ({"a": {1: object()}}, "pass type= for anything else"),
    ],
)
def test_a_refusal_names_what_would_have_been_stored(value, said):
    assert remedy(value).endswith(said)


def test_what_is_nested_deeply_or_holds_much_is_not_looked_at_for_long():
    deep: Any = (1,)
    for _ in range(50):
        deep = (deep,)
    assert type_of(deep) is None
    assert type_of([1] * 1000 + ["a"]) == list[int]
    assert "codecs={None: PYTHON}" in remedy([1] * 1000 + [(1,)])


def test_a_type_is_shown_as_it_is_written():
    assert shown(int) == "int"
    assert shown(list[int]) == "list[int]"
    assert shown(dict[str, int | None]) == "dict[str, int | None]"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 3) | st.text("ab", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(plain)
def test_what_is_suggested_does_store_the_value(value):
    try:
        codec_for(None, MAX).encode(value)
    except SerializationError as refused:
        said = str(refused)
        if "; give type=" in said:
            assert codec_for(type_of(value), MAX).encode(value).value == value
        elif "; give codecs=" in said:
            assert PYTHON.decode(PYTHON.encode(value), MAX) == value
        else:
            raise AssertionError(said) from refused
