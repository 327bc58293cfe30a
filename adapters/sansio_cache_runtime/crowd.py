"""Crowds: those of a process who want to change one value, or one lock, go one after the other.

To change a value is to look, to compute and to swap, and whoever is overtaken meanwhile begins anew. Of five
hundred who do so at once most swaps would be refused; one after the other none is, but for other processes.
Of those who wait for a lock only the next one asks the store when it is given back, not all of them.
This is a courtesy, and no lock: that no change is lost is the swap's to see to. So one who has been at it for
long, or was interrupted and has not left, is passed by; but not one who holds a lock, as far as he knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

PATIENCE_S: Final = 1.0
"""How long one who is at it holds the next one up, once somebody has seen him there."""


class Waitable(Protocol):
    """What one waits for until it is his turn."""

    def set(self) -> object:
        """It is."""
        ...

    def is_set(self) -> bool:
        """Whether it is."""
        ...


E = TypeVar("E", bound=Waitable)


class _Queue(Generic[E]):
    """Those who want one thing, in the order of their coming, and since when the first was seen there."""

    __slots__ = ("first", "since_s", "turns")

    def __init__(self) -> None:
        self.turns: deque[Turn[E]] = deque()
        self.first: Turn[E] | None = None
        self.since_s = 0.0

    def look(self, now_s: float) -> None:
        """Pass by whoever is first and has been for long."""
        with suppress(IndexError, ValueError):  # others may leave meanwhile
            first = self.turns[0]
            if first is not self.first:
                self.first, self.since_s = first, now_s
            elif now_s - self.since_s >= PATIENCE_S and not first.is_busy():
                self.turns.remove(first)
                self.turns[0].event.set()


def _is_not() -> bool:
    return False


def busy_until(until_s: float, clock: Callable[[], float]) -> Callable[[], bool]:
    """Of one who asks the store for a lock: he waits there as others would, and no longer than he may.

    Where he was interrupted, and has not left, the next one is not held up for ever.
    """
    return lambda: clock() < until_s


class Turn(Generic[E]):
    """The place of one caller in a crowd.

    Attributes:
        event: Set when it is his turn.
        is_busy: Whether he is known to be at it still, and is not to be passed by.
    """

    __slots__ = ("_leave", "_queue", "event", "is_busy")

    def __init__(self, event: E, queue: _Queue[E], leave: Callable[[], object]) -> None:
        self.event = event
        self.is_busy: Callable[[], bool] = _is_not
        self._queue = queue
        self._leave = leave

    def must_wait(self, now_s: float) -> bool:
        """Whether to wait on, after some time."""
        self._queue.look(now_s)
        return not self.event.is_set()

    def leave(self) -> None:
        """Let the next one begin. Twice does no harm."""
        turns = self._queue.turns
        with suppress(ValueError):
            turns.remove(self)
        with suppress(IndexError):
            turns[0].event.set()
            return
        self._leave()


class Crowds(Generic[E]):
    """Who wants which value, or lock. Threads and handlers may call it at once: it has no lock of its own.

    Args:
        make_event: Makes what is waited for.
    """

    def __init__(self, make_event: Callable[[], E]) -> None:
        self._make_event = make_event
        self._queues: dict[str, _Queue[E]] = {}

    def join(self, key: str, now_s: float) -> Turn[E]:
        """Queue up for a key. Its event is set when it is one's turn."""
        queue = self._queues.setdefault(key, _Queue())
        turn = Turn(self._make_event(), queue, lambda: self._forget(key, queue))
        queue.turns.append(turn)
        with suppress(IndexError):  # whoever was first has left in between, and has set it
            if queue.turns[0] is turn:
                turn.event.set()
        queue.look(now_s)
        return turn

    def end(self) -> None:
        """Wake all, as there is nothing to be had any more."""
        for queue in tuple(self._queues.values()):
            for turn in tuple(queue.turns):
                turn.event.set()

    def _forget(self, key: str, queue: _Queue[E]) -> None:
        """Nobody is there any more. Who comes meanwhile has the queue, and is its first."""
        if not queue.turns and self._queues.get(key) is queue:
            self._queues.pop(key, None)
