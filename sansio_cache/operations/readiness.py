"""Readiness: wait until the store serves, or until the time is up.

    ReadinessPinging --Ponged--> done
       ^      | failed, and there is time left
    Woke      v
    ReadinessPausing      the pause doubles, from 50 ms to 2 s

Where the time is up it says what the tries have met: a try that the end cuts off knows no more than that
there was no answer in time, so what an earlier one has met is said instead.

It states nothing but that the store has answered: who waits at the start of a program is no request, and has
found no outage.
"""

from __future__ import annotations

from typing import Final, assert_never

from msgspec import Struct

from sansio_cache.commands import Ping, Sleep
from sansio_cache.events import (
    Event,
    FailureKind,
    Interrupted,
    PingAnswer,
    Ponged,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import StoreAnswered
from sansio_cache.step import Abandoned, Completed, Step, ended, evolve, unavailable, unexpected

PROBE_S: Final = 1.0
"""How long one probe may take."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
_SHORTEST_PROBE_S: Final = 0.001


class ReadinessPinging(Struct, frozen=True):
    """Waits to hear whether the store serves.

    Next: ReadinessPausing | done
    """

    deadline_s: float
    """On the driver's clock."""
    pause_s: float = FIRST_PAUSE_S
    met: StoreFailed | None = None
    """The last failure that says more than that there was no answer in time."""

    def ask(self, now_s: float) -> Step:
        """The step that waits in this state."""
        return Step(self, Ping(min(max(self.deadline_s - now_s, _SHORTEST_PROBE_S), PROBE_S)))

    def receive(self, event: Event) -> Step:
        """End, or pause and try again."""
        if not isinstance(event, PingAnswer):
            raise unexpected(self, event)
        match event:
            case Ponged():
                return ended(Completed(), StoreAnswered())
            case StoreFailed():
                return self._pause(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def _pause(self, failure: StoreFailed) -> Step:
        met = self.met if failure.kind is FailureKind.TIMEOUT else failure
        left_s = self.deadline_s - failure.now_s
        if left_s <= FIRST_PAUSE_S:
            # The time may have ended in the middle of a try, which then knows nothing better.
            return ended(unavailable(met or failure))
        pause_s = min(self.pause_s, left_s - FIRST_PAUSE_S)
        return Step(ReadinessPausing(evolve(self, met=met)), Sleep(pause_s))


class ReadinessPausing(Struct, frozen=True):
    """Lets some time pass before the store is asked again.

    Next: ReadinessPinging | done
    """

    pinging: ReadinessPinging

    def receive(self, event: Event) -> Step:
        """Ask the store."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke(now_s=now_s):
                longer_s = min(2 * self.pinging.pause_s, LONGEST_PAUSE_S)
                return evolve(self.pinging, pause_s=longer_s).ask(now_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def wait_ready(limit_s: float, now_s: float) -> Step:
    """Begin to wait for the store, for `limit_s` seconds at most. Ends as `Completed` or `Unavailable`."""
    return ReadinessPinging(now_s + limit_s).ask(now_s)
