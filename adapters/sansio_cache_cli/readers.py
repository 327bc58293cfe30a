"""What a reader does around its question, whatever runtime asks it: choose, time, check, take notes.

A read is *stale* if its answer is of an older version than the one that was published as completed before
the read began: the promise of a regular register, checked on every answer.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import attrs

from sansio_cache import CacheStats, Policy
from sansio_cache_cli.board import Board
from sansio_cache_cli.database import SHOPS, Database, Query, Report
from sansio_cache_cli.phases import Phase

READY_S = 5.0
"""How long to wait for the server before a phase, in seconds."""


@attrs.frozen(kw_only=True)
class Job:
    """What one process, or thread, of readers is told when it starts."""

    url: str
    namespace: str
    runtime: str
    path: Path
    readers: tuple[int, ...]


@attrs.frozen
class Account:
    """The library's own account of a phase: the counters of `Cache.stats()` that the demo can check."""

    requests: int = 0
    hits: int = 0
    misses: int = 0
    shared: int = 0
    loads: int = 0
    stored: int = 0
    gave_up: int = 0

    @classmethod
    def of(cls, stats: CacheStats) -> Self:
        """From statistics."""
        return cls(
            requests=stats.total_requests,
            hits=stats.redis_hits + stats.stale_hits,
            misses=stats.redis_misses,
            shared=stats.shared,
            loads=stats.loads + stats.load_failures,
            stored=stats.stored,
            gave_up=sum(stats.gave_up.values()),
        )

    def __add__(self, other: Account) -> Account:
        mine, theirs = attrs.astuple(self), attrs.astuple(other)
        return Account(*(a + b for a, b in zip(mine, theirs, strict=True)))


@attrs.define
class Harvest:
    """What readers have seen in a phase, one of them or all of a process."""

    requests: int = 0
    stale: int = 0
    latencies_s: list[float] = attrs.field(factory=list)
    answers: set[Report] = attrs.field(factory=set)
    ttls_ms: list[int] = attrs.field(factory=list)
    errors: Counter[str] = attrs.field(factory=Counter)
    queries: list[Query] = attrs.field(factory=list)
    account: Account = attrs.field(factory=Account)

    def add(self, other: Harvest) -> None:
        """Take in what others have seen."""
        self.requests += other.requests
        self.stale += other.stale
        self.latencies_s += other.latencies_s
        self.answers |= other.answers
        self.ttls_ms += other.ttls_ms
        self.errors += other.errors
        self.queries += other.queries
        self.account += other.account


@attrs.frozen(kw_only=True)
class RecordingPolicy(Policy):
    """A policy that remembers every time to live that it gave, in milliseconds."""

    given_ms: list[int] = attrs.field(factory=list, init=False, eq=False, repr=False)

    @classmethod
    def like(cls, policy: Policy) -> Self:
        """One that gives what another gives."""
        return cls(**attrs.asdict(policy, recurse=False))

    def expiry_ms(self, draw: float) -> tuple[int, int]:
        """Hard and soft time to live, see `Policy`."""
        hard_ms, soft_ms = super().expiry_ms(draw)
        self.given_ms.append(hard_ms)
        return hard_ms, soft_ms


@attrs.define
class Request:
    """One question. `load` is the loader to give to the cache; `answer` is to be set."""

    shop: int
    _database: Database
    answer: Report | None = attrs.field(default=None, init=False)

    def load(self) -> Report:
        """Ask the database."""
        return self._database.report(self.shop)


class Reader:
    """One reader in one phase."""

    def __init__(self, number: int, phase: Phase, database: Database, board: Board) -> None:
        self.harvest = Harvest()
        self.policy = None if phase.policy is None else RecordingPolicy.like(phase.policy)
        self._number = number
        self._phase = phase
        self._database = database
        self._board = board
        self._deadline_s = time.monotonic() + phase.limit_s
        self._random = random.Random()  # noqa: S311 - which shop to ask for next

    def goes_on(self) -> bool:
        """Whether to ask once more."""
        if self._board.is_stopped or time.monotonic() > self._deadline_s:
            return False
        return self.harvest.requests < self._phase.requests

    def pause_s(self) -> float:
        """How long to think before the next question."""
        return self._phase.pause_s * self._random.uniform(0.5, 1.5)

    @contextmanager
    def request(self) -> Iterator[Request]:
        """Choose a question; when the block has set the answer, check it. An error is noted, and counts."""
        request = Request(self._random.randrange(SHOPS), self._database)
        known_version = self._board.completed(request.shop)
        began_s = time.perf_counter()
        try:
            yield request
            took_s = time.perf_counter() - began_s
            self._check(request, known_version)
            self.harvest.latencies_s.append(took_s)
        except Exception as error:  # noqa: BLE001 - whatever a reader sees is the demo's result
            self.harvest.errors[f"{type(error).__name__}: {error}"] += 1
        self.harvest.requests += 1
        self._board.note_asked(self._number, self.harvest.requests)

    def _check(self, request: Request, known_version: int) -> None:
        answer = request.answer
        if answer is None or answer.shop != request.shop:
            raise AssertionError(f"asked for shop {request.shop}, the answer is {answer}")
        self.harvest.answers.add(answer)
        if answer.version < known_version:
            self.harvest.stale += 1


def gather(readers: Iterable[Reader], database: Database, stats: CacheStats) -> Harvest:
    """What the readers of one process have seen."""
    harvest = Harvest(queries=database.queries, account=Account.of(stats))
    for reader in readers:
        harvest.add(reader.harvest)
        if reader.policy is not None:
            harvest.ttls_ms += reader.policy.given_ms
    return harvest
