"""The budget: attempts end with the operation's deadline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.budget import MOST_REDIRECTS, Budget, StoreTimeouts
from sansio_cache.events import FailureKind, StoreFailed

TIMEOUT = FailureKind.TIMEOUT


def test_a_step_gets_250_ms_by_default_and_its_first_attempt_all_of_it():
    assert StoreTimeouts().from_now(10.0) == Budget(10.25, 0.25, 3)


@pytest.mark.parametrize(
    ("now_s", "timeout_s"), [(10.0, 0.5), (10.5, 0.5), (10.75, 0.25), (11.0, 0), (99, 0)]
)
def test_no_attempt_is_given_more_than_what_is_left(now_s, timeout_s):
    assert Budget(11.0, 0.5, 3).at(now_s) == Budget(11.0, timeout_s, 3)


def test_another_attempt_is_given_no_more_than_what_is_left_when_it_begins():
    assert Budget(11.0, 0.5, 3).after(StoreFailed(10.75, TIMEOUT)) == Budget(11.0, 0.25, 2)


def test_each_failure_costs_an_attempt():
    budget = Budget(11.0, 0.5, 3)
    budget = budget.after(StoreFailed(10.0, TIMEOUT))
    assert budget == Budget(11.0, 0.5, 2)
    budget = budget.after(StoreFailed(10.0, TIMEOUT))
    assert budget == Budget(11.0, 0.5, 1)
    assert budget.after(StoreFailed(10.0, TIMEOUT)) is None


def test_at_the_deadline_no_further_attempt_is_made():
    assert Budget(11.0, 0.5, 3).after(StoreFailed(10.99, TIMEOUT)) is not None
    assert Budget(11.0, 0.5, 3).after(StoreFailed(11.0, TIMEOUT)) is None


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_may_fare_better_at_once_is_retried(kind):
    retried = {
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.READ_ONLY,
        FailureKind.MISPAIRED,
        FailureKind.MOVED,
        FailureKind.RESET,
    }
    budget = Budget(11.0, 0.5, 3).after(StoreFailed(10.0, kind))
    assert (budget is not None) is (kind in retried)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1)), st.integers(1, 5), st.floats(0.001, 1))
def test_attempts_never_take_longer_together_than_the_operation_may(shares, attempts, operation_s):
    """L5: whatever part of its time every attempt takes."""
    now_s = 0.0
    budget = StoreTimeouts(operation_s, attempts).from_now(now_s)
    for share in shares:
        now_s += share * budget.timeout_s
        following = budget.after(StoreFailed(now_s, TIMEOUT))
        if following is None:
            break
        budget = following
    assert now_s <= operation_s + 1e-9


def test_being_sent_elsewhere_takes_no_attempt_and_does_not_go_on_for_ever():
    budget, moved = Budget(11.0, 0.5, 1), StoreFailed(10.0, FailureKind.MOVED)
    for _ in range(MOST_REDIRECTS):
        budget = budget.after(moved)
        assert budget.attempts == 1
    assert budget.after(moved) is None
    assert Budget(11.0, 0.5, 1).after(StoreFailed(11.0, FailureKind.MOVED)) is None, "nor past its time"
