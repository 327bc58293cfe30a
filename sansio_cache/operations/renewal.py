"""Renewal: keep leases alive while a loader, or a writer's block, runs.

    Pausing --Woke--> Renewing --LeasesRenewed--> Pausing ...

A third of the lease passes, then the leases are renewed. It ends by itself when none of them is ours any
more, or when the longest time is reached (L6): a loader that hangs must not block others for ever
(fault 9). The driver ends it when the loader ends. A renewal that fails is tried again after the next
pause; if the lease lapses meanwhile and nobody took it, the cell still holds the grant or is gone, and
the fill decides.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import Lease, RenewLeases, Sleep
from sansio_cache.events import (
    Event,
    Interrupted,
    LeasesRenewed,
    RenewAnswer,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import LeaseLost, LeaseOutgrown, Notice, StoreErrored
from sansio_cache.step import Abandoned, Completed, Step, ended, unexpected


@attrs.frozen
class RenewalTerms:
    """How leases are renewed: for `lease_ms` each time, until `until_s` on the driver's clock."""

    lease_ms: int
    until_s: float
    timeouts: StoreTimeouts


@attrs.frozen
class Pausing:
    """Lets a third of the lease pass."""

    leases: tuple[Lease, ...]
    terms: RenewalTerms

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, Sleep(self.terms.lease_ms / 3000), notices=notices)

    def receive(self, event: Event) -> Step:
        """Renew, or stop where the longest time is over."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke(now_s=now_s):
                if now_s >= self.terms.until_s:
                    return ended(Completed(), *(LeaseOutgrown(each.key) for each in self.leases))
                command = RenewLeases(self.leases, self.terms.lease_ms, self.terms.timeouts.attempt_s)
                return Step(Renewing(self.leases, self.terms), command)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


@attrs.frozen
class Renewing:
    """Waits for the store to extend the leases."""

    leases: tuple[Lease, ...]
    terms: RenewalTerms

    def receive(self, event: Event) -> Step:
        """Go on with the leases that are still ours."""
        if not isinstance(event, RenewAnswer):
            raise unexpected(self, event)
        match event:
            case LeasesRenewed(renewed=renewed) if len(renewed) == len(self.leases):
                ours = tuple(lease for lease, is_ours in zip(self.leases, renewed, strict=True) if is_ours)
                lost = tuple(LeaseLost(each.key) for each in self.leases if each not in ours)
                if not ours:
                    return ended(Completed(), *lost)
                return Pausing(ours, self.terms).ask(*lost)
            case LeasesRenewed():
                raise unexpected(self, event)
            case StoreFailed(kind=kind):
                return Pausing(self.leases, self.terms).ask(StoreErrored(kind))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def renew(leases: tuple[Lease, ...], terms: RenewalTerms) -> Step:
    """Begin to keep leases alive."""
    return Pausing(leases, terms).ask()
