"""The breaker: opened by one outage, closed by an answer, not moved by anything else."""

from __future__ import annotations

import pytest

from sansio_cache.breaker import Breaker
from sansio_cache.events import FailureKind

OUTAGES = {
    FailureKind.TIMEOUT,
    FailureKind.CONNECTION,
    FailureKind.UNAVAILABLE,
    FailureKind.AUTHENTICATION,
    FailureKind.HANDSHAKE,
}


@pytest.mark.parametrize("kind", FailureKind)
def test_an_operation_that_gave_up_on_an_outage_opens_it_and_no_other_failure_does(kind):
    breaker = Breaker().after_failure(kind, 5.0)
    assert breaker.is_open is (kind in OUTAGES)
    assert breaker == (Breaker(5.0, kind) if kind in OUTAGES else Breaker())


@pytest.mark.parametrize("kind", FailureKind)
def test_what_this_process_lacks_or_has_done_itself_is_no_outage(kind):
    assert not (kind.is_local and kind.is_outage)
    assert kind.is_local is (kind in {FailureKind.RESET, FailureKind.OVERLOADED, FailureKind.EXHAUSTED})


def test_it_keeps_the_moment_and_the_failure_that_opened_it():
    breaker = Breaker().after_failure(FailureKind.TIMEOUT, 5.0)
    assert breaker.after_failure(FailureKind.CONNECTION, 9.0) == Breaker(5.0, FailureKind.TIMEOUT)


def test_it_may_open_at_the_very_start_of_the_clock():
    assert Breaker().after_failure(FailureKind.TIMEOUT, 0.0).is_open


def test_an_answered_probe_closes_it():
    breaker = Breaker().after_failure(FailureKind.TIMEOUT, 5.0).after_answer()
    assert not breaker.is_open
    assert breaker == Breaker()
