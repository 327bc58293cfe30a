"""The store of a world: who may put what there, and what is judged of a request by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sansio_cache.cell import Cell, Kind
from sansio_cache.entry import Servable, examine, seal
from sansio_cache.exploring.configuration import (
    EARLY,
    FORGERS,
    HARD_TTL_MS,
    KEY,
    LONG_AGO,
    NOW_MS,
    SIGNED,
    STALE_AT_LAST,
    Act,
    Configuration,
    Deed,
    Fault,
    Start,
)
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.search import explore
from sansio_cache.exploring.storing import forged, served
from sansio_cache.memory_store import Kept, MemoryStore

SIGNED_COUNTER = (Act(Deed.COUNT, is_signed=True),)
SIGNED_READ = Act(Deed.LOAD, is_signed=True)
COUNTER = (Act(Deed.COUNT),)


def explored(*processes, **rest):
    alone = tuple((program,) for program in processes)
    return explore(Configuration(name="small", processes=alone, **rest))


def test_what_a_forger_stores_is_no_value_to_who_asks_for_a_signature():
    body = seal(KEY, SIGNED, SIGNED.encode(7).payload, 0.0, (), LONG_AGO, HARD_TTL_MS)
    stored = ((KEY, Kept(Cell(Kind.VALUE, filled_by=LONG_AGO, body=body), NOW_MS + 1)),)
    assert served(stored, SIGNED_READ).version == 7
    taken = forged(stored)
    [(_, kept)] = taken
    assert kept.cell.filled_by == FORGERS
    assert served(taken, SIGNED_READ) is None
    assert not isinstance(examine(kept.cell, KEY, SIGNED, NOW_MS), Servable)


def test_signed_entries_are_counted_and_a_forgery_ends_that():
    faults = {Fault.FORGERY: 1, Fault.DUPLICATE: 1}
    found = explored(SIGNED_COUNTER, SIGNED_COUNTER, starts=(Start.FRESH,), is_reduced=False, faults=faults)
    assert found.counterexample is None
    assert found.is_closed
    assert found.fired[Fault.FORGERY] > 0
    assert found.fired[Fault.DUPLICATE] > 0


class SwapsAgain(MemoryStore):
    """A swap under an id that was used is done once more."""

    def _swap(self, swap, now_ms):
        version = super()._swap(swap, now_ms)
        if version is None and swap.fill_id:
            body = seal(KEY, SIGNED, SIGNED.encode(9).payload, 0.0, (), swap.fill_id, HARD_TTL_MS)
            cell = Cell(Kind.VALUE, filled_by=swap.fill_id, body=body)
            self._keep(swap.key, cell, now_ms + HARD_TTL_MS)
            return swap.fill_id
        return version


def test_an_id_under_which_two_values_are_swapped_is_seen():
    found = explored(
        SIGNED_COUNTER,
        (Act(Deed.INVALIDATE, is_signed=True),),
        starts=(Start.FRESH,),
        is_reduced=False,
        faults={Fault.DUPLICATE: 1},
        store=SwapsAgain,
        invariants=frozenset({Invariant.S2}),
    )
    assert found.counterexample.invariant is Invariant.S2


def test_a_loader_that_makes_a_counter_anew_knows_what_was_acknowledged():
    reader = (Act(Deed.LOAD),)
    faults = {Fault.GONE: 1}
    found = explored(
        COUNTER,
        reader,
        policy=EARLY,
        starts=(Start.FRESH,),
        faults=faults,
        invariants=frozenset({Invariant.EXACT}),
    )
    assert found.counterexample is None
    assert found.is_closed


class TouchesForEver(MemoryStore):
    def _touch(self, touch, now_ms):
        return super()._touch(replace(touch, max_life_ms=10 * touch.max_life_ms), now_ms)


@pytest.mark.parametrize("policy", [STALE_AT_LAST, EARLY])
def test_a_touch_lengthens_a_life_up_to_its_end(policy):
    touching = ((Act(Deed.TOUCH),), (Act(Deed.SET),))
    faults = {Fault.DUPLICATE: 2}
    found = explored(*touching, policy=policy, faults=faults, invariants=frozenset({Invariant.TOO_LONG}))
    assert found.is_closed
    assert found.counterexample is None
    wrong = explored(*touching, policy=policy, store=TouchesForEver)
    assert wrong.counterexample.invariant is Invariant.TOO_LONG
