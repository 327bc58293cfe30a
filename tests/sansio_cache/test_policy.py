"""The policy: what it refuses, and the times that it makes (B1)."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import HOT, NO_JITTER, CacheError, ConfigurationError, InvalidTtlError, Jitter, Policy
from sansio_cache.ttl import MAX_TTL_S


def test_the_defaults_are_an_hour_nothing_stale_and_leases_of_five_seconds():
    policy = Policy()
    assert policy.ttl == 3_600
    assert policy.stale_for_s == 0
    assert policy.lease_ms == 5_000
    assert policy.wait_s == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stale_for_s": -1}, "stale_for_s is seconds from 0 to 3.1536e+08; got -1"),
        ({"stale_for_s": math.nan}, "stale_for_s is seconds from 0 to 3.1536e+08; got nan"),
        ({"lease_s": 0.019}, "lease_s is seconds from 0.02 to 3600; got 0.019"),
        ({"lease_s": 3_601}, "lease_s is seconds from 0.02 to 3600; got 3601"),
        ({"lease_s": "5"}, "lease_s is seconds from 0.02 to 3600; got '5'"),
        ({"lease_s": True}, "lease_s is seconds from 0.02 to 3600; got True"),
        ({"max_lease_s": math.inf}, "max_lease_s is seconds from 0.02 to 86400; got inf"),
        ({"wait_s": None}, "wait_s is seconds from 0 to 86400; got None"),
        ({"jitter": 0.1}, "jitter is a Jitter; got float"),
        (
            {"lease_s": 10, "max_lease_s": 9},
            (
                "max_lease_s (9) is shorter than lease_s (10): a lease cannot be renewed for less than it "
                "lasts; raise max_lease_s or lower lease_s"
            ),
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(options, message):
    with pytest.raises(ConfigurationError) as caught:
        Policy(**options)
    assert str(caught.value) == message


def test_a_time_to_live_is_refused_as_one():
    with pytest.raises(InvalidTtlError):
        Policy(ttl=0)
    with pytest.raises(CacheError):
        Policy().with_ttl(-1)


@pytest.mark.parametrize("ttl", [600, HOT, timedelta(minutes=10)])
def test_seconds_timedeltas_and_tiers_are_the_same(ttl):
    assert Policy(ttl=ttl).ttl == 600
    assert Policy(stale_for_s=5).with_ttl(ttl) == Policy(ttl=600, stale_for_s=5)


@pytest.mark.parametrize(("lease_s", "lease_ms"), [(5, 5_000), (0.02, 20), (0.0201, 21)])
def test_a_lease_is_rounded_up_to_milliseconds(lease_s, lease_ms):
    assert Policy(lease_s=lease_s).lease_ms == lease_ms


def test_an_entry_that_may_be_served_stale_outlives_its_freshness():
    assert Policy(ttl=60, jitter=NO_JITTER).expiry_ms(0.5) == (60_000, 0)
    assert Policy(ttl=60, jitter=NO_JITTER, stale_for_s=30).expiry_ms(0.5) == (90_000, 60_000)
    assert Policy(ttl=60, jitter=NO_JITTER, stale_for_s=0.0001).expiry_ms(0.5) == (60_001, 60_000)


@settings(deadline=None)
@given(st.floats(0.001, MAX_TTL_S), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1_000))
def test_freshness_lies_in_the_jitters_range_and_grows_with_the_draw(ttl, draw, other, stale_for_s):
    """B1."""
    policy = Policy(ttl=ttl, jitter=Jitter(0.1, 0.2), stale_for_s=stale_for_s)

    def fresh_ms(number: float) -> int:
        hard_ms, soft_ms = policy.expiry_ms(number)
        if stale_for_s == 0:
            assert soft_ms == 0
            return hard_ms
        assert hard_ms == soft_ms + math.ceil(stale_for_s * 1000)
        return soft_ms

    longest_ms = MAX_TTL_S * 1000
    assert (
        min(math.floor(ttl * 1100), longest_ms)
        <= fresh_ms(draw)
        <= min(math.ceil(ttl * 1200) + 1, longest_ms)
    )
    assert fresh_ms(draw) >= 1
    assert fresh_ms(min(draw, other)) <= fresh_ms(max(draw, other))
