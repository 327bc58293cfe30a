"""The program: see the package."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import product
from queue import Empty, Queue
from typing import Any
from uuid import uuid4

from latency.cases import CASES, Case, Lab
from sansio_cache.budget import StoreTimeouts
from support.proxy import FaultProxy
from support.servers import Server

RUNTIMES = ("sync", "asyncio", "trio")
STEPS = {"get": 1, "get_or_load": 3, "invalidate": 1, "mutate": 2}
"""How many steps may wait for the store: a read, an acquire and a fill; a hold and what ends it."""
NAMES = ("case", "runtime", "callers", "op")
MOST = 1.2
ANSWER_S = 60.0


class Worker:
    """The process with the callers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._answers: Queue[Any] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, order: Any) -> Any:
        """Say something, and hear the answer; None where there is none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        try:
            return self._answers.get(timeout=ANSWER_S)
        except Empty:
            return None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)


def measure(worker: Worker, lab: Lab, case: Case, order: dict[str, Any]) -> dict[str, Any] | None:
    """One row, None where the worker did not come back."""
    asked = {
        **order,
        "is_warm": case.is_warm,
        "pause_s": case.pause_s,
        "has_large_value": case.has_large_value,
    }
    if worker.tell(asked) != "ready":
        return None
    try:
        case.begin(lab)
        row = worker.tell("go")
    finally:
        case.end(lab)
    if row is None:
        return None
    row["recovery"] = worker.tell("recover")
    if worker.answer() != "closed" and not row["unfinished"]:
        return None
    return {**row, **{name: order[name] for name in NAMES}}


def redispy(server: Server) -> dict[str, float]:
    """What a command of redis-py takes when nothing else happens."""
    client = server.client()
    client.ping()
    found = []
    for _ in range(300):
        began_s = time.perf_counter()
        client.get("k")
        found.append(time.perf_counter() - began_s)
        time.sleep(0.001)
    found.sort()
    return {"p50": found[150], "p99": found[297], "max": found[-1]}


def ms(seconds: float | None) -> str:
    """Milliseconds, as a cell of the table has them."""
    if seconds is None:
        return "never"
    return f"{seconds * 1000:.1f}" if seconds < 0.01 else f"{seconds * 1000:.0f}"


def line(row: dict[str, Any], budget_s: float, idle_s: float) -> str:
    """One line of the table. What is marked has taken more than its budget, in bold more than is excused."""
    is_over = row["max"] > MOST * budget_s
    mark = "" if not is_over else "over" if row["max"] <= MOST * budget_s + 3 * idle_s else "**OVER**"
    if row["recovery"] is None:
        mark += " **never recovered**"
    if row["unfinished"]:
        mark += f" **{row['unfinished']} hung**"
    if row["errors"]:
        mark += f" **{row['errors']}**"
    hits = f"{100 * row['hits'] / max(row['calls'], 1):.0f}"
    cells = [*(row[name] for name in NAMES), row["calls"], hits]
    cells += [ms(row[name]) for name in ("first", "p50", "p99", "max")]
    cells += [ms(budget_s), ms(row["recovery"]), mark]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


COLUMNS = (
    "case",
    "runtime",
    "callers",
    "operation",
    "calls",
    "hits or told, %",
    "first",
    "p50",
    "p99",
    "max",
)
HEAD = f"| {' | '.join((*COLUMNS, 'budget', 'recovery', ''))} |"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="latency", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--runtimes", nargs="*", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--operations", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--callers", nargs="*", type=int, default=[30, 100])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each row is measured")
    return parser.parse_args()


def orders(chosen: argparse.Namespace, url: str) -> Iterator[tuple[Case, dict[str, Any]]]:
    """The rows of the table."""
    cases = [case for case in CASES if case.name in chosen.cases]
    for case, runtime, callers, op in product(cases, chosen.runtimes, chosen.callers, chosen.operations):
        yield (
            case,
            {
                "case": case.name,
                "runtime": runtime,
                "callers": callers,
                "op": op,
                "seconds": chosen.seconds,
                "url": url,
                "namespace": f"l{uuid4().hex[:8]}",
                "options": {},
            },
        )


def main() -> int:
    """Print the table; 1 where a call has taken more than is excused, or nothing has recovered."""
    chosen = options()
    operation_s = StoreTimeouts().operation_s
    is_bad = False
    with Server.start() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        idle = redispy(server)
        figures = ", ".join(f"{name} {ms(took_s)} ms" for name, took_s in idle.items())
        print(f"An idle `GET` of redis-py: {figures}.")
        print(f"Milliseconds; budgets are steps of {ms(operation_s)} ms.\n\n{HEAD}")
        print("|" + " --- |" * (len(COLUMNS) + 3), flush=True)
        lab, worker = Lab(server, proxy), Worker()
        try:
            for case, order in orders(chosen, proxy.url):
                row = measure(worker, lab, case, order)
                if row is None:
                    said = f"| {' | '.join(str(order[name]) for name in NAMES)} | **hung** |"
                else:
                    said = line(row, STEPS[order["op"]] * operation_s, idle["max"])
                is_bad |= "**" in said
                print(said, flush=True)
                if row is None or row["unfinished"]:
                    worker.stop()
                    worker = Worker()
        finally:
            worker.stop()
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
