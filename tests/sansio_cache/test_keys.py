"""Keys: their shapes, what is refused and how, and that building is injective."""

from __future__ import annotations

import copy
import decimal
import enum
import hashlib
import json
import pickle
import sys
import unicodedata
from collections import OrderedDict
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from urllib.parse import unquote
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sansio_cache.errors import ConfigurationError, InvalidKeyError
from sansio_cache.keys import Key, KeyBuilder, Pattern
from sansio_cache.patterns import glob_match

APP = KeyBuilder("app")
SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    LOW = 1


class Shouting(str):
    __slots__ = ()

    def __str__(self):
        return self.upper() + "!"


class Unfriendly(int):
    def __repr__(self):
        return "?"

    __str__ = __repr__


class MultiDict(dict):
    def getlist(self, key):
        raise NotImplementedError


# --- shapes -----------------------------------------------------------------------------------


def test_the_shapes_of_built_keys_and_patterns():
    assert APP.build("user", 1) == "app:user:1"
    assert APP.versioned("user", 1, 7) == "app:user:1:v7"
    assert APP.list_key("user", "page=1") == f"app:user:list:{hex_of('page=1')[:32]}"
    assert APP.pattern("user") == "app:user:*"
    assert APP.pattern("user", 1, "orders") == "app:user:1:orders:*"
    assert APP.build("settings") == "app:settings"
    assert APP.build("user", 1, "orders", 7) == "app:user:1:orders:7"
    assert APP.literal("user:{1}:*") == "app:user:{1}:*"
    assert APP.glob("user:*") == "app:user:*"
    assert APP.tag("users") == "t:users"
    assert APP.tag(7) == APP.tag("7") == "t:7"
    assert APP.tag("a:b*") == "t:a%3Ab%2A"
    assert APP.generation("user") == "g:user"
    assert APP.lists("user") == "g:user:list" != APP.generation("user:list")
    assert APP.everything() == "app:*"


def hex_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_keys_and_patterns_are_strings_that_say_what_they_are():
    key, pattern = APP.build("user", 1), APP.pattern("user")
    assert (f"{key}", f"{pattern}") == ("app:user:1", "app:user:*")
    assert (repr(key), repr(pattern)) == ("Key('app:user:1')", "Pattern('app:user:*')")
    assert repr(APP.generation("user")) == "TagName('g:user')"
    assert {key: "same"}["app:user:1"] == "same"
    assert type(pickle.loads(pickle.dumps(key))) is type(copy.copy(key)) is Key
    assert not hasattr(key, "__dict__")


def test_builders_compare_by_what_they_were_made_with():
    assert KeyBuilder("app") == APP != KeyBuilder("app", max_key_bytes=64)
    assert hash(KeyBuilder("app")) == hash(APP)
    assert repr(APP) == "KeyBuilder(namespace='app', max_key_bytes=1024)"


def test_ids_stay_readable_in_their_key():
    assert APP.build("user", SOME_UUID) == f"app:user:{SOME_UUID}"
    assert APP.build("user-v2", "me@example.org/é_.~+") == "app:user-v2:me@example.org/é_.~+"


@pytest.mark.parametrize(
    ("id", "encoded"),
    [
        ("a:b", "a%3Ab"),
        ("%3A", "%253A"),
        ("{slot}", "%7Bslot%7D"),
        ("a b\n", "a%20b%0A"),
        ("*?[]^\\", "%2A%3F%5B%5D%5E%5C"),
        ("\x85\u2028\u3000", "%C2%85%E2%80%A8%E3%80%80"),
    ],
)
def test_characters_that_mean_something_are_escaped(id, encoded):
    assert APP.build("user", id) == f"app:user:{encoded}"


def test_exactly_separators_and_invisible_characters_are_escaped():
    large = KeyBuilder("app", max_key_bytes=10_000_000)
    plain, special = [], []
    for character in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(character)
        if character in ":%{}*?[]^\\" or category in {"Cc", "Zs", "Zl", "Zp"}:
            special.append(character)
        elif category != "Cs":
            plain.append(character)

    assert large.build("e", "".join(plain)) == "app:e:" + "".join(plain)
    for character in special:
        escaped = "".join(f"%{byte:02X}" for byte in character.encode())
        assert large.build("e", character) == f"app:e:{escaped}"


def test_a_str_an_int_and_a_uuid_are_the_component_that_their_text_is():
    assert APP.build("user", 1) == APP.build("user", "1")
    assert APP.build("user", SOME_UUID) == APP.build("user", str(SOME_UUID))


def test_subclasses_of_str_and_int_count_by_their_content():
    assert APP.build(Shouting("user"), Unfriendly(7)) == "app:user:7"
    assert APP.literal(Shouting("user")) == "app:user"
    assert KeyBuilder(Shouting("app")).everything() == "app:*"


# --- lists ------------------------------------------------------------------------------------


def test_the_short_form_of_a_list_key_collides_where_the_default_does_not():
    one, other = "page=772&size=2&sort=name", "page=109&size=8&sort=name"
    assert APP.list_key("p", one, digits=8) == "app:p:list:476b04b6"
    assert APP.list_key("p", one, digits=8) == APP.list_key("p", other, digits=8)
    assert APP.list_key("p", one) != APP.list_key("p", other)


@pytest.mark.parametrize("digits", [7, 65, True, 8.0, None])
def test_a_hash_has_eight_to_sixty_four_digits(digits):
    assert len(APP.list_key("p", "q", digits=64)) == len("app:p:list:") + 64
    with pytest.raises(InvalidKeyError, match="digits is an int from 8 to 64"):
        APP.list_key("p", "q", digits=digits)


def test_the_order_of_a_mapping_does_not_matter_at_any_depth():
    one = {"page": 1, "where": {"a": None, "b": [1.5, True]}}
    other = OrderedDict(where=MappingProxyType({"b": [1.5, True], "a": None}), page=1)
    assert APP.list_key("p", one) == APP.list_key("p", other)


def test_query_values_of_different_types_give_different_keys():
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    values = [1, "1", True, "True", 1.0, None, "None", Decimal(1), Decimal("1.0"), -0.0, 0.0, ""]
    values += [[], (), {}, [1], (1,), [[1]], {1: 1}, {"1": 1}, [1, 1], ["11"], [11], {1: {1: 1}}]
    values += [naive, naive.date(), naive.replace(tzinfo=UTC), naive.isoformat(), "2024-01-01"]
    values += [SOME_UUID, str(SOME_UUID), "int 1:1", [1, "int 1:1"], Decimal("1E+2"), Decimal(100)]

    keys = {APP.list_key("p", {"value": value}) for value in values}

    assert len(keys) == len(values)


def test_a_str_cannot_pose_as_a_mapping():
    assert APP.list_key("p", "") != APP.list_key("p", {})
    assert APP.list_key("p", "map 0:") != APP.list_key("p", {})
    assert APP.list_key("p", "\xffmap 0:") != APP.list_key("p", {})


def test_the_hash_of_a_decimal_does_not_depend_on_the_arithmetic_context():
    key = APP.list_key("p", {"price": Decimal("1E+9")})
    with decimal.localcontext() as context:
        context.capitals = 0
        assert APP.list_key("p", {"price": Decimal("1E+9")}) == key


def test_a_subclass_of_datetime_speaks_for_itself():
    class Nanoseconds(datetime):
        def isoformat(self, *args):
            return super().isoformat(*args) + "001"

    exact, plain = Nanoseconds(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    assert APP.list_key("p", {"since": exact}) != APP.list_key("p", {"since": plain})


def test_a_query_that_contains_itself_is_refused():
    query = {}
    query["again"] = [query]
    with pytest.raises(InvalidKeyError, match="nested deeper than 32 levels, or contains itself"):
        APP.list_key("p", query)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (7, "query is to be a str or a mapping, not int"),
        (Shade.DARK, r"query is to be a str or a mapping, not Shade: pass its \.value"),
        (["page"], "query is to be a str or a mapping, not list"),
        ({"a": object()}, r"query\['a'\] is to be .*, not object: .*object\.__repr__"),
        ({"a": [1, {2}]}, r"query\['a'\]\[1\] is to be .*, not set"),
        ({"a": {"b": Colour.RED}}, r"query\['a'\]\['b'\] is to be .*, not Colour: pass its \.val"),
        ({"a": float("nan")}, r"query\['a'\] is to be .*, not float"),
        ({"a": Decimal("Infinity")}, r"query\['a'\] is to be .*, not Decimal"),
        ({object(): 1}, "a key of query is to be .*, not object"),
        ({"a": b"x"}, r"query\['a'\] is to be .*, not bytes: pass text"),
        ({"a": 1 << 2_048}, r"query\['a'\] is to be .*, not int: it is longer than 2048 bits"),
        ({"a": "\ud800"}, r"query\['a'\] holds a lone surrogate"),
        ("\ud800", "query holds a lone surrogate"),
        (MultiDict(tag="a"), "query is to be .*, not MultiDict: it may hold several values"),
        ({"a": MultiDict(tag="a")}, r"query\['a'\] is to be .*, not MultiDict"),
    ],
)
def test_a_query_that_has_no_text_of_its_own_is_refused_by_name(query, complaint):
    with pytest.raises(InvalidKeyError, match=f"^{complaint}"):
        APP.list_key("p", query)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "complaint"),
    [
        (True, "not bool: pass a word for what it stands for"),
        (1.0, "not float: pass text of a fixed format"),
        (Decimal(1), "not Decimal: pass text of a fixed format"),
        (None, "not NoneType: handle what is missing"),
        (b"1", "not bytes: pass text"),
        (Colour.RED, r"not Colour: pass its \.value"),
        (Shade.DARK, r"not Shade: pass its \.value"),
        (Level.LOW, r"not Level: pass its \.value"),
        (date(2024, 1, 1), r"not date: pass its isoformat\(\)"),
        (datetime(2024, 1, 1, tzinfo=UTC), r"not datetime: pass its isoformat\(\)"),
        (1 << 2_048, "not int: it is longer than 2048 bits"),
        (object(), r"not object: its text would depend on object\.__repr__"),
        ([1], r"not list: its text would depend on object\.__repr__"),
    ],
)
def test_components_that_have_no_one_text_are_refused_with_what_to_do(component, complaint):
    for name, call in {
        "entity": lambda: APP.build(component, 1),
        "id": lambda: APP.build("user", component),
        "version": lambda: APP.versioned("user", 1, component),
        r"prefix\[1\]": lambda: APP.pattern("user", 1, component),
        "a tag": lambda: APP.tag(component),
        "an entity": lambda: APP.generation(component),
    }.items():
        with pytest.raises(InvalidKeyError, match=rf"^{name} is to be a str, int or uuid\.UUID, {complaint}"):
            call()


@pytest.mark.parametrize("empty", ["", Shouting("")])
def test_an_empty_component_is_refused(empty):
    with pytest.raises(InvalidKeyError, match=r"^entity is empty"):
        APP.list_key(empty, "q")
    with pytest.raises(InvalidKeyError, match=r"^id is empty"):
        APP.build("user", empty)
    with pytest.raises(InvalidKeyError, match=r"^a tag is empty"):
        APP.tag(empty)
    with pytest.raises(InvalidKeyError, match=r"^an entity is empty"):
        APP.generation(empty)


def test_the_name_of_a_tag_stands_as_it_is_and_a_text_that_looks_like_one_is_a_tag():
    name = APP.generation("user")
    assert APP.tag(name) is name
    assert APP.tag(str(name)) == "t:g%3Auser"
    assert repr(name) == "TagName('g:user')"
    assert pickle.loads(pickle.dumps(name)) == name


def test_tags_are_limited_by_the_length_of_their_keys():
    small = KeyBuilder("app", max_key_bytes=10)
    assert small.tag("abc") == "t:abc"  # of which the key is app:%t:abc
    for call in (lambda: small.tag("abcd"), lambda: small.generation("éé")):
        with pytest.raises(InvalidKeyError, match="bytes is over the limit of 10: 'app:%"):
            call()


def test_tags_are_no_longer_than_entries_can_hold_their_names():
    large = KeyBuilder("app", max_key_bytes=100_000)
    longest = 16_000 - len("app:%t:")
    assert large.tag("a" * longest) == f"t:{'a' * longest}"
    for call in (lambda: large.tag("a" * (longest + 1)), lambda: large.generation("a" * (longest + 1))):
        with pytest.raises(InvalidKeyError, match="a tag is at most 16000 characters"):
            call()


def test_a_key_that_utf8_cannot_encode_is_refused():
    for call in (lambda: APP.build("user", "\ud800"), lambda: APP.literal("\ud800")):
        with pytest.raises(InvalidKeyError, match="lone surrogate"):
            call()


def test_keys_and_patterns_are_limited_in_bytes_not_characters():
    small = KeyBuilder("app", max_key_bytes=12)
    assert small.build("user", "ab") == small.literal("user:ab") == "app:user:ab"
    assert small.glob("user:é*") == "app:user:é*"  # 12 bytes
    for call in (
        lambda: small.build("user", "éé"),
        lambda: small.versioned("user", 1, 10),
        lambda: small.list_key("u", "q"),
        lambda: small.literal("user:éé"),
        lambda: small.pattern("user", "abc"),
        lambda: small.glob("user:é**"),
    ):
        with pytest.raises(InvalidKeyError, match="bytes is over the limit of 12: 'app:u"):
            call()


@pytest.mark.parametrize("limit", [0, -1, True, 8.0, None])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ConfigurationError, match="max_key_bytes is a positive number of bytes"):
        KeyBuilder("app", max_key_bytes=limit)


@pytest.mark.parametrize("namespace", ["app", "App_1.v2-beta", "a" * 128])
def test_a_namespace_is_ascii_letters_digits_and_three_signs(namespace):
    assert KeyBuilder(namespace).build("e", 1) == f"{namespace}:e:1"


@pytest.mark.parametrize("namespace", ["", "a" * 129, "a:b", "a b", "é", "٣", "a\n", "{a}", 7, None])
def test_other_namespaces_are_refused_with_what_is_allowed(namespace):
    with pytest.raises(InvalidKeyError, match=r"1 to 128 ASCII letters, digits, '_', '\."):
        KeyBuilder(namespace)


# --- texts of the caller ----------------------------------------------------------------------


def test_a_plain_str_means_the_key_inside_the_namespace_and_a_built_key_itself():
    built = APP.build("user", 1)
    assert APP.resolve("user:1") == built
    assert APP.resolve(built) is built
    assert type(APP.resolve("user:1")) is Key


def test_a_plain_glob_is_read_inside_the_namespace_and_a_built_pattern_stands():
    built = APP.pattern("user")
    assert APP.glob("user:*") == built
    assert APP.glob(built) is built
    assert type(APP.glob("user:*")) is Pattern


def test_a_pattern_is_no_key_and_a_key_no_pattern():
    with pytest.raises(InvalidKeyError, match="a key cannot be a Pattern, which is complete"):
        APP.resolve(APP.pattern("user"))
    with pytest.raises(InvalidKeyError, match="a pattern cannot be a Key, which is complete"):
        APP.glob(APP.build("user", 1))


def test_a_complete_key_is_not_put_into_the_namespace_twice():
    with pytest.raises(InvalidKeyError, match="a key cannot be a Key, which is complete"):
        APP.literal(APP.build("user", 1))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (7, r"cache\.key\.build\('user', 7\)"),
        (SOME_UUID, r"cache\.key\.build\('user', 7\)"),
        (1.5, r"cache\.key\.build\('user', 7\)"),
        (("user", 7), r"cache\.key\.build\(\*parts\)"),
        (["a", "b"], r"invalidate\(\*keys\), or to get_many\(keys\)"),
        ({"a", "b"}, r"invalidate\(\*keys\), or to get_many\(keys\)"),
        ({"a": 1}, r"invalidate\(\*keys\), or to get_many\(keys\)"),
        ((each for each in "ab"), r"invalidate\(\*keys\), or to get_many\(keys\)"),
        (None, "handle what is missing"),
        (b"user:1", r"\.decode\(\) of it"),
        (Colour.RED, r"pass its \.value"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_key_or_pattern_that_is_no_str_is_refused_with_what_to_write(given, advice):
    kind = type(given).__qualname__
    with pytest.raises(InvalidKeyError, match=f"^a key is to be a str, not {kind}: .*{advice}"):
        APP.resolve(given)
    with pytest.raises(InvalidKeyError, match=f"^a pattern is to be a str, not {kind}: .*{advice}"):
        APP.glob(given)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("build", ("user", 1)),
        ("build", (1,)),
        ("list_key", ("user", "page=1")),
        ("versioned", ("user", 1, 2)),
        ("pattern", ("user",)),
        ("literal", ("user:1",)),
        ("tag", ("users",)),
        ("generation", ("user",)),
        ("lists", ("user",)),
    ],
)
def test_a_method_of_a_builder_called_on_the_class_says_how_to_make_one(method, arguments):
    with pytest.raises(InvalidKeyError, match=rf"write KeyBuilder\('app'\)\.{method}\(…\), or cache\.key"):
        getattr(KeyBuilder, method)("myapp", *arguments)


# Keys that have passed through text.


@pytest.mark.parametrize(
    "through",
    [
        str,
        lambda key: f"{key}",
        lambda key: json.loads(json.dumps(key)),
        lambda key: key.encode().decode(),
        lambda key: Shouting(key),
        lambda key: key.removeprefix(""),
    ],
)
def test_a_built_key_or_pattern_that_was_made_a_text_is_refused_with_both_remedies(through):
    for built in (APP.build("user", 1), APP.literal("user:1"), APP.list_key("user", "q")):
        text = through(built)
        with pytest.raises(InvalidKeyError, match=r"Key\.parse\(text\) .* cache\.key\.literal\(text\)"):
            APP.resolve(text)
        assert APP.resolve(Key.parse(text)) == built
        assert APP.resolve(APP.literal(text)) == f"app:{built}"
    text = through(APP.pattern("user", 7))
    with pytest.raises(InvalidKeyError, match=r"Pattern\.parse\(text\)"):
        APP.glob(text)
    assert APP.glob(Pattern.parse(text)) == "app:user:7:*"


def test_an_entity_that_is_called_as_the_namespace_can_be_built_and_taken_back():
    key, pattern = APP.build("app", 7), APP.pattern("app")
    assert (key, pattern) == ("app:app:7", "app:app:*")
    assert APP.resolve(key) is key
    assert APP.glob(pattern) is pattern
    assert APP.resolve(Key.parse(str(key))) == key
    with pytest.raises(InvalidKeyError, match=r"Pattern\.parse\('app:app:\*'\)"):
        APP.glob("app:*")
    assert APP.resolve("app") == "app:app"
    assert APP.resolve("app.user:1") == "app:app.user:1"


def test_keys_and_patterns_of_other_namespaces_are_refused():
    other = KeyBuilder("other")
    for key in (other.build("user", 1), KeyBuilder("app2").build("user", 1), Key("user:1")):
        with pytest.raises(InvalidKeyError, match=r"namespace than 'app': build it with cache\.key\.b"):
            APP.resolve(key)
    for pattern in (other.pattern("user"), other.everything(), Pattern("*")):
        with pytest.raises(InvalidKeyError, match=r"namespace than 'app': build it with cache\.key\.p"):
            APP.glob(pattern)
    assert APP.resolve("other:user:1") == "app:other:user:1", "a text cannot be told from a literal key"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("user", "does not begin with a namespace and a colon"),
        ("", "does not begin with a namespace and a colon"),
        ("app:", "does not begin with a namespace and a colon"),
        (":user:1", "does not begin with a namespace and a colon"),
        ("a b:user:1", "does not begin with a namespace and a colon"),
        ("app:\ud800", "lone surrogate"),
        (b"app:user:1", r"got bytes: pass \.decode\(\) of it"),
        (7, "got int$"),
        (None, "got NoneType$"),
    ],
)
def test_a_text_that_can_be_no_key_is_not_parsed(text, why):
    for kind in (Key, Pattern):
        with pytest.raises(InvalidKeyError, match=why):
            kind.parse(text)


@pytest.mark.parametrize("marker", ["%t:", "%g:", "%w:", "%s:", "%l:"])
def test_a_record_of_the_cache_itself_is_not_parsed_as_a_key(marker):
    with pytest.raises(InvalidKeyError, match="the cache keeps its own records there"):
        Key.parse(f"app:{marker}x")


def test_a_complete_key_is_no_component():
    key = APP.build("user", 7)
    for call in (
        lambda: APP.build("user", key),
        lambda: APP.build(key, 7),
        lambda: APP.build("user", 7, key),
        lambda: APP.versioned("user", key, 1),
        lambda: APP.pattern("user", key),
        lambda: APP.list_key(APP.pattern("user"), "q"),
        lambda: APP.build("user", APP.tag("user")),
    ):
        with pytest.raises(InvalidKeyError, match="complete: pass what it was built of, or its text"):
            call()
    assert APP.build("lock", str(key)) == "app:lock:app%3Auser%3A7"
    assert APP.tag(key) == APP.tag(str(key)), "an entry may depend on another"


def test_the_name_of_a_tag_is_no_key():
    with pytest.raises(InvalidKeyError, match=r"a key cannot be a TagName: pass it as tags="):
        APP.resolve(APP.generation("user"))


@pytest.mark.parametrize(
    ("components", "key"),
    [
        (("user", "list"), "app:user:list"),
        (("user", "list", "ab"), "app:user:%6Cist:ab"),
        (("user", "list", "ab", "c"), "app:user:%6Cist:ab:c"),
        (("list", "lists", "list"), "app:list:lists:list"),
        (("user", 1, "v2"), "app:user:1:%762"),
        (("user", 1, "v2", "v3"), "app:user:1:%762:v3"),
        (("user", 1, "video"), "app:user:1:%76ideo"),
        (("user", 1, "v"), "app:user:1:v"),
        (("user", "v2"), "app:user:v2"),
    ],
)
def test_a_component_that_could_pose_as_a_list_or_a_version_is_escaped(components, key):
    assert APP.build(*components) == key
    pattern = APP.pattern(*components)
    if len(components) > 2:
        assert pattern == f"{key}:*"
    assert glob_match(pattern.encode(), APP.build(*components, "below").encode())


def test_an_empty_key_or_pattern_is_refused():
    with pytest.raises(InvalidKeyError, match="a key is empty"):
        APP.literal("")
    with pytest.raises(InvalidKeyError, match="a pattern is empty"):
        APP.glob("")


@pytest.mark.parametrize("marker", ["%t:", "%g:", "%w:", "%s:", "%l:"])
def test_internal_keys_are_out_of_reach_of_literal_keys(marker):
    assert APP.is_internal(f"app:{marker}x")
    assert not APP.is_internal(f"app:x:{marker}")
    assert not APP.is_internal(f"other:{marker}x")
    assert APP.literal(f"x{marker}") == f"app:x{marker}"
    with pytest.raises(InvalidKeyError, match=f"may not start with '{marker}'"):
        APP.literal(f"{marker}x")


# --- properties -------------------------------------------------------------------------------

# Few characters, so that chance finds look-alikes, and those of which separators, escapes, the word
# "list" and versions are made.
nasty_texts = st.text(":%3Avlist*{-\u2028é", min_size=1, max_size=5)
components = st.one_of(
    nasty_texts,
    st.sampled_from(["list", "%6Cist", "v1", "v", "%76", "%761", "1", "%t", "%3A", "a:b", "app"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.integers(),
    st.uuids(),
)
calls = st.one_of(
    st.lists(components, min_size=1, max_size=5).map(lambda parts: ("build", *parts)),
    st.tuples(st.just("versioned"), components, components, components),
    st.tuples(st.just("list_key"), components, nasty_texts),
    st.tuples(st.just("pattern"), components),
    st.tuples(st.just("pattern"), components, components),
    st.tuples(st.just("pattern"), components, components, components),
    st.tuples(st.just("tag"), components),
    st.tuples(st.just("generation"), components),
    st.tuples(st.just("lists"), components),
)


def built(call):
    method, *arguments = call
    return getattr(APP, method)(*arguments)


@given(calls, calls)
@example(("build", "a:b", "c"), ("build", "a", "b:c"))
@example(("versioned", "user", "list", "1"), ("list_key", "user", "1"))
@example(("build", "user", "1:v2"), ("versioned", "user", "1", "2"))
@example(("build", "user", "*"), ("pattern", "user"))
@example(("build", "user", "1", "v2"), ("versioned", "user", "1", "2"))
@example(("build", "user", "list", hex_of("q")[:32]), ("list_key", "user", "q"))
@example(("build", "user", "list", "x"), ("build", "user", "%6Cist", "x"))
def test_different_components_give_different_keys(one, other):
    """S10: over all methods, keys and tags are equal only if method and component texts are."""
    same = [str(part) for part in one] == [str(part) for part in other]
    assert (built(one) == built(other)) == same


keys = calls.filter(lambda call: call[0] in {"build", "versioned", "list_key"})


@given(keys, st.sampled_from(["app", "app2", "ap"]))
def test_a_key_that_passed_through_text_is_taken_back_and_names_nothing_else(call, namespace):
    builder = KeyBuilder(namespace)
    key = getattr(builder, call[0])(*call[1:])
    text = str(key)
    assert (Key.parse(text), type(Key.parse(text))) == (key, Key)
    assert Pattern.parse(text) == key
    with pytest.raises(InvalidKeyError, match=r"Key\.parse"):
        builder.resolve(text)


@given(st.lists(components, min_size=2, max_size=4), st.lists(components, min_size=1, max_size=2))
def test_a_pattern_of_leading_components_covers_all_keys_that_have_them(prefix, rest):
    pattern = APP.pattern(*prefix).encode()
    assert glob_match(pattern, APP.build(*prefix, *rest).encode())
    if len(prefix) == 2:
        assert glob_match(pattern, APP.versioned(*prefix, rest[0]).encode())


@given(st.lists(components, min_size=1, max_size=5).map(lambda parts: ("build", *parts)))
def test_components_can_be_read_back_from_a_key(call):
    """S10: encoding has an inverse, hence it is injective."""
    namespace, *encoded = built(call).split(":")
    assert namespace == "app"
    assert [unquote(part, errors="strict") for part in encoded] == [str(part) for part in call[1:]]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(-2, 2),
    st.decimals(-2, 2, places=1),
    st.text("1:s n", max_size=3),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, UTC])),
    st.uuids(),
)
queries = st.dictionaries(
    st.text("ab1", max_size=2),
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(leaves, inner, max_size=3),
        ),
        max_leaves=6,
    ),
    max_size=3,
)


def typed(value):
    """A value that equals another only if type and content are the same, at every level."""
    if isinstance(value, dict):
        return ("dict", frozenset((typed(key), typed(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), *map(typed, value))
    return (type(value), repr(value))


@given(queries, queries)
def test_queries_of_different_typed_content_give_different_keys(one, other):
    """S10: injective over typed values; the order of a mapping is not content."""
    same = typed(one) == typed(other)
    assert (APP.list_key("e", one) == APP.list_key("e", other)) == same
    assert APP.list_key("e", dict(reversed(one.items()))) == APP.list_key("e", one)


@given(calls, calls)
@example(("pattern", "user"), ("build", "userx", "1"))
@example(("pattern", "a-z"), ("build", "b", "1"))
def test_a_pattern_matches_what_begins_with_its_components_only(call, other):
    """S11: a built pattern covers exactly the keys whose bytes start with the encoded prefix."""
    assume(call[0] == "pattern")
    pattern, key = built(call).encode(), built(other).encode()
    assert glob_match(pattern, key) == key.startswith(pattern[:-1])
    assert glob_match(pattern, pattern[:-1] + key)


@given(st.lists(components, min_size=1, max_size=3), st.lists(components, min_size=1, max_size=5))
@example(["user", "list"], ["user", "list", "x"])
@example(["user", 1, "v2"], ["user", "1", "v2", "x"])
@example(["user"], ["user"])
def test_a_pattern_matches_the_built_keys_below_its_components_and_no_others(prefix, other):
    """S11: `build("user", 1, "orders")` is what `pattern("user", 1)` promises."""
    texts = [str(part) for part in other]
    is_below = len(other) > len(prefix) and texts[: len(prefix)] == [str(part) for part in prefix]
    assert glob_match(APP.pattern(*prefix).encode(), APP.build(*other).encode()) == is_below


@given(calls, st.sampled_from(["%t:", "%g:", "%w:", "%s:", "%l:"]), nasty_texts)
def test_no_component_reaches_the_internal_keys(call, marker, rest):
    """S11: built keys are never internal, built patterns never match an internal key."""
    assert not APP.is_internal(built(call))
    assert not glob_match(built(call).encode(), f"app:{marker}{rest}".encode())
