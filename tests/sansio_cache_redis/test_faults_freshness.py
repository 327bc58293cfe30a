"""Faults under tags, batches, refreshes and soft expiry, on all three runtimes and a real server."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import attrs
import pytest
import redis

from sansio_cache import Policy
from sansio_cache.commands import AcquireLease, AcquireLeases, FillCells
from sansio_cache.entry import MissReason
from sansio_cache.events import CellsFilled, FailureKind, FillResult, LeaseGranted, LeasesAnswered
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis.scripts import ACQUIRE, CAPTURE, EXPIRE, HOLD, RELEASE
from support.faulty import (
    PATIENT,
    RUNTIMES,
    Loader,
    Subject,
    cell_of,
    eventually,
    filling,
    in_thread,
    load_scripts,
    on_every_runtime,
    opened,
    run_on,
    script,
    warnings_of,
)
from support.proxy import DROP_REPLY, DROP_REQUEST, DUPLICATE_LATER, FaultProxy, Refuse, command
from support.runtimes import is_free
from support.servers import Server

LONG = Policy(ttl=600, jitter=NO_JITTER, stale_for_s=600, retry_after_s=0.02)
# A little longer than the defaults, so that a loaded machine is less easily taken for an outage.
TIMES = {"attempt_timeout_s": 0.15, "operation_timeout_s": 0.3}


@pytest.fixture
def proxy(redis_server: Server, redis_client: redis.Redis) -> Iterator[FaultProxy]:
    load_scripts(redis_client)
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


def load_many(keys: list[str]) -> dict[str, str]:
    return {key: key.upper() for key in keys}


# Lost, late and doubled.


async def all_operations(cache: Subject) -> list[Any]:
    """Every operation with tags, soft expiry and batches once, and what each answers."""
    answers: list[Any] = []
    answers.append(await cache.get_or_load("loaded", Loader("a"), tags=["t", "u"]))
    answers.append(await cache.get("loaded"))
    answers.append(await cache.get_many(["loaded", "absent"]))
    answers.append(await cache.get_or_load("loaded", Loader("no"), tags=["u"]))
    answers.append(await cache.set("stored", "b", tags=["t"]))
    async with cache.mutate("written", tags=["u"]) as mutation:
        mutation.set("written", "c")
    answers.append(await cache.get_many(["loaded", "stored", "written"]))
    answers.append((await cache.invalidate(tags=["t"])).done)
    answers.append(await cache.get("stored"))
    answers.append(await cache.get_or_load_many(["a", "b"], load_many, tags=["t"]))
    answers.append(await cache.get_or_load_many(["a", "b", "written"], load_many))
    answers.append((await cache.expire("written", "a")).done)
    answers.append(await cache.get_many(["written", "a", "b"]))
    answers.append(await cache.get_or_load_many(["c", "d"], lambda _: {"c": "C"}))
    answers.append(
        (await cache.invalidate("written", "a", "b", "c", "loaded", "stored", tags=["t", "u"])).done
    )
    return answers


EXPECTED = [
    "a",
    "a",
    {"loaded": "a"},
    "a",
    True,
    {"stored": "b", "written": "c"},
    1,
    None,
    {"a": "A", "b": "B"},
    {"a": "A", "b": "B", "written": "c"},
    2,
    {"b": "B"},
    {"c": "C"},
    8,
]
STEPS: dict[str, Any] = {
    "capture": script(CAPTURE),
    "acquire": script(ACQUIRE),
    "fill": filling,
    "hold": script(HOLD),
    "expire": script(EXPIRE),
    "release": script(RELEASE),
    "read a tag": lambda words: words[0] == b"GET" and b":%t:" in words[1],
    "read many": command("MGET"),
    "remove": command("UNLINK"),
}


@on_every_runtime
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("action", [DROP_REQUEST, DROP_REPLY], ids=["request", "reply"])
def test_one_lost_request_or_reply_of_any_step_changes_no_answer(
    runtime: str, step: str, action: Any, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Faults 1 and 2: what is repeated is idempotent in effect."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            rule = proxy.on(STEPS[step], action)
            assert await all_operations(cache) == EXPECTED
            assert rule.fired == 1
            stats = cache.stats()
            assert stats.errors == {FailureKind.CONNECTION: 1}
            assert stats.gave_up == {}
            assert (stats.load_failures, stats.lost_leases) == (0, 0)
            assert not cache.is_out

    run_on(runtime, main)
    assert list(redis_client.scan_iter(f"{namespace}:*")) == []  # no lease, and no tag, is left behind


@on_every_runtime
@pytest.mark.parametrize("step", ["acquire", "fill"])
def test_a_batch_whose_reply_was_lost_in_the_middle_gets_the_same_answers_again(
    runtime: str, step: str, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 2, S2, S3: one nonce, one grant a key; one call of the loader, and each value stored once."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            recorder = cache.record()
            # One script asks for all leases; of the fills, the third.
            wanted, places = STEPS[step], iter(range(100))
            place = 0 if step == "acquire" else 2
            rule = proxy.on(lambda words: wanted(words) and next(places) == place, DROP_REPLY)
            loads: list[list[str]] = []
            keys = [f"k{number}" for number in range(6)]

            def load(missing: list[str]) -> dict[str, str]:
                loads.append(missing)
                return load_many(missing)

            assert await cache.get_or_load_many(keys, load, tags=["t"]) == load_many(keys)
            assert rule.fired == 1
            assert loads == [keys]
            assert len({each.nonce for each in recorder.of(AcquireLeases)}) == 1
            [answered] = recorder.of(LeasesAnswered)
            assert all(isinstance(answer, LeaseGranted) for answer in answered.answers)
            [filled] = recorder.of(CellsFilled)
            # How many the server had done with before the connection ended is up to it: three at least.
            again = FillResult.STORED if step == "acquire" else FillResult.ALREADY_STORED
            assert filled.results[:3] == (again,) * 3
            assert all(result.is_accepted for result in filled.results)
            assert cache.stats().stored == 6
            assert await cache.get_many(keys) == load_many(keys)

    run_on(runtime, main)


@on_every_runtime
def test_late_duplicates_of_a_load_with_tags_bring_nothing_back_after_their_invalidation(
    runtime: str, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 3, S7: a late capture issues a version that no entry has."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            rules = [
                proxy.on(wanted, DUPLICATE_LATER) for wanted in (script(CAPTURE), script(ACQUIRE), filling)
            ]
            assert await cache.get_or_load("k", Loader("old"), tags=["t"]) == "old"
            assert [rule.fired for rule in rules] == [1, 1, 1]
            version = redis_client.get(f"{namespace}:%t:t")
            assert (await cache.invalidate(tags=["t"])).done == 1

            captured, found, filled = await in_thread(proxy.replay)
            assert captured[2] == redis_client.get(f"{namespace}:%t:t") != version
            assert found[2][0] == b"H", "the entry is still there, and is of no use to anybody"
            assert filled[0] == FillResult.ALREADY_STORED
            assert await cache.get("k") is None
            assert await cache.get_or_load("k", Loader("new"), tags=["t"]) == "new"

            await in_thread(proxy.replay)
            assert await cache.get("k") == "new"
            assert (await cache.invalidate("k", tags=["t"])).done == 2
            await in_thread(proxy.replay)
            assert await cache.get("k") is None

    run_on(runtime, main)


# Scripts, memory, evictions.


@on_every_runtime
def test_the_server_may_forget_the_scripts_between_the_steps_of_loads_with_tags(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Fault 7: in the middle of a load, of a batch, of a mutation, and of a refresh."""
    raw = fresh_server.client()

    def forgetting(value: Any) -> Callable[..., Any]:
        def load(*given: Any) -> Any:
            raw.script_flush()
            return value

        return load

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, policy=LONG, **PATIENT) as cache:
            with fresh_server.commands() as counted:
                assert await cache.get_or_load("k", forgetting("v"), tags=["t", "u"]) == "v"
                batch = forgetting({"a": "A", "b": "B"})
                assert await cache.get_or_load_many(["a", "b"], batch, tags=["t"]) == {"a": "A", "b": "B"}
                async with cache.mutate("m", tags=["x"]) as mutation:
                    raw.script_flush()
                    mutation.set("m", 1)
                raw.script_flush()
                assert (await cache.expire("m")).done == 1
                assert await cache.get_or_load("m", forgetting(2)) == 1
                await eventually(lambda: cache.stats().stored == 5 and cache.is_idle)
                raw.script_flush()
                assert await cache.set_many({"s": 1, "s2": 2}, tags=["t"]) == {"s": True, "s2": True}
            assert counted["eval"] >= 8
            found = await cache.get_many(["k", "a", "b", "m", "s", "s2"])
            assert found == {"k": "v", "a": "A", "b": "B", "m": 2, "s": 1, "s2": 2}
            assert cache.stats().errors == {}
            assert cache.stats().lost_leases == 0

    run_on(runtime, main)


@on_every_runtime
def test_without_memory_tags_are_invalidated_and_what_cannot_be_tied_to_them_is_not_stored(
    runtime: str, fresh_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 13, S7: no version, no entry; and a soft expiry that cannot be written becomes a removal."""
    raw = fresh_server.client()

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            assert await cache.set("tagged", "old", tags=["t"])
            assert await cache.set("kept", "kept", tags=["u"])
            assert await cache.set("expired", "old")
            raw.config_set("maxmemory", 1)
            with pytest.raises(redis.OutOfMemoryError):
                raw.set("x", 1)
            assert await cache.get("kept") == "kept"
            assert await cache.get_or_load("new", Loader("uncached"), tags=["u", "v"]) == "uncached"
            assert await cache.get_or_load_many(["a"], load_many, tags=["u"]) == {"a": "A"}
            assert await cache.set("a", 1, tags=["w"]) is False
            result = await cache.invalidate(tags=["t"])
            assert (result.done, result.remembered) == (1, 0), "a removal asks for no memory"
            assert await cache.get("tagged") is None
            await cache.expire("expired")
            assert await cache.get("expired") is None
            raw.config_set("maxmemory", 0)
            await eventually(lambda: not cache.remembered)
            assert await cache.get("expired") is None
            left = {key.decode().removeprefix(f"{namespace}:") for key in raw.keys(f"{namespace}:*")}
            assert {"kept", "%t:u"} <= left <= {"kept", "%t:u", "tagged", "expired"}
            assert await cache.get_or_load("new", Loader("cached"), tags=["u", "v"]) == "cached"
            assert await cache.get("new") == "cached"

    run_on(runtime, main)
    assert all("out_of_memory" in line or "serves again" in line for line in warnings_of(caplog))


@on_every_runtime
def test_evicted_tags_cost_loads_and_never_an_old_answer(runtime: str, namespace: str) -> None:
    """Fault 12, S7: tags, cells and leases go at any time, under a database that changes."""
    big = "x" * 16_000
    keys, tags = 240, 40
    args = ("--maxmemory-policy", "allkeys-random", "--maxmemory", "3mb")

    async def main(server: Server) -> None:
        database = dict.fromkeys(range(tags), 0)
        completed = dict(database)  # the versions whose invalidation has returned: no read may give less
        raw = server.client()

        def load(number: int) -> list[Any]:
            return [number, database[number % tags], big]

        async with opened(runtime, server.url, namespace, **PATIENT) as cache:

            async def work(worker: int) -> None:
                for turn in range(keys):
                    number = (turn * 7 + worker * 31) % keys
                    tag = number % tags
                    low = completed[tag]
                    if (turn + worker) % 3:
                        named = [f"t{tag}"] if turn % 2 else [f"t{tag}", "all"]
                        found = await cache.get_or_load(f"k:{number}", lambda n=number: load(n), tags=named)
                    else:
                        found = await cache.get(f"k:{number}")
                    if found is not None:
                        assert found[0] == number
                        assert low <= found[1] <= database[tag]
                    if turn % 10 == worker:
                        database[tag] = version = database[tag] + 1
                        assert (await cache.invalidate(tags=[f"t{tag}"])).remembered == 0
                        completed[tag] = max(completed[tag], version)

            async with anyio.create_task_group() as group:
                for worker in range(4):
                    group.start_soon(work, worker)
            stats = cache.stats()
            assert stats.gave_up == {}
            assert stats.misses[MissReason.TAG] > 0
        assert raw.info("stats")["evicted_keys"] > 0

    with Server.start(args=args) as server:
        run_on(runtime, lambda: main(server))


# Refreshes.


@pytest.mark.timing
@on_every_runtime
def test_a_store_that_freezes_while_a_refresh_runs_costs_the_refresh_and_nothing_else(
    runtime: str, fresh_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 4, S13: the stale value is there when the server is back, and a later refresh runs."""
    caplog.set_level(logging.DEBUG)
    raw = fresh_server.client()
    policy = attrs.evolve(LONG, lease_s=0.5, max_lease_s=60)

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, policy=policy, **TIMES) as cache:
            assert await eventually(lambda: cache.set("k", "old"))
            assert (await eventually(lambda: cache.expire("k"))).done == 1
            late = Loader("refreshed", gated=1)
            assert await eventually(lambda: cache.get_or_load("k", late)) == "old"
            await late.wait()
            fresh_server.freeze()
            try:
                late.open()
                await eventually(lambda: cache.is_out and cache.is_idle)
                assert cache.stats().lost_leases == 0
                assert await cache.get_or_load("k", Loader("by hand")) == "by hand", "without the store"
                assert cache.is_idle
            finally:
                fresh_server.thaw()
            await eventually(lambda: not cache.is_out)

            async def is_new() -> bool:
                value = await cache.get_or_load("k", Loader("new"))
                assert value in ("old", "refreshed", "new")
                return await cache.get("k") in ("refreshed", "new")

            # A fill that was on its way when the server froze may still be carried out: it holds the grant.
            await eventually(is_new)
            await eventually(lambda: cache.is_idle)
            assert is_free(cell_of(raw, f"{namespace}:k"))
            assert cache.stats().refresh_failures == 0

    run_on(runtime, main)
    assert {line for line in warnings_of(caplog) if "serve" not in line} == set()


@on_every_runtime
@pytest.mark.parametrize("step", [script(ACQUIRE), filling], ids=["acquire", "fill"])
def test_a_refresh_whose_step_is_refused_keeps_the_stale_value_and_leaves_no_lease(
    runtime: str,
    step: Any,
    proxy: FaultProxy,
    redis_client: redis.Redis,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """S13: nobody sees it; the next reader tries again."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, policy=LONG, **PATIENT) as cache:
            assert await cache.set("k", "old")
            assert (await cache.expire("k")).done == 1
            rule = proxy.on(step, Refuse("ERR not today"))
            assert await cache.get_or_load("k", Loader("new")) == "old"
            await in_thread(rule.wait)
            await eventually(lambda: cache.is_idle)
            assert cache.stats().gave_up == {FailureKind.OTHER: 1}
            cell = cell_of(redis_client, f"{namespace}:k")
            assert cell is not None
            assert is_free(cell)
            assert cell.body.endswith(b'"old"')

            async def is_new() -> bool:
                value = await cache.get_or_load("k", Loader("new"))
                assert value in ("old", "new")
                return bool(value == "new")

            await eventually(is_new)  # it may rest for a moment
            await eventually(lambda: cache.is_idle)
            assert cache.stats().stored == 2

    run_on(runtime, main)


@on_every_runtime
def test_the_connections_may_end_while_a_refresh_runs(
    runtime: str, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 5: its fill goes over a new one."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, policy=LONG, **PATIENT) as cache:
            assert await cache.set("k", "old", tags=["t"])
            assert (await cache.expire("k")).done == 1
            late = Loader("new", gated=1)
            assert await cache.get_or_load("k", late, tags=["t"]) == "old"
            await late.wait()
            proxy.drop_all()
            late.open()
            await eventually(lambda: cache.stats().stored == 2 and cache.is_idle)
            assert await cache.get("k") == "new"
            assert cache.stats().gave_up == {}

    run_on(runtime, main)


# Invalidations that the store cannot be told of.


@on_every_runtime
def test_a_tag_that_the_store_could_not_be_told_of_is_bypassed_until_it_is_told(
    runtime: str, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 14, S7: reads go on; what has the tag is not read, by whoever names it or does not."""

    async def main() -> None:
        async with (
            opened(runtime, proxy.url, namespace, **PATIENT) as cache,
            opened(runtime, proxy.url, namespace, **PATIENT) as other,
        ):
            assert await cache.set("k", "old", tags=["t", "u"])
            assert await cache.set("plain", "kept", tags=["u"])
            refused = proxy.on(command("UNLINK"), Refuse("MISCONF no space"), times=None)
            result = await cache.invalidate(tags=["t"])
            assert (result.done, result.remembered) == (0, 1)
            assert refused.fired >= 1

            assert await cache.get("k") is None
            assert await cache.get_many(["k", "plain"]) == {"plain": "kept"}
            assert await cache.get("plain") == "kept"
            assert await cache.get_or_load("k", Loader("mine"), tags=["t"]) == "mine"
            assert await cache.get_or_load_many(["k"], load_many, tags=["t"]) == {"k": "K"}
            assert await other.get("k") == "old", "another process cannot know"
            assert await cache.get_or_load("k", Loader("replaced")) == "replaced"
            assert await other.get("k") == "replaced", "whoever names no tag has replaced it, without one"
            assert cache.remembered == 1

            proxy.clear()
            await eventually(lambda: cache.remembered == 0)
            assert redis_client.get(f"{namespace}:%t:t") is None
            assert await cache.get_or_load("k2", Loader("new"), tags=["t"]) == "new"
            assert await cache.get("k2") == await other.get("k2") == "new"

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_in_an_outage_tags_and_soft_expiries_are_remembered_and_told_when_it_is_over(
    runtime: str, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Faults 4 and 5, S1, S7: newest per key; a soft expiry is told as a removal."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, policy=LONG, **TIMES) as cache:
            for key in ("tagged", "expired", "held"):
                assert await eventually(
                    lambda key=key: cache.set(key, "old", tags=["t"] if key == "tagged" else ())
                )
            proxy.refuse_connections()
            proxy.drop_all()
            assert (await cache.invalidate(tags=["t"])).remembered == 1
            assert (await cache.expire("expired")).remembered == 1
            async with cache.mutate("held", tags=["x"]):
                pass
            assert (await cache.health()).pending_invalidations == 4
            for key in ("tagged", "expired", "held"):
                assert await cache.get(key) is None
                assert await cache.get_or_load(key, Loader("by hand"), tags=["t"]) == "by hand"
            proxy.accept_connections()
            await eventually(lambda: cache.remembered == 0 and not cache.is_out)
            assert redis_client.exists(f"{namespace}:%t:t", f"{namespace}:expired", f"{namespace}:held") == 0
            assert await cache.get("tagged") is None

    run_on(runtime, main)


# In flight, on three runtimes and in two processes' caches: nothing older is served afterwards.


@pytest.mark.parametrize("how", ["tag", "namespace", "key", "expiry", "pattern"])
@pytest.mark.parametrize("what", ["load", "batch", "refresh"])
@on_every_runtime
def test_what_is_invalidated_while_it_is_being_loaded_is_never_served(
    runtime: str, what: str, how: str, redis_url: str, namespace: str
) -> None:
    """S1, S7: the reader is another cache, as in another process."""

    async def main() -> None:
        async with (
            opened(runtime, redis_url, namespace, policy=LONG, **PATIENT) as cache,
            opened(runtime, redis_url, namespace, **PATIENT) as other,
        ):
            invalidate = {
                "tag": lambda: other.invalidate(tags=["t"]),
                "namespace": other.clear,
                "key": lambda: other.invalidate("k"),
                "expiry": lambda: other.expire("k"),
                "pattern": lambda: other.delete_pattern("k*"),
            }[how]
            late = Loader("older", gated=1)
            answers: list[Any] = []

            async def load() -> None:
                if what == "batch":
                    found = await cache.get_or_load_many(["k"], lambda _: {"k": late()}, tags=["t"])
                    answers.append(found["k"])
                else:
                    answers.append(await cache.get_or_load("k", late, tags=["t"]))

            if what == "refresh":
                assert await cache.set("k", "stale", tags=["t"])
                assert (await cache.expire("k")).done == 1
            async with anyio.create_task_group() as group:
                group.start_soon(load)
                await late.wait()
                await invalidate()
                late.open()
            await eventually(lambda: cache.is_idle)
            assert answers == ["stale" if what == "refresh" else "older"]
            for each in (cache, other):
                assert await each.get("k") is None
                assert await each.get_many(["k"]) == {}
            assert await other.get_or_load("k", Loader("new"), tags=["t"]) == "new"
            assert await cache.get("k") == "new"

    run_on(runtime, main)


def test_readers_on_three_runtimes_never_see_what_is_older_than_the_invalidation_of_its_tag(
    redis_url: str, namespace: str
) -> None:
    """S7, at random: readers of three runtimes' caches at once, and a writer that invalidates by tag."""
    database = {"n": 0}
    completed = {"n": 0}
    problems: list[str] = []
    has_ended = threading.Event()

    def reader(runtime: str) -> None:
        async def main() -> None:
            async with opened(runtime, redis_url, namespace, **PATIENT) as cache:

                async def read(number: int) -> None:
                    turn = 0
                    while not has_ended.is_set():
                        low = completed["n"]
                        key = f"k{(number + turn) % 7}"
                        turn += 1
                        if turn % 3 == 0:
                            value = await cache.get(key)
                        elif turn % 3 == 1:
                            value = await cache.get_or_load(key, lambda: database["n"], tags=["t"])
                        else:
                            keys = [key, f"k{number % 7}"]
                            found = await cache.get_or_load_many(
                                keys, lambda missing: dict.fromkeys(missing, database["n"]), tags=["t"]
                            )
                            value = found[key]
                        if value is not None and value < low:
                            problems.append(f"{runtime}: {value} after {low}")
                            has_ended.set()

                async with anyio.create_task_group() as group:
                    for number in range(5):
                        group.start_soon(read, number)

        run_on(runtime, main)

    async def write() -> None:
        async with opened("asyncio", redis_url, namespace, **PATIENT) as cache:
            for _ in range(200):
                database["n"] += 1
                assert (await cache.invalidate(tags=["t"])).remembered == 0
                completed["n"] = database["n"]
                await anyio.sleep(0.002)

    threads = [threading.Thread(target=reader, args=(runtime,)) for runtime in RUNTIMES]
    for thread in threads:
        thread.start()
    try:
        run_on("asyncio", write)
    finally:
        has_ended.set()
        for thread in threads:
            thread.join()
    assert problems == []


def test_a_lease_that_is_asked_for_with_tags_is_asked_for_in_one_round_trip(
    proxy: FaultProxy, namespace: str
) -> None:
    """Three round trips for a miss, with tags or without."""

    async def main() -> None:
        async with opened("sync", proxy.url, namespace, **PATIENT) as cache:
            await cache.wait_ready()
            recorder = cache.record()
            before = proxy.turns
            assert await cache.get_or_load("k", Loader("v"), tags=["t", "u", "v"]) == "v"
            assert proxy.turns - before == 3
            [acquire], [fill] = recorder.of(AcquireLease), recorder.of(FillCells)
            assert acquire.capture.tags == fill.tags == tuple(f"{namespace}:%t:{tag}" for tag in "tuv")

    run_on("sync", main)
