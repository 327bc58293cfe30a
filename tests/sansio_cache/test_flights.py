"""Flights: who may have the result of a load of another caller, and that nothing is left behind."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from sansio_cache.commands import AcquireLease, Compute, Fill, FillCells, Mode, ShareLoad
from sansio_cache.flights import Flights, Following, Phase
from sansio_cache.step import OVER, Abandoned, Loaded, Raised, Step, Value
from support.machines import GRANT, KEY, NONCE

SCHEMA = bytes(8)
ACCEPTED = Loaded(7, b"7", accepted=True)
REFUSED = Loaded(7, b"7", accepted=False)
RAISED = Raised(RuntimeError("database"))


def share(key=KEY, *, schema=SCHEMA, displaced=None, arrival=0, now_s=0.0):
    return ShareLoad(key, schema, displaced, 30.0, arrival, now_s=now_s)


def acquiring(flight):
    return Step(OVER, AcquireLease(KEY, NONCE, 5_000, bytes(16), Mode.KEEP, 0.1), flight=flight)


def computing(flight):
    return Step(OVER, Compute(KEY, None), flight=flight)


def filling(flight):
    return Step(OVER, FillCells((Fill(KEY, GRANT, 1, 0, b""),), 0.1), flight=flight)


def landing(flight, outcome, rests_until_s=0.0):
    return Step(OVER, None, outcome, flight=flight, rests_until_s=rests_until_s)


def test_the_first_caller_leads_and_the_next_ones_follow():
    flights = Flights()
    assert flights.join(share()) == 1
    assert flights.join(share()) == Following(1, Phase.PREPARING, 1)
    assert flights.join(share()) == Following(1, Phase.PREPARING, 2)


def test_another_key_or_another_type_is_another_load():
    flights = Flights()
    assert flights.join(share()) == 1
    assert flights.join(share("shop:user:2")) == 2
    assert flights.join(share(schema=b"otherone")) == 3


@pytest.mark.parametrize(
    ("outcome", "joined_before", "has_it"),
    [
        # Joined before the loader began: whatever came of it is new enough.
        (ACCEPTED, Phase.LOADING, True),
        (REFUSED, Phase.LOADING, True),
        (RAISED, Phase.LOADING, True),
        # Joined before the fill was first sent: only if the fill was accepted.
        (ACCEPTED, Phase.FILLING, True),
        (REFUSED, Phase.FILLING, False),
        (RAISED, Phase.FILLING, False),
        # Joined after that: nothing.
        (ACCEPTED, Phase.LANDED, False),
        (REFUSED, Phase.LANDED, False),
        # What the leader read, or did not come to, is never shared.
        (Value(7), Phase.LOADING, False),
        (Abandoned(), Phase.LOADING, False),
    ],
)
def test_a_result_is_shared_only_if_it_is_as_new_as_the_followers_request(outcome, joined_before, has_it):
    """S1, in one process."""
    flights = Flights()
    leader = flights.join(share())
    steps = {Phase.LOADING: computing(leader), Phase.FILLING: filling(leader), Phase.LANDED: None}
    follower = None
    for phase, step in steps.items():
        if phase is joined_before:
            follower = flights.join(share())
        if step is not None:
            assert not flights.observe(step)
    assert not flights.has_landed(follower)
    assert flights.observe(landing(leader, outcome))
    assert flights.has_landed(follower)
    assert flights.leave(follower) == (outcome if has_it else None)
    assert len(flights) == 0


def test_a_fill_that_is_repeated_does_not_let_anybody_join_earlier():
    flights = Flights()
    leader = flights.join(share())
    flights.observe(computing(leader))
    flights.observe(filling(leader))
    follower = flights.join(share())
    flights.observe(filling(leader))
    flights.observe(landing(leader, ACCEPTED))
    assert flights.leave(follower) is None


def test_asking_for_the_lease_does_not_change_how_far_a_load_has_come():
    flights = Flights()
    leader = flights.join(share())
    assert not flights.observe(acquiring(leader))
    assert flights.join(share()) == Following(leader, Phase.PREPARING, 1)


def test_the_first_landing_stands():
    # A driver that is interrupted observes the end once more.
    flights = Flights()
    leader = flights.join(share())
    follower = flights.join(share())
    flights.observe(landing(leader, ACCEPTED))
    flights.observe(landing(leader, Abandoned()))
    assert flights.leave(follower) == ACCEPTED


def test_steps_of_operations_that_lead_nothing_are_passed_over():
    flights = Flights()
    assert not flights.observe(landing(None, ACCEPTED))
    assert not flights.observe(landing(99, ACCEPTED))


def test_after_a_landing_the_next_caller_leads():
    flights = Flights()
    leader = flights.join(share())
    follower = flights.join(share())
    flights.observe(landing(leader, ACCEPTED))
    assert flights.join(share()) == 2
    assert flights.leave(follower) == ACCEPTED


def test_a_displaced_flight_is_not_joined_and_all_who_gave_it_up_share_the_next():
    flights = Flights()
    stuck = flights.join(share())
    one, other = flights.join(share()), flights.join(share())
    flights.leave(one)
    flights.leave(other)
    assert flights.join(share(displaced=stuck)) == 2
    assert flights.join(share(displaced=stuck)) == Following(2, Phase.PREPARING, 3)
    assert flights.join(share()) == Following(2, Phase.PREPARING, 4)


def test_a_displaced_flight_that_lands_late_leaves_its_successor_alone():
    flights = Flights()
    stuck = flights.join(share())
    successor = flights.join(share(displaced=stuck))
    assert flights.observe(landing(stuck, ACCEPTED))
    assert flights.join(share()) == Following(successor, Phase.PREPARING, 1)


def test_leaving_early_gives_nothing_and_leaves_nothing_behind():
    """B2."""
    flights = Flights()
    leader = flights.join(share())
    follower = flights.join(share())
    assert flights.leave(follower) is None
    flights.observe(landing(leader, ACCEPTED))
    assert len(flights) == 0


class TestResting:
    """A load that has ended may rest: nobody leads it again before its time."""

    def rested(self, until_s, key=KEY, flights=None):
        flights = Flights() if flights is None else flights
        leader = flights.join(share(key))
        assert flights.observe(landing(leader, RAISED, until_s))
        return flights

    def test_it_is_not_led_again_before_its_time(self):
        flights = self.rested(5.0)
        assert flights.join(share(now_s=4.9)) is None
        assert len(flights) == 0
        assert flights.join(share(now_s=5.0)) == 2

    def test_other_keys_and_types_are_led_meanwhile(self):
        flights = self.rested(5.0)
        assert flights.join(share("shop:user:2")) == 2
        assert flights.join(share(schema=b"otherone")) == 3

    def test_who_followed_has_its_answer_all_the_same(self):
        flights = Flights()
        leader = flights.join(share())
        follower = flights.join(share())
        assert flights.observe(landing(leader, RAISED, 5.0))
        assert flights.leave(follower) == RAISED

    def test_one_that_fails_again_rests_again(self):
        flights = self.rested(5.0)
        leader = flights.join(share(now_s=5.0))
        flights.observe(landing(leader, RAISED, 9.0))
        assert flights.join(share(now_s=8.9)) is None
        assert flights.join(share(now_s=9.0)) == 3

    def test_one_that_has_rested_is_forgotten_whatever_the_order(self):
        """B2."""
        flights = self.rested(9.0, "a")
        self.rested(5.0, "b", flights)
        self.rested(5.0, "c", flights)
        assert flights.join(share("b", now_s=6.0)) == 4
        assert flights.join(share("a", now_s=6.0)) is None
        assert flights.join(share("d", now_s=9.0)) == 5
        assert flights._resting == {}


class FlightsMachine(RuleBasedStateMachine):
    """B2: a flight is kept while it is led or followed, and not a moment longer."""

    def __init__(self):
        super().__init__()
        self.flights = Flights()
        self.now_s = 0.0
        self.rests_until_s = {}
        self.keys = {}
        self.led: set[int] = set()
        self.following: list[Following] = []

    @rule(key=st.sampled_from("ab"), displaced=st.none() | st.integers(1, 8))
    def join(self, key, displaced):
        place = self.flights.join(share(key, displaced=displaced, now_s=self.now_s))
        assert (place is None) == (self.rests_until_s.get(key, 0.0) > self.now_s)
        if isinstance(place, int):
            assert place not in self.led
            self.led.add(place)
            self.keys[place] = key
        elif place is not None:
            assert place.flight in self.led
            assert place.flight != displaced
            self.following.append(place)

    @rule(seconds=st.sampled_from([0.5, 1.0]))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule(
        data=st.data(),
        outcome=st.sampled_from([ACCEPTED, REFUSED, RAISED, Value(7), Abandoned(), None]),
        rest_s=st.sampled_from([0.0, 1.0, 3.0]),
    )
    def go_on(self, data, outcome, rest_s):
        if self.led:
            leader = data.draw(st.sampled_from(sorted(self.led)))
            until_s = self.now_s + rest_s if rest_s else 0.0
            step = computing(leader) if outcome is None else landing(leader, outcome, until_s)
            if self.flights.observe(step):
                self.led.remove(leader)
                if until_s:
                    self.rests_until_s[self.keys[leader]] = until_s

    @rule(data=st.data())
    def leave(self, data):
        if self.following:
            place = self.following.pop(data.draw(st.integers(0, len(self.following) - 1)))
            assert self.flights.has_landed(place) == (place.flight not in self.led)
            self.flights.leave(place)

    @invariant()
    def keeps_exactly_what_is_led_or_followed(self):
        assert len(self.flights) == len(self.led | {place.flight for place in self.following})


TestFlightsMachine = FlightsMachine.TestCase
TestFlightsMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_all_who_came_too_late_for_a_load_that_was_not_stored_share_the_next_one():
    """L5: without a store nothing is ever accepted, and callers must not load one after another."""
    flights = Flights()
    first = flights.join(share())
    flights.observe(computing(first))
    late = [flights.join(share()) for _ in range(3)]
    assert flights.observe(landing(first, REFUSED))
    assert [flights.leave(place) for place in late] == [None, None, None]
    # They ask again. The one who comes first leads, and its loader begins before the others are there.
    second = flights.join(share(arrival=late[0].arrival))
    flights.observe(computing(second))
    places = [flights.join(share(arrival=place.arrival)) for place in late[1:]]
    newcomer = flights.join(share())
    assert flights.observe(landing(second, REFUSED))
    assert [flights.leave(place) for place in places] == [REFUSED, REFUSED]
    # Who came after it had begun may not have it.
    assert flights.leave(newcomer) is None
    assert len(flights) == 0


def test_who_does_without_the_store_may_not_trust_that_it_accepted_a_fill():
    """S1: an invalidation may be remembered in this process which the store has not been told of."""
    flights = Flights()
    leader = flights.join(share())
    flights.observe(computing(leader))
    heeding, bypassing = flights.join(share()), flights.join(replace(share(), heeds_store=False))
    flights.observe(filling(leader))
    assert flights.observe(landing(leader, ACCEPTED))
    assert flights.leave(heeding) == ACCEPTED
    assert flights.leave(bypassing) is None


def test_who_would_not_wait_leads_or_leaves_nothing_behind():
    """B2: also where it is interrupted before it has heard the answer."""
    flights = Flights()
    leader = flights.lead(share())
    assert leader == 1
    assert flights.lead(share()) is None
    assert flights.lead(share(schema=b"otherone")) == 2
    resting = replace(landing(leader, RAISED), rests_until_s=5.0)
    assert flights.observe(resting)
    assert flights.observe(landing(2, ACCEPTED))
    assert len(flights) == 0
    assert flights.lead(replace(share(), now_s=4.9)) is None
    assert flights.lead(replace(share(), now_s=5.0)) == 3
