"""`sansio_cache_pydantic`: models come back as they were, or are refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import subprocess
import sys
import uuid
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from sansio_cache.codec import codec_for
from sansio_cache.codecs.value_codec import Checked, Undecodable, ValueCodec
from sansio_cache.errors import ConfigurationError, SerializationError
from sansio_cache_pydantic import PydanticCodec
from sansio_cache_runtime.models import codec_of_models

MAX_BYTES = 1_000_000
T = TypeVar("T")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(pydantic.BaseModel):
    street: str
    zip_code: str = pydantic.Field(alias="zipCode")


class User(pydantic.BaseModel):
    id: int
    name: str
    joined: dt.datetime | None = None
    balance: Decimal = Decimal(0)
    token: uuid.UUID | None = None
    level: Level = Level.LOW
    address: Address | None = None
    tags: list[str] = []
    scores: dict[int, float] = {}

    @cached_property
    def initials(self) -> str:
        return self.name[:1]

    @pydantic.computed_field
    def shout(self) -> str:
        return self.name.upper()


class Admin(User):
    rights: frozenset[str] = frozenset()


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]
    total: int


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    good: bool = True


class Open(pydantic.BaseModel, extra="allow"):
    id: int


class WithPrivate(pydantic.BaseModel):
    id: int
    _seen: int = pydantic.PrivateAttr(default=0)


class WithExcluded(pydantic.BaseModel):
    id: int
    hidden: int = pydantic.Field(default=0, exclude=True)


class Stripping(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def strip(cls, name: str) -> str:
        return name[1:]


class Team(pydantic.BaseModel):
    lead: User
    members: dict[str, list[User]] = {}


class Point(NamedTuple):
    x: int
    owner: User


class Row(TypedDict):
    user: User


@dataclasses.dataclass
class Plain:
    number: int
    next: Plain | None = None


@dataclasses.dataclass
class Pair:
    one: User
    two: int


class Names(pydantic.RootModel[list[str]]):
    pass


class Measure(pydantic.BaseModel):
    value: float


def unfolded(moment):
    return moment.replace(fold=0)  # without a zone JSON has no fold


USERS = st.builds(
    User,
    id=st.integers(),
    name=st.text(),
    joined=st.none() | st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(unfolded),
    balance=st.decimals(allow_nan=False, allow_infinity=False),
    token=st.none() | st.uuids(),
    level=st.sampled_from(Level),
    address=st.none() | st.builds(Address, street=st.text(), zipCode=st.text()),
    tags=st.lists(st.text(), max_size=3),
    scores=st.dictionaries(st.integers(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)


form_of = functools.lru_cache(codec_of_models)  # as a cache keeps those that it has made


def through(type_, value):
    return codec_for(type_, MAX_BYTES, form=form_of(type_)).encode(value)


@given(USERS)
def test_every_model_comes_back_as_it_was(user):
    encoded = through(User, user)
    assert encoded.value == user
    assert type(encoded.value) is User
    assert encoded.value is not user


@given(st.lists(USERS, max_size=3))
def test_so_do_containers_of_them(users):
    assert through(list[User], users).value == users
    assert through(Page[User], Page[User](items=users, total=3)).value == Page[User](items=users, total=3)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (User | None, None),
        (User | None, User(id=1, name="a")),
        (Cat | Dog, Dog()),
        (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Cat(lives=3)),
        (dict[int, Cat], {1: Cat()}),
        (tuple[Cat, ...], (Cat(), Cat())),
        (Row | User, {"user": User(id=1, name="a")}),
        (Open, Open(id=1, more="x")),
        (Names, Names(["a"])),
        (Team, Team(lead=User(id=1, name="a"), members={"x": [User(id=2, name="b")]})),
        (User, User(id=1, name="a", joined=dt.datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")))),
    ],
)
def test_a_type_that_has_a_model_among_its_arguments_is_pydantics(type_, value):
    assert isinstance(codec_of_models(type_), PydanticCodec)
    assert through(type_, value).value == value


def test_what_was_computed_and_kept_is_no_part_of_the_value():
    user = User(id=1, name="a")
    assert user.initials == "a"
    assert through(User, user).value == user


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (User, Admin(id=1, name="a"), "value is an Admin and would come back as a User"),
        (Team, Team(lead=Admin(id=1, name="a")), "value.lead is an Admin"),
        (
            Team,
            Team(lead=User(id=1, name="a"), members={"x": [Admin(id=2, name="b")]}),
            "value.members['x'][0] is an Admin",
        ),
        (Stripping, Stripping.model_construct(name="ab"), "value.name would come back changed"),
        (WithExcluded, WithExcluded(id=1, hidden=2), "value.hidden would come back changed"),
        (User, User.model_construct(id="1", name="a"), "value.id is a str and would come back as an int"),
        (User, User.model_construct(id=True, name="a"), "value"),
        (Measure, Measure(value=float("nan")), "value"),
        (User, {"id": 1, "name": "a"}, "value is a dict, and not of the declared type"),
        (list[User], (User(id=1, name="a"),), "value is a tuple"),
        (
            User,
            User.model_construct(name="no id"),
            "value would not come back: what is written of it is no value of the type. Give a value",
        ),
    ],
)
def test_what_would_come_back_different_is_refused_with_its_place(type_, value, message):
    with pytest.raises(SerializationError) as raised:
        through(type_, value)
    assert str(raised.value).startswith(message)
    assert "hunter2" not in str(raised.value)


def test_a_private_attribute_that_would_be_lost_is_noticed():
    kept = WithPrivate(id=1)
    assert through(WithPrivate, kept).value == kept
    kept._seen = 5
    with pytest.raises(SerializationError, match=r"value\['_seen'\] would come back changed"):
        through(WithPrivate, kept)


class Shape(pydantic.BaseModel):
    sides: Any = None


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ((1, 2), r"value\.sides is a tuple and would come back as a list"),
        ({1}, r"value\.sides is a set"),
        ({1: 2}, r"value\.sides key is an int"),
        ([b"a"], r"value\.sides\[0\] is a bytes"),
    ],
)
def test_at_an_any_nothing_is_changed_silently(value, place):
    with pytest.raises(SerializationError, match=place):
        through(Shape, Shape(sides=value))


class Sets(pydantic.BaseModel):
    some: set[int | bool | str]
    moment: dt.time | None = None


def test_members_of_sets_and_times_are_compared_by_class_and_offset():
    exact = Sets(some={1, "1"}, moment=dt.time(1, 2))
    assert through(Sets, exact).value == exact
    wrong = Sets.model_construct(some={1, "1"}, moment=dt.time(1, 2, fold=1))
    with pytest.raises(SerializationError, match=r"value\.moment would come back changed"):
        through(Sets, wrong)


class Growing(pydantic.BaseModel, extra="allow"):
    id: int

    @pydantic.model_validator(mode="after")
    def grow(self) -> Growing:
        self.grown = True
        return self


def test_a_validator_that_adds_what_was_not_there_is_noticed():
    with pytest.raises(SerializationError, match="would come back with more parts"):
        through(Growing, Growing.model_construct(id=1))


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Nested(pydantic.BaseModel):
    logins: list[Login]


class Vault(pydantic.BaseModel):
    code: pydantic.Secret[int] | None = None


class Bank(pydantic.BaseModel):
    branches: list[Bank] = []
    vaults: dict[str, Vault] = {}


@pytest.mark.parametrize("type_", [Login, Nested, list[Nested], Vault, list[Bank]])
def test_models_with_secrets_are_refused_when_they_are_registered(type_):
    with pytest.raises(ConfigurationError, match="secrets"):
        PydanticCodec(type_)


class Whatever:
    pass


class Arbitrary(pydantic.BaseModel, arbitrary_types_allowed=True):
    it: Whatever


def test_a_model_that_has_no_schema_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"type=list\[.*Arbitrary\] cannot be cached") as refused:
        PydanticCodec(list[Arbitrary])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "corrupt"),
        (b"{", "corrupt"),
        (b"\xff", "corrupt"),
        (b"[" * 100_000, "corrupt"),
        (b"[]", "schema"),
        (b'{"id": "x", "name": "a"}', "schema"),
    ],
)
def test_s12_what_is_no_value_of_the_type_is_undecodable(payload, reason):
    with pytest.raises(Undecodable) as raised:
        PydanticCodec(User).decode(payload, MAX_BYTES)
    assert raised.value.reason == reason


def model(doc="", title="One", default=1, **fields):
    field = pydantic.Field(default=default, title=title, description=doc, examples=[doc])
    return pydantic.create_model("Thing", __doc__=doc, title=(int, field), **fields)


def test_the_fingerprint_is_of_the_structure_and_not_of_what_is_said_about_it():
    plain = PydanticCodec(model()).fingerprint
    assert PydanticCodec(model(doc="words", title="Two")).fingerprint == plain
    assert PydanticCodec(model(other=(int, 1))).fingerprint != plain
    assert PydanticCodec(model(default=2)).fingerprint != plain
    assert PydanticCodec(model(), version="2").fingerprint != plain
    assert PydanticCodec(User).fingerprint != PydanticCodec(list[User]).fingerprint


def test_a_type_without_a_model_is_left_to_json():
    for type_ in (None, int, list[int], dict[str, int | None], Annotated[int, []], Level, Plain):
        assert codec_of_models(type_) is None


@dataclasses.dataclass
class Price:
    parts: set[int]


@dataclasses.dataclass
class Stock:
    count: int | None
    places: set[int]


@dataclasses.dataclass
class Labels:
    users: list[User]


@dataclasses.dataclass
class Product:
    price: Price
    stock: Stock
    labels: list[Labels]


def test_a_model_is_found_however_many_types_stand_before_it():
    """What annotations that are texts are read as is made anew, where what was looked at before had been."""
    price, stock, labels = Price({1}), Stock(1, {2}), Labels([User(id=1, name="a")])
    for _ in range(50):
        assert isinstance(codec_of_models(Product), PydanticCodec)
    assert through(Product, Product(price, stock, [labels])).value == Product(price, stock, [labels])


@dataclasses.dataclass
class Holder:
    user: User
    next: Holder | None = None


class Held(NamedTuple):
    users: list[User]


class Shelf(TypedDict):
    user: User


@dataclasses.dataclass
class Unreadable:
    it: Nowhere  # noqa: F821


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Holder, Holder(User(id=1, name="a"), Holder(User(id=2, name="b")))),
        (list[Holder], [Holder(User(id=1, name="a"))]),
        (Held, Held([User(id=1, name="a")])),
        (Shelf, {"user": User(id=1, name="a")}),
    ],
)
def test_a_class_with_a_model_among_its_fields_is_pydantics(type_, value):
    codec = codec_for(type_, MAX_BYTES, None, codec_of_models(type_))
    assert codec.encode(value).value == value
    assert codec_of_models(Unreadable) is None


def test_without_a_type_the_refusal_names_the_model():
    with pytest.raises(SerializationError, match=r"a User has no JSON form; give type=list\[.*User\]$"):
        codec_for(None, MAX_BYTES).encode([User(id=1, name="a")])


def test_it_is_a_codec_that_tells_what_would_change():
    codec = PydanticCodec(User)
    assert isinstance(codec, ValueCodec)
    assert isinstance(codec, Checked)
    assert repr(codec) == "PydanticCodec(User)"


def test_dataclasses_and_named_tuples_in_a_model_are_compared_part_by_part():
    class Holder(pydantic.BaseModel):
        pair: Pair
        point: Point

    right = Holder(pair=Pair(User(id=1, name="a"), 2), point=Point(1, User(id=1, name="a")))
    assert through(Holder, right).value == right
    right.pair.one = Admin(id=1, name="a")
    with pytest.raises(SerializationError, match=r"value\.pair\.one is an Admin"):
        through(Holder, right)


def test_the_caches_never_import_pydantic_themselves():
    program = (
        "import sys; from sansio_cache_redis.sync import Cache\n"
        "cache = Cache.from_url('memory://', namespace='shop')\n"
        "cache.set('a', [1], type=list[int]); assert cache.get('a', type=list[int]) == [1]\n"
        "cache.close(); assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
