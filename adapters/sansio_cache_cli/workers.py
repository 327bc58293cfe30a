"""Workers: where the readers run. A thread of this process when the cache is its memory, else processes.

A worker is given phases through a pipe and gives back what its readers have seen. It ends when the pipe is
closed, so also when the demo itself is killed.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Protocol

import attrs

from sansio_cache_cli import readers_anyio, readers_threads
from sansio_cache_cli.board import Board
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import Harvest, Job
from sansio_cache_cli.writer import Writer

_GRACE_S: Final = 40.0
"""How much longer than its phase a worker may take: as long as a caller waits for another's load, and more."""
_END_S: Final = 5.0
_LOOK_S: Final = 0.1


class WorkerError(Exception):
    """Readers could not run at all."""


def reading(job: Job) -> Callable[[Job, Phase, Board], Harvest]:
    """How the readers of a runtime run through a phase."""
    return readers_threads.read if job.runtime == "threads" else readers_anyio.read


def writing(job: Job) -> Callable[[Job, Writer], None]:
    """How the writer of a runtime writes."""
    return readers_threads.write if job.runtime == "threads" else readers_anyio.write


def work(job: Job, board: Board, pipe: Connection) -> None:
    """The worker: phases in, harvests out."""
    with pipe:
        while True:
            try:
                phase = pipe.recv()
            except EOFError:
                return
            try:
                answer: Harvest | str = reading(job)(job, phase, board)
            except Exception as error:  # noqa: BLE001 - said where the user can see it
                answer = f"{type(error).__name__}: {error}"
            try:
                pipe.send(answer)
            except OSError:  # nobody waits for it any more
                return


class _Runner(Protocol):
    """What threads and processes have in common."""

    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...


@attrs.frozen
class Worker:
    """One worker, seen from the demo."""

    pipe: Connection
    runner: _Runner


@contextmanager
def workers(jobs: Sequence[Job], board: Board, *, in_processes: bool) -> Iterator[list[Worker]]:
    """Start a worker for each job; they have ended when the block has."""
    started: list[Worker] = []
    try:
        for job in jobs:
            ours, theirs = Pipe()
            runner = _process(job, board, theirs) if in_processes else _thread(job, board, theirs)
            started.append(Worker(ours, runner))
        yield started
    finally:
        board.stop()
        for worker in started:
            worker.pipe.close()
        for worker in started:
            worker.runner.join(_END_S)
            if in_processes and worker.runner.is_alive():
                worker.runner.terminate()
                worker.runner.join()
