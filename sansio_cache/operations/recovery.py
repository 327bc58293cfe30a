"""Recovery: find out when the store serves again, and tell it the invalidations it has missed.

    RecoveryPausing --Woke--> RecoveryPinging --Ponged--> RecoveryDeleting --KeysDeleted--> done
       ^                         | failed                    | failed
       +-------------------------+---------------------------+     the pause doubles, from 50 ms to 2 s

A driver runs it in the background while the breaker of a part is open or invalidations are pending, so that
no reader ever pays for a probe.
"""

from __future__ import annotations

from typing import Final, assert_never

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import DeleteKeys, Ping, Sleep
from sansio_cache.events import (
    DeleteAnswer,
    Event,
    Interrupted,
    KeysDeleted,
    PingAnswer,
    Ponged,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import Invalidated, Notice, StoreAnswered, StoreErrored
from sansio_cache.step import Abandoned, Completed, Step, ended, evolve, unexpected

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


@attrs.frozen
class RecoveryPausing:
    """Lets some time pass before the store is asked again.

    Next: RecoveryPinging | done
    """

    keys: tuple[str, ...]
    timeouts: StoreTimeouts
    part: str
    turn: int

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self.turn, 10), LONGEST_PAUSE_S)
        return Step(self, Sleep(pause_s), notices=notices)

    def again(self, failure: StoreFailed) -> Step:
        """Pause for longer."""
        return evolve(self, turn=self.turn + 1).ask(StoreErrored(failure.kind, failure.part))

    def receive(self, event: Event) -> Step:
        """Ask the store."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke():
                return Step(RecoveryPinging(self), Ping(self.timeouts.operation_s, self.part))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


@attrs.frozen
class RecoveryPinging:
    """Waits to hear whether the store serves.

    Next: RecoveryDeleting | RecoveryPausing | done
    """

    pausing: RecoveryPausing

    def receive(self, event: Event) -> Step:
        """Remove the keys of pending invalidations, or pause again."""
        if not isinstance(event, PingAnswer):
            raise unexpected(self, event)
        match event:
            case Ponged():
                keys, answered = self.pausing.keys, StoreAnswered(self.pausing.part)
                if not keys:
                    return ended(Completed(), answered)
                command = DeleteKeys(keys, self.pausing.timeouts.operation_s)
                return Step(RecoveryDeleting(self.pausing), command, notices=(answered,))
            case StoreFailed():
                return self.pausing.again(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


@attrs.frozen
class RecoveryDeleting:
    """Waits for the keys of pending invalidations to be removed.

    Next: RecoveryPausing | done
    """

    pausing: RecoveryPausing

    def receive(self, event: Event) -> Step:
        """End, or pause again."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted():
                return ended(Completed(), Invalidated(self.pausing.keys))
            case StoreFailed():
                return self.pausing.again(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def recover(keys: tuple[str, ...], timeouts: StoreTimeouts, part: str = ONE_PART) -> Step:
    """Begin to wait for a part of the store, and then to remove `keys`, its pending invalidations."""
    return RecoveryPausing(keys, timeouts, part, 0).ask()
