"""Tables of a world, for threads and for event loops. Each access is a point at which others may go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic

import attrs

from sansio_cache_testing.database import AsyncTransaction, K, Table, Transaction, V


@attrs.define(eq=False)
class Replica(Generic[K, V]):
    """The same rows on a replica, which may be some commits behind the primary, and never goes back."""

    _table: Table[K, V] = attrs.field(repr=False)
    _point: Callable[[str], None] = attrs.field(repr=False)

    def read(self, key: K) -> V | None:
        """A row, or None where there is none: maybe not as the primary has it."""
        self._point("is about to read the replica")
        return self._table.look_behind(key)


@attrs.define(eq=False)
class Rows(Generic[K, V]):
    """A table of a world. `read` is given to the cache as a loader as it is."""

    _table: Table[K, V] = attrs.field(repr=False)
    _point: Callable[[str], None] = attrs.field(repr=False)

    @property
    def replica(self) -> Replica[K, V]:
        """The same rows on a replica."""
        return Replica(self._table, self._point)

    def read(self, key: K) -> V | None:
        """A row, or None where there is none."""
        self._point("is about to read the database")
        return self._table.look(key)

    def find(self, keeps: Callable[[K, V], bool] | None = None) -> dict[K, V]:
        """All rows, or those that a function of key and value says yes to."""
        self._point("is about to read the database")
        return self._table.find(keeps)

    def write(self, key: K, value: V) -> None:
        """Write a row and commit it."""
        self._point("is about to commit")
        self._table.put({key: value})

    def delete(self, key: K) -> None:
        """Remove a row and commit that."""
        self._point("is about to commit")
        self._table.put({key: None})

    @contextmanager
    def transaction(self) -> Iterator[Transaction[K, V]]:
        """Read and write in one transaction, which is committed as the block ends: others see nothing before.

        It sees the rows as they were when it began. Two that overlap are not kept apart: who commits last
        wins, as in a database at the level "read committed".
        """
        self._point("is about to begin a transaction")
        transaction = Transaction(self._table)
        yield transaction
        if transaction.changes:
            self._point("is about to commit")
            self._table.put(transaction.changes)


@attrs.define(eq=False)
class AsyncReplica(Generic[K, V]):
    """The same rows on a replica, which may be some commits behind the primary, and never goes back."""

    _table: Table[K, V] = attrs.field(repr=False)
    _point: Callable[[str], Awaitable[None]] = attrs.field(repr=False)

    async def read(self, key: K) -> V | None:
        """A row, or None where there is none: maybe not as the primary has it."""
        await self._point("is about to read the replica")
        return self._table.look_behind(key)


@attrs.define(eq=False)
class AsyncRows(Generic[K, V]):
    """A table of a world. `read` is given to the cache as a loader as it is."""

    _table: Table[K, V] = attrs.field(repr=False)
    _point: Callable[[str], Awaitable[None]] = attrs.field(repr=False)

    @property
    def replica(self) -> AsyncReplica[K, V]:
        """The same rows on a replica."""
        return AsyncReplica(self._table, self._point)

    async def read(self, key: K) -> V | None:
        """A row, or None where there is none."""
        await self._point("is about to read the database")
        return self._table.look(key)

    async def find(self, keeps: Callable[[K, V], bool] | None = None) -> dict[K, V]:
        """All rows, or those that a function of key and value says yes to."""
        await self._point("is about to read the database")
        return self._table.find(keeps)

    async def write(self, key: K, value: V) -> None:
        """Write a row and commit it."""
        await self._point("is about to commit")
        self._table.put({key: value})

    async def delete(self, key: K) -> None:
        """Remove a row and commit that."""
        await self._point("is about to commit")
        self._table.put({key: None})

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction[K, V]]:
        """Read and write in one transaction, which is committed as the block ends: others see nothing before.

        It sees the rows as they were when it began. Two that overlap are not kept apart: who commits last
        wins, as in a database at the level "read committed".
        """
        await self._point("is about to begin a transaction")
        transaction = Transaction(self._table)
        yield AsyncTransaction(transaction)
        if transaction.changes:
            await self._point("is about to commit")
            self._table.put(transaction.changes)
