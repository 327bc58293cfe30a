"""The simulator: many processes, a server and a network in virtual time, where everything goes wrong.

    found = simulate(Simulation(operations=10_000), lambda: random.Random(seed))
    assert found.broken is None, str(found)

The explorer looks at all orders of a few steps; the simulator at few orders of many steps, with more keys,
more callers, clocks, deadlines, the breaker, recovery, wake-ups, and with faults that last. What runs is the
product: the machines, the coordinator, and the memory store for a server.

Theory of operation.

*Time* is a number (`timeline.py`). Whatever takes time is put on the timeline, and nothing waits. A run is
named by its seed: all choices are drawn from one `random.Random`, so the same seed gives the same run.

*A process* (`client.py`) does to machines what drivers do. It has a clock, a coordinator and a few callers
(`callers.py`), each of which does one thing after another: all public operations, in any order, on a few rows
that are cached in all ways (`rows.py`). A row's value is the number of the last commit that touched it. What
a read gives is judged by the history of writes (`oracle.py`): S1, S7, and S1 of what a process knows itself.

*The network* (`network.py`) loses, delays, doubles and reorders. *The server* (`server.py`) is killed,
frozen, full, slow, restored, replaced by an older copy; its clock jumps. What each request does to the cells
is judged as in the explorer: S2, S3, S5, S13. S4 and S7 are looked at where a value is to be stored.
Counters, adds, the lock and what is queued (`queueing.py`, S8) have rules of their own. Accidents
(`accidents.py`) strike in rounds of all kinds.

*After each round the faults stop.* All calls come to an end (L1), the store is told of what it has missed,
nothing is left of what was (B2, L7); then `liveness.py` and `single_loads.py` look at what must come about:
one load for each change (L2), nobody blocked for longer than a lease (L3), wake-ups (L4), budgets (L5),
renewals (L6), and the last commit for everybody (S6).

*A fault that never struck fails the run*, as it proves nothing.

What is documented to be lost is not judged: what a failover or an old snapshot has lost, until the longest
life of an entry is over (S1f); and what is stale, for a process that has not heard that the server's clock
has jumped. What is left to other tests: several parts, connections, signals and forks, near caches.
"""

from sansio_cache.exploring.simulating.faults import FAULTS, NO_FAULTS, Rates, SimulatedFault
from sansio_cache.exploring.simulating.oracle import Liveness
from sansio_cache.exploring.simulating.queueing import Queueing
from sansio_cache.exploring.simulating.simulation import SHIPPED, Simulated, Simulation, simulate

__all__ = [
    "FAULTS",
    "NO_FAULTS",
    "SHIPPED",
    "Liveness",
    "Queueing",
    "Rates",
    "Simulated",
    "SimulatedFault",
    "Simulation",
    "simulate",
]
