"""Pending invalidations: keys whose entries may be old, as the store could not be told.

Until the store has been told, this process does not read these keys from it. Bounded: past the limit the
oldest is forgotten, and its entry's hard TTL bounds how long it may be served (S1f).

An interrupt may strike between any two assignments here: a key that is pending is so all the time, and its
tag before it and after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import islice

import attrs

from sansio_cache.tags import is_tag_key


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
    _stamps: OrderedDict[str, int] = attrs.field(factory=OrderedDict, init=False)
    _last: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._stamps)

    def __contains__(self, key: str) -> bool:
        return key in self._stamps

    def add(self, keys: Collection[str]) -> None:
        """Add keys; a key that is there already becomes the newest."""
        self.tags |= {key for key in keys if is_tag_key(key)}
        for key in keys:
            self._last += 1
            self._stamps[key] = self._last
            self._stamps.move_to_end(key)
        if len(self._stamps) > self.limit:
            dropped = list(islice(self._stamps, len(self._stamps) - self.limit))
            self.forgotten += len(dropped)
            self._drop(dropped)

    def oldest(self, most: int) -> Mapping[str, int]:
        """The oldest keys, at most `most`, with their stamps, to be given back to `forget`."""
        pending: dict[str, int] = {}
        for key, stamp in self._stamps.items():
            if len(pending) == most:
                break
            pending[key] = stamp
        return pending

    def forget(self, told: Mapping[str, int]) -> None:
        """Drop keys that the store was told, but for those that failed again since `oldest`."""
        self._drop([key for key, stamp in told.items() if self._stamps.get(key) == stamp])

    def _drop(self, keys: Collection[str]) -> None:
        for key in keys:
            del self._stamps[key]
        self.tags = self.tags.difference(keys) if self._stamps else frozenset()

    def snapshot(self) -> tuple[tuple[str, int], ...]:
        """The keys with their stamps, the oldest first, as a value."""
        return tuple(self._stamps.items())

    def restore(self, snapshot: tuple[tuple[str, int], ...]) -> None:
        """Become what a snapshot was made of."""
        self._stamps = OrderedDict(snapshot)
        self._last = max(self._stamps.values(), default=0)
        self.tags = frozenset(filter(is_tag_key, self._stamps))
