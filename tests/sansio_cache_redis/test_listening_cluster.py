"""Listening in a cluster: who waits for a key is told on a channel of the key's slot, wherever that goes.

Nobody has another way to learn of it here: the fall-back is an hour away, and so is the end of a lease.
"""

import socket
import socketserver
import threading
from collections import Counter
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import anyio
import hiredis
import pytest

from sansio_cache import Policy, backoff
from sansio_cache_redis import listening_cluster, watchers
from sansio_cache_redis.backend.cluster_base import ClusterBase
from sansio_cache_redis.calls import wake_channel
from sansio_cache_redis.listening_cluster import ShardListener
from sansio_cache_redis.sync import Cache
from sansio_cache_redis.topology.cluster import Cluster
from support.clusters import ClusterServers, slot_of
from support.faulty import (
    GIVE_UP_S,
    PATIENT,
    Subject,
    eventually,
    in_thread,
    on_every_runtime,
    opened,
    run_on,
)
from support.sentinels import pack_reply
from support.servers import connect, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.topology]

LONG_S = 3_600.0
POLICY = Policy(wait_s=LONG_S, lease_s=LONG_S, max_lease_s=LONG_S)


@pytest.fixture(autouse=True)
def no_fall_back(monkeypatch):
    monkeypatch.setattr(backoff, "FALL_BACK_S", LONG_S)
    # A machine that is busy is no node that says nothing.
    monkeypatch.setattr(watchers, "_LEAST_LOOKS_OF_SILENCE", 10_000)


@pytest.fixture
def notices_silence(monkeypatch):
    monkeypatch.setattr(watchers, "_LEAST_LOOKS_OF_SILENCE", 2)


def listener_of(cache: Subject) -> Any:
    return cache._driver._backend.listener


def hears(cache: Subject, key: str) -> bool:
    return bool(listener_of(cache).hears(f"{cache.namespace}:{key}"))


class Held:
    """A load in another process: it has the lease, until it is told to end."""

    def __init__(self, url: str, namespace: str) -> None:
        self._cache = Cache.from_url(url, namespace=namespace, policy=POLICY, **PATIENT)
        self._may_end = threading.Event()
        self.loading: set[str] = set()

    def load(self, key: str) -> Any:
        def loader() -> str:
            self.loading.add(key)
            assert self._may_end.wait(GIVE_UP_S)
            return key

        return self._cache.get_or_load(key, loader)

    def end(self) -> None:
        self._may_end.set()

    def close(self) -> None:
        self.end()
        self._cache.close()


@asynccontextmanager
async def waiting(runtime, url, namespace, keys, *, waits_on=None, removed=()):
    """Somebody waits for loads of another process, which end with the block: but for keys that it removes."""
    found: dict[str, Any] = {}

    async def wait(key):
        found[key] = await cache.get_or_load(key, lambda: "loaded again")

    with closing(Held(url, namespace)) as held:
        async with opened(runtime, waits_on or url, namespace, policy=POLICY, **PATIENT) as cache:
            async with anyio.create_task_group() as tasks:
                try:
                    for key in keys:
                        tasks.start_soon(in_thread, held.load, key)
                    await eventually(lambda: held.loading == set(keys))
                    for key in keys:
                        tasks.start_soon(wait, key)
                    yield cache
                finally:
                    held.end()
            assert found == {key: "loaded again" if key in removed else key for key in keys}


def keys_everywhere(servers, namespace):
    return [servers.key_on(each, namespace) for each in servers.primaries]


def said_on_the_bus(servers: ClusterServers) -> Counter[str]:
    """How many messages of which kind nodes have sent each other about what was published."""
    found: Counter[str] = Counter()
    for each in servers.primaries:
        told: Any = each.client().execute_command("CLUSTER INFO")
        for kind in ("publish", "publishshard"):
            found[kind] += int(told.get(f"cluster_stats_messages_{kind}_sent", 0))
    return found


def asked_of(servers: ClusterServers) -> list[Counter[str]]:
    """How often each node was asked to publish, and how."""
    found = []
    for each in servers.primaries:
        stats: Any = each.client().info("commandstats")
        found.append(
            Counter(
                {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("publish", "spublish")}
            )
        )
    return found


async def _published(runtime, servers, namespace):
    """What waiters being told has cost each node, and the bus."""
    before, on_bus = asked_of(servers), said_on_the_bus(servers)
    keys = keys_everywhere(servers, namespace)
    async with waiting(runtime, servers.url, namespace, keys) as cache:
        for key in keys:
            await eventually(lambda key=key: hears(cache, key))
    costs = [after - first for after, first in zip(asked_of(servers), before, strict=True)]
    return costs, said_on_the_bus(servers) - on_bus


@on_every_runtime
def test_who_waits_is_told_by_the_node_that_has_the_key_and_no_other_node_hears_of_it(
    runtime, cluster_servers, namespace
):
    costs, on_bus = run_on(runtime, lambda: _published(runtime, cluster_servers, namespace))
    assert [each["publish"] for each in costs] == [0, 0, 0]
    assert [each["spublish"] > 0 for each in costs] == [True] * 3
    assert on_bus["publish"] == 0


async def _told_of_removal(runtime, servers, namespace):
    before, on_bus = asked_of(servers), said_on_the_bus(servers)
    keys = keys_everywhere(servers, namespace)
    async with opened(runtime, servers.url, namespace, **PATIENT) as cache:
        await cache.set_many(dict.fromkeys(keys, 1))
        assert (await cache.invalidate(*keys, tags=["tag"])).done
        await cache.set(keys[0], 1)
        await cache.expire(keys[0])
    costs = [after - first for after, first in zip(asked_of(servers), before, strict=True)]
    return costs, said_on_the_bus(servers) - on_bus


@on_every_runtime
def test_a_write_a_removal_and_an_expiry_are_told_to_no_other_node(runtime, cluster_servers, namespace):
    costs, on_bus = run_on(runtime, lambda: _told_of_removal(runtime, cluster_servers, namespace))
    assert [each["publish"] for each in costs] == [0, 0, 0]
    assert [each["spublish"] > 0 for each in costs] == [True] * 3
    assert on_bus["publish"] == 0


def test_one_channel_for_all_would_be_told_to_every_node(cluster_servers, namespace, monkeypatch):
    """The control of the tests above."""
    monkeypatch.setattr(ClusterBase, "_channel_of", lambda _, key: wake_channel(key))
    costs, on_bus = run_on("sync", lambda: _told_of_removal("sync", cluster_servers, namespace))
    assert sum(each["publish"] for each in costs) > 0
    assert on_bus["publish"] > 0


@on_every_runtime
def test_a_plain_url_that_has_met_a_cluster_listens_as_one(runtime, cluster_servers, namespace):
    async def main():
        keys = keys_everywhere(cluster_servers, namespace)
        plain = cluster_servers.primaries[1].url
        async with waiting(runtime, cluster_servers.url, namespace, keys, waits_on=plain) as cache:
            for key in keys:
                await eventually(lambda key=key: hears(cache, key))

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("waits_by", ["redis+cluster", "redis"])
def test_a_single_server_by_the_url_of_a_cluster_is_listened_to_as_one_server(
    runtime, waits_by, redis_server, namespace
):
    """So that those who have it by a plain URL hear of each other."""

    async def main():
        urls = [redis_server.url, redis_server.url.replace("redis://", "redis+cluster://")]
        if waits_by == "redis":
            urls.reverse()
        async with waiting(runtime, urls[0], namespace, ["k"], waits_on=urls[1]) as cache:
            await eventually(lambda: hears(cache, "k"))

    run_on(runtime, main)


@on_every_runtime
def test_nothing_is_subscribed_that_nobody_waits_for_any_more(runtime, cluster_servers, namespace):
    def subscriptions(count):
        return in_thread(wait_for_subscriptions, cluster_servers.primaries, namespace, count)

    async def main():
        keys = [f"k{number}" for number in range(20)]
        some = keys[:10]
        async with waiting(runtime, cluster_servers.url, namespace, keys, removed=some):
            await subscriptions(20)
            with Cache.from_url(cluster_servers.url, namespace=namespace, **PATIENT) as other:
                await in_thread(other.invalidate, *some)
            await subscriptions(10)
        await subscriptions(0)

    run_on(runtime, main)


def wait_for_subscriptions(servers, namespace, count):
    """Wait until keys have so many subscriptions at some nodes together."""
    clients = [each.client() for each in servers]

    def found():
        return sum(len(each.execute_command("PUBSUB", "SHARDCHANNELS", f"{namespace}:*")) for each in clients)

    wait_until(lambda: found() == count, timeout_s=GIVE_UP_S)


# What happens to a cluster while somebody waits.


@pytest.fixture(scope="module")
def loose_cluster():
    """A cluster whose nodes go on where others fail. Slots may have moved in it; nodes are all there."""
    with ClusterServers.start(3, args=("--cluster-require-full-coverage", "no")) as servers:
        yield servers


@on_every_runtime
def test_who_waits_is_subscribed_anew_where_the_slot_has_moved_to(runtime, loose_cluster, namespace):
    source, target, _ = loose_cluster.primaries
    moved, stays = loose_cluster.key_on(source, namespace), loose_cluster.key_on(target, namespace)

    def move():
        with loose_cluster.moving(slot_of(f"{namespace}:{moved}"), source, target):
            pass

    async def main():
        async with waiting(runtime, loose_cluster.url, namespace, [moved, stays]) as cache:
            await eventually(lambda: hears(cache, moved) and hears(cache, stays))
            await in_thread(wait_for_subscriptions, [source], namespace, 1)
            await in_thread(move)
            await in_thread(wait_for_subscriptions, [target], namespace, 2)
            await eventually(lambda: hears(cache, moved))
            await in_thread(wait_for_subscriptions, [source], namespace, 0)

    run_on(runtime, main)


@on_every_runtime
def test_the_keys_of_a_node_that_is_back_are_heard_of_again_and_all_others_meanwhile(
    runtime, loose_cluster, namespace
):
    dead, alive, _ = loose_cluster.primaries
    lost, kept = (f"{namespace}:{loose_cluster.key_on(each, namespace, 'stays')}" for each in (dead, alive))
    woken = []

    async def main():
        async with opened(runtime, loose_cluster.url, namespace, **PATIENT) as cache:
            await cache.get("k")
            listener = listener_of(cache)
            for key in (lost, kept):
                listener.watch(key, lambda key=key: woken.append((key, listener.hears(key))))
            await eventually(lambda: listener.hears(lost) and listener.hears(kept))
            woken.clear()
            await in_thread(dead.kill)
            try:
                await eventually(lambda: (lost, False) in woken)
                assert listener.hears(kept)
                assert (lost, True) not in woken
                await in_thread(publish, alive, kept)
                await eventually(lambda: (kept, True) in woken)
            finally:
                await in_thread(dead.restart)
            await eventually(lambda: (lost, True) in woken)
            woken.clear()
            await in_thread(publish, dead, lost)
            await eventually(lambda: woken == [(lost, True)])

    run_on(runtime, main)
    # For the next test: all nodes serve.
    wait_until(lambda: all(state_of(each) == "ok" for each in loose_cluster.primaries), timeout_s=GIVE_UP_S)


def publish(server, key):
    with closing(server.client()) as client:
        client.execute_command("SPUBLISH", key, key)


def state_of(server):
    told: Any = server.client().execute_command("CLUSTER INFO")
    return told["cluster_state"]


# Who may not.


@contextmanager
def user_without(servers, name, *commands):
    """A URL of a user who may do all but this."""
    for each in servers.primaries:
        each.client().execute_command(
            *("ACL", "SETUSER", name, "reset", "on", "nopass", "~*", "&*", "+@all"),
            *(f"-{command}" for command in commands),
        )
    try:
        yield servers.url.replace("redis+cluster://", f"redis+cluster://{name}:@")
    finally:
        for each in servers.primaries:
            each.client().execute_command("ACL", "DELUSER", name)


@on_every_runtime
@pytest.mark.parametrize("forbidden", ["spublish", "ssubscribe"])
def test_who_may_not_publish_or_subscribe_in_a_cluster_looks_for_himself(
    runtime, forbidden, cluster_servers, namespace
):
    """L4. Also where the other, who has the lease, may: it is one user who asks and who tells, mostly."""

    async def main(url):
        key = cluster_servers.key_on(cluster_servers.primaries[0], namespace)
        async with waiting(runtime, url, namespace, [key]) as cache:
            await eventually(lambda: listener_of(cache)._both[0]._posts)
            assert not hears(cache, key)

    with user_without(cluster_servers, namespace, forbidden) as url:
        run_on(runtime, lambda: main(url))


# One node that the test plays: it says what it is told to say.


class PlayedNode:
    """A node of a cluster that the test plays. A context manager."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"SPUBLISH": b":0\r\n", "PING": pack_reply([b"pong", b""])} | answers
        self.asked: list[tuple[str, ...]] = []
        self.sockets: list[Any] = []
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def answer(self, words: list[str]) -> bytes:
        given = self.answers.get(words[0])
        if given is not None:
            return given(words) if callable(given) else given
        if words[0] in ("SSUBSCRIBE", "SUNSUBSCRIBE"):
            return pushed(words[0].lower(), words[1])
        return b"+OK\r\n"

    def say(self, data: bytes) -> None:
        self.sockets[-1].sendall(data)

    def count(self, *words: str) -> int:
        return sum(each[: len(words)] == words for each in self.asked)

    def _handler(self):
        played = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                reader = hiredis.Reader()
                played.sockets.append(self.request)
                with_client = self.request
                while data := with_client.recv(65536):
                    reader.feed(data)
                    while isinstance(words := reader.gets(), list):
                        said = [word.decode() for word in words]
                        answer = played.answer(said)
                        played.asked.append(tuple(said))
                        with_client.sendall(answer)

        return Handler

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()


def pushed(kind: str, name: str, last: bytes = b":1\r\n") -> bytes:
    return b"*3\r\n" + pack_reply(kind.encode()) + pack_reply(name.encode()) + last


def message(name: str, said: bytes) -> bytes:
    return pushed("smessage", name, pack_reply(said))


SILENT = b""


class Played:
    """A listener on nodes that a test plays, and whom it has woken."""

    def __init__(self, *nodes: PlayedNode) -> None:
        self.cluster = Cluster([each.address for each in nodes])
        self.own(nodes[0])
        self.looks = 0
        self.woken: list[tuple[str, bool]] = []
        self.listener = ShardListener(self.cluster, self._connecting, self._start, self._look)

    def own(self, node: PlayedNode) -> None:
        """All slots are a node's from now on."""
        host, _, port = node.address.rpartition(":")
        self.cluster.take([[0, 16_383, [host.encode(), int(port), b"id"]]], node.address)

    def watch(self, key: str) -> int:
        return self.listener.watch(key, lambda: self.woken.append((key, self.listener.hears(key))))

    def heard(self, *keys: str) -> None:
        wait_until(lambda: all(map(self.listener.hears, keys)), timeout_s=GIVE_UP_S)

    def _connecting(self, address):
        return connect(f"redis://{address}").connection_pool.make_connection()

    def _start(self, job, name):
        threading.Thread(target=job, name=name, daemon=True).start()
        return True

    def _look(self):
        self.looks += 1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.listener.close(wait=True)


def test_a_message_wakes_those_who_wait_for_its_key_and_a_test_nobody():
    with PlayedNode() as node, Played(node) as played:
        played.watch("n:a")
        played.watch("n:b")
        played.heard("n:a", "n:b")
        wait_until(lambda: len(played.woken) == 2, timeout_s=GIVE_UP_S)
        node.say(message("n:a", b"%") + message("n:x", b"n:x") + message("n:b", b"n:b"))
        wait_until(lambda: len(played.woken) == 3, timeout_s=GIVE_UP_S)
        assert played.woken[2] == ("n:b", True)
        assert node.count("SPUBLISH") == 1, "one test for a connection"


def test_who_comes_while_the_subscription_stands_is_not_asked_for_again_and_is_heard_at_once():
    with PlayedNode() as node, Played(node) as played:
        first = played.watch("n:a")
        played.heard("n:a")
        second = played.watch("n:a")
        assert played.listener.hears("n:a")
        played.listener.unwatch("n:a", first)
        assert played.listener.hears("n:a")
        played.listener.unwatch("n:a", second)
        wait_until(lambda: node.count("SUNSUBSCRIBE", "n:a"), timeout_s=GIVE_UP_S)
        assert not played.listener.hears("n:a")
        assert node.count("SSUBSCRIBE") == 1


def test_a_subscription_that_is_taken_away_unasked_is_asked_for_again():
    """The slot has moved: the node says where to."""
    with PlayedNode() as old, PlayedNode() as new, Played(old, new) as played:
        played.watch("n:a")
        played.heard("n:a")
        slot, place = slot_of("n:a"), new.address
        old.answers["SSUBSCRIBE"] = f"-MOVED {slot} {place}\r\n".encode()
        played.woken.clear()
        old.say(pushed("sunsubscribe", "n:a"))
        wait_until(lambda: new.count("SSUBSCRIBE", "n:a"), timeout_s=GIVE_UP_S)
        played.heard("n:a")
        wait_until(lambda: (("n:a", False) in played.woken, ("n:a", True) in played.woken) == (True, True))
        assert played.looks >= 1, "the map is wanted"
        assert played.cluster.owner("n:a") == place


def test_another_owner_in_the_map_has_the_subscription_from_then_on():
    with PlayedNode() as old, PlayedNode() as new, Played(old, new) as played:
        played.watch("n:a")
        played.heard("n:a")
        played.own(new)
        wait_until(lambda: new.count("SSUBSCRIBE", "n:a"), timeout_s=GIVE_UP_S)
        played.heard("n:a")
        assert old.count("SUNSUBSCRIBE", "n:a") == 1
        wait_until(lambda: list(played.listener._posts) == [new.address], timeout_s=GIVE_UP_S)


def test_a_refusal_of_what_is_left_is_not_taken_for_one_of_what_is_asked_for():
    """Answers come in order, and only pushes name a channel."""
    with PlayedNode() as node, Played(node) as played:
        first = played.watch("n:a")
        played.heard("n:a")
        node.answers["SUNSUBSCRIBE"] = f"-MOVED {slot_of('n:a')} {node.address}\r\n".encode()
        played.listener.unwatch("n:a", first)
        wait_until(lambda: node.count("SUNSUBSCRIBE"), timeout_s=GIVE_UP_S)
        played.watch("n:b")
        played.heard("n:b")
        assert node.count("SSUBSCRIBE", "n:b") == 1


@pytest.mark.parametrize("error", ["CLUSTERDOWN The cluster is down", "NOPERM no permission", "ERR unknown"])
def test_a_subscription_that_is_refused_is_asked_for_again(error, monkeypatch):
    monkeypatch.setattr(listening_cluster, "LONGEST_PAUSE_S", 0.01)
    with PlayedNode(SSUBSCRIBE=f"-{error}\r\n".encode()) as node, Played(node) as played:
        played.watch("n:a")
        wait_until(lambda: node.count("SSUBSCRIBE", "n:a") > 2, timeout_s=GIVE_UP_S)
        assert not played.listener.hears("n:a")
        del node.answers["SSUBSCRIBE"]
        played.heard("n:a")
        assert len(node.sockets) == 1


@pytest.mark.parametrize("error", ["NOPERM no permission", "ERR unknown command 'SPUBLISH'"])
def test_where_nobody_may_publish_nobody_is_subscribed(error, monkeypatch):
    """A script that stores a value says nothing of the message that it may not send."""
    monkeypatch.setattr(listening_cluster, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(listening_cluster, "FIRST_PAUSE_S", 0.01)
    with PlayedNode(SPUBLISH=f"-{error}\r\n".encode()) as node, Played(node) as played:
        played.watch("n:a")
        wait_until(lambda: len(node.sockets) > 2, timeout_s=GIVE_UP_S)
        assert not played.listener.hears("n:a")
        assert node.count("SSUBSCRIBE") == 0
        assert played.looks == 0, "that says nothing about who owns the slot"


def test_two_nodes_that_name_each_other_are_not_asked_as_fast_as_they_can():
    with PlayedNode() as one, PlayedNode() as other, Played(one, other) as played:
        slot = slot_of("n:a")
        one.answers["SSUBSCRIBE"] = f"-MOVED {slot} {other.address}\r\n".encode()
        other.answers["SSUBSCRIBE"] = f"-MOVED {slot} {one.address}\r\n".encode()
        asked = []
        settle = played.listener._settle

        def counted():
            asked.append(1)
            settle()

        played.listener._settle = counted
        played.watch("n:a")
        wait_until(lambda: one.count("SSUBSCRIBE") >= 10, timeout_s=GIVE_UP_S)
        both = one.count("SSUBSCRIBE") + other.count("SSUBSCRIBE")
        assert len(asked) > 1.5 * both, "it waits in between"
        del other.answers["SSUBSCRIBE"]
        played.heard("n:a")


@pytest.mark.usefixtures("notices_silence")
def test_a_node_that_says_nothing_more_is_left_and_connected_to_anew():
    with PlayedNode(PING=SILENT) as node, Played(node) as played:
        played.watch("n:a")
        played.heard("n:a")
        wait_until(lambda: ("n:a", False) in played.woken, timeout_s=GIVE_UP_S)
        node.answers["PING"] = pack_reply([b"pong", b""])
        wait_until(lambda: len(node.sockets) == 2, timeout_s=GIVE_UP_S)
        played.heard("n:a")
        assert played.looks >= 1, "another may own its slots by now"


@pytest.mark.usefixtures("notices_silence")
def test_a_late_sign_of_life_makes_waiters_rely_on_it_again():
    with PlayedNode(PING=SILENT) as node, Played(node) as played:
        played.watch("n:a")
        wait_until(lambda: ("n:a", False) in played.woken, timeout_s=GIVE_UP_S)
        silent = played.woken.index(("n:a", False))
        node.say(pack_reply([b"pong", b""]))
        wait_until(lambda: ("n:a", True) in played.woken[silent:], timeout_s=GIVE_UP_S)


def test_where_nobody_owns_the_slot_somebody_is_asked_who_does():
    with PlayedNode() as node, Played(node) as played:
        host, _, port = node.address.rpartition(":")
        played.cluster.take([[0, 0, [host.encode(), int(port), b"id"]]], node.address)
        played.watch("n:a")
        wait_until(lambda: played.looks > 1, timeout_s=GIVE_UP_S)
        assert not played.listener.hears("n:a")
        played.own(node)
        played.heard("n:a")


def test_the_thread_ends_when_nobody_has_waited_for_some_time_and_begins_anew(monkeypatch):
    monkeypatch.setattr(listening_cluster, "IDLE_S", 4 * listening_cluster.LOOK_S)
    with PlayedNode() as node, Played(node) as played:
        for turn in (1, 2):
            number = played.watch("n:a")
            played.heard("n:a")
            assert len(node.sockets) == turn
            played.listener.unwatch("n:a", number)
            wait_until(lambda: not played.listener._is_running, timeout_s=GIVE_UP_S)
            assert not played.listener.hears("n:a")
        assert played.listener._poker is None


def test_a_connection_that_has_just_been_opened_is_not_opened_once_more():
    """What was asked on the first of two would not be heard of."""
    may_open = threading.Event()
    with PlayedNode() as node, Played(node) as played:
        take_over, make = played.listener._take_over, played.listener._make_connection

        def take_over_early() -> None:
            """And then one comes, before it is looked at what is lacking."""
            take_over()
            posts = tuple(played.listener._posts.values())
            if any(each.is_opening for each in posts):
                may_open.set()
                wait_until(lambda: not any(each.is_opening for each in posts), timeout_s=GIVE_UP_S)

        def make_late(address: str) -> Any:
            assert may_open.wait(GIVE_UP_S)
            return make(address)

        played.listener._take_over, played.listener._make_connection = take_over_early, make_late
        for key in ("n:a", "n:b", "n:c"):
            played.watch(key)
        played.heard("n:a", "n:b", "n:c")
        assert len(node.sockets) == 1


def test_a_connection_that_opens_before_its_thread_is_known_to_run_is_opened_again_where_it_is_lost():
    with PlayedNode() as node, Played(node) as played:
        begin = played.listener._start_thread

        def start(job, name):
            if threading.current_thread().name == name:
                job()
                return True
            return begin(job, name)

        played.listener._start_thread = start
        played.watch("n:a")
        played.heard("n:a")
        node.sockets[0].shutdown(socket.SHUT_RDWR)
        wait_until(lambda: len(node.sockets) == 2, timeout_s=GIVE_UP_S)
        played.heard("n:a")


def test_where_there_is_no_thread_to_open_a_connection_waiters_poll(monkeypatch):
    monkeypatch.setattr(listening_cluster, "LONGEST_PAUSE_S", 0.01)
    refused = []

    def start(job, name):
        if threading.current_thread().name == name and len(refused) < 2:
            refused.append(name)
            return False
        return begin(job, name)

    with PlayedNode() as node, Played(node) as played:
        begin, played.listener._start_thread = played.listener._start_thread, start
        played.watch("n:a")
        wait_until(lambda: len(refused) == 2, timeout_s=GIVE_UP_S)
        played.heard("n:a")


def test_a_connection_that_opens_after_the_end_is_closed():
    may_open = threading.Event()
    with PlayedNode() as node, Played(node) as played:
        make, opened_late = played.listener._make_connection, []

        def make_late(address):
            assert may_open.wait(GIVE_UP_S)
            opened_late.append(make(address))
            return opened_late[0]

        played.listener._make_connection = make_late
        played.watch("n:a")
        wait_until(lambda: played.listener._posts, timeout_s=GIVE_UP_S)
        [post] = played.listener._posts.values()
        played.listener.close(wait=True)
        may_open.set()
        wait_until(lambda: opened_late and not post.is_opening, timeout_s=GIVE_UP_S)
        wait_until(lambda: opened_late[0]._sock is None, timeout_s=GIVE_UP_S)
        assert not node.asked


def test_without_descriptors_waiters_poll_until_there_are_some(monkeypatch):
    monkeypatch.setattr(listening_cluster, "LONGEST_PAUSE_S", 0.01)
    made, socketpair = [], listening_cluster.socket.socketpair

    def fail_first():
        made.append(1)
        if len(made) < 3:
            raise OSError(24, "Too many open files")
        return socketpair()

    monkeypatch.setattr(listening_cluster.socket, "socketpair", fail_first)
    with PlayedNode() as node, Played(node) as played:
        played.watch("n:a")
        played.heard("n:a")
