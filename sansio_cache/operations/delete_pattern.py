"""Delete by pattern: scan, and remove page by page.

    PatternScanning --KeysFound--> PatternDeleting --KeysDeleted--> PatternScanning (next cursor) ... --> done

SCAN is no barrier: a key that is added while the scan runs may survive (it is newer than the request),
one that was there all the time is found, duplicates and empty pages are normal
(https://redis.io/docs/latest/commands/scan/). What is removed is checked here once more: it lies inside
the namespace and is not one of the library's internal keys (S11).

Each page is reported as it is done with. A deletion that breaks off says what it removed, and that it is
incomplete.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
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
    PatternProgressed,
)
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    PatternRemoved,
    Step,
    ended,
    evolve,
    gave_up,
    saying,
    unexpected,
)


class PatternRequest(Struct, frozen=True):
    """What is to be removed."""

    keys: KeyBuilder
    pattern: str
    """The full glob."""
    page: int
    """About how many keys the store looks at for one command."""
    timeouts: StoreTimeouts
    started_s: float
    dry_run: bool = False
    """Whether keys are counted only, and nothing is removed."""

    def may_remove(self, key: str) -> bool:
        """Whether a key that the store found is one that a pattern may remove."""
        return key.startswith(f"{self.keys.namespace}:") and not self.keys.is_internal(key)


class Tally(Struct, frozen=True):
    """How many keys have matched so far, and how many of them were removed."""

    matched: int = 0
    deleted: int = 0
    complete: bool = True
    """Whether no part of the store has failed, which may have more of them."""

    def after(self, failures: tuple[StoreFailed, ...], *, matched: int = 0, deleted: int = 0) -> Tally:
        """The same with some more, where so many parts have failed."""
        is_complete = self.complete and not failures
        return Tally(self.matched + matched, self.deleted + deleted, is_complete)


def delete_pattern(request: PatternRequest, *, skip: bool = False) -> Step:
    """Begin to remove keys by pattern. With `skip`, the cache is disabled and nothing is done."""
    if skip:
        return _finish(request, Tally(), True, request.started_s)
    return _scan(request, 0, Tally(), request.started_s)


def _scan(request: PatternRequest, cursor: int, tally: Tally, now_s: float, *notices: Notice) -> Step:
    return PatternScanning(request, cursor, tally, request.timeouts.from_now(now_s)).ask(*notices)


def _go_on(request: PatternRequest, cursor: int, tally: Tally, now_s: float) -> Step:
    """The next page, or the end."""
    progress = PatternProgressed(request.pattern, tally.matched, tally.deleted)
    if cursor:
        return _scan(request, cursor, tally, now_s, progress)
    return _finish(request, tally, tally.complete, now_s, progress)


def _finish(request: PatternRequest, tally: Tally, complete: bool, now_s: float, *notices: Notice) -> Step:
    deleted = () if request.dry_run else (PatternDeleted(request.pattern, tally.deleted),)
    return ended(
        PatternRemoved(tally.matched, tally.deleted, complete),
        *notices,
        *deleted,
        Ended(OperationName.DELETE_PATTERN, now_s - request.started_s),
    )


def _break_off(request: PatternRequest, tally: Tally, failure: StoreFailed) -> Step:
    return _finish(request, tally, False, failure.now_s, *gave_up(failure))


class PatternScanning(AsksStore, Struct, frozen=True):
    """Waits for a page of keys.

    Next: PatternScanning | PatternDeleting | done
    """

    request: PatternRequest
    cursor: int
    tally: Tally
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        timeout_s = self.budget.timeout_s
        command = ScanKeys(request.pattern, self.cursor, request.page, timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the keys of the page, or count them."""
        if not isinstance(event, ScanAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case KeysFound(now_s=now_s, cursor=cursor, keys=found):
                if again := self.retry_parts(event.failures):
                    return again
                keys = tuple(key for key in dict.fromkeys(found) if request.may_remove(key))
                tally = self.tally.after(event.failures, matched=len(keys))
                if request.dry_run or not keys:
                    return saying(event.failures, _go_on(request, cursor, tally, now_s))
                budget = request.timeouts.from_now(now_s)
                return saying(event.failures, PatternDeleting(request, cursor, tally, keys, budget).ask())
            case StoreFailed():
                return self.retry(event) or _break_off(request, self.tally, event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class PatternDeleting(AsksStore, Struct, frozen=True):
    """Waits for the keys of a page to be removed.

    Next: PatternDeleting | PatternScanning | done
    """

    request: PatternRequest
    cursor: int
    """Where the scan goes on."""
    tally: Tally
    keys: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = DeleteKeys(self.keys, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on with the scan, or end."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        match event:
            case KeysDeleted(now_s=now_s, count=count):
                so_far = self.tally.after((), deleted=count)
                if again := evolve(self, keys=event.left, tally=so_far).retry_parts(event.failures):
                    return again
                tally = self.tally.after(event.failures, deleted=count)
                return saying(event.failures, _go_on(self.request, self.cursor, tally, now_s))
            case StoreFailed():
                return self.retry(event) or _break_off(self.request, self.tally, event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)
