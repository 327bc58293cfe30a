"""What the explorer of queues is told, and its worlds: see `queueing.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NO_GRANT, Cell, Kind
from sansio_cache.codec import Codec, codec_for
from sansio_cache.commands import StoreCommand
from sansio_cache.entry import Servable, examine
from sansio_cache.operations.consume import consume
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.queue_rules import Partition
from sansio_cache.queues import QueueEntry, root_of
from sansio_cache.step import Step

KEY: Final = "n:a"
ROOT: Final = root_of("n:", "q", 0)
CODEC: Final[Codec[Any]] = codec_for(int, 64)
TIMEOUTS: Final = StoreTimeouts(attempts=2)
NOW_S: Final = 1_000.0
LATER_S: Final = 2_000.0
"""When a rest is over: consumers ask again for what they have not."""

MOST_WAITS: Final = 1
"""How often a writer takes its hold anew that another has taken: then it gives up, and has queued nothing."""


class Role(Enum):
    """What a worker does."""

    WRITER = "writes"
    READER = "reads"
    CONSUMER = "consumes"
    REPLAY = "replays the first letter"

    __hash__ = object.__hash__


class Fault(Enum):
    """What may go wrong, with its number in RELIABILITY.md section 2."""

    REQUEST_LOST = "1 request lost"
    REPLY_LOST = "2 reply lost"
    DUPLICATE = "3 delayed duplicate"
    LAPSE = "8 the lease of a consumer lapses"
    CRASH = "10 crash"
    GONE = "12 the key is gone"
    KEPT = "the node that has the key is away, and another one answers"
    RAISING = "the writer raises, before it commits"

    __hash__ = object.__hash__


class Broken(Enum):
    """What must hold."""

    LOST = "S8 an acknowledged write is neither applied nor queued nor a letter"
    BACK = "S8 a lower token was applied after a higher one"
    OVER = "S8 an older write was applied over a newer one that was acknowledged"
    READ = "S1 a read returned an older value than a write that was acknowledged before it began"
    LEFT = "S6 nothing is queued, all are done, and the cell holds something else than the database"

    __hash__ = object.__hash__


@attrs.frozen(kw_only=True)
class QueueConfiguration:
    """Who takes part, what may go wrong, and which parts are wrong on purpose.

    Args:
        name: For the table of results.
        roles: One for each worker, each in a process of its own.
        faults: How often each fault may strike.
        queued: How many writes are queued and acknowledged in the beginning, one after another.
        is_fenced: Whether the database refuses a lower token than it has.
        partition: The rules of the store.
        acknowledges_early: Whether a write is acknowledged before the key is removed.
        looks_first: Whether a reader looks for the newest entry before it acquires.
        invalidates: Whether consumers remove keys.
        heeds_kept: Whether a machine is told which keys are not removed, as their node is away.
        replays_unseen: Whether a replay leaves the key as it is.
        consume: Begins a consumer.
    """

    name: str
    roles: tuple[Role, ...]
    faults: Mapping[Fault, int] = attrs.field(factory=dict)
    queued: int = 0
    is_fenced: bool = True
    partition: type[Partition] = Partition
    acknowledges_early: bool = False
    looks_first: bool = False
    invalidates: bool = True
    heeds_kept: bool = True
    replays_unseen: bool = False
    consume: Callable[[ConsumeRequest], Step] = consume


@attrs.frozen
class Worker:
    """One worker: its machine, and what it does outside of the store."""

    step: Step | None
    """Where its machine is; None where it has ended, or is gone."""
    inner: Step | None = None
    """The question that its loader has asked."""
    is_at_database: bool = False
    looked: int | None = None
    """What a wrong reader has found before it began; -1 for nothing."""
    before: frozenset[int] = frozenset()
    """The versions whose writes were acknowledged before it began, and hold for it."""
    replayed: int = 0
    """The version of the letter that it queues anew; 0 for none."""
    has_begun: bool = False


@attrs.frozen
class World:
    """All there is at one moment."""

    store: tuple[Any, ...]
    workers: tuple[Worker, ...]
    version: int
    """The database's."""
    token: int
    """The token that it was written with."""
    acknowledged: tuple[tuple[int, int, frozenset[int]], ...]
    """The versions whose writes are, with their tokens, and those that were before them."""
    late: frozenset[StoreCommand]
    """Requests that may arrive once more."""
    spent: tuple[tuple[Fault, int], ...]
    dead: frozenset[int] = frozenset()
    """The versions that were dead letters, and of which no replay was acknowledged since."""
    broken: Broken | None = None


def value_of(entry: QueueEntry) -> int:
    """The version that is queued."""
    verdict = examine(Cell(Kind.VALUE, NO_GRANT, 0, 0, NO_GRANT, entry.body), entry.key, CODEC, None)
    assert isinstance(verdict, Servable)
    return int(verdict.value)
