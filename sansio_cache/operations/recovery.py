"""Recovery: find out when the store serves again, and tell it the invalidations it has missed.

    RecoveryPausing --Woke--> RecoveryPinging --Ponged--> RecoveryDeleting --KeysDeleted--> done
                                 | failed                    | failed
                                 +---------------------------+--> done: the coordinator says when to try again

One machine is one attempt. A driver runs it in the background while the breaker of a part is open or
invalidations are pending, so that no reader ever pays for a probe; where nothing runs in the background any
more, as its event loop has ended, a caller runs one attempt, without the pause and bounded in time.

What is written in an outage is told at once, without a probe (`tell`): an UNLINK that arrives late is safe.

One key that the store refuses (by its access rules, say) must not keep it from hearing of the others: where
many keys are refused together, each half of them is told by itself, and so on down to the one.
"""

from __future__ import annotations

import math
from typing import Final, assert_never

from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import DeleteKeys, Ping, Sleep
from sansio_cache.events import (
    DeleteAnswer,
    Event,
    FailureKind,
    Interrupted,
    KeysDeleted,
    PingAnswer,
    Ponged,
    SleepAnswer,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import (
    Invalidated,
    InvalidationRefused,
    Notice,
    StoreAnswered,
    StoreErrored,
)
from sansio_cache.step import Abandoned, Completed, Recovered, Step, ended, evolve, unexpected

_OF_ONE_KEY: Final = frozenset({FailureKind.PERMISSION, FailureKind.OTHER})
"""Refusals that may concern one key and not the next."""


class RecoveryRequest(Struct, frozen=True):
    """What is to be asked, and told."""

    part: str
    keys: tuple[str, ...]
    timeouts: StoreTimeouts
    until_s: float = math.inf
    """When no more is to be begun, on the driver's clock: a caller waits."""

    def timeout_s(self, now_s: float) -> float:
        """How long a command may take that begins now."""
        return max(min(self.timeouts.operation_s, self.until_s - now_s), 0.0)

    def delete(self, now_s: float, *notices: Notice) -> Step:
        """Tell the keys, after a probe was answered; without `notices` there was none."""
        deleting = RecoveryDeleting(self, self.keys, (), (), (), is_probed=bool(notices))
        return deleting.ask(now_s, *notices)


def recover(request: RecoveryRequest, pause_s: float) -> Step:
    """Begin to wait for a part of the store, and then to remove its pending invalidations."""
    return Step(RecoveryPausing(request), Sleep(pause_s))


def recover_now(request: RecoveryRequest, now_s: float) -> Step:
    """The same without a pause, as somebody waits."""
    return RecoveryPausing(request).receive(Woke(now_s))


def tell(request: RecoveryRequest, now_s: float, chunk: int = 0) -> Step:
    """Begin to remove pending invalidations, whether or not the store is known to serve.

    `chunk` is how many keys may go into one command; 0 for all of them.
    """
    keys = request.keys
    if not 0 < chunk < len(keys):
        return request.delete(now_s)
    chunks = tuple(keys[first : first + chunk] for first in range(0, len(keys), chunk))
    return RecoveryDeleting(request, chunks[0], chunks[1:], (), (), is_probed=False).ask(now_s)


def rest(pause_s: float) -> Step:
    """Let some time pass, and ask for nothing: what is pending is not due yet."""
    return Step(RecoveryResting(), Sleep(pause_s))


class RecoveryResting(Struct, frozen=True):
    """Lets some time pass before somebody looks whether something is due.

    Next: done
    """

    def receive(self, event: Event) -> Step:
        """End."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        return ended(Abandoned() if isinstance(event, Interrupted) else Completed())


class RecoveryPausing(Struct, frozen=True):
    """Lets some time pass before the store is asked.

    Next: RecoveryPinging | done
    """

    request: RecoveryRequest

    def receive(self, event: Event) -> Step:
        """Ask the store."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case Woke(now_s=now_s):
                return Step(RecoveryPinging(request), Ping(request.timeout_s(now_s), request.part))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class RecoveryPinging(Struct, frozen=True):
    """Waits to hear whether the store serves.

    Next: RecoveryDeleting | done
    """

    request: RecoveryRequest

    def receive(self, event: Event) -> Step:
        """Remove the keys of pending invalidations, or end."""
        if not isinstance(event, PingAnswer):
            raise unexpected(self, event)
        match event:
            case Ponged(now_s=now_s):
                answered = StoreAnswered(self.request.part)
                if not self.request.keys or now_s >= self.request.until_s:
                    return ended(Recovered(), answered)
                return self.request.delete(now_s, answered)
            case StoreFailed(kind=kind, part=part):
                return ended(Recovered(failure=kind), StoreErrored(kind, part))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class RecoveryDeleting(Struct, frozen=True):
    """Waits for the keys of pending invalidations to be removed.

    Next: RecoveryDeleting | done
    """

    request: RecoveryRequest
    keys: tuple[str, ...]
    left: tuple[tuple[str, ...], ...]
    """What is to be told after that, by halves."""
    told: tuple[str, ...]
    refused: tuple[str, ...]
    is_probed: bool
    """Whether it is known that the store serves again."""

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = DeleteKeys(self.keys, self.request.timeout_s(now_s), insists=True)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Tell what is left, or end."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted(left=left, failures=failures) if left:
                gone = tuple(key for key in self.keys if key not in left)
                rest = evolve(self, keys=left, told=(*self.told, *gone), is_probed=True)
                step = rest.receive(failures[0])
                return evolve(step, notices=(Invalidated(gone), *step.notices)) if gone else step
            case KeysDeleted(now_s=now_s):
                answered = () if self.is_probed else (StoreAnswered(self.request.part),)
                after = evolve(self, told=(*self.told, *self.keys), is_probed=True)
                return after.go_on(now_s, *answered, Invalidated(self.keys))
            case StoreFailed(now_s=now_s, kind=kind, part=part):
                errored = StoreErrored(kind, part)
                if kind not in _OF_ONE_KEY:
                    return ended(Recovered(self.told, self.refused, kind), errored)
                if len(self.keys) > 1:
                    half = len(self.keys) // 2
                    halves = evolve(self, left=(self.keys[:half], self.keys[half:], *self.left))
                    return halves.go_on(now_s, errored)
                after = evolve(self, refused=(*self.refused, *self.keys))
                return after.go_on(now_s, errored, InvalidationRefused(self.keys, kind))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def go_on(self, now_s: float, *notices: Notice) -> Step:
        """Tell what is left, unless there is no time left."""
        if not self.left or now_s >= self.request.until_s:
            return ended(Recovered(self.told, self.refused), *notices)
        return evolve(self, keys=self.left[0], left=self.left[1:]).ask(now_s, *notices)
