"""The simulation: rounds of work among faults, each followed by a phase without faults.

A run is named by its seed: the same seed and the same configuration give the same run, to the last request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Final

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.exploring.configuration import Configuration
from sansio_cache.exploring.glancing import Kinds
from sansio_cache.exploring.refusing import check_whole
from sansio_cache.exploring.simulating.accidents import Accidents
from sansio_cache.exploring.simulating.callers import Caller
from sansio_cache.exploring.simulating.calls import Calls
from sansio_cache.exploring.simulating.client import Client
from sansio_cache.exploring.simulating.faults import FAULTS, NO_FAULTS, Rates, SimulatedFault
from sansio_cache.exploring.simulating.liveness import LivenessChecks
from sansio_cache.exploring.simulating.loaders import Shared
from sansio_cache.exploring.simulating.network import Network
from sansio_cache.exploring.simulating.oracle import Liveness, Oracle, Violated
from sansio_cache.exploring.simulating.probing import Process
from sansio_cache.exploring.simulating.queueing import (
    Ledger,
    QueueChecks,
    Queueing,
    empty_queues,
    writers_and_consumers,
)
from sansio_cache.exploring.simulating.rows import WAIT_S, Database
from sansio_cache.exploring.simulating.server import Server
from sansio_cache.exploring.simulating.single_loads import LoadChecks
from sansio_cache.exploring.simulating.timeline import Random, Timeline

SHIPPED: Final = Configuration(name="what ships", processes=(), glances=Kinds())
"""The machines, the coordinator and the store that ship; reads look first, as drivers have them do."""
LONGEST_CALL_S: Final = 8 * WAIT_S
"""No call takes longer, once nothing goes wrong and nothing hangs: it waits in turns, inside of others."""


LONGEST_ROUND_S: Final = 1e6
"""Nor does a round."""


@attrs.frozen(kw_only=True)
class Simulation:
    """What is simulated.

    Args:
        operations: How many calls are made at least, in all rounds.
        clients: How many processes there are.
        callers: How many callers each has.
        operations_a_round: After how many calls the faults stop, and it is looked whether all comes right.
        rates: How often things go wrong.
        machines: Which machines take part, or wrong ones. Of a configuration of the explorer, its processes
            and faults do not matter here.
        compares: Whether the store fills by comparing, as a server does that can: in every second round where
            that is None.
        queueing: Which parts of write-behind take part, or wrong ones; None where nothing is queued.
        must_fire: Whether a fault that never struck is a failure of the run.

    Raises:
        ConfigurationError: A number is none that can be simulated.
    """

    operations: int = 10_000
    clients: int = 3
    callers: int = 4
    operations_a_round: int = 5_000
    rates: Rates = FAULTS
    machines: Configuration = SHIPPED
    compares: bool | None = None
    queueing: Queueing | None = attrs.field(factory=Queueing)
    must_fire: bool = True

    def __attrs_post_init__(self) -> None:
        for name, least in (("operations", 1), ("operations_a_round", 1), ("clients", 0), ("callers", 0)):
            check_whole(name, getattr(self, name), least)


@attrs.frozen
class Simulated:
    """What a simulation came to.

    Args:
        operations: How many calls of each kind have ended.
        fired: How often each fault struck.
        requests: How many requests the server has performed.
        reads: How many values were judged.
        rounds: How many rounds there were.
        lasted_s: How long it all took in virtual time, in seconds.
        broken: What does not hold; None where all does.
        seen: What was seen of that.
        story: What happened to the key before that, the last thing last.
    """

    operations: Mapping[str, int]
    fired: Mapping[SimulatedFault, int]
    requests: int
    reads: int
    rounds: int
    lasted_s: float
    broken: Enum | None = None
    seen: str = ""
    key: str = ""
    story: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many calls were made."""
        return sum(self.operations.values())

    def __str__(self) -> str:
        what = f"{self.count:,} operations, {self.requests:,} requests, {self.reads:,} values judged"
        lines = [f"{what}, {self.rounds} rounds, {self.lasted_s:,.0f} s of virtual time"]
        lines += [f"  {self.fired.get(fault, 0):>9,}  {fault.value}" for fault in SimulatedFault]
        if self.broken is not None:
            lines += ["", self.seen, *(f"  {line}" for line in self.story)]
        return "\n".join(lines)


@attrs.define(eq=False)
class World:
    """All there is."""

    simulation: Simulation
    random: Random
    traced: str = ""
    timeline: Timeline = attrs.field(factory=Timeline)
    oracle: Oracle = attrs.field(factory=Oracle)
    fired: Counter[SimulatedFault] = attrs.field(factory=Counter)
    story: list[str] = attrs.field(factory=list)
    callers: list[Caller] = attrs.field(factory=list)
    clients: list[Client] = attrs.field(factory=list)
    rounds: int = 0
    begun: int = 0
    shared: Shared = attrs.field(init=False)
    server: Server = attrs.field(init=False)
    network: Network = attrs.field(init=False)
    accidents: Accidents = attrs.field(init=False)
    ledger: Ledger = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        simulation, timeline, fired = self.simulation, self.timeline, self.fired
        server = self.server = Server(
            timeline,
            simulation.machines,
            self.oracle,
            fired,
            self.random,
            lambda keys: self.network.publish(keys),
        )
        rates = simulation.rates
        self.network = Network(timeline, server, rates, fired, self.random, self.clients)
        self.shared = Shared(timeline, Database(), self.oracle, server, rates, fired, self.random)
        self.ledger = Ledger(self.shared)
        queueing = simulation.queueing
        if queueing is not None:
            self.ledger.fences = queueing.fences
            server.make_queues = partial(empty_queues, queueing)
            server.on_lost = self.ledger.lose
            server.store.queues.update(server.make_queues())
        self.accidents = Accidents(
            timeline,
            server,
            fired,
            self.random,
            rates.accident_pause_s,
            lambda: self.clients,
            self._crash,
            self.shared.say,
        )
        if self.traced:
            server.trace = self.shared.trace = self._trace
        for place in range(simulation.clients):
            self._begin_process(place)

    def _trace(self, text: str, keys: tuple[str, ...]) -> None:
        if self.traced in keys or not keys:
            self.story.append(f"{self.timeline.now_s:.4f} {text}")

    # Processes.

    def _begin_process(self, place: int) -> None:
        self.begun += 1
        coordinator = self.simulation.machines.coordinator()
        client = Client(
            f"process {self.begun}",
            self.timeline,
            self.network,
            self.oracle,
            coordinator,
            self.random,
            partial(self.fired.update, (SimulatedFault.VARIANT,)),
        )
        self.clients.insert(place, client)
        calls = Calls(self.simulation.machines, coordinator, self.random)
        callers = [
            Caller(self.shared, client, calls, is_text=number % 2 == 1)
            for number in range(self.simulation.callers)
        ]
        if self.simulation.queueing is not None:
            callers += writers_and_consumers(
                self.shared, client, calls, self.ledger, self.simulation.queueing
            )
        self.callers += callers
        for caller in callers:
            client.later(self.random.random() * 0.01, caller.next)  # which is idle, where the round has ended

    def _crash(self, client: Client) -> None:
        self.shared.say(f"{client.name}: dies")
        place = self.clients.index(client)
        del self.clients[place]
        client.die()
        self.oracle.forget(client.name)
        for caller in [each for each in self.callers if each.client is client]:
            caller.end_write()
            self.callers.remove(caller)
        self._begin_process(place)

    # Rounds.

    def run(self) -> None:
        """Work among faults, and look whether all comes right; again and again."""
        simulation, shared = self.simulation, self.shared
        while self.count < simulation.operations:
            self.rounds += 1
            compares = simulation.compares
            self.server.compares = self.rounds % 2 == 0 if compares is None else compares
            self.server.restart(keeps=True)
            most = min(self.count + simulation.operations_a_round, simulation.operations)
            self._set_rates(simulation.rates)
            shared.is_ending = False
            self.accidents.begin()
            for caller in self.callers:
                if caller.is_idle:
                    caller.is_idle = False
                    caller.client.later(0.0, caller.next)
            if not self.timeline.run(partial(self._has_done, most), LONGEST_ROUND_S):
                raise Violated(Liveness.ENDS, "nobody does anything any more")
            self._calm_down()
        missing = [fault.value for fault in SimulatedFault if not self.fired[fault]]
        if simulation.must_fire and missing:
            raise Violated(Liveness.FIRED, ", ".join(missing))

    @property
    def count(self) -> int:
        """How many calls have ended."""
        return self.shared.done.total()

    def _has_done(self, count: int) -> bool:
        return self.count >= count

    def _set_rates(self, rates: Rates) -> None:
        self.network.rates = self.shared.rates = rates

    def _calm_down(self) -> None:
        shared = self.shared
        self._set_rates(NO_FAULTS)
        self.accidents.end()
        shared.is_ending = True
        for client in self.clients:
            client.paused_until_s = 0.0
        hung, shared.hung = shared.hung, []
        for each in hung:
            each()
        shared.say("the faults stop")
        if self.simulation.queueing is not None and self.server.behind_s:
            # The lease of a consumer that has died lasts for as much longer as the clock went back.
            self.server.jump(self.server.behind_s)
        callers = self.callers
        if not self.timeline.run(lambda: all(caller.is_idle for caller in callers), LONGEST_CALL_S):
            late = [each.step for c in callers if not c.is_idle for each in c.client.running.values()]
            raise Violated(Liveness.ENDS, f"after {LONGEST_CALL_S} s without faults: {late!s:.2000}")
        processes = [
            Process(
                client,
                next(each.calls for each in callers if each.client is client),
                self.simulation.callers,
            )
            for client in self.clients
        ]
        liveness = LivenessChecks(shared, self.network, processes)
        liveness.settle()
        QueueChecks(shared, self.network, processes, ledger=self.ledger).check()
        LoadChecks(shared, self.network, processes).check()
        liveness.check()
        for client in [client for client in self.clients if not client.is_alive]:
            self._crash(client)
        self.timeline.run(lambda: all(caller.is_idle for caller in callers), LONGEST_CALL_S)


def simulate(simulation: Simulation, random: Callable[[], Random]) -> Simulated:
    """Run a simulation.

    Where something does not hold it is run once more, and says what happened to the key before that.

    Args:
        simulation: What is simulated.
        random: Makes where all choices come from, anew each time: the same choices.

    Raises:
        ConfigurationError: It is no simulation.
    """
    if not isinstance(simulation, Simulation):
        raise ConfigurationError(
            f"simulate takes a Simulation, as in simulate(Simulation(operations=1_000), seed=1); got "
            f"{simulation!r:.80}"
        )
    found = _simulated(simulation, random(), "")
    if found.broken is not None and found.key:
        return _simulated(simulation, random(), found.key)
    return found


def _simulated(simulation: Simulation, random: Random, traced: str) -> Simulated:
    world = World(simulation, random, traced)
    violated: Violated | None = None
    try:
        world.run()
    except Violated as error:
        violated = error
    return Simulated(
        dict(world.shared.done),
        dict(world.fired),
        world.server.performed,
        world.oracle.reads,
        world.rounds,
        world.timeline.now_s,
        violated.invariant if violated else None,
        str(violated) if violated else "",
        violated.key if violated else "",
        tuple(world.story[-_MOST_TOLD:]),
    )


_MOST_TOLD: Final = 400
