"""Delete by pattern: scan, and remove page by page.

    Scanning --KeysFound--> Deleting --KeysDeleted--> Scanning (next cursor) ... --> done

SCAN is no barrier: a key that is added while the scan runs may survive (it is newer than the request),
one that was there all the time is found, duplicates and empty pages are normal
(https://redis.io/docs/latest/commands/scan/). What is removed is checked here once more: it lies inside
the namespace and is not one of the library's internal keys (S11).

A deletion that breaks off says what it removed, and that it is incomplete.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from sansio_cache.budget import Budget, Patience
from sansio_cache.commands import DeleteKeys, ScanKeys
from sansio_cache.events import (
    DeleteAnswer,
    Event,
    Interrupted,
    KeysDeleted,
    KeysFound,
    ScanAnswer,
    StoreFailed,
)
from sansio_cache.keys import KeyBuilder
from sansio_cache.notices import (
    Ended,
    Notice,
    OperationName,
    PatternDeleted,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    PatternRemoved,
    Step,
    ended,
    unexpected,
)


@attrs.frozen
class PatternRequest:
    """The full glob to remove. `page` is about how many keys the store looks at for one command."""

    keys: KeyBuilder
    pattern: str
    page: int
    patience: Patience
    started_s: float

    def may_remove(self, key: str) -> bool:
        """Whether a key that the store found is one that a pattern may remove."""
        return key.startswith(f"{self.keys.namespace}:") and not self.keys.is_internal(key)


def delete_pattern(request: PatternRequest, *, skip: bool = False) -> Step:
    """Begin to remove keys by pattern. With `skip`, the cache is disabled and nothing is done."""
    if skip:
        return _finish(request, 0, True, request.started_s)
    return _scan(request, 0, 0, request.started_s)


def _scan(request: PatternRequest, cursor: int, deleted: int, now_s: float) -> Step:
    return Scanning(request, cursor, deleted, request.patience.from_now(now_s)).ask(now_s)


def _finish(request: PatternRequest, deleted: int, complete: bool, now_s: float, *notices: Notice) -> Step:
    return ended(
        PatternRemoved(deleted, complete),
        *notices,
        PatternDeleted(request.pattern, deleted),
        Ended(OperationName.DELETE_PATTERN, now_s - request.started_s),
    )


@attrs.frozen
class Scanning(AsksStore):
    """Waits for a page of keys."""

    request: PatternRequest
    cursor: int
    deleted: int
    budget: Budget

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        timeout_s = self.budget.timeout_s(now_s)
        command = ScanKeys(request.pattern, self.cursor, request.page, timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the keys of the page."""
        if not isinstance(event, ScanAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case KeysFound(now_s=now_s, cursor=cursor, keys=found):
                keys = tuple(key for key in dict.fromkeys(found) if request.may_remove(key))
                if keys:
                    budget = request.patience.from_now(now_s)
                    return Deleting(request, cursor, self.deleted, keys, budget).ask(now_s)
                if cursor:
                    return _scan(request, cursor, self.deleted, now_s)
                return _finish(request, self.deleted, True, now_s)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or _finish(
                    request, self.deleted, False, now_s, StoreErrored(kind), StoreGaveUp(kind)
                )
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


@attrs.frozen
class Deleting(AsksStore):
    """Waits for the keys of a page to be removed; `cursor` is where the scan goes on."""

    request: PatternRequest
    cursor: int
    deleted: int
    keys: tuple[str, ...]
    budget: Budget

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = DeleteKeys(self.keys, self.budget.timeout_s(now_s))
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on with the scan, or end."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case KeysDeleted(now_s=now_s, count=count):
                deleted = self.deleted + count
                if self.cursor:
                    return _scan(request, self.cursor, deleted, now_s)
                return _finish(request, deleted, True, now_s)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or _finish(
                    request, self.deleted, False, now_s, StoreErrored(kind), StoreGaveUp(kind)
                )
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)
