"""What ends a task, a loader or a block at the wrong moment: nothing stays held, and nothing is an answer."""

import asyncio
import dataclasses
import logging
import sys
import threading
from asyncio import CancelledError
from contextlib import closing

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec
import pytest
import trio

from sansio_cache import LockLostError, Policy, WriteBehind
from sansio_cache.commands import TakeLock
from sansio_cache_redis.anyio import Cache
from sansio_cache_redis.sync import Cache as BlockingCache
from sansio_cache_runtime.anyio.event import LoopEvent
from sansio_cache_runtime.anyio.memory import AnyioMemoryBackend
from support.faulty import eventually

LIBRARIES = pytest.mark.parametrize("library", ["asyncio", "trio"])


class Row(msgspec.Struct):
    id: int


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to be changed, its traceback included."""

    number: int


def opened(**options):
    return Cache.from_url("memory://", namespace="t", **options)


async def cancelled():
    """Wait for what somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@LIBRARIES
def test_a_lock_that_was_taken_as_its_caller_was_cancelled_is_given_back(library, monkeypatch):
    """The answer is there, and what the cache has to do besides is waited for when it strikes."""
    answer = AnyioMemoryBackend.answer
    scopes = []

    async def cancelling(self, command):
        event = await answer(self, command)
        if isinstance(command, TakeLock):
            scopes[0].cancel()
        return event

    async def main():
        cache = opened()
        cache._coordinator.needs_recovery = True
        monkeypatch.setattr(AnyioMemoryBackend, "answer", cancelling)
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with cache.lock("l", lease_s=30):
                raise AssertionError
        assert scope.cancelled_caught
        monkeypatch.undo()
        async with cache.lock("l", wait_s=0) as lock:
            lock.check()
        await cache.aclose()

    anyio.run(main, backend=library)


def test_a_batch_of_loaders_of_which_one_meets_a_cancellation_is_no_answer():
    async def load(id):
        await (cancelled() if id == 2 else anyio.lowlevel.checkpoint())
        return Row(id)

    async def main():
        cache = opened()
        rows = cache.entity("row", Row, id="id", loader=load)
        with pytest.raises(CancelledError):
            await rows.get_or_load_many([1, 2, 3])
        with pytest.raises(CancelledError):
            await rows.get_or_load(2)
        assert asyncio.current_task().cancelling() == 0
        assert await rows.get_or_load_many([1, 3]) == {1: Row(1), 3: Row(3)}
        await cache.aclose()

    asyncio.run(main())


@LIBRARIES
def test_who_is_cancelled_with_a_batch_of_loaders_is_cancelled(library):
    async def main():
        cache = opened()
        rows = cache.entity("row", Row, id="id", loader=lambda _: anyio.sleep_forever())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(rows.get_or_load_many, [1, 2])
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        await cache.aclose()

    anyio.run(main, backend=library)


@LIBRARIES
def test_a_loader_on_a_thread_that_is_given_up_on_may_use_the_cache(library):
    """What it does in the loop ends, and takes nobody's processor."""
    has_begun, may_go, found = threading.Event(), threading.Event(), []

    async def main():
        cache = opened()

        def load():
            has_begun.set()
            may_go.wait(20.0)
            found.append(anyio.from_thread.run(cache.get_or_load, "inner", lambda: 7))
            found.append(anyio.from_thread.run(cache.get, "inner"))
            return 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.get_or_load, "outer", load)
            await eventually(has_begun.is_set)
            tasks.cancel_scope.cancel()
        may_go.set()
        await eventually(lambda: len(found) == 2)
        assert found == [7, 7]
        assert await cache.get_or_load("outer", lambda: 2) == 2
        await cache.aclose()

    anyio.run(main, backend=library)


def test_what_a_loader_raises_on_a_thread_to_end_the_program_comes_to_its_caller():
    def load():
        sys.exit(3)

    async def main():
        cache = opened()
        with pytest.raises(SystemExit):
            await cache.get_or_load("k", load)
        assert await cache.get_or_load("k", lambda: 1) == 1
        await cache.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("failure", ["cancelled", "exit"])
def test_a_writer_that_meets_a_cancellation_or_ends_the_program_is_a_failed_try(failure, caplog):
    """A consumer goes on: what the writer meets is no end of the task that it runs in."""
    applied, calls = [], []

    async def save(row):
        calls.append(row.id)
        if len(calls) == 1:
            await cancelled() if failure == "cancelled" else sys.exit(3)
        applied.append(row.id)

    async def main():
        cache = opened()
        rows = cache.entity("row", Row, id="id", writer=save, strategy=WriteBehind(backoff_s=0.01))
        async with rows.queue.consumer():
            await rows.write(Row(1))
            await rows.write(Row(2))
            await eventually(lambda: sorted(applied) == [1, 2])
        await cache.aclose()

    asyncio.run(main())
    assert "the writer of the queue row failed with RuntimeError" in caplog.text


def test_a_writer_on_a_thread_that_ends_the_program_is_a_failed_try():
    applied, calls = [], []

    def save(row):
        calls.append(row.id)
        if len(calls) == 1:
            sys.exit(3)
        applied.append(row.id)

    with closing(BlockingCache.from_url("memory://", namespace="t")) as cache:
        rows = cache.entity("row", Row, id="id", writer=save, strategy=WriteBehind(backoff_s=0.01))
        with rows.queue.consumer():
            rows.write(Row(1))
            assert rows.queue.drain(20.0).queued == 0
    assert applied == [1]


def test_a_consumer_that_is_cancelled_ends():
    writing = []

    async def save(row):
        writing.append(row)
        await anyio.sleep_forever()

    async def main():
        cache = opened()
        rows = cache.entity("row", Row, id="id", writer=save, strategy=WriteBehind())
        await rows.write(Row(1))
        task = asyncio.create_task(rows.queue.run(LoopEvent()))
        await eventually(lambda: writing)
        task.cancel()
        with pytest.raises(CancelledError):
            await task
        await cache.aclose()

    asyncio.run(main())


async def closed_inside(cache):
    async with cache.lock("l"):
        await cache.aclose()
        raise LookupError


@LIBRARIES
def test_a_holder_whose_cache_was_closed_is_told_what_has_ended_its_block(library):
    async def main():
        cache = opened()
        with pytest.raises(LookupError):
            await closed_inside(cache)
        other = opened()
        with anyio.CancelScope() as scope:
            async with other.lock("l"):
                await other.aclose()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    anyio.run(main, backend=library)


def test_a_holder_on_a_thread_whose_cache_was_closed_is_told_what_has_ended_its_block():
    cache = BlockingCache.from_url("memory://", namespace="t")
    with pytest.raises(LookupError), cache.lock("l"):  # noqa: PT012
        cache.close()
        raise LookupError


def test_a_lock_whose_block_is_over_is_not_held():
    lost = []
    with closing(BlockingCache.from_url("memory://", namespace="t")) as cache:
        with cache.lock("l", on_lost=lambda: lost.append(1)) as lock:
            lock.check()
            assert not lock.is_lost
        assert lock.is_lost
        with pytest.raises(LockLostError, match="'l' was given back when its block ended"):
            lock.check()
    assert lost == []


def test_an_exit_in_a_task_of_a_refresh_ends_no_program(caplog):
    """It comes as a group, which trio takes for a fault of its own where a system task raises it."""
    calls = []

    async def load():
        calls.append(1)
        if len(calls) > 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
                sys.exit(3)
        return 1

    async def main():
        now_s = 0.0
        cache = opened(clock=lambda: now_s)
        policy = Policy(ttl=10, stale_for_s=600)
        assert await cache.get_or_load("k", load, policy=policy) == 1
        now_s = 100.0
        assert await cache.get_or_load("k", load, policy=policy) == 1
        await eventually(lambda: caplog.records)
        await cache.aclose()

    with caplog.at_level(logging.ERROR):
        trio.run(main)
    assert len(calls) == 2
    assert "a background task of the cache failed" in caplog.text


@LIBRARIES
def test_blocks_let_an_exception_through_that_refuses_to_be_changed(library):
    async def main():
        cache = opened()
        rows = cache.entity("row", Row, id="id", writer=print, strategy=WriteBehind())
        for make in (
            lambda: rows.mutate(1),
            lambda: rows.invalidating(1),
            lambda: rows.queue.consumer(drain_s=0),
            cache.lifespan,
            lambda: cache.lifespan(None),
        ):
            with pytest.raises(FrozenError):
                async with make():
                    raise FrozenError(1)
        await cache.aclose()
        blocking = BlockingCache.from_url("memory://", namespace="t")
        with pytest.raises(FrozenError):
            async with blocking.lifespan():
                raise FrozenError(1)
        blocking.close()

    anyio.run(main, backend=library)


@LIBRARIES
def test_who_has_waited_for_those_before_has_the_rest_of_the_time(library):
    """The time of an update is one for both: for its turn, and for others that are quicker."""
    given, now_s = [], [0.0]

    async def main():
        cache = opened(policy=Policy(ttl=60, wait_s=5.0), clock=lambda: now_s[0])
        update = cache._requests.update

        def noting(key, ttl, type, wait_s, amount=None):
            given.append(wait_s)
            return update(key, ttl, type, wait_s, amount)

        cache._requests.update = noting
        await cache.set("n", 0)
        may_go = anyio.Event()

        async def slow(number):
            await may_go.wait()
            return number + 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.update, "n", slow)
            await eventually(lambda: given)
            tasks.start_soon(cache.incr, "n")
            await anyio.wait_all_tasks_blocked()
            now_s[0] = 2.0
            may_go.set()
        assert given == [5.0, 3.0]
        await cache.aclose()

    anyio.run(main, backend=library)
