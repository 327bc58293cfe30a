"""What is explored of queues: configurations that close, and known mistakes that must be caught (S8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from sansio_cache.commands import (
    Append,
    Compute,
    QueueCommand,
    RenewLeases,
    SettleEntries,
    TakeEntries,
    TakeLock,
    Verdict,
)
from sansio_cache.events import (
    EntriesSettled,
    EntriesTaken,
    Event,
    HoldsTaken,
    LeasesRenewed,
    StoreEvent,
)
from sansio_cache.exploring.queue_world import NOW_S, ROOT, Broken, Fault, QueueConfiguration, Role
from sansio_cache.operations.consume import consume
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.queue_rules import Cells, Partition
from sansio_cache.queues import QueueEntry, Turn
from sansio_cache.step import Step

WRITER, READER, CONSUMER, REPLAY = Role.WRITER, Role.READER, Role.CONSUMER, Role.REPLAY
LOSSES: Final = {Fault.REQUEST_LOST: 1, Fault.REPLY_LOST: 1}


def _case(name: str, *roles: Role, **rest: Any) -> QueueConfiguration:
    return QueueConfiguration(name=name, roles=roles, **rest)


QUICK: Final = (
    _case("1 writes, 2 read, the key goes", WRITER, READER, READER, faults={Fault.GONE: 1}),
    _case("2 write, 1 consumes", WRITER, WRITER, CONSUMER),
    _case("1 writes, 1 consumes, 1 reads", WRITER, CONSUMER, READER),
    _case(
        "1 of 2 writes is queued, 1 consumes; losses",
        WRITER,
        CONSUMER,
        queued=1,
        faults=LOSSES,
    ),
    _case("1 writes, 2 consume; crashes", WRITER, CONSUMER, CONSUMER, faults={Fault.CRASH: 2}),
    _case("1 writes, 1 reads, 1 consumes; a crash", WRITER, READER, CONSUMER, faults={Fault.CRASH: 1}),
    _case(
        "1 writes, 1 consumes, 1 replays; the writer raises, a reply lost",
        WRITER,
        CONSUMER,
        REPLAY,
        faults={Fault.RAISING: 1, Fault.REPLY_LOST: 1},
    ),
    _case(
        "1 of 2 writes is queued, 1 consumes, 1 replays; the writer raises",
        WRITER,
        CONSUMER,
        REPLAY,
        queued=1,
        faults={Fault.RAISING: 1},
    ),
    _case("2 are queued, 2 consume; the lease lapses", CONSUMER, CONSUMER, queued=2, faults={Fault.LAPSE: 2}),
    _case("1 of 2 writes is queued, 2 consume", WRITER, CONSUMER, CONSUMER, queued=1, is_fenced=False),
    _case(
        "1 writes, 1 consumes; a late duplicate",
        WRITER,
        CONSUMER,
        faults={Fault.DUPLICATE: 1, Fault.REPLY_LOST: 1},
    ),
    _case(
        "1 writes, 2 read; the node of the key is away, a reply lost",
        WRITER,
        READER,
        READER,
        faults={Fault.KEPT: 1, Fault.REPLY_LOST: 1},
    ),
    _case(
        "1 writes, 1 consumes, 1 reads; a crash, the node of the key is away",
        WRITER,
        CONSUMER,
        READER,
        faults={Fault.CRASH: 1, Fault.KEPT: 2},
    ),
    _case(
        "1 writes, 1 consumes, 1 replays; the writer raises, the node of the key is away",
        WRITER,
        CONSUMER,
        REPLAY,
        queued=1,
        faults={Fault.RAISING: 1, Fault.KEPT: 2},
    ),
    _case(
        "1 writes, 1 consumes, 1 reads, 1 replays; the writer raises",
        WRITER,
        CONSUMER,
        READER,
        REPLAY,
        faults={Fault.RAISING: 1},
    ),
)

NIGHTLY: Final = (
    _case("2 write, 1 consumes; a late duplicate", WRITER, WRITER, CONSUMER, faults={Fault.DUPLICATE: 1}),
    _case("2 write, 2 consume", WRITER, WRITER, CONSUMER, CONSUMER, is_fenced=False),
    _case(
        "2 write, 2 consume; the lease lapses", WRITER, WRITER, CONSUMER, CONSUMER, faults={Fault.LAPSE: 1}
    ),
    _case("1 writes, 1 consumes, 1 reads; losses", WRITER, CONSUMER, READER, faults=LOSSES),
    _case("2 write, 1 consumes, 1 reads", WRITER, WRITER, CONSUMER, READER),
)


# Mistakes.


@attrs.define
class AppendsToAnyone(Partition):
    """Appends without looking at the grant."""

    def _may_append(self, append: Append, cells: Cells, root: str, now_ms: int) -> bool:
        return True


@attrs.define
class ReplaysAnything(Partition):
    """Replays a letter whatever was queued since."""

    def _is_superseded(self, letter: QueueEntry) -> bool:
        return False


@attrs.define
class DeliversToAnyone(Partition):
    """A group of consumers without a lease."""

    def answer(self, command: QueueCommand, cells: Cells, now_s: float, now_ms: int) -> StoreEvent:
        match command:
            case TakeEntries():
                return EntriesTaken(now_s, self._take(command), len(self.entries))
            case SettleEntries(verdicts=verdicts):
                for verdict in verdicts:
                    self._settle(verdict, now_ms)
                return EntriesSettled(now_s)
        return Partition.answer(self, command, cells, now_s, now_ms)


@attrs.frozen
class Wrong:
    """A machine whose steps are changed by a mistake."""

    inner: Step
    change: Callable[[Step], Step]

    def receive(self, event: Event) -> Step:
        """The next step, with the mistake."""
        return self.change(self.inner.state.receive(event))


def _wrong(step: Step, change: Callable[[Step], Step]) -> Step:
    return Step(Wrong(step, change), step.command, step.outcome) if step.command is not None else step


@attrs.frozen
class SettlingFirst:
    """Waits for entries to be settled that are not applied yet."""

    inner: Step

    def receive(self, event: Event) -> Step:
        """Apply them."""
        return _wrong(self.inner, settle_first)


def settle_first(step: Step) -> Step:
    """Acknowledge before applying."""
    match step.command:
        case Compute(previous=Turn(writes=(write, *_))):
            consumer: Any = step.state
            (holding,) = consumer.consumer.holdings
            verdict = Verdict(write.token, write.key)
            settle = SettleEntries(ROOT, holding.grant, (verdict,), 1.0)
            return Step(SettlingFirst(step), settle)
    return _wrong(step, settle_first)


def without_lease(step: Step) -> Step:
    """Say of every lease that it is there."""
    while True:
        match step.command:
            case TakeLock(nonce=nonce):
                step = step.state.receive(HoldsTaken(NOW_S, (nonce + bytes(8),)))
            case RenewLeases(leases=leases):
                step = step.state.receive(LeasesRenewed(NOW_S, (True,) * len(leases)))
            case _:
                return _wrong(step, without_lease)


def _consume(change: Callable[[Step], Step]) -> Callable[[ConsumeRequest], Step]:
    return lambda request: change(consume(request))


@attrs.frozen
class Variant:
    """A configuration with a mistake, and what it breaks."""

    configuration: QueueConfiguration
    breaks: Broken


VARIANTS: Final = (
    Variant(
        _case(
            "acknowledge before apply",
            WRITER,
            CONSUMER,
            faults={Fault.CRASH: 1},
            consume=_consume(settle_first),
        ),
        Broken.LOST,
    ),
    Variant(_case("acknowledge before UNLINK", WRITER, READER, READER, acknowledges_early=True), Broken.READ),
    Variant(
        _case("look at the pending entry before acquiring", WRITER, READER, READER, looks_first=True),
        Broken.READ,
    ),
    Variant(
        _case(
            "apply without invalidate",
            WRITER,
            READER,
            CONSUMER,
            faults={Fault.CRASH: 1},
            invalidates=False,
        ),
        Broken.LEFT,
    ),
    Variant(
        _case(
            "acknowledge what a node has kept",
            WRITER,
            READER,
            READER,
            faults={Fault.KEPT: 1},
            heeds_kept=False,
        ),
        Broken.READ,
    ),
    Variant(
        _case(
            "settle what a node has kept",
            WRITER,
            READER,
            CONSUMER,
            # Once more after it is settled: what may be old is removed twice.
            faults={Fault.CRASH: 1, Fault.KEPT: 2},
            heeds_kept=False,
        ),
        Broken.LEFT,
    ),
    Variant(
        _case(
            "group without lease",
            WRITER,
            CONSUMER,
            CONSUMER,
            queued=1,
            is_fenced=False,
            partition=DeliversToAnyone,
            consume=_consume(without_lease),
        ),
        Broken.BACK,
    ),
    Variant(
        _case(
            "append without grant",
            WRITER,
            WRITER,
            CONSUMER,
            faults={Fault.DUPLICATE: 1},
            partition=AppendsToAnyone,
        ),
        Broken.OVER,
    ),
    Variant(
        _case(
            "claim without fencing",
            WRITER,
            CONSUMER,
            CONSUMER,
            queued=1,
            faults={Fault.LAPSE: 1},
            is_fenced=False,
        ),
        Broken.BACK,
    ),
    Variant(
        _case(
            "replay of a superseded letter",
            WRITER,
            CONSUMER,
            REPLAY,
            queued=1,
            faults={Fault.RAISING: 1},
            partition=ReplaysAnything,
        ),
        Broken.OVER,
    ),
    Variant(
        _case(
            "replay without UNLINK",
            CONSUMER,
            READER,
            READER,
            REPLAY,
            queued=1,
            faults={Fault.RAISING: 1},
            replays_unseen=True,
        ),
        Broken.READ,
    ),
)
