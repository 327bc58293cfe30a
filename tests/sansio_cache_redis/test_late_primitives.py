"""Requests of primitives that arrive late, or once more: they change nothing that came after them.

A server that is stopped with a request in its socket, or a client that sends again, does this (fault 36). The
explorer tries it in all orders; here each request is sent again as it was, to memory and to a real server.
"""

from __future__ import annotations

import pytest

from sansio_cache import Exact, Policy, UnknownOutcomeError
from sansio_cache.cell import NO_GRANT, Cell, Kind, grant_us
from sansio_cache.commands import (
    ClaimCell,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    Lease,
    RenewLeases,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.events import FillResult, HoldsTaken, WriterFound
from sansio_cache.ttl import NO_JITTER
from support.runtimes import loading, runs

pytestmark = pytest.mark.servers

STALE = Policy(ttl=100, jitter=NO_JITTER, stale_for_s=900)
NONCE, OTHER = b"late-one", b"another1"
TIMEOUT_S = 10.0


def swapping(world, key, version, value):
    return SwapCell(world.raw.full(key), version, NONCE, 600_000, 0, world.raw.body(key, value), TIMEOUT_S)


@runs(compare=None)
async def test_a_swap_that_arrives_again_changes_nothing(world):
    cache = world.cache
    await cache.set("k", 1, ttl=Exact(600))
    swap = swapping(world, "k", (await cache.lookup("k")).version, 2)
    first = world.raw.perform(swap)

    assert world.raw.perform(swap).version == first.version, "a retry is told what the first has done"
    assert await cache.incr("k") == 3
    assert world.raw.perform(swap).version is None
    assert await cache.get("k") == 3
    await cache.set("k", 9)
    assert world.raw.perform(swap).version is None
    await cache.invalidate("k")
    assert world.raw.perform(swap).version is None
    assert world.raw.cell("k") is None


@runs(compare=None)
async def test_a_swap_that_is_late_makes_nothing_fresh_and_takes_no_hold(world):
    cache = world.cache
    await cache.get_or_load("k", loading(1), policy=STALE)
    swap = swapping(world, "k", (await cache.lookup("k")).version, 2)
    await cache.expire("k")
    assert world.raw.perform(swap).version is None
    assert (await cache.lookup("k")).state == "stale"
    world.raw.perform(HoldCells((world.raw.full("k"),), OTHER, 60_000, TIMEOUT_S))
    held = world.raw.cell("k")
    assert world.raw.perform(swap).version is None
    assert world.raw.cell("k") == held


@runs(compare=None)
async def test_what_was_claimed_late_is_filled_by_nobody(world):
    """The fill of an addition goes into the hold that it was given, and into no later one."""
    cache = world.cache
    full = world.raw.full("k")
    claim = ClaimCell(full, NONCE, 60_000, TIMEOUT_S)
    held = world.raw.perform(claim)
    assert world.raw.perform(claim).grants == held.grants, "a retry is given the same hold"
    fill = Fill(full, held.grants[0], 600_000, 0, world.raw.body("k", "old"), Kind.HOLD)
    assert world.raw.perform(FillCells((fill,), TIMEOUT_S)).results == (FillResult.STORED,)
    await cache.invalidate("k")

    late = world.raw.perform(claim)
    assert late.grants != held.grants
    assert world.raw.perform(FillCells((fill,), TIMEOUT_S)).results == (FillResult.REFUSED,)
    world.raw.release("k", late.grants[0])
    assert world.raw.cell("k") is None
    await cache.set("k", "new")
    assert not isinstance(world.raw.perform(claim), HoldsTaken), "a value is there"
    assert world.raw.perform(FillCells((fill,), TIMEOUT_S)).results == (FillResult.REFUSED,)
    assert await cache.get("k") == "new"


@runs(compare=None)
async def test_a_touch_that_is_late_revives_nothing_and_lengthens_no_hold(world):
    cache = world.cache
    full = world.raw.full("k")
    await cache.get_or_load("k", loading(1), policy=STALE)
    touch = TouchCell(full, (await cache.lookup("k")).version, 5_000_000, 9_000_000, NONCE, TIMEOUT_S)
    assert world.raw.perform(touch).touched
    assert world.raw.perform(touch).touched, "once more does no harm"
    assert await cache.ttl("k") <= 5_000
    await cache.expire("k")
    assert not world.raw.perform(touch).touched
    assert (await cache.lookup("k")).state == "stale"
    await cache.set("k", 2, ttl=Exact(100))
    assert not world.raw.perform(touch).touched
    assert world.raw.ttl_ms("k") <= 100_000
    world.raw.perform(HoldCells((full,), OTHER, 200, TIMEOUT_S))
    assert not world.raw.perform(touch).touched
    await cache.invalidate("k")
    assert not world.raw.perform(touch).touched
    assert world.raw.cell("k") is None


@runs(compare=None)
async def test_a_lock_that_is_taken_or_freed_late_is_not_anothers(world):
    full = world.raw.full("%l:nightly")
    take = TakeLock(full, NONCE, 60_000, TIMEOUT_S)
    [mine] = world.raw.perform(take).grants
    assert world.raw.perform(take).grants == (mine,), "a retry holds the same lock"
    free = FreeLock(Lease(full, mine), TIMEOUT_S)
    world.raw.perform(free)
    [theirs] = world.raw.perform(TakeLock(full, OTHER, 60_000, TIMEOUT_S)).grants
    assert grant_us(theirs) > grant_us(mine)

    assert isinstance(world.raw.perform(take), WriterFound), "another holds it"
    world.raw.perform(free)
    assert world.raw.cell("%l:nightly").grant == theirs

    world.raw.perform(FreeLock(Lease(full, theirs), TIMEOUT_S))
    assert world.raw.cell("%l:nightly").grant == NO_GRANT
    [late] = world.raw.perform(take).grants
    assert grant_us(late) > grant_us(theirs), "one that was taken late has a token of its own, and lapses"


@runs(compare=None)
async def test_a_renewal_of_a_lock_that_is_late_keeps_nothing_for_who_has_it_no_more(world):
    full = world.raw.full("%l:nightly")
    [mine] = world.raw.perform(TakeLock(full, NONCE, 60_000, TIMEOUT_S)).grants
    renew = RenewLeases((Lease(full, mine),), 600_000, TIMEOUT_S)
    assert world.raw.perform(renew).renewed == (True,)
    assert world.raw.perform(renew).renewed == (True,), "once more does no harm"
    world.raw.perform(FreeLock(Lease(full, mine), TIMEOUT_S))
    free = world.raw.cell("%l:nightly")
    assert world.raw.perform(renew).renewed == (False,)
    assert world.raw.cell("%l:nightly") == free, "nobody holds it"

    [theirs] = world.raw.perform(TakeLock(full, OTHER, 60_000, TIMEOUT_S)).grants
    held = world.raw.cell("%l:nightly")
    assert world.raw.perform(renew).renewed == (False,)
    assert world.raw.cell("%l:nightly") == held
    assert held.grant == theirs


@pytest.mark.parametrize("then", ["nothing", "another counts", "another invalidates"])
@runs(compare=None)
async def test_a_count_whose_answer_is_lost_is_made_once_or_said_to_be_unknown(world, then):
    cache, full = world.cache, world.raw.full("n")
    await cache.set("n", 0)

    def meanwhile():
        seen = world.raw.cell("n")
        assert isinstance(seen, Cell)
        if then == "another counts":
            other = SwapCell(full, seen.filled_by, OTHER, 0, 0, world.raw.body("n", 2), TIMEOUT_S)
            assert world.raw.perform(other).version is not None
        elif then == "another invalidates":
            world.raw.delete("n")

    with cache.losing(SwapCell, then=meanwhile):
        if then == "nothing":
            assert await cache.incr("n") == 1
        else:
            with pytest.raises(UnknownOutcomeError):
                await cache.incr("n")
    world.take_log()
    assert await cache.get("n") == {"nothing": 1, "another counts": 2, "another invalidates": None}[then]


@runs(compare=None)
async def test_an_addition_whose_fill_is_late_is_refused_after_an_invalidation(world):
    cache, full = world.cache, world.raw.full("k")
    sent = []

    def invalidated():
        sent.append(world.raw.cell("k"))
        world.raw.delete("k")

    with cache.losing(FillCells, then=invalidated), pytest.raises(UnknownOutcomeError):
        await cache.add("k", "mine")
    world.take_log()
    [stored] = sent
    fill = Fill(full, stored.filled_by, 600_000, 0, stored.body, Kind.HOLD)
    assert world.raw.perform(FillCells((fill,), TIMEOUT_S)).results == (FillResult.REFUSED,)
    assert await cache.get("k") is None
