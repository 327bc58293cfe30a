"""Lives: how long entries live, in figures. No I/O here.

An entry was to stay fresh from when its value was stored: its grant says when its load began, and it says how
long that took. What it had to live then is what the time to live was, jitter included; what it has left now
says when it will be loaded again, and how many are at once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from sansio_cache.inspection import CellState, Inspection
from sansio_cache.keys import entity_of

_BUCKETS: Final = 12
_EVEN: Final = 4.0
"""Where the longest is no more than this many times the shortest, buckets are of one width."""
_SECOND_MS: Final = 1000


@attrs.frozen(kw_only=True)
class Bucket:
    """How many were in a range, in seconds."""

    from_s: float
    to_s: float
    count: int


@attrs.frozen(kw_only=True)
class EntityLives:
    """How long the entries of one entity live: of their lives the shortest, the middle and the longest."""

    entity: str
    count: int
    shortest_s: float
    median_s: float
    longest_s: float

    @property
    def spread(self) -> float:
        """By what share the longest is longer than the shortest."""
        return self.longest_s / self.shortest_s - 1 if self.shortest_s > 0 else 0.0


@attrs.frozen(kw_only=True)
class Lives:
    """What a sample says of how long entries live.

    Attributes:
        count: How many keys were looked at.
        foreign: How many were written by no cache of this format.
        future: How many values were stored in the server's future.
        stale: How many values are kept past their time to live.
        lives: How long values were to stay fresh.
        remaining: How long they still do.
        entities: The same by entity, the largest first.
        together: How many cease to be fresh in the second in which most of them do.
    """

    count: int
    foreign: int
    future: int
    stale: int
    lives: tuple[Bucket, ...]
    remaining: tuple[Bucket, ...]
    entities: tuple[EntityLives, ...]
    together: int

    @property
    def values(self) -> int:
        """How many of them are values, or the answer that there is none."""
        return sum(each.count for each in self.lives)

    @property
    def even_per_s(self) -> float:
        """How many are loaded again each second where they were stored evenly, one after the other."""
        return sum(each.count / max(each.median_s, 1.0) for each in self.entities)


def life_of(found: Inspection) -> int | None:
    """How long a value was to stay fresh when it was stored, in milliseconds; None where nothing says so."""
    if found.life_ms is None or found.left_ms is None or found.fresh_for_ms is None:
        return None
    return found.life_ms - (found.left_ms - found.fresh_for_ms)


def lives_of(entries: Iterable[Inspection], *, future_ms: int = 2_000) -> Lives:
    """The figures of a sample.

    Args:
        entries: What was found.
        future_ms: How far ahead of the server a value may have been stored: clocks are read at two moments.
    """
    entries = tuple(entries)
    lives: dict[str, list[float]] = defaultdict(list)
    remaining: list[float] = []
    seconds: Counter[int] = Counter()
    for found in entries:
        life_ms = life_of(found)
        if life_ms is None or found.fresh_for_ms is None:
            continue
        lives[entity_of(found.key)].append(max(life_ms, 0) / 1000)
        if found.fresh_for_ms > 0:
            remaining.append(found.fresh_for_ms / 1000)
            seconds[found.fresh_for_ms // _SECOND_MS] += 1
    by_size = sorted(lives.items(), key=lambda each: (-len(each[1]), each[0]))
    return Lives(
        count=len(entries),
        foreign=sum(found.state is CellState.FOREIGN for found in entries),
        future=sum(found.age_ms is not None and found.age_ms < -future_ms for found in entries),
        stale=sum(found.state is CellState.STALE for found in entries),
        lives=histogram([life for each in lives.values() for life in each]),
        remaining=histogram(remaining),
        entities=tuple(_of_entity(entity, sorted(each)) for entity, each in by_size),
        together=max(seconds.values(), default=0),
    )


def _of_entity(entity: str, lives: Sequence[float]) -> EntityLives:
    return EntityLives(
        entity=entity,
        count=len(lives),
        shortest_s=lives[0],
        median_s=lives[len(lives) // 2],
        longest_s=lives[-1],
    )


def histogram(numbers: Sequence[float]) -> tuple[Bucket, ...]:
    """Numbers in buckets from the least to the greatest: of one width, or growing where they differ much."""
    if not numbers:
        return ()
    low, high = min(numbers), max(numbers)
    if high - low < 0.001:
        return (Bucket(from_s=low, to_s=high, count=len(numbers)),)
    is_even = low > 0 and high / low <= _EVEN
    first = low if is_even else max(low, high / 1e6)
    ratio, width = high / first, (high - low) / _BUCKETS

    def place(number: float) -> int:
        if is_even:
            at = (number - low) / width
        else:
            at = _BUCKETS * math.log(max(number, first) / first) / math.log(ratio)
        return min(int(at), _BUCKETS - 1)

    def bound(at: int) -> float:
        return low + width * at if is_even else first * ratio ** (at / _BUCKETS)

    counts = Counter(map(place, numbers))
    return tuple(Bucket(from_s=bound(at), to_s=bound(at + 1), count=counts[at]) for at in range(_BUCKETS))


def plain(lives: Lives) -> dict[str, Any]:
    """The figures as plain data, which can be made JSON of. Times are in seconds."""
    told = attrs.asdict(lives)
    for each, of_entity in zip(told["entities"], lives.entities, strict=True):
        each["spread"] = of_entity.spread
    return told
