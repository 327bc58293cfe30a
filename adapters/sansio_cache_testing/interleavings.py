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

import asyncio
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import iscoroutinefunction, signature
from typing import Any, Final, Literal

import anyio
import attrs

from sansio_cache.exploring.refusing import check_whole
from sansio_cache.exploring.schedules import (
    Chooser,
    Enumeration,
    NotReplayedError,
    Schedule,
    read_schedule,
)
from sansio_cache.signals import let_through
from sansio_cache_testing.async_world import AsyncWorld
from sansio_cache_testing.diagram import mermaid_diagram, text_diagram
from sansio_cache_testing.faults import StoreFault, allowed
from sansio_cache_testing.judging import Finding, Result
from sansio_cache_testing.loops import RUNNERS
from sansio_cache_testing.outside import outside_refused
from sansio_cache_testing.scheduling import ScenarioError, WorldError, check_chooser
from sansio_cache_testing.steps import Step
from sansio_cache_testing.world import World

Scenario = Callable[[Any], object]
"""A function of a `World`, or a coroutine function of an `AsyncWorld`."""

Runtime = Literal["threads", "asyncio", "trio"]

MOST_RUNS: Final = 20_000
_MOST_TOLD: Final = 60
"""So many steps, the last, are shown of a run that has ended with an exception of the program's."""
_OWN_DATABASE: Final = (
    "the functions of a scenario run in threads of their own, and a connection of SQLite is of the thread "
    "that made it. Use world.rows({…}) in its place: that is a database which the world can take back to an "
    "earlier state, and whose reads and commits it shows"
)


class InterleavingError(AssertionError):
    """An order was found in which the program goes wrong: the reason, the diagram and the schedule.

    Attributes:
        findings: What was wrong.
        steps: What happened.
        schedule: What `replay` takes.
    """

    def __init__(
        self, findings: tuple[Finding, ...], steps: tuple[Step, ...], schedule: str, settings: str = ""
    ) -> None:
        self.findings = findings
        self.steps = steps
        self.schedule = schedule
        found = "\n".join(map(str, findings))
        again = f"to see it again: replay(scenario, {schedule!r}{settings})"
        super().__init__(f"{found}\n\n{text_diagram(steps)}\n\n{again}")

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
    __tracebackhide__ = True
    check_chooser("check", schedule)
    settings = _settings(runtime, seed, faults := allowed(faults))
    runtime = _runtime_for(scenario, runtime)
    make = World if runtime == "threads" else AsyncWorld
    world: World | AsyncWorld = make(schedule, seed=seed, faults=faults)
    try:
        findings = _judged(scenario, world, runtime)
        if isinstance(schedule, Schedule):
            schedule.check_followed()
    except NotReplayedError as error:
        raise ScenarioError(str(error)) from None
    except BaseException as error:
        if world.scheduler.stopped_by is not None:  # and what it has led to is of no interest
            raise world.scheduler.stopped_by from None
        if isinstance(schedule, Schedule) and isinstance(error, Exception):
            what = "" if isinstance(error, WorldError) else f"\n\n{text_diagram(world.steps[-_MOST_TOLD:])}"
            error.add_note(f"in the order of replay(scenario, {schedule.written!r}{settings}){what}")
        if _is_of_another_thread(error):
            error.add_note(_OWN_DATABASE)
        raise
    if findings:
        written = schedule.written if isinstance(schedule, Schedule) else ""
        raise InterleavingError(tuple(findings), world.steps, written, settings)
    return world


def _is_of_another_thread(error: BaseException) -> bool:
    """Whether SQLite refuses a connection that another thread has made."""
    return type(error).__module__ == "sqlite3" and "created in a thread" in str(error)


def _settings(runtime: Runtime | None, seed: int, faults: tuple[StoreFault, ...]) -> str:
    """What `replay` is to be given besides the schedule, as it is written in a call."""
    given = [f"runtime={runtime!r}"] if runtime is not None else []
    given += [f"seed={seed!r}"] if seed else []
    every = len(faults) > 1 and faults == tuple(StoreFault)
    if faults:
        given.append("faults=list(StoreFault)" if every else f"faults=[{', '.join(map(str, faults))}]")
    return "".join(f", {each}" for each in given)


def _judged(scenario: Scenario, world: World | AsyncWorld, runtime: Runtime) -> list[Finding]:
    if isinstance(world, World):
        return _run(scenario, world)
    if _has_running_loop():
        raise ScenarioError(
            "an event loop runs already: a scenario for event loops has one of its own, so call this from a "
            "plain test function"
        )
    # Around the loop, and not within: a loop in which nobody can go on leaves its tasks as they are.
    with outside_refused(lambda: world.scheduler.is_participant):
        findings: list[Finding] = RUNNERS[runtime](world.scheduler, partial(_run_async, scenario, world))
    return findings


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


def _check_declared(world: World | AsyncWorld) -> None:
    if not world.is_judged:
        raise ScenarioError(
            "the scenario declares nothing that could be found wrong: declare a world.reader(function, …), "
            "or what must hold with world.in_the_end(function, …)"
        )


def _runtime_for(scenario: Scenario, runtime: Runtime | None) -> Runtime:
    if not callable(scenario):
        raise ScenarioError(f"a scenario is a function of a world; got {scenario!r:.80}")
    _check_takes_world(scenario)
    is_async = iscoroutinefunction(scenario)
    if runtime is None:
        return "asyncio" if is_async else "threads"
    if runtime not in ("threads", *RUNNERS):
        raise ScenarioError(f"runtime is 'threads', 'asyncio' or 'trio'; got {runtime!r}")
    if is_async == (runtime == "threads"):
        kind = "a plain function" if runtime == "threads" else "a coroutine function (async def)"
        raise ScenarioError(f"a scenario for {runtime} is {kind} of a world")
    return runtime


def _check_takes_world(scenario: Scenario) -> None:
    try:
        parameters = signature(scenario)
    except (TypeError, ValueError) as error:  # built in, and does not say
        let_through(error)
        return
    try:
        parameters.bind(None)
    except TypeError as error:
        let_through(error)
    else:
        return
    name = getattr(scenario, "__name__", "scenario")
    kind = "async def" if iscoroutinefunction(scenario) else "def"
    raise ScenarioError(
        f"a scenario is called with a world, and {name}{parameters} cannot be: write `{kind} "
        f"{name}(world):`, and make caches and rows of that: world.cache(), world.rows({{…}})"
    )


def _run(scenario: Scenario, world: World) -> list[Finding]:
    try:
        scenario(world)
        _check_declared(world)
        return world.run()
    finally:
        world.end()


async def _run_async(scenario: Any, world: AsyncWorld) -> list[Finding]:
    try:
        await scenario(world)
        _check_declared(world)
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
        most_runs: After so many runs it stops, with a warning that it is not complete. At least one.
        runtime: What it runs on; threads for a plain function, asyncio for a coroutine function.
        seed: Where nonces and jitter come from.
        faults: What may go wrong between caches and store.

    Raises:
        InterleavingError: A read was given what was too old, or the cache is wrong when all is done.
        WorldError: The program did what a world cannot own, or does not end.
    """
    __tracebackhide__ = True
    check_whole("most_switches", most_switches, 0, error=ScenarioError)
    check_whole("most_runs", most_runs, 1, error=ScenarioError)
    faults = allowed(faults)
    fired = dict.fromkeys(faults, 0)
    told: dict[str, Result | None] = {}
    has_checks = False
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
            world = check(scenario, schedule, runtime=runtime, seed=seed, faults=faults)
            has_checks = world.has_checks
            for reader in world.readers:
                if told.setdefault(reader.name, reader.seen) is not None and not reader.is_empty:
                    told[reader.name] = None  # it does tell something
            for fault, count in world.fired.items():
                fired[fault] += count
    if not has_checks:
        _check_told(told)
    return Explored(runs, is_complete=True, fired=fired)


def _check_told(told: Mapping[str, Result | None]) -> None:
    """Refuse readers that have raised, or given None, in every run: nothing was compared."""
    for name, result in told.items():
        if result is not None:
            raise ScenarioError(
                f"{name} {result.told} in every order, as it does without a cache, so nothing was compared: "
                "does it get its arguments, and return what it reads?"
            )


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
        ValueError: The text is no schedule.
    """
    __tracebackhide__ = True
    if not isinstance(written, str):
        raise ScenarioError(
            f"replay takes the text that a failure has printed, such as '3:1 7:2'; got {written!r:.80}. A "
            "schedule itself is for check(scenario, schedule)"
        )
    schedule = Schedule(read_schedule(written))
    return check(scenario, schedule, runtime=runtime, seed=seed, faults=faults)
