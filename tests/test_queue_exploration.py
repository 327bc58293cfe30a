"""The exhaustive explorer of queues: no interleaving loses, overtakes, or hides an acknowledged write (S8).

How it works is told in the docstring of `sansio_cache.exploring.queueing`. The quick configurations run every
time, the larger ones with `SANSIO_CACHE_NIGHTLY=1`. All are closed: the search ends as no world is left.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

from explorations.queues import NIGHTLY, QUICK, VARIANTS, Variant
from sansio_cache.exploring.queue_world import Broken, QueueConfiguration
from sansio_cache.exploring.queueing import explore_queue
from sansio_cache.operations.consume import consume
from sansio_cache.queue_rules import Partition


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


IS_NIGHTLY = os.environ.get("SANSIO_CACHE_NIGHTLY") == "1"
CASES = QUICK + NIGHTLY if IS_NIGHTLY else QUICK


@pytest.mark.parametrize("configuration", [pytest.param(each, id=each.name) for each in CASES])
def test_no_interleaving_loses_a_write(configuration: QueueConfiguration) -> None:
    """S8, S1 and S6, under faults 1, 2, 3, 8, 10 and 12, and a writer that raises."""
    assert configuration.partition is Partition
    assert configuration.consume is consume
    assert configuration.invalidates
    assert configuration.heeds_kept
    assert not configuration.replays_unseen
    assert not configuration.looks_first
    assert not configuration.acknowledges_early

    found = explore_queue(configuration)

    assert found.broken is None, "\n".join(found.moves)
    assert found.states > 500
    assert {fault for fault in configuration.faults if not found.fired[fault]} == set()


@pytest.mark.parametrize("variant", [pytest.param(each, id=each.configuration.name) for each in VARIANTS])
def test_a_wrong_protocol_is_caught(variant: Variant) -> None:
    """The negative controls: what a known mistake breaks is seen to break."""
    found = explore_queue(variant.configuration)

    print("\n".join(found.moves))
    assert found.broken is variant.breaks
    assert found.moves


def test_everything_that_must_hold_is_seen_to_break() -> None:
    assert {variant.breaks for variant in VARIANTS} == set(Broken)
