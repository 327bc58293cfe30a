"""Filling: what those who store values make of the answers, whoever they are.

A store that can compare stores a value only into the very cell that the grant has left, and says where that
has X asked once more, and judged by the grant. In between others may do what they like: the second question
is a fill like any other.
"""

from __future__ import annotations

from typing import Any

from sansio_cache.codec import Codec
from sansio_cache.commands import Fill
from sansio_cache.errors import ProtocolError, SerializationError
from sansio_cache.events import FillResult
from sansio_cache.loader import Fresh, is_nothing
from sansio_cache.notices import FillRefused, Notice, Stored, Unstorable
from sansio_cache.step import evolve


def encoded(codec: Codec[Any], given: Any) -> tuple[Any, bytes | None, SerializationError | None]:
    """What a loader gave as its caller gets it, its payload, and why it cannot be stored.

    Nothing is stored, without a payload. What cannot be stored is its caller's as it is.
    """
    if is_nothing(given):
        return None, None, None
    value = given.value if isinstance(given, Fresh) else given
    try:
        stored = codec.encode(value)
    except SerializationError as error:
        return value, None, error
    return stored.value, stored.payload, None


def unstorable(name: str, value: Any, refusal: SerializationError) -> Unstorable:
    """The notice that a value cannot be stored."""
    return Unstorable(name, type(value).__name__, str(refusal))


def to_be_judged(fills: tuple[Fill, ...], results: tuple[FillResult, ...]) -> tuple[Fill, ...]:
    """The fills that are to be asked for again, by their grants alone: whose cells have changed.

    Raises:
        ProtocolError: The store has compared although it was not to.
    """
    changed = [each for each, result in zip(fills, results, strict=True) if result is FillResult.CHANGED]
    if not all(each.lease_ms for each in changed):
        raise ProtocolError("a store must judge a fill without lease_ms by its grant")
    return tuple(evolve(each, lease_ms=0) for each in changed)


def told(fills: tuple[Fill, ...], results: tuple[FillResult, ...]) -> tuple[Notice, ...]:
    """The notice of each fill on which the store has decided."""
    return tuple(
        Stored(each.key, len(each.body), each.grant) if result.is_accepted else FillRefused(each.key)
        for each, result in zip(fills, results, strict=True)
        if result is not FillResult.CHANGED and result is not FillResult.UNKNOWN
    )
