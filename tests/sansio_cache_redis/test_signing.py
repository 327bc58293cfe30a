"""Signed entries through every operation: what somebody else has put into the store is a miss to all of them.

What a signature covers, bit by bit: `tests/sansio_cache/test_signing.py`.
"""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace

from sansio_cache import Absent, CacheConnectionError, NoEntryError, Policy
from sansio_cache.cell import NO_GRANT
from sansio_cache.codecs import PYTHON, RAW
from sansio_cache.commands import InspectCell, SwapCell
from sansio_cache.entry import BODY_HEADER_BYTES, MissReason, key_check
from sansio_cache.events import FailureKind
from sansio_cache.signing import SIGNATURE_BYTES
from sansio_cache.ttl import NO_JITTER
from support.runtimes import EVERYWHERE, THIRD_PARTY, in_parallel, loading, never
from support.runtimes import runs as runs_in

pytestmark = pytest.mark.servers

NEW, OLD = "the new key of the shop", "the old key of the shop"
EXACT = Policy(ttl=100, jitter=NO_JITTER, max_life_s=1000)
STALE = Policy(ttl=100, jitter=NO_JITTER, stale_for_s=900)

# Signatures differ from place to place: what is left in the stores is compared by what readers make of it.
runs = partial(runs_in, EVERYWHERE, compare=None, signing_keys=[NEW])


def unsigned(world, key, cell):
    """As somebody would write it who knows no key."""
    body = cell.body
    return replace(cell, body=body[:BODY_HEADER_BYTES] + body[BODY_HEADER_BYTES + SIGNATURE_BYTES :])


def changed(world, key, cell):
    """Another payload under the same signature."""
    return replace(cell, body=cell.body[:-1] + b"9")


def cut_short(world, key, cell):
    """Without the end of the payload."""
    return replace(cell, body=cell.body[:-1])


def renamed(world, key, cell):
    """The entry of another key, which says that it is of this one."""
    other = world.raw.cell("other")
    return replace(other, body=key_check(world.raw.full(key)) + other.body[8:])


def refilled(world, key, cell):
    """As if it had been filled later than it was."""
    return replace(cell, filled_by=cell.filled_by[:-3] + b"\xff\xff\xff")


def never_filled(world, key, cell):
    """An id that no value can have."""
    return replace(cell, filled_by=NO_GRANT)


def nothing(world, key, cell):
    """As if there were known to be nothing."""
    return replace(cell, body=cell.body[:16] + b"\x02" + cell.body[17 : BODY_HEADER_BYTES + SIGNATURE_BYTES])


FORGERIES = [unsigned, changed, cut_short, renamed, refilled, never_filled, nothing]


async def forge(world, forgery, *keys, value=1):
    """Have keys that hold a good value hold a forged one."""
    await world.cache.set("other", 8, ttl=EXACT)
    for key in keys:
        await world.cache.set(key, value, ttl=EXACT)
        put(world, key, forgery(world, key, world.raw.cell(key)))


def put(world, key, cell, like=None):
    """Put a cell behind the cache's back, for as long as another has to live."""
    world.raw.put(world.raw.full(key), cell, world.raw.ttl_ms(like or key))


def refused(world):
    return world.cache.stats().misses.get(MissReason.SIGNATURE, 0)


@pytest.mark.parametrize(
    ("type_", "value"),
    [(None, {"a": [1]}), (bytes, b"\xff\x00"), (list, [(1, {2})])],
    ids=["json", "raw", "python"],
)
@runs_in(EVERYWHERE + THIRD_PARTY, compare=None, signing_keys=[NEW], codecs={bytes: RAW, list: PYTHON})
async def test_every_operation_gives_back_what_was_signed(world, type_, value):
    cache, again = world.cache, world.open(signing_keys=[NEW], codecs={bytes: RAW, list: PYTHON})

    async def load_many(keys):
        return dict.fromkeys(keys, value)

    await cache.set("set", value, type=type_, tags=["t"])
    await cache.set_many({"one": value, "two": value}, type=type_)
    await cache.get_or_load("load", loading(value), type=type_, tags=["t", "u"])
    await cache.get_or_load_many(["a", "b"], load_many, type=type_, tags=["t"])
    await cache.get_or_load("absent", loading(Absent()), type=type_)
    assert await cache.add("added", value, type=type_, tags=["t"])
    assert not await cache.add("added", value, type=type_)
    async with cache.mutate("mutated", value_tags=["t"]) as mutation:
        mutation.set("mutated", value, type=type_)

    for reader in (again, cache):
        keys = ["set", "one", "two", "load", "a", "b", "added", "mutated"]
        assert await reader.get_many(keys, type=type_) == dict.fromkeys(keys, value)
        for key in keys:
            assert await reader.get(key, type=type_) == value
            assert await reader.exists(key)
            assert await reader.touch(key, 200)
        assert await reader.get_or_load("load", never, type=type_, tags=["t", "u"]) == value
        assert await reader.get_or_load_many(["a", "b"], never, type=type_, tags=["t"]) == {
            "a": value,
            "b": value,
        }
        assert await reader.get_or_load("absent", never, type=type_) is None
        assert (await reader.lookup("absent", type=type_)).state == "absent"
        found = await reader.scan("*")
        assert {each.key for each in found} == {world.raw.full(key) for key in (*keys, "absent")}
        assert set(reader.stats().misses) <= {MissReason.ABSENT}

    await cache.invalidate(tags=["t"])
    assert await cache.get_many(["set", "load", "a", "added", "mutated"], type=type_) == {}


@runs(codecs={None: PYTHON})
async def test_values_are_swapped_and_counted_with_their_tags_under_signatures(world):
    cache = world.cache
    await cache.set("n", 1, ttl=EXACT, tags=["t"])
    await cache.set("plain", 1, ttl=EXACT)

    found = await cache.lookup("n")
    version = await cache.swap("n", 5, version=found.version)

    assert version is not None
    assert version != found.version
    assert await cache.swap("n", 6, version=found.version) is None
    assert await cache.incr("n", 2) == 7
    assert await cache.update("n", lambda n: (n, n)) == (7, 7)
    assert await cache.incr("plain") == 2
    looked = await cache.lookup("n")
    assert (looked.value, looked.tags, looked.is_fresh) == ((7, 7), ("t",), True)
    assert 0 < looked.remaining_s <= 100
    assert looked.age_s < 100
    await cache.invalidate(tags=["t"])
    assert await cache.get("n") is None
    assert await cache.get("plain") == 2


@runs()
async def test_increments_at_the_same_time_are_exact_under_signatures(world):
    cache, other = world.cache, world.open(signing_keys=[NEW])
    await cache.set("n", 0, ttl=EXACT, tags=["t"])

    await in_parallel(12, lambda place: (cache, other)[place % 2].incr("n"))

    assert await other.get("n") == 12


@pytest.mark.parametrize("forgery", FORGERIES)
@runs()
async def test_a_forged_entry_is_a_counted_miss_to_every_reader(world, forgery):
    cache = world.cache
    await forge(world, forgery, "k", "a", "b")

    assert await cache.get("k") is None
    assert refused(world) == 1
    assert await cache.get_many(["a", "b", "k"]) == {}
    assert refused(world) == 4
    assert (await cache.lookup("k")).state == "miss"
    assert not await cache.exists("k")
    assert await cache.ttl("k") is None
    assert not await cache.touch("k", 500)
    assert [each.key for each in await cache.scan("*")] == [world.raw.full("other")]


@pytest.mark.parametrize("forgery", FORGERIES)
@runs()
async def test_a_load_takes_the_place_of_a_forged_entry(world, forgery):
    cache = world.cache
    await forge(world, forgery, "k", "a", "b")

    async def load_many(keys):
        return dict.fromkeys(keys, 3)

    assert await cache.get_or_load("k", loading(2)) == 2
    assert await cache.get_or_load_many(["a", "b"], load_many) == {"a": 3, "b": 3}
    assert refused(world) == 3
    if forgery is not never_filled:  # nobody can name such a value, so it stays until it is invalidated
        assert await cache.get_or_load("k", never) == 2
        assert await cache.get_or_load_many(["a", "b"], never) == {"a": 3, "b": 3}
    await cache.invalidate("k", "a", "b")
    assert await cache.get_or_load("k", loading(4)) == 4
    assert await cache.get_or_load("k", never) == 4


@pytest.mark.parametrize("forgery", FORGERIES)
@runs()
async def test_no_primitive_builds_on_a_forged_entry(world, forgery):
    cache = world.cache
    await forge(world, forgery, "k", "add")
    forged = world.raw.cell("k")

    assert await cache.swap("k", 5, version=forged.filled_by) is None
    with pytest.raises(NoEntryError):
        await cache.incr("k")
    with pytest.raises(NoEntryError):
        await cache.update("k", lambda value: value)
    assert world.raw.cell("k") == forged

    assert await cache.add("add", 6)
    assert await cache.get("add") == 6
    assert not await cache.add("add", 7)


@runs()
async def test_an_entry_that_was_copied_or_moved_by_the_store_is_a_miss(world):
    cache = world.cache
    await cache.set("k", 1)
    put(world, "copy", world.raw.cell("k"), like="k")
    assert await cache.get("copy") is None
    assert cache.stats().misses[MissReason.KEY_CHECK] == 1
    assert await cache.get("k") == 1


@runs()
async def test_an_older_entry_that_is_put_back_is_good_for_its_own_life_and_no_longer(world):
    cache = world.cache
    await cache.set("k", 1)
    older = world.raw.cell("k")
    await cache.set("k", 2)
    put(world, "k", older)
    assert await cache.get("k") == 1  # no signature can prevent that: docs/howto/sign-entries says so

    # One of a second ago, that was to live for none.
    grant = older.filled_by[:8] + (int.from_bytes(older.filled_by[8:]) - 10**6).to_bytes(8)
    head, payload = older.body[:BODY_HEADER_BYTES], older.body[BODY_HEADER_BYTES + SIGNATURE_BYTES :]
    signer = cache.cache._requests.signer
    signature = signer.signature(world.raw.full("k"), grant, head, payload, 0)
    put(world, "k", replace(older, filled_by=grant, body=head + signature + payload))
    assert await cache.get("k") is None
    assert refused(world) == 1
    assert await cache.get_or_load("k", loading(3)) == 3


@runs()
async def test_a_signed_swap_that_arrives_again_changes_nothing_nor_is_its_value_good_for_another(
    world,
):
    cache, full = world.cache, world.raw.full("k")
    await cache.set("k", 1)
    first = (await cache.lookup("k")).version
    second = await cache.swap("k", 2, version=first)
    swap = SwapCell(full, first, b"late-one", 600_000, 0, world.raw.cell("k").body, 10.0)
    assert world.raw.perform(swap).version is None
    assert await cache.get("k") == 2
    await cache.set("k", 3)
    assert world.raw.perform(swap).version is None
    assert await cache.get("k") == 3
    await cache.invalidate("k")
    assert world.raw.perform(swap).version is None
    assert world.raw.cell("k") is None

    await cache.set("k", 4)
    current = (await cache.lookup("k")).version
    assert second != current
    assert world.raw.perform(replace(swap, version=current)).version is not None, "somebody without the key"
    assert await cache.get("k") is None
    assert refused(world) == 1


@runs()
async def test_a_touch_goes_no_further_than_the_signature(world):
    cache = world.cache
    await cache.set("k", 1, ttl=EXACT)  # the longest life is that of the cache: 72 minutes, and 100 s here
    assert await cache.touch("k", Policy(ttl=86_400, jitter=NO_JITTER, max_life_s=86_400))
    assert 4_000 < await cache.ttl("k") <= 4_320
    assert await cache.get("k", renew=300) == 1
    assert refused(world) == 0
    await cache.invalidate("k")


@runs()
async def test_stale_entries_are_signed_too(world):
    cache = world.cache
    await cache.get_or_load("k", loading(1), policy=STALE)
    await cache.expire("k")
    put(world, "k", changed(world, "k", world.raw.cell("k")))
    assert await cache.get_or_load("k", loading(2), policy=STALE) == 2
    await cache.expire("k")
    assert (await cache.lookup("k")).state == "stale"


@runs()
async def test_an_unsigned_cache_beside_a_signed_one_serves_its_own_entries_only(world):
    signed, plain = world.cache, world.open()
    assert await plain.get_or_load("k", loading(1)) == 1
    assert await signed.get_or_load("k", loading(2)) == 2
    assert await plain.get_or_load("k", loading(3)) == 3  # a variant beside the signed one
    assert await signed.get_or_load("k", never) == 2
    assert await plain.get_or_load("k", never) == 3
    await plain.invalidate("k")
    assert await signed.get("k") is None


@runs()
async def test_a_key_is_replaced_while_a_fleet_of_two_runs(world):
    """In three steps; at no moment does one of them miss what the other has stored."""
    steps = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    fleet = [world.open(signing_keys=steps[0]) for _ in range(2)]
    for step in steps[1:]:
        for place in (0, 1):
            fleet[place] = world.open(signing_keys=step)
            for writer, reader in (fleet, fleet[::-1]):
                await writer.set("k", 1)
                await writer.add("counter", 0)
                assert await reader.get("k") == 1
                assert await reader.incr("counter") > 0
        assert fleet[0].stats().misses == fleet[1].stats().misses == {}
        for each in fleet:
            await each.set("k", 2)  # those that the old key has signed have ended, before it is removed
        await fleet[0].invalidate("counter")
    hasty = world.open(signing_keys=[OLD])
    assert await hasty.get("k") is None
    assert hasty.stats().misses[MissReason.SIGNATURE] == 1


@runs()
async def test_a_lock_is_the_stores_and_needs_no_signature(world):
    cache, other = world.cache, world.open(signing_keys=[NEW])
    async with cache.lock("nightly", 5) as first:
        pass
    async with other.lock("nightly", 5) as second:
        assert second.token > first.token


@runs()
async def test_adding_ends_where_the_look_at_what_is_there_fails(world):
    await world.cache.set("k", 1)
    refusing = world.cache.refusing(FailureKind.PERMISSION, InspectCell)
    with refusing, pytest.raises(CacheConnectionError):
        await world.cache.add("k", 2)
    world.log.clear()


@runs()
async def test_a_swap_ends_where_the_look_at_what_is_there_fails(world):
    await world.cache.set("k", 1)
    found = await world.cache.lookup("k")
    refusing = world.cache.refusing(FailureKind.PERMISSION, InspectCell)
    with refusing, pytest.raises(CacheConnectionError):
        await world.cache.swap("k", 2, version=found.version)
    world.log.clear()


@runs()
async def test_a_hit_that_is_signed_is_answered_at_the_first_look(world):
    cache = world.cache
    await cache.set_many({"a": 1, "b": 2}, tags=["t"])
    await cache.set("k", 3)
    before = len(world.trace.facts)
    assert await cache.get("k") == 3
    assert await cache.get_or_load("k", never) == 3
    assert await cache.get_or_load("a", never, tags=["t"]) == 1
    assert await cache.get_or_load_many(["a", "b"], never, tags=["t"]) == {"a": 1, "b": 2}
    assert len(world.trace.facts) - before == 4
    assert cache.stats().redis_hits == 5
