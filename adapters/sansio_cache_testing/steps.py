"""Steps: what happened in a world, one line each, in the words of the program that is tested."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import unquote

import attrs

from sansio_cache.cell import Cell, Kind
from sansio_cache.commands import (
    AcquireLease,
    AcquireLeases,
    ClaimCell,
    DeleteKeys,
    ExpireCells,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Ping,
    ReadCell,
    ReadCells,
    ReleaseLeases,
    RenewLeases,
    ScanKeys,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.entry import is_nothing
from sansio_cache.events import (
    CellInspected,
    CellRead,
    CellsFilled,
    CellsRead,
    CellSwapped,
    FreshFound,
    HoldsTaken,
    LeaseGranted,
    LeasesAnswered,
    StoreEvent,
    StoreFailed,
    ValueFound,
    WriterFound,
)
from sansio_cache.exploring.naming import payload_of
from sansio_cache.keys import LOCK_MARKER

CACHE: Final = "cache"
DATABASE: Final = "database"
_MOST_CHARACTERS: Final = 40
_INTERNAL: Final = {"%t:": "tag", "%g:": "generation", LOCK_MARKER: "lock"}
_NOT_THE_PROGRAM: Final = frozenset(
    {
        *("sansio_cache", "sansio_cache_redis", "sansio_cache_runtime", "sansio_cache_testing"),
        *("contextlib", "functools", "threading", "contextvars", "anyio"),
    }
)
_LOOPS: Final = ("asyncio", "trio")
_NOT_A_PROGRAM: Final = (sys.stdlib_module_names | frozenset(_LOOPS)) - {"__main__"}


@attrs.frozen
class Place:
    """A line of the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


@attrs.frozen
class Step:
    """One thing that happened.

    Args:
        who: The participant that did it.
        what: What it did, as a sentence without its subject.
        whom: Whom it asked: the cache, the database, or nobody.
        place: The line of the user's code that did it, where there is one.
        stored: The keys that it stored, where it did.
        asked: The keys that it asked the cache about.
    """

    who: str
    what: str
    whom: str = ""
    place: Place | None = None
    stored: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def place_of_caller() -> Place | None:
    """The innermost line of the program; None in our own background, below which is but the event loop."""
    # What `inspect` would do, without reading files.
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and not is_of_the_program(frame):
        frame = frame.f_back
    if frame is None or package_of(frame) in _LOOPS:
        return None
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def line_of_the_program() -> Place | None:
    """The innermost line that is neither ours nor of the standard library, whatever runs it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and (not is_of_the_program(frame) or package_of(frame) in _NOT_A_PROGRAM):
        frame = frame.f_back
    return frame and Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def is_of_the_program(frame: FrameType) -> bool:
    """Whether a frame is neither ours nor of what calls us."""
    return package_of(frame) not in _NOT_THE_PROGRAM


def package_of(frame: FrameType) -> str:
    """The package whose code a frame runs."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def is_worth_telling(command: StoreCommand) -> bool:
    """Whether a reader of the diagram wants to know of a command."""
    return not isinstance(command, RenewLeases | Ping)


def describe_asked(command: StoreCommand, event: StoreEvent, prefix: str) -> str:
    """What a command asked of the cache, and what came of it.

    Args:
        command: The command.
        event: What the store answered.
        prefix: What all its keys begin with: it is left out.
    """
    failed = f": {event.kind.value}" if isinstance(event, StoreFailed) else ""
    match command:
        case ReadCell(key=key):
            found = _cell(event.cell) if isinstance(event, CellRead) else failed.removeprefix(": ")
            return f"reads {_short(key, prefix)}: {found}"
        case ReadCells(keys=keys):
            cells = event.cells if isinstance(event, CellsRead) else ()
            found = ", ".join(_cell(cell) for cell in cells) or failed.removeprefix(": ")
            return f"reads {_list(keys, prefix)}: {found}"
        case AcquireLease(key=key):
            return f"asks to load {_short(key, prefix)}: {_answer(event)}"
        case AcquireLeases(lease_requests=requests):
            answers = event.answers if isinstance(event, LeasesAnswered) else (event,)
            keys = tuple(request.key for request in requests)
            return f"asks to load {_list(keys, prefix)}: {', '.join(map(_answer, answers))}"
        case FillCells(fills=fills):
            results = event.results if isinstance(event, CellsFilled) else ()
            pairs = zip(fills, results or (None,) * len(fills), strict=False)
            told = (
                f"{_short(fill.key, prefix)} = {_payload(fill.body)}"
                f"{'' if result is None or result.is_accepted else ' (refused: invalidated meanwhile)'}"
                for fill, result in pairs
            )
            return f"stores {', '.join(told)}{failed}"
        case DeleteKeys(keys=keys):
            return f"removes {_list(keys, prefix)}{failed}"
        case HoldCells(keys=keys):
            return f"holds {_list(keys, prefix)}{failed}"
        case ExpireCells(keys=keys):
            return f"expires {_list(keys, prefix)}{failed}"
        case ReleaseLeases(leases=leases):
            return f"gives up {_list(tuple(lease.key for lease in leases), prefix)}{failed}"
        case ScanKeys(pattern=pattern):
            return f"looks for {_short(pattern, prefix)}{failed}"
        case _:
            return _describe_primitive(command, event, prefix, failed)


def _describe_primitive(command: StoreCommand, event: StoreEvent, prefix: str, failed: str) -> str:
    """The same of looks, claims, swaps, touches and locks."""
    match command:
        case InspectCell(key=key):
            found = _cell(event.cell) if isinstance(event, CellInspected) else failed.removeprefix(": ")
            return f"looks at {_short(key, prefix)}: {found}"
        case ClaimCell(key=key):
            return f"claims {_short(key, prefix)}: {_answer(event)}"
        case SwapCell(key=key, body=body):
            is_done = isinstance(event, CellSwapped) and event.version is not None
            refused = "" if is_done or failed else " (refused: another was quicker)"
            return f"replaces {_short(key, prefix)} = {_payload(body)}{refused}{failed}"
        case TouchCell(key=key):
            return f"lets {_short(key, prefix)} live longer{failed}"
        case TakeLock(key=key):
            return f"asks for {_short(key, prefix)}: {_answer(event, is_lock=True)}"
        case FreeLock(lock=lock):
            return f"gives back {_short(lock.key, prefix)}{failed}"
        case _:
            return f"asks {type(command).__name__}{failed}"


def keys_of(command: StoreCommand) -> tuple[str, ...]:
    """The keys of entries that a command is about."""
    match command:
        case ReadCell(key=key) | AcquireLease(key=key) | InspectCell(key=key):
            return (key,)
        case ClaimCell(key=key) | SwapCell(key=key) | TouchCell(key=key):
            return (key,)
        case ReadCells(keys=keys) | HoldCells(keys=keys) | DeleteKeys(keys=keys) | ExpireCells(keys=keys):
            return keys
        case AcquireLeases(lease_requests=requests):
            return tuple(request.key for request in requests)
        case FillCells(fills=fills):
            return tuple(fill.key for fill in fills)
        case _:
            return ()


def stored_by(command: StoreCommand, event: StoreEvent) -> tuple[str, ...]:
    """The keys that a command has stored."""
    if not isinstance(command, FillCells) or not isinstance(event, CellsFilled):
        return ()
    results = zip(command.fills, event.results, strict=True)
    return tuple(fill.key for fill, result in results if result.is_accepted)


def shorten(value: object) -> str:
    """A value's repr, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _answer(event: object, *, is_lock: bool = False) -> str:
    match event:
        case LeaseGranted() | HoldsTaken():
            return "yes"
        case FreshFound(cell=cell):
            return _cell(cell)
        case ValueFound():
            return "no, there is one"
        case WriterFound() if is_lock:
            return "another has it"
        case WriterFound():
            return "yes, but a writer holds it: not to be stored"
        case StoreFailed(kind=kind):
            return kind.value
        case _:
            return "another one does"


def _cell(cell: object) -> str:
    if not isinstance(cell, Cell):
        return "nothing" if cell is None else "something foreign"
    match cell.kind:
        case Kind.VALUE:
            return _payload(cell.body)
        case Kind.HOLD:
            return "nothing, a writer holds it"
        case _:
            return "nothing, one loads it"


def _payload(body: bytes) -> str:
    if is_nothing(body):
        return "known to be nothing"
    text = payload_of(body).decode("utf-8", "replace")
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _short(key: str, prefix: str) -> str:
    short = key.removeprefix(prefix)
    for internal, name in _INTERNAL.items():
        if short.startswith(internal):
            return f"{name} {unquote(short.removeprefix(internal))}"
    return short


def _list(keys: tuple[str, ...], prefix: str) -> str:
    return ", ".join(_short(key, prefix) for key in keys)
