"""Outages, on all three runtimes: a server that is frozen, refuses, is killed, is busy or says that it cannot
serve. The business never sees the cache fail, and pays for finding out once.
"""

import logging
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import attrs
import pytest
import redis

from sansio_cache import CacheConnectionError, CacheTimeoutError
from sansio_cache.commands import HoldCells
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind, Ponged
from sansio_cache_redis.sync import Cache
from support.faulty import (
    PATIENT,
    Loader,
    Recorder,
    Subject,
    eventually,
    in_thread,
    on_every_runtime,
    opened,
    run_on,
    warnings_of,
)
from support.proxy import FaultProxy, Refuse
from support.servers import Server, wait_until

pytestmark = pytest.mark.timing

# A little longer than the defaults, so that a loaded machine is less easily taken for an outage.
TIMES = {"attempt_timeout_s": 0.15, "operation_timeout_s": 0.3}
SLACK_S = 5.0  # what a busy machine may add
SECRET = "s3cret-value"


def put(url: str, namespace: str, key: str, value: Any) -> None:
    """Store a value by another cache."""
    with Cache.from_url(url, namespace=namespace, **PATIENT) as other:
        assert other.set(key, value)


async def warm_up(cache: Subject, key: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Read a value from the store, so that a connection is open and the breaker closed."""
    assert await eventually(lambda: cache.get(key)) == value
    await eventually(lambda: not cache.is_out)
    caplog.clear()


async def assert_nothing_is_asked_in_the_outage(cache: Subject, recorder: Recorder) -> None:
    """The breaker is open: reads do without the store, and each of them has its answer."""
    assert cache.is_out
    before = len(recorder.asked)
    misses = cache.stats().misses[MissReason.STORE_ERROR]
    for number in range(20):
        loader = Loader(number)
        assert await cache.get_or_load(f"n:{number}", loader) == number
        assert loader.calls == 1
        assert await cache.get("kept", "default") == "default"
        assert await cache.get_many(["kept", "k"]) == {}
    assert len(recorder.asked) == before
    assert cache.stats().misses[MissReason.STORE_ERROR] == misses + 20 * 4


def assert_each_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when an outage begins and one when it is over; a slow machine may have made another one."""
    lines = warnings_of(caplog)
    assert len(lines) >= 2
    for number, line in enumerate(lines):
        assert ("serves again" if number % 2 else "does not serve") in line


def assert_probes_are_few(recorder: Recorder, elapsed_s: float) -> None:
    """The recovery's pauses double from 50 ms to 2 s: so many probes at most, however fast they fail."""
    doubling = math.log2(elapsed_s / 0.05 + 1)
    assert recorder.probes <= doubling + elapsed_s / 2.0 + 1


@attrs.frozen
class Outage:
    """How a server goes out of service and comes back, and how that looks to a cache."""

    begin: Callable[[Server, FaultProxy], object]
    end: Callable[[Server, FaultProxy], object]
    kinds: frozenset[FailureKind]
    loses_data: bool = False


def _refuse(_: Server, proxy: FaultProxy) -> None:
    proxy.refuse_connections()
    proxy.drop_all()


OUTAGES = {
    "frozen": Outage(
        lambda server, _: server.freeze(),
        lambda server, _: server.thaw(),
        # The first attempt times out; the next ones do so while they connect.
        frozenset({FailureKind.TIMEOUT}),
    ),
    "refused": Outage(
        _refuse, lambda _, proxy: proxy.accept_connections(), frozenset({FailureKind.CONNECTION})
    ),
    "killed": Outage(
        lambda server, _: server.kill(),
        lambda server, _: server.restart(),
        frozenset({FailureKind.CONNECTION}),
        loses_data=True,
    ),
}
on_every_outage = pytest.mark.parametrize("how", OUTAGES)


@pytest.fixture
def proxy(fresh_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", fresh_server.port) as proxy:
        yield proxy


@on_every_runtime
@on_every_outage
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "from the start"])
def test_an_outage_costs_one_operation_s_time_and_then_nothing_until_it_ends(
    runtime: str,
    how: str,
    is_connected: bool,
    fresh_server: Server,
    proxy: FaultProxy,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Faults 4 and 5, L5: also where the server hangs, or refuses, before the first connection is open."""
    caplog.set_level(logging.DEBUG)
    outage = OUTAGES[how]
    # Where the server says no, it is not time that tells an outage.
    times = TIMES if how == "frozen" else PATIENT
    put(fresh_server.url, namespace, "kept", SECRET)

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **times) as cache:
            if is_connected:
                await warm_up(cache, "kept", SECRET, caplog)
            before = cache.stats()
            recorder = cache.record()
            outage.begin(fresh_server, proxy)
            began_s = time.monotonic()
            loader = Loader("loaded")
            assert await cache.get_or_load("k", loader) == "loaded"
            assert time.monotonic() - began_s < TIMES["operation_timeout_s"] + SLACK_S
            assert loader.calls == 1

            await assert_nothing_is_asked_in_the_outage(cache, recorder)
            stats = cache.stats() - before
            assert sum(stats.gave_up.values()) == 1
            assert set(stats.gave_up) <= outage.kinds
            assert set(stats.errors) <= outage.kinds
            assert stats.loads_without_lease == 21
            [begun] = warnings_of(caplog)
            assert "does not serve" in begun

            await eventually(lambda: recorder.probes >= 2)
            assert_probes_are_few(recorder, time.monotonic() - began_s)
            outage.end(fresh_server, proxy)
            if outage.loses_data:
                put(fresh_server.url, namespace, "kept", SECRET)
            assert await eventually(lambda: cache.get("kept")) == SECRET
            assert await cache.get_or_load("k", Loader("stored")) == "stored"
            assert_each_outage_is_told_once(caplog)
            assert SECRET not in caplog.text

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("how", ["frozen", "refused"])
def test_in_an_outage_writes_fail_open_and_what_may_be_old_is_not_read_until_it_is_removed(
    runtime: str,
    how: str,
    fresh_server: Server,
    proxy: FaultProxy,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """S1 through faults 4 and 5: an invalidation that the store was not told of is remembered."""
    outage = OUTAGES[how]
    for key in ("invalidated", "set", "mutated", "untouched"):
        put(fresh_server.url, namespace, key, "old")

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace) as cache:
            await warm_up(cache, "untouched", "old", caplog)
            recorder = cache.record()
            outage.begin(fresh_server, proxy)
            result = await cache.invalidate("invalidated")
            assert (result.done, result.remembered) == (0, 1)
            assert await cache.set("set", "new") is False
            async with cache.mutate("mutated") as mutation:
                mutation.set("mutated", "new")
            assert (await cache.delete_pattern("un*")).complete is False
            assert recorder.of(HoldCells) == [], "it is known by then"
            assert cache.stats().failed_invalidations == 3
            assert cache.is_out
            outage.end(fresh_server, proxy)
            seen: dict[str, set[Any]] = {"invalidated": set(), "set": set(), "mutated": set()}

            async def is_told() -> bool:
                for key, values in seen.items():
                    values.add(await cache.get(key))
                return cache.remembered == 0 and not cache.is_out

            await eventually(is_told)
            # A hold, or a fill, that was on its way when the server froze may still be carried out.
            for key in seen:
                assert seen[key] <= {None, "new"}
            assert await cache.get("invalidated") is None
            assert await eventually(lambda: cache.get("untouched")) == "old"

    run_on(runtime, main)


@on_every_runtime
@pytest.mark.parametrize("how", ["frozen", "refused"])
def test_callers_who_wait_in_an_outage_share_the_next_load(
    runtime: str,
    how: str,
    fresh_server: Server,
    proxy: FaultProxy,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L5 through faults 4 and 5: who came while a load was under way needs one that begins later, and all
    of them the same: a caller waits for two loads at most, however many callers there are.
    """

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **TIMES) as cache:
            OUTAGES[how].begin(fresh_server, proxy)
            assert await cache.get_or_load("first", Loader(1)) == 1
            assert cache.is_out
            loader = Loader("old", "new", gated=2)
            answers: list[Any] = []

            async def call() -> None:
                answers.append(await cache.get_or_load("k", loader))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await loader.wait()
                for _ in range(29):
                    group.start_soon(call)
                await eventually(lambda: cache.followers == 29)
                loader.open()
                await loader.wait(2)
                await eventually(lambda: cache.followers == 28)
                loader.open()
            assert sorted(answers) == ["new"] * 29 + ["old"]
            assert loader.calls == 2
            [_] = warnings_of(caplog)

    run_on(runtime, main)


@on_every_runtime
def test_a_cache_is_closed_without_waiting_for_a_frozen_server(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Fault 4: a program must be able to end."""

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **TIMES) as cache:
            fresh_server.freeze()
            assert await cache.get_or_load("k", Loader(1)) == 1
            assert cache.is_out
            began_s = time.monotonic()
            await cache.close()
            assert time.monotonic() - began_s < 2.0 + SLACK_S  # at most a second for each kind of cleanup

    run_on(runtime, main)
    fresh_server.thaw()


@on_every_runtime
@pytest.mark.parametrize("how", ["frozen", "refused"])
def test_wait_ready_raises_in_time_and_returns_when_the_server_serves(
    runtime: str, how: str, fresh_server: Server, proxy: FaultProxy, namespace: str
) -> None:
    """Faults 4 and 5: the eager connect is the one call that tells."""
    error = {"frozen": CacheTimeoutError, "refused": CacheConnectionError}[how]

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace) as cache:
            OUTAGES[how].begin(fresh_server, proxy)
            began_s = time.monotonic()
            with pytest.raises(error):
                await cache.wait_ready(timeout_s=0.3)
            assert time.monotonic() - began_s < 0.3 + SLACK_S
            OUTAGES[how].end(fresh_server, proxy)
            await cache.wait_ready(timeout_s=15)
            await eventually(lambda: cache.set("k", "v"))

    run_on(runtime, main)


# --- Servers that answer, and say that they cannot serve (fault 15)

REFUSALS = {
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
}


@on_every_runtime
@pytest.mark.parametrize(("word", "is_connected"), [*((word, True) for word in REFUSALS), ("LOADING", False)])
def test_a_server_that_cannot_serve_is_asked_once_and_then_left_alone(
    runtime: str,
    word: str,
    is_connected: bool,
    fresh_server: Server,
    proxy: FaultProxy,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fault 15: an outage, not an error to be tried again: no retry storm."""
    put(fresh_server.url, namespace, "kept", SECRET)

    async def main() -> None:
        async with opened(runtime, proxy.url, namespace, **PATIENT) as cache:
            if is_connected:
                await warm_up(cache, "kept", SECRET, caplog)
            recorder = cache.record()
            # Not the words with which a further connection introduces itself.
            rule = proxy.on(lambda words: words[0] != b"CLIENT", Refuse(REFUSALS[word]), times=None)
            began_s = time.monotonic()
            assert await cache.get_or_load("k", Loader("loaded")) == "loaded"
            assert len(recorder.asked) == 1
            if is_connected:
                assert rule.fired - 2 * recorder.probes <= 1  # a probe is two commands
            assert rule.fired >= 1
            await assert_nothing_is_asked_in_the_outage(cache, recorder)
            stats = cache.stats()
            assert stats.gave_up == {FailureKind.UNAVAILABLE: 1}
            await eventually(lambda: recorder.probes >= 2)
            assert_probes_are_few(recorder, time.monotonic() - began_s)
            proxy.clear()
            assert await eventually(lambda: cache.get("kept")) == SECRET
            [begun, ended] = warnings_of(caplog)
            assert "unavailable" in begun
            assert "serves again" in ended

    run_on(runtime, main)


@asynccontextmanager
async def busy(server: Server) -> AsyncIterator[None]:
    """While the block runs, a script does not end, and the server answers BUSY."""
    looping = server.client(socket_timeout=30)

    def loop() -> None:
        with suppress(redis.ResponseError):
            looping.eval("while true do redis.call('PING') end", 0)

    thread = threading.Thread(target=loop)
    watching = server.client()

    def is_busy() -> bool:
        try:
            watching.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    watching.config_set("busy-reply-threshold", 20)
    thread.start()
    try:
        await in_thread(wait_until, is_busy)
        yield
    finally:
        watching.script_kill()
        thread.join()


@asynccontextmanager
async def master_down(server: Server) -> AsyncIterator[None]:
    """While the block runs, the server is a replica of nobody that answers MASTERDOWN."""
    raw = server.client()
    raw.config_set("replica-serve-stale-data", "no")
    raw.replicaof("127.0.0.1", "1")
    with pytest.raises(redis.exceptions.MasterDownError):
        raw.get("k")
    try:
        yield
    finally:
        raw.replicaof("NO", "ONE")


REAL = {"BUSY": busy, "MASTERDOWN": master_down}


@on_every_runtime
@pytest.mark.parametrize("word", REAL)
def test_a_server_that_really_cannot_serve_is_left_alone_until_it_can(
    runtime: str,
    word: str,
    fresh_server: Server,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fault 15 as servers do it. The probe must be refused when reads are, or the breaker flaps: some
    commands (TIME, for one) are answered by a server that is LOADING or has no MASTER.
    """
    put(fresh_server.url, namespace, "kept", SECRET)

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            await warm_up(cache, "kept", SECRET, caplog)
            recorder = cache.record()
            async with REAL[word](fresh_server):
                assert await cache.get_or_load("k", Loader("loaded")) == "loaded"
                assert cache.stats().gave_up == {FailureKind.UNAVAILABLE: 1}
                await eventually(lambda: recorder.of(Ponged) or recorder.probes > 2)
                assert recorder.of(Ponged) == []
                await assert_nothing_is_asked_in_the_outage(cache, recorder)
                [begun] = warnings_of(caplog)
                assert "unavailable" in begun
            assert await eventually(lambda: cache.get("kept")) == SECRET
            await eventually(
                lambda: len(warnings_of(caplog)) == 2
            )  # the recovery may tell of it a moment later

    run_on(runtime, main)


@on_every_runtime
def test_a_server_without_its_master_is_not_ready(runtime: str, fresh_server: Server, namespace: str) -> None:
    """Fault 15: `wait_ready` promises that reads are served."""

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **PATIENT) as cache:
            async with master_down(fresh_server):
                with pytest.raises(CacheConnectionError):
                    await cache.wait_ready(timeout_s=1.0)
            await cache.wait_ready(timeout_s=15)

    run_on(runtime, main)


# --- Passwords


def _with_password(server: Server, password: str, user: str = "") -> str:
    return server.url.replace("redis://", f"redis://{user}:{password}@")


@on_every_runtime
def test_a_wrong_password_is_an_outage_that_floods_nobody_and_is_never_shown(
    runtime: str, fresh_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 34: each try is an AUTH that fails, and servers lock accounts, or log each, for less."""
    caplog.set_level(logging.DEBUG)
    raw = fresh_server.client()
    raw.acl_setuser("app", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])

    def failed() -> int:
        [total] = [each["count"] for each in raw.acl_log() if each["reason"] == "auth"] or [0]
        return int(total)

    async def main() -> None:
        url = _with_password(fresh_server, SECRET, "app")
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            recorder = cache.record()
            began_s = time.monotonic()
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(cache.get_or_load, f"k:{number}", Loader(number))
            # One for each caller at most: it is no failure that is tried again.
            assert 1 <= failed() <= 50 + recorder.probes
            before = failed() - recorder.probes
            await assert_nothing_is_asked_in_the_outage(cache, recorder)
            await eventually(lambda: recorder.probes >= 3)
            assert_probes_are_few(recorder, time.monotonic() - began_s)
            assert failed() - before <= recorder.probes + 1
            stats = cache.stats()
            assert set(stats.gave_up) == {FailureKind.AUTHENTICATION}
            [begun] = warnings_of(caplog)
            assert "authentication" in begun
            assert SECRET not in caplog.text

            health = await cache.health()
            assert not health.ok
            assert SECRET not in repr(health)
            assert SECRET not in repr(cache.cache)

            raw.acl_setuser("app", enabled=True, passwords=[f"+{SECRET}"])
            await eventually(lambda: not cache.is_out)
            assert await cache.set("k", "v")

    run_on(runtime, main)


@on_every_runtime
def test_wait_ready_with_a_wrong_password_says_so_without_showing_it_or_trying_on_and_on(
    runtime: str, fresh_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 34: a password does not become right by being repeated twenty times a second."""
    caplog.set_level(logging.DEBUG)
    raw = fresh_server.client()
    raw.acl_setuser("app", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])

    async def main() -> None:
        url = _with_password(fresh_server, SECRET, "app")
        async with opened(runtime, url, namespace, **PATIENT) as cache:
            waits = 0
            error: BaseException | None = None
            # A wait that ends while a try is under way says that it has run out of time.
            while error is None or isinstance(error, CacheTimeoutError):
                waits += 1
                with pytest.raises(CacheConnectionError) as caught:
                    await cache.wait_ready(timeout_s=2.0)
                error = caught.value
            assert "authentication" in str(error)
            while error is not None:
                assert SECRET not in repr(error)
                assert SECRET not in str(vars(error))
                error = error.__cause__ or error.__context__
            [entry] = [each for each in raw.acl_log() if each["reason"] == "auth"]
            # With pauses that double from 50 ms there are seven in two seconds; with equal ones, forty.
            assert 1 <= int(entry["count"]) <= 9 * waits
            assert SECRET not in caplog.text

    run_on(runtime, main)


@on_every_runtime
def test_an_outage_draws_nothing_from_the_random_module_of_the_program(
    runtime: str, fresh_server: Server, namespace: str
) -> None:
    """Its seed is the user's; and Hypothesis, which compares its state, blames the test that is running."""

    async def main() -> None:
        async with opened(runtime, fresh_server.url, namespace, **TIMES) as cache:
            assert await eventually(lambda: cache.set("k", 1))
            before = random.getstate()
            fresh_server.kill()
            await eventually(lambda: _given_up_on(cache))
            recorder = cache.record()
            await eventually(lambda: recorder.probes >= 2)
            assert random.getstate() == before

    run_on(runtime, main)


async def _given_up_on(cache: Subject) -> bool:
    """Whether the breaker is open after another read."""
    await cache.get("k")
    return cache.is_out
