"""The primitives in every order of their callers, and with each fault: nothing is counted twice or lost."""

from collections import Counter

import pytest

from sansio_cache import errors
from sansio_cache.exploring.schedules import Enumeration
from sansio_cache_testing import StoreFault, World

LOST = [StoreFault.REQUEST_LOST, StoreFault.REPLY_LOST, StoreFault.LATE]
with_and_without_faults = pytest.mark.parametrize("faults", [[], LOST], ids=["no faults", "lost and late"])


def outcomes(program, most_switches, faults):
    """What a program comes to, and how often, in all orders."""
    found = Counter()
    for schedule in Enumeration(most_switches):
        world = World(schedule, faults=faults)
        try:
            look = program(world)
            assert world.run() == []
            found[look()] += 1
        finally:
            world.end()
    return found


def told(call, *args):
    """What a call gives, or the name of what it raises."""
    try:
        return call(*args)
    except errors.CacheError as error:
        return type(error).__name__


def increments(world):
    here, there, given = world.cache(), world.cache(), []
    here.set("n", 0)
    for cache in (here, there, here):
        world.start(lambda cache: given.append(told(cache.incr, "n")), cache)

    def look():
        counted = [each for each in given if isinstance(each, int)]
        assert len(set(counted)) == len(counted)
        unknown = [each for each in given if not isinstance(each, int)]
        assert set(unknown) <= {"UnknownOutcomeError"}
        assert len(counted) <= here.get("n") <= len(given)
        return len(unknown)

    return look


def adds(world):
    here, there, given = world.cache(), world.cache(), []
    world.start(lambda: given.append((1, told(here.add, "n", 1))))
    world.start(lambda: given.append((2, told(there.add, "n", 2))))

    def look():
        mine = [value for value, is_mine in given if is_mine is True]
        assert mine == [here.get("n")]
        return mine[0]

    return look


def locks(world):
    here, there, inside, tokens = world.cache(), world.cache(), [], []

    def work(cache):
        with cache.lock("job", 5) as lock:
            assert not inside
            inside.append(1)
            tokens.append(lock.token)
            world.sleep(1)
            inside.pop()

    world.start(work, here)
    world.start(work, there)

    def look():
        assert tokens == sorted(set(tokens))
        return len(tokens)

    return look


@with_and_without_faults
def test_no_increment_is_lost_or_doubled(faults):
    found = outcomes(increments, 1, faults)
    assert found.total() > 40
    assert set(found) == {0}


def test_an_increment_whose_answer_is_lost_twice_is_said_to_be_unknown():
    found = outcomes(increments, 2, [StoreFault.REPLY_LOST])
    assert found[1] > 0
    assert set(found) == {0, 1}


@with_and_without_faults
def test_of_two_who_add_one_is_told_that_it_is_theirs(faults):
    assert set(outcomes(adds, 1, faults)) == {1, 2}


@with_and_without_faults
def test_a_lock_has_one_holder_and_its_tokens_go_up(faults):
    assert set(outcomes(locks, 1, faults)) == {2}
