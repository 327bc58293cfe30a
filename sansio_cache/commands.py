"""Commands: what the core asks its driver for, in the imperative.

A command is semantic: it never mentions Redis. The memory store answers the store commands directly;
for a server the wire module of the adapters encodes them. The driver's whole contract is: give back
exactly one event for every command, or `Interrupted`.

Store commands carry `timeout_s`, the seconds that the driver may spend on this one attempt, connecting
included; when it is over, or the store refuses, the event is `StoreFailed`. Retries are the core's.
All of them are idempotent in effect, so that an attempt whose fate is unknown may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from sansio_cache.cell import Kind
from sansio_cache.keys import ONE_PART


class Mode(Enum):
    """What becomes of a value in the way of a new lease."""

    KEEP = "keep"
    """It stays readable while the refresh runs."""
    DROP = "drop"
    """It must not be served (schema, key check, corrupt): the lease replaces it."""


class Lease(Struct, frozen=True):
    """The lease of one key, or a writer's hold."""

    key: str
    lease_id: bytes
    """The 16 bytes of its grant, or the 8 of its nonce where the grant is unknown."""


class Fill(Struct, frozen=True):
    """One value to store under a grant. Times to live are milliseconds; soft 0 means none.

    `kind` and `lease_ms` are what the grant was issued with. A store that can compare then stores the value
    where the cell is exactly as the grant has left it, and where it is not, answers `CHANGED`. Others judge
    by the grant alone.
    """

    key: str
    grant: bytes
    hard_ttl_ms: int
    soft_ttl_ms: int
    body: bytes
    kind: int = Kind.EMPTY
    """That of the cell without the value: empty, or held by a writer."""
    lease_ms: int = 0
    """How long the lease was to last; 0 where the cell is known to be otherwise by now, as the lease was
    renewed or there is a value beneath: then the grant alone decides."""


class ReadCell(Struct, frozen=True, gc=False):
    """Read one cell, and the versions of tags in the same round trip. Answered by `CellRead`.

    `tags` are the full keys of the tags that the reader knows of, here and below.
    """

    key: str
    timeout_s: float
    tags: tuple[str, ...] = ()


class ReadCells(Struct, frozen=True):
    """Read many cells in one round trip, and tags as in `ReadCell`. Answered by `CellsRead`.

    `chunk` is how many keys may go into one command of the store.
    """

    keys: tuple[str, ...]
    chunk: int
    timeout_s: float
    tags: tuple[str, ...] = ()


class InspectCell(Struct, frozen=True):
    """Read one cell, with how long it has to live and the store's clock. Answered by `CellInspected`."""

    key: str
    timeout_s: float


class ReadTags(Struct, frozen=True):
    """Read the versions of tags. Answered by `TagsRead`."""

    tags: tuple[str, ...]
    timeout_s: float


class Capture(Struct, frozen=True):
    """Learn the versions of tags, and have those issued that are missing, before a load or a write begins.

    Their keys are kept for `ttl_ms` at least: longer than any entry that is stored with them.
    """

    tags: tuple[str, ...]
    ttl_ms: int


NO_TAGS = Capture((), 0)


class AcquireLease(Struct, frozen=True):
    """Ask for the right to load a key.

    `nonce` is 8 random bytes, one per operation, the same on its retries. `seen` is the `filled_by` of a
    value that this reader refuses, or zeros. Answered by `LeaseGranted`, `LeaseDenied`, `FreshFound`,
    `WriterFound` or `ForeignFound`.
    """

    key: str
    nonce: bytes
    lease_ms: int
    seen: bytes
    mode: Mode
    timeout_s: float
    capture: Capture = NO_TAGS


class LeaseRequest(Struct, frozen=True):
    """One key of `AcquireLeases`: see `AcquireLease`."""

    key: str
    seen: bytes
    mode: Mode


class AcquireLeases(Struct, frozen=True):
    """Ask for the right to load many keys, in one round trip. Answered by `LeasesAnswered`."""

    lease_requests: tuple[LeaseRequest, ...]
    nonce: bytes
    lease_ms: int
    timeout_s: float
    capture: Capture = NO_TAGS


class FillCells(Struct, frozen=True):
    """Store values, each only into a cell that holds its grant. Answered by `CellsFilled`.

    `tags` are read again after that: whoever came while the load ran may have its value only if they are
    still the same.
    """

    fills: tuple[Fill, ...]
    timeout_s: float
    tags: tuple[str, ...] = ()


class RenewLeases(Struct, frozen=True):
    """Extend leases or holds that are still ours, to `lease_ms` from now. Answered by `LeasesRenewed`."""

    leases: tuple[Lease, ...]
    lease_ms: int
    timeout_s: float


class ReleaseLeases(Struct, frozen=True):
    """Give leases or holds back, where they are still ours. Answered by `LeasesReleased`."""

    leases: tuple[Lease, ...]
    timeout_s: float


class HoldCells(Struct, frozen=True):
    """Take keys for a writer: whatever is there goes, and readers load without storing.

    Answered by `HoldsTaken`, one grant a key.
    """

    keys: tuple[str, ...]
    nonce: bytes
    hold_ms: int
    timeout_s: float
    capture: Capture = NO_TAGS


class ClaimCell(Struct, frozen=True):
    """Take a key for a writer, if no value is there. Answered by `HoldsTaken`, `ValueFound` or `WriterFound`.

    The answer that there is nothing is no value, and neither is another's lease: both go. What is foreign
    counts as a value. The value that `refused` names is none: nobody can read it.
    """

    key: str
    nonce: bytes
    hold_ms: int
    timeout_s: float
    capture: Capture = NO_TAGS
    refused: bytes = b""
    """The `filled_by` of a value; empty for none."""


class SwapCell(Struct, frozen=True):
    """Replace a fresh value, if it is the very one that `version` names. Answered by `CellSwapped`.

    The new one gets an id of its own, made of `nonce`. It keeps the tags of the other with their versions,
    and where `hard_ttl_ms` is 0 what that had left to live. Where that is below 0 nothing takes its place: it
    goes. Loads in flight are voided.
    """

    key: str
    version: bytes
    """The `filled_by` of the value that is to be replaced."""
    nonce: bytes
    hard_ttl_ms: int
    soft_ttl_ms: int
    body: bytes
    """Without tags."""
    timeout_s: float
    fill_id: bytes = b""
    """The id of the new value, where it has to be known before: the nonce, and a time at which the store has
    shown the other. Empty where the store issues it."""


class TouchCell(Struct, frozen=True):
    """Let a fresh value live longer, if it is the very one that `version` names. Answered by `CellTouched`.

    It is fresh for `ttl_ms` from now then, if it was not to be for longer. Hard and soft expiry move by as
    much, and the hard one to no later than `max_life_ms` after its fill was granted. The tags of `capture`
    are made to live longer before that.
    """

    key: str
    version: bytes
    ttl_ms: int
    max_life_ms: int
    nonce: bytes
    timeout_s: float
    capture: Capture = NO_TAGS


class TakeLock(Struct, frozen=True):
    """Take a lock that nobody holds. Answered by `HoldsTaken`, `WriterFound` or `ForeignFound`.

    The second half of the grant is the token: higher than that of any grant before.
    """

    key: str
    nonce: bytes
    lease_ms: int
    timeout_s: float


class FreeLock(Struct, frozen=True):
    """Give a lock back, if it is still ours. Its token is kept. Answered by `LeasesReleased`."""

    lock: Lease
    timeout_s: float


class ExpireCells(Struct, frozen=True):
    """Make values stale at once, keeping them for those who may serve stale ones. Answered by `CellsExpired`.

    Loads in flight are voided, as by a removal.
    """

    keys: tuple[str, ...]
    timeout_s: float


class DeleteKeys(Struct, frozen=True):
    """Remove keys. This is an invalidation, complete in itself. Answered by `KeysDeleted`.

    `looks`: the caller wants to know whether a value was there. For one key.
    """

    keys: tuple[str, ...]
    timeout_s: float
    looks: bool = False
    insists: bool = False
    """Whether a part of the store is to be told that is known not to serve, as it may hear of it late."""


class ScanKeys(Struct, frozen=True):
    """One page of the keys that match a glob; cursor 0 starts and ends. Answered by `KeysFound`."""

    pattern: str
    cursor: int
    count: int
    timeout_s: float


class Ping(Struct, frozen=True):
    """Ask whether a part of the store serves. Answered by `Ponged`."""

    timeout_s: float
    part: str = ONE_PART


class Append(Struct, frozen=True):
    """One write to queue, under the grant of a hold on its key."""

    key: str
    grant: bytes
    body: bytes
    """The value, sealed as in a cell."""
    tags: tuple[str, ...] = ()
    """The keys of tags that are to go when it is applied."""


class AppendEntries(Struct, frozen=True):
    """Queue writes of one partition, each under the grant of its hold. Answered by `EntriesAppended`.

    A write that this grant has queued already is not queued again. With `replicas`, so many of them are to
    have it before the answer, for which `wait_ms` are waited.
    """

    root: str
    """What the keys of the partition begin with."""
    appends: tuple[Append, ...]
    most: int
    """How many entries the partition may hold: nothing is appended where it holds so many."""
    partitions: int
    """How many there are: refused where the queue is known to have another number of them."""
    timeout_s: float
    replicas: int = 0
    wait_ms: int = 0


class PeekEntries(Struct, frozen=True):
    """The newest entry of each key that is not settled yet. Answered by `EntriesFound`, one a key."""

    root: str
    keys: tuple[str, ...]
    timeout_s: float
    partitions: int = 0
    """How many there are: nothing is found where the queue is known to have others. 0 asks nothing."""


class TakeEntries(Struct, frozen=True):
    """Deliver entries to the consumer that has the partition's lease. Answered by `EntriesTaken`.

    First those that were delivered before, whoever had them, and then new ones.
    """

    root: str
    grant: bytes
    """That of the lease."""
    after: int
    """Only entries with higher tokens."""
    count: int
    """How many at most."""
    most_bytes: int
    """No more are added when their values are as long as this together."""
    timeout_s: float
    is_again: bool = False
    """Whether what was delivered before is not counted once more: this consumer has asked for it, and did not
    get it, as the store has failed."""


class Verdict(Struct, frozen=True):
    """What became of an entry: it is applied, or overtaken; or given up, or to be queued anew."""

    token: int
    key: str
    reason: str = ""
    """Why it is given up: a letter is made of it. Empty where it is not."""
    found: int = 0
    """Where the stream is to go on, and the entry is appended anew: somewhere above the token that the
    database has, where that is higher than the entry's. 0 where it is not."""


class SettleEntries(Struct, frozen=True):
    """Take entries out of a partition, for the consumer that has its lease. Answered by `EntriesSettled`."""

    root: str
    grant: bytes
    verdicts: tuple[Verdict, ...]
    timeout_s: float


class AttendQueue(Struct, frozen=True):
    """A consumer says that it is there, for `ttl_ms`, or with 0 that it goes. Answered by `QueueAttended`."""

    root: str
    """That of the first partition."""
    member: bytes
    ttl_ms: int
    timeout_s: float


class MeasureQueue(Struct, frozen=True):
    """How much is in a partition. Answered by `QueueMeasured`.

    With `partitions`, one without entries and letters takes this for the number that the queue has.
    """

    root: str
    timeout_s: float
    partitions: int = 0


class ReadLetters(Struct, frozen=True):
    """The dead letters of a partition, a page of them, oldest first. Answered by `EntriesFound`."""

    root: str
    after: int
    """Only letters with higher numbers."""
    count: int
    timeout_s: float


class ReplayLetter(Struct, frozen=True):
    """Queue the write of a letter anew, where no later one of its key was queued since.

    Answered by `EntriesAppended`.
    """

    root: str
    letter: int
    key: str
    nonce: bytes
    timeout_s: float
    partitions: int = 0
    """How many there are: refused where the queue is known to have another number. 0 does not ask."""


class DropLetters(Struct, frozen=True):
    """Forget letters. Answered by `KeysDeleted`."""

    root: str
    letters: tuple[int, ...]
    timeout_s: float


QueueCommand = (
    AppendEntries
    | PeekEntries
    | TakeEntries
    | SettleEntries
    | AttendQueue
    | MeasureQueue
    | ReadLetters
    | ReplayLetter
    | DropLetters
)


class Renewal(Struct, frozen=True):
    """Keep leases or holds alive: what the machine in `operations/renewal.py` is to do.

    The driver runs that machine beside the loader, or beside the block of a mutation, and ends it with it.
    """

    leases: tuple[Lease, ...]
    lease_ms: int
    """How long they last each time."""
    until_s: float
    """When renewing ends, on the driver's clock."""
    timeout_s: float
    """How long the store may take for one renewal."""
    pause_s: float
    """How long to let pass before each renewal, in seconds."""


class Compute(Struct, frozen=True):
    """Call the user's loader. Answered by `Computed` or `ComputeFailed`."""

    key: str
    renewal: Renewal | None
    """What keeps the lease alive meanwhile; None without a lease."""
    previous: Any = None
    """The value that is being replaced, for a loader that wants to know."""
    name: str = ""
    """The key that was asked for, where `key` is that of a variant."""


class ComputeMany(Struct, frozen=True):
    """Call the user's loader of many keys, once. Answered by `Computed` or `ComputeFailed`.

    `keys` are those that the loader must not ask for. `names` are the keys as the caller wrote them, which is
    what it is given.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    renewal: Renewal | None


class ShareLoad(Struct, frozen=True):
    """Find the load of this key and type that is under way in this process, or lead a new one.

    `schema` is the type's fingerprint, with the tags that are named; key and schema make the same load.
    `displaced` is a load that this caller has given up on; it is no longer joined. Answered by `LoadLed`;
    or, within `timeout_s`, by `LoadShared`, `LoadErrorShared` or `LoadNotShared`; or else by
    `SharingTimedOut`. `arrival` is what the last two said when this request shared before, 0 where it did
    not. `heeds_store` is false where the caller may know of an invalidation that the store does not: that it
    has accepted a fill then proves nothing.
    `now_s` is the driver's clock: a load that has failed in the background is not led again for some time,
    which is answered with `LoadNotShared`.
    """

    key: str
    schema: bytes
    displaced: int | None
    timeout_s: float
    arrival: int = 0
    heeds_store: bool = True
    now_s: float = 0.0


class Watch(Struct, frozen=True):
    """What may end a sleep early: any change of some keys.

    `load_id` is the step's: the number of the load that waits, or the nonce of a batch; until it has ended,
    the driver may keep watching. While it does, it may let the sleep last for `longest_s`: it will be told.
    """

    keys: tuple[str, ...]
    load_id: int | bytes
    longest_s: float


class Sleep(Struct, frozen=True):
    """Wait; with `watch`, for something to happen to a key. Answered by `Woke`.

    A driver that cannot watch sleeps for `duration_s`. One that can begins with the first sleep of a load
    that names a key, and ends that one at once: what happened before it watched must be looked for.
    """

    duration_s: float
    watch: Watch | None = None


StoreCommand = (
    ReadCell
    | ReadCells
    | InspectCell
    | ReadTags
    | AcquireLease
    | AcquireLeases
    | FillCells
    | RenewLeases
    | ReleaseLeases
    | HoldCells
    | ClaimCell
    | SwapCell
    | TouchCell
    | TakeLock
    | FreeLock
    | ExpireCells
    | DeleteKeys
    | ScanKeys
    | Ping
    | QueueCommand
)
Command = StoreCommand | Compute | ComputeMany | ShareLoad | Sleep

_OF_ONE_KEY: Final = (ReadCell, InspectCell, AcquireLease, ClaimCell, SwapCell, TouchCell, TakeLock)
OF_KEYS: Final = (ReadCells, HoldCells, DeleteKeys, ExpireCells)
"""Those that are about `keys`."""
CAPTURING: Final = (AcquireLease, AcquireLeases, HoldCells, ClaimCell, TouchCell)
"""Those with a `capture`."""


def keys_and_tags(command: StoreCommand) -> tuple[Sequence[str], tuple[str, ...]]:
    """The keys of the cells that a command is about, and those of the tags that it reads or captures."""
    keys: Sequence[str] = ()
    tags: tuple[str, ...] = ()
    if isinstance(command, _OF_ONE_KEY):
        keys = (command.key,)
    elif isinstance(command, OF_KEYS):
        keys = command.keys
    elif isinstance(command, AcquireLeases):
        keys = [each.key for each in command.lease_requests]
    elif isinstance(command, FillCells):
        keys = [each.key for each in command.fills]
    elif isinstance(command, RenewLeases | ReleaseLeases):
        keys = [each.key for each in command.leases]
    elif isinstance(command, FreeLock):
        keys = (command.lock.key,)
    elif isinstance(command, QueueCommand):
        keys = (command.root,)  # the part in braces is that of all keys of the partition
    if isinstance(command, ReadCell | ReadCells | ReadTags | FillCells):
        tags = command.tags
    elif isinstance(command, CAPTURING):
        tags = command.capture.tags
    return keys, tags
