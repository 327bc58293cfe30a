"""What lies below redis-py's public methods: it is there in the installed version, and not needed."""

import asyncio
import gc
import socket
import threading
from contextlib import closing, nullcontext, suppress

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import hiredis
import pytest
import trio
from redis import exceptions as errors

from sansio_cache.config import RedisConfig
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.connections import asyncio as connections_asyncio
from sansio_cache_redis.connections import opener, redispy, wires
from sansio_cache_redis.connections import trio as connections_trio
from sansio_cache_redis.connections.confirming import Confirming
from sansio_cache_redis.connections.pool import Timing
from sansio_cache_redis.connections.sentinel import sentinel_settings
from sansio_cache_redis.connections.settings import asyncio_factory, blocking_factory
from sansio_cache_redis.connections.threads import ThreadsConnections
from sansio_cache_redis.listening import Listener
from sansio_cache_redis.listening_cluster import ShardListener
from sansio_cache_redis.topology import keeper as topology_keeper
from sansio_cache_redis.topology import sentinel as topology_sentinel
from sansio_cache_redis.topology.cluster import Cluster
from sansio_cache_redis.topology.keeper import MapKeeper
from sansio_cache_redis.topology.sentinel import SentinelWatch
from sansio_cache_runtime.process import process_lock
from support.proxy import DROP_REPLY, HOLD, FaultProxy, command
from support.runtimes import PATIENT, until
from support.tls import TlsProxy
from support.wires import exchange

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
    wire = wires.blocking_wire(connection, 2**20)
    try:
        assert type(wire) is not wires._PublicWire
        replies = exchange(wire, [(b"PING",), (b"NONSENSE",), (b"ECHO", b"x")])
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
    for module in (wires, connections_trio):
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
        assert type(cache._backend.connections._lanes[0].wire) is wires._PublicWire
        assert cache.stats().errors == {}


@pytest.mark.usefixtures("without_sockets")
def test_errors_are_values_without_the_sockets_too(redis_url):
    connection = blocking_factory(RedisConfig(url=redis_url))()
    connection.connect()
    with closing(wires.blocking_wire(connection, 2**20)) as wire:
        replies = exchange(wire, [(b"NONSENSE",), (b"PING",)])
        assert isinstance(replies[0], errors.ResponseError)
        assert replies[1] == b"PONG"
        assert wire.is_sound()


def test_a_parser_without_redis_pys_errors_makes_plain_ones():
    parser = redispy.reply_reader(object())
    assert isinstance(parser, hiredis.Reader)
    parser.feed(b"-NOSCRIPT x\r\n")

    assert type(parser.gets()) is errors.ResponseError


# Ending what another thread opens.


class Unborn:
    """Connections to a server that says nothing, each of which has no socket until the test lets it."""

    def __init__(self, scheme="redis"):
        self.mute = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://127.0.0.1:{self.mute.getsockname()[1]}"
        self._make = blocking_factory(RedisConfig(url=self.url, connect_timeout_s=3600.0))
        self.beginning, self.may_begin = threading.Event(), threading.Event()
        self.threads = []
        self.taken_away = []
        """Who has closed a socket that a thread was using: its number may be another connection's at once."""

    def make(self, _address=""):
        connection = self._make()
        connection.socket_connect_timeout = 3600.0
        make_socket, disconnect = connection._connect, connection.disconnect

        users = []

        def watched(*args, **named):
            me = threading.current_thread()
            used = any(each.is_alive() for each in users if each is not me)
            if connection._sock is not None and used:
                self.taken_away.append(me.name)
            disconnect(*args, **named)

        def late():
            users.append(threading.current_thread())
            self.beginning.set()
            assert self.may_begin.wait(30)
            return make_socket()

        connection._connect, connection.disconnect = late, watched
        return connection

    def start(self, job, name):
        self.threads.append(threading.Thread(target=job, name=name, daemon=True))
        self.threads[-1].start()
        return True

    def end(self, close):
        """Close while a connection is being opened; what opens it is over as soon as it has a socket."""
        assert self.beginning.wait(30)
        close()
        self.may_begin.set()
        for each in self.threads:
            each.join(30)
        assert not any(each.is_alive() for each in self.threads)
        assert not self.taken_away


@pytest.fixture
def unborn():
    made = Unborn()
    with closing(made.mute):
        yield made


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_connection_is_ended_at_whatever_point_of_its_opening(scheme):
    """Also between the last question whether it is wanted and what comes then."""
    for point in (1, 2):
        unborn = Unborn(scheme)
        unborn.may_begin.set()
        with closing(unborn.mute):
            connection, asked = unborn.make(), []

            def is_over(connection=connection, asked=asked, point=point):
                was_over = len(asked) >= point
                asked.append(1)
                if len(asked) == point:  # the answer is on its way as another thread ends it
                    redispy.shut_down(connection)
                return was_over

            def connect(connection=connection, is_over=is_over):
                with pytest.raises((errors.RedisError, OSError)):
                    redispy.connect_unless(connection, is_over)
                connection.disconnect()

            unborn.start(connect, "connecting")
            unborn.end(lambda: None)
            assert len(asked) >= point


class Public:
    """A connection of a redis-py that keeps its sockets elsewhere."""

    def __init__(self, connection):
        self.__dict__["_connection"] = connection

    def __getattr__(self, name):
        if name in ("_sock", "_connect", "_wrap_socket_with_ssl"):
            raise AttributeError(name)
        return getattr(self._connection, name)

    def __setattr__(self, name, value):
        setattr(self._connection, name, value)


def test_a_subscription_is_ended_without_the_sockets_too():
    unborn = Unborn()
    unborn.may_begin.set()
    with closing(unborn.mute):
        listener = Listener(lambda: Public(unborn.make()), "ns", unborn.start)
        listener.watch("k", lambda: None)
        with unborn.mute.accept()[0] as peer:
            assert peer.recv(1), "its handshake is under way"
            listener.close(wait=False)
            unborn.threads[0].join(30)
            assert not unborn.threads[0].is_alive()


def test_an_opening_that_trio_has_abandoned_is_closed_without_the_sockets_too(redis_url):
    make, made = blocking_factory(RedisConfig(url=redis_url)), []
    has_begun, may_make = threading.Event(), threading.Event()

    def make_late():
        has_begun.set()
        assert may_make.wait(30)
        made.append(make())
        return Public(made[0])

    async def main():
        connecting = connections_trio._Connecting(make_late)
        limiter = trio.CapacityLimiter(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connecting.run, limiter)
            await until(has_begun.is_set)
            nursery.cancel_scope.cancel()
        may_make.set()
        await until(lambda: not limiter.borrowed_tokens)

    anyio.run(main, backend="trio")
    assert made[0]._sock is None


def test_tls_is_shut_down_below_it_whatever_has_replaced_sockets(redis_server, monkeypatch):
    """Eventlet puts a class there that has no `shutdown`. By that of TLS its user would go on without it."""
    with TlsProxy(redis_server.port) as proxy:
        connection = blocking_factory(RedisConfig(url=f"{proxy.url}?ssl_ca_certs={proxy.ca_file}"))()
        connection.connect()
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", type("Green", (), {}))
            redispy.shut_down(connection)
        assert connection._sock._sslobj is not None
        with pytest.raises(errors.ConnectionError):
            connection.read_response()
        connection.disconnect()


def asking_for_confirmation(redis_url):
    """A connection for confirmed writes that has one open; and all that were made."""
    make, made = blocking_factory(RedisConfig(url=redis_url)), []

    def make_known():
        made.append(make())
        return made[-1]

    return Confirming(make_known), made


CONFIRMED = [(b"PING",), (b"WAIT", b"0", b"10")]


def test_a_connection_for_confirmed_writes_is_closed_by_who_is_inside_the_lock_as_well(redis_url):
    """As a cache is that is dropped."""
    confirming, made = asking_for_confirmation(redis_url)
    assert confirming.execute(CONFIRMED, 20.0) == [b"PONG", 0]
    with process_lock():
        confirming.close()
    assert made[0]._sock is None
    assert confirming.count == 0


def test_a_connection_for_confirmed_writes_is_closed_as_its_driver_leaves(redis_url, monkeypatch):
    """Who closes it comes when its driver has looked for the last time, and is still there."""
    confirming, made = asking_for_confirmation(redis_url)
    send = confirming._send

    def send_and_meet(driver):
        send(driver)
        confirming.close()
        assert made[0]._sock is not None, "its driver uses it"

    monkeypatch.setattr(confirming, "_send", send_and_meet)
    assert confirming.execute(CONFIRMED, 20.0) == [b"PONG", 0]
    assert made[0]._sock is None
    assert confirming.count == 0


def opening_on_a_thread(unborn):
    """Connections of threads, of which one is being opened, and was waited for in vain."""
    connections = ThreadsConnections(
        unborn.make,
        unborn.start,
        max_connections=1,
        silence_s=0.1,
        opening_timeout_s=3600.0,
        on_greeted=lambda _: None,
    )
    with pytest.raises(errors.TimeoutError):
        connections.execute([(b"PING",)], 0.05)
    return connections


def test_a_connection_of_threads_that_has_no_socket_yet_is_ended(unborn):
    unborn.end(opening_on_a_thread(unborn).close)


def test_a_subscription_that_has_no_socket_yet_is_ended(unborn):
    listener = Listener(unborn.make, "ns", unborn.start)
    listener.watch("k", lambda: None)
    unborn.end(lambda: listener.close(wait=False))


def listening_at_a_node(unborn):
    cluster = Cluster(["127.0.0.1:1"])
    cluster.take([[0, 16_383, [b"127.0.0.1", 1, b"id"]]], "127.0.0.1:1")
    listener = ShardListener(cluster, unborn.make, unborn.start, lambda: None)
    listener.watch("k", lambda: None)
    return listener


def test_a_subscription_at_a_node_that_has_no_socket_yet_is_ended(unborn):
    listener = listening_at_a_node(unborn)
    unborn.end(lambda: listener.close(wait=False))


def test_a_subscription_at_a_node_that_says_nothing_is_ended(unborn):
    """Its handshake may take as long as its time-outs."""
    unborn.may_begin.set()
    listener = listening_at_a_node(unborn)
    with unborn.mute.accept()[0]:
        unborn.end(lambda: listener.close(wait=False))


def test_a_connection_for_confirmed_writes_is_waited_for_no_longer_than_its_call(unborn):
    confirming = Confirming(unborn.make, unborn.start)
    with pytest.raises(errors.TimeoutError):
        confirming.execute([(b"SET", b"k", b"v"), (b"WAIT", b"1", b"100")], 0.05)
    unborn.end(confirming.close)


def test_a_connection_of_threads_in_the_middle_of_a_handshake_of_tls_is_ended(monkeypatch):
    """redis-py has no socket to disconnect before that is over."""
    monkeypatch.setattr(opener, "_FIRST_HANDSHAKE_S", 3600.0)
    shaking = Unborn("rediss")
    with closing(shaking.mute):
        shaking.may_begin.set()
        connections = opening_on_a_thread(shaking)
        with shaking.mute.accept()[0] as peer:
            assert peer.recv(1), "it has said hello"
            shaking.end(connections.close)


@pytest.mark.parametrize("is_late", [True, False], ids=["no socket yet", "in its handshake"])
def test_a_map_that_is_being_fetched_is_ended(unborn, is_late, monkeypatch):
    monkeypatch.setattr(topology_keeper, "_FIRST_S", 3600.0)
    cluster = Cluster(["127.0.0.1:1"])
    keeper = MapKeeper(cluster, unborn.make, unborn.start, lambda: None)
    if not is_late:
        unborn.may_begin.set()
    keeper.look()
    with closing(unborn.mute.accept()[0]) if not is_late else nullcontext() as peer:
        assert peer is None or peer.recv(1)
        unborn.end(keeper.close)


@pytest.mark.parametrize("is_late", [True, False], ids=["no socket yet", "in its handshake"])
def test_a_sentinel_that_is_about_to_be_listened_to_is_left(unborn, is_late, monkeypatch):
    config = RedisConfig(url=f"redis+sentinel://{unborn.url.partition('//')[2]}/primary")
    settings = attrs.evolve(sentinel_settings(config, None), timeout_s=3600.0)
    watch = SentinelWatch(settings, unborn.start)
    monkeypatch.setattr(topology_sentinel, "sentinel_connection", lambda *_: unborn.make())
    if not is_late:
        unborn.may_begin.set()
    watch._begin()
    with closing(unborn.mute.accept()[0]) if not is_late else nullcontext() as peer:
        assert peer is None or peer.recv(1)
        unborn.end(lambda: watch.close(wait=False))


def test_an_opening_that_trio_has_abandoned_shakes_no_hands(unborn):
    """Its thread keeps a place, which the connection to the next primary may have to wait for."""

    async def main():
        timing = Timing(opening_s=3600.0, call_s=0.05, silence_s=0.1)
        connections = connections_trio.TrioConnections(
            unborn.make, max_connections=1, timing=timing, on_greeted=lambda _: None
        )
        answer = await connections.ask([(b"PING",)], 0.05, lambda replies: replies)
        assert isinstance(answer, errors.TimeoutError)
        assert await anyio.to_thread.run_sync(unborn.beginning.wait, 30)
        await connections.aclose()
        unborn.may_begin.set()
        await until(lambda: not connections._threads.borrowed_tokens)

    anyio.run(main, backend="trio")


def test_closing_under_asyncio_closes_what_is_open_before_it_waits_for_what_is_being_opened(redis_url):
    """A loop that ends gives it a second, and a search for the primary may take longer."""

    async def main():
        connections = connections_asyncio.AsyncioConnections(
            asyncio_factory(RedisConfig(url=redis_url)),
            max_connections=2,
            timing=Timing(opening_s=3600.0, call_s=0.25, silence_s=0.1),
            on_greeted=lambda _: None,
        )
        assert await connections.ask([(b"PING",)], 30.0, lambda replies: replies) == [b"PONG"]
        [connection] = connections._all()
        begun, may_end = asyncio.Event(), asyncio.Event()

        class Stubborn:
            async def connect(self):
                with suppress(asyncio.CancelledError):  # lost, as it may be in redis-py on Python 3.11
                    begun.set()
                    await asyncio.sleep(3600)
                await may_end.wait()
                raise OSError

        connections._make_connection = Stubborn
        connections._opening()
        await begun.wait()
        ending = asyncio.create_task(connections.aclose())
        await asyncio.sleep(0)
        assert connection.failure is not None
        assert not ending.done()
        may_end.set()
        await ending
        assert connections.count == 0

    asyncio.run(asyncio.wait_for(main(), 60))
