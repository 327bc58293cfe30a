"""Telling a move in words, for counterexamples."""

from __future__ import annotations

from typing import Any

from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, Kind, Tag
from sansio_cache.commands import Compute, ComputeMany, FillCells
from sansio_cache.exploring.configuration import Fault
from sansio_cache.exploring.moves import Move, Moves
from sansio_cache.exploring.naming import label_of, payload_of, tags_of
from sansio_cache.exploring.process import Process, Stage, Worker, pending
from sansio_cache.exploring.storing import Stored
from sansio_cache.exploring.tables import Action
from sansio_cache.exploring.world import World


def describe(moves: Moves, move: Move, before: World, after: World) -> str:
    """One line: who does what, and what the store holds afterwards."""
    text = _move(moves, move, before, after)
    return f"{text}  [{_stored(moves.tables.names.stores.objects[after.store])}]"


def _move(moves: Moves, move: Move, before: World, after: World) -> str:
    if move.fault is Fault.DUPLICATE:
        assert isinstance(move.detail, int)
        return f"* {move.fault.value}: {_command(moves.tables.commands.objects[move.detail])}"
    if move.fault is not None and move.action is Action.WORLD and move.fault is not Fault.INTERRUPTION:
        where = f" of process {move.process}" if move.fault is Fault.CRASH else ""
        if move.fault is Fault.GONE:
            where = f" ({move.detail})"
        return f"* {move.fault.value}{where}"
    old: Process = moves.tables.names.processes.objects[before.processes[move.process]]
    new: Process = moves.tables.names.processes.objects[after.processes[move.process]]
    if move.action is Action.END_REST:
        return f"process {move.process} {move.action.value}"
    numbers = moves.tables.numbers[move.process]
    if move.worker < len(numbers):
        program = moves.configuration.processes[move.process][move.worker]
        who = f"{'reader' if program[0].is_read else 'writer'} {numbers[move.worker]}"
    else:
        is_recovery = old.workers[move.worker].stage is Stage.RECOVERING
        who = f"{'recovery' if is_recovery else 'refresh'} of process {move.process}"
    what = _what(move, old.workers[move.worker], before, after)
    fault = f" * {move.fault.value}" if move.fault is not None else ""
    performed = " (performed)" if move.detail == "performed" else ""
    then = _then(new.workers[move.worker]) if move.worker < len(new.workers) else "done"
    return f"{who} {what}{fault}{performed} -> {then}"


def _what(move: Move, worker: Worker, before: World, after: World) -> str:
    command = pending(worker)
    begins = ""
    if worker.stage is Stage.READY and worker.acts[0].is_read:
        begins = f"begins {worker.acts[0].deed.value}, "
    match move.action:
        case Action.REQUEST:
            return f"asks {_command(command)}" if command is not None else f"{begins}reads"
        case Action.LOOK:
            return f"{begins}looks at the database: version {_numbers(before.version)}"
        case Action.COMMIT:
            return f"commits version {max(after.version)}"
        case _:
            return f"{begins}{move.action.value}"


def _then(worker: Worker) -> str:
    command = pending(worker)
    if worker.reply is not None:
        return f"{type(worker.reply).__name__} on its way"
    if worker.following is not None:
        return f"follows load {worker.following.load_id} ({worker.following.joined.name})"
    if isinstance(command, Compute | ComputeMany):
        return "calls its loader"
    if command is not None:
        return f"will ask {_command(command)}"
    return worker.stage.value


def _command(command: Any) -> str:
    name = type(command).__name__
    if isinstance(command, FillCells):
        fills = (f"{_grant(fill.grant)}, {_body(fill.body)}" for fill in command.fills)
        return f"{name}({'; '.join(fills)})"
    if hasattr(command, "leases"):
        return f"{name}({', '.join(_grant(lease.lease_id) for lease in command.leases)})"
    if hasattr(command, "key"):
        nonce = f" for {_grant(command.nonce)}" if hasattr(command, "nonce") else ""
        return f"{name}({command.key}{nonce})"
    if hasattr(command, "keys"):
        return f"{name}({', '.join(command.keys)})"
    if hasattr(command, "nonce"):
        return f"{name}({_grant(command.nonce)})"
    return name


def _grant(lease_id: bytes) -> str:
    nonce: str = lease_id[:NONCE_BYTES].decode("ascii", "replace")
    is_numbered = len(lease_id) > NONCE_BYTES and label_of(lease_id) > 0
    return f"{nonce}/{label_of(lease_id)}" if is_numbered else nonce


def _body(body: bytes) -> str:
    ties = "".join(f", {name or 'variant of'} {_grant(version)}" for _, name, version in tags_of(body))
    return f"version {payload_of(body).decode()}{ties}"


def _numbers(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions))


def _stored(stored: Stored) -> str:
    return "; ".join(f"{key}: {_cell(kept.cell)}" for key, kept in stored) or "nothing"


def _cell(cell: Any) -> str:
    if isinstance(cell, Tag):
        return _grant(cell.version)
    assert isinstance(cell, Cell)
    if cell.kind == Kind.VALUE:
        lease = f", leased to {_grant(cell.grant)}" if cell.grant != NO_GRANT else ""
        return f"{_body(cell.body)} by {_grant(cell.filled_by)}{lease}"
    kind = "leased to" if cell.kind == Kind.EMPTY else "held by"
    return f"{kind} {_grant(cell.grant)}"
