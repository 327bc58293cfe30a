"""Threads for loaders that block: an event loop has so many places for them, and they are nobody else's.

anyio's own limit is the program's. Where all of it waits for the cache, as forty blocking endpoints do that
ask it through `anyio.from_thread`, a loader would wait for a place that only its own end makes free. For the
same reason a loader that waits for the cache, on a thread, lends its place to others meanwhile, and goes on
without waiting for one.

A loader that is given up on goes on by itself, as no thread can be stopped. It keeps its place until it ends.
Under asyncio it is waited for in a task of its own, which goes on as well: what the loader has done in the
loop, by `anyio.from_thread`, would belong to a caller that was cancelled, and anyio would try to end that for
ever.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from sansio_cache_runtime.anyio.loops import is_under_trio, reach_running_loop

T = TypeVar("T")

in_place: Final[ContextVar[bool]] = ContextVar("sansio_cache_in_place", default=False)
"""Whether what may block is called where it stands, as in a simulation, which has no threads but its own."""

MOST_THREADS: Final = 40
"""How many loaders may block at once in one event loop."""


class _Places:
    """The places of one event loop, in which alone they are given and taken."""

    def __init__(self) -> None:
        self._free = MOST_THREADS
        self._waiting: deque[anyio.Event] = deque()
        self.limiter = anyio.CapacityLimiter(math.inf)
        """What anyio is told instead of its own: the limit is here."""

    async def take(self) -> None:
        """Take a place, in turn."""
        if self._free > 0:
            self._free -= 1
            return
        is_mine = anyio.Event()
        self._waiting.append(is_mine)
        try:
            await is_mine.wait()
        except BaseException:
            if is_mine.is_set():
                self.give()
            else:
                self._waiting.remove(is_mine)
            raise

    def take_at_once(self) -> None:
        """Take one though there may be none."""
        self._free -= 1

    def give(self) -> None:
        """Give one back."""
        self._free += 1
        if self._free > 0 and self._waiting:
            self._free -= 1
            self._waiting.popleft().set()


_here: Final[anyio.lowlevel.RunVar[_Places]] = anyio.lowlevel.RunVar("sansio_cache_places")


def _places() -> _Places:
    try:
        return _here.get()
    except LookupError:
        places = _Places()
        _here.set(places)
        return places


class _Place:
    """The place of one loader."""

    def __init__(self, places: _Places) -> None:
        self.places = places
        self._is_held = True
        self._borrowers = 0

    def lend(self) -> None:
        """The loader waits for the cache. It may do so in several tasks at once."""
        self._borrowers += 1
        if self._borrowers == 1 and self._is_held:
            self.places.give()

    def take_back(self) -> None:
        """It waits no more."""
        self._borrowers -= 1
        if not self._borrowers and self._is_held:
            self.places.take_at_once()

    def end(self) -> None:
        """Its thread has ended. Once more does no harm."""
        if self._is_held and not self._borrowers:
            self.places.give()
        self._is_held = False


PLACE: Final[ContextVar[_Place | None]] = ContextVar("sansio_cache_place", default=None)
"""The place of the loader that this is called from, where it has a thread."""


class waiting_for_the_cache:  # noqa: N801 - it is used as a function that makes a context manager
    """Lend the place of the loader that waits here, if it is one that has a thread of this loop.

    No generator: `contextlib` sets an attribute of what passes, which an exception may refuse, as one of a
    frozen class does.
    """

    __slots__ = ("_place",)

    def __enter__(self) -> None:
        place = PLACE.get()
        self._place = None if place is None or place.places is not _places() else place
        if self._place is not None:
            self._place.lend()

    def __exit__(self, *_: object) -> None:
        if self._place is not None:
            self._place.take_back()


async def run_on_thread(function: Callable[[], T]) -> T:
    """What a function gives that may block. Given up on, it goes on by itself, and nobody hears of it."""
    if in_place.get():
        return function()
    places, reach = _places(), reach_running_loop()
    await places.take()
    place = _Place(places)
    has_begun = is_given_up = False

    def call() -> list[T] | BaseException:
        nonlocal has_begun
        has_begun = True
        try:
            # In a list: trio takes a function that returns a coroutine for a mistake.
            return [] if is_given_up else [function()]
        except BaseException as error:  # noqa: BLE001 - raised below: anyio sets attributes, which it may refuse
            return error
        finally:
            reach(place.end)

    token = PLACE.set(place)
    try:
        given = await _apart(anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=places.limiter))
    finally:
        PLACE.reset(token)
        is_given_up = True  # it need not begin any more
        if not has_begun:
            place.end()
    if isinstance(given, BaseException):
        try:
            raise given
        finally:
            del given  # its traceback has this frame
    [value] = given
    return value


def _apart(work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """What waits for some work, which goes on where its caller is cancelled."""
    if is_under_trio():
        return work
    task: Any = asyncio.get_running_loop().create_task(work)
    # As asyncio's own `gather` does: nobody is to hear of it where the loop is closed before the thread ends.
    task._log_destroy_pending = False  # noqa: SLF001
    return asyncio.shield(task)
