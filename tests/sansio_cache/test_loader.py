"""What a loader may give back, and what it may be told."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from sansio_cache import HOT, Absent, Fresh, InvalidTtlError, LoadContext
from sansio_cache.ttl import MAX_TTL_S


@pytest.mark.parametrize("ttl", [600, 600.0, timedelta(minutes=10), HOT])
def test_a_time_to_live_is_seconds_a_timedelta_or_a_tier(ttl):
    assert Fresh(7, ttl=ttl).ttl == 600.0
    assert Absent(ttl=ttl).ttl == 600.0


@pytest.mark.parametrize("ttl", [0, -30, 1e-9, float("-inf"), -(10**400), timedelta(days=-1), timedelta(0)])
def test_nothing_may_be_left_of_a_life_that_comes_from_data(ttl):
    assert Fresh(7, ttl=ttl).ttl == 0.0
    assert Absent(ttl=ttl).ttl == 0.0


@pytest.mark.parametrize("ttl", [2**31, 10**12, 10**400, float("inf"), timedelta.max])
def test_a_life_that_comes_from_data_is_never_longer_than_the_longest(ttl):
    assert Fresh(7, ttl=ttl).ttl == MAX_TTL_S
    assert Absent(ttl=ttl).ttl == MAX_TTL_S


@pytest.mark.parametrize("ttl", [float("nan"), True, "60", b"60", [60]])
def test_what_is_no_time_to_live_is_refused(ttl):
    with pytest.raises(InvalidTtlError):
        Fresh(7, ttl=ttl)
    with pytest.raises(InvalidTtlError):
        Absent(ttl=ttl)


def test_a_fresh_value_needs_a_time_to_live_and_an_absence_does_not():
    with pytest.raises(InvalidTtlError):
        Fresh(7, ttl=None)
    assert Absent() == Absent(ttl=None)
    assert Absent().ttl is None


def test_the_time_to_live_is_named():
    with pytest.raises(TypeError):
        Fresh(7, 60)
    with pytest.raises(TypeError):
        Absent(60)


@pytest.mark.parametrize("value", [[1], {"a": 1}, None])
def test_all_of_them_are_immutable_and_can_be_hashed_whatever_they_hold(value):
    for given in (Fresh(value, ttl=60), Absent(ttl=60), LoadContext("shop:a", value)):
        hash(given)
        name = attrs.fields(type(given))[0].name
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(given, name, 1)
    assert Fresh(value, ttl=60) == Fresh(value, ttl=60)
    assert Fresh(value, ttl=60) != Fresh(value, ttl=61)


def test_a_context_knows_no_previous_value_unless_there_is_one():
    assert LoadContext("shop:a").previous is None
    assert LoadContext("shop:a", 6).previous == 6


def test_a_none_is_a_value_and_not_an_absence():
    assert Fresh(None, ttl=60).value is None
    assert Fresh(None, ttl=60) != Absent(ttl=60)
