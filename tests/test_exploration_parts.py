"""The explorer on a store of two parts, of which one is down and comes back, or goes down."""

import sys

import pytest

from explorations.configurations import BATCH
from explorations.parts import (
    PARTED_COORDINATOR,
    TRUSTING_COORDINATOR,
    Moving,
    Parted,
    PartedLater,
    SaysAllAreGone,
    WithSign,
)
from sansio_cache.exploring.configuration import UNLIMITED, WARM, Act, Deed, Fault
from sansio_cache.exploring.search import explore

INVALIDATES_BOTH = (Act(Deed.INVALIDATE, (0, 1)),)
INVALIDATES_SECOND = (Act(Deed.INVALIDATE, (1,)),)
READS_SECOND = (Act(Deed.LOAD, (1,)),)


@pytest.fixture(autouse=True)
def untraced():
    """As in `test_exploration.py`."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


def parted(name, *processes, store=Parted, coordinator=PARTED_COORDINATOR, **changes):
    fields = {"starts": WARM, "faults": {Fault.GONE: UNLIMITED}, "probes": True}
    return WithSign(
        name=name, processes=processes, store=store, coordinator=coordinator, **(fields | changes)
    )


CONFIGURATIONS = [
    parted("1 invalidates both, 1 reads both; a part is back", (INVALIDATES_BOTH,), (BATCH,)),
    parted(
        "1 invalidates both and 1 reads the second in 1 process; a part is back",
        (INVALIDATES_BOTH, READS_SECOND),
    ),
    parted(
        "1 invalidates both, 1 reads both; a part goes down", (INVALIDATES_BOTH,), (BATCH,), store=PartedLater
    ),
    parted("2 read both; a part is back", (BATCH,), (BATCH,)),
    parted(
        "1 reads, 1 invalidates; the owner changes",
        (READS_SECOND,),
        (INVALIDATES_SECOND,),
        store=Moving,
        faults={Fault.GONE: UNLIMITED, Fault.DUPLICATE: 1},
    ),
    parted(
        "1 reads both, 1 invalidates both; the owner changes", (BATCH,), (INVALIDATES_BOTH,), store=Moving
    ),
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda each: each.name)
def test_no_interleaving_breaks_an_invariant_where_a_part_is_down(configuration):
    found = explore(configuration)
    assert found.counterexample is None, f"\n{found.counterexample}"
    assert found.is_closed
    assert found.states > 30


def test_a_store_that_says_that_all_are_gone_is_caught():
    wrong = parted("says that all are gone", (INVALIDATES_BOTH,), (READS_SECOND,), store=SaysAllAreGone)
    assert explore(wrong).counterexample is not None


def test_a_coordinator_that_looks_for_pending_invalidations_in_one_part_is_caught():
    processes = ((*INVALIDATES_BOTH, *READS_SECOND), READS_SECOND)
    wrong = parted("trusts its part", processes, coordinator=TRUSTING_COORDINATOR)
    assert explore(wrong).counterexample is not None
