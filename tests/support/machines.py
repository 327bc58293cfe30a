"""Running machines without I/O: by scripted events, or one command at a time against a memory store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
from msgspec.structs import replace

from sansio_cache.budget import StoreTimeouts
from sansio_cache.cell import NO_GRANT, Cell, Kind, make_grant
from sansio_cache.codec import Codec, codec_for
from sansio_cache.commands import Command, Compute, ComputeMany, ShareLoad, Sleep, StoreCommand
from sansio_cache.coordinator import Coordinator, interrupted
from sansio_cache.entry import seal
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    Event,
    FailureKind,
    SharingTimedOut,
    StoreFailed,
    Woke,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import Notice
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.policy import Policy
from sansio_cache.signing import Signer
from sansio_cache.single_flight import Following, Ticket
from sansio_cache.step import Outcome, Step
from sansio_cache.tags import Versions
from sansio_cache.ttl import NO_JITTER

KEY: Final = "shop:user:1"
INTS: Final = codec_for(int, 1_000)
TEXTS: Final = codec_for(str, 1_000)
SIGNED: Final = codec_for(
    int, 1_000, signer=Signer((b"a key of 16 bytes", b"an older key, too"), 60_000, 5_000)
)
"""What is signed by the first of its keys lives for 60 s from its load on, or for its own life and 5 s."""
TIMEOUTS: Final = StoreTimeouts()
"""100 ms an attempt, 250 ms an operation, three attempts."""
NONCE: Final = b"nonce-01"
GRANT: Final = make_grant(NONCE, 1)
THEIRS: Final = make_grant(b"theirs-1", 7)


POLICY: Final = Policy(ttl=60, jitter=NO_JITTER)
"""A minute, to the millisecond; nothing stale; leases of 5 s, renewed for 60 s; waits of 30 s."""


def value_cell(
    value: Any,
    key: str = KEY,
    *,
    codec: Codec[Any] = INTS,
    filled_by: bytes = THEIRS,
    soft_ms: int = 0,
    versions: Versions = (),
    load_s: float = 0.0,
) -> Cell:
    """A cell that holds a value which readers of `key` can read."""
    body = seal(key, codec, codec.encode(value).payload, load_s, versions, filled_by, 60_000)
    return Cell(Kind.VALUE, NO_GRANT, 0, soft_ms, filled_by, body)


def absent_cell(key: str = KEY, *, soft_ms: int = 0, versions: Versions = ()) -> Cell:
    """A cell that holds the answer that there is nothing."""
    return Cell(Kind.VALUE, NO_GRANT, 0, soft_ms, THEIRS, seal(key, INTS, None, 0.0, versions))


def draw(nonce: bytes = NONCE, *, seed: int = 1, draw_ttl: float = 0.0, draw_refresh: float = 1.0) -> bytes:
    """The random bytes of a request from which these numbers come, to one part in 2**32."""
    ttl_bits = int(draw_ttl * 2**32).to_bytes(4)
    refresh_bits = (max(round(draw_refresh * 2**32), 1) - 1).to_bytes(4)
    return nonce + seed.to_bytes(8) + ttl_bits + refresh_bits


_POLICY_FIELDS: Final = frozenset(attrs.fields_dict(Policy))


def load_request(*, nonce: bytes = NONCE, **changes: Any) -> LoadRequest:
    """A get-or-load of an int that serves nothing stale, changed as asked: its fields, or its policy's."""
    policy = {name: changes.pop(name) for name in tuple(changes) if name in _POLICY_FIELDS}
    fields: dict[str, Any] = {
        "name": KEY,
        "codec": INTS,
        "policy": attrs.evolve(changes.pop("policy", POLICY), **policy),
        "random_bytes": draw(nonce),
        "timeouts": TIMEOUTS,
        "started_s": 0.0,
    }
    return LoadRequest(**{**fields, **changes})


class Script:
    """A machine that is given its events by a test, which looks at it in between."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.steps = [step]
        self.notices: list[Notice] = list(step.notices)

    @property
    def command(self) -> Command | None:
        return self.step.command

    @property
    def outcome(self) -> Outcome | None:
        return self.step.outcome

    def give(self, *events: Event) -> Script:
        """Answer the pending command, and the ones after it."""
        for event in events:
            self.step = self.step.state.receive(event)
            self.steps.append(self.step)
            self.notices += self.step.notices
        return self


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@attrs.frozen
class Fault:
    """A store command that fails. `is_done`: the store did it, and only the answer was lost."""

    kind: FailureKind
    is_done: bool


def _no_fault(_: StoreCommand) -> Fault | None:
    return None


def _no_loader(*_: Any) -> Any:
    raise AssertionError("no loader was expected to run")


@attrs.define(eq=False)
class Run:
    """An operation under way in a process."""

    step: Step
    loader: Callable[..., Any]
    ticket: Ticket
    notices: list[Notice] = attrs.field(factory=list)
    commands: list[Command] = attrs.field(factory=list)
    following: Following | None = None

    @property
    def is_over(self) -> bool:
        return self.step.command is None


class Process:
    """One process: operations that take turns under one coordinator, and a store of any process.

    Nothing runs by itself: `advance` lets one operation perform its one pending command. Sleeping, and
    waiting in vain for a load, let the clock pass. Renewals and recoveries are left out. What operations have
    spawned is in `spawned`, under way with the same loader.
    """

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.coordinator = Coordinator()
        self.fault: Callable[[StoreCommand], Fault | None] = _no_fault
        self.spawned: list[Run] = []

    @property
    def holds_nothing(self) -> bool:
        """Whether no load is under way, and no ticket is remembered (B2)."""
        held = self.coordinator.single_flight.snapshot()
        return not (held.loads or held.current or held.led)

    def start(self, step: Step, loader: Callable[..., Any] = _no_loader) -> Run:
        return self._start(step, loader, self.coordinator.ticket())

    def advance(self, run: Run) -> None:
        event = self._perform(run)
        if event is not None:
            self._take(run, run.step.state.receive(event))

    def interrupt(self, run: Run) -> None:
        """Interrupt an operation. One that asks for its place in a load has one then, and never hears."""
        if isinstance(run.step.command, ShareLoad) and run.following is None:
            self.coordinator.share(run.ticket, run.step.command)
        self._take(run, interrupted(run.step, self.clock()))

    def finish(self, run: Run) -> Outcome:
        while not run.is_over:
            self.advance(run)
        assert run.step.outcome is not None
        return run.step.outcome

    def run(self, step: Step, loader: Callable[..., Any] = _no_loader) -> Run:
        """Run an operation to its end with nothing beside it."""
        run = self.start(step, loader)
        self.finish(run)
        return run

    def _start(self, step: Step, loader: Callable[..., Any], ticket: Ticket) -> Run:
        run = Run(step, loader, ticket)
        self._take(run, step)
        return run

    def _take(self, run: Run, step: Step) -> None:
        """Take in a step of an operation; at its end, give up its ticket and begin what it spawns."""
        run.step = step
        run.notices += step.notices
        self.coordinator.observe(step)
        if step.command is not None:
            run.commands.append(step.command)
            return
        self.coordinator.give_up(run.ticket)
        for spawned in step.spawn:
            ticket = self.coordinator.ticket()
            begun = self.coordinator.begin(ticket, spawned, self.clock())
            if begun is not None:
                self.spawned.append(self._start(begun, run.loader, ticket))

    def _perform(self, run: Run) -> Event | None:
        command = run.step.command
        match command:
            case Compute():
                return self._compute(run.loader)
            case ComputeMany(names=names):
                return self._compute(run.loader, names)
            case ShareLoad():
                return self._share(run, command)
            case Sleep():
                self.clock.advance(command.duration_s)
                return Woke(self.clock())
            case None:
                raise AssertionError("the operation is over")
            case _:
                fault = self.fault(command)
                event = self.store.perform(command) if fault is None or fault.is_done else None
                return event if fault is None else StoreFailed(self.clock(), fault.kind)

    def _compute(self, loader: Callable[..., Any], *names: tuple[str, ...]) -> Event:
        try:
            return Computed(self.clock(), loader(*names))
        except Exception as error:
            return ComputeFailed(self.clock(), error)

    def _share(self, run: Run, command: ShareLoad) -> Event | None:
        """Lead, or join at the first turn and look at the second what came of it."""
        if run.following is None:
            answer = self.coordinator.share(run.ticket, command)
            if not isinstance(answer, Following):
                return answer
            run.following = answer
            return None
        event = self.coordinator.leave(run.ticket, run.following, self.clock())
        run.following = None
        if isinstance(event, SharingTimedOut):
            self.clock.advance(command.timeout_s)
            return replace(event, now_s=self.clock())
        return event
