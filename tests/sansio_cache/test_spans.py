"""Spans: what an operation is about, and what came of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind, FillResult
from sansio_cache.exploring.configuration import TIMEOUTS
from sansio_cache.keys import KeyBuilder, entity_of
from sansio_cache.notices import (
    Began,
    Ended,
    Hit,
    Loaded,
    LoadShared,
    Missed,
    OperationName,
    Result,
    StaleServed,
    Stored,
    Waited,
)
from sansio_cache.operations.batch import LoadManyRequest, nothing_to_load
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate, void
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.refresh import RefreshAcquiring
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.spans import Subject, result_of, subject_of
from sansio_cache.step import (
    Abandoned,
    Completed,
    ManyFound,
    ManyHeld,
    ManyInvalidated,
    ManyLoaded,
    ManyRead,
    ManyStored,
    Missing,
    NotAMapping,
    Parted,
    PatternRemoved,
    Queued,
    Raised,
    Recovered,
    Step,
    TookTooLong,
    Unavailable,
    Value,
    evolve,
)
from sansio_cache.step import Loaded as LoadedOutcome
from support.machines import INTS, load_request

KEYS = ("shop:user:1", "shop:user:2")
NONCE = b"8 bytes."
READ = ReadRequest(KEYS[0], INTS, TIMEOUTS, 0.0)
MANY = ReadManyRequest(KEYS, INTS, 10, TIMEOUTS, 0.0)
LOAD = load_request(name=KEYS[0])
ITEMS = (Item(KEYS[0], INTS, b"1", 1000, 0),)
SET = SetRequest(OperationName.SET, ITEMS, NONCE, 300, 10, TIMEOUTS, 0.0)
GONE = InvalidateRequest(OperationName.INVALIDATE, KEYS, 10, TIMEOUTS, 0.0)
BLOCK = MutateRequest(KEYS, NONCE, 300, 10.0, TIMEOUTS, 0.0)
END = EndRequest(KEYS, (NONCE, NONCE), ITEMS, TIMEOUTS, 0.0)
PATTERN = PatternRequest(KeyBuilder("shop"), "shop:user:*", 10, TIMEOUTS, 0.0)
FOUND = SimpleNamespace(cell=SimpleNamespace(filled_by=NONCE))
REFRESH = RefreshAcquiring(evolve(LOAD, in_background=True), 1, FOUND, LOAD.budget(0.0)).ask()
OUT = MissReason.STORE_ERROR


@pytest.mark.parametrize(
    ("step", "operation", "keys"),
    [
        (get(READ), OperationName.GET, KEYS[:1]),
        (get(READ, skip=OUT), OperationName.GET, KEYS[:1]),
        (get_many(MANY), OperationName.GET_MANY, KEYS),
        (get_many(MANY, skip=OUT), OperationName.GET_MANY, KEYS),
        (get_or_load(LOAD), OperationName.GET_OR_LOAD, KEYS[:1]),
        (get_or_load(LOAD, skip=OUT), OperationName.GET_OR_LOAD, KEYS[:1]),
        (load_many(LoadManyRequest(KEYS, KEYS, 10, LOAD)), OperationName.GET_OR_LOAD_MANY, KEYS),
        (load_many(LoadManyRequest(KEYS, KEYS, 10, LOAD), skip=OUT), OperationName.GET_OR_LOAD_MANY, KEYS),
        (nothing_to_load(), OperationName.GET_OR_LOAD_MANY, ()),
        (set_many(SET), OperationName.SET, KEYS[:1]),
        (set_many(SET, skip=OUT), OperationName.SET, KEYS[:1]),
        (invalidate(GONE), OperationName.INVALIDATE, KEYS),
        (invalidate(GONE, skip=OUT), OperationName.INVALIDATE, KEYS),
        (begin(BLOCK), OperationName.MUTATE, KEYS),
        (begin(BLOCK, skip=OUT), OperationName.MUTATE, ()),
        (delete_pattern(PATTERN), OperationName.DELETE_PATTERN, ("shop:user:*",)),
        (delete_pattern(PATTERN, skip=True), OperationName.DELETE_PATTERN, ("shop:user:*",)),
        (REFRESH, OperationName.REFRESH, KEYS[:1]),
    ],
)
def test_what_an_operation_is_about_is_told_by_its_first_step(step, operation, keys):
    assert subject_of(step) == Subject(operation, keys)


@pytest.mark.parametrize("step", [end(END), end(evolve(END, items=())), end(END, skip=OUT)])
def test_the_end_of_a_mutation_is_no_operation_of_its_own(step):
    assert subject_of(step) is None


@pytest.mark.parametrize("step", [void(KEYS, TIMEOUTS, 0.0), Step(None, outcome=Completed())])
def test_what_no_user_has_begun_is_about_nothing(step):
    assert subject_of(step) is None


@pytest.mark.parametrize(
    ("outcome", "stated", "result"),
    [
        (Value(1), {Hit, Ended}, Result.HIT),
        (Value(1), {StaleServed}, Result.STALE),
        (Value(1), {Missed, Waited}, Result.SHARED),
        (Value(1), {Missed, Waited, LoadShared}, Result.SHARED),
        (LoadedOutcome(1, b"1", True), {Missed, Loaded, Stored}, Result.LOADED),
        (Raised(LookupError()), {Missed}, Result.FAILED),
        (NotAMapping("list"), {Missed}, Result.FAILED),
        (Missing(), {Missed}, Result.MISSING),
        (Missing(), {Hit}, Result.HIT),
        (Unavailable(FailureKind.TIMEOUT), {Missed}, Result.UNAVAILABLE),
        (TookTooLong(1.0), {Missed}, Result.TIMED_OUT),
        (Abandoned(), {Missed}, Result.ABANDONED),
        (ManyFound((7,)), {Hit}, Result.HIT),
        (ManyRead(()), {Hit}, Result.HIT),
        (ManyRead(()), {Hit, Missed}, Result.PARTIAL),
        (ManyRead(()), {Missed}, Result.MISSING),
        (ManyLoaded(()), {Hit}, Result.HIT),
        (ManyLoaded(()), {Hit, Missed, Loaded}, Result.LOADED),
        (ManyLoaded(()), {Hit, Missed, Waited}, Result.SHARED),
        (ManyLoaded(()), {Hit, StaleServed}, Result.STALE),
        (ManyStored((FillResult.STORED,)), {Stored}, Result.STORED),
        (ManyStored((FillResult.STORED, FillResult.REFUSED)), {Stored}, Result.REFUSED),
        (ManyStored((FillResult.STORED, None)), {Stored}, Result.PENDING),
        (ManyInvalidated(KEYS, ()), set(), Result.DONE),
        (ManyInvalidated((), KEYS), set(), Result.PENDING),
        (PatternRemoved(3, 3, True), set(), Result.DONE),
        (PatternRemoved(3, 2, False), set(), Result.PARTIAL),
        (ManyHeld(None, None), set(), Result.DONE),
        (Completed(), set(), Result.DONE),
        (Recovered(), set(), Result.DONE),
    ],
)
def test_what_came_of_an_operation_is_told_by_its_outcome_and_its_notices(outcome, stated, result):
    assert result_of(outcome, stated) is result


@pytest.mark.parametrize(
    ("key", "entity"),
    [
        ("shop:user:1", "user"),
        ("shop:user:list:0f", "user"),
        ("shop:user%20page:1", "user%20page"),
        ("shop:top", "top"),
        ("shop:%t:users", ""),
        ("shop:", ""),
        ("no key", ""),
    ],
)
def test_the_entity_of_a_key_is_its_part_after_the_namespace(key, entity):
    assert entity_of(key) == entity
    assert Began(OperationName.GET, key, 1, "", 1).entity == entity
    assert Ended(OperationName.GET, 0.0, key=key).entity == entity


def test_queued_writes_are_about_their_keys_and_are_stored_pending_or_refused():
    items = tuple(QueuedItem(key, b"body") for key in ("n:a", "n:b"))
    writing = enqueue(EnqueueRequest("n:%w:q", items, (), b"-nonce--", 0, 60_000, 9, 1, 1.0, TIMEOUTS, 0.0))
    assert subject_of(writing) == Subject(OperationName.ENQUEUE, ("n:a", "n:b"))
    again = replay(ReplayRequest("n:%w:q", 1, "n:a", (), b"-nonce--", TIMEOUTS, 0.0))
    assert subject_of(again) == Subject(OperationName.ENQUEUE, ("n:a",))
    results = [result_of(outcome, ()) for outcome in (Queued((1,)), Queued((1,), is_told=False), Parted(2))]
    assert results == [Result.STORED, Result.PENDING, Result.REFUSED]
