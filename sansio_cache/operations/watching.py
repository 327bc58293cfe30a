"""Watching: look now and then whether the store is still the one that was written to.

    WatchPausing --Woke--> WatchAsking --Ponged | failed--> done

One machine is one look at some parts of the store. It says nothing of what it finds: what matters is that a
connection that is gone, or leads nowhere any more, is noticed before the next call, and that another is
opened. Who has opened it says what is there now (`Coordinator.opened`). It is done while there are recent
writes, of which the replica that takes over may not have heard.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.commands import Ping, Sleep
from sansio_cache.events import Event, Interrupted, PingAnswer, Ponged, SleepAnswer, StoreFailed
from sansio_cache.step import Abandoned, Completed, Step, ended, unexpected


def watch(parts: tuple[str, ...], pause_s: float, timeout_s: float) -> Step:
    """Begin to wait, and then to look at parts of the store."""
    return Step(WatchPausing(parts, timeout_s), Sleep(pause_s))


class WatchPausing(Struct, frozen=True):
    """Lets some time pass.

    Next: WatchAsking | done
    """

    parts: tuple[str, ...]
    timeout_s: float

    def receive(self, event: Event) -> Step:
        """Look."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        return ended(Abandoned()) if isinstance(event, Interrupted) else _look(self.parts, self.timeout_s)


class WatchAsking(Struct, frozen=True):
    """Waits for a part to show a sign of life.

    Next: WatchAsking | done
    """

    left: tuple[str, ...]
    timeout_s: float

    def receive(self, event: Event) -> Step:
        """Look at the next part, whatever this one has answered."""
        if not isinstance(event, PingAnswer):
            raise unexpected(self, event)
        match event:
            case Ponged() | StoreFailed():
                return _look(self.left, self.timeout_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def _look(parts: tuple[str, ...], timeout_s: float) -> Step:
    if not parts:
        return ended(Completed())
    return Step(WatchAsking(parts[1:], timeout_s), Ping(timeout_s, parts[0]))
