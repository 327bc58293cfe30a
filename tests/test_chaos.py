"""A short run of chaos finds nothing, and one whose processes make a mistake finds it.

How long a run is goes by what was read, and not by the clock; the long runs are made by the program.
"""

import os
import secrets

import pytest

from chaos.conductor import Run
from chaos.faults import KINDS
from chaos.mistakes import MISTAKES

NETWORK = (
    "request dropped",
    "reply dropped",
    "reply cut within",
    "comes again late",
    "late by more than a time-out",
)
SERVER = ("SCRIPT FLUSH", "CLIENT KILL", "FLUSHALL", "refused", "SIGSTOP of the server")
FAULTS_OF = {
    "invalidates before it commits": (),
    "fills without a grant": (),
    "forgets pending invalidations": ("MISCONF",),
}


@pytest.fixture
def seed() -> int:
    """A new one in each run."""
    return int(os.environ.get("SANSIO_CACHE_SEED") or secrets.randbelow(2**32))


def kinds(*names: str):
    return [kind for kind in KINDS if kind.name in names]


@pytest.mark.timing
def test_processes_of_all_runtimes_read_nothing_stale_while_the_store_fails_and_leave_nothing(
    seed: int,
) -> None:
    """S1, B2, L1."""
    run = Run(
        30.0,
        seed,
        runtimes=("sync", "asyncio", "trio"),
        callers=3,
        round_s=3.0,
        calm_s=0.5,
        most_reads=2_000,
        kinds=kinds(*NETWORK, *SERVER),
        without=("handlers", "finalisers"),
    )
    run.perform()
    assert not run.findings, f"SANSIO_CACHE_SEED={seed}: {run.findings}"
    assert run.history.reads > 500
    assert run.history.writes > 100
    assert sum(run.fired.values()) > 10


@pytest.mark.timing
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_processes_is_found(mistake: str, seed: int) -> None:
    run = Run(
        60.0,
        seed,
        runtimes=("sync", "asyncio"),
        callers=3,
        pause_s=0.002,
        round_s=5.0,
        calm_s=0.1,
        mistake=mistake,
        kinds=kinds(*FAULTS_OF[mistake]),
        without=("handlers", "finalisers"),
        stop_when_found=True,
    )
    run.perform()
    assert run.findings.counted["stale"], f"SANSIO_CACHE_SEED={seed}: {run.findings}"
