"""Events: what the driver reports back, in the past tense.

Every event carries `now_s`, the driver's monotonic clock in seconds: the core has no clock of its own
(B4, B6). Events that come from the store may carry `server_ms`, the server's clock in milliseconds, as
far as it is known. It decides freshness only; safety compares ids, never times.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

from msgspec import Struct

from sansio_cache.cell import Cell, Foreign, parse_cell
from sansio_cache.keys import ONE_PART
from sansio_cache.queues import QueueEntry


class FailureKind(StrEnum):
    """Why the store did not do what it was asked."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    UNAVAILABLE = "unavailable"
    """The server answers that it cannot serve now: LOADING, BUSY, MASTERDOWN, CLUSTERDOWN."""
    AUTHENTICATION = "authentication"
    READ_ONLY = "read_only"
    """A replica, as after a failover. Worth one more try, on a new connection."""
    OUT_OF_MEMORY = "out_of_memory"
    WRITES_REFUSED = "writes_refused"
    """MISCONF, NOREPLICAS: reads go on."""
    PERMISSION = "permission"
    HANDSHAKE = "handshake"
    """The server refuses connections: there is no such database, it does not take the client's name, or it
    is no Redis."""
    MISPAIRED = "mispaired"
    """A reply that answers another command: the connection is not to be trusted (S9)."""
    MOVED = "moved"
    """The key is not at the part of the store that was asked, which has done nothing. Worth one more try, as
    by now it is known where it is."""
    RESET = "reset"
    """The cache has closed the connection itself, as another reply on it was not to be trusted."""
    OVERLOADED = "overloaded"
    """More is asked than the store can answer in time: this was given up, so that what fits is served."""
    EXHAUSTED = "exhausted"
    """This process has no descriptor, no thread, or no connection of the caller's client left."""
    OTHER = "other"

    @property
    def is_outage(self) -> bool:
        """Whether nothing at all can be had from the store, so that reads had better not ask.

        That is the server's silence or its refusal. What this process lacks, or has done itself, says nothing
        of the store: others are served, and so may be the next call.
        """
        return self in _OUTAGES

    @property
    def is_local(self) -> bool:
        """Whether it is this process's own doing: the store was not asked, or has had no time to answer."""
        return self in _LOCAL

    @property
    def is_in_vain(self) -> bool:
        """Whether an operation that met this had better ask for nothing more: it would wait once more."""
        return self in _IN_VAIN

    @property
    def is_refusal(self) -> bool:
        """Whether the store has said that it did not do what it was asked. Otherwise nobody knows."""
        return self in _REFUSALS

    @property
    def is_retryable(self) -> bool:
        """Whether the same command may fare better at once."""
        return self in _RETRYABLE


_OUTAGES = frozenset(
    {
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.UNAVAILABLE,
        FailureKind.AUTHENTICATION,
        FailureKind.HANDSHAKE,
    }
)
_LOCAL = frozenset({FailureKind.RESET, FailureKind.OVERLOADED, FailureKind.EXHAUSTED})
_IN_VAIN = _OUTAGES | {FailureKind.OVERLOADED, FailureKind.EXHAUSTED}
_REFUSALS = frozenset(
    {
        FailureKind.OUT_OF_MEMORY,
        FailureKind.WRITES_REFUSED,
        FailureKind.PERMISSION,
        FailureKind.READ_ONLY,
        FailureKind.UNAVAILABLE,
        FailureKind.AUTHENTICATION,
        FailureKind.MOVED,
    }
)
_RETRYABLE = frozenset(
    {
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.READ_ONLY,
        FailureKind.MISPAIRED,
        FailureKind.MOVED,
        FailureKind.RESET,
    }
)


class FillResult(IntEnum):
    """What became of one fill."""

    REFUSED = 0
    STORED = 1
    ALREADY_STORED = 2
    CHANGED = 3
    """The cell is not as the grant has left it, and the store has done nothing: a renewal, a writer, an
    invalidation, or this very fill before. To be asked again without `lease_ms`, which decides."""
    UNKNOWN = 4
    """The part of the store has failed that the key is in."""

    @property
    def is_accepted(self) -> bool:
        """Whether the value is, or was, in the cell under this very grant."""
        return self is FillResult.STORED or self is FillResult.ALREADY_STORED


Stored: TypeAlias = bytes | Cell | Foreign | None
"""What a store has for a key: the bytes of it, or the cell where it keeps cells; None where there is no key.

Bytes are not decoded before somebody has to know more than `glance` looks at.
"""


def cell_of(stored: Stored) -> Cell | Foreign | None:
    """The cell that is stored. Never raises: what is not a cell is foreign (S12)."""
    return parse_cell(stored) if isinstance(stored, bytes) else stored


class CellRead(Struct, frozen=True, gc=False):
    """What the key holds, as it is stored.

    `versions` are those of the tags asked for, here and below: in their order, empty where there is none.
    """

    now_s: float
    stored: Stored
    server_ms: int | None
    versions: tuple[bytes, ...] = ()

    @property
    def cell(self) -> Cell | Foreign | None:
        """The cell; None where the key does not exist."""
        return cell_of(self.stored)


class CellsRead(Struct, frozen=True):
    """What the keys hold, in the order in which they were asked for.

    Of those in a part of the store that has failed it is `UNREACHED`. `failures` are those parts', here and
    below: where all have failed that were asked, the answer is `StoreFailed`.
    """

    now_s: float
    stored: tuple[Stored, ...]
    server_ms: int | None
    versions: tuple[bytes, ...] = ()
    failures: tuple[StoreFailed, ...] = ()

    @property
    def cells(self) -> tuple[Cell | Foreign | None, ...]:
        """The cells, in the same order."""
        return tuple(map(cell_of, self.stored))


class CellInspected(Struct, frozen=True):
    """The cell as it is, None where the key does not exist. The store keeps it for `left_ms` more."""

    now_s: float
    cell: Cell | Foreign | None
    left_ms: int
    server_ms: int


class TagsRead(Struct, frozen=True):
    """The versions of tags."""

    now_s: float
    versions: tuple[bytes, ...]
    server_ms: int | None


class LeaseGranted(Struct, frozen=True):
    """The caller loads. `stale` is the value that stays readable meanwhile, if any."""

    now_s: float
    grant: bytes
    stale: Cell | None
    server_ms: int
    versions: tuple[bytes, ...] = ()


class LeaseDenied(Struct, frozen=True):
    """Somebody else loads, for `left_ms` more at least. `stale` is what may be served meanwhile."""

    now_s: float
    left_ms: int
    stale: Cell | None
    server_ms: int
    versions: tuple[bytes, ...] = ()


class FreshFound(Struct, frozen=True):
    """Somebody has stored a fresh value since."""

    now_s: float
    cell: Cell
    server_ms: int
    versions: tuple[bytes, ...] = ()


class WriterFound(Struct, frozen=True):
    """A writer holds the key: load, and do not store."""

    now_s: float
    left_ms: int


class ForeignFound(Struct, frozen=True):
    """The key holds something that is not ours: load, and do not store."""

    now_s: float


AcquireReply = LeaseGranted | LeaseDenied | FreshFound | WriterFound | ForeignFound


class LeasesAnswered(Struct, frozen=True):
    """What each of many lease requests was answered, in order; the versions are here, not in the answers.

    A key in a part that has failed is to be loaded, and not stored: the answer is `ForeignFound`.
    """

    now_s: float
    answers: tuple[AcquireReply, ...]
    versions: tuple[bytes, ...] = ()
    failures: tuple[StoreFailed, ...] = ()


class CellsFilled(Struct, frozen=True):
    """What became of each fill, in order. `versions` are those that the tags had after that."""

    now_s: float
    results: tuple[FillResult, ...]
    versions: tuple[bytes, ...] = ()
    failures: tuple[StoreFailed, ...] = ()


class LeasesRenewed(Struct, frozen=True):
    """Which leases were still ours, in order."""

    now_s: float
    renewed: tuple[bool, ...]


class LeasesReleased(Struct, frozen=True):
    """The leases that were still ours are given back."""

    now_s: float


class HoldsTaken(Struct, frozen=True):
    """The grants of the holds, in the order of the keys.

    `missed` are the places of keys in parts that have failed: for each there is a grant that no cell has.
    """

    now_s: float
    grants: tuple[bytes, ...]
    versions: tuple[bytes, ...] = ()
    missed: tuple[int, ...] = ()
    failures: tuple[StoreFailed, ...] = ()


class ValueFound(Struct, frozen=True):
    """The key has a value already, or what is not ours."""

    now_s: float


class CellSwapped(Struct, frozen=True):
    """The value was replaced, and the new one has this id; None where it was not there any more."""

    now_s: float
    version: bytes | None


class CellTouched(Struct, frozen=True):
    """Whether the value was there, and fresh; it lives longer then."""

    now_s: float
    touched: bool


class CellsExpired(Struct, frozen=True):
    """The values are stale now; `count` of them were there. Not those `left`, whose parts have failed."""

    now_s: float
    count: int
    left: tuple[str, ...] = ()
    failures: tuple[StoreFailed, ...] = ()


class KeysDeleted(Struct, frozen=True):
    """The keys are gone; `count` of them existed.

    `existed` is whether a value was among what went, where that was asked for and is known. Those `left` are
    not gone, as far as is known: their parts have failed.
    """

    now_s: float
    count: int
    existed: bool | None = None
    left: tuple[str, ...] = ()
    failures: tuple[StoreFailed, ...] = ()


class KeysFound(Struct, frozen=True):
    """One page of a scan. Cursor 0: there is no further page. `failures`: there was more to be found."""

    now_s: float
    cursor: int
    keys: tuple[str, ...]
    failures: tuple[StoreFailed, ...] = ()


class Ponged(Struct, frozen=True):
    """The store serves."""

    now_s: float


class Computed(Struct, frozen=True):
    """The loader returned."""

    now_s: float
    value: Any


class ComputeFailed(Struct, frozen=True):
    """The loader raised. From `shared` the driver makes the errors of those who share the load."""

    now_s: float
    error: Exception
    shared: Any = None


class LoadLed(Struct, frozen=True):
    """No load to share is under way: the caller leads load number `load_id`."""

    now_s: float
    load_id: int


class LoadShared(Struct, frozen=True):
    """The leader's result. `payload` is its encoded form; without one, `value` is the caller's own copy."""

    now_s: float
    payload: bytes | None
    value: Any


class LoadErrorShared(Struct, frozen=True):
    """The leader's loader raised, after this caller had joined.

    `error` is the leader's own object, until the driver has put this caller's in its place; `shared` is what
    it kept for that.
    """

    now_s: float
    error: Exception
    shared: Any = None


class LoadNotShared(Struct, frozen=True):
    """The load ended, and its result may be older than this caller's request."""

    now_s: float
    arrival: int = 0


class SharingTimedOut(Struct, frozen=True):
    """The load `load_id` had not ended in time.

    With `is_circle` it was not waited for, as it waits for a loader that this caller is in.
    """

    now_s: float
    load_id: int
    arrival: int = 0
    is_circle: bool = False


class Woke(Struct, frozen=True):
    """The sleep is over. With `is_circle`, who is slept for waits for a loader that this caller is in."""

    now_s: float
    is_circle: bool = False


class Appended(StrEnum):
    """Whether a partition has taken writes at all."""

    TAKEN = "taken"
    FULL = "full"
    """Nothing was appended, as it holds as many entries as it may."""
    PARTED = "parted"
    """Nothing was appended, as the queue has another number of partitions."""


class EntriesAppended(Struct, frozen=True):
    """The tokens of what was queued, in order: 0 where the hold was gone, or the letter.

    Of a letter that cannot be replayed, as a later write was queued since, it is -1. `backlog` is how many
    entries the partition holds; with `PARTED`, how many partitions there are. `replicas` is how many have it.
    """

    now_s: float
    tokens: tuple[int, ...]
    backlog: int = 0
    how: Appended = Appended.TAKEN
    replicas: int = 0


class EntriesFound(Struct, frozen=True):
    """Entries, or letters; None for a key that has no entry.

    `partitions` is another number of them that the queue has, of which the question did not know: then
    there are no entries here. 0 where there is none.
    """

    now_s: float
    entries: tuple[QueueEntry | None, ...]
    partitions: int = 0


class EntriesTaken(Struct, frozen=True):
    """What was delivered, oldest first. The partition holds `backlog` entries, these included.

    `oldest` is the token of its first entry, or 0. Without `is_ours` the lease is another's, and nothing was
    delivered.
    """

    now_s: float
    entries: tuple[QueueEntry, ...]
    backlog: int = 0
    is_ours: bool = True
    oldest: int = 0
    server_ms: int = 0


class EntriesSettled(Struct, frozen=True):
    """The entries are out of the partition; without `is_ours` the lease is another's, and they are not."""

    now_s: float
    is_ours: bool = True


class QueueAttended(Struct, frozen=True):
    """So many consumers are there."""

    now_s: float
    members: int


class QueueMeasured(Struct, frozen=True):
    """A partition holds `backlog` entries and `letters`; `oldest` is the token of the first entry, or 0.

    `partitions` is how many the queue is known to have, 0 where that is not known.
    """

    now_s: float
    backlog: int
    oldest: int
    letters: int
    partitions: int
    server_ms: int


class StoreFailed(Struct, frozen=True):
    """This attempt failed; whether the store did what was asked is unknown. `part` is where it failed.

    `reason` says why, as far as the backend knows, in a sentence that names the place and no secret; `cause`
    is what was raised there, without its frames.
    """

    now_s: float
    kind: FailureKind
    part: str = ONE_PART
    reason: str = ""
    cause: Exception | None = None


class Interrupted(Struct, frozen=True):
    """The driver was cancelled, or interrupted by a signal, while the command was pending.

    Its fate is unknown. The machine gives back what it may hold and ends; the driver then re-raises.
    """

    now_s: float


# What may answer each command. A state narrows to one of these, and matches it exhaustively.
ReadAnswer = CellRead | StoreFailed | Interrupted
ReadManyAnswer = CellsRead | StoreFailed | Interrupted
InspectAnswer = CellInspected | StoreFailed | Interrupted
ReadTagsAnswer = TagsRead | StoreFailed | Interrupted
AcquireAnswer = AcquireReply | StoreFailed | Interrupted
AcquireManyAnswer = LeasesAnswered | StoreFailed | Interrupted
FillAnswer = CellsFilled | StoreFailed | Interrupted
RenewAnswer = LeasesRenewed | StoreFailed | Interrupted
ReleaseAnswer = LeasesReleased | StoreFailed | Interrupted
HoldAnswer = HoldsTaken | StoreFailed | Interrupted
ClaimAnswer = HoldsTaken | ValueFound | WriterFound | StoreFailed | Interrupted
SwapAnswer = CellSwapped | StoreFailed | Interrupted
TouchAnswer = CellTouched | StoreFailed | Interrupted
LockAnswer = HoldsTaken | WriterFound | ForeignFound | StoreFailed | Interrupted
ExpireAnswer = CellsExpired | StoreFailed | Interrupted
DeleteAnswer = KeysDeleted | StoreFailed | Interrupted
ScanAnswer = KeysFound | StoreFailed | Interrupted
PingAnswer = Ponged | StoreFailed | Interrupted
AppendAnswer = EntriesAppended | StoreFailed | Interrupted
FindAnswer = EntriesFound | StoreFailed | Interrupted
TakeAnswer = EntriesTaken | StoreFailed | Interrupted
SettleAnswer = EntriesSettled | StoreFailed | Interrupted
AttendAnswer = QueueAttended | StoreFailed | Interrupted
MeasureAnswer = QueueMeasured | StoreFailed | Interrupted
ComputeAnswer = Computed | ComputeFailed | Interrupted
ShareAnswer = LoadLed | LoadShared | LoadErrorShared | LoadNotShared | SharingTimedOut | Interrupted
SleepAnswer = Woke | Interrupted

StoreEvent = (
    CellRead
    | CellsRead
    | CellInspected
    | TagsRead
    | LeaseGranted
    | LeaseDenied
    | FreshFound
    | WriterFound
    | ForeignFound
    | LeasesAnswered
    | CellsFilled
    | LeasesRenewed
    | LeasesReleased
    | HoldsTaken
    | ValueFound
    | CellSwapped
    | CellTouched
    | CellsExpired
    | KeysDeleted
    | KeysFound
    | Ponged
    | EntriesAppended
    | EntriesFound
    | EntriesTaken
    | EntriesSettled
    | QueueAttended
    | QueueMeasured
    | StoreFailed
)
Event = StoreEvent | ComputeAnswer | ShareAnswer | SleepAnswer
