"""What the drivers of both colours share: all that is neither I/O, nor waiting, nor cancellation.

The coordinator decides, and is called under a lock here; the recorder counts and tells. What follows from
that for the process is done here, without waiting: followers are woken, work in the background is started, a
connection that is not to be trusted is closed.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct

from sansio_cache.budget import StoreTimeouts
from sansio_cache.changes import Distrusted, Suspected, Trusted
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    Compute,
    ComputeMany,
    Lease,
    ReleaseLeases,
    Renewal,
    ShareLoad,
    Sleep,
)
from sansio_cache.coordinator import Coordinator, without_store
from sansio_cache.errors import CacheClosedError
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    Interrupted,
    ShareAnswer,
    SharingTimedOut,
    StoreEvent,
    Woke,
)
from sansio_cache.glance import Glance, GlanceMany
from sansio_cache.keys import ONE_PART
from sansio_cache.notices import Notice, RefreshSkipped, SkipReason, StoreGaveUp
from sansio_cache.signals import ask_for_handlers, let_through
from sansio_cache.single_flight import Following, Ticket
from sansio_cache.step import Outcome, Raised, Step
from sansio_cache_runtime.backend import Listener
from sansio_cache_runtime.blocks import block
from sansio_cache_runtime.crowd import Crowds
from sansio_cache_runtime.handlers import handlers
from sansio_cache_runtime.lease_renewer_base import LeaseRenewerBase
from sansio_cache_runtime.loaders import (
    Running,
    bound,
    keys_around,
    mark,
    own_copy,
    refuse_recursion,
)
from sansio_cache_runtime.observed import Observed
from sansio_cache_runtime.outside_names import OutsideNames, outside_names
from sansio_cache_runtime.process import asking_inside, process_lock
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.recovers import Recovers
from sansio_cache_runtime.shared_errors import SharedError
from sansio_cache_runtime.spans import Span, begin_span
from sansio_cache_runtime.watching import Watch

ask_for_handlers(handlers)

PERFORMED: Final = frozenset({Compute, ComputeMany, ShareLoad, Sleep, AcquireLeases})
"""The commands that are not just for the backend. A set: `isinstance` of all that are takes 5 % of a miss."""


class Ending(Protocol):
    """What followers of a load wait for: an event of threads, or of an event loop."""

    def set(self) -> object:
        """The load has ended."""
        ...

    def is_set(self) -> bool:
        """Whether it has."""
        ...


class Busy(Protocol):
    """What runs refreshes."""

    @property
    def running(self) -> int:
        """How many are under way."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait for a thread."""
        ...


class ConnectedBackend(Protocol):
    """A backend of either colour, as far as it matters here."""

    @property
    def listener(self) -> Listener | None:
        """Tells waiters of changes; None where they have to look for themselves."""
        ...

    def suspect(self, part: str) -> None:
        """Set the connections to a part of the store aside."""
        ...

    def trust(self, part: str) -> None:
        """Use them again."""
        ...

    def distrust(self, part: str) -> None:
        """Close the connections to a part of the store."""
        ...


E = TypeVar("E", bound=Ending)
B = TypeVar("B", bound=ConnectedBackend)


class _ReboundError(Exception):
    """A loader is not to be called: what it names is not what its reader meant."""


class Call(Struct, eq=False):
    """One operation that does more than ask the store: its loader, and what is to be undone at its end."""

    loader: Callable[..., Any] | None = None
    ticket: Ticket | None = None
    watch: Watch | None = None
    change: Any = None
    """What it waits for while it watches."""
    ending: Any = None
    """What it waits for while it follows."""
    is_circle: bool = False
    """Whether who it would wait for waits for a loader that it is in."""
    running: Running | None = None
    """Its loader's latest run."""
    outside: OutsideNames | None = None
    """What its loader named when it was handed over, in a refresh; else None."""
    cause_id: int = 0
    """Of a refresh: the number of the operation that has begun it, where that was followed."""
    span: Span | None = None
    """As what it is followed, where somebody follows operations."""

    def wake(self) -> None:
        """Something that it watches has changed."""
        self.change.set()


class DriverBase(Recovers, Generic[E, B]):
    """The state of a driver, and what it does at once.

    Args:
        backend: Answers store commands.
        coordinator: Decides what operations have to do with each other.
        recorder: Takes the notices in.
        timeouts: How long a recovery's commands may take.
        clock: Monotonic, in seconds.
        make_event: Makes what is waited for.
        who: The number of the thread that runs, where it may find itself interrupted by a call; else 0.
        endings: What followers wait for, where the cache's drivers, one for each event loop, share it.
    """

    def __init__(
        self,
        backend: B,
        coordinator: Coordinator,
        recorder: Recorder,
        timeouts: StoreTimeouts,
        clock: Callable[[], float],
        make_event: Callable[[], E],
        who: Callable[[], int],
        endings: dict[int, E] | None = None,
    ) -> None:
        self._backend = backend
        self._coordinator = coordinator
        self._recorder = recorder
        self._timeouts = timeouts
        self._clock = clock
        self._make_event = make_event
        self._who = who
        self._is_closed = False
        self._closing = make_event()
        self._random = int.from_bytes(os.urandom(8))
        self._lock = process_lock()
        self._is_inside = asking_inside(self._lock)
        self._unheeded: deque[Sequence[Notice]] = deque()
        self._endings: dict[int, E] = {} if endings is None else endings
        self._held: dict[object, tuple[Lease, ...]] = {}
        """The leases of loaders that run."""
        self._leaders: dict[Ticket, int] = {}
        """By the tickets of loads that are led, which thread does."""
        self._watches: set[Watch] = set()
        tell_openings = getattr(backend, "tell_openings", None)
        if tell_openings is not None:
            tell_openings(self._opened)
            coordinator.is_watchful = True
        self.crowds = Crowds(lambda: self._make_event())
        self._lease_renewer: LeaseRenewerBase
        self._busy: Busy

    def observe(self) -> None:
        """Have commands told of, or not any more, as somebody wants to be told of them."""
        backend: Any = self._backend
        if self._recorder.subscribers.wants_commands == isinstance(backend, Observed):
            return
        if isinstance(backend, Observed):
            self._backend = backend.beneath
        else:
            backend = Observed(backend, self._recorder.subscribers, self._clock)
            self._backend = backend

    def _note(self, notices: Sequence[Notice]) -> None:
        """Take in what an operation states: count it, heed it, and see to the store if it needs that."""
        coordinator = self._coordinator
        if notices and (
            (self._recorder.note(notices) and coordinator.concerns(notices)) or coordinator.needs_recovery
        ):
            self._heed(notices)

    def _heed(self, notices: Sequence[Notice]) -> None:
        """Let the coordinator take notices in, and see to the store if it needs that. Twice does no harm."""
        if self._is_inside():
            # A handler or a finaliser, in the middle of something: whoever comes out of it will see to this.
            self._unheeded.append(notices)
            self._coordinator.expect_notices()
            return
        with self._lock:
            changes = self._coordinator.heed(notices, self._clock())
            while self._unheeded:
                changes += self._coordinator.heed(self._unheeded[0], self._clock())
                self._unheeded.popleft()  # last: an interrupt must not lose them
        for change in changes:
            self._recorder.log(change)
            match change:
                case Suspected(part=part):
                    self._backend.suspect(part)
                case Trusted(part=part):
                    self._backend.trust(part)
                case Distrusted(part=part):
                    self._backend.distrust(part)
                case _:
                    pass
        if self._coordinator.needs_recovery:
            self._recover_soon()
        if self._coordinator.must_watch:
            self._watch_soon()

    def _heed_again(self, step: Step) -> None:
        """Heed the last notices of an operation that was ended, maybe as they were being taken in.

        But for an outage: it may be over since.
        """
        lasting = [notice for notice in step.notices if not isinstance(notice, StoreGaveUp)]
        if lasting:
            self._heed(lasting)

    def _bound_loader(self, command: Compute | ComputeMany, call: Call) -> Callable[[], Any]:
        """The loader of a call, with what it is to be told. A refresh must be as its reader meant it."""
        if call.outside is not None and self._is_rebound(call.outside):
            raise _ReboundError
        assert call.loader is not None
        return bound(call.loader, command)

    def _computed(self, value: Any, call: Call) -> Computed | Interrupted:
        """What a loader's value comes to. In a refresh, it may have looked late at what it names."""
        if call.outside is not None and self._is_rebound(call.outside):
            return Interrupted(self._clock())
        return Computed(self._clock(), value)

    def _compute_failed(self, error: Exception, handled: BaseException | None) -> ComputeFailed | Interrupted:
        """What a loader has raised is its callers'; but what a signal handler has raised in it is its own.

        `handled` is what the loader's caller was handling meanwhile, if anything.
        """
        if isinstance(error, _ReboundError):
            return Interrupted(self._clock())
        let_through(error)
        return ComputeFailed(self._clock(), error, SharedError.of(error, handled))

    def _is_rebound(self, outside: OutsideNames) -> bool:
        """Whether a refresh is to be skipped, as its loader names something else by now (S14)."""
        name = outside.rebound()
        if name is None:
            return False
        self._note((RefreshSkipped(outside.key, SkipReason.REBOUND, name),))
        return True

    def _glanced(self, glance: Glance | GlanceMany, read: StoreEvent) -> Outcome | Step:
        """What a read comes to at the first look; where it takes more, its machine gets the same event."""
        outcome = glance.at(read)
        if outcome is None:
            return glance.first_step().state.receive(read)
        self._recorder.glanced(glance, read.now_s)
        return outcome

    def _observe(self, step: Step) -> None:
        """Take in how far an operation is, before its command is performed."""
        with self._lock:
            ended = self._coordinator.observe(step)
        if ended is not None and ended in self._endings:
            self._wake(ended)

    def _join(self, command: ShareLoad, call: Call) -> ShareAnswer | Following:
        """Lead a load, or follow one: then the caller waits for the `ending` of its call, and leaves.

        A handler or a finaliser must not wait for the thread that it has interrupted: it has waited too long
        as soon as it would begin to, and goes on alone.
        """
        inside = keys_around()
        if inside:
            refuse_recursion(self._coordinator, command.key)
        if self._is_inside():  # then nobody could end a load meanwhile
            return SharingTimedOut(command.now_s, command.displaced or 0, command.arrival)
        coordinator, who = self._coordinator, self._who()
        ticket = call.ticket = call.ticket or coordinator.ticket()
        with self._lock:
            if command.displaced is not None and self._leads(who, command.displaced):
                return SharingTimedOut(command.now_s, command.displaced, command.arrival)
            answer = coordinator.share(ticket, command, inside)
            if not isinstance(answer, Following):
                self._leaders[ticket] = who
            elif self._leads(who, answer.load_id):
                return coordinator.leave(ticket, answer, command.now_s)
            else:
                call.ending = self._endings.setdefault(answer.load_id, self._make_event())
        return answer

    def _running(self, command: Compute | ComputeMany) -> Running:
        """A loader that is to be run: to be begun, and to be ended however it ends.

        Raises:
            RecursiveLoadError: It would be called from inside a loader of one of its keys.
        """
        if isinstance(command, ComputeMany):
            # A batch without the store has not asked for leases.
            refuse_recursion(self._coordinator, *command.keys)
            keys = frozenset(command.keys)
        else:
            keys = frozenset((command.key, command.name))
        return Running(self._coordinator, keys, command.renewal)

    def _begin(self, running: Running) -> None:
        """Mark the keys as being loaded, and keep the leases."""
        if running.renewal is not None:
            self._held[running] = running.renewal.leases
        mark(running)
        self._lease_renewer.keep(running)

    def _end_running(self, running: Running) -> None:
        """It is over, as `is_over` says already, should an interrupt strike before this begins."""
        self._held.pop(running, None)
        self._lease_renewer.end(running)
        running.owner = None  # its context holds the mark

    @block
    def renewing(self, renewal: Renewal | None) -> Generator[None]:
        """Renew leases while the block runs."""
        running = Running(renewal=renewal)
        try:
            self._lease_renewer.keep(running)
            yield
        finally:
            running.is_over = True
            self._lease_renewer.end(running)

    @property
    def open_connections(self) -> int:
        """How many connections to the store are open, where the backend says so."""
        return int(getattr(self._backend, "open_connections", 0))

    @property
    def parts(self) -> Iterable[str]:
        """The parts of the store that its backend knows of."""
        return tuple(getattr(self._backend, "parts", (ONE_PART,)))

    @property
    def refresh_counts(self) -> tuple[int, int]:
        """How many refreshes in the background are under way, and how many wait for a thread."""
        return self._busy.running, self._busy.waiting

    def held_by_loaders(self) -> ReleaseLeases | None:
        """What gives back the leases of loaders that run, as the cache is closed; None where there are none.

        What such a loader gives is its caller's; stored it will not be, so others had better not wait for it.
        """
        if self._is_inside():  # all others would wait for that
            return None
        leases = tuple(lease for each in list(self._held.values()) for lease in each)
        self._held.clear()
        return ReleaseLeases(leases, self._timeouts.operation_s) if leases else None

    def _leads(self, who: int, load_id: int) -> bool:
        """Whether a load is led by this very thread."""
        leader = self._coordinator.single_flight.leader(load_id)
        return leader is not None and self._leaders.get(leader, 0) == who != 0

    def _leave(self, following: Following, call: Call) -> ShareAnswer:
        """End following: what came of it."""
        assert call.ticket is not None
        with self._lock:
            event = self._coordinator.leave(call.ticket, following, self._clock())
        if call.ending.is_set():
            # All who follow are told. An interrupt may have kept the leader from striking it out.
            self._endings.pop(following.load_id, None)
        return own_copy(event, following.arrival)

    def _watch(self, command: Sleep, call: Call, wake: Callable[[], object]) -> float:
        """Watch the keys of a sleep: how long to wait for the `change` of the call; 0 for not at all."""
        if call.watch is None:
            call.change = self._make_event()
            call.watch = Watch(self._backend.listener, wake)
            self._watches.add(call.watch)
        longest_s = call.watch.longest_s(command)
        inside = keys_around()
        if longest_s and inside:
            assert command.watch is not None
            call.ticket = call.ticket or self._coordinator.ticket()
            with self._lock:
                call.is_circle = not self._coordinator.sleep(call.ticket, command.watch.keys, inside)
        return 0.0 if call.is_circle else longest_s

    def _woke(self, call: Call) -> Woke:
        """A sleep is over.

        Raises:
            CacheClosedError: The cache was closed meanwhile.
        """
        if self._is_closed:
            raise CacheClosedError("the cache was closed while an operation was waiting")
        is_circle, call.is_circle = call.is_circle, False
        if call.ticket is not None:
            self._coordinator.wake(call.ticket)
        return Woke(self._clock(), is_circle)

    def _begin_closing(self) -> None:
        """Refuse calls from now on, and end the sleep of those that are under way."""
        self._is_closed = True
        self._closing.set()
        self.crowds.end()
        for watch in list(self._watches):
            watch.wake()

    def _give_up(self, ticket: Ticket) -> None:
        """Undo what a ticket began, if there is something left of it."""
        with self._lock:
            ended = self._coordinator.give_up(ticket)
        if ended is not None:
            self._wake(ended)
        if self._unheeded:
            self._heed(())

    def _wake(self, load_id: int) -> None:
        """Wake those who follow a load that has ended."""
        ending = self._endings.get(load_id)
        if ending is not None:
            ending.set()
            self._endings.pop(load_id, None)  # last: an interrupt must not lose it before it is set

    def _end(self, call: Call) -> None:
        """Undo what is left of a call, however it ended. Once more does no harm."""
        if call.running is not None:
            self._held.pop(call.running, None)
        if call.ticket is not None:
            self._give_up(call.ticket)
            self._leaders.pop(call.ticket, None)
        if call.watch is not None:
            self._watches.discard(call.watch)
            call.watch.stop()
        if call.span is not None:
            call.span.abandon()

    def _follow(self, step: Step, loader: Callable[..., Any] | None, call: Call | None) -> Call | None:
        """Tell that an operation begins, as somebody follows operations; its end is told with its call's."""
        if call is not None and call.span is not None:
            return call  # the end of a mutation
        subscribers, cause_id = self._recorder.subscribers, 0 if call is None else call.cause_id
        span = begin_span(subscribers, step, self._coordinator.part_of, self._clock, cause_id)
        if span is not None:
            call = call or Call(loader, None)
            call.span = span
        return call

    def _spawn(self, steps: Sequence[Step], loader: Callable[..., Any] | None, by: Call | None) -> None:
        """Run operations in the background, but for those that somebody here runs already."""
        for step in steps:
            command = step.command
            assert isinstance(command, ShareLoad)
            if self._is_inside():
                self._note((RefreshSkipped(command.key),))
                continue
            ticket = self._coordinator.ticket()
            try:
                with self._lock:
                    begun = self._coordinator.begin(ticket, step, self._clock())
                if begun is None:
                    continue
                assert loader is not None
                cause_id = 0 if by is None or by.span is None else by.span.began.id
                outside = outside_names(command.key, loader)
                call = Call(loader, ticket, outside=outside, cause_id=cause_id)
                if not self._submit(begun, call):
                    self._give_up(ticket)  # or nobody here would ever refresh the key again
                    self._note((RefreshSkipped(command.key),))
            except BaseException:
                self._give_up(ticket)
                raise

    def _go_on_without_store(self, step: Step) -> None:
        """Bring an interrupted operation to its end at once: what could not be removed is pending."""
        while step.command is not None:
            step = without_store(step, self._clock())
            self._note(step.notices)

    def _refreshed(self, step: Step, outcome: Outcome) -> None:
        """Log what a refresh has met, which began with this step."""
        if isinstance(outcome, Raised) and isinstance(step.command, AcquireLease):
            self._recorder.refresh_failed(step.command.key, outcome.error, self._clock())

    @abstractmethod
    def _submit(self, step: Step, call: Call) -> bool:
        """Have a refresh run in the background, which ends its call; False where there is no room."""
