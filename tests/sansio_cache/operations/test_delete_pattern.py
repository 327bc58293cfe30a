"""Delete by pattern: page by page, within the namespace, honest about where it broke off."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.commands import DeleteKeys, ScanKeys
from sansio_cache.events import FailureKind, Interrupted, KeysDeleted, KeysFound, StoreFailed
from sansio_cache.keys import KeyBuilder
from sansio_cache.notices import (
    Ended,
    OperationName,
    PatternDeleted,
    PatternProgressed,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.step import Abandoned, PatternRemoved
from support.machines import TIMEOUTS, Script

PATTERN = "shop:user:*"


def begun(*, dry_run=False, **options):
    request = PatternRequest(KeyBuilder("shop"), PATTERN, 500, TIMEOUTS, 1.0, dry_run)
    return Script(delete_pattern(request, **options))


def test_pages_are_scanned_and_removed_in_turn_to_the_end():
    script = begun()
    assert script.command == ScanKeys(PATTERN, 0, 500, 0.25)
    script.give(KeysFound(1.0, 17, ("shop:user:1", "shop:user:2")))
    assert script.command == DeleteKeys(("shop:user:1", "shop:user:2"), 0.25)
    script.give(KeysDeleted(1.0, 2))
    assert script.command == ScanKeys(PATTERN, 17, 500, 0.25)
    script.give(KeysFound(1.0, 0, ("shop:user:3",)), KeysDeleted(2.0, 1))
    assert script.outcome == PatternRemoved(3, 3, complete=True)
    assert script.notices == [
        PatternProgressed(PATTERN, 2, 2),
        PatternProgressed(PATTERN, 3, 3),
        PatternDeleted(PATTERN, 3),
        Ended(OperationName.DELETE_PATTERN, 1.0),
    ]


def test_keys_that_are_gone_by_the_time_they_are_removed_have_matched_and_were_not_removed():
    script = begun().give(KeysFound(1.0, 0, ("shop:user:1", "shop:user:2")), KeysDeleted(1.0, 1))
    assert script.outcome == PatternRemoved(2, 1, complete=True)


def test_a_dry_run_counts_page_by_page_and_removes_nothing():
    script = begun(dry_run=True).give(KeysFound(1.0, 9, ("shop:user:1", "shop:user:2", "shop:%t:a")))
    assert script.command == ScanKeys(PATTERN, 9, 500, 0.25)
    script.give(KeysFound(2.0, 0, ("shop:user:3",)))
    assert script.outcome == PatternRemoved(3, 0, complete=True)
    assert script.notices == [
        PatternProgressed(PATTERN, 2, 0),
        PatternProgressed(PATTERN, 3, 0),
        Ended(OperationName.DELETE_PATTERN, 1.0),
    ]


def test_a_dry_run_that_breaks_off_says_so():
    script = begun(dry_run=True).give(KeysFound(1.0, 9, ("shop:user:1",)))
    script.give(StoreFailed(2.0, FailureKind.TIMEOUT))
    assert script.outcome == PatternRemoved(1, 0, complete=False)
    assert not any(isinstance(each, PatternDeleted) for each in script.notices)


def test_an_empty_page_is_not_the_end_and_a_key_found_twice_is_removed_once():
    script = begun().give(KeysFound(1.0, 9, ()))
    assert script.command == ScanKeys(PATTERN, 9, 500, 0.25)
    script.give(KeysFound(1.0, 0, ("shop:user:1", "shop:user:1")))
    assert script.command == DeleteKeys(("shop:user:1",), 0.25)


def test_a_scan_that_finds_nothing_is_complete():
    assert begun().give(KeysFound(1.0, 0, ())).outcome == PatternRemoved(0, 0, complete=True)


def test_keys_outside_the_namespace_and_internal_keys_are_left_alone():
    """S11."""
    found = ("shops:user:1", "shop", "shop:%t:a", "shop:%g:a", "shop:%w:a", "shop:user:1")
    script = begun().give(KeysFound(1.0, 0, found))
    assert script.command == DeleteKeys(("shop:user:1",), 0.25)


@settings(deadline=None)
@given(st.lists(st.text(max_size=8) | st.text(max_size=5).map("shop:{}".format)))
def test_whatever_the_store_finds_only_keys_of_the_namespace_are_removed(found):
    """S11."""
    script = begun().give(KeysFound(1.0, 0, tuple(found)))
    if script.command is not None:
        keys = KeyBuilder("shop")
        assert all(key.startswith("shop:") and not keys.is_internal(key) for key in script.command.keys)


def test_scan_and_removal_are_retried_within_budgets_of_their_own():
    script = begun().give(StoreFailed(1.0, FailureKind.CONNECTION))
    assert script.command == ScanKeys(PATTERN, 0, 500, 0.25)
    script.give(KeysFound(9.0, 0, ("shop:user:1",)), StoreFailed(9.0, FailureKind.CONNECTION))
    assert script.command == DeleteKeys(("shop:user:1",), 0.25)
    assert script.give(KeysDeleted(9.0, 1)).outcome == PatternRemoved(1, 1, complete=True)


def test_a_scan_that_breaks_off_says_what_it_removed_and_that_it_is_incomplete():
    script = begun().give(
        KeysFound(1.0, 17, ("shop:user:1",)), KeysDeleted(1.0, 1), StoreFailed(2.0, FailureKind.TIMEOUT)
    )
    assert script.outcome == PatternRemoved(1, 1, complete=False)
    assert script.notices == [
        PatternProgressed(PATTERN, 1, 1),
        StoreErrored(FailureKind.TIMEOUT),
        StoreGaveUp(FailureKind.TIMEOUT),
        PatternDeleted(PATTERN, 1),
        Ended(OperationName.DELETE_PATTERN, 1.0),
    ]


def test_a_removal_that_breaks_off_is_incomplete():
    script = begun().give(KeysFound(1.0, 0, ("shop:user:1",)), StoreFailed(1.0, FailureKind.WRITES_REFUSED))
    assert script.outcome == PatternRemoved(1, 0, complete=False)


def test_interrupted_it_ends_at_once():
    assert begun().give(Interrupted(1.0)).outcome == Abandoned()
    script = begun().give(KeysFound(1.0, 0, ("shop:user:1",)), Interrupted(1.0))
    assert script.outcome == Abandoned()


def test_a_disabled_cache_removes_nothing():
    script = begun(skip=True)
    assert script.command is None
    assert script.outcome == PatternRemoved(0, 0, complete=True)
