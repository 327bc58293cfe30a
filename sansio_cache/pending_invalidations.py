"""Remembered invalidations: keys whose entries may be old, as the store could not be told.

Until the store has been told, this process does not read these keys from it. Bounded: past the limit the
oldest is forgotten, and its entry's hard TTL bounds how long it may be served (S1f).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice

import attrs

from sansio_cache.tags import is_tag_key


@attrs.define
class PendingInvalidations:
    """The keys, newest last, each with the number of its latest failure."""

    limit: int = 10_000
    forgotten: int = attrs.field(default=0, init=False)
    """How many were dropped because of the limit."""
    tags: frozenset[str] = attrs.field(default=frozenset(), init=False)
    """Those of the keys that belong to tags."""
    _stamps: dict[str, int] = attrs.field(factory=dict, init=False)
    _last: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._stamps)

    def __contains__(self, key: str) -> bool:
        return key in self._stamps

    def remember(self, keys: Collection[str]) -> None:
        """Add keys; a key that is there already becomes the newest."""
        for key in keys:
            self._last += 1
            self._stamps.pop(key, None)
            self._stamps[key] = self._last
        self.tags |= {key for key in keys if is_tag_key(key)}
        if len(self._stamps) > self.limit:
            dropped = list(islice(self._stamps, len(self._stamps) - self.limit))
            self.forgotten += len(dropped)
            self._drop(dropped)

    def pending(self, most: int) -> Mapping[str, int]:
        """The oldest keys, at most `most`, with their stamps, to be given back to `forget`."""
        pending: dict[str, int] = {}
        for key, stamp in self._stamps.items():
            if len(pending) == most:
                break
            pending[key] = stamp
        return pending

    def forget(self, told: Mapping[str, int]) -> None:
        """Drop keys that the store was told, but for those that failed again since `pending`."""
        self._drop([key for key, stamp in told.items() if self._stamps.get(key) == stamp])

    def _drop(self, keys: Collection[str]) -> None:
        for key in keys:
            del self._stamps[key]
        self.tags = self.tags.difference(keys)
