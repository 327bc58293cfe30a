"""The table of latencies can be made: each row has figures, and after each fault the store serves again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = ["nothing", "frozen", "killed", "flapping", "maxclients"]


@pytest.mark.timing
def test_calls_are_measured_while_something_is_wrong_and_it_is_over_afterwards() -> None:
    """How long anything takes is not looked at: that is for a machine that does nothing else."""
    run = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "latency"),
            *(
                "--cases",
                *CASES,
                "--runtimes",
                "asyncio",
                "--operations",
                "get",
                "--callers",
                "3",
                "--seconds",
                "0.2",
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    rows = [line.split("|") for line in run.stdout.splitlines() if " | asyncio | " in line]
    assert [row[1].strip() for row in rows] == CASES, run.stderr
    for row in rows:
        calls, recovery = row[5].strip(), row[13].strip()
        assert int(calls) >= 3, row
        assert recovery != "never", row
