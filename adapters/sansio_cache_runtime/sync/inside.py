"""Inside: what becomes of a call that finds that its own thread holds the lock of the process.

It is a call of a signal handler or a finaliser, which has struck its thread in the middle of a change. All
threads of all caches wait for the end of the change, which takes microseconds; and one run of the collector
may call many finalisers meanwhile. So such a call asks the store for nothing, waits for nobody, and tells
nobody of anything. What could not be removed is bypassed by the readers of this process from that moment on,
and a thread of its own, which holds no lock, takes in what was left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sansio_cache.commands import Compute, ComputeMany, ShareLoad, Sleep
from sansio_cache.coordinator import Coordinator, interrupted, without_store
from sansio_cache.errors import CacheTimeoutError
from sansio_cache.events import Event, FailureKind, SharingTimedOut, StoreFailed
from sansio_cache.glance import Beginning
from sansio_cache.notices import Notice
from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.driver_base import Call
from sansio_cache_runtime.process import process_lock

_WHY = "others wait for the thread that a signal handler or a finaliser has struck"


class Inside:
    """Runs such calls for one driver.

    Args:
        coordinator: Keeps what they leave.
        clock: The driver's.
        note: Takes notices in, where no lock is held.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
        compute: Calls the loader of a call.
        end: Undoes what is left of a call.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        clock: Callable[[], float],
        note: Callable[[Sequence[Notice]], object],
        start_thread: Callable[[Callable[[], object], str], bool],
        compute: Callable[[Compute | ComputeMany, Call], Event],
        end: Callable[[Call], object],
    ) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._note = note
        self._start_thread = start_thread
        self._compute = compute
        self._end = end
        self._telling = threading.Lock()
        self._is_begun = False

    def run(self, beginning: Beginning, loader: Callable[..., Any] | None, call: Call | None) -> Outcome:
        """Run an operation to its end.

        Args:
            beginning: What it begins with.
            loader: The caller's, for whom everybody waits.
            call: Under whose ticket the operation was begun, where it was.

        Raises:
            CacheTimeoutError: It would have to wait for others, who wait for it.
        """
        call = call or Call(loader, None)
        step = beginning if isinstance(beginning, Step) else beginning.first_step()
        notices: list[Notice] = []
        try:
            while True:
                notices += step.notices
                if step.command is None:
                    break
                step = step.state.receive(self._event(step.command, call))
        except BaseException:
            step = interrupted(step, self._clock())
            while step.command is not None:
                notices += step.notices
                step = without_store(step, self._clock())
            notices += step.notices
            raise
        finally:
            if notices:
                self._leave(notices)
            self._end(call)
        assert step.outcome is not None
        return step.outcome

    def _event(self, command: Any, call: Call) -> Event:
        match command:
            case Compute() | ComputeMany():
                return self._compute(command, call)
            case ShareLoad():  # nobody could end a load meanwhile
                return SharingTimedOut(command.now_s, command.displaced or 0, command.arrival)
            case Sleep():
                raise CacheTimeoutError(f"this call cannot wait: {_WHY}")
            case _:
                return StoreFailed(self._clock(), FailureKind.EXHAUSTED, reason=_WHY)

    def _leave(self, notices: Sequence[Notice]) -> None:
        """Leave word, and have a thread take it in, where none is about to."""
        self._coordinator.leave_word(notices)
        if not self._is_begun:
            self._is_begun = True
            self._is_begun = self._start_thread(self._tell_soon, "sansio-cache-telling")

    def _tell_soon(self) -> None:
        self._is_begun = False
        self.tell()

    def tell(self) -> None:
        """Take in what such calls have left. Whoever comes while somebody does leaves it to him."""
        coordinator = self._coordinator
        while coordinator.untold and self._telling.acquire(blocking=False):
            try:
                while coordinator.untold:
                    self._note(coordinator.untold[0].notices)
                    with process_lock():
                        coordinator.told()
            finally:
                self._telling.release()
