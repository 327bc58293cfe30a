"""Participants that are threads, of which exactly one is awake.

A thread runs until it comes to a point where others may go on: a command of a cache, an access of the
database, a sleep of the world's. There it parks, and the scheduler, which is the thread that runs the world,
lets one of those go on that can. So what happens between two points is never interrupted, and a run is
decided by the choices alone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from math import inf
from typing import Any, Final

from sansio_cache_testing.scheduling import DeadlockError, Recording, WorldError, told
from sansio_cache_testing.steps import is_of_the_program, place_of_caller

STUCK_S: Final = 30.0
"""So long, in real time, may a thread run before it comes to a point. It decides nothing but an error."""
_TWO_THREADS: Final = (
    "threads use the world at once that it has not started: start them with world.start(function) in a "
    "scenario of check_interleavings"
)
LOOKS: Final = 30
"""How often it is looked meanwhile whether it has."""


class _AbandonedError(BaseException):
    """The run is over: a participant is to unwind."""


class Participant:
    """One thread of a program.

    Args:
        name: What it is called in diagrams.
        job: What it does.
        is_waited_for: Whether the run goes on until it has ended.
    """

    def __init__(self, name: str, job: Callable[[], Any], *, is_waited_for: bool) -> None:
        self.name = name
        self.is_waited_for = is_waited_for
        self.is_over = False
        self.is_abandoned = False
        self.error: BaseException | None = None
        self.awaits = "has not begun"
        self.is_asleep = False
        """Whether it sleeps in the program's own words, and not as a part of what it waits for."""
        self.is_ready: Callable[[], bool] = _always
        self.until_s = inf
        self.wish: tuple[int, bool] | None = None
        """What it wants to have chosen: how many options there are, and whether they are free."""
        self.choice = 0
        self.baton = threading.Lock()
        self.baton.acquire()
        context = copy_context()
        self._job = job
        self.thread = threading.Thread(target=context.run, args=(self._run,), name=name, daemon=True)

    def _run(self) -> None:
        scheduler = _mine.scheduler = self.scheduler
        _mine.participant = self
        try:
            self.baton.acquire()
            if not self.is_abandoned:
                self._job()
        except _AbandonedError:
            pass
        except BaseException as error:  # noqa: BLE001 - told where the run ends
            self.error = error
        finally:
            self.is_over = True
            if not self.is_abandoned:  # else nobody waits for its turn to end
                scheduler.turn.release()

    scheduler: ThreadScheduler


class _Mine(threading.local):
    participant: Participant | None = None
    scheduler: Any = None


_mine: Final = _Mine()


def _always() -> bool:
    return True


class WorldEvent:
    """Like an event of threads, in a world."""

    def __init__(self, scheduler: ThreadScheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Let all who wait go on."""
        self._is_set = True

    def clear(self) -> None:
        """Let who comes now wait."""
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, or for so many seconds of the world."""
        self._scheduler.wait(self.is_set, timeout_s, "waits for another's load")
        return self._is_set


class ThreadScheduler(Recording):
    """Runs participants, one at a time."""

    def __init__(self, chooser: Any, seed: int) -> None:
        super().__init__(chooser, seed)
        self.participants: list[Participant] = []
        self.turn = threading.Semaphore(0)
        self._current: Participant | None = None
        self._stuck: Participant | None = None
        self._at_rest = threading.Lock()
        """Held by whoever lets one go on, or ends one, while nobody runs the world."""

    @property
    def who(self) -> str:
        """Who runs."""
        participant = _mine.participant
        return participant.name if participant is not None and _mine.scheduler is self else "set-up"

    @property
    def is_participant(self) -> bool:
        """Whether a function of the program is what runs."""
        return _mine.participant is not None and _mine.scheduler is self

    def start(self, name: str, job: Callable[[], Any], *, is_waited_for: bool = True) -> Participant:
        """Add a participant; it begins when it is its turn."""
        participant = Participant(name, job, is_waited_for=is_waited_for)
        participant.scheduler = self
        self.participants.append(participant)
        participant.thread.start()
        return participant

    # On the participants.

    def point(self, awaits: str, *, ready: Callable[[], bool] = _always, until_s: float = inf) -> None:
        """Come to a point: go on when it is one's turn."""
        participant = _mine.participant
        if participant is None or _mine.scheduler is not self or participant.is_over:
            self._check_thread()
            return
        if participant.is_abandoned:
            return
        participant.awaits, participant.is_ready, participant.until_s = awaits, ready, until_s
        self.turn.release()
        participant.baton.acquire()
        participant.is_ready, participant.until_s, participant.is_asleep = _always, inf, False
        if participant.is_abandoned:
            raise _AbandonedError

    def _choose(self, count: int, *, is_free: bool) -> int:
        """Have it chosen on the thread that runs the world: choosers may belong to their threads."""
        participant = _mine.participant
        if participant is None or _mine.scheduler is not self or participant.is_abandoned:
            return super()._choose(count, is_free=is_free)
        participant.wish = count, is_free
        self.turn.release()
        participant.baton.acquire()
        if participant.is_abandoned:
            raise _AbandonedError
        return participant.choice

    def wait(self, ready: Callable[[], bool], timeout_s: float | None, awaits: str) -> None:
        """Wait until something is so, or for so many seconds of the world."""
        if ready():
            return
        until_s = inf if timeout_s is None else self.clock() + max(timeout_s, 0.0)
        participant = _mine.participant
        if participant is None or _mine.scheduler is not self:
            self._check_thread()
            self._wait_at_rest(ready, until_s)
            return
        if not participant.is_abandoned:
            self.point(awaits, ready=ready, until_s=until_s)

    def sleep(self, duration_s: float) -> None:
        """Sleep for so many seconds of the world."""
        participant = _mine.participant
        if participant is None or _mine.scheduler is not self:
            self._check_thread()
            self._wait_at_rest(lambda: False, self.clock() + duration_s)
            return
        participant.is_asleep = True
        self.point("sleeps", ready=lambda: False, until_s=self.clock() + duration_s)

    def _check_thread(self) -> None:
        if _mine.participant is None and not self.is_resting and threading.get_ident() != self._runs:
            raise WorldError(
                f"{place_of_caller()}: a thread that the world has not started uses it: start it with "
                "world.start(function), so that its turns are the world's to give"
            )

    # On the thread that runs the world.

    def run(self) -> None:
        """Run all participants to their ends.

        Raises:
            DeadlockError: All wait, for nothing that will come.
            WorldError: One does not come to a point.
        """
        self._runs = threading.get_ident()
        self.is_resting = False
        try:
            while any(each.is_waited_for and not each.is_over for each in self.participants):
                self._turn()
        finally:
            self.is_resting = True

    def abandon(self) -> None:
        """Have all participants unwind that are left, but for one that blocks outside of the world."""
        left = [each for each in self.participants if not each.is_over]
        for participant in left:
            if participant is not self._stuck:
                self.end(participant)
        self.participants.clear()

    def end(self, participant: Participant) -> None:
        """Have one unwind that is parked."""
        if participant.is_over:
            return
        is_ours = _mine.participant is None  # and not of one that is let go on just now
        with self._at_rest if is_ours and self.is_resting else nullcontext():
            participant.is_abandoned = True
            participant.baton.release()
            participant.thread.join(STUCK_S)

    def _turn(self) -> None:
        alive = [each for each in self.participants if not each.is_over]
        now_s = self.clock()
        ready = [each for each in alive if each.is_ready() or each.until_s <= now_s]
        if not ready:
            then_s = min((each.until_s for each in alive), default=inf)
            if then_s == inf:
                waiting = told([(each.name, each.awaits) for each in alive])
                raise DeadlockError(
                    f"nobody can go on: {waiting}. A lock of the program's own is not seen by the world: use "
                    "world.lock()"
                )
            self.clock.advance_to(then_s)
            return
        goes_on = self._current in ready
        if goes_on:
            assert self._current is not None
            ready.remove(self._current)
            ready.insert(0, self._current)
        asleep = [each.until_s for each in alive if each.is_asleep and each not in ready]
        taken = self.pick(len(ready) + bool(asleep), is_free=not goes_on)
        if taken == len(ready):  # time passes, though others could go on
            self.clock.advance_to(min(asleep))
            return
        self._current = ready[taken]
        self._resume(self._current)

    def _resume(self, participant: Participant) -> None:
        self.count_step()
        self._let_run(participant)
        while participant.wish is not None:
            (count, is_free), participant.wish = participant.wish, None
            participant.choice = self._choose(count, is_free=is_free)
            self._let_run(participant)
        if participant.is_over and participant.error is not None and not participant.is_waited_for:
            raise participant.error

    def _let_run(self, participant: Participant) -> None:
        """Let one run until it comes to a point, or wants to have something chosen."""
        participant.baton.release()
        # In many looks: on a machine that stands still, nobody looks either.
        if not any(self.turn.acquire(timeout=STUCK_S / LOOKS) for _ in range(LOOKS)):
            self._stuck = participant
            raise WorldError(
                f"{participant.name} does not come back: {_where(participant.thread)}. It blocks on "
                "a socket or a lock of the real world, or computes for long: under a scheduler use "
                "world.pass_time(), world.lock() and doubles of what is outside"
            )

    def _wait_at_rest(self, ready: Callable[[], bool], until_s: float) -> None:
        """Let what runs in the background go on until something is so, or its time has come."""
        mine = threading.get_ident()
        if self._rests_in not in (None, mine):
            raise WorldError(f"{place_of_caller()}: {_TWO_THREADS}")
        self._runs, outer = mine, self._rests_in
        self._rests_in = mine
        try:
            self._go_on_at_rest(ready, until_s)
        finally:
            self._rests_in = outer

    def _go_on_at_rest(self, ready: Callable[[], bool], until_s: float) -> None:
        while not ready() and self.clock() < until_s:
            with self._at_rest:
                alive = [each for each in self.participants if not each.is_over]
                able = [each for each in alive if each.is_ready() or each.until_s <= self.clock()]
                if able:
                    self._resume(able[0])
                    continue
            then_s = min([until_s, *(each.until_s for each in alive)])
            if then_s == inf:
                raise DeadlockError(f"the set-up waits for what nobody will do; or {_TWO_THREADS}")
            self.clock.advance_to(then_s)

    _runs = 0
    _rests_in: int | None = None


def _where(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - to say where it is
    lines = []
    while frame is not None:
        if is_of_the_program(frame):
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return f"it is at {lines[0]}" if lines else "it has ended"
