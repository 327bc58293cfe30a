"""Telling: every notice has its sentence, and none can hold a value."""

import enum
import types
from typing import Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache import notices
from sansio_cache.describe import describe
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.keys import ONE_PART
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
    OperationName,
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

KINDS = get_args(Notice)


SENTENCES = [
    (Began(OperationName.GET_OR_LOAD, "k", 1, ONE_PART, 7), "get_or_load began"),
    (SwapRefused("k"), "not stored: the entry was not the one that was to be replaced, or not fresh"),
    (Touched("k"), "let live longer"),
    (Hit("k"), "hit"),
    (StaleServed("k"), "served stale"),
    (Missed("k", MissReason.ABSENT), "missed: absent"),
    (Missed("k", MissReason.KEY_CHECK), "missed: key check"),
    (EntryForeign("k", "x"), "the entry was stored for another key, and copied or moved to this one"),
    (RepliesCrossed("k"), "a reply may have been another command's: the connections are closed"),
    (
        InvalidationRefused(("k",), FailureKind.PERMISSION),
        "the store refuses to remove 1 key (permission): pending",
    ),
    (WriteQueued("k"), "queued, to be written to the database"),
    (WritesApplied(("k",), 0, 0.002), "wrote 1 key to the database in 2 ms"),
    (
        WritesApplied(("k", "l"), 3, 0.002),
        "wrote 2 keys to the database in 2 ms, 3 older writes of them left out",
    ),
    (WriterFailed("q", 1, ""), "what is queued for 1 key cannot be read here: tried again, or given up"),
    (WriterFailed("q", 2, "KeyError"), "the writer raised KeyError for 2 keys: tried again, or given up"),
    (WriteDead("k", "poison"), "given up, and kept as a dead letter: poison"),
    (PartitionTaken("q"), "took the lease of a partition"),
    (PartitionMeasured("q", 0, 0.0, 5.0), "looked at a partition: nothing is queued there"),
    (PartitionMeasured("q", 3, 2.0, 5.0), "looked at a partition: 3 queued, the oldest for 2.0 s"),
    (PartitionLost("q"), "lost the lease of a partition, or gave it to another consumer"),
    (Waited("k", 0.012), "waited 12 ms for another's load"),
    (LoadShared("k"), "answered with the load of another caller in this process"),
    (RefreshStarted("k", True), "a refresh began in the background, before the value expired"),
    (RefreshStarted("k", False), "a refresh began in the background"),
    (RefreshFailed("k", "KeyError"), "a refresh in the background failed: the loader raised KeyError"),
    (RefreshSkipped("k"), "a refresh was skipped, as too many are under way"),
    (
        RefreshSkipped("k", SkipReason.REBOUND, "id"),
        "a refresh was skipped: id, which its loader names, is bound to something else by now",
    ),
    (VariantStored("k"), "another version's entry cannot be read: this one stores a variant of it"),
    (Unasked(1), "the loader gave values for 1 key that it was not asked for: dropped"),
    (Loaded("k", True, 0.0034), "loaded in 3.4 ms under a lease"),
    (Loaded("k", False, 2.25), "loaded in 2.2 s without a lease, not to be stored"),
    (LoadFailed("k", True, "KeyError"), "the loader raised KeyError"),
    (Stored("k"), "stored"),
    (FillRefused("k"), "not stored: the lease was voided by an invalidation, or lost"),
    (Outlived("k"), "not stored: the loader says that it has nothing left to live"),
    (Unstorable("k", "set"), "not stored: a value of class set would not come back equal"),
    (Unstorable("k", "set", "value is a set"), "not stored: value is a set"),
    (LeaseLost("k"), "the lease was found to be lost when it was to be renewed"),
    (LeaseOutgrown("k"), "the lease is renewed no longer: it has had its longest time"),
    (StoreErrored(FailureKind.TIMEOUT), "the store failed (timeout)"),
    (StoreGaveUp(FailureKind.OUT_OF_MEMORY), "went on without the store (out of memory)"),
    (StoreAnswered(), "the store serves again"),
    (RemovalBegan(("a",)), "is to remove 1 key"),
    (Invalidated(("a",)), "removed 1 key on request"),
    (Invalidated(()), "removed 0 keys on request"),
    (SoftExpired(("a", "b")), "made 2 keys stale on request"),
    (PatternProgressed("shop:user:*", 5, 3), "found 5 keys so far, and removed 3"),
    (InvalidationFailed(("a", "b")), "could not remove 2 keys: pending until the store can be told"),
    (PatternDeleted("shop:user:*", 3), "removed 3 keys that matched shop:user:*"),
    (Ended(OperationName.GET_OR_LOAD, 0.000_04), "get_or_load took 0.04 ms"),
    (
        Ended(OperationName.GET_OR_LOAD, 0.1, Result.ABANDONED),
        "get_or_load was interrupted after 100 ms",
    ),
    (
        StoreAsked("ReadCell", ("GET",), 0.002, ONE_PART),
        "the store was asked (ReadCell) and answered after 2 ms",
    ),
    (
        StoreAsked("ReadCell", ("GET",), 0.25, ONE_PART, FailureKind.TIMEOUT),
        "the store was asked (ReadCell) and failed (timeout) after 250 ms",
    ),
    (StoreChanged(ONE_PART, 3), "another store answers than before, and is told again of 3 recent writes"),
]


@pytest.mark.parametrize(("notice", "sentence"), SENTENCES)
def test_a_notice_is_told_in_a_sentence(notice, sentence):
    assert describe(notice) == sentence


def test_each_notice_has_a_sentence_here():
    assert {type(notice) for notice, _ in SENTENCES} == set(KINDS)


def members(hint):
    """The plain types that a field may have."""
    if get_origin(hint) in (types.UnionType, Union, tuple):
        return [each for part in get_args(hint) if part is not Ellipsis for each in members(part)]
    return [hint]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_notice_can_hold_a_value(kind):
    """Subscribers and stories may be logged: names, numbers and reasons are all that there is to see."""
    for name, hint in get_type_hints(kind).items():
        if name == "version":  # a grant of the store, and nothing of the value
            assert hint is bytes
            continue
        for each in members(hint):
            assert each in (str, int, float, bool, types.NoneType) or issubclass(each, enum.Enum), each


any_notice = st.one_of(
    st.builds(kind, *[st.from_type(hint) for hint in get_type_hints(kind).values()]) for kind in KINDS
)


@settings(deadline=None)
@given(any_notice)
def test_every_notice_is_told_whatever_it_holds(notice):
    assert describe(notice)


def test_every_notice_of_the_module_is_one_of_the_union():
    stated = {
        each
        for each in vars(notices).values()
        if isinstance(each, type) and each.__module__ == notices.__name__ and not issubclass(each, enum.Enum)
    }
    assert stated == set(KINDS)
