"""Renewal: keep leases alive while a loader, or a writer's block, runs.

    RenewalPausing --Woke--> RenewalRenewing --LeasesRenewed--> RenewalPausing ...

A third of the lease passes, then the leases are renewed. It ends by itself when none of them is ours any
more, or when the longest time is reached (L6): a loader that hangs must not block others for ever
(fault 9). The driver ends it when the loader ends. A renewal that fails is tried again after the next
pause; if the lease lapses meanwhile and nobody took it, the cell still holds the grant or is gone, and
the fill decides.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.commands import Renewal, RenewLeases, Sleep
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
from sansio_cache.step import Abandoned, Completed, Step, ended, evolve, unexpected


def renewed_after_s(lease_ms: int) -> float:
    """How long a lease is left alone before it is renewed, in seconds."""
    return lease_ms / 3000


def unrenewed_ms(lease_ms: int, took_s: float) -> int:
    """How long a lease was to last that is so old, in milliseconds; 0 where it may have been renewed."""
    return lease_ms if took_s < renewed_after_s(lease_ms) else 0


def unrenewed_hold_ms(renewal: Renewal | None, longest_s: float, now_s: float) -> int:
    """The same of holds that are renewed for so long at most; 0 where there are none."""
    if renewal is None:
        return 0
    return unrenewed_ms(renewal.lease_ms, longest_s - (renewal.until_s - now_s))


class RenewalPausing(Struct, frozen=True):
    """Lets a third of the lease pass.

    Next: RenewalRenewing | done
    """

    renewal: Renewal

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, Sleep(self.renewal.pause_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Renew, or stop where the longest time is over."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        renewal = self.renewal
        match event:
            case Woke(now_s=now_s):
                if now_s >= renewal.until_s:
                    return ended(Completed(), *(LeaseOutgrown(each.key) for each in renewal.leases))
                command = RenewLeases(renewal.leases, renewal.lease_ms, renewal.timeout_s)
                return Step(RenewalRenewing(renewal), command)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class RenewalRenewing(Struct, frozen=True):
    """Waits for the store to extend the leases.

    Next: RenewalPausing | done
    """

    renewal: Renewal

    def receive(self, event: Event) -> Step:
        """Go on with the leases that are still ours."""
        if not isinstance(event, RenewAnswer):
            raise unexpected(self, event)
        leases = self.renewal.leases
        match event:
            case LeasesRenewed(renewed=renewed) if len(renewed) == len(leases):
                ours = tuple(lease for lease, is_ours in zip(leases, renewed, strict=True) if is_ours)
                lost = tuple(LeaseLost(each.key) for each in leases if each not in ours)
                if not ours:
                    return ended(Completed(), *lost)
                return RenewalPausing(evolve(self.renewal, leases=ours)).ask(*lost)
            case LeasesRenewed():
                raise unexpected(self, event)
            case StoreFailed(kind=kind, part=part):
                return RenewalPausing(self.renewal).ask(StoreErrored(kind, part))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def renew(renewal: Renewal) -> Step:
    """Begin to keep leases alive."""
    return RenewalPausing(renewal).ask()
