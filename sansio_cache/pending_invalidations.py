"""Pending invalidations: keys whose entries may be old, as the store could not be told.

Until the store has been told, this process does not read these keys from it. Bounded: past the limit the
oldest is forgotten, and its entry's hard TTL bounds how long it may be served (S1f).

A key that the store *refuses* to be told of (by its access rules, say) stays pending. It is tried again with
a back-off, beside the others, and given up when nothing that was stored before can still be alive.

An interrupt may strike between any two assignments here: a key that is pending is so all the time, and its
tag before it and after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

import attrs
from msgspec import Struct

from sansio_cache.step import evolve
from sansio_cache.tags import is_tag_key

FIRST_REFUSAL_S: Final = 1.0
LONGEST_REFUSAL_S: Final = 300.0
"""A key that is refused is tried again after so many seconds, twice as many each time."""


class Refusal(Struct, frozen=True):
    """What is known of a key that the store refuses.

    Args:
        since_s: When it was last invalidated, at the latest.
        turn: How often it has been refused.
        due_s: When it is to be tried again.
    """

    since_s: float
    turn: int
    due_s: float

    def again(self, now_s: float) -> Refusal:
        """The same after one more."""
        pause_s = min(FIRST_REFUSAL_S * 2.0 ** min(self.turn, 20), LONGEST_REFUSAL_S)
        return Refusal(self.since_s, self.turn + 1, now_s + pause_s)


@attrs.define
class PendingInvalidations:
    """The keys, newest last, each with the number of its latest failure.

    Args:
        limit: How many are kept at most.
    """

    limit: int = 10_000
    forgotten: int = attrs.field(default=0, init=False)
    """How many were dropped because of the limit."""
    tags: frozenset[str] = attrs.field(default=frozenset(), init=False)
    """Those of the keys that belong to tags."""
    refused: dict[str, Refusal] = attrs.field(factory=dict, init=False)
    """Those of the keys that the store refuses."""
    _stamps: OrderedDict[str, int] = attrs.field(factory=OrderedDict, init=False)
    _last: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._stamps)

    def __contains__(self, key: str) -> bool:
        return key in self._stamps

    def add(self, keys: Collection[str], now_s: float = 0.0) -> None:
        """Add keys; a key that is there already becomes the newest."""
        self.tags |= {key for key in keys if is_tag_key(key)}
        for key in keys:
            self._last += 1
            self._stamps[key] = self._last
            self._stamps.move_to_end(key)
            if key in self.refused:  # what was stored before this may live as long
                self.refused[key] = evolve(self.refused[key], since_s=now_s)
        if len(self._stamps) > self.limit:
            dropped = list(islice(self._stamps, len(self._stamps) - self.limit))
            self.forgotten += len(dropped)
            self._drop(dropped)

    def oldest(self, most: int, now_s: float = 0.0) -> Mapping[str, int]:
        """The oldest keys, at most `most`, with their stamps, to be given back to `forget`.

        Without those that the store refuses, until they are due again.
        """
        pending: dict[str, int] = {}
        for key, stamp in self._stamps.items():
            if len(pending) == most:
                break
            if key not in self.refused or self.refused[key].due_s <= now_s:
                pending[key] = stamp
        return pending

    def newest(self, most: int) -> Mapping[str, int]:
        """The same of the newest, whatever is refused."""
        return dict(islice(reversed(self._stamps.items()), most))

    @property
    def next_due_s(self) -> float:
        """When the next of the refused keys is to be tried again."""
        return min(each.due_s for each in self.refused.values())

    def is_due(self, now_s: float) -> bool:
        """Whether there is a key to be told at this time."""
        return len(self.refused) < len(self._stamps) or any(
            each.due_s <= now_s for each in self.refused.values()
        )

    def forget(self, told: Mapping[str, int]) -> None:
        """Drop keys that the store was told, but for those that failed again since `oldest`."""
        self._drop([key for key, stamp in told.items() if self._stamps.get(key) == stamp])

    def refuse(self, told: Mapping[str, int], now_s: float) -> None:
        """The store refuses to be told of these, but for those that failed again since `oldest`.

        One that was not due, as who writes to it has it told at once, keeps its turn: a busy key would wait
        for minutes after it is allowed again.
        """
        for key, stamp in told.items():
            refusal = self.refused.get(key, Refusal(now_s, 0, now_s))
            if self._stamps.get(key) == stamp and refusal.due_s <= now_s:
                self.refused[key] = refusal.again(now_s)

    def give_up(self, before_s: float) -> int:
        """Drop refused keys that were invalidated before a time; how many there were."""
        over = [key for key, refusal in self.refused.items() if refusal.since_s <= before_s]
        self._drop(over)
        return len(over)

    def _drop(self, keys: Collection[str]) -> None:
        for key in keys:
            self.refused.pop(key, None)
            del self._stamps[key]
        self.tags = self.tags.difference(keys) if self._stamps else frozenset()

    def snapshot(self) -> tuple[tuple[str, int], ...]:
        """The keys with their stamps, the oldest first, as a value."""
        return tuple(self._stamps.items())

    def restore(self, snapshot: tuple[tuple[str, int], ...], refused: Mapping[str, Refusal]) -> None:
        """Become what a snapshot was made of."""
        self._stamps = OrderedDict(snapshot)
        self._last = max(self._stamps.values(), default=0)
        self.tags = frozenset(filter(is_tag_key, self._stamps))
        self.refused = dict(refused)
