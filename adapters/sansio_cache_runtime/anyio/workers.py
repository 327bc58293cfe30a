"""Workers: background tasks that run refreshes. Mirrors `sync/workers.py`.

How many may run at once is bounded: past that, a refresh is skipped, and a later read asks for it again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from sansio_cache_runtime.anyio.background import Background, Job

MOST_RUNNING: Final = 1_000


class Workers:
    """Runs jobs as tasks that belong to no caller.

    Args:
        background: Starts the tasks.
        most_running: How many there may be at once.
    """

    def __init__(self, background: Background, *, most_running: int = MOST_RUNNING) -> None:
        self._background = background
        self._most_running = most_running
        self.running = 0
        """How many jobs are under way."""

    @property
    def waiting(self) -> int:
        """None: a task waits for no thread."""
        return 0

    def submit(self, job: Job, at_end: Callable[[], object]) -> bool:
        """Have a job run, in a copy of the caller's context, and call `at_end`. False if it is not taken."""
        if self.running >= self._most_running:
            return False
        self.running += 1
        self._background.start(job, partial(self._end, at_end))
        return True

    def _end(self, at_end: Callable[[], object]) -> None:
        self.running -= 1
        at_end()
