"""The coordinator: what the operations of a process have to do with each other, and with the store.

What tickets promise is tested in `test_tickets.py`.
"""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from sansio_cache import Policy
from sansio_cache import notices as all_notices
from sansio_cache.changes import (
    Distrusted,
    InvalidationsForgotten,
    InvalidationsGivenUp,
    InvalidationsRefused,
    OutageBegan,
    OutageEnded,
    RefusalBegan,
    StoreReplaced,
    Suspected,
    Trusted,
)
from sansio_cache.commands import DeleteKeys, Ping, ReadCell, Sleep
from sansio_cache.coordinator import (
    Coordinator,
    interrupted,
    one_part,
    without_store,
)
from sansio_cache.entry import MissReason, Servable
from sansio_cache.events import (
    FailureKind,
    KeysDeleted,
    LoadErrorShared,
    LoadLed,
    LoadNotShared,
    LoadShared,
    Ponged,
    SharingTimedOut,
    StoreFailed,
    Woke,
)
from sansio_cache.keys import ONE_PART, KeyBuilder
from sansio_cache.notices import (
    Ended,
    EntryForeign,
    Hit,
    Invalidated,
    InvalidationFailed,
    InvalidationRefused,
    Missed,
    OperationName,
    PatternDeleted,
    RemovalBegan,
    RepliesCrossed,
    StoreAnswered,
    Stored,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.delete_pattern import PatternRequest
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.invalidate import InvalidateRequest, invalidate
from sansio_cache.operations.refresh import refresh
from sansio_cache.part import MOST_DOUBTS, MOST_FOREIGN, MOST_TOLD
from sansio_cache.single_flight import Following, Phase
from sansio_cache.step import Abandoned, Completed, Loaded, Missing, PatternRemoved, Recovered, Step
from sansio_cache.ttl import MAX_TTL_S
from sansio_cache.untold import TakesWords
from support.interrupts import strike
from support.loads import ACCEPTED, RAISED, REFUSED, SCHEMA, computing, over, share
from support.machines import INTS, KEY, TIMEOUTS, Script, load_request, value_cell

NOW_S = 7.0
A, B, TAG_A, TAG_B = "a:1", "b:1", "a:%t:all", "b:%t:all"
KEYS = (A, "a:2", B, "b:2", TAG_A, TAG_B)
OUTAGES = [kind for kind in FailureKind if kind.is_outage]
REFUSALS = [kind for kind in FailureKind if not kind.is_outage]


def part_of(key):
    """The part is what comes first."""
    return key[0]


def two_parts(**changes):
    return Coordinator(part_of=part_of, **changes)


def gave_up(part=ONE_PART, kind=FailureKind.TIMEOUT):
    return StoreGaveUp(kind, part)


def told(recovery):
    """What comes of a recovery where the store serves."""
    return Recovered(tuple(recovery.keys))


def recovering(coordinator):
    return {part.part: part.recovering for part in coordinator.snapshot().parts}


class TestSharing:
    def test_the_first_leads_and_the_second_follows_it(self):
        coordinator = Coordinator()
        first, second = coordinator.ticket(), coordinator.ticket()
        assert first != second
        assert coordinator.share(first, share(now_s=NOW_S)) == LoadLed(NOW_S, 1)
        assert coordinator.share(second, share(now_s=NOW_S)) == Following(1, Phase.PREPARING, 1)

    def test_a_load_that_rests_is_not_shared(self):
        coordinator = Coordinator()
        coordinator.share(0, share())
        assert coordinator.observe(over(1, RAISED, 9.0)) == 1
        assert coordinator.share(1, share(now_s=NOW_S)) == LoadNotShared(NOW_S)
        assert coordinator.share(1, share(now_s=9.0)) == LoadLed(9.0, 2)

    def test_who_led_a_load_that_was_forgotten_ends_no_other(self):
        """In a process that was forked, or where a cache goes from one event loop to another and back."""
        coordinator = Coordinator()
        coordinator.share(coordinator.ticket(), share("a"))
        left_behind = coordinator.ticket()
        following = coordinator.share(left_behind, share("a"))
        assert isinstance(following, Following)
        coordinator.forget_loads()
        leader, follower = coordinator.ticket(), coordinator.ticket()
        assert coordinator.share(leader, share("b")) == LoadLed(0.0, 2)
        its = coordinator.share(follower, share("b"))

        assert coordinator.observe(over(1, Loaded("A", b"A", accepted=True))) == 1, "its followers are woken"
        assert coordinator.leave(left_behind, following, NOW_S) == LoadNotShared(NOW_S, 1)
        assert coordinator.observe(over(2, Loaded("B", b"B", accepted=True))) == 2
        assert coordinator.leave(follower, its, NOW_S) == LoadShared(NOW_S, b"B", None)

    @pytest.mark.parametrize(
        ("outcome", "event"),
        [
            (ACCEPTED, LoadShared(NOW_S, b"7", None)),
            (REFUSED, LoadShared(NOW_S, b"7", None)),
            (Loaded([7], None, accepted=False), LoadShared(NOW_S, None, [7])),
            (RAISED, LoadErrorShared(NOW_S, RAISED.error)),
            (Abandoned(), LoadNotShared(NOW_S, 1)),
        ],
    )
    def test_who_followed_is_told_what_it_may_have(self, outcome, event):
        coordinator = Coordinator()
        coordinator.share(0, share())
        place = coordinator.share(1, share())
        assert coordinator.observe(computing(1)) is None
        assert coordinator.observe(over(1, outcome)) == 1
        assert coordinator.leave(1, place, NOW_S) == event

    def test_who_leaves_too_early_is_told_what_it_has_not_waited_for(self):
        coordinator = Coordinator()
        coordinator.share(0, share())
        place = coordinator.share(1, share())
        assert coordinator.leave(1, place, NOW_S) == SharingTimedOut(NOW_S, 1, 1)

    def test_a_step_that_leads_nothing_ends_nothing(self):
        coordinator = Coordinator()
        assert coordinator.observe(Step(None, None, ACCEPTED)) is None
        assert coordinator.observe(Step(None, None, ACCEPTED, load_id=b"batch-01")) is None

    def test_a_ticket_that_has_begun_nothing_has_nothing_to_give_up(self):
        coordinator = Coordinator()
        assert coordinator.give_up(coordinator.ticket()) is None


class TestBeginning:
    """What an operation spawns runs once, and follows nobody."""

    def refreshing(self):
        return refresh(load_request(stale_for_s=60), Servable(6, False, value_cell(6, soft_ms=1)), 0.0)

    def test_it_is_begun_as_the_leader_of_a_load(self):
        begun = Coordinator().begin(0, self.refreshing(), NOW_S)
        assert begun.load_id == 1
        assert begun.command.key == KEY

    def test_it_is_not_begun_where_it_is_under_way(self):
        coordinator = Coordinator()
        begun = coordinator.begin(0, self.refreshing(), NOW_S)
        assert coordinator.begin(1, self.refreshing(), NOW_S) is None
        assert coordinator.observe(over(begun.load_id, Recovered())) == 1
        assert coordinator.begin(1, self.refreshing(), NOW_S).load_id == 2

    def test_it_is_not_begun_where_it_rests(self):
        coordinator = Coordinator()
        coordinator.begin(0, self.refreshing(), NOW_S)
        coordinator.observe(over(1, Recovered(), 9.0))
        assert coordinator.begin(1, self.refreshing(), NOW_S) is None


class TestSkipping:
    def test_whoever_is_switched_off_never_asks(self):
        coordinator = Coordinator(is_disabled=True)
        assert coordinator.must_ask
        assert coordinator.skip(KEY) is MissReason.DISABLED
        coordinator.heed([gave_up(), InvalidationFailed((KEY,))], NOW_S)
        assert coordinator.skip(KEY) is MissReason.DISABLED
        assert not coordinator.needs_recovery
        assert coordinator.begin_recovery(0, TIMEOUTS, NOW_S) is None

    def test_whoever_has_met_nothing_asks(self):
        coordinator = Coordinator()
        assert not coordinator.must_ask
        assert coordinator.skip(KEY) is None

    def test_a_store_that_does_not_serve_is_not_asked(self):
        coordinator = Coordinator()
        coordinator.heed([gave_up()], NOW_S)
        assert coordinator.must_ask
        assert coordinator.is_out
        assert coordinator.skip(KEY) is MissReason.STORE_ERROR

    def test_a_key_whose_invalidation_is_pending_is_not_read(self):
        """S1."""
        coordinator = Coordinator()
        coordinator.heed([InvalidationFailed((KEY, TAG_A))], NOW_S)
        assert coordinator.must_ask
        assert not coordinator.is_out
        assert coordinator.skip(KEY) is MissReason.BYPASSED
        assert coordinator.skip("shop:user:2") is None
        assert coordinator.bypassed == {TAG_A}
        assert coordinator.pending_invalidations == 2

    def test_every_key_is_in_the_one_part(self):
        assert {one_part(key) for key in KEYS} == {ONE_PART}


class TestHeeding:
    """Every change that a driver is to know of."""

    @pytest.mark.parametrize("kind", OUTAGES)
    def test_an_outage_begins_once_and_ends_once(self, kind):
        coordinator = Coordinator()
        assert coordinator.heed([gave_up(kind=kind)], NOW_S) == [OutageBegan(ONE_PART, kind)]
        assert coordinator.heed([gave_up()], NOW_S) == []
        assert coordinator.heed([StoreAnswered()], 9.5) == [OutageEnded(ONE_PART, 2.5)]
        assert coordinator.heed([StoreAnswered()], 9.5) == []
        assert coordinator.skip(KEY) is None
        assert coordinator.snapshot() == Coordinator().snapshot()

    @pytest.mark.parametrize("kind", REFUSALS)
    def test_a_refusal_begins_once(self, kind):
        coordinator = Coordinator()
        assert coordinator.heed([gave_up(kind=kind)], NOW_S) == [RefusalBegan(ONE_PART, kind)]
        assert coordinator.heed([gave_up(kind=kind)], NOW_S) == []
        assert coordinator.skip(KEY) is None
        assert not coordinator.needs_recovery

    @pytest.mark.parametrize("kind", REFUSALS)
    def test_a_value_that_is_stored_ends_those_that_keep_one_from_being_stored(self, kind):
        is_ended = kind in (FailureKind.OUT_OF_MEMORY, FailureKind.WRITES_REFUSED, FailureKind.READ_ONLY)
        coordinator = Coordinator()
        coordinator.heed([gave_up(kind=kind)], NOW_S)
        assert coordinator.heed([Stored(KEY)], NOW_S) == []
        again = [RefusalBegan(ONE_PART, kind)] if is_ended else []
        assert coordinator.heed([gave_up(kind=kind)], NOW_S) == again

    def test_an_outage_that_ends_ends_every_refusal(self):
        coordinator = Coordinator()
        refused = gave_up(kind=FailureKind.PERMISSION)
        coordinator.heed([refused, gave_up(), StoreAnswered()], NOW_S)
        assert coordinator.heed([refused], NOW_S) == [RefusalBegan(ONE_PART, FailureKind.PERMISSION)]

    def test_that_invalidations_are_forgotten_is_said_once(self):
        coordinator = Coordinator(most_pending=2)
        assert coordinator.heed([InvalidationFailed(("a", "b"))], NOW_S) == []
        forgotten = [InvalidationsForgotten(ONE_PART, 2)]
        assert coordinator.heed([InvalidationFailed(("c",))], NOW_S) == forgotten
        assert coordinator.heed([InvalidationFailed(("d",))], NOW_S) == []
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        assert coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S) is None
        assert coordinator.pending_invalidations == 0
        assert coordinator.heed([InvalidationFailed(("a", "b", "c"))], NOW_S) == []

    def test_a_reply_of_another_key_makes_the_connections_suspect(self):
        """S9."""
        missed = [Missed(KEY, reason) for reason in MissReason]
        coordinator = Coordinator()
        assert coordinator.heed(missed, NOW_S) == [Suspected(ONE_PART)]
        assert coordinator.heed(missed, NOW_S) == [], "it is being looked at"
        assert coordinator.skip(KEY) is None

    def test_an_entry_that_is_foreign_is_looked_at_once(self):
        """S9: it was copied, or renamed, and no connection is at fault."""
        coordinator = Coordinator()
        missed = [Missed(KEY, MissReason.KEY_CHECK, "theirs")]
        coordinator.heed(missed, NOW_S)
        look = coordinator.begin_neglected(0, TIMEOUTS, NOW_S)
        assert look.step.command == ReadCell(KEY, TIMEOUTS.operation_s)
        assert coordinator.begin_neglected(1, TIMEOUTS, NOW_S) is None
        assert coordinator.heed([EntryForeign(KEY, "theirs")], NOW_S) == [Trusted(ONE_PART)]
        assert coordinator.next_recovery(look, Completed(), TIMEOUTS, NOW_S) is None
        coordinator.give_up(0)
        assert not coordinator.needs_recovery
        assert coordinator.heed(missed, NOW_S) == []
        assert coordinator.begin_neglected(1, TIMEOUTS, NOW_S) is None
        later = [Missed(KEY, MissReason.KEY_CHECK, "another")]
        assert coordinator.heed(later, NOW_S) == [Suspected(ONE_PART)], "it is another entry"

    def test_while_another_entry_is_in_doubt_the_connections_stay_set_aside(self):
        coordinator = Coordinator()
        coordinator.heed([Missed(key, MissReason.KEY_CHECK, "x") for key in (A, B)], NOW_S)
        assert coordinator.heed([EntryForeign(A, "x")], NOW_S) == []
        assert coordinator.heed([EntryForeign(B, "x")], NOW_S) == [Trusted(ONE_PART)]

    def test_replies_that_have_crossed_settle_all_doubts(self):
        """S9: what was read on the same connections says nothing."""
        coordinator = Coordinator()
        coordinator.heed([Missed(key, MissReason.KEY_CHECK, "x") for key in (A, B)], NOW_S)
        assert coordinator.heed([RepliesCrossed(A)], NOW_S) == [Distrusted(ONE_PART)]
        assert coordinator.snapshot() == Coordinator().snapshot()

    def test_a_second_look_that_is_given_up_is_the_next_callers(self):
        coordinator = Coordinator()
        coordinator.heed([Missed(KEY, MissReason.KEY_CHECK, "x")], NOW_S)
        assert coordinator.begin_neglected(0, TIMEOUTS, NOW_S) is not None
        coordinator.give_up(0)
        assert coordinator.begin_neglected(1, TIMEOUTS, NOW_S) is not None

    def test_what_is_in_doubt_and_what_is_foreign_is_bounded(self):
        """B2."""
        coordinator = Coordinator()
        keys = [f"shop:{number}" for number in range(MOST_FOREIGN + 1)]
        for key in keys[: MOST_DOUBTS + 1]:
            coordinator.heed([Missed(key, MissReason.KEY_CHECK, "x")], NOW_S)
        assert len(coordinator.snapshot().parts[0].doubts) == MOST_DOUBTS
        coordinator.heed([EntryForeign(key, "x") for key in keys], NOW_S)
        assert len(coordinator.snapshot().parts[0].foreign) == MOST_FOREIGN
        assert coordinator.heed([Missed(keys[0], MissReason.KEY_CHECK, "x")], NOW_S) != []
        assert coordinator.heed([Missed(keys[-1], MissReason.KEY_CHECK, "x")], NOW_S) == []

    @pytest.mark.parametrize(
        "notice",
        [gave_up(), StoreAnswered(), InvalidationFailed((KEY,)), Missed(KEY, MissReason.KEY_CHECK)],
        ids=lambda notice: type(notice).__name__,
    )
    def test_what_may_change_something_concerns_it(self, notice):
        assert Coordinator().concerns([Hit(KEY), notice])

    def test_that_a_value_was_stored_concerns_it_while_something_is_wrong(self):
        coordinator = Coordinator()
        assert not coordinator.concerns([Stored(KEY)])
        coordinator.heed([gave_up(kind=FailureKind.OUT_OF_MEMORY)], NOW_S)
        assert coordinator.concerns([Stored(KEY)])

    def test_all_else_is_none_of_its_business(self):
        coordinator = Coordinator()
        passing = [Hit(KEY), StoreErrored(FailureKind.TIMEOUT), Stored(KEY), Ended(OperationName.GET, 0.1)]
        assert not coordinator.concerns(passing)
        assert coordinator.heed(passing, NOW_S) == []
        assert coordinator.snapshot() == Coordinator().snapshot()
        assert not coordinator.must_ask


class TestRecovery:
    def out(self, *keys, **changes):
        coordinator = Coordinator(**changes)
        coordinator.heed([gave_up(), *([InvalidationFailed(keys)] if keys else [])], NOW_S)
        return coordinator

    def test_nothing_is_begun_where_nothing_is_wrong(self):
        assert Coordinator().begin_recovery(0, TIMEOUTS, NOW_S) is None

    def test_it_is_begun_once_and_probes_and_tells(self):
        coordinator = self.out("b", "a")
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        assert coordinator.begin_recovery(1, TIMEOUTS, NOW_S) is None
        assert (recovery.ticket, recovery.part, list(recovery.keys)) == (0, ONE_PART, ["b", "a"])
        script = Script(recovery.step)
        assert isinstance(script.command, Sleep)
        assert script.give(Woke(8.0)).command == Ping(0.25)
        assert script.give(Ponged(8.0)).command == DeleteKeys(("b", "a"), 0.25, insists=True)
        script.give(KeysDeleted(8.0, 2))
        assert coordinator.heed(script.notices, 8.0) == [OutageEnded(ONE_PART, 1.0)]
        assert coordinator.skip("a") is MissReason.BYPASSED
        assert coordinator.next_recovery(recovery, script.outcome, TIMEOUTS, NOW_S) is None
        assert coordinator.skip("a") is None
        assert not coordinator.must_ask
        assert coordinator.snapshot() == Coordinator().snapshot()

    def test_the_store_is_told_the_oldest_first_and_not_all_at_once(self):
        keys = [f"shop:{number}" for number in range(MOST_TOLD + 1)]
        coordinator = self.out(*keys)
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        assert list(recovery.keys) == keys[:-1]
        coordinator.heed([StoreAnswered()], NOW_S)
        recovery = coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S)
        assert (recovery.ticket, list(recovery.keys)) == (0, keys[-1:])
        assert coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S) is None

    def test_what_has_failed_again_meanwhile_is_told_again(self):
        """S1."""
        coordinator = self.out("a", "b")
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        coordinator.heed([StoreAnswered(), InvalidationFailed(("a",))], NOW_S)
        recovery = coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S)
        assert list(recovery.keys) == ["a"]

    def test_one_that_was_interrupted_has_told_nothing(self):
        coordinator = self.out("a")
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        coordinator.heed([StoreAnswered()], NOW_S)
        again = coordinator.next_recovery(recovery, Abandoned(), TIMEOUTS, NOW_S)
        assert (again.ticket, again.keys) == (recovery.ticket, recovery.keys)

    def test_one_that_is_given_up_is_begun_by_the_next(self):
        coordinator = self.out()
        coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        assert coordinator.give_up(0) is None
        assert recovering(coordinator) == {ONE_PART: None}
        assert coordinator.begin_recovery(1, TIMEOUTS, NOW_S) is not None
        coordinator.give_up(0)
        assert recovering(coordinator) == {ONE_PART: 1}

    def test_whoever_was_given_up_has_told_nothing(self):
        """S1: what was pending then may have been told, and have failed again under the same number."""
        coordinator = self.out("a")
        first = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        coordinator.give_up(0)
        second = coordinator.begin_recovery(1, TIMEOUTS, NOW_S)
        coordinator.heed([StoreAnswered()], NOW_S)
        assert coordinator.next_recovery(first, told(first), TIMEOUTS, NOW_S) is None
        assert recovering(coordinator) == {ONE_PART: 1}
        assert coordinator.skip("a") is MissReason.BYPASSED
        assert coordinator.next_recovery(second, told(second), TIMEOUTS, NOW_S) is None
        assert coordinator.snapshot().parts == ()
        coordinator.heed([InvalidationFailed(("a",))], NOW_S)
        assert coordinator.next_recovery(first, told(first), TIMEOUTS, NOW_S) is None
        assert coordinator.skip("a") is MissReason.BYPASSED

    def test_one_whose_part_has_recovered_by_itself_comes_to_its_end(self):
        coordinator = self.out()
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        coordinator.heed([StoreAnswered()], NOW_S)
        assert recovering(coordinator) == {ONE_PART: 0}
        coordinator.give_up(0)
        assert recovering(coordinator) == {}
        assert coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S) is None


class TestRefusedKeys:
    def test_that_a_key_is_refused_is_said_once_and_that_it_is_given_up(self):
        coordinator = two_parts(longest_life_s=10.0)
        coordinator.heed([InvalidationFailed((A, B))], NOW_S)
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        said = [InvalidationRefused((A, "a:unknown"), FailureKind.PERMISSION)]
        assert coordinator.heed(said, NOW_S) == [InvalidationsRefused("a", FailureKind.PERMISSION, 1)]
        coordinator.next_recovery(recovery, Recovered((), (A,)), TIMEOUTS, NOW_S)
        assert coordinator.heed(said, NOW_S) == [], "it is known"
        assert coordinator.heed([InvalidationRefused(("c:1",), FailureKind.OTHER)], NOW_S) == []
        assert coordinator.skip(A) is MissReason.BYPASSED
        assert coordinator.heed([], NOW_S + 9.9) == []
        assert coordinator.heed([], NOW_S + 10.0) == [InvalidationsGivenUp("a", 1)]
        assert coordinator.skip(A) is None
        assert coordinator.skip(B) is MissReason.BYPASSED

    def test_none_is_given_up_while_any_value_that_was_stored_before_may_be_alive(self):
        """S1, for the longest life that anybody may ask for."""
        longest = Policy(ttl=MAX_TTL_S, stale_for_s=MAX_TTL_S)
        coordinator = Coordinator()
        coordinator.heed([InvalidationFailed((A,))], NOW_S)
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        coordinator.next_recovery(recovery, Recovered((), (A,)), TIMEOUTS, NOW_S)
        hard_ttl_ms, _ = longest.expiry_ms(1.0)
        coordinator.heed([], NOW_S + longest.max_lease_s + hard_ttl_ms / 1000)
        assert coordinator.skip(A) is MissReason.BYPASSED

    def test_writes_ask_the_store_but_where_it_is_out(self):
        coordinator = two_parts()
        coordinator.heed([gave_up("a"), InvalidationFailed((B,))], NOW_S)
        assert coordinator.skip_write((B,)) is None, "to be told of a write is always safe"
        assert coordinator.skip_write((A, TAG_A)) is MissReason.STORE_ERROR
        assert coordinator.skip_write((B, A)) is None, "one of them is to be written"
        assert coordinator.skip_write(("c:1",)) is None
        assert coordinator.skip_write(()) is None
        assert Coordinator().skip_write((A,)) is None
        assert Coordinator(is_disabled=True).skip_write((A,)) is MissReason.DISABLED


class TestBatches:
    """What a batch does of which some keys are in a part that does not serve, or are pending."""

    def test_it_is_asked_for_what_is_served_but_where_every_key_depends_on_what_is_not(self):
        coordinator = two_parts()
        assert coordinator.skip_many((A, B)) is None
        coordinator.heed([gave_up("a")], NOW_S)
        assert coordinator.is_part_out("a")
        assert not coordinator.is_part_out("b")
        assert coordinator.skip_many((A, B)) is None
        assert coordinator.skip_many((A,)) is MissReason.STORE_ERROR
        assert coordinator.skip_many((B,), (TAG_A,)) is MissReason.STORE_ERROR
        assert coordinator.skip_many(()) is None

    def test_what_is_pending_is_bypassed_whichever_part_it_is_in_by_now(self):
        coordinator = two_parts()
        coordinator.heed([InvalidationFailed((A,)), InvalidationFailed((TAG_A,))], NOW_S)
        coordinator.part_of = lambda _: "b"
        assert coordinator.skip(A) is MissReason.BYPASSED
        assert coordinator.skip(B) is None
        assert coordinator.skip_many((B, A)) is MissReason.BYPASSED
        assert coordinator.skip_many((B,), (TAG_A,)) is MissReason.BYPASSED
        assert coordinator.skip_many((B,)) is None

    def test_a_cache_that_is_switched_off_asks_for_nothing(self):
        assert Coordinator(is_disabled=True).skip_many((A,)) is MissReason.DISABLED


class TestTheEnd:
    def test_every_part_is_told_what_is_pending_for_it(self):
        coordinator = two_parts()
        coordinator.heed([gave_up("a"), InvalidationFailed((A, TAG_A, B))], NOW_S)
        recoveries = coordinator.begin_last(TIMEOUTS, NOW_S)
        assert {each.part: set(each.keys) for each in recoveries} == {"a": {A, TAG_A}, "b": {B}}
        for each in recoveries:
            coordinator.heed([StoreAnswered(each.part)], NOW_S)
            assert coordinator.next_recovery(each, told(each), TIMEOUTS, NOW_S) is None
        assert coordinator.pending_invalidations == 0
        assert coordinator.begin_last(TIMEOUTS, NOW_S) == []


class TestParts:
    """What happens to one part of the store is nothing to the others."""

    def test_an_outage_of_one_leaves_the_reads_of_the_others(self):
        coordinator = two_parts()
        assert coordinator.heed([gave_up("a")], NOW_S) == [OutageBegan("a", FailureKind.TIMEOUT)]
        assert coordinator.is_out
        assert [coordinator.skip(key) for key in (A, B)] == [MissReason.STORE_ERROR, None]
        began = [OutageBegan("b", FailureKind.CONNECTION)]
        assert coordinator.heed([gave_up("b", FailureKind.CONNECTION)], 8.0) == began
        assert coordinator.heed([StoreAnswered("a")], 9.0) == [OutageEnded("a", 2.0)]
        assert [coordinator.skip(key) for key in (A, B)] == [None, MissReason.STORE_ERROR]

    def test_invalidations_wait_for_the_part_that_their_key_is_in(self):
        coordinator = two_parts()
        coordinator.heed([InvalidationFailed((B, A, TAG_A, TAG_B))], NOW_S)
        assert coordinator.bypassed == {TAG_A, TAG_B}
        recoveries = {}
        for ticket in range(2):
            recovery = coordinator.begin_recovery(ticket, TIMEOUTS, NOW_S)
            recoveries[recovery.part] = recovery
        assert coordinator.begin_recovery(2, TIMEOUTS, NOW_S) is None
        assert {name: list(each.keys) for name, each in recoveries.items()} == {
            "a": [A, TAG_A],
            "b": [B, TAG_B],
        }
        script = Script(recoveries["a"].step).give(Woke(8.0))
        assert script.command == Ping(0.25, "a")
        script.give(StoreFailed(8.0, FailureKind.TIMEOUT, "a"))
        assert script.notices == [StoreErrored(FailureKind.TIMEOUT, "a")]
        assert coordinator.next_recovery(recoveries["b"], told(recoveries["b"]), TIMEOUTS, NOW_S) is None
        assert [coordinator.skip(key) for key in (A, B)] == [MissReason.BYPASSED, None]
        assert coordinator.bypassed == {TAG_A}
        assert recovering(coordinator) == {"a": recoveries["a"].ticket}

    def test_refusals_are_said_once_of_each(self):
        kind = FailureKind.OUT_OF_MEMORY
        coordinator = two_parts()
        both = [gave_up("a", kind), gave_up("b", kind)]
        assert coordinator.heed(both, NOW_S) == [RefusalBegan("a", kind), RefusalBegan("b", kind)]
        coordinator.heed([Stored(A)], NOW_S)
        assert coordinator.heed(both, NOW_S) == [RefusalBegan("a", kind)]

    def test_the_connections_to_one_are_distrusted(self):
        """S9."""
        missed = [Missed(B, MissReason.KEY_CHECK)]
        coordinator = two_parts()
        assert coordinator.heed(missed, NOW_S) == [Suspected("b")]
        assert coordinator.heed([RepliesCrossed(B)], NOW_S) == [Distrusted("b")]

    def test_one_that_has_recovered_is_forgotten(self):
        """B2: the parts of a store may come and go."""
        coordinator = Coordinator()
        for number in range(1_000):
            coordinator.heed([gave_up(f"node-{number}"), StoreAnswered(f"node-{number}")], NOW_S)
            coordinator.heed([StoreAnswered(f"other-{number}")], NOW_S)
        assert coordinator._parts == {}
        assert not coordinator.must_ask


def every_notice():
    """Notices of every kind, of two parts."""
    key, part = st.sampled_from(KEYS), st.sampled_from("ab")
    keys = st.lists(key, min_size=1, max_size=3).map(tuple)
    telling = (
        st.builds(StoreGaveUp, st.sampled_from(FailureKind), part)
        | st.builds(StoreAnswered, part)
        | st.builds(Stored, key)
        | st.builds(InvalidationFailed, keys)
        | st.builds(Missed, key, st.sampled_from(MissReason))
    )
    passing = (
        st.builds(Hit, key)
        | st.builds(StoreErrored, st.sampled_from(FailureKind), part)
        | st.builds(Invalidated, keys)
        | st.builds(Ended, st.sampled_from(OperationName), st.just(0.1))
        | st.builds(all_notices.Loaded, key, st.booleans(), st.just(0.1))
        | st.builds(all_notices.SoftExpired, keys)
    )
    return telling | passing


NOTICES = st.lists(every_notice(), max_size=4)


def said(coordinator):
    """What a driver sees of it."""
    skips = {key: coordinator.skip(key) for key in KEYS}
    flags = (coordinator.must_ask, coordinator.needs_recovery, coordinator.is_out, coordinator.bypassed)
    return skips, flags, coordinator.pending_invalidations


@settings(deadline=None, max_examples=200)
@given(st.lists(NOTICES, max_size=6), NOTICES, st.booleans())
def test_whatever_changes_something_concerns_it(past, notices, is_disabled):
    coordinator = two_parts(is_disabled=is_disabled, most_pending=2)
    for batch in past:
        coordinator.heed(batch, NOW_S)
    concerns = coordinator.concerns(notices)
    before = (coordinator.snapshot(), said(coordinator))
    changes = coordinator.heed(notices, NOW_S)
    assert concerns or (not changes and before == (coordinator.snapshot(), said(coordinator)))


def of_part(notice, part):
    """What there is in a notice for one part; None for nothing."""
    match notice:
        case StoreGaveUp(part=name) | StoreAnswered(part=name) | StoreErrored(part=name):
            return notice if name == part else None
        case InvalidationFailed(keys=keys):
            left = tuple(key for key in keys if part_of(key) == part)
            return InvalidationFailed(left) if left else None
        case Stored(key=key) | Missed(key=key):
            return notice if part_of(key) == part else None
    return notice


@settings(deadline=None, max_examples=200)
@given(st.lists(NOTICES | st.sampled_from("ab"), max_size=10))
def test_a_part_fares_as_if_it_were_alone(happenings):
    together = two_parts(most_pending=2)
    alone = {part: two_parts(most_pending=2) for part in "ab"}
    for number, happening in enumerate(happenings):
        if isinstance(happening, str):  # it recovers
            for each in (together, alone[happening]):
                while (recovery := each.begin_recovery(number, TIMEOUTS, NOW_S)) is not None:
                    if recovery.part == happening:
                        each.heed([StoreAnswered(happening)], float(number))
                        each.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S)
                each.give_up(number)
            continue
        changes = together.heed(happening, float(number))
        for part, each in alone.items():
            own = [found for notice in happening if (found := of_part(notice, part)) is not None]
            assert [change for change in changes if change.part == part] == each.heed(own, float(number))
    for part, each in alone.items():
        for key in KEYS:
            if part_of(key) == part:
                assert together.skip(key) == each.skip(key)
    assert together.bypassed == alone["a"].bypassed | alone["b"].bypassed
    assert together.is_out == (alone["a"].is_out or alone["b"].is_out)
    apart = alone["a"].snapshot().parts + alone["b"].snapshot().parts
    # Here recoveries are begun and given up for whichever part comes first.
    timeless = {"due_s": None, "was_dropped": False}
    assert [replace(part, **timeless) for part in together.snapshot().parts] == [
        replace(part, **timeless) for part in apart
    ]


@settings(deadline=None, max_examples=200)
@given(st.lists(NOTICES, max_size=8))
def test_a_snapshot_is_a_value_of_which_another_can_be_made(past):
    coordinator, other = two_parts(), two_parts()
    for batch in past:
        coordinator.heed(batch, NOW_S)
    coordinator.share(coordinator.ticket(), share())
    follower = coordinator.ticket()
    place = coordinator.share(follower, share())
    last = coordinator.ticket()
    coordinator.begin_recovery(last, TIMEOUTS, NOW_S)
    snapshot = coordinator.snapshot()
    other.heed([gave_up("b"), InvalidationFailed((A, TAG_B))], NOW_S)
    other.restore(snapshot)
    assert other.snapshot() == snapshot
    assert hash(other.snapshot()) == hash(snapshot)
    assert said(other) == said(coordinator)
    assert other.ticket() not in {0, follower, *recovering(other).values()}
    assert other.observe(over(1, ACCEPTED)) == 1
    assert coordinator.snapshot() == snapshot
    assert snapshot != other.snapshot()
    assert other.leave(follower, place, NOW_S) == LoadShared(NOW_S, b"7", None)


def test_a_load_that_rests_does_so_after_it_was_restored_as_well():
    coordinator, other = Coordinator(), Coordinator()
    coordinator.share(0, share())
    coordinator.observe(over(1, RAISED, 9.0))
    other.restore(coordinator.snapshot())
    assert other.share(0, share(now_s=NOW_S)) == LoadNotShared(NOW_S)
    other.single_flight.end_rest((KEY, SCHEMA))
    assert other.share(0, share(now_s=NOW_S)) == LoadLed(NOW_S, 2)


# Interrupts.

HEEDED = (
    [gave_up("a"), InvalidationFailed((A, TAG_A, B))],
    [InvalidationFailed((A, TAG_B)), gave_up("b")],
    [InvalidationFailed(KEYS)],
    [StoreAnswered("a"), Stored(A)],
)


def heeds(*batches):
    coordinator = two_parts(most_pending=2)
    coordinator.heed([InvalidationFailed((TAG_A, A))], NOW_S)
    for batch in batches:
        coordinator.heed(batch, NOW_S)
    return coordinator


@pytest.mark.parametrize("batch", HEEDED, ids=range(len(HEEDED)))
def test_interrupted_anywhere_what_is_pending_is_not_read_and_once_more_all_is_taken_in(batch):
    """S1."""
    number, has_struck = 0, True
    while has_struck:
        number += 1
        coordinator = heeds()
        has_struck = strike(number, lambda coordinator=coordinator: coordinator.heed(batch, NOW_S))
        for part in coordinator.snapshot().parts:
            for key, _ in part.pending:
                assert coordinator.skip(key) is not None
            pending_tags = {TAG_A, TAG_B} & set(dict(part.pending))
            assert pending_tags <= coordinator.bypassed
            if part.open_since_s is not None:
                assert coordinator.skip(part.part) is MissReason.STORE_ERROR
        assert coordinator.needs_recovery or not coordinator.snapshot().parts
        coordinator.heed(batch, NOW_S)
        skips, flags, pending = said(coordinator)
        assert (skips, flags, pending) == said(heeds(batch))
    assert number > 100


def test_interrupted_anywhere_what_was_pending_stays_so():
    """S1: also while it becomes the newest."""
    again = [InvalidationFailed((TAG_A, KEY))]
    number, has_struck = 0, True
    while has_struck:
        number += 1
        coordinator = Coordinator()
        coordinator.heed([InvalidationFailed((KEY, TAG_A))], NOW_S)
        has_struck = strike(number, lambda coordinator=coordinator: coordinator.heed(again, NOW_S))
        assert coordinator.skip(KEY) is MissReason.BYPASSED
        assert coordinator.bypassed == {TAG_A}


def test_flags_that_an_interrupt_has_left_behind_do_not_stay():
    number, was_left_behind, has_struck = 0, False, True
    while has_struck:
        number += 1
        coordinator = Coordinator()
        has_struck = strike(number, lambda coordinator=coordinator: coordinator.heed([], NOW_S))
        was_left_behind |= coordinator.must_ask
        assert coordinator.skip(KEY) is None
        if coordinator.needs_recovery:
            assert coordinator.begin_recovery(0, TIMEOUTS, NOW_S) is None
            assert not coordinator.must_ask
            assert not coordinator.needs_recovery
    assert was_left_behind


class TestInterruptedOperations:
    def test_one_that_waits_for_a_command_gives_back_what_it_may_hold(self):
        step = interrupted(get(ReadRequest(KEY, INTS, TIMEOUTS, 0.0)), NOW_S)
        assert step.outcome == Abandoned()

    def test_one_that_is_over_has_nothing_to_give_back(self):
        step = over(1, ACCEPTED)
        assert interrupted(step, NOW_S) is step
        assert without_store(step, NOW_S) is step

    def test_without_the_store_what_could_not_be_removed_is_pending(self):
        request = InvalidateRequest(OperationName.INVALIDATE, (KEY,), 1, TIMEOUTS, 0.0)
        step = invalidate(request)
        notices = []
        for _ in range(10):
            if step.command is None:
                break
            step = without_store(step, NOW_S)
            notices += step.notices
        coordinator = Coordinator()
        coordinator.heed(notices, NOW_S)
        assert coordinator.skip(KEY) is MissReason.BYPASSED, "the store has not failed: it was not asked"
        assert not coordinator.is_out
        assert coordinator.pending_invalidations == 1
        assert coordinator.begin_recovery(1, TIMEOUTS, NOW_S) is not None

    def test_a_read_without_the_store_finds_nothing(self):
        step = get(ReadRequest(KEY, INTS, TIMEOUTS, 0.0))
        assert isinstance(step.command, ReadCell)
        for _ in range(10):
            step = without_store(step, NOW_S)
        assert step.outcome == Missing()


def test_what_a_snapshot_says_of_a_part():
    coordinator = two_parts()
    coordinator.heed([gave_up("a"), gave_up("a", FailureKind.OTHER), InvalidationFailed((A,))], NOW_S)
    coordinator.begin_recovery(3, TIMEOUTS, NOW_S)
    [part] = coordinator.snapshot().parts
    assert astuple(part)[:5] == ("a", NOW_S, ((A, 1),), (FailureKind.OTHER,), 3)
    assert part.due_s > NOW_S


def test_tags_that_are_pending_for_one_part_are_not_copied_for_each_call():
    """There may be thousands, and in an outage every call settles under the driver's lock."""
    coordinator = Coordinator()
    coordinator.heed([InvalidationFailed((TAG_A, TAG_B))], NOW_S)
    coordinator.heed([gave_up()], NOW_S)
    before = coordinator.bypassed
    coordinator.heed([gave_up()], NOW_S)
    assert before == {TAG_A, TAG_B}
    assert coordinator.bypassed is before


def test_a_recovery_that_was_forgotten_is_begun_again():
    """By a process that was forked, or in another event loop: nobody of those who ran it is there."""
    coordinator = Coordinator()
    coordinator.heed([gave_up()], NOW_S)
    assert coordinator.begin_recovery(coordinator.ticket(), TIMEOUTS, NOW_S) is not None
    assert coordinator.begin_recovery(coordinator.ticket(), TIMEOUTS, NOW_S) is None
    coordinator.forget_loads()
    assert coordinator.begin_recovery(coordinator.ticket(), TIMEOUTS, NOW_S) is not None


class TestAnotherStore:
    """A failover, or a restart: what was written lately is told again, and reads do without it (S1f)."""

    PATTERN = PatternRequest(KeyBuilder("a"), "a:p:*", 500, TIMEOUTS, NOW_S)

    def written(self, **changes):
        coordinator = two_parts(**changes)
        assert coordinator.begin_write((A, B, TAG_A), NOW_S) is None
        coordinator.begin_pattern(self.PATTERN)
        return coordinator

    def test_what_was_written_to_the_part_is_told_again_and_nothing_is_read_there(self):
        coordinator = self.written()
        assert coordinator.opened("a", NOW_S, is_another=True) == [StoreReplaced("a", 3, 0.5)]
        assert coordinator.must_ask
        assert [coordinator.skip(key) for key in (A, "a:other", B)] == [
            *(MissReason.BYPASSED, MissReason.BYPASSED),
            None,
        ]
        assert coordinator.skip_write((A,)) is None, "writes go on"
        recovery = coordinator.begin_recovery(0, TIMEOUTS, NOW_S)
        assert recovery.step.command.keys == (TAG_A, A)
        recovery = coordinator.next_recovery(recovery, told(recovery), TIMEOUTS, NOW_S)
        assert recovery.pattern is self.PATTERN
        recovery = coordinator.next_recovery(recovery, PatternRemoved(0, 0, True), TIMEOUTS, NOW_S)
        assert recovery.step.command.duration_s == 0.5
        assert coordinator.skip(A) is MissReason.BYPASSED
        assert coordinator.next_recovery(recovery, Completed(), TIMEOUTS, NOW_S + 0.5) is None
        assert coordinator.skip(A) is None
        assert not coordinator.must_ask

    def test_the_moment_ends_also_where_nothing_runs_in_the_background(self):
        coordinator = two_parts()
        coordinator.opened("a", NOW_S, is_another=True)
        coordinator.heed((), NOW_S + 0.25)
        assert coordinator.skip(A) is MissReason.BYPASSED
        coordinator.heed((), NOW_S + 0.5)
        assert coordinator.skip(A) is None

    def test_without_such_a_moment_only_what_was_written_is_not_read(self):
        coordinator = self.written(after_failover_s=0.0)
        coordinator.recent.patterns(NOW_S + 100)
        coordinator.opened("a", NOW_S, is_another=True)
        assert coordinator.skip(A) is MissReason.BYPASSED
        assert coordinator.skip("a:other") is None

    def test_the_same_store_is_told_what_is_pending_at_once_and_nothing_else(self):
        coordinator = self.written()
        assert coordinator.opened("a", NOW_S, is_another=False) == []
        assert not coordinator.needs_recovery
        coordinator.heed([gave_up("a"), InvalidationFailed((A,))], NOW_S)
        assert isinstance(coordinator.begin_recovery(0, TIMEOUTS, NOW_S).step.command, Sleep)
        coordinator.opened("a", NOW_S, is_another=False)
        recovery = coordinator.begin_recovery(1, TIMEOUTS, NOW_S)
        assert recovery.step.command.keys == (A,)

    def test_a_cache_that_is_switched_off_remembers_nothing(self):
        coordinator = self.disabled()
        assert coordinator.begin_write((A,), NOW_S) is MissReason.DISABLED
        coordinator.begin_pattern(self.PATTERN)
        assert coordinator.opened("a", NOW_S, is_another=True) == []
        assert len(coordinator.recent) == 0
        assert coordinator.begin_watch(0, TIMEOUTS, NOW_S) is None

    def disabled(self):
        return two_parts(is_disabled=True)

    def test_what_was_only_looked_at_is_not_remembered(self):
        coordinator = two_parts()
        coordinator.begin_pattern(replace(self.PATTERN, dry_run=True))
        assert len(coordinator.recent) == 0

    def test_a_pattern_is_remembered_from_the_end_of_its_removal_on(self):
        coordinator = two_parts()
        coordinator.begin_pattern(self.PATTERN)
        deleted = (PatternDeleted("a:p:*", 3),)
        assert coordinator.concerns(deleted)
        coordinator.heed(deleted, NOW_S + 59)
        assert coordinator.recent.patterns(NOW_S + 100) == [self.PATTERN]

    def test_what_an_operation_begins_to_remove_is_remembered(self):
        coordinator = two_parts()
        coordinator.is_watchful = True
        began = (RemovalBegan((A,)),)
        assert coordinator.concerns(began)
        coordinator.heed(began, NOW_S)
        assert coordinator.must_watch
        assert coordinator.recent.keys(NOW_S + 59) == [A]
        off = self.disabled()
        off.heed(began, NOW_S)
        assert len(off.recent) == 0

    def test_that_more_was_written_than_is_remembered_is_said(self):
        coordinator = two_parts()
        coordinator.recent.limit = 1
        coordinator.begin_write((A, B), NOW_S)
        assert coordinator.opened("a", NOW_S, is_another=True) == [StoreReplaced("a", 0, 0.5, True)]

    def test_while_there_are_recent_writes_somebody_looks_whether_the_store_is_the_same(self):
        coordinator = two_parts()
        coordinator.is_watchful = True
        assert not coordinator.must_watch
        coordinator.begin_write((A, B), NOW_S)
        assert coordinator.must_watch
        assert coordinator.concerns((Hit(A),))
        look = coordinator.begin_watch(0, TIMEOUTS, NOW_S)
        assert not coordinator.must_watch
        assert look.step.state.parts == ("a", "b")
        assert coordinator.begin_watch(1, TIMEOUTS, NOW_S) is None, "somebody does"
        coordinator.begin_pattern(self.PATTERN)
        assert not coordinator.must_watch
        coordinator.heed([gave_up("a")], NOW_S)
        look = coordinator.next_recovery(look, Completed(), TIMEOUTS, NOW_S + 1)
        assert look.step.state.parts == ("b",), "the other is seen to by its recovery"
        assert coordinator.next_recovery(look, Completed(), TIMEOUTS, NOW_S + 60) is None
        assert len(coordinator.recent) == 0

    @pytest.mark.parametrize("end", [lambda each: each.give_up(0), lambda each: each.forget_loads()])
    def test_where_who_looks_has_ended_the_next_write_has_another_look(self, end):
        coordinator = two_parts()
        coordinator.is_watchful = True
        coordinator.begin_pattern(self.PATTERN)
        assert coordinator.begin_watch(0, TIMEOUTS, NOW_S).step.state.parts == (ONE_PART,)
        end(coordinator)
        coordinator.begin_write((A,), NOW_S)
        assert coordinator.must_watch


class TestWord:
    """What is put down by who can tell nobody, as it has struck a thread in the middle of something."""

    def test_what_could_not_be_removed_is_bypassed_until_it_is_pending(self):
        coordinator = Coordinator()
        coordinator.leave_word(["n:a", TAG_A])
        coordinator._settle()  # as whoever was struck goes on to do

        for _ in range(2):  # put down, and then pending
            assert coordinator.skip("n:a") is MissReason.BYPASSED
            assert coordinator.skip("n:b") is None
            assert coordinator.skip_many(["n:b"], [TAG_A]) is MissReason.BYPASSED
            assert coordinator.bypassed == {TAG_A}
            assert not coordinator.may_glance("n:b")
            assert coordinator.needs_recovery
            assert coordinator.pending_invalidations == 2
            coordinator.heed([], 1.0)
            assert not coordinator.untold

    def test_wherever_settling_is_struck_what_is_put_down_is_bypassed(self):
        """A finaliser may run between any two lines."""
        struck = 0
        for at in itertools.count():
            coordinator = Coordinator()
            coordinator.heed([InvalidationFailed((TAG_B,))], 1.0)
            lines = itertools.count()

            def strike(frame, event, _, coordinator=coordinator, lines=lines, at=at):
                if event == "line" and next(lines) == at:
                    coordinator.leave_word(["n:a", TAG_A])
                return strike

            before = sys.gettrace()
            sys.settrace(strike)
            try:
                coordinator._settle()
            finally:
                sys.settrace(before)
            if not coordinator.untold:
                break
            struck += 1
            assert coordinator.skip("n:a") is MissReason.BYPASSED
            assert coordinator.bypassed == {TAG_A, TAG_B}
        assert struck > 10

    def test_a_finaliser_may_put_something_down_while_all_of_it_is_looked_at(self):
        coordinator = Coordinator()
        coordinator.leave_word(["n:a"])

        class Restless(dict):
            """One that is changed while somebody goes over it."""

            times = 0

            def __iter__(self):
                self.times += 1
                if self.times == 1:
                    raise RuntimeError("dictionary changed size during iteration")
                return super().__iter__()

        coordinator.untold = Restless(coordinator.untold)
        coordinator.heed([], 1.0)
        assert coordinator.untold.times == 2
        assert coordinator.skip("n:a") is MissReason.BYPASSED
        assert coordinator.pending_invalidations == 1

    def test_it_is_a_part_of_a_coordinator(self):
        with pytest.raises(NotImplementedError):
            TakesWords(frozenset()).leave_word(["n:a"])

    def test_a_cache_that_is_switched_off_has_nothing_to_recover(self):
        coordinator = Coordinator(is_disabled=True)
        coordinator.leave_word(["n:a"])
        coordinator._settle()
        assert not coordinator.needs_recovery
