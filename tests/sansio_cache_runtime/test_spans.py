"""Spans: subscribers are told that an operation begins and, in the same thread or task, that it ends."""

from contextlib import suppress
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from sansio_cache import Policy
from sansio_cache.notices import Began, Ended, Loaded, Missed, OperationName, Result, Stored
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.runtimes import runs, until

current: ContextVar[tuple] = ContextVar("current", default=())


class StopProgram(BaseException):
    """What no library may swallow."""


class Tracer:
    """What a subscriber for traces does: what has begun is current until it has ended."""

    def __init__(self, cache):
        self.began, self.ended, self.inside = {}, {}, {}
        cache.subscribe(self.hear, kinds=[Began, Ended])

    def hear(self, notice):
        if isinstance(notice, Began):
            assert notice.id not in self.began
            self.began[notice.id] = notice
            self.inside[notice.id] = current.get()
            current.set((*current.get(), notice.id))
        else:
            assert notice.id not in self.ended
            self.ended[notice.id] = notice
            current.set(current.get()[:-1])

    def told(self):
        """Operation, entity, count, result and the parent's operation, in the order of the begins."""
        assert set(self.began) == set(self.ended)
        for number, began in self.began.items():
            ended = self.ended[number]
            assert (began.operation, began.key, began.count, began.part) == (
                ended.operation,
                ended.key,
                ended.count,
                ended.part,
            )
            assert ended.took_s >= 0
            assert self.inside[number][-1:] == ((began.parent_id,) if began.parent_id else ())
        return [
            (
                began.operation.value,
                began.entity,
                began.count,
                self.ended[number].result.value,
                self.began[began.parent_id].operation.value if began.parent_id else None,
            )
            for number, began in self.began.items()
        ]


def loading(value):
    async def load():
        await anyio.lowlevel.checkpoint()
        return value

    return load


@runs(compare="store")
async def test_each_operation_begins_and_ends_once_with_what_came_of_it(world):
    cache = world.cache
    tracer = Tracer(cache)

    async def fail():
        raise LookupError

    async def many(keys):
        return dict.fromkeys(keys, 1)

    await cache.get("user:1")
    await cache.get_or_load("user:1", loading(1))
    await cache.get_or_load("user:1", loading(1))
    await cache.get("user:1")
    with pytest.raises(LookupError):
        await cache.get_or_load("user:2", fail)
    await cache.get_many(["user:1", "user:2"])
    await cache.get_or_load_many(["user:1", "user:3", "user:4"], many)
    await cache.set("top", 1)
    await cache.set_many({"top": 1, "low": 2})
    await cache.invalidate("user:1", tags=["t"])
    await cache.expire("user:3")
    await cache.delete_pattern("user:*")
    await cache.clear()
    await cache.add("lamp:1", 1)
    await cache.lookup("lamp:1")
    await cache.incr("lamp:1")

    assert tracer.told() == [
        ("get", "user", 1, "missing", None),
        ("get_or_load", "user", 1, "loaded", None),
        ("get_or_load", "user", 1, "hit", None),
        ("get", "user", 1, "hit", None),
        ("get_or_load", "user", 1, "failed", None),
        ("get_many", "user", 2, "partial", None),
        ("get_or_load_many", "user", 3, "loaded", None),
        ("set", "top", 1, "stored", None),
        ("set_many", "top", 2, "stored", None),
        ("invalidate", "user", 2, "done", None),
        ("expire", "user", 1, "done", None),
        ("delete_pattern", "user", 0, "done", None),
        ("delete_pattern", "*", 0, "done", None),
        ("add", "lamp", 1, "stored", None),
        ("lookup", "lamp", 1, "hit", None),
        ("update", "lamp", 1, "stored", None),
    ]
    world.take_log()


INSIDE = [
    ("get_or_load", "outer", 1, "loaded", None),
    ("get", "inner", 1, "missing", "get_or_load"),
    ("get_or_load", "inner", 1, "loaded", "get_or_load"),
    ("mutate", "outer", 2, "done", None),
    ("get", "inner", 1, "hit", "mutate"),
    ("mutate", "inner", 1, "done", "mutate"),
    ("get", "outer", 1, "hit", None),
]
"""What is told of the calls in loaders and blocks of the next tests."""


def test_what_a_loader_and_the_block_of_a_mutation_do_is_inside():
    with cache_sync.Cache.from_url("memory://", namespace="spans") as cache:
        tracer = Tracer(cache)

        def outer():
            cache.get("inner:1")
            return cache.get_or_load("inner:1", lambda: 2)

        cache.get_or_load("outer:1", outer)
        with suppress(LookupError), cache.mutate("outer:1", "outer:2"):
            cache.get("inner:1")
            with cache.mutate("inner:1"):
                raise LookupError
        cache.set("outer:1", 1)
        cache.get("outer:1")
    assert [each for each in tracer.told() if each[0] != "set"] == INSIDE


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_loader_and_the_block_of_a_mutation_do_is_inside_on_an_event_loop(backend):
    async def main():
        async with cache_anyio.Cache.from_url("memory://", namespace="spans") as cache:
            tracer = Tracer(cache)

            async def outer():
                await cache.get("inner:1")
                return await cache.get_or_load("inner:1", loading(2))

            await cache.get_or_load("outer:1", outer)
            with suppress(LookupError):
                async with cache.mutate("outer:1", "outer:2"):
                    await cache.get("inner:1")
                    async with cache.mutate("inner:1"):
                        raise LookupError
            await cache.set("outer:1", 1)
            await cache.get("outer:1")
        return tracer.told()

    assert [each for each in anyio.run(main, backend=backend) if each[0] != "set"] == INSIDE


@runs(compare="store")
async def test_a_mutation_ends_once_wherever_its_block_is_left(world):
    """Its two ends may be in different threads, as they are here for the cache for threads."""
    tracer = Tracer(world.cache)
    async with world.cache.mutate("a") as mutation:
        mutation.set("a", 1)
    with pytest.raises(LookupError):
        async with world.cache.mutate("b"):
            raise LookupError
    assert [each[:4] for each in tracer.told()] == [("mutate", "a", 1, "done"), ("mutate", "b", 1, "done")]


@runs(compare="store")
async def test_an_interrupted_operation_has_ended_and_is_not_counted(world):
    tracer = Tracer(world.cache)

    async def stop():
        raise StopProgram

    with pytest.raises(StopProgram):
        await world.cache.get_or_load("a", stop)
    await world.cache.get("a")

    assert [told[0::3] for told in tracer.told()] == [("get_or_load", "abandoned"), ("get", "missing")]
    assert OperationName.GET_OR_LOAD not in world.cache.stats().latency


@runs(compare="store")
async def test_a_subscriber_that_ends_the_program_as_an_operation_begins_hears_of_its_end(world):
    tracer = Tracer(world.cache)

    def stop(notice):
        unsubscribe()
        raise StopProgram

    unsubscribe = world.cache.subscribe(stop, kinds=Began)
    with pytest.raises(StopProgram):
        await world.cache.get("a")
    assert await world.cache.get("a") is None
    assert [told[0::3] for told in tracer.told()] == [("get", "abandoned"), ("get", "missing")]


@runs(compare="store")
async def test_a_refresh_names_the_operation_that_has_begun_it(world):
    cache, policy = world.cache, Policy(ttl=60, stale_for_s=60)
    await cache.get_or_load("user:1", loading(1), policy=policy)
    await cache.expire("user:1")
    tracer = Tracer(cache)

    assert await cache.get_or_load("user:1", loading(2), policy=policy) == 1
    await until(lambda: len(tracer.ended) == 2)

    assert tracer.told() == [
        ("get_or_load", "user", 1, "stale", None),
        ("refresh", "user", 1, "loaded", None),
    ]
    reader, refresh = tracer.began.values()
    assert (reader.cause_id, refresh.cause_id) == (0, reader.id)
    assert OperationName.REFRESH not in cache.stats().latency


def test_what_begins_is_told_first_and_what_ends_last():
    heard = []
    with cache_sync.Cache.from_url("memory://", namespace="spans") as cache:
        cache.subscribe(heard.append)
        cache.get_or_load("user:1", lambda: 1)
    assert [type(notice) for notice in heard] == [Began, Missed, Loaded, Stored, Ended]
    assert heard[3].size_bytes > 0


def test_who_subscribes_in_the_middle_of_an_operation_hears_its_end_alone():
    heard = []
    with cache_sync.Cache.from_url("memory://", namespace="spans") as cache:
        cache.get_or_load("user:1", lambda: cache.subscribe(heard.append) and 1)
        assert isinstance(heard[-1], Ended)
        assert heard[-1].id == 0
        assert heard[-1].result is None
        cache.get("user:1")
        assert heard[-1].result is Result.HIT


def test_the_primitives_begin_and_end_as_well():
    with cache_sync.Cache.from_url("memory://", namespace="spans") as cache:
        tracer = Tracer(cache)
        cache.add("a:1", 1)
        cache.add("a:1", 1)
        cache.swap("a:1", 2, version=cache.lookup("a:1").version)
        cache.update("a:1", lambda value: value + 1)
        with cache.lock("night", lease_s=5):
            pass
        assert len(list(cache.scan("*"))) == 1
    assert [each[0::3] for each in tracer.told()] == [
        ("add", "stored"),
        ("add", "refused"),
        ("lookup", "hit"),
        ("swap", "stored"),
        ("update", "stored"),
        ("lock", "done"),
        ("scan", "done"),
    ]
