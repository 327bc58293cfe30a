"""What the checks of a phase without faults are made of: callers that load at once, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from sansio_cache.commands import StoreCommand
from sansio_cache.exploring.configuration import CODEC, TEXT
from sansio_cache.exploring.simulating.calls import Calls
from sansio_cache.exploring.simulating.client import Client, Running
from sansio_cache.exploring.simulating.loaders import RowLoader, Shared
from sansio_cache.exploring.simulating.network import Network
from sansio_cache.exploring.simulating.oracle import Liveness, Violated
from sansio_cache.exploring.simulating.rows import ROWS, Row
from sansio_cache.step import Loaded, Outcome, Step, Value

TRIP_S: Final = 0.002
"""A trip to the server and back takes no longer, where all is well."""
TRIPS_S: Final = 8 * TRIP_S
"""Nor do all the trips of a load that has not waited."""
LOAD_S: Final = 0.05
"""How long the loaders take here."""
ROW: Final = ROWS[0]


@attrs.define(eq=False)
class Process:
    """A process, with what begins operations in it, and how many call it at once."""

    client: Client
    calls: Calls
    callers: int


@attrs.define(eq=False)
class Asked:
    """One caller's call: what it was given, if it has ended."""

    process: Process
    running: Running | None = None
    outcome: Outcome | None = None


@attrs.define(eq=False)
class Probing:
    """Begins loads, lets time pass, and looks at what the server was asked."""

    shared: Shared
    network: Network
    processes: list[Process]

    def _run(self, process: Process, step: Step, loader: RowLoader) -> Asked:
        asked = Asked(process)

        def then(_: Running, outcome: Outcome) -> None:
            asked.outcome = outcome

        asked.running = process.client.start(step, then, loader, judges=True)
        return asked

    def _loader(self, process: Process, slow_s: float, *, is_text: bool = False, asks: str = "") -> RowLoader:
        process.calls.now_s = process.client.now_s
        return RowLoader(self.shared, process.calls, is_text, slow_s, asks)

    def _begin(
        self,
        process: Process,
        row: Row = ROW,
        slow_s: float = LOAD_S,
        *,
        is_text: bool = False,
        asks: str = "",
    ) -> Asked:
        loader = self._loader(process, slow_s, is_text=is_text, asks=asks)
        return self._run(process, process.calls.load(row, TEXT if is_text else CODEC), loader)

    def _all(self, row: Row = ROW, slow_s: float = LOAD_S) -> list[Asked]:
        """All callers of all processes ask at once."""
        return [self._begin(each, row, slow_s) for each in self.processes for _ in range(each.callers)]

    def _wait(self, asked: Iterable[Asked], limit_s: float, what: Liveness, why: str, row: Row = ROW) -> None:
        asked = list(asked)
        if not self.shared.timeline.run(lambda: all(each.outcome is not None for each in asked), limit_s):
            late = [each.process.client.name for each in asked if each.outcome is None]
            raise Violated(what, f"{why}: not within {limit_s:.3f} s, in {late}", row.key)
        last = self.shared.database.versions[row.key]
        for each in asked:
            if version_of(each.outcome) != last:
                seen = f"{why}: {each.process.client.name} is given {each.outcome}, {last} was committed last"
                raise Violated(Liveness.LAST, seen, row.key)

    def _pass(self, pause_s: float) -> None:
        self.shared.timeline.run(lambda: False, pause_s)

    def _forget(self) -> None:
        """Nothing is stored any more, as after a FLUSHDB."""
        for key in self.shared.server.store.dump():
            self.shared.server.store.plant(key, None, 0)

    def _asked_during(self, what: Callable[[], Any]) -> list[StoreCommand]:
        """What the server was asked meanwhile."""
        asked: list[StoreCommand] = []
        self.network.heard = asked.append
        what()
        self.network.heard = None
        return asked

    def _count(self, what: Callable[[], Any], loads: int, why: str, row: Row = ROW) -> None:
        """L2: meanwhile the row is loaded so many times, and no more."""
        before = self.shared.database.looks[row.key]
        what()
        after = self.shared.database.looks[row.key] - before
        if after != loads:
            raise Violated(Liveness.ONE_LOAD, f"{why}: {after} loads instead of {loads}", row.key)


def version_of(outcome: Outcome | None) -> int | None:
    """Which version a load gave; None where it gave none."""
    if not isinstance(outcome, Value | Loaded):
        return None
    return 0 if outcome.value is None else int(outcome.value)
