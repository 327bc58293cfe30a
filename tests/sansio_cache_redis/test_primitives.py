"""Look, touch, add, swap, update, lock, scan: the same on all runtimes and stores, a third party's included.

How the machines meet losses and duplicates is explored in `tests/test_exploration.py`.
"""

import pickle
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import count

import anyio
import pytest
from msgspec.structs import replace

from sansio_cache import (
    Absent,
    CacheClosedError,
    CacheConnectionError,
    CacheError,
    CacheTimeoutError,
    ConfigurationError,
    Exact,
    InvalidKeyError,
    InvalidTtlError,
    LockLostError,
    NoEntryError,
    NotStoredError,
    Policy,
    SerializationError,
    UnknownOutcomeError,
    escape_glob,
)
from sansio_cache.cell import FOREIGN, Cell, Kind
from sansio_cache.commands import (
    ClaimCell,
    DeleteKeys,
    FillCells,
    HoldCells,
    InspectCell,
    RenewLeases,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.events import FailureKind
from sansio_cache.ttl import NO_JITTER
from sansio_cache_testing import StoreFault, failing
from support.runtimes import EVERYWHERE, ON_SERVER, THIRD_PARTY, in_parallel, is_free, loading, until
from support.runtimes import runs as runs_in

pytestmark = pytest.mark.servers

runs = partial(runs_in, EVERYWHERE + THIRD_PARTY)

EXACT = Policy(ttl=100, jitter=NO_JITTER, max_life_s=1000)
STALE = Policy(ttl=100, jitter=NO_JITTER, stale_for_s=900)


# Looking.


@runs()
async def test_a_lookup_says_what_an_entry_is_like(world):
    cache = world.cache
    await cache.set("k", {"name": "Ada"}, ttl=EXACT, tags=["users", cache.key.generation("user")])

    found = await cache.lookup("k")

    assert (found.value, found.state, found.is_fresh) == ({"name": "Ada"}, "fresh", True)
    assert found.tags == ("users", "g:user")
    assert 0 <= found.age_s < 100
    assert 0 < found.remaining_s <= 100
    assert found.version == world.raw.cell("k").filled_by
    assert cache.stats().redis_hits == 1


@runs()
async def test_a_lookup_tells_what_is_stale_known_to_be_nothing_and_not_there(world):
    cache = world.cache
    await cache.get_or_load("stale", loading(1), policy=STALE)
    await cache.expire("stale")
    await cache.get_or_load("absent", loading(Absent()))

    stale, absent, miss = [await cache.lookup(key) for key in ("stale", "absent", "miss")]

    assert (stale.state, stale.value, stale.remaining_s) == ("stale", 1, 0)
    assert stale.version is not None
    assert (absent.state, absent.value) == ("absent", None)
    assert absent.remaining_s > 0
    assert miss == await cache.lookup("another")
    assert (miss.state, miss.age_s, miss.remaining_s, miss.version, miss.tags) == (
        "miss",
        None,
        None,
        None,
        (),
    )
    assert [await cache.exists(key) for key in ("stale", "absent", "miss")] == [False] * 3
    assert [await cache.ttl(key) for key in ("stale", "absent", "miss")] == [None] * 3


@runs(compare="store")  # a scan has as many pages as the server has keys
async def test_what_is_expired_that_was_known_to_be_nothing_is_a_miss(world):
    await world.cache.get_or_load("absent", loading(Absent()))
    await world.cache.expire("absent")

    assert (await world.cache.lookup("absent")).state == "miss"
    assert await world.cache.scan() == []


@runs(compare="store")  # a scan has as many pages as the server has keys
async def test_an_entry_is_a_miss_once_its_tag_is_invalidated(world):
    await world.cache.set("k", 1, tags=["users"])
    await world.cache.invalidate(tags=["users"])

    assert (await world.cache.lookup("k")).state == "miss"
    assert not await world.cache.exists("k")
    assert await world.cache.scan() == []


@runs()
async def test_an_entry_of_another_type_exists_and_is_a_miss_to_a_lookup_of_its_own(world):
    cache = world.cache
    await cache.set("k", 7, type=int, ttl=EXACT)

    assert await cache.exists("k")
    assert 0 < await cache.ttl("k") <= 100
    assert (await cache.lookup("k", type=str)).state == "miss"

    await cache.get_or_load("k", loading("7"), type=str, ttl=EXACT)
    variant = await cache.lookup("k", type=str)
    assert (variant.value, variant.state) == ("7", "fresh")
    assert variant.version == (await cache.lookup("k", type=int)).version  # that of the entry itself


@runs()
async def test_what_is_foreign_or_leased_is_a_miss(world):
    world.raw.put(world.raw.full("foreign"), FOREIGN)
    world.raw.lease("leased")

    for key in ("foreign", "leased"):
        assert (await world.cache.lookup(key)).state == "miss"
        assert not await world.cache.exists(key)


@runs()
async def test_a_lookup_does_without_a_store_that_fails(world):
    await world.cache.set("k", 1)
    with world.cache.refusing(FailureKind.PERMISSION, InspectCell):
        assert (await world.cache.lookup("k")).state == "miss"
    world.take_log()


@runs(policy=Policy(on_read_error="raise"))
async def test_a_lookup_raises_where_the_policy_says_so(world):
    with world.cache.refusing(FailureKind.PERMISSION, InspectCell), pytest.raises(CacheConnectionError):
        await world.cache.lookup("k")
    world.take_log()


@runs(enabled=False)
async def test_a_cache_that_is_switched_off_has_nothing_and_gives_nothing_away(world):
    cache = world.cache
    assert (await cache.lookup("k")).state == "miss"
    assert await cache.scan() == []
    assert not await cache.touch("k", 60)
    for call in (cache.add("k", 1), cache.swap("k", 1, version=bytes(16)), cache.incr("k")):
        with pytest.raises(CacheConnectionError, match="switched off"):
            await call
    with pytest.raises(CacheConnectionError, match="switched off"):
        async with cache.lock("k"):
            pass


# Scanning.


@runs(compare="store", chunk_keys=7)
async def test_a_scan_finds_every_entry_with_its_state(world):
    cache = world.cache
    await cache.set_many({f"user:{n}": n for n in range(20)}, tags=["users"])
    await cache.set("other", 1)
    await cache.get_or_load("user:none", loading(Absent()))
    world.raw.lease("user:leased")
    async with cache.lock("user:lock"):
        found = {entry.key: entry.state for entry in await cache.scan("user:*")}

    users = {cache.key.build("user", n): "fresh" for n in range(20)}
    assert found == users | {cache.key.build("user", "none"): "absent"}
    assert len({entry.key for entry in await cache.scan()}) == 22


@runs(compare="store")  # a scan has as many pages as the server has keys
async def test_a_text_stands_for_itself_in_a_pattern_once_it_is_escaped(world):
    await world.cache.set_many({"a*b": 1, "axb": 1})

    [found] = await world.cache.scan(escape_glob("a*b"))

    assert await world.cache.get(found.key) == 1
    assert found.key.endswith(":a*b")


@runs(compare="store")  # a scan has as many pages as the server has keys
async def test_a_scan_says_that_the_store_has_failed(world):
    await world.cache.set("k", 1)
    with world.cache.refusing(FailureKind.PERMISSION), pytest.raises(CacheConnectionError):
        await world.cache.scan()
    with pytest.raises(InvalidKeyError):
        await world.cache.scan("")
    world.take_log()


# What was there.


@runs()
async def test_an_invalidation_tells_whether_a_value_was_there(world):
    cache = world.cache
    await cache.set("k", 1)
    await cache.get_or_load("absent", loading(Absent()))
    world.raw.lease("leased")

    assert (await cache.invalidate("k")).existed is True
    assert (await cache.delete("k")).existed is False
    assert (await cache.invalidate("absent")).existed is False
    assert (await cache.invalidate("leased")).existed is None  # a value may have come in between
    await cache.set("k", 1)
    assert (await cache.invalidate("k", "other")).existed is None
    assert (await cache.invalidate("k", "other")).existed is False
    assert (await cache.invalidate("k", tags=["t"])).existed is False


@runs()
async def test_of_a_removal_whose_answer_was_lost_it_is_not_known_what_was_there(world):
    await world.cache.set("k", 1)
    with world.cache.losing(DeleteKeys):
        assert (await world.cache.invalidate("k")).existed is None
    assert world.raw.read() == {}


# Touching.


@runs(compare="store")
async def test_a_touch_lets_a_fresh_entry_live_longer(world):
    cache = world.cache
    await cache.set("k", 1, ttl=EXACT, tags=["users"])
    await cache.get_or_load("soft", loading(1), policy=STALE)

    assert await cache.touch("k", EXACT.with_ttl(500)) is True
    assert await cache.touch("soft", Policy(ttl=500, max_life_s=5000)) is True

    assert 490 < await cache.ttl("k") <= 500
    assert 490 < await cache.ttl("soft") <= 500
    assert 490 + 900 < world.raw.ttl_ms("soft") / 1000 < 1401  # which it reads by a clock of its own
    world.trace.fills.clear()  # which said how long the entries would live


@runs(compare="store")
async def test_a_touch_shortens_nothing_and_goes_no_further_than_an_entry_may_live(world):
    cache = world.cache
    await cache.set("k", 1, ttl=EXACT)

    assert await cache.touch("k", 10) is True
    assert 90 < await cache.ttl("k") <= 100
    assert await cache.touch("k", EXACT.with_ttl(5000)) is True
    assert 900 < await cache.ttl("k") <= 1000
    world.trace.fills.clear()


@runs()
async def test_what_is_stale_or_leased_or_not_there_is_not_touched(world):
    cache = world.cache
    await cache.get_or_load("stale", loading(1), policy=STALE)
    await cache.expire("stale")
    await cache.get_or_load("absent", loading(Absent()))
    world.raw.lease("leased", lease_ms=50_000)
    await cache.set("tagged", 1, tags=["users"])
    await cache.invalidate(tags=["users"])

    for key in ("stale", "absent", "leased", "tagged", "nothing"):
        assert await cache.touch(key, 600) is False
    assert world.raw.ttl_ms("leased") <= 50_000
    assert (await cache.lookup("stale")).state == "stale"


@runs(compare="store")
async def test_a_get_may_let_what_it_reads_live_longer(world):
    cache = world.cache
    await cache.set("k", "Ada", ttl=EXACT)

    assert await cache.get("k", renew=EXACT.with_ttl(500)) == "Ada"
    assert 490 < await cache.ttl("k") <= 500
    assert await cache.get("none", "default", renew=600) == "default"
    with cache.refusing(FailureKind.PERMISSION, TouchCell):
        assert await cache.get("k", renew=600) == "Ada"
    world.take_log()
    world.trace.fills.clear()


@runs(compare="store")
async def test_a_variant_and_what_it_is_tied_to_live_longer_together(world):
    cache = world.cache
    await cache.set("k", 7, type=int, ttl=EXACT)
    await cache.get_or_load("k", loading("7"), type=str, policy=EXACT)

    assert await cache.get("k", type=str, renew=EXACT.with_ttl(500)) == "7"

    assert 490 < (await cache.lookup("k", type=str)).remaining_s <= 500
    assert 490 < await cache.ttl("k") <= 500
    world.trace.fills.clear()


# Storing.


@runs(compare="store")  # what failed is told in the background, before the last set or after it
async def test_a_set_that_is_strict_says_why_it_stored_nothing(world):
    cache = world.cache
    assert await cache.set("k", 1, strict=True) is True
    with cache.before(FillCells, lambda: world.raw.delete("k")), pytest.raises(NotStoredError) as overtaken:
        await cache.set("k", 1, strict=True)
    with cache.refusing(FailureKind.OUT_OF_MEMORY, FillCells), pytest.raises(NotStoredError) as failed:
        await cache.set("k", 1, strict=True)
    with pytest.raises(NotStoredError) as outlived:
        await cache.set("k", 1, ttl=0, strict=True)

    reasons = [raised.value.reason for raised in (overtaken, failed, outlived)]
    assert reasons == ["overtaken", "store_error", "outlived"]
    again = pickle.loads(pickle.dumps(outlived.value))
    assert (str(again), again.reason) == (str(outlived.value), "outlived")
    world.take_log()


@runs(enabled=False)
async def test_a_set_that_is_strict_says_that_the_cache_is_switched_off(world):
    with pytest.raises(NotStoredError) as raised:
        await world.cache.set("k", 1, strict=True)
    assert raised.value.reason == "disabled"


@runs(compare="store")  # as above
async def test_a_batch_that_is_strict_says_of_each_key_why_it_was_not_stored(world):
    cache = world.cache
    assert await cache.set_many({"a": 1, "b": 2}, strict=True) == {"a": True, "b": True}
    another = cache.before(FillCells, lambda: world.raw.delete("a"))
    with another, pytest.raises(NotStoredError, match="'a' was not stored: another write") as overtaken:
        await cache.set_many({"a": 3, "b": 4}, strict=True)
    with cache.refusing(FailureKind.PERMISSION, FillCells), pytest.raises(NotStoredError) as away:
        await cache.set_many({"a": 5, "b": 6}, strict=True)
    with pytest.raises(NotStoredError, match=r"1 more were not: see `reasons`") as outlived:
        await cache.set_many({"a": 7, "b": 8}, ttl=0, strict=True)
    world.take_log()

    assert (overtaken.value.reason, overtaken.value.reasons) == ("overtaken", {"a": "overtaken"})
    assert away.value.reasons == {"a": "store_error", "b": "store_error"}
    assert outlived.value.reasons == {"a": "outlived", "b": "outlived"}
    assert pickle.loads(pickle.dumps(away.value)).reasons == away.value.reasons


@runs(compare="store")  # as above
async def test_a_mutation_says_of_each_value_why_it_was_not_stored(world):
    cache = world.cache
    async with cache.mutate("kept", "lost", "short", "unset") as mixed:
        for key, ttl in (("kept", 60), ("lost", 60), ("short", 0)):
            mixed.set(key, 1, ttl=ttl)
        world.raw.delete("lost")
    with suppress(ZeroDivisionError):
        async with cache.mutate("k") as raised:
            raised.set("k", 1)
            raise ZeroDivisionError
    with cache.refusing(FailureKind.PERMISSION, FillCells):
        async with cache.mutate("k") as away:
            away.set("k", 1)
    with cache.refusing(FailureKind.PERMISSION, HoldCells):
        async with cache.mutate("k") as unheld:
            unheld.set("k", 1)
    world.take_log()

    assert (mixed.stored, mixed.unstored) == (1, {"lost": "overtaken", "short": "outlived"})
    assert raised.unstored == {"k": "raised"}
    assert away.unstored == {"k": "store_error"}
    assert unheld.unstored == {"k": "store_error"}


@runs(enabled=False)
async def test_what_writes_many_says_that_the_cache_is_switched_off(world):
    async with world.cache.mutate("k") as mutation:
        mutation.set("k", 1)
    assert (mutation.stored, mutation.unstored) == (0, {"k": "disabled"})
    with pytest.raises(NotStoredError) as refused:
        await world.cache.set_many({"a": 1}, strict=True)
    assert refused.value.reasons == {"a": "disabled"}


@runs()
async def test_an_exact_time_to_live_has_no_jitter(world):
    cache = world.cache
    await cache.set("k", 1, ttl=Exact(100))
    await cache.get_or_load("l", loading(1), ttl=Exact(100), policy=Policy(stale_for_s=50))
    assert await cache.add("m", 1, ttl=Exact(100))

    lives = {key: world.trace.fills[world.raw.cell(key).filled_by][0] for key in "klm"}
    assert lives == {"k": 100_000, "l": 150_000, "m": 100_000}
    assert await cache.set("k", 1, ttl=Exact(0)) is False
    assert await cache.get("k") is None
    with pytest.raises(InvalidTtlError):
        await cache.add("n", 1, ttl=Exact(0))


# Adding.


@runs()
async def test_one_of_those_who_add_is_told_that_it_is_theirs(world):
    cache = world.cache
    assert await cache.add("k", "mine", ttl=EXACT, tags=["users"]) is True
    assert await cache.add("k", "theirs") is False
    assert await cache.get("k") == "mine"
    assert is_free(world.raw.cell("k"))

    await cache.invalidate(tags=["users"])
    assert await cache.get("k") is None
    assert await cache.add("k", "theirs") is False  # it is there, though nobody is served it


@runs(compare=None)
async def test_of_a_crowd_that_adds_one_is_told_so(world):
    answers = await in_parallel(20, lambda _: world.cache.add("k", "mine"))

    assert sorted(answers) == [False] * 19 + [True]
    assert await world.cache.get("k") == "mine"


@runs()
async def test_a_stale_value_is_a_value_and_that_there_is_nothing_is_none(world):
    cache = world.cache
    await cache.get_or_load("stale", loading(1), policy=STALE)
    await cache.expire("stale")
    await cache.get_or_load("absent", loading(Absent()))
    world.raw.put(world.raw.full("foreign"), FOREIGN)

    assert await cache.add("stale", 2) is False
    assert await cache.add("absent", 2) is True
    assert await cache.add("foreign", 2) is False
    assert await cache.get("absent") == 2


@runs()
async def test_an_add_voids_a_load_in_flight(world):
    async def load():
        assert await world.cache.add("k", "added") is True
        return "loaded"

    assert await world.cache.get_or_load("k", load) == "loaded"
    assert await world.cache.get("k") == "added"


@runs(policy=Policy(wait_s=0.05))
async def test_one_who_adds_waits_for_a_writer_and_then_says_so(world):
    world.raw.put(world.raw.full("k"), Cell(Kind.HOLD, b"somebody" + bytes(8), world.raw.now_ms() + 60_000))

    with pytest.raises(CacheTimeoutError, match="another writer"):
        await world.cache.add("k", 1)


@runs()
async def test_what_another_write_has_come_before_is_not_ours(world):
    """Stored after an invalidation that came between, the value might be older than that."""
    with world.cache.before(FillCells, lambda: world.raw.delete("k")):
        assert await world.cache.add("k", 1) is False
    assert world.raw.read() == {}


@runs()
async def test_an_add_whose_answer_is_lost_is_repeated_where_that_tells(world):
    with world.cache.losing(ClaimCell), world.cache.losing(FillCells):
        assert await world.cache.add("k", 1) is True
    assert await world.cache.get("k") == 1


@runs()
async def test_an_add_of_unknown_outcome_says_so_and_leaves_what_is_there(world):
    losing = world.cache.losing(FillCells, then=lambda: world.raw.delete("k"))
    with losing, pytest.raises(UnknownOutcomeError):
        await world.cache.add("k", 1)
    assert world.raw.read() == {}

    with world.cache.losing(FillCells, times=99), pytest.raises(UnknownOutcomeError):
        await world.cache.add("k", 1)
    assert world.cache.cache._coordinator.pending_invalidations == 0
    assert await world.cache.add("k", 2) is False
    world.take_log()


@runs()
async def test_nothing_is_ours_where_the_store_refuses(world):
    for kind in (ClaimCell, FillCells):
        with world.cache.refusing(FailureKind.OUT_OF_MEMORY, kind):
            with pytest.raises(CacheConnectionError) as raised:
                await world.cache.add("k", 1)
            assert not isinstance(raised.value, UnknownOutcomeError)
    assert world.raw.read() == {}, "the hold is given back"
    world.take_log()


@runs()
async def test_nothing_is_ours_while_an_invalidation_of_the_key_is_pending(world):
    cache = world.cache
    await cache.set("k", 1)
    with cache.refusing(FailureKind.PERMISSION, DeleteKeys):
        await cache.invalidate("k")
        version = (await cache.lookup("k")).version
        assert version is None
        for call in (cache.add("k", 1), cache.swap("k", 1, version=bytes(16)), cache.incr("k")):
            with pytest.raises(CacheConnectionError, match="pending"):
                await call
    world.take_log()


# Swapping.


@runs(compare="store")
async def test_a_swap_replaces_the_very_value_that_was_seen(world):
    cache = world.cache
    await cache.set("k", 1, ttl=EXACT, tags=["users"])
    seen = await cache.lookup("k")

    version = await cache.swap("k", 2, version=seen.version)

    found = await cache.lookup("k")
    assert (found.value, found.version, found.tags) == (2, version, ("users",))
    assert 90 < found.remaining_s <= 100, "what the old one had left"
    assert await cache.swap("k", 9, version=seen.version) is None
    assert await cache.swap("k", 3, version=version, ttl=EXACT.with_ttl(500))
    assert 490 < await cache.ttl("k") <= 500
    await cache.invalidate(tags=["users"])
    assert await cache.get("k") is None


@runs(compare=None)
async def test_a_function_that_changes_the_same_value_does_not_wait_for_its_own_turn(world):
    """It is overtaken by itself once, and begins anew."""
    cache, inner = world.cache, []

    async def change(value):
        if not inner:
            inner.append(await cache.incr("n"))
        return value + 10

    await cache.set("n", 0)
    function = change
    if cache.is_sync:

        def function(value):
            if not inner:
                inner.append(cache.cache.incr("n"))
            return value + 10

    assert await cache.update("n", function) == 11
    assert inner == [1]


@runs(compare=None)
async def test_one_who_gives_up_waiting_for_his_turn_lets_the_others_go_on(world):
    cache, has_begun, go_on = world.cache, anyio.Event(), anyio.Event()
    await cache.set("n", 0)

    async def slowly(value):
        has_begun.set()
        await go_on.wait()
        return value + 1

    if cache.is_sync:  # its threads cannot be cancelled
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.update, "n", slowly)
        await has_begun.wait()
        with anyio.move_on_after(0.01) as scope:
            await cache.incr("n")
        tasks.start_soon(cache.incr, "n")
        go_on.set()
    assert scope.cancelled_caught
    assert await cache.get("n") == 2


@runs_in(ON_SERVER, compare=None)
async def test_five_hundred_who_count_at_once_are_all_counted(world):
    """They take each other's place at first, and pause longer each time, at random: so it comes to an end."""
    cache = world.cache
    await cache.set("n", 0)

    counts = await in_parallel(500, lambda _: cache.incr("n"))

    assert sorted(counts) == list(range(1, 501)), "each is told a number of its own"
    assert await cache.get("n") == 500


@runs_in(ON_SERVER, compare=None)
async def test_of_five_hundred_who_add_one_is_told_so_and_each_update_and_swap_of_as_many_is_made_once(world):
    cache = world.cache
    added = await in_parallel(500, lambda place: cache.add("k", place))
    assert [place for place, is_ours in enumerate(added) if is_ours] == [await cache.get("k")]

    await cache.set("updated", [])
    await in_parallel(500, lambda place: cache.update("updated", lambda value: [*value, place]))
    assert sorted(await cache.get("updated")) == list(range(500))

    await cache.set("swapped", [])
    swapped = []

    async def swap(place):
        found = await cache.lookup("swapped")
        if await cache.swap("swapped", [*found.value, place], version=found.version) is not None:
            swapped.append(place)

    while len(swapped) < 5:
        await in_parallel(100, swap)
    assert sorted(await cache.get("swapped")) == sorted(swapped), "each that is said to be made, and no other"


@runs_in(ON_SERVER, compare=None)
async def test_a_crowd_that_locks_has_it_one_after_the_other(world):
    """Five hundred tasks; or eight threads, as the helper has fewer threads than that."""
    crowd = 8 if world.cache.is_sync else 500
    tokens, inside = [], 0

    async def work(_):
        nonlocal inside
        async with world.cache.lock("l", wait_s=300) as lock:
            inside += 1
            assert inside == 1
            tokens.append(lock.token)
            inside -= 1

    await in_parallel(crowd, work)
    assert len(tokens) == crowd
    assert tokens == sorted(set(tokens))
    assert world.trace.count("TakeLock") <= 1.1 * crowd, "who is given it back asks the store, and no other"


@runs_in(ON_SERVER, compare=None)
async def test_five_hundred_who_touch_what_nobody_changes_all_let_it_live_longer(world):
    await world.cache.set("k", 1, ttl=Exact(5))
    assert await in_parallel(500, lambda _: world.cache.touch("k", Exact(500))) == [True] * 500
    assert await world.cache.ttl("k") > 400
    assert {each.value for each in await in_parallel(500, lambda _: world.cache.lookup("k"))} == {1}
    await world.cache.invalidate("k")  # what is left has to live as long as its fill says


@runs()
async def test_a_swap_with_nothing_left_to_live_removes_the_very_value_that_was_seen(world):
    cache = world.cache
    await cache.set("k", 1, tags=["users"])
    seen = await cache.lookup("k")
    later = await cache.swap("k", 2, version=seen.version)

    assert await cache.swap("k", 3, version=seen.version, ttl=0) is None
    assert await cache.get("k") == 2
    assert await cache.swap("k", 3, version=later, ttl=0) is not None
    assert world.raw.cell("k") is None
    assert await cache.swap("k", 3, version=later, ttl=0) is None


@runs()
async def test_who_lets_an_entry_live_longer_says_for_how_long(world):
    await world.cache.set("k", 1)
    with pytest.raises(InvalidTtlError, match="touch needs a time to live"):
        await world.cache.touch("k", None)


@runs()
async def test_what_cannot_be_added_changes_nothing_and_says_so(world):
    cache = world.cache
    await cache.set("k", Decimal("1.5"), type=Decimal)
    with pytest.raises(SerializationError, match="float to this value of class Decimal"):
        await cache.incr("k", 0.5, type=Decimal)
    assert await cache.incr("k", Decimal("0.5"), type=Decimal) == 2
    await cache.set("k", 10**400)
    with pytest.raises(SerializationError, match="float to this value of class int"):
        await cache.incr("k", 0.5)
    assert await cache.incr("k", 10**400) == 2 * 10**400
    many = Decimal("12345678901234567890123456789.01")
    await cache.set("k", many, type=Decimal)
    assert await cache.incr("k", Decimal("0.01"), type=Decimal) == Decimal("12345678901234567890123456789.02")
    with pytest.raises(SerializationError, match="lose nothing"):
        await cache.incr("k", Decimal("1E-2000"), type=Decimal)
    for amount in (Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), float("inf"), True, "1"):
        with pytest.raises(ConfigurationError, match="incr adds a number"):
            await cache.incr("k", amount, type=Decimal)
    await cache.set("k", 0)
    await cache.set("k", [1])
    with pytest.raises(SerializationError, match="the function of update has given None"):
        await cache.update("k", lambda value: value.append(2))
    assert await cache.get("k") == [1]


@runs()
async def test_an_update_with_nothing_left_to_live_removes_what_it_was_given(world):
    cache = world.cache
    await cache.set("k", 1)
    assert await cache.update("k", lambda value: value + 1, ttl=-5) == 2
    assert world.raw.cell("k") is None
    with pytest.raises(NoEntryError):
        await cache.update("k", lambda value: value, ttl=0)


@runs()
async def test_a_removal_by_version_whose_answer_is_lost_is_unknown(world):
    """Whether another has removed it cannot be told from the key that is gone."""
    cache = world.cache
    await cache.set("k", 1)
    seen = await cache.lookup("k")
    with cache.losing(SwapCell), pytest.raises(UnknownOutcomeError):
        await cache.swap("k", 2, version=seen.version, ttl=0)
    world.take_log()
    assert await cache.get("k") is None


@runs()
async def test_a_swap_does_not_bring_back_what_was_made_of_something_invalidated(world):
    cache = world.cache
    await cache.set("k", 1, tags=["users"])
    seen = await cache.lookup("k")
    await cache.invalidate(tags=["users"])

    assert await cache.swap("k", 2, version=seen.version)
    assert await cache.get("k") is None


@runs()
async def test_a_swap_does_not_make_fresh_what_was_expired(world):
    cache = world.cache
    await cache.get_or_load("k", loading(1), policy=STALE)
    seen = await cache.lookup("k")
    await cache.expire("k")

    assert await cache.swap("k", 2, version=seen.version) is None
    assert (await cache.lookup("k")).value == 1


@runs()
async def test_a_swap_voids_a_load_in_flight(world):
    cache = world.cache
    await cache.get_or_load("k", loading(1), policy=STALE)

    async def load():
        leased = world.raw.cell("k")
        world.raw.put(world.raw.full("k"), replace(leased, soft_ms=0))  # as in an early refresh
        assert await cache.swap("k", "swapped", version=leased.filled_by)
        return "loaded"

    world.raw.outdate("k")
    assert await cache.get_or_load("k", load) == "loaded"
    assert await cache.get("k") == "swapped"


@runs()
async def test_a_swap_whose_answer_is_lost_is_repeated_where_that_tells(world):
    cache = world.cache
    await cache.set("k", 1)
    seen = await cache.lookup("k")

    with cache.losing(SwapCell):
        version = await cache.swap("k", 2, version=seen.version)

    assert version == world.raw.cell("k").filled_by
    assert await cache.get("k") == 2


@runs()
async def test_a_swap_of_unknown_outcome_says_so_and_invalidates(world):
    cache = world.cache
    await cache.set("k", 1)
    seen = await cache.lookup("k")

    losing = cache.losing(SwapCell, then=lambda: world.raw.delete("k"))
    with losing, pytest.raises(UnknownOutcomeError, match="another write"):
        await cache.swap("k", 2, version=seen.version)
    assert await cache.get("k") is None
    world.take_log()


@runs()
async def test_what_cannot_be_swapped_is_refused_before_anything_is_asked(world):
    with pytest.raises(ConfigurationError, match="add"):
        await world.cache.swap("k", 1, version=None)
    with pytest.raises(ConfigurationError, match="version"):
        await world.cache.swap("k", 1, version="1")
    with pytest.raises(SerializationError):
        await world.cache.swap("k", object(), version=bytes(16))
    assert world.trace.facts == []


@runs()
async def test_nothing_can_neither_be_added_nor_take_the_place_of_a_value(world):
    await world.cache.set("k", 1)
    for call in (
        world.cache.add("new", None),
        world.cache.swap("k", None, version=bytes(16)),
        world.cache.update("k", lambda _: None),
    ):
        with pytest.raises(SerializationError, match="None is nothing"):
            await call
    assert await world.cache.get("k") == 1


# Updating.


@runs()
async def test_a_value_is_changed_by_a_function_of_it(world):
    cache = world.cache
    await cache.set("k", ["tea"])

    async def with_milk(cart):
        return [*cart, "milk"]

    assert await cache.update("k", with_milk) == ["tea", "milk"]
    assert await cache.update("k", lambda cart: cart[:1]) == ["tea"]
    assert await cache.get("k") == ["tea"]


@runs()
async def test_a_number_is_counted_up_and_down(world):
    cache = world.cache
    await cache.add("k", 0)
    assert [await cache.incr("k"), await cache.incr("k", 10), await cache.incr("k", -3)] == [1, 11, 8]
    assert await cache.incr("k", 0.5) == 8.5
    assert await cache.get("k") == 8.5


@runs(compare=None)
async def test_no_change_of_a_crowd_is_lost_or_made_twice(world):
    await world.cache.add("k", 0)

    answers = await in_parallel(25, lambda _: world.cache.incr("k"))

    assert sorted(answers) == list(range(1, 26))
    assert await world.cache.get("k") == 25


@runs()
async def test_what_is_not_there_or_no_number_cannot_be_changed(world):
    cache = world.cache
    await cache.set("text", "a")
    await cache.get_or_load("stale", loading(1), policy=STALE)
    await cache.expire("stale")

    for key in ("nothing", "stale"):
        with pytest.raises(NoEntryError, match="add"):
            await cache.incr(key)
        with pytest.raises(NoEntryError):
            await cache.update(key, lambda value: value)
    with pytest.raises(ConfigurationError, match="class str"):
        await cache.incr("text")
    with pytest.raises(ConfigurationError, match="number"):
        await cache.incr("text", "1")
    with pytest.raises(SerializationError):
        await cache.update("text", lambda _: object())
    with pytest.raises(ConfigurationError, match="function"):
        await cache.update("text", "b")


@runs()
async def test_what_the_function_raises_is_its_callers(world):
    error = LookupError("no")

    def fail(_):
        raise error

    await world.cache.set("k", 1)
    with pytest.raises(LookupError) as raised:
        await world.cache.update("k", fail)
    assert raised.value is error
    assert await world.cache.get("k") == 1


@runs()
async def test_an_increment_whose_answer_is_lost_counts_once(world):
    await world.cache.set("k", 0)
    with world.cache.losing(SwapCell):
        assert await world.cache.incr("k") == 1
    assert await world.cache.get("k") == 1


@runs()
async def test_an_increment_of_unknown_outcome_says_so_and_is_not_repeated(world):
    """Three increments came out of two, where a conflict after a lost answer was taken for one."""
    other = world.open()
    await world.cache.set("k", 0)

    def count():
        cell = world.raw.cell("k")
        body = world.raw.body("k", 2)
        world.raw.put(world.raw.full("k"), Cell(Kind.VALUE, filled_by=b"another-" + bytes(8), body=body))
        assert cell.body.endswith(b"1")

    with world.cache.losing(SwapCell, then=count), pytest.raises(UnknownOutcomeError):
        await world.cache.incr("k")
    assert await other.get("k") == 2
    assert world.cache.cache._coordinator.pending_invalidations == 0


@runs(policy=Policy(wait_s=0))
async def test_one_who_is_overtaken_each_time_says_so(world):
    await world.cache.set("k", 0)
    overtaking = world.cache.before(SwapCell, lambda: world.raw.delete("k"))
    with overtaking, pytest.raises(CacheTimeoutError, match="others"):
        await world.cache.incr("k")


# Locks.


@runs(compare="store")
async def test_a_lock_has_one_holder_and_a_token_that_goes_up(world):
    tokens = []
    inside = 0

    async def work(_):
        nonlocal inside
        async with world.cache.lock("l", wait_s=60) as lock:
            inside += 1
            assert inside == 1
            await anyio.lowlevel.checkpoint()
            lock.check()
            tokens.append(lock.token)
            inside -= 1

    await in_parallel(6, work)

    assert len(tokens) == 6
    assert tokens == sorted(set(tokens))


@runs()
async def test_a_lock_is_not_given_twice_and_can_be_taken_once_it_is_given_back(world):
    cache = world.cache
    async with cache.lock("l") as first:
        with pytest.raises(CacheTimeoutError, match="still held"):
            async with cache.lock("l", wait_s=0):
                pass
        async with cache.lock("other", wait_s=0):
            pass
    async with cache.lock("l", wait_s=0) as second:
        assert second.token > first.token


@runs()
async def test_no_deletion_touches_a_lock(world):
    cache = world.cache
    async with cache.lock("l") as lock:
        await cache.clear()
        await cache.invalidate("l")
        await cache.delete_pattern("*")
        with pytest.raises(CacheTimeoutError):
            async with cache.lock("l", wait_s=0):
                pass
        lock.check()


@runs()
async def test_an_error_in_the_block_gives_the_lock_back_and_goes_on(world):
    with pytest.raises(LookupError):
        async with world.cache.lock("l"):
            raise LookupError
    async with world.cache.lock("l", wait_s=0):
        pass


@runs()
async def test_a_lock_whose_answer_is_lost_is_ours_all_the_same(world):
    with world.cache.losing(TakeLock):
        async with world.cache.lock("l", wait_s=0) as lock:
            lock.check()
    async with world.cache.lock("l", wait_s=0):
        pass


@runs()
async def test_nobody_is_given_a_lock_where_the_store_fails(world):
    with world.cache.refusing(FailureKind.OUT_OF_MEMORY, TakeLock), pytest.raises(CacheConnectionError):
        async with world.cache.lock("l"):
            raise AssertionError
    world.raw.put(f"{world.raw.full('')}%l:l", FOREIGN)
    with pytest.raises(ConfigurationError, match="no lock"):
        async with world.cache.lock("l"):
            raise AssertionError
    for options in ({"lease_s": 0}, {"wait_s": -1}, {"on_lost": 1}, {"on_lost": abs}):
        with pytest.raises(ConfigurationError):
            async with world.cache.lock("l", **options):
                raise AssertionError
    world.take_log()


@runs(compare=None)
async def test_who_waits_for_a_lock_is_told_of_the_end_of_the_cache_at_once(world):
    """They wait in this process, and not at the store: for an hour, if nobody told them."""
    cache, told = world.open(), []

    async def wait():
        try:
            async with cache.lock("l", wait_s=3600):
                told.append(None)
        except CacheError as error:
            told.append(type(error))

    with suppress(CacheClosedError):  # of the one who has it, as he gives it back
        async with cache.lock("l"), anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            crowds = cache.driver.crowds
            await until(lambda: [len(queue.turns) for queue in crowds._queues.values()] == [4])
            await cache.aclose()
    assert told == [CacheClosedError] * 3


@runs(compare=None)
async def test_who_wants_a_lock_in_an_outage_is_told_so_at_once_though_this_process_has_it(world):
    cache = world.cache
    keys, part_of = cache.cache.key, cache.driver._coordinator.part_of
    async with cache.lock("l", 60):
        part = part_of(keys.lock("l"))
        of_that_part = (f"k{n}" for n in count() if part_of(keys.build(f"k{n}")) == part)
        with failing(cache.cache, StoreFault.REFUSED):
            with pytest.raises(CacheConnectionError):
                await cache.add(next(of_that_part), 1)
            with pytest.raises(CacheConnectionError, match="does not serve"):
                async with cache.lock("l", wait_s=3600):
                    raise AssertionError
    world.take_log()


@pytest.mark.timing
@runs(compare=None)
async def test_a_lock_is_renewed_for_as_long_as_its_block_runs(world):
    async with world.cache.lock("l", 3.0):
        await until(lambda: world.trace.count(RenewLeases.__name__) >= 2)
        with pytest.raises(CacheTimeoutError):
            async with world.cache.lock("l", wait_s=0):
                pass


@pytest.mark.timing
@runs(compare=None)
async def test_a_lock_that_was_forgotten_is_known_to_be_lost(world):
    lost = []

    async def work():
        async with world.cache.lock("l", 0.6, on_lost=lambda: lost.append(1)) as lock:
            world.raw.delete("%l:l")
            await until(lambda: lost)
            assert lock.is_lost
            with pytest.raises(LockLostError):
                lock.check()

    with pytest.raises(LockLostError, match=r"0\.6 s"):
        await work()
    assert lost == [1]


@pytest.mark.timing
@runs(compare=None)
async def test_a_lock_that_cannot_be_renewed_is_lost_when_its_lease_is_over(world):
    async def work():
        async with world.cache.lock("l", 0.3) as lock:
            await until(lambda: lock.is_lost)

    with world.cache.refusing(FailureKind.PERMISSION, RenewLeases), pytest.raises(LockLostError):
        await work()
    world.take_log()
