"""The process that is measured: it has the callers. Run as `python -P -m latency.worker`.

For each line of JSON on stdin it opens a cache, says `ready`, waits for a line, measures, says what it has
measured, waits for a line, says how long it took until values were stored and found again, and closes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import attrs

import sansio_cache_redis.anyio
import sansio_cache_redis.sync

KEYS = 50
GIVE_UP_S = 10.0
REST_S = 0.001
LARGE = "x" * 4_000_000
VALUE = "v" * 200


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


@attrs.define
class Measured:
    """What the calls took."""

    seconds: list[float] = attrs.field(factory=list)
    first_s: float | None = None
    hits: int = 0
    errors: dict[str, int] = attrs.field(factory=dict)

    def note(self, took_s: float, is_hit: bool, error: BaseException | None) -> None:
        if self.first_s is None:
            self.first_s = took_s
        self.seconds.append(took_s)
        self.hits += is_hit
        if error is not None:
            said = f"{type(error).__name__}: {error}"[:80]
            self.errors[said] = self.errors.get(said, 0) + 1

    def as_dict(self, unfinished: int) -> dict[str, Any]:
        found = sorted(self.seconds) or [0.0]
        return {
            "calls": len(self.seconds),
            "first": self.first_s,
            "p50": found[len(found) // 2],
            "p99": found[min(len(found) - 1, len(found) * 99 // 100)],
            "max": found[-1],
            "hits": self.hits,
            "errors": self.errors,
            "unfinished": unfinished,
        }


class Blocking:
    """The calls on threads. Each says whether the store has answered with a value, or was told."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def get(self, key: str) -> bool:
        return self.cache.get(key) is not None

    def get_or_load(self, key: str) -> bool:
        loads: list[None] = []
        self.cache.get_or_load(key, lambda: loads.append(None) or VALUE)
        return not loads

    def invalidate(self, key: str) -> bool:
        return bool(self.cache.invalidate(f"i{key}").done)

    def mutate(self, key: str) -> bool:
        with self.cache.mutate(f"m{key}") as mutation:
            mutation.set(f"m{key}", VALUE)
        return True

    def round_trip(self) -> bool:
        return bool(self.cache.set("round", VALUE)) and self.cache.get("round") == VALUE


class Awaiting:
    """The same in an event loop."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    async def get(self, key: str) -> bool:
        return await self.cache.get(key) is not None

    async def get_or_load(self, key: str) -> bool:
        loads: list[None] = []

        async def load() -> str:
            loads.append(None)
            return VALUE

        await self.cache.get_or_load(key, load)
        return not loads

    async def invalidate(self, key: str) -> bool:
        return bool((await self.cache.invalidate(f"i{key}")).done)

    async def mutate(self, key: str) -> bool:
        async with self.cache.mutate(f"m{key}") as mutation:
            mutation.set(f"m{key}", VALUE)
        return True

    async def round_trip(self) -> bool:
        return bool(await self.cache.set("round", VALUE)) and await self.cache.get("round") == VALUE


def options_of(order: dict[str, Any]) -> dict[str, Any]:
    return {"namespace": order["namespace"], **order["options"]}


def warm_values() -> dict[str, str]:
    return {f"k{number}": VALUE for number in range(KEYS)}


def rest_of(order: dict[str, Any], began_s: float, draw: random.Random) -> float:
    return max(0.0, began_s + order["pause_s"] * draw.uniform(0.5, 1.5) - time.monotonic())


def recover(ask: Callable[[], bool], began_s: float) -> float | None:
    while not ask():
        if time.monotonic() - began_s > GIVE_UP_S:
            return None
        time.sleep(0.005)
    return time.monotonic() - began_s


def on_threads(order: dict[str, Any]) -> None:
    cache = sansio_cache_redis.sync.Cache.from_url(order["url"], **options_of(order))
    calls = Blocking(cache)
    if order["is_warm"]:
        cache.set_many(warm_values())
        if order["has_large_value"]:
            cache.set("large", LARGE)
    measured, lock = Measured(), threading.Lock()
    call = getattr(calls, order["op"])
    say("ready")
    sys.stdin.readline()
    end_s = time.monotonic() + order["seconds"]

    def caller(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end_s:
            began_s, error, is_hit = time.monotonic(), None, False
            try:
                is_hit = call(f"k{draw.randrange(KEYS)}")
            except Exception as raised:
                error = raised
            took_s = time.monotonic() - began_s
            with lock:
                measured.note(took_s, is_hit, error)
            time.sleep(rest_of(order, began_s, draw))

    def reader() -> None:
        while time.monotonic() < end_s:
            cache.get("large")
            time.sleep(REST_S)  # in an outage it would be told at once, and leave the others no turn

    threads = [
        threading.Thread(target=caller, args=(number,), daemon=True) for number in range(order["callers"])
    ]
    if order["has_large_value"]:
        threads.append(threading.Thread(target=reader, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end_s + GIVE_UP_S - time.monotonic()))
    unfinished = sum(thread.is_alive() for thread in threads)
    say(measured.as_dict(unfinished))
    sys.stdin.readline()
    say(recover(calls.round_trip, time.monotonic()))
    cache.close()
    if unfinished:
        os._exit(1)


async def in_a_loop(order: dict[str, Any]) -> None:
    cache = sansio_cache_redis.anyio.Cache.from_url(order["url"], **options_of(order))
    calls = Awaiting(cache)
    if order["is_warm"]:
        await cache.set_many(warm_values())
        if order["has_large_value"]:
            await cache.set("large", LARGE)
    measured = Measured()
    call: Callable[[str], Awaitable[bool]] = getattr(calls, order["op"])
    say("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    end_s = time.monotonic() + order["seconds"]
    running = 0

    async def caller(number: int) -> None:
        nonlocal running
        running += 1
        draw = random.Random(number)
        while time.monotonic() < end_s:
            began_s, error, is_hit = time.monotonic(), None, False
            try:
                is_hit = await call(f"k{draw.randrange(KEYS)}")
            except Exception as raised:
                error = raised
            measured.note(time.monotonic() - began_s, is_hit, error)
            await anyio.sleep(rest_of(order, began_s, draw))
        running -= 1

    async def reader() -> None:
        while time.monotonic() < end_s:
            await cache.get("large")
            await anyio.sleep(REST_S)

    with anyio.move_on_after(order["seconds"] + GIVE_UP_S):
        async with anyio.create_task_group() as group:
            for number in range(order["callers"]):
                group.start_soon(caller, number)
            if order["has_large_value"]:
                group.start_soon(reader)
    say(measured.as_dict(running))
    await anyio.to_thread.run_sync(sys.stdin.readline)
    began_s = time.monotonic()
    found: float | None = None
    while found is None and time.monotonic() - began_s < GIVE_UP_S:
        if await calls.round_trip():
            found = time.monotonic() - began_s
        await anyio.sleep(0.005)
    say(found)
    await cache.aclose()


def main() -> None:
    logging.disable()
    while line := sys.stdin.readline():
        order = json.loads(line)
        if order["runtime"] == "sync":
            on_threads(order)
        else:
            anyio.run(in_a_loop, order, backend=order["runtime"])
        say("closed")


if __name__ == "__main__":
    main()
