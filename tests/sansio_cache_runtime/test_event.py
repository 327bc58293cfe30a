"""The event and the condition for threads: as those of `threading`, and not to be broken by an interrupt."""

import signal
import threading

import pytest

from sansio_cache_runtime.sync.event import ThreadCondition, ThreadEvent
from support.faulty import GIVE_UP_S
from support.interrupts import strike


def test_who_waits_is_woken_as_it_is_set_and_goes_on_at_once_after_that():
    event = ThreadEvent()
    found = []
    threads = [threading.Thread(target=lambda: found.append(event.wait(GIVE_UP_S))) for _ in range(3)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(GIVE_UP_S)
    assert found == [True] * 3
    assert event.is_set()
    assert event.wait(0.0)
    event.clear()
    assert not event.is_set()
    assert not event.wait(0.0)
    assert not event._waiters


def test_a_wait_that_is_interrupted_anywhere_keeps_nobody_from_setting_it():
    number = 1
    while True:
        event = ThreadEvent()
        if not strike(number, lambda event=event: event.wait(0.0)):
            break
        event.set()
        assert event.wait(0.0)
        number += 1
    assert number > 20


def test_setting_it_again_wakes_those_whom_an_interrupt_has_left_asleep():
    number = 1
    while True:
        event = ThreadEvent()
        found = []
        thread = threading.Thread(target=lambda event=event, found=found: found.append(event.wait(GIVE_UP_S)))
        thread.start()
        while not event._waiters:
            pass
        has_struck = strike(number, event.set)
        event.set()
        thread.join(GIVE_UP_S)
        assert found == [True]
        if not has_struck:
            break
        number += 1
    assert number > 5


def waiting(condition, lock, found):
    """A thread that waits for a condition."""

    def wait():
        with lock:
            found.append(condition.wait(GIVE_UP_S))

    before = len(condition._waiters)
    thread = threading.Thread(target=wait)
    thread.start()
    while len(condition._waiters) == before:
        pass
    return thread


def test_one_who_waits_for_a_condition_is_woken_or_all():
    lock = threading.RLock()
    condition, found = ThreadCondition(lock), []
    threads = [waiting(condition, lock, found) for _ in range(4)]
    with lock:
        condition.notify()
    threads[0].join(GIVE_UP_S)
    assert found == [True]
    with lock:
        condition.notify_all()
    for thread in threads:
        thread.join(GIVE_UP_S)
    assert found == [True] * 4
    with lock:
        assert not condition.wait(0.0)
        condition.notify()  # nobody waits
    assert not condition._waiters


def test_a_notification_that_is_interrupted_anywhere_is_made_again():
    number = 1
    while True:
        lock = threading.RLock()
        condition, found = ThreadCondition(lock), []
        threads = [waiting(condition, lock, found) for _ in range(2)]
        with lock:
            has_struck = strike(number, condition.notify)
            condition.notify()
            condition.notify()
        for thread in threads:
            thread.join(GIVE_UP_S)
        assert found == [True, True]
        if not has_struck:
            break
        number += 1
    assert number > 5


class Interrupted:
    """A signal arrives while one who waits is woken, or taken off the list."""

    def release(self):
        signal.raise_signal(signal.SIGUSR1)

    def __eq__(self, other):
        signal.raise_signal(signal.SIGUSR1)
        return False

    __hash__ = None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
@pytest.mark.parametrize("waiters", [[Interrupted()], [threading.Lock(), Interrupted()]])
def test_what_a_handler_raises_while_a_condition_is_notified_goes_on(kind, waiters):
    def exceed(signum, frame):
        raise kind("of the job")

    condition = ThreadCondition(threading.RLock())
    condition._waiters.extend(waiters)
    before = signal.signal(signal.SIGUSR1, exceed)
    try:
        with pytest.raises(kind, match="of the job"):
            condition.notify()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_one_whom_a_finaliser_has_woken_meanwhile_is_passed_over():
    condition = ThreadCondition(threading.RLock())

    class Woken:
        def release(self):
            condition._waiters.clear()

    condition._waiters.append(Woken())
    condition.notify()
    assert not condition._waiters
