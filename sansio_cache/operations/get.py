"""Get: one read.

    Reading --CellRead--> value or nothing

A value past its soft expiry is not a `get`'s to serve: it gives the default, as a missing one does.
"""

from __future__ import annotations

from typing import Any, assert_never

import attrs

from sansio_cache.budget import Budget, Patience
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCell
from sansio_cache.entry import MissReason, Unservable, examine
from sansio_cache.events import CellRead, Event, Interrupted, ReadAnswer, StoreFailed
from sansio_cache.notices import (
    Ended,
    Hit,
    Missed,
    Notice,
    OperationName,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.step import Abandoned, AsksStore, Missing, Step, Value, ended, unexpected


@attrs.frozen
class Reading(AsksStore):
    """Waits for the cell."""

    key: str
    codec: Codec[Any]
    started_s: float
    budget: Budget

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, ReadCell(self.key, self.budget.timeout_s(now_s)), notices=notices)

    def receive(self, event: Event) -> Step:
        """Hand out a fresh value, or nothing."""
        if not isinstance(event, ReadAnswer):
            raise unexpected(self, event)
        match event:
            case CellRead():
                verdict = examine(event.cell, self.key, self.codec, event.server_ms)
                done = Ended(OperationName.GET, event.now_s - self.started_s)
                if isinstance(verdict, Unservable):
                    return ended(Missing(), Missed(self.key, verdict.reason), done)
                if not verdict.fresh:
                    return ended(Missing(), Missed(self.key, MissReason.EXPIRED), done)
                return ended(Value(verdict.value), Hit(self.key), done)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or ended(
                    Missing(),
                    StoreErrored(kind),
                    StoreGaveUp(kind),
                    Missed(self.key, MissReason.STORE_ERROR),
                    Ended(OperationName.GET, now_s - self.started_s),
                )
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def get(
    key: str,
    codec: Codec[Any],
    *,
    patience: Patience,
    now_s: float,
    skip: MissReason | None = None,
) -> Step:
    """Begin a get. `skip` is the reason not to ask the store at all, if there is one."""
    if skip is not None:
        return ended(Missing(), Missed(key, skip), Ended(OperationName.GET, 0.0))
    return Reading(key, codec, now_s, patience.from_now(now_s)).ask(now_s)
