"""Watched writes: what was written lately, and a look now and then whether the store is still the same.

A process that remembers something has to hear of another store soon, and not with its next call: that may
come long after others have read there what is old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, assert_never

import attrs

from sansio_cache.budget import StoreTimeouts
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import PatternDeleted, RemovalBegan
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.watching import watch
from sansio_cache.part import Part, Recovery
from sansio_cache.recent_writes import RecentWrites
from sansio_cache.single_flight import Ticket

WATCH_S: Final = 0.25
"""How often it is looked whether the store is still the same that was written to, in seconds."""
MOST_WATCHED: Final = 16
"""Of how many of the keys that were written last the parts are looked at."""


@attrs.define
class WatchesStore:
    """The part of a coordinator that remembers writes, and has the store looked at while it does."""

    is_disabled: bool
    part_of: Callable[[str], str]
    _parts: dict[str, Part]
    recent: RecentWrites = attrs.field(factory=RecentWrites, init=False)
    """What was written lately."""
    is_watchful: bool = attrs.field(default=False, init=False)
    """Whether somebody says so where another store answers for a part: see `opened`."""
    must_watch: bool = attrs.field(default=False, init=False)
    """Whether something was written, and nobody looks whether the store is still the same."""
    _watching: Ticket | None = attrs.field(default=None, init=False)

    def _want_watch(self) -> None:
        self.must_watch = self.is_watchful and self._watching is None

    def remember(self, keys: Iterable[str], now_s: float) -> None:
        """Remember that keys, of entries or of tags, are being written."""
        if not self.is_disabled:
            self.recent.add(keys, now_s)
            self._want_watch()

    def remember_removal(self, notice: RemovalBegan | PatternDeleted, now_s: float) -> None:
        """Remember from now on what has begun a while ago."""
        match notice:
            case RemovalBegan(keys=keys):
                self.remember(keys, now_s)
            case PatternDeleted(pattern=pattern):
                self.recent.renew_pattern(pattern, now_s)
            case _:
                assert_never(notice)

    def begin_pattern(self, request: PatternRequest) -> None:
        """Remember a removal by pattern that begins now."""
        if not (self.is_disabled or request.dry_run):
            self.recent.add_pattern(request, request.started_s)
            self._want_watch()

    def begin_watch(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float) -> Recovery | None:
        """What is to be run in the background while there are recent writes; None where nothing is.

        It is run like a recovery: `next_recovery` is called with its outcome, until that gives None; or
        `give_up`.
        """
        self.must_watch = False
        if self.is_disabled or self._watching is not None:
            return None
        self._watching = ticket
        return self._next_watch(ticket, timeouts, now_s)

    def _next_watch(self, ticket: Ticket, timeouts: StoreTimeouts, now_s: float) -> Recovery | None:
        if not self.recent.is_any(now_s):
            self._watching = None
            self.recent.keys(now_s)  # forgets them (B2)
            self.recent.patterns(now_s)
            return None
        # Parts that are out are seen to by their recovery.
        parts = {self.part_of(key) for key in self.recent.newest(MOST_WATCHED)} or {ONE_PART}
        looked_at = tuple(sorted(name for name in parts if name not in self._parts))
        return Recovery(ticket, "", watch(looked_at, WATCH_S, timeouts.operation_s), {})
