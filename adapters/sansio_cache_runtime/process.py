"""The process: one lock for what its caches keep in memory, and whether it is still the same process.

*The lock.* What caches share between threads is changed in microseconds and without waiting, under one lock
for all of them. It is re-entrant: a signal handler or a finaliser may call a cache while its own thread is in
the middle of such a change. It is one, as two of them could be taken in two orders: by a thread that changes
the first, whose finaliser needs the second, and by another the other way round.

*The mark.* A child of a fork has its parent's connections, random numbers and locks, and none of its
threads. Python's own `os.fork` says so; a server that forks in C, as uWSGI does, may not. So who uses such
things looks at a mark, which the system sets to zero in a child (`MADV_WIPEONFORK`); elsewhere the number of
the process is compared, which costs a system call.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

_MADV_WIPEONFORK: Final = 18
"""Linux's number of it, which Python's mmap has no name for."""


class Mark(Protocol):
    """What is to be looked at: `mark[0]` is 0 in a child that has not begun anew yet."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class ByNumber:
    """A mark where the system does not wipe one."""

    def __init__(self) -> None:
        self._number = 0

    def __getitem__(self, index: int, /) -> int:
        return self._number == os.getpid()

    def __setitem__(self, index: int, value: int, /) -> None:
        self._number = os.getpid()


def make_mark() -> Mark:
    """A mark of the process that runs."""
    mark: Mark
    try:
        mark = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mark.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        mark = ByNumber()
    mark[0] = 1
    return mark


MARK: Final = make_mark()
_beginnings: Final[list[Callable[[], object]]] = []
_lock = threading.RLock()
_beginning = threading.RLock()


def process_lock() -> threading.RLock:
    """The lock of this process: who keeps it gets another after a fork."""
    return _lock


def asking_inside(lock: threading.RLock) -> Callable[[], bool]:
    """The function that says whether the thread that asks holds the lock, for who asks often."""
    return lock._is_owned  # type: ignore[no-any-return, attr-defined]  # noqa: SLF001 - Condition asks it as well


def is_inside(lock: threading.RLock) -> bool:
    """Whether the thread that asks holds the lock: it is a handler or a finaliser, and nobody gets on but it.

    Then it must not wait for other threads, nor change what it may find half changed.
    """
    return asking_inside(lock)()


def at_begin_in_child(begin: Callable[[], object]) -> None:
    """Have a function called in a forked child, before the first use of what is shared."""
    _beginnings.append(begin)


def _has_begun() -> bool:
    return bool(MARK[0])


def begin_in_child() -> None:
    """Begin anew where this is a child that has not yet.

    A handler may call a cache meanwhile: then it begins all of it anew by itself, and nothing is left to do.
    """
    global _lock
    with _beginning:
        if _has_begun():
            return
        _lock = threading.RLock()
        for begin in _beginnings:
            begin()
            if _has_begun():
                return
        MARK[0] = 1


def _forked() -> None:
    """Python has forked: a thread that is not here may have been about to begin anew."""
    global _beginning
    _beginning = threading.RLock()
    begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
