"""Scan: one page of the entries that match a pattern, with their states.

    ScanPaging --KeysFound--> ScanReading --CellsRead--> done
                                 | entries with tags --> ScanChecking --TagsRead--> done

What holds for the keys of a page says `delete_pattern.py`: an entry that is there all the time is found, one
that comes or goes meanwhile may be, and one may be found twice. Leases, holds, the cache's own records and
what could not be served are left out. Each page is an operation of its own.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.commands import ReadCells, ReadTags, ScanKeys
from sansio_cache.entry import Unchecked, Verdict, weigh
from sansio_cache.events import (
    CellsRead,
    Event,
    Interrupted,
    KeysFound,
    ReadManyAnswer,
    ReadTagsAnswer,
    ScanAnswer,
    StoreFailed,
    TagsRead,
)
from sansio_cache.lookup import EntryState
from sansio_cache.notices import Ended, Notice, OperationName
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.lookup import state_of
from sansio_cache.signing import Signer
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    PageFound,
    Step,
    ended,
    gave_up,
    unavailable,
    unexpected,
)
from sansio_cache.tags import known, tag_keys


def scan(
    request: PatternRequest,
    cursor: int,
    bypassed: frozenset[str] = frozenset(),
    signer: Signer | None = None,
) -> Step:
    """Begin to find a page.

    `bypassed` are keys of tags whose removal the store was not told of yet. `signer` verifies entries, where
    they are signed.
    """
    budget = request.timeouts.from_now(request.started_s)
    return ScanPaging(request, cursor, bypassed, budget, signer).ask()


def nothing_found() -> Step:
    """A page where there is no store."""
    return ended(PageFound(0, ()))


def _end(
    request: PatternRequest, cursor: int, keys: tuple[str, ...], verdicts: tuple[Verdict, ...], now_s: float
) -> Step:
    states = ((key, state_of(verdict)) for key, verdict in zip(keys, verdicts, strict=True))
    entries = tuple((key, state) for key, state in states if state is not EntryState.MISS)
    return ended(PageFound(cursor, entries), Ended(OperationName.SCAN, now_s - request.started_s))


def _fail(request: PatternRequest, failure: StoreFailed) -> Step:
    over = Ended(OperationName.SCAN, failure.now_s - request.started_s)
    return ended(unavailable(failure), *gave_up(failure), over)


class ScanPaging(AsksStore, Struct, frozen=True):
    """Waits for a page of keys.

    Next: ScanPaging | ScanReading | done
    """

    request: PatternRequest
    cursor: int
    bypassed: frozenset[str]
    budget: Budget
    signer: Signer | None

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.request
        command = ScanKeys(request.pattern, self.cursor, request.page, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Read what was found."""
        if not isinstance(event, ScanAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case KeysFound(failures=failures) if failures:
                return self.retry_parts(failures) or _fail(request, failures[0])
            case KeysFound(now_s=now_s, cursor=cursor, keys=found):
                keys = tuple(key for key in dict.fromkeys(found) if request.may_remove(key))
                if not keys:
                    return _end(request, cursor, (), (), now_s)
                budget = request.timeouts.from_now(now_s)
                return ScanReading(request, cursor, self.bypassed, keys, budget, self.signer).ask()
            case StoreFailed():
                return self.retry(event) or _fail(request, event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class ScanReading(AsksStore, Struct, frozen=True):
    """Waits for the cells of a page.

    Next: ScanReading | ScanChecking | done
    """

    request: PatternRequest
    cursor: int
    bypassed: frozenset[str]
    keys: tuple[str, ...]
    budget: Budget
    signer: Signer | None

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, ReadCells(self.keys, self.request.page, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Say what the cells are worth."""
        if not isinstance(event, ReadManyAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellsRead(failures=failures) if failures:
                return self.retry_parts(failures) or _fail(request, failures[0])
            case CellsRead(now_s=now_s, cells=cells) if len(cells) == len(self.keys):
                pairs = zip(cells, self.keys, strict=True)
                server_ms, signer = event.server_ms, self.signer
                verdicts = tuple(weigh(cell, key, server_ms, (), signer) for cell, key in pairs)
                tags = tuple(
                    dict.fromkeys(
                        tag for each in verdicts if isinstance(each, Unchecked) for tag in each.tags
                    )
                )
                if tags:
                    budget = request.timeouts.from_now(now_s)
                    return ScanChecking(self, event, verdicts, tags, budget).ask()
                return _end(request, self.cursor, self.keys, verdicts, now_s)
            case CellsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or _fail(request, event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class ScanChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of the tags of a page.

    Next: ScanChecking | done
    """

    reading: ScanReading
    found: CellsRead
    verdicts: tuple[Verdict, ...]
    """What the cells are worth, as far as that is known without the tags."""
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tag_keys(self.reading.keys[0], self.tags)
        return Step(self, ReadTags(keys, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Say what the cells are worth, by their tags."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        reading, found = self.reading, self.found
        match event:
            case TagsRead(now_s=now_s, versions=versions) if len(versions) == len(self.tags):
                current = dict(known(reading.keys[0], self.tags, versions, reading.bypassed))
                verdicts = []
                for cell, key, verdict in zip(found.cells, reading.keys, self.verdicts, strict=True):
                    if isinstance(verdict, Unchecked):
                        own = tuple((tag, current[tag]) for tag in verdict.tags)
                        verdicts.append(weigh(cell, key, found.server_ms, own, reading.signer))
                    else:
                        verdicts.append(verdict)
                return _end(reading.request, reading.cursor, reading.keys, tuple(verdicts), now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or _fail(reading.request, event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)
