"""The command: run cases, print tables, write JSON and pictures."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks.cases import CASES
from benchmarks.charts import draw
from benchmarks.lab import Lab
from benchmarks.machine import ONLY_RATIOS, describe
from benchmarks.report import show
from benchmarks.results import Group
from benchmarks.scale import FULL, QUICK, SMOKE


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=ONLY_RATIOS)
    parser.add_argument("--only", metavar="PATTERN", help="cases whose name this regular expression finds")
    parser.add_argument("--quick", action="store_true", help="a second or so a case: shows that it runs")
    parser.add_argument(
        "--smoke", action="store_true", help="as little as can be: figures mean nothing at all"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything there")
    parser.add_argument(
        "--charts", metavar="DIR", type=Path, help="draw a picture, and write a page, of each case there"
    )
    parser.add_argument("--list", action="store_true", help="name the cases, and do nothing")
    arguments = parser.parse_args(given)
    if arguments.charts is not None and find_spec("matplotlib") is None:
        parser.error("--charts needs matplotlib: install the dependency group `bench`")
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; 1 if the pattern finds no case."""
    arguments = _arguments(given)
    cases = [case for case in CASES if not arguments.only or re.search(arguments.only, case.name)]
    console = Console(width=None if sys.stdout.isatty() else 200)
    if arguments.list or not cases:
        for case in CASES:
            console.print(f"[bold]{case.name}[/]: {case.about}", highlight=False)
        return 0 if arguments.list else 1
    scale = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    aside = Console(stderr=True)
    began_s = time.monotonic()
    groups: list[Group] = []
    with aside.status("starting") as status, Lab.opened(scale, lambda doing: status.update(doing)) as lab:
        machine = describe(lab.server.client())
        for case in cases:
            case_s = time.monotonic()
            groups += case.run(lab)
            aside.print(f"{case.name}: {time.monotonic() - case_s:.1f} s", style="dim", highlight=False)
    show(cases, groups, machine, console)
    console.print(
        f"{scale.name} run, {scale.rounds} rounds, {time.monotonic() - began_s:.0f} s",
        style="dim",
        highlight=False,
    )
    if arguments.json is not None:
        found = {"machine": machine, "about": ONLY_RATIOS, "scale": scale.name, "rounds": scale.rounds}
        found["groups"] = [group.as_json() for group in groups]
        arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        console.print(f"wrote {arguments.json}", style="dim", highlight=False)
    if arguments.charts is not None:
        for path in draw(cases, groups, machine, arguments.charts):
            console.print(f"wrote {path}", style="dim", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
