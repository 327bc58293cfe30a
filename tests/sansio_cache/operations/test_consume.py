"""Consumers against a memory store, with time that passes as they rest.

Every interleaving is explored in `test_queue_exploration.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from sansio_cache.cell import Cell, Kind
from sansio_cache.codec import Codec, codec_for
from sansio_cache.commands import (
    Append,
    AppendEntries,
    AttendQueue,
    Compute,
    DeleteKeys,
    HoldCells,
    ReadLetters,
    ReleaseLeases,
    RenewLeases,
    SettleEntries,
    StoreCommand,
    TakeEntries,
    TakeLock,
)
from sansio_cache.entry import seal
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    EntriesAppended,
    EntriesTaken,
    Event,
    FailureKind,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    StoreFailed,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Invalidated,
    InvalidationFailed,
    PartitionLost,
    PartitionMeasured,
    PartitionTaken,
    RemovalBegan,
    StoreGaveUp,
    WriteDead,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.operations.aside import Done
from sansio_cache.operations.batching import MOST_PARKED, Failing, Holding
from sansio_cache.operations.consume import _beyond, consume
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.operations.sharing import Sharing
from sansio_cache.queues import QueuedWrite, Turn, TurnEnd, hold_of, lease_of, place_of, root_of
from sansio_cache.step import Abandoned, Completed, Step
from support.machines import INTS, TIMEOUTS, Clock

ROOT = root_of("shop:", "orders", 0)
Writer = Callable[[tuple[QueuedWrite, ...]], dict[str, int] | None]


class Consuming:
    """A consumer and its writer: what it commits is in `database`, by key, with the token."""

    def __init__(
        self,
        store: MemoryStore,
        clock: Clock,
        member: bytes = b"member-1",
        *,
        partitions: int = 1,
        batch: int = 100,
        deliveries: int | None = 3,
        codec: Codec[Any] = INTS,
    ) -> None:
        self.store, self.clock = store, clock
        self.database: dict[str, tuple[Any, int]] = {}
        self.writer: Writer = self.write
        self.batches: list[list[str]] = []
        self.notices: list[Any] = []
        self.fault: Callable[[StoreCommand], FailureKind | None] = lambda _: None
        self.perform: Callable[[Any], Event] = store.perform
        failing = Failing(deliveries, 0.1, 1.0)
        limits = 9_000, batch, 10**6, 0.2, failing, TIMEOUTS, clock()
        self.step = consume(ConsumeRequest("shop:", "orders", partitions, codec, member, 1, *limits))
        self.is_over = False

    def write(self, writes: tuple[QueuedWrite, ...]) -> dict[str, int] | None:
        for each in writes:
            if each.token > self.database.get(each.key, (0, 0))[1]:
                self.database[each.key] = each.value, each.token
        return None

    def advance(self) -> None:
        """Perform the pending command."""
        command = self.step.command
        assert command is not None
        self.step = self.step.state.receive(self._event(command))
        self.notices += self.step.notices

    def _event(self, command: Any) -> Event:
        if isinstance(command, Compute):
            turn = command.previous
            assert isinstance(turn, Turn)
            self.clock.advance(turn.rest_s)
            if not turn.writes:
                return Computed(self.clock(), TurnEnd(is_over=self.is_over))
            self.batches.append([each.key for each in turn.writes])
            try:
                found = self.writer(turn.writes)
            except Exception as error:
                return ComputeFailed(self.clock(), error)
            return Computed(self.clock(), TurnEnd(found or {}, self.is_over))
        kind = self.fault(command)
        return self.perform(command) if kind is None else StoreFailed(self.clock(), kind)

    def until(self, wanted: Callable[[Step], bool], most: int = 5_000) -> None:
        """Advance until a step is as wanted."""
        for _ in range(most):
            if wanted(self.step):
                return
            self.advance()
        raise AssertionError("it never came to that")

    def rest(self) -> None:
        """Advance until it has rested a few times with nothing parked: there is nothing left to do."""
        for _ in range(3):
            self.until(lambda step: is_resting(step) and not any(each.parked for each in self.holdings))
            self.advance()
        self.until(is_resting)

    def end(self) -> None:
        self.is_over = True
        self.until(lambda step: step.command is None)

    @property
    def holdings(self) -> tuple[Holding, ...]:
        state: Any = self.step.state
        return getattr(getattr(state, "consumer", None), "holdings", ())

    @property
    def places(self) -> set[int]:
        return {each.place for each in self.holdings}

    def told(self, kind: type) -> list[Any]:
        return [each for each in self.notices if isinstance(each, kind)]


def is_resting(step: Step) -> bool:
    command = step.command
    return isinstance(command, Compute) and not command.previous.writes


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


def queue(store: MemoryStore, key: str, value: Any = 7, partitions: int = 1, body: bytes = b"") -> int:
    """Queue a write."""
    root = root_of("shop:", "orders", place_of(key, partitions))
    held = store.perform(HoldCells((hold_of(root, key),), b"writer-1", 1_000, 1.0))
    assert isinstance(held, HoldsTaken)
    body = body or seal(key, INTS, INTS.encode(value).payload, 0.0)
    append = Append(key, held.grants[0], body, ("shop:%g:order:list",))
    appended = store.perform(AppendEntries(root, (append,), 10_000, partitions, 1.0))
    assert isinstance(appended, EntriesAppended)
    return appended.tokens[0]


def backlog(store: MemoryStore) -> int:
    return sum(len(each.entries) for each in store.queues.values())


def test_the_newest_write_of_each_key_is_applied_and_the_older_ones_leave_with_it(store, clock):
    queue(store, "shop:a", 1)
    queue(store, "shop:b", 2)
    newest = queue(store, "shop:a", 3)
    consuming = Consuming(store, clock)

    consuming.rest()

    assert consuming.batches == [["shop:a", "shop:b"]]
    assert consuming.database["shop:a"] == (3, newest)
    assert backlog(store) == 0
    assert consuming.told(WritesApplied) == [WritesApplied(("shop:a", "shop:b"), 1, 0.0)]


def test_it_applies_then_removes_the_keys_and_tags_then_settles(store, clock):
    queue(store, "shop:a")
    consuming = Consuming(store, clock)
    consuming.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
    consuming.advance()
    assert consuming.database
    assert isinstance(consuming.step.command, DeleteKeys)
    assert consuming.step.command.keys == ("shop:a", "shop:%g:order:list")
    assert backlog(store) == 1
    consuming.advance()
    assert isinstance(consuming.step.command, SettleEntries)
    consuming.advance()
    assert backlog(store) == 0


def test_more_than_a_batch_is_taken_without_a_rest(store, clock):
    for number in range(10):
        queue(store, f"shop:{number}")
    consuming = Consuming(store, clock, batch=4)
    began_s = clock()
    consuming.until(is_resting)
    assert [len(batch) for batch in consuming.batches] == [4, 4, 2]
    assert clock() == began_s


def test_a_writer_that_raises_once_has_all_applied(store, clock):
    for number in range(5):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    failures = [RuntimeError("database")]

    def write(writes):
        if failures:
            raise failures.pop()
        return consuming.write(writes)

    consuming.writer = write
    consuming.rest()
    assert {key: value for key, (value, _) in consuming.database.items()} == {
        f"shop:{number}": number for number in range(5)
    }
    assert consuming.told(WriterFailed) == [WriterFailed(root_of("shop:", "orders", 0), 5, "RuntimeError")]
    assert not consuming.told(WriteDead)


def poisoned(consuming, poison):
    def write(writes):
        if poison in {each.key for each in writes}:
            raise ValueError("poison")
        return consuming.write(writes)

    return write


def test_one_poison_write_is_given_up_and_no_other(store, clock):
    for number in range(100):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    consuming.writer = poisoned(consuming, "shop:37")

    consuming.rest()

    assert len(consuming.database) == 99
    reason = "the writer has failed 3 times, at last with ValueError"
    assert consuming.told(WriteDead) == [WriteDead("shop:37", reason)]
    (letter,) = store.queues[root_of("shop:", "orders", 0)].letters.values()
    assert (letter.key, letter.reason) == ("shop:37", reason)
    # It was found by halves: the others did not wait for it one by one.
    assert len(consuming.batches) < 30


def test_two_poison_writes_are_found_as_well(store, clock):
    for number in range(20):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)

    def write(writes):
        if {"shop:3", "shop:17"} & {each.key for each in writes}:
            raise ValueError("poison")
        return consuming.write(writes)

    consuming.writer = write
    consuming.rest()
    assert len(consuming.database) == 18
    assert {each.key for each in consuming.told(WriteDead)} == {"shop:3", "shop:17"}


def test_while_the_database_is_away_a_batch_is_not_given_up(store, clock):
    for number in range(64):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    back_s = clock() + 2.0

    def write(writes):
        if clock() < back_s:
            raise ConnectionError("database")
        return consuming.write(writes)

    consuming.writer = write
    consuming.rest()
    assert len(consuming.database) == 64
    assert not consuming.told(WriteDead)


def test_a_later_write_takes_the_place_of_one_that_has_failed(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)

    def write(writes):
        if any(each.value == 1 for each in writes):
            raise ValueError("poison")
        return consuming.write(writes)

    consuming.writer = write
    consuming.until(lambda _: bool(consuming.told(WriterFailed)))
    queue(store, "shop:a", 2)
    consuming.rest()
    assert consuming.database["shop:a"][0] == 2
    assert backlog(store) == 0
    assert not consuming.told(WriteDead)


def test_without_a_limit_nothing_is_ever_given_up(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=None)
    consuming.writer = poisoned(consuming, "shop:a")
    consuming.until(lambda _: len(consuming.batches) > 30)
    assert backlog(store) == 1


def test_what_cannot_be_read_is_tried_as_often_as_a_write_that_fails_by_itself(store, clock):
    queue(store, "shop:a", body=b"of another version")
    queue(store, "shop:b", 2)
    consuming = Consuming(store, clock)
    consuming.rest()
    assert consuming.batches == [["shop:b"]]
    assert consuming.database.keys() == {"shop:b"}
    assert [each.key for each in consuming.told(WriteDead)] == ["shop:a"]
    root = root_of("shop:", "orders", 0)
    assert consuming.told(WriterFailed) == [WriterFailed(root, 1, "")] * 3
    (letter,) = store.queues[root].letters.values()
    assert "queued as another type" in letter.reason


def test_what_cannot_be_read_here_is_applied_by_a_consumer_that_can(store, clock):
    """As while programs are replaced, one after another: the old ones cannot read what the new ones write."""
    texts = codec_for(str, 1_000)
    queue(store, "shop:a", body=seal("shop:a", texts, texts.encode("new").payload, 0.0))
    old = Consuming(store, clock)
    old.until(lambda _: len(old.told(WriterFailed)) == 2)
    old.end()
    new = Consuming(store, clock, b"member-2", codec=texts)
    new.rest()
    assert new.database["shop:a"][0] == "new"
    assert backlog(store) == 0
    assert not old.told(WriteDead)
    assert not new.told(WriteDead)


def test_each_attempt_is_given_a_value_that_nobody_has_changed(store, clock):
    lists = codec_for(list[int], 1_000)
    queue(store, "shop:a", body=seal("shop:a", lists, lists.encode([7]).payload, 0.0))
    consuming = Consuming(store, clock, codec=lists)
    seen = []

    def write(writes):
        seen.append(writes[0].value.pop())
        if len(seen) == 1:
            raise ConnectionError("database")

    consuming.writer = write
    consuming.rest()
    assert seen == [7, 7]


def test_a_writer_that_has_failed_says_when_to_end_as_well(store, clock):
    for number in range(8):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    consuming.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
    consuming.step = consuming.step.state.receive(Computed(clock(), TurnEnd({}, True, "ConnectionError")))
    assert WriterFailed(root_of("shop:", "orders", 0), 8, "ConnectionError") in consuming.step.notices
    consuming.until(lambda step: step.command is None)
    assert consuming.step.outcome == Completed()
    assert consuming.batches == []
    assert backlog(store) == 8


def test_what_ends_consumers_is_delivered_by_itself_and_then_given_up(store, clock):
    queue(store, "shop:a", 1)
    queue(store, "shop:b", 2)
    for _ in range(3 + 3):
        dying = Consuming(store, clock)
        dying.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
        store.plant(lease_of(root_of("shop:", "orders", 0)), None, 0)
    assert dying.step.command.previous.writes[0].key == "shop:a"
    assert len(dying.step.command.previous.writes) == 1
    consuming = Consuming(store, clock)
    consuming.rest()
    assert consuming.database.keys() == {"shop:b"}
    (dead,) = consuming.told(WriteDead)
    assert "consumers have ended" in dead.reason


def test_a_database_that_is_ahead_of_the_stream_gets_the_write_under_a_higher_token(store, clock):
    """After a failover the stream may have lost tokens that were applied already."""
    first = queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    ahead = first + 10**9
    consuming.database["shop:a"] = 0, ahead

    def write(writes):
        consuming.write(writes)
        return {each.key: consuming.database[each.key][1] for each in writes}

    consuming.writer = write
    consuming.rest()
    value, token = consuming.database["shop:a"]
    assert value == 1
    assert token > ahead
    assert backlog(store) == 0
    assert queue(store, "shop:b") > ahead


def test_a_store_that_has_lost_its_tokens_does_not_issue_those_again_that_came_next(store, clock):
    """Seen in the simulation: where a clock is behind, tokens follow each other, and go on from there.

    The write of another key had the very token that the database had for it, and was taken for applied.
    """
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    ahead = int(clock() * 10**6) + 10**9
    lost = {f"shop:{number}": ahead + number for number in range(1, 20)}
    consuming.database |= {"shop:a": (0, ahead), **{key: (0, token) for key, token in lost.items()}}

    def write(writes):
        if any(each.key == "shop:a" for each in writes):  # the newer one takes its place: nothing is appended
            queue(store, "shop:a", 2)
        consuming.write(writes)
        return {each.key: consuming.database[each.key][1] for each in writes}

    consuming.writer = write
    consuming.until(lambda step: bool(consuming.batches) and isinstance(step.command, Compute))
    for key in lost:
        queue(store, key, 3)
    consuming.writer = consuming.write
    consuming.rest()
    assert {consuming.database[key][0] for key in lost} == {3}


@pytest.mark.parametrize("found", [0, 10, 11])
def test_what_the_database_has_that_is_no_higher_is_no_reason_to_queue_again(found):
    assert _beyond(found, 11, seed=1) == 0


def test_a_stream_goes_on_somewhere_within_a_second_of_what_the_database_has():
    gaps = {_beyond(1_000, 11, seed) - 1_000 for seed in range(500)}
    assert len(gaps) > 490
    assert 1 <= min(gaps) < max(gaps) <= 1_000_000


def test_consumers_share_the_partitions_as_they_come_and_go(store, clock):
    first = Consuming(store, clock, b"member-1", partitions=4)
    first.rest()
    assert first.places == {0, 1, 2, 3}
    second = Consuming(store, clock, b"member-2", partitions=4)
    for _ in range(200):
        first.advance()
        second.advance()
    assert first.places | second.places == {0, 1, 2, 3}
    assert len(first.places) == len(second.places) == 2
    second.end()
    assert second.step.outcome == Completed()
    for _ in range(200):
        first.advance()
    assert first.places == {0, 1, 2, 3}
    assert first.told(PartitionTaken)
    assert first.told(PartitionLost)


def test_what_a_dead_consumer_left_is_claimed_when_its_lease_is_over(store, clock):
    queue(store, "shop:a", 1)
    dead = Consuming(store, clock, b"member-1")
    dead.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
    heir = Consuming(store, clock, b"member-2")
    heir.until(lambda _: bool(heir.database))
    assert clock() >= 1_000.0 + 9.0
    heir.rest()
    assert backlog(store) == 0


@pytest.mark.parametrize("kind", [TakeEntries, SettleEntries])
def test_one_whose_lease_is_anothers_by_now_does_no_more(store, clock, kind):
    queue(store, "shop:a", 1)
    late = Consuming(store, clock, b"member-1")
    late.until(lambda step: isinstance(step.command, kind))
    store.plant(lease_of(root_of("shop:", "orders", 0)), None, 0)
    other = Consuming(store, clock, b"member-2")
    other.until(lambda step: isinstance(step.command, Compute))
    late.advance()
    assert late.places == set()
    assert late.told(PartitionLost)
    assert backlog(store) == 1


def test_one_that_cannot_reach_the_store_says_that_it_has_no_partition_any_more(store, clock):
    """Another may have them by then: who counts what is queued in them must not go on with the old count."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, partitions=2)
    consuming.rest()
    measured = {each.root for each in consuming.told(PartitionMeasured)}
    assert measured == {root_of("shop:", "orders", place) for place in range(2)}
    consuming.fault = lambda _: FailureKind.CONNECTION
    consuming.until(lambda _: not consuming.holdings)
    assert {each.root for each in consuming.told(PartitionLost)} == measured
    consuming.fault = lambda _: None
    consuming.rest()
    assert consuming.places == {0, 1}


def test_a_lease_that_was_lost_is_taken_again(store, clock):
    consuming = Consuming(store, clock)
    consuming.rest()
    store.plant(lease_of(root_of("shop:", "orders", 0)), None, 0)
    consuming.until(lambda _: bool(consuming.told(PartitionLost)))
    consuming.rest()
    assert consuming.places == {0}


@pytest.mark.parametrize("kind", [TakeEntries, DeleteKeys, SettleEntries])
def test_where_the_store_fails_it_begins_anew_and_loses_nothing(store, clock, kind):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    failures = [FailureKind.OTHER]
    consuming.fault = lambda command: failures.pop() if failures and isinstance(command, kind) else None
    consuming.until(lambda _: not failures)
    consuming.rest()
    assert consuming.database["shop:a"][0] == 1
    assert backlog(store) == 0


def test_it_pauses_for_longer_while_the_store_is_away(store, clock):
    consuming = Consuming(store, clock)
    consuming.fault = lambda _: FailureKind.OTHER
    pauses = []
    for _ in range(5):
        consuming.until(is_resting)
        pauses.append(consuming.step.command.previous.rest_s)
        consuming.advance()
    assert pauses[0] < 0.1 < pauses[-1] <= 1.0


def test_one_that_is_told_to_end_settles_and_gives_its_leases_back(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    consuming.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
    consuming.end()
    assert consuming.step.outcome == Completed()
    assert backlog(store) == 0
    other = Consuming(store, clock, b"member-2")
    other.until(is_resting)
    assert other.places == {0}
    assert clock() == 1_000.0


def test_one_that_is_interrupted_in_its_writer_gives_its_leases_back(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    consuming.until(lambda step: isinstance(step.command, Compute) and bool(step.command.previous.writes))
    step = consuming.step.state.receive(Interrupted(clock()))
    assert isinstance(step.command, ReleaseLeases)
    step = step.state.receive(store.perform(step.command))
    assert step.outcome == Abandoned()
    assert backlog(store) == 1


def test_one_without_anybody_to_ask_ends(store, clock):
    consuming = Consuming(store, clock)
    consuming.until(is_resting)
    consuming.step = consuming.step.state.receive(ComputeFailed(clock(), RuntimeError("no loop")))
    consuming.until(lambda step: step.command is None)
    assert consuming.step.outcome == Completed()


def test_what_is_no_end_of_a_turn_is_refused(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    consuming.until(lambda step: isinstance(step.command, Compute))
    with pytest.raises(ProtocolError):
        consuming.step.state.receive(Computed(clock(), None))
    consuming.until(is_resting)
    with pytest.raises(ProtocolError):
        consuming.step.state.receive(Computed(clock(), None))


def test_a_write_for_the_writer_can_be_hashed_whatever_its_value():
    assert len({QueuedWrite("shop:a", [1], 5), QueuedWrite("shop:a", [1], 5)}) == 1


def test_what_a_store_that_is_older_than_it_was_has_again_is_applied(store, clock):
    """A failover, or a restart from a snapshot, brings settled entries back, and this very lease."""
    first = queue(store, "shop:a", 1)
    root = root_of("shop:", "orders", 0)
    consuming = Consuming(store, clock)
    consuming.until(lambda step: bool(consuming.holdings))
    before = store.queues[root].copy()
    queue(store, "shop:b", 2)
    consuming.rest()
    assert backlog(store) == 0

    store.queues[root] = before
    consuming.database.clear()  # or it would say that it has it
    consuming.rest()

    assert backlog(store) == 0
    assert consuming.database == {"shop:a": (1, first)}


def test_what_is_parked_is_passed_and_not_taken_again(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=None)
    consuming.writer = lambda _: 1 / 0
    for _ in range(60):
        consuming.advance()
    assert len(consuming.batches) > 2
    assert {each.taken for each in consuming.holdings} == {next(iter(store.queues.values())).last}


# What cannot be reached.


def about(place: int) -> Callable[[StoreCommand], FailureKind | None]:
    """A partition is on a node that is away: all that names its keys fails."""
    root = root_of("shop:", "orders", place)

    def fault(command: Any) -> FailureKind | None:
        leases = (each.key for each in getattr(command, "leases", ()))
        named = (getattr(command, "root", ""), getattr(command, "key", ""), *leases)
        return FailureKind.CONNECTION if any(each.startswith(root) for each in named) else None

    return fault


def spread(store: MemoryStore, partitions: int = 4, count: int = 24) -> set[str]:
    keys = {f"shop:{number}" for number in range(count)}
    for key in keys:
        queue(store, key, partitions=partitions)
    assert {place_of(key, partitions) for key in keys} == set(range(partitions))
    return keys


@pytest.mark.parametrize("away", [1, 3])
def test_a_partition_that_cannot_be_reached_keeps_no_other_from_being_applied(store, clock, away):
    keys = spread(store)
    consuming = Consuming(store, clock, partitions=4)
    consuming.fault = about(away)
    consuming.until(lambda _: clock() > 1_020.0)
    assert consuming.database.keys() == {key for key in keys if place_of(key, 4) != away}
    assert consuming.places == {0, 1, 2, 3} - {away}
    consuming.fault = lambda _: None
    consuming.rest()
    assert consuming.database.keys() == keys
    assert consuming.places == {0, 1, 2, 3}


def test_all_partitions_but_the_first_are_shared_while_that_cannot_be_reached(store, clock):
    """It is the one in which consumers say that they are there."""
    keys = spread(store)
    consuming = Consuming(store, clock, partitions=4)
    consuming.fault = about(0)
    consuming.until(lambda _: clock() > 1_020.0)
    assert consuming.database.keys() == {key for key in keys if place_of(key, 4) != 0}


def test_a_partition_that_is_lost_from_sight_is_gone_on_with_where_it_was(store, clock):
    """Nobody else has had its lease: what is in hand of it need not be delivered once more."""
    key = next(f"shop:{number}" for number in range(99) if place_of(f"shop:{number}", 2) == 1)
    queue(store, key, partitions=2)
    consuming = Consuming(store, clock, partitions=2)
    consuming.writer = poisoned(consuming, key)
    consuming.until(lambda _: bool(consuming.told(WriterFailed)))
    consuming.fault = about(1)
    consuming.until(lambda _: consuming.places == {0})
    consuming.fault = lambda _: None
    consuming.writer = consuming.write
    consuming.until(lambda _: key in consuming.database)
    root = root_of("shop:", "orders", 1)
    assert [each.deliveries for each in store.queues[root].entries.values()] == [1]
    assert [each.root for each in consuming.told(PartitionLost)] == [root]
    assert consuming.told(PartitionTaken)[-1].root == root
    consuming.rest()
    assert backlog(store) == 0


def test_a_partition_that_another_has_had_meanwhile_is_begun_anew(store, clock):
    queue(store, "shop:a", 1)
    root = root_of("shop:", "orders", 0)
    consuming = Consuming(store, clock)
    consuming.writer = poisoned(consuming, "shop:a")
    consuming.until(lambda _: bool(consuming.told(WriterFailed)))
    consuming.fault = lambda _: FailureKind.CONNECTION
    consuming.until(lambda _: not consuming.places)
    store.plant(lease_of(root), None, 0)
    consuming.fault = lambda _: None
    consuming.writer = consuming.write
    consuming.rest()
    assert consuming.database["shop:a"][0] == 1
    assert backlog(store) == 0


def test_one_that_comes_back_to_a_partition_of_anothers_forgets_it(store, clock):
    consuming = Consuming(store, clock)
    consuming.rest()
    consuming.fault = lambda _: FailureKind.CONNECTION
    consuming.until(lambda _: not consuming.places)
    store.plant(lease_of(root_of("shop:", "orders", 0)), None, 0)
    other = Consuming(store, clock, b"member-2")
    other.rest()
    consuming.fault = lambda _: None
    for _ in range(40):
        consuming.advance()
    state: Any = consuming.step.state
    assert state.consumer.stranded == state.consumer.asides == ()
    assert other.places == {0}


@pytest.mark.parametrize("kind", [TakeLock, TakeEntries, SettleEntries])
def test_the_pause_before_a_partition_is_tried_again_grows_until_it_is_reached(store, clock, kind):
    """Other consumers and other partitions do well meanwhile: that says nothing of this one."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    tries: list[float] = []

    def fault(command):
        if not isinstance(command, kind):
            return None
        tries.append(clock())
        return FailureKind.OTHER

    consuming.fault = fault
    consuming.until(lambda _: len(tries) == 6)
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses[0] < 0.11
    assert pauses[-1] > 0.5
    consuming.fault = lambda _: None
    consuming.until(lambda _: backlog(store) == 0)
    for _ in range(40):  # after which as much is asked for at once as before
        consuming.rest()
    state: Any = consuming.step.state
    assert state.consumer.asides == ()


def test_the_other_partitions_are_looked_at_between_two_that_cannot_be_reached(store, clock):
    """A node that says nothing costs a time-out each time."""
    consuming = Consuming(store, clock, partitions=8)
    asked: list[Any] = []
    faults = [about(place) for place in range(1, 8)]

    def fault(command):
        kind = next((kind for each in faults if (kind := each(command))), None)
        if kind is not None:
            clock.advance(0.25)
        asked.append((type(command).__name__, kind))
        return kind

    consuming.fault = fault
    consuming.until(lambda _: len(asked) > 200)
    kinds = [each for each in asked if each[0] in {"TakeEntries", "TakeLock"}]
    failed = [n for n, each in enumerate(kinds) if each[1] is not None]
    by_step = [n for n in failed if n - 1 not in failed]
    assert len(by_step) > 8
    assert kinds.count(("TakeEntries", None)) >= len(by_step) - 1


def test_one_that_is_busy_is_so_after_a_lease_that_could_not_be_asked_for(store, clock):
    keys = [each for each in (f"shop:{number}" for number in range(99)) if place_of(each, 2) == 0]
    for key in keys:
        queue(store, key, partitions=2)
    consuming = Consuming(store, clock, partitions=2, batch=5)
    consuming.fault = about(1)
    began_s = clock()
    consuming.until(lambda _: len(consuming.database) == len(keys))
    assert clock() - began_s < 0.1


def test_a_lease_that_cannot_be_given_back_is_left_to_lapse(store, clock):
    first = Consuming(store, clock, b"member-1", partitions=2)
    first.rest()
    second = Consuming(store, clock, b"member-2", partitions=2)
    first.fault = lambda command: FailureKind.OTHER if isinstance(command, ReleaseLeases) else None
    for _ in range(400):
        first.advance()
        second.advance()
    assert len(first.places) == len(second.places) == 1


def removing(consuming: Consuming, *kept: str, failure: FailureKind = FailureKind.CONNECTION) -> None:
    """Some keys are on a node that is away, and all others are removed."""
    perform = consuming.store.perform

    def answer(command: Any) -> Any:
        left = tuple(key for key in getattr(command, "keys", ()) if key in kept)
        if not (isinstance(command, DeleteKeys) and left):
            return perform(command)
        failed = StoreFailed(consuming.clock(), failure, "10.0.0.2:7001")
        rest = tuple(key for key in command.keys if key not in kept)
        perform(DeleteKeys(rest, 1.0))
        return KeysDeleted(consuming.clock(), len(rest), left=left, failures=(failed,)) if rest else failed

    consuming.perform = answer


LISTS = "shop:%g:order:list"


def test_what_is_applied_and_not_removed_is_not_settled_and_all_else_is(store, clock):
    """The key's cell is on another node of the cluster than its partition."""
    queue(store, "shop:a", 1)
    queue(store, "shop:b", 2)
    store.plant("shop:a", Cell(Kind.VALUE, body=b"old"), 10**9)
    consuming = Consuming(store, clock)
    removing(consuming, "shop:a")
    consuming.until(lambda _: clock() > 1_005.0)
    (entry,) = store.queues[ROOT].entries.values()
    assert (entry.key, entry.deliveries) == ("shop:a", 1)
    assert consuming.batches == [["shop:a", "shop:b"]]
    assert all("shop:a" not in each.keys for each in consuming.told(Invalidated))
    assert consuming.told(StoreGaveUp)[0].part == "10.0.0.2:7001"
    queue(store, "shop:c", 3)
    consuming.until(lambda _: "shop:c" in consuming.database)
    removing(consuming)
    consuming.rest()
    assert backlog(store) == 0
    assert "shop:a" not in store.dump()
    assert consuming.batches == [["shop:a", "shop:b"], ["shop:c"]]


def test_without_the_removal_of_a_tag_nothing_that_has_it_is_settled(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    removing(consuming, LISTS, failure=FailureKind.PERMISSION)
    consuming.until(lambda _: clock() > 1_005.0)
    assert backlog(store) == 1
    removing(consuming)
    consuming.until(lambda _: backlog(store) == 0)
    assert len(consuming.batches) == 1


def test_one_key_that_cannot_be_removed_is_found_and_the_others_are_settled(store, clock):
    """A server that refuses one key of a command refuses the command."""
    for number in range(64):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    consuming.fault = lambda command: (
        FailureKind.PERMISSION if isinstance(command, DeleteKeys) and "shop:7" in command.keys else None
    )
    consuming.until(lambda _: clock() > 1_060.0)
    assert [each.key for each in store.queues[ROOT].entries.values()] == ["shop:7"]
    assert len(consuming.batches) == 1
    assert not consuming.told(WriteDead)


def test_a_later_write_of_a_key_that_could_not_be_removed_is_settled_with_the_one_before(store, clock):
    queue(store, "shop:a", 1)
    queue(store, "shop:b", 2)
    consuming = Consuming(store, clock)
    removing(consuming, "shop:a", "shop:b")
    consuming.until(lambda _: bool(consuming.told(WritesApplied)))
    newest = queue(store, "shop:a", 3)
    consuming.until(lambda _: consuming.database["shop:a"] == (3, newest))
    settled = []
    perform = store.perform

    def answer(command):
        if isinstance(command, SettleEntries):
            settled.append([(each.key, each.token == newest) for each in command.verdicts])
        return perform(command)

    consuming.perform = answer
    consuming.rest()
    assert backlog(store) == 0
    assert [("shop:a", False), ("shop:a", True)] in settled


def test_a_letter_that_is_made_late_is_superseded_by_what_was_applied_meanwhile(store, clock):
    """Replayed, it would take back what was written after it."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=1)
    consuming.writer = poisoned(consuming, "shop:a")
    removing(consuming, "shop:a", failure=FailureKind.OTHER)
    consuming.until(lambda _: bool(consuming.told(WriterFailed)))
    consuming.writer = consuming.write
    queue(store, "shop:a", 2)
    consuming.until(lambda _: bool(consuming.database))
    removing(consuming)
    consuming.rest()
    assert backlog(store) == 0
    found = store.perform(ReadLetters(ROOT, 0, 9, 1.0))
    assert [each.is_superseded for each in found.entries] == [True]


@pytest.mark.parametrize("kept", [("shop:a", LISTS), ("shop:a",)])
def test_what_cannot_be_removed_once_more_after_a_letter_was_made_is_pending(store, clock, kept):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=1)
    consuming.writer = poisoned(consuming, "shop:a")
    consuming.until(lambda _: bool(store.queues[ROOT].letters))
    removing(consuming, *kept, failure=FailureKind.OTHER)
    consuming.rest()
    assert consuming.told(InvalidationFailed) == [InvalidationFailed(kept)]
    assert backlog(store) == 0


def test_what_the_store_did_not_say_was_delivered_is_no_crash(store, clock):
    """Answers that come too late are not the consumer's end: nothing is given up for them."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=1)
    lost = [FailureKind.TIMEOUT] * 30
    perform = store.perform

    def answer(command):
        event = perform(command)
        return StoreFailed(clock(), lost.pop()) if lost and isinstance(command, TakeEntries) else event

    consuming.perform = answer
    consuming.until(lambda _: "shop:a" in consuming.database)
    assert not lost
    assert not consuming.told(WriteDead)


def test_where_too_many_keys_could_not_be_removed_nothing_more_is_taken(store, clock):
    consumer = Consuming(store, clock).step.state.consumer
    kept = tuple(Done(str(number), (str(number),), ()) for number in range(MOST_PARKED))
    holding = Holding(0, b"")
    assert consumer.keeping(0, kept[1:], 0.0).has_room(holding)
    assert not consumer.keeping(0, kept, 0.0).has_room(holding)


def test_what_shares_the_partitions_does_not_know_what_comes_next(store, clock):
    request = Consuming(store, clock).step.state.consumer.request
    with pytest.raises(NotImplementedError):
        Sharing(request).go_on(0.0)


def test_each_partition_comes_first_in_its_turn(store, clock):
    consuming = Consuming(store, clock, partitions=3)
    consuming.rest()
    firsts = []
    for _ in range(3):
        consuming.until(lambda step: isinstance(step.command, TakeEntries))
        firsts.append(consuming.step.command.root)
        consuming.until(is_resting)
    assert len(set(firsts)) == 3


def test_one_that_is_interrupted_while_it_asks_the_store_gives_its_leases_back(store, clock):
    for kind in (RenewLeases, AttendQueue, TakeEntries, DeleteKeys, SettleEntries):
        queue(store, "shop:a", 1)
        consuming = Consuming(store, clock, kind.__name__[:8].encode())
        consuming.until(lambda _, consuming=consuming: bool(consuming.holdings))
        consuming.until(lambda step, kind=kind: isinstance(step.command, kind))
        step = consuming.step.state.receive(Interrupted(clock()))
        assert isinstance(step.command, ReleaseLeases)
        step.state.receive(store.perform(step.command))
        store.queues.clear()


# What may be met again.


@pytest.mark.parametrize("is_dead", [False, True])
def test_what_is_removed_is_said_before_the_store_is_asked(store, clock, is_dead):
    """Whoever drives it remembers the keys: a failover may lose the removal as soon as it is acknowledged."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock, deliveries=1)
    if is_dead:
        consuming.writer = poisoned(consuming, "shop:a")
    removals = []
    perform = store.perform

    def answer(command):
        if isinstance(command, DeleteKeys):
            removals.append((command.keys, [each.keys for each in consuming.told(RemovalBegan)][-1:]))
        return perform(command)

    consuming.perform = answer
    consuming.rest()
    assert removals
    assert all(said == [keys] for keys, said in removals)
    assert removals[0][0] == ("shop:a", LISTS)


def test_what_is_removed_again_after_a_failure_is_said_again(store, clock):
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    removing(consuming, "shop:a")
    consuming.until(lambda _: clock() > 1_005.0)
    said = len(consuming.told(RemovalBegan))
    removing(consuming)
    consuming.until(lambda _: backlog(store) == 0)
    assert said > 1
    assert len(consuming.told(RemovalBegan)) > said


def restored(store: MemoryStore, clock: Clock) -> Consuming:
    """A store that is older than it was has a write again, which the database refuses, as it has another."""
    queue(store, "shop:a", 1)
    before = store.queues[ROOT].copy()
    consuming = Consuming(store, clock)
    consuming.rest()
    queue(store, "shop:a", 2)
    consuming.rest()
    store.queues[ROOT] = before
    return consuming


def reading(consuming: Consuming) -> None:
    """A reader has what is queued stored just before it is settled."""
    perform = consuming.store.perform

    def answer(command: Any) -> Event:
        if isinstance(command, SettleEntries):
            for each in consuming.store.queues[ROOT].entries.values():
                consuming.store.plant(each.key, Cell(Kind.VALUE, body=each.body), 10**9)
        return perform(command)

    consuming.perform = answer


def test_an_old_write_that_is_delivered_once_more_stays_in_no_cache(store, clock):
    consuming = restored(store, clock)
    reading(consuming)
    consuming.rest()
    assert consuming.database["shop:a"][0] == 2
    assert backlog(store) == 0
    assert "shop:a" not in store.dump()


def test_an_old_write_that_another_consumer_meets_first_stays_in_no_cache(store, clock):
    first = restored(store, clock)
    store.plant(lease_of(ROOT), None, 0)
    consuming = Consuming(store, clock, b"member-2")
    consuming.database = first.database
    reading(consuming)
    consuming.rest()
    assert consuming.database["shop:a"][0] == 2
    assert "shop:a" not in store.dump()


def test_what_was_queued_since_the_partition_was_looked_at_is_removed_once(store, clock):
    """It is new, and what a reader has of it is what the database has."""
    queue(store, "shop:a", 1)
    consuming = Consuming(store, clock)
    consuming.rest()
    clock.advance(2.0)  # by which the clocks of servers differ at most
    consuming.notices.clear()
    queue(store, "shop:a", 2)
    reading(consuming)
    consuming.rest()
    assert [each.keys for each in consuming.told(RemovalBegan)] == [("shop:a", LISTS)]
    assert "shop:a" in store.dump()


def test_what_cannot_be_removed_once_more_after_an_old_write_is_pending(store, clock):
    consuming = restored(store, clock)
    settled = []

    def fault(command):
        settled.extend([command] if isinstance(command, SettleEntries) else [])
        return FailureKind.PERMISSION if settled and isinstance(command, DeleteKeys) else None

    consuming.fault = fault
    consuming.rest()
    assert consuming.told(InvalidationFailed) == [InvalidationFailed(("shop:a", LISTS))]
    assert backlog(store) == 0


# How much is taken at once.


class Narrow:
    """A link through which no answer comes in time that is longer than `most` bytes."""

    def __init__(self, consuming: Consuming, most: int) -> None:
        self.consuming, self.most = consuming, most
        self.asked: list[int] = []
        self.failed = 0
        consuming.perform = self.answer

    def answer(self, command: Any) -> Event:
        store, clock = self.consuming.store, self.consuming.clock
        event = store.perform(command)
        if isinstance(command, TakeEntries) and isinstance(event, EntriesTaken):
            self.asked.append(command.most_bytes)
            if sum(len(each.body) for each in event.entries) > self.most:
                self.failed += 1
                clock.advance(command.timeout_s)
                return StoreFailed(clock(), FailureKind.TIMEOUT)
        return event


BODY = seal("shop:0", INTS, INTS.encode(7).payload, 0.0)


def test_less_is_asked_for_where_a_batch_does_not_come_in_time(store, clock):
    """The same would be asked for ever, and the partition never be consumed."""
    for number in range(640):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock)
    link = Narrow(consuming, 16 * len(BODY))
    consuming.until(lambda _: bool(consuming.database))
    asked, failed = len(link.asked), link.failed
    consuming.until(lambda _: len(consuming.database) == 640)
    consuming.rest()
    assert backlog(store) == 0
    assert min(link.asked) < 16 * len(BODY)
    assert len(link.asked) - asked > 5 * (link.failed - failed), "then, what is asked for mostly comes"
    assert not consuming.told(WriteDead)


def test_as_much_as_before_is_asked_for_again_when_it_comes(store, clock):
    for number in range(64):
        queue(store, f"shop:{number}", number)
    consuming = Consuming(store, clock, batch=4)
    link = Narrow(consuming, 0)
    consuming.until(lambda _: link.failed == 5)
    assert min(link.asked) < max(link.asked) == 10**6
    link.most = 10**6
    consuming.until(lambda _: backlog(store) == 0)
    for _ in range(40):
        consuming.rest()
    assert link.asked[-1] == 10**6
    state: Any = consuming.step.state
    assert state.consumer.asides == ()


def test_what_is_asked_for_is_at_least_something(store, clock):
    queue(store, "shop:a")
    consuming = Consuming(store, clock)
    link = Narrow(consuming, 0)
    consuming.until(lambda _: link.failed == 40, most=20_000)
    assert min(link.asked) == 10**6 >> 13
    store.plant(lease_of(ROOT), None, 0)
    failed = link.failed
    consuming.until(lambda _: link.failed == failed + 1)
    assert link.asked[-1] == 10**6 >> 13


def test_a_store_that_refuses_is_asked_for_as_much_afterwards(store, clock):
    """That says nothing of how much comes through in time."""
    queue(store, "shop:a")
    consuming = Consuming(store, clock)
    link = Narrow(consuming, 10**6)
    consuming.fault = lambda command: FailureKind.PERMISSION if isinstance(command, TakeEntries) else None
    consuming.until(lambda _: len(consuming.told(StoreGaveUp)) == 5)
    consuming.fault = lambda _: None
    consuming.until(lambda _: backlog(store) == 0)
    assert set(link.asked) == {10**6}
