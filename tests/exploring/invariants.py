"""The invariants, as RELIABILITY.md section 1 names them, and where each is looked at.

S1's oracle. Versions of the database are numbered in the order of their commits. A write is *complete* when
its operation has ended and nothing is left to tell the store: an invalidation that could not be told is
remembered, and is complete when recovery has told it. The *floor* is the newest version whose write is
complete. A read may return nothing older than the floor at its beginning; a reader that would begin now
would take what the cell holds, so the cell may never hold a value older than the floor of now. This is the
strict reading of a regular register: while two writes overlap, the one that committed first must not
survive the other.

In the process that remembers an invalidation the promise is larger: it does not trust the store with the
key, so the floor of its reads is the remembered version already.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Invariant(Enum):
    """What must hold in every world."""

    S1_READ = "S1 a read returned a version older than its floor"
    S1_CELL = "S1 the cell holds a value older than the floor"
    S1_REMEMBERED = "S1 a read returned a version older than an invalidation its process remembers"
    S2 = "S2 a cell was filled twice, or without holding the fill's grant"
    S3 = "S3 an id was issued that is in use"
    S4 = "S4 a value is to be stored whose load began before its grant was known"
    S5 = "S5 a release or renewal changed the cell of another's grant"
    S6 = "S6 all writers are done, and the cell holds something else than the last commit"
    S13 = "S13 a load that raised wrote"
    LEAK = "B2 all have ended, and a lease is left"
    LOADS = "L2 the loader ran another number of times"
    ALL_END = "L1 a worker can never end"


ALL: Final = frozenset(Invariant)
S1: Final = frozenset({Invariant.S1_READ, Invariant.S1_CELL})
