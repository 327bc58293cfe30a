"""Freshness, on both caches, three runtimes and both stores: stale serving, refreshes, and what loaders give.

Each test runs in every place, and what it left there is compared: see `support.runtimes`. A refresh runs in
the background, so a test waits until it is over before it goes on: else commands might come in another order.
"""

import _thread
import asyncio
import threading
from contextvars import ContextVar
from datetime import timedelta
from functools import partial, wraps

import anyio
import anyio.lowlevel
import attrs
import pytest
import trio

from sansio_cache import Absent, ConfigurationError, Fresh, Policy, SerializationError
from sansio_cache.cell import Cell, Kind, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import AcquireLease, DeleteKeys
from sansio_cache.entry import MissReason, seal
from sansio_cache.loader import LoadContext
from sansio_cache.notices import Ended, RefreshFailed, RefreshStarted, StaleServed
from sansio_cache.ttl import MAX_TTL_S, NO_JITTER
from sansio_cache_redis import sync as cache_sync
from sansio_cache_runtime.sync.workers import Workers
from support.runtimes import (
    EVERYWHERE,
    MAX_VALUE_BYTES,
    ON_MEMORY,
    Place,
    in_parallel,
    is_free,
    loading,
    never,
    runs,
    together,
    until,
)

STALE = Policy(ttl=0.05, jitter=NO_JITTER, stale_for_s=600, retry_after_s=600)
LONG = Policy(ttl=600, jitter=NO_JITTER, stale_for_s=600, retry_after_s=600)
ON_THREADS = (Place("sync", "memory"), Place("sync", "server"))


async def stale_entry(world, value, key="k", **options):
    """Store a value that is past its soft expiry."""
    await world.cache.get_or_load(key, loading(value), policy=STALE, **options)
    world.raw.outdate(key)


async def refreshed(world, stored=2):
    """Wait until so many values were stored, and nothing is under way any more."""
    await until(
        lambda: (
            world.cache.stats().stored == stored and len(world.cache.driver._coordinator.single_flight) == 0
        )
    )


class Gate:
    """A loader that waits until it is let go, and gives its value then."""

    def __init__(self, value):
        self.calls = []
        self._value = value
        self._open = anyio.Event()

        async def load():
            self.calls.append(1)
            await self._open.wait()
            if isinstance(value, Exception):
                raise value
            return value

        self.load = load

    def open(self):
        self._open.set()


# Stale while revalidate.


@runs(policy=LONG)
async def test_a_stale_value_is_served_at_once_and_refreshed_in_the_background(world):
    await stale_entry(world, "old")
    gate = Gate("new")

    assert await world.cache.get_or_load("k", gate.load) == "old", "the loader has not ended"
    await until(lambda: gate.calls)
    assert await world.cache.get_or_load("k", never) == "old", "also for those who come meanwhile"
    gate.open()
    await refreshed(world)

    assert await world.cache.get_or_load("k", never) == "new"
    assert await world.cache.get("k") == "new"
    stats = world.cache.stats()
    assert (stats.stale_hits, stats.refreshes, stats.loads, stats.refresh_failures) == (2, 1, 2, 0)
    assert world.trace.count("AcquireLease") == 2, "one for the first load, one for the refresh"


@runs(policy=LONG, compare="store")
async def test_of_fifty_readers_of_a_stale_value_nobody_waits_and_one_refresh_runs(world):
    """L2."""
    await stale_entry(world, "old")
    gate = Gate("new")

    assert await in_parallel(50, lambda _: world.cache.get_or_load("k", gate.load)) == ["old"] * 50
    gate.open()
    await refreshed(world)

    assert gate.calls == [1]
    assert await world.cache.get("k") == "new"
    stats = world.cache.stats()
    assert (stats.stale_hits, stats.refreshes, stats.stored) == (50, 1, 2)


@runs(policy=LONG)
async def test_a_refresh_that_fails_keeps_the_stale_value_and_is_not_tried_again_at_once(world):
    """S13; the next try is `retry_after_s` away, which is longer than this test."""
    await stale_entry(world, "old")
    calls = []

    async def fail():
        calls.append(1)
        raise OSError("database down")

    for _ in range(5):
        assert await world.cache.get_or_load("k", fail) == "old"
        await until(
            lambda: (
                world.cache.stats().refresh_failures == 1
                and not world.cache.driver._coordinator.single_flight
            )
        )

    assert calls == [1]
    stats = world.cache.stats()
    assert (stats.stale_hits, stats.load_failures, stats.refreshes) == (5, 1, 1)
    assert is_free(world.raw.cell("k"))
    assert world.raw.cell("k").body.endswith(b'"old"')
    [warning] = world.take_log()
    assert "a refresh in the background failed with OSError" in warning
    assert "database down" not in warning


@runs(policy=attrs.evolve(LONG, retry_after_s=0))
async def test_a_refresh_that_has_failed_is_tried_again_after_its_rest(world):
    await stale_entry(world, "old")

    async def fail():
        raise OSError("database down")

    for failures in (1, 2, 3):
        assert await world.cache.get_or_load("k", fail) == "old"
        await until(
            lambda failures=failures: (
                world.cache.stats().refresh_failures == failures
                and not world.cache.driver._coordinator.single_flight
            )
        )
    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world)

    assert await world.cache.get("k") == "new"
    assert len(world.take_log()) == 1, "the same warning is given once"


@runs(policy=LONG)
async def test_where_another_process_refreshes_a_reader_has_the_stale_value_and_starts_nothing(world):
    """L2: the lease sees to it."""
    await stale_entry(world, "old")
    world.raw.lease("k")

    for _ in range(3):
        assert await world.cache.get_or_load("k", never) == "old"
        await until(lambda: not world.cache.driver._coordinator.single_flight)

    assert world.cache.stats().refreshes == 0
    assert world.trace.count("AcquireLease") == 2, "asked once, and then it rests"


@runs(policy=LONG)
async def test_an_invalidation_during_a_refresh_wins_over_it(world):
    """S1: the cell that issued the refresh's grant is gone."""
    await stale_entry(world, "old")
    other = world.open(policy=LONG)

    async def load():
        await other.invalidate("k")
        return "older than the invalidation"

    assert await world.cache.get_or_load("k", load) == "old"
    await until(lambda: world.cache.stats().lost_leases == 1)

    assert world.raw.read() == {}
    assert await world.cache.get_or_load("k", loading("new")) == "new"


@runs(policy=LONG)
async def test_a_caller_after_the_invalidation_does_not_wait_for_the_refresh_it_voided(world):
    """S1 in one process: a refresh is a flight of its own, and is never joined."""
    await stale_entry(world, "old")
    gate = Gate("older than the invalidation")
    assert await world.cache.get_or_load("k", gate.load) == "old"
    await until(lambda: gate.calls)

    await world.cache.invalidate("k")
    assert await world.cache.get_or_load("k", loading("new")) == "new"
    gate.open()
    await until(lambda: world.cache.stats().lost_leases == 1)

    assert await world.cache.get("k") == "new"


@pytest.mark.timing
@runs(policy=Policy(ttl=0.05, jitter=NO_JITTER, stale_for_s=0.05, retry_after_s=600))
async def test_past_its_stale_time_a_value_is_not_served(world):
    await world.cache.get_or_load("k", loading("old"))
    await until(lambda: world.raw.cell("k") is None)

    assert await world.cache.get_or_load("k", loading("new"), ttl=600) == "new"
    assert world.cache.stats().stale_hits == 0


@runs()
async def test_a_key_kept_alive_by_refreshes_that_fail_does_not_serve_its_value_for_ever(world):
    """A lease stretches the life of its key; what may be served goes by the policy all the same."""
    now_ms = world.raw.now_ms()
    body = world.raw.body("k", "old")
    world.raw.put(
        world.raw.full("k"), Cell(Kind.VALUE, soft_ms=now_ms - 60_000, filled_by=b"g" * 16, body=body)
    )
    assert await world.cache.get("connected") is None

    policy = attrs.evolve(LONG, stale_for_s=50)
    assert await world.cache.get_or_load("k", loading("new"), policy=policy) == "new"
    assert world.cache.stats().stale_hits == 0


@pytest.mark.timing
@runs(policy=LONG)
async def test_the_renewal_goes_on_while_a_refresh_runs(world):
    """L2: a slow refresh keeps its lease, and its value is stored."""
    await stale_entry(world, "old")
    policy = attrs.evolve(LONG, lease_s=1.5)

    async def load():
        await until(lambda: world.trace.count("RenewLeases") >= 1)
        return "slow"

    assert await world.cache.get_or_load("k", load, policy=policy) == "old"
    await refreshed(world)
    assert await world.cache.get("k") == "slow"
    assert world.cache.stats().lost_leases == 0


@runs(policy=LONG)
async def test_a_refresh_whose_value_cannot_be_stored_rests_as_one_that_fails(world):
    await stale_entry(world, "old")
    calls = []

    for _ in range(3):
        assert await world.cache.get_or_load("k", loading({1, 2}, calls)) == "old"
        await until(
            lambda: world.cache.stats().unstorable == 1 and not world.cache.driver._coordinator.single_flight
        )

    assert len(calls) == 1
    assert is_free(world.raw.cell("k"))
    assert len(world.take_log()) == 1


@runs(policy=LONG)
async def test_a_refresh_is_heard_by_subscribers_and_is_in_no_story_of_the_caller(world):
    """It is not one of the caller's own calls; and the caller's loader of the same key is not recursion."""
    await stale_entry(world, "old")
    heard = []
    world.cache.subscribe(heard.append)

    async def load():
        assert await world.cache.get("k2") is None
        return "new"

    with world.cache.explain() as explanation:
        assert await world.cache.get_or_load("k", load) == "old"
        await refreshed(world)

    assert [type(notice) for notice in explanation.notices] == [StaleServed, Ended]
    assert RefreshStarted(world.raw.full("k"), early=False) in heard
    await world.cache.set("k", "x", ttl=600)


@runs(policy=LONG)
async def test_a_loader_may_have_another_key_refreshed_that_loads_the_first(world):
    """Nobody waits for a refresh, so it is not part of the load that happened to start it."""
    await stale_entry(world, "old", key="inner")

    async def refresh():
        return await world.cache.get("outer", "nothing")

    async def outer():
        inner = await world.cache.get_or_load("inner", refresh)
        await until(lambda: world.cache.stats().stored == 2)
        return [inner]

    assert await world.cache.get_or_load("outer", outer) == ["old"]
    await refreshed(world, stored=3)
    assert await world.cache.get("inner") == "nothing"


@runs(ON_THREADS, policy=LONG, compare=None)
async def test_refreshes_that_nobody_has_time_for_are_skipped_and_tried_by_a_later_read(world):
    """Bounded: at most so many threads, and so many that wait for one."""
    driver = world.cache.driver
    driver._workers.close()
    driver._workers = Workers(driver._background, most_threads=1, most_waiting=1)
    gates = [Gate(f"new {n}") for n in range(3)]
    for n in range(3):
        await stale_entry(world, "old", key=f"k{n}")

    assert await world.cache.get_or_load("k0", gates[0].load) == "old"
    await until(lambda: gates[0].calls)
    assert await world.cache.get_or_load("k1", gates[1].load) == "old"
    assert await world.cache.get_or_load("k2", gates[2].load) == "old"

    assert world.cache.stats().refreshes_skipped == 1
    gates[0].open()
    gates[1].open()
    await refreshed(world, stored=5)
    assert gates[2].calls == []
    gates[2].open()
    assert await world.cache.get_or_load("k2", gates[2].load) == "old"
    await refreshed(world, stored=6)
    assert await world.cache.get_many(["k0", "k1", "k2"]) == {f"k{n}": f"new {n}" for n in range(3)}


@runs(ON_THREADS, policy=LONG, compare=None)
async def test_where_the_system_has_no_thread_to_give_a_refresh_is_skipped(world):
    await stale_entry(world, "old")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", _no_thread)
        assert world.cache.cache.get_or_load("k", lambda: "never") == "old"

    assert world.cache.stats().refreshes_skipped == 1
    assert not world.cache.driver._coordinator.single_flight
    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world)


def _no_thread(*args):
    raise RuntimeError("can't start new thread")


@runs(tuple(place for place in EVERYWHERE if place.runtime != "sync"), policy=LONG, compare=None)
async def test_of_refreshes_in_an_event_loop_only_so_many_run_at_once(world):
    """The others are skipped, and tried by a later read."""
    world.cache.driver._workers._most_running = 2
    gates = [Gate(f"new {n}") for n in range(3)]
    for n in range(3):
        await stale_entry(world, "old", key=f"k{n}")

    for n in range(3):
        assert await world.cache.get_or_load(f"k{n}", gates[n].load) == "old"
    await until(lambda: gates[0].calls and gates[1].calls)
    assert world.cache.stats().refreshes_skipped == 1
    gates[0].open()
    gates[1].open()
    await refreshed(world, stored=5)
    assert gates[2].calls == []

    await until(lambda: world.cache.driver._workers.running == 0)
    gates[2].open()
    assert await world.cache.get_or_load("k2", gates[2].load) == "old"
    await refreshed(world, stored=6)
    # One that fails, and one that finds somebody else at it, have had their turn as well.
    for key in ("k0", "k1"):
        await world.cache.expire(key)
    world.raw.lease("k0")
    assert await world.cache.get_or_load("k0", never) == "new 0"
    assert await world.cache.get_or_load("k1", Gate(LookupError()).load) == "new 1"
    await until(lambda: world.cache.driver._workers.running <= 1)
    await world.cache.aclose()
    assert world.caches[0].stats().refreshes_skipped == 1


tenant = ContextVar("tenant", default="nobody")


@runs(policy=LONG)
async def test_a_refresh_sees_what_the_context_of_its_reader_says(world):
    """Whose database it is, say."""
    seen = []

    def load():
        seen.append(tenant.get())
        return "new"

    await stale_entry(world, "old")
    for name in ("one", "two"):
        tenant.set(name)
        assert await world.cache.get_or_load("k", load) in ("old", "new")
        await until(
            lambda name=name: seen[-1:] == [name] and not len(world.cache.driver._coordinator.single_flight)
        )
        await world.cache.expire("k")

    assert seen == ["one", "two"]


@runs(policy=LONG)
async def test_a_refresh_does_not_tell_its_loader_a_value_that_was_invalidated_meanwhile(world):
    """S1, S7: by its key, or by a tag."""
    for key in ("%t:t", "k"):
        told = []

        async def load(context, told=told):
            told.append(context.previous)
            return "new"

        await world.cache.set("k", "old", tags=["t"])
        await world.cache.expire("k")
        gone = DeleteKeys((world.raw.full(key),), 10.0)
        with world.cache.before(AcquireLease, lambda gone=gone: world.raw.perform(gone)):
            assert await world.cache.get_or_load("k", load, tags=["t"]) == "old"
            await until(lambda told=told: told and not len(world.cache.driver._coordinator.single_flight))
        assert told == [None]
        assert await world.cache.get("k") == "new"


# Early refresh.


def aged(world, value, *, age_s=50.0, fresh_for_s=50.0, load_s=0.0, key="k"):
    """Put an entry there that was granted some time ago, and is fresh for some more."""
    now_ms = world.raw.now_ms()
    codec = codec_for(None, MAX_VALUE_BYTES)
    body = seal(world.raw.full(key), codec, codec.encode(value).payload, load_s)
    cell = Cell(
        Kind.VALUE,
        soft_ms=int(now_ms + fresh_for_s * 1000),
        filled_by=make_grant(b"somebody", int((now_ms - age_s * 1000) * 1000))
        if now_ms > age_s * 1000
        else b"s" * 8 + bytes(8),
        body=body,
    )
    world.raw.put(world.raw.full(key), cell)


EARLY = Policy(ttl=600, jitter=NO_JITTER, refresh_at=0.4, retry_after_s=600)


@runs(policy=EARLY)
async def test_a_value_past_its_share_of_life_is_refreshed_while_it_is_served(world):
    aged(world, "old")
    assert await world.cache.get("connected") is None  # the server's clock is learned
    gate = Gate("new")

    assert await world.cache.get_or_load("k", gate.load) == "old"
    await until(lambda: gate.calls)
    assert await world.cache.get_or_load("k", never) == "old"
    assert await world.cache.get("k") == "old", "it is fresh all the while"
    gate.open()
    await refreshed(world, stored=1)

    assert await world.cache.get_or_load("k", never) == "new"
    stats = world.cache.stats()
    assert (stats.redis_hits, stats.stale_hits, stats.refreshes, stats.loads) == (4, 0, 1, 1)


@pytest.mark.parametrize(
    "policy",
    [attrs.evolve(EARLY, refresh_at=0.9), attrs.evolve(EARLY, refresh_at=None), Policy(xfetch_beta=1.0)],
    ids=["share", "none", "xfetch"],
)
@runs()
async def test_a_value_that_is_young_enough_is_not_refreshed(world, policy):
    """XFetch: a load that took no time is worth no early refresh."""
    aged(world, "old", age_s=1.0, fresh_for_s=500.0)
    assert await world.cache.get("connected") is None

    for _ in range(20):
        assert await world.cache.get_or_load("k", never, policy=policy) == "old"
    assert world.trace.count("AcquireLease") == 0


@runs(policy=Policy(ttl=600, jitter=NO_JITTER, xfetch_beta=2.0, retry_after_s=600))
async def test_a_value_whose_load_took_long_is_refreshed_early_with_some_luck(world):
    """XFetch: with a load that took 1,000 times what is left, one draw in 2,000 says no."""
    aged(world, "old", fresh_for_s=60.0, load_s=60_000.0)
    assert await world.cache.get("connected") is None

    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world, stored=1)
    assert await world.cache.get("k") == "new"


@runs(policy=EARLY)
async def test_an_early_refresh_that_fails_leaves_a_fresh_value_fresh(world):
    aged(world, "old")
    assert await world.cache.get("connected") is None

    async def fail():
        raise OSError("database down")

    for _ in range(3):
        assert await world.cache.get_or_load("k", fail) == "old"
        await until(
            lambda: (
                world.cache.stats().refresh_failures == 1
                and not world.cache.driver._coordinator.single_flight
            )
        )
    assert await world.cache.get("k") == "old"
    assert is_free(world.raw.cell("k"))
    assert len(world.take_log()) == 1


@runs(policy=EARLY)
async def test_a_loaded_value_is_stored_with_the_expiry_that_early_refresh_needs(world):
    await world.cache.get_or_load("k", loading("mine"))

    sent_ms, _ = world.trace.fills[world.raw.cell("k").filled_by]
    assert sent_ms == 600_000
    assert world.raw.cell("k").soft_ms > world.raw.now_ms()


# Soft expiry.


@runs(policy=LONG)
async def test_an_expired_value_is_stale_at_once(world):
    await world.cache.set_many({"k": "old", "k2": "other"})

    result = await world.cache.expire("k", "absent")

    assert (result.done, result.remembered) == (2, 0)
    assert await world.cache.get("k", "default") == "default"
    assert await world.cache.get_many(["k", "k2"]) == {"k2": "other"}
    assert world.cache.stats().soft_expired == 2
    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world, stored=3)
    assert await world.cache.get("k") == "new"


@runs()
async def test_without_stale_serving_an_expired_value_is_loaded_anew(world):
    await world.cache.set("k", "old")
    await world.cache.expire("k")
    previous = []

    async def load(context):
        previous.append(context.previous)
        return "new"

    assert await world.cache.get_or_load("k", load) == "new"
    assert await world.cache.get("k") == "new"
    assert previous == ["old"]
    assert world.cache.stats().misses == {MissReason.EXPIRED: 1}


@runs()
async def test_a_soft_expiry_voids_the_loads_in_flight(world):
    async def load():
        await world.cache.expire("k")
        return "older than the expiry"

    assert await world.cache.get_or_load("k", load) == "older than the expiry"
    assert world.raw.read() == {}
    assert world.cache.stats().lost_leases == 1


@runs(policy=LONG)
async def test_a_soft_expiry_voids_the_refresh_in_flight_and_the_value_stays_stale(world):
    await stale_entry(world, "old")

    async def load():
        await world.cache.expire("k")
        return "older than the expiry"

    assert await world.cache.get_or_load("k", load) == "old"
    await until(
        lambda: world.cache.stats().lost_leases == 1 and not world.cache.driver._coordinator.single_flight
    )
    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world)
    assert await world.cache.get("k") == "new"


# What a loader gives, and is told.


@attrs.frozen
class Person:
    name: str


@runs()
async def test_that_there_is_nothing_is_remembered(world):
    calls = []

    assert await world.cache.get_or_load("nobody", loading(Absent(), calls), type=Person) is None
    assert await world.cache.get_or_load("nobody", never, type=Person) is None
    assert await world.cache.get("nobody", "default", type=Person) == "default"
    assert await world.cache.get_many(["nobody"], type=Person) == {}

    async def none_of(keys):
        raise AssertionError(keys)

    assert await world.cache.get_or_load_many(["nobody"], none_of, type=Person) == {}
    assert len(calls) == 1
    assert world.cache.stats().redis_hits == 4
    await world.cache.invalidate("nobody")
    assert await world.cache.get_or_load("nobody", loading(Person("Ada")), type=Person) == Person("Ada")


@pytest.mark.parametrize(
    ("given", "policy", "bounds"),
    [
        pytest.param(Absent(), Policy(), (66_000, 72_000), id="absent"),
        pytest.param(Absent(), Policy(negative_ttl=10, jitter=NO_JITTER), (10_000, 10_000), id="policy"),
        pytest.param(Absent(ttl=7), Policy(), (7_000, 7_000), id="absent for so long"),
        pytest.param(Absent(), LONG, (60_000, 60_000), id="never stale"),
        pytest.param(Fresh("v", ttl=30), Policy(), (30_000, 30_000), id="fresh, not jittered"),
        pytest.param(Fresh("v", ttl=30), LONG, (630_000, 630_000), id="fresh, then stale"),
        pytest.param(Fresh(None, ttl=30), Policy(), (30_000, 30_000), id="fresh None"),
        pytest.param(Fresh(None, ttl=90), Policy(), (60_000, 60_000), id="fresh None for longer"),
        pytest.param(None, Policy(), (66_000, 72_000), id="None"),
        pytest.param(None, Policy(ttl=10, jitter=NO_JITTER), (10_000, 10_000), id="None for less"),
        pytest.param(None, LONG, (60_000, 60_000), id="None, never stale"),
    ],
)
@runs()
async def test_a_loader_may_say_how_long_its_answer_lives(world, given, policy, bounds):
    value = given.value if isinstance(given, Fresh) else None
    assert await world.cache.get_or_load("k", loading(given), policy=policy) == value

    sent_ms, _ = world.trace.fills[world.raw.cell("k").filled_by]
    assert bounds[0] <= sent_ms <= bounds[1]
    assert bool(world.raw.cell("k").soft_ms) == (value is not None and policy is LONG)
    marker = object()
    assert (await world.cache.get("k", marker) is marker) == (value is None)


@pytest.mark.timing
@runs(compare="store")
async def test_followers_of_a_load_that_finds_nothing_get_none(world):
    calls = []

    async def load():
        calls.append(1)
        return Absent()

    assert await together(world, "k", 10, lambda _: world.cache.get_or_load("k", load)) == [None] * 10
    assert calls == [1]


@pytest.mark.parametrize("given", [Absent(), Fresh(1, ttl=5)], ids=["absent", "fresh"])
@runs(ON_MEMORY)
async def test_what_only_a_loader_may_say_is_refused_by_writers(world, given):
    with pytest.raises(SerializationError):
        await world.cache.set("k", given)
    async with world.cache.mutate("k") as mutation:
        with pytest.raises(SerializationError):
            mutation.set("k", given)


@runs(policy=STALE)
async def test_an_absent_answer_is_never_served_stale(world):
    await world.cache.get_or_load("k", loading(Absent(ttl=0.05)))
    await until(lambda: world.raw.cell("k") is None)

    assert await world.cache.get_or_load("k", loading("found"), policy=LONG) == "found"


@runs(policy=LONG)
async def test_an_absent_answer_that_was_expired_is_loaded_anew(world):
    await world.cache.get_or_load("k", loading(Absent()))
    await world.cache.expire("k")

    assert await world.cache.get_or_load("k", loading("found")) == "found"
    assert world.cache.stats().stale_hits == 0


@runs(policy=LONG)
async def test_a_loader_that_takes_an_argument_is_told_the_key_and_what_it_replaces(world):
    told = []

    async def load(context):
        told.append(context)
        return f"v{len(told)}"

    assert await world.cache.get_or_load("k", load) == "v1"
    await world.cache.expire("k")
    assert await world.cache.get_or_load("k", load) == "v1"
    await refreshed(world)
    assert await world.cache.get("k") == "v2"
    await world.cache.invalidate("k")
    assert await world.cache.get_or_load("k", load) == "v3"

    full = world.raw.full("k")
    assert told == [LoadContext(full), LoadContext(full, "v1"), LoadContext(full)]


@runs()
async def test_a_loader_whose_entry_is_kept_beside_another_version_s_is_told_the_key_that_was_asked_for(
    world,
):
    """Fault 33: where its entry lies is none of its business."""
    told = []
    await world.cache.set("k", {"name": "Ada", "age": 36})

    async def load(context):
        told.append(context)
        return Person("Ada")

    assert await world.cache.get_or_load("k", load, type=Person) == Person("Ada")
    assert world.cache.stats().variants_stored == 1
    assert told == [LoadContext(world.raw.full("k"))]


class Loads:
    def none(self):
        return "none"

    def one(self, context):
        return context.key.rpartition(":")[2]

    def __call__(self, context):
        return context.key.rpartition(":")[2]


def retrying(loader):
    """A decorator as programs have them: it takes whatever it is given."""

    @wraps(loader)
    def call(*args, **kwargs):
        return loader(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    ("loader", "is_told"),
    [
        pytest.param(lambda context: context.key.rpartition(":")[2], True, id="function"),
        pytest.param(lambda context=None: context, False, id="default"),
        pytest.param(lambda *rest: list(rest), False, id="rest"),
        pytest.param(Loads().one, True, id="method"),
        pytest.param(Loads().none, False, id="method without"),
        pytest.param(Loads(), True, id="object"),
        pytest.param(partial(lambda a, context: context.key.rpartition(":")[2], 1), True, id="partial"),
        pytest.param(partial(lambda a: a, 1), False, id="partial without"),
        pytest.param(retrying(lambda context: context.key.rpartition(":")[2]), True, id="decorated"),
        pytest.param(retrying(lambda: 5), False, id="decorated without"),
        pytest.param(dict, False, id="class"),
    ],
)
@runs(ON_MEMORY)
async def test_a_loader_is_told_something_if_it_cannot_do_without(world, loader, is_told):
    answer = await world.cache.get_or_load("k", loader)

    assert (answer == "k") == is_told


# Shutting down.


@pytest.mark.parametrize("outcome", ["a value", "an error"])
@runs(policy=LONG, compare=None)
async def test_a_refresh_that_runs_when_the_cache_is_closed_ends_cleanly(world, outcome, recwarn):
    """L3, L7: nothing is logged, no thread or task is left, and the lease is given back at once.

    What a loader gives after that is stored by nobody: another may hold the lease by then.
    """
    await stale_entry(world, "old")
    other = world.open(policy=LONG)
    gate = Gate("new" if outcome == "a value" else OSError("database down"))
    assert await world.cache.get_or_load("k", gate.load) == "old"
    await until(lambda: gate.calls)
    assert not is_free(world.raw.cell("k"))

    def left_behind():
        return threads_of_ours() if world.cache.is_sync else tasks_of_ours(world.place.runtime)

    assert left_behind(), "the control: it is seen while it runs"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.cache.aclose)
        if world.cache.is_sync:
            await until(lambda: is_free(world.raw.cell("k")))
            gate.open()

    assert left_behind() == []
    assert world.cache.stats().refresh_failures == (outcome == "an error" and world.cache.is_sync)
    cell = world.raw.cell("k")
    assert is_free(cell), "the lease was given back"
    assert cell.body.endswith(b'"old"')
    assert await other.get_or_load("k", loading("newer")) == "old"
    await until(lambda: not other.driver._coordinator.single_flight)
    assert [line for line in world.take_log() if "a refresh in the background failed" not in line] == []
    assert list(recwarn) == []


def threads_of_ours():
    """The threads that run refreshes of this process."""
    return [each.name for each in threading.enumerate() if each.name.startswith("sansio-cache-refresh")]


def tasks_of_ours(runtime):
    """The names of what the cache runs in the background of this event loop."""
    if runtime == "asyncio":
        return [task.get_name() for task in asyncio.all_tasks() if "_guard" in repr(task.get_coro())]
    found = []
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        found.append(task.name)
    return [name for name in found if "TrioBackground.start" in name]


@runs(policy=LONG, compare=None)
async def test_a_refresh_that_hangs_does_not_keep_the_cache_from_closing(world):
    """The lease lapses; closing takes a bounded time."""
    await stale_entry(world, "old")
    gate = Gate("new")
    assert await world.cache.get_or_load("k", gate.load) == "old"
    await until(lambda: gate.calls)

    with anyio.fail_after(20):
        await world.cache.aclose()
    gate.open()
    await until(lambda: threads_of_ours() == [])
    assert world.take_log() == []


@runs(policy=LONG, compare=None)
async def test_refreshes_that_wait_when_the_cache_is_closed_are_dropped(world):
    keys = [f"k{n}" for n in range(12)]
    gate = Gate("new")
    for key in keys:
        await stale_entry(world, "old", key=key)
    for key in keys:
        assert await world.cache.get_or_load(key, gate.load) == "old"
    await until(lambda: gate.calls)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.cache.aclose)
        if world.cache.is_sync:
            await until(lambda: world.cache.driver._workers._is_closed)
            gate.open()
    if world.cache.is_sync:
        assert len(gate.calls) <= 4, "there are so many threads"
    assert threads_of_ours() == []
    assert world.take_log() == []


@runs(policy=LONG)
async def test_a_subscriber_that_raises_in_a_refresh_harms_nobody(world):
    await stale_entry(world, "old")

    def broken(notice):
        if isinstance(notice, RefreshStarted | RefreshFailed):
            raise ValueError

    world.cache.subscribe(broken)
    assert await world.cache.get_or_load("k", loading("new")) == "old"
    await refreshed(world)
    assert await world.cache.get("k") == "new"
    assert len(world.take_log()) == 1


# Lives that depend on data.


@pytest.mark.parametrize("ttl", [0, -30, 1e-9], ids=repr)
@pytest.mark.parametrize("kind", ["fresh", "absent"])
@runs(policy=LONG)
async def test_a_loaded_value_with_nothing_left_to_live_is_given_and_not_stored(world, kind, ttl):
    async def load(calls):
        calls.append(1)
        await anyio.lowlevel.checkpoint()
        return Fresh("token", ttl=ttl) if kind == "fresh" else Absent(ttl=ttl)

    expected = "token" if kind == "fresh" else None
    calls = []
    for _ in range(2):
        assert await world.cache.get_or_load("k", load, calls) == expected
    assert calls == [1, 1]
    assert world.raw.read() == {}
    assert world.cache.stats().outlived == 2

    # What it would have replaced goes, be it in the caller's load or in a refresh.
    await stale_entry(world, "old")
    assert await world.cache.get_or_load("k", load, calls, policy=Policy()) == expected
    assert world.raw.read() == {}
    await stale_entry(world, "old")
    assert await world.cache.get_or_load("k", load, calls) == "old"
    await until(lambda: len(world.cache.driver._coordinator.single_flight) == 0)
    assert world.raw.read() == {}


@runs(policy=LONG)
async def test_of_a_batch_what_has_nothing_left_to_live_is_given_and_not_stored(world):
    await stale_entry(world, "old", key="a")

    async def load(keys):
        await anyio.lowlevel.checkpoint()
        return {"a": Fresh("A", ttl=-1), "b": Fresh("B", ttl=0), "c": "C"}

    assert await world.cache.get_or_load_many(["a", "b", "c"], load) == {"a": "A", "b": "B", "c": "C"}
    assert set(world.raw.read()) == {"c"}


@pytest.mark.parametrize("ttl", [2**31, 10**400, float("inf")], ids=["seconds", "int", "inf"])
@runs()
async def test_a_life_that_is_too_long_is_the_longest(world, ttl):
    await world.cache.get_or_load("loaded", loading(Fresh(1, ttl=ttl)))
    assert await world.cache.set("set", 1, ttl=ttl)
    async with world.cache.mutate("mutated") as mutation:
        mutation.set("mutated", 1, ttl=ttl)
    for key in ("loaded", "set", "mutated"):
        assert abs(world.raw.ttl_ms(key) - MAX_TTL_S * 1000) < 60_000


@pytest.mark.parametrize("ttl", [0, -30, 1e-9, timedelta(0), float("-inf")], ids=repr)
@runs()
async def test_a_write_with_nothing_left_to_live_is_an_invalidation(world, ttl):
    for key in "abcd":
        await world.cache.set(key, "old")
    assert await world.cache.set("a", "new", ttl=ttl) is False
    assert await world.cache.set_many({"b": "new", "c": "new"}, ttl=ttl) == {"b": False, "c": False}
    async with world.cache.mutate("d") as mutation:
        mutation.set("d", "new")
        mutation.set("d", "newer", ttl=ttl)
    assert world.raw.read() == {}
    assert await world.cache.set_many({}, ttl=ttl) == {}


@runs()
async def test_a_value_that_cannot_be_stored_is_refused_however_long_it_lives(world):
    await world.cache.set("a", "old")
    with pytest.raises(SerializationError):
        await world.cache.set("a", {1, 2}, ttl=0)
    async with world.cache.mutate("b") as mutation:
        with pytest.raises(SerializationError):
            mutation.set("b", {1, 2}, ttl=0)
    assert await world.cache.get("a") == "old"


# What a loader is called with, and what it names by itself (S14).


@runs(policy=LONG, compare="store")
async def test_a_loader_that_is_given_its_arguments_refreshes_each_key_with_its_own(world):
    rows = {place: f"row {place}" for place in range(5)}

    async def load(rows, place):
        await anyio.lowlevel.checkpoint()
        return rows[place]

    for place in rows:
        await stale_entry(world, "old", key=f"user:{place}")
    for place in rows:
        assert await world.cache.get_or_load(f"user:{place}", load, rows, place) == "old"
    await refreshed(world, stored=10)
    assert await world.cache.get_many([f"user:{place}" for place in rows]) == {
        f"user:{place}": f"row {place}" for place in rows
    }
    assert world.cache.stats().refreshes_skipped == 0


@runs(policy=LONG, compare=None)
async def test_a_loader_that_names_what_a_loop_rebinds_stores_nothing_under_the_key_of_another(world):
    rows = {place: f"row {place}" for place in range(5)}
    for place in rows:
        await stale_entry(world, "old", key=f"user:{place}")

    for place in rows:

        async def load():
            await anyio.lowlevel.checkpoint()
            return rows[place]  # noqa: B023 - as in code that is older than `args`

        assert await world.cache.get_or_load(f"user:{place}", load) == "old"
    await until(lambda: len(world.cache.driver._coordinator.single_flight) == 0)

    found = await world.cache.get_many([f"user:{place}" for place in rows])
    assert set(found.items()) <= {(f"user:{place}", f"row {place}") for place in rows}
    stats = world.cache.stats()
    assert stats.refreshes_skipped + len(found) == 5
    assert len(world.take_log()) == (stats.refreshes_skipped > 0)


def test_a_script_whose_loader_names_what_its_loop_rebinds_is_told_so_once(caplog):
    """At the top level there are no cells: what the loop rebinds are globals."""
    script = """
for id in rows:
    cache.get_or_load(f"user:{id}", lambda: rows[id], policy=policy)
    cache.expire(f"user:{id}")
for id in rows:
    assert cache.get_or_load(f"user:{id}", lambda: rows[id], policy=policy) == f"row {id}"
"""
    rows = {place: f"row {place}" for place in range(50)}
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        exec(script, {"cache": cache, "rows": rows, "policy": LONG})
    caplog.clear()  # a refresh of the first cache may have come late, and said so, or not
    with cache_sync.Cache.from_url("memory://", namespace="shop") as cache:
        cache._driver._workers._most_threads = 0  # nobody has time for a refresh before the loop has ended
        cache._driver._background.start = lambda *_, **__: True
        names = {"cache": cache, "rows": rows, "policy": LONG}
        exec(script, names)
        jobs = list(cache._driver._workers._jobs)
        assert len(jobs) == 50
        for job in jobs:
            job()
        found = cache.get_many([f"user:{place}" for place in rows])
        assert found == {"user:49": "row 49"}
        assert cache.stats().refreshes_skipped == 49
    [warning] = {record.getMessage() for record in caplog.records}
    assert warning == (
        "cache shop: the refresh of shop:user:0 was skipped: its loader names id, which is bound to "
        "something else by now; bind what it needs at the call: get_or_load(key, loader, id)"
    )


@runs(policy=LONG)
async def test_a_refresh_whose_loader_names_something_else_when_it_has_its_lease_is_skipped(world):
    await stale_entry(world, "old")
    row = "mine"

    def go_on():
        nonlocal row
        row = "another's"

    async def load():
        return row

    with world.cache.before(AcquireLease, go_on):
        assert await world.cache.get_or_load("k", load) == "old"
        await until(lambda: world.cache.stats().refreshes_skipped == 1)
        await until(lambda: len(world.cache.driver._coordinator.single_flight) == 0)
    assert is_free(world.raw.cell("k"))
    [line] = world.take_log()
    assert ":k was skipped: its loader names row, which is bound to something else by now" in line

    assert await world.cache.get_or_load("k", load) == "old", "the next reader means what it is by now"
    await refreshed(world)
    assert await world.cache.get("k") == "another's"


@runs(policy=LONG)
async def test_what_a_loader_names_and_looks_at_late_is_not_stored(world):
    """It may have looked before its name was rebound, or after."""
    await stale_entry(world, "old")
    row, gate = "mine", Gate(None)

    async def load():
        await gate.load()
        return row

    assert await world.cache.get_or_load("k", load) == "old"
    await until(lambda: gate.calls)
    row = "another's"
    gate.open()
    await until(lambda: len(world.cache.driver._coordinator.single_flight) == 0)
    assert world.cache.stats().refreshes_skipped == 1
    assert world.cache.stats().stored == 1
    assert is_free(world.raw.cell("k"))
    assert len(world.take_log()) == 1


@runs(policy=LONG)
async def test_a_loader_that_counts_its_calls_is_refreshed(world):
    calls = 0
    await stale_entry(world, "old")

    async def load():
        nonlocal calls
        calls += 1
        return calls

    assert await world.cache.get_or_load("k", load) == "old"
    await refreshed(world)
    assert await world.cache.get("k") == 1


@runs()
async def test_arguments_come_first_and_what_the_cache_tells_comes_last(world):
    async def load(name, greeting, context):
        return f"{greeting}, {name}: {context.key == world.raw.full('k')} {context.previous}"

    async def load_many(prefix, keys):
        return {key: prefix + key for key in keys}

    async def load_one(prefix, id):
        return f"{prefix}{id}"

    async def load_ids(prefix, ids):
        return {each: f"{prefix}{each}" for each in ids}

    assert await world.cache.get_or_load("k", load, "Ada", "Hello") == "Hello, Ada: True None"
    assert await world.cache.get_or_load_many(["a", "b"], load_many, "x") == {"a": "xa", "b": "xb"}
    things = world.cache.entity("thing", str)
    assert await things.get_or_load(1, load_one, "x") == "x1"
    assert await things.get_or_load_many([1, 2], load_ids, "y") == {1: "x1", 2: "y2"}
    own = world.cache.entity("own", str, loader=load_one)
    assert await own.get_or_load(1, None, "z") == "z1"


@runs(compare=None)
async def test_arguments_without_a_loader_are_refused(world):
    with pytest.raises(ConfigurationError, match="loader is a function; got int"):
        await world.cache.get_or_load("k", 7, 8)
    with pytest.raises(ConfigurationError, match="loader is a function; got int"):
        await world.cache.get_or_load_many(["k"], 7, 8)
