"""What callers have in common: to begin operations, to write the database, to tell the oracle of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from sansio_cache.codec import Codec
from sansio_cache.exploring.simulating.calls import Calls
from sansio_cache.exploring.simulating.client import Client, Running
from sansio_cache.exploring.simulating.faults import SimulatedFault
from sansio_cache.exploring.simulating.loaders import RowLoader, Shared
from sansio_cache.exploring.simulating.oracle import SOFT, Told
from sansio_cache.exploring.simulating.rows import TAG_KEY, Row
from sansio_cache.step import Outcome, Step

THINK_S: Final = 0.01
"""How long a caller pauses between two calls at most."""


@attrs.define(eq=False)
class CallerBase:
    """Somebody who calls one process.

    Args:
        shared: The world.
        client: The process.
        calls: Begins operations there.
        is_text: Whether it is of the other version of the program.
    """

    shared: Shared
    client: Client
    calls: Calls
    is_text: bool
    is_idle: bool = False
    """Whether it has ended, as nothing new is to be begun."""
    _began_s: float = 0.0
    _learned_s: float = 0.0
    _writing: tuple[tuple[Row, ...], bool] | None = None

    def next(self) -> None:
        """Do something; and something else after that."""
        raise NotImplementedError

    def done(self, name: str) -> None:
        """A call has ended: think, and go on."""
        self.shared.done[name] += 1
        self.pause()

    def pause(self) -> None:
        """Think, and go on."""
        self.client.later(self.shared.random.random() * THINK_S, self.next)

    def start(
        self,
        step: Step,
        then: Callable[[Running, Outcome], None],
        row: Row | None = None,
        *,
        judges: bool = False,
    ) -> Running:
        """Begin an operation, which may be cancelled at some moment of it. With a row, it may load that."""
        shared, client = self.shared, self.client
        loader = self.loader(row) if row is not None else None
        running = client.start(step, then, loader, judges=judges)
        if not running.is_over and shared.random.random() < shared.rates.cancelled:
            client.later(shared.random.random() ** 3 * 0.2, partial(self._cancel, running))
        return running

    def loader(self, row: Row) -> RowLoader:
        """What it gives with a read of a row."""
        return RowLoader(self.shared, self.calls, row.has_versions and self.is_text)

    def _cancel(self, running: Running) -> None:
        if not running.is_over:
            self.shared.fired[SimulatedFault.CANCELLED] += 1
            self.client.interrupt(running)

    def codec(self, row: Row) -> Codec[Any]:
        """How its version of the program stores a row."""
        return self.calls.codec(row, is_text=self.is_text)

    def may_write(self, rows: tuple[Row, ...], *, alone: bool) -> bool:
        """Begin to write some rows, if that is right just now."""
        if not self.shared.database.may_write(rows, alone=alone):
            return False
        self._writing = rows, alone
        return True

    def end_write(self) -> None:
        """Its write has ended, or its process."""
        if self._writing is not None:
            rows, alone = self._writing
            self.shared.database.end_write(rows, alone=alone)
            self._writing = None

    def commit(self, rows: tuple[Row, ...]) -> int:
        """Write rows in the database."""
        version = self.shared.database.commit(rows)
        self.shared.say(f"{self.client.name}: commits {version}", *(row.key for row in rows))
        return version

    def tell(
        self,
        name: str,
        rows: tuple[Row, ...],
        version: int,
        running: Running,
        *,
        tag: bool = False,
        soft: bool = False,
        since_s: float = 0.0,
    ) -> None:
        """Tell the oracle: a write is complete, from `since_s` on, or where the store could be told."""
        shared, now_s = self.shared, max(self.shared.timeline.now_s, since_s)
        for row in rows:
            told_as = TAG_KEY if tag else row.key
            key = f"{row.key}{SOFT}" if soft else row.key
            told = Told(self.client.name, version, now_s, None if told_as in running.owes else now_s)
            shared.oracle.note(key, told)
            if told.completed_s is None:
                self.client.owe(key, told_as, told)
            shared.say(
                f"{self.client.name}: {name} of {version} has returned, told {told.completed_s}",
                row.key,
            )
