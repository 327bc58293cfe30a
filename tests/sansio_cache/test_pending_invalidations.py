"""Pending invalidations: newest per key, bounded, forgotten only when the store was told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.pending_invalidations import FIRST_REFUSAL_S, PendingInvalidations


def test_keys_are_pending_until_the_store_was_told():
    pending = PendingInvalidations()
    pending.add(["a", "b"])
    assert "a" in pending
    assert "c" not in pending
    pending.forget(pending.oldest(10))
    assert len(pending) == 0
    assert "a" not in pending


def test_the_oldest_come_first_and_a_key_that_fails_again_becomes_the_newest():
    pending = PendingInvalidations()
    pending.add(["a", "b", "c"])
    pending.add(["a"])
    assert list(pending.oldest(10)) == ["b", "c", "a"]
    assert list(pending.oldest(2)) == ["b", "c"]
    assert dict(pending.oldest(0)) == {}


def test_a_key_that_failed_again_meanwhile_is_not_forgotten():
    pending = PendingInvalidations()
    pending.add(["a", "b"])
    told = pending.oldest(10)
    pending.add(["a"])
    pending.forget(told)
    assert "a" in pending
    assert "b" not in pending


def test_a_key_that_was_dropped_meanwhile_does_not_matter():
    pending = PendingInvalidations(limit=1)
    pending.add(["a"])
    told = pending.oldest(10)
    pending.add(["b"])
    pending.forget(told)
    assert list(pending.oldest(10)) == ["b"]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"))), st.integers(1, 5))
def test_it_never_holds_more_than_its_limit_and_keeps_the_newest(batches, limit):
    """B2."""
    pending = PendingInvalidations(limit)
    newest: list[str] = []
    forgotten = 0
    for batch in batches:
        pending.add(batch)
        for key in batch:
            newest = [each for each in newest if each != key] + [key]
        forgotten += max(len(newest) - limit, 0)
        newest = newest[-limit:]
    assert list(pending.oldest(100)) == newest
    assert pending.forgotten == forgotten


def test_it_tells_which_of_the_keys_belong_to_tags():
    pending = PendingInvalidations()
    pending.add(["shop:a", "shop:%t:a", "shop:%g:user", "shop:%w:orders"])
    assert pending.tags == {"shop:%t:a", "shop:%g:user"}
    pending.forget({key: stamp for key, stamp in pending.oldest(10).items() if key == "shop:%t:a"})
    assert pending.tags == {"shop:%g:user"}


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["shop:a", "shop:%t:a", "shop:b", "shop:%g:b"]))), st.integers(1, 3))
def test_the_tags_are_those_of_the_keys_that_are_left(batches, limit):
    pending = PendingInvalidations(limit)
    for batch in batches:
        pending.add(batch)
        assert pending.tags == {key for key in pending.oldest(9) if key.startswith("shop:%")}


def test_a_tag_that_was_given_up_for_newer_ones_is_not_told_of_any_more():
    pending = PendingInvalidations(1)
    pending.add(["shop:%t:a"])
    pending.add(["shop:a"])
    assert pending.tags == frozenset()
    assert pending.forgotten == 1


def test_without_keys_there_are_no_tags():
    # An interrupt may have struck between the two, in `forget`.
    pending = PendingInvalidations()
    pending.add(["shop:%t:a", "shop:%t:b"])
    told = pending.oldest(10)
    del pending._stamps["shop:%t:a"]
    pending.forget(told)
    assert pending.tags == frozenset()


def test_a_key_that_is_refused_waits_for_its_turn_and_the_others_do_not():
    pending = PendingInvalidations()
    pending.add(["a", "b", "c"])
    told = pending.oldest(9)
    pending.add(["c"])
    pending.refuse({"a": told["a"], "c": told["c"], "gone": 7}, 5.0)
    assert set(pending.refused) == {"a"}, "the other has failed again since, and the last is not there"
    assert list(pending.oldest(9, 5.0)) == ["b", "c"]
    assert list(pending.oldest(9, pending.next_due_s)) == ["a", "b", "c"]


def test_who_keeps_writing_to_a_key_that_is_refused_does_not_put_its_next_turn_off():
    pending = PendingInvalidations()
    for number in range(20):
        now_s = 5.0 + number / 100
        pending.add(["a"], now_s)
        pending.refuse(pending.newest(9), now_s)
    assert pending.next_due_s == 5.0 + FIRST_REFUSAL_S
    pending.refuse(pending.oldest(9, 6.0), 6.0)
    assert pending.next_due_s == 6.0 + 2 * FIRST_REFUSAL_S


def test_a_key_that_is_refused_is_given_up_when_what_was_stored_before_has_expired():
    pending = PendingInvalidations()
    pending.add(["a", "shop:%t:a", "b"])
    pending.refuse(pending.oldest(9), 5.0)
    pending.add(["b"], 7.0)
    assert pending.give_up(4.9) == 0
    assert pending.give_up(5.0) == 2
    assert list(pending.newest(9)) == ["b"], "what was stored before its latest invalidation may be there"
    assert pending.tags == frozenset()
    assert pending.give_up(7.0) == 1
    assert len(pending) == 0
    assert pending.refused == {}


def test_a_snapshot_is_a_value_of_which_another_can_be_made():
    pending, other = PendingInvalidations(), PendingInvalidations()
    pending.add(["shop:a", "shop:%t:a", "shop:b"])
    pending.add(["shop:a"])
    assert pending.snapshot() == (("shop:%t:a", 2), ("shop:b", 3), ("shop:a", 4))
    told = pending.oldest(10)
    other.restore(pending.snapshot(), pending.refused)
    assert other.snapshot() == pending.snapshot()
    assert other.tags == {"shop:%t:a"}
    other.add(["shop:b"])
    other.forget(told)
    assert list(other.oldest(10)) == ["shop:b"]
    other.restore((), {})
    assert len(other) == 0
