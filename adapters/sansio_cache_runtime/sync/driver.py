"""The driver for threads: performs the commands of one operation, one at a time, in the caller's thread.

Mirrors `anyio/driver.py`. A driver has the I/O, the waiting and the interrupts; what is decided is decided
by the machines and the coordinator. The rules that decide whether a lease can leak: an interrupted acquire
counts as held; a release is not cut short; and the clean-up is bounded in time, as every store command is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, assert_never

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import (
    AcquireLeases,
    Compute,
    ComputeMany,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.coordinator import Coordinator, interrupted
from sansio_cache.errors import CacheClosedError
from sansio_cache.events import Event
from sansio_cache.glance import Beginning
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following
from sansio_cache.step import Outcome, Step, may_hold
from sansio_cache_runtime.backend import SyncBackend
from sansio_cache_runtime.driver_base import PERFORMED, Call, DriverBase
from sansio_cache_runtime.loaders import (
    call_blocking,
    forget_loads,
    refuse_recursion,
)
from sansio_cache_runtime.process import MARK, begin_in_child
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadEvent
from sansio_cache_runtime.sync.inside import Hooks, Inside
from sansio_cache_runtime.sync.lease_renewer import LeaseRenewer
from sansio_cache_runtime.sync.workers import Workers


class Driver(DriverBase[ThreadEvent, SyncBackend]):
    """Runs operations for any number of threads.

    Args:
        backend: Answers store commands.
        coordinator: Decides what operations have to do with each other.
        recorder: Takes the notices in.
        background: Starts threads.
        timeouts: How long a recovery's commands may take.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        backend: SyncBackend,
        coordinator: Coordinator,
        recorder: Recorder,
        background: Background,
        timeouts: StoreTimeouts,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(backend, coordinator, recorder, timeouts, clock, ThreadEvent, get_ident)
        self._background = background
        self._inside = Inside(
            coordinator,
            clock,
            Hooks(
                lambda: self._heed(()),
                lambda command: self._backend.perform(command),
                recorder.note,
                background.start,
                self._compute,
                self._end,
            ),
        )
        self._busy = self._workers = Workers(background)
        self._lease_renewer = LeaseRenewer(
            clock, background, lambda command: self._backend.perform(command), self._note
        )

    def run(
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
        if not MARK[0]:
            begin_in_child()  # which makes this driver anew
        if self._is_closed:
            raise CacheClosedError("the cache is closed: make another")
        if self._is_inside():
            return self._inside.run(step, loader, call)
        begun: Step | Outcome = (
            step
            if isinstance(step, Step)
            else self._glanced(step, self._backend.perform(step.command))  # mostly a hit, and that is all
        )
        return self._go_on(begun, loader, call) if isinstance(begun, Step) else begun

    def _go_on(self, step: Step, loader: Callable[..., Any] | None, call: Call | None) -> Outcome:
        coordinator, recorder = self._coordinator, self._recorder
        if recorder.is_followed():
            call = self._follow(step, loader, call)
        try:
            while True:
                notices = step.notices if call is None or call.span is None else call.span.taken(step)
                if notices and (
                    (recorder.note(notices) and coordinator.concerns(notices)) or coordinator.needs_recovery
                ):
                    self._heed(notices)
                    for recovery in self._neglected(step):
                        self.recover(recovery)
                if (command := step.command) is None:
                    break
                asked: Any = command
                if type(command) not in PERFORMED:
                    event: Event = self._backend.perform(asked)
                else:
                    call = call or Call(loader, None)
                    event = self._perform(asked, call)
                step = step.state.receive(event)
                if step.load_id is not None:
                    self._observe(step)
            if call is not None:
                self._end(call)
        except BaseException:
            try:
                self._give_back(step)
            finally:
                if call is not None:  # once more, where it was interrupted in its end
                    self._end(call)
            raise
        if step.spawn:
            self._spawn(step.spawn, loader, call)
        assert step.outcome is not None
        return step.outcome

    def close(self) -> None:
        """End the background threads."""
        self._begin_closing()
        self._release_held()
        self._background.stop()
        self._workers.close()
        self._lease_renewer.close()
        if self._backend.listener is not None:
            self._backend.listener.close(wait=False)
        self._background.drain()

    def _release_held(self) -> None:
        """Give back the leases of loaders that run. Bounded, as every store command is."""
        if (release := self.held_by_loaders()) is not None and not self._coordinator.is_out:
            self._backend.perform(release)

    def _give_back(self, step: Step) -> None:
        """Have an interrupted operation give back what it may hold. Bounded, as every store command is."""
        self._heed_again(step)
        if not may_hold(step):
            return
        step = interrupted(step, self._clock())
        try:
            self._note(step.notices)
            while step.command is not None:
                assert isinstance(step.command, StoreCommand)
                step = step.state.receive(self._backend.perform(step.command))
                self._note(step.notices)
        finally:
            self._go_on_without_store(step)  # where it is interrupted once more

    def _perform(
        self, command: Compute | ComputeMany | ShareLoad | Sleep | AcquireLeases, call: Call
    ) -> Event:
        match command:
            case Compute() | ComputeMany():
                return self._compute(command, call)
            case ShareLoad():
                return self._share(command, call)
            case Sleep():
                return self._sleep(command, call)
            case AcquireLeases(lease_requests=lease_requests):
                refuse_recursion(self._coordinator, *(each.key for each in lease_requests))
                return self._backend.perform(command)
            case _:
                assert_never(command)

    def _compute(self, command: Compute | ComputeMany, call: Call) -> Event:
        handled = sys.exception()
        running = call.running = self._running(command)
        try:  # around the beginning as well, where Ctrl-C may strike
            self._begin(running)
            try:
                value = call_blocking(self._bound_loader(command, call))
            except Exception as error:  # noqa: BLE001 - the loader's own, handed to its callers
                return self._compute_failed(error, handled)
            return self._computed(value, call)
        finally:
            running.is_over = True
            self._end_running(running)

    def _share(self, command: ShareLoad, call: Call) -> Event:
        answer = self._join(command, call)
        if isinstance(answer, Following):
            call.ending.wait(command.timeout_s)
            return self._leave(answer, call)
        return answer

    def _sleep(self, command: Sleep, call: Call) -> Event:
        if command.watch is None:
            self._closing.wait(command.duration_s)
        elif longest_s := self._watch(command, call, call.wake):
            call.change.wait(longest_s)
            call.change.clear()
        return self._woke(call)

    def _submit(self, step: Step, call: Call) -> bool:
        return self._workers.submit(partial(self._refresh, step, call))

    def _refresh(self, step: Step, call: Call) -> None:
        forget_loads()
        try:
            if call.outside is None or not self._is_rebound(call.outside):
                self._refreshed(step, self.run(step, call.loader, call))
        finally:  # also where the cache was closed before it began
            self._end(call)

    def _start_recovery(self, recovery: Recovery) -> bool:
        return self._background.start(
            partial(self.recover, recovery), "sansio-cache-recovery", is_waited_for=True
        )

    def recover(self, recovery: Recovery) -> None:
        """Run a recovery, and what is to be run after it."""
        following: Recovery | None = recovery
        try:
            while following is not None:
                following = self._next_recovery(following, self.run(following.step))
        finally:  # also where a subscriber has ended the thread: the next notice starts another
            self._give_up(recovery.ticket)
