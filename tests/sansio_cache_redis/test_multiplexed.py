"""What asyncio and trio share of a connection: replies find their callers, and deadlines are kept. No I/O."""

import hiredis
import pytest
from redis import exceptions as errors

from sansio_cache_redis.connections import multiplexed
from sansio_cache_redis.connections.multiplexed import MultiplexedConnection, as_they_are
from sansio_cache_redis.connections.pace import SWEEP_S, Pace
from sansio_cache_redis.connections.redispy import reply_reader
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import OverloadedError
from sansio_cache_redis.reading import Again

PATIENT_S = 60.0


class Clock:
    """The time, as it is told; no two things happen at the same."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        self.now_s += 1e-6
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(multiplexed, "monotonic", made)
    return made


class Caller:
    """A future."""

    def __init__(self):
        self.answer = None
        self.is_cancelled = False

    def done(self):
        return self.is_cancelled or self.answer is not None

    def set_result(self, answer):
        assert not self.done()
        self.answer = answer

    def __await__(self):
        yield self


class Fake(MultiplexedConnection):
    """A connection that notes what it is asked for."""

    def __init__(self):
        self.written = []
        super().__init__(reply_reader(object()), self.written.append, Caller, Pace(0.1, 0.25), 1 << 30)
        self.unread = self.unsent = 0
        self.flushes = 0
        self.sweeps = 0
        self.is_connected = True

    def _flush_soon(self):
        self.flushes += 1

    def flush(self):
        self.written.append(self._outgoing())

    def _sweep_soon(self):
        self.sweeps += 1

    def _disconnect(self):
        self.is_connected = False

    def _unread_bytes(self):
        return self.unread

    def _unsent_bytes(self):
        return self.unsent

    def receive(self, data):
        self.data_received(memoryview(bytearray(data)))

    def echo(self, *words, timeout_s=PATIENT_S, read=as_they_are):
        return self.ask([(b"ECHO", word) for word in words], timeout_s, read)

    def look(self, clock, late_s=0.0):
        clock.now_s += SWEEP_S + late_s
        return self._look()


@pytest.fixture
def connection(clock):
    return Fake()


def echo(word):
    return b"$%d\r\n%s\r\n" % (len(word), word)


# Commands.


def test_a_lone_call_is_written_at_once_and_what_comes_behind_it_in_one_piece(connection):
    for word in (b"1", b"2", b"3"):
        connection.echo(word)
    assert connection.written == [hiredis.pack_command((b"ECHO", b"1"))]
    assert connection.flushes == 1
    connection.flush()
    assert connection.written[1:] == [
        b"".join(hiredis.pack_command((b"ECHO", each)) for each in (b"2", b"3"))
    ]


def test_after_a_write_of_many_the_next_call_waits_for_the_others(connection):
    for word in (b"1", b"2", b"3"):
        connection.echo(word)
    connection.flush()
    connection.receive(b"".join(echo(word) for word in (b"1", b"2", b"3")))
    connection.echo(b"4")
    assert connection.flushes == 2
    connection.flush()  # it was alone
    connection.receive(echo(b"4"))
    connection.echo(b"5")
    assert connection.flushes == 2
    assert len(connection.written) == 4


def test_the_first_of_many_go_out_at_once_where_the_server_has_nothing_else_to_do(connection):
    for word in (b"1", b"2", b"3"):
        connection.echo(word)
    connection.flush()
    connection.receive(echo(b"1") + echo(b"2") + echo(b"3"))
    words = [b"%d" % number for number in range(40)]
    callers = [connection.echo(word) for word in words]
    packed = [hiredis.pack_command((b"ECHO", word)) for word in words]
    first = multiplexed._FIRST_CALLS
    assert connection.written[2:] == [b"".join(packed[:first])]
    connection.flush()
    assert connection.written[3:] == [b"".join(packed[first:])]
    connection.receive(b"".join(map(echo, words)))
    assert [caller.answer for caller in callers] == [[word] for word in words]


def test_one_call_more_than_goes_out_at_once_does_not_put_them_out_of_step(connection):
    """What is left of many is alone in its write, and not alone."""
    words = [b"%d" % number for number in range(multiplexed._FIRST_CALLS + 1)]
    sizes = []
    for _ in range(4):
        for word in words:
            connection.echo(word)
        connection.flush()
        sizes.append([data.count(b"ECHO") for data in connection.written])
        connection.written.clear()
        connection.receive(b"".join(map(echo, words)))
    assert sizes == [[1, multiplexed._FIRST_CALLS], *[[multiplexed._FIRST_CALLS, 1]] * 3]


def test_while_the_server_has_something_to_do_the_rest_goes_out_in_one_piece(connection):
    for number in range(100):
        connection.echo(b"%d" % number)
    assert len(connection.written) == 1
    connection.flush()
    assert len(connection.written) == 2


def test_a_command_that_cannot_be_packed_leaves_nothing_behind(connection):
    with pytest.raises(TypeError):
        connection.ask([(b"SET", b"k", object())], PATIENT_S, as_they_are)
    assert connection.written == []
    caller = connection.echo(b"1")
    connection.receive(echo(b"1"))
    assert caller.answer == [b"1"]


# Replies.


def test_replies_that_come_byte_by_byte_are_put_together(connection):
    one, many, last = connection.echo(b"1"), connection.echo(b"2", b"3"), connection.echo(b"4")
    stream = b"".join(echo(word) for word in (b"1", b"2", b"3", b"4"))
    for place in range(len(stream)):
        connection.receive(stream[place : place + 1])
    assert [one.answer, many.answer, last.answer] == [[b"1"], [b"2", b"3"], [b"4"]]


def test_the_replies_of_a_cancelled_caller_are_dropped(connection):
    """S9, fault 28: also where it was cancelled between two of them."""
    many, last = connection.echo(b"1", b"2"), connection.echo(b"3")
    connection.receive(echo(b"1"))
    many.is_cancelled = True
    connection.receive(echo(b"2") + echo(b"3"))
    assert many.answer is None
    assert last.answer == [b"3"]


@pytest.mark.parametrize("extra", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
def test_a_reply_that_nobody_has_asked_for_is_an_error(connection, extra):
    """S9, fault 29."""
    caller = connection.echo(b"1")
    connection.receive(echo(b"1") + extra)
    assert caller.answer == [b"1"]
    assert "nobody has asked for" in str(connection.failure)
    assert not connection.is_connected


def test_errors_are_replies_and_nonsense_is_not(connection):
    caller = connection.echo(b"1", b"2")
    connection.receive(b"-ERR no\r\n" + echo(b"2"))
    assert isinstance(caller.answer[0], errors.ResponseError)
    after = connection.echo(b"3")
    connection.receive(b"nonsense\r\n")
    assert isinstance(after.answer, errors.InvalidResponse)
    assert not connection.is_connected


def test_a_large_reply_on_its_way_makes_a_connection_bulky_until_it_is_there(connection):
    connection.echo(b"1")
    connection.receive(b"$%d\r\n" % (2 * BULK_BYTES) + b"x" * BULK_BYTES)
    assert not connection.is_free
    connection.receive(b"x" * BULK_BYTES + b"\r\n")
    assert connection.is_free


def test_what_is_pending_fails_with_the_connection(connection):
    callers = [connection.echo(b"1"), connection.echo(b"2"), connection.echo(b"3")]
    callers[1].is_cancelled = True
    connection.close(errors.ConnectionError("gone"))
    connection.close(errors.ConnectionError("again"))
    assert not connection.is_connected
    assert [str(each.answer) for each in callers] == ["gone", "None", "gone"]
    with pytest.raises(errors.ConnectionError, match="gone") as refused:
        connection.echo(b"4")
    assert refused.value is not connection.failure


# Deadlines. `test_pace.py` has whose time it is.


def passing(connection, clock, seconds):
    """Look again and again, as the sweeper does, for so long; whether it would go on."""
    until_s = clock.now_s + seconds
    while clock.now_s < until_s:
        goes_on = connection.look(clock)
    return goes_on


def test_a_call_fails_when_its_time_is_over_whatever_comes_in_for_others(connection, clock):
    """L5: the wait for its turn counts, and the connection is not closed for it: it answers."""
    callers = [connection.echo(b"%d" % number, timeout_s=0.25) for number in range(10)]
    for number in range(9):
        assert passing(connection, clock, 0.04)
        connection.receive(echo(b"%d" % number))
    assert [caller.answer for caller in callers[:6]] == [[b"%d" % number] for number in range(6)]
    assert {type(caller.answer) for caller in callers[6:]} == {OverloadedError}
    assert connection.is_connected
    late = connection.echo(b"late")
    connection.receive(echo(b"9") + echo(b"late"))
    assert late.answer == [b"late"], "the reply of the one that has gone is dropped"


def test_a_call_that_is_in_a_greater_hurry_than_its_connection_fails_alone(connection, clock):
    """What is left of a call's time, say, may be too short to be a witness of silence."""
    hasty, patient = connection.echo(b"1", timeout_s=0.05), connection.echo(b"2")
    assert connection.sweeps == 1
    assert passing(connection, clock, 0.06)
    assert type(hasty.answer) is OverloadedError
    assert not patient.done()
    assert connection.is_free, "nothing was answered meanwhile, which is no measure of what can be"
    connection.receive(echo(b"1") + echo(b"2"))
    assert patient.answer == [b"2"]


def test_a_connection_that_was_silent_since_the_call_is_given_up(connection, clock):
    first, second = connection.echo(b"1", timeout_s=0.25), connection.echo(b"2")
    assert not passing(connection, clock, 0.13)
    assert type(first.answer) is type(second.answer) is errors.TimeoutError
    assert not connection.is_connected


def test_what_is_large_may_take_a_second_more_for_each_mebibyte(connection, clock):
    """As long as the peer takes it, or has taken it and says nothing yet."""
    large = connection.ask([(b"SET", b"k", b"x" * 2 * 2**20)], 0.25, as_they_are)
    connection.unsent = 2 * 2**20
    for _ in range(20):
        connection.unsent -= 2**16
        assert passing(connection, clock, 0.04)
    connection.unsent = 0
    assert passing(connection, clock, 1.0)
    assert not large.done()
    assert not connection.is_free, "nobody else is to wait behind it"
    connection.receive(b"+OK\r\n")
    assert large.answer == [b"OK"]
    assert connection.is_free


def test_a_peer_that_takes_nothing_of_what_is_large_is_silent(connection, clock):
    large = connection.ask([(b"SET", b"k", b"x" * 2 * 2**20)], 0.25, as_they_are)
    connection.unsent = 2**20
    assert not passing(connection, clock, 0.6)
    assert type(large.answer) is errors.TimeoutError


def test_what_is_large_and_has_to_be_sent_once_more_has_as_long_again(connection, clock):
    """A script that the server does not know."""
    again = Again([(b"SET", b"k", b"x" * 2 * 2**20)], as_they_are)
    large = connection.ask([(b"SET", b"k", b"x" * 2 * 2**20)], 0.25, lambda _: again)
    passing(connection, clock, 1.0)
    connection.receive(b"-NOSCRIPT\r\n")
    assert passing(connection, clock, 1.0)
    assert not large.done()
    assert not connection.is_free
    connection.receive(b"+OK\r\n")
    assert large.answer == [b"OK"]


def test_and_what_is_large_is_given_up_where_it_takes_longer(connection, clock):
    large = connection.ask([(b"SET", b"k", b"x" * 2**20)], 0.25, as_they_are)
    connection.unsent = 2**20
    while not large.done():
        connection.unsent -= 1
        assert connection.look(clock)
        assert clock.now_s < 1001.3
    assert isinstance(large.answer, OverloadedError)


def test_after_calls_had_to_be_given_up_no_more_are_taken_than_can_be_answered(connection, clock):
    answers = 0
    connection._pace.call_s = 0.25
    calls = [connection.echo(b"1", timeout_s=0.25) for _ in range(100)]
    while not calls[-1].done():
        passing(connection, clock, 0.02)
        connection.receive(echo(b"1"))
        answers += 1
    while not connection.is_free:
        passing(connection, clock, 0.02)
        connection.receive(echo(b"1"))
    while connection.is_free:
        connection.echo(b"2", timeout_s=0.25)
    assert 0.5 * answers <= connection.load <= answers


def test_the_sweeper_rests_while_nothing_is_pending(connection, clock):
    connection.echo(b"1")
    connection.receive(echo(b"1"))
    assert not connection.look(clock)
    connection.echo(b"2")
    assert connection.sweeps == 2


# Reading.


def test_replies_are_read_where_they_come_in_and_so_are_failures(connection):
    one, many = connection.echo(b"1", read=repr), connection.echo(b"2", b"3", read=len)
    lost = connection.echo(b"4", read=lambda failure: type(failure))
    connection.receive(echo(b"1") + echo(b"2") + echo(b"3"))
    assert [one.answer, many.answer] == ["[b'1']", 2]
    connection.close(errors.ConnectionError("gone"))
    assert lost.answer is errors.ConnectionError


def test_what_is_overdue_is_read_as_a_failure(connection, clock):
    hasty = connection.echo(b"1", timeout_s=0.1, read=type)
    passing(connection, clock, 0.12)
    assert hasty.answer is errors.TimeoutError


def test_nothing_is_read_for_a_caller_that_has_gone(connection, clock):
    """Not its replies, and no failure in their place."""
    read = []
    gone = [connection.echo(b"%d" % number, timeout_s=0.05, read=read.append) for number in range(3)]
    for caller in gone:
        caller.is_cancelled = True
    connection.receive(echo(b"0"))
    passing(connection, clock, 0.06)
    connection.close(errors.ConnectionError("gone"))
    assert read == []


def test_reading_may_close_the_connection_in_the_midst_of_replies(connection):
    """S9: a reply of another's. What has come in behind it is nobody's, and nothing is answered twice."""

    def distrust(replies):
        connection.close(errors.ConnectionError("out of step"))
        return replies

    first, second = connection.echo(b"1"), connection.echo(b"2", read=distrust)
    third, many = connection.echo(b"3"), connection.echo(b"4", b"5")
    connection.receive(b"".join(map(echo, (b"1", b"2", b"3", b"4"))))
    assert [first.answer, second.answer] == [[b"1"], [b"2"]]
    assert [str(third.answer), str(many.answer)] == ["out of step", "out of step"]
    assert not connection.is_connected
    assert not connection.is_free
    connection.receive(echo(b"5"))
    assert str(connection.failure) == "out of step"


def test_reading_may_close_the_connection_in_the_midst_of_failures(connection, clock):
    def distrust(failure):
        connection.close(errors.ConnectionError("out of step"))
        return failure

    overdue = [connection.echo(b"%d" % n, timeout_s=0.05, read=distrust) for n in range(3)]
    patient = connection.echo(b"3", read=distrust)
    assert not passing(connection, clock, 0.06)
    assert all(caller.done() for caller in (*overdue, patient))
    assert str(patient.answer) == "out of step"
