"""What the tasks of several event loops wait for."""

from __future__ import annotations

import anyio

from sansio_cache_runtime.anyio.loops import Reach, reach_running_loop
from sansio_cache_runtime.anyio.threads import waiting_for_the_cache


class LoopEvent:
    """What `threading.Event` is to threads, for the tasks of any number of event loops.

    Any thread sets it.
    """

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: dict[anyio.Event, Reach] = {}

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait."""
        self._is_set = True  # first: who comes now looks at it last
        for event in list(self._waiting):
            reach = self._waiting.pop(event, None)
            if reach is not None:
                reach(event.set)

    def clear(self) -> None:
        """Whoever waits from now on waits for the next `set`."""
        self._is_set = False

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, or so many seconds have passed; whether it is set."""
        event = anyio.Event()
        self._waiting[event] = reach_running_loop()
        try:
            if self._is_set:
                event.set()
            with waiting_for_the_cache(), anyio.move_on_after(timeout_s):
                await event.wait()
        finally:
            self._waiting.pop(event, None)
        return self._is_set
