"""A store of one's own, written from docs/howto/write-a-backend.md: SQLite, in one file for many processes.

A cell is kept as the bytes that it has on a server, a tag as its version. Every command is one transaction,
so no process sees half of one. There is no listener: waiters look again by themselves.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import Any, Final

import anyio
import anyio.to_thread

from sansio_cache.cell import Cell, Foreign, Tag, format_cell, make_grant, parse_cell
from sansio_cache.commands import ONE_PART, Ping, ReadCell, ReadCells, ReadTags, ScanKeys, StoreCommand
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.health import Health
from sansio_cache.patterns import glob_match
from sansio_cache.store_rules import StoreRules
from sansio_cache.tags import VERSION_BYTES, is_tag_key

SCHEMA: Final = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, key TEXT UNIQUE, raw BLOB, expires_ms INTEGER);
CREATE INDEX IF NOT EXISTS kept_by_expiry ON kept (expires_ms);
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 0), us INTEGER);
INSERT OR IGNORE INTO clock VALUES (0, 0);
"""
LOOK: Final = "SELECT raw FROM kept WHERE key = ? AND expires_ms > ?"
KEEP: Final = """
INSERT INTO kept (key, raw, expires_ms) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET raw = excluded.raw, expires_ms = excluded.expires_ms
"""
PAGE: Final = "SELECT id, key FROM kept WHERE id > ? AND expires_ms > ? ORDER BY id LIMIT ?"
TICK: Final = "UPDATE clock SET us = max(us + 1, ?) RETURNING us"
READS: Final = (ReadCell, ReadCells, ReadTags, ScanKeys)
"""All others take the write lock; so does `Ping`, which is to know whether that can be had."""
KINDS: Final = {
    "SQLITE_BUSY": FailureKind.TIMEOUT,
    "SQLITE_FULL": FailureKind.OUT_OF_MEMORY,
    "SQLITE_READONLY": FailureKind.WRITES_REFUSED,
    "SQLITE_IOERR": FailureKind.UNAVAILABLE,
    "SQLITE_CANTOPEN": FailureKind.UNAVAILABLE,
}


class SqliteBackend(StoreRules):
    """For threads: `Cache.from_backend(lambda _: SqliteBackend(path), namespace="shop")`."""

    listener = None

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._lock = threading.Lock()

    def perform(self, command: StoreCommand) -> StoreEvent:
        if not self._lock.acquire(timeout=command.timeout_s):
            return StoreFailed(time.monotonic(), FailureKind.TIMEOUT)
        try:
            self._execute(f"PRAGMA busy_timeout = {int(command.timeout_s * 1000)}")
            with self._db:  # a commit at the end, or a roll-back
                self._execute("BEGIN" if isinstance(command, READS) else "BEGIN IMMEDIATE")
                return self.answer(command, time.monotonic(), int(time.time() * 1000))
        except sqlite3.Error as error:
            kind = KINDS.get(getattr(error, "sqlite_errorname", ""), FailureKind.OTHER)
            return StoreFailed(time.monotonic(), kind)
        finally:
            self._lock.release()

    def part_of(self, key: str) -> str:
        return ONE_PART

    def suspect(self, part: str) -> None:
        pass

    trust = distrust = suspect

    def health(self) -> Health:
        event = self.perform(Ping(1.0))
        problems = (f"the database fails: {event.kind}",) if isinstance(event, StoreFailed) else ()
        return Health(ok=not problems, problems=problems, server=f"SQLite {sqlite3.sqlite_version}")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # What the rules stand on.

    def _look(self, key: str, now_ms: int) -> Cell | Foreign | Tag | None:
        row = self._execute(LOOK, key, now_ms).fetchone()
        if row is None:
            return None
        return Tag(row[0]) if is_tag_key(key) and len(row[0]) == VERSION_BYTES else parse_cell(row[0])

    def _expires_ms(self, key: str) -> int:
        expires_ms: int = self._execute("SELECT expires_ms FROM kept WHERE key = ?", key).fetchone()[0]
        return expires_ms

    def _keep(self, key: str, cell: Cell | Foreign | Tag, expires_ms: int) -> None:
        assert not isinstance(cell, Foreign)
        self._execute(KEEP, key, cell.version if isinstance(cell, Tag) else format_cell(cell), expires_ms)

    def _drop(self, key: str) -> None:
        self._execute("DELETE FROM kept WHERE key = ?", key)

    def _scan(self, command: ScanKeys, now_ms: int) -> tuple[int, tuple[str, ...]]:
        rows = self._execute(PAGE, command.cursor, now_ms, command.count).fetchall()
        glob = command.pattern.encode()
        keys = tuple(key for _, key in rows if glob_match(glob, key.encode()))
        return (rows[-1][0] if len(rows) == command.count else 0), keys

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        self._execute("DELETE FROM kept WHERE expires_ms <= ?", now_ms)
        return make_grant(nonce, self._execute(TICK, now_ms * 1000).fetchone()[0])

    def _execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._db.execute(sql, values)


class AnyioSqliteBackend:
    """For asyncio and trio: the same on a worker thread, one command at a time."""

    listener = None

    def __init__(self, path: str) -> None:
        self._backend = SqliteBackend(path)
        self._turn = anyio.CapacityLimiter(1)
        self.part_of = self._backend.part_of
        self.suspect = self.trust = self.distrust = self._backend.suspect

    async def answer(self, command: StoreCommand) -> StoreEvent:
        with anyio.move_on_after(command.timeout_s):  # a thread that has begun ends by itself in that time
            return await anyio.to_thread.run_sync(self._backend.perform, command, limiter=self._turn)
        return StoreFailed(time.monotonic(), FailureKind.TIMEOUT)

    async def health(self) -> Health:
        return await anyio.to_thread.run_sync(self._backend.health)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._backend.close)
