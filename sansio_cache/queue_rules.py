"""The rules of queues: what every command does to a partition, wherever it is kept.

The order of the writes of a key rests on these: nothing is appended but under the grant of a hold that is
still there (S8), nothing is delivered to anybody but who has the partition's lease, nothing leaves the
partition but by a verdict, and what a reader finds for a key is its newest entry until that is settled. They
are the executable specification of the Lua texts, as `store_rules.py` is for cells.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, Self, assert_never

import attrs
from msgspec.structs import replace

from sansio_cache.cell import NONCE_BYTES, Cell, Foreign, Kind
from sansio_cache.commands import (
    Append,
    AppendEntries,
    AttendQueue,
    DropLetters,
    MeasureQueue,
    PeekEntries,
    QueueCommand,
    ReadLetters,
    ReplayLetter,
    SettleEntries,
    TakeEntries,
    Verdict,
)
from sansio_cache.events import (
    Appended,
    EntriesAppended,
    EntriesFound,
    EntriesSettled,
    EntriesTaken,
    KeysDeleted,
    QueueAttended,
    QueueMeasured,
    StoreEvent,
)
from sansio_cache.queues import CRASHES, QueueEntry, hold_of, lease_of

_TABLES: Final = ("entries", "pending", "letters", "dead", "members")


class Cells(Protocol):
    """Where holds and leases are."""

    def cell(self, key: str, now_ms: int) -> Cell | Foreign | None:
        """What a key holds."""
        ...

    def drop(self, key: str) -> None:
        """Remove a key, if it is there."""
        ...


@attrs.define
class Partition:
    """What a partition keeps."""

    last: int = 0
    """The token that was issued last."""
    partitions: int = 0
    """How many the queue has; 0 where nobody has said so."""
    entries: dict[int, QueueEntry] = attrs.field(factory=dict)
    """By token, oldest first. Those that were delivered are before all others."""
    pending: dict[str, tuple[int, bytes]] = attrs.field(factory=dict)
    """For each key the token of its newest entry, and the grant under which that was queued."""
    letters: dict[int, QueueEntry] = attrs.field(factory=dict)
    """By number, oldest first."""
    dead: dict[str, int] = attrs.field(factory=dict)
    """For each key the token of its newest letter, where no later write was queued."""
    members: dict[bytes, int] = attrs.field(factory=dict)
    """Until when each consumer is there, in milliseconds of the store's clock."""

    def copy(self) -> Self:
        """The same as it is now, whatever becomes of this one."""
        changes: dict[str, Any] = {name: dict(getattr(self, name)) for name in _TABLES}
        return attrs.evolve(self, **changes)

    def answer(self, command: QueueCommand, cells: Cells, now_s: float, now_ms: int) -> StoreEvent:
        """Do what a command asks. It is one step for everybody else."""
        match command:
            case AppendEntries():
                return self._append_all(command, cells, now_s, now_ms)
            case PeekEntries():
                return self._peek(command, now_s)
            case TakeEntries():
                if not _is_leased(cells, command.root, command.grant, now_ms):
                    return EntriesTaken(now_s, (), is_ours=False)
                oldest = next(iter(self.entries), 0)
                taken = self._take(command)
                return EntriesTaken(now_s, taken, len(self.entries), oldest=oldest, server_ms=now_ms)
            case SettleEntries(root=root, grant=grant, verdicts=verdicts):
                if not _is_leased(cells, root, grant, now_ms):
                    return EntriesSettled(now_s, is_ours=False)
                for verdict in verdicts:
                    self._settle(verdict, now_ms)
                return EntriesSettled(now_s)
            case AttendQueue(member=member, ttl_ms=ttl_ms):
                self.members[member] = now_ms + ttl_ms
                self.members = {each: until for each, until in self.members.items() if until > now_ms}
                return QueueAttended(now_s, len(self.members))
            case MeasureQueue(partitions=partitions):
                if partitions and not (self.partitions and (self.entries or self.letters)):
                    self.partitions = partitions
                oldest = next(iter(self.entries), 0)
                counts = len(self.entries), oldest, len(self.letters), self.partitions
                return QueueMeasured(now_s, *counts, now_ms)
            case ReadLetters(after=after, count=count):
                letters = (each for each in self.letters.values() if each.letter > after)
                page = tuple(replace(each, is_superseded=self._is_superseded(each)) for each in letters)
                return EntriesFound(now_s, page[:count])
            case ReplayLetter():
                return self._replay(command, now_s, now_ms)
            case DropLetters(letters=dropped):
                return KeysDeleted(now_s, sum(self._forget(letter) for letter in dropped))
            case _:
                assert_never(command)

    def _is_parted(self, partitions: int) -> bool:
        """Whether the queue has another number of partitions than who asks says, if he says one."""
        return bool(partitions) and self.partitions not in (0, partitions)

    # One method for what a script does.

    def _append_all(self, command: AppendEntries, cells: Cells, now_s: float, now_ms: int) -> EntriesAppended:
        self.partitions = self.partitions or command.partitions
        if self.partitions != command.partitions:
            return EntriesAppended(now_s, (), self.partitions, Appended.PARTED)
        root, backlog = command.root, len(self.entries)
        is_new = [self._may_append(each, cells, root, now_ms) for each in command.appends]
        if backlog >= command.most and any(is_new):
            return EntriesAppended(now_s, (), backlog, Appended.FULL)
        tokens = []
        for each, may_append in zip(command.appends, is_new, strict=True):
            if may_append:
                self._append(QueueEntry(0, each.key, each.body, each.tags), each.grant, now_ms)
                cells.drop(hold_of(root, each.key))
            token, grant = self.pending.get(each.key, (0, b""))
            tokens.append(token if grant == each.grant else 0)
        return EntriesAppended(now_s, tuple(tokens), backlog)

    def _may_append(self, append: Append, cells: Cells, root: str, now_ms: int) -> bool:
        """Whether the hold is still there. Where this grant has queued a write already, it is not."""
        cell = cells.cell(hold_of(root, append.key), now_ms)
        return isinstance(cell, Cell) and cell.kind == Kind.HOLD and cell.grant == append.grant

    def _append(self, entry: QueueEntry, grant: bytes, now_ms: int) -> int:
        """Queue a write as the newest of its key."""
        self.last = token = max(now_ms * 1000, self.last + 1)
        self.entries[token] = replace(entry, token=token)
        self.pending[entry.key] = token, grant
        self.dead.pop(entry.key, None)
        return token

    def _take(self, command: TakeEntries) -> tuple[QueueEntry, ...]:
        count, size_bytes = command.count, 0
        taken: list[QueueEntry] = []
        for entry in (each for each in self.entries.values() if each.token > command.after):
            if not taken and entry.deliveries >= CRASHES:
                count = 1
            if len(taken) >= count or size_bytes >= command.most_bytes:
                break
            size_bytes += len(entry.body)
            taken.append(replace(entry, deliveries=max(entry.deliveries + (not command.is_again), 1)))
        self.entries.update((each.token, each) for each in taken)
        return tuple(taken)

    def _settle(self, verdict: Verdict, now_ms: int) -> None:
        token, key = verdict.token, verdict.key
        entry = self.entries.get(token)
        if entry is None or entry.key != key:  # of a token that was issued anew, it is another's
            return
        del self.entries[token]
        newest, grant = self.pending.get(key, (0, b""))
        if verdict.found:
            self.last = max(self.last, verdict.found)
            if newest == token:
                self._append(replace(entry, deliveries=0), grant, now_ms)
            return
        if verdict.reason:
            number = max(now_ms * 1000, 1 + next(reversed(self.letters), 0))
            self.letters[number] = replace(entry, letter=number, reason=verdict.reason)
            if newest <= token:
                self.dead[key] = token
        if newest <= token:
            self.pending.pop(key, None)

    def _is_superseded(self, letter: QueueEntry) -> bool:
        return self.dead.get(letter.key) != letter.token

    def _peek(self, command: PeekEntries, now_s: float) -> EntriesFound:
        if self._is_parted(command.partitions):
            return EntriesFound(now_s, (), self.partitions)
        tokens = (self.pending.get(key, (0, b""))[0] for key in command.keys)
        return EntriesFound(now_s, tuple(self.entries.get(token) for token in tokens))

    def _replay(self, command: ReplayLetter, now_s: float, now_ms: int) -> EntriesAppended:
        if self._is_parted(command.partitions):
            return EntriesAppended(now_s, (), self.partitions, Appended.PARTED)
        return EntriesAppended(now_s, (self._replayed(command, now_ms),))

    def _replayed(self, command: ReplayLetter, now_ms: int) -> int:
        letter = self.letters.get(command.letter)
        if letter is None:
            token, grant = self.pending.get(command.key, (0, b""))
            return token if grant.startswith(command.nonce) else 0
        if self._is_superseded(letter):
            return -1
        del self.letters[letter.letter]
        grant = command.nonce + bytes(NONCE_BYTES)
        fresh = replace(letter, deliveries=0, letter=0, reason="", is_superseded=False)
        return self._append(fresh, grant, now_ms)

    def _forget(self, number: int) -> bool:
        letter = self.letters.pop(number, None)
        if letter is None:
            return False
        if self.dead.get(letter.key) == letter.token:
            del self.dead[letter.key]
        return True


def _is_leased(cells: Cells, root: str, grant: bytes, now_ms: int) -> bool:
    """Whether the partition's lease is still that of its consumer: its deadline does not matter."""
    cell = cells.cell(lease_of(root), now_ms)
    return isinstance(cell, Cell) and cell.kind == Kind.HOLD and cell.grant == grant
