"""Event loops: which of them runs this code, and how the others are reached.

A cache serves the tasks of any number of event loops at once, of asyncio and trio, in as many threads. Trio
may also be the guest of asyncio: then both run in one thread, and asyncio's loop is the running one for both.
So whether it is trio that runs this code is asked first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

library: Any
"""Its `name` is "trio" where trio runs this code, and something else under asyncio."""
try:
    from sniffio import thread_local as library
except ModuleNotFoundError:  # then there is no trio either, which needs it

    class _NoLibrary(threading.local):
        name: str | None = None

    library = _NoLibrary()

Reach = Callable[[Callable[[], object]], None]
"""Calls a function in an event loop: at once from inside it, soon from anywhere else.

From any thread; not at all where the loop has ended.
"""


def is_under_trio() -> bool:
    """Whether trio runs this code, be it as a guest."""
    return bool(library.name == "trio")


def running_loop_of() -> Callable[[], object]:
    """The function that gives the running event loop, or trio's token of the run, in this library."""
    if not is_under_trio():
        return asyncio.get_running_loop
    import trio

    return trio.lowlevel.current_trio_token


def is_being_cancelled() -> bool:
    """Whether asyncio cancels the running task: not where it has met that something else was cancelled."""
    task = None if is_under_trio() else asyncio.current_task()
    return task is not None and task.cancelling() > 0


def reach_running_loop() -> Reach:
    """What calls functions in the event loop that runs now."""
    loop: Any = running_loop_of()()
    return partial(_in_trio if is_under_trio() else _in_asyncio, loop)


def _in_asyncio(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        function()
    else:
        with suppress(RuntimeError):
            # Not in the caller's context, which may say that it is trio's.
            loop.call_soon_threadsafe(function, context=Context())


def _in_trio(token: Any, function: Callable[[], object]) -> None:
    if is_under_trio() and running_loop_of()() is token:
        function()
    else:
        import trio

        with suppress(trio.RunFinishedError):
            token.run_sync_soon(function)
