"""The log of operations: what a cache does, at the level DEBUG, with everything in fields as well.

It is written where somebody listens, under the name `sansio_cache.operations`, and by a subscriber: while
nobody does, there is none, and a hit pays nothing. Fields are attributes of a record, whose names begin with
`cache_`: JSON formatters, structlog and Sentry take them as they are.
"""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from sansio_cache.changes import (
    Change,
)
from sansio_cache.describe import describe
from sansio_cache.keys import entity_of
from sansio_cache.notices import Began, Ended, Hit, Notice, PatternProgressed, Result
from sansio_cache_runtime.context import set_safely

operations: Final = logging.getLogger("sansio_cache.operations")
NOT_LOGGED: Final = (Began, Hit, PatternProgressed)
"""Each of these is in the record of the operation that it belongs to."""

_HITS: Final = frozenset({Result.HIT, Result.STALE})
_ANSWERED: Final = _HITS | {Result.SHARED, Result.LOADED, Result.MISSING}
_WORD: Final = re.compile("(?<=[a-z])(?=[A-Z])")
_is_writing: Final[ContextVar[bool]] = ContextVar("sansio_cache_is_writing", default=False)


class OperationLog:
    """Writes what a cache tells into the log.

    Args:
        namespace: The cache's.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def hear(self, notice: Notice) -> None:
        """Write one notice down. What a handler of the log does with the cache meanwhile is not written."""
        if _is_writing.get():
            return
        set_safely(_is_writing, True)
        try:
            operations.debug(
                "cache %s: %s", self._namespace, _said(notice), extra=fields_of(self._namespace, notice)
            )
        finally:
            set_safely(_is_writing, False)


def fields_of(namespace: str, notice: Notice | Change) -> dict[str, Any]:
    """A notice, or what the coordinator has found, as fields of a record."""
    fields: dict[str, Any] = {
        "cache_name": namespace,
        "cache_event": _WORD.sub("_", type(notice).__name__).lower(),
    }
    for name in notice.__struct_fields__:
        fields[f"cache_{name}"] = _plain(getattr(notice, name))
    if isinstance(notice, Ended):
        fields["cache_event"] = "operation"
        if notice.result in _ANSWERED:
            fields["cache_hit"] = notice.result in _HITS
    key = fields.get("cache_key")
    if key:
        fields["cache_entity"] = entity_of(key)
    return fields


def _plain(value: Any) -> Any:
    """What any formatter can write: a `Key` as text, a member of an enumeration as its value, ids in hex."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _said(notice: Notice) -> str:
    key = getattr(notice, "key", "") or getattr(notice, "pattern", "")
    if isinstance(notice, Ended):
        about = f" {key}" if notice.count < 2 else f" {key} and {notice.count - 1} more"
        came = "ended" if notice.result is None else notice.result.value
        return f"{notice.operation.value}{about if key else ''}: {came} after {notice.took_s * 1000:.3f} ms"
    return f"{key}: {describe(notice)}" if key else describe(notice)
