"""Queueing writes, event by event; what callers see is in `test_queue.py` of the caches."""

import pytest

from sansio_cache.commands import AppendEntries, DeleteKeys, HoldCells, ReleaseLeases, Sleep
from sansio_cache.entry import MissReason
from sansio_cache.events import (
    Appended,
    EntriesAppended,
    FailureKind,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    LeasesReleased,
    StoreFailed,
    Woke,
)
from sansio_cache.notices import Invalidated, InvalidationFailed, RemovalBegan, StoreGaveUp, WriteQueued
from sansio_cache.operations.enqueue import EnqueueRequest, QueuedItem, ReplayRequest, enqueue, replay
from sansio_cache.queues import hold_of, place_of, root_of
from sansio_cache.step import Abandoned, Parted, Queued, Refused, TookTooLong, Unavailable, Unknown
from support.machines import GRANT, NONCE, THEIRS, TIMEOUTS, Script

ROOT = root_of("shop:", "orders", 0)
KEYS = ("shop:a", "shop:b")
TAGS = ("shop:%g:order:list",)
TIMEOUT = StoreFailed(0.0, FailureKind.TIMEOUT)


def queueing(*keys, wait_s=30.0, replicas=0, started_s=0.0, waited_s=0.0, **rest):
    items = tuple(QueuedItem(key, b"body") for key in keys)
    limits = 5_000, 9, 1, wait_s, TIMEOUTS, started_s, replicas
    request = EnqueueRequest(ROOT, items, TAGS, NONCE, 1, *limits, waited_s=waited_s)
    return Script(enqueue(request, **rest))


def test_a_write_is_held_appended_removed_and_then_acknowledged():
    script = queueing("shop:a")
    assert isinstance(script.command, HoldCells)
    assert script.command.keys == (hold_of(ROOT, "shop:a"),)
    script.give(HoldsTaken(0.0, (GRANT,)))
    assert isinstance(script.command, AppendEntries)
    assert script.command.appends[0].grant == GRANT
    assert script.command.appends[0].tags == TAGS
    script.give(EntriesAppended(0.0, (5,)))
    assert isinstance(script.command, DeleteKeys)
    assert script.command.keys == ("shop:a", *TAGS)
    assert script.outcome is None
    assert script.give(KeysDeleted(0.0, 1)).outcome == Queued((5,))
    assert WriteQueued("shop:a") in script.notices


def test_what_is_removed_is_said_before_the_store_is_asked():
    """It may have waited for longer than it is remembered what was written when it began."""
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), EntriesAppended(0.0, (5,)))
    assert isinstance(script.command, DeleteKeys)
    assert RemovalBegan(("shop:a", *TAGS)) in script.notices
    assert RemovalBegan(("shop:a", *TAGS)) in replaying().give(EntriesAppended(0.0, (9,))).notices


def test_what_its_call_has_waited_before_counts_and_leaves_the_store_its_time():
    """Of a call with many writes, each batch has the store's time, and all together wait as long as one."""
    full = EntriesAppended(100.0, (), 9, Appended.FULL)
    script = queueing("shop:a", started_s=100.0, waited_s=29.5)
    assert script.command.timeout_s == TIMEOUTS.operation_s
    script.give(HoldsTaken(100.0, (GRANT,)), full)
    assert isinstance(script.command, Sleep)
    assert script.command.duration_s <= 0.5
    full = EntriesAppended(100.5, (), 9, Appended.FULL)
    script.give(Woke(100.5), HoldsTaken(100.5, (GRANT,)), full)
    assert script.outcome == TookTooLong(30.0, is_full=True)


def test_where_the_breaker_is_open_nothing_is_asked():
    assert queueing("shop:a", skip=MissReason.STORE_ERROR).outcome == Refused(MissReason.STORE_ERROR)


def test_a_hold_that_another_has_taken_is_taken_again():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), EntriesAppended(0.0, (0,)))
    assert isinstance(script.command, Sleep)
    script.give(Woke(0.1), HoldsTaken(0.1, (THEIRS,)), EntriesAppended(0.1, (6,)), KeysDeleted(0.1, 1))
    assert script.outcome == Queued((6,))


def test_of_several_only_those_are_held_again_whose_holds_were_anothers():
    script = queueing(*KEYS).give(HoldsTaken(0.0, (GRANT, THEIRS)), EntriesAppended(0.0, (5, 0)), Woke(0.1))
    assert script.command.keys == (hold_of(ROOT, "shop:b"),)
    script.give(HoldsTaken(0.1, (GRANT,)), EntriesAppended(0.1, (7,)), KeysDeleted(0.1, 2))
    assert script.outcome == Queued((5, 7))


def test_a_full_partition_is_waited_for_up_to_a_deadline():
    full = EntriesAppended(0.0, (), 9, Appended.FULL)
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), full)
    assert isinstance(script.command, Sleep)
    script.give(Woke(29.0), HoldsTaken(29.0, (GRANT,)), EntriesAppended(30.0, (), 9, Appended.FULL))
    assert script.outcome == TookTooLong(30.0, is_full=True)


def test_who_waits_for_another_writer_of_the_key_is_not_told_that_the_queue_is_full():
    script = queueing("shop:a", wait_s=0.0).give(HoldsTaken(0.0, (THEIRS,)), EntriesAppended(0.1, (0,)))
    assert script.outcome == TookTooLong(0.1)


def test_one_that_has_waited_with_some_queued_says_that_it_is_not_known_of_all():
    script = queueing(*KEYS, wait_s=0.0).give(HoldsTaken(0.0, (GRANT, THEIRS)), EntriesAppended(0.0, (5, 0)))
    assert isinstance(script.command, DeleteKeys)
    assert script.give(KeysDeleted(0.0, 2)).outcome == Unknown(None)


def test_another_number_of_partitions_is_told():
    parted = EntriesAppended(0.0, (), 4, Appended.PARTED)
    assert queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), parted).outcome == Parted(4)


def test_an_append_that_is_repeated_after_a_lost_answer_is_one_entry():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), TIMEOUT)
    assert isinstance(script.command, AppendEntries)
    assert script.give(EntriesAppended(0.0, (5,)), KeysDeleted(0.0, 1)).outcome == Queued((5,))


def test_whether_an_append_was_done_is_unknown_where_the_hold_is_gone_after_a_lost_answer():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), TIMEOUT, EntriesAppended(0.0, (0,)))
    assert isinstance(script.command, DeleteKeys)
    assert script.give(KeysDeleted(0.0, 1)).outcome == Unknown(None)


def test_an_append_without_an_answer_is_unknown_and_the_key_goes():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), TIMEOUT, TIMEOUT, TIMEOUT)
    assert isinstance(script.command, DeleteKeys)
    script.give(KeysDeleted(0.0, 1))
    assert script.outcome == Unknown(FailureKind.TIMEOUT)


@pytest.mark.parametrize("kind", [FailureKind.OUT_OF_MEMORY, FailureKind.READ_ONLY])
def test_a_store_that_refuses_has_not_queued_it(kind):
    refused = StoreFailed(9.0, kind)
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), refused)
    assert script.outcome == Unavailable(kind)
    assert queueing("shop:a").give(refused).outcome == Unavailable(kind)


def test_where_some_are_queued_a_failure_of_the_others_is_unknown():
    script = queueing(*KEYS).give(HoldsTaken(0.0, (GRANT, THEIRS)), EntriesAppended(0.0, (5, 0)), Woke(0.1))
    script.give(StoreFailed(0.1, FailureKind.OUT_OF_MEMORY))
    assert isinstance(script.command, DeleteKeys)
    assert script.give(KeysDeleted(0.1, 2)).outcome == Unknown(FailureKind.OUT_OF_MEMORY)


def test_what_is_queued_and_not_removed_is_pending_and_said_so():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), EntriesAppended(0.0, (5,)))
    script.give(TIMEOUT, TIMEOUT, TIMEOUT)
    assert script.outcome == Queued((5,), is_told=False)
    assert InvalidationFailed(("shop:a", *TAGS)) in script.notices


AWAY = StoreFailed(0.0, FailureKind.CONNECTION, "10.0.0.1:7001")
REFUSED = StoreFailed(0.0, FailureKind.PERMISSION, "10.0.0.1:7001")


def test_where_one_node_has_removed_its_keys_the_other_is_asked_again_for_what_is_left():
    """The key and the tag of an entity may be in slots of different nodes."""
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), EntriesAppended(0.0, (5,)))
    script.give(KeysDeleted(0.0, 1, left=("shop:a",), failures=(AWAY,)))
    assert script.command.keys == ("shop:a",)
    assert script.give(KeysDeleted(0.0, 1)).outcome == Queued((5,))
    assert [each.keys for each in script.notices if isinstance(each, Invalidated)] == [TAGS, ("shop:a",)]


@pytest.mark.parametrize("failure", [AWAY, REFUSED])
def test_what_one_of_several_nodes_has_not_removed_is_pending_and_said_so(failure):
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), EntriesAppended(0.0, (5,)))
    left = KeysDeleted(0.0, 1, left=("shop:a",), failures=(failure,))
    while script.outcome is None:
        script.give(left)
    assert script.outcome == Queued((5,), is_told=False)
    assert InvalidationFailed(("shop:a",)) in script.notices
    assert [each.part for each in script.notices if isinstance(each, StoreGaveUp)] == ["10.0.0.1:7001"]
    assert ("shop:a", *TAGS) not in [each.keys for each in script.notices if isinstance(each, Invalidated)]


def test_a_write_of_which_nobody_knows_is_no_surer_where_a_node_keeps_its_keys():
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), TIMEOUT, EntriesAppended(0.0, (0,)))
    script.give(KeysDeleted(0.0, 1, left=TAGS, failures=(REFUSED,)))
    assert script.outcome == Unknown(None)
    assert InvalidationFailed(TAGS) in script.notices


def test_of_several_rounds_one_that_too_few_replicas_have_is_told():
    """A failover in between may have lost it, whatever replicas have of the other."""
    script = queueing(*KEYS, replicas=1).give(HoldsTaken(0.0, (GRANT, THEIRS)))
    script.give(EntriesAppended(0.0, (5, 0), replicas=0), Woke(0.1), HoldsTaken(0.1, (GRANT,)))
    script.give(EntriesAppended(0.1, (7,), replicas=1), KeysDeleted(0.1, 2))
    assert script.outcome == Queued((5, 7), is_confirmed=False)


def test_a_round_in_which_nothing_was_queued_says_nothing_of_replicas():
    script = queueing("shop:a", replicas=1).give(HoldsTaken(0.0, (GRANT,)))
    script.give(EntriesAppended(0.0, (0,), replicas=0), Woke(0.1), HoldsTaken(0.1, (GRANT,)))
    script.give(EntriesAppended(0.1, (7,), replicas=1), KeysDeleted(0.1, 1))
    assert script.outcome == Queued((7,))


def test_fewer_replicas_than_were_asked_for_are_told():
    script = queueing("shop:a", replicas=2).give(HoldsTaken(0.0, (GRANT,)))
    assert script.command.replicas == 2
    script.give(EntriesAppended(0.0, (5,), replicas=1), KeysDeleted(0.0, 1))
    assert script.outcome == Queued((5,), is_confirmed=False)


def test_one_that_is_interrupted_gives_back_its_holds_or_removes_what_may_be_old():
    script = queueing("shop:a").give(Interrupted(0.0))
    assert isinstance(script.command, ReleaseLeases)
    assert script.give(Interrupted(0.0), LeasesReleased(0.0)).outcome == Abandoned()
    script = queueing("shop:a").give(HoldsTaken(0.0, (GRANT,)), Interrupted(0.0))
    assert isinstance(script.command, DeleteKeys)
    assert script.give(KeysDeleted(0.0, 1)).outcome == Abandoned()
    partly = HoldsTaken(0.0, (GRANT, THEIRS)), EntriesAppended(0.0, (5, 0))
    for events in (partly, (*partly, Woke(0.1))):
        assert isinstance(queueing(*KEYS).give(*events, Interrupted(0.1)).command, DeleteKeys)


def replaying():
    return Script(replay(ReplayRequest(ROOT, 3, "shop:a", TAGS, NONCE, TIMEOUTS, 0.0)))


def test_a_letter_is_queued_anew_as_any_other_write():
    script = replaying().give(EntriesAppended(0.0, (9,)))
    assert script.command.keys == ("shop:a", *TAGS)
    assert script.give(KeysDeleted(0.0, 1)).outcome == Queued((9,))


@pytest.mark.parametrize("place", [0, 1])
def test_a_letter_is_not_queued_beside_later_writes_of_its_key(place):
    """Since the number of partitions was changed these are in another one."""
    partitions, root = 2, root_of("shop:", "orders", place)
    script = Script(replay(ReplayRequest(root, 3, "shop:a", (), NONCE, TIMEOUTS, 0.0, partitions)))
    if place_of("shop:a", partitions) != place:
        assert script.outcome == Parted(partitions)
        return
    assert script.command.partitions == partitions
    assert script.give(EntriesAppended(0.0, (), 4, Appended.PARTED)).outcome == Parted(4)


@pytest.mark.parametrize("token", [0, -1])
def test_a_letter_that_is_gone_or_superseded_is_told(token):
    assert replaying().give(EntriesAppended(0.0, (token,))).outcome == Queued((token,))


def test_whether_a_letter_was_replayed_is_unknown_where_it_is_gone_after_a_lost_answer():
    script = replaying().give(TIMEOUT, EntriesAppended(0.0, (0,)), KeysDeleted(0.0, 1))
    assert script.outcome == Unknown(None)
    script = replaying().give(TIMEOUT, TIMEOUT, TIMEOUT, KeysDeleted(0.0, 1))
    assert script.outcome == Unknown(FailureKind.TIMEOUT)
    assert replaying().give(StoreFailed(0.0, FailureKind.PERMISSION)).outcome == Unavailable(
        FailureKind.PERMISSION
    )
    assert isinstance(replaying().give(Interrupted(0.0)).command, DeleteKeys)
