"""Get many: one read for any number of keys, and one more for the tags that entries turn out to have.

    GetManyReading --CellsRead--> values
       | entries with tags --> GetManyChecking --TagsRead--> values

An entry that another program version stored, and that this one cannot read, is a miss; `get` looks for its
variant, a batch does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget, StoreTimeouts
from sansio_cache.cell import Cell, Foreign
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCells, ReadTags
from sansio_cache.entry import MissReason, Servable, Unchecked, Unservable, Verdict, examine
from sansio_cache.events import (
    CellsRead,
    Event,
    Interrupted,
    ReadManyAnswer,
    ReadTagsAnswer,
    StoreFailed,
    TagsRead,
)
from sansio_cache.notices import (
    Ended,
    Hit,
    Missed,
    Notice,
    OperationName,
)
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    ManyRead,
    Missing,
    Outcome,
    Step,
    Unavailable,
    Value,
    ended,
    evolve,
    gave_up,
    unavailable,
    unexpected,
    went_without,
)
from sansio_cache.tags import Versions, known, tag_keys


class ReadManyRequest(Struct, frozen=True):
    """What is asked for."""

    keys: tuple[str, ...]
    """The full keys, in order."""
    codec: Codec[Any]
    """How values of the wanted type are stored."""
    chunk: int
    """How many keys may go into one command of the store."""
    timeouts: StoreTimeouts
    started_s: float
    """When the request came, on the driver's clock."""
    raises: bool = False
    """Whether the caller is to know that the store failed."""
    bypassed: frozenset[str] = frozenset()
    """Keys of tags whose removal the store has not been told of yet."""

    def end(self, outcome: Outcome, now_s: float, *notices: Notice) -> Step:
        """The last step."""
        return ended(outcome, *notices, Ended(OperationName.GET_MANY, now_s - self.started_s))

    def give_up(self, reason: MissReason, outcome: Unavailable, now_s: float, *notices: Notice) -> Step:
        """The last step where nothing can be had of the store."""
        missed = (Missed(key, reason) for key in self.keys)
        nothing = ManyRead((Missing(),) * len(self.keys))
        return self.end(outcome if self.raises else nothing, now_s, *notices, *missed)

    def fail(self, failure: StoreFailed) -> Step:
        """The last step where the store gave no answer."""
        outcome = unavailable(failure)
        return self.give_up(MissReason.STORE_ERROR, outcome, failure.now_s, *gave_up(failure))

    def finish(self, verdicts: tuple[Verdict, ...], now_s: float, *before: Notice) -> Step:
        """The last step: what each key's cell is worth."""
        values: list[Value | Missing] = []
        notices: list[Notice] = list(before)
        for key, verdict in zip(self.keys, verdicts, strict=True):
            value: Value | Missing = Missing()
            notice: Notice
            match verdict:
                case Servable(value=found, fresh=True, is_absent=is_absent):
                    notice = Hit(key)
                    if not is_absent:
                        value = Value(found)
                case Servable():
                    notice = Missed(key, MissReason.EXPIRED)
                case Unservable(reason=MissReason.KEY_CHECK as reason, seen=seen):
                    notice = Missed(key, reason, seen.hex())
                case Unservable(reason=reason) | Unchecked(reason=reason):
                    notice = Missed(key, reason)
                case _:
                    assert_never(verdict)
            values.append(value)
            notices.append(notice)
        return self.end(ManyRead(tuple(values)), now_s, *notices)


def unchecked_tags(verdicts: tuple[Verdict, ...]) -> tuple[str, ...]:
    """All tags whose versions are wanted, once each."""
    tags = (tag for verdict in verdicts if isinstance(verdict, Unchecked) for tag in verdict.tags)
    return tuple(dict.fromkeys(tags))


def only_theirs(verdict: Unchecked, versions: Mapping[str, bytes]) -> Versions:
    """Of many versions those that one entry depends on: what else is known must not be asked of it."""
    return tuple((tag, versions[tag]) for tag in verdict.tags)


class GetManyReading(AsksStore, Struct, frozen=True):
    """Waits for the cells.

    Next: GetManyReading | GetManyChecking | done
    """

    request: ReadManyRequest
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        command = ReadCells(self.request.keys, self.request.chunk, self.budget.timeout_s)
        return Step(self, command, notices=notices)

    def receive(self, event: Event) -> Step:
        """Decode them."""
        if not isinstance(event, ReadManyAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case CellsRead(now_s=now_s, cells=cells, server_ms=server_ms) if len(cells) == len(request.keys):
                failures = event.failures
                if again := self.retry_parts(failures):
                    return again
                if failures and request.raises:
                    return request.fail(failures[0])
                without = went_without(failures)
                verdicts = tuple(
                    examine(cell, key, request.codec, server_ms)
                    for key, cell in zip(request.keys, cells, strict=True)
                )
                tags = unchecked_tags(verdicts)
                if not tags:
                    return request.finish(verdicts, now_s, *without)
                budget = request.timeouts.from_now(now_s)
                return GetManyChecking(request, cells, verdicts, tags, budget).ask(*without)
            case CellsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


class GetManyChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of the tags that the entries turned out to have.

    Next: GetManyChecking | done
    """

    request: ReadManyRequest
    cells: tuple[Cell | Foreign | None, ...]
    verdicts: tuple[Verdict, ...]
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tag_keys(self.request.keys[0], self.tags)
        return Step(self, ReadTags(keys, self.budget.timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Hand out the values whose tags hold."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        request = self.request
        match event:
            case TagsRead(now_s=now_s, versions=versions, server_ms=server_ms) if len(versions) == len(
                self.tags
            ):
                current = dict(known(request.keys[0], self.tags, versions, request.bypassed))
                parts = zip(request.keys, self.cells, self.verdicts, strict=True)
                verdicts = tuple(
                    examine(cell, key, request.codec, server_ms, only_theirs(verdict, current))
                    if isinstance(verdict, Unchecked)
                    else verdict
                    for key, cell, verdict in parts
                )
                return request.finish(verdicts, now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or request.fail(event)
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def get_many(request: ReadManyRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to read many keys. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.started_s
    if not request.keys:
        return request.end(ManyRead(()), now_s)
    if skip is MissReason.STORE_ERROR:
        return request.give_up(skip, Unavailable(None), now_s)
    if skip is not None:
        return evolve(request, raises=False).give_up(skip, Unavailable(None), now_s)
    return GetManyReading(request, request.timeouts.from_now(now_s)).ask()
