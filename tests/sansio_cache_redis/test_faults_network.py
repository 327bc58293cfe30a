"""Faults of the network, on all three runtimes: commands and replies that are lost, doubled, refused or
swapped, and connections that end. Every test proves that its fault happened.
"""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import redis

from sansio_cache import Policy
from sansio_cache.commands import AcquireLease, FillCells
from sansio_cache.entry import MissReason
from sansio_cache.events import CellsFilled, FailureKind, FillResult, LeaseGranted
from sansio_cache_redis.scripts import ACQUIRE, HOLD, RELEASE
from support.faulty import (
    PATIENT,
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
)
from support.proxy import (
    DROP_REPLY,
    DROP_REQUEST,
    DUPLICATE_LATER,
    FaultProxy,
    Predicate,
    Refuse,
    command,
    parse_request,
)
from support.proxy import HOLD as HOLD_BACK
from support.servers import Server, can_compare

# Short, as a test waits until such a lease has lapsed; not so short that a slow machine loses one.
BRIEF = Policy(lease_s=0.4, max_lease_s=60.0)

NOT_STORED = ([FillResult.REFUSED], None)
"""What a fill is answered that stores nothing: by the script, and by comparing."""
STEPS: dict[str, Predicate] = {
    "read": command("GET"),
    "read of many": command("MGET"),
    "acquire": script(ACQUIRE),
    "fill": filling,
    "hold": script(HOLD),
    "release": script(RELEASE),
    "removal": command("UNLINK"),
    "scan": command("SCAN"),
}


@pytest.fixture
def proxy(redis_server: Server, redis_client: redis.Redis) -> Iterator[FaultProxy]:
    load_scripts(redis_client)
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


async def all_operations(cache: Subject) -> list[Any]:
    """Every operation once, and what each answers."""
    answers: list[Any] = []
    answers.append(await cache.get_or_load("loaded", Loader("a")))
    answers.append(await cache.get("loaded"))
    answers.append(await cache.get_many(["loaded", "absent"]))
    answers.append(await cache.set("stored", "b"))
    answers.append(await cache.get("stored"))
    async with cache.mutate("stored", "removed") as mutation:
        mutation.set("stored", "c")
    answers.append(await cache.get("stored"))
    result = await cache.invalidate("stored", "loaded")
    answers.append((result.done, result.remembered))
    answers.append(await cache.get("stored"))
    try:
        await cache.get_or_load("failing", Loader(LookupError("no such row")))
    except LookupError as error:
        answers.append(str(error))
    answers.append(await cache.set_many({"p:1": 1, "p:2": 2}))
    answers.append((await cache.delete_pattern("p:*")).complete)
    answers.append(await cache.get_many(["p:1", "p:2"]))
    return answers


EXPECTED = [
    "a",
    "a",
    {"loaded": "a"},
    True,
    "b",
    "c",
    (2, 0),
    None,
    "no such row",
    {"p:1": True, "p:2": True},
    True,
    {},
]


@on_every_runtime
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("action", [DROP_REQUEST, DROP_REPLY], ids=["request", "reply"])
def test_one_lost_request_or_reply_of_any_step_changes_no_answer(
    runtime: str, step: str, action: Any, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Faults 1 and 2: what is repeated is idempotent in effect, so an unknown fate is no problem."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            rule = proxy.on(STEPS[step], action)
            assert await all_operations(cache) == EXPECTED
            assert rule.fired == 1
            stats = cache.stats()
            assert stats.errors == {FailureKind.CONNECTION: 1}
            assert stats.gave_up == {}
            assert (stats.loads, stats.load_failures, stats.lost_leases) == (1, 1, 0)
            assert not cache.is_out

    run_on(runtime, main)
    assert list(redis_client.scan_iter(f"{namespace}:*")) == []  # no lease is left behind


@on_every_runtime
def test_an_acquire_whose_reply_was_lost_gets_the_same_grant_again(
    runtime: str, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 2, S3: one nonce, one grant while it lives, so exactly one load, and its value is stored."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            recorder = cache.record()
            rule = proxy.on(script(ACQUIRE), DROP_REPLY)
            loader = Loader("v")
            grants: list[bytes] = []

            def load() -> Any:
                cell = cell_of(redis_client, f"{namespace}:k")
                assert cell is not None
                grants.append(cell.grant)
                return loader()

            assert await cache.get_or_load("k", load) == "v"
            assert rule.fired == 1
            assert loader.calls == 1
            first, second = recorder.of(AcquireLease)
            assert first.nonce == second.nonce
            [granted] = recorder.of(LeaseGranted)
            stored = cell_of(redis_client, f"{namespace}:k")
            assert stored is not None
            assert grants == [granted.grant] == [stored.filled_by]
            assert await cache.get("k") == "v"
            assert cache.stats().stored == 1

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("is_known", [False, True], ids=["first", "later"])
def test_a_fill_whose_reply_was_lost_is_told_that_it_is_stored_already(
    runtime: str, is_known: bool, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 2, S2."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            if is_known:  # whether the server compares, which is asked with the first fill
                assert await cache.set("first", 1)
            recorder = cache.record()
            rule = proxy.on(filling, DROP_REPLY)
            assert await cache.get_or_load("k", Loader("v")) == "v"
            assert rule.fired == 1
            # By comparing, the cell is seen to have changed: then the script says how.
            *compared, filled = recorder.of(CellsFilled)
            assert filled.results == (FillResult.ALREADY_STORED,)
            assert {each.results for each in compared} <= {(FillResult.CHANGED,)}
            assert len(recorder.of(FillCells)) == 2 + len(compared)
            assert bool(compared) == (is_known and can_compare(redis_client))
            assert cache.stats().stored == 1 + is_known
            assert cache.stats().lost_leases == 0
            assert await cache.get("k") == "v"

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
@pytest.mark.parametrize("is_known", [False, True], ids=["first", "later"])
def test_late_duplicates_of_a_load_bring_nothing_back_after_an_invalidation(
    runtime: str, is_known: bool, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 3, S1 and S3: the late acquire gets a new grant, so the late fill is refused."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, policy=BRIEF, **PATIENT) as cache:
            if is_known:  # whether the server compares, which is asked with the first fill
                assert await cache.set("first", 1)
            acquire = proxy.on(script(ACQUIRE), DUPLICATE_LATER)
            fill = proxy.on(filling, DUPLICATE_LATER)
            assert await cache.get_or_load("k", Loader("old")) == "old"
            assert (acquire.fired, fill.fired) == (1, 1)
            assert (await cache.invalidate("k")).done == 1

            granted, filled = await in_thread(proxy.replay)
            words, _ = parse_request(proxy.remembered[1]) or ([], 0)
            assert granted[0] == b"A"
            grant = words[4][2:18] if words[0] == b"SET" else words[4]
            assert granted[2] != grant
            assert granted[2][:8] == grant[:8]
            assert filled in NOT_STORED
            assert await cache.get("k") is None

            # Nobody is behind the duplicate's lease: it holds others up no longer than it lasts (L3).
            loader = Loader("new")
            assert await cache.get_or_load("k", loader) == "new"
            assert loader.calls == 1
            assert await cache.get("k") == "new"

            found, filled = await in_thread(proxy.replay)
            assert (found[2][0], filled in NOT_STORED) == (b"H", True)
            assert await cache.get("k") == "new"

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("is_known", [False, True], ids=["first", "later"])
def test_a_late_fill_is_refused_while_another_load_is_in_flight(
    runtime: str, is_known: bool, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 3, S2 and S5: the cell belongs to the grant that it holds, and to no older one."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            if is_known:  # whether the server compares, which is asked with the first fill
                assert await cache.set("first", 1)
            acquire = proxy.on(script(ACQUIRE), DUPLICATE_LATER)
            fill = proxy.on(filling, DUPLICATE_LATER)
            assert await cache.get_or_load("k", Loader("old")) == "old"
            await cache.invalidate("k")
            loader = Loader("new", gated=1)
            async with anyio.create_task_group() as group:
                group.start_soon(cache.get_or_load, "k", loader)
                await loader.wait()
                denied, filled = await in_thread(proxy.replay)
                loader.open()
            assert (acquire.fired, fill.fired) == (1, 1)
            assert denied[2][0] == b"W"
            assert filled in NOT_STORED
            assert cache.stats().stored == 2 + is_known
            assert await cache.get("k") == "new"

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
@pytest.mark.parametrize("is_known", [False, True], ids=["first", "later"])
def test_late_duplicates_of_a_set_bring_nothing_back_after_an_invalidation(
    runtime: str, is_known: bool, proxy: FaultProxy, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 3: a set is a hold and a fill. Late, the hold stops others from storing for as long as it
    lasts, and the fill is refused; a lone SET would bring the old value back.
    """

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, policy=BRIEF, **PATIENT) as cache:
            if is_known:  # whether the server compares, which is asked with the first fill
                assert await cache.set("first", 1)
            hold = proxy.on(script(HOLD), DUPLICATE_LATER)
            fill = proxy.on(filling, DUPLICATE_LATER)
            assert await cache.set("k", "old")
            assert (hold.fired, fill.fired) == (1, 1)
            assert (await cache.invalidate("k")).done == 1
            held, filled = await in_thread(proxy.replay)
            assert (len(held), filled in NOT_STORED) == (2, True)
            assert await cache.get("k") is None

            async def is_stored() -> bool:
                assert await cache.get_or_load("k", Loader("new")) == "new"
                return await cache.get("k") == "new"

            await eventually(is_stored)
            [_, filled] = await in_thread(proxy.replay)
            assert filled in NOT_STORED
            assert await cache.get("k") in (None, "new")

    run_on(runtime, main)


@on_every_runtime
def test_a_replica_s_refusal_is_tried_again_on_a_new_connection(
    runtime: str, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 16: after a failover the old connection leads to what is a replica now."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            assert await cache.get("k") is None
            before = proxy.connections_opened
            error = "READONLY You can't write against a read only replica. script: x, on @user_script:1."
            rule = proxy.on(script(ACQUIRE), Refuse(error))
            loader = Loader("v")
            assert await cache.get_or_load("k", loader) == "v"
            assert rule.fired == 1
            assert proxy.connections_opened == before + 1
            stats = cache.stats()
            assert stats.errors == {FailureKind.READ_ONLY: 1}
            assert stats.gave_up == {}
            assert (loader.calls, stats.stored) == (1, 1)
            assert await cache.get("k") == "v"

    run_on(runtime, main)


@on_every_runtime
def test_a_replica_that_stays_one_is_asked_for_few_connections(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Fault 16: another connection may lead to the new primary, so it is tried, with pauses in between."""
    raw = fresh_server.client()

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            assert await cache.set("kept", "v")
            raw.replicaof("127.0.0.1", "1")
            before = raw.info("stats")["total_connections_received"]

            async def write(number: int) -> None:
                for turn in range(20):
                    key = f"{number}:{turn}"
                    assert await cache.get_or_load(key, Loader(turn)) == turn

            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(write, number)
            assert cache.is_out
            assert set(cache.stats().gave_up) <= {FailureKind.HANDSHAKE, FailureKind.READ_ONLY}
            assert raw.info("stats")["total_connections_received"] - before <= 30

    run_on(runtime, main)


@on_every_runtime
def test_nothing_is_read_from_a_server_that_has_become_a_replica(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Fault 16 and 21, with a real replica: it may be behind by any time, so it is no store at all."""
    raw = fresh_server.client()

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            assert await cache.set("kept", "v")
            raw.replicaof("127.0.0.1", "1")
            assert await cache.get_or_load("k", Loader("loaded")) == "loaded"
            assert await cache.get("kept") is None
            assert cache.is_out
            assert (await cache.invalidate("kept")).remembered == 1
            raw.replicaof("NO", "ONE")
            await eventually(lambda: cache.remembered == 0 and not cache.is_out)
            assert raw.exists(f"{namespace}:kept") == 0
            assert await cache.set("kept", "w")
            assert await cache.get("kept") == "w"

    run_on(runtime, main)


@on_every_runtime
def test_connections_that_all_end_at_once_are_no_outage(
    runtime: str, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 5: after a CLIENT KILL, or a restart, every idle connection is dead. The server serves, so
    one new connection is all it takes: no load, no open breaker.
    """
    width = 4 if runtime == "sync" else 1  # the others multiplex their callers on one connection

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "v")
            held = proxy.on(command("GET"), HOLD_BACK, times=None)

            async with anyio.create_task_group() as group:

                def is_wide_enough() -> bool:
                    group.start_soon(cache.get, "k")
                    return held.fired >= width

                await eventually(is_wide_enough)
                proxy.clear()
                proxy.release()
            assert held.fired == proxy.connections_opened == width
            proxy.drop_all()
            loader = Loader("from the loader")
            assert await cache.get_or_load("k", loader) == "v"
            assert loader.calls == 0
            assert cache.stats().gave_up == {}
            assert not cache.is_out
            assert proxy.connections_opened > width

    run_on(runtime, main)


@on_every_runtime
def test_a_killed_client_connects_again_and_nobody_notices(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Fault 5: CLIENT KILL."""
    raw = fresh_server.client()

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            assert await cache.set("k", "v")
            for _ in range(5):
                assert raw.client_kill_filter(_type="normal", skipme=True) >= 1
                loader = Loader("from the loader")
                assert await cache.get_or_load("k", loader) == "v"
                assert loader.calls == 0
            assert cache.stats().gave_up == {}

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("operation", ["get", "get_many", "get_or_load"])
def test_a_value_stored_for_another_key_is_never_returned(
    runtime: str,
    operation: str,
    proxy: FaultProxy,
    redis_client: redis.Redis,
    namespace: str,
) -> None:
    """Fault 29, S9: the cell names its key; a second look, elsewhere, says that it was copied."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            assert await cache.set("b", "of b")
            assert redis_client.copy(f"{namespace}:b", f"{namespace}:a")
            before = proxy.connections_opened
            if operation == "get":
                assert await cache.get("a") is None
            elif operation == "get_many":
                assert await cache.get_many(["a", "b"]) == {"b": "of b"}
            else:
                assert await cache.get_or_load("a", Loader("of a")) == "of a"
                assert cache.stats().stored == 2
            assert cache.stats().misses == {MissReason.KEY_CHECK: 1}
            if operation != "get_or_load":
                opened_once = proxy.connections_opened
                for _ in range(5):
                    assert await cache.get("a") is None
                assert await cache.get("b") == "of b"
                assert proxy.connections_opened == opened_once, "it is looked at once"
            # The entry is replaced by the next load, if it was not by this one.
            assert await cache.get_or_load("a", Loader("of a")) == "of a"
            assert proxy.connections_opened > before
            assert await cache.get("a") == "of a"
            assert await cache.get("b") == "of b"
            assert cache.stats().errors == {}

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("reply", [b":1", b"+OK", b"*0", b"*2\r\n:1\r\n:2", b"$5\r\nhello", b"*-1"], ids=repr)
def test_a_reply_that_answers_another_command_is_an_error_and_the_connection_is_dropped(
    runtime: str, reply: bytes, redis_client: redis.Redis, namespace: str, redis_server: Server
) -> None:
    """Fault 29, S9: an acquire that is answered with another command's reply is repeated elsewhere."""

    class Swapping(FaultProxy):
        """Answers the first acquire with a reply that is not its own."""

        swapped = 0

        def _relay(self) -> Any:
            relay = super()._relay()
            pass_on = relay.from_upstream

            def from_upstream(data: bytes) -> None:
                if not self.swapped and data.startswith(b"*3\r\n$1\r\nA\r\n"):
                    self.swapped += 1
                    data = reply + b"\r\n"
                pass_on(data)

            relay.from_upstream = from_upstream
            return relay

    load_scripts(redis_client)

    async def main(proxy: Swapping) -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            loader = Loader("v")
            assert await cache.get_or_load("k", loader) == "v"
            assert proxy.swapped == 1
            assert loader.calls == 1
            assert cache.stats().errors == {FailureKind.MISPAIRED: 1}
            assert cache.stats().stored == 1
            assert proxy.connections_opened == 2

    with Swapping("127.0.0.1", redis_server.port) as proxy:
        run_on(runtime, lambda: main(proxy))


@on_every_runtime
def test_callers_beyond_the_connections_queue_and_none_of_them_fails(
    runtime: str, proxy: FaultProxy, namespace: str
) -> None:
    """Fault 30: 200 callers at once on one connection, and it is slow to answer the first."""

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, max_connections=1, **PATIENT) as cache:
            answers: dict[int, Any] = {}
            loader = Loader("shared")

            async def call(number: int) -> None:
                if number % 2:
                    answers[number] = await cache.get_or_load(f"own:{number}", Loader(number))
                else:
                    answers[number] = await cache.get_or_load("shared", loader)

            slow = proxy.on(command("GET"), HOLD_BACK)
            async with anyio.create_task_group() as group:
                for number in range(200):
                    group.start_soon(call, number)
                await in_thread(slow.wait)
                proxy.release()
            assert slow.fired == 1
            assert answers == {number: number if number % 2 else "shared" for number in range(200)}
            assert loader.calls == 1
            assert cache.stats().gave_up == {}
            assert cache.stats().loads == cache.stats().stored == 101
            assert proxy.connections_opened == 1

    run_on(runtime, main)
