"""The demo's database: the orders of a few shops in SQLite, and a report on each shop.

A report is an expensive aggregate that carries the version of its shop's data. Every update raises that
version in its own transaction, so an answer says by itself how old it is. Queries are counted here, where
the work is done: no figure of the cache's own is needed to know how many there were.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

SHOPS: Final = 8

_SCHEMA: Final = """
    -- Nobody needs these files after the demo: do not wait for the disk.
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE orders (
        shop INTEGER, number INTEGER, customer INTEGER, product INTEGER, cents INTEGER,
        PRIMARY KEY (shop, number)
    ) WITHOUT ROWID;
    CREATE TABLE versions (shop INTEGER PRIMARY KEY, version INTEGER NOT NULL);
"""
_ORDERS: Final = """
    WITH RECURSIVE
        numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :orders),
        shops(s) AS (SELECT 0 UNION ALL SELECT s + 1 FROM shops WHERE s + 1 < :shops)
    INSERT INTO orders
    SELECT s, n, (n * 7919 + s * 31) % 5003, (n * 104729 + s) % 97, 100 + (n * 7561 + s * 613) % 9900
    FROM shops CROSS JOIN numbers
"""
# One statement, and so one snapshot: the version is that of the rows.
_REPORT: Final = """
    SELECT
        (SELECT version FROM versions WHERE shop = :shop), count(*), sum(cents), count(DISTINCT customer),
        (
            SELECT product FROM orders WHERE shop = :shop
            GROUP BY product ORDER BY sum(cents) DESC, product LIMIT 1
        )
    FROM orders WHERE shop = :shop
"""


@attrs.frozen
class Report:
    """What a shop has sold, as of a version of its data."""

    shop: int
    version: int
    orders: int
    total_cents: int
    customers: int
    best_product: int


@attrs.frozen
class Query:
    """One run of the report's query, in seconds of the clock that all processes share."""

    shop: int
    began_s: float
    ended_s: float


@attrs.frozen
class Totals:
    """What a report must say: the number of orders and their sum."""

    orders: int
    cents: int


def build(path: Path, rows: int) -> dict[int, Totals]:
    """Make the database; returns what each shop begins with."""
    connection = _connect(path)
    try:
        connection.executescript(_SCHEMA)
        connection.execute(_ORDERS, {"orders": max(rows // SHOPS, 1), "shops": SHOPS})
        connection.execute("INSERT INTO versions SELECT DISTINCT shop, 0 FROM orders")
        sums = connection.execute("SELECT shop, count(*), sum(cents) FROM orders GROUP BY shop")
        return {shop: Totals(orders, cents) for shop, orders, cents in sums}
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Each thread uses its own, but they are all closed by one.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)


class Database:
    """The database for any number of threads of one process, a connection for each."""

    def __init__(self, path: Path) -> None:
        self.queries: list[Query] = []
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()

    def report(self, shop: int) -> Report:
        """Run the report's query."""
        connection = self._connection()
        began_s = time.monotonic()
        try:
            row = connection.execute(_REPORT, {"shop": shop}).fetchone()
        finally:
            self.queries.append(Query(shop, began_s, time.monotonic()))
        return Report(shop, *row)

    def add_cents(self, shop: int, number: int, cents: int) -> int:
        """Change the price of an order in one transaction; returns the shop's new version."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            where = {"shop": shop, "number": number, "cents": cents}
            connection.execute(
                "UPDATE orders SET cents = cents + :cents WHERE shop = :shop AND number = :number", where
            )
            connection.execute("UPDATE versions SET version = version + 1 WHERE shop = :shop", where)
            row = connection.execute("SELECT version FROM versions WHERE shop = :shop", where).fetchone()
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return int(row[0])

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _connect(self._path)
            self._connections.append(connection)
        return connection
