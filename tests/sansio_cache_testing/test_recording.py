"""The recording driver: what an operation asks for, and what it is answered, as a list."""

import pytest

from sansio_cache import Policy
from sansio_cache.budget import StoreTimeouts
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    AcquireLease,
    Compute,
    ComputeMany,
    FillCells,
    ReadCell,
    ReleaseLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.events import FailureKind, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import Stored
from sansio_cache.operations.batch import LoadManyRequest
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.load_many import load_many
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.operations.readiness import wait_ready
from sansio_cache.step import Loaded, Raised, Value
from sansio_cache.ttl import NO_JITTER
from sansio_cache_testing import RecordingDriver


def request(driver, nonce=1, policy=None):
    drawn = bytes((nonce,)) * RANDOM_BYTES
    policy = policy or Policy(ttl=60, jitter=NO_JITTER)
    return LoadRequest("n:a", codec_for(int, 100), policy, drawn, StoreTimeouts(), driver.clock())


def test_a_miss_is_written_down_from_its_read_to_its_fill():
    driver = RecordingDriver()
    outcome = driver.run(get_or_load(request(driver)), lambda: 7)

    assert outcome == Loaded(7, b"7", True)
    kinds = [type(each) for each in driver.commands()]
    assert kinds == [ReadCell, ShareLoad, AcquireLease, Compute, FillCells]
    assert driver.trace[-1].event.results[0].is_accepted
    assert any(isinstance(each, Stored) for each in driver.notices)
    assert driver.run(get_or_load(request(driver, 2)), lambda: 8) == Value(7)


def test_a_loader_that_raises_gives_its_lease_back():
    driver = RecordingDriver()

    def fail():
        raise LookupError("no row")

    assert isinstance(driver.run(get_or_load(request(driver)), fail), Raised)
    assert len(driver.commands(ReleaseLeases)) == 1


def test_a_batch_gets_the_names_of_its_keys():
    driver = RecordingDriver()
    batch = LoadManyRequest(("n:a", "n:b"), ("a", "b"), 100, request(driver))
    outcome = driver.run(load_many(batch), lambda names: {name: ord(name) for name in names})
    assert [each.value for each in outcome.values] == [97, 98]
    assert len(driver.commands(ComputeMany)) == 1


def test_what_is_spawned_runs_after_it():
    driver = RecordingDriver()
    stale = Policy(ttl=1, jitter=NO_JITTER, stale_for_s=60)
    driver.run(get_or_load(request(driver, 1, stale)), lambda: 7)
    driver.clock.now_s += 2
    assert driver.run(get_or_load(request(driver, 2, stale)), lambda: 8) == Value(7)
    assert len(driver.commands(FillCells)) == 2
    assert driver.run(get_or_load(request(driver, 3, stale)), lambda: 9) == Value(8)


def test_sleeping_lets_its_clock_pass():
    class Down(MemoryStore):
        def perform(self, command: StoreCommand):
            return StoreFailed(self.clock(), FailureKind.CONNECTION)

    driver = RecordingDriver()
    driver.store = Down(driver.clock)
    before_s = driver.clock()
    driver.run(wait_ready(1.0, before_s))
    assert driver.commands(Sleep)
    assert driver.clock() == pytest.approx(before_s + 1.0, abs=0.5)
