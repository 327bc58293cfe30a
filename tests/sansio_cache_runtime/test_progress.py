"""Progress: a deletion by pattern tells how many keys were removed, and a dry run how many were found."""

import pytest

from sansio_cache.budget import StoreTimeouts
from sansio_cache.events import FailureKind, KeysDeleted, KeysFound, StoreFailed
from sansio_cache.keys import KeyBuilder
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache_runtime.progress import reporting


def told(*events, dry_run=False):
    """What a caller hears as the store answers so."""
    heard = []
    keys = KeyBuilder("n")
    request = PatternRequest(keys, keys.pattern("user"), 2, StoreTimeouts(), 0.0, dry_run)
    step = reporting(delete_pattern(request), heard.append, dry_run=dry_run)
    for event in events:
        step = step.state.receive(event)
    return heard


FOUND = [KeysFound(0.0, 7, ("n:user:1", "n:user:2")), KeysFound(0.0, 0, ("n:user:3",))]


@pytest.mark.parametrize(("first", "second", "heard"), [(2, 1, [2, 3]), (0, 1, [0, 1]), (0, 0, [0, 0])])
def test_keys_that_were_gone_already_are_not_counted(first, second, heard):
    """Where another removes the same keys, one finds what is there no more."""
    assert told(FOUND[0], KeysDeleted(0.0, first), FOUND[1], KeysDeleted(0.0, second)) == heard


def test_what_could_not_be_removed_is_not_counted():
    failed = StoreFailed(0.0, FailureKind.PERMISSION)
    assert told(FOUND[0], KeysDeleted(0.0, 2), FOUND[1], failed) == [2]


def test_a_dry_run_counts_what_it_finds():
    assert told(*FOUND, dry_run=True) == [2, 3]
