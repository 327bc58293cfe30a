"""Values that are larger than `max_value_bytes`: their readers miss, memory has bounds, others are served."""

import resource
from typing import Any

import anyio
import pytest
import redis

from sansio_cache.entry import MissReason
from support.faulty import PATIENT, Loader, on_every_runtime, opened, run_on

GIANT_BYTES = 200 * 2**20
MOST_GROWTH_BYTES = 100 * 2**20


@pytest.fixture
def giant(redis_client: redis.Redis, namespace: str) -> str:
    """The key of one that some other program has written."""
    redis_client.setrange(f"{namespace}:giant", GIANT_BYTES, b"x")
    return "giant"


def peak_bytes() -> int:
    """The most that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@on_every_runtime
def test_a_giant_is_not_read_and_is_nobody_elses_trouble(
    runtime: str, redis_url: str, namespace: str, giant: str
) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"max_value_bytes": 2**20, **PATIENT}
        async with opened(runtime, redis_url, namespace, **options) as cache:
            for number in range(20):
                assert await cache.set(f"k{number}", number)
            answers: list[Any] = []

            async def read(number: int) -> None:
                answers.append(await cache.get(f"k{number}"))

            before_bytes = peak_bytes()
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(read, number)
                    if number % 5 == 0:
                        tasks.start_soon(cache.get, giant)
            assert await cache.get(giant, default="none") == "none"
            keys = [f"k{number}" for number in range(20)]
            assert await cache.get_many([*keys[:10], giant, *keys[10:]]) == {
                key: number for number, key in enumerate(keys)
            }
            assert await cache.get_or_load(giant, Loader("loaded")) == "loaded"
            assert peak_bytes() - before_bytes < MOST_GROWTH_BYTES
            assert sorted(answers) == list(range(20))
            stats = cache.stats()
            assert stats.errors == {}
            assert stats.misses[MissReason.FOREIGN] == 7
            assert not cache.is_out

    run_on(runtime, main)
