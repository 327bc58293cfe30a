"""Notices: facts that the machines state as they go, for statistics, hooks and explanations.

A notice changes nothing. Statistics are a fold over notices, and nothing else (see `stats.py`).
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.keys import ONE_PART, entity_of


class OperationName(StrEnum):
    """What the user asked for."""

    # That of an enumeration is computed in Python from the name; statistics ask for it in every operation.
    __hash__ = str.__hash__

    GET = "get"
    GET_MANY = "get_many"
    GET_OR_LOAD = "get_or_load"
    GET_OR_LOAD_MANY = "get_or_load_many"
    SET = "set"
    SET_MANY = "set_many"
    INVALIDATE = "invalidate"
    EXPIRE = "expire"
    MUTATE = "mutate"
    DELETE_PATTERN = "delete_pattern"
    LOOKUP = "lookup"
    TOUCH = "touch"
    ADD = "add"
    SWAP = "swap"
    UPDATE = "update"
    LOCK = "lock"
    SCAN = "scan"
    ENQUEUE = "enqueue"
    REFRESH = "refresh"
    """That of nobody: a reader's operation has begun it in the background."""


class Result(StrEnum):
    """What came of an operation."""

    HIT = "hit"
    """All that was asked for was in the store, and fresh; also that there is known to be nothing."""
    STALE = "stale"
    """A value past its soft expiry was served, and nothing was loaded."""
    SHARED = "shared"
    """Another's load was waited for, in this process or elsewhere, and nothing was loaded here."""
    LOADED = "loaded"
    """A loader was called, and has returned."""
    MISSING = "missing"
    """There is nothing to be had."""
    PARTIAL = "partial"
    """Some of many keys were found."""
    STORED = "stored"
    """The store has taken all values."""
    REFUSED = "refused"
    """The store has not taken a value: its hold was voided or lost, or another value is in its place."""
    DONE = "done"
    """What was asked for was done."""
    PENDING = "pending"
    """The store could not be told of all: what it does not know of is told later."""
    FAILED = "failed"
    """A loader raised, or gave something else than what is wanted."""
    UNAVAILABLE = "unavailable"
    """The store failed, and the caller was told so."""
    TIMED_OUT = "timed_out"
    """Another's load has not ended in time, and the caller was told so."""
    ABANDONED = "abandoned"
    """The operation was interrupted: by a cancellation, Ctrl-C, or an error that is no answer."""


class Began(Struct, frozen=True, gc=False):
    """An operation has begun: what is told next in this thread or task belongs to it, until its `Ended`.

    This is told to those alone who ask for it. For each there is one `Ended` with the same `id`, however the
    operation ends; that of a mutation comes after the block.
    """

    operation: OperationName
    key: str
    """The full key; the first of several; a full pattern; empty where that is not known."""
    count: int
    """How many keys it is about; 0 for a pattern, as nobody knows yet."""
    part: str
    """Which part of the store has the key."""
    id: int
    """A number of this process."""
    parent_id: int = 0
    """The operation in whose loader, or in whose block, it was called; 0 for none."""
    cause_id: int = 0
    """Of a refresh: the operation that has begun it, which is over; 0 for none."""

    @property
    def entity(self) -> str:
        """What kind of thing the key is about: see `entity_of`."""
        return entity_of(self.key)


class Hit(Struct, frozen=True, gc=False):
    """A request was answered from the store."""

    key: str


class StaleServed(Struct, frozen=True):
    """A request was answered with a value past its soft expiry, as its policy allows."""

    key: str


class Missed(Struct, frozen=True, gc=False):
    """A request was not answered from the store at its first read.

    `seen` is the grant that filled the entry, as a text, where that was stored for another key.
    """

    key: str
    reason: MissReason
    seen: str = ""


class EntryForeign(Struct, frozen=True):
    """The entry of another key was copied, or moved, to this one: it is replaced by the next load."""

    key: str
    seen: str


class RepliesCrossed(Struct, frozen=True):
    """The reply to a read of this key may have been another's: the connection is not to be trusted."""

    key: str


class Waited(Struct, frozen=True):
    """The request waited for somebody else's load, in this process or another."""

    key: str
    waited_s: float
    version: bytes = b""
    """Which value another process had stored by then, as in `Stored`; empty where none had."""


class LoadShared(Struct, frozen=True):
    """The request was answered with the result of a load of another caller in this process."""

    key: str


class RefreshStarted(Struct, frozen=True):
    """A refresh in the background was begun for this reader; `early` where the value is still fresh."""

    key: str
    early: bool


class RefreshFailed(Struct, frozen=True):
    """A refresh in the background came to nothing: its loader raised an `error`, a class's name."""

    key: str
    error: str


class SkipReason(StrEnum):
    """Why a refresh was skipped."""

    BUSY = "busy"
    """Too many are under way, or the cache is being closed."""
    REBOUND = "rebound"
    """A name outside its loader is bound to something else than when the reader handed it over (S14)."""


class RefreshSkipped(Struct, frozen=True):
    """A refresh was not begun, or what it loaded was not stored. A later read tries again.

    `name` is the one that was rebound.
    """

    key: str
    reason: SkipReason = SkipReason.BUSY
    name: str = ""


class VariantStored(Struct, frozen=True):
    """The entry is another program version's, which this one cannot read: this one stores a variant of it."""

    key: str


class Unasked(Struct, frozen=True):
    """A loader of many keys gave values for `count` keys that it was not asked for; they are dropped."""

    count: int


class Loaded(Struct, frozen=True):
    """The loader returned. Without a grant (`leased` false) the value is not stored."""

    key: str
    leased: bool
    took_s: float


class LoadFailed(Struct, frozen=True):
    """The loader raised; `error` is the name of the exception's class."""

    key: str
    leased: bool
    error: str


class Stored(Struct, frozen=True, gc=False):
    """A value was stored, in an entry of so many bytes."""

    key: str
    size_bytes: int = 0
    version: bytes = b""
    """Which value it is: no other, of any process, has the same. `Lookup.version` says it as well."""


class FillRefused(Struct, frozen=True):
    """A value was not stored: its lease was voided (invalidated, evicted) or lost to another."""

    key: str


class Unstorable(Struct, frozen=True):
    """A loader's value cannot be stored so that it comes back equal; the caller has it, uncached.

    `kind` is the name of its class; `why` says in a sentence what would come back different, where, and what
    to do. It quotes no value, but keys of dicts, by which it names the place.
    """

    key: str
    kind: str
    why: str = ""


class Outlived(Struct, frozen=True):
    """A loader's value had nothing left to live: the caller has it, and it was not stored."""

    key: str


class SwapRefused(Struct, frozen=True):
    """A value was not stored: the entry was not the fresh one that it was to replace."""

    key: str


class Touched(Struct, frozen=True):
    """An entry was let live longer."""

    key: str


class LeaseLost(Struct, frozen=True):
    """A renewal found that the lease is no longer ours."""

    key: str


class LeaseOutgrown(Struct, frozen=True):
    """The loader, or a writer's block, has run for the longest time that a lease may be renewed."""

    key: str


class StoreErrored(Struct, frozen=True):
    """One attempt failed, at a part of the store."""

    kind: FailureKind
    part: str = ONE_PART


class StoreGaveUp(Struct, frozen=True):
    """An operation did without a part of the store after its last attempt had failed.

    `reason` says why, as far as it is known, in a sentence that names the place and no secret.
    """

    kind: FailureKind
    part: str = ONE_PART
    reason: str = ""


class StoreAnswered(Struct, frozen=True):
    """A part of the store serves again: a probe was answered."""

    part: str = ONE_PART


class StoreAsked(Struct, frozen=True, gc=False):
    """A command of the store is over. This is told to those alone who name it.

    It is told in the thread or task that has asked. One that was interrupted is not told of.
    """

    command: str
    """The class of it, such as `ReadCell`."""
    words: tuple[str, ...]
    """What the server was asked, such as `GET`, one word for each; nothing where there is no server."""
    took_s: float
    part: str
    """Which part of the store was asked."""
    failure: FailureKind | None = None
    system: str = ""
    """What kind of server it is: `redis`; empty where there is none."""
    host: str = ""
    """Where it is, as the cache was told; the path of a socket."""
    port: int = 0
    """0 for a socket."""
    database: str = ""
    """Its number."""


class StoreChanged(Struct, frozen=True):
    """Another store answers for a part: another owner, or another run of its server.

    `told` writes of this process are told again.
    """

    part: str
    told: int


class RemovalBegan(Struct, frozen=True):
    """The store is asked to remove keys whose writes began a while ago, or in another process.

    So it is remembered once more what this process writes: see `recent_writes.py`.
    """

    keys: tuple[str, ...]


class Invalidated(Struct, frozen=True):
    """Keys were removed from the store."""

    keys: tuple[str, ...]


class SoftExpired(Struct, frozen=True):
    """Values were made stale."""

    keys: tuple[str, ...]


class InvalidationFailed(Struct, frozen=True):
    """Keys that may now hold old values, as the store could not be told. They are pending invalidations.

    `was_tried` is false where it was not asked, as it was known not to serve: they are told in the background
    at once.
    """

    keys: tuple[str, ...]
    was_tried: bool = True


class InvalidationRefused(Struct, frozen=True):
    """The store refuses to be told of pending invalidations by themselves; they are tried again, seldom."""

    keys: tuple[str, ...]
    kind: FailureKind


class PatternProgressed(Struct, frozen=True):
    """A page of keys that match a pattern is done with; `matched` and `deleted` count from the beginning."""

    pattern: str
    matched: int
    deleted: int


class PatternDeleted(Struct, frozen=True):
    """Keys were removed by pattern."""

    pattern: str
    count: int


class WriteQueued(Struct, frozen=True):
    """A write was left to its queue."""

    key: str


class WritesApplied(Struct, frozen=True):
    """The writer of a queue has committed the newest writes of `keys`, `coalesced` older ones left out.

    The writer took `took_s`.
    """

    keys: tuple[str, ...]
    coalesced: int
    took_s: float


class WriterFailed(Struct, frozen=True):
    """The writer of a queue has raised, for `count` keys: `error` is the name of the exception's class.

    Where `error` is empty, it was not called: what is queued for them cannot be read by this program.
    """

    queue: str
    count: int
    error: str


class WriteDead(Struct, frozen=True):
    """A queued write was given up, and is a dead letter: readers do not see it until it is replayed."""

    key: str
    reason: str


class PartitionTaken(Struct, frozen=True):
    """This consumer has the lease of a partition, whose keys begin with `root`."""

    root: str


class PartitionMeasured(Struct, frozen=True):
    """This consumer has looked at a partition of its own, whose keys begin with `root`.

    It holds `backlog` writes that are not settled, and the oldest of them has waited for `oldest_s` seconds.
    """

    root: str
    backlog: int
    oldest_s: float
    now_s: float
    """When that was, on the driver's clock."""


class PartitionLost(Struct, frozen=True):
    """This consumer has lost the lease of a partition, or has given it to another."""

    root: str


class Ended(Struct, frozen=True, gc=False):
    """An operation is over, after `took_s` seconds on the driver's clock.

    The rest is known where somebody has asked for `Began` or `Ended`, or collects an explanation: a hit that
    nobody follows does not pay for it.
    """

    operation: OperationName
    took_s: float
    result: Result | None = None
    key: str = ""
    """The full key; the first of several; a full pattern."""
    count: int = 0
    """How many keys it was about."""
    part: str = ONE_PART
    """Which part of the store has the key."""
    id: int = 0
    """That of its `Began`."""

    @property
    def entity(self) -> str:
        """What kind of thing the key is about: see `entity_of`."""
        return entity_of(self.key)


Notice = (
    Began
    | Hit
    | StaleServed
    | Missed
    | EntryForeign
    | RepliesCrossed
    | Waited
    | LoadShared
    | RefreshStarted
    | RefreshFailed
    | RefreshSkipped
    | VariantStored
    | Unasked
    | Loaded
    | LoadFailed
    | Stored
    | FillRefused
    | SwapRefused
    | Touched
    | Unstorable
    | Outlived
    | LeaseLost
    | LeaseOutgrown
    | StoreErrored
    | StoreGaveUp
    | StoreAnswered
    | StoreAsked
    | StoreChanged
    | RemovalBegan
    | Invalidated
    | SoftExpired
    | InvalidationFailed
    | InvalidationRefused
    | PatternProgressed
    | PatternDeleted
    | WriteQueued
    | WritesApplied
    | WriterFailed
    | WriteDead
    | PartitionTaken
    | PartitionMeasured
    | PartitionLost
    | Ended
)
