"""Threads that belong to a cache, not to a caller: all of them are started and ended here.

What runs on them: renewals of leases, refreshes, recovery, listening, and the opening of connections. They
are daemons, so that a program which never closes its cache ends all the same. A thread never takes the
program down: what its job raises is logged. In a forked process none of them is there; it makes a background
of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sansio_cache.errors import CacheClosedError
from sansio_cache_runtime.subscribers import leave_explanations

logger: Final = logging.getLogger("sansio_cache")
_DRAIN_S: Final = 1.0


class Background:
    """Starts threads, and waits for them to end."""

    def __init__(self) -> None:
        self._waited_for: set[threading.Thread] = set()
        self._is_stopped = False

    def start(self, job: Callable[[], object], name: str, *, is_waited_for: bool = False) -> bool:
        """Run a job on a thread of its own.

        Args:
            job: What to run. It ends by itself when it is told to: `stop` does not end it.
            name: The thread's, which says what it is for.
            is_waited_for: Whether `drain` waits for it.

        Returns:
            Whether it was started: not where the system has no thread to give, or the cache is being closed.
        """
        if self._is_stopped:
            return False
        thread = threading.Thread(target=self._run, args=(job,), name=name, daemon=True)
        if is_waited_for:
            self._waited_for.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            self._waited_for.discard(thread)
            return False
        return True

    def stop(self) -> None:
        """Start no more threads."""
        self._is_stopped = True

    def drain(self) -> None:
        """Wait a little for the threads that are to be waited for, but for the one that asks."""
        until_s = time.monotonic() + _DRAIN_S
        for thread in list(self._waited_for - {threading.current_thread()}):
            with suppress(RuntimeError):  # it has not begun yet, and finds the cache closed
                thread.join(timeout=max(until_s - time.monotonic(), 0.0))

    # On the threads.

    def _run(self, job: Callable[[], object]) -> None:
        try:
            guarded(job)
        finally:
            self._waited_for.discard(threading.current_thread())


def guarded(job: Callable[[], object]) -> None:
    """Run a job that belongs to no caller; what it raises is logged."""
    leave_explanations()
    try:
        job()
    except CacheClosedError:
        pass  # it was begun as the cache was being closed
    except Exception:
        logger.exception("background work of the cache failed")
