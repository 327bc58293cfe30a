"""Single flight: who may have the result of another caller's load, and that nothing is left behind."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from sansio_cache.single_flight import MOST_RESTING, Following, Phase, SingleFlight, SingleFlightSnapshot
from sansio_cache.step import Abandoned, Value
from support.loads import ACCEPTED, RAISED, REFUSED, SCHEMA, acquiring, computing, filling, over, share
from support.machines import KEY

LEADER, ONE, OTHER, THIRD, FOURTH = range(5)
"""Tickets."""


def holds_nothing(single_flight):
    """B2."""
    held = single_flight.snapshot()
    return not (len(single_flight) or held.loads or held.current or held.led or single_flight._followed)


def test_the_first_caller_leads_and_the_next_ones_follow():
    single_flight = SingleFlight()
    assert single_flight.join(LEADER, share()) == 1
    assert single_flight.join(ONE, share()) == Following(1, Phase.PREPARING, 1)
    assert single_flight.join(OTHER, share()) == Following(1, Phase.PREPARING, 2)
    assert single_flight.waiting == 2


def test_it_says_who_leads_a_load_until_that_is_over():
    single_flight = SingleFlight()
    single_flight.join(LEADER, share())
    assert single_flight.leader(1) == LEADER
    single_flight.give_up(LEADER)
    assert single_flight.leader(1) is None


def test_another_key_or_another_type_is_another_load():
    single_flight = SingleFlight()
    assert single_flight.join(LEADER, share()) == 1
    assert single_flight.join(ONE, share("shop:user:2")) == 2
    assert single_flight.join(OTHER, share(schema=b"otherone")) == 3


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
        (ACCEPTED, Phase.ENDED, False),
        (REFUSED, Phase.ENDED, False),
        # What the leader read, or did not come to, is never shared.
        (Value(7), Phase.LOADING, False),
        (Abandoned(), Phase.LOADING, False),
    ],
)
def test_a_result_is_shared_only_if_it_is_as_new_as_the_followers_request(outcome, joined_before, has_it):
    """S1, in one process."""
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    steps = {Phase.LOADING: computing(leader), Phase.FILLING: filling(leader), Phase.ENDED: None}
    for phase, step in steps.items():
        if phase is joined_before:
            assert isinstance(single_flight.join(ONE, share()), Following)
        if step is not None:
            assert not single_flight.observe(step)
    assert single_flight.waiting == 1
    assert single_flight.observe(over(leader, outcome))
    assert single_flight.waiting == 0
    assert single_flight.leave(ONE) == (True, outcome if has_it else None)
    assert holds_nothing(single_flight)


def test_a_fill_that_is_repeated_does_not_let_anybody_join_earlier():
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.observe(computing(leader))
    single_flight.observe(filling(leader))
    single_flight.join(ONE, share())
    single_flight.observe(filling(leader))
    single_flight.observe(over(leader, ACCEPTED))
    assert single_flight.leave(ONE) == (True, None)


def test_asking_for_the_lease_does_not_change_how_far_a_load_has_come():
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    assert not single_flight.observe(acquiring(leader))
    assert single_flight.join(ONE, share()) == Following(leader, Phase.PREPARING, 1)


def test_the_first_end_stands():
    # A driver that is interrupted observes the end once more.
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.join(ONE, share())
    assert single_flight.observe(over(leader, ACCEPTED))
    assert single_flight.observe(over(leader, Abandoned()))
    assert single_flight.leave(ONE) == (True, ACCEPTED)


def test_a_load_that_has_ended_does_not_go_on():
    # Its ticket was given up while it still had a lease to give back.
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.join(ONE, share())
    assert single_flight.give_up(LEADER) == leader
    assert not single_flight.observe(computing(leader))
    assert not single_flight.observe(filling(leader))
    assert single_flight.leave(ONE) == (True, None)
    assert holds_nothing(single_flight)


def test_steps_of_operations_that_lead_nothing_are_passed_over():
    single_flight = SingleFlight()
    assert not single_flight.observe(over(None, ACCEPTED))
    assert not single_flight.observe(over(99, ACCEPTED))


def test_after_the_end_the_next_caller_leads():
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.join(ONE, share())
    single_flight.observe(over(leader, ACCEPTED))
    assert single_flight.join(OTHER, share()) == 2
    assert single_flight.leave(ONE) == (True, ACCEPTED)


def test_a_displaced_load_is_not_joined_and_all_who_gave_it_up_share_the_next():
    single_flight = SingleFlight()
    stuck = single_flight.join(LEADER, share())
    for ticket in (ONE, OTHER):
        single_flight.join(ticket, share())
        assert single_flight.leave(ticket) == (False, None)
    assert single_flight.join(ONE, share(displaced=stuck)) == 2
    assert single_flight.join(OTHER, share(displaced=stuck)) == Following(2, Phase.PREPARING, 3)
    assert single_flight.join(THIRD, share()) == Following(2, Phase.PREPARING, 4)


def test_a_displaced_load_that_ends_late_leaves_its_successor_alone():
    single_flight = SingleFlight()
    stuck = single_flight.join(LEADER, share())
    successor = single_flight.join(ONE, share(displaced=stuck))
    assert single_flight.observe(over(stuck, ACCEPTED))
    assert single_flight.join(OTHER, share()) == Following(successor, Phase.PREPARING, 1)


def test_leaving_early_gives_nothing_and_leaves_nothing_behind():
    """B2."""
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.join(ONE, share())
    assert single_flight.leave(ONE) == (False, None)
    single_flight.observe(over(leader, ACCEPTED))
    assert holds_nothing(single_flight)


class TestResting:
    """A load that has ended may rest: nobody leads it again before its time."""

    def rested(self, until_s, key=KEY, single_flight=None):
        single_flight = SingleFlight() if single_flight is None else single_flight
        leader = single_flight.join(LEADER, share(key))
        assert single_flight.observe(over(leader, RAISED, until_s))
        return single_flight

    def test_it_is_not_led_again_before_its_time(self):
        single_flight = self.rested(5.0)
        assert single_flight.join(ONE, share(now_s=4.9)) is None
        assert holds_nothing(single_flight)
        assert single_flight.join(ONE, share(now_s=5.0)) == 2

    def test_it_is_led_again_once_it_is_said_to_have_rested(self):
        single_flight = self.rested(5.0)
        single_flight.end_rest((KEY, SCHEMA))
        single_flight.end_rest((KEY, SCHEMA))
        assert single_flight.join(ONE, share()) == 2

    def test_other_keys_and_types_are_led_meanwhile(self):
        single_flight = self.rested(5.0)
        assert single_flight.join(ONE, share("shop:user:2")) == 2
        assert single_flight.join(OTHER, share(schema=b"otherone")) == 3

    def test_who_followed_has_its_answer_all_the_same(self):
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        assert single_flight.observe(over(leader, RAISED, 5.0))
        assert single_flight.leave(ONE) == (True, RAISED)

    def test_one_that_fails_again_rests_again(self):
        single_flight = self.rested(5.0)
        leader = single_flight.join(ONE, share(now_s=5.0))
        single_flight.observe(over(leader, RAISED, 9.0))
        assert single_flight.join(OTHER, share(now_s=8.9)) is None
        assert single_flight.join(OTHER, share(now_s=9.0)) == 3

    def test_one_that_has_rested_is_forgotten_whatever_the_order(self):
        """B2."""
        single_flight = self.rested(9.0, "a")
        self.rested(5.0, "b", single_flight)
        self.rested(5.0, "c", single_flight)
        assert single_flight.join(ONE, share("b", now_s=6.0)) == 4
        assert single_flight.join(OTHER, share("a", now_s=6.0)) is None
        assert single_flight.join(THIRD, share("d", now_s=9.0)) == 5
        assert single_flight.snapshot().resting == ()

    def test_those_that_have_rested_are_forgotten_behind_any_number_that_rest_longer(self):
        """B2."""
        single_flight = SingleFlight()
        for number in range(50):
            self.rested(9_000.0, f"long{number}", single_flight)
        for number in range(2_000):
            leader = single_flight.join(LEADER, share(f"short{number}", now_s=float(number)))
            single_flight.observe(over(leader, RAISED, number + 0.5))
        assert len(single_flight.snapshot().resting) < 50 + 50
        assert single_flight.join(ONE, share("long7", now_s=8_999.0)) is None

    def test_no_more_than_so_many_rest_at_once(self):
        """B2: the first ones are tried again sooner than was said."""
        single_flight = SingleFlight()
        for number in range(MOST_RESTING + 100):
            self.rested(1_000.0, f"k{number}", single_flight)
        assert len(single_flight.snapshot().resting) == MOST_RESTING
        assert single_flight.join(ONE, share(f"k{MOST_RESTING + 99}")) is None


class TestGivingUp:
    """A ticket that is given up has never been, but for those whom it has kept waiting."""

    def test_a_leader_ends_its_load_and_its_followers_get_nothing(self):
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        assert single_flight.give_up(LEADER) == leader
        assert single_flight.leave(ONE) == (True, None)
        assert holds_nothing(single_flight)

    def test_a_leader_whose_followers_are_there_is_told_of_them_once_more(self):
        # Who was to wake them may have been interrupted.
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        assert [single_flight.give_up(LEADER) for _ in range(2)] == [leader, leader]
        single_flight.leave(ONE)
        assert single_flight.give_up(LEADER) is None

    def test_a_leader_whose_load_has_ended_has_nothing_to_give_up(self):
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.observe(over(leader, ACCEPTED))
        assert holds_nothing(single_flight)
        assert single_flight.give_up(LEADER) is None

    def test_what_came_of_a_load_stands_though_its_ticket_is_given_up_after_it(self):
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        single_flight.observe(over(leader, ACCEPTED))
        assert single_flight.give_up(LEADER) == leader
        assert single_flight.leave(ONE) == (True, ACCEPTED)

    def test_a_follower_leaves_the_load_as_it_is(self):
        single_flight = SingleFlight()
        single_flight.join(LEADER, share())
        before = replace_arrivals(single_flight.snapshot())
        single_flight.join(ONE, share())
        assert single_flight.give_up(ONE) is None
        assert replace_arrivals(single_flight.snapshot()) == before

    def test_twice_it_does_not_end_the_load_of_another(self):
        single_flight = SingleFlight()
        single_flight.join(LEADER, share())
        single_flight.give_up(LEADER)
        successor = single_flight.join(ONE, share())
        assert single_flight.give_up(LEADER) is None
        assert single_flight.join(OTHER, share()) == Following(successor, Phase.PREPARING, 1)

    def test_a_ticket_that_leads_anew_while_its_first_load_is_followed_loses_neither(self):
        # No operation does, as it ends with its load. An explorer may count its tickets anew.
        single_flight = SingleFlight()
        first = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        single_flight.observe(over(first, ACCEPTED))
        second = single_flight.join(LEADER, share())
        assert single_flight.leave(ONE) == (True, ACCEPTED)
        assert single_flight.give_up(LEADER) == second
        assert holds_nothing(single_flight)


def replace_arrivals(snapshot):
    return replace(snapshot, arrivals=0)


class TestSnapshots:
    def busy(self):
        single_flight = SingleFlight()
        leader = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        single_flight.observe(computing(leader))
        stuck = single_flight.join(OTHER, share("shop:user:2"))
        single_flight.join(THIRD, share("shop:user:2"))
        single_flight.join(FOURTH, share("shop:user:2", displaced=stuck))
        single_flight.observe(over(stuck, ACCEPTED, 9.0))
        return single_flight

    def test_nothing_gives_the_empty_one(self):
        assert SingleFlight().snapshot() == SingleFlightSnapshot()

    def test_they_are_values(self):
        assert self.busy().snapshot() == self.busy().snapshot()
        assert len({self.busy().snapshot(), self.busy().snapshot(), SingleFlightSnapshot()}) == 2

    def test_one_that_is_restored_goes_on_as_the_first_would_have(self):
        first, second = self.busy(), SingleFlight()
        second.restore(first.snapshot())
        assert second.snapshot() == first.snapshot()
        second.join(9, share())
        assert first.snapshot() != second.snapshot()
        second.give_up(9)
        for each in (first, second):
            assert each.observe(over(1, ACCEPTED))
            assert each.leave(ONE) == (True, ACCEPTED)
            assert each.leave(THIRD) == (True, ACCEPTED)
            assert each.give_up(OTHER) is None
            assert each.give_up(FOURTH) == 3
            assert holds_nothing(each)
        assert replace_arrivals(first.snapshot()) == replace_arrivals(second.snapshot())

    def test_one_in_which_nobody_leads_a_load_any_more_can_be_restored(self):
        single_flight = SingleFlight()
        first = single_flight.join(LEADER, share())
        single_flight.join(ONE, share())
        single_flight.observe(over(first, ACCEPTED))
        single_flight.join(LEADER, share())
        second = SingleFlight()
        second.restore(single_flight.snapshot())
        assert second.leave(ONE) == (True, ACCEPTED)
        second.give_up(LEADER)
        assert holds_nothing(second)


class SingleFlightMachine(RuleBasedStateMachine):
    """B2: a load is kept while it is led or followed, and not a moment longer."""

    def __init__(self):
        super().__init__()
        self.single_flight = SingleFlight()
        self.now_s = 0.0
        self.tickets = 0
        self.rests_until_s = {}
        self.keys = {}
        self.led: set[int] = set()
        self.following: dict[int, Following] = {}

    @rule(key=st.sampled_from("ab"), displaced=st.none() | st.integers(1, 8))
    def join(self, key, displaced):
        self.tickets += 1
        place = self.single_flight.join(self.tickets, share(key, displaced=displaced, now_s=self.now_s))
        assert (place is None) == (self.rests_until_s.get(key, 0.0) > self.now_s)
        if isinstance(place, int):
            assert place not in self.led
            self.led.add(place)
            self.keys[place] = key
        elif place is not None:
            assert place.load_id in self.led
            assert place.load_id != displaced
            self.following[self.tickets] = place

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
            step = computing(leader) if outcome is None else over(leader, outcome, until_s)
            if self.single_flight.observe(step):
                self.led.remove(leader)
                if until_s:
                    self.rests_until_s[self.keys[leader]] = until_s

    @rule(data=st.data())
    def leave(self, data):
        if self.following:
            ticket = data.draw(st.sampled_from(sorted(self.following)))
            has_ended, _ = self.single_flight.leave(ticket)
            assert has_ended == (self.following.pop(ticket).load_id not in self.led)

    @invariant()
    def keeps_exactly_what_is_led_or_followed(self):
        followed = {place.load_id for place in self.following.values()}
        assert len(self.single_flight) == len(self.led | followed)
        assert {number for _, number in self.single_flight.snapshot().led} == self.led | followed


TestSingleFlightMachine = SingleFlightMachine.TestCase
TestSingleFlightMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_all_who_came_too_late_for_a_load_that_was_not_stored_share_the_next_one():
    """L5: without a store nothing is ever accepted, and callers must not load one after another."""
    single_flight = SingleFlight()
    first = single_flight.join(LEADER, share())
    single_flight.observe(computing(first))
    late = {ticket: single_flight.join(ticket, share()) for ticket in (ONE, OTHER, THIRD)}
    assert single_flight.observe(over(first, REFUSED))
    assert [single_flight.leave(ticket) for ticket in late] == [(True, None)] * 3
    # They ask again. The one who comes first leads, and its loader begins before the others are there.
    second = single_flight.join(ONE, share(arrival=late[ONE].arrival))
    single_flight.observe(computing(second))
    for ticket in (OTHER, THIRD):
        single_flight.join(ticket, share(arrival=late[ticket].arrival))
    single_flight.join(FOURTH, share())
    assert single_flight.observe(over(second, REFUSED))
    assert [single_flight.leave(ticket) for ticket in (OTHER, THIRD)] == [(True, REFUSED)] * 2
    # Who came after it had begun may not have it.
    assert single_flight.leave(FOURTH) == (True, None)
    assert holds_nothing(single_flight)


def test_who_does_without_the_store_may_not_trust_that_it_accepted_a_fill():
    """S1: an invalidation may be pending in this process which the store has not been told of."""
    single_flight = SingleFlight()
    leader = single_flight.join(LEADER, share())
    single_flight.observe(computing(leader))
    single_flight.join(ONE, share())
    single_flight.join(OTHER, replace(share(), heeds_store=False))
    single_flight.observe(filling(leader))
    assert single_flight.observe(over(leader, ACCEPTED))
    assert single_flight.leave(ONE) == (True, ACCEPTED)
    assert single_flight.leave(OTHER) == (True, None)


def test_who_would_not_wait_leads_or_leaves_nothing_behind():
    """B2: also where it is interrupted before it has heard the answer."""
    single_flight = SingleFlight()
    leader = single_flight.lead(LEADER, share())
    assert leader == 1
    assert single_flight.lead(ONE, share()) is None
    assert single_flight.lead(OTHER, share(schema=b"otherone")) == 2
    assert single_flight.observe(over(leader, RAISED, 5.0))
    assert single_flight.observe(over(2, ACCEPTED))
    assert holds_nothing(single_flight)
    assert single_flight.lead(THIRD, share(now_s=4.9)) is None
    assert single_flight.lead(THIRD, share(now_s=5.0)) == 3
