"""What is judged of one worker, case by case."""

from __future__ import annotations

import pytest

from sansio_cache.commands import Fill, FillCells, Ping
from sansio_cache.entry import seal
from sansio_cache.exploring.configuration import CODEC, KEY, PLAIN, STALE_AT_ONCE, Act, Configuration, Deed
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.judging import judged_fill, judged_read
from sansio_cache.exploring.naming import grant_of
from sansio_cache.exploring.process import Worker
from sansio_cache.step import OVER, Loaded, ManyFound, ManyLoaded, Missing, Step, Value

READ = Act(Deed.LOAD)
READ_MANY = Act(Deed.LOAD_MANY, (0, 1))
GRANT = grant_of(b"worker01", 1)
VERSION = grant_of(b"worker02", 1)


def judged(act, outcome, floor, *, own=None, stale=(), policy=PLAIN):
    configuration = Configuration(name="", processes=(((act,),),), policy=policy)
    worker = Worker((act,), floor=floor, own_floor=own or floor, stale=stale)
    return [invariant for invariant, _ in judged_read(configuration, worker, outcome)]


@pytest.mark.parametrize(
    ("act", "version", "floor", "broken"),
    [
        (READ, 3, (3, 0, 0), []),
        (READ, 2, (3, 0, 0), [Invariant.S1_READ]),
        (READ, 2, (0, 0, 3), [Invariant.S1_READ]),  # expired softly, and not said to be stale
        (READ, 2, (0, 3, 0), []),  # it does not name the tag
        (Act(Deed.LOAD, tagged=True), 2, (0, 3, 0), [Invariant.S7_READ]),
        (Act(Deed.GET), 2, (0, 3, 0), [Invariant.S7_READ]),  # the entry does
    ],
)
def test_what_is_older_than_the_floor_is_not_to_be_returned(act, version, floor, broken):
    assert judged(act, Value(version), floor) == broken


def test_what_is_said_to_be_stale_may_be_older_than_a_soft_expiry():
    assert judged(READ, Value(2), (0, 0, 3), stale=(KEY,)) == []


def test_what_is_pending_binds_its_own_process():
    loaded = Loaded(2, b"2", accepted=True)
    assert judged(READ, loaded, (0, 0, 0), own=(3, 0, 0)) == [Invariant.S1_PENDING]
    assert judged(READ, loaded, (0, 0, 0), own=(0, 3, 0)) == []
    assert judged(Act(Deed.GET), loaded, (0, 0, 0), own=(0, 3, 0)) == [Invariant.S1_PENDING]


def test_a_batch_is_judged_key_by_key():
    outcome = ManyLoaded((Value(2), Missing()))
    assert judged(READ_MANY, outcome, (3, 3, 0, 0)) == [Invariant.S1_READ]
    assert judged(READ_MANY, outcome, (2, 3, 0, 3)) == [Invariant.S1_READ]
    # One that may serve stale values does not always say so.
    assert judged(READ_MANY, outcome, (2, 3, 0, 3), policy=STALE_AT_ONCE) == []


def test_nothing_returned_is_nothing_stale():
    assert judged(READ, Missing(), (3, 3, 3)) == []


def filling(*versions):
    body = seal(KEY, CODEC, CODEC.encode(7).payload, 0.0, tuple(("t:x", each) for each in versions))
    return Step(OVER, FillCells((Fill(KEY, GRANT, 1, 0, body),), 0.1))


@pytest.mark.parametrize(
    ("worker", "step", "broken"),
    [
        (Worker((READ,), looked_under=(GRANT, VERSION)), filling(VERSION), []),
        (Worker((READ,), looked_under=(VERSION,)), filling(VERSION), [Invariant.S4]),
        (Worker((READ,), looked_under=(GRANT,)), filling(VERSION), [Invariant.S7_LOAD]),
        (Worker((READ,), looked_under=(GRANT,), has_failed=True), filling(), [Invariant.S13]),
        (Worker((READ,)), Step(OVER, Ping(0.1)), []),
        (Worker((Act(Deed.SET),)), filling(), []),  # a writer has no load
    ],
)
def test_a_reader_stores_only_what_it_has_loaded_under_its_grant(worker, step, broken):
    assert [invariant for invariant, _ in judged_fill(worker, step)] == broken


def test_what_a_batch_has_found_at_the_first_look_is_judged_key_by_key():
    assert judged(READ_MANY, ManyFound((2, 3)), (3, 3, 0, 0)) == [Invariant.S1_READ]
    assert judged(READ_MANY, ManyFound((3, 3)), (3, 3, 0, 0)) == []
