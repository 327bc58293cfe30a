"""The recorder: what a cache says of what it has done.

It takes in every notice, and the changes that the coordinator has found in them. From these follow the
statistics; what subscribers and explanations are told; and the log: one line when an outage begins and one
when it is over, with the place of the store; a refresh that failed, with its key and where it was raised.
Never a value or a password, nor the text of an exception of the program's, which may hold either.

Counting is put off: notices are queued, and counted some at a time, or when somebody asks for the statistics.
That costs a hit less than a lock would; and a call from a signal handler or a finaliser, which may find its
own thread in the middle of counting, waits for nothing. The lock is entered by itself: between its `acquire`
and a `try` Ctrl-C may strike.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from sansio_cache.changes import (
    Change,
    Distrusted,
    InvalidationsForgotten,
    InvalidationsGivenUp,
    InvalidationsRefused,
    OutageBegan,
    OutageEnded,
    RefusalBegan,
    StoreReplaced,
    Suspected,
    Trusted,
)
from sansio_cache.events import FailureKind
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.keys import entity_of
from sansio_cache.notices import (
    Ended,
    Hit,
    Notice,
    RefreshFailed,
    RefreshSkipped,
    SkipReason,
    Unasked,
    Unstorable,
    WriterFailed,
)
from sansio_cache.queues import partition_of
from sansio_cache.stats import CacheStats, StatsFold
from sansio_cache_runtime.operation_log import NOT_LOGGED, OperationLog, fields_of, operations
from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.subscribers import Subscribers, check_kinds
from sansio_cache_runtime.tracebacks import textless

logger: Final = logging.getLogger("sansio_cache")
_MOST_WARNINGS: Final = 100
_LOG_REST_S: Final = 60.0
"""Refreshes, and writers of a queue, that fail with the same class of error are logged once in this time."""
_WARNED_OF: Final = frozenset({Unstorable, RefreshSkipped, Unasked, WriterFailed})
_MOST_UNCOUNTED: Final = 64


class Recorder:
    """Counts, logs and tells. Safe for threads."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._at = ""
        self._place = ""
        self._is_closed = False
        self._fold = StatsFold()
        self._uncounted: deque[Sequence[Notice]] = deque()
        self._glances: deque[tuple[Glance | GlanceMany, float]] = deque()
        """What was a hit at the first look, and when that was over."""
        self._is_counting = False
        self._counting = process_lock()
        self._warned: dict[str, object] = {}
        self._log_rests: dict[str, float] = {}
        self.subscribers = Subscribers(namespace)
        """Who is told of notices."""
        self._end_of_log: Callable[[], None] | None = None
        """Ends the log of operations, while it is written."""
        self.is_followed()

    write: Callable[..., None] = staticmethod(logger.log)
    """Takes what is to be logged; a simulation has it elsewhere."""

    def know_place(self, place: str) -> None:
        """Where the store is, for the log: `host:port`, or the path of a socket; empty where nobody knows."""
        self._at = f" at {place}" if place else ""
        self._place = place

    def know(self, pattern: str) -> None:
        """Keep a place in the statistics for the entity whose keys match a pattern."""
        with self._counting:
            self._fold.know(entity_of(pattern))

    def is_followed(self) -> bool:
        """Whether operations are followed from begin to end.

        The level of the log may have been changed since: it is looked at with operations that are no hits,
        and with some hits.
        """
        if operations.isEnabledFor(logging.DEBUG) is (self._end_of_log is None):
            self._log_operations()
        return self.subscribers.wants_hits

    def _log_operations(self) -> None:
        if self._end_of_log is None:
            log = OperationLog(self._namespace)
            self._end_of_log = self.subscribers.subscribe(log.hear, check_kinds(None) - set(NOT_LOGGED))
        else:
            end, self._end_of_log = self._end_of_log, None
            end()

    def note(self, notices: Sequence[Notice]) -> bool:
        """Take notices in. False where they say no more than that an operation was a hit."""
        uncounted = self._uncounted
        uncounted.append(notices)
        if len(uncounted) > _MOST_UNCOUNTED and not self._is_counting:
            self.is_followed()
            with self._counting:
                self._count()
        subscribers = self.subscribers
        if type(notices[0]) is Hit and type(notices[-1]) is Ended and len(notices) == 2:
            if subscribers.wants_hits:
                subscribers.tell(notices)
            return False
        if subscribers.is_there:
            subscribers.tell(notices)
        if not _WARNED_OF.isdisjoint(map(type, notices)):
            for notice in notices:
                if isinstance(notice, Unstorable | RefreshSkipped | Unasked | WriterFailed):
                    self._warn(notice)
        return True

    def glanced(self, glance: Glance | GlanceMany, now_s: float) -> None:
        """Take in that an operation was a hit at the first look, at `now_s`. Nobody has asked to be told."""
        glances = self._glances
        glances.append((glance, now_s))
        if len(glances) > _MOST_UNCOUNTED and not self._is_counting:
            self.is_followed()
            with self._counting:
                self._count()

    def log(self, change: Change) -> None:
        """Log what the coordinator has found. What fails while a cache is being closed is no news."""
        at = self._at_part(change.part)
        match change:
            case OutageBegan(kind=kind, reason=reason):
                self._log(
                    logging.WARNING,
                    "the store%s does not serve (%s); loaders run without it until it does",
                    at,
                    _why(kind, reason),
                    about=change,
                )
            case OutageEnded(lasted_s=lasted_s):
                self._log(
                    logging.WARNING, "the store%s serves again after %.1f s", at, lasted_s, about=change
                )
            case RefusalBegan(kind=kind, reason=reason) if kind.is_local:
                self._log(
                    logging.WARNING,
                    "some calls had to do without the store%s (%s): that is this process's own doing and no "
                    "outage, and others are served; stats().gave_up counts them",
                    at,
                    _why(kind, reason),
                    about=change,
                )
            case RefusalBegan(kind=kind, reason=reason):
                self._log(
                    logging.WARNING,
                    "the store%s refuses (%s); health() says what is missing",
                    at,
                    _why(kind, reason),
                    about=change,
                )
            case InvalidationsForgotten(limit=limit):
                self._log(
                    logging.ERROR,
                    "more than %d invalidations wait for the store%s, and the oldest are given up: their "
                    "entries may be served until they expire",
                    limit,
                    at,
                    about=change,
                )
            case InvalidationsRefused(kind=kind, count=count):
                self._log(
                    logging.ERROR,
                    "the store%s refuses (%s) to remove %d keys whose entries may be old: this process does "
                    "not read them, others may; health() says what is missing",
                    at,
                    kind.value,
                    count,
                    about=change,
                )
            case InvalidationsGivenUp(count=count):
                self._log(
                    logging.WARNING,
                    "%d invalidations that the store%s refuses are given up: what was stored before them has "
                    "expired",
                    count,
                    at,
                    about=change,
                )
            case StoreReplaced(told=told, bypassed_s=bypassed_s, is_incomplete=is_incomplete):
                self._log(
                    logging.WARNING,
                    "the store%s is another than before (a failover, or a restart): it is told again of %d "
                    "recent writes%s, and reads do without it for %.1f s",
                    at,
                    told,
                    ", which are not all of them" if is_incomplete else "",
                    bypassed_s,
                )
            case Suspected() | Trusted():
                pass  # only that it was, or that nothing came of it
            case Distrusted():
                self._warn_once(
                    "distrusted",
                    "a reply of the store%s belonged to another key: its connections are closed, and others "
                    "are opened",
                    at,
                    about=change,
                )

    def _at_part(self, part: str) -> str:
        """Where a part of the store is, for the log."""
        if not part:
            return self._at
        return f" at {part}" if ":" in part else f"{self._at} ({part})"

    def refresh_failed(self, key: str, error: Exception, now_s: float) -> None:
        """Log what a refresh in the background has met, which no caller gets.

        Args:
            key: Of the entry.
            error: What its loader raised.
            now_s: The driver's clock, in seconds.
        """
        kind = type(error).__name__
        if self._rests(kind, now_s):
            return
        self._log(
            logging.WARNING,
            "a refresh in the background failed with %s, of the key %s; what is there is served meanwhile",
            kind,
            key,
            about=RefreshFailed(key, kind),
            error=error,
        )

    def writer_failed(self, queue: str, count: int, error: Exception, now_s: float) -> None:
        """Log what the writer of a queue has raised, which no caller gets.

        Args:
            queue: The name of the queue.
            count: For how many keys.
            error: What it raised.
            now_s: The driver's clock, in seconds.
        """
        kind = type(error).__name__
        if self._rests(f"{queue}: {kind}", now_s):
            return
        self._log(
            logging.WARNING,
            "the writer of the queue %s failed with %s, for %d keys: they are tried again, or given up",
            queue,
            kind,
            count,
            error=error,
        )

    def _rests(self, kind: str, now_s: float) -> bool:
        """Whether the same was logged in the last minute; if not, it is now."""
        if now_s < self._log_rests.get(kind, now_s):
            return True
        if len(self._log_rests) >= _MOST_WARNINGS:
            self._log_rests.clear()
        self._log_rests[kind] = now_s + _LOG_REST_S
        return False

    def close(self, untold: int = 0) -> None:
        """The cache is being closed: what fails from now on is no news, and what is `untold` is the last."""
        if untold:
            self._log(
                logging.ERROR,
                "the cache is closed, and the store%s was not told of %d invalidations: their entries may be "
                "served until they expire",
                self._at,
                untold,
            )
        self._is_closed = True

    def snapshot(self, now_s: float = 0.0) -> CacheStats:
        """The statistics as they are now, on the driver's clock."""
        with self._counting:
            self._count()
            return self._fold.snapshot(now_s)

    def after_fork(self) -> None:
        """A lock that another thread held when the process forked is never released, nor its count ended.

        What was counted is the parent's: a child that had it too would report all of it once more.
        """
        self._counting = process_lock()
        self._is_counting = False
        self._uncounted.clear()
        self._glances.clear()
        self._fold = self._fold.successor()
        self.subscribers.after_fork()

    def _count(self) -> None:
        """Count what is queued, under the lock."""
        if self._is_counting:  # by this very thread, which a signal handler or a finaliser interrupts
            return
        try:
            self._is_counting = True
            while self._uncounted:
                self._fold.record(self._uncounted.popleft())
            if self._glances:
                self._fold.record_hits(self._glances)
        finally:  # also where Ctrl-C strikes: or nothing would ever be counted again
            self._is_counting = False

    def _warn(self, notice: Unstorable | RefreshSkipped | Unasked | WriterFailed) -> None:
        match notice:
            case Unstorable(key=key, why=why):
                self._warn_once(
                    f"unstorable {entity_of(key)} {why}",
                    "a loaded value is not cached: %s: %s",
                    key,
                    why,
                    about=notice,
                )
            case RefreshSkipped(key=key, reason=SkipReason.REBOUND, name=name):
                self._warn_once(
                    f"rebound {name}",
                    "the refresh of %s was skipped: its loader names %s, which is bound to something else by "
                    "now; bind what it needs at the call: get_or_load(key, loader, %s)",
                    key,
                    name,
                    name,
                    about=notice,
                )
            case WriterFailed(queue=root, count=count, error=""):
                name, _ = partition_of(root)
                self._warn_once(
                    f"unread {name}",
                    "%d writes of the queue %s cannot be read, as they were queued as another type, or are "
                    "corrupt: they are tried again, or given up",
                    count,
                    name,
                    about=notice,
                )
            case RefreshSkipped() | WriterFailed():
                pass
            case Unasked(count=count):
                self._warn_once(
                    "unasked",
                    "a loader gave values for %d keys that it was not asked for: they are dropped",
                    count,
                    about=notice,
                )

    def _warn_once(self, kind: str, text: str, *words: object, about: Notice | Change) -> None:
        mine = object()
        if len(self._warned) < _MOST_WARNINGS and self._warned.setdefault(kind, mine) is mine:
            self._log(logging.WARNING, text, *words, about=about)

    def _log(
        self,
        level: int,
        text: str,
        *words: object,
        about: Notice | Change | None = None,
        error: Exception | None = None,
    ) -> None:
        if not self._is_closed:
            fields: dict[str, Any] = {"cache_name": self._namespace, "cache_place": self._place}
            if about is not None:
                fields |= fields_of(self._namespace, about)
            traceback = None if error is None else textless(error)
            self.write(level, f"cache %s: {text}", self._namespace, *words, exc_info=traceback, extra=fields)


def _why(kind: FailureKind, reason: str) -> str:
    """The kind of a failure, and what is known of it."""
    return f"{kind.value}: {reason}" if reason else kind.value
