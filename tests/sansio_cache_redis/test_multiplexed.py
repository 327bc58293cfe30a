"""What asyncio and trio share of a connection: replies find their callers, and deadlines are kept. No I/O."""

import hiredis
import pytest
from redis import exceptions as errors

from sansio_cache_redis.connections import multiplexed
from sansio_cache_redis.connections.multiplexed import (
    BULK_BYTES,
    SWEEP_S,
    MultiplexedConnection,
    OpenConnections,
)
from sansio_cache_redis.connections.redispy import reply_reader

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
        self.replies = None
        self.failure = None
        self.is_cancelled = False

    def done(self):
        return self.is_cancelled or self.replies is not None or self.failure is not None

    def set_result(self, replies):
        assert not self.done()
        self.replies = replies

    def set_exception(self, failure):
        assert not self.done()
        self.failure = failure


class Fake(MultiplexedConnection):
    """A connection that notes what it is asked for."""

    def __init__(self):
        self.written = []
        super().__init__(reply_reader(object()), self.written.append)
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

    def receive(self, data):
        self._received(bytearray(data), len(data))

    def ask(self, *words, timeout_s=PATIENT_S):
        caller = Caller()
        self.send(caller, [(b"ECHO", word) for word in words], timeout_s)
        return caller

    def look(self, clock, after_s=SWEEP_S, late_s=0.0):
        due_s = clock.now_s + after_s
        clock.now_s = due_s + late_s
        return self._look(due_s)


@pytest.fixture
def link(clock):
    return Fake()


def echo(word):
    return b"$%d\r\n%s\r\n" % (len(word), word)


# Commands.


def test_a_lone_call_is_written_at_once_and_what_comes_behind_it_in_one_piece(link):
    for word in (b"1", b"2", b"3"):
        link.ask(word)
    assert link.written == [hiredis.pack_command((b"ECHO", b"1"))]
    assert link.flushes == 1
    link.flush()
    assert link.written[1:] == [b"".join(hiredis.pack_command((b"ECHO", each)) for each in (b"2", b"3"))]


def test_after_a_write_of_many_the_next_call_waits_for_the_others(link):
    for word in (b"1", b"2", b"3"):
        link.ask(word)
    link.flush()
    link.receive(b"".join(echo(word) for word in (b"1", b"2", b"3")))
    link.ask(b"4")
    assert link.flushes == 2
    link.flush()  # it was alone
    link.receive(echo(b"4"))
    link.ask(b"5")
    assert link.flushes == 2
    assert len(link.written) == 4


def test_the_first_of_many_go_out_at_once_where_the_server_has_nothing_else_to_do(link):
    for word in (b"1", b"2", b"3"):
        link.ask(word)
    link.flush()
    link.receive(echo(b"1") + echo(b"2") + echo(b"3"))
    words = [b"%d" % number for number in range(40)]
    callers = [link.ask(word) for word in words]
    packed = [hiredis.pack_command((b"ECHO", word)) for word in words]
    first = multiplexed._FIRST_CALLS
    assert link.written[2:] == [b"".join(packed[:first])]
    link.flush()
    assert link.written[3:] == [b"".join(packed[first:])]
    link.receive(b"".join(map(echo, words)))
    assert [caller.replies for caller in callers] == [[word] for word in words]


def test_one_call_more_than_goes_out_at_once_does_not_put_them_out_of_step(link):
    """What is left of many is alone in its write, and not alone."""
    words = [b"%d" % number for number in range(multiplexed._FIRST_CALLS + 1)]
    sizes = []
    for _ in range(4):
        for word in words:
            link.ask(word)
        link.flush()
        sizes.append([data.count(b"ECHO") for data in link.written])
        link.written.clear()
        link.receive(b"".join(map(echo, words)))
    assert sizes == [[1, multiplexed._FIRST_CALLS], *[[multiplexed._FIRST_CALLS, 1]] * 3]


def test_while_the_server_has_something_to_do_the_rest_goes_out_in_one_piece(link):
    for number in range(100):
        link.ask(b"%d" % number)
    assert len(link.written) == 1
    link.flush()
    assert len(link.written) == 2


def test_a_command_that_cannot_be_packed_leaves_nothing_behind(link):
    with pytest.raises(TypeError):
        link.send(Caller(), [(b"SET", b"k", object())], PATIENT_S)
    assert link.written == []
    caller = link.ask(b"1")
    link.receive(echo(b"1"))
    assert caller.replies == [b"1"]


# Replies.


def test_replies_that_come_byte_by_byte_are_put_together(link):
    one, many, last = link.ask(b"1"), link.ask(b"2", b"3"), link.ask(b"4")
    stream = b"".join(echo(word) for word in (b"1", b"2", b"3", b"4"))
    for place in range(len(stream)):
        link.receive(stream[place : place + 1])
    assert [one.replies, many.replies, last.replies] == [[b"1"], [b"2", b"3"], [b"4"]]


def test_the_replies_of_a_cancelled_caller_are_dropped(link):
    """S9, fault 28: also where it was cancelled between two of them."""
    many, last = link.ask(b"1", b"2"), link.ask(b"3")
    link.receive(echo(b"1"))
    many.is_cancelled = True
    link.receive(echo(b"2") + echo(b"3"))
    assert many.replies is None
    assert last.replies == [b"3"]


@pytest.mark.parametrize("extra", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
def test_a_reply_that_nobody_has_asked_for_is_an_error(link, extra):
    """S9, fault 29."""
    caller = link.ask(b"1")
    with pytest.raises(errors.ConnectionError, match="nobody has asked for"):
        link.receive(echo(b"1") + extra)
    assert caller.replies == [b"1"]


def test_errors_are_replies_and_nonsense_is_not(link):
    caller = link.ask(b"1", b"2")
    link.receive(b"-ERR no\r\n" + echo(b"2"))
    assert isinstance(caller.replies[0], errors.ResponseError)
    link.ask(b"3")
    with pytest.raises(errors.InvalidResponse):
        link.receive(b"nonsense\r\n")


def test_a_large_reply_on_its_way_makes_a_link_bulky_until_it_is_there(link):
    link.ask(b"1")
    link.receive(b"$%d\r\n" % (2 * BULK_BYTES) + b"x" * BULK_BYTES)
    assert not link.is_free
    link.receive(b"x" * BULK_BYTES + b"\r\n")
    assert link.is_free


def test_what_is_pending_fails_with_the_connection_each_with_an_error_of_its_own(link):
    callers = [link.ask(b"1"), link.ask(b"2"), link.ask(b"3")]
    callers[1].is_cancelled = True
    link.close(errors.ConnectionError("gone"))
    link.close(errors.ConnectionError("again"))
    assert not link.is_connected
    assert [str(each.failure) for each in callers] == ["gone", "None", "gone"]
    assert callers[0].failure is not callers[2].failure
    with pytest.raises(errors.ConnectionError, match="gone") as refused:
        link.ask(b"4")
    assert refused.value is not link.failure


# Deadlines.


def test_a_call_fails_when_nothing_was_read_for_as_long_as_it_may_take(link, clock):
    hasty, patient = link.ask(b"1", timeout_s=0.05), link.ask(b"2")
    assert link.sweeps == 1
    assert link.look(clock)
    assert not hasty.done()
    assert link.look(clock, 0.04)
    assert isinstance(hasty.failure, errors.TimeoutError)
    assert not patient.done()
    assert link.failure is None, "it was not silent for long enough"
    link.receive(echo(b"1") + echo(b"2"))
    assert patient.replies == [b"2"]


def test_a_connection_that_was_silent_since_the_call_is_given_up(link, clock):
    hasty, patient = link.ask(b"1", timeout_s=0.05), link.ask(b"2")
    assert not link.look(clock, 0.11)
    assert isinstance(hasty.failure, errors.TimeoutError)
    assert isinstance(patient.failure, errors.TimeoutError)
    assert not link.is_connected


def test_as_long_as_replies_come_in_it_is_merely_a_callers_turn_that_has_not_come(link, clock):
    link.ask(b"0")
    last = link.ask(b"1", timeout_s=0.25)
    for _ in range(24):
        link.receive(echo(b"0"))
        link.ask(b"2")
        link._pending.rotate(1)  # it is overtaken all the time
        assert link.look(clock, 0.2)
    assert not last.done()
    for _ in range(3):
        link.look(clock, 0.2)
    assert isinstance(last.failure, errors.TimeoutError), "but not for ever"


def test_looks_that_come_late_are_not_believed_but_for_every_fourth(link, clock):
    """Where the loop was blocked, replies may lie there unread."""
    caller = link.ask(b"1", timeout_s=0.05)
    for _ in range(3):
        assert link.look(clock, late_s=1.0)
        assert not caller.done()
    assert not link.look(clock, late_s=1.0)
    assert isinstance(caller.failure, errors.TimeoutError)


def test_the_sweeper_rests_while_nothing_is_pending(link, clock):
    link.ask(b"1")
    link.receive(echo(b"1"))
    assert not link.look(clock)
    link.ask(b"2")
    assert link.sweeps == 2


# Several.


def test_another_link_is_used_or_opened_where_one_is_bulky_or_gone(clock):
    all_of_them = OpenConnections(2)
    assert all_of_them.choose() is None
    first, second = Fake(), Fake()
    all_of_them.add(first)
    assert all_of_them.choose() is first
    first._get_stuck(True)
    assert all_of_them.choose() is None, "there is room for another"
    all_of_them.add(second)
    assert all_of_them.choose() is second
    second._get_stuck(True)
    assert all_of_them.choose() is second, "there is no room for a third"
    second.close(errors.ConnectionError("gone"))
    assert list(all_of_them) == [first]
    assert len(all_of_them) == 1
    assert all_of_them.choose() is None
    all_of_them.close()
    assert not first.is_connected
    assert len(all_of_them) == 0
