"""Checking: whether the tags hold that an entry turned out to have, though the caller has not named them.

    a state that reads --an entry with such tags--> LoadChecking, LoadManyChecking
       ^                                              |
       '--- decide, or give_up -----------------------'

The tags that a caller names are known before anything is read, so their versions come with the answer. Those
that only the entry names are known once it is there, so their versions take a round trip more. Nothing is
served that was read before an invalidation of one of its tags came back (S3): the versions are read after the
entry. Where they differ from those in the entry, it is a miss.

What has been found is decided on where it was found: the state that has read the entry is kept as a whole,
and goes on as if it had known the versions from the beginning. So this module knows of it only what the
protocols say. `GetChecking` and `GetManyChecking` do the same for a read without a load; they hold nothing
that would have to be given back, and are with their machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, assert_never

from msgspec import Struct

from sansio_cache.budget import Budget
from sansio_cache.cell import Cell, Foreign
from sansio_cache.commands import ReadTags
from sansio_cache.entry import Unchecked, Verdict, examine
from sansio_cache.events import Event, Interrupted, ReadTagsAnswer, StoreFailed, TagsRead
from sansio_cache.notices import Notice
from sansio_cache.operations.batch import Batch, Want, Wants
from sansio_cache.operations.get_many import only_theirs
from sansio_cache.operations.loading import LoadRequest
from sansio_cache.step import Abandoned, AsksStore, Step, ended, unexpected
from sansio_cache.tags import Versions, known, tag_keys


class LoadOrigin(Protocol):
    """A state of `get_or_load` that has found an entry."""

    @property
    def request(self) -> LoadRequest:
        """What is asked for."""
        ...

    @property
    def load_id(self) -> int | None:
        """The number of the load that it leads, if it leads one."""
        ...

    def decide(
        self,
        verdict: Verdict,
        cell: Cell | Foreign | None,
        current: Versions,
        server_ms: int | None,
        now_s: float,
    ) -> Step:
        """Act on what the entry is worth."""
        ...

    def give_up(self, failure: StoreFailed) -> Step:
        """Go on without the store, or end."""
        ...


class LoadChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of tags that the caller has not named, and that the entry turned out to have.

    Next: LoadChecking | LoadReading | LoadSharing | LoadAcquiring | LoadComputing | done
    """

    origin: LoadOrigin
    cell: Cell | Foreign | None
    current: Versions
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = tag_keys(self.origin.request.name, self.tags)
        command = ReadTags(keys, self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=self.origin.load_id)

    def receive(self, event: Event) -> Step:
        """Serve the value if its tags hold."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        origin, request = self.origin, self.origin.request
        match event:
            case TagsRead(now_s=now_s, versions=versions, server_ms=server_ms) if len(versions) == len(
                self.tags
            ):
                current = (*self.current, *known(request.name, self.tags, versions, request.bypassed))
                verdict = examine(self.cell, request.key, request.codec, server_ms, current)
                return origin.decide(verdict, self.cell, current, server_ms, now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or origin.give_up(event)
            case Interrupted():
                return ended(Abandoned(), load_id=origin.load_id)
            case _:
                assert_never(event)


class LoadManyOrigin(Protocol):
    """A state of `load_many` that has found entries."""

    @property
    def batch(self) -> Batch:
        """What the batch knows about its keys."""
        ...

    @property
    def wants(self) -> Wants:
        """The keys that were read."""
        ...

    def decide(
        self,
        cells: tuple[Cell | Foreign | None, ...],
        verdicts: tuple[Verdict, ...],
        server_ms: int | None,
        now_s: float,
    ) -> Step:
        """Act on what the entries are worth."""
        ...

    def give_up(self, failure: StoreFailed) -> Step:
        """Go on without the store, or end."""
        ...


class LoadManyChecking(AsksStore, Struct, frozen=True):
    """Waits for the versions of tags that entries turned out to have.

    Next: LoadManyChecking | LoadManyReading | LoadManyAcquiring | LoadManyComputing | done
    """

    reading: LoadManyOrigin
    cells: tuple[Cell | Foreign | None, ...]
    verdicts: tuple[Verdict, ...]
    named: Versions
    tags: tuple[str, ...]
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request = self.reading.batch.request
        command = ReadTags(tag_keys(request.keys[0], self.tags), self.budget.timeout_s)
        return Step(self, command, notices=notices, load_id=request.each.random_bytes)

    def receive(self, event: Event) -> Step:
        """Serve what holds."""
        if not isinstance(event, ReadTagsAnswer):
            raise unexpected(self, event)
        reading, request = self.reading, self.reading.batch.request
        match event:
            case TagsRead(now_s=now_s, versions=versions, server_ms=server_ms) if len(versions) == len(
                self.tags
            ):
                found = dict(known(request.keys[0], self.tags, versions, request.each.bypassed))
                parts = zip(reading.wants, self.cells, self.verdicts, strict=True)
                verdicts = tuple(
                    self._examine(want, cell, verdict, found, server_ms) for want, cell, verdict in parts
                )
                return reading.decide(self.cells, verdicts, server_ms, now_s)
            case TagsRead():
                raise unexpected(self, event)
            case StoreFailed():
                return self.retry(event) or reading.give_up(event)
            case Interrupted():
                return ended(Abandoned(), load_id=request.each.random_bytes)
            case _:
                assert_never(event)

    def _examine(
        self,
        want: Want,
        cell: Cell | Foreign | None,
        verdict: Verdict,
        found: Mapping[str, bytes],
        server_ms: int | None,
    ) -> Verdict:
        if not isinstance(verdict, Unchecked):
            return verdict
        batch = self.reading.batch
        current = (*want.tied(self.named), *only_theirs(verdict, found))
        return examine(cell, batch.key(want), batch.request.each.codec, server_ms, current)
