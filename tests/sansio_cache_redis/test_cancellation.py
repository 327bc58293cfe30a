"""Cancellation at every await, on asyncio and trio, in memory and on a real server (fault 28, L7, S9).

A ticker lets the loop turn n times and then cancels the operation, for n = 0, 1, 2, … until the operation
is faster than the ticker. Whatever n is: nobody's lease or hold is left behind, no reply is misread, and
the cancellation is seen by its caller.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from sansio_cache import Policy
from sansio_cache_redis import anyio as cache_anyio
from support.nightly import CANCELLATIONS, many
from support.runtimes import PATIENT, Place, is_free, runs, until

CANCELLABLE = tuple(
    Place(runtime, store) for store in ("memory", "server") for runtime in ("asyncio", "trio")
)
ON_ASYNCIO = tuple(place for place in CANCELLABLE if place.runtime == "asyncio")
ON_TRIO_OR_ASYNCIO_SERVER = tuple(place for place in CANCELLABLE if place.store == "server")

MOST_TICKS = 1_000_000  # bounds only a failure: an operation that never completes


def growing(first: int = 0) -> Iterator[int]:
    """Every number of ticks up to 40; further on, where the loop mostly turns idle, every tenth more."""
    ticks = first
    while ticks < MOST_TICKS:
        yield ticks
        ticks += 1 + max(0, ticks - 40) // 10
    raise AssertionError("the operation never completed")


async def slowly():
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def loader(value):
    async def load():
        await slowly()
        return value

    return load


# The operations: each on a key of its own, with what may be read under that key afterwards.


async def load(cache, key):
    assert await cache.get_or_load(key, loader(f"loaded {key}")) == f"loaded {key}"


async def load_that_fails(cache, key):
    async def fail():
        await slowly()
        raise LookupError(key)

    with pytest.raises(LookupError):
        await cache.get_or_load(key, fail)


async def store(cache, key):
    assert await cache.set(key, f"loaded {key}")


async def store_many(cache, key):
    assert await cache.set_many({key: f"loaded {key}", f"{key}+": 1}) == {key: True, f"{key}+": True}


async def mutate(cache, key):
    async with cache.mutate(key) as mutation:
        await slowly()
        mutation.set(key, f"loaded {key}")


async def invalidate(cache, key):
    assert (await cache.invalidate(key)).done == 1


async def read_many(cache, key):
    found = await cache.get_many([key, "steady"])
    assert found == {"steady": "the steady value"}


async def load_with_tags(cache, key):
    """Two tags, of which one is new each time."""
    assert await cache.get_or_load(key, loader(f"loaded {key}"), tags=["t", key]) == f"loaded {key}"


async def store_with_tags(cache, key):
    assert await cache.set(key, f"loaded {key}", tags=["t", key])


async def read_an_entry_with_tags(cache, key):
    assert await cache.get("tagged") == "the tagged value"
    assert await cache.get_many(["tagged", key]) == {"tagged": "the tagged value"}


async def mutate_with_tags(cache, key):
    async with cache.mutate(key, tags=[key]) as mutation:
        await slowly()
        mutation.set(key, f"loaded {key}")


async def invalidate_a_tag(cache, key):
    assert (await cache.invalidate(tags=[key])).done == 1


async def invalidate_after_a_block(cache, key):
    async with cache.invalidating(key, tags=[key]):
        await slowly()


async def expire(cache, key):
    assert (await cache.expire(key)).done == 1


async def load_many(cache, key):
    async def load(keys):
        await slowly()
        return {each: f"loaded {each}" for each in keys}

    found = await cache.get_or_load_many([key, "steady", f"{key}+"], load, tags=())
    assert found == {key: f"loaded {key}", "steady": "the steady value", f"{key}+": f"loaded {key}+"}


async def load_many_that_fails(cache, key):
    async def fail(keys):
        await slowly()
        raise LookupError(key)

    with pytest.raises(LookupError):
        await cache.get_or_load_many([key, f"{key}+"], fail)


async def load_many_with_tags_in_part(cache, key):
    async def load(keys):
        await slowly()
        return {key: f"loaded {key}"}

    found = await cache.get_or_load_many([key, f"{key}+"], load, tags=["t", key])
    assert found == {key: f"loaded {key}"}


async def remove_by_pattern(cache, key):
    assert (await cache.delete_pattern(f"{key}*")).complete


OPERATIONS = [
    load,
    load_that_fails,
    store,
    store_many,
    mutate,
    invalidate,
    read_many,
    load_with_tags,
    store_with_tags,
    read_an_entry_with_tags,
    mutate_with_tags,
    invalidate_a_tag,
    invalidate_after_a_block,
    expire,
    load_many,
    load_many_that_fails,
    load_many_with_tags_in_part,
    remove_by_pattern,
]
INVALIDATING = {invalidate, invalidate_a_tag, invalidate_after_a_block, expire}
"""Whose effect is not undone by being cancelled: the caller's database may have changed."""


async def cancelled_in_a_scope(ticks, operation, cache, key):
    """Run an operation and cancel it by its scope, before it begins for -1; returns whether it completed."""
    completed = False

    async def tick(scope):
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            if ticks < 0:
                scope.cancel()
            else:
                tasks.start_soon(tick, scope)
            await operation(cache, key)
            completed = True
        tasks.cancel_scope.cancel()
    assert completed or scope.cancelled_caught, "a cancellation was swallowed"
    return completed


async def cancelled_as_a_task(ticks, operation, cache, key):
    """Run an operation and cancel its task, as asyncio programs do; returns whether it completed."""
    task = asyncio.ensure_future(operation(cache, key))
    for _ in range(ticks):
        await asyncio.sleep(0)
    if not task.cancel():
        await task
        return True
    with pytest.raises(asyncio.CancelledError):
        await task
    return False


async def check_every_tick(world, operation, cancelling, first):
    cache = world.cache
    await cache.set("steady", "the steady value")
    await cache.set("tagged", "the tagged value", tags=["steady"])
    tried = 0
    for ticks in growing(first):
        key = f"k{ticks}"
        if operation in INVALIDATING:
            await cache.set(key, "old", tags=[key])
        beside = None

        async def read_beside():
            nonlocal beside
            beside = await cache.get("steady")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_beside)
            completed = await cancelling(ticks, operation, cache, key)
        tried += 1

        assert beside == "the steady value", "a reply was misread"
        await until(lambda: len(cache.driver._coordinator.single_flight) == 0)
        left = world.raw.read()
        for name in (key, f"{key}+"):
            assert is_free(left.get(name)), f"after {ticks} ticks a lease is left on {name}"
        if operation in INVALIDATING:
            assert await cache.get(key) is None, f"after {ticks} ticks the invalidation was forgotten"
            if operation in (invalidate, invalidate_after_a_block):
                assert key not in left
            if operation in (invalidate_a_tag, invalidate_after_a_block):
                assert world.raw.version(key) is None
        assert await cache.get(key) in (None, f"loaded {key}")
        assert await cache.get_or_load(key, loader(f"loaded {key}")) == f"loaded {key}"
        assert await cache.get("steady") == "the steady value"
        if completed:
            break
    assert tried > 1 or cancelling is cancelled_as_a_task, "nothing was cancelled"
    assert cache.stats().errors == {}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@runs(CANCELLABLE, compare=None)
async def test_an_operation_cancelled_at_any_await_leaves_nothing_behind(world, operation):
    """Fault 28: S9, L7."""
    await check_every_tick(world, operation, cancelled_in_a_scope, -1)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@runs(ON_ASYNCIO, compare=None)
async def test_a_task_cancelled_at_any_await_leaves_nothing_behind(world, operation):
    """Fault 28, by `asyncio.Task.cancel()`. In memory some operations never wait, and cannot be cancelled."""
    await check_every_tick(world, operation, cancelled_as_a_task, 1)


@pytest.mark.parametrize("operation", [load, store, mutate, invalidate, expire, load_many])
@runs(ON_ASYNCIO, compare=None)
async def test_a_task_cancelled_twice_says_nothing_of_the_store(world, operation):
    """The second cancellation strikes in the clean-up. The store serves: there is no outage, and no error."""
    cache = world.cache
    await cache.set("steady", "the steady value")
    for ticks in range(12):
        for pause in range(3):
            key = f"k{ticks}-{pause}"
            await cache.set(key, "old")
            task = asyncio.ensure_future(operation(cache, key))
            for turns in (ticks, pause):
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            assert not cache.driver._coordinator.is_out
            if operation in INVALIDATING and ticks:  # before the first turn it has not begun
                assert await cache.get(key) is None, "it was neither told nor remembered"
    await until(lambda: not cache.driver._coordinator.pending_invalidations)
    assert await cache.get("steady") == "the steady value"
    assert (cache.stats().errors, cache.stats().gave_up) == ({}, {})


@runs(CANCELLABLE, compare=None, policy=Policy(stale_for_s=600))
async def test_a_refresh_goes_on_whenever_the_reader_that_started_it_is_cancelled(world):
    """L7, the other way round: it is the cache's, and nobody waits for it."""
    cache = world.cache
    for ticks in growing(-1):
        key = f"k{ticks}"
        await cache.set(key, "old")
        await cache.expire(key)
        started = cache.stats().refreshes

        async def read(cache, key):
            assert await cache.get_or_load(key, loader(f"loaded {key}")) == "old"

        completed = await cancelled_in_a_scope(ticks, read, cache, key)
        await until(lambda: len(cache.driver._coordinator.single_flight) == 0)

        assert is_free(world.raw.cell(key))
        if completed:
            assert cache.stats().refreshes == started + 1
        if cache.stats().refreshes > started:
            assert await cache.get(key) == f"loaded {key}"
        if completed:
            break
    assert cache.stats().errors == {}


@runs(CANCELLABLE, compare=None)
async def test_the_first_call_of_a_cache_may_be_cancelled_while_it_connects(world):
    """A connection that is being opened goes on being opened, and is used by the next caller."""
    for ticks in growing():
        cache = world.open()
        completed = await cancelled_in_a_scope(ticks, load, cache, f"k{ticks}")
        assert await cache.get_or_load(f"k{ticks}", loader(f"loaded k{ticks}")) == f"loaded k{ticks}"
        assert is_free(world.raw.cell(f"k{ticks}"))
        await cache.aclose()
        world.caches.remove(cache)
        if completed:
            break


@runs(CANCELLABLE, compare=None)
async def test_followers_of_a_cancelled_leader_load_for_themselves(world):
    cache = world.cache
    results = []
    is_loading = anyio.Event()

    async def hang():
        is_loading.set()
        await anyio.sleep_forever()

    async def follow():
        results.append(await cache.get_or_load("k", loader("loaded")))

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as leader:
        leader.start_soon(cache.get_or_load, "k", hang)
        await is_loading.wait()
        for _ in range(5):
            tasks.start_soon(follow)
        await until(lambda: cache.followers == 5)
        leader.cancel_scope.cancel()

    assert results == ["loaded"] * 5
    assert await cache.get("k") == "loaded"


@runs(CANCELLABLE, compare=None)
async def test_a_cancelled_follower_leaves_the_leader_alone(world):
    cache = world.cache
    gate = anyio.Event()

    async def wait():
        await gate.wait()
        return "loaded"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.get_or_load, "k", wait)
        await until(lambda: world.trace.count("AcquireLease") == 1)
        async with anyio.create_task_group() as followers:
            for _ in range(5):
                followers.start_soon(cache.get_or_load, "k", wait)
            await until(lambda: cache.followers == 5)
            followers.cancel_scope.cancel()
        assert cache.followers == 0
        gate.set()

    assert await cache.get("k") == "loaded"


@pytest.mark.timing
@runs(CANCELLABLE, compare=None, policy=Policy(lease_s=0.6, max_lease_s=60))
async def test_renewals_end_with_a_cancelled_load(world):
    """L6."""

    async def hang():
        await until(lambda: world.trace.count("RenewLeases") >= 1)
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await world.cache.get_or_load("k", hang)

    assert scope.cancelled_caught
    assert world.raw.read() == {}
    renewals = world.trace.count("RenewLeases")
    # Three periods of the renewal, measured by a load that is renewed itself.
    before = renewals

    async def load():
        await until(lambda: world.trace.count("RenewLeases") >= before + 3)
        return 1

    await world.cache.get_or_load("k2", load)
    late = [fact for fact in world.trace.facts if fact[0] == "RenewLeases"][renewals:]
    assert {fact[1][0][0] for fact in late} == {"k2"}


@runs(CANCELLABLE, compare=None)
async def test_a_mutation_cancelled_in_its_block_invalidates(world):
    """S6."""
    await world.cache.set("k", "old")

    with anyio.CancelScope() as scope:
        async with world.cache.mutate("k") as mutation:
            mutation.set("k", "new")
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert world.raw.read() == {}


@runs(ON_TRIO_OR_ASYNCIO_SERVER, compare=None)
async def test_two_hundred_readers_of_which_half_are_cancelled_get_their_own_values(world):
    """S9: a cancelled caller's reply is read and dropped, not handed to another."""
    cache = world.cache
    await cache.set_many({f"k{n}": n for n in range(200)})
    read = {}

    async def keep(n):
        read[n] = await cache.get(f"k{n}")

    for ticks in range(30):
        read.clear()
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as doomed:
            for n in range(200):
                (doomed if n % 2 else tasks).start_soon(keep, n)
            for _ in range(ticks):
                await anyio.lowlevel.checkpoint()
            doomed.cancel_scope.cancel()
        assert all(read[n] == n for n in read)
        assert set(read) >= set(range(0, 200, 2))
    assert cache.stats().errors == {}


async def invalidate_the_tag(cache):
    await cache.invalidate(tags=["t"])


async def end_a_mutation(cache):
    async with cache.mutate("k", tags=["t"]):
        pass


async def end_a_mutation_that_sets(cache):
    async with cache.mutate("k") as mutation:
        mutation.set("k", "new")


ENDINGS = {
    "invalidate": lambda cache: cache.invalidate("k"),
    "a tag": invalidate_the_tag,
    "expire": lambda cache: cache.expire("k"),
    "mutate": end_a_mutation,
    "mutate and set": end_a_mutation_that_sets,
}


@pytest.mark.parametrize("times", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_invalidation_that_is_cancelled_over_and_over_is_remembered(
    ending, times, fresh_server, namespace
):
    """Fault 28: asyncio does not shield from the second cancellation of a task; the server says nothing."""

    async def main():
        async with cache_anyio.Cache.from_url(fresh_server.url, namespace=namespace, **PATIENT) as cache:
            await cache.set("k", "old", tags=["t"])
            assert await cache.get("k", "none") == "old"
            write = ENDINGS[ending]
            if ending.startswith("mutate"):
                # Frozen not before it holds the key.
                driver = cache._bound()
                run = driver.run
                begun = []

                async def freezing(step, loader=None, call=None):
                    if begun:
                        fresh_server.freeze()
                    begun.append(step)
                    return await run(step, loader, call)

                driver.run = freezing
                task = asyncio.create_task(write(cache))
                await until(lambda: len(begun) == 2)
                driver.run = run
            else:
                fresh_server.freeze()
                task = asyncio.create_task(write(cache))
            for _ in range(times):
                for _ in range(20):  # until it waits again, for a server that says nothing
                    await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if times > 1:
                assert cache._coordinator.pending_invalidations >= 1
            fresh_server.thaw()
            await until(lambda: cache._coordinator.pending_invalidations == 0)
            assert await cache.get("k", "none") in ("none", "new")

    asyncio.run(main())


# At random, of many operations at once, on connections that they share.


COUNT = many(120, CANCELLATIONS)
AT_ONCE = 40
KEYS = 400
"""So many have names: tags outlive `clear()`, and all there are is looked at in each turn."""
LONGEST_TICKS = 60


GIVING_BACK = {load_that_fails, load_many_that_fails, load_many_with_tags_in_part}
"""Which end with giving a lease back, and are shielded then."""


async def cancelled_at_random(chances, operation, cache, key, tally):
    """Run an operation, and cancel it after some turns of the loop: it must not go on as if it was not."""
    ticks, completed, turns, cancelled_at = int(LONGEST_TICKS * chances.random() ** 3), False, 0, None
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:

            async def tick():
                nonlocal turns, cancelled_at
                while True:
                    if turns == ticks:
                        cancelled_at = turns
                        scope.cancel()
                    await anyio.lowlevel.checkpoint()
                    turns += 1

            tasks.start_soon(tick)
            await operation(cache, key)
            completed = True
        tasks.cancel_scope.cancel()
    if completed and cancelled_at is not None and operation not in GIVING_BACK:
        assert turns - cancelled_at <= 2, "a cancellation was swallowed"
    tally[completed] += 1


@runs(CANCELLABLE, compare=None, **PATIENT)
async def test_operations_cancelled_at_random_beside_each_other_leave_nothing_behind(world):
    """Fault 28: S9, L7, B2."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chances, cache, tally = random.Random(seed), world.cache, Counter()
    coordinator = cache.driver._coordinator
    await cache.set("steady", "the steady value")
    await cache.set("tagged", "the tagged value", tags=["steady"])
    for turn in itertools.count(0, AT_ONCE):
        if tally[False] >= COUNT:
            break
        if turn % KEYS == 0:  # an invalidation that is told late must not hit those who have the name next
            await until(lambda: coordinator.pending_invalidations == 0)
        # None begins as another is called: a pattern is removed as well.
        keys = [f"k{(turn + place) % KEYS:03}" for place in range(AT_ONCE)]
        operations = [chances.choice(OPERATIONS) for _ in keys]
        chosen = list(zip(keys, operations, strict=True))
        await cache.set_many(
            {key: "old" for key, operation in chosen if operation in INVALIDATING}, tags=["t"]
        )
        async with anyio.create_task_group() as tasks:
            for key, operation in chosen:
                tasks.start_soon(cancelled_at_random, chances, operation, cache, key, tally)

        await until(lambda: len(coordinator.single_flight) == 0)
        assert await cache.get("steady") == "the steady value"
        found = await cache.get_many(keys)
        for key, operation in chosen:
            allowed = {f"loaded {key}"} if operation not in INVALIDATING else {"old"}
            assert found.get(key) in {None, *allowed}, f"seed {seed}: {key} after {operation.__name__}"
        left = world.raw.read()
        leased = [name for name, cell in left.items() if not name.startswith("%") and not is_free(cell)]
        assert leased == [], f"seed {seed}: leases are left on {leased}"
        await cache.clear()
        await cache.set("steady", "the steady value")
        await cache.set("tagged", "the tagged value", tags=["steady"])
    print(f"{tally[False]:,} cancelled, {tally[True]:,} not")
    assert cache.stats().errors == {}


def test_an_operation_that_swallows_its_cancellation_is_found():
    """The negative control."""

    async def deaf(cache, key):
        with anyio.CancelScope(shield=True):
            for _ in range(2 * LONGEST_TICKS):
                await anyio.lowlevel.checkpoint()

    async def run():
        await cancelled_at_random(random.Random(1), deaf, None, "k", Counter())

    with pytest.raises(AssertionError, match="a cancellation was swallowed"):
        anyio.run(run)
