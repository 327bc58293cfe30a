"""A world for the tasks of an event loop: see `world.py`, which it mirrors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from typing import Any

import anyio

from sansio_cache.exploring.schedules import Chooser, Schedule
from sansio_cache_testing.async_caches import AsyncWorldBackend, AsyncWorldCache
from sansio_cache_testing.faults import StoreFault
from sansio_cache_testing.judging import (
    Finding,
    Ideals,
    Reader,
    Result,
    Writer,
    broken_in_the_end,
    check_returned,
    stale_read,
    wrong_in_the_end,
)
from sansio_cache_testing.loops import LoopScheduler
from sansio_cache_testing.rows import AsyncRows
from sansio_cache_testing.scheduling import WorldError
from sansio_cache_testing.steps import Step
from sansio_cache_testing.world import NAMESPACE, WorldBase, check_duration, exceptions


class AsyncWorld(WorldBase[LoopScheduler, AsyncWorldCache]):
    """A world for the tasks of an event loop, of asyncio or trio, in the world's time.

    Args:
        schedule: Decides who goes on; `check_interleavings` and `replay` give it.
        seed: Where the nonces and the jitter of the caches come from.
        faults: What may go wrong between caches and their store. Whether it does is the schedule's.

    Raises:
        ScenarioError: It is no schedule, no whole number, or no list of faults.
    """

    _is_async = True

    def __init__(
        self, schedule: Chooser | None = None, *, seed: int = 0, faults: Iterable[StoreFault] = ()
    ) -> None:
        super().__init__(LoopScheduler(Schedule() if schedule is None else schedule, seed), faults)

    def cache(self, namespace: str = NAMESPACE, **options: Any) -> AsyncWorldCache:
        """A cache of a process of its own, on the store that all caches of the world share.

        Args:
            namespace: The first part of every key.
            options: The fields of `CacheConfig`.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        recording = self._recording
        cache = AsyncWorldCache(
            self._config(namespace, options),
            lambda: AsyncWorldBackend(recording, self._store, f"{namespace}:"),
            clock=self._now,
            entropy=recording.entropy,
        )
        cache.log_to(recording)
        self._caches.append(cache)
        return cache

    def rows(self, rows: Mapping[Any, Any], name: str | None = None) -> AsyncRows[Any, Any]:
        """A table of the database.

        Args:
            rows: What is in it, by keys. None is no row.
            name: What one of its rows is called in diagrams.

        Raises:
            ScenarioError: It is no mapping.
        """
        return AsyncRows(self._table(rows, name), self._recording.point)

    async def pass_time(self, duration_s: float) -> None:
        """Let so many seconds pass at once. In a function of the program: sleep for so long."""
        await self._recording.sleep(check_duration(duration_s))

    sleep = pass_time

    def reader(
        self,
        call: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        may_be_stale: bool = False,
    ) -> None:
        """Declare a function that reads through the cache, to run at the same time as the others.

        It must only read: it is called again, without a cache, to learn what it should have given.

        Args:
            call: The function. What it gives is judged; of a mapping, each item by itself.
            args: Its arguments.
            name: What it is called in diagrams; the function's name where not given.
            may_be_stale: Whether a value that was true at any time will do, as with `stale_for_s`.
        """
        self._declare_reader(
            self._bound(call, args), self._name(call, name, "reader"), may_be_stale=may_be_stale
        )

    def writer(
        self,
        call: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        may_raise: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        """Declare a function that writes, to run at the same time as the others.

        Args:
            call: The function. When it has returned, no reader may see what was before.
            args: Its arguments.
            name: What it is called in diagrams; the function's name where not given.
            may_raise: Exceptions that it may end with, as where something is sold out.
        """
        writer = self._bound(call, args)
        self._declare_writer(writer, self._name(call, name, "writer"), exceptions(may_raise))

    def in_the_end(self, call: Callable[..., Awaitable[Any]], *args: Any, name: str | None = None) -> None:
        """Declare what must hold when all is done: a function that is called then, and asserts it.

        Args:
            call: The function, plain or a coroutine function. What it raises is told as what is wrong with
                the order that was run. It must return nothing: where it does, the run ends with a
                `ScenarioError`.
            args: Its arguments.
            name: What it is called; the function's name where not given.
        """
        self._checks.append((self._name(call, name, "the check"), self._bound(call, args)))

    def start(self, call: Callable[..., Awaitable[Any]], *args: Any, name: str | None = None) -> None:
        """Run a function at the same time as the others; what it gives is not judged."""
        self._has_started = True
        self._recording.start(self._name(call, name, "function"), self._bound(call, args))

    async def run(self) -> list[Finding]:
        """Run what was declared, and judge it: what was wrong, nothing where all is well.

        What a writer raises is raised here.
        """
        recording = self._recording
        recording.is_resting = False
        try:
            async with anyio.create_task_group() as group:
                for participant in recording.participants:
                    group.start_soon(participant.run, name=participant.name)
                for participant in recording.participants:
                    await participant.has_ended.wait()
                await recording.settle()
        finally:
            recording.is_resting = True
        for participant in recording.participants:
            if participant.error is not None:
                raise participant.error
        self._complete()
        stale = [finding async for finding in self._stale_reads()]
        return stale + [finding async for finding in self._wrong_in_the_end()]

    async def end(self) -> None:
        """End what still runs. `check` does so."""
        self._recording.is_mute = self._recording.is_resting = True
        for cache in self._caches:
            await cache.aclose()

    async def _read(self, reader: Reader) -> None:
        await self._recording.point("has not begun")
        self._begins(reader)
        self._ends(reader, await _result(reader.call))

    async def _write(self, writer: Writer) -> None:
        await self._recording.point("has not begun")
        try:
            await writer.call()
        except WorldError:
            raise
        except writer.may_raise as error:
            self._recording.add(Step(writer.name, f"raises {error!r}"))
        self._returns(writer)

    async def _stale_reads(self) -> AsyncIterator[Finding]:
        for reader in self._readers:
            ideals = await self._ideals(reader, range(reader.first, reader.last + 1))
            finding = stale_read(reader, ideals, self._database, self._recording.steps)
            if finding is not None:
                reader.is_wrong = True
                yield finding

    async def _wrong_in_the_end(self) -> AsyncIterator[Finding]:
        steps = list(self._recording.steps)
        for name, look in self._checks:
            try:
                with self._unrecorded():
                    returned = look()
                    check_returned(name, await returned if isawaitable(returned) else returned)
            except WorldError:
                raise
            except Exception as error:  # noqa: BLE001 - it is what was asked for
                yield broken_in_the_end(name, error, steps)
        if not all(writer.is_complete for writer in self._writers):
            return
        for reader in [each for each in self._readers if not each.is_wrong]:
            with self._unrecorded():
                seen = await _result(reader.call)
            ideals = await self._ideals(reader, self._allowed_in_the_end(reader))
            finding = wrong_in_the_end(reader, seen, ideals, self._database, steps)
            if finding is not None:
                yield finding

    async def _ideals(self, reader: Reader, states: range) -> Ideals:
        results, before = [], self._database.reads
        has_asked = self._has_asked(reader)
        asked = 0 if has_asked else self._cache_reads()
        for state in states:
            with self._without_cache(state):
                results.append(await _result(reader.call))
        has_asked = has_asked or self._cache_reads() > asked
        return Ideals(tuple(results), self._database.reads > before, has_asked)


async def _result(call: Callable[[], Awaitable[Any]]) -> Result:
    try:
        return Result(await _awaitable(call))
    except WorldError:
        raise
    except Exception as error:  # noqa: BLE001 - what it raises is judged
        return Result(error=error)


def _awaitable(call: Callable[[], Any]) -> Awaitable[Any]:
    given = call()
    if not isawaitable(given):
        raise WorldError(
            f"{getattr(call, 'func', call)!r:.80} gives nothing to be awaited: in a scenario for event loops "
            "readers are coroutine functions (async def)"
        )
    return given
