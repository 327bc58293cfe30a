"""What the simulated program keeps: the rows of its database, and how each is cached.

A row's value is the number of the last commit that touched it, so that every value tells its age.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs

from sansio_cache.exploring.configuration import KEYS
from sansio_cache.keys import KeyBuilder
from sansio_cache.policy import Policy
from sansio_cache.tags import tag_key

BUILDER: Final = KeyBuilder("n")
LEASE_S: Final = 0.5
MAX_LEASE_S: Final = 2.0
WAIT_S: Final = 3.0

PLAIN: Final = Policy(ttl=6.0, negative_ttl=1.0, lease_s=LEASE_S, max_lease_s=MAX_LEASE_S, wait_s=WAIT_S)
STALE_AT_ONCE: Final = attrs.evolve(PLAIN, ttl=0.8, stale_for_s=4.0)
STALE_AT_LAST: Final = attrs.evolve(STALE_AT_ONCE, on_wait_timeout="stale")
EARLY: Final = attrs.evolve(PLAIN, ttl=3.0, refresh_at=0.3)
BY_CHANCE: Final = attrs.evolve(PLAIN, ttl=3.0, xfetch_beta=20.0)
LIFE_S: Final = 8.0
"""No entry lives longer than that."""
TAG: Final = "t:x"
TAG_KEY: Final = tag_key(KEYS[0], TAG)
LOCK_KEY: Final = BUILDER.lock("l")


@attrs.frozen(eq=False)
class Row:
    """A row, and how it is cached. There is one of each.

    Args:
        key: The full key.
        policy: How it is kept.
        is_tagged: Whether its entry names the tag: a write may say that instead of the key.
        has_versions: Whether some callers are of another version of the program.
    """

    key: str
    policy: Policy = PLAIN
    is_tagged: bool = False
    has_versions: bool = False

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it names."""
        return (TAG,) if self.is_tagged else ()

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """Their keys."""
        return (TAG_KEY,) if self.is_tagged else ()


ROWS: Final = (
    Row(KEYS[0]),
    Row(KEYS[1]),
    Row("n:versions", has_versions=True),
    Row("n:stale", STALE_AT_ONCE),
    Row("n:last", STALE_AT_LAST),
    Row("n:early", EARLY),
    Row("n:chance", BY_CHANCE),
    Row("n:tagged:1", is_tagged=True),
    Row("n:tagged:2", is_tagged=True),
)
COUNTER: Final = Row("n:count")
"""What is counted up: it is in no database."""
ADDED: Final = Row("n:added")
"""What is stored by whoever comes first."""
TAGGED: Final = tuple(row for row in ROWS if row.is_tagged)


@attrs.define
class Database:
    """The rows, as numbers of commits."""

    versions: dict[str, int] = attrs.field(factory=lambda: {row.key: 0 for row in (*ROWS, ADDED)})
    commits: int = 0
    looks: Counter[str] = attrs.field(factory=Counter)
    """How often loaders have looked at each row."""
    _at_work: Counter[str] = attrs.field(factory=Counter)

    def commit(self, rows: Iterable[Row]) -> int:
        """Write some rows."""
        number = self.number()
        for row in rows:
            self.versions[row.key] = number
        return number

    def number(self) -> int:
        """The number of a commit that is yet to come."""
        self.commits += 1
        return self.commits

    def look(self, keys: Iterable[str]) -> dict[str, int]:
        """What a loader sees."""
        keys = tuple(keys)
        self.looks.update(keys)
        return {key: self.versions[key] for key in keys}

    # `set` asks of the program that nobody else commits between its call and its hold.

    def may_write(self, rows: Iterable[Row], *, alone: bool) -> bool:
        """Begin to write some rows, where nobody is at them who wants to be alone."""
        keys = [row.key for row in rows]
        if any(self._at_work[key] if alone else self._at_work[f"{key} alone"] for key in keys):
            return False
        for key in keys:
            self._at_work[key] += 1
            self._at_work[f"{key} alone"] += alone
        return True

    def end_write(self, rows: Iterable[Row], *, alone: bool) -> None:
        """The write has ended, however it did."""
        for row in rows:
            self._at_work[row.key] -= 1
            self._at_work[f"{row.key} alone"] -= alone
