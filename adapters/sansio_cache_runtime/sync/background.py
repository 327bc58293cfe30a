"""Threads that belong to a cache, not to a caller: all of them are started and ended here.

What runs on them: renewals of leases, refreshes, recovery, listening, and the opening of connections. They
are daemons, so that a program which never closes its cache ends all the same. A thread never takes the
program down: what its job raises is logged. In a forked process none of them is there; it makes a background
of its own.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sansio_cache.errors import CacheClosedError
from sansio_cache.signals import let_through
from sansio_cache_runtime.process import is_inside, process_lock
from sansio_cache_runtime.spans import leave_spans
from sansio_cache_runtime.subscribers import leave_explanations
from sansio_cache_runtime.sync.event import ThreadEvent
from sansio_cache_runtime.tracebacks import textless

logger: Final = logging.getLogger("sansio_cache")
_DRAIN_S: Final = 1.0

_is_exiting: Final = ThreadEvent()
"""Set as the interpreter ends: a thread that begins then would be stopped in the middle of something."""
atexit.register(_is_exiting.set)


class Background:
    """Starts threads, and waits for them to end."""

    def __init__(self) -> None:
        self._waited_for: dict[ThreadEvent, int] = {}
        """What is set when a thread has ended, and the number of the thread once it runs."""
        self._is_stopped = False

    def start(self, job: Callable[[], object], name: str, *, is_waited_for: bool = False) -> bool:
        """Run a job on a thread of its own.

        Args:
            job: What to run. It ends by itself when it is told to: `stop` does not end it.
            name: The thread's, which says what it is for.
            is_waited_for: Whether `drain` waits for it.

        Returns:
            Whether it was started: not where the system has no thread to give, the cache is being closed, or
            the interpreter ends.
        """
        if self._is_stopped or _is_exiting.is_set():
            return False
        has_ended = ThreadEvent()
        if is_waited_for:
            self._waited_for[has_ended] = 0
        try:
            # A thread starts the thread: `Thread.start` waits for what it has started, in a way that an
            # exception of a signal handler breaks, and then that thread hangs. Only the main thread has them.
            _thread.start_new_thread(_start, (partial(self._run, job, has_ended), name))
        except RuntimeError as error:  # the system has no more threads to give
            self._waited_for.pop(has_ended, None)
            let_through(error)
            return False
        return True

    def stop(self) -> None:
        """Start no more threads."""
        self._is_stopped = True

    def drain(self) -> None:
        """Wait a little for the threads that are to be waited for, but for the one that asks."""
        if is_inside(process_lock()):
            return  # they may need what the thread that asks was interrupted in
        until_s = time.monotonic() + _DRAIN_S
        for has_ended, number in list(self._waited_for.items()):
            if number != threading.get_ident():
                has_ended.wait(until_s - time.monotonic())

    # On the threads.

    def _run(self, job: Callable[[], object], has_ended: ThreadEvent) -> None:
        if has_ended in self._waited_for:
            self._waited_for[has_ended] = threading.get_ident()
        try:
            guarded(job)
        finally:
            self._waited_for.pop(has_ended, None)
            has_ended.set()


def _start(run: Callable[[], object], name: str) -> None:
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # there is none to give but this one
        run()


def guarded(job: Callable[[], object]) -> None:
    """Run a job that belongs to no caller; what it raises is logged."""
    leave_explanations()
    leave_spans()
    try:
        job()
    except CacheClosedError:
        pass  # it was begun as the cache was being closed
    except Exception as error:
        logger.exception("background work of the cache failed", exc_info=textless(error))
