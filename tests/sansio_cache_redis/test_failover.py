"""What a failover, or a restart, may lose, and what writers and readers do about it (S1f).

A replica is cut off from its primary, which is told of writes and dies; then the replica takes its place
at the same address: a proxy's. Nobody makes a call meanwhile but readers.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from sansio_cache.recent_writes import RecentWrites
from sansio_cache_redis.facts import Facts
from sansio_cache_redis.sync import Cache
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
from support.proxy import FaultProxy, Proxy
from support.servers import Server, wait_until

TIMES = {"operation_timeout_s": 0.25, "after_failover_s": 0.5}


class Pair:
    """A primary and its replica, behind one address."""

    def __init__(self, stack: ExitStack) -> None:
        quick = ["--repl-diskless-sync-delay", "0"]
        self.primary = stack.enter_context(Server.start(args=quick))
        self.link = Proxy("127.0.0.1", self.primary.port)
        self._link = stack.enter_context(ExitStack())
        self._link.enter_context(self.link)
        follow = ["--replicaof", f"127.0.0.1 {self.link.port}"]
        self.replica = stack.enter_context(Server.start(args=[*quick, *follow]))
        wait_until(lambda: self.replica.client().info("replication").get("master_link_status") == "up")
        self.proxy = stack.enter_context(FaultProxy("127.0.0.1", self.primary.port))
        self.url = self.proxy.url

    def catch_up(self) -> None:
        """Wait until the replica has all that the primary has acknowledged."""
        assert self.primary.client().wait(1, 10_000) == 1

    def cut(self) -> None:
        """Have the replica hear of nothing any more."""
        self._link.close()
        link = self.replica.client()
        wait_until(lambda: link.info("replication")["master_link_status"] == "down")

    def fail_over(self) -> None:
        """The primary dies, and the replica takes its place."""
        self.primary.kill()
        self.replica.client().replicaof("NO", "ONE")
        self.proxy.lead_to(self.replica.port)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


async def write_all(writer: Subject) -> None:
    """Acknowledged writes of each kind, of which the replica does not hear."""
    assert (await writer.invalidate("invalidated")).done
    assert await writer.set("set", 2)
    assert (await writer.invalidate(tags=["group"])).done
    assert (await writer.delete_pattern("p:*")).complete


KEYS = ("invalidated", "set", "tagged", "p:1")


async def read(cache: Subject, key: str, version: int) -> int:
    tags = ["group"] if key == "tagged" else []
    value: int = await cache.get_or_load(key, lambda: version, tags=tags)
    return value


async def stale_after_failover(runtime: str, namespace: str, pair: Pair) -> list[str]:
    """The keys of which a reader gets the old value, once a writer has had its time."""
    caches = (
        opened(runtime, pair.url, namespace, **TIMES),
        opened(runtime, pair.url, namespace, **TIMES),
    )
    async with caches[0] as writer, caches[1] as reader:
        for key in KEYS:
            assert await read(reader, key, 1) == 1
        await in_thread(pair.catch_up)
        await in_thread(pair.cut)
        await write_all(writer)
        await in_thread(pair.fail_over)
        promoted_s = time.monotonic()
        stale: set[str] = set()

        async def is_quiet() -> bool:
            """Read for a second after promotion, and go on until the reader hits again."""
            began_s = time.monotonic()
            old = {key for key in KEYS if await read(reader, key, 2) == 1}
            hits = [await reader.get(key) for key in KEYS]
            if began_s <= promoted_s + 1.0:
                return False
            stale.update(old)
            return None not in hits

        await eventually(is_quiet)
        return sorted(stale)


@pytest.mark.topology
@pytest.mark.servers
@on_every_runtime
def test_what_a_failover_has_lost_is_told_again_by_who_has_written_it(
    runtime: str, namespace: str, pair: Pair
) -> None:
    assert run_on(runtime, lambda: stale_after_failover(runtime, namespace, pair)) == []


@pytest.mark.topology
@pytest.mark.servers
def test_without_being_told_again_readers_would_get_what_was_before(
    namespace: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(RecentWrites, "add", lambda *_: None)
    monkeypatch.setattr(RecentWrites, "add_pattern", lambda *_: None)
    stale = run_on("sync", lambda: stale_after_failover("sync", namespace, pair))
    assert stale == sorted(KEYS)


# A restart from a snapshot brings back what was invalidated, and leases that were voided.


def restart_from_snapshot(server: Server) -> None:
    """End a server and start it with the snapshot that it has made last."""
    server.kill()
    server._launch()
    assert server.client().info("persistence")["rdb_last_load_keys_loaded"] > 0


async def old_after_restart(runtime: str, namespace: str, server: Server) -> list[str]:
    """What is old of what a reader gets after a restart: a value, one with a tag, a load, what follows it."""
    raw, loading, may_end = server.client(), threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    def slow() -> int:
        loading.set()
        assert may_end.wait(GIVE_UP_S)
        return 1

    async with opened(runtime, server.url, namespace, operation_timeout_s=2.0, after_failover_s=0) as cache:

        async def load(name: str, loader: Callable[[], int]) -> None:
            found[name] = await cache.get_or_load("load", loader)

        assert await read(cache, "value", 1) == await read(cache, "tagged", 1) == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load, "leader", slow)
            await eventually(loading.is_set)
            await in_thread(raw.save)
            # Another process invalidates all this, and ends.
            raw.unlink(*(f"{namespace}:{key}" for key in ("value", "load", "%t:group")))
            await in_thread(restart_from_snapshot, server)
            tasks.start_soon(load, "follower", lambda: 2)
            await eventually(lambda: followers(cache))
            may_end.set()
        del found["leader"]  # it began before the invalidation
        found["value"] = await cache.get_or_load("value", lambda: 2)
        found["tagged"] = await read(cache, "tagged", 2)
        found["load"] = await cache.get_or_load("load", lambda: 2)
        assert await eventually(lambda: cache.set("again", 2)), "from a moment after the start on it serves"
        assert await cache.get("again") == 2
    return sorted(name for name, version in found.items() if version == 1)


def followers(cache: Subject) -> int:
    """How many callers follow a load of another."""
    snapshot = cache.cache._coordinator.snapshot().single_flight
    return sum(len(load.followers) for _, load in snapshot.loads)


@pytest.mark.servers
@on_every_runtime
def test_what_a_snapshot_brings_back_is_not_served(
    runtime: str, namespace: str, fresh_server: Server
) -> None:
    """Fault 42."""
    assert run_on(runtime, lambda: old_after_restart(runtime, namespace, fresh_server)) == []


@pytest.mark.servers
@on_every_runtime
def test_where_the_clock_is_behind_the_start_from_a_snapshot_nothing_is_stored_and_health_says_so(
    runtime: str, namespace: str, fresh_server: Server
) -> None:
    """As if it had been put back by an hour: what counts as gone lies so far in the future."""

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "old")
        await in_thread(fresh_server.client().save)
        await in_thread(restart_from_snapshot, fresh_server)
        async with opened(runtime, fresh_server.url, namespace, clock_skew_s=3600.0, **PATIENT) as cache:
            assert await cache.get_or_load("k", lambda: "new") == "new"
            assert await cache.get("k") is None
            assert not await cache.set("k", "new")
            health = await cache.health()
            assert not health.ok
            [problem] = health.problems
            found = re.search(r"for (\d+) s from now on by its clock nothing is stored", problem)
            assert found
            assert 3000 < int(found[1]) <= 3601
        async with opened(runtime, fresh_server.url, namespace, clock_skew_s=0.0, **PATIENT) as cache:
            await eventually(lambda: is_well(cache))
            assert await cache.set("k", "new")

    run_on(runtime, main)


async def is_well(cache: Subject) -> bool:
    return bool((await cache.health()).ok)


@pytest.mark.servers
def test_without_a_floor_a_snapshot_would_bring_back_what_was_invalidated(
    namespace: str, fresh_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(Facts, "floor_us", lambda *_: 0)
    found = run_on("sync", lambda: old_after_restart("sync", namespace, fresh_server))
    assert found == ["follower", "load", "tagged", "value"]


@pytest.mark.topology
@pytest.mark.servers
@pytest.mark.parametrize("counts_replication", [True, False])
def test_a_healthy_replica_that_is_promoted_keeps_its_cache(
    counts_replication: bool, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has loaded a snapshot too, as it began to follow. A floor that does not know so would empty it."""
    if not counts_replication:
        floor_us = Facts.floor_us
        forgetful = lambda self, skew_s: floor_us(replace(self, replicated_bytes=0), skew_s)  # noqa: E731
        monkeypatch.setattr(Facts, "floor_us", forgetful)
    with ExitStack() as stack:
        primary = stack.enter_context(Server.start(args=["--repl-diskless-sync-delay", "0"]))
        with Cache.from_url(primary.url, namespace=namespace, **PATIENT) as cache:
            assert cache.set("k", 1)
        follow = ["--replicaof", f"127.0.0.1 {primary.port}"]
        replica = stack.enter_context(Server.start(args=follow))
        client = replica.client()
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        assert client.info("persistence")["rdb_last_load_keys_loaded"] > 0
        client.replicaof("NO", "ONE")
        with Cache.from_url(replica.url, namespace=namespace, **PATIENT) as cache:
            assert (cache.get("k") == 1) is counts_replication
