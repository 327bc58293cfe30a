"""Telling a move in words, for counterexamples."""

from __future__ import annotations

from typing import Any

from exploring.configuration import Fault
from exploring.moves import Move, Moves
from exploring.naming import label_of
from exploring.process import Process, Stage, Worker, pending
from exploring.storing import cell_of, version_of
from exploring.tables import Action
from exploring.world import World
from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Kind
from sansio_cache.commands import FillCells


def tell(moves: Moves, move: Move, before: World, after: World) -> str:
    """One line: who does what, and what the cell is afterwards."""
    text = _move(moves, move, before, after)
    return f"{text}  [{_cell(moves.tables.names.stores.objects[after.store])}]"


def _move(moves: Moves, move: Move, before: World, after: World) -> str:
    if move.fault is Fault.DUPLICATE:
        assert isinstance(move.detail, int)
        return f"* {move.fault.value}: {_command(moves.tables.commands.objects[move.detail])}"
    if move.fault is not None and move.action is Action.WORLD and move.fault is not Fault.INTERRUPTION:
        where = f" of process {move.process}" if move.fault is Fault.CRASH else ""
        return f"* {move.fault.value}{where}"
    old: Process = moves.tables.names.processes.objects[before.processes[move.process]]
    new: Process = moves.tables.names.processes.objects[after.processes[move.process]]
    number = moves.tables.numbers[move.process][move.worker]
    program = moves.configuration.processes[move.process][move.worker]
    kind = "reader" if program[0].is_read else "writer"
    who = f"{kind} {number}"
    what = _what(move, old.workers[move.worker], before, after)
    fault = f" * {move.fault.value}" if move.fault is not None else ""
    performed = " (performed)" if move.detail == "performed" else ""
    then = _then(new.workers[move.worker])
    return f"{who} {what}{fault}{performed} -> {then}"


def _what(move: Move, worker: Worker, before: World, after: World) -> str:
    command = pending(worker)
    begins = "begins, " if worker.stage is Stage.READY and worker.acts[0].is_read else ""
    match move.action:
        case Action.REQUEST:
            return f"asks {_command(command)}" if command is not None else "begins, asks ReadCell"
        case Action.JOIN if begins:
            return "begins without the store, joins"
        case Action.LOOK:
            return f"{begins}looks at the database: version {before.version}"
        case Action.COMMIT:
            return f"commits version {after.version}"
        case _:
            return f"{begins}{move.action.value}"


def _then(worker: Worker) -> str:
    command = pending(worker)
    if worker.reply is not None:
        return f"{type(worker.reply).__name__} on its way"
    if worker.following is not None:
        return f"follows flight {worker.following.flight} ({worker.following.joined.name})"
    if command is not None:
        return f"will ask {_command(command)}"
    return worker.stage.value


def _command(command: Any) -> str:
    name = type(command).__name__
    if isinstance(command, FillCells):
        return f"{name}({_grant(command.fills[0].grant)}, {command.fills[0].body[21:].decode()})"
    if hasattr(command, "leases"):
        return f"{name}({_grant(command.leases[0].claim)})"
    if hasattr(command, "nonce"):
        return f"{name}({_grant(command.nonce)})"
    return name


def _grant(claim: bytes) -> str:
    if claim == NO_GRANT:
        return "none"
    nonce: str = claim[:NONCE_BYTES].decode("ascii", "replace")
    is_numbered = len(claim) > NONCE_BYTES and label_of(claim) > 0
    return f"{nonce}/{label_of(claim)}" if is_numbered else nonce


def _cell(stored: Any) -> str:
    cell = cell_of(stored)
    others = [key for key, _ in stored if key != "k"]
    beside = f", beside {', '.join(others)}" if others else ""
    if cell is None:
        return f"no cell{beside}"
    if cell.kind == Kind.VALUE:
        lease = f", leased to {_grant(cell.grant)}" if cell.grant != NO_GRANT else ""
        return f"version {version_of(stored)}{lease}{beside}"
    kind = "leased to" if cell.kind == Kind.EMPTY else "held by"
    return f"{kind} {_grant(cell.grant)}{beside}"
