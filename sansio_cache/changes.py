"""Changes: what a driver is to know of what a coordinator has taken in, for the log and for connections."""

from __future__ import annotations

from msgspec import Struct

from sansio_cache.events import FailureKind


class OutageBegan(Struct, frozen=True):
    """A part of the store does not serve: its reads do without it from now on. `reason` says why."""

    part: str
    kind: FailureKind
    reason: str = ""


class OutageEnded(Struct, frozen=True):
    """A part of the store serves again, after `lasted_s` seconds."""

    part: str
    lasted_s: float


class RefusalBegan(Struct, frozen=True):
    """A part of the store refuses something, for the first time since it last did what was asked.

    `reason` says what it answers.
    """

    part: str
    kind: FailureKind
    reason: str = ""


class InvalidationsForgotten(Struct, frozen=True):
    """More than `limit` invalidations wait for a part: the oldest are given up, for the first time."""

    part: str
    limit: int


class InvalidationsRefused(Struct, frozen=True):
    """The store refuses to be told of `count` invalidations, and not of others: for the first time."""

    part: str
    kind: FailureKind
    count: int


class InvalidationsGivenUp(Struct, frozen=True):
    """`count` invalidations that the store refuses are given up: nothing older can still be alive."""

    part: str
    count: int


class StoreReplaced(Struct, frozen=True):
    """Another store answers for a part: another owner, or another run of its server.

    `told` writes of this process are told again, and reads do without the part for `bypassed_s` seconds. With
    `is_incomplete`, more was written lately than is remembered.
    """

    part: str
    told: int
    bypassed_s: float
    is_incomplete: bool = False


class Suspected(Struct, frozen=True):
    """A reply may have belonged to another key: the connections to a part are to be set aside for a while."""

    part: str


class Trusted(Struct, frozen=True):
    """It did not: what was set aside can be used again."""

    part: str


class Distrusted(Struct, frozen=True):
    """A reply belonged to another key: the connections to a part are not to be trusted any more (S9)."""

    part: str


Change = (
    OutageBegan
    | OutageEnded
    | RefusalBegan
    | InvalidationsForgotten
    | InvalidationsRefused
    | InvalidationsGivenUp
    | StoreReplaced
    | Suspected
    | Trusted
    | Distrusted
)
"""What a driver is to know of what a coordinator has taken in."""
