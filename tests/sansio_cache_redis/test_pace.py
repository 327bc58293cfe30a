"""How fast a connection answers, and whose fault it is where it does not. No I/O, and no clock."""

import pytest

from sansio_cache_redis.connections.pace import SWEEP_S, UNLIMITED, Pace, Seen

MUCH = 100_000


class Stage:
    """A connection that is looked at, and what there is to be seen."""

    def __init__(self, call_s=0.25):
        self.pace = Pace(0.1, call_s)
        self.now_s = self.read_s = 1000.0
        self.asked_s = 1000.0
        self.answered = 0
        self.pending = 1
        self.pace.begin(self.now_s)

    def look(self, after_s=SWEEP_S, *, read=False, answered=0, unread=0, unsent=0, is_waiting=True):
        """What the connection's clock says then, from its beginning."""
        self.now_s += after_s
        if read or answered:
            self.read_s = self.now_s - self.pace.behind_s - 0.001
        self.answered += answered
        seen = Seen(
            now_s=self.now_s,
            read_s=self.read_s,
            unread_bytes=unread,
            unsent_bytes=unsent,
            answered=self.answered,
            pending=self.pending,
            is_waiting=is_waiting,
        )
        return round(self.pace.look(seen, self.asked_s) - 1000.0, 6)


@pytest.fixture
def stage():
    return Stage()


# The clock.


def test_while_nothing_comes_and_nothing_lies_there_time_is_the_servers(stage):
    assert [stage.look() for _ in range(3)] == [0.02, 0.04, 0.06]


def test_however_busy_the_loop_is(stage):
    """L5: each look comes late, and a server that is silent is found out all the same."""
    stage.look()
    assert stage.look(1.0) == 1.02
    assert stage.pace.is_dead(0.25, 0.0)


def test_while_much_lies_there_unread_the_clock_stands_still(stage):
    stage.look(read=True)
    stage.look(read=True, unread=MUCH)
    assert [stage.look(0.03, read=True, unread=MUCH) for _ in range(100)] == [0.04] * 100
    assert stage.look(read=True) == 0.06


def test_what_has_just_come_and_is_about_to_be_read_does_not_stop_it(stage):
    assert [stage.look(read=True, unread=each) for each in (MUCH, 0, MUCH, 10)] == [0.02, 0.04, 0.06, 0.08]


def test_the_time_before_anything_was_sent_is_the_loops(stage):
    """Thousands of calls of one turn go out at its end."""
    assert stage.look(2.0) == 0.0
    assert not stage.pace.is_dead(0.25, 0.0)


def test_a_look_that_came_late_while_replies_lay_there_is_repeated_but_not_for_ever(stage):
    stage.look()
    believed = []
    for _ in range(5):
        stage.look(0.3, unread=100)
        believed.append(not stage.pace.is_to_look_again)
    assert believed == [False, False, False, True, True]
    stage.look(unread=100)
    assert not stage.pace.is_to_look_again


# Silence.


def test_a_connection_is_dead_where_it_said_nothing_for_so_long(stage):
    while not stage.pace.is_dead(0.25, 0.0):
        passed_s = stage.look()
    assert 0.1 <= passed_s <= 0.12


def test_but_for_longer_where_it_has_always_taken_its_time(stage):
    stage.pace.slowest_s = 0.12
    while not stage.pace.is_dead(0.25, 0.0):
        passed_s = stage.look()
    assert 0.36 <= passed_s <= 0.38


def test_and_for_longer_where_the_next_call_has_more_time_than_others(stage):
    while not stage.pace.is_dead(1.0, 0.0):
        passed_s = stage.look()
    assert 0.4 <= passed_s <= 0.42


def test_how_long_it_takes_is_learned_as_it_answers_and_forgotten_as_it_gets_faster(stage):
    for _ in range(4):
        stage.look()
    stage.look(answered=1)
    assert 0.07 < stage.pace.slowest_s < 0.09
    for _ in range(300):
        stage.asked_s = stage.now_s
        stage.look(answered=1)
    assert stage.pace.slowest_s < 0.01


def test_what_the_peer_takes_is_a_sign_of_life(stage):
    for unsent in range(2_000_000, 0, -50_000):
        stage.look(unsent=unsent)
        assert not stage.pace.is_dead(0.25, 2.0)


def test_who_takes_nothing_need_not_be_waited_for_for_long_on_account_of_it(stage):
    while not stage.pace.is_dead(0.25, 2.0):
        passed_s = stage.look(unsent=1_000_000)
    assert 0.5 <= passed_s <= 0.52


def test_and_who_has_taken_it_all_has_it_to_work_on(stage):
    stage.look(unsent=1_000_000)
    stage.look()
    while not stage.pace.is_dead(0.25, 2.0):
        passed_s = stage.look()
    assert 2.0 < passed_s < 2.2


# Room.


def fill(stage, seconds, every=1):
    for look in range(round(seconds / SWEEP_S)):
        stage.look(answered=look % every == 0)


def test_any_number_may_be_pending_as_long_as_nothing_had_to_be_given_up(stage):
    fill(stage, 1.0)
    assert stage.pace.most_pending == UNLIMITED


def test_after_that_no_more_than_were_answered_within_the_time_of_a_call(stage):
    """At 50 a second that is ten, in a quarter of a second, and a little less."""
    stage.pending = 100
    fill(stage, 1.0)
    stage.pace.gave_up()
    assert stage.pace.most_pending in (9, 10)


def test_one_at_least_so_that_it_is_noticed_when_it_gets_better(stage):
    stage.look()
    stage.pace.gave_up()
    assert stage.pace.most_pending == 1


def test_it_becomes_more_again_while_nothing_has_to_be_given_up_and_the_queue_is_short(stage):
    stage.pending = 100
    fill(stage, 1.0)
    stage.pace.gave_up()
    before = stage.pace.most_pending
    fill(stage, 1.0)
    assert stage.pace.most_pending == before
    stage.pending = 5
    fill(stage, 1.0)
    assert before < stage.pace.most_pending < 2 * before


def test_after_a_long_rest_all_is_as_in_the_beginning(stage):
    stage.look()
    stage.pace.gave_up()
    stage.pace.begin(stage.now_s + 0.1)
    assert stage.pace.most_pending == 1
    stage.pace.begin(stage.now_s + 2.0)
    assert stage.pace.most_pending == UNLIMITED
