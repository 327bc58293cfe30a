"""The explorer of queues: what it meets, and that it sees what breaks."""

import attrs
import pytest

from sansio_cache.exploring.queue_world import Broken, Fault, QueueConfiguration, Role
from sansio_cache.exploring.queueing import Search, explore_queue

WRITER, READER, CONSUMER, REPLAY = Role.WRITER, Role.READER, Role.CONSUMER, Role.REPLAY


def explored(*roles, **rest):
    return explore_queue(QueueConfiguration(name="small", roles=roles, **rest))


@pytest.mark.parametrize("fault", [each for each in Fault if each not in (Fault.DUPLICATE, Fault.GONE)])
def test_each_fault_strikes(fault):
    found = explored(CONSUMER, REPLAY, queued=1, faults={fault: 1})
    assert found.broken is None
    assert found.fired[fault]


def test_requests_come_late_and_keys_go():
    found = explored(WRITER, faults={Fault.DUPLICATE: 1, Fault.GONE: 1})
    assert found.broken is None
    assert found.fired[Fault.DUPLICATE]
    assert found.fired[Fault.GONE]


def test_readers_find_the_queued_value_or_the_databases():
    assert explored(READER, READER, queued=1).states > 10
    assert explored(READER, CONSUMER, queued=1, faults={Fault.REQUEST_LOST: 2}).broken is None


def test_two_writers_take_their_holds_from_each_other():
    assert explored(WRITER, WRITER).broken is None


def test_a_write_is_refused_by_a_database_that_is_ahead_and_queued_anew():
    search = Search(QueueConfiguration(name="small", roles=(CONSUMER,), queued=1))
    world = attrs.evolve(search.beginning(), token=2**60, version=9)
    seen = [world]
    for _ in range(20):
        seen += [after for _, after, _ in search.moves(seen[-1])][:1]
    assert seen[-1].version == 1
    assert seen[-1].token > 2**60
    assert all(each.broken is None for each in seen)


def test_what_is_acknowledged_too_early_is_seen():
    found = explored(WRITER, READER, READER, acknowledges_early=True)
    assert found.broken is Broken.READ
    assert found.moves[-1].startswith("reads")


def test_what_is_looked_for_too_early_is_seen():
    assert explored(WRITER, READER, READER, looks_first=True).broken is Broken.READ
    assert explored(READER, queued=1, looks_first=True).broken is None


def test_what_is_left_in_the_cache_is_seen():
    faults = {Fault.CRASH: 1}
    assert explored(WRITER, READER, CONSUMER, faults=faults, invalidates=False).broken is Broken.LEFT


def test_a_search_that_grows_too_large_says_so():
    with pytest.raises(AssertionError, match="more than 10 worlds"):
        explore_queue(QueueConfiguration(name="small", roles=(WRITER, CONSUMER)), most=10)


def test_an_acknowledged_write_that_is_nowhere_is_lost():
    search = Search(QueueConfiguration(name="small", roles=(CONSUMER,), queued=1))
    world = search.beginning()
    assert search._judged(world).broken is None
    lost = attrs.evolve(world, acknowledged=((9, 2**60, frozenset()),))
    assert search._judged(lost).broken is Broken.LOST
