"""What was made of what was used: kept, as calls name the same keys, tags and types again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_KEYS: Final = 24_576
"""Of how many keys it is known what they are, where they are the same kind of thing: some 8 MiB at most."""
_MOST_KNOWN: Final = 1024
_PATIENCE: Final = 8


class Known(dict[Any, T]):
    """What is made of things, by the things. It is looked up as in any dict, and made where it is not there.

    When it is full it stays as it is, until eight times as many things as it holds were asked for in vain. So
    where more are in use than it holds, in whatever order, some of them are found; and what is not used any
    more goes.

    Args:
        make: Makes it. What that raises is the caller's, and nothing is kept.
        most: How many are kept.
    """

    def __init__(self, make: Callable[[Any], T], most: int = _MOST_KNOWN) -> None:
        super().__init__()
        self._make = make
        self._most = most
        self._in_vain = 0

    def __missing__(self, given: Any) -> T:
        made = self._make(given)
        if len(self) >= self._most:
            self._in_vain += 1
            if self._in_vain < _PATIENCE * self._most:
                return made
            self.clear()
        self._in_vain = 0
        self[given] = made
        return made
