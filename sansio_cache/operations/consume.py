"""Consume: apply what is queued, for as long as nobody says to end.

    ConsumeAttending --QueueAttended--> ConsumeRenewing --> the next of these:
      a share too small   ConsumeLeasing (a partition's lease)
      a share too large   ConsumeGivingBack
      a partition         ConsumeTaking --EntriesTaken--> ConsumeApplying (calls the user's writer)
                            --Computed--> ConsumeVoiding --KeysDeleted--> ConsumeSettling --> the next
      none                ConsumeResting, and all of it again
    at the end            ConsumeLeaving, see `leave.py`

One consumer has a partition at a time: by a lease that is renewed, of which the store makes sure whenever it
delivers or settles. A group of consumers alone would not do: one that was held up would apply its entry after
those that another has applied since. One that was held up in the writer itself is too late for that: so the
writer gets tokens, and the database refuses a lower one than it has.

The order is the promise: *apply, then remove the key, then settle*. Settled first, a write would be lost with
its consumer. Without the removal, what a writer had queued and not removed from the cache would stay there.
What was applied and not settled is applied again, by this consumer or another: at least once, and the
token tells. A store that is older than it was may deliver a write that the database refuses, without a word,
as it has a newer one. Until it is settled, a reader may have it from the queue, and store it: so what may be
such a write is removed once more *after* it is settled, and so is what is given up.

A partition that cannot be reached is set aside, and so are keys that cannot be removed: see `aside.py`. All
others go on. Consumers share the partitions by how many they are.
"""

from __future__ import annotations

from typing import Final, assert_never

from msgspec import Struct

from sansio_cache.backoff import draw_at
from sansio_cache.budget import Budget
from sansio_cache.commands import Compute, DeleteKeys, SettleEntries, TakeEntries
from sansio_cache.events import (
    ComputeAnswer,
    Computed,
    ComputeFailed,
    DeleteAnswer,
    EntriesSettled,
    EntriesTaken,
    Event,
    Interrupted,
    KeysDeleted,
    SettleAnswer,
    StoreFailed,
    TakeAnswer,
)
from sansio_cache.notices import (
    Invalidated,
    InvalidationFailed,
    Notice,
    PartitionMeasured,
    RemovalBegan,
    WriteDead,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.operations.aside import Group, done_with, given_up, keys_of
from sansio_cache.operations.batching import Unit, coalesced
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.operations.leave import ConsumeLeaving
from sansio_cache.operations.sharing import (
    AsksForConsumer,
    ConsumeAttending,
    ConsumeGivingBack,
    ConsumeLeasing,
    Sharing,
)
from sansio_cache.queues import QueuedWrite, Turn, TurnEnd, waited_s
from sansio_cache.step import AsksStore, Step, evolve, gave_up, unexpected, went_without

_GAP_US: Final = 1_000_000
"""How far above the token that a database has a stream goes on at most."""


def consume(request: ConsumeRequest) -> Step:
    """Begin to consume."""
    return Consumer(request).go_on(request.started_s)


class Consumer(Sharing, frozen=True):
    """What a consumer has in hand, and what it does next."""

    def go_on(self, now_s: float, *notices: Notice) -> Step:
        """What is to be done next."""
        request = self.request
        budget = request.timeouts.from_now(now_s)
        if self.is_over:
            return ConsumeLeaving(self, budget).ask(*notices)
        if now_s >= self.attends_s:
            return ConsumeAttending(self, budget).ask(*notices)
        if len(self.holdings) > self.share:
            return ConsumeGivingBack(self, self.holdings[-1].place, budget).ask(*notices)
        consumer = self
        for place in self.in_turn:
            held = consumer.holding(place)
            if held is None:
                continue
            aside = consumer.aside(place)
            if aside.kept and not aside.removes_s:
                rest = evolve(aside, kept=aside.kept[1:])
                after = consumer.with_aside(rest)
                return ConsumeVoiding(after, place, aside.kept[0], budget, was_kept=True).ask(*notices)
            due = held.due(now_s, request.codec, request.failing, request.seed)
            if due.unread:
                notices = (*notices, WriterFailed(request.root(place), due.unread, ""))
            consumer = consumer.with_holding(due.holding)
            if due.given_up:
                return void(consumer, place, given_up(due.verdicts, due.given_up), now_s, *notices)
            if due.unit is not None:
                return ConsumeApplying(consumer, place, due.unit, now_s).ask(due.writes, *notices)
            if place not in self.visited and consumer.has_room(due.holding):
                return ConsumeTaking(consumer.visiting(place), place, budget).ask(*notices)
        wanted = consumer.wanted
        if wanted is not None:
            trying = evolve(consumer, tried=consumer.tried | {wanted})
            return ConsumeLeasing(trying, wanted, budget).ask(*notices)
        if self.is_busy:
            return consumer.next_round().awake(now_s).go_on(now_s, *notices)
        return consumer.rest(consumer.pause_s(now_s), now_s, *notices)


class ConsumeTaking(AsksForConsumer, Struct, frozen=True):
    """Waits for the entries of a partition.

    Next: ConsumeTaking | ConsumeVoiding | ConsumeResting | ConsumeLeasing | ConsumeReleasing
        | ConsumeApplying | ConsumeAttending
    """

    consumer: Consumer
    place: int
    budget: Budget
    is_again: bool = False
    """Whether it has asked before, and nobody knows what was delivered then."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request, holding = self.consumer.request, self.consumer.holding(self.place)
        assert holding is not None
        aside = self.consumer.aside(self.place)
        most_bytes = aside.narrowed(request.most_bytes)
        limits = holding.taken, request.batch, most_bytes, self.budget.timeout_s
        is_again = self.is_again or aside.failures > 0
        command = TakeEntries(request.root(self.place), holding.grant, *limits, is_again)
        return Step(self, command, notices=notices)

    def retry(self, failure: StoreFailed) -> Step | None:
        """The same command once more, which does not count what was delivered by this attempt."""
        return AsksStore.retry(evolve(self, is_again=True), failure)

    def receive(self, event: Event) -> Step:
        """Apply them."""
        if not isinstance(event, TakeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case EntriesTaken(now_s=now_s, is_ours=False):
                return consumer.lost(self.place, now_s)
            case EntriesTaken(entries=()):
                return self._found_nothing(event)
            case EntriesTaken():
                return self._taken(event)
            case StoreFailed(kind=kind):
                aside = consumer.aside(self.place)
                less = aside if kind.is_refusal else aside.narrower()
                return self.retry(event) or consumer.with_aside(less).miss(event, self.place)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)

    @property
    def _reached(self) -> Consumer:
        """The consumer when an answer has come: soon more may be asked for again."""
        consumer = self.consumer.reached(self.place)
        return consumer.with_aside(consumer.aside(self.place).wider())

    def _found_nothing(self, taken: EntriesTaken) -> Step:
        """Go on; from the beginning, where there are entries that were passed, and are in nobody's hands.

        A store that is older than it was, after a failover or a restart, has entries again that were settled,
        and may have the lease of this very consumer.
        """
        consumer = self._reached
        holding = consumer.holding(self.place)
        assert holding is not None
        is_in_hand = holding.parked or consumer.aside(self.place).kept
        if taken.oldest and holding.taken and not is_in_hand:
            consumer = evolve(consumer.with_holding(holding.begun_anew()), is_busy=True)
        return consumer.go_on(taken.now_s, self._measured(taken))

    def _taken(self, taken: EntriesTaken) -> Step:
        consumer, now_s = self._reached, taken.now_s
        request, holding = consumer.request, consumer.holding(self.place)
        assert holding is not None
        pieces, dead = coalesced(taken.entries, request.failing.deliveries)
        fresh, holding = holding.merged(pieces)
        holding = holding.after(taken.entries[-1].token, taken.server_ms)
        if fresh:
            holding = evolve(holding, parked=(*holding.parked, Unit(fresh, due_s=now_s)))
        is_busy = consumer.is_busy or taken.backlog > len(taken.entries)
        consumer, measured = evolve(consumer.with_holding(holding), is_busy=is_busy), self._measured(taken)
        if dead:
            return void(consumer, self.place, given_up(dead), now_s, measured)
        return consumer.go_on(now_s, measured)

    def _measured(self, taken: EntriesTaken) -> PartitionMeasured:
        root, oldest_s = self.consumer.request.root(self.place), waited_s(taken.oldest, taken.server_ms)
        return PartitionMeasured(root, taken.backlog, oldest_s, taken.now_s)


class ConsumeApplying(Struct, frozen=True):
    """Waits for the user's writer, while the leases are renewed.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeResting | ConsumeReleasing
    """

    consumer: Consumer
    place: int
    unit: Unit
    began_s: float

    def ask(self, writes: tuple[QueuedWrite, ...], *notices: Notice) -> Step:
        """The step that waits in this state."""
        root = self.consumer.request.root(self.place)
        renewal = self.consumer.renewal(self.began_s)
        return Step(self, Compute(root, renewal, Turn(writes)), notices=notices)

    def receive(self, event: Event) -> Step:
        """Remove the keys; or park the writes, or give one up."""
        if not isinstance(event, ComputeAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case Computed(now_s=now_s, value=TurnEnd(failed="") as end):
                return self._applied(end, now_s)
            case Computed(now_s=now_s, value=TurnEnd(failed=error, is_over=is_over)):
                return self._failed(error, now_s, is_over=is_over)
            case Computed():
                raise unexpected(self, event)
            case ComputeFailed(now_s=now_s, error=error):
                return self._failed(type(error).__name__, now_s)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)

    def _applied(self, end: TurnEnd, now_s: float) -> Step:
        consumer, unit = self.consumer, self.unit
        holding = consumer.holding(self.place)
        assert holding is not None
        consumer = evolve(consumer.with_holding(holding.succeeded(now_s)), is_over=end.is_over)
        group = tuple(
            done_with(
                piece,
                found=_beyond(end.found.get(piece.key, 0), piece.token, consumer.request.seed),
                may_be_old=piece.token <= holding.doubted,
            )
            for piece in unit.pieces
        )
        keys = tuple(piece.key for piece in unit.pieces)
        coalesced = sum(len(each.verdicts) - 1 for each in group)
        applied = WritesApplied(keys, coalesced, now_s - self.began_s)
        return void(consumer, self.place, group, now_s, applied)

    def _failed(self, error: str, now_s: float, *, is_over: bool = False) -> Step:
        consumer = evolve(self.consumer, is_over=is_over)
        request, holding = consumer.request, consumer.holding(self.place)
        assert holding is not None
        piece, holding = holding.failed(self.unit, request.failing, now_s, request.seed)
        failed = WriterFailed(request.root(self.place), len(self.unit.pieces), error)
        consumer = consumer.with_holding(holding)
        if piece is None:
            return consumer.go_on(now_s, failed)
        reason = f"the writer has failed {piece.failed} times, at last with {error}"
        return void(consumer, self.place, given_up(piece.verdicts(reason=reason), (piece,)), now_s, failed)


def _beyond(found: int, token: int, seed: int) -> int:
    """Where the stream is to go on, where the database has a higher token than that of a write; else 0.

    That is up to a second above, by chance. Else a store that has lost its tokens would issue those again
    that came next: a database that has one for a lost write would take the new write for applied.
    """
    return found + 1 + int(draw_at(seed, found) * _GAP_US) if found > token else 0


def void(consumer: Consumer, place: int, group: Group, now_s: float, *notices: Notice) -> Step:
    """Remove the keys of writes that are done with, and settle them after those that are kept of the keys."""
    group, aside = consumer.aside(place).joined(group)
    budget = consumer.request.timeouts.from_now(now_s)
    return ConsumeVoiding(consumer.with_aside(aside), place, group, budget).ask(*notices)


class ConsumeVoiding(AsksForConsumer, Struct, frozen=True):
    """Waits for the keys to be gone. The writes of those that are not are kept, and not settled yet.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeSettling | ConsumeResting | ConsumeLeaving | ConsumeReleasing
    """

    consumer: Consumer
    place: int
    group: Group
    """Without verdicts, where it is settled already."""
    budget: Budget
    was_kept: bool = False
    """Whether it was tried before, a while ago."""

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        keys = keys_of(self.group)
        return Step(self, DeleteKeys(keys, self.budget.timeout_s), notices=(*notices, RemovalBegan(keys)))

    def receive(self, event: Event) -> Step:
        """Settle what is gone, or go on."""
        if not isinstance(event, DeleteAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case KeysDeleted(now_s=now_s, left=left, failures=failures):
                again = self.retry_parts(failures)
                return again or self._removed(frozenset(left), now_s, *went_without(failures))
            case StoreFailed(now_s=now_s):
                if (again := self.retry(event)) is not None:
                    return again
                if self._is_settled:
                    return consumer.go_on(now_s, *gave_up(event), InvalidationFailed(keys_of(self.group)))
                kept = consumer.keeping(self.place, self.group, now_s, in_halves=True)
                return kept.go_on(now_s, *gave_up(event))
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)

    @property
    def _is_settled(self) -> bool:
        return not any(each.verdicts for each in self.group)

    def _removed(self, left: frozenset[str], now_s: float, *notices: Notice) -> Step:
        consumer, keys = self.consumer, keys_of(self.group)
        removed = Invalidated(tuple(key for key in keys if key not in left))
        if self._is_settled:
            pending = (InvalidationFailed(tuple(key for key in keys if key in left)),) if left else ()
            return consumer.go_on(now_s, *notices, removed, *pending)
        kept = tuple(each for each in self.group if not left.isdisjoint(each.keys))
        if kept:
            consumer = consumer.keeping(self.place, kept, now_s)
        elif self.was_kept:
            consumer = consumer.with_aside(consumer.aside(self.place).removed())
        gone = tuple(each for each in self.group if left.isdisjoint(each.keys))
        if not gone:
            return consumer.go_on(now_s, *notices, removed)
        budget = consumer.request.timeouts.from_now(now_s)
        return ConsumeSettling(consumer, self.place, gone, budget).ask(*notices, removed)


class ConsumeSettling(AsksForConsumer, Struct, frozen=True):
    """Waits for entries to be out of their partition.

    Next: ConsumeAttending | ConsumeLeasing | ConsumeTaking | ConsumeApplying | ConsumeVoiding
        | ConsumeSettling | ConsumeResting | ConsumeLeaving | ConsumeReleasing
    """

    consumer: Consumer
    place: int
    group: Group
    budget: Budget

    def ask(self, *notices: Notice) -> Step:
        """The step that waits in this state."""
        request, holding = self.consumer.request, self.consumer.holding(self.place)
        assert holding is not None
        root, timeout_s = request.root(self.place), self.budget.timeout_s
        verdicts = tuple(verdict for each in self.group for verdict in each.verdicts)
        return Step(self, SettleEntries(root, holding.grant, verdicts, timeout_s), notices=notices)

    def receive(self, event: Event) -> Step:
        """Go on."""
        if not isinstance(event, SettleAnswer):
            raise unexpected(self, event)
        consumer = self.consumer
        match event:
            case EntriesSettled(now_s=now_s, is_ours=False):
                return consumer.lost(self.place, now_s)
            case EntriesSettled(now_s=now_s):
                return self._settled(now_s)
            case StoreFailed(now_s=now_s):
                again, kept = self.retry(event), consumer.keeping(self.place, self.group, now_s)
                return again or kept.miss(event, self.place)
            case Interrupted(now_s=now_s):
                return consumer.release(now_s)
            case _:
                assert_never(event)

    def _settled(self, now_s: float) -> Step:
        consumer = self.consumer.reached(self.place)
        again = tuple(each for each in self.group if each.goes_again)
        if not again:
            return consumer.go_on(now_s)
        # A reader may have had it from the queue, and stored it since the removal before.
        verdicts = (verdict for each in again for verdict in each.verdicts if verdict.reason)
        told = (WriteDead(each.key, each.reason) for each in verdicts)
        group = tuple(evolve(each, verdicts=()) for each in again)
        return ConsumeVoiding(consumer, self.place, group, consumer.request.timeouts.from_now(now_s)).ask(
            *told
        )
