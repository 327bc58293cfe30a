"""Untold: what somebody has met at the store who can tell nobody yet.

It is a handler or a finaliser that has struck its own thread in the middle of a change of what a process
knows. So nothing here changes what may be half changed: words are left at one end, and taken in at the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress

import attrs
from msgspec import Struct

from sansio_cache.notices import InvalidationFailed, Notice
from sansio_cache.tags import is_tag_key


class Word(Struct, frozen=True):
    """What one operation has met."""

    notices: tuple[Notice, ...]
    keys: frozenset[str]
    """What the store could not be told of."""


@attrs.define(slots=False)
class TakesWords:
    """The part of a coordinator that keeps what is untold."""

    bypassed: frozenset[str]
    untold: deque[Word] = attrs.field(factory=deque, init=False)
    """What was left by `leave_word`, the first first."""

    def leave_word(self, notices: Iterable[Notice]) -> None:
        """Leave notices, where the thread that asks may be in the middle of any other method.

        Whoever can is to `heed` them, and call `told` then. What could not be removed is bypassed at once.
        """
        notices = tuple(notices)
        failed = (each for each in notices if isinstance(each, InvalidationFailed))
        self.untold.append(Word(notices, frozenset(key for each in failed for key in each.keys)))
        self.expect_notices()
        self.bypassed |= self._untold_tags()

    def told(self) -> None:
        """The first of what was left has been heeded."""
        self.untold.popleft()
        self._settle()

    def _is_untold(self, key: str) -> bool:
        return any(key in each.keys for each in self._words())

    def _untold_tags(self) -> frozenset[str]:
        return frozenset(key for each in self._words() for key in each.keys if is_tag_key(key))

    def _untold_count(self) -> int:
        return sum(len(each.keys) for each in self._words())

    def _words(self) -> tuple[Word, ...]:
        while True:
            with suppress(RuntimeError):  # to make a tuple may run a finaliser, which leaves another word
                return tuple(self.untold)

    def expect_notices(self) -> None:
        """There are notices to be heeded: until then, each read looks whether it is to ask."""
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError
