"""Crowds: one after the other, and nobody is held up by one who does not leave."""

import threading

from sansio_cache_runtime.crowd import PATIENCE_S, Crowds, busy_until
from sansio_cache_runtime.sync.event import ThreadEvent


def test_one_goes_after_the_other_in_the_order_of_their_coming():
    crowds = Crowds(ThreadEvent)
    one, two, three = [crowds.join("k", 0.0) for _ in range(3)]
    other = crowds.join("l", 0.0)
    assert [each.event.is_set() for each in (one, two, three, other)] == [True, False, False, True]
    one.leave()
    assert [each.event.is_set() for each in (two, three)] == [True, False]
    three.leave()  # it was interrupted while it waited
    two.leave()
    two.leave()
    other.leave()
    assert crowds._queues == {}
    assert crowds.join("k", 0.0).event.is_set()


def test_one_who_does_not_leave_is_passed_by():
    crowds = Crowds(ThreadEvent)
    stuck, two, three = [crowds.join("k", 0.0) for _ in range(3)]
    assert two.must_wait(0.9 * PATIENCE_S), "it has not been there for long"
    assert not two.must_wait(PATIENCE_S)
    assert two.event.is_set()
    assert three.must_wait(PATIENCE_S), "two has just begun"
    stuck.leave()  # late, which does no harm
    assert not three.event.is_set()
    two.leave()
    assert three.event.is_set()
    assert not three.must_wait(9.0)
    three.leave()
    assert crowds._queues == {}


def test_one_who_never_leaves_is_passed_by_for_those_who_wait_for_less_than_that():
    crowds = Crowds(ThreadEvent)
    crowds.join("k", 0.0)  # and its caller is gone
    for place in range(3):
        turn = crowds.join("k", place * 0.4 * PATIENCE_S)
        assert turn.must_wait((place + 1) * 0.4 * PATIENCE_S) is (place < 2)
        turn.leave()
    assert crowds._queues == {}


def test_one_who_is_known_to_be_at_it_is_not_passed_by():
    crowds = Crowds(ThreadEvent)
    holder, two = [crowds.join("k", 0.0) for _ in range(2)]
    is_held = True
    holder.is_busy = lambda: is_held
    assert two.must_wait(100.0)
    is_held = False
    assert not two.must_wait(100.0)


def test_one_who_asks_the_store_is_not_passed_by_for_as_long_as_he_may():
    """And is after that: an interrupt may have struck him as he left."""
    now_s = 0.0
    crowds = Crowds(ThreadEvent)
    asking, two = [crowds.join("k", now_s) for _ in range(2)]
    asking.is_busy = busy_until(30.0, lambda: now_s)
    for now_s in (10.0, 29.0):
        assert two.must_wait(now_s)
    now_s = 31.0
    assert not two.must_wait(now_s)


def test_one_who_goes_on_is_not_passed_by():
    crowds = Crowds(ThreadEvent)
    turns = [crowds.join("k", 0.0) for _ in range(4)]
    for seconds, ahead in enumerate(turns[:2]):
        assert turns[3].must_wait(seconds + 0.5)
        ahead.leave()
    assert turns[3].must_wait(2.5)
    assert turns[2].event.is_set()


def test_one_who_has_left_in_the_meantime_is_nobodys_concern():
    crowds = Crowds(ThreadEvent)
    alone = crowds.join("k", 0.0)
    alone.leave()
    assert not alone.must_wait(5.0)


def test_who_waits_is_woken_where_there_is_nothing_to_be_had_any_more():
    crowds = Crowds(ThreadEvent)
    turns = [crowds.join(key, 0.0) for key in "kkl"]
    crowds.end()
    assert all(turn.event.is_set() for turn in turns)


def test_nobody_is_left_waiting_among_threads():
    crowds, at_it, seen = Crowds(ThreadEvent), [], []

    def change():
        for _ in range(200):
            turn = crowds.join("k", 0.0)
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
