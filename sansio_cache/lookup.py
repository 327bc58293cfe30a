"""What an entry is like: what `lookup` gives, and `scan` in short."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import attrs

T_co = TypeVar("T_co", covariant=True)


class EntryState(StrEnum):
    """What a key has for a reader."""

    FRESH = "fresh"
    """A value that is served."""
    STALE = "stale"
    """A value past its time to live, or made stale by `expire`, that is kept for those who may serve it."""
    ABSENT = "absent"
    """The answer that there is known to be nothing."""
    MISS = "miss"
    """Nothing that could be served."""


@attrs.frozen
class Lookup(Generic[T_co]):
    """What an entry is like.

    Attributes:
        value: The value, where the state is fresh or stale; else None.
        state: `"fresh"`, `"stale"`, `"absent"` or `"miss"`.
        age_s: How long ago its load, or its write, began, in seconds on the store's clock; None for a miss.
        remaining_s: How long it stays fresh, in seconds; 0 where it is stale, None for a miss.
        version: Which write has stored it, for `swap`: 16 bytes, which no other write of any key has. None
            for a miss.
        tags: What else it depends on, as `tags=` takes it.
    """

    value: T_co | None = attrs.field(default=None, hash=False, repr=False)
    state: EntryState = EntryState.MISS
    age_s: float | None = None
    remaining_s: float | None = None
    version: bytes | None = None
    tags: tuple[str, ...] = ()

    @property
    def is_fresh(self) -> bool:
        """Whether `get` would give the value."""
        return self.state is EntryState.FRESH


NO_ENTRY: Final[Lookup[Any]] = Lookup()
