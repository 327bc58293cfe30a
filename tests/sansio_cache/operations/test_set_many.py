"""Set: hold, then fill under the hold's grant; what is in doubt is removed, or pending."""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sansio_cache.cell import Kind, make_grant
from sansio_cache.commands import Capture, DeleteKeys, Fill, FillCells, HoldCells
from sansio_cache.entry import MissReason, seal
from sansio_cache.errors import ProtocolError
from sansio_cache.events import (
    CellsFilled,
    FailureKind,
    FillResult,
    HoldsTaken,
    Interrupted,
    KeysDeleted,
    StoreFailed,
)
from sansio_cache.memory_store import MemoryStore
from sansio_cache.notices import (
    Ended,
    FillRefused,
    Invalidated,
    InvalidationFailed,
    OperationName,
    Stored,
    StoreErrored,
    StoreGaveUp,
)
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.operations.set_many import Item, SetRequest, set_many
from sansio_cache.step import Abandoned, ManyStored, Missing, Value
from support.machines import INTS, NONCE, TEXTS, TIMEOUTS, Clock, Process, Script

G1, G2, G3 = (make_grant(NONCE, us) for us in (1, 2, 3))
V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
A, B, C = (Item(f"shop:{name}", TEXTS, b'"%s"' % name.encode(), 60_000, 0) for name in "abc")
SOFT = Item("shop:s", INTS, b"7", 90_000, 60_000)
TAGS, TAG_KEYS = ("t:a", "g:user"), ("shop:%t:a", "shop:%g:user")


def request(*items, chunk=2, tags=(), started_s=1.0):
    return SetRequest(OperationName.SET_MANY, items, NONCE, 5_000, chunk, TIMEOUTS, started_s, tags)


def test_a_value_is_held_and_then_filled_under_the_holds_grant():
    script = Script(set_many(request(SOFT)))
    assert script.command == HoldCells(("shop:s",), NONCE, 5_000, 0.25)
    script.give(HoldsTaken(1.0, (G1,)))
    body = seal("shop:s", INTS, b"7", 0.0)
    assert script.command == FillCells((Fill("shop:s", G1, 90_000, 60_000, body, Kind.HOLD, 5_000),), 0.25)
    script.give(CellsFilled(1.5, (FillResult.STORED,)))
    assert script.outcome == ManyStored((FillResult.STORED,))
    assert script.notices == [Stored("shop:s", ANY, ANY), Ended(OperationName.SET_MANY, 0.5)]


def test_many_values_go_a_chunk_at_a_time():
    script = Script(set_many(request(A, B, C))).give(HoldsTaken(1.0, (G1, G2)))
    assert script.command == FillCells((A.under(G1, (), 5_000), B.under(G2, (), 5_000)), 0.25)
    script.give(CellsFilled(1.0, (FillResult.ALREADY_STORED, FillResult.REFUSED)))
    assert script.command == HoldCells(("shop:c",), NONCE, 5_000, 0.25)
    script.give(HoldsTaken(1.0, (G3,)), CellsFilled(1.0, (FillResult.STORED,)))
    assert script.outcome == ManyStored((FillResult.ALREADY_STORED, FillResult.REFUSED, FillResult.STORED))
    assert script.notices == [
        Stored("shop:a", ANY, ANY),
        FillRefused("shop:b"),
        Stored("shop:c", ANY, ANY),
        Ended(OperationName.SET_MANY, 0.0),
    ]


def test_hold_and_fill_are_each_retried_within_a_budget():
    script = Script(set_many(request(A))).give(StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.command == HoldCells(("shop:a",), NONCE, 5_000, 0.25)  # with the same nonce (S3)
    script.give(HoldsTaken(1.0, (G1,)), StoreFailed(1.0, FailureKind.TIMEOUT))
    assert script.command == FillCells((A.under(G1, (), 5_000),), 0.25)
    script.give(CellsFilled(1.0, (FillResult.ALREADY_STORED,)))
    assert script.outcome == ManyStored((FillResult.ALREADY_STORED,))


def test_what_a_store_that_compares_has_found_changed_is_asked_for_again_by_its_grant():
    """S2: the hold may have been renewed, or the value stored by an attempt whose reply was lost."""
    script = Script(set_many(request(A, B, C, chunk=3))).give(HoldsTaken(1.0, (G1, G2, G3)))
    script.give(CellsFilled(1.1, (FillResult.CHANGED, FillResult.STORED, FillResult.CHANGED)))
    assert script.command == FillCells((A.under(G1), C.under(G3)), pytest.approx(0.15))
    assert [notice.key for notice in script.notices] == ["shop:b"]
    script.give(CellsFilled(1.2, (FillResult.ALREADY_STORED, FillResult.REFUSED)))
    assert script.outcome == ManyStored((FillResult.ALREADY_STORED, FillResult.STORED, FillResult.REFUSED))
    assert [(type(each), each.key) for each in script.notices[1:3]] == [
        (Stored, "shop:a"),
        (FillRefused, "shop:c"),
    ]


def test_a_store_that_compares_what_it_is_to_judge_breaks_the_contract():
    script = Script(set_many(request(A))).give(HoldsTaken(1.0, (G1,)))
    script.give(CellsFilled(1.0, (FillResult.CHANGED,)))
    with pytest.raises(ProtocolError, match="lease_ms"):
        script.give(CellsFilled(1.0, (FillResult.CHANGED,)))


def test_a_hold_that_fails_for_good_is_reported_to_be_pending():
    script = Script(set_many(request(A, B, C)))
    script.give(HoldsTaken(1.0, (G1, G2)), CellsFilled(1.0, (FillResult.STORED, FillResult.STORED)))
    script.give(StoreFailed(2.0, FailureKind.OUT_OF_MEMORY))
    assert script.outcome == ManyStored((FillResult.STORED, FillResult.STORED, None))
    assert script.notices[2:] == [
        StoreErrored(FailureKind.OUT_OF_MEMORY),
        StoreGaveUp(FailureKind.OUT_OF_MEMORY),
        InvalidationFailed(("shop:c",), was_tried=False),
        Ended(OperationName.SET_MANY, 1.0),
    ]


def test_a_fill_that_fails_for_good_leaves_all_keys_of_its_chunk_in_doubt():
    script = Script(set_many(request(A, B))).give(
        HoldsTaken(1.0, (G1, G2)), StoreFailed(1.0, FailureKind.UNAVAILABLE)
    )
    assert script.outcome == ManyStored((None, None))
    assert InvalidationFailed(("shop:a", "shop:b"), was_tried=False) in script.notices


@pytest.mark.parametrize("events", [(), (HoldsTaken(1.0, (G1, G2)),)], ids=["holding", "filling"])
def test_interrupted_it_removes_what_may_have_changed(events):
    script = Script(set_many(request(A, B, C))).give(*events, Interrupted(1.0))
    assert script.command == DeleteKeys(("shop:a", "shop:b", "shop:c"), 0.25)
    script.give(KeysDeleted(1.0, 2))
    assert script.outcome == Abandoned()
    assert script.notices == [Invalidated(("shop:a", "shop:b", "shop:c"))]


def test_interrupted_in_a_later_chunk_it_leaves_what_is_stored():
    script = Script(set_many(request(A, B, C))).give(
        HoldsTaken(1.0, (G1, G2)),
        CellsFilled(1.0, (FillResult.STORED, FillResult.STORED)),
        Interrupted(1.0),
    )
    assert script.command == DeleteKeys(("shop:c",), 0.25)


@pytest.mark.parametrize(
    ("items", "skip"), [((), None), ((), MissReason.STORE_ERROR), ((A, B), MissReason.DISABLED)]
)
def test_nothing_to_do_asks_nothing(items, skip):
    script = Script(set_many(request(*items), skip=skip))
    assert script.command is None
    assert script.outcome == ManyStored((None,) * len(items))
    assert script.notices == [Ended(OperationName.SET_MANY, 0.0)]


def test_where_the_store_is_known_to_be_out_the_keys_are_pending_and_nobody_waits():
    """S1."""
    script = Script(set_many(request(A, B), skip=MissReason.STORE_ERROR))
    assert script.outcome == ManyStored((None, None))
    assert script.notices == [
        InvalidationFailed(("shop:a", "shop:b"), was_tried=False),
        Ended(OperationName.SET_MANY, 0.0),
    ]


@pytest.mark.parametrize(
    "events",
    [
        (HoldsTaken(1.0, (G1,)),),
        (HoldsTaken(1.0, (G1, G2)), CellsFilled(1.0, (FillResult.STORED,))),
        (HoldsTaken(1.0, (G1, G2)), CellsFilled(1.0, (FillResult.STORED,) * 3)),
    ],
)
def test_an_answer_of_another_length_breaks_the_contract(events):
    with pytest.raises(ProtocolError):
        Script(set_many(request(A, B))).give(*events)


class TestTags:
    """S7: the tags of what is set are captured when the call begins."""

    CAPTURE = Capture(TAG_KEYS, 180_000)
    """For twice the longest of the entries' lives."""

    def test_they_are_captured_with_the_holds_and_stored_with_the_values(self):
        script = Script(set_many(request(A, SOFT, tags=TAGS)))
        assert script.command == HoldCells(("shop:a", "shop:s"), NONCE, 5_000, 0.25, self.CAPTURE)
        script.give(HoldsTaken(1.0, (G1, G2), (V1, V2)))
        tied = (("t:a", V1), ("g:user", V2))
        assert script.command == FillCells((A.under(G1, tied, 5_000), SOFT.under(G2, tied, 5_000)), 0.25)
        assert script.command.fills[0].body == seal("shop:a", TEXTS, b'"a"', 0.0, tied)

    def test_the_versions_of_the_first_chunk_stand_for_all_of_them(self):
        script = Script(set_many(request(A, SOFT, tags=TAGS, chunk=1)))
        script.give(HoldsTaken(1.0, (G1,), (V1, V2)), CellsFilled(1.0, (FillResult.STORED,)))
        assert script.command == HoldCells(("shop:s",), NONCE, 5_000, 0.25, self.CAPTURE)
        script.give(HoldsTaken(1.0, (G2,), (V3, V2)))
        assert script.command == FillCells((SOFT.under(G2, (("t:a", V1), ("g:user", V2)), 5_000),), 0.25)

    @pytest.mark.parametrize("chunk", [1, 2])
    def test_a_tag_that_is_invalidated_after_the_call_began_takes_all_the_values_with_it(self, chunk):
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        run = process.start(set_many(request(A, B, tags=TAGS[:1], chunk=chunk, started_s=clock())))
        process.advance(run)  # the first hold is taken
        process.store.perform(DeleteKeys(TAG_KEYS[:1], 1.0))
        assert process.finish(run) == ManyStored((FillResult.STORED,) * 2)
        for item in (A, B):
            reading = get(ReadRequest(item.key, TEXTS, TIMEOUTS, clock()))
            assert process.run(reading).step.outcome == Missing()

    def test_a_value_whose_tags_hold_is_read_again(self):
        clock = Clock()
        process = Process(MemoryStore(clock), clock)
        process.run(set_many(request(A, tags=TAGS, started_s=clock())))
        assert process.run(get(ReadRequest("shop:a", TEXTS, TIMEOUTS, clock()))).step.outcome == Value("a")

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        with pytest.raises(ProtocolError):
            Script(set_many(request(A, tags=TAGS))).give(HoldsTaken(1.0, (G1,), versions))
