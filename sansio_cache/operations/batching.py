"""Batching: what a consumer makes of the entries of a partition, and of a writer that fails.

*Coalescing.* Of several writes of a key the newest is applied; the older ones leave the partition with it,
and not before.

*Failing.* What cannot be applied is *parked* with a pause that doubles, and the other keys go on. A later
write of a parked key takes the place of the one that failed. Several writes that failed together are tried
in halves: at once where the writer has just worked, as then one of them is to blame, and a few attempts find
it; with pauses where it works for nobody, as then the database is. A write is given up that has failed by
itself as often as is allowed, and nothing but a write that has failed by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from sansio_cache.backoff import draw_at
from sansio_cache.cell import NO_GRANT, Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import Verdict
from sansio_cache.entry import Servable, examine
from sansio_cache.queues import CRASHES, QueuedWrite, QueueEntry
from sansio_cache.step import evolve

MOST_PARKED: Final = 2_000
"""How many keys of a partition may be parked; with more, no new entries are taken until some were tried."""


class Piece(Struct, frozen=True):
    """The writes of one key: the newest, which is applied, and those that it overtakes."""

    key: str
    token: int
    value: Any
    tags: tuple[str, ...] = ()
    older: tuple[int, ...] = ()
    """The tokens of those that it overtakes."""
    failed: int = 0
    """How often it has failed by itself."""

    def __hash__(self) -> int:
        return hash((self.key, self.token, self.tags, self.older, self.failed))  # the value may be a list

    def over(self, earlier: Piece) -> Piece:
        """The same with the writes that came before it."""
        tags = tuple(dict.fromkeys((*earlier.tags, *self.tags)))
        return evolve(self, older=(*earlier.older, earlier.token, *self.older), tags=tags)

    def verdicts(self, found: int = 0, reason: str = "") -> tuple[Verdict, ...]:
        """What becomes of its entries: the older ones are done with in any case."""
        older = (Verdict(token, self.key) for token in self.older)
        return (*older, Verdict(self.token, self.key, reason, found))


class Unit(Struct, frozen=True):
    """Writes that the writer is given together."""

    pieces: tuple[Piece, ...]
    attempts: int = 0
    """How often they have failed, in this unit or in a larger one."""
    due_s: float = 0.0
    """When they are to be tried, on the driver's clock."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are removed when they are applied, tags included."""
        tags = (tag for piece in self.pieces for tag in piece.tags)
        return tuple(dict.fromkeys((*(piece.key for piece in self.pieces), *tags)))

    @property
    def writes(self) -> tuple[QueuedWrite, ...]:
        """What the writer is given."""
        tried = self.attempts + 1
        return tuple(QueuedWrite(each.key, each.value, each.token, tried) for each in self.pieces)

    def halves(self) -> tuple[Unit, ...]:
        """The same in two."""
        middle = len(self.pieces) // 2
        return evolve(self, pieces=self.pieces[:middle]), evolve(self, pieces=self.pieces[middle:])


class Failing(Struct, frozen=True):
    """What is done about a writer that fails."""

    deliveries: int | None
    """How often a write is tried by itself before it is given up; None for ever."""
    first_s: float
    """How long is paused after the first failure, in seconds: twice as long after each that follows."""
    longest_s: float

    def pause_s(self, attempts: int, seed: int) -> float:
        """How long to pause after so many failures."""
        pause_s = math.ldexp(self.first_s, min(attempts, 40) - 1)
        return min(pause_s, self.longest_s) * (0.5 + draw_at(seed, attempts) / 2)


class Holding(Struct, frozen=True):
    """A partition whose lease a consumer has."""

    place: int
    grant: bytes
    taken: int = 0
    """The token of the newest entry that was delivered."""
    parked: tuple[Unit, ...] = ()
    works: bool = True
    """Whether the writer has worked the last time."""

    @property
    def has_room(self) -> bool:
        """Whether more entries may be taken."""
        return sum(len(unit.pieces) for unit in self.parked) < MOST_PARKED

    def due(self, now_s: float) -> tuple[Unit | None, Holding]:
        """A unit that is to be tried now, and the partition without it; None where there is none."""
        for unit in self.parked:
            if unit.due_s <= now_s:
                return unit, evolve(self, parked=tuple(each for each in self.parked if each is not unit))
        return None, self

    def merged(self, pieces: Iterable[Piece]) -> tuple[tuple[Piece, ...], Holding]:
        """Those pieces whose keys are not parked, and the partition with the others in place."""
        places = {piece.key: unit for unit in self.parked for piece in unit.pieces}
        fresh = {piece.key: piece for piece in pieces}
        parked = tuple(
            evolve(unit, pieces=tuple(_renewed(piece, fresh.get(piece.key)) for piece in unit.pieces))
            for unit in self.parked
        )
        return tuple(each for key, each in fresh.items() if key not in places), evolve(self, parked=parked)

    def succeeded(self, now_s: float) -> Holding:
        """The writer works: what has failed together is tried in halves at once."""
        parked = tuple(
            evolve(unit, due_s=min(unit.due_s, now_s)) if len(unit.pieces) > 1 else unit
            for unit in self.parked
        )
        return evolve(self, works=True, parked=parked)

    def failed(self, unit: Unit, failing: Failing, now_s: float, seed: int) -> tuple[Piece | None, Holding]:
        """The writer has failed: the write that is given up, if one is, and the partition with the others."""
        attempts = unit.attempts + 1
        if len(unit.pieces) == 1:
            (piece,) = unit.pieces
            piece = evolve(piece, failed=piece.failed + 1)
            if failing.deliveries is not None and piece.failed >= failing.deliveries:
                return piece, evolve(self, works=False)
            due_s = now_s + failing.pause_s(piece.failed, seed)
            return None, self._park((Unit((piece,), attempts, due_s),))
        due_s = now_s if self.works else now_s + failing.pause_s(attempts, seed)
        again = evolve(unit, attempts=attempts, due_s=due_s)
        return None, self._park(again.halves() if self.works or attempts > 1 else (again,))

    def _park(self, units: tuple[Unit, ...]) -> Holding:
        return evolve(self, works=False, parked=(*self.parked, *units))


def _renewed(parked: Piece, later: Piece | None) -> Piece:
    return parked if later is None else later.over(parked)


def coalesced(
    entries: Iterable[QueueEntry], codec: Codec[Any], deliveries: int | None
) -> tuple[tuple[Piece, ...], tuple[Verdict, ...]]:
    """What is to be applied of entries, oldest first, and verdicts on those that cannot be.

    An entry is given up that was delivered by itself more often than is allowed: each time the consumer has
    ended. Those that were delivered together before that are not to blame for each other.
    """
    pieces: dict[str, Piece] = {}
    given_up: list[Verdict] = []
    for entry in entries:
        cell = Cell(Kind.VALUE, NO_GRANT, 0, 0, NO_GRANT, entry.body)
        verdict = examine(cell, entry.key, codec, 0)
        if deliveries is not None and entry.deliveries > CRASHES + deliveries:
            reason = f"delivered {entry.deliveries} times: consumers have ended while it was applied"
        elif isinstance(verdict, Servable):
            piece = Piece(entry.key, entry.token, verdict.value, entry.tags)
            earlier = pieces.get(entry.key)
            pieces[entry.key] = piece if earlier is None else piece.over(earlier)
            continue
        else:
            reason = "it cannot be read: it was queued as another type, or is corrupt"
        given_up.append(Verdict(entry.token, entry.key, reason))
    return tuple(pieces.values()), tuple(given_up)
