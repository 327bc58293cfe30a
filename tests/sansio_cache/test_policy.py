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
        ({"refresh_at": 0}, "refresh_at is None or a number above 0 and below 1; got 0"),
        ({"refresh_at": 1}, "refresh_at is None or a number above 0 and below 1; got 1"),
        ({"refresh_at": math.nan}, "refresh_at is None or a number above 0 and below 1; got nan"),
        ({"refresh_at": True}, "refresh_at is None or a number above 0 and below 1; got True"),
        ({"refresh_at": "0.8"}, "refresh_at is None or a number above 0 and below 1; got '0.8'"),
        ({"xfetch_beta": 0}, "xfetch_beta is None or a number above 0 and below 1000; got 0"),
        ({"xfetch_beta": 1_000}, "xfetch_beta is None or a number above 0 and below 1000; got 1000"),
        ({"retry_after_s": -1}, "retry_after_s is seconds from 0 to 86400; got -1"),
        ({"retry_after_s": 86_401}, "retry_after_s is seconds from 0 to 86400; got 86401"),
        ({"on_wait_timeout": "wait"}, "on_wait_timeout is one of load, stale, raise; got 'wait'"),
        ({"on_wait_timeout": None}, "on_wait_timeout is one of load, stale, raise; got None"),
        ({"on_read_error": "stale"}, "on_read_error is one of load, raise; got 'stale'"),
        ({"on_invalidate_error": "load"}, "on_invalidate_error is one of remember, raise; got 'load'"),
        (
            {"lease_s": 10, "max_lease_s": 9},
            (
                "max_lease_s (9) is shorter than lease_s (10): a lease cannot be renewed for less than it "
                "lasts; raise max_lease_s or lower lease_s"
            ),
        ),
        (
            {"refresh_at": 0.8, "xfetch_beta": 1.0},
            "refresh_at and xfetch_beta both say when to refresh early: give one",
        ),
        (
            {"on_wait_timeout": "stale"},
            (
                'on_wait_timeout="stale" with stale_for_s=0: nothing stale is kept that could be served; '
                "raise stale_for_s"
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
    with pytest.raises(InvalidTtlError):
        Policy(negative_ttl=0)
    with pytest.raises(CacheError):
        Policy().with_ttl(-1)


@pytest.mark.parametrize("ttl", [600, HOT, timedelta(minutes=10)])
def test_seconds_timedeltas_and_tiers_are_the_same(ttl):
    assert Policy(ttl=ttl).ttl == 600
    assert Policy(negative_ttl=ttl).negative_ttl == 600
    assert Policy(stale_for_s=5).with_ttl(ttl) == Policy(ttl=600, stale_for_s=5)


def test_another_time_to_live_that_contradicts_nothing_keeps_what_was_worked_out_before():
    policy = Policy(lease_s=1, refresh_at=0.5)
    assert policy.refreshes_early
    assert policy.lease_ms == 1_000
    assert policy.with_ttl(5) == Policy(ttl=5, lease_s=1, refresh_at=0.5)
    assert len({policy, Policy(lease_s=1, refresh_at=0.5)}) == 1


@pytest.mark.parametrize(
    ("options", "at_once", "early"),
    [
        ({}, False, False),
        ({"stale_for_s": 5}, True, False),
        ({"stale_for_s": 5, "on_wait_timeout": "raise"}, True, False),
        ({"stale_for_s": 5, "on_wait_timeout": "stale"}, False, False),
        ({"refresh_at": 0.8}, False, True),
        ({"xfetch_beta": 1}, False, True),
    ],
)
def test_it_says_whether_stale_values_are_served_at_once_and_fresh_ones_refreshed(options, at_once, early):
    policy = Policy(**options)
    assert policy.is_stale_served_at_once is at_once
    assert policy.refreshes_early is early


@pytest.mark.parametrize(("lease_s", "lease_ms"), [(5, 5_000), (0.02, 20), (0.0201, 21)])
def test_a_lease_is_rounded_up_to_milliseconds(lease_s, lease_ms):
    assert Policy(lease_s=lease_s).lease_ms == lease_ms


def test_an_entry_that_may_be_served_stale_outlives_its_freshness():
    assert Policy(ttl=60, jitter=NO_JITTER).expiry_ms(0.5) == (60_000, 0)
    assert Policy(ttl=60, jitter=NO_JITTER, stale_for_s=30).expiry_ms(0.5) == (90_000, 60_000)
    assert Policy(ttl=60, jitter=NO_JITTER, stale_for_s=0.0001).expiry_ms(0.5) == (60_001, 60_000)


@pytest.mark.parametrize("early", [{"refresh_at": 0.8}, {"xfetch_beta": 1.0}])
def test_an_entry_that_may_be_refreshed_early_says_when_it_stops_being_fresh(early):
    assert Policy(ttl=60, jitter=NO_JITTER, **early).expiry_ms(0.5) == (60_000, 60_000)
    assert Policy(ttl=60, jitter=NO_JITTER, stale_for_s=30, **early).expiry_ms(0.5) == (90_000, 60_000)


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


ttls = st.floats(0.001, MAX_TTL_S)
draws = st.floats(0, 1, exclude_max=True)


@settings(deadline=None)
@given(ttls, ttls, draws, st.sampled_from([0.0, 0.5, 60.0]))
def test_a_time_to_live_that_the_loader_gave_is_not_jittered(ttl, given_ttl, draw, stale_for_s):
    """B1: nor is it prolonged, by as little as it may be."""
    policy = Policy(ttl=ttl, jitter=Jitter(0.1, 0.9), stale_for_s=stale_for_s)
    hard_ms, soft_ms = policy.given_expiry_ms(given_ttl)
    fresh_ms = soft_ms if stale_for_s else hard_ms
    assert fresh_ms == max(1, math.floor(given_ttl * 1000))
    assert hard_ms == fresh_ms + math.ceil(stale_for_s * 1000)
    assert policy.negative_expiry_ms(given_ttl, draw) == (fresh_ms, 0)


@settings(deadline=None)
@given(ttls, ttls, draws, draws, st.sampled_from([{}, {"stale_for_s": 5}, {"refresh_at": 0.5}]))
def test_an_absence_lives_for_the_negative_ttl_or_the_ttl_and_is_never_stale(
    ttl, negative_ttl, draw, other, options
):
    """B1."""
    policy = Policy(ttl=ttl, negative_ttl=negative_ttl, jitter=Jitter(0.1, 0.2), **options)
    hard_ms, soft_ms = policy.negative_expiry_ms(None, draw)
    assert soft_ms == 0
    longest_ms, shorter = MAX_TTL_S * 1000, min(ttl, negative_ttl)
    assert hard_ms >= max(1, min(math.floor(shorter * 1100), longest_ms))
    assert hard_ms <= min(math.ceil(shorter * 1200) + 1, longest_ms)
    low, high = sorted((draw, other))
    assert policy.negative_expiry_ms(None, low) <= policy.negative_expiry_ms(None, high)


# Early refresh.

lives_ms = st.integers(1, 10**9)
loads_ms = st.integers(0, 2**32 - 1)
refresh_draws = st.integers(0, 2**32 - 1).map(lambda bits: (bits + 1) / 2**32)  # as a request makes them
early_policies = st.one_of(
    st.builds(lambda share: Policy(refresh_at=share), st.floats(0.001, 0.999)),
    st.builds(lambda beta: Policy(xfetch_beta=beta), st.floats(0.001, 999.0)),
)


@settings(deadline=None)
@given(early_policies, lives_ms, loads_ms, refresh_draws, refresh_draws, lives_ms, lives_ms)
def test_a_refresh_that_is_due_stays_due_and_the_more_so_the_lower_the_draw(
    policy, life_ms, load_ms, draw, other, after_ms, later_ms
):
    filled_ms = 10**12
    soft_ms = filled_ms + life_ms
    low, high = sorted((draw, other))
    early, late = sorted((filled_ms + after_ms, filled_ms + later_ms))

    def is_due(now_ms, number):
        return policy.is_refresh_due(now_ms, filled_ms, soft_ms, load_ms, number)

    assert is_due(early, high) <= is_due(late, high)
    assert is_due(early, high) <= is_due(early, low)
    assert is_due(soft_ms, high)  # at its end at the latest


@settings(deadline=None)
@given(st.floats(0.001, 0.999), lives_ms, refresh_draws)
def test_at_a_share_of_its_life_a_refresh_is_due_for_every_reader(share, life_ms, draw):
    policy = Policy(refresh_at=share)
    due_ms = math.ceil(share * life_ms)
    assert policy.is_refresh_due(due_ms, 0, life_ms, 0, draw)
    assert not policy.is_refresh_due(due_ms - 1, 0, life_ms, 0, draw)


@settings(deadline=None)
@given(st.floats(0.001, 999.0), lives_ms, lives_ms, loads_ms, loads_ms, refresh_draws)
def test_xfetch_is_the_earlier_the_longer_the_load_took(beta, now_ms, soft_ms, load_ms, other_ms, draw):
    policy = Policy(xfetch_beta=beta)
    short_ms, long_ms = sorted((load_ms, other_ms))
    assert policy.is_refresh_due(now_ms, 0, soft_ms, short_ms, draw) <= policy.is_refresh_due(
        now_ms, 0, soft_ms, long_ms, draw
    )


def test_xfetch_refreshes_as_often_as_its_authors_say():
    # P(due) with a time t left = P(-load * beta * ln(draw) >= t) = exp(-t / (load * beta)).
    policy = Policy(xfetch_beta=2.0)
    draws = [(bits + 1) / 10_000 for bits in range(10_000)]
    for left_ms in (10, 200, 1_000):
        due = sum(policy.is_refresh_due(5_000 - left_ms, 0, 5_000, 100, draw) for draw in draws)
        assert due / 10_000 == pytest.approx(math.exp(-left_ms / 200), abs=2e-4)


def test_without_either_no_refresh_is_ever_due():
    assert not Policy().is_refresh_due(10**12, 0, 1, 10**9, 2**-32)
