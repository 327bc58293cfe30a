"""What the callers of a world have in common, and the loaders that they give with their reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import attrs

from sansio_cache.commands import Compute, ComputeMany
from sansio_cache.events import Computed, ComputeFailed
from sansio_cache.exploring.configuration import CODEC
from sansio_cache.exploring.running import LOADER_ERROR
from sansio_cache.exploring.simulating.calls import Calls
from sansio_cache.exploring.simulating.client import Loader, Running
from sansio_cache.exploring.simulating.faults import Rates, SimulatedFault
from sansio_cache.exploring.simulating.oracle import Oracle
from sansio_cache.exploring.simulating.rows import PLAIN, ROWS, Database
from sansio_cache.exploring.simulating.server import Server
from sansio_cache.exploring.simulating.timeline import Random, Timeline
from sansio_cache.loader import Fresh
from sansio_cache.step import Outcome

LOAD_S: Final = 0.02
"""How long a loader takes at most, but for slow ones."""
SLOW_LOAD_S: Final = 1.5
"""The same of slow ones: longer than a lease."""
PLAIN_ROWS: Final = tuple(row for row in ROWS if row.policy is PLAIN and not row.is_tagged)


@attrs.define(eq=False)
class Shared:
    """What all callers of a world have in common.

    Args:
        timeline: The time.
        database: The rows.
        oracle: What is right.
        server: Counts who has counted, and knows when the lock was lost.
        rates: How often things go wrong.
        fired: Counts them.
        random: For all choices.
        done: Counts what was done, by name.
    """

    timeline: Timeline
    database: Database
    oracle: Oracle
    server: Server
    rates: Rates
    fired: Counter[SimulatedFault]
    random: Random
    done: Counter[str] = attrs.field(factory=Counter)
    is_ending: bool = False
    """Whether nothing new is to be begun."""
    hung: list[Callable[[], None]] = attrs.field(factory=list)
    """What ends the loaders that hang."""
    lock_until_s: float = 0.0
    """Until when somebody believes to hold the lock."""
    lock_taken_s: float = 0.0
    lock_token: int = 0
    trace: Callable[[str, tuple[str, ...]], None] | None = None

    def say(self, text: str, *keys: str) -> None:
        """Write down what concerns these keys, where somebody wants to know."""
        if self.trace is not None:
            self.trace(text, keys)


@attrs.define(eq=False)
class RowLoader(Loader):
    """Looks at the database at some moment, and returns at a later one.

    Args:
        shared: The world.
        calls: Begins what the loader asks the cache for.
        is_text: Whether it gives texts.
        slow_s: How long it takes where that is certain, else None.
    """

    shared: Shared
    calls: Calls
    is_text: bool = False
    slow_s: float | None = None
    asks: str = ""
    """Which row it asks the cache for first, where that is certain."""

    def begin(self, running: Running, command: Compute | ComputeMany) -> None:
        """Begin to load."""
        shared, random, rates = self.shared, self.shared.random, self.shared.rates
        took_s = random.random() * LOAD_S
        if random.random() < rates.slow_loader:
            took_s = random.random() * SLOW_LOAD_S
        if self.slow_s is not None:
            took_s = self.slow_s
        keys = command.keys if isinstance(command, ComputeMany) else (command.name or command.key,)
        look_s = took_s * random.random()
        turn, client = running.turn, running.client
        look = partial(self._look, running, turn, command, keys, took_s - look_s)
        if random.random() < rates.hung:
            shared.fired[SimulatedFault.HUNG] += 1
            shared.hung.append(partial(client.later, 0.0, look))
        elif (inner := self.asks or self._inner()) and inner not in running.is_inside:
            client.later(look_s, partial(self._ask_for, running, inner, look))
        else:
            client.later(look_s, look)

    def _inner(self) -> str:
        """Which row it asks the cache for first; mostly none."""
        random = self.shared.random
        if self.slow_s is not None or random.random() > 0.03:
            return ""
        return PLAIN_ROWS[random.randrange(len(PLAIN_ROWS))].key

    def _ask_for(self, running: Running, key: str, look: Callable[[], None]) -> None:
        """Ask the cache for another row first, and wait for that."""
        client, row = running.client, next(row for row in ROWS if row.key == key)
        self.calls.now_s = client.now_s

        def then(_: Running, __: Outcome) -> None:
            look()

        inner = attrs.evolve(self, is_text=False, asks="")
        client.start(self.calls.load(row, CODEC), then, inner, inside=running.is_inside, judges=True)

    def _look(
        self,
        running: Running,
        turn: int,
        command: Compute | ComputeMany,
        keys: tuple[str, ...],
        left_s: float,
    ) -> None:
        if running.turn != turn or running.is_over:
            return  # it was cancelled
        running.looked_under = frozenset(running.told)
        seen = self.shared.database.look(keys)
        self.shared.say(f"{running.client.name}: a loader sees {seen}", *keys)
        running.client.later(left_s, partial(self._return, running, turn, command, seen))

    def _return(
        self,
        running: Running,
        turn: int,
        command: Compute | ComputeMany,
        seen: Mapping[str, int],
    ) -> None:
        shared, client = self.shared, running.client
        if running.turn != turn or running.is_over:
            return
        if shared.random.random() < shared.rates.raising:
            shared.fired[SimulatedFault.RAISING] += 1
            running.has_failed = True
            client.answer(running, turn, ComputeFailed(client.now_s, LOADER_ERROR))
            return
        values = {key: self._value(version) for key, version in seen.items()}
        value = values if isinstance(command, ComputeMany) else next(iter(values.values()))
        client.answer(running, turn, Computed(client.now_s, value))

    def _value(self, version: int) -> Any:
        value = str(version) if self.is_text else version
        if version == 0:
            return None
        if self.slow_s is not None:
            return value
        chance = self.shared.random.random()
        return Fresh(value, ttl=4.0 * chance) if chance < 0.02 else value
