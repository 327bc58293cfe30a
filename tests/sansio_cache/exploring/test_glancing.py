"""Glances in the explorer: a read looks first where it may, and else its machine goes on."""

from __future__ import annotations

import pytest

from sansio_cache.cell import Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell, ReadCells, ShareLoad
from sansio_cache.entry import MissReason, seal
from sansio_cache.events import CellRead, CellsRead
from sansio_cache.exploring import EARLY, PLAIN, Act, Configuration, Deed
from sansio_cache.exploring.configuration import CODEC, KEYS, LONG_AGO, NOW_MS, NOW_S, TAG
from sansio_cache.exploring.glancing import Glancing, Kinds
from sansio_cache.exploring.naming import mentions, nonce_of
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.notices import Ended, Hit, OperationName
from sansio_cache.step import ManyFound, Value

NONCE = nonce_of(0, 1)


def begun(act, *, may_glance=True, skip=None, **options):
    configuration = Configuration(name="", processes=(((act,),),), **options)
    return configuration.read(act, NONCE, skip, frozenset(), may_glance=may_glance)


def stored(key=KEYS[0], codec: Codec = CODEC, tags=()):
    return Cell(Kind.VALUE, filled_by=LONG_AGO, body=seal(key, codec, codec.encode(7).payload, 0.0, tags))


@pytest.mark.parametrize(
    ("act", "operation"),
    [
        (Act(Deed.GET), OperationName.GET),
        (Act(Deed.LOAD), OperationName.GET_OR_LOAD),
        (Act(Deed.LOAD, tagged=True), OperationName.GET_OR_LOAD),
    ],
)
def test_a_read_looks_first_and_says_what_its_machine_would(act, operation):
    versions = (LONG_AGO,) if act.tagged else ()
    event = CellRead(NOW_S, stored(tags=((TAG, LONG_AGO),) if act.tagged else ()), NOW_MS, versions)
    step, plain = begun(act, glances=Kinds()), begun(act)
    assert isinstance(step.state, Glancing)
    assert isinstance(step.state.glance, Glance)
    assert step.command == plain.command
    assert isinstance(step.command, ReadCell)
    found = step.state.receive(event)
    assert found == plain.state.receive(event)
    assert found.outcome == Value(7)
    assert found.notices == (Hit(KEYS[0]), Ended(operation, 0.0))


def test_a_batch_looks_first():
    act = Act(Deed.LOAD_MANY, (0, 1))
    step, plain = begun(act, glances=Kinds()), begun(act)
    assert isinstance(step.state, Glancing)
    assert isinstance(step.state.glance, GlanceMany)
    assert step.command == plain.command
    assert isinstance(step.command, ReadCells)
    found = step.state.receive(CellsRead(NOW_S, tuple(map(stored, KEYS)), NOW_MS))
    assert found.outcome == ManyFound((7, 7))
    assert found.notices[:2] == (Hit(KEYS[0]), Hit(KEYS[1]))
    assert set(mentions(step)) == {NONCE}, "the checks of keys look like ids, and are none"


def test_where_that_is_not_enough_the_machine_goes_on():
    act = Act(Deed.LOAD)
    event = CellRead(NOW_S, None, NOW_MS)
    missed = begun(act, glances=Kinds()).state.receive(event)
    assert missed == begun(act).state.receive(event)
    assert isinstance(missed.command, ShareLoad)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"glances": Kinds(), "may_glance": False},
        {"glances": Kinds(), "may_glance": False, "skip": MissReason.BYPASSED},
        {"glances": Kinds(), "policy": EARLY},
    ],
)
def test_where_it_may_not_the_machine_begins(options):
    assert not isinstance(begun(Act(Deed.LOAD), **options).state, Glancing)


def test_who_never_refreshes_looks_first_under_any_policy():
    assert isinstance(begun(Act(Deed.GET), glances=Kinds(), policy=EARLY).state, Glancing)
    assert isinstance(begun(Act(Deed.LOAD_MANY), glances=Kinds(), policy=EARLY).state, Glancing)
    assert isinstance(begun(Act(Deed.LOAD), glances=Kinds(), policy=PLAIN).state, Glancing)
