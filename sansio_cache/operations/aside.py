"""Aside: what a consumer has of a partition that it cannot reach, and of keys that it cannot remove.

A partition is on one node of a cluster, and each key that is removed may be on another. So what fails is set
aside by itself, with a pause that doubles, and all else goes on. What is in hand of a partition stays there:
if the lease is still under the same grant when it is reached again, nobody else has had it.

*Answers that do not come.* What is delivered at once may be more than comes through the link in time, and
would not be less when it is asked for once more. So half as much is asked for after each failure, until it
comes; and then slowly more again.

*Keys that cannot be removed.* Their writes are applied, and are not settled before the keys are gone: readers
go on to look at the queue. They are kept in groups, which are tried one at a time, and in halves after that,
so that one key does not keep the others. A later write of such a key is settled with those before it, and
never before them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from sansio_cache.commands import Verdict
from sansio_cache.operations.batching import Failing, Piece
from sansio_cache.step import evolve

_STEPS: Final = 8
"""How many answers have to come until twice as much is asked for: so that it is rarely too much once more."""
_MOST_HALVINGS: Final = 13


class Done(Struct, frozen=True):
    """Writes of one key that are applied or given up: what is removed, and settled after that."""

    key: str
    keys: tuple[str, ...]
    """What is removed: the key, and those of tags."""
    verdicts: tuple[Verdict, ...]
    """Oldest first; none where they are settled already."""
    may_be_old: bool = False
    """Whether the database may have had a newer one already, and have refused it."""

    @property
    def goes_again(self) -> bool:
        """Whether it is removed once more when it is settled: it may be old, or a letter is made of it."""
        return self.may_be_old or any(each.reason for each in self.verdicts)

    def after(self, earlier: Done) -> Done:
        """The same with what was done with before."""
        keys = tuple(dict.fromkeys((*earlier.keys, *self.keys)))
        may_be_old = self.may_be_old or earlier.may_be_old
        return Done(self.key, keys, (*earlier.verdicts, *self.verdicts), may_be_old)


Group = tuple[Done, ...]


def done_with(piece: Piece, *, found: int = 0, may_be_old: bool = False) -> Done:
    """What is left to do of a piece that is applied; `found` is the token that the database has."""
    return Done(piece.key, (piece.key, *piece.tags), piece.verdicts(found), may_be_old)


def given_up(verdicts: Iterable[Verdict], pieces: Iterable[Piece] = ()) -> Group:
    """What is left to do of writes that are given up, with the tags of their pieces."""
    tags = {piece.key: piece.tags for piece in pieces}
    found: dict[str, Done] = {}
    for verdict in verdicts:
        key, earlier = verdict.key, found.get(verdict.key)
        done = Done(key, (key, *tags.get(key, ())), (verdict,))
        found[key] = done if earlier is None else done.after(earlier)
    return tuple(found.values())


def keys_of(group: Group) -> tuple[str, ...]:
    """All that is removed for a group, each key once, and those of tags at the end."""
    tags = (key for done in group for key in done.keys)
    return tuple(dict.fromkeys((*(done.key for done in group), *tags)))


def halves(group: Group) -> tuple[Group, ...]:
    """The same in two; one that is alone as it is."""
    middle = len(group) // 2
    return tuple(half for half in (group[:middle], group[middle:]) if half)


class Aside(Struct, frozen=True):
    """What is wrong with a partition, and what is left to do there."""

    place: int
    failures: int = 0
    """How often in a row it could not be reached."""
    due_s: float = 0.0
    """When it is tried again, on the driver's clock; 0 where it may be."""
    kept: tuple[Group, ...] = ()
    """What could not be removed, and so is not settled."""
    refusals: int = 0
    """How often in a row a group could not be removed."""
    removes_s: float = 0.0
    """When the next group is tried; 0 where it may be."""
    less: int = 0
    """By how many steps less is asked for at once than may be, as answers did not come."""

    @property
    def count(self) -> int:
        """How many keys are kept."""
        return sum(map(len, self.kept))

    def awake(self, now_s: float) -> Aside:
        """The same when it is later: what is due may be tried."""
        due_s, removes_s = (at_s if at_s > now_s else 0.0 for at_s in (self.due_s, self.removes_s))
        return evolve(self, due_s=due_s, removes_s=removes_s)

    def missed(self, failing: Failing, now_s: float, seed: int) -> Aside:
        """The same when it could not be reached."""
        failures = self.failures + 1
        return evolve(self, failures=failures, due_s=now_s + failing.pause_s(failures, seed))

    def reached(self) -> Aside:
        """The same when it was reached."""
        return evolve(self, failures=0, due_s=0.0)

    def narrower(self) -> Aside:
        """The same when no answer has come: it may have been too long to come in time. Half is asked for."""
        return evolve(self, less=min(self.less + _STEPS, _STEPS * _MOST_HALVINGS))

    def wider(self) -> Aside:
        """The same when an answer has come."""
        return evolve(self, less=max(self.less - 1, 0))

    def narrowed(self, most_bytes: int) -> int:
        """How much is asked for at once, of what may be. It is never nothing: one entry comes in any case."""
        return max(most_bytes >> -(-self.less // _STEPS), 1)

    def keeping(self, groups: tuple[Group, ...], failing: Failing, now_s: float, seed: int) -> Aside:
        """The same with what could not be removed: it comes after what is kept already."""
        refusals = self.refusals + 1
        removes_s = now_s + failing.pause_s(refusals, seed)
        return evolve(self, kept=(*self.kept, *groups), refusals=refusals, removes_s=removes_s)

    def removed(self) -> Aside:
        """The same when a group of those that were kept could be removed: the next one is tried."""
        return evolve(self, refusals=0, removes_s=0.0)

    def joined(self, group: Group) -> tuple[Group, Aside]:
        """A group with what is kept of its keys, which comes before it; and the partition without that."""
        earlier = {done.key: done for kept in self.kept for done in kept}
        keys = earlier.keys() & {done.key for done in group}
        if not keys:
            return group, self
        rest = (tuple(done for done in kept if done.key not in keys) for kept in self.kept)
        left = evolve(self, kept=tuple(kept for kept in rest if kept))
        joined = tuple(done.after(earlier[done.key]) if done.key in keys else done for done in group)
        return joined, left if left.kept else left.removed()
