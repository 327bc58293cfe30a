"""Random numbers are drawn from the system in blocks, and none is given out twice.

That no two processes are given the same one is shown with real ones in `sansio_cache_redis/test_fork.py`.
"""

import os
import threading

import pytest

from sansio_cache_runtime import entropy
from sansio_cache_runtime.entropy import SystemEntropy


@pytest.fixture
def asked(monkeypatch):
    """How many bytes the system was asked for, each time."""
    asked = []
    urandom = os.urandom

    def counting(length):
        asked.append(length)
        return urandom(length)

    monkeypatch.setattr(entropy.os, "urandom", counting)
    return asked


def test_the_system_is_asked_for_many_at_once(asked):
    source = SystemEntropy()
    drawn = {source.randbytes(24) for _ in range(200)}
    assert len(drawn) == 200
    assert len(asked) == 2


@pytest.mark.parametrize("length", [0, 8, 16, 24, 25, 100])
def test_it_gives_as_many_bytes_as_it_is_asked_for(length):
    assert len(SystemEntropy().randbytes(length)) == length


def test_numbers_spread_over_the_whole_range():
    source = SystemEntropy()
    drawn = sorted(source.random() for _ in range(4096))
    assert 0 <= drawn[0] < 0.01
    assert 0.99 < drawn[-1] < 1
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


def test_threads_are_given_different_numbers():
    source, found = SystemEntropy(), []

    def draw():
        mine = [source.randbytes(8) for _ in range(2000)]
        found.extend(mine)

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16_000


def test_a_number_that_was_drawn_before_a_fork_is_not_given_out_after_it(monkeypatch):
    """A handler may fork in the middle of a draw: then there are two who go on with it."""
    source = SystemEntropy()
    first = source._draw()
    block = source._block

    class ForkedMeanwhile(list):
        def pop(self):
            drawn = block.pop()
            if source._block is self:
                source.begin_anew()
            popped.append(drawn)
            return drawn

    popped = []
    source._block = ForkedMeanwhile(block)
    drawn = source._draw()
    assert popped
    assert drawn not in (first, *popped)


def test_a_child_that_nobody_told_of_the_fork_begins_anew_before_it_gives_out_a_number(monkeypatch):
    source = SystemEntropy()
    source._draw()
    inherited = list(source._block)
    mark = [0]

    def begin_in_child():
        source.begin_anew()
        mark[0] = 1

    monkeypatch.setattr(entropy, "MARK", mark)
    monkeypatch.setattr(entropy, "begin_in_child", begin_in_child)
    assert not {source._draw() for _ in range(100)} & set(inherited)


def test_two_copies_of_a_machine_do_not_give_out_the_same_nonces(monkeypatch):
    """They go on from one snapshot, each at a time of its own, and nothing in it says so."""
    source, copy = SystemEntropy(), SystemEntropy()
    source._draw()
    copy._block = list(source._block)
    now_ns = iter(range(1_800_000_000_000_000_000, 1_900_000_000_000_000_000))
    monkeypatch.setattr(entropy, "time_ns", lambda: next(now_ns))
    drawn = [each.randbytes(8) for _ in range(50) for each in (source, copy)]
    assert len(set(drawn)) == 100
