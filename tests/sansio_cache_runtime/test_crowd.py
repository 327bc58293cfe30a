"""Crowds: one after the other, and nobody is held up by one who does not leave."""

import threading

from sansio_cache_runtime.crowd import Crowds
from sansio_cache_runtime.sync.event import ThreadEvent


def test_one_goes_after_the_other_in_the_order_of_their_coming():
    crowds = Crowds(ThreadEvent)
    one, two, three = [crowds.join("k") for _ in range(3)]
    other = crowds.join("l")
    assert [each.event.is_set() for each in (one, two, three, other)] == [True, False, False, True]
    one.leave()
    assert [each.event.is_set() for each in (two, three)] == [True, False]
    three.leave()  # it was interrupted while it waited
    two.leave()
    two.leave()
    other.leave()
    assert crowds._queues == {}
    assert crowds.join("k").event.is_set()


def test_one_who_does_not_leave_is_passed_by():
    crowds = Crowds(ThreadEvent)
    stuck, two, three = [crowds.join("k") for _ in range(3)]
    assert two.must_wait(), "it has not been seen at it before"
    assert not two.must_wait()
    assert two.event.is_set()
    assert three.must_wait()
    stuck.leave()  # late, which does no harm
    assert not three.event.is_set()
    two.leave()
    assert three.event.is_set()
    assert not three.must_wait()
    three.leave()
    assert crowds._queues == {}


def test_one_who_goes_on_is_not_passed_by():
    crowds = Crowds(ThreadEvent)
    turns = [crowds.join("k") for _ in range(4)]
    for ahead in turns[:2]:
        assert turns[3].must_wait()
        ahead.leave()
    assert turns[3].must_wait()
    assert turns[2].event.is_set()


def test_one_who_has_left_in_the_meantime_is_nobodys_concern():
    crowds = Crowds(ThreadEvent)
    alone = crowds.join("k")
    alone.leave()
    assert not alone.must_wait()


def test_nobody_is_left_waiting_among_threads():
    crowds, at_it, seen = Crowds(ThreadEvent), [], []

    def change():
        for _ in range(200):
            turn = crowds.join("k")
            assert turn.event.wait(20)
            at_it.append(1)
            seen.append(len(at_it))
            at_it.pop()
            turn.leave()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 800
    assert crowds._queues == {}
