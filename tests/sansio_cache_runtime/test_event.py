"""The event for threads: like `threading.Event`, and not to be broken by an interrupt."""

import threading

from sansio_cache_runtime.sync.event import ThreadEvent
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
