"""One part of the store: who asks whether it serves, when, and what is told to it at once."""

from __future__ import annotations

import pytest

from sansio_cache.commands import DeleteKeys, Ping, ScanKeys, Sleep
from sansio_cache.events import FailureKind
from sansio_cache.keys import KeyBuilder
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.second_look import Doubt
from sansio_cache.part import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_TELL_PAUSE_S,
    MOST_TOLD,
    NEGLECTED_S,
    Part,
)
from sansio_cache.pending_invalidations import LONGEST_REFUSAL_S, PendingInvalidations
from sansio_cache.step import Abandoned, Completed, PatternRemoved, Recovered
from support.machines import TIMEOUTS

DOWN = FailureKind.CONNECTION
FAILED = Recovered(failure=DOWN)
MINE, YOURS, THEIRS = 1, 2, 3


def part(*keys, is_out=True):
    made = Part("", PendingInvalidations())
    if is_out:
        made.open(DOWN, 0.0)
    made.pending.add(keys)
    return made


def written(made, *keys):
    """Written in an outage, without having been tried."""
    made.pending.add(keys)
    made.has_untold = True


def begun(made, ticket=MINE, now_s=0.0, seed=0):
    return made.begin(ticket, TIMEOUTS, now_s, seed)


def pause_s(recovery):
    assert isinstance(recovery.step.command, Sleep)
    return recovery.step.command.duration_s


class TestProbing:
    def test_one_at_a_time_asks(self):
        made = part()
        assert begun(made) is not None
        assert begun(made, YOURS) is None

    def test_pauses_double_up_to_a_limit_and_differ_between_processes(self):
        pauses = {}
        for seed in (1, 2):
            made, now_s = part(), 0.0
            recovery = begun(made, seed=seed)
            pauses[seed] = [pause_s(recovery)]
            for _ in range(12):
                now_s += pause_s(recovery)
                recovery = made.after(recovery, FAILED, TIMEOUTS, now_s)
                pauses[seed].append(pause_s(recovery))
            for turn, each in enumerate(pauses[seed]):
                least = min(FIRST_PAUSE_S * 2**turn, LONGEST_PAUSE_S)
                assert least <= each <= 1.25 * least
        assert pauses[1] != pauses[2]

    def test_an_answer_ends_it_and_the_next_outage_begins_with_a_short_pause(self):
        made = part()
        recovery = begun(made)
        for _ in range(3):
            recovery = made.after(recovery, FAILED, TIMEOUTS, 1.0)
        made.close()
        assert made.after(recovery, Recovered(), TIMEOUTS, 2.0) is None
        made.open(DOWN, 3.0)
        assert pause_s(begun(made, now_s=3.0)) <= 1.25 * FIRST_PAUSE_S

    def test_what_is_left_is_told_without_a_further_pause(self):
        made = part(*map(str, range(MOST_TOLD + 1)), is_out=False)
        recovery = begun(made)
        assert len(recovery.keys) == MOST_TOLD
        recovery = made.after(recovery, Recovered(tuple(recovery.keys)), TIMEOUTS, 1.0)
        assert recovery.step.command == DeleteKeys((str(MOST_TOLD),), TIMEOUTS.operation_s, insists=True)
        assert made.after(recovery, Recovered(tuple(recovery.keys)), TIMEOUTS, 1.0) is None
        assert not made.needs_recovery

    def test_one_that_was_interrupted_has_told_nothing(self):
        made = part("a")
        recovery = made.after(begun(made), Abandoned(), TIMEOUTS, 1.0)
        assert list(recovery.keys) == ["a"]
        assert pause_s(recovery) >= 2 * FIRST_PAUSE_S


class TestTelling:
    """What is written while the breaker is open is told at once, whoever probes meanwhile."""

    def test_what_was_not_tried_is_told_at_once_while_the_recovery_pauses(self):
        made = part("old")
        begun(made)
        assert begun(made, YOURS) is None, "nothing was written since"
        written(made, "a", "b")
        telling = begun(made, YOURS)
        assert telling.step.command == DeleteKeys(("b", "a", "old"), TIMEOUTS.operation_s, insists=True)
        assert begun(made, THEIRS) is None, "one at a time"

    def test_in_vain_it_is_tried_again_by_the_next_write_after_a_pause(self):
        made = part()
        begun(made)
        now_s = 10.0
        pauses = []
        for turn in range(6):
            written(made, f"k{turn}")
            telling = begun(made, YOURS, now_s)
            assert telling is not None
            assert made.after(telling, FAILED, TIMEOUTS, now_s) is None
            assert begun(made, YOURS, now_s + 99.0) is None, "nothing was written since"
            written(made, f"l{turn}")
            assert begun(made, YOURS, now_s + FIRST_PAUSE_S / 2) is None
            pauses.append(made.tell_due_s - now_s)
            now_s = made.tell_due_s
        longest_s = LONGEST_TELL_PAUSE_S
        assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, longest_s, longest_s])
        assert len(made.pending) == 12, "all of it stays pending"

    def test_a_further_outage_begins_without_a_pause(self):
        made = part()
        begun(made)
        written(made, "a")
        made.after(begun(made, YOURS), FAILED, TIMEOUTS, 0.0)
        made.close()
        made.open(DOWN, 0.01)
        written(made, "b")
        assert begun(made, YOURS, 0.01) is not None

    def test_where_the_store_takes_it_whoever_told_it_tells_the_rest(self):
        made = part(*map(str, range(MOST_TOLD)))
        begun(made)
        written(made, "a")
        telling = begun(made, YOURS)
        assert len(telling.keys) == MOST_TOLD
        made.close()
        following = made.after(telling, Recovered(tuple(telling.keys)), TIMEOUTS, 1.0)
        assert list(following.keys) == ["0"]
        assert (made.recovering, made.telling) == (YOURS, None)
        assert made.after(following, Recovered(("0",)), TIMEOUTS, 1.0) is None
        assert not made.needs_recovery

    def test_whoever_paused_meanwhile_has_nothing_to_say(self):
        made = part("old")
        sleeping = begun(made)
        written(made, "a")
        telling = begun(made, YOURS)
        made.close()
        made.pending.add(["b"])
        made.after(telling, Recovered(("a", "old")), TIMEOUTS, 1.0)
        assert made.after(sleeping, Recovered(("old",)), TIMEOUTS, 1.0) is None
        assert list(made.pending.oldest(9)) == ["b"]

    def test_one_that_is_given_up_is_begun_again(self):
        made = part()
        begun(made)
        written(made, "a")
        begun(made, YOURS)
        made.drop(YOURS)
        assert begun(made, THEIRS) is not None

    def test_what_failed_once_more_meanwhile_stays_pending(self):
        """S1."""
        made = part()
        begun(made)
        written(made, "a")
        telling = begun(made, YOURS)
        written(made, "a")
        made.close()
        made.after(telling, Recovered(("a",)), TIMEOUTS, 1.0)
        assert "a" in made.pending

    def test_whoever_tells_as_the_outage_ends_leaves_nothing_to_tell_in_the_next_one(self):
        """A command without keys would be refused."""
        made = part()
        probing = begun(made)
        written(made, "a")
        begun(made, YOURS)
        made.close()
        probing = made.after(probing, Recovered(), TIMEOUTS, 1.0)
        assert made.after(probing, Recovered(("a",)), TIMEOUTS, 1.0) is None
        made.drop(YOURS)
        made.open(DOWN, 2.0)
        assert begun(made, now_s=2.0) is not None
        assert begun(made, YOURS, 2.0) is None


class TestNeglect:
    """Where the background ends with an event loop, a caller makes one attempt."""

    def dropped(self, *keys):
        made = part(*keys)
        begun(made)
        made.drop(MINE)
        return made

    def neglected(self, made, now_s, ticket=YOURS):
        return made.begin_neglected(ticket, TIMEOUTS, now_s, 0)

    def test_what_is_due_and_was_given_up_is_a_callers_and_not_the_background_s(self):
        made = self.dropped("a")
        assert begun(made, YOURS, 1.0) is None
        recovery = self.neglected(made, 1.0)
        assert recovery.step.command == Ping(TIMEOUTS.operation_s)
        assert recovery.is_by_caller
        assert self.neglected(made, 1.0, THEIRS) is None, "others go on"
        assert begun(made, THEIRS, 1.0) is None

    def test_before_it_is_due_the_background_has_what_is_left_of_the_pause(self):
        made = self.dropped()
        due_s = made.due_s
        assert self.neglected(made, 0.01) is None
        assert pause_s(begun(made, YOURS, 0.01)) == pytest.approx(due_s - 0.01)
        assert made.due_s == pytest.approx(due_s)

    def test_in_vain_the_next_attempt_is_another_callers_after_a_longer_pause(self):
        made, now_s, pauses = self.dropped(), 1.0, []
        for _ in range(8):
            recovery = self.neglected(made, now_s)
            assert made.after(recovery, FAILED, TIMEOUTS, now_s) is None
            assert self.neglected(made, now_s) is None
            pauses.append(made.due_s - now_s)
            now_s = made.due_s
        assert pauses[:5] == sorted(pauses[:5])
        assert LONGEST_PAUSE_S <= pauses[-1] <= 1.25 * LONGEST_PAUSE_S

    def test_what_one_attempt_has_left_is_the_next_callers(self):
        made = self.dropped(*map(str, range(MOST_TOLD + 1)))
        recovery = self.neglected(made, 1.0)
        made.close()
        assert made.after(recovery, Recovered(tuple(recovery.keys)), TIMEOUTS, 1.1) is None
        recovery = self.neglected(made, 1.1)
        assert list(recovery.keys) == [str(MOST_TOLD)]
        made.after(recovery, Recovered(tuple(recovery.keys)), TIMEOUTS, 1.2)
        assert not made.is_worth_keeping

    def test_a_recovery_whose_loop_has_ended_without_a_word_is_neglected_in_the_end(self):
        made = part()
        sleeping = begun(made)
        latest_s = made.due_s + 2 * TIMEOUTS.operation_s + NEGLECTED_S
        assert self.neglected(made, latest_s - 0.01) is None, "it may be asking"
        assert self.neglected(made, latest_s) is not None
        assert made.after(sleeping, Recovered(), TIMEOUTS, latest_s) is None, "it is another's now"

    def test_where_nothing_is_planned_nothing_is_neglected(self):
        assert self.neglected(part(), 99.0) is None
        assert self.neglected(part(is_out=False), 99.0) is None

    def test_in_a_forked_process_nobody_runs_it(self):
        made = part()
        begun(made)
        written(made, "a")
        begun(made, YOURS)
        made.drop(None)
        assert (made.recovering, made.telling) == (None, None)
        assert self.neglected(made, 1.0) is not None


class TestTheEnd:
    """Before a cache is closed, what is pending is told once more, whoever was about to."""

    def test_all_that_is_pending_is_told(self):
        made = part(*map(str, range(MOST_TOLD + 1)))
        sleeping = begun(made)
        last = made.begin_last(YOURS, TIMEOUTS, 1.0)
        assert len(last.keys) == MOST_TOLD + 1
        assert len(last.step.command.keys) == MOST_TOLD
        made.close()
        assert made.after(last, Recovered(tuple(last.keys)), TIMEOUTS, 1.1) is None
        assert not made.is_worth_keeping
        assert made.after(sleeping, Recovered(), TIMEOUTS, 1.1) is None

    def test_where_nothing_is_pending_nothing_is_told(self):
        assert part().begin_last(YOURS, TIMEOUTS, 1.0) is None


class TestRefusal:
    """A key that the store refuses holds up no other."""

    def refused(self, now_s=0.0):
        """A part that has been told of `a`, and not of `b`; and what waits for that to be due."""
        made = part("a", "b", is_out=False)
        return made, made.after(begun(made, now_s=now_s), Recovered(("a",), ("b",)), TIMEOUTS, now_s)

    def test_it_stays_pending_and_is_left_alone_for_some_time(self):
        made, resting = self.refused()
        assert "b" in made.pending
        assert pause_s(resting) == 1.0
        assert begun(made, YOURS, 0.5) is None
        again = made.after(resting, Completed(), TIMEOUTS, 1.0)
        assert list(again.keys) == ["b"]
        assert made.after(again, Recovered(("b",)), TIMEOUTS, 1.0) is None
        assert not made.is_worth_keeping

    def test_meanwhile_others_are_told_and_whoever_waits_has_nothing_to_say(self):
        made, resting = self.refused()
        made.pending.add(["c"])
        other = begun(made, YOURS, 0.5)
        assert list(other.keys) == ["c"]
        assert made.after(resting, Completed(), TIMEOUTS, 1.0) is None
        assert pause_s(made.after(other, Recovered(("c",)), TIMEOUTS, 0.6)) == pytest.approx(0.4)

    def test_an_outage_is_probed_meanwhile(self):
        made, _ = self.refused()
        made.open(DOWN, 0.5)
        assert pause_s(begun(made, YOURS, 0.5)) <= 1.25 * FIRST_PAUSE_S

    def test_it_is_tried_more_and_more_seldom_and_nobody_waits_for_long_at_a_time(self):
        made, following = self.refused()
        now_s, pauses, asked = 0.0, [], 0
        while asked < 12:
            if following.keys:
                asked += 1
                following = made.after(following, Recovered((), ("b",)), TIMEOUTS, now_s)
                [(_, refusal)] = made.snapshot().refused
                pauses.append(refusal.due_s - now_s)
            else:
                assert pause_s(following) <= LONGEST_PAUSE_S
                now_s = max(made.due_s, now_s + 0.001)
                following = made.after(following, Completed(), TIMEOUTS, now_s)
        assert pauses == pytest.approx([min(2.0**turn, LONGEST_REFUSAL_S) for turn in range(1, 13)])

    def test_in_a_loop_for_each_call_it_is_a_callers_when_it_is_due(self):
        made, _ = self.refused()
        made.drop(MINE)
        assert made.begin_neglected(THEIRS, TIMEOUTS, 0.5, 0) is None
        recovery = made.begin_neglected(THEIRS, TIMEOUTS, 2.0, 0)
        assert made.after(recovery, Recovered((), ("b",)), TIMEOUTS, 2.0) is None
        assert made.begin_neglected(YOURS, TIMEOUTS, 3.0, 0) is None
        assert begun(made, YOURS, 4.0) is not None


def test_a_ticket_that_looks_at_nothing_changes_nothing():
    made = part(is_out=False)
    first, second = Doubt("k", "x"), Doubt("l", "y")
    assert made.doubt(first)
    assert made.doubt(second)
    made.begin_neglected(MINE, TIMEOUTS, 0.0, 0)
    made.begin_neglected(YOURS, TIMEOUTS, 0.0, 0)
    made.drop(YOURS)
    assert made.doubts == {first: MINE, second: None}
    assert made.has(MINE)
    assert not made.has(YOURS)


def test_a_snapshot_is_a_value_of_which_another_can_be_made():
    made = part("a", "b")
    begun(made)
    written(made, "c")
    begun(made, YOURS)
    made.pending.refuse(made.pending.newest(1), 5.0)
    made.refusals.add(FailureKind.OTHER)
    made.turn = 3
    made.doubt(Doubt("k", "x"))
    made.doubt(Doubt("l", "y"))
    made.begin_neglected(THEIRS, TIMEOUTS, 0.0, 0)
    assert made.snapshot().tickets == (MINE, YOURS, THEIRS)
    other = part("x")
    other.restore(made.snapshot())
    assert other.doubts == made.doubts
    assert other.snapshot() == made.snapshot()
    assert hash(made.snapshot()) == hash(other.snapshot())
    assert other.snapshot().turns == (3, 0)


PATTERN = PatternRequest(KeyBuilder("shop"), "shop:p:*", 500, TIMEOUTS, 0.0)
DONE = PatternRemoved(1, 1, True)


class TestAnotherStore:
    """What was written lately is told again at once, and for a moment nothing is read."""

    def replaced(self, *keys, patterns=(), until_s=1.0):
        made = part(is_out=False)
        made.replay(keys, patterns, until_s, 0.0)
        made.is_urgent = True
        return made

    def test_it_is_told_without_a_pause_keys_first(self):
        made = self.replaced("a", "b", patterns=(PATTERN,))
        assert made.needs_recovery
        assert made.is_worth_keeping
        first = begun(made)
        assert first.step.command.keys == ("b", "a")
        second = made.after(first, Recovered(("a", "b")), TIMEOUTS, 0.1)
        assert second.pattern is PATTERN
        assert isinstance(second.step.command, ScanKeys)
        third = made.after(second, DONE, TIMEOUTS, 0.2)
        assert pause_s(third) == pytest.approx(0.8), "until others have told it as well"
        assert made.after(third, Completed(), TIMEOUTS, 1.0) is None
        assert not made.needs_recovery
        assert not made.is_worth_keeping

    def test_a_pattern_alone_is_told_at_once_and_again_where_it_broke_off(self):
        made = self.replaced(patterns=(PATTERN, PATTERN), until_s=0.0)
        first = begun(made)
        assert first.pattern is PATTERN
        second = made.after(first, PatternRemoved(1, 0, False), TIMEOUTS, 0.1)
        assert pause_s(second) >= FIRST_PAUSE_S, "it asks whether the store serves"
        third = made.after(second, Recovered(), TIMEOUTS, 0.2)
        assert third.pattern is PATTERN
        assert made.after(third, DONE, TIMEOUTS, 0.3) is None
        assert not made.needs_recovery

    def test_the_same_pattern_is_told_once(self):
        made = self.replaced(patterns=(PATTERN,))
        made.replay((), (PATTERN,), 2.0, 0.5)
        assert made.patterns == (PATTERN,)

    def test_where_nothing_is_to_be_told_a_moment_passes(self):
        made = self.replaced()
        recovery = begun(made, now_s=0.25)
        assert pause_s(recovery) == 0.75
        assert begun(made, YOURS) is None
        early = made.after(recovery, Completed(), TIMEOUTS, 0.5)
        assert pause_s(early) == 0.5
        assert made.after(early, Completed(), TIMEOUTS, 1.0) is None
        assert not made.is_unsettled

    def test_whoever_has_something_to_do_takes_over_from_who_lets_time_pass(self):
        made = self.replaced()
        resting = begun(made)
        made.pending.add(["a"])
        assert begun(made, YOURS) is not None
        assert made.after(resting, Completed(), TIMEOUTS, 1.0) is None

    def test_what_failed_is_tried_again_after_a_pause(self):
        made = self.replaced("a")
        again = made.after(begun(made), FAILED, TIMEOUTS, 0.1)
        assert pause_s(again) >= FIRST_PAUSE_S
        assert made.recovering == MINE

    def test_in_an_outage_the_first_connection_is_used_to_tell_it_at_once(self):
        made = part("a")
        begun(made)
        assert begun(made, YOURS) is None
        made.is_urgent = True
        telling = begun(made, YOURS)
        assert telling.step.command.keys == ("a",)
        made.is_urgent = True
        assert begun(made, THEIRS) is None, "somebody does"

    def test_in_an_outage_with_nothing_to_tell_it_is_asked_at_once(self):
        made = part()
        made.is_urgent = True
        assert begun(made).step.command == Ping(TIMEOUTS.operation_s)
        made.close()
        made.is_urgent = True
        assert begun(made, YOURS) is None, "there is nothing to be asked"

    def test_a_caller_waits_for_no_moment_to_pass(self):
        made = self.replaced("a")
        made.is_urgent = False
        begun(made)
        made.drop(MINE)
        recovery = made.begin_neglected(YOURS, TIMEOUTS, 0.2, 0)
        assert made.after(recovery, Recovered(("a",)), TIMEOUTS, 0.3) is None
        assert made.is_unsettled
        made.settle(1.0)
        assert not made.is_unsettled

    def test_it_is_a_value(self):
        made, other = self.replaced("a", patterns=(PATTERN,)), part(is_out=False)
        other.restore(made.snapshot())
        assert other.snapshot() == made.snapshot()
