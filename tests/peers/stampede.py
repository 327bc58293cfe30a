"""One of several processes that ask aiocache for one key: `python -P -m peers.stampede URL PROCESSES`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import redis.asyncio

CALLERS: Final = 3
PATIENT_S: Final = 60.0


async def main(url: str, everybody: int) -> None:
    """Ask with several callers at once, when all processes are there; count loads at the server."""
    from aiocache import RedisCache, cached_stampede
    from aiocache.serializers import JsonSerializer

    client = redis.asyncio.Redis.from_url(url)
    port = int(url.rsplit(":", 1)[1].split("/")[0])

    async def until(condition: Callable[[], Any]) -> None:
        with anyio.fail_after(PATIENT_S):
            while not await condition():  # noqa: ASYNC110 - of other processes
                await anyio.sleep(0.01)

    async def count(name: str) -> int:
        return int(await client.get(name) or 0)

    async def load() -> str:
        """Take as long as it takes others to begin, and give up waiting for them after a second."""
        await client.incr("loads")
        asked_s = time.monotonic()

        async def others_have_asked() -> bool:
            is_late = time.monotonic() - asked_s > 1.0
            return is_late or await count("loads") > 1

        await until(others_have_asked)
        return "value"

    guarded = cached_stampede(
        lease=30,
        ttl=600,
        cache=RedisCache,
        key_builder=lambda *_: "k",
        endpoint="127.0.0.1",
        port=port,
        timeout=30,
        serializer=JsonSerializer(),
    )(load)

    async def all_there() -> bool:
        return await count("there") == everybody

    await client.incr("there")
    await until(all_there)
    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(guarded)
    await guarded.cache.close()
    await client.aclose()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
