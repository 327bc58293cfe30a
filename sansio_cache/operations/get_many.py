"""Get many: one read for any number of keys, a chunk at a time.

    ReadingMany --CellsRead--> ReadingMany (next chunk) ... --> values

What a chunk yields is kept when a later one fails.
"""

from __future__ import annotations

from typing import Any, assert_never

import attrs

from sansio_cache.budget import Budget, Patience
from sansio_cache.codec import Codec
from sansio_cache.commands import ReadCells
from sansio_cache.entry import MissReason, Servable, Unservable, examine
from sansio_cache.events import CellsRead, Event, Interrupted, ReadManyAnswer, StoreFailed
from sansio_cache.notices import (
    Ended,
    Hit,
    Missed,
    Notice,
    OperationName,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.step import (
    Abandoned,
    AsksStore,
    ManyRead,
    Missing,
    Step,
    Value,
    ended,
    unexpected,
)


@attrs.frozen
class ReadManyRequest:
    """What is asked for: keys in order, how to decode them, how many go into one command."""

    keys: tuple[str, ...]
    codec: Codec[Any]
    chunk: int
    patience: Patience
    started_s: float


@attrs.frozen
class ReadingMany(AsksStore):
    """Waits for the cells of one chunk; `done` holds the values of the chunks before it."""

    request: ReadManyRequest
    done: tuple[Value | Missing, ...]
    budget: Budget

    @property
    def _chunk(self) -> tuple[str, ...]:
        begin = len(self.done)
        return self.request.keys[begin : begin + self.request.chunk]

    def ask(self, now_s: float, *notices: Notice) -> Step:
        """The step that waits in this state."""
        return Step(self, ReadCells(self._chunk, self.budget.timeout_s(now_s)), notices=notices)

    def receive(self, event: Event) -> Step:
        """Decode the chunk, and go on to the next."""
        if not isinstance(event, ReadManyAnswer):
            raise unexpected(self, event)
        match event:
            case CellsRead(now_s=now_s, cells=cells, server_ms=server_ms) if len(cells) == len(self._chunk):
                values: list[Value | Missing] = []
                notices: list[Notice] = []
                for key, cell in zip(self._chunk, cells, strict=True):
                    verdict = examine(cell, key, self.request.codec, server_ms)
                    match verdict:
                        case Servable(value=value, fresh=True):
                            values.append(Value(value))
                            notices.append(Hit(key))
                        case Servable():
                            values.append(Missing())
                            notices.append(Missed(key, MissReason.EXPIRED))
                        case Unservable(reason=reason):
                            values.append(Missing())
                            notices.append(Missed(key, reason))
                        case _:
                            assert_never(verdict)
                done = (*self.done, *values)
                if len(done) < len(self.request.keys):
                    budget = self.request.patience.from_now(now_s)
                    return attrs.evolve(self, done=done, budget=budget).ask(now_s, *notices)
                return _finish(self.request, done, now_s, *notices)
            case CellsRead():
                raise unexpected(self, event)
            case StoreFailed(now_s=now_s, kind=kind):
                return self.retry(event) or _give_up(
                    self.request,
                    self.done,
                    MissReason.STORE_ERROR,
                    now_s,
                    StoreErrored(kind),
                    StoreGaveUp(kind),
                )
            case Interrupted():
                return ended(Abandoned())
            case _:
                assert_never(event)


def _finish(
    request: ReadManyRequest, done: tuple[Value | Missing, ...], now_s: float, *notices: Notice
) -> Step:
    took_s = now_s - request.started_s
    return ended(ManyRead(done), *notices, Ended(OperationName.GET_MANY, took_s))


def _give_up(
    request: ReadManyRequest,
    done: tuple[Value | Missing, ...],
    reason: MissReason,
    now_s: float,
    *notices: Notice,
) -> Step:
    rest = request.keys[len(done) :]
    missed = tuple(Missed(key, reason) for key in rest)
    values = (*done, *(Missing() for _ in rest))
    return _finish(request, values, now_s, *notices, *missed)


def get_many(request: ReadManyRequest, *, skip: MissReason | None = None) -> Step:
    """Begin to read many keys. `skip` is the reason not to ask the store at all, if there is one."""
    now_s = request.started_s
    if skip is not None or not request.keys:
        return _give_up(request, (), skip or MissReason.ABSENT, now_s)
    return ReadingMany(request, (), request.patience.from_now(now_s)).ask(now_s)
