"""Deletion by pattern among very many keys while others are added, and the server's latency meanwhile."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sansio_cache_redis.sync import Cache
from support.faulty import PATIENT, on_every_runtime, opened, run_on
from support.servers import Server

THERE = 200_000
ADDED = 20_000
ADDED_AT_A_TIME = 50
MOST_BEHIND = 5
THRESHOLD_MS = 1

# Written at the server, as it takes a client some time to send so many commands.
POPULATE = """
for number = ARGV[1], ARGV[2] do redis.call('SET', KEYS[1] .. number, ARGV[3], 'PX', 600000) end
"""
COUNT_OLD = """
local left = 0
for number = ARGV[1], ARGV[2] do left = left + redis.call('EXISTS', KEYS[1] .. number) end
return left
"""


@pytest.fixture
def client(fresh_server: Server) -> redis.Redis:
    client = fresh_server.client()
    client.config_set("latency-monitor-threshold", THRESHOLD_MS)
    return client


def chunks(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, 10_000):
        yield first, min(first + 10_000, count) - 1


class Adder:
    """Adds keys that match the pattern from a thread of its own, some for each page of the deletion.

    The two go on together, whatever the machine does: neither is ever more than some pages ahead.
    """

    def __init__(self, client: redis.Redis, prefix: str, count: int) -> None:
        self.added = 0
        self.added_by_the_end = 0
        self._client = client
        self._prefix = prefix
        self._count = count
        self._pages = threading.Semaphore(0)
        self._room = threading.Semaphore(MOST_BEHIND)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)

    def progress(self, _: int) -> None:
        """A page is done with."""
        if not self._room.acquire(timeout=30):
            raise TimeoutError("nobody adds any more")
        self._pages.release()

    def __enter__(self) -> "Adder":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.added_by_the_end = self.added
        self._is_over = True
        self._pages.release()
        self._thread.join()

    def _run(self) -> None:
        self._add()  # some of them before the first page
        while True:
            self._pages.acquire()
            if self._is_over:
                return
            if self.added < self._count:
                self._add()
            self._room.release()

    def _add(self) -> None:
        with self._client.pipeline(transaction=False) as adding:
            for number in range(self.added, self.added + ADDED_AT_A_TIME):
                adding.set(f"{self._prefix}new:{number}", b"new", px=600_000)
            adding.execute()
        self.added += ADDED_AT_A_TIME


def latency_of(client: redis.Redis) -> list[str]:
    """What the server's latency monitor has seen, a line for each kind of event."""
    lines = []
    for name, _, latest_ms, longest_ms, *_ in client.execute_command("LATENCY", "LATEST"):
        history: Any = client.execute_command("LATENCY", "HISTORY", name)
        spikes = [spike_ms for _, spike_ms in history]
        lines.append(
            f"{name.decode()}: latest {latest_ms} ms, longest {longest_ms} ms, "
            f"{len(spikes)} seconds with one over {THRESHOLD_MS} ms: {spikes[-20:]}"
        )
    return lines or [f"nothing took longer than {THRESHOLD_MS} ms"]


@on_every_runtime
def test_a_deletion_by_pattern_removes_all_that_were_there_while_others_are_added(
    runtime: str,
    fresh_server: Server,
    client: redis.Redis,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S11: SCAN is no barrier for what is added meanwhile, and finds all that was there all the time."""
    prefix = f"{namespace}:user:"
    for first, last in chunks(THERE):
        client.eval(POPULATE, 1, prefix, first, last, b"old")
    client.set(f"{namespace}:users", b"kept")
    client.set(f"{namespace}x:user:1", b"kept")
    client.set(f"{namespace}:%t:user:1", b"kept")
    client.execute_command("LATENCY", "RESET")
    took_s = 0.0

    async def main() -> Any:
        nonlocal took_s
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            await cache.wait_ready()
            began_s = time.monotonic()
            result = await cache.delete_pattern("user:*", progress=adder.progress)
            took_s = time.monotonic() - began_s
            return result

    with Adder(client, prefix, ADDED) as adder:
        result = run_on(runtime, main)

    with capsys.disabled():
        print(f"\n  {runtime}: {THERE} keys, and {adder.added_by_the_end} that were added meanwhile:")
        print(f"    {result.deleted} were removed in {took_s:.1f} s")
        for line in latency_of(client):
            print(f"    {line}")
    assert result.complete
    old_ones_left: list[Any] = [client.eval(COUNT_OLD, 1, prefix, *each) for each in chunks(THERE)]
    assert sum(old_ones_left) == 0
    assert THERE <= result.deleted <= THERE + adder.added
    left = client.dbsize()
    assert left == 3 + THERE + adder.added - result.deleted, "only new ones are left, and what does not match"
    assert (
        client.mget(f"{namespace}:users", f"{namespace}x:user:1", f"{namespace}:%t:user:1") == [b"kept"] * 3
    )
    assert adder.added_by_the_end > ADDED * 0.9, "nearly all of them were added while it ran"


def test_a_dry_run_over_many_keys_counts_them_and_removes_none(
    fresh_server: Server, client: redis.Redis, namespace: str
) -> None:
    prefix = f"{namespace}:user:"
    for first, last in chunks(20_000):
        client.eval(POPULATE, 1, prefix, first, last, b"old")
    told: list[int] = []
    with Cache.from_url(fresh_server.url, namespace=namespace, **PATIENT) as cache:
        result = cache.delete_pattern("user:*", dry_run=True, progress=told.append)

    assert (result.deleted, result.complete) == (0, True)
    assert result.matched >= 20_000  # a server that resizes its table may give a key twice
    assert told[-1] == result.matched
    assert client.dbsize() == 20_000
