"""What is wrong with a cluster: nobody who calls sees an error of it, loaders answer, and all comes back.

Caches on threads, asyncio and trio are there at once, before it, while and after it. Each test says what
becomes of the keys of one primary, and of all others.
"""

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from typing import Any

import anyio
import attrs
import pytest

from sansio_cache.health import Health
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.clusters import SHORT_NODE_TIMEOUT_MS, ClusterServers, is_down, slot_of
from support.faulty import eventually
from support.proxy import FaultProxy, Refuse
from support.runtimes import PATIENT, RUNTIMES, CacheUnderTest
from support.servers import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.topology]

KEYS = [f"k{number}" for number in range(24)]
PATIENCE_S = 60.0
"""Bounds failures only."""

Act = Callable[[CacheUnderTest], Awaitable[object]]
Happening = Callable[[], object]


def in_turns(url: str, namespace: str, turns: Sequence[Act | Happening], **options: Any) -> None:
    """Let all runtimes act, each on a cache of its own, then something happen, then all act, and so on."""
    acts, happenings = turns[::2], turns[1::2]
    barrier = threading.Barrier(len(RUNTIMES) + 1, timeout=PATIENCE_S)
    failures: list[BaseException] = []
    options = {**PATIENT, "after_failover_s": 0.0, **options}

    async def live(runtime: str) -> None:
        kind: Any = cache_sync.Cache if runtime == "sync" else cache_anyio.Cache
        made = kind.from_url(url, namespace=f"{namespace}-{runtime}", **options)
        cache = CacheUnderTest(made, is_sync=runtime == "sync")
        async with aclosing(cache):
            for place, act in enumerate(acts):
                await act(cache)  # type: ignore[arg-type, misc]
                if place < len(happenings):
                    await anyio.to_thread.run_sync(barrier.wait)
                    await anyio.to_thread.run_sync(barrier.wait)

    def run(runtime: str) -> None:
        try:
            anyio.run(live, runtime, backend="trio" if runtime == "trio" else "asyncio")
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=[runtime]) for runtime in RUNTIMES]
    for each in threads:
        each.start()
    try:
        for happen in happenings:
            barrier.wait()
            happen()
            barrier.wait()
    except threading.BrokenBarrierError:
        pass  # one of them has failed
    except BaseException:
        barrier.abort()
        raise
    finally:
        for each in threads:
            each.join()
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    assert not failures


# What they do.


async def fill(cache: CacheUnderTest) -> None:
    """All is stored, and found."""
    assert await cache.get_or_load_many(KEYS, lambda keys: dict.fromkeys(keys, "old")) == dict.fromkeys(
        KEYS, "old"
    )
    assert await cache.get_many(KEYS) == dict.fromkeys(KEYS, "old")


async def do_without(cache: CacheUnderTest) -> None:
    """No key is served; loaders answer, and what is invalidated is remembered."""
    assert await cache.get_or_load(KEYS[0], lambda: "new") == "new"
    assert await cache.get_or_load_many(KEYS, lambda keys: dict.fromkeys(keys, "new")) == dict.fromkeys(
        KEYS, "new"
    )
    assert await cache.get_many(KEYS) == {}
    assert (await cache.invalidate(KEYS[0], KEYS[1])).remembered == 2
    assert not (await cache.health()).ok


async def come_back(cache: CacheUnderTest) -> None:
    """All is stored and found again, but for what was invalidated."""
    await eventually(lambda: not cache.cache._coordinator.is_out, timeout_s=PATIENCE_S)
    await eventually(lambda: not cache.cache._coordinator.pending_invalidations, timeout_s=PATIENCE_S)

    async def is_whole() -> bool:
        found = await cache.get_or_load_many(KEYS, lambda keys: dict.fromkeys(keys, "new"))
        assert found[KEYS[0]] == found[KEYS[1]] == "new"
        return await cache.get_many(KEYS) == found

    await eventually(is_whole, timeout_s=PATIENCE_S)


def is_whole(servers: ClusterServers) -> bool:
    return not any(map(is_down, servers.primaries))


@pytest.fixture(scope="module")
def servers() -> Iterator[ClusterServers]:
    """Three primaries, as they are by default: where one is gone, all of them refuse. Leave it as it was."""
    with ClusterServers.start(3, node_timeout_ms=SHORT_NODE_TIMEOUT_MS) as started:
        yield started


@pytest.mark.parametrize("count", [1, 2], ids=["one", "most"])
def test_where_too_few_nodes_are_left_all_keys_are_loaded_until_they_are_back(
    servers: ClusterServers, namespace: str, count: int
) -> None:
    """CLUSTERDOWN of all slots, as one node is missing (full coverage); and with most of them dead."""
    dead, alive = servers.primaries[:count], servers.primaries[count:]

    def kill() -> None:
        for each in dead:
            each.kill()
        wait_until(lambda: all(map(is_down, alive)), timeout_s=PATIENCE_S)

    def restart() -> None:
        for each in dead:
            each.restart()
        wait_until(lambda: is_whole(servers), timeout_s=PATIENCE_S)

    in_turns(servers.url, namespace, [fill, kill, do_without, restart, come_back])


@pytest.mark.parametrize(
    ("to", "leads_there"),
    [("127.0.0.1:1", False), ("nowhere.invalid:7000", False), (":{port}", True), ("?:{port}", False)],
)
def test_a_moved_that_leads_nowhere_costs_its_own_keys_until_it_is_gone(
    servers: ClusterServers, namespace: str, to: str, leads_there: bool
) -> None:
    """To where nobody listens, or a name that nobody has. Without a host it is the one that has answered."""
    node = servers.primaries[0]
    with FaultProxy("127.0.0.1", node.port) as proxy:
        text = f"MOVED {{slot}} {to.format(port=node.port)}"

        def mapped(host: str, port: int) -> tuple[str, int]:
            return host, proxy.port if port == node.port else port

        def lead_astray() -> None:
            for runtime in RUNTIMES:
                for key in KEYS:
                    full = f"{namespace}-{runtime}:{key}"
                    refusal = Refuse(text.format(slot=slot_of(full)))
                    proxy.on(lambda words, full=full: full.encode() in words, refusal, times=None)

        async def be_led_astray(cache: CacheUnderTest) -> None:
            lost = [key for key in KEYS if servers.owner_of(f"{cache.cache._config.namespace}:{key}") is node]
            kept = [key for key in KEYS if key not in lost]
            assert lost
            if leads_there:
                lost, kept = [], KEYS
            given = await cache.get_or_load_many(KEYS, lambda keys: dict.fromkeys(keys, "new"))
            assert given == dict.fromkeys(kept, "old") | dict.fromkeys(lost, "new")
            assert await cache.get_many(KEYS) == dict.fromkeys(kept, "old")

        async def come_back_to_all(cache: CacheUnderTest) -> None:
            async def is_found() -> bool:
                found = await cache.get_or_load_many(KEYS, lambda keys: dict.fromkeys(keys, "new"))
                return await cache.get_many(KEYS) == found

            await eventually(is_found, timeout_s=PATIENCE_S)

        in_turns(
            servers.url,
            namespace,
            [fill, lead_astray, be_led_astray, proxy.clear, come_back_to_all],
            address_map=mapped,
        )


def test_a_node_without_slots_says_who_has_them(namespace: str) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(ClusterServers.start(1))
        spare = servers.join_spare()
        url = f"redis+cluster://127.0.0.1:{spare.port}"

        async def meet(cache: CacheUnderTest) -> None:
            await fill(cache)
            health: Health = await cache.health()
            assert health.ok
            assert health.server.endswith("a cluster of 1 nodes that own slots")

        in_turns(url, namespace, [meet])


def test_a_cluster_that_becomes_a_single_server_and_one_again(namespace: str) -> None:
    with ClusterServers.start(1) as servers:
        [server] = servers.primaries
        in_cluster = server._command
        alone = ["no" if each == "yes" else each for each in in_cluster]

        def restart(command: list[str]) -> None:
            server._command = command
            server.restart()

        in_turns(
            servers.url,
            namespace,
            [
                fill,
                lambda: restart(alone),
                come_back,
                lambda: (restart(in_cluster), wait_until(lambda: is_whole(servers), timeout_s=PATIENCE_S)),
                come_back,
            ],
        )


@attrs.frozen
class Wrong:
    """What is wrong with an address_map."""

    makes: Callable[[str, int], Any]
    said: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(lambda host, port: 1 / 0, "address_map raised ZeroDivisionError"),
        Wrong(lambda host, port: host, "address_map raised TypeError"),
    ],
    ids=["raises", "gives no pair"],
)
def test_health_says_what_is_wrong_with_an_address_map(
    servers: ClusterServers, namespace: str, wrong: Wrong
) -> None:
    async def do(cache: CacheUnderTest) -> None:
        assert await cache.get_or_load(KEYS[0], lambda: "new") == "new"
        [problem] = (await cache.health()).problems
        assert wrong.said in problem

    in_turns(servers.url, namespace, [do], address_map=wrong.makes, connect_timeout_s=5.0)
