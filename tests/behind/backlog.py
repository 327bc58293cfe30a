"""A long backlog, drained in another process: what it costs in time, and in memory.

    PYTHONPATH=tests python -P -m behind.backlog --writes 1000000

The consumer is a process of its own. What it holds at its end, less what it held when a twentieth was done,
is what the backlog cost it. The program ends with 1 where that is above 20 MiB, or where a key has not its
last version.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from behind.database import Item
from behind.process import NAMESPACE
from sansio_cache import WriteBehind
from sansio_cache_redis.sync import Cache
from sansio_cache_runtime.sync.entity import Entity
from support.servers import Server

_TOGETHER = 500
MOST_MIB = 20.0
PATIENCE_S = 1800.0  # bounds a failure only


def _items(cache: Cache, write: Any) -> Entity[Item]:
    strategy = WriteBehind(backlog=100_000_000, batch=1_000)
    return cache.entity("item", Item, id="id", write_many=write, strategy=strategy)


def queue(url: str, writes: int, keys: int) -> None:
    """Queue writes of these keys in turn; the version of each is how many were queued before."""

    def never(_: Sequence[Item]) -> None:
        raise AssertionError("nobody consumes here")

    with Cache.from_url(url, namespace=NAMESPACE) as cache:
        items = _items(cache, never)
        together = min(_TOGETHER, keys)
        for first in range(0, writes, together):
            last = min(first + together, writes)
            items.write_many([Item(number % keys, number) for number in range(first, last)])


def consume(url: str, writes: int) -> dict[str, float]:
    """Drain it in this process; returns what that took, and what the last version of each key is."""
    versions: dict[int, int] = {}
    seen = {"rows": 0, "batches": 0, "back": 0}

    def write(values: Sequence[Item]) -> None:
        seen["batches"] += 1
        seen["rows"] += len(values)
        for item in values:
            seen["back"] += item.version <= versions.get(item.id, -1)
            versions[item.id] = item.version

    with Cache.from_url(url, namespace=NAMESPACE) as cache:
        items = _items(cache, write)
        began_s = time.monotonic()
        with items.queue.consumer(drain_s=0.0):
            first_bytes = 0
            until_s = began_s + PATIENCE_S
            while (left := items.queue.backlog().queued) and time.monotonic() < until_s:
                if not first_bytes and left <= writes * 0.95:
                    first_bytes = _most_bytes()
                time.sleep(0.05)
        took_s = time.monotonic() - began_s
    last_bytes = _most_bytes()
    return {
        **seen,
        "left": left,
        "took_s": took_s,
        "grown_mib": (last_bytes - (first_bytes or last_bytes)) / 2**20,
        "keys": len(versions),
        "oldest": min(versions.values(), default=-1),
    }


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(writes: int, keys: int) -> tuple[dict[str, float], list[str]]:
    """Queue and drain so many; returns figures, and what is wrong."""
    with Server.start() as server:
        began_s = time.monotonic()
        queue(server.url, writes, keys)
        queued_s = time.monotonic() - began_s
        with server.client() as client:
            server_bytes = client.info("memory")["used_memory"]
        paths = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "behind.backlog", "--consume", server.url, "--writes", str(writes)],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    figures = {"queued_s": queued_s, "server_mib": server_bytes / 2**20, **json.loads(done.stdout)}
    return figures, wrong(figures, writes, keys)


def wrong(figures: Mapping[str, float], writes: int, keys: int) -> list[str]:
    """What is not as it should be."""
    found = []
    if figures["left"]:
        found.append(f"{figures['left']:g} writes are left")
    if figures["keys"] != keys or figures["oldest"] < writes - keys:
        found.append("a key has not its last version")
    if figures["back"]:
        found.append(f"{figures['back']:g} rows went back to an older version")
    if figures["grown_mib"] > MOST_MIB:
        found.append(f"the consumer has grown by {figures['grown_mib']:.1f} MiB")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="behind.backlog", description=__doc__)
    parser.add_argument("--writes", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--consume", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.consume:
        print(json.dumps(consume(chosen.consume, chosen.writes)))
        return 0
    figures, found = run(chosen.writes, chosen.keys)
    print(", ".join(f"{name} {figure:,.1f}" for name, figure in figures.items()))
    for each in found:
        print(each)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
