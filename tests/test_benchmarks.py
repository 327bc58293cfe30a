"""The benchmarks run: every case, with everybody who is installed, on the smallest scale.

Nothing here looks at how fast anything is. What is asserted are figures that must be there at all, and the
few that are no matter of speed.
"""

import gc
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import observers
from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.contenders import OURS
from benchmarks.lab import Lab
from benchmarks.loads import Sample
from benchmarks.results import BASELINE, OWN, PEER, Group, Row, rate_rows, where_slower
from benchmarks.results import OURS as OURS_ROLE
from benchmarks.scale import SMOKE
from benchmarks.values import SIZES, dumps, make_value

_TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.opened(SMOKE) as opened:
        yield opened


@pytest.mark.filterwarnings("default")  # other caches warn of things of their own
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_gives_figures_of_everybody_who_is_installed(lab: Lab, case: Case):
    groups = _run_case(lab, case)

    assert groups
    for group in groups:
        assert group.case == case.name
        roles = [row.role for row in group.rows]
        assert OURS_ROLE in roles
        assert BASELINE in roles
        json.dumps(group.as_json())
        for row in group.rows:
            _check_figures(group, row)
        for who, why in group.absent.items():
            contender = next(each for each in (*ASYNC, *THREADS) if each.name == who)
            # Redis is there, and so are we: only other caches may be missing, and each says why.
            assert contender.package, f"{who} is missing: {why}"
            assert (why == "not installed") == (not contender.is_installed)


def _run_case(lab: Lab, case: Case) -> list[Group]:
    groups = list(case.run(lab))
    gc.collect()  # other caches leave connections behind; let them be warned of here
    return groups


def _check_figures(group: Group, row: Row) -> None:
    where = f"{group.said_conditions}, {row.who}"
    if row.role != PEER:  # a peer that does not guard has no time until its waiters see anything
        assert {column.name for column in group.columns} >= set(row.figures), where
    for column in group.columns:
        figure = row.figures.get(column.name)
        if figure is None:
            assert row.role in (PEER, OWN) or column.name in row.figures, f"{where}: no {column.name}"
            continue
        assert math.isfinite(figure), f"{where}: {column.name}"
        assert figure > 0 or not column.is_positive, f"{where}: {column.name} is {figure}"
    if row.role == OURS_ROLE:
        assert row.figures.get("wrong", 0) == 0, f"{where} answered with another key's value"
        assert row.figures.get("errors", 0) == 0, f"{where}: {row.note}"
        assert row.figures.get("stale", 0) == 0, f"{where} answered with what was there before a write"


@pytest.mark.filterwarnings("default")
def test_the_library_sends_one_command_for_a_hit_and_four_in_three_trips_for_a_miss(lab: Lab):
    [case] = [case for case in CASES if case.name == "on the wire"]

    sent = {
        (group.conditions["what"], row.who): row.figures["commands"]
        for group in _run_case(lab, case)
        for row in group.rows
        if row.role == OURS_ROLE
    }

    assert sent == {
        (what, who): count
        # A fill is two commands in one trip, where the server compares: the value, and the message about it.
        for what, count in (("hit", 1.0), ("miss", 4.0))
        for who in (OURS, f"{OURS}, asyncio", f"{OURS}, trio")
    }


@pytest.mark.parametrize("size_bytes", SIZES.values(), ids=SIZES)
def test_values_have_the_size_that_their_name_says(size_bytes: int):
    assert {len(dumps(make_value(number, size_bytes))) for number in (0, 7, 199)} == {size_bytes}


def test_ratios_are_taken_round_by_round():
    def sample(per_s: int, cpu_s: float) -> Sample:
        return Sample(items=per_s, wall_s=1.0, cpu_s=cpu_s)

    # The machine halves its speed in the second round, and both are slower there.
    samples = {
        "a": [sample(400, 0.5), sample(200, 0.5), sample(400, 0.5)],
        "b": [sample(100, 0.5), sample(50, 0.5), sample(100, 0.5)],
    }
    ours, base = rate_rows(samples, {"a": OURS_ROLE, "b": BASELINE}, {})

    assert (ours.figures["ratio"], ours.figures["least"], ours.figures["most"]) == (4, 4, 4)
    assert ours.figures["cpu_ratio"] == 4
    assert (base.figures["ratio"], base.figures["ours"], base.verdict) == (1, 4, "")


def test_a_contender_that_is_faster_is_said_to_be_faster():
    samples = {
        name: [Sample(items=per_s, wall_s=1.0, cpu_s=1.0)]
        for name, per_s in (("a", 100), ("b", 50), ("c", 300))
    }
    rows = rate_rows(samples, {"a": OURS_ROLE, "b": BASELINE, "c": PEER}, {})
    group = Group(case="x", conditions={"callers": 1}, columns=(), rows=rows)

    assert [row.verdict for row in rows] == ["", "", "faster"]
    assert [(each.other, each.times) for each in where_slower([group])] == [("c", 3.0)]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks", *arguments],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_prints_a_table_and_writes_json_that_name_the_machine(tmp_path: Path):
    file = tmp_path / "figures.json"

    done = _run("--smoke", "--only", "^set$", "--json", str(file))

    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {group["case"] for group in found["groups"]} == {"set"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["packages"]["redis"] in done.stdout.replace("\n", " ")
    assert "Only ratios" in done.stdout
    assert "get hit" not in done.stdout


def test_the_command_draws_a_picture_and_a_page_or_says_what_it_lacks(tmp_path: Path):
    done = _run("--smoke", "--only", "memory store hit", "--charts", str(tmp_path))

    if importlib.util.find_spec("matplotlib") is None:
        assert done.returncode == 2
        assert "needs matplotlib" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "memory-store-hit.png").read_bytes().startswith(b"\x89PNG")
        assert "![memory store hit](memory-store-hit.png)" in (tmp_path / "memory-store-hit.md").read_text()


def test_a_pattern_that_finds_no_case_is_an_error():
    assert _run("--only", "no such case").returncode == 1


def test_what_it_costs_to_look_on_is_measured_of_everybody(monkeypatch, capsys):
    for name in ("TASKS", "CALLS", "ALONE"):
        monkeypatch.setattr(observers, name, 2)
    observers.main(["--rounds", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == [*observers.VARIANTS, "nobody, again"]
    assert all(float(each.rstrip(" |")) > 0 for row in rows for each in row[1:])
    operations = logging.getLogger("sansio_cache.operations")
    assert (operations.level, operations.propagate, operations.handlers) == (logging.NOTSET, True, [])
