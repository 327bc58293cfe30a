"""The exhaustive explorer: no interleaving of the shipped machines breaks an invariant.

How it works is told in the docstring of `sansio_cache.exploring`. The quick configurations run every time,
the larger ones (some minutes) with `SANSIO_CACHE_NIGHTLY=1` in the environment. All of it runs without
coverage: what covers the explorer is `tests/sansio_cache/exploring`. All of the configurations are closed:
the search ends because there is no world left, not because it was stopped. With `-v` the counterexamples of
the wrong protocols are printed move by move.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import attrs
import pytest

from explorations.configurations import (
    BATCH,
    DUPLICATES,
    GETTER,
    INVALIDATOR,
    LIMITS,
    LOSSES,
    MUTATOR_WITH_VALUE,
    NIGHTLY,
    QUICK,
    RAISING,
    READER,
    REVERSED_BATCH,
    SETTER,
    SHARING_TIMEOUTS,
    STALE,
    TAG_INVALIDATOR,
    TAGGED_READER,
    TEXT_READER,
    TIME,
    TWICE_READER,
    Case,
    any_number,
)
from explorations.plugin import CAUGHT, EXPLORED, explored
from explorations.variants import VARIANTS, Variant
from sansio_cache.cell import GRANT_BYTES, NONCE_BYTES
from sansio_cache.commands import AcquireLease, DeleteKeys, HoldCells, Mode
from sansio_cache.coordinator import Coordinator
from sansio_cache.events import HoldsTaken, LeaseGranted
from sansio_cache.exploring.configuration import WARM, Configuration, Fault, floor_after, trusted
from sansio_cache.exploring.glancing import Kinds
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.moves import Moves
from sansio_cache.exploring.process import Floor
from sansio_cache.exploring.search import explore
from sansio_cache.exploring.world import World
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.add import add
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import invalidate
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.operations.mutate import begin, end
from sansio_cache.operations.set_many import set_many
from sansio_cache.operations.update import update
from support.nightly import IS_NIGHTLY


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Whatever measures coverage looks away: under its eyes the search takes seven times as long.

    The explorer is covered by `tests/sansio_cache/exploring`, the machines by tests of their own.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


def _named(cases):
    return [pytest.param(case, id=case.configuration.name) for case in cases]


@pytest.mark.parametrize("case", _named(QUICK + NIGHTLY if IS_NIGHTLY else QUICK))
def test_no_interleaving_breaks_an_invariant(case: Case):
    """S1 to S7, S13, B2, L1 and L2, under faults 1, 2, 3, 6, 8, 10, 11, 12, 16, 28, 33 and 42."""
    configuration = case.configuration
    assert configuration.store is MemoryStore
    assert configuration.coordinator is Coordinator
    assert configuration.request is LoadRequest
    assert configuration.load is get_or_load
    assert configuration.load_batch is load_many
    assert configuration.remove is invalidate
    assert configuration.store_values is set_many
    assert configuration.store_new is add
    assert configuration.count is update
    assert configuration.begin_mutation is begin
    assert configuration.end_mutation is end
    assert configuration.floor_us is floor_after
    assert configuration.trusted is trusted
    assert configuration.glances in (None, Kinds())

    timed = explored(configuration)
    EXPLORED.append(timed)
    found = timed.exploration

    assert found.counterexample is None, f"\n{found.counterexample}"
    assert found.is_closed
    assert found.states >= case.at_least
    assert {fault for fault in configuration.faults if not found.fired[fault]} == set()


SMALL = tuple(case for case in QUICK if case.at_least <= 350 and not case.configuration.probes)


@pytest.mark.parametrize("case", _named(QUICK + NIGHTLY if IS_NIGHTLY else SMALL))
def test_reads_that_look_first_lead_to_the_same_worlds(case: Case):
    """A glance before the machine adds nothing, and leaves nothing out: there are as many worlds."""
    plain = explore(case.configuration)
    glancing = explore(attrs.evolve(case.configuration, glances=Kinds()))

    assert glancing.counterexample is None, f"\n{glancing.counterexample}"
    assert glancing.is_closed
    assert glancing.states == plain.states
    assert glancing.fired == plain.fired


@pytest.mark.parametrize("variant", [pytest.param(each, id=each.configuration.name) for each in VARIANTS])
def test_a_wrong_protocol_is_caught(variant: Variant):
    """The negative controls: the invariant that a known mistake breaks is seen to break."""
    found = explored(variant.configuration).exploration
    CAUGHT.append((found, variant.breaks))

    assert found.counterexample is not None
    print(found.counterexample)
    assert found.counterexample.invariant is variant.breaks
    assert found.counterexample.length > 0


def test_every_invariant_is_seen_to_break():
    """No check is without a wrong protocol that it catches."""
    assert {variant.breaks for variant in VARIANTS} == set(Invariant)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, id=each.configuration.name)
        for each in VARIANTS
        # Ids that are signed cannot be renamed.
        if each.configuration.store is MemoryStore
        and not any(act.is_signed for act in each.configuration.acts)
    ],
)
def test_a_wrong_machine_is_caught_as_soon_among_renamed_worlds(variant: Variant):
    """Renaming, pruning and symmetry hide no mistake: the shortest counterexample is as long."""
    plain = explore(variant.configuration).counterexample
    reduced = explore(attrs.evolve(variant.configuration, is_reduced=True)).counterexample

    assert plain is not None
    assert reduced is not None
    assert reduced.invariant is plain.invariant
    assert reduced.length == plain.length


@pytest.mark.parametrize("limit", [pytest.param(each, id=each.name) for each in LIMITS])
def test_the_promise_ends_where_the_documentation_says(limit: Configuration):
    """A limit that is documented is real; if it ever is not, the documentation is to be changed."""
    found = explore(limit).counterexample

    assert found is not None
    assert found.invariant in limit.invariants


# The reductions.


def _reachable(moves: Moves, form) -> set[World]:
    """All worlds, each in the form that stands for it."""
    frontier = [form(root) for _, root in moves.roots()]
    seen = set(frontier)
    while frontier:
        following = []
        for world in frontier:
            for _, after, broken in moves.of(world):
                assert broken is None
                after = form(after)
                if after not in seen:
                    seen.add(after)
                    following.append(after)
        frontier = following
    return seen


REDUCED = (
    Configuration(
        name="2 readers, 1 invalidates",
        processes=((READER,), (READER,), (INVALIDATOR,)),
        faults=TIME | {Fault.DUPLICATE: 1},
    ),
    Configuration(
        name="1 reader, 1 mutates",
        processes=((READER,), (MUTATOR_WITH_VALUE,)),
        faults=TIME | {Fault.DUPLICATE: 1, Fault.REPLY_LOST: 1, Fault.INTERRUPTION: 1},
    ),
    Configuration(
        name="2 readers in 1 process, 1 invalidates",
        processes=((READER, READER), (INVALIDATOR,)),
        faults=SHARING_TIMEOUTS | {Fault.DUPLICATE: 1},
    ),
    Configuration(
        name="1 reader with a tag, 1 gets, 1 invalidates it",
        processes=((TAGGED_READER,), (GETTER,), (TAG_INVALIDATOR,)),
        starts=WARM,
        faults=any_number(Fault.GONE) | {Fault.DUPLICATE: 1, Fault.REPLY_LOST: 1},
    ),
    Configuration(
        name="1 reads twice, served stale at once, 1 invalidates",
        processes=((TWICE_READER,), (INVALIDATOR,)),
        **STALE,
        faults=any_number(Fault.GONE) | RAISING | {Fault.DUPLICATE: 1},
    ),
    Configuration(
        name="2 versions of a program, 1 reads twice, 1 invalidates",
        processes=((TWICE_READER,), (TEXT_READER,), (INVALIDATOR,)),
        faults={Fault.GONE: 1, Fault.DUPLICATE: 1},
    ),
    Configuration(
        name="2 batches, 1 invalidates",
        processes=((BATCH,), (REVERSED_BATCH,), (INVALIDATOR,)),
        faults={Fault.GONE: 1, Fault.DUPLICATE: 1},
    ),
)


@pytest.mark.parametrize("configuration", [pytest.param(each, id=each.name) for each in REDUCED])
def test_renamed_worlds_stand_for_all_worlds(configuration: Configuration):
    """Whether worlds are renamed at every step or only at the end, the same ones are reached."""
    moves = Moves(configuration)
    stepwise = _reachable(moves, moves.canonical)
    plain = _reachable(moves, lambda world: world)

    assert len(plain) > len(stepwise) > 1_000
    assert {moves.canonical(world) for world in plain} == stepwise


def test_a_renaming_that_forgets_too_much_is_noticed():
    """The negative control of the test above: here worlds forget which requests may still arrive."""
    moves = Moves(REDUCED[0])
    nothing = moves.roots()[0][1].past

    def forgetful(world: World) -> World:
        return moves.canonical(world._replace(past=nothing))

    stepwise = _reachable(moves, forgetful)
    plain = _reachable(moves, lambda world: world)

    assert stepwise < {forgetful(world) for world in plain}


EAGER = (
    Configuration(
        name="2 readers, 1 invalidates",
        processes=((READER,), (READER,), (INVALIDATOR,)),
        faults=TIME,
    ),
    Configuration(
        name="1 reader, 1 sets",
        processes=((READER,), (SETTER,)),
        faults=TIME | {Fault.REPLY_LOST: 1, Fault.INTERRUPTION: 1},
    ),
    Configuration(
        name="2 readers in 1 process, 1 invalidates",
        processes=((READER, READER), (INVALIDATOR,)),
        faults=TIME | SHARING_TIMEOUTS,
    ),
    Configuration(
        name="2 readers with a tag, 1 invalidates it",
        processes=((TAGGED_READER,), (TAGGED_READER,), (TAG_INVALIDATOR,)),
        faults=any_number(Fault.GONE),
    ),
    Configuration(
        name="2 readers, served stale at once, 1 invalidates",
        processes=((READER,), (READER,), (INVALIDATOR,)),
        **STALE,
        faults=any_number(Fault.GONE) | RAISING,
    ),
    Configuration(
        name="1 batch, 1 reader, 1 invalidates",
        processes=((BATCH,), (READER,), (INVALIDATOR,)),
        faults=any_number(Fault.GONE),
    ),
)


def _endings(configuration: Configuration) -> tuple[int, set[tuple[object, Floor, Floor]]]:
    """How many worlds there are; and of those where all have ended, the stores, versions and floors."""
    moves = Moves(configuration)
    worlds = _reachable(moves, moves.canonical)
    stores = moves.tables.names.stores.objects
    ended = [world for world in worlds if moves.has_ended(world)]
    return len(worlds), {(stores[world.store], world.version, world.floor) for world in ended}


@pytest.mark.parametrize("configuration", [pytest.param(each, id=each.name) for each in EAGER])
def test_what_happens_at_once_hides_no_ending(configuration: Configuration):
    """With every reply, pause and beginning as a move of its own, the same endings are reached."""
    eager, endings = _endings(configuration)
    patient, all_endings = _endings(attrs.evolve(configuration, is_eager=False))

    assert patient > 1.5 * eager
    assert len(endings) > 1
    assert endings == all_endings


def test_a_fault_that_cannot_strike_is_seen_in_the_counts():
    """So a configuration that names a fault is known to have met it: here nobody shares a load."""
    found = explore(
        Configuration(name="1 reader", processes=((READER,),), faults=LOSSES | DUPLICATES | SHARING_TIMEOUTS)
    )

    assert found.is_closed
    assert found.fired[Fault.REPLY_LOST] > 0
    assert found.fired[Fault.DUPLICATE] > 0
    assert found.fired[Fault.SHARING_TIMEOUT] == 0


def test_the_memory_store_never_issues_an_id_twice():
    """S3, on which renaming rests: ids differ whatever the clock does, also if it stands or goes back."""
    clock_s = 1_000.0
    store = MemoryStore(clock=lambda: clock_s)
    nonce = bytes(range(NONCE_BYTES))
    issued = []
    for step_s in (0.0, 0.0, 0.000_001, -500.0, 0.0, 600.0, 0.0, -1.0, 1.0):
        clock_s += step_s
        for _ in range(3):
            granted = store.perform(AcquireLease("k", nonce, 1_000, bytes(GRANT_BYTES), Mode.KEEP, 1.0))
            assert isinstance(granted, LeaseGranted)
            store.perform(DeleteKeys(("k",), 1.0))
            held = store.perform(HoldCells(("k",), nonce, 1_000, 1.0))
            assert isinstance(held, HoldsTaken)
            store.perform(DeleteKeys(("k",), 1.0))
            issued += [granted.grant, *held.grants]

    assert len(set(issued)) == len(issued) == 54
    assert sorted(issued) == issued
