"""A process of its own that uses a cache, for tests with several of them; run as a script.

It reads one JSON object a line from stdin, and answers each with one line on stdout:

- `stampede`: so many callers, who begin when all callers of all processes have arrived, get or load one key.
  The loader is counted at the server, and ends when all callers have begun.
- `hold`: load one key; says `loading` when the loader is called, which then waits for a line on stdin.
- `mutate`: begin to write one key; says `writing` inside the block, which then waits for a line on stdin.
- `batches`: in each of so many runs, when all processes have come to it, get or load a random batch of keys.
- `refreshing`: read one key over and over, and refresh it, until it is told at the server to stop.
- `hold refresh`: read a stale value; its refresh says `loading` and waits for a line on stdin.
- `session`: be one version of a program, and do one operation for each line on stdin until `end`.
- `primitives`: count, append, add and lock beside the others, and tell what came of each.
- `traced`: load one key, with traces; says `loading` in the loader, which then waits for a line on stdin.
- `mixed`: be one version of a program, and do random operations beside the others.
"""

import json
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import attrs
import redis

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from sansio_cache import Policy
from sansio_cache.loader import LoadContext

PATIENT = {"attempt_timeout_s": 10.0, "operation_timeout_s": 20.0}
GIVE_UP_S = 30.0
LOCK_LEASE_S = 60.0  # what a machine that stands still for a while does not lose


def say(message: Any) -> None:
    """Answer with one line."""
    print(json.dumps(message), flush=True)


def until(condition: Callable[[], bool]) -> Iterator[None]:
    """Yield, for the caller to sleep, until the condition holds."""
    deadline_s = time.monotonic() + GIVE_UP_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the other callers did not come")
        yield


class Meeting:
    """Where the callers of all processes meet: counters at the server, under keys of no cache."""

    def __init__(self, raw: redis.Redis, order: dict[str, Any]) -> None:
        self._raw = raw
        self._prefix = f"meeting:{order['namespace']}:{order['key']}"
        self._everybody = order["everybody"]

    def count(self, what: str) -> None:
        """One more of that."""
        self._raw.incr(f"{self._prefix}:{what}")

    def is_full(self, what: str) -> bool:
        """Whether everybody has been counted."""
        return int(self._raw.get(f"{self._prefix}:{what}") or 0) >= self._everybody


def stampede_of_threads(order: dict[str, Any], meeting: Meeting) -> list[Any]:
    answers: list[Any] = []

    def load() -> str:
        meeting.count("loads")
        for _ in until(lambda: meeting.is_full("begun")):
            time.sleep(0.005)
        return order["value"]

    def call() -> None:
        meeting.count("arrived")
        for _ in until(lambda: meeting.is_full("arrived")):
            time.sleep(0.005)
        meeting.count("begun")
        answers.append(cache.get_or_load(order["key"], load))

    with sansio_cache_redis.sync.Cache.from_url(
        order["url"], namespace=order["namespace"], **PATIENT
    ) as cache:
        threads = [threading.Thread(target=call) for _ in range(order["callers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return answers


async def stampede_of_tasks(order: dict[str, Any], meeting: Meeting) -> list[Any]:
    answers: list[Any] = []

    async def load() -> str:
        meeting.count("loads")
        for _ in until(lambda: meeting.is_full("begun")):
            await anyio.sleep(0.005)
        return order["value"]

    async def call() -> None:
        meeting.count("arrived")
        for _ in until(lambda: meeting.is_full("arrived")):
            await anyio.sleep(0.005)
        meeting.count("begun")
        answers.append(await cache.get_or_load(order["key"], load))

    async with (
        sansio_cache_redis.anyio.Cache.from_url(
            order["url"], namespace=order["namespace"], **PATIENT
        ) as cache,
        anyio.create_task_group() as group,
    ):
        for _ in range(order["callers"]):
            group.start_soon(call)
    return answers


def wait_for_a_line(message: str, value: Any = None) -> Any:
    say(message)
    sys.stdin.readline()
    return value


def options(order: dict[str, Any]) -> dict[str, Any]:
    policy = Policy(lease_s=order["lease_s"], max_lease_s=60.0)
    return {"namespace": order["namespace"], "policy": policy, **PATIENT}


def hold_in_a_thread(order: dict[str, Any]) -> dict[str, Any]:
    with sansio_cache_redis.sync.Cache.from_url(order["url"], **options(order)) as cache:
        if order["do"] == "mutate":
            with cache.mutate(order["key"]):
                wait_for_a_line("writing")
            return {}
        answer = cache.get_or_load(order["key"], lambda: wait_for_a_line("loading", order["value"]))
        return {"answer": answer, "lost_leases": cache.stats().lost_leases}


async def hold_in_a_task(order: dict[str, Any]) -> dict[str, Any]:
    async with sansio_cache_redis.anyio.Cache.from_url(order["url"], **options(order)) as cache:
        if order["do"] == "mutate":
            async with cache.mutate(order["key"]):
                await anyio.to_thread.run_sync(wait_for_a_line, "writing")
            return {}
        answer = await cache.get_or_load(order["key"], lambda: wait_for_a_line("loading", order["value"]))
        return {"answer": answer, "lost_leases": cache.stats().lost_leases}


# What follows is written once: it awaits the methods of either cache, those of the blocking one on threads.


class Called:
    """A cache whose methods are awaited. Loaders are plain functions, which both caches take."""

    def __init__(self, cache: Any, *, is_sync: bool) -> None:
        self._cache = cache
        self._is_sync = is_sync

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._cache, name)
        if not self._is_sync:
            return method
        return lambda *args, **named: anyio.to_thread.run_sync(partial(method, *args, **named))

    async def write(self, key: str, commit: Callable[[], Any], type: type) -> None:
        """Commit inside a mutation, and store what was committed."""
        if self._is_sync:
            await anyio.to_thread.run_sync(self._write, key, commit, type)
            return
        async with self._cache.mutate(key) as mutation:
            mutation.set(key, commit(), type=type)

    def _write(self, key: str, commit: Callable[[], Any], type: type) -> None:
        with self._cache.mutate(key) as mutation:
            mutation.set(key, commit(), type=type)

    async def inside(self, name: str, work: Callable[[Any], Any]) -> None:
        """Call a function with a lock that is held meanwhile."""
        if self._is_sync:
            await anyio.to_thread.run_sync(self._inside, name, work)
            return
        async with self._cache.lock(name, LOCK_LEASE_S) as lock:
            work(lock)

    def _inside(self, name: str, work: Callable[[Any], Any]) -> None:
        with self._cache.lock(name, LOCK_LEASE_S) as lock:
            work(lock)

    @property
    def cache(self) -> Any:
        return self._cache

    @property
    def stats(self) -> Any:
        return self._cache.stats()


@asynccontextmanager
async def opened(order: dict[str, Any], **more: Any) -> AsyncIterator[Called]:
    """The cache of an order's runtime, closed at the end."""
    named = {"namespace": order["namespace"], "policy": Policy(**order["policy"]), **PATIENT, **more}
    if order["runtime"] == "sync":
        sync_cache = sansio_cache_redis.sync.Cache.from_url(order["url"], **named)
        try:
            yield Called(sync_cache, is_sync=True)
        finally:
            await anyio.to_thread.run_sync(sync_cache.close)
        return
    async with sansio_cache_redis.anyio.Cache.from_url(order["url"], **named) as cache:
        yield Called(cache, is_sync=False)


async def batches(order: dict[str, Any], raw: redis.Redis) -> dict[str, Any]:
    prefix = f"meeting:{order['namespace']}"
    asked_of_loader: list[int] = []

    async with opened(order, chunk_keys=order["chunk"]) as cache:
        for run in range(order["runs"]):
            draw = random.Random(f"{order['seed']}:{run}:{order['number']}")
            keys = [f"r{run}:k{n}" for n in draw.sample(range(24), draw.randint(4, 24))]
            pause_s = draw.random() * 0.004

            def load(missing: list[str], pause_s: float = pause_s) -> dict[str, str]:
                asked_of_loader.append(len(missing))
                with raw.pipeline(transaction=False) as counting:
                    for key in missing:
                        counting.hincrby(f"{prefix}:loads", key, 1)
                    counting.execute()
                time.sleep(pause_s)
                return {key: key.upper() for key in missing}

            raw.incr(f"{prefix}:run:{run}")
            for _ in until(lambda run=run: int(raw.get(f"{prefix}:run:{run}") or 0) >= order["everybody"]):
                await anyio.sleep(0.001)
            found = await cache.get_or_load_many(keys, load)
            if found != {key: key.upper() for key in keys}:
                return {"wrong": found, "run": run}
        return {"loads": asked_of_loader, "lost": cache.stats.lost_leases}


async def refreshing(order: dict[str, Any], raw: redis.Redis) -> dict[str, Any]:
    prefix = f"meeting:{order['namespace']}"
    readers = [f"{prefix}:reads:{number}" for number in range(order["everybody"])]

    def reads() -> list[int]:
        return [int(each or 0) for each in raw.mget(readers)]

    def load() -> int:
        if int(raw.incr(f"{prefix}:active")) > 1:
            raw.incr(f"{prefix}:overlaps")
        number = int(raw.incr(f"{prefix}:loads"))
        before = reads()
        # Every process reads on while this one loads: whoever waited for it would make it fail.
        for _ in until(
            lambda: (
                all(now >= then + 3 for now, then in zip(reads(), before, strict=True))
                or bool(raw.exists(f"{prefix}:stop"))
            )
        ):
            time.sleep(0.002)
        raw.decr(f"{prefix}:active")
        return number

    async with opened(order) as cache:
        seen: list[int] = []
        while not raw.exists(f"{prefix}:stop"):
            value = await cache.get_or_load("k", load)
            raw.incr(readers[order["number"]])
            if not seen or seen[-1] != value:
                seen.append(value)
    # Of the closed cache: what was under way has ended, or will not begin.
    stats = cache.stats
    return {
        "seen": seen,
        "waits": stats.waits,
        "misses": stats.redis_misses,
        "refreshes": stats.refreshes,
        "stored": stats.stored,
        "failures": stats.refresh_failures,
    }


async def hold_refresh(order: dict[str, Any], _: redis.Redis) -> Any:
    has_ended = threading.Event()

    def load() -> Any:
        try:
            return wait_for_a_line("loading", order["value"])
        finally:
            has_ended.set()

    async with opened(order) as cache:
        answer = await cache.get_or_load(order["key"], load)
        await anyio.to_thread.run_sync(has_ended.wait)
        return answer


@attrs.frozen
class Former:
    """What the older version of the program keeps."""

    full_name: str
    n: int


@attrs.frozen
class Current:
    """What the newer version keeps: a field renamed, one added, one of another type."""

    name: str
    n: int
    emails: list[str] = attrs.field(factory=list)


VERSIONS: dict[str, Any] = {"former": Former, "current": Current}


async def session(order: dict[str, Any], _: redis.Redis) -> Any:
    kind = VERSIONS[order["version"]]
    loads = 0

    async with opened(order) as cache:
        say("open")
        while (line := json.loads(await anyio.to_thread.run_sync(sys.stdin.readline)))["op"] != "end":
            key = line.get("key")
            value = kind(f"name of {key}", line.get("n", 0))
            answer: Any = None

            def load(context: LoadContext, value: Any = value) -> Any:
                nonlocal loads
                loads += 1
                return value

            match line["op"]:
                case "get":
                    answer = await cache.get(key, type=kind)
                case "get_many":
                    answer = (await cache.get_many([key], type=kind)).get(key)
                case "load":
                    answer = await cache.get_or_load(key, load, type=kind)
                case "set":
                    await cache.set(key, value, type=kind)
                case "invalidate":
                    await cache.invalidate(key)
                case "expire":
                    await cache.expire(key)
            is_whole = answer is None or answer == kind(f"name of {key}", answer.n)
            say({"n": None if answer is None else answer.n, "is_whole": is_whole, "loads": loads})
        return cache.stats.variants_stored


async def mixed(order: dict[str, Any], raw: redis.Redis) -> Any:
    kind = VERSIONS[order["version"]]
    prefix = f"meeting:{order['namespace']}"
    draw = random.Random(f"{order['seed']}:{order['number']}")
    completed = raw.register_script(
        "if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or 0) then"
        " redis.call('SET', KEYS[1], ARGV[1]) end"
    )
    problems: list[str] = []

    async with opened(order) as cache:
        for _ in range(order["steps"]):
            key = f"k{draw.randrange(5)}"
            floor = int(raw.get(f"{prefix}:done:{key}") or 0)

            def load(key: str = key) -> Any:
                raw.hincrby(f"{prefix}:loads:{order['version']}", key, 1)
                return kind(f"name of {key}", int(raw.get(f"{prefix}:db:{key}") or 0))

            def commit(key: str = key) -> Any:
                raw.hincrby(f"{prefix}:writes", key, 1)
                return kind(f"name of {key}", int(raw.incr(f"{prefix}:db:{key}")))

            match draw.choice(["get", "get", "load", "load", "load", "invalidate", "mutate"]):
                case "get":
                    value = await cache.get(key, type=kind)
                case "load":
                    value = await cache.get_or_load(key, load, type=kind)
                case "invalidate":
                    value = None
                    written = commit()
                    await cache.invalidate(key)
                    completed(keys=[f"{prefix}:done:{key}"], args=[written.n])
                case _:
                    value = None
                    kept: list[Any] = []
                    await cache.write(
                        key, lambda kept=kept, commit=commit: kept.append(commit()) or kept[0], kind
                    )
                    completed(keys=[f"{prefix}:done:{key}"], args=[kept[0].n])
            if value is not None and (value.n < floor or value != kind(f"name of {key}", value.n)):
                problems.append(f"{key}: {value} after {floor} was written")
        return {"problems": problems, "hits": cache.stats.redis_hits, "beside": cache.stats.variants_stored}


async def primitives(order: dict[str, Any], raw: redis.Redis) -> dict[str, Any]:
    prefix = f"meeting:{order['namespace']}"
    number = order["number"]
    counted: list[tuple[int, float]] = []
    seen: list[tuple[int, float]] = []
    added: list[str] = []

    def work(lock: Any) -> None:
        """What must not be done by two: it reads, and writes what follows, in two steps."""
        lock.check()
        before = int(raw.get(f"{prefix}:guarded") or 0)
        raw.rpush(f"{prefix}:tokens", lock.token)
        raw.set(f"{prefix}:guarded", before + 1)

    async def swap(mine: str) -> None:
        while True:
            found = await cache.lookup("swapped")
            if await cache.swap("swapped", [*found.value, mine], version=found.version):
                return
            await anyio.sleep(random.random() * 0.01)

    async def call(caller: int) -> None:
        for turn in range(order["turns"]):
            mine = f"{number}:{caller}:{turn}"
            value = await cache.incr("counted")
            counted.append((value, time.monotonic()))
            began_s = time.monotonic()
            seen.append(((await cache.lookup("counted")).value, began_s))
            await cache.update("updated", lambda them, mine=mine: [*them, mine])
            await swap(mine)
            if await cache.add(f"added:{caller}:{turn}", number):
                added.append(f"added:{caller}:{turn}")
            await cache.touch("counted", 7200)
            await cache.inside("gate", work)

    async with opened(order) as cache:
        raw.incr(f"{prefix}:arrived")
        for _ in until(lambda: int(raw.get(f"{prefix}:arrived") or 0) >= order["everybody"]):
            await anyio.sleep(0.005)
        async with anyio.create_task_group() as callers:
            for caller in range(order["callers"]):
                callers.start_soon(call, caller)
    return {"counted": counted, "seen": seen, "added": added}


async def traced(order: dict[str, Any], _: redis.Redis) -> list[dict[str, Any]]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from sansio_cache_opentelemetry import instrument

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("program")

    def load() -> Any:
        with tracer.start_as_current_span("query"):
            return wait_for_a_line("loading", order["value"])

    async with opened(order) as cache:
        instrument(cache.cache, metrics=False, tracer_provider=provider)
        with tracer.start_as_current_span("request"):
            await cache.get_or_load(order["key"], load)
    return [
        {
            "name": span.name,
            "trace": span.context.trace_id,
            "id": span.context.span_id,
            "parent": span.parent and span.parent.span_id,
            "attributes": dict(span.attributes or {}),
        }
        for span in exporter.get_finished_spans()
    ]


SCENES: dict[str, Callable[[dict[str, Any], redis.Redis], Awaitable[Any]]] = {
    "batches": batches,
    "refreshing": refreshing,
    "hold refresh": hold_refresh,
    "session": session,
    "mixed": mixed,
    "primitives": primitives,
    "traced": traced,
}


def carry_out(order: dict[str, Any]) -> Any:
    """Do what one line asks for."""
    runtime = order["runtime"]
    if (scene := SCENES.get(order["do"])) is not None:
        with closing(redis.Redis.from_url(order["url"])) as raw:
            backend = "trio" if runtime == "trio" else "asyncio"
            return anyio.run(scene, order, raw, backend=backend)
    if order["do"] == "stampede":
        with closing(redis.Redis.from_url(order["url"])) as raw:
            meeting = Meeting(raw, order)
            if runtime == "sync":
                return stampede_of_threads(order, meeting)
            return anyio.run(stampede_of_tasks, order, meeting, backend=runtime)
    if runtime == "sync":
        return hold_in_a_thread(order)
    return anyio.run(hold_in_a_task, order, backend=runtime)


if __name__ == "__main__":
    say("ready")
    while line := sys.stdin.readline():
        say(carry_out(json.loads(line)))
