"""The known mistakes in the simulator: which of them it catches, and by what."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import attrs

from explorations.variants import VARIANTS
from sansio_cache.exploring.configuration import Configuration
from sansio_cache.exploring.glancing import Kinds
from sansio_cache.exploring.simulating import Simulated, Simulation, simulate

_FIELDS: Final = (
    *(
        "store",
        "coordinator",
        "request",
        "load",
        "load_batch",
        "remove",
        "store_values",
        "store_new",
        "count",
    ),
    *("begin_mutation", "end_mutation", "glances", "compares"),
)


def _parts(configuration: Configuration) -> tuple[Any, ...]:
    return tuple(getattr(configuration, name) for name in _FIELDS)


PARTS: Final[Mapping[str, Configuration]] = {
    first.name: attrs.evolve(first, glances=first.glances or Kinds())
    for first in {_parts(each.configuration): each.configuration for each in reversed(VARIANTS)}.values()
}
"""Each wrong protocol once, by the name of the first variant that has it."""


def caught(name: str, *, seeds: int, operations: int = 1_500, a_round: int = 300) -> Simulated | None:
    """What is the first that is found to be broken, in runs of these seeds; None where nothing is."""
    simulation = Simulation(
        operations=operations,
        operations_a_round=a_round,
        machines=PARTS[name],
        queueing=None,
        must_fire=False,
    )
    for seed in range(1, seeds + 1):
        found = simulate(simulation, lambda seed=seed: random.Random(seed))  # type: ignore[misc]
        if found.broken is not None:
            return found
    return None


CAUGHT_SOON: Final = (
    "1 a fill is a plain SET",
    "2 a SET NX lock and a plain SET",
    "3 a lock that invalidation does not touch",
    "4 one grant id a process",
    "5 a client token, reused on retry",
    "7 a fill without owner check",
    "9 a mutation that takes a refused fill as done",
    "10 a set that is a lone SET",
    "13 an interrupted acquire that is not released",
    "14 a load begun before the grant's reply",
    "15 a fill that can be repeated",
    "16 an acquire that takes the lease from its holder",
    "17 a lease that never expires",
    "18 a loader's None that is not kept",
    "18 a loader's failure that is stored",
    "20 a process that trusts the store with what is pending",
    "21 a tag's version that the client chooses",
    "22 tags that are counters",
    "23 versions of tags captured at the fill",
    "24 a tag without a version that counts as unchanged",
    "27 a mutation that forgets its tags",
    "28 an early refresh that can never replace a fresh value",
    "29 a refresh while another is at it",
    "30 a refresh that the value does not outlive",
    "30 a renewal that the value does not outlive",
    "32 a batch that waits with grants in hand",
    "33 a variant of an entry that is not tied to it",
    "34 two versions of a program that replace each other's entries",
    "35 what is spawned joins a load",
    "36 followers that are not told, and wait for ever",
    "36 loaders that need each other, and wait for each other",
    "37 an interrupted leader that leaves its load",
    "38 a ticket given up late, which ends another's load",
    "38 a ticket given up twice, which ends another's load",
    "39 a process that does not keep what it could not invalidate",
    "40 a process that reads what it could not invalidate",
    "43 a mutation that does nothing in an outage",
    "43 a set that does nothing in an outage",
    "43 an invalidation that does nothing in an outage",
    "44 a mutation without a hold that ends in a fill, which arrives late",
    "46 a write-through that stores before its commit",
    "47 a write-aside that invalidates before its commit",
    "48 a write-through that fills although its hold was refused",
    "50 an add that is one step",
    "51 an add that takes what another has added",
    "52 a swap that does not look which value it replaces",
    "58 a glance at many that ignores the soft expiry",
    "58 a glance that ignores the soft expiry",
    "59 a glance at many that ignores the tags",
    "59 a glance that ignores the tags",
    "59 a glance that ignores the tags that are not named",
    "60 a glance that ignores what is pending",
    "61 grants that are random per attempt",
    "62 one grant for all attempts",
    "63 an empty cell without a grant",
    "64 a hold with fixed bytes",
    "65 a set in one trip",
)
"""Those that a few hundred operations show, in every run of the tests."""

TOLD_LATE: Final = "36 followers that are told late"
"""Nobody outside can see this one: they are told when the leader's ticket is given up, in the same moment."""
TAKES_LONGER: Final = (
    "6 a release without owner check",
    "8 a renewal without owner check",
    "11 a follower that takes an unaccepted value",
    "12 a follower that joins a read in flight",
    "19 a release that removes the old value",
    "31 a soft expiry that leaves a writer's hold in place",
    "31 a soft expiry that leaves the lease in place",
    "45 what was told at once, and in vain, taken for told",
    "55 a swap that captures the tags anew",
    "56 a touch that is a PEXPIRE, on a hold",
    "56 a touch that knows no longest life",
    "57 a touch that makes fresh again what was expired",
    "66 a fill by comparing that takes a change for its own value",
)
"""Those that some thousand operations show: for the night."""
EXPLORED_ONLY: Final = tuple(sorted(PARTS.keys() - {*CAUGHT_SOON, TOLD_LATE, *TAKES_LONGER}))
"""Those that need several faults at once in a rare order, which 24,000 operations did not have, or what the
simulator has not: forgers, and servers that come back with a snapshot. The explorer goes through all orders,
and catches each in every run of the tests."""
