"""Strategies are values: what each decides, and what is refused."""

import attrs
import pytest

from sansio_cache import (
    CacheAside,
    ConfigurationError,
    Policy,
    RefreshAhead,
    WriteBehind,
    WriteThrough,
)
from sansio_cache.strategies import DEFAULT_REFRESH_AT, check_strategy, policy_under, stores_writes

EARLY = Policy(xfetch_beta=2.0)


@pytest.mark.parametrize(
    ("strategy", "stores"),
    [
        (CacheAside(), False),
        (WriteThrough(), True),
        (RefreshAhead(), False),
        (RefreshAhead(at=0.5), False),
        (WriteBehind(), False),
    ],
)
def test_only_write_through_stores_what_was_written(strategy, stores):
    assert stores_writes(strategy) is stores


@pytest.mark.parametrize(
    ("strategy", "refresh_at", "xfetch_beta"),
    [
        (CacheAside(), None, 2.0),
        (WriteThrough(), None, 2.0),
        (RefreshAhead(), DEFAULT_REFRESH_AT, None),
        (RefreshAhead(at=0.5), 0.5, None),
        (RefreshAhead(beta=1), None, 1),
    ],
)
def test_refreshing_ahead_goes_before_what_the_policy_says_of_it_and_changes_nothing_else(
    strategy, refresh_at, xfetch_beta
):
    policy = policy_under(strategy, EARLY)
    assert (policy.refresh_at, policy.xfetch_beta) == (refresh_at, xfetch_beta)
    assert attrs.evolve(policy, refresh_at=None, xfetch_beta=2.0) == EARLY


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"at": 0.5, "beta": 1.0}, "give one"),
        ({"at": 1.0}, "at is None or a number above 0 and below 1; got 1.0"),
        ({"at": "early"}, "at is None or a number"),
        ({"beta": 0}, "beta is None or a number above 0 and below 1000; got 0"),
        ({"beta": True}, "beta is None or a number"),
    ],
)
def test_a_refresh_that_can_never_be_is_refused(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        RefreshAhead(**arguments)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (WriteThrough, r"write WriteThrough\(\), with parentheses"),
        (RefreshAhead, r"write RefreshAhead\(\), with parentheses"),
        (
            "write-through",
            r"strategy= takes CacheAside\(\), .* or WriteBehind\(\) .*; got 'write-through'",
        ),
        (str, "strategy= takes CacheAside"),
        (None, "got None"),
    ],
)
def test_what_is_no_strategy_is_refused_with_what_to_write(strategy, says):
    with pytest.raises(ConfigurationError, match=says):
        check_strategy(strategy)


def test_strategies_are_values():
    check_strategy(RefreshAhead(at=0.5))
    assert RefreshAhead(at=0.5) == RefreshAhead(at=0.5) != RefreshAhead(beta=0.5)
    assert len({CacheAside(), CacheAside(), WriteThrough(), RefreshAhead()}) == 3


def test_write_behind_keeps_what_the_policy_says_about_reads():
    policy = Policy(refresh_at=0.5)
    assert policy_under(WriteBehind(), policy) is policy
    assert WriteBehind(deliveries=None).deliveries is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"partitions": 0}, "partitions is a whole number from 1 to 256"),
        ({"batch": True}, "batch is a whole number"),
        ({"deliveries": 0}, "deliveries is a whole number"),
        ({"delay_s": 0}, "delay_s is seconds"),
        ({"reads_in_outage": "guess"}, "reads_in_outage is one of raise, load"),
    ],
)
def test_write_behind_refuses_what_is_out_of_range(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        WriteBehind(**arguments)
