"""One load for each change (L2): how often loaders run, where nothing goes wrong.

A protocol that loads twice serves nobody what is wrong, and is not worth having.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from sansio_cache.exploring.configuration import CODEC
from sansio_cache.exploring.simulating.oracle import Liveness, Violated
from sansio_cache.exploring.simulating.probing import LOAD_S, ROW, TRIPS_S, Asked, Probing
from sansio_cache.exploring.simulating.rows import EARLY, LEASE_S, ROWS, STALE_AT_ONCE, Row

_BY_POLICY: Final = {row.policy: row for row in ROWS}
_VERSIONS: Final = next(row for row in ROWS if row.has_versions)
_AWAY_S: Final = 60.0
"""Nothing is stored any more after that."""


@attrs.define(eq=False)
class LoadChecks(Probing):
    """The checks, of one world."""

    def check(self) -> None:
        """Look at all of them."""
        self.burst()
        self.nothing()
        self.early()
        self.stale()
        self.ending()
        self.versions()
        self.batches()
        self.circle()

    def _load(
        self,
        asked: Iterable[Asked],
        why: str,
        row: Row = ROW,
        limit_s: float = LOAD_S + TRIPS_S,
    ) -> None:
        self._wait(asked, limit_s, Liveness.ENDS, why, row)

    def burst(self) -> None:
        """Of all callers of all processes one loads."""
        self._forget()
        self._count(lambda: self._load(self._all(), "all ask at once"), 1, "all ask at once")
        self._count(lambda: self._load(self._all(), "it is stored"), 0, "it is stored")

    def nothing(self) -> None:
        """That there is nothing is kept as well."""
        versions = self.shared.database.versions
        before, versions[ROW.key] = versions[ROW.key], 0
        self._forget()
        self._count(lambda: self._load(self._all(), "there is nothing"), 1, "there is nothing")
        self._count(lambda: self._load(self._all(), "that is kept"), 0, "that is kept")
        versions[ROW.key] = before
        self._forget()

    def early(self) -> None:
        """A fresh value is refreshed once, and the new one takes its place."""
        self._refreshed(_BY_POLICY[EARLY], "it is soon to expire", 0.5 * EARLY.ttl)

    def stale(self) -> None:
        """A stale value is refreshed once."""
        self._refreshed(_BY_POLICY[STALE_AT_ONCE], "it is stale", 1.5 * STALE_AT_ONCE.ttl)

    def _refreshed(self, row: Row, why: str, after_s: float) -> None:
        self._forget()
        self._load([self._begin(self.processes[0], row)], why, row)
        self._pass(after_s)

        def ask() -> None:
            self._load(self._all(row), why, row)
            self._pass(2 * LOAD_S + TRIPS_S)

        self._count(ask, 1, why, row)
        self._count(ask, 0, f"{why}, and was refreshed", row)

    def ending(self) -> None:
        """A value expires while it is refreshed: the refresh is still the only load."""
        row = _BY_POLICY[EARLY]
        first, *others = self.processes
        self._forget()
        self._load([self._begin(first, row)], "a value is loaded", row)
        server = self.shared.server
        left_s = server.store.dump()[row.key].expires_ms / 1000 - server.clock()
        self._pass(left_s - LEASE_S / 5)

        def ask() -> None:
            self._load([self._begin(first, row, 2 * LEASE_S)], "it is about to expire", row)
            self._pass(1.5 * LEASE_S)
            self._load([self._begin(each, row) for each in others], "it has expired", row, 2 * LEASE_S)

        self._count(ask, 1, "it expires while it is refreshed", row)

    def versions(self) -> None:
        """Two versions of the program load once each, and keep what they have loaded."""
        self._forget()

        def ask() -> None:
            for _ in range(2):
                for is_text in (False, True):
                    for process in self.processes:
                        self._load(
                            [self._begin(process, _VERSIONS, is_text=is_text)],
                            "a version asks",
                            _VERSIONS,
                        )

        self._count(ask, 2, "two versions ask in turn", _VERSIONS)

    def batches(self) -> None:
        """Batches of the same keys, in any order, load each once, and none waits with leases in hand."""
        rows = ROWS[:2]
        self._forget()

        def ask() -> None:
            asked = []
            for place, process in enumerate(self.processes):
                loader = self._loader(process, LOAD_S)
                step = process.calls.load_many(rows if place % 2 else rows[::-1], CODEC, chunk=1)
                asked.append(self._run(process, step, loader))
            self._ends(asked, "batches ask in any order")

        for row in rows:
            self._count(ask, 1, "batches ask in any order", row)
            self._forget()

    def circle(self) -> None:
        """Loaders of one process that need each other do not wait for each other (L1)."""
        first, second = ROWS[:2]
        process = self.processes[0]
        self._forget()
        asked = [self._begin(process, first, asks=second.key), self._begin(process, second, asks=first.key)]
        self._ends(asked, "two loaders need each other")
        self._pass(_AWAY_S)

    def _ends(self, asked: list[Asked], why: str) -> None:
        limit_s = 4 * (LOAD_S + TRIPS_S)
        if not self.shared.timeline.run(lambda: all(each.outcome is not None for each in asked), limit_s):
            late = [each.process.client.name for each in asked if each.outcome is None]
            raise Violated(Liveness.ENDS, f"{why}: not in time, in {late}", ROW.key)
