"""Recursion: a loader that asks for the key it is loading would wait for itself.

The keys being loaded in the present context, of threads and tasks alike; a loader's own tasks and worker
threads inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import attrs

from sansio_cache.errors import RecursiveLoadError


@attrs.define(eq=False)
class _Load:
    owner: object
    keys: frozenset[str]
    is_running: bool = True


_loads: Final[ContextVar[tuple[_Load, ...]]] = ContextVar("sansio_cache_loads", default=())


@contextmanager
def loading(owner: object, *keys: str) -> Iterator[None]:
    """Mark keys as being loaded by `owner`, a cache's driver."""
    load = _Load(owner, frozenset(keys))
    before = _loads.get()
    try:
        _loads.set((*before, load))
        yield
    finally:
        # A task that the loader has left behind still has the mark; the load is over all the same.
        load.is_running = False
        _loads.set(before)


def forget_loads() -> None:
    """For background work, which no load waits for: its context was copied from that of a caller."""
    _loads.set(())


def refuse_recursion(owner: object, *keys: str) -> None:
    """Refuse to load keys from inside their own loader.

    Raises:
        RecursiveLoadError: One of the keys is being loaded in this context.
    """
    for load in _loads.get():
        if load.is_running and load.owner is owner and not load.keys.isdisjoint(keys):
            key = next(key for key in keys if key in load.keys)
            raise RecursiveLoadError(
                f"the loader of {key!r} asks the cache for that very key, and would wait for itself: "
                "let it read the database, or use another key"
            )
