"""Progress: telling a caller how far a deletion by pattern has come.

The machine states each page as a notice. A state that wraps it hands the number on, in the caller's own
thread or task; the driver sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from msgspec.structs import replace

from sansio_cache.events import Event
from sansio_cache.notices import PatternProgressed
from sansio_cache.step import State, Step


@attrs.frozen
class _Reporting:
    state: State
    progress: Callable[[int], object]

    def receive(self, event: Event) -> Step:
        step = self.state.receive(event)
        for notice in step.notices:
            if isinstance(notice, PatternProgressed):
                self.progress(notice.deleted or notice.matched)
        return reporting(step, self.progress)


def reporting(step: Step, progress: Callable[[int], object]) -> Step:
    """The same step, and all that follow it, with `progress` called after each page."""
    return replace(step, state=_Reporting(step.state, progress))
