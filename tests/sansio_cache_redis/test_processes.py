"""Several processes on one server: one load for all of them, and none that waits for a dead one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from support.faulty import PATIENT, RUNTIMES, Loader, cell_of, eventually, on_every_runtime, opened, run_on
from support.processes import Worker, started
from support.servers import Server, wait_until

PROCESSES = 6
CALLERS = 5
SLACK_MS = 5000  # what a busy machine may add


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    with started(PROCESSES) as workers:
        yield workers


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker of this test alone, to be killed."""
    with started(1) as [worker]:
        yield worker


def server_ms(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


MIXES: dict[str, Callable[[int], str]] = {
    **{runtime: lambda _, runtime=runtime: runtime for runtime in RUNTIMES},
    "all three": lambda number: RUNTIMES[number % len(RUNTIMES)],
}


@pytest.mark.parametrize("mix", MIXES)
def test_six_processes_of_five_callers_load_a_missing_key_once(
    mix: str, workers: list[Worker], redis_url: str, redis_client: redis.Redis, namespace: str
) -> None:
    """L2: one load for a key and an expiry, and everybody has its value."""
    everybody = PROCESSES * CALLERS
    meeting = f"meeting:{namespace}:k"
    for number, worker in enumerate(workers):
        worker.tell(
            {
                "do": "stampede",
                "runtime": MIXES[mix](number),
                "url": redis_url,
                "namespace": namespace,
                "key": "k",
                "value": f"loaded by {number}",
                "callers": CALLERS,
                "everybody": everybody,
            }
        )
    answers = [answer for worker in workers for answer in worker.answer()]
    counts = {what: redis_client.get(f"{meeting}:{what}") for what in ("arrived", "begun", "loads")}
    assert counts == {"arrived": b"30", "begun": b"30", "loads": b"1"}
    assert len(answers) == everybody
    assert len(set(answers)) == 1


@pytest.mark.timing
@on_every_runtime
def test_a_holder_that_crashed_holds_others_up_for_the_rest_of_its_lease_and_no_longer(
    runtime: str, worker: Worker, redis_url: str, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 10, L3: kill -9 while it loads."""
    order = {"do": "hold", "runtime": runtime, "url": redis_url, "namespace": namespace}
    worker.tell({**order, "key": "k", "value": "never seen", "lease_s": 2.0})
    assert worker.answer() == "loading"
    worker.kill()
    left = cell_of(redis_client, f"{namespace}:k")
    assert left is not None, "the lease was not renewed while the loader ran"
    loader = Loader("loaded")
    began_ms: list[int] = []

    def load() -> Any:
        began_ms.append(server_ms(redis_client))
        return loader()

    async def main() -> None:
        async with opened(runtime, redis_url, namespace, **PATIENT) as cache:
            assert await cache.get_or_load("k", load) == "loaded"
            assert loader.calls == 1
            assert cache.stats().stored == 1
            assert cache.stats().waits == 1
            assert left.lease_deadline_ms <= began_ms[0] <= left.lease_deadline_ms + SLACK_MS
            assert await cache.get("k") == "loaded"

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_writer_that_crashed_keeps_others_from_storing_for_as_long_as_its_hold_lasts(
    runtime: str, worker: Worker, redis_url: str, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 10, S1f: kill -9 inside `mutate`. Nobody waits for a writer; they load, and do not store."""
    order = {"do": "mutate", "runtime": runtime, "url": redis_url, "namespace": namespace}
    worker.tell({**order, "key": "k", "lease_s": 1.0})
    assert worker.answer() == "writing"
    worker.kill()

    async def main() -> None:
        async with opened(runtime, redis_url, namespace, **PATIENT) as cache:
            held = cell_of(redis_client, f"{namespace}:k")
            assert held is not None
            assert await cache.get_or_load("k", Loader("loaded")) == "loaded"
            found = await cache.get("k")
            assert found is None or server_ms(redis_client) >= held.lease_deadline_ms

            async def is_stored() -> bool:
                assert await cache.get_or_load("k", Loader("loaded")) == "loaded"
                return await cache.get("k") == "loaded"

            await eventually(is_stored)
            assert server_ms(redis_client) >= held.lease_deadline_ms
            assert cache.stats().loads_without_lease >= 1

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_process_that_was_frozen_past_its_lease_stores_nothing(
    runtime: str, workers: list[Worker], redis_url: str, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 11, S2: SIGSTOP while it loads; another process has loaded meanwhile, from a newer database."""
    frozen = workers[0]
    order = {"do": "hold", "runtime": runtime, "url": redis_url, "namespace": namespace}
    frozen.tell({**order, "key": "k", "value": "old", "lease_s": 0.1})
    assert frozen.answer() == "loading"
    frozen.freeze()
    try:

        async def main() -> None:
            async with opened(runtime, redis_url, namespace, **PATIENT) as cache:
                assert await cache.get_or_load("k", Loader("new")) == "new"
                assert cache.stats().stored == 1

        run_on(runtime, main)
    finally:
        frozen.thaw()
        frozen.tell("go on")
        ended = frozen.answer()  # also where the test has failed: other tests use this worker
    assert ended == {"answer": "old", "lost_leases": 1}

    async def look() -> None:
        async with opened(runtime, redis_url, namespace, **PATIENT) as cache:
            assert await cache.get("k") == "new"

    run_on(runtime, look)


def test_a_process_that_crashes_leaves_no_connection_behind(worker: Worker, fresh_server: Server) -> None:
    """Fault 10, the control: the worker that the tests above kill does hold a connection of its own."""
    raw = fresh_server.client()
    order = {"do": "hold", "runtime": "asyncio", "url": fresh_server.url, "namespace": "n"}
    worker.tell({**order, "key": "k", "value": 1, "lease_s": 5})
    assert worker.answer() == "loading"
    assert raw.info("clients")["connected_clients"] == 2
    worker.kill()
    wait_until(lambda: raw.info("clients")["connected_clients"] == 1)
