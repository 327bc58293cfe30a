"""The writer: one transaction per update, and a ledger of what every version must add up to."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Final

import attrs

from sansio_cache import CacheStats
from sansio_cache_cli.board import Board
from sansio_cache_cli.database import SHOPS, Database, Report, Totals

PAUSE_S: Final = 0.06
"""How long the writer waits between two updates, in seconds."""


@attrs.define
class Recorder:
    """What each version of each shop must add up to: kept by the writer, not asked of the database."""

    _totals: dict[tuple[int, int], Totals]

    @classmethod
    def beginning_with(cls, totals: Mapping[int, Totals]) -> Recorder:
        """The ledger of a database that nobody has written yet."""
        return cls({(shop, 0): each for shop, each in totals.items()})

    def orders(self, shop: int) -> int:
        """How many orders a shop has."""
        return self._totals[shop, 0].orders

    def enter(self, shop: int, version: int, cents: int) -> None:
        """Note an update that made this version."""
        before = self._totals[shop, version - 1]
        self._totals[shop, version] = Totals(before.orders, before.cents + cents)

    def agrees(self, report: Report) -> bool:
        """Whether a report says what its version adds up to."""
        return self._totals.get((report.shop, report.version)) == Totals(report.orders, report.total_cents)


class Writer:
    """Updates the database. How the cache is told is the runtime's."""

    def __init__(self, database: Database, recorder: Recorder, board: Board) -> None:
        self.finished = threading.Event()
        self.completed = 0
        self.undelivered = 0
        self._database = database
        self._recorder = recorder
        self._board = board
        self._random = random.Random()  # noqa: S311 - which order to change next

    def choose(self) -> int:
        """The shop to write next."""
        return self._random.randrange(SHOPS)

    def commit(self, shop: int) -> int:
        """Update a shop in one transaction; returns its new version."""
        number = self._random.randrange(self._recorder.orders(shop))
        cents = self._random.randint(1, 500)
        version = self._database.add_cents(shop, number, cents)
        self._recorder.enter(shop, version, cents)
        return version

    def complete(self, shop: int, version: int, before: CacheStats, after: CacheStats) -> None:
        """The cache has been told of an update, as its statistics before and after show.

        What the store could not be told of is no completed write, and is counted apart.
        """
        if after.failed_invalidations > before.failed_invalidations:
            self.undelivered += 1
            return
        self._board.complete(shop, version)
        self.completed += 1
