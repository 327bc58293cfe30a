"""Describe: each notice as a plain sentence, for those who want to know what a call has done.

A sentence may name a key or a pattern, never a value: notices hold none. There is one `case` for each
member of `Notice`, and no other: a new one breaks type checking here until it has its sentence.
"""

from __future__ import annotations

from typing import assert_never

from sansio_cache.notices import (
    Began,
    Ended,
    EntryForeign,
    FillRefused,
    Hit,
    Invalidated,
    InvalidationFailed,
    InvalidationRefused,
    LeaseLost,
    LeaseOutgrown,
    Loaded,
    LoadFailed,
    LoadShared,
    Missed,
    Notice,
    Outlived,
    PartitionLost,
    PartitionMeasured,
    PartitionTaken,
    PatternDeleted,
    PatternProgressed,
    RefreshFailed,
    RefreshSkipped,
    RefreshStarted,
    RemovalBegan,
    RepliesCrossed,
    Result,
    SkipReason,
    SoftExpired,
    StaleServed,
    StoreAnswered,
    StoreAsked,
    StoreChanged,
    Stored,
    StoreErrored,
    StoreGaveUp,
    SwapRefused,
    Touched,
    Unasked,
    Unstorable,
    VariantStored,
    Waited,
    WriteDead,
    WriteQueued,
    WriterFailed,
    WritesApplied,
)


def describe(notice: Notice) -> str:  # noqa: C901 - one case for each notice is the point
    """What happened, in a few words and without a full stop."""
    match notice:
        case Began(operation=operation):
            return f"{operation} began"
        case Hit():
            return "hit"
        case StaleServed():
            return "served stale"
        case Missed(reason=reason):
            return f"missed: {_words(reason)}"
        case EntryForeign():
            return "the entry was stored for another key, and copied or moved to this one"
        case RepliesCrossed():
            return "a reply may have been another command's: the connections are closed"
        case Waited(waited_s=waited_s):
            return f"waited {_span(waited_s)} for another's load"
        case LoadShared():
            return "answered with the load of another caller in this process"
        case RefreshStarted(early=early):
            return (
                "a refresh began in the background, before the value expired"
                if early
                else ("a refresh began in the background")
            )
        case RefreshFailed(error=error):
            return f"a refresh in the background failed: the loader raised {error}"
        case RefreshSkipped(reason=SkipReason.REBOUND, name=name):
            return f"a refresh was skipped: {name}, which its loader names, is bound to something else by now"
        case RefreshSkipped():
            return "a refresh was skipped, as too many are under way"
        case VariantStored():
            return "another version's entry cannot be read: this one stores a variant of it"
        case Unasked(count=count):
            return f"the loader gave values for {_keys(count)} that it was not asked for: dropped"
        case Loaded(leased=True, took_s=took_s):
            return f"loaded in {_span(took_s)} under a lease"
        case Loaded(took_s=took_s):
            return f"loaded in {_span(took_s)} without a lease, not to be stored"
        case LoadFailed(error=error):
            return f"the loader raised {error}"
        case Stored():
            return "stored"
        case FillRefused():
            return "not stored: the lease was voided by an invalidation, or lost"
        case SwapRefused():
            return "not stored: the entry was not the one that was to be replaced, or not fresh"
        case Touched():
            return "let live longer"
        case Unstorable(why=why) if why:
            return f"not stored: {why}"
        case Unstorable(kind=kind):
            return f"not stored: a value of class {kind} would not come back equal"
        case Outlived():
            return "not stored: the loader says that it has nothing left to live"
        case LeaseLost():
            return "the lease was found to be lost when it was to be renewed"
        case LeaseOutgrown():
            return "the lease is renewed no longer: it has had its longest time"
        case StoreErrored(kind=kind):
            return f"the store failed ({_words(kind)})"
        case StoreGaveUp(kind=kind):
            return f"went on without the store ({_words(kind)})"
        case StoreAnswered():
            return "the store serves again"
        case StoreAsked(command=command, took_s=took_s, failure=failure):
            came = "answered" if failure is None else f"failed ({_words(failure)})"
            return f"the store was asked ({command}) and {came} after {_span(took_s)}"
        case StoreChanged(told=told):
            return f"another store answers than before, and is told again of {told} recent writes"
        case RemovalBegan(keys=keys):
            return f"is to remove {_keys(len(keys))}"
        case Invalidated(keys=keys):
            return f"removed {_keys(len(keys))} on request"
        case SoftExpired(keys=keys):
            return f"made {_keys(len(keys))} stale on request"
        case InvalidationFailed(keys=keys):
            return f"could not remove {_keys(len(keys))}: pending until the store can be told"
        case InvalidationRefused(keys=keys, kind=kind):
            return f"the store refuses to remove {_keys(len(keys))} ({_words(kind)}): pending"
        case PatternProgressed(matched=matched, deleted=deleted):
            return f"found {_keys(matched)} so far, and removed {deleted}"
        case PatternDeleted(pattern=pattern, count=count):
            return f"removed {_keys(count)} that matched {pattern}"
        case WriteQueued():
            return "queued, to be written to the database"
        case WritesApplied(keys=keys, coalesced=coalesced, took_s=took_s):
            left_out = f", {coalesced} older writes of them left out" if coalesced else ""
            return f"wrote {_keys(len(keys))} to the database in {_span(took_s)}{left_out}"
        case WriterFailed(count=count, error=""):
            return f"what is queued for {_keys(count)} cannot be read here: tried again, or given up"
        case WriterFailed(count=count, error=error):
            return f"the writer raised {error} for {_keys(count)}: tried again, or given up"
        case WriteDead(reason=reason):
            return f"given up, and kept as a dead letter: {reason}"
        case PartitionTaken():
            return "took the lease of a partition"
        case PartitionMeasured(backlog=0):
            return "looked at a partition: nothing is queued there"
        case PartitionMeasured(backlog=backlog, oldest_s=oldest_s):
            return f"looked at a partition: {backlog} queued, the oldest for {_span(oldest_s)}"
        case PartitionLost():
            return "lost the lease of a partition, or gave it to another consumer"
        case Ended(operation=operation, took_s=took_s, result=Result.ABANDONED):
            return f"{operation} was interrupted after {_span(took_s)}"
        case Ended(operation=operation, took_s=took_s):
            return f"{operation} took {_span(took_s)}"
        case _:
            assert_never(notice)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _span(took_s: float) -> str:
    if took_s >= 1:
        return f"{took_s:.1f} s"
    took_ms = took_s * 1000
    return f"{took_ms:.0f} ms" if took_ms >= 10 else f"{took_ms:.2g} ms"


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"
