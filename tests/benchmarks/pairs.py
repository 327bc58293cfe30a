"""Two versions of this library against each other: the CPU time of an operation, pair by pair.

    python -P -m benchmarks.pairs --before PYTHON --after PYTHON [--pairs 15]

Each PYTHON is that of an environment in which one wheel is installed. Both run the same work against one
server, in turn, many times; what is compared are pairs, so that a machine whose speed drifts does not
matter. The first of the two runs twice in each round: its ratio against itself shows how far noise alone
goes. A case fails where it is certain to 95 % that the median ratio is above the bound: a distribution-free
interval, from the order of the pairs (a sign test turned round).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from support.servers import Server

BOUND: Final = 1.03
_WORKER: Final = Path(__file__).with_name("pairs_worker.py")


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the median with a confidence of at least 95 %."""
    ordered, count = sorted(ratios), len(ratios)
    outside, place = 0.0, 0
    for rank in range(count):
        outside += math.comb(count, rank) / 2**count  # that so few of them, or fewer, are below the median
        if outside > 0.025:
            break
        place = rank
    return ordered[place], ordered[count - 1 - place]


def run(python: str, url: str, cases: str) -> Mapping[str, float]:
    """The CPU time of each case, in microseconds for an operation."""
    done = subprocess.run(
        [python, "-P", str(_WORKER), url, cases], capture_output=True, text=True, check=True, timeout=600
    )
    times: Mapping[str, float] = json.loads(done.stdout)
    return times


def main() -> int:
    """Compare, print a table, and give the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.pairs")
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", required=True)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--cases", default="", help="only those whose name holds this")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    noise: dict[str, list[float]] = {}
    with Server.start() as server:
        for python in (options.before, options.after):  # one round that is not counted
            run(python, server.url, options.cases)
        for number in range(options.pairs):
            order = [options.before, options.after, options.before]
            if number % 2:
                order = [options.before, options.before, options.after]
            found = [run(python, server.url, options.cases) for python in order]
            before, again = (found[0], found[2]) if not number % 2 else (found[0], found[1])
            after = found[1] if not number % 2 else found[2]
            for case, took in before.items():
                ratios.setdefault(case, []).append(after[case] / math.sqrt(took * again[case]))
                noise.setdefault(case, []).append(again[case] / took)
            print(f"  {number + 1} of {options.pairs} pairs", file=sys.stderr)
    failed = []
    print("| case | after / before, median | 95 % | before / itself, median | 95 % |")
    print("| --- | --- | --- | --- | --- |")
    for case, values in ratios.items():
        low, high = interval(values)
        itself_low, itself_high = interval(noise[case])
        print(
            f"| {case} | {statistics.median(values):.3f} | {low:.3f} to {high:.3f} "
            f"| {statistics.median(noise[case]):.3f} | {itself_low:.3f} to {itself_high:.3f} |"
        )
        if low > BOUND:
            failed.append(case)
    print(f"{len(ratios)} cases, {options.pairs} pairs; above {BOUND}: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
