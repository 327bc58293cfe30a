"""The command at sentinels, at clusters, and where entries are signed."""

from __future__ import annotations

import pytest

from sansio_cache_redis.exporting import export_stats, stats_channel
from sansio_cache_redis.sync import Cache
from support.clusters import ClusterServers
from support.sentinels import SERVICE, Sentinel, Watched
from support.servers import ExternalServer, find_server


def test_at_sentinels_the_primary_is_looked_at(run):
    with Watched() as watched, Cache.from_url(watched.url, namespace="shop") as cache:
        cache.wait_ready(30)
        assert cache.set("user:1", 1, strict=True)
        arguments = ("--url", watched.url, "--namespace", "shop", "--json")
        assert run("inspect", "user:1", *arguments).json()["payload"] == 1
        found = run("check", *arguments).json()["verdicts"]
        assert any("primary" in each["said"] for each in found if each["name"] == "server")
        assert run("purge", "user:*", "--yes", *arguments).json()["removed"] == 1


def test_no_sentinel_that_answers_is_one_line(run):
    ran = run("check", "--url", "redis+sentinel://127.0.0.1:1/service/0", "--namespace", "shop")
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert "sentinel" in ran.err


@pytest.fixture
def cluster(cluster_servers: ClusterServers, namespace):
    with Cache.from_url(cluster_servers.url, namespace=namespace, operation_timeout_s=5) as cache:
        cache.wait_ready(30)
        yield cluster_servers, cache
        cache.clear()


def test_at_a_cluster_what_looks_at_one_server_says_which_url_to_give(run, cluster, namespace):
    servers, cache = cluster
    for command in (("top",), ("monitor",)):
        ran = run(*command, "--url", servers.url, "--namespace", namespace)
        assert (ran.status, "give the URL of a node" in ran.err) == (2, True)
    cache.set_many({f"k{number}": number for number in range(30)})
    told = []
    for node in servers.primaries:
        ran = run("inspect", "k1", "--url", node.url, "--namespace", namespace, "--json")
        told.append(ran.status)
        assert ran.status == 0 or "is on another node of the cluster: 127.0.0.1:" in ran.err
    assert sorted(told) == [0, 1, 1]
    listed = [
        run("keys", "*", "--url", node.url, "--namespace", namespace, "--json") for node in servers.primaries
    ]
    assert sum(ran.out.count("\n") for ran in listed) == 30


def test_at_a_cluster_all_nodes_are_looked_at(run, cluster, namespace):
    servers, cache = cluster
    cache.set_many({f"k{number}": number for number in range(60)})
    arguments = ("--url", servers.url, "--namespace", namespace)
    listed = run("keys", "*", *arguments, "--json", "--most", "100").out.splitlines()
    assert len(set(listed)) == len(listed) == 60
    assert run("ttl", *arguments, "--json").json()["keys"] == 60
    assert {run("inspect", f"k{number}", *arguments, "--json").json()["payload"] for number in range(3)} == {
        0,
        1,
        2,
    }
    nodes = {node.url.removeprefix("redis://").partition("/")[0]: node for node in servers.primaries}
    ran = run("check", *arguments, "--json")
    pings = [each["said"] for each in ran.json()["verdicts"] if each["name"] == "ping"]
    assert {said.split()[0] for said in pings} == set(nodes)
    wakes = {each["said"] for each in ran.json()["verdicts"] if each["name"] == "wake-ups"}
    assert wakes == {"who waits for a load is told when it is there"}
    ran = run("keys", "nothing*", *arguments)
    assert (ran.status, "matches" in ran.err) == (1, True)


def test_at_a_cluster_tags_are_asked_of_the_nodes_that_have_them(run, cluster, namespace):
    servers, cache = cluster
    tags = [f"t{number}" for number in range(12)]
    assert len({servers.owner_of(f"{namespace}:%t:{tag}") for tag in tags}) == 3
    assert cache.set("tagged", 1, tags=tags, strict=True)
    arguments = ("inspect", f"{namespace}:tagged", "--json")
    found = run(*arguments, "--url", servers.url).json()
    assert (found["state"], {each["holds"] for each in found["tags"]}) == ("fresh", {True})
    [node] = [node for node in servers.primaries if run(*arguments, "--url", node.url).status == 0]
    found = run(*arguments, "--url", node.url).json()
    assert (found["state"], {each["holds"] for each in found["tags"]}) == ("unchecked", {True, None})
    [elsewhere, *_] = [each["name"] for each in found["tags"] if each["holds"] is None]
    [here, *_] = [each["name"] for each in found["tags"] if each["holds"]]
    assert cache.invalidate(tags=[elsewhere]).remembered == 0
    found = run(*arguments, "--url", servers.url).json()
    assert (found["state"], found["reason"]) == ("refused", "tag")
    assert {each["name"] for each in found["tags"] if not each["holds"]} == {elsewhere}
    assert run(*arguments, "--url", node.url).json()["state"] == "unchecked"
    assert cache.invalidate(tags=[here]).remembered == 0
    assert run(*arguments, "--url", node.url).json()["state"] == "refused"


def test_at_a_cluster_a_namespace_is_without_keys_where_all_nodes_have_none(run, cluster, namespace):
    servers, cache = cluster

    def verdicts(name):
        ran = run("check", "--url", servers.url, "--namespace", namespace, "--json")
        return [each for each in ran.json()["verdicts"] if each["name"] == name]

    assert [each["said"] for each in verdicts("keys")] == [f"there is no key of the namespace '{namespace}'"]
    cache.set("k1", 1, strict=True)
    assert verdicts("keys") == []
    assert [each["level"] for each in verdicts("ttl")] == ["ok"]


def test_at_a_cluster_without_a_node_that_answers_it_is_one_line(run):
    ran = run(
        "keys", "*", "--url", "redis+cluster://user:secret-pw@127.0.0.1:1,127.0.0.1:2", "--namespace", "a"
    )
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert "refuses connections" in ran.err
    assert "secret" not in ran.err


def test_at_a_cluster_all_nodes_are_purged_and_loaded_and_programs_tell(run, cluster, namespace):
    servers, cache = cluster
    cache.set_many({f"k{number}": number for number in range(30)})
    ran = run("purge", "*", "--yes", "--url", servers.url, "--namespace", namespace, "--json")
    assert ran.json()["removed"] == 30
    figures = run("load", "--url", servers.url, "--requests", "200", "--callers", "4", "--json").json()
    assert (figures["requests"], figures["errors"]) == (200, {})
    ear = servers.primaries[-1].client().pubsub()
    ear.subscribe(stats_channel(namespace).decode())
    with export_stats(cache, every_s=0.1):
        messages = (ear.get_message(timeout=10) for _ in range(100))
        assert any(message and message["type"] == "message" for message in messages)
    ear.close()


ELSEWHERE = "192.0.2.7"
"""An address that is nobody's: https://www.rfc-editor.org/rfc/rfc5737"""


def test_a_primary_elsewhere_that_a_sentinel_here_names_is_not_loaded(run):
    found = find_server()
    assert not isinstance(found, ExternalServer)
    sentinel = Sentinel(found.path, (ELSEWHERE, 6379), 1, ())
    try:
        sentinel.launch()
        ran = run("load", "--url", f"redis+sentinel://{sentinel.address}/{SERVICE}/0", "--requests", "1")
    finally:
        sentinel.stop()
    assert (ran.status, ran.out) == (2, "")
    assert f"{ELSEWHERE}:6379 is not this machine" in ran.err
    ran = run("load", "--url", "redis+sentinel://127.0.0.1:1/service/0", "--requests", "1")
    assert (ran.status, len(ran.err.splitlines()), "sentinel" in ran.err) == (1, 1, True)


def test_a_cluster_with_a_node_elsewhere_that_a_node_here_names_is_not_loaded(run):
    with ClusterServers.start(1, args=["--cluster-announce-ip", ELSEWHERE]) as servers:
        ran = run("load", "--url", servers.url, "--requests", "1")
    assert (ran.status, ran.out) == (2, "")
    assert f"{ELSEWHERE}:{servers.primaries[0].port} is not this machine" in ran.err


def test_a_signed_entry_is_verified_where_a_key_is_known_and_shown_where_none_is(
    run, redis_url, namespace, monkeypatch
):
    keys = ["a-key-of-at-least-sixteen-bytes", "another-key-of-sixteen-bytes"]
    with Cache.from_url(
        redis_url, namespace=namespace, signing_keys=keys[:1], operation_timeout_s=5
    ) as cache:
        assert cache.set("a", {"x": 1}, strict=True)
        arguments = ("inspect", "a", "--url", redis_url, "--namespace", namespace)
        ran = run(*arguments)
        assert "signed as it seems; not verified" in ran.out
        assert '"x": 1' in ran.out
        for known, state in ((keys[0], "fresh"), (keys[1], "refused")):
            monkeypatch.setenv("SANSIO_CACHE_SIGNING_KEYS", known)
            ran = run(*arguments, "--json")
            assert (ran.json()["state"], ran.json()["payload"]) == (state, {"x": 1})
            assert known not in run(*arguments).out
        cache.clear()
