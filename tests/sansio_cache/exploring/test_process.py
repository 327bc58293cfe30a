"""A process as a value: what is left of nobody is seen, and what does not matter is left out."""

from __future__ import annotations

import pytest

from sansio_cache.commands import ShareLoad, Sleep
from sansio_cache.coordinator import Coordinator
from sansio_cache.events import FailureKind
from sansio_cache.exploring.configuration import KEY, NOW_S, TIMEOUTS, Act, Deed
from sansio_cache.exploring.process import Stage, Worker, ended_early, frozen, left_behind, renamed_tickets
from sansio_cache.notices import InvalidationFailed, StoreGaveUp
from sansio_cache.step import OVER, Abandoned, Step, ended

ACTS = (Act(Deed.LOAD),)
READY = Worker(ACTS)
RUNNING = Worker(ACTS, Stage.RUNNING)
DONE = Worker((), Stage.DONE)
SHARE = ShareLoad(KEY, bytes(8), None, 30.0)


@pytest.fixture
def coordinator():
    return Coordinator()


@pytest.fixture
def led(coordinator):
    """One load, led under ticket 0 and followed under ticket 1."""
    coordinator.share(0, SHARE)
    coordinator.share(1, SHARE)
    return coordinator


@pytest.mark.parametrize(
    ("workers", "what"),
    [
        ([RUNNING, RUNNING], None),
        ([DONE, RUNNING], "nobody leads a load that is under way"),
        ([RUNNING, DONE], "a load is followed by nobody's operation"),
        ([RUNNING], "a load is followed by nobody's operation"),
    ],
)
def test_a_load_has_a_leader_and_every_place_in_it_a_follower(led, workers, what):
    assert left_behind(workers, led.snapshot()) == what


def test_a_follower_is_told_at_once(led):
    following = led.single_flight.snapshot().loads[0][1].followers[0][1]
    waiting = Worker(ACTS, Stage.RUNNING, following=following)
    assert left_behind([RUNNING, waiting], led.snapshot()) is None
    led.observe(ended(Abandoned(), load_id=1))
    assert left_behind([DONE, RUNNING], led.snapshot()) is None
    assert left_behind([DONE, waiting], led.snapshot()) == "a load has ended, and a follower was not told"


def test_whom_no_load_belongs_to_any_more_leads_none(coordinator):
    coordinator.share(0, SHARE)
    snapshot = coordinator.snapshot()
    coordinator.give_up(0)
    shared = coordinator.snapshot().single_flight
    assert left_behind([DONE], coordinator.snapshot()) is None
    stuck = type(snapshot)(type(shared)(led=((0, 1),)), ())
    assert left_behind([DONE], stuck) == "a load is led by an operation that is over"


def test_a_recovery_is_run_by_somebody(coordinator):
    coordinator.heed((StoreGaveUp(FailureKind.TIMEOUT), InvalidationFailed((KEY,))), NOW_S)
    assert coordinator.begin_recovery(1, TIMEOUTS, NOW_S) is not None
    assert left_behind([DONE, Worker((), Stage.RECOVERING)], coordinator.snapshot()) is None
    assert left_behind([DONE, DONE], coordinator.snapshot()) == "nobody runs a recovery that has begun"


def test_a_load_ends_no_sooner_than_its_leader(coordinator):
    coordinator.share(0, SHARE)
    leader = Worker(ACTS, Stage.RUNNING, Step(OVER, Sleep(0.1), load_id=1))
    assert ended_early([leader], coordinator.snapshot().single_flight) is None
    coordinator.give_up(0)
    assert ended_early([leader], coordinator.snapshot().single_flight) is not None
    assert ended_early([READY], coordinator.snapshot().single_flight) is None


def test_tickets_go_with_their_workers(led):
    led.heed((InvalidationFailed((KEY,)),), NOW_S)
    led.begin_recovery(2, TIMEOUTS, NOW_S)
    renamed = renamed_tickets(led.snapshot(), {0: 1, 1: 0, 2: 5})
    assert renamed.single_flight.led == ((1, 1),)
    assert [ticket for ticket, _ in renamed.single_flight.loads[0][1].followers] == [0]
    assert renamed.parts[0].recovering == 5
    assert renamed_tickets(renamed, {0: 1, 1: 0, 5: 2}) == led.snapshot()


def test_what_has_ended_in_the_background_is_left_out_and_recoveries_come_first():
    coordinator = Coordinator()
    coordinator.share(2, SHARE)
    refresh, recovery = Worker(ACTS, Stage.REFRESHING), Worker((), Stage.RECOVERING)
    process = frozen([READY, DONE, refresh, recovery], 1, coordinator.snapshot())
    assert process.workers == (READY, recovery, refresh)
    assert process.coordinator.single_flight.led == ((2, 1),)


def test_numbers_that_only_count_up_are_given_anew():
    first, second = Coordinator(), Coordinator()
    for _ in range(3):
        second.share(0, SHARE)
        second.give_up(0)
        second.heed((InvalidationFailed((KEY,)),), NOW_S)
    first.heed((InvalidationFailed((KEY,)),), NOW_S)
    for each in (first, second):
        each.share(0, SHARE)
    assert first.snapshot() != second.snapshot()
    processes = [frozen([RUNNING], 1, each.snapshot()) for each in (first, second)]
    assert processes[0] == processes[1]
    assert hash(processes[0]) == hash(processes[1])
