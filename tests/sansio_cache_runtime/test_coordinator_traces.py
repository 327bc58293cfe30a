"""Both drivers, and the explorer's, ask the same of the coordinator: so what is explored is what runs.

Each script is played on threads, asyncio and trio, and in the explorer. What is compared, and which
differences are left out of it by name, is in `support/traces.py`. Seeded faults in the coordinator are caught
by the same scripts, wherever they are played.
"""

import pytest

from explorations.mistakes import (
    JoiningCoordinator,
    LateCoordinator,
    SingleFlightThatEndsTheNewest,
    SingleFlightThatKeepsItsLoad,
    coordinator_with,
)
from sansio_cache.coordinator import Coordinator
from support.traces import (
    EVERYONE,
    RUNTIMES,
    STORE,
    UNUSED_TICKETS,
    on_explorer,
    played,
)

# Scripts.


async def a_miss(stage):
    await stage.reads("one")
    await stage.loads("one")
    await stage.returns("one")
    await stage.ends("one")


async def a_hit(stage):
    await a_miss(stage)
    stage.coordinator.trace.forget()
    await stage.reads("two")
    await stage.ends("two")


async def a_leader_with_a_follower(stage):
    await stage.reads("leader")
    await stage.reads("follower")
    await stage.returns("leader")
    await stage.ends("leader", "follower")


async def a_loader_that_raises(stage):
    await stage.reads("one")
    await stage.raises("one")
    await stage.ends("one")


async def a_loader_that_raises_while_somebody_follows(stage):
    """Who came when it was at work loads for itself."""
    await stage.reads("leader")
    await stage.reads("follower")
    await stage.raises("leader")
    await stage.loads("follower")
    await stage.returns("follower")
    await stage.ends("leader", "follower")


async def a_leader_that_is_interrupted(stage):
    await stage.reads("leader")
    await stage.reads("follower")
    await stage.interrupts("leader")
    await stage.loads("follower")
    await stage.returns("follower")
    await stage.ends("leader", "follower")


async def stale_hits(stage):
    """The first has it refreshed; the second leaves it to that."""
    await a_miss(stage)
    await stage.expires()
    await stage.reads("first")
    await stage.ends("first")
    await stage.loads("first")
    await stage.reads("second")
    await stage.ends("second")
    await stage.returns("first")


async def a_refresh_that_fails(stage):
    """Then it rests, and the next reader begins none."""
    await a_miss(stage)
    await stage.expires()
    await stage.reads("first")
    await stage.ends("first")
    await stage.loads("first")
    await stage.raises("first")
    await stage.rests()
    await stage.reads("second")
    await stage.ends("second")


async def an_invalidation_that_is_refused(stage):
    await stage.invalidates_in_vain()


async def two_keys_at_once(stage):
    await stage.reads("first", 1)
    await stage.reads("last")
    await stage.returns("first")
    await stage.ends("first")
    await stage.returns("last")
    await stage.ends("last")


SCRIPTS = (
    a_miss,
    a_hit,
    a_leader_with_a_follower,
    a_loader_that_raises,
    a_loader_that_raises_while_somebody_follows,
    a_leader_that_is_interrupted,
    stale_hits,
    a_refresh_that_fails,
    an_invalidation_that_is_refused,
    two_keys_at_once,
)


def resting(script):
    """The script, and what it has left in the background."""

    async def play(stage):
        await script(stage)
        await stage.rests()

    return play


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_driver_asks_what_the_explorers_does(script, runtime, monkeypatch):
    explored = on_explorer(resting(script))
    driven = played(runtime, resting(script), Coordinator, monkeypatch)
    assert driven.trace.lanes == explored.trace.lanes
    assert explored.is_empty
    assert driven.is_empty
    assert explored.trace.excused <= {UNUSED_TICKETS}
    assert not driven.trace.excused


def test_a_hit_asks_nothing():
    assert on_explorer(a_hit).trace.lanes == {}


def test_a_miss_asks_this():
    """The trace has what matters in it."""
    [calls] = on_explorer(a_miss).trace.lanes.values()
    assert calls == [
        ("share", "LoadLed", 1),
        ("observe", 1, ("LoadAcquiring", "AcquireLease", None), None),
        ("observe", 1, ("LoadComputing", "Compute", None), None),
        ("observe", 1, ("LoadFilling", "FillCells", None), None),
        ("observe", 1, ("Over", None, "Loaded"), 1),
        ("give_up", (), False),
    ]


def test_every_call_occurs_in_some_script():
    calls = {
        call[0]
        for script in SCRIPTS
        for lane in on_explorer(resting(script)).trace.lanes.values()
        for call in lane
    }
    assert calls == {
        "share",
        "leave",
        "begin",
        "observe",
        "give_up",
        "heed",
        "begin_recovery",
        "next_recovery",
    }
    assert STORE in on_explorer(an_invalidation_that_is_refused).trace.lanes


# Known-wrong coordinators, each of which must be caught wherever it is driven.

LEFT, DIFFERS, WAITS = "something is left", "the calls differ", "somebody waits in vain"
SEEDED = {
    "SpawnThatJoins": (JoiningCoordinator, stale_hits, LEFT),
    "FollowerThatIsNotTold": (LateCoordinator, a_leader_with_a_follower, DIFFERS),
    "LeaderThatLeavesItsLoad": (
        coordinator_with(SingleFlightThatKeepsItsLoad),
        a_leader_that_is_interrupted,
        WAITS,
    ),
    "TicketThatEndsAnothersLoad": (
        coordinator_with(SingleFlightThatEndsTheNewest),
        two_keys_at_once,
        DIFFERS,
    ),
}


def caught(place, script, make, monkeypatch):
    """What is wrong with a coordinator, as far as a script shows it."""
    monkeypatch.setattr("support.traces.PATIENCE_S", 1.0)  # a follower that nobody wakes is given so long
    found = set()
    try:
        driven = played(place, resting(script), make, monkeypatch)
        if not driven.is_empty:
            found.add(LEFT)
        if driven.trace.lanes != on_explorer(resting(script)).trace.lanes:
            found.add(DIFFERS)
    except* TimeoutError:
        found.add(WAITS)
    return found


@pytest.mark.parametrize("place", EVERYONE)
@pytest.mark.parametrize("fault", SEEDED)
def test_a_wrong_coordinator_is_caught(fault, place, monkeypatch):
    wrong, script, way = SEEDED[fault]
    assert way in caught(place, script, wrong, monkeypatch)
