"""Spans: what an operation is about, and what came of it, for those who follow operations from begin to end.

Machines do not say so by themselves: a hit that nobody follows does not pay for it. It can be told of any
operation from its first step and its last, as here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, assert_never

from msgspec import Struct

from sansio_cache.lookup import EntryState
from sansio_cache.notices import (
    Ended,
    Hit,
    Loaded,
    LoadShared,
    Missed,
    Notice,
    OperationName,
    Result,
    StaleServed,
    Waited,
)
from sansio_cache.operations.add import AddRequest
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.enqueue import EnqueueRequest, ReplayRequest
from sansio_cache.operations.get import ReadRequest
from sansio_cache.operations.get_many import ReadManyRequest
from sansio_cache.operations.invalidate import InvalidateRequest
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.operations.lock import LockRequest
from sansio_cache.operations.lookup import LookRequest
from sansio_cache.operations.mutate import MutateRequest
from sansio_cache.operations.scan import ScanPaging
from sansio_cache.operations.set_many import SetRequest
from sansio_cache.operations.swap import SwapRequest
from sansio_cache.operations.update import UpdateRequest
from sansio_cache.step import (
    Abandoned,
    Added,
    Completed,
    Locked,
    LockRenewed,
    Looked,
    ManyFound,
    ManyHeld,
    ManyInvalidated,
    ManyLoaded,
    ManyRead,
    ManyStored,
    Missing,
    NotAMapping,
    NotANumber,
    Outcome,
    PageFound,
    Parted,
    PatternRemoved,
    QueueAnswered,
    Queued,
    Raised,
    Recovered,
    Refused,
    Step,
    Swapped,
    TookTooLong,
    Unavailable,
    Unknown,
    Updated,
    Value,
)
from sansio_cache.step import Loaded as LoadedOutcome

_STATES: Final = {
    EntryState.FRESH: Result.HIT,
    EntryState.ABSENT: Result.HIT,
    EntryState.STALE: Result.STALE,
    EntryState.MISS: Result.MISSING,
}


class Subject(Struct, frozen=True):
    """What an operation is about."""

    operation: OperationName
    keys: tuple[str, ...]
    """The full keys; a full pattern; nothing where that is not known."""


def subject_of(step: Step) -> Subject | None:  # noqa: C901 - one case a request
    """What an operation is about, by its first step.

    None where it is none of a user's, nor a refresh; and for the end of a mutation, which has begun before.
    """
    batch = getattr(step.state, "batch", None)
    request = getattr(step.state, "request", None) if batch is None else batch.request
    match request:
        case ReadRequest(key=key):
            return Subject(OperationName.GET, (key,))
        case ReadManyRequest(keys=keys):
            return Subject(OperationName.GET_MANY, keys)
        case LoadRequest(name=name, in_background=in_background):
            return Subject(OperationName.REFRESH if in_background else OperationName.GET_OR_LOAD, (name,))
        case LoadManyRequest(keys=keys):
            return Subject(OperationName.GET_OR_LOAD_MANY, keys)
        case SetRequest(operation=operation, items=items):
            return Subject(operation, tuple(item.key for item in items))
        case InvalidateRequest(operation=OperationName() as operation, keys=keys):
            return None if operation is OperationName.MUTATE else Subject(operation, keys)
        case MutateRequest(keys=keys):
            return Subject(OperationName.MUTATE, keys)
        case PatternRequest(pattern=pattern):
            is_scan = isinstance(step.state, ScanPaging)
            return Subject(OperationName.SCAN if is_scan else OperationName.DELETE_PATTERN, (pattern,))
        case LookRequest(operation=operation, key=key):
            return Subject(operation, (key,))
        case AddRequest(key=key):
            return Subject(OperationName.ADD, (key,))
        case SwapRequest(key=key):
            return Subject(OperationName.SWAP, (key,))
        case UpdateRequest(key=key):
            return Subject(OperationName.UPDATE, (key,))
        case LockRequest(key=key):
            return Subject(OperationName.LOCK, (key,))
        case EnqueueRequest(items=queued):
            return Subject(OperationName.ENQUEUE, tuple(item.key for item in queued))
        case ReplayRequest(key=key):
            return Subject(OperationName.ENQUEUE, (key,))
        case _:
            return _subject_of_the_end(step)


def _subject_of_the_end(step: Step) -> Subject | None:
    """The same where the first step is the last, as the store is not asked."""
    if isinstance(step.outcome, ManyHeld):
        return Subject(OperationName.MUTATE, ())
    for notice in step.notices:
        if isinstance(notice, Ended) and notice.operation is not OperationName.MUTATE:
            return Subject(notice.operation, _named(step.notices))
    return None


def _named(notices: Collection[Notice]) -> tuple[str, ...]:
    """The keys that notices name, once each."""
    named: list[str] = []
    for notice in notices:
        told: Any = notice
        one = getattr(told, "pattern", None) or getattr(told, "key", None)
        named += [one] if one else getattr(told, "keys", ())
    return tuple(dict.fromkeys(named))


def result_of(outcome: Outcome, stated: Collection[type[Notice]]) -> Result:  # noqa: C901 - one case a kind
    """What came of an operation.

    Args:
        outcome: Its outcome.
        stated: The kinds of notices that it has stated from its first step on.
    """
    match outcome:
        case Value():
            return _served(stated)
        case LoadedOutcome():
            return Result.LOADED
        case Raised() | NotAMapping() | NotANumber():
            return Result.FAILED
        case Missing():
            return Result.HIT if Hit in stated else Result.MISSING
        case Unavailable() | Refused() | Unknown():
            return Result.UNAVAILABLE
        case Looked(lookup=lookup):
            return _STATES[lookup.state]
        case Added(is_ours=is_taken) | Swapped(version=is_taken):
            return Result.STORED if is_taken else Result.REFUSED
        case Updated():
            return Result.STORED
        case TookTooLong():
            return Result.TIMED_OUT
        case Abandoned():
            return Result.ABANDONED
        case ManyFound():
            return Result.HIT
        case ManyRead():
            if Missed not in stated:
                return Result.HIT
            return Result.PARTIAL if Hit in stated else Result.MISSING
        case ManyLoaded():
            return Result.LOADED if Loaded in stated else _served(stated)
        case ManyStored(results=results):
            if None in results:
                return Result.PENDING
            is_stored = all(each is not None and each.is_accepted for each in results)
            return Result.STORED if is_stored else Result.REFUSED
        case ManyInvalidated(failed=failed):
            return Result.PENDING if failed else Result.DONE
        case PatternRemoved(complete=complete):
            return Result.DONE if complete else Result.PARTIAL
        case Queued(is_told=is_told):
            return Result.STORED if is_told else Result.PENDING
        case Parted():
            return Result.REFUSED
        case (
            ManyHeld() | QueueAnswered() | Completed() | Recovered() | PageFound() | Locked() | LockRenewed()
        ):
            return Result.DONE
        case _:
            assert_never(outcome)


def _served(stated: Collection[type[Notice]]) -> Result:
    """What came of a read that has loaded nothing by itself."""
    if StaleServed in stated:
        return Result.STALE
    return Result.SHARED if LoadShared in stated or Waited in stated or Missed in stated else Result.HIT
