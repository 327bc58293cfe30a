"""What is judged of one worker: what a read returns, and what is asked to be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sansio_cache.commands import FillCells
from sansio_cache.exploring.configuration import KEYS, Act, Configuration, Deed
from sansio_cache.exploring.invariants import Invariant
from sansio_cache.exploring.naming import tags_of
from sansio_cache.exploring.process import Worker
from sansio_cache.step import (
    Abandoned,
    Loaded,
    Looked,
    ManyFound,
    ManyLoaded,
    Missing,
    Outcome,
    Raised,
    Refused,
    Step,
    TookTooLong,
    Unavailable,
    Unknown,
    Updated,
    Value,
)

Broken = tuple[Invariant, str]
"""An invariant that does not hold, and what was seen of it."""


def judged_read(configuration: Configuration, worker: Worker, outcome: Outcome) -> Iterator[Broken]:
    """S1 and S7: what a read returns is at least as new as what was complete when it began."""
    act = worker.acts[0]
    # A batch that has counted a key as missing does not say, later, that it serves it stale.
    is_vague = act.deed is Deed.LOAD_MANY and configuration.policy.stale_for_s > 0
    for place, version in _versions(act, outcome):
        if version < worker.floor[place]:
            yield Invariant.S1_READ, f"version {version}, floor {worker.floor[place]}"
        elif version < worker.floor[-1] and KEYS[place] not in worker.stale and not is_vague:
            yield Invariant.S1_READ, f"version {version}, expired before {worker.floor[-1]}"
        elif act.heeds_tag and version < worker.floor[-2]:
            yield Invariant.S7_READ, f"version {version}, floor of the tag {worker.floor[-2]}"
        elif version < max(worker.own_floor[place], worker.own_floor[-2] if act.heeds_tag else 0):
            yield Invariant.S1_PENDING, f"version {version}"


def judged_fill(worker: Worker, step: Step) -> Iterator[Broken]:
    """S4, S7 and S13, where a reader asks to store a value."""
    command = step.command
    if isinstance(command, FillCells) and worker.acts[0].is_read:
        yield from judged_store(command, frozenset(worker.looked_under), has_failed=worker.has_failed)


def judged_store(command: FillCells, looked_under: frozenset[bytes], *, has_failed: bool) -> Iterator[Broken]:
    """The same of a request to store, by the grants and versions that were told before its loader looked."""
    tied = (version for fill in command.fills for _, name, version in tags_of(fill.body) if name)
    if has_failed:
        yield Invariant.S13, "it asks to store a value"
    if not {fill.grant for fill in command.fills} <= looked_under:
        yield Invariant.S4, "it asks to store a value"
    if not looked_under.issuperset(tied):
        yield Invariant.S7_LOAD, "it asks to store a value"


def _version(value: Any) -> int:
    """Which version of the database a value is. That there is nothing is the first one."""
    return 0 if value is None else int(value)


def _versions(act: Act, outcome: Outcome) -> list[tuple[int, int]]:
    """What a read returned: for each key that has a value, its place and the version."""
    if isinstance(outcome, ManyFound):
        return [(place, int(value)) for place, value in zip(act.places, outcome.values, strict=True)]
    if isinstance(outcome, ManyLoaded):
        pairs = zip(act.places, outcome.values, strict=True)
        return [(place, _version(each.value)) for place, each in pairs if isinstance(each, Value)]
    if isinstance(outcome, Looked):
        return [(act.places[0], _version(outcome.lookup.value))] if outcome.lookup.is_fresh else []
    if isinstance(outcome, Value | Loaded | Updated):
        return [(act.places[0], _version(outcome.value))]
    assert isinstance(outcome, Missing | Raised | Abandoned | Refused | Unknown | Unavailable | TookTooLong)
    return []
