"""The work of `pairs.py`: one process, on whichever wheel its environment has. Only public names are used."""

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync

VALUE = {"id": 1, "name": "a name", "tags": ["a", "b", "c"], "text": "x" * 120}
BATCH = [f"b{number}" for number in range(100)]
FRESH = itertools.count()
TAGS = ("users",)
MANY = [f"i{number}" for number in range(20_000)]
IN_TURN = itertools.cycle(MANY)


def timed(operations: int, work: Callable[[], object]) -> float:
    """Microseconds of CPU for one operation, of all threads; the best of three."""
    best = float("inf")
    for _ in range(3):
        began_s = time.process_time()
        work()
        best = min(best, time.process_time() - began_s)
    return best / operations * 1e6


def load() -> Any:
    return VALUE


def load_many(keys: list[str]) -> Any:
    return dict.fromkeys(keys, VALUE)


async def load_here() -> Any:
    return VALUE


async def load_many_here(keys: list[str]) -> Any:
    return dict.fromkeys(keys, VALUE)


def on_threads(threads: int, calls: int, call: Callable[[], object]) -> None:
    """Run a call by several threads at once."""

    def work() -> None:
        for _ in range(calls):
            call()

    running = [threading.Thread(target=work) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()


def threads_cases(url: str, name: str) -> dict[str, Callable[[], float]]:
    cache = cache_sync.Cache.from_url(url, namespace=f"{name}{next(FRESH)}")
    cache.set("k", VALUE)
    cache.set_many(dict.fromkeys(BATCH, VALUE))

    def alone(count: int, call: Callable[[], object]) -> float:
        def work() -> None:
            for _ in range(count):
                call()

        return timed(count, work)

    def miss() -> object:
        return cache.get_or_load(f"m{next(FRESH)}", load)

    def many_missing() -> object:
        begin = next(FRESH)
        return cache.get_or_load_many([f"n{begin}:{each}" for each in range(100)], load_many)

    cases = {
        "get hit, 1": lambda: alone(3000, lambda: cache.get("k")),
        "get_or_load hit, 1": lambda: alone(3000, lambda: cache.get_or_load("k", load)),
        "tagged hit, 1": lambda: alone(2000, lambda: cache.get_or_load("t", load, tags=TAGS)),
        "hit with ttl=, 1": lambda: alone(2000, lambda: cache.get_or_load("k", load, ttl=300)),
        "get hit, 8": lambda: timed(4000, lambda: on_threads(8, 500, lambda: cache.get("k"))),
        "get hit, 32": lambda: timed(6400, lambda: on_threads(32, 200, lambda: cache.get("k"))),
        "miss, 1": lambda: alone(600, miss),
        "set, 1": lambda: alone(1000, lambda: cache.set("s", VALUE)),
        "get_many of 100": lambda: alone(150, lambda: cache.get_many(BATCH)),
        "get_or_load_many, 100 missing": lambda: alone(30, many_missing),
    }
    return {f"{name}: {case}": work for case, work in cases.items()}


def loop_cases(url: str, name: str, runner: Callable[[Callable[[], Awaitable[Any]]], Any]) -> dict[str, Any]:
    def case(
        tasks: int, calls: int, call: Callable[[Any], Awaitable[Any]], keys: Sequence[str] = BATCH
    ) -> Callable[[], float]:
        async def main() -> float:
            async with cache_anyio.Cache.from_url(url, namespace=f"{name}{next(FRESH)}") as cache:
                await cache.set("k", VALUE)
                for first in range(0, len(keys), 1000):
                    await cache.set_many(dict.fromkeys(keys[first : first + 1000], VALUE))
                best = float("inf")

                async def work() -> None:
                    for _ in range(calls):
                        await call(cache)

                for _ in range(3):
                    began_s = time.process_time()
                    if name == "trio":
                        async with trio.open_nursery() as nursery:
                            for _ in range(tasks):
                                nursery.start_soon(work)
                    else:
                        await asyncio.gather(*(work() for _ in range(tasks)))
                    best = min(best, time.process_time() - began_s)
                return best / (tasks * calls) * 1e6

        return lambda: runner(main)

    async def many_missing(cache: Any) -> Any:
        begin = next(FRESH)
        return await cache.get_or_load_many([f"n{begin}:{each}" for each in range(100)], load_many_here)

    cases = {
        "get hit, 1": case(1, 2000, lambda cache: cache.get("k")),
        "get hit, 50": case(50, 150, lambda cache: cache.get("k")),
        "get_or_load hit, 50": case(50, 150, lambda cache: cache.get_or_load("k", load_here)),
        "tagged hit, 50": case(50, 150, lambda cache: cache.get_or_load("t", load_here, tags=TAGS)),
        "hit with ttl=, 50": case(50, 150, lambda cache: cache.get_or_load("k", load_here, ttl=300)),
        "get hit of 20,000 keys in turn, 50": case(50, 400, lambda cache: cache.get(next(IN_TURN)), MANY),
        "get hit, 500": case(500, 15, lambda cache: cache.get("k")),
        "miss, 50": case(50, 20, lambda cache: cache.get_or_load(f"m{next(FRESH)}", load_here)),
        "set, 50": case(50, 30, lambda cache: cache.set("s", VALUE)),
        "get_many of 100": case(1, 150, lambda cache: cache.get_many(BATCH)),
        "get_or_load_many, 100 missing": case(1, 30, many_missing),
    }
    return {f"{name}: {each}": work for each, work in cases.items()}


def main() -> None:
    """Print the times of all cases as JSON."""
    url, wanted = sys.argv[1], sys.argv[2]
    cases = {
        **threads_cases(url, "threads"),
        **threads_cases("memory://", "memory"),
        **loop_cases(url, "asyncio", lambda main: asyncio.run(main())),
        **loop_cases(url, "trio", trio.run),
        **loop_cases("memory://", "asyncio-memory", lambda main: asyncio.run(main())),
    }
    print(json.dumps({case: work() for case, work in cases.items() if wanted in case}))


if __name__ == "__main__":
    main()
