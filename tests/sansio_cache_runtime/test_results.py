"""Results: what a call gives, or raises, for what came of its operation."""

import pytest

from sansio_cache.errors import CacheConnectionError, CacheTimeoutError, ConfigurationError
from sansio_cache.events import FailureKind, FillResult
from sansio_cache.step import (
    Abandoned,
    Completed,
    Loaded,
    ManyInvalidated,
    ManyLoaded,
    ManyRead,
    ManyStored,
    Missing,
    NotAMapping,
    PatternRemoved,
    Raised,
    TookTooLong,
    Unavailable,
    Value,
)
from sansio_cache_runtime import results
from sansio_cache_runtime.results import InvalidateResult, PatternResult

FAILURES = [
    (NotAMapping("list"), ConfigurationError, "mapping of keys to values; got list"),
    (TookTooLong(2.5), CacheTimeoutError, "after 2.5 s"),
    (Unavailable(None), CacheConnectionError, "is not asked until it does"),
    (Unavailable(FailureKind.TIMEOUT), CacheTimeoutError, "did not answer in time"),
    (Unavailable(FailureKind.CONNECTION), CacheConnectionError, "the store failed"),
]


@pytest.mark.parametrize(("outcome", "error", "text"), FAILURES)
@pytest.mark.parametrize(
    "of",
    [lambda outcome: results.read(outcome, 0), results.loaded, lambda outcome: results.found("k", outcome)],
    ids=["read", "loaded", "found"],
)
def test_a_failure_that_the_caller_asks_to_be_told_of_is_raised(of, outcome, error, text):
    with pytest.raises(error, match=text):
        of(outcome)


def test_a_reader_gives_the_value_or_the_default():
    assert results.read(Value(None), 7) is None
    assert results.read(Missing(), 7) == 7
    assert results.read(Abandoned(), 7) == 7


def test_a_loading_reader_gives_what_was_there_or_was_loaded_or_the_loader_s_error():
    error = LookupError("mine")
    assert results.loaded(Value(1)) == 1
    assert results.loaded(Loaded(2, None, True)) == 2
    with pytest.raises(LookupError) as raised:
        results.loaded(Raised(error))
    assert raised.value is error
    with pytest.raises(AssertionError, match="Missing does not end a load"):
        results.loaded(Missing())


def test_readers_of_many_give_what_there_is_by_the_caller_s_names():
    values = (Value(1), Missing(), Value(None))
    assert results.found(("a", "b", "c"), ManyRead(values)) == {"a": 1, "c": None}
    assert results.found(("a", "b", "c"), ManyLoaded(values)) == {"a": 1, "c": None}
    assert results.found((), ManyRead(())) == {}
    with pytest.raises(LookupError):
        results.found(("a",), Raised(LookupError("mine")))


def test_writers_say_of_each_whether_it_was_stored():
    given = ManyStored((FillResult.STORED, FillResult.REFUSED, None))
    assert results.stored(("a", "b", "c"), given) == {"a": True, "b": False, "c": False}


def test_an_invalidation_counts_what_the_store_was_told_of_and_raises_where_it_is_to():
    outcome = ManyInvalidated(("a", "b"), ("c",))
    assert results.invalidated(outcome, raises=False) == InvalidateResult(2, 1)
    assert results.invalidated(ManyInvalidated(("a",), ()), raises=True) == InvalidateResult(1, 0)
    with pytest.raises(CacheConnectionError, match="told of 1 of 3 invalidations"):
        results.invalidated(outcome, raises=True)


def test_an_invalidation_that_raises_says_why():
    cause = OSError("refused")
    outcome = ManyInvalidated((), ("c",), "h:1 refuses connections", cause)
    with pytest.raises(CacheConnectionError, match="when it is back: h:1 refuses connections") as raised:
        results.invalidated(outcome, raises=True)
    assert raised.value.__cause__ is cause


def test_a_deletion_by_pattern_says_how_far_it_came():
    assert results.removed(PatternRemoved(5, 3, False)) == PatternResult(3, False, 5)


@pytest.mark.parametrize("outcome", [Completed(), Abandoned()])
def test_a_store_that_is_ready_is_no_news(outcome):
    assert results.ready(outcome, 5.0) is None


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (FailureKind.TIMEOUT, CacheTimeoutError, "did not answer within 5 s"),
        (FailureKind.CONNECTION, CacheConnectionError, r"within 5 s \(connection\): check the URL"),
    ],
)
def test_a_store_that_is_not_ready_is_said_to_be_silent_or_not_to_serve(kind, error, text):
    with pytest.raises(error, match=text):
        results.ready(Unavailable(kind), 5.0)
