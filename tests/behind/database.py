"""The database of a run: a table that refuses a lower token than it has, and a log of what it has taken."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import attrs

_SAVE = """
INSERT INTO item (id, version, token) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET version = excluded.version, token = excluded.token
WHERE excluded.token > item.token
"""
_BUSY_S = 60.0


@attrs.frozen
class Item:
    """What is written."""

    id: int
    version: int


@attrs.frozen
class Taken:
    """One write that the database has taken, or refused for its token."""

    id: int
    version: int
    token: int
    is_refused: bool


class Database:
    """The database, for any number of processes.

    Args:
        path: Its file.
        slow_s: A writer takes up to so long before it begins, by chance: time to be killed, or stopped.
        heeds_tokens: Whether it refuses lower tokens; not, to show that the run finds that.
    """

    def __init__(self, path: Path, slow_s: float = 0.0, *, heeds_tokens: bool = True) -> None:
        self._path = path
        self._slow_s = slow_s
        self._save = _SAVE if heeds_tokens else _SAVE[: _SAVE.index("WHERE")]

    def create(self) -> None:
        """Make the tables."""
        with closing(self._open()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, version INTEGER, token INTEGER)")
            db.execute("CREATE TABLE taken (id INTEGER, version INTEGER, token INTEGER, is_refused INTEGER)")

    def save(self, items: Iterable[Item], *, tokens: dict[int, int]) -> None:
        """Write a batch in one transaction: what a consumer calls."""
        if self._slow_s and random.random() < 0.3:
            time.sleep(random.uniform(0.0, self._slow_s))
        with closing(self._open()) as db:
            db.execute("BEGIN IMMEDIATE")
            for each in items:
                token = tokens[each.id]
                is_refused = not db.execute(self._save, (each.id, each.version, token)).rowcount
                db.execute(
                    "INSERT INTO taken VALUES (?, ?, ?, ?)", (each.id, each.version, token, is_refused)
                )
            db.execute("COMMIT")

    def load(self, id: int) -> Item | None:
        """What readers load."""
        with closing(self._open()) as db:
            row = db.execute("SELECT id, version FROM item WHERE id = ?", (id,)).fetchone()
        return None if row is None else Item(*row)

    def items(self) -> dict[int, int]:
        """The version of each."""
        with closing(self._open()) as db:
            return dict(db.execute("SELECT id, version FROM item"))

    def taken(self) -> list[Taken]:
        """The log, oldest first."""
        with closing(self._open()) as db:
            rows = db.execute("SELECT id, version, token, is_refused FROM taken ORDER BY rowid").fetchall()
        return [Taken(*row[:3], bool(row[3])) for row in rows]

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        db.execute("PRAGMA synchronous=OFF")  # it is not the database that is killed
        return db
