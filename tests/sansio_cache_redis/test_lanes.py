"""Lanes: whose replies are due, what fits into a batch, and whether a server is silent or only slow."""

import threading

import attrs
import pytest
from redis import exceptions as errors

from sansio_cache_redis.connections.lanes import Call, Lane, Lanes
from sansio_cache_redis.errors import OverloadedError

PING = (b"PING",)
SILENT_S = 0.1


@attrs.define
class FakeWire:
    read_s: float = 0.0
    unfinished_bytes: int = 0
    is_writing: bool = False
    written_bytes: int = 0


def a_call(lane, *, came_s=0.0, timeout_s=0.1, count=1, is_large=False):
    deadline_s = came_s + timeout_s
    return Call([PING] * count, came_s, deadline_s, deadline_s, 1, lane, [], is_large=is_large)


@pytest.fixture
def lane():
    return Lane(SILENT_S, wire=FakeWire())


def test_replies_go_to_whom_they_are_due(lane):
    calls = [a_call(lane, count=count) for count in (2, 1, 3)]
    lane.sent(calls, 0.0)
    lane.received([1, 2, 3, 4], 0.01)
    assert [call.replies for call in calls] == [[1, 2], [3], [4]]
    assert lane.due_count == 2
    lane.received([5, 6], 0.02)
    assert calls[2].replies == [4, 5, 6]
    assert not lane.due


def test_a_reply_that_is_not_due_is_an_error(lane):
    lane.sent([a_call(lane)], 0.0)
    with pytest.raises(errors.ConnectionError, match="nobody has asked for"):
        lane.received([1, 2], 0.01)


def test_a_call_that_has_some_of_its_replies_asks_for_the_rest(lane):
    call, other = a_call(lane, count=3), a_call(lane)
    lane.sent([call, other], 0.0)
    lane.received([1], 0.01)
    _, calls = lane.drop()
    assert calls == [call, other]
    assert len(call.left) == 2
    assert not lane.due
    lane.sent(calls, 0.02)
    lane.received([2, 3, 4], 0.03)
    assert (call.replies, other.replies) == ([1, 2, 3], [4])


def test_who_is_served_or_gone_is_not_asked_for_again(lane):
    served, gone = a_call(lane), a_call(lane)
    lane.sent([served, gone], 0.0)
    lane.received([1], 0.01)
    gone.is_gone = True
    assert lane.drop()[1] == []


def test_a_batch_holds_what_can_be_answered_in_time(lane):
    lane.latency_s = lane.usual_s = lane._paced_s = lane.pace_s = 0.02
    driver = a_call(lane)
    lane.queue.extend(a_call(lane) for _ in range(10))
    batch = lane.take(driver, 0.0)
    assert len(batch) == 4, "of 100 ms some are left for what cannot be foreseen"
    assert len(lane.queue) == 7


def test_who_cannot_be_answered_in_time_at_all_is_refused_and_not_served_late(lane):
    lane.latency_s = lane.usual_s = lane._paced_s = lane.pace_s = 0.02
    late, early = a_call(lane, timeout_s=0.019), a_call(lane)
    lane.queue.extend([late, early])
    assert lane.take(a_call(lane), 0.0)[1:] == [early]
    assert isinstance(late.failure, OverloadedError)


def test_a_quick_server_is_sent_all_that_queues(lane):
    lane.queue.extend(a_call(lane) for _ in range(400))
    assert len(lane.take(a_call(lane), 0.0)) == 401
    lane.queue.extend(a_call(lane) for _ in range(4000))
    assert len(lane.take(a_call(lane), 0.0)) == 1000, "the first does not wait for everybody's replies"


def test_something_large_is_sent_by_itself(lane):
    lane.queue.extend([a_call(lane), a_call(lane, is_large=True), a_call(lane)])
    assert len(lane.take(a_call(lane), 0.0)) == 2
    large = a_call(lane, is_large=True)
    assert lane.take(large, 0.0) == [large]


def serve(lane, now_s, *replies):
    """Take a batch of all that queues, and hand out replies: how many came how much later."""
    batch = lane.take(a_call(lane, came_s=now_s, timeout_s=0.25), now_s)
    lane.sent(batch, now_s)
    for count, later_s in replies or [(len(batch), 0.04)]:
        lane.received([b""] * count, now_s + later_s)
    lane.queue.clear()
    return len(batch)


def fill(lane):
    lane.queue.extend(a_call(lane, timeout_s=0.25) for _ in range(200))


def test_the_pace_is_how_far_apart_replies_are(lane):
    lane.queue.extend(a_call(lane) for _ in range(4))
    serve(lane, 0.0, (1, 0.02), (1, 0.04), (3, 0.1))
    assert lane.latency_s == pytest.approx(0.02)
    assert lane.usual_s < 0.01, "it may be this process that was busy"
    assert lane.pace_s == pytest.approx(0.02)


def test_it_is_known_before_a_batch_has_come_to_its_end(lane):
    lane.queue.extend(a_call(lane) for _ in range(4))
    lane.sent(lane.take(a_call(lane), 0.0), 0.0)
    lane.received([b""], 0.02)
    lane.received([b""], 0.05)
    assert lane.pace_s == pytest.approx(0.03)


def test_a_server_that_is_only_far_away_is_found_out_by_a_small_batch(lane):
    assert serve(lane, 0.0) == 1
    sizes = []
    for _ in range(3):
        fill(lane)
        sizes.append(serve(lane, 0.0))
    assert sizes == [8, 201, 201]
    assert lane.pace_s == 0.0


def test_a_server_that_has_become_slow_is_found_out_by_a_small_batch(lane):
    for later_s in (0.0001, 0.0001):
        fill(lane)
        assert serve(lane, 0.0, (201, later_s)) == 201
    serve(lane, 0.0, (1, 0.04))
    fill(lane)
    assert serve(lane, 0.0, *((1, 0.04 * number) for number in range(1, 9))) == 8
    fill(lane)
    assert serve(lane, 0.0, (1, 0.04), (4, 0.2)) == 5


def test_a_new_connection_begins_with_what_is_known_of_the_server(lane):
    slow = Lane(SILENT_S, latency_s=0.04, pace_s=0.03)
    lane.learn_from([lane, slow])
    assert (lane.latency_s, lane.pace_s) == (0.04, 0.03)


@pytest.mark.parametrize(
    ("read_s", "now_s", "is_slow"),
    [
        (0.05, 0.1, True),
        (0.05, 0.05 + SILENT_S, True),
        (0.05, 0.05 + 2.5 * SILENT_S, False),
        (-1.0, 0.1, False),
    ],
    ids=[
        "others were served just now",
        "this process may be busy",
        "then it fell silent",
        "nothing has come since it waits",
    ],
)
def test_only_silence_is_called_silence(lane, read_s, now_s, is_slow):
    """The breaker opens for the one and not for the other."""
    call = a_call(lane)
    lane.alive_s = lane.wire.read_s = read_s
    error = lane.too_late(call, now_s)
    assert isinstance(error, errors.TimeoutError)
    assert isinstance(error, OverloadedError) is is_slow


def test_a_server_that_takes_something_large_too_slowly_is_not_silent(lane):
    call = a_call(lane, is_large=True)
    lane.sent([call], 0.0)
    assert not isinstance(lane.too_late(call, 0.1), OverloadedError)
    lane.wire.written_bytes = 1000
    lane.alive_s = 0.09
    assert isinstance(lane.too_late(call, 0.1), OverloadedError)


def test_a_call_without_a_connection_has_met_no_other_that_was_served():
    lane = Lane(SILENT_S)
    assert not isinstance(lane.too_late(a_call(lane), 1.0), OverloadedError)


def test_a_reply_that_comes_slowly_is_given_up_once_nobody_waits_for_it(lane):
    call = a_call(lane)
    lane.sent([call], 1.0)
    lane.part_s = 1.0
    assert not lane.is_stuck(2.0)
    call.is_gone = True
    assert not lane.is_stuck(1.05)
    assert lane.is_stuck(1.11)
    lane.due[0].call = None  # it asks elsewhere
    assert lane.is_stuck(1.11)
    lane.drop()
    assert not lane.is_stuck(1.11)


def test_what_is_pending_is_known_by_the_nonces_in_it(lane):
    call = a_call(lane)
    call.commands = [(b"EVALSHA", b"sha", b"1", b"k", b"-nonce-1"), PING]
    assert not lane.carries(frozenset([b"-nonce-1"]))
    lane.sent([call], 1.0)
    assert lane.carries(frozenset([b"-nonce-1"]))
    assert not lane.carries(frozenset([b"-nonce-2"]))
    lane.due[0].call = None
    assert not lane.carries(frozenset([b"-nonce-1"]))


def test_a_server_that_is_far_away_may_be_silent_for_longer(lane):
    lane.usual_s = 0.2
    lane.sent([a_call(lane)], 1.0)
    assert not lane.is_silent(1.39)
    assert lane.is_silent(1.41)
    assert not lane.is_dead(1.99)
    assert lane.is_dead(2.01)


def test_a_connection_is_expected_to_be_as_far_away_as_its_first_answer():
    lanes = Lanes(2, 0.1)
    lanes.give(lanes[0], object(), 0.3)
    assert lanes[0].usual_s == 0.3
    lanes.give(lanes[1], object(), 0.1)
    assert lanes[1].usual_s == 0.3  # it is the same server, and was slower to another


FAR_S = 1e6
"""Later than any test waits."""


def asleep(lane):
    """A call that queues, and has gone to sleep for as long as it may."""
    call = Call([PING], 0.0, FAR_S, FAR_S, 1, lane, [], turn=threading.Lock())
    call.turn.acquire()
    lane.queue.append(call)
    said = []
    sleeper = threading.Thread(target=lambda: said.append(call.sleep(0.0)), daemon=True)
    sleeper.start()

    def woken():
        sleeper.join(20)
        [may_go_on] = said
        return may_go_on

    return call, woken


def test_who_was_appointed_by_one_who_was_interrupted_before_it_could_wake_him_looks_by_himself(lane):
    lane.driver = a_call(lane)
    call, woken = asleep(lane)
    lane.driver = call
    assert woken()


def test_who_queues_where_a_driver_was_interrupted_before_it_could_appoint_another_looks_by_himself(lane):
    lane.driver = driver = a_call(lane)
    call, woken = asleep(lane)
    driver.is_gone = True
    assert not woken()
    lane.appoint()
    assert lane.driver is call


def test_who_was_served_by_one_who_was_interrupted_before_it_could_wake_him_looks_by_himself(lane):
    lane.driver = a_call(lane)
    call, woken = asleep(lane)
    call.replies = [b"PONG"]
    assert woken()


def test_who_goes_to_sleep_when_his_time_is_over_already_is_too_late_and_nothing_worse(lane):
    lane.driver = a_call(lane)
    call = Call([PING], 0.0, 1.0, 1.0, 1, lane, [], turn=threading.Lock())
    call.turn.acquire()
    assert call.sleep(3.0)
