"""Several processes that refresh, load batches, and are of different versions: on one real server.

Random runs are seeded; what fails prints its seed, and `SANSIO_CACHE_SEED` repeats it.
"""

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from sansio_cache import Policy
from sansio_cache.exploring.history import History, Read, Write
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis.sync import Cache
from support.faulty import PATIENT, RUNTIMES, cell_of, on_every_runtime, opened, run_on
from support.nightly import IS_NIGHTLY
from support.processes import Worker, started
from support.proxy import FaultProxy
from support.servers import Server, wait_until

PROCESSES = 4
MIXED_RUNTIMES = ("sync", "asyncio", "trio", "sync")
SIZE_OF_PRIMITIVES = (32, 8) if IS_NIGHTLY else (3, 4)
"""How many callers of a process, and how often each changes everything."""
SLACK_MS = 5000  # what a busy machine may add
# Long, so that a machine that stands still for a while costs no lease.
CALM = {"lease_s": 30.0, "max_lease_s": 60.0}


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    with started(PROCESSES) as workers:
        yield workers


@pytest.fixture
def seed() -> int:
    """A new one in each run."""
    return int(os.environ.get("SANSIO_CACHE_SEED") or secrets.randbelow(2**32))


def counted(client: redis.Redis, name: str) -> dict[str, int]:
    found: Any = client.hgetall(name)
    return {key.decode(): int(count) for key, count in found.items()}


# Batches.


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_thousand_keys_of_which_nine_hundred_are_cached_are_three_round_trips_and_a_load_of_a_hundred(
    runtime: str, redis_server: Server, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted between client and server. A request that is cut in two on its way may look like two."""
    turns: list[int] = []
    asked: list[int] = []

    def load(keys: list[str]) -> dict[str, str]:
        asked.append(len(keys))
        return {key: key.upper() for key in keys}

    async def batch(cache: Any, keys: list[str], proxy: FaultProxy) -> None:
        cached = {key: "cached" for number, key in enumerate(keys) if number % 10}
        assert all((await cache.set_many(cached)).values())
        before = proxy.turns
        found = await cache.get_or_load_many(keys, load)
        turns.append(proxy.turns - before)
        assert found == {key: cached.get(key, key.upper()) for key in keys}

    async def main() -> None:
        with FaultProxy("127.0.0.1", redis_server.port) as proxy:
            async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
                await cache.wait_ready()
                for run in range(5):
                    await batch(cache, [f"r{run}:k{number}" for number in range(1000)], proxy)

    run_on(runtime, main)
    with capsys.disabled():
        print(f"\n  {runtime}: round trips of a batch of 1,000 keys with 100 misses: {turns}")
    assert asked == [100] * 5
    assert min(turns) == 3
    assert sorted(turns)[2] <= 4


def test_overlapping_batches_of_four_processes_load_each_key_once_in_two_hundred_random_runs(
    workers: list[Worker],
    redis_url: str,
    redis_client: redis.Redis,
    namespace: str,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """L2, and no deadlock: what one holds is stored before it waits for what others hold."""
    print(f"SANSIO_CACHE_SEED={seed}")
    runs = 200
    began_s = time.monotonic()
    for number, worker in enumerate(workers):
        worker.tell(
            {
                "do": "batches",
                "runtime": MIXED_RUNTIMES[number],
                "url": redis_url,
                "namespace": namespace,
                "policy": {**CALM, "wait_s": 60.0},
                "number": number,
                "everybody": PROCESSES,
                "chunk": (3, 5, 7, 500)[number],
                "runs": runs,
                "seed": seed,
            }
        )
    answers = [worker.answer() for worker in workers]
    took_s = time.monotonic() - began_s
    assert not [answer for answer in answers if "wrong" in answer]
    assert [answer["lost"] for answer in answers] == [0] * PROCESSES
    loads = counted(redis_client, f"meeting:{namespace}:loads")
    assert {key: count for key, count in loads.items() if count != 1} == {}
    assert len(loads) > runs * 20
    with capsys.disabled():
        print(f"\n  {runs} runs of {PROCESSES} processes: {len(loads)} keys loaded once each, {took_s:.1f} s")
    assert all(len(answer["loads"]) <= runs for answer in answers), "one call of the loader for a batch"


# Refreshes.


def tell_to_refresh(workers: list[Worker], url: str, namespace: str, policy: dict[str, Any]) -> None:
    for number, worker in enumerate(workers):
        worker.tell(
            {
                "do": "refreshing",
                "runtime": MIXED_RUNTIMES[number],
                "url": url,
                "namespace": namespace,
                "policy": {**CALM, "retry_after_s": 0.02, **policy},
                "number": number,
                "everybody": PROCESSES,
            }
        )


def check_refreshes(
    answers: list[Any],
    client: redis.Redis,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
    in_flight: int = 0,
) -> int:
    """One load for each refresh, one refresh at a time, and nobody has waited; how many there were.

    `in_flight`: how many of each process may have been under way when it stopped.
    """
    prefix = f"meeting:{namespace}"
    loads = int(client.get(f"{prefix}:loads") or 0)  # type: ignore[arg-type]
    refreshes = sum(answer["refreshes"] for answer in answers)
    with capsys.disabled():
        reads = [int(client.get(f"{prefix}:reads:{number}") or 0) for number in range(PROCESSES)]  # type: ignore[arg-type]
        each = [answer["refreshes"] for answer in answers]
        print(
            f"\n  {loads} loads for {refreshes} refreshes ({each}), {sum(reads)} reads, none of which waited"
        )
    assert client.get(f"{prefix}:overlaps") is None, "two refreshes at the same time"
    assert loads == refreshes
    assert [answer["waits"] for answer in answers] == [0] * PROCESSES
    assert [answer["misses"] for answer in answers] == [0] * PROCESSES
    assert [answer["failures"] for answer in answers] == [0] * PROCESSES
    for answer in answers:
        assert answer["refreshes"] - in_flight <= answer["stored"] <= answer["refreshes"]
    for answer in answers:
        assert answer["seen"] == sorted(answer["seen"]), "a value went back"
    return loads


def test_four_processes_refresh_a_stale_value_once_for_each_expiry_and_nobody_waits(
    workers: list[Worker],
    redis_url: str,
    redis_client: redis.Redis,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """L2. The loader ends only once every process has read on: a caller that waited would make it fail."""
    prefix = f"meeting:{namespace}"
    policy = Policy(ttl=600, jitter=NO_JITTER, stale_for_s=600)
    with Cache.from_url(redis_url, namespace=namespace, policy=policy, **PATIENT) as cache:
        assert cache.set("k", 0)
        tell_to_refresh(workers, redis_url, namespace, {"ttl": 600, "stale_for_s": 600})
        try:
            for expiry in range(1, 11):
                assert cache.expire("k").done == 1
                wait_until(lambda expiry=expiry: cache.get("k") == expiry, timeout_s=30)
                assert redis_client.get(f"{prefix}:loads") == str(expiry).encode()
        finally:
            redis_client.set(f"{prefix}:stop", 1)
            answers = [worker.answer() for worker in workers]
    assert check_refreshes(answers, redis_client, namespace, capsys) == 10


def test_four_processes_refresh_a_fresh_value_early_one_at_a_time_and_nobody_waits(
    workers: list[Worker],
    redis_url: str,
    redis_client: redis.Redis,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """L2: due again 50 ms after each fill, for as long as the test lasts."""
    prefix = f"meeting:{namespace}"
    policy = Policy(ttl=600, jitter=NO_JITTER, refresh_at=0.5)
    with Cache.from_url(redis_url, namespace=namespace, policy=policy, **PATIENT) as cache:
        assert cache.set("k", 0)
        tell_to_refresh(workers, redis_url, namespace, {"ttl": 500, "refresh_at": 0.0001})
        try:
            wait_until(lambda: int(redis_client.get(f"{prefix}:loads") or 0) >= 10, timeout_s=60)  # type: ignore[arg-type]
        finally:
            redis_client.set(f"{prefix}:stop", 1)
            answers = [worker.answer() for worker in workers]
        assert check_refreshes(answers, redis_client, namespace, capsys, in_flight=1) >= 10


@pytest.mark.timing
@on_every_runtime
def test_a_process_that_is_killed_while_it_refreshes_costs_its_lease_and_nobody_s_time(
    runtime: str, redis_url: str, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 10, L3: kill -9. The stale value is served all the while, and then the next refresh runs."""
    policy = {"ttl": 600, "stale_for_s": 600, "lease_s": 0.5, "max_lease_s": 60.0, "retry_after_s": 0.02}
    with (
        started(1) as [worker],
        Cache.from_url(redis_url, namespace=namespace, policy=Policy(**policy), **PATIENT) as cache,
    ):
        assert cache.set("k", "old")
        assert cache.expire("k").done == 1
        worker.tell(
            {
                "do": "hold refresh",
                "runtime": runtime,
                "url": redis_url,
                "namespace": namespace,
                "policy": policy,
                "key": "k",
                "value": "never seen",
            }
        )
        assert worker.answer() == "loading"
        worker.kill()
        left = cell_of(redis_client, f"{namespace}:k")
        assert left is not None
        assert left.lease_deadline_ms
        began_ms: list[int] = []

        def load() -> str:
            seconds, microseconds = redis_client.time()
            began_ms.append(seconds * 1000 + microseconds // 1000)
            return "new"

        def is_new() -> bool:
            value = cache.get_or_load("k", load)
            assert value in ("old", "new")
            return value == "new"

        wait_until(is_new, timeout_s=30)
        assert len(began_ms) == 1
        assert left.lease_deadline_ms <= began_ms[0] <= left.lease_deadline_ms + SLACK_MS
        stats = cache.stats()
        assert (stats.waits, stats.redis_misses, stats.refreshes) == (0, 0, 1)


# Two versions of a program.


class Session:
    """A worker that is one version of a program, and does one operation at a time."""

    def __init__(self, worker: Worker, version: str, runtime: str, url: str, namespace: str) -> None:
        self.version = version
        self.loads = 0
        self._worker = worker
        worker.tell(
            {
                "do": "session",
                "version": version,
                "runtime": runtime,
                "url": url,
                "namespace": namespace,
                "policy": CALM,
            }
        )
        assert worker.answer() == "open"

    def do(self, op: str, key: str, n: int = 0) -> int | None:
        """The number that the value holds, None without one."""
        self._worker.tell({"op": op, "key": key, "n": n})
        answer = self._worker.answer()
        assert answer["is_whole"], f"{self.version} was given something else for {key}"
        self.loads = answer["loads"]
        found: int | None = answer["n"]
        return found

    def end(self) -> int:
        """How often it has kept an entry beside another's."""
        self._worker.tell({"op": "end"})
        beside: int = self._worker.answer()
        return beside


MIXES: dict[str, Callable[[int], str]] = {
    **{runtime: lambda _, runtime=runtime: runtime for runtime in RUNTIMES},
    "all three": lambda number: MIXED_RUNTIMES[number],
}


@pytest.mark.parametrize("mix", MIXES)
def test_two_versions_of_a_program_answer_a_thousand_mixed_operations_with_one_load_each_per_change(
    mix: str,
    workers: list[Worker],
    redis_url: str,
    namespace: str,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fault 33: each serves what it can read, and neither stores over the other's in a loop."""
    print(f"SANSIO_CACHE_SEED={seed}")
    draw = random.Random(seed)
    versions = ["former", "current", "former", "current"]
    sessions = [
        Session(worker, version, MIXES[mix](number), redis_url, namespace)
        for number, (worker, version) in enumerate(zip(workers, versions, strict=True))
    ]
    database = {f"k{number}": 0 for number in range(6)}
    changes = Counter[str]()
    loads: Counter[tuple[str, str]] = Counter()
    answered = Counter[str]()
    try:
        for step in range(1000):
            session = draw.choice(sessions)
            key = draw.choice(list(database))
            op = draw.choice(
                ["get", "get", "get_many", "load", "load", "load", "set", "invalidate", "expire"]
            )
            before = session.loads
            if op in ("set", "invalidate"):
                database[key] += 1
            found = session.do(op, key, database[key])
            where = f"step {step}, seed {seed}: {session.version} {op} {key}"
            if op == "load":
                assert found == database[key], where
            elif op in ("get", "get_many"):
                assert found in (None, database[key]), where
                answered["hit" if found is not None else "miss"] += 1
            else:
                changes[key] += 1
            loads[session.version, key] += session.loads - before
        for (version, key), count in loads.items():
            assert count <= changes[key] + 1, f"seed {seed}: {version} loaded {key} {count} times"
    finally:
        beside = sum(session.end() for session in sessions)
    with capsys.disabled():
        by_version = {
            version: sum(count for (each, _), count in loads.items() if each == version)
            for version in ("former", "current")
        }
        print(f"\n  {mix}: {changes.total()} changes, loads {by_version}, {beside} beside, {dict(answered)}")
    assert beside > 20
    assert min(answered.values()) > 20


def test_two_versions_of_a_program_at_the_same_time_never_serve_what_is_older_than_a_write(
    workers: list[Worker],
    redis_url: str,
    redis_client: redis.Redis,
    namespace: str,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S1, fault 33: a read gives the last write completed before it began, or one that overlaps it."""
    print(f"SANSIO_CACHE_SEED={seed}")
    for number, worker in enumerate(workers):
        worker.tell(
            {
                "do": "mixed",
                "version": ("former", "current")[number % 2],
                "runtime": MIXED_RUNTIMES[number],
                "url": redis_url,
                "namespace": namespace,
                "policy": CALM,
                "number": number,
                "seed": seed,
                "steps": 1000,
            }
        )
    answers = [worker.answer() for worker in workers]
    problems = [problem for answer in answers for problem in answer["problems"]]
    assert problems == [], f"seed {seed}"
    writes = counted(redis_client, f"meeting:{namespace}:writes")
    loads = {
        version: counted(redis_client, f"meeting:{namespace}:loads:{version}")
        for version in ("former", "current")
    }
    hits = sum(answer["hits"] for answer in answers)
    with capsys.disabled():
        summed = {version: sum(each.values()) for version, each in loads.items()}
        print(f"\n  {sum(writes.values())} writes, loads {summed}, {hits} hits")
    assert hits > 100
    assert sum(answer["beside"] for answer in answers) > 20


# Primitives.


def test_four_processes_count_append_add_and_lock_and_every_result_is_exact(
    workers: list[Worker],
    redis_url: str,
    redis_client: redis.Redis,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No change is lost or made twice, one of all who add is told so, and one at a time holds the lock."""
    callers, turns = SIZE_OF_PRIMITIVES
    everybody = PROCESSES * callers * turns
    prefix = f"meeting:{namespace}"
    began_s = time.monotonic()
    with Cache.from_url(redis_url, namespace=namespace, **PATIENT) as cache:
        assert cache.add("counted", 0)
        assert cache.add("updated", [])
        assert cache.add("swapped", [])
        for number, worker in enumerate(workers):
            worker.tell(
                {
                    "do": "primitives",
                    "runtime": MIXED_RUNTIMES[number],
                    "url": redis_url,
                    "namespace": namespace,
                    "policy": {"wait_s": 300.0},
                    "number": number,
                    "everybody": PROCESSES,
                    "callers": callers,
                    "turns": turns,
                }
            )
        answers = [worker.answer(300) for worker in workers]
        took_s = time.monotonic() - began_s
        assert sorted(value for each in answers for value, _ in each["counted"]) == list(
            range(1, everybody + 1)
        )
        assert cache.get("counted") == everybody
        assert cache.touch("counted", 9600)  # one of the crowd may have been overtaken each time
        assert cache.ttl("counted") > 9000
        mine = [
            f"{number}:{caller}:{turn}"
            for number in range(PROCESSES)
            for caller in range(callers)
            for turn in range(turns)
        ]
        for key in ("updated", "swapped"):
            assert sorted(cache.get(key)) == sorted(mine)
        owners = {key: number for number, each in enumerate(answers) for key in each["added"]}
        keys = [f"added:{caller}:{turn}" for caller in range(callers) for turn in range(turns)]
        assert sum(len(each["added"]) for each in answers) == len(owners) == len(keys)
        assert cache.get_many(keys) == owners
    assert int(redis_client.get(f"{prefix}:guarded") or 0) == everybody  # type: ignore[arg-type]
    found: Any = redis_client.lrange(f"{prefix}:tokens", 0, -1)
    tokens = [int(each) for each in found]
    assert len(set(tokens)) == len(tokens) == everybody
    assert tokens == sorted(tokens)
    history = History()
    for number, each in enumerate(answers):
        for value, returned_s in each["counted"]:
            history.note(Write(str(number), "counted", value, returned_s, returned_s))
    reads = [
        Read(str(number), "counted", value, read_s)
        for number, each in enumerate(answers)
        for value, read_s in each["seen"]
    ]
    assert [history.judge(read) for read in reads] == [None] * everybody
    with capsys.disabled():
        print(f"\n  {PROCESSES} processes of {callers} callers, {turns} turns each: {took_s:.1f} s")
