"""Notices: facts that the machines state as they go, for statistics, hooks and explanations.

A notice changes nothing. Statistics are a fold over notices, and nothing else (see `stats.py`).
"""

from __future__ import annotations

from enum import Enum

import attrs

from sansio_cache.entry import MissReason
from sansio_cache.events import FailureKind


class OperationName(Enum):
    """What the user asked for."""

    GET = "get"
    GET_MANY = "get_many"
    GET_OR_LOAD = "get_or_load"
    SET = "set"
    SET_MANY = "set_many"
    INVALIDATE = "invalidate"
    MUTATE = "mutate"
    DELETE_PATTERN = "delete_pattern"


@attrs.frozen
class Hit:
    """A request was answered from the store."""

    key: str


@attrs.frozen
class StaleServed:
    """A request was answered with a value past its soft expiry, as its policy allows."""

    key: str


@attrs.frozen
class Missed:
    """A request was not answered from the store at its first read."""

    key: str
    reason: MissReason


@attrs.frozen
class Waited:
    """The request waited for somebody else's load, in this process or another."""

    key: str
    waited_s: float


@attrs.frozen
class LoadShared:
    """The request was answered with the result of a load of another caller in this process."""

    key: str


@attrs.frozen
class Loaded:
    """The loader returned. Without a grant (`leased` false) the value is not stored."""

    key: str
    leased: bool
    took_s: float


@attrs.frozen
class LoadFailed:
    """The loader raised; `error` is the name of the exception's class."""

    key: str
    leased: bool
    error: str


@attrs.frozen
class Stored:
    """A value was stored."""

    key: str


@attrs.frozen
class FillRefused:
    """A value was not stored: its lease was voided (invalidated, evicted) or lost to another."""

    key: str


@attrs.frozen
class Unstorable:
    """A loader's value cannot be stored so that it comes back equal; the caller has it, uncached."""

    key: str
    why: str


@attrs.frozen
class LeaseLost:
    """A renewal found that the lease is no longer ours."""

    key: str


@attrs.frozen
class LeaseOutgrown:
    """The loader, or a writer's block, has run for the longest time that a lease may be renewed."""

    key: str


@attrs.frozen
class StoreErrored:
    """One attempt failed."""

    kind: FailureKind


@attrs.frozen
class StoreGaveUp:
    """An operation did without the store after its last attempt had failed."""

    kind: FailureKind


@attrs.frozen
class StoreAnswered:
    """The store serves again: a probe was answered."""


@attrs.frozen
class Invalidated:
    """Keys were removed from the store."""

    keys: tuple[str, ...]


@attrs.frozen
class InvalidationFailed:
    """Keys that may now hold old values, as the store could not be told. They are to be remembered."""

    keys: tuple[str, ...]


@attrs.frozen
class PatternDeleted:
    """Keys were removed by pattern."""

    pattern: str
    count: int


@attrs.frozen
class Ended:
    """An operation is over, after `took_s` seconds on the driver's clock."""

    operation: OperationName
    took_s: float


Notice = (
    Hit
    | StaleServed
    | Missed
    | Waited
    | LoadShared
    | Loaded
    | LoadFailed
    | Stored
    | FillRefused
    | Unstorable
    | LeaseLost
    | LeaseOutgrown
    | StoreErrored
    | StoreGaveUp
    | StoreAnswered
    | Invalidated
    | InvalidationFailed
    | PatternDeleted
    | Ended
)
