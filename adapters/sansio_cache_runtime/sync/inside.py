"""Inside: what becomes of a call that finds that its own thread holds the lock of the process.

It is a call of a signal handler or a finaliser, which has struck its thread in the middle of a change. All
threads of all caches wait for the end of the change, which takes microseconds; and one run of the collector
may call many finalisers meanwhile. So such a call asks the store for nothing, waits for nobody, and tells
nobody of anything. What could not be removed is bypassed by the readers of this process from that moment on;
a thread of its own, which holds no lock, has the store told, gives back what was held, and tells who listens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import attrs

from sansio_cache.commands import (
    Compute,
    ComputeMany,
    FreeLock,
    ReleaseLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.coordinator import Coordinator, interrupted, without_store
from sansio_cache.errors import CacheTimeoutError
from sansio_cache.events import Event, FailureKind, SharingTimedOut, StoreFailed
from sansio_cache.glance import Beginning
from sansio_cache.notices import InvalidationFailed, Notice
from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.driver_base import Call

T = TypeVar("T")
_WHY: Final = "others wait for the thread that a signal handler or a finaliser has struck"
_MOST_LEFT: Final = 10_000
"""Of so many calls notices are kept, and leases, until the thread has its turn; of more, the newest."""


@attrs.frozen
class Hooks:
    """What a driver does for such calls.

    Args:
        heed: Has the coordinator take in what was put down, and sees to the store.
        perform: Asks the store.
        note: Counts, and tells who listens.
        start_thread: Starts a thread for a job, with a name; False where there is none to be had.
        compute: Calls the loader of a call.
        end: Undoes what is left of a call.
    """

    heed: Callable[[], object]
    perform: Callable[[StoreCommand], object]
    note: Callable[[Sequence[Notice]], object]
    start_thread: Callable[[Callable[[], object], str], bool]
    compute: Callable[[Compute | ComputeMany, Call], Event]
    end: Callable[[Call], object]


class Inside:
    """Runs such calls for one driver.

    Args:
        coordinator: Knows what could not be removed.
        clock: The driver's.
        hooks: Do the rest.
    """

    def __init__(self, coordinator: Coordinator, clock: Callable[[], float], hooks: Hooks) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._hooks = hooks
        self._notices: deque[Sequence[Notice]] = deque(maxlen=_MOST_LEFT)
        self._releases: deque[StoreCommand] = deque(maxlen=_MOST_LEFT)
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
                self._note_release(step.command)
                step = without_store(step, self._clock())
            notices += step.notices
            raise
        finally:
            if notices:
                self._leave(notices)
            self._hooks.end(call)
        assert step.outcome is not None
        return step.outcome

    def _event(self, command: Any, call: Call) -> Event:
        match command:
            case Compute() | ComputeMany():
                return self._hooks.compute(command, call)
            case ShareLoad():  # nobody could end a load meanwhile
                return SharingTimedOut(command.now_s, command.displaced or 0, command.arrival)
            case Sleep():
                raise CacheTimeoutError(f"this call cannot wait: {_WHY}")
            case _:
                self._note_release(command)
                return StoreFailed(self._clock(), FailureKind.EXHAUSTED, reason=_WHY)

    def _note_release(self, command: Any) -> None:
        """What gives something back may come late: it names what it gives back."""
        if isinstance(command, FreeLock | ReleaseLeases):
            self._releases.append(command)

    def _leave(self, notices: Sequence[Notice]) -> None:
        failed = [key for each in notices if isinstance(each, InvalidationFailed) for key in each.keys]
        if failed:
            self._coordinator.leave_word(failed)
        self._notices.append(notices)
        self._begin()

    def _begin(self) -> None:
        """Have a thread see to it, where none is about to."""
        if self._is_begun:
            return
        has_begun = False
        try:
            self._is_begun = True
            has_begun = self._hooks.start_thread(self._see_to_it, "sansio-cache-telling")
        finally:  # also where an interrupt strikes: the next call tries again
            if not has_begun:
                self._is_begun = False

    def _see_to_it(self) -> None:
        """What the store is to know comes first: who listens may take his time."""
        self._is_begun = False
        self._hooks.heed()
        for command in _taken(self._releases):
            self._hooks.perform(command)
        for notices in _taken(self._notices):
            self._hooks.note(notices)


def _taken(left: deque[T]) -> Iterator[T]:
    """What was left, each once, whoever else takes some of it."""
    with suppress(IndexError):
        while left:
            yield left.popleft()
