"""What lies below redis-py's public methods: it is there in the installed version, and not needed."""

import asyncio
import gc
import signal
import socket
import threading
from contextlib import closing

import anyio
import anyio.lowlevel
import anyio.to_thread
import hiredis
import pytest
from redis import exceptions as errors

from sansio_cache.config import RedisConfig
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.connections import asyncio as connections_asyncio
from sansio_cache_redis.connections import redispy
from sansio_cache_redis.connections import threads as connections_threads
from sansio_cache_redis.connections import trio as connections_trio
from sansio_cache_redis.connections.settings import asyncio_factory, blocking_factory
from sansio_cache_runtime.sync.background import Background
from support.proxy import DROP_REPLY, HOLD, FaultProxy, command
from support.runtimes import PATIENT
from support.servers import wait_until
from support.tls import TlsProxy

pytestmark = pytest.mark.servers


@pytest.fixture(params=["tcp", "unix", "tls"])
def url(request, redis_server):
    """Every way to a server."""
    if request.param == "tls":
        with TlsProxy(redis_server.port) as proxy:
            yield f"{proxy.url}?ssl_ca_certs={proxy.ca_file}"
    else:
        yield redis_server.url if request.param == "tcp" else redis_server.unix_url


# It is there.


class Collecting(asyncio.Protocol):
    """Collects replies until there are so many."""

    def __init__(self, parser, wanted):
        self._parser = parser
        self._wanted = wanted
        self.replies = []
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not redispy.NOT_ENOUGH_DATA:
            self.replies.append(reply)
        if len(self.replies) == self._wanted:
            self.done.set_result(self.replies)


def test_the_installed_redis_py_has_the_transport_of_an_asyncio_connection(url):
    async def main():
        connection = asyncio_factory(RedisConfig(url=url))()
        assert redispy.transport_of(connection) is None, "it is not open yet"
        assert not redispy.has_unread(connection)
        await connection.connect()
        try:
            assert not redispy.has_unread(connection)
            protocol = Collecting(redispy.reply_reader(connection), 3)
            transport = redispy.transport_of(connection)
            transport.set_protocol(protocol)
            transport.write(redispy.pack([(b"PING",), (b"ECHO", b"x"), (b"NONSENSE",)]))
            replies = await protocol.done
        finally:
            redispy.close_now(connection)
        assert replies[:2] == [b"PONG", b"x"]
        assert isinstance(replies[2], errors.ResponseError)
        assert not connection.is_connected

    asyncio.run(main())
    gc.collect()


@pytest.mark.parametrize("rest", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
def test_what_redis_py_has_read_and_not_asked_for_is_seen(rest, redis_server):
    """S9: it would be lost to a parser of our own, or worse, the other half of it would not."""

    async def in_the_stream():
        connection = asyncio_factory(RedisConfig(url=redis_server.url))()
        await connection.connect()
        connection._reader.feed_data(rest)
        assert redispy.has_unread(connection)
        redispy.close_now(connection)

    asyncio.run(in_the_stream())
    connection = blocking_factory(RedisConfig(url=redis_server.url))()
    connection.connect()
    assert not redispy.has_unread(connection)
    connection._parser._reader.feed(rest)
    assert redispy.has_unread(connection)
    connection.disconnect()


def test_the_installed_redis_py_has_the_socket_of_a_blocking_connection(url):
    connection = blocking_factory(RedisConfig(url=url))()
    connection.connect()
    wire = redispy.blocking_wire(connection)
    try:
        assert type(wire) is not redispy._PublicWire
        replies = wire.exchange([(b"PING",), (b"NONSENSE",), (b"ECHO", b"x")], 10.0)
        assert [replies[0], replies[2]] == [b"PONG", b"x"]
        assert isinstance(replies[1], errors.ResponseError)
        assert wire.is_sound()
    finally:
        wire.close()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"-NOSCRIPT No matching script.\r\n", errors.NoScriptError),
        (b"-READONLY You can't write\r\n", errors.ReadOnlyError),
        (b"-LOADING Redis is loading\r\n", errors.BusyLoadingError),
        (b"-MISCONF disk\r\n", errors.ResponseError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_parser_makes_the_errors_that_redis_py_makes(line, kind):
    connection = blocking_factory(RedisConfig())()
    parser = redispy.reply_reader(connection)
    parser.feed(line)

    assert type(parser.gets()) is kind


def test_commands_are_packed_as_redis_py_packs_them():
    connection = blocking_factory(RedisConfig())()
    commands = [(b"GET", b"k"), (b"SET", "ü", 5, 1.5, b"\0\r\n", "text"), (b"TIME",)]

    assert redispy.pack(commands) == b"".join(connection.pack_commands(commands))
    assert redispy.pack(commands[:1]) == b"".join(connection.pack_commands(commands[:1]))


# It is not needed.


@pytest.fixture
def without_transports(monkeypatch):
    """A redis-py whose asyncio connections keep their transports elsewhere."""
    monkeypatch.setattr(connections_asyncio, "transport_of", lambda connection: None)


@pytest.fixture
def without_sockets(monkeypatch):
    """A redis-py whose blocking connections keep their sockets elsewhere."""
    for module in (redispy, connections_trio):
        monkeypatch.setattr(module, "socket_of", lambda connection: None)


async def use(cache):
    calls = []

    async def load():
        calls.append(1)
        await anyio.lowlevel.checkpoint()
        return "loaded"

    async def get_or_load(key):
        assert await cache.get_or_load(key, load) == "loaded"

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(get_or_load, f"k{number % 10}")
    assert len(calls) == 10
    assert await cache.set("k", "set")
    assert await cache.get("k") == "set"
    assert await cache.get_many([f"k{n}" for n in range(10)]) == {f"k{n}": "loaded" for n in range(10)}
    assert (await cache.invalidate("k")).done == 1
    assert cache.stats().errors == {}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.usefixtures("without_transports", "without_sockets")
def test_the_asynchronous_cache_works_without_them(backend, url, namespace):
    async def main():
        async with cache_anyio.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
            await use(cache)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cache.get, "k0")
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert await cache.get("k1") == "loaded", "a reply was misread"
            assert cache.stats().errors == {}
            [connection] = cache._bound()._backend.connections
            assert type(connection).__name__ == "_PublicConnection"

    anyio.run(main, backend=backend)
    gc.collect()  # a connection that was not closed complains


@pytest.mark.timing
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.usefixtures("without_transports", "without_sockets")
def test_a_connection_that_breaks_is_replaced_without_them_too(backend, redis_server, namespace):
    """Faults 2, 4, 5."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:

        async def main():
            options = {"operation_timeout_s": 1.0, "attempt_timeout_s": 0.5}
            async with cache_anyio.Cache.from_url(proxy.url, namespace=namespace, **options) as cache:
                assert await cache.set("k", 1)
                lost = proxy.on(command("GET"), DROP_REPLY)
                assert await cache.get("k") == 1
                assert lost.fired == 1
                held = proxy.on(command("GET"), HOLD)
                await cache.get("k")
                assert held.fired == 1
                await anyio.to_thread.run_sync(proxy.release)
                assert await cache.set("k", 2)
                assert await cache.get("k") == 2

        anyio.run(main, backend=backend)
        gc.collect()


@pytest.mark.usefixtures("without_sockets")
def test_the_synchronous_cache_works_without_the_sockets(url, namespace):
    with cache_sync.Cache.from_url(url, namespace=namespace, **PATIENT) as cache:
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        assert cache.get_many(["k", "none"]) == {"k": "loaded"}
        assert cache.set_many({"a": 1, "b": 2}) == {"a": True, "b": True}
        assert type(cache._backend.connections._lanes[0].wire) is redispy._PublicWire
        assert cache.stats().errors == {}


@pytest.mark.usefixtures("without_sockets")
def test_errors_are_values_without_the_sockets_too(redis_url):
    connection = blocking_factory(RedisConfig(url=redis_url))()
    connection.connect()
    with closing(connections_threads.blocking_wire(connection)) as wire:
        replies = wire.exchange([(b"NONSENSE",), (b"PING",)], 10.0)
        assert isinstance(replies[0], errors.ResponseError)
        assert replies[1] == b"PONG"
        assert wire.is_sound()


def test_a_parser_without_redis_pys_errors_makes_plain_ones():
    parser = redispy.reply_reader(object())
    assert isinstance(parser, hiredis.Reader)
    parser.feed(b"-NOSCRIPT x\r\n")

    assert type(parser.gets()) is errors.ResponseError


# A wire that is out of step is given up.


@pytest.fixture
def pair():
    """A wire to a socket that the test answers on."""
    ours, theirs = socket.socketpair()
    connection = blocking_factory(RedisConfig())()
    connection._sock = ours
    with closing(ours), closing(theirs):
        yield redispy.blocking_wire(connection), theirs


@pytest.mark.parametrize("extra", [b"+EXTRA\r\n", b"+EXT"], ids=["whole", "part"])
def test_a_reply_that_nobody_has_asked_for_is_an_error(pair, extra):
    """S9, fault 29."""
    wire, server = pair
    server.sendall(b"+PONG\r\n" + extra)

    with pytest.raises(errors.ConnectionError, match="nobody has asked for"):
        wire.exchange([(b"PING",)], 10.0)


@pytest.fixture
def idle(redis_url):
    """A wire to the server that has been used, and its connection."""
    connection = blocking_factory(RedisConfig(url=redis_url))()
    connection.connect()
    with closing(redispy.blocking_wire(connection)) as wire:
        [number] = wire.exchange([(b"CLIENT", b"ID")], 10.0)
        yield wire, connection, number


def test_an_idle_wire_is_sound(idle):
    wire, _, _ = idle
    assert wire.is_sound()
    assert wire.exchange([(b"PING",)], 10.0) == [b"PONG"]


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
        wire.exchange([(b"PING",)], 0.01)


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
    with closing(redispy.blocking_wire(connection)) as wire:
        ticks = ticking() if is_ticking_before else None
        assert wire.exchange([(b"PING",)], 0.5) == [b"PONG"]
        ticks = ticks or ticking()
        fresh_server.freeze()
        with pytest.raises(errors.TimeoutError):
            wire.exchange([(b"PING",)], 0.5)
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


def test_a_wire_times_out_by_the_kernel_again_once_the_timer_is_off(ticking, pair):
    """And a look at an idle wire leaves it as it was."""
    wire, server = pair
    for step in (lambda: None, ticking, lambda: signal.setitimer(signal.ITIMER_REAL, 0), wire.is_sound):
        step()
        server.sendall(b"+PONG\r\n")
        assert wire.exchange([(b"PING",)], 10.0) == [b"PONG"]
        server.recv(100)
        assert wire.is_sound()
    with pytest.raises(errors.TimeoutError):
        wire.exchange([(b"PING",)], 0.01)


# Spinning.


FOR_EVER = 10**9


class Watched(socket.socket):
    """A socket that notes for each read whether it would have slept. So many looks are in vain."""

    def watch(self):
        self.slept = []
        self.blind_looks = 0
        return self

    def recv_into(self, buffer, count=0, flags=0):
        self.slept.append(not flags & socket.MSG_DONTWAIT)
        if self.blind_looks > 0 and not self.slept[-1]:
            self.blind_looks -= 1
            raise BlockingIOError
        return super().recv_into(buffer, count, flags)


@pytest.fixture
def watched(monkeypatch):
    """A wire, its socket, and a function that makes a call on it, with the reply there already."""
    monkeypatch.setattr(redispy, "_PROCESSORS", 2)
    monkeypatch.setattr(redispy, "_SPIN_S", 0.0)  # one look
    monkeypatch.setattr(redispy, "_FIRST_SPIN_S", 0.0)
    ours, theirs = socket.socketpair()
    sock = Watched(fileno=ours.detach()).watch()
    connection = blocking_factory(RedisConfig())()
    connection._sock = sock

    def call(**options):
        """Whether each read of the call would have slept."""
        sock.slept.clear()
        theirs.sendall(b"+PONG\r\n")
        assert wire.exchange([(b"PING",)], 10.0, **options) == [b"PONG"]
        theirs.recv(100)
        return list(sock.slept)

    with closing(sock), closing(theirs):
        wire = redispy.blocking_wire(connection)
        yield wire, sock, call


def test_a_call_that_may_spin_finds_a_reply_without_sleeping(watched):
    _, _, call = watched
    assert [call(may_spin=True) for _ in range(10)] == [[False]] * 10


def test_a_call_that_may_not_spin_sleeps_at_once(watched, monkeypatch):
    _, _, call = watched
    assert call() == [True]
    monkeypatch.setattr(redispy, "_PROCESSORS", 1)
    assert call(may_spin=True) == [True], "there is nobody to spin for: the server has the same processor"


def test_no_call_spins_while_a_timer_ticks(watched, ticking):
    """Python keeps the time then, and each read is one that may sleep."""
    _, _, call = watched
    ticking()
    assert call(may_spin=True) == [True]


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
    wire._sleeps_next = redispy._MOST_SLEEPS
    call(may_spin=True)
    sock.blind_looks = 0
    asleep = [call(may_spin=True) for _ in range(redispy._MOST_SLEEPS)]
    assert asleep == [[True]] * redispy._MOST_SLEEPS
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
    monkeypatch.setattr(redispy, "_FIRST_SPIN_S", 60.0)
    sock.blind_looks = 5
    assert call(may_spin=True) == [False] * 6
    sock.blind_looks = 1
    assert call(may_spin=True) == [False, True]


def test_a_silent_server_is_a_time_out_for_who_spins_too(watched):
    """L5."""
    wire, sock, _ = watched
    with pytest.raises(errors.TimeoutError):
        wire.exchange([(b"PING",)], 0.01, may_spin=True)
    assert sock.slept == [False, True]


def test_a_server_that_closes_is_seen_by_who_spins(watched):
    """Fault 5."""
    wire, sock, _ = watched
    sock.shutdown(socket.SHUT_RD)
    with pytest.raises(errors.ConnectionError, match="closed"):
        wire.exchange([(b"PING",)], 10.0, may_spin=True)


def test_only_who_is_alone_on_a_connection_spins(redis_url, monkeypatch):
    """Where others wait for the connection they are about to need the interpreter, too."""
    connections = connections_threads.ThreadsConnections(
        blocking_factory(RedisConfig(url=redis_url)),
        Background().start,
        max_connections=1,
        on_time=lambda _: None,
    )
    with closing(connections):
        connections.execute([(b"PING",)], 10.0)
        [lane] = connections._lanes
        wire, may_spin, is_driving, may_go = lane.wire, [], threading.Event(), threading.Event()

        class Noting:
            def exchange(self, commands, timeout_s, **options):
                may_spin.append(options["may_spin"])
                is_driving.set()
                assert may_go.wait(10.0)
                return wire.exchange(commands, timeout_s, **options)

            def is_sound(self):
                return True

            def close(self):
                wire.close()

        lane.wire = Noting()
        threads = [
            threading.Thread(target=connections.execute, args=([(b"PING",)], 10.0), daemon=True)
            for _ in range(3)
        ]
        threads[0].start()
        assert is_driving.wait(10.0)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(lane.queue) == 2)
        may_go.set()
        for thread in threads:
            thread.join(10.0)
            assert not thread.is_alive()
    assert may_spin == [True, False], "the second drives for the third"
