"""The kit: find the cache bugs of your own program, by property, with what this library is tested with.

    from sansio_cache_testing import check_interleavings

    def scenario(world):
        cache, rows = world.cache(), world.rows({1: 0})
        world.reader(read, cache, rows)
        world.writer(write, cache, rows)

    def test_no_reader_sees_what_is_too_old():
        check_interleavings(scenario)

What needs Hypothesis is in `strategies` and `machines`, and needs the extra `testing`; fixtures are in
`plugin`, and the rules for backends in `conformance`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sansio_cache.exploring.configuration import Act, Configuration, Deed, Fault, Start
    from sansio_cache.exploring.history import History, Read, Violation, Write
    from sansio_cache.exploring.invariants import Invariant
    from sansio_cache.exploring.logs import LoggedRead, LoggedWrite, StaleRead, find_stale_reads
    from sansio_cache.exploring.schedules import Schedule
    from sansio_cache.exploring.search import Exploration, explore
    from sansio_cache.exploring.simulating import (
        SHIPPED,
        Liveness,
        Rates,
        Simulated,
        SimulatedFault,
        Simulation,
    )
    from sansio_cache_testing.async_world import AsyncWorld
    from sansio_cache_testing.faults import StoreFault
    from sansio_cache_testing.interleavings import (
        Explored,
        InterleavingError,
        check,
        check_interleavings,
        replay,
    )
    from sansio_cache_testing.judging import Finding
    from sansio_cache_testing.outages import async_null_cache, failing, null_cache
    from sansio_cache_testing.recording import ManualClock, Recorded, RecordingDriver
    from sansio_cache_testing.scheduling import DeadlockError, ScenarioError, WorldError
    from sansio_cache_testing.simulating import SimulationError, simulate
    from sansio_cache_testing.steps import Place, Step
    from sansio_cache_testing.world import World

# Hypothesis imports this package in every program that has both, for its entry point: so it imports nothing.
_HOMES: Final = {
    "sansio_cache.exploring.history": ("History", "Read", "Violation", "Write"),
    "sansio_cache.exploring.logs": ("LoggedRead", "LoggedWrite", "StaleRead", "find_stale_reads"),
    "sansio_cache.exploring.schedules": ("Schedule",),
    "sansio_cache.exploring.search": ("Exploration", "explore"),
    "sansio_cache.exploring.configuration": ("Act", "Configuration", "Deed", "Fault", "Start"),
    "sansio_cache.exploring.invariants": ("Invariant",),
    "sansio_cache.exploring.simulating": (
        *("SHIPPED", "Liveness", "Rates", "Simulated", "SimulatedFault", "Simulation"),
    ),
    "sansio_cache_testing.async_world": ("AsyncWorld",),
    "sansio_cache_testing.outages": ("async_null_cache", "failing", "null_cache"),
    "sansio_cache_testing.faults": ("StoreFault",),
    "sansio_cache_testing.interleavings": (
        *("Explored", "InterleavingError", "check", "check_interleavings", "replay"),
    ),
    "sansio_cache_testing.judging": ("Finding",),
    "sansio_cache_testing.simulating": ("SimulationError", "simulate"),
    "sansio_cache_testing.recording": ("ManualClock", "Recorded", "RecordingDriver"),
    "sansio_cache_testing.scheduling": ("DeadlockError", "ScenarioError", "WorldError"),
    "sansio_cache_testing.steps": ("Place", "Step"),
    "sansio_cache_testing.world": ("World",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SHIPPED",
    "Act",
    "AsyncWorld",
    "Configuration",
    "DeadlockError",
    "Deed",
    "Exploration",
    "Explored",
    "Fault",
    "Finding",
    "History",
    "InterleavingError",
    "Invariant",
    "Liveness",
    "LoggedRead",
    "LoggedWrite",
    "ManualClock",
    "Place",
    "Rates",
    "Read",
    "Recorded",
    "RecordingDriver",
    "ScenarioError",
    "Schedule",
    "Simulated",
    "SimulatedFault",
    "Simulation",
    "SimulationError",
    "StaleRead",
    "Start",
    "Step",
    "StoreFault",
    "Violation",
    "World",
    "WorldError",
    "Write",
    "async_null_cache",
    "check",
    "check_interleavings",
    "explore",
    "failing",
    "find_stale_reads",
    "null_cache",
    "replay",
    "simulate",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
