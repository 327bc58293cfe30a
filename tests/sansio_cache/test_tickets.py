"""Tickets: whatever an operation has begun is undone by giving its ticket up, from any point (B2, L4).

Random operations of one process come, lead, follow, leave and are given up; and an interrupt strikes between
any two bytecodes of every call that a driver makes for a ticket. Wrong ways to do it must be caught.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from sansio_cache.coordinator import Coordinator
from sansio_cache.entry import Servable
from sansio_cache.events import (
    FailureKind,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    SharingTimedOut,
)
from sansio_cache.notices import InvalidationFailed, StoreGaveUp
from sansio_cache.operations.refresh import refresh
from sansio_cache.single_flight import Following, Phase, SingleFlight
from sansio_cache.step import Abandoned, Loaded, Raised, Recovered, Value
from support.interrupts import strike
from support.loads import ACCEPTED, RAISED, REFUSED, computing, filling, over, share
from support.machines import TIMEOUTS, load_request, value_cell

NOW_S = 1.0


def refreshing(key="a"):
    """A refresh of a key, as a reader spawns it."""
    return refresh(load_request(name=key, stale_for_s=60), Servable(6, False, value_cell(6, soft_ms=1)), 0.0)


def followers(coordinator):
    """Which tickets follow which load."""
    loads = coordinator.single_flight.snapshot().loads
    return {ticket: (number, place) for number, load in loads for ticket, place in load.followers}


def without_counters(snapshot):
    """What does not depend on how many have been there."""
    return replace(snapshot, single_flight=replace(snapshot.single_flight, last=0, arrivals=0))


def holds_nothing(coordinator):
    """B2."""
    held = coordinator.single_flight.snapshot()
    is_waiting = coordinator.single_flight._followed or coordinator.waits.snapshot()
    return not (held.loads or held.current or held.led or is_waiting)


@attrs.define
class Led:
    """What is known of a load from outside."""

    leader: int
    phase: Phase = Phase.PREPARING
    outcome: Loaded | Raised | None = None


class Operations(RuleBasedStateMachine):
    """Operations of one process, in any order."""

    coordinator_class = Coordinator
    single_flight_class = SingleFlight

    def __init__(self):
        super().__init__()
        self.coordinator = self.coordinator_class(single_flight=self.single_flight_class())
        self.tickets: list[int] = []
        self.loads: dict[int, Led] = {}
        self.following: dict[int, Following] = {}
        self.woken: set[int] = set()

    def ticket(self):
        ticket = self.coordinator.ticket()
        assert ticket not in self.tickets
        self.tickets.append(ticket)
        return ticket

    def lead(self, ticket, load_id):
        assert load_id not in self.loads
        self.loads[load_id] = Led(ticket)

    def wake(self, load_id):
        if load_id is not None:
            assert self.loads[load_id].phase is Phase.ENDED
            self.woken.add(load_id)

    @rule(key=st.sampled_from("ab"), displaced=st.none() | st.integers(1, 6))
    def share(self, key, displaced):
        ticket = self.ticket()
        answer = self.coordinator.share(ticket, share(key, displaced=displaced, now_s=NOW_S))
        if isinstance(answer, LoadLed):
            assert answer.now_s == NOW_S
            self.lead(ticket, answer.load_id)
        else:
            assert isinstance(answer, Following)
            assert self.loads[answer.load_id].phase is not Phase.ENDED
            assert answer.load_id != displaced
            self.following[ticket] = answer

    @rule(key=st.sampled_from("ab"))
    def begin(self, key):
        ticket = self.ticket()
        before = self.coordinator.snapshot()
        begun = self.coordinator.begin(ticket, refreshing(key), NOW_S)
        if begun is None:
            assert self.coordinator.snapshot() == before
        else:
            self.lead(ticket, begun.load_id)

    @rule(data=st.data(), what=st.sampled_from([computing, filling]))
    def go_on(self, data, what):
        running = sorted(number for number, load in self.loads.items() if load.phase is not Phase.ENDED)
        if running:
            number = data.draw(st.sampled_from(running))
            assert self.coordinator.observe(what(number)) is None
            self.loads[number].phase = {computing: Phase.LOADING, filling: Phase.FILLING}[what]

    @rule(data=st.data(), outcome=st.sampled_from([ACCEPTED, REFUSED, RAISED, Value(7), Abandoned()]))
    def end(self, data, outcome):
        running = sorted(number for number, load in self.loads.items() if load.phase is not Phase.ENDED)
        if running:
            number = data.draw(st.sampled_from(running))
            woken = self.coordinator.observe(over(number, outcome))
            self.loads[number].phase = Phase.ENDED
            self.loads[number].outcome = outcome if isinstance(outcome, Loaded | Raised) else None
            self.wake(woken)

    @rule(data=st.data())
    def leave(self, data):
        if self.following:
            ticket = data.draw(st.sampled_from(sorted(self.following)))
            place = self.following.pop(ticket)
            load = self.loads[place.load_id]
            event = self.coordinator.leave(ticket, place, NOW_S)
            if load.phase is not Phase.ENDED:
                assert event == SharingTimedOut(NOW_S, place.load_id, place.arrival)
            else:
                assert event == self.shared(place, load.outcome)

    def shared(self, place, outcome):
        is_newer = place.joined is Phase.LOADING and isinstance(outcome, Loaded) and outcome.accepted
        if outcome is None or not (place.joined is Phase.PREPARING or is_newer):
            return LoadNotShared(NOW_S, place.arrival)
        if isinstance(outcome, Raised):
            return LoadErrorShared(NOW_S, outcome.error)
        return LoadShared(NOW_S, outcome.payload, None)

    @rule(data=st.data())
    def give_up(self, data):
        """Also of a ticket that has come to its end, or that was given up: then nothing happens."""
        if not self.tickets:
            return
        ticket = data.draw(st.sampled_from(self.tickets))
        before = self.coordinator.snapshot().single_flight
        woken = self.coordinator.give_up(ticket)
        self.following.pop(ticket, None)
        ended = {number for number, load in self.loads.items() if load.leader == ticket}
        for number in ended:
            self.loads[number].phase = Phase.ENDED
        self.wake(woken)
        assert woken is None or woken in ended
        after = self.coordinator.snapshot().single_flight
        # What is another's is as it was.
        assert after.resting == before.resting
        assert after.current == tuple(pair for pair in before.current if pair[1] not in ended)
        left = dict(after.loads)
        for number, load in before.loads:
            others = tuple(pair for pair in load.followers if pair[0] != ticket)
            if number not in ended and load.phase is not Phase.ENDED:
                assert left[number] == replace(load, followers=others)
            elif others:
                outcome = load.outcome if load.phase is Phase.ENDED else None
                assert left[number] == replace(load, followers=others, phase=Phase.ENDED, outcome=outcome)
            else:
                assert number not in left
        assert set(left) <= set(dict(before.loads))
        # Once more does no harm.
        self.coordinator.give_up(ticket)
        assert self.coordinator.snapshot().single_flight == after

    @invariant()
    def it_knows_of_nobody_but_those_who_follow(self):
        known = {ticket: place for ticket, (_, place) in followers(self.coordinator).items()}
        assert known == self.following

    @invariant()
    def a_load_is_kept_for_as_long_as_it_is_led_or_followed(self):
        led = {number for number, load in self.loads.items() if load.phase is not Phase.ENDED}
        kept = led | {place.load_id for place in self.following.values()}
        held = self.coordinator.single_flight.snapshot()
        assert {number for number, _ in held.loads} == kept
        assert {number for _, number in held.led} == kept
        assert {number for _, number in held.current} <= led

    @invariant()
    def whoever_follows_a_load_that_has_ended_was_woken(self):
        ended = {number for number, load in self.loads.items() if load.phase is Phase.ENDED}
        assert ended & {place.load_id for place in self.following.values()} <= self.woken

    @invariant()
    def a_snapshot_is_a_value_of_which_another_can_be_made(self):
        snapshot = self.coordinator.snapshot()
        other = Coordinator()
        other.restore(snapshot)
        assert other.snapshot() == snapshot
        assert hash(other.snapshot()) == hash(snapshot)
        held = {ticket for ticket, _ in snapshot.single_flight.led} | set(followers(other))
        assert other.ticket() not in held

    def teardown(self):
        for ticket in self.tickets:
            self.coordinator.give_up(ticket)
        assert holds_nothing(self.coordinator)


TestOperations = Operations.TestCase
TestOperations.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# An interrupt between any two bytecodes.

MINE = 0
LEADER, ONE, OTHER = 101, 102, 103


@attrs.define
class Scene:
    """What there is before the call, the call, and who has been woken."""

    coordinator: Coordinator
    call: object = None
    woken: set[int] = attrs.field(factory=set)
    leaders: dict[int, int] = attrs.field(factory=dict)

    def lead(self, ticket, key="a", **changes):
        event = self.coordinator.share(ticket, share(key, **changes))
        assert isinstance(event, LoadLed)
        if ticket != MINE:
            self.leaders[ticket] = event.load_id
        return event.load_id

    def follow(self, ticket, key="a"):
        place = self.coordinator.share(ticket, share(key))
        assert isinstance(place, Following)
        return place

    def end(self, load_id, **changes):
        self.wake(self.coordinator.observe(over(load_id, ACCEPTED, **changes)))
        self.leaders = {ticket: number for ticket, number in self.leaders.items() if number != load_id}

    def wake(self, load_id):
        if load_id is not None:
            self.woken.add(load_id)

    def asks(self, command):
        self.call = lambda: self.coordinator.share(MINE, command)

    def observes(self, step):
        self.call = lambda: self.coordinator.observe(step)

    def gives_up(self):
        self.call = lambda: self.coordinator.give_up(MINE)

    def leaves(self, place):
        self.call = lambda: self.coordinator.leave(MINE, place, NOW_S)


def leading(scene):
    scene.asks(share("a"))


def leading_in_place_of_one_that_is_stuck(scene):
    stuck = scene.lead(LEADER)
    scene.follow(ONE)
    scene.asks(share("a", displaced=stuck))


def following(scene):
    scene.lead(LEADER)
    scene.follow(ONE)
    scene.asks(share("a"))


def following_a_loader(scene):
    scene.coordinator.observe(computing(scene.lead(LEADER)))
    scene.asks(share("a", arrival=1))


def following_inside_of_a_loader(scene):
    scene.lead(LEADER)
    scene.call = lambda: scene.coordinator.share(MINE, share("a"), frozenset("b"))


def closing_a_circle(scene):
    scene.lead(LEADER)
    scene.lead(OTHER, "b")
    scene.coordinator.share(ONE, share("b"), frozenset("a"))
    scene.call = lambda: scene.coordinator.share(MINE, share("a"), frozenset("b"))


def sleeping_inside_of_a_loader(scene):
    scene.call = lambda: scene.coordinator.sleep(MINE, ("a",), frozenset("b"))


def leaving_what_was_followed_inside_of_a_loader(scene):
    load_id = scene.lead(LEADER)
    place = scene.coordinator.share(MINE, share("a"), frozenset("b"))
    scene.end(load_id)
    scene.coordinator.give_up(LEADER)
    scene.leaves(place)


def asking_for_one_that_rests(scene):
    for key, until_s in (("b", 2.0), ("a", 9.0)):
        scene.end(scene.lead(LEADER, key), rests_until_s=until_s)
    scene.asks(share("a", now_s=5.0))


def beginning_a_refresh(scene):
    scene.call = lambda: scene.coordinator.begin(MINE, refreshing(), NOW_S)


def beginning_a_refresh_that_is_under_way(scene):
    begun = scene.coordinator.begin(LEADER, refreshing(), NOW_S)
    scene.leaders[LEADER] = begun.load_id
    beginning_a_refresh(scene)


def leaving_early(scene):
    scene.lead(LEADER)
    scene.leaves(scene.follow(MINE))


def leaving_last(scene):
    load_id = scene.lead(LEADER)
    place = scene.follow(MINE)
    scene.end(load_id)
    scene.coordinator.give_up(LEADER)
    scene.leaves(place)


def leaving_first(scene):
    load_id = scene.lead(LEADER)
    place = scene.follow(MINE)
    scene.follow(ONE)
    scene.end(load_id)
    scene.leaves(place)


def computing_while_somebody_follows(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.observes(computing(load_id))


def filling_while_somebody_follows(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.observes(filling(load_id))


def ending_with_followers(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.follow(OTHER)
    scene.observes(over(load_id, ACCEPTED))


def ending_alone(scene):
    scene.observes(over(scene.lead(MINE), ACCEPTED))


def ending_and_resting(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.observes(over(load_id, RAISED, 9.0))


def ending_when_displaced(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.lead(LEADER, displaced=load_id)
    scene.follow(OTHER)
    scene.observes(over(load_id, ACCEPTED))


def giving_up_a_load_with_followers(scene):
    scene.lead(MINE)
    scene.follow(ONE)
    scene.follow(OTHER)
    scene.gives_up()


def giving_up_a_load_alone(scene):
    scene.lead(MINE)
    scene.gives_up()


def giving_up_a_load_that_has_ended(scene):
    load_id = scene.lead(MINE)
    scene.follow(ONE)
    scene.end(load_id)
    scene.woken.clear()  # who was to wake them was interrupted
    scene.gives_up()


def giving_up_a_place(scene):
    scene.lead(LEADER)
    scene.follow(MINE)
    scene.follow(ONE)
    scene.gives_up()


def giving_up_the_last_place(scene):
    load_id = scene.lead(LEADER)
    scene.follow(MINE)
    scene.end(load_id)
    scene.coordinator.give_up(LEADER)
    scene.gives_up()


SCENES = [
    leading,
    leading_in_place_of_one_that_is_stuck,
    following,
    following_a_loader,
    following_inside_of_a_loader,
    closing_a_circle,
    sleeping_inside_of_a_loader,
    leaving_what_was_followed_inside_of_a_loader,
    asking_for_one_that_rests,
    beginning_a_refresh,
    beginning_a_refresh_that_is_under_way,
    leaving_early,
    leaving_last,
    leaving_first,
    computing_while_somebody_follows,
    filling_while_somebody_follows,
    ending_with_followers,
    ending_alone,
    ending_and_resting,
    ending_when_displaced,
    giving_up_a_load_with_followers,
    giving_up_a_load_alone,
    giving_up_a_load_that_has_ended,
    giving_up_a_place,
    giving_up_the_last_place,
]


def set_up(arrange, coordinator_class=Coordinator, single_flight_class=SingleFlight):
    scene = Scene(coordinator_class(single_flight=single_flight_class()))
    arrange(scene)
    return scene


def check(scene, others):
    """After the ticket was given up: nothing of it is left, and nobody else has come to harm."""
    coordinator = scene.coordinator
    held = coordinator.single_flight.snapshot()
    assert {ticket: place for ticket, (_, place) in followers(coordinator).items()} == others
    assert set(coordinator.single_flight._followed) == set(others)
    assert {ticket for (_, ticket), _, _ in coordinator.waits.snapshot()} <= set(others)
    loads = dict(held.loads)
    ended = {number for number, load in loads.items() if load.phase is Phase.ENDED}
    assert all(loads[number].followers for number in ended)
    assert ended <= scene.woken
    led = {ticket: number for ticket, number in held.led if number not in ended}
    assert led == scene.leaders
    assert {number for _, number in held.current} <= set(led.values())
    assert set(loads) == ended | set(led.values())
    # And they go on to their ends.
    for number in led.values():
        assert coordinator.observe(over(number, ACCEPTED)) == number
    for ticket, place in others.items():
        assert not isinstance(coordinator.leave(ticket, place, NOW_S), SharingTimedOut)
    for ticket in (LEADER, ONE, OTHER):
        assert coordinator.give_up(ticket) is None
    assert holds_nothing(coordinator)


def interrupt_everywhere(arrange, *classes):
    """Interrupt the call of a scene at each of its bytecodes; how many it has."""
    number = 0
    has_struck = True
    while has_struck:
        number += 1
        scene = set_up(arrange, *classes)
        others = {
            ticket: place for ticket, (_, place) in followers(scene.coordinator).items() if ticket != MINE
        }
        has_struck = strike(number, scene.call)
        scene.wake(scene.coordinator.give_up(MINE))
        if not has_struck:
            break
        check(scene, others)
    return number


@pytest.mark.parametrize("arrange", SCENES, ids=lambda arrange: arrange.__name__)
def test_interrupted_anywhere_a_ticket_that_is_given_up_leaves_nothing_and_harms_nobody(arrange):
    """B2, L4."""
    assert interrupt_everywhere(arrange) > 30


@pytest.mark.parametrize(
    "arrange",
    [leading, following, ending_with_followers, giving_up_the_last_place],
    ids=lambda each: each.__name__,
)
def test_interrupted_twice_it_is_given_up_at_last(arrange):
    """The second interrupt strikes while the ticket is given up because of the first."""
    first, has_struck = 0, True
    while has_struck:
        first += 4
        second, has_struck_again = 0, True
        while has_struck_again:
            second += 4
            scene = set_up(arrange)
            others = {
                ticket: place for ticket, (_, place) in followers(scene.coordinator).items() if ticket != MINE
            }
            has_struck = strike(first, scene.call)
            has_struck_again = strike(second, lambda scene=scene: scene.coordinator.give_up(MINE))
            scene.wake(scene.coordinator.give_up(MINE))
            if has_struck and has_struck_again:
                check(scene, others)


# Recoveries have tickets as well.


def out_of_order(**changes):
    coordinator = Coordinator(**changes)
    coordinator.heed([StoreGaveUp(FailureKind.TIMEOUT), InvalidationFailed(("shop:a",))], NOW_S)
    return coordinator


def begin_recovery(coordinator):
    return lambda: coordinator.begin_recovery(MINE, TIMEOUTS, NOW_S)


def next_recovery(coordinator):
    recovery = coordinator.begin_recovery(MINE, TIMEOUTS, NOW_S)
    return lambda: coordinator.next_recovery(recovery, Recovered(), TIMEOUTS, NOW_S)


@pytest.mark.parametrize("prepare", [begin_recovery, next_recovery])
def test_interrupted_anywhere_a_recovery_that_is_given_up_is_begun_by_the_next(prepare):
    number, has_struck = 0, True
    while has_struck:
        number += 1
        coordinator = out_of_order()
        has_struck = strike(number, prepare(coordinator))
        coordinator.give_up(MINE)
        [part] = coordinator.snapshot().parts
        assert part.recovering is None
        assert coordinator.needs_recovery
        assert coordinator.begin_recovery(ONE, TIMEOUTS, NOW_S) is not None
    assert number > 30


# Known-wrong ways, each of which must be caught.


class SpawnThatJoins(SingleFlight):
    """What is spawned follows a load that is under way, and never leaves it."""

    def lead(self, ticket, command):
        place = self.join(ticket, command)
        return place if isinstance(place, int) else None


class FollowerThatIsNotTold(Coordinator):
    """A load ends, and its followers are not woken."""

    def observe(self, step):
        super().observe(step)


class FollowerOfOneGivenUpThatIsNotTold(Coordinator):
    """A load is given up, and its followers are not woken."""

    def give_up(self, ticket):
        super().give_up(ticket)


class LeaderThatLeavesItsLoad(SingleFlight):
    """The load of a leader that is interrupted goes on for ever."""

    def give_up(self, ticket):
        if ticket in self._followed:
            return super().give_up(ticket)
        return self._led.get(ticket)


class TicketThatEndsAnothersLoad(SingleFlight):
    """A ticket is remembered by what it led, and not by which load."""

    def _begin(self, ticket, name):
        self.__dict__.setdefault("names", {})[ticket] = name
        return super()._begin(ticket, name)

    def give_up(self, ticket):
        number = super().give_up(ticket)
        current = self._current.get(self.__dict__.get("names", {}).get(ticket))
        if current is not None:
            self._end(current, self._loads[current], None, 0.0)
        return number


def are_caught(coordinator_class=Coordinator, single_flight_class=SingleFlight):
    """Whether random operations find something wrong."""
    machine = type(
        "Wrong",
        (Operations,),
        {"coordinator_class": coordinator_class, "single_flight_class": single_flight_class},
    )
    sought = settings(
        max_examples=120,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[HypothesisPhase.generate],
        report_multiple_bugs=False,
        print_blob=False,
    )
    try:
        run_state_machine_as_test(machine, settings=sought)
    except (AssertionError, KeyError):
        return True
    return False


def test_the_right_way_is_not_caught():
    assert not are_caught()


@pytest.mark.parametrize(
    "wrong",
    [SpawnThatJoins, LeaderThatLeavesItsLoad, TicketThatEndsAnothersLoad],
    ids=lambda each: each.__name__,
)
def test_a_wrong_single_flight_is_caught(wrong):
    assert are_caught(single_flight_class=wrong)


@pytest.mark.parametrize(
    "wrong", [FollowerThatIsNotTold, FollowerOfOneGivenUpThatIsNotTold], ids=lambda each: each.__name__
)
def test_a_wrong_coordinator_is_caught(wrong):
    assert are_caught(coordinator_class=wrong)


class LedWrittenDownLast(SingleFlight):
    """An interrupt finds a load that nobody is known to lead."""

    def _begin(self, ticket, name):
        number = super()._begin(ticket, name)
        del self._led[ticket]
        self._led[ticket] = number
        return number


class FollowedWrittenDownLast(SingleFlight):
    """An interrupt finds a follower of whom nothing is known."""

    def join(self, ticket, command):
        place = super().join(ticket, command)
        if isinstance(place, Following):
            del self._followed[ticket]
            self._followed[ticket] = place.load_id
        return place


class StruckOutFirst(SingleFlight):
    """An interrupt finds a load whose ticket has been struck out."""

    def _end(self, number, load, outcome, rests_until_s):
        self._strike_out(number, load)
        super()._end(number, load, outcome, rests_until_s)


class ToldOnce(SingleFlight):
    """A leader that was interrupted before it could wake its followers does not hear of them again."""

    def _end(self, number, load, outcome, rests_until_s):
        super()._end(number, load, outcome, rests_until_s)
        self._strike_out(number, load)


@pytest.mark.parametrize(
    ("wrong", "arrange"),
    [
        (LedWrittenDownLast, leading),
        (LedWrittenDownLast, beginning_a_refresh),
        (FollowedWrittenDownLast, following),
        (StruckOutFirst, ending_with_followers),
        (ToldOnce, ending_with_followers),
        (ToldOnce, giving_up_a_load_with_followers),
        (LeaderThatLeavesItsLoad, leading),
    ],
    ids=lambda each: each.__name__,
)
def test_a_way_that_does_not_stand_an_interrupt_is_caught(wrong, arrange):
    with pytest.raises((AssertionError, KeyError)):
        interrupt_everywhere(arrange, Coordinator, wrong)
