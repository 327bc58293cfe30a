"""The memory store: the semantic commands on a plain dictionary.

It is the embedded default (`memory://`) and the store of the simulations. What the commands do is in
`store_rules.py`; here is where the cells are kept. It never waits and never fails, but for a value that is
larger than the whole store.

The clock is injected and gives seconds; it stands for the driver's clock and the server's in one.
Microseconds of grants never repeat and never go back: max(now, last + 1). Bounded in bytes, and in entries
where that is asked for; the least recently used entry goes first, leases included: an eviction is always safe
(fault 12). Expired entries go when they are met, or when their turn comes to be evicted.

Not thread-safe: the adapters hold a lock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
from msgspec import Struct

from sansio_cache.cell import Cell, Foreign, Tag, make_grant
from sansio_cache.commands import Fill, ScanKeys, StoreCommand
from sansio_cache.events import StoreEvent
from sansio_cache.patterns import glob_match
from sansio_cache.queue_rules import Partition
from sansio_cache.store_rules import StoreRules

ENTRY_OVERHEAD_BYTES: Final = 512
"""What a key costs beside its name and its body: the objects that hold it, measured on CPython 3.11."""


class Kept(Struct, frozen=True, gc=False):
    """A key's cell, and when the store forgets it, in milliseconds of the store's clock."""

    cell: Cell | Foreign | Tag
    expires_ms: int


def _size_bytes(key: str, body: bytes) -> int:
    return ENTRY_OVERHEAD_BYTES + len(key) + len(body)


def _body(cell: Cell | Foreign | Tag) -> bytes:
    return cell.body if isinstance(cell, Cell) else b""


@attrs.define
class MemoryStore(StoreRules):
    """A store in this process's memory. `clock` gives seconds and never goes back.

    `issued_us` is the microsecond of the id that was issued last: the next one is later.
    """

    clock: Callable[[], float]
    max_entries: float = math.inf
    max_bytes: int = 64 * 2**20
    issued_us: int = 0
    floor_us: int = 0
    compares: bool = False
    """Whether it fills as a server does that can compare. In memory it saves nothing: the simulations do."""
    size_bytes: int = attrs.field(default=0, init=False)
    _kept: OrderedDict[str, Kept] = attrs.field(factory=OrderedDict, init=False)
    queues: dict[str, Partition] = attrs.field(factory=dict, init=False)
    """The partitions of queues, by their roots. They are not evicted: what may be in one is limited."""

    def __len__(self) -> int:
        return len(self._kept)

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked, at once."""
        now_s = self.clock()
        return self.answer(command, now_s, int(now_s * 1000))

    # The dictionary beneath.

    def _partition(self, root: str) -> Partition:
        partition = self.queues.get(root)
        if partition is None:
            partition = self.queues[root] = Partition()
        return partition

    def _grant(self, nonce: bytes, now_ms: int) -> bytes:
        self.issued_us = max(now_ms * 1000, self.issued_us + 1)
        return make_grant(nonce, self.issued_us)

    def _has_room(self, fills: tuple[Fill, ...]) -> bool:
        return all(_size_bytes(fill.key, fill.body) <= self.max_bytes for fill in fills)

    def _scan(self, command: ScanKeys, now_ms: int) -> tuple[int, tuple[str, ...]]:
        glob = command.pattern.encode()
        keys = (key for key, kept in self._kept.items() if kept.expires_ms > now_ms)
        return 0, tuple(key for key in keys if glob_match(glob, key.encode()))

    def _expires_ms(self, key: str) -> int:
        return self._kept[key].expires_ms

    def _look(self, key: str, now_ms: int) -> Cell | Foreign | Tag | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires_ms <= now_ms:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.cell

    def _keep(self, key: str, cell: Cell | Foreign | Tag, expires_ms: int) -> None:
        self._drop(key)
        self._kept[key] = Kept(cell, expires_ms)
        self.size_bytes += _size_bytes(key, _body(cell))
        while len(self._kept) > self.max_entries or self.size_bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size_bytes -= _size_bytes(key, _body(kept.cell))

    # For tests and simulations: look at everything, and put things there that no command would.

    def dump(self) -> dict[str, Kept]:
        """What is kept, expired entries included, the least recently used first."""
        return dict(self._kept)

    def plant(self, key: str, cell: Cell | Foreign | Tag | None, expires_ms: int) -> None:
        """Put a cell in place, as another program or version might; None removes the key."""
        self._drop(key)
        if cell is not None:
            self._keep(key, cell, expires_ms)
