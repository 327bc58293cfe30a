"""A server that comes back with a snapshot: in every order of a load, a write, the snapshot and the restart.

The load is the shipped machine on the shipped store. Another process commits and removes the key, or its tag;
a snapshot is taken, and loaded, in between. Whoever asks when all that is over must not be given what was
before the write. Without a floor there are orders in which he is.
"""

from itertools import combinations, product

import pytest
from msgspec.structs import replace

from sansio_cache.cell import NO_GRANT, Cell, Kind, above_floor, make_grant
from sansio_cache.commands import (
    AcquireLease,
    Compute,
    DeleteKeys,
    FreeLock,
    Lease,
    Mode,
    ReleaseLeases,
    RenewLeases,
    ShareLoad,
    TakeLock,
)
from sansio_cache.events import Computed, LoadLed, WriterFound
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.step import Loaded, Value
from support.machines import KEY, load_request

NOW_S = 1_000.0
TAG_KEY = "shop:%t:group"
OLD = make_grant(b"nonce-00", 5)
NEW = make_grant(b"nonce-00", 15)


def restored(snapshot, *, has_floor, compares):
    """The store as it is after a restart; what it issues from then on is later than what is in it."""
    latest_us = int(NOW_S * 1_000_000) + 1_000_000
    store = MemoryStore(lambda: NOW_S, issued_us=latest_us, compares=compares)
    store.floor_us = latest_us if has_floor else 0
    for key, kept in snapshot.items():
        store.plant(key, kept.cell, kept.expires_ms)
    return store


class World:
    """A store, a database of one row, and a load that goes step by step."""

    def __init__(self, *, tags, compares, has_floor, starts_full):
        self.compares, self.has_floor, self.tags = compares, has_floor, tags
        self.store = MemoryStore(lambda: NOW_S, compares=compares)
        self.version, self.snapshot, self.loads = 1, None, 0
        if starts_full:
            self.load_all()
        self.step = self.began()

    def began(self):
        """A load, each with a nonce of its own."""
        self.loads += 1
        return get_or_load(load_request(nonce=b"nonce-%02d" % self.loads, tags=self.tags))

    def load_all(self):
        """Have a load run from its beginning to its end: the version that it gives."""
        step = self.began()
        while step.command is not None:
            step = self.after(step)
        outcome = step.outcome
        assert isinstance(outcome, Loaded | Value)
        return outcome.value

    def after(self, step):
        command = step.command
        if isinstance(command, ShareLoad):
            return step.state.receive(LoadLed(NOW_S, 1))
        if isinstance(command, Compute):
            return step.state.receive(Computed(NOW_S, self.version))
        return step.state.receive(self.store.perform(command))

    def go_on(self):
        """One step of the load."""
        if self.step.command is not None:
            self.step = self.after(self.step)

    def commit(self):
        self.version = 2

    def tell(self):
        self.store.perform(DeleteKeys((TAG_KEY,) if self.tags else (KEY,), 1.0))

    def save(self):
        self.snapshot = self.store.dump()

    def restart(self):
        self.store = restored(self.snapshot, has_floor=self.has_floor, compares=self.compares)


def orders(load_steps):
    """Every order of the steps of a load, of a write, and of a snapshot with its restart."""
    total = load_steps + 4
    for writes in combinations(range(total), 2):
        rest = [place for place in range(total) if place not in writes]
        for turns in combinations(rest, 2):
            line = ["go_on"] * total
            for place, what in zip((*writes, *turns), ("commit", "tell", "save", "restart"), strict=True):
                line[place] = what
            yield line


def stale_orders(**options):
    """In how many orders a reader is given what was before the write, of how many."""
    count = stale = 0
    for order in orders(7):
        world = World(**options)
        for what in order:
            getattr(world, what)()
        while world.step.command is not None:
            world.go_on()
        count += 1
        stale += world.load_all() != 2
    return stale, count


every_way = pytest.mark.parametrize(
    ("tags", "compares", "starts_full"), list(product(((), ("t:group",)), (False, True), (False, True)))
)


@every_way
def test_what_is_older_than_a_restart_is_never_given_to_who_asks_after_it(tags, compares, starts_full):
    stale, count = stale_orders(tags=tags, compares=compares, starts_full=starts_full, has_floor=True)
    assert (stale, count) == (0, 55 * 36)


@every_way
def test_without_a_floor_there_are_orders_in_which_it_is(tags, compares, starts_full):
    """The control of the test above."""
    stale, _ = stale_orders(tags=tags, compares=compares, starts_full=starts_full, has_floor=False)
    assert stale > 0


VALUE = Cell(Kind.VALUE, NO_GRANT, 0, 7, OLD, b"body")


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        (VALUE, None),
        (replace(VALUE, filled_by=NEW), replace(VALUE, filled_by=NEW)),
        (replace(VALUE, grant=NEW, lease_deadline_ms=9), Cell(Kind.EMPTY, NEW, 9)),
        (replace(VALUE, filled_by=NEW, grant=OLD, lease_deadline_ms=9), replace(VALUE, filled_by=NEW)),
        (
            replace(VALUE, filled_by=NEW, grant=NEW, lease_deadline_ms=9),
            replace(VALUE, filled_by=NEW, grant=NEW, lease_deadline_ms=9),
        ),
        (Cell(Kind.EMPTY, OLD, 9), None),
        (Cell(Kind.HOLD, OLD, 9), None),
        (Cell(Kind.EMPTY, NEW, 9), Cell(Kind.EMPTY, NEW, 9)),
        (Cell(Kind.HOLD, NEW, 9), Cell(Kind.HOLD, NEW, 9)),
        (Cell(Kind.EMPTY), None),
    ],
)
def test_of_a_cell_is_left_what_was_issued_since(cell, left):
    assert above_floor(cell, 10) == left


def test_a_lock_that_was_held_before_a_restart_is_still_held_and_its_token_goes_up():
    store = MemoryStore(lambda: NOW_S)
    lock = "shop:%l:job"
    taken = store.perform(TakeLock(lock, b"nonce-aa", 5_000, 1.0)).grants[0]
    again = restored(store.dump(), has_floor=True, compares=False)
    assert isinstance(again.perform(TakeLock(lock, b"nonce-bb", 5_000, 1.0)), WriterFound)
    again.perform(FreeLock(Lease(lock, taken), 1.0))
    assert again.perform(TakeLock(lock, b"nonce-bb", 5_000, 1.0)).grants[0][8:] > taken[8:]


def test_what_is_older_can_be_given_up_and_not_be_renewed():
    store = MemoryStore(lambda: NOW_S)
    lease = store.perform(AcquireLease(KEY, b"nonce-aa", 5_000, NO_GRANT, Mode.KEEP, 1.0)).grant
    again = restored(store.dump(), has_floor=True, compares=False)
    assert again.perform(RenewLeases((Lease(KEY, lease),), 5_000, 1.0)).renewed == (False,)
    again.perform(ReleaseLeases((Lease(KEY, lease),), 1.0))
    assert not again.dump()
