"""Progress: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sansio_cache_cli.figures import PhaseFigures


class Bars:
    """A bar for each phase."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = TaskID(0)

    def begin(self, title: str, total: int) -> None:
        """A phase of so many requests begins."""
        self._bar = self._progress.add_task(title, total=total, note="")

    def move(self, asked: int) -> None:
        """So many requests have been made."""
        self._progress.update(self._bar, completed=asked)

    def end(self, figures: PhaseFigures) -> None:
        """The phase is over."""
        note = f"[red]{figures.stale:,} stale" if figures.stale else f"{figures.queries:,} queries"
        self._progress.update(self._bar, completed=figures.requests, note=note)
        self._progress.stop_task(self._bar)


class Lines:
    """Two lines for each phase."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, title: str, total: int) -> None:
        """A phase of so many requests begins."""
        self._console.print(f"{title}: {total:,} requests ...", highlight=False)

    def move(self, asked: int) -> None:
        """Lines do not move."""

    def end(self, figures: PhaseFigures) -> None:
        """The phase is over."""
        stale = f", {figures.stale:,} stale" if figures.stale else ""
        self._console.print(
            f"  {figures.requests:,} answers, {figures.queries:,} queries{stale}, {figures.took_s:.1f} s",
            highlight=False,
        )


@contextmanager
def display(console: Console) -> Iterator[Bars | Lines]:
    """What suits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
