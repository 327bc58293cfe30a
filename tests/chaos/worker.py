"""One process of a run: its callers do random operations and write down what they see. Run as a script.

Its order is a JSON object in its only argument; see `conductor`.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import itertools
import json
import logging
import math
import mmap
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel

import sansio_cache_redis.anyio
import sansio_cache_redis.sync
from chaos import mistakes
from chaos.records import COUNTS, ENDED, HUNG, LEFT, READ, TOLD, WRITTEN, WRONG, Log, Phase
from sansio_cache import CacheError, Policy
from support.servers import connect

SHARED = ("m0", "m1", "m2", "m3")
TAGGED = ("t0", "t1", "t2")
SWEPT = ("p0", "p1")
TAG = "all"
OWNED = 2  # so many keys of each process are written with `set`, by nobody else
HUNG_S = 20.0
ENDING_S = 6.0
TOO_LONG = 3  # times the budget, and a second: on a machine that has more to do
LOOK_S = 0.025
STALL_S = 0.02  # who wakes so much later than he wanted was stopped, or had no processor
OPERATION_S = 0.25
WAIT_S = 1.0
LOADER_S = 0.4
POLICY = Policy(ttl=30.0, lease_s=1.0, max_lease_s=2.0, wait_s=WAIT_S, refresh_at=0.02, retry_after_s=0.05)

# How long a call may take, by what the documentation says, with a database that answers at once.
BUDGETS_S = {
    "get": OPERATION_S,
    "get_many": OPERATION_S,
    "load": 3 * OPERATION_S + WAIT_S + LOADER_S,
    "load_many": 3 * OPERATION_S + WAIT_S + LOADER_S,
    "invalidate": OPERATION_S,
    "set": 2 * OPERATION_S,
    "mutate": 3 * OPERATION_S,
    "tag": OPERATION_S,
    "sweep": 2 * OPERATION_S,
    "expire": OPERATION_S,
}
CHOICES = [
    *["get"] * 25,
    *["load"] * 25,
    *["get_many"] * 6,
    *["load_many"] * 8,
    *["invalidate"] * 6,
    *["mutate"] * 6,
    *["set"] * 6,
    *["tag"] * 4,
    *["sweep"] * 2,
    *["expire"] * 2,
]


class TimeLimitError(Exception):
    """What the handler of a signal raises, as limits on the time of a job do: each has a number."""


class DatabaseError(Exception):
    """What a loader raises now and then."""


class RolledBackError(Exception):
    """Ends a mutation before its commit."""


def open_descriptors() -> dict[str, str]:
    """What this process has open: by descriptor a file, or a socket with its two ends."""
    ends = {}
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        ends[f"socket:[{rest[5]}]"] = f"{local} -> {remote} in state {state}"
    found = {}
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that looked
            target = str(each.readlink())
            found[each.name] = f"{target} {ends.get(target, '')}"
    return found


def running_threads() -> list[str]:
    """The names of the threads that run.

    Python keeps an entry for a thread on which something asked who it is after it had signed off, as a
    finaliser may: that one is over, and its entry says nothing of it. The system is asked, and not Python,
    whose frames, in a process that was forked in C, may be those of threads that are not there: to look at
    them ends it with a segmentation fault.
    """
    running = {int(each.name) for each in Path("/proc/self/task").iterdir()}
    return sorted(thread.name for thread in threading.enumerate() if thread.native_id in running)


def too_long_s(name: str) -> float:
    """What a call may take at most on a machine that has more to do."""
    return TOO_LONG * BUDGETS_S[name] + 1.0


def frames_from(frame: FrameType | None) -> Iterator[str]:
    """Where a frame is, and those that have called it."""
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        frame = frame.f_back


class Straight:
    """The blocking cache, whose methods are awaited and never wait: see `straight`."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._cache, name)

        async def call(*args: Any, **named: Any) -> Any:
            return method(*args, **named)

        return call

    @asynccontextmanager
    async def mutate(self, *keys: str) -> AsyncIterator[Any]:
        with self._cache.mutate(*keys) as mutation:
            yield mutation


def straight(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it has waited")


class Finaliser:
    """Invalidates from its finaliser, whenever the collector of garbage gets to it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.me = self

    def __del__(self) -> None:
        self.act()


class Process:
    """The callers of this process, and what they have in common."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.runtime: str = order["runtime"]
        self.mistake: str = order["mistake"]
        self.is_sync = self.runtime in ("sync", "forked")
        self.slot: int = order["slot"]
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.log = Log(order["log"])
        self.database: Any = connect(order["database"])
        self.server: Any = connect(order["server"])
        self.own = [f"s{self.slot}_{number}" for number in range(OWNED)]
        self.keys = [
            *SHARED,
            *TAGGED,
            *SWEPT,
            *(f"s{slot}_{number}" for slot in range(order["slots"]) for number in range(OWNED)),
        ]
        self.own_locks = {key: threading.Lock() for key in self.own}
        self.calls: dict[int, tuple[str, float, float]] = {}
        self.numbers = itertools.count(1)
        self.is_shielded = True  # in the main thread: no handler may raise, as it is not the cache that runs
        self._stalls = 0.0, math.inf
        """For how long this process has stood still, and since when the thread that notices sleeps."""
        self.starved_s = 0.0
        """For how long a thread of this process, the one that waited longest, had to wait for a processor."""
        self._starved: dict[str, int] = {}
        self.finalising_s: Counter[int] = Counter()
        """By thread, how long finalisers have taken that ran in it, in the middle of whatever it did."""
        self._looking = threading.Lock()
        self.is_limited = False
        self.main_call: int | None = None
        self.raised = 0
        self.swallowed: dict[int, list[str]] = {}
        """What the handler has raised and nobody has caught yet: where it struck, innermost first."""
        self.is_over = False
        self.is_done = False
        self.tasks_left: list[str] = []
        with Path(order["phase"]).open("rb") as file:
            self._phase = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
        self._said_hung: set[int] = set()
        self._late: dict[int, str] = {}
        """What all threads did when a call had taken too long already."""
        self._untold = False
        module: Any = sansio_cache_redis.sync if self.is_sync else sansio_cache_redis.anyio
        self.descriptors = open_descriptors()
        self.cache: Any = module.Cache.from_url(
            order["url"], namespace=order["namespace"], policy=POLICY, operation_timeout_s=OPERATION_S
        )
        self.facade: Any = Straight(self.cache) if self.is_sync else self.cache

    # The database.

    @property
    def phase(self) -> int:
        return self._phase[0]

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """What no handler may break off: what is not the cache's."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self.is_shielded = self.is_shielded, True
        try:
            yield
        finally:
            self.is_shielded = before

    def version(self, key: str) -> int:
        with self.shielded():
            return int(self.database.get(f"v:{key}") or 0)

    def commit(self, key: str) -> int:
        with self.shielded():
            return int(self.database.incr(f"v:{key}"))

    def value(self, key: str, version: int) -> dict[str, Any]:
        return {"key": key, "version": version}

    # What callers see.

    def seen(self, key: str, value: Any, began_s: float) -> None:
        with self.shielded():
            if self.mistake == mistakes.OF_ANOTHER and self.counts["get"] % 50 == 0:
                value = {**value, "key": "another"}
            if not (isinstance(value, dict) and value.get("key") == key):
                self.log.add(WRONG, f"{key} gave {value!r:.200}")
            else:
                self.log.add(READ, key, value["version"], began_s)

    def wrote(self, versions: dict[str, int]) -> None:
        """A write has returned: it is complete where nothing is left to tell the store."""
        with self.shielded():
            returned_s = time.monotonic()
            is_told = self.cache._coordinator.pending_invalidations == 0
            completed_s = time.monotonic() if is_told else None
            for key, version in versions.items():
                self.log.add(WRITTEN, key, version, returned_s, completed_s)
            self._untold |= not is_told

    def look_for_told(self) -> None:
        """What returned before now is complete, if nothing is pending any more."""
        now_s = time.monotonic()
        if self._untold and self.cache._coordinator.pending_invalidations == 0:
            self._untold = False
            self.log.add(TOLD, now_s, time.monotonic())

    # Operations.

    def loader(self, draw: random.Random) -> Callable[[str], Any]:
        """Loads one key; async where that can be, now and then."""
        pause_s = draw.choice([0.0] * 8 + [0.005, 0.05, LOADER_S])
        fails = draw.random() < 0.03

        def load(key: str) -> Any:
            version = self.version(key)
            time.sleep(pause_s)
            if fails:
                raise DatabaseError
            return self.value(key, version)

        async def load_in_loop(key: str) -> Any:
            version = self.version(key)
            await anyio.sleep(pause_s)
            if fails:
                raise DatabaseError
            return self.value(key, version)

        return load if self.is_sync or draw.random() < 0.2 else load_in_loop

    def loader_of_many(self, draw: random.Random) -> Callable[[list[str]], Any]:
        fails = draw.random() < 0.03

        def load(keys: list[str]) -> Any:
            found = {key: self.value(key, self.version(key)) for key in keys}
            if fails:
                raise DatabaseError
            return found

        return load

    def tags_of(self, key: str) -> dict[str, Any]:
        return {"tags": [TAG]} if key in TAGGED else {}

    async def operate(self, name: str, draw: random.Random) -> None:
        """One operation, and what was seen of it."""
        cache = self.facade
        match name:
            case "get":
                key, began_s = draw.choice(self.keys), time.monotonic()
                if self.mistake == mistakes.SLOW and draw.random() < 0.1:
                    self.pause(4 * too_long_s(name))  # so that it is too long on a busy machine as well
                if (value := await cache.get(key)) is not None:
                    self.seen(key, value, began_s)
            case "get_many":
                keys, began_s = draw.sample(self.keys, 4), time.monotonic()
                for key, value in (await cache.get_many(keys)).items():
                    self.seen(key, value, began_s)
            case "load":
                key, load = draw.choice(self.keys), self.loader(draw)
                began_s = time.monotonic()
                if self.mistake == mistakes.PLAIN_FILL:
                    value = await mistakes.load_and_fill(self, key)
                else:
                    value = await cache.get_or_load(key, partial(load, key), **self.tags_of(key))
                self.seen(key, value, began_s)
            case "load_many":
                group = draw.choice([SHARED, TAGGED, SWEPT, self.own or SHARED])
                keys = draw.sample(group, draw.randint(1, len(group)))
                began_s = time.monotonic()
                found = await cache.get_or_load_many(keys, self.loader_of_many(draw), **self.tags_of(keys[0]))
                for key, value in found.items():
                    self.seen(key, value, began_s)
            case _:
                await self.write(name, draw)

    async def write(self, name: str, draw: random.Random) -> None:
        """One operation that invalidates or stores."""
        match name:
            case "invalidate":
                await self.invalidate(draw.sample(SHARED, draw.randint(1, 2)))
            case "mutate":
                await self.mutate(draw)
            case "set":
                if self.own:
                    await self.set(draw.choice(self.own))
            case "tag":
                versions = {key: self.commit(key) for key in draw.sample(TAGGED, draw.randint(1, 3))}
                await self.facade.invalidate(tags=[TAG])
                self.wrote(versions)
            case "sweep":
                versions = {key: self.commit(key) for key in SWEPT}
                if (await self.facade.delete_pattern("p*")).complete:
                    self.wrote(versions)
            case "expire":
                await self.facade.expire(draw.choice(SHARED))

    async def invalidate(self, keys: list[str]) -> None:
        if self.mistake == mistakes.EARLY:
            await self.facade.invalidate(*keys)
            self.pause()
        versions = {key: self.commit(key) for key in keys}
        if self.mistake != mistakes.EARLY:
            await self.facade.invalidate(*keys)
        self.wrote(versions)

    async def mutate(self, draw: random.Random) -> None:
        keys = draw.sample(SHARED, draw.randint(1, 2))
        stored = draw.randint(0, len(keys))
        versions: dict[str, int] = {}
        try:
            async with self.facade.mutate(*keys) as mutation:
                if draw.random() < 0.1:
                    raise RolledBackError
                versions = {key: self.commit(key) for key in keys}
                for key in keys[:stored]:
                    mutation.set(key, self.value(key, versions[key]))
        except RolledBackError:
            return
        self.wrote(versions)

    async def set(self, key: str) -> None:
        """One writer at a time: of two that race the last one wins, and not the last commit."""
        lock, is_held = self.own_locks[key], False
        try:
            while not is_held:
                with self.shielded():  # or a handler that raises right behind it would leave it locked
                    is_held = lock.acquire(blocking=False)
                if not is_held:
                    await self.rest()
            version = self.commit(key)
            await self.facade.set(key, self.value(key, version))
            self.wrote({key: version})
        finally:
            if is_held:
                lock.release()

    # Callers.

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        number, began_s, stalled_s = next(self.numbers), time.monotonic(), self.stalled_s()
        starved_s, finalised_s = self.starved_s, self.finalising_s[threading.get_ident()]
        is_main = threading.current_thread() is threading.main_thread()
        self.calls[number] = (name, began_s, stalled_s)
        if is_main:
            self.main_call, self.is_shielded = number, False
        try:
            yield
        except DatabaseError:
            self.counts["loaders failed"] += 1
        except TimeLimitError:
            if self.mistake == mistakes.SWALLOWS:
                return
            if is_main:  # where it is another thread's copy of one of before, it is known by its number
                raise
            self.counts["shared a load that was broken off"] += 1
        except CacheError as error:
            if not self.is_over:
                self.log.add(WRONG, f"{name} raised {error!r:.300}")
                self.counts["raised"] += 1
        except Exception:
            self.log.add(WRONG, f"{name} raised {traceback.format_exc()[-3000:]}")
            self.counts["raised"] += 1
        finally:
            if is_main:
                self.is_shielded = True
            self.calls.pop(number, None)
            took_s = time.monotonic() - began_s - (self.stalled_s() - stalled_s)
            took_s -= self.finalising_s[threading.get_ident()] - finalised_s
            if took_s > too_long_s(name):
                self.look_at_processors()
                took_s -= self.starved_s - starved_s
            self.counts[name] += 1
            self.longest[name] = max(self.longest.get(name, 0.0), took_s)
            self.counts[f"late {name}"] += took_s > 1.2 * BUDGETS_S[name]
            stacks = self._late.pop(number, "")
            if took_s > too_long_s(name):
                self.log.add(HUNG, f"{name} took {took_s:.2f} s", stacks)

    def finalise(self, key: str) -> None:
        """What a finaliser does. Its time is its own, and not that of the call in which the collector ran."""
        thread, began_s, stalled_s = threading.get_ident(), time.monotonic(), self.stalled_s()
        before_s = self.finalising_s[thread]
        try:
            self.cache.invalidate(key)
        finally:
            with self.shielded():
                took_s = time.monotonic() - began_s - (self.stalled_s() - stalled_s)
                self.finalising_s[thread] = before_s + took_s  # with those that ran in this one
                if took_s > too_long_s("invalidate"):
                    self.log.add(HUNG, f"invalidate in a finaliser took {took_s:.2f} s", "")

    def chosen(self, draw: random.Random) -> str:
        return draw.choice(CHOICES)

    async def call(self, draw: random.Random) -> None:
        """One call of one caller."""
        name = self.chosen(draw)
        with self.watched(name):
            if not self.is_sync and draw.random() < 0.1 and self.may("cancelled"):
                with anyio.move_on_after(draw.random() * 0.02) as scope:
                    await self.operate(name, draw)
                self.counts["cancelled"] += scope.cancelled_caught
            else:
                await self.operate(name, draw)

    async def rest(self) -> None:
        """Let other callers run."""
        if self.is_sync:
            self.pause()
        else:
            await anyio.sleep(0.005)

    def pause(self, seconds: float = 0.005) -> None:
        """What takes its time, in front of everybody."""
        time.sleep(seconds)

    def may(self, what: str) -> bool:
        """Whether that may happen inside this process."""
        return what not in self.order["without"]

    def draw_of(self, caller: int) -> random.Random:
        return random.Random(f"{self.order['seed']}:{self.slot}:{caller}:{os.getpid()}")

    def rest_s(self, draw: random.Random) -> float:
        return draw.random() * self.order["pause_s"]

    def call_on_a_thread(self, caller: int) -> None:
        draw = self.draw_of(caller)
        is_main = threading.current_thread() is threading.main_thread()
        while self.phase != Phase.STOP and not self.is_over:
            if self.phase == Phase.QUIET:
                time.sleep(0.01)
                continue
            if is_main and draw.random() < 0.2 and self.may("handlers"):
                self.call_with_a_limit(draw)
            else:
                straight(self.call(draw))
            if draw.random() < 0.02 and self.may("finalisers"):
                Finaliser(partial(self.finalise, draw.choice(self.keys)))
                self.counts["finalisers"] += 1
            time.sleep(self.rest_s(draw))

    def call_with_a_limit(self, draw: random.Random) -> None:
        """A call whose time is limited by a signal, whose handler raises."""
        try:
            try:
                self.is_limited = True
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0001, 0.005))
                straight(self.call(draw))
            finally:
                self.is_limited = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeLimitError as error:
            self.swallowed.pop(error.args[0], None)
            self.is_limited = False
            self.is_shielded = True
            self.calls.pop(self.main_call or 0, None)

    def on_alarm(self, _: int, frame: FrameType | None) -> None:
        if not self.is_limited:
            return
        if self.is_shielded:
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            return
        self.raised += 1
        self.counts["a handler raised"] += 1
        self.swallowed[self.raised] = list(islice(frames_from(frame), 12))
        raise TimeLimitError(self.raised)

    def on_unraisable(self, unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, TimeLimitError):  # in a finaliser: Python drops what those raise
            self.swallowed.pop(unraisable.exc_value.args[0], None)
        elif unraisable.object is None and isinstance(unraisable.exc_value, OSError):
            # Trio closes the socket that signals wake it by before it tells Python not to write to it.
            self.counts["signals as a loop ended"] += 1
        elif not (self.is_over and isinstance(unraisable.exc_value, CacheError)):
            said = "".join(traceback.format_exception(unraisable.exc_value))
            self.log.add(WRONG, f"unraisable in {unraisable.object!r:.200}: {said[-2000:]}")

    def on_thread_ended(self, args: Any) -> None:
        said = "".join(traceback.format_exception(args.exc_value))
        self.log.add(WRONG, f"the thread {args.thread} ended: {said[-2000:]}")

    def on_usr1(self, *_: object) -> None:
        self.counts["SIGUSR1"] += 1

    def on_term(self, *_: object) -> None:
        self.is_over = True
        self.cache.close()
        self.counts["closed in a handler"] += 1

    async def call_in_a_loop(self, caller: int) -> None:
        draw = self.draw_of(caller)
        while self.phase != Phase.STOP:
            if self.phase == Phase.QUIET:
                await anyio.sleep(0.01)
                continue
            await self.call(draw)
            await anyio.sleep(self.rest_s(draw))

    def call_in_a_loop_of_its_own(self, caller: int) -> None:
        anyio.run(self.call_in_a_loop, caller, backend="trio" if caller % 3 == 2 else "asyncio")

    def call_in_many_loops(self, caller: int) -> None:
        draw = self.draw_of(caller)
        while self.phase != Phase.STOP:
            if self.phase == Phase.QUIET:
                time.sleep(0.01)
                coordinator = self.cache._coordinator
                if caller == 0 and (coordinator.pending_invalidations or coordinator.is_out):
                    # There is no loop in which it could be told, or asked: that is the next call's to do.
                    anyio.run(self.cache.get, "nothing")
                continue
            anyio.run(self.call, draw, backend=draw.choice(["asyncio", "trio"]))
            self.counts["loops that ended"] += 1
            time.sleep(self.rest_s(draw))

    # What is counted, and what is left.

    def report(self) -> None:
        stats = self.cache.stats()
        counts = {
            **self.counts,
            "hits": stats.redis_hits,
            "raised by handlers": self.raised,
            "resident MiB": int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE // 2**20,
        }
        self.log.add(COUNTS, {name: count for name, count in counts.items() if count}, self.longest)

    def left(self) -> dict[str, Any]:
        coordinator = self.cache._coordinator
        return {
            "loads": len(coordinator.single_flight),
            "pending": coordinator.pending_invalidations,
            "out": int(coordinator.is_out),
            "calls": len(self.calls),
            "swallowed": list(self.swallowed.values()),
            "threads": running_threads(),
            "descriptors": len(open_descriptors()),
        }

    def threads_of_the_cache(self) -> list[str]:
        """Those that are neither of this program nor idle ones of an event loop."""
        ours = ("MainThread", "watcher", "AnyIO", "Trio thread")
        return [name for name in running_threads() if not name.startswith(ours)]

    def stalled_s(self) -> float:
        """For how long this process has stood still so far, or had no processor.

        Others may run before the thread that notices: what it is about to notice counts. It does nothing
        else, so that it sleeps whenever the process is stopped.
        """
        return self._stalled_at(time.monotonic())

    def _stalled_at(self, now_s: float) -> float:
        stalled_s, looked_s = self._stalls
        over_s = now_s - looked_s - LOOK_S
        return stalled_s + (over_s if over_s > STALL_S else 0.0)

    def watch_for_stalls(self) -> None:
        """Notice when the process stands still, wherever in this loop it is stopped."""
        self._stalls = self._stalls[0], time.monotonic()
        while not self.is_done:
            time.sleep(LOOK_S)
            now_s = time.monotonic()
            self._stalls = self._stalled_at(now_s), now_s

    def look_at_processors(self) -> None:
        """Take in how long threads have waited for a processor, where the system says so."""
        with self._looking:
            before, self._starved = self._starved, {}
            for thread in Path("/proc/self/task").glob("*"):
                with suppress(OSError, IndexError):
                    self._starved[thread.name] = int((thread / "schedstat").read_text().split()[1])
            waited_ns = [waited - before.get(thread, 0) for thread, waited in self._starved.items()]
            self.starved_s += max(waited_ns, default=0) / 1e9

    def watch(self) -> None:
        """Look for calls that do not end; say now and then what was counted, and what is left when quiet."""
        quiet_since_s: float | None = None
        looks = itertools.count()
        while not self.is_done:
            time.sleep(10 * LOOK_S)
            now_s = time.monotonic()
            self.look_at_processors()
            self.look_for_told()
            for number, (name, began_s, stalled_s) in list(self.calls.items()):
                if now_s - began_s > HUNG_S and number not in self._said_hung:
                    self._said_hung.add(number)
                    self.log.add(HUNG, f"{name} for {now_s - began_s:.0f} s", self.stacks())
                took_s = now_s - began_s - (self.stalled_s() - stalled_s)
                if took_s > too_long_s(name) and number not in self._late:
                    self._late[number] = self.stacks()
                    if number not in self.calls:
                        self._late.pop(number, None)
            if next(looks) % 4 == 0:
                self.report()
            if self.phase != Phase.QUIET:
                quiet_since_s = None
            elif quiet_since_s is None:
                quiet_since_s = now_s
                if self.mistake == mistakes.KEEPS_A_LEASE:
                    mistakes.keep_a_lease(self)
            elif now_s - quiet_since_s > 1.0:
                self.log.add(LEFT, self.left())

    def stacks(self) -> str:
        if self.order["runtime"] == "forked":
            return " (of a process that was forked in C it cannot be looked at)"
        found = ""
        for thread, frame in sys._current_frames().items():
            found += f"\nthread {thread:x}, last call first:\n" + "\n".join(frames_from(frame))
        if loop := getattr(self, "loop", None):
            for task in asyncio.all_tasks(loop):
                found += f"\n{task.get_name()}: " + "".join(map(str, task.get_stack()))
        return found[:20_000]

    def run(self) -> None:
        watchers = [
            threading.Thread(target=watch, name="watcher", daemon=True)
            for watch in (self.watch, self.watch_for_stalls)
        ]
        for watcher in watchers:
            watcher.start()
        if self.is_sync:
            self.run_threads(self.call_on_a_thread)
            if not self.is_over:
                self.cache.close()
        elif self.runtime == "per call":
            self.run_threads(self.call_in_many_loops)
            anyio.run(self.cache.aclose)
        elif self.runtime == "loops":
            self.run_threads(self.call_in_a_loop_of_its_own)
            anyio.run(self.cache.aclose)
        else:
            anyio.run(self.run_tasks, backend=self.runtime)
        self.is_done = True
        for watcher in watchers:
            watcher.join()
        self.report()
        gc.collect()
        self.database.close()
        self.server.close()
        deadline_s = time.monotonic() + ENDING_S
        while self.threads_of_the_cache() and time.monotonic() < deadline_s:
            time.sleep(0.05)  # one that connects is over when its time-out is
        left: dict[str, Any] = {"threads": self.threads_of_the_cache()}
        if left["threads"] and self.runtime != "forked":  # there, to look at frames may end the process
            left["where"] = self.stacks()
        now_open = open_descriptors()
        left["descriptors"] = [now_open[each] for each in sorted({*now_open} - {*self.descriptors})]
        self.log.add(ENDED, {**left, "tasks": self.tasks_left})

    def run_threads(self, call: Callable[[int], None]) -> None:
        """The first caller is the main thread, which is the one that signals interrupt."""
        threads = [
            threading.Thread(target=call, args=(number,)) for number in range(1, self.order["callers"])
        ]
        for thread in threads:
            thread.start()
        call(0)
        for thread in threads:
            thread.join()

    async def run_tasks(self) -> None:
        if self.runtime == "asyncio":
            self.loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            for number in range(self.order["callers"]):
                group.start_soon(self.call_in_a_loop, number)
        await self.cache.aclose()
        await anyio.sleep(0.05)
        if self.runtime == "asyncio":
            mine = asyncio.current_task()
            self.tasks_left = [repr(task) for task in asyncio.all_tasks() if task is not mine]


def main() -> None:
    order = json.loads(sys.argv[1])
    logging.disable()
    faulthandler.enable()
    # Asked by the conductor, where this process does not end; open as long as the process runs.
    stacks = Path(order["stacks"]).open("ab")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR2, stacks)
    mistakes.prepare(order["mistake"], order)
    process = Process(order)
    if order["runtime"] == "forked":
        with process.watched("load"):
            process.cache.get_or_load("m0", lambda: process.value("m0", process.version("m0")))
        if ctypes.PyDLL(None).fork() == 0:
            # As uWSGI does it: none of Python's hooks has run.
            process.log = Log(order["log"].replace(".log", "-child.log"))
            process.descriptors[str(process.log.file)] = "the new log"
            process.counts.clear()
            process.own = []  # each key has one process that sets it
    if process.is_sync:
        signal.signal(signal.SIGALRM, process.on_alarm)
        signal.signal(signal.SIGTERM, process.on_term)
    signal.signal(signal.SIGUSR1, process.on_usr1)
    sys.unraisablehook = process.on_unraisable
    threading.excepthook = process.on_thread_ended
    process.log.add(COUNTS, {"began": 1, "pid": os.getpid()}, {})
    process.run()


if __name__ == "__main__":
    main()
