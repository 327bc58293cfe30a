"""What must come about once nothing goes wrong any more: L1, L3 to L7, and what is left when all is over.

It follows every round of faults, in the same processes, on what the faults have left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from sansio_cache.backoff import FALL_BACK_S
from sansio_cache.commands import AcquireLease
from sansio_cache.exploring.configuration import TIMEOUTS
from sansio_cache.exploring.simulating.oracle import Liveness, Violated
from sansio_cache.exploring.simulating.probing import LOAD_S, ROW, TRIP_S, TRIPS_S, Asked, Probing
from sansio_cache.exploring.simulating.rows import LEASE_S, LIFE_S, MAX_LEASE_S, ROWS
from sansio_cache.part import LONGEST_PAUSE_S

RECOVERY_S: Final = 2 * LONGEST_PAUSE_S + 2.0
"""How long it takes at most until the store was told of all."""


@attrs.define(eq=False)
class LivenessChecks(Probing):
    """The checks, of one world."""

    def settle(self) -> None:
        """Let recoveries end, and old entries go; then look at what is left."""
        server, clients = self.shared.server, [each.client for each in self.processes]
        self._recovers("the faults have stopped")
        self._pass(LIFE_S + MAX_LEASE_S + server.behind_s)
        server.behind_s = 0.0
        for client in clients:
            if not client.is_idle:
                raise Violated(Liveness.EMPTY, f"{client.name}: {client.coordinator.snapshot()}")
        if leases := server.leases():
            raise Violated(Liveness.EMPTY, f"still leased: {leases}", leases[0])

    def check(self) -> None:
        """Look at all of them, the death of a process last."""
        self.last_commits()
        self.hang()
        self.cancel_loading()
        self.cancel_acquiring()
        self.freeze()
        self.woken()
        self.unwoken()
        self.death()

    def _recovers(self, why: str) -> None:
        clients = [each.client for each in self.processes]
        if not self.shared.timeline.run(
            lambda: not any(c.coordinator.needs_recovery for c in clients),
            RECOVERY_S,
        ):
            pending = {client.name: sorted(client.pending()) for client in clients}
            raise Violated(Liveness.TOLD, f"{why}: still pending after {RECOVERY_S} s: {pending}")

    def last_commits(self) -> None:
        """S6: what every process reads of every row, then from the store, is what was committed last."""
        for _ in range(2):
            for process in self.processes:
                for row in ROWS:
                    self._wait([self._begin(process, row, 0.0)], 1.0, Liveness.ENDS, "all is over", row)

    def woken(self) -> None:
        """L1, L4: who waits for the load of another process has it as soon as it is told."""
        self._forget()
        self._wait(self._all(), LOAD_S + TRIPS_S, Liveness.WOKEN, "all ask at once")

    def unwoken(self) -> None:
        """L4: a wake-up that is lost costs one interval."""
        self._forget()
        self.network.loses_wake_ups = True
        limit_s = LOAD_S + TRIPS_S + min(FALL_BACK_S, LEASE_S)
        self._wait(self._all(), limit_s, Liveness.ENDS, "all ask at once, and nobody is woken")
        self.network.loses_wake_ups = False

    def death(self) -> None:
        """L3: who loads dies; the others wait no longer than its lease."""
        self._forget()
        first, *others = self.processes
        self._begin(first, ROW, 60.0)
        self._pass(LEASE_S / 4)
        first.client.die()
        asked = [self._begin(each) for each in others]
        self._wait(asked, LEASE_S + LOAD_S + TRIPS_S, Liveness.NOT_BLOCKED, "who loaded has died")

    def hang(self) -> None:
        """L6: a loader hangs; its lease is renewed up to its longest time, and no longer."""
        self._forget()
        first, *others = self.processes
        hanging = self._begin(first, ROW, 60.0)
        self._pass(LEASE_S)
        asked = [self._begin(each) for each in others]
        limit_s = MAX_LEASE_S + LEASE_S + LOAD_S + TRIPS_S
        self._wait(asked, limit_s, Liveness.RENEWED, "a loader hangs")
        self._pass(2 * LEASE_S)
        self._interrupt(hanging)
        self._pass(TRIPS_S)

    def cancel_loading(self) -> None:
        """L7: a load is cancelled while its loader runs."""
        self._cancel(lambda _: self._pass(LEASE_S / 10))

    def cancel_acquiring(self) -> None:
        """L7: a load is cancelled while it asks for the lease: whether it has one is unknown."""

        def until_it_asks(asked: Asked) -> None:
            def asks() -> bool:
                return asked.running is not None and isinstance(asked.running.step.command, AcquireLease)

            self.shared.timeline.run(asks, TRIPS_S)
            self._pass(TRIP_S / 4)

        self._cancel(until_it_asks)

    def _cancel(self, wait: Callable[[Asked], object]) -> None:
        """It gives its lease back, and does nothing after that."""
        self._forget()
        first, other, *_ = self.processes
        asked = self._begin(first, ROW, 60.0)
        wait(asked)

        def cancel() -> None:
            self._interrupt(asked)
            self._pass(TRIPS_S)

        sent = [type(each).__name__ for each in self._asked_during(cancel)]
        self._wait([self._begin(other)], LOAD_S + TRIPS_S, Liveness.LEFT, "a load was cancelled")
        self._pass(2 * LEASE_S)
        if asked.outcome is None or sent != ["ReleaseLeases"] or not first.client.is_idle:
            raise Violated(
                Liveness.LEFT,
                f"it has sent {sent}, and its process holds {asked.process.client.running}",
            )

    def _interrupt(self, asked: Asked) -> None:
        assert asked.running is not None
        asked.process.client.interrupt(asked.running)

    def freeze(self) -> None:
        """L5: a read of a frozen server waits once, and then none does; when it is back it is asked again."""
        server, process = self.shared.server, self.processes[-1]
        server.is_frozen = True
        for limit_s in (1.01 * TIMEOUTS.operation_s, TRIP_S):
            self._wait([self._begin(process, ROW, 0.0)], limit_s, Liveness.BUDGET, "the server is frozen")
        server.thaw()
        self._recovers("the server is back")
        self._pass(LEASE_S)
