"""Questions about a queue: what is queued for a key, how much there is, which letters there are.

    ask:    QueueAsking --the answer--> done
    agree:  AgreeMeasuring --QueueMeasured--> AgreeMeasuring (next partition) ... --> done

*Agreement.* Which partition a key is in depends on how many there are. So before a process writes, reads or
applies, it asks the partitions how many they were made for. The first of them says it from then on that a
process has agreed; where it says nothing, all partitions are asked that there may be, and then those that
there are to be are told. A queue that has another number of them is changed where nothing is in it, no letter
either; where something is, the process is told so: two partitions with writes of one key have no order.
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
from sansio_cache.queues import MOST_PARTITIONS, root_of
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
            case EntriesFound(partitions=partitions) if partitions and isinstance(self.question, PeekEntries):
                return ended(Parted(partitions))
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
    letters: int = 0
    """How many letters."""
    is_unsaid: bool = False
    """Whether the first partition says nothing: then any may have been written to by a program of before."""
    is_telling: bool = False
    """Whether they are being told the number."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        root = root_of(request.namespace_root, request.name, self.place)
        partitions = request.partitions if self.is_telling else 0
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
            letters=self.letters + found.letters,
            is_unsaid=self.is_unsaid or (self.place == 0 and not found.partitions),
            budget=request.timeouts.from_now(found.now_s),
        )
        asks_all = after.is_unsaid and not self.is_telling
        if after.place < (MOST_PARTITIONS if asks_all else after.most):
            return after.ask()
        if after.other and (self.is_telling or after.backlog or after.letters):
            return ended(Parted(after.other, after.backlog, after.letters))
        if self.is_telling or not (after.other or after.is_unsaid):
            return ended(Completed())
        return evolve(after, place=0, other=0, backlog=0, letters=0, is_telling=True).ask()
