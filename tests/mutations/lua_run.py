"""Mutants of the Lua texts: see the package."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

import attrs
import redis

from mutations.lua import Mutant, mutants
from mutations.reviewed import REVIEWED
from sansio_cache.cell import (
    FOREIGN,
    NO_GRANT,
    Cell,
    Kind,
    Tag,
    format_cell,
    grant_us,
    make_grant,
    parse_cell,
)
from sansio_cache.commands import (
    AcquireLease,
    Append,
    AppendEntries,
    Capture,
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
    ReplayLetter,
    StoreCommand,
    SwapCell,
    TakeLock,
    TouchCell,
)
from sansio_cache.config import CacheConfig
from sansio_cache.events import FailureKind
from sansio_cache_redis import primitive_scripts, queue_scripts, scripts
from sansio_cache_redis.backend.sync import make_backend
from support.servers import Server

TESTS: Final = Path(__file__).parents[1]

SCRIPTS: Final = {
    each.name: each for each in (*scripts.ALL, *primitive_scripts.PRIMITIVES, *queue_scripts.QUEUES)
}
SHARED: Final = {
    "clock": scripts.CLOCK,
    "leased": scripts.LEASED,
    "header": primitive_scripts._HEADER,
    "leased cell": primitive_scripts._LEASED_CELL,
    "is value": primitive_scripts._IS_VALUE,
    "append to": queue_scripts._APPEND,
}
"""What several scripts begin with. A mutant of it is one of all of them: not every script uses every line."""


def parts() -> dict[str, str]:
    """The texts that are changed: what scripts share, and what each has of its own."""
    found = dict(SHARED)
    for name, script in SCRIPTS.items():
        own = script.text
        for text in SHARED.values():
            own = own.replace(text, "\n")
        found[name] = own
    return found


def _module(name: str) -> Any:
    """A module of tests, which compares memory with the server."""
    path = TESTS / f"sansio_cache_redis/{name}.py"
    spec = importlib.util.spec_from_file_location(f"compared_by_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CELLS: Final = _module("test_scripts")
QUEUES: Final = _module("test_queue_scripts")


@contextmanager
def _changed(texts: dict[str, str]) -> Iterator[None]:
    """Give scripts other texts in the block."""
    before = {name: SCRIPTS[name].text for name in texts}
    try:
        for name, text in texts.items():
            _put(SCRIPTS[name], text)
        yield
    finally:
        for name, text in before.items():
            _put(SCRIPTS[name], text)


def _put(script: scripts.Script, text: str) -> None:
    for name, value in (
        ("text", text),
        ("source", text.encode()),
        ("sha", sha1(text.encode(), usedforsecurity=False).hexdigest().encode()),
    ):
        object.__setattr__(script, name, value)


# What is asked, and of what.

Comparison = Callable[[redis.Redis], None]
KEY, TAG = "ns:a", "ns:%t:x"
EARLY_US, LATE_US = 7, 2**52
"""When planted ids were issued: long ago, and after all that this server issues."""
GRANT = make_grant(b"nonce--1", EARLY_US)
LATE = make_grant(b"nonce--1", LATE_US)
FLOORS: Final = (0, EARLY_US, EARLY_US + 1)
"""None; one above which what is early just stands; one below which it counts as gone."""


def _cells(body: bytes) -> list[bytes]:
    """What may stand under a key: cells of each kind, and what is nearly one."""
    value = format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=body))
    values = [
        value,
        format_cell(Cell(Kind.VALUE, filled_by=LATE, body=body)),
        *(
            format_cell(Cell(Kind.VALUE, grant, 2**41, soft_ms, filled_by, body))
            for grant, filled_by in ((GRANT, GRANT), (GRANT, LATE), (LATE, GRANT))
            for soft_ms in (0, 1)
        ),
    ]
    leases = [
        format_cell(Cell(kind, grant, deadline))
        for kind in (Kind.EMPTY, Kind.HOLD)
        for grant in (GRANT, LATE)
        for deadline in (1, 2**41)
    ]
    empty = format_cell(Cell(Kind.EMPTY, filled_by=LATE))
    nearly = [b"x" * 60, value[:49], value[:50], b"\xc6" + value[1:], b"\xc5\x03" + value[2:]]
    nearly += [b"", b"\xc5\x02" + bytes(48)]
    nearly += [values[2][:49], b"\xc6" + leases[0][1:], b"\xc5\x03" + leases[0][2:], leases[0] + b"!"]
    return [*values, *leases, empty, *nearly]


def _asked(body: bytes) -> list[StoreCommand]:
    """One of each command, by those who hold the cell, and by others."""
    leases = tuple(Lease(KEY, lease_id) for lease_id in (GRANT, LATE, GRANT[:8], NO_GRANT, bytes(8)))
    return [
        *(
            AcquireLease(KEY, nonce, 9_000, seen, mode, 5.0)
            for nonce in (b"nonce--1", b"nonce--2")
            for seen in (NO_GRANT, GRANT)
            for mode in Mode
        ),
        FillCells((Fill(KEY, GRANT, 60_000, 0, body),), 5.0),
        FillCells((Fill(KEY, LATE, 60_000, 0, body),), 5.0),
        *(RenewLeases((lease,), 9_000, 5.0) for lease in leases),
        *(ReleaseLeases((lease,), 5.0) for lease in leases),
        *(HoldCells((KEY,), nonce, 9_000, 5.0) for nonce in (b"nonce--1", b"nonce--2")),
        *(ClaimCell(KEY, nonce, 9_000, 5.0) for nonce in (b"nonce--1", b"nonce--2")),
        SwapCell(KEY, GRANT, b"nonce--2", 60_000, 0, body, 5.0),
        TouchCell(KEY, GRANT, 900_000, 10**13, b"nonce--2", 5.0),
        TakeLock(KEY, b"nonce--2", 9_000, 5.0),
        *(FreeLock(lease, 5.0) for lease in leases),
        ExpireCells((KEY,), 5.0),
        InspectCell(KEY, 5.0),
    ]


def _pair(client: redis.Redis, floor_us: int = 0) -> Any:
    pair = CELLS.Pair(client)
    pair.memory.compares = pair.server._dialect.compares = False
    pair.server._dialect.raise_floor(floor_us)
    pair.memory.floor_us = floor_us
    return pair


def _branch(steps: Any, client: redis.Redis) -> None:
    """A sequence by which a branch of a script is compared."""
    pair = _pair(client)
    for step in steps:
        CELLS.take(pair, step)
    pair.compare_all()


def _queue_branch(steps: Any, client: redis.Redis) -> None:
    QUEUES.Pair(client).run(steps)


def _planted(raw: bytes, command: StoreCommand, floor_us: int, client: redis.Redis) -> None:
    """One command on one cell."""
    pair = _pair(client, floor_us)
    if raw:
        client.set(KEY, raw, px=600_000)
    else:
        client.rpush(KEY, "a list")
    pair.memory.plant(KEY, parse_cell(raw), int(pair.memory.clock() * 1000) + 600_000)
    said = [type(answers.perform(command)).__name__ for answers in (pair.memory, pair.server)]
    assert said[0] == said[1], said
    mine = pair.memory.dump().get(KEY)
    assert bool(client.exists(KEY)) == (mine is not None)
    if mine is None or client.type(KEY) != b"string":
        return
    left = client.get(KEY)
    theirs = parse_cell(left)
    assert type(theirs) is type(mine.cell)
    if not isinstance(theirs, Cell):
        assert left == raw, "what is foreign was changed"
        return
    assert abs(mine.expires_ms - pair.memory.clock() * 1000 - client.pttl(KEY)) < 5_000
    assert theirs.kind == mine.cell.kind
    # What is too old counts as gone, and may stand there.
    if not floor_us or mine.cell == parse_cell(raw):
        assert theirs.body == mine.cell.body
    for name in ("grant", "filled_by"):
        one, other = getattr(theirs, name), getattr(mine.cell, name)
        if floor_us and grant_us(one) < floor_us:
            one = NO_GRANT
        if floor_us and grant_us(other) < floor_us:
            other = NO_GRANT
        assert one[:8] == other[:8], name
        assert one == other or grant_us(other) < 2**51, name
    assert bool(theirs.soft_ms) == bool(mine.cell.soft_ms)
    assert (theirs.lease_deadline_ms > 2) == (mine.cell.lease_deadline_ms > 2)


def _captured(version: bytes, floor_us: int, client: redis.Redis) -> None:
    """A capture of a tag that has a version, or something that is none."""
    pair = _pair(client, floor_us)
    pair.memory.plant(
        TAG, Tag(version) if len(version) == 16 else FOREIGN, int(pair.memory.clock() * 1000) + 600_000
    )
    client.set(TAG, version, px=600_000)
    command = HoldCells((KEY,), b"nonce--2", 9_000, 5.0, Capture((TAG,), 300_000))
    mine, theirs = (answers.perform(command) for answers in (pair.memory, pair.server))
    assert mine.versions[0][:8] == theirs.versions[0][:8]


def _swapped_without_an_end(client: redis.Redis) -> None:
    """A value that somebody has made to stand for ever is not swapped for what has as long to live."""
    pair = _pair(client)
    client.set(KEY, format_cell(Cell(Kind.VALUE, filled_by=GRANT, body=CELLS.SEALED)))
    event = pair.server.perform(SwapCell(KEY, GRANT, b"nonce--2", 0, 0, CELLS.SEALED, 5.0))
    assert getattr(event, "version", "failed") is None


def _without_memory(client: redis.Redis) -> None:
    """What the server has no memory for fails, and says why."""
    pair, queue = _pair(client), QUEUES.Pair(client)
    queue.run([*QUEUES.DEAD, ("hold", "ns:ü", QUEUES.NONCES[0])])
    grant = queue.holds["ns:ü", QUEUES.NONCES[0]][1]
    appends = (Append("ns:ü", grant, b"body"),)
    commands = (
        AcquireLease(KEY, b"nonce--2", 9_000, NO_GRANT, Mode.KEEP, 5.0),
        AppendEntries(QUEUES.ROOT, appends, 100, 2, 5.0),
        ReplayLetter(QUEUES.ROOT, queue.letters[-1][1], "ns:a", b"nonce--2", 5.0),
    )
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        for command in commands:
            assert pair.server.perform(command).kind is FailureKind.OUT_OF_MEMORY
    finally:
        client.config_set("maxmemory", 0)


_ALONE: Final = (
    QUEUES.test_a_token_is_higher_than_the_last_also_where_the_clock_of_the_server_is_behind,
    QUEUES.test_how_often_an_entry_was_delivered_is_told_when_it_is_taken,
    QUEUES.test_what_is_appended_again_has_a_higher_token_than_the_database_has_seen,
    QUEUES.test_who_has_not_attended_for_long_is_not_counted,
)
"""Tests of their own."""


def sequences() -> list[Comparison]:
    """Each command on each kind of cell above and below a floor; then the branches of the scripts."""
    body = CELLS.SEALED
    short = b"nonce--1"
    return [
        *(partial(_branch, steps) for steps in CELLS.BRANCHES.values()),
        *(partial(_queue_branch, steps) for steps in QUEUES.BRANCHES.values()),
        *(partial(_captured, version, floor_us) for version in (GRANT, LATE, short) for floor_us in FLOORS),
        _swapped_without_an_end,
        _without_memory,
        *_ALONE,
        *(
            partial(_planted, raw, command, floor_us)
            for raw in _cells(body)
            for command in _asked(body)
            for floor_us in FLOORS
        ),
    ]


# The run.


_COUNTED: Final = ("publish", "spublish", "hset")


@attrs.define
class Watched:
    """What a sequence has the server do: which scripts run, who is told in which way, and what is written.

    That something is written over by what it was shows in nothing else: replicas are to have it, says WAIT.
    """

    ran: frozenset[str] = frozenset()
    calls: tuple[int, ...] = ()


def _watch(sequence: Comparison, client: redis.Redis) -> Watched:
    """Run a sequence.

    Raises:
        AssertionError: The server does not do what memory does, or a script tells a time that is none.
    """
    client.flushall()
    client.config_resetstat()
    began_us = _server_us(client)
    watched = Watched()
    names = {script.sha: name for name, script in SCRIPTS.items()}
    calls: list[tuple[str, Any]] = []
    made = make_backend

    def watching(config: CacheConfig, *args: Any) -> Any:
        backend = made(config, *args)
        execute = backend.connections.execute

        def listen(commands: Sequence[Any], timeout_s: float) -> Any:
            replies = execute(commands, timeout_s)
            for command, reply in zip(commands, replies, strict=True):
                if command[0] in (b"EVALSHA", b"EVAL"):
                    sha = command[1] if command[0] == b"EVALSHA" else _sha(command[1])
                    calls.append((names.get(sha, "?"), reply))
            return replies

        backend.connections.execute = listen
        return backend

    for module in (CELLS, QUEUES):
        module.make_backend = watching
    try:
        sequence(client)
    finally:
        for module in (CELLS, QUEUES):
            module.make_backend = made
        watched.ran = frozenset(name for name, _ in calls)
    ended_us = _server_us(client)
    for _, reply in calls:
        for each in reply if isinstance(reply, list) else ():
            if isinstance(each, int) and each > 10**14:
                assert began_us <= each <= ended_us, "not the time of the server"
    stats: Any = client.info("commandstats")
    watched.calls = tuple(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _COUNTED)
    return watched


def _server_us(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 1_000_000 + int(microseconds)


def _sha(source: bytes) -> bytes:
    return sha1(source, usedforsecurity=False).hexdigest().encode()


def _texts(mutant: Mutant) -> dict[str, str]:
    """The scripts that have a mutant's part, with their texts as they are then."""
    part = parts()[mutant.script]
    if mutant.script in SHARED:
        holders = [name for name, script in SCRIPTS.items() if part in script.text]
        return {name: SCRIPTS[name].text.replace(part, mutant.text) for name in holders}
    # What a script has of its own comes after what it shares.
    shared = SCRIPTS[mutant.script].text.removesuffix(part.lstrip("\n"))
    return {mutant.script: shared + mutant.text.lstrip("\n")}


def _is_killed(sequence: Comparison, expected: Watched, client: redis.Redis) -> bool:
    try:
        return _watch(sequence, client).calls != expected.calls
    except Exception:
        return True


def run(every: int) -> int:
    """Run every nth mutant; the exit status says whether all that survive are known."""
    chosen = [mutant for name, text in parts().items() for mutant in mutants(name, text)][::every]
    killed, refused, survivors = 0, 0, list[Mutant]()
    began_s = time.monotonic()
    with Server.start() as server, closing(server.client()) as client:
        compared: list[tuple[Comparison, Watched]] = []
        differing = 0
        for sequence in sequences():
            # What differs without a mutant, such as a lock's command on a value, compares nothing.
            try:
                compared.append((sequence, _watch(sequence, client)))
            except Exception:
                differing += 1
                if not (isinstance(sequence, partial) and sequence.func is _planted):
                    raise
        print(f"{len(chosen)} mutants, {len(compared)} sequences, {differing} differ anyway", flush=True)
        for mutant in chosen:
            texts = _texts(mutant)
            try:
                for text in texts.values():
                    client.script_load(text)
            except redis.ResponseError:
                refused += 1
                continue
            concerned = [each for each in compared if each[1].ran & texts.keys()]
            with _changed(texts):
                if any(_is_killed(sequence, watched, client) for sequence, watched in concerned):
                    killed += 1
                else:
                    survivors.append(mutant)
                    print(f"survived: {mutant}", flush=True)
    took_s = time.monotonic() - began_s
    print(f"{killed} killed, {len(survivors)} survived, {refused} are no Lua, in {took_s:.0f} s")
    unknown = [str(each) for each in survivors if not any(re.search(known, str(each)) for known in REVIEWED)]
    for each in unknown:
        print(f"not on the reviewed list: {each}")
    if every == 1:
        met = {known for known in REVIEWED for each in survivors if re.search(known, str(each))}
        for known in REVIEWED.keys() - met:
            print(f"on the reviewed list, and killed: {known}")
            unknown.append(known)
    return 1 if unknown else 0
