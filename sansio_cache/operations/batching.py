"""Batching: what a consumer makes of the entries of a partition, and of a writer that fails.

*Coalescing.* Of several writes of a key the newest is applied; the older ones leave the partition with it,
and not before.

*Failing.* What cannot be applied is *parked* with a pause that doubles, and the other keys go on. A later
write of a parked key takes the place of the one that failed. Several writes that failed together are tried
in halves: at once where the writer has just worked, as then one of them is to blame, and a few attempts find
it; with pauses where it works for nobody, as then the database is. A write is given up that has failed by
itself as often as is allowed, and nothing but a write that has failed by itself.

*Reading.* What is in hand is what was queued, in bytes. It is decoded anew for each attempt, as a writer may
change what it is given. What cannot be read is parked as if it had failed by itself: where programs are being
replaced, it may be a write of the new ones, which another consumer can read.
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
MOST_PARKED_BYTES: Final = 32 * 2**20
"""How long their values may be together, by the same rule: what is taken at once comes on top of it."""
_SKEW_US: Final = 1_000_000
"""How far the clocks of servers that take over from each other are apart at most, in microseconds."""
_UNREAD: Final = "it cannot be read: it was queued as another type, or is corrupt"


class Piece(Struct, frozen=True):
    """The writes of one key: the newest, which is applied, and those that it overtakes."""

    key: str
    token: int
    body: bytes
    """The value, sealed as in a cell."""
    tags: tuple[str, ...] = ()
    older: tuple[int, ...] = ()
    """The tokens of those that it overtakes."""
    failed: int = 0
    """How often it has failed by itself."""

    def joined(self, other: Piece) -> Piece:
        """The same with other writes of the key, which were delivered after these.

        The higher token is the newer write, whatever came first: a store that is older than it was delivers
        what is in hand once more.
        """
        newest = other if other.token > self.token else self
        tokens = {*self.older, self.token, *other.older, other.token} - {newest.token}
        tags = tuple(dict.fromkeys((*self.tags, *other.tags)))
        return evolve(newest, older=tuple(sorted(tokens)), tags=tags)

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

    def read(self, codec: Codec[Any]) -> tuple[tuple[QueuedWrite, ...], tuple[Piece, ...]]:
        """What the writer is given, with values that nobody has changed; and what cannot be read."""
        writes: list[QueuedWrite] = []
        unread: list[Piece] = []
        for each in self.pieces:
            cell = Cell(Kind.VALUE, NO_GRANT, 0, 0, NO_GRANT, each.body)
            verdict = examine(cell, each.key, codec, 0)
            if isinstance(verdict, Servable):
                writes.append(QueuedWrite(each.key, verdict.value, each.token, self.attempts + 1))
            else:
                unread.append(each)
        return tuple(writes), tuple(unread)

    def without(self, some: tuple[Piece, ...]) -> Unit:
        """The same without some of them."""
        tokens = {each.token for each in some}
        return evolve(self, pieces=tuple(each for each in self.pieces if each.token not in tokens))

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

    def is_enough(self, piece: Piece) -> bool:
        """Whether a write has failed by itself as often as is allowed."""
        return self.deliveries is not None and piece.failed >= self.deliveries

    def pause_s(self, attempts: int, seed: int) -> float:
        """How long to pause after so many failures."""
        pause_s = math.ldexp(self.first_s, min(attempts, 40) - 1)
        return min(pause_s, self.longest_s) * (0.5 + draw_at(seed, attempts) / 2)


class Due(Struct, frozen=True):
    """What is to be done now about what is parked."""

    holding: Holding
    """The partition without that."""
    unit: Unit | None = None
    """What the writer is to be given; None where that is nothing, or where writes are given up first."""
    writes: tuple[QueuedWrite, ...] = ()
    """The same with the values."""
    given_up: tuple[Piece, ...] = ()
    """What could not be read as often as is allowed."""
    unread: int = 0
    """How many could not be read this time."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What becomes of those that are given up."""
        return tuple(verdict for piece in self.given_up for verdict in piece.verdicts(reason=_UNREAD))


class Holding(Struct, frozen=True):
    """A partition whose lease a consumer has."""

    place: int
    grant: bytes
    taken: int = 0
    """The token of the newest entry that was delivered."""
    parked: tuple[Unit, ...] = ()
    works: bool = True
    """Whether the writer has worked the last time."""
    doubted: int = 0
    """Up to this token, entries may have been applied before, and newer ones that are gone from here."""

    @property
    def has_room(self) -> bool:
        """Whether more entries may be taken."""
        keys = sum(len(unit.pieces) for unit in self.parked)
        size_bytes = sum(len(piece.body) for unit in self.parked for piece in unit.pieces)
        return keys < MOST_PARKED and size_bytes < MOST_PARKED_BYTES

    def after(self, token: int, server_ms: int) -> Holding:
        """The same when entries were taken up to a token, at `server_ms` on the store's clock.

        What is there as it is looked at from the beginning may be back, in a store that is older than it was.
        What is queued later is new.
        """
        doubted = self.doubted if self.taken else max(self.doubted, server_ms * 1000 + _SKEW_US)
        return evolve(self, taken=token, doubted=doubted)

    def begun_anew(self) -> Holding:
        """The same when it is to be looked at from the beginning, as something there was passed."""
        return evolve(self, taken=0, doubted=max(self.doubted, self.taken))

    def due(self, now_s: float, codec: Codec[Any], failing: Failing, seed: int) -> Due:
        """The next that is to be tried now, as far as it can be read; what cannot be is parked again."""
        before: list[Unit] = []
        given_up: list[Piece] = []
        unread = 0
        for place, unit in enumerate(self.parked):
            if unit.due_s > now_s:
                before.append(unit)
                continue
            writes, bad = unit.read(codec)
            unread += len(bad)
            for piece in (evolve(each, failed=each.failed + 1) for each in bad):
                if failing.is_enough(piece):
                    given_up.append(piece)
                else:
                    due_s = now_s + failing.pause_s(piece.failed, seed)
                    before.append(Unit((piece,), unit.attempts + 1, due_s))
            if writes:
                rest, ready = self.parked[place + 1 :], unit.without(bad)
                if given_up:
                    holding = evolve(self, parked=(*before, ready, *rest))
                    return Due(holding, given_up=tuple(given_up), unread=unread)
                return Due(evolve(self, parked=(*before, *rest)), ready, writes, unread=unread)
        return Due(evolve(self, parked=tuple(before)), given_up=tuple(given_up), unread=unread)

    def merged(self, pieces: Iterable[Piece]) -> tuple[tuple[Piece, ...], Holding]:
        """Those pieces whose keys are not parked, and the partition with the others in place."""
        places = {piece.key: unit for unit in self.parked for piece in unit.pieces}
        fresh = {piece.key: piece for piece in pieces}
        parked = tuple(
            evolve(unit, pieces=tuple(_joined(piece, fresh.get(piece.key)) for piece in unit.pieces))
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
            if failing.is_enough(piece):
                return piece, evolve(self, works=False)
            due_s = now_s + failing.pause_s(piece.failed, seed)
            return None, self._park((Unit((piece,), attempts, due_s),))
        due_s = now_s if self.works else now_s + failing.pause_s(attempts, seed)
        again = evolve(unit, attempts=attempts, due_s=due_s)
        return None, self._park(again.halves() if self.works or attempts > 1 else (again,))

    def _park(self, units: tuple[Unit, ...]) -> Holding:
        return evolve(self, works=False, parked=(*self.parked, *units))


def _joined(parked: Piece, other: Piece | None) -> Piece:
    return parked if other is None else parked.joined(other)


def coalesced(
    entries: Iterable[QueueEntry], deliveries: int | None
) -> tuple[tuple[Piece, ...], tuple[Verdict, ...]]:
    """What is to be applied of entries, oldest first, and verdicts on those that are given up.

    An entry is given up that was delivered by itself more often than is allowed: each time the consumer has
    ended. Those that were delivered together before that are not to blame for each other.
    """
    pieces: dict[str, Piece] = {}
    given_up: list[Verdict] = []
    for entry in entries:
        if deliveries is not None and entry.deliveries > CRASHES + deliveries:
            reason = f"delivered {entry.deliveries} times: consumers have ended while it was applied"
            given_up.append(Verdict(entry.token, entry.key, reason))
            continue
        piece = Piece(entry.key, entry.token, entry.body, entry.tags)
        earlier = pieces.get(entry.key)
        pieces[entry.key] = piece if earlier is None else earlier.joined(piece)
    return tuple(pieces.values()), tuple(given_up)
