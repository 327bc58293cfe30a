"""Renewal: every third of a lease, only what is ours, and not for ever."""

from __future__ import annotations

import pytest

from sansio_cache.commands import Lease, Renewal, RenewLeases, Sleep
from sansio_cache.errors import ProtocolError
from sansio_cache.events import FailureKind, Interrupted, LeasesRenewed, StoreFailed, Woke
from sansio_cache.notices import LeaseLost, LeaseOutgrown, StoreErrored
from sansio_cache.operations.renewal import renew
from sansio_cache.step import Abandoned, Completed
from support.machines import Script

ONE, TWO = Lease("shop:a", bytes(15) + b"1"), Lease("shop:b", bytes(15) + b"2")


def begun(*leases):
    return Script(renew(Renewal(leases, 3_000, 10.0, 0.1, 1.0)))


def test_a_lease_is_renewed_after_a_third_of_it_again_and_again():
    script = begun(ONE)
    for now_s in (1.0, 2.0, 3.0):
        assert script.command == Sleep(1.0)
        script.give(Woke(now_s))
        assert script.command == RenewLeases((ONE,), 3_000, 0.1)
        script.give(LeasesRenewed(now_s, (True,)))
    assert script.command == Sleep(1.0)
    assert script.notices == []


def test_it_goes_on_with_the_leases_that_are_still_ours():
    script = begun(ONE, TWO).give(Woke(1.0), LeasesRenewed(1.0, (False, True)))
    assert script.notices == [LeaseLost("shop:a")]
    script.give(Woke(2.0))
    assert script.command == RenewLeases((TWO,), 3_000, 0.1)


def test_it_ends_when_none_is_ours_any_more():
    script = begun(ONE, TWO).give(Woke(1.0), LeasesRenewed(1.0, (False, False)))
    assert script.outcome == Completed()
    assert script.notices == [LeaseLost("shop:a"), LeaseLost("shop:b")]


def test_it_ends_at_the_longest_time():
    """L6: a loader that hangs does not block others for ever (fault 9)."""
    script = begun(ONE, TWO).give(Woke(9.9), LeasesRenewed(9.9, (True, True)), Woke(10.0))
    assert script.outcome == Completed()
    assert script.notices == [LeaseOutgrown("shop:a"), LeaseOutgrown("shop:b")]


def test_a_renewal_that_fails_is_tried_again_after_the_next_pause():
    script = begun(ONE).give(Woke(1.0), StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.command == Sleep(1.0)
    assert script.notices == [StoreErrored(FailureKind.TIMEOUT)]
    assert script.give(Woke(2.0)).command == RenewLeases((ONE,), 3_000, 0.1)


@pytest.mark.parametrize("events", [(), (Woke(1.0),)], ids=["pausing", "renewing"])
def test_interrupted_it_ends(events):
    assert begun(ONE).give(*events, Interrupted(1.0)).outcome == Abandoned()


@pytest.mark.parametrize("renewed", [(), (True, True)])
def test_an_answer_of_another_length_breaks_the_contract(renewed):
    with pytest.raises(ProtocolError):
        begun(ONE).give(Woke(1.0), LeasesRenewed(1.0, renewed))
