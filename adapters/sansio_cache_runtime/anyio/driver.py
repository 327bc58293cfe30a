"""The driver for asyncio and trio: performs the commands of one operation, one at a time, in its task.

Mirrors `sync/driver.py`. A driver has the I/O, the waiting and the cancellation; what is decided is decided
by the machines and the coordinator. The rules that decide whether a lease can leak: an interrupted acquire
counts as held; a release is always shielded, on the success path too; and the clean-up is bounded in time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, assert_never

import anyio

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import (
    AcquireLeases,
    Compute,
    ComputeMany,
    ReleaseLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.coordinator import Coordinator, interrupted
from sansio_cache.errors import CacheClosedError
from sansio_cache.events import Event, FailureKind, StoreFailed
from sansio_cache.glance import Beginning
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following
from sansio_cache.step import Outcome, Step, may_hold
from sansio_cache_runtime.anyio.background import Background
from sansio_cache_runtime.anyio.event import LoopEvent
from sansio_cache_runtime.anyio.lease_renewer import LeaseRenewer
from sansio_cache_runtime.anyio.loaders import call_loader
from sansio_cache_runtime.anyio.turns import take_turn
from sansio_cache_runtime.anyio.workers import Workers
from sansio_cache_runtime.backend import AnyioBackend
from sansio_cache_runtime.driver_base import PERFORMED, Call, DriverBase
from sansio_cache_runtime.loaders import (
    forget_loads,
    refuse_recursion,
)
from sansio_cache_runtime.recorder import Recorder

_CLEAN_UP_S: Final = 1.0
_PERFORMED: Final = PERFORMED | {ReleaseLeases}


class Driver(DriverBase[LoopEvent, AnyioBackend]):
    """Runs operations for any number of tasks of one event loop.

    Args:
        backend: Answers store commands.
        coordinator: Decides what operations have to do with each other.
        recorder: Takes the notices in.
        background: Starts tasks that belong to no caller.
        timeouts: How long a recovery's commands may take.
        clock: Monotonic, in seconds.
        endings: What followers of loads wait for, in this and other loops.
    """

    def __init__(
        self,
        backend: AnyioBackend,
        coordinator: Coordinator,
        recorder: Recorder,
        background: Background,
        timeouts: StoreTimeouts,
        clock: Callable[[], float],
        endings: dict[int, LoopEvent],
    ) -> None:
        super().__init__(backend, coordinator, recorder, timeouts, clock, LoopEvent, int, endings)
        self._background = background
        self._busy = self._workers = Workers(background)
        self._lease_renewer = LeaseRenewer(clock, background, self.run)

    async def run(
        self, step: Beginning, loader: Callable[..., Any] | None = None, call: Call | None = None
    ) -> Outcome:
        """Run an operation to its end.

        Args:
            step: What it begins with.
            loader: The caller's.
            call: Under whose ticket the operation was begun, where it was.

        Raises:
            CacheClosedError: The cache is closed.
            RecursiveLoadError: A loader asks for its own key.
        """
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")
        begun: Step | Outcome = (
            step
            if isinstance(step, Step)
            else self._glanced(
                step, await self._backend.answer(step.command)
            )  # mostly a hit, and that is all
        )
        return await self._go_on(begun, loader, call) if isinstance(begun, Step) else begun

    async def _go_on(self, step: Step, loader: Callable[..., Any] | None, call: Call | None) -> Outcome:
        coordinator, recorder = self._coordinator, self._recorder
        if recorder.is_followed():
            call = self._follow(step, loader, call)
        try:
            while True:
                notices = step.notices if call is None or call.span is None else call.span.taken(step)
                if notices and (
                    (recorder.note(notices) and (coordinator.concerns(notices) or coordinator.is_disabled))
                    or coordinator.needs_recovery
                ):
                    self._heed(notices)
                    for recovery in self._neglected(step):
                        await self.recover(recovery)
                    await take_turn()  # nothing else may wait, where the store is not asked
                if (command := step.command) is None:
                    break
                asked: Any = command
                if type(command) not in _PERFORMED:
                    event: Event = await self._backend.answer(asked)
                else:
                    call = call or Call(loader, None)
                    event = await self._perform(asked, call)
                step = step.state.receive(event)
                if step.load_id is not None:
                    self._observe(step)
            if call is not None:
                self._end(call)
        except BaseException as error:
            try:
                await self._give_back(step, is_dropped=isinstance(error, GeneratorExit))
            finally:
                if call is not None:  # once more, where it was interrupted in its end
                    self._end(call)
            raise
        if step.spawn:
            self._spawn(step.spawn, loader, call)
        assert step.outcome is not None
        return step.outcome

    async def close(self) -> None:
        """End the background tasks; what they hold is given back while there is a store to take it."""
        self._begin_closing()
        self._lease_renewer.close()
        if self._backend.listener is not None:
            self._backend.listener.close(wait=False)
        await self._background.end()

    async def _give_back(self, step: Step, *, is_dropped: bool) -> None:
        """Have an interrupted operation give back what it may hold, shielded and bounded in time.

        One that is dropped, as its loop has ended without it, can wait for nothing any more.
        """
        self._heed_again(step)
        if not may_hold(step):
            return
        step = interrupted(step, self._clock())
        try:
            self._note(step.notices)
            if is_dropped:
                return
            with anyio.move_on_after(_CLEAN_UP_S, shield=True):
                while step.command is not None:
                    assert isinstance(step.command, StoreCommand)
                    step = step.state.receive(await self._backend.answer(step.command))
                    self._note(step.notices)
        finally:
            # Where it is out of time, or cancelled once more, which asyncio does not shield from.
            self._go_on_without_store(step)

    async def _perform(
        self,
        command: Compute | ComputeMany | ShareLoad | Sleep | AcquireLeases | ReleaseLeases,
        call: Call,
    ) -> Event:
        match command:
            case ReleaseLeases():
                with anyio.move_on_after(_CLEAN_UP_S, shield=True):
                    return await self._backend.answer(command)
                return StoreFailed(self._clock(), FailureKind.TIMEOUT)
            case Compute() | ComputeMany():
                return await self._compute(command, call)
            case ShareLoad():
                return await self._share(command, call)
            case Sleep():
                return await self._sleep(command, call)
            case AcquireLeases(lease_requests=lease_requests):
                refuse_recursion(self._coordinator, *(each.key for each in lease_requests))
                return await self._backend.answer(command)
            case _:
                assert_never(command)

    async def _compute(self, command: Compute | ComputeMany, call: Call) -> Event:
        handled = sys.exception()
        running = call.running = self._running(command)
        try:  # around the beginning as well, where Ctrl-C may strike
            self._begin(running)
            try:
                value = await call_loader(self._bound_loader(command, call))
            except Exception as error:  # noqa: BLE001 - the loader's own, handed to its callers
                return self._compute_failed(error, handled)
            return self._computed(value, call)
        finally:
            running.is_over = True
            self._end_running(running)

    async def _share(self, command: ShareLoad, call: Call) -> Event:
        answer = self._join(command, call)
        if isinstance(answer, Following):
            await call.ending.wait(command.timeout_s)
            return self._leave(answer, call)
        return answer

    async def _sleep(self, command: Sleep, call: Call) -> Event:
        if command.watch is None:
            await self._closing.wait(command.duration_s)
        elif longest_s := self._watch(command, call, call.wake):
            await call.change.wait(longest_s)
            call.change.clear()
        return self._woke(call)

    def _submit(self, step: Step, call: Call) -> bool:
        return self._workers.submit(partial(self._refresh, step, call), partial(self._end, call))

    async def _refresh(self, step: Step, call: Call) -> None:
        forget_loads()
        try:
            if call.outside is None or not self._is_rebound(call.outside):
                self._refreshed(step, await self.run(step, call.loader, call))
        finally:  # also where the cache was closed before it began
            self._end(call)

    def _start_recovery(self, recovery: Recovery) -> bool:
        return bool(
            self._background.start(partial(self.recover, recovery), partial(self._give_up, recovery.ticket))
        )

    async def recover(self, recovery: Recovery) -> None:
        """Run a recovery, and what is to be run after it."""
        following: Recovery | None = recovery
        try:
            while following is not None:
                following = self._next_recovery(following, await self.run(following.step))
        finally:
            self._give_up(recovery.ticket)
