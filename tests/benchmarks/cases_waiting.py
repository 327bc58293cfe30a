"""What only happens between processes: a stampede, and how soon waiters see what another has loaded."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from statistics import median
from typing import Any, cast

import anyio
import redis
import redis.asyncio

from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.contenders import Address, Contender, Peer
from benchmarks.lab import Lab, role_of
from benchmarks.loads import fill
from benchmarks.processes import Worker, address_as_order
from benchmarks.results import BASELINE, Column, Group, Row
from benchmarks.worker import CHANNEL

_STAMPEDE_COLUMNS = (
    Column("loads", "loads", ",.1f"),
    Column("took_ms", "until the last answer, ms", ",.1f"),
    Column("loads_long", "in lengths of a load", ".2f"),
    Column("cpu_ms", "CPU ms, all processes", ",.0f"),
    Column("ratio", "speed, times redis-py", ".2f"),
    Column("errors", "errors", is_positive=False),
)


def _stampede(lab: Lab) -> Iterator[Group]:
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker()) for _ in range(lab.scale.processes)]
        for contenders, unit, callers in (
            (ASYNC, "callers", lab.scale.stampede_callers),
            (THREADS, "threads", lab.scale.stampede_threads),
        ):
            yield _stampede_group(
                lab, workers, contenders, {unit: callers, "processes": len(workers)}, callers
            )


def _stampede_group(
    lab: Lab,
    workers: list[Worker],
    contenders: tuple[Contender, ...],
    conditions: dict[str, Any],
    callers: int,
) -> Group:
    case = "stampede"
    present, absent = lab.present(contenders)
    lab.empty(present)
    rounds: dict[str, list[dict[str, float]]] = {each.name: [] for each in present}
    for contender in present:
        fill(contender, lab.address(contender), {"warm": "warm"})
    for number in range(lab.scale.rounds):
        for contender in present:
            lab.progress(f"{case}: {contender.name}")
            taken = _stampede_once(lab, workers, contender, f"hot:{number}", callers)
            rounds[contender.name].append(taken)
    lab.empty(present)
    base = next(rounds[each.name] for each in present if role_of(each) == BASELINE)
    rows = []
    for contender in present:
        taken = rounds[contender.name]
        figures = {name: median(each[name] for each in taken) for name in taken[0]}
        figures["ratio"] = median(
            other["took_ms"] / each["took_ms"] for each, other in zip(taken, base, strict=True)
        )
        note = "; ".join(part for part in (contender.unguarded, contender.note) if part)
        rows.append(
            Row(who=contender.name, role=role_of(contender), figures=figures, note=note, rounds=taken)
        )
    return Group(
        case=case,
        conditions={**conditions, "load": f"{lab.scale.load_s * 1000:g} ms"},
        columns=_STAMPEDE_COLUMNS,
        rows=rows,
        absent=absent,
        chart="loads",
        less_is_better=True,
    )


def _stampede_once(
    lab: Lab, workers: list[Worker], contender: Contender, key: str, callers: int
) -> dict[str, float]:
    for worker in workers:
        worker.tell(
            do="stampede",
            contender=contender.name,
            address=address_as_order(lab.address(contender)),
            key=key,
            callers=callers,
            load_s=lab.scale.load_s,
        )
    for worker in workers:
        worker.hear()
    began_s = time.monotonic()
    for worker in workers:
        worker.tell(go=True)
    heard = [worker.hear() for worker in workers]
    took_s = max(each["last_s"] for each in heard) - began_s
    return {
        "loads": sum(each["loads"] for each in heard),
        "took_ms": took_s * 1e3,
        "loads_long": took_s / lab.scale.load_s,
        "cpu_ms": max(1e-3, sum(each["cpu_s"] for each in heard) * 1e3),
        "errors": sum(sum(each["errors"].values()) for each in heard),
    }


# From the fill to the waiter.

_HANDOVER_COLUMNS = (
    Column("p50_ms", "p50 ms", ",.2f"),
    Column("worst_ms", "worst ms", ",.2f"),
    Column("ratio", "times bare PUBLISH → GET", ".2f"),
    Column("own_loads", "loads by waiters", is_positive=False),
)


class _Handovers:
    """What the waiting side sees: how long after a loader of another process returned it had the value."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self.own_loads = 0
        self._has_loaded = False

    def load(self) -> dict[str, int]:
        self.own_loads += 1
        self._has_loaded = True
        return {"at_ns": time.monotonic_ns()}

    async def load_async(self) -> dict[str, int]:
        return self.load()

    def take(self, at_ns: int) -> None:
        now_ns = time.monotonic_ns()
        if not self._has_loaded:  # otherwise nobody handed anything over
            self.delays_s.append((now_ns - at_ns) / 1e9)
        self._has_loaded = False


def _handover(lab: Lab) -> Iterator[Group]:
    case = "fill to waiter"
    with Worker() as worker:
        for contenders, kind in ((ASYNC, "async"), (THREADS, "threads")):
            guarding, absent = lab.present(each for each in contenders if not each.unguarded)
            lab.empty(guarding)
            for contender in guarding:
                fill(contender, lab.address(contender), {"warm": "warm"})
            bare = next(each for each in contenders if role_of(each) == BASELINE)
            everybody = [bare, *guarding]
            seen: dict[str, list[_Handovers]] = {each.name: [] for each in everybody}
            for number in range(lab.scale.rounds):
                for contender in everybody:
                    lab.progress(f"{case}: {contender.name}")
                    seen[contender.name].append(_hand_over(lab, worker, contender, f"handed:{number}"))
            lab.empty(everybody)
            yield Group(
                case=case,
                conditions={"kind": kind, "times": lab.scale.handovers * lab.scale.rounds},
                columns=_HANDOVER_COLUMNS,
                rows=[_handover_row(each, bare, seen) for each in everybody],
                absent=absent,
                less_is_better=True,
            )


def _handover_row(contender: Contender, bare: Contender, seen: dict[str, list[_Handovers]]) -> Row:
    taken = seen[contender.name]
    own_loads = sum(each.own_loads for each in taken)
    name = f"{bare.name}: PUBLISH → GET" if contender is bare else contender.name
    delays_s = [delay for each in taken for delay in each.delays_s]
    figures: dict[str, float] = {"own_loads": own_loads}
    note = contender.note
    if delays_s:
        base_s = [delay for each in seen[bare.name] for delay in each.delays_s]
        figures |= {
            "p50_ms": median(delays_s) * 1e3,
            "worst_ms": max(delays_s) * 1e3,
            "ratio": median(delays_s) / median(base_s),
        }
    else:
        note = "no guard between processes: its waiters loaded instead of waiting"
    return Row(who=name, role=role_of(contender), figures=figures, note=note)


def _hand_over(lab: Lab, worker: Worker, contender: Contender, prefix: str) -> _Handovers:
    address = lab.address(contender)
    is_bare = role_of(contender) == BASELINE
    order = {"contender": contender.name, "address": address_as_order(address), "times": lab.scale.handovers}
    worker.tell(do="publish" if is_bare else "hold", **order)
    keys = [f"{prefix}:{each}" for each in range(lab.scale.handovers)]
    seen = _Handovers()
    if contender.runtime == "threads":
        opened = _listen_threads(address) if is_bare else _wait_threads(contender, address, seen)
        with opened as wait:
            for key in keys:
                worker.tell(key=key)
                worker.hear()
                seen.take(wait(key))
    else:
        anyio.run(_hand_over_async, contender, address, worker, keys, seen, backend=contender.runtime)
    worker.hear()
    return seen


async def _hand_over_async(
    contender: Contender, address: Address, worker: Worker, keys: list[str], seen: _Handovers
) -> None:
    is_bare = role_of(contender) == BASELINE
    async with _listen_async(address) if is_bare else _wait_async(contender, address, seen) as wait:
        for key in keys:
            worker.tell(key=key)
            worker.hear()  # it blocks this loop, in which nothing else is going on yet
            seen.take(await wait(key))


@contextmanager
def _wait_threads(contender: Contender, address: Address, seen: _Handovers) -> Iterator[Callable[[str], int]]:
    with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
        peer.get("warm")
        load = peer.guarded or peer.get_or_load
        yield lambda key: load(key, seen.load)["at_ns"]


@asynccontextmanager
async def _wait_async(
    contender: Contender, address: Address, seen: _Handovers
) -> AsyncIterator[Callable[[str], Any]]:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        await peer.get("warm")
        load = peer.guarded or peer.get_or_load

        async def wait(key: str) -> int:
            return (await load(key, seen.load_async))["at_ns"]

        yield wait


@contextmanager
def _listen_threads(address: Address) -> Iterator[Callable[[str], int]]:
    with (
        redis.Redis.from_url(address.url) as client,
        client.pubsub(ignore_subscribe_messages=True) as listening,
    ):
        client.get("published")
        listening.subscribe(CHANNEL)
        listening.get_message(timeout=5)

        def wait(_: str) -> int:
            message = None
            while message is None:
                message = listening.get_message(timeout=5)
            client.get("published")
            return int(message["data"])

        yield wait


@asynccontextmanager
async def _listen_async(address: Address) -> AsyncIterator[Callable[[str], Any]]:
    async with (
        redis.asyncio.Redis.from_url(address.url) as client,
        client.pubsub(ignore_subscribe_messages=True) as listening,
    ):
        await client.get("published")
        await listening.subscribe(CHANNEL)
        await listening.get_message(timeout=5)

        async def wait(_: str) -> int:
            message = None
            while message is None:
                message = await listening.get_message(timeout=5)
            await client.get("published")
            return int(message["data"])

        yield wait


CASES = (
    Case(
        name="stampede",
        about="All callers of all processes want one key that is not there: how often is it loaded?",
        run=_stampede,
    ),
    Case(
        name="fill to waiter",
        about="Another process loads; how long after its loader returned has a waiter the value? The bare "
        "figure is redis-py's from before PUBLISH to after GET.",
        run=_handover,
    ),
)
