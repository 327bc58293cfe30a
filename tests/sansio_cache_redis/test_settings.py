"""Connecting: what redis-py is told, whatever the URL says."""

import asyncio
import importlib.metadata
import threading
from contextlib import closing

import hiredis
import pytest
import redis
import redis.asyncio
from redis.asyncio import connection as asyncio_connection

from sansio_cache import CacheConnectionError, CacheTimeoutError, ConfigurationError
from sansio_cache.config import RedisConfig
from sansio_cache_redis.connections import settings
from sansio_cache_redis.connections.settings import (
    asyncio_factory,
    blocking_factory,
    check_any_client,
    check_client,
)
from sansio_cache_redis.sync import Cache
from support.proxy import HOLD, FaultProxy
from support.runtimes import PATIENT
from support.servers import Server, wait_until
from support.tls import TlsProxy

pytestmark = pytest.mark.servers

FACTORIES = {"blocking": blocking_factory, "asyncio": asyncio_factory}
every_factory = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)


@pytest.mark.parametrize(
    ("url", "blocking", "asynchronous"),
    [
        ("redis://localhost", redis.Connection, asyncio_connection.Connection),
        ("rediss://localhost", redis.SSLConnection, asyncio_connection.SSLConnection),
        (
            "unix:///tmp/socket",
            redis.UnixDomainSocketConnection,
            asyncio_connection.UnixDomainSocketConnection,
        ),
    ],
)
def test_a_scheme_chooses_the_kind_of_connection(url, blocking, asynchronous):
    config = RedisConfig(url=url)

    assert type(blocking_factory(config)()) is blocking
    assert type(asyncio_factory(config)()) is asynchronous


@every_factory
def test_a_url_gives_the_place_and_the_credentials(factory):
    connection = factory(RedisConfig(url="redis://us%40er:pa%2Fss@example.org:7000/5?client_name=shop"))()

    assert (connection.host, connection.port, connection.db) == ("example.org", 7000, 5)
    assert (connection.username, connection.password) == ("us@er", "pa/ss")
    assert connection.client_name == "shop"


@every_factory
@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "unix:///tmp/socket"])
def test_the_defaults_that_a_cache_cannot_live_with_are_overridden(factory, url):
    """RELIABILITY section 4, items 1, 3, 4, 5."""
    connection = factory(RedisConfig(url=url, connect_timeout_s=3))()

    assert connection.retry.get_retries() == 0
    assert connection.socket_timeout == 3
    if not url.startswith("unix"):
        assert connection.socket_connect_timeout == 3
    notifications = getattr(connection, "maint_notifications_config", None)
    assert notifications is None or notifications.enabled is False
    assert connection.protocol == 2
    assert connection.encoder.decode_responses is False


def test_tls_is_verified_unless_the_url_says_otherwise():
    strict = blocking_factory(RedisConfig(url="rediss://localhost"))()
    lax = blocking_factory(RedisConfig(url="rediss://localhost?ssl_cert_reqs=none"))()

    assert (strict.cert_reqs.name, strict.check_hostname) == ("CERT_REQUIRED", True)
    assert lax.cert_reqs.name == "CERT_NONE"


@every_factory
@pytest.mark.parametrize(("connect_timeout_s", "taken_s"), [(2.0, 2.0), (30.0, 5.0)])
def test_a_handshake_may_take_all_the_time_and_a_server_five_seconds_of_it_to_take_a_connection(
    factory, connect_timeout_s, taken_s
):
    connection = factory(RedisConfig(connect_timeout_s=connect_timeout_s))()
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (connect_timeout_s, taken_s)


@every_factory
def test_the_file_system_is_not_searched_for_the_version_of_redis_py(factory, monkeypatch):
    """redis-py does so for each connection, and the disk may be slow."""

    def search(name):
        raise AssertionError(f"the version of {name} is searched for")

    monkeypatch.setattr(importlib.metadata, "version", search)
    connection = factory(RedisConfig(url="redis://localhost"))()
    assert connection.driver_info.lib_version == redis.__version__
    with pytest.raises(AssertionError, match="searched for"):
        redis.Connection()


@pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")
@every_factory
def test_what_a_url_says_of_the_driver_is_left_as_it_is(factory):
    connection = factory(RedisConfig(url="redis://localhost?lib_name=shop"))()
    assert connection.driver_info.name == "shop"


@every_factory
def test_making_a_factory_opens_nothing(factory):
    assert not factory(RedisConfig(url="redis://nowhere.invalid"))().is_connected


@pytest.mark.parametrize(
    ("client", "blocking"), [(redis.Redis(), True), (redis.asyncio.Redis(), False)], ids=["redis", "asyncio"]
)
def test_a_client_of_the_right_kind_is_taken(client, blocking):
    check_any_client(client)
    check_client(client, blocking=blocking)
    with pytest.raises(ConfigurationError):
        check_client(client, blocking=not blocking)


@pytest.mark.timing
def test_a_certificate_that_is_not_trusted_is_refused(redis_server, namespace):
    with TlsProxy(redis_server.port) as proxy:
        with Cache.from_url(proxy.url, namespace=namespace) as cache:
            with pytest.raises(CacheConnectionError, match=r"within 0\.5 s"):
                cache.wait_ready(0.5)
            assert cache.get_or_load("k", lambda: 1) == 1
        # If the proxy went while a handshake is under way, CPython would leave a socket open.
        wait_until(lambda: not any(each.name.startswith("sansio-cache") for each in threading.enumerate()))


# Waiting until the server is there.


@pytest.mark.timing
def test_wait_ready_waits_for_a_server_that_starts_late(namespace):
    with Server.start() as server:
        server.kill()
        with Cache.from_url(server.url, namespace=namespace, **PATIENT) as cache:
            with pytest.raises(CacheConnectionError, match=r"within 0\.2 s"):
                cache.wait_ready(0.2)
            server.restart()
            cache.wait_ready(20)
            assert cache.set("k", 1)


@pytest.mark.timing
def test_wait_ready_ends_on_a_server_that_says_nothing(redis_server, namespace):
    """L5, fault 4."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        proxy.freeze()
        with Cache.from_url(proxy.url, namespace=namespace) as cache:
            with pytest.raises(CacheTimeoutError, match=r"did not answer within 0\.3 s"):
                cache.wait_ready(0.3)
            proxy.thaw()
            cache.wait_ready(20)


@pytest.mark.timing
def test_a_slow_handshake_goes_on_in_the_background_and_serves_the_next_caller(redis_server, namespace):
    """A read waits no longer for a connection than for anything else; another is begun once it has hung."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        held = proxy.on(lambda words: True, HOLD)
        with Cache.from_url(proxy.url, namespace=namespace) as cache:
            assert cache.get("k", "default") == "default"
            held.wait()
            proxy.release()
            cache.wait_ready(20)
            assert proxy.connections_opened <= 2  # two where this took longer than a second
            wait_until(lambda: cache.set("k", 1))


@pytest.mark.parametrize("backend", ["asyncio"])
def test_the_asyncio_connection_is_the_one_that_was_asked_for(redis_server, backend):
    async def main():
        connection = asyncio_factory(RedisConfig(url=f"{redis_server.url[:-1]}3?client_name=asked"))()
        await connection.connect()
        await connection.send_command("CLIENT", "INFO")
        told = await connection.read_response()
        await connection.disconnect()
        return told.decode()

    told = asyncio.run(main())
    assert "name=asked" in told
    assert " db=3 " in told


def test_the_blocking_connection_is_the_one_that_was_asked_for(redis_server):
    connection = blocking_factory(RedisConfig(url=f"{redis_server.unix_url}?db=3&client_name=asked"))()
    connection.connect()
    with closing(redis_server.client()) as client:
        named = [each for each in client.client_list() if each["name"] == "asked"]
        assert [each["db"] for each in named] == ["3"]
        connection.disconnect()
        wait_until(lambda: "asked" not in [each["name"] for each in client.client_list()])


class Explosive(int):
    """A number that must not be written by hiredis: the process ends where writing it raises."""

    def __repr__(self):
        raise AssertionError("hiredis was given a number")

    def __str__(self):
        return "2"


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_redis_py_packs_itself_is_bytes_for_hiredis(redis_server, protocol, monkeypatch):
    """A signal handler that raises while hiredis writes a number ends the process: in SELECT, say."""
    packed = []
    pack = hiredis.pack_command

    def noting(words):
        packed.append(words)
        return pack(words)

    monkeypatch.setattr(hiredis, "pack_command", noting)
    monkeypatch.setattr(settings, "pack_one", noting)
    connection = blocking_factory(RedisConfig(url=f"{redis_server.url[:-1]}3?client_name=asked"))()
    connection.protocol = protocol
    connection.db = Explosive(2)
    connection.connect()
    connection.disconnect()
    words = [word for command in packed for word in command]
    assert {b"SELECT", b"2", b"SETINFO", b"SETNAME"} <= set(words)
    assert (b"HELLO" in words) is (protocol == 3)
    assert {type(word) for word in words} == {bytes}


def test_commands_are_packed_as_redis_py_packs_them_itself():
    packer = settings.Packer()
    theirs = redis.connection.PythonRespSerializer(6000, redis.Connection().encoder.encode)
    commands = [
        ("CLIENT SETINFO", "LIB-NAME", "x"),
        ("SELECT", 3),
        (b"AUTH", "ü", bytearray(b"p")),
        ("HELLO", 3),
    ]
    for command in commands:
        assert b"".join(packer.pack(*command)) == b"".join(theirs.pack(*command))
