"""Run the simulator, and fail where something does not hold."""

from __future__ import annotations

import random
from typing import Final

from sansio_cache.exploring.refusing import check_whole
from sansio_cache.exploring.simulating import Simulated, Simulation
from sansio_cache.exploring.simulating import simulate as simulated

_DEFAULT: Final = Simulation()


class SimulationError(AssertionError):
    """Something does not hold in a simulation. The message ends with what happened to the key before that.

    Attributes:
        seed: By which the run is repeated.
        found: All of it.
    """

    def __init__(self, seed: int, found: Simulated) -> None:
        super().__init__(f"seed {seed}:\n{found}\n\nto see it again: simulate(..., seed={seed})")
        self.seed = seed
        self.found = found


def simulate(simulation: Simulation = _DEFAULT, *, seed: int | None = None) -> Simulated:
    """Simulate processes, a server and a network in which everything goes wrong, in virtual time.

    Args:
        simulation: How much, how often what goes wrong, and which machines take part.
        seed: By which a run is repeated: the same seed and simulation give the same run. Drawn, where None.

    Returns:
        What was done, and how often each fault has struck. `str` of it is a table.

    Raises:
        SimulationError: An invariant does not hold, something does not come about once the faults have
            stopped, or a fault has never struck.
        ConfigurationError: It is no simulation, or no seed.
    """
    if seed is not None:
        check_whole("seed", seed)
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    found = simulated(simulation, lambda: random.Random(chosen))  # noqa: S311 - to be repeated
    if found.broken is not None:
        raise SimulationError(chosen, found)
    return found
