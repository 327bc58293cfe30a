"""A double of a database that keeps every state it was ever in, so that a value tells from when it is.

All tables of a world are one database: a commit of any of them makes the next state. A read gives the
newest, a transaction the one that it began with and what it has written itself, and a replica maybe an older.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Generic, TypeVar

import attrs

from sansio_cache_testing.scheduling import Recording
from sansio_cache_testing.steps import DATABASE, shorten

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOST_BEHIND: Final = 3
"""How many states a replica may be behind."""

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
        self.states[-1] = {**self.states[-1], **{(table, key): value for key, value in rows.items()}}


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
        value: V | None = self.database.state.get((self.number, key))
        self.database.recording.note(f"reads {self.name} {key!r}: {shorten(value)}", DATABASE)
        return value

    def look_behind(self, key: K) -> V | None:
        """A row as a replica has it."""
        database = self.database
        if database.seen is not None:
            return self.look(key)
        first = max(self._behind, database.newest - _MOST_BEHIND)
        self._behind = database.newest - database.recording.pick(database.newest - first + 1)
        value: V | None = database.states[self._behind].get((self.number, key))
        behind = database.newest - self._behind
        late = f", {behind} commits behind" if behind else ""
        database.recording.note(f"reads {self.name} {key!r} on the replica: {shorten(value)}{late}", DATABASE)
        return value

    def put(self, changes: Mapping[K, V | None]) -> None:
        """Commit rows."""
        what = ", ".join(
            f"no {self.name} {key!r}" if value is None else f"{self.name} {key!r} = {shorten(value)}"
            for key, value in changes.items()
        )
        self.database.commit({(self.number, key): value for key, value in changes.items()}, f"commits {what}")

    def find(self, keeps: Callable[[K, V], bool] | None) -> dict[K, V]:
        """Rows as they are now."""
        found: dict[Any, Any] = {
            key: value
            for (table, key), value in self.database.state.items()
            if table == self.number and (keeps is None or keeps(key, value))  # type: ignore[arg-type]
        }
        self.database.recording.note(
            f"reads every {self.name}: {shorten(found)}"
            if keeps is None
            else f"looks for a {self.name}: {shorten(found)}",
            DATABASE,
        )
        return found


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
        value: V | None = self.changes.get(key, self._state.get((self.table.number, key)))
        database = self.table.database
        what = f"reads {self.table.name} {key!r} in its transaction: {shorten(value)}"
        database.recording.note(what, DATABASE)
        return value

    def write(self, key: K, value: V | None) -> None:
        """Write a row, to be seen by others when the transaction is committed. None removes it."""
        self.changes[key] = value
