"""Untold: keys that could not be removed, by whoever can tell nobody yet.

It is a handler or a finaliser that has struck its own thread in the middle of a change of what a process
knows. So nothing here changes what may be half changed: a key is put down in one step, and is taken in with
whatever is heeded next.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import attrs

from sansio_cache.notices import InvalidationFailed
from sansio_cache.tags import is_tag_key


@attrs.define(slots=False)
class TakesWords:
    """The part of a coordinator that knows of them."""

    bypassed: frozenset[str]
    untold: dict[str, bool] = attrs.field(factory=dict, init=False)
    """The keys, in the order in which they were put down."""

    def leave_word(self, keys: Iterable[str]) -> None:
        """Put keys down, where the thread that asks may be in the middle of any other method.

        They are bypassed at once, and pending with the next `heed`.
        """
        keys = tuple(keys)
        for key in keys:
            self.untold[key] = True
        self.expect_notices()
        self.bypassed |= {key for key in keys if is_tag_key(key)}

    def _take_words(self) -> tuple[InvalidationFailed, ...]:
        """What is to be heeded in their place: they are to be dropped when it is."""
        keys = self._untold_keys()
        return (InvalidationFailed(keys),) if keys else ()

    def _drop_words(self, taken: Iterable[InvalidationFailed]) -> None:
        """Forget what is pending by now. What was put down once more meanwhile is pending as well."""
        for each in taken:
            for key in each.keys:
                self.untold.pop(key, None)

    def _untold_keys(self) -> tuple[str, ...]:
        while True:
            with suppress(RuntimeError):  # to make a tuple may run a finaliser, which puts another down
                return tuple(self.untold)

    def expect_notices(self) -> None:
        """Notices are to be heeded: until then, each read looks whether it is to ask."""
        raise NotImplementedError
