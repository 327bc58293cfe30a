"""The rules for drivers: ours keep them everywhere, a third party's does, broken ones are told which."""

import asyncio
import re
from pathlib import Path

import pytest

from sansio_cache.events import Interrupted
from sansio_cache.single_flight import Following
from sansio_cache_runtime.anyio.cache import Cache as AnyioCache
from sansio_cache_runtime.backend import OnePart
from sansio_cache_runtime.sync.cache import Cache as SyncCache
from sansio_cache_testing.driving import DriverConformance
from thirdparty import asyncio_driver

HOWTO = Path(__file__).parents[2] / "docs/howto/write-a-driver.md"


class Backend(OnePart):
    """The store of the rules, as our drivers want it."""

    def __init__(self, store):
        self.perform, self.answer = store.perform, store.answer

    def close(self):
        pass

    async def aclose(self):
        pass


class Ours:
    """A driver of the runtime, with its coordinator in sight."""

    def __init__(self, driver):
        self._driver, self.coordinator = driver, driver._coordinator


class OursOfThreads(Ours):
    def run(self, step, loader=None):
        return self._driver.run(step, loader)


class OursOfLoops(Ours):
    async def run(self, step, loader=None):
        return await self._driver.run(step, loader)


class TestThreads(DriverConformance):
    def make_driver(self, store):
        self.cache = SyncCache.from_backend(lambda _: Backend(store), namespace="conformance")
        return OursOfThreads(self.cache._driver)

    def teardown_method(self):
        self.cache.close()


class TestAsyncio(DriverConformance):
    def make_driver(self, store):
        self.cache = AnyioCache.from_backend(lambda: Backend(store), namespace="conformance")
        return OursOfLoops(self.cache._bound())

    async def close_driver(self, driver):
        await self.cache.aclose()


class TestTrio(TestAsyncio):
    runtime = "trio"


class Driver(asyncio_driver.Driver):
    """The one of the guide, on the store of the rules."""

    async def ask(self, command):
        return await self.store.answer(command)


class TestThirdParty(DriverConformance):
    def make_driver(self, store):
        return Driver(store)


def test_the_driver_is_the_one_of_the_guide_and_of_some_hundred_lines():
    source = Path(asyncio_driver.__file__).read_text()
    code = source[source.index("class Driver") :]
    assert code in HOWTO.read_text()
    assert 100 <= len(code.splitlines()) <= 130


# Negative controls: drivers that break the contract in one place each.


class SwallowsCancellation(Driver):
    async def run(self, *args, **kwargs):
        try:
            return await super().run(*args, **kwargs)
        except asyncio.CancelledError:
            return None


class GivesNothingBack(Driver):
    async def give_back(self, step):
        step.state.receive(Interrupted(self.clock()))


class RenewsNothing(Driver):
    async def renew(self, renewal):
        pass


class HeedsNothing(Driver):
    def note(self, notices):
        self.stats.record(notices)


class WaitsForNobody(Driver):
    async def share(self, command, ticket):
        answer = self.coordinator.share(ticket, command)
        return (
            self.coordinator.leave(ticket, answer, self.clock()) if isinstance(answer, Following) else answer
        )


BROKEN = {
    SwallowsCancellation: (
        "test_an_interrupted_load_gives_its_lease_back_l7",
        "the cancellation was swallowed",
    ),
    GivesNothingBack: ("test_an_interrupted_load_gives_its_lease_back_l7", "a lease is left behind"),
    RenewsNothing: (
        "test_leases_are_renewed_while_the_loader_runs_and_no_longer_l6",
        "which was not renewed|^$",
    ),
    HeedsNothing: (
        "test_the_loader_runs_where_the_store_fails",
        "the coordinator was not told of the outage",
    ),
    WaitsForNobody: (
        "test_callers_of_one_process_share_a_load_l2",
        "ten callers at once have loaded",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_driver_that_breaks_a_rule_is_told_which(broken, monkeypatch):
    if broken is RenewsNothing:  # it is seen by nothing else
        monkeypatch.setattr("sansio_cache_testing.driving._PATIENT_S", 2.0)

    class Broken(DriverConformance):
        def make_driver(self, store):
            return broken(store)

    test, says = BROKEN[broken]
    with pytest.raises((AssertionError, TimeoutError, ExceptionGroup)) as caught:
        getattr(Broken(), test)()
    assert re.search(says, told(caught.value)), told(caught.value)


def told(error):
    """What an error says, or those of its group."""
    if isinstance(error, ExceptionGroup):
        return " ".join(map(told, error.exceptions))
    return str(error)


def test_who_does_not_say_how_a_driver_is_made_is_told_so():
    with pytest.raises(NotImplementedError, match="say in make_driver"):
        DriverConformance().test_every_command_is_performed_once_and_its_event_given_back()
