"""A search through worlds as they are, without renaming: for explorers with worlds of their own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

import attrs


class HasBroken(Protocol):
    """A world: a value that can be compared, and says what is broken in it."""

    @property
    def broken(self) -> Any:
        """What does not hold; None where everything does."""
        ...


W = TypeVar("W", bound=HasBroken)


class Searchable(Protocol[W]):
    """What there is to search."""

    def beginning(self) -> W:
        """The world in which nobody has done anything."""
        ...

    def moves(self, world: W) -> Iterable[tuple[str, W, Any]]:
        """What may happen next: in words, the world after it, and the fault that it is."""
        ...


@attrs.frozen
class Exhausted:
    """What a search came to. It has met every world, unless something is broken."""

    name: str
    states: int
    fired: Counter[Any]
    """How often each fault has struck."""
    broken: Any
    moves: tuple[str, ...]
    """The shortest way to what is broken."""


def exhaust(name: str, search: Searchable[W], most: int) -> Exhausted:
    """Take all moves from all worlds, breadth first, until there is none left that was not seen.

    Args:
        name: For the table of results.
        search: What is searched.
        most: How many worlds there are at most.

    Raises:
        AssertionError: There are more.
    """
    first = search.beginning()
    came: dict[W, tuple[W, str] | None] = {first: None}
    waiting = deque([first])
    fired: Counter[Any] = Counter()
    while waiting:
        world = waiting.popleft()
        for text, after, fault in search.moves(world):
            if fault is not None:
                fired[fault] += 1
            if after in came:
                continue
            came[after] = world, text
            if after.broken is not None:
                return Exhausted(name, len(came), fired, after.broken, _way(came, after))
            assert len(came) <= most, f"{name}: more than {most} worlds"
            waiting.append(after)
    return Exhausted(name, len(came), fired, None, ())


def _way(came: Mapping[W, tuple[W, str] | None], world: W) -> tuple[str, ...]:
    texts: list[str] = []
    while (before := came[world]) is not None:
        world, text = before
        texts.append(text)
    return tuple(reversed(texts))
