"""Locks of threads: what renews their leases. Mirrors `anyio/locks.py`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.held_lock import HeldLock
from sansio_cache_runtime.sync.background import Background
from sansio_cache_runtime.sync.event import ThreadEvent


@block
def keeping(held: HeldLock, background: Background, run: Callable[[Step], Outcome]) -> Generator[None]:
    """Renew the lease of a lock while the block runs.

    Where the system has no thread to give it is not renewed, and lost when it is over.
    """
    has_ended = ThreadEvent()
    background.start(partial(_keep, held, has_ended, run), "sansio-cache-lock")
    try:
        yield
    finally:
        has_ended.set()


def _keep(held: HeldLock, has_ended: ThreadEvent, run: Callable[[Step], Outcome]) -> None:
    while not has_ended.wait(held.pause_s):
        outcome = run(held.keep())
        if has_ended.is_set() or not held.take_in(outcome):
            return
