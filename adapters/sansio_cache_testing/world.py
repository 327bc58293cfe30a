"""A world to test in: caches as if in several processes, a database, and time, all of them the test's.

    world = World()
    cache, rows = world.cache(), world.rows({1: "Ann"})
    assert cache.get_or_load("user:1", rows.read, 1) == "Ann"
    world.pass_time(601)

On its own a world is a quiet place: calls run as they come, time stands still until it is told to pass. With
`reader` and `writer`, what the program does at once is declared; `check_interleavings` runs it in each order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import iscoroutinefunction
from math import inf
from typing import Any, Final, Generic, TypeVar

from sansio_cache.config import CacheConfig
from sansio_cache.errors import ConfigurationError
from sansio_cache.exploring.schedules import Chooser, Schedule
from sansio_cache.memory_store import MemoryStore
from sansio_cache_testing.caches import CacheInWorld, WorldBackend, WorldCache
from sansio_cache_testing.database import Database, Table
from sansio_cache_testing.faults import FaultyStore, StoreFault, allowed
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
from sansio_cache_testing.outside import outside_refused
from sansio_cache_testing.rows import Rows
from sansio_cache_testing.scheduling import Recording, ScenarioError, WorldError
from sansio_cache_testing.steps import CACHE, Step
from sansio_cache_testing.threads import ThreadScheduler

R = TypeVar("R", bound=Recording)
C = TypeVar("C", bound=CacheInWorld)

NAMESPACE: Final = "world"
_NEVER_FULL: Final = 2**40
_BOUNDS: Final = frozenset({"memory_max_bytes", "memory_max_entries"})


def check_duration(duration_s: float) -> float:
    """A number of seconds that may pass.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(duration_s, bool) or not isinstance(duration_s, int | float) or not 0 <= duration_s < inf:
        raise ConfigurationError(f"pass_time takes a number of seconds from 0 on; got {duration_s!r}")
    return duration_s


def exceptions(may_raise: Any) -> tuple[type[Exception], ...]:
    """Classes of exceptions, of which one may be given by itself.

    Raises:
        WorldError: They are none.
    """
    given: tuple[Any, ...] = may_raise if isinstance(may_raise, tuple) else (may_raise,)
    if not all(isinstance(each, type) and issubclass(each, Exception) for each in given):
        raise WorldError(f"may_raise is a class of exceptions, or a tuple of them; got {may_raise!r:.80}")
    return given


class WorldBase(Generic[R, C]):
    """What the worlds of threads and of event loops share."""

    _is_async = False

    def __init__(self, recording: R, faults: Iterable[StoreFault]) -> None:
        self._recording = recording
        self._database = Database(recording)
        memory = MemoryStore(self._now, _NEVER_FULL, _NEVER_FULL)
        self._store = FaultyStore(memory, recording, allowed(faults))
        self._caches: list[C] = []
        self._readers: list[Reader] = []
        self._writers: list[Writer] = []
        self._checks: list[tuple[str, Callable[[], Any]]] = []
        self._names: set[str] = set()
        self._has_started = False

    @property
    def clock(self) -> Callable[[], float]:
        """The time of the world, in seconds: for what else the program takes the time from."""
        return self._now

    @property
    def scheduler(self) -> R:
        """What gives turns, and records."""
        return self._recording

    @property
    def steps(self) -> tuple[Step, ...]:
        """What has happened."""
        return tuple(self._recording.steps)

    @property
    def is_judged(self) -> bool:
        """Whether there is anything that could be found wrong."""
        return bool(self._readers or self._checks or self._has_started)

    @property
    def has_checks(self) -> bool:
        """Whether something is said of what must hold when all is done."""
        return bool(self._checks)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Those that were declared, with what each was given."""
        return tuple(self._readers)

    @property
    def fired(self) -> Mapping[StoreFault, int]:
        """How often each fault that is allowed has struck."""
        return self._store.fired

    def _now(self) -> float:
        return self._recording.clock()

    def _config(self, namespace: str, options: dict[str, Any]) -> CacheConfig:
        if "url" in options:
            raise ConfigurationError("a cache of a world has the world's store: leave url out")
        bounds = sorted(_BOUNDS.intersection(options))
        if bounds:
            raise ConfigurationError(f"the store of a world is never full: leave {', '.join(bounds)} out")
        return CacheConfig.from_options(namespace=namespace, url="memory://", **options)

    def _table(self, rows: Mapping[Any, Any], name: str | None) -> Table[Any, Any]:
        if not isinstance(rows, Mapping):
            raise ScenarioError(f"rows takes a mapping, as in world.rows({{1: 'Ann'}}); got {rows!r:.80}")
        database = self._database
        database.tables += 1
        number = database.tables
        database.plant(number, rows)
        return Table(database, number, name or ("row" if number == 1 else f"row of table {number},"))

    def _bound(self, call: Any, args: tuple[Any, ...]) -> Callable[[], Any]:
        """A function with its arguments.

        Raises:
            WorldError: It cannot be called in this world.
        """
        if not callable(call):
            raise WorldError(f"a function is declared, and its arguments behind it; got {call!r:.80}")
        if iscoroutinefunction(call) and not self._is_async:
            name = getattr(call, "__qualname__", repr(call))
            raise WorldError(f"{name} is a coroutine function: make the scenario one, too (async def)")
        return partial(call, *args)

    def _name(self, call: Callable[..., Any], name: str | None, kind: str) -> str:
        called: str = getattr(call, "__name__", type(call).__name__)
        wanted = name or (kind if called == "<lambda>" else called.strip("<>"))
        free, number = wanted, 1
        while free in self._names:
            number += 1
            free = f"{wanted} {number}"
        self._names.add(free)
        return free

    # A run.

    def _declare_reader(self, call: Callable[[], Any], name: str, *, may_be_stale: bool) -> None:
        reader = Reader(name, call, may_be_stale)
        self._readers.append(reader)
        self._recording.start(name, partial(self._read, reader))

    def _declare_writer(
        self, call: Callable[[], Any], name: str, may_raise: tuple[type[Exception], ...]
    ) -> None:
        writer = Writer(name, call, may_raise=may_raise)
        self._writers.append(writer)
        self._recording.start(name, partial(self._write, writer))

    def _read(self, reader: Reader) -> Any:
        raise NotImplementedError

    def _write(self, writer: Writer) -> Any:
        raise NotImplementedError

    def _begins(self, reader: Reader) -> None:
        """Note what a reader may see at the least."""
        self._complete()
        floor = max((writer.last for writer in self._writers if writer.is_complete), default=0)
        reader.first = 0 if reader.may_be_stale else floor
        reader.began_step = len(self._recording.steps)

    def _ends(self, reader: Reader, result: Result) -> None:
        reader.seen = result
        reader.last = self._database.newest
        self._recording.add(Step(reader.name, result.told))
        reader.ended_step = len(self._recording.steps)

    def _returns(self, writer: Writer) -> None:
        writer.has_returned = True
        writer.last = self._database.newest
        self._recording.add(Step(writer.name, "returns"))
        self._complete()

    def _complete(self) -> None:
        """A write is complete when it has returned and the store knows of all that the caches were told."""
        if all(cache.is_told for cache in self._caches):
            for writer in self._writers:
                writer.is_complete = writer.is_complete or writer.has_returned

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Record nothing while the block runs."""
        self._recording.is_mute = True
        try:
            yield
        finally:
            self._recording.is_mute = False

    @contextmanager
    def _without_cache(self, state: int) -> Iterator[None]:
        """Have the database stand at a state, and the caches do nothing, while the block runs."""
        with self._unrecorded(), ExitStack() as stack:
            for cache in self._caches:
                stack.enter_context(cache.without_store())
            self._database.seen = state
            try:
                yield
            finally:
                self._database.seen = None

    def _has_asked(self, reader: Reader) -> bool:
        """Whether a reader has asked a cache of the world when it ran with the others."""
        return any(step.who == reader.name and step.whom == CACHE for step in self._recording.steps)

    def _cache_reads(self) -> int:
        """How often the caches of the world were read, by whomever, even where they did nothing."""
        return sum(cache.stats().total_requests for cache in self._caches)

    def _allowed_in_the_end(self, reader: Reader) -> range:
        """The states that a reader may see when all is done."""
        newest = self._database.newest
        return range(0 if reader.may_be_stale else newest, newest + 1)


class World(WorldBase[ThreadScheduler, WorldCache]):
    """A world for threads.

    Args:
        schedule: Decides who goes on; `check_interleavings` and `replay` give it.
        seed: Where the nonces and the jitter of the caches come from.
        faults: What may go wrong between caches and their store. Whether it does is the schedule's.

    Raises:
        ScenarioError: It is no schedule, no whole number, or no list of faults.
    """

    def __init__(
        self, schedule: Chooser | None = None, *, seed: int = 0, faults: Iterable[StoreFault] = ()
    ) -> None:
        super().__init__(ThreadScheduler(Schedule() if schedule is None else schedule, seed), faults)

    def cache(self, namespace: str = NAMESPACE, **options: Any) -> WorldCache:
        """A cache of a process of its own, on the store that all caches of the world share.

        Args:
            namespace: The first part of every key.
            options: The fields of `CacheConfig`.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        recording = self._recording
        config = self._config(namespace, options)
        cache = WorldCache(
            config,
            lambda _: WorldBackend(recording, self._store, f"{namespace}:"),
            clock=self._now,
            entropy=recording.entropy,
        )
        cache.log_to(recording)
        self._caches.append(cache)
        return cache

    def rows(self, rows: Mapping[Any, Any], name: str | None = None) -> Rows[Any, Any]:
        """A table of the database.

        Args:
            rows: What is in it, by keys. None is no row.
            name: What one of its rows is called in diagrams.

        Raises:
            ScenarioError: It is no mapping.
        """
        return Rows(self._table(rows, name), self._recording.point)

    def pass_time(self, duration_s: float) -> None:
        """Let so many seconds pass at once. In a function of the program: sleep for so long."""
        self._recording.sleep(check_duration(duration_s))

    sleep = pass_time

    def lock(self) -> WorldLock:
        """A lock for the functions of the program, whose waiting the world sees."""
        return WorldLock(self._recording)

    def reader(
        self, call: Callable[..., Any], *args: Any, name: str | None = None, may_be_stale: bool = False
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
        call: Callable[..., Any],
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

    def in_the_end(self, call: Callable[..., Any], *args: Any, name: str | None = None) -> None:
        """Declare what must hold when all is done: a function that is called then, and asserts it.

        Args:
            call: The function. What it raises is told as what is wrong with the order that was run. It must
                return nothing: where it does, the run ends with a `ScenarioError`.
            args: Its arguments.
            name: What it is called; the function's name where not given.
        """
        self._checks.append((self._name(call, name, "the check"), self._bound(call, args)))

    def start(self, call: Callable[..., Any], *args: Any, name: str | None = None) -> None:
        """Run a function at the same time as the others; what it gives is not judged."""
        self._has_started = True
        self._recording.start(self._name(call, name, "function"), self._bound(call, args))

    def run(self) -> list[Finding]:
        """Run what was declared, and judge it: what was wrong, nothing where all is well.

        What a writer raises is raised here.
        """
        recording = self._recording
        participants = list(recording.participants)
        with outside_refused(lambda: recording.is_participant):
            recording.run()
        for participant in participants:
            if participant.error is not None:
                raise participant.error
        self._complete()
        return [*self._stale_reads(), *self._wrong_in_the_end()]

    def end(self) -> None:
        """End what still runs. `check` does so."""
        self._recording.abandon()

    def _read(self, reader: Reader) -> None:
        self._begins(reader)
        self._ends(reader, _result(reader.call))

    def _write(self, writer: Writer) -> None:
        try:
            writer.call()
        except WorldError:
            raise
        except writer.may_raise as error:
            self._recording.add(Step(writer.name, f"raises {error!r}"))
        self._returns(writer)

    def _stale_reads(self) -> Iterator[Finding]:
        for reader in self._readers:
            ideals = self._ideals(reader, range(reader.first, reader.last + 1))
            finding = stale_read(reader, ideals, self._database, self._recording.steps)
            if finding is not None:
                reader.is_wrong = True
                yield finding

    def _wrong_in_the_end(self) -> Iterator[Finding]:
        steps = list(self._recording.steps)
        for name, look in self._checks:
            try:
                with self._unrecorded():
                    check_returned(name, look())
            except WorldError:
                raise
            except Exception as error:  # noqa: BLE001 - it is what was asked for
                yield broken_in_the_end(name, error, steps)
        if not all(writer.is_complete for writer in self._writers):
            return
        for reader in [each for each in self._readers if not each.is_wrong]:
            with self._unrecorded():
                seen = _result(reader.call)
            ideals = self._ideals(reader, self._allowed_in_the_end(reader))
            finding = wrong_in_the_end(reader, seen, ideals, self._database, steps)
            if finding is not None:
                yield finding

    def _ideals(self, reader: Reader, states: range) -> Ideals:
        results, before = [], self._database.reads
        has_asked = self._has_asked(reader)
        asked = 0 if has_asked else self._cache_reads()
        for state in states:
            with self._without_cache(state):
                results.append(_result(reader.call))
        has_asked = has_asked or self._cache_reads() > asked
        return Ideals(tuple(results), self._database.reads > before, has_asked)


def _result(call: Callable[[], Any]) -> Result:
    try:
        return Result(call())
    except WorldError:
        raise
    except Exception as error:  # noqa: BLE001 - what it raises is judged
        return Result(error=error)


class WorldLock:
    """A lock whose waiting the world sees. Not re-entrant."""

    def __init__(self, scheduler: ThreadScheduler) -> None:
        self._scheduler = scheduler
        self._is_taken = False

    def __enter__(self) -> None:
        while self._is_taken:
            self._scheduler.wait(lambda: not self._is_taken, None, "waits for a lock")
        self._is_taken = True

    def __exit__(self, *_: object) -> None:
        self._is_taken = False
