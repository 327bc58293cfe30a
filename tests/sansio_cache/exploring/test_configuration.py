"""Configurations, and the values that stand in for a user's."""

from __future__ import annotations

import pytest

from sansio_cache.exploring import EARLY, PLAIN, Act, Configuration, Deed
from sansio_cache.exploring.configuration import _policy
from sansio_cache.exploring.running import Rows
from sansio_cache.loader import Fresh
from sansio_cache.strategies import CacheAside, WriteThrough


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


@pytest.mark.parametrize(("is_text", "version"), [(False, 7), (True, "7")])
def test_what_has_no_life_left_is_a_loaders_and_no_writers(is_text, version):
    act = Act(Deed.LOAD, is_text=is_text, is_outlived=True)
    assert act.loaded(7) == Fresh(version, ttl=0)
    assert act.value(7) == version
    assert Act(Deed.LOAD, is_text=is_text).loaded(7) == version


def test_an_act_stores_what_it_commits_as_its_deed_or_its_strategy_says():
    through, aside = Act(Deed.WRITE, strategy=WriteThrough()), Act(Deed.WRITE, strategy=CacheAside())
    setting, bare = Act(Deed.MUTATE_AND_SET), Act(Deed.MUTATE)
    assert [act.has_value for act in (through, aside, setting, bare)] == [True, False, True, False]
    assert all(act.is_mutation for act in (through, aside, setting, bare))
    assert not Act(Deed.SET).is_mutation
    assert not through.is_read


def test_that_there_is_nothing_is_the_first_version_where_an_act_says_so():
    act = Act(Deed.LOAD, begins_with_none=True)
    assert act.loaded(0) is None
    assert act.loaded(1) == 1
    assert Act(Deed.LOAD).loaded(0) == 0
