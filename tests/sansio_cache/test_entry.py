"""The entry: what a cell is worth to a reader; bad stored data is a miss with a reason (S12)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansio_cache.cell import FOREIGN, HEADER_BYTES, NO_GRANT, Cell, Kind, format_cell, parse_cell
from sansio_cache.codec import codec_for
from sansio_cache.entry import (
    BODY_HEADER_BYTES,
    MissReason,
    Servable,
    Unservable,
    examine,
    key_check,
    seal,
)
from support.machines import INTS, KEY, TEXTS, THEIRS, value_cell


def body_cell(body):
    return Cell(Kind.VALUE, filled_by=THEIRS, body=body)


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.text(min_size=1, max_size=20))
def test_what_was_sealed_for_a_key_is_served_to_its_readers(value, key):
    cell = value_cell(value, key)
    assert examine(cell, key, INTS, None) == Servable(value, True, cell)


def test_the_header_of_an_entry_is_71_bytes():
    raw = format_cell(value_cell(7))
    assert len(raw) == 71 + len(b"7")
    assert HEADER_BYTES + BODY_HEADER_BYTES == 71


@pytest.mark.parametrize(
    ("soft_ms", "server_ms", "fresh"),
    [(0, None, True), (0, 10**15, True), (500, 499, True), (500, 500, False), (500, None, False)],
)
def test_a_value_is_fresh_up_to_its_soft_expiry_on_the_servers_clock(soft_ms, server_ms, fresh):
    verdict = examine(value_cell(7, soft_ms=soft_ms), KEY, INTS, server_ms)
    assert isinstance(verdict, Servable)
    assert verdict.fresh is fresh
    assert verdict.value == 7


GOOD = value_cell(7).body


@pytest.mark.parametrize(
    ("cell", "reason", "seen"),
    [
        (None, MissReason.ABSENT, NO_GRANT),
        (Cell(Kind.EMPTY, THEIRS), MissReason.ABSENT, NO_GRANT),
        (Cell(Kind.HOLD, THEIRS), MissReason.ABSENT, NO_GRANT),
        (FOREIGN, MissReason.FOREIGN, NO_GRANT),
        (body_cell(b""), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[: BODY_HEADER_BYTES - 1]), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[:BODY_HEADER_BYTES]), MissReason.CORRUPT, THEIRS),
        (body_cell(GOOD[:BODY_HEADER_BYTES] + b"{"), MissReason.CORRUPT, THEIRS),
        (value_cell(7, "shop:user:2"), MissReason.KEY_CHECK, THEIRS),
        (value_cell("7", codec=TEXTS), MissReason.SCHEMA, THEIRS),
        (body_cell(GOOD[:20] + b"\x02" + GOOD[21:]), MissReason.SCHEMA, THEIRS),
    ],
)
def test_what_a_reader_may_not_have_has_one_reason_and_names_the_value_it_refuses(cell, reason, seen):
    assert examine(cell, KEY, INTS, 0) == Unservable(reason, seen)


def test_a_value_above_the_readers_limit_is_not_read():
    large = value_cell("a" * 100, codec=TEXTS)
    assert examine(large, KEY, codec_for(str, 50), 0) == Unservable(MissReason.CORRUPT, THEIRS)


@settings(deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_in_a_cell_are_a_verdict_and_never_an_exception(noise, is_headed):
    """S12."""
    raw = (format_cell(Cell(Kind.VALUE, filled_by=THEIRS)) if is_headed else b"") + noise
    assert isinstance(examine(parse_cell(raw), KEY, INTS, 0), Servable | Unservable)


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_an_arbitrary_payload_is_a_verdict_and_never_an_exception(payload):
    """S12."""
    for codec in (INTS, TEXTS, codec_for(None, 1_000), codec_for(dict[str, list[int]], 1_000)):
        cell = body_cell(seal(KEY, codec, payload, 0))
        verdict = examine(cell, KEY, codec, 0)
        assert isinstance(verdict, Servable) or verdict == Unservable(MissReason.CORRUPT, THEIRS)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_every_key_has_a_check_of_its_own(one, other):
    """S9."""
    assert len(key_check(one)) == 8
    assert (key_check(one) == key_check(other)) is (one == other)


@pytest.mark.parametrize(
    ("load_s", "load_ms"), [(0.0, 0), (-1.0, 0), (0.0123, 12), (2.0, 2_000), (1e9, 2**32 - 1)]
)
def test_how_long_the_load_took_is_kept_in_milliseconds(load_s, load_ms):
    assert int.from_bytes(seal(KEY, INTS, b"7", load_s)[16:20], "big") == load_ms
