"""What a driver does to the machines of a process and to its coordinator.

Whoever shares or begins a load has a ticket, here its place in the process. A step of a load is observed
before its command is performed, and its notices are heeded. Not observed are an operation's first step, and
those by which one that was interrupted gives back what it holds: its load ends with its ticket. At its end an
operation's ticket is given up; and once more, as a driver may that was interrupted while it did so.

What is spawned, and a recovery, is one more worker of the process, until it ends. A writer whose invalidation
failed goes on when the store has been told: nothing waits for that, but its write is not complete before.

*The breaker.* What opens it is a notice that a part of the store does not serve. Where a configuration does
not say that probes take their time, the probe is answered in the same moment. That is a schedule which may
happen; those in which readers do without the store for longer have configurations of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from sansio_cache.changes import (
    OutageBegan,
)
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    ClaimCell,
    Command,
    Compute,
    ComputeMany,
    FillCells,
    HoldCells,
    ReleaseLeases,
    Renewal,
    RenewLeases,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.coordinator import (
    Coordinator,
    renewing,
)
from sansio_cache.events import (
    ComputeFailed,
    Event,
    HoldsTaken,
    LeaseGranted,
    LeasesAnswered,
    Woke,
)
from sansio_cache.exploring.configuration import (
    NOW_S,
    TIMEOUTS,
    Configuration,
    Deed,
)
from sansio_cache.exploring.judging import Broken, judged_fill, judged_read
from sansio_cache.exploring.naming import nonce_of, replace
from sansio_cache.exploring.process import (
    Floor,
    Stage,
    Worker,
    pending,
)
from sansio_cache.notices import InvalidationFailed, Notice, StaleServed, StoreAnswered, StoreGaveUp
from sansio_cache.part import Recovery
from sansio_cache.single_flight import Following
from sansio_cache.step import Added, ManyHeld, Outcome, Step, Updated

_OF_LEASES: Final = (AcquireLease, AcquireLeases, ClaimCell, FillCells, ReleaseLeases)
"""Where an operation gives up on one of these, it may leave a lease behind until that lapses."""
_INNER: Final = 9
"""In the place of how many acts a caller has left: what its loader asks for has a nonce of its own."""
_UNDER_GRANT: Final = (AcquireLease, AcquireLeases, Compute, ComputeMany, FillCells, HoldCells)
"""What an operation asks for on its way from a grant to a fill."""


@attrs.define
class Driving:
    """One process, thawed.

    Args:
        configuration: What is explored.
        numbers: The numbers of its workers in the world; what runs in the background has none.
        may_interrupt: Whether interruptions may still strike, so that sleeps must be seen.
        workers: Its workers.
        coordinator: What they share.
    """

    configuration: Configuration
    numbers: tuple[int, ...]
    may_interrupt: bool
    workers: list[Worker]
    coordinator: Coordinator
    completed: Floor = ()
    broken: Broken | None = None
    may_leave_lease: bool = False
    writer_died: bool = False
    won: int = 0
    late: list[StoreCommand] = attrs.field(factory=list)

    def ready(self, i: int) -> None:
        """Make the first step of an act that begins with a request, which may come as late as it likes."""
        worker = self.workers[i]
        if worker.stage is Stage.READY and worker.acts[0].is_mutation:
            skip = self.coordinator.skip_write(worker.acts[0].keys)
            self._take(i, self.configuration.begin(worker.acts[0], self._nonce(i), skip), Stage.RUNNING)

    def receive(self, i: int, event: Event) -> None:
        """Give an event to a machine."""
        worker = self.workers[i]
        if (told := _told(event)) and not worker.acts[0].is_mutation:
            worker = replace(worker, told=tuple(dict.fromkeys((*worker.told, *told))))
        if isinstance(event, ComputeFailed):
            worker = replace(worker, has_failed=True)
        self.workers[i] = worker
        assert worker.step is not None
        self._go_on(i, worker.step.state.receive(event))

    def join(self, i: int) -> None:
        """Join the load that is under way, or lead one."""
        worker = self.workers[i]
        assert worker.step is not None
        assert isinstance(worker.step.command, ShareLoad)
        answer = self.coordinator.share(i, worker.step.command, self._inside(i))
        if isinstance(answer, Following):
            self.workers[i] = replace(worker, following=answer)
        else:
            self.receive(i, answer)

    def leave(self, i: int) -> None:
        """A follower waits no longer: its load has ended, or its patience has."""
        following = self.workers[i].following
        assert following is not None
        self.workers[i] = replace(self.workers[i], following=None)
        self.receive(i, self.coordinator.leave(i, following, NOW_S))

    def wake(self, i: int) -> None:
        """A sleep ends, as it may at any time; or never begins, as nothing would end it."""
        command, inside = pending(self.workers[i]), self._inside(i)
        assert isinstance(command, Sleep)
        is_circle = False
        if command.watch is not None and inside:
            is_circle = not self.coordinator.sleep(i, command.watch.keys, inside)
            self.coordinator.wake(i)
        self.receive(i, Woke(NOW_S, is_circle))

    def give_up(self, i: int) -> None:
        """An operation has ended: clear away what its ticket began; and once more, which does no harm."""
        self._give_up(i)
        self._rest(i)

    def _go_on(self, i: int, step: Step) -> None:
        worker = self.workers[i]
        self.workers[i] = replace(worker, reply=None)
        if isinstance(pending(worker), Compute | ComputeMany):
            self._end_renewal(i)
        self._take(i, step, worker.stage)

    def _take(self, i: int, step: Step, stage: Stage) -> None:
        before = self.workers[i].step
        self.workers[i] = replace(
            self.workers[i], step=replace(step, notices=(), spawn=(), rests_until_s=0.0), stage=stage
        )
        worker = self.workers[i]
        answered = None if before is None else before.command
        self._break(judged_fill(worker, step))
        if worker.told and not isinstance(step.command, _UNDER_GRANT):
            self.workers[i] = replace(worker, told=(), looked_under=())
        is_answered = before is not None
        if step.load_id is not None and is_answered and not worker.is_interrupted:
            load_id = self.coordinator.observe(step)
            if load_id is not None:
                self._wake(load_id)
        self._note(i, answered, step)
        if step.outcome is not None:
            self._end(i, step.outcome)
            self._spawn(worker, step.spawn)
            return
        if isinstance(step.command, Compute | ComputeMany):
            self.workers[i] = replace(self.workers[i], looked=None)
            self._begin_renewal(i, step.command.renewal)
            self._begin_inner(i)
        elif not self.configuration.is_eager:
            return
        elif isinstance(step.command, Sleep) and not self.may_interrupt:
            self.wake(i)
        elif isinstance(step.command, ShareLoad) and len(self.numbers) == 1:
            self.join(i)

    def _begin_inner(self, i: int) -> None:
        """A loader asks the cache for something, and waits for it: one more worker, until it has ended."""
        inner = self.workers[i].acts[0].inner
        if inner is not None:
            self.workers.append(Worker((inner,), parent=i))

    def _inside(self, i: int) -> frozenset[str]:
        """The keys whose loaders a worker is called from."""
        parent = self.workers[i].parent
        return frozenset() if parent is None else frozenset(self.workers[parent].acts[0].keys)

    def _wake(self, load_id: int) -> None:
        """A load has ended: whoever follows it takes what came of it."""
        for i, worker in enumerate(self.workers):
            if worker.following is not None and worker.following.load_id == load_id:
                self.leave(i)

    def _spawn(self, worker: Worker, steps: Iterable[Step]) -> None:
        """Begin what runs in the background, but for what somebody here runs already."""
        for step in steps:
            ticket = len(self.workers)
            begun = self.coordinator.begin(ticket, step, NOW_S)
            if begun is not None:
                self.workers.append(Worker(worker.acts[:1], Stage.REFRESHING))
                self._take(ticket, begun, Stage.REFRESHING)

    def _give_up(self, i: int) -> None:
        for _ in range(2):
            load_id = self.coordinator.give_up(i)
            if load_id is not None:
                self._wake(load_id)

    def _note(self, i: int, answered: Command | None, step: Step) -> None:
        for notice in step.notices:
            if isinstance(notice, InvalidationFailed):
                self.workers[i] = replace(self.workers[i], owes=notice.keys)
            elif isinstance(notice, StoreGaveUp) and isinstance(answered, _OF_LEASES):
                self.may_leave_lease = True
            elif isinstance(notice, StaleServed) and self.configuration.expires:
                stale = self.workers[i].stale
                self.workers[i] = replace(self.workers[i], stale=(*stale, notice.key))
        if step.notices and (self.coordinator.concerns(step.notices) or self.coordinator.needs_recovery):
            self._heed(step.notices)

    def _heed(self, notices: tuple[Notice, ...]) -> None:
        for change in self.coordinator.heed(notices, NOW_S):
            if isinstance(change, OutageBegan) and not self.configuration.probes:
                self.coordinator.heed((StoreAnswered(change.part),), NOW_S)
        if not self.coordinator.needs_recovery:
            return
        recovery = self.coordinator.begin_recovery(len(self.workers), TIMEOUTS, NOW_S)
        if recovery is not None:
            self.workers.append(Worker((), Stage.RECOVERING))
            self._recover(len(self.workers) - 1, recovery)

    def _recover(self, i: int, recovery: Recovery) -> None:
        telling = tuple(recovery.keys.items())
        self.workers[i] = replace(self.workers[i], part=recovery.part, telling=telling)
        self._take(i, recovery.step, Stage.RECOVERING)

    def _recovered(self, i: int, outcome: Outcome) -> None:
        """A recovery has ended: what was told is owed no more."""
        worker = self.workers[i]
        assert worker.step is not None
        recovery = Recovery(i, worker.part, worker.step, dict(worker.telling))
        following = self.coordinator.next_recovery(recovery, outcome, TIMEOUTS, NOW_S)
        left = {key for part in self.coordinator.snapshot().parts for key, _ in part.pending}
        told = recovery.keys.keys() - left
        for j, writer in enumerate(self.workers):
            if writer.owes:
                owes = tuple(key for key in writer.owes if key not in told)
                self.workers[j] = replace(writer, owes=owes)
                if writer.stage is Stage.OWING and not owes:
                    self._complete(writer)
                    self._finish(j)
        if following is None:
            self._give_up(i)
            self.workers[i] = Worker((), Stage.DONE)
        else:
            self._recover(i, following)

    def _end(self, i: int, outcome: Outcome) -> None:
        worker = self.workers[i]
        if worker.stage is Stage.RECOVERING:
            self._recovered(i, outcome)
        elif isinstance(outcome, ManyHeld):
            self._give_up(i)
            self.workers[i] = replace(worker, stage=Stage.BLOCK, step=None, holds=outcome.grants)
            self._begin_renewal(i, outcome.renewal)
        else:
            if worker.stage is Stage.RUNNING and worker.acts[0].is_read:
                self._break(judged_read(self.configuration, worker, outcome))
            version = worker.version
            if worker.stage is Stage.RUNNING and worker.acts[0].deed in (Deed.ADD, Deed.COUNT):
                is_done = isinstance(outcome, Updated) or outcome == Added(True)
                self.won += is_done
                version = version if is_done else None  # nothing was promised of it
            self.workers[i] = Worker(worker.acts, Stage.GIVING_UP, version=version, owes=worker.owes)
            if self.configuration.is_eager:
                self.give_up(i)

    def _rest(self, i: int) -> None:
        """An operation is over, and nothing of it is left."""
        worker = self.workers[i]
        if i >= len(self.numbers):
            self.workers[i] = Worker((), Stage.DONE)
        elif worker.owes:
            self.workers[i] = replace(worker, stage=Stage.OWING)
        else:
            self._complete(worker)
            self._finish(i)

    def _finish(self, i: int) -> None:
        acts = self.workers[i].acts[1:]
        self.workers[i] = Worker(acts) if acts else Worker((), Stage.DONE)
        if acts:
            self.ready(i)

    def _complete(self, worker: Worker) -> None:
        """A write is complete: what is older than its version must not be read any more."""
        if worker.version is None:
            return
        act = worker.acts[0]
        is_soft = act.deed is Deed.EXPIRE
        floors = (
            *(not is_soft and place in act.places for place in self.configuration.places),
            act.invalidates_tag,
            is_soft,
        )
        before = self.completed or (0,) * len(floors)
        self.completed = tuple(
            max(version, worker.version) if rises else version
            for version, rises in zip(before, floors, strict=True)
        )

    def _begin_renewal(self, i: int, renewal: Renewal | None) -> None:
        """Begin to keep leases alive, where the configuration wants that."""
        if renewal is not None and self.configuration.renewals:
            self._renew(i, renewing(renewal, NOW_S))

    def _renew(self, i: int, step: Step) -> None:
        """Keep a renewal, as far as its next request; a pause ends whenever it likes."""
        while isinstance(step.command, Sleep):
            step = step.state.receive(Woke(NOW_S))
        kept = replace(step, notices=()) if step.command is not None else None
        self.workers[i] = replace(self.workers[i], renewal=kept)

    def _end_renewal(self, i: int) -> None:
        renewal = self.workers[i].renewal
        if renewal is not None:
            assert isinstance(renewal.command, RenewLeases)
            self.late.append(renewal.command)
            self.workers[i] = replace(self.workers[i], renewal=None)

    def _nonce(self, i: int) -> bytes:
        parent = self.workers[i].parent
        if parent is not None:
            return nonce_of(self.numbers[parent], _INNER)
        return nonce_of(self.numbers[i], len(self.workers[i].acts))

    def _break(self, broken: Iterable[Broken]) -> None:
        for each in broken:
            if self.broken is None and each[0] in self.configuration.invariants:
                self.broken = each


def _told(event: Event) -> tuple[bytes, ...]:
    """The grants that an answer tells, and the versions of tags."""
    match event:
        case LeaseGranted(grant=grant, versions=versions):
            return (grant, *versions)
        case LeasesAnswered(answers=answers, versions=versions):
            return (*(each.grant for each in answers if isinstance(each, LeaseGranted)), *versions)
        case HoldsTaken(grants=grants, versions=versions):
            return (*grants, *versions)
        case _:
            return ()
