"""Questions about a queue: what is queued for a key, how much there is, which letters there are.

    ask:    QueueAsking --the answer--> done
    agree:  AgreeMeasuring --QueueMeasured--> AgreeMeasuring (next partition) ... --> done

*Agreement.* Which partition a key is in depends on how many there are. So before a process writes, or
applies, it asks all partitions how many they were made for. A queue that has another number of them is
changed where nothing is in it; where something is, the process is told so: two partitions with writes of one
key have no order.
"""

from __future__ import annotations

from typing import Final, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.commands import DropLetters, MeasureQueue, PeekEntries, ReadLetters
from sansio_cache.events import (
    EntriesFound,
    Event,
    Interrupted,
    KeysDeleted,
    MeasureAnswer,
    QueueMeasured,
    StoreFailed,
)
from sansio_cache.notices import Notice
from sansio_cache.queues import root_of
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    Completed,
    Parted,
    QueueAnswered,
    Step,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
)

Question = PeekEntries | MeasureQueue | ReadLetters | DropLetters
_ANSWERS: Final[dict[type[Question], type[EntriesFound | QueueMeasured | KeysDeleted]]] = {
    PeekEntries: EntriesFound,
    MeasureQueue: QueueMeasured,
    ReadLetters: EntriesFound,
    DropLetters: KeysDeleted,
}


def ask(question: Question, timeouts: StoreTimeouts, now_s: float) -> Step:
    """Begin to ask about a partition."""
    return QueueAsking(question, timeouts.from_now(now_s)).ask()


class QueueAsking(AsksStore, Struct, frozen=True):
    """Waits for the answer to a question.

    Next: QueueAsking | done
    """

    question: Question
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, evolve(self.question, timeout_s=self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End."""
        match event:
            case EntriesFound() | QueueMeasured() | KeysDeleted() if (
                type(event) is _ANSWERS[type(self.question)]
            ):
                return ended(QueueAnswered(event))
            case StoreFailed():
                return self.retry(event) or ended(unavailable(event), *gave_up(event))
            case Interrupted():
                return ended(Abandoned())
            case _:
                raise unexpected(self, event)


class AgreeRequest(Struct, frozen=True):
    """How many partitions a queue is to have."""

    namespace_root: str
    name: str
    """The queue's, as it stands in keys."""
    partitions: int
    timeouts: StoreTimeouts
    started_s: float


def agree(request: AgreeRequest) -> Step:
    """Begin to agree on the number of partitions."""
    budget = request.timeouts.from_now(request.started_s)
    return AgreeMeasuring(request, 0, request.partitions, budget).ask()


class AgreeMeasuring(AsksStore, Struct, frozen=True):
    """Waits to hear of one partition.

    Next: AgreeMeasuring | done
    """

    request: AgreeRequest
    place: int
    most: int
    """How many partitions to ask: as many as there are said to be anywhere."""
    budget: Budget
    other: int = 0
    """Another number of partitions that was met; 0 where none was."""
    backlog: int = 0
    """How many entries there are in those that were asked."""
    is_changing: bool = False
    """Whether they are being told the number, as nothing is in them."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        root = root_of(request.namespace_root, request.name, self.place)
        partitions = request.partitions if self.is_changing else 0
        return Step(self, MeasureQueue(root, self.budget.timeout_s, partitions), notices=notices)

    def receive(self, event: Event) -> Step:
        """Ask the next, or end."""
        if not isinstance(event, MeasureAnswer):
            raise unexpected(self, event)
        match event:
            case QueueMeasured():
                return self._next(event)
            case StoreFailed():
                return self.retry(event) or ended(unavailable(event), *gave_up(event))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def _next(self, found: QueueMeasured) -> Step:
        request = self.request
        is_other = found.partitions not in (0, request.partitions)
        after = evolve(
            self,
            place=self.place + 1,
            most=max(self.most, found.partitions),
            other=found.partitions if is_other else self.other,
            backlog=self.backlog + found.backlog,
            budget=request.timeouts.from_now(found.now_s),
        )
        if after.place < after.most:
            return after.ask()
        if not after.other or (self.is_changing and not after.backlog):
            return ended(Completed())
        if after.backlog or self.is_changing:
            return ended(Parted(after.other, after.backlog))
        return evolve(after, place=0, other=0, is_changing=True).ask()
