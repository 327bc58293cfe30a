"""One process of a run: callers who write and read, or a consumer. Of any runtime."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import attrs

from behind.database import Database, Item
from chaos import records
from chaos.records import Log
from sansio_cache import CacheConnectionError, UnknownOutcomeError, WriteBehind
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.queues import Facade

REFUSED = "refused"  # key, version: it was said that it is not queued
ACKNOWLEDGED = "acknowledged"  # how many
NAMESPACE = "behind"


@attrs.frozen(kw_only=True)
class Order:
    """What a process is to do."""

    role: str
    """Writes, or consumes."""
    runtime: str
    name: str
    url: str
    database: str
    log: str
    seed: int
    keys: int
    writers: int
    number: int
    """Which of the writers it is: its keys are its own to write."""
    writes: int
    """How many writes of its own are to be acknowledged."""
    callers: int
    pause_s: float
    slow_s: float
    strategy: dict[str, Any]


def open_entity(order: Order, database: Database) -> tuple[Facade, Facade]:
    """The entity, and its cache."""
    is_sync = order.runtime == "sync"
    kind: Any = cache_sync.Cache if is_sync else cache_anyio.Cache
    cache = kind.from_url(order.url, namespace=NAMESPACE)
    items = cache.entity(
        "item",
        Item,
        id="id",
        loader=database.load,
        write_many=database.save,
        strategy=WriteBehind(**order.strategy),
    )
    return Facade(items, is_sync=is_sync), Facade(cache, is_sync=is_sync)


class Writer:
    """Callers who write keys of their own, one version after another, and read all keys."""

    def __init__(self, order: Order, items: Facade) -> None:
        self.order = order
        self.items = items
        self.log = Log(order.log)
        self.versions: dict[int, int] = {}

    async def call(self, caller: int) -> None:
        order = self.order
        draw = random.Random(f"{order.seed}:{order.name}:{caller}")
        place, callers = order.number * order.callers + caller, order.writers * order.callers
        own = list(range(place, order.keys, callers))
        acknowledged = 0
        wanted = order.writes // order.callers
        while acknowledged < wanted:
            # At the end each of its keys once more: the last of each is acknowledged, then.
            left = wanted - acknowledged
            key = own[left - 1] if left <= len(own) else draw.choice(own)
            acknowledged += await self.write(key)
            await self.read(draw.randrange(order.keys), draw)
            await anyio.sleep(draw.uniform(0.0, order.pause_s))
        self.log.add(ACKNOWLEDGED, acknowledged)

    async def write(self, key: int) -> bool:
        version = self.versions[key] = self.versions.get(key, 0) + 1
        try:
            await self.items.write(Item(key, version))
        except UnknownOutcomeError:
            await anyio.sleep(0.02)
            return False
        except CacheConnectionError:
            self.log.add(REFUSED, key, version)
            await anyio.sleep(0.02)
            return False
        now_s = time.monotonic()
        self.log.add(records.WRITTEN, str(key), version, now_s, now_s)
        return True

    async def read(self, key: int, draw: random.Random) -> None:
        began_s = time.monotonic()
        try:
            name = draw.choice(("get_or_load", "get", "get_many"))
            found = await getattr(self.items, name)([key] if name == "get_many" else key)
        except CacheConnectionError:
            return
        item = found.get(key) if isinstance(found, dict) else found
        if item is not None:
            if item.id != key:
                self.log.add(records.WRONG, f"{key} is {item}")
            self.log.add(records.READ, str(key), item.version, began_s)
        elif name == "get_or_load":  # nothing is older than any version
            self.log.add(records.READ, str(key), 0, began_s)


async def write_all(order: Order, items: Facade) -> None:
    writer = Writer(order, items)
    async with anyio.create_task_group() as group:
        for caller in range(order.callers):
            group.start_soon(writer.call, caller)
    writer.log.add(records.ENDED, {})


async def consume(order: Order, items: Facade) -> None:
    """Consume until SIGTERM comes."""
    queue = Facade(items.thing.queue, is_sync=items.is_sync)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        while True:
            try:
                async with queue.within("consumer", workers=1, drain_s=0.0):
                    Log(order.log).add(records.COUNTS, {})
                    async for _ in signals:
                        return
            except CacheConnectionError:  # the server is away as it begins
                await anyio.sleep(0.05)


async def main(order: Order) -> None:
    database = Database(Path(order.database), order.slow_s)
    items, cache = open_entity(order, database)
    try:
        await (write_all if order.role == "writer" else consume)(order, items)
    finally:
        await getattr(cache, "close" if cache.is_sync else "aclose")()


if __name__ == "__main__":
    given = Order(**json.loads(sys.argv[1]))
    anyio.run(main, given, backend="trio" if given.runtime == "trio" else "asyncio")
