"""The cell: its bytes, and that no bytes at all make reading it fail (S12)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sansio_cache.cell import (
    FOREIGN,
    HEADER_BYTES,
    MAGIC,
    NO_GRANT,
    Cell,
    Kind,
    format_cell,
    grant_us,
    is_granted_to,
    issued_cell,
    make_grant,
    parse_cell,
)

grants = st.binary(min_size=16, max_size=16)
times_ms = st.integers(0, 2**64 - 1)
cells = st.builds(Cell, st.sampled_from(Kind).map(int), grants, times_ms, times_ms, grants, st.binary())


@settings(deadline=None)
@given(cells)
def test_a_cell_comes_back_from_its_bytes(cell):
    assert parse_cell(format_cell(cell)) == cell


@settings(deadline=None)
@given(st.binary(max_size=120) | st.binary(max_size=120).map(bytes([MAGIC]).__add__))
@example(b"")
@example(bytes([MAGIC, 3]) + bytes(48))
@example(bytes([MAGIC - 1, 1]) + bytes(48))
@example(bytes([MAGIC, 1]) + bytes(47))
def test_any_bytes_are_a_cell_that_says_exactly_them_or_foreign(raw):
    """S12."""
    parsed = parse_cell(raw)
    if parsed == FOREIGN:
        assert len(raw) < HEADER_BYTES or raw[0] != MAGIC or raw[1] > Kind.HOLD
    else:
        assert format_cell(parsed) == raw


def test_the_layout_is_the_one_that_the_lua_texts_edit_in_place():
    cell = Cell(Kind.VALUE, b"G" * 16, 0x1111, 0x2222, b"F" * 16, b"body")
    raw = format_cell(cell)
    assert raw[0] == 0xC5
    assert raw[1] == 1
    assert raw[2:18] == b"G" * 16
    assert int.from_bytes(raw[18:26], "big") == 0x1111
    assert int.from_bytes(raw[26:34], "big") == 0x2222
    assert raw[34:50] == b"F" * 16
    assert raw[50:] == b"body"
    assert HEADER_BYTES == 50


def test_a_grant_is_the_clients_nonce_and_the_servers_microseconds():
    grant = make_grant(b"12345678", 2**40 + 7)
    assert len(grant) == 16
    assert grant[:8] == b"12345678"
    assert int.from_bytes(grant[8:], "big") == 2**40 + 7


@pytest.mark.parametrize(
    ("grant", "lease_id", "is_ours"),
    [
        (b"nonce--1" + b"moment-1", b"nonce--1" + b"moment-1", True),
        (b"nonce--1" + b"moment-1", b"nonce--1", True),
        (b"nonce--1" + b"moment-1", b"nonce--1" + b"moment-2", False),
        (b"nonce--1" + b"moment-1", b"nonce--2", False),
        (NO_GRANT, bytes(8), False),
        (NO_GRANT, NO_GRANT, False),
    ],
)
def test_a_lease_is_claimed_by_its_grant_or_by_its_nonce_and_nobodys_by_none(grant, lease_id, is_ours):
    """S5."""
    assert is_granted_to(grant, lease_id) is is_ours


def test_a_grant_says_when_it_was_issued_whatever_its_place_among_others():
    """S3: those that one step issues have the same nonce and the same moment."""
    alone = make_grant(b"nonce---", 1_700_000_000_123_456)
    third = alone[:8] + b"\3" + alone[9:]
    assert grant_us(alone) == grant_us(third) == 1_700_000_000_123_456
    assert third != alone
    assert issued_cell(Kind.HOLD, third, 5_000) == Cell(Kind.HOLD, third, 1_700_000_005_123)
