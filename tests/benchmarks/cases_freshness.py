"""What stale serving, tags and batches that load cost, beside the plain calls of the same library."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks import operations
from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.contenders import Contender
from benchmarks.lab import Entrant, Lab, rates
from benchmarks.loads import Job
from benchmarks.results import OWN, Group
from benchmarks.values import SIZES, USUAL, make_items, make_value
from sansio_cache import NO_JITTER, Policy

_KINDS = ((ASYNC, "callers"), (THREADS, "threads"))
_REFRESHED = Policy(ttl=0.1, jitter=NO_JITTER, stale_for_s=60, refresh_at=0.5)
"""So short that every key is refreshed some times within a window."""


def _alone(contenders: tuple[Contender, ...]) -> list[Contender]:
    """Ours and redis-py: other caches have no such call, or mean something else by it."""
    return [each for each in contenders if each.package is None]


def _load_many(lab: Lab) -> Iterator[Group]:
    value = make_value(1, SIZES["100 B"])
    for contenders, unit in _KINDS:
        for missing in (0, max(1, lab.scale.batch // 10), lab.scale.batch):
            items = make_items(lab.scale.batch, "100 B")
            entrants = []
            for each in _alone(contenders):
                loader = operations.many_loader_of(each, value)
                entrants.append(Entrant.of(each, operations.hits_or_load(list(items), missing, loader)))
                if each.is_ours and not missing:
                    label = f"{each.name}: its own get_many"
                    operation = operations.get_many(list(items))
                    entrants.append(Entrant.of(each, operation, label=label, role=OWN))
            yield rates(
                lab,
                "get_or_load_many",
                entrants,
                {"value": "100 B", "keys a call": len(items), "of them missing": missing, unit: 1},
                partial(Job, callers=1, window_s=lab.scale.window_s, fill=items, items=len(items)),
            )


def _beside_own(lab: Lab, case: str, options: dict[str, dict[str, Any]]) -> Iterator[Group]:
    """get_or_load as it comes, and with options, each of which is a row of its own."""
    items = make_items(min(20, lab.scale.keys), USUAL)
    value = make_value(1, SIZES[USUAL])
    for contenders, unit in _KINDS:
        for count in lab.scale.callers[:2] if unit == "callers" else lab.scale.threads[:2]:
            entrants = []
            for each in _alone(contenders):
                loader = operations.loader_of(each, value)
                plain = operations.hit_or_load(list(items), loader)
                entrants.append(Entrant.of(each, plain))
                for name, given in options.items() if each.is_ours else ():
                    # Keys of their own: what is stored without a tag is no answer to who names one.
                    keys = [f"{name}:{key}" for key in items]
                    operation = operations.hit_or_load(keys, loader, **given)
                    entrants.append(Entrant.of(each, operation, label=f"{each.name}: {name}", role=OWN))
            yield rates(
                lab,
                case,
                entrants,
                {"value": USUAL, unit: count},
                partial(Job, callers=count, window_s=lab.scale.window_s, fill=items),
            )


def _tags(lab: Lab) -> Iterator[Group]:
    options = {"one tag": {"tags": ("one",)}, "three tags": {"tags": ("one", "two", "three")}}
    yield from _beside_own(lab, "tags", options)


def _refresh(lab: Lab) -> Iterator[Group]:
    yield from _beside_own(lab, "refresh-ahead", {"refreshed in the background": {"policy": _REFRESHED}})


CASES = (
    Case(
        name="get_or_load_many",
        about="A batch, all of it there, a tenth missing, or all of it; figures are by key.",
        run=_load_many,
    ),
    Case(name="tags", about="A get_or_load hit whose tags are checked, beside one without.", run=_tags),
    Case(
        name="refresh-ahead",
        about="get_or_load of values that are refreshed in the background all the time, beside plain hits.",
        run=_refresh,
    ),
)
