"""What a driver does for the store in the background: recovery, and a look whether it is still the same.

What is due is decided by the coordinator; here it is started, where somebody is there to run it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from sansio_cache.budget import StoreTimeouts
from sansio_cache.changes import StoreReplaced
from sansio_cache.commands import AcquireLeases, Sleep, StoreCommand
from sansio_cache.coordinator import Coordinator
from sansio_cache.notices import StoreChanged
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Ticket
from sansio_cache.step import Outcome, Step
from sansio_cache_runtime.loaders import is_inside_callback
from sansio_cache_runtime.recorder import Recorder


class Recovers(ABC):
    """Has recoveries run, for a driver of either colour."""

    _coordinator: Coordinator
    _recorder: Recorder
    _timeouts: StoreTimeouts
    _clock: Callable[[], float]
    _lock: threading.RLock
    _is_inside: Callable[[], bool]
    _is_closed: bool
    _random: int

    def _watch_soon(self) -> None:
        """Look now and then whether the store is the one that was written to, unless somebody does."""
        coordinator = self._coordinator
        self._begin_soon(lambda ticket: coordinator.begin_watch(ticket, self._timeouts, self._clock()))

    def _opened(self, part: str, is_another: bool) -> None:
        """A connection to a part of the store has opened, which another store may answer for by now."""
        if not (is_another or self._coordinator.needs_recovery) or self._is_closed:
            return
        with self._lock:
            changes = self._coordinator.opened(part, self._clock(), is_another=is_another)
        for change in changes:
            self._recorder.log(change)
            if isinstance(change, StoreReplaced):
                self._recorder.note((StoreChanged(part, change.told),))
        if self._coordinator.needs_recovery:
            self._recover_soon()

    def _recover_soon(self) -> None:
        """See to a part of the store that needs it, unless somebody does."""
        begin = self._coordinator.begin_recovery
        self._begin_soon(lambda ticket: begin(ticket, self._timeouts, self._clock(), self._seed()))

    def _begin_soon(self, begin: Callable[[Ticket], Recovery | None]) -> None:
        """Have what begins, if anything does, run in the background."""
        ticket = self._coordinator.ticket()
        try:
            with self._lock:
                recovery = begin(ticket)
            if recovery is not None and (self._is_closed or not self._start_recovery(recovery)):
                self._give_up(ticket)  # the next notice, or write, tries again
        except BaseException:
            self._give_up(ticket)
            raise

    def _next_recovery(self, recovery: Recovery, outcome: Outcome) -> Recovery | None:
        """What is to be run after a recovery; None where the part has recovered."""
        with self._lock:
            return self._coordinator.next_recovery(recovery, outcome, self._timeouts, self._clock())

    def _neglected(self, step: Step) -> Iterator[Recovery]:
        """What the caller who has come to this step is to do for the store by itself; mostly nothing.

        That is before anything else, or after it, and not inside a loader, a subscriber or a handler: others
        wait for these. Where an interrupt ends the loop over this, the ticket is given up.
        """
        command = step.command
        has_begun = isinstance(command, StoreCommand | Sleep) and not isinstance(command, AcquireLeases)
        has_begun = has_begun or getattr(command, "renewal", None) is not None
        if has_begun or not self._coordinator.needs_recovery or self._is_closed:
            return
        if is_inside_callback() or self._is_inside():
            return
        ticket = self._coordinator.ticket()
        try:
            with self._lock:
                now_s = self._clock()
                recovery = self._coordinator.begin_neglected(ticket, self._timeouts, now_s, self._seed())
            if recovery is not None:
                yield recovery
        except BaseException:  # GeneratorExit, where the loop over this is left
            self._give_up(ticket)
            raise

    def last_recoveries(self) -> Sequence[Recovery]:
        """What the store is to be told before the end; nothing where a handler closes the cache."""
        if not self._coordinator.pending_invalidations or self._is_inside():
            return ()
        with self._lock:
            self._coordinator.heed((), self._clock())  # what handlers and finalisers have put down
            return self._coordinator.begin_last(self._timeouts, self._clock())

    def _seed(self) -> int:
        """A number that no two processes share, by which their pauses differ."""
        return self._random + os.getpid()

    @abstractmethod
    def _give_up(self, ticket: Ticket) -> None:
        """Undo what a ticket began, if there is something left of it."""

    @abstractmethod
    def _start_recovery(self, recovery: Recovery) -> bool:
        """Have a recovery run in the background, which gives its ticket up; False where it is not started."""
