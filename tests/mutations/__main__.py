"""The run: see the package."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import redis

from mutations.lua import Mutant, mutants
from mutations.reviewed import REVIEWED
from sansio_cache.cell import NO_GRANT, Cell, Kind, format_cell, grant_us, make_grant, parse_cell
from sansio_cache.commands import (
    AcquireLease,
    ClaimCell,
    ExpireCells,
    Fill,
    FillCells,
    FreeLock,
    HoldCells,
    InspectCell,
    Lease,
    Mode,
    ReleaseLeases,
    RenewLeases,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache_redis import primitive_scripts, scripts
from support.servers import Server

TESTS = Path(__file__).parents[1]


def _scripts() -> list[scripts.Script]:
    """All scripts but those of queues, which `test_queue_scripts.py` compares."""
    found = [each for module in (scripts, primitive_scripts) for each in vars(module).values()]
    return list({each.name: each for each in found if isinstance(each, scripts.Script)}.values())


def _comparisons() -> Any:
    """The module that compares memory with the server."""
    path = TESTS / "sansio_cache_redis/test_scripts.py"
    spec = importlib.util.spec_from_file_location("comparisons", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comparisons"] = module
    spec.loader.exec_module(module)
    return module


def _put(script: scripts.Script, text: str) -> None:
    """Give a script another text."""
    for name, value in (
        ("text", text),
        ("source", text.encode()),
        ("sha", sha1(text.encode(), usedforsecurity=False).hexdigest().encode()),
    ):
        object.__setattr__(script, name, value)


KEY = "ns:a"
GRANT = make_grant(b"nonce--1", 7)


def _cells(body: bytes) -> list[bytes]:
    """What may stand under a key: cells of each kind, and what is nearly one."""
    value = format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=body))
    leased = format_cell(Cell(Kind.VALUE, GRANT, 2**41, filled_by=GRANT, body=body))
    kinds = [
        format_cell(Cell(kind, GRANT, deadline))
        for kind in (Kind.EMPTY, Kind.HOLD)
        for deadline in (1, 2**41)
    ]
    nearly = [b"x" * 60, value[:49], value[:50], b"\xc6" + value[1:], b"\xc5\x03" + value[2:]]
    later = make_grant(b"nonce--1", 2**52)
    kinds += [format_cell(Cell(Kind.HOLD, later, 1)), format_cell(Cell(Kind.EMPTY, filled_by=later))]
    nearly += [
        b"",
        b"\xc5\x02" + bytes(48),
        b"\xc6" + kinds[0][1:],
        b"\xc5\x03" + kinds[0][2:],
        kinds[0] + b"!",
    ]
    return [value, leased, *kinds, *nearly]


def _asked(body: bytes) -> list[StoreCommand]:
    """One of each command, by those who hold the cell, and by others."""
    leases = (Lease(KEY, GRANT), Lease(KEY, GRANT[:8]), Lease(KEY, NO_GRANT), Lease(KEY, bytes(8)))
    return [
        *(AcquireLease(KEY, b"nonce--2", 9_000, NO_GRANT, mode, 5.0) for mode in Mode),
        FillCells((Fill(KEY, GRANT, 60_000, 0, body),), 5.0),
        *(RenewLeases((lease,), 9_000, 5.0) for lease in leases),
        *(ReleaseLeases((lease,), 5.0) for lease in leases),
        HoldCells((KEY,), b"nonce--2", 9_000, 5.0),
        ClaimCell(KEY, b"nonce--2", 9_000, 5.0),
        SwapCell(KEY, GRANT, b"nonce--2", 60_000, 0, body, 5.0),
        TouchCell(KEY, GRANT, 900_000, 10**13, b"nonce--2", 5.0),
        TakeLock(KEY, b"nonce--2", 9_000, 5.0),
        *(FreeLock(lease, 5.0) for lease in leases),
        ExpireCells((KEY,), 5.0),
        InspectCell(KEY, 5.0),
    ]


Sequence = Callable[[Any], None]


def _sequences(comparisons: Any) -> list[Sequence]:
    """The branches of the scripts, and each command on each kind of cell."""

    def branch(steps: Any, pair: Any) -> None:
        for step in steps:
            comparisons.take(pair, step)

    def planted(raw: bytes, command: StoreCommand, pair: Any) -> None:
        if raw:
            pair.client.set(KEY, raw, px=600_000)
        else:
            pair.client.rpush(KEY, "a list")
        pair.memory.plant(KEY, parse_cell(raw), int(pair.memory.clock() * 1000) + 600_000)
        said = [type(answers.perform(command)).__name__ for answers in (pair.memory, pair.server)]
        assert said[0] == said[1], said
        mine = pair.memory.dump().get(KEY)
        assert bool(pair.client.exists(KEY)) == (mine is not None)
        if mine is None or pair.client.type(KEY) != b"string":
            return
        left = pair.client.get(KEY)
        theirs = parse_cell(left)
        assert type(theirs) is type(mine.cell)
        if not isinstance(theirs, Cell):
            assert left == raw, "what is foreign was changed"
            return
        assert abs(mine.expires_ms - pair.memory.clock() * 1000 - pair.client.pttl(KEY)) < 5_000
        assert (theirs.kind, theirs.body) == (mine.cell.kind, mine.cell.body)
        for name in ("grant", "filled_by"):
            one, other = getattr(theirs, name), getattr(mine.cell, name)
            assert one[:8] == other[:8], name
            assert one == other or grant_us(other) < 2**51, name
        assert bool(theirs.soft_ms) == bool(mine.cell.soft_ms)
        assert (theirs.lease_deadline_ms > 2) == (mine.cell.lease_deadline_ms > 2)

    body = comparisons.SEALED
    found: list[Sequence] = [partial(branch, steps) for steps in comparisons.BRANCHES.values()]
    return found + [partial(planted, raw, command) for raw in _cells(body) for command in _asked(body)]


def _kills(sequence: Sequence, comparisons: Any, client: Any) -> bool:
    """Whether a sequence has other answers than in memory."""
    client.flushall()
    pair = comparisons.Pair(client)
    pair.memory.compares = pair.server._dialect.compares = False
    try:
        sequence(pair)
        pair.compare_all()
    except Exception:
        return True
    return False


def main() -> int:
    """Run the mutants; the exit status says whether all that survive are known."""
    parser = argparse.ArgumentParser(prog="mutations", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every nth mutant only")
    every = parser.parse_args().every
    comparisons = _comparisons()
    texts = {each.name: each for each in _scripts()}
    all_mutants = [mutant for name, each in texts.items() for mutant in mutants(name, each.text)][::every]
    killed, refused, survivors = 0, 0, list[Mutant]()
    began_s = time.monotonic()
    with Server.start() as server, closing(server.client()) as client:
        # What differs without a mutant, such as a lock's command on a value, compares nothing.
        sequences = [each for each in _sequences(comparisons) if not _kills(each, comparisons, client)]
        print(f"{len(all_mutants)} mutants, {len(sequences)} sequences", flush=True)
        for mutant in all_mutants:
            script = texts[mutant.script]
            before = script.text
            try:
                client.script_load(mutant.text)
            except redis.ResponseError:
                refused += 1
                continue
            _put(script, mutant.text)
            try:
                if any(_kills(each, comparisons, client) for each in sequences):
                    killed += 1
                else:
                    survivors.append(mutant)
                    print(f"survived: {mutant}", flush=True)
            finally:
                _put(script, before)
    took_s = time.monotonic() - began_s
    print(f"{killed} killed, {len(survivors)} survived, {refused} are no Lua, in {took_s:.0f} s")
    unknown = [str(each) for each in survivors if not any(re.search(known, str(each)) for known in REVIEWED)]
    for each in unknown:
        print(f"not on the reviewed list: {each}")
    return 1 if unknown else 0


if __name__ == "__main__":
    raise SystemExit(main())
