"""Callers: how a contender is put under load, and the clocks around it.

One sample opens the contender, warms it up, measures, and closes it, so that contenders may take turns
whatever event loop they need. Only the middle is measured. CPU time is of the whole process: what a channel
does on a thread of its own counts.
"""

import gc
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, cast

import anyio
import anyio.lowlevel
import attrs

from benchmarks.contenders import Address, Contender, Peer

Call = Callable[[int], Any]
"""One call by its number; an awaitable where the contender is asynchronous."""
Operation = Callable[[Peer], Call | None]
"""What is called, on an open contender; None if it cannot do that."""

_FAR_APART = 1_092_361
"""Between the numbers of two callers. A prime, and far from multiples of how many keys there are: they walk
over different ones."""
_TURN_S = 0.001


class CannotError(Exception):
    """The contender has no such operation."""


@attrs.frozen(kw_only=True)
class Job:
    """What to do in one sample.

    Args:
        operation: What is called.
        callers: How many call at once.
        window_s: How long each goes on; None: each calls once.
        fill: What is stored before it, with the contender's own `set`.
        items: How many things one call is about.
        failure: The answer that says that the store was not asked, or failed: None for reads, False for
            writes.
        is_busy: Whether the event loop has a millisecond of other work in each turn.
        is_cold: Whether it begins without any connection.
    """

    operation: Operation
    callers: int
    window_s: float | None
    fill: Mapping[str, Any] = attrs.field(factory=dict)
    items: int = 1
    failure: Any = None
    is_busy: bool = False
    is_cold: bool = False


@attrs.frozen(kw_only=True)
class Sample:
    """What was measured once."""

    items: int
    wall_s: float
    cpu_s: float
    unanswered: int = 0
    errors: dict[str, int] = attrs.field(factory=dict)

    @property
    def per_s(self) -> float:
        """Throughput."""
        return self.items / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Process CPU time of one item, in microseconds."""
        # A sample may be shorter than the clock's step.
        return max(self.cpu_s, 1e-6) * 1e6 / self.items


class Tally:
    """What callers add up while they run. Each has its own, so that none waits for a lock."""

    __slots__ = ("calls", "errors", "unanswered")

    def __init__(self) -> None:
        self.calls = 0
        self.unanswered = 0
        self.errors: dict[str, int] = {}

    def fail(self, error: Exception) -> None:
        """An exception reached the caller."""
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


def measure(contender: Contender, address: Address, job: Job) -> Sample:
    """One sample.

    Raises:
        CannotError: The contender has no such operation.
    """
    gc.collect()
    if contender.runtime == "threads":
        return _measure_threads(contender, address, job)
    return anyio.run(_measure_async, contender, address, job, backend=contender.runtime)


def fill(contender: Contender, address: Address, items: Mapping[str, Any]) -> None:
    """Store those, with the contender's own `set`."""
    if contender.runtime == "threads":
        with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
            for key, value in items.items():
                peer.set(key, value)
    else:
        anyio.run(_fill_async, contender, address, items, backend=contender.runtime)


async def _fill_async(contender: Contender, address: Address, items: Mapping[str, Any]) -> None:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        for key, value in items.items():
            await peer.set(key, value)


def _needed(contender: Contender, call: Call | None) -> Call:
    if call is None:
        raise CannotError(f"{contender.name} has no such operation")
    return call


def _sample(job: Job, tallies: list[Tally], wall_s: float, cpu_s: float) -> Sample:
    errors: dict[str, int] = {}
    for tally in tallies:
        for name, count in tally.errors.items():
            errors[name] = errors.get(name, 0) + count
    unanswered = sum(tally.unanswered for tally in tallies)
    # What failed is no work done, however quickly it failed. Never nought, for it is divided by.
    calls = max(1, sum(tally.calls for tally in tallies) - unanswered - sum(errors.values()))
    return Sample(items=calls * job.items, wall_s=wall_s, cpu_s=cpu_s, unanswered=unanswered, errors=errors)


def _warm_s(window_s: float) -> float:
    return max(0.002, window_s / 5)


# Threads.


def _measure_threads(contender: Contender, address: Address, job: Job) -> Sample:
    with cast("AbstractContextManager[Peer]", contender.open(address)) as peer:
        call = _needed(contender, job.operation(peer))
        if not job.is_cold:
            peer.get("warm")
        if job.window_s is not None:
            _run_threads(call, job, _warm_s(job.window_s), _FAR_APART * 1_000)
        return _run_threads(call, job, job.window_s, 0)


def _run_threads(call: Call, job: Job, window_s: float | None, first: int) -> Sample:
    tallies = [Tally() for _ in range(job.callers)]
    barrier = threading.Barrier(job.callers + 1)

    def work(tally: Tally, number: int) -> None:
        barrier.wait()
        _call_blocking(call, job.failure, tally, number, window_s)

    threads = [
        threading.Thread(target=work, args=(tally, first + each * _FAR_APART), daemon=True)
        for each, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    barrier.wait()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return _sample(job, tallies, time.perf_counter() - began_s, time.process_time() - cpu_s)


def _call_blocking(call: Call, failure: Any, tally: Tally, number: int, window_s: float | None) -> None:
    clock = time.perf_counter
    until_s = clock() + (window_s or 0.0)
    while True:
        try:
            if call(number) is failure:
                tally.unanswered += 1
        except Exception as error:
            tally.fail(error)
        tally.calls += 1
        number += 1
        if clock() >= until_s:
            return


# Event loops.


async def _measure_async(contender: Contender, address: Address, job: Job) -> Sample:
    async with cast("AbstractAsyncContextManager[Peer]", contender.open(address)) as peer:
        call = _needed(contender, job.operation(peer))
        if not job.is_cold:
            await peer.get("warm")
        async with anyio.create_task_group() as others:
            if job.is_busy:
                others.start_soon(_be_busy)
            if job.window_s is not None:
                await _run_async(call, job, _warm_s(job.window_s), _FAR_APART * 1_000)
            sample = await _run_async(call, job, job.window_s, 0)
            others.cancel_scope.cancel()
        return sample


async def _run_async(call: Call, job: Job, window_s: float | None, first: int) -> Sample:
    tallies = [Tally() for _ in range(job.callers)]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as callers:
        for each, tally in enumerate(tallies):
            callers.start_soon(_call_async, call, job.failure, tally, first + each * _FAR_APART, window_s)
    return _sample(job, tallies, time.perf_counter() - began_s, time.process_time() - cpu_s)


async def _call_async(call: Call, failure: Any, tally: Tally, number: int, window_s: float | None) -> None:
    clock = time.perf_counter
    until_s = clock() + (window_s or 0.0)
    while True:
        try:
            if await call(number) is failure:
                tally.unanswered += 1
        except Exception as error:
            tally.fail(error)
        tally.calls += 1
        number += 1
        if clock() >= until_s:
            return


async def _be_busy() -> None:
    while True:
        until_s = time.perf_counter() + _TURN_S
        while time.perf_counter() < until_s:
            pass
        await anyio.lowlevel.checkpoint()
