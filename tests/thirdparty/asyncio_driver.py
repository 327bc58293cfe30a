"""A driver that is not ours, of some hundred lines: that of `docs/howto/write-a-driver`, as a reader has it.

A test compares the two.
"""

import asyncio
import time
from contextlib import suppress
from copy import deepcopy

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import Compute, ComputeMany, ShareLoad, Sleep
from sansio_cache.coordinator import Coordinator, interrupted, renewing, without_store
from sansio_cache.events import Computed, ComputeFailed, LoadShared, Woke
from sansio_cache.single_flight import Following
from sansio_cache.stats import StatsFold

CLEAN_UP_S = 1.0


class Driver:
    def __init__(self, store, clock=time.monotonic):
        self.store, self.clock, self.timeouts = store, clock, StoreTimeouts()
        self.coordinator, self.stats, self.changes = Coordinator(), StatsFold(), []
        self.endings, self.background = {}, set()

    async def run(self, step, loader=None, ticket=None):
        ticket = self.coordinator.ticket() if ticket is None else ticket
        try:
            self.observe(step)
            while step.command is not None:
                step = step.state.receive(await self.perform(step.command, loader, ticket))
                self.observe(step)
        except BaseException:
            await self.give_back(step)
            raise
        finally:
            self.give_up(ticket)
        for spawned in step.spawn:
            own = self.coordinator.ticket()
            begun = self.coordinator.begin(own, spawned, self.clock())
            if begun is not None:  # nobody here runs it already
                self.start(self.run(begun, loader, own), own)
        return step.outcome

    async def perform(self, command, loader, ticket):
        match command:
            case Compute(renewal=renewal):
                return await self.compute(renewal, loader)
            case ComputeMany(names=names, renewal=renewal):
                return await self.compute(renewal, loader, list(names))
            case ShareLoad():
                return await self.share(command, ticket)
            case Sleep(duration_s=duration_s):
                await asyncio.sleep(duration_s)
                return Woke(self.clock())
            case _:
                return await self.ask(command)

    async def ask(self, command):
        return self.store.perform(command)

    async def compute(self, renewal, loader, *args):
        renews = asyncio.ensure_future(self.renew(renewal)) if renewal else None
        try:
            return Computed(self.clock(), await loader(*args))
        except Exception as error:
            return ComputeFailed(self.clock(), error)
        finally:
            if renews:
                renews.cancel()

    async def renew(self, renewal):
        await asyncio.sleep(renewal.pause_s)
        await self.run(renewing(renewal, self.clock()))

    async def share(self, command, ticket):
        answer = self.coordinator.share(ticket, command)
        if not isinstance(answer, Following):
            return answer
        ending = self.endings.setdefault(answer.load_id, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), command.timeout_s)
        event = self.coordinator.leave(ticket, answer, self.clock())
        if isinstance(event, LoadShared) and event.payload is None:  # the leader's own object
            return LoadShared(event.now_s, None, deepcopy(event.value))
        return event

    async def give_back(self, step):
        step = interrupted(step, self.clock())
        try:
            self.note(step.notices)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLEAN_UP_S):
                    while step.command is not None:
                        step = step.state.receive(await self.ask(step.command))
                        self.note(step.notices)
        finally:  # out of time, or cancelled once more
            while step.command is not None:
                step = without_store(step, self.clock())
                self.note(step.notices)

    def observe(self, step):
        self.wake(self.coordinator.observe(step))
        self.note(step.notices)

    def note(self, notices):
        self.stats.record(notices)
        if self.coordinator.concerns(notices):
            self.changes += self.coordinator.heed(notices, self.clock())
        if self.coordinator.needs_recovery:
            ticket = self.coordinator.ticket()
            recovery = self.coordinator.begin_recovery(ticket, self.timeouts, self.clock())
            if recovery is not None:  # nobody here runs it already
                self.start(self.recover(recovery, ticket), ticket)

    async def recover(self, recovery, ticket):
        while recovery is not None:
            outcome = await self.run(recovery.step)
            recovery = self.coordinator.next_recovery(recovery, outcome, self.timeouts, self.clock())

    def start(self, coroutine, ticket):
        task = asyncio.ensure_future(coroutine)
        self.background.add(task)
        task.add_done_callback(self.background.discard)
        task.add_done_callback(lambda _: self.give_up(ticket))  # also where it was cancelled before it began

    def give_up(self, ticket):
        self.wake(self.coordinator.give_up(ticket))

    def wake(self, load_id):
        if ending := self.endings.pop(load_id, None):
            ending.set()
