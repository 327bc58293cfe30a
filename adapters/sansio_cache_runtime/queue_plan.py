"""Queues of entities: what both colours share of write-behind.

A queue takes the writes of one entity, and gives them to its writer later. Its keys are those of the entity;
what it keeps in the store says `sansio_cache.queues`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
from msgspec import Struct

from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import DropLetters, MeasureQueue, PeekEntries, ReadLetters
from sansio_cache.entry import MissReason, Servable, examine, seal
from sansio_cache.errors import (
    CacheConnectionError,
    CacheError,
    CacheTimeoutError,
    ConfigurationError,
    SerializationError,
    UnknownOutcomeError,
)
from sansio_cache.events import EntriesFound, KeysDeleted, QueueMeasured
from sansio_cache.health import MEMORY, Health
from sansio_cache.keys import Key
from sansio_cache.operations.batching import Failing
from sansio_cache.operations.consume import consume
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.operations.queue import AgreeRequest, agree, ask
from sansio_cache.queues import QueueEntry, place_of, root_of, waited_s
from sansio_cache.step import (
    Completed,
    Outcome,
    Parted,
    QueueAnswered,
    Queued,
    Refused,
    Step,
    TookTooLong,
    Unknown,
    ended,
)
from sansio_cache.strategies import AcknowledgedByReplicas, WriteBehind
from sansio_cache.tags import tag_keys
from sansio_cache_runtime.primitive_requests import PrimitiveRequests
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.request_builder import RequestBuilder
from sansio_cache_runtime.results import WriteResult, raise_uncertain
from sansio_cache_runtime.writer_calls import WriterCalls

T = TypeVar("T")

MOST_AT_ONCE: Final = 100
"""How many writes go into one command of the store."""
_MOST_BYTES: Final = 8 * 2**20
"""How many bytes of values a consumer takes at once, at most, but for one that is larger."""
_LETTERS: Final = 100
_NAMED: Final = 10
"""How many keys an error names."""
_NOTHING: Final = object()


def _batched(items: Sequence[T]) -> list[tuple[T, ...]]:
    """As many as go into one command, together."""
    return [tuple(items[first : first + MOST_AT_ONCE]) for first in range(0, len(items), MOST_AT_ONCE)]


@attrs.frozen
class Letter(Generic[T]):
    """A dead letter: a queued write that was given up.

    Attributes:
        key: The full key.
        value: What was to be written; None where it cannot be read any more.
        reason: Why it was given up.
        token: Its fencing token.
        is_superseded: Whether a later write of the key was queued since: it cannot be replayed then.
    """

    key: str
    value: T | None = attrs.field(repr=False)
    reason: str
    token: int
    is_superseded: bool
    _root: str = attrs.field(repr=False)
    _number: int = attrs.field(repr=False)
    _tags: tuple[str, ...] = attrs.field(repr=False)


class Backlog(Struct, frozen=True):
    """What a queue holds.

    Attributes:
        queued: How many writes are not in the database yet.
        dead: How many were given up, and are dead letters.
        oldest_s: How long the oldest of those that are queued has waited, in seconds; 0 where none is.
        partitions: How many writes are queued in each partition.
    """

    queued: int
    dead: int
    oldest_s: float
    partitions: tuple[int, ...]


@attrs.frozen(kw_only=True)
class QueuePlan:
    """What is said once about a queue.

    Args:
        requests: The cache's request builder.
        name: The entity's.
        part: The same as it stands in keys.
        strategy: How much may be queued, and how it is consumed.
        codec: How values are queued: without a signature.
        lists: The key of the tag of all lists.
        write: Writes some values, by a call for all of them or for each.
    """

    requests: PrimitiveRequests
    name: str
    part: str
    strategy: WriteBehind
    codec: Codec[Any]
    lists: tuple[str, ...]
    write: WriterCalls

    def root(self, place: int) -> str:
        """What the keys of a partition begin with."""
        return root_of(self.requests.keys.root, self.part, place)

    # Writing.

    def enqueue(
        self, values: Mapping[Key, Any], tags: Iterable[str]
    ) -> Iterator[tuple[tuple[str, ...], Step]]:
        """Check values that are to be queued, and begin to: those of a partition together.

        Returns:
            The keys that each step is about, and the step. It is made as it is asked for, and so has the
            store's time from then on. For room all of them wait as long as one may.

        Raises:
            SerializationError: One cannot be stored so that it comes back equal.
            ConfigurationError: One is None, which says that there is nothing.
        """
        gone = (*self.lists, *tag_keys(self.requests.keys.root, self.requests.tag_names(tags)))
        parts: dict[int, list[QueuedItem]] = {}
        for key, value in values.items():
            place = place_of(key, self.strategy.partitions)
            parts.setdefault(place, []).append(QueuedItem(str(key), self._sealed(key, value)))
        batches = [(place, items) for place, every in parts.items() for items in _batched(every)]
        return self._enqueued(values, batches, gone)

    def _enqueued(
        self,
        keys: Iterable[Key],
        batches: Iterable[tuple[int, tuple[QueuedItem, ...]]],
        gone: tuple[str, ...],
    ) -> Iterator[tuple[tuple[str, ...], Step]]:
        requests = self.requests
        since_s = requests.clock()
        for place, items in batches:
            now_s = requests.clock()
            request = self._request(place, items, gone, now_s, now_s - since_s)
            requests.begin_write(request.gone, now_s)
            yield tuple(item.key for item in items), enqueue(request, skip=requests.skip_write(keys))

    def _request(
        self, place: int, items: tuple[QueuedItem, ...], gone: tuple[str, ...], now_s: float, waited_s: float
    ) -> EnqueueRequest:
        requests, strategy = self.requests, self.strategy
        most = math.ceil(strategy.backlog / strategy.partitions)
        limits = requests.policy.lease_ms, most, strategy.partitions, strategy.wait_s
        nonce, seed = requests.drawn()
        times = requests.timeouts, now_s
        wanted = strategy.durability
        replicas = (0, 0) if wanted is None else (wanted.count, math.ceil(wanted.within_s * 1000))
        return EnqueueRequest(
            self.root(place), items, gone, nonce, seed, *limits, *times, *replicas, waited_s
        )

    def _sealed(self, key: Key, value: Any) -> bytes:
        if value is None:
            raise ConfigurationError(
                f"the entity {self.name!r} writes behind, and queues values; None is none: remove the thing "
                "in the database inside mutate(...)"
            )
        try:
            payload = self.codec.encode(value).payload
        except SerializationError as error:
            raise error.of(key) from error.__cause__
        return seal(str(key), self.codec, payload, 0.0)

    # Questions.

    def agree(self) -> Step:
        """Begin to agree on the number of partitions."""
        requests = self.requests
        return agree(
            AgreeRequest(
                requests.keys.root, self.part, self.strategy.partitions, requests.timeouts, requests.clock()
            )
        )

    def agree_first(self) -> Step:
        """The same for who reads. A part of the store that does not serve is not asked."""
        if self.requests.is_disabled:
            return ended(Completed())
        if self.requests.is_out(self.root(0)):
            return ended(Refused(MissReason.STORE_ERROR))
        return self.agree()

    def may_look(self, outcome: Outcome) -> bool:
        """Whether readers may look for what is queued: not where the store is silent, and none is needed.

        Raises:
            ConfigurationError: The queue has another number of partitions, and writes in them.
            CacheConnectionError: The store cannot say.
        """
        if self._is_silent(outcome):
            return False
        check_agreed(self.name, outcome)
        return True

    def peek(self, keys: Iterable[Key]) -> Iterator[tuple[tuple[Key, ...], Step]]:
        """Begin to look for what is queued, with the keys that each step is about, as they are asked for.

        A cache that is switched off has no queue. A part of the store that does not serve is not asked.
        """
        if self.requests.is_disabled:
            return
        parts: dict[int, list[Key]] = {}
        for key in keys:
            parts.setdefault(place_of(key, self.strategy.partitions), []).append(key)
        for place, of_place in parts.items():
            for some in _batched(of_place):
                yield some, self._look(self.root(place), some)

    def _look(self, root: str, keys: Iterable[Key]) -> Step:
        if self.requests.is_out(root):
            return ended(Refused(MissReason.STORE_ERROR))
        return self._ask(PeekEntries(root, tuple(map(str, keys)), 0.0, self.strategy.partitions))

    def peeked(self, keys: Sequence[Key], outcome: Outcome) -> dict[str, Any]:
        """The queued values of keys that have one.

        Raises:
            CacheConnectionError: The store cannot say; or the value was queued as another type, and only who
                knows that type can read it.
            ConfigurationError: The queue has another number of partitions by now.
        """
        if self._is_silent(outcome):
            return {}
        if isinstance(outcome, Parted):
            raise ConfigurationError(
                f"the queue {self.name!r} has {outcome.partitions} partitions by now: what is queued cannot "
                "be found. All programs have to say the same number"
            )
        found = _answer(outcome, EntriesFound)
        values: dict[str, Any] = {}
        for key, entry in zip(keys, found.entries, strict=True):
            if entry is not None:
                value = self.value_of(entry)
                if value is _NOTHING:
                    raise CacheConnectionError(
                        f"{key}: a write is queued that this program cannot read, as it was queued as "
                        "another type: what the database has is older"
                    )
                values[key] = value
        return values

    def _is_silent(self, outcome: Outcome) -> bool:
        """Whether the store gave no answer, and readers are to do without one."""
        has_answered = isinstance(outcome, QueueAnswered | Completed | Parted)
        return self.strategy.reads_in_outage == "load" and not has_answered

    def value_of(self, entry: QueueEntry) -> Any:
        """The value of an entry."""
        cell = Cell(Kind.VALUE, NO_GRANT, 0, 0, NO_GRANT, entry.body)
        verdict = examine(cell, entry.key, self.codec, None)
        return verdict.value if isinstance(verdict, Servable) else _NOTHING

    def measure(self) -> Iterator[Step]:
        """Begin to measure each partition, as it is asked for."""
        for place in range(self.strategy.partitions):
            yield self._ask(MeasureQueue(self.root(place), 0.0))

    def measured(self, outcomes: Iterable[Outcome]) -> Backlog:
        """What the partitions hold."""
        found = [_answer(each, QueueMeasured) for each in outcomes]
        counts = tuple(each.backlog for each in found)
        oldest_s = max((waited_s(each.oldest, each.server_ms) for each in found), default=0.0)
        return Backlog(sum(counts), sum(each.letters for each in found), oldest_s, counts)

    # Letters.

    def letters(self, place: int, after: int) -> Step:
        """Begin to read a page of the letters of a partition."""
        return self._ask(ReadLetters(self.root(place), after, _LETTERS, 0.0))

    def page(self, place: int, outcome: Outcome) -> tuple[list[Letter[Any]], int]:
        """The letters of a page, and the number of the last, where there may be more; else 0."""
        entries = [each for each in _answer(outcome, EntriesFound).entries if each is not None]
        found = []
        for each in entries:
            value = self.value_of(each)
            told = (None if value is _NOTHING else value), each.reason, each.token, each.is_superseded
            found.append(Letter(each.key, *told, self.root(place), each.letter, each.tags))
        return found, entries[-1].letter if len(entries) == _LETTERS else 0

    def replay(self, letter: Letter[Any]) -> Step:
        """Begin to queue a letter anew."""
        requests, now_s = self.requests, self.requests.clock()
        nonce, _ = requests.drawn()
        tags = letter._tags  # noqa: SLF001 - of this module
        requests.begin_write((letter.key, *tags), now_s)
        return replay(
            ReplayRequest(
                letter._root,  # noqa: SLF001
                letter._number,  # noqa: SLF001
                letter.key,
                tags,
                nonce,
                requests.timeouts,
                now_s,
                self.strategy.partitions,
            )
        )

    def drop(self, letters: Iterable[Letter[Any]]) -> Iterator[Step]:
        """Begin to forget letters, as they are asked for."""
        numbers: dict[str, list[int]] = {}
        for each in letters:
            numbers.setdefault(each._root, []).append(each._number)  # noqa: SLF001 - of this module
        for root, some in numbers.items():
            yield self._ask(DropLetters(root, tuple(some), 0.0))

    def _ask(self, question: PeekEntries | MeasureQueue | ReadLetters | DropLetters) -> Step:
        return ask(question, self.requests.timeouts, self.requests.clock())

    # Consuming.

    def tell_failure(self, recorder: Recorder, count: int, error: Exception) -> None:
        """Have it logged that the writer has raised, for so many keys."""
        recorder.writer_failed(self.name, count, error, self.requests.clock())

    def consume(self) -> Step:
        """Begin to consume."""
        requests, strategy = self.requests, self.strategy
        failing = Failing(strategy.deliveries, strategy.backoff_s, strategy.longest_backoff_s)
        member, seed = requests.drawn()
        return consume(
            ConsumeRequest(
                requests.keys.root,
                self.part,
                strategy.partitions,
                self.codec,
                member[:NONCE_BYTES],
                seed,
                math.ceil(strategy.lease_s * 1000),
                strategy.batch,
                _MOST_BYTES,
                strategy.delay_s,
                failing,
                requests.timeouts,
                requests.clock(),
            )
        )


def plan_queue(
    requests: RequestBuilder,
    name: str,
    type: Any,
    strategy: WriteBehind,
    lists: tuple[str, ...],
    write: WriterCalls,
) -> QueuePlan:
    """Plan the queue of an entity; `lists` is the key of the tag of its lists."""
    assert isinstance(requests, PrimitiveRequests)
    return QueuePlan(
        requests=requests,
        name=name,
        part=requests.keys.queue(name),
        strategy=strategy,
        codec=requests.codec(type),
        lists=lists,
        write=write,
    )


def check_queue(requests: RequestBuilder, name: str, id: object, writer: object) -> None:
    """Refuse an entity that cannot write behind.

    Raises:
        ConfigurationError: It has no writer, or does not know where its values have their ids; or entries are
            signed, which those of queues are not.
    """
    if writer is None:
        raise ConfigurationError(
            f"the entity {name!r} is to write behind, and has nothing to write with: pass write_many=... or "
            "writer=..."
        )
    if id is None:
        raise ConfigurationError(
            f"the entity {name!r} is to write behind, and does not know where its values have their ids: "
            "make it with id='id'"
        )
    if requests.signer is not None:
        raise ConfigurationError(
            f"the entity {name!r} cannot write behind in a cache that signs its entries: what is queued is "
            "not signed, and whoever can write to the store could write to your database"
        )


# What came of it.


def check_store(plan: QueuePlan, health: Health) -> None:
    """Refuse a store that may evict what is queued, or cannot keep it as durably as was asked for.

    Raises:
        ConfigurationError: Its eviction policy takes any key; or it is the memory store, and replicas were
            asked for.
    """
    name = plan.name
    if plan.strategy.durability is not None and health.server == MEMORY:
        raise ConfigurationError(
            f"the queue {name!r} is to be acknowledged by replicas, and the memory store has none: leave "
            "durability= out, or use a server"
        )
    if health.eviction_policy.startswith("allkeys"):
        raise ConfigurationError(
            f"the queue {name!r} cannot be kept by a server whose maxmemory-policy is "
            f"{health.eviction_policy}: it evicts acknowledged writes when it is full. Set noeviction or "
            "volatile-lru, or keep queues on a server of their own"
        )


def check_agreed(name: str, outcome: Outcome) -> None:
    """Refuse to go on where the queue has another number of partitions, and entries in them.

    Raises:
        ConfigurationError: It has.
        CacheConnectionError: The store cannot say.
    """
    if isinstance(outcome, Parted):
        letters = f" and {outcome.letters} dead letters" if outcome.letters else ""
        first = f"Drain it with partitions={outcome.partitions} before you change their number"
        raise ConfigurationError(
            f"the queue {name!r} has {outcome.partitions} partitions with {outcome.backlog} writes{letters} "
            f"in them: a key's writes keep their order in one partition alone. {first}"
            + (", and replay or drop the letters" if letters else "")
        )
    raise_uncertain(outcome)


Answers = Sequence[tuple[Sequence[str], Outcome]]
"""Keys, and what came of queueing their writes."""


def queued(answers: Answers, durability: AcknowledgedByReplicas | None = None) -> WriteResult:
    """What a call gives whose writes are queued.

    Raises:
        CacheTimeoutError: There was no room for them in time: none is queued.
        CacheConnectionError: The store does not serve: none is queued.
        UnknownOutcomeError: Some are queued, and others are not; or whether they are queued, or whether
            readers may still see an older value, is not known; or fewer replicas have them than were asked
            for.
        ConfigurationError: The queue has another number of partitions by now, and none is queued.
    """
    failures = [(outcome, error) for _, outcome in answers if (error := _why(outcome, durability))]
    if failures:
        _, error = min(failures, key=_by_weight)
        if len({_state(each) for _, each in answers}) > 1:
            raise _mixed(answers, error) from error
        raise error
    return WriteResult(sum(len(keys) for keys, _ in answers), 0, 0, None)


def _by_weight(failure: tuple[Outcome, CacheError]) -> bool:
    """Those that are queued come after those that are not: what is worse is told."""
    return isinstance(failure[0], Queued)


def _state(outcome: Outcome) -> str:
    """Whether a write is queued, as far as is known."""
    if isinstance(outcome, Queued):
        return "queued"
    return "unknown" if isinstance(outcome, Unknown) else "not queued"


def _mixed(answers: Answers, error: CacheError) -> UnknownOutcomeError:
    """The error for writes of which some are queued and others are not."""
    keys: dict[str, list[str]] = {}
    for some, outcome in answers:
        keys.setdefault(_state(outcome), []).extend(some)
    count = sum(map(len, keys.values()))
    parts = [f"{len(some)} {state}: {_listed(some)}" for state, some in sorted(keys.items())]
    return UnknownOutcomeError(
        f"not all of {count} writes are queued; {'; '.join(parts)}. What is queued will be written to the "
        f"database: repeat only what is not queued. The first error: {error}"
    )


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _why(outcome: Outcome, durability: AcknowledgedByReplicas | None) -> CacheError | None:
    """Why a write is not simply queued; None where it is."""
    try:
        _refuse(outcome, durability)
    except CacheError as error:
        return error.with_traceback(None)
    return None


def _refuse(outcome: Outcome, durability: AcknowledgedByReplicas | None) -> None:
    match outcome:
        case Queued(is_told=False):
            raise UnknownOutcomeError(
                "the write is queued, and will be written to the database; but the store did not say "
                "whether the old value is gone: until it is told, other processes may read that. Do not "
                "repeat it"
            )
        case Queued(is_confirmed=False) if durability is not None:
            replicas = "1 replica" if durability.count == 1 else f"{durability.count} replicas"
            raise UnknownOutcomeError(
                "the write is queued, and will be written to the database unless a failover loses it: "
                f"fewer than {replicas} had it within {durability.within_s:g} s, or WAIT is refused. "
                "Do not repeat it"
            )
        case Queued():
            pass
        case TookTooLong(waited_s=waited_s, is_full=True):
            raise CacheTimeoutError(
                f"the queue was full for {waited_s:.3g} s: the write is not queued. Consumers are too "
                "slow, or none runs"
            )
        case TookTooLong(waited_s=waited_s):
            raise CacheTimeoutError(
                f"others wrote the same keys for {waited_s:.3g} s: the write is not queued. Try it again"
            )
        case Parted(partitions=partitions):
            raise ConfigurationError(
                f"the queue has {partitions} partitions by now: the write is not queued. All programs "
                "have to say the same number"
            )
        case Refused(reason=MissReason.DISABLED):
            raise CacheConnectionError("the cache is switched off, and keeps no queue")
        case _:
            raise_uncertain(outcome)


def replayed(outcome: Outcome) -> bool:
    """Whether a letter was queued anew; not where a later write of its key was, or where it is gone.

    Raises:
        UnknownOutcomeError: That is not known.
        CacheConnectionError: The store does not serve.
        ConfigurationError: The queue had another number of partitions when it became a letter, or has by now.
    """
    if isinstance(outcome, Parted):
        raise ConfigurationError(
            "the queue had another number of partitions when this became a letter, or has by now: later "
            "writes of its key may be in another partition, where nobody knows of it. Write what is right, "
            "and drop it"
        )
    if isinstance(outcome, Queued) and outcome.tokens[0] < 1:
        return False
    queued((((), outcome),))
    return True


def dropped(outcomes: Iterable[Outcome]) -> int:
    """How many letters are forgotten."""
    return sum(_answer(each, KeysDeleted).count for each in outcomes)


A = TypeVar("A", EntriesFound, QueueMeasured, KeysDeleted)


def _answer(outcome: Outcome, kind: type[A]) -> A:
    """The answer to a question.

    Raises:
        CacheConnectionError: There is none.
    """
    if isinstance(outcome, QueueAnswered) and isinstance(outcome.answer, kind):
        return outcome.answer
    raise_uncertain(outcome)
    raise AssertionError(outcome)
