"""Locks, event by event, and their tokens in a store; what callers see is in `test_primitives.py`."""

from sansio_cache.cell import Cell, Kind, grant_us, make_grant
from sansio_cache.commands import FreeLock, Lease, Sleep, TakeLock
from sansio_cache.events import HoldsTaken, Interrupted, LeasesReleased, Woke, WriterFound
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.lock import LockRequest, take
from sansio_cache.step import Abandoned, Locked, TookTooLong
from support.machines import GRANT, NONCE, TIMEOUTS, Clock, Script

LOCK = "shop:%l:nightly"


def taking():
    return Script(take(LockRequest(LOCK, NONCE, 1, 5_000, 30.0, TIMEOUTS, 0.0)))


def test_a_lease_counts_from_when_it_was_asked_for():
    assert taking().give(HoldsTaken(0.2, (GRANT,))).outcome == Locked(GRANT, 0.0)
    waited = taking().give(WriterFound(0.0, 1_000), Woke(7.0), HoldsTaken(7.2, (GRANT,)))
    assert waited.outcome == Locked(GRANT, 7.0)


def test_who_has_waited_for_long_enough_asks_no_more():
    script = taking().give(WriterFound(0.0, 5_000))
    assert isinstance(script.command, Sleep)
    assert script.give(Woke(31.0), WriterFound(31.0, 5_000)).outcome == TookTooLong(31.0)


def test_one_that_is_interrupted_gives_back_what_it_may_have():
    script = taking().give(Interrupted(0.0))
    assert script.command == FreeLock(Lease(LOCK, NONCE), TIMEOUTS.operation_s)
    assert script.give(LeasesReleased(0.0)).outcome == Abandoned()


def test_a_token_is_higher_than_the_last_also_where_the_clock_went_back():
    store = MemoryStore(Clock())
    far = make_grant(b"theirs-1", 2**52)
    store.plant(LOCK, Cell(Kind.EMPTY, filled_by=far), 10**12)

    [first] = store.perform(TakeLock(LOCK, NONCE, 5_000, 1.0)).grants
    store.perform(FreeLock(Lease(LOCK, first), 1.0))
    [second] = store.perform(TakeLock(LOCK, NONCE, 5_000, 1.0)).grants

    assert grant_us(far) < grant_us(first) < grant_us(second)
