"""What may go wrong between a cache and its store, in a world that allows it.

The numbers are those of the list of faults in `docs/design`. Which command meets which fault is a choice like
that of who goes on: it is enumerated, drawn, printed and repeated with the rest of the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from sansio_cache.commands import Ping, StoreCommand
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache_testing.scheduling import Recording, ScenarioError
from sansio_cache_testing.steps import (
    CACHE,
    Step,
    describe_asked,
    is_worth_telling,
    keys_of,
    place_of_caller,
    stored_by,
)


class StoreFault(Enum):
    """A fault of the store, or of the way to it."""

    REQUEST_LOST = "the request is lost"
    """Fault 1: the store never hears of it."""
    REPLY_LOST = "the reply is lost"
    """Fault 2: the store has done it, and nobody hears of that."""
    LATE = "the request comes late"
    """Faults 3 and 36: it is given up, and the store does it when something else has happened."""
    EVICTED = "the key is evicted"
    """Fault 12: it is gone before the command is done."""
    REFUSED = "the store refuses"
    """Faults 5 and 13 to 16."""


def allowed(faults: Iterable[StoreFault]) -> tuple[StoreFault, ...]:
    """The faults that a world allows, as they are given to it.

    Raises:
        ScenarioError: They are none, or one that is no list.
    """
    if isinstance(faults, StoreFault):
        raise ScenarioError(f"faults is a list of them: faults=[{faults}]")
    given = tuple(faults) if isinstance(faults, Iterable) else (faults,)
    unknown = [each for each in given if not isinstance(each, StoreFault)]
    if unknown:
        raise ScenarioError(
            f"faults are of StoreFault, as in faults=[StoreFault.LATE]; got {unknown[0]!r:.80}"
        )
    return given


class FaultyStore:
    """A store of a world: each command of it may meet a fault that the world allows.

    Args:
        store: What does the commands.
        recording: Chooses, and is told.
        allowed: What may happen. The choice to let nothing happen costs nothing.
    """

    def __init__(self, store: MemoryStore, recording: Recording, allowed: Sequence[StoreFault]) -> None:
        self.store = store
        self.fired: dict[StoreFault, int] = dict.fromkeys(allowed, 0)
        self._recording = recording
        self._allowed = tuple(allowed)
        self._late: list[StoreCommand] = []

    def perform(self, command: StoreCommand, who: str, prefix: str) -> StoreEvent:
        """Do what is asked, or what becomes of it."""
        self._let_late_ones_come(prefix)
        fault = self._fault(command)
        if fault is not None:
            self.fired[fault] += 1
        match fault:
            case StoreFault.REQUEST_LOST:
                event: StoreEvent = self._failed(FailureKind.TIMEOUT)
            case StoreFault.REPLY_LOST:
                self.store.perform(command)
                event = self._failed(FailureKind.TIMEOUT)
            case StoreFault.LATE:
                self._late.append(command)
                event = self._failed(FailureKind.TIMEOUT)
            case StoreFault.REFUSED:
                event = self._failed(FailureKind.UNAVAILABLE)
            case StoreFault.EVICTED:
                for key in keys_of(command):
                    self.store.plant(key, None, 0)
                event = self.store.perform(command)
            case None:
                event = self.store.perform(command)
        if is_worth_telling(command):
            self._tell(who, command, event, prefix, f" [{fault.value}]" if fault is not None else "")
        return event

    def _tell(self, who: str, command: StoreCommand, event: StoreEvent, prefix: str, mark: str = "") -> None:
        what = describe_asked(command, event, prefix) + mark
        stored = stored_by(command, event)
        self._recording.add(Step(who, what, CACHE, place_of_caller(), stored, keys_of(command)))

    def _fault(self, command: StoreCommand) -> StoreFault | None:
        if not self._allowed or isinstance(command, Ping):
            return None
        taken = self._recording.pick(1 + len(self._allowed))
        return self._allowed[taken - 1] if taken else None

    def _let_late_ones_come(self, prefix: str) -> None:
        while self._late:
            taken = self._recording.pick(1 + len(self._late))
            if not taken:
                return
            command = self._late.pop(taken - 1)
            self._tell("a late request", command, self.store.perform(command), prefix)

    def _failed(self, kind: FailureKind) -> StoreFailed:
        return StoreFailed(self._recording.clock(), kind)
