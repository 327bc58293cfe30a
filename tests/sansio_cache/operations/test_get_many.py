"""Get many: one read for all keys, one more for their tags, each key counted once."""

from __future__ import annotations

import pytest

from sansio_cache.cell import FOREIGN, make_grant
from sansio_cache.commands import ReadCells, ReadTags
from sansio_cache.entry import MissReason
from sansio_cache.errors import ProtocolError
from sansio_cache.events import CellsRead, FailureKind, Interrupted, StoreFailed, TagsRead
from sansio_cache.notices import Ended, Hit, Missed, OperationName, StoreErrored, StoreGaveUp
from sansio_cache.operations.get_many import ReadManyRequest, get_many
from sansio_cache.step import Abandoned, ManyRead, Missing, Unavailable, Value
from support.machines import INTS, TEXTS, TIMEOUTS, Script, absent_cell, value_cell

KEYS = ("shop:a", "shop:b", "shop:c")


V1, V2, V3 = (make_grant(b"tag-----", us) for us in (1, 2, 3))


def request(keys=KEYS, chunk=2, **options):
    return ReadManyRequest(keys, INTS, chunk, TIMEOUTS, 5.0, **options)


def test_all_keys_are_read_with_one_command_and_values_come_in_order():
    script = Script(get_many(request()))
    assert script.command == ReadCells(KEYS, 2, 0.25)
    script.give(CellsRead(7.0, (value_cell(1, "shop:a"), None, value_cell(3, "shop:c")), None))
    assert script.outcome == ManyRead((Value(1), Missing(), Value(3)))
    assert script.notices == [
        Hit("shop:a"),
        Missed("shop:b", MissReason.ABSENT),
        Hit("shop:c"),
        Ended(OperationName.GET_MANY, 2.0),
    ]


def test_each_unservable_cell_is_a_miss_with_its_own_reason():
    cells = (value_cell(1, "shop:a", soft_ms=10), FOREIGN, value_cell("x", "shop:c", codec=TEXTS))
    script = Script(get_many(request(chunk=3))).give(CellsRead(5.0, cells, 11))
    assert script.outcome == ManyRead((Missing(), Missing(), Missing()))
    assert [each.reason for each in script.notices if isinstance(each, Missed)] == [
        MissReason.EXPIRED,
        MissReason.FOREIGN,
        MissReason.SCHEMA,
    ]


def test_of_an_entry_that_was_stored_for_another_key_the_miss_says_which_it_was():
    """S9: it is looked at again."""
    crossed = value_cell(1, "shop:c")
    script = Script(get_many(request(KEYS[:2]))).give(CellsRead(5.0, (None, crossed), 1))
    assert script.outcome == ManyRead((Missing(), Missing()))
    assert Missed("shop:b", MissReason.KEY_CHECK, crossed.filled_by.hex()) in script.notices


def test_a_read_that_fails_is_retried_and_then_all_are_missing():
    script = Script(get_many(request())).give(StoreFailed(5.0, FailureKind.TIMEOUT))
    assert script.command == ReadCells(KEYS, 2, 0.25)
    script.give(StoreFailed(5.5, FailureKind.TIMEOUT))
    assert script.outcome == ManyRead((Missing(),) * 3)
    assert script.notices == [
        StoreErrored(FailureKind.TIMEOUT),
        StoreErrored(FailureKind.TIMEOUT),
        StoreGaveUp(FailureKind.TIMEOUT),
        *(Missed(key, MissReason.STORE_ERROR) for key in KEYS),
        Ended(OperationName.GET_MANY, 0.5),
    ]


def test_that_there_is_nothing_is_a_hit_and_the_key_is_missing():
    cells = (absent_cell("shop:a"), absent_cell("shop:b", soft_ms=1), None)
    script = Script(get_many(request())).give(CellsRead(5.0, cells, 1_000))
    assert script.outcome == ManyRead((Missing(),) * 3)
    assert script.notices[:3] == [
        Hit("shop:a"),
        Missed("shop:b", MissReason.EXPIRED),
        Missed("shop:c", MissReason.ABSENT),
    ]


def test_what_is_kept_beside_another_versions_entry_is_not_looked_for():
    """Fault 33: one trip for any number of keys; `get` looks there."""
    text = value_cell("a", "shop:a", codec=TEXTS)
    script = Script(get_many(request(KEYS[:1]))).give(CellsRead(5.0, (text,), None))
    assert script.outcome == ManyRead((Missing(),))
    assert script.notices[0] == Missed("shop:a", MissReason.SCHEMA)


class TestRaising:
    """`on_read_error="raise"`: the caller is to know that the store failed."""

    def test_a_read_that_fails_is_an_error(self):
        script = Script(get_many(request(raises=True))).give(StoreFailed(5.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)
        assert [each.reason for each in script.notices if isinstance(each, Missed)] == [
            MissReason.STORE_ERROR
        ] * 3

    def test_tags_that_cannot_be_read_are_an_error(self):
        tagged = value_cell(1, "shop:a", versions=(("t:a", V1),))
        script = Script(get_many(request(KEYS[:1], raises=True))).give(CellsRead(5.0, (tagged,), None))
        script.give(StoreFailed(5.0, FailureKind.PERMISSION))
        assert script.outcome == Unavailable(FailureKind.PERMISSION)

    @pytest.mark.parametrize(
        ("skip", "outcome"),
        [
            (MissReason.STORE_ERROR, Unavailable(None)),
            (MissReason.BYPASSED, ManyRead((Missing(),) * 3)),
            (MissReason.DISABLED, ManyRead((Missing(),) * 3)),
        ],
    )
    def test_an_open_breaker_is_one_too_but_not_a_read_that_is_not_to_be_made(self, skip, outcome):
        script = Script(get_many(request(raises=True), skip=skip))
        assert script.outcome == outcome
        assert script.notices[:3] == [Missed(key, skip) for key in KEYS]


class TestTags:
    """S7: what entries depend on is read for all of them in one more trip."""

    CELLS = (
        value_cell(1, "shop:a", versions=(("t:a", V1), ("t:b", V2))),
        value_cell(2, "shop:b", versions=(("t:b", V2),)),
        value_cell(3, "shop:c"),
    )
    TAG_KEYS = ("shop:%t:a", "shop:%t:b")

    def begun(self, **options):
        return Script(get_many(request(**options))).give(CellsRead(5.0, self.CELLS, 1_000))

    def test_each_is_asked_for_once(self):
        assert self.begun().command == ReadTags(self.TAG_KEYS, 0.25)

    @pytest.mark.parametrize(
        ("versions", "values"),
        [
            ((V1, V2), (1, 2, 3)),
            ((V3, V2), (None, 2, 3)),
            ((V1, V3), (None, None, 3)),
            ((b"", b""), (None, None, 3)),
        ],
    )
    def test_each_entry_depends_on_its_own(self, versions, values):
        script = self.begun().give(TagsRead(5.0, versions, 1_000))
        assert script.outcome == ManyRead(
            tuple(Missing() if each is None else Value(each) for each in values)
        )
        assert script.notices[:3] == [
            Missed(key, MissReason.TAG) if each is None else Hit(key)
            for key, each in zip(KEYS, values, strict=True)
        ]

    def test_one_whose_removal_the_store_has_not_been_told_of_has_no_version(self):
        script = self.begun(bypassed=frozenset({"shop:%t:a"})).give(TagsRead(5.0, (V1, V2), 1_000))
        assert script.outcome == ManyRead((Missing(), Value(2), Value(3)))

    def test_they_are_read_with_a_budget_of_their_own_and_then_all_are_missing(self):
        script = self.begun().give(StoreFailed(5.0, FailureKind.TIMEOUT))
        assert script.command == ReadTags(self.TAG_KEYS, 0.25)
        script.give(StoreFailed(5.5, FailureKind.TIMEOUT))
        assert script.outcome == ManyRead((Missing(),) * 3)

    def test_interrupted_it_ends(self):
        assert self.begun().give(Interrupted(5.0)).outcome == Abandoned()

    @pytest.mark.parametrize("versions", [(), (V1,), (V1, V2, V3)])
    def test_an_answer_with_another_number_of_versions_breaks_the_contract(self, versions):
        with pytest.raises(ProtocolError):
            self.begun().give(TagsRead(5.0, versions, 1_000))


def test_no_keys_are_read_without_asking():
    script = Script(get_many(request(keys=())))
    assert script.command is None
    assert script.outcome == ManyRead(())
    assert script.notices == [Ended(OperationName.GET_MANY, 0.0)]


def test_a_skipped_get_many_counts_one_miss_a_key():
    script = Script(get_many(request(), skip=MissReason.STORE_ERROR))
    assert script.command is None
    assert script.outcome == ManyRead((Missing(),) * 3)
    assert script.notices == [
        *(Missed(key, MissReason.STORE_ERROR) for key in KEYS),
        Ended(OperationName.GET_MANY, 0.0),
    ]


def test_an_interrupted_get_many_ends_at_once():
    assert Script(get_many(request())).give(Interrupted(5.0)).outcome == Abandoned()


@pytest.mark.parametrize("cells", [(), (None,), (None,) * 4])
def test_an_answer_with_another_number_of_cells_breaks_the_contract(cells):
    with pytest.raises(ProtocolError):
        Script(get_many(request())).give(CellsRead(5.0, cells, None))
