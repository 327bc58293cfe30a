"""What becomes of the server and of whole processes: one accident after another, each kind in every round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from sansio_cache.events import FailureKind
from sansio_cache.exploring.simulating.client import Client
from sansio_cache.exploring.simulating.faults import SimulatedFault
from sansio_cache.exploring.simulating.rows import ROWS
from sansio_cache.exploring.simulating.server import Server
from sansio_cache.exploring.simulating.timeline import Random, Timeline

_SHORTEST_S: Final = 0.02
_LONGEST_S: Final = 0.6
"""How long an accident lasts."""
_JUMP_S: Final = 3_600.0
_ANSWERS: Final = {
    SimulatedFault.REFUSED: FailureKind.CONNECTION,
    SimulatedFault.UNAVAILABLE: FailureKind.UNAVAILABLE,
    SimulatedFault.RESTART_EMPTY: FailureKind.CONNECTION,
    SimulatedFault.RESTART_KEPT: FailureKind.CONNECTION,
    SimulatedFault.RESTORED: FailureKind.CONNECTION,
}
"""What everything is answered with meanwhile."""
_REFUSALS: Final = {
    SimulatedFault.OUT_OF_MEMORY: FailureKind.OUT_OF_MEMORY,
    SimulatedFault.WRITES_REFUSED: FailureKind.WRITES_REFUSED,
    SimulatedFault.READ_ONLY: FailureKind.READ_ONLY,
}
"""What writes are answered with meanwhile."""
DECK: Final = (
    *_ANSWERS,
    *_REFUSALS,
    SimulatedFault.FROZEN,
    SimulatedFault.SCRIPTS_LOST,
    SimulatedFault.CRASH,
    SimulatedFault.PAUSE,
    SimulatedFault.EVICTION,
    SimulatedFault.SERVER_CLOCK,
    SimulatedFault.FOREIGN,
    SimulatedFault.DENIED,
    SimulatedFault.SLOW,
)
"""Each kind of accident. A server that only reads has failed over: the other one is older."""


@attrs.define(eq=False)
class Accidents:
    """Lets them happen, until it is told to stop.

    Args:
        timeline: The time.
        server: Most of them are its.
        fired: Counts them.
        random: Which is next, and how long it lasts.
        pause_s: How long all is well between two of them, on average.
        clients: Gives the processes that there are.
        crash: Has a process die, and another begin in its place.
        say: Is told of each.
    """

    timeline: Timeline
    server: Server
    fired: Counter[SimulatedFault]
    random: Random
    pause_s: float
    clients: Callable[[], list[Client]]
    crash: Callable[[Client], None]
    say: Callable[[str], None]
    _deck: list[SimulatedFault] = attrs.field(factory=list)
    _has_ended: bool = False

    def begin(self) -> None:
        """Have the next one happen, after a pause."""
        self._has_ended = False
        self._next()

    def _next(self) -> None:
        if self.pause_s:
            self.timeline.after(self.random.random() * 2 * self.pause_s, self._strike)

    def end(self) -> None:
        """All is well from now on."""
        self._has_ended = True
        self.server.heal()

    def _strike(self) -> None:
        if self._has_ended:
            return
        if not self._deck:
            self._deck = list(DECK)
            self.random.shuffle(self._deck)
        fault = self._deck.pop()
        self.fired[fault] += 1
        self.say(f"* {fault.value}")
        lasts_s = _SHORTEST_S + (_LONGEST_S - _SHORTEST_S) * self.random.random()
        server, random = self.server, self.random
        match fault:
            case SimulatedFault.SCRIPTS_LOST:
                server.known.clear()
            case SimulatedFault.EVICTION:
                server.evict()
            case SimulatedFault.SERVER_CLOCK:
                server.jump((-_JUMP_S, 0.0, _JUMP_S)[random.randrange(3)] - server.ahead_s or _JUMP_S)
            case SimulatedFault.FOREIGN:
                server.plant_foreign(ROWS[random.randrange(len(ROWS))].key)
            case SimulatedFault.CRASH:
                self.crash(self._any_client())
            case SimulatedFault.PAUSE:
                client = self._any_client()
                client.paused_until_s, client.pauses = self.timeline.now_s + 2 * lasts_s, client.pauses + 1
            case SimulatedFault.FROZEN:
                server.is_frozen = True
            case SimulatedFault.SLOW:
                server.delay_s = 0.3 * random.random()
            case SimulatedFault.DENIED:
                server.denied = frozenset({ROWS[random.randrange(len(ROWS))].key})
            case _:
                server.failure, server.refusal = _ANSWERS.get(fault), _REFUSALS.get(fault)
        self.timeline.after(lasts_s, partial(self._over, fault))

    def _over(self, fault: SimulatedFault) -> None:
        if self._has_ended:
            return
        server = self.server
        match fault:
            case SimulatedFault.RESTART_EMPTY:
                server.restart(keeps=False)
            case SimulatedFault.RESTART_KEPT:
                server.restart(keeps=True)
            case SimulatedFault.RESTORED:
                server.fall_back()
            case SimulatedFault.READ_ONLY:
                server.fall_back()
                self.fired[SimulatedFault.FAILOVER] += 1
            case _:
                pass
        server.heal()
        self.say(f"* over: {fault.value}")
        self._next()

    def _any_client(self) -> Client:
        clients = self.clients()
        return clients[self.random.randrange(len(clients))]
