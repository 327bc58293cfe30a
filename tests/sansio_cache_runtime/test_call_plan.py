"""`sansio_cache_runtime.call_plan`: the key of a call, and what is refused when a function is decorated."""

from __future__ import annotations

import enum
import re
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache import Absent, ConfigurationError, Fresh, InvalidKeyError, KeyBuilder, Policy
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.call_plan import given_type, plan_calls

KEYS = KeyBuilder("shop")
UUID_7 = UUID(int=7)


@attrs.define
class User:
    id: int

    def rename(self, name: str) -> str:
        return name


def user(id: int) -> User:
    return User(id)


def page(name: str, size: int = 20, *, sort: str = "id") -> list[str]:
    return [name]


def anything(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def of_user(owner: User, part: str) -> str:
    return part


def plan(function, template=None, *, ignore=(), ttl=None, policy=None, tags=(), keeps_ignored=False):
    return plan_calls(function, template, ignore, ttl, policy, tags, keeps_ignored=keeps_ignored)


def key(function, template, *args, **kwargs):
    return plan(function, template).key(KEYS, args, kwargs)


# Templates.


@pytest.mark.parametrize(
    ("function", "template", "args", "kwargs", "components"),
    [
        (user, "user:{id}", (7,), {}, ("user", 7)),
        (user, "user:{id}", (), {"id": 7}, ("user", 7)),
        (user, "user:{id}", ("7:%",), {}, ("user", "7:%")),
        (user, "user:{id}", (UUID_7,), {}, ("user", UUID_7)),
        (user, "user:{id}:orders", (7,), {}, ("user", 7, "orders")),
        (user, "user:u{id}-x", (7,), {}, ("user", "u7-x")),
        (page, "page:{name}:{size}:{sort}", ("a",), {}, ("page", "a", 20, "id")),
        (page, "page:{name}:{size}:{sort}", ("a", 30), {"sort": "x"}, ("page", "a", 30, "x")),
        (of_user, "user:{owner.id}:{part}", (User(7), "a"), {}, ("user", 7, "a")),
        (User.rename, "user:{self.id}:{name}", (User(7), "a"), {}, ("user", 7, "a")),
    ],
)
def test_a_template_gives_exactly_the_key_that_build_gives(function, template, args, kwargs, components):
    planned = plan(function, template)
    assert planned.key(KEYS, args, kwargs) == KEYS.build(*components)


def test_the_key_is_that_of_the_cache_whose_keys_are_asked_for():
    planned = plan(user, "user:{id}")
    assert planned.key(KEYS, (7,), {}) == "shop:user:7"
    assert planned.key(KeyBuilder("other"), (7,), {}) == "other:user:7"


def test_keys_that_are_remembered_are_bounded_and_told_apart_by_class():
    with Cache.from_url("memory://", namespace="shop") as cache:
        cached = cache.cached("user:{id}")(user)
        for each in range(3000):
            assert cached.key(each) == f"shop:user:{each}"
        assert len(cached._settings[3]) <= 1024
        assert cached.key(1) == cached.key(1) == "shop:user:1"
        for other in (True, 1.0, Decimal(1)):
            with pytest.raises(InvalidKeyError):
                cached.key(other)


def test_arguments_that_the_function_does_not_take_are_pythons_own_error():
    with pytest.raises(TypeError, match="missing a required argument: 'id'"):
        key(user, "user:{id}")
    with pytest.raises(TypeError, match="too many positional"):
        key(user, "user:{id}", 1, 2)


class Colour(enum.Enum):
    RED = 1


class Shade(enum.StrEnum):
    DARK = "dark"


@pytest.mark.parametrize("value", [1.5, None, b"a", (1,), User(1), Colour.RED])
def test_an_argument_without_a_stable_text_is_refused_by_the_call(value):
    for template in ("user:{id}", "user:u{id}"):
        with pytest.raises(InvalidKeyError):
            key(user, template, value)


# Names.


def test_without_a_template_the_key_lies_under_the_name_and_is_covered_by_its_pattern():
    made = key(page, "page", "a")
    assert made.startswith("shop:page:call:")
    assert ".test_call_plan.page:" in made
    assert KEYS.pattern("page") == "shop:page:*"
    assert key(page, None, "a").startswith("shop:")
    assert key(page, None, "a") == made


def test_defaults_are_applied_and_ways_of_passing_do_not_matter():
    assert (
        key(page, "page", "a")
        == key(page, "page", "a", 20)
        == key(page, "page", name="a", sort="id")
        == key(page, "page", size=20, name="a")
    )
    assert key(page, "page", "a") != key(page, "page", "a", 21)


ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


def exactly(value):
    if type(value) in (list, tuple):
        return type(value).__name__, [exactly(item) for item in value]
    return type(value).__name__, repr(value)


@given(st.lists(ARGUMENTS, max_size=3), st.lists(ARGUMENTS, max_size=3))
def test_s10_different_arguments_have_different_keys_by_type_and_value(one, other):
    planned = plan(anything, "any")
    is_same = exactly(one) == exactly(other)
    assert (planned.key(KEYS, tuple(one), {}) == planned.key(KEYS, tuple(other), {})) is is_same


def test_s10_equal_values_of_five_classes_are_five_calls():
    keys = {key(user, "user", each) for each in (1, True, 1.0, "1", b"1")}
    assert len(keys) == 5


def test_two_functions_of_one_name_do_not_share_keys():
    assert key(user, "thing", 1) != key(anything, "thing", 1)


def test_an_argument_that_cannot_be_told_apart_is_refused_with_its_name_and_the_remedy():
    with pytest.raises(InvalidKeyError, match=r"argument 'id' of user .*a User.*ignore="):
        key(user, "user", User(1))


def test_what_is_ignored_is_no_part_of_the_key():
    planned = plan(of_user, "parts", ignore=["owner"])
    assert planned.key(KEYS, (User(1), "a"), {}) == planned.key(KEYS, (User(2), "a"), {})
    in_template = plan(of_user, "parts:{part}", ignore=["owner"])
    assert in_template.key(KEYS, (User(1), "a"), {}) == KEYS.build("parts", "a")


# What is refused when decorating.


def generates():
    yield 1


async def generates_later():
    yield 1


class Holder:
    @classmethod
    def of_class(cls, id: int) -> int:
        return id

    @staticmethod
    def alone(id: int) -> int:
        return id


def of_cls(cls, id: int) -> int:
    return id


def numbers(x: float, when: dict[str, int], by: User) -> int:
    return 1


@pytest.mark.parametrize(
    ("function", "options", "why"),
    [
        (user, {"template": "user:{uid}"}, "names uid, which user does not have; it has id"),
        (user, {"template": "user:{}"}, "has a field without a name"),
        (page, {"template": "page:{name}"}, "parameter 'size' of page is not part of the key"),
        (User.rename, {"template": "user:{name}"}, "parameter 'self' of User.rename is not part"),
        (User.rename, {"template": "user"}, "parameter 'self' of User.rename is not part"),
        (page, {"template": "page:{name}{size}:{sort}"}, "two fields in one part"),
        (user, {"template": "user:{id!r}"}, "formats a field"),
        (user, {"template": "user:{id:03}"}, "two|formats|cannot be read"),
        (user, {"template": "user:{id"}, "cannot be read"),
        (user, {"template": "{id}"}, "begins with the name of a kind of thing"),
        (user, {"template": "{id}:user"}, "begins with the name of a kind of thing"),
        (user, {"template": ""}, "takes a template"),
        (user, {"template": 7}, "takes a template"),
        (anything, {"template": "any:{args}:{kwargs}"}, "is several values"),
        (numbers, {"template": "n:{x}:{when}:{by}"}, "parameter 'x' of numbers is a float"),
        (of_user, {"template": "user:{owner}:{part}"}, "parameter 'owner' of of_user is a User"),
        (generates, {}, "is a generator"),
        (generates_later, {}, "is a generator"),
        (User, {}, "decorates functions and methods"),
        (partial(user, 1), {}, "decorates functions and methods"),
        (7, {}, "decorates functions and methods"),
        (of_cls, {"template": "x:{id}"}, "above @classmethod"),
        (user, {"ignore": "id"}, "takes a list of names"),
        (user, {"ignore": ["session"]}, "ignore= names session, which user does not have"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_decorated(function, options, why):
    with pytest.raises(ConfigurationError, match=why):
        plan(function, **options)


def test_tags_are_a_list():
    with pytest.raises(InvalidKeyError, match="list of tags"):
        plan(user, "user:{id}", tags="users")


def test_class_methods_and_static_methods_are_looked_into():
    planned = plan(Holder.__dict__["of_class"], "holder:{id}", ignore=["cls"])
    assert planned.key(KEYS, (Holder, 7), {}) == KEYS.build("holder", 7)
    by_class = plan(Holder.__dict__["of_class"], "kinds:{cls.__name__}:{id}")
    assert by_class.key(KEYS, (Holder, 7), {}) == KEYS.build("kinds", "Holder", 7)
    assert plan(Holder.__dict__["alone"], "holder:{id}").key(KEYS, (7,), {}) == KEYS.build("holder", 7)


STALE = Policy(ttl=60, stale_for_s=60)


@pytest.mark.parametrize(
    "policy", [STALE, Policy(ttl=60, refresh_at=0.5), Policy(ttl=60, xfetch_beta=1.0)], ids=str
)
def test_a_refresh_is_not_to_keep_what_a_call_ignored_unless_it_is_asked_for(policy):
    with pytest.raises(ConfigurationError, match=r"ignored parameters \(owner\).*refresh_with_ignored"):
        plan(of_user, "parts", ignore=["owner"]).check_policy(policy)
    plan(of_user, "parts", ignore=["owner"], keeps_ignored=True).check_policy(policy)
    plan(of_user, "parts", ignore=["owner"]).check_policy(Policy(ttl=60))
    plan(user, "user:{id}").check_policy(policy)


# What is given.


@pytest.mark.parametrize(
    ("annotation", "stored"),
    [
        (int, int),
        (list[int], list[int]),
        (int | None, int),
        (int | str | None, int | str),
        (Fresh[int], int),
        (Fresh[int] | Absent | None, int),
        (Fresh, None),
        (Absent, Absent),
        (None, None),
        (Any, None),
        (Annotated[int, "metres"], Annotated[int, "metres"]),
        (Annotated[int | None, "metres"], int),
    ],
)
def test_what_is_stored_is_what_is_declared_without_what_stands_for_nothing(annotation, stored):
    assert given_type(annotation) == stored


def test_the_type_is_read_when_it_is_first_wanted_and_missing_names_are_told():
    assert plan(user, "user:{id}").type is User
    assert plan(anything, "any").type is None

    def later(id: int) -> Nowhere:  # noqa: F821
        return id

    planned = plan(later, "later:{id}")
    with pytest.raises(
        ConfigurationError, match=r"return annotation of .*later cannot be read: name 'Nowhere'"
    ):
        _ = planned.type


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (float, "float"),
        ("float | None", "float"),
        (list[int], "list"),
        ("int | dict[str, int]", "dict"),
        (bool, "bool"),
        ("uuid.Missing", None),
        ("Later", None),
        ("int | None", None),
        (Literal["a", "b"], None),
        (Any, None),
        (object, None),
        (Shade, "Shade"),
    ],
)
def test_a_parameter_declared_as_what_has_no_stable_text_is_refused_where_that_is_known(declared, said):
    def user(id):
        return id

    user.__annotations__["id"] = declared
    if said is None:
        assert key(user, "user:{id}", 7) == "shop:user:7"
    else:
        with pytest.raises(
            ConfigurationError, match=rf"parameter 'id' of .*user is a {said}, which has no text"
        ):
            key(user, "user:{id}", 7)


def test_a_parameter_of_which_nothing_is_declared_is_looked_at_by_the_call():
    def user(id):
        return id

    assert key(user, "user:{id}", 7) == "shop:user:7"
    with pytest.raises(InvalidKeyError, match=r"'id' in the template of .*user: it is to be a str, int"):
        key(user, "user:{id}", 1.5)


@pytest.mark.parametrize("default", [None, ""])
def test_a_default_that_has_no_place_in_a_key_is_refused_when_the_function_is_decorated(default):
    def search(query: str | None = default) -> list[str]:
        return [query or ""]

    with pytest.raises(
        ConfigurationError, match=r"is (None|'') where it is not given, .* leave the template out"
    ):
        plan(search, "search:{query}")
    assert key(search, "search") == key(search, "search", default) != key(search, "search", "a")


def test_what_is_wrong_with_an_argument_is_said_by_the_name_of_its_parameter():
    def search(owner: User, query: str | None) -> str:
        return f"{query}"

    template = "of:{owner.id}:{query}"
    for query, why in (
        (None, "it is to be a str"),
        ("", "it is empty"),
        ("a" * 2_000, "a key or pattern of"),
    ):
        with pytest.raises(InvalidKeyError, match=rf"'query' in the template of .*search: {why}"):
            key(search, template, User(7), query)
    with pytest.raises(InvalidKeyError, match=r"'owner\.id' in the template"):
        key(search, template, User(""), "a")
    with pytest.raises(InvalidKeyError, match=r"a key or pattern of 1\d\d\d bytes"):  # not of one alone
        key(search, template, User("a" * 600), "a" * 600)
    with pytest.raises(InvalidKeyError, match=r"query\[0\] is a Shade, which has no text .* id or value"):
        key(search, "search", 7, [Shade.DARK])


@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        ("user:{id}", {"tags": ["user:{id}"]}, "tags= are names, and are not filled in: 'user:{id}'"),
        ("user:{id}", {"ignore": ["id"]}, "parameter 'id' of user is in the template and in ignore="),
        ("user::{id}", {}, "has an empty part"),
        ("user:{id}:", {}, "has an empty part"),
        (":user:{id}", {}, "has an empty part"),
        ("user:{id:03}", {}, "formats a field, '{id:03}'"),
        ("user:{id!r}", {}, "formats a field"),
        ("user:{}", {}, "has a field without a name"),
    ],
)
def test_what_would_fail_or_mislead_at_a_call_is_refused_when_decorating(template, options, says):
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        plan(user, template, **options)


def test_braces_in_a_tag_that_name_no_parameter_are_text():
    assert plan(user, "user:{id}", tags=["a{b}"]).tags == ("a{b}",)


def test_a_field_that_an_argument_does_not_have_is_named():
    with pytest.raises(
        InvalidKeyError, match=r"'owner.id' in the template of of_user is not in the NoneType"
    ):
        key(of_user, "user:{owner.id}:{part}", None, "a")


def test_an_enum_that_makes_no_key_is_told_of_its_value():
    with pytest.raises(InvalidKeyError, match=r"\{id\.value\}"):
        key(user, None, enum.Flag("Odd", "A B").A)
