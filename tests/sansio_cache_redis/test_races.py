"""Races that a review has found: each hung callers, or lost something, before it was mended."""

from __future__ import annotations

import _thread
import asyncio
import time

import anyio
import anyio.lowlevel
import pytest

from sansio_cache.config import RedisConfig
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache_redis import anyio as async_cache
from sansio_cache_redis import sync
from sansio_cache_redis.connections.asyncio import AsyncioConnections
from sansio_cache_redis.connections.lanes import Call
from sansio_cache_redis.connections.multiplexed import as_they_are
from sansio_cache_redis.connections.pool import Timing
from sansio_cache_redis.connections.settings import asyncio_factory
from sansio_cache_redis.errors import ERRORS
from sansio_cache_runtime.anyio import driver as driver_anyio
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from sansio_cache_runtime.memory import SharedMemory
from support.runtimes import PATIENT

pytestmark = pytest.mark.timing

on_both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def test_all_callers_of_a_connection_that_is_closed_as_it_opens_come_to_an_end(redis_url):
    """A READONLY or mispaired reply of one caller closes the connection that others have just waited for."""

    async def main():
        connections = AsyncioConnections(
            asyncio_factory(RedisConfig(url=redis_url)),
            max_connections=4,
            timing=Timing(opening_s=5.0, call_s=0.2, silence_s=0.1),
            on_greeted=lambda _: asyncio.get_running_loop().call_soon(connections.reset),
        )
        calls = [asyncio.ensure_future(connections.ask([(b"PING",)], 0.2, as_they_are)) for _ in range(20)]
        done, hanging = await asyncio.wait(calls, timeout=10)
        assert not hanging
        failures = [call.result() for call in done if not isinstance(call.result(), list)]
        assert failures
        assert all(isinstance(failure, ERRORS) for failure in failures)
        await connections.aclose()

    asyncio.run(main())


@on_both
def test_an_event_loop_that_is_always_busy_does_not_put_time_outs_off_for_ever(backend, fresh_server):
    """L5: every look at the calls comes late, and yet one of them must be believed."""

    async def main():
        # So long that the set is done on a machine that is busy, too.
        options = {"operation_timeout_s": 2.0, "attempt_timeout_s": 1.0}
        async with async_cache.Cache.from_url(fresh_server.url, namespace="busy", **options) as cache:
            assert await cache.set("k", 1)
            fresh_server.freeze()
            has_ended = False

            async def burn():
                while not has_ended:
                    until_s = time.monotonic() + 0.05
                    while time.monotonic() < until_s:
                        pass
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as group:
                group.start_soon(burn)
                with anyio.fail_after(30):
                    assert await cache.get("k", "default") == "default"
                has_ended = True
            fresh_server.thaw()

    anyio.run(main, backend=backend)


@on_both
@pytest.mark.parametrize("operation", ["invalidate", "set", "mutate"])
def test_a_cancelled_write_whose_clean_up_runs_out_of_time_is_remembered(backend, operation, monkeypatch):
    """Being cancelled does not stop an invalidation; if time does, this cache bypasses the key."""
    monkeypatch.setattr(driver_anyio, "_CLEAN_UP_S", 0.05)

    class Hung(AnyioMemoryBackend):
        async def answer(self, command):
            with anyio.move_on_after(command.timeout_s):
                await anyio.sleep_forever()
            return StoreFailed(time.monotonic(), FailureKind.TIMEOUT)

    async def main():
        # Closing tells the store of what is pending for as long as an operation may take.
        options = {"operation_timeout_s": 1.0, "attempt_timeout_s": 1.0}
        async with async_cache.Cache.from_url("memory://", namespace="hung", **options) as cache:
            cache._bound()._backend = Hung(SharedMemory(cache._config))

            async def write():
                if operation == "invalidate":
                    await cache.invalidate("k")
                elif operation == "set":
                    await cache.set("k", 1)
                else:
                    async with cache.mutate("k"):
                        pass

            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            assert (await cache.health()).pending_invalidations == 1
            assert cache.stats().failed_invalidations >= 1

    anyio.run(main, backend=backend)


def test_a_connection_whose_driver_was_interrupted_before_it_could_hand_it_over_is_taken_over(
    redis_url, namespace
):
    """Ctrl-C may strike in the hand-over itself."""
    with sync.Cache.from_url(redis_url, namespace=namespace, max_connections=1, **PATIENT) as cache:
        assert cache.set("k", 1)
        [lane] = cache._backend.connections._lanes
        now_s = time.monotonic()
        lane.driver = gone = Call([(b"PING",)], now_s, now_s + 1, now_s + 1, 1, lane, [])
        gone.is_gone = True
        assert cache.get("k") == 1
        assert lane.driver is None
        cache.clear()


def test_where_the_system_has_no_thread_to_give_loaders_run_and_the_cache_recovers(
    redis_url, namespace, monkeypatch
):
    """The business never sees the cache fail."""
    start = _thread.start_new_thread
    is_exhausted = True

    def starting(*args):
        if is_exhausted:
            raise RuntimeError("can't start new thread")
        return start(*args)

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    with sync.Cache.from_url(redis_url, namespace=namespace, **PATIENT) as cache:
        assert cache.get_or_load("k", lambda: 1) == 1
        assert cache.stats().stored == 0
        is_exhausted = False
        cache.wait_ready(timeout_s=20)
        assert cache.get_or_load("k", lambda: 2) == 2
        assert cache.get("k") == 2
        cache.clear()
