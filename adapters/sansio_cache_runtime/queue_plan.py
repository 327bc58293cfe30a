"""Queues of entities: what both colours share of write-behind.

A queue takes the writes of one entity, and gives them to its writer later. Its keys are those of the entity;
what it keeps in the store says `sansio_cache.queues`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, Final, Generic, TypeVar

import attrs
from msgspec import Struct

from sansio_cache.cell import NO_GRANT, NONCE_BYTES, Cell, Kind
from sansio_cache.codec import Codec
from sansio_cache.commands import DropLetters, MeasureQueue, PeekEntries, ReadLetters
from sansio_cache.entry import MissReason, Servable, examine, seal
from sansio_cache.errors import (
    CacheConnectionError,
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
from sansio_cache.queues import QueuedWrite, QueueEntry, place_of, root_of, waited_s
from sansio_cache.signals import let_through
from sansio_cache.step import Outcome, Parted, QueueAnswered, Queued, Refused, Step, TookTooLong
from sansio_cache.strategies import AcknowledgedByReplicas, WriteBehind
from sansio_cache.tags import tag_keys
from sansio_cache_runtime.primitive_requests import PrimitiveRequests
from sansio_cache_runtime.recorder import Recorder
from sansio_cache_runtime.request_builder import Id, RequestBuilder
from sansio_cache_runtime.results import WriteResult, raise_uncertain

T = TypeVar("T")

MOST_AT_ONCE: Final = 100
"""How many writes go into one command of the store."""
_MOST_BYTES: Final = 8 * 2**20
"""How many bytes of values a consumer takes at once, at most, but for one that is larger."""
_LETTERS: Final = 100
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

    def enqueue(self, values: Mapping[Key, Any], tags: Iterable[str]) -> list[Step]:
        """Begin to queue values: those of a partition together.

        Raises:
            SerializationError: One cannot be stored so that it comes back equal.
            ConfigurationError: One is None, which says that there is nothing.
        """
        gone = (*self.lists, *tag_keys(self.requests.keys.root, self.requests.tag_names(tags)))
        parts: dict[int, list[QueuedItem]] = {}
        for key, value in values.items():
            place = place_of(key, self.strategy.partitions)
            parts.setdefault(place, []).append(QueuedItem(str(key), self._sealed(key, value)))
        skip = self.requests.skip_write(values)
        return [
            enqueue(self._request(place, items, gone), skip=skip)
            for place, all_items in parts.items()
            for items in _batched(all_items)
        ]

    def _request(self, place: int, items: tuple[QueuedItem, ...], gone: tuple[str, ...]) -> EnqueueRequest:
        requests, strategy = self.requests, self.strategy
        most = math.ceil(strategy.backlog / strategy.partitions)
        limits = requests.policy.lease_ms, most, strategy.partitions, strategy.wait_s
        nonce, seed = requests.drawn()
        times = requests.timeouts, requests.clock()
        wanted = strategy.durability
        replicas = (0, 0) if wanted is None else (wanted.count, math.ceil(wanted.within_s * 1000))
        return EnqueueRequest(self.root(place), items, gone, nonce, seed, *limits, *times, *replicas)

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

    def peek(self, keys: Iterable[Key]) -> list[tuple[tuple[Key, ...], Step]]:
        """Begin to look for what is queued, with the keys that each step is about."""
        parts: dict[int, list[Key]] = {}
        for key in keys:
            parts.setdefault(place_of(key, self.strategy.partitions), []).append(key)
        return [
            (some, self._ask(PeekEntries(self.root(place), tuple(map(str, some)), 0.0)))
            for place, of_place in parts.items()
            for some in _batched(of_place)
        ]

    def peeked(self, keys: Sequence[Key], outcome: Outcome) -> dict[str, Any]:
        """The queued values of keys that have one.

        Raises:
            CacheConnectionError: The store cannot say; or the value was queued as another type, and only who
                knows that type can read it.
        """
        if self._is_silent(outcome):
            return {}
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
        return self.strategy.reads_in_outage == "load" and not isinstance(outcome, QueueAnswered)

    def value_of(self, entry: QueueEntry) -> Any:
        """The value of an entry."""
        cell = Cell(Kind.VALUE, NO_GRANT, 0, 0, NO_GRANT, entry.body)
        verdict = examine(cell, entry.key, self.codec, None)
        return verdict.value if isinstance(verdict, Servable) else _NOTHING

    def measure(self) -> list[Step]:
        """Begin to measure each partition."""
        places = range(self.strategy.partitions)
        return [self._ask(MeasureQueue(self.root(place), 0.0)) for place in places]

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
        requests = self.requests
        nonce, _ = requests.drawn()
        return replay(
            ReplayRequest(
                letter._root,  # noqa: SLF001 - of this module
                letter._number,  # noqa: SLF001
                letter.key,
                letter._tags,  # noqa: SLF001
                nonce,
                requests.timeouts,
                requests.clock(),
            )
        )

    def drop(self, letters: Iterable[Letter[Any]]) -> list[Step]:
        """Begin to forget letters."""
        numbers: dict[str, list[int]] = {}
        for each in letters:
            numbers.setdefault(each._root, []).append(each._number)  # noqa: SLF001 - of this module
        return [self._ask(DropLetters(root, tuple(some), 0.0)) for root, some in numbers.items()]

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


WriterCall = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A writer, and what it is called with."""


@attrs.frozen
class WriterCalls:
    """How a writer is called with what is queued.

    Args:
        writer: Called with a value; with its id before that, where it takes two.
        write_many: Called with a list of values.
        takes_id: Whether the writer takes two.
        id_of: Gives the id of a value.
        takes_token: Whether what is called wants the tokens: `token=`, or `tokens=` by id.
    """

    writer: Callable[..., Any] | None
    write_many: Callable[..., Any] | None
    takes_id: bool
    id_of: Callable[[Any], Id]
    takes_token: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        many = self.write_many is not None
        takes = takes_keyword(self.write_many if many else self.writer, "tokens" if many else "token")
        object.__setattr__(self, "takes_token", takes)

    def calls(self, writes: Sequence[QueuedWrite]) -> list[WriterCall]:
        """What to call, with which arguments."""
        if self.write_many is not None:
            tokens = {self.id_of(each.value): each.token for each in writes} if self.takes_token else {}
            named = {"tokens": tokens} if self.takes_token else {}
            return [(self.write_many, ([each.value for each in writes],), named)]
        writer = self.writer
        assert writer is not None
        return [
            (
                writer,
                (self.id_of(each.value), each.value) if self.takes_id else (each.value,),
                {"token": each.token} if self.takes_token else {},
            )
            for each in writes
        ]

    def found(self, writes: Sequence[QueuedWrite], returned: Sequence[Any]) -> dict[str, int]:
        """By key the tokens that the database has now, as far as what was called says so."""
        if not self.takes_token:
            return {}
        if self.write_many is not None:
            told = returned[0] if isinstance(returned[0], Mapping) else {}
            tokens = [told.get(self.id_of(each.value)) for each in writes]
        else:
            tokens = list(returned)
        pairs = zip(writes, tokens, strict=True)
        return {each.key: token for each, token in pairs if type(token) is int}


def takes_keyword(function: Callable[..., Any] | None, name: str) -> bool:
    """Whether a function takes an argument by this name."""
    if function is None:
        return False
    try:
        return name in signature(function).parameters
    except (TypeError, ValueError) as error:  # built in, and does not say
        let_through(error)
        return False


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
        raise ConfigurationError(
            f"the queue {name!r} has {outcome.partitions} partitions with {outcome.backlog} writes in them: "
            "a key's writes keep their order in one partition alone. Drain it with partitions="
            f"{outcome.partitions} before you change their number"
        )
    raise_uncertain(outcome)


def queued(
    outcomes: Iterable[Outcome], count: int, durability: AcknowledgedByReplicas | None = None
) -> WriteResult:
    """What a call gives whose writes are queued.

    Raises:
        CacheTimeoutError: There was no room for them in time: they are not queued.
        CacheConnectionError: The store does not serve: they are not queued.
        UnknownOutcomeError: Whether they are queued, or whether readers may still see an older value, is not
            known; or fewer replicas have them than were asked for.
        ConfigurationError: The queue has another number of partitions by now.
    """
    for outcome in sorted(outcomes, key=_is_queued):
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
    return WriteResult(count, 0, 0, None)


def _is_queued(outcome: Outcome) -> bool:
    """Those that are come after those that are not: what is worse is told."""
    return isinstance(outcome, Queued)


def replayed(outcome: Outcome) -> bool:
    """Whether a letter was queued anew; not where a later write of its key was, or where it is gone.

    Raises:
        UnknownOutcomeError: That is not known.
        CacheConnectionError: The store does not serve.
    """
    if isinstance(outcome, Queued) and outcome.tokens[0] < 1:
        return False
    queued((outcome,), 1)
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


def failed_try(error: BaseException) -> Exception:
    """What a writer has raised, as the failure of a try: what ends programs or tasks ends no consumer."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the writer raised {type(error).__name__}")
