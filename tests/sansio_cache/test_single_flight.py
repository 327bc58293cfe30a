"""Flights: who may have the result of a load of another caller, and that nothing is left behind."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from sansio_cache.commands import AcquireLease, Compute, Fill, FillCells, Mode, ShareLoad
from sansio_cache.single_flight import Following, Phase, SingleFlight
from sansio_cache.step import OVER, Abandoned, Loaded, Raised, Step, Value
from support.machines import GRANT, KEY, NONCE

SCHEMA = bytes(8)
ACCEPTED = Loaded(7, b"7", accepted=True)
REFUSED = Loaded(7, b"7", accepted=False)
RAISED = Raised(RuntimeError("database"))


def share(key=KEY, *, schema=SCHEMA, displaced=None, arrival=0, now_s=0.0):
    return ShareLoad(key, schema, displaced, 30.0, arrival, now_s=now_s)


def acquiring(load_id):
    return Step(OVER, AcquireLease(KEY, NONCE, 5_000, bytes(16), Mode.KEEP, 0.1), load_id=load_id)


def computing(load_id):
    return Step(OVER, Compute(KEY, None), load_id=load_id)


def filling(load_id):
    return Step(OVER, FillCells((Fill(KEY, GRANT, 1, 0, b""),), 0.1), load_id=load_id)


def landing(load_id, outcome, rests_until_s=0.0):
    return Step(OVER, None, outcome, load_id=load_id, rests_until_s=rests_until_s)


def test_the_first_caller_leads_and_the_next_ones_follow():
    single_flight = SingleFlight()
    assert single_flight.join(share()) == 1
    assert single_flight.join(share()) == Following(1, Phase.PREPARING, 1)
    assert single_flight.join(share()) == Following(1, Phase.PREPARING, 2)


def test_another_key_or_another_type_is_another_load():
    single_flight = SingleFlight()
    assert single_flight.join(share()) == 1
    assert single_flight.join(share("shop:user:2")) == 2
    assert single_flight.join(share(schema=b"otherone")) == 3


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
    leader = single_flight.join(share())
    steps = {Phase.LOADING: computing(leader), Phase.FILLING: filling(leader), Phase.ENDED: None}
    follower = None
    for phase, step in steps.items():
        if phase is joined_before:
            follower = single_flight.join(share())
        if step is not None:
            assert not single_flight.observe(step)
    assert not single_flight.has_ended(follower)
    assert single_flight.observe(landing(leader, outcome))
    assert single_flight.has_ended(follower)
    assert single_flight.leave(follower) == (outcome if has_it else None)
    assert len(single_flight) == 0


def test_a_fill_that_is_repeated_does_not_let_anybody_join_earlier():
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    single_flight.observe(computing(leader))
    single_flight.observe(filling(leader))
    follower = single_flight.join(share())
    single_flight.observe(filling(leader))
    single_flight.observe(landing(leader, ACCEPTED))
    assert single_flight.leave(follower) is None


def test_asking_for_the_lease_does_not_change_how_far_a_load_has_come():
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    assert not single_flight.observe(acquiring(leader))
    assert single_flight.join(share()) == Following(leader, Phase.PREPARING, 1)


def test_the_first_landing_stands():
    # A driver that is interrupted observes the end once more.
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    follower = single_flight.join(share())
    single_flight.observe(landing(leader, ACCEPTED))
    single_flight.observe(landing(leader, Abandoned()))
    assert single_flight.leave(follower) == ACCEPTED


def test_steps_of_operations_that_lead_nothing_are_passed_over():
    single_flight = SingleFlight()
    assert not single_flight.observe(landing(None, ACCEPTED))
    assert not single_flight.observe(landing(99, ACCEPTED))


def test_after_a_landing_the_next_caller_leads():
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    follower = single_flight.join(share())
    single_flight.observe(landing(leader, ACCEPTED))
    assert single_flight.join(share()) == 2
    assert single_flight.leave(follower) == ACCEPTED


def test_a_displaced_flight_is_not_joined_and_all_who_gave_it_up_share_the_next():
    single_flight = SingleFlight()
    stuck = single_flight.join(share())
    one, other = single_flight.join(share()), single_flight.join(share())
    single_flight.leave(one)
    single_flight.leave(other)
    assert single_flight.join(share(displaced=stuck)) == 2
    assert single_flight.join(share(displaced=stuck)) == Following(2, Phase.PREPARING, 3)
    assert single_flight.join(share()) == Following(2, Phase.PREPARING, 4)


def test_a_displaced_flight_that_lands_late_leaves_its_successor_alone():
    single_flight = SingleFlight()
    stuck = single_flight.join(share())
    successor = single_flight.join(share(displaced=stuck))
    assert single_flight.observe(landing(stuck, ACCEPTED))
    assert single_flight.join(share()) == Following(successor, Phase.PREPARING, 1)


def test_leaving_early_gives_nothing_and_leaves_nothing_behind():
    """B2."""
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    follower = single_flight.join(share())
    assert single_flight.leave(follower) is None
    single_flight.observe(landing(leader, ACCEPTED))
    assert len(single_flight) == 0


class TestResting:
    """A load that has ended may rest: nobody leads it again before its time."""

    def rested(self, until_s, key=KEY, single_flight=None):
        single_flight = SingleFlight() if single_flight is None else single_flight
        leader = single_flight.join(share(key))
        assert single_flight.observe(landing(leader, RAISED, until_s))
        return single_flight

    def test_it_is_not_led_again_before_its_time(self):
        single_flight = self.rested(5.0)
        assert single_flight.join(share(now_s=4.9)) is None
        assert len(single_flight) == 0
        assert single_flight.join(share(now_s=5.0)) == 2

    def test_other_keys_and_types_are_led_meanwhile(self):
        single_flight = self.rested(5.0)
        assert single_flight.join(share("shop:user:2")) == 2
        assert single_flight.join(share(schema=b"otherone")) == 3

    def test_who_followed_has_its_answer_all_the_same(self):
        single_flight = SingleFlight()
        leader = single_flight.join(share())
        follower = single_flight.join(share())
        assert single_flight.observe(landing(leader, RAISED, 5.0))
        assert single_flight.leave(follower) == RAISED

    def test_one_that_fails_again_rests_again(self):
        single_flight = self.rested(5.0)
        leader = single_flight.join(share(now_s=5.0))
        single_flight.observe(landing(leader, RAISED, 9.0))
        assert single_flight.join(share(now_s=8.9)) is None
        assert single_flight.join(share(now_s=9.0)) == 3

    def test_one_that_has_rested_is_forgotten_whatever_the_order(self):
        """B2."""
        single_flight = self.rested(9.0, "a")
        self.rested(5.0, "b", single_flight)
        self.rested(5.0, "c", single_flight)
        assert single_flight.join(share("b", now_s=6.0)) == 4
        assert single_flight.join(share("a", now_s=6.0)) is None
        assert single_flight.join(share("d", now_s=9.0)) == 5
        assert single_flight._resting == {}


class SingleFlightMachine(RuleBasedStateMachine):
    """B2: a flight is kept while it is led or followed, and not a moment longer."""

    def __init__(self):
        super().__init__()
        self.single_flight = SingleFlight()
        self.now_s = 0.0
        self.rests_until_s = {}
        self.keys = {}
        self.led: set[int] = set()
        self.following: list[Following] = []

    @rule(key=st.sampled_from("ab"), displaced=st.none() | st.integers(1, 8))
    def join(self, key, displaced):
        place = self.single_flight.join(share(key, displaced=displaced, now_s=self.now_s))
        assert (place is None) == (self.rests_until_s.get(key, 0.0) > self.now_s)
        if isinstance(place, int):
            assert place not in self.led
            self.led.add(place)
            self.keys[place] = key
        elif place is not None:
            assert place.load_id in self.led
            assert place.load_id != displaced
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
            if self.single_flight.observe(step):
                self.led.remove(leader)
                if until_s:
                    self.rests_until_s[self.keys[leader]] = until_s

    @rule(data=st.data())
    def leave(self, data):
        if self.following:
            place = self.following.pop(data.draw(st.integers(0, len(self.following) - 1)))
            assert self.single_flight.has_ended(place) == (place.load_id not in self.led)
            self.single_flight.leave(place)

    @invariant()
    def keeps_exactly_what_is_led_or_followed(self):
        assert len(self.single_flight) == len(self.led | {place.load_id for place in self.following})


TestSingleFlightMachine = SingleFlightMachine.TestCase
TestSingleFlightMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_all_who_came_too_late_for_a_load_that_was_not_stored_share_the_next_one():
    """L5: without a store nothing is ever accepted, and callers must not load one after another."""
    single_flight = SingleFlight()
    first = single_flight.join(share())
    single_flight.observe(computing(first))
    late = [single_flight.join(share()) for _ in range(3)]
    assert single_flight.observe(landing(first, REFUSED))
    assert [single_flight.leave(place) for place in late] == [None, None, None]
    # They ask again. The one who comes first leads, and its loader begins before the others are there.
    second = single_flight.join(share(arrival=late[0].arrival))
    single_flight.observe(computing(second))
    places = [single_flight.join(share(arrival=place.arrival)) for place in late[1:]]
    newcomer = single_flight.join(share())
    assert single_flight.observe(landing(second, REFUSED))
    assert [single_flight.leave(place) for place in places] == [REFUSED, REFUSED]
    # Who came after it had begun may not have it.
    assert single_flight.leave(newcomer) is None
    assert len(single_flight) == 0


def test_who_does_without_the_store_may_not_trust_that_it_accepted_a_fill():
    """S1: an invalidation may be remembered in this process which the store has not been told of."""
    single_flight = SingleFlight()
    leader = single_flight.join(share())
    single_flight.observe(computing(leader))
    heeding, bypassing = single_flight.join(share()), single_flight.join(replace(share(), heeds_store=False))
    single_flight.observe(filling(leader))
    assert single_flight.observe(landing(leader, ACCEPTED))
    assert single_flight.leave(heeding) == ACCEPTED
    assert single_flight.leave(bypassing) is None


def test_who_would_not_wait_leads_or_leaves_nothing_behind():
    """B2: also where it is interrupted before it has heard the answer."""
    single_flight = SingleFlight()
    leader = single_flight.lead(share())
    assert leader == 1
    assert single_flight.lead(share()) is None
    assert single_flight.lead(share(schema=b"otherone")) == 2
    resting = replace(landing(leader, RAISED), rests_until_s=5.0)
    assert single_flight.observe(resting)
    assert single_flight.observe(landing(2, ACCEPTED))
    assert len(single_flight) == 0
    assert single_flight.lead(replace(share(), now_s=4.9)) is None
    assert single_flight.lead(replace(share(), now_s=5.0)) == 3
