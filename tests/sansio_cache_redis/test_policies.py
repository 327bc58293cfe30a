"""What policies say of failures, deletions by pattern, two versions of a program: see `support.runtimes`."""

import anyio
import attrs
import pytest

from sansio_cache import (
    Absent,
    CacheConnectionError,
    CacheTimeoutError,
    ConfigurationError,
    Policy,
)
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    DeleteKeys,
    ExpireCells,
    FillCells,
    HoldCells,
    ReadCell,
    ReadCells,
    ReadTags,
    ScanKeys,
)
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.notices import PatternProgressed
from sansio_cache.ttl import NO_JITTER
from support.runtimes import is_free, loading, never, runs, until

LONG = Policy(ttl=600, jitter=NO_JITTER, stale_for_s=600, retry_after_s=600)


async def load_many(keys):
    return dict.fromkeys(keys, "loaded")


# Failures.


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FailureKind.OTHER, CacheConnectionError), (FailureKind.TIMEOUT, CacheTimeoutError)],
    ids=["refused", "too slow"],
)
@runs(policy=Policy(on_read_error="raise"))
async def test_a_read_raises_where_the_policy_says_so(world, kind, error):
    calls = [
        lambda: world.cache.get("k"),
        lambda: world.cache.get_many(["k"]),
        lambda: world.cache.get_or_load("k", never),
        lambda: world.cache.get_or_load_many(["k"], load_many),
    ]
    with world.cache.refusing(kind, ReadCell, ReadCells):
        for call in calls:
            with pytest.raises(error) as raised:
                await call()
            assert isinstance(raised.value, CacheConnectionError)
            if kind.is_outage:
                break  # the breaker is open from here on: see the next test
    await until(lambda: not world.cache.cache._coordinator.needs_recovery)
    world.take_log()
    assert await world.cache.get_or_load("k", loading(1)) == 1


@runs(policy=Policy(on_read_error="raise"), compare="store")
async def test_a_read_raises_at_once_while_the_store_does_not_serve(world):
    """The breaker is open: nobody asks, and everybody is told."""
    with world.cache.refusing(FailureKind.UNAVAILABLE):
        with pytest.raises(CacheConnectionError):
            await world.cache.get("k")
        assert world.cache.cache._coordinator.is_out
        for call in (
            world.cache.get("k"),
            world.cache.get_many(["k"]),
            world.cache.get_or_load("k", never),
            world.cache.get_or_load_many(["k"], load_many),
        ):
            with pytest.raises(CacheConnectionError, match="is not asked until it does"):
                await call
        assert await world.cache.set("k", 1) is False, "writes fail open, as ever"
    await until(lambda: not world.cache.cache._coordinator.needs_recovery)
    assert world.take_log() != []
    assert await world.cache.get_or_load("k", loading(1)) == 1


@pytest.mark.parametrize("command", [AcquireLease, ReadTags], ids=["lease", "tags"])
@runs(policy=Policy(on_read_error="raise"))
async def test_a_load_raises_wherever_it_needed_the_store(world, command):
    await world.cache.set("tagged", 1, tags=["t"])
    with world.cache.refusing(FailureKind.OTHER, command):
        with pytest.raises(CacheConnectionError):
            await world.cache.get_or_load("tagged" if command is ReadTags else "k", never)
        if command is ReadTags:
            for call in (world.cache.get("tagged"), world.cache.get_many(["tagged"])):
                with pytest.raises(CacheConnectionError):
                    await call
    world.take_log()
    assert await world.cache.get("tagged") == 1


@runs(policy=Policy(on_read_error="raise"))
async def test_a_batch_raises_where_its_leases_cannot_be_had_and_holds_none(world):
    with world.cache.refusing(FailureKind.OTHER, AcquireLeases), pytest.raises(CacheConnectionError):
        await world.cache.get_or_load_many(["a", "b"], load_many)
    world.take_log()
    assert world.raw.read() == {}


@pytest.mark.parametrize("command", [ReadTags, AcquireLeases, FillCells], ids=lambda each: each.__name__)
@runs()
async def test_a_batch_loads_without_the_store_where_that_fails(world, command):
    """The business never sees the cache fail."""
    await world.cache.set("tagged", 1, tags=["t"])
    with world.cache.refusing(FailureKind.OTHER, command):
        found = await world.cache.get_or_load_many(["tagged", "k"], load_many)
    assert found == {"tagged": "loaded" if command is ReadTags else 1, "k": "loaded"}
    assert all(is_free(cell) for cell in world.raw.entries().values())
    assert world.cache.stats().gave_up == {FailureKind.OTHER: 1}
    world.take_log()


@runs()
async def test_tags_that_cannot_be_issued_make_a_load_go_uncached(world):
    """Fault 13: without their versions nothing may be stored (S7)."""
    with world.cache.refusing(FailureKind.OUT_OF_MEMORY, AcquireLease, AcquireLeases, HoldCells):
        assert await world.cache.get_or_load("k", loading("mine"), tags=["t"]) == "mine"
        assert await world.cache.get_or_load_many(["k"], load_many, tags=["t"]) == {"k": "loaded"}
        assert await world.cache.set("k", "mine", tags=["t"]) is False
    await until(lambda: not world.cache.cache._coordinator.needs_recovery)
    assert world.raw.entries() == {}
    assert world.cache.stats().loads_without_lease == 2
    world.take_log()


@runs(policy=Policy(on_invalidate_error="raise"), compare="store")
async def test_an_invalidation_that_fails_raises_where_the_policy_says_so_and_is_remembered(world):
    await world.cache.set_many({"a": 1, "b": 1, "c": 1})
    await world.cache.set("listed", 1, tags=["t"])

    async def block():
        async with world.cache.invalidating("c"):
            pass

    with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys, ExpireCells):
        for call, count in (
            (lambda: world.cache.invalidate("a", tags=["t"]), 2),
            (lambda: world.cache.expire("b"), 1),
            (block, 1),
        ):
            with pytest.raises(CacheConnectionError, match=f"told of {count} of {count} invalidations"):
                await call()
        assert await world.cache.get_many(["listed"]) == {}, "this process does not read it any more"
        assert await world.cache.get("listed") is None
    await until(lambda: not world.cache.cache._coordinator.pending_invalidations)
    world.take_log()
    assert world.raw.entries().keys() == {"listed"}
    assert await world.cache.get_many(["a", "b", "c", "listed"]) == {}


@runs(compare="store")
async def test_a_mutation_tells_whether_the_store_was_told_of_its_keys_and_tags(world):
    async with world.cache.mutate("a", "b", tags=["t"]) as mutation:
        assert mutation.result is None
        mutation.set("a", 1)
    assert (mutation.result.done, mutation.result.remembered) == (3, 0)

    with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys):
        async with world.cache.mutate("a", "b", tags=["t"]) as mutation:
            mutation.set("a", 2)
        assert (mutation.result.done, mutation.result.remembered) == (1, 2)
        with pytest.raises(LookupError):
            async with world.cache.mutate("a", tags=["t"]) as mutation:
                raise LookupError
        assert (mutation.result.done, mutation.result.remembered) == (0, 2)
    await until(lambda: not world.cache.cache._coordinator.pending_invalidations)
    world.take_log()


@runs(policy=Policy(on_invalidate_error="raise"), compare="store")
async def test_a_mutation_raises_what_the_store_could_not_be_told_of_where_the_policy_says_so(world):
    with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys):
        with pytest.raises(CacheConnectionError, match="told of 2 of 3 invalidations"):
            async with world.cache.mutate("a", "b", tags=["t"]) as mutation:
                mutation.set("a", 1)
        with pytest.raises(LookupError) as raised:  # what the block has to say goes first
            async with world.cache.mutate("a", tags=["t"]) as mutation:
                raise LookupError
        assert raised.value.__context__ is None
        assert mutation.result.remembered == 2
    await until(lambda: not world.cache.cache._coordinator.pending_invalidations)
    world.take_log()


@runs(compare="store")
async def test_a_remembered_invalidation_of_a_tag_bypasses_all_that_has_it(world):
    """S7: also for readers that do not name the tag, and for who would share a load that began before."""
    other = world.open()
    await world.cache.set("k", "old", tags=["t"])
    await world.cache.set("plain", "kept")

    with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys):
        result = await world.cache.invalidate(tags=["t"])
        assert (result.done, result.remembered) == (0, 1)

        assert await world.cache.get("k") is None
        assert await world.cache.get_many(["k", "plain"]) == {"plain": "kept"}
        assert await world.cache.get_or_load("k2", loading("uncached"), tags=["t"]) == "uncached"
        assert await world.cache.get_or_load_many(["k3"], load_many, tags=["t"]) == {"k3": "loaded"}
        assert set(world.raw.entries()) == {"k", "plain"}
        assert await other.get("k") == "old", "others cannot know"
        assert await world.cache.get_or_load_many(["k"], load_many) == {"k": "loaded"}
        assert await world.cache.get("plain") == "kept"
    await until(lambda: not world.cache.cache._coordinator.pending_invalidations)
    world.take_log()
    assert world.cache.cache._coordinator.bypassed == frozenset()
    assert await world.cache.get_or_load("k2", loading("new"), tags=["t"]) == "new"
    assert await other.get("k2") == "new"


@runs(compare="store")
async def test_a_load_that_began_before_a_remembered_invalidation_of_its_tag_is_not_shared_after_it(world):
    """S7: the store takes the old value, as it has not been told; this process knows better."""
    calls = []
    is_invalidated = anyio.Event()

    async def load():
        calls.append(1)
        if len(calls) > 1:
            return "new"
        with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys):
            assert (await world.cache.invalidate(tags=["t"])).remembered == 1
            is_invalidated.set()
            await until(lambda: world.trace.count("AcquireLease") >= 2)
        return "old"

    async def follow():
        await is_invalidated.wait()
        answers.append(await world.cache.get_or_load("k", load))

    answers = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        assert await world.cache.get_or_load("k", load, tags=["t"]) == "old"

    await until(lambda: not world.cache.cache._coordinator.pending_invalidations)
    assert answers == ["new"]
    world.take_log()


@pytest.mark.timing
@runs(policy=Policy(wait_s=0.05, on_wait_timeout="raise"))
async def test_a_caller_that_has_waited_long_enough_for_another_process_is_told(world):
    grant = world.raw.lease("k")

    with pytest.raises(CacheTimeoutError, match="another caller's load had not ended"):
        await world.cache.get_or_load("k", never)
    assert world.raw.cell("k").grant == grant
    assert world.cache.stats().misses == {MissReason.ABSENT: 1}


@pytest.mark.timing
@runs(policy=Policy(wait_s=0.05, on_wait_timeout="raise"), compare="store")
async def test_a_caller_that_has_waited_long_enough_for_its_own_process_is_told(world):
    gate = anyio.Event()
    is_loading = anyio.Event()

    async def load():
        is_loading.set()
        await gate.wait()
        return "slow"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.cache.get_or_load, "k", load)
        await is_loading.wait()
        with pytest.raises(CacheTimeoutError):
            await world.cache.get_or_load("k", never)
        gate.set()
    assert await world.cache.get("k") == "slow"


@pytest.mark.timing
@runs(policy=Policy(wait_s=0.05, on_wait_timeout="stale", stale_for_s=600))
async def test_without_a_stale_value_a_caller_that_has_waited_long_enough_loads(world):
    world.raw.lease("k")

    assert await world.cache.get_or_load("k", loading("mine")) == "mine"
    assert world.cache.stats().loads_without_lease == 1


# By pattern.


@runs(compare="store", chunk_keys=10)
async def test_a_dry_run_counts_and_removes_nothing(world):
    values = {f"user:{n}": n for n in range(35)}
    await world.cache.set_many(values | {"order:1": 1})

    result = await world.cache.delete_pattern("user:*", dry_run=True)

    assert (result.deleted, result.complete, result.matched) == (0, True, 35)
    assert await world.cache.get_many(values) == values
    assert world.cache.stats().invalidated == 0
    result = await world.cache.delete_pattern("user:*")
    assert (result.deleted, result.complete, result.matched) == (35, True, 35)


@pytest.mark.parametrize("dry_run", [False, True], ids=["deletion", "dry run"])
@runs(compare=None, chunk_keys=10)  # how many pages there are is the store's
async def test_progress_is_told_after_each_page_up_to_the_end(world, dry_run):
    await world.cache.set_many({f"user:{n}": n for n in range(35)})
    told, heard = [], []
    world.cache.subscribe(
        lambda notice: heard.append(notice) if isinstance(notice, PatternProgressed) else None
    )

    result = await world.cache.delete_pattern("user:*", dry_run=dry_run, progress=told.append)

    assert result.matched == 35
    assert told == sorted(told)
    assert told[-1] == 35
    assert [max(each.deleted, each.matched if dry_run else 0) for each in heard] == told
    assert heard[-1] == PatternProgressed(world.raw.full("user:*"), 35, 0 if dry_run else 35)


@runs(compare=None, chunk_keys=10)
async def test_progress_that_raises_ends_the_deletion_with_its_error(world):
    await world.cache.set_many({f"user:{n}": n for n in range(100)})
    told = []

    def stop(count):
        told.append(count)
        if count:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        await world.cache.delete_pattern("user:*", progress=stop)

    left = len(world.raw.read())
    assert left == 100 - told[-1]
    assert told.count(told[-1]) == 1, "it was not asked again"
    assert (await world.cache.delete_pattern("user:*")).deleted == left, "and nothing is in the way"


@pytest.mark.parametrize(
    "progress", [5, "told", [], loading(1)], ids=["int", "str", "list", "coroutine function"]
)
@runs()
async def test_progress_that_cannot_be_told_is_refused_before_anything_is_removed(world, progress):
    await world.cache.set("user:1", 1)

    with pytest.raises(ConfigurationError, match="progress"):
        await world.cache.delete_pattern("user:*", progress=progress)
    assert await world.cache.get("user:1") == 1


@runs(compare="store", chunk_keys=10)
async def test_a_deletion_that_breaks_off_says_what_it_has_removed(world):
    await world.cache.set_many({f"user:{n}": n for n in range(30)})

    with world.cache.refusing(FailureKind.WRITES_REFUSED, DeleteKeys):
        result = await world.cache.delete_pattern("user:*")
    assert (result.deleted, result.complete) == (0, False)
    assert result.matched > 0
    with world.cache.refusing(FailureKind.OTHER, ScanKeys):
        result = await world.cache.clear()
    assert (result.deleted, result.complete, result.matched) == (0, False, 0)
    world.take_log()
    assert (await world.cache.clear()).deleted == 30


# Versions of a program.


@attrs.frozen
class Former:
    full_name: str


@attrs.frozen
class Person:
    name: str
    age: int = 0


def from_former(older):
    return {"name": older["full_name"]}


@runs()
async def test_a_hook_serves_an_older_entry_with_tags_for_as_long_as_these_hold(world):
    older, newer = world.cache, world.open(migrations={Person: from_former})
    await older.get_or_load("k", loading(Former("Ada")), type=Former, tags=["users"])

    async def refused(keys):
        raise AssertionError(keys)

    assert await newer.get("k", type=Person) == Person("Ada")
    assert await newer.get_many(["k"], type=Person) == {"k": Person("Ada")}
    assert await newer.get_or_load("k", never, type=Person, tags=["users"]) == Person("Ada")
    assert await newer.get_or_load_many(["k"], refused, type=Person) == {"k": Person("Ada")}
    await older.invalidate(tags=["users"])
    assert await newer.get("k", "none", type=Person) == "none"
    assert await newer.get_or_load("k", loading(Person("Eve")), type=Person, tags=["users"]) == Person("Eve")
    assert await newer.get("k", type=Person) == Person("Eve")


@runs(policy=LONG)
async def test_two_versions_with_tags_keep_their_entries_side_by_side(world):
    """Fault 33, S7: one invalidation of the tag, or of the key, and both load once."""
    older, newer = world.cache, world.open(policy=LONG)
    calls = []

    async def both(name):
        assert await older.get_or_load("k", loading(Former(name), calls), type=Former, tags=["t"]) == Former(
            name
        )
        assert await newer.get_or_load("k", loading(Person(name), calls), type=Person, tags=["t"]) == Person(
            name
        )

    for turn, invalidate in enumerate(
        (
            lambda: older.invalidate(tags=["t"]),
            lambda: newer.invalidate("k"),
            lambda: older.invalidate("k"),
            lambda: newer.invalidate(tags=["t"]),
        ),
        start=1,
    ):
        for _ in range(3):
            await both(f"name {turn}")
        assert await older.get("k", type=Former) == Former(f"name {turn}")
        assert await newer.get("k", type=Person) == Person(f"name {turn}")
        assert len(calls) == 2 * turn
        await invalidate()
        assert await older.get("k", type=Former) is None
        assert await newer.get("k", type=Person) is None


@runs(policy=LONG)
async def test_what_one_version_writes_the_other_does_not_serve_an_older_one_of(world):
    """S1: what is kept beside is tied to the very entry beside which it was loaded."""
    older, newer = world.cache, world.open(policy=LONG)
    await older.set("k", Former("Ada"), type=Former)
    assert await newer.get_or_load("k", loading(Person("Ada")), type=Person) == Person("Ada")

    await older.set("k", Former("Eve"), type=Former)

    assert await newer.get("k", type=Person) is None
    assert await newer.get_or_load("k", loading(Person("Eve")), type=Person) == Person("Eve")
    await newer.set("k", Person("Bob"), type=Person)
    assert await older.get("k", type=Former) is None
    assert await older.get_or_load("k", loading(Former("Bob")), type=Former) == Former("Bob")
    assert await newer.get("k", type=Person) == Person("Bob")


@runs(policy=LONG)
async def test_an_invalidation_of_a_tag_of_one_version_takes_away_what_the_other_has_kept_beside_it(world):
    """S7: whoever invalidates it means the value, in whatever version it is kept."""
    older, newer = world.cache, world.open(policy=LONG)
    await older.get_or_load("k", loading(Former("Ada")), type=Former, tags=["users"])
    assert await newer.get_or_load("k", loading(Person("Ada")), type=Person) == Person("Ada")
    assert await newer.get_or_load("k", never, type=Person) == Person("Ada")
    assert newer.stats().variants_stored == 1

    await newer.invalidate(tags=["users"])

    assert await newer.get("k", type=Person) is None
    assert await older.get("k", type=Former) is None
    assert await newer.get_or_load("k", loading(Person("Eve")), type=Person) == Person("Eve")


@runs(policy=LONG)
async def test_so_it_does_where_the_other_version_is_loaded_again_at_once(world):
    """S7: the new one's neighbour may be there before it looks."""
    older, newer = world.cache, world.open(policy=LONG)
    await older.get_or_load("k", loading(Former("Ada")), type=Former, tags=["users"])
    await newer.get_or_load("k", loading(Person("Ada")), type=Person, tags=["people"])
    await older.invalidate(tags=["users"])
    await older.get_or_load("k", loading(Former("Eve")), type=Former, tags=["users"])

    assert await newer.get("k", type=Person) is None
    assert await newer.get_or_load("k", loading(Person("Eve")), type=Person, tags=["people"]) == Person("Eve")
    await older.invalidate(tags=["people"])
    assert await newer.get("k", type=Person) is None
    assert await older.get("k", type=Former) == Former("Eve")


@runs(policy=LONG)
async def test_a_batch_keeps_beside_only_what_it_names_all_tags_of(world):
    """S7."""
    older, newer = world.cache, world.open(policy=LONG)
    await older.set("a", Former("Ada"), type=Former, tags=["users"])
    await older.set("b", Former("Bob"), type=Former)
    loaded = []

    async def load(keys):
        loaded.append(sorted(keys))
        return {key: Person(key) for key in keys}

    for _ in range(2):
        found = await newer.get_or_load_many(["a", "b"], load, type=Person)
        assert found == {"a": Person("a"), "b": Person("b")}
    assert loaded == [["a", "b"], ["a"]]
    assert newer.stats().variants_stored == 1
    for _ in range(2):
        assert await newer.get_or_load_many(["a"], load, type=Person, tags=["users"]) == {"a": Person("a")}
    assert loaded[2:] == [["a"]]
    await older.invalidate(tags=["users"])
    assert await newer.get("a", type=Person) is None


@runs(policy=LONG, compare="store")
async def test_nothing_is_kept_beside_while_the_store_was_not_told_of_a_tag(world):
    """S7: what is loaded now may be older than what others will store."""
    older, newer = world.cache, world.open(policy=LONG)
    await older.set("k", Former("Ada"), type=Former, tags=["users"])
    with newer.refusing(FailureKind.PERMISSION, DeleteKeys):
        assert (await newer.invalidate(tags=["users"])).remembered == 1
        assert newer.cache._coordinator.bypassed
        for _ in range(2):
            assert await newer.get_or_load("k", loading(Person("Eve")), type=Person) == Person("Eve")
        assert newer.stats().variants_stored == 0
        assert newer.stats().loads_without_lease == 2
    await until(lambda: not newer.cache._coordinator.pending_invalidations)
    assert await newer.get("k", type=Person) is None
    world.take_log()


@runs(policy=LONG)
async def test_an_entry_kept_beside_may_be_absent_and_may_be_refreshed(world):
    older, newer = world.cache, world.open(policy=LONG)
    await older.set("k", Former("Ada"), type=Former)
    assert await newer.get_or_load("k", loading(Absent()), type=Person) is None
    assert await newer.get_or_load("k", never, type=Person) is None
    await older.set("k", Former("Ada"), type=Former)

    early = attrs.evolve(LONG, refresh_at=0.000001)
    stored_ms = world.raw.now_ms()
    assert await newer.get_or_load("k", loading(Person("Ada")), type=Person, policy=early) == Person("Ada")
    # The client's estimate of the server's clock may be a few milliseconds behind.
    await until(lambda: world.raw.now_ms() > stored_ms + 50)
    older_one = await newer.get_or_load("k", loading(Person("Ada", 36)), type=Person, policy=early)
    assert older_one == Person("Ada")
    await until(lambda: newer.stats().stored == 3 and not newer.driver._coordinator.single_flight)
    assert await newer.get("k", type=Person) == Person("Ada", 36)
    assert await older.get("k", type=Former) == Former("Ada")
