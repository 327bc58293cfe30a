"""What a cache has in the event loops that use it: a backend, a driver, and what ends with the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakMethod

import anyio
import attrs

from sansio_cache.errors import CacheClosedError
from sansio_cache.keys import ONE_PART
from sansio_cache_runtime.anyio.background import AsyncioBackground, Background, TrioBackground
from sansio_cache_runtime.anyio.driver import Driver
from sansio_cache_runtime.anyio.loops import is_under_trio, library, running_loop_of
from sansio_cache_runtime.backend import AnyioBackend
from sansio_cache_runtime.process import process_lock

_CLOSE_S: Final = 1.0
_CLOSED: Final = "the cache is closed: make another"


@attrs.define(eq=False)
class Binding:
    """What a cache has in one event loop."""

    library: str | None
    """What `loops.library` names while the loop runs."""
    running_loop: Callable[[], object]
    """Gives the loop while it runs, and another, or a RuntimeError, elsewhere."""
    loop: object
    background: Background
    backend: AnyioBackend
    driver: Driver
    is_closing: bool = False
    """Whether it is the cache that is closed, and not the loop that ends."""

    async def close(self) -> None:
        """Give back what loaders hold, end what runs in the background, and close connections."""
        release = self.driver.held_by_loaders()
        try:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                if release is not None:
                    await self.backend.answer(release)
                await (self.driver.close() if self.is_closing else self.background.end())
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self.backend.aclose()

    def abandon(self) -> None:
        """Close what can be closed without the loop, where that was closed without a word."""
        if self.background.has_left.is_set():
            return
        if self.backend.listener is not None:
            self.backend.listener.close(wait=False)
        self.backend.distrust(ONE_PART)
        getattr(self.backend, "end_threads", bool)()


_of_parents: Final[list[Binding]] = []


class Bindings:
    """What a cache has in all event loops. Safe for threads.

    Args:
        make_backend: Makes the store's backend in the running event loop.
        make_driver: Makes a driver for it: a method of the cache, which is not kept alive for that. What is
            dropped and was never closed lets go of all loops.
    """

    def __init__(
        self,
        make_backend: Callable[[], AnyioBackend],
        make_driver: Callable[[AnyioBackend, Background], Driver],
    ) -> None:
        self._make_backend = make_backend
        self._make_driver = WeakMethod(make_driver)
        self._lock = process_lock()
        self._bindings: dict[object, Binding] = {}
        self._is_closed = False
        self.last: Binding | None = None
        """That of the last call: mostly it is the next one's as well."""

    def bind(self) -> Binding:
        """What the cache has in the running event loop; made with the first call in it.

        Raises:
            CacheClosedError: The cache is closed.
        """
        running_loop = running_loop_of()
        loop = running_loop()
        with self._lock:
            if self._is_closed:
                raise CacheClosedError(_CLOSED)
            binding = self._bindings.get(loop)
            self.last = binding or self.last
        if binding is not None:
            return binding
        self._forget_loops_that_are_over()
        # Outside of the lock: it may load modules, and look at files.
        made = self._make(running_loop, loop)
        with self._lock:
            if not self._is_closed:
                # A handler in this thread may have called the cache meanwhile.
                binding = self.last = self._bindings.setdefault(loop, made)
        if binding is not made:
            made.background.call(made.background.leave)
        if binding is None:
            raise CacheClosedError(_CLOSED)
        return binding

    @property
    def drivers(self) -> list[Driver]:
        """Those of all loops."""
        return [binding.driver for binding in list(self._bindings.values())]

    def begin_in_child(self) -> None:
        """Begin anew in a forked process: the loops are the parent's, and so are their connections."""
        self._lock = process_lock()
        # Kept, and never ended: what a loop watches is one list of the system's for parent and child.
        _of_parents.extend(self._bindings.values())
        self._bindings = {}
        self.last = None

    def _make(self, running_loop: Callable[[], object], loop: object) -> Binding:
        # anyio loads what it has for a library when it is first asked for something of it. That takes longer
        # than a call may, and would first be needed by whoever meets an outage.
        anyio.get_cancelled_exc_class()
        background: Background = TrioBackground() if is_under_trio() else AsyncioBackground()
        backend = self._make_backend()
        make_driver = self._make_driver()
        assert make_driver is not None, "the cache is being called"
        driver = make_driver(backend, background)
        binding = Binding(library.name, running_loop, loop, background, backend, driver)
        background.guard(binding.close)
        return binding

    def _forget_loops_that_are_over(self) -> None:
        for loop, binding in list(self._bindings.items()):
            if binding.background.is_over() and self._bindings.pop(loop, None) is not None:
                binding.abandon()

    def drop(self) -> int:
        """Have all loops close what they have of a cache that nobody has any more: how many connections."""
        count = 0
        for binding in list(self._bindings.values()):
            count += binding.driver.open_connections
            if binding.background.is_over():
                binding.abandon()
            else:
                binding.background.call(binding.background.leave)
        return count

    async def close(self) -> None:
        """Close what there is in the running loop; other loops close theirs by themselves, soon."""
        with self._lock:
            self._is_closed = True
            bindings, self._bindings = self._bindings, {}
            self.last = None
        for loop, binding in bindings.items():
            if binding.background.is_over():
                binding.abandon()
            else:
                await self._end(binding, is_here=loop is running_loop_of()())

    async def leave(self) -> None:
        """Close what there is in the running loop. The next call in it makes another."""
        with self._lock:
            binding = self._bindings.pop(running_loop_of()(), None)
            self.last = None
        if binding is not None:
            await self._end(binding, is_here=True)

    async def _end(self, binding: Binding, *, is_here: bool) -> None:
        binding.is_closing = True
        binding.background.call(binding.background.leave)
        if is_here:
            with anyio.CancelScope(shield=True):
                await binding.background.has_left.wait(2 * _CLOSE_S)
