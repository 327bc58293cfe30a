"""Wires: an open blocking connection, written to and read from until a moment on the clock."""

import signal
import socket
import threading
import time
from contextlib import closing, suppress

import pytest
from redis import exceptions as errors

from sansio_cache.config import RedisConfig
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.connections import wires
from sansio_cache_redis.connections.redispy import pack
from sansio_cache_redis.connections.settings import blocking_factory
from sansio_cache_redis.connections.wires import blocking_wire
from support.servers import wait_until
from support.wires import exchange


@pytest.fixture
def pair():
    """A wire to a socket that the test answers on."""
    ours, theirs = socket.socketpair()
    connection = blocking_factory(RedisConfig())()
    connection._sock = ours
    with closing(ours), closing(theirs):
        yield blocking_wire(connection, 2**20), theirs


@pytest.fixture
def idle(redis_url):
    """A wire to the server that has been used, and its connection."""
    connection = blocking_factory(RedisConfig(url=redis_url))()
    connection.connect()
    with closing(blocking_wire(connection, 2**20)) as wire:
        [number] = exchange(wire, [(b"CLIENT", b"ID")], 10.0)
        yield wire, connection, number


def test_an_idle_wire_is_sound(idle):
    wire, _, _ = idle
    assert wire.is_sound()
    assert exchange(wire, [(b"PING",)], 10.0) == [b"PONG"]


def test_an_idle_wire_with_an_unread_reply_is_not_sound(idle):
    """S9, fault 29."""
    wire, connection, _ = idle
    connection.send_packed_command(connection.pack_commands([(b"ECHO", b"unread")]), check_health=False)

    wait_until(lambda: not wire.is_sound())


def test_an_idle_wire_that_the_server_has_closed_is_not_sound(idle, redis_client):
    """Fault 5."""
    wire, _, number = idle
    redis_client.client_kill_filter(_id=number)

    wait_until(lambda: not wire.is_sound())


def test_a_server_that_says_nothing_is_a_time_out(pair):
    wire, _ = pair
    with pytest.raises(errors.TimeoutError):
        exchange(wire, [(b"PING",)], 0.01)


class StillWaitingError(BaseException):
    """So many signals, and the call has not ended."""


@pytest.fixture
def ticking():
    """Starts a timer of the process that strikes every 20 ms; after 1,500 times it raises."""
    ticks = []

    def tick(*_):
        ticks.append(1)
        if len(ticks) == 1_500:
            raise StillWaitingError

    before = signal.signal(signal.SIGALRM, tick)
    try:
        yield lambda: (signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02), ticks)[1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.timing
@pytest.mark.parametrize("is_ticking_before", [True, False], ids=["from the start", "between two calls"])
def test_a_frozen_server_is_a_time_out_while_a_timer_ticks(ticking, is_ticking_before, fresh_server):
    """Fault 4, L5: each signal interrupts the call, which Python begins anew, and the kernel its time."""
    connection = blocking_factory(RedisConfig(url=fresh_server.url))()
    connection.connect()
    with closing(blocking_wire(connection, 2**20)) as wire:
        ticks = ticking() if is_ticking_before else None
        assert exchange(wire, [(b"PING",)], 0.5) == [b"PONG"]
        ticks = ticks or ticking()
        fresh_server.freeze()
        with pytest.raises(errors.TimeoutError):
            exchange(wire, [(b"PING",)], 0.5)
        assert ticks, "it has never ticked"


@pytest.mark.timing
def test_a_cache_beside_a_timer_reads_on_and_gives_up_on_a_frozen_server(ticking, fresh_server, namespace):
    """Fault 4, L5."""
    # So long that the reads are answered on a machine that is busy, too.
    options = {"operation_timeout_s": 2.0, "attempt_timeout_s": 2.0}
    with cache_sync.Cache.from_url(fresh_server.url, namespace=namespace, **options) as cache:
        assert cache.set("k", 1)
        ticking()
        for _ in range(100):
            assert cache.get("k") == 1
        fresh_server.freeze()
        assert cache.get_or_load("k", lambda: 2) == 2
        assert sum(cache.stats().gave_up.values()) >= 1


@pytest.mark.timing
def test_signals_to_the_waiting_thread_do_not_stretch_a_wait(pair):
    """L5: whoever sends them, and whichever thread they strike: Python begins the call anew (PEP 475)."""
    wire, _ = pair
    strikes = []
    before = signal.signal(signal.SIGUSR1, lambda *_: strikes.append(1))
    is_over = threading.Event()
    started_s = time.monotonic()

    def wait():
        wire.read(started_s + 0.3)
        is_over.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        while not is_over.wait(0.005) and time.monotonic() - started_s < 10.0:
            signal.pthread_kill(waiting.ident, signal.SIGUSR1)
        assert is_over.is_set(), "so often struck, it waits for ever"
        assert len(strikes) > 3
    finally:
        waiting.join(1.0)
        signal.signal(signal.SIGUSR1, before)


def test_what_the_peer_does_not_take_goes_out_while_replies_are_waited_for(pair):
    """And a part that was taken is told at once: it is a sign of life."""
    wire, server = pair
    data = pack([(b"SET", b"k", bytes(range(256)) * 8192)])
    wire.write(data)
    assert wire.is_writing
    taken = bytearray()
    while wire.is_writing:
        before = wire.written_bytes
        taken += server.recv(2**20)
        assert wire.read(time.monotonic() + 10.0) == []
        assert wire.written_bytes > before
    while len(taken) < len(data):
        taken += server.recv(2**20)
    assert taken == data
    server.sendall(b"+OK\r\n")
    assert wire.read(time.monotonic() + 10.0) == [b"OK"]


def test_a_reply_that_announces_too_long_a_value_is_not_read_on(pair):
    """Memory: what has come before it is handed out."""
    wire, server = pair
    server.sendall(b"+PONG\r\n$300000000\r\n" + b"x" * 100_000)
    replies = wire.read(time.monotonic() + 10.0)
    assert replies == [b"PONG"]
    server.setblocking(False)
    fed_bytes = 0
    with pytest.raises(wires.OverlongReplyError):  # noqa: PT012 - the other end feeds it meanwhile
        while True:
            with suppress(BlockingIOError):
                fed_bytes += server.send(b"x" * 2**16)
            assert wire.read(time.monotonic() + 0.01) == []
    assert wire.unfinished_bytes < 300_000


# Spinning.


FOR_EVER = 10**9


class Watched(socket.socket):
    """A socket that notes for each read whether it would have slept. So many looks are in vain."""

    def watch(self):
        self.slept = []
        self.blind_looks = 0
        self.has_waited = False
        return self

    def recv_into(self, buffer):
        if self.has_waited:
            self.has_waited = False
            return super().recv_into(buffer)
        self.slept.append(False)
        if self.blind_looks > 0:
            self.blind_looks -= 1
            raise BlockingIOError
        return super().recv_into(buffer)

    def wait(self, is_writing, timeout_s):
        self.slept.append(True)
        self.has_waited = True
        if timeout_s < 1.0:
            time.sleep(timeout_s)
        return timeout_s >= 1.0


@pytest.fixture
def watched(monkeypatch):
    """A wire, its socket, and a function that makes a call on it, with the reply there already."""
    monkeypatch.setattr(wires, "_PROCESSORS", 2)
    monkeypatch.setattr(wires, "_SPIN_S", 0.0)  # one look
    monkeypatch.setattr(wires, "_FIRST_SPIN_S", 0.0)
    ours, theirs = socket.socketpair()
    sock = Watched(fileno=ours.detach()).watch()
    connection = blocking_factory(RedisConfig())()
    connection._sock = sock

    def call(**options):
        """Whether each read of the call would have slept."""
        sock.slept.clear()
        sock.has_waited = False
        theirs.sendall(b"+PONG\r\n")
        assert exchange(wire, [(b"PING",)], 10.0, **options) == [b"PONG"]
        theirs.recv(100)
        return list(sock.slept)

    with closing(sock), closing(theirs):
        wire = blocking_wire(connection, 2**20)
        wire._wait = sock.wait
        yield wire, sock, call


def test_a_call_that_may_spin_finds_a_reply_without_sleeping(watched):
    _, _, call = watched
    assert [call(may_spin=True) for _ in range(10)] == [[False]] * 10


def test_a_call_that_may_not_spin_sleeps_at_once(watched, monkeypatch):
    _, _, call = watched
    assert call() == [True]


@pytest.mark.parametrize("why", ["one processor", "greenlets"])
def test_no_wire_spins_where_others_would_stand_still(why, pair, monkeypatch):
    """The server has the same processor, or other greenlets the same thread."""
    monkeypatch.setattr(wires, "_PROCESSORS", 1 if why == "one processor" else 2)
    monkeypatch.setattr(wires, "is_patched", lambda: why == "greenlets")
    connection = blocking_factory(RedisConfig())()
    connection._sock = pair[0]._sock
    assert not blocking_wire(connection, 2**20)._can_spin


def test_who_spins_in_vain_spins_the_less_often(watched):
    _, sock, call = watched
    sock.blind_looks = FOR_EVER
    calls = [call(may_spin=True) for _ in range(64)]
    spun = [number for number, slept in enumerate(calls) if slept == [False, True]]
    assert spun == [0, 2, 5, 10, 19, 36]
    assert all(slept == [True] for number, slept in enumerate(calls) if number not in spun)


def test_who_has_spun_in_vain_for_long_still_tries_and_spins_again_once_it_is_worth_it(watched):
    wire, sock, call = watched
    sock.blind_looks = FOR_EVER
    wire._sleeps_next = wires._MOST_SLEEPS
    call(may_spin=True)
    sock.blind_looks = 0
    asleep = [call(may_spin=True) for _ in range(wires._MOST_SLEEPS)]
    assert asleep == [[True]] * wires._MOST_SLEEPS
    assert [call(may_spin=True) for _ in range(10)] == [[False]] * 10


def test_a_reply_in_time_for_the_first_spin_only_is_no_reason_to_spin_more_often(watched):
    """The first after a sleep lasts longer. A server that is a little too far away must not profit by it."""
    wire, sock, call = watched
    wire._sleeps, wire._sleeps_next = 0, 8
    for sleeps in (8, 16, 32):
        sock.blind_looks = 0
        assert call(may_spin=True) == [False]
        sock.blind_looks = FOR_EVER
        assert call(may_spin=True) == [False, True]
        assert [call(may_spin=True) for _ in range(sleeps)] == [[True]] * sleeps


def test_the_first_spin_after_a_sleep_is_the_longer_one(watched, monkeypatch):
    """The server may have slept, too."""
    _, sock, call = watched
    monkeypatch.setattr(wires, "_FIRST_SPIN_S", 60.0)
    sock.blind_looks = 5
    assert call(may_spin=True) == [False] * 6
    sock.blind_looks = 1
    assert call(may_spin=True) == [False, True]


def test_a_silent_server_is_a_time_out_for_who_spins_too(watched):
    """L5."""
    wire, sock, _ = watched
    with pytest.raises(errors.TimeoutError):
        exchange(wire, [(b"PING",)], 0.01, may_spin=True)
    assert sock.slept == [False, True]


def test_a_server_that_closes_is_seen_by_who_spins(watched):
    """Fault 5."""
    wire, sock, _ = watched
    sock.shutdown(socket.SHUT_RD)
    with pytest.raises(errors.ConnectionError, match="closed"):
        exchange(wire, [(b"PING",)], 10.0, may_spin=True)
