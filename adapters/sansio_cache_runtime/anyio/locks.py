"""Locks of tasks: what renews their leases. Mirrors `sync/locks.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import partial

import anyio

from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.anyio.background import Background
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.held_lock import HeldLock


@block
def keeping(
    held: HeldLock, background: Background, run: Callable[[Step], Awaitable[Outcome]]
) -> Generator[None]:
    """Renew the lease of a lock while the block runs."""
    cancel = background.start(partial(_keep, held, run))
    try:
        yield
    finally:
        cancel()


async def _keep(held: HeldLock, run: Callable[[Step], Awaitable[Outcome]]) -> None:
    while True:
        await anyio.sleep(held.pause_s)
        if not held.take_in(await run(held.keep())):
            return
