"""What a reply announces that has only begun to come in: found whatever came before it, in any pieces."""

import hiredis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sansio_cache_redis.connections.unfinished import UnfinishedReply, announced_bytes

NOT_ENOUGH = object()
LONGEST_BYTES = 10_000


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(parts):
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


lines = st.sampled_from([b"+OK\r\n", b":12\r\n", b"-ERR $5\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"])
sizes = st.sampled_from([0, 1, 5, 100, 1_000, 1_023, 1_030, 5_000])
bulks = sizes.map(lambda size: bulk(b"\r\n$999999999\r\n"[: size % 15] + b"x" * (size - size % 15)))
replies = st.recursive(lines | bulks, lambda inner: st.lists(inner, max_size=20).map(array), max_leaves=40)


def found_at(stream, cuts):
    """How much of a stream had come in when a value in it was found to be too long; None where none was."""
    reader = hiredis.Reader(notEnoughData=NOT_ENOUGH)
    unfinished = UnfinishedReply(reader.len, LONGEST_BYTES)
    is_unfinished = False
    begin = 0
    for end in [*cuts, len(stream)]:
        data, begin = stream[begin:end], end
        reader.feed(data)
        while reader.gets() is not NOT_ENOUGH:
            pass
        if reader.has_data():
            is_unfinished = True
            if unfinished.is_too_long(memoryview(data)):
                return end
        elif is_unfinished:
            is_unfinished = False
            unfinished.begin()
    return None


@settings(deadline=None, max_examples=200)
# The parser has consumed the kind of the value with what came in whole.
@example([b"+" + b"x" * 93 + b"\r\n"], None, 10_001, 97)
@example([b"+" + b"x" * 93 + b"\r\n"], [b"+OK\r\n"], 10_001, 97)
@example([b"+" + b"x" * 93 + b"\r\n", b"+OK\r\n"], None, 10_001, 97)
@example([b"+" + b"x" * 93 + b"\r\n", b":12\r\n"], None, 10_001, 97)
@given(
    before=st.lists(replies, max_size=8),
    inside=st.none() | st.lists(replies, max_size=4),
    size=st.sampled_from([9_000, LONGEST_BYTES, LONGEST_BYTES + 1, 10**9]),
    step=st.sampled_from([1, 97, 1_500, 16_384]),
)
def test_a_value_that_is_too_long_is_found_as_it_begins_and_no_other(before, inside, size, step):
    head = b"".join(before)
    if inside is not None:
        head += b"*%d\r\n" % (len(inside) + 2) + b"".join(inside)
    head += b"$%d\r\n" % size
    stream = head + b"x" * 8_000
    cuts = list(range(step, len(stream), step))
    found = found_at(stream, cuts)
    if size <= LONGEST_BYTES:
        assert found is None
    else:
        assert found is not None
        assert len(head) <= found <= len(head) + step


@pytest.mark.parametrize("step", [97, 16_384, 10**6])
@pytest.mark.parametrize("before", [b"", b":1\r\n", b"*3\r\n:1\r\n"])
def test_a_line_without_an_end_is_no_reply(before, step):
    stream = before + b"+" + b"x" * 100_000
    found = found_at(stream, range(step, len(stream), step))
    assert found is not None
    assert found > 65_536


@pytest.mark.parametrize("step", [97, 16_384])
def test_a_long_line_that_ends_is_one(step):
    stream = b"-ERR " + b"x" * 50_000 + b"\r\n" + bulk(b"x" * LONGEST_BYTES) * 2
    assert found_at(stream, range(step, len(stream), step)) is None


@pytest.mark.parametrize(
    ("held", "length"),
    [
        (b"", None),
        (b"$", None),
        (b"$30", None),
        (b"$300\r\n", 300),
        (b"$300\r\nabc", 300),
        (b"*2\r\n$1\r\na\r\n$7\r\nab", 7),
        (b"$-1\r\n:5\r\n$7\r\n", 7),
        (b"$x\r\n", None),
        (b"nonsense\r\n", None),
        (b"*2\r\n", None),
    ],
)
def test_the_last_value_that_is_not_whole_says_how_long_it_is(held, length):
    assert announced_bytes(held) == length
