"""What lasts longer than one operation: a mutation, from its begin to its end, and a lock that is held."""

from __future__ import annotations

from functools import partial

import attrs

from sansio_cache.cell import grant_us
from sansio_cache.commands import Lease
from sansio_cache.exploring.configuration import TIMEOUTS
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.simulating.calling import CallerBase
from sansio_cache.exploring.simulating.calls import LOCK_LEASE_S
from sansio_cache.exploring.simulating.client import Running
from sansio_cache.exploring.simulating.loaders import LOAD_S, SLOW_LOAD_S, Shared
from sansio_cache.exploring.simulating.oracle import Violated
from sansio_cache.exploring.simulating.rows import TAG_KEY, Row
from sansio_cache.operations.lock import free, keep
from sansio_cache.operations.set_many import Item
from sansio_cache.step import LockRenewed, ManyHeld, Outcome


@attrs.define(eq=False)
class Mutating:
    """A mutation, from its begin to its end."""

    caller: CallerBase
    rows: tuple[Row, ...]
    has_value: bool
    gone: tuple[Row, ...]
    """What its tag stands for, which it invalidates as well."""
    version: int = 0

    def begin(self) -> None:
        """Hold the keys; the block follows, and the end."""
        caller = self.caller
        step = caller.calls.begin(self.rows, carries=self.has_value)
        caller.start(step, self._held)

    def _held(self, running: Running, outcome: Outcome) -> None:
        caller, random = self.caller, self.caller.shared.random
        client = caller.client
        if not isinstance(outcome, ManyHeld):  # it was cancelled, and nothing was written
            caller.end_write()
            caller.done("mutate cancelled")
            return
        if outcome.renewal is not None:
            client.keep(running, outcome.renewal)
        commits = random.random() > 0.05
        pause_s = random.random() * LOAD_S if random.random() < 0.9 else random.random() * SLOW_LOAD_S
        if commits:
            client.later(pause_s * random.random(), self._commit)
        client.later(pause_s, partial(self._leave, running, outcome))

    def _commit(self) -> None:
        self.version = self.caller.commit((*self.rows, *self.gone))

    def _leave(self, running: Running, held: ManyHeld) -> None:
        caller = self.caller
        caller.client.end_renewal(running)
        raised = caller.shared.random.random() < caller.shared.rates.raising
        items: tuple[Item, ...] = ()
        caller.calls.now_s = caller.client.now_s
        if self.has_value and self.version and not raised:
            row = self.rows[0]
            items = (caller.calls.item(row, caller.codec(row), self.version),)
        keys = tuple(row.key for row in self.rows)
        tags = (TAG_KEY,) if self.gone else ()
        caller.start(caller.calls.end(keys, tags, held, items), self._ended)

    def _ended(self, running: Running, _: Outcome) -> None:
        caller = self.caller
        caller.end_write()
        name = "mutate and set" if self.has_value else "mutate"
        if self.version:
            caller.tell(name, self.gone, self.version, running, tag=True)
            caller.tell(name, self.rows, self.version, running)
        caller.done(name)


@attrs.define(eq=False)
class Holding:
    """A lock that is held."""

    caller: CallerBase
    lease: Lease
    lease_ms: int
    asked_s: float
    is_over: bool = False

    def begin(self) -> None:
        """It was taken: hold it for a while."""
        shared, client = self.caller.shared, self.caller.client
        token, now_s = grant_us(self.lease.lease_id), shared.timeline.now_s
        is_lost = shared.server.lock_lost_s >= shared.lock_taken_s
        if not is_lost and now_s < shared.lock_until_s:
            raise Violated(Invariant.OWNERS, "two hold the lock", self.lease.key)
        if not is_lost and token <= shared.lock_token:
            raise Violated(Invariant.S3, f"token {token} after {shared.lock_token}", self.lease.key)
        shared.lock_token, shared.lock_taken_s = token, now_s
        self._hold_until(self.asked_s)
        pause_s = shared.random.random() * 1.5 * LOCK_LEASE_S
        if pause_s > LOCK_LEASE_S / 3:
            client.later(LOCK_LEASE_S / 3, self.keep)
        client.later(pause_s, self.free)

    def _hold_until(self, asked_s: float) -> None:
        """It is ours for a lease from when it was asked for, on our own clock, which may run too fast."""
        shared = self.caller.shared
        left_s = asked_s + self.lease_ms / 1000 - self.caller.client.now_s
        shared.lock_until_s = shared.timeline.now_s + max(left_s, 0.0) * 0.99

    def keep(self) -> None:
        """Renew its lease, while it is held."""
        client = self.caller.client
        if self.is_over:
            return
        client.start(keep(self.lease, self.lease_ms, TIMEOUTS, client.now_s), self._kept)

    def _kept(self, _: Running, outcome: Outcome) -> None:
        shared = self.caller.shared
        is_ours = isinstance(outcome, LockRenewed) and outcome.is_ours and not self.is_over
        if is_ours and self._is_mine(shared):
            assert isinstance(outcome, LockRenewed)
            self._hold_until(outcome.asked_s)

    def _is_mine(self, shared: Shared) -> bool:
        return shared.lock_token == grant_us(self.lease.lease_id)

    def free(self) -> None:
        """Give it back."""
        shared, client = self.caller.shared, self.caller.client
        self.is_over = True
        if self._is_mine(shared):
            shared.lock_until_s = 0.0
        client.start(free(self.lease, TIMEOUTS, client.now_s), self._freed)

    def _freed(self, _: Running, __: Outcome) -> None:
        self.caller.done("lock")
