"""The network of a simulation: it loses, delays, doubles and reorders requests, and loses replies.

Requests of one client arrive in the order in which they were sent, but for those that take another way. A
request has one answer at most for its client, a failure included; whatever comes after that is nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import attrs

from sansio_cache.commands import ReadCell, StoreCommand
from sansio_cache.events import CellRead, FailureKind, StoreEvent, StoreFailed
from sansio_cache.exploring.simulating.faults import Rates, SimulatedFault
from sansio_cache.exploring.simulating.rows import ROWS
from sansio_cache.exploring.simulating.server import READS, Server
from sansio_cache.exploring.simulating.timeline import Random, Timeline

LATENCY_S: Final = 0.0004
"""How long a request takes at least, and a reply."""
LATEST_S: Final = 3.0
"""How much later than that a request may be performed that was delayed, or doubled."""

Answer = Callable[[StoreEvent], None]


class Sender(Protocol):
    """Who sends requests."""

    last_arrival_s: float
    """When its last request comes in."""

    def hear(self, keys: tuple[str, ...]) -> None:
        """Something has changed under these keys."""
        ...

    @property
    def is_listening(self) -> bool:
        """Whether it is to be told of changes."""
        ...


@attrs.define(eq=False)
class Network:
    """What is between clients and the server."""

    timeline: Timeline
    server: Server
    rates: Rates
    fired: Counter[SimulatedFault]
    random: Random
    senders: Sequence[Sender]
    loses_wake_ups: bool = False
    """Whether nobody is told of anything."""
    heard: Callable[[StoreCommand], None] | None = None
    """Is told of all that is sent."""

    def send(self, sender: Sender, command: StoreCommand, timeout_s: float, answer: Answer) -> None:
        """Have a request performed; `answer` gets what became of it, once, within the time.

        Args:
            sender: Whose it is.
            command: What is asked.
            timeout_s: How long it may take, in seconds of the timeline.
            answer: Gets the reply, or that there was none.
        """
        rates, timeline, random = self.rates, self.timeline, self.random
        if self.heard is not None:
            self.heard(command)
        deadline_s = timeline.now_s + timeout_s
        arrival_s = timeline.now_s + self._latency_s()
        chance = random.random()
        if chance < rates.request_lost + rates.exhausted:
            if chance < rates.exhausted:
                self.fired[SimulatedFault.EXHAUSTED] += 1
                timeline.after(0.0, partial(answer, StoreFailed(0.0, FailureKind.EXHAUSTED)))
                return
            self.fired[SimulatedFault.REQUEST_LOST] += 1
            self._fail(deadline_s, answer)
            return
        if random.random() < rates.late:
            arrival_s = deadline_s + random.random() * LATEST_S
            self._fail(deadline_s, answer)
            timeline.at(arrival_s, partial(self._again, SimulatedFault.LATE, command))
            return
        if random.random() < rates.reordered:
            arrival_s += 4 * self._latency_s()
            self.fired[SimulatedFault.REORDERED] += 1
        elif arrival_s <= sender.last_arrival_s:
            arrival_s = sender.last_arrival_s
        else:
            sender.last_arrival_s = arrival_s
        timeline.at(arrival_s, partial(self._arrive, command, deadline_s, answer))
        if type(command) not in READS and random.random() < rates.duplicate:
            again_s = arrival_s + random.random() ** 4 * LATEST_S
            timeline.at(again_s, partial(self._again, SimulatedFault.DUPLICATE, command))

    def _latency_s(self) -> float:
        return LATENCY_S * (1.0 + self.random.random())

    def _fail(self, deadline_s: float, answer: Answer) -> None:
        self.timeline.at(deadline_s, partial(answer, StoreFailed(0.0, FailureKind.TIMEOUT)))

    def _arrive(self, command: StoreCommand, deadline_s: float, answer: Answer) -> None:
        if not self.server.has_script(command):
            again_s = self.timeline.now_s + 2 * self._latency_s()
            self.timeline.at(again_s, partial(self._arrive, command, deadline_s, answer))
            return
        if self.server.is_frozen or self.server.delay_s:
            self._fail(deadline_s, answer)  # should it take too long
        self.server.arrive(command, partial(self._reply, command, deadline_s, answer))

    def _reply(self, command: StoreCommand, deadline_s: float, answer: Answer, event: StoreEvent) -> None:
        reply_s = self.timeline.now_s + self._latency_s()
        if reply_s > deadline_s:
            self._fail(deadline_s, answer)
            return
        chance = self.random.random()
        if chance < self.rates.reply_lost:
            self.fired[SimulatedFault.REPLY_LOST] += 1
            self._fail(deadline_s, answer)
            return
        if isinstance(event, CellRead) and chance > 1 - self.rates.crossed:
            event = self._crossed(command, event)
        self.timeline.at(reply_s, partial(answer, event))

    def _crossed(self, command: StoreCommand, event: CellRead) -> StoreEvent:
        """The reply to somebody else's read instead."""
        key = ROWS[self.random.randrange(len(ROWS))].key
        other = self.server.store.perform(ReadCell(key, 0.0, getattr(command, "tags", ())))
        if key == getattr(command, "key", "") or not isinstance(other, CellRead) or other.cell is None:
            return event
        self.fired[SimulatedFault.CROSSED] += 1
        return other

    def _again(self, fault: SimulatedFault, command: StoreCommand) -> None:
        """A request comes in late, or once more; its answer goes nowhere."""
        self.fired[fault] += 1
        self.server.arrive(command, _nobody)

    def publish(self, keys: tuple[str, ...]) -> None:
        """Tell who listens that something has changed."""
        for sender in self.senders:
            if not sender.is_listening:
                continue
            if self.loses_wake_ups or self.random.random() < self.rates.wake_up_lost:
                self.fired[SimulatedFault.WAKE_UP_LOST] += 1
            else:
                self.timeline.after(self._latency_s(), partial(sender.hear, keys))


def _nobody(_: StoreEvent) -> None:
    """Take an answer that nobody waits for."""
