"""Several connections of one event loop: which one is asked, and what becomes of others' calls. No I/O."""

import time

import pytest
from redis import exceptions as errors

from sansio_cache.backoff import LONGEST_CONNECT_PAUSE_S
from sansio_cache_redis.calls import EVALSHA
from sansio_cache_redis.connections import multiplexed, pool
from sansio_cache_redis.connections.multiplexed import MultiplexedConnection, as_they_are
from sansio_cache_redis.connections.pace import SWEEP_S, Pace
from sansio_cache_redis.connections.pool import MultiplexedConnections, Timing
from sansio_cache_redis.connections.redispy import reply_reader
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import OverloadedError, OwnResetError, TooLargeError
from sansio_cache_redis.primitive_scripts import LOCK, UNLOCK
from sansio_cache_redis.scripts import ACQUIRE, RELEASE

PATIENT_S = 60.0
TIMING = Timing(opening_s=PATIENT_S, call_s=PATIENT_S, silence_s=PATIENT_S)
LARGE = b"x" * 2 * BULK_BYTES


class Caller:
    """A future."""

    def __init__(self):
        self.answer = None

    def done(self):
        return self.answer is not None

    def set_result(self, answer):
        assert not self.done()
        self.answer = answer

    def __await__(self):
        while self.answer is None:
            yield self
        return self.answer


class Fake(MultiplexedConnection):
    """A connection that notes what it is asked for."""

    def __init__(self):
        self.written = []
        super().__init__(
            reply_reader(object()), self.written.append, Caller, Pace(PATIENT_S, PATIENT_S), 1_000_000
        )
        self.is_connected = True

    def _flush_soon(self):
        pass

    def _sweep_soon(self):
        pass

    def _disconnect(self):
        self.is_connected = False

    def receive(self, data):
        self.data_received(memoryview(bytearray(data)))


class FakeConnections(MultiplexedConnections):
    """Opens what it is given, when it is told to."""

    def __init__(self, *, max_connections=4, count=1):
        super().__init__(pytest.fail, max_connections=max_connections, timing=TIMING, on_greeted=pytest.fail)
        self.openings = 0
        self.to_open = []
        self.jobs = []
        for _ in range(count):
            self.admit(Fake())

    def admit(self, connection):
        """As `_admit` does, but for the server's time."""
        self._use(connection, 0.0)
        return connection

    def _start(self, job):
        self.jobs.append(job)

    def run_jobs(self):
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            with pytest.raises(StopIteration):
                job.send(None)

    def _open_soon(self):
        self.openings += 1

    def _forsake_openings(self):
        pass

    async def _opened(self, timeout_s):
        if not self.to_open:
            raise errors.ConnectionError("refused")
        return self.admit(self.to_open.pop())

    async def wait_for(self, gathering):
        return gathering.answers

    def get(self, key=b"k", read=as_they_are):
        return self.ask([(b"GET", key)], PATIENT_S, read)


def begun(answer):
    """What a coroutine waits for first."""
    return answer.send(None)


def over(answer):
    """What a coroutine gives that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        answer.send(None)
    return ended.value.value


def test_one_connection_serves_all_while_nothing_is_in_the_way():
    several = FakeConnections(count=2)
    first, second = several
    for _ in range(100):
        several.get()
    assert (first.load, second.load) == (100, 0)
    assert several.openings == 0


def test_another_is_opened_where_the_first_is_in_the_middle_of_something_large():
    several = FakeConnections()
    [first] = several
    first._get_stuck(True)
    several.get()
    assert several.openings == 1
    assert first.load == 1, "it is asked all the same, as long as there is no other"


def test_what_waits_behind_something_large_is_asked_again_where_another_is_open():
    """L5. Its caller has one answer: the first reply is dropped."""
    several = FakeConnections()
    [first] = several
    large, behind = several.get(b"large"), several.get(b"small")
    first.receive(b"$%d\r\n" % len(LARGE) + LARGE[:-10])
    second = several.admit(Fake())
    assert [len(each.written) + len(each._outbox) for each in (first, second)] == [2, 1]
    second.receive(b"$1\r\n1\r\n")
    assert behind.answer == [b"1"]
    first.receive(LARGE[-10:] + b"\r\n$1\r\n2\r\n")
    assert (large.answer, behind.answer) == ([LARGE], [b"1"])


def test_where_no_other_is_to_be_had_the_first_serves_all():
    """`maxclients`, say, or a slow handshake."""
    several = FakeConnections(count=0)
    assert str(over(several.get(read=str))) == "refused"
    several.to_open = [Fake()]
    begun(several.get())
    [first] = several
    first._get_stuck(True)
    several.get()
    assert first.load == 2


def test_what_is_large_goes_out_over_another_connection():
    several = FakeConnections(count=2)
    first, second = several
    several.ask([(b"SET", b"k", LARGE)], PATIENT_S, as_they_are)
    assert (first.load, second.load) == (0, 1)
    assert first.is_free
    assert not second.is_free
    second.receive(b"+OK\r\n")
    assert second.is_free


def test_or_over_the_first_where_there_is_no_other():
    several = FakeConnections()
    begun(several.ask([(b"SET", b"k", LARGE)], PATIENT_S, as_they_are))
    [first] = several
    assert first.load == 1
    alone = FakeConnections(max_connections=1)
    alone.ask([(b"SET", b"k", LARGE)], PATIENT_S, as_they_are)
    assert [each.load for each in alone] == [1]


def test_who_cannot_be_answered_in_time_is_refused_at_once():
    """L5: and nothing is sent, nor closed."""
    several = FakeConnections(max_connections=2, count=2)
    for connection in several:
        connection.most_pending = 1
        several.get()
    with pytest.raises(OverloadedError):
        several.get()
    assert [each.load for each in several] == [1, 1]
    assert all(each.is_connected for each in several)


def test_a_reset_is_not_the_trouble_of_others():
    """Their commands are sent again: all of them are idempotent."""
    several = FakeConnections(count=2)
    first, second = several
    callers = [several.get(b"%d" % number) for number in range(3)]
    several.reset()
    assert [each.is_connected for each in (first, second)] == [False, False]
    assert isinstance(first.failure, OwnResetError)
    assert [caller.answer for caller in callers] == [None] * 3
    third = Fake()
    several.to_open = [third]
    begun_jobs, several.jobs = several.jobs, []
    for job in begun_jobs:
        several.to_open = several.to_open or [third]
        with pytest.raises(StopIteration):
            job.send(None)
    third.receive(b"$1\r\n0\r\n$1\r\n1\r\n$1\r\n2\r\n")
    assert [caller.answer for caller in callers] == [[b"0"], [b"1"], [b"2"]]


def test_what_is_asked_on_a_suspect_connection_is_asked_again_and_the_connection_is_kept():
    """S9: its replies are nobody's, whoever they are for."""
    several = FakeConnections(count=1)
    [first] = several
    caller = several.get()
    several.set_aside()
    several.to_open.append(second := Fake())
    several.run_jobs()
    first.receive(b"$6\r\nothers\r\n")
    second.receive(b"$4\r\nmine\r\n")
    assert caller.answer == [b"mine"]
    assert first.is_connected
    assert list(several) == [second]


def test_many_suspicions_one_after_the_other_cost_one_connection():
    """A namespace that was migrated: each of its keys is in doubt once."""
    several = FakeConnections(count=1)
    several.to_open = [Fake()]
    for _ in range(10):
        used = list(several)
        caller = several.get()
        several.set_aside()
        several.run_jobs()
        assert list(several) not in ([], used)
        for connection in (*used, *several):
            connection.receive(b"$1\r\n1\r\n")
        assert caller.answer == [b"1"]
        several.take_back()
    assert len(several._all()) == 2


def test_a_suspect_connection_whose_reply_was_anothers_is_closed():
    several = FakeConnections(count=1)
    [first] = several
    several.set_aside()
    several.reset()
    assert not first.is_connected
    assert several._all() == []


def test_what_is_not_in_step_by_then_is_not_used_the_next_time():
    several = FakeConnections(count=1)
    [first] = several
    several.get()
    several.set_aside()
    several.to_open.append(second := Fake())
    several.run_jobs()
    second.receive(b"$1\r\n1\r\n")
    several.take_back()
    several.set_aside()
    assert list(several) == []
    first.receive(b"$1\r\n1\r\n")
    several.set_aside()
    assert list(several) == [first]


def test_where_there_is_no_room_for_another_a_suspect_connection_is_closed():
    several = FakeConnections(count=1, max_connections=1)
    [first] = several
    several.set_aside()
    assert not first.is_connected


def test_after_a_reset_that_another_connection_survives_it_is_asked():
    several = FakeConnections(count=2)
    first, second = several
    caller = several.get()
    several.give_up(first, None)
    assert (first.is_connected, second.load) == (False, 1)
    second.receive(b"$-1\r\n")
    assert caller.answer == [None]


def test_a_value_that_is_too_large_costs_its_connection_and_no_other_caller_anything():
    several = FakeConnections(count=2)
    first, second = several
    giant, behind = several.get(b"giant"), several.get(b"k")
    first.receive(b"$2000000\r\nthe beginning")
    assert isinstance(giant.answer[0], TooLargeError)
    assert not first.is_connected
    second.receive(b"$1\r\n1\r\n")
    assert behind.answer == [b"1"]


def test_what_was_answered_before_such_a_value_is_kept_and_the_rest_asked_for_elsewhere():
    several = FakeConnections(count=2)
    first, second = several
    caller = several.ask([(b"GET", key) for key in (b"1", b"giant", b"3")], PATIENT_S, as_they_are)
    first.receive(b"$1\r\n1\r\n$2000000\r\n")
    assert second._pending[0][5] == [(b"GET", b"3")]
    second.receive(b"$1\r\n3\r\n")
    [one, giant, three] = caller.answer
    assert (one, type(giant), three) == (b"1", TooLargeError, b"3")


def test_from_then_on_it_goes_over_a_connection_of_its_own():
    several = FakeConnections(count=2)
    first, second = several
    several.get(b"giant")
    first.receive(b"$2000000\r\n")
    several.to_open = [third := Fake()]
    begun(several.get(b"giant"))
    several.get(b"k")
    assert (second.load, third.load) == (1, 1)
    third.receive(b"$2000000\r\n")
    assert str(over(several.get(b"giant", str))) == "refused", "it never goes over one that others need"
    assert second.is_connected


def test_a_value_that_did_not_come_in_time_is_not_asked_for_until_a_little_later(monkeypatch):
    several = FakeConnections(count=2)
    first, _ = several
    several.get(b"large")
    first.receive(b"$900000\r\n")
    several.give_up(first, [(b"GET", b"large")])
    with pytest.raises(OverloadedError, match="in time"):
        several.get(b"large")
    several.get(b"k")
    monkeypatch.setattr(pool, "monotonic", lambda: time.monotonic() + 2.0)
    several.to_open = [third := Fake()]
    begun(several.get(b"large"))
    assert third.load == 1


def test_before_it_serves_others_a_connection_is_closed_by_such_a_value():
    alone = Fake()
    caller = alone.ask([(b"GET", b"giant")], PATIENT_S, as_they_are)
    alone.receive(b"$2000000\r\n")
    assert isinstance(caller.answer[0], TooLargeError)
    assert not alone.is_connected


def test_where_there_is_no_other_connection_after_a_reset_the_failure_is_read():
    several = FakeConnections()
    caller = several.get(read=str)
    several.reset()
    several.run_jobs()
    assert caller.answer == "refused"


def test_a_connection_that_was_closed_meanwhile_fails_the_call():
    several = FakeConnections(count=0)
    closed = Fake()
    closed.close(errors.ConnectionError("gone"))
    several.to_open = [closed]
    assert over(several.get(read=str)) == "gone"


def test_a_connection_that_breaks_fails_what_is_pending_and_is_forgotten():
    several = FakeConnections(count=2)
    first, second = several
    caller = several.get(read=str)
    first.close(errors.ConnectionError("lost"))
    assert caller.answer == "lost"
    assert list(several) == [second]


class Clock:
    """The time, as it is told."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in (pool, multiplexed):
        monkeypatch.setattr(module, "monotonic", made)
    return made


def pass_time(several, clock, seconds):
    """All connections are looked at, as their sweepers do."""
    until_s = clock.now_s + seconds
    while clock.now_s < until_s:
        clock.now_s += SWEEP_S
        for connection in list(several):
            connection._look()


@pytest.mark.parametrize("is_other_alive", [True, False])
def test_a_connection_that_falls_silent_is_no_outage_while_the_server_answers_over_another(
    clock, is_other_alive
):
    several = FakeConnections(count=2)
    first, second = several
    first._pace = Pace(0.1, 0.25)
    caller = several.ask([(b"GET", b"k")], 0.25, as_they_are)
    second.ask([(b"GET", b"other")] * 9, PATIENT_S, as_they_are)
    for _ in range(6):
        pass_time(several, clock, 0.02)
        if is_other_alive:
            second.receive(b"$1\r\n1\r\n")
    assert not first.is_connected
    if is_other_alive:
        assert caller.answer is None
        second.receive(b"$1\r\n1\r\n" * 3 + b"$1\r\n2\r\n")
        assert caller.answer == [b"2"]
    else:
        assert type(caller.answer) is errors.TimeoutError


def test_who_is_out_of_time_where_another_connection_was_answered_has_asked_too_much(clock):
    several = FakeConnections(count=2)
    _, second = several
    hasty = several.ask([(b"GET", b"k")], 0.05, as_they_are)
    second.ask([(b"GET", b"other")], PATIENT_S, as_they_are)
    pass_time(several, clock, 0.02)
    second.receive(b"$1\r\n1\r\n")
    pass_time(several, clock, 0.04)
    assert isinstance(hasty.answer, OverloadedError)


def test_connections_that_do_not_last_are_followed_by_pauses_and_no_others():
    several = FakeConnections(count=3)
    pauses = []
    for _ in range(8):
        several._lost()
        pauses.append(several._pause_s())
    assert max(pauses) <= LONGEST_CONNECT_PAUSE_S
    assert pauses[-1] > 10 * pauses[0]
    next(iter(several)).close(errors.ConnectionError("lost after a long time"))
    several._lost()
    assert several._pause_s() < 0.011


ACQUIRED = (EVALSHA, ACQUIRE.sha, b"1", b"k", b"-nonce-1", b"60000")
GIVEN_BACK = (EVALSHA, RELEASE.sha, b"1", b"k", b"-nonce-1", b"channel")
LOCKED = (EVALSHA, LOCK.sha, b"1", b"k", b"-nonce-1", b"60000")
UNLOCKED = (EVALSHA, UNLOCK.sha, b"1", b"k", b"-nonce-1", b"channel")


def given_back(several, gives=GIVEN_BACK):
    return several.ask([gives], PATIENT_S, as_they_are)


@pytest.mark.parametrize(
    ("asks", "gives"), [(ACQUIRED, GIVEN_BACK), (LOCKED, UNLOCKED)], ids=["lease", "lock"]
)
def test_what_gives_a_lease_or_a_lock_back_does_not_overtake_what_asked_for_it(asks, gives):
    """Over another connection it might come first: then nobody would have it until it lapses."""
    several = FakeConnections(count=2)
    first, second = several
    first._get_stuck(True)
    asking = several.ask([asks], PATIENT_S, as_they_are)
    assert second.load == 1
    asking.set_result("given up")
    first._get_stuck(False)
    answer = given_back(several, gives)
    assert (first.load, second.load) == (0, 2)
    second.receive(b":1\r\n:2\r\n")
    assert answer.answer == [2]
    assert not given_back(several, gives).done()  # nothing is pending any more: anywhere
    assert first.load == 1


def test_it_goes_behind_all_that_was_sent_of_it_wherever_that_was():
    several = FakeConnections(count=2)
    first, second = several
    several.ask([ACQUIRED], PATIENT_S, as_they_are)
    first._get_stuck(True)
    for homeless in first.hand_over(first=True):
        second.take(homeless)
    assert (first.load, second.load) == (1, 1)
    answer = given_back(several)
    assert (first.load, second.load) == (2, 2)
    second.receive(b":1\r\n:2\r\n")
    assert answer.answer == [2]
    first.receive(b":1\r\n:3\r\n")
    assert first.failure is None


def test_what_was_asked_on_a_suspect_connection_is_taken_back_there_as_well():
    several = FakeConnections()
    [first] = several
    asking = several.ask([ACQUIRED], PATIENT_S, as_they_are)
    asking.set_result("given up")
    several.set_aside()
    second = several.admit(Fake())
    answer = given_back(several)
    assert (first.load, second.load) == (2, 1)
    second.receive(b":2\r\n")
    assert answer.answer == [2]
    second.close(OwnResetError("gone"))
    several.to_open = [Fake()]
    begun(given_back(several))
    assert first.load == 3
