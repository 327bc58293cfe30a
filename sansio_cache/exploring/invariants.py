"""The invariants, as RELIABILITY.md section 1 names them, and where each is looked at.

S1's oracle. Versions of the database are numbered in the order of their commits; each key has the version
of the last commit that touched it. A write is *complete* when its operation has ended and nothing is left to
tell the store: an invalidation that could not be told stays pending, and is complete when recovery has told
it. The *floor* of a key is the newest version whose write is complete. A read may return nothing older than
the floor at its beginning; a reader that would begin now would take what the cell holds, so the cell may
never hold a value older than the floor of now. This is the strict reading of a regular register: while two
writes overlap, the one that committed first must not survive the other.

In the process where an invalidation is pending the promise is larger: it does not trust the store with the
key, so the floor of its reads is that version already.

S7's oracle is the same with another floor: the newest version whose *tag* has been invalidated, completely.
It binds readers that name the tag, `get`, which finds it in the entry, and entries that have it. What a
caller stores who does not name the tag does not depend on it. Beside that, the versions in an entry must have
been told before its loader looked.

A counter has the number of increments that were acknowledged for its floor, and that of those that were begun
for its ceiling; a loader that makes it anew knows of the former. Of those who add an entry one at most is
told that it is theirs, where nothing takes it away.

A soft expiry has a floor as well: what is older may be served as stale, but never as fresh.

What the operations of a process share is looked at after every move: a load that is under way has a leader
who is at it, and ends no sooner; a place in a load belongs to an operation that has not ended; and who
follows a load is told at once that it has ended.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Invariant(Enum):
    """What must hold in every world."""

    S1_READ = "S1 a read returned a version older than its floor"
    S1_CELL = "S1 the cell holds a value older than the floor"
    S1_PENDING = "S1 a read returned a version older than an invalidation that is pending in its process"
    S2 = "S2 a cell was filled twice, or without holding the fill's grant"
    S3 = "S3 an id was issued that is in use"
    S4 = "S4 a value is to be stored whose load began before its grant was known"
    S5 = "S5 a release or renewal changed the cell of another's grant"
    S6 = "S6 all writers are done, and the cell holds something else than the last commit"
    S7_READ = "S7 a read returned a version older than an invalidation of its tag"
    S7_CELL = "S7 a value older than the last invalidation of its tag can be served"
    S7_LOAD = "S7 a value is to be stored with a tag's version that was not known before its load"
    S13 = "S13 a load that raised wrote"
    KEPT = "a store that has heard of everything has taken over, and what it holds counts as gone"
    EXACT = "a counter has lost an increment that was acknowledged, or has counted one twice"
    OWNERS = "two were told that they have added the same entry"
    BLOCKED = "L3 a touch has let a lease or a hold last longer"
    TOO_LONG = "S1f a touch has let an entry live past its longest life"
    LEAK = "B2 all have ended, and a lease is left"
    LEFT_BEHIND = "B2 a load is left without leader, a place in it without follower, or a follower untold"
    ENDED_EARLY = "L2 a load has ended while its leader was at it"
    LOADS = "L2 the loader ran another number of times"
    OUTLIVED = "L2 a lease is to last longer than its cell"
    ALL_END = "L1 a worker can never end"

    # See `Fault`.
    __hash__ = object.__hash__


ALL: Final = frozenset(Invariant)
S1: Final = frozenset({Invariant.S1_READ, Invariant.S1_CELL})
S7: Final = frozenset({Invariant.S7_READ, Invariant.S7_CELL})
