"""The ledger: what a cache remembers between operations, and what it says about it.

It takes in every notice. From these follow the statistics, the circuit breaker, the remembered
invalidations, and the log: one line when an outage begins and one when it is over, never a value, a key's
text or a password. What it has counted it passes on to the audience: subscribers and stories.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from sansio_cache.breaker import Breaker
from sansio_cache.config import CacheConfig
from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind
from sansio_cache.notices import (
    Ended,
    Hit,
    InvalidationFailed,
    Missed,
    Notice,
    RefreshFailed,
    StoreAnswered,
    Stored,
    StoreGaveUp,
    Unasked,
    Unstorable,
)
from sansio_cache.pending_invalidations import PendingInvalidations
from sansio_cache.stats import CacheStats, StatsFold
from sansio_cache_runtime.subscribers import Subscribers

logger: Final = logging.getLogger("sansio_cache")
_MOST_WARNINGS: Final = 100
_REPLAY_KEYS: Final = 500
_HEEDED: Final = frozenset(
    {
        StoreGaveUp,
        StoreAnswered,
        Stored,
        InvalidationFailed,
        Unstorable,
        Missed,
        RefreshFailed,
        Unasked,
    }
)


_HIT_AND_ENDED: Final = 2
_ENDED_BY_A_WRITE: Final = {FailureKind.OUT_OF_MEMORY, FailureKind.WRITES_REFUSED, FailureKind.READ_ONLY}


class Recorder:
    """The state that all operations of one cache share. Safe for threads."""

    def __init__(self, config: CacheConfig) -> None:
        self._namespace = config.namespace
        self._is_disabled = not (config.enabled and config.redis.enabled)
        self._is_closed = False
        self._fold = StatsFold()
        self._remembered = PendingInvalidations()
        self._breaker = Breaker()
        self._refusals: set[FailureKind] = set()
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._unlogged: deque[tuple[int, str, tuple[object, ...]]] = deque()
        """What is to be logged. Not under the lock: a handler may be slow, or call the cache."""
        self.subscribers = Subscribers(config.namespace)
        """Who is told of notices once they are counted."""
        self.needs_recovery = False
        """Whether the store is to be probed, or told of invalidations."""
        self.must_ask = self._is_disabled
        """Whether `skip` may have a reason to give: seldom, and the question is asked for every read."""
        self.bypassed: frozenset[str] = frozenset()
        """Tags, by their keys, whose removal the store has not been told of yet."""

    def note(self, notices: Sequence[Notice]) -> bool:
        """Take notices in. True where the connections are not to be trusted any more (S9)."""
        is_suspect = False
        last = notices[-1]
        if type(last) is Ended and type(notices[0]) is Hit and len(notices) == _HIT_AND_ENDED:
            with self._lock:
                self._fold.record_hit(last)
        else:
            with self._lock:
                self._fold.record(notices)
                for notice in notices:
                    if type(notice) in _HEEDED:
                        is_suspect |= self._heed(notice)
        if self._unlogged:
            self._write_log()
        if self.subscribers.is_there:
            self.subscribers.tell(notices)
        return is_suspect

    def close(self) -> None:
        """The cache is being closed: what fails from now on is no news."""
        self._is_closed = True

    def _heed(self, notice: Notice) -> bool:
        match notice:
            case StoreGaveUp(kind=kind):
                self._gave_up(kind)
            case StoreAnswered():
                self._answered()
            case Stored():
                self._refusals -= _ENDED_BY_A_WRITE
            case InvalidationFailed(keys=keys):
                forgotten = self._remembered.forgotten
                self._remembered.remember(keys)
                if forgotten == 0 < self._remembered.forgotten:
                    self._log(
                        logging.ERROR,
                        "more than %d invalidations wait for the store, and the oldest are given up: their "
                        "entries may be served until they expire",
                        self._remembered.limit,
                    )
            case Unstorable(kind=kind):
                self._warn_once(
                    f"class {kind}",
                    "a loaded value of class %s is not cached, as it would not come back equal: give its "
                    "type as type=, or try set() with it, which says why",
                    kind,
                )
            case RefreshFailed(error=error):
                self._warn_once(
                    f"refresh {error}",
                    "a refresh in the background failed with %s; what is there is served meanwhile",
                    error,
                )
            case Unasked(count=count):
                self._warn_once(
                    "unasked",
                    "a loader gave values for %d keys that it was not asked for: they are dropped",
                    count,
                )
            case Missed(reason=reason):
                return reason is MissReason.KEY_CHECK
            case _:
                pass
        self._settle()
        return False

    def _settle(self) -> None:
        is_remembering = bool(self._remembered)
        self.needs_recovery = not self._is_disabled and (self._breaker.is_open or is_remembering)
        self.must_ask = self._is_disabled or self.needs_recovery
        self.bypassed = self._remembered.tags

    def skip(self, key: str) -> MissReason | None:
        """Why a read of this key is not to ask the store; None where it is to."""
        if self._is_disabled:
            return MissReason.DISABLED
        if not self.needs_recovery:
            return None
        if self._breaker.is_open:
            return MissReason.STORE_ERROR
        return MissReason.BYPASSED if key in self._remembered else None

    @property
    def is_disabled(self) -> bool:
        """Whether the cache is switched off by its configuration."""
        return self._is_disabled

    @property
    def is_out(self) -> bool:
        """Whether reads do without the store, as it does not serve."""
        return self._breaker.is_open

    @property
    def remembered(self) -> int:
        """How many invalidations the store has not been told of yet."""
        return len(self._remembered)

    def pending_invalidations(self) -> dict[str, int]:
        """Remembered keys for the next try to tell the store, to be given to `told`."""
        with self._lock:
            return dict(self._remembered.pending(_REPLAY_KEYS))

    def told(self, keys: dict[str, int]) -> None:
        """The store has been told of these."""
        with self._lock:
            self._remembered.forget(keys)
            self._settle()

    def snapshot(self) -> CacheStats:
        """The statistics as they are now."""
        with self._lock:
            return self._fold.snapshot()

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released."""
        self._lock = threading.Lock()
        self.subscribers.after_fork()

    def _gave_up(self, kind: FailureKind) -> None:
        if self._is_closed:
            return
        if kind.is_outage:
            if not self._breaker.is_open:
                self._log(
                    logging.WARNING,
                    "the store does not serve (%s); loaders run without it until it does",
                    kind.value,
                )
            self._breaker = self._breaker.after_failure(kind, time.monotonic())
        elif kind not in self._refusals:
            self._refusals.add(kind)
            self._log(logging.WARNING, "the store refuses (%s); health() says what is missing", kind.value)

    def _answered(self) -> None:
        if self._breaker.open_since_s is not None:
            out_s = time.monotonic() - self._breaker.open_since_s
            self._log(logging.WARNING, "the store serves again after %.1f s", out_s)
            self._refusals.clear()
        self._breaker = self._breaker.after_answer()

    def _warn_once(self, kind: str, text: str, *words: object) -> None:
        if kind not in self._warned and len(self._warned) < _MOST_WARNINGS and not self._is_closed:
            self._warned.add(kind)
            self._log(logging.WARNING, text, *words)

    def _log(self, level: int, text: str, *words: object) -> None:
        self._unlogged.append((level, text, words))

    def _write_log(self) -> None:
        while True:
            try:
                level, text, words = self._unlogged.popleft()
            except IndexError:  # another thread writes the rest
                return
            logger.log(level, f"cache %s: {text}", self._namespace, *words)
