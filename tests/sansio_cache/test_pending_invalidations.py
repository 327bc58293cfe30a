"""Remembered invalidations: newest per key, bounded, forgotten only when the store was told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.pending_invalidations import PendingInvalidations


def test_keys_are_remembered_until_the_store_was_told():
    remembered = PendingInvalidations()
    remembered.remember(["a", "b"])
    assert "a" in remembered
    assert "c" not in remembered
    remembered.forget(remembered.pending(10))
    assert len(remembered) == 0
    assert "a" not in remembered


def test_the_oldest_come_first_and_a_key_that_fails_again_becomes_the_newest():
    remembered = PendingInvalidations()
    remembered.remember(["a", "b", "c"])
    remembered.remember(["a"])
    assert list(remembered.pending(10)) == ["b", "c", "a"]
    assert list(remembered.pending(2)) == ["b", "c"]
    assert dict(remembered.pending(0)) == {}


def test_a_key_that_failed_again_meanwhile_is_not_forgotten():
    remembered = PendingInvalidations()
    remembered.remember(["a", "b"])
    told = remembered.pending(10)
    remembered.remember(["a"])
    remembered.forget(told)
    assert "a" in remembered
    assert "b" not in remembered


def test_a_key_that_was_dropped_meanwhile_does_not_matter():
    remembered = PendingInvalidations(limit=1)
    remembered.remember(["a"])
    told = remembered.pending(10)
    remembered.remember(["b"])
    remembered.forget(told)
    assert list(remembered.pending(10)) == ["b"]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"))), st.integers(1, 5))
def test_it_never_holds_more_than_its_limit_and_keeps_the_newest(batches, limit):
    """B2."""
    remembered = PendingInvalidations(limit)
    newest: list[str] = []
    forgotten = 0
    for batch in batches:
        remembered.remember(batch)
        for key in batch:
            newest = [each for each in newest if each != key] + [key]
        forgotten += max(len(newest) - limit, 0)
        newest = newest[-limit:]
    assert list(remembered.pending(100)) == newest
    assert remembered.forgotten == forgotten


def test_it_tells_which_of_the_keys_belong_to_tags():
    remembered = PendingInvalidations()
    remembered.remember(["shop:a", "shop:%t:a", "shop:%g:user", "shop:%w:orders"])
    assert remembered.tags == {"shop:%t:a", "shop:%g:user"}
    remembered.forget({key: stamp for key, stamp in remembered.pending(10).items() if key == "shop:%t:a"})
    assert remembered.tags == {"shop:%g:user"}


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["shop:a", "shop:%t:a", "shop:b", "shop:%g:b"]))), st.integers(1, 3))
def test_the_tags_are_those_of_the_keys_that_are_left(batches, limit):
    remembered = PendingInvalidations(limit)
    for batch in batches:
        remembered.remember(batch)
        assert remembered.tags == {key for key in remembered.pending(9) if key.startswith("shop:%")}


def test_a_tag_that_was_given_up_for_newer_ones_is_not_told_of_any_more():
    remembered = PendingInvalidations(1)
    remembered.remember(["shop:%t:a"])
    remembered.remember(["shop:a"])
    assert remembered.tags == frozenset()
    assert remembered.forgotten == 1
