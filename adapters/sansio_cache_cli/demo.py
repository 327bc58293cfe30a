"""The demo: build the database, start the readers, run the phases, clean up."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
from rich.console import Console

from sansio_cache_cli.board import Board
from sansio_cache_cli.database import SHOPS, Database, build
from sansio_cache_cli.figures import Outcome, PhaseFigures, figures_of
from sansio_cache_cli.phases import Phase, Settings, plan
from sansio_cache_cli.progress import Bars, Lines, display
from sansio_cache_cli.readers import READY_S, Harvest, Job
from sansio_cache_cli.workers import Worker, run, workers, writing
from sansio_cache_cli.writer import Recorder, Writer
from sansio_cache_redis.sync import Cache


def run_demo(settings: Settings, console: Console) -> Outcome:
    """Run all phases. Whatever happens, the database is removed and the namespace cleared.

    Raises:
        ConfigurationError: The URL cannot be used.
        CacheConnectionError: The server does not serve.
        WorkerError: Readers could not run.
    """
    namespace = f"demo-{secrets.token_hex(4)}"
    # In this process's memory, all caches of the demo share one store under its name.
    url = f"memory://{namespace}" if settings.is_embedded else settings.url
    board = Board(shops=SHOPS, readers=settings.readers)
    with (
        tempfile.TemporaryDirectory(prefix="sansio-cache-demo-") as directory,
        _cleared(url, namespace, console) as cache,
    ):
        path = Path(directory, "orders.db")
        jobs = [
            Job(
                url=url,
                namespace=namespace,
                runtime=settings.runtime,
                path=path,
                readers=tuple(range(number, settings.readers, settings.processes)),
            )
            for number in range(settings.processes)
        ]
        in_processes = not settings.is_embedded
        with workers(jobs, board, in_processes=in_processes) as started, display(console) as shown:
            recorder = Recorder.beginning_with(build(path, settings.rows))
            stage = _Stage(
                settings=settings, job=jobs[0], started=started, board=board, recorder=recorder, shown=shown
            )
            figures: list[PhaseFigures] = []
            for phase in plan(settings):
                cache.clear()  # every phase begins cold
                figures.append(stage.run(phase))
    return Outcome(tuple(figures))


@contextmanager
def _cleared(url: str, namespace: str, console: Console) -> Iterator[Cache]:
    """A cache whose namespace is emptied in the end."""
    with Cache.from_url(url, namespace=namespace) as cache:
        cache.wait_ready(READY_S)
        try:
            yield cache
        finally:
            if not cache.clear().complete:
                console.print(f"[yellow]Keys of the namespace {namespace} may be left on the server.")


@attrs.frozen(kw_only=True)
class _Stage:
    """Where phases are run: the workers, and a writer beside them."""

    settings: Settings
    job: Job
    started: Sequence[Worker]
    board: Board
    recorder: Recorder
    shown: Bars | Lines

    def run(self, phase: Phase) -> PhaseFigures:
        """Run a phase; returns its figures."""
        self.board.forget_asked()
        self.shown.begin(phase.title, phase.requests * self.settings.readers)
        began_s = time.monotonic()
        if phase.writes:
            harvest, completed, undelivered = self._run_with_writer(phase)
        else:
            harvest, completed, undelivered = run(self.started, phase, self._look), 0, 0
        figures = figures_of(
            phase,
            harvest,
            self.recorder,
            took_s=time.monotonic() - began_s,
            writes=completed,
            undelivered=undelivered,
        )
        self.shown.end(figures)
        return figures

    def _look(self) -> None:
        self.shown.move(self.board.asked)

    def _run_with_writer(self, phase: Phase) -> tuple[Harvest, int, int]:
        errors: list[str] = []
        with Database(self.job.path) as database:
            writer = Writer(database, self.recorder, self.board)

            def write() -> None:
                try:
                    writing(self.job)(self.job, writer)
                except Exception as error:  # noqa: BLE001 - the demo's result, as a reader's
                    errors.append(f"the writer: {type(error).__name__}: {error}")

            thread = threading.Thread(target=write, name="demo-writer")
            thread.start()
            try:
                harvest = run(self.started, phase, self._look)
            finally:
                writer.finished.set()
                thread.join()
        harvest.errors.update(errors)
        return harvest, writer.completed, writer.undelivered
