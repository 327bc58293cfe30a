"""Waits: no load of a process waits for itself, through however many others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.coordinator import Coordinator
from sansio_cache.events import LoadLed, SharingTimedOut
from sansio_cache.single_flight import Following
from sansio_cache.waits import Waits
from support.loads import ACCEPTED, over, share

NOBODY = frozenset()


def inside(*keys):
    return frozenset(keys)


def test_who_is_inside_of_no_loader_waits_for_whatever_it_likes_and_is_not_written_down():
    waits = Waits()
    assert waits.begin(1, ("a",), NOBODY)
    assert waits.snapshot() == ()


def test_two_loaders_that_need_each_other_do_not_both_wait():
    waits = Waits()
    assert waits.begin(1, ("menu",), inside("page"))
    assert not waits.begin(2, ("page",), inside("menu"))
    assert waits.snapshot() == ((1, inside("menu"), inside("page")),)


def test_a_wait_that_has_ended_holds_nobody_up():
    waits = Waits()
    assert waits.begin(1, ("menu",), inside("page"))
    waits.end(1)
    waits.end(1)
    assert waits.begin(2, ("page",), inside("menu"))


@pytest.mark.parametrize("length", [3, 4, 30])
def test_a_longer_circle_is_seen_by_whoever_closes_it(length):
    waits = Waits()
    for place in range(length - 1):
        assert waits.begin(place, (f"k{place + 1}",), inside(f"k{place}"))
    assert not waits.begin(length, ("k0",), inside(f"k{length - 1}"))
    assert waits.begin(length, ("other",), inside(f"k{length - 1}"))


def test_who_loads_many_keys_holds_all_of_them():
    waits = Waits()
    assert waits.begin(1, ("x",), inside("a", "b"))
    assert not waits.begin(2, ("b",), inside("x"))
    assert not waits.begin(2, ("free", "a"), inside("y", "x"))
    assert waits.begin(2, ("free",), inside("x"))


def test_who_is_inside_of_a_loader_that_another_loader_called_is_inside_of_both():
    waits = Waits()
    assert waits.begin(1, ("b",), inside("a", "inner"))
    assert not waits.begin(2, ("a",), inside("b"))
    assert not waits.begin(2, ("inner",), inside("b"))


def ends(waits):
    """Whether all that wait come to an end: again and again, those whose keys nobody waits inside of."""
    left = {ticket: (keys, holding) for ticket, keys, holding in waits.snapshot()}
    while left:
        held = frozenset().union(*(holding for _, holding in left.values()))
        free = [ticket for ticket, (keys, _) in left.items() if keys.isdisjoint(held)]
        if not free:
            return False
        for ticket in free:
            del left[ticket]
    return True


KEYS = st.frozensets(st.sampled_from("abcdef"), min_size=1, max_size=2)


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, KEYS, st.booleans()), max_size=12))
def test_whatever_is_asked_for_all_come_to_an_end_and_none_is_sent_away_without_need(asked):
    waits = Waits()
    for ticket, (wanted, holding, is_over) in enumerate(asked):
        before = waits.snapshot()
        if not waits.begin(ticket, wanted, holding):
            assert waits.snapshot() == before
            needed = Waits()
            needed.restore((*before, (ticket, wanted, holding)))
            assert not ends(needed)
        assert ends(waits)
        if is_over:
            waits.end(ticket // 2)
    other = Waits()
    other.restore(waits.snapshot())
    assert other == waits


def test_several_coordinators_may_share_waits_and_each_forgets_its_own():
    waits = Waits()
    one, other = (Coordinator(waits=waits, number=number) for number in (1, 2))
    assert one.sleep(7, ("menu",), inside("page"))
    assert not other.sleep(7, ("page",), inside("menu"))
    assert other.sleep(7, ("elsewhere",), inside("menu"))
    other.forget_loads()
    assert waits.snapshot() == (((1, 7), inside("menu"), inside("page")),)
    one.give_up(7)
    assert waits.snapshot() == ()


# Of the coordinator.


def leading(coordinator, key):
    ticket = coordinator.ticket()
    event = coordinator.share(ticket, share(key))
    assert isinstance(event, LoadLed)
    return ticket, event.load_id


def test_a_follower_that_would_close_a_circle_follows_nobody():
    coordinator = Coordinator()
    page, page_id = leading(coordinator, "page")
    menu, _ = leading(coordinator, "menu")
    one, other = coordinator.ticket(), coordinator.ticket()
    assert isinstance(coordinator.share(one, share("menu"), inside("page")), Following)
    event = coordinator.share(other, share("page", now_s=3.0), inside("menu"))
    assert event == SharingTimedOut(3.0, page_id, event.arrival, is_circle=True)
    assert coordinator.single_flight.waiting == 1
    for ticket in (one, other, page, menu):
        coordinator.give_up(ticket)
    assert coordinator.snapshot().waits == ()
    assert len(coordinator.single_flight) == 0


def test_who_leaves_or_is_given_up_waits_no_more():
    coordinator = Coordinator()
    leader, load_id = leading(coordinator, "a")
    place = coordinator.share(7, share("a"), inside("b"))
    assert len(coordinator.snapshot().waits) == 1
    coordinator.observe(over(load_id, ACCEPTED))
    coordinator.leave(7, place, 1.0)
    assert coordinator.snapshot().waits == ()
    coordinator.give_up(leader)

    assert coordinator.sleep(8, ("a",), inside("b"))
    assert not coordinator.sleep(9, ("b",), inside("a"))
    coordinator.wake(8)
    assert coordinator.sleep(9, ("b",), inside("a"))
    coordinator.give_up(9)
    assert coordinator.snapshot().waits == ()
    assert coordinator.sleep(8, ("a",), inside("b"))
    coordinator.forget_loads()
    assert coordinator.snapshot().waits == ()
