"""Loading: the loader's answer, and what becomes of it under the grant that it was called with."""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sansio_cache.cell import Kind, make_grant
from sansio_cache.codec import codec_for
from sansio_cache.commands import (
    NO_TAGS,
    Capture,
    Compute,
    DeleteKeys,
    Fill,
    FillCells,
    Lease,
    ReleaseLeases,
    RenewLeases,
    Sleep,
)
from sansio_cache.entry import Servable, seal, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    Computed,
    ComputeFailed,
    FailureKind,
    FillResult,
    Interrupted,
    KeysDeleted,
    LeasesReleased,
    StoreFailed,
    Woke,
)
from sansio_cache.loader import Absent, Fresh
from sansio_cache.notices import (
    Ended,
    FillRefused,
    InvalidationFailed,
    LoadFailed,
    Missed,
    OperationName,
    Outlived,
    RefreshFailed,
    StaleServed,
    Stored,
    StoreErrored,
    StoreGaveUp,
    Unstorable,
)
from sansio_cache.notices import Loaded as LoadedNotice
from sansio_cache.operations.loading import RANDOM_BYTES, Finding, LoadRequest, compute
from sansio_cache.operations.renewal import renew
from sansio_cache.step import Abandoned, Loaded, Raised, Value, evolve
from sansio_cache.ttl import NO_JITTER, Jitter
from support.machines import GRANT, INTS, KEY, THEIRS, Script, absent_cell, draw, load_request, value_cell

STORED = CellsFilled(0.0, (FillResult.STORED,))
REFUSED = CellsFilled(0.0, (FillResult.REFUSED,))
RELEASED = LeasesReleased(0.0)
BROKEN = RuntimeError("database")
DONE = Ended(OperationName.GET_OR_LOAD, 0.0)
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
STALE_CELL = value_cell(6, soft_ms=1)
STALE = Servable(6, False, STALE_CELL)
RELEASE = ReleaseLeases((Lease(KEY, GRANT),), 0.25)


def begun(*, grant=GRANT, versions=(), finding=None, is_empty=False, **changes):
    request = load_request(**changes)
    step = compute(request, 4, grant, versions, finding or Finding(), 0.0, is_empty=is_empty)
    return Script(step)


def filled(given, **changes):
    """The one fill that a loader's answer leads to."""
    script = begun(**changes).give(Computed(0.0, given))
    [fill] = script.command.fills
    return fill


class TestTheLoader:
    def test_is_called_under_the_grant_which_is_renewed_beside_it(self):
        script = begun()
        assert isinstance(script.command, Compute)
        assert script.command.key == KEY
        assert script.step.load_id == 4
        renewal = Script(renew(script.command.renewal))
        assert renewal.command == Sleep(5 / 3)
        assert renewal.give(Woke(2.0)).command == RenewLeases((Lease(KEY, GRANT),), 5_000, 0.25)

    def test_without_a_grant_there_is_nothing_to_renew(self):
        assert begun(grant=None).command == Compute(KEY, None)

    def test_is_told_what_it_replaces(self):
        assert begun(finding=Finding(previous=STALE_CELL)).command.previous == 6
        assert begun(finding=Finding(previous=absent_cell())).command.previous is None
        assert begun().command.previous is None

    def test_that_raises_gives_the_lease_back_and_stores_nothing(self):
        """S13."""
        script = begun().give(ComputeFailed(0.0, BROKEN))
        assert script.command == RELEASE
        script.give(RELEASED)
        assert script.outcome == Raised(BROKEN)
        assert script.notices == [LoadFailed(KEY, True, "RuntimeError"), DONE]

    def test_that_raises_without_a_lease_has_nothing_to_give_back(self):
        script = begun(grant=None).give(ComputeFailed(0.0, BROKEN))
        assert script.outcome == Raised(BROKEN)
        assert script.notices == [LoadFailed(KEY, False, "RuntimeError"), DONE]

    @pytest.mark.parametrize("grant", [GRANT, None])
    def test_that_raises_is_covered_by_a_stale_value(self, grant):
        finding = Finding(stale=STALE, counted=False)
        script = begun(grant=grant, finding=finding).give(ComputeFailed(0.0, BROKEN))
        if grant:
            script.give(RELEASED)
        assert script.outcome == Value(6)
        leased = grant is not None
        assert script.notices == [LoadFailed(KEY, leased, "RuntimeError"), StaleServed(KEY), DONE]


class TestAValueWithNothingLeftToLive:
    @pytest.mark.parametrize(("given", "payload"), [(Fresh(7, ttl=-30), b"7"), (Absent(ttl=0), None)])
    def test_is_its_callers_and_the_lease_is_given_back(self, given, payload):
        script = begun().give(Computed(2.0, given))
        assert script.command == RELEASE
        script.give(RELEASED)
        assert script.outcome == Loaded(7 if payload else None, payload, accepted=False)
        assert script.notices == [LoadedNotice(KEY, True, 2.0), Outlived(KEY), DONE]

    def test_without_a_grant_is_a_value_like_any_other(self):
        script = begun(grant=None).give(Computed(0.0, Fresh(7, ttl=0)))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.notices == [LoadedNotice(KEY, False, 0.0), DONE]

    @pytest.mark.parametrize(
        "found",
        [
            {"finding": Finding(previous=STALE_CELL)},
            {"finding": Finding(stale=STALE, previous=STALE_CELL)},
            {"in_background": True},
        ],
        ids=["previous", "stale", "refresh"],
    )
    def test_takes_what_it_would_have_replaced_with_it(self, found):
        script = begun(**found).give(Computed(0.0, Fresh(7, ttl=0)))
        assert script.command == DeleteKeys((KEY,), 0.25)
        assert script.step.load_id == 4
        script.give(KeysDeleted(1.0, 1))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.step.load_id == 4

    def test_leaves_a_pending_invalidation_where_the_store_cannot_be_told(self):
        script = begun(finding=Finding(previous=STALE_CELL)).give(Computed(0.0, Fresh(7, ttl=0)))
        script.give(StoreFailed(0.1, FailureKind.CONNECTION))
        assert isinstance(script.command, DeleteKeys)
        while script.command is not None:
            script.give(StoreFailed(9.0, FailureKind.CONNECTION))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert InvalidationFailed((KEY,)) in script.notices

    def test_is_removed_all_the_same_where_the_driver_is_interrupted(self):
        script = begun(finding=Finding(previous=STALE_CELL)).give(Computed(0.0, Fresh(7, ttl=0)))
        script.give(Interrupted(0.0))
        assert isinstance(script.command, DeleteKeys)
        script.give(KeysDeleted(1.0, 1))
        assert script.outcome == Abandoned()
        assert DONE not in script.notices

    def test_refuses_answers_to_something_else(self):
        script = begun(finding=Finding(previous=STALE_CELL)).give(Computed(0.0, Fresh(7, ttl=0)))
        with pytest.raises(ProtocolError, match="LoadRemoving"):
            script.give(RELEASED)


class TestTheValue:
    def test_is_stored_with_what_it_took_to_load(self):
        script = begun(ttl=60, stale_for_s=30).give(Computed(2.0, 7))
        body = seal(KEY, INTS, b"7", 2.0)
        assert script.command == FillCells((Fill(KEY, GRANT, 90_000, 60_000, body),), 0.25)
        script.give(CellsFilled(3.0, (FillResult.STORED,)))
        assert script.outcome == Loaded(7, b"7", accepted=True)
        assert script.step.load_id == 4
        assert script.notices == [
            LoadedNotice(KEY, True, 2.0),
            Stored(KEY, ANY, ANY),
            Ended(OperationName.GET_OR_LOAD, 3.0),
        ]

    def test_is_the_callers_as_a_later_hit_would_give_it(self):
        mine = [1]
        script = begun(codec=codec_for(list[int], 1_000)).give(Computed(0.0, mine), STORED)
        assert script.outcome.value == [1]
        assert script.outcome.value is not mine

    @pytest.mark.parametrize(
        ("result", "accepted", "notice"),
        [
            (FillResult.ALREADY_STORED, True, Stored(KEY, ANY, ANY)),
            (FillResult.REFUSED, False, FillRefused(KEY)),
        ],
    )
    def test_is_the_callers_whether_it_was_stored_or_refused(self, result, accepted, notice):
        """Fault 8: where another grant was issued, or the cell is gone, the fill is refused."""
        script = begun().give(Computed(0.0, 7), CellsFilled(0.0, (result,)))
        assert script.outcome == Loaded(7, b"7", accepted=accepted)
        assert notice in script.notices

    def test_without_a_lease_is_not_stored(self):
        script = begun(grant=None).give(Computed(0.5, 7))
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.notices == [
            LoadedNotice(KEY, False, 0.5),
            Ended(OperationName.GET_OR_LOAD, 0.5),
        ]

    def test_counts_as_a_miss_where_the_request_was_not_counted(self):
        """B3."""
        script = begun(finding=Finding(counted=False)).give(Computed(0.0, 7), STORED)
        assert [type(each) for each in script.notices] == [Missed, LoadedNotice, Stored, Ended]

    def test_that_cannot_be_stored_gives_the_lease_back_and_reaches_the_caller(self):
        script = begun().give(Computed(0.0, "not an int"))
        assert script.command == RELEASE
        script.give(RELEASED)
        assert script.outcome == Loaded("not an int", None, accepted=False)
        why = "value cannot be stored: Expected `int`, got `str`. Give a value of the declared type int"
        assert script.notices[1].why.startswith(why)
        assert script.notices == [LoadedNotice(KEY, True, 0.0), Unstorable(KEY, "str", ANY), DONE]
        assert script.step.rests_until_s == 0.0

    def test_that_cannot_be_stored_and_has_no_lease_has_nothing_to_give_back(self):
        script = begun(grant=None).give(Computed(0.0, "text"))
        assert script.outcome == Loaded("text", None, accepted=False)


class TestItsTimeToLive:
    """B1: what reaches the store, for each thing that a loader may give."""

    def test_is_the_policys_with_jitter(self):
        jitter = Jitter(0.1, 0.2)
        assert filled(7, ttl=60, jitter=jitter, random_bytes=draw(draw_ttl=0.0)).hard_ttl_ms == 66_000
        assert filled(7, ttl=60, jitter=jitter, random_bytes=draw(draw_ttl=0.5)).hard_ttl_ms == 69_000

    def test_differs_from_place_to_place_of_a_batch(self):
        request = load_request(jitter=Jitter(0.1, 0.5), random_bytes=draw(seed=7, draw_ttl=0.25))
        for loaded in (7, Absent()):
            found = [request.expiry_ms(loaded, place) for place in range(100)]
            assert len(set(found)) == 100
            assert found == [request.expiry_ms(loaded, place) for place in range(100)]
            assert found[0] == request.expiry_ms(loaded), "a batch of one is as one load"
        assert {request.expiry_ms(Fresh(7, ttl=5), place) for place in range(9)} == {(5_000, 0)}

    def test_that_the_loader_gives_is_not_jittered(self):
        fill = filled(Fresh(7, ttl=10), ttl=60, jitter=Jitter(0.1, 0.2), random_bytes=draw(draw_ttl=0.5))
        assert (fill.hard_ttl_ms, fill.soft_ttl_ms) == (10_000, 0)
        assert fill.body == seal(KEY, INTS, b"7", 0.0)

    def test_that_the_loader_gives_may_be_followed_by_a_stale_time(self):
        fill = filled(Fresh(7, ttl=10), stale_for_s=5)
        assert (fill.hard_ttl_ms, fill.soft_ttl_ms) == (15_000, 10_000)

    def test_of_an_absence_is_the_policys_negative_one_with_jitter(self):
        fill = filled(Absent(), negative_ttl=10, jitter=Jitter(0.1, 0.2), stale_for_s=60, refresh_at=0.5)
        assert (fill.hard_ttl_ms, fill.soft_ttl_ms) == (11_000, 0)

    def test_of_an_absence_is_the_loaders_where_it_says(self):
        fill = filled(Absent(ttl=2), negative_ttl=10, jitter=Jitter(0.1, 0.2))
        assert (fill.hard_ttl_ms, fill.soft_ttl_ms) == (2_000, 0)


class TestAnAbsence:
    def test_is_stored_as_one_and_the_callers_answer_is_none(self):
        script = begun().give(Computed(0.5, Absent()))
        assert script.command.fills[0].body == seal(KEY, INTS, None, 0.5)
        script.give(CellsFilled(0.5, (FillResult.STORED,)))
        assert script.outcome == Loaded(None, None, accepted=True)
        assert Stored(KEY, ANY, ANY) in script.notices

    def test_without_a_lease_is_not_stored(self):
        script = begun(grant=None).give(Computed(0.0, Absent()))
        assert script.outcome == Loaded(None, None, accepted=False)

    @pytest.mark.parametrize("codec", [INTS, codec_for(None, 1_000)], ids=["typed", "plain"])
    @pytest.mark.parametrize("given", [None, Fresh(None, ttl=60)], ids=["none", "fresh"])
    def test_is_what_none_says(self, given, codec):
        script = begun(codec=codec).give(Computed(0.0, given))
        assert script.command.fills[0].body == seal(KEY, codec, None, 0.0)
        script.give(CellsFilled(0.0, (FillResult.STORED,)))
        assert script.outcome == Loaded(None, None, accepted=True)

    @pytest.mark.parametrize(
        ("given", "lives_ms"),
        [
            (None, 3_000),
            (Absent(), 3_000),
            (Absent(ttl=70), 70_000),
            (Fresh(None, ttl=2), 2_000),
            (Fresh(None, ttl=70), 10_000),
        ],
        ids=["none", "absent", "absent for so long", "fresh for less", "fresh for more"],
    )
    def test_lives_no_longer_than_a_value_would(self, given, lives_ms):
        fill = filled(given, ttl=3, negative_ttl=10, jitter=NO_JITTER)
        assert (fill.hard_ttl_ms, fill.soft_ttl_ms) == (lives_ms, 0)


class TestFilling:
    def test_is_retried_under_the_same_grant(self):
        script = begun().give(Computed(0.0, 7))
        fill = script.command
        script.give(StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == fill
        script.give(CellsFilled(0.0, (FillResult.ALREADY_STORED,)))
        assert script.outcome == Loaded(7, b"7", accepted=True)

    def test_that_fails_for_good_leaves_the_value_with_its_caller(self):
        down = StoreFailed(0.0, FailureKind.UNAVAILABLE)
        script = begun().give(Computed(0.0, 7), down)
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.notices[-3:] == [StoreErrored(down.kind), StoreGaveUp(down.kind), DONE]

    def test_that_the_store_refuses_gives_the_lease_back(self):
        """Fault 13: others must not wait for a lease under which nothing can be stored."""
        full = StoreFailed(0.0, FailureKind.OUT_OF_MEMORY)
        script = begun().give(Computed(0.0, 7), full)
        assert script.command == RELEASE
        script.give(RELEASED)
        assert script.outcome == Loaded(7, b"7", accepted=False)
        assert script.notices[-3:] == [StoreErrored(full.kind), StoreGaveUp(full.kind), DONE]

    @pytest.mark.parametrize("results", [(), (FillResult.STORED,) * 2])
    def test_that_is_answered_for_another_number_of_fills_breaks_the_contract(self, results):
        script = begun().give(Computed(0.0, 7))
        with pytest.raises(ProtocolError):
            script.give(CellsFilled(0.0, results))


class TestAStoreThatCompares:
    """A lease that nothing but a renewal can have changed is filled without a look at it."""

    @pytest.mark.parametrize(
        ("took_s", "lease_ms"), [(0.0, 5_000), (1.6, 5_000), (1.7, 0), (9.0, 0)], ids=str
    )
    def test_is_told_what_the_lease_was_as_long_as_it_cannot_have_been_renewed(self, took_s, lease_ms):
        script = begun(is_empty=True).give(Computed(took_s, 7))
        [fill] = script.command.fills
        assert (fill.kind, fill.lease_ms) == (Kind.EMPTY, lease_ms)

    def test_is_not_where_there_is_a_value_beneath(self):
        [fill] = begun(is_empty=False).give(Computed(0.0, 7)).command.fills
        assert fill.lease_ms == 0

    def test_and_finds_a_change_is_asked_again_by_the_grant(self):
        script = begun(is_empty=True).give(Computed(0.0, 7))
        [fill] = script.command.fills
        script.give(CellsFilled(0.1, (FillResult.CHANGED,)))
        assert script.command == FillCells((evolve(fill, lease_ms=0),), pytest.approx(0.15))
        assert script.give(STORED).outcome == Loaded(7, b"7", accepted=True)

    def test_and_does_so_twice_breaks_the_contract(self):
        changed = CellsFilled(0.0, (FillResult.CHANGED,))
        script = begun(is_empty=True).give(Computed(0.0, 7), changed)
        with pytest.raises(ProtocolError):
            script.give(changed)


class TestTags:
    """S7: captured before the load, stored with the value, and read again after the fill."""

    TAGS, KEYS = ("t:a", "t:b"), ("shop:%t:a", "shop:%t:b")
    VERSIONS = (("t:a", V1), ("t:b", V2))

    def begun(self):
        return begun(tags=self.TAGS, versions=self.VERSIONS).give(Computed(0.0, 7))

    def test_go_with_the_value_and_are_read_with_the_fill(self):
        body = seal(KEY, INTS, b"7", 0.0, self.VERSIONS)
        fill = Fill(KEY, GRANT, 60_000, 0, body)
        assert self.begun().command == FillCells((fill,), 0.25, self.KEYS)

    @pytest.mark.parametrize(
        ("after", "accepted"), [((V1, V2), True), ((V1, V3), False), ((V1, b""), False), ((b"", b""), False)]
    )
    def test_that_have_changed_during_the_load_keep_the_value_from_callers_who_came_meanwhile(
        self, after, accepted
    ):
        script = self.begun().give(CellsFilled(0.0, (FillResult.STORED,), after))
        assert script.outcome == Loaded(7, b"7", accepted=accepted)
        assert Stored(KEY, ANY, ANY) in script.notices

    def test_a_refused_fill_is_not_accepted_even_if_the_tags_hold(self):
        script = self.begun().give(CellsFilled(0.0, (FillResult.REFUSED,), (V1, V2)))
        assert script.outcome == Loaded(7, b"7", accepted=False)

    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self):
        with pytest.raises(ProtocolError):
            self.begun().give(CellsFilled(0.0, (FillResult.STORED,), (V1,)))

    def test_are_captured_for_twice_the_longest_entry(self):
        request = load_request(tags=self.TAGS, ttl=60, jitter=Jitter(0.1, 0.5), stale_for_s=1)
        assert request.capture == Capture(self.KEYS, 2 * 91_000)
        assert load_request().capture == NO_TAGS


def test_a_variant_is_not_for_callers_who_came_during_the_load():
    """S1: nobody has looked whether the value that it is tied to is still there."""
    key = variant_key(KEY, INTS.fingerprint)
    variant_of = (("", THEIRS),)
    script = begun(variant_of=THEIRS, variant=key, versions=variant_of).give(Computed(0.0, 7))
    body = seal(key, INTS, b"7", 0.0, variant_of)
    assert script.command.fills == (Fill(key, GRANT, 60_000, 0, body),)
    assert script.give(STORED).outcome == Loaded(7, b"7", accepted=False)


class TestInTheBackground:
    def test_nobody_waits_so_no_operation_has_ended(self):
        script = begun(in_background=True).give(Computed(0.0, 7), STORED)
        assert script.outcome == Loaded(7, b"7", accepted=True)
        assert script.notices == [LoadedNotice(KEY, True, 0.0), Stored(KEY, ANY, ANY)]
        assert script.step.rests_until_s == 0.0

    def test_a_loader_that_raises_is_told_of_and_the_load_rests(self):
        script = begun(in_background=True, retry_after_s=3.0, finding=Finding(previous=STALE_CELL))
        script.give(ComputeFailed(1.0, BROKEN))
        assert script.command == RELEASE
        script.give(LeasesReleased(2.0))
        assert script.outcome == Raised(BROKEN)
        assert script.notices == [LoadFailed(KEY, True, "RuntimeError"), RefreshFailed(KEY, "RuntimeError")]
        assert script.step.rests_until_s == 5.0

    def test_a_value_that_cannot_be_stored_rests_as_well(self):
        script = begun(in_background=True, retry_after_s=3.0).give(Computed(0.0, "text"), RELEASED)
        assert script.step.rests_until_s == 3.0

    @pytest.mark.parametrize(
        ("in_background", "rests_until_s"), [(True, 5.0), (False, 0.0)], ids=["refresh", "load"]
    )
    def test_a_value_that_the_store_refuses_rests_as_well(self, in_background, rests_until_s):
        """Fault 13: else every reader of the stale value would have it loaded again, for nothing."""
        full = StoreFailed(1.0, FailureKind.OUT_OF_MEMORY)
        script = begun(in_background=in_background, retry_after_s=3.0).give(Computed(0.0, 7), full)
        assert script.command == RELEASE
        script.give(LeasesReleased(2.0))
        assert script.step.rests_until_s == rests_until_s

    def test_a_load_whose_lease_cannot_be_given_back_rests_all_the_same(self):
        script = begun(in_background=True, retry_after_s=3.0).give(ComputeFailed(0.0, BROKEN))
        script.give(StoreFailed(1.0, FailureKind.PERMISSION))
        assert script.outcome == Raised(BROKEN)
        assert script.step.rests_until_s == 4.0


class TestReleasing:
    def test_is_retried_and_then_left_to_lapse(self):
        """L3: a lease that cannot be given back lapses by itself."""
        script = begun().give(ComputeFailed(0.0, BROKEN), StoreFailed(0.0, FailureKind.TIMEOUT))
        assert script.command == RELEASE
        script.give(StoreFailed(1.0, FailureKind.TIMEOUT))
        assert script.outcome == Raised(BROKEN)
        assert StoreGaveUp(FailureKind.TIMEOUT) in script.notices


class TestInterruption:
    @pytest.mark.parametrize(
        "events",
        [(), (Computed(0.0, 7),), (ComputeFailed(0.0, BROKEN),)],
        ids=["computing", "filling", "releasing"],
    )
    def test_gives_the_grant_back(self, events):
        """L7."""
        script = begun().give(*events, Interrupted(0.0))
        assert script.command == RELEASE
        script.give(RELEASED)
        assert script.outcome == Abandoned()
        assert script.step.load_id == 4
        assert DONE not in script.notices

    def test_ends_at_once_where_nothing_is_held(self):
        script = begun(grant=None).give(Interrupted(0.0))
        assert script.outcome == Abandoned()
        assert script.notices == []


class TestWhichLoadsAreTheSame:
    """S7: a load is shared only among callers of one type who name the same tags."""

    def test_the_order_of_the_tags_does_not_matter(self):
        one, other = load_request(tags=("t:a", "t:b")), load_request(tags=("t:b", "t:a"))
        assert one.load_schema == other.load_schema

    def test_the_tags_and_the_type_do(self):
        requests = [
            load_request(),
            load_request(codec=codec_for(str, 1_000)),
            load_request(tags=("t:a",)),
            load_request(tags=("t:b",)),
            load_request(tags=("t:a", "t:b")),
            load_request(tags=("t:at:b",)),
        ]
        assert len({each.load_schema for each in requests}) == len(requests)

    def test_without_tags_it_is_the_type_alone(self):
        assert load_request().load_schema == INTS.fingerprint


class TestWhatARequestDraws:
    def test_every_number_comes_from_its_own_bytes(self):
        random_bytes = bytes(range(RANDOM_BYTES))
        request = load_request(random_bytes=random_bytes)
        assert request.nonce == random_bytes[:8]
        assert request.seed == int.from_bytes(random_bytes[8:16])
        assert request.draw_ttl == int.from_bytes(random_bytes[16:20]) / 2**32
        assert request.draw_refresh == (int.from_bytes(random_bytes[20:24]) + 1) / 2**32

    @pytest.mark.parametrize(
        ("byte", "draw_ttl", "draw_refresh"), [(b"\0", 0.0, 2**-32), (b"\xff", 1 - 2**-32, 1.0)]
    )
    def test_the_draws_lie_within_their_ranges(self, byte, draw_ttl, draw_refresh):
        """Jitter wants [0, 1); a logarithm wants (0, 1]."""
        request = load_request(random_bytes=byte * RANDOM_BYTES)
        assert (request.draw_ttl, request.draw_refresh) == (draw_ttl, draw_refresh)

    def test_a_request_can_be_hashed_and_compared(self):
        assert load_request() == load_request()
        assert len({load_request(), load_request(), load_request(tags=("t:a",))}) == 2
        assert isinstance(load_request(), LoadRequest)
