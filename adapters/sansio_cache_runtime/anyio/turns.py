"""Turns: what never waits lets the other tasks of its loop have theirs all the same.

A store in memory answers at once, and a call that does without the store waits for nothing. A loop of such
calls would hold the event loop for as long as it lasts: no other task would run, and no time limit end it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import count
from typing import Final

import anyio.lowlevel

_MOST_AT_ONCE: Final = 251
"""So many hits take two milliseconds or so. A prime: loops in several threads count together."""
_calls: Final = count(1)


def take_turn() -> Awaitable[None]:
    """What raises where the caller is cancelled; now and then, it lets others run before."""
    # No coroutine of its own: it would be a good part of what a hit in memory takes.
    if next(_calls) % _MOST_AT_ONCE:
        return anyio.lowlevel.checkpoint_if_cancelled()
    return anyio.lowlevel.checkpoint()
