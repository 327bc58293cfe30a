"""Explore the machines of the core, and write down every transition that is met.

The tables of the design page come from here and from nowhere else: every state is handed every kind of
answer that a driver may give to its command, breadth first, and what it does is recorded. The core does no
I/O, so this takes a moment and no server. Sphinx is not imported here: the tests use this module too.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import msgspec

from sansio_cache import KeyBuilder, Policy
from sansio_cache.budget import Budget, Patience
from sansio_cache.cell import FOREIGN, Cell, Kind
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    AcquireLease,
    Command,
    Compute,
    DeleteKeys,
    FillCells,
    HoldCells,
    Ping,
    ReadCell,
    ReadCells,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.commands import Lease as LeaseClaim
from sansio_cache.entry import MissReason, seal
from sansio_cache.events import (
    CellRead,
    CellsFilled,
    CellsRead,
    Computed,
    ComputeFailed,
    Event,
    FailureKind,
    FillResult,
    ForeignFound,
    FreshFound,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    KeysFound,
    LeaseDenied,
    LeaseGranted,
    LeasesReleased,
    LeasesRenewed,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    Ponged,
    SharingTimedOut,
    StoreFailed,
    Woke,
    WriterFound,
)
from sansio_cache.notices import Ended, OperationName
from sansio_cache.operations.delete_pattern import PatternRequest, delete_pattern
from sansio_cache.operations.get import get
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.operations.get_or_load import LoadRequest, get_or_load
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.mutate import EndRequest, MutateRequest, begin, end
from sansio_cache.operations.recovery import recover
from sansio_cache.operations.renewal import RenewalTerms, renew
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.step import Step

SOON_S, LATE_S = 0.1, 1_000.0
"""An answer comes at once, or when every deadline of the operation is over."""

_NOW_MS = 5_000
_KEY, _OTHER = "shop:user:1", "shop:user:2"
_NONCE = b"n" * 8
_GRANT = _NONCE + bytes(8)
_THEIRS = b"o" * 8 + bytes(8)
_PATIENCE = Patience(attempts=2)
_INT = codec_for(int, 1_000)
_STR = codec_for(str, 1_000)
_ERROR = ValueError("the loader's")


def _value(codec: Any, payload: bytes, *, key: str = _KEY, soft_ms: int = 0) -> Cell:
    return Cell(Kind.VALUE, filled_by=_THEIRS, soft_ms=soft_ms, body=seal(key, codec, payload, 0.0))


_FRESH = _value(_INT, b"1")
_STALE = _value(_INT, b"1", soft_ms=_NOW_MS - 1)
_OTHER_TYPE = _value(_STR, b'"1"')
_CELLS = {
    "no key": None,
    "a fresh value": _FRESH,
    "a value past its soft expiry": _STALE,
    "a value that cannot be read": _OTHER_TYPE,
    "a lease, no value": Cell(Kind.EMPTY, _THEIRS, _NOW_MS + 1_000),
    "held by a writer": Cell(Kind.HOLD, _THEIRS, _NOW_MS + 1_000),
    "not ours": FOREIGN,
}


def _answers(command: Command, now_s: float) -> Iterator[tuple[str, Event]]:  # noqa: C901 - one case for each
    """The kinds of answers to a command, `Interrupted` and failures apart, with a few words for each."""
    match command:
        case ReadCell():
            for words, cell in _CELLS.items():
                yield words, CellRead(now_s, cell, _NOW_MS)
        case ReadCells(keys):
            yield "no keys", CellsRead(now_s, (None,) * len(keys), _NOW_MS)
            fresh = tuple(_value(_INT, b"1", key=key) for key in keys)
            yield "fresh values", CellsRead(now_s, fresh, _NOW_MS)
        case AcquireLease():
            yield "no value", LeaseGranted(now_s, _GRANT, None, _NOW_MS)
            yield "a stale value kept", LeaseGranted(now_s, _GRANT, _STALE, _NOW_MS)
            yield "no value", LeaseDenied(now_s, 1_000, None, _NOW_MS)
            yield "a stale value kept", LeaseDenied(now_s, 1_000, _STALE, _NOW_MS)
            yield "readable", FreshFound(now_s, _FRESH, _NOW_MS)
            yield "cannot be read", FreshFound(now_s, _OTHER_TYPE, _NOW_MS)
            yield "", WriterFound(now_s, 1_000)
            yield "", ForeignFound(now_s)
        case FillCells(fills):
            yield "stored", CellsFilled(now_s, (FillResult.STORED,) * len(fills))
            yield "already stored", CellsFilled(now_s, (FillResult.ALREADY_STORED,) * len(fills))
            yield "refused", CellsFilled(now_s, (FillResult.REFUSED,) * len(fills))
        case RenewLeases(leases):
            yield "still ours", LeasesRenewed(now_s, (True,) * len(leases))
            yield "lost", LeasesRenewed(now_s, (False,) * len(leases))
        case ReleaseLeases():
            yield "", LeasesReleased(now_s)
        case HoldCells(keys):
            yield "", HoldsTaken(now_s, (_GRANT,) * len(keys))
        case DeleteKeys(keys):
            yield "", KeysDeleted(now_s, len(keys))
        case ScanKeys():
            yield "keys, more to come", KeysFound(now_s, 7, (_KEY,))
            yield "keys, the last page", KeysFound(now_s, 0, (_KEY,))
            yield "empty page, more to come", KeysFound(now_s, 7, ())
            yield "empty page, the last", KeysFound(now_s, 0, ())
        case Ping():
            yield "", Ponged(now_s)
        case Compute():
            yield "can be stored", Computed(now_s, 1)
            yield "cannot be stored", Computed(now_s, "not an int")
            yield "", ComputeFailed(now_s, _ERROR)
        case ShareLoad():
            yield "", LoadLed(now_s, 1)
            yield "readable", LoadShared(now_s, b"1", None)
            yield "cannot be read", LoadShared(now_s, b'"1"', None)
            yield "", LoadErrorShared(now_s, _ERROR)
            yield "", LoadNotShared(now_s)
            yield "", SharingTimedOut(now_s, 1)
        case Sleep():
            yield "", Woke(now_s)


def events(step: Step, now_s: float) -> Iterator[tuple[str, Event]]:
    """Every kind of event that may follow a step at a time, with its label in the table."""
    command = step.command
    assert command is not None
    for words, event in _answers(command, now_s):
        yield f"{type(event).__name__}{f' ({words})' if words else ''}", event
    if isinstance(command, StoreCommand):
        for kind in (FailureKind.TIMEOUT, FailureKind.PERMISSION):
            failed = StoreFailed(now_s, kind)
            yield f"StoreFailed{_chance(step.state, failed)}", failed
    yield "Interrupted", Interrupted(now_s)


def _chance(state: Any, failed: StoreFailed) -> str:
    budget = getattr(state, "budget", None)
    if not isinstance(budget, Budget):
        return ""
    return " (a try is left)" if budget.after(failed) else " (no try is left)"


def _load(policy: Policy) -> LoadRequest:
    hard_ttl_ms, soft_ttl_ms = policy.expiry_ms(0.5)
    return LoadRequest(
        key=_KEY,
        codec=_INT,
        hard_ttl_ms=hard_ttl_ms,
        soft_ttl_ms=soft_ttl_ms,
        serve_stale=policy.stale_for_s > 0,
        lease_ms=policy.lease_ms,
        max_lease_s=policy.max_lease_s,
        wait_s=policy.wait_s,
        nonce=_NONCE,
        seed=1,
        patience=_PATIENCE,
        started_s=0.0,
    )


def _loads() -> list[Step]:
    plain, stale = _load(Policy()), _load(Policy(stale_for_s=60))
    skips = (None, MissReason.STORE_ERROR, MissReason.DISABLED)
    return [get_or_load(request, skip=skip) for request in (plain, stale) for skip in skips]


_KEYS = (_KEY, _OTHER)
_ITEMS = tuple(Item(key, b"", 1_000, 0) for key in _KEYS)
_CLAIMS = tuple(LeaseClaim(key, _GRANT) for key in _KEYS)

MACHINES: dict[str, Callable[[], list[Step]]] = {
    "get": lambda: [get(_KEY, _INT, patience=_PATIENCE, now_s=0.0)],
    "get_many": lambda: [get_many(ReadManyRequest(_KEYS, _INT, 1, _PATIENCE, 0.0))],
    "get_or_load": _loads,
    "renewal": lambda: [renew(_CLAIMS[:1], RenewalTerms(5_000, 60.0, _PATIENCE))],
    "set_many": lambda: [
        set_many(SetRequest(OperationName.SET_MANY, _ITEMS, _NONCE, 5_000, 1, _PATIENCE, 0.0))
    ],
    "mutate": lambda: [
        begin(MutateRequest(_KEYS, _NONCE, 5_000, 60.0, _PATIENCE, 0.0)),
        end(EndRequest(_KEYS, (_GRANT, _GRANT), _ITEMS[:1], _PATIENCE, 0.0)),
        end(EndRequest(_KEYS, (_GRANT, _GRANT), (), _PATIENCE, 0.0)),
    ],
    "invalidate": lambda: [invalidate(InvalidateRequest(OperationName.INVALIDATE, _KEYS, 1, _PATIENCE, 0.0))],
    "delete_pattern": lambda: [
        delete_pattern(PatternRequest(KeyBuilder("shop"), "shop:user:*", 500, _PATIENCE, 0.0))
    ],
    "recovery": lambda: [recover(_KEYS, _PATIENCE)],
}
"""For each module of `sansio_cache.operations`, the steps that its machines may begin with."""


@attrs.frozen
class Transition:
    """One row of a table. `notices` may be stated, and not all of them always are."""

    state: str
    command: str
    event: str
    result: str
    notices: frozenset[str]


def steps(machine: str) -> Iterator[tuple[Step, float]]:
    """The steps that wait for an answer, each once, breadth first; and when the answer may come."""
    seen: set[Any] = set()
    queue = deque((step, SOON_S) for step in MACHINES[machine]())
    while queue:
        step, now_s = queue.popleft()
        place = (_folded(step.state), now_s)
        if step.command is None or place in seen:
            continue
        seen.add(place)
        for answered_s in dict.fromkeys((now_s, LATE_S)):
            yield step, answered_s
            for _, event in events(step, answered_s):
                queue.append((step.state.receive(event), answered_s))


def explore(machine: str) -> list[Transition]:
    """Every transition of a machine, in the order in which breadth first meets them."""
    met: dict[tuple[str, str, str, str], set[str]] = {}
    for step, now_s in steps(machine):
        for label, event in events(step, now_s):
            after = step.state.receive(event)
            notices = {type(notice).__name__ for notice in after.notices if not isinstance(notice, Ended)}
            row = (_name(step.state), type(step.command).__name__, label, _result(after))
            met.setdefault(row, set()).update(notices)
    return [Transition(*row, frozenset(notices)) for row, notices in met.items()]


def _name(state: Any) -> str:
    return type(state).__name__


def _result(step: Step) -> str:
    return _name(step.state) if step.command is not None else f"done: {_name(step.outcome)}"


_COUNTERS = {"turns", "turn", "done", "deleted", "since_s", "began_s", "started_s"}


def _folded(state: Any) -> Any:
    """A state without what only counts or times: what remains is finite, and decides where it goes."""
    if isinstance(state, Budget):
        return state.attempts
    if attrs.has(type(state)):
        names = tuple(attrs.fields_dict(type(state)))
    elif isinstance(state, msgspec.Struct):
        names = state.__struct_fields__
    else:
        return (type(state).__name__, len(state)) if isinstance(state, tuple) else _hashable(state)
    parts = ((name, getattr(state, name)) for name in names)
    folded = ((name, bool(part) if name in _COUNTERS else _folded(part)) for name, part in parts)
    return (type(state).__name__, tuple(folded))


def _hashable(part: Any) -> Any:
    return part if part.__hash__ is not None else repr(part)


def as_markdown(machine: str) -> str:
    """The table of a machine: who waits for what, what may come, and where that leads."""
    rows = ["| state, and what it waits for | event | next | notices |", "| --- | --- | --- | --- |"]
    by_state: dict[str, dict[str, list[Transition]]] = {}
    for each in explore(machine):
        where = f"**{each.state}** `{each.command}`"
        by_state.setdefault(where, {}).setdefault(each.event, []).append(each)
    for where, by_event in by_state.items():
        shown = where
        for event in sorted(by_event, key=_failures_last):
            found = by_event[event]
            following = " or ".join(dict.fromkeys(_marked(each.result) for each in found))
            notices = ", ".join(sorted({name for each in found for name in each.notices}))
            rows.append(f"| {shown} | {event} | {following} | {notices} |")
            shown = ""
    return "\n".join(rows) + "\n"


def _failures_last(event: str) -> int:
    order = ("StoreFailed (a try is left)", "StoreFailed (no try is left)", "StoreFailed", "Interrupted")
    return order.index(event) + 1 if event in order else 0


def _marked(result: str) -> str:
    return f"*{result}*" if result.startswith("done") else f"**{result}**"


def as_diagram(machine: str) -> str:
    """The states of a machine, and what may follow each, as lines of plain text."""
    following: dict[str, list[str]] = {}
    for each in explore(machine):
        found = following.setdefault(each.state, [])
        if each.result not in found:
            found.append(each.result)
    width = max(map(len, following))
    lines = []
    for state, found in following.items():
        ahead = sorted((name for name in found if name != state), key=lambda name: name.startswith("done"))
        again = ["(again)"] if state in found else []
        lines.append(f"{state:<{width}} --> {', '.join([*ahead, *again])}")
    return "\n".join(lines) + "\n"
