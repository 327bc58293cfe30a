"""Questions about a queue, and the agreement on its partitions."""

import pytest

from sansio_cache.commands import (
    Append,
    AppendEntries,
    DropLetters,
    HoldCells,
    MeasureQueue,
    PeekEntries,
    ReadLetters,
    StoreCommand,
)
from sansio_cache.errors import ProtocolError
from sansio_cache.events import EntriesFound, FailureKind, KeysDeleted, QueueMeasured, StoreFailed
from sansio_cache.memory_store import MemoryStore
from sansio_cache.operations.queue import AgreeRequest, agree, ask
from sansio_cache.queues import QueueEntry, hold_of, lease_of, place_of, root_of, stream_of
from sansio_cache.step import Completed, Parted, QueueAnswered, Unavailable
from sansio_cache.store_rules import StoreRules
from support.machines import NONCE, TIMEOUTS, Clock, Process, Script

ROOT = root_of("shop:", "orders", 0)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (PeekEntries(ROOT, ("shop:a",), 1.0), EntriesFound(0.0, (None,))),
        (ReadLetters(ROOT, 0, 9, 1.0), EntriesFound(0.0, ())),
        (DropLetters(ROOT, (1,), 1.0), KeysDeleted(0.0, 1)),
        (MeasureQueue(ROOT, 1.0), QueueMeasured(0.0, 0, 0, 0, 0, 1)),
    ],
)
def test_a_question_is_answered_by_its_own_answer_alone(question, answer):
    script = Script(ask(question, TIMEOUTS, 0.0))
    other = KeysDeleted(0.0, 1) if isinstance(answer, EntriesFound) else EntriesFound(0.0, ())
    with pytest.raises(ProtocolError):
        script.give(other)
    assert script.give(StoreFailed(0.0, FailureKind.TIMEOUT), answer).outcome == QueueAnswered(answer)
    failed = Script(ask(question, TIMEOUTS, 0.0)).give(StoreFailed(0.0, FailureKind.OTHER))
    assert failed.outcome == Unavailable(FailureKind.OTHER)


@pytest.fixture
def process():
    clock = Clock()
    return Process(MemoryStore(clock), clock)


def agreed(process, partitions):
    step = agree(AgreeRequest("shop:", "orders", partitions, TIMEOUTS, process.clock()))
    return process.run(step).step.outcome


def queue(process, place, partitions):
    root = root_of("shop:", "orders", place)
    (grant,) = process.store.perform(HoldCells((hold_of(root, "shop:a"),), NONCE, 1_000, 1.0)).grants
    append = AppendEntries(root, (Append("shop:a", grant, b"body"),), 9, partitions, 1.0)
    return process.store.perform(append)


def test_a_queue_that_is_new_or_has_as_many_partitions_is_agreed_on(process):
    assert agreed(process, 4) == Completed()
    queue(process, 3, 4)
    assert agreed(process, 4) == Completed()


def root(place):
    return root_of("shop:", "orders", place)


def test_the_first_who_agrees_says_so_in_all_partitions_and_others_need_not_ask_those_there_are_not(process):
    assert agreed(process, 4) == Completed()
    assert [process.store.queues[root(place)].partitions for place in range(5)] == [4, 4, 4, 4, 0]
    process.store.queues = {key: each for key, each in process.store.queues.items() if each.partitions}
    assert agreed(process, 4) == Completed()
    assert len(process.store.queues) == 4


@pytest.mark.parametrize(("before", "after", "place"), [(8, 4, 6), (200, 4, 199), (8, 4, 0)])
def test_what_a_program_of_before_has_queued_alone_is_found_wherever_it_is(process, before, after, place):
    """It said how many partitions there are where it had written, and nowhere else."""
    queue(process, place, before)
    assert agreed(process, after) == Parted(before, 1)
    assert agreed(process, before) == Completed()
    assert agreed(process, after) == Parted(before, 1)


def test_the_number_is_not_changed_while_there_are_letters(process):
    """Replayed, one of before would be written over what was queued in another partition since."""
    agreed(process, 8)
    letters = process.store.queues[root(6)].letters
    letters[5] = QueueEntry(4, "shop:a", b"body", letter=5)
    assert agreed(process, 4) == Parted(8, 0, 1)
    letters.clear()
    assert agreed(process, 4) == Completed()
    assert [process.store.queues[root(place)].partitions for place in range(8)] == [4] * 8


def test_a_letter_that_is_made_as_the_number_is_changed_stops_the_change(process):
    agreed(process, 2)
    script = Script(agree(AgreeRequest("shop:", "orders", 4, TIMEOUTS, 0.0)))
    for _ in range(4):
        script.give(process.store.perform(script.command))
    process.store.queues[root(1)].letters[5] = QueueEntry(4, "shop:a", b"body", letter=5)
    while script.outcome is None:
        script.give(process.store.perform(script.command))
    assert script.outcome == Parted(2, 0, 1)


def test_who_reads_with_another_number_of_partitions_is_told(process):
    queue(process, 1, 2)

    def peeked(place, partitions):
        question = PeekEntries(root(place), ("shop:a",), 1.0, partitions)
        return process.run(ask(question, TIMEOUTS, process.clock())).step.outcome

    assert peeked(1, 4) == Parted(2)
    assert peeked(1, 2).answer.entries[0].key == "shop:a"
    assert peeked(1, 0) == peeked(1, 2)
    assert peeked(0, 4) == QueueAnswered(EntriesFound(process.clock(), (None,)))  # nobody has said so there


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_another_number_of_partitions_has_to_wait_until_nothing_is_queued(process, before, after):
    queue(process, 1, before)
    assert agreed(process, after) == Parted(before, 1)
    assert queue(process, 1, after).backlog == before  # refused
    process.store.queues[root_of("shop:", "orders", 1)].entries.clear()
    assert agreed(process, after) == Completed()
    assert agreed(process, after) == Completed()
    assert queue(process, 0, before).how == "parted"


def test_a_write_that_comes_as_the_number_is_changed_stops_the_change(process):
    assert agreed(process, 2) == Completed()
    script = Script(agree(AgreeRequest("shop:", "orders", 4, TIMEOUTS, 0.0)))
    for _ in range(4):
        script.give(process.store.perform(script.command))
    assert script.command == MeasureQueue(ROOT, TIMEOUTS.operation_s, 4)
    queue(process, 1, 2)
    for _ in range(4):
        script.give(process.store.perform(script.command))
    assert script.outcome == Parted(2, 1)


def test_a_store_that_does_not_answer_agrees_on_nothing():
    script = Script(agree(AgreeRequest("shop:", "orders", 4, TIMEOUTS, 0.0)))
    assert script.give(StoreFailed(0.0, FailureKind.OTHER)).outcome == Unavailable(FailureKind.OTHER)


def test_the_keys_of_a_partition_share_the_part_in_braces():
    assert ROOT == "shop:%w:{orders:0}"
    for key in (stream_of(ROOT), lease_of(ROOT), hold_of(ROOT, "shop:{x}:1")):
        assert key.partition("{")[2].partition("}")[0] == "orders:0"


def test_keys_are_spread_over_partitions_by_a_hash_that_stays():
    assert [place_of(f"shop:order:{number}", 8) for number in range(6)] == [2, 4, 6, 0, 3, 5]
    counts = [0] * 8
    for number in range(8_000):
        counts[place_of(f"shop:order:{number}", 8)] += 1
    assert min(counts) > 800


class WithoutQueues(MemoryStore):
    _partition = StoreRules._partition


def test_a_store_of_ones_own_need_not_keep_queues():
    question: StoreCommand = PeekEntries(ROOT, ("shop:a",), 1.0)
    failed = WithoutQueues(Clock()).perform(question)
    assert isinstance(failed, StoreFailed)
    assert failed.reason == "this store keeps no queues"
