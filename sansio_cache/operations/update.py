"""Update: change a value by a function of it, and no change is lost or made twice.

    UpdateLooking --> UpdateComputing --Computed--> UpdateSwapping --CellSwapped--> done
       | a number that is counted up ----------------^      | another was quicker
       +--<-- UpdatePausing <-------------------------------+

Look, compute, swap; and from the beginning again where another has changed the value meanwhile. Who loses
pauses, longer each time and at random: a crowd at one counter would mostly wait for refusals otherwise.

A swap whose outcome is unknown ends the update, and that is said: done once more it might count twice. The
key is not invalidated then, as what it counts is nowhere else.
"""

from __future__ import annotations

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from typing import Any, Final, TypeAlias, assert_never

from msgspec import Struct

from sansio_cache.backoff import contended_pause_s
from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Cell
from sansio_cache.codec import Codec
from sansio_cache.commands import Compute, Sleep
from sansio_cache.entry import MissReason
from sansio_cache.errors import SerializationError
from sansio_cache.events import (
    CellSwapped,
    ComputeAnswer,
    Computed,
    ComputeFailed,
    Event,
    Interrupted,
    SleepAnswer,
    StoreFailed,
    SwapAnswer,
    Woke,
)
from sansio_cache.notices import Ended, Notice, OperationName, Stored, SwapRefused
from sansio_cache.operations.lookup import LookChecking, LookInspecting, LookRequest, look
from sansio_cache.operations.set_many import Item
from sansio_cache.operations.swap import SwapRequest
from sansio_cache.step import (
    Abandoned,
    AsksOnce,
    Looked,
    Missing,
    NotANumber,
    Outcome,
    Raised,
    Refused,
    Step,
    TookTooLong,
    Unknown,
    Updated,
    ended,
    evolve,
    gave_up,
    unexpected,
)

_EXACTLY: Final = Context(prec=1_000, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""How Decimals are added: all digits are kept, or it is an error."""

Amount: TypeAlias = int | float | Decimal
"""What can be added to a number, and what such a number is."""


class UpdateRequest(Struct, frozen=True):
    """What is to be changed, and how."""

    key: str
    """The full key."""
    codec: Codec[Any]
    hard_ttl_ms: int
    """How long the new value is kept; 0 for what the old one has left."""
    soft_ttl_ms: int
    nonce: bytes
    """8 random bytes. One turn's swap at most is done under it."""
    seed: int
    """A random number, by which the pauses differ."""
    wait_s: float
    """How long it is tried."""
    timeouts: StoreTimeouts
    started_s: float
    amount: Amount | None = None
    """What is to be added to a number; None where a function of the caller's gives the new value."""
    bypassed: frozenset[str] = frozenset()
    """Keys of tags whose removal the store has not been told of yet."""

    def look(self, now_s: float) -> Step:
        """The first step of looking at the value."""
        name = OperationName.UPDATE
        return look(LookRequest(self.key, self.codec, self.timeouts, now_s, name, True, self.bypassed))

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.UPDATE, now_s - self.started_s))


def refuse_nothing(value: Any, who: str = "") -> None:
    """Refuse None where a value is to be stored by a condition on values. `who` has given it, in words.

    Raises:
        SerializationError: It is None.
    """
    if value is None:
        raise SerializationError(
            f"{who}None is nothing, and no value that could be added or take another's place: invalidate(…) "
            "removes an entry, and set(key, None) stores that there is nothing"
        )


def update(request: UpdateRequest, *, skip: MissReason | None = None) -> Step:
    """Begin an update. `skip` is the reason why nothing could be said for certain, if there is one."""
    now_s = request.started_s
    if skip is not None:
        return request.end(Refused(skip), now_s)
    return _begin(request, 0, now_s)


def _begin(request: UpdateRequest, turn: int, now_s: float, *notices: Notice) -> Step:
    step = request.look(now_s)
    state = step.state
    assert isinstance(state, LookInspecting)
    return Step(UpdateLooking(request, turn, state), step.command, notices=notices)


class UpdateLooking(Struct, frozen=True):
    """Looks at the value, as `lookup` does.

    Next: UpdateLooking | UpdateComputing | UpdateSwapping | done
    """

    request: UpdateRequest
    turn: int
    looking: LookInspecting | LookChecking

    def receive(self, event: Event) -> Step:
        """Compute the new value."""
        step = self.looking.receive(event)
        notices = tuple(each for each in step.notices if not isinstance(each, Ended))
        now_s = event.now_s
        if isinstance(step.state, LookInspecting | LookChecking):
            return Step(evolve(self, looking=step.state), step.command, notices=notices)
        outcome = step.outcome
        if not isinstance(outcome, Looked):
            assert outcome is not None
            return ended(outcome) if isinstance(outcome, Abandoned) else self._end(outcome, now_s, *notices)
        lookup, request = outcome.lookup, self.request
        if not lookup.is_fresh:
            return self._end(Missing(), now_s, *notices)
        assert lookup.version is not None
        is_signed = request.codec.signer is not None
        seen = (outcome.cell, outcome.server_ms) if is_signed else (None, 0)
        computing = UpdateComputing(request, self.turn, lookup.version, *seen)
        if request.amount is None:
            command = Compute(request.key, None, lookup.value, request.key)
            return Step(computing, command, notices=notices)
        value = lookup.value
        if isinstance(value, bool) or not isinstance(value, Amount):
            return self._end(NotANumber(type(value).__name__), now_s, *notices)
        number: Any = value  # of which class the sum is, only Python knows
        try:
            with localcontext(_EXACTLY):
                total = number + request.amount
        except (TypeError, ArithmeticError):  # a Decimal and a float; more than a float can be
            classes = f"{type(request.amount).__name__} to this value of class {type(value).__name__}"
            error = SerializationError(
                f"incr cannot add this {classes}, and lose nothing: give an amount of that class, with no "
                "more digits than it can have"
            )
            return self._end(Raised(error), now_s, *notices)
        return computing.store(total, now_s, *notices)

    def _end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        return self.request.end(outcome, now_s, *notices)


class UpdateComputing(Struct, frozen=True):
    """Waits for the function of the caller's.

    Next: UpdateSwapping | done
    """

    request: UpdateRequest
    turn: int
    version: bytes
    """The id of the value that it is given."""
    of: Cell | None = None
    """The cell of that value, where entries are signed."""
    seen_ms: int = 0
    """When the store has shown it, on the server's clock."""

    def receive(self, event: Event) -> Step:
        """Store what it gives."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        match event:
            case Computed(now_s=now_s, value=value):
                return self.store(value, now_s)
            case ComputeFailed(now_s=now_s, error=error, shared=shared):
                return self.request.end(Raised(error, shared), now_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)

    def store(self, value: Any, now_s: float, *notices: Notice) -> Step:
        """Swap the old value for this one."""
        request = self.request
        try:
            refuse_nothing(value, "the function of update has given None, and is to return the new value. ")
            encoded = request.codec.encode(value)
        except SerializationError as error:
            return request.end(Raised(error), now_s, *notices)
        item = Item(request.key, request.codec, encoded.payload, request.hard_ttl_ms, request.soft_ttl_ms)
        seen = (self.of, self.seen_ms)
        swap = SwapRequest(item, self.version, request.nonce, request.timeouts, now_s, *seen)
        budget = request.timeouts.from_now(now_s)
        return UpdateSwapping(request, self.turn, swap, Updated(encoded.value), budget).ask(*notices)


class UpdateSwapping(AsksOnce, Struct, frozen=True):
    """Waits for the value to be replaced.

    Next: UpdateSwapping | UpdatePausing | done
    """

    request: UpdateRequest
    turn: int
    swap: SwapRequest
    outcome: Updated
    budget: Budget
    is_unsure: bool = False
    """Whether an attempt was made of which nobody knows what came of it."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, self.swap.command(self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """End, or begin again where another was quicker."""
        if not isinstance(event, SwapAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellSwapped(now_s=now_s, version=None) if self.is_unsure:
                return request.end(Unknown(None), now_s)
            case CellSwapped(now_s=now_s, version=None):
                refused = SwapRefused(request.key)
                left_s = request.started_s + request.wait_s - now_s
                if left_s <= 0:
                    return request.end(TookTooLong(now_s - request.started_s), now_s, refused)
                pause = min(contended_pause_s(request.seed, self.turn), left_s)
                return Step(UpdatePausing(request, self.turn), Sleep(pause), notices=(refused,))
            case CellSwapped(now_s=now_s, version=version):
                return request.end(self.outcome, now_s, Stored(request.key, version=version or b""))
            case StoreFailed(now_s=now_s):
                outcome = self.unknown(event)
                return self.retry(event) or request.end(outcome, now_s, *gave_up(event))
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class UpdatePausing(Struct, frozen=True):
    """Lets some time pass, as another was quicker.

    Next: UpdateLooking | done
    """

    request: UpdateRequest
    turn: int

    def receive(self, event: Event) -> Step:
        """Begin again."""
        if not isinstance(event, SleepAnswer):
            raise unexpected(self, event)
        match event:
            case Woke(now_s=now_s):
                return _begin(self.request, self.turn + 1, now_s)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)
