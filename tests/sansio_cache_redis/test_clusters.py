"""Caches on real clusters: ways in, slots that move, nodes that fail. Each on three runtimes.

The conformance suite runs on a cluster as well; here is what only a cluster can do. What becomes of histories
in a failover, `test_cluster_histories.py` has.
"""

import threading
import time
from contextlib import aclosing, closing
from functools import partial
from itertools import islice

import anyio
import anyio.lowlevel
import pytest
import redis
import redis.asyncio

from sansio_cache import CacheConfig
from sansio_cache.notices import StoreAsked
from sansio_cache.stats import PartStats
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from sansio_cache_redis.backend.cluster_sync import make_cluster_backend
from sansio_cache_redis.connections.cluster_settings import cluster_settings
from sansio_cache_runtime.process import process_lock
from support.clusters import SHORT_NODE_TIMEOUT_MS, ClusterServers, slot_of
from support.faulty import GIVE_UP_S, eventually, in_thread
from support.runtimes import (
    ON_CLUSTER,
    PATIENT,
    CacheUnderTest,
    in_parallel,
    loading,
    never,
    runs,
    until,
)
from support.servers import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.topology]

MANY = [f"k{number}" for number in range(60)]
RUNTIMES = pytest.mark.parametrize("runtime", ["sync", "asyncio", "trio"])


def run(runtime, main):
    anyio.run(main, backend="trio" if runtime == "trio" else "asyncio")


def opened(runtime, url, namespace, **options):
    kind = cache_sync.Cache if runtime == "sync" else cache_anyio.Cache
    return CacheUnderTest(
        kind.from_url(url, namespace=namespace, **PATIENT, **options), is_sync=runtime == "sync"
    )


@runs(ON_CLUSTER, compare=None)
async def test_a_batch_goes_over_all_nodes(world):
    calls = []

    async def load(keys):
        calls.append(sorted(keys))
        return {key: key.upper() for key in keys}

    assert await world.cache.get_or_load_many(MANY, load) == {key: key.upper() for key in MANY}
    assert await world.cache.get_or_load_many(MANY, load) == {key: key.upper() for key in MANY}
    assert await world.cache.get_many(MANY) == {key: key.upper() for key in MANY}
    assert calls == [sorted(MANY)]
    assert len({world.cache.driver._backend._store.part_of(world.raw.full(key)) for key in MANY}) == 3


@runs(ON_CLUSTER, compare=None)
async def test_tags_hold_wherever_they_are(world):
    tags = [f"tag{number}" for number in range(12)]
    await world.cache.get_or_load("user:1", loading("old"), tags=tags)
    for tag in tags:
        await world.cache.set_many(dict.fromkeys(MANY, "old"), tags=tags)
        assert len(await world.cache.get_many(MANY)) == len(MANY)
        assert await world.cache.get_or_load("user:1", never, tags=tags) in {"old", "new"}
        await world.cache.invalidate(tags=[tag])
        assert await world.cache.get_many(MANY) == {}
        assert await world.cache.get("user:1") is None
        assert await world.cache.get_or_load("user:1", loading("new"), tags=tags) == "new"


@runs(ON_CLUSTER, compare=None)
async def test_a_scan_and_a_removal_by_pattern_find_the_keys_of_all_nodes(world):
    await world.cache.set_many(dict.fromkeys(MANY, 1))
    await world.cache.set("other", 1)

    assert len(await world.cache.scan("k*")) == len(MANY)
    removed = await world.cache.delete_pattern("k*")

    assert (removed.deleted, removed.complete) == (len(MANY), True)
    assert await world.cache.get("other") == 1


@RUNTIMES
@pytest.mark.parametrize("colour", ["blocking", "asyncio"])
def test_a_cluster_client_gives_its_settings(cluster_servers, namespace, runtime, colour):
    async def main():
        kind = cache_sync.Cache if runtime == "sync" else cache_anyio.Cache
        port = cluster_servers.primaries[0].port
        if colour == "blocking":
            client = cluster_servers.client()
        else:
            client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        made = kind.from_client(client, namespace=namespace, **PATIENT)
        cache = CacheUnderTest(made, is_sync=runtime == "sync")
        async with aclosing(cache):
            assert await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(
                MANY, 1
            )
        if colour == "blocking":
            assert client.get(f"{namespace}:k1") is not None, "it is not closed"
            client.close()

    run(runtime, main)


def test_health_says_that_it_is_a_cluster(cluster_servers, namespace):
    with cache_sync.Cache.from_url(cluster_servers.url, namespace=namespace, **PATIENT) as cache:
        cache.wait_ready()
        health = cache.health()
    assert health.ok
    assert health.server.endswith("a cluster of 3 nodes that own slots")


def test_the_addresses_of_nodes_can_be_mapped(cluster_servers, namespace):
    asked = []

    def mapped(host, port):
        asked.append((host, port))
        return "localhost", port

    url = f"redis+cluster://127.0.0.1:{cluster_servers.primaries[1].port}"
    with cache_sync.Cache.from_url(url, namespace=namespace, address_map=mapped, **PATIENT) as cache:
        assert cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(MANY, 1)
        assert {cache._backend.part_of(f"{namespace}:{key}") for key in MANY} == {
            f"localhost:{each.port}" for each in cluster_servers.primaries
        }
    assert set(asked) == {("127.0.0.1", each.port) for each in cluster_servers.primaries}


@pytest.fixture
def own_cluster():
    """A cluster of this test alone."""
    with ClusterServers.start(3) as servers:
        yield servers


@RUNTIMES
def test_keys_are_found_while_their_slot_moves_and_after_it(own_cluster, namespace, runtime):
    """By ASK and by MOVED; what is removed meanwhile stays removed, wherever it is."""
    slot = slot_of(f"{namespace}:{{x}}")
    source = own_cluster.owner_of(f"{namespace}:{{x}}")
    target = next(each for each in own_cluster.primaries if each is not source)
    keys = of_one_slot(namespace, slot)

    async def main():
        cache = opened(runtime, own_cluster.url, namespace)
        async with aclosing(cache):
            await cache.set_many(dict.fromkeys(keys, "old"))
            errors = cache.stats().gave_up
            with own_cluster.moving(slot, source, target):
                assert await cache.get_many(keys) == dict.fromkeys(keys, "old"), "none has moved yet"
                assert await cache.get_or_load("new:" + keys[0], loading("new")) == "new"
                source.client().execute_command(
                    "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", f"{namespace}:{keys[0]}"
                )
                assert await cache.get(keys[0]) == "old", "it is where ASK says"
                assert await cache.get(keys[1]) == "old"
                await cache.invalidate(keys[0], keys[1])
                assert await cache.get_many(keys[:2]) == {}
                assert await cache.get_or_load(keys[0], loading("new")) == "new"
                assert await cache.get_or_load(keys[1], loading("new")) == "new"
                assert await cache.set_many({keys[2]: "new"})
                assert await cache.get_or_load(keys[0], never) == "new"
            assert await cache.get_many(keys) == dict.fromkeys(keys, "old") | dict.fromkeys(keys[:3], "new")
            assert cache.stats().gave_up == errors

    run(runtime, main)


@pytest.fixture
def quick_cluster():
    """The same, of nodes that serve soon after they were started anew: it goes by this time-out when."""
    with ClusterServers.start(3, node_timeout_ms=SHORT_NODE_TIMEOUT_MS) as servers:
        yield servers


@RUNTIMES
def test_what_a_snapshot_has_brought_back_is_not_served_by_who_gets_the_slot_either(
    quick_cluster, namespace, runtime
):
    """Neither while the slot moves, nor after it. The one who gets it has started without any snapshot."""
    source, target, _ = quick_cluster.primaries
    [key, *_] = keys = list(islice(quick_cluster.keys_on(source, namespace), 4))
    raw = source.client()

    async def main():
        async with aclosing(opened(runtime, quick_cluster.url, namespace)) as writer:
            await writer.set_many(dict.fromkeys(keys, "old"))
        async with aclosing(opened(runtime, quick_cluster.url, namespace, after_failover_s=0)) as cache:
            assert await cache.get_many(keys) == dict.fromkeys(keys, "old")
            raw.save()
            for each in keys:
                raw.unlink(f"{namespace}:{each}")  # another process invalidates
            source.kill()
            source._launch()
            await until(lambda: raw.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            assert raw.exists(f"{namespace}:{key}")

            async def is_known_to_be_old():
                return await cache.get(key) is None

            await eventually(is_known_to_be_old)
            for each in keys:
                slot = slot_of(f"{namespace}:{each}")
                with quick_cluster.moving(slot, source, target):
                    quick_cluster.move_keys(slot, source, target)
                    assert await cache.get(each) is None
                assert await cache.get(each) is None
                assert target.client().exists(f"{namespace}:{each}")
                assert await cache.get_or_load(each, loading("new")) == "new"

    run(runtime, main)


def of_one_slot(namespace, slot):
    return [
        key for key in (f"one:{number}" for number in range(200_000)) if slot_of(f"{namespace}:{key}") == slot
    ][:4]


def test_of_what_is_closed_nothing_is_left(cluster_servers, namespace):
    with closing(cache_sync.Cache.from_url(cluster_servers.url, namespace=namespace, **PATIENT)) as cache:
        cache.set_many(dict.fromkeys(MANY, 1))
        assert cache._driver.open_connections >= 3
    assert cache._driver.open_connections == 0


@RUNTIMES
def test_a_plain_url_that_meets_a_cluster_works_as_one(cluster_servers, namespace, runtime):
    async def main():
        cache = opened(runtime, cluster_servers.primaries[2].url, namespace)
        async with aclosing(cache):
            assert await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(
                MANY, 1
            )
            assert await cache.get_many(MANY) == dict.fromkeys(MANY, 1)
            for key in MANY[:12]:
                assert await cache.get_or_load(key, never) == 1
            assert (await cache.invalidate(*MANY[:12])).remembered == 0
            assert len(await cache.get_many(MANY)) == len(MANY) - 12
            assert "cluster of 3 nodes" in (await cache.health()).server
            assert (await cache.clear()).deleted == len(MANY) - 12
            assert cache.stats().gave_up == {}

    run(runtime, main)


@RUNTIMES
def test_a_plain_url_of_a_replica_works_as_the_cluster_that_it_is_in(namespace, runtime):
    async def main():
        cache = opened(runtime, servers.replicas[0].url, namespace)
        async with aclosing(cache):
            await cache.get(MANY[0])  # says what the server is
            await until(lambda: not cache.cache._coordinator.is_out)
            assert backend_of(cache).beyond is not None
            assert await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1)) == dict.fromkeys(
                MANY, 1
            )
            assert await cache.get_many(MANY) == dict.fromkeys(MANY, 1)
            assert "cluster of 1 nodes" in (await cache.health()).server

    with ClusterServers.start(1, replicas=True) as servers:
        run(runtime, main)


def backend_of(cache):
    return (cache.cache._driver if cache.is_sync else cache.cache._bound())._backend


def fetched(servers):
    """How often the nodes were asked for the map."""
    stats = [each.client().info("commandstats") for each in servers.primaries]
    return sum(each.get("cmdstat_cluster|slots", {}).get("calls", 0) for each in stats)


@RUNTIMES
def test_who_reads_on_after_a_lost_connection_leaves_the_map_alone(cluster_servers, namespace, runtime):
    """One who writes finds out by its watch for writes that the node serves; who only reads has none."""
    node = cluster_servers.primaries[0]
    key = cluster_servers.key_on(node, namespace)
    with closing(cache_sync.Cache.from_url(cluster_servers.url, namespace=namespace, **PATIENT)) as other:
        other.set(key, 1)

    async def main():
        cache = opened(runtime, cluster_servers.url, namespace)
        async with aclosing(cache):
            assert await cache.get(key) == 1
            keeper, cluster = backend_of(cache).keeper, backend_of(cache).cluster
            before = fetched(cluster_servers)
            await in_thread(partial(node.client().client_kill_filter, _type="normal", skipme=True))
            assert await cache.get(key) == 1
            await until(lambda: not (keeper._is_running or cluster.is_wanted))
            assert await cache.get(key) == 1
            assert fetched(cluster_servers) - before < 10

    run(runtime, main)


@RUNTIMES
def test_nodes_without_names_where_nodes_are_announced_by_names_are_at_their_addresses(
    own_cluster, namespace, runtime
):
    for node in own_cluster.primaries:
        node.client().config_set("cluster-preferred-endpoint-type", "hostname")

    async def main():
        cache = opened(runtime, own_cluster.url, namespace)
        async with aclosing(cache):
            await cache.set_many(dict.fromkeys(MANY, 1))
            assert await cache.get_many(MANY) == dict.fromkeys(MANY, 1)
            assert len(backend_of(cache).cluster.nodes) == 3

    run(runtime, main)


def test_health_is_the_first_to_meet_a_cluster(cluster_servers, namespace):
    with cache_sync.Cache.from_url(cluster_servers.primaries[0].url, namespace=namespace) as cache:
        assert cache.health().server.endswith("a cluster of 3 nodes that own slots")


@runs(ON_CLUSTER, compare=None)
async def test_statistics_and_commands_tell_of_each_node(world):
    heard = []
    await world.cache.get_many(MANY)
    world.cache.subscribe(heard.append, kinds=StoreAsked)
    for key in MANY:
        await world.cache.get(key)

    parts = world.cache.stats().state.parts
    assert len(parts) == 3
    assert set(parts.values()) == {PartStats()}
    assert {asked.part for asked in heard} == set(parts)
    assert {asked.words for asked in heard} == {("GET",)}
    assert {asked.system for asked in heard} == {"redis"}


# What fails. A cluster that serves what it can, healed by each test.

SHORT = {"operation_timeout_s": 1.0, "attempt_timeout_s": 0.5}
NODE_LOSS = ("--cluster-require-full-coverage", "no")


@pytest.fixture(scope="module")
def loose_cluster():
    """A cluster whose nodes go on where others fail: leave it as it was."""
    with ClusterServers.start(3, args=NODE_LOSS, node_timeout_ms=SHORT_NODE_TIMEOUT_MS) as servers:
        yield servers


def loose(runtime, url, namespace, **options):
    kind = cache_sync.Cache if runtime == "sync" else cache_anyio.Cache
    made = kind.from_url(url, namespace=namespace, **(SHORT | options))
    return CacheUnderTest(made, is_sync=runtime == "sync")


def parted(servers, namespace, dead):
    """The keys that a node has, and all others."""
    lost = [key for key in MANY if servers.owner_of(f"{namespace}:{key}") is dead]
    return lost, [key for key in MANY if key not in lost]


@RUNTIMES
def test_a_node_that_dies_costs_its_own_keys_only_and_is_used_again_when_it_is_back(
    loose_cluster, namespace, runtime
):
    dead = loose_cluster.primaries[1]
    lost, kept = parted(loose_cluster, namespace, dead)
    assert lost
    assert kept

    async def main():
        cache = loose(runtime, loose_cluster.url, namespace)
        async with aclosing(cache):
            await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, "old"))
            dead.kill()
            try:
                loaded = []

                def load(keys):
                    loaded.append(sorted(keys))
                    return dict.fromkeys(keys, "new")

                given = await cache.get_or_load_many(MANY, load)
                assert given == dict.fromkeys(kept, "old") | dict.fromkeys(lost, "new")
                assert loaded == [sorted(lost)], "the others are served"
                assert await cache.get_many(MANY) == dict.fromkeys(kept, "old")
                assert await cache.get(kept[0]) == "old"
                assert await cache.get(lost[0]) is None
                assert await cache.get_or_load(lost[0], loading("new")) == "new"
                result = await cache.invalidate(kept[0], lost[0])
                assert (result.done, result.remembered) == (1, 1)
                await cache.set_many({kept[1]: "set", lost[1]: "set"})
                assert await cache.get(kept[1]) == "set"
                removed = await cache.delete_pattern("k*")
                assert not removed.complete
                assert await cache.get_many(kept) == {}
                assert (await cache.health()).bypassing
            finally:
                dead.restart()
            await until(lambda: not cache.cache._coordinator.is_out)
            await until(lambda: cache.cache._coordinator.pending_invalidations == 0)

            async def are_found():  # who tells of what is pending may do so once more than is needed
                given = await cache.get_or_load_many(MANY, lambda keys: dict.fromkeys(keys, 1))
                assert given == dict.fromkeys(MANY, 1)
                return await cache.get_many(MANY) == given

            await eventually(are_found)

    run(runtime, main)


def test_what_a_node_needs_of_files_and_modules_keeps_no_other_waiting(namespace):
    """The lock that all caches of a process share is held for microseconds; and a node has one backend."""
    config = CacheConfig.from_options(namespace=namespace, url="redis+cluster://127.0.0.1:1")
    settings = cluster_settings(config.redis, None)
    backend = make_cluster_backend(config, settings, time.monotonic, lambda *_: False)
    make, found = backend._make_node, []

    def look():
        with process_lock():
            found.append(backend.node("127.0.0.1:1"))

    def make_while_another_does(node):
        backend._make_node = make
        other = threading.Thread(target=look, daemon=True)
        other.start()
        other.join(GIVE_UP_S)
        return make(node)

    backend._make_node = make_while_another_does
    assert [backend.node("127.0.0.1:1")] == found
    backend.close()


@RUNTIMES
def test_where_no_node_answers_loaders_do(namespace, runtime):
    async def main():
        cache = loose(runtime, "redis+cluster://127.0.0.1:1,127.0.0.1:2", namespace, operation_timeout_s=0.5)
        async with aclosing(cache):
            assert await cache.get_or_load("a", loading("new")) == "new"
            assert await cache.get_or_load_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {
                "a": 1,
                "b": 1,
            }
            assert await cache.get("a") is None
            assert (await cache.invalidate("a")).remembered == 1
            health = await cache.health()
            assert not health.ok
            assert "refuses connections" in health.problems[0]

    run(runtime, main)


@RUNTIMES
def test_one_seed_that_answers_is_enough(cluster_servers, namespace, runtime):
    async def main():
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:2,127.0.0.1:{cluster_servers.primaries[2].port}"
        cache = opened(runtime, url, namespace)
        async with aclosing(cache):
            assert await cache.set("a", 1)
            assert await cache.get("a") == 1

    run(runtime, main)


@RUNTIMES
def test_a_cluster_url_that_leads_to_a_single_server_works(redis_url, namespace, runtime):
    async def main():
        url = redis_url.replace("redis://", "redis+cluster://")
        cache = opened(runtime, url, namespace)
        async with aclosing(cache):
            await cache.set_many(dict.fromkeys(MANY, 1))
            assert await cache.get_many(MANY) == dict.fromkeys(MANY, 1)
            assert (await cache.clear()).deleted == len(MANY)

    run(runtime, main)


def is_taken_from_all(servers, slot):
    """Have no node own a slot: one that has heard of the owner in between is told again."""
    owning = [each for each in servers.primaries if owner_by(each, slot)]
    for each in owning:
        each.client().execute_command("CLUSTER", "DELSLOTS", slot)
    return not owning


def owner_by(node, slot):
    """Whether a node knows of an owner of a slot."""
    ranges = node.client().cluster("SLOTS")
    return any(int(first) <= slot <= int(last) for first, last, *_ in ranges)


@RUNTIMES
def test_keys_whose_slot_nobody_owns_are_loaded_and_all_others_served(loose_cluster, namespace, runtime):
    lost = MANY[0]
    kept = [key for key in MANY if slot_of(f"{namespace}:{key}") != slot_of(f"{namespace}:{lost}")]
    slot, owner = slot_of(f"{namespace}:{lost}"), loose_cluster.owner_of(f"{namespace}:{lost}")

    async def main():
        cache = loose(runtime, loose_cluster.url, namespace)
        async with aclosing(cache):
            await in_thread(partial(wait_until, lambda: is_taken_from_all(loose_cluster, slot)))
            try:
                assert await cache.get_or_load(lost, loading("new")) == "new"
                given = await cache.get_or_load_many([lost, *kept], lambda keys: dict.fromkeys(keys, 1))
                assert given == dict.fromkeys([lost, *kept], 1)
                assert await cache.get_many([lost, *kept]) == dict.fromkeys(kept, 1)
                assert any("no owner" in each for each in (await cache.health()).problems)
            finally:
                owner.client().execute_command("CLUSTER", "ADDSLOTS", slot)
            await eventually(loose_cluster.has_all_slots)
            await until(lambda: not cache.cache._coordinator.is_out)

            async def is_found():  # the map may be of a node that had not heard of the owner
                assert await cache.get_or_load(lost, loading("new")) == "new"
                return await cache.get(lost) == "new"

            await eventually(is_found)
            assert await cache.get_or_load(lost, never) == "new"

    run(runtime, main)


@RUNTIMES
def test_a_wrong_password_at_one_node_is_that_nodes_failure(loose_cluster, namespace, runtime):
    refusing = loose_cluster.primaries[2]
    lost, kept = parted(loose_cluster, namespace, refusing)

    async def main():
        refusing.client().config_set("requirepass", "other")
        cache = loose(runtime, loose_cluster.url, namespace)
        try:
            async with aclosing(cache):
                assert await cache.get_or_load_many(
                    MANY, lambda keys: dict.fromkeys(keys, 1)
                ) == dict.fromkeys(MANY, 1)
                assert await cache.get_many(MANY) == dict.fromkeys(kept, 1)
                health = await cache.health()
                assert not health.ok
                assert all(str(refusing.port) in problem for problem in health.problems)
                assert not cache.cache._coordinator.is_part_out(
                    f"127.0.0.1:{loose_cluster.primaries[0].port}"
                )
        finally:
            client = refusing.client(password="other")
            client.config_set("requirepass", "")
        assert lost

    run(runtime, main)


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_who_is_cancelled_while_several_nodes_are_asked_leaves_no_reply_to_others(
    cluster_servers, namespace, runtime
):
    async def main():
        cache = opened(runtime, cluster_servers.url, namespace)
        async with aclosing(cache):
            await cache.set_many({key: key for key in MANY})
            for turn in range(60):
                async with anyio.create_task_group() as tasks:
                    for first in range(4):
                        tasks.start_soon(cache.get_many, MANY[first::4])
                    for _ in range(turn % 5):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                some = MANY[turn % 7 :: 3]
                assert await cache.get_many(some) == {key: key for key in some}
            assert cache.stats().gave_up == {}

    run(runtime, main)


@RUNTIMES
def test_many_callers_of_batches_are_served_at_once(cluster_servers, namespace, runtime):
    async def main():
        cache = opened(runtime, cluster_servers.url, namespace)
        async with aclosing(cache):
            await cache.set_many({key: key for key in MANY})

            async def ask(place):
                some = MANY[place % 11 :: 2]
                for _ in range(5):
                    assert await cache.get_many(some) == {key: key for key in some}

            await in_parallel(40, ask)
            assert cache.stats().gave_up == {}

    run(runtime, main)
