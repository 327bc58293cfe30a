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
from multiprocessing.process import BaseProcess
from typing import Final

import attrs

from sansio_cache_cli import readers_anyio, readers_threads
from sansio_cache_cli.board import Board
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import Harvest, Job
from sansio_cache_cli.writer import Writer

_GRACE_S: Final = 40.0
"""How much longer than its phase a worker may take: a caller may wait for another's load, and then load."""
_END_S: Final = 5.0
_LOOK_S: Final = 0.1
_DIED: Final = "a process of readers died"


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


@attrs.frozen
class Worker:
    """One worker, seen from the demo."""

    pipe: Connection
    runner: threading.Thread | BaseProcess


@contextmanager
def workers(jobs: Sequence[Job], board: Board, *, in_processes: bool) -> Iterator[list[Worker]]:
    """Start a worker for each job; they have ended when the block has."""
    started: list[Worker] = []
    try:
        for job in jobs:
            ours, theirs = Pipe()
            start = _start_process if in_processes else _start_thread
            started.append(Worker(ours, start(job, board, theirs)))
        yield started
    finally:
        board.stop()
        for worker in started:
            worker.pipe.close()
        for worker in started:
            worker.runner.join(_END_S)
            if isinstance(worker.runner, BaseProcess) and worker.runner.is_alive():
                worker.runner.terminate()
                worker.runner.join()


def _start_thread(job: Job, board: Board, pipe: Connection) -> threading.Thread:
    thread = threading.Thread(target=work, args=(job, board, pipe), name="demo-readers", daemon=True)
    thread.start()
    return thread


def _start_process(job: Job, board: Board, pipe: Connection) -> BaseProcess:
    # Spawned, as a fork would copy the locks of this process's threads.
    process = get_context("spawn").Process(target=work, args=(job, board, pipe), daemon=True)
    # Ctrl-C reaches every process of the terminal. It is this one's to end the others in good order, so
    # they are born deaf to it.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, heard)
    pipe.close()  # the child's copy is the only one now: its death closes the pipe
    return process


def run(started: Sequence[Worker], phase: Phase, look: Callable[[], None]) -> Harvest:
    """Let all workers run through a phase; returns what all readers have seen.

    Args:
        started: The workers.
        phase: The phase.
        look: Called several times a second meanwhile.

    Raises:
        WorkerError: A worker failed, died, or does not come to an end.
    """
    for worker in started:
        try:
            worker.pipe.send(phase)
        except OSError:
            raise WorkerError(_DIED) from None
    harvest = Harvest()
    waiting = [worker.pipe for worker in started]
    deadline_s = time.monotonic() + phase.limit_s + _GRACE_S
    while waiting:
        for pipe in wait(waiting, timeout=_LOOK_S):
            assert isinstance(pipe, Connection)
            harvest.add(_answer(pipe))
            waiting.remove(pipe)
        if time.monotonic() > deadline_s:
            raise WorkerError(f"readers did not come to an end in phase {phase.name!r}")
        look()
    return harvest


def _answer(pipe: Connection) -> Harvest:
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise WorkerError(_DIED) from None
    if isinstance(answer, Harvest):
        return answer
    raise WorkerError(str(answer))
