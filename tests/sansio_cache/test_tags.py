"""Tags: where their keys are, and what is known of their versions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.keys import KeyBuilder
from sansio_cache.tags import (
    GENERATION_MARKER,
    NO_VERSION,
    TAG_MARKER,
    VARIANT_OF,
    VERSION_BYTES,
    is_tag_key,
    known,
    tag_key,
    tag_keys,
)

V1, V2 = bytes(range(VERSION_BYTES)), bytes(VERSION_BYTES)


@pytest.mark.parametrize("key", ["shop:user:1", "shop:%t:users", "shop:", "shop"])
def test_the_key_of_a_tag_is_in_the_namespace_of_any_of_its_keys(key):
    assert tag_key(key, "t:users") == "shop:%t:users"
    assert tag_keys(key, ("t:users", "g:user")) == ("shop:%t:users", "shop:%g:user")
    assert tag_keys(key, ()) == ()


@pytest.mark.parametrize(
    ("key", "is_tag"),
    [
        ("shop:%t:users", True),
        ("shop:%g:user", True),
        ("shop:%w:orders", False),
        ("shop:%s:00:user:1", False),
        ("shop:user:1", False),
        ("shop:%25t:users", False),
        ("%t:users", False),
        ("shop", False),
        ("", False),
    ],
)
def test_a_key_is_a_tags_by_its_marker_behind_the_namespace(key, is_tag):
    assert is_tag_key(key) is is_tag


def test_the_keys_of_tags_are_internal_and_no_entry_can_have_one():
    """S10, S11."""
    keys = KeyBuilder("shop")
    for tag in (f"{TAG_MARKER}users", f"{GENERATION_MARKER}user"):
        assert keys.is_internal(tag_key(keys.root, tag))


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_different_tags_have_different_keys(one, other):
    """S10."""
    same = tag_key("shop:a", TAG_MARKER + one) == tag_key("shop:a", TAG_MARKER + other)
    assert same is (one == other)
    assert is_tag_key(tag_key("shop:a", TAG_MARKER + one))
    assert tag_key("shop:a", TAG_MARKER + one) != tag_key("shop:a", GENERATION_MARKER + other)


def test_versions_are_known_by_name_in_order():
    assert known("shop:a", ("t:a", "g:b"), (V1, NO_VERSION)) == (("t:a", V1), ("g:b", NO_VERSION))
    assert known("shop:a", (), ()) == ()


def test_a_tag_whose_removal_the_store_has_not_been_told_of_has_no_version():
    bypassed = frozenset({"shop:%g:b", "other:%t:a"})
    assert known("shop:a", ("t:a", "g:b"), (V1, V2), bypassed) == (("t:a", V1), ("g:b", NO_VERSION))


@pytest.mark.parametrize("bypassed", [frozenset(), frozenset({"shop:%t:a"})])
def test_each_tag_has_exactly_one_version(bypassed):
    with pytest.raises(ValueError, match="zip"):
        known("shop:a", ("t:a",), (V1, V2), bypassed)


def test_no_version_equals_none_that_an_entry_can_have():
    # An entry keeps versions of exactly 16 bytes.
    assert len(NO_VERSION) != VERSION_BYTES


def test_the_anchor_is_no_tag_that_a_caller_can_name():
    assert not VARIANT_OF.startswith((TAG_MARKER, GENERATION_MARKER))
    assert not is_tag_key(tag_key("shop:a", VARIANT_OF))
