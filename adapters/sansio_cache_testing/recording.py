"""A driver without I/O that writes down all it does: for tests of machines, and to compare drivers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs

from sansio_cache.commands import Command, Compute, ComputeMany, ShareLoad, Sleep, StoreCommand
from sansio_cache.coordinator import Coordinator
from sansio_cache.events import Computed, ComputeFailed, Event, Woke
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import Notice
from sansio_cache.single_flight import Following, Ticket
from sansio_cache.step import Outcome, Step


class Performs(Protocol):
    """What answers store commands: a memory store, or a backend for threads."""

    def perform(self, command: StoreCommand, /) -> Event:
        """Do what is asked."""
        ...


class ManualClock:
    """Seconds that pass when a test says so, and when a recording driver sleeps."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now_s


@attrs.frozen
class Recorded:
    """A command of an operation, and the event that answered it."""

    command: Command
    event: Event


@attrs.define(eq=False)
class RecordingDriver:
    """Runs one operation after another, in the caller's thread, and keeps what was asked and answered.

        driver = RecordingDriver()
        driver.run(get_or_load(request), lambda: 7)
        assert len(driver.commands(FillCells)) == 1

    Sleeping lets its clock pass. What an operation spawns is run after it, with the same loader. Renewals and
    recoveries are left out.

    Attributes:
        store: Answers store commands: a memory store on its clock, if no other is given.
        clock: Its time.
        coordinator: What its operations share.
        trace: All that was asked, and answered, in order.
        notices: All that was stated.
    """

    clock: ManualClock = attrs.field(factory=ManualClock)
    store: Performs = attrs.field(
        default=attrs.Factory(lambda self: MemoryStore(self.clock), takes_self=True)
    )
    coordinator: Coordinator = attrs.field(factory=Coordinator)
    trace: list[Recorded] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)

    def run(self, step: Step, loader: Callable[..., Any] | None = None) -> Outcome:
        """Run an operation to its end, and what it has spawned."""
        outcome, spawned = self._run(step, loader, self.coordinator.ticket())
        for each in spawned:
            ticket = self.coordinator.ticket()
            begun = self.coordinator.begin(ticket, each, self.clock())
            if begun is not None:
                self._run(begun, loader, ticket)
        return outcome

    def commands(self, *kinds: type) -> list[Command]:
        """The commands that were asked, of these kinds if some are named."""
        return [each.command for each in self.trace if not kinds or isinstance(each.command, kinds)]

    def _run(
        self, step: Step, loader: Callable[..., Any] | None, ticket: Ticket
    ) -> tuple[Outcome, Iterable[Step]]:
        try:
            while True:
                self.coordinator.observe(step)
                self.notices += step.notices
                if step.command is None:
                    assert step.outcome is not None
                    return step.outcome, step.spawn
                event = self._perform(step.command, loader, ticket)
                self.trace.append(Recorded(step.command, event))
                step = step.state.receive(event)
        finally:
            self.coordinator.give_up(ticket)

    def _perform(self, command: Command, loader: Callable[..., Any] | None, ticket: Ticket) -> Event:
        match command:
            case Compute() | ComputeMany():
                return self._compute(command, loader)
            case ShareLoad():
                answer = self.coordinator.share(ticket, command)
                assert not isinstance(answer, Following), "operations run one after another"
                return answer
            case Sleep(duration_s=duration_s):
                self.clock.now_s += duration_s
                return Woke(self.clock())
            case _:
                return self.store.perform(command)

    def _compute(self, command: Compute | ComputeMany, loader: Callable[..., Any] | None) -> Event:
        assert loader is not None, "an operation that loads is run with a loader"
        try:
            value = loader(list(command.names)) if isinstance(command, ComputeMany) else loader()
        except Exception as error:  # noqa: BLE001 - the loader's own, given to the machine
            return ComputeFailed(self.clock(), error)
        return Computed(self.clock(), value)
