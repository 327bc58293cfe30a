"""Breadth-first search through the worlds of a configuration.

What is kept of a world is a fingerprint of 16 bytes and the number of the world it was first reached from:
enough to say whether it has been seen, and to find the shortest way to it again. The way is replayed
without renaming, so that in a counterexample every worker is the same one from beginning to end.
"""

from __future__ import annotations

import marshal
from array import array
from collections import Counter
from hashlib import blake2b

import attrs

from sansio_cache.errors import ConfigurationError
from sansio_cache.exploring.configuration import Configuration, Fault
from sansio_cache.exploring.describing import describe
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.moves import Move, Moves
from sansio_cache.exploring.world import World

TIME_PASSES = frozenset({Fault.EXPIRY, Fault.AGE, Fault.IMPATIENCE, Fault.SHARING_TIMEOUT})
"""What comes about by waiting, and so is no fault when faults have stopped."""

MOST_REMEMBERED = 2_000_000
"""How many worlds are remembered by what they were before they were renamed. It only saves time."""


@attrs.frozen
class Counterexample:
    """The shortest way to a broken invariant."""

    invariant: Invariant
    what: str
    moves: tuple[str, ...]

    @property
    def length(self) -> int:
        """How many moves it takes; the first line only says how it began."""
        return len(self.moves) - 1

    def __str__(self) -> str:
        lines = [f"{number:3}. {text}" for number, text in enumerate(self.moves)]
        return "\n".join((f"{self.invariant.value} ({self.what}), after {self.length} moves:", *lines))


@attrs.frozen
class Exploration:
    """What a search came to. `is_closed`: no world was left unseen."""

    name: str
    states: int
    transitions: int
    depth: int
    fired: Counter[Fault]
    counterexample: Counterexample | None
    is_closed: bool


def fingerprint(world: World) -> bytes:
    """Sixteen bytes that tell a world from every other."""
    # Version 2 has no back references, which would depend on more than the value.
    return blake2b(marshal.dumps(tuple(world), 2), digest_size=16).digest()


def explore(configuration: Configuration) -> Exploration:
    """Take all moves from all worlds, until there is none left or an invariant is broken.

    Raises:
        ConfigurationError: It is no configuration, or nobody takes part in it.
    """
    if not isinstance(configuration, Configuration):
        raise ConfigurationError(
            f"explore takes a Configuration, as in explore(Configuration(name=…, processes=…)); got "
            f"{configuration!r:.80}"
        )
    if not configuration.acts:
        raise ConfigurationError(
            f"{configuration.name}: nobody takes part; give the programs of each process, as in "
            "processes=(((Act(Deed.LOAD),),),)"
        )
    return _Search(configuration).run()


@attrs.frozen
class _Broken:
    """Where an invariant is broken: in a world, or by a move from it."""

    number: int
    invariant: Invariant
    what: str
    in_move: bool = False


class _Search:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.moves = Moves(configuration)
        self.seen: dict[bytes, int] = {}
        self.parents = array("q")
        self.came_from = array("q")
        self.went_to = array("q")
        self.ended = array("q")
        self.fired: Counter[Fault] = Counter()
        self.raw: dict[World, int] = {}
        self.last = -1
        """The number of the world that was met last."""
        self.transitions = 0
        self.depth = 0

    def run(self) -> Exploration:
        """Search."""
        frontier: list[tuple[int, World]] = []
        for _, root in self.moves.roots():
            frontier += self._meet(root, -1)
        broken: _Broken | None = None
        while frontier and broken is None:
            following: list[tuple[int, World]] = []
            for number, world in frontier:
                broken = self._expand(number, world, following)
                if broken is not None:
                    break
            frontier = following
            self.depth += bool(frontier)
        if broken is None and self.configuration.all_end:
            broken = self._stuck()
        is_closed = broken is None and not frontier
        counterexample = None if broken is None else self._counterexample(broken)
        return Exploration(
            self.configuration.name,
            len(self.seen),
            self.transitions,
            self.depth,
            self.fired,
            counterexample,
            is_closed,
        )

    def _expand(self, number: int, world: World, following: list[tuple[int, World]]) -> _Broken | None:
        """Take all moves from a world."""
        broken = self.moves.broken_in(world)
        if broken is not None:
            return _Broken(number, *broken)
        all_end = self.configuration.all_end
        if all_end and self.moves.has_ended(world):
            self.ended.append(number)
        for move, after, broken in self.moves.of(world):
            self.transitions += 1
            if move.fault is not None:
                self.fired[move.fault] += 1
            if broken is not None:
                return _Broken(number, *broken, in_move=True)
            following += self._meet(after, number)
            if all_end and (move.fault is None or move.fault in TIME_PASSES):
                self.came_from.append(number)
                self.went_to.append(self.last)
        return None

    def _meet(self, world: World, parent: int) -> list[tuple[int, World]]:
        known = self.raw.get(world)
        if known is not None:
            self.last = known
            return []
        if len(self.raw) > MOST_REMEMBERED:
            self.raw.clear()
        raw = world
        world = self.moves.canonical(world)
        mark = fingerprint(world)
        number = self.seen.setdefault(mark, len(self.parents))
        self.last = self.raw[raw] = number
        if number < len(self.parents):
            return []
        self.parents.append(parent)
        return [(number, world)]

    def _stuck(self) -> _Broken | None:
        """L1: a world from which, though no fault strikes any more, the workers cannot come to an end."""
        ways_back: dict[int, list[int]] = {}
        for before, after in zip(self.came_from, self.went_to, strict=True):
            ways_back.setdefault(after, []).append(before)
        can_end = bytearray(len(self.parents))
        waiting = list(self.ended)
        while waiting:
            number = waiting.pop()
            if not can_end[number]:
                can_end[number] = 1
                waiting.extend(ways_back.get(number, ()))
        number = can_end.find(0)
        return None if number < 0 else _Broken(number, Invariant.ALL_END, "whatever happens next")

    def _counterexample(self, broken: _Broken) -> Counterexample:
        number = broken.number
        marks = {place: mark for mark, place in self.seen.items()}
        way = []
        while number >= 0:
            way.append(marks[number])
            number = self.parents[number]
        way.reverse()
        texts: list[str] = []
        world: World | None = None
        for text, root in self.moves.roots():
            if fingerprint(self.moves.canonical(root)) == way[0]:
                texts, world = [text], root
        assert world is not None
        for mark in way[1:]:
            move, after = self._leading_to(world, mark)
            texts.append(describe(self.moves, move, world, after))
            world = after
        if broken.in_move:
            last = (broken.invariant, broken.what)
            move, after = next((move, after) for move, after, found in self.moves.of(world) if found == last)
            texts.append(describe(self.moves, move, world, after))
        return Counterexample(broken.invariant, broken.what, tuple(texts))

    def _leading_to(self, world: World, mark: bytes) -> tuple[Move, World]:
        return next(
            (move, after)
            for move, after, broken in self.moves.of(world)
            if broken is None and fingerprint(self.moves.canonical(after)) == mark
        )
