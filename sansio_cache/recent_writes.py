"""Recent writes: keys and patterns that this process has written a short while ago.

Replication is asynchronous: what a primary has acknowledged as it died, the replica that takes over may
never have heard of. So whoever has written remembers it for a while, and tells it again when a part of the
store has another owner, or a server has been started anew (S1f). To be told twice of a write is always safe:
a removal costs one load.

What is remembered is what is to be removed, whatever the write was: a failover loses the value of an
acknowledged `set` too, and brings back the one before.

Threads call it at once, without a lock: every step here is one of the interpreter's. An interrupt may strike
anywhere: at worst a key is remembered for as long as it was before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Final

import attrs

from sansio_cache.operations.delete_pattern import PatternRequest

REMEMBERED_S: Final = 60.0
"""For how long a write is remembered, in seconds. A replica that is further behind is none to promote."""
MOST_REMEMBERED: Final = 10_000
MOST_PATTERNS: Final = 100


@attrs.define
class RecentWrites:
    """What was written lately, the newest last.

    Args:
        limit: How many keys are remembered at most. The oldest go first.
        kept_s: For how long, in seconds.
    """

    limit: int = MOST_REMEMBERED
    kept_s: float = REMEMBERED_S
    newest_s: float = attrs.field(default=float("-inf"), init=False)
    """When something was last written, on the driver's clock."""
    overflowed_s: float = attrs.field(default=float("-inf"), init=False)
    """When something was last forgotten before its time."""
    _keys: OrderedDict[str, float] = attrs.field(factory=OrderedDict, init=False)
    _patterns: OrderedDict[str, tuple[PatternRequest, float]] = attrs.field(factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._keys) + len(self._patterns)

    def add(self, keys: Iterable[str], now_s: float) -> None:
        """Keys, of entries or of tags, are being written."""
        remembered = self._keys
        for key in keys:
            remembered.pop(key, None)
            remembered[key] = now_s
        self.newest_s = now_s
        while len(remembered) > self.limit:
            _, written_s = remembered.popitem(last=False)
            if written_s > now_s - self.kept_s:
                self.overflowed_s = now_s

    def add_pattern(self, request: PatternRequest, now_s: float) -> None:
        """Keys are being removed by pattern."""
        remembered = self._patterns
        remembered.pop(request.pattern, None)
        remembered[request.pattern] = (request, now_s)
        self.newest_s = now_s
        while len(remembered) > MOST_PATTERNS:
            remembered.popitem(last=False)
            self.overflowed_s = now_s

    def renew_pattern(self, pattern: str, now_s: float) -> None:
        """The removal of a pattern is over, which may have taken its time."""
        found = self._patterns.get(pattern)
        if found is not None:
            self.add_pattern(found[0], now_s)

    def newest(self, most: int) -> list[str]:
        """The keys that were written last."""
        return list(islice(reversed(list(self._keys)), most))

    def is_any(self, now_s: float) -> bool:
        """Whether something is remembered."""
        return now_s - self.newest_s < self.kept_s

    def has_overflowed(self, now_s: float) -> bool:
        """Whether something that is recent enough is not remembered."""
        return now_s - self.overflowed_s < self.kept_s

    def keys(self, now_s: float) -> list[str]:
        """The keys, the oldest first. Those whose time is over are forgotten."""
        since_s = now_s - self.kept_s
        for key, written_s in list(self._keys.items()):
            if written_s > since_s:
                break
            self._keys.pop(key, None)
        return list(self._keys)

    def patterns(self, now_s: float) -> list[PatternRequest]:
        """The patterns, likewise."""
        since_s = now_s - self.kept_s
        for pattern, (_, written_s) in list(self._patterns.items()):
            if written_s <= since_s:
                self._patterns.pop(pattern, None)
        return [request for request, _ in list(self._patterns.values())]
