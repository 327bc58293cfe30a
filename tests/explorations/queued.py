"""Known mistakes of queues that the simulator is to catch, beside those that the explorer of queues does."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import attrs

from explorations.queues import AppendsToAnyone, ReplaysAnything
from sansio_cache.commands import DeleteKeys, PeekEntries, QueueCommand, Verdict
from sansio_cache.events import EntriesFound, Event, KeysDeleted, StoreEvent
from sansio_cache.exploring.simulating import Queueing, Simulated, Simulation, simulate
from sansio_cache.operations.enqueue import EnqueueRequest, enqueue
from sansio_cache.queue_rules import Cells, Partition
from sansio_cache.step import Step


@attrs.define
class ShowsNothing(Partition):
    """A reader does not see what is queued."""

    def answer(self, command: QueueCommand, cells: Cells, now_s: float, now_ms: int) -> StoreEvent:
        if isinstance(command, PeekEntries):
            return EntriesFound(now_s, (None,) * len(command.keys))
        return Partition.answer(self, command, cells, now_s, now_ms)


@attrs.define
class KeepsNoLetters(Partition):
    """What is given up is gone."""

    def _settle(self, verdict: Verdict, now_ms: int) -> None:
        Partition._settle(self, Verdict(verdict.token, verdict.key, "", verdict.found), now_ms)


@attrs.frozen
class Unremoved:
    """A machine that removes no keys."""

    inner: Step

    def receive(self, event: Event) -> Step:
        """The next step that removes none."""
        return unremoved(self.inner.state.receive(event))


def unremoved(step: Step) -> Step:
    """Take keys for removed that are still there."""
    while isinstance(step.command, DeleteKeys):
        step = step.state.receive(KeysDeleted(0.0, 0))
    return step if step.command is None else Step(Unremoved(step), step.command, step.outcome, step.notices)


def acknowledge_early(request: EnqueueRequest, **rest: object) -> Step:
    """Queue a write, and leave what was stored before."""
    return unremoved(enqueue(request, **rest))  # type: ignore[arg-type]


MISTAKES: Final[Mapping[str, Queueing]] = {
    "append without grant": Queueing(partition=AppendsToAnyone),
    "acknowledge before UNLINK": Queueing(enqueue=acknowledge_early),
    "readers who do not look at what is queued": Queueing(partition=ShowsNothing),
    "a write that is given up and no letter": Queueing(partition=KeepsNoLetters),
    "replay of a superseded letter": Queueing(partition=ReplaysAnything),
    "a database that does not fence": Queueing(fences=False),
}


def caught(name: str, *, seeds: int, operations: int = 3_000) -> Simulated | None:
    """What is the first that is found to be broken, in runs of these seeds; None where nothing is."""
    simulation = Simulation(
        operations=operations, operations_a_round=600, queueing=MISTAKES[name], must_fire=False
    )
    for seed in range(1, seeds + 1):
        found = simulate(simulation, lambda seed=seed: random.Random(seed))  # type: ignore[misc]
        if found.broken is not None:
            return found
    return None
