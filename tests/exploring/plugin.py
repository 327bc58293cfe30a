"""A pytest plugin: the tables of what was explored, at the end of the run; with -v, counterexamples too."""

from __future__ import annotations

from typing import Final

import pytest

from exploring.invariants import Invariant
from exploring.search import Exploration

EXPLORED: Final[list[Exploration]] = []
CAUGHT: Final[list[tuple[Exploration, Invariant]]] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, if anything was explored."""
    if EXPLORED:
        terminalreporter.section("explored exhaustively")
        width = max(len(each.name) for each in EXPLORED)
        terminalreporter.line(
            f"{'configuration':{width}} {'states':>9} {'transitions':>11} {'depth':>5} {'s':>6}  closed"
        )
        for each in EXPLORED:
            closed = "yes" if each.is_closed else "NO"
            terminalreporter.line(
                f"{each.name:{width}} {each.states:>9,} {each.transitions:>11,} {each.depth:>5} "
                f"{each.took_s:>6.1f}  {closed}"
            )
        states = sum(each.states for each in EXPLORED)
        transitions = sum(each.transitions for each in EXPLORED)
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
