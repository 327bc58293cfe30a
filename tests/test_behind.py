"""A short run of write-behind among faults loses nothing, and what it would find is found."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from behind import backlog
from behind.database import Database, Item
from behind.run import KILLED, RESTARTED, STOPPED, Run


@pytest.fixture
def seed() -> int:
    """A new one in each run."""
    return int(os.environ.get("SANSIO_CACHE_SEED") or secrets.randbelow(2**32))


def test_what_is_acknowledged_is_applied_in_order_while_consumers_and_the_server_are_killed(seed: int):
    """S8, S1."""
    run = Run(
        seed,
        150,
        15,
        writers=("sync", "asyncio", "trio"),
        consumers=("asyncio", "trio"),
        callers=2,
        pause_s=0.05,
        every=40,
    )
    run.perform()
    assert run.findings == [], f"SANSIO_CACHE_SEED={seed}"
    assert run.counted["acknowledged"] == 150
    assert all(run.counted[each] for each in (KILLED, STOPPED, RESTARTED))


def test_a_run_finds_that_a_server_without_a_log_loses_what_was_acknowledged(seed: int):
    run = Run(
        seed, 200, 20, writers=("asyncio",), consumers=(), callers=2, pause_s=0.0, every=100, has_log=False
    )
    run.perform()
    assert any("S1" in each for each in run.findings), f"SANSIO_CACHE_SEED={seed}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One that is over, and has seen that version 2 of a key was acknowledged."""
    run = Run(1, 0, 1)
    run._database = Database(tmp_path / "items.db")
    run._database.create()
    run._last[7] = 2
    return run


def test_a_run_finds_a_write_that_was_not_applied(run: Run):
    run._database.save([Item(7, 1)], tokens={7: 1})
    run._judge()
    assert run.findings == ["7: version 2 is lost, the database has 1"]


def test_a_run_finds_a_version_that_goes_back_and_one_that_was_not_queued(run: Run):
    run._refused.add((7, 1))
    run._database.save([Item(7, 2)], tokens={7: 1})
    run._database.save([Item(7, 1)], tokens={7: 2})
    run._database.save([Item(7, 2)], tokens={7: 1})  # refused
    run._judge()
    assert [each.split(":")[0] for each in run.findings] == [
        "7",
        "it was said that this is not queued, and it was applied",
        "applied after version 2",
    ]


def test_a_backlog_is_drained_in_bounded_memory():
    """B2; a million of them at full size: see the module."""
    figures, found = backlog.run(5_000, 50)
    assert found == []
    assert 50 <= figures["rows"] <= 5_000


def test_a_run_finds_what_is_wrong_with_a_drain():
    fine = {"left": 0, "keys": 5, "oldest": 95, "back": 0, "grown_mib": 1.0}
    assert backlog.wrong(fine, 100, 5) == []
    for changed in ({"left": 1}, {"keys": 4}, {"oldest": 94}, {"back": 1}, {"grown_mib": 21.0}):
        assert len(backlog.wrong(fine | changed, 100, 5)) == 1
