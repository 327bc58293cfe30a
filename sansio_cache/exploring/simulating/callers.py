"""The callers of a simulation: each does one thing after another, and what it is given is judged.

A read is judged by the oracle; a write tells it what was committed, and when the store knew. Any of them may
be cancelled at any moment of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import attrs

from sansio_cache.commands import Lease
from sansio_cache.exploring.configuration import CODEC
from sansio_cache.exploring.history import Read
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.simulating.blocks import Holding, Mutating
from sansio_cache.exploring.simulating.calling import CallerBase
from sansio_cache.exploring.simulating.client import Running
from sansio_cache.exploring.simulating.loaders import PLAIN_ROWS
from sansio_cache.exploring.simulating.oracle import SOFT, Violated
from sansio_cache.exploring.simulating.rows import ADDED, COUNTER, ROWS, TAG_KEY, TAGGED, Row
from sansio_cache.step import (
    Loaded,
    Locked,
    Looked,
    ManyFound,
    ManyLoaded,
    ManyRead,
    Outcome,
    PatternRemoved,
    Swapped,
    Updated,
    Value,
)

CLOCK_S: Final = 0.005
"""How wrong a process may be about the server's clock: by a trip, and by what its own runs too slow."""


@attrs.define(eq=False)
class Caller(CallerBase):
    """Does one thing after another."""

    # One after the other.

    def next(self) -> None:
        """Do something; and something else after that."""
        if self.shared.is_ending:
            self.is_idle = True
            return
        self._note_beginning()
        random = self.shared.random
        kinds = _READS if random.random() < 0.62 else _WRITES
        kind = kinds[random.randrange(len(kinds))]
        kind(self)

    def _note_beginning(self) -> None:
        self._began_s = self.shared.timeline.now_s
        self._learned_s = self.client.learned_s
        self.calls.now_s = self.client.now_s

    def _any(self, rows: tuple[Row, ...]) -> Row:
        rows = (*rows, *TAGGED) if rows is ROWS else rows  # entries with tags are of many kinds
        return rows[self.shared.random.randrange(len(rows))]

    def _some(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """Some of these rows, each once, in any order."""
        chosen = list(rows)
        self.shared.random.shuffle(chosen)
        return tuple(chosen[: 1 + self.shared.random.randrange(len(chosen))])

    # Reads.

    def _judge(self, running: Running, key: str, value: Any) -> None:
        """Look at what a read gave of one key."""
        version = 0 if value is None else int(value)
        shared, name = self.shared, self.client.name
        shared.say(f"{name}: is given {version}, began {self._began_s:.4f}", key)
        shared.oracle.judge(Read(name, key, version, self._began_s))
        # What is stale is a matter of the server's clock: a process that has not heard of a jump cannot know.
        is_vague = key in running.missed and not isinstance(running.step.outcome, Loaded)
        is_fresh = key not in running.stale and not is_vague
        if is_fresh and self._learned_s > shared.server.jumped_s:
            shared.oracle.judge(Read(name, f"{key}{SOFT}", version, self._began_s - CLOCK_S))

    def _judge_one(self, name: str, key: str, running: Running, outcome: Outcome) -> None:
        if isinstance(outcome, Value | Loaded | Updated):
            self._judge(running, key, outcome.value)
        elif isinstance(outcome, Looked) and outcome.lookup.is_fresh:
            self._judge(running, key, outcome.lookup.value)
        self.done(name)

    def _judge_many(self, name: str, rows: tuple[Row, ...], running: Running, outcome: Outcome) -> None:
        if isinstance(outcome, ManyFound):
            for row, value in zip(rows, outcome.values, strict=True):
                self._judge(running, row.key, value)
        elif isinstance(outcome, ManyRead | ManyLoaded):
            for row, each in zip(rows, outcome.values, strict=True):
                if isinstance(each, Value):
                    self._judge(running, row.key, each.value)
        self.done(name)

    def load(self) -> None:
        """Get or load."""
        row = self._any(ROWS)
        step = self.calls.load(row, self.codec(row))
        self.start(step, partial(self._judge_one, "get_or_load", row.key), row, judges=True)

    def load_many(self) -> None:
        """Get or load many."""
        rows = self._some(PLAIN_ROWS[:2]) if self.shared.random.random() < 0.7 else self._some(TAGGED)
        step = self.calls.load_many(rows, CODEC)
        self.start(step, partial(self._judge_many, "get_or_load_many", rows), COUNTER, judges=True)

    def get(self) -> None:
        """Get."""
        row = self._any(ROWS)
        step = self.calls.get(row, self.codec(row))
        self.start(step, partial(self._judge_one, "get", row.key))

    def get_many(self) -> None:
        """Get many."""
        rows = self._some(tuple(row for row in ROWS if not row.has_versions))
        self.start(self.calls.get_many(rows, CODEC), partial(self._judge_many, "get_many", rows))

    def look(self) -> None:
        """Look up, maybe without the value, and maybe let it live longer."""
        row, chance = self._any(ROWS), self.shared.random.random()
        if chance < 0.3:
            step = self.calls.look(row, None, lengthens=chance < 0.1)
            self.start(step, partial(self._looked, "exists"))
        else:
            lengthens = chance < 0.6
            step = self.calls.look(row, self.codec(row), lengthens=lengthens)
            name = "touch" if lengthens else "lookup"
            self.start(step, partial(self._judge_one, name, row.key))

    def _looked(self, name: str, _: Running, __: Outcome) -> None:
        self.done(name)

    def scan(self) -> None:
        """Scan a page."""
        self.start(self.calls.scan("n:*"), partial(self._looked, "scan"))

    def wait_ready(self) -> None:
        """Wait until the store serves."""
        self.start(self.calls.wait_ready(), partial(self._looked, "wait_ready"))

    # Writes.

    def _wrote(
        self,
        name: str,
        rows: tuple[Row, ...],
        version: int,
        running: Running,
        *,
        tag: bool = False,
        soft: bool = False,
        since_s: float = 0.0,
    ) -> None:
        """A write has returned."""
        self.tell(name, rows, version, running, tag=tag, soft=soft, since_s=since_s)
        self.done(name)

    def invalidate(self) -> None:
        """Commit, then invalidate: by key, or by the tag."""
        by_tag = self.shared.random.random() < 0.3
        rows = TAGGED if by_tag else self._some(ROWS)[:2]
        if not self.may_write(rows, alone=False):
            self.pause()
            return
        version = self.commit(rows)
        keys = (TAG_KEY,) if by_tag else tuple(row.key for row in rows)
        step = self.calls.remove(keys, looks=len(keys) == 1 and not by_tag)

        def then(running: Running, _: Outcome) -> None:
            self.end_write()
            self._wrote("invalidate", rows, version, running, tag=by_tag)

        self.start(step, then)

    def expire(self) -> None:
        """Commit, then make stale."""
        row = self._any(ROWS)
        if not self.may_write((row,), alone=False):
            self.pause()
            return
        version = self.commit((row,))

        def then(running: Running, _: Outcome) -> None:
            self.end_write()
            self._wrote("expire", (row,), version, running, soft=True)

        self.start(self.calls.remove((row.key,), soft=True), then)

    def delete_pattern(self) -> None:
        """Commit, then delete by a pattern; all of it, now and then."""
        clears = self.shared.random.random() < 0.3
        rows = ROWS if clears else TAGGED
        if not self.may_write(rows, alone=False):
            self.pause()
            return
        version = self.commit(rows)
        server, lost_s = self.shared.server, self.shared.server.lost_until_s

        def then(running: Running, outcome: Outcome) -> None:
            self.end_write()
            if isinstance(outcome, PatternRemoved) and outcome.complete:
                # Pages that a failover has overtaken were another server's: the pattern is told again.
                since_s = 0.0 if lost_s == server.lost_until_s else server.lost_until_s
                name = "clear" if clears else "delete_pattern"
                self._wrote(name, rows, version, running, since_s=since_s)
            else:  # it says that it is incomplete
                self.done("delete_pattern in part")

        self.start(self.calls.delete_pattern("n:*" if clears else "n:tagged:*"), then)

    def set(self) -> None:
        """Commit, then set; alone, as `set` asks for that."""
        rows = self._some(PLAIN_ROWS[:2]) if self.shared.random.random() < 0.7 else (self._any(ROWS),)
        if not self.may_write(rows, alone=True):
            self.pause()
            return
        version = self.commit(rows)
        items = tuple(self.calls.item(row, self.codec(row), version) for row in rows)

        def then(running: Running, _: Outcome) -> None:
            self.end_write()
            self._wrote("set" if len(rows) == 1 else "set_many", rows, version, running)

        self.start(self.calls.set_many(rows, items), then)

    def mutate(self) -> None:
        """Hold, commit, and store or remove."""
        random = self.shared.random
        has_value = random.random() < 0.6
        rows = (self._any(ROWS),) if has_value else self._some(ROWS)[:2]
        by_tag = not rows[0].is_tagged and random.random() < 0.2
        gone = tuple(row for row in TAGGED if row not in rows) if by_tag else ()
        if not self.may_write((*rows, *gone), alone=False):
            self.pause()
            return
        Mutating(self, rows, has_value, gone).begin()

    # Primitives.

    def add(self) -> None:
        """Store a value where there is none, or take it away again."""
        chance = self.shared.random.random()
        if chance < 0.2:
            self.start(
                self.calls.remove((ADDED.key, COUNTER.key), looks=False),
                partial(self._looked, "delete"),
            )
            return
        row, version = (ADDED, self.commit((ADDED,))) if chance < 0.6 else (COUNTER, 0)
        self.start(self.calls.add(row, CODEC, version), partial(self._looked, "add"))

    def count(self) -> None:
        """Count up."""
        nonce, step = self.calls.update(COUNTER, CODEC, 1)
        server, lost_s = self.shared.server, self.shared.server.lost_until_s

        def then(_: Running, outcome: Outcome) -> None:
            is_certain = isinstance(outcome, Updated) and lost_s == server.lost_until_s
            judge_count(server.swaps[nonce], is_certain=is_certain)
            self.done("incr")

        self.start(step, then)

    def update(self) -> None:
        """Change a value to what the database holds."""
        row = self._any(ROWS)
        _, step = self.calls.update(row, self.codec(row), None)
        self.start(step, partial(self._judge_one, "update", row.key), row)

    def swap(self) -> None:
        """Look, commit, and replace what was seen; where it is not there any more, invalidate."""
        row = self._any(PLAIN_ROWS)
        if self.may_write((row,), alone=False):
            self.start(self.calls.look(row, self.codec(row), lengthens=False), partial(self._swap, row))
        else:
            self.pause()

    def _swap(self, row: Row, _: Running, outcome: Outcome) -> None:
        version = self.commit((row,))
        self.calls.now_s = self.client.now_s
        if isinstance(outcome, Looked) and outcome.lookup.version is not None:
            step = self.calls.swap(row, self.codec(row), version, outcome.lookup.version)
            self.start(step, partial(self._swapped, row, version))
        else:
            self._remove(row, version)

    def _swapped(self, row: Row, version: int, running: Running, outcome: Outcome) -> None:
        if isinstance(outcome, Swapped) and outcome.version is not None:
            self.end_write()
            self._wrote("swap", (row,), version, running)
        else:
            self._remove(row, version)

    def _remove(self, row: Row, version: int) -> None:
        def then(running: Running, _: Outcome) -> None:
            self.end_write()
            self._wrote("swap refused", (row,), version, running)

        self.calls.now_s = self.client.now_s
        self.start(self.calls.remove((row.key,)), then)

    def lock(self) -> None:
        """Take the lock, hold it for a while, renew it, give it back."""
        request, step = self.calls.lock()

        def then(_: Running, outcome: Outcome) -> None:
            if isinstance(outcome, Locked):
                Holding(self, Lease(request.key, outcome.grant), request.lease_ms, outcome.asked_s).begin()
            else:
                self.done("lock refused")

        self.start(step, then)


def judge_count(times: int, *, is_certain: bool) -> None:
    """Look how often somebody was counted who wanted to be counted once.

    Raises:
        Violated: More than once; or not once, though that is what he was told.
    """
    if times > 1 or (is_certain and times != 1):
        raise Violated(Invariant.EXACT, f"counted {times} times for one", COUNTER.key)


_READS: Final = (
    *(Caller.load,) * 8,
    *(Caller.get,) * 3,
    Caller.get_many,
    *(Caller.load_many,) * 3,
    *(Caller.look,) * 2,
    Caller.update,
    Caller.scan,
)
_WRITES: Final = (
    *(Caller.invalidate,) * 4,
    *(Caller.set,) * 3,
    *(Caller.mutate,) * 4,
    *(Caller.expire,) * 2,
    Caller.delete_pattern,
    *(Caller.add,) * 2,
    *(Caller.count,) * 2,
    *(Caller.swap,) * 2,
    Caller.lock,
    Caller.wait_ready,
)
