"""Announced lengths: a value that is too long is found out while it begins to come in."""

import tracemalloc

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_cache_redis.connections.announced import BULK_BYTES, AnnouncedLengths

LONGEST = 1000


def bulk(length):
    return b"$%d\r\n%s\r\n" % (length, b"x" * length)


FILLING = bulk(LONGEST) * (BULK_BYTES // LONGEST + 1)
"""More than is looked through for nothing."""


@pytest.mark.parametrize("kind", [b"$", b"=", b"!"])
def test_a_value_that_announces_too_much_is_found(kind):
    announced = AnnouncedLengths(LONGEST)
    assert not announced.is_too_long(FILLING)
    assert announced.is_too_long(kind + b"1001\r\nxx")


def test_what_is_not_much_is_not_looked_through():
    announced = AnnouncedLengths(LONGEST)
    assert not announced.is_too_long(b"$1001\r\nxx")
    assert announced.is_too_long(b"x" * BULK_BYTES)


def test_whole_replies_are_forgotten():
    announced = AnnouncedLengths(LONGEST)
    announced.is_too_long(FILLING + b"$1000\r\nxx")
    announced.begin()
    assert not announced.is_too_long(FILLING)


def test_a_line_without_an_end_is_no_reply():
    announced = AnnouncedLengths(LONGEST)
    assert announced.is_too_long(b"+" + b"x" * BULK_BYTES)


def test_nothing_is_kept_of_what_was_looked_through():
    announced = AnnouncedLengths(2**40)
    announced.is_too_long(b"$%d\r\n" % 2**35 + b"x" * BULK_BYTES)
    data = bytes(2**20)
    tracemalloc.start()
    for _ in range(20):
        assert not announced.is_too_long(memoryview(data))
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 2**20


VALUES = st.one_of(
    st.binary(max_size=40).map(lambda value: b"$%d\r\n%s\r\n" % (len(value), value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]),
)
REPLIES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: b"*%d\r\n%s" % (len(parts), b"".join(parts))),
    max_leaves=8,
)


@given(replies=st.lists(REPLIES, min_size=1, max_size=8), cuts=st.lists(st.integers(1, 30), max_size=30))
def test_replies_within_the_limit_pass_however_they_are_cut_and_the_next_giant_is_found(replies, cuts):
    """It reads as the parser does: what that finds whole announces nothing that is too long."""
    data = b"".join(replies)
    reader = hiredis.Reader()
    reader.feed(data)
    for _ in replies:
        reader.gets()
    assert not reader.has_data()
    announced = AnnouncedLengths(40)
    assert not announced.is_too_long(bulk(40) * (BULK_BYTES // 40))
    for cut in cuts:
        assert not announced.is_too_long(data[:cut])
        data = data[cut:]
    assert not announced.is_too_long(data)
    assert announced.is_too_long(b"$41\r\n")
