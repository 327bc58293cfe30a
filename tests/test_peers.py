"""The known failures of other caches: ours goes through each, and what catches theirs is a checker of logs.

Each scenario has a control: a peer in whom the failure is seen, here or, where that has to be installed, in
`peers/others.py` (`nox -s peers`). So a scenario in which nothing can go wrong would fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from peers import scenarios
from peers.subjects import ALWAYS, OURS, open_ours
from sansio_cache import KeyBuilder
from sansio_cache.errors import CacheError
from sansio_cache_redis.sync import Cache
from support.servers import Server

# What peers warn of is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
ours = pytest.mark.parametrize("colour", OURS)
peers = pytest.mark.parametrize("peer", ALWAYS)
SIGNED = {"signing_keys": ["a key of at least sixteen bytes"]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.start() as server:
        yield server


@pytest.fixture(autouse=True)
def client(server: Server) -> Iterator[redis.Redis]:
    with closing(server.client()) as client:
        client.flushall()
        yield client


@ours
def test_a_write_that_overtakes_a_load_is_read_after_it(colour, server):
    with OURS[colour](server) as cache:
        assert scenarios.a_write_overtakes_a_load(cache) == []


@peers
def test_a_peer_stores_what_a_write_has_overtaken(peer, server):
    """Its lock keeps other readers out, and not the writer."""
    with ALWAYS[peer].open(server) as cache:
        [found] = scenarios.a_write_overtakes_a_load(cache)
    assert found.read.value == scenarios.OLD
    assert "though a writer had written 'new'" in str(found)


def test_an_invalidation_of_a_tag_that_overtakes_a_load_holds(server):
    """Laravel's framework, 39939: a flush of tags beside a write. cashews: `peers/others.py`."""
    with open_ours(server) as cache:
        assert scenarios.a_write_overtakes_a_load_under_a_tag(cache) == []


def test_what_is_stored_of_a_tag_ends_and_does_not_grow_with_its_entries(server, client):
    """Laravel's alternative cache, 50: sets of members that nobody empties."""
    with Cache.from_url(server.url, namespace="ours") as cache:
        for number in range(50):
            assert cache.set(f"k{number}", number, tags=["t"])
        [tag] = client.keys("ours:%t:*")
        assert len(client.keys("*")) == 51
        assert client.strlen(tag) == 16
        assert client.pttl(tag) > 0


def test_an_invalidation_that_the_store_refuses_is_kept_in_mind_by_its_process(server, client):
    """cashews gives back as if it were done: `peers/others.py`."""
    with open_ours(server) as cache:
        assert scenarios.a_store_refuses_an_invalidation(cache, client) == []


def test_a_page_whose_name_is_a_pattern_is_forgotten_and_no_other(server):
    """cashews and django-redis take names for patterns: `peers/others.py`."""
    with open_ours(server) as cache:
        assert scenarios.a_page_whose_name_is_a_pattern_is_forgotten(cache) == []
        assert scenarios.a_page_is_forgotten_whose_name_is_a_star(cache) == 0


def test_a_function_of_an_object_without_an_encoding_is_not_cached(server):
    """fastapi-cache2 takes its `repr`, which two of them share: `peers/others.py`."""
    with Cache.from_url(server.url, namespace="ours") as cache:

        @cache.cached("letters")
        def letters(user: scenarios.User) -> str:
            return f"letters of {user.name}"

        with pytest.raises(CacheError, match="User"):
            letters(scenarios.User("ada"))


@ours
def test_what_stands_in_the_store_runs_nothing(colour, server, client):
    with OURS[colour](server) as cache:
        assert not scenarios.bytes_of_the_store_run(cache, client)


@pytest.mark.parametrize("peer", [name for name, each in ALWAYS.items() if each.unpickles])
def test_what_stands_in_the_store_runs_in_the_process_of_a_peer(peer, server, client):
    """CVE-2021-33026 of Flask-Caching, CVE-2025-69872 of diskcache, Beaker 191: all that unpickles."""
    with ALWAYS[peer].as_it_comes(server) as cache:
        assert scenarios.bytes_of_the_store_run(cache, client)


def test_a_signed_entry_that_was_forged_or_copied_to_another_key_is_a_miss(server, client):
    """cashews takes the algorithm from the entry, and signs key and value as one text: `peers/others.py`."""
    with open_ours(server, **SIGNED) as cache, open_ours(server) as stranger:
        assert scenarios.a_value_is_copied_to_another_key(cache, client, "ours:") == []
        stranger.forget("k")
        stranger.read("k", lambda: "forged")
        assert cache.read("k", lambda: "true") == "true"


def test_two_long_queries_of_the_same_short_hash_have_keys_of_their_own():
    """Symfony 62328: 32 bits of a hash. The control is the short form that the recipe of this library has."""
    first = {"page": "772", "size": "2", "sort": "name"}
    second = {"page": "109", "size": "8", "sort": "name"}
    keys = KeyBuilder("ours")
    as_texts = ["&".join(f"{name}={value}" for name, value in each.items()) for each in (first, second)]
    assert keys.list_key("users", as_texts[0], digits=8) == keys.list_key("users", as_texts[1], digits=8)
    assert keys.list_key("users", as_texts[0]) != keys.list_key("users", as_texts[1])


def test_whoever_dies_while_he_loads_leaves_nothing_that_lasts(server, client):
    """retools and django-redis-cache 128: a lock without an end. The control is dogpile.cache's default."""
    from dogpile.cache import make_region

    left_ms = []
    with Cache.from_url(server.url, namespace="ours") as cache:
        cache.get_or_load("k", lambda: left_ms.append(client.pttl("ours:k")) or 1)
    assert 0 < left_ms[0] <= 60_000

    arguments = {"url": server.url, "distributed_lock": True, "thread_local_lock": False}
    region = make_region().configure("dogpile.cache.redis", arguments=arguments)
    region.get_or_create("k", lambda: left_ms.append(client.pttl("_lockk")) or 1)
    region.backend.reader_client.close()
    assert left_ms[1] == -1, "the lock of one who is killed now is never given back"


def test_a_cache_that_is_cleared_leaves_what_is_not_its_own(server, client):
    """aiocache 580: `peers/others.py`."""
    with Cache.from_url(server.url, namespace="ours") as cache:
        cache.set("k", 1)
        client.set("stranger", b"1")
        cache.clear()
        assert client.keys("*") == [b"stranger"]
