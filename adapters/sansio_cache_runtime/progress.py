"""Progress: telling a caller how far a deletion by pattern has come.

The machine states each page as a notice. A state that wraps it hands the number on, in the caller's own
thread or task; the driver sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sansio_cache.errors import ConfigurationError
from sansio_cache.events import Event
from sansio_cache.notices import PatternProgressed
from sansio_cache.step import State, Step
from sansio_cache_runtime.loaders import is_coroutine_function


class _Reporting(Struct, frozen=True):
    state: State
    progress: Callable[[int], object]
    dry_run: bool

    def receive(self, event: Event) -> Step:
        step = self.state.receive(event)
        for notice in step.notices:
            if isinstance(notice, PatternProgressed):
                self.progress(notice.matched if self.dry_run else notice.deleted)
        return reporting(step, self.progress, dry_run=self.dry_run)


def reporting(step: Step, progress: Callable[[int], object], *, dry_run: bool) -> Step:
    """The same step, and all that follow it, with `progress` called after each page.

    It is told how many keys were removed so far; in a dry run, how many were found.
    """
    return replace(step, state=_Reporting(step.state, progress, dry_run))


def check_progress(progress: Any) -> None:
    """Refuse what cannot be told, before anything is removed.

    Raises:
        ConfigurationError: It cannot be called, or is a coroutine function.
    """
    if not callable(progress):
        raise ConfigurationError(f"progress is a function of one number; got {progress.__class__.__name__}")
    if is_coroutine_function(progress):
        raise ConfigurationError(
            "progress is a coroutine function, and nobody would await it: pass a plain one"
        )
