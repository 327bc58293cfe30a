"""The program: see the package."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections import Counter
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


def _spawn(*module: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


class Worker:
    """The process with the callers."""

    def __init__(self) -> None:
        self._process = _spawn("latency.worker")
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


class Probe:
    """The process that measures what the machine adds."""

    def __init__(self, server: Server) -> None:
        self._process = _spawn("latency.probe", server.url)

    def slowest_s(self) -> float:
        """The slowest command of an idle redis-py since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def ms(seconds: float | None) -> str:
    """Milliseconds, as a cell of the table has them."""
    if seconds is None:
        return "never"
    return f"{seconds * 1000:.1f}" if seconds < 0.01 else f"{seconds * 1000:.0f}"


def mark_of(row: dict[str, Any], budget_s: float, idle_s: float) -> str:
    """What is wrong with a row; in bold what the machine does not excuse."""
    mark = ""
    if row["max"] > MOST * budget_s:
        mark = "over" if row["max"] <= MOST * budget_s + 3 * idle_s else "**OVER**"
    if row["recovery"] is None:
        mark += " **never recovered**"
    if row["unfinished"]:
        mark += f" **{row['unfinished']} hung**"
    if row["errors"]:
        mark += f" **{row['errors']}**"
    return mark


def line(row: dict[str, Any], budget_s: float, idle_s: float) -> str:
    """One line of the table."""
    hits = f"{100 * row['hits'] / max(row['calls'], 1):.0f}"
    cells = [*(row[name] for name in NAMES), row["calls"], hits]
    cells += [ms(row[name]) for name in ("first", "p50", "p99", "max")]
    cells += [ms(budget_s), ms(idle_s), ms(row["recovery"])]
    cells.append(mark_of(row, budget_s, idle_s))
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
HEAD = f"| {' | '.join((*COLUMNS, 'budget', 'idle', 'recovery', ''))} |"

ABOUT = """\
Milliseconds; budgets are steps of {step_ms} ms. `idle` is what the machine added: the slowest command of a
redis-py that does nothing else, on a server that nothing is wrong with, while the row was measured.
`over` is a row whose slowest call took more than {most} times its budget: the rule for an idle machine.
`**OVER**` is one where it took more than that and three times `idle` as well: the rule for a loaded one.
"""


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
    marks: Counter[str] = Counter()
    with (
        Server.start() as server,
        Server.start() as idle,
        FaultProxy("127.0.0.1", server.port) as proxy,
    ):
        print(f"{ABOUT.format(step_ms=ms(operation_s), most=MOST)}\n{HEAD}")
        print("|" + " --- |" * (len(COLUMNS) + 4), flush=True)
        lab, worker, probe = Lab(server, proxy), Worker(), Probe(idle)
        try:
            for case, order in orders(chosen, proxy.url):
                probe.slowest_s()
                row = measure(worker, lab, case, order)
                idle_s = probe.slowest_s()
                mark = "**hung**"
                if row is None:
                    print(f"| {' | '.join(str(order[name]) for name in NAMES)} | {mark} |", flush=True)
                else:
                    budget_s = STEPS[order["op"]] * operation_s
                    mark = mark_of(row, budget_s, idle_s)
                    print(line(row, budget_s, idle_s), flush=True)
                marks["rows"] += 1
                marks["over"] += "over" in mark.lower()
                marks["bad"] += "**" in mark
                if row is None or row["unfinished"]:
                    worker.stop()
                    worker = Worker()
        finally:
            worker.stop()
            probe.stop()
    print(f"\nOf {marks['rows']} rows, {marks['over']} are over by the rule for an idle machine.")
    print(f"By the one for a loaded machine {marks['bad']} are, or hung, or raised something.")
    return int(marks["bad"] > 0)


if __name__ == "__main__":
    sys.exit(main())
