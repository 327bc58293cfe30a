"""Consumers against a memory store, with time that passes as they rest.

Every interleaving is explored in `test_queue_exploration.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sansio_cache.commands import (
    Append,
    AppendEntries,
    Compute,
    DeleteKeys,
    HoldCells,
    ReleaseLeases,
    SettleEntries,
    StoreCommand,
    TakeEntries,
)
from sansio_cache.entry import seal
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    Computed,
    ComputeFailed,
    EntriesAppended,
    Event,
    FailureKind,
    HoldsTaken,
    Interrupted,
    StoreFailed,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    PartitionLost,
    PartitionMeasured,
    PartitionTaken,
    WriteDead,
    WriterFailed,
    WritesApplied,
)
from sansio_cache.operations.batching import MOST_PARKED, Failing, Holding, Piece, Unit
from sansio_cache.operations.consume import consume
from sansio_cache.operations.in_hand import ConsumeRequest
from sansio_cache.queues import QueuedWrite, Turn, TurnEnd, hold_of, lease_of, place_of, root_of
from sansio_cache.step import Abandoned, Completed, Step
from support.machines import INTS, TIMEOUTS, Clock

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
    ) -> None:
        self.store, self.clock = store, clock
        self.database: dict[str, tuple[Any, int]] = {}
        self.writer: Writer = self.write
        self.batches: list[list[str]] = []
        self.notices: list[Any] = []
        self.fault: Callable[[StoreCommand], FailureKind | None] = lambda _: None
        failing = Failing(deliveries, 0.1, 1.0)
        limits = 9_000, batch, 10**6, 0.2, failing, TIMEOUTS, clock()
        self.step = consume(ConsumeRequest("shop:", "orders", partitions, INTS, member, 1, *limits))
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
        return self.store.perform(command) if kind is None else StoreFailed(self.clock(), kind)

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


def test_what_cannot_be_read_is_given_up_at_once(store, clock):
    queue(store, "shop:a", body=b"of another version")
    queue(store, "shop:b", 2)
    consuming = Consuming(store, clock)
    consuming.rest()
    assert consuming.database.keys() == {"shop:b"}
    assert [each.key for each in consuming.told(WriteDead)] == ["shop:a"]


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


def test_where_too_many_keys_are_parked_nothing_more_is_taken():
    pieces = tuple(Piece(str(number), number, None) for number in range(MOST_PARKED))
    assert Holding(0, b"", parked=(Unit(pieces[1:]),)).has_room
    assert not Holding(0, b"", parked=(Unit(pieces),)).has_room


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
