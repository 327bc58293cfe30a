"""Sentinel: the primary is found, and another one after a failover; nothing is read from the old one."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import redis
from redis.asyncio.sentinel import Sentinel as AsyncioSentinel
from redis.sentinel import Sentinel

from sansio_cache import ConfigurationError, RedisConfig
from sansio_cache.exploring.history import History, Read, Write
from sansio_cache_redis import dialect
from sansio_cache_redis.anyio import Cache as AsyncCache
from sansio_cache_redis.connections.sentinel import Search, Sentinels, sentinel_settings
from sansio_cache_redis.sync import Cache
from sansio_cache_redis.topology.sentinel import SentinelWatch
from support.faulty import PATIENT, Subject, eventually, in_thread, on_every_runtime, opened, run_on
from support.sentinels import SERVICE, PlayedSentinel, Watched
from support.servers import Server, connect, wait_until
from support.tls import TlsProxy

pytestmark = pytest.mark.topology


@pytest.fixture
def replica(redis_server: Server) -> Iterator[Server]:
    """A replica of the server that all tests share."""
    with connect(redis_server.url) as client:
        client.config_set("repl-diskless-sync-delay", 0)
    with Server.start(args=["--replicaof", f"127.0.0.1 {redis_server.port}"]) as server:
        wait_until(lambda: server.client().info("replication").get("master_link_status") == "up")
        yield server


@asynccontextmanager
async def with_client(runtime: str, client: Any, namespace: str) -> AsyncIterator[Subject]:
    """A cache of a client of the user's, or of his sentinels."""
    subject = Subject(runtime, "memory://", namespace, {})
    kind: Any = Cache if runtime == "sync" else AsyncCache
    subject.cache = kind.from_client(client, namespace=namespace, **PATIENT)
    try:
        yield subject
    finally:
        await subject.close() if runtime == "sync" else await subject.aclose()


# Freeze, promote, thaw.


async def _stale_after_thaw(
    runtime: str, namespace: str, watched: Watched, *, is_deposed: bool = True
) -> tuple[int, int]:
    """How many reads there were, and how many of them stale, as the old primary goes on as before.

    Where it is not deposed, there is no sentinel any more that would do so.
    """
    history, stale = History(), 0
    keys = [f"k{number}" for number in range(4)]
    versions = dict.fromkeys(keys, 1)
    url, times = watched.url, {"operation_timeout_s": 0.25} if is_deposed else PATIENT
    caches = opened(runtime, url, namespace, **times), opened("sync", url, namespace)
    async with caches[0] as reader, caches[1] as writer:

        async def read(count: int) -> None:
            nonlocal stale
            for number in range(count):
                key, began_s = keys[number % len(keys)], time.monotonic()

                def load(key: str = key) -> int:
                    return versions[key]

                version = await reader.get_or_load(key, load)
                stale += history.judge(Read("reader", key, version, began_s)) is not None

        await read(8)
        await in_thread(watched.first.freeze)
        await in_thread(watched.wait_for_promotion)
        for key in keys:
            versions[key] += 1

            async def told(key: str = key) -> bool:
                return bool((await writer.invalidate(key)).done)

            await eventually(told)
            now_s = time.monotonic()
            history.note(Write("writer", key, versions[key], now_s, now_s))
        if not is_deposed:
            for sentinel in watched.sentinels:
                await in_thread(sentinel.kill)
        await in_thread(watched.first.thaw)
        await read(200)

        async def is_served() -> bool:
            """Whether all is hit again: what was loaded in the second after the failover was not stored."""
            for key in keys:
                await reader.get_or_load(key, partial(versions.__getitem__, key))
            return None not in [await reader.get(key) for key in keys]

        await eventually(is_served)
    return history.reads, stale


@pytest.mark.servers
@on_every_runtime
def test_nothing_is_read_from_a_primary_that_was_frozen_and_deposed(runtime: str, namespace: str) -> None:
    """Fault 21: the thawed one answers as if nothing had happened, until a sentinel makes it a replica."""
    with Watched() as watched:
        reads, stale = run_on(runtime, lambda: _stale_after_thaw(runtime, namespace, watched))
    assert (reads, stale) == (208, 0)


@pytest.mark.servers
def test_without_listening_to_sentinels_a_deposed_primary_would_be_read(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(SentinelWatch, "_begin", lambda _: None)
    with Watched() as watched:
        reading = partial(_stale_after_thaw, "sync", namespace, watched, is_deposed=False)
        _, stale = run_on("sync", reading)
    assert stale == 200


@on_every_runtime
@pytest.mark.parametrize("asks_for_role", [True, False])
def test_a_replica_that_a_sentinel_takes_for_the_primary_is_not_read(
    runtime: str,
    asks_for_role: bool,
    redis_server: Server,
    replica: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not know of a failover yet. Without a question for the role, the replica would be read."""
    if not asks_for_role:
        monkeypatch.setattr(dialect, "refuse_unfit", lambda _: None)

    async def main() -> None:
        async with opened("sync", redis_server.url, namespace, **PATIENT) as writer:
            assert await writer.set("k", "v")
            await eventually(lambda: replica.client().exists(f"{namespace}:k"))
            async with opened(runtime, sentinel.url, namespace, operation_timeout_s=2.0) as cache:
                assert (await cache.get("k") == "v") is not asks_for_role
                assert cache.is_out is asks_for_role
                if asks_for_role:
                    sentinel.switch(redis_server.port)
                    await eventually(lambda: _is(cache, "k", "v"))

    with PlayedSentinel(replica.port) as sentinel:
        run_on(runtime, main)


async def _warned(cache: Subject, text: str) -> bool:
    return any(text in each for each in (await cache.health()).warnings)


def in_database(server: Server, number: int, namespace: str, **options: Any) -> bool:
    """Whether the key is in a database of a server."""
    with redis.Redis(port=server.port, db=number, **options) as client:
        return bool(client.exists(f"{namespace}:k"))


async def _is(cache: Subject, key: str, value: Any) -> bool:
    return bool(await cache.get(key) == value)


# Which sentinel is asked, and which is believed.


@on_every_runtime
def test_sentinels_that_are_down_are_passed_over(runtime: str, redis_server: Server, namespace: str) -> None:
    async def main() -> None:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:2,{sentinel.address}/{SERVICE}"
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            assert await cache.set("k", 1)
            assert await cache.get("k") == 1
            assert (await cache.health()).ok
            await eventually(lambda: _warned(cache, "1 of the 3 sentinels can be listened to"))

    with PlayedSentinel(redis_server.port) as sentinel:
        run_on(runtime, main)


@on_every_runtime
def test_a_switch_moves_the_connections_at_once_and_one_that_is_late_is_not_believed(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        url = f"redis+sentinel://{late.address},{quick.address}/{SERVICE}"
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "old")
            await eventually(lambda: quick.listeners and late.listeners)
            assert await cache.get("k") == "old"
            quick.switch(other.port)
            await eventually(lambda: _is(cache, "k", None))
            assert await cache.set("k", "new")
            assert await cache.get("k") == "new"
            assert in_database(redis_server, 0, namespace), "it has the old one still"

    played = (PlayedSentinel(redis_server.port), PlayedSentinel(redis_server.port))
    with Server.start() as other, played[0] as quick, played[1] as late:
        run_on(runtime, main)


@on_every_runtime
def test_a_switch_that_was_missed_is_found_out_when_the_sentinel_is_heard_again(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        async with opened(runtime, sentinel.url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "old")
            await eventually(lambda: sentinel.listeners)
            sentinel.primary, sentinel.epoch = other.port, 2
            sentinel.cut()
            await eventually(lambda: _is(cache, "k", None))

    with Server.start() as other, PlayedSentinel(redis_server.port) as sentinel:
        run_on(runtime, main)


def settings_of(*addresses: str) -> Any:
    url = f"redis+sentinel://{','.join(addresses)}/{SERVICE}"
    return sentinel_settings(RedisConfig(url=url), None)


def fields(port: int, epoch: int) -> list[bytes]:
    return [b"ip", b"h", b"port", b"%d" % port, b"config-epoch", b"%d" % epoch]


def searched(settings: Any, sentinels: Sentinels, answers: dict[str, list[bytes]]) -> tuple[int, list[str]]:
    """The port that a search finds, and whom it has asked."""
    search, asked = Search(settings, sentinels), []
    for address in search:
        asked.append(address)
        if address in answers:
            search.take(address, [answers[address], None])
        else:
            search.failed(address, redis.ConnectionError("refused"))
    return search.result()[1], asked


def test_who_answered_last_is_asked_first_and_the_newest_configuration_is_believed() -> None:
    settings = settings_of("a:1", "b:1", "c:1")
    sentinels = Sentinels(settings)
    assert searched(settings, sentinels, {"b:1": fields(6, 3)}) == (6, ["a:1", "b:1"])
    assert searched(settings, sentinels, {"b:1": fields(6, 3)}) == (6, ["b:1"])
    message = f"{SERVICE} h 6 h 7".encode()
    assert [sentinels.switched(message) for _ in range(3)] == [True, False, False]
    late = {"b:1": fields(6, 3), "c:1": fields(7, 4)}
    assert searched(settings, sentinels, late) == (7, ["b:1", "a:1", "c:1"])
    # Where all of them have forgotten (SENTINEL RESET), what they say is all there is.
    assert searched(settings, sentinels, dict.fromkeys(("a:1", "b:1", "c:1"), fields(8, 0)))[0] == 8
    assert searched(settings, sentinels, dict.fromkeys(("a:1", "b:1", "c:1"), fields(8, 0)))[0] == 8


@pytest.mark.parametrize(
    "message", [None, 5, b"", b"other h 6 h 7", b"mymaster h 6", b"mymaster h 6 h 7 8", [b"mymaster"]]
)
def test_messages_about_other_servers_move_nothing(message: Any) -> None:
    assert not Sentinels(settings_of("a:1")).switched(message)


# What does not work says why.


@on_every_runtime
def test_what_sentinels_do_not_know_is_said(runtime: str, redis_server: Server, namespace: str) -> None:
    async def main() -> None:
        async with opened(runtime, sentinel.url, namespace, **PATIENT) as cache:
            assert await cache.get_or_load("k", lambda: 1) == 1
            [problem] = (await cache.health()).problems
            assert f"the sentinels {sentinel.address} do not watch a server called {SERVICE}" in problem

    with PlayedSentinel(redis_server.port, services=("other",)) as sentinel:
        run_on(runtime, main)


@on_every_runtime
def test_sentinels_that_are_all_down_are_an_outage_like_any_other(runtime: str, namespace: str) -> None:
    async def main() -> None:
        url = f"redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/{SERVICE}"
        async with opened(runtime, url, namespace, operation_timeout_s=0.2) as cache:
            assert await cache.get_or_load("k", lambda: 1) == 1
            assert cache.is_out
            [problem] = (await cache.health()).problems
            assert "none of the sentinels of mymaster (127.0.0.1:1, 127.0.0.1:2) says where" in problem
            assert "refuses connections: no server listens there" in problem
            assert "secret" not in problem

    run_on(runtime, main)


@on_every_runtime
def test_a_url_of_a_sentinel_that_says_redis_is_told_so(runtime: str, namespace: str) -> None:
    async def main() -> None:
        url = f"redis://{watched.sentinels[0].address}"
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            [problem] = (await cache.health()).problems
            assert "is a sentinel and keeps no data: its URL begins with redis+sentinel://" in problem

    with Watched() as watched:
        run_on(runtime, main)


# Who they are to be asked as.


@pytest.mark.servers
@on_every_runtime
def test_sentinels_have_a_password_of_their_own(runtime: str, namespace: str) -> None:
    async def main() -> None:
        address = watched.sentinels[0].address
        plain = f"redis+sentinel://:of-data@{address}/{SERVICE}/1"
        async with opened(runtime, f"{plain}?sentinel_password=of%2Bsentinel", namespace, **PATIENT) as cache:
            assert await cache.set("k", 1)
            assert in_database(watched.first, 1, namespace, password="of-data")
        async with opened(runtime, plain, namespace, operation_timeout_s=0.5) as cache:
            [problem] = (await cache.health()).problems
            assert f"{address} wants a password, and the URL gives none" in problem

    login = {"password": "of+sentinel"}
    with Watched(lines=["requirepass of+sentinel"], login=login, password="of-data") as watched:
        run_on(runtime, main)


@on_every_runtime
def test_a_sentinel_that_permits_little_is_asked_for_the_address_alone(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        async with opened(runtime, sentinel.url, namespace, **PATIENT) as cache:
            assert await cache.set("k", 1)

    with PlayedSentinel(redis_server.port) as sentinel:
        sentinel.may_ask_master = False
        run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("all_is_tls", [True, False])
def test_sentinels_and_servers_speak_tls_together_or_each_by_itself(
    runtime: str, all_is_tls: bool, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            assert await cache.set("k", 1)
            await eventually(lambda: sentinel.listeners)
            assert in_database(redis_server, 0, namespace)

    with ExitStack() as stack:
        data = stack.enter_context(TlsProxy(redis_server.port))
        sentinel = stack.enter_context(PlayedSentinel(data.port))
        before = stack.enter_context(TlsProxy(sentinel.port))
        ca_file = f"sentinel_ssl_ca_certs={before.ca_file}"
        if all_is_tls:
            own = f"ssl_ca_certs={data.ca_file}"
            url = f"rediss+sentinel://127.0.0.1:{before.port}/{SERVICE}?{own}&{ca_file}"
        else:
            sentinel.primary = redis_server.port
            url = f"redis+sentinel://127.0.0.1:{before.port}/{SERVICE}?sentinel_tls=yes&{ca_file}"
        run_on(runtime, main)


# Sentinels of redis-py's.


def _theirs(runtime: str, sentinel: PlayedSentinel, **options: Any) -> Any:
    kind = AsyncioSentinel if runtime == "asyncio" else Sentinel
    return kind([("127.0.0.1", sentinel.port)], **options)


@on_every_runtime
@pytest.mark.parametrize("what", ["sentinel", "client"])
def test_the_settings_of_a_users_sentinel_are_used_and_its_connections_are_not(
    runtime: str, what: str, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        theirs = _theirs(runtime, sentinel, db=2)
        given = theirs if what == "sentinel" else theirs.master_for(SERVICE)
        async with with_client(runtime, given, namespace) as cache:
            assert await cache.set("k", 1)
            assert await cache.get("k") == 1
            assert in_database(redis_server, 2, namespace)
            await eventually(lambda: sentinel.listeners)
            sentinel.switch(other.port)
            await eventually(lambda: _is(cache, "k", None))
        if what == "client":
            closing = given.aclose() if runtime == "asyncio" else None
            await closing if closing is not None else given.close()

    with Server.start() as other, PlayedSentinel(redis_server.port) as sentinel:
        run_on(runtime, main)


@on_every_runtime
def test_of_sentinels_that_watch_several_servers_one_is_to_be_named(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    async def main() -> None:
        async with with_client(runtime, _theirs(runtime, sentinel), namespace) as cache:
            [problem] = (await cache.health()).problems
            assert "watch several servers (mymaster, other): pass sentinel.master_for(name)" in problem

    with PlayedSentinel(redis_server.port, services=(SERVICE, "other")) as sentinel:
        run_on(runtime, main)


@pytest.mark.parametrize("kind", [Cache, AsyncCache])
@pytest.mark.parametrize("made_by", [Sentinel, AsyncioSentinel])
def test_sentinels_that_cannot_be_used_are_refused(kind: Any, made_by: Any) -> None:
    sentinel = made_by([("127.0.0.1", 1)])
    with pytest.raises(ConfigurationError, match=r"nothing is read there: pass sentinel\.master_for"):
        _backend_of(kind, sentinel.slave_for(SERVICE))
    with pytest.raises(ConfigurationError, match="decode_responses=True"):
        _backend_of(kind, made_by([("127.0.0.1", 1)], decode_responses=True))
    with pytest.raises(ConfigurationError, match="names no sentinels"):
        _backend_of(kind, made_by([]))


def _backend_of(kind: Any, client: Any) -> Any:
    cache = kind.from_client(client, namespace="n")
    if kind is Cache:
        cache.get("k")
    return cache


def test_what_is_said_of_sentinels_shows_no_password() -> None:
    url = "redis+sentinel://u:hunter2@h/mymaster?sentinel_password=hunter3"
    settings = sentinel_settings(RedisConfig(url=url), None)
    assert settings is not None
    assert "hunter" not in repr(settings)
    assert settings.sentinel.arguments["password"] == "hunter3"
    assert attrs.asdict(settings.primary)["arguments"]["password"] == "hunter2"


def test_the_thread_that_listens_ends_with_the_cache(redis_server: Server, namespace: str) -> None:
    with PlayedSentinel(redis_server.port) as sentinel:
        with Cache.from_url(sentinel.url, namespace=namespace, **PATIENT) as cache:
            assert cache.set("k", 1)
            wait_until(lambda: sentinel.listeners)
        # It says that it has ended a moment before it is over.
        wait_until(lambda: "sansio-cache-sentinels" not in [each.name for each in threading.enumerate()])


def test_a_loop_that_was_closed_without_a_word_leaves_no_thread_that_listens(
    redis_server: Server, namespace: str
) -> None:
    with PlayedSentinel(redis_server.port) as sentinel:
        cache = AsyncCache.from_url(sentinel.url, namespace=namespace, **PATIENT)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(cache.set("k", 1))
            wait_until(lambda: sentinel.listeners)
            loop.close()
        asyncio.run(close_after_a_call(cache))
        wait_until(lambda: "sansio-cache-sentinels" not in [each.name for each in threading.enumerate()])


async def close_after_a_call(cache: AsyncCache) -> None:
    assert await cache.get("k") == 1
    await cache.aclose()
