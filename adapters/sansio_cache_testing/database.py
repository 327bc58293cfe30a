"""A double of a database that keeps every state it was ever in, so that a value tells from when it is.

All tables of a world are one database: a commit of any of them makes the next state. A read gives the
newest, a transaction the one that it began with and what it has written itself, and a replica maybe an older.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from typing import Any, Final, Generic, TypeVar

import attrs

from sansio_cache_testing.scheduling import Recording
from sansio_cache_testing.steps import DATABASE, shorten

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOST_BEHIND: Final = 3
"""How many states a replica may be behind."""

_UNCHANGING: Final = (int, float, bool, str, bytes, type(None))

State = Mapping[tuple[int, Hashable], Any]


class Database:
    """All states that the tables of a world were in."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.states: list[State] = [{}]
        self.seen: int | None = None
        """The state that is to be looked at instead of the newest, where there is one."""
        self.commits: list[int] = []
        """For each state but the first, the step that made it."""
        self.tables = 0
        self.reads = 0
        """How often a row was read."""

    @property
    def newest(self) -> int:
        """The number of the newest state."""
        return len(self.states) - 1

    @property
    def state(self) -> State:
        """The state that a read sees."""
        return self.states[-1 if self.seen is None else self.seen]

    def commit(self, changes: Mapping[tuple[int, Hashable], Any], what: str) -> None:
        """Make the next state. None removes a row."""
        state = {**self.states[-1], **changes}
        self.states.append({key: value for key, value in state.items() if value is not None})
        self.recording.note(what, DATABASE)
        self.commits.append(len(self.recording.steps) - 1)

    def plant(self, table: int, rows: Mapping[Any, Any]) -> None:
        """Put rows in place before anything happens."""
        planted = {(table, key): copied(value) for key, value in rows.items()}
        self.states[-1] = {**self.states[-1], **planted}


def copied(value: Any) -> Any:
    """A value of its own, as a database gives and takes: who changes what he was given changes no row."""
    if type(value) in _UNCHANGING:
        return value
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - a class may refuse, and is shared then
        return value


@attrs.define(eq=False)
class Table(Generic[K, V]):
    """The rows of one table, without the waiting: what rows of threads and of event loops share."""

    database: Database
    number: int
    name: str
    _behind: int = 0
    """The state that the replica has come to."""

    def look(self, key: K) -> V | None:
        """A row as it is now."""
        value: V | None = copied(self.database.state.get((self.number, key)))
        self.database.reads += 1
        self.database.recording.note(f"reads {self.name} {key!r}: {shorten(value)}", DATABASE)
        return value

    def look_behind(self, key: K) -> V | None:
        """A row as a replica has it."""
        database = self.database
        if database.seen is not None:
            return self.look(key)
        first = max(self._behind, database.newest - _MOST_BEHIND)
        self._behind = database.newest - database.recording.pick(database.newest - first + 1)
        value: V | None = copied(database.states[self._behind].get((self.number, key)))
        database.reads += 1
        behind = database.newest - self._behind
        late = f", {behind} {'commit' if behind == 1 else 'commits'} behind" if behind else ""
        database.recording.note(f"reads {self.name} {key!r} on the replica: {shorten(value)}{late}", DATABASE)
        return value

    def put(self, changes: Mapping[K, V | None]) -> None:
        """Commit rows."""
        what = ", ".join(
            f"no {self.name} {key!r}" if value is None else f"{self.name} {key!r} = {shorten(value)}"
            for key, value in changes.items()
        )
        new: dict[tuple[int, Hashable], Any] = {
            (self.number, key): copied(value) for key, value in changes.items()
        }
        self.database.commit(new, f"commits {what}")

    def find(self, keeps: Callable[[K, V], bool] | None) -> dict[K, V]:
        """Rows as they are now."""
        self.database.reads += 1
        found = self.found(self.database.state, keeps)
        what = "reads every" if keeps is None else "looks through every"
        self.database.recording.note(f"{what} {self.name}: {shorten(found)}", DATABASE)
        return found

    def found(self, state: State, keeps: Callable[[K, V], bool] | None) -> dict[K, V]:
        """Rows of a state."""
        rows: dict[Any, Any] = {
            key: copied(row) for (table, key), row in state.items() if table == self.number
        }
        return {key: row for key, row in rows.items() if keeps is None or keeps(key, row)}


@attrs.define(eq=False)
class Transaction(Generic[K, V]):
    """What one transaction sees and writes: committed as its block ends, dropped where that raises."""

    table: Table[K, V]
    _state: State = attrs.field(init=False)
    changes: dict[K, V | None] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._state = self.table.database.state

    def read(self, key: K) -> V | None:
        """A row as the transaction has it: as it began, or as it was written in it."""
        value: V | None = copied(self.changes.get(key, self._state.get((self.table.number, key))))
        database = self.table.database
        database.reads += 1
        what = f"reads {self.table.name} {key!r} in its transaction: {shorten(value)}"
        database.recording.note(what, DATABASE)
        return value

    def write(self, key: K, value: V | None) -> None:
        """Write a row, to be seen by others when the transaction is committed. None removes it."""
        self.changes[key] = copied(value)

    def delete(self, key: K) -> None:
        """Remove a row, for others when the transaction is committed."""
        self.changes[key] = None

    def find(self, keeps: Callable[[K, V], bool] | None = None) -> dict[K, V]:
        """All rows as the transaction has them, or those that a function of key and value says yes to."""
        table = self.table
        rows = {**table.found(self._state, None), **{key: copied(row) for key, row in self.changes.items()}}
        found: dict[K, V] = {
            key: row for key, row in rows.items() if row is not None and (keeps is None or keeps(key, row))
        }
        table.database.reads += 1
        table.database.recording.note(
            f"reads every {table.name} in its transaction: {shorten(found)}", DATABASE
        )
        return found


@attrs.define(eq=False)
class AsyncTransaction(Generic[K, V]):
    """The same, for event loops: its methods are awaited, as those of rows are."""

    _inner: Transaction[K, V]

    async def read(self, key: K) -> V | None:
        """A row as the transaction has it: as it began, or as it was written in it."""
        return self._inner.read(key)

    async def write(self, key: K, value: V | None) -> None:
        """Write a row, to be seen by others when the transaction is committed. None removes it."""
        self._inner.write(key, value)

    async def delete(self, key: K) -> None:
        """Remove a row, for others when the transaction is committed."""
        self._inner.delete(key)

    async def find(self, keeps: Callable[[K, V], bool] | None = None) -> dict[K, V]:
        """All rows as the transaction has them, or those that a function of key and value says yes to."""
        return self._inner.find(keeps)
