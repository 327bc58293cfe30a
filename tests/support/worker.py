"""A process of its own that uses a cache, for tests with several of them; run as a script.

It reads one JSON object a line from stdin, and answers each with one line on stdout:

- `stampede`: so many callers, who begin when all callers of all processes have arrived, get or load one key.
  The loader is counted at the server, and ends when all callers have begun.
- `hold`: load one key; says `loading` when the loader is called, which then waits for a line on stdin.
- `mutate`: begin to write one key; says `writing` inside the block, which then waits for a line on stdin.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anyio
import redis

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from sansio_cache import Policy

PATIENT = {"attempt_timeout_s": 10.0, "operation_timeout_s": 20.0}
GIVE_UP_S = 30.0


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


def carry_out(order: dict[str, Any]) -> Any:
    """Do what one line asks for."""
    runtime = order["runtime"]
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
