"""A write while somebody loads: what is read after it."""

import threading
from collections.abc import Iterator
from typing import Any

import anyio

from benchmarks.asynchronous import ASYNC
from benchmarks.blocking import THREADS
from benchmarks.case import Case
from benchmarks.contenders import Address, Contender
from benchmarks.lab import Lab, role_of
from benchmarks.results import Column, Group, Row

_OLD, _NEW = {"version": 1}, {"version": 2}
_COLUMNS = (
    Column("writes", "writes"),
    Column("stale", "stale after it", is_positive=False),
)


def _on_threads(contender: Contender, address: Address, key: str) -> bool:
    """Whether what is read after a write is from before it, where a load was under way meanwhile."""
    has_read, has_written = threading.Event(), threading.Event()

    def slow() -> Any:
        has_read.set()  # it has the old value, and is on its way back from the database
        has_written.wait()
        return _OLD

    with contender.open(address) as peer:  # type: ignore[union-attr]
        load, forget = peer.guarded or peer.get_or_load, peer.invalidate
        reader = threading.Thread(target=load, args=(key, slow))
        reader.start()
        has_read.wait()
        forget(key)  # the database has the new value by now
        has_written.set()
        reader.join()
        found = load(key, lambda: _NEW)
        forget(key)
        assert load(key, lambda: _NEW) == _NEW, f"{contender.name} does not forget at all"
        return bool(found == _OLD)


async def _on_a_loop(contender: Contender, address: Address, key: str) -> bool:
    has_read, has_written = anyio.Event(), anyio.Event()

    async def slow() -> Any:
        has_read.set()
        await has_written.wait()
        return _OLD

    async def new() -> Any:
        return _NEW

    async with contender.open(address) as peer:  # type: ignore[union-attr]
        load, forget = peer.guarded or peer.get_or_load, peer.invalidate
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load, key, slow)
            await has_read.wait()
            await forget(key)
            has_written.set()
        found = await load(key, new)
        await forget(key)
        assert await load(key, new) == _NEW, f"{contender.name} does not forget at all"
        return bool(found == _OLD)


def _overtaken(lab: Lab) -> Iterator[Group]:
    for contenders, unit in ((ASYNC, "callers"), (THREADS, "threads")):
        lab.progress(f"overtaken: {unit}")
        present, absent = lab.present(contenders)
        lab.empty(present)
        rows = []
        for contender in present:
            stale = 0
            for number in range(lab.scale.rounds):
                key = f"overtaken:{number}"
                if contender.runtime == "threads":
                    stale += _on_threads(contender, lab.address(contender), key)
                else:
                    arguments = (contender, lab.address(contender), key)
                    stale += anyio.run(_on_a_loop, *arguments, backend=contender.runtime)
            figures = {"writes": float(lab.scale.rounds), "stale": float(stale)}
            note = contender.unguarded or ("" if contender.is_ours else "its guard against stampedes is on")
            rows.append(Row(who=contender.name, role=role_of(contender), figures=figures, note=note))
        lab.empty(present)
        yield Group(
            case="overtaken",
            conditions={"a load under way": "a load under way", unit: 1},
            columns=_COLUMNS,
            rows=rows,
            absent=absent,
            chart="stale",
            less_is_better=True,
        )


CASES = (
    Case(
        name="overtaken",
        about="A load has read the database; then somebody writes, and invalidates; then the load is stored. "
        "What does the next reader get?",
        run=_overtaken,
    ),
)
