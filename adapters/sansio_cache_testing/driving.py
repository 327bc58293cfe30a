"""What a driver has to do, as tests: subclass `DriverConformance`, and say how a driver is made.

    class TestMyDriver(DriverConformance):
        def make_driver(self, store):
            return MyDriver(store)

A driver runs operations (`docs/howto/write-a-driver`): `run(step, loader)` gives the outcome, or a coroutine
of it, and its `coordinator` is the process's. The store that it is given answers `await answer(command)`, or
`perform(command)` for drivers of threads. Each test is about one line of the driver's contract, and says
which.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NO_GRANT, Cell
from sansio_cache.codec import codec_for
from sansio_cache.commands import AcquireLease, FillCells, ReadCell, ReleaseLeases, StoreCommand
from sansio_cache.events import FailureKind, StoreEvent, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import OperationName
from sansio_cache.operations.get_or_load import get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.policy import Policy
from sansio_cache.step import Loaded, Raised, Step, Value
from sansio_cache.ttl import NO_JITTER

_KEY: Final = "conformance:user:1"
_TIMEOUTS: Final = StoreTimeouts(operation_s=5.0, attempts=1)
_CODEC: Final = codec_for(int, 100)
_PATIENT_S: Final = 20.0
"""How long a test waits for what must happen: it bounds only a failure."""
_POLICY: Final = Policy(ttl=60.0, jitter=NO_JITTER, lease_s=30.0, max_lease_s=60.0)


class RecordingStore:
    """A memory store for drivers of any colour: it writes down what it is asked, and fails when told to."""

    def __init__(self) -> None:
        self.memory = MemoryStore(time.monotonic)
        self.asked: list[StoreCommand] = []
        self.fails = False
        """Whether it answers nothing but failures."""
        self.hangs_on: type | None = None
        """For which commands the answer does not come, though they are done."""
        self._lock = threading.Lock()

    def perform(self, command: StoreCommand) -> StoreEvent:
        """Do what is asked."""
        with self._lock:
            self.asked.append(command)
            if self.fails:
                return StoreFailed(time.monotonic(), FailureKind.CONNECTION)
            return self.memory.perform(command)

    async def answer(self, command: StoreCommand) -> StoreEvent:
        """The same, in an event loop."""
        await anyio.lowlevel.checkpoint()
        event = self.perform(command)
        if self.hangs_on is not None and isinstance(command, self.hangs_on):
            await anyio.sleep_forever()
        return event

    def kinds(self) -> list[str]:
        """The names of all commands that were asked, in order."""
        return [type(each).__name__ for each in self.asked]

    @property
    def is_leased(self) -> bool:
        """Whether somebody holds the lease of a key."""
        cells = (kept.cell for kept in self.memory.dump().values())
        return any(isinstance(cell, Cell) and cell.grant != NO_GRANT for cell in cells)


class _Rules:
    """The rules, on any event loop."""

    runtime: str = "asyncio"

    def make_driver(self, store: RecordingStore) -> Any:
        """A driver on this store."""
        raise NotImplementedError

    async def close_driver(self, driver: Any) -> None:
        """Close it."""

    # What the tests are written with.

    def _in_loop(self, test: Callable[[Any, RecordingStore], Awaitable[None]]) -> None:
        async def main() -> None:
            store = RecordingStore()
            driver = self.make_driver(store)
            try:
                with anyio.fail_after(_PATIENT_S):
                    await test(driver, store)
                with anyio.move_on_after(_PATIENT_S):
                    await self._until(lambda: not len(driver.coordinator.single_flight))
                assert not len(driver.coordinator.single_flight), (
                    "a load is left when all is over: give the ticket up at the end of every operation (B2)"
                )
            finally:
                await self.close_driver(driver)

        anyio.run(main, backend=self.runtime)

    async def _run(self, driver: Any, step: Step, loader: Callable[..., Any] | None = None) -> Any:
        if inspect.iscoroutinefunction(driver.run):
            return await driver.run(step, loader)
        return await anyio.to_thread.run_sync(driver.run, step, loader)

    def _loader(
        self, driver: Any, value: Any, calls: list[Any], before: Callable[[], bool] | None = None
    ) -> Any:
        """A loader of the driver's colour; it waits for something before it gives a value, or raises one."""

        def give() -> Any:
            if isinstance(value, BaseException):
                raise value
            return value

        async def load(*_: Any) -> Any:
            calls.append(value)
            if before is not None:
                await self._until(before)
            return give()

        def load_blocking(*_: Any) -> Any:
            calls.append(value)
            deadline_s = time.monotonic() + _PATIENT_S
            while before is not None and not before() and time.monotonic() < deadline_s:
                time.sleep(0.001)
            return give()

        return load if inspect.iscoroutinefunction(driver.run) else load_blocking

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - it is seen from outside only
            await anyio.sleep(0.001)

    def _load(self, driver: Any, nonce: int = 1, policy: Policy = _POLICY) -> Step:
        coordinator = driver.coordinator
        drawn = nonce.to_bytes(8) + bytes(RANDOM_BYTES - 8)
        request = LoadRequest(_KEY, _CODEC, policy, drawn, _TIMEOUTS, time.monotonic())
        return get_or_load(request, skip=coordinator.skip(_KEY) if coordinator.must_ask else None)

    # The rules.

    def test_every_command_is_performed_once_and_its_event_given_back(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            calls: list[Any] = []
            outcome = await self._run(driver, self._load(driver), self._loader(driver, 7, calls))
            assert isinstance(outcome, Loaded), f"a miss loads; got {outcome}"
            assert (outcome.value, outcome.accepted, calls) == (7, True, [7])
            assert store.kinds() == ["ReadCell", "AcquireLease", "FillCells"], (
                f"a miss reads, acquires and fills, once each; the store was asked for {store.kinds()}"
            )
            again = await self._run(driver, self._load(driver, 2), self._loader(driver, 8, calls))
            assert isinstance(again, Value)
            assert (again.value, calls) == (7, [7])

        self._in_loop(test)

    def test_callers_of_one_process_share_a_load_l2(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            calls: list[Any] = []
            outcomes: list[Any] = []
            loader = self._loader(driver, 7, calls, lambda: store.kinds().count("ReadCell") == 10)

            async def call(nonce: int) -> None:
                outcomes.append(await self._run(driver, self._load(driver, nonce), loader))

            async with anyio.create_task_group() as tasks:
                for nonce in range(10):
                    tasks.start_soon(call, nonce)
            assert [outcome.value for outcome in outcomes] == [7] * 10
            acquired = store.kinds().count("AcquireLease")
            assert max(acquired, len(calls)) <= 2, (
                f"ten callers at once have loaded {len(calls)} times, and asked for {acquired} leases: ask "
                "the coordinator to `share`, wait for the end of what is followed, and `leave` (L2)"
            )

        self._in_loop(test)

    def test_a_loader_that_raises_gives_its_lease_back(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            error = LookupError("the row is gone")
            outcome = await self._run(driver, self._load(driver), self._loader(driver, error, []))
            assert isinstance(outcome, Raised), (
                "an exception of the loader is ComputeFailed, and no end of the driver"
            )
            assert outcome.error is error
            assert not store.is_leased, "the lease was not given back: perform all commands to the last"

        self._in_loop(test)

    def test_an_interrupted_load_gives_its_lease_back_l7(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            if inspect.iscoroutinefunction(driver.run):
                await self._cancelled(driver, lambda: "AcquireLease" in store.kinds())
            else:
                loader = self._loader(driver, KeyboardInterrupt(), [])
                try:
                    await self._run(driver, self._load(driver), loader)
                except KeyboardInterrupt:
                    pass
                else:
                    raise AssertionError("the interrupt was swallowed: give back, and raise it again")
            assert not store.is_leased, (
                "a lease is left behind: feed `interrupted(step)`, and perform what it asks, shielded (L7)"
            )

        self._in_loop(test)

    async def _cancelled(self, driver: Any, when: Callable[[], bool]) -> None:
        """Cancel a load as programs of this event loop do."""
        is_over = False

        async def call() -> None:
            nonlocal is_over
            await self._run(driver, self._load(driver), self._loader(driver, 7, [], lambda: False))
            is_over = True

        async def until_it_is_there() -> None:
            await self._until(when)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

        if self.runtime == "asyncio":
            task = asyncio.ensure_future(call())
            await until_it_is_there()
            task.cancel()
            await asyncio.wait([task])
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await until_it_is_there()
                tasks.cancel_scope.cancel()
        assert not is_over, "the cancellation was swallowed"

    def test_a_load_interrupted_while_it_asks_for_the_lease_gives_it_back_l7(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            if not inspect.iscoroutinefunction(driver.run):
                return  # nothing interrupts a thread that waits for a store
            store.hangs_on = AcquireLease
            await self._cancelled(driver, lambda: "AcquireLease" in store.kinds())
            assert "ReleaseLeases" in store.kinds(), (
                "an interrupted acquire counts as held: release it by its nonce"
            )
            assert not store.is_leased

        self._in_loop(test)

    def test_leases_are_renewed_while_the_loader_runs_and_no_longer_l6(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            policy = Policy(ttl=60.0, jitter=NO_JITTER, lease_s=0.3, max_lease_s=60.0)
            loader = self._loader(driver, 7, [], lambda: "RenewLeases" in store.kinds())
            outcome = await self._run(driver, self._load(driver, policy=policy), loader)
            assert outcome.accepted, "the loader took longer than its lease, which was not renewed"
            seen = store.kinds().count("RenewLeases")
            await anyio.sleep(0.4)
            assert store.kinds().count("RenewLeases") <= seen + 1, (
                "renewing goes on after the loader has ended (L6)"
            )

        self._in_loop(test)

    def test_the_loader_runs_where_the_store_fails(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            store.fails = True
            outcome = await self._run(driver, self._load(driver), self._loader(driver, 7, []))
            assert outcome.value == 7
            assert driver.coordinator.is_out, (
                "the coordinator was not told of the outage: give it the notices of every step (`heed`)"
            )
            asked = len(store.asked)
            await self._run(driver, self._load(driver, 2), self._loader(driver, 7, []))
            assert not any(isinstance(each, ReadCell) for each in store.asked[asked:]), (
                "a read asks in an outage"
            )
            store.fails = False
            await self._until(lambda: not driver.coordinator.is_out)

        self._in_loop(test)

    def test_what_could_not_be_invalidated_is_told_when_the_store_is_back_s1(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            await self._run(driver, self._load(driver), self._loader(driver, 7, []))
            store.fails = True
            keys = (_KEY,)
            request = InvalidateRequest(OperationName.INVALIDATE, keys, 100, _TIMEOUTS, time.monotonic())
            await self._run(driver, invalidate(request))
            assert driver.coordinator.pending_invalidations == 1, (
                "an invalidation that failed was forgotten (S1)"
            )
            outcome = await self._run(driver, self._load(driver, 2), self._loader(driver, 8, []))
            assert outcome.value == 8, "what is pending was served: ask the coordinator which reads to `skip`"
            store.fails = False
            await self._until(lambda: not driver.coordinator.pending_invalidations)
            assert not store.memory.dump(), "the store was not told: run what `begin_recovery` gives"

        self._in_loop(test)

    def test_what_is_spawned_runs_after_the_outcome_and_once(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            policy = Policy(ttl=0.001, jitter=NO_JITTER, stale_for_s=600.0)
            await self._run(driver, self._load(driver, policy=policy), self._loader(driver, 7, []))
            await anyio.sleep(0.01)
            calls: list[Any] = []
            lasting = Policy(ttl=600.0, jitter=NO_JITTER, stale_for_s=600.0)
            loader = self._loader(driver, 8, calls)
            outcome = await self._run(driver, self._load(driver, 2, lasting), loader)
            assert outcome.value == 7, "the stale value is given at once, and the refresh goes on behind it"
            await self._until(lambda: sum(isinstance(each, FillCells) for each in store.asked) == 2)
            again = await self._run(driver, self._load(driver, 3, lasting), loader)
            assert (again.value, calls) == (8, [8])

        self._in_loop(test)

    def test_a_lease_is_given_back_by_its_owner_only_s5(self) -> None:
        async def test(driver: Any, store: RecordingStore) -> None:
            await self._run(driver, self._load(driver), self._loader(driver, LookupError(), []))
            asked = [each for each in store.asked if isinstance(each, AcquireLease | ReleaseLeases)]
            acquired, released = asked[0], asked[-1]
            assert isinstance(acquired, AcquireLease)
            assert isinstance(released, ReleaseLeases)
            assert released.leases[0].lease_id.startswith(acquired.nonce)

        self._in_loop(test)


class DriverConformance(_Rules):
    """The rules for a driver. Override `make_driver`, and `runtime` for one of trio."""

    runtime: str = "asyncio"
    """The event loop that the tests run in; drivers of threads are called from worker threads."""

    def make_driver(self, store: RecordingStore) -> Any:
        """A driver on this store; it is called in the event loop."""
        raise NotImplementedError("say in make_driver how the driver is made, on the store that is given")

    async def close_driver(self, driver: Any) -> None:
        """Close it, where that is needed; in the event loop as well."""
