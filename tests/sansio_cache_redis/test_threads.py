"""Connections for threads against a server that the test plays: who is served, refused, and sent again."""

import math
import signal
import socket
import threading
import time
from contextlib import closing

import pytest
from redis import exceptions as errors

from sansio_cache import backoff
from sansio_cache.config import RedisConfig
from sansio_cache_redis.calls import EVALSHA
from sansio_cache_redis.connections.lanes import Call
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.scattering import ScatteringConnections
from sansio_cache_redis.connections.settings import blocking_factory
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.connections.unfinished import BULK_BYTES
from sansio_cache_redis.errors import ExhaustedError, OverloadedError, OwnResetError, TooLargeError
from sansio_cache_redis.facts import GREETING
from sansio_cache_redis.primitive_scripts import LOCK, UNLOCK
from sansio_cache_redis.reading import behind_asking
from sansio_cache_redis.scripts import ACQUIRE, RELEASE
from sansio_cache_runtime.sync.background import Background
from support.servers import wait_until

LONG_S = 20.0
SHORT_S = 0.15
GREETED = b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n" + b"-ERR refused\r\n" * 3
PING = (b"PING",)


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock):
        self.sock = sock
        self._unread = bytearray()
        sock.settimeout(LONG_S)
        sock.sendall(GREETED)

    def asked(self, *commands):
        """Wait until these commands have come in, and no others before them."""
        wanted = pack(commands)
        while len(self._unread) < len(wanted):
            data = self.sock.recv(65536)
            assert data, "the connection was closed"
            self._unread += data
            if self._unread.startswith(pack(GREETING)):
                del self._unread[: len(pack(GREETING))]
        assert bytes(self._unread[: len(wanted)]) == wanted
        del self._unread[: len(wanted)]

    def answers(self, data):
        """Send what comes next."""
        self.sock.sendall(data)

    def rest(self):
        """What else has come in when the other end has closed it."""
        rest = bytes(self._unread)
        while data := self.sock.recv(65536):
            rest += data
        return rest

    def is_closed(self):
        """Wait until the other end has closed it."""
        while self.sock.recv(65536):
            pass
        return True


class Played:
    """Connections to a server that the test plays."""

    def __init__(self, most=2, start_thread=None, kind=ThreadsConnections):
        self.peers = []
        self.refusal = None
        self.tries = 0
        self.may_open = threading.Event()
        self.may_open.set()
        self.beneath = kind(
            self._make,
            start_thread or Background().start,
            max_connections=most,
            silence_s=60.0,
            opening_timeout_s=LONG_S,
            on_greeted=lambda _: None,
            longest_value_bytes=2**20,
        )
        self._make_redispy = blocking_factory(RedisConfig())

    def _make(self):
        redispy = self._make_redispy()
        redispy.connect = lambda: self._connect(redispy)
        return redispy

    def _connect(self, redispy):
        self.tries += 1
        assert self.may_open.wait(LONG_S)
        if self.refusal is not None:
            raise self.refusal
        redispy._sock, theirs = socket.socketpair()
        self.peers.append(Peer(theirs))

    def open(self, count=1):
        """Have so many connections opened; returns the server's ends."""
        for number in range(count):
            with self.beneath._lock:
                opening = self.beneath._opener.open()
            self.beneath._opener.begin(opening)
            wait_until(lambda number=number: self.beneath._lanes[number].wire)
        return self.peers[-count:]

    def be_impatient(self):
        """A connection may not be silent for long."""
        self.beneath._silence_s = 0.1
        for lane in self.beneath._lanes:
            lane.may_be_silent_s = 0.1

    def call(self, *commands, timeout_s=LONG_S):
        """Ask on a thread of its own."""
        return Asking(self.beneath, commands, timeout_s)

    def close(self):
        self.may_open.set()
        self.beneath.close()
        for peer in self.peers:
            peer.sock.close()


class Asking:
    """A caller on a thread, and what has become of it."""

    def __init__(self, connections, commands, timeout_s):
        self.replies = None
        self.failure = None

        def run():
            try:
                self.replies = connections.execute(commands, timeout_s)
            except BaseException as error:
                self.failure = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self):
        """The replies, or the failure, once they are there."""
        self._thread.join(LONG_S)
        assert not self._thread.is_alive(), "it still waits"
        return self.failure or self.replies


@pytest.fixture
def played(request):
    """Connections of two lanes, or of as many as the test asks for."""
    with closing(Played(getattr(request, "param", 2))) as made:
        yield made


one_lane = pytest.mark.parametrize("played", [1], indirect=True)


def queued(played, count):
    """Wait until so many callers queue."""
    wait_until(lambda: sum(len(lane.queue) for lane in played.beneath._lanes) == count)


# Replies.


@pytest.mark.parametrize("extra", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
@one_lane
def test_a_reply_that_nobody_has_asked_for_ends_the_connection(played, extra):
    """S9, fault 29."""
    [peer] = played.open()
    caller = played.call(PING)
    peer.asked(PING)
    peer.answers(b"+PONG\r\n" + extra)
    assert isinstance(caller.result(), errors.ConnectionError)
    assert peer.is_closed()


@one_lane
def test_the_replies_of_a_caller_that_has_gone_are_dropped_and_no_others(played):
    """S9: they come late, on a connection that is not closed for being slow."""
    [peer] = played.open()
    gone = played.call((b"ECHO", b"1"), (b"ECHO", b"2"), timeout_s=SHORT_S)
    peer.asked((b"ECHO", b"1"), (b"ECHO", b"2"))
    assert isinstance(gone.result(), errors.TimeoutError)
    peer.answers(b"$1\r\n1\r\n$1\r\n2\r\n")
    caller = played.call(PING)
    peer.asked(PING)
    peer.answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]
    assert len(played.peers) == 1


@one_lane
def test_a_driver_whose_time_is_over_hands_the_connection_to_one_who_waits(played):
    [peer] = played.open()
    first = played.call((b"ECHO", b"1"))
    peer.asked((b"ECHO", b"1"))
    driver = played.call((b"ECHO", b"2"), timeout_s=1.0)
    queued(played, 1)
    patient = played.call((b"ECHO", b"3"))
    queued(played, 2)
    peer.answers(b"$1\r\n1\r\n")
    assert first.result() == [b"1"]
    peer.asked((b"ECHO", b"2"), (b"ECHO", b"3"))
    assert isinstance(driver.result(), errors.TimeoutError)
    peer.answers(b"$1\r\n2\r\n$1\r\n3\r\n")
    assert patient.result() == [b"3"]
    assert len(played.peers) == 1


# Slowness.


@one_lane
def test_who_waits_for_others_is_refused_when_the_time_is_over_and_they_are_served(played):
    """L5: the wait for one's turn counts."""
    [peer] = played.open()
    driver = played.call((b"ECHO", b"1"), (b"ECHO", b"2"))
    peer.asked((b"ECHO", b"1"), (b"ECHO", b"2"))
    waiting = played.call(PING, timeout_s=SHORT_S)
    queued(played, 1)
    peer.answers(b"$1\r\n1\r\n")
    assert isinstance(waiting.result(), errors.TimeoutError)
    peer.answers(b"$1\r\n2\r\n")
    assert driver.result() == [b"1", b"2"]
    following = played.call((b"ECHO", b"3"))
    peer.asked((b"ECHO", b"3"))
    peer.answers(b"$1\r\n3\r\n")
    assert following.result() == [b"3"]
    assert len(played.peers) == 1


@one_lane
def test_a_connection_that_was_silent_for_a_time_and_answers_then_is_used_again(played):
    """Also where nobody was there to read the answers when they came."""
    played.be_impatient()
    [peer] = played.open()
    gone = played.call(PING, timeout_s=SHORT_S)
    peer.asked(PING)
    gone.result()
    peer.answers(b"+PONG\r\n")
    time.sleep(0.3)  # longer than a connection may be silent
    caller = played.call((b"ECHO", b"1"))
    peer.asked((b"ECHO", b"1"))
    peer.answers(b"$1\r\n1\r\n")
    assert caller.result() == [b"1"]
    assert len(played.peers) == 1


@pytest.mark.timing
def test_a_connection_that_stays_silent_is_replaced_by_another(played):
    """Fault 4: the first that waits in vain is not followed by all others."""
    played.be_impatient()
    [silent] = played.open()
    first = played.call(PING, timeout_s=0.3)
    silent.asked(PING)
    assert isinstance(first.result(), errors.TimeoutError)
    wait_until(lambda: len(played.peers) == 2)
    while played.beneath._lanes[0].wire is not None:
        following = played.call(PING)
        played.peers[1].asked(PING)
        played.peers[1].answers(b"+PONG\r\n")
        assert following.result() == [b"PONG"]
    assert silent.is_closed()


@one_lane
def test_who_drives_while_late_replies_come_in_goes_when_the_time_is_over(played):
    """L5: they are others', and do not make it wait any longer."""
    [peer] = played.open()
    gone = played.call(*[(b"ECHO", b"1")] * 1000, timeout_s=0.05)
    peer.asked(*[(b"ECHO", b"1")] * 1000)
    assert isinstance(gone.result(), errors.TimeoutError)
    driver = played.call(PING, timeout_s=0.2)
    answered = 0
    while driver._thread.is_alive() and answered < 999:
        peer.answers(b"$1\r\n1\r\n")
        answered += 1
        driver._thread.join(0.01)
    assert isinstance(driver.result(), OverloadedError)
    assert answered < 999, "it has waited for all of them"


# Another connection.


def test_while_another_connection_is_not_to_be_had_the_first_one_serves_all(played):
    """The server has as many clients as it takes, or its handshake is slow."""
    [peer] = played.open()
    played.may_open.clear()
    driver = played.call((b"ECHO", b"0"))
    peer.asked((b"ECHO", b"0"))
    callers = [played.call((b"ECHO", b"1"))]
    queued(played, 1)
    wait_until(lambda: time.monotonic() - played.beneath._lanes[0].since_s > 0.01)
    callers.append(played.call((b"ECHO", b"1")))
    queued(played, 2)
    wait_until(lambda: played.tries == 2)
    peer.answers(b"$1\r\n0\r\n")
    peer.asked((b"ECHO", b"1"), (b"ECHO", b"1"))
    peer.answers(b"$1\r\n1\r\n" * 2)
    assert [each.result() for each in (driver, *callers)] == [[b"0"], [b"1"], [b"1"]]
    played.refusal = errors.ConnectionError("max number of clients reached")
    played.may_open.set()
    for _ in range(20):
        caller = played.call(PING)
        peer.asked(PING)
        peer.answers(b"+PONG\r\n")
        assert caller.result() == [b"PONG"]


def test_who_queues_goes_over_to_another_connection_once_it_is_there(played):
    [first] = played.open()
    played.may_open.clear()
    driver = played.call(PING)
    first.asked(PING)
    wait_until(lambda: time.monotonic() - played.beneath._lanes[0].since_s > 0.01)
    waiting = played.call((b"ECHO", b"1"))
    queued(played, 1)
    played.may_open.set()
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked((b"ECHO", b"1"))
    played.peers[1].answers(b"$1\r\n1\r\n")
    assert waiting.result() == [b"1"]
    first.answers(b"+PONG\r\n")
    assert driver.result() == [b"PONG"]


def test_one_connection_is_opened_for_all_who_wait_and_all_fail_with_it(played):
    played.may_open.clear()
    played.refusal = errors.ConnectionError("refused")
    callers = [played.call(PING) for _ in range(30)]
    queued(played, 29)
    played.may_open.set()
    failures = [caller.result() for caller in callers]
    assert {str(failure) for failure in failures} == {"refused"}
    assert len({id(failure) for failure in failures}) == 30, "each has a traceback of its own"
    assert played.tries == 1


@pytest.mark.timing
def test_a_server_that_refuses_is_not_asked_all_the_time(played):
    """The pause doubles, up to a second; who cannot wait for it is told why there is no connection."""
    played.refusal = errors.ConnectionError("refused")
    with pytest.raises(errors.ConnectionError, match="refused"):
        played.beneath.execute([PING], 30.0)  # as long as the first takes to be refused
    until_s = time.monotonic() + 1.0
    calls = 1
    while time.monotonic() < until_s:
        with pytest.raises(errors.ConnectionError, match="refused"):
            played.beneath.execute([PING], 0.02)
        calls += 1
    assert calls > played.tries
    assert 2 <= played.tries <= 12


@pytest.mark.timing
def test_connections_that_do_not_last_are_opened_with_pauses_too(played):
    """A replica where a primary was: each is closed as soon as it is there."""
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        with pytest.raises((errors.ConnectionError, errors.TimeoutError)):
            played.beneath.execute([PING], 0.02)
        played.beneath.reset()
    assert 2 <= played.tries <= 12


@pytest.mark.timing
def test_after_a_reset_of_our_own_who_cannot_wait_is_told_so(played, monkeypatch):
    """It is no outage of the server."""
    monkeypatch.setattr(backoff, "FIRST_CONNECT_PAUSE_S", 600.0)
    monkeypatch.setattr(backoff, "LONGEST_CONNECT_PAUSE_S", 600.0)
    played.open()
    played.beneath.reset()
    with pytest.raises(OwnResetError):
        played.beneath.execute([PING], 0.02)


@pytest.mark.parametrize("give_up", ["reset", "set_aside"])
def test_a_connection_that_was_given_up_is_not_used_though_its_driver_has_not_left(played, give_up):
    """A driver that is over waits for the lock, to hand its lane over; others get it first."""
    played.open(1)
    leaving, may_leave = threading.Event(), threading.Event()
    leave = played.beneath._leave

    def leave_late(call):
        if not leaving.is_set():
            getattr(played.beneath, give_up)()
            leaving.set()
            assert may_leave.wait(LONG_S)
        leave(call)

    played.beneath._leave = leave_late
    first = played.call(PING)
    old = played.peers[0]
    old.asked(PING)
    old.answers(b"+OLD\r\n")
    assert leaving.wait(LONG_S)

    second = played.call(PING)
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked(PING)
    played.peers[1].answers(b"+NEW\r\n")
    assert second.result() == [b"NEW"]
    may_leave.set()
    assert first.result() == [b"OLD"]


def test_where_there_is_no_thread_to_be_had_the_call_says_so():
    with closing(Played(start_thread=lambda job, name: False)) as played, pytest.raises(ExhaustedError):
        played.beneath.execute([PING], LONG_S)


def test_closing_ends_an_opening_and_who_waits_for_it(played):
    played.refusal = errors.ConnectionError("the handshake was cut")
    played.may_open.clear()
    caller = played.call(PING)
    wait_until(lambda: played.tries)
    played.beneath.close()
    played.may_open.set()
    assert isinstance(caller.result(), errors.ConnectionError)
    with pytest.raises(errors.ConnectionError, match="closed"):
        played.beneath.execute([PING], LONG_S)
    wait_until(lambda: played.beneath.count == 0)


def test_a_handshake_that_takes_long_is_given_the_more_time_each_time(played, monkeypatch):
    """One that hangs for ever is not waited for as long as one may take in the end."""
    monkeypatch.setattr(backoff, "FIRST_CONNECT_PAUSE_S", 0.0)
    given = []

    def hang(redispy):
        given.append(redispy.socket_timeout)
        raise errors.TimeoutError("no reply in time")

    played._connect = hang
    for _ in range(5):
        with pytest.raises(errors.TimeoutError):
            played.beneath.execute([PING], LONG_S)
    assert given == [5, 10, 20, 20, 20]


# Interrupts.


@one_lane
def test_who_was_driven_for_is_served_though_the_driver_was_interrupted(played):
    """Ctrl-C of one is no outage to others: their commands are sent again, within their time."""
    [peer] = played.open()
    wire = played.beneath._lanes[0].wire
    first = played.call((b"ECHO", b"0"))
    peer.asked((b"ECHO", b"0"))
    driver = played.call((b"ECHO", b"1"))
    queued(played, 1)
    other = played.call((b"ECHO", b"2"), (b"ECHO", b"3"))
    queued(played, 2)
    read, may_strike = wire.read, threading.Event()

    def interrupted(until_s, **options):
        replies = read(until_s, **options)
        if may_strike.is_set():
            raise KeyboardInterrupt
        return replies

    wire.read = interrupted
    peer.answers(b"$1\r\n0\r\n")
    assert first.result() == [b"0"]
    peer.asked((b"ECHO", b"1"), (b"ECHO", b"2"), (b"ECHO", b"3"))
    may_strike.set()
    peer.answers(b"$1\r\n1\r\n")
    assert isinstance(driver.result(), KeyboardInterrupt)
    assert peer.is_closed()
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked((b"ECHO", b"2"), (b"ECHO", b"3"))
    played.peers[1].answers(b"$1\r\n2\r\n$1\r\n3\r\n")
    assert other.result() == [b"2", b"3"]


# Large values.


@one_lane
def test_a_value_that_is_too_large_costs_its_reader_only(played):
    """Memory has bounds: it is not read on, and what others have sent is sent again."""
    [peer] = played.open()
    first = played.call((b"ECHO", b"0"))
    peer.asked((b"ECHO", b"0"))
    reader = played.call((b"GET", b"k"), (b"ECHO", b"1"))
    queued(played, 1)
    other = played.call((b"ECHO", b"2"))
    queued(played, 2)
    peer.answers(b"$1\r\n0\r\n")
    first.result()
    peer.asked((b"GET", b"k"), (b"ECHO", b"1"), (b"ECHO", b"2"))
    with pytest.raises(ConnectionError):  # noqa: PT012 - the other end goes away in the middle
        for _ in range(400):
            peer.answers(b"$400000000\r\n" + b"x" * 2**20 if not _ else b"x" * 2**20)
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked((b"ECHO", b"1"), (b"ECHO", b"2"))
    played.peers[1].answers(b"$1\r\n1\r\n$1\r\n2\r\n")
    too_large, following = reader.result()
    assert isinstance(too_large, TooLargeError)
    assert following == b"1"
    assert other.result() == [b"2"]


def test_what_was_found_to_be_large_goes_over_a_connection_of_its_own(played):
    small, large = played.open(2)
    value = b"$%d\r\n%s\r\n" % (2 * BULK_BYTES, bytes(2 * BULK_BYTES))
    reader = played.call((b"GET", b"k"))
    small.asked((b"GET", b"k"))
    small.answers(value)
    assert len(reader.result()[0]) == 2 * BULK_BYTES
    reader = played.call((b"GET", b"k"))
    large.asked((b"GET", b"k"))
    other = played.call((b"GET", b"other"))
    small.asked((b"GET", b"other"))
    small.answers(b"$-1\r\n")
    assert other.result() == [None]
    large.answers(value)
    assert len(reader.result()[0]) == 2 * BULK_BYTES


def test_who_waits_behind_a_large_value_asks_elsewhere(played):
    first, second = played.open(2)
    driver = played.call((b"ECHO", b"0"))
    first.asked((b"ECHO", b"0"))
    with played.beneath._lock:  # nobody comes too late to be put into the same batch
        played.beneath._lanes[0].since_s = time.monotonic() + 60
        reader = played.call((b"GET", b"k"))
    queued(played, 1)
    other = played.call((b"ECHO", b"1"))
    queued(played, 2)
    first.answers(b"$1\r\n0\r\n")
    driver.result()
    first.asked((b"GET", b"k"), (b"ECHO", b"1"))
    first.answers(b"$%d\r\n" % 1_000_000 + bytes(BULK_BYTES + 100_000))
    second.asked((b"ECHO", b"1"))
    second.answers(b"$1\r\n1\r\n")
    assert other.result() == [b"1"]
    first.answers(bytes(1_000_000 - BULK_BYTES - 100_000) + b"\r\n$1\r\n1\r\n")
    assert len(reader.result()[0]) == 1_000_000
    following = played.call(PING)
    first.asked(PING)
    first.answers(b"+PONG\r\n")
    assert following.result() == [b"PONG"], "what came for the one who went elsewhere was dropped"


@pytest.mark.timing
def test_a_large_value_that_the_server_takes_slowly_is_sent_to_its_end(played):
    """What the socket takes is a sign of life; small values go over another connection meanwhile."""
    small, large = played.open(2)
    command = (b"SET", b"k", bytes(3 * 2**20))
    writer = played.call(command, timeout_s=0.1)
    wanted = len(pack([command]))
    taken = 0
    while taken < wanted:
        taken += len(large.sock.recv(2**17))
        time.sleep(0.01)
    large.answers(b"+OK\r\n")
    assert writer.result() == [b"OK"]
    caller = played.call(PING)
    small.asked(PING)
    small.answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]


@one_lane
def test_an_upload_that_nobody_takes_is_given_up_and_the_connection_with_it(played):
    """Half a command is of no use to anybody."""
    [peer] = played.open()
    writer = played.call((b"SET", b"k", bytes(3 * 2**20)), timeout_s=0.05)
    assert isinstance(writer.result(), errors.TimeoutError)
    assert peer.is_closed()
    caller = played.call(PING)
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked(PING)
    played.peers[1].answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]


def test_where_a_handshake_hangs_another_connection_is_opened_beside_it(played, monkeypatch):
    """Half a second after a server that said nothing has come back, it would be asked again; not five."""
    monkeypatch.setattr(backoff, "PATIENCE_S", 0.0)
    connect = played._connect

    def hang_once(redispy):
        if played.tries:
            connect(redispy)
            return
        played.tries += 1
        assert played.may_open.wait(LONG_S)
        raise errors.TimeoutError("no reply in time")

    played._connect = hang_once
    played.may_open.clear()
    first = played.call(PING, timeout_s=SHORT_S)
    assert isinstance(first.result(), errors.TimeoutError)
    assert played.tries == 1
    hung, played.may_open = played.may_open, threading.Event()
    played.may_open.set()
    second = played.call(PING)
    wait_until(lambda: played.peers)
    played.peers[0].asked(PING)
    played.peers[0].answers(b"+PONG\r\n")
    assert second.result() == [b"PONG"]
    assert played.beneath.count == 2
    hung.set()
    wait_until(lambda: played.beneath.count == 1)


def test_what_hangs_is_tried_beside_others_only_as_often_as_there_is_room(monkeypatch):
    monkeypatch.setattr(backoff, "PATIENCE_S", 0.0)
    with closing(Played(most=2)) as played:
        played.refusal = errors.ConnectionError("the handshake was cut")
        played.may_open.clear()
        callers = [played.call(PING, timeout_s=SHORT_S) for _ in range(6)]
        for caller in callers:
            assert isinstance(caller.result(), errors.TimeoutError)
        assert played.beneath.count == 2
        wait_until(lambda: played.tries == 2)


# Replies that nobody waits for.


@pytest.mark.timing
def test_a_large_value_that_nobody_waits_for_any_more_is_given_up_and_left_alone_for_a_while(played):
    played.be_impatient()
    [peer] = played.open()
    reader = played.call((b"GET", b"large"), timeout_s=SHORT_S)
    peer.asked((b"GET", b"large"))
    peer.answers(b"$1000000\r\n" + bytes(2 * BULK_BYTES))
    assert isinstance(reader.result(), OverloadedError | errors.TimeoutError)
    other = played.call(PING)
    assert peer.is_closed()
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked(PING)
    played.peers[1].answers(b"+PONG\r\n")
    assert other.result() == [b"PONG"]
    with pytest.raises(OverloadedError, match="does not come in time"):
        played.beneath.execute([(b"GET", b"large")], LONG_S)
    writer = played.call((b"UNLINK", b"large"))
    played.peers[1].asked((b"UNLINK", b"large"))
    played.peers[1].answers(b":1\r\n")
    assert writer.result() == [1]


# Which connection.


def test_what_is_set_aside_is_used_again_once_it_is_trusted(played):
    def served_by(peer):
        caller = played.call(PING)
        peer().asked(PING)
        peer().answers(b"+PONG\r\n")
        assert caller.result() == [b"PONG"]

    [first] = played.open()
    served_by(lambda: first)
    played.beneath.set_aside()
    caller = played.call(PING)
    wait_until(lambda: len(played.peers) == 2)
    second = played.peers[1]
    second.asked(PING)
    second.answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]
    played.beneath.take_back()
    served_by(lambda: second)
    for peer in (first, second, first):
        played.beneath.set_aside()
        served_by(lambda peer=peer: peer)
        played.beneath.take_back()
    assert played.tries == 2
    assert played.beneath.count == 2


def test_what_a_driver_has_sent_is_read_before_its_connection_is_set_aside(played):
    [first] = played.open()
    caller = played.call(PING)
    first.asked(PING)
    played.beneath.set_aside()
    first.answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]
    played.beneath.take_back()
    again = played.call(PING)
    first.asked(PING)
    first.answers(b"+PONG\r\n")
    assert again.result() == [b"PONG"]
    assert played.tries == 1


def test_what_was_set_aside_and_is_not_trusted_is_closed(played):
    [first] = played.open()
    played.beneath.set_aside()
    caller = played.call(PING)
    wait_until(lambda: len(played.peers) == 2)
    played.peers[1].asked(PING)
    played.beneath.reset()
    assert first.is_closed()
    played.peers[1].answers(b"+PONG\r\n")
    assert caller.result() == [b"PONG"]
    assert played.peers[1].is_closed()
    assert played.beneath.count == 0


def test_where_there_is_no_room_for_another_what_is_set_aside_is_closed():
    with closing(Played(most=1)) as played:
        [first] = played.open()
        played.beneath.set_aside()
        assert first.is_closed()


@pytest.mark.parametrize("is_asking", [False, True], ids=["", "behind ASKING"])
@pytest.mark.parametrize(("asks", "gives"), [(ACQUIRE, RELEASE), (LOCK, UNLOCK)], ids=["lease", "lock"])
def test_what_gives_a_lease_or_a_lock_back_does_not_overtake_what_asked_for_it(
    played, asks, gives, is_asking
):
    """Over another connection it might come first: then nobody would have it until it lapses."""
    acquire = [(EVALSHA, asks.sha, b"1", b"k", b"-nonce-1", b"60000")]
    release = [(EVALSHA, gives.sha, b"1", b"k", b"-nonce-1", b"channel")]
    if is_asking:
        acquire, release = behind_asking(acquire), behind_asking(release)
    one = b"+OK\r\n:1\r\n" if is_asking else b":1\r\n"
    first, second = played.open(2)
    asking = played.call(*acquire, timeout_s=SHORT_S)
    first.asked(*acquire)
    assert isinstance(asking.result(), errors.TimeoutError)
    giving_back = played.call(*release)
    first.asked(*release)
    first.answers(2 * one)
    assert giving_back.result()[-1] == 1
    other = played.call(*release)  # nothing is pending any more: anywhere
    first.asked(*release)
    first.answers(one)
    assert other.result()[-1] == 1
    assert second.sock.fileno() >= 0


def test_who_asks_several_servers_is_not_kept_by_one_that_opens_no_connection():
    """It goes on at the others after its slice, and takes the connection that was opened meanwhile."""
    played = Played(kind=ScatteringConnections)
    try:
        played.may_open.clear()
        call = played.beneath.begin([PING], LONG_S, [])
        assert not played.beneath.go_on(call, time.monotonic())
        assert not played.beneath.go_on(call, time.monotonic() + 0.01)
        assert played.tries <= 1
        played.may_open.set()
        wait_until(lambda: played.peers)
        wait_until(lambda: played.beneath.go_on(call, time.monotonic() + 0.01) or call.is_sent)
        played.peers[0].asked(PING)
        played.peers[0].answers(b"+PONG\r\n")
        assert played.beneath.go_on(call, time.monotonic() + LONG_S)
        assert played.beneath.replies(call) == [b"PONG"]
        assert played.tries == 1
    finally:
        played.close()


@pytest.fixture
def scattering():
    with closing(Played(most=1, kind=ScatteringConnections)) as played:
        yield played


def test_a_call_to_several_servers_can_be_ended_wherever_it_was_interrupted(scattering):
    """An interrupt may come between a call's beginning and the moment that its caller knows of it."""
    [peer] = scattering.open()
    begun = []

    def strike(*_):
        raise KeyboardInterrupt

    scattering.beneath._send = strike
    with pytest.raises(KeyboardInterrupt):
        scattering.beneath.begin([PING], LONG_S, begun)
    del scattering.beneath._send
    assert peer.is_closed(), "what was sent is not known"
    [(connections, call)] = begun
    connections.end(call)
    following = scattering.call(PING)
    wait_until(lambda: len(scattering.peers) == 2)
    scattering.peers[1].asked(PING)
    scattering.peers[1].answers(b"+PONG\r\n")
    assert following.result() == [b"PONG"]


def test_who_queues_behind_a_driver_that_vanished_drives(scattering):
    """As where an interrupt came before the driver could hand its lane over."""
    [peer] = scattering.open()
    gone, queued = [], []
    driving = scattering.beneath.begin([PING], LONG_S, gone)
    peer.asked(PING)
    scattering.beneath._inside.clear()  # another caller of this thread's
    call = scattering.beneath.begin([PING], LONG_S, queued)
    driving.is_gone = True
    peer.answers(b"+PONG\r\n+PONG\r\n")
    wait_until(lambda: scattering.beneath.go_on(call, time.monotonic() + 0.01))
    assert scattering.beneath.replies(call) == [b"PONG"]


def test_where_one_server_has_closed_its_connection_the_others_are_asked_at_once(scattering):
    """A new connection to it may take all of the time: who asks others goes on to them."""
    [peer] = scattering.open()
    peer.sock.close()
    scattering.may_open.clear()
    scattering.beneath._failed_s = time.monotonic() + 1.0  # so that it is looked at before it is used
    begun = []
    call = scattering.beneath.begin([PING], LONG_S, begun)
    assert call.failure is None
    assert call.opening is not None, "it is waited for in turns"
    scattering.beneath._failed_s = 0.0
    scattering.may_open.set()
    wait_until(lambda: scattering.beneath.go_on(call, time.monotonic() + 0.01) or call.is_sent)
    scattering.peers[1].asked(PING)
    scattering.peers[1].answers(b"+PONG\r\n")
    assert scattering.beneath.go_on(call, time.monotonic() + LONG_S)
    assert scattering.beneath.replies(call) == [b"PONG"]


class JobLimitError(TimeoutError):
    """What a job queue's handler raises."""


def test_what_a_handler_raises_while_several_servers_are_asked_is_no_failure_of_others(scattering):
    [peer] = scattering.open()
    begun = []
    call = scattering.beneath.begin([PING], LONG_S, begun)
    peer.asked(PING)
    other = scattering.call(PING)
    wait_until(lambda: scattering.beneath._lanes[0].queue)

    def limit(_signum, _frame):
        raise JobLimitError

    before = signal.signal(signal.SIGUSR1, limit)
    take_in = scattering.beneath._take_in

    def struck(*args):
        signal.raise_signal(signal.SIGUSR1)
        return take_in(*args)

    scattering.beneath._take_in = struck
    try:
        with pytest.raises(JobLimitError):
            scattering.beneath.go_on(call, time.monotonic() + LONG_S)
    finally:
        scattering.beneath._take_in = take_in
        signal.signal(signal.SIGUSR1, before)
    scattering.beneath.end(call)
    wait_until(lambda: len(scattering.peers) == 2)
    scattering.peers[1].asked(PING)
    scattering.peers[1].answers(b"+PONG\r\n")
    assert other.result() == [b"PONG"]


def test_who_comes_after_a_move_is_not_sent_on_the_connection_of_before():
    """Its driver may have been appointed before, and not have sent yet."""
    get = (b"GET", b"after")
    with closing(Played(most=1)) as played:
        [old] = played.open()
        send, has_begun, may_go_on = played.beneath._send, threading.Event(), threading.Event()

        def late(*args):
            has_begun.set()
            assert may_go_on.wait(LONG_S)
            played.beneath._send = send
            return send(*args)

        played.beneath._lanes[0].wire.read_s = -1e6  # so that it is looked at, and not used at once
        played.beneath._send = late
        first = played.call(PING)
        assert has_begun.wait(LONG_S)
        played.beneath.move()
        after = played.call(get)
        wait_until(lambda: played.beneath._lanes[0].queue)
        may_go_on.set()
        old.asked(PING)
        old.answers(b"+PONG\r\n")
        assert first.result() == [b"PONG"]
        assert old.rest() == b""
        wait_until(lambda: len(played.peers) == 2)
        played.peers[1].asked(get)
        played.peers[1].answers(b"$1\r\nv\r\n")
        assert after.result() == [b"v"]


def test_a_connection_for_a_handler_that_opens_as_the_cache_is_closed_is_closed():
    """Its caller has found no more than that the cache is closed."""
    made = []

    def start(job, _name):
        job()
        played.beneath.close()
        return True

    with closing(Played(start_thread=start)) as played:
        opener = played.beneath._opener
        make = opener._make_connection

        def make_known():
            made.append(make())
            return made[-1]

        opener._make_connection = make_known
        me = threading.get_ident()
        inside = Call([], 0.0, math.inf, math.inf, me, played.beneath._lanes[0], [])
        played.beneath._inside[me] = inside  # as in a handler, which finds its own thread there
        with pytest.raises(errors.ConnectionError, match="closed"):
            played.beneath.execute([PING], LONG_S)
        assert made[0]._sock is None
