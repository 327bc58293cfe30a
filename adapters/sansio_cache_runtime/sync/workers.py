"""Workers: a few threads that run refreshes beside the threads of the program.

They are started when there is something to do, and end by themselves when there is nothing for some time.
What waits for them is bounded: past that, a refresh is skipped, and a later read asks for it again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Final

from sansio_cache_runtime.process import process_lock
from sansio_cache_runtime.sync.background import Background, guarded
from sansio_cache_runtime.sync.event import ThreadCondition
from sansio_cache_runtime.tracebacks import textless

logger: Final = logging.getLogger("sansio_cache")

MOST_THREADS: Final = 4
MOST_WAITING: Final = 1_000
_IDLE_S: Final = 5.0


class Workers:
    """Runs jobs on threads of its own. What a job raises is logged.

    Args:
        background: Starts the threads.
        most_threads: How many there may be at once.
        most_waiting: How many jobs may wait for one.
    """

    def __init__(
        self, background: Background, *, most_threads: int = MOST_THREADS, most_waiting: int = MOST_WAITING
    ) -> None:
        self._background = background
        self._most_threads = most_threads
        self._most_waiting = most_waiting
        # Entered by itself: see `lease_renewer.py`.
        self._lock = process_lock()
        self._changed = ThreadCondition(self._lock)
        self._jobs: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._idle = 0
        self._is_closed = False

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return max(self._threads - self._idle, 0)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return len(self._jobs)

    def has_room(self) -> bool:
        """Whether a job would be taken."""
        return not self._is_closed and len(self._jobs) < self._most_waiting

    def submit(self, job: Callable[[], object]) -> bool:
        """Have a job run, in a copy of the caller's context. False if it is not taken."""
        context = copy_context()
        with self._lock:
            if not self.has_room():
                return False
            if self._idle <= len(self._jobs) and self._threads < self._most_threads:
                if self._background.start(self._run, "sansio-cache-refresh", is_waited_for=True):
                    self._threads += 1  # not before: starting it may be interrupted; it waits for the lock
                elif not self._threads:
                    return False
            self._jobs.append(lambda: context.run(guarded, job))
            self._changed.notify()
            return True

    def close(self) -> None:
        """Take no more jobs; the threads end when those that are there are done."""
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()

    # On the threads.

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException as error:  # such as a loader's SystemExit: others wait for this thread
                logger.exception("a background refresh of the cache was ended", exc_info=textless(error))

    def _next(self) -> Callable[[], object] | None:
        """The next job; None when it is time to end."""
        with self._lock:
            self._idle += 1
            try:
                while not self._jobs:
                    # A job may have come at the very end of the wait.
                    if self._is_closed or not (self._changed.wait(_IDLE_S) or self._jobs):
                        self._threads -= 1
                        return None
                return self._jobs.popleft()
            finally:
                self._idle -= 1
