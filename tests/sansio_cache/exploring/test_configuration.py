"""Configurations, and the values that stand in for a user's."""

from __future__ import annotations

from sansio_cache.exploring import EARLY, PLAIN, Act, Configuration, Deed
from sansio_cache.exploring.configuration import _policy
from sansio_cache.exploring.running import Rows


def test_policies_are_compared_by_identity():
    same = _policy(ttl=1.0)
    assert same == same
    assert same != _policy(ttl=1.0)
    assert PLAIN != EARLY


def test_acts_are_found_once():
    read, write = Act(Deed.LOAD), Act(Deed.INVALIDATE, (1,))
    configuration = Configuration(name="", processes=(((read, write),), ((read,),)))
    assert configuration.acts == (read, write)
    assert configuration.places == range(2)
    assert not configuration.expires


def test_rows_are_a_mapping_that_can_be_hashed():
    rows = Rows((("a", 1), ("b", 2)))
    assert dict(rows) == {"a": 1, "b": 2}
    assert len(rows) == 2
    assert hash(rows) == hash(Rows((("a", 1), ("b", 2))))
