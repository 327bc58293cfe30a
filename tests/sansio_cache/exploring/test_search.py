"""The search: it closes, it counts, and what it finds is the shortest way there, told move by move."""

from __future__ import annotations

import attrs
import pytest

from explorations.configurations import (
    ADDER,
    ADDER_THEN_INVALIDATOR,
    ALL_BUT_LAST,
    ANYTHING,
    BATCH,
    COUNTER,
    CROSSED,
    DUPLICATES,
    EXPIRER,
    GETTER,
    IMPATIENCE,
    INTERRUPTIONS,
    INVALIDATOR,
    INVALIDATOR_OF_BOTH,
    LOSSES,
    MUTATOR_WITH_VALUE,
    OUTER,
    RAISING,
    READER,
    READER_WITHOUT_STORE,
    RESTARTS,
    REVERSED_BATCH,
    SECOND_READER,
    SETTER,
    SHARING_TIMEOUTS,
    STALE,
    TAG_INVALIDATOR,
    TAGGED_READER,
    TEXT_READER,
    TIME,
    TOUCHER,
    TWICE_READER,
    UPDATER,
    any_number,
)
from explorations.variants import VARIANTS
from sansio_cache.exploring import (
    EARLY,
    STALE_AT_LAST,
    WARM,
    Configuration,
    Fault,
    Start,
    explore,
)
from sansio_cache.exploring import search as search_module

SMALL = (
    Configuration(name="2 readers", processes=((READER,), (READER,)), loads=1, all_end=True),
    Configuration(name="anything", processes=((READER,), (INVALIDATOR,)), faults=ANYTHING),
    Configuration(name="loaders that need each other", processes=((OUTER, CROSSED),), all_end=True),
    Configuration(name="a loader alone that asks for more", processes=((OUTER,),), all_end=True),
    Configuration(
        name="a loader that asks for what another process loads",
        processes=((OUTER,), (SECOND_READER,)),
        all_end=True,
    ),
    Configuration(name="impatience", processes=((READER,), (READER,)), faults=IMPATIENCE),
    Configuration(
        name="2 readers in 1 process",
        processes=((READER, READER),),
        faults=SHARING_TIMEOUTS | RAISING | {Fault.INTERRUPTION: 1},
        all_end=True,
    ),
    Configuration(
        name="2 readers in 1 process, 1 without the store",
        processes=((READER, READER_WITHOUT_STORE),),
        faults={Fault.REQUEST_LOST: 1},
    ),
    Configuration(
        name="2 readers, each in 1 process, twice",
        processes=((READER, READER), (READER, READER)),
        loads=1,
    ),
    Configuration(
        name="1 reader and 1 who invalidates, whose invalidation may stay pending",
        processes=((TWICE_READER[:1], INVALIDATOR),),
        faults=LOSSES,
    ),
    Configuration(
        name="2 who invalidate, whose invalidations may stay pending",
        processes=((INVALIDATOR, INVALIDATOR),),
        faults={Fault.REQUEST_LOST: 5},
    ),
    Configuration(
        name="the breaker opens",
        processes=((TWICE_READER,), (INVALIDATOR,)),
        probes=True,
        faults=any_number(Fault.EXPIRY) | {Fault.REQUEST_LOST: 2},
        all_end=True,
    ),
    Configuration(
        name="1 mutates",
        processes=((MUTATOR_WITH_VALUE,),),
        renewals=True,
        faults=INTERRUPTIONS | LOSSES | DUPLICATES,
    ),
    Configuration(
        name="2 add", processes=((ADDER,), (ADDER_THEN_INVALIDATOR,)), most_owners=2, faults=LOSSES
    ),
    Configuration(
        name="2 count",
        processes=((COUNTER,), (COUNTER,)),
        starts=(Start.FRESH,),
        faults={Fault.REPLY_LOST: 1, Fault.DUPLICATE: 1},
        invariants=ALL_BUT_LAST,
    ),
    Configuration(
        name="1 updates, 1 touches", processes=((UPDATER,), (TOUCHER,)), starts=WARM, faults=DUPLICATES
    ),
    Configuration(name="1 sets", processes=((SETTER,), (INVALIDATOR,)), faults=LOSSES),
    Configuration(
        name="1 sets in the end", processes=((SETTER,), (GETTER,)), starts=WARM, sets_race=True, most_loads=0
    ),
    Configuration(
        name="a tag", processes=((TAGGED_READER,), (GETTER,), (TAG_INVALIDATOR,)), starts=WARM, faults=TIME
    ),
    Configuration(
        name="a stale value",
        processes=((READER, READER), (READER,)),
        **STALE,
        faults={Fault.RAISING: 1, Fault.CRASH: 1},
    ),
    Configuration(
        name="a soft expiry",
        processes=((READER,), (EXPIRER,)),
        policy=STALE_AT_LAST,
        starts=WARM,
        faults=TIME | RAISING,
    ),
    Configuration(name="2 versions, 1 expires", processes=((READER,), (TEXT_READER,), (EXPIRER,)), **STALE),
    Configuration(
        name="half a lease",
        processes=((READER,),),
        policy=EARLY,
        starts=(Start.ENDING,),
        renewals=True,
        faults=any_number(Fault.AGE),
    ),
    Configuration(
        name="2 batches",
        processes=((BATCH,), (REVERSED_BATCH,)),
        chunk=1,
        loads=2,
        renewals=True,
        all_end=True,
    ),
    Configuration(
        name="restarts",
        processes=((TAGGED_READER,), (TAG_INVALIDATOR,)),
        starts=WARM,
        faults=RESTARTS,
    ),
    Configuration(name="1 batch", processes=((BATCH,), (INVALIDATOR_OF_BOTH,)), faults=LOSSES | RAISING),
    Configuration(
        name="2 versions",
        processes=((TWICE_READER,), (TEXT_READER,)),
        faults={Fault.GONE: 1, Fault.DUPLICATE: 1},
    ),
)


@pytest.mark.parametrize("configuration", [pytest.param(each, id=each.name) for each in SMALL])
def test_a_small_configuration_closes(configuration):
    found = explore(configuration)
    assert found.counterexample is None, f"\n{found.counterexample}"
    assert found.is_closed
    assert found.name == configuration.name
    assert found.transitions >= found.states - len(configuration.starts)
    assert found.fired.keys() == configuration.faults.keys()


@pytest.mark.parametrize("configuration", [pytest.param(each, id=each.name) for each in SMALL[:3]])
def test_every_answer_may_be_a_move_of_its_own(configuration):
    patient = attrs.evolve(configuration, is_eager=False, faults={})
    found = explore(patient)
    assert found.is_closed
    assert found.states > explore(attrs.evolve(patient, is_eager=True)).states


WRONG = {
    each.configuration.name: each
    for each in VARIANTS
    if int(each.configuration.name.split()[0])
    in {
        1,
        4,
        5,
        6,
        7,
        9,
        10,
        12,
        13,
        14,
        15,
        16,
        18,
        19,
        20,
        22,
        24,
        29,
        30,
        31,
        32,
        34,
        35,
        36,
        37,
        38,
        40,
        51,
        52,
        53,
        56,
        68,
        70,
    }
}


@pytest.mark.parametrize("variant", [pytest.param(each, id=name) for name, each in WRONG.items()])
def test_the_shortest_way_to_a_broken_invariant_is_told(variant):
    found = explore(variant.configuration)
    counterexample = found.counterexample
    assert not found.is_closed
    assert counterexample is not None
    assert counterexample.invariant is variant.breaks
    assert counterexample.length == len(counterexample.moves) - 1 >= 1
    text = str(counterexample)
    assert text.startswith(variant.breaks.value)
    assert text.count("\n") == counterexample.length + 1


def test_a_counterexample_is_a_list_of_moves():
    variant = WRONG["20 a process that trusts the store with what is pending"]
    found = explore(variant.configuration)
    asks = "writer 1 asks DeleteKeys(n:a) * 1 request lost"
    moves = [
        "Each cell holds version 0.",
        "writer 1 commits version 1 -> will ask DeleteKeys(n:a)",
        f"{asks} -> will ask DeleteKeys(n:a)",
        f"{asks} -> waiting until the store is told what it missed",
        "reader 0 begins get_or_load, reads -> done",
    ]
    stored = "  [n:a: version 0 by long ago]"
    lines = [f"  {number}. {move}{stored if number else ''}" for number, move in enumerate(moves)]
    first = f"{variant.breaks.value} (version 0), after 4 moves:"
    assert str(found.counterexample).splitlines() == [first, *lines]


def test_the_search_forgets_what_only_saves_time(monkeypatch):
    configuration = SMALL[0]
    whole = explore(configuration)
    monkeypatch.setattr(search_module, "MOST_REMEMBERED", 1)
    assert explore(configuration) == whole
