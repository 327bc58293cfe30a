"""What the database is asked in each step of the story: the demo's database, readers and writer, on a server.

    python -P -m benchmarks.story FILE.json        in tests/, with PYTHONPATH=tests; a minute

Forty readers in two processes ask all the time for one of eight reports, and a writer changes one every half
second. A query takes 50 ms beside its own work, as if the database were elsewhere. Each step runs for as long
as the others, and what is counted is what the database was asked.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs

from benchmarks.machine import describe
from sansio_cache import NO_JITTER, Key, Policy
from sansio_cache_cli.board import Board
from sansio_cache_cli.database import SHOPS, Database, Query, build
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import Harvest, Reader
from sansio_cache_cli.writer import Recorder, Writer
from sansio_cache_redis.sync import Cache
from support.servers import Server

QUERY_S, PAUSE_S, WRITE_S, BUCKET_S = 0.05, 0.02, 0.5, 0.1
SHORT_S, LONG_S = 1.0, 600.0
READERS, PROCESSES = 40, 2
_ROWS, _HEAD_START_S = 800, 1.5


@attrs.frozen
class Sales:
    """What a shop has sold, as far as the writer knows it too."""

    shop: int
    version: int
    orders: int
    cents: int


class Elsewhere(Database):
    """A database that is 50 ms away."""

    def sales(self, shop: int) -> Sales:
        """One query."""
        time.sleep(QUERY_S)
        found = self.report(shop)
        return Sales(shop, found.version, found.orders, found.total_cents)

    def all_sales(self, path: Path, keys: Sequence[Key]) -> dict[Key, Sales]:
        """One query for all."""
        began_s = time.monotonic()
        time.sleep(QUERY_S)
        with Database(path) as uncounted:
            reports = [uncounted.report(int(key.rpartition(":")[2])) for key in keys]
        self.queries.append(Query(-1, began_s, time.monotonic()))
        each = [Sales(found.shop, found.version, found.orders, found.total_cents) for found in reports]
        return dict(zip(keys, each, strict=True))


@attrs.frozen
class Asked:
    """What a reader asks with."""

    cache: Cache
    database: Elsewhere
    path: Path
    shop: int

    @property
    def key(self) -> Key:
        """The report's key."""
        return self.cache.key.build("report", self.shop)


def _directly(asked: Asked) -> Sales:
    return asked.database.sales(asked.shop)


def _by_hand(asked: Asked) -> Sales:
    found = asked.cache.get(asked.key, type=Sales)
    if found is None:
        found = asked.database.sales(asked.shop)
        asked.cache.set(asked.key, found, ttl=SHORT_S, type=Sales)
    return found


def _loaded(asked: Asked, policy: Policy) -> Sales:
    return asked.cache.get_or_load(asked.key, asked.database.sales, asked.shop, type=Sales, policy=policy)


def _in_a_batch(asked: Asked) -> Sales:
    found = asked.cache.get(asked.key, type=Sales)
    if found is None:
        keys = [asked.cache.key.build("report", shop) for shop in range(SHOPS)]
        load = partial(asked.database.all_sales, asked.path)
        found = asked.cache.get_or_load_many(keys, load, type=Sales, ttl=LONG_S)[asked.key]
    return found


def _untold(_: Cache, __: Key, commit: Callable[[], Sales]) -> None:
    commit()


def _invalidated(cache: Cache, key: Key, commit: Callable[[], Sales]) -> None:
    commit()
    cache.invalidate(key)


@attrs.frozen
class Step:
    """A step of the story: how a reader gets a report, and how the writer tells the cache."""

    title: str
    ask: Callable[[Asked], Sales]
    write: Callable[[Cache, Key, Callable[[], Sales]], None] = _untold


_EXACT, _SPREAD, _LONG = Policy(ttl=SHORT_S, jitter=NO_JITTER), Policy(ttl=SHORT_S), Policy(ttl=LONG_S)
STEPS = {
    "no cache": Step("no cache", _directly),
    "by hand": Step("get, and set what is missing", _by_hand),
    "lease": Step("one load, under a lease", partial(_loaded, policy=_EXACT)),
    "jitter": Step("with jitter", partial(_loaded, policy=_SPREAD)),
    "invalidate": Step("kept until a writer invalidates", partial(_loaded, policy=_LONG), _invalidated),
    "batch": Step("what is missing, with one query", _in_a_batch, _invalidated),
}
_board: list[Board] = []


def _take(board: Board) -> None:
    """What a process of readers begins with."""
    _board.append(board)


def _read(name: str, url: str, path: Path, numbers: Sequence[int], begin_s: float, limit_s: float) -> Harvest:
    """One process's readers."""
    phase = Phase(name=name, title=name, requests=10**9, policy=None, pause_s=PAUSE_S, limit_s=limit_s)
    with Elsewhere(path) as database, Cache.from_url(url, namespace="story") as cache:
        cache.wait_ready()
        time.sleep(max(begin_s - time.monotonic(), 0))
        readers = [Reader(number, phase, database, _board[0]) for number in numbers]

        def ask(reader: Reader) -> None:
            while reader.goes_on():
                with reader.request() as request:
                    answer: Any = STEPS[name].ask(Asked(cache, database, path, request.shop))
                    request.answer = answer
                time.sleep(reader.pause_s())

        with ThreadPoolExecutor(len(readers)) as pool:
            list(pool.map(ask, readers))
    harvest = Harvest(queries=database.queries)
    for reader in readers:
        harvest.add(reader.harvest)
    return harvest


def _write(
    step: Step, url: str, database: Database, writer: Writer, recorder: Recorder, board: Board
) -> None:
    """The writer. What no reader is told of is not complete to any of them."""
    with Cache.from_url(url, namespace="story") as cache:
        while not writer.finished.wait(WRITE_S):
            shop = writer.choose()
            versions: list[int] = []

            def commit(shop: int = shop, versions: list[int] = versions) -> Sales:
                versions.append(writer.commit(shop))
                totals = recorder._totals[shop, versions[0]]
                return Sales(shop, versions[0], totals.orders, totals.cents)

            step.write(cache, cache.key.build("report", shop), commit)
            if step.write is not _untold:
                board.complete(shop, versions[0])


def run(name: str, url: str, limit_s: float) -> Harvest:
    """Run one step; gives what the readers saw and the database was asked."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "orders.db")
        recorder = Recorder.beginning_with(build(path, _ROWS))
        board = Board(shops=SHOPS, readers=READERS)
        begin_s = time.monotonic() + _HEAD_START_S
        shares = [range(number, READERS, PROCESSES) for number in range(PROCESSES)]
        with (
            Cache.from_url(url, namespace="story") as cache,
            Database(path) as database,
            ProcessPoolExecutor(
                PROCESSES, get_context("spawn"), initializer=_take, initargs=(board,)
            ) as pool,
        ):
            cache.clear()
            done = [pool.submit(_read, name, url, path, share, begin_s, limit_s) for share in shares]
            time.sleep(max(begin_s - time.monotonic(), 0))
            writer = Writer(database, recorder, board)
            arguments = (STEPS[name], url, database, writer, recorder, board)
            thread = threading.Thread(target=_write, args=arguments)
            thread.start()
            harvest = Harvest()
            try:
                for each in done:
                    harvest.add(each.result())
            finally:
                writer.finished.set()
                thread.join()
    assert not harvest.errors, harvest.errors
    return harvest


def figures(url: str, limit_s: float, names: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of some steps."""
    steps = []
    for name in names:
        harvest = run(name, url, limit_s)
        began_s = min(query.began_s for query in harvest.queries)
        counts = [0] * round(limit_s / BUCKET_S)
        for query in harvest.queries:
            counts[min(int((query.began_s - began_s) / BUCKET_S), len(counts) - 1)] += 1
        step = {
            "name": name,
            "title": STEPS[name].title,
            "requests": harvest.requests,
            "stale": harvest.stale,
        }
        steps.append({**step, "queries": sum(counts), "counts": counts})
        print(name, harvest.requests, sum(counts), harvest.stale, file=sys.stderr)
    return steps


def main() -> None:
    """Run all steps, and write them down."""
    with Server.start() as server:
        machine = describe(server.client())
        steps = figures(server.url, 6.0, list(STEPS))
    day = datetime.now(UTC).date().isoformat()
    found = {
        "day": day,
        "server": machine["server"],
        "python": machine["python"],
        "bucket_s": BUCKET_S,
        "readers": READERS,
        "steps": steps,
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
