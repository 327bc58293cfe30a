"""The exhaustive explorer of locks: no interleaving gives one to two, or a token that does not go up.

How it works is told in the docstring of `explorations.locking`. The quick configurations run every time, the
larger ones with `SANSIO_CACHE_NIGHTLY=1`. All are closed: the search ends as no world is left.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from explorations.locking import Broken, LockConfiguration, explore_lock
from explorations.locks import LIMITS, NIGHTLY, QUICK, VARIANTS, Case, Variant
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.lock import take
from sansio_cache_runtime.held_lock import HeldLock
from support.nightly import IS_NIGHTLY


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Whatever measures coverage looks away, and so does the collector of garbage."""
    trace, was_enabled = sys.gettrace(), gc.isenabled()
    sys.settrace(None)
    gc.disable()
    yield
    sys.settrace(trace)
    if was_enabled:
        gc.enable()


def _named(cases):
    return [pytest.param(each, id=each.configuration.name) for each in cases]


@pytest.mark.parametrize("case", _named(QUICK + NIGHTLY if IS_NIGHTLY else QUICK))
def test_no_interleaving_gives_a_lock_to_two_or_a_token_that_does_not_go_up(case: Case) -> None:
    """Under faults 1, 2, 3, 10, 22 (back) and 28, while time passes."""
    configuration = case.configuration
    assert configuration.store is MemoryStore
    assert configuration.begin is take
    assert configuration.held is HeldLock
    assert configuration.is_fenced

    found = explore_lock(configuration)

    assert found.broken is None, "\n".join(found.moves)
    assert found.states >= case.at_least
    assert {fault for fault in configuration.faults if not found.fired[fault]} == set()


@pytest.mark.parametrize("variant", _named(VARIANTS))
def test_a_wrong_lock_is_caught(variant: Variant) -> None:
    """The negative controls: what a known mistake breaks is seen to break."""
    found = explore_lock(variant.configuration)

    print("\n".join(found.moves))
    assert found.broken is variant.breaks
    assert found.moves


@pytest.mark.parametrize("limit", _named(LIMITS))
def test_what_a_lock_can_promise_ends_where_the_documentation_says(limit: Variant) -> None:
    """A limit that is documented is real; if it ever is not, the documentation is to be changed."""
    found = explore_lock(limit.configuration)

    print("\n".join(found.moves))
    assert found.broken is limit.breaks


def test_everything_that_must_hold_is_seen_to_break() -> None:
    assert {variant.breaks for variant in (*VARIANTS, *LIMITS)} == set(Broken)


def test_one_alone_takes_it_and_gives_it_back() -> None:
    found = explore_lock(LockConfiguration(name="1 takes it", workers=1))
    assert found.broken is None
    assert found.states < 20
