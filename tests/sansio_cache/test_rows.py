"""Rows of databases are stored where the declared type says what they are; objects of an ORM are refused."""

from __future__ import annotations

import collections
import dataclasses
import sqlite3
import types
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pytest

from sansio_cache import ConfigurationError, SerializationError
from sansio_cache.codec import codec_for
from sansio_cache.rows import is_row, mapping_of, tuple_of

MAX = 1 << 20


@dataclasses.dataclass
class User:
    id: int
    name: str


@attrs.frozen
class Person:
    id: int
    name: str


class Struct(msgspec.Struct):
    id: int
    name: str


class Typed(TypedDict):
    id: int
    name: str


class Named(NamedTuple):
    id: int
    name: str


Plain = collections.namedtuple("Plain", "id name")  # noqa: PYI024 - without types


def sqlite_rows(sql="select 1 as id, 'Ada' as name union select 2, 'Bob'"):
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


class Row:
    """As SQLAlchemy's: a sequence that is no tuple, with the names of its columns beside."""

    def __init__(self, *values, names=("id", "name")):
        self._values, self._fields = values, names

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]

    def _asdict(self):
        return dict(zip(self._fields, self._values, strict=True))


ROWS = {
    "sqlite3.Row": sqlite_rows,
    "SQLAlchemy's": lambda: [Row(1, "Ada"), Row(2, "Bob")],
    "named tuples": lambda: [Plain(1, "Ada"), Plain(2, "Bob")],
    "mappings": lambda: [types.MappingProxyType({"id": 1, "name": "Ada"}), {"id": 2, "name": "Bob"}],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("type", [User, Person, Struct, Typed, dict[str, Any], dict[str, int | str]])
def test_a_row_is_stored_as_what_the_type_says(rows, type):
    [one, two] = rows()
    is_dict = type in (Typed, dict[str, Any], dict[str, int | str])
    made = {"id": 1, "name": "Ada"} if is_dict else type(1, "Ada")

    assert codec_for(type, MAX).encode(one).value == made
    many = codec_for(list[type], MAX).encode([one, two]).value
    assert many[0] == made
    assert len(many) == 2
    assert codec_for(dict[str, list[type]], MAX).encode({"found": [one]}).value == {"found": [made]}


@pytest.mark.parametrize("rows", [sqlite_rows, ROWS["SQLAlchemy's"], ROWS["named tuples"]])
@pytest.mark.parametrize("type", [tuple[int, str], Named])
def test_a_row_is_the_tuple_of_its_values_where_the_type_says_so(rows, type):
    back = codec_for(list[type], MAX).encode(rows()).value
    assert back == [(1, "Ada"), (2, "Bob")]
    assert isinstance(back[0], getattr(type, "__origin__", type))


@pytest.mark.parametrize("rows", [sqlite_rows, ROWS["SQLAlchemy's"], ROWS["named tuples"]])
def test_without_a_type_a_row_is_refused_and_one_is_named(rows):
    with pytest.raises(SerializationError, match=r"; give type=list\[dict\[str, int \| str\]\]$") as refused:
        codec_for(None, MAX).encode(rows())
    assert str(refused.value).startswith("value[0] is a")
    declared = dict[str, int | str]
    assert codec_for(list[declared], MAX).encode(rows()).value[1] == {"id": 2, "name": "Bob"}


def test_a_row_with_a_column_more_or_less_than_the_class_is_refused():
    for sql in ("select 1 as id, 'a' as name, 2 as more", "select 1 as id"):
        with pytest.raises(SerializationError):
            codec_for(User, MAX).encode(sqlite_rows(sql)[0])


def test_a_row_with_two_columns_of_one_name_is_refused():
    """One of them would be lost."""
    [row] = sqlite_rows("select 1 as id, 2 as id")
    assert mapping_of(row) is None
    with pytest.raises(SerializationError, match="a Row has no JSON form"):
        codec_for(dict[str, int], MAX).encode(row)
    assert mapping_of(Row(1, 2, names=("id", "id"))) is None


def test_a_row_of_other_values_than_the_type_says_is_refused():
    with pytest.raises(SerializationError):
        codec_for(list[User], MAX).encode(sqlite_rows("select 'x' as id, 'a' as name"))
    with pytest.raises(SerializationError, match="cannot be stored"):
        codec_for(list[User], MAX).encode([["no", "row"]])


def test_what_is_a_row():
    assert all(is_row(rows()[0]) for name, rows in ROWS.items() if name != "mappings")
    assert tuple_of(sqlite_rows()[0]) == (1, "Ada")
    assert not any(map(is_row, ({"a": 1}, [1], (1,), "a", User(1, "a"), Person(1, "a"), dict, 7)))
    assert tuple_of([1]) is mapping_of([1]) is None


class Mapped:
    """As a class of SQLAlchemy's ORM."""

    __mapper__ = object()

    def __init__(self):
        self.id = 1


def of(module, name):
    base = type(name, (), {"__module__": module})
    return type("Page", (base,), {})


@pytest.mark.parametrize(
    "cls",
    [
        Mapped,
        of("django.db.models.base", "Model"),
        of("peewee", "Model"),
        of("tortoise.models", "Model"),
        of("pony.orm.core", "Entity"),
        of("mongoengine.document", "Document"),
    ],
)
def test_objects_of_an_orm_are_refused_with_what_to_do(cls):
    with pytest.raises(ConfigurationError, match=f"{cls.__name__} is a class of an ORM.*in the loader"):
        codec_for(list[cls], MAX)
    for value in (cls(), [cls()], {"a": (cls(),)}):
        with pytest.raises(SerializationError, match=f"{cls.__name__} is a class of an ORM.*in the loader"):
            codec_for(None, MAX).encode(value)
    with pytest.raises(SerializationError, match="is a class of an ORM"):
        codec_for(list[User], MAX).encode([cls()])
