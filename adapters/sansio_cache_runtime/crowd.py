"""Crowds: those of a process who want to change one value, or one lock, go one after the other.

To change a value is to look, to compute and to swap, and whoever is overtaken meanwhile begins anew. Of five
hundred who do so at once most swaps would be refused; one after the other none is, but for other processes.
Of those who wait for a lock only the next one asks the store when it is given back, not all of them.
This is a courtesy, and no lock: that no change is lost is the swap's to see to. So one who has been at it for
long, or was interrupted and has not left, is passed by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

PATIENCE_S: Final = 1.0
"""How long one who is at it holds the next one up, and no longer than twice that."""


class Waitable(Protocol):
    """What one waits for until it is his turn."""

    def set(self) -> object:
        """It is."""
        ...

    def is_set(self) -> bool:
        """Whether it is."""
        ...


E = TypeVar("E", bound=Waitable)


class Turn(Generic[E]):
    """The place of one caller in a crowd."""

    __slots__ = ("_ahead", "_leave", "_queue", "event")

    def __init__(self, event: E, queue: deque[E], leave: Callable[[], object]) -> None:
        self.event = event
        self._queue = queue
        self._leave = leave
        self._ahead: E | None = None

    def must_wait(self) -> bool:
        """Whether to wait on, after some time. One who was at it then and still is, is passed by."""
        with suppress(IndexError):
            first = self._queue[0]
            if first is self._ahead and first is not self.event:
                self._queue.remove(first)
                self._queue[0].set()
            self._ahead = first
        return not self.event.is_set()

    def leave(self) -> None:
        """Let the next one begin. Twice does no harm."""
        with suppress(ValueError):
            self._queue.remove(self.event)
        with suppress(IndexError):
            self._queue[0].set()
            return
        self._leave()


class Crowds(Generic[E]):
    """Who wants which value, or lock. Threads and handlers may call it at once: it has no lock of its own.

    Args:
        make_event: Makes what is waited for.
    """

    def __init__(self, make_event: Callable[[], E]) -> None:
        self._make_event = make_event
        self._queues: dict[str, deque[E]] = {}

    def join(self, key: str) -> Turn[E]:
        """Queue up for a key. Its event is set when it is one's turn."""
        event = self._make_event()
        queue = self._queues.setdefault(key, deque())
        queue.append(event)
        with suppress(IndexError):  # whoever was first has left in between, and has set it
            if queue[0] is event:
                event.set()
        return Turn(event, queue, lambda: self._forget(key, queue))

    def _forget(self, key: str, queue: deque[E]) -> None:
        """Nobody is there any more. Who comes meanwhile has the queue, and is its first."""
        if not queue and self._queues.get(key) is queue:
            self._queues.pop(key, None)
