"""Callers on threads, asyncio and trio, each with a cache of its own, on one cluster and one database.

All of them read and write while something happens to the cluster. What they were given is held to S1 in the
end, by the checker of the core: a value that anybody has stored is judged against the writes of everybody.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final

import anyio
import attrs

from sansio_cache.exploring.history import History, Read, Violation, Write
from sansio_cache_redis import anyio as cache_anyio
from sansio_cache_redis import sync as cache_sync
from support.clusters import ClusterServers, slot_of
from support.runtimes import RUNTIMES, CacheUnderTest
from support.servers import wait_until

PATIENCE_S: Final = 60.0
"""Bounds failures only."""
PAUSE_S: Final = 0.002
"""The longest pause of a caller between two calls."""
GROUP: Final = "group"
"""The tag of what is tagged."""

MakeOptions = Callable[[str], Mapping[str, Any]]
"""By the name of a runtime, what its cache is made with: `url`, and more."""


@attrs.frozen
class Look:
    """A look at a value that nobody writes: when it began and ended, on whose keys, whether it was there."""

    began_s: float
    ended_s: float
    shard: int
    is_hit: bool


class Database:
    """The rows, and their versions in the order of their commits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: Counter[str] = Counter()

    def commit(self, *keys: str) -> int:
        """Write rows, in one transaction; the version that all of them have then."""
        with self._lock:
            version = max(self._rows[key] for key in keys) + 1
            self._rows.update({key: version - self._rows[key] for key in keys})
            return version

    def version(self, key: str) -> int:
        """What a loader finds."""
        return self._rows[key]


class Keys:
    """What is read and written, by the place of the primary that has it as the cluster was made."""

    def __init__(self, servers: ClusterServers, namespace: str) -> None:
        def some(place: int, prefix: str, count: int) -> list[str]:
            found = servers.keys_on(servers.primaries[place], namespace, prefix)
            return [next(found) for _ in range(count)]

        places = range(len(servers.primaries))
        self.kept = [some(place, "kept:", 5) for place in places]
        """What nobody writes."""
        self.shared = [key for place in places for key in some(place, "shared:", 2)]
        """What all invalidate, or mutate."""
        self.tagged = [key for place in places for key in some(place, "tagged:", 1)]
        """What is invalidated by a tag, which is at one of the places."""
        self.rare = [some(place, "rare:", 2) for place in places]
        """What is invalidated once in a while, by one of them."""
        self.own = {
            runtime: [key for place in places for key in some(place, f"{runtime}:", 1)]
            for runtime in RUNTIMES
        }
        """What one runtime alone writes, with `set`."""

    @property
    def all(self) -> list[str]:
        """All that is written."""
        several = (*self.rare, *self.own.values())
        return [*self.shared, *self.tagged, *(key for keys in several for key in keys)]


class Member:
    """The callers of one cache, and what they have seen."""

    def __init__(self, runtime: str, keys: Keys, database: Database, writes: bool, is_mistaken: bool) -> None:
        self.runtime = runtime
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.looks: list[Look] = []
        self.errors: list[BaseException] = []
        self.is_over = False
        self.is_writing = writes
        self.due: list[str] = []
        """What it is to invalidate next."""
        self.cache: CacheUnderTest
        self._keys = keys
        self._database = database
        self._untold: list[Write] = []
        self._is_mistaken = is_mistaken
        self._draw = random.Random(runtime)

    async def live(self, options: Mapping[str, Any], namespace: str) -> None:
        """Call, until it is over."""
        is_sync = self.runtime == "sync"
        kind: Any = cache_sync.Cache if is_sync else cache_anyio.Cache
        made = kind.from_url(**options, namespace=namespace)
        self.cache = CacheUnderTest(made, is_sync=is_sync)
        async with aclosing(self.cache), anyio.create_task_group() as tasks:
            for act in (self._read, self._read, self._look, self._write):
                tasks.start_soon(self._repeat, act)

    async def _repeat(self, act: Callable[[], Any]) -> None:
        while not self.is_over:
            try:
                await act()
            except Exception as error:
                self.errors.append(error)
            self._tell()
            await anyio.sleep(self._draw.random() * PAUSE_S)

    async def _read(self) -> None:
        began_s = time.monotonic()
        if self._draw.random() < 0.2:
            keys = self._draw.sample(self._keys.shared, 4)
            found = await self.cache.get_or_load_many(
                keys, lambda missed: {key: self._database.version(key) for key in missed}
            )
        else:
            key = self._draw.choice(self._keys.all)
            tags = [GROUP] if key in self._keys.tagged else []
            found = {key: await self.cache.get_or_load(key, self._database.version, key, tags=tags)}
        self.reads += [Read(self.runtime, key, version, began_s) for key, version in found.items()]

    async def _look(self) -> None:
        shard = self._draw.randrange(len(self._keys.kept))
        key = self._draw.choice(self._keys.kept[shard])
        began_s = time.monotonic()
        found = await self.cache.get(key)
        self.looks.append(Look(began_s, time.monotonic(), shard, found is not None))
        if found is None:
            await self.cache.get_or_load(key, lambda: 0)

    async def _write(self) -> None:
        if not self.is_writing:
            return
        choice = self._draw.random()
        if self.due:
            keys = self.due
            version = self._database.commit(*keys)
            await self.cache.invalidate(*keys)
            self.due = []
        elif choice < 0.2:
            keys = self._keys.tagged
            version = self._database.commit(*keys)
            await self.cache.invalidate(tags=[GROUP])
        elif choice < 0.4:
            keys = [self._draw.choice(self._keys.own[self.runtime])]
            version = self._database.commit(*keys)
            await self.cache.set(keys[0], version)
        elif choice < 0.6:
            keys = [self._draw.choice(self._keys.shared)]
            async with self.cache.mutate(*keys):
                version = self._database.commit(*keys)
        elif self._is_mistaken:
            keys = [self._draw.choice(self._keys.shared)]
            await self.cache.invalidate(*keys)
            await anyio.sleep(self._draw.random() * PAUSE_S)
            version = self._database.commit(*keys)
        else:
            keys = [self._draw.choice(self._keys.shared)]
            version = self._database.commit(*keys)
            await self.cache.invalidate(*keys)
        returned_s = time.monotonic()
        self._untold += [Write(self.runtime, key, version, returned_s, None) for key in keys]

    def _tell(self) -> None:
        """What had returned before nothing was pending, the store has been told of."""
        before_s = time.monotonic()
        if self.cache.cache._coordinator.pending_invalidations:
            return
        told_s = time.monotonic()
        told = [write for write in self._untold if write.returned_s < before_s]
        self._untold = [write for write in self._untold if write.returned_s >= before_s]
        self.writes += [attrs.evolve(write, completed_s=told_s) for write in told]

    def note_in(self, history: History) -> None:
        """Tell of all writes: those that nobody was told of hold for their own process."""
        for write in (*self.writes, *self._untold):
            history.note(write)


class Community:
    """The callers of all runtimes.

    Args:
        servers: The cluster.
        namespace: Of the keys.
        options: What each cache is made with.
        readers: Runtimes that write nothing.
        is_mistaken: Whether they tell the cache before they commit.
    """

    def __init__(
        self,
        servers: ClusterServers,
        namespace: str,
        options: MakeOptions,
        readers: tuple[str, ...] = (),
        is_mistaken: bool = False,
    ) -> None:
        self.keys = Keys(servers, namespace)
        self._servers = servers
        self._namespace = namespace
        self._options = options
        database = Database()
        self.members = {
            runtime: Member(runtime, self.keys, database, runtime not in readers, is_mistaken)
            for runtime in RUNTIMES
        }
        self._crashes: list[BaseException] = []

    def slots_of(self, place: int) -> list[int]:
        """The slots of the keys of one of the shards, as the cluster was made."""
        primary = self._servers.primaries[place]
        full = [f"{self._namespace}:{key}" for key in (*self.keys.kept[place], *self.keys.all)]
        return sorted({slot_of(key) for key in full if self._servers.owner_of(key) is primary})

    @contextmanager
    def living(self) -> Iterator[None]:
        """They call in the block. It begins, and ends, when all of them have found what is kept."""
        threads = [threading.Thread(target=self._run, args=[member]) for member in self.members.values()]
        for each in threads:
            each.start()
        try:
            self.come_back()
            yield
            self.come_back()
        finally:
            for member in self.members.values():
                member.is_over = True
            for each in threads:
                each.join()
        assert not self._crashes, self._crashes

    def _run(self, member: Member) -> None:
        backend = "trio" if member.runtime == "trio" else "asyncio"
        try:
            anyio.run(member.live, self._options(member.runtime), self._namespace, backend=backend)
        except BaseException as error:
            self._crashes.append(error)

    def come_back(self) -> None:
        """Wait until each of them has found what is kept of every shard, in looks that begin now or later."""
        began_s = time.monotonic()
        shards = set(range(len(self.keys.kept)))

        def is_back(member: Member) -> bool:
            looks = reversed(list(member.looks))
            return shards <= {each.shard for each in looks if each.is_hit and each.began_s >= began_s}

        try:
            wait_until(
                lambda: self._crashes or all(map(is_back, self.members.values())), timeout_s=PATIENCE_S
            )
        except TimeoutError as error:
            raise TimeoutError(
                {name: Counter(map(repr, each.errors)) for name, each in self.members.items()}
            ) from error

    def go_on(self, count: int = 60) -> None:
        """Wait until each of them has read so many more values."""
        before = {name: len(member.reads) for name, member in self.members.items()}
        wait_until(
            lambda: (
                self._crashes
                or all(len(member.reads) - before[name] >= count for name, member in self.members.items())
            ),
            timeout_s=PATIENCE_S,
        )

    def write_rare(self, place: int, runtime: str = RUNTIMES[0]) -> None:
        """Have one of them invalidate what is written rarely, of one shard; and wait until it has."""
        member = self.members[runtime]
        member.due = self.keys.rare[place]
        wait_until(lambda: self._crashes or not member.due, timeout_s=PATIENCE_S)

    # What they have seen.

    @property
    def errors(self) -> list[str]:
        """What callers have seen raised."""
        return [f"{name}: {error!r}" for name, each in self.members.items() for error in each.errors]

    @property
    def reads(self) -> int:
        """How many values were read."""
        return sum(len(member.reads) for member in self.members.values())

    def stale(self) -> list[Violation]:
        """The reads that were given what was too old."""
        history = History()
        reads = [read for member in self.members.values() for read in list(member.reads)]
        for member in self.members.values():  # they go on: what they have written before they read is there
            member.note_in(history)
        found = (history.judge(read) for read in reads)
        return [each for each in found if each is not None]

    def hits(self, shards: set[int], runtimes: Sequence[str], since_s: float, until_s: float) -> float:
        """The share of hits among looks at what is kept: on some shards, of some runtimes, in some time."""
        looks = [
            look.is_hit
            for runtime in runtimes
            for look in self.members[runtime].looks
            if look.shard in shards and since_s <= look.began_s <= until_s
        ]
        return sum(looks) / len(looks) if looks else 1.0

    def first_hits_s(self, shard: int, since_s: float) -> dict[str, float]:
        """How long after a moment each has found something of a shard again, in a look that began later."""
        found = {}
        for name, member in self.members.items():
            with suppress(StopIteration):
                hit = next(
                    look
                    for look in member.looks
                    if look.shard == shard and look.is_hit and look.began_s >= since_s
                )
                found[name] = hit.ended_s - since_s
        return found
