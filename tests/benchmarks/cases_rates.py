"""How many calls a second, and what they cost: hits, writes, batches, misses."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

from benchmarks import operations
from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.contenders import Contender
from benchmarks.lab import Entrant, Lab, rates
from benchmarks.loads import Job
from benchmarks.results import OWN, Group
from benchmarks.values import SIZES, USUAL, make_items, make_value

_FEW = 20
"""How many keys, where values are large."""
_LARGE_BYTES = 10_000

Kinds = tuple[tuple[tuple[Contender, ...], str], ...]
_KINDS: Kinds = ((ASYNC, "callers"), (THREADS, "threads"))


def _counts(lab: Lab, unit: str) -> tuple[int, ...]:
    return lab.scale.callers if unit == "callers" else lab.scale.threads


def _matrix(lab: Lab, unit: str) -> Iterator[tuple[str, str, int]]:
    """Transport, size and number of callers: all of them of what is not large."""
    counts = _counts(lab, unit)
    for size in lab.scale.sizes:
        is_large = SIZES[size] > _LARGE_BYTES
        for transport in ("tcp",) if is_large else ("tcp", "unix"):
            for count in counts[:2] if is_large else counts:
                yield transport, size, count


def _few(lab: Lab, unit: str) -> Iterator[tuple[str, str, int]]:
    for count in _counts(lab, unit)[:2]:
        yield "tcp", USUAL, count


def _all(lab: Lab, unit: str) -> Iterator[tuple[str, str, int]]:
    for count in _counts(lab, unit):
        yield "tcp", USUAL, count


def _key_count(lab: Lab, size: str) -> int:
    return min(_FEW, lab.scale.keys) if SIZES[size] > _LARGE_BYTES else lab.scale.keys


def _hits(
    lab: Lab,
    case: str,
    conditions: Callable[[Lab, str], Iterable[tuple[str, str, int]]],
    entrants: Callable[[Lab, Contender, str], Iterable[Entrant]],
) -> Iterator[Group]:
    for contenders, unit in _KINDS:
        for transport, size, count in conditions(lab, unit):
            items = make_items(_key_count(lab, size), size)
            yield rates(
                lab,
                case,
                [entrant for each in contenders for entrant in entrants(lab, each, size)],
                {"transport": transport, "value": size, unit: count},
                partial(Job, callers=count, window_s=lab.scale.window_s, fill=items),
                transport=transport,
            )


def _keys(lab: Lab, size: str) -> list[str]:
    return list(make_items(_key_count(lab, size), size))


def _get(lab: Lab) -> Iterator[Group]:
    def entrants(lab: Lab, contender: Contender, size: str) -> list[Entrant]:
        return [Entrant.of(contender, operations.get(_keys(lab, size)))]

    yield from _hits(lab, "get hit", _matrix, entrants)


def _get_or_load(lab: Lab) -> Iterator[Group]:
    def entrants(lab: Lab, contender: Contender, size: str) -> Iterator[Entrant]:
        keys = _keys(lab, size)
        loader = operations.loader_of(contender, None)
        yield Entrant.of(contender, operations.hit_or_load(keys, loader))
        if contender.is_ours:
            label = f"{contender.name}: its own get"
            yield Entrant.of(contender, operations.get(keys), label=label, role=OWN)
            with_ttl = operations.hit_or_load(keys, loader, ttl=60)
            yield Entrant.of(contender, with_ttl, label=f"{contender.name}: with ttl=", role=OWN)

    yield from _hits(lab, "get_or_load hit", _all, entrants)


def _many_keys(lab: Lab) -> Iterator[Group]:
    def entrants(contender: Contender) -> Iterator[Entrant]:
        yield Entrant.of(contender, operations.get(keys[:1]))
        if contender.is_ours:
            label = f"{contender.name}: of {len(keys):,} keys in turn"
            yield Entrant.of(contender, operations.get(keys), label=label, role=OWN)

    items = make_items(lab.scale.many_keys, "200 B")
    keys = list(items)
    for contenders, unit in _KINDS:
        count = _counts(lab, unit)[1]
        taking_part = [each for each in contenders if each.is_ours or not each.package]
        yield rates(
            lab,
            "many keys",
            [entrant for each in taking_part for entrant in entrants(each)],
            {"transport": "tcp", "value": "200 B", unit: count},
            # Long enough for each key to come again.
            partial(Job, callers=count, window_s=20 * lab.scale.window_s, fill=items),
        )


def _get_many(lab: Lab) -> Iterator[Group]:
    for contenders, unit in _KINDS:
        for count in _counts(lab, unit)[:2]:
            items = make_items(lab.scale.batch, USUAL)
            yield rates(
                lab,
                "get_many",
                [Entrant.of(each, operations.get_many(list(items))) for each in contenders],
                {"transport": "tcp", "value": USUAL, "keys a call": lab.scale.batch, unit: count},
                partial(Job, callers=count, window_s=lab.scale.window_s, fill=items, items=len(items)),
            )


def _set(lab: Lab) -> Iterator[Group]:
    for contenders, unit in _KINDS:
        for transport, size, count in _few(lab, unit):
            items = make_items(lab.scale.keys, size)
            operation = operations.put(list(items), list(items.values()))
            yield rates(
                lab,
                "set",
                [Entrant.of(each, operation) for each in contenders],
                {"transport": transport, "value": size, unit: count},
                partial(Job, callers=count, window_s=lab.scale.window_s, failure=False),
            )


def _miss(lab: Lab) -> Iterator[Group]:
    def entrants(contender: Contender) -> Iterator[Entrant]:
        loader = operations.loader_of(contender, value)
        if contender.unguarded:
            note = f"{contender.codec}; {contender.unguarded}"
            yield Entrant.of(contender, operations.miss(loader, guarded=False), note=note)
        else:
            yield Entrant.of(contender, operations.miss(loader, guarded=True))

    value = make_value(1, SIZES[USUAL])
    for contenders, unit in _KINDS:
        for transport, size, count in _few(lab, unit):
            yield rates(
                lab,
                "miss",
                [entrant for each in contenders for entrant in entrants(each)],
                {"transport": transport, "value": size, unit: count},
                partial(Job, callers=count, window_s=lab.scale.window_s),
            )


def _delete_pattern(lab: Lab) -> Iterator[Group]:
    for contenders, unit in _KINDS:
        yield pattern_group(lab, "delete_pattern", contenders, {unit: 1}, lab.scale.pattern_keys)


def pattern_group(
    lab: Lab,
    case: str,
    contenders: Iterable[Contender],
    conditions: dict[str, int],
    count: int,
    *,
    curve: str = "",
) -> Group:
    """So many keys deleted by pattern, and as many beside them left alone."""

    def store(contender: Contender) -> None:
        with closing(lab.raw(contender.db)) as client:
            for first in range(0, count, 1_000):
                pipeline = client.pipeline(transaction=False)
                for number in range(first, min(count, first + 1_000)):
                    pipeline.set(f"{contender.prefix}item:{number}", "x")
                    pipeline.set(f"{contender.prefix}other:{number}", "x")
                pipeline.execute()

    return rates(
        lab,
        case,
        [Entrant.of(each, operations.delete_pattern("item:*")) for each in contenders],
        {**conditions, "keys": count},
        partial(Job, callers=1, window_s=None, items=count, failure=False),
        before=store,
        curve=curve,
    )


CASES = (
    Case(name="get hit", about="A value that is there, over both transports, in three sizes.", run=_get),
    Case(
        name="get_or_load hit",
        about="The same through get_or_load, also with ttl=, beside the library's own get.",
        run=_get_or_load,
    ),
    Case(
        name="many keys",
        about="Hits of one key again and again, and of 20,000 in turn, each of which comes more than once.",
        run=_many_keys,
    ),
    Case(name="set", about="A write with a time to live.", run=_set),
    Case(name="get_many", about="A batch of hits in one call; figures are by key.", run=_get_many),
    Case(
        name="miss",
        about="A value that is not there, through get_or_load with a loader that has it at hand.",
        run=_miss,
    ),
    Case(
        name="delete_pattern",
        about="Keys deleted by pattern, with as many left alone; figures are by deleted key.",
        run=_delete_pattern,
    ),
)
