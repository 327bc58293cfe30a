"""Second look: an entry with another key's check was found. Is it stored there, or was the reply another's?

    SecondLooking --CellRead--> done

Somebody may have copied or renamed keys, or moved a namespace: then the entry is *foreign*, a miss like any
other. Or replies have got out of step, and the connections that were in use are not to be trusted (S9). So
these are set aside, and one look at the same key, on a fresh connection, tells which it is. Without an answer
the worse is assumed.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.commands import ReadCell
from sansio_cache.entry import stored_for_another
from sansio_cache.events import CellRead, Event, Interrupted, ReadAnswer, StoreFailed
from sansio_cache.notices import EntryForeign, RepliesCrossed, StoreErrored
from sansio_cache.step import Abandoned, Completed, Step, ended, unexpected


class Doubt(Struct, frozen=True):
    """An entry of another key, as it was found under this one."""

    key: str
    seen: str
    """The grant that filled it, as a text."""


def look_again(doubt: Doubt, timeout_s: float) -> Step:
    """Begin to read the key once more."""
    return Step(SecondLooking(doubt), ReadCell(doubt.key, timeout_s))


class SecondLooking(Struct, frozen=True):
    """Waits for the cell, on a fresh connection.

    Next: done
    """

    doubt: Doubt

    def receive(self, event: Event) -> Step:
        """Say which it was."""
        if not isinstance(event, ReadAnswer):
            raise unexpected(self, event)
        doubt = self.doubt
        match event:
            case CellRead(cell=cell):
                filled_by = stored_for_another(cell, doubt.key)
                if filled_by is not None and filled_by.hex() == doubt.seen:
                    return ended(Completed(), EntryForeign(doubt.key, doubt.seen))
                return ended(Completed(), RepliesCrossed(doubt.key))
            case StoreFailed(kind=kind, part=part):
                return ended(Completed(), StoreErrored(kind, part), RepliesCrossed(doubt.key))
            case Interrupted():
                return ended(Abandoned(), RepliesCrossed(doubt.key))
            case _:
                assert_never(event)
