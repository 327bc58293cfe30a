"""Readers and writers of three runtimes on a cluster to which things happen, held to a history (S1).

Three primaries, three replicas. A round of each fault is run here, and rounds of a minute at night.
"""

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import mean, median
from typing import Any, Final

import attrs
import pytest
import redis

from sansio_cache.recent_writes import RecentWrites
from sansio_cache_redis.topology.slots import read_slots
from support.clusters import SHORT_NODE_TIMEOUT_MS, ClusterServers
from support.histories import PATIENCE_S, Community
from support.proxy import Proxy
from support.runtimes import RUNTIMES
from support.servers import Server, connect, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.topology]

NIGHTLY: Final = bool(os.environ.get("SANSIO_CACHE_NIGHTLY"))
SECONDS: Final = 60.0 if NIGHTLY else 0.0
"""For how long there are rounds of one fault: at least one."""


@pytest.fixture(scope="module")
def servers() -> Iterator[ClusterServers]:
    """A cluster that goes on where a node fails, and whose nodes can be cut off."""
    args = ("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0")
    with ClusterServers.start(
        3, replicas=True, args=args, is_divisible=True, node_timeout_ms=SHORT_NODE_TIMEOUT_MS
    ) as started:
        yield started


@pytest.fixture
def calm_servers() -> Iterator[ClusterServers]:
    """Primaries that take no other for dead: slots are moved by hand, and nobody may take over meanwhile."""
    with ClusterServers.start(3) as started:
        yield started


@attrs.frozen
class Shard:
    """A primary and its replica, whichever of the two nodes is which just now."""

    place: int
    primary: Server
    replica: Server


def shard(servers: ClusterServers, place: int) -> Shard:
    """A part of the cluster, once both of its nodes are as they are to be."""
    if not servers.replicas:
        return Shard(place, servers.primaries[place], servers.primaries[place])
    nodes = servers.primaries[place], servers.replicas[place]

    def found() -> list[Server]:
        roles = [(info(each)["role"], info(each).get("master_link_status")) for each in nodes]
        if sorted(roles, key=str) != [("master", None), ("slave", "up")]:
            return []
        return [each for _, each in sorted(zip(roles, nodes, strict=True), key=lambda it: it[0][0])]

    wait_until(found, timeout_s=PATIENCE_S)
    return Shard(place, *found())


def info(server: Server) -> dict[str, Any]:
    """What a node says of its replication; nothing where it does not answer."""
    try:
        with closing(connect(server.unix_url, socket_timeout=5.0)) as client:
            found: dict[str, Any] = client.info("replication")
    except redis.RedisError:
        return {"role": ""}
    return found


def is_primary(server: Server) -> bool:
    return bool(info(server)["role"] == "master")


def owns(servers: ClusterServers, asked: Server, slot: int, owner: Server) -> bool:
    """Whether a node owns a slot, by what another one says."""
    with closing(connect(asked.unix_url)) as client:
        owners = read_slots(client.execute_command("CLUSTER SLOTS"), "")
    return owners[slot] == f"127.0.0.1:{servers.announced(owner)[0]}"


def promoted(of: Shard) -> float:
    wait_until(lambda: is_primary(of.replica), timeout_s=PATIENCE_S)
    return time.monotonic()


# What happens: each gives when a replica was promoted, where one was.


def migrate(servers: ClusterServers, community: Community, of: Shard) -> None:
    """Slots with their keys move to another primary, key by key, and back."""
    other = shard(servers, (of.place + 1) % 3)
    for slot in community.slots_of(of.place)[: None if NIGHTLY else 3]:
        for source, target in ((of.primary, other.primary), (other.primary, of.primary)):
            with servers.moving(slot, source, target, others=()):
                community.go_on(10)
                servers.move_keys(slot, source, target)
                community.go_on(10)
            community.go_on(10)


def migrate_at_once(servers: ClusterServers, community: Community, of: Shard) -> None:
    """Ranges of slots move as a whole, and back."""
    other = shard(servers, (of.place + 1) % 3)
    slots = community.slots_of(of.place)
    ranges = f"SLOTSRANGE {min(slots)} {max(slots)} NODE"
    for source, target in ((of.primary, other.primary), (other.primary, of.primary)):
        source.client().execute_command(*f"CLUSTER MIGRATESLOTS {ranges} {servers.id_of(target)}".split())
        for each, slot in itertools.product((source, target), (slots[0], slots[-1])):
            wait_until(partial(owns, servers, each, slot, target), timeout_s=PATIENCE_S)
        community.go_on()


def fail_over(servers: ClusterServers, community: Community, of: Shard) -> float:
    """The replica takes over in agreement with its primary."""
    community.write_rare(of.place)
    of.replica.client().execute_command("CLUSTER FAILOVER")
    return promoted(of)


def kill(servers: ClusterServers, community: Community, of: Shard) -> float:
    community.write_rare(of.place)
    of.primary.kill()
    promoted_s = promoted(of)
    community.go_on()
    of.primary.restart()
    return promoted_s


def freeze(servers: ClusterServers, community: Community, of: Shard) -> float:
    community.write_rare(of.place)
    of.primary.freeze()
    promoted_s = promoted(of)
    community.go_on()
    of.primary.thaw()
    return promoted_s


def isolate(servers: ClusterServers, community: Community, of: Shard) -> float:
    """A primary is cut off from all other nodes; some clients reach all of them, others one side only."""
    servers.isolate(of.primary)
    community.write_rare(of.place)  # of which the replica does not hear
    promoted_s = promoted(of)
    community.go_on()
    servers.reunite(of.primary)
    return promoted_s


TIMES: Final = {"operation_timeout_s": 2.0, "attempt_timeout_s": 0.5}


def rounds(
    servers: ClusterServers,
    community: Community,
    happen: Callable[[ClusterServers, Community, Shard], float | None],
    runtimes: Sequence[str] = RUNTIMES,
) -> None:
    """Let it happen, again and again; then judge what everybody has seen."""
    before, during = [], []
    first_hits: dict[str, list[float]] = defaultdict(list)
    end_s = time.monotonic() + SECONDS
    with community.living():
        for turn in itertools.count():
            of = shard(servers, turn % 3)
            others = {0, 1, 2} - {of.place}
            quiet_s = time.monotonic()
            community.go_on()
            began_s = time.monotonic()
            promoted_s = happen(servers, community, of)
            community.come_back()
            ended_s = time.monotonic()
            before.append(community.hits(others, runtimes, quiet_s, began_s))
            during.append(community.hits(others, runtimes, began_s, ended_s))
            if promoted_s is not None:
                for runtime, hit_s in community.first_hits_s(of.place, promoted_s).items():
                    first_hits[runtime].append(hit_s)
            if time.monotonic() >= end_s:
                break
    print(
        f"{len(before)} rounds, {community.reads} reads; hits on the others {min(during):.3f}, before "
        f"{min(before):.3f}; first hits after promotion, median and longest, in seconds:",
        {runtime: (round(median(each), 2), round(max(each), 2)) for runtime, each in first_hits.items()},
    )
    assert community.errors == []
    assert community.stale() == []
    if NIGHTLY:  # where a machine has so much to do that nodes take each other for dead, it is another matter
        assert mean(during) >= 0.85 * mean(before)


@pytest.fixture
def community(servers: ClusterServers, namespace: str) -> Community:
    """Callers who reach all nodes."""
    return community_of(servers, namespace)


def community_of(servers: ClusterServers, namespace: str) -> Community:
    return Community(servers, namespace, lambda _: reaching_all(servers))


def reaching_all(servers: ClusterServers) -> dict[str, Any]:
    return {"url": servers.url, "address_map": servers.direct, **TIMES}


@pytest.mark.parametrize("happen", [fail_over, kill, freeze])
def test_no_caller_is_given_what_is_stale_or_sees_an_error(
    servers: ClusterServers, community: Community, happen: Any
) -> None:
    """S1, and S1f where a replica takes over, which may not have heard of all."""
    rounds(servers, community, happen)


def test_nor_where_slots_move_key_by_key(calm_servers: ClusterServers, namespace: str) -> None:
    rounds(calm_servers, community_of(calm_servers, namespace), migrate)


def test_nor_where_slots_move_at_once(calm_servers: ClusterServers, namespace: str) -> None:
    with closing(connect(calm_servers.primaries[0].unix_url)) as client:
        known: Any = client.execute_command("COMMAND INFO", "CLUSTER|MIGRATESLOTS")
    if not any(known.values() if isinstance(known, dict) else known):
        pytest.skip("this server moves slots key by key only")
    rounds(calm_servers, community_of(calm_servers, namespace), migrate_at_once)


def test_clients_on_both_sides_of_a_partition_are_given_nothing_stale(
    servers: ClusterServers, namespace: str
) -> None:
    """Some reach all nodes, some only the majority, and some only the primary that is cut off.

    These write nothing: what it acknowledges to them is lost, and they could tell nobody else.
    """
    with ExitStack() as stack:
        minority = Fence(servers, stack)
        sides = {
            "sync": reaching_all(servers),
            "asyncio": {"url": servers.announced_url, **TIMES},
            "trio": {"url": minority.url, "address_map": minority.through, **TIMES},
        }
        community = Community(servers, namespace, sides.__getitem__, readers=("trio",))
        rounds(servers, community, minority.around, ("sync", "asyncio"))


def test_a_writer_that_tells_the_cache_before_it_commits_is_found(
    servers: ClusterServers, namespace: str
) -> None:
    """The control of all of the above."""
    community = Community(servers, namespace, lambda _: reaching_all(servers), is_mistaken=True)
    with community.living():
        wait_until(community.stale, timeout_s=PATIENCE_S)


def test_without_being_told_again_what_a_partition_has_lost_is_stale(
    servers: ClusterServers, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of S1f."""
    monkeypatch.setattr(RecentWrites, "add", lambda *_: None)
    community = Community(servers, namespace, lambda _: reaching_all(servers))
    with community.living():
        for place in (0, 1, 2):  # until one is not late: who is cut off refuses writes in the end
            isolate(servers, community, shard(servers, place))
            community.come_back()
            if any(each.read.key.startswith("rare") for each in community.stale()):
                return
    raise AssertionError("nothing was stale")


class Fence:
    """What is between one runtime and each of the nodes."""

    def __init__(self, servers: ClusterServers, stack: ExitStack) -> None:
        self._servers = servers
        self._proxies = {
            server.port: stack.enter_context(Proxy("127.0.0.1", server.port))
            for server in (*servers.primaries, *servers.replicas)
        }

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in self._proxies.values())

    def through(self, host: str, port: int) -> tuple[str, int]:
        return host, self._proxies[self._servers.direct(host, port)[1]].port

    def around(self, servers: ClusterServers, community: Community, of: Shard) -> float:
        """Only the node that is cut off is reached while it is."""
        closed = [proxy for port, proxy in self._proxies.items() if port != of.primary.port]
        for each in closed:
            each.vanish()
        try:
            return isolate(servers, community, of)
        finally:
            for each in closed:
                each.appear()
