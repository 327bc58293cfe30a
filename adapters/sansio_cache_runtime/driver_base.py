"""What the drivers of both colours share: all that is neither I/O, nor waiting, nor cancellation.

The coordinator decides, and is called under a lock here; the recorder counts and tells. What follows from
that for the process is done here, without waiting: followers are woken, work in the background is started, a
connection that is not to be trusted is closed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from sansio_cache.budget import StoreTimeouts
from sansio_cache.commands import ShareLoad
from sansio_cache.coordinator import Coordinator, Distrusted, Recovery
from sansio_cache.notices import Notice, RefreshSkipped
from sansio_cache.single_flight import Ticket
from sansio_cache.step import Step
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.watching import Watch


class Ending(Protocol):
    """What followers of a load wait for: an event of threads, or of an event loop."""

    def set(self) -> object:
        """The load has ended."""
        ...


class Distrusting(Protocol):
    """A backend of either colour, as far as it matters here."""

    def distrust(self, part: str) -> None:
        """Close the connections to a part of the store."""
        ...


E = TypeVar("E", bound=Ending)


class Call(Generic[E]):
    """One operation that does more than ask the store: its loader, and what is to be undone at its end."""

    __slots__ = ("change", "loader", "ticket", "watch")

    def __init__(self, loader: Callable[..., Any] | None, ticket: Ticket | None) -> None:
        self.loader = loader
        self.ticket = ticket
        self.watch: Watch | None = None
        self.change: E
        """What it waits for while it watches."""

    def wake(self) -> None:
        """Something that it watches has changed."""
        self.change.set()


class DriverBase(ABC, Generic[E]):
    """The state of a driver, and what it does at once.

    Args:
        backend: Answers store commands.
        coordinator: Decides what operations have to do with each other.
        recorder: Takes the notices in.
        timeouts: How long a recovery's commands may take.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        backend: Distrusting,
        coordinator: Coordinator,
        recorder: Recorder,
        timeouts: StoreTimeouts,
        clock: Callable[[], float],
    ) -> None:
        self._connected = backend
        self._coordinator = coordinator
        self._recorder = recorder
        self._timeouts = timeouts
        self._clock = clock
        self._lock = threading.Lock()
        self._endings: dict[int, E] = {}
        self._watches: set[Watch] = set()

    def _note(self, notices: Sequence[Notice]) -> None:
        """Take in what an operation states."""
        if (
            notices
            and self._recorder.note(notices)
            and (self._coordinator.concerns(notices) or self._coordinator.needs_recovery)
        ):
            self._heed(notices)

    def _heed(self, notices: Sequence[Notice]) -> None:
        """Act on what an operation states: what the coordinator makes of it, and what the store needs."""
        with self._lock:
            changes = self._coordinator.heed(notices, self._clock())
        for change in changes:
            self._recorder.log(change)
            if isinstance(change, Distrusted):
                self._connected.distrust(change.part)
        if self._coordinator.needs_recovery:
            self._recover_soon()

    def _give_up(self, ticket: Ticket) -> None:
        """Undo what a ticket began, if there is something left of it."""
        with self._lock:
            ended = self._coordinator.give_up(ticket)
        if ended is not None:
            self._wake(ended)

    def _wake(self, load_id: int | None) -> None:
        """Wake those who follow a load that has ended: first that, so that an interrupt loses no wake."""
        ending = None if load_id is None else self._endings.get(load_id)
        if load_id is not None and ending is not None:
            ending.set()
            self._endings.pop(load_id, None)

    def _end(self, call: Call[E]) -> None:
        """Undo what is left of a call, however it ended."""
        if call.ticket is not None:
            self._give_up(call.ticket)
        if call.watch is not None:
            self._watches.discard(call.watch)
            call.watch.stop()

    def _spawn(self, steps: Sequence[Step], loader: Callable[..., Any] | None) -> None:
        """Run operations in the background, but for those that somebody here runs already."""
        for step in steps:
            command = step.command
            assert isinstance(command, ShareLoad)
            ticket = self._coordinator.ticket()
            is_taken = False
            try:
                with self._lock:
                    begun = self._coordinator.begin(ticket, step, self._clock())
                if begun is not None:
                    is_taken = self._submit(begun, loader, ticket)
                    if not is_taken:
                        self._note((RefreshSkipped(command.key),))
            finally:
                if not is_taken:  # or nobody here would ever refresh the key again
                    self._give_up(ticket)

    def _recover_soon(self) -> None:
        """See to a part of the store that needs it, unless somebody does."""
        ticket = self._coordinator.ticket()
        is_started = False
        try:
            with self._lock:
                recovery = self._coordinator.begin_recovery(ticket, self._timeouts)
            if recovery is not None:
                is_started = self._start_recovery(recovery, ticket)
        finally:
            if not is_started:  # the next notice tries again
                self._give_up(ticket)

    @abstractmethod
    def _submit(self, step: Step, loader: Callable[..., Any] | None, ticket: Ticket) -> bool:
        """Have a refresh run in the background, which gives its ticket up; False where there is no room."""

    @abstractmethod
    def _start_recovery(self, recovery: Recovery, ticket: Ticket) -> bool:
        """Have a recovery run in the background, which gives its ticket up; False where it is not started."""
