"""What an outage leaves to be done, on all three runtimes: writes that nobody waits for, keys that the store
refuses to be told of, probes where each call has an event loop of its own.
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from sansio_cache.commands import DeleteKeys, FillCells, HoldCells
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache_redis.anyio import Cache as AnyioCache
from sansio_cache_redis.sync import Cache
from support.faulty import (
    PATIENT,
    Loader,
    eventually,
    on_every_runtime,
    opened,
    run_on,
)
from support.proxy import FaultProxy
from support.servers import Server
from support.stalls import Stalls

pytestmark = pytest.mark.timing

SLACK_S = 5.0  # what a busy machine may add


@pytest.fixture
def proxy(fresh_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", fresh_server.port) as proxy:
        yield proxy


def cut(proxy: FaultProxy) -> None:
    """The server is not there any more."""
    proxy.refuse_connections()
    proxy.drop_all()


# --- Writes do not wait


@on_every_runtime
def test_while_the_store_is_known_to_be_out_no_write_waits_and_each_is_told_in_the_background(
    runtime: str, fresh_server: Server, proxy: FaultProxy, namespace: str
) -> None:
    """S1, L5: what was written is pending before the call returns, and a removal is tried at once."""
    with Cache.from_url(fresh_server.url, namespace=namespace, **PATIENT) as other:
        for key in ("set", "mutated", "invalidated"):
            assert other.set(key, "old")

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace) as cache:
            assert await eventually(lambda: cache.get("set")) == "old"
            fresh_server.freeze()
            await cache.get("other")
            assert cache.is_out
            recorder = cache.record()
            began_s = time.monotonic()
            with Stalls() as stalls:
                for _ in range(50):
                    assert await cache.set("set", "new") is False
                    assert (await cache.invalidate("invalidated", tags=["t"])).remembered == 2
                    async with cache.mutate("mutated") as mutation:
                        mutation.set("mutated", "new")
                # With 250 ms for each, it would be thirty seconds and more.
                assert time.monotonic() - began_s < SLACK_S + stalls.allowed_s
            assert cache.remembered == 4
            assert recorder.of(HoldCells) == recorder.of(FillCells) == []
            await eventually(lambda: recorder.of(DeleteKeys))
            assert {await cache.get(key) for key in ("set", "mutated", "invalidated")} == {None}

            fresh_server.thaw()
            await eventually(lambda: cache.remembered == 0 and not cache.is_out)
            assert {await cache.get(key) for key in ("set", "mutated", "invalidated")} == {None}
            assert recorder.of(HoldCells) == recorder.of(FillCells) == []

    run_on(runtime, main)


@on_every_runtime
def test_a_mutation_that_an_outage_strikes_in_its_block_stores_nothing_and_removes_its_key(
    runtime: str, proxy: FaultProxy, namespace: str
) -> None:
    """S6: a fill that arrives late would be an older value's."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            assert await eventually(lambda: cache.set("k", "old"))
            recorder = cache.record()
            async with cache.mutate("k") as mutation:
                cut(proxy)
                await cache.get("other")
                assert cache.is_out
                mutation.set("k", "new")
            assert recorder.of(FillCells) == []
            assert cache.remembered == 1
            assert await cache.get_or_load("k", Loader("newer")) == "newer"
            proxy.accept_connections()
            await eventually(lambda: cache.remembered == 0)
            assert await cache.get("k") is None

    run_on(runtime, main)


# --- The end


@on_every_runtime
@pytest.mark.parametrize("how", ["the server is back", "the server is away"])
def test_a_cache_that_is_closed_tells_what_is_pending_or_says_that_it_could_not(
    runtime: str, how: str, proxy: FaultProxy, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: a process that ends takes what is pending with it."""
    with Cache.from_url(proxy.url, namespace=namespace, **PATIENT) as other:

        async def main() -> None:
            async with opened(runtime, proxy.url, namespace) as cache:
                assert await eventually(lambda: cache.set("k", "old"))
                cut(proxy)
                await cache.get("other")
                assert cache.is_out
                # So that nothing in the background is quicker.
                cache._driver._start_recovery = lambda _: False
                assert (await cache.invalidate("k", "l")).remembered == 2
                if how == "the server is back":
                    proxy.accept_connections()
                began_s = time.monotonic()
                with Stalls() as stalls:
                    await cache.close()
                    assert time.monotonic() - began_s < SLACK_S + stalls.allowed_s

        run_on(runtime, main)
        said = [line for line in caplog.messages if "was not told of 2 invalidations" in line]
        if how == "the server is back":
            assert other.get("k") is None
            assert not said
        else:
            proxy.accept_connections()
            assert len(said) == 1


# --- Each call in a loop of its own


def in_loops(backend: str, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Make calls, each in an event loop that ends with it, as tasks of a queue do."""
    return [anyio.run(call, backend=backend) for call in calls]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_where_each_call_has_a_loop_of_its_own_the_store_is_asked_again_and_told_what_it_missed(
    backend: str, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 39: nothing in the background lasts until the next probe is due."""
    cache = AnyioCache.from_url(proxy.url, namespace=namespace, **PATIENT)

    async def load() -> int:
        return 1

    read = partial(cache.get_or_load, "a", load)
    in_loops(backend, read, read)
    assert cache.stats().redis_hits == 1
    cut(proxy)
    in_loops(backend, read)
    assert cache._coordinator.is_out
    [result] = in_loops(backend, partial(cache.invalidate, "b"))
    assert result.remembered == 1
    in_loops(backend, read, read, read)
    proxy.accept_connections()
    until_s = time.monotonic() + 15.0
    while cache._coordinator.needs_recovery:
        in_loops(backend, read)
        assert time.monotonic() < until_s
    assert cache._coordinator.pending_invalidations == 0
    before = cache.stats()
    in_loops(backend, read, read, read)
    assert (cache.stats() - before).redis_hits == 3
    in_loops(backend, cache.aclose)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_loops_that_end_one_caller_at_a_time_asks_and_the_pauses_between_grow(
    backend: str, proxy: FaultProxy, namespace: str
) -> None:
    """A server that is out is not asked by each call, nor does each call wait for it."""
    cache = AnyioCache.from_url(proxy.url, namespace=namespace)
    in_loops(backend, partial(cache.get, "a"))
    cut(proxy)
    in_loops(backend, partial(cache.get, "a"))
    before = cache.stats()
    began_s = time.monotonic()
    calls = 0
    while time.monotonic() - began_s < 0.7:
        in_loops(backend, partial(cache.get, "a"))
        calls += 1
    happened = cache.stats() - before
    assert happened.misses == {MissReason.STORE_ERROR: calls}
    # At 50, 150, 350 and 750 ms; on a busy machine some later.
    assert sum(happened.errors.values()) <= 5
    in_loops(backend, cache.aclose)


# --- Keys that the store refuses


@on_every_runtime
def test_a_key_that_the_store_refuses_keeps_no_other_from_being_told(
    runtime: str, fresh_server: Server, proxy: FaultProxy, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 41: permissions may go by keys, and a command with one such key is refused as a whole."""
    raw = fresh_server.client()
    ours = f"~{namespace}:ours:*"
    raw.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "+@all", "&*", ours)
    url = proxy.url.replace("redis://", "redis://app:pw@")
    keys = [f"ours:{number}" for number in range(20)]

    async def main() -> None:
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            assert await eventually(lambda: cache.set(keys[3], "old"))
            cut(proxy)
            assert await cache.get("ours:x") is None
            assert (await cache.invalidate(*keys, "theirs:1")).remembered == 21
            proxy.accept_connections()
            await eventually(lambda: cache.remembered == 1)
            assert await cache.get(keys[3]) is None
            assert MissReason.BYPASSED not in cache.stats().misses, "it is read again"
            assert await cache.get_or_load("theirs:1", Loader("loaded")) == "loaded"
            assert cache.stats().misses[MissReason.BYPASSED] == 1
            assert cache.stats().refused_invalidations >= 1
            refused = [line for line in caplog.messages if "refuses (permission) to remove" in line]
            assert "1 keys" in refused[-1]
            assert "theirs" not in caplog.text

            raw.execute_command("ACL", "SETUSER", "app", "~*")
            await eventually(lambda: cache.remembered == 0)

    run_on(runtime, main)


# --- Connections that are refused after they were opened


class NoRedis:
    """A server that speaks something else."""

    def __enter__(self) -> "NoRedis":
        import socket

        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/1"
        self.count = 0
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            self.count += 1
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def __exit__(self, *_: object) -> None:
        self._listening.close()


@on_every_runtime
@pytest.mark.parametrize("how", ["no such database", "a name that is not taken", "no Redis"])
def test_a_handshake_that_is_refused_is_an_outage_and_few_are_tried(
    runtime: str, how: str, fresh_server: Server, namespace: str
) -> None:
    """Nothing can be had from such a server: reads do without it, and what is tried pauses in between."""
    url = f"{fresh_server.url.rpartition('/')[0]}/99"
    if how == "a name that is not taken":
        url = f"{fresh_server.url}?client_name=a%20b"

    def opened_so_far(strange: NoRedis) -> int:
        if how == "no Redis":
            return strange.count
        info: Any = fresh_server.client().info("stats")
        return int(info["total_connections_received"])

    async def main() -> None:
        with NoRedis() as strange:
            async with opened(
                runtime, strange.url if how == "no Redis" else url, namespace, **PATIENT
            ) as cache:
                before = opened_so_far(strange)
                for number in range(100):
                    assert await cache.get_or_load(f"k{number}", Loader(number)) == number
                assert cache.is_out
                # Who speaks something else may have hung up before it was heard.
                assert set(cache.stats().gave_up) <= {FailureKind.HANDSHAKE, FailureKind.CONNECTION}
                assert sum(cache.stats().gave_up.values()) == 1
                assert opened_so_far(strange) - before <= 15

    run_on(runtime, main)
