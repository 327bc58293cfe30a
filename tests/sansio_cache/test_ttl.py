"""Times to live and jitter: what is accepted, what is refused, what goes on the wire."""

from __future__ import annotations

import math
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_cache.errors import InvalidTtlError
from sansio_cache.policy import ttl_ms
from sansio_cache.ttl import (
    COLD,
    DEFAULT_TTL_S,
    HOT,
    MAX_TTL_S,
    MEDIUM,
    NO_JITTER,
    STATIC,
    Jitter,
    Tier,
    ttl_seconds,
)

ttls_s = st.floats(0.001, MAX_TTL_S)
shares = st.floats(0, 1)
jitters = st.tuples(shares, shares).map(lambda pair: Jitter(min(pair), max(pair)))
draws = st.floats(0, 1)


def test_tiers_are_ten_minutes_an_hour_a_day_and_a_week():
    assert [tier.ttl_s for tier in (HOT, MEDIUM, COLD, STATIC)] == [600, 3_600, 86_400, 604_800]
    assert DEFAULT_TTL_S == 3_600


@pytest.mark.parametrize(
    ("ttl", "expected_s"),
    [
        (60, 60.0),
        (0.5, 0.5),
        (0.001, 0.001),
        (MAX_TTL_S, MAX_TTL_S),
        (timedelta(minutes=5), 300.0),
        (timedelta(milliseconds=1), 0.001),
        (HOT, 600.0),
        (Tier("nightly", timedelta(hours=20)), 72_000.0),
    ],
)
def test_seconds_timedeltas_and_tiers_become_seconds(ttl, expected_s):
    assert ttl_seconds(ttl) == expected_s
    assert type(ttl_seconds(ttl)) is float


@pytest.mark.parametrize(
    "ttl",
    [
        *(0, -1, 0.000_999, math.nan, math.inf, -math.inf, 10**400, -(10**400), MAX_TTL_S + 1),
        *(timedelta(0), timedelta(days=-1), timedelta(microseconds=999), timedelta(days=3_651)),
    ],
)
def test_what_is_no_length_of_time_or_too_long_is_refused_with_the_limits(ttl):
    with pytest.raises(InvalidTtlError, match=r"0\.001 s to 315360000 s \(10 years\); got .* s$"):
        ttl_seconds(ttl)


@pytest.mark.parametrize("ttl", [True, "60", None, b"60", 60j])
def test_other_types_are_refused_by_name(ttl):
    with pytest.raises(InvalidTtlError, match=f"timedelta or a Tier; got {type(ttl).__name__}$"):
        ttl_seconds(ttl)


def test_a_tier_cannot_be_made_with_a_time_to_live_that_makes_no_sense():
    with pytest.raises(InvalidTtlError, match=r"got 0\.0 s"):
        Tier("never", 0)


def test_jitter_adds_ten_to_twenty_percent_by_default():
    assert ttl_ms(3_600.0, Jitter(), 0.0) == 3_960_000
    assert ttl_ms(3_600.0, Jitter(), 0.5) == 4_140_000
    assert ttl_ms(3_600.0, Jitter(), 1.0) == 4_320_000


def test_without_jitter_the_draw_changes_nothing():
    assert {ttl_ms(3_600.0, NO_JITTER, draw) for draw in (0.0, 0.3, 1.0)} == {3_600_000}


@pytest.mark.parametrize(
    ("low", "high"), [(-0.1, 0.2), (0.3, 0.2), (0.0, 1.1), (math.nan, 0.2), (0.1, math.nan)]
)
def test_a_jitter_range_that_is_none_is_refused(low, high):
    with pytest.raises(InvalidTtlError, match="0 <= low <= high <= 1"):
        Jitter(low, high)


@pytest.mark.parametrize("share", [True, "0.1", None])
def test_a_jitter_share_that_is_no_number_is_refused(share):
    with pytest.raises(InvalidTtlError, match=f"got {type(share).__name__}$"):
        Jitter(0, share)


@pytest.mark.parametrize("draw", [-0.001, 1.001, math.nan])
def test_a_draw_outside_of_zero_to_one_is_refused(draw):
    with pytest.raises(ValueError, match="a draw is a number from 0 to 1"):
        ttl_ms(60.0, NO_JITTER, draw)


def test_jitter_does_not_pass_the_longest_time_to_live():
    assert ttl_ms(MAX_TTL_S, Jitter(), 0.5) == MAX_TTL_S * 1000


def test_what_rounds_to_nothing_still_lives_a_millisecond():
    assert ttl_ms(0.000_1, NO_JITTER, 0.0) == 1


@given(ttls_s, jitters, draws)
@example(0.001, Jitter(), 0.0)
@example(3_600.0, Jitter(), 1 - 2**-53)
def test_the_wire_carries_whole_milliseconds_within_the_range_of_the_policy(ttl_s, jitter, draw):
    """B1: floor(ttl * (1 + low)) <= ms <= ceil(ttl * (1 + high)), whole, from 1 to the maximum."""
    max_ms = int(MAX_TTL_S * 1000)
    lowest, highest = (Fraction(ttl_s) * 1000 * (1 + Fraction(share)) for share in (jitter.low, jitter.high))

    ms = ttl_ms(ttl_s, jitter, draw)

    assert type(ms) is int
    assert min(math.floor(lowest), max_ms) <= ms <= min(math.ceil(highest), max_ms)
    assert 1 <= ms <= max_ms


@given(ttls_s, jitters, draws, draws)
def test_a_greater_draw_never_gives_a_shorter_life(ttl_s, jitter, one, other):
    """B1: monotone in the draw."""
    assert ttl_ms(ttl_s, jitter, min(one, other)) <= ttl_ms(ttl_s, jitter, max(one, other))
