"""Inspection: what the bytes of a key are, in the words of the protocol; never an exception."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache.cell import NO_GRANT, Cell, Kind, format_cell, make_grant
from sansio_cache.entry import MissReason, seal
from sansio_cache.inspection import CellState, Grant, Inspection, inspect
from sansio_cache.tags import NO_VERSION
from support.machines import INTS, KEY, THEIRS

NOW_MS = 10_000_000
STORED = make_grant(b"nonce---", (NOW_MS - 5_000) * 1000)
V1, V2 = (make_grant(b"tag-----", us) for us in (1, 2))


def value(payload=b"7", *, soft_ms=0, grant=NO_GRANT, deadline_ms=0, load_s=2.0, versions=(), key=KEY):
    body = seal(key, INTS, payload, load_s, versions)
    return format_cell(Cell(Kind.VALUE, grant, deadline_ms, soft_ms, STORED, body))


def look(raw, key=KEY, left_ms=60_000, **options):
    return inspect(key, raw, left_ms=left_ms, server_ms=NOW_MS, **options)


def test_a_key_that_does_not_exist_is_none():
    assert look(None, left_ms=-2) == Inspection(key=KEY, state=CellState.NONE)


def test_a_value_says_when_it_was_stored_how_long_it_lives_and_what_is_in_it():
    found = look(value())
    assert (found.state, found.has_value) == (CellState.FRESH, True)
    assert found.stored_by == Grant(STORED, NOW_MS - 5_000)
    assert (found.age_ms, found.left_ms, found.fresh_for_ms) == (5_000, 60_000, 60_000)
    assert found.life_ms == 63_000, "its load took 2 s of the 5 since it was granted"
    assert found.contents is not None
    assert (found.contents.payload, found.contents.load_ms) == (b"7", 2_000)
    assert found.contents.fingerprint == INTS.fingerprint
    assert found.size_bytes == len(value())


def test_no_representation_shows_the_payload():
    assert "7777" not in repr(look(value(b"7777")))


@pytest.mark.parametrize(
    ("soft_ms", "state", "fresh_for_ms"),
    [(NOW_MS + 1, CellState.FRESH, 1), (NOW_MS - 1, CellState.STALE, -1)],
)
def test_a_value_past_its_soft_expiry_is_stale(soft_ms, state, fresh_for_ms):
    found = look(value(soft_ms=soft_ms))
    assert (found.state, found.fresh_for_ms) == (state, fresh_for_ms)


def test_the_answer_that_there_is_nothing_is_told_from_a_value():
    assert look(value(None)).state is CellState.NOTHING


def test_a_value_whose_refresh_is_under_way_shows_both_grants():
    found = look(value(grant=THEIRS, deadline_ms=NOW_MS + 300))
    assert (found.lease, found.lease_left_ms) == (Grant.of(THEIRS), 300)
    assert found.stored_by == Grant.of(STORED)


def test_a_key_without_a_time_to_live_has_none():
    found = look(value(), left_ms=-1)
    assert (found.left_ms, found.life_ms, found.fresh_for_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "key", "state"),
    [
        (Kind.EMPTY, KEY, CellState.LEASED),
        (Kind.HOLD, KEY, CellState.HELD),
        (Kind.HOLD, "ns:%l:job", CellState.LOCKED),
        (Kind.EMPTY, "ns:%l:job", CellState.UNLOCKED),
    ],
)
def test_a_cell_without_a_value_says_who_has_it(kind, key, state):
    found = look(format_cell(Cell(kind, THEIRS, NOW_MS - 10)), key)
    assert (found.state, found.lease_left_ms, found.has_value) == (state, -10, False)


def test_the_version_of_a_tag_says_when_it_was_issued():
    found = look(STORED, "ns:%t:users")
    assert (found.state, found.age_ms) == (CellState.TAG, 5_000)
    assert look(STORED, "ns:users").state is CellState.FOREIGN


@pytest.mark.parametrize("raw", [b"", b"text", b"\xc5\x07" + bytes(60)])
def test_what_no_cache_has_written_is_foreign(raw):
    assert look(raw).state is CellState.FOREIGN
    assert look(raw, "ns:%w:{orders:000}:state").state is CellState.QUEUED


@pytest.mark.parametrize(
    ("versions", "state", "reason"),
    [
        (None, CellState.UNCHECKED, None),
        ((("t:a", V1),), CellState.FRESH, None),
        ((("t:a", V2),), CellState.REFUSED, MissReason.TAG),
        ((("t:a", NO_VERSION),), CellState.REFUSED, MissReason.TAG),
        ((), CellState.REFUSED, MissReason.TAG),
    ],
)
def test_an_entry_with_tags_is_what_its_tags_say(versions, state, reason):
    found = look(value(versions=(("t:a", V1),)), versions=versions)
    assert (found.state, found.reason) == (state, reason)
    assert found.contents is not None
    assert found.contents.versions == (("t:a", V1),)


def test_an_entry_of_another_key_is_refused_and_says_so():
    found = look(value(key="ns:other"))
    assert (found.state, found.reason) == (CellState.REFUSED, MissReason.KEY_CHECK)


@pytest.mark.parametrize("cut_at", [50, 60, 71, 72, 80])
def test_an_entry_that_is_nonsense_is_corrupt_and_one_that_was_not_read_whole_is_not(cut_at):
    raw = value(versions=(("t:a", V1),))
    found = look(raw[:cut_at])
    assert (found.state, found.reason) == (CellState.REFUSED, MissReason.CORRUPT)
    assert found.contents is None
    whole = look(raw[:cut_at], size_bytes=len(raw))
    assert (whole.state, whole.reason) == (CellState.UNCHECKED, None)
    assert whole.stored_by == Grant.of(STORED)


def test_a_value_that_nobody_is_known_to_have_stored_has_no_age():
    body = seal(KEY, INTS, b"7", 0.0)
    found = look(format_cell(Cell(Kind.VALUE, filled_by=NO_GRANT, body=body)))
    assert (found.age_ms, found.life_ms, found.state) == (None, None, CellState.FRESH)


@given(
    st.binary(max_size=200).map(lambda noise: b"\xc5\x01" + noise) | st.binary(max_size=200),
    st.integers(-1, 2**40),
    st.integers(0, 2**42),
    st.sampled_from(["ns:k", "ns:%t:k", "ns:%l:k", "", "ns"]),
)
def test_arbitrary_bytes_are_something_and_never_an_exception(raw, left_ms, server_ms, key):
    found = inspect(key, raw, left_ms=left_ms, server_ms=server_ms)
    assert found.state in CellState
    assert attrs.asdict(found)
