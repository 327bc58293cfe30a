"""Leases under fire, on all three runtimes: loads that outlive their lease, hang, or are voided in flight."""

from typing import Any

import anyio
import attrs
import pytest
import redis

from sansio_cache import Policy
from sansio_cache.commands import RenewLeases
from sansio_cache.ttl import NO_JITTER
from sansio_cache_redis.scripts import RENEW
from support.faulty import (
    PATIENT,
    Loader,
    cell_of,
    eventually,
    in_thread,
    load_scripts,
    on_every_runtime,
    opened,
    run_on,
    script,
)
from support.proxy import DROP_REQUEST, FaultProxy, Refuse
from support.servers import Server

pytestmark = pytest.mark.servers

SHORT = Policy(lease_s=0.06, max_lease_s=60.0)


def server_ms(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


@pytest.mark.timing
@on_every_runtime
@pytest.mark.parametrize(
    "action", [DROP_REQUEST, Refuse("ERR renewals are not allowed")], ids=["lost", "refused"]
)
def test_a_load_whose_lease_another_process_took_is_for_its_caller_only(
    runtime: str,
    action: Any,
    redis_server: Server,
    redis_client: redis.Redis,
    namespace: str,
) -> None:
    """Fault 8, S2: the renewals do not arrive; the other load began later, so its value is kept."""
    load_scripts(redis_client)

    async def main(proxy: FaultProxy) -> None:
        async with (
            opened(runtime, proxy.url, namespace, policy=SHORT, **PATIENT) as slow,
            opened(runtime, redis_server.url, namespace, **PATIENT) as quick,
        ):
            rule = proxy.on(script(RENEW), action, times=None)
            late = Loader("old", gated=1)
            answers: list[Any] = []

            async def load_slowly() -> None:
                answers.append(await slow.get_or_load("k", late))

            async with anyio.create_task_group() as group:
                group.start_soon(load_slowly)
                await late.wait()
                await eventually(lambda: rule.fired >= 1 and slow.stats().errors)
                assert await quick.get_or_load("k", Loader("new")) == "new"
                late.open()
            assert answers == ["old"]
            assert slow.stats().lost_leases == 1
            assert slow.stats().stored == 0
            assert slow.stats().gave_up == {}
            assert quick.stats().loads == quick.stats().stored == 1
            for cache in (slow, quick):
                assert await cache.get("k") == "new"

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        run_on(runtime, lambda: main(proxy))


@pytest.mark.timing
@on_every_runtime
def test_a_load_whose_lease_lapsed_but_was_taken_by_nobody_is_stored(
    runtime: str, redis_server: Server, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 8: a stale value keeps the cell, and with it the grant, past the lease; no invalidation can
    have come between, so the fill is safe.
    """
    load_scripts(redis_client)
    policy = Policy(
        ttl=0.05,
        jitter=NO_JITTER,
        stale_for_s=600,
        lease_s=0.06,
        max_lease_s=60,
        on_wait_timeout="stale",  # so that the caller loads, and not a refresh in the background
    )
    key = f"{namespace}:k"

    async def main(proxy: FaultProxy) -> None:
        async with opened(runtime, proxy.url, namespace, policy=policy, **PATIENT) as cache:
            rule = proxy.on(script(RENEW), Refuse("ERR renewals are not allowed"), times=None)
            long = attrs.evolve(policy, lease_s=30.0)
            assert await cache.get_or_load("k", Loader("old"), policy=long) == "old"

            async def is_stale() -> bool:
                return await cache.get("k") is None

            await eventually(is_stale)
            late = Loader("new", gated=1)
            answers: list[Any] = []

            async def load() -> None:
                answers.append(await cache.get_or_load("k", late))

            async with anyio.create_task_group() as group:
                group.start_soon(load)
                await late.wait()
                leased = cell_of(redis_client, key)
                assert leased is not None
                assert leased.lease_deadline_ms > 0
                await eventually(lambda: server_ms(redis_client) > leased.lease_deadline_ms)
                await eventually(lambda: rule.fired >= 1)
                assert cell_of(redis_client, key) == leased
                late.open()
            assert answers == ["new"]
            assert cache.stats().stored == 2
            assert cache.stats().lost_leases == 0
            filled = cell_of(redis_client, key)
            assert filled is not None
            assert filled.filled_by == leased.grant
            assert filled.body.endswith(b'"new"')

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        run_on(runtime, lambda: main(proxy))


@pytest.mark.timing
@on_every_runtime
def test_a_lease_is_renewed_for_as_long_as_the_loader_runs_and_no_longer(
    runtime: str, redis_server: Server, redis_client: redis.Redis, namespace: str
) -> None:
    """L2 and L6: a slow loader keeps its lease, so others wait for it; then nothing is renewed."""
    policy = Policy(lease_s=4.0, max_lease_s=60)

    async def main() -> None:
        async with (
            opened(runtime, redis_server.url, namespace, policy=policy, **PATIENT) as first,
            opened(runtime, redis_server.url, namespace, policy=policy, **PATIENT) as second,
        ):
            recorder = first.record()
            slow = Loader("v", gated=1)
            never = Loader("never")
            answers: list[Any] = []

            async def load(cache: Any, loader: Loader) -> None:
                answers.append(await cache.get_or_load("k", loader))

            async with anyio.create_task_group() as group:
                group.start_soon(load, first, slow)
                await slow.wait()
                group.start_soon(load, second, never)
                leased = cell_of(redis_client, f"{namespace}:k")
                assert leased is not None
                # For longer than the lease would last without being renewed.
                await eventually(lambda: server_ms(redis_client) > leased.lease_deadline_ms)
                await eventually(lambda: len(recorder.of(RenewLeases)) >= 2)
                slow.open()
            assert answers == ["v", "v"]
            assert (slow.calls, never.calls) == (1, 0)
            renewed = len(recorder.of(RenewLeases))
            now_ms = server_ms(redis_client)
            await eventually(lambda: server_ms(redis_client) > now_ms + 600)
            assert len(recorder.of(RenewLeases)) == renewed

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_a_loader_that_hangs_holds_others_up_for_the_longest_lease_and_no_longer(
    runtime: str, redis_server: Server, redis_client: redis.Redis, namespace: str
) -> None:
    """Fault 9, L6."""
    policy = Policy(lease_s=0.6, max_lease_s=1.0)

    async def main() -> None:
        async with (
            opened(runtime, redis_server.url, namespace, policy=policy, **PATIENT) as first,
            opened(runtime, redis_server.url, namespace, policy=policy, **PATIENT) as second,
        ):
            recorder = first.record()
            hanging = Loader("old", gated=1)
            answers: list[Any] = []

            async def load() -> None:
                answers.append(await first.get_or_load("k", hanging))

            async with anyio.create_task_group() as group:
                group.start_soon(load)
                await hanging.wait()
                proceeding = Loader("new")
                assert await second.get_or_load("k", proceeding) == "new"
                assert proceeding.calls == 1
                assert len(recorder.of(RenewLeases)) >= 1
                await eventually(lambda: first.stats().outgrown_leases == 1)
                hanging.open()
            assert answers == ["old"]
            assert first.stats().lost_leases == 1
            assert second.stats().waits == 1
            assert await first.get("k") == "new"

    run_on(runtime, main)


@pytest.mark.timing
@on_every_runtime
def test_callers_of_the_same_process_wait_for_a_loader_that_hangs_no_longer_than_they_said(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    """Fault 9: past `wait_s` a caller loads without a grant, and all who gave up share that load."""
    policy = Policy(wait_s=0.1)

    async def main() -> None:
        async with opened(runtime, redis_server.url, namespace, policy=policy, **PATIENT) as cache:
            hanging = Loader("late", gated=1)
            own = Loader("own", gated=1)
            answers: list[Any] = []

            async def load(loader: Loader) -> None:
                answers.append(await cache.get_or_load("k", loader))

            async with anyio.create_task_group() as group:
                group.start_soon(load, hanging)
                await hanging.wait()
                for _ in range(3):
                    group.start_soon(load, own)
                await own.wait()
                own.open()
                await eventually(lambda: len(answers) == 3)
                hanging.open()
            assert answers == ["own"] * 3 + ["late"]
            assert cache.stats().loads_without_lease == own.calls
            assert cache.stats().stored == 1
            assert await cache.get("k") == "late"

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("by", ["this cache", "another process's cache", "a plain DEL", "FLUSHDB", "a set"])
def test_a_load_in_flight_when_its_key_is_invalidated_is_not_stored_and_not_shared_with_later_callers(
    runtime: str, by: str, fresh_server: Server, namespace: str
) -> None:
    """S1: the reader looked at the database before the write, the follower came after it."""
    raw = fresh_server.client()

    async def main() -> None:
        async with (
            opened(runtime, fresh_server.url, namespace, **PATIENT) as cache,
            opened("sync", fresh_server.url, namespace, **PATIENT) as other,
        ):
            loader = Loader("old", "new", gated=1)
            leader: list[Any] = []
            followers: list[Any] = []

            async def load(answers: list[Any]) -> None:
                answers.append(await cache.get_or_load("k", loader))

            async with anyio.create_task_group() as group:
                group.start_soon(load, leader)
                await loader.wait()
                # Two that joined the load before the write, and two after it; a set is a hit for the latter.
                for count in (2, 4)[: 1 if by == "a set" else 2]:
                    for _ in range(2):
                        group.start_soon(load, followers)
                    await eventually(lambda count=count: cache.followers == count)
                    if count == 2:
                        match by:
                            case "this cache":
                                assert (await cache.invalidate("k")).done == 1
                            case "another process's cache":
                                assert (await other.invalidate("k")).done == 1
                            case "a plain DEL":
                                assert raw.delete(f"{namespace}:k") == 1
                            case "FLUSHDB":
                                raw.flushdb()
                            case "a set":
                                assert await other.set("k", "new")
                loader.open()
            assert leader == ["old"]
            assert followers == ["new"] * (2 if by == "a set" else 4)
            assert loader.calls == (1 if by == "a set" else 2)
            stats = cache.stats()
            assert stats.lost_leases == 1
            assert stats.stored == (0 if by == "a set" else 1)
            assert await cache.get("k") == "new"
            assert await other.get("k") == "new"

    run_on(runtime, main)


@on_every_runtime
def test_a_load_that_began_before_a_mutation_is_not_stored_and_readers_in_it_store_nothing(
    runtime: str, redis_server: Server, namespace: str
) -> None:
    """S6: between the hold and its end nobody knows what the database says."""

    async def main() -> None:
        async with (
            opened(runtime, redis_server.url, namespace, **PATIENT) as reader,
            opened(runtime, redis_server.url, namespace, **PATIENT) as writer,
        ):
            before = Loader("old", gated=1)
            async with anyio.create_task_group() as group:
                group.start_soon(reader.get_or_load, "k", before)
                await before.wait()
                async with writer.mutate("k") as mutation:
                    before.open()
                    await eventually(lambda: reader.stats().lost_leases == 1)
                    assert await reader.get_or_load("k", Loader("in between")) == "in between"
                    assert await reader.get("k") is None
                    mutation.set("k", "new")
            assert reader.stats().stored == 0
            assert reader.stats().loads_without_lease == 1
            assert await reader.get("k") == "new"

    run_on(runtime, main)


@on_every_runtime
def test_a_writer_that_another_writer_overtook_leaves_nothing_behind(
    runtime: str, redis_server: Server, redis_client: redis.Redis, namespace: str
) -> None:
    """S6: nobody can say which of two commits came last, so neither value is kept."""

    async def main() -> None:
        async with (
            opened(runtime, redis_server.url, namespace, **PATIENT) as first,
            opened(runtime, redis_server.url, namespace, **PATIENT) as second,
        ):
            async with first.mutate("k") as outer:
                outer.set("k", "first")
                async with second.mutate("k") as inner:
                    inner.set("k", "second")
            assert first.stats().lost_leases == 1
            assert await in_thread(redis_client.exists, f"{namespace}:k") == 0
            assert await second.get("k") is None

    run_on(runtime, main)
