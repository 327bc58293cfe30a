"""The explorer of queues: every interleaving of writers, readers, consumers and replays of one key (S8, S1).

As in `sansio_cache.exploring`, what runs is the product: the shipped machines on the memory store. It has
worlds of its own, as a queue has a store of its own; they are searched as they are, without renaming.

A worker does one thing. A *writer* queues the next version. A *reader* gets or loads: its loader asks for the
newest entry first, under the grant, and looks at the database where there is none. A *consumer* goes on for
ever, and a *replay* queues the first letter anew. The database keeps a version with its token, and refuses a
lower one where the configuration says so.

*The oracle.* A write is acknowledged when its machine has ended with all that was wanted. A read must not
return a value if another write began after that value's was acknowledged, and was itself acknowledged before
the read began (a regular register). A write that has become a dead letter is exempt, until a replay of it is
acknowledged. S8: what was acknowledged is applied, or overtaken, or an entry, or a letter; the tokens that
are applied never go back.

The clock stands still. A lease lapses, a key goes or is on a node that is away, a worker ends for good, a
request or its reply is lost, and a request arrives once more, as often as the configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, assert_never

import attrs

from sansio_cache.commands import (
    Append,
    AppendEntries,
    AttendQueue,
    Compute,
    DeleteKeys,
    HoldCells,
    PeekEntries,
    ReadLetters,
    RenewLeases,
    ReplayLetter,
    ShareLoad,
    Sleep,
    StoreCommand,
)
from sansio_cache.entry import Servable, examine, seal
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    EntriesAppended,
    EntriesFound,
    Event,
    FailureKind,
    HoldsTaken,
    KeysDeleted,
    LoadLed,
    StoreEvent,
    StoreFailed,
    Woke,
)
from sansio_cache.exploring.configuration import PLAIN
from sansio_cache.exploring.exhausting import Exhausted, exhaust
from sansio_cache.exploring.queue_world import (
    CODEC,
    KEY,
    LATER_S,
    MOST_WAITS,
    NOW_S,
    ROOT,
    TIMEOUTS,
    Broken,
    Fault,
    QueueConfiguration,
    Role,
    Worker,
    World,
    value_of,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.batching import Failing
from sansio_cache.operations.enqueue import (
    EnqueueRequest,
    EnqueueWaiting,
    QueuedItem,
    ReplayRequest,
    enqueue,
    replay,
)
from sansio_cache.operations.get_or_load import LoadWaiting, get_or_load
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.operations.loading import RANDOM_BYTES, LoadRequest
from sansio_cache.operations.queue import ask
from sansio_cache.queue_rules import Partition
from sansio_cache.queues import Turn, TurnEnd, hold_of, lease_of
from sansio_cache.step import Loaded as LoadedOutcome
from sansio_cache.step import QueueAnswered, Queued, Step, Value, evolve

E = TypeVar("E")


def explore_queue(configuration: QueueConfiguration, most: int = 2_000_000) -> Exhausted:
    """Take all moves from all worlds, breadth first, until there is none left that was not seen."""
    return exhaust(configuration.name, Search(configuration), most)


class _Store(MemoryStore):
    """A memory store that stands still, and whose partition may have wrong rules."""

    rules: type[Partition] = Partition

    def _partition(self, root: str) -> Partition:
        return self.queues.setdefault(root, self.rules())


def _frozen(store: MemoryStore) -> tuple[Any, ...]:
    partition = store.queues[ROOT]
    parts = (getattr(partition, name) for name in attrs.fields_dict(Partition))
    held = tuple(tuple(part.items()) if isinstance(part, dict) else part for part in parts)
    return tuple(sorted(store.dump().items(), key=_name)), store.issued_us, held


def _name(item: tuple[str, Any]) -> str:
    return item[0]


Moves = Iterator[tuple[str, World, Fault | None]]


class Search:
    """The moves of a configuration."""

    def __init__(self, configuration: QueueConfiguration) -> None:
        self.configuration = configuration

    # Beginnings.

    def beginning(self) -> World:
        """The world in which nobody has done anything."""
        store = self._store()
        store.queues[ROOT] = self.configuration.partition()
        acknowledged: tuple[tuple[int, int, frozenset[int]], ...] = ()
        for version in range(1, self.configuration.queued + 1):
            (grant,) = _sure(
                store, HoldCells((hold_of(ROOT, KEY),), b"worker-x", 60_000, 1.0), HoldsTaken
            ).grants
            append = AppendEntries(ROOT, (Append(KEY, grant, _body(version)),), 9, 1, 1.0)
            (token,) = _sure(store, append, EntriesAppended).tokens
            before = frozenset(each for each, _, _ in acknowledged)
            acknowledged = (*acknowledged, (version, token, before))
        workers = tuple(Worker(self._begin(i)) for i in range(len(self.configuration.roles)))
        spent = tuple((fault, 0) for fault in self.configuration.faults)
        return World(_frozen(store), workers, 0, 0, acknowledged, frozenset(), spent)

    def _store(self) -> _Store:
        return _Store(lambda: NOW_S)

    def _thawed(self, frozen: tuple[Any, ...]) -> _Store:
        store = self._store()
        kept, store.issued_us, held = frozen
        for key, each in kept:
            store.plant(key, each.cell, each.expires_ms)
        names = attrs.fields_dict(Partition)
        parts: dict[str, Any] = {
            name: dict(part) if isinstance(part, tuple) else part
            for name, part in zip(names, held, strict=True)
        }
        store.queues[ROOT] = self.configuration.partition(**parts)
        return store

    def _begin(self, i: int) -> Step:
        nonce = b"worker-%1d" % i
        match self.configuration.roles[i]:
            case Role.WRITER:
                items = (QueuedItem(KEY, _body(self.version_of(i))),)
                limits = 60_000, 9, 1, 1e9
                return enqueue(EnqueueRequest(ROOT, items, (), nonce, 0, *limits, TIMEOUTS, NOW_S))
            case Role.READER:
                drawn = nonce + bytes(RANDOM_BYTES - len(nonce))
                return get_or_load(LoadRequest(KEY, CODEC, PLAIN, drawn, TIMEOUTS, NOW_S))
            case Role.CONSUMER:
                failing = Failing(1 if Fault.RAISING in self.configuration.faults else 9, 0.1, 0.1)
                request = ConsumeRequest(
                    "n:", "q", 1, CODEC, nonce, 0, 60_000, 9, 10**6, 1.0, failing, TIMEOUTS, NOW_S
                )
                return self.configuration.consume(request)
            case Role.REPLAY:
                return ask(ReadLetters(ROOT, 0, 1, 1.0), TIMEOUTS, NOW_S)
            case role:
                assert_never(role)

    def version_of(self, i: int) -> int:
        """The version that a writer writes."""
        writers = [n for n, role in enumerate(self.configuration.roles) if role is Role.WRITER]
        return self.configuration.queued + 1 + writers.index(i)

    # Moves.

    def moves(self, world: World) -> Moves:
        """What may happen next: in words, the world after it, and the fault that it is."""
        for i, worker in enumerate(world.workers):
            if worker.step is None:
                continue
            yield from self._of_worker(world, i, worker)
            crashed = self._strike(world, Fault.CRASH)
            if crashed is not None:
                yield f"worker {i} is gone", _with(crashed, i, Worker(None)), Fault.CRASH
        duplicated = self._strike(world, Fault.DUPLICATE)
        if duplicated is not None:
            for command in world.late:
                store = self._thawed(world.store)
                store.perform(command)
                again = attrs.evolve(duplicated, store=_frozen(store), late=world.late - {command})
                yield f"{type(command).__name__} arrives once more", self._judged(again), Fault.DUPLICATE
        for fault, keys in ((Fault.LAPSE, (lease_of(ROOT),)), (Fault.GONE, (KEY, hold_of(ROOT, KEY)))):
            struck = self._strike(world, fault)
            for key in keys if struck is not None else ():
                store = self._thawed(world.store)
                if key in store.dump():
                    assert struck is not None
                    store.plant(key, None, 0)
                    yield f"{key} is gone", attrs.evolve(struck, store=_frozen(store)), fault

    def _strike(self, world: World, fault: Fault) -> World | None:
        """The world with one more of a fault; None where there may be no more."""
        spent = dict(world.spent)
        if spent.get(fault, 0) >= self.configuration.faults.get(fault, 0):
            return None
        return attrs.evolve(world, spent=tuple((each, n + (each is fault)) for each, n in world.spent))

    def _of_worker(self, world: World, i: int, worker: Worker) -> Moves:
        role = self.configuration.roles[i]
        if not worker.has_begun:
            before = frozenset(version for version, _, _ in world.acknowledged)
            if role is Role.READER:
                before -= world.dead
            worker = attrs.evolve(worker, has_begun=True, before=before)
            if role is Role.READER and self.configuration.looks_first:
                looked = self._newest(self._thawed(world.store))
                yield f"reader {i} looks first", _with(world, i, attrs.evolve(worker, looked=looked)), None
                return
        step = worker.inner or worker.step
        assert step is not None
        command = step.command
        assert command is not None, "a machine that has ended has no moves"
        match command:
            case Compute(previous=Turn(writes=())):
                assert worker.step is not None
                event = Computed(LATER_S, TurnEnd())
                yield f"consumer {i} has rested", self._take(world, i, worker, event), None
            case Compute(previous=Turn(writes=writes)):
                yield from self._applying(world, i, worker, writes)
            case Compute() if worker.looked is not None and worker.looked >= 0:
                event = Computed(NOW_S, worker.looked)
                yield f"reader {i} uses what it found", self._take(world, i, worker, event), None
            case Compute() if worker.is_at_database or worker.looked is not None:
                worker = attrs.evolve(worker, is_at_database=False)
                event = Computed(NOW_S, world.version)
                text = f"reader {i} looks at the database: version {world.version}"
                yield text, self._take(world, i, worker, event), None
            case Compute():
                inner = ask(PeekEntries(ROOT, (KEY,), 1.0), TIMEOUTS, NOW_S)
                yield from self._of_worker(world, i, attrs.evolve(worker, inner=inner))
            case _:
                yield from self._asking(world, i, worker, command)

    def _asking(self, world: World, i: int, worker: Worker, command: Any) -> Moves:
        who = f"{self.configuration.roles[i].value} ({i})"
        name = type(command).__name__
        store = self._thawed(world.store)
        if isinstance(command, DeleteKeys) and self._is_skipped(i):
            event: StoreEvent = KeysDeleted(NOW_S, 0)
        else:
            event = store.perform(command)
        performed = attrs.evolve(world, store=_frozen(store))
        is_kept = isinstance(command, HoldCells | AppendEntries | ReplayLetter | DeleteKeys)
        if is_kept and Fault.DUPLICATE in self.configuration.faults:
            performed = attrs.evolve(performed, late=performed.late | {command})
        yield f"{who}: {name} -> {_told(event)}", self._take(performed, i, worker, event), None
        failed = StoreFailed(NOW_S, FailureKind.TIMEOUT)
        kept = self._strike(world, Fault.KEPT) if isinstance(command, DeleteKeys) else None
        if kept is not None:
            away = StoreFailed(NOW_S, FailureKind.OTHER)
            told = self.configuration.heeds_kept
            answer = KeysDeleted(NOW_S, 0, None, (KEY,) if told else (), (away,) if told else ())
            text = f"{who}: {name} answers without the node that has the key"
            yield text, self._take(kept, i, worker, answer), Fault.KEPT
        lost = self._strike(world, Fault.REQUEST_LOST)
        if lost is not None:
            yield f"{who}: {name} is lost", self._take(lost, i, worker, failed), Fault.REQUEST_LOST
        unheard = self._strike(performed, Fault.REPLY_LOST)
        if unheard is not None:
            text = f"{who}: {name}, whose answer is lost"
            yield text, self._take(unheard, i, worker, failed), Fault.REPLY_LOST

    def _is_skipped(self, i: int) -> bool:
        match self.configuration.roles[i]:
            case Role.CONSUMER:
                return not self.configuration.invalidates
            case Role.REPLAY:
                return self.configuration.replays_unseen
            case _:
                return False

    def _applying(self, world: World, i: int, worker: Worker, writes: Any) -> Moves:
        raising = self._strike(world, Fault.RAISING)
        if raising is not None:
            event = ComputeFailed(NOW_S, RuntimeError("database"))
            yield f"the writer of {i} raises", self._take(raising, i, worker, event), Fault.RAISING
        (write,) = writes
        after, found = world, {}
        if write.token < world.token and self.configuration.is_fenced:
            found = {KEY: world.token}
        else:
            is_over = any(
                write.value in before and token < write.token for _, token, before in world.acknowledged
            )
            broken = Broken.BACK if write.token < world.token else Broken.OVER if is_over else None
            after = attrs.evolve(world, version=write.value, token=write.token, broken=broken)
        text = f"consumer {i} applies version {write.value} with token {write.token}"
        yield text, self._take(after, i, worker, Computed(NOW_S, TurnEnd(found))), None

    # What follows from an event.

    def _take(self, world: World, i: int, worker: Worker, event: Event) -> World:
        """Let a machine take its event in, and what nobody can observe after that."""
        if worker.inner is not None:
            inner = _bare(worker.inner.state.receive(event))
            if inner.command is not None:
                return _with(world, i, attrs.evolve(worker, inner=inner))
            worker = attrs.evolve(worker, inner=None)
            answer = inner.outcome
            if not isinstance(answer, QueueAnswered):  # it cannot say: its caller is told so
                return self._take(world, i, worker, ComputeFailed(NOW_S, ConnectionError("queue")))
            assert isinstance(answer.answer, EntriesFound)
            (entry,) = answer.answer.entries
            if entry is None:
                return _with(world, i, attrs.evolve(worker, is_at_database=True))
            return self._take(world, i, worker, Computed(NOW_S, value_of(entry)))
        assert worker.step is not None
        step = _bare(worker.step.state.receive(event))
        while True:
            command = step.command
            if isinstance(command, ShareLoad):
                event = LoadLed(NOW_S, 1)
            elif isinstance(command, Sleep):
                if isinstance(step.state, EnqueueWaiting) and step.state.left.turn >= MOST_WAITS:
                    return _with(world, i, attrs.evolve(worker, step=None, before=frozenset()))
                event = Woke(NOW_S)
                if isinstance(step.state, LoadWaiting):
                    # How often it has waited matters for the pauses alone.
                    acquiring = evolve(step.state.acquiring, turns=0)
                    step = Step(LoadWaiting(acquiring), command)
            elif isinstance(command, AttendQueue | RenewLeases):
                store = self._thawed(world.store)
                event = store.perform(command)
                world = attrs.evolve(world, store=_frozen(store))
            else:
                break
            step = _bare(step.state.receive(event))
        return self._stepped(world, i, attrs.evolve(worker, step=step), step)

    def _stepped(self, world: World, i: int, worker: Worker, step: Step) -> World:
        role = self.configuration.roles[i]
        outcome = step.outcome
        if role is Role.WRITER and self.configuration.acknowledges_early:
            early = getattr(step.state, "outcome", None)
            if isinstance(step.command, DeleteKeys) and isinstance(early, Queued):
                world = self._acknowledged(world, i, worker, early)
        if step.command is not None:
            return self._judged(_with(world, i, worker))
        world = _with(world, i, attrs.evolve(worker, step=None, before=frozenset()))
        match role:
            case Role.WRITER if isinstance(outcome, Queued) and outcome.is_told:
                world = self._acknowledged(world, i, worker, outcome)
            case Role.READER if isinstance(outcome, Value | LoadedOutcome):
                world = self._read(world, worker, outcome.value)
            case Role.REPLAY if isinstance(outcome, QueueAnswered):
                assert isinstance(outcome.answer, EntriesFound)
                for letter in outcome.answer.entries:
                    assert letter is not None
                    nonce = b"worker-%1d" % i
                    request = ReplayRequest(ROOT, letter.letter, KEY, (), nonce, TIMEOUTS, NOW_S)
                    asking = attrs.evolve(worker, step=_bare(replay(request)), replayed=value_of(letter))
                    world = _with(world, i, asking)
            case Role.REPLAY if isinstance(outcome, Queued) and outcome.is_told:
                world = attrs.evolve(world, dead=world.dead - {worker.replayed})
            case _:
                pass
        return self._judged(world)

    # The oracle.

    def _acknowledged(self, world: World, i: int, worker: Worker, outcome: Queued) -> World:
        version = self.version_of(i)
        if any(each[0] == version for each in world.acknowledged):
            return world
        known = (version, outcome.tokens[0], worker.before)
        return attrs.evolve(world, acknowledged=tuple(sorted((*world.acknowledged, known), key=_first)))

    def _read(self, world: World, worker: Worker, version: int) -> World:
        for other, _, before in world.acknowledged:
            is_overtaken = version == 0 or version in before
            if other in worker.before and is_overtaken and other != version:
                return attrs.evolve(world, broken=world.broken or Broken.READ)
        return world

    def _judged(self, world: World) -> World:
        if world.broken is not None:
            return world
        store = self._thawed(world.store)
        partition = store.queues[ROOT]
        world = self._with_dead(world, frozenset(map(value_of, partition.letters.values())))
        # A later write of the key overtakes it, and so does one that has become a letter since.
        tokens = [0, *partition.entries, *(each.token for each in partition.letters.values()), world.token]
        for _, token, _ in world.acknowledged:
            if token > max(tokens):
                return attrs.evolve(world, broken=Broken.LOST)
        if self._is_quiet(world, partition):
            cell = store.cell(KEY, int(NOW_S * 1000))
            verdict = examine(cell, KEY, CODEC, None)
            if isinstance(verdict, Servable) and verdict.value != world.version:
                return attrs.evolve(world, broken=Broken.LEFT)
        return world

    def _with_dead(self, world: World, letters: frozenset[int]) -> World:
        """What is a letter now is exempt for who reads meanwhile, and who begins before it is replayed."""
        if letters <= world.dead:
            return world
        workers = tuple(
            attrs.evolve(worker, before=worker.before - letters) if role is Role.READER else worker
            for role, worker in zip(self.configuration.roles, world.workers, strict=True)
        )
        return attrs.evolve(world, dead=world.dead | letters, workers=workers)

    def _is_quiet(self, world: World, partition: Partition) -> bool:
        """Whether nothing is queued, and nobody does anything but consumers, who rest."""
        if partition.entries:
            return False
        for role, worker in zip(self.configuration.roles, world.workers, strict=True):
            if worker.step is None:
                continue
            command = worker.step.command
            turn = command.previous if isinstance(command, Compute) else None
            if role is not Role.CONSUMER or not isinstance(turn, Turn) or turn.writes:
                return False
        return True

    def _newest(self, store: MemoryStore) -> int:
        (entry,) = _sure(store, PeekEntries(ROOT, (KEY,), 1.0), EntriesFound).entries
        return -1 if entry is None else value_of(entry)


def _sure(store: MemoryStore, command: StoreCommand, kind: type[E]) -> E:
    event = store.perform(command)
    assert isinstance(event, kind)
    return event


def _body(version: int) -> bytes:
    return seal(KEY, CODEC, CODEC.encode(version).payload, 0.0)


def _first(known: tuple[int, int, frozenset[int]]) -> int:
    return known[0]


def _with(world: World, i: int, worker: Worker) -> World:
    return attrs.evolve(world, workers=(*world.workers[:i], worker, *world.workers[i + 1 :]))


def _bare(step: Step) -> Step:
    """A step without what is only told."""
    return Step(step.state, step.command, step.outcome)


def _told(event: StoreEvent) -> str:
    tokens = getattr(event, "tokens", None)
    return f"{type(event).__name__}{tokens if tokens is not None else ''}"
