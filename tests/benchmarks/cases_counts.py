"""What is counted rather than timed: commands and bytes at the server, and memory at both ends."""

import functools
import gc
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing
from statistics import mean
from typing import Any, cast

import anyio
import redis

from benchmarks import operations
from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.contenders import OURS, Address, Contender, Peer
from benchmarks.lab import Lab, role_of
from benchmarks.loads import Call, Operation, Sample, fill
from benchmarks.results import BASELINE, PEER, RATES, Column, Group, Row, rate_rows
from benchmarks.results import OURS as OURS_ROLE
from benchmarks.values import SIZES, USUAL, dumps, make_items, make_value
from sansio_cache_redis.sync import Cache

_NOT_OURS = frozenset(
    {"info", "echo", "monitor", "hello", "select", "client|setinfo", "client|setname", "ping"}
)
"""Calls of the counting itself, and of connecting."""


# At the server, by call.

_WIRE_COLUMNS = (
    Column("commands", "commands sent", ",.2f"),
    Column("calls", "with those inside scripts", ",.2f"),
    Column("bytes_in", "bytes to the server"),
    Column("bytes_out", "bytes from it"),
)


def _wire(lab: Lab) -> Iterator[Group]:
    for what in ("hit", "miss"):
        for contenders in (ASYNC, THREADS):
            yield _wire_group(lab, what, contenders)


def _wire_group(lab: Lab, what: str, contenders: tuple[Contender, ...]) -> Group:
    case = "on the wire"
    lab.progress(f"{case}: {what}")
    present, absent = lab.present(contenders)
    lab.empty(present)
    items = make_items(lab.scale.counted, USUAL)
    value = make_value(1, SIZES[USUAL])
    rows = []
    for contender in present:
        address = lab.address(contender)
        fill(contender, address, {"warm": "warm", **items})
        operation = _counted_operation(contender, what, list(items), value)
        with _Counting(lab) as counting:
            _run_sequence(contender, address, operation, lab.scale.counted, counting)
        figures, sent = counting.figures(lab.scale.counted)
        note = ", ".join(f"{count / lab.scale.counted:.3g} {name}" for name, count in sorted(sent.items()))
        if what == "miss" and contender.unguarded:
            note += f"; {contender.unguarded}"
        rows.append(Row(who=contender.name, role=role_of(contender), figures=figures, note=note))
    lab.empty(present)
    kind = "threads" if contenders is THREADS else "async"
    return Group(
        case=case,
        conditions={"what": what, "value": USUAL, "kind": kind},
        columns=_WIRE_COLUMNS,
        rows=rows,
        absent=absent,
        chart="bytes_out" if what == "hit" else "commands",
        less_is_better=True,
    )


def _counted_operation(contender: Contender, what: str, keys: list[str], value: Any) -> Operation:
    loader = operations.loader_of(contender, value)
    if what == "hit":
        return operations.get(keys)
    return operations.miss(loader, guarded=not contender.unguarded)


class _Counting:
    """Counts twice: bytes alone, for MONITOR has bytes of its own, then commands.

    `between` is called before the first, between the two, and after the second.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._raw = lab.raw(0)
        self._bytes: list[tuple[int, int]] = []
        self._own = (0, 0)
        self._sent: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def __enter__(self) -> "_Counting":
        first, second = self._look(), self._look()
        self._own = (second[0] - first[0], second[1] - first[1])
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._raw.close()

    def count_bytes(self, run: Callable[[], Any]) -> Any:
        self._bytes.append(self._look())
        return run()

    def end_bytes(self) -> None:
        self._bytes.append(self._look())

    def count_commands(self, run: Callable[[], Any]) -> None:
        """Only for blocking callers: `run` is done when it returns."""
        with self._lab.server.commands() as calls, self._lab.server.monitor() as monitor:
            run()
        self._take(calls, monitor.commands)

    async def count_commands_async(self, run: Callable[[], Any]) -> None:
        with self._lab.server.commands() as calls, self._lab.server.monitor() as monitor:
            await run()
        self._take(calls, monitor.commands)

    def _take(self, calls: Mapping[str, int], commands: list[list[str]]) -> None:
        self._sent = Counter(words[0].upper() for words in commands if words[0].lower() not in _NOT_OURS)
        self._calls = Counter({name: count for name, count in calls.items() if name not in _NOT_OURS})

    def figures(self, count: int) -> tuple[dict[str, float], Counter[str]]:
        (in_before, out_before), (in_after, out_after) = self._bytes
        figures = {
            "commands": sum(self._sent.values()) / count,
            "calls": sum(self._calls.values()) / count,
            "bytes_in": (in_after - in_before - self._own[0]) / count,
            "bytes_out": (out_after - out_before - self._own[1]) / count,
        }
        return figures, self._sent

    def _look(self) -> tuple[int, int]:
        stats = cast("dict[str, int]", self._raw.info("stats"))
        return stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def _run_sequence(
    contender: Contender, address: Address, operation: Operation, count: int, counting: _Counting
) -> None:
    """One caller, twice: its bytes, then its commands. It has connected, and loaded its scripts, before."""
    if contender.runtime == "threads":
        with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
            call = cast("Call", operation(peer))
            call(10**6)

            def run() -> None:
                for number in range(count):
                    call(number)

            counting.count_bytes(run)
            counting.end_bytes()
            call = cast("Call", operation(peer))
            counting.count_commands(run)
    else:
        anyio.run(_sequence_async, contender, address, operation, count, counting, backend=contender.runtime)


async def _sequence_async(
    contender: Contender, address: Address, operation: Operation, count: int, counting: _Counting
) -> None:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        call = cast("Call", operation(peer))
        await call(10**6)

        async def run() -> None:
            for number in range(count):
                await call(number)

        await counting.count_bytes(run)
        counting.end_bytes()
        call = cast("Call", operation(peer))
        await counting.count_commands_async(run)


# Memory at the server.

_ENTRY_COLUMNS = (
    Column("bytes", "bytes an entry"),
    Column("beyond", "beyond its JSON", is_positive=False),
    Column("ratio", "times redis-py", ".2f"),
)


def _server_memory(lab: Lab) -> Iterator[Group]:
    case = "memory at the server"
    for size in lab.scale.sizes:
        lab.progress(f"{case}: {size}")
        present, absent = lab.present((*THREADS, *(each for each in ASYNC if each.package)))
        lab.empty(present)
        items = make_items(min(lab.scale.entries, 50), size)
        text_bytes = mean(len(dumps(value)) for value in items.values())
        used: dict[str, float] = {}
        for contender in present:
            fill(contender, lab.address(contender), items)
            with closing(lab.raw(contender.db)) as client:
                used[contender.name] = _usage(client)
        lab.empty(present)
        base = next(used[each.name] for each in present if role_of(each) == BASELINE)
        rows = [
            Row(
                who=each.name,
                role=role_of(each),
                figures={
                    "bytes": used[each.name],
                    "beyond": used[each.name] - text_bytes,
                    "ratio": used[each.name] / base,
                },
                note=each.codec,
            )
            for each in present
        ]
        yield Group(
            case=case,
            conditions={"value": size},
            columns=_ENTRY_COLUMNS,
            rows=rows,
            absent=absent,
            less_is_better=True,
        )


def _usage(client: redis.Redis) -> float:
    keys = [key for key in client.scan_iter(count=1_000) if b":%" not in key]
    return mean(cast("int", client.memory_usage(key, samples=0)) for key in keys)


# The memory store.


def _stores(lab: Lab) -> dict[str, tuple[str, str, Callable[[], tuple[Callable, Callable]]]]:
    """Name -> role, note, and how to make a (set, get) pair. Only what is installed."""

    def ours() -> tuple[Callable, Callable]:
        cache = Cache.from_url("memory://", namespace="bench")
        return cache.set, cache.get

    def plain() -> tuple[Callable, Callable]:
        kept: dict[str, Any] = {}
        return kept.__setitem__, kept.get

    def texts() -> tuple[Callable, Callable]:
        kept: dict[str, str] = {}

        def put(key: str, value: Any) -> None:
            kept[key] = json.dumps(value)

        def get(key: str) -> Any:
            return json.loads(kept[key])

        return put, get

    def lru() -> tuple[Callable, Callable]:
        source: dict[str, Any] = {}
        get = functools.lru_cache(maxsize=100_000)(source.__getitem__)

        def put(key: str, value: Any) -> None:
            source[key] = value
            get(key)

        return put, get

    def dogpile() -> tuple[Callable, Callable]:
        from dogpile.cache import make_region

        region = make_region().configure("dogpile.cache.memory", expiration_time=3600)
        return region.set, region.get

    def django() -> tuple[Callable, Callable]:
        from django.core.cache.backends.locmem import LocMemCache

        cache = LocMemCache(f"bench{time.monotonic_ns()}", {"OPTIONS": {"MAX_ENTRIES": 100_000}})
        return cache.set, cache.get

    found: dict[str, tuple[str, str, Callable[[], tuple[Callable, Callable]]]] = {
        OURS: (OURS_ROLE, "msgspec JSON; every caller has its own copy", ours),
        "dict": (BASELINE, "gives the object itself; no time to live", plain),
        "dict of JSON": (PEER, "json; own copy; no time to live", texts),
        "functools.lru_cache": (PEER, "gives the object itself; no time to live", lru),
    }
    by_name = {contender.name: contender for contender in THREADS}
    if by_name["dogpile.cache"].is_installed:
        found["dogpile.cache memory"] = (PEER, "gives the object itself", dogpile)
    if by_name["Django"].is_installed:
        found["Django locmem"] = (PEER, "pickle; own copy", django)
    return found


def _memory_hits(lab: Lab) -> Iterator[Group]:
    for size in lab.scale.sizes:
        case = "memory store hit"
        lab.progress(f"{case}: {size}")
        items = make_items(min(lab.scale.keys, 20), size)
        stores = _stores(lab)
        reads = {}
        for name, (_, _, make) in stores.items():
            put, reads[name] = make()
            for key, value in items.items():
                put(key, value)
        samples: dict[str, list[Sample]] = {name: [] for name in stores}
        for _ in range(lab.scale.rounds):
            for name, read in reads.items():
                gc.collect()
                samples[name].append(_time_reads(read, list(items), lab.scale.store_s))
        rows = rate_rows(
            samples,
            {name: role for name, (role, _, _) in stores.items()},
            {name: note for name, (_, note, _) in stores.items()},
        )
        columns = tuple(
            Column(each.name, each.heading.replace("redis-py", "dict"), ".4f", each.is_positive)
            if "redis-py" in each.heading or each.name in ("least", "most")
            else each
            for each in RATES
        )
        yield Group(
            case=case, conditions={"value": size}, columns=columns, rows=rows, chart="us", less_is_better=True
        )


def _time_reads(read: Callable[[str], Any], keys: list[str], window_s: float) -> Sample:
    read(keys[0])
    clock = time.perf_counter
    count = 0
    cpu_s = time.process_time()
    began_s = clock()
    until_s = began_s + window_s
    while True:
        for key in keys:  # the clock is read once a turn: it costs as much as a dict
            read(key)
        count += len(keys)
        if (now_s := clock()) >= until_s:
            break
    return Sample(items=count, wall_s=now_s - began_s, cpu_s=time.process_time() - cpu_s)


_KEPT_COLUMNS = (
    Column("bytes", "bytes an entry"),
    Column("beyond", "beyond its JSON", is_positive=False),
    Column("ratio", "times dict of JSON", ".2f"),
)


def _memory_kept(lab: Lab) -> Iterator[Group]:
    for size in lab.scale.sizes:
        if SIZES[size] > 10_000:
            continue  # the entry's own cost is lost in a value of that size
        case = "memory of the memory store"
        lab.progress(f"{case}: {size}")
        stores = _stores(lab)
        texts = {key: json.dumps(value) for key, value in make_items(lab.scale.entries, size).items()}
        used = {name: _traced(make, texts) for name, (_, _, make) in stores.items()}
        text_bytes = mean(len(dumps(json.loads(text))) for text in texts.values())
        rows = [
            Row(
                who=name,
                role=role,
                figures={
                    "bytes": used[name],
                    "beyond": used[name] - text_bytes,
                    "ratio": used[name] / used["dict of JSON"],
                },
                note=note,
            )
            for name, (role, note, _) in stores.items()
        ]
        yield Group(
            case=case,
            conditions={"value": size, "entries": lab.scale.entries},
            columns=_KEPT_COLUMNS,
            rows=rows,
            less_is_better=True,
        )


def _traced(make: Callable[[], tuple[Callable, Callable]], texts: Mapping[str, str]) -> float:
    put, get = make()
    for key in list(texts)[:2]:
        put("first:" + key, json.loads(texts[key]))  # what is made once is not the entry's
    gc.collect()
    tracemalloc.start()
    try:
        for key, text in texts.items():
            put(key, json.loads(text))  # an object of its own, as a caller has
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert get(next(iter(texts))) is not None  # it is there, and so is the store
    return kept / len(texts)


CASES = (
    Case(
        name="on the wire",
        about="What one call costs the server: commands by MONITOR and commandstats, bytes by INFO.",
        run=_wire,
    ),
    Case(name="memory at the server", about="MEMORY USAGE of an entry.", run=_server_memory),
    Case(name="memory store hit", about="A hit in this process, beside a dict.", run=_memory_hits),
    Case(
        name="memory of the memory store",
        about="What an entry adds to this process, by tracemalloc.",
        run=_memory_kept,
    ),
)
