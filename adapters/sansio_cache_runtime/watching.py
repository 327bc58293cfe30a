"""Watching: what a call that waits for another process's load watches.

The order is watch, look again, wait: what happened before the watch stood has to be looked for. So the first
sleep that names a key ends at once. While changes are heard a sleep may be long; where not, waiters poll.
"""

from __future__ import annotations

from collections.abc import Callable

from sansio_cache.commands import Sleep
from sansio_cache_runtime.backend import Listener


class Watch:
    """The keys that one call watches.

    Args:
        listener: Tells of changes; None where there is none.
        wake: Ends the call's wait. It is called from any thread, when a key has changed.
    """

    def __init__(self, listener: Listener | None, wake: Callable[[], object]) -> None:
        self._listener = listener
        self._numbers: dict[str, int] = {}
        self.wake = wake

    def longest_s(self, sleep: Sleep) -> float:
        """How long a sleep may last, in seconds; 0 where the caller is to look again at once."""
        listener, watch = self._listener, sleep.watch
        if listener is None or watch is None:
            return sleep.duration_s
        new = [key for key in watch.keys if key not in self._numbers]
        for key in new:
            self._numbers[key] = listener.watch(key, self.wake)
        if not all(map(listener.hears, watch.keys)):
            return sleep.duration_s
        return 0.0 if new else watch.longest_s

    def stop(self) -> None:
        """Watch nothing any more."""
        while self._numbers and self._listener is not None:
            self._listener.unwatch(*self._numbers.popitem())
