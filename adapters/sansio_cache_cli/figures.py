"""Figures: from what readers saw and the database counted to what the tables show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from sansio_cache_cli.database import Query
from sansio_cache_cli.phases import Phase
from sansio_cache_cli.readers import Account, Harvest
from sansio_cache_cli.writer import Recorder

_SLACK_S: Final = 0.01
"""Stores count whole milliseconds, so an entry may be gone this little before its time."""


@attrs.frozen
class Rounds:
    """The queries of a phase, grouped by the entry that they were for.

    An entry is stored after its first query has ended, and lives for its time to live: whoever queries
    before that is over loads it once too often. Nothing here comes from the cache.

    Attributes:
        count: How many entries were loaded.
        lifetimes_s: How long entries lived, from the end of their first query to the next entry's first.
    """

    count: int
    lifetimes_s: tuple[float, ...]


def rounds_of(queries: Iterable[Query], ttl_s: float) -> Rounds:
    """Group queries, for entries that live at least so long."""
    count = 0
    lifetimes_s: list[float] = []
    firsts: dict[int, Query] = {}
    for query in sorted(queries, key=lambda query: query.began_s):
        first = firsts.get(query.shop)
        if first is not None:
            lived_s = query.began_s - first.ended_s
            if lived_s < ttl_s - _SLACK_S:
                continue
            lifetimes_s.append(lived_s)
        firsts[query.shop] = query
        count += 1
    return Rounds(count, tuple(lifetimes_s))


def percentile(numbers: Sequence[float], percent: float) -> float:
    """The number that `percent` of them do not exceed; 0 of none."""
    if not numbers:
        return 0.0
    place = math.ceil(len(numbers) * percent / 100) - 1
    return sorted(numbers)[max(place, 0)]


@attrs.frozen(kw_only=True)
class PhaseFigures:
    """One phase.

    Attributes:
        phase: What was done.
        took_s: How long it took.
        requests: Requests that the readers made.
        queries: Queries that the database ran.
        loads: How many loads an entry took: by expiry, or by completed write. None without the cache.
        p50_s: Half of the requests took no longer.
        p99_s: All but one in a hundred took no longer.
        stale: Answers that were older than a write that the reader knew to be completed.
        wrong: Different answers whose figures are not those of their version.
        errors: What readers, and the writer, ran into.
        account: What the library says about the phase.
        ttls_ms: Times to live that were given to entries.
        lifetimes_s: How long entries lived, as the database saw it.
        writes: Writes that were completed.
        undelivered: Writes that the store could not be told of.
    """

    phase: Phase
    took_s: float
    requests: int
    queries: int
    loads: float | None
    p50_s: float
    p99_s: float
    stale: int
    wrong: int
    errors: Counter[str]
    account: Account
    ttls_ms: tuple[int, ...]
    lifetimes_s: tuple[float, ...]
    writes: int
    undelivered: int

    @property
    def hit_rate(self) -> float:
        """The share of requests that cost no query, in percent."""
        return 100.0 * max(self.requests - self.queries, 0) / self.requests if self.requests else 0.0

    @property
    def is_account_true(self) -> bool:
        """Whether the library's account is what the readers and the database counted."""
        if self.phase.policy is None:
            return True
        account = self.account
        return (
            account.requests == self.requests
            and account.hits + account.misses == self.requests
            and account.loads == self.queries
        )


def figures_of(
    phase: Phase, harvest: Harvest, recorder: Recorder, *, took_s: float, writes: int, undelivered: int
) -> PhaseFigures:
    """The figures of a phase."""
    loads: float | None = None
    lifetimes_s: tuple[float, ...] = ()
    if phase.policy is not None:
        rounds = rounds_of(harvest.queries, phase.policy.ttl)
        # Where a writer removes entries, each of its writes calls for one load more.
        entries = rounds.count + writes
        loads = len(harvest.queries) / entries if entries else 0.0
        lifetimes_s = rounds.lifetimes_s
    return PhaseFigures(
        phase=phase,
        took_s=took_s,
        requests=harvest.requests,
        queries=len(harvest.queries),
        loads=loads,
        p50_s=percentile(harvest.latencies_s, 50),
        p99_s=percentile(harvest.latencies_s, 99),
        stale=harvest.stale,
        wrong=sum(not recorder.agrees(answer) for answer in harvest.answers),
        errors=harvest.errors,
        account=harvest.account,
        ttls_ms=tuple(harvest.ttls_ms),
        lifetimes_s=lifetimes_s,
        writes=writes,
        undelivered=undelivered,
    )


@attrs.frozen
class Outcome:
    """The demo's result."""

    phases: tuple[PhaseFigures, ...]

    def problems(self) -> list[str]:
        """What should not have happened, a sentence each. None of it: the demo has succeeded."""
        problems: list[str] = []
        for each in self.phases:
            name = each.phase.name
            if each.stale:
                problems.append(f"{name}: {each.stale:,} of {each.requests:,} answers were stale")
            if each.wrong:
                problems.append(f"{name}: {each.wrong:,} answers do not add up to what was written")
            if not each.is_account_true:
                problems.append(f"{name}: the library's statistics are not what was counted")
            for text, count in each.errors.most_common(3):
                problems.append(f"{name}: {count:,} x {text}")
        return problems
