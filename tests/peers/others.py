"""Seen in peers that have to be installed, or may have mended it: `nox -s peers`. Ours: `test_peers.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
import redis
import redis.asyncio

from peers import scenarios
from peers.stampede import CALLERS
from peers.subjects import OTHERS, open_cashews
from sansio_cache_redis.sync import Cache
from support.servers import Server

pytestmark = pytest.mark.filterwarnings("ignore")
SIGNED = {"secret": "a key of at least sixteen bytes", "digestmod": "sha256"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.start() as server:
        yield server


@pytest.fixture(autouse=True)
def client(server: Server) -> Iterator[redis.Redis]:
    with closing(server.client()) as client:
        client.flushall()
        yield client


@pytest.mark.parametrize("peer", OTHERS)
def test_a_peer_stores_what_a_write_has_overtaken(peer, server):
    with OTHERS[peer].open(server) as cache:
        [found] = scenarios.a_write_overtakes_a_load(cache)
    assert found.read.value == scenarios.OLD


def test_cashews_stores_what_an_invalidation_of_its_tag_has_overtaken(server):
    with open_cashews(server) as cache:
        [found] = scenarios.a_write_overtakes_a_load_under_a_tag(cache)
    assert found.read.value == scenarios.OLD


def test_cashews_says_of_an_invalidation_that_was_refused_that_it_is_done(server, client):
    with open_cashews(server, lock=False) as cache:  # as is its default; it would wait for its lock
        [found] = scenarios.a_store_refuses_an_invalidation(cache, client)
    assert found.read.value == scenarios.OLD


@pytest.mark.parametrize("peer", ["cashews", "django-redis"])
def test_a_peer_takes_a_name_for_a_pattern(peer, server):
    with OTHERS[peer].open(server) as cache:
        [found] = scenarios.a_page_whose_name_is_a_pattern_is_forgotten(cache)
        assert found.read.value == scenarios.OLD
        assert scenarios.a_page_is_forgotten_whose_name_is_a_star(cache) == 2


def test_fastapi_cache_gives_one_user_what_is_anothers(server):
    from fastapi_cache.key_builder import default_key_builder

    def letters(user: scenarios.User) -> str:
        return f"letters of {user.name}"

    def key_of(user: scenarios.User) -> str:
        return default_key_builder(letters, "peers", args=(user,), kwargs={})

    with OTHERS["fastapi-cache2"].open(server) as cache:
        [found] = scenarios.two_users_have_the_same_repr(key_of, cache)
    assert (found.read.key, found.read.value) == ("eve", "letters of ada")


def test_a_namespace_of_fastapi_cache_is_run_by_the_server_and_ours_is_data(server, client):
    from fastapi_cache.backends.redis import RedisBackend

    hostile = "x')) do end redis.call('SET', 'ran', '1') for i, name in ipairs(redis.call('KEYS', 'x"
    with Cache.from_url(server.url, namespace="ours") as cache:
        cache.delete_pattern(cache.key.pattern(hostile))
        assert not client.exists("ran")

    async def clear() -> None:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await RedisBackend(client).clear(namespace=hostile)

    anyio.run(clear)
    assert client.get("ran") == b"1"


@pytest.mark.parametrize("peer", [name for name, each in OTHERS.items() if each.unpickles])
def test_what_stands_in_the_store_runs_in_the_process_of_a_peer(peer, server, client):
    with OTHERS[peer].as_it_comes(server) as cache:
        assert scenarios.bytes_of_the_store_run(cache, client)


def test_cashews_takes_a_signed_value_for_that_of_another_key(server, client):
    """What is signed is the key and the value, with nothing between."""
    with open_cashews(server, **SIGNED) as cache:
        [found] = scenarios.a_value_is_copied_to_another_key(cache, client, "", at=1)
    assert (found.read.key, found.read.value) == ("price:11", 2.5)


def test_cashews_takes_an_entry_that_says_how_little_it_is_signed(server, client):
    """The algorithm is what the entry says: here the sum of its bytes, which is found by trying."""
    from cashews.serialize import HashSigner, UnSecureDataError

    signer = HashSigner(**SIGNED)
    for guess in range(20_000):
        forged = b'sum:%x_"forged"' % guess
        try:  # as often as he likes: a wrong guess is a miss
            signer.check_sign("k", forged)
            break
        except UnSecureDataError:
            continue
    with open_cashews(server, **SIGNED) as cache:
        client.set("k", forged, px=600_000)
        assert cache.read("k", lambda: "true") == "forged"


def test_aiocache_removes_the_whole_database_when_one_namespace_is_cleared(server, client):
    from aiocache import RedisCache

    async def clear() -> None:
        theirs = RedisCache(namespace="theirs", endpoint="127.0.0.1", port=server.port, timeout=30)
        await theirs.set("k", 1)
        await theirs.clear()
        await theirs.close()

    client.set("stranger", b"1")
    anyio.run(clear)
    assert client.keys("*") == []


def test_a_stampede_of_several_processes_is_several_loads_behind_the_guard_of_aiocache(server, client):
    """L2, of which `test_processes.py` says that ours is one: this guard is one process's."""
    processes = 3
    command = [sys.executable, "-P", "-m", "peers.stampede", server.url, str(processes)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    running = [subprocess.Popen(command, env=environment) for _ in range(processes)]
    assert [each.wait(120) for each in running] == [0] * processes
    assert 1 < int(client.get("loads")) <= processes * CALLERS
