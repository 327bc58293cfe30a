"""Write-behind in a simulation: writers who queue, consumers who apply, and what must come of it.

There are two queues. In one a write is tried for ever: its rows are read as all others are, and what a reader
is given is held to S1. In the other a write that has failed twice is a letter, which somebody queues anew or
drops: of these rows it is only looked that no write is lost.

*What is right* (S8). A write that was acknowledged is in the database, or in its partition, or a letter, or
was dropped. The database refuses a lower token than it has, and what it takes is no older than what it had.
Once all is over, it has the write that was acknowledged last.

A server that loses what it had, loses what was queued there: that is documented, and nothing that was
acknowledged before is held against it afterwards. Which write is the last is then the queue's to say. Where
its clock is behind as well, it may issue a token anew, and that write is taken for the one that was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs

from sansio_cache.cell import NONCE_BYTES
from sansio_cache.commands import Compute, ComputeMany, DropLetters, MeasureQueue, PeekEntries, ReadLetters
from sansio_cache.entry import seal
from sansio_cache.events import Computed, ComputeFailed, EntriesFound
from sansio_cache.exploring.configuration import CODEC, TIMEOUTS
from sansio_cache.exploring.queue_world import value_of
from sansio_cache.exploring.running import LOADER_ERROR
from sansio_cache.exploring.simulating.callers import Caller
from sansio_cache.exploring.simulating.calls import Calls
from sansio_cache.exploring.simulating.client import Client, Loader, Running
from sansio_cache.exploring.simulating.faults import SimulatedFault
from sansio_cache.exploring.simulating.loaders import LOAD_S, SLOW_LOAD_S, RowLoader, Shared
from sansio_cache.exploring.simulating.oracle import Liveness, Violated
from sansio_cache.exploring.simulating.probing import TRIPS_S, Asked, Probing, Process, version_of
from sansio_cache.exploring.simulating.rows import LEASE_S, WAIT_S, Row
from sansio_cache.exploring.simulating.server import Server
from sansio_cache.operations.batching import Failing
from sansio_cache.operations.consume import consume
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.operations.queue import Question, ask
from sansio_cache.queue_rules import Partition
from sansio_cache.queues import Turn, TurnEnd, place_of, root_of
from sansio_cache.step import Outcome, QueueAnswered, Queued, Step

MOST: Final = 4
"""How many entries a partition may hold: few, so that writers wait for room."""
REST_S: Final = 0.05


@attrs.frozen(eq=False)
class Queue:
    """A queue, and the rows that are written by way of it.

    Args:
        name: Its name.
        rows: What is queued there.
        partitions: How many it has.
        deliveries: After how many failures a write is a letter; None where it never is.
    """

    name: str
    rows: tuple[Row, ...]
    partitions: int
    deliveries: int | None = None

    @property
    def roots(self) -> tuple[str, ...]:
        """What the keys of each partition begin with."""
        return tuple(root_of("n:", self.name, place) for place in range(self.partitions))

    def root(self, key: str) -> str:
        """That of the partition of a key."""
        return self.roots[place_of(key, self.partitions)]


LASTING: Final = Queue("q", tuple(Row(f"n:queued:{number}") for number in range(3)), partitions=2)
MORTAL: Final = Queue("d", (Row("n:mortal"),), partitions=1, deliveries=2)
QUEUES: Final = (LASTING, MORTAL)


@attrs.frozen
class Queueing:
    """Which machines and rules there are, or wrong ones.

    Args:
        enqueue: Begins to queue.
        replay: Begins to queue a letter anew.
        consume: Begins a consumer.
        partition: The rules of the store.
        fences: Whether the database refuses a lower token than it has.
    """

    enqueue: Callable[..., Step] = enqueue
    replay: Callable[[ReplayRequest], Step] = replay
    consume: Callable[[ConsumeRequest], Step] = consume
    partition: type[Partition] = Partition
    fences: bool = True


def empty_queues(queueing: Queueing) -> dict[str, Partition]:
    """The partitions of all queues, where nothing was queued yet."""
    return {root: queueing.partition() for queue in QUEUES for root in queue.roots}


@attrs.define
class _Applied:
    """What the database has of a row."""

    version: int = 0
    token: int = 0
    losses: int = 0
    """How often the server had lost what it had by the time that the write was begun."""


@attrs.define(eq=False)
class Ledger:
    """What was acknowledged, and what the database has.

    Args:
        shared: The world.
        fences: Whether the database refuses a lower token than it has.
    """

    shared: Shared
    fences: bool = True
    losses: int = 0
    """How often the server has lost what it had."""
    mistaken: set[int] = attrs.field(factory=set)
    """The versions that the database has taken for others, of whose token it had one already."""
    _begun: dict[int, int] = attrs.field(factory=dict)
    """How often it had when each version was to be written: who has that in hand may write it afterwards."""
    _acknowledged: dict[str, list[tuple[int, int]]] = attrs.field(factory=dict)
    """The versions of each row whose writes are, with their tokens."""
    _applied: dict[str, _Applied] = attrs.field(factory=dict)
    _dropped: dict[str, int] = attrs.field(factory=dict)
    """The newest token of each row that somebody wanted to be dropped."""

    def __attrs_post_init__(self) -> None:
        self.shared.database.versions |= {row.key: 0 for queue in QUEUES for row in queue.rows}

    def lose(self) -> None:
        """The server has lost what it had: nothing that was queued there counts any more."""
        self.losses += 1
        self._acknowledged.clear()
        for queue in QUEUES:
            for row in queue.rows:
                self.shared.oracle.forget_key(row.key)

    def begin(self, version: int) -> None:
        """A version is to be written."""
        self._begun[version] = self.losses

    def acknowledge(self, key: str, version: int, token: int) -> None:
        """A writer was told that its write is queued."""
        self._acknowledged.setdefault(key, []).append((version, token))

    def drop(self, key: str, token: int) -> None:
        """Somebody wants a letter to be dropped."""
        self._dropped[key] = max(token, self._dropped.get(key, 0))

    def apply(self, key: str, version: int, token: int) -> int:
        """Write a row, unless it has a higher token: that token then, or 0.

        Raises:
            Violated: What it had was newer.
        """
        applied = self._applied.setdefault(key, _Applied())
        # A server that has lost all issues tokens again: those of its new writes may be those of lost ones.
        is_anothers = token == applied.token and version != applied.version
        if (token < applied.token or is_anothers) and self.fences:
            if is_anothers and self._begun[version] > applied.losses:
                self._mistake(key, version)
            return applied.token
        # What a consumer had in hand as the server lost it comes late, and the newer is applied after it.
        is_of_now = self._begun[version] == self.losses
        # What the writer of a write had seen acknowledged, that write is newer than.
        newer = [each for each, its in self._acknowledged.get(key, ()) if each > version and its < token]
        if is_of_now and (newer or (version < applied.version and applied.losses == self.losses)):
            seen = f"version {version} with token {token} is written over {applied}, acknowledged {newer}"
            raise Violated(Liveness.QUEUED, seen, key)
        self._applied[key] = _Applied(version, token, self._begun[version])
        self.shared.database.versions[key] = version
        return 0

    def _mistake(self, key: str, version: int) -> None:
        """The database takes a write for one that it has, whose token a server that has lost it issued anew.

        So it is documented, of a server whose clock is behind what it had issued.
        """
        self.mistaken.add(version)
        self._acknowledged.pop(key, None)
        self.shared.oracle.forget_key(key)

    def check(self, server: Server) -> None:
        """Look whether each write is somewhere.

        Raises:
            Violated: One is nowhere.
        """
        for queue in QUEUES:
            for row in queue.rows:
                partition = partition_of(server, queue, row.key)
                for version, token in self._acknowledged.get(row.key, ()):
                    kept = (each.token for each in (*partition.entries.values(), *partition.letters.values()))
                    applied = self._applied.get(row.key, _Applied())
                    last = max(applied.token, self._dropped.get(row.key, 0), *kept)
                    is_older = queue is LASTING and expected(self.shared, row.key) < version
                    if last < token or is_older:
                        seen = f"version {version} with token {token} is nowhere: {applied}, {partition}"
                        raise Violated(Liveness.QUEUED, seen, row.key)

    def is_drained(self, queue: Queue) -> bool:
        """Whether nothing is queued there."""
        queues = self.shared.server.store.queues
        return not any(queues[root].entries for root in queue.roots if root in queues)


def partition_of(server: Server, queue: Queue, key: str) -> Partition:
    """Where the writes of a row are queued."""
    return server.store.queues.get(queue.root(key), Partition())


def expected(shared: Shared, key: str) -> int:
    """What a reader is given when all is over: the newest entry of a lasting row, or the database's."""
    partition = partition_of(shared.server, LASTING, key)
    entry = partition.entries.get(partition.pending.get(key, (0, b""))[0])
    return shared.database.versions[key] if entry is None else value_of(entry)


@attrs.define(eq=False)
class QueuedLoader(RowLoader):
    """Asks the queue for the newest entry first, and looks at the database where there is none."""

    def begin(self, running: Running, command: Compute | ComputeMany) -> None:
        """Begin to load."""
        assert isinstance(command, Compute)
        client, key = running.client, command.key
        running.looked_under = frozenset(running.told)
        question = PeekEntries(LASTING.root(key), (key,), 1.0, LASTING.partitions)
        peek = ask(question, TIMEOUTS, client.now_s)
        client.start(peek, partial(self._found, running, running.turn, command))

    def _found(self, running: Running, turn: int, command: Compute, _: Running, outcome: Outcome) -> None:
        client = running.client
        if running.turn != turn or running.is_over:
            return  # it was cancelled
        if not isinstance(outcome, QueueAnswered):  # it cannot say, and its caller is told so
            running.has_failed = True
            client.answer(running, turn, ComputeFailed(client.now_s, LOADER_ERROR))
            return
        assert isinstance(outcome.answer, EntriesFound)
        (entry,) = outcome.answer.entries
        if entry is None:
            RowLoader.begin(self, running, command)
        else:
            client.answer(running, turn, Computed(client.now_s, value_of(entry)))


@attrs.define(eq=False)
class Writing(Caller):
    """Queues writes, reads what is queued, and sees to letters."""

    ledger: Ledger = attrs.field(kw_only=True)
    queueing: Queueing = attrs.field(kw_only=True)

    def next(self) -> None:
        """Do something; and something else after that."""
        if self.shared.is_ending:
            self.is_idle = True
            return
        self._note_beginning()
        chance = self.shared.random.random()
        if chance < 0.35:
            self.write()
        elif chance < 0.75:
            self.load_queued()
        elif chance < 0.9:
            row = self._any(LASTING.rows[1:])
            self.start(self.calls.get(row, CODEC), partial(self._judge_one, "get", row.key))
        elif chance < 0.95:
            self.measure()
        else:
            self.letters()

    def loader(self, row: Row) -> RowLoader:  # noqa: ARG002 - one for all rows
        """What it gives with a read of a row."""
        return QueuedLoader(self.shared, self.calls)

    def load_queued(self) -> None:
        """Get or load."""
        row = self._any(LASTING.rows)
        then = partial(self._judge_one, "get_or_load of what is queued", row.key)
        self.start(self.calls.load(row, CODEC), then, row, judges=True)

    def write(self) -> None:
        """Leave a write to the queue; alone, so that of two the later one is known."""
        queue = QUEUES[self.shared.random.random() < 0.3]
        row = self._any(queue.rows)
        if not self.may_write((row,), alone=True):
            self.pause()
            return
        database, ledger = self.shared.database, self.ledger
        version, losses = database.number(), ledger.losses
        ledger.begin(version)
        self.shared.say(f"{self.client.name}: is to write {version}", row.key)
        item = QueuedItem(row.key, seal(row.key, CODEC, CODEC.encode(version).payload, 0.0))
        random = self.shared.random
        nonce, seed = random.randbytes(NONCE_BYTES), random.randrange(2**32)
        limits = round(LEASE_S * 1000), MOST, queue.partitions, WAIT_S
        times = TIMEOUTS, self.client.now_s
        request = EnqueueRequest(queue.root(row.key), (item,), (), nonce, seed, *limits, *times)

        def then(running: Running, outcome: Outcome) -> None:
            self.end_write()
            if isinstance(outcome, Queued) and losses == ledger.losses and version not in ledger.mistaken:
                ledger.acknowledge(row.key, version, outcome.tokens[0])
                if queue.deliveries is None:
                    self.tell("enqueue", (row,), version, running)
            self.done("enqueue" if isinstance(outcome, Queued) else "enqueue in vain")

        self.start(self.queueing.enqueue(request, skip=self.client.coordinator.skip_write((row.key,))), then)

    def measure(self) -> None:
        """Look how much is queued."""
        queue = QUEUES[self.shared.random.randrange(len(QUEUES))]
        self._ask(MeasureQueue(self._root(queue), 1.0, queue.partitions), "measure a queue")

    def _root(self, queue: Queue) -> str:
        return queue.roots[self.shared.random.randrange(queue.partitions)]

    def _ask(self, question: Question, name: str) -> None:
        self.start(ask(question, TIMEOUTS, self.client.now_s), partial(self._looked, name))

    def letters(self) -> None:
        """Look for the first letter, and queue it anew, or drop it."""
        question = ReadLetters(MORTAL.roots[0], 0, 1, 1.0)
        self.start(ask(question, TIMEOUTS, self.client.now_s), self._see_to)

    def _see_to(self, _: Running, outcome: Outcome) -> None:
        found = outcome.answer if isinstance(outcome, QueueAnswered) else None
        if not (isinstance(found, EntriesFound) and found.entries):
            self.done("letters: none")
            return
        (letter,) = found.entries
        assert letter is not None
        root, random = MORTAL.roots[0], self.shared.random
        if letter.is_superseded or random.random() < 0.2:
            self.ledger.drop(letter.key, letter.token)
            self._ask(DropLetters(root, (letter.letter,), 1.0), "drop a letter")
            return
        nonce = random.randbytes(NONCE_BYTES)
        times = TIMEOUTS, self.client.now_s
        request = ReplayRequest(root, letter.letter, letter.key, (), nonce, *times, MORTAL.partitions)
        self.start(self.queueing.replay(request), partial(self._looked, "replay a letter"))


@attrs.define(eq=False)
class Consuming(Caller):
    """Applies what is queued, until nothing is, and nothing more will be."""

    ledger: Ledger = attrs.field(kw_only=True)
    queue: Queue = attrs.field(kw_only=True)
    queueing: Queueing = attrs.field(kw_only=True)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done here. What comes later than that stays queued."""
        return self.shared.is_ending and self.ledger.is_drained(self.queue)

    def next(self) -> None:
        """Consume; and do it once more where that has ended."""
        if self.is_over:
            self.is_idle = True
            return
        random, queue = self.shared.random, self.queue
        failing = Failing(queue.deliveries, 0.02, 0.2)
        member, seed = random.randbytes(NONCE_BYTES), random.randrange(2**32)
        limits = round(LEASE_S * 1000), 3, 10**6, REST_S
        names = "n:", queue.name, queue.partitions, CODEC
        times = failing, TIMEOUTS, self.client.now_s
        request = ConsumeRequest(*names, member, seed, *limits, *times)
        self._begin(self.queueing.consume(request))

    def _ended(self, _: Running, __: Outcome) -> None:
        self.done("consume")

    def _begin(self, step: Step) -> None:
        """Begin to consume, and be ended at some moment, now and then."""
        running = self.client.start(step, self._ended, Applying(self))
        if self.shared.random.random() < self.shared.rates.cancelled * 10:
            self.client.later(self.shared.random.random() * 2.0, partial(self._cancel, running))


@attrs.define(eq=False)
class Applying(Loader):
    """What a program gives a consumer: it writes the database, or rests."""

    consuming: Consuming

    def begin(self, running: Running, command: Compute | ComputeMany) -> None:
        """Write what the consumer has in hand, or rest as long as it says."""
        assert isinstance(command, Compute)
        shared, client = self.consuming.shared, running.client
        random, rates, turn = shared.random, shared.rates, command.previous
        assert isinstance(turn, Turn)
        if not turn.writes:
            client.later(turn.rest_s, partial(self._end, running, running.turn, {}))
            return
        took_s = random.random() * (SLOW_LOAD_S if random.random() < rates.slow_loader else LOAD_S)
        apply = partial(self._apply, running, running.turn, turn, took_s / 2)
        if random.random() < rates.hung / 4:  # the others find no room meanwhile
            shared.fired[SimulatedFault.HUNG] += 1
            shared.hung.append(partial(client.later, 0.0, apply))
        else:
            client.later(took_s / 2, apply)

    def _apply(self, running: Running, number: int, turn: Turn, left_s: float) -> None:
        shared, client = self.consuming.shared, running.client
        if running.turn != number or running.is_over:
            return  # it was cancelled
        # In one queue it fails now and then, in the other often enough that writes are given up.
        raising = 0.4 if shared.rates.raising and self.consuming.queue.deliveries else shared.rates.raising
        if shared.random.random() < raising:
            shared.fired[SimulatedFault.RAISING] += 1
            client.answer(running, number, ComputeFailed(client.now_s, LOADER_ERROR))
            return
        found = {}
        for write in turn.writes:
            shared.say(f"{client.name}: applies {write.value} with token {write.token}", write.key)
            token = self.consuming.ledger.apply(write.key, write.value, write.token)
            if token:
                found[write.key] = token
        client.later(left_s, partial(self._end, running, number, found))

    def _end(self, running: Running, number: int, found: Mapping[str, int]) -> None:
        end = TurnEnd(found, self.consuming.is_over)
        running.client.answer(running, number, Computed(running.client.now_s, end))


@attrs.define(eq=False)
class QueueChecks(Probing):
    """What must hold of queues once nothing goes wrong any more."""

    ledger: Ledger = attrs.field(kw_only=True)

    def check(self) -> None:
        """S8, and S6 of what is queued: every process reads the last write of every row."""
        self.ledger.check(self.shared.server)
        for process in self.processes:
            for row in LASTING.rows:
                self._reads(process, row)

    def _reads(self, process: Process, row: Row) -> None:
        process.calls.now_s = process.client.now_s
        loader = QueuedLoader(self.shared, process.calls, slow_s=0.0)
        asked: Asked = self._run(process, process.calls.load(row, CODEC), loader)
        if not self.shared.timeline.run(lambda: asked.outcome is not None, 1.0 + TRIPS_S):
            raise Violated(Liveness.ENDS, "what is queued is not read in time", row.key)
        last = expected(self.shared, row.key)
        if version_of(asked.outcome) != last:
            seen = f"{process.client.name} is given {asked.outcome} of what is queued, and {last} is the last"
            raise Violated(Liveness.LAST, seen, row.key)


def writers_and_consumers(
    shared: Shared, client: Client, calls: Calls, ledger: Ledger, queueing: Queueing
) -> list[Caller]:
    """Those of one process."""
    writers = [
        Writing(shared, client, calls, is_text=False, ledger=ledger, queueing=queueing) for _ in range(2)
    ]
    consumers = [
        Consuming(shared, client, calls, is_text=False, ledger=ledger, queue=queue, queueing=queueing)
        for queue in QUEUES
    ]
    return [*writers, *consumers]
