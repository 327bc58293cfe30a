"""What one more costs: the same work, growing."""

from collections.abc import Iterator
from functools import partial

import anyio

from benchmarks import operations
from benchmarks.asynchronous import ASYNC
from benchmarks.case import Case
from benchmarks.cases_rates import pattern_group
from benchmarks.lab import Entrant, Lab, rates
from benchmarks.loads import Job
from benchmarks.results import Group
from benchmarks.values import SIZES, USUAL, make_items, make_value

_ALONE = tuple(each for each in ASYNC if each.package is None)
"""Ours and redis-py."""


def _callers(lab: Lab) -> Iterator[Group]:
    items = make_items(lab.scale.keys, USUAL)
    for count in lab.scale.curve_callers:
        job = partial(Job, callers=count, window_s=lab.scale.window_s, fill=items)
        entrants = [Entrant.of(each, operations.get(list(items))) for each in _ALONE]
        yield rates(lab, "curve of callers", entrants, {"callers": count}, job, curve="callers")


def _batches(lab: Lab) -> Iterator[Group]:
    for count in lab.scale.curve_batches:
        items = make_items(count, "100 B")
        job = partial(Job, callers=1, window_s=lab.scale.window_s, fill=items, items=count)
        entrants = [Entrant.of(each, operations.get_many(list(items))) for each in _ALONE]
        yield rates(lab, "curve of batches", entrants, {"keys a call": count}, job, curve="keys a call")


def _keys(lab: Lab) -> Iterator[Group]:
    for count in lab.scale.curve_keys:
        yield pattern_group(lab, "curve of keys", _ALONE, {}, count, curve="keys")


def _waiters(lab: Lab) -> Iterator[Group]:
    value = make_value(1, SIZES["100 B"])

    async def load() -> object:
        await anyio.sleep(lab.scale.load_s / 10)
        return value

    for count in lab.scale.curve_waiters:
        job = partial(Job, callers=count, window_s=None)
        entrants = [Entrant.of(each, operations.load_together(load)) for each in _ALONE]
        yield rates(lab, "curve of waiters", entrants, {"waiters": count}, job, curve="waiters")


CASES = (
    Case(name="curve of callers", about="get hits, as callers at once grow.", run=_callers),
    Case(name="curve of batches", about="get_many, as the batch grows; figures are by key.", run=_batches),
    Case(name="curve of keys", about="delete_pattern, as the keys grow; figures are by key.", run=_keys),
    Case(
        name="curve of waiters",
        about="Callers of one key that is being loaded, as they grow; figures are by caller. "
        "redis-py has no guard: there each of them loads.",
        run=_waiters,
    ),
)
