"""Get: one read, one more for tags or another version's entry, and never an exception for what is stored."""

from __future__ import annotations

import pytest

from sansio_cache.cell import FOREIGN, Cell, Kind, make_grant
from sansio_cache.commands import ReadCell, ReadTags
from sansio_cache.entry import MissReason, variant_key
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellRead, FailureKind, Interrupted, StoreFailed, TagsRead
from sansio_cache.notices import Ended, Hit, Missed, OperationName, StoreErrored, StoreGaveUp
from sansio_cache.operations.get import ReadRequest, get
from sansio_cache.step import Abandoned, Missing, Unavailable, Value
from support.machines import INTS, KEY, TEXTS, THEIRS, TIMEOUTS, Script, absent_cell, value_cell

V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))
TAG_KEYS = ("shop:%t:a", "shop:%g:user")
TAGGED = value_cell(7, versions=(("t:a", V1), ("g:user", V2)))
TEXT = value_cell("a", codec=TEXTS)
HIT = [Hit(KEY), Ended(OperationName.GET, 0.0)]


def begun(skip=None, **options):
    return Script(get(ReadRequest(KEY, INTS, TIMEOUTS, 10.0, **options), skip=skip))


def missed(reason):
    return [Missed(KEY, reason), Ended(OperationName.GET, 0.0)]


def test_a_fresh_value_is_a_hit_in_one_round_trip():
    script = begun()
    assert script.command == ReadCell(KEY, 0.25)
    script.give(CellRead(10.5, value_cell(7), None))
    assert script.command is None
    assert script.outcome == Value(7)
    assert script.notices == [Hit(KEY), Ended(OperationName.GET, 0.5)]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, MissReason.ABSENT),
        (Cell(Kind.EMPTY), MissReason.ABSENT),
        (Cell(Kind.HOLD), MissReason.ABSENT),
        (FOREIGN, MissReason.FOREIGN),
        (value_cell(7, soft_ms=999), MissReason.EXPIRED),
        (value_cell(7, key="shop:user:2"), MissReason.KEY_CHECK),
        (value_cell("a", codec=TEXTS, soft_ms=999), MissReason.SCHEMA),
        (absent_cell(soft_ms=999), MissReason.EXPIRED),
        (Cell(Kind.VALUE, body=b"short"), MissReason.CORRUPT),
    ],
)
def test_a_cell_that_gives_no_fresh_value_is_a_miss_with_its_one_reason(cell, reason):
    script = begun().give(CellRead(10.0, cell, 1_000))
    assert script.outcome == Missing()
    seen = cell.filled_by.hex() if reason is MissReason.KEY_CHECK else ""
    assert script.notices == [Missed(KEY, reason, seen), Ended(OperationName.GET, 0.0)]


def test_a_failed_read_is_tried_again_within_the_budget_and_then_given_up():
    script = begun()
    script.give(StoreFailed(10.125, FailureKind.TIMEOUT))
    assert script.command == ReadCell(KEY, 0.125)
    script.give(StoreFailed(10.1875, FailureKind.CONNECTION))
    assert script.command == ReadCell(KEY, 0.0625)  # what is left of 250 ms
    script.give(StoreFailed(10.25, FailureKind.CONNECTION))
    assert script.outcome == Missing()
    assert script.notices == [
        StoreErrored(FailureKind.TIMEOUT),
        StoreErrored(FailureKind.CONNECTION),
        StoreErrored(FailureKind.CONNECTION),
        StoreGaveUp(FailureKind.CONNECTION),
        Missed(KEY, MissReason.STORE_ERROR),
        Ended(OperationName.GET, 0.25),
    ]


def test_a_read_that_succeeds_at_the_second_try_is_a_hit():
    script = begun().give(StoreFailed(10.0, FailureKind.CONNECTION), CellRead(10.0, value_cell(7), None))
    assert script.outcome == Value(7)
    assert script.notices == [
        StoreErrored(FailureKind.CONNECTION),
        Hit(KEY),
        Ended(OperationName.GET, 0.0),
    ]


def test_a_read_that_the_server_refuses_is_not_repeated():
    script = begun().give(StoreFailed(10.0, FailureKind.PERMISSION))
    assert script.outcome == Missing()


def test_an_interrupted_read_ends_at_once():
    script = begun().give(Interrupted(10.0))
    assert script.outcome == Abandoned()
    assert script.notices == []


def test_a_skipped_get_asks_nothing_and_counts_one_miss():
    script = begun(skip=MissReason.DISABLED)
    assert script.command is None
    assert script.outcome == Missing()
    assert script.notices == [Missed(KEY, MissReason.DISABLED), Ended(OperationName.GET, 0.0)]


def test_that_there_is_nothing_is_a_hit_and_gives_the_default():
    script = begun().give(CellRead(10.0, absent_cell(), None))
    assert script.outcome == Missing()
    assert script.notices == HIT


class TestRaising:
    """`on_read_error="raise"`: the caller is to know that the store failed."""

    def test_a_read_that_fails_is_an_error(self):
        script = begun(raises=True).give(StoreFailed(10.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)
        assert script.notices == [
            StoreErrored(FailureKind.PERMISSION),
            StoreGaveUp(FailureKind.PERMISSION),
            *missed(MissReason.STORE_ERROR),
        ]

    def test_tags_that_cannot_be_read_are_an_error(self):
        script = begun(raises=True).give(CellRead(10.0, TAGGED, None))
        script.give(StoreFailed(10.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)

    @pytest.mark.parametrize(
        ("skip", "outcome"),
        [
            (MissReason.STORE_ERROR, Unavailable(None)),
            (MissReason.BYPASSED, Missing()),
            (MissReason.DISABLED, Missing()),
        ],
    )
    def test_an_open_breaker_is_one_too_but_not_a_read_that_is_not_to_be_made(self, skip, outcome):
        script = begun(skip, raises=True)
        assert script.outcome == outcome
        assert script.notices == missed(skip)


class TestTags:
    """S7: a `get` names no tags; what the entry depends on is read in a second trip."""

    def test_a_value_whose_tags_hold_is_a_hit(self):
        script = begun().give(CellRead(10.0, TAGGED, 1_000))
        assert script.command == ReadTags(TAG_KEYS, 0.25)
        script.give(TagsRead(10.0, (V1, V2), 1_000))
        assert script.outcome == Value(7)
        assert script.notices == HIT

    @pytest.mark.parametrize("versions", [(V1, V3), (V2, V1), (V1, b""), (b"", b"")])
    def test_one_that_has_changed_or_gone_makes_it_a_miss(self, versions):
        script = begun().give(CellRead(10.0, TAGGED, 1_000), TagsRead(10.0, versions, 1_000))
        assert script.outcome == Missing()
        assert script.notices == missed(MissReason.TAG)

    def test_one_whose_removal_the_store_has_not_been_told_of_makes_it_a_miss(self):
        script = begun(bypassed=frozenset({"shop:%g:user"}))
        script.give(CellRead(10.0, TAGGED, 1_000), TagsRead(10.0, (V1, V2), 1_000))
        assert script.notices == missed(MissReason.TAG)
        script = begun(bypassed=frozenset({"shop:%t:other"}))
        script.give(CellRead(10.0, TAGGED, 1_000), TagsRead(10.0, (V1, V2), 1_000))
        assert script.notices == HIT

    def test_they_are_read_with_a_budget_of_their_own_and_then_given_up(self):
        script = begun().give(CellRead(10.25, TAGGED, 1_000), StoreFailed(10.375, FailureKind.TIMEOUT))
        assert script.command == ReadTags(TAG_KEYS, 0.125)
        script.give(StoreFailed(10.5, FailureKind.TIMEOUT))
        assert script.outcome == Missing()
        assert script.notices[-2:] == [Missed(KEY, MissReason.STORE_ERROR), Ended(OperationName.GET, 0.5)]

    def test_interrupted_it_ends(self):
        assert begun().give(CellRead(10.0, TAGGED, None), Interrupted(10.0)).outcome == Abandoned()

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        with pytest.raises(ProtocolError):
            begun().give(CellRead(10.0, TAGGED, None), TagsRead(10.0, versions, None))


class TestVariantOfAnotherVersionsEntry:
    """Fault 33."""

    VARIANT = variant_key(KEY, INTS.fingerprint)

    def ours(self, variant_of=THEIRS, **options):
        return value_cell(7, self.VARIANT, versions=(("", variant_of),), **options)

    def test_what_this_version_keeps_beside_a_fresh_one_is_a_hit(self):
        script = begun().give(CellRead(10.0, TEXT, None))
        assert script.command == ReadCell(self.VARIANT, 0.25)
        script.give(CellRead(10.0, self.ours(), None))
        assert script.outcome == Value(7)
        assert script.notices == HIT

    @pytest.mark.parametrize("other", [None, TEXT, FOREIGN, "older"])
    def test_where_there_is_nothing_that_is_tied_to_it_the_schema_is_why(self, other):
        cell = self.ours(make_grant(b"theirs-0", 1)) if other == "older" else other
        script = begun().give(CellRead(10.0, TEXT, None), CellRead(10.0, cell, None))
        assert script.outcome == Missing()
        assert script.notices == missed(MissReason.SCHEMA)

    def test_what_is_stale_beside_it_has_expired(self):
        script = begun().give(CellRead(10.0, TEXT, 1_000), CellRead(10.0, self.ours(soft_ms=999), 1_000))
        assert script.notices == missed(MissReason.EXPIRED)

    def test_its_tags_are_checked_as_well(self):
        cell = value_cell(7, self.VARIANT, versions=(("", THEIRS), ("t:a", V1)))
        script = begun().give(CellRead(10.0, TEXT, 1_000), CellRead(10.0, cell, 1_000))
        assert script.command == ReadTags(TAG_KEYS[:1], 0.25)
        assert script.give(TagsRead(10.0, (V1,), 1_000)).outcome == Value(7)

    def test_a_read_beside_it_that_fails_is_a_store_error(self):
        script = begun().give(CellRead(10.0, TEXT, None), StoreFailed(10.0, FailureKind.PERMISSION))
        assert Missed(KEY, MissReason.STORE_ERROR) in script.notices
