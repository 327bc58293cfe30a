"""Writes that are queued: what a write costs its caller, and how quickly a backlog is written."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from statistics import median, quantiles
from threading import Barrier, Thread
from typing import Any, cast

import anyio
import msgspec
import redis
import redis.asyncio

from benchmarks.case import Case
from benchmarks.lab import Lab
from benchmarks.results import BASELINE, OURS, OWN, Column, Group, Row
from sansio_cache import WriteBehind, WriteThrough
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync

_DB = 12
_COMMIT_S = 0.005
_KEYS = 500
_XADD, _BEHIND, _THROUGH = (
    "redis-py: XADD",
    "write, WriteBehind()",
    f"write, WriteThrough(), commits of {_COMMIT_S * 1000:g} ms",
)
_ROLES = {_XADD: BASELINE, _BEHIND: OURS, _THROUGH: OWN}
_COLUMNS = (
    Column("per_s", "per s"),
    Column("p50_ms", "p50 ms", ",.2f"),
    Column("p99_ms", "p99 ms", ",.2f"),
    Column("ratio", "throughput, times XADD", ".2f"),
    Column("least", "least", ".2f"),
    Column("most", "most", ".2f"),
)
_PLAIN = "redis-py: XREADGROUP and XACK"
_DRAINED_COLUMNS = (
    Column("per_s", "writes per s"),
    Column("ratio", "throughput, times redis-py", ".2f"),
    Column("rows", "rows written"),
    Column("batches", "batches"),
)
_BATCH = 1_000


class _Item(msgspec.Struct):
    id: int
    name: str


def _item(number: int) -> _Item:
    return _Item(number % _KEYS, "x" * 160)


def _nothing(values: list[_Item]) -> None:
    """A database that takes no time."""


def _commit(_: _Item) -> None:
    time.sleep(_COMMIT_S)


async def _commit_in_loop(_: _Item) -> None:
    await anyio.sleep(_COMMIT_S)


def _taken(took_s: list[float], wall_s: float) -> dict[str, float]:
    cuts = quantiles(took_s, n=100) if len(took_s) > 1 else took_s * 99
    return {"per_s": len(took_s) / wall_s, "p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


def _on_threads(lab: Lab, who: str, callers: int) -> dict[str, float]:
    url = f"redis://127.0.0.1:{lab.server.port}/{_DB}"
    with ExitStack() as stack:
        write: Callable[[int], Any]
        if who == _XADD:
            client = stack.enter_context(closing(redis.Redis.from_url(url)))
            write = lambda number: client.xadd("plain", {"value": msgspec.json.encode(_item(number))})  # noqa: E731
        else:
            cache = stack.enter_context(cache_sync.Cache.from_url(url, namespace="bench"))
            if who == _BEHIND:
                items = cache.entity("item", _Item, id="id", write_many=_nothing, strategy=WriteBehind())
            else:
                items = cache.entity("item", _Item, id="id", writer=_commit, strategy=WriteThrough())
            write = lambda number: items.write(_item(number))  # noqa: E731
        write(0)
        took_s: list[float] = []
        numbers, together = count(), Barrier(callers + 1)

        def call() -> None:
            together.wait()
            began_s = time.monotonic()
            while True:  # once at least, however short the time is
                write(next(numbers))
                took_s.append((ended_s := time.monotonic()) - began_s)
                if (began_s := ended_s) >= until_s[0]:
                    return

        until_s = [float("inf")]
        threads = [Thread(target=call, daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        began_s = time.monotonic()
        until_s[0] = began_s + lab.scale.window_s
        together.wait()
        for thread in threads:
            thread.join()
        return _taken(took_s, time.monotonic() - began_s)


async def _on_tasks(lab: Lab, who: str, callers: int) -> dict[str, float]:
    url = f"redis://127.0.0.1:{lab.server.port}/{_DB}"
    write: Callable[[int], Any]
    client = cache = None
    if who == _XADD:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=50)
        client = redis.asyncio.Redis.from_pool(pool)
        plain = client
        write = lambda number: plain.xadd("plain", {"value": msgspec.json.encode(_item(number))})  # noqa: E731
    else:
        cache = cache_anyio.Cache.from_url(url, namespace="bench")
        if who == _BEHIND:
            items = cache.entity("item", _Item, id="id", write_many=_nothing, strategy=WriteBehind())
        else:
            items = cache.entity("item", _Item, id="id", writer=_commit_in_loop, strategy=WriteThrough())
        write = lambda number: items.write(_item(number))  # noqa: E731
    await write(0)
    took_s: list[float] = []
    numbers = count()
    began_all_s = time.monotonic()
    until_s = began_all_s + lab.scale.window_s

    async def call() -> None:
        began_s = time.monotonic()
        while True:
            await write(next(numbers))
            took_s.append((ended_s := time.monotonic()) - began_s)
            if (began_s := ended_s) >= until_s:
                return

    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(call)
    taken = _taken(took_s, time.monotonic() - began_all_s)
    if client is not None:
        await client.aclose()
    if cache is not None:
        await cache.aclose()
    return taken


def _written(lab: Lab) -> Iterator[Group]:
    for runtime, unit, counts in (
        ("asyncio", "callers", lab.scale.callers[:2]),
        ("threads", "threads", lab.scale.threads[:2]),
    ):
        for callers in counts:
            taken: dict[str, list[dict[str, float]]] = {who: [] for who in _ROLES}
            for _ in range(lab.scale.rounds):
                for who in _ROLES:
                    lab.progress(f"write-behind: {who}, {runtime}")
                    with closing(lab.raw(_DB)) as raw:
                        raw.flushdb()
                    if runtime == "threads":
                        taken[who].append(_on_threads(lab, who, callers))
                    else:
                        taken[who].append(anyio.run(_on_tasks, lab, who, callers))
            yield Group(
                case="write-behind",
                conditions={"runtime": runtime, unit: callers, "value": "200 B"},
                columns=_COLUMNS,
                rows=[_row(who, taken) for who in _ROLES],
            )
    with closing(lab.raw(_DB)) as raw:
        raw.flushdb()


def _row(who: str, taken: dict[str, list[dict[str, float]]]) -> Row:
    pairs = zip(taken[who], taken[_XADD], strict=True)
    ratios = [each["per_s"] / other["per_s"] for each, other in pairs]
    figures = {name: median(each[name] for each in taken[who]) for name in taken[who][0]}
    figures |= {"ratio": median(ratios), "least": min(ratios), "most": max(ratios)}
    return Row(who=who, role=_ROLES[who], figures=figures, rounds=taken[who])


def _drained(lab: Lab) -> Iterator[Group]:
    """Of each batch, the newest value of each key is written; the plain reader hands on all that it reads."""
    queued = lab.scale.burst
    taken: dict[str, list[dict[str, float]]] = {_PLAIN: [], "consumer": []}
    for _ in range(lab.scale.rounds):
        for who, drain in ((_PLAIN, _drained_plainly), ("consumer", _drained_by_consumer)):
            lab.progress(f"backlog: {who}")
            with closing(lab.raw(_DB)) as raw:
                raw.flushdb()
            taken[who].append(drain(lab, queued))
    with closing(lab.raw(_DB)) as raw:
        raw.flushdb()
    rows = []
    for who, role in ((_PLAIN, BASELINE), ("consumer", OURS)):
        figures = {name: median(each[name] for each in taken[who]) for name in taken[who][0]}
        pairs = zip(taken[who], taken[_PLAIN], strict=True)
        figures["ratio"] = median(each["per_s"] / other["per_s"] for each, other in pairs)
        rows.append(Row(who=who, role=role, figures=figures, rounds=taken[who]))
    conditions = {"writes": queued, "keys": _KEYS, "value": "200 B"}
    yield Group(case="backlog", conditions=conditions, columns=_DRAINED_COLUMNS, rows=rows)


def _drained_by_consumer(lab: Lab, queued: int) -> dict[str, float]:
    written: list[int] = []
    url = f"redis://127.0.0.1:{lab.server.port}/{_DB}"
    with cache_sync.Cache.from_url(url, namespace="bench") as cache:
        items = cache.entity(
            "item",
            _Item,
            id="id",
            write_many=lambda values: written.append(len(values)),
            strategy=WriteBehind(backlog=10_000_000, batch=_BATCH),
        )
        for first in range(0, queued, _KEYS):
            items.write_many([_item(number) for number in range(first, min(first + _KEYS, queued))])
        began_s = time.monotonic()
        with items.queue.consumer(drain_s=0.0):
            left = items.queue.drain(120.0)
        took_s = time.monotonic() - began_s
        assert not left.queued, left
    return {"per_s": queued / took_s, "rows": sum(written), "batches": len(written)}


def _drained_plainly(lab: Lab, queued: int) -> dict[str, float]:
    written: list[int] = []
    with closing(lab.raw(_DB)) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(queued):
            pipeline.xadd("plain", {"value": msgspec.json.encode(_item(number))})
        pipeline.execute()
        client.xgroup_create("plain", "readers", id="0")
        began_s = time.monotonic()
        while found := cast("Any", client.xreadgroup("readers", "one", {"plain": ">"}, count=_BATCH)):
            [(_, entries)] = found
            values = [msgspec.json.decode(fields[b"value"], type=_Item) for _, fields in entries]
            written.append(len(values))
            client.xack("plain", "readers", *[place for place, _ in entries])
        took_s = time.monotonic() - began_s
    return {"per_s": queued / took_s, "rows": sum(written), "batches": len(written)}


CASES = (
    Case(
        name="write-behind",
        about="A write of an entity that is queued, beside a plain XADD of the same bytes, and beside one "
        "that waits for its database.",
        run=_written,
    ),
    Case(
        name="backlog",
        about="How quickly one consumer hands a backlog to a writer that takes no time, beside a plain "
        "reader.",
        run=_drained,
    ),
)
