"""What one call costs the server: the CPU time of its main thread, beside a plain SET of the same bytes."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from statistics import median
from typing import Any, cast

import redis

from benchmarks.case import Case
from benchmarks.contenders import TTL_S
from benchmarks.lab import Lab
from benchmarks.results import BASELINE, Column, Group, Row
from benchmarks.results import OURS as OURS_ROLE
from benchmarks.values import dumps, make_value
from sansio_cache import Exact
from sansio_cache_redis.sync import Cache

_SIZES = {"200 B": 200, "20 kB": 20_000}
_BATCH = 100
_KEYS = [f"b{number}" for number in range(_BATCH)]
_COLUMNS = (
    Column("us", "CPU µs of the server each", ",.1f"),
    Column("ratio", "times a plain SET", ".1f"),
    Column("least", "least", ".1f"),
    Column("most", "most", ".1f"),
)

Work = Callable[[], Any]
"""Something to be done so often as it is measured."""
_AGAIN = "redis-py: SET"
_NEW = "redis-py: SET of new keys"
"""What makes a key makes the server take memory that it has not used: so does the SET beside it."""


def _used_s(client: redis.Redis) -> float:
    """The CPU time of the thread that runs commands, in seconds."""
    used = cast("dict[str, float]", client.info("cpu"))
    return used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"]


def _each_us(raw: redis.Redis, count: int, items: int, work: Work) -> float:
    """What each of so many items costs, in microseconds."""
    gc.collect()
    before_s = _used_s(raw)
    for _ in range(count):
        work()
    return (_used_s(raw) - before_s) * 1e6 / (count * items)


def _fill(cache: Cache, client: redis.Redis, value: Any) -> None:
    """Have nothing stored but what is read, or written again: so each finds the server as the others do."""
    client.flushdb()
    cache.set_many({"there": value, "count": 1, "one": value} | dict.fromkeys(_KEYS, value))
    for key in ("plain", *_KEYS):
        client.set(key, dumps(value), ex=TTL_S)


def _one_by_one(cache: Cache, client: redis.Redis, value: Any) -> dict[str, tuple[Work, str]]:
    """Calls about one key, each with what it is compared with."""
    names, text = itertools.count(), dumps(value)
    exact = Exact(TTL_S)
    return {
        _AGAIN: (lambda: client.set("plain", text, ex=TTL_S), _AGAIN),
        _NEW: (lambda: client.set(f"n{next(names)}", text, ex=TTL_S), _NEW),
        "set": (lambda: cache.set("one", value), _AGAIN),
        "get_or_load, missing": (lambda: cache.get_or_load(f"m{next(names)}", lambda: value), _NEW),
        "get, a hit": (lambda: cache.get("there"), _AGAIN),
        "add": (lambda: cache.add(f"a{next(names)}", value), _NEW),
        "incr": (lambda: cache.incr("count"), _AGAIN),
        "touch": (lambda: cache.touch("there", exact), _AGAIN),
        "invalidate": (lambda: cache.invalidate("one"), _AGAIN),
    }


def _in_batches(cache: Cache, client: redis.Redis, value: Any) -> dict[str, tuple[Work, str]]:
    """Calls about many keys at once."""
    names, text = itertools.count(), dumps(value)
    values = dict.fromkeys(_KEYS, value)

    def plain(prefix: str = "") -> None:
        pipeline = client.pipeline(transaction=False)
        for key in _KEYS:
            pipeline.set(f"{prefix}{key}", text, ex=TTL_S)
        pipeline.execute()

    def load() -> None:
        first = next(names)
        cache.get_or_load_many([f"{first}:{key}" for key in _KEYS], lambda asked: dict.fromkeys(asked, value))

    return {
        _AGAIN: (plain, _AGAIN),
        _NEW: (lambda: plain(f"n{next(names)}:"), _NEW),
        "set_many": (lambda: cache.set_many(values), _AGAIN),
        "get_or_load_many, missing": (load, _NEW),
        "get_many, hits": (lambda: cache.get_many(_KEYS), _AGAIN),
    }


def _server_cpu(lab: Lab) -> Iterator[Group]:
    jobs = ((_one_by_one, 1, 20), (_in_batches, _BATCH, 1))
    for size, size_bytes in _SIZES.items():
        for make, items, times in jobs:
            yield _group(lab, make, size, make_value(1, size_bytes), items, lab.scale.counted * times)


def _group(
    lab: Lab,
    make: Callable[[Cache, redis.Redis, Any], dict[str, tuple[Work, str]]],
    size: str,
    value: Any,
    items: int,
    count: int,
) -> Group:
    case = "server CPU"
    lab.progress(f"{case}: {size}, {items} a call")
    with (
        closing(lab.raw(13)) as raw,
        Cache.from_url(f"redis://127.0.0.1:{lab.server.port}/13", namespace="bench") as cache,
    ):
        work = make(cache, raw, value)
        taken: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(lab.scale.rounds):
            for name, (each, _) in work.items():
                _fill(cache, raw, value)
                taken[name].append(max(_each_us(raw, count, items, each), 0.01))
        raw.flushdb()
    rows = []
    for name, (_, base) in work.items():
        ratios = [us / other for us, other in zip(taken[name], taken[base], strict=True)]
        figures = {"ratio": median(ratios), "least": min(ratios), "most": max(ratios)}
        figures["us"] = median(taken[name])
        rows.append(Row(who=name, role=BASELINE if name == base else OURS_ROLE, figures=figures))
    return Group(
        case=case,
        conditions={"value": size, "keys a call": items},
        columns=_COLUMNS,
        rows=rows,
        less_is_better=True,
    )


CASES = (
    Case(
        name="server CPU",
        about=(
            "CPU time of the server's main thread, by INFO, for each key; one caller on a thread. What makes "
            "a key is compared with a SET that makes one, all else with a SET that overwrites."
        ),
        run=_server_cpu,
    ),
)
