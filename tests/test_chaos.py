"""A short run of chaos finds nothing, and one whose processes make a mistake finds it.

How long a run is goes by what was read, and not by the clock; the long runs are made by the program.
"""

import os
import secrets
import threading
from pathlib import Path

import pytest

from chaos.conductor import Findings, Run
from chaos.faults import KINDS
from chaos.mistakes import (
    EARLY,
    FORGETS,
    KEEPS_A_LEASE,
    MISTAKES,
    OF_ANOTHER,
    PLAIN_FILL,
    SLOW,
    SWALLOWS,
    WITHOUT_STORE,
)
from chaos.worker import running_threads
from support.servers import wait_until

NETWORK = (
    "request dropped",
    "reply dropped",
    "reply cut within",
    "comes again late",
    "late by more than a time-out",
)
SERVER = ("SCRIPT FLUSH", "CLIENT KILL", "FLUSHALL", "refused", "SIGSTOP of the server")
FAULTS_OF = {EARLY: (), PLAIN_FILL: (), FORGETS: ("MISCONF",)}


@pytest.fixture
def seed() -> int:
    """A new one in each run."""
    return int(os.environ.get("SANSIO_CACHE_SEED") or secrets.randbelow(2**32))


def kinds(*names: str):
    return [kind for kind in KINDS if kind.name in names]


class AsksWhoItIs:
    """Its finaliser asks which thread it is on."""

    def __del__(self) -> None:
        threading.current_thread()


def test_a_thread_that_was_asked_who_it_is_after_its_end_is_not_left() -> None:
    local, may_end = threading.local(), threading.Event()

    def keep_one() -> None:
        local.kept = AsksWhoItIs()  # goes with the thread, which has signed off by then

    runs = threading.Thread(target=may_end.wait, name="runs")
    runs.start()  # before: what the other gives up would be its number
    over = threading.Thread(target=keep_one, name="ended")
    over.start()
    over.join()
    try:
        task = Path("/proc/self/task") / str(over.native_id)
        wait_until(lambda: not task.exists())
        left = [each.name for each in threading.enumerate() if each.ident == over.ident]
        assert left
        assert left[0] not in running_threads()
        assert "runs" in running_threads()
    finally:
        may_end.set()
        runs.join()
        threading._active.pop(over.ident, None)  # type: ignore[attr-defined]


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
    )
    run.perform()
    assert not run.findings, f"SANSIO_CACHE_SEED={seed}: {run.findings}"
    assert run.history.reads > 500
    assert run.history.writes > 100
    assert sum(run.fired.values()) > 10


@pytest.mark.timing
@pytest.mark.parametrize("mistake", FAULTS_OF)
def test_a_mistake_that_makes_reads_stale_is_found(mistake: str, seed: int) -> None:
    run = Run(
        60.0,
        seed,
        runtimes=("sync", "asyncio"),
        callers=3,
        pause_s=0.002,
        round_s=5.0,
        calm_s=0.1,
        mistakes=(mistake, mistake),
        kinds=kinds(*FAULTS_OF[mistake]),
        without=("finalisers",),
        until=bool,
    )
    run.perform()
    assert run.findings.counted["stale"], f"SANSIO_CACHE_SEED={seed}: {run.findings}"


@pytest.mark.timing
def test_every_other_mistake_is_found_in_the_process_that_makes_it(seed: int) -> None:
    said = {
        OF_ANOTHER: "sync-0-1: ",
        SWALLOWS: "sync-1-2: exceptions of handlers were swallowed",
        SLOW: "sync-2-3: get took",
        KEEPS_A_LEASE: "a lease or a hold of nobody: chaos:s3_0",
        WITHOUT_STORE: "sync-4-5: no value is found",
    }
    assert {*said, *FAULTS_OF} == set(MISTAKES)

    def missed(findings: Findings) -> list[str]:
        found = {sort: "\n".join(getattr(findings, sort)) for sort in MISTAKES.values()}
        return [each for each in said if said[each] not in found[MISTAKES[each]]]

    run = Run(
        240.0,  # bounds a failure only
        seed,
        runtimes=["sync"] * len(said),
        callers=2,
        round_s=2.0,
        calm_s=0.5,
        mistakes=tuple(said),
        kinds=(),
        without=("finalisers",),
        pause_s=0.06,
        patience_s=3.0,
        until=lambda findings: not missed(findings),
    )
    run.perform()
    assert not missed(run.findings), f"SANSIO_CACHE_SEED={seed}: {run.findings}"
