"""A pytest plugin: the tables of what was explored, at the end of the run; with -v, counterexamples too."""

from __future__ import annotations

import gc
import time
from typing import Final

import attrs
import pytest

from sansio_cache.exploring.configuration import Configuration
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.search import Exploration, explore


@attrs.frozen
class Timed:
    """An exploration, and how long it took."""

    exploration: Exploration
    took_s: float


EXPLORED: Final[list[Timed]] = []
CAUGHT: Final[list[tuple[Exploration, Invariant]]] = []


def explored(configuration: Configuration) -> Timed:
    """Explore with the clock on, and the collector of garbage off: there is none in cycles, and looking for
    it takes a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    began_s = time.perf_counter()
    try:
        return Timed(explore(configuration), time.perf_counter() - began_s)
    finally:
        if was_enabled:
            gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, if anything was explored."""
    if EXPLORED:
        terminalreporter.section("explored exhaustively")
        width = max(len(each.exploration.name) for each in EXPLORED)
        terminalreporter.line(
            f"{'configuration':{width}} {'states':>9} {'transitions':>11} {'depth':>5} {'s':>6}  closed"
        )
        for timed in EXPLORED:
            each = timed.exploration
            closed = "yes" if each.is_closed else "NO"
            terminalreporter.line(
                f"{each.name:{width}} {each.states:>9,} {each.transitions:>11,} {each.depth:>5} "
                f"{timed.took_s:>6.1f}  {closed}"
            )
        states = sum(each.exploration.states for each in EXPLORED)
        transitions = sum(each.exploration.transitions for each in EXPLORED)
        took_s = sum(each.took_s for each in EXPLORED)
        terminalreporter.line(f"{'in all':{width}} {states:>9,} {transitions:>11,} {'':5} {took_s:>6.1f}")
    if CAUGHT:
        terminalreporter.section("wrong protocols caught by exploring")
        width = max(len(each.name) for each, _ in CAUGHT)
        terminalreporter.line(f"{'variant':{width}} {'moves':>5}  invariant broken")
        for each, invariant in CAUGHT:
            counterexample = each.counterexample
            if counterexample is None:
                terminalreporter.line(f"{each.name:{width}} {'NOT':>5}  {invariant.value}")
                continue
            terminalreporter.line(
                f"{each.name:{width}} {counterexample.length:>5}  {counterexample.invariant.value}"
            )
            if terminalreporter.verbosity > 0:
                for text in counterexample.moves:
                    terminalreporter.line(f"    {text}")
