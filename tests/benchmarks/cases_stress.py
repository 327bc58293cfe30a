"""Under stress: beside a busy event loop, ten thousand at once, and with callers who give up."""

import random
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from statistics import median
from typing import cast

import anyio
import attrs

from benchmarks import operations
from benchmarks.asynchronous import ASYNC, DEFAULT_POOL
from benchmarks.case import Case
from benchmarks.contenders import Address, Contender, Peer
from benchmarks.lab import Entrant, Lab, rates, role_of
from benchmarks.loads import Job, fill
from benchmarks.results import Column, Group, Row
from benchmarks.values import USUAL, make_items

_CANCELLED = 0.3


def _busy(lab: Lab) -> Iterator[Group]:
    items = make_items(lab.scale.keys, USUAL)
    # A get takes some turns of a millisecond each: the usual window would see a handful.
    window_s = lab.scale.window_s * 5
    job = partial(Job, callers=1, window_s=window_s, fill=items, is_busy=True)
    entrants = [Entrant.of(each, operations.get(list(items))) for each in ASYNC]
    conditions = {"value": USUAL, "callers": 1, "loop": "1 ms of Python a turn"}
    yield rates(lab, "busy event loop", entrants, conditions, job)


def _burst(lab: Lab) -> Iterator[Group]:
    items = make_items(lab.scale.keys, USUAL)
    opened: dict[str, list[int]] = {}
    raw = lab.server.client()  # closed with the server; it stays connected, or it would count itself

    def received() -> int:
        return int(raw.info("stats")["total_connections_received"])

    seen: list[tuple[str, int]] = []

    def before(contender: Contender) -> None:
        now = received()
        if seen:
            name, then = seen.pop()
            opened.setdefault(name, []).append(now - then)
        seen.append((contender.name, now))

    job = partial(Job, callers=lab.scale.burst, window_s=None, fill=items, is_cold=True)
    entrants = [Entrant.of(each, operations.get(list(items))) for each in (*ASYNC, DEFAULT_POOL)]
    # Ten thousand are many: three rounds of them are enough.
    lab = attrs.evolve(lab, scale=attrs.evolve(lab.scale, rounds=min(3, lab.scale.rounds)))
    group = rates(
        lab, "burst", entrants, {"value": USUAL, "gets at once": lab.scale.burst}, job, before=before
    )
    last, then = seen.pop()
    opened.setdefault(last, []).append(received() - then)
    column = Column("connections", "connections", ",.0f")
    rows = [
        attrs.evolve(row, figures={**row.figures, "connections": median(opened[row.who])})
        for row in group.rows
    ]
    yield attrs.evolve(group, columns=(*group.columns, column), rows=rows)


_CANCEL_COLUMNS = (
    Column("rest_per_s", "rest per s, cancelling"),
    Column("calm_per_s", "rest per s, not cancelling"),
    Column("kept", "kept", ".2f"),
    Column("cancelled", "cancelled", is_positive=False),
    Column("wrong", "wrong answers", is_positive=False),
    Column("unanswered", "unanswered", is_positive=False),
    Column("errors", "errors", is_positive=False),
)


@attrs.define
class _Tally:
    rest: int = 0
    cancelled: int = 0
    wrong: int = 0
    unanswered: int = 0
    errors: int = 0
    wall_s: float = 0.0

    @property
    def rest_per_s(self) -> float:
        """Right answers to calls that nobody meant to cancel. Never nought, for it is divided by."""
        return max(1, self.rest) / self.wall_s


def _cancelling(lab: Lab) -> Iterator[Group]:
    case = "cancelling"
    lab.progress(f"{case}: {lab.scale.cancel_callers} callers")
    contenders, absent = lab.present(ASYNC)
    items = make_items(lab.scale.keys, "100 B")
    lab.empty(contenders)
    for contender in contenders:
        fill(contender, lab.address(contender), items)
    rounds: dict[str, list[tuple[_Tally, _Tally]]] = {each.name: [] for each in contenders}
    for number in range(lab.scale.rounds):
        for contender in contenders:
            taken = anyio.run(
                _with_and_without, contender, lab.address(contender), lab, number, backend=contender.runtime
            )
            rounds[contender.name].append(taken)
    lab.empty(contenders)
    rows = [
        Row(
            who=each.name,
            role=role_of(each),
            figures=_cancel_figures(rounds[each.name]),
            note=each.note,
            rounds=[
                {"rest_per_s": hit.rest_per_s, "calm_per_s": calm.rest_per_s}
                for calm, hit in rounds[each.name]
            ],
        )
        for each in contenders
    ]
    conditions = {"value": "100 B", "callers": lab.scale.cancel_callers, "cancelled": f"{_CANCELLED:.0%}"}
    yield Group(
        case=case, conditions=conditions, columns=_CANCEL_COLUMNS, rows=rows, absent=absent, chart="kept"
    )


def _cancel_figures(taken: list[tuple[_Tally, _Tally]]) -> dict[str, float]:
    kept = [hit.rest_per_s / calm.rest_per_s for calm, hit in taken]
    return {
        "rest_per_s": median(hit.rest_per_s for _, hit in taken),
        "calm_per_s": median(calm.rest_per_s for calm, _ in taken),
        "kept": median(kept),
        "cancelled": sum(hit.cancelled for _, hit in taken),
        "wrong": sum(each.wrong for pair in taken for each in pair),
        "unanswered": sum(each.unanswered for pair in taken for each in pair),
        "errors": sum(each.errors for pair in taken for each in pair),
    }


async def _with_and_without(
    contender: Contender, address: Address, lab: Lab, seed: int
) -> tuple[_Tally, _Tally]:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        # How long a call takes here: what is cancelled is cancelled somewhere within that.
        first = await _run_cancelling(peer, lab, seed, None)
        typical_s = lab.scale.cancel_callers * first.wall_s / max(1, first.rest)
        calm = await _run_cancelling(peer, lab, seed, None)
        return calm, await _run_cancelling(peer, lab, seed, typical_s)


async def _run_cancelling(peer: Peer, lab: Lab, seed: int, within_s: float | None) -> _Tally:
    """The same calls are marked in both runs, and have a scope around them; only one run cancels them."""
    tally = _Tally()
    keys = lab.scale.keys
    window_s = lab.scale.window_s * 2

    async def call(number: int) -> bool:
        try:
            answer = await peer.get(f"item:{number}")
        except Exception:
            tally.errors += 1
            return False
        if answer is None:
            tally.unanswered += 1
        elif answer["id"] != number:
            tally.wrong += 1
        else:
            return True
        return False

    async def caller(each: int) -> None:
        draw = random.Random(seed * 10_007 + each)
        until_s = time.perf_counter() + window_s
        while True:
            number, is_marked, share = draw.randrange(keys), draw.random() < _CANCELLED, draw.random()
            if is_marked:
                with anyio.move_on_after(3600 if within_s is None else within_s * share) as scope:
                    await call(number)
                tally.cancelled += scope.cancelled_caught
            else:
                is_right = await call(number)
                tally.rest += is_right  # not in one line: the others count while this one waits
            if time.perf_counter() >= until_s:
                return

    began_s = time.perf_counter()
    async with anyio.create_task_group() as callers:
        for each in range(lab.scale.cancel_callers):
            callers.start_soon(caller, each)
    tally.wall_s = time.perf_counter() - began_s
    return tally


CASES = (
    Case(name="busy event loop", about="One get at a time, beside other work in the same loop.", run=_busy),
    Case(
        name="burst",
        about="Ten thousand gets at once from a cold start: errors, and connections at the server.",
        run=_burst,
    ),
    Case(
        name="cancelling",
        about="30 % of calls are cancelled at random. Kept is the throughput of the rest, against the same "
        "calls when nothing is cancelled.",
        run=_cancelling,
    ),
)
