"""Steps, states and outcomes: the shape that every machine has.

An operation is a chain of immutable states. A state waits for the answer to one command;
`state.receive(event)` gives the next step. Nothing else happens: no I/O, no clock, no randomness. So a
driver is a loop of four lines, and a test can put states in a set and explore them breadth first::

    while step.command is not None:
        step = step.state.receive(perform(step.command))
    return step.outcome

If the driver is cancelled or interrupted it feeds `Interrupted` in place of an answer and goes on with
the same loop, shielded and bounded in time, and then re-raises: that is how a lease is given back.

What machines make is a msgspec struct: commands, events, notices, outcomes, steps, requests, states, the
cell, snapshots. One costs a sixth of a frozen attrs class to make, and its class a thirtieth to define: with
states of attrs, a program waited 60 ms longer for its imports. What a user writes or is given is attrs, which
converts and validates: configuration, policies, strategies, results, statistics; and so is what changes.
`evolve` changes either. The structs that every hit makes are left out of cycle collection (`gc=False`): what
they refer to never refers to them. Those that hold a user's value are hashed without it, so that every state
can be hashed.

The docstring of each state ends with the states that may follow it, `done` where the operation may end. A
test compares that with what the states do.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

import attrs
from msgspec import Struct, structs

from sansio_cache.budget import Budget
from sansio_cache.cell import Cell
from sansio_cache.commands import Command, Renewal
from sansio_cache.entry import MissReason
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    EntriesFound,
    Event,
    FailureKind,
    FillResult,
    KeysDeleted,
    QueueMeasured,
    StoreFailed,
)
from sansio_cache.lookup import EntryState, Lookup
from sansio_cache.notices import Notice, StoreErrored, StoreGaveUp
from sansio_cache.tags import Versions

T = TypeVar("T")


class Value(Struct, frozen=True, gc=False):
    """There is a value that this operation has not loaded; None, too, where there is known to be none."""

    value: Any

    def __hash__(self) -> int:
        return hash(Value)  # the value may be a list or a dict


class Loaded(Struct, frozen=True):
    """The loader's value. `payload` is its encoded form, None where it cannot be stored.

    `accepted` says that the store took it under the grant it was loaded with; only then may callers
    have it who came after the loader had begun.
    """

    value: Any
    payload: bytes | None
    accepted: bool

    def __hash__(self) -> int:
        return hash((self.payload, self.accepted))  # the value may be a list or a dict


class Raised(Struct, frozen=True):
    """The loader raised. `shared` is what the driver has kept of it for other callers."""

    error: Exception
    shared: Any = None


class NotAMapping(Struct, frozen=True):
    """A loader of many keys gave something else than a mapping: a `kind`, the name of its class."""

    kind: str


class Missing(Struct, frozen=True):
    """There is no value to be had."""


class Unavailable(Struct, frozen=True):
    """The store failed, and the policy says that the caller is to know. `kind` is None where nobody asked.

    `reason` and `cause` are those of the failure.
    """

    kind: FailureKind | None
    reason: str = ""
    cause: Exception | None = None


class TookTooLong(Struct, frozen=True):
    """Another's load has not ended in time, and the policy says that the caller is to know."""

    waited_s: float
    is_full: bool = False
    """Of a write to a queue: whether there was no room for it."""


class Abandoned(Struct, frozen=True):
    """The operation was interrupted, and has given back what it held as far as it could."""


class ManyRead(Struct, frozen=True):
    """One value or `Missing` a key, in order."""

    values: tuple[Value | Missing, ...]


class ManyFound(Struct, frozen=True, gc=False):
    """A value for each key, in order: all of them were there."""

    values: tuple[Any, ...]


class ManyLoaded(Struct, frozen=True):
    """What there is for each key, in order, `Missing` where there is nothing to be had."""

    values: tuple[Value | Missing, ...]


class ManyStored(Struct, frozen=True):
    """What became of each value, in order; None where the store could not be asked."""

    results: tuple[FillResult | None, ...]


class ManyHeld(Struct, frozen=True):
    """The holds taken for a mutation, with the versions of the tags that its values are to carry.

    `grants` is None where the store could not be asked.
    """

    grants: tuple[bytes, ...] | None
    renewal: Renewal | None
    versions: Versions = ()


class ManyInvalidated(Struct, frozen=True):
    """`done`: the keys that are gone from the store; `failed`: those that could not be removed.

    `reason` and `cause` are those of the failure. `existed`: whether a value was among what went, where that
    was asked for and is known. `instead`: they are gone as values could not be stored, for a failure.
    """

    done: tuple[str, ...]
    failed: tuple[str, ...]
    reason: str = ""
    cause: Exception | None = None
    existed: bool | None = None
    instead: bool = False


class PatternRemoved(Struct, frozen=True):
    """What a deletion by pattern came to: how many keys matched and how many of them were removed.

    `complete` is false where it broke off.
    """

    matched: int
    deleted: int
    complete: bool


class Looked(Struct, frozen=True):
    """What an entry is like. `touched`: it was to live longer, and does."""

    lookup: Lookup[Any]
    touched: bool = False
    cell: Cell | None = None
    """The cell of the entry; where it has a variant, not that of the variant."""
    server_ms: int = 0
    """When it was looked at, on the server's clock."""


class PageFound(Struct, frozen=True):
    """A page of a scan: the full keys of entries with their states. Cursor 0: there is no further page."""

    cursor: int
    entries: tuple[tuple[str, EntryState], ...]


class Added(Struct, frozen=True):
    """Whether the value was stored: not where there was one."""

    is_ours: bool


class Swapped(Struct, frozen=True):
    """The id of the new value; None where the old one was not the one that was to be replaced."""

    version: bytes | None


class Updated(Struct, frozen=True):
    """The value that an entry has now."""

    value: Any

    def __hash__(self) -> int:
        return hash(Updated)  # the value may be a list or a dict


class NotANumber(Struct, frozen=True):
    """What was to be counted up is no number: a `kind`, the name of its class."""

    kind: str


class Locked(Struct, frozen=True):
    """A lock was taken, under this grant, by a request that was sent after `asked_s` (the driver's clock)."""

    grant: bytes
    asked_s: float


class LockRenewed(Struct, frozen=True):
    """Whether a lock was still ours; None where the store could not be asked. `asked_s` as in `Locked`."""

    is_ours: bool | None
    asked_s: float


class Refused(Struct, frozen=True):
    """Nothing was asked for, as nothing could have been said for certain: why."""

    reason: MissReason


class Unknown(Struct, frozen=True):
    """Whether the store did what it was asked is unknown, and will not be found out by asking again.

    `kind`, `reason` and `cause` are those of the failure; `kind` is None where another write has come since.
    """

    kind: FailureKind | None
    reason: str = ""
    cause: Exception | None = None


class Queued(Struct, frozen=True):
    """The tokens of writes that are queued, in order; of a letter 0 where it is gone, -1 where superseded.

    Without `is_told` the store could not be told that the old values are gone: they are pending.
    Without `is_confirmed` not as many replicas have the writes as were asked for.
    """

    tokens: tuple[int, ...]
    is_told: bool = True
    is_confirmed: bool = True


class Parted(Struct, frozen=True):
    """A queue has other `partitions` than are wanted: so many, with `backlog` and `letters` in them."""

    partitions: int
    backlog: int = 0
    letters: int = 0


class QueueAnswered(Struct, frozen=True):
    """What is known of a partition of a queue."""

    answer: EntriesFound | QueueMeasured | KeysDeleted


class Completed(Struct, frozen=True):
    """A background machine has done what there was to do."""


class Recovered(Struct, frozen=True):
    """What one attempt to recover came to.

    `told`: the keys that the store was told of; `refused`: those that it refuses; `failure`: why it could not
    be told of others, None where it serves.
    """

    told: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    failure: FailureKind | None = None


Outcome = (
    Value
    | Loaded
    | Raised
    | NotAMapping
    | Missing
    | Unavailable
    | TookTooLong
    | Abandoned
    | ManyRead
    | ManyFound
    | ManyLoaded
    | ManyStored
    | ManyHeld
    | ManyInvalidated
    | PatternRemoved
    | Looked
    | PageFound
    | Added
    | Swapped
    | Updated
    | NotANumber
    | Locked
    | LockRenewed
    | Refused
    | Unknown
    | Queued
    | Parted
    | QueueAnswered
    | Completed
    | Recovered
)


class State(Protocol):
    """Waits for the answer to one command."""

    def receive(self, event: Event) -> Step:
        """The next step. Raises ProtocolError where the event answers another command."""
        ...


class Over(Struct, frozen=True):
    """The last state: nothing is pending, so nothing can be answered."""

    def receive(self, event: Event) -> Step:
        """Refuse."""
        raise unexpected(self, event)


OVER: Final = Over()


class Step(Struct, frozen=True):
    """Where an operation is: its state, with either a pending command or an outcome.

    Args:
        state: Waits for the answer to the command.
        command: What is to be done next.
        outcome: What came of it, at the end.
        notices: What is to be known of it.
        load_id: The number of the load that this operation leads in its process; a batch's random bytes, as
            it leads none.
        spawn: Operations that the driver is to run in the background, with the same loader.
        rests_until_s: Until when, on the driver's clock, the load that has ended is not to be led again.
    """

    state: State
    command: Command | None = None
    outcome: Outcome | None = None
    notices: tuple[Notice, ...] = ()
    load_id: int | bytes | None = None
    spawn: tuple[Step, ...] = ()
    rests_until_s: float = 0.0


def ended(outcome: Outcome, *notices: Notice, load_id: int | bytes | None = None) -> Step:
    """The last step of an operation."""
    return Step(OVER, None, outcome, notices, load_id)


def may_hold(step: Step) -> bool:
    """Whether an operation may have something to give back.

    It has a command, or has taken a lock, of which its caller has not heard yet.
    """
    return step.command is not None or isinstance(step.outcome, Locked)


def gave_up(failure: StoreFailed) -> tuple[StoreErrored, StoreGaveUp]:
    """The notices of an operation that goes on, or ends, without the part of the store that has failed."""
    kind, part = failure.kind, failure.part
    return StoreErrored(kind, part), StoreGaveUp(kind, part, failure.reason)


def went_without(failures: tuple[StoreFailed, ...]) -> tuple[Notice, ...]:
    """The notices of an operation that goes on without several parts of the store."""
    return tuple(notice for failure in failures for notice in gave_up(failure)) if failures else ()


def saying(failures: tuple[StoreFailed, ...], step: Step) -> Step:
    """A step that comes of an answer without several parts of the store, with the notices of that."""
    return evolve(step, notices=(*went_without(failures), *step.notices)) if failures else step


def unavailable(failure: StoreFailed) -> Unavailable:
    """The outcome of an operation whose caller is to know of a failure."""
    return Unavailable(failure.kind, failure.reason, failure.cause)


def evolve(value: T, **changes: Any) -> T:
    """The same value with some fields changed, be it a struct or an attrs class."""
    change: Any = structs.replace if isinstance(value, Struct) else attrs.evolve
    changed: T = change(value, **changes)
    return changed


def unexpected(state: State, event: Event) -> ProtocolError:
    """The error for a driver that broke its contract."""
    return ProtocolError(
        f"{type(event).__name__} does not answer the command that {type(state).__name__} waits for: "
        "a driver must give back exactly one event for every command, or Interrupted"
    )


class AsksStore:
    """What states have in common that wait for the store: a budget, and another try within it.

    Not a state of its own: the classes that derive from it declare the field `budget`.
    """

    __slots__ = ()
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        raise NotImplementedError

    def retry_parts(self, failures: tuple[StoreFailed, ...]) -> Step | None:
        """The same where some parts of the store have failed, and others have answered."""
        if not failures:  # as mostly
            return None
        again = next((each for each in failures if each.kind.is_retryable), None)
        return None if again is None else self.retry(again)

    def retry(self, failure: StoreFailed) -> Step | None:
        """The same command once more, or None where it is pointless or the budget is spent."""
        budget = self.budget.after(failure)
        if budget is None:
            return None
        return evolve(self, budget=budget).ask(StoreErrored(failure.kind, failure.part))


class AsksOnce(AsksStore):
    """What states have in common whose command must not be done twice: they know whether it may have been.

    Not a state of its own: the classes that derive from it declare the fields `budget` and `is_unsure`.
    """

    __slots__ = ()
    is_unsure: bool
    """Whether an attempt was made of which nobody knows what came of it."""

    def retry(self, failure: StoreFailed) -> Step | None:
        """The same command once more, which knows of this attempt; or None, as for others."""
        unsure = evolve(self, is_unsure=self.is_unsure or not failure.kind.is_refusal)
        return AsksStore.retry(unsure, failure)

    def unknown(self, failure: StoreFailed) -> Unknown | Unavailable:
        """The outcome where the last attempt has failed: whether it was done is to be known.

        It is not where that attempt may have been done, or one before it, of which nobody was sure.
        """
        if failure.kind.is_refusal and not self.is_unsure:
            return unavailable(failure)
        return Unknown(failure.kind, failure.reason, failure.cause)
