"""Running a program in all orders, or in the orders that Hypothesis draws, or in the one that failed.

    def scenario(world):
        cache, rows = world.cache(), world.rows({1: 0})

        def read():
            return cache.get_or_load("row:1", rows.read, 1)

        def write():
            rows.write(1, 1)
            cache.invalidate("row:1")

        world.reader(read)
        world.writer(write)

    check_interleavings(scenario)

A scenario is called anew for each run: it makes its caches and rows, and declares who runs at once. All else
that it uses must be the same each time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, Literal

import anyio
import attrs

from sansio_cache.exploring.schedules import (
    Chooser,
    Enumeration,
    NotReplayedError,
    Schedule,
    read_schedule,
)
from sansio_cache_testing.async_world import AsyncWorld
from sansio_cache_testing.diagram import mermaid_diagram, text_diagram
from sansio_cache_testing.faults import StoreFault
from sansio_cache_testing.judging import Finding
from sansio_cache_testing.loops import RUNNERS
from sansio_cache_testing.scheduling import WorldError
from sansio_cache_testing.steps import Step
from sansio_cache_testing.world import World

Scenario = Callable[[Any], object]
"""A function of a `World`, or a coroutine function of an `AsyncWorld`."""

Runtime = Literal["threads", "asyncio", "trio"]

MOST_RUNS: Final = 20_000


class InterleavingError(AssertionError):
    """An order was found in which the program goes wrong: the reason, the diagram and the schedule.

    Attributes:
        findings: What was wrong.
        steps: What happened.
        schedule: What `replay` takes.
    """

    def __init__(self, findings: tuple[Finding, ...], steps: tuple[Step, ...], schedule: str) -> None:
        self.findings = findings
        self.steps = steps
        self.schedule = schedule
        found = "\n".join(map(str, findings))
        super().__init__(
            f"{found}\n\n{text_diagram(steps)}\n\nto see it again: replay(scenario, {schedule!r})"
        )

    @property
    def mermaid(self) -> str:
        """The diagram for Mermaid."""
        return mermaid_diagram(self.steps)


@attrs.frozen
class Explored:
    """What `check_interleavings` has done.

    Args:
        runs: How many orders it has run.
        is_complete: Whether those were all, up to the bound.
        fired: How often each fault has struck.
    """

    runs: int
    is_complete: bool
    fired: dict[StoreFault, int]


class ScenarioError(WorldError):
    """The scenario is no program that a world can run. The message says what to do."""


def check(
    scenario: Scenario,
    schedule: Chooser,
    *,
    runtime: Runtime | None = None,
    seed: int = 0,
    faults: Iterable[StoreFault] = (),
) -> World | AsyncWorld:
    """Run a scenario once, by a schedule, and judge it.

    Args:
        scenario: Makes the caches and rows of a world, and declares its readers and writers.
        schedule: Decides who goes on.
        runtime: What it runs on; threads for a plain function, asyncio for a coroutine function.
        seed: Where nonces and jitter come from.
        faults: What may go wrong between caches and store.

    Returns:
        The world after the run.

    Raises:
        InterleavingError: A read was given what was too old, or the cache is wrong when all is done.
        WorldError: The program did what a world cannot own, or does not end.
    """
    runtime = _runtime_for(scenario, runtime)
    world: World | AsyncWorld
    try:
        if runtime == "threads":
            world = World(schedule, seed=seed, faults=faults)
            findings = _run(scenario, world)
        else:
            world = AsyncWorld(schedule, seed=seed, faults=faults)
            findings = RUNNERS[runtime](world.scheduler, partial(_run_async, scenario, world))
        if isinstance(schedule, Schedule):
            schedule.check_followed()
    except NotReplayedError as error:
        raise ScenarioError(str(error)) from None
    except Exception as error:
        if isinstance(schedule, Schedule):
            error.add_note(f"in the order of replay(scenario, {schedule.written!r})")
        raise
    if findings:
        written = schedule.written if isinstance(schedule, Schedule) else ""
        raise InterleavingError(tuple(findings), world.steps, written)
    return world


def _runtime_for(scenario: Scenario, runtime: Runtime | None) -> Runtime:
    is_async = iscoroutinefunction(scenario)
    if runtime is None:
        return "asyncio" if is_async else "threads"
    if runtime not in ("threads", *RUNNERS):
        raise ScenarioError(f"runtime is 'threads', 'asyncio' or 'trio'; got {runtime!r}")
    if is_async == (runtime == "threads"):
        kind = "a plain function" if runtime == "threads" else "a coroutine function (async def)"
        raise ScenarioError(f"a scenario for {runtime} is {kind} of a world")
    return runtime


def _run(scenario: Scenario, world: World) -> list[Finding]:
    try:
        scenario(world)
        return world.run()
    finally:
        world.end()


async def _run_async(scenario: Any, world: AsyncWorld) -> list[Finding]:
    try:
        await scenario(world)
        return await world.run()
    finally:
        with anyio.CancelScope(shield=True):
            await world.end()


def check_interleavings(
    scenario: Scenario,
    *,
    most_switches: int = 2,
    most_runs: int = MOST_RUNS,
    runtime: Runtime | None = None,
    seed: int = 0,
    faults: Iterable[StoreFault] = (),
) -> Explored:
    """Run a scenario in all orders with at most so many switches away from one that could go on.

    Orders with fewer switches come first, so what is found is as short as it can be.

    Args:
        scenario: Makes the caches and rows of a world, and declares its readers and writers.
        most_switches: How often somebody may be interrupted who could go on; a fault that strikes, a replica
            that is behind and time that passes early count as one as well.
        most_runs: After so many runs it stops, with a warning that it is not complete.
        runtime: What it runs on; threads for a plain function, asyncio for a coroutine function.
        seed: Where nonces and jitter come from.
        faults: What may go wrong between caches and store.

    Raises:
        InterleavingError: A read was given what was too old, or the cache is wrong when all is done.
        WorldError: The program did what a world cannot own, or does not end.
    """
    allowed = tuple(faults)
    fired = dict.fromkeys(allowed, 0)
    runs = 0
    for switches in range(most_switches + 1):
        for schedule in Enumeration(switches):
            if runs >= most_runs:
                warnings.warn(
                    f"check_interleavings has stopped after {runs} runs, and not all orders with "
                    f"{most_switches} switches were among them: raise most_runs, or make the scenario "
                    "smaller",
                    stacklevel=2,
                )
                return Explored(runs, is_complete=False, fired=fired)
            runs += 1
            world = check(scenario, schedule, runtime=runtime, seed=seed, faults=allowed)
            for fault, count in world.fired.items():
                fired[fault] += count
    return Explored(runs, is_complete=True, fired=fired)


def replay(
    scenario: Scenario,
    written: str,
    *,
    runtime: Runtime | None = None,
    seed: int = 0,
    faults: Iterable[StoreFault] = (),
) -> World | AsyncWorld:
    """Run a scenario once more in the order that a failure has printed.

    Raises:
        InterleavingError: It fails again.
        WorldError: It cannot be repeated, as the program depends on something but the schedule.
    """
    schedule = Schedule(read_schedule(written))
    return check(scenario, schedule, runtime=runtime, seed=seed, faults=faults)
