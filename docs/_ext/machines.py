"""Explore the machines of the core, and write down every transition that is met.

The tables of the design page come from here and from nowhere else: every state is handed every kind of
answer that a driver may give to its command, breadth first, and what it does is recorded. The core does no
I/O, so this takes a moment and no server. Sphinx is not imported here: the tests use this module too.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import attrs
import msgspec
import pictures
from msgspec.structs import replace

from sansio_cache import KeyBuilder, Policy
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import FOREIGN, Cell, Foreign, Kind
from sansio_cache.codec import Codec, codec_for
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    AppendEntries,
    AttendQueue,
    ClaimCell,
    Command,
    Compute,
    ComputeMany,
    DeleteKeys,
    DropLetters,
    ExpireCells,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    MeasureQueue,
    PeekEntries,
    Ping,
    ReadCell,
    ReadCells,
    ReadLetters,
    ReadTags,
    ReleaseLeases,
    Renewal,
    RenewLeases,
    ReplayLetter,
    ScanKeys,
    SettleEntries,
    ShareLoad,
    Sleep,
    StoreCommand,
    SwapCell,
    TakeEntries,
    TakeLock,
    TouchCell,
)
from sansio_cache.entry import MissReason, Servable, examine, seal
from sansio_cache.events import (
    AcquireReply,
    Appended,
    CellInspected,
    CellRead,
    CellsExpired,
    CellsFilled,
    CellsRead,
    CellSwapped,
    CellTouched,
    Computed,
    ComputeFailed,
    EntriesAppended,
    EntriesFound,
    EntriesSettled,
    EntriesTaken,
    Event,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesAnswered,
    LeasesReleased,
    LeasesRenewed,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    Ponged,
    QueueAttended,
    QueueMeasured,
    SharingTimedOut,
    StoreFailed,
    TagsRead,
    ValueFound,
    Woke,
    WriterFound,
)
from sansio_cache.loader import Absent, Fresh
from sansio_cache.notices import Ended, OperationName
from sansio_cache.operations.add import AddRequest, add
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.batching import Failing, Holding, Piece, Unit
from sansio_cache.operations.consume import Consumer, consume
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.in_hand import ConsumeRequest, InHand
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import Finding, LoadRequest, compute
from sansio_cache.operations.lock import LockRequest, free, keep, take
from sansio_cache.operations.lookup import Longer, LookRequest, look
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.queue import AgreeRequest, agree, ask
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.operations.recovery import RecoveryRequest, recover, rest
from sansio_cache.operations.refresh import refresh
from sansio_cache.operations.renewal import renew
from sansio_cache.operations.scan import scan
from sansio_cache.operations.second_look import Doubt, look_again
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.operations.swap import SwapRequest, swap
from sansio_cache.operations.update import UpdateRequest, update
from sansio_cache.operations.watching import watch
from sansio_cache.queues import QueueEntry, Turn, TurnEnd, root_of
from sansio_cache.signing import Signer
from sansio_cache.step import Step
from sansio_cache.tags import VARIANT_OF, tag_keys

SOON_S, LATE_S = 0.1, 1_000.0
"""An answer comes at once, or when every deadline of the operation is over."""

_NOW_MS = 5_000
_KEY, _OTHER = "shop:user:1", "shop:user:2"
_NONCE = b"n" * 8
_GRANT = _NONCE + bytes(8)
_THEIRS = b"o" * 8 + bytes(8)
_VERSION, _LATER_VERSION = b"v" * 16, b"w" * 16
_TAG = "t:users"
_TIMEOUTS = StoreTimeouts(attempts=2)
_INT = codec_for(int, 1_000)
_STR = codec_for(str, 1_000)


def _refuse(_: Any) -> Any:
    """A migration hook that can make nothing of what it is given."""
    raise ValueError


_SIGNED = codec_for(int, 1_000, signer=Signer((b"a key of 16 bytes",), 60_000, 60_000))
_HOOKED = codec_for(int, 1_000, _refuse)
_ERROR = ValueError("the loader's")


def _value(codec: Any, payload: bytes | None, key: str, tags: tuple[str, ...], *, soft_ms: int = 0) -> Cell:
    """A value as the store has it; a variant of another version's is tied to that."""
    versions = tuple((tag, _VERSION) for tag in tags)
    if ":%s:" in key:
        versions = (*versions, (VARIANT_OF, _THEIRS))
    body = seal(key, codec, payload, 0.0, versions, _THEIRS)
    return Cell(Kind.VALUE, filled_by=_THEIRS, soft_ms=soft_ms, body=body)


def _cells(key: str, tags: tuple[str, ...]) -> dict[str, Cell | Foreign | None]:
    """The kinds of cells that a reader of a key may find who names some tags."""
    cells: dict[str, Cell | Foreign | None] = {
        "no key": None,
        "a fresh value": _value(_INT, b"1", key, tags),
        "a fresh value, soon to expire": _value(_INT, b"1", key, tags, soft_ms=_NOW_MS + 1),
        "a value past its soft expiry": _value(_INT, b"1", key, tags, soft_ms=_NOW_MS - 1),
        "the answer that there is nothing": _value(_INT, None, key, tags),
        "a fresh value of another type": _value(_STR, b'"1"', key, tags),
        "a value that is corrupt": _value(_INT, b"{", key, tags),
        "a lease, no value": Cell(Kind.EMPTY, _THEIRS, _NOW_MS + 1_000),
        "held by a writer": Cell(Kind.HOLD, _THEIRS, _NOW_MS + 1_000),
        "not ours": FOREIGN,
    }
    others = (*tags, "t:unnamed")
    return cells | {
        "a value with other tags": _value(_INT, b"1", key, others),
        "a value with other tags, of another type": _value(_STR, b'"1"', key, others),
    }


def _names(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The names that cells have for tags, by their keys."""
    return tuple(key.partition(":%")[2] for key in keys)


def _versions(keys: tuple[str, ...]) -> tuple[bytes, ...]:
    return (_VERSION,) * len(keys)


def _acquired(key: str, tags: tuple[str, ...]) -> Iterator[tuple[str, AcquireReply]]:
    """The kinds of answers to a lease request; the tags' versions come with them or beside them."""
    cells, versions = _cells(key, _names(tags)), _versions(tags)
    stale = cells["a value past its soft expiry"]
    assert isinstance(stale, Cell)
    yield "no value", LeaseGranted(SOON_S, _GRANT, None, _NOW_MS, versions)
    yield "a stale value kept", LeaseGranted(SOON_S, _GRANT, stale, _NOW_MS, versions)
    yield "no value", LeaseDenied(SOON_S, 1_000, None, _NOW_MS, versions)
    yield "a stale value kept", LeaseDenied(SOON_S, 1_000, stale, _NOW_MS, versions)
    for words, name in _FOUND.items():
        cell = cells[name]
        assert isinstance(cell, Cell)
        yield words, FreshFound(SOON_S, cell, _NOW_MS, versions)
    yield "", WriterFound(SOON_S, 1_000)
    yield "", ForeignFound(SOON_S)


_FOUND = {
    "readable": "a fresh value",
    "another type": "a fresh value of another type",
    "corrupt": "a value that is corrupt",
    "other tags": "a value with other tags",
}


def _answers(command: Command, now_s: float) -> Iterator[tuple[str, Event]]:  # noqa: C901 - one case for each
    """The kinds of answers to a command, `Interrupted` and failures apart, with a few words for each."""
    match command:
        case ReadCell(key=key, tags=tags):
            for words, cell in _cells(key, _names(tags)).items():
                yield words, CellRead(now_s, cell, _NOW_MS, _versions(tags))
        case ReadCells(keys=keys, tags=tags):
            kinds = [_cells(key, _names(tags)) for key in keys]
            if keys == _KEYS:  # first, as batches that wait for the tags of any cells are folded into one
                others = (cells["a fresh value of another type"] for cells in kinds[1:])
                mixed = (kinds[0]["a value with other tags"], *others)
                label = "the first with other tags, the others of another type"
                yield label, CellsRead(now_s, mixed, _NOW_MS, _versions(tags))
            for words in kinds[0]:
                alike = tuple(cells[words] for cells in kinds)
                yield f"{words}, for each", CellsRead(now_s, alike, _NOW_MS, _versions(tags))
        case InspectCell(key=key):
            signed = {"a value that is signed": _value(_SIGNED, b"1", key, ())}
            for words, cell in (_cells(key, ()) | signed).items():
                yield words, CellInspected(now_s, cell, 60_000, _NOW_MS)
        case ClaimCell(capture=capture):
            yield "", HoldsTaken(now_s, (_GRANT,), _versions(capture.tags))
            yield "", ValueFound(now_s)
            yield "", WriterFound(now_s, 1_000)
        case SwapCell():
            yield "replaced", CellSwapped(now_s, _GRANT)
            yield "not the same, or not fresh", CellSwapped(now_s, None)
        case TouchCell():
            yield "lives longer", CellTouched(now_s, True)
            yield "not there any more", CellTouched(now_s, False)
        case TakeLock():
            yield "", HoldsTaken(now_s, (_GRANT,))
            yield "", WriterFound(now_s, 1_000)
            yield "", ForeignFound(now_s)
        case FreeLock():
            yield "", LeasesReleased(now_s)
        case ReadTags(tags=tags):
            yield "as in the entry", TagsRead(now_s, _versions(tags), _NOW_MS)
            yield "another version", TagsRead(now_s, (_LATER_VERSION,) * len(tags), _NOW_MS)
        case AcquireLease(key=key, capture=capture):
            for words, answer in _acquired(key, capture.tags):
                yield words, replace(answer, now_s=now_s)
        case AcquireLeases(lease_requests=lease_requests, capture=capture):
            each = [list(_acquired(each.key, capture.tags)) for each in lease_requests]
            for choice in zip(*each, strict=True):
                words, first = choice[0]
                label = f"{type(first).__name__}{f', {words}' if words else ''}, for each"
                answers = tuple(replace(answer, now_s=now_s) for _, answer in choice)
                yield label, LeasesAnswered(now_s, answers, _versions(capture.tags))
            if len(each) > 1:
                for words, first in (("granted", each[0][0][1]), ("held by a writer", each[0][-2][1])):
                    mixed = (first, *(answers[2][1] for answers in each[1:]))
                    label = f"the first {words}, the others not granted"
                    yield label, LeasesAnswered(now_s, mixed, _versions(capture.tags))
        case FillCells(fills=fills, tags=tags):
            for result in (FillResult.STORED, FillResult.ALREADY_STORED, FillResult.REFUSED):
                words = result.name.lower().replace("_", " ")
                yield words, CellsFilled(now_s, (result,) * len(fills), _versions(tags))
        case RenewLeases(leases):
            yield "still ours", LeasesRenewed(now_s, (True,) * len(leases))
            yield "lost", LeasesRenewed(now_s, (False,) * len(leases))
        case ReleaseLeases():
            yield "", LeasesReleased(now_s)
        case HoldCells(keys=keys, capture=capture):
            yield "", HoldsTaken(now_s, (_GRANT,) * len(keys), _versions(capture.tags))
        case ExpireCells(keys):
            yield "", CellsExpired(now_s, len(keys))
        case DeleteKeys(keys):
            yield "", KeysDeleted(now_s, len(keys))
        case ScanKeys():
            yield "keys, more to come", KeysFound(now_s, 7, (_KEY,))
            yield "keys, the last page", KeysFound(now_s, 0, (_KEY,))
            yield "empty page, more to come", KeysFound(now_s, 7, ())
            yield "empty page, the last", KeysFound(now_s, 0, ())
        case Ping():
            yield "", Ponged(now_s)
        case AppendEntries(appends=appends):
            yield "all", EntriesAppended(now_s, (5,) * len(appends))
            yield "a hold was another's", EntriesAppended(now_s, (5,) * (len(appends) - 1) + (0,))
            yield "the partition is full", EntriesAppended(now_s, (), 9, Appended.FULL)
            yield "another number of partitions", EntriesAppended(now_s, (), 4, Appended.PARTED)
        case ReplayLetter():
            yield "queued anew", EntriesAppended(now_s, (5,))
            yield "gone", EntriesAppended(now_s, (0,))
            yield "superseded", EntriesAppended(now_s, (-1,))
        case PeekEntries(keys=keys):
            yield "", EntriesFound(now_s, (None,) * len(keys))
        case ReadLetters():
            yield "", EntriesFound(now_s, (_ENTRY,))
        case DropLetters(letters=letters):
            yield "", KeysDeleted(now_s, len(letters))
        case MeasureQueue():
            yield "", QueueMeasured(now_s, 0, 0, 0, 2, _NOW_MS)
            yield "another number, and nothing in it", QueueMeasured(now_s, 0, 0, 0, 3, _NOW_MS)
            yield "another number, and entries", QueueMeasured(now_s, 1, 5, 0, 3, _NOW_MS)
        case TakeEntries():
            other = QueueEntry(6, _KEYS[1], seal(_KEYS[1], _INT, b"1", 0.0), (), 1)
            yield "some", EntriesTaken(now_s, (_ENTRY, other), 2)
            yield "more than go into a batch", EntriesTaken(now_s, (_ENTRY,), 2)
            yield "one that cannot be read", EntriesTaken(now_s, (replace(_ENTRY, body=b"?"),), 1)
            yield "one that has ended consumers", EntriesTaken(now_s, (replace(_ENTRY, deliveries=9),), 1)
            yield "none", EntriesTaken(now_s, ())
            yield "the lease is another's", EntriesTaken(now_s, (), is_ours=False)
        case SettleEntries():
            yield "", EntriesSettled(now_s)
            yield "the lease is another's", EntriesSettled(now_s, is_ours=False)
        case AttendQueue():
            yield "alone", QueueAttended(now_s, 1)
            yield "one of two", QueueAttended(now_s, 2)
        case Compute(previous=Turn()):
            yield "go on", Computed(now_s, TurnEnd())
            yield "end", Computed(now_s, TurnEnd(is_over=True))
            yield "", ComputeFailed(now_s, _ERROR)
        case Compute():
            yield "can be stored", Computed(now_s, 1)
            yield "Fresh", Computed(now_s, Fresh(1, ttl=1))
            yield "nothing left to live", Computed(now_s, Fresh(1, ttl=0))
            yield "Absent", Computed(now_s, Absent())
            yield "cannot be stored", Computed(now_s, "not an int")
            yield "", ComputeFailed(now_s, _ERROR)
        case ComputeMany(names=names):
            yield "a value for each", Computed(now_s, dict.fromkeys(names, 1))
            yield "no value for some", Computed(now_s, {names[0]: Absent(), "unasked": 1})
            yield "no values", Computed(now_s, {})
            yield "nothing left to live", Computed(now_s, dict.fromkeys(names, Fresh(1, ttl=0)))
            yield "values that cannot be stored", Computed(now_s, dict.fromkeys(names, "not an int"))
            yield "no mapping", Computed(now_s, [1])
            yield "", ComputeFailed(now_s, _ERROR)
        case ShareLoad():
            yield "", LoadLed(now_s, 1)
            yield "readable", LoadShared(now_s, b"1", None)
            yield "cannot be read", LoadShared(now_s, b'"1"', None)
            yield "", LoadErrorShared(now_s, _ERROR)
            yield "", LoadNotShared(now_s)
            yield "", SharingTimedOut(now_s, 1)
            yield "in a circle", SharingTimedOut(now_s, 1, is_circle=True)
        case Sleep():
            yield "", Woke(now_s)
            yield "in a circle", Woke(now_s, is_circle=True)


def events(step: Step, now_s: float) -> Iterator[tuple[str, Event]]:
    """Every kind of event that may follow a step at a time, with its label in the table."""
    command = step.command
    assert command is not None
    for words, event in _answers(command, now_s):
        yield f"{type(event).__name__}{f' ({words})' if words else ''}", event
    if isinstance(command, StoreCommand):
        for kind in (FailureKind.TIMEOUT, FailureKind.PERMISSION):
            failed = StoreFailed(now_s, kind)
            yield f"StoreFailed{_chance(step.state, failed)}", failed
    yield "Interrupted", Interrupted(now_s)


def _chance(state: Any, failed: StoreFailed) -> str:
    budget = getattr(state, "budget", None)
    if not isinstance(budget, Budget):
        return ""
    return " (a try is left)" if budget.after(failed) else " (no try is left)"


_RANDOM_BYTES = _NONCE + b"\x01" * 16
_PLAIN = Policy()
_STALE = Policy(stale_for_s=60)
_WAITING = Policy(stale_for_s=60, on_wait_timeout="stale")
_EARLY = Policy(refresh_at=0.5)
_RAISING = Policy(on_wait_timeout="raise", on_read_error="raise")
_BOTH = Policy(stale_for_s=60, on_wait_timeout="raise", on_read_error="raise")
_POLICIES = (_PLAIN, _STALE, _WAITING, _EARLY, _RAISING)


def _load(policy: Policy, *tags: str, codec: Codec[Any] = _INT) -> LoadRequest:
    return LoadRequest(_KEY, codec, policy, _RANDOM_BYTES, _TIMEOUTS, 0.0, tags)


def _loads() -> list[Step]:
    skips = (
        (_PLAIN, MissReason.STORE_ERROR),
        (_RAISING, MissReason.STORE_ERROR),
        (_PLAIN, MissReason.DISABLED),
    )
    return [
        *(get_or_load(_load(policy)) for policy in _POLICIES),
        get_or_load(_load(_PLAIN, _TAG)),
        get_or_load(_load(_PLAIN, codec=_HOOKED)),
        *(get_or_load(_load(policy), skip=skip) for policy, skip in skips),
    ]


def _batches() -> list[Step]:
    """Batches of two keys with the policies that tell most ends apart, and of one key with the others."""
    two, one = (_KEYS, _NAMES), (_KEYS[:1], _NAMES[:1])
    kinds = [(_WAITING, two), (_BOTH, two), (_PLAIN, one), (_STALE, one), (_RAISING, one)]
    requests = [LoadManyRequest(keys, names, 500, _load(policy)) for policy, (keys, names) in kinds]
    skips = (None, MissReason.STORE_ERROR)
    return [load_many(request, skip=skip) for request in requests for skip in skips]


def _computings() -> list[Step]:
    """What is at stake in a load: its grant, a stale value, whether anybody waits for it."""
    stale = Finding(stale=_found(), counted=False)
    return [
        compute(request, 1, grant, (), finding, 0.0)
        for request in (_load(_PLAIN), replace(_load(_PLAIN), in_background=True))
        for grant in (None, _GRANT)
        for finding in (Finding(), stale)
    ]


def _found() -> Servable:
    found = examine(_value(_INT, b"1", _KEY, (), soft_ms=_NOW_MS - 1), _KEY, _INT, _NOW_MS)
    assert isinstance(found, Servable)
    return found


_KEYS = (_KEY, _OTHER)
_NAMES = ("user:1", "user:2")
_ITEMS = tuple(Item(key, _INT, b"1", 1_000, 0) for key in _KEYS)
_SIGNED_ITEM = Item(_KEY, _SIGNED, b"1", 1_000, 0)
_LEASES = tuple(Lease(key, _GRANT) for key in _KEYS)
_TAG_KEYS = tag_keys(_KEY, (_TAG,))

_ROOT = root_of("shop:", "orders", 0)
_ENTRY = QueueEntry(5, _KEY, seal(_KEY, _INT, b"1", 0.0), (), 1)
_QUEUED = tuple(QueuedItem(key, seal(key, _INT, b"1", 0.0)) for key in _KEYS)


_HOLDINGS = Holding(0, _GRANT), Holding(1, _GRANT)
_PARKED = tuple(Unit((Piece(each.key, 5, each.body, failed=1),), 1, LATE_S) for each in _QUEUED)


def _consuming(partitions: int) -> ConsumeRequest:
    failing = Failing(2, 0.1, 1.0)
    limits = 5_000, 9, 10**6, 0.2, failing, _TIMEOUTS, 0.0
    return ConsumeRequest("shop:", "orders", partitions, _INT, _NONCE, 1, *limits)


MACHINES: dict[str, Callable[[], list[Step]]] = {
    "get": lambda: [
        get(ReadRequest(_KEY, codec, _TIMEOUTS, 0.0, raises))
        for codec, raises in ((_INT, False), (_INT, True), (_HOOKED, False))
    ],
    "get_many": lambda: [
        get_many(ReadManyRequest(_KEYS, _INT, 500, _TIMEOUTS, 0.0, raises)) for raises in (False, True)
    ],
    "get_or_load": _loads,
    "loading": _computings,
    "refresh": lambda: [refresh(_load(_STALE), _found(), 0.0)],
    "load_many": _batches,
    "renewal": lambda: [renew(Renewal(_LEASES[:1], 5_000, 60.0, 0.1, 5 / 3))],
    "set_many": lambda: [
        set_many(SetRequest(OperationName.SET_MANY, _ITEMS, _NONCE, 5_000, 1, _TIMEOUTS, 0.0, tags))
        for tags in ((), (_TAG,))
    ],
    "mutate": lambda: [
        begin(MutateRequest(_KEYS, _NONCE, 5_000, 60.0, _TIMEOUTS, 0.0)),
        end(EndRequest(_KEYS, (_GRANT, _GRANT), _ITEMS[:1], _TIMEOUTS, 0.0, _TAG_KEYS)),
        end(EndRequest(_KEYS, (_GRANT, _GRANT), _ITEMS, _TIMEOUTS, 0.0)),
        end(EndRequest(_KEYS, (_GRANT, _GRANT), (), _TIMEOUTS, 0.0)),
    ],
    "invalidate": lambda: [
        invalidate(InvalidateRequest(OperationName.INVALIDATE, _KEYS, 1, _TIMEOUTS, 0.0)),
        invalidate(InvalidateRequest(OperationName.EXPIRE, _KEYS, 1, _TIMEOUTS, 0.0, soft=True)),
    ],
    "delete_pattern": lambda: [
        delete_pattern(PatternRequest(KeyBuilder("shop"), "shop:user:*", 500, _TIMEOUTS, 0.0, dry_run))
        for dry_run in (False, True)
    ],
    "lookup": lambda: [
        look(LookRequest(_KEY, codec, _TIMEOUTS, 0.0, longer=longer, raises=longer is None, operation=asked))
        for codec in (_INT, None)
        for longer, asked in (
            (None, OperationName.LOOKUP),
            (Longer(1_000, 60_000, _NONCE), OperationName.LOOKUP),
            (Longer(1_000, 60_000, _NONCE), OperationName.TOUCH),
        )
    ],
    "add": lambda: [
        add(AddRequest(item, _NONCE, 1, 5_000, 30.0, _TIMEOUTS, 0.0)) for item in (_ITEMS[0], _SIGNED_ITEM)
    ],
    "swap": lambda: [
        swap(SwapRequest(item, _THEIRS, _NONCE, _TIMEOUTS, 0.0)) for item in (_ITEMS[0], _SIGNED_ITEM)
    ],
    "update": lambda: [
        update(UpdateRequest(_KEY, codec, 0, 0, _NONCE, 1, 30.0, _TIMEOUTS, 0.0, amount))
        for codec, amount in ((_INT, None), (_INT, 1), (_STR, 1))
    ],
    "lock": lambda: [
        take(LockRequest("shop:%l:nightly", _NONCE, 1, 5_000, 30.0, _TIMEOUTS, 0.0)),
        keep(Lease("shop:%l:nightly", _GRANT), 5_000, _TIMEOUTS, 0.0),
        free(Lease("shop:%l:nightly", _GRANT), _TIMEOUTS, 0.0),
    ],
    "scan": lambda: [scan(PatternRequest(KeyBuilder("shop"), "shop:user:*", 500, _TIMEOUTS, 0.0), 0)],
    "watching": lambda: [watch(("", "another"), 0.25, 0.25)],
    "recovery": lambda: [recover(RecoveryRequest("", _KEYS, _TIMEOUTS), 0.05), rest(2.0)],
    "second_look": lambda: [look_again(Doubt("shop:user:1", _GRANT.hex()), 0.25)],
    "readiness": lambda: [wait_ready(5.0, 0.0)],
    "enqueue": lambda: [
        *(
            enqueue(EnqueueRequest(_ROOT, items, (), _NONCE, 1, 5_000, 9, 2, 30.0, _TIMEOUTS, 0.0))
            for items in (_QUEUED, _QUEUED[:1])
        ),
        replay(ReplayRequest(_ROOT, 1, _KEY, (), _NONCE, _TIMEOUTS, 0.0)),
    ],
    "queue": lambda: [
        *(
            ask(question, _TIMEOUTS, 0.0)
            for question in (
                PeekEntries(_ROOT, (_KEY,), 1.0),
                ReadLetters(_ROOT, 0, 9, 1.0),
                DropLetters(_ROOT, (1,), 1.0),
            )
        ),
        agree(AgreeRequest("shop:", "orders", 2, _TIMEOUTS, 0.0)),
    ],
    "consume": lambda: [
        consume(_consuming(1)),
        # With more than its share; and with writes that have failed.
        Consumer(_consuming(2), _HOLDINGS, members=2, attends_s=1.0).go_on(0.0),
        Consumer(_consuming(1), (Holding(0, _GRANT, parked=_PARKED),), attends_s=2 * LATE_S).go_on(0.0),
    ],
}
"""For each machine, by its module of `sansio_cache.operations`, the steps that it may begin with."""

BESIDE = {"get_or_load": ("checking",), "load_many": ("checking",), "consume": ("sharing", "leave")}
"""The modules that hold some of a machine's states besides its own; each state is of one machine only."""


@attrs.frozen
class Transition:
    """One row of a table. `notices` may be stated, and not all of them always are."""

    state: str
    command: str
    event: str
    result: str
    notices: frozenset[str]


@cache
def steps(machine: str) -> tuple[tuple[Step, float], ...]:
    """The steps that wait for an answer, each once, breadth first; and when the answer may come.

    Those in states that the machine shares with another are met there: in the module that has the state.
    """
    met: list[tuple[Step, float]] = []
    seen: set[Any] = set()
    queue = deque((step, SOON_S) for step in MACHINES[machine]())
    while queue:
        step, now_s = queue.popleft()
        if step.command is None or not _is_own(machine, step):
            continue
        place = (_folded(step.state), now_s)
        if place in seen:
            continue
        seen.add(place)
        for answered_s in dict.fromkeys((now_s, LATE_S)):
            met.append((step, answered_s))
            for _, event in events(step, answered_s):
                queue.append((step.state.receive(event), answered_s))
    return tuple(met)


def _is_own(machine: str, step: Step) -> bool:
    return type(step.state).__module__.rpartition(".")[2] in {machine, *BESIDE.get(machine, ())}


@cache
def explore(machine: str) -> tuple[Transition, ...]:
    """Every transition of a machine, in the order in which breadth first meets them."""
    met: dict[tuple[str, str, str, str], set[str]] = {}
    for step, now_s in steps(machine):
        for label, event in events(step, now_s):
            after = step.state.receive(event)
            notices = {type(notice).__name__ for notice in after.notices if not isinstance(notice, Ended)}
            row = (_name(step.state), type(step.command).__name__, label, _result(after))
            met.setdefault(row, set()).update(notices)
    return tuple(Transition(*row, frozenset(notices)) for row, notices in met.items())


def _name(state: Any) -> str:
    return type(state).__name__


def _result(step: Step) -> str:
    if step.command is not None:
        return _name(step.state)
    return f"done: {_name(step.outcome)}{' (a refresh begins)' if step.spawn else ''}"


_TIMES = {"since_s", "began_s", "started_s"}
_COUNTERS = {"turns", "turn", "done", "deleted", "matched"}
_ACQUIRED = {"seen", "mode", "grant", "lease_id", "key"}
_FOUND_OUT = {"stale", "previous", "found", "cells", "verdicts", "versions", "values"}
_STORED = {"hard_ttl_ms", "soft_ttl_ms", "body"}
_COARSE = _TIMES | _COUNTERS | _ACQUIRED | _FOUND_OUT | _STORED
"""Fields of which it only matters whether there is something."""
_IDLE = {"place", "left_ms"}
"""Fields that decide nothing about what comes next."""
_WHOLE = (Policy, StoreTimeouts, Codec, LoadRequest)
"""What never changes, or is told apart as it is."""


def _folded(state: Any) -> Any:
    """A state without what only counts or times: what remains is finite, and decides where it goes."""
    if isinstance(state, Exception | Budget):
        return state.attempts if isinstance(state, Budget) else type(state)
    if isinstance(state, Cell):
        return ("Cell", state.kind, state.body[8:16])  # its type's fingerprint
    if isinstance(state, InHand):
        parked = any(each.parked for each in state.holdings)
        due = any(unit.due_s <= LATE_S for each in state.holdings for unit in each.parked)
        attends = state.attends_s > 0, state.members > 1, state.is_over
        wrong = tuple((each.due_s > 0, each.count > 0, each.removes_s > 0) for each in state.asides)
        rounds = state.tried, state.visited, wrong, len(state.stranded)
        return ("InHand", len(state.holdings), parked, due, *attends, *rounds)
    if isinstance(state, tuple):
        kinds = {_folded(part) for part in state if _names_of(type(part))}
        return ("tuple", len(state), frozenset(kinds))
    names = _names_of(type(state))
    if not names or isinstance(state, _WHOLE):
        return _hashable(state)
    parts = ((name, getattr(state, name)) for name in names if name not in _IDLE)
    folded = ((name, bool(part) if name in _COARSE else _folded(part)) for name, part in parts)
    return (type(state).__name__, tuple(folded))


def _names_of(kind: type) -> tuple[str, ...]:
    if attrs.has(kind):
        return tuple(attrs.fields_dict(kind))
    return kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else ()


def _hashable(part: Any) -> Any:
    return part if part.__hash__ is not None else repr(part)


def as_markdown(machine: str) -> str:
    """The table of a machine: who waits for what, what may come, and where that leads."""
    rows = ["| state, and what it waits for | event | next | notices |", "| --- | --- | --- | --- |"]
    by_state: dict[str, dict[str, list[Transition]]] = {}
    for each in explore(machine):
        where = f"**{each.state}** `{each.command}`"
        by_state.setdefault(where, {}).setdefault(each.event, []).append(each)
    for where, by_event in by_state.items():
        shown = where
        for event in sorted(by_event, key=_failures_last):
            found = by_event[event]
            following = " or ".join(dict.fromkeys(_marked(each.result) for each in found))
            notices = ", ".join(sorted({name for each in found for name in each.notices}))
            rows.append(f"| {shown} | {event} | {following} | {notices} |")
            shown = ""
    return "\n".join(rows) + "\n"


def as_picture(machine: str) -> str:
    """The picture of a machine's states, as SVG."""
    following: dict[str, list[str]] = {}
    commands: dict[str, list[str]] = {}
    for each in explore(machine):
        for value, found in ((each.result, following), (each.command, commands)):
            known = found.setdefault(each.state, [])
            if value not in known:
                known.append(value)
    return pictures.machine(machine, following, commands)


def _failures_last(event: str) -> int:
    order = ("StoreFailed (a try is left)", "StoreFailed (no try is left)", "StoreFailed", "Interrupted")
    return order.index(event) + 1 if event in order else 0


def _marked(result: str) -> str:
    return f"*{result}*" if result.startswith("done") else f"**{result}**"
